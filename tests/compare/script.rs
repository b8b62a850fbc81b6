//! The scripts: scenarios as text, one step a line, and their reader.
//!
//! Part of the comparison program; see `compare.rs` for how to run it. The
//! scripts are in `scripts/*.txt`, compiled in so that the program can be run
//! from anywhere. A script is a list of scenarios:
//!
//! ```text
//! == stdin-closed-twice: what the scenario is about
//! file run.sh 755 "#!/bin/sh\necho hi\n"
//! spawn p ["cat"] {"streamStdin":true}
//! write p "abc"
//! close p
//! exited p
//! ```
//!
//! Blank lines and lines that start with `#` mean nothing. `%DIR%` stands for
//! a fresh directory of the scenario's own.
//!
//! What sets the scenario up:
//!
//! - `rule NAME` — a difference that this rule describes is on purpose here.
//! - `deadline SECONDS` — for each wait, where a server is known to hang.
//! - `no handshake` — nothing is sent ahead of the steps.
//! - `opt-out METHOD` — the handshake opts out of this notification.
//! - `file NAME MODE "text"`, `dir NAME`, `link NAME TARGET` — made in `%DIR%`
//!   before the server starts.
//!
//! What sends a request, numbered 1, 2, 3 …, and waits for its response; with
//! `&` after the verb it does not wait, and what is sent so goes out in one
//! piece:
//!
//! - `spawn HANDLE ARGV {more params}` — `cwd` is `%DIR%` unless given.
//! - `write HANDLE "text"` or `write HANDLE 1000*"text"`, then maybe `close`.
//! - `close HANDLE`, `kill HANDLE`, `resize HANDLE ROWS COLS`.
//! - `call METHOD {params}` — anything else; the params may be left out.
//! - `repeat COUNT STEP` — the step that often, never waiting; `%N%` counts
//!   from one.
//!
//! The rest:
//!
//! - `line TEXT` — this line as it is.
//! - `answers` — every request so far was answered.
//! - `answer ID` — the request with this id, as JSON, was answered.
//! - `output HANDLE STREAM "text"` — the stream has brought this text.
//! - `exited HANDLE` — no process of this name is running any more.
//! - `pause MILLISECONDS`.

use serde_json::{Map, Value, json};
use std::time::Duration;

/// The scripts, in the order they are played.
const SCRIPTS: [(&str, &str); 6] = [
    ("spawn.txt", include_str!("scripts/spawn.txt")),
    ("stdin.txt", include_str!("scripts/stdin.txt")),
    ("output.txt", include_str!("scripts/output.txt")),
    ("exit.txt", include_str!("scripts/exit.txt")),
    ("pty.txt", include_str!("scripts/pty.txt")),
    ("wire.txt", include_str!("scripts/wire.txt")),
];

/// Something to find in the scenario's directory.
#[derive(Debug, Clone)]
pub enum Fixture {
    /// A file with this mode and content.
    File(String, u32, String),
    /// An empty directory.
    Dir(String),
    /// A symbolic link and what it points to.
    Link(String, String),
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Send a request; the flag says whether to wait for its response.
    Request(String, Option<Value>, bool),
    /// Send a line as it is.
    Line(String),
    /// Wait until every numbered request was answered.
    Answers,
    /// Wait for the response with this id.
    Answer(Value),
    /// Wait until a handle's stream has brought a text.
    Output(String, String, String),
    /// Wait until a handle's process is gone.
    Exited(String),
    /// Let time pass.
    Pause(Duration),
}

/// One line of a scenario.
#[derive(Debug, Clone)]
pub struct Step {
    /// The line as written, with the script's name and its number.
    pub text: String,
    /// What to do.
    pub action: Action,
}

/// A client's side of a conversation.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name, unique among all scripts.
    pub name: String,
    /// What it is about.
    pub about: String,
    /// Names of the rules whose differences are on purpose here.
    pub rules: Vec<String>,
    /// How long a wait may take, where the usual time is wrong.
    pub deadline: Option<Duration>,
    /// Whether the handshake comes first.
    pub handshake: bool,
    /// Notifications the handshake opts out of.
    pub opt_out: Vec<String>,
    /// What is to be in the directory.
    pub fixtures: Vec<Fixture>,
    /// What happens.
    pub steps: Vec<Step>,
}

/// Reads all scripts; the error names the script and the line.
pub fn all() -> Result<Vec<Scenario>, String> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (file, text) in SCRIPTS {
        let first = scenarios.len();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("{file}:{}", number + 1);
            if let Some(title) = line.strip_prefix("== ") {
                let (name, about) = title.split_once(": ").unwrap_or((title, ""));
                if scenarios.iter().any(|known| known.name == name) {
                    return Err(format!("{place}: a second scenario {name}"));
                }
                scenarios.push(Scenario {
                    name: name.to_owned(),
                    about: about.to_owned(),
                    rules: Vec::new(),
                    deadline: None,
                    handshake: true,
                    opt_out: Vec::new(),
                    fixtures: Vec::new(),
                    steps: Vec::new(),
                });
                continue;
            }
            match scenarios.get_mut(first..).and_then(<[_]>::last_mut) {
                Some(scenario) => {
                    add(scenario, &place, line).map_err(|why| format!("{place}: {why}: {line}"))?;
                }
                None => return Err(format!("{place}: a step outside a scenario: {line}")),
            }
        }
    }
    Ok(scenarios)
}

/// Adds one line to a scenario.
fn add(scenario: &mut Scenario, place: &str, line: &str) -> Result<(), String> {
    let (verb, rest) = word(line);
    match verb {
        "rule" => scenario.rules.push(rest.to_owned()),
        "deadline" => scenario.deadline = Some(Duration::from_secs(number(rest)?)),
        "no" if rest == "handshake" => scenario.handshake = false,
        "opt-out" => scenario.opt_out.push(rest.to_owned()),
        "file" => {
            let (name, rest) = word(rest);
            let (mode, text) = word(rest);
            let mode = u32::from_str_radix(mode, 8).map_err(|error| error.to_string())?;
            let fixture = Fixture::File(name.to_owned(), mode, string(text)?);
            scenario.fixtures.push(fixture);
        }
        "dir" => scenario.fixtures.push(Fixture::Dir(rest.to_owned())),
        "link" => {
            let (name, target) = word(rest);
            let fixture = Fixture::Link(name.to_owned(), target.to_owned());
            scenario.fixtures.push(fixture);
        }
        "repeat" => {
            let (count, rest) = word(rest);
            for round in 1..=number(count)? {
                let line = rest.replace("%N%", &round.to_string());
                let mut step = step(place, &line)?;
                if let Action::Request(_, _, wait) = &mut step.action {
                    *wait = false;
                }
                scenario.steps.push(step);
            }
        }
        _ => scenario.steps.push(step(place, line)?),
    }
    Ok(())
}

/// Reads a line that does something.
fn step(place: &str, line: &str) -> Result<Step, String> {
    let (verb, rest) = word(line);
    let (verb, wait) = match verb.strip_suffix('&') {
        Some(verb) => (verb, false),
        None => (verb, true),
    };
    let (first, more) = word(rest);
    let action = match verb {
        "spawn" => {
            let mut values = values(more)?.into_iter();
            let mut params = object(&[
                ("processHandle", json!(first)),
                ("command", values.next().ok_or("no command")?),
                ("cwd", json!("%DIR%")),
            ]);
            if let Some(Value::Object(given)) = values.next() {
                params.extend(given);
            }
            Action::Request("process/spawn".to_owned(), Some(params.into()), wait)
        }
        "write" => {
            let (text, close) = match more.strip_suffix(" close") {
                Some(text) => (text, true),
                None => (more, false),
            };
            let bytes = match text.split_once('*') {
                Some((count, text)) if count.bytes().all(|byte| byte.is_ascii_digit()) => {
                    string(text)?.repeat(number(count)?)
                }
                _ => string(text)?,
            };
            let delta = base64_simd::STANDARD.encode_to_string(bytes.as_bytes());
            let mut params = object(&[("processHandle", json!(first)), ("deltaBase64", json!(delta))]);
            if close {
                params.insert("closeStdin".to_owned(), json!(true));
            }
            Action::Request("process/writeStdin".to_owned(), Some(params.into()), wait)
        }
        "close" => {
            let params = json!({"processHandle": first, "closeStdin": true});
            Action::Request("process/writeStdin".to_owned(), Some(params), wait)
        }
        "kill" => {
            let params = json!({"processHandle": first});
            Action::Request("process/kill".to_owned(), Some(params), wait)
        }
        "resize" => {
            let (rows, cols) = word(more);
            let size = json!({"rows": number::<i64>(rows)?, "cols": number::<i64>(cols)?});
            let params = json!({"processHandle": first, "size": size});
            Action::Request("process/resizePty".to_owned(), Some(params), wait)
        }
        "call" => Action::Request(first.to_owned(), values(more)?.into_iter().next(), wait),
        "line" => Action::Line(rest.to_owned()),
        "answers" => Action::Answers,
        "answer" => Action::Answer(serde_json::from_str(rest).map_err(|error| error.to_string())?),
        "output" => {
            let (stream, text) = word(more);
            Action::Output(first.to_owned(), stream.to_owned(), string(text)?)
        }
        "exited" => Action::Exited(first.to_owned()),
        "pause" => Action::Pause(Duration::from_millis(number(first)?)),
        _ => return Err("no such step".to_owned()),
    };
    let text = format!("{place}: {line}");
    Ok(Step { text, action })
}

/// The first word of a line, and the rest.
fn word(line: &str) -> (&str, &str) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    (word, rest.trim_start())
}

/// A number in decimal.
fn number<N: std::str::FromStr>(text: &str) -> Result<N, String>
where
    N::Err: std::fmt::Display,
{
    text.parse().map_err(|error: N::Err| format!("{error}: {text}"))
}

/// A text in quotes, with JSON's escapes.
fn string(text: &str) -> Result<String, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// JSON values, one behind the other.
fn values(text: &str) -> Result<Vec<Value>, String> {
    serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// An object with these members.
fn object(members: &[(&str, Value)]) -> Map<String, Value> {
    members
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}
