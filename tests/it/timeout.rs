//! `timeoutMs`: when it strikes, whom, and how its exit looks.

use std::time::{Duration, Instant};

use crate::harness::{
    Client, Mode, PATIENCE, Scratch, apply, both, is_alive, processes, test, times, wait_until,
};
use serde_json::{Value, json};

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
        took >= timeout && took < timeout + PATIENCE.as_millis() as u64,
        "{took} ms instead of {timeout}"
    );
}

#[apply(both)]
fn is_told_apart_from_every_other_exit(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(with_timeout(mode, "c", "printf before; sleep 1000", READY));
    let (stdout, _, exited) = client.streamed("c");
    assert_eq!(stdout, b"before");
    check_timed_out(&exited, READY);
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
#[apply(both)]
fn ends_the_whole_tree(mode: Mode) {
    let mut client = Client::in_process();
    let script = "sleep 1000 & setsid sleep 1000 & printf ready; wait";
    let pid = client.spawn_ready(with_timeout(mode, "c", script, READY));
    let sleeps = || -> Vec<u32> {
        let below = processes()
            .into_iter()
            .filter(|p| p.parent == pid && p.name == "sleep");
        below.map(|p| p.pid).collect()
    };
    wait_until("both sleep", || sleeps().len() == 2);
    let all = sleeps();
    check_timed_out(&client.exited("c"), READY);
    assert!(all.into_iter().all(|pid| !is_alive(pid)));
    client.finish();
}

#[apply(both)]
fn ends_what_ignores_signals_or_is_stopped(mode: Mode) {
    let mut client = Client::in_process();
    let script = "trap '' TERM HUP INT; printf ready; kill -STOP $$; sleep 1000";
    client.spawn_ready(with_timeout(mode, "c", script, READY));
    check_timed_out(&client.exited("c"), READY);
    client.finish();
}

#[apply(test)]
fn collected_output_comes_with_it() {
    let mut client = Client::in_process();
    let exited = client.run_with(json!({
        "processHandle": "c",
        "command": ["sh", "-c", "printf out; printf err >&2; sleep 1000"],
        "timeoutMs": READY,
    }));
    check_timed_out(&exited, READY);
    assert_eq!(
        (&exited["stdout"], &exited["stderr"]),
        (&json!("out"), &json!("err"))
    );
    client.finish();
}

/// Ten seconds, as the handshake says; only what is said is checked here, not the ten seconds.
#[apply(test)]
fn null_is_none_and_left_out_is_the_default() {
    let mut client = Client::in_process();
    let answer = client.call("initialize", json!({"clientInfo": {"name": "test"}}));
    assert_eq!(answer["limits"]["defaultTimeoutMs"], 10_000);
    client.finish();

    let config = procwire::Config::default().default_timeout(Duration::from_millis(150));
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

#[apply(test)]
fn the_default_is_the_servers_to_set() {
    let config = procwire::Config::default().default_timeout(None);
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
#[apply(both)]
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

#[apply(test)]
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
#[apply(both)]
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
#[apply(test)]
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
#[apply(test)]
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

#[apply(both)]
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

// ---- timeoutGraceMs ----

fn with_grace(mode: Mode, script: &str, timeout: u64, grace: impl Into<Value>) -> Value {
    let mut params = with_timeout(mode, "c", script, timeout);
    params["timeoutGraceMs"] = grace.into();
    params
}

/// Long enough for a program to say that it is ready, on a machine that is busy.
const READY: u64 = 2_000;
/// Longer than any machine takes to hear of a signal, so that waiting for it would be seen.
const LONG_GRACE: u64 = 60_000;

fn was_graced(exited: &Value, signal: Value) {
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"], &exited["signal"]),
        (&json!(124), &json!(true), &signal),
        "{exited}"
    );
    assert!(exited["durationMs"].as_u64() < Some(LONG_GRACE / 2), "{exited}");
}

/// In its own way, or by the signal itself: the code is that of a timeout, and no grace is waited for.
#[apply(both)]
fn a_grace_lets_a_program_end_itself(mode: Mode) {
    let mut client = Client::in_process();
    let traps = "trap 'printf bye; exit 3' TERM; printf ready; while :; do sleep 0.05; done";
    client.spawn_ready(with_grace(mode, traps, READY, LONG_GRACE));
    let (stdout, _, exited) = client.streamed("c");
    assert!(stdout.ends_with(b"bye"), "{stdout:?}");
    was_graced(&exited, Value::Null);
    client.spawn(with_grace(mode, "exec sleep 1000", 100, LONG_GRACE));
    was_graced(&client.exited("c"), json!("SIGTERM"));
    // Past the end of time.
    client.spawn(with_grace(mode, "exec sleep 1000", 100, u64::MAX));
    was_graced(&client.exited("c"), json!("SIGTERM"));
    // One that ends before its time is up hears of nothing.
    client.spawn(with_grace(mode, "exit 3", LONG_GRACE, LONG_GRACE));
    let exited = client.exited("c");
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"]),
        (&json!(3), &json!(false))
    );
    client.finish();
}

#[apply(both)]
fn what_outlasts_its_grace_is_killed(mode: Mode) {
    let mut client = Client::in_process();
    for grace in [0, 1, 300] {
        let deaf = "trap '' TERM; printf ready; while :; do sleep 0.05; done";
        client.spawn_ready(with_grace(mode, deaf, READY, grace));
        let exited = client.exited("c");
        check_timed_out(&exited, READY + grace);
    }
    // A stopped one does not hear of it until it is continued.
    client.spawn_ready(with_grace(
        mode,
        "printf ready; kill -STOP $$; sleep 1000",
        READY,
        300,
    ));
    check_timed_out(&client.exited("c"), READY + 300);
    client.finish();
}

/// The leader ends at once, and nothing but its group keeps the exit from being told.
#[apply(test)]
fn a_grace_is_for_the_whole_group() {
    let scratch = Scratch::new();
    let done = scratch.path("done");
    let mut client = Client::in_process();
    for output in [json!("null"), json!("pipe")] {
        let _ = std::fs::remove_file(&done);
        let tidy = format!(
            "trap 'sleep 0.4; : > {done}; exit' TERM; printf ready >&2; while :; do sleep 0.05; done"
        );
        let script = "sh -c \"$TIDY\" & exec sleep 1000";
        let mut params = with_grace(Mode::Pipe, script, READY, LONG_GRACE);
        params["env"] = json!({"TIDY": tidy});
        params["stdout"] = output;
        client.spawn_ready(params);
        let exited = client.exited("c");
        was_graced(&exited, json!("SIGTERM"));
        assert!(
            std::fs::exists(&done).expect("it can be looked for"),
            "it was not let finish"
        );
    }
    client.finish();
}

/// What ignores SIGTERM, and what has left the group and got none, though its parent has ended.
#[apply(test)]
fn a_grace_that_has_passed_ends_the_whole_tree() {
    let mut client = Client::in_process();
    for deaf_leader in [false, true] {
        let trap = if deaf_leader { "trap '' TERM;" } else { "" };
        let script = format!(
            "{trap} sh -c 'trap \"\" TERM; while :; do sleep 0.05; done' & setsid sleep 1000 & \
             printf ready; exec sleep 1000"
        );
        let mut params = with_grace(Mode::Pipe, &script, READY, 500);
        params["stderr"] = json!("null");
        let pid = client.spawn_ready(params);
        let below = || -> Vec<u32> {
            let below = processes().into_iter().filter(|p| p.parent == pid);
            below.map(|p| p.pid).collect()
        };
        wait_until("both run", || below().len() == 2);
        let all = below();
        let started = Instant::now();
        let exited = client.exited("c");
        assert_eq!(
            (&exited["exitCode"], &exited["timedOut"]),
            (&json!(124), &json!(true))
        );
        assert_eq!(exited["signal"], if deaf_leader { "SIGKILL" } else { "SIGTERM" });
        assert!(started.elapsed() >= Duration::from_millis(500));
        assert!(all.into_iter().all(|pid| !is_alive(pid)), "{exited}");
    }
    client.finish();
}

/// What is written in the grace arrives, by whomever, though the leader ended long before.
#[apply(test)]
fn output_of_a_grace_is_delivered() {
    let mut client = Client::in_process();
    let child = "trap 'sleep 2.5; echo last words; exit' TERM; echo ready; while :; do sleep 0.05; done";
    let script = "sh -c \"$CHILD\" & exec sleep 1000";
    let mut params = with_grace(Mode::Pipe, script, READY, LONG_GRACE);
    params["env"] = json!({"CHILD": child});
    client.spawn_ready(params);
    let (stdout, _, exited) = client.streamed("c");
    assert!(
        stdout.ends_with(b"last words\n"),
        "{}",
        String::from_utf8_lossy(&stdout)
    );
    was_graced(&exited, json!("SIGTERM"));
    assert_eq!(exited["outputDrainTimedOut"], false);
    client.finish();
}

#[apply(both)]
fn a_kill_in_the_grace_acts_at_once(mode: Mode) {
    let mut client = Client::in_process();
    let deaf = "trap 'printf heard' TERM; printf ready; while :; do sleep 0.05; done";
    client.spawn_ready(with_grace(mode, deaf, READY, LONG_GRACE));
    client.until("c", "heard");
    client.kill("c");
    was_graced(&client.exited("c"), json!("SIGKILL"));
    if mode == Mode::Tty {
        // The end of a session's leader hangs up its terminal, and with that ends its children.
        client.finish();
        return;
    }
    // The leader has ended, and its child is what the grace is for.
    let script =
        "sh -c 'trap \"printf heard\" TERM; printf ready; while :; do sleep 0.05; done' & exec sleep 1000";
    client.spawn_ready(with_grace(mode, script, READY, LONG_GRACE));
    client.until("c", "heard");
    client.kill("c");
    let exited = client.exited("c");
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"]),
        (&json!(124), &json!(true))
    );
    assert!(exited["durationMs"].as_u64() < Some(LONG_GRACE / 2), "{exited}");
    client.finish();
}

#[apply(test)]
fn the_end_of_the_connection_is_the_end_of_a_grace() {
    for detach in [false, true] {
        let mut client = Client::in_process();
        let deaf = "trap 'printf heard' TERM; printf ready; while :; do sleep 0.05; done";
        let mut params = with_grace(Mode::Pipe, deaf, READY, LONG_GRACE);
        params["detach"] = json!(detach);
        let pid = client.spawn_ready(params);
        client.until("c", "heard");
        let started = Instant::now();
        let (left, _) = client.finish();
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        assert!(!is_alive(pid), "its time was up");
        let exited = left
            .iter()
            .find(|n| n["method"] == "process/exited")
            .expect("an exit");
        assert_eq!(exited["params"]["exitCode"], 124);
    }
}

/// The leader has ended, and its child is what the grace is for.
#[apply(test)]
fn waits_are_answered_in_time_while_a_grace_goes_on() {
    let mut client = Client::in_process();
    let script =
        "sh -c 'trap \"printf heard\" TERM; printf ready; while :; do sleep 0.05; done' & exec sleep 1000";
    client.spawn_ready(with_grace(Mode::Pipe, script, READY, LONG_GRACE));
    client.until("c", "heard");
    let started = Instant::now();
    let until = json!({"processHandle": "c", "until": [{"exit": true}]});
    assert_eq!(client.call("process/wait", until)["index"], 0);
    let until = json!({"processHandle": "c", "until": [{"text": "never"}], "timeoutMs": 50});
    assert_eq!(client.call("process/wait", until)["timedOut"], true);
    let until = json!({"processHandle": "c", "until": [{"quietMs": 50}]});
    assert_eq!(client.call("process/wait", until)["index"], 0);
    let taken = started.elapsed();
    assert!(taken < Duration::from_millis(LONG_GRACE / 2), "{taken:?}");
    client.kill("c");
    client.exited("c");
    client.finish();
}

#[apply(both)]
fn a_grace_is_nothing_without_a_timeout(mode: Mode) {
    let mut client = Client::in_process();
    for timeout in [Value::Null, json!(u64::MAX)] {
        let mut params = with_timeout(mode, "c", "printf ready; sleep 0.3; exit 3", timeout);
        params["timeoutGraceMs"] = json!(1);
        client.spawn_ready(params);
        let exited = client.exited("c");
        assert_eq!(
            (&exited["exitCode"], &exited["timedOut"]),
            (&json!(3), &json!(false))
        );
    }
    client.finish();
    // It is for the server's own timeout, too.
    let config = procwire::Config::default().default_timeout(Duration::from_millis(200));
    let mut client = Client::in_process_with(config);
    let mut params = with_grace(mode, "exec sleep 1000", 1, LONG_GRACE);
    params.as_object_mut().expect("an object").remove("timeoutMs");
    client.spawn(params);
    was_graced(&client.exited("c"), json!("SIGTERM"));
    client.finish();
}

#[apply(test)]
fn malformed_graces_start_nothing() {
    let mut client = Client::in_process();
    for grace in [
        json!(-1),
        json!(1.5),
        json!("5"),
        json!([5]),
        json!(false),
        json!(1e30),
    ] {
        let params = with_grace(Mode::Pipe, "sleep 1000", 1, grace.clone());
        let (code, message) = client.refuse("process/spawn", params);
        assert_eq!(code, -32602, "{grace}: {message}");
        assert!(
            message.starts_with("process/spawn: timeoutGraceMs: "),
            "{message}"
        );
    }
    // Null is as left out.
    client.spawn(with_grace(Mode::Pipe, "exec sleep 1000", 50, Value::Null));
    check_timed_out(&client.exited("c"), 50);
    assert_eq!(client.call("process/list", json!({})), json!({"processes": []}));
    client.finish();
}

#[apply(test)]
fn many_graces_at_once_leave_nothing() {
    let mut client = Client::in_process();
    let count = times(60);
    for i in 0..count {
        let script = match i % 3 {
            0 => "exec sleep 1000",
            1 => "sleep 1000 & exec sleep 1000",
            _ => "trap '' TERM; sleep 1000 & setsid sleep 1000 & wait",
        };
        let mut params = with_grace(Mode::Pipe, script, 300, 200);
        params["processHandle"] = json!(i.to_string());
        client.request("process/spawn", params);
    }
    for i in 0..count {
        let exited = client.exited(&i.to_string());
        assert_eq!(
            (&exited["exitCode"], &exited["timedOut"]),
            (&json!(124), &json!(true)),
            "{exited}"
        );
    }
    client.finish();
}
