//! A guard that adopts no orphans, as on a system that has no way to: what it ends is what the server has
//! told it. Here `PROCWIRE_GUARD=told` takes away what Linux has for it.
//!
//! What has lost its parent and left its session is found by neither; see docs/platforms.md.

use std::process::Command;

use crate::ends::{
    ENDS, End, Server, check_detached, check_exit_codes, check_killed_guard, check_stuck_server, marked,
    marker, must_die, must_sleep, send, start_tricks,
};
use crate::harness::{
    Mode, Proc, Scratch, apply, binary, both, children_of, is_alive, kill_stray, reap_adopted, test,
    wait_until,
};
use serde_json::json;

fn start() -> Server {
    let mut command = binary();
    command.env("PROCWIRE_GUARD", "told");
    Server::of(command)
}

/// Tricks whose shell is ended by the hang-up of its terminal, before the guard can look. What has a session
/// of its own has then lost its parent.
const LOST_AT_HANGUP: &[&str] = &["session", "far forks"];

fn clean_up(marker: &str) {
    // What starts others has to be found and killed before them.
    wait_until("it is cleaned up", || {
        let left = marked(marker);
        left.iter().for_each(|(pid, _)| kill_stray(*pid));
        left.is_empty()
    });
}

#[apply(both)]
fn what_has_not_left_its_session_and_its_parent_outlives_no_end(mode: Mode) {
    for &end in ENDS {
        let mut server = start();
        let tricks = start_tricks(&mut server.client, mode);
        server.end(end);
        // On a machine that is too slow, a guard that was told to end kills its server after 2.3 s.
        let killed = matches!(end, End::Server(libc::SIGKILL) | End::Guard(_));
        let hung_up = mode == Mode::Tty && killed;
        for (name, daemons, marker) in tricks {
            if daemons > 0 || hung_up && LOST_AT_HANGUP.contains(&name) {
                clean_up(&marker);
            } else {
                must_die(&marker, &format!("{end:?}: {name}"));
            }
        }
        reap_adopted();
    }
}

#[apply(both)]
fn detached_process_survives_every_end(mode: Mode) {
    check_detached(mode, start);
}

#[apply(test)]
fn exit_code_says_how_the_server_ended() {
    check_exit_codes(start);
}

#[apply(test)]
fn guard_that_is_killed_takes_the_server_along() {
    check_killed_guard(start(), "setsid sleep 1000.% & echo ready; wait");
}

fn is_stopped(pid: u32) -> bool {
    Proc::of(pid).is_some_and(|process| process.state == "T")
}

#[apply(test)]
fn stopped_guard_holds_nothing_up_and_ends_all_when_it_is_continued() {
    let mut server = start();
    send(server.guard as libc::pid_t, libc::SIGSTOP);
    wait_until("the guard is stopped", || is_stopped(server.guard));
    for _ in 0..20 {
        assert_eq!(server.client.run(&["echo", "hi"])["stdout"], "hi\n");
    }
    let marker = server.run_marked("setsid sleep 1000.% & sleep 1001.% & echo ready; wait");
    must_sleep(&marker, 2);
    let before = marked(&marker);
    send(server.below as libc::pid_t, libc::SIGKILL);
    wait_until("the server is dead", || !is_alive(server.below));
    assert_eq!(marked(&marker), before, "there is no one to end it");
    send(server.guard as libc::pid_t, libc::SIGCONT);
    let (_, status) = server.client.finish_anyhow();
    assert_eq!(status.and_then(|s| s.code()), Some(128 + libc::SIGKILL));
    must_die(&marker, "the guard's end");
    reap_adopted();
}

#[apply(test)]
fn server_that_is_stuck_is_killed_by_its_guard() {
    check_stuck_server(start());
    reap_adopted();
}

/// A number whose process has been reaped means another from then on, which may be anything.
#[apply(test)]
fn what_has_ended_is_not_ended_again() {
    let mut server = start();
    for _ in 0..100 {
        server.client.run(&["true"]);
    }
    let marker = marker();
    // The test's own: it is below neither, and in no session of theirs.
    let mut stranger = Command::new("sleep")
        .arg(format!("1000.{marker}"))
        .spawn()
        .expect("it starts");
    server.end(End::Server(libc::SIGKILL));
    assert!(stranger.try_wait().expect("it is a child").is_none());
    stranger.kill().expect("it is a child");
    stranger.wait().expect("it is a child");
}

/// A wrapper that starts something and then becomes procwire.
#[apply(test)]
fn what_was_there_before_is_spared() {
    for end in [End::Input, End::Guard(libc::SIGTERM), End::Server(libc::SIGKILL)] {
        let kept = marker();
        let mut command = Command::new("sh");
        let wrapper = format!("sleep 1000.{kept} >/dev/null 2>&1 & exec \"$@\"");
        command.args(["-c", &wrapper, "sh"]).arg(binary().get_program());
        command.env("PROCWIRE_GUARD", "told");
        let mut server = Server::besides(command, 1);
        let marker = server.run_marked("sleep 1000.% & sleep 1001.% & echo ready; wait");
        must_sleep(&marker, 2);
        must_sleep(&kept, 1);
        server.end(end);
        must_die(&marker, &format!("{end:?}"));
        assert_eq!(marked(&kept).len(), 1, "after {end:?}");
        clean_up(&kept);
        reap_adopted();
    }
}

/// The process that waits for the other end is neither a program nor told of.
#[apply(test)]
fn waiting_fifo_does_not_outlive_a_killed_server() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("it runs");
    assert!(made.success());
    let mut server = start();
    let mut params = Mode::Pipe.params("a", &["cat"]);
    params["stdin"] = json!({"file": fifo});
    params["streamStdin"] = json!(false);
    server.client.request("process/spawn", params);
    wait_until("something waits for the other end", || {
        !children_of(server.below).is_empty()
    });
    let waiting = children_of(server.below)[0].pid;
    server.end(End::Server(libc::SIGKILL));
    wait_until("it is gone", || {
        reap_adopted();
        !is_alive(waiting)
    });
}

#[apply(test)]
fn no_more_is_guaranteed_than_is_done() {
    let mut server = start();
    let params = json!({"clientInfo": {"name": "test", "version": "1"}});
    let guarantees = server.client.call("initialize", params)["guarantees"].clone();
    assert_eq!(guarantees["killsTree"], true);
    assert_eq!(guarantees["killsDaemonsAtEnd"], false);
    assert_eq!(guarantees["survivesServerKill"], false);
    server.end(End::Input);
    // A daemon does outlive both.
    let mut server = start();
    let script = "setsid sh -c 'sleep 1000.% </dev/null >/dev/null 2>&1 &'; echo ready; sleep 1001.%";
    let marker = server.run_marked(script);
    must_sleep(&marker, 2);
    server.end(End::Input);
    assert_eq!(marked(&marker).len(), 1, "{:?}", marked(&marker));
    clean_up(&marker);
    reap_adopted();
}
