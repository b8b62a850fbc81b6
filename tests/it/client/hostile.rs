//! Servers that are not one, that are another one, and that are hostile: what the client takes from
//! them is bounded, and what it says of them is clear and harmless.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use procwire::client::{Client, Command, Error, Event, OutputLost, ServerCommand};
use serde_json::{Value, json};

use super::Shut;
use crate::harness::{PATIENCE, apply, encode, kill_stray, private_bytes, test, wait_until};

/// The other end of a client's connection.
struct Peer {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Peer {
    /// The next message of the client; `None` when it has gone.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.input.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("the client sends JSON")),
        }
    }

    /// Sends a line; false when the client has gone.
    fn send(&mut self, line: impl AsRef<[u8]>) -> bool {
        let whole = [line.as_ref(), b"\n"].concat();
        self.output.write_all(&whole).is_ok()
    }

    fn answer(&mut self, request: &Value, result: &Value) {
        self.send(json!({ "id": request["id"], "result": result }).to_string());
    }

    fn refuse(&mut self, request: &Value, code: i64, message: &str) {
        let error = json!({ "code": code, "message": message });
        self.send(json!({ "id": request["id"], "error": error }).to_string());
    }

    fn notify(&mut self, method: &str, params: &Value) -> bool {
        self.send(json!({ "method": method, "params": params }).to_string())
    }

    fn exited(&mut self, handle: &Value, code: i32) {
        let params = json!({ "processHandle": handle, "exitCode": code, "stdout": "", "stderr": "" });
        self.notify("process/exited", &params);
    }

    /// Answers the handshake as the reference does.
    fn shake_hands(&mut self) {
        let initialize = self.next().expect("the handshake");
        assert_eq!(initialize["method"], "initialize");
        let result = json!({ "userAgent": "it/1", "codexHome": "/", "platformFamily": "unix" });
        self.answer(&initialize, &result);
        assert_eq!(self.next().expect("its end")["method"], "initialized");
    }
}

/// A client of a server that does `serve`; the thread gives what that gives.
fn try_served<T: Send + 'static>(
    serve: impl FnOnce(&mut Peer) -> T + Send + 'static,
) -> (Result<Client, Error>, JoinHandle<T>) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let server = thread::spawn(move || {
        let input = BufReader::new(theirs.try_clone().expect("a descriptor"));
        let mut peer = Peer {
            input,
            output: theirs,
        };
        let made = serve(&mut peer);
        // The client may still be writing.
        let _ = peer.output.shutdown(Shutdown::Both);
        made
    });
    let reader = ours.try_clone().expect("a descriptor");
    (Client::over(reader, Shut(ours)), server)
}

/// The same with the handshake after it.
fn served<T: Send + 'static>(serve: impl FnOnce(&mut Peer) -> T + Send + 'static) -> (Client, JoinHandle<T>) {
    let (client, server) = try_served(|peer| {
        peer.shake_hands();
        serve(peer)
    });
    (client.expect("it answers"), server)
}

/// A client of a command that answers, however slow the machine is.
fn patient(server: impl Into<ServerCommand>) -> Client {
    let mut builder = Client::builder();
    builder
        .handshake_timeout(None)
        .launch(server)
        .expect("it answers")
}

fn join<T>(server: JoinHandle<T>) -> T {
    server.join().expect("the server's script holds")
}

fn handshake_error(outcome: Result<Client, Error>) -> String {
    match outcome {
        Err(Error::Handshake(reason)) => reason,
        other => panic!("{other:?} is not the failure of a handshake"),
    }
}

/// No control character, and not much more than the 200 characters that may be quoted.
fn assert_harmless(text: &str) {
    let harmful = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!text.contains(harmful), "{text:?}");
    assert!(
        text.chars().count() < 450,
        "{} characters: {text}",
        text.chars().count()
    );
}

#[apply(test)]
fn the_handshake_comes_first() {
    let (client, server) = try_served(|peer| {
        let initialize = peer.next().expect("the handshake");
        peer.answer(&initialize, &json!({}));
        (initialize, peer.next(), peer.next())
    });
    drop(client.expect("it answers"));
    let (initialize, initialized, end) = join(server);
    assert_eq!(initialize["method"], "initialize");
    // Without it the reference refuses process/spawn.
    assert_eq!(initialize["params"]["capabilities"]["experimentalApi"], true);
    assert_eq!(initialize["params"]["clientInfo"]["name"], "procwire-rust");
    assert_eq!(initialized, Some(json!({ "method": "initialized" })));
    assert_eq!(end, None);
}

#[apply(test)]
fn what_is_not_a_server_is_named_with_what_it_did() {
    for (command, expected) in [
        (&["cat"][..], "\"cat\" is not a server: it echoes its input"),
        (&["true"], "\"true\" ended before it answered"),
        (
            &["sh", "-c", "exit 7"],
            "\"sh -c exit 7\" ended with exit status: 7",
        ),
        (&["sh", "-c", "kill -9 $$"], "signal: 9"),
        (
            &["echo", "Welcome!"],
            "\"echo Welcome!\" sent a line that is not a JSON-RPC message: \"Welcome!\"",
        ),
        (
            &["yes"],
            "\"yes\" sent a line that is not a JSON-RPC message: \"y\"",
        ),
        (&["echo", "[1]"], "\"[1]\""),
        (
            &["cat", "/dev/zero"],
            "\"cat /dev/zero\" sent a message that cannot be read: a line is longer than the limit",
        ),
        (&["sh", "-c", "exec sleep 1000 >&-"], "closed its output"),
    ] {
        // However slow the machine is.
        let reason = handshake_error(Client::builder().handshake_timeout(None).launch(command));
        assert!(reason.contains(expected), "{reason}");
    }
    let (outcome, server) = try_served(|peer| {
        let request = peer.next().expect("the handshake");
        peer.refuse(&request, -32600, "not today");
        peer.next()
    });
    let reason = handshake_error(outcome);
    assert!(reason.contains("refused initialize: not today"), "{reason}");
    assert_eq!(join(server), None, "the connection ends");
    // Nothing is left running, which the harness checks.
}

#[apply(test)]
fn a_handshake_has_a_deadline() {
    let begun = Instant::now();
    let short = Duration::from_millis(50);
    let outcome = Client::builder()
        .handshake_timeout(short)
        .launch(["sleep", "1000"]);
    let reason = handshake_error(outcome);
    assert!(
        reason.contains("\"sleep 1000\" has not answered initialize within 50ms, and was killed"),
        "{reason}"
    );

    // One that has ended, and something it has started keeps its output open: how it ended is told.
    let script = "sleep 1000 & echo $! >&2; exit 7";
    let (mut stray, stderr) = std::io::pipe().expect("a pipe");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).stderr(stderr);
    let connecting = Client::builder()
        .handshake_timeout(Duration::from_secs(1))
        .start(command)
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(&mut stray)
        .read_line(&mut line)
        .expect("the pid of the sleep");
    let ended = Path::new("/proc").join(connecting.server_pid().expect("it was launched").to_string());
    wait_until("the shell has ended", || {
        let stat = std::fs::read_to_string(ended.join("stat")).expect("it is not reaped yet");
        stat.contains(") Z ")
    });
    let reason = handshake_error(connecting.finish());
    // Whether it could still be written to depends on when it has ended.
    assert!(reason.contains(", and has ended with exit status: 7"), "{reason}");
    kill_stray(line.trim().parse().expect("a pid"));

    let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
    let reader = ours.try_clone().expect("a descriptor");
    let silent = Client::builder()
        .handshake_timeout(short)
        .over(reader, Shut(ours));
    assert!(handshake_error(silent).contains("has not answered"));
    // A flood of messages is not an answer.
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let flood = thread::spawn(move || {
        let mut peer = Peer {
            input: BufReader::new(theirs.try_clone().expect("a descriptor")),
            output: theirs,
        };
        while peer.notify("noise", &json!({})) {}
    });
    let reader = ours.try_clone().expect("a descriptor");
    let closer = ours.try_clone().expect("a descriptor");
    let noisy = Client::builder()
        .handshake_timeout(short)
        .over(reader, Shut(ours));
    assert!(handshake_error(noisy).contains("has not answered"));
    closer.shutdown(Shutdown::Both).expect("it is connected");
    flood.join().expect("no panic");
    assert!(begun.elapsed() < PATIENCE);
}

#[apply(test)]
fn a_server_is_ended_before_it_has_answered() {
    let mut builder = Client::builder();
    let connecting = builder
        .handshake_timeout(None)
        .start(["sleep", "1000"])
        .expect("it starts");
    let server = connecting.server_pid().expect("it was launched");
    let waiting = thread::spawn(move || connecting.finish());
    let server = libc::pid_t::try_from(server).expect("a pid");
    // SAFETY: a child that is not reaped while `finish` waits for its answer.
    assert_eq!(unsafe { libc::kill(server, libc::SIGTERM) }, 0);
    let reason = handshake_error(waiting.join().expect("no panic"));
    assert!(
        reason.contains("\"sleep 1000\" ended with signal: 15"),
        "{reason}"
    );
}

#[apply(test)]
fn a_server_that_knows_no_handshake_serves() {
    let (client, server) = try_served(|peer| {
        let initialize = peer.next().expect("the handshake");
        peer.refuse(&initialize, -32601, "unknown method");
        assert_eq!(peer.next().expect("its end")["method"], "initialized");
        let spawn = peer.next().expect("a spawn");
        peer.answer(&spawn, &json!({ "pid": 7 }));
        peer.exited(&spawn["params"]["processHandle"], 0);
    });
    let mut process = client
        .expect("it answers")
        .spawn(Command::new("x"))
        .expect("it says so");
    assert!(process.wait().expect("it says so").success());
    join(server);
}

/// `{}` to a spawn, no pid, no offsets, exits with the least members, errors without data.
#[apply(test)]
fn a_server_that_answers_as_the_reference_does_serves() {
    let (client, server) = served(|peer| {
        let spawn = peer.next().expect("a spawn");
        let handle = &spawn["params"]["processHandle"];
        peer.answer(&spawn, &json!({}));
        let delta = json!({ "processHandle": handle, "stream": "stdout", "deltaBase64": encode(b"hi"), "capReached": false });
        peer.notify("process/outputDelta", &delta);
        let write = peer.next().expect("a write");
        peer.answer(&write, &json!({}));
        let kill = peer.next().expect("a kill");
        peer.answer(&kill, &json!({}));
        peer.exited(handle, 137);
        let spawn = peer.next().expect("a second spawn");
        peer.refuse(
            &spawn,
            -32603,
            "failed to spawn process: No such file or directory (os error 2)",
        );
    });
    let mut process = client.spawn(Command::new("x")).expect("it says so");
    assert_eq!(process.id(), None);
    let mut events = process.events();
    let event = events.next().expect("an event").expect("output");
    assert_eq!(event, Event::Stdout(b"hi".to_vec()));
    let stdin = process.stdin.as_mut().expect("not taken");
    stdin.write_all(b"x").expect("it says so");
    process.kill().expect("it says so");
    let status = process.control().wait().expect("it says so");
    assert_eq!((status.code(), status.signal()), (Some(137), None));
    assert!(events.next().is_none());
    drop(process.stdin.take());
    let error = client.spawn(Command::new("x")).expect_err("it says so");
    let error = std::io::Error::from(error);
    assert_eq!(
        (error.kind(), error.raw_os_error()),
        (ErrorKind::NotFound, Some(2))
    );
    join(server);
}

/// The reference refuses a spawn without one. A server that reports its limits does not need one.
#[apply(test)]
fn a_reference_that_was_launched_is_given_a_directory() {
    for (limits, given) in [
        ("", true),
        (r#","limits":null,"codexHome":null"#, true),
        (r#","limits":{"maxMessageBytes":9999}"#, false),
    ] {
        let script = r#"
            read initialize; echo "{\"id\":1,\"result\":{\"userAgent\":\"x\"LIMITS}}"
            read initialized; read spawn
            case "$spawn" in *'"cwd":"/usr"'*) code=1 ;; *'"cwd"'*) code=2 ;; *) code=3 ;; esac
            echo "{\"id\":3,\"result\":{}}"
            echo "{\"method\":\"process/exited\",\"params\":{\"processHandle\":\"p2\",\"exitCode\":$code}}"
            read end"#;
        let mut server = std::process::Command::new("sh");
        server.args(["-c", &script.replace("LIMITS", &limits.replace('"', "\\\""))]);
        server.current_dir("/usr");
        let client = patient(server);
        let mut process = client.spawn(Command::new("x")).expect("it says so");
        let code = process.wait().expect("it says so").code();
        assert_eq!(code, Some(if given { 1 } else { 3 }));
    }
}

/// What is not the answer to a request is an error of that request, and of no other.
#[apply(test)]
fn an_answer_means_what_was_asked() {
    let (client, server) = served(|peer| {
        for result in [
            json!({ "pid": 7 }),
            json!([]),
            json!({ "processes": [{}] }),
            json!({ "processes": [] }),
        ] {
            let list = peer.next().expect("a list");
            peer.answer(&list, &result);
        }
        // To a spawn, a list of processes says no more than that it runs.
        let spawn = peer.next().expect("a spawn");
        peer.answer(&spawn, &json!({ "processes": [], "userAgent": "x" }));
        peer.exited(&spawn["params"]["processHandle"], 3);
        let list = peer.next().expect("a list");
        // The first answer is the answer.
        peer.answer(&list, &json!({ "processes": [] }));
        peer.answer(&list, &json!("again"));
    });
    for _ in 0..3 {
        let error = client.list().expect_err("that is not a list");
        assert!(
            matches!(&error, Error::Unexpected(why) if why.contains("process/list")),
            "{error:?}"
        );
        assert_eq!(std::io::Error::from(error).kind(), ErrorKind::InvalidData);
    }
    assert!(client.list().expect("an empty list").is_empty());
    let mut process = client.spawn(Command::new("x").no_stdin()).expect("it says so");
    assert_eq!(process.wait().expect("it says so").code(), Some(3));
    assert!(client.list().expect("an empty list").is_empty());
    join(server);
}

#[apply(test)]
fn a_server_that_could_not_read_a_request_is_given_up() {
    let (client, server) = served(|peer| {
        peer.next();
        peer.send(r#"{"id":null,"error":{"code":-32700,"message":"what?"}}"#);
        peer.next()
    });
    let error = client.list().expect_err("it has no answer");
    assert!(matches!(&error, Error::Ended(Some(why)) if why.contains("could not read a request: what?")));
    drop(client);
    assert_eq!(join(server), None);
}

#[apply(test)]
fn events_end_with_the_connection() {
    let (client, server) = served(|peer| {
        let spawn = peer.next().expect("a spawn");
        peer.answer(&spawn, &json!({ "pid": 7 }));
    });
    let mut process = client.spawn(Command::new("x")).expect("it says so");
    let events: Vec<_> = process.events().take(3).collect();
    assert_eq!(events.len(), 1, "{events:?}");
    let error = events[0].as_ref().expect_err("that is not an end of output");
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    assert!(process.wait().is_err() && process.wait_with_output().is_err());
    join(server);
}

fn delta(handle: &str, bytes: usize) -> Value {
    let bytes = encode(&vec![b'x'; bytes]);
    json!({ "processHandle": handle, "stream": "stdout", "deltaBase64": bytes })
}

/// Some 300 MB of each kind, and then the answer.
#[apply(test)]
fn floods_of_what_was_not_asked_for_are_dropped() {
    let (client, server) = served(|peer| {
        let spawn = peer.next().expect("a spawn");
        let handle = spawn["params"]["processHandle"]
            .as_str()
            .expect("a string")
            .to_owned();
        peer.answer(&spawn, &json!({ "pid": 7 }));
        let close = peer.next().expect("the end of its output");
        assert_eq!(close["method"], "process/closeOutput");
        let list = peer.next().expect("a list");
        let long = "x".repeat(1_000_000);
        let unknown = [
            json!({ "method": "no/such", "params": { "text": &long } }),
            json!({ "id": 77, "method": "a/request", "params": { "text": &long } }),
            json!({ "id": 1_000_000, "result": { "text": &long } }),
            json!({ "id": 1, "result": { "text": &long } }),
            json!({ "id": &long, "result": {} }),
            json!({ "id": u64::MAX, "error": { "code": 1, "message": &long } }),
            json!({ "method": "process/outputDelta", "params": delta("no-such-process", 700_000) }),
            json!({ "method": "process/outputDelta", "params": delta(&long, 10) }),
            // The reading end of this one was dropped.
            json!({ "method": "process/outputDelta", "params": delta(&handle, 700_000) }),
            json!({ "method": "process/exited", "params": { "processHandle": &long, "exitCode": 0, "stdout": &long } }),
        ];
        for line in unknown.map(|line| line.to_string()) {
            for _ in 0..30 {
                assert!(peer.send(&line), "it is still there");
            }
        }
        peer.answer(&list, &json!({ "processes": [] }));
        peer.exited(&json!(handle), 0);
    });
    let mut process = client.spawn(Command::new("x").no_stdin()).expect("it says so");
    drop(process.stdout.take());
    let before = private_bytes();
    assert!(client.list().expect("an empty list").is_empty());
    assert!(process.wait().expect("it says so").success());
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 60_000_000, "{grown} bytes were kept");
    join(server);
}

/// In big pieces and in tiny ones, for which there is more to keep than the bytes.
#[apply(test)]
fn endless_output_that_is_not_read_is_bounded() {
    let (client, server) = served(|peer| {
        for bytes in [100_000, 1] {
            let spawn = peer.next().expect("a spawn");
            let handle = spawn["params"]["processHandle"].as_str().expect("a string");
            peer.answer(&spawn, &json!({ "pid": 7 }));
            let line = |stream| {
                let mut delta = delta(handle, bytes);
                delta["stream"] = json!(stream);
                json!({ "method": "process/outputDelta", "params": delta }).to_string()
            };
            // Streams take turns, so that no piece can be joined to the last.
            let both = format!("{}\n{}", line("stdout"), line("stderr"));
            let (batch, batches) = if bytes == 1 { (1_000, 40) } else { (1, 300) };
            let batch = vec![both; batch].join("\n");
            for _ in 0..batches {
                assert!(peer.send(&batch), "it is still there");
            }
            peer.exited(&json!(handle), 0);
        }
    });
    for _ in 0..2 {
        let before = private_bytes();
        let mut process = client
            .spawn(Command::new("x").no_stdin().unread_limit(1_000_000))
            .expect("it says so");
        assert!(process.wait().expect("it says so").success());
        let grown = private_bytes().saturating_sub(before);
        assert!(grown < 20_000_000, "{grown} bytes were kept");
        let mut kept = 0;
        let mut losses = 0;
        for event in process.events() {
            match event {
                Ok(Event::Stdout(bytes) | Event::Stderr(bytes)) => kept += bytes.len(),
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert!(OutputLost::is(&error), "{error}");
                    losses += 1;
                }
            }
        }
        assert!(kept > 0 && kept <= 1_000_000, "{kept}");
        assert_eq!(losses, 2, "each stream has lost something");
    }
    join(server);
}

#[apply(test)]
fn an_endless_line_ends_the_connection() {
    let (client, server) = served(|peer| {
        peer.next();
        let zeros = vec![0; 1_000_000];
        let mut sent = 0_u64;
        while peer.output.write_all(&zeros).is_ok() {
            sent += zeros.len() as u64;
        }
        sent
    });
    let before = private_bytes();
    let error = client.list().expect_err("that is not a list");
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 150_000_000, "{grown} bytes were kept");
    assert!(
        matches!(&error, Error::Ended(Some(why)) if why.contains("longer than the limit")),
        "{error}"
    );
    let error = client.close().expect_err("that was not a good end");
    assert!(matches!(error, Error::Ended(Some(_))));
    let sent = join(server);
    assert!(sent < 100_000_000, "{sent} bytes were taken");
}

#[apply(test)]
fn what_a_server_says_is_shown_short_and_without_control_characters() {
    let hostile = "\x1b]0;owned\x07\x1b[2J\u{9b}31m\u{202e}\u{2066}\x7f\r\n";
    let long = "x".repeat(2_000_000);
    let (client, server) = served({
        let long = long.clone();
        move |peer| {
            let list = peer.next().expect("a list");
            peer.refuse(&list, -32603, hostile);
            let list = peer.next().expect("a list");
            peer.refuse(&list, -32603, &format!("{hostile}{long} and that is why"));
            let list = peer.next().expect("a list");
            peer.answer(&list, &json!({ "processes": format!("{hostile}{long}") }));
            let spawn = peer.next().expect("a spawn");
            peer.answer(&spawn, &json!({ "pid": 7 }));
            let signal = format!("{hostile}{long}");
            let params =
                json!({ "processHandle": spawn["params"]["processHandle"], "exitCode": 1, "signal": signal });
            peer.notify("process/exited", &params);
            peer.next();
            peer.send(format!("{hostile}{long}").replace('\n', ""));
        }
    });
    let error = client.list().expect_err("it is refused");
    assert_harmless(&error.to_string());
    assert!(error.to_string().contains("owned"), "{error}");
    assert!(
        matches!(&error, Error::Refused(e) if e.message == hostile),
        "the member is what was sent"
    );
    let error = client.list().expect_err("it is refused");
    assert_harmless(&error.to_string());
    assert!(error.to_string().contains(" and that is why"), "{error}");
    assert_harmless(&client.list().expect_err("that is not a list").to_string());
    let mut process = client.spawn(Command::new("x").no_stdin()).expect("it says so");
    let status = process.wait().expect("it says so");
    assert_harmless(&status.to_string());
    let error = client.list().expect_err("that is not a message");
    assert_harmless(&error.to_string());
    let wrapped = std::io::Error::from(error);
    assert_harmless(&wrapped.to_string());
    join(server);

    for (line, shown) in [
        (format!("{hostile}{long}"), "owned"),
        (format!("{{\"id\":\"{hostile}"), "id"),
    ] {
        let (outcome, server) = try_served(move |peer| {
            peer.next();
            peer.send(line);
        });
        let reason = handshake_error(outcome);
        assert_harmless(&reason);
        assert!(reason.contains(shown), "{reason}");
        join(server);
    }
    // What is ours is quoted as well.
    let program = format!("/no/{hostile}{long}");
    assert_harmless(&Client::launch([&program]).expect_err("there is none").to_string());
    assert_harmless(
        &super::in_process()
            .spawn(Command::new(&program))
            .expect_err("there is none")
            .to_string(),
    );
}

/// All output is streamed, so an exit has none; a hostile one is not kept for as long as its status.
#[apply(test)]
fn collected_output_that_was_not_asked_for_is_not_kept() {
    let (client, server) = served(|peer| {
        let long = "x".repeat(8_000_000);
        for _ in 0..6 {
            let spawn = peer.next().expect("a spawn");
            peer.answer(&spawn, &json!({ "pid": 7 }));
            let handle = &spawn["params"]["processHandle"];
            let params = json!({ "processHandle": handle, "exitCode": 0, "stdout": &long, "stderr": &long });
            peer.notify("process/exited", &params);
        }
        drop(long);
        peer.next()
    });
    let before = private_bytes();
    let statuses: Vec<_> = (0..6)
        .map(|_| client.status(Command::new("x")).expect("it says so"))
        .collect();
    drop(client);
    join(server);
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 70_000_000, "{grown} bytes were kept");
    assert!(
        statuses
            .iter()
            .all(|status| status.details().stdout.bytes.is_empty())
    );
}

/// Neither the end of its input nor a request that it does not take holds up the end.
#[apply(test)]
fn a_server_that_does_not_end_is_killed() {
    let client = patient(["sh", "-c", &stops_reading_after(1)]);
    let process = client.spawn(Command::new("x").no_stdin()).expect("it says so");
    let control = process.control();
    let writer = thread::Builder::new()
        .name("stuck-writer".to_owned())
        .spawn(move || control.signal(&*"x".repeat(1_000_000)));
    let writer = writer.expect("a thread");
    wait_until("the write is held up", || {
        thread_state("stuck-writer") == Some('S')
    });
    let begun = Instant::now();
    let error = client.close().expect_err("that was not a good end");
    let expected = "has not closed its output within 10s of the end of its input, and was killed";
    assert!(error.to_string().contains(expected), "{error}");
    assert!(begun.elapsed() < 2 * PATIENCE);
    let outcome = writer.join().expect("no panic");
    assert!(matches!(outcome, Err(Error::Ended(_))), "{outcome:?}");
    // And the server is not left running, which the harness checks.
}

/// A command that answers the handshake and so many spawns, and then stays without reading.
fn stops_reading_after(spawns: usize) -> String {
    let mut script = r#"read initialize; echo '{"id":1,"result":{}}'; read initialized"#.to_owned();
    for spawn in 0..spawns {
        // A handle takes a number as well.
        let id = 3 + 2 * spawn;
        script += &format!("; read spawn; echo '{{\"id\":{id},\"result\":{{}}}}'");
    }
    script + "; exec sleep 1000"
}

/// What is not waited for does not wait for the server either: drops, and what is posted.
#[apply(test)]
fn a_server_that_stops_reading_holds_up_no_drop() {
    let client = patient(["sh", "-c", &stops_reading_after(3)]);
    let spawn = || client.spawn(Command::new("x")).expect("it says so");
    let (dropped, mut waited, mut posted) = (spawn(), spawn(), spawn());
    let control = dropped.control();
    // More than a pipe holds, and then more than is kept.
    for _ in 0..40 {
        control.post_signal(&*"x".repeat(100_000), None);
    }
    wait_until("the pipe is full", || thread_state("client-post") == Some('S'));
    assert!(private_bytes() < 200 * 1024 * 1024, "{}", private_bytes());
    drop(dropped);
    drop(waited.stdin.take());
    assert_eq!(waited.wait_timeout(Duration::ZERO).expect("it runs"), None);
    assert_eq!(posted.try_wait().expect("it runs"), None);
    posted.post_resize(10, 10);
    drop((waited, posted));
    let server = client.server_pid().expect("it was launched");
    drop(client);
    kill_stray(server);
    wait_until("its threads have ended", || {
        thread_state("client-post").is_none() && thread_state("client-read").is_none()
    });
}

/// What was posted while the server did not read comes before what is sent afterwards, in its order.
#[apply(test)]
fn what_is_posted_keeps_its_order() {
    let (resume, resumed) = mpsc::channel();
    let (client, server) = served(move |peer| {
        let mut handles = Vec::new();
        for _ in 0..2 {
            let spawn = peer.next().expect("a spawn");
            peer.answer(&spawn, &json!({}));
            handles.push(spawn["params"]["processHandle"].clone());
        }
        resumed.recv().expect("it is told to go on");
        let mut seen = Vec::new();
        loop {
            let request = peer.next().expect("a request");
            let handle = handles
                .iter()
                .position(|h| *h == request["params"]["processHandle"]);
            seen.push((request["method"].as_str().expect("a method").to_owned(), handle));
            if request["method"] == "process/list" {
                peer.answer(&request, &json!({ "processes": [] }));
                return seen;
            }
        }
    });
    let spawn = || client.spawn(Command::new("x")).expect("it says so");
    let (one, mut other) = (spawn(), spawn());
    let control = one.control();
    // More than a socket holds.
    control.post_signal(&*"x".repeat(1_000_000), None);
    wait_until("the socket is full", || thread_state("client-post") == Some('S'));
    control.post_resize(10, 10);
    drop(other.stdin.take());
    drop(other);
    resume.send(()).expect("it waits");
    assert_eq!(client.list().expect("it answers").len(), 0);
    let seen = join(server);
    let expected = [
        ("process/kill", Some(0)),
        ("process/resizePty", Some(0)),
        ("process/writeStdin", Some(1)),
        ("process/kill", Some(1)),
        ("process/list", None),
    ];
    assert_eq!(seen, expected.map(|(method, handle)| (method.to_owned(), handle)));
    drop(one);
}

fn thread_state(name: &str) -> Option<char> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("there is /proc");
    let mut stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let stat = stats.find(|stat| stat.contains(&format!("({name})")))?;
    stat.rsplit(") ").next()?.chars().next()
}
