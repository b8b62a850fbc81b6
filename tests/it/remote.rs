//! Beyond one machine: a server behind a real OpenSSH, and one that was linked statically, in an
//! empty root.
//!
//! Each test starts an sshd of its own on the loopback, as the user who runs it, with keys and
//! configuration in a directory that goes with the test. Where there is no sshd these tests are
//! ignored, unless `PROCWIRE_REQUIRE_SSHD` says that there must be one. The static binary is the
//! one that `PROCWIRE_STATIC` names; without it its test is ignored.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use procwire::client;
use serde_json::{Value, json};

use crate::harness::{
    Client, Mode, PROCWIRE, Scratch, apply, binary, children_of, decoded, is_alive, test, wait, wait_until,
};

/// As the distributions install it; it insists on being called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";
const REQUIRE_SSHD: &str = "PROCWIRE_REQUIRE_SSHD";
const STATIC: &str = "PROCWIRE_STATIC";

/// What a test of this file would need and has not; `None` for all other tests.
pub fn missing(test: &str) -> Option<&'static str> {
    let name = test.strip_prefix("remote::")?;
    if name == "a_static_binary_serves_in_an_empty_root" {
        return std::env::var_os(STATIC)
            .is_none()
            .then_some("needs PROCWIRE_STATIC");
    }
    let there = Path::new(SSHD).exists() || std::env::var_os(REQUIRE_SSHD).is_some();
    (!there).then_some("needs openssh-server")
}

/// An sshd on the loopback, for one test.
struct Sshd {
    child: Child,
    scratch: Scratch,
}

impl Sshd {
    fn start() -> Sshd {
        let scratch = Scratch::new();
        for key in ["host", "user"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &scratch.path(key)]));
        }
        // SAFETY: asks for a number.
        if unsafe { libc::geteuid() } == 0 {
            // What a service would make before it starts one.
            std::fs::create_dir_all("/run/sshd").expect("root can make it");
        }
        let public = std::fs::read_to_string(scratch.path("user.pub")).expect("ssh-keygen wrote it");
        let authorized = scratch.file("authorized", 0o600, public);
        let port = free_port();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {authorized}\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n",
            scratch.path("host"),
        );
        let config = scratch.file("sshd_config", 0o600, config);
        let host = std::fs::read_to_string(scratch.path("host.pub")).expect("ssh-keygen wrote it");
        let known = scratch.file("known_hosts", 0o600, format!("[127.0.0.1]:{port} {host}"));
        let user = Command::new("id").arg("-un").output().expect("id is everywhere");
        let user = String::from_utf8(user.stdout).expect("a name is ASCII");
        scratch.file(
            "ssh_config",
            0o600,
            format!(
                "Host box\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  IdentityFile {}\n\
                 \x20 IdentitiesOnly yes\n  UserKnownHostsFile {known}\n  GlobalKnownHostsFile none\n\
                 \x20 StrictHostKeyChecking yes\n  BatchMode yes\n  LogLevel ERROR\n",
                scratch.path("user"),
            ),
        );
        let log = scratch.path("log");
        let child = Command::new(SSHD)
            .args(["-D", "-f", &config, "-E", &log])
            .stdin(Stdio::null())
            .spawn()
            .expect("sshd is there: install openssh-server");
        let mut sshd = Sshd { child, scratch };
        let listens = format!("Server listening on 127.0.0.1 port {port}.");
        wait_until("sshd listens", || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let ended = sshd.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "sshd ended with {ended:?}: {log}");
            log.contains(&listens)
        });
        sshd
    }

    /// What a person would have typed, but for where the keys are.
    fn ssh(&self) -> String {
        format!("ssh -F '{}' box", self.scratch.path("ssh_config"))
    }

    /// The command that leads to a server.
    fn server(&self) -> String {
        format!("{} '{PROCWIRE}'", self.ssh())
    }

    /// The process of sshd that serves a session, as the user.
    fn session(&self) -> u32 {
        let mut pid = self.child.id();
        // The one with all rights comes first, unless there is only one user.
        while let Some(child) = children_of(pid).into_iter().find(|p| p.name.starts_with("sshd")) {
            pid = child.pid;
        }
        assert_ne!(pid, self.child.id(), "there is a session");
        pid
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // A session outlives the sshd that took it, for a moment.
        let sessions = children_of(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            wait_until("the sessions of sshd have ended", || {
                sessions.iter().all(|p| !is_alive(p.pid))
            });
        }
    }
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// One without a listener; sshd takes no listener from its parent.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has ports");
    listener.local_addr().expect("it is bound").port()
}

#[apply(test)]
fn a_program_over_ssh_is_as_if_it_ran_here() {
    let sshd = Sshd::start();
    let script = "cat; echo err >&2; echo \"$SSH_CONNECTION\" | cut -d' ' -f1; exit 7";
    let mut child = binary()
        .args(["run", "--server", &sshd.server(), "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    // More than every buffer on the way holds.
    let input = b"line of input\n".repeat(100_000);
    let expected = [&input[..], b"127.0.0.1\n"].concat();
    let writer = std::thread::spawn(move || stdin.write_all(&input).expect("it is read to its end"));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("it was written");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    assert!(output.stdout == expected, "{} bytes", output.stdout.len());
    assert_eq!(output.status.code(), Some(7));
}

#[apply(test)]
fn a_terminal_over_ssh_is_resized() {
    let sshd = Sshd::start();
    let script = "stty size; tty; echo ready; while read x; do stty size; done";
    let mut client = Client::in_process();
    let server = sshd.server();
    let mut params = Mode::Tty.params(
        "p",
        &[
            &PROCWIRE, "run", "--tty", "--server", &server, "--", "sh", "-c", script,
        ],
    );
    params["size"] = json!({ "rows": 31, "cols": 101 });
    client.spawn(params);
    let seen = client.until("p", "ready\r\n");
    assert!(seen.starts_with("31 101\r\n/dev/pts/"), "{seen:?}");
    client.call(
        "process/resizePty",
        json!({ "processHandle": "p", "size": { "rows": 41, "cols": 111 } }),
    );
    let mut seen = String::new();
    wait_until("the new size is over there", || {
        client.write("p", b"\r");
        seen.push_str(&client.until("p", "\r\n"));
        seen.contains("41 111\r\n")
    });
    // Typed here, and a signal over there.
    client.write("p", b"\x03");
    assert_eq!(client.exited("p")["exitCode"], 130);
    client.finish();
}

/// Starts over there what does its best to stay: the pids of a program, of its background child,
/// and of a daemon.
fn stubborn(client: &mut Client) -> Vec<u32> {
    let script = "trap '' HUP TERM INT; sleep 1000 & setsid sh -c 'trap \"\" HUP TERM INT; echo $$; exec sleep 1000' & \
                  echo $$ $!; wait";
    client.spawn(Mode::Pipe.params("s", &["sh", "-c", script]));
    let mut seen = String::new();
    while seen.split_whitespace().count() < 3 {
        seen.push_str(&client.until("s", "\n"));
    }
    let pids: Vec<u32> = seen
        .split_whitespace()
        .map(|p| p.parse().expect("a pid"))
        .collect();
    assert!(pids.iter().all(|pid| is_alive(*pid)), "{pids:?}");
    pids
}

fn over_ssh(sshd: &Sshd) -> Client {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {}", sshd.server())]);
    Client::command(command)
}

fn assert_all_gone(pids: &[u32]) {
    wait_until("all that was started over there is gone", || {
        pids.iter().all(|pid| !is_alive(*pid))
    });
}

#[apply(test)]
fn a_lost_ssh_leaves_nothing_alive() {
    let sshd = Sshd::start();
    let mut client = over_ssh(&sshd);
    let pids = stubborn(&mut client);
    // SAFETY: no memory is involved; it is the ssh this test has started.
    unsafe { libc::kill(client.pid() as libc::pid_t, libc::SIGKILL) };
    assert_all_gone(&pids);
    client.finish_anyhow();
}

#[apply(test)]
fn a_lost_session_of_sshd_leaves_nothing_alive() {
    let sshd = Sshd::start();
    let mut client = over_ssh(&sshd);
    let pids = stubborn(&mut client);
    // SAFETY: no memory is involved; it is a process of the sshd this test has started.
    unsafe { libc::kill(sshd.session() as libc::pid_t, libc::SIGKILL) };
    assert_all_gone(&pids);
    client.finish_anyhow();
}

/// Every line that sessions produce, with what differs from run to run masked. Deltas may be cut
/// anywhere, and streams of one process may overtake each other, so each stream is put together.
fn replayed(server: &str, scratch: &Scratch) -> BTreeMap<String, Vec<String>> {
    let got = scratch.path("got");
    let server = format!("{server} | tee '{got}'");
    let mut lines = BTreeMap::<String, Vec<String>>::new();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md"));
    let sessions =
        procwire::cli::transcript::parse("protocol.md", &text.expect("it is there")).expect("sessions");
    for session in sessions {
        let mut command = Command::new("sh");
        command.args(["-c", &server]);
        if let Err(difference) = session.play(&mut command, crate::harness::PATIENCE) {
            panic!("{}: {difference}", session.place);
        }
        let mut streams = BTreeMap::<String, Vec<u8>>::new();
        let printed = std::fs::read_to_string(&got).expect("tee has written it");
        for line in printed.lines() {
            let message: Value = serde_json::from_str(line).expect(line);
            let params = &message["params"];
            if message["method"] == "process/outputDelta" {
                let name = format!("{} {}", params["processHandle"], params["stream"]);
                streams.entry(name).or_default().extend(decoded(params));
            } else {
                lines.entry(session.place.clone()).or_default().push(masked(line));
            }
        }
        let streams = streams
            .into_iter()
            .map(|(name, bytes)| format!("{name} {bytes:?}"));
        lines.entry(session.place.clone()).or_default().extend(streams);
    }
    // Answers to different handles may come in any order.
    lines.values_mut().for_each(|lines| lines.sort());
    lines
}

/// A line without the numbers that no two runs share.
fn masked(line: &str) -> String {
    let mut line = line.to_owned();
    // How much a program has written that is cut off depends on when.
    let cut_off = line.contains("SIGPIPE").then_some("stdoutBytes");
    let members = [
        "pid",
        "parentPid",
        "durationMs",
        "startedAtMs",
        "userMs",
        "systemMs",
        "maxRssBytes",
        "cpuMs",
        "rssBytes",
    ];
    for member in members.into_iter().chain(cut_off) {
        let name = format!("\"{member}\":");
        let mut from = 0;
        while let Some(at) = line[from..].find(&name) {
            let start = from + at + name.len();
            let digits = line[start..].chars().take_while(char::is_ascii_digit).count();
            line.replace_range(start..start + digits, "N");
            from = start;
        }
    }
    line
}

#[apply(test)]
fn a_transcript_over_ssh_is_the_local_one() {
    let sshd = Sshd::start();
    let local = replayed(&format!("'{PROCWIRE}'"), &sshd.scratch);
    let remote = replayed(&sshd.server(), &sshd.scratch);
    assert!(local.len() >= 9, "{local:#?}");
    assert_eq!(local, remote);
}

#[apply(test)]
fn the_rust_client_works_over_ssh() {
    let sshd = Sshd::start();
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", &sshd.scratch.path("ssh_config"), "box", &PROCWIRE]);
    let client = client::Client::launch(ssh).expect("ssh starts");
    let output = client.output(client::Command::shell("echo $SSH_CONNECTION; exit 3"));
    let output = output.expect("it runs over there");
    assert!(output.stdout.starts_with(b"127.0.0.1 "), "{output:?}");
    assert_eq!(output.status.code(), Some(3));

    let mut shell = client
        .spawn(client::Command::new("sh").tty(30, 100).env("PS1", "% "))
        .expect("it runs over there");
    let mut stdin = shell.stdin.take().expect("a terminal takes input");
    stdin.write_all(b"stty size; exit 4\n").expect("it is read");
    let mut screen = String::new();
    let mut stdout = shell.stdout.take().expect("a terminal prints");
    stdout.read_to_string(&mut screen).expect("it prints UTF-8");
    assert!(screen.contains("30 100\r\n"), "{screen:?}");
    assert_eq!(shell.wait().expect("it ends").code(), Some(4));
    drop((shell, stdin, stdout));
    drop(client);
}

#[apply(test)]
fn a_static_binary_serves_in_an_empty_root() {
    let scratch = Scratch::new();
    let file = std::env::var(STATIC).expect("the environment names the static binary");
    let image = std::fs::read(&file).expect("it is there");
    let root = scratch.directory("root");
    scratch.file("root/procwire", 0o755, image);
    // SAFETY: asks for a number.
    let in_root = match unsafe { libc::geteuid() } {
        0 => Command::new("chroot"),
        _ => {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "chroot"]);
            command
        }
    };
    let program = in_root.get_program().to_owned();
    let arguments: Vec<_> = in_root.get_args().map(ToOwned::to_owned).collect();
    let enter = |more: &[&str]| {
        let mut command = Command::new(&program);
        command.args(&arguments).arg(&root).arg("/procwire").args(more);
        // Nothing that is only known outside.
        command.env_clear().env("RUST_LOG", "error");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    };

    let mut client = Client::command(enter(&[]));
    let exited = client.run(&["/procwire", "--version"]);
    let version = concat!("procwire ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(
        (&exited["exitCode"], &exited["stdout"]),
        (&json!(0), &json!(version))
    );
    // Another server below it, fed and ended as usual.
    client.spawn(Mode::Pipe.params("inner", &["/procwire"]));
    client.write("inner", b"{\"id\":1,\"method\":\"process/list\"}\n");
    client.until("inner", "{\"id\":1,\"result\":{\"processes\":[]}}\n");
    client.kill("inner");
    assert_eq!(client.exited("inner")["exitCode"], 137);
    let (code, message) = client.refuse(
        "process/spawn",
        json!({ "command": ["/procwire"], "processHandle": "t", "tty": true }),
    );
    assert_eq!(code, -32603, "there is no terminal without /dev/pts: {message}");
    let (_, status) = client.finish();
    assert_eq!(status.and_then(|s| s.code()), Some(0));

    // With its guard, which starts it a second time, and without a `/proc` to find itself in.
    let mut command = enter(&["run", "--", "/procwire", "schema"]);
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.starts_with(b"{\n"), "{output:?}");

    // Killed, it leaves nothing.
    let mut client = Client::command(enter(&[]));
    let inner = client.spawn(Mode::Pipe.params("inner", &["/procwire"]));
    // SAFETY: no memory is involved; it is the server this test has started.
    unsafe { libc::kill(client.pid() as libc::pid_t, libc::SIGTERM) };
    client.finish_anyhow();
    assert!(!is_alive(inner));
    let mut child = enter(&["--no-such-flag"])
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    assert_eq!(wait(&mut child).code(), Some(2));
}
