//! What the portable backend cannot do, test by test. With `PROCWIRE_BACKEND=portable` these are left out,
//! and each says why; every other test holds with it.

use serde_json::json;
use std::time::{Duration, Instant};

use crate::harness::{Client, apply, binary, test};

/// What chooses the backend.
const BACKEND: &str = "PROCWIRE_BACKEND";

const COPIED_TABLE: &str = "a child that starts has a copy of our descriptors";
const FORKS: &str = "a terminal or a limit is a matter of a fork";
const KILL_ALONE: &str = "kill is the only call that signals";
const NOT_HELD: &str = "without pidfds, what /proc does not show is not held";
const TRACER: &str = "waitid does not tell of a child that a tracer holds as a zombie";
const OWN_SIGNALS: &str = "posix_spawn leaves two signals of the C library as they were";
const EXIT_THREAD: &str = "an exit takes a thread and a pipe, which may be the ones too many";
/// Tests by the beginning of their names.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "list::program_that_does_not_start_does_not_hold_it_up",
        COPIED_TABLE,
    ),
    ("list::process_is_listed_once_its_spawn_is_answered", COPIED_TABLE),
    (
        "memory::lists_that_waited_together_are_sent_one_by_one",
        COPIED_TABLE,
    ),
    (
        "connection::program_that_does_not_start_leaves_no_request_unanswered",
        COPIED_TABLE,
    ),
    ("start_state::nothing_is_forked", FORKS),
    (
        "start_state::signals_are_so_below_a_program_that_blocks_and_ignores_them",
        OWN_SIGNALS,
    ),
    ("kill::of_a_zombie_held_by_a_tracer_is_answered", TRACER),
    (
        "kill::zombie_held_by_a_tracer_leaves_no_request_unanswered",
        TRACER,
    ),
    ("sweep::what_proc_hides_is_ended_with_the_connection", NOT_HELD),
    (
        "sweep::without_a_usable_proc_its_own_are_ended_and_the_detached_are_spared",
        NOT_HELD,
    ),
    (
        "refused::a_call_that_is_not_allowed_hangs_nothing_and_is_named",
        KILL_ALONE,
    ),
    (
        "refused::a_call_that_is_missing_hangs_nothing_and_is_named",
        KILL_ALONE,
    ),
    ("refused::a_sandbox_may_choose_its_error", KILL_ALONE),
    (
        "refused::a_thread_that_memory_does_not_allow_is_an_answer",
        EXIT_THREAD,
    ),
    ("streams::what_is_not_a_pipe_takes_no_descriptor", EXIT_THREAD),
    (
        "resources::any_thread_or_process_may_be_the_one_too_many",
        EXIT_THREAD,
    ),
];

/// Why `test` is left out, if it is.
pub fn missing(test: &str) -> Option<&'static str> {
    if std::env::var_os(BACKEND).is_none_or(|backend| backend != "portable") {
        return None;
    }
    let found = LEFT_OUT.iter().find(|(name, _)| test.starts_with(name));
    found.map(|(_, why)| *why)
}

#[apply(test)]
fn every_test_that_is_left_out_is_one() {
    let all = crate::all();
    for (left_out, _) in LEFT_OUT {
        assert!(
            all.keys().any(|name| name.starts_with(left_out)),
            "no test {left_out}"
        );
    }
}

/// Each start copies the server's memory, one after the other; what has not begun when the connection ends is
/// given up, and keeps nothing else from going on.
#[apply(test)]
fn starts_that_are_under_way_do_not_hold_up_the_end() {
    let mut command = binary();
    command.env(BACKEND, "portable");
    let mut client = Client::command(command);
    for i in 0..1_500 {
        let params = json!({"processHandle": format!("h{i}"), "command": ["sleep", "1000"]});
        client.request("process/spawn", params);
    }
    client.call("process/kill", json!({"processHandle": "h300"}));
    let ends = Instant::now();
    let (_, status) = client.finish();
    assert_eq!(status.and_then(|s| s.code()), Some(0));
    let took = ends.elapsed();
    assert!(took < Duration::from_secs(9), "the end took {took:?}");
}
