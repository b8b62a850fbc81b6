//! `process/list`: what is running, as of the requests sent before.

use std::time::SystemTime;

use crate::harness::{Client, HungProgram, Mode, Scratch, apply, both, test, times, wait_until};
use crate::spawn::silent_to_the_end;
use serde_json::{Value, json};

fn list(client: &mut Client) -> Vec<Value> {
    listed(&client.call("process/list", json!({})))
}

fn listed(result: &Value) -> Vec<Value> {
    assert_eq!(result.as_object().map(serde_json::Map::len), Some(1), "{result}");
    result["processes"].as_array().expect("a list").clone()
}

fn handles(processes: &[Value]) -> Vec<&str> {
    let handle = |p: &'_ Value| p["processHandle"].as_str().map(str::len);
    assert!(processes.iter().all(|p| handle(p).is_some()), "{processes:?}");
    processes
        .iter()
        .filter_map(|p| p["processHandle"].as_str())
        .collect()
}

#[apply(test)]
fn nothing_runs_at_first() {
    let mut client = Client::in_process();
    assert_eq!(client.call("process/list", json!({})), json!({"processes": []}));
    // It needs no params.
    client.send(&json!({"id": "x", "method": "process/list"}));
    assert_eq!(client.response("x")["result"], json!({"processes": []}));
    assert_eq!(client.refuse("process/list", json!([])).0, -32602);
    silent_to_the_end(client);
}

#[apply(both)]
fn every_member_is_told(mode: Mode) {
    let scratch = Scratch::new();
    let now = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.expect("it is past 1970").as_millis() as u64
    };
    let mut client = Client::in_process();
    let before = now();
    let mut params = mode.params("with cwd", &["cat", "-"]);
    params["cwd"] = json!(scratch.path("."));
    let first = client.spawn(params);
    let second = client.spawn(mode.params("b", &["sleep", "1000"]));
    let after = now();
    let mut processes = list(&mut client);
    for process in &mut processes {
        let started = process["startedAtMs"].as_u64().expect("a number");
        assert!((before..=after).contains(&started), "{before} {process} {after}");
        process["startedAtMs"] = Value::Null;
    }
    let expected = |handle: &str, pid: u32, command: &[&str], cwd: Value| {
        json!({
            "processHandle": handle,
            "pid": pid,
            "command": command,
            "cwd": cwd,
            "tty": mode == Mode::Tty,
            "startedAtMs": null,
            "stdoutBytes": 0,
            "stderrBytes": 0,
            "stdinPendingBytes": 0,
        })
    };
    assert_eq!(
        processes,
        [
            expected("with cwd", first, &["cat", "-"], json!(scratch.path("."))),
            expected("b", second, &["sleep", "1000"], Value::Null),
        ]
    );
    client.finish();
}

#[apply(both)]
fn counts_follow_the_streams(mode: Mode) {
    let mut client = Client::in_process();
    let script =
        "stty -echo -icanon 2>/dev/null; printf 12345; printf 123 >&2; printf ready; exec sleep 1000";
    client.spawn_ready(mode.params("a", &["sh", "-c", script]));
    let expected = match mode {
        Mode::Pipe => (json!(10), json!(3)),
        Mode::Tty => (json!(13), json!(0)),
    };
    let mut process = Value::Null;
    wait_until("both streams have been read", || {
        process = list(&mut client).remove(0);
        (&process["stdoutBytes"], &process["stderrBytes"]) == (&expected.0, &expected.1)
    });
    assert_eq!(process["stdinPendingBytes"], 0);
    // It never reads, so only what the kernel holds is no longer pending.
    let written = 600_000;
    let write = client.write("a", &vec![b'x'; written]);
    client.result(write);
    let mut pending = 0;
    wait_until("the kernel has taken its share", || {
        let last = pending;
        pending = list(&mut client)[0]["stdinPendingBytes"]
            .as_u64()
            .expect("a number");
        pending == last && pending < written as u64
    });
    assert!(pending > 300_000, "{pending}");
    client.finish();
}

/// It waits for those before it, so it never misses one that is still being started.
#[apply(test)]
fn pipelined_behind_spawns_it_has_them_all() {
    let mut client = Client::in_process();
    for round in 0..times(10) {
        let names: Vec<String> = (0..10).map(|i| format!("{round}.{i}")).collect();
        let spawns: Vec<i64> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let mode = if i % 2 == 0 { Mode::Pipe } else { Mode::Tty };
                client.request("process/spawn", mode.params(name, &["cat"]))
            })
            .collect();
        let list = client.request("process/list", json!({}));
        let processes = listed(&client.result(list));
        assert_eq!(handles(&processes), names);
        for (spawn, process) in spawns.iter().zip(&processes) {
            assert!(
                client.is_answered(*spawn),
                "the list came before the spawn's answer"
            );
            assert_eq!(client.result(*spawn)["pid"], process["pid"]);
        }
        for name in &names {
            client.kill(name);
            client.exited(name);
        }
    }
    client.finish();
}

#[apply(test)]
fn spawns_that_failed_are_not_in_it() {
    let scratch = Scratch::new();
    // A program that is open for writing takes a while to fail.
    let busy = scratch.file("busy", 0o755, "#!/bin/sh\n");
    let held = std::fs::OpenOptions::new().append(true).open(&busy);
    let held = held.expect("the file is ours");
    let mut client = Client::in_process();
    let missing = client.request("process/spawn", Mode::Pipe.params("missing", &["/nonexistent"]));
    let slow = client.request("process/spawn", Mode::Pipe.params("slow", &[&busy]));
    client.request("process/spawn", Mode::Pipe.params("good", &["cat"]));
    let first = client.request("process/list", json!({}));
    let second = client.request("process/list", json!({}));
    for list in [first, second] {
        let processes = listed(&client.result(list));
        assert_eq!(handles(&processes), ["good"]);
        // How long a list waits for the slow one is up to the machine as well.
        assert!(client.is_answered(missing) || list == second);
        if list == first {
            assert_eq!(client.error(missing).0, -32603);
            assert_eq!(client.error(slow).0, -32603);
        }
    }
    drop(held);
    client.finish();
}

/// The second spawn of the handle has to wait for the first to fail; the list waits for both.
#[apply(test)]
fn a_spawn_behind_one_that_failed_is_in_it() {
    let mut client = Client::in_process();
    for i in 0..times(100) {
        let handle = format!("h{i}");
        let failing = client.request("process/spawn", Mode::Pipe.params(&handle, &["/nonexistent/x"]));
        let spawned = client.request("process/spawn", Mode::Pipe.params(&handle, &["sleep", "1000"]));
        let asked = client.request("process/list", json!({}));
        let result = client.result(asked);
        assert_eq!(handles(&listed(&result)), [handle.as_str()]);
        assert_eq!(client.error(failing).0, -32603);
        client.result(spawned);
        client.kill(&handle);
        client.exited(&handle);
    }
    client.finish();
}

#[apply(test)]
fn spawns_that_come_later_do_not_delay_it() {
    let scratch = Scratch::new();
    let busy = scratch.file("busy", 0o755, "#!/bin/sh\n");
    let held = std::fs::OpenOptions::new().append(true).open(&busy);
    let held = held.expect("the file is ours");
    let mut client = Client::in_process();
    let first = client.request("process/spawn", Mode::Pipe.params("good", &["cat"]));
    let list = client.request("process/list", json!({}));
    let slow = client.request("process/spawn", Mode::Pipe.params("slow", &[&busy]));
    let processes = listed(&client.result(list));
    assert_eq!(handles(&processes), ["good"]);
    assert!(!client.is_answered(slow), "the list waited for it");
    client.result(first);
    assert_eq!(client.error(slow).0, -32603);
    drop(held);
    client.finish();
}

/// A handle is free before its exit can be read.
#[apply(test)]
fn what_has_exited_is_not_in_it() {
    let mut client = Client::in_process();
    client.spawn(Mode::Pipe.params("stays", &["cat"]));
    for _ in 0..times(100) {
        client.run(&["true"]);
        let processes = list(&mut client);
        assert_eq!(handles(&processes), ["stays"]);
    }
    client.finish();
}

#[apply(test)]
fn a_name_used_again_is_listed_with_its_new_process() {
    let mut client = Client::in_process();
    for _ in 0..times(30) {
        let pid = client.spawn(Mode::Pipe.params("a", &["cat"]));
        let processes = list(&mut client);
        assert_eq!(
            (processes.len(), processes[0]["pid"].as_u64()),
            (1, Some(pid.into()))
        );
        client.close_stdin("a");
        client.exited("a");
    }
    silent_to_the_end(client);
}

/// A list is of what runs; a program on a disk that does not answer is left out after a while.
#[apply(test)]
fn program_that_does_not_start_does_not_hold_it_up() {
    let scratch = Scratch::new();
    let Some(hung) = HungProgram::new(&scratch) else {
        return;
    };
    let mut client = Client::in_process();
    let before = client.spawn(Mode::Pipe.params("before", &["cat"]));
    let spawn = client.request("process/spawn", Mode::Pipe.params("hung", &[&hung.path, "1000"]));
    let first = client.request("process/list", json!({}));
    let after = client.spawn(Mode::Pipe.params("after", &["cat"]));
    let processes = listed(&client.result(first));
    assert_eq!(handles(&processes)[0], "before");
    assert!(!handles(&processes).contains(&"hung"));
    assert_eq!(processes[0]["pid"], before);
    // It has been waited for once, and lists that come later do not wait for it again.
    let last = client.request("process/spawn", Mode::Pipe.params("last", &["cat"]));
    let processes = list(&mut client);
    assert_eq!(handles(&processes), ["before", "after", "last"]);
    assert_eq!(processes[1]["pid"], after);
    client.result(last);
    assert!(!client.is_answered(spawn));
    // It starts once the disk answers, and is listed.
    drop(hung);
    client.result(spawn);
    assert_eq!(handles(&list(&mut client)), ["before", "hung", "after", "last"]);
    client.finish();
}

#[apply(test)]
fn process_is_listed_once_its_spawn_is_answered() {
    // On one processor, the answer's reader often takes it from the thread that sent the answer.
    on_one_processor();
    let scratches: Vec<Scratch> = (0..40).map(|_| Scratch::new()).collect();
    let Some(programs) = scratches.iter().map(HungProgram::new).collect::<Option<Vec<_>>>() else {
        return;
    };
    let mut client = Client::in_process();
    let mut spawns = Vec::new();
    for (n, program) in programs.into_iter().enumerate() {
        let name = format!("hung {n}");
        let params = Mode::Pipe.params(&name, &[&program.path, "1000"]);
        let spawn = client.request("process/spawn", params);
        spawns.push((name, spawn, program));
    }
    // Later lists do not wait for them again.
    assert!(list(&mut client).is_empty());
    for (name, spawn, program) in spawns {
        drop(program);
        client.result(spawn);
        let processes = list(&mut client);
        assert!(
            handles(&processes).contains(&name.as_str()),
            "{name}: {processes:?}"
        );
    }
    client.finish();
}

fn on_one_processor() {
    // SAFETY: the set is as large as it is said to be, and zeros are an empty one.
    unsafe {
        let mut processors: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        assert_eq!(libc::sched_getaffinity(0, size, &mut processors), 0);
        let first = (0..libc::CPU_SETSIZE as usize).find(|n| libc::CPU_ISSET(*n, &processors));
        libc::CPU_ZERO(&mut processors);
        libc::CPU_SET(first.expect("a processor"), &mut processors);
        assert_eq!(libc::sched_setaffinity(0, size, &processors), 0);
    }
}
