//! Handles: what a name means, when it is free again, and the order of what is asked of it.

use std::time::Instant;

use crate::harness::{Client, Mode, Scratch, apply, both, encode, test, times};
use serde_json::{Value, json};

/// The exit is the last word on a handle, so a client that has read it may use the handle at once.
#[apply(both)]
fn is_free_when_the_exit_is_read(mode: Mode) {
    let mut client = Client::in_process();
    for i in 0..times(150) {
        let id = client.request("process/spawn", mode.params("h", &["true"]));
        let exited = client.exited("h");
        assert_eq!(client.result(id)["pid"], exited["pid"], "round {i}");
        assert_eq!(exited["exitCode"], 0);
    }
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:?}");
}

#[apply(both)]
fn is_free_when_the_spawn_has_failed(mode: Mode) {
    let mut client = Client::in_process();
    for _ in 0..times(20) {
        let (code, _) = client.refuse("process/spawn", mode.params("h", &["/nonexistent"]));
        assert_eq!(code, -32603);
        client.spawn(mode.params("h", &["true"]));
        client.exited("h");
    }
    client.finish();
}

#[apply(both)]
fn of_many_pipelined_spawns_one_wins(mode: Mode) {
    let mut client = Client::in_process();
    let ids: Vec<i64> = (0..50)
        .map(|_| client.request("process/spawn", mode.params("h", &["sleep", "1000"])))
        .collect();
    let pid = client.result(ids[0])["pid"].clone();
    for id in &ids[1..] {
        let (code, message) = client.error(*id);
        assert_eq!(code, -32600);
        assert!(message.contains("duplicate active process handle"), "{message}");
    }
    let list = client.call("process/list", json!({}));
    assert_eq!(list["processes"].as_array().map(Vec::len), Some(1));
    client.kill("h");
    assert_eq!(client.exited("h")["pid"], pid);
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:?}");
}

/// The second program never runs, and the first one does not notice.
#[apply(both)]
fn a_live_one_is_not_taken_over(mode: Mode) {
    let scratch = Scratch::new();
    let mark = scratch.path("mark");
    let mut client = Client::in_process();
    client.spawn(mode.params("h", &["cat"]));
    let (code, _) = client.refuse("process/spawn", mode.params("h", &["touch", &mark]));
    assert_eq!(code, -32600);
    client.write("h", b"still there\n");
    client.until("h", "still there");
    client.kill("h");
    client.exited("h");
    assert!(!std::path::Path::new(&mark).exists(), "the second program ran");
    client.finish();
}

#[apply(both)]
fn an_unknown_one_is_an_error_everywhere(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(mode.params("gone", &["true"]));
    client.exited("gone");
    for handle in ["gone", "never", "", "GONE"] {
        for (method, params) in [
            (
                "process/writeStdin",
                json!({"processHandle": handle, "deltaBase64": encode(b"x")}),
            ),
            (
                "process/writeStdin",
                json!({"processHandle": handle, "closeStdin": true}),
            ),
            (
                "process/resizePty",
                json!({"processHandle": handle, "size": {"rows": 1, "cols": 1}}),
            ),
            ("process/kill", json!({"processHandle": handle})),
        ] {
            let (code, message) = client.refuse(method, params);
            assert_eq!(code, -32600, "{method} of {handle:?}: {message}");
        }
    }
    client.finish();
}

/// A name is compared as it is and comes back as it was sent; only the empty one is none.
#[apply(test)]
fn any_text_is_a_name() {
    let mut client = Client::in_process();
    let long = "long ".repeat(800);
    let names = [
        "--help",
        " ",
        "a\"b\\c\n\u{0}",
        "é",
        "e\u{301}",
        "🦀",
        "0",
        "null",
        "../..",
        &long,
    ];
    for name in names {
        client.spawn(Mode::Pipe.params(name, &["sleep", "1000"]));
    }
    let list = client.call("process/list", json!({}));
    let listed: Vec<&str> = list["processes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|p| p["processHandle"].as_str())
        .collect();
    assert!(listed == names, "{listed:?}");
    for name in names {
        client.kill(name);
        assert_eq!(client.exited(name)["exitCode"], 137);
    }
    assert_eq!(
        client.refuse("process/spawn", Mode::Pipe.params("", &["true"])).0,
        -32600
    );
    for handle in [json!(1), Value::Null, json!(["h"])] {
        let params = json!({"processHandle": handle, "command": ["true"]});
        assert_eq!(client.refuse("process/spawn", params).0, -32602, "{handle}");
    }
    client.finish();
}

fn copier(mode: Mode) -> Value {
    match mode {
        Mode::Pipe => mode.params("h", &["cat"]),
        // What is typed before the terminal is set waits in it, and is echoed.
        Mode::Tty => mode.params("h", &["sh", "-c", "stty -opost -icrnl; exec cat"]),
    }
}

/// Everything sent in one go: the spawn, what it reads, its end.
#[apply(both)]
fn pipelined_requests_take_effect_in_order(mode: Mode) {
    let mut client = Client::in_process();
    for _ in 0..times(10) {
        let mut lines = Vec::new();
        let mut add = |method: &str, params: Value| {
            let id = format!("id {}", lines.len());
            lines.push(json!({"id": id, "method": method, "params": params}).to_string());
        };
        add("process/spawn", copier(mode));
        for part in ["one ", "two ", "three\n"] {
            add(
                "process/writeStdin",
                json!({"processHandle": "h", "deltaBase64": encode(part.as_bytes())}),
            );
        }
        add(
            "process/writeStdin",
            json!({"processHandle": "h", "closeStdin": true}),
        );
        add(
            "process/writeStdin",
            json!({"processHandle": "h", "deltaBase64": encode(b"late")}),
        );
        let count = lines.len();
        client.send_raw((lines.join("\n") + "\n").as_bytes());
        for i in 0..count {
            let response = client.response(format!("id {i}"));
            let code = response["error"]["code"].as_i64();
            let expected = (i + 1 == count).then_some(-32600);
            assert_eq!(code, expected, "{response}");
        }
        let (stdout, _, exited) = client.streamed("h");
        let printed = String::from_utf8_lossy(&stdout).replace('\r', "");
        match mode {
            Mode::Pipe => assert_eq!(printed, "one two three\n"),
            Mode::Tty => assert!(printed.ends_with("one two three\n"), "{printed:?}"),
        }
        assert_eq!(exited["exitCode"], 0);
    }
    client.finish();
}

#[apply(test)]
fn a_resize_and_a_write_behind_the_spawn() {
    let mut client = Client::in_process();
    for i in 0..times(10) {
        let spawn = client.request(
            "process/spawn",
            Mode::Tty.params("h", &["sh", "-c", "read line; stty size; echo \"$line\""]),
        );
        let resize = client.request(
            "process/resizePty",
            json!({"processHandle": "h", "size": {"rows": 30 + i, "cols": 90}}),
        );
        let write = client.write("h", b"typed\n");
        for id in [spawn, resize, write] {
            client.result(id);
        }
        let (stdout, _, _) = client.streamed("h");
        let printed = String::from_utf8_lossy(&stdout);
        assert_eq!(printed, format!("typed\r\n{} 90\r\ntyped\r\n", 30 + i));
    }
    client.finish();
}

#[apply(both)]
fn requests_behind_a_failed_spawn_find_nothing(mode: Mode) {
    let mut client = Client::in_process();
    for _ in 0..times(10) {
        let spawn = client.request("process/spawn", mode.params("h", &["/nonexistent"]));
        let size = json!({"rows": 1, "cols": 1});
        let behind = [
            client.write("h", b"x"),
            client.request("process/resizePty", json!({"processHandle": "h", "size": size})),
            client.request("process/kill", json!({"processHandle": "h"})),
            client.request(
                "process/writeStdin",
                json!({"processHandle": "h", "closeStdin": true}),
            ),
        ];
        assert_eq!(client.error(spawn).0, -32603);
        for id in behind {
            assert_eq!(client.error(id).0, -32600);
        }
    }
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:?}");
}

#[apply(both)]
fn requests_behind_a_failed_and_another_spawn_find_the_other(mode: Mode) {
    let mut client = Client::in_process();
    for _ in 0..times(10) {
        let failing = [
            client.request("process/spawn", mode.params("h", &["/nonexistent"])),
            client.write("h", b"too late"),
            client.request("process/spawn", mode.params("h", &["/nonexistent/either"])),
            client.request("process/kill", json!({"processHandle": "h"})),
        ];
        let spawn = client.request(
            "process/spawn",
            mode.params("h", &["sh", "-c", "read line; exit $line"]),
        );
        let write = client.write("h", b"42\n");
        let again = client.request("process/spawn", mode.params("h", &["true"]));
        let codes = failing.map(|id| client.error(id).0);
        assert_eq!(codes, [-32603, -32600, -32603, -32600]);
        let pid = client.result(spawn)["pid"].clone();
        client.result(write);
        let exited = client.exited("h");
        assert_eq!((&exited["exitCode"], &exited["pid"]), (&json!(42), &pid));
        // The last one found the handle in use, or free again if the program was fast.
        let response = client.response(again);
        match response["error"]["code"].as_i64() {
            None => assert_eq!(client.exited("h")["exitCode"], 0),
            Some(code) => assert_eq!(code, -32600, "{response}"),
        }
    }
    let (left, _) = client.finish();
    assert!(
        left.iter().all(|n| n["method"] == "process/outputDelta"),
        "{left:?}"
    );
}

/// It is refused if the first one runs, and takes effect if that one could not.
#[apply(both)]
fn a_second_spawn_behind_a_spawn_waits_for_its_fate(mode: Mode) {
    let mut client = Client::in_process();
    for (first, second) in [("/nonexistent", "sleep"), ("sleep", "/nonexistent")] {
        let first = client.request("process/spawn", mode.params("h", &[first, "1000"]));
        let second = client.request("process/spawn", mode.params("h", &[second, "1000"]));
        let kill = client.request("process/kill", json!({"processHandle": "h"}));
        let codes = [first, second].map(|id| client.response(id)["error"]["code"].clone());
        assert!(
            codes == [json!(-32603), Value::Null] || codes == [Value::Null, json!(-32600)],
            "{codes:?}"
        );
        client.result(kill);
        assert_eq!(client.exited("h")["exitCode"], 137);
    }
    client.finish();
}

/// A program that is being written is tried again for a while. Others start meanwhile.
#[apply(test)]
fn a_slow_spawn_delays_only_its_own_handle() {
    let scratch = Scratch::new();
    let program = scratch.path("program");
    std::fs::copy("/bin/true", &program).expect("a copy of a program");
    let being_written = std::fs::OpenOptions::new().write(true).open(&program);
    let being_written = being_written.expect("the copy is ours");
    let mut client = Client::in_process();
    let started = Instant::now();
    let slow = client.request("process/spawn", Mode::Pipe.params("slow", &[&program]));
    let behind = client.request("process/kill", json!({"processHandle": "slow"}));
    let exited = client.run(&["echo", "meanwhile"]);
    assert_eq!(exited["stdout"], "meanwhile\n");
    assert!(
        !client.is_answered(slow) && !client.is_answered(behind),
        "{:?}",
        started.elapsed()
    );
    drop(being_written);
    client.result(slow);
    let response = client.response(behind);
    assert!(
        matches!(response["error"]["code"].as_i64(), None | Some(-32600)),
        "{response}"
    );
    client.exited("slow");
    client.finish();
}

#[apply(both)]
fn a_stuck_process_delays_only_its_own_handle(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(mode.params("stuck", &["sleep", "1000"]));
    client.call(
        "process/kill",
        json!({"processHandle": "stuck", "signal": "SIGSTOP"}),
    );
    let stuck = client.write("stuck", &vec![b'\n'; 4 * 1024 * 1024]);
    for _ in 0..times(10) {
        client.spawn(mode.params("other", &["cat"]));
        client.write("other", b"hello\n");
        client.until("other", "hello");
        client.kill("other");
        client.exited("other");
    }
    assert!(!client.is_answered(stuck));
    client.kill("stuck");
    client.exited("stuck");
    assert_eq!(client.error(stuck).0, -32600);
    client.finish();
}

/// Many processes at once, each with its own name, input, output and exit code.
#[apply(test)]
fn a_hundred_conversations_do_not_mix() {
    let mut client = Client::in_process();
    let count = times(100);
    for i in 0..count {
        let handle = format!("h{i}");
        let script = format!("cat; exit {}", i % 256);
        client.request(
            "process/spawn",
            Mode::Pipe.params(&handle, &["sh", "-c", &script]),
        );
    }
    for i in 0..count {
        client.write(&format!("h{i}"), format!("this is {i}").as_bytes());
    }
    for i in 0..count {
        client.request(
            "process/writeStdin",
            json!({"processHandle": format!("h{i}"), "closeStdin": true}),
        );
    }
    for i in 0..count {
        let (stdout, _, exited) = client.streamed(&format!("h{i}"));
        assert_eq!(String::from_utf8_lossy(&stdout), format!("this is {i}"));
        assert_eq!(exited["exitCode"], i % 256);
    }
    client.finish();
}
