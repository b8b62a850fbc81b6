//! `process/spawn`: what starts a program, and what is refused.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Mode, PATIENCE, Scratch, apply, binary, both, children_of, is_alive, test, wait_until,
};
use serde_json::{Value, json};

/// Sends a spawn that the machine must refuse and checks the whole error: code, data, and a message that
/// begins as clients know it, names what it is about, of a long name the beginning, and says what the system
/// said.
pub fn refused(client: &mut Client, params: Value, stage: &str, errno: i32, about: &str) {
    let shortened = |text: &str| match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    };
    let program = shortened(params["command"][0].as_str().expect("a program"));
    let about = shortened(about);
    let id = client.request("process/spawn", params);
    let response = client.response(id);
    let error = &response["error"];
    let code = match errno {
        libc::ENOENT => "ENOENT",
        libc::EACCES => "EACCES",
        libc::ENOTDIR => "ENOTDIR",
        libc::ELOOP => "ELOOP",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::E2BIG => "E2BIG",
        libc::ETXTBSY => "ETXTBSY",
        libc::ENOEXEC => "ENOEXEC",
        libc::EMFILE => "EMFILE",
        libc::EISDIR => "EISDIR",
        other => panic!("no name for {other} in this test"),
    };
    assert_eq!(error["code"], -32603, "{response}");
    assert_eq!(
        error["data"],
        json!({"errno": errno, "code": code, "stage": stage, "program": program})
    );
    let message = error["message"].as_str().expect("an error has a message");
    assert!(message.starts_with("failed to spawn process: "), "{message}");
    assert!(message.contains(&about), "{message} does not name {about}");
    let reason = std::io::Error::from_raw_os_error(errno).to_string();
    assert!(message.ends_with(&reason), "{message} does not say {reason}");
}

/// The handle `a` is free and the server serves, and nothing more is said about what was refused.
pub fn still_serves(mut client: Client, mode: Mode) {
    client.spawn(mode.params("a", &["echo", "hi"]));
    let (stdout, stderr, exited) = client.streamed("a");
    assert_eq!(String::from_utf8_lossy(&stdout), mode.printed("hi\n"));
    assert_eq!(stderr, b"");
    assert_eq!(exited["exitCode"], 0);
    silent_to_the_end(client);
}

/// Ends the connection; the server has nothing to say that the test has not asked for.
pub fn silent_to_the_end(client: Client) {
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:#?}");
}

/// The answer comes first, then the exit, every time.
#[apply(test)]
fn answered_before_exit() {
    let mut client = Client::in_process();
    for i in 0..crate::harness::times(200) {
        let handle = format!("h{i}");
        let id = client.request(
            "process/spawn",
            json!({"command": ["/bin/true"], "processHandle": handle}),
        );
        let exited = client.exited(&handle);
        assert!(client.is_answered(id), "the exit came before the answer");
        assert_eq!(client.result(id)["pid"], exited["pid"]);
        assert_eq!(exited["exitCode"], 0);
    }
    client.finish();
}

#[apply(test)]
fn answer_is_the_pid_and_nothing_else() {
    let mut client = Client::in_process();
    let result = client.call(
        "process/spawn",
        json!({"command": ["sh", "-c", "echo $$"], "processHandle": "a"}),
    );
    let exited = client.exited("a");
    let own = exited["stdout"].as_str().expect("text").trim().parse::<u32>();
    assert_eq!(result, json!({"pid": own.expect("the shell prints its pid")}));
    silent_to_the_end(client);
}

// ---- what the machine refuses ----

#[apply(both)]
fn missing_program_is_an_error_and_frees_the_handle(mode: Mode) {
    let mut client = Client::in_process();
    for program in ["/nonexistent/program", "./nonexistent"] {
        refused(
            &mut client,
            mode.params("a", &[program]),
            "exec",
            libc::ENOENT,
            program,
        );
    }
    let name = "no-program-has-this-name";
    let mut params = mode.params("a", &[name]);
    // Of directories that every user may search.
    params["env"] = json!({"PATH": "/bin:/usr/bin"});
    refused(&mut client, params, "lookup", libc::ENOENT, name);
    // A file is not a directory on the way to a program.
    refused(
        &mut client,
        mode.params("a", &["/dev/null/x"]),
        "exec",
        libc::ENOTDIR,
        "/dev/null/x",
    );
    assert!(children_of(std::process::id()).is_empty(), "nothing was started");
    still_serves(client, mode);
}

#[apply(both)]
fn file_without_execute_permission_is_an_error(mode: Mode) {
    let scratch = Scratch::new();
    let file = scratch.file("plain", 0o644, "#!/bin/sh\necho ran\n");
    let mut client = Client::in_process();
    refused(
        &mut client,
        mode.params("a", &[&file]),
        "exec",
        libc::EACCES,
        &file,
    );
    still_serves(client, mode);
}

#[apply(both)]
fn directory_is_not_a_program(mode: Mode) {
    let mut client = Client::in_process();
    refused(
        &mut client,
        mode.params("a", &["/tmp"]),
        "exec",
        libc::EACCES,
        "/tmp",
    );
    assert!(children_of(std::process::id()).is_empty(), "nothing was started");
    still_serves(client, mode);
}

/// A script whose interpreter is missing is refused, in a terminal as well, and nothing is printed there.
#[apply(both)]
fn missing_interpreter_is_an_error(mode: Mode) {
    let scratch = Scratch::new();
    let script = scratch.file("script", 0o755, "#!/nonexistent/interpreter\n");
    let mut client = Client::in_process();
    refused(
        &mut client,
        mode.params("a", &[&script]),
        "exec",
        libc::ENOENT,
        &script,
    );
    assert!(children_of(std::process::id()).is_empty(), "nothing was started");
    still_serves(client, mode);
}

/// As `execvp` does it: the shell gets the path it was found at, and the arguments after it.
#[apply(both)]
fn text_without_interpreter_line_runs_in_the_shell(mode: Mode) {
    let scratch = Scratch::new();
    let script = scratch.file("script", 0o755, "echo \"$0|$#|$1|$2\"\nexit 3\n");
    let empty = scratch.file("empty", 0o755, "");
    // A path that a shell could take for an option.
    scratch.directory("-e");
    scratch.file("-e/script", 0o755, "echo \"$0\"\n");
    let mut client = Client::in_process();

    client.spawn(mode.params("a", &[&script, "one two", ""]));
    let (stdout, _, exited) = client.streamed("a");
    let expected = mode.printed(&format!("{script}|2|one two|\n"));
    assert_eq!(String::from_utf8_lossy(&stdout), expected);
    assert_eq!(exited["exitCode"], 3);

    client.spawn(mode.params("a", &[&empty]));
    let (stdout, stderr, exited) = client.streamed("a");
    assert_eq!((stdout, stderr), (vec![], vec![]));
    assert_eq!(exited["exitCode"], 0);

    let mut params = mode.params("a", &["-e/script"]);
    params["cwd"] = json!(scratch.path(""));
    client.spawn(params);
    let (stdout, _, exited) = client.streamed("a");
    assert_eq!(String::from_utf8_lossy(&stdout), mode.printed("-e/script\n"));
    assert_eq!(exited["exitCode"], 0);
    still_serves(client, mode);
}

/// The shell would take its bytes for commands, and its exit code for the program's.
#[apply(both)]
fn binary_of_another_machine_is_not_given_to_the_shell(mode: Mode) {
    let scratch = Scratch::new();
    let commands = b"\n echo hello > created\n";
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(18, 0);
    // A machine that does not exist.
    elf.extend(0x7e57u16.to_le_bytes());
    elf.resize(64, 0);
    let mach_o = b"\xcf\xfa\xed\xfe\x07\0\0\x01".to_vec();
    let class = b"\xca\xfe\xba\xbe\0\0\0\x34".to_vec();
    let windows = b"MZ\x90\0\x03\0\0\0".to_vec();
    let short = b"\x7fELF".to_vec();
    let mut client = Client::in_process();
    for (name, mut content) in [
        ("elf", elf),
        ("mach-o", mach_o),
        ("class", class),
        ("windows", windows),
        ("short", short),
    ] {
        content.extend(commands);
        let path = scratch.file(name, 0o755, content);
        let mut params = mode.params("a", &[&path]);
        params["cwd"] = json!(scratch.path(""));
        refused(&mut client, params, "exec", libc::ENOEXEC, &path);
        // The same as a name on the PATH.
        let mut params = mode.params("a", &[name]);
        params["cwd"] = json!(scratch.path(""));
        params["env"] = json!({"PATH": "."});
        refused(&mut client, params, "exec", libc::ENOEXEC, name);
    }
    assert!(!std::path::Path::new(&scratch.path("created")).exists());

    // A payload after the commands makes no binary.
    let archive = scratch.file("archive", 0o755, b"echo unpacked\nexit 3\n\0\0\0payload");
    client.spawn(mode.params("a", &[&archive]));
    let (stdout, _, exited) = client.streamed("a");
    assert_eq!(String::from_utf8_lossy(&stdout), mode.printed("unpacked\n"));
    assert_eq!(exited["exitCode"], 3);
    still_serves(client, mode);
}

/// The kernel takes 131,072 bytes a string, its NUL included.
#[apply(both)]
fn one_argument_of_the_kernels_limit_passes_and_one_byte_more_is_an_error(mode: Mode) {
    const LONGEST: usize = 131_071;
    let longest = "x".repeat(LONGEST);
    let longer = "x".repeat(LONGEST + 1);
    let count = ["sh", "-c", "echo ${#1}", "sh"];
    let mut client = Client::in_process();

    client.spawn(mode.params("a", &[&count[..], &[&longest]].concat()));
    let (stdout, _, _) = client.streamed("a");
    assert_eq!(String::from_utf8_lossy(&stdout), mode.printed("131071\n"));
    refused(
        &mut client,
        mode.params("a", &[&count[..], &[&longer]].concat()),
        "exec",
        libc::E2BIG,
        "sh",
    );

    let variable = |value: &str| {
        let mut params = mode.params("a", &["sh", "-c", "echo ${#V}"]);
        params["env"] = json!({"V": value});
        params
    };
    client.spawn(variable(&longest[2..]));
    let (stdout, _, _) = client.streamed("a");
    assert_eq!(String::from_utf8_lossy(&stdout), mode.printed("131069\n"));
    refused(&mut client, variable(&longest[1..]), "exec", libc::E2BIG, "sh");
    still_serves(client, mode);
}

/// Together they may take a quarter of the stack's limit, and never more than 6 MiB.
#[apply(both)]
fn too_many_arguments_are_an_error(mode: Mode) {
    let argument = "x".repeat(100_000);
    let of = |count: usize| {
        let mut command = vec!["sh", "-c", "echo $#", "sh"];
        command.resize(command.len() + count, &argument);
        mode.params("a", &command)
    };
    let mut client = Client::in_process();
    client.spawn(of(10));
    let (stdout, _, _) = client.streamed("a");
    assert_eq!(String::from_utf8_lossy(&stdout), mode.printed("10\n"));
    refused(&mut client, of(70), "exec", libc::E2BIG, "sh");
    still_serves(client, mode);
}

/// The kernel executes nothing that is open for writing. That is waited out, but not for long.
#[apply(both)]
fn program_held_open_for_writing_is_an_error_in_a_second(mode: Mode) {
    let scratch = Scratch::new();
    let script = scratch.file("script", 0o755, "#!/bin/sh\n");
    let held = std::fs::OpenOptions::new().append(true).open(&script);
    let held = held.expect("the file is ours");
    let mut client = Client::in_process();
    let began = Instant::now();
    refused(
        &mut client,
        mode.params("a", &[&script]),
        "exec",
        libc::ETXTBSY,
        &script,
    );
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    drop(held);
    client.spawn(mode.params("a", &[&script]));
    assert_eq!(client.streamed("a").2["exitCode"], 0);
    still_serves(client, mode);
}

/// Spawns `count` programs that are held open, and checks that `work` is done while they are waited for.
/// A server waits half a second for each. An attempt in which this machine needs as long for `work`
/// shows nothing, and is made again.
fn meanwhile(client: &mut Client, count: usize, script: &str, mut work: impl FnMut(&mut Client)) {
    for attempt in 0..100 {
        let sent = Instant::now();
        let busy: Vec<i64> = (0..count)
            .map(|i| {
                client.request(
                    "process/spawn",
                    Mode::Pipe.params(&format!("busy {i}"), &[script]),
                )
            })
            .collect();
        work(client);
        let undisturbed = sent.elapsed() < Duration::from_millis(400);
        let waited = busy.iter().any(|id| client.is_answered(*id));
        for id in busy {
            assert_eq!(client.error(id).0, -32603);
        }
        if undisturbed {
            assert!(!waited, "the other handle waited, at attempt {attempt}");
            return;
        }
    }
    panic!("this machine is too busy to tell");
}

#[apply(test)]
fn program_held_open_delays_no_other_handle() {
    let scratch = Scratch::new();
    let script = scratch.file("script", 0o755, "#!/bin/sh\n");
    let held = std::fs::OpenOptions::new().append(true).open(&script);
    let held = held.expect("the file is ours");
    let mut client = Client::in_process();
    meanwhile(&mut client, 1, &script, |client| {
        assert_eq!(client.run(&["true"])["exitCode"], 0);
    });
    drop(held);
    silent_to_the_end(client);
}

/// More than there are slots for, at a server that has enough descriptors open to use them.
#[apply(test)]
fn many_programs_held_open_delay_no_other_handle() {
    let scratch = Scratch::new();
    let script = scratch.file("script", 0o755, "#!/bin/sh\n");
    let held = std::fs::OpenOptions::new().append(true).open(&script);
    let held = held.expect("the file is ours");
    let mut client = Client::in_process();
    for i in 0..20 {
        client.spawn(Mode::Pipe.params(&format!("live {i}"), &["cat"]));
    }
    meanwhile(&mut client, 20, &script, |client| {
        let exited = client.run(&["ls", "-l", "/proc/self/fd"]);
        let listed = exited["stdout"].as_str().expect("a list");
        let given = listed
            .lines()
            .filter(|l| l.contains("pipe:") || l.contains("/dev/null"));
        assert_eq!(given.count(), 3, "{listed}");
    });
    drop(held);
    for i in 0..20 {
        client.close_stdin(&format!("live {i}"));
        assert_eq!(client.exited(&format!("live {i}"))["exitCode"], 0);
    }
    silent_to_the_end(client);
}

#[apply(test)]
fn program_released_in_time_starts() {
    let scratch = Scratch::new();
    let script = scratch.file("script", 0o755, "#!/bin/sh\nexit 9\n");
    let mut client = Client::in_process();
    for _ in 0..crate::harness::times(10) {
        let held = std::fs::OpenOptions::new().append(true).open(&script);
        let held = held.expect("the file is ours");
        let id = client.request("process/spawn", Mode::Pipe.params("a", &[&script]));
        wait_until("it is being tried", || has_thread("proc-"));
        drop(held);
        client.result(id);
        assert_eq!(client.streamed("a").2["exitCode"], 9);
    }
    silent_to_the_end(client);
}

fn has_thread(prefix: &str) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").expect("/proc is mounted");
    threads.flatten().any(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm"));
        name.is_ok_and(|name| name.starts_with(prefix))
    })
}

/// A program that was written a moment ago starts, however many others are being started: none of
/// them holds it open.
#[apply(test)]
fn fresh_scripts_always_start() {
    let count = crate::harness::times(150);
    let scratch = Scratch::new();
    let other = std::thread::spawn(move || {
        let mut client = Client::in_process();
        for _ in 0..count / 10 {
            for i in 0..20 {
                client.request(
                    "process/spawn",
                    json!({"command": ["/bin/true"], "processHandle": format!("{i}")}),
                );
            }
            for i in 0..20 {
                assert_eq!(client.exited(&format!("{i}"))["exitCode"], 0);
            }
        }
        client.finish();
    });
    let mut client = Client::in_process();
    for i in 0..count {
        let script = scratch.file(&format!("{i}"), 0o755, format!("#!/bin/sh\nexit {}\n", i % 200));
        assert_eq!(client.run(&[&script])["exitCode"], i % 200);
    }
    other.join().expect("the other client's spawns succeed");
    silent_to_the_end(client);
}

#[apply(both)]
fn unusable_directories_are_errors(mode: Mode) {
    let scratch = Scratch::new();
    let file = scratch.file("file", 0o755, "");
    let missing = scratch.path("missing");
    let circle = scratch.path("circle");
    std::os::unix::fs::symlink(&circle, &circle).expect("a link");
    let dangling = scratch.path("dangling");
    std::os::unix::fs::symlink(&missing, &dangling).expect("a link");
    let below_file = format!("{file}/x");
    let long_name = format!("/{}", "x".repeat(256));
    let long_path = "/x".repeat(2_048);
    let mut client = Client::in_process();
    for (cwd, errno) in [
        (&missing, libc::ENOENT),
        (&dangling, libc::ENOENT),
        (&file, libc::ENOTDIR),
        (&below_file, libc::ENOTDIR),
        (&circle, libc::ELOOP),
        (&long_name, libc::ENAMETOOLONG),
        (&long_path, libc::ENAMETOOLONG),
    ] {
        let mut params = mode.params("a", &["touch", &scratch.path("ran")]);
        params["cwd"] = json!(cwd);
        refused(&mut client, params, "cwd", errno, cwd);
    }
    assert!(!std::path::Path::new(&scratch.path("ran")).exists());
    still_serves(client, mode);
}

#[apply(both)]
fn directory_without_permission_is_an_error(mode: Mode) {
    give_up_root_powers_over_files();
    let scratch = Scratch::new();
    let closed = scratch.directory("closed");
    let below = scratch.directory("closed/below");
    let script = scratch.file("closed/script", 0o755, "#!/bin/sh\nexit 6\n");
    set_mode(&closed, 0o644);
    let mut client = Client::in_process();
    for cwd in [&closed, &below] {
        let mut params = mode.params("a", &["true"]);
        params["cwd"] = json!(cwd);
        refused(&mut client, params, "cwd", libc::EACCES, cwd);
    }
    refused(
        &mut client,
        mode.params("a", &[&script]),
        "exec",
        libc::EACCES,
        &script,
    );
    // To be entered is all that is needed: it need not be listed.
    set_mode(&closed, 0o311);
    let mut params = mode.params("a", &["./script"]);
    params["cwd"] = json!(closed);
    client.spawn(params);
    assert_eq!(client.streamed("a").2["exitCode"], 6);
    set_mode(&closed, 0o755);
    still_serves(client, mode);
}

fn set_mode(path: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).expect("the file is ours");
}

/// Root may read and enter everything; this thread, and what it starts, no longer.
fn give_up_root_powers_over_files() {
    const VERSION_3: u32 = 0x2008_0522;
    const DAC_OVERRIDE_AND_READ_SEARCH: u32 = 1 << 1 | 1 << 2;
    let header = [VERSION_3, 0];
    // Effective, permitted and inheritable; the low halves, then the high ones.
    let mut sets = [0u32; 6];
    // SAFETY: the arrays have the layout of the two C structs of version 3, and live through the call.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    assert_eq!(got, 0, "capget");
    sets[0] &= !DAC_OVERRIDE_AND_READ_SEARCH;
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(set, 0, "capset");
}

/// No terminal can be opened, or no pipe: the error says which, and there are some again later.
#[apply(test)]
fn without_descriptors_the_error_names_the_step() {
    const ROOM: usize = 20;
    let mut client = Client::in_process();
    let limit = descriptor_limit();
    let lowest_free = std::fs::File::open("/dev/null")
        .expect("a descriptor")
        .as_raw_fd();
    set_descriptor_limit(lowest_free as u64 + ROOM as u64);
    let mut failed = Vec::new();
    let mut fillers = Vec::new();
    // Room for one descriptor less each time, until there is none.
    for _ in 0..=ROOM {
        for mode in [Mode::Pipe, Mode::Tty] {
            let id = client.request("process/spawn", mode.params("a", &["true"]));
            let response = client.response(id);
            if response["error"].is_null() {
                client.streamed("a");
                continue;
            }
            let error = &response["error"];
            assert_eq!(error["code"], -32603, "{response}");
            let data = &error["data"];
            assert_eq!(data["errno"], libc::EMFILE, "{response}");
            assert_eq!(
                (&data["code"], &data["program"]),
                (&json!("EMFILE"), &json!("true"))
            );
            failed.push((mode, data["stage"].as_str().expect("a stage").to_owned()));
        }
        fillers.extend(std::fs::File::open("/dev/null"));
    }
    drop(fillers);
    set_descriptor_limit(limit);
    for expected in [(Mode::Pipe, "pipe"), (Mode::Tty, "pty")] {
        let expected = (expected.0, expected.1.to_owned());
        assert!(failed.contains(&expected), "no {expected:?} in {failed:?}");
    }
    for mode in [Mode::Pipe, Mode::Tty] {
        client.spawn(mode.params("a", &["true"]));
        assert_eq!(client.streamed("a").2["exitCode"], 0);
    }
    silent_to_the_end(client);
}

fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct has room for the result.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(result, 0, "getrlimit");
    limit.rlim_cur
}

fn set_descriptor_limit(soft: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct has room for the result, and is filled when it is given back.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = soft;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
    };
    assert_eq!(result, 0, "setrlimit");
}

// ---- handles ----

#[apply(test)]
fn active_handle_is_refused_and_starts_nothing() {
    let scratch = Scratch::new();
    let mark = scratch.path("mark");
    let mut client = Client::in_process();
    let pid = client.spawn(Mode::Pipe.params("a", &["cat"]));
    for mode in [Mode::Pipe, Mode::Tty] {
        let (code, message) = client.refuse("process/spawn", mode.params("a", &["touch", &mark]));
        assert_eq!(code, -32600);
        assert_eq!(message, "duplicate active process handle: \"a\"");
    }
    // The first one is as it was.
    let write = client.write("a", b"still here\n");
    client.result(write);
    client.until("a", "still here\n");
    client.close_stdin("a");
    let (_, _, exited) = client.streamed("a");
    assert_eq!(
        (exited["pid"].as_u64(), exited["exitCode"].as_i64()),
        (Some(pid.into()), Some(0))
    );
    assert!(
        !std::path::Path::new(&mark).exists(),
        "the second one was started"
    );
    still_serves(client, Mode::Pipe);
}

#[apply(test)]
fn one_of_many_spawns_of_a_handle_wins() {
    let mut client = Client::in_process();
    let ids: Vec<i64> = (0..50)
        .map(|_| client.request("process/spawn", Mode::Pipe.params("a", &["cat"])))
        .collect();
    client.result(ids[0]);
    for id in &ids[1..] {
        assert_eq!(
            client.error(*id),
            (-32600, "duplicate active process handle: \"a\"".to_owned())
        );
    }
    assert_eq!(children_of(std::process::id()).len(), 1);
    client.close_stdin("a");
    assert_eq!(client.streamed("a").2["exitCode"], 0);
    silent_to_the_end(client);
}

/// Requests of one handle take effect in order: those after a spawn that fails find no process, and
/// the next spawn finds the handle free.
#[apply(test)]
fn failed_spawn_hands_the_handle_to_the_next_request() {
    let mut client = Client::in_process();
    for _ in 0..crate::harness::times(30) {
        let failed = client.request("process/spawn", Mode::Pipe.params("a", &["/nonexistent"]));
        let write = client.write("a", b"lost");
        let kill = client.request("process/kill", json!({"processHandle": "a"}));
        let second = client.request("process/spawn", Mode::Pipe.params("a", &["cat"]));
        let third = client.request("process/spawn", Mode::Pipe.params("a", &["cat"]));
        client.write("a", b"kept");
        client.close_stdin("a");
        let none = "no active process for process handle \"a\"".to_owned();
        assert_eq!(client.error(failed).0, -32603);
        assert_eq!(client.error(write), (-32600, none.clone()));
        assert_eq!(client.error(kill), (-32600, none));
        client.result(second);
        assert_eq!(client.error(third).0, -32600);
        assert_eq!(client.streamed("a").0, b"kept");
    }
    client.finish();
}

// ---- what is refused without asking the machine ----

#[apply(test)]
fn empty_names_are_invalid_requests() {
    let mut client = Client::in_process();
    for (params, message) in [
        (
            json!({"command": [], "processHandle": "a"}),
            "command must not be empty",
        ),
        (
            json!({"command": [""], "processHandle": "a"}),
            "command must not be empty: its first element is the program",
        ),
        (
            json!({"command": ["", "x"], "processHandle": "a", "tty": true}),
            "command must not be empty: its first element is the program",
        ),
        (
            json!({"command": ["true"], "processHandle": ""}),
            "processHandle must not be empty",
        ),
    ] {
        assert_eq!(
            client.refuse("process/spawn", params),
            (-32600, message.to_owned())
        );
    }
    still_serves(client, Mode::Pipe);
}

/// Each is refused with the params' own code and a message that names the member, and starts nothing.
#[apply(test)]
fn params_that_do_not_fit_are_invalid_params() {
    let mut client = Client::in_process();
    let mut cases: Vec<(&str, Value, &str)> = Vec::new();
    for command in [
        json!("true"),
        json!(null),
        json!({"0": "true"}),
        json!(["true", 1]),
        json!(["true", null]),
        json!(["true", ["x"]]),
        json!(["true", "a\0b"]),
        json!(["tr\0ue"]),
    ] {
        cases.push(("command", command, "command"));
    }
    for handle in [json!(1), json!(null), json!(["a"]), json!({})] {
        cases.push(("processHandle", handle, "processHandle"));
    }
    for cwd in ["", ".", "tmp", "./tmp", "../tmp", "~", "/tmp\0x"] {
        cases.push(("cwd", json!(cwd), "cwd"));
    }
    cases.push(("cwd", json!(1), "cwd"));
    for env in [
        json!({"": "x"}),
        json!({"": null}),
        json!({"A=B": "x"}),
        json!({"=A": "x"}),
        json!({"A=": null}),
        json!({"A\0B": "x"}),
        json!({"A": "x\0y"}),
        json!({"A": 1}),
        json!({"A": true}),
        json!({"A": ["x"]}),
        json!(["A=B"]),
        json!("A=B"),
    ] {
        cases.push(("env", env, "env"));
    }
    for flag in ["tty", "streamStdin", "streamStdoutStderr", "detach"] {
        for value in [json!("true"), json!(1), json!([])] {
            cases.push((flag, value, flag));
        }
    }
    for limit in ["timeoutMs", "outputBytesCap"] {
        for value in [
            json!(-1),
            json!(i64::MIN),
            json!(1.5),
            json!(1e30),
            json!("5"),
            json!(true),
            json!([5]),
            json!({}),
        ] {
            cases.push((limit, value, limit));
        }
    }
    for (member, value, named) in cases {
        let mut params = json!({"command": ["true"], "processHandle": "a"});
        params[member] = value;
        let (code, message) = client.refuse("process/spawn", params.clone());
        assert_eq!(code, -32602, "{params}: {message}");
        assert!(message.contains(named), "{params}: {message}");
    }

    // One more than an integer can be.
    client.send_raw(b"{\"id\":\"big\",\"method\":\"process/spawn\",\"params\":{\"command\":[\"true\"],\"processHandle\":\"a\",\"timeoutMs\":18446744073709551616}}\n");
    assert_eq!(client.response("big")["error"]["code"], -32602);

    // A size, with a terminal and without one.
    let good = json!({"rows": 24, "cols": 80});
    let params = json!({"command": ["true"], "processHandle": "a", "size": good});
    let (code, message) = client.refuse("process/spawn", params);
    assert_eq!(
        (code, message.as_str()),
        (-32602, "process/spawn: size requires tty: true")
    );
    for bad in [
        json!(0),
        json!(-1),
        json!(65536),
        json!(1.5),
        json!("24"),
        json!(null),
    ] {
        for member in ["rows", "cols"] {
            let mut size = good.clone();
            size[member] = bad.clone();
            let params = json!({"command": ["true"], "processHandle": "a", "tty": true, "size": size});
            let (code, message) = client.refuse("process/spawn", params);
            assert_eq!(code, -32602, "{size}: {message}");
            assert!(message.contains(member), "{size}: {message}");
        }
    }
    for size in [
        json!({"rows": 24}),
        json!({"cols": 80}),
        json!({}),
        json!([24, 80]),
        json!(24),
    ] {
        let params = json!({"command": ["true"], "processHandle": "a", "tty": true, "size": size});
        let (code, message) = client.refuse("process/spawn", params);
        assert_eq!(code, -32602, "{size}: {message}");
    }

    // What must be there.
    for (params, missing) in [
        (json!({"processHandle": "a"}), "command"),
        (json!({"command": ["true"]}), "processHandle"),
        (json!({}), ""),
        (json!([["true"], "a"]), "params must be an object"),
        (json!("true"), "params must be an object"),
    ] {
        let (code, message) = client.refuse("process/spawn", params);
        assert_eq!(code, -32602, "{message}");
        assert!(message.contains(missing), "{message}");
    }
    assert!(children_of(std::process::id()).is_empty(), "nothing was started");
    still_serves(client, Mode::Pipe);
}

#[apply(test)]
fn null_and_absent_are_the_same_where_the_protocol_says_so() {
    let mut client = Client::in_process();
    let exited = client.run_with(json!({
        "command": ["sh", "-c", "pwd -P; test -n \"$PATH\" && echo path"],
        "processHandle": "a",
        "cwd": null,
        "env": null,
        "size": null,
    }));
    let own = std::env::current_dir().expect("a working directory");
    assert_eq!(exited["stdout"], format!("{}\npath\n", own.display()));
    silent_to_the_end(client);
}

// ---- time ----

#[apply(both)]
fn timeouts_of_any_size_are_accepted(mode: Mode) {
    let mut client = Client::in_process();
    for timeout in [
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1_000_000_000_000u64),
        json!(null),
    ] {
        let mut params = mode.params("a", &["sh", "-c", "exit 5"]);
        params["timeoutMs"] = timeout;
        client.spawn(params);
        let (_, _, exited) = client.streamed("a");
        assert_eq!(
            (&exited["exitCode"], &exited["timedOut"]),
            (&json!(5), &json!(false))
        );
    }
    silent_to_the_end(client);
}

#[apply(both)]
fn timeout_of_zero_ends_it_at_once(mode: Mode) {
    let mut client = Client::in_process();
    for timeout in [0, 1] {
        let mut params = mode.params("a", &["sleep", "1000"]);
        params["timeoutMs"] = json!(timeout);
        let began = Instant::now();
        client.spawn(params);
        let (_, _, exited) = client.streamed("a");
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        assert_eq!(exited["exitCode"], 124);
        assert_eq!(exited["timedOut"], true);
        assert_eq!(exited["signal"], "SIGKILL");
    }
    silent_to_the_end(client);
}

#[apply(test)]
fn default_timeout_applies_only_where_it_is_left_out() {
    let config = procwire::Config::default().default_timeout(Duration::from_millis(50));
    let mut client = Client::in_process_with(config);
    let exited = client.run_with(json!({"command": ["sleep", "1000"], "processHandle": "a"}));
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"]),
        (&json!(124), &json!(true))
    );
    for timeout in [json!(null), json!(60_000)] {
        let exited =
            client.run_with(json!({"command": ["sleep", "0.2"], "processHandle": "a", "timeoutMs": timeout}));
        assert_eq!(
            (&exited["exitCode"], &exited["timedOut"]),
            (&json!(0), &json!(false))
        );
    }
    silent_to_the_end(client);
}

/// Ten seconds, a mebibyte a stream, and a terminal of 24 lines and 80 columns.
#[apply(test)]
fn defaults_are_those_of_the_protocol() {
    let mut client = Client::in_process();
    let result = client.call("initialize", json!({"clientInfo": {"name": "test"}}));
    let limits = &result["limits"];
    assert_eq!(limits["defaultTimeoutMs"], 10_000);
    assert_eq!(limits["defaultOutputBytesCap"], 1_048_576);
    assert_eq!(limits["defaultPtySize"], json!({"rows": 24, "cols": 80}));
    silent_to_the_end(client);
}

// ---- streams ----

#[apply(test)]
fn sizes_reach_the_terminal() {
    let mut client = Client::in_process();
    for (size, printed) in [
        (json!(null), "24 80\r\n"),
        (json!({"rows": 1, "cols": 1}), "1 1\r\n"),
        (json!({"rows": 50, "cols": 132}), "50 132\r\n"),
        (json!({"rows": 65535, "cols": 65535}), "65535 65535\r\n"),
    ] {
        let mut params = Mode::Tty.params("a", &["stty", "size"]);
        params["size"] = size;
        client.spawn(params);
        let (stdout, _, exited) = client.streamed("a");
        assert_eq!(String::from_utf8_lossy(&stdout), printed);
        assert_eq!(exited["exitCode"], 0);
    }
    silent_to_the_end(client);
}

#[apply(test)]
fn tty_implies_both_stream_flags() {
    let mut client = Client::in_process();
    client.spawn(json!({
        "command": ["sh", "-c", "echo out; echo err >&2; read line; echo \"got $line\""],
        "processHandle": "a",
        "tty": true,
        "streamStdin": false,
        "streamStdoutStderr": false,
    }));
    client.until("a", "out\r\nerr\r\n");
    let write = client.write("a", b"x\n");
    client.result(write);
    client.until("a", "got x\r\n");
    let (_, stderr, exited) = client.streamed("a");
    assert_eq!(stderr, b"");
    assert_eq!((&exited["stdout"], &exited["stderr"]), (&json!(""), &json!("")));
    silent_to_the_end(client);
}

#[apply(test)]
fn stdin_that_is_not_streamed_is_dev_null() {
    let mut client = Client::in_process();
    let exited = client.run(&["sh", "-c", "readlink /proc/self/fd/0; cat; echo $?"]);
    assert_eq!(exited["stdout"], "/dev/null\n0\n");
    silent_to_the_end(client);
}

/// With `detach` the process lives on when its connection has ended, and the server has let go of it.
#[apply(both)]
fn detached_process_outlives_the_connection(mode: Mode) {
    let mut client = Client::in_process();
    // A terminal's end is a hang-up, which one that wants to live on ignores.
    let script = "trap '' HUP; echo ready; exec sleep 1000";
    let mut params = mode.params("a", &["sh", "-c", script]);
    params["detach"] = json!(true);
    let pid = client.spawn_ready(params);
    client.spawn_ready(mode.params("b", &["sh", "-c", script]));
    silent_about_detached(client);
    assert!(is_alive(pid), "it was killed");
    let left = children_of(std::process::id());
    assert_eq!(left.iter().map(|p| p.pid).collect::<Vec<_>>(), [pid], "{left:?}");
    // SAFETY: no memory is involved; it is a child of this process that has not been reaped.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
    wait_until("it has died", || !is_alive(pid));
}

/// The other process's exit is told; nothing is said of the one that lives on.
fn silent_about_detached(client: Client) {
    let (left, _) = client.finish();
    let handles: Vec<&Value> = left.iter().map(|n| &n["params"]["processHandle"]).collect();
    assert_eq!(handles, ["b"], "{left:#?}");
}

/// The end comes while the dispatcher has not heard yet that they have failed.
#[apply(test)]
fn spawns_that_fail_at_the_end_are_answered_and_nothing_is_logged() {
    const SPAWNS: usize = 64;
    let spawn = |number| {
        let params = json!({"command": ["no-such-program"], "processHandle": format!("a{number}")});
        json!({"id": number, "method": "process/spawn", "params": params}).to_string() + "\n"
    };
    let input: String = (0..SPAWNS).map(spawn).collect();
    // When it comes differs.
    for _ in 0..10 {
        let mut command = binary();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let answers = String::from_utf8(output.stdout).expect("text");
        assert_eq!(answers.lines().count(), SPAWNS, "{answers}");
    }
}
