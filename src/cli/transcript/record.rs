//! Recording: a transcript with what the server sends.
//!
//! **Thread:** the caller's.
//! **Owns:** what is known to change from run to run, and how long a recording waits.
//! **Never:** changes a remark, a line that is sent, or a line that is expected and still fits.

use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::compare::{delta, encode, is_meant, matches};
use super::conversation::{Conversation, Message};
use super::processes::SPAWN;
use super::{ANY, Difference, Differences, Failure, Line, Session, start, wait_line};
use crate::cli::quote::escaped_json;
use crate::wire::message::json;
use crate::wire::protocol::notification;

/// Members whose values change from run to run.
const VOLATILE: [&str; 10] = [
    "pid",
    "parentPid",
    "durationMs",
    "startedAtMs",
    "usage",
    "userMs",
    "systemMs",
    "maxRssBytes",
    "cpuMs",
    "rssBytes",
];

/// How long nothing must come before the next line is sent, where nothing says what to wait for: as a
/// person would wait until a program has printed what it has to print.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// A session with what the server has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recorded {
    /// The lines of the session, without their ends.
    pub lines: Vec<String>,
    /// What could not be recorded: lines that could not be sent, requests without an answer.
    pub failures: Vec<Difference>,
}

impl Session {
    /// Starts `server`, sends what the session sends, and writes down what comes. Where messages are
    /// expected already, those that fit stay as they are, and so does every wildcard that fits in one
    /// that does not. What is known to change from run to run becomes a wildcard.
    ///
    /// A message that is expected and does not come within `patience` is left out.
    ///
    /// # Errors
    ///
    /// That there was no server.
    pub fn record(&self, server: &mut Command, patience: Duration) -> Result<Recorded, Failure> {
        let mut recorder = Recorder {
            conversation: start(server, patience, true)?,
            lines: Vec::new(),
            unanswered: Vec::new(),
            alive: Vec::new(),
        };
        let mut failures = Differences::default();
        let last = self
            .lines
            .iter()
            .rposition(|line| !matches!(line, Line::Remark(_)));
        let expects = self.lines.iter().any(|line| matches!(line, Line::Expect { .. }));
        for (index, line) in self.lines.iter().enumerate() {
            let number = self.first + index;
            match line {
                Line::Remark(text) => recorder.lines.push(text.clone()),
                Line::Send(text) => {
                    recorder.lines.push(format!("--> {text}"));
                    let id = recorder.note(number, text);
                    if let Err(why) = recorder.conversation.send(text) {
                        failures.push(Some(number), || why);
                    } else if !expects {
                        recorder.settle(id.as_ref());
                        // A line that waits for output wants it all.
                        let waits = self.lines[index..].iter().any(|l| matches!(l, Line::Wait(_)));
                        recorder.write_unseen(usize::MAX, |message| waits && delta(message).is_some());
                    }
                }
                Line::Expect { value, text } => {
                    let later = |message: &Value| {
                        self.lines[index + 1..].iter().any(|line| match line {
                            Line::Expect { value, .. } => is_meant(value, message),
                            Line::Wait(_) => delta(message).is_some(),
                            _ => false,
                        })
                    };
                    recorder.expect(value, text, later);
                }
                Line::Wait(text) => {
                    recorder.lines.push(wait_line(text));
                    if let Err(why) = recorder.conversation.wait_for(text) {
                        failures.push(Some(number), || why);
                    }
                }
            }
            if Some(index) == last {
                recorder.wait_for_ends(matches!(line, Line::Send(_)));
                recorder.write_unseen(usize::MAX, |_| false);
                let waited = expects || !recorder.unanswered.is_empty();
                if let Some(why) = recorder.conversation.why_no_server().filter(|_| waited) {
                    return Err(Failure::NoServer(why));
                }
                if let Err(why) = recorder.finish(!failures.found.is_empty()) {
                    failures.push(None, || why);
                }
            }
        }
        if let Some(why) = recorder.conversation.failed_silently() {
            return Err(Failure::NoServer(why));
        }
        for (_, number) in recorder.unanswered {
            failures.push(Some(number), || "the request was not answered".to_owned());
        }
        // One by one: there are few, and a stable sort is much code.
        let place = |failure: &Difference| failure.line.unwrap_or(usize::MAX);
        let mut in_order = Vec::new();
        for failure in failures.found {
            let after = in_order.partition_point(|before| place(before) <= place(&failure));
            in_order.insert(after, failure);
        }
        Ok(Recorded {
            lines: recorder.lines,
            failures: in_order,
        })
    }
}

struct Recorder {
    conversation: Conversation,
    lines: Vec<String>,
    /// Requests by their ids, with the lines that sent them.
    unanswered: Vec<(Value, usize)>,
    /// Processes that have not ended: handles, with the ids of their spawns.
    alive: Vec<(String, Value)>,
}

impl Recorder {
    /// Notes which answer and which process a line leads to. Returns its id, if it is a request.
    fn note(&mut self, number: usize, text: &str) -> Option<Value> {
        let message: Value = serde_json::from_str(text).ok()?;
        let id = message.get("id")?.clone();
        let asked = message["method"].as_str()?;
        self.unanswered.push((id.clone(), number));
        if asked == SPAWN
            && let Some(handle) = message["params"]["processHandle"].as_str()
        {
            self.alive.push((handle.to_owned(), id.clone()));
        }
        Some(id)
    }

    /// Waits for the answer of a request, and then until nothing comes any more for a moment.
    fn settle(&mut self, id: Option<&Value>) {
        let deadline = self.conversation.deadline();
        if let Some(id) = id
            && !self.conversation.listen(deadline, |conversation| {
                conversation.unseen.iter().any(|m| answers(&m.value, id))
            })
        {
            self.conversation.is_late();
        }
        loop {
            let heard = self.conversation.heard;
            let calm = Instant::now() + SETTLE_TIME;
            self.conversation
                .listen(calm.min(deadline), |conversation| conversation.heard > heard);
            if self.conversation.heard == heard || self.conversation.is_over() || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// After the last line: waits until all is answered, and, where the session ends with a line that
    /// is sent, until every process has ended, as long as any message may take.
    fn wait_for_ends(&mut self, also_processes: bool) {
        let deadline = self.conversation.deadline();
        let (unanswered, alive) = (&self.unanswered, &self.alive);
        self.conversation.listen(deadline, |conversation| {
            let came = |is_it: &dyn Fn(&Value) -> bool| conversation.unseen.iter().any(|m| is_it(&m.value));
            let has_ended = |handle: &str, spawn: &Value| {
                let refused = |m: &Value| m.get("error").is_some() && answers(m, spawn);
                came(&|message| ends(message, handle) || refused(message))
            };
            unanswered.iter().all(|(id, _)| came(&|m| answers(m, id)))
                && (!also_processes || alive.iter().all(|(handle, spawn)| has_ended(handle, spawn)))
        });
    }

    /// Replaces a message that is expected by what comes; leaves it out if nothing does.
    fn expect(&mut self, expected: &Value, text: &str, later: impl Fn(&Value) -> bool) {
        let deadline = self.conversation.deadline();
        self.conversation.listen(deadline, |conversation| {
            conversation
                .unseen
                .iter()
                .any(|message| is_meant(expected, &message.value))
        });
        let unseen = &self.conversation.unseen;
        let Some(at) = unseen
            .iter()
            .position(|message| is_meant(expected, &message.value))
        else {
            self.conversation.is_late();
            return;
        };
        // What came before it and is expected nowhere stands before it.
        self.write_unseen(at, later);
        let Ok(mut message) = self.conversation.next_like(expected) else {
            return;
        };
        if !matches(expected, &message.value) {
            self.uncut(expected, &mut message);
        }
        self.hear(&message.value);
        match matches(expected, &message.value) {
            true => self.lines.push(text.to_owned()),
            false => self.lines.push(render_line(&message, Some(expected))),
        }
    }

    /// Output that is otherwise than expected is written as it came, and not cut to the length of that.
    fn uncut(&mut self, expected: &Value, message: &mut Message) {
        let (Some(wanted), Some(mut bytes)) = (delta(expected), delta(&message.value)) else {
            return;
        };
        if wanted == bytes {
            return;
        }
        while let Some(next) = self.conversation.unseen.front()
            && follows(&next.value, &message.value, bytes.len())
        {
            let next = self.conversation.take(0);
            bytes.extend(delta(&next.value).unwrap_or_default());
            message.value["params"]["capReached"] = next.value["params"]["capReached"].clone();
        }
        message.value["params"]["deltaBase64"] = encode(&bytes).into();
    }

    /// Writes down the first `count` messages that have come, but for those that are `kept`.
    fn write_unseen(&mut self, count: usize, kept: impl Fn(&Value) -> bool) {
        let mut written = Vec::new();
        let mut index = 0;
        for _ in 0..count.min(self.conversation.unseen.len()) {
            let message = &self.conversation.unseen[index].value;
            if kept(message) || self.conversation.is_followed(message) {
                index += 1;
            } else {
                written.push(self.conversation.take(index));
            }
        }
        for message in &written {
            self.hear(&message.value);
        }
        write(&mut self.lines, written);
    }

    /// Ends the server. What it says then of processes that it ends is not part of the session.
    fn finish(&mut self, astray: bool) -> Result<(), String> {
        let mut rest = Vec::new();
        let ended = self.conversation.finish(astray, |message| rest.push(message));
        for message in &rest {
            self.hear(&message.value);
        }
        let alive = &self.alive;
        rest.retain(|message| {
            let handle = message.value["params"]["processHandle"].as_str();
            !alive.iter().any(|(alive, _)| handle == Some(alive))
        });
        write(&mut self.lines, rest);
        ended
    }

    /// Forgets the request that a message answers and the process whose end it reports.
    fn hear(&mut self, message: &Value) {
        let refused = message.get("error").is_some();
        self.unanswered.retain(|(id, _)| !answers(message, id));
        let is_over =
            |handle: &str, spawn: &Value| ends(message, handle) || refused && answers(message, spawn);
        self.alive.retain(|(handle, spawn)| !is_over(handle, spawn));
    }
}

fn answers(message: &Value, id: &Value) -> bool {
    message.get("id") == Some(id) && message.get("method").is_none()
}

fn ends(message: &Value, handle: &str) -> bool {
    message["method"] == notification::EXITED && message["params"]["processHandle"] == handle
}

/// Whether `next` is output of the same stream that directly follows the `length` bytes of `message`.
fn follows(next: &Value, message: &Value, length: usize) -> bool {
    let (next, params) = (&next["params"], &message["params"]);
    let offset = params["offset"]
        .as_u64()
        .and_then(|offset| offset.checked_add(length as u64));
    delta_of_same_stream(next, params) && (offset.is_none() || next["offset"].as_u64() == offset)
}

fn delta_of_same_stream(a: &Value, b: &Value) -> bool {
    a.get("deltaBase64").is_some() && a["processHandle"] == b["processHandle"] && a["stream"] == b["stream"]
}

/// Writes messages down as they came. Where a stream is cut into deltas means nothing, so those that
/// follow each other are one.
fn write(lines: &mut Vec<String>, messages: Vec<Message>) {
    let mut joined: Vec<Message> = Vec::new();
    for message in messages {
        let of_handle = |m: &&mut Message| {
            m.value["params"].get("processHandle").is_some()
                && m.value["params"]["processHandle"] == message.value["params"]["processHandle"]
        };
        if let Some(bytes) = delta(&message.value)
            && let Some(before) = joined.iter_mut().rev().find(of_handle)
            && let Some(mut all) = delta(&before.value)
            && follows(&message.value, &before.value, all.len())
        {
            all.extend(bytes);
            before.value["params"]["deltaBase64"] = encode(&all).into();
            before.value["params"]["capReached"] = message.value["params"]["capReached"].clone();
        } else {
            joined.push(message);
        }
    }
    lines.extend(joined.iter().map(|message| render_line(message, None)));
}

fn render_line(message: &Message, expected: Option<&Value>) -> String {
    let order = serde_json::from_str(&message.text).unwrap_or(Order::Value);
    let mut text = "<-- ".to_owned();
    render(&mut text, &message.value, &order, expected, "");
    escaped_json(&text).into_owned()
}

/// Writes `value` with its members in this order. Where `expected` fits, it is written instead.
fn render(text: &mut String, value: &Value, order: &Order, expected: Option<&Value>, key: &str) {
    let any = || json(&ANY);
    let volatile = VOLATILE.contains(&key);
    let is_detailed = expected.is_some_and(Value::is_object);
    match (expected, value, order) {
        (Some(expected), _, _) if *expected == ANY => text.push_str(&any()),
        (_, Value::Object(members), Order::Object(order)) if !volatile || is_detailed => {
            text.push('{');
            for (index, (name, order)) in order.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&json(name));
                text.push(':');
                let value = members.get(name).unwrap_or(&Value::Null);
                render(text, value, order, expected.and_then(|e| e.get(name)), name);
            }
            text.push('}');
        }
        (_, Value::Array(elements), Order::Array(order)) if !volatile => {
            let expected = expected
                .and_then(Value::as_array)
                .filter(|e| e.len() == elements.len());
            text.push('[');
            for (index, (value, order)) in elements.iter().zip(order).enumerate() {
                if index > 0 {
                    text.push(',');
                }
                render(text, value, order, expected.map(|e| &e[index]), "");
            }
            text.push(']');
        }
        (Some(expected), value, _) if matches(expected, value) => text.push_str(&json(expected)),
        _ if volatile && !value.is_null() => text.push_str(&any()),
        (_, value, _) => text.push_str(&json(value)),
    }
}

/// The order of the members of a message, which is lost in a [`Value`].
enum Order {
    Object(Vec<(String, Order)>),
    Array(Vec<Order>),
    Value,
}

impl<'de> Deserialize<'de> for Order {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Order;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Order, A::Error> {
                let mut members: Vec<(String, Order)> = Vec::new();
                while let Some((name, order)) = map.next_entry::<String, Order>()? {
                    // Of two members of a name the last one counts.
                    members.retain(|(known, _)| *known != name);
                    members.push((name, order));
                }
                Ok(Order::Object(members))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Order, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = sequence.next_element()? {
                    elements.push(element);
                }
                Ok(Order::Array(elements))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Order, E> {
                Ok(Order::Value)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Order, E> {
                Ok(Order::Value)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Order, E> {
                Ok(Order::Value)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Order, E> {
                Ok(Order::Value)
            }
            fn visit_str<E>(self, _: &str) -> Result<Order, E> {
                Ok(Order::Value)
            }
            fn visit_unit<E>(self) -> Result<Order, E> {
                Ok(Order::Value)
            }
        }
        deserializer.deserialize_any(Members)
    }
}
