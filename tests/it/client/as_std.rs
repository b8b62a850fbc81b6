//! What `std::process` does, this client does under the same names: the ideas of std's own tests of it,
//! and what else a person who knows std expects.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use procwire::client::{Client, Command, Control, Error, Events, ExitStatus, Output, Process, Stdin};

use super::{in_process, launched, pid, read_until, spawn_ready};
use crate::harness::{PATIENCE, Scratch, apply, is_alive, pattern, private_bytes, test, times, wait_until};

fn kind(error: Error) -> ErrorKind {
    io::Error::from(error).kind()
}

#[apply(test)]
fn an_exit_code_is_reported_and_can_be_asked_for_twice() {
    let client = in_process();
    let mut ends = client.spawn(Command::new("true")).expect("it starts");
    assert!(ends.wait().expect("it ends").success());
    let mut ends = client.spawn(Command::new("false")).expect("it starts");
    assert_eq!(ends.wait().expect("it ends").code(), Some(1));
    let again = ends.wait().expect("it has ended");
    assert_eq!((again.code(), again.success()), (Some(1), false));
}

#[apply(test)]
fn a_signal_is_reported() {
    let client = in_process();
    let mut shell = client.spawn(Command::shell("read a")).expect("it starts");
    shell.kill().expect("it is killed");
    let status = shell.wait().expect("it ends");
    assert_eq!((status.code(), status.signal()), (None, Some("SIGKILL")));
    assert!(!status.success() && !status.timed_out() && !status.core_dumped());
}

#[apply(test)]
fn the_streams_work() {
    let client = in_process();
    let mut shell = client
        .spawn(Command::shell("read line; echo $line; echo no >&2"))
        .expect("it starts");
    let mut stdin = shell.stdin.take().expect("not taken");
    stdin.write_all(b"foobar").expect("it reads");
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    shell
        .stdout
        .as_mut()
        .expect("not taken")
        .read_to_string(&mut out)
        .expect("UTF-8");
    shell
        .stderr
        .as_mut()
        .expect("not taken")
        .read_to_string(&mut err)
        .expect("UTF-8");
    assert!(shell.wait().expect("it ends").success());
    assert_eq!((&*out, &*err), ("foobar\n", "no\n"));
}

/// Nothing of what it prints is even sent, and it finds no input.
#[apply(test)]
fn status_says_how_it_ended_and_keeps_nothing() {
    for client in [in_process(), launched()] {
        assert_eq!(
            client.status(Command::new("false")).expect("it runs").code(),
            Some(1)
        );
        assert!(client.status(Command::new("cat")).expect("it runs").success());
        assert!(
            client
                .status(Command::new("cat").tty(24, 80))
                .expect("it runs")
                .success()
        );
        let before = private_bytes();
        let status = client.status(Command::new("head").args(["-c", "300000000", "/dev/zero"]));
        let status = status.expect("it runs");
        assert_eq!(status.details().stdout_bytes, 300_000_000);
        let grown = private_bytes().saturating_sub(before);
        assert!(grown < 100_000_000, "{grown} bytes were kept");
    }
}

#[apply(test)]
fn output_has_both_streams_and_no_input() {
    let client = in_process();
    let Output {
        status,
        stdout,
        stderr,
        ..
    } = client.output(Command::new("echo").arg("hello")).expect("it runs");
    assert!(status.success());
    assert_eq!((&*stdout, &*stderr), (&b"hello\n"[..], &b""[..]));

    let output = client.output(Command::new("mkdir").arg("./")).expect("it runs");
    assert!(!output.status.success());
    assert_eq!(output.stdout, b"");
    assert!(!output.stderr.is_empty());

    let output = client.output(Command::new("cat")).expect("it finds no input");
    assert_eq!(output.stdout, b"");
}

#[apply(test)]
fn output_with_input_writes_while_it_reads() {
    for client in [in_process(), launched()] {
        let input = pattern(0, 4_000_000);
        let output = client.output_with_input(Command::new("cat"), &input);
        let output = output.expect("it runs");
        assert!(output.stdout == input, "{} bytes", output.stdout.len());
        // One that does not want it all is not an error, and neither is none at all.
        let output = client.output_with_input(Command::new("head").args(["-c", "3"]), &input);
        assert_eq!(output.expect("it runs").stdout, input[..3]);
        let output = client.output_with_input(Command::shell("exec <&-; echo closed"), &input);
        assert_eq!(output.expect("it runs").stdout, b"closed\n");
        let output = client.output_with_input(Command::new("cat"), "");
        assert_eq!(output.expect("it runs").stdout, b"");
    }
    let error = in_process().output_with_input(Command::new("no-such-program"), "x");
    assert_eq!(kind(error.expect_err("there is none")), ErrorKind::NotFound);
}

/// What it prints goes to the memory of the one who asked, so no limit on unread output is in its way.
#[apply(test)]
fn output_keeps_all_of_a_flood() {
    for client in [in_process(), launched()] {
        let mut head = Command::new("head");
        head.args(["-c", "5000000", "/dev/zero"]).unread_limit(1000);
        for _ in 0..times(5) {
            let output = client.output(&head).expect("nothing is lost");
            assert_eq!(output.stdout.len(), 5_000_000);
        }
        let capped = client.output(head.output_cap(10)).expect("it runs");
        assert_eq!(capped.stdout.len(), 10);
    }
}

#[apply(test)]
fn a_command_is_built_step_by_step_and_used_again() {
    let client = in_process();
    let mut command = Command::new("sh");
    command.arg("-c").arg("echo $0 $1 $A ${HOME-none}");
    if client.server_pid().is_none() {
        command.args(["zero", "one"]).env("A", "a").env_remove("HOME");
    }
    for _ in 0..2 {
        let output = client.output(&command).expect("it runs");
        assert_eq!(output.stdout, b"zero one a none\n");
    }
    let copy = command.clone();
    command.env("A", "b");
    assert_eq!(client.output(copy).expect("it runs").stdout, b"zero one a none\n");
    let output = client.output(command).expect("it runs");
    assert_eq!(output.stdout, b"zero one b none\n");
}

#[apply(test)]
fn paths_and_os_strings_are_taken() {
    let client = in_process();
    let scratch = Scratch::new();
    let script = PathBuf::from(scratch.file("say", 0o700, "#!/bin/sh\necho \"$1 $V $(pwd)\"\n"));
    let directory: &Path = Path::new("/");
    let mut say = Command::new(&script);
    say.arg(OsStr::new("hi"))
        .env(OsString::from("V"), Path::new("/v"))
        .envs(std::env::vars_os().take(0))
        .current_dir(directory);
    assert_eq!(client.output(&say).expect("it runs").stdout, b"hi /v /\n");
}

#[apply(test)]
fn what_cannot_be_sent_is_invalid_input() {
    let no_text = OsStr::from_bytes(b"a\xff");
    for client in [in_process(), launched()] {
        let echo = |change: &dyn Fn(&mut Command)| {
            let mut echo = Command::new("echo");
            change(&mut echo);
            echo
        };
        for (wrong, named) in [
            (Command::new(no_text), "the program"),
            (echo(&|c| _ = c.args(["fine"]).arg(no_text)), "argument 2"),
            (echo(&|c| _ = c.env(no_text, "x")), "variable"),
            (echo(&|c| _ = c.env("NAME", no_text)), "\"NAME\""),
            (echo(&|c| _ = c.env_remove(no_text)), "variable"),
            (echo(&|c| _ = c.current_dir(no_text)), "directory"),
            (Command::new("has-\0\0s-inside"), "the program"),
            (echo(&|c| _ = c.arg("has-\0\0s-inside")), "argument 1"),
            (echo(&|c| _ = c.env("has-\0\0s-inside", "x")), "variable"),
            (echo(&|c| _ = c.env("NAME", "has-\0\0s-inside")), "\"NAME\""),
            (echo(&|c| _ = c.current_dir("/has-\0\0s-inside")), "directory"),
            (Command::new(""), "empty"),
        ] {
            let error = client.spawn(&wrong).expect_err("that cannot be");
            assert!(matches!(error, Error::Invalid(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(named) && !text.contains('\0'), "{text}");
            assert_eq!(kind(error), ErrorKind::InvalidInput, "{text}");
        }
        // What the server finds wrong with what was asked is that, too.
        for wrong in [
            echo(&|c| _ = c.env("A=B", "x")),
            echo(&|c| _ = c.env("", "x")),
            echo(&|c| _ = c.current_dir("relative")),
            echo(&|c| _ = c.tty(0, 80)),
        ] {
            let error = client.spawn(&wrong).expect_err("that cannot be");
            assert!(matches!(error, Error::Refused(_)), "{error:?}");
            assert_eq!(kind(error), ErrorKind::InvalidInput);
        }
        assert!(client.list().expect("the server answers").is_empty());
    }
}

#[apply(test)]
fn errors_are_those_of_std() {
    let scratch = Scratch::new();
    let plain = scratch.file("plain", 0o600, "echo\n");
    for client in [in_process(), launched()] {
        for (mut command, expected, errno) in [
            (Command::new("/no-such-file"), ErrorKind::NotFound, libc::ENOENT),
            (Command::new("no-such-name"), ErrorKind::NotFound, libc::ENOENT),
            (Command::new(&plain), ErrorKind::PermissionDenied, libc::EACCES),
            (Command::new("/"), ErrorKind::PermissionDenied, libc::EACCES),
            (
                Command::new("true").current_dir("/no-such-directory").clone(),
                ErrorKind::NotFound,
                libc::ENOENT,
            ),
        ] {
            let error = io::Error::from(client.spawn(&command).expect_err("it cannot start"));
            assert_eq!((error.kind(), error.raw_os_error()), (expected, Some(errno)));
            assert_eq!(kind(client.output(&command).expect_err("as before")), expected);
            assert_eq!(
                kind(client.status(command.arg("x")).expect_err("as before")),
                expected
            );
        }
    }
    let error = Client::launch(["/no-such-server"]).expect_err("there is none");
    assert!(error.to_string().contains("\"/no-such-server\""), "{error}");
    let error = io::Error::from(error);
    assert_eq!(
        (error.kind(), error.raw_os_error()),
        (ErrorKind::NotFound, Some(libc::ENOENT))
    );
    let client = in_process();
    let mut sleep = client
        .spawn(Command::new("sleep").arg("1000"))
        .expect("it starts");
    client.close().expect("the server ends well");
    let error = io::Error::from(sleep.signal("INT").expect_err("there is no server"));
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    // Writing to a process that is gone and to a server that is gone are not the same.
    let stdin = sleep.stdin.as_mut().expect("not taken");
    let error = stdin.write_all(b"x").expect_err("there is no server");
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
}

/// That of the server as it was at its start, with the changes of the command. (std's is that of the
/// program when the process starts.)
#[apply(test)]
fn the_environment_is_that_of_the_server() {
    // SAFETY: the test has this process for itself, and has no other thread yet.
    unsafe { std::env::set_var("PROCWIRE_TEST_B", "456") };
    for client in [in_process(), launched()] {
        let mut env = Command::new("env");
        env.env("PROCWIRE_TEST_A", "123");
        let output = client.output(&env).expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("PROCWIRE_TEST_A=123\n"), "{text}");
        assert!(text.contains("PROCWIRE_TEST_B=456\n"), "{text}");
        let output = client.output(env.env_remove("PROCWIRE_TEST_B")).expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("PROCWIRE_TEST_B"), "{text}");
    }
}

#[apply(test)]
fn a_terminal_and_a_directory_are_not_contradicted_by_the_environment() {
    // SAFETY: the test has this process for itself, and has no other thread yet.
    unsafe {
        std::env::set_var("COLUMNS", "11");
        std::env::set_var("LINES", "12");
        std::env::set_var("PWD", "/somewhere");
    }
    for client in [in_process(), launched()] {
        let show = Command::shell("/usr/bin/env | grep -E '^(COLUMNS|LINES|PWD)=' | sort | tr '\\n' ' '");
        let seen = |change: &dyn Fn(&mut Command)| {
            let mut command = show.clone();
            change(&mut command);
            String::from_utf8(client.output(command).expect("it runs").stdout).expect("UTF-8")
        };
        // A shell corrects a wrong PWD itself, so this asks `env` without one.
        let pwd = |change: &dyn Fn(&mut Command)| {
            let mut env = Command::new("env");
            change(&mut env);
            let printed = client.output(env).expect("it runs").stdout;
            let printed = String::from_utf8(printed).expect("UTF-8");
            printed
                .lines()
                .find_map(|line| line.strip_prefix("PWD=").map(str::to_owned))
        };
        let with_tty = seen(&|c| _ = c.tty(30, 100));
        assert!(
            !with_tty.contains("COLUMNS") && !with_tty.contains("LINES"),
            "{with_tty}"
        );
        let named = seen(&|c| _ = c.tty(30, 100).env("COLUMNS", "7"));
        assert!(named.contains("COLUMNS=7") && !named.contains("LINES"), "{named}");
        let plain = seen(&|_| {});
        assert!(
            plain.contains("COLUMNS=11") && plain.contains("LINES=12"),
            "{plain}"
        );
        assert_eq!(pwd(&|_| {}).as_deref(), Some("/somewhere"));
        assert_eq!(pwd(&|c| _ = c.current_dir("/usr")).as_deref(), Some("/usr"));
        assert_eq!(
            pwd(&|c| _ = c.current_dir("/usr").env("PWD", "/x")).as_deref(),
            Some("/x")
        );
        assert_eq!(pwd(&|c| _ = c.env_remove("PWD").current_dir("/usr")), None);
    }
}

#[apply(test)]
fn a_shell_is_asked_for() {
    let client = in_process();
    let output = client
        .output(Command::shell("echo a b | tr a-z A-Z; exit 3"))
        .expect("it runs");
    assert_eq!((&*output.stdout, output.status.code()), (&b"A B\n"[..], Some(3)));
    // And only then.
    let output = client
        .output(Command::new("echo").arg("$HOME; exit 3"))
        .expect("it runs");
    assert_eq!(output.stdout, b"$HOME; exit 3\n");
}

#[apply(test)]
fn several_threads_wait_and_one_kills() {
    for client in [in_process(), launched()] {
        let mut process = client
            .spawn(Command::new("sleep").arg("1000"))
            .expect("it starts");
        let (sender, waiting) = mpsc::channel();
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let (control, sender) = (process.control(), sender.clone());
                thread::spawn(move || {
                    sender.send(()).expect("the test listens");
                    control.wait()
                })
            })
            .collect();
        for _ in 0..4 {
            waiting.recv_timeout(PATIENCE).expect("it is about to wait");
        }
        let control = process.control();
        let waited = thread::scope(|scope| {
            let main = scope.spawn(|| process.wait());
            control.kill().expect("it is killed");
            main.join().expect("no panic").expect("it ends")
        });
        assert_eq!(waited.signal(), Some("SIGKILL"));
        for waiter in waiters {
            assert_eq!(waiter.join().expect("no panic").expect("it ends"), waited);
        }
        drop(process);
        // It can be asked when the process itself is long gone.
        assert_eq!(control.try_wait().expect("it is known"), Some(waited));
        control.kill().expect("killing what has ended is not an error");
    }
}

#[apply(test)]
fn trying_and_waiting_for_a_time_leave_it_running() {
    let client = in_process();
    let mut cat = client.spawn(Command::new("cat")).expect("it starts");
    let control = cat.control();
    assert_eq!(cat.try_wait().expect("the server is there"), None);
    assert_eq!(control.try_wait().expect("the server is there"), None);
    let short = control.wait_timeout(Duration::from_millis(10));
    assert_eq!(short.expect("the server is there"), None);
    // None of these has closed its input.
    cat.stdin
        .as_mut()
        .expect("not taken")
        .write_all(b"x")
        .expect("it reads");
    let status = cat.wait_timeout(PATIENCE).expect("the server is there");
    assert!(status.expect("the end of its input ends it").success());
}

/// The program is told by SIGPIPE, as with std.
#[apply(test)]
fn a_dropped_output_ends_an_endless_program() {
    for client in [in_process(), launched()] {
        let mut yes = client.spawn(Command::new("yes")).expect("it starts");
        read_until(yes.stdout.as_mut().expect("not taken"), "y\n");
        drop(yes.stdout.take());
        assert_eq!(yes.wait().expect("it ends").signal(), Some("SIGPIPE"));

        // The same with events, with both streams, and with a limit that waits.
        let mut yes = client
            .spawn(Command::shell("yes & exec yes >&2").wait_when_unread())
            .expect("it starts");
        drop(yes.events());
        client.list().expect("nothing waits");
        assert_eq!(yes.wait().expect("it ends").signal(), Some("SIGPIPE"));

        // A terminal is not closed, and nothing is kept of what is printed there.
        let mut yes = client.spawn(Command::new("yes").tty(24, 80)).expect("it starts");
        read_until(yes.stdout.as_mut().expect("not taken"), "y\r\n");
        drop(yes.stdout.take());
        let printed = || client.list().expect("the server answers")[0].stdout_bytes;
        let begun = printed();
        wait_until("much was printed", || printed() > begun + 1_000_000);
        let before = private_bytes();
        let begun = printed();
        wait_until("as much again was printed", || printed() > begun + 9_000_000);
        let grown = private_bytes().saturating_sub(before);
        assert!(grown < 8_000_000, "{grown} bytes were kept");
        yes.kill().expect("it is killed");
        assert_eq!(yes.wait().expect("it ends").signal(), Some("SIGKILL"));

        // One that goes on without its `Process` is not told.
        let yes = client
            .spawn(Command::shell("yes & exec sleep 1000").kill_on_drop(false))
            .expect("it starts");
        let control = yes.control();
        drop(yes);
        let begun = printed();
        wait_until("it prints on", || printed() > begun + 1_000_000);
        control.kill().expect("it is killed");
        control.wait().expect("it ends");

        // And one that is dropped as a whole is killed.
        let yes = spawn_ready(&client, Command::shell("echo ready; exec yes"));
        let id = pid(&yes);
        drop(yes);
        wait_until("it is gone", || !is_alive(id));
    }
}

#[apply(test)]
fn everything_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + std::fmt::Debug>() {}
    shared::<Client>();
    shared::<Command>();
    shared::<Process>();
    shared::<Control>();
    shared::<ExitStatus>();
    shared::<Error>();
    shared::<Events>();
    shared::<Stdin>();
    shared::<Output>();
}
