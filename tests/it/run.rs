//! `procwire run` beside a program that was typed: how it ends, its input, its terminal, its job.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{
    Client, Mode, PROCWIRE, Proc, Scratch, apply, binary, children_of, is_alive, kill_stray, processes, test,
    wait, wait_until,
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `procwire run` with these arguments, to its end, without input.
fn run(arguments: &[&str]) -> Output {
    let output = binary().arg("run").args(arguments).stdin(Stdio::null()).output();
    output.expect("the binary starts")
}

/// A line of the shell, in which `$PW` is `procwire run`.
fn shell(line: &str) -> Output {
    let output = Command::new("bash")
        .args(["--norc", "-c", line])
        .env("PW", format!("{PROCWIRE} run"))
        .stdin(Stdio::null())
        .output();
    output.expect("bash starts")
}

/// A terminal of a server in this process, and what was printed there.
pub struct Screen {
    client: Client,
    seen: String,
    /// What was waited for ends here.
    at: usize,
}

impl Screen {
    pub fn write(&mut self, typed: &str) {
        self.client.write("t", typed.as_bytes());
    }

    /// Changes the terminal's size.
    pub fn resize(&mut self, rows: u16, cols: u16) {
        let params = json!({"processHandle": "t", "size": {"rows": rows, "cols": cols}});
        self.client.call("process/resizePty", params);
    }

    /// Waits for this text after the last one; what was printed up to its end.
    #[track_caller]
    pub fn until(&mut self, wanted: &str) -> String {
        loop {
            if let Some(found) = self.seen[self.at..].find(wanted) {
                let from = self.at;
                self.at += found + wanted.len();
                return self.seen[from..self.at].to_owned();
            }
            self.seen.push_str(&text(&self.client.delta("t").0));
        }
    }

    /// All that is printed after that, to the end.
    pub fn ended(mut self) -> (String, Value) {
        let (stdout, _, exited) = self.client.streamed("t");
        self.client.finish();
        (self.seen[self.at..].to_owned() + &text(&stdout), exited)
    }
}

/// A terminal in which this script of bash runs; `$PW` is `procwire run`.
pub fn in_terminal(script: &str) -> (Screen, u32) {
    let mut client = Client::in_process();
    let mut params = Mode::Tty.params("t", &["bash", "--norc", "-c", script]);
    params["env"] = json!({"PW": format!("{PROCWIRE} run"), "TERM": "xterm"});
    let pid = client.spawn(params);
    (screen(client), pid)
}

fn screen(client: Client) -> Screen {
    Screen {
        client,
        seen: String::new(),
        at: 0,
    }
}

/// A terminal with an interactive shell, which has job control.
fn in_shell() -> (Screen, u32) {
    let mut client = Client::in_process();
    let mut params = Mode::Tty.params("t", &["bash", "--norc", "--noprofile", "-i"]);
    params["env"] = json!({"PS1": "> ", "HISTFILE": null, "TERM": "dumb", "PW": format!("{PROCWIRE} run")});
    let pid = client.spawn(params);
    let mut screen = screen(client);
    // What is typed is echoed, so it must not look like its answer.
    screen.write("echo re''ady\n");
    let greeting = screen.until("ready\r\n");
    assert!(!greeting.contains("job control"), "{greeting}");
    (screen, pid)
}

/// Ends such a shell.
fn leave(mut screen: Screen) {
    screen.write("exit 6\n");
    assert_eq!(screen.ended().1["exitCode"], 6);
}

fn kill(pid: u32, signal: libc::c_int) {
    // SAFETY: no memory is involved; it is a descendant of this test's own process.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

/// The `procwire run` below a process.
fn run_below(pid: u32) -> u32 {
    let mut found = None;
    wait_until("the command runs", || {
        found = children_of(pid)
            .into_iter()
            .find(|p| p.name.starts_with("procwire"));
        found.is_some()
    });
    found.expect("just found").pid
}

// ---- how it ends ----

#[apply(test)]
fn it_dies_as_its_program_died() {
    let server = format!("--server={PROCWIRE}");
    for (name, number) in [
        ("TERM", libc::SIGTERM),
        ("KILL", libc::SIGKILL),
        ("HUP", libc::SIGHUP),
        ("SEGV", libc::SIGSEGV),
        ("ABRT", libc::SIGABRT),
        ("USR1", libc::SIGUSR1),
        ("RTMIN+3", libc::SIGRTMIN() + 3),
    ] {
        let script = format!("ulimit -c 0; kill -{name} $$");
        for flags in [&[][..], &["--json"], &["--tty"], &[&server]] {
            if name.starts_with("RT") && flags == [&server] {
                continue;
            }
            let output = run(&[flags, &["--", "bash", "-c", &script]].concat());
            let stderr = text(&output.stderr);
            assert_eq!(output.status.signal(), Some(number), "{flags:?}: {stderr}");
            assert!(!output.status.core_dumped(), "{name}: the core is the program's");
            match flags {
                ["--json"] => assert_eq!(stderr, ""),
                _ => assert_eq!(stderr, format!("procwire: bash: killed by SIG{name}\n")),
            }
        }
    }
    // As a shell, quiet at what a person or a pipeline does all the time.
    for (name, number) in [("INT", libc::SIGINT), ("PIPE", libc::SIGPIPE)] {
        let output = run(&["--", "sh", "-c", &format!("kill -{name} $$")]);
        assert_eq!(
            (output.status.signal(), text(&output.stderr)),
            (Some(number), String::new())
        );
    }
    let output = shell("$PW -- sh -c 'kill -TERM $$'; echo $?");
    assert_eq!(text(&output.stdout), "143\n");
}

/// Numbers of signals differ between machines; only a name means the same.
#[apply(test)]
fn a_signal_without_a_name_here_is_an_exit_code() {
    for (name, code) in [("SIGFLY", 143), ("SIGTSTP", 148), ("SIGCHLD", 145)] {
        let server = format!("{PROCWIRE} | sed -u s/SIGTERM/{name}/");
        let output = run(&["--server", &server, "--", "sh", "-c", "kill -TERM $$"]);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{name}: {}",
            text(&output.stderr)
        );
    }
}

/// A shell ends its loop only if it has heard the interrupt, and if its child has died of it.
#[apply(test)]
fn a_typed_interrupt_ends_the_loop_it_is_in() {
    for tty in ["auto", "never", "always"] {
        let program = "sh -c 'echo ready; exec sleep 1000'";
        let (mut screen, _) = in_terminal(&format!(
            "for i in 1 2; do $PW --tty={tty} -- {program}; echo next; done; echo end"
        ));
        screen.until("ready\r\n");
        screen.write("\x03");
        let (printed, exited) = screen.ended();
        assert_eq!(exited["signal"], "SIGINT", "{tty}: {printed}");
        assert!(
            !printed.contains("next") && !printed.contains("end"),
            "{tty}: {printed}"
        );
    }
    // A program that takes it for a key has not been interrupted.
    let (mut screen, _) =
        in_terminal("$PW -- sh -c 'trap : INT; echo ready; read x; read x; exit 4'; echo next $?");
    screen.until("ready\r\n");
    screen.write("\x03\r\r");
    let (printed, exited) = screen.ended();
    assert_eq!(exited["signal"], Value::Null, "{printed}");
    assert!(printed.contains("next "), "{printed}");
}

// ---- input ----

const KIND_OF_STDIN: &str = "if [ -p /dev/stdin ]; then echo pipe; elif [ -t 0 ]; then echo terminal; elif [ -c /dev/stdin ]; then echo null; fi";

/// As a key on a terminal and `timeout` signal: the whole group.
#[apply(test)]
fn a_signal_to_the_server_as_well_is_what_ended_the_start() {
    for (name, number) in [
        ("INT", libc::SIGINT),
        ("TERM", libc::SIGTERM),
        ("HUP", libc::SIGHUP),
    ] {
        // Which of the two is heard first differs.
        for _ in 0..30 {
            let server = format!("kill -{name} 0; exit 3");
            let mut command = binary();
            command.args(["run", "--server", &server, "--", "true"]);
            let output = command.process_group(0).stdin(Stdio::null()).output();
            let output = output.expect("the binary starts");
            assert_eq!(output.status.signal(), Some(number), "{name}: {output:?}");
            assert_eq!(text(&output.stderr), "");
        }
    }
}

#[apply(test)]
fn a_typed_interrupt_is_not_for_the_server() {
    let script = "trap 'echo caught; exit 4' INT; echo on; sleep 1000 & wait";
    let mut command = binary();
    command.args(["run", "--server", &PROCWIRE, "--", "sh", "-c", script]);
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("text");
    assert_eq!(line, "on\n");
    // SAFETY: no memory is involved; it is the group of this test's own child.
    unsafe { libc::kill(-child.id().cast_signed(), libc::SIGINT) };
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    assert_eq!((rest.as_str(), wait(&mut child).code()), ("caught\n", Some(4)));
}

#[apply(test)]
fn no_input_is_dev_null() {
    let server = format!("--server {PROCWIRE}");
    for flags in ["", "--json", &server] {
        for (input, kind) in [
            ("</dev/null", "null"),
            // Nohup opens it so.
            ("0>/dev/null", "null"),
            ("<&-", "null"),
            ("-n </etc/passwd", "null"),
            ("--no-stdin </", "null"),
            ("</etc/passwd", "pipe"),
            ("</dev/zero", "pipe"),
        ] {
            let (flag, input) = match input.split_once(' ') {
                Some((flag, input)) => (flag, input),
                None => ("", input),
            };
            let output = shell(&format!("$PW {flags} {flag} -- sh -c '{KIND_OF_STDIN}' {input}"));
            let mut printed = text(&output.stdout);
            if flags == "--json" {
                let exited: Value = serde_json::from_str(&printed).expect("one line of JSON");
                printed = exited["stdout"].as_str().expect("text").to_owned();
            }
            assert_eq!(
                printed,
                format!("{kind}\n"),
                "{flags} {flag} {input}: {}",
                text(&output.stderr)
            );
        }
    }
    // A terminal cannot be /dev/null, but its input ends.
    let output = shell("$PW --tty -- sh -c 'cat; test -t 0; echo $?' </dev/null");
    assert!(text(&output.stdout).ends_with("0\r\n"), "{output:?}");
}

#[apply(test)]
fn input_that_cannot_be_read_is_an_error() {
    for (input, why) in [
        ("</", "(os error 21)"),
        ("0>>/dev/full", "(os error 9)"),
        // Reading the first page of a shell's memory fails.
        ("<&3", "(os error 5)"),
    ] {
        for flags in ["", "--json", "--tty=always"] {
            let output = shell(&format!(
                "exec 3</proc/self/mem; $PW {flags} -- sh -c 'cat >/dev/null' {input}; echo $? >&2"
            ));
            let stderr = text(&output.stderr);
            assert!(
                stderr.starts_with("procwire: stdin: "),
                "{flags} {input}: {stderr}"
            );
            assert!(
                stderr.contains(why) && stderr.ends_with("\n125\n"),
                "{flags} {input}: {stderr}"
            );
        }
    }
    // What the program makes of it comes first.
    let output = shell("exec 3</proc/self/mem; $PW -- sh -c 'cat; exit 3' <&3; echo $? >&2");
    assert!(text(&output.stderr).ends_with("\n3\n"), "{output:?}");
}

#[apply(test)]
fn no_stdin_leaves_the_input_to_others() {
    let output = shell("printf 'a\\nb\\n' | while read x; do $PW -n -- echo got $x; done");
    assert_eq!(text(&output.stdout), "got a\ngot b\n");
}

// ---- what it starts with ----

#[apply(test)]
fn modes_of_the_terminal_are_carried_over() {
    let all = "stty -a | tr ';' '\\n' | grep -v -e speed -e rows -e line";
    let script = format!(
        "stty erase ^H intr ^X werase undef -ixon -iutf8 -echoctl tostop inlcr; {all} | cksum; $PW -- sh -c \"{all} | cksum; stty -a\""
    );
    let (screen, _) = in_terminal(&script);
    let (printed, exited) = screen.ended();
    assert_eq!(exited["exitCode"], 0, "{printed}");
    let mut lines = printed.lines();
    let (here, there) = (lines.next(), lines.next());
    assert_eq!(here, there, "{printed}");
    for mode in [
        "erase = ^H;",
        "intr = ^X;",
        "werase = <undef>;",
        "-ixon",
        "-iutf8",
        "-echoctl",
        " tostop",
    ] {
        assert!(printed.contains(mode), "{mode}: {printed}");
    }
}

/// A program in the background starts while the shell edits its next line, for which it has switched the
/// terminal to modes of its own.
#[apply(test)]
fn modes_of_another_programs_terminal_are_not_carried_over() {
    let scratch = Scratch::new();
    let go = scratch.path("go");
    let (mut screen, shell) = in_shell();
    let terminal = std::fs::read_link(format!("/proc/{shell}/fd/0")).expect("it has one");
    let wait = format!("until [ -e {go} ]; do sleep 0.01; done");
    screen.write(&format!(
        "({wait}; exec $PW --tty -- sh -c 'stty -a; echo fi''nished') &\n"
    ));
    wait_until("the shell edits its next line", || {
        let modes = Command::new("stty").arg("-F").arg(&terminal).arg("-a").output();
        text(&modes.expect("stty starts").stdout).contains("-icanon")
    });
    std::fs::write(&go, "").expect("a file");
    let modes = screen.until("finished");
    for mode in [" icanon", " icrnl", " echo "] {
        assert!(modes.contains(mode), "{mode}: {modes}");
    }
    leave(screen);
}

#[apply(test)]
fn variables_that_would_mislead_are_not_passed_on() {
    let scratch = Scratch::new();
    let inner = scratch.directory("inner");
    let misled = "COLUMNS=7 LINES=8 LISTEN_FDS=1 NODE_CHANNEL_FD=3";
    for (flags, expected) in [
        ("--tty", format!("no no no no {inner}")),
        ("", format!("7 8 no no {inner}")),
        ("--tty -e LINES=9 -e LISTEN_FDS=2", format!("no 9 2 no {inner}")),
        ("-e PWD=/x", "7 8 no no /x".to_owned()),
    ] {
        let line = format!(
            "cd {} && {misled} $PW {flags} -C inner/../inner -- env",
            scratch.path("")
        );
        let printed = text(&shell(&line).stdout);
        let of = |name: &str| {
            let prefix = format!("{name}=");
            let mut lines = printed.lines();
            lines
                .find_map(|l| l.strip_prefix(&prefix))
                .unwrap_or("no")
                .to_owned()
        };
        let seen = ["COLUMNS", "LINES", "LISTEN_FDS", "NODE_CHANNEL_FD", "PWD"]
            .map(of)
            .join(" ");
        assert_eq!(seen, expected, "{flags}");
    }
}

// ---- time ----

/// Long enough for a program to start on a machine that has much to do.
const TIMEOUT: &str = "3s";

#[apply(test)]
fn a_timeout_asks_before_it_kills() {
    let asked = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    let deaf = "trap '' TERM; while :; do sleep 0.01; done";
    let stopped = "trap 'echo asked; exit' TERM; kill -STOP $$; while :; do sleep 0.01; done";
    let timed = |flags: &[&str], script: &str| {
        let command = ["--timeout", TIMEOUT, "--", "sh", "-c", script];
        let output = run(&[flags, &command].concat());
        assert_eq!(output.status.code(), Some(124), "{output:?}");
        (text(&output.stdout), text(&output.stderr))
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let (stdout, stderr) = timed(&[], asked);
            assert_eq!(stdout, "ready\nasked\n");
            // The shell may say that its sleep was terminated.
            let line = "procwire: sh: timed out after 3s, exited with code 5\n";
            assert!(stderr.ends_with(line), "{stderr}");
        });
        scope.spawn(|| {
            let (_, stderr) = timed(&["--grace", "100ms"], deaf);
            let line = "procwire: sh: timed out after 3s, killed by SIGKILL\n";
            assert!(stderr.ends_with(line), "{stderr}");
        });
        // One that is stopped hears it as well.
        scope.spawn(|| assert_eq!(timed(&["--grace", "60s"], stopped).0, "asked\n"));
        scope.spawn(|| {
            let (stdout, stderr) = timed(&["--json"], "exec sleep 1000");
            let exited: Value = serde_json::from_str(&stdout).expect("one line of JSON");
            assert_eq!(
                (&exited["exitCode"], &exited["timedOut"], &exited["signal"]),
                (&json!(124), &json!(true), &json!("SIGTERM"))
            );
            assert_eq!(stderr, "");
        });
    });
}

/// A pipe that is not read does not hold up the end.
#[apply(test)]
fn a_timeout_holds_where_output_is_not_read() {
    let mut child = start(&["--timeout", TIMEOUT, "--grace", "0", "--", "yes"]);
    assert_eq!(wait(&mut child).code(), Some(124));
}

#[apply(test)]
fn a_timeout_of_zero_is_none() {
    for zero in ["0", "0s", "0ms"] {
        let output = run(&["--timeout", zero, "--", "sh", "-c", "sleep 0.05; exit 3"]);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        let output = run(&["--connect-timeout", zero, "--", "sh", "-c", "exit 4"]);
        assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    }
}

#[apply(test)]
fn a_silent_server_is_not_waited_for() {
    for server in ["exec sleep 1000", "exec cat >/dev/null", "sleep 1000; true"] {
        for (flag, code) in [("--timeout", 124), ("--connect-timeout", 125)] {
            let output = run(&[flag, "300ms", "--server", server, "--", "true"]);
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{server}: {stderr}");
            assert!(
                stderr.contains(server) && stderr.contains("300ms"),
                "{server}: {stderr}"
            );
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    }
    // One that says something else is known at once.
    let output = run(&["--server", "exec cat", "--", "true"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("'exec cat' is not a server"), "{stderr}");
    // Whether it ends before it is written to differs.
    for _ in 0..20 {
        let stderr = text(&run(&["--server", "true", "--", "true"]).stderr);
        assert_eq!(
            stderr,
            "procwire: the server 'true' ended before it answered initialize\n"
        );
    }
}

/// As an ssh that asks for a password: without echo, and with a child of its own. That nothing of it
/// is left, the harness checks.
#[apply(test)]
fn a_server_that_is_given_up_leaves_the_terminal_as_it_was() {
    let server = "stty -F /dev/tty -echo; echo asking >/dev/tty; sleep 1000; true";
    let (mut screen, _) = in_terminal(&format!(
        "trap : INT; $PW --server '{server}' -- true; echo code $?; stty -a | grep -o -e '-*echo '"
    ));
    screen.until("asking\r\n");
    screen.write("\x03");
    let (printed, _) = screen.ended();
    assert!(printed.ends_with("code 130\r\necho \r\n"), "{printed:?}");
}

// ---- what is shown ----

#[apply(test)]
fn what_the_server_says_cannot_control_the_terminal() {
    let hostile = "\\u001b]0;x\\u0007\\u009b31m\\u007f\\u202e\\u2066\\n";
    let answer = |id: u32| format!(r#"{{"id":{id},"error":{{"code":-32603,"message":"{hostile}x"}}}}"#);
    for (server, escaped) in [
        (
            format!(
                "read a; echo '{{\"id\":1,\"result\":{{\"userAgent\":\"t\"}}}}'; read b; read c; printf '%s\\n' '{}' '{}'; read d",
                answer(2),
                answer(3)
            ),
            "\\u{9b}31m\\u{7f}\\u{202e}\\u{2066}\\n",
        ),
        // What is not a message is quoted.
        (
            "printf '\\033]0;x\\007\\302\\233\\n'; read c".to_owned(),
            "\\u{1b}",
        ),
    ] {
        for flags in [&[][..], &["--json"]] {
            let output = run(&[flags, &["--server", &server, "--", "true"]].concat());
            let shown = text(&output.stdout) + &text(&output.stderr);
            let dangerous = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{2066}".contains(c);
            assert!(!shown.contains(dangerous), "{shown:?}");
            assert_eq!(shown.lines().count(), 1, "{shown:?}");
            assert!(!flags.is_empty() || shown.contains(escaped), "{shown:?}");
            assert_eq!(output.status.code(), Some(125), "{shown:?}");
        }
    }
}

#[apply(test)]
fn stats_are_one_line() {
    let output = run(&["--stats", "--", "sh", "-c", "exit 3"]);
    let stderr = text(&output.stderr);
    assert_eq!(
        (output.status.code(), stderr.lines().count()),
        (Some(3), 1),
        "{stderr}"
    );
    assert!(stderr.starts_with("procwire: sh: exit code 3, "), "{stderr}");
    for unit in [" s real, ", " s user, ", " s system, ", " MiB memory\n"] {
        assert!(stderr.contains(unit), "{stderr}");
    }
    let output = run(&["--stats", "--", "sh", "-c", "kill -INT $$"]);
    assert!(
        text(&output.stderr).starts_with("procwire: sh: killed by SIGINT, "),
        "{output:?}"
    );
}

#[apply(test)]
fn help_fits_a_terminal() {
    let output = run(&["--help"]);
    for line in text(&output.stdout).lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

// ---- a terminal of its own ----

#[apply(test)]
fn a_terminal_is_given_where_there_is_one() {
    let kind = "for fd in 0 1 2; do test -t $fd && printf t || printf p; done >&2";
    for (flags, redirect, kinds) in [
        ("", "", "ttt"),
        ("--tty=auto", "", "ttt"),
        ("--tty=never", "", "ppp"),
        ("-n", "", "ppp"),
        ("--json", "2>&1 | grep -o '\"stderr\":\"...\"'", "ppp"),
        ("", "</dev/null", "ppp"),
        ("", "| cat", "ppp"),
        ("", "2>&1 | cat", "ppp"),
        ("--tty", "| cat", "ttt"),
        ("--tty=always", "| cat", "ttt"),
        ("-t", "</dev/null", "ttt"),
    ] {
        let (screen, _) = in_terminal(&format!("$PW {flags} -- sh -c '{kind}' {redirect}"));
        let (printed, _) = screen.ended();
        assert!(printed.contains(kinds), "{flags} {redirect}: {printed}");
    }
    // What is to go to a file is not printed.
    let scratch = Scratch::new();
    let errors = scratch.path("errors");
    let (screen, _) = in_terminal(&format!("$PW -- sh -c 'echo out; echo err >&2' 2>{errors}"));
    assert_eq!(screen.ended().0, "out\r\n");
    assert_eq!(std::fs::read_to_string(&errors).expect("the errors"), "err\n");
    let output = run(&["--tty=sometimes", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
}

#[apply(test)]
fn the_background_neither_reads_nor_stops() {
    for tty in ["auto", "never"] {
        let (mut screen, shell) = in_shell();
        let program = "sh -c 'echo be''gun; read x; echo got $x; exit 4'";
        screen.write(&format!("$PW --tty={tty} -- {program} &\n"));
        screen.until("begun");
        // What is typed now is the shell's, whose terminal this still is.
        screen.write("echo shell''s; jobs -r | grep -c PW | sed s/^/running/\n");
        screen.until("shells\r\n");
        screen.until("running1\r\n");
        screen.write("fg\n");
        // Before it reads, the shell has given it the terminal.
        let job = run_below(shell);
        wait_until("it is in the foreground", || {
            Proc::of(job).is_some_and(|job| job.foreground == Some(job.group))
        });
        screen.write("mine\r");
        screen.until("got mine\r\n");
        screen.until("> ");
        screen.write("echo code $?''.\n");
        screen.until("code 4.\r\n");
        leave(screen);
    }
}

#[apply(test)]
fn control_z_stops_the_whole_job() {
    for program in [
        "sh -c 'echo be''gun; exec cat'",
        "sh -c 'echo be''gun; cat; exit 0'",
    ] {
        let (mut screen, shell) = in_shell();
        screen.write(&format!("$PW -- {program}\n"));
        screen.until("begun\r\n");
        screen.write("one\n");
        screen.until("one\r\none\r\n");
        screen.write("\x1a");
        screen.until("Stopped");
        // The terminal takes lines for the shell.
        screen.write("stty -a | grep -o -e ' icanon'; echo $?''.\n");
        screen.until("0.\r\n");
        let run = run_below(shell);
        assert!(processes().iter().any(|p| p.pid == run && p.state == "T"));
        screen.write("fg\n");
        wait_until("it goes on", || {
            processes().iter().any(|p| p.pid == run && p.state == "S")
        });
        screen.write("two\n");
        screen.until("two\r\ntwo\r\n");
        screen.write("\x04");
        screen.until("> ");
        screen.write("echo code $?''.\n");
        screen.until("code 0.\r\n");
        leave(screen);
    }
}

/// As vim does: without signals from keys, out of its screen, a signal to itself, and in again.
const FULL_SCREEN: &str = r#"
stty raw -echo
trap 'printf "\033[?1049hpainted again"; stty raw -echo' WINCH
printf '\033[?1049h\033[?1002h\033[?25lready'
while key=$(dd bs=1 count=1 2>/dev/null | od -An -c | tr -d ' '); do
    case $key in
        032) printf '\033[?1049l'; kill -TSTP 0; printf '\033[?1049h' ;;
        q) printf '\033[?1049l\033[?1002l\033[?25h'; exit 0 ;;
        x) printf 'key x' ;;
    esac
done
"#;

#[apply(test)]
fn a_full_screen_program_that_stops_itself_stops() {
    let scratch = Scratch::new();
    let program = scratch.file("program", 0o755, FULL_SCREEN);
    let (mut screen, shell) = in_shell();
    screen.write(&format!("$PW -- sh {program}\n"));
    screen.until("ready");
    let run = run_below(shell);
    screen.write("\x1a");
    let seen = screen.until("Stopped");
    assert!(processes().iter().any(|p| p.pid == run && p.state == "T"));
    // The screen is the shell's again.
    let (before, _) = seen.rsplit_once("Stopped").expect("just seen");
    for off in ["\x1b[?1049l", "\x1b[?1002l", "\x1b[?25h"] {
        let on = off.replace('l', "h");
        let on = if off.ends_with('h') {
            off.replace('h', "l")
        } else {
            on
        };
        assert!(before.rfind(off) > before.rfind(&on), "{off:?}: {seen:?}");
    }
    screen.write("fg\n");
    screen.until("\x1b[?1002h\x1b[?25l");
    // A shell looks at its traps after what it waits for.
    screen.write("x");
    screen.until("painted again");
    screen.until("key x");
    screen.write("q");
    screen.until("> ");
    screen.write("echo code $?''.\n");
    screen.until("code 0.\r\n");
    leave(screen);
}

#[apply(test)]
fn a_shell_inside_stops_its_own_jobs() {
    let (mut screen, shell) = in_shell();
    screen.write("PS1='outer> '; $PW -e PS1='in''ner> ' -- bash --norc --noprofile -i\n");
    screen.until("inner> ");
    // At its prompt it ignores the key, as it does everywhere.
    screen.write("\x1a\n");
    screen.write("sh -c 'echo be''gun; exec cat'\n");
    screen.until("begun\r\n");
    screen.write("\x1a");
    screen.until("Stopped");
    screen.until("inner> ");
    let run = run_below(shell);
    assert!(processes().iter().any(|p| p.pid == run && p.state != "T"));
    screen.write("fg\n");
    screen.until("cat'\r\n");
    screen.write("second\n");
    screen.until("second\r\n");
    screen.write("\x04");
    screen.until("inner> ");
    screen.write("exit 3\n");
    screen.until("outer> ");
    screen.write("echo code $?''.\n");
    screen.until("code 3.\r\n");

    // One that would not ignore the key itself.
    let job = r#"sh -c "echo be''gun; exec cat""#;
    screen.write(&format!(
        "$PW -- bash -c 'set -m; {job}; echo code $?; kill -KILL %1'\n"
    ));
    screen.until("begun\r\n");
    screen.write("\x1a");
    let seen = screen.until("code 148\r\n");
    assert!(!seen.contains("PW"), "the outer shell says nothing: {seen:?}");
    screen.until("outer> ");
    leave(screen);
}

#[apply(test)]
fn the_screen_is_cleaned_up_after_an_abnormal_end() {
    let program = "printf \"\\033[?1049h\\033[?1000h\\033[?2004h\\033[?25lready\"; exec sleep 1000";
    for (flags, end, code) in [
        ("--timeout 3s", "", 124),
        ("", "program", 137),
        ("", "server", 125),
        ("", "run", 143),
    ] {
        let (mut screen, shell) = in_terminal(&format!(
            "stty -echo; b=$(stty -g); $PW --tty {flags} -- sh -c '{program}'; c=$?; [ \"$b\" = \"$(stty -g)\" ]; echo code $c modes $?"
        ));
        let mut seen = screen.until("ready");
        let run = run_below(shell);
        let below = |pid: u32| children_of(pid).into_iter().map(|p| p.pid).collect::<Vec<_>>();
        let servers: Vec<u32> = below(run).into_iter().flat_map(below).collect();
        match end {
            "program" => servers
                .iter()
                .flat_map(|s| below(*s))
                .for_each(|pid| kill(pid, libc::SIGKILL)),
            "server" => servers.into_iter().for_each(kill_stray),
            "run" => {
                // The program does not hear the first.
                kill(run, libc::SIGTERM);
            }
            _ => {}
        }
        let (rest, _) = screen.ended();
        seen.push_str(&rest);
        assert!(
            seen.contains(&format!("code {code} modes 0")),
            "{flags} {end}: {seen:?}"
        );
        for off in ["\x1b[?1049l", "\x1b[?1000l", "\x1b[?2004l", "\x1b[?25h"] {
            assert!(rest.contains(off), "{flags} {end}: {off:?}: {rest:?}");
        }
    }
    // One that ends by itself has left it as it wants it.
    let (screen, _) = in_terminal("$PW -- printf '\\033[?1049h\\033[?25lend'");
    assert!(screen.ended().0.ends_with("end"));
}

#[apply(test)]
fn the_terminal_is_restored_after_sigkill() {
    let program = "printf \"\\033[?1049h\\033[?1000h\\033[1mready\"; exec sleep 1000";
    let (mut screen, shell) = in_terminal(&format!(
        "b=$(stty -g); $PW --tty -- sh -c '{program}'; read x; [ \"$b\" = \"$(stty -g)\" ]; echo modes $?"
    ));
    screen.until("ready");
    let run = run_below(shell);
    kill(run, libc::SIGKILL);
    for off in ["\x1b[?1000l", "\x1b[?1049l", "\x1b[m"] {
        screen.until(off);
    }
    screen.write("x\n");
    let (printed, _) = screen.ended();
    assert!(printed.ends_with("modes 0\r\n"), "{printed:?}");
}

// ---- a program that stays ----

#[apply(test)]
fn a_detached_program_stays() {
    let scratch = Scratch::new();
    let (begun, go, done) = (scratch.path("begun"), scratch.path("go"), scratch.path("done"));
    let script = format!(
        "cat; echo $$ > {begun}; mkfifo {go}; while :; do echo out && echo err >&2; read x < {go} && break; done; echo $x > {done}"
    );
    let mut child = start(&["--detach", "--", "sh", "-c", &script]);
    let mut printed = String::new();
    child
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut printed)
        .expect("text");
    assert!(wait(&mut child).success());
    let pid: u32 = printed
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("a pid: {printed:?}"));
    wait_until("it has a way in", || std::fs::metadata(&go).is_ok());
    assert_eq!(
        std::fs::read_to_string(&begun).expect("it has begun").trim(),
        pid.to_string()
    );
    assert!(is_alive(pid));
    let mut fifo = std::fs::File::options().write(true).open(&go).expect("it reads");
    fifo.write_all(b"on\n").expect("it reads");
    drop(fifo);
    wait_until("it has ended by itself", || !is_alive(pid));
    assert_eq!(std::fs::read_to_string(&done).expect("it has ended"), "on\n");

    let output = run(&["--detach", "--", "no-such-program"]);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(127), String::new())
    );
    assert!(text(&output.stderr).contains("no-such-program"), "{output:?}");
    std::fs::write(&done, "echo no").expect("a file");
    for (program, code, why) in [
        (done.as_str(), 126, "it cannot be executed"),
        ("/tmp", 126, "it cannot be executed"),
        // Only the shell knows it.
        ("shift", 127, "there is no such program"),
        ("/no/such", 127, "there is no such program"),
    ] {
        let output = run(&["--detach", "--", program]);
        assert_eq!(output.status.code(), Some(code), "{program}: {output:?}");
        assert_eq!(text(&output.stdout), "");
        assert_eq!(text(&output.stderr), format!("procwire: {program}: {why}\n"));
    }
    // One that is not where shells are; and no variable of it is changed.
    let saved = scratch.path("saved");
    let script = format!("env >{saved}.new; mv {saved}.new {saved}");
    let sh = ["name=n", "code=c", "file=f", "PATH=/no/such:/bin:/usr/bin"];
    let mut arguments = vec!["--detach"];
    arguments.extend(sh.iter().flat_map(|variable| ["-e", variable]));
    arguments.extend(["--", "sh", "-c", &script]);
    assert!(run(&arguments).status.success());
    wait_until("it has written", || std::fs::metadata(&saved).is_ok());
    let variables = std::fs::read_to_string(&saved).expect("text");
    for variable in sh {
        assert!(variables.lines().any(|line| line == variable), "{variables}");
    }
    let output = run(&["--detach", "-e", "PATH=/no/such", "--", "/bin/true"]);
    assert!(output.status.success(), "{output:?}");
    let output = run(&["--detach", "--tty", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
}

fn start(arguments: &[&str]) -> Child {
    let mut command = binary();
    command.arg("run").args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("the binary starts")
}

// ---- what the program may print and use ----

#[apply(test)]
fn merged_output_is_in_order() {
    let script = "for n in $(seq 200); do echo out$n; echo err$n >&2; done";
    let expected: String = (1..=200).map(|n| format!("out{n}\nerr{n}\n")).collect();
    let output = run(&["--merge", "--", "sh", "-c", script]);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        (expected.clone(), String::new())
    );
    let output = run(&["--merge", "--json", "--", "sh", "-c", script]);
    let exited: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(
        (&exited["stdout"], &exited["stderr"]),
        (&json!(expected), &json!(""))
    );
    // A terminal is one stream anyway.
    let (screen, _) = in_terminal("$PW --merge -- sh -c 'test -t 1 && echo out; echo err >&2'");
    assert_eq!(screen.ended().0, "out\r\nerr\r\n");
}

#[apply(test)]
fn both_ends_of_long_output_are_kept() {
    let script = "seq 100000; echo short >&2";
    let all: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let (head, tail) = (&all[..1024], &all[all.len() - 20..]);
    let output = run(&["--keep", "1K,20", "--", "sh", "-c", script]);
    assert_eq!(text(&output.stdout), format!("{head}{tail}"));
    let left_out = all.len() - 1044;
    assert_eq!(
        text(&output.stderr),
        format!("short\nprocwire: {left_out} bytes of stdout left out\n")
    );
    let output = run(&["--keep", "1K,20", "--json", "--", "sh", "-c", script]);
    let exited: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(
        (&exited["stdout"], &exited["stdoutTail"]),
        (&json!(head), &json!(tail))
    );
    assert_eq!(exited["stdoutOmittedBytes"], left_out);
    assert_eq!(
        (&exited["stderr"], &exited["stderrTail"]),
        (&json!("short\n"), &json!(""))
    );
    for bad in ["1K", ",", "1K,", "1K,2K,3K", "x,1"] {
        let output = run(&["--keep", bad, "--", "true"]);
        assert_eq!(output.status.code(), Some(2), "{bad}: {output:?}");
        assert!(
            text(&output.stderr).contains(&format!("--keep '{bad}': expected")),
            "{output:?}"
        );
    }
}

#[apply(test)]
fn limits_and_a_clean_environment_reach_the_program() {
    let script = "ulimit -t; ulimit -c; ulimit -n; nice; cat /proc/self/oom_score_adj";
    let limits = [
        "cpu-seconds=7",
        "core-bytes=0",
        "open-files=64",
        "nice=19",
        "oom-score-adj=1000",
    ];
    let mut arguments: Vec<&str> = limits.iter().flat_map(|limit| ["--limit", *limit]).collect();
    arguments.extend(["--", "bash", "-c", script]);
    assert_eq!(text(&run(&arguments).stdout), "7\n0\n64\n19\n1000\n");
    let output = run(&["--limit", "file-bytes=1K", "--", "sh", "-c", "ulimit -f"]);
    // In blocks of 512 bytes.
    assert_eq!(text(&output.stdout), "2\n");
    for (bad, why) in [
        ("nice=20", "nice: expected a whole number from -20 to 19"),
        ("open-files=many", "open-files: expected a whole number"),
        ("data-bytes=1X", "data-bytes: expected a number of bytes"),
        ("stackbytes=1", "did you mean stack-bytes?"),
        ("nice", "expected NAME=VALUE"),
    ] {
        let output = run(&["--limit", bad, "--", "true"]);
        assert_eq!(output.status.code(), Some(2), "{bad}: {output:?}");
        assert!(text(&output.stderr).contains(why), "{bad}: {output:?}");
    }
    let output = run(&[
        "--clean-env",
        "-e",
        "A=1",
        "-e",
        "B=2",
        "-u",
        "B",
        "--",
        "/usr/bin/env",
    ]);
    assert_eq!(text(&output.stdout), "A=1\n");
    // A program with a terminal knows which.
    let (screen, _) = in_terminal("$PW --clean-env -- /usr/bin/env");
    assert_eq!(screen.ended().0, "TERM=xterm\r\n");
}
