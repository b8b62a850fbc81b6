//! Random sequences of requests against a model of what the protocol guarantees.
//!
//! A sequence is drawn from a seed, run against a fresh server, in this process or the real binary,
//! and judged: one answer to each request and one exit to each process, order, bytes, exit codes,
//! which handles are free, and nothing left behind. One that fails is made shorter as long as it
//! fails, and printed as a list of steps with the conversation.
//!
//! `PROCWIRE_MODEL_SECONDS=3600` makes it last, from new seeds; `PROCWIRE_MODEL_SEED=7`
//! begins with that one, and with `PROCWIRE_MODEL_SECONDS=0` runs no other.

mod drive;
mod ledger;
mod plan;

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use serde_json::json;

use crate::harness::{
    Client, MODEL_SECONDS, apply, forget_transcript, kill_descendants, model_seconds, test, times,
};

/// How long it takes where nothing else is said.
const USUAL: Duration = Duration::from_secs(12);
/// How long a failing sequence is made shorter.
const SHRINKING: Duration = Duration::from_secs(60);
/// How often a shorter sequence may pass before it is believed to: what fails may be a race.
const TRIES: usize = 4;

const SEED: &str = "PROCWIRE_MODEL_SEED";

/// What is running, for a report that comes from a panic elsewhere.
static RUNNING: Mutex<String> = Mutex::new(String::new());

/// Any sequence of requests keeps every guarantee.
#[apply(test)]
fn sequences() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        eprintln!("{}", RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
        hook(info);
    }));
    let wanted = std::env::var(SEED)
        .ok()
        .map(|s| s.parse().expect("a seed is a number"));
    let first = wanted.unwrap_or_else(|| match model_seconds() {
        Some(_) => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(1, |now| now.as_secs() * 1_000_000),
        None => 1,
    });
    let span = model_seconds().map_or(USUAL, Duration::from_secs);
    let began = Instant::now();
    let mut told = began;
    let mut total = drive::Count::default();
    let mut seed: u64 = first;
    loop {
        let count = one(seed);
        total.requests += count.requests;
        total.processes += count.processes;
        total.bytes += count.bytes;
        total.late += count.late;
        seed += 1;
        let over = began.elapsed() >= span;
        if over || told.elapsed() >= Duration::from_secs(60) {
            told = Instant::now();
            println!(
                "model: {} sequences in {:?}, seeds {first}..{seed}: {} requests, {} processes, {} bytes, \
                 {} ends out of time",
                seed - first,
                began.elapsed(),
                total.requests,
                total.processes,
                total.bytes,
                total.late
            );
        }
        if over {
            return;
        }
    }
}

/// A kill that came while its process ended must not say there is none, and the spawn after it that there is.
#[apply(test)]
fn a_kill_that_is_refused_and_a_handle_in_use_exclude_each_other() {
    let mut client = Client::in_process();
    let params = json!({"processHandle": "a", "command": ["true"]});
    for _ in 0..times(300) {
        let pid = client.spawn(params.clone());
        // The moment at which its end is on its way through the server.
        while std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()) {}
        let kill = client.request("process/kill", json!({"processHandle": "a"}));
        let spawn = client.request("process/spawn", params.clone());
        let (kill, spawn) = (client.response(kill), client.response(spawn));
        assert!(
            kill.get("error").is_none() || spawn.get("error").is_none(),
            "no process to kill, and then one in the way: {kill} {spawn}"
        );
        client.exited("a");
        if spawn.get("error").is_none() {
            client.exited("a");
        }
    }
    client.finish();
}

/// Runs the sequence of one seed; fails with the shortest that fails as well.
fn one(seed: u64) -> drive::Count {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut tree = plan::plan().new_tree(&mut runner).expect("a sequence is drawn");
    let why = match attempt(seed, &tree.current()) {
        Ok(count) => return count,
        Err(why) => why,
    };
    eprintln!("seed {seed} fails: {why}\n{}", tree.current());
    let report = shrink(seed, &mut tree, why);
    panic!("{report}");
}

fn attempt(seed: u64, plan: &plan::Plan) -> Result<drive::Count, String> {
    forget_transcript();
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = format!("seed {seed}:\n{plan}");
    let result = drive::run(plan);
    if result.is_err() {
        kill_descendants();
    }
    result
}

/// Makes a failing sequence shorter; the report on the shortest, whose conversation is the last one recorded.
fn shrink(seed: u64, tree: &mut impl ValueTree<Value = plan::Plan>, why: String) -> String {
    let deadline = Instant::now() + SHRINKING;
    let mut shortest = (tree.current(), why);
    let mut fails = true;
    while Instant::now() < deadline {
        let other = if fails { tree.simplify() } else { tree.complicate() };
        if !other {
            break;
        }
        let plan = tree.current();
        let failed = (0..TRIES).find_map(|_| attempt(seed, &plan).err());
        fails = failed.is_some();
        if let Some(why) = failed {
            shortest = (plan, why);
        }
    }
    let (plan, first_why) = shortest;
    // Once more, for its conversation.
    let last = (0..4 * TRIES).find_map(|_| attempt(seed, &plan).err());
    let mut report = String::new();
    let _ = writeln!(report, "a sequence of requests broke a guarantee:\n{plan}");
    let _ = writeln!(report, "{}", last.as_ref().unwrap_or(&first_why));
    if last.is_none() {
        let _ = writeln!(
            report,
            "(a race: it passed when it was run again, and that is the conversation below)"
        );
    }
    let _ = write!(
        report,
        "to run it again: {SEED}={seed} {MODEL_SECONDS}=0 cargo test --test it model"
    );
    report
}
