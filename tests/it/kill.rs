//! `process/kill`: whom it reaches, with which signal, and what it leaves.

use std::time::{Duration, Instant};

use crate::harness::{
    Client, Mode, Proc, Test, both, children_of, is_alive, processes, test, times, wait_until,
};
use serde_json::{Value, json};

pub const TESTS: &[Test] = &[
    both!(ends_the_whole_group),
    both!(needs_no_consent),
    both!(ends_what_is_stopped),
    both!(ends_descendants_that_left_the_group),
    both!(ends_what_forks_all_the_time),
    both!(a_second_kill_is_harmless),
    both!(of_nothing_is_an_error),
    both!(may_race_the_exit),
    both!(during_the_drain_ends_the_drain),
    test!(a_signal_during_the_drain_reaches_the_group),
    both!(signals_by_name_and_number),
    test!(real_time_signals_by_number),
    test!(malformed_signals_are_refused_and_do_nothing),
    both!(a_signal_reaches_the_whole_group),
    both!(a_signal_may_be_handled),
    both!(grace_ends_with_sigkill),
    both!(grace_leaves_alone_what_obeys),
    test!(the_shortest_grace_counts),
    test!(malformed_grace_is_refused),
    both!(a_kill_behind_its_spawn),
];

fn script(mode: Mode, handle: &str, script: &str) -> Value {
    mode.params(handle, &["sh", "-c", script])
}

fn signal(client: &mut Client, handle: &str, signal: impl Into<Value>) {
    let signal: Value = signal.into();
    let result = client.call("process/kill", json!({"processHandle": handle, "signal": signal}));
    assert_eq!(result, json!({}));
}

/// The living members of the group `pgid`.
fn members(pgid: u32) -> Vec<Proc> {
    let all = processes().into_iter();
    all.filter(|p| p.group == pgid && !p.is_dead()).collect()
}

fn check_killed(exited: &Value) {
    assert_eq!(exited["exitCode"], 137);
    assert_eq!(exited["signal"], "SIGKILL");
    assert_eq!(exited["timedOut"], false);
    assert_eq!(exited["outputDrainTimedOut"], false);
}

/// Default: SIGKILL to the leader and everybody in its group, before the exit is told.
fn ends_the_whole_group(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(
        mode,
        "c",
        "sleep 1000 & sleep 1000 & (sleep 1000; true) & printf ready; wait",
    ));
    wait_until("all of them run", || members(pid).len() == 5);
    client.kill("c");
    check_killed(&client.exited("c"));
    assert_eq!(
        members(pid).len(),
        0,
        "somebody of the group lives behind the exit"
    );
    client.finish();
}

fn needs_no_consent(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(
        mode,
        "c",
        "trap '' TERM HUP INT QUIT USR1 PIPE; sh -c 'printf ready; sleep 1000' & wait; wait",
    ));
    for ignored in ["TERM", "HUP", "INT", "QUIT"] {
        signal(&mut client, "c", ignored);
    }
    assert!(is_alive(pid));
    client.kill("c");
    check_killed(&client.exited("c"));
    assert_eq!(members(pid).len(), 0);
    client.finish();
}

/// Being stopped is no end, and no shelter either.
fn ends_what_is_stopped(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(mode, "c", "sleep 1000 & printf ready; wait"));
    wait_until("both of them run", || {
        members(pid).iter().any(|p| p.name == "sleep")
    });
    signal(&mut client, "c", "SIGSTOP");
    wait_until("both of them are stopped", || {
        members(pid).iter().all(|p| p.state == "T")
    });
    // Only pending for somebody who is stopped.
    signal(&mut client, "c", "SIGTERM");
    assert_eq!(members(pid).len(), 2);
    client.kill("c");
    check_killed(&client.exited("c"));
    assert_eq!(members(pid).len(), 0);
    client.finish();
}

/// A session and group of one's own do not help while the line of parents is unbroken.
fn ends_descendants_that_left_the_group(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(
        mode,
        "c",
        "setsid sh -c 'trap \"\" TERM HUP; setsid sleep 1000 & sleep 1000' & printf ready; wait",
    ));
    let descendants = || {
        let mut all: Vec<Proc> = children_of(pid);
        let mut i = 0;
        while i < all.len() {
            all.extend(children_of(all[i].pid));
            i += 1;
        }
        all
    };
    wait_until("all three have left", || {
        let all = descendants();
        all.len() == 3
            && all.iter().all(|p| p.group != pid)
            && all.iter().filter(|p| p.name == "sleep").count() == 2
    });
    let strays = descendants();
    client.kill("c");
    check_killed(&client.exited("c"));
    for stray in strays {
        assert!(!is_alive(stray.pid), "{stray:?} lives on");
    }
    client.finish();
}

/// Nobody slips through between being counted and being killed.
fn ends_what_forks_all_the_time(mode: Mode) {
    let mut client = Client::in_process();
    for _ in 0..times(5) {
        let pid = client.spawn_ready(script(
            mode,
            "c",
            "f() { while :; do (sleep 0.005 & sleep 0.005; wait); done; }; f & f & sleep 0.05; printf ready; f",
        ));
        client.kill("c");
        check_killed(&client.exited("c"));
        assert_eq!(members(pid).len(), 0);
    }
    client.finish();
}

/// Two kills in one go: the second finds the process still there or gone, and nothing else happens.
fn a_second_kill_is_harmless(mode: Mode) {
    let mut client = Client::in_process();
    for _ in 0..times(8) {
        client.spawn_ready(script(mode, "c", "printf ready; sleep 1000"));
        let kill = json!({"processHandle": "c"});
        let ids: Vec<i64> = (0..4)
            .map(|_| client.request("process/kill", kill.clone()))
            .collect();
        client.result(ids[0]);
        for id in &ids[1..] {
            let response = client.response(*id);
            let code = response["error"]["code"].as_i64();
            assert!(matches!(code, None | Some(-32600)), "{response}");
        }
        check_killed(&client.exited("c"));
    }
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:?}");
}

fn of_nothing_is_an_error(mode: Mode) {
    let mut client = Client::in_process();
    for handle in ["", "never", "C"] {
        let (code, message) = client.refuse("process/kill", json!({"processHandle": handle}));
        assert_eq!(code, -32600, "{message}");
    }
    client.spawn(mode.params("c", &["true"]));
    client.exited("c");
    for params in [
        json!({"processHandle": "c"}),
        json!({"processHandle": "c", "signal": "SIGTERM", "graceMs": 1}),
    ] {
        assert_eq!(client.refuse("process/kill", params).0, -32600);
    }
    assert_eq!(client.refuse("process/kill", json!({})).0, -32602);
    client.finish();
}

/// Whoever wins, there is one answer and one exit, and the client hears of no ESRCH.
fn may_race_the_exit(mode: Mode) {
    let mut client = Client::in_process();
    for i in 0..times(150) {
        let handle = format!("h{i}");
        let spawn = client.request("process/spawn", mode.params(&handle, &["true"]));
        let mut kill = json!({"processHandle": handle});
        if i % 3 == 1 {
            kill["signal"] = json!("SIGTERM");
        }
        // Sometimes right behind the spawn, sometimes when it has begun to run.
        if i % 2 == 0 {
            client.result(spawn);
        }
        let kill = client.request("process/kill", kill);
        let exited = client.exited(&handle);
        let response = client.response(kill);
        let code = response["error"]["code"].as_i64();
        assert!(matches!(code, None | Some(-32600)), "{response}");
        let code = exited["exitCode"].as_i64();
        assert!(matches!(code, Some(0 | 137 | 143)), "{exited}");
        assert_eq!(exited["signal"].is_null(), code == Some(0));
        if i % 2 == 1 {
            client.result(spawn);
        }
    }
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:?}");
}

/// The leader is gone and its group holds the output: the kill reaches the group all the same.
fn during_the_drain_ends_the_drain(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(
        mode,
        "c",
        "trap '' HUP; sleep 1000 & printf ready; exit 3",
    ));
    wait_until("the leader is gone", || !is_alive(pid));
    client.kill("c");
    let exited = client.exited("c");
    assert_eq!(exited["exitCode"], 3);
    assert_eq!(exited["signal"], Value::Null);
    assert_eq!(exited["outputDrainTimedOut"], false);
    assert_eq!(members(pid).len(), 0);
    client.finish();
}

fn a_signal_during_the_drain_reaches_the_group() {
    let mut client = Client::in_process();
    let pid = client.spawn(script(
        Mode::Pipe,
        "c",
        "(trap 'echo heard; exit' USR1; echo ready; while :; do sleep 0.02; done) & read line; exit 3",
    ));
    client.until("c", "ready");
    client.write("c", b"\n");
    wait_until("the leader is gone", || !is_alive(pid));
    signal(&mut client, "c", "USR1");
    client.until("c", "heard");
    let exited = client.exited("c");
    assert_eq!(exited["exitCode"], 3);
    client.finish();
}

fn signals_by_name_and_number(mode: Mode) {
    let mut client = Client::in_process();
    for (sent, name, code) in [
        (json!("SIGTERM"), "SIGTERM", 143),
        (json!("TERM"), "SIGTERM", 143),
        (json!(15), "SIGTERM", 143),
        (json!("SIGINT"), "SIGINT", 130),
        (json!("HUP"), "SIGHUP", 129),
        (json!(libc::SIGUSR2), "SIGUSR2", 140),
        (json!("ABRT"), "SIGABRT", 134),
        (json!("SIGKILL"), "SIGKILL", 137),
        (json!(9), "SIGKILL", 137),
        (json!("SIGPIPE"), "SIGPIPE", 141),
    ] {
        client.spawn(mode.params("c", &["sleep", "1000"]));
        signal(&mut client, "c", sent.clone());
        let exited = client.exited("c");
        assert_eq!(
            (&exited["signal"], &exited["exitCode"]),
            (&json!(name), &json!(code)),
            "{sent}"
        );
    }
    client.finish();
}

fn real_time_signals_by_number() {
    let mut client = Client::in_process();
    for (number, name) in [(34, "SIGRTMIN"), (37, "SIGRTMIN+3"), (64, "SIGRTMIN+30")] {
        client.spawn(Mode::Pipe.params("c", &["sleep", "1000"]));
        signal(&mut client, "c", number);
        let exited = client.exited("c");
        assert_eq!(
            (&exited["signal"], &exited["exitCode"]),
            (&json!(name), &json!(128 + number))
        );
    }
    client.finish();
}

fn malformed_signals_are_refused_and_do_nothing() {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(Mode::Pipe, "c", "printf ready; sleep 1000"));
    for malformed in [
        json!(0),
        json!(-9),
        json!(65),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("SIG"),
        json!("SIGNOPE"),
        json!("SIGSIGINT"),
        json!("9"),
        json!(true),
        json!(["SIGINT"]),
    ] {
        let (code, message) =
            client.refuse("process/kill", json!({"processHandle": "c", "signal": malformed}));
        assert_eq!(code, -32602, "{malformed}: {message}");
    }
    assert!(is_alive(pid));
    // Null is as good as left out.
    client.call(
        "process/kill",
        json!({"processHandle": "c", "signal": null, "graceMs": null}),
    );
    check_killed(&client.exited("c"));
    client.finish();
}

fn a_signal_reaches_the_whole_group(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(
        mode,
        "c",
        "trap 'wait; exit 9' TERM; sleep 1000 & sleep 1000 & printf ready; wait",
    ));
    wait_until("all of them run", || {
        members(pid).iter().filter(|p| p.name == "sleep").count() == 2
    });
    signal(&mut client, "c", "SIGTERM");
    // The shell handles it, and then waits for the others: it comes to its end because they died.
    assert_eq!(client.exited("c")["exitCode"], 9);
    client.finish();
}

fn a_signal_may_be_handled(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn_ready(script(
        mode,
        "c",
        "trap 'echo one' USR1; trap 'echo two' USR2; printf ready; while :; do sleep 1000 & wait $!; done",
    ));
    for (name, answer) in [("SIGUSR1", "one"), ("USR2", "two"), ("USR1", "one")] {
        signal(&mut client, "c", name);
        client.until("c", answer);
    }
    client.kill("c");
    check_killed(&client.exited("c"));
    client.finish();
}

/// Whoever is still there when the grace is over is killed, its group included.
fn grace_ends_with_sigkill(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(
        mode,
        "c",
        "trap '' TERM; sleep 1000 & printf ready; wait; wait",
    ));
    let started = Instant::now();
    let answer = client.call(
        "process/kill",
        json!({"processHandle": "c", "signal": "SIGTERM", "graceMs": 300}),
    );
    assert_eq!(answer, json!({}));
    check_killed(&client.exited("c"));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_millis(5_300), "{took:?}");
    assert_eq!(members(pid).len(), 0);
    client.finish();
}

fn grace_leaves_alone_what_obeys(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn_ready(script(
        mode,
        "c",
        "trap 'echo cleaned; exit 4' TERM; printf ready; while :; do sleep 0.02; done",
    ));
    let started = Instant::now();
    client.call(
        "process/kill",
        json!({"processHandle": "c", "signal": 15, "graceMs": 60_000}),
    );
    client.until("c", "cleaned");
    let exited = client.exited("c");
    assert_eq!(
        (&exited["exitCode"], &exited["signal"]),
        (&json!(4), &Value::Null)
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    client.finish();
}

/// A later kill may shorten a grace, never lengthen it.
fn the_shortest_grace_counts() {
    let mut client = Client::in_process();
    let ignoring = script(
        Mode::Pipe,
        "c",
        "trap '' TERM; printf ready; sleep 1000; sleep 1000",
    );
    for graces in [[60_000, 100], [100, 60_000]] {
        client.spawn_ready(ignoring.clone());
        for grace in graces {
            client.call(
                "process/kill",
                json!({"processHandle": "c", "signal": "TERM", "graceMs": grace}),
            );
        }
        check_killed(&client.exited("c"));
    }
    // Past the end of time is no kill at all, and no overflow.
    let pid = client.spawn_ready(ignoring);
    client.call(
        "process/kill",
        json!({"processHandle": "c", "signal": "TERM", "graceMs": u64::MAX}),
    );
    assert!(is_alive(pid));
    client.call(
        "process/kill",
        json!({"processHandle": "c", "signal": "TERM", "graceMs": 0}),
    );
    check_killed(&client.exited("c"));
    client.finish();
}

fn malformed_grace_is_refused() {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(Mode::Pipe, "c", "printf ready; sleep 1000"));
    for malformed in [json!(-1), json!(0.5), json!("5"), json!(true)] {
        let (code, message) = client.refuse(
            "process/kill",
            json!({"processHandle": "c", "signal": "TERM", "graceMs": malformed}),
        );
        assert_eq!(code, -32602, "{malformed}: {message}");
    }
    assert!(is_alive(pid));
    client.kill("c");
    client.exited("c");
    client.finish();
}

/// Pipelined behind the spawn's own request it takes effect on that very process.
fn a_kill_behind_its_spawn(mode: Mode) {
    let mut client = Client::in_process();
    for _ in 0..times(20) {
        let spawn = client.request("process/spawn", mode.params("c", &["sleep", "1000"]));
        let kill = client.request("process/kill", json!({"processHandle": "c"}));
        client.result(kill);
        let exited = client.exited("c");
        assert_eq!(client.result(spawn)["pid"], exited["pid"]);
        check_killed(&exited);
    }
    client.finish();
}
