//! `process/closeOutput`: the reader of a stream goes away.

use serde_json::{Value, json};

use crate::harness::{Client, Mode, apply, test, times};

fn close(client: &mut Client, handle: &str, stream: Value) -> i64 {
    let mut params = json!({"processHandle": handle});
    if !stream.is_null() {
        params["stream"] = stream;
    }
    client.request("process/closeOutput", params)
}

#[apply(test)]
fn the_program_is_told_by_the_system() {
    let mut client = Client::in_process();
    for collected in [false, true] {
        let mut params = Mode::Pipe.params("y", &["yes"]);
        params["streamStdoutStderr"] = json!(!collected);
        client.spawn(params);
        let id = close(&mut client, "y", json!("stdout"));
        assert_eq!(client.result(id), json!({}));
        assert_eq!(client.exited("y")["signal"], "SIGPIPE");
    }
    // One that ignores the signal gets EPIPE.
    let script = "trap '' PIPE; echo ready; read x; echo lost; echo $? >&2";
    client.spawn_ready(Mode::Pipe.params("e", &["sh", "-c", script]));
    let id = close(&mut client, "e", json!("stdout"));
    client.result(id);
    client.write("e", b"\n");
    let (stdout, stderr, _) = client.streamed("e");
    assert_eq!(stdout, b"");
    assert!(!stderr.ends_with(b"0\n") && stderr.ends_with(b"\n"), "{stderr:?}");
    client.finish();
}

#[apply(test)]
fn each_stream_is_closed_alone_or_both_at_once() {
    let mut client = Client::in_process();
    let script = "echo ready; read x; { echo out; } || exit 1; { echo err >&2; } || exit 2; exit 0";
    let script = format!("trap '' PIPE; {script}");
    for (stream, code) in [(json!("stdout"), 1), (json!("stderr"), 2), (Value::Null, 1)] {
        client.spawn_ready(Mode::Pipe.params("s", &["sh", "-c", &script]));
        let id = close(&mut client, "s", stream.clone());
        client.result(id);
        client.write("s", b"\n");
        assert_eq!(client.exited("s")["exitCode"], code, "{stream}");
    }
    client.finish();
}

#[apply(test)]
fn no_delta_follows_the_answer() {
    let mut client = Client::in_process();
    for _ in 0..times(30) {
        let params = Mode::Pipe.params("y", &["sh", "-c", "yes >&2 & yes & exec sleep 1000"]);
        client.spawn(params);
        client.delta("y");
        let id = close(&mut client, "y", json!("stdout"));
        // Everything that was written before the answer is there.
        client.result(id);
        let before = client.take_notifications();
        assert!(
            before.iter().all(|n| n["method"] == "process/outputDelta"),
            "{before:?}"
        );
        let id = close(&mut client, "y", json!("stderr"));
        client.result(id);
        let after = client.take_notifications();
        assert!(
            after.iter().all(|n| n["params"]["stream"] != "stdout"),
            "{after:?}"
        );
        client.kill("y");
        let exit = client.notification();
        assert_eq!(
            exit["method"], "process/exited",
            "nothing comes before it: {exit}"
        );
    }
    client.finish();
}

#[apply(test)]
fn what_was_read_counts_and_collected_output_stays() {
    let mut client = Client::in_process();
    for keep in [json!("head"), json!({"head": 3, "tail": 4})] {
        let all_kept = keep == "head";
        let params = json!({
            "processHandle": "c", "command": ["sh", "-c", "printf 0123456789; read x; exit 3"],
            "streamStdin": true, "outputKeep": keep,
        });
        let waits = client.spawn_and_wait(params, &[json!([{"text": "9"}])]);
        client.result(waits[0]);
        let id = close(&mut client, "c", Value::Null);
        client.result(id);
        client.write("c", b"\n");
        let exited = client.exited("c");
        assert_eq!(
            (&exited["stdoutBytes"], &exited["exitCode"]),
            (&json!(10), &json!(3))
        );
        let (head, tail) = match all_kept {
            true => ("0123456789", ""),
            false => ("012", "6789"),
        };
        assert_eq!(
            (&exited["stdout"], &exited["stdoutTail"]),
            (&json!(head), &json!(tail))
        );
    }
    // Of a stream whose end was kept to be sent, nothing is sent any more.
    let mut params = Mode::Pipe.params("t", &["sh", "-c", "printf 0123456789; read x"]);
    params["outputKeep"] = json!({"head": 0, "tail": 4});
    let waits = client.spawn_and_wait(params, &[json!([{"text": "9"}])]);
    client.result(waits[0]);
    let id = close(&mut client, "t", Value::Null);
    client.result(id);
    client.write("t", b"\n");
    let exit = client.notification();
    assert_eq!(exit["method"], "process/exited", "{exit}");
    // None of the ten bytes were sent, whatever the cap would have allowed.
    let told = |member: &str| exit["params"][member].clone();
    assert_eq!(
        (told("stdoutBytes"), told("stdoutOmittedBytes")),
        (json!(10), json!(10))
    );
    client.finish();
}

#[apply(test)]
fn what_cannot_be_closed_is_refused() {
    let mut client = Client::in_process();
    let id = close(&mut client, "none", Value::Null);
    assert_eq!(client.error(id).0, -32600);
    client.spawn(Mode::Tty.params("t", &["sleep", "1000"]));
    for stream in [json!("stdout"), json!("stderr"), Value::Null] {
        let id = close(&mut client, "t", stream);
        assert_eq!(client.error(id).0, -32600);
    }
    client.spawn(Mode::Pipe.params("p", &["sleep", "1000"]));
    let id = close(&mut client, "p", json!("stdout"));
    client.result(id);
    let id = close(&mut client, "p", json!("stdout"));
    assert_eq!(client.error(id).0, -32600);
    // One of the two is still open, and then none.
    let id = close(&mut client, "p", Value::Null);
    client.result(id);
    let id = close(&mut client, "p", Value::Null);
    assert_eq!(client.error(id).0, -32600);
    for stream in [json!("stdin"), json!(1), json!("")] {
        let id = close(&mut client, "p", stream);
        assert_eq!(client.error(id).0, -32602);
    }
    client.kill("t");
    client.kill("p");
    client.finish();
}

#[apply(test)]
fn it_takes_effect_in_its_turn() {
    let mut client = Client::in_process();
    for _ in 0..times(20) {
        // Right after the spawn, and after a spawn that fails.
        client.request("process/spawn", Mode::Pipe.params("t", &["yes"]));
        let first = close(&mut client, "t", Value::Null);
        let second = close(&mut client, "t", Value::Null);
        client.result(first);
        // It may have ended by then.
        let again = client.response(second);
        assert!(again.get("error").is_none_or(|e| e["code"] == -32600), "{again}");
        assert_eq!(client.exited("t")["signal"], "SIGPIPE");
        client.take_notifications();
    }
    client.request("process/spawn", Mode::Pipe.params("f", &["no-such-program"]));
    let id = close(&mut client, "f", Value::Null);
    assert_eq!(client.error(id).0, -32600);
    client.finish();
}

#[apply(test)]
fn what_holds_a_closed_stream_open_is_not_waited_for() {
    let mut client = Client::in_process();
    let mut params = Mode::Pipe.params("h", &["sh", "-c", "sleep 1000 & echo ready; read x; exit 0"]);
    params["streamStdoutStderr"] = json!(true);
    client.spawn_ready(params);
    let id = close(&mut client, "h", Value::Null);
    client.result(id);
    client.write("h", b"\n");
    let exited = client.exited("h");
    assert_eq!(
        (&exited["exitCode"], &exited["outputDrainTimedOut"]),
        (&json!(0), &json!(false))
    );
    client.finish();
}

#[apply(test)]
fn a_client_that_does_not_read_can_close() {
    let mut client = Client::in_process();
    client.stop_reading();
    client.request("process/spawn", Mode::Pipe.params("y", &["yes"]));
    let id = close(&mut client, "y", Value::Null);
    // The program has ended before anything is read.
    client.read_again();
    client.result(id);
    assert_eq!(client.exited("y")["signal"], "SIGPIPE");
    client.finish();
}
