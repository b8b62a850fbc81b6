//! What a conversation comes down to: facts that two servers must agree on.
//!
//! Part of the comparison program; see `compare.rs` for how to run it. The
//! protocol leaves a server some freedom (how output is cut into deltas, how
//! the streams and processes interleave), so transcripts are not compared as
//! they are. Instead each is reduced to a list of facts, named by the request
//! or the process they are about. Where the protocol does order messages, a
//! fact says that the order was kept.

use crate::play::{Line, Played};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Texts up to this length are facts as they are, longer ones by their hash.
const SHORT: usize = 400;

/// A statement about a conversation.
#[derive(Debug, Clone)]
pub struct Fact {
    /// What it is about, as in `process 1 (p) exited.exitCode`.
    pub name: String,
    /// What is so.
    pub value: Value,
}

/// A conversation's facts, and the texts of its errors apart from them.
#[derive(Debug, Default)]
pub struct Facts {
    /// In the order of the conversation.
    pub facts: Vec<Fact>,
    /// Error messages by request, for those who want to see them.
    pub texts: Vec<Fact>,
}

/// One process, while its messages are put together.
#[derive(Default)]
struct Process {
    name: String,
    streams: [Stream; 2],
    extra: Vec<String>,
    exited: Option<Map<String, Value>>,
}

#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    capped: bool,
}

/// Reduces a conversation to its facts.
pub fn of(played: &Played) -> Facts {
    let mut reader = Reader {
        dir: played.dir.to_string_lossy().into_owned(),
        ..Reader::default()
    };
    for (_, line) in &played.lines {
        match line {
            Line::Sent(line) => reader.sent(line),
            Line::Got(line) => reader.got(line),
            Line::Closed => reader.closed = true,
        }
    }
    let mut facts = reader.finish();
    if let Some(step) = &played.gave_up {
        facts.add("gave up", step.as_str());
    }
    facts.add("server's end", played.end.as_str());
    facts
}

impl Facts {
    fn add(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        // A second fact of one name is another fact: a request answered twice.
        let name = name.into();
        let same = |fact: &&Fact| fact.name == name || fact.name.starts_with(&format!("{name} #"));
        let count = self.facts.iter().filter(same).count();
        let name = match count {
            0 => name,
            _ => format!("{name} #{}", count + 1),
        };
        let value = value.into();
        self.facts.push(Fact { name, value });
    }

    /// The value of the fact with this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let fact = self.facts.iter().find(|fact| fact.name == name)?;
        Some(&fact.value)
    }

    /// Whether a request was refused because there were too many.
    pub fn refused_any(&self) -> bool {
        self.facts.iter().any(|fact| fact.value == "error -32001")
    }
}

#[derive(Default)]
struct Reader {
    dir: String,
    closed: bool,
    facts: Facts,
    /// Handle and method of the requests not answered yet, by id.
    asked: HashMap<String, (String, String)>,
    /// All processes, and for each handle the last one's index.
    processes: Vec<Process>,
    live: HashMap<String, usize>,
    /// The order of the answers, by handle.
    answers: Vec<(String, Vec<String>)>,
    /// What must not happen.
    wrong: Vec<String>,
}

impl Reader {
    fn sent(&mut self, line: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        if let Some(id) = message.get("id") {
            let handle = message["params"]["processHandle"].as_str().unwrap_or("");
            let method = message["method"].as_str().unwrap_or("");
            self.asked
                .insert(id.to_string(), (handle.to_owned(), method.to_owned()));
        }
    }

    fn got(&mut self, line: &[u8]) {
        let Ok(Value::Object(message)) = serde_json::from_slice::<Value>(line) else {
            let text = self.text(line);
            self.wrong.push(format!("no JSON object: {text}"));
            return;
        };
        if line.last() != Some(&b'\n') {
            self.wrong.push("a line without its end".to_owned());
        }
        let method = message.get("method").and_then(Value::as_str);
        let known: &[&str] = match method {
            Some(_) => &["method", "params"],
            None => &["id", "result", "error"],
        };
        for name in message.keys() {
            let fact = format!("message.{name}");
            if !known.contains(&name.as_str()) && self.facts.get(&fact).is_none() {
                self.facts.add(fact, "present");
            }
        }
        let params = message.get("params").unwrap_or(&Value::Null);
        match method {
            None => self.response(&message),
            // What becomes of processes after the end of the connection is
            // not visible, but what has ended has ended.
            Some(_) if self.closed && !self.ended(params) => {}
            Some("process/outputDelta") => self.delta(params),
            Some("process/exited") => self.exited(params),
            Some(method) => {
                let text = self.text(params.to_string().as_bytes());
                self.facts.add(format!("notification {method}"), text);
            }
        }
    }

    fn response(&mut self, message: &Map<String, Value>) {
        let id = message.get("id").unwrap_or(&Value::Null).to_string();
        let name = format!("response {id}");
        let (handle, method) = match self.asked.remove(&id) {
            Some(asked) => asked,
            // The one answer for messages whose id could not be read.
            None if id == "null" => Default::default(),
            None => {
                self.wrong.push(format!("{name} answers nothing"));
                return;
            }
        };
        if !handle.is_empty() {
            match self.answers.iter_mut().find(|(name, _)| *name == handle) {
                Some((_, ids)) => ids.push(id.clone()),
                None => self.answers.push((handle.clone(), vec![id.clone()])),
            }
        }
        match (message.get("result"), message.get("error")) {
            (Some(result), None) => {
                self.facts.add(name.clone(), "result");
                let members = result.as_object().cloned().unwrap_or_default();
                if !result.is_object() {
                    self.wrong.push(format!("{name}: the result is not an object"));
                }
                for (member, value) in members {
                    let value = self.value(&value);
                    self.facts.add(format!("{name} {method}.{member}"), value);
                }
                if method == "process/spawn" {
                    self.live.insert(handle.clone(), self.processes.len());
                    self.processes.push(Process {
                        name: format!("process {id} ({handle})"),
                        ..Process::default()
                    });
                }
            }
            (None, Some(Value::Object(error))) => {
                let code = error.get("code").unwrap_or(&Value::Null);
                self.facts.add(name.clone(), format!("error {code}"));
                for (member, value) in error {
                    match member.as_str() {
                        "code" => {}
                        "message" => {
                            let text = value.as_str().unwrap_or("(no text)");
                            let value = self.text(text.as_bytes()).into();
                            let name = name.clone();
                            self.facts.texts.push(Fact { name, value });
                        }
                        _ => {
                            let value = self.value(value);
                            self.facts.add(format!("{name} error.{member}"), value);
                        }
                    }
                }
            }
            _ => self
                .wrong
                .push(format!("{name}: neither result nor error, or both")),
        }
    }

    /// Whether the process that a notification is about has exited already.
    fn ended(&self, params: &Value) -> bool {
        let handle = params["processHandle"].as_str().unwrap_or("");
        let live = self.live.get(handle);
        live.is_some_and(|&at| self.processes[at].exited.is_some())
    }

    fn delta(&mut self, params: &Value) {
        let handle = params["processHandle"].as_str().unwrap_or("").to_owned();
        let Some(process) = self.live.get(&handle).map(|&at| &mut self.processes[at]) else {
            self.wrong
                .push(format!("{handle}: output before the spawn's response"));
            return;
        };
        if process.exited.is_some() {
            self.wrong.push(format!("{}: output after exited", process.name));
        }
        let stream = match params["stream"].as_str() {
            Some("stdout") => &mut process.streams[0],
            Some("stderr") => &mut process.streams[1],
            _ => {
                self.wrong.push(format!("{}: no stream", process.name));
                return;
            }
        };
        if stream.capped {
            self.wrong
                .push(format!("{}: output after capReached", process.name));
        }
        if let Some(offset) = params.get("offset")
            && *offset != stream.bytes.len()
        {
            let wanted = stream.bytes.len();
            self.wrong
                .push(format!("{}: offset {offset}, not {wanted}", process.name));
        }
        let delta = params["deltaBase64"].as_str().unwrap_or("-");
        match base64_simd::STANDARD.decode_to_vec(delta) {
            Ok(bytes) => stream.bytes.extend(bytes),
            Err(_) => self
                .wrong
                .push(format!("{}: a delta that is not base64", process.name)),
        }
        stream.capped = params["capReached"] == true;
        for name in params.as_object().into_iter().flat_map(Map::keys) {
            let known = ["processHandle", "stream", "deltaBase64", "capReached"];
            if !known.contains(&name.as_str()) && !process.extra.contains(name) {
                process.extra.push(name.clone());
            }
        }
    }

    fn exited(&mut self, params: &Value) {
        let handle = params["processHandle"].as_str().unwrap_or("").to_owned();
        let Some(process) = self.live.get(&handle).map(|&at| &mut self.processes[at]) else {
            self.wrong
                .push(format!("{handle}: exited before the spawn's response"));
            return;
        };
        if process.exited.is_some() {
            self.wrong.push(format!("{}: exited twice", process.name));
        }
        process.exited = params.as_object().cloned();
    }

    fn finish(mut self) -> Facts {
        for (handle, ids) in std::mem::take(&mut self.answers) {
            self.facts
                .add(format!("answers for {handle}"), short(&ids.join(" ")));
        }
        for process in std::mem::take(&mut self.processes) {
            let name = process.name;
            for (stream, what) in process.streams.iter().zip(["stdout", "stderr"]) {
                let text = self.text(&stream.bytes);
                self.facts.add(format!("{name} {what}"), text);
                self.facts.add(format!("{name} {what}.capReached"), stream.capped);
            }
            for member in process.extra {
                self.facts.add(format!("{name} outputDelta.{member}"), "present");
            }
            let Some(exited) = process.exited else {
                self.facts.add(format!("{name} exited"), "never");
                continue;
            };
            for (member, value) in exited {
                let value = self.value(&value);
                if member != "processHandle" {
                    self.facts.add(format!("{name} exited.{member}"), value);
                }
            }
        }
        let mut wrong = std::mem::take(&mut self.wrong);
        wrong.dedup();
        for what in wrong {
            self.facts.add("wrong", what);
        }
        let mut unanswered: Vec<&String> = self.asked.keys().collect();
        unanswered.sort();
        let mut facts = self.facts;
        for id in unanswered {
            facts.add(format!("response {id}"), "none");
        }
        facts
    }

    /// A value without the name of the scenario's directory.
    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text.as_bytes()).into(),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(members) => {
                let members = members.iter();
                let members = members.map(|(name, value)| (name.clone(), self.value(value)));
                Value::Object(members.collect())
            }
            value => value.clone(),
        }
    }

    /// Bytes to be read by people, and the same for every server.
    fn text(&self, bytes: &[u8]) -> String {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.replace(&self.dir, "%DIR%"),
            Err(_) => return short(&bytes.escape_ascii().to_string()),
        };
        short(&text)
    }
}

/// A long text by its length, its hash and both its ends.
fn short(text: &str) -> String {
    if text.len() <= SHORT {
        return text.to_owned();
    }
    // FNV-1a: no input here is made to collide.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let head: String = text.chars().take(30).collect();
    let tail: Vec<char> = text.chars().rev().take(30).collect();
    let tail: String = tail.into_iter().rev().collect();
    format!("{} bytes, hash {hash:016x}: {head} … {tail}", text.len())
}
