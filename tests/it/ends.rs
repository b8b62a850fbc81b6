//! Whatever tries to outlive its end, and every way in which an end comes, SIGKILL of the server
//! and of its guard included. `tests/ends` has the whole table; these are its most telling cells.
//!
//! The processes of a test are known by a number that is an argument of each, so that they are found
//! whatever they have done to their parents, sessions and environments.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Mode, PATIENCE, Scratch, apply, binary, both, children_of, is_alive, kill_stray, processes,
    reap_adopted, test, wait_until,
};
use serde_json::json;

/// Everything is dead 2 seconds after an end; three times that on a busy machine.
const DEAD: Duration = Duration::from_secs(6);

/// Scripts that leave processes behind, and how many of these may outlive a kill. `%` is the number.
/// Each is ready once two of its processes sleep, but for the one that stops itself.
const TRICKS: &[(&str, usize, &str)] = &[
    ("child", 0, "sleep 1000.% & sleep 1001.% & echo ready; wait"),
    (
        "deaf",
        0,
        "trap '' TERM HUP INT; sleep 1000.% & sleep 1001.% & echo ready; wait",
    ),
    (
        "nohup",
        0,
        "nohup sleep 1000.% >/dev/null 2>&1 & sleep 1001.% & echo ready; wait",
    ),
    (
        "session",
        0,
        "setsid sleep 1000.% & sleep 1001.% & echo ready; wait",
    ),
    (
        "daemon",
        1,
        "setsid sh -c 'sleep 1000.% </dev/null >/dev/null 2>&1 &'; echo ready; sleep 1001.%",
    ),
    (
        "bare daemon",
        1,
        "env -i setsid sh -c 'sleep 1000.% </dev/null >/dev/null 2>&1 &'; echo ready; sleep 1001.%",
    ),
    (
        "stopped",
        0,
        "(sleep 1000.%; :) & sleep 1001.% & sleep 1002.% & kill -STOP $!; echo ready; wait",
    ),
    (
        "forks",
        0,
        "i=0; while [ $i -lt 500 ]; do sleep 1000.% & sleep 0.00%; i=$((i+1)); \
         [ $i = 2 ] && echo ready; done; wait",
    ),
    (
        "far forks",
        0,
        "setsid sh -c 'i=0; while [ $i -lt 500 ]; do sleep 1000.% & sleep 0.00%; i=$((i+1)); done; wait' & \
         echo ready; wait",
    ),
];

/// A number that no other process has among its arguments.
pub(crate) fn marker() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("31415{:07}{:03}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

/// Who is alive with `marker` among its arguments: pids and arguments.
pub(crate) fn marked(marker: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for process in processes() {
        // A dead one has none.
        let arguments = process.arguments();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if arguments.contains(marker) {
            found.push((process.pid, arguments));
        }
    }
    found
}

pub(crate) fn must_die(marker: &str, after: &str) {
    let deadline = Instant::now() + DEAD;
    loop {
        let left = marked(marker);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "alive after {after}: {left:#?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `count` processes with this marker sleep.
pub(crate) fn must_sleep(marker: &str, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = marked(marker);
        if all.iter().filter(|(_, a)| a.starts_with("sleep ")).count() >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{all:#?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts every trick; with the number of each.
pub(crate) fn start_tricks(client: &mut Client, mode: Mode) -> Vec<(&'static str, usize, String)> {
    let mut all = Vec::new();
    for &(name, daemons, script) in TRICKS {
        let marker = marker();
        let script = script.replace('%', &marker);
        client.spawn_ready(mode.params(name, &["sh", "-c", &script]));
        all.push((name, daemons, marker));
    }
    for (_, _, marker) in &all {
        must_sleep(marker, 2);
    }
    all
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum End {
    Input,
    /// A signal to the process that the client has started.
    Guard(i32),
    /// The same to the whole group of it.
    Group(i32),
    /// A signal to the server below it.
    Server(i32),
}

pub(crate) const ENDS: &[End] = &[
    End::Input,
    End::Guard(libc::SIGTERM),
    End::Guard(libc::SIGINT),
    End::Guard(libc::SIGHUP),
    End::Guard(libc::SIGKILL),
    End::Group(libc::SIGKILL),
    End::Server(libc::SIGTERM),
    End::Server(libc::SIGKILL),
];

/// A server in a process group of its own, and what the end needs.
pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) guard: u32,
    /// The same where there is no guard.
    pub(crate) below: u32,
}

impl Server {
    fn start() -> Server {
        let server = Self::of(binary());
        assert_ne!(server.guard, server.below, "a guard and its server");
        server
    }

    /// The server that `command` starts.
    pub(crate) fn of(command: Command) -> Server {
        Self::besides(command, 0)
    }

    /// The same, of a command that has so many children before.
    pub(crate) fn besides(mut command: Command, others: usize) -> Server {
        use std::os::unix::process::CommandExt;
        command.process_group(0);
        // However this test was started, a hang-up is one.
        // SAFETY: signal(2) may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                Ok(())
            });
        }
        let mut client = Client::command(command);
        client.call("process/list", json!({}));
        let guard = client.pid();
        let below = children_of(guard);
        assert!(below.len() < 2 + others, "a guard and its server: {below:?}");
        let below = below.iter().find(|child| child.name == "procwire");
        let below = below.map_or(guard, |server| server.pid);
        Server { client, guard, below }
    }

    /// Runs a shell as the handle `a` until it says that it is ready; the marker that is in its `%`.
    pub(crate) fn run_marked(&mut self, script: &str) -> String {
        let marker = marker();
        let script = script.replace('%', &marker);
        self.client
            .spawn_ready(Mode::Pipe.params("a", &["sh", "-c", &script]));
        marker
    }

    /// Brings the end about, and waits until guard and server are gone; the guard's status.
    pub(crate) fn end(mut self, end: End) -> ExitStatus {
        match end {
            End::Input => self.client.end_input(),
            End::Guard(signal) => send(self.guard as libc::pid_t, signal),
            End::Group(signal) => send(-(self.guard as libc::pid_t), signal),
            End::Server(signal) => send(self.below as libc::pid_t, signal),
        }
        let (_, status) = self.client.finish_anyhow();
        gone(self.below);
        status.expect("a binary has a status")
    }
}

pub(crate) fn send(pid: libc::pid_t, signal: i32) {
    // SAFETY: no memory is involved; the guard is an unreaped child of this test, the server its child.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "there is a process to signal");
}

fn gone(server: u32) {
    let deadline = Instant::now() + DEAD;
    while is_alive(server) {
        assert!(Instant::now() < deadline, "the server lives on");
        std::thread::sleep(Duration::from_millis(2));
    }
    reap_adopted();
}

#[apply(both)]
fn nothing_outlives_any_end(mode: Mode) {
    for &end in ENDS {
        let mut server = Server::start();
        let tricks = start_tricks(&mut server.client, mode);
        server.end(end);
        for (name, _, marker) in tricks {
            must_die(&marker, &format!("{end:?}: {name}"));
        }
    }
}

/// When the exit is read, what was below the process is dead, whatever its group and session. Only
/// what has lost its parent lives on, but not beyond the connection.
#[apply(both)]
fn kill_spares_only_daemons_and_these_until_the_connection_ends(mode: Mode) {
    let mut server = Server::start();
    let tricks = start_tricks(&mut server.client, mode);
    for (name, daemons, marker) in &tricks {
        let id = server
            .client
            .request("process/kill", json!({"processHandle": name}));
        server.client.exited(name);
        let left = marked(marker);
        assert_eq!(
            left.len(),
            *daemons,
            "alive after the kill of {name:?}: {left:#?}"
        );
        server.client.result(id);
    }
    server.end(End::Input);
    for (name, _, marker) in tricks {
        must_die(&marker, name);
    }
}

#[apply(both)]
fn timeout_spares_only_daemons_and_these_until_the_connection_ends(mode: Mode) {
    let mut server = Server::start();
    let marker = marker();
    let script = "setsid sh -c 'sleep 1000.% </dev/null >/dev/null 2>&1 &'; setsid sleep 1001.% & \
                  trap '' TERM HUP INT; sleep 1002.% & kill -STOP $!; sleep 1003.% & echo ready; wait";
    let mut params = mode.params("a", &["sh", "-c", &script.replace('%', &marker)]);
    params["timeoutMs"] = json!(2_000);
    server.client.spawn_ready(params);
    must_sleep(&marker, 3);
    assert_eq!(server.client.exited("a")["timedOut"], true);
    let left = marked(&marker);
    assert_eq!(left.len(), 1, "alive after the timeout: {left:#?}");
    assert!(left[0].1.starts_with("sleep 1000."), "{left:?}");
    server.end(End::Input);
    must_die(&marker, "the end of input");
}

#[apply(both)]
fn daemon_of_a_leader_that_exited_dies_with_the_connection(mode: Mode) {
    for end in [
        End::Input,
        End::Guard(libc::SIGTERM),
        End::Guard(libc::SIGKILL),
        End::Server(libc::SIGKILL),
    ] {
        let mut server = Server::start();
        let marker = marker();
        let script = "env -i setsid sh -c 'sleep 1000.% </dev/null >/dev/null 2>&1 &'; exit 0";
        let script = script.replace('%', &marker);
        server.client.spawn(mode.params("a", &["sh", "-c", &script]));
        let exited = server.client.exited("a");
        assert_eq!(
            (&exited["exitCode"], &exited["outputDrainTimedOut"]),
            (&json!(0), &json!(false))
        );
        must_sleep(&marker, 1);
        server.end(end);
        must_die(&marker, &format!("{end:?}"));
    }
}

/// A daemon that is another process every millisecond: the one that was seen is dead already. It
/// leaves a trace as long as it lives.
#[apply(both)]
fn what_only_forks_and_exits_dies_with_the_connection(mode: Mode) {
    let scratch = Scratch::new();
    for (index, end) in [End::Input, End::Guard(libc::SIGKILL), End::Server(libc::SIGKILL)]
        .into_iter()
        .enumerate()
    {
        // A sweep has a second or two to catch it, in which it may hardly run on a machine that is busy.
        let dies = (0..3).any(|attempt| {
            let name = format!("{index}-{attempt}");
            fork_loop_dies(
                mode,
                end,
                &scratch.path(&format!("go{name}")),
                &scratch.path(&name),
            )
        });
        assert!(dies, "it lives on after {end:?}");
    }
}

/// Whether a process that only forks and exits dies with this end. If not, it stops for want of the file `go`.
fn fork_loop_dies(mode: Mode, end: End, go: &str, trace: &str) -> bool {
    let mut server = Server::start();
    std::fs::write(go, "").expect("a file");
    let script = "export C='[ -e @ ] || exit; echo >> %; sh -c \"$C\" & exit'; \
                  setsid sh -c \"$C\" </dev/null >/dev/null 2>&1 & echo ready; exec sleep 1000";
    let script = script.replace('%', trace).replace('@', go);
    server
        .client
        .spawn_ready(mode.params("a", &["sh", "-c", &script]));
    let length = || std::fs::metadata(trace).map_or(0, |m| m.len());
    wait_until("it has run ten times", || length() >= 10);
    server.end(end);
    let deadline = Instant::now() + DEAD;
    let stops = |before: &mut u64| {
        std::thread::sleep(Duration::from_millis(300));
        let now = length();
        std::mem::replace(before, now) == now
    };
    let mut before = length();
    while !stops(&mut before) {
        if Instant::now() > deadline {
            std::fs::remove_file(go).expect("it is there");
            wait_until("it has stopped", || stops(&mut before));
            return false;
        }
    }
    true
}

#[apply(both)]
fn detached_process_survives_every_end(mode: Mode) {
    check_detached(mode, Server::start);
}

/// What was spawned with `detach`, with all that is below it, survives; its neighbour dies all the same.
pub(crate) fn check_detached(mode: Mode, start: impl Fn() -> Server) {
    for &end in ENDS {
        let mut server = start();
        let (kept, neighbour) = (marker(), marker());
        // A terminal's end is a hang-up, which one that wants to live on ignores.
        let script = "trap '' HUP; setsid sleep 1000.% & sleep 1001.% & echo ready; wait";
        let mut params = mode.params("kept", &["sh", "-c", &script.replace('%', &kept)]);
        params["detach"] = json!(true);
        server.client.spawn_ready(params);
        let script = script.replace('%', &neighbour);
        server
            .client
            .spawn_ready(mode.params("neighbour", &["sh", "-c", &script]));
        must_sleep(&kept, 2);
        must_sleep(&neighbour, 2);
        let before = marked(&kept);
        server.end(end);
        must_die(&neighbour, &format!("{end:?}"));
        // The sweeps are over: guard and server are gone.
        assert_eq!(marked(&kept), before, "after {end:?}");
        for (pid, _) in before {
            kill_stray(pid);
        }
        must_die(&kept, "its cleaning up");
        reap_adopted();
    }
}

#[apply(test)]
fn exit_code_says_how_the_server_ended() {
    check_exit_codes(Server::start);
    assert_eq!(
        Server::start().end(End::Guard(libc::SIGKILL)).signal(),
        Some(libc::SIGKILL)
    );
}

/// The guard's own end is that of the server, but for SIGKILL to the guard.
pub(crate) fn check_exit_codes(start: impl Fn() -> Server) {
    for (end, code) in [
        (End::Input, 0),
        (End::Guard(libc::SIGHUP), 129),
        (End::Guard(libc::SIGINT), 130),
        (End::Guard(libc::SIGTERM), 143),
        (End::Server(libc::SIGTERM), 143),
        (End::Server(libc::SIGKILL), 137),
        (End::Server(libc::SIGABRT), 134),
    ] {
        assert_eq!(start().end(end).code(), Some(code), "{end:?}");
    }
}

#[apply(test)]
fn guard_that_is_killed_takes_the_server_along() {
    check_killed_guard(Server::start(), "sleep 1000.% & echo ready; wait");
}

/// As if the server had been sent SIGTERM: at once and in order, with every exit told.
pub(crate) fn check_killed_guard(mut server: Server, script: &str) {
    let marker = server.run_marked(script);
    send(server.guard as libc::pid_t, libc::SIGKILL);
    assert_eq!(server.client.exited("a")["signal"], "SIGKILL");
    assert!(marked(&marker).is_empty());
    let (left, _) = server.client.finish_anyhow();
    assert!(left.is_empty(), "{left:?}");
    gone(server.below);
}

#[apply(test)]
fn server_that_is_stuck_is_killed_by_its_guard() {
    check_stuck_server(Server::start());
}

/// Told to end, and stopped by a signal: after some seconds the guard kills it.
pub(crate) fn check_stuck_server(mut server: Server) {
    let marker = server.run_marked("setsid sleep 1000.% & echo ready; wait");
    must_sleep(&marker, 1);
    send(server.below as libc::pid_t, libc::SIGSTOP);
    assert_eq!(server.end(End::Guard(libc::SIGTERM)).code(), Some(143));
    must_die(&marker, "the server's end");
}
