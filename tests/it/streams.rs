//! `stdin`, `stdout` and `stderr`: where the three streams of a program go if they are not pipes.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Footprint, PATIENCE, Proc, Scratch, apply, children_of, is_alive, test, times, wait_until,
};
use crate::resources::leave_root;
use crate::spawn::{refused, silent_to_the_end};
use serde_json::{Value, json};

const MIXED: &str = "echo a; echo b >&2; echo c";

/// A spawn of a shell script, with no timeout and these members.
fn script(handle: &str, script: &str, members: Value) -> Value {
    let mut params = json!({
        "processHandle": handle,
        "command": ["sh", "-c", script],
        "timeoutMs": null,
    });
    for (name, value) in members.as_object().expect("members are an object") {
        params[name] = value.clone();
    }
    params
}

fn read(path: &str) -> String {
    fs::read_to_string(path).expect(path)
}

pub fn fifo(scratch: &Scratch, name: &str) -> String {
    let path = scratch.path(name);
    let file = CString::new(path.as_str()).expect("a path");
    // SAFETY: the path is NUL-terminated.
    assert_eq!(unsafe { libc::mkfifo(file.as_ptr(), 0o600) }, 0, "a FIFO");
    path
}

/// Nothing is collected, counted or waited for of a stream that is not a pipe.
fn assert_silent(exited: &Value, stream: &str) {
    let member = |suffix: &str| &exited[format!("{stream}{suffix}")];
    assert_eq!(
        (member(""), member("CapReached"), member("Bytes")),
        (&json!(""), &json!(false), &json!(0)),
        "{exited}"
    );
    assert!(exited.get(format!("{stream}Base64")).is_none(), "{exited}");
}

// ---- one another ----

#[apply(test)]
fn merged_output_is_one_stream_in_the_order_of_the_writes() {
    let mut client = Client::in_process();
    let mut left = times(1_000);
    while left > 0 {
        let batch = left.min(50);
        left -= batch;
        for i in 0..batch {
            let streamed = i % 2 == 0;
            let members = json!({"stderr": "stdout", "streamStdoutStderr": streamed});
            client.request("process/spawn", script(&i.to_string(), MIXED, members));
        }
        for i in 0..batch {
            let (stdout, stderr, exited) = client.streamed(&i.to_string());
            let collected = exited["stdout"].as_str().expect("text").as_bytes();
            let printed = if i % 2 == 0 { &stdout } else { collected };
            assert_eq!(String::from_utf8_lossy(printed), "a\nb\nc\n");
            assert_eq!(exited["stdoutBytes"], 6);
            assert_eq!(stderr, b"");
            assert_silent(&exited, "stderr");
        }
    }
    // The cap is of the one stream that is left.
    let members = json!({"stderr": "stdout", "outputBytesCap": 3, "stdout": "pipe"});
    let exited = client.run_with(script("cap", MIXED, members));
    assert_eq!(
        (
            &exited["stdout"],
            &exited["stdoutCapReached"],
            &exited["stdoutBytes"]
        ),
        (&json!("a\nb"), &json!(true), &json!(6))
    );
    assert_silent(&exited, "stderr");
    client.finish();
}

#[apply(test)]
fn merged_output_goes_wherever_stdout_goes() {
    let scratch = Scratch::new();
    let log = scratch.path("log");
    let mut client = Client::in_process();
    let members = json!({"stdout": {"file": log}, "stderr": "stdout"});
    let exited = client.run_with(script("a", MIXED, members));
    assert_eq!(read(&log), "a\nb\nc\n");
    assert_silent(&exited, "stdout");
    assert_silent(&exited, "stderr");
    let same = "[ /proc/self/fd/1 -ef /proc/self/fd/2 ] && readlink /proc/self/fd/2";
    let members = json!({"stdout": "null", "stderr": "stdout"});
    assert_eq!(client.run_with(script("a", same, members))["exitCode"], 0);
    // The same open file, and not the same file opened twice: one position, one set of flags.
    let members = json!({"stdout": {"file": log}, "stderr": "stdout"});
    client.run_with(script("a", "echo longer; echo err >&2; echo end", members));
    assert_eq!(read(&log), "longer\nerr\nend\n");
    client.finish();
}

// ---- combinations ----

/// Every value of every stream, with and without the flags that matter to it.
#[apply(test)]
fn every_combination_is_taken_or_refused() {
    let scratch = Scratch::new();
    let input = scratch.file("in", 0o600, "input\n");
    let values = |name: &str| {
        let file = match name {
            "stdin" => json!({"file": input}),
            _ => json!({"file": scratch.path(name)}),
        };
        [
            None,
            Some(Value::Null),
            Some(json!("null")),
            Some(json!("pipe")),
            Some(json!("stdout")),
            Some(file),
        ]
    };
    let given = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    let is = |value: &Option<Value>, word: &str| value.as_ref().is_some_and(|value| value == word);
    let mut client = Client::in_process();
    let mut tried = [0; 2];
    for stdin in values("stdin") {
        for stdout in values("stdout") {
            for stderr in values("stderr") {
                for flags in 0..8 {
                    let [stream_stdin, streamed, tty] = [1, 2, 4].map(|bit| flags & bit != 0);
                    let mut params = script("c", "cat; echo out; echo err >&2", json!({}));
                    let fits = !is(&stdin, "pipe") && !is(&stdin, "stdout") && !is(&stdout, "stdout");
                    let any = given(&stdin) || given(&stdout) || given(&stderr);
                    let taken = fits && !(tty && any) && !(stream_stdin && given(&stdin));
                    for (name, value) in [("stdin", &stdin), ("stdout", &stdout), ("stderr", &stderr)] {
                        if let Some(value) = value {
                            params[name] = value.clone();
                        }
                    }
                    params["streamStdin"] = json!(stream_stdin);
                    params["streamStdoutStderr"] = json!(streamed);
                    params["tty"] = json!(tty);
                    tried[usize::from(taken)] += 1;
                    if !taken {
                        let (code, message) = client.refuse("process/spawn", params.clone());
                        assert_eq!(code, -32602, "{params}: {message}");
                        assert!(message.starts_with("process/spawn: std"), "{message}");
                        continue;
                    }
                    let id = client.request("process/spawn", params.clone());
                    if stream_stdin || tty {
                        client.close_stdin("c");
                    }
                    client.result(id);
                    let (out, err, exited) = client.streamed("c");
                    assert_eq!(exited["exitCode"], 0, "{params}");
                    if tty {
                        assert!(out.ends_with(b"out\r\nerr\r\n"), "{params}: {out:?}");
                        continue;
                    }
                    let fed = if stdin.as_ref().is_some_and(Value::is_object) {
                        "input\n"
                    } else {
                        ""
                    };
                    let merged = is(&stderr, "stdout");
                    let printed = format!("{fed}out\n{}", if merged { "err\n" } else { "" });
                    let seen = |stream: &str, bytes: &[u8]| match streamed {
                        true => String::from_utf8_lossy(bytes).into_owned(),
                        false => exited[stream].as_str().expect("text").to_owned(),
                    };
                    let expected = |value: &Option<Value>, printed: &str| match value {
                        Some(Value::Object(_)) => (String::new(), Some(printed.to_owned())),
                        _ if is(value, "null") => (String::new(), None),
                        _ => (printed.to_owned(), None),
                    };
                    for (name, value, bytes, printed) in [
                        ("stdout", &stdout, &out, printed.as_str()),
                        ("stderr", &stderr, &err, if merged { "" } else { "err\n" }),
                    ] {
                        let (piped, filed) = expected(value, printed);
                        assert_eq!(seen(name, bytes), piped, "{name} of {params}");
                        assert_eq!(exited[format!("{name}Bytes")], piped.len(), "{name} of {params}");
                        if let Some(filed) = filed {
                            assert_eq!(read(&scratch.path(name)), filed, "{name} of {params}");
                        }
                    }
                }
            }
        }
    }
    assert!(tried[0] > 1_000 && tried[1] > 250, "{tried:?}");
    silent_to_the_end(client);
}

#[apply(test)]
fn null_is_the_device_itself() {
    let mut client = Client::in_process();
    let null = json!({"stdin": "null", "stdout": "null", "stderr": "null"});
    let pid = client.spawn(script("a", "exec sleep 1000", null));
    for number in 0..3 {
        let link = fs::read_link(format!("/proc/{pid}/fd/{number}")).expect("it is open");
        assert_eq!(link.to_str(), Some("/dev/null"), "descriptor {number}");
    }
    client.kill("a");
    let exited = client.exited("a");
    assert_silent(&exited, "stdout");
    assert_silent(&exited, "stderr");
    // Left out, stdin is the same.
    let exited = client.run_with(script("a", "readlink /proc/self/fd/0", json!({})));
    assert_eq!(exited["stdout"], "/dev/null\n");
    // And it takes what is written.
    let members = json!({"stdout": "null", "stderr": "stdout"});
    let exited = client.run_with(script("a", "head -c 1000000 /dev/zero && echo x >&2", members));
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

// ---- what it saves ----

/// With pipes it would be two seconds.
#[apply(test)]
fn what_is_not_a_pipe_is_not_waited_for() {
    let scratch = Scratch::new();
    let file = json!({"file": scratch.path("out")});
    let mut client = Client::in_process();
    for (stdout, stderr) in [
        (json!("null"), json!("null")),
        (file.clone(), json!("null")),
        (json!("null"), json!("stdout")),
        (file, json!("stdout")),
    ] {
        // What leaves the group is not killed at the exit, and holds the streams.
        let members = json!({"stdout": stdout, "stderr": stderr});
        let holds = "setsid sleep 1000 & exit 3";
        let took = (0..5).map(|_| {
            let started = Instant::now();
            let exited = client.run_with(script("a", holds, members.clone()));
            assert_eq!(exited["exitCode"], 3);
            assert_eq!(exited["outputDrainTimedOut"], false);
            started.elapsed()
        });
        // A busy machine is not busy all the time.
        let took = took.min().expect("five times");
        assert!(took < Duration::from_millis(1_900), "{took:?}");
    }
    // One that is a pipe is drained as ever.
    let members = json!({"stdout": "null"});
    let exited = client.run_with(script("a", "sleep 1000 & exit 3", members));
    assert_eq!(exited["outputDrainTimedOut"], true);
    client.finish();
    crate::harness::kill_descendants();
}

/// A process has its pidfd and what wakes its thread, and one descriptor for each pipe.
#[apply(test)]
fn what_is_not_a_pipe_takes_no_descriptor() {
    let scratch = Scratch::new();
    let mut client = Client::in_process();
    client.call("process/list", json!({}));
    let open = || crate::harness::descriptors("self").len();
    let before = open();
    let file = |name: &str| json!({"file": scratch.path(name)});
    scratch.file("in", 0o600, "");
    for (members, descriptors) in [
        (json!({}), 4),
        (json!({"stderr": "stdout"}), 3),
        (json!({"stdout": "null"}), 3),
        (json!({"stdout": "null", "stderr": "null", "stdin": "null"}), 2),
        (
            json!({"stdout": file("out"), "stderr": "stdout", "stdin": file("in")}),
            2,
        ),
        (json!({"stdout": file("out"), "stderr": file("err")}), 2),
    ] {
        client.spawn(script("a", "exec sleep 1000", members.clone()));
        // The start is over when it is listed.
        client.call("process/list", json!({}));
        wait_until("only what it keeps is open", || open() == before + descriptors);
        client.kill("a");
        client.exited("a");
        wait_until("all is closed", || open() == before);
    }
    client.finish();
}

// ---- files ----

#[apply(test)]
fn files_are_read_replaced_and_appended_to() {
    let scratch = Scratch::new();
    let input = scratch.file("in", 0o400, "one\ntwo\n");
    let output = scratch.file("out", 0o600, "what was there before, and longer\n");
    let mut client = Client::in_process();
    let mut run = |append: Value, word: &str| {
        let to = json!({"file": output, "append": append});
        let members = json!({"stdin": {"file": input, "append": append}, "stdout": to});
        let exited = client.run_with(script(
            "a",
            &format!("cat; echo {word}; echo {word} >&2"),
            members,
        ));
        assert_eq!(
            (&exited["exitCode"], &exited["stderr"]),
            (&json!(0), &json!(format!("{word}\n")))
        );
        assert_silent(&exited, "stdout");
        read(&output)
    };
    assert_eq!(run(json!(false), "x"), "one\ntwo\nx\n");
    assert_eq!(run(json!(true), "y"), "one\ntwo\nx\none\ntwo\ny\n");
    assert_eq!(run(json!(false), "z"), "one\ntwo\nz\n");
    assert_eq!(read(&input), "one\ntwo\n");
    // What is not there is made either way, and errors have a file as output has.
    for append in [false, true] {
        let made = scratch.path(&format!("made {append} ü"));
        let members = json!({"stderr": {"file": made, "append": append}});
        let exited = client.run_with(script("a", MIXED, members));
        assert_eq!(exited["stdout"], "a\nc\n");
        assert_silent(&exited, "stderr");
        assert_eq!(read(&made), "b\n");
    }
    // By way of a link, and beside the directory that the program starts in.
    let link = scratch.path("link");
    symlink(&output, &link).expect("a link");
    client.run_with(script(
        "a",
        "pwd",
        json!({"stdout": {"file": link}, "cwd": "/usr"}),
    ));
    assert_eq!(read(&output), "/usr\n");
    client.finish();
}

#[apply(test)]
fn files_are_made_with_the_umask() {
    let scratch = Scratch::new();
    let mut client = Client::in_process();
    for (mask, mode) in [(0o022, 0o644), (0o077, 0o600), (0, 0o666), (0o246, 0o420)] {
        // SAFETY: no memory is involved; the process is this test's own.
        unsafe { libc::umask(mask) };
        let made = scratch.path(&format!("made {mask:o}"));
        client.run_with(script("a", "echo x", json!({"stdout": {"file": made}})));
        let permissions = fs::metadata(&made).expect("it is made").permissions();
        assert_eq!(permissions.mode() & 0o7777, mode, "with umask {mask:o}");
    }
    client.finish();
}

#[apply(test)]
fn appended_lines_of_many_programs_are_all_there() {
    let scratch = Scratch::new();
    let log = scratch.path("log");
    let mut client = Client::in_process();
    let count = times(20);
    for i in 0..count {
        let members = json!({"stdout": {"file": log, "append": true}, "stderr": "stdout"});
        let text = format!("for i in $(seq 50); do echo line {i} $i; done");
        client.request("process/spawn", script(&i.to_string(), &text, members));
    }
    for i in 0..count {
        assert_eq!(client.exited(&i.to_string())["exitCode"], 0);
    }
    let mut lines: Vec<String> = read(&log).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 50 * count);
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 50 * count);
    client.finish();
}

/// Blocking, at its beginning, and nothing else open.
#[apply(test)]
fn a_program_gets_a_file_as_from_a_shell() {
    let scratch = Scratch::new();
    let input = scratch.file("in", 0o600, "");
    let mut client = Client::in_process();
    let look = "ls /proc/$$/fd | tr '\\n' ' '; grep -h flags /proc/$$/fdinfo/0 /proc/$$/fdinfo/1";
    for append in [false, true] {
        let out = scratch.path("out");
        let members = json!({"stdin": {"file": input}, "stdout": {"file": out, "append": append}});
        client.run_with(script("a", look, members));
        let seen = read(&out);
        fs::remove_file(&out).expect("it is there");
        let (open, rest) = seen.split_once("flags:").expect(&seen);
        // The shell may have the script open.
        assert!(open.starts_with("0 1 2 "), "{seen}");
        let (stdin, stdout) = rest.split_once("flags:").expect(&seen);
        let octal = |text: &str| i32::from_str_radix(text.trim(), 8).expect(&seen);
        // O_LARGEFILE is another bit on each machine.
        let wanted = libc::O_ACCMODE | libc::O_APPEND | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_TRUNC;
        assert_eq!(octal(stdin) & wanted, libc::O_RDONLY, "{seen}");
        let access = libc::O_WRONLY | if append { libc::O_APPEND } else { 0 };
        assert_eq!(octal(stdout) & wanted, access, "{seen}");
    }
    client.finish();
}

#[apply(test)]
fn what_cannot_be_opened_is_told_with_its_stream() {
    let scratch = Scratch::new();
    let file = scratch.file("file", 0o600, "");
    let looped = scratch.path("loop");
    symlink(&looped, &looped).expect("a link to itself");
    let running = scratch.file(
        "running",
        0o700,
        fs::read("/bin/sleep").expect("there is a sleep"),
    );
    let mut client = Client::in_process();
    client.spawn(json!({"processHandle": "running", "command": [running, "1000"], "timeoutMs": null}));
    let cases = [
        (scratch.path("no/such/directory"), libc::ENOENT),
        (format!("{file}/x"), libc::ENOTDIR),
        (looped, libc::ELOOP),
        (scratch.path(&"x".repeat(300)), libc::ENAMETOOLONG),
        (scratch.path("."), libc::EISDIR),
        (format!("{}/", scratch.path("new")), libc::EISDIR),
        (running.clone(), libc::ETXTBSY),
    ];
    for (path, errno) in cases {
        for stream in ["stdin", "stdout", "stderr"] {
            let reads = matches!(errno, libc::EISDIR | libc::ETXTBSY) && stream == "stdin";
            if reads {
                continue;
            }
            let mut params = json!({"processHandle": "a", "command": ["true"]});
            params[stream] = json!({"file": path});
            refused(&mut client, params, stream, errno, &path);
        }
    }
    // Reading one that is not there does not make it.
    let missing = scratch.path("missing");
    let params = json!({"processHandle": "a", "command": ["true"], "stdin": {"file": missing}});
    refused(&mut client, params, "stdin", libc::ENOENT, &missing);
    assert!(!fs::exists(&missing).expect("it can be looked for"));
    // The first that fails is told, and the streams after it are left alone.
    let behind = scratch.path("behind");
    let params = json!({"processHandle": "a", "command": ["true"], "stdout": {"file": "/no/x"}, "stderr": {"file": behind}});
    refused(&mut client, params, "stdout", libc::ENOENT, "/no/x");
    assert!(!fs::exists(&behind).expect("it can be looked for"));
    client.kill("running");
    client.exited("running");
    silent_to_the_end(client);
}

#[apply(test)]
fn what_may_not_be_opened_is_told() {
    let scratch = Scratch::new();
    let secret = scratch.file("secret", 0o000, "");
    leave_root();
    let mut client = Client::in_process();
    for stream in ["stdin", "stdout", "stderr"] {
        let mut params = json!({"processHandle": "a", "command": ["true"]});
        params[stream] = json!({"file": secret});
        refused(&mut client, params, stream, libc::EACCES, &secret);
    }
    silent_to_the_end(client);
}

// ---- refusals ----

#[apply(test)]
fn a_refused_request_touches_no_file() {
    let scratch = Scratch::new();
    let there = scratch.file("there", 0o600, "kept");
    let new = scratch.path("new");
    let mut client = Client::in_process();
    client.spawn(json!({"processHandle": "used", "command": ["sleep", "1000"], "timeoutMs": null}));
    for (name, value) in [
        ("processHandle", json!("used")),
        ("processHandle", json!("")),
        ("command", json!([])),
        ("command", json!(["a\0"])),
        ("cwd", json!("relative")),
        ("cwd", json!("/no/such/directory")),
        ("env", json!({"": "x"})),
        ("inheritEnv", json!(["a*b"])),
        ("limits", json!({"nice": 20})),
        ("timeoutMs", json!(-1)),
        ("timeoutGraceMs", json!(-1)),
        ("tty", json!(true)),
        ("stdin", json!("pipe")),
        ("stdin", json!({"file": "/no/such/file"})),
        ("stdin", json!({"file": "relative"})),
        ("stderr", json!({"file": "relative"})),
        ("stderr", json!({"file": "/\0"})),
        ("stderr", json!({"file": ""})),
        ("stderr", json!({})),
    ] {
        for file in [&there, &new] {
            let mut params = json!({"processHandle": "a", "command": ["true"], "stdout": {"file": file}});
            params[name] = value.clone();
            let (code, _) = client.refuse("process/spawn", params.clone());
            assert!(code < -32_599, "{params}");
        }
        assert_eq!(read(&there), "kept", "{name}: {value}");
        assert!(
            !fs::exists(&new).expect("it can be looked for"),
            "{name}: {value}"
        );
    }
    for (value, why) in [
        (
            json!("nul"),
            "process/spawn: stdout: invalid value: string \"nul\", expected ",
        ),
        (
            json!(1),
            "process/spawn: stdout: invalid type: integer `1`, expected ",
        ),
        (
            json!(["null"]),
            "process/spawn: stdout: invalid type: sequence, expected ",
        ),
        (
            json!({"append": true}),
            "process/spawn: stdout: missing field `file`",
        ),
        (
            json!({"file": "/x", "append": null}),
            "process/spawn: stdout.append: ",
        ),
        (json!({"file": 1}), "process/spawn: stdout.file: "),
        (
            json!({"file": "x"}),
            "process/spawn: stdout.file must be an absolute path, got \"x\"",
        ),
        (
            json!({"file": "/\0"}),
            "process/spawn: stdout.file contains a nul byte",
        ),
        (
            json!("stdout"),
            "process/spawn: stdout must be \"pipe\", \"null\" or a file, got \"stdout\"",
        ),
    ] {
        let params = json!({"processHandle": "a", "command": ["true"], "stdout": value});
        let (code, message) = client.refuse("process/spawn", params);
        assert_eq!(code, -32602, "{value}");
        assert!(message.starts_with(why), "{message}");
    }
    // A member that is there twice.
    client.send_raw(b"{\"id\":\"twice\",\"method\":\"process/spawn\",\"params\":{\"processHandle\":\"a\",\"command\":[\"true\"],\"stdout\":{\"file\":\"/x\",\"file\":\"/y\"}}}\n");
    assert_eq!(client.response("twice")["error"]["code"], -32602);
    client.kill("used");
    client.exited("used");
    silent_to_the_end(client);
}

/// As a shell does it: the file is opened first.
#[apply(test)]
fn a_program_that_cannot_run_leaves_its_file_empty() {
    let scratch = Scratch::new();
    let mut client = Client::in_process();
    for (program, stage) in [("no-such-program", "lookup"), ("/no/such/program", "exec")] {
        let out = scratch.file("out", 0o600, "before");
        let params = json!({"processHandle": "a", "command": [program], "stdout": {"file": out}});
        refused(&mut client, params, stage, libc::ENOENT, program);
        assert_eq!(read(&out), "");
    }
    silent_to_the_end(client);
}

#[apply(test)]
fn a_full_disk_is_for_the_program_to_see() {
    let mut client = Client::in_process();
    let members = json!({"stdout": {"file": "/dev/full"}});
    let exited = client.run_with(script("a", "exec cat /proc/self/stat", members));
    assert_ne!(exited["exitCode"], 0);
    let said = exited["stderr"].as_str().expect("text");
    assert!(said.contains("No space left"), "{said}");
    client.finish();
}

// ---- FIFOs ----

/// In either order, and both ends may be programs of one client that awaits no answer.
#[apply(test)]
fn a_fifo_is_opened_with_its_other_end() {
    let scratch = Scratch::new();
    let pipe = fifo(&scratch, "pipe");
    let mut client = Client::in_process();
    let reader = script("reader", "cat", json!({"stdin": {"file": pipe}}));
    let writer = script("writer", "echo through", json!({"stdout": {"file": pipe}}));
    for reader_first in [true, false] {
        let (first, second) = match reader_first {
            true => (&reader, &writer),
            false => (&writer, &reader),
        };
        let waits = client.request("process/spawn", first.clone());
        // Another handle is served meanwhile.
        assert_eq!(client.run(&["true"])["exitCode"], 0);
        assert!(!client.is_answered(waits), "nothing has opened the other end");
        client.spawn(second.clone());
        client.result(waits);
        assert_eq!(client.exited("reader")["stdout"], "through\n");
        assert_eq!(client.exited("writer")["exitCode"], 0);
    }
    // What is asked of it while it waits is done when it runs.
    let waits = client.request("process/spawn", reader.clone());
    let kill = client.request("process/kill", json!({"processHandle": "reader"}));
    let other_end = OpenOptions::new()
        .write(true)
        .open(&pipe)
        .expect("there is a reader");
    client.result(waits);
    client.result(kill);
    assert_eq!(client.exited("reader")["signal"], "SIGKILL");
    drop(other_end);
    silent_to_the_end(client);
}

/// The kernel refuses it, and then a shell is given it: the FIFO must not seem to end between the two.
#[apply(test)]
fn a_script_opens_its_fifo_once() {
    let scratch = Scratch::new();
    let pipe = fifo(&scratch, "pipe");
    let program = scratch.file("script", 0o700, "echo from the script\n");
    let mut client = Client::in_process();
    let mut params = script("writer", "", json!({"stdout": {"file": pipe}}));
    params["command"] = json!([program]);
    let id = client.request("process/spawn", params);
    let mut text = String::new();
    let mut reader = OpenOptions::new()
        .read(true)
        .open(&pipe)
        .expect("there is a writer");
    reader.read_to_string(&mut text).expect("it is text");
    client.result(id);
    assert_eq!(text, "from the script\n");
    assert_eq!(client.exited("writer")["exitCode"], 0);
    silent_to_the_end(client);
}

#[apply(test)]
fn a_fifo_without_its_other_end_is_given_up_in_time() {
    let scratch = Scratch::new();
    let pipe = fifo(&scratch, "pipe");
    let mut client = Client::in_process();
    client.call("process/list", json!({}));
    let before = Footprint::take();
    for timeout in [0, 1, 200] {
        for stream in ["stdin", "stdout", "stderr"] {
            let mut params = json!({"processHandle": "a", "command": ["true"], "timeoutMs": timeout});
            params[stream] = json!({"file": pipe});
            let started = Instant::now();
            let id = client.request("process/spawn", params);
            let response = client.response(id);
            assert!(started.elapsed() >= Duration::from_millis(timeout));
            let error = &response["error"];
            assert_eq!(error["code"], -32603, "{response}");
            assert_eq!(
                error["data"],
                json!({"errno": libc::ETIMEDOUT, "code": "ETIMEDOUT", "stage": stream, "program": "true"})
            );
            let message = error["message"].as_str().expect("a message");
            assert!(
                message.ends_with("its other end was not opened before the timeout"),
                "{message}"
            );
        }
    }
    before.check();
    // No timeout of the client: that of the server.
    let config = procwire::Config::default().default_timeout(Duration::from_millis(100));
    let mut brief = Client::in_process_with(config);
    let params = json!({"processHandle": "a", "command": ["true"], "stdout": {"file": pipe}});
    assert_eq!(brief.refuse("process/spawn", params).0, -32603);
    silent_to_the_end(brief);
    // And a timeout that is over at once does not keep a plain file from being opened.
    let out = scratch.path("out");
    let params =
        json!({"processHandle": "a", "command": ["sleep", "1000"], "timeoutMs": 0, "stdout": {"file": out}});
    assert_eq!(client.run_with(params)["exitCode"], 124);
    silent_to_the_end(client);
}

#[apply(test)]
fn a_fifo_without_its_other_end_ends_with_the_connection() {
    let scratch = Scratch::new();
    let pipe = fifo(&scratch, "pipe");
    let mut client = Client::in_process();
    let waits = |handle: &str, stream: &str| {
        let mut params = script(handle, "exit", json!({}));
        params[stream] = json!({"file": pipe});
        params
    };
    // Two FIFOs of one spawn: the second is not opened once the first was given up.
    let mut both = waits("both", "stdin");
    let other = fifo(&scratch, "other");
    both["stdout"] = json!({"file": other});
    let ids = [
        client.request("process/spawn", waits("a", "stdin")),
        client.request("process/spawn", both),
    ];
    assert_eq!(client.run(&["true"])["exitCode"], 0);
    let started = Instant::now();
    let (left, _) = client.finish();
    assert!(started.elapsed() < PATIENCE / 2, "{:?}", started.elapsed());
    for id in ids {
        let answer = left
            .iter()
            .find(|message| message["id"] == id)
            .expect("an answer");
        assert_eq!(answer["error"]["code"], -32600, "{answer}");
    }
    assert_eq!(left.len(), 2, "{left:#?}");
}

#[apply(test)]
fn a_waiting_fifo_does_not_outlive_a_killed_server() {
    let scratch = Scratch::new();
    let pipe = fifo(&scratch, "pipe");
    let mut client = Client::binary(&[]);
    client.request(
        "process/spawn",
        script("a", "exit", json!({"stdin": {"file": pipe}})),
    );
    client.call("process/list", json!({}));
    let guard = client.pid();
    let below = || -> Vec<Proc> {
        children_of(guard)
            .into_iter()
            .flat_map(|p| children_of(p.pid))
            .collect()
    };
    wait_until("one waits for the FIFO", || below().len() == 1);
    let waiting = below()[0].pid;
    crate::harness::kill_stray(guard);
    wait_until("it is gone", || !is_alive(waiting));
    client.finish_anyhow();
}

/// The child leads a session without a terminal, and so may the server.
#[apply(test)]
fn a_terminal_that_is_opened_controls_no_one() {
    // SAFETY: plain calls; the results are checked, and the name is copied at once.
    let (master, name) = unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
        assert!(master >= 0, "a terminal");
        let master = OwnedFd::from_raw_fd(master);
        let number = std::os::fd::AsRawFd::as_raw_fd(&master);
        assert_eq!((libc::grantpt(number), libc::unlockpt(number)), (0, 0));
        let name = std::ffi::CStr::from_ptr(libc::ptsname(number));
        (master, name.to_str().expect("ASCII").to_owned())
    };
    let mut client = Client::in_process();
    // tty_nr, the fifth after the name.
    let terminal = "cut -d' ' -f7 /proc/$$/stat; test -t 0 && echo terminal";
    let members = json!({"stdin": {"file": name}, "stderr": {"file": name}});
    let exited = client.run_with(script("a", terminal, members));
    assert_eq!(exited["stdout"], "0\nterminal\n");
    client.finish();
    drop(master);
}

/// What `detach` is for: its output has somewhere to go when the connection has ended.
#[apply(test)]
fn a_detached_program_keeps_its_files() {
    let scratch = Scratch::new();
    let (log, go) = (scratch.path("log"), fifo(&scratch, "go"));
    let mut client = Client::in_process();
    let members = json!({"detach": true, "stdout": {"file": log}, "stderr": "stdout"});
    let text = format!("echo before; read x < {go}; echo behind");
    let pid = client.spawn(script("a", &text, members));
    wait_until("it prints", || read(&log) == "before\n");
    silent_to_the_end(client);
    let mut other_end = OpenOptions::new().write(true).open(&go).expect("it reads");
    other_end.write_all(b"go\n").expect("it reads");
    wait_until("it goes on", || read(&log) == "before\nbehind\n");
    wait_until("it ends", || !is_alive(pid));
}

// ---- the Rust client ----

#[apply(test)]
fn the_rust_client_has_no_end_of_what_is_not_a_pipe() {
    use procwire::client::{self, Command, Stdio};
    let scratch = Scratch::new();
    let (input, log) = (scratch.file("in", 0o600, "from a file\n"), scratch.path("log"));
    let client = client::Client::in_process(procwire::Config::default()).expect("it starts");
    let mut mixed = Command::shell(MIXED);
    let mut process = client
        .spawn(mixed.stdout(Stdio::null()).stderr(Stdio::file(&log)))
        .expect("it runs");
    assert!(process.stdout.is_none() && process.stderr.is_none() && process.stdin.is_some());
    assert!(process.events().next().is_none());
    assert!(process.wait().expect("it ends").success());
    assert_eq!(read(&log), "b\n");

    let mut cat = Command::new("cat");
    cat.stdin(Stdio::file(&input))
        .stdout(Stdio::append(&log))
        .merge_stderr();
    assert!(client.status(&cat).expect("it runs").success());
    assert_eq!(read(&log), "b\nfrom a file\n");
    let output = client.output(cat.stdout(Stdio::pipe())).expect("it runs");
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"from a file\n"[..], &b""[..])
    );
    let refused = client
        .output_with_input(&cat, "input")
        .expect_err("there are two inputs");
    assert!(matches!(refused, client::Error::Invalid(_)), "{refused}");
    let refused = client.spawn(Command::new("true").stdout(Stdio::file("relative")));
    assert!(matches!(refused, Err(client::Error::Refused(e)) if e.code == -32602));
    let refused = client.spawn(Command::new("true").stdout(Stdio::file("/no/such/file")));
    let Err(client::Error::Refused(error)) = refused else {
        panic!("{refused:?}");
    };
    let data = error.data.expect("the operating system refused");
    assert_eq!(
        (data.stage, data.errno),
        (procwire::protocol::Stage::Stdout, libc::ENOENT)
    );
    // A terminal takes `/dev/null` for its input, which it has not.
    let output = client
        .output(Command::shell("echo hi").no_stdin().tty(24, 80))
        .expect("it runs");
    assert_eq!(output.stdout, b"hi\r\n");
}
