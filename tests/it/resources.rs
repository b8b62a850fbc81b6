//! Where the machine says no, and where everything comes at once: errors that are told, memory that
//! is bounded, and all of it given back.

use crate::connection::{must_come_to_rest, server_below};
use crate::harness::{
    Client, Footprint, Mode, Proc, Scratch, apply, both, children_of, is_alive, private_bytes,
    private_bytes_of, processes, reap_adopted, test, times, wait_until,
};
use serde_json::{Value, json};
use std::os::fd::AsRawFd;

// ---- limits ----

/// Sets a limit of this process, as far as it may; what it was.
fn limit(resource: libc::__rlimit_resource_t, wanted: u64) -> u64 {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limits` has room for the result.
    assert_eq!(unsafe { libc::getrlimit(resource, &mut limits) }, 0, "getrlimit");
    let before = limits.rlim_cur;
    limits.rlim_cur = wanted.min(limits.rlim_max);
    // SAFETY: a filled struct, which is only read.
    assert_eq!(unsafe { libc::setrlimit(resource, &limits) }, 0, "setrlimit");
    before
}

/// Makes this process one of an ordinary user who has no other: limits do not bind root. A user that is
/// one already stays it; then others may count as well. Whether it has a user to itself.
pub fn leave_root() -> bool {
    // SAFETY: plain calls without memory; this test has its process to itself.
    unsafe {
        if libc::geteuid() != 0 {
            return false;
        }
        let user = 40_000 + std::process::id() % 20_000;
        assert_eq!(libc::setresuid(user, user, user), 0, "another user");
        // Otherwise /proc/self would be root's, and the harness could not look at it.
        assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0), 0, "dumpable");
    }
    true
}

/// The limit that leaves this many descriptors: a limit is on their numbers.
fn leaving(spare: usize) -> u64 {
    // SAFETY: plain fcntl; a number that is not open is what is asked for.
    let open = |number: i32| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    let free = (0..).filter(|&number| !open(number));
    let first_too_many = free.into_iter().nth(spare).expect("numbers do not end");
    u64::try_from(first_too_many).expect("it is not negative")
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .expect("/proc is mounted")
        .count()
}

/// Every step of a spawn fails in turn: the error is told, nothing was run, and nothing is left.
#[apply(both)]
fn any_descriptor_may_be_the_one_too_many(mode: Mode) {
    let scratch = Scratch::new();
    let mut client = Client::in_process();
    // Its own threads run once it has answered, and what is opened once only is open after one spawn.
    client.call("process/list", json!({}));
    let before = Footprint::take();
    client.spawn(mode.params("warm", &["true"]));
    client.streamed("warm");
    before.check();
    let mut stages = Vec::new();
    for spare in 0..40 {
        let mark = scratch.path(&format!("mark{spare}"));
        let usual = limit(libc::RLIMIT_NOFILE, leaving(spare));
        let mut params = mode.params("a", &["sh", "-c", &format!("echo x; : > {mark}")]);
        params["cwd"] = json!("/");
        let id = client.request("process/spawn", params);
        let response = client.response(id);
        let error = &response["error"];
        if error.is_null() {
            let (stdout, _, exited) = client.streamed("a");
            limit(libc::RLIMIT_NOFILE, usual);
            assert_eq!(
                (stdout.as_slice(), &exited["exitCode"]),
                (mode.printed("x\n").as_bytes(), &json!(0))
            );
            assert!(spare > 3, "{spare} descriptors are too few");
            assert_eq!(client.call("process/list", json!({})), json!({"processes": []}));
            before.check();
            break;
        }
        limit(libc::RLIMIT_NOFILE, usual);
        assert_eq!(error["code"], -32603, "{response}");
        assert_eq!(
            (&error["data"]["errno"], &error["data"]["code"]),
            (&json!(24), &json!("EMFILE")),
            "{response}"
        );
        stages.push(error["data"]["stage"].as_str().expect("a stage").to_owned());
        assert!(
            !std::fs::exists(&mark).expect("it can be looked for"),
            "it ran, and was told not to have"
        );
        before.check();
    }
    for stage in ["cwd", if mode == Mode::Tty { "pty" } else { "pipe" }] {
        assert!(stages.iter().any(|s| s == stage), "{stage} among {stages:?}");
    }
    client.finish();
}

/// With no descriptor left, what lives goes on living, can be killed, and makes room again.
#[apply(both)]
fn descriptors_run_out_and_come_back(mode: Mode) {
    let mut client = Client::in_process();
    // Its own threads run once it has answered.
    client.call("process/list", json!({}));
    let before = Footprint::take();
    let usual = limit(libc::RLIMIT_NOFILE, leaving(40));
    let mut live = Vec::new();
    for round in 0..3 {
        let (code, refused) = loop {
            let handle = format!("{round}-{}", live.len());
            let id = client.request("process/spawn", mode.params(&handle, &["cat"]));
            let response = client.response(id);
            if let Some(code) = response["error"]["code"].as_i64() {
                break (code, response["error"]["data"]["code"].clone());
            }
            live.push(handle);
        };
        assert_eq!((code, refused), (-32603, json!("EMFILE")));
        assert!(live.len() >= 4, "only {} in round {round}", live.len());
        for handle in live.drain(..) {
            client.write(&handle, b"still here\n");
            client.until(&handle, "still here");
            client.kill(&handle);
            assert_eq!(client.streamed(&handle).2["exitCode"], 137);
        }
    }
    limit(libc::RLIMIT_NOFILE, usual);
    before.check();
    client.finish();
}

/// What has left the group is found and dead as ever, though all that finds it takes descriptors.
#[apply(both)]
fn a_kill_needs_no_descriptor(mode: Mode) {
    let mut client = Client::in_process();
    let script = "setsid sh -c 'setsid sleep 1000 & sleep 1000' & echo ready; wait";
    for spare in 0..8 {
        let leader = client.spawn_ready(mode.params("a", &["sh", "-c", script]));
        let below = |pid| children_of(pid).into_iter().map(|p| p.pid);
        let mut strays: Vec<u32> = Vec::new();
        wait_until("all three have left", || {
            strays = below(leader).flat_map(|pid| below(pid).chain([pid])).collect();
            let away = |p: &Proc| strays.contains(&p.pid) && p.session != leader;
            processes().iter().filter(|p| away(p)).count() == 3
        });
        let usual = limit(libc::RLIMIT_NOFILE, leaving(spare));
        client.kill("a");
        let exited = client.streamed("a").2;
        limit(libc::RLIMIT_NOFILE, usual);
        assert_eq!(exited["exitCode"], 137);
        strays.retain(|&pid| is_alive(pid));
        assert!(strays.is_empty(), "{strays:?} live on, with {spare} descriptors");
    }
    client.finish();
}

/// The thread of a process cannot be started, or the process itself: told, and nothing is left.
#[apply(both)]
fn any_thread_or_process_may_be_the_one_too_many(mode: Mode) {
    let alone = leave_root();
    let mut client = Client::in_process();
    // Its own threads run once it has answered, and what is opened once only is open after one spawn.
    client.call("process/list", json!({}));
    let before = Footprint::take();
    client.spawn(mode.params("warm", &["true"]));
    client.streamed("warm");
    before.check();
    let mut stages = Vec::new();
    // A user with other processes is past any such limit at once.
    for spare in 0..=if alone { 4 } else { 0 } {
        wait_until("its thread is gone", || Footprint::take() == before);
        let usual = limit(
            libc::RLIMIT_NPROC,
            if alone { threads() + spare } else { 1 } as u64,
        );
        let id = client.request("process/spawn", mode.params("a", &["echo", "x"]));
        let response = client.response(id);
        limit(libc::RLIMIT_NPROC, usual);
        let error = &response["error"];
        if error.is_null() {
            let (stdout, _, exited) = client.streamed("a");
            assert_eq!(
                (stdout.as_slice(), &exited["exitCode"]),
                (mode.printed("x\n").as_bytes(), &json!(0))
            );
            stages.push("none".to_owned());
        } else {
            assert_eq!(error["code"], -32603, "{response}");
            assert_eq!(
                (&error["data"]["errno"], &error["data"]["code"]),
                (&json!(11), &json!("EAGAIN"))
            );
            stages.push(error["data"]["stage"].as_str().expect("a stage").to_owned());
        }
        before.check();
    }
    match alone {
        true => assert_eq!(stages, ["thread", "exec", "none", "none", "none"]),
        false => assert_eq!(stages, ["thread"]),
    }
    client.spawn(mode.params("a", &["true"]));
    assert_eq!(client.streamed("a").2["exitCode"], 0);
    client.finish();
}

/// With no thread to be had, everything that needs none goes on.
#[apply(test)]
fn threads_run_out_and_come_back() {
    let alone = leave_root();
    let mut client = Client::in_process();
    client.spawn(Mode::Pipe.params("live", &["cat"]));
    let usual = limit(libc::RLIMIT_NPROC, if alone { threads() as u64 + 1 } else { 1 });
    for i in 0..50 {
        let id = client.request(
            "process/spawn",
            json!({"processHandle": format!("h{i}"), "command": ["true"]}),
        );
        assert_eq!(client.response(id)["error"]["data"]["code"], "EAGAIN");
        client.write("live", b"echo\n");
        client.until("live", "echo");
    }
    let live = client.call("process/list", json!({}));
    assert_eq!(live["processes"].as_array().map(Vec::len), Some(1), "{live}");
    limit(libc::RLIMIT_NPROC, usual);
    assert_eq!(client.run(&["echo", "again"])["stdout"], "again\n");
    client.kill("live");
    assert_eq!(client.exited("live")["exitCode"], 137);
    client.finish();
}

/// A user whose pipes hold too much already gets new ones of a page or two, that cannot be enlarged.
#[apply(both)]
fn tiny_pipes_lose_nothing(mode: Mode) {
    leave_root();
    let mut hoard = Vec::new();
    let small = loop {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        // SAFETY: plain fcntl on an open descriptor.
        let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
        if size < 0 {
            break std::io::pipe().expect("a pipe");
        }
        hoard.push((reader, writer));
        assert!(hoard.len() < 5000, "this machine does not limit pipes");
    };
    // SAFETY: plain fcntl on an open descriptor.
    let size = unsafe { libc::fcntl(small.1.as_raw_fd(), libc::F_GETPIPE_SZ) };
    assert!(size <= 8192, "a pipe of {size} bytes is not tiny");

    let mut client = Client::in_process();
    let mut params = mode.params(
        "a",
        &["sh", "-c", "stty raw -echo 2>/dev/null; echo ready; exec cat"],
    );
    params["outputBytesCap"] = Value::Null;
    client.spawn(params);
    let seen = client.until("a", "ready");
    let line_end = seen.len() - seen.find("ready").expect("just seen") - "ready".len();
    let mut left = line_end;
    while left < 1 {
        left += client.delta("a").0.len();
    }
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(2_000_000).collect();
    for piece in bytes.chunks(100_000) {
        client.write("a", piece);
    }
    let mut back = Vec::new();
    while back.len() < bytes.len() {
        back.extend(client.delta("a").0);
    }
    assert!(back == bytes, "the bytes have changed");
    client.kill("a");
    assert_eq!(client.exited("a")["exitCode"], 137);
    assert_eq!(
        client.run(&["head", "-c", "700000", "/dev/zero"])["stdoutBytes"],
        700_000
    );
    client.finish();
}

// ---- many ----

/// Each answers and each is killed, and every thread and descriptor comes back; then the end of
/// input has to end as many.
#[apply(test)]
fn thousand_live_processes_echo_and_end() {
    let hard = limit(libc::RLIMIT_NOFILE, u64::MAX).max(limit(libc::RLIMIT_NOFILE, u64::MAX));
    let count = 1000.min(hard as usize / 8);
    let mut client = Client::in_process();
    // Its own threads run once it has answered.
    client.call("process/list", json!({}));
    let before = Footprint::take();
    let mut spawns = Vec::new();
    let mode = |i: usize| {
        if i.is_multiple_of(10) {
            Mode::Tty
        } else {
            Mode::Pipe
        }
    };
    for i in 0..count {
        let id = client.request("process/spawn", mode(i).params(&format!("h{i}"), &["cat"]));
        spawns.push(id);
    }
    for id in spawns {
        assert!(client.result(id)["pid"].is_u64());
    }
    for i in 0..count {
        client.write(&format!("h{i}"), format!("I am number {i}\n").as_bytes());
    }
    for i in 0..count {
        client.until(
            &format!("h{i}"),
            &format!("I am number {i}{}", mode(i).printed("\n")),
        );
    }
    let live = client.call("process/list", json!({}));
    assert_eq!(live["processes"].as_array().map(Vec::len), Some(count));
    for i in 0..count / 2 {
        client.request("process/kill", json!({"processHandle": format!("h{i}")}));
    }
    for i in 0..count / 2 {
        assert_eq!(client.exited(&format!("h{i}"))["exitCode"], 137);
    }
    let live = client.call("process/list", json!({}));
    assert_eq!(
        live["processes"].as_array().map(Vec::len),
        Some(count - count / 2)
    );
    for i in count / 2..count {
        client.request("process/kill", json!({"processHandle": format!("h{i}")}));
    }
    for i in count / 2..count {
        assert_eq!(client.exited(&format!("h{i}"))["exitCode"], 137);
    }
    before.check();
    // Once more, and this time the input ends.
    let count = count / 4;
    for i in 0..count {
        client.spawn(mode(i).params(&format!("h{i}"), &["cat"]));
    }
    let (left, _) = client.finish();
    let exits = left.iter().filter(|n| n["params"]["exitCode"] == 137);
    assert_eq!(exits.count(), count);
}

#[apply(both)]
fn many_spawns_leave_nothing(mode: Mode) {
    let mut client = Client::in_process();
    let mut round = |count: usize| {
        for i in 0..count {
            let handle = format!("h{}", i % 20);
            client.spawn(mode.params(&handle, &["sh", "-c", "echo $0; exit 3", &handle]));
            let (stdout, _, exited) = client.streamed(&handle);
            assert_eq!(
                String::from_utf8_lossy(&stdout),
                mode.printed(&format!("{handle}\n"))
            );
            assert_eq!(exited["exitCode"], 3);
        }
    };
    round(50);
    wait_until("the last one is gone", || {
        children_of(std::process::id()).is_empty()
    });
    let before = (Footprint::take(), private_bytes());
    round(times(250));
    before.0.check();
    let grown = private_bytes().saturating_sub(before.1);
    // The transcript of the test is in it as well.
    assert!(grown < (8 << 20) + times(250) as u64 * 2_000, "{grown} bytes");
    client.finish();
}

/// Ten thousand requests in one write: each is answered, in order where they name one handle.
#[apply(test)]
fn burst_of_requests_is_never_refused() {
    let mut client = Client::in_process();
    client.spawn(Mode::Pipe.params("a", &["cat"]));
    let mut input = Vec::new();
    let first = 1_000_000;
    for id in first..first + 10_000 {
        let request = match id % 4 {
            0 => json!({"id": id, "method": "process/list"}),
            1 => json!({"id": id, "method": "process/writeStdin",
                "params": {"processHandle": "a", "deltaBase64": crate::harness::encode(format!("{id}\n").as_bytes())}}),
            2 => json!({"id": id, "method": "process/kill", "params": {"processHandle": "nobody"}}),
            _ => json!({"id": id, "method": "process/resizePty",
                "params": {"processHandle": "a", "size": {"rows": 1, "cols": 1}}}),
        };
        input.extend(request.to_string().into_bytes());
        input.push(b'\n');
    }
    client.send_raw(&input);
    for id in first..first + 10_000 {
        let response = client.response(id);
        let code = response["error"]["code"].as_i64();
        assert_eq!(
            code,
            [None, None, Some(-32600), Some(-32600)][id as usize % 4],
            "{response}"
        );
    }
    client.close_stdin("a");
    let (stdout, _, _) = client.streamed("a");
    let expected: String = (first..first + 10_000)
        .filter(|id| id % 4 == 1)
        .map(|id| format!("{id}\n"))
        .collect();
    assert!(
        String::from_utf8_lossy(&stdout) == expected,
        "every write, in order"
    );
    client.finish();
}

#[apply(test)]
fn burst_of_spawns_is_never_refused() {
    let mut client = Client::in_process();
    let count = times(400);
    let mut input = Vec::new();
    for i in 0..count {
        let params = json!({"processHandle": format!("h{i}"), "command": ["echo", i.to_string()],
            "tty": i % 8 == 0});
        input.extend(
            json!({"id": i, "method": "process/spawn", "params": params})
                .to_string()
                .into_bytes(),
        );
        input.push(b'\n');
    }
    limit(libc::RLIMIT_NOFILE, u64::MAX);
    client.send_raw(&input);
    for i in 0..count {
        let response = client.response(i as i64);
        assert!(response["result"]["pid"].is_u64(), "{response}");
    }
    for i in 0..count {
        let (streamed, _, exited) = client.streamed(&format!("h{i}"));
        let seen =
            String::from_utf8_lossy(&streamed).into_owned() + exited["stdout"].as_str().unwrap_or_default();
        assert_eq!(
            (seen.trim_end(), &exited["exitCode"]),
            (&*i.to_string(), &json!(0))
        );
    }
    client.finish();
}

/// Many write as fast as they can to a client that reads nothing: what waits for it is bounded, each
/// can be killed, and what was taken of each is delivered as it was.
#[apply(both)]
fn many_floods_share_a_bounded_memory(mode: Mode) {
    let count = 100;
    let mut client = Client::binary(&[]);
    client.call("process/list", json!({}));
    client.stop_reading();
    let server = server_below(client.pid());
    for i in 0..count {
        let mut params = mode.params(&format!("h{i}"), &["yes", &format!("flood {i}")]);
        params["outputBytesCap"] = Value::Null;
        params["streamStdin"] = json!(false);
        client.request("process/spawn", params);
    }
    wait_until("all of them run", || children_of(server).len() == count);
    must_come_to_rest(client.pid());
    let private = private_bytes_of(server);
    assert!(private < 64 << 20, "{private} bytes for {count} floods");
    for i in 0..count {
        client.request("process/kill", json!({"processHandle": format!("h{i}")}));
    }
    wait_until("all of them are dead", || {
        children_of(server).iter().all(|child| child.is_dead())
    });
    client.read_again();
    for i in 0..count {
        let (stdout, _, exited) = client.streamed(&format!("h{i}"));
        assert_eq!(
            (&exited["exitCode"], &exited["outputDrainTimedOut"]),
            (&json!(137), &json!(false))
        );
        assert_eq!(exited["stdoutBytes"], stdout.len());
        assert!(stdout.len() >= 1024, "{} bytes of {i}", stdout.len());
        let line = mode.printed(&format!("flood {i}\n"));
        let text = String::from_utf8_lossy(&stdout);
        let mut whole = text.split_inclusive('\n').peekable();
        while let Some(got) = whole.next() {
            let last = whole.peek().is_none();
            assert!(
                got == line || last && line.starts_with(got),
                "{got:?} in the flood of {i}"
            );
        }
    }
    client.finish();
}

/// A hundred at once, in pieces of every size: each line of the connection is whole, and so is each stream.
#[apply(both)]
fn chatty_children_never_mix(mode: Mode) {
    let count = 100;
    let mut client = Client::in_process();
    let script = "i=0; while [ $i -lt 60 ]; do echo \"$0 line $i\"; printf '%s' \"$0\"; echo err >&2; i=$((i+1)); done";
    for i in 0..count {
        client.request(
            "process/spawn",
            mode.params(&format!("h{i}"), &["sh", "-c", script, &format!("c{i}")]),
        );
    }
    for i in 0..count {
        let (stdout, stderr, exited) = client.streamed(&format!("h{i}"));
        assert_eq!(exited["exitCode"], 0);
        let lines = |with_errors: bool| -> String {
            let error = if with_errors { "err\n" } else { "" };
            (0..60).map(|n| format!("c{i} line {n}\nc{i}{error}")).collect()
        };
        let (out, err) = match mode {
            Mode::Pipe => (lines(false), "err\n".repeat(60)),
            Mode::Tty => (mode.printed(&lines(true)), String::new()),
        };
        assert_eq!(String::from_utf8_lossy(&stdout), out);
        assert_eq!(String::from_utf8_lossy(&stderr), err);
    }
    client.finish();
}

/// Next to a flood that the client reads as fast as it can, another process answers, and so does the server.
#[apply(both)]
fn flood_holds_up_no_other_process(mode: Mode) {
    let mut client = Client::in_process();
    let mut params = mode.params("flood", &["yes"]);
    params["outputBytesCap"] = Value::Null;
    client.spawn(params);
    client.spawn(mode.params("echo", &["cat"]));
    for i in 0..10 {
        client.write("echo", format!("turn {i}.\n").as_bytes());
        client.until("echo", &format!("turn {i}."));
        client.call("process/list", json!({}));
        assert_eq!(client.run(&["echo", "x"])["stdout"], "x\n");
    }
    client.kill("flood");
    assert_eq!(client.exited("flood")["exitCode"], 137);
    client.finish();
}

/// What they leave behind holds their pipes open: after the wait for that nothing of it is kept, and
/// the end of the connection finds the daemons.
#[apply(test)]
fn daemons_cost_no_thread() {
    let mut client = Client::binary(&[]);
    client.run(&["true"]);
    let server = server_below(client.pid());
    let held = || {
        let count = |what| {
            std::fs::read_dir(format!("/proc/{server}/{what}"))
                .expect("it runs")
                .count()
        };
        (count("task"), count("fd"))
    };
    let before = held();
    let count = times(20);
    for i in 0..count {
        client.request(
            "process/spawn",
            Mode::Pipe.params(&format!("h{i}"), &["sh", "-c", "setsid sleep 1000 & echo $!"]),
        );
    }
    let mut daemons = Vec::new();
    for i in 0..count {
        let (stdout, _, exited) = client.streamed(&format!("h{i}"));
        assert_eq!(
            (&exited["exitCode"], &exited["outputDrainTimedOut"]),
            (&json!(0), &json!(true))
        );
        let pid: u32 = String::from_utf8_lossy(&stdout).trim().parse().expect("a pid");
        daemons.push(pid);
    }
    // The thread of the first one may still have been there when they were counted.
    wait_until("threads and descriptors are back", || {
        let now = held();
        now.0 <= before.0 && now.1 <= before.1
    });
    assert!(
        daemons.iter().all(|&pid| is_alive(pid)),
        "they live until the connection ends"
    );
    client.finish();
    reap_adopted();
    assert!(
        !daemons.iter().any(|&pid| is_alive(pid)),
        "the end of the connection finds them"
    );
}

/// A process that does not read, and more writes to it than may be in flight: they wait aside, and
/// the kill after them is read.
#[apply(test)]
fn writes_that_wait_hold_up_no_kill() {
    let mut client = Client::in_process();
    client.spawn(Mode::Pipe.params("a", &["sleep", "1000"]));
    client.write("a", &vec![0; 2 << 20]);
    let mut input = Vec::new();
    for id in 0..70_000 {
        let params = r#"{"processHandle":"a","deltaBase64":"eA=="}"#;
        let id = 1000 + id;
        input.extend_from_slice(
            format!("{{\"id\":{id},\"method\":\"process/writeStdin\",\"params\":{params}}}\n").as_bytes(),
        );
    }
    client.send_raw(&input);
    client.kill("a");
    assert_eq!(client.exited("a")["exitCode"], 137);
    client.finish();
}

/// More collected output than is let in unread: processes wait to be started, and a kill is obeyed.
#[apply(test)]
fn unread_exits_hold_up_no_kill() {
    let mut client = Client::binary(&[]);
    let victim = client.spawn(Mode::Pipe.params("a", &["sleep", "1000"]));
    client.stop_reading();
    for i in 0..60 {
        // Letters: a NUL would be six bytes on the wire.
        let command = ["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"];
        client.request(
            "process/spawn",
            json!({"processHandle": format!("h{i}"), "command": command, "timeoutMs": null}),
        );
    }
    must_come_to_rest(client.pid());
    client.request("process/kill", json!({"processHandle": "a"}));
    wait_until("killed", || !is_alive(victim));
    client.read_again();
    for i in 0..60 {
        assert_eq!(client.exited(&format!("h{i}"))["stdoutBytes"], 1_000_000);
    }
    client.finish();
}

/// A megabyte of variables for each is of no use once the programs run.
#[apply(test)]
fn environments_are_not_kept_behind_the_start() {
    let mut client = Client::binary(&[]);
    client.call("process/list", json!({}));
    let server = server_below(client.pid());
    let env: serde_json::Map<String, Value> = (0..10_000)
        .map(|i| (format!("V{i:05}"), json!("x".repeat(90))))
        .collect();
    let mut params = Mode::Pipe.params("first", &["sleep", "1000"]);
    params["env"] = Value::Object(env);
    client.spawn(params.clone());
    let before = private_bytes_of(server);
    for i in 0..20 {
        params["processHandle"] = json!(format!("p{i}"));
        client.spawn(params.clone());
    }
    let grown = private_bytes_of(server).saturating_sub(before) / 1024 / 1024;
    // Each has 2.5 MiB in a table of them. What remains is the allocator's, from what was on its way.
    assert!(grown < 40, "{grown} MiB more for 20 processes");
    client.finish();
}

/// Private memory, of the guard and the server together.
#[apply(test)]
fn an_idle_server_has_less_than_a_megabyte() {
    let mut client = Client::binary(&[]);
    client.call(
        "initialize",
        json!({"clientInfo": {"name": "tester", "version": "1"}}),
    );
    let (guard, server) = (client.pid(), server_below(client.pid()));
    assert_ne!(guard, server);
    let bytes = private_bytes_of(guard) + private_bytes_of(server);
    // A debug build has four times as many addresses that are relocated when it starts.
    let limit = if cfg!(debug_assertions) {
        1_500_000
    } else {
        1_000_000
    };
    assert!(bytes < limit, "{bytes} bytes");
    client.finish();
}
