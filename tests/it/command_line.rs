//! The command line: `run`, help, and what is not a command line at all.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Client, Mode, Scratch, apply, binary, both, children_of, is_alive, kill_stray, pattern, processes, test,
    wait, wait_until,
};

pub use crate::harness::PROCWIRE;

/// `procwire` with these arguments, and pipes.
fn start(arguments: &[&str]) -> Child {
    piped(binary().args(arguments))
}

fn piped(command: &mut Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

/// Runs it to its end without input.
pub fn procwire(arguments: &[&str]) -> Output {
    let output = binary().args(arguments).stdin(Stdio::null()).output();
    output.expect("the binary starts")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read_until(reader: &mut impl Read, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !text(&seen).contains(wanted) {
        let n = reader.read(&mut byte).expect("it can be read");
        assert_eq!(n, 1, "waited for {wanted:?} behind {:?}", text(&seen));
        seen.push(byte[0]);
    }
    text(&seen)
}

/// `procwire` in a terminal that a server has made, or in its pipes.
fn typed(mode: Mode, arguments: &[&str]) -> (Client, u32) {
    let mut client = Client::in_process();
    let command = [&[&*PROCWIRE], arguments].concat();
    let pid = client.spawn(mode.params("p", &command));
    (client, pid)
}

#[apply(both)]
fn a_program_runs_as_if_it_had_been_typed(mode: Mode) {
    let script = "echo ready; read x; echo got $x; exit 7";
    let (mut client, _) = typed(mode, &["run", "--", "sh", "-c", script]);
    client.until("p", &mode.printed("ready\n"));
    client.write("p", b"this\n");
    client.until("p", &mode.printed("got this\n"));
    assert_eq!(client.exited("p")["exitCode"], 7);
    client.finish();
}

#[apply(test)]
fn output_goes_to_the_right_stream() {
    let output = procwire(&["run", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("out\n".into(), "err\n".into())
    );

    // It comes while the program lives.
    let mut child = start(&["run", "sh", "-c", "echo now; read x; echo then"]);
    let mut stdout = child.stdout.take().expect("piped");
    read_until(&mut stdout, "now\n");
    drop(child.stdin.take());
    read_until(&mut stdout, "then\n");
    assert!(wait(&mut child).success());
}

#[apply(test)]
fn input_is_fed_to_its_end() {
    let mut child = start(&["run", "--", "cat"]);
    let sent = pattern(0, 3_000_000);
    let mut stdin = child.stdin.take().expect("piped");
    let writer = {
        let sent = sent.clone();
        thread::spawn(move || stdin.write_all(&sent))
    };
    let mut received = Vec::new();
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_to_end(&mut received).expect("it can be read");
    writer.join().expect("no panic").expect("all is taken");
    assert!(received == sent, "{} bytes came back", received.len());
    assert!(wait(&mut child).success());
}

#[apply(test)]
fn exit_codes_are_kept() {
    let scratch = Scratch::new();
    let no_program = scratch.file("data", 0o644, "no program");
    for (arguments, code) in [
        (&["run", "true"][..], 0),
        (&["run", "--", "sh", "-c", "exit 255"], 255),
        (&["run", "no-such-program"], 127),
        (&["run", "/no/such/program"], 127),
        (&["run", &no_program], 126),
        (&["run", "--tty", "--", "sh", "-c", "exit 9"], 9),
        (&["run", "--tty", "no-such-program"], 127),
    ] {
        let output = procwire(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        let refused = (125..=127).contains(&code);
        assert_eq!(
            stderr.starts_with("procwire: "),
            refused,
            "{arguments:?}: {stderr}"
        );
    }
}

#[apply(test)]
fn flags_say_how_it_runs() {
    let scratch = Scratch::new();
    let inner = scratch.directory("inner");
    let output = binary()
        .args([
            "run", "-C", "inner", "-e", "A=1=2", "--env", "B=", "-u", "C", "--",
        ])
        .args(["sh", "-c", "pwd; echo \"$A|${B-unset}|${C-unset}|$D\""])
        .env("C", "c")
        .env("D", "d")
        .current_dir(scratch.path(""))
        .output()
        .expect("the binary starts");
    assert_eq!(text(&output.stdout), format!("{inner}\n1=2||unset|d\n"));
}

#[apply(test)]
fn json_is_one_line() {
    let mut child = start(&[
        "run",
        "--json",
        "--",
        "sh",
        "-c",
        "cat; printf '\\377' >&2; exit 3",
    ]);
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"in\n").expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr), (Some(3), vec![]));
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!((&line["exitCode"], &line["stdout"]), (&json!(3), &json!("in\n")));
    assert_eq!(
        (&line["stderrBase64"], &line["stderrBytes"]),
        (&json!("/w=="), &json!(1))
    );
    // What would control a terminal is escaped, which says the same.
    let output = procwire(&["run", "--json", "--", "printf", "\u{9b}31m\u{202e}\u{7f}ü"]);
    let line = text(&output.stdout);
    assert!(line.contains("\\u009b31m\\u202e\\u007fü"), "{line}");
    let line: Value = serde_json::from_str(&line).expect("one line of JSON");
    assert_eq!(line["stdout"], "\u{9b}31m\u{202e}\u{7f}ü");
    let refused = procwire(&["run", "--json", "no-such-program"]);
    let line: Value = serde_json::from_slice(&refused.stdout).expect("one line of JSON");
    assert_eq!(line["error"]["data"]["code"], "ENOENT");
    assert_eq!(refused.status.code(), Some(127));
}

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: no memory is involved; it is a child of ours that was not waited for.
    let sent = unsafe { libc::kill(child.id() as libc::pid_t, signal) };
    assert_eq!(sent, 0, "the process is there");
}

#[apply(test)]
fn signals_are_passed_on() {
    for (number, name) in [
        (libc::SIGINT, "INT"),
        (libc::SIGTERM, "TERM"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGQUIT, "QUIT"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGUSR2, "USR2"),
    ] {
        let script = format!("trap 'echo {name}; exit 9' {name}; echo ready; while :; do read x; done");
        let mut child = start(&["run", "--", "sh", "-c", &script]);
        let mut stdout = child.stdout.take().expect("piped");
        read_until(&mut stdout, "ready\n");
        signal(&child, number);
        read_until(&mut stdout, &format!("{name}\n"));
        assert_eq!(wait(&mut child).code(), Some(9), "{name}");
    }
    // Without a trap it ends as it would have.
    let mut child = start(&["run", "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    read_until(child.stdout.as_mut().expect("piped"), "ready\n");
    signal(&child, libc::SIGINT);
    assert_eq!(wait(&mut child).signal(), Some(libc::SIGINT));
    // The sender knows.
    let mut said = String::new();
    let stderr = child.stderr.as_mut().expect("piped");
    stderr.read_to_string(&mut said).expect("text");
    assert_eq!(said, "");
}

/// The program's pid, which it prints first.
fn pid_of(child: &mut Child) -> u32 {
    let line = read_until(child.stdout.as_mut().expect("piped"), "\n");
    line.trim().parse().expect("a pid")
}

#[apply(test)]
fn asked_twice_it_ends() {
    let script = "trap '' TERM; echo $$; while :; do read x; done";
    let mut child = start(&["run", "--", "sh", "-c", script]);
    let pid = pid_of(&mut child);
    // The second may come while the first is pending, and is then the same; so it is sent until it is heard.
    let mut asked = 0;
    wait_until("it has ended", || {
        asked += 1;
        let ended = child.try_wait().expect("a child of ours").is_some();
        if !ended {
            signal(&child, libc::SIGTERM);
            thread::sleep(Duration::from_millis(10));
        }
        ended
    });
    assert!(asked > 2);
    assert_eq!(wait(&mut child).signal(), Some(libc::SIGTERM));
    wait_until("the program is gone", || !is_alive(pid));
}

#[apply(test)]
fn a_signal_ends_an_attempt_without_an_answer() {
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        let server = "trap '' HUP; echo $$ >&2; exec sleep 1000";
        let mut child = start(&["run", "--server", server, "--", "true"]);
        let line = read_until(child.stderr.as_mut().expect("piped"), "\n");
        let server: u32 = line.trim().parse().expect("a pid");
        signal(&child, number);
        assert_eq!(wait(&mut child).signal(), Some(number));
        wait_until("the server is gone", || !is_alive(server));
    }
}

#[apply(test)]
fn a_signal_ends_the_wait_for_a_server_that_stays() {
    let server = format!("{PROCWIRE}; echo $$ >&2; exec sleep 1000");
    let mut child = start(&["run", "--server", &server, "--", "sh", "-c", "exit 3"]);
    read_until(child.stderr.as_mut().expect("piped"), "\n");
    signal(&child, libc::SIGINT);
    assert_eq!(wait(&mut child).code(), Some(3));
}

#[apply(test)]
fn it_is_stopped_together_with_its_program() {
    let mut command = binary();
    command.args(["run", "--", "sh", "-c", "echo $$; exec sleep 1000"]);
    // A group whose parent is in another one: it can be let go on, so it can be stopped.
    let mut child = piped(command.process_group(0));
    let pid = pid_of(&mut child);
    let states = |wanted: &str| {
        let all = processes();
        let is = |pid| all.iter().any(|p| p.pid == pid && p.state == wanted);
        is(pid) && is(child.id())
    };
    signal(&child, libc::SIGTSTP);
    wait_until("both are stopped", || states("T"));
    signal(&child, libc::SIGCONT);
    wait_until("both go on", || states("S"));
    signal(&child, libc::SIGINT);
    assert_eq!(wait(&mut child).signal(), Some(libc::SIGINT));
}

#[apply(test)]
fn what_fails_here_is_named() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let output = binary()
        .args(["run", "--", "echo", "hi"])
        .stdout(full.expect("it is there"))
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(
        text(&output.stderr),
        "procwire: stdout: No space left on device (os error 28)\n"
    );
    // What the server refuses is said without the codes of JSON-RPC, and cannot control a terminal.
    for (server, said) in [
        (&*PROCWIRE, "no\\u{1b}[2Jsuch"),
        (
            r#"read line; id=${line#*:}; printf '%s\n' '{"id":'"${id%%,*}"',"error":{"code":-32603,"message":"\u001b]0;x\u0007\u009b31m\u202e"}}'; read end"#,
            "\\u{1b}]0;x\\u{7}\\u{9b}31m\\u{202e}",
        ),
    ] {
        let output = procwire(&["run", "--server", server, "--", "no\u{1b}[2Jsuch"]);
        let stderr = text(&output.stderr);
        assert!(stderr.contains(said) && !stderr.contains("code -32"), "{stderr}");
    }
}

#[apply(test)]
fn nothing_is_left_after_sigkill() {
    let script = "trap '' HUP TERM; echo $$; setsid sleep 1000 & exec sleep 1000";
    let mut child = start(&["run", "--", "sh", "-c", script]);
    let pid = pid_of(&mut child);
    signal(&child, libc::SIGKILL);
    wait(&mut child);
    wait_until("the program is gone", || !is_alive(pid));
    // And so is all else, which the harness checks.
}

#[apply(test)]
fn what_it_leaves_running_ends_with_it() {
    let output = procwire(&[
        "run",
        "--",
        "sh",
        "-c",
        "setsid sleep 1000 >/dev/null 2>&1 & echo $!",
    ]);
    let pid: u32 = text(&output.stdout).trim().parse().expect("a pid");
    assert!(!is_alive(pid), "it was gone before the program returned");
}

#[apply(test)]
fn a_closed_output_ends_the_program() {
    let mut child = start(&["run", "--", "yes"]);
    read_until(child.stdout.as_mut().expect("piped"), "y\n");
    drop(child.stdout.take());
    assert_eq!(wait(&mut child).signal(), Some(libc::SIGPIPE));
}

/// Far more than all buffers on the way is printed before any of it is read.
#[apply(test)]
fn a_reader_that_is_late_gets_everything() {
    let size = 30_000_000;
    let script = format!("echo begun >&2; head -c {size} /dev/zero; echo end >&2");
    let mut child = start(&["run", "--", "sh", "-c", &script]);
    let mut stderr = child.stderr.take().expect("piped");
    read_until(&mut stderr, "begun\n");
    let mut stdout = child.stdout.take().expect("piped");
    let mut buffer = vec![1; 1 << 20];
    let mut total = 0;
    loop {
        let n = stdout.read(&mut buffer).expect("it can be read");
        if n == 0 {
            break;
        }
        assert!(buffer[..n].iter().all(|b| *b == 0));
        total += n;
    }
    assert_eq!(total, size);
    read_until(&mut stderr, "end\n");
    assert!(wait(&mut child).success());
}

#[apply(test)]
fn a_terminal_in_a_terminal() {
    // It reports its own size, and whether the terminal it was typed at takes lines or every byte.
    let script = "trap 'echo interrupted; exit 5' INT; stty size; tty; echo ready; \
                  while :; do read x; stty size; stty -F $OUTER -a | grep -o -e -icanon; done";
    let typed = format!("export OUTER=$(tty); exec {PROCWIRE} run --tty -- bash -c \"$1\"");
    let mut client = Client::in_process();
    let mut params = Mode::Tty.params("p", &["bash", "-c", &typed, "bash", script]);
    params["size"] = json!({"rows": 31, "cols": 101});
    client.spawn(params);
    let seen = client.until("p", "ready\r\n");
    assert!(seen.starts_with("31 101\r\n/dev/pts/"), "{seen:?}");
    client.call(
        "process/resizePty",
        json!({"processHandle": "p", "size": {"rows": 41, "cols": 111}}),
    );
    // The news takes a way of its own.
    let mut seen = String::new();
    wait_until("the new size is there", || {
        client.write("p", b"\r");
        seen.push_str(&client.until("p", "\r\n"));
        seen.contains("41 111\r\n") && seen.contains("-icanon\r\n")
    });
    // Typed, and not a signal to the outer program.
    client.write("p", b"\x03");
    client.until("p", "interrupted\r\n");
    assert_eq!(client.exited("p")["exitCode"], 5);
    client.finish();
}

#[apply(test)]
fn a_terminal_without_one() {
    let mut child = start(&["run", "--tty", "--", "sh", "-c", "stty size; cat; echo end"]);
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"typed\n").expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let printed = text(&output.stdout);
    assert!(printed.contains("24 80\r\n"), "{printed:?}");
    assert!(printed.ends_with("typed\r\nend\r\n"), "{printed:?}");
    assert!(output.status.success());
}

/// Each way out: what `stty` says of the terminal afterwards is what it said before.
#[apply(test)]
fn the_terminal_is_restored_in_every_way_out() {
    for (way, arguments, end) in [
        ("it exits", "-- sh -c 'echo ready; read x'", "exit"),
        ("it is killed", "-- sh -c 'echo ready; kill -9 $$'", ""),
        (
            "its time is up",
            "--timeout 300ms -- sh -c 'echo ready; sleep 1000'",
            "",
        ),
        ("it is nothing", "-- no-such-program; echo ready", ""),
        ("the signal", "-- sh -c 'echo ready; exec sleep 1000'", "TERM"),
        (
            "asked twice",
            "-- sh -c 'trap \"\" HUP; echo ready; while :; do sleep 1; done'",
            "HUP",
        ),
        (
            "the server is lost",
            "-- sh -c 'echo ready; exec sleep 1000'",
            "server",
        ),
    ] {
        let script = format!(
            "before=$(stty -g); {PROCWIRE} run --tty {arguments}; \
             after=$(stty -g); [ \"$before\" = \"$after\" ] && echo restored || echo \"raw: $after\""
        );
        let mut client = Client::in_process();
        let shell = client.spawn(Mode::Tty.params("p", &["bash", "-c", &script]));
        let mut seen = client.until("p", "ready\r\n");
        let run = || {
            children_of(shell)
                .into_iter()
                .find(|p| p.name.starts_with("procwire"))
        };
        match end {
            "" => {}
            "exit" => {
                client.write("p", b"\r");
            }
            "server" => {
                // The guard is a child of the command, and the server one of the guard.
                let run = run().expect("the command runs");
                for guard in children_of(run.pid) {
                    for server in children_of(guard.pid) {
                        kill_stray(server.pid);
                    }
                }
            }
            name => {
                let number = if name == "TERM" {
                    libc::SIGTERM
                } else {
                    libc::SIGHUP
                };
                wait_until("the command has ended", || {
                    let Some(run) = run().filter(|p| !p.is_dead()) else {
                        return true;
                    };
                    // SAFETY: no memory is involved; it is a descendant of this test's own process.
                    unsafe { libc::kill(run.pid as libc::pid_t, number) };
                    thread::sleep(Duration::from_millis(10));
                    false
                });
            }
        }
        while !seen.contains("restored\r\n") && !seen.contains("raw: ") {
            seen.push_str(&text(&client.delta("p").0));
        }
        assert!(seen.contains("restored\r\n"), "{way}: {seen:?}");
        client.exited("p");
        client.finish();
    }
}

#[apply(test)]
fn any_command_can_be_the_server() {
    let server = format!("{PROCWIRE} serve --default-timeout-ms 50");
    let output = procwire(&["run", "--server", &server, "--", "sh", "-c", "echo out; exit 3"]);
    assert_eq!(
        (text(&output.stdout), output.status.code()),
        ("out\n".into(), Some(3))
    );
    // The quoting is the shell's.
    let quoted = format!("env 'A=x  y' {PROCWIRE}");
    let output = procwire(&["run", "-s", &quoted, "--", "sh", "-c", "echo \"$A\""]);
    assert_eq!(text(&output.stdout), "x  y\n");

    for (server, why) in [
        ("exit 3", "exit status: 3"),
        ("no-such-server-program", "127"),
        ("echo Welcome; exec sleep 1000", "Welcome"),
    ] {
        let output = procwire(&["run", "--server", server, "--", "true"]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{stderr}");
        assert!(stderr.contains(why), "{server:?}: {stderr}");
    }
}

/// What the types say of the protocol is what the help lists, nested members left out.
#[apply(test)]
fn help_names_every_method_and_every_param() {
    let help = procwire(&["--help"]);
    let help = String::from_utf8(help.stdout).expect("the help is UTF-8");
    let document: Value = serde_json::from_slice(&procwire(&["schema", "--openrpc"]).stdout).expect("JSON");
    let words: Vec<&str> = help.split(|c: char| !c.is_alphanumeric() && c != '/').collect();
    for method in document["methods"].as_array().expect("methods") {
        let name = method["name"].as_str().expect("a name");
        if !name.starts_with("process/") {
            continue;
        }
        assert!(words.contains(&name), "the help does not name {name}");
        for param in method["params"].as_array().expect("params") {
            let param = param["name"].as_str().expect("a name");
            assert!(words.contains(&param), "the help does not name {param} of {name}");
        }
    }
}

#[apply(test)]
fn help_teaches_and_mistakes_exit_with_2() {
    for (arguments, wanted) in [
        (&["--help"][..], "procwire run -- echo hi"),
        (&["help"], "procwire run -- echo hi"),
        (&["serve", "-h"], "process/writeStdin"),
        (&["run", "--help"], "--unset NAME"),
        (&["help", "run"], "--unset NAME"),
        (&["check", "-h"], "--junit FILE"),
        (&["schema", "-h"], "--openrpc"),
        (&["completions", "--help"], "fish"),
        (&["help", "-h"], "[COMMAND]"),
        (&["--version"], "procwire "),
        (&["run", "--version"], "procwire "),
        (&["check", "-V"], "procwire "),
    ] {
        let output = procwire(arguments);
        let printed = text(&output.stdout);
        assert!(printed.contains(wanted), "{arguments:?}");
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(0), String::new())
        );
        let longest = printed.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(80), "{arguments:?}: {longest:?} columns");
    }
    for (arguments, wanted) in [
        (&["fly"][..], "unknown command 'fly'\n"),
        (&["rnu"], "did you mean 'run'?"),
        (&["help", "fly"], "unknown command 'fly'\n"),
        (&["--fly"], "unknown flag '--fly'\n"),
        (&["run"], "missing PROGRAM: procwire run"),
        (&["run", ""], "PROGRAM must not be empty"),
        (
            &["run", "--timeout", "soon", "true"],
            "--timeout 'soon': expected a duration: 500ms",
        ),
        (&["run", "--fly"], "procwire run --help"),
        (&["run", "--env", "A", "true"], "--env 'A': expected NAME=VALUE"),
        (
            &["run", "-e", "=x", "true"],
            "-e '=x': expected NAME=VALUE, but NAME is empty",
        ),
        (
            &["run", "-C", "/no/such", "true"],
            "--cwd '/no/such': the directory does not exist",
        ),
        (&["run", "--cwd", "", "true"], "--cwd '': must not be empty"),
        (&["check"], "missing FILE"),
        (&["completions", "csh"], "'csh': expected bash, zsh or fish"),
        (&["completions"], "bash"),
        (
            &["--max-pending-stdin", "many"],
            "--max-pending-stdin 'many': expected a number of bytes",
        ),
        (&["\u{1b}[2J"], "'\\u{1b}[2J'"),
    ] {
        let output = procwire(arguments);
        let stderr = text(&output.stderr);
        assert!(stderr.contains(wanted), "{arguments:?}: {stderr}");
        assert!(
            stderr.starts_with("procwire: ") && stderr.contains("\nTry 'procwire"),
            "{stderr}"
        );
        assert_eq!((output.status.code(), output.stdout), (Some(2), vec![]));
    }
    // Neither is text.
    for arguments in [&["run", "echo"][..], &["completions"], &[]] {
        use std::os::unix::ffi::OsStrExt;
        let mut command = binary();
        command.args(arguments).arg(std::ffi::OsStr::from_bytes(b"a\xff"));
        let output = command.stdin(Stdio::null()).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[apply(test)]
fn a_closed_pipe_ends_it_without_a_word() {
    for arguments in [&["--help"][..], &["schema"], &["completions", "zsh"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = binary().args(arguments).stdout(writer).output();
        let output = output.expect("the binary starts");
        assert_eq!(output.status.signal(), Some(libc::SIGPIPE), "{arguments:?}");
        assert_eq!(text(&output.stderr), "");
    }
}

/// Alone at a terminal it says what it waits for; a program that asks for the protocol hears nothing else.
#[apply(test)]
fn typed_alone_it_says_what_it_waits_for() {
    let mut client = Client::in_process();
    client.spawn(Mode::Tty.params("p", &[&PROCWIRE]));
    client.until(
        "p",
        "waiting for JSON-RPC lines on stdin; try 'procwire --help'\r\n",
    );
    client.write("p", b"\x04");
    assert_eq!(client.exited("p")["exitCode"], 0);
    client.finish();
    let output = procwire(&[]);
    assert_eq!(
        (output.status.code(), output.stdout, text(&output.stderr)),
        (Some(0), vec![], String::new())
    );
}
