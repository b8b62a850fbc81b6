//! `process/exited`: how a program ended, when that is said, and what becomes of what it leaves running.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Footprint, Mode, PATIENCE, Proc, Scratch, apply, binary, both, children_of, decoded, is_alive,
    processes, test, times, wait_until,
};
use crate::spawn::silent_to_the_end;
use serde_json::{Value, json};

/// How long an exit waits for output that is held open.
const DRAIN: Duration = Duration::from_secs(2);

/// Spawn params with the output collected where there is a choice.
fn collected(mode: Mode, handle: &str, script: &str) -> Value {
    json!({
        "command": ["sh", "-c", script],
        "processHandle": handle,
        "tty": mode == Mode::Tty,
        "timeoutMs": null,
    })
}

/// What a shell reports in a file it writes: a pid.
fn reported_pid(path: &str) -> u32 {
    let mut pid = 0;
    wait_until("the program has reported its pid", || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        pid = match text.strip_suffix('\n') {
            Some(number) => number.parse().expect("a pid"),
            None => return false,
        };
        true
    });
    pid
}

fn kill_group(pgid: u32) {
    // SAFETY: no memory is involved; the group was started by this test.
    unsafe { libc::kill(-(pgid as libc::pid_t), libc::SIGKILL) };
}

// ---- how it ended ----

#[apply(both)]
fn every_exit_code_is_exact(mode: Mode) {
    let mut client = Client::in_process();
    let codes: Vec<u32> = (0..=256).collect();
    for batch in codes.chunks(32) {
        for code in batch {
            client.request(
                "process/spawn",
                collected(mode, &format!("{code}"), &format!("exit {code}")),
            );
        }
        for code in batch {
            let exited = client.exited(&format!("{code}"));
            assert_eq!(exited["exitCode"], code % 256, "{exited}");
            assert_eq!(exited["signal"], Value::Null, "{exited}");
            assert_eq!(exited["coreDumped"], false);
            assert_eq!(exited["timedOut"], false);
            assert_eq!(exited["outputDrainTimedOut"], false);
        }
    }
    client.finish();
}

#[apply(both)]
fn death_by_a_signal_is_128_and_its_number(mode: Mode) {
    let mut client = Client::in_process();
    for (number, name) in [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGSYS, "SIGSYS"),
        (libc::SIGRTMIN(), "SIGRTMIN"),
        (libc::SIGRTMAX(), "SIGRTMIN+30"),
    ] {
        let script = format!("ulimit -c 0; kill -{number} $$; exit 0");
        client.spawn(collected(mode, "a", &script));
        let exited = client.exited("a");
        assert_eq!(exited["exitCode"], 128 + number, "{exited}");
        assert_eq!(exited["signal"], name);
        assert_eq!(exited["timedOut"], false);
    }
    silent_to_the_end(client);
}

/// Whether there is a dump is for the machine to say; the answer must be that of a program started otherwise.
#[apply(test)]
fn core_dumps_are_reported_as_the_kernel_reports_them() {
    let scratch = Scratch::new();
    let mut client = Client::in_process();
    for (limit, signal) in [
        ("$(ulimit -H -c)", "QUIT"),
        ("0", "QUIT"),
        ("$(ulimit -H -c)", "KILL"),
    ] {
        let script = format!("ulimit -S -c {limit}; kill -{signal} $$");
        let other = Command::new("sh")
            .args(["-c", &script])
            .current_dir(&scratch.0)
            .status();
        let other = other.expect("the shell starts");
        let exited = client.run_with(json!({
            "command": ["sh", "-c", script],
            "processHandle": "a",
            "cwd": scratch.path(""),
            "timeoutMs": null,
        }));
        assert_eq!(exited["coreDumped"], other.core_dumped(), "{script}: {exited}");
        assert_eq!(
            exited["exitCode"],
            128 + other.signal().expect("killed by a signal")
        );
    }
    silent_to_the_end(client);
}

#[apply(test)]
fn members_are_those_of_the_protocol() {
    let mut client = Client::in_process();
    let members = |exited: &Value| -> BTreeSet<String> {
        let members = exited.as_object().expect("an object");
        members.keys().cloned().collect()
    };
    let always = [
        "processHandle",
        "exitCode",
        "stdout",
        "stdoutCapReached",
        "stderr",
        "stderrCapReached",
        "outputDrainTimedOut",
        "pid",
        "signal",
        "coreDumped",
        "timedOut",
        "durationMs",
        "usage",
        "stdoutBytes",
        "stderrBytes",
    ];
    let always: BTreeSet<String> = always.map(str::to_owned).into();

    let pid = client
        .spawn(json!({"command": ["sh", "-c", "echo out; echo err >&2; exit 3"], "processHandle": "a"}));
    let mut exited = client.exited("a");
    assert_eq!(members(&exited), always);
    assert_eq!(
        members(&exited["usage"]),
        ["userMs", "systemMs", "maxRssBytes"].map(str::to_owned).into()
    );
    // What differs from run to run is looked at elsewhere.
    for member in ["usage", "durationMs"] {
        exited[member] = Value::Null;
    }
    let expected = json!({
        "processHandle": "a",
        "exitCode": 3,
        "stdout": "out\n",
        "stdoutCapReached": false,
        "stderr": "err\n",
        "stderrCapReached": false,
        "outputDrainTimedOut": false,
        "pid": pid,
        "signal": null,
        "coreDumped": false,
        "timedOut": false,
        "durationMs": null,
        "usage": null,
        "stdoutBytes": 4,
        "stderrBytes": 4,
    });
    assert_eq!(exited, expected);

    // What is not UTF-8 comes in base64 as well, each stream for itself.
    let exited = client.run(&["sh", "-c", "printf 'a\\377'; printf 'b\\376' >&2"]);
    let more = ["stdoutBase64", "stderrBase64"].map(str::to_owned);
    assert_eq!(members(&exited), always.iter().cloned().chain(more).collect());
    assert_eq!(
        (&exited["stdout"], &exited["stdoutBase64"]),
        (&json!("a\u{fffd}"), &json!("Yf8="))
    );
    assert_eq!(
        (&exited["stderr"], &exited["stderrBase64"]),
        (&json!("b\u{fffd}"), &json!("Yv4="))
    );

    // What was streamed is not said again.
    client.spawn(Mode::Pipe.params("a", &["sh", "-c", "printf 'a\\377'"]));
    let (stdout, _, exited) = client.streamed("a");
    assert_eq!(stdout, b"a\xff");
    assert_eq!(members(&exited), always);
    assert_eq!((&exited["stdout"], &exited["stderr"]), (&json!(""), &json!("")));
    assert_eq!(
        (&exited["stdoutBytes"], &exited["stderrBytes"]),
        (&json!(2), &json!(0))
    );
    silent_to_the_end(client);
}

#[apply(both)]
fn timeout_is_124_and_told_apart_from_that_code(mode: Mode) {
    let scratch = Scratch::new();
    let mut client = Client::in_process();
    let file = scratch.path("pid");
    let script = format!("trap '' TERM HUP; sleep 1000 & echo $! > '{file}'; wait; wait");
    let mut params = collected(mode, "a", &script);
    params["timeoutMs"] = json!(2_000);
    client.spawn(params);
    let background = reported_pid(&file);
    let exited = client.exited("a");
    assert!(!is_alive(background), "the group is ended, too");
    assert_eq!(exited["exitCode"], 124);
    assert_eq!(exited["timedOut"], true);
    assert_eq!(exited["signal"], "SIGKILL");
    let duration = exited["durationMs"].as_u64().expect("a number");
    assert!((2_000..22_000).contains(&duration), "{exited}");

    client.spawn(collected(mode, "a", "exit 124"));
    let exited = client.exited("a");
    assert_eq!(exited["exitCode"], 124);
    assert_eq!(exited["timedOut"], false);
    assert_eq!(exited["signal"], Value::Null);
    silent_to_the_end(client);
}

#[apply(both)]
fn duration_is_from_start_to_exit(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(collected(mode, "a", "sleep 0.4"));
    let exited = client.exited("a");
    let duration = exited["durationMs"].as_u64().expect("a number");
    // A busy machine may have started the clock a little late.
    assert!((250..5_000).contains(&duration), "{exited}");
    silent_to_the_end(client);
}

#[apply(test)]
fn usage_is_that_of_the_process_and_its_children() {
    let mut client = Client::in_process();
    let of = |exited: &Value, member: &str| exited["usage"][member].as_u64().expect("a number");

    let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    for script in [busy.to_owned(), format!("({busy}); exit 0")] {
        let exited = client.run(&["sh", "-c", &script]);
        assert!(of(&exited, "userMs") >= 10, "{exited}");
        let duration = exited["durationMs"].as_u64().expect("a number");
        assert!(of(&exited, "userMs") <= duration + 100, "{exited}");
    }

    const BLOCK: u64 = 50_000_000;
    let dd = format!("dd if=/dev/zero of=/dev/null bs={BLOCK} count=10 2>/dev/null");
    for script in [format!("exec {dd}"), format!("{dd}; exit 0")] {
        let exited = client.run(&["sh", "-c", &script]);
        assert!(
            (BLOCK..4 * BLOCK).contains(&of(&exited, "maxRssBytes")),
            "{exited}"
        );
        assert!(of(&exited, "systemMs") >= 5, "{exited}");
    }

    let exited = client.run(&["sleep", "0.3"]);
    assert!(of(&exited, "userMs") + of(&exited, "systemMs") < 100, "{exited}");
    silent_to_the_end(client);
}

#[apply(both)]
fn bytes_behind_the_cap_are_counted(mode: Mode) {
    let mut client = Client::in_process();
    let script = "head -c 100000 /dev/zero; head -c 300 /dev/zero >&2";
    // A terminal has one stream for both.
    let written = match mode {
        Mode::Pipe => [100_000, 300],
        Mode::Tty => [100_300, 0],
    };
    for cap in [json!(0), json!(10), json!(300), json!(null)] {
        for streamed in [false, true] {
            let mut params = collected(mode, "a", script);
            params["outputBytesCap"] = cap.clone();
            params["streamStdoutStderr"] = json!(streamed);
            client.spawn(params);
            let (_, _, exited) = client.streamed("a");
            assert_eq!(
                json!([exited["stdoutBytes"], exited["stderrBytes"]]),
                json!(written),
                "cap {cap}"
            );
        }
    }
    silent_to_the_end(client);
}

// ---- when it is said ----

#[apply(both)]
fn every_instant_exit_is_told_once(mode: Mode) {
    let count = match mode {
        Mode::Pipe => times(1_000),
        Mode::Tty => times(300),
    };
    let mut client = Client::in_process();
    let handles: Vec<String> = (0..count).map(|i| format!("h{i}")).collect();
    for batch in handles.chunks(100) {
        let ids: Vec<i64> = batch
            .iter()
            .map(|handle| {
                let params =
                    json!({"command": ["/bin/true"], "processHandle": handle, "tty": mode == Mode::Tty});
                client.request("process/spawn", params)
            })
            .collect();
        for (handle, id) in batch.iter().zip(ids) {
            let exited = client.exited(handle);
            assert_eq!(client.result(id), json!({"pid": exited["pid"]}));
            assert_eq!(
                (&exited["exitCode"], &exited["signal"]),
                (&json!(0), &Value::Null)
            );
        }
    }
    // A second exit of one of them would be left over.
    silent_to_the_end(client);
}

/// All of them have ended and been reaped before the client reads its first byte.
#[apply(test)]
fn nothing_is_lost_while_the_client_does_not_read() {
    const COUNT: usize = 20;
    let scratch = Scratch::new();
    let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
    ours.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let input = theirs.try_clone().expect("a descriptor");
    let connection = procwire::Connection::from_io(input, theirs);
    let server = std::thread::spawn(|| procwire::serve(connection, procwire::Config::default()));
    for i in 0..COUNT {
        let script = format!("head -c 50000 /dev/zero; : > '{}'", scratch.path(&format!("{i}")));
        let request = json!({"id": i, "method": "process/spawn", "params": {
            "command": ["sh", "-c", script],
            "processHandle": format!("{i}"),
            "streamStdoutStderr": i % 2 == 0,
        }});
        ours.write_all(format!("{request}\n").as_bytes())
            .expect("the server reads");
    }
    wait_until("all have ended", || {
        let marked = (0..COUNT).all(|i| Path::new(&scratch.path(&format!("{i}"))).exists());
        marked && children_of(std::process::id()).is_empty()
    });
    let mut streamed = [0; COUNT];
    let mut answered = [false; COUNT];
    let mut exits = 0;
    let mut lines = BufReader::new(&ours).lines();
    while exits < COUNT {
        let line = lines.next().expect("the server still writes").expect("in time");
        let message: Value = serde_json::from_str(&line).expect("JSON");
        if let Some(id) = message["id"].as_u64() {
            answered[id as usize] = true;
            continue;
        }
        let params = &message["params"];
        let handle = params["processHandle"].as_str().expect("a handle");
        let i: usize = handle.parse().expect("a handle of ours");
        assert!(answered[i], "a notification before the answer: {message}");
        if message["method"] == "process/outputDelta" {
            streamed[i] += decoded(params).len();
            continue;
        }
        exits += 1;
        assert_eq!(params["exitCode"], 0);
        let text = params["stdout"].as_str().expect("text").len();
        let expected = if i.is_multiple_of(2) {
            (50_000, 0)
        } else {
            (0, 50_000)
        };
        assert_eq!((streamed[i], text), expected, "of {i}");
    }
    ours.shutdown(std::net::Shutdown::Write)
        .expect("the end of input");
    let end = server.join().expect("the server does not panic");
    assert_eq!(end.expect("the server serves"), procwire::End::InputEnded);
}

#[apply(both)]
fn stopped_is_not_exited(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn(collected(mode, "a", "kill -STOP $$; exit 7"));
    wait_until("it has stopped", || {
        processes().iter().any(|p| p.pid == pid && p.state == "T")
    });
    assert_eq!(client.run(&["true"])["exitCode"], 0);
    let list = client.call("process/list", json!({}));
    assert_eq!(list["processes"][0]["processHandle"], "a", "{list}");
    client.call("process/kill", json!({"processHandle": "a", "signal": "SIGCONT"}));
    let exited = client.exited("a");
    assert_eq!(
        (&exited["exitCode"], &exited["signal"]),
        (&json!(7), &Value::Null)
    );
    silent_to_the_end(client);
}

// ---- SIGCHLD ----

/// Ignoring it makes the kernel throw away how children ended, and is inherited through exec.
#[apply(test)]
fn exit_codes_survive_a_client_that_ignores_sigchld() {
    let mut server = binary();
    // SAFETY: signal(2) may be called between fork and exec.
    unsafe {
        server.pre_exec(|| {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            Ok(())
        })
    };
    let mut client = Client::command(server);
    for mode in [Mode::Pipe, Mode::Tty] {
        for (script, code, signal) in [
            ("exit 3", 3, Value::Null),
            ("kill -9 $$", 137, json!("SIGKILL")),
            // The shell can wait for its own children, too.
            ("sh -c 'exit 5'; exit $?", 5, Value::Null),
        ] {
            client.spawn(collected(mode, "a", script));
            let exited = client.exited("a");
            assert_eq!((&exited["exitCode"], &exited["signal"]), (&json!(code), &signal));
        }
    }
    let (left, status) = client.finish();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(status.and_then(|s| s.code()), Some(0));
}

/// The library leaves what is process-wide alone; it says what is wrong instead.
#[apply(test)]
fn library_refuses_to_serve_where_exits_cannot_be_seen() {
    // SAFETY: no handler is installed, and this process is the test's own.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let (connection, _client) = procwire::Connection::memory();
    let error = procwire::serve(connection, procwire::Config::default());
    let error = error.expect_err("it must not serve").to_string();
    assert!(error.contains("SIGCHLD"), "{error}");
    // SAFETY: as above; this is what it was.
    unsafe { libc::signal(libc::SIGCHLD, before) };
    let mut client = Client::in_process();
    assert_eq!(client.run(&["sh", "-c", "exit 3"])["exitCode"], 3);
    client.finish();
}

// ---- what is left running ----

/// Two seconds, not the thousand of the one that holds it; then that one is killed with its group.
#[apply(both)]
fn output_held_open_delays_the_exit_by_the_drain_only(mode: Mode) {
    let scratch = Scratch::new();
    let file = scratch.path("pid");
    let mut client = Client::in_process();
    let script = "(trap '' HUP TERM INT; echo ready; exec sleep 1000) & echo $! > \"$0\"; read line; exit 6";
    client.spawn_ready(mode.params("a", &["sh", "-c", script, &file]));
    let background = reported_pid(&file);
    let began = Instant::now();
    client.write("a", b"\n");
    let (_, _, exited) = client.streamed("a");
    let took = began.elapsed();
    assert!(!is_alive(background), "it is killed before the exit is told");
    assert!(took >= Duration::from_millis(1_900), "{took:?}");
    assert!(took < PATIENCE, "{took:?}");
    assert_eq!(exited["exitCode"], 6);
    assert_eq!(exited["outputDrainTimedOut"], true);
    // The drain does not count as run time of the process.
    let duration = exited["durationMs"].as_u64().expect("a number");
    assert!(duration < 1_500, "{exited}");
    client.finish();
}

/// Nothing more was wanted of it, though something holds it open; of any other stream there was.
#[apply(both)]
fn stream_at_its_cap_does_not_time_the_drain_out(mode: Mode) {
    // Written to stdout and to stderr, whether stderr is held open as well, the cap, and what is told.
    let cases = [
        ("123456", "", false, json!(5), false),
        ("12345", "", false, json!(5), false),
        ("1234", "", false, json!(5), true),
        ("123456", "", false, Value::Null, true),
        ("", "", false, json!(0), false),
        ("123456", "123456", true, json!(5), false),
        ("123456", "1", true, json!(5), true),
        ("1", "123456", true, json!(5), true),
    ];
    let mut client = Client::in_process();
    // All at once: each takes the whole drain.
    let mut expected = Vec::new();
    for streamed in [false, true] {
        for (stdout, stderr, hold, cap, told) in &cases {
            if mode == Mode::Tty && *hold {
                continue;
            }
            let handle = format!("{}", expected.len());
            let to = if *hold || mode == Mode::Tty {
                ""
            } else {
                "2>/dev/null"
            };
            let script = format!(
                "stty -opost 2>/dev/null; trap '' HUP; (exec sleep 1000) {to} & printf '{stdout}'; printf '{stderr}' >&2; exit 6"
            );
            let mut params = collected(mode, &handle, &script);
            params["streamStdoutStderr"] = json!(streamed);
            params["outputBytesCap"] = cap.clone();
            client.spawn(params);
            expected.push((
                handle,
                *told,
                format!("{stdout:?} {stderr:?} cap {cap} streamed {streamed}"),
            ));
        }
    }
    for (handle, told, what) in expected {
        let exited = client.exited(&handle);
        assert_eq!(exited["exitCode"], 6);
        assert_eq!(exited["outputDrainTimedOut"], told, "{what}: {exited}");
    }
    client.finish();
}

/// What comes while the output is still held belongs to it, and its end ends the wait.
#[apply(both)]
fn output_of_the_drain_is_delivered(mode: Mode) {
    let mut client = Client::in_process();
    // A terminal hangs up on those in the foreground when its leader exits.
    let script = "trap '' HUP; (sleep 0.3; echo late; echo late >&2) & echo early; exit 6";
    let expected = match mode {
        Mode::Pipe => ("early\nlate\n", "late\n"),
        Mode::Tty => ("early\r\nlate\r\nlate\r\n", ""),
    };
    for streamed in [false, true] {
        let mut params = collected(mode, "a", script);
        params["streamStdoutStderr"] = json!(streamed);
        client.spawn(params);
        let (stdout, stderr, exited) = client.streamed("a");
        if streamed || mode == Mode::Tty {
            assert_eq!(String::from_utf8_lossy(&stdout), expected.0);
            assert_eq!(String::from_utf8_lossy(&stderr), expected.1);
        } else {
            assert_eq!(
                (&exited["stdout"], &exited["stderr"]),
                (&json!(expected.0), &json!(expected.1))
            );
        }
        assert_eq!(
            (&exited["exitCode"], &exited["outputDrainTimedOut"]),
            (&json!(6), &json!(false))
        );
    }
    silent_to_the_end(client);
}

/// The exit of a terminal's leader ends what is in its foreground, so that nothing holds it open.
#[apply(test)]
fn terminal_hangs_up_on_the_background() {
    let mut client = Client::in_process();
    let took = (0..3).map(|_| {
        let began = Instant::now();
        client.spawn(collected(Mode::Tty, "a", "(sleep 1000 &); exit 4"));
        let (_, _, exited) = client.streamed("a");
        assert_eq!(
            (&exited["exitCode"], &exited["outputDrainTimedOut"]),
            (&json!(4), &json!(false))
        );
        began.elapsed()
    });
    // A busy machine is not busy all the time.
    let took = took.min().expect("three times");
    assert!(took < Duration::from_millis(1_900), "{took:?}");
    silent_to_the_end(client);
}

/// It is no longer listened to after the drain: no thread, no descriptor and no output is left of it.
#[apply(test)]
fn daemon_that_writes_on_is_let_go() {
    let scratch = Scratch::new();
    let file = scratch.path("pid");
    let mut client = Client::in_process();
    client.call("process/list", json!({}));
    let before = Footprint::take();
    let daemon =
        format!("trap '' PIPE; echo $$ > '{file}'; while :; do echo t; sleep 0.01; done 2>/dev/null");
    client.spawn(Mode::Pipe.params(
        "a",
        &["sh", "-c", "setsid sh -c \"$0\" & read line; exit 2", &daemon],
    ));
    let daemon = reported_pid(&file);
    client.until("a", "t\n");
    let write = client.write("a", b"\n");
    client.result(write);
    let (_, _, exited) = client.streamed("a");
    assert_eq!(
        (&exited["exitCode"], &exited["outputDrainTimedOut"]),
        (&json!(2), &json!(true))
    );
    wait_until("thread and descriptors are gone", || Footprint::take() == before);
    assert!(is_alive(daemon), "it has left the group, so it lives on");
    assert_eq!(client.call("process/list", json!({})), json!({"processes": []}));
    kill_group(daemon);
    silent_to_the_end(client);
}

/// No other process can get the pid while the client may still name the handle: it is reaped last.
#[apply(test)]
fn pid_stays_taken_until_the_exit_is_told() {
    let mut client = Client::in_process();
    // On a busy machine the drain may be over before all of it has been looked at.
    let mut attempts = 0;
    let pid = loop {
        let began = Instant::now();
        let pid = client.spawn(collected(Mode::Pipe, "a", "sleep 1000 & exit 6"));
        let is_zombie = || Proc::of(pid).is_some_and(|p| p.is_dead());
        wait_until("it has exited", || is_zombie() || began.elapsed() > DRAIN);
        let list = client.call("process/list", json!({}));
        let is_zombie = is_zombie();
        if began.elapsed() < DRAIN {
            assert_eq!(list["processes"][0]["pid"], pid, "{list}");
            assert!(is_zombie, "it was reaped during the drain");
            break pid;
        }
        attempts += 1;
        assert!(attempts < 20, "nothing was seen in time");
        client.exited("a");
    };
    // A kill ends the drain, and the exit is still the program's own.
    client.kill("a");
    let exited = client.exited("a");
    assert_eq!(
        (&exited["exitCode"], &exited["signal"]),
        (&json!(6), &Value::Null)
    );
    assert_eq!(exited["outputDrainTimedOut"], false);
    assert!(Proc::of(pid).is_none(), "it is reaped now");
    silent_to_the_end(client);
}

/// A background that ignores every polite signal, and writes nowhere.
const BACKGROUND: &str = "(trap '' HUP TERM INT QUIT; echo ready; exec sleep 1000 </dev/null >/dev/null 2>&1) & echo $! > \"$0\"; read line; exit 5";

#[apply(both)]
fn background_of_the_group_is_dead_when_the_exit_is_told(mode: Mode) {
    let scratch = Scratch::new();
    let mut client = Client::in_process();
    let mut took = Duration::MAX;
    for i in 0..times(10) {
        let file = scratch.path(&format!("{i}"));
        client.spawn_ready(mode.params("a", &["sh", "-c", BACKGROUND, &file]));
        let background = reported_pid(&file);
        assert!(is_alive(background));
        let began = Instant::now();
        client.write("a", b"\n");
        let (_, _, exited) = client.streamed("a");
        assert!(!is_alive(background), "it outlives the exit");
        took = took.min(began.elapsed());
        assert_eq!(
            (&exited["exitCode"], &exited["outputDrainTimedOut"]),
            (&json!(5), &json!(false))
        );
    }
    assert!(
        took < Duration::from_millis(1_900),
        "its output is not held, so there is no drain"
    );
    client.finish();
}

#[apply(both)]
fn detach_spares_the_background(mode: Mode) {
    let scratch = Scratch::new();
    let file = scratch.path("pid");
    let mut client = Client::in_process();
    let mut params = mode.params("a", &["sh", "-c", BACKGROUND, &file]);
    params["detach"] = json!(true);
    let pid = client.spawn_ready(params);
    let background = reported_pid(&file);
    client.write("a", b"\n");
    let (_, _, exited) = client.streamed("a");
    assert_eq!((&exited["exitCode"], &exited["pid"]), (&json!(5), &json!(pid)));
    assert!(is_alive(background), "it was killed with the exit");
    client.finish();
    assert!(is_alive(background), "it was killed with the connection");
    kill_group(pid);
    wait_until("it has died", || !is_alive(background));
}

#[apply(both)]
fn what_left_the_group_lives_until_the_connection_ends(mode: Mode) {
    let scratch = Scratch::new();
    let file = scratch.path("pid");
    let mut client = Client::binary(&[]);
    let script = "setsid sh -c 'echo $$ > \"$0\"; exec sleep 1000' \"$0\" </dev/null >/dev/null 2>&1 & read line; exit 5";
    client.spawn(mode.params("a", &["sh", "-c", script, &file]));
    let daemon = reported_pid(&file);
    client.write("a", b"\n");
    let (_, _, exited) = client.streamed("a");
    assert_eq!(
        (&exited["exitCode"], &exited["outputDrainTimedOut"]),
        (&json!(5), &json!(false))
    );
    assert!(is_alive(daemon), "it has left the group, so it lives on");
    client.finish();
    assert!(!is_alive(daemon), "it outlives the connection");
}
