//! The end of a stream whose process lives on.

use std::time::Instant;

use serde_json::json;

use crate::harness::{Client, Mode, PATIENCE, apply, decoded, test};

#[apply(test)]
fn a_stream_that_ends_while_its_process_lives_says_so() {
    for (closes, stream) in [(">&-", "stdout"), ("2>&-", "stderr")] {
        let mut client = Client::in_process();
        let script = format!("echo out; echo err >&2; exec {closes}; exec sleep 1000");
        client.spawn(Mode::Pipe.params("e", &["sh", "-c", &script]));
        let began = Instant::now();
        let mut bytes = Vec::new();
        let params = client.find("the end", |n| {
            let params = &n["params"];
            let ours = params["stream"] == stream;
            if ours {
                bytes.extend(decoded(params));
            }
            (ours && params.get("eof").is_some()).then(|| params.clone())
        });
        assert_eq!(bytes.len(), 4);
        assert_eq!(
            params,
            json!({
                "processHandle": "e", "stream": stream, "deltaBase64": "", "capReached": false,
                "offset": 4, "eof": true,
            })
        );
        assert!(began.elapsed() < PATIENCE);
        client.kill("e");
        client.exited("e");
        let (left, _) = client.finish();
        // The other one ended with the process.
        assert!(left.iter().all(|n| n["params"].get("eof").is_none()), "{left:?}");
    }
}

/// But for one whose end the machine has no time for.
#[apply(test)]
fn an_ordinary_exit_costs_no_message() {
    let mut client = Client::in_process();
    let mut told = 0;
    for _ in 0..20 {
        client.spawn(Mode::Pipe.params("o", &["echo", "hi"]));
        client.exited("o");
        let deltas = client.take_notifications();
        told += usize::from(deltas.iter().any(|n| n["params"].get("eof").is_some()));
    }
    assert!(told < 10, "{told} of 20");
    client.finish();
}

#[apply(test)]
fn a_capped_stream_says_so_as_well() {
    let mut client = Client::in_process();
    for (keep, cap) in [("head", 3), ("head", 0), ("tail", 3)] {
        let mut params = Mode::Pipe.params("c", &["sh", "-c", "echo hello; exec >&-; exec sleep 1000"]);
        params["outputBytesCap"] = json!(cap);
        params["outputKeep"] = json!(keep);
        client.spawn(params);
        let params = client.find("the end", |n| {
            (n["params"]["eof"] == true).then(|| n["params"].clone())
        });
        assert_eq!(
            (&params["offset"], &params["capReached"]),
            (&json!(6), &json!(true))
        );
        client.kill("c");
        client.exited("c");
    }
    client.finish();
}

#[apply(test)]
fn collected_output_has_no_such_delta() {
    let mut client = Client::in_process();
    client.spawn(json!({
        "processHandle": "c", "command": ["sh", "-c", "echo hi; exec >&- 2>&-; sleep 0.1"],
    }));
    let notification = client.notification();
    assert_eq!(notification["method"], "process/exited", "{notification}");
    client.finish();
}

#[apply(test)]
fn a_terminal_ends_with_its_process() {
    let mut client = Client::in_process();
    let script = "exec </dev/null >/dev/null 2>&1; sleep 0.1; echo back >/dev/tty";
    client.spawn(Mode::Tty.params("t", &["sh", "-c", script]));
    let (bytes, params) = client.delta("t");
    assert_eq!((&bytes[..], params.get("eof")), (&b"back\r\n"[..], None));
    assert_eq!(client.notification()["method"], "process/exited");
    client.finish();
}

#[apply(test)]
fn a_client_that_does_not_read_gets_the_end_later() {
    let mut client = Client::in_process();
    client.stop_reading();
    let script = "head -c 3000000 /dev/zero; exec >&-; exec sleep 1000";
    let mut params = Mode::Pipe.params("s", &["sh", "-c", script]);
    params["outputBytesCap"] = json!(null);
    client.request("process/spawn", params);
    client.read_again();
    let mut bytes = 0;
    loop {
        let (more, params) = client.delta("s");
        assert_eq!(params["offset"], bytes);
        bytes += more.len();
        if params["eof"] == true {
            break;
        }
    }
    assert_eq!(bytes, 3_000_000);
    client.kill("s");
    client.finish();
}

#[apply(test)]
fn what_still_holds_the_stream_keeps_it_from_ending() {
    let mut client = Client::in_process();
    // The shell has closed its own, and its child prints on.
    let script = "{ sh -c 'read x; echo $x' <&3 & exec >&-; wait; exec sleep 1000; } 3<&0";
    client.spawn(Mode::Pipe.params("h", &["sh", "-c", script]));
    client.write("h", b"late\n");
    let mut seen = Vec::new();
    loop {
        let (bytes, params) = client.delta("h");
        seen.extend(bytes);
        if params["eof"] == true {
            break;
        }
    }
    assert_eq!(seen, b"late\n");
    client.kill("h");
    client.finish();
}
