//! The integration tests: one binary, one module a subject.
//!
//! Each test runs in a process of its own, started by this one, so that what it leaves behind can be
//! seen exactly: threads, descriptors, children and grandchildren (see `harness.rs`). Names can be
//! filtered as usual: `cargo test --test it kill`.
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

use harness::{Body, Mode, Test};
use libtest_mimic::{Arguments, Trial};

/// The subjects in reading order.
const SUBJECTS: &[(&str, &[Test])] = &[
    ("documents", documents::TESTS),
    ("examples", examples::TESTS),
    ("cast", cast::TESTS),
    ("layers", layers::TESTS),
    ("schema", schema::TESTS),
    ("client", client::TESTS),
    ("client::as_std", client::as_std::TESTS),
    ("client::hostile", client::hostile::TESTS),
    ("command_line", command_line::TESTS),
    ("run", run::TESTS),
    ("recording", recording::TESTS),
    ("check", check::TESTS),
    ("completions", completions::TESTS),
    ("man", man::TESTS),
    ("mcp", mcp::TESTS),
    ("spawn", spawn::TESTS),
    ("environment", environment::TESTS),
    ("argv", argv::TESTS),
    ("streams", streams::TESTS),
    ("limits", limits::TESTS),
    ("exit", exit::TESTS),
    ("list", list::TESTS),
    ("inspect", inspect::TESTS),
    ("start_state", start_state::TESTS),
    ("stdin", stdin::TESTS),
    ("output", output::TESTS),
    ("keep", keep::TESTS),
    ("eof", eof::TESTS),
    ("close_output", close_output::TESTS),
    ("wait", wait::TESTS),
    ("pty", pty::TESTS),
    ("handles", handles::TESTS),
    ("timeout", timeout::TESTS),
    ("kill", kill::TESTS),
    ("protocol", protocol::TESTS),
    ("framing", framing::TESTS),
    ("memory", memory::TESTS),
    ("connection", connection::TESTS),
    ("ends", ends::TESTS),
    ("sweep", sweep::TESTS),
    ("told", told::TESTS),
    ("remote", remote::TESTS),
    ("resources", resources::TESTS),
    ("refused", refused::TESTS),
    ("sandbox", sandbox::TESTS),
    ("portable", portable::TESTS),
    ("model", model::TESTS),
];

fn main() {
    // A server that is started with it ignored, as in the background of a script, keeps it so.
    // SAFETY: no memory is involved, and there is no other thread yet.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
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
        let (_, run) = all()
            .into_iter()
            .find(|(known, _)| *known == name)
            .expect("a test of that name");
        harness::run_alone(run);
        return;
    }
    let arguments = Arguments::from_args();
    let trials = all().into_iter().map(|(name, _)| {
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

/// Every test with its full name; those for both modes twice.
fn all() -> Vec<(String, Box<dyn FnOnce()>)> {
    let mut all: Vec<(String, Box<dyn FnOnce()>)> = Vec::new();
    for (subject, tests) in SUBJECTS {
        for test in *tests {
            match test.body {
                Body::Once(body) => all.push((format!("{subject}::{}", test.name), Box::new(body))),
                Body::Both(body) => {
                    for (mode, suffix) in [(Mode::Pipe, "pipe"), (Mode::Tty, "tty")] {
                        all.push((
                            format!("{subject}::{}::{suffix}", test.name),
                            Box::new(move || body(mode)),
                        ));
                    }
                }
            }
        }
    }
    all
}
