//! `process/wait`: being told once of what a process does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Mode, apply, both, cpu_time, encode, test, times, wait_until};

fn wait(client: &mut Client, handle: &str, until: Value) -> i64 {
    client.request("process/wait", json!({"processHandle": handle, "until": until}))
}

/// `cat` with its input open; on a terminal one that echoes nothing and translates nothing.
fn cat(client: &mut Client, mode: Mode) {
    match mode {
        Mode::Pipe => {
            client.spawn(mode.params("c", &["cat"]));
        }
        Mode::Tty => {
            let script = "stty raw -echo; echo ready; exec cat";
            client.spawn_ready(mode.params("c", &["sh", "-c", script]));
        }
    }
}

/// Has `cat` print these bytes, and waits until they were read.
fn print(client: &mut Client, bytes: &[u8]) {
    client.write("c", bytes);
    let mut seen = 0;
    while seen < bytes.len() {
        seen += client.delta("c").0.len();
    }
}

#[apply(both)]
fn text_is_found_across_every_border(mode: Mode) {
    let mut client = Client::in_process();
    cat(&mut client, mode);
    let text = "..aabaabaaab..";
    let mut base = match mode {
        Mode::Pipe => 0,
        Mode::Tty => 6,
    };
    for cut in 1..text.len() {
        let id = wait(&mut client, "c", json!([{"text": "never"}, {"text": "aabaaab"}]));
        // Each write is a piece of its own.
        print(&mut client, &text.as_bytes()[..cut]);
        assert!(cut >= 12 || !client.is_answered(id), "{cut}");
        print(&mut client, &text.as_bytes()[cut..]);
        let expected = json!({"index": 1, "stream": "stdout", "offset": base + 12});
        assert_eq!(client.result(id), expected, "{cut}");
        base += text.len();
    }
    // Byte by byte.
    let id = wait(&mut client, "c", json!([{"text": text}]));
    for byte in text.bytes() {
        print(&mut client, &[byte]);
    }
    let expected = json!({"index": 0, "stream": "stdout", "offset": base + text.len()});
    assert_eq!(client.result(id), expected);
    client.kill("c");
    client.finish();
}

#[apply(both)]
fn the_match_that_is_complete_first_counts(mode: Mode) {
    let mut client = Client::in_process();
    cat(&mut client, mode);
    for (until, printed, index) in [
        (json!([{"text": "abc"}, {"text": "b"}]), "xabc", 1),
        (json!([{"text": "b"}, {"text": "abc"}]), "xabc", 0),
        // Complete at the same byte: the first of them.
        (json!([{"text": "c"}, {"text": "bc"}, {"text": "abc"}]), "xabc", 0),
        (json!([{"text": "abc"}, {"text": "bc"}, {"text": "c"}]), "xabc", 0),
        (json!([{"text": "zz"}, {"text": "c"}, {"text": "a"}]), "abc", 2),
        // Output that holds a match has come before anything else.
        (json!([{"exit": true}, {"eof": true}, {"text": "c"}]), "abc", 2),
    ] {
        let whole = wait(&mut client, "c", until.clone());
        print(&mut client, printed.as_bytes());
        assert_eq!(client.result(whole)["index"], index, "{until}");
        let pieces = wait(&mut client, "c", until.clone());
        for byte in printed.bytes() {
            print(&mut client, &[byte]);
        }
        assert_eq!(client.result(pieces)["index"], index, "{until} in pieces");
    }
    client.kill("c");
    client.finish();
}

#[apply(test)]
fn bytes_need_not_be_text() {
    let mut client = Client::in_process();
    cat(&mut client, Mode::Pipe);
    let pattern = [0xff, 0, 0xc3];
    let id = wait(&mut client, "c", json!([{"bytesBase64": encode(&pattern)}]));
    for byte in [0xc3, 0xff, 0, 0xff, 0] {
        print(&mut client, &[byte]);
    }
    assert!(!client.is_answered(id));
    print(&mut client, &[0xc3]);
    assert_eq!(client.result(id)["offset"], 6);
    client.kill("c");
    client.finish();
}

#[apply(test)]
fn a_stream_can_be_left_out_of_account() {
    let mut client = Client::in_process();
    let script = "read x; echo word >&2; read x; echo word; read x";
    client.spawn(Mode::Pipe.params("s", &["sh", "-c", script]));
    let request = |client: &mut Client, stream: Value| {
        let until = json!([{"text": "word"}]);
        client.request(
            "process/wait",
            json!({"processHandle": "s", "until": until, "stream": stream}),
        )
    };
    let (out, err) = (
        request(&mut client, json!("stdout")),
        request(&mut client, json!("stderr")),
    );
    let any = request(&mut client, Value::Null);
    client.write("s", b"\n");
    let expected = json!({"index": 0, "stream": "stderr", "offset": 4});
    assert_eq!(client.result(err), expected);
    assert_eq!(client.result(any), expected);
    assert!(!client.is_answered(out));
    client.write("s", b"\n");
    assert_eq!(
        client.result(out),
        json!({"index": 0, "stream": "stdout", "offset": 4})
    );
    client.kill("s");
    // A match is not put together of both.
    let script = "read x; printf ab; read x; printf cd >&2; read x; printf cd; read x";
    client.spawn(Mode::Pipe.params("b", &["sh", "-c", script]));
    let both = wait(&mut client, "b", json!([{"text": "abcd"}]));
    client.write("b", b"\n");
    assert_eq!(client.delta("b").0, b"ab");
    client.write("b", b"\n");
    assert_eq!(client.delta("b").0, b"cd");
    assert!(!client.is_answered(both));
    client.write("b", b"\n");
    assert_eq!(
        client.result(both),
        json!({"index": 0, "stream": "stdout", "offset": 4})
    );
    client.kill("b");
    client.finish();
}

#[apply(both)]
fn what_came_before_is_not_searched(mode: Mode) {
    let mut client = Client::in_process();
    cat(&mut client, mode);
    print(&mut client, b"prompt");
    let id = wait(&mut client, "c", json!([{"text": "prompt"}]));
    // Not even its beginning.
    print(&mut client, b"prom");
    let other = wait(&mut client, "c", json!([{"text": "prompt"}]));
    assert!(!client.is_answered(id));
    print(&mut client, b"pt");
    client.result(id);
    assert!(!client.is_answered(other));
    print(&mut client, b"prompt");
    client.result(other);
    client.kill("c");
    client.finish();
}

#[apply(both)]
fn a_wait_right_behind_the_spawn_sees_all_output(mode: Mode) {
    let mut client = Client::in_process();
    for round in 0..times(50) {
        let spawn = json!({
            "id": format!("s{round}"), "method": "process/spawn",
            "params": mode.params("r", &["echo", "first"]),
        });
        let wait = json!({
            "id": format!("w{round}"), "method": "process/wait",
            "params": {"processHandle": "r", "until": [{"text": "first"}, {"exit": true}]},
        });
        client.send_raw(format!("{spawn}\n{wait}\n").as_bytes());
        let answer = client.response(format!("w{round}"));
        assert_eq!(
            answer["result"],
            json!({"index": 0, "stream": "stdout", "offset": 5})
        );
        client.exited("r");
    }
    client.finish();
}

#[apply(both)]
fn an_answer_comes_behind_its_delta_and_before_the_exit(mode: Mode) {
    let mut client = Client::in_process();
    for round in 0..times(50) {
        let ids = client.spawn_and_wait(
            // It prints when all that is asked has been read.
            mode.params("o", &["sh", "-c", "read x; echo word"]),
            &[
                json!([{"text": "word"}]),
                json!([{"exit": true}]),
                json!([{"text": "none"}]),
            ],
        );
        client.write("o", b"\n");
        let order = client.order_until_exit("o");
        let place = |id: i64| order.iter().position(|m| m["id"] == id).expect("it was answered");
        // A terminal has shown what was typed before it.
        let mut printed = Vec::new();
        let delta = order.iter().position(|m| {
            let bytes = m["params"]["deltaBase64"].as_str().unwrap_or_default();
            printed.extend(base64_simd::STANDARD.decode_to_vec(bytes).expect("base64"));
            printed.windows(4).any(|bytes| bytes == b"word")
        });
        let delta = delta.expect("it was printed");
        assert!(place(ids[0]) > delta, "round {round}: {order:?}");
        assert!(place(ids[1]) > delta, "round {round}: {order:?}");
        assert_eq!(order.last().expect("an exit")["method"], "process/exited");
        assert_eq!(
            order[place(ids[2])]["result"],
            json!({"index": null, "timedOut": false, "exited": true})
        );
    }
    client.finish();
}

#[apply(test)]
fn output_that_is_not_delivered_is_searched_as_well() {
    let mut client = Client::in_process();
    client.call(
        "initialize",
        json!({
            "clientInfo": {"name": "quiet"},
            "capabilities": {"optOutNotificationMethods": ["process/outputDelta"]},
        }),
    );
    for (streamed, cap, keep) in [
        (true, json!(0), Value::Null),
        (true, json!(3), json!("tail")),
        (true, Value::Null, Value::Null),
        (false, json!(0), Value::Null),
        (false, json!(3), json!("tail")),
        (false, Value::Null, Value::Null),
    ] {
        let params = json!({
            "processHandle": "d", "command": ["sh", "-c", "seq 10000; exec sleep 1000"],
            "streamStdoutStderr": streamed, "outputBytesCap": cap, "outputKeep": keep, "timeoutMs": null,
        });
        let ids = client.spawn_and_wait(params, &[json!([{"text": "9999\n10000"}])]);
        assert_eq!(client.result(ids[0])["offset"], 48_893);
        client.kill("d");
        client.exited("d");
    }
    client.finish();
}

#[apply(both)]
fn silence_is_waited_for(mode: Mode) {
    let mut client = Client::in_process();
    cat(&mut client, mode);
    let id = wait(&mut client, "c", json!([{"quietMs": 0}]));
    assert_eq!(client.result(id), json!({"index": 0}));
    let began = Instant::now();
    let id = wait(&mut client, "c", json!([{"text": "x"}, {"quietMs": 300}]));
    // What comes puts it off.
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(20));
        print(&mut client, b".");
    }
    assert_eq!(client.result(id), json!({"index": 1}));
    assert!(
        began.elapsed() >= Duration::from_millis(400),
        "{:?}",
        began.elapsed()
    );
    client.kill("c");
    client.finish();
}

#[apply(test)]
fn output_that_is_not_read_is_not_silence() {
    let mut client = Client::in_process();
    let mut params = Mode::Pipe.params("y", &["yes"]);
    params["outputBytesCap"] = Value::Null;
    client.spawn(params);
    client.stop_reading();
    let id = wait(&mut client, "y", json!([{"quietMs": 100}]));
    // The answer would be there when it is read again.
    std::thread::sleep(Duration::from_millis(500));
    client.read_again();
    for _ in 0..20 {
        client.delta("y");
    }
    assert!(!client.is_answered(id));
    client.kill("y");
    assert_eq!(client.result(id)["exited"], true);
    client.finish();
}

#[apply(test)]
fn the_end_of_a_stream_is_waited_for() {
    let mut client = Client::in_process();
    let script = "echo ready; read x; exec >&-; read x; exec 2>&-; exec sleep 1000";
    client.spawn_ready(Mode::Pipe.params("e", &["sh", "-c", script]));
    let request = |client: &mut Client, stream: Value| {
        let until = json!([{"eof": true}]);
        client.request(
            "process/wait",
            json!({"processHandle": "e", "until": until, "stream": stream}),
        )
    };
    let (out, err) = (
        request(&mut client, json!("stdout")),
        request(&mut client, json!("stderr")),
    );
    let all = request(&mut client, Value::Null);
    client.write("e", b"\n");
    assert_eq!(client.result(out), json!({"index": 0}));
    assert!(!client.is_answered(err) && !client.is_answered(all));
    client.write("e", b"\n");
    client.result(err);
    client.result(all);
    // Of one that has ended before, at once.
    let again = request(&mut client, Value::Null);
    assert_eq!(client.result(again), json!({"index": 0}));
    client.kill("e");
    // One that was closed has ended as well.
    client.spawn(Mode::Pipe.params("c", &["sleep", "1000"]));
    let id = wait(&mut client, "c", json!([{"eof": true}]));
    client.call("process/closeOutput", json!({"processHandle": "c"}));
    assert_eq!(client.result(id), json!({"index": 0}));
    client.kill("c");
    client.finish();
}

#[apply(both)]
fn an_exit_is_waited_for(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(mode.params("x", &["sleep", "1000"]));
    let id = wait(&mut client, "x", json!([{"text": "never"}, {"exit": true}]));
    client.kill("x");
    assert_eq!(client.result(id), json!({"index": 1}));
    client.exited("x");
    // While something still holds its output, it is known already.
    if mode == Mode::Pipe {
        let script = "sleep 1000 & echo ready; read x; exit 0";
        client.spawn_ready(mode.params("h", &["sh", "-c", script]));
        let exit = wait(&mut client, "h", json!([{"exit": true}]));
        let never = wait(&mut client, "h", json!([{"text": "never"}]));
        client.write("h", b"\n");
        assert_eq!(client.result(exit), json!({"index": 0}));
        let late = wait(&mut client, "h", json!([{"exit": true}]));
        assert_eq!(client.result(late), json!({"index": 0}));
        assert!(!client.is_answered(never));
        client.exited("h");
        assert_eq!(
            client.result(never),
            json!({"index": null, "timedOut": false, "exited": true})
        );
    }
    client.finish();
}

#[apply(both)]
fn a_prompt_is_waited_for(mode: Mode) {
    let mut client = Client::in_process();
    let script = "printf 'name: '; read x; sleep 0.1; printf 'again: '; read x; exec sleep 1000";
    client.request("process/spawn", mode.params("i", &["sh", "-c", script]));
    for prompt in ["name: ", "again: "] {
        let id = wait(&mut client, "i", json!([{"text": "never"}, {"input": true}]));
        assert_eq!(client.result(id), json!({"index": 1}));
        // It was printed before.
        client.until("i", prompt);
        client.write("i", b"x\n");
    }
    let params = json!({"processHandle": "i", "until": [{"input": true}], "timeoutMs": 400});
    let result = client.call("process/wait", params);
    assert_eq!(result, json!({"index": null, "timedOut": true, "exited": false}));
    let id = wait(&mut client, "i", json!([{"input": true}]));
    client.kill("i");
    assert_eq!(client.result(id)["exited"], true);
    client.finish();
}

#[apply(test)]
fn output_before_the_exit_comes_first() {
    let mut client = Client::in_process();
    for mode in [Mode::Pipe, Mode::Tty] {
        for _ in 0..times(30) {
            let until = json!([{"exit": true}, {"text": "last"}]);
            let ids = client.spawn_and_wait(
                mode.params("l", &["sh", "-c", "read x; head -c 200000 /dev/zero; echo last"]),
                &[until],
            );
            client.write("l", b"\n");
            assert_eq!(client.result(ids[0])["index"], 1);
            client.exited("l");
        }
    }
    client.finish();
}

#[apply(both)]
fn a_wait_that_cannot_end_well_is_answered_at_the_exit(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(mode.params("n", &["sleep", "1000"]));
    let ids = [
        wait(&mut client, "n", json!([{"text": "never"}])),
        wait(
            &mut client,
            "n",
            json!([{"text": "never"}, {"quietMs": 1_000_000_000_000_u64}]),
        ),
        client.request(
            "process/wait",
            json!({"processHandle": "n", "until": [{"text": "n"}], "timeoutMs": u64::MAX}),
        ),
    ];
    client.kill("n");
    client.exited("n");
    for id in ids {
        assert!(client.is_answered(id), "before the exit");
        assert_eq!(
            client.result(id),
            json!({"index": null, "timedOut": false, "exited": true})
        );
    }
    client.finish();
}

#[apply(both)]
fn time_can_be_limited(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(mode.params("t", &["sleep", "1000"]));
    for ms in [0, 50] {
        let began = Instant::now();
        let until = json!([{"text": "never"}, {"quietMs": 100_000}]);
        let params = json!({"processHandle": "t", "until": until, "timeoutMs": ms});
        let result = client.call("process/wait", params);
        assert_eq!(result, json!({"index": null, "timedOut": true, "exited": false}));
        assert!(began.elapsed() >= Duration::from_millis(ms));
    }
    // What holds now comes before the time.
    let params = json!({"processHandle": "t", "until": [{"quietMs": 0}], "timeoutMs": 0});
    assert_eq!(client.call("process/wait", params), json!({"index": 0}));
    client.kill("t");
    client.finish();
}

#[apply(test)]
fn waits_hold_nothing_up() {
    let mut client = Client::in_process();
    cat(&mut client, Mode::Pipe);
    let first = wait(&mut client, "c", json!([{"text": "one"}]));
    let second = wait(&mut client, "c", json!([{"text": "two"}]));
    let list = client.request("process/list", json!({}));
    client.result(list);
    let write = client.write("c", b"two");
    client.result(write);
    client.result(second);
    assert!(!client.is_answered(first));
    client.write("c", b"one");
    client.result(first);
    client.kill("c");
    client.finish();
}

#[apply(test)]
fn a_dead_process_is_not_waited_for() {
    let mut client = Client::in_process();
    let id = wait(&mut client, "none", json!([{"exit": true}]));
    assert_eq!(client.error(id).0, -32600);
    client.request(
        "process/spawn",
        json!({"processHandle": "f", "command": ["no-such-program"]}),
    );
    let id = wait(&mut client, "f", json!([{"exit": true}]));
    assert_eq!(client.error(id).0, -32600);
    // One that ends at the same moment: each wait is answered, and the handle is free after it.
    for _ in 0..times(200) {
        client.spawn(json!({"processHandle": "e", "command": ["true"]}));
        let id = wait(&mut client, "e", json!([{"text": "x"}, {"exit": true}]));
        client.exited("e");
        let answer = client.response(id);
        let fine = answer["result"]["index"] == 1 || answer["error"]["code"] == -32600;
        assert!(fine, "{answer}");
    }
    client.finish();
}

#[apply(test)]
fn a_killed_process_answers_its_waits() {
    let mut client = Client::in_process();
    for _ in 0..times(50) {
        client.request("process/spawn", Mode::Pipe.params("k", &["sleep", "1000"]));
        let before = wait(&mut client, "k", json!([{"text": "x"}]));
        client.request("process/kill", json!({"processHandle": "k"}));
        let behind = wait(&mut client, "k", json!([{"text": "x"}, {"exit": true}]));
        client.exited("k");
        assert_eq!(client.result(before)["exited"], true);
        let behind = client.response(behind);
        let fine = behind["result"]["index"] == 1 || behind["error"]["code"] == -32600;
        assert!(fine, "{behind}");
    }
    client.finish();
}

#[apply(test)]
fn the_end_of_the_connection_answers_all_waits() {
    for binary in [false, true] {
        let mut client = match binary {
            true => Client::binary(&[]),
            false => Client::in_process(),
        };
        let mut ids = Vec::new();
        for n in 0..5 {
            let handle = format!("p{n}");
            client.request("process/spawn", Mode::Pipe.params(&handle, &["sleep", "1000"]));
            for _ in 0..3 {
                ids.push(wait(&mut client, &handle, json!([{"text": "never"}])));
            }
        }
        let (left, _) = client.finish();
        for id in ids {
            let answers: Vec<_> = left.iter().filter(|m| m["id"] == id).collect();
            assert_eq!(answers.len(), 1, "{answers:?}");
        }
    }
}

#[apply(test)]
fn a_detached_process_leaves_its_waits_with_an_error() {
    let mut client = Client::in_process();
    let mut params = Mode::Pipe.params("d", &["sleep", "1000"]);
    params["detach"] = json!(true);
    let pid = client.spawn(params);
    let id = wait(&mut client, "d", json!([{"text": "never"}, {"exit": true}]));
    client.call("process/list", json!({}));
    let (left, _) = client.finish();
    let answer = left.iter().find(|m| m["id"] == id).expect("it is answered");
    assert_eq!(answer["error"]["code"], -32600, "{answer}");
    crate::harness::kill_stray(pid);
}

#[apply(test)]
fn too_many_waits_are_refused_and_a_place_is_free_again() {
    let mut client = Client::in_process();
    cat(&mut client, Mode::Pipe);
    let ids: Vec<i64> = (0..64)
        .map(|n| wait(&mut client, "c", json!([{"text": format!("<{n}>")}])))
        .collect();
    let id = wait(&mut client, "c", json!([{"text": "x"}]));
    assert_eq!(client.error(id).0, -32001);
    print(&mut client, b"<7>");
    client.result(ids[7]);
    let id = wait(&mut client, "c", json!([{"text": "x"}]));
    let one_too_many = wait(&mut client, "c", json!([{"text": "x"}]));
    assert_eq!(client.error(one_too_many).0, -32001);
    print(&mut client, b"x");
    client.result(id);
    // Another process has its own.
    client.spawn(Mode::Pipe.params("other", &["sleep", "1000"]));
    let id = wait(&mut client, "other", json!([{"text": "x"}]));
    client.kill("other");
    assert_eq!(client.result(id)["exited"], true);
    client.kill("c");
    client.exited("c");
    for (n, id) in ids.into_iter().enumerate().filter(|(n, _)| *n != 7) {
        assert_eq!(client.result(id)["exited"], true, "{n}");
    }
    client.finish();
}

#[apply(test)]
fn the_patterns_of_all_waits_are_bounded() {
    let mut client = Client::in_process();
    let until = json!([{"text": "a".repeat(65_536)}]);
    let mut refused = 0;
    for n in 0..6 {
        let handle = format!("p{n}");
        client.spawn(Mode::Pipe.params(&handle, &["sleep", "1000"]));
        let ids: Vec<i64> = (0..64)
            .map(|_| wait(&mut client, &handle, until.clone()))
            .collect();
        client.call("process/list", json!({}));
        for id in ids
            .into_iter()
            .filter(|id| client.is_answered(*id))
            .collect::<Vec<_>>()
        {
            assert_eq!(client.error(id).0, -32001);
            refused += 1;
        }
    }
    // Each takes three times its bytes, and 64 MiB are taken in all.
    assert!(refused > 0 && refused < 64, "{refused}");
    client.kill("p0");
    client.exited("p0");
    let id = wait(&mut client, "p1", json!([{"quietMs": 0}]));
    assert!(
        client.response(id).get("error").is_some(),
        "64 of this process are unanswered"
    );
    let id = wait(&mut client, "p5", until);
    client.kill("p5");
    assert_eq!(client.result(id)["exited"], true);
    client.finish();
}

/// More waits than requests may be in flight: other requests are still served.
/// What is looked for in output keeps the process from its commands as long as that takes.
#[apply(test)]
fn the_more_is_looked_for_the_less_is_read_at_a_time() {
    let mut client = Client::in_process();
    client.spawn(Mode::Pipe.params("p", &["sh", "-c", "read x; exec yes"]));
    let until: Vec<Value> = (1..=64).map(|n| json!({"text": "!".repeat(n)})).collect();
    for _ in 0..8 {
        wait(&mut client, "p", json!(until));
    }
    client.write("p", b"\n");
    for _ in 0..20 {
        let length = client.delta("p").0.len();
        assert!(length <= 8_192, "{length} bytes in 512 patterns");
    }
    client.kill("p");
    client.exited("p");
    client.finish();
}

#[apply(test)]
fn many_waits_do_not_keep_other_requests_out() {
    const PROCESSES: usize = 40;
    let mut client = Client::in_process();
    for n in 0..PROCESSES {
        let handle = format!("p{n}");
        client.request("process/spawn", Mode::Pipe.params(&handle, &["cat"]));
        for _ in 0..64 {
            wait(&mut client, &handle, json!([{"text": "go"}]));
        }
    }
    let listed = client.call("process/list", json!({}));
    assert_eq!(listed["processes"].as_array().map(Vec::len), Some(PROCESSES));
    for n in 0..PROCESSES {
        client.write(&format!("p{n}"), b"go");
    }
    let last = wait(&mut client, "p0", json!([{"quietMs": 0}]));
    client.response(last);
    for n in 0..PROCESSES {
        client.kill(&format!("p{n}"));
    }
    client.finish();
}

#[apply(test)]
fn what_cannot_be_waited_for_is_refused() {
    let mut client = Client::in_process();
    client.spawn(Mode::Pipe.params("p", &["sleep", "1000"]));
    client.spawn(Mode::Tty.params("t", &["sleep", "1000"]));
    let text = |n: usize| json!({"text": "a".repeat(n)});
    for until in [
        json!([]),
        json!({}),
        json!([{}]),
        json!(["text"]),
        json!([{"text": ""}]),
        json!([{"bytesBase64": ""}]),
        json!([{"bytesBase64": "?"}]),
        json!([{"text": "a", "eof": true}]),
        json!([{"eof": false}]),
        json!([{"input": false}]),
        json!([{"quietMs": -1}]),
        json!([{"quietMs": "1"}]),
        json!(vec![text(1); 65]),
        json!([text(65_537)]),
        json!([text(65_000), text(537)]),
        json!([text(65_000), {"bytesBase64": encode(&[1; 537])}]),
    ] {
        let (code, message) = client.refuse("process/wait", json!({"processHandle": "p", "until": until}));
        assert_eq!(code, -32602, "{message}");
        assert!(message.len() < 600 && message.contains("until"), "{message}");
    }
    for (handle, member, value) in [
        ("p", "stream", json!("stdin")),
        ("p", "timeoutMs", json!(-1)),
        ("t", "stream", json!("stderr")),
    ] {
        let mut params = json!({"processHandle": handle, "until": [{"eof": true}]});
        params[member] = value;
        let (code, message) = client.refuse("process/wait", params);
        assert_eq!(code, -32602, "{message}");
        assert!(message.contains(member), "{message}");
    }
    // The largest that are taken.
    for until in [
        json!(vec![text(1_024); 64]),
        json!([text(65_536)]),
        json!([{"quietMs": u64::MAX}]),
    ] {
        let params = json!({"processHandle": "p", "until": until, "timeoutMs": 0});
        assert_eq!(client.call("process/wait", params)["timedOut"], true);
    }
    let params = json!({"processHandle": "t", "until": [{"eof": true}], "stream": "stdout", "timeoutMs": 0});
    assert_eq!(client.call("process/wait", params)["timedOut"], true);
    client.kill("p");
    client.kill("t");
    client.finish();
}

#[apply(test)]
fn long_patterns_and_short_writes_take_linear_time() {
    // Each piece costs what any piece costs, however much of a pattern came before it.
    let (short, long) = (search_time(1), search_time(65_535));
    assert!(long < short * 8, "{long:?} instead of {short:?}");
}

/// The processor time of sending 64 KiB in pieces of 16 bytes past patterns that begin as what is sent does
/// for this length: searching all again each time is 2^33 comparisons for the longest.
fn search_time(length: usize) -> Duration {
    let mut client = Client::in_process();
    let mut params = Mode::Pipe.params("c", &["cat"]);
    params["outputBytesCap"] = json!(0);
    client.spawn(params);
    let pattern = "a".repeat(length);
    for _ in 0..8 {
        wait(&mut client, "c", json!([{"text": format!("{pattern}b")}]));
    }
    let begun = wait(&mut client, "c", json!([{"text": "aaa"}]));
    client.write("c", b"aaa");
    client.result(begun);
    let before = cpu_time();
    for _ in 0..10 {
        for _ in 0..400 {
            client.write("c", b"aaaaaaaaaaaaaaaa");
        }
        let seen = wait(&mut client, "c", json!([{"text": "!"}]));
        client.write("c", b"!");
        client.result(seen);
    }
    let used = cpu_time() - before;
    client.kill("c");
    wait_until("the process has ended", || {
        client.call("process/list", json!({}))["processes"] == json!([])
    });
    client.finish();
    used
}
