//! Output: every byte in order, caps exactly, text as text, and clients that read slowly or not at all.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Mode, PATIENCE, Scratch, apply, both, encode, is_alive, must_idle, pattern, private_bytes, test,
    times, wait_until, wait_until_at_rest,
};
use serde_json::{Value, json};

const MIB: usize = 1024 * 1024;

/// Streamed params without a cap, behind a terminal that translates nothing.
fn plain(mode: Mode, handle: &str, script: &str) -> Value {
    let setup = match mode {
        Mode::Pipe => "",
        Mode::Tty => "stty raw -echo && ",
    };
    let mut params = mode.params(handle, &["sh", "-c", &format!("{setup}{script}")]);
    params["outputBytesCap"] = Value::Null;
    params
}

/// Collected params for a shell script.
fn collected(script: &str) -> Value {
    json!({"processHandle": "c", "command": ["sh", "-c", script]})
}

/// A file of the pattern.
fn patterned(scratch: &Scratch, bytes: usize) -> String {
    scratch.file("pattern", 0o600, pattern(0, bytes))
}

#[apply(both)]
fn binary_data_is_exact(mode: Mode) {
    let scratch = Scratch::new();
    let file = patterned(&scratch, 2 * MIB + 1);
    let mut client = Client::in_process();
    client.spawn(plain(mode, "c", &format!("exec cat '{file}'")));
    let (stdout, _, exited) = client.streamed("c");
    assert!(
        stdout == pattern(0, 2 * MIB + 1),
        "{} bytes, or others",
        stdout.len()
    );
    assert_eq!(exited["stdoutBytes"], 2 * MIB + 1);
    assert_eq!(exited["stdout"], "");
    client.finish();
}

#[apply(test)]
fn a_long_stream_is_exact_with_bounded_memory() {
    let scratch = Scratch::new();
    let file = patterned(&scratch, MIB);
    let rounds = times(24);
    let mut client = Client::in_process();
    let script = format!("i=0; while [ $i -lt {rounds} ]; do cat '{file}'; i=$((i+1)); done");
    let before = private_bytes();
    client.spawn(plain(Mode::Pipe, "c", &script));
    let twice = [pattern(0, MIB), pattern(0, MIB)].concat();
    let mut received = 0;
    while received < rounds * MIB {
        let (bytes, params) = client.delta("c");
        assert_eq!(params["offset"], received);
        let expected = &twice[received % MIB..][..bytes.len()];
        assert!(bytes == expected, "wrong bytes at {received}");
        received += bytes.len();
    }
    let grown = private_bytes().saturating_sub(before);
    // The reader's queue and the transcript are in here, too.
    assert!(grown < 128 * MIB as u64, "{grown} bytes more in memory");
    assert_eq!(client.exited("c")["stdoutBytes"], rounds * MIB);
    client.finish();
}

/// Output comes as it is written, not when a line or a buffer is full.
#[apply(both)]
fn a_part_of_a_line_does_not_wait_for_the_rest(mode: Mode) {
    let mut client = Client::in_process();
    client.spawn(plain(mode, "c", "printf x; sleep 1000"));
    assert_eq!(client.delta("c").0, b"x");
    client.kill("c");
    assert_eq!(client.exited("c")["stdoutBytes"], 1);
    client.finish();
}

#[apply(test)]
fn stderr_alone_is_drained() {
    let mut client = Client::in_process();
    let mut params = collected("head -c 4194304 /dev/zero | tr '\\0' e >&2");
    params["outputBytesCap"] = Value::Null;
    let exited = client.run_with(params);
    assert_eq!(exited["exitCode"], 0);
    assert!(exited["stderr"] == "e".repeat(4 * MIB));
    assert_eq!(exited["stderrBytes"], 4 * MIB);
    assert_eq!(exited["stdout"], "");
    assert_eq!(exited["stdoutBytes"], 0);
    client.finish();
}

/// Neither stream's reading waits for the other's.
#[apply(test)]
fn both_streams_at_once_are_drained() {
    let bytes = times(4 * MIB);
    let mut client = Client::in_process();
    let script =
        format!("head -c {bytes} /dev/zero | tr '\\0' o & head -c {bytes} /dev/zero | tr '\\0' e >&2; wait");
    client.spawn(plain(Mode::Pipe, "c", &script));
    let (stdout, stderr, exited) = client.streamed("c");
    assert_eq!((stdout.len(), stderr.len()), (bytes, bytes));
    assert!(stdout.iter().all(|b| *b == b'o') && stderr.iter().all(|b| *b == b'e'));
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

#[apply(test)]
fn streams_are_labelled() {
    let mut client = Client::in_process();
    client.spawn(plain(Mode::Pipe, "c", "echo out; echo err >&2; echo more"));
    let (stdout, stderr, exited) = client.streamed("c");
    assert_eq!((&stdout[..], &stderr[..]), (&b"out\nmore\n"[..], &b"err\n"[..]));
    assert_eq!(
        (&exited["stdoutBytes"], &exited["stderrBytes"]),
        (&json!(9), &json!(4))
    );
    let exited = client.run_with(collected("echo out; echo err >&2; echo more"));
    assert_eq!(
        (&exited["stdout"], &exited["stderr"]),
        (&json!("out\nmore\n"), &json!("err\n"))
    );
    client.finish();
}

/// A terminal shows both in the order they were written, as `stdout`, and streams though not asked to.
#[apply(test)]
fn a_terminal_has_one_stream() {
    let mut client = Client::in_process();
    let script = "echo 1; echo 2 >&2; echo 3; echo 4 >&2";
    client.spawn(json!({"processHandle": "c", "command": ["sh", "-c", script], "tty": true}));
    let (stdout, stderr, exited) = client.streamed("c");
    assert_eq!(String::from_utf8_lossy(&stdout), "1\r\n2\r\n3\r\n4\r\n");
    assert_eq!(stderr, b"");
    assert_eq!(
        (&exited["stdoutBytes"], &exited["stderrBytes"]),
        (&json!(12), &json!(0))
    );
    assert_eq!((&exited["stdout"], &exited["stderr"]), (&json!(""), &json!("")));
    client.finish();
}

#[apply(both)]
fn a_delta_is_bounded_and_decodes_alone(mode: Mode) {
    let bytes = 3 * MIB + 7;
    let mut client = Client::in_process();
    client.spawn(plain(mode, "c", &format!("head -c {bytes} /dev/zero")));
    let mut received = 0;
    while received < bytes {
        let (part, params) = client.delta("c");
        assert!((1..=65_536).contains(&part.len()), "{} bytes", part.len());
        assert_eq!(params["offset"], received);
        assert_eq!(params["capReached"], false);
        received += part.len();
    }
    assert_eq!(client.exited("c")["stdoutBytes"], bytes);
    client.finish();
}

/// What is written right before the exit is delivered before it, and nothing comes after it.
#[apply(both)]
fn nothing_is_lost_before_a_fast_exit(mode: Mode) {
    let scratch = Scratch::new();
    let file = patterned(&scratch, MIB);
    let expected = pattern(0, MIB);
    let mut client = Client::in_process();
    for i in 0..times(6) {
        let handle = format!("h{i}");
        client.spawn(plain(mode, &handle, &format!("exec cat '{file}'")));
        let (stdout, _, exited) = client.streamed(&handle);
        assert!(stdout == expected, "{} bytes, or others", stdout.len());
        assert_eq!(exited["exitCode"], 0);
        assert_eq!(exited["outputDrainTimedOut"], false);
    }
    let (left, _) = client.finish();
    assert!(left.is_empty(), "behind an exit: {left:?}");
}

/// A child that has closed its output lives on, and watching it costs nothing.
#[apply(both)]
fn closed_output_is_not_an_exit(mode: Mode) {
    let mut client = Client::in_process();
    let script = "trap 'exit 5' USR1; exec 0<&- 1>&- 2>&-; sleep 1000 & wait";
    let pid = client.spawn(mode.params("c", &["sh", "-c", script]));
    wait_until("it has closed its output and waits", || {
        let children = crate::harness::children_of(pid);
        children.iter().any(|c| c.name == "sleep")
    });
    let began = Instant::now();
    must_idle();
    let idle = began.elapsed();
    client.call("process/kill", json!({"processHandle": "c", "signal": "SIGUSR1"}));
    let exited = client.exited("c");
    assert_eq!(exited["exitCode"], 5);
    let lasted = u128::from(exited["durationMs"].as_u64().expect("a number"));
    assert!(lasted >= idle.as_millis(), "{exited}");
    client.finish();
}

/// A program that writes byte by byte is not sent byte by byte.
#[apply(both)]
fn single_byte_writes_are_put_together(mode: Mode) {
    let bytes = times(100_000);
    let mut client = Client::in_process();
    let script = format!("exec dd if=/dev/zero bs=1 count={bytes} status=none");
    client.spawn(plain(mode, "c", &script));
    let (mut received, mut deltas) = (0, 0);
    while received < bytes {
        received += client.delta("c").0.len();
        deltas += 1;
    }
    assert_eq!(received, bytes);
    assert!(deltas < bytes / 2, "{deltas} deltas for {bytes} bytes");
    assert_eq!(client.exited("c")["exitCode"], 0);
    client.finish();
}

/// Signals that mean nothing to the server interrupt no read and no write.
#[apply(test)]
fn signals_to_the_server_do_not_disturb_streams() {
    let scratch = Scratch::new();
    let file = patterned(&scratch, 4 * MIB);
    let mut client = Client::binary(&[]);
    let server = client.pid();
    let mut targets: Vec<u32> = crate::harness::children_of(server)
        .iter()
        .map(|p| p.pid)
        .collect();
    targets.push(server);
    client.spawn(plain(Mode::Pipe, "a", &format!("exec cat '{file}'")));
    client.spawn(plain(Mode::Tty, "b", &format!("exec cat '{file}'")));
    for _ in 0..times(1000) {
        for target in &targets {
            for signal in [libc::SIGWINCH, libc::SIGCHLD, libc::SIGCONT] {
                // SAFETY: no memory is involved; the target is the server that this test has started.
                unsafe { libc::kill(*target as libc::pid_t, signal) };
            }
        }
    }
    for handle in ["a", "b"] {
        let (stdout, _, exited) = client.streamed(handle);
        assert!(
            stdout == pattern(0, 4 * MIB),
            "{handle}: {} bytes, or others",
            stdout.len()
        );
        assert_eq!(exited["exitCode"], 0);
    }
    let (_, status) = client.finish();
    assert_eq!(status.and_then(|s| s.code()), Some(0));
}

/// Where the user's share of pipe memory is used up, pipes hold a page. Everything works, only slower.
#[apply(test)]
fn the_smallest_pipes_work() {
    let mut client = Client::in_process();
    let mut params = Mode::Pipe.params("c", &["sh", "-c", "printf ready; exec cat"]);
    params["outputBytesCap"] = Value::Null;
    let pid = client.spawn_ready(params);
    for fd in 0..3 {
        let path = format!("/proc/{pid}/fd/{fd}");
        let write = fd > 0;
        let pipe = std::fs::OpenOptions::new().read(!write).write(write).open(path);
        let pipe = pipe.expect("the child's pipe");
        // SAFETY: plain fcntl on an open descriptor.
        let size = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&pipe), libc::F_SETPIPE_SZ, 4096) };
        assert_eq!(size, 4096);
    }
    let all = pattern(0, 768 * 1024);
    for part in all.chunks(100_000) {
        client.write("c", part);
    }
    client.close_stdin("c");
    let (stdout, _, exited) = client.streamed("c");
    assert!(stdout == all, "{} bytes, or others", stdout.len());
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

/// Reads cut anywhere; the text does not show where.
#[apply(test)]
fn characters_across_reads_stay_whole() {
    let scratch = Scratch::new();
    let mut client = Client::in_process();
    for (shift, unit) in [(1, "€"), (2, "é"), (3, "🦀")] {
        let text = format!("{}{}", "x".repeat(shift), unit.repeat(200_000));
        let file = scratch.file("text", 0o600, &text);
        let exited = client.run_with(json!({
            "processHandle": "c", "command": ["cat", file], "outputBytesCap": null,
        }));
        assert!(exited["stdout"] == text, "{unit} was damaged");
        assert!(exited.get("stdoutBase64").is_none());
        assert_eq!(exited["stdoutCapReached"], false);
    }
    client.finish();
}

/// Invalid UTF-8 becomes U+FFFD, and only then the exact bytes come as well.
#[apply(test)]
fn collected_text_and_exact_bytes() {
    let mut client = Client::in_process();
    for (script, text, bytes) in [
        (r"printf 'a\377b'", "a\u{fffd}b", &b"a\xffb"[..]),
        (r"printf 'a\303'", "a\u{fffd}", b"a\xc3"),
        (r"printf '\360\237\246'", "\u{fffd}", b"\xf0\x9f\xa6"),
        (
            r"printf '\355\240\200'",
            "\u{fffd}\u{fffd}\u{fffd}",
            b"\xed\xa0\x80",
        ),
    ] {
        let exited = client.run_with(collected(script));
        assert_eq!(exited["stdout"], text, "{script}");
        assert_eq!(exited["stdoutBase64"], encode(bytes), "{script}");
        assert_eq!(exited["stdoutBytes"], bytes.len());
        assert_eq!(exited["stderr"], "");
        assert!(exited.get("stderrBase64").is_none());
        let exited = client.run_with(collected(&format!("{script} >&2")));
        assert_eq!(exited["stderr"], text, "{script}");
        assert_eq!(exited["stderrBase64"], encode(bytes), "{script}");
        assert!(exited.get("stdoutBase64").is_none());
    }
    // What is valid stays as it is, control characters included.
    let exited = client.run_with(collected(r#"printf 'a\0b\001\033"\\\302\200\357\277\277'"#));
    assert_eq!(exited["stdout"], "a\0b\u{1}\u{1b}\"\\\u{80}\u{ffff}");
    assert!(exited.get("stdoutBase64").is_none());
    client.finish();
}

/// One byte less than the cap, the cap, one byte more; and no cap's worth at all.
#[apply(test)]
fn collected_up_to_the_cap() {
    let mut client = Client::in_process();
    for (script, cap, text, reached) in [
        ("printf 12345678", 9, "12345678", false),
        ("printf 12345678", 8, "12345678", false),
        ("printf 12345678", 7, "1234567", true),
        ("printf 12345678", 1, "1", true),
        ("printf 12345678", 0, "", true),
        ("true", 0, "", false),
        ("true", 5, "", false),
    ] {
        for (stream, other, redirected) in [("stdout", "stderr", ""), ("stderr", "stdout", " >&2")] {
            let mut params = collected(&format!("{script}{redirected}"));
            params["outputBytesCap"] = json!(cap);
            let exited = client.run_with(params);
            let told = |name: &str, what: &str| exited[format!("{name}{what}")].clone();
            assert_eq!(told(stream, ""), text, "{script} with {cap}");
            assert_eq!(told(stream, "CapReached"), reached, "{script} with {cap}");
            assert_eq!(told(stream, "Bytes"), if script == "true" { 0 } else { 8 });
            assert_eq!(
                (told(other, ""), told(other, "CapReached")),
                (json!(""), json!(false))
            );
            assert_eq!(exited["exitCode"], 0);
        }
    }
    client.finish();
}

#[apply(test)]
fn the_default_cap_is_a_mebibyte_and_null_is_none() {
    let mut client = Client::in_process();
    for (written, cap, kept) in [
        (MIB, None, MIB),
        (MIB + 1, None, MIB),
        (MIB + 1, Some(Value::Null), MIB + 1),
        (MIB + 1, Some(json!(u64::MAX)), MIB + 1),
    ] {
        let mut params = collected(&format!("head -c {written} /dev/zero | tr '\\0' x"));
        if let Some(cap) = cap {
            params["outputBytesCap"] = cap;
        }
        let exited = client.run_with(params);
        assert_eq!(exited["stdout"].as_str().map(str::len), Some(kept));
        assert_eq!(exited["stdoutCapReached"], kept < written);
        assert_eq!(exited["stdoutBytes"], written);
    }
    for cap in [json!(-1), json!(1.5), json!("5"), json!([])] {
        let mut params = collected("true");
        params["outputBytesCap"] = cap;
        assert_eq!(client.refuse("process/spawn", params).0, -32602);
    }
    client.finish();
}

#[apply(test)]
fn a_cap_cuts_before_a_character_it_would_split() {
    let mut client = Client::in_process();
    for (script, cap, text, base64) in [
        (r"printf 'a\303\251b'", 2, "a", None),
        (r"printf 'a\303\251b'", 3, "aé", None),
        (r"printf 'a\342\202\254'", 2, "a", None),
        (r"printf 'a\342\202\254'", 3, "a", None),
        (r"printf 'a\342\202\254b'", 4, "a€", None),
        (r"printf '\360\237\246\200'", 1, "", None),
        (r"printf '\360\237\246\200'", 2, "", None),
        (r"printf '\360\237\246\200'", 3, "", None),
        // Bytes that are not a character are not cut off, and the bytes are those within the cap.
        (r"printf 'a\377b'", 2, "a\u{fffd}", Some(&b"a\xff"[..])),
        (r"printf '\377\303\251'", 2, "\u{fffd}", Some(b"\xff\xc3")),
    ] {
        let mut params = collected(script);
        params["outputBytesCap"] = json!(cap);
        let exited = client.run_with(params);
        assert_eq!(exited["stdout"], text, "{script} with {cap}");
        assert_eq!(
            exited.get("stdoutBase64"),
            base64.map(|b| json!(encode(b))).as_ref(),
            "{script}"
        );
    }
    client.finish();
}

/// Streamed, a cap is exact to the byte, and exactly the last delta says so.
#[apply(both)]
fn streamed_up_to_the_cap(mode: Mode) {
    let mut client = Client::in_process();
    for (cap, text, reached) in [
        (9, "12345678", false),
        (8, "12345678", false),
        (7, "1234567", true),
        (1, "1", true),
        (0, "", true),
    ] {
        let mut params = mode.params("c", &["printf", "12345678"]);
        params["outputBytesCap"] = json!(cap);
        client.spawn(params);
        let mut seen = Vec::new();
        let mut said = false;
        let exited = loop {
            let notification = client.notification();
            let params = notification["params"].clone();
            if notification["method"] == "process/exited" {
                break params;
            }
            assert!(!said, "a delta behind the last one");
            assert_eq!(params["offset"], seen.len());
            seen.extend(crate::harness::decoded(&params));
            said = params["capReached"] == true;
        };
        assert_eq!(
            (String::from_utf8_lossy(&seen).as_ref(), said),
            (text, reached),
            "{cap}"
        );
        assert_eq!(exited["stdoutCapReached"], reached);
        assert_eq!(exited["stdoutBytes"], 8);
        assert_eq!(exited["stdout"], "");
    }
    // Nothing written, nothing capped, no delta.
    let mut params = mode.params("c", &["true"]);
    params["outputBytesCap"] = json!(0);
    client.spawn(params);
    let exited = client.notification();
    assert_eq!(exited["method"], "process/exited");
    assert_eq!(exited["params"]["stdoutCapReached"], false);
    client.finish();
}

/// The cap is reached by the first byte that is dropped. If that comes later, an empty delta reports.
#[apply(both)]
fn exactly_the_cap_is_not_capped_until_more_comes(mode: Mode) {
    let mut client = Client::in_process();
    let mut params = plain(
        mode,
        "c",
        "printf 12345678; read line; printf 9; read line; printf 10",
    );
    params["outputBytesCap"] = json!(8);
    client.spawn(params);
    let mut seen = Vec::new();
    while seen.len() < 8 {
        let (bytes, params) = client.delta("c");
        assert_eq!(params["capReached"], false);
        seen.extend(bytes);
    }
    assert_eq!(seen, b"12345678");
    client.write("c", b"\n");
    let (bytes, params) = client.delta("c");
    assert_eq!(bytes, b"");
    assert_eq!(
        (&params["capReached"], &params["offset"]),
        (&json!(true), &json!(8))
    );
    client.write("c", b"\n");
    let next = client.notification();
    assert_eq!(next["method"], "process/exited", "{next}");
    assert_eq!(next["params"]["stdoutCapReached"], true);
    assert_eq!(next["params"]["stdoutBytes"], 11);
    client.finish();
}

#[apply(test)]
fn a_cap_is_for_each_stream() {
    let mut client = Client::in_process();
    let mut params = plain(Mode::Pipe, "c", "printf 12345; printf 123 >&2");
    params["outputBytesCap"] = json!(4);
    client.spawn(params.clone());
    let (stdout, stderr, exited) = client.streamed("c");
    assert_eq!((&stdout[..], &stderr[..]), (&b"1234"[..], &b"123"[..]));
    assert_eq!(
        (&exited["stdoutCapReached"], &exited["stderrCapReached"]),
        (&json!(true), &json!(false))
    );
    params["streamStdoutStderr"] = json!(false);
    let exited = client.run_with(params);
    assert_eq!(
        (&exited["stdout"], &exited["stderr"]),
        (&json!("1234"), &json!("123"))
    );
    client.finish();
}

/// The child writes as if there were no cap, and is still heard to the end of its output.
#[apply(both)]
fn a_cap_neither_blocks_nor_kills(mode: Mode) {
    let bytes = 8 * MIB;
    let mut client = Client::in_process();
    let mut params = plain(mode, "c", &format!("head -c {bytes} /dev/zero; exit 7"));
    params["outputBytesCap"] = json!(10);
    client.spawn(params);
    let (stdout, _, exited) = client.streamed("c");
    assert_eq!(stdout, [0; 10]);
    assert_eq!(
        (&exited["exitCode"], &exited["signal"]),
        (&json!(7), &Value::Null)
    );
    assert_eq!(exited["stdoutBytes"], bytes);
    assert_eq!(exited["stdoutCapReached"], true);
    client.finish();
}

// ---- clients that do not read ----

/// Waits until a process that writes as fast as it can is stuck: it waits, and so does the server.
fn wait_until_stuck(pid: u32) {
    wait_until_at_rest("it is stuck", || vec![std::process::id(), pid]);
}

/// `yes`, streamed without a cap.
fn flood(mode: Mode, handle: &str) -> Value {
    plain(mode, handle, "exec yes")
}

/// Takes what came of a flood; all of it must be there.
fn check_flood(client: &mut Client, handle: &str) -> Value {
    let (stdout, _, exited) = client.streamed(handle);
    assert_eq!(exited["stdoutBytes"], stdout.len(), "something was dropped");
    let whole = stdout.chunks(2).all(|c| c == &b"y\n"[..c.len()]);
    assert!(whole, "something was damaged");
    exited
}

/// Memory is bounded, the children that write wait, and the others run on. What they wrote comes
/// whole once the client reads again.
#[apply(both)]
fn a_client_that_does_not_read_slows_only_writers(mode: Mode) {
    let mut client = Client::in_process();
    let before = private_bytes();
    client.stop_reading();
    let handles: Vec<String> = (0..8).map(|i| format!("flood {i}")).collect();
    for handle in &handles {
        client.request("process/spawn", flood(mode, handle));
    }
    let own = std::process::id();
    let yes = || {
        let children = crate::harness::children_of(own);
        let yes = children.iter().filter(|p| p.name == "yes");
        yes.map(|p| p.pid).collect::<Vec<_>>()
    };
    wait_until("all of them write", || yes().len() == 8);
    for pid in yes() {
        wait_until_stuck(pid);
    }
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 96 * MIB as u64, "{grown} bytes more in memory");
    // One that writes nothing is neither slowed nor blocked.
    client.request(
        "process/spawn",
        json!({"processHandle": "quiet", "command": ["sleep", "0.05"]}),
    );
    for handle in &handles {
        client.request("process/kill", json!({"processHandle": handle}));
    }
    wait_until("all are dead, though their exits are not read", || {
        crate::harness::children_of(own).iter().all(|p| p.is_dead())
    });
    client.read_again();
    for handle in &handles {
        assert_eq!(check_flood(&mut client, handle)["exitCode"], 137);
    }
    assert_eq!(client.exited("quiet")["exitCode"], 0);
    client.finish();
}

/// The client does not read; what it asks for still happens, and on time.
#[apply(both)]
fn kills_and_timeouts_are_obeyed_while_output_is_not_read(mode: Mode) {
    let mut client = Client::in_process();
    let killed = client.spawn(flood(mode, "killed"));
    let mut params = flood(mode, "timed");
    params["timeoutMs"] = json!(800);
    let timed = client.spawn(params);
    let terminal = client.spawn(flood(Mode::Tty, "resized"));
    client.stop_reading();
    wait_until_stuck(killed);
    wait_until_stuck(terminal);
    let started = Instant::now();
    client.request(
        "process/resizePty",
        json!({"processHandle": "resized", "size": {"rows": 11, "cols": 22}}),
    );
    wait_until("the terminal has its size", || {
        let stty = Command::new("stty")
            .args(["-F", &format!("/proc/{terminal}/fd/0"), "size"])
            .output();
        stty.expect("stty runs").stdout == b"11 22\n"
    });
    client.request("process/kill", json!({"processHandle": "killed"}));
    wait_until("the kill is obeyed", || !is_alive(killed));
    wait_until("the timeout is kept", || !is_alive(timed));
    let took = started.elapsed();
    assert!(took < PATIENCE, "{took:?}");
    client.read_again();
    let exited = check_flood(&mut client, "killed");
    assert_eq!(
        (&exited["exitCode"], &exited["signal"]),
        (&json!(137), &json!("SIGKILL"))
    );
    let exited = check_flood(&mut client, "timed");
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"]),
        (&json!(124), &json!(true))
    );
    client.kill("resized");
    check_flood(&mut client, "resized");
    client.finish();
}

#[apply(test)]
fn stdin_is_still_consumed_while_output_is_not_read() {
    let mut client = Client::in_process();
    let stuck = client.spawn(flood(Mode::Pipe, "flood"));
    let reader = client.spawn(Mode::Pipe.params("reader", &["sh", "-c", "head -c 3000000 >/dev/null"]));
    client.stop_reading();
    wait_until_stuck(stuck);
    for _ in 0..3 {
        client.write("reader", &vec![0; 1_000_000]);
    }
    wait_until("it has read everything", || !is_alive(reader));
    client.request("process/kill", json!({"processHandle": "flood"}));
    client.read_again();
    assert_eq!(client.exited("reader")["exitCode"], 0);
    check_flood(&mut client, "flood");
    client.finish();
}

/// What is dropped needs no client: the child is drained as fast as it writes.
#[apply(test)]
fn a_capped_stream_does_not_wait_for_the_client() {
    let mut client = Client::in_process();
    let stuck = client.spawn(flood(Mode::Pipe, "flood"));
    client.stop_reading();
    wait_until_stuck(stuck);
    let mut params = plain(Mode::Pipe, "capped", "yes | head -c 16777216");
    params["outputBytesCap"] = json!(1000);
    client.request("process/spawn", params);
    let own = std::process::id();
    wait_until("the capped one has run to its end", || {
        let children = crate::harness::children_of(own);
        children.iter().all(|p| p.pid == stuck) && !children.is_empty()
    });
    client.request("process/kill", json!({"processHandle": "flood"}));
    client.read_again();
    let (stdout, _, exited) = client.streamed("capped");
    assert_eq!(stdout.len(), 1000);
    assert_eq!(exited["stdoutBytes"], 16 * MIB);
    assert_eq!(exited["exitCode"], 0);
    check_flood(&mut client, "flood");
    client.finish();
}

/// The exit waits for what was written before it, however long the client takes.
#[apply(test)]
fn a_slow_reader_of_a_dead_process_gets_everything() {
    let scratch = Scratch::new();
    let file = patterned(&scratch, 2 * MIB);
    let mut client = Client::in_process();
    let script = format!("printf ready; read line; exec cat '{file}'");
    let modes = [(Mode::Pipe, "pipe"), (Mode::Tty, "tty")];
    let pids = modes.map(|(mode, handle)| client.spawn_ready(plain(mode, handle, &script)));
    client.stop_reading();
    for ((_, handle), pid) in modes.iter().zip(pids) {
        client.write(handle, b"\n");
        wait_until_stuck(pid);
        // It dies with its output in the pipe or the terminal, unread.
        // SAFETY: no memory is involved; the server's own child, which is alive and stuck.
        unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
        wait_until("it is dead", || !is_alive(pid));
    }
    // Longer than what others may delay an exit by.
    std::thread::sleep(Duration::from_millis(2_200));
    client.read_again();
    for (_, handle) in modes {
        let (stdout, _, exited) = client.streamed(handle);
        assert_eq!(exited["signal"], "SIGTERM");
        assert_eq!(exited["outputDrainTimedOut"], false, "{handle}");
        assert_eq!(exited["stdoutBytes"], stdout.len() + 5);
        assert!(stdout.len() > 65_536, "{} bytes", stdout.len());
        assert!(stdout == pattern(0, stdout.len()), "something was damaged");
    }
    client.finish();
}

/// Only so many streams have a larger pipe at a time, and each gives its own back at its end.
#[apply(test)]
fn busy_streams_get_a_larger_pipe_however_many_came_before() {
    let mut client = Client::in_process();
    for i in 0..80 {
        // Behind its cap a stream is drained at full speed; large writes fill the pipe at once.
        let mut params = Mode::Pipe.params("a", &["dd", "if=/dev/zero", "bs=1M"]);
        params["outputBytesCap"] = json!(0);
        let pid = client.spawn(params);
        // Opening what /proc shows of a pipe opens the pipe itself.
        let pipe = std::fs::File::open(format!("/proc/{pid}/fd/1")).expect("the program runs");
        wait_until(&format!("busy stream {i} has a larger pipe"), || {
            // SAFETY: plain fcntl on an open descriptor.
            let size = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&pipe), libc::F_GETPIPE_SZ) };
            size > 64 * 1024
        });
        drop(pipe);
        client.kill("a");
        client.exited("a");
    }
    client.finish();
}
