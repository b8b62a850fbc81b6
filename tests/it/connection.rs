//! The ends of a connection, and what stands at them: pipes, sockets, files, clients that stall or go away.

use crate::harness::{
    Client, HungProgram, Mode, PATIENCE, PROCWIRE, Proc, Rest, Scratch, apply, binary, both, encode,
    is_alive, private_bytes_of, processes, set_nonblocking, test, times, wait, wait_until,
    wait_until_at_rest,
};
use procwire::{Config, Connection, End};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far more than the three seconds in which a connection has ended: for a machine that is busy.
const ENDED: Duration = Duration::from_secs(9);

/// An end that takes longer than this gives up what is not answered, so that it takes no more than three
/// seconds. On a machine that is busy it does so though its client reads.
const ANSWERED: Duration = Duration::from_millis(1_500);

/// All processes below `root`.
fn below(root: u32) -> Vec<Proc> {
    let all = processes();
    let mut found = Vec::new();
    let mut roots = vec![root];
    while let Some(parent) = roots.pop() {
        for child in all.iter().filter(|p| p.parent == parent) {
            roots.push(child.pid);
            found.push(child.clone());
        }
    }
    found
}

/// The server below the guard that was started.
pub(crate) fn server_below(guard: u32) -> u32 {
    let own = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let file = own(guard).expect("the guard runs");
    let servers = below(guard).into_iter().map(|p| p.pid);
    servers
        .into_iter()
        .find(|&pid| own(pid).as_ref() == Some(&file))
        .unwrap_or(guard)
}

/// Waits until `pid` has ended, which it must within [`ENDED`].
fn must_end(pid: u32) {
    let deadline = Instant::now() + ENDED;
    while is_alive(pid) {
        assert!(Instant::now() < deadline, "the server has not ended");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn must_be_dead(all: &[Proc]) {
    for process in all {
        assert!(!is_alive(process.pid), "it outlives the server: {process:?}");
    }
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: no memory is involved; the process is a child of this test that it has not waited for.
    let result = unsafe { libc::kill(libc::pid_t::try_from(pid).expect("a pid"), signal) };
    assert_eq!(result, 0, "the server was there to be signalled");
}

/// Fifty processes of every stubborn kind; waits until each runs as it should.
fn stubborn_crowd(client: &mut Client) {
    for i in 0..10 {
        for (kind, mode, script) in [
            ("plain", Mode::Pipe, "echo ready; exec sleep 1000"),
            (
                "deaf",
                Mode::Pipe,
                "trap '' TERM INT HUP QUIT; sleep 1000 & echo ready; wait",
            ),
            ("stopped", Mode::Pipe, "echo ready; kill -STOP $$; sleep 1000"),
            ("terminal", Mode::Tty, "trap '' HUP TERM; echo ready; sleep 1000"),
            (
                "far",
                Mode::Pipe,
                "setsid sh -c 'trap \"\" TERM HUP; echo ready; sleep 1000' & wait",
            ),
        ] {
            client.spawn_ready(mode.params(&format!("{kind}{i}"), &["sh", "-c", script]));
        }
    }
}

#[apply(test)]
fn end_of_input_ends_everything() {
    let mut client = Client::binary(&[]);
    stubborn_crowd(&mut client);
    let all = below(client.pid());
    assert!(all.len() >= 70, "{} processes", all.len());
    let began = Instant::now();
    let (left, status) = client.finish();
    assert!(began.elapsed() < ENDED, "it took {:?}", began.elapsed());
    assert_eq!(status.and_then(|s| s.code()), Some(0));
    must_be_dead(&all);
    let exits = left.iter().filter(|n| n["method"] == "process/exited");
    assert_eq!(exits.count(), 50, "each has its last word");
}

/// A burst and the end of input in one write: every answer is there, and exits of what was started.
#[apply(test)]
fn what_was_asked_before_the_end_of_input_is_answered() {
    let mut input = Vec::new();
    for id in 0..1000 {
        let line = match id % 100 {
            50 => json!({"id": id, "method": "process/spawn",
                "params": {"command": ["sleep", "1000"], "processHandle": format!("h{id}")}}),
            51 => {
                json!({"id": id, "method": "process/kill", "params": {"processHandle": format!("h{}", id - 1)}})
            }
            99 => json!({"id": id, "method": "no/such"}),
            _ => json!({"id": id, "method": "process/list"}),
        };
        input.extend(line.to_string().into_bytes());
        input.push(b'\n');
    }
    // The last one without its line end.
    input.pop();
    let left = (0..10).find_map(|_| {
        let mut client = Client::binary(&[]);
        client.send_raw(&input);
        let ends = Instant::now();
        let (left, status) = client.finish();
        assert_eq!(status.and_then(|s| s.code()), Some(0));
        (ends.elapsed() < ANSWERED).then_some(left)
    });
    let left = left.expect("one of these ends is in time");
    let mut answered: Vec<i64> = left.iter().filter_map(|m| m["id"].as_i64()).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..1000).collect::<Vec<_>>());
    let spawned = left.iter().filter(|m| m["result"]["pid"].is_u64()).count();
    let exited = left.iter().filter(|m| m["method"] == "process/exited").count();
    assert_eq!((spawned, exited), (10, 10));
}

/// The input ends at any moment of a start: a spawn that was answered has its exit, and nothing lives on.
#[apply(test)]
fn spawns_that_meet_the_end_of_input_leave_nothing() {
    let mut in_time = 0;
    for round in 0..times(20) {
        let mut client = Client::binary(&[]);
        for i in 0..10 {
            let mode = if i % 2 == 0 { Mode::Pipe } else { Mode::Tty };
            client.request("process/spawn", mode.params(&format!("h{i}"), &["sleep", "1000"]));
        }
        std::thread::sleep(Duration::from_micros(round as u64 * 200));
        let ends = Instant::now();
        let (left, status) = client.finish();
        assert_eq!(status.and_then(|s| s.code()), Some(0));
        if ends.elapsed() > ANSWERED {
            continue;
        }
        in_time += 1;
        let spawned = left.iter().filter(|m| m["result"]["pid"].is_u64()).count();
        let refused = left.iter().filter(|m| m["error"]["code"] == -32600).count();
        let exited = left.iter().filter(|m| m["method"] == "process/exited").count();
        assert_eq!((spawned + refused, exited), (10, spawned), "{left:?}");
    }
    assert!(in_time > 0, "no end was in time");
}

/// A client that has stopped reading, in front of a child that never stops writing. What it could
/// still read ends anywhere, in the middle of a line as well, so it never looks.
struct Stalled {
    server: Child,
    _unread: BufReader<std::process::ChildStdout>,
    all: Vec<Proc>,
}

impl Stalled {
    fn new(mode: Mode, arguments: &[&str]) -> Stalled {
        let mut server = start(binary().args(arguments).stdout(Stdio::piped()));
        let mut params = mode.params("flood", &["sh", "-c", "echo ready; exec yes"]);
        params["outputBytesCap"] = Value::Null;
        let unread = spawn_by_hand(&mut server, params);
        must_come_to_rest(server.id());
        let other = mode.params("other", &["sleep", "1000"]);
        let request = json!({"id": 2, "method": "process/spawn", "params": other});
        let input = server.stdin.as_mut().expect("stdin was piped");
        input
            .write_all(format!("{request}\n").as_bytes())
            .expect("the server reads");
        wait_until("what is asked now runs", || {
            below(server.id()).iter().any(|p| p.name == "sleep")
        });
        let all = below(server.id());
        Stalled {
            server,
            _unread: unread,
            all,
        }
    }

    fn must_end_with(mut self, code: i32) {
        must_end(self.server.id());
        must_be_dead(&self.all);
        assert_eq!(wait(&mut self.server).code(), Some(code));
    }
}

#[apply(both)]
fn end_of_input_is_not_held_up_by_a_client_that_does_not_read(mode: Mode) {
    let mut stalled = Stalled::new(mode, &[]);
    drop(stalled.server.stdin.take());
    stalled.must_end_with(0);
}

/// So many answers are unread that no further request is taken, and the input ends after those
/// that wait: it ends the connection all the same.
#[apply(test)]
fn end_of_input_is_seen_behind_more_requests_than_may_wait() {
    let mut server = start(binary().stdout(Stdio::piped()));
    let mut input = server.stdin.take().expect("stdin was piped");
    set_nonblocking(&input);
    let burst = b"{\"id\":1,\"method\":\"process/list\"}\n".repeat(1000);
    let mut rest = Rest::default();
    loop {
        match input.write(&burst) {
            Ok(_) => rest = Rest::default(),
            // Full, and stays so.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if rest.has_come(&with_all_below(server.id())) {
                    break;
                }
            }
            Err(e) => panic!("{e}"),
        }
    }
    drop(input);
    must_end(server.id());
    assert_eq!(wait(&mut server).code(), Some(0));
}

/// Waits until a server, its guard and all that they have started wait for something.
pub(crate) fn must_come_to_rest(guard: u32) {
    wait_until_at_rest("the server has come to rest", || with_all_below(guard));
}

/// A process and all below it.
fn with_all_below(root: u32) -> Vec<u32> {
    let below = below(root).into_iter().map(|p| p.pid);
    std::iter::once(root).chain(below).collect()
}

/// A server whose stdin is piped and whose stdout is as the command says.
fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).spawn().expect("the server starts")
}

/// Without further requests, each process ends in its own time.
#[apply(test)]
fn drain_waits_for_every_exit() {
    let mut client = Client::binary(&["--drain"]);
    for (handle, code) in [("a", 3), ("b", 4), ("c", 5)] {
        let script = format!("sleep 0.2; echo {handle}; exit {code}");
        client.request(
            "process/spawn",
            json!({"processHandle": handle, "command": ["sh", "-c", script]}),
        );
    }
    // One that would last is ended by what was asked before.
    client.request(
        "process/spawn",
        json!({"processHandle": "d", "command": ["sleep", "1000"], "timeoutMs": 300}),
    );
    client.end_input();
    for (handle, code) in [("a", 3), ("b", 4), ("c", 5)] {
        let exited = client.exited(handle);
        assert_eq!(
            (&exited["exitCode"], &exited["stdout"]),
            (&json!(code), &json!(format!("{handle}\n")))
        );
    }
    assert_eq!(client.exited("d")["exitCode"], 124);
    let (left, status) = client.finish_anyhow();
    assert_eq!(left.len(), 4, "only the answers: {left:?}");
    assert_eq!(status.and_then(|s| s.code()), Some(0));

    // With nothing running, it ends at once.
    assert_eq!(
        Client::binary(&["--drain"]).finish().1.and_then(|s| s.code()),
        Some(0)
    );
}

/// Requests from a file, messages to a file: what one line in a shell does.
#[apply(test)]
fn drain_serves_files() {
    let scratch = Scratch::new();
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "process/spawn",
        "params": {"processHandle": "a", "command": ["head", "-c", "3000000", "/dev/zero"],
            "streamStdoutStderr": true, "outputBytesCap": null}});
    let input = scratch.file("in", 0o644, request.to_string());
    let output = scratch.path("out");
    let mut server = binary()
        .arg("--drain")
        .stdin(File::open(&input).expect("just written"))
        .stdout(File::create(&output).expect("a new file"))
        .spawn()
        .expect("the server starts");
    assert_eq!(wait(&mut server).code(), Some(0));
    let text = std::fs::read_to_string(&output).expect("it was written");
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("one JSON value a line"))
        .collect();
    assert!(lines.iter().all(|l| l["jsonrpc"] == "2.0"));
    assert!(lines[0]["result"]["pid"].is_u64(), "{}", lines[0]);
    let last = lines.last().expect("there are lines");
    assert_eq!(last["params"]["stdoutBytes"], 3_000_000, "{last}");

    // Nothing to read and nowhere to write.
    for arguments in [&[][..], &["--drain"]] {
        let mut server = binary()
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the server starts");
        assert_eq!(wait(&mut server).code(), Some(0));
    }
}

/// Longer than the end of any other connection may take.
const SLOW: Duration = Duration::from_millis(3_300);

/// As `procwire --drain | less`: what does not fit into the pipe is read much later.
#[apply(test)]
fn drain_waits_for_a_slow_reader() {
    let params = json!({"processHandle": "a", "command": ["head", "-c", "3000000", "/dev/zero"],
        "outputBytesCap": null});
    let request = json!({"id": 1, "method": "process/spawn", "params": params});
    let input = format!("{request}\n");
    let started = || {
        let mut server = start(binary().arg("--drain").stdout(Stdio::piped()));
        let mut stdin = server.stdin.take().expect("stdin was piped");
        stdin.write_all(input.as_bytes()).expect("the server reads");
        let mut output = BufReader::new(server.stdout.take().expect("stdout was piped"));
        let mut answer = String::new();
        output.read_line(&mut answer).expect("the server writes");
        assert!(answer.contains("result"), "{answer}");
        // The exit has begun to be written, so everything has ended but that.
        output.fill_buf().expect("the server writes");
        (server, output)
    };

    let (mut server, mut output) = started();
    std::thread::sleep(SLOW);
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("the server writes");
    let exited: Value = serde_json::from_str(&rest).expect("the whole exit");
    assert_eq!(exited["params"]["stdoutBytes"], 3_000_000);
    assert_eq!(wait(&mut server).code(), Some(0));

    // A signal ends that wait, and so does the reader that goes away.
    let (mut server, output) = started();
    signal(server.id(), libc::SIGTERM);
    must_end(server.id());
    assert_eq!(wait(&mut server).code(), Some(143));
    drop(output);
    let (mut server, output) = started();
    drop(output);
    assert_eq!(wait(&mut server).code(), Some(0));
}

#[apply(test)]
fn drain_still_obeys_signals() {
    let mut client = Client::binary(&["--drain"]);
    client.spawn_ready(Mode::Pipe.params("a", &["sh", "-c", "trap '' TERM; echo ready; sleep 1000"]));
    let all = below(client.pid());
    client.end_input();
    signal(client.pid(), libc::SIGTERM);
    assert_eq!(client.exited("a")["signal"], "SIGKILL");
    assert_eq!(client.finish_anyhow().1.and_then(|s| s.code()), Some(143));
    must_be_dead(&all);
}

/// Sends one request and reads lines until its answer and a `ready` have come.
fn spawn_by_hand(server: &mut Child, params: Value) -> BufReader<std::process::ChildStdout> {
    let request = json!({"id": 1, "method": "process/spawn", "params": params});
    let stdin = server.stdin.as_mut().expect("stdin was piped");
    stdin
        .write_all(format!("{request}\n").as_bytes())
        .expect("the server reads");
    let mut output = BufReader::new(server.stdout.take().expect("stdout was piped"));
    let mut seen = Vec::new();
    loop {
        let mut line = String::new();
        assert_ne!(
            output.read_line(&mut line).expect("the server writes"),
            0,
            "the server ended"
        );
        let message: Value = serde_json::from_str(&line).expect("a message");
        if let Some(delta) = message["params"]["deltaBase64"].as_str() {
            seen.extend(base64_simd::STANDARD.decode_to_vec(delta).expect("base64"));
        }
        if String::from_utf8_lossy(&seen).contains("ready") {
            return output;
        }
    }
}

/// Noticed at once, though nothing is to be written, also where the end of input would be waited on.
#[apply(both)]
fn lost_output_is_the_end(mode: Mode) {
    for arguments in [&[][..], &["--drain"]] {
        let mut server = start(binary().args(arguments).stdout(Stdio::piped()));
        let script = "trap '' TERM HUP; sleep 1000 & echo ready; wait";
        let output = spawn_by_hand(&mut server, mode.params("a", &["sh", "-c", script]));
        let all = below(server.id());
        drop(output);
        must_end(server.id());
        must_be_dead(&all);
        assert_eq!(wait(&mut server).code(), Some(0));
    }
}

/// A client that dies closes both at once, and the end of input is seen first.
#[apply(test)]
fn lost_output_is_the_end_of_draining() {
    let mut server = start(binary().arg("--drain").stdout(Stdio::piped()));
    let script = "trap '' TERM HUP; sleep 1000 & echo ready; wait";
    let output = spawn_by_hand(&mut server, Mode::Pipe.params("a", &["sh", "-c", script]));
    let all = below(server.id());
    drop(server.stdin.take());
    drop(output);
    must_end(server.id());
    must_be_dead(&all);
    assert_eq!(wait(&mut server).code(), Some(0));
}

/// It reaches the guard and the server, and is still asked once.
#[apply(test)]
fn interrupt_that_is_typed_loses_no_exit() {
    let scratch = Scratch::new();
    for round in 0..times(20) {
        let output = scratch.path(&format!("{round}"));
        let script = format!("stty -echo; echo ready; exec {} >{output}", &*PROCWIRE);
        let mut client = Client::in_process();
        client.spawn_ready(Mode::Tty.params("p", &["sh", "-c", &script]));
        for id in 0..5 {
            let request = json!({"id": id, "method": "process/spawn", "params":
                {"processHandle": format!("{id}"), "command": ["sleep", "1000"]}});
            client.write("p", format!("{request}\n").as_bytes());
        }
        let count = |what: &str| {
            let written = std::fs::read_to_string(&output).unwrap_or_default();
            written.matches(what).count()
        };
        wait_until("all have started", || count("\"result\"") == 5);
        client.write("p", b"\x03");
        assert_eq!(client.exited("p")["exitCode"], 130);
        assert_eq!(count("process/exited"), 5, "round {round}");
        client.finish();
    }
}

#[apply(both)]
fn lost_output_is_the_end_in_the_middle_of_a_flood(mode: Mode) {
    let mut server = start(binary().stdout(Stdio::piped()));
    let output = spawn_by_hand(
        &mut server,
        mode.params("a", &["sh", "-c", "echo ready; exec yes"]),
    );
    let all = below(server.id());
    drop(output);
    must_end(server.id());
    must_be_dead(&all);
    assert_eq!(wait(&mut server).code(), Some(0));
}

#[apply(test)]
fn signals_end_everything_and_are_the_exit_code() {
    for (number, code) in [(libc::SIGTERM, 143), (libc::SIGINT, 130), (libc::SIGHUP, 129)] {
        let mut client = Client::binary(&[]);
        let script = "trap '' TERM HUP INT; sleep 1000 & echo ready; wait";
        client.spawn_ready(Mode::Pipe.params("a", &["sh", "-c", script]));
        client.spawn_ready(Mode::Tty.params("b", &["sh", "-c", script]));
        let all = below(client.pid());
        assert!(all.len() >= 4, "{all:?}");
        signal(client.pid(), number);
        for handle in ["a", "b"] {
            let exited = client.exited(handle);
            assert_eq!(
                (&exited["exitCode"], &exited["signal"]),
                (&json!(137), &json!("SIGKILL"))
            );
        }
        assert_eq!(client.finish_anyhow().1.and_then(|s| s.code()), Some(code));
        must_be_dead(&all);
    }
}

#[apply(both)]
fn signal_is_not_held_up_by_a_client_that_does_not_read(mode: Mode) {
    let stalled = Stalled::new(mode, &["--drain"]);
    signal(stalled.server.id(), libc::SIGTERM);
    stalled.must_end_with(143);
}

/// The requests that keep coming are not all waited for.
#[apply(test)]
fn signal_is_not_held_up_by_a_client_that_never_stops_asking() {
    let mut server = start(binary().stdout(Stdio::piped()));
    let mut input = server.stdin.take().expect("stdin was piped");
    let mut output = server.stdout.take().expect("stdout was piped");
    let feeder = std::thread::spawn(move || {
        let burst = b"{\"id\":1,\"method\":\"process/list\"}\n".repeat(1000);
        while input.write_all(&burst).is_ok() {}
    });
    let mut seen = vec![0; 1 << 20];
    output.read_exact(&mut seen).expect("it answers");
    let reader = std::thread::spawn(move || io::copy(&mut output, &mut io::sink()));
    signal(server.id(), libc::SIGTERM);
    must_end(server.id());
    feeder.join().expect("it ends with the server");
    reader
        .join()
        .expect("it ends with the server")
        .expect("the output ends");
    assert_eq!(wait(&mut server).code(), Some(143));
}

/// The first one waits some seconds for a client that does not read; the second one does not.
#[apply(test)]
fn second_signal_does_not_wait() {
    // A busy machine is not busy all the time.
    let mut took = (0..5).map(|_| {
        let stalled = Stalled::new(Mode::Pipe, &[]);
        signal(stalled.server.id(), libc::SIGTERM);
        wait_until("the first one is being obeyed", || {
            !below(stalled.server.id())
                .iter()
                .any(|p| p.name == "sleep" || p.name == "yes")
        });
        let asked = Instant::now();
        signal(stalled.server.id(), libc::SIGINT);
        stalled.must_end_with(143);
        asked.elapsed()
    });
    let soon = took.any(|took| took < Duration::from_millis(1_100));
    assert!(soon, "each time it waited as the first one does");
}

/// Who starts the server so that it outlives a terminal means it.
#[apply(test)]
fn hangup_is_ignored_under_nohup() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\"", &*PROCWIRE]);
    let mut client = Client::command(command);
    client.call("process/list", json!({}));
    signal(client.pid(), libc::SIGHUP);
    assert_eq!(client.run(&["echo", "still here"])["stdout"], "still here\n");
    // Nor does the guard wait for it, to pass it on and kill a server that does not obey.
    let status = std::fs::read_to_string(format!("/proc/{}/status", client.pid())).expect("it lives");
    let blocked = status
        .lines()
        .find_map(|l| l.strip_prefix("SigBlk:"))
        .expect("a mask");
    let blocked = u64::from_str_radix(blocked.trim(), 16).expect("hexadecimal");
    assert_eq!(blocked >> (libc::SIGHUP - 1) & 1, 0, "{status}");
    // The program does not inherit it.
    let exited = client.run(&["sh", "-c", "kill -HUP $$; echo alive"]);
    assert_eq!(
        (&exited["signal"], &exited["stdout"]),
        (&json!("SIGHUP"), &json!(""))
    );
    assert_eq!(client.finish().1.and_then(|s| s.code()), Some(0));
}

/// While the client reads nothing, memory is bounded and everything it asks for is done; afterwards
/// the output is there without a gap.
#[apply(both)]
fn client_that_does_not_read_delays_output_and_nothing_else(mode: Mode) {
    let scratch = Scratch::new();
    let mut client = Client::binary(&[]);
    let mut quick = mode.params("late", &["sleep", "1000"]);
    quick["timeoutMs"] = json!(2_000);
    let late = client.spawn(quick);
    let killed = client.spawn(mode.params("killed", &["sleep", "1000"]));
    let mut floods = Vec::new();
    for i in 0..4 {
        let mut params = mode.params(&format!("flood{i}"), &["yes"]);
        params["outputBytesCap"] = Value::Null;
        floods.push(client.spawn(params));
    }
    client.until("flood0", "y");
    client.stop_reading();
    must_come_to_rest(client.pid());
    let private = private_bytes_of(server_below(client.pid()));
    assert!(private < 64 << 20, "{private} bytes in memory");

    client.request("process/kill", json!({"processHandle": "killed"}));
    wait_until("the kill was obeyed", || !is_alive(killed));
    wait_until("the timeout was obeyed", || !is_alive(late));
    client.request("process/kill", json!({"processHandle": "flood1"}));
    wait_until("the flood can be killed", || !is_alive(floods[1]));
    // What is started now runs, and gets its input.
    let file = scratch.path("copy");
    let script = format!("exec cat > {file}");
    let mut copy = Mode::Pipe.params("copy", &["sh", "-c", &script]);
    copy["streamStdoutStderr"] = json!(false);
    client.request("process/spawn", copy);
    let bytes = vec![b'x'; 300_000];
    for _ in 0..10 {
        client.request(
            "process/writeStdin",
            json!({"processHandle": "copy", "deltaBase64": encode(&bytes)}),
        );
    }
    client.request(
        "process/writeStdin",
        json!({"processHandle": "copy", "closeStdin": true}),
    );
    wait_until("the input has arrived", || {
        std::fs::metadata(&file).is_ok_and(|m| m.len() == 3_000_000)
    });

    client.read_again();
    assert_eq!(client.exited("copy")["exitCode"], 0);
    let (out, _, exited) = client.streamed("late");
    assert_eq!(
        (out.len(), &exited["exitCode"], &exited["timedOut"]),
        (0, &json!(124), &json!(true))
    );
    assert_eq!(client.exited("killed")["exitCode"], 137);
    for i in [0, 2, 3] {
        client.kill(&format!("flood{i}"));
    }
    let line = mode.printed("y\n").into_bytes();
    for i in 0..4 {
        let (out, _, exited) = client.streamed(&format!("flood{i}"));
        assert_eq!(exited["exitCode"], 137);
        assert_eq!(exited["outputDrainTimedOut"], false);
        assert!(out.len() >= 64 * 1024, "{} bytes", out.len());
        if i > 0 {
            assert_eq!(exited["stdoutBytes"], out.len());
            assert!(
                out.chunks_exact(line.len()).all(|l| l == line),
                "the bytes are as written"
            );
        }
    }
    client.finish();
}

/// The answers wait for the client, then the requests do, and none is lost or refused.
#[apply(test)]
fn flood_of_requests_waits_for_its_client() {
    let count = 100_000;
    let mut server = start(binary().stdout(Stdio::piped()));
    let pid = server.id();
    let mut input = server.stdin.take().expect("stdin was piped");
    let feeder = std::thread::spawn(move || {
        let mut line = Vec::new();
        for id in 0..count {
            line.clear();
            writeln!(line, "{{\"id\":{id},\"method\":\"no/such\"}}").expect("a Vec takes everything");
            input.write_all(&line).expect("the server reads, sooner or later");
        }
        input
    });
    must_come_to_rest(pid);
    assert!(
        !feeder.is_finished(),
        "everything was taken though no answer was read"
    );
    let private = private_bytes_of(server_below(pid));
    assert!(private < 96 << 20, "{private} bytes in memory");
    let output = BufReader::new(server.stdout.take().expect("stdout was piped"));
    let mut expected = 0;
    for line in output.lines().take(count) {
        let answer: Value = serde_json::from_str(&line.expect("the server writes")).expect("a message");
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&json!(expected), &json!(-32601))
        );
        expected += 1;
    }
    assert_eq!(expected, count);
    drop(feeder.join().expect("all were sent"));
    assert_eq!(wait(&mut server).code(), Some(0));
}

/// A pipe, and whichever end the server is given, in non-blocking mode.
fn nonblocking_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = io::pipe().expect("a pipe");
    set_nonblocking(&reader);
    set_nonblocking(&writer);
    (reader.into(), writer.into())
}

/// Neither an input that is not there yet nor an output that is full for now is a failure.
#[apply(test)]
fn nonblocking_pipes_serve_as_well() {
    let (their_input, our_output) = nonblocking_pipe();
    let (our_input, their_output) = nonblocking_pipe();
    let mut server = binary()
        .stdin(their_input)
        .stdout(their_output)
        .spawn()
        .expect("the server starts");
    let mut ours = File::from(our_output);
    let params = json!({"processHandle": "a", "command": ["head", "-c", "2000000", "/dev/zero"],
        "streamStdoutStderr": true, "outputBytesCap": null});
    let request = json!({"id": 1, "method": "process/spawn", "params": params}).to_string() + "\n";
    // The request comes in two pieces, with the input empty in between.
    let (first, second) = request.as_bytes().split_at(20);
    ours.write_all(first).expect("an empty pipe has room");
    must_come_to_rest(server.id());
    ours.write_all(second).expect("an empty pipe has room");
    // The output is full before the first byte is read.
    must_come_to_rest(server.id());
    let mut theirs = File::from(our_input);
    let mut text = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).contains("process/exited") {
        assert!(
            Instant::now() < deadline,
            "the output stopped after {} bytes",
            text.len()
        );
        let mut piece = [0; 65536];
        match theirs.read(&mut piece) {
            Ok(0) => panic!("the server ended"),
            Ok(n) => text.extend(&piece[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            Err(e) => panic!("{e}"),
        }
    }
    assert!(String::from_utf8_lossy(&text).contains("\"stdoutBytes\":2000000"));
    drop(ours);
    assert_eq!(wait(&mut server).code(), Some(0));
}

/// One socket as input and output: its half-closing is the end of input, and answers still get through.
#[apply(test)]
fn sockets_serve_as_well() {
    let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
    let other = theirs.try_clone().expect("a descriptor");
    let mut server = binary()
        .stdin(OwnedFd::from(theirs))
        .stdout(OwnedFd::from(other))
        .spawn()
        .expect("the server starts");
    let request = json!({"id": 1, "method": "process/spawn",
        "params": {"processHandle": "a", "command": ["sleep", "1000"]}});
    ours.write_all(format!("{request}\n").as_bytes())
        .expect("the server reads");
    ours.shutdown(std::net::Shutdown::Write).expect("it is open");
    let mut text = String::new();
    ours.read_to_string(&mut text)
        .expect("the output ends with the server");
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0]["result"]["pid"].is_u64() && lines[1]["params"]["exitCode"] == 137,
        "{text}"
    );
    assert_eq!(wait(&mut server).code(), Some(0));

    // The whole socket gone.
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let other = theirs.try_clone().expect("a descriptor");
    let mut server = binary()
        .stdin(OwnedFd::from(theirs))
        .stdout(OwnedFd::from(other))
        .spawn()
        .expect("the server starts");
    drop(ours);
    must_end(server.id());
    assert_eq!(wait(&mut server).code(), Some(0));
}

/// A server of `sh` that runs `before` and then becomes it.
fn behind(before: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{before}; exec \"$0\""), &*PROCWIRE]);
    command
}

/// Started without stderr, its number means nothing else to any child.
#[apply(both)]
fn missing_descriptors_do_not_matter(mode: Mode) {
    let mut client = Client::command(behind("exec 2>&-"));
    for i in 0..3 {
        let handle = format!("h{i}");
        client.spawn(mode.params(&handle, &["sh", "-c", "read x; echo out $x; echo err $x >&2"]));
        client.write(&handle, b"in\n");
        let (stdout, stderr, exited) = client.streamed(&handle);
        assert_eq!(exited["exitCode"], 0);
        match mode {
            Mode::Pipe => assert_eq!((&stdout[..], &stderr[..]), (&b"out in\n"[..], &b"err in\n"[..])),
            Mode::Tty => {
                let text = String::from_utf8_lossy(&stdout).into_owned();
                assert!(text.ends_with("out in\r\nerr in\r\n"), "{text:?}");
            }
        }
    }
    assert_eq!(client.finish().1.and_then(|s| s.code()), Some(0));

    // No input is an input that has ended; no output is one that is not read.
    for before in ["exec 0<&-", "exec 1>&-", "exec 0<&- 1>&- 2>&-"] {
        let mut server = start(behind(before).stdout(Stdio::piped()));
        if before == "exec 1>&-" {
            drop(server.stdin.take());
        }
        must_end(server.id());
        assert_eq!(wait(&mut server).code(), Some(0), "{before}");
    }
}

#[apply(both)]
fn inherited_descriptors_reach_no_child(mode: Mode) {
    let mut client = Client::command(behind("exec 9</dev/null 7>/dev/null"));
    let script = "for n in 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$n ] && echo has $n; done; echo done";
    for i in 0..5 {
        let handle = format!("h{i}");
        client.spawn(mode.params(&handle, &["sh", "-c", script]));
        let (stdout, _, _) = client.streamed(&handle);
        let text = String::from_utf8_lossy(&stdout).replace('\r', "");
        // The shell itself may hold its terminal open under a number above these.
        assert_eq!(text, "done\n");
    }
    client.finish();
}

/// Even with everything logged, each line on stdout is a message; the client's reader checks each.
#[apply(test)]
fn logs_never_reach_the_output() {
    let mut command = binary();
    command.env("RUST_LOG", "trace").stderr(Stdio::piped());
    let mut server = start(command.stdout(Stdio::piped()));
    let mut log = server.stderr.take().expect("stderr was piped");
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).expect("logs are text");
        text
    });
    let mut input = server.stdin.take().expect("stdin was piped");
    let lines = [
        json!({"method": "no/such"}).to_string(),
        "nonsense".to_owned(),
        json!({"id": 1, "method": "process/spawn", "params": {"processHandle": "a", "command": ["true"]}}).to_string(),
        json!({"id": 2, "method": "process/spawn", "params": {"processHandle": "b", "command": ["/nonexistent"]}})
            .to_string(),
        json!({"id": 3, "method": "process/spawn", "params": {"processHandle": "c", "command": ["sleep", "1000"], "tty": true}})
            .to_string(),
    ];
    input
        .write_all((lines.join("\n") + "\n").as_bytes())
        .expect("the server reads");
    drop(input);
    let output = BufReader::new(server.stdout.take().expect("stdout was piped"));
    let messages: Vec<Value> = output
        .lines()
        .map(|l| serde_json::from_str(&l.expect("text")).expect("only messages"))
        .collect();
    assert_eq!(
        messages.iter().filter(|m| m.get("id").is_some()).count(),
        4,
        "{messages:?}"
    );
    assert!(wait(&mut server).success());
    let log = log.join().expect("the log ends with the server");
    assert!(log.contains("no/such"), "the log goes to stderr: {log:?}");
}

/// Logs are dropped where they are not read, however many there are and however long one is.
#[apply(test)]
fn unread_logs_hold_up_nothing() {
    let mut command = binary();
    command.env("RUST_LOG", "trace");
    let (reader, writer) = io::pipe().expect("a pipe");
    command.stderr(writer);
    let mut client = Client::command(command);
    for _ in 0..20 {
        let mut burst = Vec::new();
        for _ in 0..200 {
            burst.extend(b"{\"method\":\"an/unknown/notification/to/be/logged/somewhere\"}\n");
        }
        client.send_raw(&burst);
        client.send(&json!({"method": "long/".repeat(60_000)}));
        client.call("process/list", json!({}));
    }
    assert_eq!(client.run(&["echo", "x"])["stdout"], "x\n");
    assert_eq!(client.finish().1.and_then(|s| s.code()), Some(0));
    drop(reader);

    // The other end is closed.
    let mut command = binary();
    command.env("RUST_LOG", "trace");
    let (reader, writer) = io::pipe().expect("a pipe");
    command.stderr(writer);
    drop(reader);
    let mut client = Client::command(command);
    client.send_raw(b"{\"method\":\"no/such\"}\n");
    assert_eq!(client.run(&["echo", "x"])["stdout"], "x\n");
    assert_eq!(client.finish().1.and_then(|s| s.code()), Some(0));
}

#[apply(test)]
fn flags_are_in_force() {
    let limits = |arguments: &[&str]| {
        let mut client = Client::binary(arguments);
        let reply = client.call("initialize", json!({"clientInfo": {"name": "t"}}));
        (client, reply["limits"].clone())
    };
    let (mut client, told) = limits(&[
        "serve",
        "--max-message-bytes=500",
        "--default-timeout-ms",
        "2000",
        "--default-output-cap=3",
        "--max-pending-stdin",
        "50000",
    ]);
    assert_eq!(told["maxMessageBytes"], 500);
    assert_eq!(told["defaultTimeoutMs"], 2000);
    assert_eq!(told["defaultOutputBytesCap"], 3);
    assert_eq!(told["maxPendingStdinBytes"], 50_000);
    let command = ["sh", "-c", "echo 12345; exec sleep 1000"];
    let exited = client.run_with(json!({"processHandle": "a", "command": command}));
    assert_eq!(
        (&exited["exitCode"], &exited["stdout"]),
        (&json!(124), &json!("123"))
    );
    client.send_raw(&[vec![b' '; 501], b"\n".to_vec()].concat());
    assert_eq!(client.response(Value::Null)["error"]["code"], -32600);
    client.finish();

    let (client, told) = limits(&[
        "--default-timeout-ms",
        "none",
        "--default-output-cap",
        "none",
        "--drain",
    ]);
    assert_eq!(
        (&told["defaultTimeoutMs"], &told["defaultOutputBytesCap"]),
        (&Value::Null, &Value::Null)
    );
    client.finish();

    let (client, told) = limits(&[]);
    assert_eq!(
        (&told["defaultTimeoutMs"], &told["defaultOutputBytesCap"]),
        (&json!(10_000), &json!(1 << 20))
    );
    assert_eq!(
        (&told["maxMessageBytes"], &told["maxPendingStdinBytes"]),
        (&json!(16 << 20), &json!(8 << 20))
    );
    client.finish();
}

/// Code 2, a word on stderr, and nothing on stdout.
#[apply(test)]
fn wrong_command_line_is_told() {
    for arguments in [
        &["--no-such-flag"][..],
        &["--default-timeout-ms"],
        &["--default-timeout-ms", "soon"],
        &["--max-message-bytes", "-1"],
        &["--drain=yes"],
        &["something"],
        &["serve", "serve"],
    ] {
        let output = binary()
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            message.starts_with("procwire: ") && message.contains("--help"),
            "{message}"
        );
    }
}

#[apply(test)]
fn help_and_version_are_printed() {
    for argument in ["--version", "-V"] {
        let output = binary().arg(argument).output().expect("it runs");
        assert!(output.status.success() && output.stderr.is_empty());
        let expected = concat!("procwire ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
    for argument in ["--help", "-h"] {
        let output = binary().arg(argument).output().expect("it runs");
        assert!(output.status.success() && output.stderr.is_empty());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for word in [
            "--drain",
            "--max-message-bytes",
            "--default-timeout-ms",
            "--default-output-cap",
            "--max-pending-stdin",
            "process/spawn",
        ] {
            assert!(text.contains(word), "the help names {word}");
        }
    }
}

/// Gives its bytes one at a time, with interruptions; then ends, or fails.
struct Drip {
    bytes: Vec<u8>,
    at: usize,
    interrupted: bool,
    fails: bool,
}

impl Drip {
    fn new(text: &str, fails: bool) -> Drip {
        Drip {
            bytes: text.as_bytes().to_vec(),
            at: 0,
            interrupted: false,
            fails,
        }
    }
}

impl Read for Drip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match self.bytes.get(self.at) {
            Some(&byte) => {
                buffer[0] = byte;
                self.at += 1;
                Ok(1)
            }
            None if self.fails => Err(io::ErrorKind::ConnectionReset.into()),
            None => Ok(0),
        }
    }
}

/// Takes at most seven bytes at a time, with interruptions, and passes them on.
struct Sip(io::PipeWriter, bool);

impl Write for Sip {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.0.write(&bytes[..bytes.len().min(7)])
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

const ECHO: &str = "{\"id\":1,\"method\":\"process/spawn\",\"params\":{\"processHandle\":\"a\",\"command\":[\"echo\",\"hi\"]}}";
const SLEEP: &str = "{\"id\":1,\"method\":\"process/spawn\",\"params\":{\"processHandle\":\"a\",\"command\":[\"sleep\",\"1000\"]}}";

#[apply(test)]
fn any_reader_and_writer_serve() {
    let (mut output, writer) = io::pipe().expect("a pipe");
    let config = Config::default().drain(true);
    let connection = Connection::from_io(Drip::new(ECHO, false), Sip(writer, false));
    assert_eq!(
        procwire::serve(connection, config).expect("it serves"),
        End::InputEnded
    );
    let mut text = String::new();
    output.read_to_string(&mut text).expect("the writer was dropped");
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[1]["params"]["stdout"], "hi\n");
}

#[apply(test)]
fn failing_reader_is_the_end_of_input() {
    let (mut output, writer) = io::pipe().expect("a pipe");
    let input = format!("{SLEEP}\n");
    let connection = Connection::from_io(Drip::new(&input, true), Sip(writer, false));
    assert_eq!(
        procwire::serve(connection, Config::default()).expect("it serves"),
        End::InputEnded
    );
    let mut text = String::new();
    output.read_to_string(&mut text).expect("the writer was dropped");
    assert!(text.contains("\"exitCode\":137"), "what ran was ended: {text}");
}

/// Fails at the first byte.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[apply(test)]
fn failing_writer_is_a_lost_output() {
    for drain in [false, true] {
        let config = Config::default().drain(drain);
        let (input, mut writer) = io::pipe().expect("a pipe");
        writer
            .write_all(format!("{SLEEP}\n").as_bytes())
            .expect("an empty pipe has room");
        let connection = Connection::from_io(input, Broken);
        assert_eq!(
            procwire::serve(connection, config).expect("it serves"),
            End::OutputGone
        );
        // Its reader waits on until its own end.
        drop(writer);
    }
}

/// It is in the kernel, on a disk that does not answer: the end of the connection takes no longer for it,
/// and answers its spawn and all that waits after that.
#[apply(test)]
fn program_that_does_not_start_leaves_no_request_unanswered() {
    let scratch = Scratch::new();
    let Some(hung) = HungProgram::new(&scratch) else {
        return;
    };
    for binary in [false, true] {
        for tty in [false, true] {
            let mut client = match binary {
                false => Client::in_process(),
                true => Client::binary(&[]),
            };
            client.spawn(Mode::Pipe.params("runs", &["sleep", "1000"]));
            let mut spawn = Mode::Pipe.params("hung", &[&hung.path, "1000"]);
            spawn["tty"] = json!(tty);
            let mut asked = vec![
                client.request("process/spawn", spawn.clone()),
                client.request("process/kill", json!({"processHandle": "hung"})),
                client.write("hung", b"x"),
                client.request(
                    "process/resizePty",
                    json!({"processHandle": "hung", "size": {"rows": 1, "cols": 1}}),
                ),
                // Behind the first, and then another one.
                client.request("process/spawn", spawn),
                client.request("process/kill", json!({"processHandle": "hung", "signal": 0})),
            ];
            asked.extend((0..5).map(|_| client.request("process/list", json!({}))));
            let began = Instant::now();
            let (left, status) = client.finish();
            let took = began.elapsed();
            for id in asked {
                assert_eq!(left.iter().filter(|m| m["id"] == id).count(), 1, "{id}: {left:?}");
            }
            let exits: Vec<_> = left.iter().filter(|m| m["method"] == "process/exited").collect();
            assert_eq!(exits.len(), 1, "{left:?}");
            assert_eq!(exits[0]["params"]["processHandle"], "runs");
            assert_eq!(status.map(|status| status.code()), binary.then_some(Some(0)));
            assert!(took < Duration::from_secs(10), "{took:?}");
        }
    }
    drop(hung);
}
