//! `timeoutMs`: when it strikes, whom, and how its exit looks.

use std::time::{Duration, Instant};

use crate::harness::{Client, Mode, Test, both, is_alive, processes, test, times, wait_until};
use serde_json::{Value, json};

pub const TESTS: &[Test] = &[
    both!(is_told_apart_from_every_other_exit),
    both!(ends_the_whole_tree),
    both!(ends_what_ignores_signals_or_is_stopped),
    test!(collected_output_comes_with_it),
    test!(null_is_none_and_left_out_is_the_default),
    test!(the_default_is_the_servers_to_set),
    both!(nothing_is_too_short_or_too_long),
    test!(malformed_timeouts_start_nothing),
    both!(may_race_the_exit),
    test!(many_at_once_are_on_time),
    test!(an_exit_in_time_is_not_undone_by_the_drain),
    both!(a_kill_that_comes_first_is_a_kill),
];

fn with_timeout(mode: Mode, handle: &str, script: &str, timeout: impl Into<Value>) -> Value {
    let mut params = mode.params(handle, &["sh", "-c", script]);
    params["timeoutMs"] = timeout.into();
    params
}

fn check_timed_out(exited: &Value, timeout: u64) {
    assert_eq!(exited["exitCode"], 124);
    assert_eq!(exited["timedOut"], true);
    assert_eq!(exited["signal"], "SIGKILL");
    let took = exited["durationMs"].as_u64().expect("a number");
    assert!(
        took >= timeout && took < timeout + 5_000,
        "{took} ms instead of {timeout}"
    );
}

fn is_told_apart_from_every_other_exit(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(with_timeout(mode, "c", "printf before; sleep 1000", 200));
    let (stdout, _, exited) = client.streamed("c");
    assert_eq!(stdout, b"before");
    check_timed_out(&exited, 200);
    // A program may use the same code.
    client.spawn(with_timeout(mode, "c", "exit 124", 60_000));
    let exited = client.exited("c");
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"]),
        (&json!(124), &json!(false))
    );
    client.finish();
}

/// The group, and descendants that left it.
fn ends_the_whole_tree(mode: Mode) {
    let mut client = Client::in_process();
    let script = "sleep 1000 & setsid sleep 1000 & printf ready; wait";
    let pid = client.spawn_ready(with_timeout(mode, "c", script, 400));
    let sleeps = || -> Vec<u32> {
        let below = processes()
            .into_iter()
            .filter(|p| p.parent == pid && p.name == "sleep");
        below.map(|p| p.pid).collect()
    };
    wait_until("both sleep", || sleeps().len() == 2);
    let all = sleeps();
    check_timed_out(&client.exited("c"), 400);
    assert!(all.into_iter().all(|pid| !is_alive(pid)));
    client.finish();
}

fn ends_what_ignores_signals_or_is_stopped(mode: Mode) {
    let mut client = Client::in_process();
    let script = "trap '' TERM HUP INT; printf ready; kill -STOP $$; sleep 1000";
    client.spawn_ready(with_timeout(mode, "c", script, 200));
    check_timed_out(&client.exited("c"), 200);
    client.finish();
}

fn collected_output_comes_with_it() {
    let mut client = Client::in_process();
    let exited = client.run_with(json!({
        "processHandle": "c",
        "command": ["sh", "-c", "printf out; printf err >&2; sleep 1000"],
        "timeoutMs": 200,
    }));
    check_timed_out(&exited, 200);
    assert_eq!(
        (&exited["stdout"], &exited["stderr"]),
        (&json!("out"), &json!("err"))
    );
    client.finish();
}

/// Ten seconds, as the handshake says; only what is said is checked here, not the ten seconds.
fn null_is_none_and_left_out_is_the_default() {
    let mut client = Client::in_process();
    let answer = client.call("initialize", json!({"clientInfo": {"name": "test"}}));
    assert_eq!(answer["limits"]["defaultTimeoutMs"], 10_000);
    client.finish();

    let mut config = procwire::Config::default();
    config.default_timeout_ms = Some(150);
    let mut client = Client::in_process_with(config);
    client.spawn(json!({"processHandle": "none", "command": ["sleep", "1000"], "timeoutMs": null}));
    client.spawn(json!({"processHandle": "default", "command": ["sleep", "1000"]}));
    check_timed_out(&client.exited("default"), 150);
    client.kill("none");
    let exited = client.exited("none");
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"]),
        (&json!(137), &json!(false))
    );
    assert!(exited["durationMs"].as_u64() >= Some(150));
    client.finish();
}

fn the_default_is_the_servers_to_set() {
    let mut config = procwire::Config::default();
    config.default_timeout_ms = None;
    let mut client = Client::in_process_with(config);
    let answer = client.call("initialize", json!({"clientInfo": {"name": "test"}}));
    assert_eq!(answer["limits"]["defaultTimeoutMs"], Value::Null);
    let mut params = with_timeout(Mode::Pipe, "c", "sleep 1000", 150);
    client.spawn(params.clone());
    check_timed_out(&client.exited("c"), 150);
    params.as_object_mut().expect("an object").remove("timeoutMs");
    params["command"] = json!(["sleep", "0.3"]);
    client.spawn(params);
    assert_eq!(client.exited("c")["exitCode"], 0);
    client.finish();
}

/// Zero is over at once; what is past the end of time never comes, and overflows nothing.
fn nothing_is_too_short_or_too_long(mode: Mode) {
    let mut client = Client::in_process();
    for timeout in [0, 1] {
        client.spawn(with_timeout(mode, "c", "sleep 1000", timeout));
        check_timed_out(&client.exited("c"), timeout);
    }
    for timeout in [i64::MAX as u64, u64::MAX, u64::from(u32::MAX) + 1] {
        client.spawn(with_timeout(mode, "c", "exit 3", timeout));
        let exited = client.exited("c");
        assert_eq!(
            (&exited["exitCode"], &exited["timedOut"]),
            (&json!(3), &json!(false))
        );
    }
    client.finish();
}

fn malformed_timeouts_start_nothing() {
    let mut client = Client::in_process();
    for timeout in [
        json!(-1),
        json!(1.5),
        json!(1e30),
        json!("5"),
        json!([5]),
        json!(false),
    ] {
        let params = with_timeout(Mode::Pipe, "c", "sleep 1000", timeout.clone());
        let (code, message) = client.refuse("process/spawn", params);
        assert_eq!(code, -32602, "{timeout}: {message}");
    }
    assert_eq!(client.call("process/list", json!({})), json!({"processes": []}));
    client.finish();
}

/// Whichever comes first, there is one exit, and it is consistent.
fn may_race_the_exit(mode: Mode) {
    let mut client = Client::in_process();
    let count = times(40);
    for i in 0..count {
        let mut params = mode.params(&format!("h{i}"), &["sleep", "0.03"]);
        params["timeoutMs"] = json!(28 + i % 8);
        client.spawn(params);
        if i % 8 == 7 {
            for j in i - 7..=i {
                let exited = client.exited(&format!("h{j}"));
                let expected = if exited["timedOut"] == true { 124 } else { 0 };
                assert_eq!(exited["exitCode"], expected, "{exited}");
            }
        }
    }
    let (left, _) = client.finish();
    let exits = left.iter().filter(|n| n["method"] == "process/exited");
    assert_eq!(exits.count(), count % 8, "{left:?}");
}

/// Each keeps its own time, however many there are and in whatever order they were started.
fn many_at_once_are_on_time() {
    let mut client = Client::in_process();
    let count = times(100) as u64;
    let timeout = |i: u64| 400 + (i * 37) % 300;
    for i in 0..count {
        client.request(
            "process/spawn",
            json!({"processHandle": i.to_string(), "command": ["sleep", "1000"], "timeoutMs": timeout(i)}),
        );
    }
    for i in 0..count {
        check_timed_out(&client.exited(&i.to_string()), timeout(i));
    }
    client.finish();
}

/// The time is the process's own. What delays the end of its output does not make it late.
fn an_exit_in_time_is_not_undone_by_the_drain() {
    let mut client = Client::in_process();
    let started = Instant::now();
    client.spawn(with_timeout(Mode::Pipe, "c", "sleep 1000 & exit 3", 1_000));
    let exited = client.exited("c");
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"]),
        (&json!(3), &json!(false))
    );
    assert_eq!(exited["outputDrainTimedOut"], true);
    assert!(exited["durationMs"].as_u64() < Some(1_000), "{exited}");
    assert!(started.elapsed() >= Duration::from_millis(1_900));
    client.finish();
}

fn a_kill_that_comes_first_is_a_kill(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn_ready(with_timeout(mode, "c", "printf ready; sleep 1000", 60_000));
    client.kill("c");
    let exited = client.exited("c");
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"]),
        (&json!(137), &json!(false))
    );
    client.finish();
}
