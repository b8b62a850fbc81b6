//! `process/inspect`: what the machine shows of a process, and whether it waits for input; and what a server
//! says that it guarantees.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use serde_json::{Value, json};

use crate::harness::{
    Client, Mode, Scratch, apply, binary, both, can, children_of, test, times, wait_until,
    without_a_usable_proc,
};
use crate::proc::Proc;

// ---- programs that wait ----

/// The argument that makes a program of this binary: the next one says what it waits in.
pub const WAIT_IN: &str = "--wait-in";

fn waiting_in(what: &str) -> Vec<String> {
    let own = std::env::current_exe().expect("a running program has a file");
    let own = own.to_str().expect("the build directory is named in UTF-8");
    [own, WAIT_IN, what].map(str::to_owned).to_vec()
}

/// A descriptor that is never readable, and its other end.
fn silent() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: there is room for two, and what is written there is new.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0, "a pipe");
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

/// Prints `ready`, waits as `what` says, and exits when the wait ends.
pub fn wait_in(what: &str) -> ! {
    let ready = || {
        print!("ready");
        let _ = std::io::stdout().flush();
    };
    let (other, _kept) = silent();
    let other = other.as_raw_fd();
    let (how, which) = what.split_once('-').unwrap_or((what, ""));
    let fds: &[i32] = match which {
        "other" => &[other],
        "both" => &[0, other],
        "twice" => &[0, 5],
        _ => &[0],
    };
    if which == "twice" {
        // SAFETY: duplicates a number onto one that is free.
        assert_eq!(unsafe { libc::dup2(0, 5) }, 5, "a duplicate");
    }
    let timeout = if which == "timed" { 100_000 } else { -1 };
    let first = fds[0];
    let mut byte = [0_u8; 1];
    let read = |fd| {
        let mut byte = [0_u8; 1];
        // SAFETY: there is room for one byte.
        unsafe { libc::read(fd, byte.as_mut_ptr().cast(), 1) }
    };
    match how {
        "read" => {
            ready();
            read(first);
        }
        "thread" => {
            ready();
            let reader = std::thread::spawn(move || read(first));
            let _ = reader.join();
        }
        "orphan" => {
            std::thread::spawn(move || {
                ready();
                read(first);
                std::process::exit(0);
            });
            // SAFETY: ends this thread alone, which holds nothing that the other one needs.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        "readv" => {
            ready();
            let buffer = libc::iovec {
                iov_base: byte.as_mut_ptr().cast(),
                iov_len: 1,
            };
            // SAFETY: one buffer with room for a byte.
            unsafe { libc::readv(first, &buffer, 1) };
        }
        "poll" | "ppoll" => {
            let mut polled: Vec<libc::pollfd> = fds
                .iter()
                .map(|&fd| libc::pollfd {
                    fd,
                    events: libc::POLLIN,
                    revents: 0,
                })
                .collect();
            // What is not looked at does not count.
            polled.push(libc::pollfd {
                fd: -1,
                events: libc::POLLIN,
                revents: 0,
            });
            ready();
            // SAFETY: the list is as long as is said.
            unsafe {
                if how == "poll" {
                    libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout);
                } else {
                    libc::ppoll(
                        polled.as_mut_ptr(),
                        polled.len() as libc::nfds_t,
                        ptr::null(),
                        ptr::null(),
                    );
                }
            }
        }
        "select" | "pselect" => {
            // SAFETY: all-zero is an empty set; the numbers are below what a set can hold.
            unsafe {
                let mut set: libc::fd_set = std::mem::zeroed();
                fds.iter().for_each(|&fd| libc::FD_SET(fd, &mut set));
                let none = ptr::null_mut();
                ready();
                if how == "select" {
                    libc::select(64, &mut set, none, none, ptr::null_mut());
                } else {
                    libc::pselect(64, &mut set, none, none, ptr::null(), ptr::null());
                }
            }
        }
        "epoll" | "nested" => {
            // SAFETY: plain calls with descriptors that are open.
            unsafe {
                let add = |epoll: i32, fd: i32| {
                    let mut event = libc::epoll_event {
                        events: libc::EPOLLIN as u32,
                        u64: 0,
                    };
                    assert_eq!(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event), 0);
                };
                let mut epoll = libc::epoll_create1(0);
                fds.iter().for_each(|&fd| add(epoll, fd));
                if how == "nested" {
                    let outer = libc::epoll_create1(0);
                    add(outer, epoll);
                    epoll = outer;
                }
                ready();
                let mut event: libc::epoll_event = std::mem::zeroed();
                libc::epoll_wait(epoll, &mut event, 1, -1);
            }
        }
        "splice" => {
            let (_reader, writer) = silent();
            ready();
            // SAFETY: no offsets are given.
            unsafe { libc::splice(first, ptr::null_mut(), writer.as_raw_fd(), ptr::null_mut(), 1, 0) };
        }
        "sleep" => {
            ready();
            // SAFETY: no memory is involved.
            unsafe { libc::pause() };
        }
        "dev" => {
            // SAFETY: a path that ends in NUL.
            let tty = unsafe { libc::open(c"/dev/tty".as_ptr(), libc::O_RDONLY) };
            assert!(tty >= 0, "a terminal");
            ready();
            read(tty);
        }
        "hidden" => {
            // SAFETY: no memory is involved.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
            ready();
            read(first);
        }
        "memory" => {
            // What it polls is in memory that another thread replaces by a file that does not answer.
            let path = CString::new(std::env::args().nth(3).expect("a file")).expect("a path");
            let map = |at: *mut libc::c_void, flags: i32, file: i32| {
                let access = libc::PROT_READ | libc::PROT_WRITE;
                // SAFETY: a new mapping, or one in place of another that only the kernel still knows.
                let mapped = unsafe { libc::mmap(at, 4096, access, libc::MAP_PRIVATE | flags, file, 0) };
                assert_ne!(mapped, libc::MAP_FAILED, "it is mapped");
                mapped
            };
            let page = map(ptr::null_mut(), libc::MAP_ANONYMOUS, -1);
            let polled = libc::pollfd {
                fd: 0,
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: there is room for one.
            unsafe { page.cast::<libc::pollfd>().write(polled) };
            let address = page.addr();
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                // SAFETY: no memory is involved.
                let _ = tell.send(unsafe { libc::gettid() });
                // SAFETY: the list is there when the call begins.
                unsafe { libc::poll(ptr::with_exposed_provenance_mut(address), 1, -1) }
            });
            let thread = told.recv().expect("it tells");
            let polls = || std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall"));
            wait_until("the thread polls", || {
                let call = polls().expect("/proc is mounted");
                call.contains(&format!("{address:#x} 0x1 "))
            });
            page.expose_provenance();
            // SAFETY: a path that ends in NUL.
            let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) };
            map(page, libc::MAP_FIXED, file);
            ready();
            read(other);
        }
        "children" => {
            let children: u32 = which.parse().expect("a number");
            for _ in 0..children {
                // SAFETY: the child makes one system call after another and nothing else.
                if unsafe { libc::fork() } == 0 {
                    loop {
                        // SAFETY: no memory is involved.
                        unsafe { libc::pause() };
                    }
                }
            }
            ready();
            read(0);
        }
        _ => panic!("no program waits in {what:?}"),
    }
    std::process::exit(0)
}

fn inspect(client: &mut Client, handle: &str) -> Value {
    client.call("process/inspect", json!({"processHandle": handle}))
}

/// Inspects until `is_so`, and then once more.
fn settles(client: &mut Client, handle: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    wait_until(what, || {
        let now = inspect(client, handle);
        if now != last {
            println!("{handle}: {now}");
        }
        last = now;
        is_so(&last)
    });
    let again = inspect(client, handle);
    assert!(is_so(&again), "{what}: {again}");
    again
}

/// Inspects until the process sleeps and `waitsForInput` is `expected`.
fn waits(client: &mut Client, handle: &str, expected: &Value) -> Value {
    settles(client, handle, &format!("{handle} waits: {expected}"), |now| {
        now["processes"][0]["state"] == "S" && now["waitsForInput"] == *expected
    })
}

fn spawn_waiting(client: &mut Client, mode: Mode, handle: &str, what: &str) -> u32 {
    let command = waiting_in(what);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    client.spawn_ready(mode.params(handle, &command))
}

#[apply(both)]
fn each_way_of_waiting_is_told_apart(mode: Mode) {
    let (yes, no, unknown) = (json!(true), json!(false), Value::Null);
    let mut rows = vec![
        ("read", &yes),
        ("read-other", &no),
        ("readv", &yes),
        ("thread", &yes),
        ("thread-other", &no),
        ("orphan", &yes),
        ("poll", &yes),
        ("poll-timed", &yes),
        ("poll-twice", &yes),
        ("poll-both", &unknown),
        ("poll-other", &no),
        ("ppoll", &yes),
        ("ppoll-both", &unknown),
        ("select", &yes),
        ("select-twice", &yes),
        ("select-both", &unknown),
        ("select-other", &no),
        ("pselect", &yes),
        ("pselect-other", &no),
        ("epoll", &yes),
        ("epoll-both", &unknown),
        ("epoll-other", &no),
        ("nested", &yes),
        ("nested-both", &unknown),
        ("nested-other", &no),
        ("sleep", &no),
    ];
    if mode == Mode::Tty {
        rows.push(("dev", &yes));
    } else {
        rows.push(("splice", &yes));
        rows.push(("splice-other", &no));
    }
    let mut client = Client::in_process();
    for (what, _) in &rows {
        spawn_waiting(&mut client, mode, what, what);
    }
    for (what, expected) in rows {
        waits(&mut client, what, expected);
        client.kill(what);
        client.exited(what);
    }
    client.finish();
}

#[apply(both)]
fn every_member_is_told(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn_ready(mode.params("a", &["sh", "-c", "echo ready; cat; true"]));
    let shown = settles(&mut client, "a", "cat runs", |now| {
        now["processes"][1]["command"] == json!(["cat"])
            && now["processes"][0]["state"] == "S"
            && now["waitsForInput"] == true
    });
    let members = |value: &Value| {
        let members = value.as_object().expect("an object");
        members.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(
        members(&shown),
        ["foreground", "pid", "processes", "terminal", "waitsForInput"]
    );
    assert_eq!(shown["pid"], pid);
    let command = json!(["sh", "-c", "echo ready; cat; true"]);
    match mode {
        Mode::Tty => {
            assert_eq!(shown["foreground"], json!({"pid": pid, "command": command}));
            let terminal = json!({"canonical": true, "echo": true, "rows": 24, "cols": 80});
            assert_eq!(shown["terminal"], terminal);
        }
        Mode::Pipe => assert_eq!(
            (&shown["foreground"], &shown["terminal"]),
            (&Value::Null, &Value::Null)
        ),
    }
    let processes = shown["processes"].as_array().expect("a list");
    assert_eq!(processes.len(), 2, "{processes:?}");
    for process in processes {
        assert_eq!(
            members(process),
            [
                "command",
                "cpuMs",
                "parentPid",
                "pid",
                "rssBytes",
                "state",
                "threads"
            ]
        );
        assert_eq!(
            (&process["state"], &process["threads"]),
            (&json!("S"), &json!(1)),
            "{process}"
        );
        assert!(process["cpuMs"].is_u64(), "{process}");
        assert!(
            process["rssBytes"].as_u64().is_some_and(|rss| rss > 4096),
            "{process}"
        );
    }
    assert_eq!(processes[0]["pid"], pid);
    assert_eq!(processes[0]["parentPid"], std::process::id());
    assert_eq!(processes[0]["command"], command);
    assert_eq!(processes[1]["parentPid"], pid);
    client.kill("a");
    client.exited("a");
    client.finish();
}

#[apply(both)]
fn a_busy_program_waits_for_nothing(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn_ready(mode.params("a", &["sh", "-c", "echo ready; while :; do :; done"]));
    let shown = settles(&mut client, "a", "it has used some time", |now| {
        now["processes"][0]["cpuMs"].as_u64().is_some_and(|ms| ms >= 50)
    });
    assert_eq!(shown["waitsForInput"], false, "{shown}");
    client.kill("a");
    client.exited("a");
    client.finish();
}

/// A child that reads what its parent was given.
#[apply(both)]
fn what_runs_beside_it_counts(mode: Mode) {
    let mut client = Client::in_process();
    // On a terminal the shell without job control has its children in its own group.
    client.spawn_ready(mode.params("a", &["sh", "-c", "exec 3<&0; cat <&3 & echo ready; wait"]));
    waits(&mut client, "a", &json!(true));
    client.kill("a");
    client.exited("a");
    client.finish();
}

#[apply(test)]
fn a_shell_waits_at_its_prompt_and_its_job_in_the_foreground() {
    let mut client = Client::in_process();
    for shell in [&["sh", "-i"][..], &["bash", "--norc", "-i"]] {
        let mut params = Mode::Tty.params("a", shell);
        params["env"] = json!({"PS1": "% ", "ENV": null});
        let pid = client.spawn(params);
        client.until("a", "% ");
        let shown = waits(&mut client, "a", &json!(true));
        assert_eq!(shown["foreground"]["pid"], pid, "{shown}");
        let id = client.write("a", b"cat\n");
        client.result(id);
        let shown = settles(&mut client, "a", "cat reads", |now| {
            now["foreground"]["command"] == json!(["cat"]) && now["waitsForInput"] == true
        });
        assert_ne!(shown["foreground"]["pid"], pid, "{shown}");
        let id = client.write("a", b"\x04sleep 1000\n");
        client.result(id);
        settles(&mut client, "a", "it sleeps", |now| {
            now["foreground"]["command"] == json!(["sleep", "1000"]) && now["waitsForInput"] == false
        });
        let id = client.write("a", b"\x03");
        client.result(id);
        waits(&mut client, "a", &json!(true));
        client.kill("a");
        client.exited("a");
    }
    client.finish();
}

#[apply(test)]
fn a_pipeline_reads_another_pipe() {
    let mut client = Client::in_process();
    for mode in [Mode::Pipe, Mode::Tty] {
        client.spawn(mode.params("a", &["sh", "-c", "sleep 1000 | cat"]));
        let shown = settles(&mut client, "a", "both run", |now| {
            let is = |index: usize, command: &[&str]| {
                let process = &now["processes"][index];
                process["command"] == json!(command) && process["state"] == "S"
            };
            is(1, &["sleep", "1000"]) && is(2, &["cat"])
        });
        assert_eq!(shown["waitsForInput"], false, "{shown}");
        client.kill("a");
        client.exited("a");
    }
    client.finish();
}

#[apply(test)]
fn a_password_prompt_reads_with_echo_off() {
    let mut client = Client::in_process();
    let script =
        "stty -echo; printf 'Password: ' >/dev/tty; read secret </dev/tty; stty echo; echo got $secret";
    client.spawn(Mode::Tty.params("a", &["sh", "-c", script]));
    client.until("a", "Password: ");
    let shown = waits(&mut client, "a", &json!(true));
    assert_eq!(shown["terminal"]["echo"], false, "{shown}");
    assert_eq!(shown["terminal"]["canonical"], true, "{shown}");
    let id = client.write("a", b"swordfish\n");
    client.result(id);
    client.until("a", "got swordfish");
    client.exited("a");
    client.finish();
}

#[apply(test)]
fn what_has_left_the_terminal_and_reads_it_counts() {
    let mut client = Client::in_process();
    let script = "exec 3<&0; setsid sh -c 'echo ready; exec cat <&3' & wait; sleep 1000";
    client.spawn_ready(Mode::Tty.params("a", &["sh", "-c", script]));
    let shown = waits(&mut client, "a", &json!(true));
    let id = client.write("a", b"typed\n");
    client.result(id);
    client.until("a", "typed\r\ntyped");
    assert_eq!(shown["foreground"]["command"][0], "sh", "{shown}");
    client.kill("a");
    client.exited("a");
    client.finish();
}

#[apply(test)]
fn which_terminal_dev_tty_was_is_not_known_outside_of_its_session() {
    let mut client = Client::in_process();
    let script = "exec 3</dev/tty; setsid sh -c 'echo ready; exec cat <&3' & wait; sleep 1000";
    client.spawn_ready(Mode::Tty.params("a", &["sh", "-c", script]));
    waits(&mut client, "a", &Value::Null);
    let id = client.write("a", b"typed\n");
    client.result(id);
    client.until("a", "typed\r\ntyped");
    client.kill("a");
    client.exited("a");
    client.finish();
}

#[apply(test)]
fn a_job_in_the_background_does_not_count() {
    let mut client = Client::in_process();
    // The job is stopped by its read, and the shell waits for a program.
    let script = "set -m; cat & sleep 1000";
    client.spawn(Mode::Tty.params("a", &["bash", "-c", script]));
    let shown = settles(&mut client, "a", "the job is stopped", |now| {
        let processes = now["processes"].as_array().expect("a list");
        processes
            .iter()
            .any(|p| p["command"] == json!(["cat"]) && p["state"] == "T")
            && now["foreground"]["command"] == json!(["sleep", "1000"])
    });
    assert_eq!(shown["waitsForInput"], false, "{shown}");
    client.kill("a");
    client.exited("a");
    client.finish();
}

#[apply(both)]
fn a_stopped_program_waits_for_nothing_until_it_is_continued(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(mode.params("a", &["cat"]));
    waits(&mut client, "a", &json!(true));
    client.call("process/kill", json!({"processHandle": "a", "signal": "SIGSTOP"}));
    let shown = settles(&mut client, "a", "it is stopped", |now| {
        now["processes"][0]["state"] == "T"
    });
    assert_eq!(shown["waitsForInput"], false, "{shown}");
    client.call("process/kill", json!({"processHandle": "a", "signal": "SIGCONT"}));
    waits(&mut client, "a", &json!(true));
    client.kill("a");
    client.exited("a");
    client.finish();
}

/// The kernel goes on with such a call under another number.
#[apply(test)]
fn a_wait_that_a_stop_has_interrupted_is_the_same_wait() {
    let mut client = Client::in_process();
    for (what, expected) in [("poll-timed", json!(true)), ("poll-other", json!(false))] {
        spawn_waiting(&mut client, Mode::Pipe, what, what);
        waits(&mut client, what, &expected);
        for signal in ["SIGSTOP", "SIGCONT"] {
            client.call("process/kill", json!({"processHandle": what, "signal": signal}));
            let state = if signal == "SIGSTOP" { "T" } else { "S" };
            settles(&mut client, what, signal, |now| {
                now["processes"][0]["state"] == state
            });
        }
        waits(&mut client, what, &expected);
        client.kill(what);
        client.exited(what);
    }
    let mut params = Mode::Pipe.params("sleep", &["sleep", "1000"]);
    params["timeoutMs"] = Value::Null;
    client.spawn(params);
    for signal in ["SIGSTOP", "SIGCONT"] {
        client.call(
            "process/kill",
            json!({"processHandle": "sleep", "signal": signal}),
        );
    }
    waits(&mut client, "sleep", &json!(false));
    client.finish();
}

#[apply(test)]
fn stdin_that_is_closed_is_not_waited_for() {
    let mut client = Client::in_process();
    // No stdin at all, and one that has ended.
    client.spawn(json!({"processHandle": "none", "command": ["sleep", "1000"], "timeoutMs": null}));
    waits(&mut client, "none", &json!(false));
    client.spawn(Mode::Pipe.params("ended", &["sh", "-c", "cat; echo ready; exec sleep 1000"]));
    waits(&mut client, "ended", &json!(true));
    client.close_stdin("ended");
    client.until("ended", "ready");
    waits(&mut client, "ended", &json!(false));
    client.finish();
}

/// Right after a write it is not said that the program waits, although the kernel takes a while to hand a
/// line over on a terminal.
#[apply(both)]
fn input_that_is_there_is_not_waited_for(mode: Mode) {
    let mut client = Client::in_process();
    for round in 0..times(30) {
        client.spawn_ready(mode.params("a", &["sh", "-c", "echo ready; read line; exec sleep 1000"]));
        waits(&mut client, "a", &json!(true));
        let write = client.write("a", b"line\n");
        let inspect = client.request("process/inspect", json!({"processHandle": "a"}));
        client.result(write);
        let shown = client.result(inspect);
        assert_eq!(shown["waitsForInput"], false, "{round}: {shown}");
        client.kill("a");
        client.exited("a");
    }
    client.finish();
}

#[apply(test)]
fn a_zombie_is_shown_as_what_it_is() {
    let mut client = Client::in_process();
    // The shell becomes a program that does not wait for the child that it had. The child ends only then, so
    // that the shell does not reap it.
    let child = "until grep -q sleep /proc/$$/comm; do :; done";
    let script = format!("({child}) & echo ready; exec sleep 1000");
    client.spawn_ready(Mode::Pipe.params("a", &["sh", "-c", &script]));
    let shown = settles(&mut client, "a", "the child has ended", |now| {
        now["processes"][1]["state"] == "Z" && now["processes"][0]["command"] == json!(["sleep", "1000"])
    });
    let child = &shown["processes"][1];
    assert_eq!(child["rssBytes"], Value::Null, "{child}");
    let name = child["command"][0].as_str().expect("a name");
    assert!(["[sh]", "[dash]"].contains(&name), "{child}");
    assert_eq!(shown["waitsForInput"], false, "{shown}");
    client.kill("a");
    client.exited("a");
    client.finish();
}

#[apply(test)]
fn the_terminal_is_shown_as_it_is_now() {
    let mut client = Client::in_process();
    let mut params = Mode::Tty.params("a", &["sh", "-c", "stty raw; echo ready; cat"]);
    params["size"] = json!({"rows": 30, "cols": 100});
    client.spawn_ready(params);
    let shown = waits(&mut client, "a", &json!(true));
    let terminal = json!({"canonical": false, "echo": true, "rows": 30, "cols": 100});
    assert_eq!(shown["terminal"], terminal);
    let size = json!({"rows": 50, "cols": 132});
    client.call("process/resizePty", json!({"processHandle": "a", "size": size}));
    let shown = inspect(&mut client, "a");
    assert_eq!(
        (&shown["terminal"]["rows"], &shown["terminal"]["cols"]),
        (&json!(50), &json!(132))
    );
    client.kill("a");
    client.exited("a");
    client.finish();
}

#[apply(test)]
fn a_long_command_is_cut_and_arguments_stay_apart() {
    let mut client = Client::in_process();
    let command = |handle: &str, arguments: &[&str], client: &mut Client| {
        let arguments = [&["sh", "-c", "echo ready; read line", "sh"], arguments].concat();
        client.spawn_ready(Mode::Pipe.params(handle, &arguments));
        let shown = inspect(client, handle)["processes"][0]["command"].clone();
        let shown: Vec<String> = serde_json::from_value(shown).expect("arguments");
        client.kill(handle);
        client.exited(handle);
        shown[4..].to_vec()
    };
    assert_eq!(
        command("a", &["", "two words", "", "ü\n"], &mut client),
        ["", "two words", "", "ü\n"]
    );
    // Of 1,024 bytes, those before take some.
    let before = "sh\0-c\0echo ready; read line\0sh\0".len();
    let fits = "x".repeat(1024 - before - 1);
    assert_eq!(command("b", &[&fits], &mut client), std::slice::from_ref(&fits));
    let more = format!("{fits}y");
    assert_eq!(command("c", &[&more], &mut client), [format!("{more}…")]);
    assert_eq!(command("d", &[&fits, "z"], &mut client), [format!("{fits}…")]);
    // A character is not split.
    let wide = format!("{}{}", &fits[..fits.len() - 1], "ü".repeat(9));
    assert_eq!(
        command("e", &[&wide], &mut client),
        [format!("{}ü…", &fits[..fits.len() - 1])]
    );
    client.finish();
}

#[apply(test)]
fn a_name_of_any_bytes_is_text() {
    let mut client = Client::in_process();
    client.spawn_ready(Mode::Pipe.params(
        "a",
        &[
            "bash",
            "-c",
            "exec -a $'a\\xff) Z 1 (b' sh -c 'echo ready; cat; true'",
        ],
    ));
    let shown = waits(&mut client, "a", &json!(true));
    assert_eq!(
        shown["processes"][0]["command"][0], "a\u{fffd}) Z 1 (b",
        "{shown}"
    );
    client.kill("a");
    client.exited("a");
    client.finish();
}

#[apply(test)]
fn more_processes_than_an_answer_has_are_counted() {
    let mut client = Client::in_process();
    let pid = spawn_waiting(&mut client, Mode::Pipe, "a", "children-1010");
    let shown = settles(&mut client, "a", "all have been started", |now| {
        now["processesOmitted"] == 11
    });
    let processes = shown["processes"].as_array().expect("a list");
    assert_eq!((processes.len(), &processes[0]["pid"]), (1000, &json!(pid)));
    assert_eq!(shown["waitsForInput"], true, "{}", shown["waitsForInput"]);
    client.kill("a");
    client.exited("a");
    client.finish();
}

/// A server that a shell script runs as `"$@"`.
fn server_in(script: &str) -> Client {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(binary().get_program());
    command.process_group(0);
    Client::command(command)
}

fn guarantees(client: &mut Client) -> Value {
    let params = json!({"clientInfo": {"name": "test"}});
    client.call("initialize", params)["guarantees"].clone()
}

#[apply(test)]
fn a_program_that_may_not_be_looked_at_is_not_known() {
    let enter = "exec setpriv --reuid=65534 --regid=65534 --clear-groups";
    if !can("another user", &format!("{enter} true")) {
        return;
    }
    let mut client = server_in(&format!("{enter} \"$@\""));
    for mode in [Mode::Pipe, Mode::Tty] {
        let pid = spawn_waiting(&mut client, mode, "a", "hidden");
        let shown = settles(&mut client, "a", "it sleeps", |now| {
            now["processes"][0]["state"] == "S"
        });
        assert_eq!(shown["waitsForInput"], Value::Null, "{shown}");
        assert_eq!(shown["processes"][0]["pid"], pid);
        client.kill("a");
        client.exited("a");
        // One beside it that may be looked at, and reads.
        let hidden = waiting_in("hidden");
        let script = format!("'{}' {} {} <&0 & cat", hidden[0], hidden[1], hidden[2]);
        client.spawn_ready(mode.params("b", &["sh", "-c", &script]));
        waits(&mut client, "b", &json!(true));
        client.kill("b");
        client.exited("b");
    }
    client.finish();
}

/// A program of 32 bits, by hand: reads a byte from stdin with system call 3, which is another one here.
#[cfg(target_arch = "x86_64")]
fn program_of_32_bits() -> Vec<u8> {
    let code: &[u8] = &[
        0x6a, 0x03, 0x58, // push 3; pop eax: read
        0x31, 0xdb, // xor ebx, ebx
        0x89, 0xe1, // mov ecx, esp
        0x6a, 0x01, 0x5a, // push 1; pop edx
        0xcd, 0x80, // int 0x80
        0x6a, 0x01, 0x58, // push 1; pop eax: exit
        0xcd, 0x80,
    ];
    let base = 0x0804_8000_u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    };
    let word = |file: &mut Vec<u8>, values: &[u32]| {
        values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    };
    half(&mut file, &[2, 3]);
    word(&mut file, &[1, base + 84, 52, 0, 0]);
    half(&mut file, &[52, 32, 1, 40, 0, 0]);
    let length = 84 + code.len() as u32;
    word(&mut file, &[1, 0, base, base, length, length, 5, 0x1000]);
    file.extend(code);
    file
}

#[cfg(not(target_arch = "x86_64"))]
#[apply(test)]
fn a_program_of_32_bits_is_not_known() {
    println!("not run: this machine has no programs of 32 bits");
}

#[cfg(target_arch = "x86_64")]
#[apply(test)]
fn a_program_of_32_bits_is_not_known() {
    let scratch = Scratch::new();
    let program = scratch.file("short", 0o755, program_of_32_bits());
    let mut client = Client::in_process();
    let id = client.request("process/spawn", Mode::Pipe.params("a", &[&program]));
    if let Some(error) = client.response(id).get("error") {
        println!("not run: this kernel runs no programs of 32 bits: {error}");
        client.finish();
        return;
    }
    waits(&mut client, "a", &Value::Null);
    client.kill("a");
    client.exited("a");
    client.finish();
}

#[apply(test)]
fn it_waits_for_the_spawn_before_it() {
    let mut client = Client::in_process();
    let spawn = client.request("process/spawn", Mode::Pipe.params("a", &["cat"]));
    let inspect = client.request("process/inspect", json!({"processHandle": "a"}));
    let shown = client.result(inspect);
    assert_eq!(client.result(spawn)["pid"], shown["pid"]);
    assert_eq!(shown["processes"][0]["pid"], shown["pid"]);
    let spawn = client.request("process/spawn", Mode::Pipe.params("b", &["/nowhere"]));
    let inspect = client.request("process/inspect", json!({"processHandle": "b"}));
    assert_eq!(client.error(spawn).0, -32603);
    assert_eq!(client.error(inspect).0, -32600);
    client.finish();
}

#[apply(test)]
fn unknown_handles_and_malformed_params_are_refused() {
    let mut client = Client::in_process();
    let refused = client.refuse("process/inspect", json!({"processHandle": "a"}));
    assert_eq!(
        refused,
        (-32600, "no active process for process handle \"a\"".to_owned())
    );
    for params in [
        json!({}),
        json!({"processHandle": 1}),
        json!([]),
        json!({"processHandle": "x".repeat(4097)}),
    ] {
        assert_eq!(
            client.refuse("process/inspect", params.clone()).0,
            -32602,
            "{params}"
        );
    }
    client.finish();
}

#[apply(test)]
fn every_request_is_answered_however_many_there_are() {
    let mut client = Client::in_process();
    client.spawn(Mode::Pipe.params("a", &["cat"]));
    let requests: Vec<i64> = (0..times(1000))
        .map(|_| client.request("process/inspect", json!({"processHandle": "a"})))
        .collect();
    for request in requests {
        assert_eq!(client.result(request)["processes"][0]["command"], json!(["cat"]));
    }
    client.kill("a");
    client.exited("a");
    client.finish();
}

/// What is asked in between is answered in between.
#[apply(test)]
fn a_thousand_do_not_delay_another_program() {
    let mut client = Client::in_process();
    let busy = 8;
    for handle in 0..busy {
        client.spawn(Mode::Tty.params(&handle.to_string(), &["sh"]));
    }
    client.spawn(Mode::Pipe.params("echo", &["cat"]));
    let mut pending = Vec::new();
    for round in 0..times(1000) {
        let handle = (round % busy).to_string();
        pending.push(client.request("process/inspect", json!({"processHandle": handle})));
        if round % 50 == 0 {
            let id = client.write("echo", b"x");
            client.result(id);
            assert_eq!(client.delta("echo").0, b"x");
        }
    }
    for request in pending {
        assert!(client.result(request)["processes"][0]["pid"].is_u64());
    }
    client.finish();
}

#[apply(both)]
fn behind_the_exit_it_is_answered(mode: Mode) {
    let mut client = Client::in_process();
    for round in 0..times(50) {
        client.spawn(mode.params("a", &["true"]));
        let requests: Vec<i64> = (0..20)
            .map(|_| client.request("process/inspect", json!({"processHandle": "a"})))
            .collect();
        for request in requests {
            let response = client.response(request);
            let shown = response["result"]["processes"].is_array();
            assert!(
                shown || response["error"]["code"] == -32600,
                "{round}: {response}"
            );
        }
        client.exited("a");
    }
    // Together with a kill it was there, and so it is shown.
    client.spawn(mode.params("a", &["cat"]));
    let inspect = client.request("process/inspect", json!({"processHandle": "a"}));
    client.kill("a");
    assert!(client.result(inspect)["processes"].is_array());
    client.exited("a");
    client.finish();
}

/// A file whose content never comes, of a FUSE server that does not answer reads.
struct SilentFile {
    file: Option<std::fs::File>,
    stop: Option<std::io::PipeWriter>,
    server: Option<std::thread::JoinHandle<()>>,
}

impl SilentFile {
    /// `None` where this user may not have one, which is said.
    fn new(scratch: &Scratch) -> Option<SilentFile> {
        let mounted = scratch.directory("silent");
        let target = CString::new(mounted.as_str()).expect("a path");
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
        let made = device.and_then(|device| {
            let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
            let data = CString::new(data)?;
            // SAFETY: all of these end in NUL.
            let result = unsafe {
                libc::mount(
                    c"silent".as_ptr(),
                    target.as_ptr(),
                    c"fuse".as_ptr(),
                    libc::MS_NOSUID | libc::MS_NODEV,
                    data.as_ptr().cast(),
                )
            };
            match result {
                0 => Ok(device),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
        let device = match made {
            Ok(device) => device,
            Err(e) => {
                println!("not run: no file system can be mounted here: {e}");
                return None;
            }
        };
        let (stopped, stop) = std::io::pipe().expect("a pipe");
        let server = std::thread::spawn(move || Self::serve(device, &stopped));
        let file = std::fs::File::open(format!("{mounted}/file"));
        // Nothing of it is left in the tree of files, however this test ends.
        // SAFETY: a path that ends in NUL.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        Some(SilentFile {
            file: Some(file.expect("it is there")),
            stop: Some(stop),
            server: Some(server),
        })
    }

    /// Where another process finds it.
    fn path(&self) -> String {
        let file = self.file.as_ref().expect("it is open");
        format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
    }

    /// Answers until it is stopped. The numbers are those of <linux/fuse.h>.
    fn serve(mut device: std::fs::File, stopped: &std::io::PipeReader) {
        let words = |values: &[u32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_ne_bytes()).collect() };
        let attributes = |node: u64| -> Vec<u8> {
            let mode = if node == 1 { 0o040_755 } else { 0o100_644 };
            let numbers = [node, 4096, 8, 0, 0, 0];
            let mut bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_ne_bytes()).collect();
            bytes.extend(words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]));
            bytes
        };
        let mut request = vec![0; 1 << 20];
        loop {
            let mut polled = [device.as_raw_fd(), stopped.as_raw_fd()].map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            });
            // SAFETY: the list is as long as is said.
            unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) };
            if polled[1].revents != 0 {
                // Without a server, whatever waits for a page gets an error.
                return;
            }
            let Ok(length) = device.read(&mut request) else {
                return;
            };
            let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four bytes"));
            let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().expect("eight bytes"));
            let (operation, unique, node) = (word(4), long(8), long(16));
            let (error, body) = match operation {
                // Lookup, and what is asked of a node.
                1 if request[40..length].starts_with(b"file\0") => {
                    let mut body: Vec<u8> = [2_u64, 0, 60, 60].iter().flat_map(|v| v.to_ne_bytes()).collect();
                    body.extend(words(&[0, 0]));
                    body.extend(attributes(2));
                    (0, body)
                }
                3 => {
                    let mut body = 60_u64.to_ne_bytes().to_vec();
                    body.extend(words(&[0, 0]));
                    body.extend(attributes(node));
                    (0, body)
                }
                // Forgetting has no answer, and reading gets none.
                2 | 15 | 42 => continue,
                14 => (0, vec![0; 16]),
                26 => {
                    let mut body = words(&[7, 31, 0, 0, 0, 4096, 1]);
                    body.resize(64, 0);
                    (0, body)
                }
                _ => (-libc::ENOSYS, Vec::new()),
            };
            let mut answer = words(&[16 + body.len() as u32, error.cast_unsigned()]);
            answer.extend(unique.to_ne_bytes());
            answer.extend(body);
            let _ = device.write_all(&answer);
        }
    }
}

impl Drop for SilentFile {
    fn drop(&mut self) {
        self.stop = None;
        let server = self.server.take().expect("it is joined once");
        server.join().expect("it does not panic");
        self.file = None;
    }
}

#[apply(test)]
fn a_process_that_does_not_let_go_of_its_memory_delays_nothing() {
    let scratch = Scratch::new();
    let Some(silent) = SilentFile::new(&scratch) else {
        return;
    };
    // Not in this process: its end must not wait for what only its end lets go on.
    let mut client = Client::binary(&[]);
    client.spawn(Mode::Pipe.params("echo", &["cat"]));
    let mut command = waiting_in("memory");
    command.push(silent.path());
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let pid = client.spawn_ready(Mode::Pipe.params("silent", &command));
    wait_until("it reads", || Proc::of(pid).is_some_and(|p| p.state == "S"));
    // Its memory is not waited for.
    for _ in 0..10 {
        let shown = inspect(&mut client, "silent");
        assert_eq!(shown["waitsForInput"], Value::Null, "{shown}");
        let process = &shown["processes"][0];
        assert_eq!(
            (&process["pid"], &process["command"], &process["state"]),
            (&json!(pid), &json!(command), &json!("S")),
            "{shown}"
        );
    }
    let server = children_of(client.pid());
    let threads = || -> Vec<Proc> {
        let tasks = server.iter().flat_map(|server| {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid)).expect("it is there");
            tasks.flatten()
        });
        tasks
            .filter_map(|task| Proc::parse(&std::fs::read_to_string(task.path().join("stat")).ok()?))
            .collect()
    };
    wait_until("no thread is left that looks", || {
        threads().iter().all(|thread| thread.name != "inspect")
    });
    // Neither does a kill wait, nor another program.
    let id = client.write("echo", b"x");
    client.result(id);
    assert_eq!(client.delta("echo").0, b"x");
    client.kill("silent");
    // The kernel may hold what is killed until the file answers.
    drop(silent);
    client.exited("silent");
    client.finish();
}

#[apply(test)]
fn with_descriptors_used_up_it_still_tells() {
    let mut client = Client::in_process();
    for mode in [Mode::Pipe, Mode::Tty] {
        client.spawn(mode.params("a", &["cat"]));
        waits(&mut client, "a", &json!(true));
        let mut taken = Vec::new();
        // SAFETY: zero is a limit; plain calls.
        let limit = unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
            let low = libc::rlimit {
                rlim_cur: 64.min(limit.rlim_max),
                ..limit
            };
            libc::setrlimit(libc::RLIMIT_NOFILE, &low);
            limit
        };
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        let shown = inspect(&mut client, "a");
        drop(taken);
        // SAFETY: as it was.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        assert_eq!(shown["waitsForInput"], true, "{shown}");
        assert_eq!(shown["processes"][0]["command"], json!(["cat"]), "{shown}");
        client.kill("a");
        client.exited("a");
    }
    client.finish();
}

#[apply(test)]
fn without_a_usable_proc_nothing_is_made_up() {
    let scratch = Scratch::new();
    for (what, hide) in without_a_usable_proc(&scratch) {
        let mut client = server_in(&format!(
            "exec unshare -m sh -c '{hide}; exec \"$@\"' sh \"$@\" 2>/dev/null"
        ));
        let guarantees = guarantees(&mut client);
        let expected = json!({
            "killsTree": false,
            "killsDaemonsAtEnd": true,
            "survivesServerKill": true,
            "inspect": false,
            "limits": true,
        });
        assert_eq!(guarantees, expected, "{what}");
        for mode in [Mode::Pipe, Mode::Tty] {
            let pid = client.spawn_ready(mode.params("a", &["sh", "-c", "echo ready; exec cat"]));
            let shown = inspect(&mut client, "a");
            assert_eq!(shown["waitsForInput"], Value::Null, "{what}: {shown}");
            let process = json!({
                "pid": pid,
                "parentPid": null,
                "command": null,
                "state": null,
                "threads": null,
                "cpuMs": null,
                "rssBytes": null,
            });
            assert_eq!(shown["processes"], json!([process]), "{what}");
            let (terminal, foreground) = match mode {
                Mode::Pipe => (Value::Null, Value::Null),
                // The terminal itself shows these.
                Mode::Tty => (
                    json!({"canonical": true, "echo": true, "rows": 24, "cols": 80}),
                    json!({"pid": pid, "command": null}),
                ),
            };
            assert_eq!(
                (&shown["terminal"], &shown["foreground"]),
                (&terminal, &foreground)
            );
            client.kill("a");
            client.exited("a");
        }
        client.finish();
    }
}

#[apply(test)]
fn in_an_inner_namespace_with_the_outer_proc_its_own_numbers_are_told() {
    if !can("an outer /proc", "unshare --pid --fork true") {
        return;
    }
    let mut client = server_in("exec unshare --pid --fork \"$@\"");
    assert_eq!(guarantees(&mut client)["inspect"], true);
    for mode in [Mode::Pipe, Mode::Tty] {
        let pid = client.spawn(mode.params("a", &["cat"]));
        let shown = waits(&mut client, "a", &json!(true));
        assert_eq!(shown["processes"][0]["pid"], pid, "{shown}");
        assert!(pid < 1000, "a number of the inner namespace: {pid}");
        assert_eq!(shown["processes"][0]["command"], json!(["cat"]));
        if mode == Mode::Tty {
            assert_eq!(shown["foreground"], json!({"pid": pid, "command": ["cat"]}));
        }
        client.kill("a");
        client.exited("a");
    }
    client.finish();
}

#[apply(test)]
fn an_embedded_server_guarantees_what_it_can() {
    let mut client = Client::in_process();
    let expected = json!({
        "killsTree": true,
        "killsDaemonsAtEnd": false,
        "survivesServerKill": false,
        "inspect": true,
        "limits": true,
    });
    assert_eq!(guarantees(&mut client), expected);
    client.finish();
}

#[apply(test)]
fn the_binary_guarantees_more_than_the_library() {
    let expected = |survives: bool| {
        json!({
            "killsTree": true,
            "killsDaemonsAtEnd": true,
            "survivesServerKill": survives,
            "inspect": true,
            "limits": true,
        })
    };
    let mut client = Client::binary(&[]);
    assert_eq!(guarantees(&mut client), expected(true));
    client.finish();
}

#[apply(test)]
fn the_rust_client_inspects() {
    use procwire::client::{Client, Command, Error};
    let client = Client::in_process(procwire::Config::default()).expect("a server");
    let guarantees = client.guarantees();
    assert!(guarantees.kills_tree && guarantees.inspect && !guarantees.survives_server_kill);
    let mut process = client.spawn(Command::new("cat").tty(24, 80)).expect("cat runs");
    let control = process.control();
    wait_until("cat waits", || {
        let shown = control.inspect().expect("it is there");
        let terminal = shown.terminal.expect("it has one");
        assert_eq!((terminal.rows, terminal.cols), (24, 80));
        shown.waits_for_input == Some(true)
    });
    process.kill().expect("it is killed");
    process.wait().expect("it has ended");
    assert!(matches!(control.inspect(), Err(Error::Refused(_))));
    client.close().expect("the server ends");
}
