//! A soak: loads a server with a mix of everything for as long as it is told, and says whether the
//! server holds more at the end than at the beginning.
//!
//! ```text
//! cargo build --release && cargo run --release --example soak -- --seconds 1200
//! soak --seconds 60 --interval 10 -- codex app-server
//! ```
//!
//! Workers spawn with pipes and terminals, echo, feed, flood, collect, kill, time out, resize, list,
//! ask for what there is not, and check every byte and every exit; now and then the client stops
//! reading. At each interval they pause for a moment, so that a row shows what the server
//! holds when it has nothing to do, beside the most it held since the row before.
//!
//! The exit code is 0 if the last quarter of the rows, warm-up left out, holds no more than the
//! first, no answer was lost, and no byte was wrong.

#[path = "../it/proc.rs"]
mod proc;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use base64_simd::STANDARD;
use lexopt::prelude::{Long, Value as Word, ValueExt};
use proc::Proc;
use serde_json::{Value, json};

/// How many scenarios run at the same time.
const WORKERS: usize = 6;
/// How long any one thing may take; what takes longer counts as lost.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server that is left alone may take to become idle.
const REST_TIME: Duration = Duration::from_millis(500);
/// Resident memory may differ by this much between two quarters: a share, and an amount.
const SLACK: (f64, u64) = (0.10, 2 * 1024 * 1024);
/// Rows before that do not count: an allocator keeps what its first peaks took.
const WARM_UP: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("soak: {error}\nsoak [--seconds N] [--interval N] [-- COMMAND...]");
            return ExitCode::from(2);
        }
    };
    let mut server = match start(&options.command) {
        Ok(server) => server,
        Err(error) => {
            eprintln!("soak: {}: {error}", options.command.join(" "));
            return ExitCode::from(2);
        }
    };
    let shared = Arc::new(Shared::new(&mut server));
    let reader = {
        let shared = Arc::clone(&shared);
        let stdout = server.stdout.take().expect("stdout was piped");
        thread::spawn(move || shared.read(BufReader::with_capacity(256 * 1024, stdout)))
    };
    shared.handshake();
    let rows = soak(&options, &shared, server.id());
    shared.hang_up();
    let ended = wait(&mut server);
    reader.join().expect("the reader does not panic");
    verdict(&rows, &shared, ended)
}

struct Options {
    seconds: u64,
    interval: u64,
    command: Vec<String>,
}

impl Options {
    fn parse() -> Result<Options, lexopt::Error> {
        let mut options = Options {
            seconds: 60,
            interval: 0,
            command: Vec::new(),
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("seconds") => options.seconds = arguments.value()?.parse()?,
                Long("interval") => options.interval = arguments.value()?.parse()?,
                Word(word) => {
                    options.command.push(word.string()?);
                    for word in arguments.raw_args()? {
                        options.command.push(word.string()?);
                    }
                }
                other => return Err(other.unexpected()),
            }
        }
        if options.interval == 0 {
            options.interval = (options.seconds / 20).max(1);
        }
        if options.command.is_empty() {
            // target/release/examples/soak and target/release/procwire
            let own = std::env::current_exe().map_err(|e| lexopt::Error::Custom(e.into()))?;
            let beside = own.parent().and_then(|p| p.parent()).map(|p| p.join("procwire"));
            options.command = beside.iter().map(|p: &PathBuf| p.display().to_string()).collect();
        }
        Ok(options)
    }
}

fn start(command: &[String]) -> std::io::Result<Child> {
    Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
}

// ---- the connection ----

/// What all threads of the client share.
struct Shared {
    input: Mutex<Option<Sender<Vec<u8>>>>,
    answers: Mutex<HashMap<u64, Sender<Value>>>,
    handles: Mutex<HashMap<String, Sender<Value>>>,
    next: AtomicU64,
    /// A worker holds it for reading; who waits for all workers to rest takes it for writing.
    work: RwLock<()>,
    over: AtomicBool,
    /// The client does not read.
    stalled: AtomicBool,
    requests: AtomicU64,
    bytes: AtomicU64,
    /// Lines that are not JSON, sent; and answers without an id, received.
    nonsense: AtomicU64,
    nobodys: AtomicU64,
    lost: AtomicUsize,
    wrong: AtomicUsize,
}

impl Shared {
    fn new(server: &mut Child) -> Shared {
        let (input, lines) = channel::<Vec<u8>>();
        let mut stdin = server.stdin.take().expect("stdin was piped");
        thread::spawn(move || {
            for line in lines {
                if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
                    return;
                }
            }
        });
        Shared {
            input: Mutex::new(Some(input)),
            answers: Mutex::default(),
            handles: Mutex::default(),
            next: AtomicU64::new(1),
            work: RwLock::new(()),
            over: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            nonsense: AtomicU64::new(0),
            nobodys: AtomicU64::new(0),
            lost: AtomicUsize::new(0),
            wrong: AtomicUsize::new(0),
        }
    }

    fn send(&self, line: String) {
        if let Some(input) = &*lock(&self.input) {
            let _ = input.send(line.into_bytes());
        }
    }

    fn hang_up(&self) {
        *lock(&self.input) = None;
    }

    fn read(&self, mut lines: impl BufRead) {
        let mut line = String::new();
        loop {
            while self.stalled.load(Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            line.clear();
            match lines.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let Ok(message) = serde_json::from_str::<Value>(&line) else {
                self.wrong(&format!("no JSON: {line}"));
                continue;
            };
            if message.get("method").is_some() {
                self.notified(message);
            } else if message["id"].is_null() {
                self.nobodys.fetch_add(1, Relaxed);
            } else {
                let waiting = message["id"]
                    .as_u64()
                    .and_then(|id| lock(&self.answers).remove(&id));
                match waiting {
                    Some(waiting) => drop(waiting.send(message)),
                    None => self.wrong(&format!("an answer without a request: {message}")),
                }
            }
        }
    }

    fn notified(&self, message: Value) {
        let handle = message["params"]["processHandle"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let ended = message["method"] == "process/exited";
        let mut handles = lock(&self.handles);
        match handles.get(&handle) {
            Some(waiting) => drop(waiting.send(message)),
            None => self.wrong(&format!("a notification of an unknown handle: {message}")),
        }
        if ended {
            handles.remove(&handle);
        }
    }

    /// Sends a request; its answer comes from what is returned.
    fn ask(&self, method: &str, params: &Value) -> Receiver<Value> {
        let id = self.next.fetch_add(1, Relaxed);
        let (sender, receiver) = channel();
        lock(&self.answers).insert(id, sender);
        self.requests.fetch_add(1, Relaxed);
        self.send(format!(
            "{}\n",
            json!({"id": id, "method": method, "params": params})
        ));
        receiver
    }

    fn handshake(&self) {
        let params = json!({
            "clientInfo": {"name": "soak", "title": null, "version": "0"},
            "capabilities": {"experimentalApi": true},
        });
        let _ = self.ask("initialize", &params).recv_timeout(STEP_TIMEOUT);
        self.send("{\"method\":\"initialized\"}\n".to_owned());
    }

    fn wrong(&self, what: &str) {
        if self.wrong.fetch_add(1, Relaxed) < 20 {
            eprintln!("wrong: {}", what.chars().take(600).collect::<String>());
        }
    }

    fn lost(&self, what: &str) {
        if self.lost.fetch_add(1, Relaxed) < 20 {
            eprintln!("lost: {what}");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- the load ----

/// A process of one scenario.
struct Process<'a> {
    shared: &'a Shared,
    handle: String,
    events: Receiver<Value>,
}

/// How it ended.
struct Exit {
    code: i64,
    params: Value,
    stdout: Vec<u8>,
}

/// A scenario fails by saying what was wrong; what was lost has been counted.
type Outcome = Result<(), String>;

impl<'a> Process<'a> {
    fn spawn(shared: &'a Shared, command: &[&str], with: Value) -> Result<Process<'a>, String> {
        let handle = format!("p{}", shared.next.fetch_add(1, Relaxed));
        let mut params = json!({
            "command": command,
            "processHandle": handle,
            "cwd": "/",
            "timeoutMs": null,
            "outputBytesCap": null,
        });
        for (name, value) in with.as_object().into_iter().flatten() {
            params[name] = value.clone();
        }
        let (sender, events) = channel();
        lock(&shared.handles).insert(handle.clone(), sender);
        let process = Process {
            shared,
            handle,
            events,
        };
        process.ok("process/spawn", params)?;
        Ok(process)
    }

    fn ok(&self, method: &str, params: Value) -> Outcome {
        let answer = self.ask(method, params)?;
        match answer.get("result") {
            Some(_) => Ok(()),
            None => Err(format!("{method} was refused: {answer}")),
        }
    }

    fn ask(&self, method: &str, mut params: Value) -> Result<Value, String> {
        params["processHandle"] = json!(self.handle);
        answer(self.shared, method, &self.shared.ask(method, &params))
    }

    fn write(&self, bytes: &[u8], close: bool) -> Outcome {
        let params = json!({"deltaBase64": STANDARD.encode_to_string(bytes), "closeStdin": close});
        self.ok("process/writeStdin", params)
    }

    fn event(&self) -> Result<Value, String> {
        self.events.recv_timeout(STEP_TIMEOUT).map_err(|_| {
            self.shared.lost(&format!("a notification of {}", self.handle));
            String::new()
        })
    }

    /// Reads output until there is `length` of it.
    fn output(&self, length: usize) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        while all.len() < length {
            let event = self.event()?;
            match event["method"].as_str() {
                Some("process/outputDelta") => all.extend(self.decoded(&event)?),
                _ => return Err(format!("it ended early: {event}")),
            }
        }
        Ok(all)
    }

    fn decoded(&self, event: &Value) -> Result<Vec<u8>, String> {
        let text = event["params"]["deltaBase64"].as_str().unwrap_or_default();
        let bytes = STANDARD
            .decode_to_vec(text)
            .map_err(|e| format!("{e}: {event}"))?;
        self.shared.bytes.fetch_add(bytes.len() as u64, Relaxed);
        Ok(bytes)
    }

    /// Reads to the exit.
    fn exit(self) -> Result<Exit, String> {
        let mut stdout = Vec::new();
        loop {
            let event = self.event()?;
            if event["method"] == "process/outputDelta" {
                stdout.extend(self.decoded(&event)?);
                continue;
            }
            return Ok(Exit {
                code: event["params"]["exitCode"].as_i64().unwrap_or(-1),
                params: event["params"].clone(),
                stdout,
            });
        }
    }

    fn ends(self, code: i64) -> Result<Exit, String> {
        let exit = self.exit()?;
        match exit.code == code {
            true => Ok(exit),
            false => Err(format!("{code} was due: {}", exit.params)),
        }
    }
}

fn answer(shared: &Shared, what: &str, receiver: &Receiver<Value>) -> Result<Value, String> {
    match receiver.recv_timeout(STEP_TIMEOUT) {
        Ok(answer) => Ok(answer),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            shared.lost(&format!("the answer to {what}"));
            Err(String::new())
        }
    }
}

fn same(what: &str, came: &[u8], due: &[u8]) -> Outcome {
    if came == due {
        return Ok(());
    }
    let at = came.iter().zip(due).position(|(a, b)| a != b);
    Err(format!(
        "{what}: {} bytes for {}, different from byte {at:?} on",
        came.len(),
        due.len()
    ))
}

const STREAMED: fn() -> Value = || json!({"streamStdin": true, "streamStdoutStderr": true});
const TTY: fn() -> Value = || json!({"tty": true, "size": {"rows": 24, "cols": 80}});

/// What is done, and how often of a hundred times.
type Scenario = fn(&Shared, &mut Random) -> Outcome;
const SCENARIOS: &[(u64, Scenario)] = &[
    (20, echo),
    (12, terminal),
    (10, collected),
    (10, killed),
    (8, refused),
    (8, left_behind),
    (7, timed_out),
    (7, listed),
    (6, flood),
    (6, endless),
    (4, burst),
    (2, stuffed),
];

fn echo(shared: &Shared, random: &mut Random) -> Outcome {
    let process = Process::spawn(shared, &["cat"], STREAMED())?;
    for _ in 0..=random.below(6) {
        let bytes = random.bytes(60_000);
        process.write(&bytes, false)?;
        same("echo", &process.output(bytes.len())?, &bytes)?;
    }
    let last = random.bytes(300_000);
    process.write(&last, true)?;
    same("the last echo", &process.ends(0)?.stdout, &last)
}

fn terminal(shared: &Shared, random: &mut Random) -> Outcome {
    let script = "stty raw -echo; echo ready; exec cat";
    let process = Process::spawn(shared, &["sh", "-c", script], TTY())?;
    same("the terminal", &process.output(6)?, b"ready\n")?;
    for _ in 0..=random.below(4) {
        let bytes = random.bytes(8_000);
        process.write(&bytes, false)?;
        same("a terminal's echo", &process.output(bytes.len())?, &bytes)?;
        let size = json!({"size": {"rows": 10 + random.below(50), "cols": 20 + random.below(200)}});
        process.ok("process/resizePty", size)?;
    }
    process.ok("process/kill", json!({}))?;
    process.exit().map(drop)
}

fn collected(shared: &Shared, random: &mut Random) -> Outcome {
    let count = random.below(30_000);
    let script = format!("seq {count}; seq 5 >&2; exit 7");
    let exit = Process::spawn(shared, &["sh", "-c", &script], json!({}))?.ends(7)?;
    let due: String = (1..=count).map(|n| format!("{n}\n")).collect();
    let came = exit.params["stdout"].as_str().unwrap_or_default();
    shared.bytes.fetch_add(came.len() as u64, Relaxed);
    same("collected output", came.as_bytes(), due.as_bytes())?;
    same(
        "collected errors",
        exit.params["stderr"].as_str().unwrap_or_default().as_bytes(),
        b"1\n2\n3\n4\n5\n",
    )
}

fn killed(shared: &Shared, random: &mut Random) -> Outcome {
    let with = if random.below(2) == 0 { TTY() } else { STREAMED() };
    let process = Process::spawn(shared, &["sh", "-c", "sleep 1000 & sleep 1000"], with)?;
    thread::sleep(Duration::from_millis(random.below(20)));
    process.ok("process/kill", json!({}))?;
    process.exit().map(drop)
}

fn refused(shared: &Shared, _: &mut Random) -> Outcome {
    for (method, params) in [
        (
            "process/spawn",
            json!({"command": ["/nonexistent/x"], "processHandle": "none", "cwd": "/"}),
        ),
        (
            "process/spawn",
            json!({"command": [], "processHandle": "none", "cwd": "/"}),
        ),
        ("process/kill", json!({"processHandle": "none"})),
        ("process/kill", json!({"processHandle": 7})),
        ("process/fly", json!({})),
    ] {
        let answer = answer(shared, method, &shared.ask(method, &params))?;
        if answer["error"]["code"].as_i64().is_none() {
            return Err(format!("it should be refused: {answer}"));
        }
    }
    shared.nonsense.fetch_add(1, Relaxed);
    shared.send("{\"id\": 1, \n".to_owned());
    Ok(())
}

fn left_behind(shared: &Shared, _: &mut Random) -> Outcome {
    let script = "sleep 1000 >/dev/null 2>&1 & exit 3";
    Process::spawn(shared, &["sh", "-c", script], STREAMED())?
        .ends(3)
        .map(drop)
}

fn timed_out(shared: &Shared, random: &mut Random) -> Outcome {
    let timeout = json!({"timeoutMs": 20 + random.below(200)});
    Process::spawn(shared, &["sleep", "1000"], timeout)?
        .ends(124)
        .map(drop)
}

fn listed(shared: &Shared, _: &mut Random) -> Outcome {
    let process = Process::spawn(shared, &["cat"], STREAMED())?;
    let answer = answer(shared, "process/list", &shared.ask("process/list", &json!({})))?;
    // The reference has no such method.
    if let Some(processes) = answer["result"]["processes"].as_array()
        && !processes.iter().any(|p| p["processHandle"] == process.handle)
    {
        return Err(format!("{} is missing: {answer}", process.handle));
    }
    process.ok("process/writeStdin", json!({"closeStdin": true}))?;
    process.ends(0).map(drop)
}

fn flood(shared: &Shared, random: &mut Random) -> Outcome {
    let length = 1_000_000 + random.below(30_000_000);
    let process = Process::spawn(
        shared,
        &["head", "-c", &length.to_string(), "/dev/zero"],
        STREAMED(),
    )?;
    let mut seen = 0;
    loop {
        let event = process.event()?;
        if event["method"] != "process/outputDelta" {
            let code = event["params"]["exitCode"].as_i64();
            return match (code, seen == length) {
                (Some(0), true) => Ok(()),
                _ => Err(format!("{seen} zeros of {length}: {event}")),
            };
        }
        let bytes = process.decoded(&event)?;
        seen += bytes.len() as u64;
        if bytes.iter().any(|b| *b != 0) {
            return Err("a byte that is not zero".to_owned());
        }
    }
}

fn endless(shared: &Shared, random: &mut Random) -> Outcome {
    let (with, period) = match random.below(2) {
        0 => (TTY(), &b"y\r\n"[..]),
        _ => (STREAMED(), &b"y\n"[..]),
    };
    let process = Process::spawn(shared, &["yes"], with)?;
    thread::sleep(Duration::from_millis(random.below(100)));
    process.ok("process/kill", json!({}))?;
    let came = process.exit()?.stdout;
    let due: Vec<u8> = period.iter().copied().cycle().take(came.len()).collect();
    same("endless output", &came, &due)
}

fn burst(shared: &Shared, _: &mut Random) -> Outcome {
    let asked: Vec<_> = (0..200)
        .map(|_| {
            shared.ask(
                "process/resizePty",
                &json!({"processHandle": "x", "size": {"rows": 1, "cols": 1}}),
            )
        })
        .collect();
    for receiver in asked {
        answer(shared, "one of a burst", &receiver)?;
    }
    Ok(())
}

/// A program that reads nothing, and more than may wait for it; then the kill.
fn stuffed(shared: &Shared, random: &mut Random) -> Outcome {
    let process = Process::spawn(shared, &["sleep", "1000"], STREAMED())?;
    let delta = STANDARD.encode_to_string(random.bytes(1_000_000));
    let params = json!({"processHandle": process.handle, "deltaBase64": delta});
    let written: Vec<_> = (0..9)
        .map(|_| shared.ask("process/writeStdin", &params))
        .collect();
    process.ok("process/kill", json!({}))?;
    for receiver in written {
        answer(shared, "a write that is not read", &receiver)?;
    }
    process.exit().map(drop)
}

/// One worker: scenario after scenario, until it is over.
fn work(shared: &Shared, seed: u64) {
    let mut random = Random(seed);
    let all: u64 = SCENARIOS.iter().map(|(weight, _)| weight).sum();
    while !shared.over.load(Relaxed) {
        let _working = shared.work.read().unwrap_or_else(PoisonError::into_inner);
        let mut drawn = random.below(all);
        let chosen = SCENARIOS.iter().find(|(weight, _)| match drawn < *weight {
            true => true,
            false => {
                drawn -= weight;
                false
            }
        });
        if let Some((_, scenario)) = chosen
            && let Err(what) = scenario(shared, &mut random)
            && !what.is_empty()
        {
            shared.wrong(&what);
        }
    }
}

/// Numbers enough for a load, the same ones every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Up to `most` bytes, one at least.
    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = 1 + self.below(most) as usize;
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

// ---- what the server holds ----

#[derive(Clone, Copy, Default)]
struct Usage {
    private: u64,
    threads: u64,
    descriptors: u64,
    zombies: u64,
}

/// One line of the table.
struct Row {
    at: Duration,
    /// The server alone, and with its guard.
    server: Usage,
    all: Usage,
    /// The most memory of both together since the last row.
    peak: u64,
    requests: u64,
    bytes: u64,
}

/// The processes of the server: the one that was started, and those of the same program below it. The
/// last one serves.
fn servers(root: u32) -> Vec<u32> {
    let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let own = program(root);
    let mut found = vec![root];
    let mut i = 0;
    while i < found.len() {
        let children = children(found[i]);
        found.extend(children.into_iter().filter(|c| program(*c) == own));
        i += 1;
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
    }
    all
}

fn held(pid: u32) -> Usage {
    let is_zombie = |pid: &u32| Proc::of(*pid).is_some_and(|p| p.is_dead());
    Usage {
        private: proc::private_bytes(pid).unwrap_or(0),
        threads: proc::threads(pid).unwrap_or(0),
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |d| d.count() as u64),
        zombies: children(pid).iter().filter(|c| is_zombie(c)).count() as u64,
    }
}

fn sum(pids: &[u32]) -> Usage {
    pids.iter()
        .map(|p| held(*p))
        .fold(Usage::default(), |a, b| Usage {
            private: a.private + b.private,
            threads: a.threads + b.threads,
            descriptors: a.descriptors + b.descriptors,
            zombies: a.zombies + b.zombies,
        })
}

/// Runs the load and takes the rows.
fn soak(options: &Options, shared: &Arc<Shared>, root: u32) -> Vec<Row> {
    println!(
        "`{}`, {} s, {WORKERS} workers; at rest, but for the peak\n",
        options.command.join(" "),
        options.seconds
    );
    println!(
        "| time | requests | output | server's memory | with its guard | peak of both | threads | descriptors | zombies |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let began = Instant::now();
    let whole = Duration::from_secs(options.seconds);
    let mut rows = Vec::new();
    let workers: Vec<_> = (0..WORKERS as u64)
        .map(|seed| {
            let shared = Arc::clone(shared);
            thread::spawn(move || work(&shared, seed))
        })
        .collect();
    let mut random = Random(99);
    let mut peak = 0;
    let mut next = Duration::from_secs(options.interval);
    let mut stall = Duration::from_secs(3);
    loop {
        thread::sleep(Duration::from_millis(200));
        peak = peak.max(sum(&servers(root)).private);
        let now = began.elapsed();
        if now >= stall {
            // A client that is busy with something else, for up to a second and a half.
            shared.stalled.store(true, Relaxed);
            thread::sleep(Duration::from_millis(100 + random.below(1_400)));
            peak = peak.max(sum(&servers(root)).private);
            shared.stalled.store(false, Relaxed);
            stall = began.elapsed() + Duration::from_secs(3 + random.below(12));
        }
        if now >= next || now >= whole {
            let resting = shared.work.write().unwrap_or_else(PoisonError::into_inner);
            thread::sleep(REST_TIME);
            let row = row(shared, root, began.elapsed(), peak);
            print_row(&row);
            rows.push(row);
            next = began.elapsed() + Duration::from_secs(options.interval);
            peak = 0;
            if now >= whole {
                shared.over.store(true, Relaxed);
                drop(resting);
                break;
            }
        }
    }
    for worker in workers {
        worker.join().expect("a worker does not panic");
    }
    rows
}

fn row(shared: &Shared, root: u32, at: Duration, peak: u64) -> Row {
    let pids = servers(root);
    Row {
        at,
        server: pids.last().map_or_else(Usage::default, |p| held(*p)),
        all: sum(&pids),
        peak,
        requests: shared.requests.load(Relaxed),
        bytes: shared.bytes.load(Relaxed),
    }
}

fn print_row(row: &Row) {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0);
    println!(
        "| {} s | {} | {:.2} GB | {} | {} | {} | {} | {} | {} |",
        row.at.as_secs(),
        row.requests,
        row.bytes as f64 / 1e9,
        mib(row.server.private),
        mib(row.all.private),
        mib(row.peak),
        row.all.threads,
        row.all.descriptors,
        row.all.zombies
    );
}

// ---- the verdict ----

fn wait(server: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = server.try_wait() {
            return status.code();
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = server.kill();
    let _ = server.wait();
    None
}

/// The least of a quarter: what is held when there is nothing to do and nothing is left to be given back.
fn least(rows: &[Row], of: impl Fn(&Usage) -> u64) -> u64 {
    rows.iter().map(|r| of(&r.all)).min().unwrap_or(0)
}

fn verdict(rows: &[Row], shared: &Shared, ended: Option<i32>) -> ExitCode {
    let whole = rows.last().map_or(Duration::ZERO, |row| row.at);
    let warm = rows.iter().position(|row| row.at > WARM_UP.min(whole / 5));
    let rows = &rows[warm.unwrap_or(0)..];
    let quarter = (rows.len() / 4).max(1).min(rows.len());
    let (first, last) = (&rows[..quarter], &rows[rows.len() - quarter..]);
    let mut faults = Vec::new();
    let mut compared = Vec::new();
    let mean = |rows: &[Row]| rows.iter().map(|r| r.all.private).sum::<u64>() / rows.len().max(1) as u64;
    let (before, after) = (mean(first), mean(last));
    let allowed = before + (before as f64 * SLACK.0) as u64 + SLACK.1;
    compared.push(format!("memory {} KiB, then {} KiB", before / 1024, after / 1024));
    if after > allowed {
        faults.push("memory grows".to_owned());
    }
    type Count = fn(&Usage) -> u64;
    let counted: [(&str, Count); 3] = [
        ("threads", |h| h.threads),
        ("descriptors", |h| h.descriptors),
        ("zombies", |h| h.zombies),
    ];
    for (name, of) in counted {
        let (before, after) = (least(first, of), least(last, of));
        compared.push(format!("{name} {before}, then {after}"));
        if after > before {
            faults.push(format!("{name} grow"));
        }
    }
    let lost = shared.lost.load(Relaxed) + lock(&shared.answers).len() + lock(&shared.handles).len();
    let wrong = shared.wrong.load(Relaxed);
    if lost > 0 {
        faults.push(format!("{lost} answers or exits lost"));
    }
    if wrong > 0 {
        faults.push(format!("{wrong} times wrong"));
    }
    let (nonsense, nobodys) = (shared.nonsense.load(Relaxed), shared.nobodys.load(Relaxed));
    if nobodys != nonsense {
        faults.push(format!(
            "{nonsense} lines of nonsense, {nobodys} errors without id"
        ));
    }
    if ended != Some(0) {
        faults.push(format!("exit code {ended:?}"));
    }
    let flat = if faults.is_empty() { "flat" } else { "NOT FLAT" };
    println!("\nFirst quarter to last: {}: {flat}", compared.join("; "));
    for fault in &faults {
        println!("fault: {fault}");
    }
    match faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
