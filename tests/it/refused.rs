//! Where the system refuses a call altogether, as sandboxes and older kernels do, or memory for a
//! thread: another way is taken, or the error says which call it was.

use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::harness::{Client, PROCWIRE, Scratch, apply, test, wait};
use session::Call;

// Shared with the example that prints the table.
#[allow(dead_code)]
#[path = "../refused/session.rs"]
pub mod session;

fn server() -> &'static Path {
    Path::new(&*PROCWIRE)
}

/// Refuses each of `tries`, and fails with all that must not be.
fn check_all(tries: &[(Vec<Call>, i32)]) {
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((calls, errno)) = tries.get(next.fetch_add(1, Relaxed)) {
                    let outcome = session::run(server(), calls, *errno);
                    let names: Vec<&str> = calls.iter().map(|call| call.name).collect();
                    for fault in outcome.faults(&calls[0]) {
                        let mut faults = faults.lock().expect("not poisoned");
                        faults.push(format!("{names:?} with {errno}: {fault}\n{outcome:?}"));
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().expect("not poisoned");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn every_call_with(errno: i32) {
    let calls = session::calls();
    let tries: Vec<_> = calls.into_iter().map(|call| (vec![call], errno)).collect();
    assert!(tries.len() > 60, "{}", tries.len());
    check_all(&tries);
}

#[apply(test)]
fn a_call_that_is_not_allowed_hangs_nothing_and_is_named() {
    every_call_with(libc::EPERM);
}

#[apply(test)]
fn a_call_that_is_missing_hangs_nothing_and_is_named() {
    every_call_with(libc::ENOSYS);
}

#[apply(test)]
fn a_call_that_finds_a_table_full_hangs_nothing_and_is_named() {
    let tries = [
        ("pipe2", libc::EMFILE),
        ("pipe2", libc::ENFILE),
        ("eventfd2", libc::EMFILE),
        ("eventfd2", libc::ENOMEM),
        ("pidfd_open", libc::EMFILE),
        ("pidfd_open", libc::ENOMEM),
        ("signalfd4", libc::EMFILE),
        ("socketpair", libc::EMFILE),
        ("dup2", libc::EMFILE),
        ("dup3", libc::EMFILE),
        ("close_range", libc::ENOMEM),
        ("close_range", libc::EMFILE),
        ("clone", libc::EAGAIN),
        ("clone", libc::ENOMEM),
        ("clone3", libc::EAGAIN),
        ("mremap", libc::ENOMEM),
        ("madvise", libc::ENOMEM),
        ("execve", libc::ENOMEM),
        ("setsid", libc::EPERM),
        ("ppoll", libc::ENOMEM),
    ];
    check_all(&tries.map(|(name, errno)| (session::named(&[name]), errno)));
}

/// EPERM is usual, and no more than that.
#[apply(test)]
fn a_sandbox_may_choose_its_error() {
    for name in [
        "clone with CLONE_PIDFD",
        "close_range",
        "dup2",
        "eventfd2",
        "faccessat2",
        "kill",
        "pidfd_send_signal",
        "pipe2",
        "ppoll",
        "wait4",
    ] {
        for errno in [libc::EACCES, libc::EINVAL, libc::EOPNOTSUPP] {
            let call = session::named(&[name]);
            let outcome = session::run(server(), &call, errno);
            assert!(
                outcome.works && outcome.faults(&call[0]).is_empty() && outcome.status == Some(0),
                "{name} with {errno}: {outcome:?}"
            );
        }
    }
}

/// What is refused together.
#[apply(test)]
fn sandboxes_and_older_kernels_are_served() {
    let before_5_2 = [
        "clone with CLONE_PIDFD",
        "pidfd_open",
        "pidfd_send_signal",
        "close_range",
        "clone3",
        "faccessat2",
        "openat2",
    ];
    let unknown_to_an_old_profile = [
        "close_range",
        "faccessat2",
        "openat2",
        "pidfd_open",
        "pidfd_send_signal",
    ];
    // As agents are kept from the network.
    let network = ["sendto", "recvfrom", "socketpair"];
    let event_descriptors = ["eventfd2", "signalfd4", "pidfd_open", "clone with CLONE_PIDFD"];
    let tables = ["close_range", "unshare"];
    let newer = ["pipe2", "dup3", "faccessat2", "eventfd2", "ppoll"];
    for (names, errno) in [
        (&before_5_2[..], libc::ENOSYS),
        (&before_5_2[..4], libc::EINVAL),
        (&unknown_to_an_old_profile, libc::EPERM),
        (&network, libc::EPERM),
        (&event_descriptors, libc::EPERM),
        (&tables, libc::EPERM),
        (&newer, libc::ENOSYS),
    ] {
        // Not every kernel has said EINVAL of all of them.
        let names = match errno {
            libc::EINVAL => &names[..1],
            _ => names,
        };
        let outcome = session::run(server(), &session::named(names), errno);
        assert!(
            outcome.works && outcome.faults(&session::calls()[0]).is_empty(),
            "{names:?} with {errno}: {outcome:?}"
        );
        assert_eq!(outcome.status, Some(0), "{names:?}: {outcome:?}");
    }
}

#[apply(test)]
fn every_call_is_in_the_table() {
    let file = format!("{}/docs/refused.md", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&file).expect("the page is there");
    let (_, table) = page.split_once("| call | what happens |").expect("a table");
    let mut listed: HashSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(name, _)| name)
        .collect();
    for call in session::calls() {
        assert!(
            listed.remove(call.name),
            "{} is not in docs/refused.md: cargo run --release --example refused",
            call.name
        );
    }
    assert!(listed.is_empty(), "docs/refused.md has others: {listed:?}");
}

/// The server has others open, of its own and inherited ones, low numbers and high ones.
#[apply(test)]
fn without_close_range_programs_get_three_descriptors() {
    for names in [
        &["close_range"][..],
        &["close_range", "unshare"],
        &["close_range", "getdents64"],
    ] {
        let (inherited, _other) = std::io::pipe().expect("a pipe");
        let mut command = session::command(server(), &session::named(names), libc::EPERM);
        // Its parent has a few open that do not close on exec.
        let fd = inherited.as_raw_fd();
        // SAFETY: plain calls of fcntl between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for least in [3, 200, 900] {
                    if libc::fcntl(fd, libc::F_DUPFD, least) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let mut client = Client::command(command);
        client.spawn(json!({"processHandle": "other", "command": ["sleep", "1000"], "timeoutMs": null}));
        // Reads nothing of a directory, which is refused in one of the rounds.
        let script =
            "n=3; while [ $n -lt 1000 ]; do [ -e /proc/self/fd/$n ] && printf '%s ' $n; n=$((n+1)); done";
        for tty in [false, true] {
            let exited = {
                let handle = format!("a{tty}");
                client.spawn(json!({
                    "processHandle": handle, "command": ["bash", "-c", script], "tty": tty, "timeoutMs": null,
                }));
                if tty {
                    let (stdout, _, exited) = client.streamed(&handle);
                    json!({"exitCode": exited["exitCode"], "stdout": String::from_utf8_lossy(&stdout)})
                } else {
                    client.exited(&handle)
                }
            };
            // bash opens its own terminal as 255, and nothing else.
            let open: Vec<&str> = exited["stdout"]
                .as_str()
                .expect("a text")
                .split_whitespace()
                .filter(|n| *n != "255")
                .collect();
            assert!(open.is_empty(), "{names:?}, tty {tty}: {open:?}");
        }
        client.kill("other");
        client.exited("other");
        client.finish();
    }
}

#[apply(test)]
fn without_faccessat2_permissions_are_seen() {
    let scratch = Scratch::new();
    let (first, second) = (scratch.directory("first"), scratch.directory("second"));
    scratch.file("first/found", 0o644, "#!/bin/sh\necho wrong\n");
    scratch.file("second/found", 0o755, "#!/bin/sh\necho right\n");
    scratch.file("first/locked", 0o644, "#!/bin/sh\necho wrong\n");
    scratch.directory("first/directory");
    for names in [&["faccessat2"][..], &["faccessat2", "faccessat"]] {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let mut client = Client::command(session::command(server(), &session::named(names), errno));
            let path = json!({ "PATH": format!("{first}:{second}:/usr/bin:/bin") });
            let exited = client
                .run_with(json!({"processHandle": "a", "command": ["found"], "env": path, "cwd": first}));
            assert_eq!(exited["stdout"], "right\n", "{exited}");
            for (program, code) in [
                ("locked", "EACCES"),
                ("directory", "EACCES"),
                ("missing", "ENOENT"),
            ] {
                let params = json!({"processHandle": "a", "command": [program], "env": path});
                let id = client.request("process/spawn", params);
                let data = client.response(id)["error"]["data"].clone();
                assert_eq!(
                    (&data["code"], &data["stage"]),
                    (&json!(code), &json!("lookup")),
                    "{program}"
                );
            }
            let params = json!({"processHandle": "a", "command": ["true"], "cwd": format!("{first}/found")});
            let id = client.request("process/spawn", params);
            let data = client.response(id)["error"]["data"].clone();
            assert_eq!(
                (&data["code"], &data["stage"]),
                (&json!("ENOTDIR"), &json!("cwd"))
            );
            client.finish();
        }
    }
}

/// A thread waits for each process then: its code, its signal and its timeout are told as ever, and the
/// thread goes with it.
#[apply(test)]
fn without_pidfds_exits_are_seen_in_time() {
    let names = ["clone with CLONE_PIDFD", "pidfd_open", "pidfd_send_signal"];
    let mut client = Client::command(session::command(server(), &session::named(&names), libc::ENOSYS));
    for i in 0..20 {
        let exited = client.run(&["sh", "-c", &format!("exit {i}")]);
        assert_eq!(exited["exitCode"], i);
    }
    assert_eq!(client.run(&["sh", "-c", "kill -TERM $$"])["signal"], "SIGTERM");
    let exited =
        client.run_with(json!({"processHandle": "a", "command": ["sleep", "1000"], "timeoutMs": 50}));
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"]),
        (&json!(124), &json!(true))
    );
    // One that has left its session dies with the rest.
    client.spawn_ready(json!({
        "processHandle": "tree", "command": ["sh", "-c", "setsid sleep 1000 & echo ready; wait"],
        "streamStdoutStderr": true, "timeoutMs": null,
    }));
    client.kill("tree");
    assert_eq!(client.exited("tree")["exitCode"], 137);
    client.spawn(
        json!({"processHandle": "left", "command": ["sleep", "1000"], "detach": true, "timeoutMs": null}),
    );
    client.kill("left");
    assert_eq!(client.exited("left")["exitCode"], 137);
    let (_, status) = client.finish();
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

// ---- memory ----

/// A server whose guard and itself may have so many KiB of addresses each.
fn with_addresses(kib: u64) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -v {kib} && exec \"$0\"")])
        .arg(server());
    command
}

/// Sends a spawn of a process that stays; its id.
fn stay(client: &mut Client, number: usize) -> i64 {
    let mode = number % 3;
    client.request(
        "process/spawn",
        json!({
            "processHandle": format!("h{number}"), "command": ["sleep", "1000"], "timeoutMs": null,
            "tty": mode == 1, "streamStdin": mode == 2,
        }),
    )
}

/// Whether a spawn was answered with a pid; otherwise it must have been refused for want of memory.
fn is_live(response: &Value, kib: u64) -> bool {
    let error = &response["error"];
    if error.is_null() {
        return true;
    }
    let (stage, code) = (&error["data"]["stage"], &error["data"]["code"]);
    assert_eq!(stage, "thread", "{kib} KiB: {response}");
    assert!(code == "ENOMEM" || code == "EAGAIN", "{kib} KiB: {response}");
    false
}

fn serves_and_ends(mut client: Client, kib: u64, live: usize) {
    let list = client.call("process/list", json!({}));
    assert_eq!(
        list["processes"].as_array().map(Vec::len),
        Some(live),
        "{kib} KiB"
    );
    let (_, status) = client.finish();
    let status = status.expect("it is a binary");
    assert_eq!(status.code(), Some(0), "{kib} KiB: {status}");
}

#[apply(test)]
fn a_thread_that_memory_does_not_allow_is_an_answer() {
    let least = least_mib_to_serve();
    let mib = (least + 3..least + 27).step_by(3).chain([60, 90, 140, 200]);
    let mut any_refused = 0;
    for kib in mib.map(|mib| mib * 1024 + 300) {
        let mut client = Client::command(with_addresses(kib));
        let (mut live, mut refused) = (0, 0);
        for number in 0..120 {
            let id = stay(&mut client, number);
            match is_live(&client.response(id), kib) {
                true => live += 1,
                false => refused += 1,
            }
            if refused == 5 {
                break;
            }
        }
        any_refused += refused;
        assert!(live > 0, "{kib} KiB");
        serves_and_ends(client, kib, live);
    }
    assert!(any_refused > 10, "{any_refused}");
}

/// The least limit of addresses under which it serves; how much that is depends on the build.
fn least_mib_to_serve() -> u64 {
    let serves = |mib: &u64| {
        let mut command = with_addresses(mib * 1024);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().expect("a shell starts").success()
    };
    (10..100).find(serves).expect("that is enough for any build")
}

#[apply(test)]
fn a_burst_with_little_memory_is_answered() {
    let least = least_mib_to_serve();
    // What is put by for the end comes on top.
    for kib in (least + 8..least + 17).step_by(2).map(|mib| mib * 1024) {
        let mut client = Client::command(with_addresses(kib));
        let ids: Vec<i64> = (0..200).map(|number| stay(&mut client, number)).collect();
        let live = ids
            .into_iter()
            .filter(|&id| is_live(&client.response(id), kib))
            .count();
        assert!((1..200).contains(&live), "{kib} KiB: {live}");
        // What is given back can be had again.
        let list = client.call("process/list", json!({}));
        let first = list["processes"][0]["processHandle"]
            .as_str()
            .expect("one lives")
            .to_owned();
        client.kill(&first);
        client.exited(&first);
        serves_and_ends(client, kib, live - 1);
    }
}

/// The server that aborts takes all other processes with it.
#[apply(test)]
fn output_that_memory_does_not_hold_is_dropped() {
    for mib in [40, 70] {
        let mut client = Client::command(with_addresses(mib * 1024));
        client.spawn(json!({"processHandle": "other", "command": ["sleep", "1000"], "timeoutMs": null}));
        for program in [
            "head -c 20000000 /dev/zero",
            "head -c 20000000 /dev/zero | tr '\\0' x",
            "head -c 20000000 /dev/zero | tr '\\0' '\\377'",
        ] {
            // The memory of the last exit is given back when it has been written, which this side can
            // be faster than; a thread that is refused until then is an answer.
            let mut attempts = 0..1_000;
            loop {
                assert!(attempts.next().is_some(), "{mib} MiB: no memory is given back");
                let id = client.request(
                    "process/spawn",
                    json!({
                        "processHandle": "a", "command": ["sh", "-c", program], "timeoutMs": null,
                        "outputBytesCap": null,
                    }),
                );
                let response = client.response(id);
                if response["error"].is_null() {
                    break;
                }
                assert_eq!(response["error"]["data"]["stage"], "thread", "{response}");
            }
            let exited = client.exited("a");
            assert_eq!(exited["exitCode"], 0, "{mib} MiB, {program}");
            assert_eq!(exited["stdoutBytes"], 20_000_000, "{mib} MiB, {program}");
            let kept = exited["stdout"].as_str().expect("text").chars().count();
            let whole = exited["stdoutCapReached"] == json!(false);
            assert_eq!(kept == 20_000_000, whole, "{mib} MiB, {program}: {kept}");
        }
        let list = client.call("process/list", json!({}));
        assert_eq!(list["processes"][0]["processHandle"], "other", "{mib} MiB");
        let (_, status) = client.finish();
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{mib} MiB");
    }
}

#[apply(test)]
fn with_too_little_memory_to_start_it_says_so() {
    let (mut starts, mut refusals) = (0, 0);
    let least = least_mib_to_serve();
    for kib in ((least - 8) * 1024..(least + 2) * 1024).step_by(400) {
        let mut command = with_addresses(kib);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("a shell starts");
        let status = wait(&mut child);
        let mut text = String::new();
        use std::io::Read;
        let mut stderr = child.stderr.take().expect("it is a pipe");
        stderr.read_to_string(&mut text).expect("it is text");
        match status.code() {
            Some(0) => starts += 1,
            // The loader or this program says what there was no memory for.
            Some(1 | 127) if text.contains("procwire: ") => refusals += 1,
            // So does the standard library, before there is a `main`.
            None if text.starts_with("memory allocation of ") => refusals += 1,
            _ => panic!("{kib} KiB: {status}: {text}"),
        }
    }
    assert!(starts > 0 && refusals > 0, "{starts} starts, {refusals} refusals");
}
