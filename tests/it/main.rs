//! The integration tests: one binary, one module a subject.
//!
//! Each test runs in a process of its own, started by this one, so that what it leaves behind can be
//! seen exactly: threads, descriptors, children and grandchildren (see `harness.rs`). Names can be
//! filtered as usual: `cargo test --test it kill`. A test is a function below `#[apply(test)]` or
//! `#[apply(both)]`, which is all it takes to be run.
//!
//! Races and soaks run longer with `PROCWIRE_TEST_FACTOR=10`.

mod harness;
mod proc;

// Clients of ours.
mod check;
mod client;
mod command_line;
mod completions;
mod man;
mod mcp;
mod recording;
mod run;

// What the documents say.
mod cast;
mod documents;
mod examples;
mod layers;
mod schema;

// The bytes between.
mod close_output;
mod eof;
mod keep;
mod output;
mod pty;
mod stdin;
mod wait;

// Who is meant, and how it ends.
mod handles;
mod kill;
mod timeout;

// A request and the program it starts.
mod argv;
mod environment;
mod exit;
mod framing;
mod inspect;
mod limits;
mod list;
mod memory;
mod protocol;
mod spawn;
mod start_state;
mod streams;

// A whole connection.
mod connection;
mod ends;
mod portable;
mod refused;
mod remote;
mod resources;
mod sandbox;
mod sweep;
mod told;

// Everything at once.
mod model;

use std::collections::BTreeMap;
use std::thread::available_parallelism;

use harness::{Body, Mode, Test};
use libtest_mimic::{Arguments, Trial};

/// How many tests run at once for each processor: most of them wait for a process.
const TESTS_PER_PROCESSOR: usize = 2;

fn main() {
    // A shell starts what it runs in the background of a script with both ignored, and a server keeps them so.
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: no memory is involved, and there is no other thread yet.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    refused::session::launch_if_asked();
    if std::env::args().nth(1).as_deref() == Some(sweep::PLAY) {
        sweep::play(std::env::args().skip(2));
    }
    if std::env::args().nth(1).as_deref() == Some(inspect::WAIT_IN) {
        inspect::wait_in(&std::env::args().nth(2).unwrap_or_default());
    }
    if let Some(what) = std::env::var_os(harness::HELPER) {
        return harness::help(what.to_str().expect("helpers' names are ASCII"));
    }
    if let Some(name) = std::env::var_os(harness::RUN_ONE) {
        let name = name.into_string().expect("test names are ASCII");
        harness::run_alone(all().remove(&name).expect("a test of that name"));
        return;
    }
    let mut arguments = Arguments::from_args();
    arguments
        .test_threads
        .get_or_insert_with(|| TESTS_PER_PROCESSOR * available_parallelism().map_or(1, usize::from));
    let trials = all().into_keys().map(|name| {
        let own_name = name.clone();
        let missing = remote::missing(&name)
            .or_else(|| completions::missing(&name))
            .or_else(|| man::missing(&name))
            .or_else(|| cast::missing(&name))
            .or_else(|| portable::missing(&name));
        let trial = Trial::test(name, move || {
            harness::run_in_own_process(&own_name).map_err(Into::into)
        });
        match missing {
            Some(what) => trial.with_kind(what).with_ignored_flag(true),
            None => trial,
        }
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// Every test by its name, which is its path in this crate; those for both modes twice.
fn all() -> BTreeMap<String, Box<dyn FnOnce()>> {
    let mut all: BTreeMap<String, Box<dyn FnOnce()>> = BTreeMap::new();
    for test in inventory::iter::<Test> {
        let name = test.name();
        match test.body {
            Body::Once(body) => drop(all.insert(name.to_owned(), Box::new(body))),
            Body::Both(body) => {
                for (mode, suffix) in [(Mode::Pipe, "pipe"), (Mode::Tty, "tty")] {
                    all.insert(format!("{name}::{suffix}"), Box::new(move || body(mode)));
                }
            }
        }
    }
    all
}
