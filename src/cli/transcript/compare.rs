//! Whether a message is what a transcript expects, and the text of a difference.
//!
//! **Thread:** the caller's.
//! **Owns:** the meaning of wildcards, and the layout of a difference.
//! **Never:** shows more of a value than fits a line, or a character that controls a terminal.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{ANY, SOME};
use crate::cli::quote::escaped_line;
use crate::wire::message::json;
use crate::wire::protocol::notification;

/// The columns a difference may take.
const WIDTH: usize = 100;
/// How much of a value is shown before the place where it differs.
const BEFORE: usize = 20;

/// Whether `message` is the one that `expected` is about, whatever it says.
pub(super) fn is_meant(expected: &Value, message: &Value) -> bool {
    let fits = |expected: &Value, actual: &Value| matches(expected, actual);
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
pub(super) fn is_before(exited: &Value, message: &Value) -> bool {
    exited["method"] == notification::EXITED
        && message["method"] == notification::OUTPUT_DELTA
        && exited["params"]["processHandle"] == message["params"]["processHandle"]
}

/// One member that is otherwise than expected.
#[derive(Debug, PartialEq)]
pub(super) struct Mismatch<'a> {
    /// Where it is: `.params.exitCode`, empty for the whole message.
    pub path: String,
    pub expected: Option<&'a Value>,
    pub actual: Option<&'a Value>,
}

pub(super) fn matches(expected: &Value, actual: &Value) -> bool {
    mismatches(expected, actual).is_empty()
}

/// Everything in which `actual` is otherwise than `expected` says.
pub(super) fn mismatches<'a>(expected: &'a Value, actual: &'a Value) -> Vec<Mismatch<'a>> {
    let mut found = Vec::new();
    compare(expected, actual, &mut String::new(), &mut found);
    found
}

fn compare<'a>(expected: &'a Value, actual: &'a Value, path: &mut String, found: &mut Vec<Mismatch<'a>>) {
    let same = match (expected, actual) {
        (Value::String(any), _) if any == ANY => true,
        (Value::String(pattern), Value::String(text)) => fits(pattern, text),
        (Value::Object(expected), Value::Object(actual)) => {
            // Not collected, which would bring a sort of its own into the program.
            let mut keys: BTreeSet<&String> = BTreeSet::new();
            keys.extend(expected.keys().chain(actual.keys()));
            for key in keys {
                let length = path.len();
                path.push('.');
                path.push_str(key);
                match (expected.get(key), actual.get(key)) {
                    (Some(e), Some(a)) => compare(e, a, path, found),
                    (expected, actual) => found.push(Mismatch {
                        path: path.clone(),
                        expected,
                        actual,
                    }),
                }
                path.truncate(length);
            }
            true
        }
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            for (index, (e, a)) in expected.iter().zip(actual).enumerate() {
                let length = path.len();
                path.push_str(&format!("[{index}]"));
                compare(e, a, path, found);
                path.truncate(length);
            }
            true
        }
        (expected, actual) => expected == actual,
    };
    if !same {
        found.push(Mismatch {
            path: path.clone(),
            expected: Some(expected),
            actual: Some(actual),
        });
    }
}

impl Mismatch<'_> {
    /// On one line, or on three where one is not enough.
    pub(super) fn describe(&self) -> String {
        let path = match self.path.as_str() {
            "" => "the message".to_owned(),
            path => shortened(&escaped_line(path), 0, WIDTH / 2),
        };
        let (expected, actual) = match (self.expected, self.actual) {
            (Some(expected), Some(actual)) => (expected, actual),
            (Some(expected), None) => {
                let value = shortened(&shown(expected), 0, WIDTH - path.chars().count() - 25);
                return format!("{path}: missing, expected {value}");
            }
            (None, actual) => {
                let value = shown(actual.unwrap_or(&Value::Null));
                let value = shortened(&value, 0, WIDTH - path.chars().count() - 25);
                return format!("{path}: not expected, got {value}");
            }
        };
        let bytes = |value: &Value| {
            let text = value.as_str().filter(|_| self.path.ends_with(".deltaBase64"))?;
            base64_simd::STANDARD.decode_to_vec(text).ok()
        };
        let (path, expected, actual) = match (bytes(expected), bytes(actual)) {
            (Some(expected), Some(actual)) => (
                format!("{path}, decoded"),
                shown_bytes(&expected),
                shown_bytes(&actual),
            ),
            _ => (path, shown(expected), shown(actual)),
        };
        let line = format!("{path}: expected {expected}, got {actual}");
        if line.chars().count() <= WIDTH - 4 {
            return line;
        }
        // Both from the same place, shortly before the first character that differs.
        let same = expected
            .chars()
            .zip(actual.chars())
            .take_while(|(e, a)| e == a)
            .count();
        let from = match same > BEFORE + 10 {
            true => same - BEFORE,
            false => 0,
        };
        let room = WIDTH - 20;
        format!(
            "{path}:\n  expected {}\n  got      {}",
            shortened(&expected, from, room),
            shortened(&actual, from, room)
        )
    }
}

/// A message or value on one line that fits.
pub(super) fn brief(value: &Value) -> String {
    shortened(&shown(value), 0, WIDTH - 25)
}

/// The same, but for output, of which the text is shown.
pub(super) fn brief_text(value: &Value) -> String {
    match delta(value) {
        Some(bytes) => {
            let (handle, stream) = (&value["params"]["processHandle"], &value["params"]["stream"]);
            let text = Value::from(String::from_utf8_lossy(&bytes));
            let text = format!("{} of {handle}: {text}", stream.as_str().unwrap_or("output"));
            shortened(&escaped_line(&text), 0, WIDTH - 25)
        }
        None => brief(value),
    }
}

/// What a message is about: `answer 3`, `process/exited "a"`.
pub(super) fn label(message: &Value) -> String {
    let text = if let Some(id) = message.get("id") {
        match message.get("method") {
            None => format!("answer {id}"),
            Some(_) => format!("request {id}"),
        }
    } else if let Some(method) = message["method"].as_str() {
        let params = &message["params"];
        let part = |member: &str| {
            params
                .get(member)
                .map(|value| format!(" {}", json(value)))
                .unwrap_or_default()
        };
        format!("{method}{}{}", part("processHandle"), part("stream"))
    } else {
        "message".to_owned()
    };
    shortened(&escaped_line(&text), 0, WIDTH / 2)
}

fn shown(value: &Value) -> String {
    escaped_line(&json(value)).into_owned()
}

fn shown_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => shown(&text.into()),
        Err(_) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

/// `room` characters of `text` from `from` on, with `…` for what is left out.
fn shortened(text: &str, from: usize, room: usize) -> String {
    let mut shown: String = match from {
        0 => String::new(),
        _ => "…".to_owned(),
    };
    let mut characters = text.chars().skip(from);
    shown.extend(characters.by_ref().take(room));
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Whether `text` is `pattern`, in which `[..]` stands for any text.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
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
pub(super) fn delta(message: &Value) -> Option<Vec<u8>> {
    if message["method"] != notification::OUTPUT_DELTA {
        return None;
    }
    let text = message["params"]["deltaBase64"].as_str()?;
    base64_simd::STANDARD.decode_to_vec(text).ok()
}

pub(super) fn encode(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
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
    fn every_member_that_differs_has_a_line() {
        let expected = json!({"a": [1, {"b": "x[..]"}], "c": "{...}"});
        let said = |actual: Value| -> Vec<String> {
            let found = mismatches(&expected, &actual);
            found.iter().map(Mismatch::describe).collect()
        };
        assert!(matches(&expected, &json!({"a": [1, {"b": "xy"}], "c": null})));
        for (actual, lines) in [
            (
                json!({"a": [1, {"b": "y"}], "c": 1}),
                &[".a[1].b: expected \"x[..]\", got \"y\""][..],
            ),
            (
                json!({"a": [1], "c": 1}),
                &[".a: expected [1,{\"b\":\"x[..]\"}], got [1]"],
            ),
            (
                json!({"a": [2, {"b": "x"}], "d": "\u{1b}\u{9b}"}),
                &[
                    ".a[0]: expected 1, got 2",
                    ".c: missing, expected \"{...}\"",
                    ".d: not expected, got \"\\u001b\\u{9b}\"",
                ],
            ),
            (
                json!(3),
                &["the message: expected {\"a\":[1,{\"b\":\"x[..]\"}],\"c\":\"{...}\"}, got 3"],
            ),
        ] {
            assert_eq!(said(actual.clone()), lines, "{actual}");
        }
    }

    #[test]
    fn a_long_value_is_shown_where_it_differs() {
        let long = |middle: &str| json!(format!("{}{middle}{}", "a".repeat(500), "z".repeat(500)));
        let (expected, actual) = (long("left"), long("\u{202e}right"));
        let found = mismatches(&expected, &actual);
        let said = found[0].describe();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "the message:");
        assert!(
            lines[1].starts_with("  expected …aaaa") && lines[1].contains("aleftz"),
            "{said}"
        );
        assert!(
            lines[2].starts_with("  got      …aaaa") && lines[2].contains("a\\u{202e}right"),
            "{said}"
        );
        assert!(
            lines.iter().all(|line| line.chars().count() <= WIDTH - 4),
            "{said}"
        );
        let (expected, actual) = (json!({"deltaBase64": "aGEK"}), json!({"deltaBase64": "aG8K"}));
        assert_eq!(
            mismatches(&expected, &actual)[0].describe(),
            r#".deltaBase64, decoded: expected "ha\n", got "ho\n""#
        );
    }
}
