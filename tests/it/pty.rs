//! Terminals: what the child finds, what typing does, sizes, and how a terminal ends.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Mode, PATIENCE, PROCWIRE, Scratch, apply, binary, children_of, descriptors, is_alive, kill_stray,
    must_idle, processes, test, times, wait_until, without_a_usable_proc,
};
use serde_json::{Value, json};

fn script(handle: &str, script: &str) -> Value {
    Mode::Tty.params(handle, &["sh", "-c", script])
}

fn resize(client: &mut Client, handle: &str, rows: u16, cols: u16) {
    let size = json!({"rows": rows, "cols": cols});
    let result = client.call(
        "process/resizePty",
        json!({"processHandle": handle, "size": size}),
    );
    assert_eq!(result, json!({}));
}

/// All three descriptors, `/dev/tty`, a session and group of its own, in the foreground.
#[apply(test)]
fn is_the_childs_controlling_terminal() {
    let mut client = Client::in_process();
    let pid = client.spawn(script(
        "c",
        "test -t 0 && test -t 1 && test -t 2 && echo here >/dev/tty && read -r s </proc/$$/stat && echo \"$s\"",
    ));
    let (stdout, _, exited) = client.streamed("c");
    let printed = String::from_utf8_lossy(&stdout);
    let stat = printed.strip_prefix("here\r\n").expect("/dev/tty opens");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    let pid = pid.to_string();
    let (group, session, foreground) = (fields[2], fields[3], fields[5]);
    assert_eq!([group, session, foreground], [&pid, &pid, &pid], "{stat}");
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

#[apply(test)]
fn has_its_size_from_the_start() {
    let mut client = Client::in_process();
    for (size, printed) in [
        (None, "24 80"),
        (Some((50, 132)), "50 132"),
        (Some((1, 1)), "1 1"),
        (Some((65_535, 65_535)), "65535 65535"),
    ] {
        let mut params = Mode::Tty.params("c", &["stty", "size"]);
        if let Some((rows, cols)) = size {
            params["size"] = json!({"rows": rows, "cols": cols});
        }
        client.spawn(params);
        let (stdout, _, _) = client.streamed("c");
        assert_eq!(String::from_utf8_lossy(&stdout), format!("{printed}\r\n"));
    }
    client.finish();
}

/// A C library may look its name up in `/proc`.
#[apply(test)]
fn is_opened_without_a_usable_proc() {
    let scratch = Scratch::new();
    for (what, hide) in without_a_usable_proc(&scratch) {
        let mut command = Command::new("unshare");
        let script = format!("{hide}; exec \"$0\"");
        command.args(["-m", "sh", "-c", &script]).arg(PROCWIRE);
        let mut client = Client::command(command);
        client.spawn(json!({"processHandle": "a", "command": ["tty"], "tty": true}));
        let (stdout, _, exited) = client.streamed("a");
        assert_eq!(exited["exitCode"], 0, "{what}: {exited}");
        assert!(stdout.starts_with(b"/dev/pts/"), "{what}: {stdout:?}");
        client.finish();
    }
}

/// A new size is a SIGWINCH to the foreground; the same size again is none.
#[apply(test)]
fn a_resize_is_seen_and_signalled_once() {
    let mut client = Client::in_process();
    client.spawn_ready(script(
        "c",
        "trap 'stty size' WINCH; printf ready; while :; do sleep 0.02; done",
    ));
    resize(&mut client, "c", 30, 100);
    client.until("c", "30 100\r\n");
    resize(&mut client, "c", 30, 100);
    // Time for a signal that is not to come, and for the trap it would have set off.
    std::thread::sleep(Duration::from_millis(100));
    resize(&mut client, "c", 65_535, 1);
    let mut printed = client.until("c", "65535 1\r\n");
    resize(&mut client, "c", 5, 6);
    printed.push_str(&client.until("c", "5 6\r\n"));
    assert_eq!(printed, "65535 1\r\n5 6\r\n");
    client.kill("c");
    client.exited("c");
    client.finish();
}

#[apply(test)]
fn malformed_sizes_are_refused() {
    let mut client = Client::in_process();
    client.spawn(script("c", "read line; stty size"));
    for size in [
        json!({"rows": 0, "cols": 80}),
        json!({"rows": 24, "cols": 0}),
        json!({"rows": -1, "cols": 80}),
        json!({"rows": 65_536, "cols": 80}),
        json!({"rows": 24.5, "cols": 80}),
        json!({"rows": "24", "cols": 80}),
        json!({"rows": 24}),
        json!([24, 80]),
        Value::Null,
    ] {
        let params = json!({"processHandle": "c", "size": size});
        let (code, message) = client.refuse("process/resizePty", params);
        assert_eq!(code, -32602, "{size}: {message}");
        let mut params = script("d", "true");
        params["size"] = size.clone();
        if !size.is_null() {
            assert_eq!(client.refuse("process/spawn", params).0, -32602, "{size}");
        }
    }
    client.write("c", b"\n");
    client.until("c", "24 80");
    client.exited("c");
    client.finish();
}

#[apply(test)]
fn only_a_live_terminal_can_be_resized() {
    let mut client = Client::in_process();
    let params = json!({"processHandle": "c", "size": {"rows": 2, "cols": 2}});
    assert_eq!(client.refuse("process/resizePty", params.clone()).0, -32600);
    client.spawn(Mode::Pipe.params("c", &["cat"]));
    assert_eq!(client.refuse("process/resizePty", params.clone()).0, -32600);
    client.close_stdin("c");
    client.exited("c");
    for _ in 0..times(30) {
        client.spawn(Mode::Tty.params("c", &["true"]));
        let racing = client.request("process/resizePty", params.clone());
        client.exited("c");
        let response = client.response(racing);
        let code = response["error"]["code"].as_i64();
        assert!(matches!(code, None | Some(-32600)), "{response}");
        assert_eq!(client.refuse("process/resizePty", params.clone()).0, -32600);
    }
    client.finish();
}

/// Also where the server itself was started to ignore it.
#[apply(test)]
fn control_c_interrupts_the_program() {
    let mut ignoring = std::process::Command::new("sh");
    let program = binary().get_program().to_owned();
    ignoring
        .args(["-c", "trap '' INT QUIT TSTP; exec \"$0\""])
        .arg(program);
    for mut client in [Client::in_process(), Client::command(ignoring)] {
        for (key, code, signal) in [(b"\x03", 130, "SIGINT"), (b"\x1c", 131, "SIGQUIT")] {
            client.spawn(Mode::Tty.params("c", &["cat"]));
            client.write("c", key);
            let exited = client.exited("c");
            assert_eq!(
                (&exited["exitCode"], &exited["signal"]),
                (&json!(code), &json!(signal))
            );
        }
        client.finish();
    }
}

/// An interactive shell; it has to have job control.
fn shell(client: &mut Client) -> u32 {
    let mut params = Mode::Tty.params("c", &["bash", "--norc", "--noprofile", "-i"]);
    params["env"] = json!({"PS1": "> ", "HISTFILE": null, "TERM": "dumb"});
    let pid = client.spawn(params);
    // What is typed is echoed, so it must not look like its answer.
    client.write("c", b"echo re''ady\n");
    let greeting = client.until("c", "ready\r\n");
    assert!(!greeting.contains("job control"), "{greeting}");
    pid
}

/// Waits until the shell has a child of this name in this state.
fn wait_for_job(shell: u32, name: &str, states: &str) -> u32 {
    let job = || {
        let mut children = children_of(shell).into_iter();
        children.find(|c| c.name == name && states.contains(&c.state))
    };
    wait_until("the job is there", || job().is_some());
    job().map_or(0, |j| j.pid)
}

fn leave(client: &mut Client) {
    client.write("c", b"exit 6\n");
    assert_eq!(client.exited("c")["exitCode"], 6);
}

#[apply(test)]
fn control_c_ends_the_foreground_job_and_spares_the_shell() {
    let mut client = Client::in_process();
    let shell = shell(&mut client);
    client.write("c", b"sleep 1000\n");
    let job = wait_for_job(shell, "sleep", "S");
    client.write("c", b"\x03");
    wait_until("the job is gone", || !is_alive(job));
    client.write("c", b"echo $?''.\n");
    client.until("c", "130.\r\n");
    leave(&mut client);
    client.finish();
}

#[apply(test)]
fn control_z_stops_a_job_that_can_go_on() {
    let mut client = Client::in_process();
    let shell = shell(&mut client);
    client.write("c", b"cat\n");
    let job = wait_for_job(shell, "cat", "S");
    client.write("c", b"\x1a");
    wait_for_job(shell, "cat", "T");
    client.until("c", "Stopped");
    client.write("c", b"fg\n");
    wait_for_job(shell, "cat", "S");
    client.write("c", b"on\n\x04");
    wait_until("the job has ended", || !is_alive(job));
    client.write("c", b"echo $?''.\n");
    let printed = client.until("c", "0.\r\n");
    // The terminal's echo, and what cat has read.
    assert_eq!(printed.matches("on\r\n").count(), 2, "{printed:?}");
    leave(&mut client);
    client.finish();
}

#[apply(test)]
fn a_background_job_that_touches_the_terminal_stops_alone() {
    let mut client = Client::in_process();
    let shell = shell(&mut client);
    client.write("c", b"stty rows 99 -icrnl &\n");
    let job = wait_for_job(shell, "stty", "T");
    client.write("c", b"kill -KILL %1; echo un''harmed\n");
    client.until("c", "unharmed\r\n");
    wait_until("the job is gone", || !is_alive(job));
    client.kill("c");
    client.exited("c");
    client.finish();
}

#[apply(test)]
fn control_d_is_the_end_of_input() {
    let mut client = Client::in_process();
    client.spawn(Mode::Tty.params("c", &["cat"]));
    client.write("c", b"line\n\x04");
    let (stdout, _, exited) = client.streamed("c");
    assert_eq!(String::from_utf8_lossy(&stdout), "line\r\nline\r\n");
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

#[apply(test)]
fn echo_and_line_ends_are_the_programs_to_set() {
    let mut client = Client::in_process();
    for (settings, printed) in [
        ("echo onlcr", "typed\r\ntyped\r\n"),
        ("-echo onlcr", "typed\r\n"),
        ("-echo -onlcr", "typed\n"),
        ("echo -onlcr", "typed\ntyped\n"),
        ("-echo echonl onlcr", "\r\ntyped\r\n"),
    ] {
        let program = format!("stty {settings} && printf ready; read line; printf '%s\\n' \"$line\"");
        client.spawn_ready(script("c", &program));
        client.write("c", b"typed\n");
        let (stdout, _, _) = client.streamed("c");
        assert_eq!(String::from_utf8_lossy(&stdout), printed, "{settings}");
    }
    client.finish();
}

/// On a terminal, a read fails once its last writer has closed it. That is the end, not an error.
#[apply(test)]
fn the_end_of_a_terminal_is_not_an_error() {
    let scratch = Scratch::new();
    let log = scratch.path("log");
    let mut command = binary();
    command.env("RUST_LOG", "warn");
    command.stderr(std::fs::File::create(&log).expect("a file for the log"));
    let mut client = Client::command(command);
    for code in [0, 5] {
        client.spawn(script("c", &format!("echo text; exit {code}")));
        let (stdout, stderr, exited) = client.streamed("c");
        assert_eq!((&stdout[..], &stderr[..]), (&b"text\r\n"[..], &b""[..]));
        assert_eq!(exited["exitCode"], code);
        assert_eq!(exited["outputDrainTimedOut"], false);
    }
    client.finish();
    assert_eq!(std::fs::read_to_string(&log).expect("the log"), "");
}

/// Only the child holds the terminal's other side, so its end comes with the exit.
#[apply(test)]
fn ends_with_its_child() {
    let mut client = Client::in_process();
    let started = Instant::now();
    for _ in 0..times(20) {
        client.spawn(Mode::Tty.params("c", &["true"]));
        assert_eq!(client.exited("c")["outputDrainTimedOut"], false);
    }
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    client.finish();
}

/// One that has left session and group keeps the terminal open; that delays the exit, and not for long.
#[apply(test)]
fn a_detached_child_that_holds_it_delays_the_exit_a_little() {
    let mut client = Client::in_process();
    client.spawn(script(
        "c",
        "setsid sh -c 'trap \"\" HUP; echo ready $$.; exec sleep 1000' & read line; exit 4",
    ));
    let printed = client.until("c", ".\r\n");
    let stray = printed.trim_end_matches(".\r\n").rsplit(' ').next();
    let stray: u32 = stray.and_then(|pid| pid.parse().ok()).expect("its pid");
    let started = Instant::now();
    client.write("c", b"\n");
    let exited = client.exited("c");
    let took = started.elapsed();
    assert_eq!(exited["exitCode"], 4);
    assert_eq!(exited["outputDrainTimedOut"], true);
    assert!(
        (2_000..PATIENCE.as_millis()).contains(&took.as_millis()),
        "{took:?}"
    );
    assert!(is_alive(stray), "what has left the group lives on");
    client.finish();
    kill_stray(stray);
}

/// All its descriptors are closed and one is opened again: nothing is lost, in either direction.
#[apply(test)]
fn a_hung_up_terminal_can_be_opened_again() {
    let mut client = Client::in_process();
    let pid = client.spawn(script(
        "c",
        "exec 0<&- 1>&- 2>&-; kill -STOP $$; exec 0<>/dev/tty 1>&0; echo back; read line; echo \"$line\"",
    ));
    wait_until("it is stopped", || {
        processes().iter().any(|p| p.pid == pid && p.state == "T")
    });
    client.call("process/kill", json!({"processHandle": "c", "signal": "SIGCONT"}));
    client.until("c", "back\r\n");
    client.write("c", b"typed\n");
    let (stdout, _, exited) = client.streamed("c");
    assert_eq!(String::from_utf8_lossy(&stdout), "typed\r\ntyped\r\n");
    assert_eq!(exited["exitCode"], 0);
    client.finish();
}

/// What was typed while no process had it open, more than the kernel takes, waits without a spin.
#[apply(test)]
fn input_for_a_hung_up_terminal_costs_nothing() {
    const TYPED: usize = 512 * 1024;
    let mut client = Client::in_process();
    let reader = format!("head -c {TYPED} | wc -c");
    let pid = client.spawn(script(
        "c",
        &format!("stty raw -echo; exec 0<&- 1>&- 2>&-; kill -STOP $$; exec 0<>/dev/tty 1>&0; {reader}"),
    ));
    wait_until("it is stopped", || {
        processes().iter().any(|p| p.pid == pid && p.state == "T")
    });
    let id = client.write("c", &vec![b'x'; TYPED]);
    assert_eq!(client.result(id), json!({}));
    must_idle();
    client.call("process/kill", json!({"processHandle": "c", "signal": "SIGCONT"}));
    client.until("c", &format!("{TYPED}\n"));
    assert_eq!(client.exited("c")["exitCode"], 0);
    client.finish();
}

/// Terminals and pipes opened at the same moment: each child has its own three and no other.
#[apply(test)]
fn children_have_nothing_of_each_other() {
    let mut client = Client::in_process();
    for _ in 0..times(4) {
        let handles: Vec<String> = (0..24).map(|i| format!("h{i}")).collect();
        let mut ids = Vec::new();
        for (i, handle) in handles.iter().enumerate() {
            let mode = if i % 2 == 0 { Mode::Tty } else { Mode::Pipe };
            ids.push(client.request("process/spawn", mode.params(handle, &["sleep", "1000"])));
        }
        let mut seen: Vec<String> = Vec::new();
        for (i, id) in ids.into_iter().enumerate() {
            let pid = client.result(id)["pid"].to_string();
            // The loader of a program has its libraries open for a moment. What does not belong to
            // the child would be there all the time.
            let mut held = Vec::new();
            wait_until("it has three descriptors", || {
                held = descriptors(&pid);
                held.len() == 3
            });
            let mut own: Vec<String> = Vec::new();
            for (fd, held) in held.iter().enumerate() {
                let target = held.strip_prefix(&format!("{fd} -> ")).expect("0, 1 and 2");
                let kind = if i % 2 == 0 { "/dev/pts/" } else { "pipe:[" };
                assert!(target.starts_with(kind), "{held}");
                own.push(target.to_owned());
            }
            own.dedup();
            assert_eq!(own.len(), if i % 2 == 0 { 1 } else { 3 });
            assert!(
                own.iter().all(|o| !seen.contains(o)),
                "{own:?} belongs to another"
            );
            seen.extend(own);
        }
        for handle in &handles {
            client.request("process/kill", json!({"processHandle": handle}));
        }
        for handle in &handles {
            client.exited(handle);
        }
    }
    client.finish();
}

/// No descriptor, thread or process; looked at by the harness, and here while the server still runs.
#[apply(test)]
fn nothing_is_left_of_many() {
    let mut client = Client::in_process();
    client.spawn(Mode::Tty.params("first", &["true"]));
    client.exited("first");
    let settled = descriptors("self");
    for round in 0..times(10) {
        for i in 0..10 {
            let handle = format!("h{i}");
            let failing = i == 9;
            let program = if failing { "/nonexistent" } else { "true" };
            client.request("process/spawn", Mode::Tty.params(&handle, &[program]));
        }
        for i in 0..9 {
            assert_eq!(client.exited(&format!("h{i}"))["exitCode"], 0, "round {round}");
        }
    }
    wait_until("nothing is left", || descriptors("self") == settled);
    assert!(
        !settled.iter().any(|d| d.contains("ptmx") || d.contains("pts")),
        "{settled:?}"
    );
    client.finish();
}

#[apply(test)]
fn ignoring_the_hang_up_does_not_survive_the_connection() {
    let mut client = Client::binary(&[]);
    let pid = client.spawn_ready(script(
        "c",
        "trap '' HUP TERM INT; sleep 1000 & printf ready; wait; wait",
    ));
    wait_until("both of them run", || !children_of(pid).is_empty());
    let below = children_of(pid)[0].pid;
    let started = Instant::now();
    let (_, status) = client.finish();
    assert!(
        started.elapsed() < Duration::from_secs(9),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(status.and_then(|s| s.code()), Some(0));
    assert!(!is_alive(pid) && !is_alive(below));
}

/// The wire is UTF-8, and half a character is none.
#[apply(test)]
fn erasing_takes_whole_characters() {
    let mut client = Client::in_process();
    let script = "stty -a | grep -o -e -*iutf8; stty -echo; printf ready; head -n1 | od -An -tx1";
    client.spawn(Mode::Tty.params("c", &["sh", "-c", script]));
    let printed = client.until("c", "ready");
    assert!(printed.starts_with("iutf8"), "{printed}");
    client.write("c", "caf\u{e9}\x7fe\n".as_bytes());
    let (stdout, _, _) = client.streamed("c");
    assert_eq!(String::from_utf8_lossy(&stdout).trim(), "63 61 66 65 0a");
    client.finish();
}
