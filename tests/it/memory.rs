//! Connections inside one program: typed messages with raw bytes, the stopper, several servers, and
//! what is bounded while the client does not receive.

use crate::harness::{
    PATIENCE, Scratch, apply, children_of, is_alive, private_bytes, test, times, wait_until,
    wait_until_at_rest,
};
use procwire::protocol::{
    Capabilities, ClientInfo, Exited, InitializeParams, KillParams, Limit, ListReply, PtySize, Redirect,
    Reply, Request, RequestId, ResizePtyParams, RpcError, ServerMessage, SignalName, SpawnParams, Stage,
    Stream, WriteStdinParams, code,
};
use procwire::{ClientEnd, Config, Connection, ConnectionEnded, End, Error};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A server on a thread, and the client's end.
fn serve(config: Config) -> (ClientEnd, JoinHandle<Result<End, Error>>) {
    let (connection, client) = Connection::memory();
    (client, dispatch(connection, config))
}

fn dispatch(connection: Connection, config: Config) -> JoinHandle<Result<End, Error>> {
    std::thread::Builder::new()
        .name("dispatch".into())
        .spawn(move || procwire::serve(connection, config))
        .expect("a thread for the server")
}

/// How the server ended, which it must do in time.
fn ended(server: JoinHandle<Result<End, Error>>) -> End {
    wait_until("the server has ended", || server.is_finished());
    server
        .join()
        .expect("the server does not panic")
        .expect("the server serves")
}

fn next(client: &mut ClientEnd) -> ServerMessage {
    let message = client.recv_timeout(PATIENCE).expect("the server is there");
    message.expect("a message in time")
}

fn params(handle: &str, command: &[&str]) -> SpawnParams {
    SpawnParams {
        command: command.iter().map(|&c| c.to_owned()).collect(),
        process_handle: handle.to_owned(),
        timeout_ms: Limit::Unlimited,
        output_bytes_cap: Limit::Unlimited,
        ..SpawnParams::default()
    }
}

fn streamed(handle: &str, command: &[&str]) -> SpawnParams {
    SpawnParams {
        stream_stdin: true,
        stream_stdout_stderr: true,
        ..params(handle, command)
    }
}

/// Asks, and takes what comes until the answer has; what came before it is given to `other`.
fn ask(
    client: &mut ClientEnd,
    request: Request,
    mut other: impl FnMut(ServerMessage),
) -> Result<Reply, RpcError> {
    client.send("ask", request).expect("the server is there");
    loop {
        match next(client) {
            ServerMessage::Response { id, outcome } if id == Some("ask".into()) => return outcome,
            message => other(message),
        }
    }
}

/// Asks where nothing but the answer may come.
fn ask_only(client: &mut ClientEnd, request: Request) -> Result<Reply, RpcError> {
    ask(client, request, |other| panic!("not the answer: {other:?}"))
}

fn spawn(client: &mut ClientEnd, params: SpawnParams) -> u32 {
    match ask_only(client, Request::Spawn(params.into())) {
        Ok(Reply::Spawn(reply)) => reply.pid,
        other => panic!("no process: {other:?}"),
    }
}

fn write(handle: &str, bytes: &[u8]) -> Request {
    Request::WriteStdin(WriteStdinParams {
        process_handle: handle.to_owned(),
        delta: Some(bytes.to_vec()),
        close_stdin: false,
    })
}

fn close(handle: &str) -> Request {
    Request::WriteStdin(WriteStdinParams {
        process_handle: handle.to_owned(),
        delta: None,
        close_stdin: true,
    })
}

fn kill(handle: &str) -> Request {
    Request::Kill(KillParams {
        process_handle: handle.to_owned(),
        ..KillParams::default()
    })
}

/// Takes the output of one stream of one process, gap by gap, until the process has exited.
fn collect(client: &mut ClientEnd, handle: &str, of: Stream) -> (Vec<u8>, Exited) {
    let mut bytes = Vec::new();
    loop {
        match next(client) {
            // The other stream may end long before the process, on a busy machine.
            ServerMessage::OutputDelta(delta) if delta.eof && delta.stream != of => {}
            ServerMessage::OutputDelta(delta) => {
                assert_eq!((&*delta.process_handle, delta.stream), (handle, of));
                assert_eq!(delta.offset, bytes.len() as u64, "a gap");
                bytes.extend(delta.bytes);
            }
            ServerMessage::Exited(exited) => {
                assert_eq!(&*exited.process_handle, handle);
                return (bytes, *exited);
            }
            ServerMessage::Response { id, outcome } => {
                assert_eq!(outcome, Ok(Reply::Done), "the answer to {id:?}");
            }
            other => panic!("neither output, an answer nor an exit: {other:?}"),
        }
    }
}

/// All byte values, in and out, with nothing that would change them in between.
#[apply(test)]
fn bytes_go_both_ways_as_they_are() {
    let all: Vec<u8> = (0..=u8::MAX).cycle().take(300_000).collect();
    for of in [Stream::Stdout, Stream::Stderr] {
        let (mut client, server) = serve(Config::default());
        let command: &[&str] = match of {
            Stream::Stdout => &["cat"],
            // The shell keeps its stdout open, whose end would be told otherwise.
            _ => &["sh", "-c", "cat >&2; exit"],
        };
        let pid = spawn(&mut client, streamed("a", command));
        for piece in all.chunks(70_001) {
            client.send(1, write("a", piece)).expect("the server is there");
        }
        client.send(2, close("a")).expect("the server is there");
        let (bytes, exited) = collect(&mut client, "a", of);
        assert!(bytes == all, "{} bytes came back", bytes.len());
        assert_eq!((exited.pid, exited.exit_code, exited.signal), (pid, 0, None));
        assert_eq!(exited.stdout_bytes + exited.stderr_bytes, all.len() as u64);
        drop(client);
        assert_eq!(ended(server), End::InputEnded);
    }
    // Collected output is bytes as well, and what is not UTF-8 stays as it was.
    let (mut client, server) = serve(Config::default());
    spawn(&mut client, params("a", &["printf", "\\377\\000x"]));
    let (_, exited) = collect(&mut client, "a", Stream::Stdout);
    assert_eq!(exited.stdout.bytes, b"\xff\0x");
    drop(client);
    ended(server);
}

#[apply(test)]
fn ids_come_back_as_given() {
    let (mut client, server) = serve(Config::default());
    let ids = [
        RequestId::Signed(i64::MIN),
        RequestId::Unsigned(u64::MAX),
        RequestId::Text(String::new()),
        RequestId::Text("\0é".into()),
        7.into(),
        "seven".into(),
    ];
    for id in ids {
        client
            .send(id.clone(), Request::List)
            .expect("the server is there");
        let expected = ServerMessage::Response {
            id: Some(id),
            outcome: Ok(Reply::List(ListReply::default())),
        };
        assert_eq!(next(&mut client), expected);
    }
    drop(client);
    ended(server);
}

#[apply(test)]
fn every_request_has_its_reply() {
    let (mut client, server) = serve(Config::default());
    let hello = InitializeParams {
        client_info: ClientInfo {
            name: "tester".into(),
            ..ClientInfo::default()
        },
        capabilities: None,
    };
    match ask_only(&mut client, Request::Initialize(hello)) {
        Ok(Reply::Initialize(reply)) => {
            assert_eq!(reply.server_info.name, "procwire");
            assert_eq!(reply.limits.default_timeout_ms, Some(10_000));
            assert_eq!(reply.limits.default_pty_size, PtySize { rows: 24, cols: 80 });
        }
        other => panic!("no handshake: {other:?}"),
    }
    let terminal = SpawnParams {
        tty: true,
        size: Some(PtySize { rows: 10, cols: 20 }),
        ..params("t", &["sh", "-c", "read x; stty size; read x"])
    };
    let pid = spawn(&mut client, terminal);
    match ask_only(&mut client, Request::List) {
        Ok(Reply::List(ListReply { processes, .. })) => {
            assert_eq!(processes.len(), 1);
            assert_eq!(
                (processes[0].process_handle.as_str(), processes[0].pid),
                ("t", pid)
            );
            assert!(processes[0].tty);
        }
        other => panic!("no list: {other:?}"),
    }
    let resize = Request::ResizePty(ResizePtyParams {
        process_handle: "t".into(),
        size: PtySize { rows: 33, cols: 44 },
    });
    assert_eq!(ask_only(&mut client, resize), Ok(Reply::Done));
    let mut screen = Vec::new();
    let mut look = |message| match message {
        ServerMessage::OutputDelta(delta) => screen.extend(delta.bytes),
        other => panic!("no output: {other:?}"),
    };
    assert_eq!(ask(&mut client, write("t", b"\n"), &mut look), Ok(Reply::Done));
    let deadline = Instant::now() + PATIENCE;
    while !String::from_utf8_lossy(&screen).contains("33 44") {
        assert!(Instant::now() < deadline, "the terminal's size: {screen:?}");
        match next(&mut client) {
            ServerMessage::OutputDelta(delta) => screen.extend(delta.bytes),
            other => panic!("no output: {other:?}"),
        }
    }
    let term = Request::Kill(KillParams {
        process_handle: "t".into(),
        signal: Some(SignalName::Name("SIGKILL".into())),
        grace_ms: None,
    });
    client.send(9, term).expect("the server is there");
    let mut exit = None;
    while exit.is_none() {
        match next(&mut client) {
            ServerMessage::Exited(exited) => exit = Some(exited),
            ServerMessage::Response { outcome, .. } => assert_eq!(outcome, Ok(Reply::Done)),
            ServerMessage::OutputDelta(_) => {}
            other => panic!("neither output, an answer nor an exit: {other:?}"),
        }
    }
    let exited = exit.expect("just seen");
    assert_eq!(
        (exited.exit_code, exited.signal.as_deref()),
        (137, Some("SIGKILL"))
    );
    drop(client);
    ended(server);
}

#[apply(test)]
fn errors_are_typed() {
    let (mut client, server) = serve(Config::default());
    let error = ask_only(
        &mut client,
        Request::Spawn(params("a", &["/nonexistent/program"]).into()),
    )
    .expect_err("there is no such program");
    assert_eq!(error.code, procwire::protocol::code::INTERNAL_ERROR);
    let data = error.data.expect("why it could not be started");
    assert_eq!(
        (data.errno, &*data.code, data.stage, &*data.program),
        (2, "ENOENT", Stage::Exec, "/nonexistent/program")
    );
    let error = ask_only(&mut client, kill("a")).expect_err("there is no such process");
    assert_eq!(error.code, procwire::protocol::code::INVALID_REQUEST);
    assert!(error.message.contains("\"a\""), "{error}");
    drop(client);
    ended(server);
}

/// What a line's parser would refuse on the wire is refused here, too.
#[apply(test)]
fn params_are_checked_without_a_parser() {
    let (mut client, server) = serve(Config::default());
    let good = || params("a", &["true"]);
    let size = |rows, cols| Some(PtySize { rows, cols });
    let env = |name: &str, value: &str| Some([(name.to_owned(), Some(value.to_owned()))].into());
    let bad = [
        (
            SpawnParams {
                command: vec![],
                ..good()
            },
            -32600,
        ),
        (
            SpawnParams {
                command: vec![String::new()],
                ..good()
            },
            -32600,
        ),
        (
            SpawnParams {
                process_handle: String::new(),
                ..good()
            },
            -32600,
        ),
        (
            SpawnParams {
                command: vec!["a".into(), "b\0c".into()],
                ..good()
            },
            -32602,
        ),
        (
            SpawnParams {
                cwd: Some("tmp".into()),
                ..good()
            },
            -32602,
        ),
        (
            SpawnParams {
                cwd: Some("/tmp\0".into()),
                ..good()
            },
            -32602,
        ),
        (
            SpawnParams {
                env: env("", "x"),
                ..good()
            },
            -32602,
        ),
        (
            SpawnParams {
                env: env("A=B", "x"),
                ..good()
            },
            -32602,
        ),
        (
            SpawnParams {
                env: env("A", "\0"),
                ..good()
            },
            -32602,
        ),
        (
            SpawnParams {
                size: size(1, 1),
                ..good()
            },
            -32602,
        ),
        (
            SpawnParams {
                tty: true,
                size: size(0, 1),
                ..good()
            },
            -32602,
        ),
        (
            SpawnParams {
                tty: true,
                size: size(1, 0),
                ..good()
            },
            -32602,
        ),
    ];
    for (params, code) in bad {
        let shown = format!("{params:?}");
        let error = ask_only(&mut client, Request::Spawn(params.into())).expect_err(&shown);
        assert_eq!(error.code, code, "{shown}");
    }
    let nothing = WriteStdinParams {
        process_handle: "a".into(),
        ..WriteStdinParams::default()
    };
    spawn(&mut client, streamed("a", &["cat"]));
    let error = ask_only(&mut client, Request::WriteStdin(nothing)).expect_err("nothing to write");
    assert_eq!(error.code, -32602);
    drop(client);
    ended(server);
}

/// A tree that ignores every polite signal; the pids of both.
fn stubborn_tree(client: &mut ClientEnd) -> [u32; 2] {
    let script = "trap '' TERM HUP INT; sleep 1000 & echo $!; wait";
    let pid = spawn(client, streamed("tree", &["sh", "-c", script]));
    match next(client) {
        ServerMessage::OutputDelta(delta) => {
            let text = String::from_utf8(delta.bytes).expect("a number");
            [pid, text.trim().parse().expect("a number")]
        }
        other => panic!("no output: {other:?}"),
    }
}

#[apply(test)]
fn dropping_the_client_ends_everything() {
    let (mut client, server) = serve(Config::default());
    let tree = stubborn_tree(&mut client);
    drop(client);
    assert_eq!(ended(server), End::InputEnded);
    assert!(!tree.into_iter().any(is_alive), "something of {tree:?} lives");
}

/// The end of input is not the end of output: what is known is still told, the exits last.
#[apply(test)]
fn dropping_the_sender_leaves_the_rest_to_be_received() {
    let (mut client, server) = serve(Config::default());
    let tree = stubborn_tree(&mut client);
    for id in 0..100 {
        client.send(id, Request::List).expect("the server is there");
    }
    let (sender, receiver) = client.split();
    drop(sender);
    let messages: Vec<ServerMessage> = receiver.collect();
    assert_eq!(ended(server), End::InputEnded);
    let answers = messages
        .iter()
        .filter(|m| matches!(m, ServerMessage::Response { outcome: Ok(_), .. }));
    assert_eq!(answers.count(), 100);
    match messages.last() {
        Some(ServerMessage::Exited(exited)) => {
            assert_eq!((exited.pid, exited.exit_code), (tree[0], 137));
            assert_eq!(exited.signal.as_deref(), Some("SIGKILL"));
        }
        other => panic!("not the exit: {other:?}"),
    }
}

/// Who receives nothing any more has gone, even if it could still send.
#[apply(test)]
fn dropping_the_receiver_ends_everything() {
    let (mut client, server) = serve(Config::default());
    let tree = stubborn_tree(&mut client);
    let (sender, receiver) = client.split();
    drop(receiver);
    assert_eq!(ended(server), End::OutputGone);
    assert!(!tree.into_iter().any(is_alive), "something of {tree:?} lives");
    assert_eq!(sender.send(1, Request::List), Err(ConnectionEnded));
}

#[apply(test)]
fn drain_waits_for_the_processes() {
    let config = Config::default().drain(true);
    let (mut client, server) = serve(config);
    spawn(&mut client, streamed("a", &["sh", "-c", "cat; echo over"]));
    client
        .send(1, write("a", b"some\n"))
        .expect("the server is there");
    client.send(2, close("a")).expect("the server is there");
    let (sender, receiver) = client.split();
    drop(sender);
    let mut bytes = Vec::new();
    let mut exit = None;
    for message in receiver {
        match message {
            ServerMessage::OutputDelta(delta) => bytes.extend(delta.bytes),
            ServerMessage::Exited(exited) => exit = Some(exited.exit_code),
            ServerMessage::Response { outcome, .. } => assert_eq!(outcome, Ok(Reply::Done)),
            other => panic!("neither output, an answer nor an exit: {other:?}"),
        }
    }
    assert_eq!((bytes.as_slice(), exit), (&b"some\nover\n"[..], Some(0)));
    assert_eq!(ended(server), End::InputEnded);
}

#[apply(test)]
fn stopper_ends_the_connection() {
    for drain in [false, true] {
        let config = Config::default().drain(drain);
        let (connection, mut client) = Connection::memory();
        let stopper = connection.stopper();
        let server = dispatch(connection, config);
        let tree = stubborn_tree(&mut client);
        let before = Instant::now();
        stopper.stop();
        stopper.clone().stop();
        assert!(before.elapsed() < Duration::from_secs(1), "stopping is asking");
        assert_eq!(ended(server), End::Stopped);
        assert!(!tree.into_iter().any(is_alive), "something of {tree:?} lives");
        // What it knew is there to be received, and then there is the end.
        match client.recv() {
            Ok(ServerMessage::Exited(exited)) => assert_eq!(exited.exit_code, 137),
            other => panic!("not the exit: {other:?}"),
        }
        assert_eq!(client.recv(), Err(ConnectionEnded));
        assert_eq!(client.recv_timeout(PATIENCE), Err(ConnectionEnded));
        assert_eq!(client.send(1, Request::List), Err(ConnectionEnded));
    }
}

#[apply(test)]
fn stopper_may_come_first_or_too_late() {
    let (connection, mut client) = Connection::memory();
    let stopper = connection.stopper();
    stopper.stop();
    client.send(1, Request::List).expect("it waits to be served");
    let server = dispatch(connection, Config::default());
    assert_eq!(ended(server), End::Stopped);
    stopper.stop();
    // What had been asked before is answered all the same.
    assert!(matches!(
        client.recv(),
        Ok(ServerMessage::Response { outcome: Ok(_), .. })
    ));
    assert_eq!(client.recv(), Err(ConnectionEnded));

    // A connection that is not served ends with its other half.
    let (connection, client) = Connection::memory();
    drop(connection);
    assert_eq!(client.send(1, Request::List), Err(ConnectionEnded));
}

/// The same handle on many servers of one program; the end of one is not the end of another.
#[apply(test)]
fn servers_share_nothing() {
    let mut all: Vec<_> = (0..8).map(|_| serve(Config::default())).collect();
    let mut pids = Vec::new();
    for (client, _) in &mut all {
        pids.push(spawn(client, streamed("same", &["cat"])));
    }
    let (first, server) = all.remove(0);
    drop(first);
    assert_eq!(ended(server), End::InputEnded);
    assert!(!is_alive(pids[0]));
    for (number, (client, _)) in all.iter_mut().enumerate() {
        let text = format!("server {number}");
        client
            .send(1, write("same", text.as_bytes()))
            .expect("the server is there");
        client.send(2, close("same")).expect("the server is there");
        let (bytes, exited) = collect(client, "same", Stream::Stdout);
        assert_eq!((bytes, exited.exit_code), (text.into_bytes(), 0));
    }
    for (client, server) in all {
        drop(client);
        assert_eq!(ended(server), End::InputEnded);
    }
}

#[apply(test)]
fn timed_receiving_gives_up_in_time() {
    let (mut client, server) = serve(Config::default());
    let before = Instant::now();
    assert_eq!(client.recv_timeout(Duration::from_millis(50)), Ok(None));
    assert!(before.elapsed() >= Duration::from_millis(50));
    assert_eq!(client.recv_timeout(Duration::ZERO), Ok(None));
    client.send(1, Request::List).expect("the server is there");
    // A time past the end of the clock is not a limit, and does not fail.
    assert!(matches!(client.recv_timeout(Duration::MAX), Ok(Some(_))));
    drop(client);
    ended(server);
}

/// The client does not receive: the flood stops at a bound and the server's memory with it, the same process is
/// killed at once, and then everything that was written is there without a gap.
#[apply(test)]
fn flood_waits_for_its_receiver() {
    let (mut client, server) = serve(Config::default());
    let before = private_bytes();
    let pid = spawn(
        &mut client,
        streamed("a", &["head", "-c", "1000000000", "/dev/zero"]),
    );
    // It is stopped by the full pipe.
    wait_until_at_rest("the flood has stopped", || vec![std::process::id(), pid]);
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes that were not received");
    client.send(1, kill("a")).expect("the server is there");
    wait_until("it is dead though the client does not receive", || !is_alive(pid));
    let (bytes, exited) = collect(&mut client, "a", Stream::Stdout);
    assert_eq!((exited.exit_code, exited.stdout_bytes), (137, bytes.len() as u64));
    assert!(
        bytes.len() >= 64 * 1024 && bytes.len() < 1_000_000_000,
        "{} bytes",
        bytes.len()
    );
    drop(client);
    ended(server);
}

/// More requests than may be unanswered: the sender waits for the receiver, and none is lost.
#[apply(test)]
fn requests_wait_for_their_receiver() {
    let (client, server) = serve(Config::default());
    let (sender, receiver) = client.split();
    let count = 65_536 + times(20_000);
    let feeder = std::thread::spawn(move || {
        for id in 0..count {
            sender
                .send(id as i64, Request::List)
                .expect("the server is there");
        }
    });
    // While the client does not receive, the last of them can never be taken.
    at_rest("no more is taken");
    assert!(!feeder.is_finished(), "{count} answers are waiting");
    let mut expected = 0;
    for message in receiver {
        match message {
            ServerMessage::Response { id, outcome: Ok(_) } => assert_eq!(id, Some(expected.into())),
            other => panic!("no answer: {other:?}"),
        }
        expected += 1;
    }
    assert_eq!(expected, count as i64);
    feeder.join().expect("all were sent");
    assert_eq!(ended(server), End::InputEnded);
}

/// Waits until the server in this process, and what it has started, wait for something.
fn at_rest(what: &str) {
    let own = std::process::id();
    let children = || children_of(own).into_iter().map(|child| child.pid);
    wait_until_at_rest(what, || children().chain([own]).collect());
}

/// Sends `requests` without receiving: at a bound no more is taken, and what the server holds by
/// then is less than 100 MiB. Then everything is received; how many answers and how many exits.
fn received_late(
    client: ClientEnd,
    requests: impl Iterator<Item = (RequestId, Request)> + Send + 'static,
) -> (usize, usize) {
    let (sender, receiver) = client.split();
    let before = private_bytes();
    let feeder = std::thread::spawn(move || {
        for (id, request) in requests {
            sender.send(id, request).expect("the server is there");
        }
    });
    at_rest("no more is taken");
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes that were not received");
    let (mut answers, mut exits) = (0, 0);
    for message in receiver {
        match message {
            ServerMessage::Response { .. } => answers += 1,
            ServerMessage::Exited(_) => exits += 1,
            ServerMessage::OutputDelta(_) => {}
            other => panic!("neither output, an answer nor an exit: {other:?}"),
        }
    }
    feeder.join().expect("all were sent");
    (answers, exits)
}

/// A name of `length` bytes or a few more.
fn long(name: &str, number: i64, length: usize) -> String {
    format!("{name}{number}{}", "x".repeat(length))
}

/// Starts a process whose place in a list is one and a half megabytes.
fn spawn_long(client: &mut ClientEnd, handle: &str) {
    let argument = "x".repeat(100_000);
    let mut command = vec!["sh", "-c", "sleep 1000"];
    command.extend([argument.as_str(); 15]);
    spawn(client, params(handle, &command));
}

/// An answer's id is a part of what waits for the client.
#[apply(test)]
fn long_ids_wait_for_their_receiver() {
    let (client, server) = serve(Config::default());
    let requests = (0..3_000).map(|n| (long("id", n, 100_000).as_str().into(), kill("none")));
    assert_eq!(received_late(client, requests), (3_000, 0));
    assert_eq!(ended(server), End::InputEnded);
}

/// So are the arguments that a list shows.
#[apply(test)]
fn long_lists_wait_for_their_receiver() {
    let (mut client, server) = serve(Config::default());
    spawn_long(&mut client, "a");
    let requests = (0..300).map(|n| (n.into(), Request::List));
    assert_eq!(received_late(client, requests), (300, 1));
    assert_eq!(ended(server), End::InputEnded);
}

/// What is remembered of processes whose exit has been received is bounded by its bytes.
#[apply(test)]
fn long_handles_are_forgotten() {
    let (mut client, server) = serve(Config::default());
    let mut before = 0;
    for n in 0..1_500 {
        let handle = long("handle", n, 4_000);
        spawn(&mut client, params(&handle, &["true"]));
        collect(&mut client, &handle, Stream::Stdout);
        if n == 99 {
            before = private_bytes();
        }
    }
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 6 << 20, "{grown} bytes of processes that have ended");
    drop(client);
    assert_eq!(ended(server), End::InputEnded);
}

/// Of a write that waits for its process the id is kept. Past a bound further ones are refused, also
/// to a client that receives everything, and each has its one answer.
#[apply(test)]
fn long_ids_of_writes_that_wait_are_bounded() {
    let (mut client, server) = serve(Config::default());
    spawn(&mut client, streamed("a", &["sleep", "1000"]));
    let before = private_bytes();
    let full = vec![b'x'; 1_300_000];
    client.send(0, write("a", &full)).expect("the server is there");
    let refusal = |message| match message {
        ServerMessage::Response { outcome, .. } => outcome.expect_err("nothing is read").code,
        other => panic!("no answer: {other:?}"),
    };
    let mut refused = 0;
    for n in 1..=3_000 {
        let id = long("id", n, 100_000);
        client
            .send(id.as_str(), write("a", b""))
            .expect("the server is there");
        while let Some(message) = client.recv_timeout(Duration::ZERO).expect("the server is there") {
            assert_eq!(refusal(message), code::OVERLOADED);
            refused += 1;
        }
    }
    let list = ask(&mut client, Request::List, |message| {
        assert_eq!(refusal(message), code::OVERLOADED);
        refused += 1;
    });
    assert!(list.is_ok());
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 50 << 20, "{grown} bytes of writes that wait");
    client.send("kill", kill("a")).expect("the server is there");
    let mut waited = 0;
    loop {
        match next(&mut client) {
            ServerMessage::Response { id, outcome } if id == Some("kill".into()) => {
                assert_eq!(outcome, Ok(Reply::Done));
            }
            ServerMessage::Exited(_) => break,
            message => {
                assert_eq!(refusal(message), code::INVALID_REQUEST);
                waited += 1;
            }
        }
    }
    assert_eq!(refused + waited, 3_001);
    assert!(waited > 50, "{waited} that waited");
    drop(client);
    assert_eq!(ended(server), End::InputEnded);
}

/// Leaves so much for the client to receive that no spawn is started before it has. How many answers
/// and exits that are; `alive` is how many processes there are beside.
fn leave_exits(client: &mut ClientEnd, alive: usize) -> usize {
    const COUNT: usize = 40;
    for n in 0..COUNT {
        let request =
            Request::Spawn(params(&format!("left{n}"), &["head", "-c", "1000000", "/dev/zero"]).into());
        client.send("left", request).expect("the server is there");
    }
    wait_until("they have exited", || {
        at_rest("they have exited");
        children_of(std::process::id()).len() <= alive
    });
    COUNT
}

/// What is asked of spawns that are held back, and those themselves, are bounded by their bytes.
#[apply(test)]
fn long_spawns_that_are_held_back_wait_for_their_receiver() {
    let (mut client, server) = serve(Config::default());
    let left = leave_exits(&mut client, 0);
    let argument = "x".repeat(100_000);
    let long_spawn = params("", &["true", &argument, &argument]);
    let requests = (0..500).map(move |n| {
        let spawn = SpawnParams {
            // Each second one waits after another of its handle.
            process_handle: long("h", n & !1, 4_000),
            ..long_spawn.clone()
        };
        (n.into(), Request::Spawn(spawn.into()))
    });
    let (answers, exits) = received_late(client, requests);
    assert_eq!(answers, left + 500);
    assert!((left..=left + 500).contains(&exits), "{exits} exits");
    assert_eq!(ended(server), End::InputEnded);
}

/// What a list has to know of the spawns before it is bounded, too.
#[apply(test)]
fn lists_behind_spawns_wait_for_their_receiver() {
    let (mut client, server) = serve(Config::default());
    let left = leave_exits(&mut client, 0);
    let requests = (0..6_500).map(|n| match n < 2_000 {
        true => (
            n.into(),
            Request::Spawn(params(&format!("{n}"), &["/nonexistent"]).into()),
        ),
        false => (n.into(), Request::List),
    });
    assert_eq!(received_late(client, requests), (left + 6_500, left));
    assert_eq!(ended(server), End::InputEnded);
}

/// Lists that have waited for the same spawn are not all made at once when it starts.
#[apply(test)]
fn lists_that_waited_together_are_sent_one_by_one() {
    let (mut client, server) = serve(Config::default());
    spawn_long(&mut client, "long");
    leave_exits(&mut client, 1);
    let is_list = |outcome: &Result<Reply, RpcError>| matches!(outcome, Ok(Reply::List(_)));
    let before = private_bytes();
    client
        .send("late", Request::Spawn(params("late", &["true"]).into()))
        .expect("the server is there");
    let (sender, mut receiver) = client.split();
    let (done, all_sent) = std::sync::mpsc::channel();
    let sending = std::thread::spawn(move || {
        for n in 0..300 {
            sender.send(n, Request::List).expect("the server is there");
        }
        let _ = done.send(());
        sender
    });
    // On a machine where that takes longer than a list waits, the rest is sent while the first are received.
    let _ = all_sent.recv_timeout(Duration::from_secs(2));
    let mut next = || {
        let message = receiver.recv_timeout(PATIENCE).expect("the server is there");
        message.expect("a message in time")
    };
    let mut answers = 0;
    loop {
        match next() {
            ServerMessage::Response { id, outcome } if id == Some("late".into()) => {
                assert!(outcome.is_ok());
                break;
            }
            ServerMessage::Response { outcome, .. } => answers += usize::from(is_list(&outcome)),
            _ => {}
        }
    }
    // As many lists are made as ever will be while none is received.
    at_rest("no more lists are made");
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes that were not received");
    while answers < 300 {
        if let ServerMessage::Response { outcome, .. } = next() {
            answers += usize::from(is_list(&outcome));
        }
    }
    drop(sending.join().expect("all were sent"));
    assert_eq!(ended(server), End::InputEnded);
}

/// As many requests as are taken, and all of them lists that wait for a spawn which does not come to its end.
#[apply(test)]
fn lists_that_leave_no_room_for_requests_are_answered() {
    let scratch = Scratch::new();
    let fifo = crate::streams::fifo(&scratch, "fifo");
    let (client, server) = serve(Config::default());
    let spawn = SpawnParams {
        stdin: Some(Redirect::file(fifo)),
        ..params("waits", &["cat"])
    };
    client
        .send("spawn", Request::Spawn(Box::new(spawn)))
        .expect("the server is there");
    let (sender, mut receiver) = client.split();
    // Few, so that all are sent before the first is answered without the spawn; their ids take the room.
    let count = 40;
    let feeder = std::thread::spawn(move || {
        for n in 0..count {
            let id = long("id", n, 1_000_000);
            sender
                .send(id.as_str(), Request::List)
                .expect("the server is there");
        }
        sender
    });
    for _ in 0..count {
        match receiver.recv_timeout(PATIENCE).expect("the server is there") {
            Some(ServerMessage::Response { outcome, .. }) => {
                assert_eq!(outcome, Ok(Reply::List(ListReply::default())));
            }
            other => panic!("not a list: {other:?}"),
        }
    }
    drop(feeder.join().expect("all were sent"));
    let last: Vec<ServerMessage> = receiver.collect();
    assert!(
        matches!(&last[..], [ServerMessage::Response { id, outcome: Err(_) }] if *id == Some("spawn".into())),
        "{last:?}"
    );
    assert_eq!(ended(server), End::InputEnded);
}

#[apply(test)]
fn opting_out_is_the_same_in_memory() {
    let (mut client, server) = serve(Config::default());
    let hello = InitializeParams {
        client_info: ClientInfo::default(),
        capabilities: Some(Capabilities {
            opt_out_notification_methods: Some(vec!["process/outputDelta".into()]),
            ..Capabilities::default()
        }),
    };
    assert!(ask_only(&mut client, Request::Initialize(hello)).is_ok());
    spawn(&mut client, streamed("a", &["echo", "x"]));
    match next(&mut client) {
        ServerMessage::Exited(exited) => assert_eq!((exited.exit_code, exited.stdout_bytes), (0, 2)),
        other => panic!("not the exit: {other:?}"),
    }
    drop(client);
    ended(server);
}

/// A library waits for its own children only, and kills no other.
#[apply(test)]
fn other_children_of_the_program_are_left_alone() {
    let mut own = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .expect("sleep starts");
    let mut done = std::process::Command::new("sh")
        .args(["-c", "exit 7"])
        .spawn()
        .expect("sh starts");
    let (mut client, server) = serve(Config::default());
    for _ in 0..20 {
        spawn(&mut client, params("a", &["true"]));
        collect(&mut client, "a", Stream::Stdout);
    }
    stubborn_tree(&mut client);
    drop(client);
    ended(server);
    assert!(is_alive(own.id()), "a stranger was killed");
    assert!(
        children_of(std::process::id()).iter().any(|c| c.pid == done.id()),
        "a stranger was reaped"
    );
    assert_eq!(done.wait().expect("it is still ours").code(), Some(7));
    own.kill().expect("it is ours");
    own.wait().expect("it is ours");
}

/// Where the kernel throws away how children end, nothing is served.
#[apply(test)]
fn ignored_sigchld_is_refused() {
    let set = |handler| {
        // SAFETY: this test has its process to itself, and no handler is a function.
        unsafe { libc::signal(libc::SIGCHLD, handler) };
    };
    set(libc::SIG_IGN);
    let (client, server) = serve(Config::default());
    wait_until("it has been refused", || server.is_finished());
    let error = server
        .join()
        .expect("no panic")
        .expect_err("exit codes would be lost");
    assert!(error.to_string().contains("SIGCHLD"), "{error}");
    assert_eq!(client.send(1, Request::List), Err(ConnectionEnded));
    set(libc::SIG_DFL);
    let (mut client, server) = serve(Config::default());
    spawn(&mut client, params("a", &["sh", "-c", "exit 7"]));
    assert_eq!(collect(&mut client, "a", Stream::Stdout).1.exit_code, 7);
    drop(client);
    ended(server);
}

/// A client that does not wait for the exit before it uses the handle again can tell whose output
/// and exit it receives: those of the first process come before the answer to the second spawn.
#[apply(test)]
fn handle_used_again_is_answered_after_its_last_exit() {
    let scratch = Scratch::new();
    for round in 0..times(3) {
        let (mut client, server) = serve(Config::default());
        let run = |name: &str, attempts: std::ops::Range<i64>| {
            let done = scratch.path(&format!("{name}{round}"));
            let script = format!("printf {name}; : > {done}");
            for id in attempts.clone() {
                let request = Request::Spawn(streamed("a", &["sh", "-c", &script]).into());
                client.send(id, request).expect("the server is there");
                let sent = Instant::now();
                // Between the end of a process and its handle's there is a moment, in which it is refused.
                let patience = match attempts.end - attempts.start {
                    1 => PATIENCE,
                    _ => Duration::from_secs(2),
                };
                while sent.elapsed() < patience {
                    if std::path::Path::new(&done).exists() {
                        wait_until("it has been reaped", || {
                            children_of(std::process::id()).is_empty()
                        });
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            panic!("{name} was never run");
        };
        run("first", 1..2);
        run("second", 2..10);
        // Only now is anything received.
        let mut told = String::new();
        while told.matches("exit").count() < 2 {
            match next(&mut client) {
                ServerMessage::Response { outcome: Ok(_), .. } => told.push_str("answer, "),
                ServerMessage::Response { .. } => {}
                ServerMessage::OutputDelta(delta) => told.push_str(&String::from_utf8_lossy(&delta.bytes)),
                ServerMessage::Exited(_) => told.push_str(", exit; "),
                other => panic!("neither output, an answer nor an exit: {other:?}"),
            }
        }
        assert_eq!(told, "answer, first, exit; answer, second, exit; ");
        drop(client);
        assert_eq!(ended(server), End::InputEnded);
    }
}
