//! Fuzzes a connection: whatever a client sends and however it is cut, the server answers every
//! request once, says everything in the promised order, ends in time, and leaves
//! nothing behind. Whatever is to be spawned is `cat` (see `src/fuzzing.rs`).
//!
//! The first byte of an input says how the rest is served: the size of a read (bits 0 to 4), whether
//! the client goes away while it is being answered (bit 5 and 6, both set), and whether processes
//! get time before the end (bit 7). An empty line lets some time pass as well.

#![no_main]

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use procwire::fuzzing::{ClientMessage, bodies, parse};
use procwire::protocol::{Request, RequestId};
use procwire::{Config, Connection, End, serve};
use serde_json::{Value, json};

/// The longest line, in bytes.
const LONGEST: usize = 1024;
/// A connection's end takes 2.5 s at most; the rest is for the fuzzer's machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// An end that took so long may have been cut short by the server's own deadline. That is for a
/// machine that is too busy; what is told then is not checked.
const BUSY_TIME: Duration = Duration::from_secs(2);
/// What an empty line lets pass.
const PAUSE: Duration = Duration::from_millis(2);
/// How many of them do.
const PAUSES: usize = 8;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, input)) = data.split_first() else {
        return;
    };
    let before = Footprint::take();
    let breaks_off = (mode & 0x60 == 0x60).then_some(usize::from(mode & 0x1f) * 16);
    let output = Output {
        bytes: Arc::default(),
        breaks_off,
    };
    let reader = Input {
        bytes: input.to_vec(),
        at: 0,
        piece: 1 << (mode & 0x0f).min(12),
        pauses: PAUSES,
        pause_at_end: mode & 0x80 != 0,
    };
    let bytes = Arc::clone(&output.bytes);
    let began = Instant::now();
    let end = run(reader, output);
    let busy = began.elapsed() > BUSY_TIME;
    if busy {
        eprintln!("busy: the connection took {:?}", began.elapsed());
    }
    let bytes = std::mem::take(&mut *bytes.lock().expect("not poisoned"));
    let expected = Expected::of(input);
    if breaks_off.is_none() && !busy {
        assert_eq!(end, End::InputEnded);
        expected.check(&bytes);
    }
    before.check(expected.detached || busy);
});

fn run(reader: Input, writer: Output) -> End {
    let config = Config::default().max_message_bytes(LONGEST).max_pending_stdin_bytes(256).default_output_cap(64);
    let (done, ended) = channel();
    let server = thread::spawn(move || {
        let result = serve(Connection::from_io(reader, writer), config);
        let _ = done.send(());
        result
    });
    if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(DEADLINE) {
        panic!("the connection does not end");
    }
    server
        .join()
        .expect("the server does not panic")
        .expect("the server serves")
}

// ---- the client's side ----

struct Input {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
    pauses: usize,
    pause_at_end: bool,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() && self.pause_at_end {
            thread::sleep(2 * PAUSE);
        }
        let mut n = rest.len().min(self.piece).min(buffer.len());
        // Up to and including the next empty line.
        if let Some(at) = rest[..n].windows(2).position(|two| two == b"\n\n")
            && self.pauses > 0
        {
            n = at + 2;
            self.pauses -= 1;
            thread::sleep(PAUSE);
        }
        buffer[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Ok(n)
    }
}

struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    breaks_off: Option<usize>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.bytes.lock().expect("not poisoned");
        if self
            .breaks_off
            .is_some_and(|limit| all.len() + bytes.len() > limit)
        {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// ---- what must be answered ----

/// What an input asks for.
#[derive(Default)]
struct Expected {
    /// How often each id must be answered; `null` for lines whose id cannot be read.
    answers: HashMap<String, usize>,
    /// The handle that the spawn of this id names, where the id is the only one of its kind.
    spawns: HashMap<String, (String, bool)>,
    /// Some process may outlive the connection.
    detached: bool,
    /// The client may have asked not to be told of everything.
    opted_out: bool,
    /// Messages have headers.
    headers: bool,
    /// Whether every message of the server must be marked as one of JSON-RPC 2.0; `None` where the
    /// first message of the client does not say.
    jsonrpc: Option<bool>,
}

/// The client's messages; `None` for each piece that is none and must be answered all the same.
fn messages(input: &[u8]) -> (bool, Vec<Option<Vec<u8>>>) {
    if let Some(bodies) = bodies(input, LONGEST) {
        return (true, bodies);
    }
    let mut messages = Vec::new();
    for line in input.split(|&b| b == b'\n') {
        if line.len() > LONGEST {
            messages.push(None);
            continue;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.trim_ascii().is_empty() {
            messages.push(Some(line.to_vec()));
        }
    }
    (false, messages)
}

/// The server's messages.
fn split(mut output: &[u8], headers: bool) -> Vec<Value> {
    let mut messages = Vec::new();
    while !output.is_empty() {
        let (start, length) = if headers {
            let end = output
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
                .expect("headers end");
            let header = str::from_utf8(&output[..end]).expect("headers are text");
            let length = header.strip_prefix("Content-Length: ").expect("one header");
            (end + 4, length.parse().expect("a length"))
        } else {
            let length = output.iter().position(|&b| b == b'\n').expect("only whole lines");
            (0, length + 1)
        };
        let (message, rest) = output[start..].split_at(length);
        assert_ne!(headers, message.ends_with(b"\n"));
        messages.push(serde_json::from_slice(message).expect("every message is JSON"));
        output = rest;
    }
    messages
}

impl Expected {
    fn of(input: &[u8]) -> Expected {
        let (headers, messages) = messages(input);
        let mut expected = Expected {
            headers,
            ..Expected::default()
        };
        let mut ambiguous = HashSet::new();
        for (index, message) in messages.iter().enumerate() {
            let mut id = None;
            if let Some(message) = message {
                let (message, jsonrpc) = parse(message);
                if index == 0 {
                    expected.jsonrpc = jsonrpc;
                }
                id = match message {
                    ClientMessage::Notification => continue,
                    ClientMessage::Invalid { id, .. } => id,
                    ClientMessage::Request { id, request } => {
                        match request {
                            Request::Spawn(params) => {
                                expected.detached |= params.detach;
                                let spawn = (params.process_handle, params.detach);
                                expected.spawns.insert(text(Some(&id)), spawn);
                            }
                            Request::Initialize(params) => {
                                let capabilities = params.capabilities.unwrap_or_default();
                                expected.opted_out |= capabilities.opt_out_notification_methods.is_some();
                            }
                            _ => {}
                        }
                        Some(id)
                    }
                };
            }
            let id = text(id.as_ref());
            let count = expected.answers.entry(id.clone()).or_default();
            *count += 1;
            if *count > 1 {
                ambiguous.insert(id);
            }
        }
        if !ambiguous.is_empty() {
            // Which of its answers belongs to which request cannot be told.
            expected.spawns.clear();
        }
        expected
    }

    fn check(&self, output: &[u8]) {
        let mut answers: HashMap<String, usize> = HashMap::new();
        let mut live: HashMap<String, Generation> = HashMap::new();
        for message in split(output, self.headers) {
            if let Some(jsonrpc) = self.jsonrpc {
                assert_eq!(message.get("jsonrpc") == Some(&json!("2.0")), jsonrpc);
            }
            let Some(method) = message.get("method") else {
                let id = message["id"].to_string();
                assert!(message.get("result").is_some() != message.get("error").is_some());
                if message.get("result").is_some()
                    && let Some((handle, detached)) = self.spawns.get(&id)
                {
                    let generation = Generation {
                        detached: *detached,
                        streams: HashMap::new(),
                    };
                    let earlier = live.insert(handle.clone(), generation);
                    assert!(earlier.is_none(), "{handle:?} is spawned twice at once");
                }
                *answers.entry(id).or_default() += 1;
                continue;
            };
            if self.spawns.is_empty() {
                continue;
            }
            let params = &message["params"];
            let handle = params["processHandle"].as_str().expect("a handle");
            if method == "process/exited" {
                assert!(
                    live.remove(handle).is_some(),
                    "an exit without a spawn: {message}"
                );
                continue;
            }
            assert_eq!(method, "process/outputDelta");
            let generation = live.get_mut(handle).expect("output follows the spawn's answer");
            let stream = params["stream"].as_str().expect("a stream").to_owned();
            let (next, capped) = generation.streams.entry(stream).or_default();
            assert!(!*capped, "a delta after the last: {message}");
            assert_eq!(params["offset"], *next, "a gap: {message}");
            let base64 = params["deltaBase64"].as_str().expect("bytes");
            *next += (base64.len() / 4 * 3 - base64.bytes().filter(|&b| b == b'=').count()) as u64;
            *capped = params["capReached"] == true;
        }
        assert_eq!(answers, self.answers, "one answer to every request");
        if !self.opted_out {
            let left: Vec<&String> = live.iter().filter(|(_, g)| !g.detached).map(|(h, _)| h).collect();
            assert!(left.is_empty(), "spawned and never exited: {left:?}");
        }
    }
}

/// One process of a handle.
struct Generation {
    detached: bool,
    /// The next offset, and whether the cap was told.
    streams: HashMap<String, (u64, bool)>,
}

fn text(id: Option<&RequestId>) -> String {
    id.map_or(Value::Null, |id| json!(id)).to_string()
}

// ---- what must not be left ----

#[derive(Debug, PartialEq)]
struct Footprint {
    threads: usize,
    descriptors: usize,
    /// The fuzzer may have some of its own.
    children: HashSet<libc::pid_t>,
}

impl Footprint {
    fn take() -> Footprint {
        let list = |what: &str| std::fs::read_dir(what).expect("/proc is mounted").flatten();
        let mut footprint = Footprint {
            threads: 0,
            descriptors: list("/proc/self/fd").count(),
            children: HashSet::new(),
        };
        for thread in list("/proc/self/task") {
            // One that has just ended has none.
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            footprint
                .children
                .extend(children.split_whitespace().flat_map(str::parse::<libc::pid_t>));
            footprint.threads += 1;
        }
        footprint
    }

    /// Waits until all is as it was. Children may be left where they were to outlive the connection.
    fn check(&self, may_be_left: bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let now = Footprint::take();
            let left: Vec<_> = now.children.difference(&self.children).copied().collect();
            assert!(
                left.is_empty() || may_be_left,
                "the server has left children: {left:?}"
            );
            for pid in left {
                // SAFETY: no memory is involved; a child of ours that nothing else reaps.
                unsafe {
                    libc::kill(pid, libc::SIGKILL);
                    libc::waitpid(pid, std::ptr::null_mut(), 0);
                }
            }
            if (now.threads, now.descriptors) == (self.threads, self.descriptors) {
                return;
            }
            assert!(Instant::now() < deadline, "{self:?} has become {now:?}");
            thread::sleep(Duration::from_micros(200));
        }
    }
}
