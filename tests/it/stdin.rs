//! `process/writeStdin`: order, backpressure, end of input, and children that do not read.

use std::time::Instant;

use crate::harness::{
    Client, Mode, PATIENCE, apply, both, encode, is_alive, kill_stray, pattern, private_bytes, test, times,
    wait_until,
};
use serde_json::{Value, json};

const MIB: usize = 1024 * 1024;

/// Params for `script` behind a terminal that neither echoes nor translates; the script runs once
/// that is set.
fn plain(mode: Mode, handle: &str, script: &str) -> Value {
    let setup = match mode {
        Mode::Pipe => "",
        Mode::Tty => "stty raw -echo && ",
    };
    uncapped(mode.params(handle, &["sh", "-c", &format!("{setup}{script}")]))
}

fn uncapped(mut params: Value) -> Value {
    params["outputBytesCap"] = json!(null);
    params
}

/// A program that reads nothing, until SIGUSR1 makes it count everything.
const READS_ON_USR1: &str = "trap 'exec wc -c' USR1; sleep 1000 >/dev/null & printf ready; wait";

fn pending(client: &mut Client, handle: &str) -> usize {
    let list = client.call("process/list", json!({}));
    let processes = list["processes"].as_array().expect("a list").clone();
    let process = processes.iter().find(|p| p["processHandle"] == handle);
    let pending = process.expect("it is live")["stdinPendingBytes"].as_u64();
    usize::try_from(pending.expect("a number")).expect("a small number")
}

/// A line goes in and comes out; end of input ends the program.
#[apply(both)]
fn comes_back_through_cat(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(mode.params("c", &["cat"]));
    let id = client.write("c", b"hello\n");
    assert_eq!(client.result(id), json!({}));
    let line = mode.printed("hello\n");
    let expected = match mode {
        Mode::Pipe => line,
        // The terminal's echo, then cat's line.
        Mode::Tty => line.repeat(2),
    };
    assert_eq!(client.until("c", &expected), expected);
    client.close_stdin("c");
    let (rest, _, exited) = client.streamed("c");
    assert_eq!(rest, b"");
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

/// All 256 values, a thousand times: no character is special to us.
#[apply(both)]
fn every_byte_arrives_as_it_was_sent(mode: Mode) {
    let mut client = Client::in_process();
    let all: Vec<u8> = (0..256 * 1000).map(|i| (i % 256) as u8).collect();
    let script = format!("printf ready; exec head -c {}", all.len());
    client.spawn_ready(plain(mode, "c", &script));
    for part in all.chunks(10_007) {
        let id = client.write("c", part);
        assert_eq!(client.result(id), json!({}));
    }
    let (stdout, _, exited) = client.streamed("c");
    assert!(stdout == all, "{} bytes came back, or others", stdout.len());
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

/// Far more than any buffer holds goes through `cat` exactly, while both directions are busy.
#[apply(test)]
fn a_long_stream_passes_with_bounded_memory() {
    const PART: usize = 48 * 1024;
    let mut client = Client::in_process();
    client.spawn(uncapped(Mode::Pipe.params("c", &["cat"])));
    let parts = times(16 * MIB).div_ceil(PART);
    let before = private_bytes();
    let mut ids = Vec::new();
    let mut received = 0;
    let mut read_up_to = |client: &mut Client, wanted: usize| {
        while received < wanted {
            let (bytes, params) = client.delta("c");
            assert_eq!(params["offset"], received);
            assert!(bytes == pattern(received as u64, bytes.len()), "at {received}");
            received += bytes.len();
        }
    };
    for part in 0..parts {
        ids.push(client.write("c", &pattern((part * PART) as u64, PART)));
        if part >= 16 {
            assert_eq!(client.result(ids[part - 16]), json!({}));
            read_up_to(&mut client, (part - 16) * PART);
        }
    }
    client.close_stdin("c");
    read_up_to(&mut client, parts * PART);
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB as u64, "{grown} bytes more in memory");
    let exited = client.exited("c");
    assert_eq!(exited["exitCode"], 0);
    assert_eq!(exited["stdoutBytes"], parts * PART);
    client.finish();
}

/// The kill of a child with a full stdin works at once, meanwhile all other processes are served, and
/// every write is answered: taken, refused, or ended with its process.
#[apply(both)]
fn a_child_that_does_not_read_delays_no_other_and_is_killed(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(plain(mode, "deaf", "printf ready; exec sleep 1000"));
    client.spawn(Mode::Pipe.params("other", &["cat"]));
    let part = vec![b'x'; MIB];
    let writes: Vec<i64> = (0..16).map(|_| client.write("deaf", &part)).collect();
    let started = Instant::now();
    client.write("other", b"hello\n");
    client.until("other", "hello\n");
    client.kill("deaf");
    let exited = client.exited("deaf");
    let took = started.elapsed();
    assert!(took < PATIENCE, "{took:?}");
    assert_eq!(exited["exitCode"], 137);
    assert_eq!(exited["signal"], "SIGKILL");
    assert!(!is_alive(pid));
    let codes: Vec<i64> = writes
        .into_iter()
        .map(|id| client.response(id)["error"]["code"].as_i64().unwrap_or(0))
        .collect();
    let with = |code| codes.iter().filter(|c| **c == code).count();
    // What the terminal or pipe holds, less than a mebibyte, is all that was taken of the first.
    assert_eq!(codes[0], 0, "{codes:?}");
    assert_eq!(codes[1..8], [-32600; 7], "{codes:?}");
    assert_eq!(with(-32001) + with(-32600) + with(0), 16, "{codes:?}");
    assert!(with(-32001) >= 7, "{codes:?}");
    client.finish();
}

#[apply(both)]
fn a_child_that_does_not_read_is_timed_out(mode: Mode) {
    let mut client = Client::in_process();
    let mut params = plain(mode, "deaf", "printf ready; exec sleep 1000");
    params["timeoutMs"] = json!(2_000);
    client.spawn_ready(params);
    let writes: Vec<i64> = (0..4).map(|_| client.write("deaf", &vec![b'x'; MIB])).collect();
    let exited = client.exited("deaf");
    assert_eq!(exited["exitCode"], 124);
    assert_eq!(exited["timedOut"], true);
    let took = exited["durationMs"].as_u64().expect("a number");
    assert!((2_000..22_000).contains(&took), "{took} ms");
    assert_eq!(client.error(writes[3]).0, -32600);
    client.finish();
}

#[apply(test)]
fn a_terminal_that_is_not_read_is_resized() {
    let mut client = Client::in_process();
    let script = "trap 'stty size' WINCH; printf ready; while :; do sleep 1000 & wait; done";
    client.spawn_ready(plain(Mode::Tty, "deaf", script));
    let write = client.write("deaf", &vec![b'x'; 4 * MIB]);
    client.call(
        "process/resizePty",
        json!({"processHandle": "deaf", "size": {"rows": 7, "cols": 9}}),
    );
    client.until("deaf", "7 9");
    assert!(!client.is_answered(write));
    client.kill("deaf");
    client.exited("deaf");
    assert_eq!(client.error(write).0, -32600);
    client.finish();
}

/// The answer to a write is what slows a client down: exactly one mebibyte may be pending for it to
/// come at once, and one byte more makes it wait until the child has read.
#[apply(test)]
fn answered_at_once_up_to_a_mebibyte_and_later_otherwise() {
    let mut client = Client::in_process();
    client.spawn_ready(Mode::Pipe.params("c", &["sh", "-c", READS_ON_USR1]));
    let first = client.write("c", &vec![0; MIB]);
    client.result(first);
    let held_by_the_pipe = MIB - pending(&mut client, "c");
    let second = client.write("c", &vec![0; held_by_the_pipe]);
    client.result(second);
    assert_eq!(pending(&mut client, "c"), MIB);
    let third = client.write("c", &[0]);
    let fourth = client.write("c", &[0]);
    // A signal is not input: it overtakes the bytes, though not the requests.
    client.call("process/kill", json!({"processHandle": "c", "signal": "SIGCONT"}));
    assert!(!client.is_answered(third) && !client.is_answered(fourth));
    assert_eq!(pending(&mut client, "c"), MIB + 2);
    client.call("process/kill", json!({"processHandle": "c", "signal": "SIGUSR1"}));
    client.result(third);
    client.result(fourth);
    client.close_stdin("c");
    let (stdout, _, _) = client.streamed("c");
    let total = MIB + held_by_the_pipe + 2;
    assert_eq!(String::from_utf8_lossy(&stdout), format!("{total}\n"));
    client.finish();
}

/// Exactly eight mebibytes may be pending. What is refused leaves no trace, its `closeStdin` included.
#[apply(test)]
fn refused_past_eight_mebibytes_and_nothing_of_it_written() {
    let mut client = Client::in_process();
    client.spawn_ready(Mode::Pipe.params("c", &["sh", "-c", READS_ON_USR1]));
    let first = client.write("c", &vec![b'.'; MIB]);
    client.result(first);
    let mut total = MIB;
    let mut accepted = Vec::new();
    let room = 8 * MIB - pending(&mut client, "c");
    for part in vec![b'.'; room].chunks(MIB) {
        accepted.push(client.write("c", part));
        total += part.len();
    }
    assert_eq!(pending(&mut client, "c"), 8 * MIB);
    let (code, message) = client.refuse(
        "process/writeStdin",
        json!({"processHandle": "c", "deltaBase64": encode(b"!"), "closeStdin": true}),
    );
    assert_eq!(code, -32001, "{message}");
    assert_eq!(pending(&mut client, "c"), 8 * MIB);
    client.call("process/kill", json!({"processHandle": "c", "signal": "SIGUSR1"}));
    for id in accepted {
        assert_eq!(client.result(id), json!({}));
    }
    let last = client.write("c", b"end");
    assert_eq!(client.result(last), json!({}));
    client.close_stdin("c");
    let (stdout, _, _) = client.streamed("c");
    assert_eq!(String::from_utf8_lossy(&stdout), format!("{}\n", total + 3));
    client.finish();
}

/// A client that awaits its answers is slowed and never refused, however large its writes are.
#[apply(test)]
fn one_large_awaited_write_is_never_refused() {
    let mut client = Client::in_process();
    client.spawn(Mode::Pipe.params("c", &["wc", "-c"]));
    for _ in 0..2 {
        let id = client.write("c", &vec![0; 9 * MIB]);
        assert_eq!(client.result(id), json!({}));
    }
    client.close_stdin("c");
    let (stdout, _, _) = client.streamed("c");
    assert_eq!(String::from_utf8_lossy(&stdout), format!("{}\n", 18 * MIB));
    client.finish();
}

/// Lines of 64 bytes, numbered.
fn lines(bytes: usize) -> Vec<u8> {
    (0..bytes / 64)
        .flat_map(|i| format!("{i:063}\n").into_bytes())
        .collect()
}

/// A program that copies, behind a terminal that ends its input at the end-of-file character.
fn copier(mode: Mode, handle: &str) -> Value {
    let setup = match mode {
        Mode::Pipe => "",
        Mode::Tty => "stty -echo -opost && ",
    };
    uncapped(mode.params(handle, &["sh", "-c", &format!("{setup}printf ready; exec cat")]))
}

#[apply(both)]
fn close_takes_effect_behind_the_bytes_of_its_request(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn_ready(copier(mode, "c"));
    let all = lines(MIB);
    client.call(
        "process/writeStdin",
        json!({"processHandle": "c", "deltaBase64": encode(&all), "closeStdin": true}),
    );
    let (stdout, _, exited) = client.streamed("c");
    assert!(stdout == all, "{} bytes came back, or others", stdout.len());
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

#[apply(both)]
fn close_takes_effect_behind_what_is_pending(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn_ready(copier(mode, "c"));
    let all = lines(3 * MIB);
    let (first, second) = all.split_at(2 * MIB);
    let first = client.write("c", first);
    let second = client.write("c", second);
    client.close_stdin("c");
    client.result(first);
    client.result(second);
    let (stdout, _, exited) = client.streamed("c");
    assert!(stdout == all, "{} bytes came back, or others", stdout.len());
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

/// A second close and a write after a close are refused, also while the first close is pending.
#[apply(both)]
fn closed_is_closed(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn_ready(plain(mode, "c", "printf ready; exec sleep 1000"));
    let close = json!({"processHandle": "c", "closeStdin": true});
    let unread = client.write("c", &vec![b'x'; 2 * MIB]);
    let pending = client.request("process/writeStdin", close.clone());
    for _ in 0..2 {
        assert_eq!(client.refuse("process/writeStdin", close.clone()).0, -32600);
        let late = client.write("c", b"late");
        assert_eq!(client.error(late).0, -32600);
    }
    assert!(!client.is_answered(unread) && !client.is_answered(pending));
    client.kill("c");
    client.exited("c");
    assert_eq!(client.error(unread).0, -32600);
    assert_eq!(client.error(pending).0, -32600);

    client.spawn_ready(copier(mode, "d"));
    let close = json!({"processHandle": "d", "closeStdin": true});
    let ids: Vec<i64> = (0..3)
        .map(|_| client.request("process/writeStdin", close.clone()))
        .collect();
    client.result(ids[0]);
    // Refused as closed, or as a process that the first one has ended.
    assert_eq!(client.error(ids[1]).0, -32600);
    assert_eq!(client.error(ids[2]).0, -32600);
    assert_eq!(client.exited("d")["exitCode"], 0);
    client.finish();
}

/// Neither a write after the exit nor one that races it harms the server.
#[apply(both)]
fn an_ended_process_takes_no_input(mode: Mode) {
    let mut client = Client::in_process();
    for i in 0..times(30) {
        let handle = format!("h{i}");
        client.spawn(mode.params(&handle, &["true"]));
        let racing = client.write(&handle, b"x\n");
        client.exited(&handle);
        let response = client.response(racing);
        let code = response["error"]["code"].as_i64().unwrap_or(-32600);
        assert_eq!(code, -32600, "{response}");
        let late = client.write(&handle, b"x\n");
        assert_eq!(client.error(late).0, -32600);
    }
    client.finish();
}

#[apply(test)]
fn a_child_that_closed_its_stdin_refuses_writes_and_lives_on() {
    let mut client = Client::in_process();
    let script = "trap 'exit 3' USR1; exec 0<&-; sleep 1000 >/dev/null & printf ready; wait";
    client.spawn_ready(Mode::Pipe.params("c", &["sh", "-c", script]));
    for _ in 0..3 {
        let id = client.write("c", b"this is not read");
        assert_eq!(client.error(id).0, -32600);
    }
    assert_eq!(pending(&mut client, "c"), 0);
    client.call("process/kill", json!({"processHandle": "c", "signal": "SIGUSR1"}));
    assert_eq!(client.exited("c")["exitCode"], 3);
    client.finish();
}

/// What is typed belongs to the terminal, not to one descriptor of it.
#[apply(test)]
fn a_terminal_with_a_closed_descriptor_still_takes_input() {
    let mut client = Client::in_process();
    let script = "exec 0<&-; printf ready; read line </dev/tty; exit 3";
    client.spawn_ready(Mode::Tty.params("c", &["sh", "-c", script]));
    let id = client.write("c", b"a line\n");
    client.result(id);
    assert_eq!(client.exited("c")["exitCode"], 3);
    client.finish();
}

/// The exit is told, the handle freed and our end closed though another process holds the other end.
#[apply(test)]
fn a_grandchild_that_keeps_stdin_keeps_nothing_else() {
    let mut client = Client::in_process();
    let script = "exec 3<&0
        setsid sh -c 'echo ready $$; exec sleep 1000 >/dev/null 2>&1' <&3 3<&- &
        read line <&3; exit 4";
    client.spawn(Mode::Pipe.params("c", &["sh", "-c", script]));
    let ready = client.until("c", "\n");
    let grandchild = ready.trim().rsplit(' ').next().and_then(|pid| pid.parse().ok());
    let grandchild: u32 = grandchild.expect("its pid");
    wait_until("it no longer holds the output", || {
        let held = crate::harness::descriptors(&grandchild.to_string());
        held.iter().filter(|d| d.contains("/dev/null")).count() >= 2
    });
    let id = client.write("c", b"go\n");
    client.result(id);
    let exited = client.exited("c");
    assert_eq!(exited["exitCode"], 4);
    assert_eq!(exited["outputDrainTimedOut"], false);
    assert!(is_alive(grandchild));
    let late = client.write("c", b"x");
    assert_eq!(client.error(late).0, -32600);
    // What is left of our side would show as a descriptor when the test ends.
    client.finish();
    kill_stray(grandchild);
}

#[apply(test)]
fn without_streaming_stdin_is_empty_and_not_the_servers() {
    let mut client = Client::binary(&[]);
    let exited = client.run(&["sh", "-c", "readlink /proc/self/fd/0; cat"]);
    assert_eq!(exited["stdout"], "/dev/null\n");
    assert_eq!(exited["exitCode"], 0);
    // Nor may it be written.
    client.spawn(json!({"processHandle": "c", "command": ["sleep", "1000"], "timeoutMs": null}));
    let id = client.write("c", b"x");
    assert_eq!(client.error(id).0, -32600);
    let close = json!({"processHandle": "c", "closeStdin": true});
    assert_eq!(client.refuse("process/writeStdin", close).0, -32600);
    client.finish();
}

#[apply(both)]
fn malformed_base64_writes_nothing(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn_ready(copier(mode, "c"));
    let malformed = [
        "YQ", "YQ=", "_-8=", "YW Jj", "YWJj\n", "YR==", "YQ==YQ==", "=", "é", "!",
    ];
    for text in malformed {
        let params = json!({"processHandle": "c", "deltaBase64": text, "closeStdin": true});
        assert_eq!(client.refuse("process/writeStdin", params).0, -32602, "{text:?}");
    }
    for value in [json!(3), json!(["YQ=="]), json!({})] {
        let params = json!({"processHandle": "c", "deltaBase64": value});
        assert_eq!(client.refuse("process/writeStdin", params).0, -32602, "{value}");
    }
    let id = client.write("c", b"whole\n");
    client.result(id);
    client.close_stdin("c");
    let (stdout, _, _) = client.streamed("c");
    assert_eq!(stdout, b"whole\n");
    client.finish();
}

/// Neither bytes nor a close is a mistake; no bytes are fine and change nothing.
#[apply(both)]
fn a_write_of_nothing(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn_ready(copier(mode, "c"));
    for params in [
        json!({"processHandle": "c"}),
        json!({"processHandle": "c", "deltaBase64": null}),
        json!({"processHandle": "c", "deltaBase64": null, "closeStdin": false}),
    ] {
        assert_eq!(client.refuse("process/writeStdin", params).0, -32602);
    }
    let empty = client.call(
        "process/writeStdin",
        json!({"processHandle": "c", "deltaBase64": ""}),
    );
    assert_eq!(empty, json!({}));
    let id = client.write("c", b"still open\n");
    client.result(id);
    client.call(
        "process/writeStdin",
        json!({"processHandle": "c", "deltaBase64": "", "closeStdin": true}),
    );
    let (stdout, _, exited) = client.streamed("c");
    assert_eq!(stdout, b"still open\n");
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

#[apply(both)]
fn small_pipelined_writes_keep_their_order(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn_ready(copier(mode, "c"));
    let count = times(5_000);
    let mut all = Vec::new();
    let mut ids = Vec::new();
    for i in 0..count {
        let line = format!("{i}\n");
        all.extend_from_slice(line.as_bytes());
        ids.push(client.write("c", line.as_bytes()));
    }
    client.close_stdin("c");
    for id in ids {
        client.result(id);
    }
    let (stdout, _, _) = client.streamed("c");
    assert!(stdout == all, "{} bytes came back, or others", stdout.len());
    client.finish();
}

/// The kernel keeps 4095 bytes of a line and its end; the rest is lost there, and is not waited for.
#[apply(test)]
fn a_line_too_long_for_the_terminal_does_not_hang() {
    let mut client = Client::in_process();
    let script = "stty -echo && printf ready; head -n 1 | wc -c; cat";
    client.spawn_ready(Mode::Tty.params("c", &["sh", "-c", script]));
    let mut line = vec![b'x'; 10_000];
    line.push(b'\n');
    let id = client.write("c", &line);
    client.result(id);
    client.until("c", "4096\r\n");
    let id = client.write("c", b"next\n");
    client.result(id);
    client.close_stdin("c");
    let (stdout, _, exited) = client.streamed("c");
    assert_eq!(String::from_utf8_lossy(&stdout), "next\r\n");
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

/// End-of-file is typed and nothing else: no line end is made up.
#[apply(test)]
fn end_of_file_on_a_terminal_adds_nothing_to_the_input() {
    let mut client = Client::in_process();
    for input in ["", "a line\n", "two\nlines\n", "carriage return\r"] {
        client.spawn_ready(copier(Mode::Tty, "c"));
        client.call(
            "process/writeStdin",
            json!({"processHandle": "c", "deltaBase64": encode(input.as_bytes()), "closeStdin": true}),
        );
        let (stdout, _, exited) = client.streamed("c");
        assert_eq!(String::from_utf8_lossy(&stdout), input.replace('\r', "\n"));
        assert_eq!(exited["exitCode"], 0);
    }
    client.finish();
}

/// One end-of-file after an unfinished line only hands the line over; the program still gets its end.
#[apply(test)]
fn end_of_file_behind_an_unfinished_line() {
    let mut client = Client::in_process();
    client.spawn_ready(copier(Mode::Tty, "c"));
    let id = client.write("c", b"one\nno end");
    client.result(id);
    client.close_stdin("c");
    let (stdout, _, exited) = client.streamed("c");
    assert_eq!(String::from_utf8_lossy(&stdout), "one\nno end");
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

/// A line that was killed, erased or interrupted is not unfinished: a second end-of-file would end the next
/// reader. What is left of the input when the first reader has ended shows as bytes in raw mode.
#[apply(test)]
fn end_of_file_is_typed_as_often_as_the_terminals_settings_ask_for() {
    let rest = "cat; printf '|'; stty -icanon min 0 time 0; od -An -tx1; printf '|'";
    let mut client = Client::in_process();
    for (settings, input, read) in [
        ("", "", ""),
        ("", "line\n", "line\n"),
        ("", "line\nabc", "line\nabc"),
        ("", "line\nabc\x15", "line\n"),
        ("", "line\nabc\x7f\x7f\x7f", "line\n"),
        ("", "line\nabc\x7f\x7f", "line\na"),
        ("", "caf\u{e9}\x7f\x7f\x7f\x7f", ""),
        ("-iutf8", "\u{e9}\x7f\x7f", ""),
        ("", "one two\x17\x17", ""),
        ("", "one two\x17", "one "),
        ("", "\x16\x04\x7f", ""),
        ("", "\x16\n\x7f", ""),
        ("", "a\x16", "a\x04"),
        ("", "abc\x03", ""),
        ("noflsh", "abc\x03", "abc"),
        ("-isig", "abc\x03", "abc\x03"),
        ("", "abc\r", "abc\n"),
        ("-icrnl", "abc\r", "abc\r"),
        ("igncr", "abc\r", "abc"),
        ("inlcr -icrnl", "abc\n", "abc\r"),
        ("eol x", "abcx", "abcx"),
        ("eof ^A", "abc", "abc"),
        ("kill ^B", "abc\x02", ""),
        ("kill ^B", "abc\x15", "abc\x15"),
        ("erase ^H", "a\x08", ""),
    ] {
        let script = format!("trap '' INT; stty -echo -opost {settings}; printf ready; {rest}");
        client.spawn_ready(Mode::Tty.params("c", &["sh", "-c", &script]));
        client.call(
            "process/writeStdin",
            json!({"processHandle": "c", "deltaBase64": encode(input.as_bytes()), "closeStdin": true}),
        );
        let (stdout, _, exited) = client.streamed("c");
        let stdout = String::from_utf8_lossy(&stdout);
        assert_eq!(stdout, format!("{read}||"), "{settings:?} {input:?}");
        assert_eq!(exited["exitCode"], 0);
    }
    client.finish();
}

/// It was typed without a line's end, and none is waited for.
#[apply(test)]
fn end_of_file_behind_what_a_raw_program_took() {
    let mut client = Client::in_process();
    let script = "stty raw -echo; printf ready; head -c1; stty -raw -opost; printf lines; \
                  cat; printf '|'; stty -icanon min 0 time 0; od -An -tx1; printf '|'";
    client.spawn_ready(Mode::Tty.params("c", &["sh", "-c", script]));
    client.write("c", b"x");
    client.until("c", "lines");
    client.close_stdin("c");
    let (stdout, _, _) = client.streamed("c");
    assert_eq!(String::from_utf8_lossy(&stdout), "||");
    client.finish();
}

/// A program that reads single characters gets the character that the terminal means end-of-file by.
#[apply(test)]
fn end_of_file_for_a_raw_terminal_is_one_character() {
    let mut client = Client::in_process();
    // The last cat ends when nothing has come for a while.
    let script = "printf ready; head -c 2; stty min 0 time 2; cat";
    client.spawn_ready(plain(Mode::Tty, "c", script));
    client.call(
        "process/writeStdin",
        json!({"processHandle": "c", "deltaBase64": encode(b"a"), "closeStdin": true}),
    );
    let (stdout, _, exited) = client.streamed("c");
    assert_eq!(stdout, b"a\x04");
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}
