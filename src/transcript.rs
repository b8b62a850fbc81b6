//! Transcripts of conversations with a server, and whether one holds them the same way.
//!
//! For the binary's `check` and for this project's tests.
//!
//! ```text
//! # A line that begins with '#' is a remark.
//! --> {"id":1,"method":"process/spawn","params":{"command":["echo","hi"],"processHandle":"a"}}
//! <-- {"id":1,"result":{"pid":"{...}"}}
//! ```
//!
//! `-->` is sent as it stands, `<--` is expected. `"{...}"` stands for any value and `[..]` for any
//! text inside a string. An answer is found by its id; a notification is the next of its method,
//! handle and stream. That is all the order the protocol promises, and all that is asked for.
//! Output is cut into deltas anyhow: it is joined, or cut, to the length that is expected. Integers
//! beyond 64 bits are compared as floating-point numbers. What the server says beyond the transcript
//! is a difference, but for the end of processes that are left running.
//!
//! **Thread:** whoever calls.
//! **Owns:** the notation and the comparison; the server, while [`Session::play`] plays.
//! **Never:** waits longer than it was told to, whatever the server does, or keeps all that one says
//! that says too much.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::framing::{Frame, Frames};
use crate::protocol::notification;
use crate::sys::{self, Interest};

/// Stands for any value.
const ANY: &str = "{...}";
/// Stands for any text.
const SOME: &str = "[..]";
/// What is kept of messages that are not expected yet, and the longest that is taken from a server.
const KEPT: usize = 64 * 1024 * 1024;
/// What a message takes beyond its text, about; most of a small one is this.
const OVERHEAD: usize = 1024;
/// How much a difference shows: of messages that came meanwhile, and bytes of what is no message.
const SHOWN: usize = 20;
const SHOWN_BYTES: usize = 1000;
/// How long a server may take to end, which the protocol bounds by 3 s.
const END: Duration = Duration::from_secs(10);
/// How long one may take that has gone astray, before it is killed.
const ASTRAY: Duration = Duration::from_secs(1);

/// One conversation, from the start of a server to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// The file's name, and the line of it at which the session begins.
    pub place: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
struct Step {
    line: usize,
    action: Action,
}

#[derive(Debug, Clone, PartialEq)]
enum Action {
    Send(String),
    Expect(Value),
}

/// Reads the sessions of a file: of Markdown (`name` ends in `.md`) every fenced block in the
/// language `session`, of any other file the whole.
///
/// # Errors
///
/// A sentence that names the place of what is wrong. A file in which nothing is said is wrong, too:
/// whoever checks it believes that something was checked.
pub fn parse(name: &str, text: &str) -> Result<Vec<Session>, String> {
    let lines = (1..).zip(text.lines());
    let (sessions, missing) = match name.ends_with(".md") {
        true => (blocks(name, lines)?, "no block in the language 'session'"),
        false => (vec![session(name, 1, lines)?], "no line"),
    };
    if sessions.iter().all(|session| session.steps.is_empty()) {
        return Err(format!(
            "{name}: there is no session in it: {missing} that says anything"
        ));
    }
    Ok(sessions)
}

/// The sessions of a Markdown file. A block that is not closed ends with the file, as in `CommonMark`.
fn blocks<'a>(name: &str, lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Vec<Session>, String> {
    let mut sessions = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for (number, line) in lines {
        match (Fence::of(line), &mut open) {
            (Some(fence), None) if fence.opens() => {
                open = Some(Block {
                    fence,
                    first: number + 1,
                    lines: Vec::new(),
                });
            }
            (Some(fence), Some(block)) if fence.closes(&block.fence) => {
                sessions.extend(open.take().and_then(|block| block.session(name)).transpose()?);
            }
            (_, Some(block)) => block.lines.push((number, line)),
            (_, None) => {}
        }
    }
    sessions.extend(open.and_then(|block| block.session(name)).transpose()?);
    Ok(sessions)
}

struct Block<'a> {
    fence: Fence<'a>,
    first: usize,
    lines: Vec<(usize, &'a str)>,
}

impl Block<'_> {
    fn session(self, name: &str) -> Option<Result<Session, String>> {
        let language = self.fence.info.split_whitespace().next();
        (language == Some("session")).then(|| session(name, self.first, self.lines.into_iter()))
    }
}

/// A line of Markdown that may begin or end a block: three or more of one character.
struct Fence<'a> {
    character: char,
    length: usize,
    info: &'a str,
}

impl Fence<'_> {
    fn of(line: &str) -> Option<Fence<'_>> {
        let text = line.trim_start_matches(' ');
        let character = text.chars().next().filter(|c| matches!(c, '`' | '~'))?;
        let info = text.trim_start_matches(character);
        let length = text.len() - info.len();
        (length >= 3 && line.len() - text.len() <= 3).then_some(Fence {
            character,
            length,
            info: info.trim(),
        })
    }

    /// What has backticks behind it is code inside of a line.
    fn opens(&self) -> bool {
        self.character == '~' || !self.info.contains('`')
    }

    fn closes(&self, opened: &Fence<'_>) -> bool {
        self.info.is_empty() && self.character == opened.character && self.length >= opened.length
    }
}

fn session<'a>(
    name: &str,
    first: usize,
    lines: impl Iterator<Item = (usize, &'a str)>,
) -> Result<Session, String> {
    let mut steps = Vec::new();
    for (line, text) in lines {
        let action = if let Some(sent) = text.strip_prefix("-->") {
            Action::Send(sent.strip_prefix(' ').unwrap_or(sent).to_owned())
        } else if let Some(expected) = text.strip_prefix("<--") {
            let expected = serde_json::from_str(expected)
                .map_err(|e| format!("{name}:{line}: what is expected is no JSON: {e}"))?;
            Action::Expect(expected)
        } else if text.trim().is_empty() || text.starts_with('#') {
            continue;
        } else {
            return Err(format!(
                "{name}:{line}: a line begins with '-->', '<--' or '#': {text}"
            ));
        };
        steps.push(Step { line, action });
    }
    Ok(Session {
        place: format!("{name}:{first}"),
        steps,
    })
}

/// Where a conversation was otherwise than its transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The line of the file; `None` at the end of the session.
    pub line: Option<usize>,
    /// What differs, on one line and more.
    pub text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.text),
            None => write!(f, "at the end: {}", self.text),
        }
    }
}

impl std::error::Error for Difference {}

impl Session {
    /// Starts `server`, which serves its stdin and stdout, holds the conversation, and ends it.
    /// Each expected message must come within `patience`.
    ///
    /// # Errors
    ///
    /// The first difference; a server that cannot be started is one.
    pub fn play(&self, server: &mut Command, patience: Duration) -> Result<(), Difference> {
        let mut conversation = Conversation::start(server, patience).map_err(|e| Difference {
            line: None,
            text: format!("the server cannot be started: {e}"),
        })?;
        for Step { line, action } in &self.steps {
            let outcome = match action {
                Action::Send(text) => conversation.send(text),
                Action::Expect(expected) => conversation.expect(expected),
            };
            outcome.map_err(|text| Difference {
                line: Some(*line),
                text,
            })?;
        }
        conversation
            .finish()
            .map_err(|text| Difference { line: None, text })
    }
}

struct Conversation {
    server: Child,
    input: Option<File>,
    pipe: Rc<File>,
    output: Frames<Output>,
    /// How the output has ended; behind what is no message, nothing is read.
    end: Option<Result<(), String>>,
    /// What has come and was not expected yet, and what it takes.
    unseen: VecDeque<(Value, usize)>,
    kept: usize,
    patience: Duration,
}

/// The server's output, which never waits. Each read is put off once, so that whoever asks looks at
/// the clock in between, however much there is.
struct Output {
    pipe: Rc<File>,
    put_off: bool,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.put_off = !self.put_off;
        match self.put_off {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => (&*self.pipe).read(buffer),
        }
    }
}

impl Conversation {
    fn start(server: &mut Command, patience: Duration) -> io::Result<Conversation> {
        let mut server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (server.stdin.take(), server.stdout.take()) else {
            unreachable!("both were asked to be pipes");
        };
        let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
        sys::set_nonblocking(&input)?;
        sys::set_nonblocking(&output)?;
        let pipe = Rc::new(File::from(output));
        let output = Output {
            pipe: Rc::clone(&pipe),
            put_off: false,
        };
        Ok(Conversation {
            server,
            input: Some(File::from(input)),
            pipe,
            output: Frames::new(output, KEPT),
            end: None,
            unseen: VecDeque::new(),
            kept: 0,
            patience,
        })
    }

    fn send(&mut self, text: &str) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        let line = format!("{text}\n");
        let mut unsent = line.as_bytes();
        while !unsent.is_empty() {
            self.step(&mut unsent, deadline)
                .map_err(|e| format!("the server does not read: {e}"))?;
        }
        Ok(())
    }

    /// Takes a message from the server, or gives it some of `unsent`; waits for either until
    /// `deadline`. What it says is taken while it does not read: it may be waiting for just that.
    fn step(&mut self, unsent: &mut &[u8], deadline: Instant) -> io::Result<()> {
        let listening = self.end.is_none() && self.kept < KEPT;
        if listening && self.take_message() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut interests = [Interest::NONE; 2];
        if listening {
            interests[0] = Interest::read(self.pipe.as_raw_fd());
        }
        if let (Some(input), false) = (&self.input, unsent.is_empty()) {
            interests[1] = Interest::write(input.as_raw_fd());
        }
        sys::poll(&mut interests, Some(left))?;
        if let (Some(input), true) = (&mut self.input, interests[1].writable()) {
            match input.write(unsent) {
                Ok(n) => *unsent = &unsent[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether there was something to take without waiting.
    fn take_message(&mut self) -> bool {
        self.end = Some(match self.output.next() {
            Ok(Frame::Message(text)) => match serde_json::from_slice(text) {
                Ok(message) => {
                    let size = text.len() + OVERHEAD;
                    self.kept += size;
                    self.unseen.push_back((message, size));
                    return true;
                }
                Err(e) => {
                    let text = String::from_utf8_lossy(&text[..text.len().min(SHOWN_BYTES)]);
                    Err(format!("the server sent what is no JSON: {e}: {text}"))
                }
            },
            Ok(Frame::Headers) => return true,
            Ok(Frame::Invalid(error)) => Err(error.message),
            Ok(Frame::End) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            Err(e) => Err(format!("reading from the server failed: {e}")),
        });
        true
    }

    fn forget_unseen(&mut self) {
        self.unseen.clear();
        self.kept = 0;
    }

    /// Waits until the server itself has ended, and not just its output; whether it has in time.
    fn has_ended(&self, deadline: Instant) -> bool {
        sys::ends_by(&self.server, deadline).unwrap_or(false)
    }

    fn expect(&mut self, expected: &Value) -> Result<(), String> {
        let actual = self.next_like(expected)?;
        match difference(expected, &actual) {
            None => Ok(()),
            Some(path) => {
                let place = if path.is_empty() { "as a whole" } else { &path };
                let mut text = format!("differs at {place}\n  expected {expected}\n  got      {actual}");
                let decoded = |value: &Value| delta(value).map(|bytes| shown(&bytes));
                if let (true, Some(expected), Some(actual)) =
                    (path.ends_with("deltaBase64"), decoded(expected), decoded(&actual))
                {
                    text.push_str(&format!(
                        "\n  expected bytes {expected}\n  got bytes      {actual}"
                    ));
                }
                Err(text)
            }
        }
    }

    /// The message that `expected` is about.
    fn next_like(&mut self, expected: &Value) -> Result<Value, String> {
        let deadline = Instant::now() + self.patience;
        let mut message = self.find(expected, deadline)?;
        let (Some(wanted), Some(mut bytes)) = (delta(expected), delta(&message)) else {
            return Ok(message);
        };
        while bytes.len() < wanted.len() {
            // An end before that shows as bytes that are missing.
            let Ok(next) = self.find(expected, deadline) else {
                break;
            };
            bytes.extend(delta(&next).unwrap_or_default());
            message["params"]["capReached"] = next["params"]["capReached"].clone();
        }
        if bytes.len() > wanted.len() && !wanted.is_empty() {
            let rest = bytes.split_off(wanted.len());
            let mut behind = message.clone();
            let offset = message["params"]["offset"].as_u64().unwrap_or_default();
            let Some(offset) = offset.checked_add(bytes.len() as u64) else {
                return Err(format!("its output goes beyond the largest offset: {message}"));
            };
            behind["params"]["offset"] = offset.into();
            behind["params"]["deltaBase64"] = encode(&rest).into();
            message["params"]["capReached"] = false.into();
            // What it takes was counted once, and is no more than that.
            self.unseen.push_front((behind, 0));
        }
        message["params"]["deltaBase64"] = encode(&bytes).into();
        Ok(message)
    }

    fn find(&mut self, expected: &Value, deadline: Instant) -> Result<Value, String> {
        let mut looked_at = 0;
        loop {
            while let Some((message, size)) = self.unseen.get(looked_at) {
                if is_meant(expected, message) {
                    let mut before = self.unseen.iter().take(looked_at);
                    if let Some((output, _)) = before.find(|(m, _)| is_before(message, m)) {
                        return Err(format!("expected {expected}\n  but before that came {output}"));
                    }
                    self.kept -= size;
                    return Ok(self.unseen.remove(looked_at).unwrap_or_default().0);
                }
                looked_at += 1;
            }
            let why = match &self.end {
                Some(Ok(())) => "the server's output has ended",
                Some(Err(why)) => why,
                None if self.kept >= KEPT => "the server says too much that is not expected",
                None => match self.step(&mut &[][..], deadline) {
                    Ok(()) => continue,
                    Err(_) => "it did not come in time",
                },
            };
            let mut text = format!("waited for {expected}\n  {why}");
            for (message, _) in self.unseen.iter().take(SHOWN) {
                text.push_str(&format!("\n  meanwhile came {message}"));
            }
            if let Some(more @ 1..) = self.unseen.len().checked_sub(SHOWN) {
                text.push_str(&format!("\n  and {more} more"));
            }
            return Err(text);
        }
    }

    /// Ends the input, and hears what is left.
    fn finish(mut self) -> Result<(), String> {
        self.input = None;
        let deadline = Instant::now() + END;
        let late = || format!("the server did not end within {END:?} of its input");
        loop {
            let mut unseen = self.unseen.iter().map(|(message, _)| message);
            if let Some(message) = unseen.find(|m| m["method"] != notification::EXITED) {
                return Err(format!("the transcript does not show {message}"));
            }
            self.forget_unseen();
            match &self.end {
                None => self.step(&mut &[][..], deadline).map_err(|_| late())?,
                Some(Err(why)) => return Err(why.clone()),
                Some(Ok(())) if self.has_ended(deadline) => return Ok(()),
                Some(Ok(())) => return Err(late()),
            }
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.input = None;
        // It may end by itself, if somebody reads what it still says.
        let deadline = Instant::now() + ASTRAY;
        self.forget_unseen();
        while self.end.is_none() && self.step(&mut &[][..], deadline).is_ok() {
            self.forget_unseen();
        }
        if !self.has_ended(deadline) {
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
    }
}

/// Whether `message` is the one that `expected` is about, whatever it says.
fn is_meant(expected: &Value, message: &Value) -> bool {
    let fits = |expected: &Value, actual: &Value| difference(expected, actual).is_none();
    if let Some(id) = expected.get("id") {
        return message.get("method").is_none() && fits(id, &message["id"]);
    }
    let Some(method) = expected.get("method") else {
        return true;
    };
    let (wanted, params) = (&expected["params"], &message["params"]);
    let same = |member: &str| *wanted == ANY || fits(&wanted[member], &params[member]);
    let is_delta = method == notification::OUTPUT_DELTA;
    let is_method = message.get("method").is_some_and(|actual| fits(method, actual));
    is_method && same("processHandle") && (!is_delta || same("stream"))
}

/// Whether `message` must come before `exited`: output of a process, and its end.
fn is_before(exited: &Value, message: &Value) -> bool {
    exited["method"] == notification::EXITED
        && message["method"] == notification::OUTPUT_DELTA
        && exited["params"]["processHandle"] == message["params"]["processHandle"]
}

/// Where `actual` is otherwise than `expected` says: the path of the first difference.
fn difference(expected: &Value, actual: &Value) -> Option<String> {
    match (expected, actual) {
        (Value::String(any), _) if any == ANY => None,
        (Value::String(pattern), Value::String(text)) => (!fits(pattern, text)).then(String::new),
        (Value::Object(expected), Value::Object(actual)) => {
            let keys: BTreeSet<&String> = expected.keys().chain(actual.keys()).collect();
            keys.into_iter()
                .find_map(|key| match (expected.get(key), actual.get(key)) {
                    (Some(e), Some(a)) => difference(e, a).map(|path| format!(".{key}{path}")),
                    (Some(_), None) => Some(format!(".{key}, which is missing")),
                    (None, _) => Some(format!(".{key}, which was not expected")),
                })
        }
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            let pairs = expected.iter().zip(actual).enumerate();
            pairs
                .into_iter()
                .find_map(|(index, (e, a))| difference(e, a).map(|path| format!("[{index}]{path}")))
        }
        (expected, actual) => (expected != actual).then(String::new),
    }
}

/// Whether `text` is `pattern`, in which `[..]` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once(SOME) else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = match rest.rsplit_once(SOME) {
        Some((middle, last)) => (middle, last),
        None => ("", rest),
    };
    for part in middle.split(SOME) {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

/// The bytes of a delta, if it is one that says them.
fn delta(message: &Value) -> Option<Vec<u8>> {
    if message["method"] != notification::OUTPUT_DELTA {
        return None;
    }
    let text = message["params"]["deltaBase64"].as_str()?;
    base64_simd::STANDARD.decode_to_vec(text).ok()
}

fn encode(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

fn shown(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn any_text_is_any_text() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("[..]", "", true),
            ("[..]", "x", true),
            ("a[..]", "ab", true),
            ("a[..]", "ba", false),
            ("[..]a", "ba", true),
            ("[..]a", "bab", false),
            ("a[..]a", "a", false),
            ("a[..]a", "aa", true),
            ("a[..]b[..]c", "axbxc", true),
            ("a[..]b[..]c", "axxc", false),
            ("a[..]b[..]", "ab", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern:?} and {text:?}");
        }
    }

    #[test]
    fn wildcards_find_their_message() {
        let answer = json!({"id": "a1", "result": {}});
        let exited = json!({"method": "process/exited", "params": {"processHandle": "a1", "exitCode": 0}});
        let output =
            json!({"method": "process/outputDelta", "params": {"processHandle": "a1", "stream": "stdout"}});
        for (expected, is_for) in [
            (json!({"id": "a[..]", "result": "{...}"}), [true, false, false]),
            (json!({"id": "{...}", "result": {}}), [true, false, false]),
            (json!({"id": "b[..]", "result": {}}), [false, false, false]),
            (
                json!({"method": "process/exited", "params": "{...}"}),
                [false, true, false],
            ),
            (
                json!({"method": "process/exited", "params": {"processHandle": "a[..]"}}),
                [false, true, false],
            ),
            (
                json!({"method": "process/exited", "params": {"processHandle": "b[..]"}}),
                [false, false, false],
            ),
            (json!({"method": "[..]", "params": "{...}"}), [false, true, true]),
            (
                json!({"method": "process/outputDelta", "params": "{...}"}),
                [false, false, true],
            ),
            (
                json!({"method": "process/outputDelta", "params": {"processHandle": "{...}", "stream": "std[..]"}}),
                [false, false, true],
            ),
            (
                json!({"method": "process/outputDelta", "params": {"processHandle": "a1", "stream": "stderr"}}),
                [false, false, false],
            ),
            (json!("{...}"), [true, true, true]),
        ] {
            let found = [&answer, &exited, &output].map(|message| is_meant(&expected, message));
            assert_eq!(found, is_for, "{expected}");
        }
    }

    #[test]
    fn a_difference_has_a_path() {
        let expected = json!({"a": [1, {"b": "x[..]"}], "c": "{...}"});
        assert_eq!(
            difference(&expected, &json!({"a": [1, {"b": "xy"}], "c": null})),
            None
        );
        for (actual, path) in [
            (json!({"a": [1, {"b": "y"}], "c": 1}), ".a[1].b"),
            (json!({"a": [1], "c": 1}), ".a"),
            (json!({"a": [1, {"b": "x"}]}), ".c, which is missing"),
            (
                json!({"a": [1, {"b": "x"}], "c": 1, "d": 1}),
                ".d, which was not expected",
            ),
            (json!(3), ""),
        ] {
            assert_eq!(difference(&expected, &actual).as_deref(), Some(path), "{actual}");
        }
    }

    #[test]
    fn sessions_are_found_in_markdown() {
        let text = "x\n```sh\n--> no\n```\n```session\n--> {}\n\n<-- {\"id\":1}\n```\n--> no\n```session\n# x\n```\n";
        let found = |text: &str| -> Vec<(String, usize)> {
            let sessions = parse("a.md", text).unwrap();
            sessions.into_iter().map(|s| (s.place, s.steps.len())).collect()
        };
        let at = |line: usize, steps: usize| (format!("a.md:{line}"), steps);
        assert_eq!(found(text), [at(6, 2), at(12, 0)]);
        assert_eq!(parse("a.md", text).unwrap()[0].steps[1].line, 8);
        for (text, expected) in [
            // Not closed.
            ("```session\n--> {}", at(2, 1)),
            // A block that shows one.
            (
                "````md\n```session\n--> no\n````\n```session\n--> {}\n```\n",
                at(6, 1),
            ),
            ("~~~\n```session\n~~~\n```session\n--> {}\n```\n", at(5, 1)),
            // Closed by more, of the same, and by nothing else.
            ("~~~~ session x\n--> {}\n~~~~~\nno", at(2, 1)),
            ("   ```session\n--> {}\n  ```  \nno", at(2, 1)),
            // No fence.
            ("```a``` b\n```session\n--> {}\n```", at(3, 1)),
        ] {
            assert_eq!(found(text), [expected], "{text}");
        }
        assert!(
            parse("a.md", "```session\n--> {}\n~~~\n```")
                .unwrap_err()
                .starts_with("a.md:3:")
        );
        for (name, text) in [
            ("a.md", "# x\n"),
            ("a.md", "```sh\n--> {}\n```"),
            ("a.md", "```session\n# x\n```"),
            ("a.txt", ""),
            ("a.txt", "# x\n"),
        ] {
            let error = parse(name, text).unwrap_err();
            assert!(
                error.starts_with(&format!("{name}: there is no session")),
                "{error}"
            );
        }
        assert!(parse("a.txt", text).unwrap_err().starts_with("a.txt:1:"));
        assert!(parse("a.txt", "<-- {").unwrap_err().starts_with("a.txt:1:"));
    }
}
