//! The table of refused system calls: what a server does in a sandbox that does not allow one.
//!
//! ```text
//! cargo build --release
//! cargo run --release --example refused -- --server target/release/procwire
//! ```
//!
//! Prints the table of `docs/refused.md`. `--server` is the `procwire` of the same build where it is
//! left out, `--only NAME` takes one call or profile, `--jobs N` runs so many sessions at once (2).
//!
//! `--profiles` prints the table of sandboxes and older kernels in `docs/platforms.md` instead: under each
//! the first example, a session, every end (the example `ends`) and the scripts of the reference (the
//! example `compare`) against the same server without it. Both examples are those of the same build.
//!
//! `--profile NAME COMMAND...` becomes that command under a profile, whatever it is. With `:glibc` behind the
//! name `clone3` is answered with `ENOSYS`: with another error no program of glibc starts a thread.
//!
//! The exit code is 0 if nothing hung, was lost, was left alive or was not true, and 1 otherwise.

// Shared with the tests.
#[allow(dead_code)]
mod session;
mod table;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use session::profile::{self, GLIBC, Profile};

const ERRORS: [(&str, i32); 2] = [("EPERM", libc::EPERM), ("ENOSYS", libc::ENOSYS)];

fn main() -> ExitCode {
    session::launch_if_asked();
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|argument| argument == "--profile").is_some() {
        return become_under(arguments);
    }
    // Orphans of what is killed become our children, and are found.
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    let (mut server, mut only, mut jobs, mut profiles) = (None, None, 2, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        if flag == "--profiles" {
            profiles = true;
            continue;
        }
        let value = arguments.next();
        match (flag.as_str(), value) {
            ("--server", Some(value)) => server = Some(PathBuf::from(value)),
            ("--only", Some(value)) => only = Some(value),
            ("--jobs", Some(value)) => jobs = value.parse().expect("a number"),
            _ => {
                eprintln!("usage: refused [--profiles] [--server FILE] [--only NAME] [--jobs N]");
                eprintln!("       refused --profile NAME COMMAND...");
                return ExitCode::from(2);
            }
        }
    }
    let server = server.unwrap_or_else(|| {
        let own = std::env::current_exe().expect("a running program has a file");
        let build = own.parent().and_then(|examples| examples.parent());
        build.expect("a directory above examples").join("procwire")
    });
    let server = server.canonicalize().expect("the server is there");
    if profiles {
        return table::print(&server, only.as_deref(), jobs);
    }
    let calls = session::calls();
    let calls: Vec<_> = calls
        .into_iter()
        .filter(|call| only.as_deref().is_none_or(|only| call.name == only))
        .collect();
    let tries: Vec<_> = calls
        .iter()
        .flat_map(|call| ERRORS.iter().map(move |error| (call, error)))
        .collect();
    let results = Mutex::new(vec![None; tries.len()]);
    let next = AtomicUsize::new(0);
    let faults = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Relaxed);
                    let Some((call, (name, errno))) = tries.get(index).copied() else {
                        return;
                    };
                    let outcome = session::run(&server, &[*call], *errno);
                    for fault in outcome.faults(call) {
                        faults.fetch_add(1, Relaxed);
                        eprintln!("{} with {name}: {fault}", call.name);
                    }
                    results.lock().expect("not poisoned")[index] = Some(outcome.in_words());
                }
            });
        }
    });
    println!("| call | what happens |\n| --- | --- |");
    let results = results.into_inner().expect("not poisoned");
    for (call, words) in calls.iter().zip(results.chunks(ERRORS.len())) {
        println!("| `{}` | {} |", call.name, cell(words));
    }
    ExitCode::from(u8::from(faults.into_inner() > 0))
}

/// Becomes the command behind the name of a profile, under that.
fn become_under(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let name = arguments.next().unwrap_or_default();
    let name = name.to_str().unwrap_or_default();
    let plain = name.strip_suffix(GLIBC);
    let profile = Profile::named(plain.unwrap_or(name));
    let (Some(profile), Some(program)) = (profile, arguments.next()) else {
        let names = profile::ALL.iter().map(|profile| profile.name);
        eprintln!(
            "a profile and a command are needed: {}",
            names.collect::<Vec<_>>().join(", ")
        );
        return ExitCode::from(2);
    };
    let error = profile.command(program, plain.is_some()).args(arguments).exec();
    eprintln!("{error}");
    ExitCode::from(2)
}

/// Once what is the same for every error, up to the text of that error.
fn cell(words: &[Option<String>]) -> String {
    let words = words.iter().flatten();
    let mut told: Vec<(String, &str)> = Vec::new();
    for (words, (name, errno)) in words.zip(ERRORS) {
        let error = format!(": {}", std::io::Error::from_raw_os_error(errno));
        let words = words.replace(&error, "");
        let words = words.replace(error.split(" (os").next().unwrap_or(&error), "");
        told.push((words.replace('|', "\\|"), name));
    }
    match told.split_first() {
        Some(((first, _), rest)) if rest.iter().all(|(words, _)| words == first) => first.clone(),
        _ => {
            let each = told.iter().map(|(words, name)| format!("{name}: {words}"));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}
