//! `process/kill`: whom it reaches, with which signal, and what it leaves.

use std::time::{Duration, Instant};

use crate::harness::{
    Client, HELPER, MAIN_THREAD_EXITS, Mode, PATIENCE, Proc, apply, both, children_of, is_alive, kill_stray,
    processes, test, times, wait_until,
};
use procwire::protocol::{
    KillParams, PtySize, Request, RequestId, ResizePtyParams, ServerMessage, SpawnParams, WriteStdinParams,
};
use serde_json::{Value, json};

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

/// Default: SIGKILL to the leader and all processes of its group, before the exit is reported.
#[apply(both)]
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
    assert_eq!(members(pid).len(), 0, "a member of the group outlives the exit");
    client.finish();
}

#[apply(both)]
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

/// A stopped process has not ended, and can be killed.
#[apply(both)]
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
    // Only pending for a stopped process.
    signal(&mut client, "c", "SIGTERM");
    assert_eq!(members(pid).len(), 2);
    client.kill("c");
    check_killed(&client.exited("c"));
    assert_eq!(members(pid).len(), 0);
    client.finish();
}

/// A session and group of one's own do not help while the line of parents is unbroken.
#[apply(both)]
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

/// No process slips through between the count and the kill.
#[apply(both)]
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
#[apply(both)]
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

#[apply(both)]
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

/// Whichever comes first, there is one answer and one exit, and the client never gets ESRCH.
#[apply(both)]
fn may_race_the_exit(mode: Mode) {
    let mut client = Client::in_process();
    for i in 0..times(150) {
        let handle = format!("h{i}");
        let spawn = client.request("process/spawn", mode.params(&handle, &["true"]));
        let mut kill = json!({"processHandle": handle});
        if i % 3 == 1 {
            kill["signal"] = json!("SIGTERM");
        }
        // Sometimes right after the spawn, sometimes when it has begun to run.
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
#[apply(both)]
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

#[apply(test)]
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

#[apply(both)]
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

#[apply(test)]
fn real_time_signals_by_number_and_by_the_name_that_is_reported() {
    let mut client = Client::in_process();
    for (number, name) in [(34, "SIGRTMIN"), (37, "SIGRTMIN+3"), (64, "SIGRTMIN+30")] {
        for sent in [json!(number), json!(name)] {
            client.spawn(Mode::Pipe.params("c", &["sleep", "1000"]));
            signal(&mut client, "c", sent);
            let exited = client.exited("c");
            assert_eq!(
                (&exited["signal"], &exited["exitCode"]),
                (&json!(name), &json!(128 + number))
            );
        }
    }
    client.finish();
}

#[apply(test)]
fn malformed_signals_are_refused_and_do_nothing() {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(Mode::Pipe, "c", "printf ready; sleep 1000"));
    for malformed in [
        json!(-1),
        json!(-9),
        json!(65),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("SIG"),
        json!("SIGNOPE"),
        json!("SIGSIGINT"),
        json!("9"),
        json!("SIG0"),
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

#[apply(both)]
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
    // The shell handles it, and then waits for the others: it ends because they died.
    assert_eq!(client.exited("c")["exitCode"], 9);
    client.finish();
}

#[apply(both)]
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

/// What is left when the grace is over is killed, its group included.
#[apply(both)]
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
    assert!(took < PATIENCE, "{took:?}");
    assert_eq!(members(pid).len(), 0);
    client.finish();
}

#[apply(both)]
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
    assert!(started.elapsed() < PATIENCE);
    client.finish();
}

/// A later kill may shorten a grace, never lengthen it.
#[apply(test)]
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
    // A time past the end of the clock means no kill, and does not overflow.
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

#[apply(test)]
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

/// Pipelined after the spawn's own request it takes effect on that very process.
#[apply(both)]
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

/// As kill(2) has it: `{}` while the process is there, and nothing is sent.
#[apply(both)]
fn null_signal_asks_whether_it_lives(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(script(
        mode,
        "c",
        "for s in HUP INT QUIT TERM USR1 USR2 CONT; do trap 'echo heard' $s; done; printf ready; read line; exit 3",
    ));
    for null in [json!(0), json!("0")] {
        signal(&mut client, "c", null);
    }
    assert!(is_alive(pid));
    client.write("c", b"\n");
    let (stdout, _, exited) = client.streamed("c");
    assert!(!String::from_utf8_lossy(&stdout).contains("heard"));
    assert_eq!(exited["exitCode"], 3);
    assert_eq!(exited["signal"], Value::Null);
    let (code, _) = client.refuse("process/kill", json!({"processHandle": "c", "signal": 0}));
    assert_eq!(code, -32600, "there is no such process any more");

    // During the drain it is as late as any other kill.
    let pid = client.spawn_ready(script(
        mode,
        "c",
        "trap '' HUP; sleep 1000 & printf ready; exit 4",
    ));
    wait_until("the leader is gone", || !is_alive(pid));
    signal(&mut client, "c", 0);
    client.kill("c");
    assert_eq!(client.exited("c")["exitCode"], 4);
    client.finish();
}

/// Twenty thousand requests of one handle, each of which looks at all processes if it is done alone.
#[apply(both)]
fn flood_is_answered_in_order_and_delays_no_exit(mode: Mode) {
    const COUNT: i64 = 20_000;
    let spawn = |handle: &str| {
        Request::Spawn(Box::new(SpawnParams {
            command: vec!["sleep".into(), "1000".into()],
            process_handle: handle.into(),
            tty: mode == Mode::Tty,
            stream_stdin: true,
            ..SpawnParams::default()
        }))
    };
    let kill = |handle: &str, signal: Option<i32>| {
        Request::Kill(KillParams {
            process_handle: handle.into(),
            signal: signal.map(Into::into),
            grace_ms: None,
        })
    };
    // Kills alone, and kills between everything else.
    for mixed in [false, true] {
        let (connection, mut client) = procwire::Connection::memory();
        let server = std::thread::spawn(move || procwire::serve(connection, procwire::Config::default()));
        client.send(0, spawn("c")).expect("it is sent");
        for id in 1..=COUNT {
            let handle = || "c".to_owned();
            let request = match id % 5 {
                1 if mixed => Request::ResizePty(ResizePtyParams {
                    process_handle: handle(),
                    size: PtySize::default(),
                }),
                2 if mixed => Request::WriteStdin(WriteStdinParams {
                    process_handle: handle(),
                    delta: Some(b"x".to_vec()),
                    close_stdin: true,
                }),
                3 if mixed => kill("c", Some(libc::SIGCONT)),
                _ => kill("c", None),
            };
            client.send(id, request).expect("it is sent");
        }
        let began = Instant::now();
        let (mut next, mut exits) = (0, 0);
        while next <= COUNT || exits == 0 {
            match client.recv().expect("the server is there") {
                ServerMessage::Response { id, .. } => {
                    assert_eq!(id, Some(RequestId::Signed(next)), "answers are in order");
                    next += 1;
                }
                ServerMessage::Exited(_) => {
                    exits += 1;
                    let late = began.elapsed();
                    assert!(late < PATIENCE, "the exit came after {late:?}");
                }
                ServerMessage::OutputDelta(_) => {}
                other => panic!("neither output, an answer nor an exit: {other:?}"),
            }
        }
        assert_eq!(exits, 1);
        drop(client);
        server.join().expect("it does not panic").expect("it serves");
    }
}

/// Gives up root's right to signal any process, for this thread and those it starts.
fn give_up_cap_kill() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_KILL: u32 = 5;
    let header = [VERSION_3, 0];
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: the header and the two structs are as capget(2) has them; only this thread changes.
    unsafe {
        // A program that root executes would have it again.
        assert_eq!(libc::prctl(libc::PR_CAPBSET_DROP, CAP_KILL, 0, 0, 0), 0);
        assert_eq!(
            libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()),
            0
        );
        for set in &mut sets[0] {
            *set &= !(1 << CAP_KILL);
        }
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0);
    }
}

/// A program that has become another user, as sudo does, may be out of reach: that is told, as for any signal.
#[apply(test)]
fn of_another_users_process_is_refused() {
    // SAFETY: a plain call.
    if unsafe { libc::geteuid() } != 0 {
        println!("not run: only root can start a process of another user");
        return;
    }
    let client = std::thread::spawn(|| {
        give_up_cap_kill();
        Client::in_process()
    });
    let mut client = client.join().expect("a server");
    let become_other = "setpriv --reuid=54321 --clear-groups sh -c 'echo ready; read line'";
    let kills = [
        json!({"processHandle": "c"}),
        json!({"processHandle": "c", "signal": "KILL"}),
        json!({"processHandle": "c", "signal": "TERM"}),
        json!({"processHandle": "c", "signal": 0}),
    ];

    client.spawn_ready(script(Mode::Pipe, "c", &format!("exec {become_other}")));
    for kill in &kills {
        let (code, message) = client.refuse("process/kill", kill.clone());
        assert_eq!(code, -32603, "{kill}: {message}");
        assert!(message.contains("Operation not permitted"), "{kill}: {message}");
    }
    client.write("c", b"\n");
    assert_eq!(client.exited("c")["exitCode"], 0);

    // Where one could be signalled, the kill has done what it could.
    for (what, script_text) in [
        (
            "a child of ours below another's leader",
            format!("sleep 1000 & exec {become_other}"),
        ),
        (
            "a session of ours below another's leader",
            format!("setsid sleep 1000 & exec {become_other}"),
        ),
    ] {
        client.spawn_ready(script(Mode::Pipe, "c", &script_text));
        let result = client.call("process/kill", kills[0].clone());
        assert_eq!(result, json!({}), "{what}");
        client.write("c", b"\n");
        assert_eq!(client.exited("c")["exitCode"], 0, "{what}");
    }
    client.spawn_ready(script(
        Mode::Pipe,
        "c",
        &format!("exec 3<&0; {become_other} <&3 3<&- & wait"),
    ));
    client.kill("c");
    client.write("c", b"\n");
    check_killed_by(&client.exited("c"), "SIGKILL");
    client.finish();
}

/// At the end of the connection its writes have waited for long enough.
#[apply(test)]
fn what_cannot_be_ended_leaves_no_request_unanswered() {
    // SAFETY: a plain call.
    if unsafe { libc::geteuid() } != 0 {
        println!("not run: only root can start a process of another user");
        return;
    }
    let client = std::thread::spawn(|| {
        give_up_cap_kill();
        Client::binary(&[])
    });
    let mut client = client.join().expect("a server");
    let script_text = "exec setpriv --reuid=54321 --clear-groups sh -c 'echo ready; exec sleep 1000'";
    let pid = client.spawn_ready(script(Mode::Pipe, "c", script_text));
    let mut asked: Vec<i64> = (0..3)
        .map(|_| client.write("c", &vec![b'x'; 1024 * 1024]))
        .collect();
    asked.push(client.request("process/kill", json!({"processHandle": "c"})));
    client.end_input();
    for id in asked {
        client.response(id);
    }
    kill_stray(pid);
    client.finish_anyhow();
}

fn check_killed_by(exited: &Value, signal: &str) {
    assert_eq!(exited["signal"], signal, "{exited}");
}

/// Makes this thread the tracer of `pid`, which neither stops nor notices; it gets the end of it first.
fn trace(pid: u32) {
    const PTRACE_SEIZE: libc::c_uint = 0x4206;
    // SAFETY: no memory is involved.
    let result = unsafe { libc::ptrace(PTRACE_SEIZE, pid as libc::pid_t, 0, 0) };
    assert_eq!(
        result,
        0,
        "this test needs the right to trace below itself: {}",
        std::io::Error::last_os_error()
    );
}

/// Lets go of a zombie that this thread traces.
fn let_go(pid: u32) {
    // SAFETY: no status is asked for.
    let result = unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::__WALL) };
    assert_eq!(result, pid as libc::pid_t);
}

fn is_zombie(pid: u32) -> bool {
    processes().iter().any(|p| p.pid == pid && p.state == "Z")
}

/// It cannot be reaped until the tracer lets go; its thread still answers what comes for it.
#[apply(both)]
fn of_a_zombie_held_by_a_tracer_is_answered(mode: Mode) {
    let mut client = Client::binary(&[]);
    let pid = client.spawn_ready(script(mode, "c", "printf ready; exec sleep 1000"));
    trace(pid);
    client.kill("c");
    wait_until("it has ended", || is_zombie(pid));
    for kill in [json!(null), json!("TERM"), json!(0), json!(9)] {
        signal(&mut client, "c", kill);
    }
    let (code, _) = client.refuse(
        "process/writeStdin",
        json!({"processHandle": "c", "closeStdin": true}),
    );
    assert_eq!(code, -32600);
    let resize = json!({"processHandle": "c", "size": {"rows": 1, "cols": 1}});
    match mode {
        Mode::Pipe => assert_eq!(client.refuse("process/resizePty", resize).0, -32600),
        Mode::Tty => assert_eq!(client.call("process/resizePty", resize), json!({})),
    }
    let list = client.call("process/list", json!({}));
    assert_eq!(
        list["processes"][0]["pid"], pid,
        "it has not exited to its parent: {list}"
    );
    let_go(pid);
    let exited = client.exited("c");
    check_killed_by(&exited, "SIGKILL");
    assert_eq!(exited["exitCode"], 137);
    client.finish();
}

#[apply(test)]
fn zombie_held_by_a_tracer_leaves_no_request_unanswered() {
    let mut client = Client::binary(&[]);
    let pid = client.spawn_ready(script(Mode::Pipe, "c", "printf ready; exec sleep 1000"));
    trace(pid);
    client.kill("c");
    wait_until("it has ended", || is_zombie(pid));
    let asked = [
        client.request("process/kill", json!({"processHandle": "c"})),
        client.request("process/list", json!({})),
        client.request("process/kill", json!({"processHandle": "c", "signal": "TERM"})),
    ];
    let (left, _) = client.finish();
    for id in asked {
        assert_eq!(left.iter().filter(|m| m["id"] == id).count(), 1, "{id}: {left:?}");
    }
    let exits = left.iter().filter(|m| m["method"] == "process/exited").count();
    assert_eq!(exits, 1, "{left:?}");
    let_go(pid);
}

/// The main thread is gone and the process is not: to `ps` it is a zombie.
#[apply(both)]
fn ends_threads_that_outlive_the_main_thread(mode: Mode) {
    let own = std::env::current_exe().expect("a running program has a file");
    let mut params = mode.params("c", &[own.to_str().expect("its path is UTF-8")]);
    params["env"] = json!({HELPER: MAIN_THREAD_EXITS});
    let mut client = Client::in_process();
    for ending in ["kill", "signal", "timeout", "itself"] {
        params["timeoutMs"] = if ending == "timeout" {
            json!(1_500)
        } else {
            Value::Null
        };
        let pid = client.spawn_ready(params.clone());
        wait_until("its main thread has ended", || is_zombie(pid));
        match ending {
            "kill" => client.kill("c"),
            "signal" => signal(&mut client, "c", "TERM"),
            "timeout" => {}
            _ => {
                signal(&mut client, "c", 0);
                client.write("c", b"\n");
            }
        }
        let exited = client.exited("c");
        let told = (&exited["exitCode"], &exited["signal"], &exited["timedOut"]);
        match ending {
            "kill" => assert_eq!(told, (&json!(137), &json!("SIGKILL"), &json!(false))),
            "signal" => assert_eq!(told, (&json!(143), &json!("SIGTERM"), &json!(false))),
            "timeout" => assert_eq!(told, (&json!(124), &json!("SIGKILL"), &json!(true))),
            _ => assert_eq!(told, (&json!(7), &Value::Null, &json!(false))),
        }
        assert!(
            !processes().iter().any(|p| p.pid == pid),
            "{ending}: it is reaped"
        );
    }
    client.finish();
}
