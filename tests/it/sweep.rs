//! Who is ended with a connection, and how long that takes, where little can be seen or done: a `/proc`
//! that hides processes or belongs to others, processes of another user, a server that is stopped.
//! What the ends of a whole connection leave on an ordinary machine is in `ends.rs`.
//!
//! Much of this takes root; without it, a test says what it has not tried.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::ends::{marked, marker, must_die, must_sleep};
use crate::harness::{
    Client, HungProgram, Mode, Proc, Scratch, apply, binary, can, children_of, is_alive, kill_stray,
    processes, reap_adopted, test, wait, wait_until, without_a_usable_proc,
};
use serde_json::json;

/// An end takes three seconds at most; twice that on a busy machine.
const IN_TIME: Duration = Duration::from_secs(6);

/// The user as whom a server without privileges runs.
const NOBODY: &str = "65534";

// ---- programs of this file ----

/// The argument that makes this test binary one of them.
pub const PLAY: &str = "--play";

/// Plays one; `arguments` are those behind [`PLAY`].
pub fn play(mut arguments: impl Iterator<Item = String>) -> ! {
    match arguments.next().as_deref() {
        // Its main thread ends, and another goes on.
        Some("without-main-thread") => {
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
            // SAFETY: ends this thread alone, which holds nothing that the other one needs.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        // It may not be looked at, as ssh-agent may not.
        Some("undumpable") => {
            // SAFETY: no memory is involved.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
            loop {
                std::thread::park();
            }
        }
        _ => {}
    }
    panic!("such a role is not known");
}

/// A shell command for a program of this file, with `argument` among its arguments.
pub fn player(role: &str, argument: &str) -> String {
    let own = std::env::current_exe().expect("a running program has a file");
    let own = own.to_str().expect("the build directory is named in UTF-8");
    format!("'{own}' {PLAY} {role} {argument}")
}

// ---- a server in odd surroundings ----

/// A server and what it says on stderr.
struct Server {
    client: Client,
    log: String,
    _scratch: Scratch,
}

impl Server {
    /// `wrapper` is a shell script that runs the server as `"$@"`.
    fn start(wrapper: &str) -> Server {
        let mut command = Command::new("sh");
        command.args(["-c", wrapper, "sh"]).arg(binary().get_program());
        Server::command(command)
    }

    fn command(mut command: Command) -> Server {
        let scratch = Scratch::new();
        let log = scratch.path("log");
        // However this test was started, a hang-up is one.
        command
            .process_group(0)
            .stderr(File::create(&log).expect("it is written"));
        let mut client = Client::command(command);
        client.call("process/list", json!({}));
        Server {
            client,
            log,
            _scratch: scratch,
        }
    }

    fn spawn(&mut self, handle: &str, script: &str) -> u32 {
        self.spawn_with(handle, script, json!({}))
    }

    fn spawn_with(&mut self, handle: &str, script: &str, more: serde_json::Value) -> u32 {
        let mut params = Mode::Pipe.params(handle, &["sh", "-c", script]);
        let more = more.as_object().expect("members").clone();
        params.as_object_mut().expect("members").extend(more);
        self.client.spawn_ready(params)
    }

    /// All processes of the server, the one that the client has started first.
    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.client.pid()];
        while let Some(below) = children_of(all[all.len() - 1])
            .into_iter()
            .find(|c| c.name == "procwire")
        {
            all.push(below.pid);
        }
        all
    }

    /// Ends the input and waits for the end of all its processes; what it has said, and how long it took.
    fn end(mut self) -> (String, Duration) {
        let began = Instant::now();
        self.client.end_input();
        self.gone(began)
    }

    /// The same after an end that was ordered.
    fn gone(self, began: Instant) -> (String, Duration) {
        let all = self.processes();
        self.client.finish_anyhow();
        wait_until("guard and server are gone", || {
            !all.iter().any(|&pid| is_alive(pid))
        });
        let took = began.elapsed();
        reap_adopted();
        (std::fs::read_to_string(&self.log).expect("it is there"), took)
    }
}

fn send(pid: u32, signal: i32) {
    // SAFETY: no memory is involved; the process is one that this test has started, and not reaped.
    let result = unsafe { libc::kill(pid as libc::pid_t, signal) };
    assert_eq!(result, 0, "{pid} is there to be signalled");
}

/// Ends what the server was not to end.
fn clean_up(marker: &str) {
    for (pid, _) in marked(marker) {
        kill_stray(pid);
    }
    must_die(marker, "its cleaning up");
    wait_until("it is reaped", || {
        reap_adopted();
        children_of(std::process::id()).is_empty()
    });
}

// ---- what is alive ----

/// `/proc/PID/stat` says of it what it says of the dead.
#[apply(test)]
fn process_without_a_main_thread_is_ended() {
    for end in ["kill", "timeout", "input", "server"] {
        let mut server = Server::start("exec \"$@\"");
        let marker = marker();
        let player = player("without-main-thread", &format!("1000.{marker}"));
        // Below a living parent; as the program itself; as a daemon.
        let script = format!("setsid {player} & sleep 1001.{marker} & echo ready; wait");
        let timeout = if end == "timeout" {
            json!(3_000)
        } else {
            json!(null)
        };
        server.spawn_with("below", &script, json!({"timeoutMs": timeout}));
        server.spawn_with(
            "itself",
            &format!("echo ready; exec {player}"),
            json!({"timeoutMs": timeout}),
        );
        wait_until("both main threads have ended", || {
            let of_ours = |p: &Proc| String::from_utf8_lossy(&p.arguments()).contains(&marker);
            processes()
                .iter()
                .filter(|p| p.state == "Z" && of_ours(p))
                .count()
                == 2
        });
        must_sleep(&marker, 1);
        match end {
            "kill" | "timeout" => {
                for handle in ["below", "itself"] {
                    if end == "kill" {
                        server.client.kill(handle);
                    }
                    assert_eq!(server.client.exited(handle)["signal"], "SIGKILL", "{end}");
                }
                assert_eq!(marked(&marker), [], "alive after the {end}");
                server.end();
            }
            "input" => assert!(server.end().1 < IN_TIME),
            _ => {
                send(server.processes()[1], libc::SIGKILL);
                assert!(server.gone(Instant::now()).1 < IN_TIME);
            }
        }
        must_die(&marker, end);
    }
}

// ---- what can be seen ----

#[apply(test)]
fn what_proc_hides_is_ended_with_the_connection() {
    let enter = "mount -t proc -o hidepid=2 proc /proc && \
                 exec setpriv --reuid=65534 --regid=65534 --clear-groups";
    let own = binary().get_program().to_str().expect("UTF-8").to_owned();
    if !can("hidepid", &format!("unshare -m sh -c '{enter} {own} --version'")) {
        return;
    }
    for hidepid in [1, 2] {
        for end in ["input", "guard", "server"] {
            let enter = enter.replace("hidepid=2", &format!("hidepid={hidepid}"));
            let mut server = Server::start(&format!("exec unshare -m sh -c '{enter} \"$@\"' sh \"$@\""));
            let (kept, marker) = (marker(), marker());
            let hidden = |number: u32, marker: &str| player("undumpable", &format!("{number}.{marker}"));
            let script = format!(
                "({} &); setsid {} & sleep 1002.{marker} & echo ready; wait",
                format_args!("setsid {}", hidden(1000, &marker)),
                hidden(1001, &marker),
            );
            server.spawn("a", &script);
            // Itself hidden, and below one that is not.
            server.spawn_with(
                "b",
                &format!("echo ready; exec {}", hidden(1000, &kept)),
                json!({"detach": true}),
            );
            let script = format!("echo ready; {} & wait", hidden(1001, &kept));
            server.spawn_with("c", &script, json!({"detach": true}));
            let is_hidden = |&(pid, ref arguments): &(u32, String)| {
                arguments.contains("undumpable")
                    && !arguments.starts_with("sh ")
                    && std::fs::metadata(format!("/proc/{pid}/environ")).is_ok_and(|m| m.uid() == 0)
            };
            wait_until("all hide", || {
                [&marker, &kept]
                    .iter()
                    .all(|m| marked(m).iter().filter(|p| is_hidden(p)).count() == 2)
            });
            must_sleep(&marker, 1);
            let before = marked(&kept);
            server.client.kill("a");
            server.client.exited("a");
            let left = marked(&marker);
            assert_eq!(left.len(), 1, "only the daemon outlives the kill: {left:?}");
            assert!(left[0].1.contains("1000."), "{left:?}");
            let all = server.processes();
            let (log, took) = match end {
                "input" => server.end(),
                "guard" => {
                    send(all[0], libc::SIGKILL);
                    server.gone(Instant::now())
                }
                _ => {
                    send(all[1], libc::SIGKILL);
                    server.gone(Instant::now())
                }
            };
            must_die(&marker, end);
            assert!(
                took < IN_TIME,
                "hidepid={hidepid}: the end by {end} took {took:?}"
            );
            assert!(!log.contains("left"), "{log}");
            assert_eq!(marked(&kept), before, "what was detached lives on");
            clean_up(&kept);
        }
    }
}

/// The shell that is the first process of the namespace goes on until it is let go, so that what is
/// left can be seen: the end of the namespace ends all in it.
#[apply(test)]
fn in_an_inner_namespace_with_the_outer_proc_only_its_own_are_ended() {
    if !can("an outer /proc", "unshare --pid --fork true") {
        return;
    }
    for end in ["input", "guard", "server"] {
        let scratch = Scratch::new();
        let (over, go) = (scratch.path("over"), scratch.path("go"));
        let (stranger, marker) = (marker(), marker());
        let script = format!(
            "for i in 1 2 3 4 5 6 7 8; do sleep 100$i.{stranger} & done; \"$@\"; exec <&- >&-; \
             mkfifo {go}; echo over >{over}; read x <{go}; kill $(jobs -p)"
        );
        let mut server = Server::start(&format!("exec unshare --pid --fork sh -c '{script}' sh \"$@\""));
        let script = format!(
            "(setsid sleep 1000.{marker} &); setsid sleep 1001.{marker} & sleep 1002.{marker} & echo ready; wait"
        );
        server.spawn("a", &script);
        server.spawn("b", &script);
        must_sleep(&stranger, 8);
        must_sleep(&marker, 6);
        server.client.kill("a");
        server.client.exited("a");
        let daemons: Vec<_> = marked(&marker)
            .into_iter()
            .filter(|p| p.1.starts_with("sleep 1000."))
            .collect();
        assert_eq!(daemons.len(), 2, "the daemons outlive the kill");
        // Those of "b" as well: its shell has the number among its own arguments.
        assert_eq!(marked(&marker).len(), 2 + 3, "{:?}", marked(&marker));
        let shell = children_of(server.client.pid())[0].pid;
        let guard = children_of(shell)
            .into_iter()
            .find(|c| c.name == "procwire")
            .expect("a guard")
            .pid;
        let below = children_of(guard)[0].pid;
        let began = Instant::now();
        match end {
            "input" => server.client.end_input(),
            "guard" => send(guard, libc::SIGKILL),
            _ => send(below, libc::SIGKILL),
        }
        wait_until("guard and server are gone", || {
            !is_alive(guard) && !is_alive(below)
        });
        let took = began.elapsed();
        must_die(&marker, end);
        assert!(took < IN_TIME, "the end by {end} took {took:?}");
        assert_eq!(
            marked(&stranger)
                .iter()
                .filter(|p| p.1.starts_with("sleep"))
                .count(),
            8
        );
        wait_until("the shell waits", || std::path::Path::new(&over).exists());
        OpenOptions::new()
            .write(true)
            .open(&go)
            .and_then(|mut go| go.write_all(b"\n"))
            .expect("it reads");
        server.client.finish_anyhow();
        must_die(&stranger, "the end of the namespace");
    }
}

#[apply(test)]
fn without_a_usable_proc_its_own_are_ended_and_the_detached_are_spared() {
    let scratch = Scratch::new();
    for (what, hide) in without_a_usable_proc(&scratch) {
        for end in ["input", "server"] {
            let mut server = Server::start(&format!("exec unshare -m sh -c '{hide}; exec \"$@\"' sh \"$@\""));
            let (kept, marker) = (marker(), marker());
            let script = format!(
                "(setsid sleep 1000.{marker} &); setsid sleep 1001.{marker} & \
                 sleep 1002.{marker} & echo ready; wait"
            );
            server.spawn("a", &script);
            let script = format!("sleep 1000.{kept} & sleep 1001.{kept} & echo ready; wait");
            server.spawn_with("b", &script, json!({"detach": true}));
            must_sleep(&marker, 3);
            must_sleep(&kept, 2);
            let before = marked(&kept);
            let all = server.processes();
            let (log, took) = match end {
                "input" => server.end(),
                _ => {
                    send(all[1], libc::SIGKILL);
                    server.gone(Instant::now())
                }
            };
            must_die(&marker, &format!("{what}: {end}"));
            assert!(took < IN_TIME, "{what}: the end by {end} took {took:?}");
            assert!(
                log.contains("/proc") && log.contains("may outlive a kill"),
                "{what} is told: {log:?}"
            );
            assert_eq!(marked(&kept), before, "{what}: what was detached lives on");
            clean_up(&kept);
        }
    }
}

/// Lets `getdents64` fail in the program and all that it starts, as a sandbox may.
fn refuse_to_list(command: &mut Command) {
    let filter = [
        // The number of the system call; is it this one; then an error, otherwise go on.
        libc::sock_filter {
            code: 0x20,
            jt: 0,
            jf: 0,
            k: 0,
        },
        libc::sock_filter {
            code: 0x15,
            jt: 0,
            jf: 1,
            k: libc::SYS_getdents64 as u32,
        },
        libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        },
        libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ALLOW,
        },
    ];
    // SAFETY: two system calls between fork and exec, with memory that lives until then.
    unsafe {
        command.pre_exec(move || {
            let mut filter = filter;
            let program = libc::sock_fprog {
                len: filter.len() as libc::c_ushort,
                filter: filter.as_mut_ptr(),
            };
            let none: libc::c_ulong = 0;
            let set = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, none, none, none) == 0
                && libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                ) == 0;
            if set {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
}

#[apply(test)]
fn where_nothing_can_be_listed_its_own_are_ended() {
    for end in ["input", "server"] {
        let mut command = binary();
        refuse_to_list(&mut command);
        let mut server = Server::command(command);
        let (kept, marker) = (marker(), marker());
        let script = format!(
            "(setsid sleep 1000.{marker} &); setsid sleep 1001.{marker} & sleep 1002.{marker} & echo ready; wait"
        );
        server.spawn("a", &script);
        let script = format!("setsid sleep 1000.{kept} & sleep 1001.{kept} & echo ready; wait");
        server.spawn_with("b", &script, json!({"detach": true}));
        must_sleep(&marker, 3);
        must_sleep(&kept, 2);
        let before = marked(&kept);
        server.client.kill("a");
        server.client.exited("a");
        let left = marked(&marker);
        let all = server.processes();
        let (log, took) = match end {
            "input" => server.end(),
            _ => {
                send(all[1], libc::SIGKILL);
                server.gone(Instant::now())
            }
        };
        assert!(log.contains("may outlive a kill"), "it is told: {log:?}");
        let children = format!("/proc/self/task/{}/children", std::process::id());
        match std::path::Path::new(&children).exists() {
            true => assert_eq!(left.len(), 1, "only the daemon outlives the kill: {left:?}"),
            false => println!("not tried: this kernel does not tell the children of a thread"),
        }
        must_die(&marker, end);
        assert!(took < IN_TIME, "the end by {end} took {took:?}");
        assert_eq!(marked(&kept), before, "what was detached lives on");
        clean_up(&kept);
    }
}

// ---- who may be ended ----

/// A shell that starts something and then becomes the server has the same pid, and so the children of
/// that shell are the server's.
#[apply(test)]
fn what_a_wrapper_has_started_before_is_spared() {
    for end in ["input", "wrapper", "guard", "server"] {
        let (kept, marker) = (marker(), marker());
        let wrapper = format!("(setsid sleep 1000.{kept} & sleep 1001.{kept} & wait) <&- >&- & exec \"$@\"");
        let mut server = Server::start(&wrapper);
        let script = format!(
            "(setsid sleep 1000.{marker} &); setsid sleep 1001.{marker} & sleep 1002.{marker} & echo ready; wait"
        );
        server.spawn("a", &script);
        must_sleep(&kept, 2);
        must_sleep(&marker, 3);
        let before = marked(&kept);
        let all = server.processes();
        assert_eq!(all.len(), 3, "the shell's pid, a guard, a server: {all:?}");
        let began = Instant::now();
        let (log, took) = match end {
            "input" => server.end(),
            "wrapper" => {
                send(all[0], libc::SIGKILL);
                server.gone(began)
            }
            "guard" => {
                send(all[1], libc::SIGKILL);
                server.gone(began)
            }
            _ => {
                send(all[2], libc::SIGKILL);
                server.gone(began)
            }
        };
        must_die(&marker, end);
        assert!(took < IN_TIME, "the end by {end} took {took:?}: {log}");
        assert_eq!(marked(&kept), before, "after the end by {end}");
        clean_up(&kept);
    }
    // Its exit code is the server's.
    let mut command = Command::new("sh");
    command
        .args(["-c", "sleep 1000 <&- >&- & exec \"$@\"", "sh"])
        .arg(binary().get_program());
    let server = Server::command(command);
    let all = server.processes();
    let strays: Vec<u32> = children_of(all[0])
        .into_iter()
        .filter(|c| c.pid != all[1])
        .map(|c| c.pid)
        .collect();
    assert_eq!(strays.len(), 1);
    send(all[0], libc::SIGTERM);
    let (_, status) = server.client.finish_anyhow();
    assert_eq!(status.and_then(|s| s.code()), Some(143));
    for stray in strays {
        kill_stray(stray);
        wait_until("it is reaped", || {
            reap_adopted();
            Proc::of(stray).is_none()
        });
    }
}

/// A session that differs is followed by a sweep of what its server has left.
#[apply(test)]
fn what_was_there_before_a_check_is_spared() {
    let scratch = Scratch::new();
    let session = "--> {\"id\":1,\"method\":\"process/list\"}\n<-- {\"id\":1,\"result\":{}}\n";
    let session = scratch.file("session", 0o644, session);
    let (kept, lost) = (marker(), marker());
    // In a file, so that no other process has its number among its arguments.
    let leaving = format!("#!/bin/sh\n(setsid sleep 1000.{lost} >&- 2>&- &)\nexec cat\n");
    let leaving = scratch.file("server", 0o755, leaving);
    let wrapper = format!("(sleep 1000.{kept} & sleep 1001.{kept} & wait) <&- >&- 2>&- & exec \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &wrapper, "sh"]).arg(binary().get_program());
    command.args(["check", "--deadline", "2s", "--server", &leaving, &session]);
    let output = command.output().expect("sh is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    must_die(&lost, "the check");
    must_sleep(&kept, 2);
    clean_up(&kept);
}

/// As in a container without an init: it has the pid 1, and the end of it is the end of all others.
#[apply(test)]
fn first_process_of_a_namespace_ends_as_any_other() {
    if !can(
        "the first process of a namespace",
        "unshare --pid --fork --mount-proc true",
    ) {
        return;
    }
    for (end, code) in [("input", 0), ("term", 143), ("server", 137)] {
        let mut server = Server::start("exec unshare --pid --fork --mount-proc \"$@\"");
        let marker = marker();
        let script = format!(
            "(setsid sleep 1000.{marker} &); setsid sleep 1001.{marker} & \
             sleep 1002.{marker} & echo ready; wait"
        );
        server.spawn("a", &script);
        must_sleep(&marker, 3);
        let guard = children_of(server.client.pid())[0].pid;
        let began = Instant::now();
        match end {
            "input" => server.client.end_input(),
            "term" => send(guard, libc::SIGTERM),
            _ => send(children_of(guard)[0].pid, libc::SIGKILL),
        }
        let (_, status) = server.client.finish_anyhow();
        assert_eq!(status.and_then(|s| s.code()), Some(code), "{end}");
        let took = began.elapsed();
        assert!(took < IN_TIME, "the end by {end} took {took:?}");
        must_die(&marker, end);
    }
}

/// Another user's process, as that of a `sudo`.
#[apply(test)]
fn what_cannot_be_killed_holds_the_end_up_for_seconds_only_and_is_named() {
    if !can(
        "a process of another user",
        "test $(id -u) = 0 && setpriv --version",
    ) {
        return;
    }
    let scratch = Scratch::new();
    let setpriv = std::fs::read("/usr/bin/setpriv").expect("util-linux has it there");
    let sudo = scratch.file("sudo", 0o755, setpriv);
    let drop = format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups");
    let become_root = format!("{sudo} --reuid=0 --regid=0 --clear-groups");
    if !can(
        "a process of another user",
        &format!("chmod 4755 {sudo} && {drop} {become_root} true"),
    ) {
        return;
    }
    for end in ["input", "server"] {
        let mut server = Server::start(&format!("exec {drop} \"$@\""));
        let marker = marker();
        server.spawn(
            "leader",
            &format!("echo ready; exec {become_root} sleep 1000.{marker}"),
        );
        let script = format!(
            "(setsid {become_root} sleep 1001.{marker} &); setsid {become_root} sleep 1002.{marker} & \
             sleep 1003.{marker} & echo ready; wait"
        );
        server.spawn("other", &script);
        must_sleep(&marker, 4);
        let all = server.processes();
        let (log, took) = match end {
            "input" => server.end(),
            _ => {
                send(all[1], libc::SIGKILL);
                server.gone(Instant::now())
            }
        };
        assert!(took < IN_TIME, "the end by {end} took {took:?}");
        let left = marked(&marker);
        assert_eq!(left.len(), 3, "what may be killed is: {left:?}");
        for (pid, _) in &left {
            assert!(log.contains(&format!("{pid} (sleep)")), "{pid} is named: {log:?}");
        }
        clean_up(&marker);
    }
}

#[apply(test)]
fn zombie_that_a_tracer_holds_holds_nothing_up() {
    for end in ["input", "server"] {
        let mut server = Server::start("exec \"$@\"");
        let marker = marker();
        let script = format!("(setsid sleep 1000.{marker} &); sleep 1001.{marker} & echo ready; wait");
        server.spawn("a", &script);
        must_sleep(&marker, 2);
        let daemon = marked(&marker)
            .into_iter()
            .find(|p| p.1.starts_with("sleep 1000"))
            .expect("it sleeps")
            .0;
        // SAFETY: no memory is involved; an ancestor may do so with what it has started.
        let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE, daemon, 0, 0) };
        assert_eq!(traced, 0, "it can be traced: {}", std::io::Error::last_os_error());
        let all = server.processes();
        let (log, took) = match end {
            "input" => server.end(),
            _ => {
                send(all[1], libc::SIGKILL);
                server.gone(Instant::now())
            }
        };
        must_die(&marker, end);
        assert!(took < IN_TIME, "the end by {end} took {took:?}");
        let tracer = format!("its tracer {} holds it", std::process::id());
        assert!(log.contains(&tracer), "{log:?}");
        wait_until("it is reaped", || {
            reap_adopted();
            children_of(std::process::id()).is_empty()
        });
    }
}

// ---- what guard and server survive ----

#[apply(test)]
fn limit_of_file_size_ends_neither_guard_nor_server() {
    let mut command = binary();
    command.env("RUST_LOG", "debug");
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &none) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let mut server = Server::command(command);
    let marker = marker();
    let script = format!("setsid sleep 1000.{marker} & sleep 1001.{marker} & echo ready; wait");
    server.spawn("a", &script);
    must_sleep(&marker, 2);
    // What it spawns has the signal's default all the same.
    let ignored = server.client.run(&["grep", "SigIgn", "/proc/self/status"]);
    assert_eq!(ignored["stdout"], "SigIgn:\t0000000000000000\n");
    send(server.processes()[1], libc::SIGKILL);
    let (_, status) = server.client.finish_anyhow();
    assert_eq!(status.and_then(|s| s.code()), Some(128 + libc::SIGKILL));
    must_die(&marker, "the server's end");
    assert_eq!(std::fs::read(&server.log).expect("it is there"), b"");
}

/// How the client of a stopped server lets go.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Away {
    Input,
    Output,
    Shutdown,
}

#[apply(test)]
fn stopped_server_is_ended_when_its_client_goes_away() {
    for away in [Away::Input, Away::Output, Away::Shutdown] {
        let mut command = binary();
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        if away == Away::Output {
            // Its input may end long before.
            command.arg("--drain");
        }
        match away {
            Away::Shutdown => {
                command.stdin(OwnedFd::from(theirs.try_clone().expect("a descriptor")));
                command.stdout(OwnedFd::from(theirs));
            }
            _ => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
                drop(theirs);
            }
        }
        let mut guard = command.stderr(Stdio::null()).spawn().expect("it starts");
        drop(command);
        let (mut input, mut output) = (guard.stdin.take(), guard.stdout.take());
        let marker = marker();
        let script = format!("setsid sleep 1000.{marker} & sleep 1001.{marker} & kill -STOP $PPID; wait");
        let mut request = json!({"id": 1, "method": "process/spawn", "params": {
            "processHandle": "a", "command": ["sh", "-c", script], "timeoutMs": null}});
        request["id"] = json!(1);
        match &mut input {
            Some(input) => writeln!(input, "{request}").expect("it reads"),
            None => writeln!(&ours, "{request}").expect("it reads"),
        }
        must_sleep(&marker, 2);
        let server = children_of(guard.id())[0].pid;
        wait_until("the server is stopped", || {
            Proc::of(server).is_some_and(|p| p.state == "T")
        });
        // It is not the stop that ends it.
        assert_eq!(marked(&marker).len(), 3, "{away:?}");
        let began = Instant::now();
        match away {
            Away::Input => input = None,
            Away::Output => output = None,
            Away::Shutdown => ours.shutdown(std::net::Shutdown::Write).expect("it is open"),
        }
        let status = wait(&mut guard);
        assert!(
            began.elapsed() < IN_TIME,
            "{away:?}: it took {:?}",
            began.elapsed()
        );
        assert_eq!(status.signal(), None, "{away:?}: the guard ends by itself");
        must_die(&marker, &format!("{away:?}"));
        assert!(!is_alive(server));
        drop((input, output, ours));
        reap_adopted();
    }
}

#[apply(test)]
fn stopped_server_goes_on_when_it_is_continued() {
    let mut server = Server::start("exec \"$@\"");
    let below = server.processes()[1];
    for _ in 0..3 {
        send(below, libc::SIGSTOP);
        wait_until("it is stopped", || {
            Proc::of(below).is_some_and(|p| p.state == "T")
        });
        let id = server.client.request("process/list", json!({}));
        send(below, libc::SIGCONT);
        server.client.result(id);
    }
    // One that is continued in time ends in order.
    let marker = marker();
    server.spawn(
        "a",
        &format!("sleep 1000.{marker} & sleep 1001.{marker} & echo ready; wait"),
    );
    must_sleep(&marker, 2);
    send(below, libc::SIGSTOP);
    wait_until("it is stopped", || {
        Proc::of(below).is_some_and(|p| p.state == "T")
    });
    server.client.end_input();
    send(below, libc::SIGCONT);
    assert_eq!(server.client.exited("a")["signal"], "SIGKILL");
    let (_, status) = server.client.finish_anyhow();
    assert_eq!(status.and_then(|s| s.code()), Some(0));
    must_die(&marker, "the end");
}

/// A thread in the kernel does not stop, and until all have stopped the parent is not told of it.
#[apply(test)]
fn stopped_server_whose_thread_waits_for_a_disk_is_ended_when_its_client_goes_away() {
    let scratch = Scratch::new();
    let Some(hung) = HungProgram::new(&scratch) else {
        return;
    };
    let mut server = Server::start("exec \"$@\"");
    let marker = marker();
    let script = format!("setsid sleep 1000.{marker} & sleep 1001.{marker} & echo ready; wait");
    server.spawn("a", &script);
    must_sleep(&marker, 2);
    let below = server.processes()[1];
    let hung_up = Mode::Pipe.params("hung", &[&hung.path, "1000"]);
    server.client.request("process/spawn", hung_up);
    // Of a child that is being started, the server's name and arguments are seen.
    wait_until("a thread waits for the program to run", || {
        children_of(below)
            .iter()
            .any(|child| child.name.starts_with("proc"))
    });
    send(below, libc::SIGSTOP);
    wait_until("it is stopped", || {
        Proc::of(below).is_some_and(|p| p.state == "T")
    });
    let (_, took) = server.end();
    assert!(took < IN_TIME, "it took {took:?}");
    must_die(&marker, "the client's end");
}

/// One of its programs may stop it, too; and where a wrapper has children, there is one more above it.
#[apply(test)]
fn stopped_guard_is_continued_when_the_connection_has_ended() {
    for (wrapper, above) in [
        ("exec \"$@\"", 1),
        ("sleep 1002.MARKER >/dev/null 2>&1 & exec \"$@\"", 2),
    ] {
        let (kept, marker) = (marker(), marker());
        let mut server = Server::start(&wrapper.replace("MARKER", &kept));
        let script = format!("setsid sleep 1000.{marker} & sleep 1001.{marker} & echo ready; wait");
        server.spawn("a", &script);
        must_sleep(&marker, 2);
        let all = server.processes();
        assert_eq!(all.len(), above + 1, "{all:?}");
        for &pid in &all[..above] {
            send(pid, libc::SIGSTOP);
            wait_until("it is stopped", || Proc::of(pid).is_some_and(|p| p.state == "T"));
        }
        let (_, took) = server.end();
        assert!(took < IN_TIME, "it took {took:?}");
        must_die(&marker, "the end of the input");
        clean_up(&kept);
    }
}

/// As bundles do that bring a newer C library along: the file that is executed is the loader then.
#[apply(test)]
fn starts_by_way_of_the_dynamic_loader() {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let files = maps
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(5));
    let is_loader = |file: &&str| {
        file.rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with("ld-"))
    };
    let Some(loader) = files.into_iter().find(is_loader) else {
        println!("not tried: this test is a static binary, and there is no loader");
        return;
    };
    let server = binary();
    let mut command = Command::new(loader);
    command
        .args(["--library-path", "/nowhere"])
        .arg(server.get_program())
        .arg("serve");
    let mut client = Client::command(command);
    assert_eq!(client.run(&["echo", "hi"])["stdout"], "hi\n");
    let below = children_of(client.pid());
    assert_eq!(below.len(), 1, "a guard and its server: {below:?}");
    let (_, status) = client.finish();
    assert_eq!(status.and_then(|s| s.code()), Some(0));
    let run = Command::new(loader)
        .arg(server.get_program())
        .args(["run", "--", "echo", "hi"])
        .output();
    let run = run.expect("it starts");
    assert_eq!(
        (run.stdout.as_slice(), run.stderr.as_slice()),
        (&b"hi\n"[..], &b""[..])
    );
    let scratch = Scratch::new();
    let session =
        "--> {\"id\":1,\"method\":\"process/list\"}\n<-- {\"id\":1,\"result\":{\"processes\":[]}}\n";
    let session = scratch.file("session", 0o644, session);
    let check = Command::new(loader)
        .arg(server.get_program())
        .args(["check", &session])
        .output();
    let check = check.expect("it starts");
    assert!(check.status.success(), "{check:?}");
    let lines = BufReader::new(check.stdout.as_slice()).lines().count();
    assert!(lines > 0, "{check:?}");
}
