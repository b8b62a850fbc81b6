//! Which differences are allowed: additions, and what is different on purpose.
//!
//! Part of the comparison program; see `compare.rs` for how to run it. The
//! first server is the reference, the second is the one to be measured.

use crate::facts::{Fact, Facts};
use serde_json::Value;

/// A fact the two sides do not share.
#[derive(Debug)]
pub struct Difference {
    /// The fact's name.
    pub name: String,
    /// What the reference did.
    pub a: Option<Value>,
    /// What the server under test did.
    pub b: Option<Value>,
}

impl Difference {
    /// The same with the sides exchanged.
    pub fn swapped(&self) -> Difference {
        Difference {
            name: self.name.clone(),
            a: self.b.clone(),
            b: self.a.clone(),
        }
    }
}

/// What only one side needs to have, by the end of the fact's name; the flag
/// says that no two runs agree on it, so that it is not compared where both have
/// it either.
const ADDITIONS: [(&str, bool); 18] = [
    // Ours.
    (" process/spawn.pid", true),
    (" outputDelta.offset", false),
    (" outputDelta.eof", false),
    (" exited.pid", true),
    (" exited.signal", false),
    (" exited.coreDumped", false),
    (" exited.timedOut", false),
    (" exited.durationMs", true),
    (" exited.usage", true),
    (" exited.stdoutBytes", false),
    (" exited.stderrBytes", false),
    (" exited.stdoutBase64", false),
    (" exited.stderrBase64", false),
    (" error.data", false),
    // "The server writes it on its messages exactly when the connection's
    // first message carried it."
    ("message.jsonrpc", false),
    // The reference's, which also notifies of things of its own.
    ("message.emittedAtMs", false),
    ("notification configWarning", true),
    ("notification remoteControl/status/changed", true),
];

/// A difference that is meant to be.
pub struct Rule {
    /// What a script calls it.
    pub name: &'static str,
    /// What the protocol says about the reference.
    pub says: &'static str,
    /// Whether this is it. All facts of both sides are there to look around.
    pub explains: fn(&Difference, &Facts, &Facts) -> bool,
}

/// Every difference that is meant to be. A scenario names those it expects;
/// in others they are differences like any other.
pub const RULES: [Rule; 21] = [
    Rule {
        name: "cap-exact",
        says: "`capReached` is also true at exactly the cap",
        explains: |diff, _, _| diff.name.ends_with("apReached") && is(&diff.a, true) && is(&diff.b, false),
    },
    Rule {
        name: "pty-signal",
        says: "a PTY death by signal is exit code 1",
        explains: |diff, _, _| {
            let code = diff.b.as_ref().and_then(Value::as_u64);
            diff.name.ends_with(" exited.exitCode")
                && is(&diff.a, 1)
                && code.is_some_and(|code| (129..=128 + 64).contains(&code))
        },
    },
    Rule {
        name: "pty-utf8",
        says: "a PTY starts without IUTF8",
        explains: |diff, _, _| is(&diff.a, "-iutf8\r\n") && is(&diff.b, "iutf8\r\n"),
    },
    Rule {
        name: "pty-interpreter",
        says: "a bad interpreter under a PTY is reported as started",
        explains: |diff, a, b| only_one_spawned(diff, a, b) && !is(&diff.b, "result") && only_a(diff),
    },
    Rule {
        name: "handle-race",
        says: "a handle may still be taken when `process/exited` is read",
        explains: |diff, a, b| only_one_spawned(diff, a, b) && !is(&diff.a, "result") && only_b(diff),
    },
    Rule {
        name: "stdin-blocked",
        says: "a child that does not read its stdin blocks its own kill and timeout",
        // From there on the reference's side of the conversation is missing.
        explains: |diff, a, b| {
            let hung = a.get("gave up").is_some() && b.get("gave up").is_none();
            let silent = diff.a.is_none() || is(&diff.a, "none") || is(&diff.a, "never");
            let short = diff.name.starts_with("answers for ") || diff.name == "server's end";
            hung && (silent || short || diff.name == "gave up")
        },
    },
    Rule {
        name: "burst",
        says: "more than about 130 requests in one go are refused with -32001",
        // Some of them are not even refused: they get no answer at all.
        explains: |diff, a, _| {
            let short = a.refused_any() || a.get("gave up").is_some();
            let refused = is(&diff.a, "error -32001") || is(&diff.a, "none");
            short
                && (diff.name.starts_with("response ") && refused
                    || diff.name.starts_with("answers for ")
                    || diff.name == "gave up" && diff.b.is_none())
        },
    },
    Rule {
        name: "invalid-json",
        says: "invalid JSON gets no answer",
        explains: |diff, _, _| {
            diff.name.starts_with("response ")
                && (diff.a.is_none() || is(&diff.a, "none"))
                && (is(&diff.b, "error -32700") || is(&diff.b, "error -32600"))
        },
    },
    Rule {
        name: "params-code",
        says: "unknown methods and malformed params are -32600",
        explains: |diff, _, _| {
            diff.name.starts_with("response ")
                && is(&diff.a, "error -32600")
                && (is(&diff.b, "error -32601") || is(&diff.b, "error -32602"))
        },
    },
    Rule {
        name: "optional",
        says: "`cwd` and the handshake are required",
        explains: |diff, a, b| only_one_spawned(diff, a, b) && !is(&diff.a, "result") && only_b(diff),
    },
    // What follows is said elsewhere than in the protocol's list of differences.
    Rule {
        name: "program-empty",
        says: "empty array or empty program: error -32600",
        explains: |diff, _, _| is(&diff.a, "error -32603") && is(&diff.b, "error -32600"),
    },
    Rule {
        name: "env-names",
        says: "empty name, `=` in a name, NUL anywhere: -32602",
        explains: |diff, a, b| {
            (is(&diff.a, "error -32603") && is(&diff.b, "error -32602"))
                || (only_one_spawned(diff, a, b) && !is(&diff.b, "result") && only_a(diff))
        },
    },
    Rule {
        name: "pty-unusable",
        says: "a program or directory that cannot be used is an error, in PTY mode as well",
        explains: |diff, a, b| only_one_spawned(diff, a, b) && !is(&diff.b, "result") && only_a(diff),
    },
    Rule {
        name: "script-without-shebang",
        says: "a text file without `#!` runs under `/bin/sh`, as execvp does",
        explains: |diff, a, b| {
            let aborted = |name: &str| is(&a.get(name).cloned(), 1);
            (only_one_spawned(diff, a, b) && !is(&diff.a, "result") && only_b(diff))
                // With a terminal the reference runs its own failure instead.
                || (diff.name == "process 1 (p) exited.exitCode" && is(&diff.a, 1) && is(&diff.b, 0))
                || (diff.name == "process 1 (p) stdout" && aborted("process 1 (p) exited.exitCode"))
        },
    },
    Rule {
        name: "id-range",
        says: "request ids are strings or integers (the whole i64/u64 range)",
        explains: |diff, _, _| {
            (diff.name.starts_with("response ") && is(&diff.a, "none"))
                || diff.name.starts_with("answers for ")
        },
    },
    Rule {
        name: "text-invalid",
        says: "invalid UTF-8 becomes U+FFFD",
        // The reference guesses another encoding.
        explains: |diff, _, _| {
            let text = diff.b.as_ref().and_then(Value::as_str).unwrap_or("");
            collected(diff) && diff.a.is_some() && text.contains('\u{fffd}')
        },
    },
    Rule {
        name: "text-cap",
        says: "a cap that would split a character cuts before it",
        explains: |diff, _, _| {
            let side = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::len);
            collected(diff) && side(&diff.b) < side(&diff.a)
        },
    },
    Rule {
        name: "pty-eof",
        says: "on a PTY it types end-of-file, and only that",
        // The reference types a newline ahead of it, which is echoed and read.
        explains: |diff, _, _| {
            let lines = |value: &Option<Value>| {
                let text = value.as_ref().and_then(Value::as_str)?;
                Some((text.replace("\r\n", ""), text.len()))
            };
            let (a, b) = (lines(&diff.a), lines(&diff.b));
            match (a, b) {
                (Some(a), Some(b)) => diff.name.ends_with(" stdout") && a.0 == b.0 && a.1 > b.1,
                _ => false,
            }
        },
    },
    Rule {
        name: "stdin-closed",
        says: "not streamed, closed already, or closed by the child: -32600",
        // The reference only refuses bytes, and only what it has closed itself.
        explains: |diff, _, _| {
            diff.name.starts_with("response ") && is(&diff.a, "result") && is(&diff.b, "error -32600")
        },
    },
    Rule {
        name: "pty-lookup",
        says: "lookup uses the child's PATH; argv[0] stays as sent",
        // With a terminal the reference has a search of its own, which finds less.
        explains: |diff, a, b| {
            only_one_spawned(diff, a, b) && is(&diff.b, "result") && only_b(diff)
                || diff.name.starts_with("process ") && diff.a.is_none()
        },
    },
    Rule {
        name: "end-answers",
        says: "responses to requests already read are written while the client still reads",
        explains: |diff, _, _| {
            let process = diff.name.starts_with("process ") || diff.name.starts_with("answers for ");
            (diff.name.starts_with("response ") && is(&diff.a, "none")) || (process && diff.a.is_none())
        },
    },
];

/// Whether the difference is one of collected output.
fn collected(diff: &Difference) -> bool {
    diff.name.ends_with(" exited.stdout") || diff.name.ends_with(" exited.stderr")
}

fn is(value: &Option<Value>, wanted: impl Into<Value>) -> bool {
    *value == Some(wanted.into())
}

fn only_a(diff: &Difference) -> bool {
    diff.name.starts_with("response ") || diff.b.is_none()
}

fn only_b(diff: &Difference) -> bool {
    diff.name.starts_with("response ") || diff.a.is_none()
}

/// Whether the difference is about a spawn that one side refused, or about the
/// process that the other side therefore has alone.
fn only_one_spawned(diff: &Difference, a: &Facts, b: &Facts) -> bool {
    let mut words = diff.name.split(' ');
    let kind = words.next();
    let response = format!("response {}", words.next().unwrap_or(""));
    let (a, b) = (a.get(&response), b.get(&response));
    let refused = |value: Option<&Value>| {
        value
            .and_then(Value::as_str)
            .is_some_and(|text| text.starts_with("error "))
    };
    let spawned = |value: Option<&Value>| value.and_then(Value::as_str) == Some("result");
    matches!(kind, Some("response" | "process")) && (refused(a) && spawned(b) || spawned(a) && refused(b))
}

/// What is not the same on both sides, additions aside.
pub fn differences(a: &Facts, b: &Facts) -> Vec<Difference> {
    let mut differences = between(&a.facts, &b.facts);
    differences.retain(|diff| {
        // The answer to the handshake is each server's own.
        let hello = diff.name.starts_with("response ") && diff.name.contains(" initialize.");
        // What is counted as a second one is the same addition again.
        let name = diff.name.split(" #").next().unwrap_or("");
        let added = ADDITIONS.iter().any(|(end, volatile)| {
            name.ends_with(end) && (diff.a.is_none() || diff.b.is_none() || *volatile)
        });
        !hello && !added
    });
    differences
}

/// What two lists of facts disagree on, in the order of the first.
pub fn between(a: &[Fact], b: &[Fact]) -> Vec<Difference> {
    let find = |facts: &[Fact], name: &str| {
        let fact = facts.iter().find(|fact| fact.name == name)?;
        Some(fact.value.clone())
    };
    let others = b
        .iter()
        .filter(|fact| a.iter().all(|other| other.name != fact.name));
    a.iter()
        .chain(others)
        .map(|fact| Difference {
            name: fact.name.clone(),
            a: find(a, &fact.name),
            b: find(b, &fact.name),
        })
        .filter(|diff| diff.a != diff.b)
        .collect()
}
