//! The Rust client: processes over each kind of connection, what is bounded, what is waited for.

mod as_std;
mod hostile;

use std::borrow::Borrow;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use procwire::client::{Client, Command, Condition, Error, Event, Keep, OutputLost, Process};
use procwire::protocol::{Stage, code};
use procwire::{Config, Connection};

use crate::harness::{
    PATIENCE, apply, binary, children_of, is_alive, kill_stray, pattern, test, times, wait_until,
};

fn in_process() -> Client {
    Client::in_process(Config::default()).expect("threads can be started")
}

fn launched() -> Client {
    Client::builder()
        .handshake_timeout(PATIENCE)
        .launch(binary())
        .expect("the binary starts")
}

fn over_a_socket() -> Client {
    served(Shut)
}

/// A client of a server at the other end of a socket, to which it writes by way of `writer`.
fn served<W: Write + Send + 'static>(writer: impl FnOnce(UnixStream) -> W) -> Client {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let input = theirs.try_clone().expect("a descriptor");
    // The thread ends with the connection.
    thread::spawn(move || procwire::serve(Connection::from_io(input, theirs), Config::default()));
    let reader = ours.try_clone().expect("a descriptor");
    Client::over(reader, writer(ours)).expect("threads can be started")
}

/// Ends the server's input when it is dropped.
struct Shut(UnixStream);

impl Write for Shut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }
}

fn sh(script: &str) -> Command {
    Command::shell(script)
}

/// The pid, which a server of ours always reports.
fn pid(process: &Process) -> u32 {
    process.id().expect("it is told")
}

/// Starts a script and waits until it has printed `ready`.
fn spawn_ready(client: &Client, command: impl Borrow<Command>) -> Process {
    let mut process = client.spawn(command).expect("it starts");
    let stdout = process.stdout.as_mut().expect("not taken");
    read_until(stdout, "ready");
    process
}

fn read_until(reader: &mut impl Read, text: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert_eq!(reader.read(&mut byte).expect("it can be read"), 1, "{seen:?}");
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// Bytes of every value go there and back, in order and whole, with neither a deadlock nor a gap.
#[apply(test)]
fn a_process_is_fed_read_and_waited_for_over_every_connection() {
    for (name, client) in [
        ("in process", in_process()),
        ("launched", launched()),
        ("over a socket", over_a_socket()),
    ] {
        let mut process = client.spawn(Command::new("cat")).expect("cat starts");
        assert!(is_alive(pid(&process)), "{name}");
        let sent = pattern(0, 3_000_000);
        let mut stdin = process.stdin.take().expect("not taken");
        let writer = {
            let sent = sent.clone();
            thread::spawn(move || stdin.write_all(&sent))
        };
        let mut received = Vec::new();
        let mut stdout = process.stdout.take().expect("not taken");
        stdout.read_to_end(&mut received).expect("it can be read");
        assert!(received == sent, "{name}: {} bytes came back", received.len());
        writer.join().expect("no panic").expect("everything is written");
        let status = process.wait().expect("it ends");
        assert!(status.success(), "{name}: {status}");
        assert_eq!((status.code(), status.signal()), (Some(0), None));
        assert_eq!(status.details().stdout_bytes, 3_000_000);
        drop(stdout);
        drop(process);
        client.close().expect("the server ends well");
    }
}

#[apply(test)]
fn the_builder_says_what_is_started() {
    let client = in_process();
    let output = client
        .output(
            Command::new("sh")
                .arg("-c")
                .args([r#"echo "$A|${HOME-unset}|$B|$(pwd)|$1|$2"; cat; exit 7"#, "name"])
                .args(["x y", "é\n"])
                .env("A", "1")
                .envs([("B", "2")])
                .env_remove("HOME")
                .current_dir("/usr"),
        )
        .expect("it runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "1|unset|2|/usr|x y|é\n\n"
    );
    assert_eq!(output.status.code(), Some(7));
    assert!(!output.status.success());
    assert_eq!(output.status.to_string(), "exit code 7");

    let capped = client.output(sh("echo 12345").output_cap(3)).expect("it runs");
    assert_eq!(capped.stdout, b"123");
    assert!(capped.status.details().stdout.cap_reached);
    assert_eq!(capped.status.details().stdout_bytes, 6);

    let listed = client.spawn(sh("exec sleep 1000")).expect("it starts");
    let list = client.list().expect("the server answers");
    assert_eq!(list.len(), 1);
    assert_eq!(
        (list[0].pid, &*list[0].process_handle),
        (pid(&listed), listed.handle())
    );
}

#[apply(test)]
fn events_come_in_the_order_they_were_printed() {
    let client = in_process();
    // Each line waits until the one before it was seen, so that there is an order.
    let script = "echo out1; read x; echo err1 >&2; read x; echo out2; read x; echo err2 >&2";
    let mut process = client.spawn(sh(script)).expect("it starts");
    let mut stdin = process.stdin.take().expect("not taken");
    let mut seen = Vec::new();
    for event in process.events() {
        seen.push(event.expect("nothing is lost"));
        stdin.write_all(b"\n").or_else(gone).expect("it reads");
    }
    let expected = [
        Event::Stdout(b"out1\n".to_vec()),
        Event::Stderr(b"err1\n".to_vec()),
        Event::Stdout(b"out2\n".to_vec()),
        Event::Stderr(b"err2\n".to_vec()),
    ];
    assert_eq!(seen, expected);

    // What waits to be read keeps its order as well.
    let mut quiet = spawn_ready(&client, sh("printf ready; read x; exec sleep 1000"));
    let mut events = quiet.events();
    assert!(events.next_timeout(Duration::from_millis(20)).is_none());
    quiet.kill().expect("it is killed");
    assert!(matches!(events.next_timeout(PATIENCE), Some(Ok(None))));
}

fn gone(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    }
}

#[apply(test)]
fn a_terminal_is_typed_at_and_resized() {
    let client = in_process();
    let script = "test -t 0 && stty size; read x; stty size; cat >/dev/null; echo end >&2";
    let mut process = client.spawn(sh(script).tty(30, 100)).expect("it starts");
    let mut stdout = process.stdout.take().expect("not taken");
    assert_eq!(read_until(&mut stdout, "\r\n"), "30 100\r\n");
    process.resize(50, 132).expect("it has a terminal");
    let stdin = process.stdin.as_mut().expect("it can be typed at");
    stdin.write_all(b"\n").expect("it reads");
    assert_eq!(read_until(&mut stdout, "132\r\n"), "\r\n50 132\r\n");
    // Waiting types end-of-file.
    assert!(process.wait().expect("it ends").success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("it can be read");
    assert_eq!(rest, "end\r\n");
    let refused = process.resize(1, 1).expect_err("it has ended");
    assert!(matches!(refused, Error::Refused(e) if e.code == code::INVALID_REQUEST));
}

#[apply(test)]
fn errors_keep_code_message_and_data() {
    for client in [in_process(), launched()] {
        let error = client
            .spawn(Command::new("no-such-program"))
            .expect_err("no such");
        let text = error.to_string();
        let Error::Refused(refused) = error else {
            panic!("{error:?} is not the server's");
        };
        assert_eq!(refused.code, code::INTERNAL_ERROR);
        assert!(text.contains("no-such-program"), "{text}");
        let data = refused.data.clone().expect("it says why");
        assert_eq!(
            (data.errno, &*data.code, data.stage),
            (2, "ENOENT", Stage::Lookup)
        );
        assert_eq!(
            io::Error::from(Error::Refused(refused)).kind(),
            io::ErrorKind::NotFound
        );

        let error = client
            .spawn(sh("true").current_dir("relative"))
            .expect_err("relative");
        assert!(matches!(error, Error::Refused(e) if e.code == code::INVALID_PARAMS));
        let process = client.spawn(sh("exec sleep 1000")).expect("it starts");
        let error = process.signal("NOSUCH").expect_err("no such signal");
        assert!(matches!(error, Error::Refused(e) if e.code == code::INVALID_PARAMS));
    }
}

#[apply(test)]
fn kill_signal_and_terminate() {
    let client = in_process();
    let mut process = spawn_ready(&client, sh("printf ready; exec sleep 1000"));
    process.kill().expect("it is killed");
    let status = process.wait().expect("it ends");
    assert_eq!((status.code(), status.signal()), (None, Some("SIGKILL")));
    assert_eq!(
        (status.details().exit_code, &*status.to_string()),
        (137, "killed by SIGKILL")
    );
    process.kill().expect("killing what has ended is not an error");
    assert!(process.signal("INT").is_err());

    let script = "trap 'echo got; exit 9' INT; printf ready; while :; do read x; done";
    let mut process = spawn_ready(&client, sh(script));
    let control = process.control();
    thread::spawn(move || control.signal(2))
        .join()
        .expect("no panic")
        .expect("it is sent");
    let mut rest = String::new();
    process
        .stdout
        .take()
        .expect("not taken")
        .read_to_string(&mut rest)
        .expect("it can be read");
    assert_eq!(rest, "got\n");
    assert_eq!(process.wait().expect("it ends").code(), Some(9));

    let script = "trap '' TERM; printf ready; while :; do sleep 1000; done";
    let mut process = spawn_ready(&client, sh(script));
    process.terminate(Duration::from_millis(50)).expect("it is sent");
    assert_eq!(process.wait().expect("it ends").signal(), Some("SIGKILL"));
}

#[apply(test)]
fn waiting_has_an_end() {
    let client = in_process();
    let mut process = client.spawn(sh("exec sleep 1000")).expect("it starts");
    assert_eq!(process.try_wait().expect("the server is there"), None);
    let nothing = process.wait_timeout(Duration::from_millis(10));
    assert_eq!(nothing.expect("the server is there"), None);
    process.kill().expect("it is killed");
    let status = process.wait_timeout(PATIENCE).expect("the server is there");
    let status = status.expect("it ends");
    assert_eq!(process.try_wait().expect("it is known"), Some(status));
}

#[apply(test)]
fn a_timeout_is_told_apart() {
    let client = in_process();
    let output = client
        .output(sh("printf x; exec sleep 1000").timeout(Duration::from_millis(50)))
        .expect("it runs");
    assert!(output.status.timed_out() && !output.status.success());
    assert_eq!(
        (output.status.code(), output.status.details().exit_code),
        (None, 124)
    );
    assert_eq!(output.status.to_string(), "timed out");
    assert_eq!(output.stdout, b"x");
}

#[apply(test)]
fn what_is_dropped_is_killed_unless_told_otherwise() {
    let client = in_process();
    let process = spawn_ready(&client, sh("printf ready; sleep 1000"));
    let id = pid(&process);
    drop(process);
    wait_until("the dropped process is gone", || !is_alive(id));

    let left = spawn_ready(&client, sh("printf ready; exec sleep 1000").kill_on_drop(false));
    let id = pid(&left);
    drop(left);
    // The other may still be on its way out.
    wait_until("only what was left is there", || {
        let listed = client.list().expect("the server answers");
        listed.iter().map(|p| p.pid).eq([id])
    });
    assert!(is_alive(id));
    drop(client);
    wait_until("what was left is gone with the connection", || !is_alive(id));
}

/// A program that returns from `main` has dropped all it had, and nothing of it runs later: whatever holds
/// the connection last, dropping it waits for a server in this program.
#[apply(test)]
fn what_is_dropped_last_waits_until_nothing_lives() {
    for script in ["printf ready; sleep 1000", "printf ready; exec yes"] {
        let start = || {
            let client = in_process();
            let mut command = sh(script);
            command
                .kill_on_drop(false)
                .unread_limit(64 * 1024)
                .wait_when_unread();
            let process = spawn_ready(&client, command);
            (client, pid(&process), process)
        };
        let (client, id, process) = start();
        drop((process, client));
        assert!(!is_alive(id), "{script}: the client was last");

        let (client, id, process) = start();
        drop((client, process));
        assert!(!is_alive(id), "{script}: the process was last");

        let (client, id, process) = start();
        let control = process.control();
        drop((client, process, control));
        assert!(!is_alive(id), "{script}: its control was last");

        let (client, id, mut process) = start();
        let stdin = process.stdin.take();
        drop((client, process, stdin));
        assert!(!is_alive(id), "{script}: its input was last");

        let (client, id, mut process) = start();
        let stdout = process.stdout.take();
        drop((client, process, stdout));
        assert!(!is_alive(id), "{script}: its output was last");
    }
}

/// Two floods that are not read, one of each kind of connection: all others are served, and what
/// is read later is an unbroken beginning, then the loss, then the end.
#[apply(test)]
fn a_process_that_is_not_read_delays_no_other() {
    for client in [in_process(), launched()] {
        let limit = 1024 * 1024;
        let mut unread = spawn_ready(&client, sh("printf ready; exec yes").unread_limit(limit));
        for _ in 0..times(20) {
            let output = client.output(sh("echo hi; exit 3")).expect("it runs");
            assert_eq!((output.stdout, output.status.code()), (b"hi\n".to_vec(), Some(3)));
        }
        wait_until("more was printed than is kept", || {
            client.list().expect("the server answers")[0].stdout_bytes > 2 * limit as u64
        });
        unread.kill().expect("it is killed");
        assert_eq!(unread.wait().expect("it ends").signal(), Some("SIGKILL"));
        let mut kept = Vec::new();
        let mut stdout = unread.stdout.take().expect("not taken");
        let error = stdout.read_to_end(&mut kept).expect_err("the loss is told");
        assert!(OutputLost::is(&error), "{error}");
        assert!(kept.len() <= limit && kept.len() > limit / 2, "{}", kept.len());
        assert!(kept.chunks(2).all(|line| line == b"y\n" || line == b"y"));
        let behind = stdout.read_to_end(&mut kept).expect("the loss is told once");
        assert_eq!(behind, 0);
    }
}

/// Of eight that print 2 MB each, some lose what does not fit in 4 MB and 1 MiB for each; one that prints little does not,
/// and what was read or dropped makes room.
#[apply(test)]
fn all_processes_together_have_a_limit_of_what_is_not_read() {
    let client = Client::builder()
        .unread_limit(4_000_000)
        .in_process(Config::default())
        .expect("threads can be started");
    let flood = sh("head -c 2000000 /dev/zero").unread_limit(3_000_000).clone();
    let kept = |process: &mut Process| {
        let mut kept = Vec::new();
        let mut stdout = process.stdout.take().expect("not taken");
        let whole = stdout.read_to_end(&mut kept);
        assert!(whole.as_ref().err().is_none_or(OutputLost::is), "{whole:?}");
        assert!(whole.is_err() || kept.len() == 2_000_000, "{}", kept.len());
        kept.len()
    };
    for _ in 0..2 {
        let mut floods: Vec<_> = (0..8).map(|_| client.spawn(&flood).expect("it starts")).collect();
        for process in &mut floods {
            process.wait().expect("it ends");
        }
        let mut little = client.spawn(sh("head -c 500000 /dev/zero")).expect("it starts");
        little.wait().expect("it ends");
        let all: usize = floods.iter_mut().map(kept).sum();
        assert!((4_000_000..=4_000_000 + 8 * 1_048_576).contains(&all), "{all}");
        let output = little.wait_with_output().expect("nothing is lost");
        assert_eq!(output.stdout.len(), 500_000);
    }
    // Read or dropped, all of it: the next has the room of all.
    drop(client.spawn(&flood).expect("it starts"));
    let mut last = client.spawn(&flood).expect("it starts");
    last.wait().expect("it ends");
    assert_eq!(kept(&mut last), 2_000_000);
}

#[apply(test)]
fn a_limit_that_waits_loses_nothing() {
    let client = launched();
    let size = 6_000_000;
    let mut head = Command::new("head");
    head.args(["-c", &size.to_string(), "/dev/zero"]);
    head.unread_limit(100_000).wait_when_unread();
    let mut process = client.spawn(head).expect("it starts");
    let mut stdout = process.stdout.take().expect("not taken");
    let mut buffer = vec![1; 50_000];
    let mut total = 0;
    loop {
        let n = stdout.read(&mut buffer).expect("nothing is lost");
        if n == 0 {
            break;
        }
        assert!(buffer[..n].iter().all(|b| *b == 0));
        total += n;
    }
    assert_eq!(total, size);
    assert!(process.wait().expect("it ends").success());

    // One that is never read does not keep the connection from being closed.
    let unread = client
        .spawn(Command::new("yes").unread_limit(1000).wait_when_unread())
        .expect("it starts");
    client.close().expect("the server ends well");
    assert!(!is_alive(pid(&unread)));
}

#[apply(test)]
fn a_process_that_does_not_read_slows_its_writer_only() {
    let client = launched();
    let mut process = spawn_ready(&client, sh("printf ready; exec sleep 1000"));
    let mut stdin = process.stdin.take().expect("not taken");
    let (sender, written) = mpsc::channel();
    let writer = thread::spawn(move || {
        loop {
            match stdin.write(&[0; 100_000]) {
                Ok(n) => sender.send(n).expect("the test listens"),
                Err(e) => return e,
            }
        }
    });
    // It is stopped by what is pending, far below what would be refused.
    let mut total = 0;
    while total < 1024 * 1024 {
        total += written.recv_timeout(PATIENCE).expect("that much is taken");
    }
    assert!(client.output(sh("exit 0")).expect("it runs").status.success());
    total += written.try_iter().sum::<usize>();
    assert!(total <= 2 * 1024 * 1024, "{total}");
    process.kill().expect("it is killed");
    let error = writer.join().expect("no panic");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
    process.wait().expect("it ends");
}

#[apply(test)]
fn a_dropped_stream_is_closed_and_thrown_away() {
    let client = in_process();
    let script = "printf ready; read x; head -c 3000000 /dev/zero; echo end >&2";
    let mut process = spawn_ready(&client, sh(script).unread_limit(1000));
    drop(process.stdout.take());
    // The end of input lets it go on; its error output is not lost to the flood.
    let output = process
        .wait_with_output()
        .expect("nothing that is wanted is lost");
    assert_eq!((output.stdout, output.stderr), (vec![], b"end\n".to_vec()));
    assert_eq!(output.status.details().stdout_bytes, 5);
}

#[apply(test)]
fn reading_ends_with_the_stream() {
    for client in [in_process(), launched()] {
        let script = "echo out; exec >&-; read x; echo err >&2; exec 2>&-; exec sleep 1000";
        let mut process = client.spawn(sh(script)).expect("it starts");
        let mut text = String::new();
        let mut stdout = process.stdout.take().expect("not taken");
        stdout.read_to_string(&mut text).expect("it ends");
        assert_eq!(text, "out\n");
        assert_eq!(stdout.read(&mut [0; 1]).expect("it has ended"), 0);
        // Closing what has ended is not asked for, and harms nothing.
        drop(stdout);
        process
            .stdin
            .as_mut()
            .expect("not taken")
            .write_all(b"\n")
            .expect("it reads");
        let events: Vec<Event> = process.events().map(|event| event.expect("output")).collect();
        assert_eq!(events, [Event::Stderr(b"err\n".to_vec())]);
        assert_eq!(process.try_wait().expect("it is there"), None);
        process.kill().expect("it is killed");
        process.wait().expect("it ends");
    }
}

#[apply(test)]
fn both_ends_of_long_output_are_kept() {
    for client in [in_process(), launched()] {
        let run = |keep: Keep, cap: Option<u64>| {
            let mut seq = sh("seq 1000; seq 500 >&2");
            seq.keep(keep);
            if let Some(cap) = cap {
                seq.output_cap(cap);
            }
            client.output(&seq).expect("it runs")
        };
        let output = run(Keep::HeadTail { head: 4, tail: 5 }, None);
        assert_eq!(
            (&*output.stdout, &*output.stdout_tail),
            (&b"1\n2\n"[..], &b"1000\n"[..])
        );
        assert_eq!(
            (&*output.stderr, &*output.stderr_tail),
            (&b"1\n2\n"[..], &b"\n500\n"[..])
        );
        assert_eq!(
            (output.stdout_omitted_bytes, output.stderr_omitted_bytes),
            (3_884, 1_883)
        );
        let details = output.status.details();
        let told = details.stdout.tail.as_ref().expect("it was asked for");
        assert_eq!((told.omitted_bytes, details.stdout.cap_reached), (3_884, true));
        let output = run(Keep::Tail, Some(5));
        assert_eq!(
            (&*output.stdout, &*output.stdout_tail),
            (&b""[..], &b"1000\n"[..])
        );
        let output = run(Keep::Tail, Some(5_000));
        assert_eq!((output.stdout.len(), &*output.stdout_tail), (3_893, &b""[..]));
        assert_eq!(output.stdout_omitted_bytes, 0);
        let output = run(Keep::Head, Some(2));
        assert_eq!((&*output.stdout, output.stdout_tail.len()), (&b"1\n"[..], 0));
        assert_eq!(
            output
                .status
                .details()
                .stdout
                .tail
                .as_ref()
                .map(|t| t.omitted_bytes),
            Some(3_891)
        );
        let error = client.spawn(sh("true").keep(Keep::HeadTail { head: 1, tail: 1 }).output_cap(2));
        assert!(matches!(error, Err(Error::Refused(e)) if e.code == -32602));
        let status = client.status(sh("seq 9").keep(Keep::HeadTail { head: 1, tail: 1 }));
        assert!(status.expect("it runs").success());
    }
}

#[apply(test)]
fn what_a_process_prints_is_waited_for_from_any_thread() {
    for client in [in_process(), launched()] {
        let mut cat = client.spawn(Command::new("cat")).expect("it starts");
        let mut stdin = cat.stdin.take().expect("not taken");
        let control = cat.control();
        let found = control.expect_after(&["never", "word"], || stdin.write_all(b"a word\n"));
        assert_eq!(found.expect("it is printed"), Some(1));
        // What holds the match has arrived.
        let event = cat.events().next_timeout(Duration::ZERO);
        assert!(matches!(event, Some(Ok(Some(Event::Stdout(bytes)))) if bytes == b"a word\n"));
        let quiet = cat
            .wait_until([Condition::Quiet(1)], PATIENCE)
            .expect("it is quiet");
        assert_eq!(quiet.index, Some(0));
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let control = cat.control();
                thread::spawn(move || {
                    let until = ["never".into(), Condition::Bytes(vec![0xff]), Condition::Exit];
                    (control.wait_until(until, None), control.expect(&["x"]))
                })
            })
            .collect();
        let all_wait = || client.list().is_ok();
        wait_until("it is there", all_wait);
        cat.kill().expect("it is killed");
        for thread in waiting {
            let (reply, none) = thread.join().expect("no panic");
            assert_eq!(reply.expect("it ends").index, Some(2));
            assert_eq!(none.expect("it ends"), None);
        }
        // It is the same if it had ended before.
        control.wait().expect("it ends");
        assert_eq!(control.expect(&["x"]).expect("it has ended"), None);
        let reply = control.wait_until(["x".into(), Condition::Exit], None);
        assert_eq!(reply.expect("it has ended").index, Some(1));
        let reply = control
            .wait_until([Condition::Input], PATIENCE)
            .expect("it has ended");
        assert_eq!(
            (reply.index, reply.exited, reply.timed_out),
            (None, Some(true), Some(false))
        );
        let error = control.wait_until([], None);
        assert!(matches!(error, Err(Error::Refused(_))), "{error:?}");
    }
}

/// The server dies: what waits for output, an end or an answer hears so, and says why.
#[apply(test)]
fn a_lost_server_ends_everything_that_waits() {
    let client = launched();
    let mut process = spawn_ready(&client, sh("printf ready; exec sleep 1000"));
    let mut stdout = process.stdout.take().expect("not taken");
    let mut stdin = process.stdin.take().expect("not taken");
    let reader = thread::spawn(move || {
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest)
    });
    // What was launched is the guard; below it is the server, which cannot say a last word.
    let guard = children_of(std::process::id());
    let server = children_of(guard[0].pid);
    kill_stray(server[0].pid);
    let error = reader
        .join()
        .expect("no panic")
        .expect_err("that is not the end of the output");
    assert!(error.to_string().contains("exit status: 137"), "{error}");
    let error = process.wait().expect_err("it is not known how it ended");
    assert!(matches!(&error, Error::Ended(Some(why)) if why.contains("exit status: 137")));
    assert!(stdin.write(b"x").is_err());
    assert!(process.kill().is_err());
    assert!(client.spawn(sh("true")).is_err());
    let error = client.close().expect_err("that was not a clean end");
    assert!(matches!(error, Error::Ended(Some(_))));
}

/// The server does not know whose it was; the others are answered.
#[apply(test)]
fn a_request_that_is_too_long_is_refused_and_no_other() {
    let mut command = binary();
    command.args(["--max-message-bytes", "100000"]);
    let client = Client::launch(command).expect("the binary starts");
    let mut process = spawn_ready(&client, sh("printf ready; exec cat"));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..times(50) {
                    let long = "x".repeat(100_000 + round);
                    let error = client.spawn(Command::new("echo").arg(long));
                    let error = error.expect_err("that is too long");
                    assert!(
                        matches!(&error, Error::Invalid(why) if why.contains("100000")),
                        "{error}"
                    );
                    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
                    let listed = client.list().expect("that is short");
                    assert_eq!(listed.len(), 1);
                }
            });
        }
    });
    // Writes are as long as the server takes them.
    let mut stdin = process.stdin.take().expect("not taken");
    let writer = thread::spawn(move || stdin.write_all(&[b'x'; 1_000_000]));
    let output = process.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it is all written");
    assert_eq!(output.stdout.len(), 1_000_000);
}

#[apply(test)]
fn a_writer_that_fails_ends_the_connection() {
    /// Takes the two lines of the handshake, then half a line, and then fails once.
    struct Failing(Shut, u32);
    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 {
                3 => self.0.write(&bytes[..bytes.len() / 2]),
                4 => Err(io::ErrorKind::TimedOut.into()),
                _ => self.0.write(bytes),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let client = served(|ours| Failing(Shut(ours), 0));
    client.list().expect_err("it is half");
    client.list().expect_err("nothing can follow");
}

#[apply(test)]
fn a_server_that_cannot_serve_says_why() {
    // SAFETY: installs no code; the test has this process for itself.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let error = Client::in_process(Config::default()).expect_err("it cannot serve");
    assert!(error.to_string().contains("SIGCHLD is ignored"), "{error}");
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

#[apply(test)]
fn closing_waits_until_all_is_gone() {
    for client in [in_process(), launched()] {
        let process = spawn_ready(&client, sh("trap '' TERM HUP; printf ready; exec sleep 1000"));
        let began = Instant::now();
        client.close().expect("the server ends well");
        assert!(!is_alive(pid(&process)));
        assert!(
            began.elapsed() < Duration::from_secs(9),
            "three seconds at most, and slack"
        );
    }
}

#[apply(test)]
fn many_threads_share_a_client() {
    let client = launched();
    let pids: Vec<HashSet<u32>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let client = &client;
                scope.spawn(move || {
                    (0..times(10))
                        .map(|round| {
                            let text = format!("{number}-{round}");
                            let mut process = client.spawn(Command::new("cat")).expect("it starts");
                            let stdin = process.stdin.as_mut().expect("not taken");
                            stdin.write_all(text.as_bytes()).expect("it reads");
                            let id = pid(&process);
                            let output = process.wait_with_output().expect("it ends");
                            assert_eq!(output.stdout, text.as_bytes());
                            assert!(output.status.success());
                            id
                        })
                        .collect()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert_eq!(pids.len(), 8);
}
