//! `outputKeep`: what is kept of a stream that outgrows its cap.

use serde_json::{Value, json};

use crate::harness::{Client, Mode, apply, both, decoded, private_bytes, test};

/// Characters of one to four bytes.
const TEXT: &str = "añ€𝄞b€";

fn collected(client: &mut Client, text: &[u8], keep: Value, cap: Value) -> Value {
    let mut params =
        json!({"processHandle": "k", "command": ["cat"], "streamStdin": true, "outputKeep": keep});
    if !cap.is_null() {
        params["outputBytesCap"] = cap;
    }
    client.request("process/spawn", params);
    client.write("k", text);
    client.request(
        "process/writeStdin",
        json!({"processHandle": "k", "closeStdin": true}),
    );
    client.exited("k")
}

/// The text of a stream that keeps so much of both ends, as `process/exited` reports it.
fn check(exited: &Value, head: usize, tail: usize) {
    let dropped = TEXT.len() > head + tail;
    let (head, tail) = match dropped {
        false => (TEXT, ""),
        true => {
            let head = (0..=head).rev().find(|&at| TEXT.is_char_boundary(at));
            let tail = (TEXT.len() - tail..=TEXT.len()).find(|&at| TEXT.is_char_boundary(at));
            (
                &TEXT[..head.expect("0 is one")],
                &TEXT[tail.expect("the end is one")..],
            )
        }
    };
    let omitted = TEXT.len() - head.len() - tail.len();
    assert_eq!(exited["stdout"], head);
    assert_eq!(exited["stdoutTail"], tail);
    assert_eq!(exited["stdoutOmittedBytes"], omitted);
    assert_eq!(exited["stdoutCapReached"], dropped);
    assert_eq!(exited["stdoutBytes"], TEXT.len());
    assert!(exited.get("stdoutBase64").is_none() && exited.get("stdoutTailBase64").is_none());
}

#[apply(test)]
fn collected_output_is_cut_between_characters_wherever_the_cuts_fall() {
    let mut client = Client::in_process();
    for head in 0..=TEXT.len() {
        for tail in 0..=TEXT.len() + 1 - head {
            let keep = json!({"head": head, "tail": tail});
            let exited = collected(&mut client, TEXT.as_bytes(), keep, Value::Null);
            check(&exited, head, tail);
        }
    }
    for cap in 0..=TEXT.len() + 1 {
        let exited = collected(&mut client, TEXT.as_bytes(), json!("tail"), json!(cap));
        check(&exited, 0, cap);
        let exited = collected(&mut client, TEXT.as_bytes(), json!("head"), json!(cap));
        check(&exited, cap, 0);
    }
    client.finish();
}

#[apply(test)]
fn what_is_missing_is_told_exactly_if_the_spawn_asked() {
    let mut client = Client::in_process();
    let told = [
        "stdoutTail",
        "stdoutOmittedBytes",
        "stderrTail",
        "stderrOmittedBytes",
    ];
    for (keep, streamed) in [
        (json!("head"), false),
        (json!("tail"), false),
        (json!({"head": 1, "tail": 1}), false),
        (json!({"head": 1, "tail": 1}), true),
        (Value::Null, false),
    ] {
        let is_told = !keep.is_null();
        let exited = client.run_with(json!({
            "processHandle": "t", "command": ["sh", "-c", "printf out; printf er >&2"],
            "outputKeep": keep, "streamStdoutStderr": streamed,
        }));
        for member in told {
            assert_eq!(exited.get(member).is_some(), is_told, "{member}: {exited}");
        }
        if keep.is_object() {
            assert_eq!(
                (&exited["stdoutOmittedBytes"], &exited["stderrOmittedBytes"]),
                (&json!(1), &json!(0))
            );
        }
        if keep == json!({"head": 1, "tail": 1}) && !streamed {
            assert_eq!(
                (&exited["stdout"], &exited["stdoutTail"]),
                (&json!("o"), &json!("t"))
            );
            assert_eq!(
                (&exited["stderr"], &exited["stderrTail"]),
                (&json!("er"), &json!(""))
            );
        }
    }
    // Also of a stream that is not read.
    for (member, value) in [
        ("stderr", json!("stdout")),
        ("stdout", json!("null")),
        ("tty", json!(true)),
    ] {
        let mut params = json!({
            "processHandle": "t", "command": ["sh", "-c", "printf out; printf er >&2"], "outputKeep": "tail",
        });
        params[member] = value;
        let exited = client.run_with(params);
        for told in told {
            assert!(exited.get(told).is_some(), "{member}: {told}: {exited}");
        }
    }
    // No cap: nothing is ever dropped.
    let exited = collected(&mut client, TEXT.as_bytes(), json!("tail"), Value::Null);
    check(&exited, TEXT.len(), 0);
    let params = json!({
        "processHandle": "n", "command": ["echo", "all"], "outputKeep": "tail", "outputBytesCap": null,
    });
    assert_eq!(client.run_with(params)["stdout"], "all\n");
    client.finish();
}

#[apply(test)]
fn what_is_not_text_is_there_as_bytes() {
    let mut client = Client::in_process();
    let exited = collected(
        &mut client,
        b"\xffabcdef\x80\x80x\xfe",
        json!({"head": 2, "tail": 3}),
        Value::Null,
    );
    assert_eq!(exited["stdout"], "\u{fffd}a");
    assert_eq!(exited["stdoutBase64"], "/2E=");
    assert_eq!(exited["stdoutTail"], "x\u{fffd}");
    assert_eq!(exited["stdoutTailBase64"], "gHj+");
    assert_eq!(exited["stdoutOmittedBytes"], 6);
    client.finish();
}

/// The deltas of a stream up to the exit: each with its place, whether the cap was reached, and its bytes.
struct Deltas {
    pieces: Vec<(u64, bool, Vec<u8>)>,
    exited: Value,
}

impl Deltas {
    fn of(client: &mut Client, handle: &str, stream: &str) -> Deltas {
        let mut pieces = Vec::new();
        loop {
            let notification = client.find("output or exit", |n| {
                let ours = n["params"]["processHandle"] == handle;
                let wanted = n["params"]["stream"] == stream || n["method"] == "process/exited";
                (ours && wanted).then(|| n.clone())
            });
            let params = &notification["params"];
            if notification["method"] == "process/exited" {
                let exited = params.clone();
                return Deltas { pieces, exited };
            }
            if params["eof"] == true {
                continue;
            }
            let offset = params["offset"].as_u64().expect("an offset");
            pieces.push((offset, params["capReached"] == true, decoded(params)));
        }
    }

    /// The stream is `all`, of which so many bytes of both ends were kept.
    fn check(&self, all: &[u8], head: usize, tail: usize) {
        let dropped = all.len() > head + tail;
        let mut at = 0;
        let mut jumped = !dropped;
        for (index, (offset, capped, bytes)) in self.pieces.iter().enumerate() {
            if *offset != at {
                assert!(!jumped, "one gap: {offset} behind {at}");
                assert_eq!((at, *offset), (head as u64, (all.len() - tail) as u64));
                jumped = true;
            }
            let from = *offset as usize;
            assert_eq!(bytes, &all[from..from + bytes.len()], "at {offset}");
            at = offset + bytes.len() as u64;
            let last = index + 1 == self.pieces.len();
            assert_eq!(*capped, dropped && last, "capReached at {offset}");
        }
        if tail > 0 || !dropped {
            assert_eq!(at, all.len() as u64, "the end has come");
        }
    }
}

fn numbers(mode: Mode, last: usize) -> String {
    mode.printed(&(1..=last).map(|n| format!("{n}\n")).collect::<String>())
}

#[apply(both)]
fn streamed_output_has_one_gap_that_shows_in_the_offsets(mode: Mode) {
    let mut client = Client::in_process();
    let all = numbers(mode, 50_000);
    for (head, tail) in [
        (1_000, 700),
        (0, 1),
        (1, 0),
        (100, 200_000),
        (0, 0),
        (all.len(), 5),
        (3, all.len()),
    ] {
        let mut params = mode.params("g", &["seq", "50000"]);
        params["outputKeep"] = json!({"head": head, "tail": tail});
        client.spawn(params);
        let deltas = Deltas::of(&mut client, "g", "stdout");
        deltas.check(all.as_bytes(), head, tail);
        let omitted = all.len().saturating_sub(head + tail);
        assert_eq!(deltas.exited["stdoutCapReached"], omitted > 0);
        assert_eq!(deltas.exited["stdoutOmittedBytes"], omitted);
        assert_eq!(
            (&deltas.exited["stdout"], &deltas.exited["stdoutTail"]),
            (&json!(""), &json!(""))
        );
    }
    // The other stream has its own two ends.
    if mode == Mode::Pipe {
        let mut params = mode.params("e", &["sh", "-c", "seq 50000 >&2; echo out"]);
        params["outputKeep"] = json!("tail");
        params["outputBytesCap"] = json!(10);
        client.spawn(params);
        Deltas::of(&mut client, "e", "stderr").check(all.as_bytes(), 0, 10);
        let (bytes, params) = client.delta("e");
        assert_eq!(
            (&bytes[..], &params["capReached"]),
            (&b"out\n"[..], &json!(false))
        );
    }
    client.finish();
}

/// Spawns what prints numbers and stays, and waits until they were read, which no delta reports.
fn spawn_that_stays(client: &mut Client, mut params: Value) {
    params["outputKeep"] = json!({"head": 4, "tail": 9});
    let waits = client.spawn_and_wait(params, &[json!([{"text": "4999"}, {"exit": true}])]);
    assert_eq!(client.result(waits[0])["index"], 0);
}

const STAYS: &[&str] = &["sh", "-c", "seq 4999; exec sleep 1000"];

fn check_what_stays(client: &mut Client, mode: Mode) -> Value {
    let all = numbers(mode, 4999);
    let deltas = Deltas::of(client, "s", "stdout");
    // The end of the last line may not have been read.
    let read = deltas.exited["stdoutBytes"].as_u64().expect("a count") as usize;
    assert!(read + 2 >= all.len(), "{read} of {} bytes", all.len());
    deltas.check(&all.as_bytes()[..read], 4, 9);
    deltas.exited
}

#[apply(both)]
fn a_killed_process_has_its_last_output_sent(mode: Mode) {
    let mut client = Client::in_process();
    spawn_that_stays(&mut client, mode.params("s", STAYS));
    client.kill("s");
    assert_eq!(check_what_stays(&mut client, mode)["signal"], "SIGKILL");
    client.finish();
}

#[apply(both)]
fn a_process_whose_time_is_up_has_its_last_output_sent(mode: Mode) {
    let mut client = Client::in_process();
    let mut params = mode.params("s", STAYS);
    params["timeoutMs"] = json!(1_500);
    spawn_that_stays(&mut client, params);
    assert_eq!(check_what_stays(&mut client, mode)["timedOut"], true);
    client.finish();
}

#[apply(test)]
fn the_end_of_the_connection_sends_the_last_output() {
    for arguments in [&[][..], &["--drain"]] {
        let mut client = Client::binary(arguments);
        let mut params = Mode::Pipe.params("s", STAYS);
        if !arguments.is_empty() {
            params["command"] = json!(["sh", "-c", "seq 4999; sleep 0.2"]);
        }
        spawn_that_stays(&mut client, params);
        client.end_input();
        check_what_stays(&mut client, Mode::Pipe);
        client.finish_anyhow();
    }
}

#[apply(test)]
fn what_keeps_a_stream_open_does_not_keep_its_end_back() {
    let mut client = Client::in_process();
    client.spawn(json!({
        "processHandle": "s", "command": ["sh", "-c", "seq 4999; sleep 1000 & exit 0"],
        "streamStdoutStderr": true, "outputKeep": {"head": 4, "tail": 9},
    }));
    let exited = check_what_stays(&mut client, Mode::Pipe);
    assert_eq!(exited["outputDrainTimedOut"], true);
    client.finish();
}

#[apply(test)]
fn a_stream_that_ends_early_sends_its_end_then() {
    let mut client = Client::in_process();
    client.spawn(Mode::Pipe.params("e", &["sleep", "1000"]));
    let mut params = Mode::Pipe.params("s", &["sh", "-c", "seq 4999; exec >&-; exec sleep 1000"]);
    params["outputKeep"] = json!({"head": 2, "tail": 5});
    client.spawn(params);
    let (bytes, params) = client.delta("s");
    assert_eq!((&bytes[..], params["capReached"] == true), (&b"1\n"[..], false));
    let (bytes, params) = client.delta("s");
    assert_eq!((&bytes[..], params["capReached"] == true), (&b"4999\n"[..], true));
    let (bytes, params) = client.delta("s");
    assert_eq!((&bytes[..], params["eof"] == true), (&b""[..], true));
    client.kill("s");
    client.exited("s");
    client.kill("e");
    client.finish();
}

#[apply(test)]
fn a_slow_client_gets_all_of_a_long_end() {
    let mut client = Client::binary(&[]);
    client.stop_reading();
    let command = ["sh", "-c", "seq 400000; seq 300000 >&2"];
    let mut params = Mode::Pipe.params("l", &command);
    params["outputKeep"] = json!({"head": 0, "tail": 1_000_000});
    client.request("process/spawn", params);
    // Behind the exit: this one has been started when that one has ended.
    client.request(
        "process/wait",
        json!({"processHandle": "l", "until": [{"exit": true}]}),
    );
    client.read_again();
    let deltas = Deltas::of(&mut client, "l", "stdout");
    deltas.check(numbers(Mode::Pipe, 400_000).as_bytes(), 0, 1_000_000);
    let errors = client.take_notifications();
    let errors: Vec<u8> = errors.iter().flat_map(|n| decoded(&n["params"])).collect();
    assert_eq!(errors.len(), 1_000_000);
    assert!(numbers(Mode::Pipe, 300_000).as_bytes().ends_with(&errors));
    client.finish();
}

#[apply(test)]
fn memory_is_what_was_asked_for_and_only_when_it_is_needed() {
    const MIB: u64 = 1024 * 1024;
    let mut client = Client::in_process();
    // More than there is: nothing is taken before there is something to keep.
    let exited = client.run_with(json!({
        "processHandle": "m", "command": ["echo", "little"],
        "outputKeep": {"head": u64::MAX, "tail": u64::MAX},
    }));
    assert_eq!(
        (&exited["stdout"], &exited["stdoutTail"]),
        (&json!("little\n"), &json!(""))
    );
    let exited = client.run_with(json!({
        "processHandle": "m", "command": ["echo", "little"], "outputKeep": {"head": 0, "tail": 1_u64 << 50},
    }));
    assert_eq!(
        (&exited["stdout"], &exited["stdoutTail"]),
        (&json!("little\n"), &json!(""))
    );
    let before = private_bytes();
    client.spawn(json!({
        "processHandle": "m", "command": ["sh", "-c", "head -c 100000000 /dev/zero; echo last"],
        "timeoutMs": null, "outputKeep": {"head": MIB, "tail": MIB},
    }));
    let mut most = 0;
    let wait = client.request(
        "process/wait",
        json!({"processHandle": "m", "until": [{"text": "last\n"}]}),
    );
    while !client.is_answered(wait) {
        most = most.max(private_bytes().saturating_sub(before));
        client.call("process/list", json!({}));
    }
    let exited = client.exited("m");
    assert!(
        exited["stdoutTail"]
            .as_str()
            .is_some_and(|tail| tail.ends_with("last\n"))
    );
    assert_eq!(exited["stdoutOmittedBytes"], 100_000_005 - 2 * MIB);
    assert!(most < 16 * MIB, "{most} bytes more");
    client.finish();
}

#[apply(test)]
fn other_values_are_refused() {
    let mut client = Client::in_process();
    for (keep, cap) in [
        (json!("middle"), Value::Null),
        (json!(""), Value::Null),
        (json!(5), Value::Null),
        (json!([1, 2]), Value::Null),
        (json!({}), Value::Null),
        (json!({"head": 1}), Value::Null),
        (json!({"tail": 1}), Value::Null),
        (json!({"head": -1, "tail": 1}), Value::Null),
        (json!({"head": 1, "tail": null}), Value::Null),
        (json!({"head": 1, "tail": 1.5}), Value::Null),
        (json!({"head": 1, "tail": 1}), json!(2)),
        (json!({"head": 1, "tail": 1}), json!("null")),
    ] {
        let mut params = json!({"processHandle": "r", "command": ["true"], "outputKeep": keep});
        if cap == "null" {
            params["outputBytesCap"] = Value::Null;
        } else if !cap.is_null() {
            params["outputBytesCap"] = cap;
        }
        let (code, message) = client.refuse("process/spawn", params);
        assert_eq!(code, -32602, "{keep}: {message}");
        assert!(message.contains("outputKeep"), "{message}");
    }
    client.finish();
}
