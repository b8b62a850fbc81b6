//! The rows: what each one does with a server, and which floor it has.

use crate::client::{Client, Program, Start, excerpt};
use crate::floor;
use crate::scan::{self, Event};
use crate::stats::{mib_per_second, micros, percentile, sized};
use crate::tree;
use std::collections::BTreeMap;
use std::time::Instant;

/// How long and how much.
pub struct Settings {
    /// How long a rate is measured.
    pub seconds: f64,
    /// How many round trips a latency is taken from.
    pub echoes: usize,
    /// How many processes are live in the rows about many.
    pub live: u64,
    /// How many starts of the server the median is taken from.
    pub starts: usize,
}

/// One figure of a row.
pub struct Metric {
    /// What it is, where N stands for the number of live processes.
    pub name: &'static str,
    pub unit: &'static str,
    pub more_is_better: bool,
    /// Whether the picture shows it too; it has room for what matters most.
    pub drawn: bool,
}

type Floor = fn(&Settings) -> std::io::Result<Vec<f64>>;
type Check = fn(&Start) -> Result<(), String>;

/// A row of the table, or several where it has several figures.
pub struct Row {
    pub name: &'static str,
    /// What it does, where N stands for the number of live processes.
    pub title: &'static str,
    pub metrics: &'static [Metric],
    /// One measurement of a server, a figure for each metric.
    pub server: fn(&Start, &Settings) -> Result<Vec<f64>, String>,
    /// One measurement without a server; figures that have no floor are NaN.
    pub floor: Option<Floor>,
    /// A run in which every byte is compared with what it has to be.
    pub check: Option<Check>,
}

const RATE: Metric = more("spawns", "/s");
const P50: Metric = less("p50", "µs");
const P99: Metric = less("p99", "µs");
const THROUGHPUT: Metric = more("throughput", "MiB/s");

/// The chunk that is written to a stdin at once.
const CHUNK: usize = 64 * 1024;
/// How many writes may be unanswered.
const WINDOW: usize = 4;

pub const ROWS: &[Row] = &[
    Row {
        name: "spawn",
        title: "`/bin/true`, one at a time",
        metrics: &[RATE, aside(P50)],
        server: |start, settings| spawn(start, settings, 1, false),
        floor: Some(|settings| floor::spawn(settings.seconds).map(pair)),
        check: None,
    },
    Row {
        name: "spawn-16",
        title: "`/bin/true`, 16 in flight",
        metrics: &[RATE, aside(P50)],
        server: |start, settings| spawn(start, settings, 16, false),
        // How long one of 16 takes has no floor in how long one of two takes.
        floor: Some(|settings| Ok(vec![floor::spawn_from_two(settings.seconds)?, f64::NAN])),
        check: None,
    },
    Row {
        name: "spawn-pty",
        title: "`/bin/true` on a PTY, one at a time",
        metrics: &[RATE, aside(P50)],
        server: |start, settings| spawn(start, settings, 1, true),
        floor: Some(|settings| floor::spawn_on_pty(settings.seconds).map(pair)),
        check: None,
    },
    Row {
        name: "spawn-live",
        title: "`/bin/true` among N live processes",
        metrics: &[
            RATE,
            aside(more("spawns with none live", "/s")),
            aside(more("share kept", "%")),
        ],
        server: spawn_live,
        floor: Some(|settings| {
            let idle = floor::spawn(settings.seconds)?.0;
            let among = floor::spawn_among(settings.live, settings.seconds)?.0;
            Ok(vec![among, idle, among / idle * 100.0])
        }),
        check: None,
    },
    Row {
        name: "stdout",
        title: "output of one process",
        metrics: &[THROUGHPUT],
        server: |start, settings| output(start, settings, 1, false),
        floor: Some(|settings| Ok(vec![floor::stdout(1, settings.seconds)?])),
        check: Some(|start| check_output(start, 1, false)),
    },
    Row {
        name: "stdout-4",
        title: "output of four at once",
        metrics: &[THROUGHPUT],
        server: |start, settings| output(start, settings, 4, false),
        floor: Some(|settings| Ok(vec![floor::stdout(4, settings.seconds)?])),
        check: Some(|start| check_output(start, 4, false)),
    },
    Row {
        name: "pty",
        title: "output on a PTY",
        metrics: &[THROUGHPUT],
        server: |start, settings| output(start, settings, 1, true),
        floor: Some(|settings| Ok(vec![floor::pty_output(settings.seconds)?])),
        check: Some(|start| check_output(start, 1, true)),
    },
    Row {
        name: "stdin",
        title: "input to one process",
        metrics: &[THROUGHPUT],
        server: stdin,
        floor: Some(|settings| Ok(vec![floor::stdin(settings.seconds)?])),
        check: Some(check_stdin),
    },
    Row {
        name: "echo",
        title: "16 bytes there and back",
        metrics: &[P50, P99],
        server: |start, settings| echo(start, settings, false),
        floor: Some(|settings| floor::echo(settings.echoes).map(percentiles)),
        check: None,
    },
    Row {
        name: "echo-pty",
        title: "16 bytes there and back on a PTY",
        metrics: &[P50, P99],
        server: |start, settings| echo(start, settings, true),
        floor: Some(|settings| floor::echo_on_pty(settings.echoes).map(percentiles)),
        check: None,
    },
    Row {
        name: "echo-flood",
        title: "16 bytes there and back in a flood",
        metrics: &[P50, P99, aside(more("flood", "MiB/s"))],
        server: echo_in_flood,
        floor: Some(|settings| {
            let mut figures = percentiles(floor::echo_in_flood(settings.echoes)?);
            // Over before a flood's rate can be told; that floor is another row's.
            figures.push(f64::NAN);
            Ok(figures)
        }),
        check: None,
    },
    Row {
        name: "wait",
        title: "16 bytes there, and a wait for them answered",
        metrics: &[P50, P99, aside(less("p99 behind the output", "µs"))],
        server: waits,
        floor: Some(|settings| {
            let mut figures = percentiles(floor::echo(settings.echoes)?);
            figures.push(f64::NAN);
            Ok(figures)
        }),
        check: None,
    },
    Row {
        name: "start",
        title: "from exec to the first answer",
        metrics: &[less("median", "ms")],
        server: first_answer,
        floor: Some(|settings| Ok(vec![floor::first_answer(settings.starts)?])),
        check: None,
    },
    Row {
        name: "memory",
        title: "memory",
        metrics: &[
            less("private, idle", "KiB"),
            less("private, for each of N live", "KiB"),
            aside(less("resident, idle", "KiB")),
            aside(less("resident, for each of N live", "KiB")),
        ],
        server: memory,
        floor: None,
        check: None,
    },
];

const fn more(name: &'static str, unit: &'static str) -> Metric {
    Metric {
        name,
        unit,
        more_is_better: true,
        drawn: true,
    }
}

const fn aside(metric: Metric) -> Metric {
    Metric {
        drawn: false,
        ..metric
    }
}

const fn less(name: &'static str, unit: &'static str) -> Metric {
    Metric {
        name,
        unit,
        more_is_better: false,
        drawn: true,
    }
}

fn spawn(start: &Start, settings: &Settings, window: usize, tty: bool) -> Result<Vec<f64>, String> {
    let mut client = start.client()?;
    spawn_for(&mut client, settings.seconds, window, tty).map(pair)
}

/// Spawns for some seconds and returns the rate and the median in microseconds.
pub fn spawn_for(client: &mut Client, seconds: f64, window: usize, tty: bool) -> Result<(f64, f64), String> {
    spawns(client, 0.0, window, tty)?;
    spawns(client, seconds, window, tty)
}

fn spawns(client: &mut Client, seconds: f64, window: usize, tty: bool) -> Result<(f64, f64), String> {
    // So few that a server which needs a second for each still finishes.
    const AT_LEAST: usize = 10;
    let program = Program {
        command: &["/bin/true"],
        tty,
        ..Program::default()
    };
    let mut running = BTreeMap::new();
    let mut unanswered = 0;
    let mut times = Vec::new();
    let start = Instant::now();
    loop {
        let enough = times.len() + running.len() >= AT_LEAST && start.elapsed().as_secs_f64() >= seconds;
        if enough && running.is_empty() && unanswered == 0 {
            break;
        }
        // A slot is free once the process has exited and its spawn has been answered.
        while !enough && running.len().max(unanswered) < window {
            let began = Instant::now();
            let (_, handle) = client.spawn(program)?;
            running.insert(handle, began);
            unanswered += 1;
        }
        match client.next()? {
            Event::Response { .. } => unanswered -= 1,
            Event::Exited { handle, line } => {
                let began = running
                    .remove(&handle)
                    .ok_or_else(|| format!("exited twice: {}", excerpt(line)))?;
                times.push(micros(began.elapsed()));
                succeeded(line)?;
            }
            Event::Delta { .. } => return Err("output from a program that has none".to_owned()),
            Event::Uninvited => {}
        }
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    Ok((rate, percentile(&times, 0.5)))
}

fn spawn_live(start: &Start, settings: &Settings) -> Result<Vec<f64>, String> {
    let mut client = start.client()?;
    let (idle, _) = spawn_for(&mut client, settings.seconds, 1, false)?;
    client.keep_alive(settings.live)?;
    let (among, _) = spawn_for(&mut client, settings.seconds, 1, false)?;
    Ok(vec![among, idle, among / idle * 100.0])
}

fn output(start: &Start, settings: &Settings, count: u64, tty: bool) -> Result<Vec<f64>, String> {
    let mut client = start.client()?;
    output_for(&mut client, settings.seconds, count, tty).map(|rate| vec![rate])
}

/// Lets programs write for about some seconds and returns MiB/s.
pub fn output_for(client: &mut Client, seconds: f64, count: u64, tty: bool) -> Result<f64, String> {
    sized(seconds, |bytes| outputs(client, bytes / count, count, tty))
}

fn outputs(client: &mut Client, bytes: u64, count: u64, tty: bool) -> Result<f64, String> {
    let start = Instant::now();
    let size = bytes.to_string();
    let program = Program {
        command: &["head", "-c", &size, "/dev/zero"],
        tty,
        stream_stdout_stderr: true,
        unlimited: true,
        ..Program::default()
    };
    let mut received = BTreeMap::new();
    for _ in 0..count {
        received.insert(client.spawn(program)?.1, 0);
    }
    let mut running = count;
    while running > 0 {
        match client.next()? {
            Event::Delta { handle, base64 } => {
                let total = received
                    .get_mut(&handle)
                    .ok_or("output under an unknown handle")?;
                *total += scan::decoded_length(base64).ok_or("a delta of broken base64")?;
            }
            Event::Exited { handle, line } => {
                succeeded(line)?;
                let total = received.get(&handle).copied().unwrap_or(0);
                if total != bytes {
                    return Err(format!("{total} bytes arrived instead of {bytes}"));
                }
                running -= 1;
            }
            Event::Response { .. } | Event::Uninvited => {}
        }
    }
    Ok(mib_per_second(bytes * count, start))
}

/// Every byte of programs that write numbers, against the numbers.
fn check_output(start: &Start, count: u64, tty: bool) -> Result<(), String> {
    let mut client = start.client()?;
    // A PTY takes ten times as long.
    let numbers = if tty { 50_000 } else { 500_000 };
    let mut expected = BTreeMap::new();
    for index in 0..count {
        let first = (1 + index * numbers).to_string();
        let last = ((index + 1) * numbers).to_string();
        let program = Program {
            command: &["seq", &first, &last],
            tty,
            stream_stdout_stderr: true,
            unlimited: true,
            ..Program::default()
        };
        let (_, handle) = client.spawn(program)?;
        // A PTY in its usual mode ends lines with CR and LF.
        let end = if tty { "\r\n" } else { "\n" };
        let text = (1 + index * numbers..=(index + 1) * numbers)
            .flat_map(|number| format!("{number}{end}").into_bytes())
            .collect::<Vec<u8>>();
        expected.insert(handle, (text, 0));
    }
    let mut running = count;
    while running > 0 {
        match client.next()? {
            Event::Delta { handle, base64 } => {
                let (text, at) = expected
                    .get_mut(&handle)
                    .ok_or("output under an unknown handle")?;
                compare(text, at, base64)?;
            }
            Event::Exited { handle, line } => {
                succeeded(line)?;
                if let Some((text, at)) = expected.get(&handle)
                    && *at != text.len()
                {
                    return Err(format!("{at} bytes arrived instead of {}", text.len()));
                }
                running -= 1;
            }
            Event::Response { .. } | Event::Uninvited => {}
        }
    }
    Ok(())
}

fn stdin(start: &Start, settings: &Settings) -> Result<Vec<f64>, String> {
    let mut client = start.client()?;
    let rate = sized(settings.seconds, |bytes| stdin_of(&mut client, bytes))?;
    Ok(vec![rate])
}

fn stdin_of(client: &mut Client, bytes: u64) -> Result<f64, String> {
    let base64 = base64_simd::STANDARD.encode_to_string(vec![b'x'; CHUNK]);
    let start = Instant::now();
    let handle = client.spawned(Program {
        command: &["wc", "-c"],
        stream_stdin: true,
        unlimited: true,
        ..Program::default()
    })?;
    let chunks = bytes as usize / CHUNK;
    let mut sent = 0;
    let mut answered = 0;
    loop {
        while sent < chunks && sent < answered + WINDOW {
            sent += 1;
            client.write_stdin(handle, &base64, sent == chunks)?;
        }
        match client.next()? {
            Event::Response { .. } => answered += 1,
            Event::Exited { line, .. } => {
                let rate = mib_per_second(bytes, start);
                let counted =
                    serde_json::from_slice::<serde_json::Value>(line).map_err(|error| error.to_string())?;
                let counted = counted["params"]["stdout"].as_str().unwrap_or_default();
                if counted.trim() != bytes.to_string() {
                    return Err(format!("wc counted {counted:?} instead of {bytes}"));
                }
                // The next run starts with nothing of this one on its way.
                while answered < chunks {
                    if let Event::Response { .. } = client.next()? {
                        answered += 1;
                    }
                }
                return Ok(rate);
            }
            Event::Delta { .. } | Event::Uninvited => {}
        }
    }
}

/// Every byte that goes through `cat`, against what went in.
fn check_stdin(start: &Start) -> Result<(), String> {
    let mut client = start.client()?;
    let text = (0..1_000_000)
        .flat_map(|number| format!("{number}\n").into_bytes())
        .collect::<Vec<u8>>();
    let handle = client.spawned(Program {
        command: &["cat"],
        stream_stdin: true,
        stream_stdout_stderr: true,
        unlimited: true,
        ..Program::default()
    })?;
    let chunks: Vec<&[u8]> = text.chunks(CHUNK).collect();
    let mut sent = 0;
    let mut answered = 0;
    let mut at = 0;
    loop {
        while sent < chunks.len() && sent < answered + WINDOW {
            let base64 = base64_simd::STANDARD.encode_to_string(chunks[sent]);
            sent += 1;
            client.write_stdin(handle, &base64, sent == chunks.len())?;
        }
        match client.next()? {
            Event::Response { .. } => answered += 1,
            Event::Delta { base64, .. } => compare(&text, &mut at, base64)?,
            Event::Exited { line, .. } => {
                succeeded(line)?;
                if at != text.len() {
                    return Err(format!("{at} bytes came back instead of {}", text.len()));
                }
                return Ok(());
            }
            Event::Uninvited => {}
        }
    }
}

fn echo(start: &Start, settings: &Settings, tty: bool) -> Result<Vec<f64>, String> {
    let mut client = start.client()?;
    let handle = echoing(&mut client, tty)?;
    round_trips(&mut client, handle, settings.echoes).map(|(times, _)| percentiles(times))
}

/// Round trips through a new `cat`, as their p50 and p99 in microseconds.
pub fn echo_for(client: &mut Client, echoes: usize) -> Result<(f64, f64), String> {
    let handle = echoing(client, false)?;
    let (times, _) = round_trips(client, handle, echoes)?;
    let id = client.write_stdin(handle, "", true)?;
    let mut left = 2;
    while left > 0 {
        match client.next()? {
            Event::Response { id: answered, .. } if answered == id => left -= 1,
            Event::Exited { .. } => left -= 1,
            _ => {}
        }
    }
    Ok((percentile(&times, 0.5), percentile(&times, 0.99)))
}

fn echo_in_flood(start: &Start, settings: &Settings) -> Result<Vec<f64>, String> {
    let mut client = start.client()?;
    let handle = echoing(&mut client, false)?;
    client.spawned(Program {
        command: &["cat", "/dev/zero"],
        stream_stdout_stderr: true,
        unlimited: true,
        ..Program::default()
    })?;
    let began = Instant::now();
    let (times, flooded) = round_trips(&mut client, handle, settings.echoes)?;
    let mut figures = percentiles(times);
    figures.push(mib_per_second(flooded, began));
    Ok(figures)
}

/// Round trips in which `process/wait` looks for what comes back, and how long its answer is behind the
/// output that it is about.
fn waits(start: &Start, settings: &Settings) -> Result<Vec<f64>, String> {
    let mut client = start.client()?;
    let handle = echoing(&mut client, false)?;
    let (mut times, mut behind) = (Vec::new(), Vec::new());
    for number in 0..settings.echoes + settings.echoes / 10 {
        let message = format!("{number:016}");
        let until = format!("{{\"processHandle\":\"b{handle}\",\"until\":[{{\"text\":\"{message}\"}}]}}");
        let base64 = base64_simd::STANDARD.encode_to_string(&message);
        let began = Instant::now();
        let wait = client.request("process/wait", &until)?;
        client.write_stdin(handle, &base64, false)?;
        let (mut shown, mut told, mut left) = (None, None, 2);
        while left > 0 {
            match client.next()? {
                Event::Response { id, .. } => {
                    left -= 1;
                    if id == wait {
                        told = Some(micros(began.elapsed()));
                    }
                }
                Event::Delta { .. } => shown = Some(micros(began.elapsed())),
                Event::Exited { line, .. } => return Err(format!("too early: {}", excerpt(line))),
                Event::Uninvited => {}
            }
        }
        let (Some(shown), Some(told)) = (shown, told) else {
            return Err("the wait was answered before the output".to_owned());
        };
        // The first tenth warms up.
        if number >= settings.echoes / 10 {
            times.push(told);
            behind.push(told - shown);
        }
    }
    let mut figures = percentiles(times);
    figures.push(percentile(&behind, 0.99));
    Ok(figures)
}

/// Starts a program that gives back what it gets.
fn echoing(client: &mut Client, tty: bool) -> Result<u64, String> {
    let (_, handle) = client.spawn(Program {
        command: if tty {
            &["sh", "-c", "stty raw -echo; printf ready; exec cat"]
        } else {
            &["sh", "-c", "printf ready; exec cat"]
        },
        tty,
        stream_stdin: true,
        stream_stdout_stderr: true,
        unlimited: true,
    })?;
    let mut ready = Vec::new();
    let mut answered = false;
    while !(answered && ready == b"ready") {
        match client.next()? {
            Event::Response { .. } => answered = true,
            Event::Delta { base64, .. } => ready.extend(decode(base64)?),
            Event::Exited { line, .. } => return Err(format!("too early: {}", excerpt(line))),
            Event::Uninvited => {}
        }
    }
    Ok(handle)
}

/// The times of round trips in microseconds, and how many bytes came from others meanwhile.
fn round_trips(client: &mut Client, handle: u64, count: usize) -> Result<(Vec<f64>, u64), String> {
    let mut times = Vec::with_capacity(count);
    let mut flooded = 0;
    let mut echoed = Vec::new();
    for number in 0..count + count / 10 {
        let message = format!("{number:016}");
        let base64 = base64_simd::STANDARD.encode_to_string(&message);
        echoed.clear();
        let mut answered = false;
        let mut time = None;
        let start = Instant::now();
        client.write_stdin(handle, &base64, false)?;
        while time.is_none() || !answered {
            match client.next()? {
                Event::Response { .. } => answered = true,
                Event::Delta {
                    handle: of, base64, ..
                } if of == handle => {
                    echoed.extend(decode(base64)?);
                    if echoed.len() >= message.len() {
                        time = Some(micros(start.elapsed()));
                    }
                }
                Event::Delta { base64, .. } => {
                    flooded += scan::decoded_length(base64).ok_or("a delta of broken base64")?;
                }
                Event::Exited { line, .. } => return Err(format!("too early: {}", excerpt(line))),
                Event::Uninvited => {}
            }
        }
        if echoed != message.as_bytes() {
            return Err(format!("{:?} came back for {message:?}", excerpt(&echoed)));
        }
        // The first tenth warms up.
        if number >= count / 10 {
            times.extend(time);
        }
    }
    Ok((times, flooded))
}

fn first_answer(start: &Start, settings: &Settings) -> Result<Vec<f64>, String> {
    let mut times = Vec::new();
    for _ in 0..settings.starts {
        let began = Instant::now();
        let client = start.client()?;
        times.push(micros(began.elapsed()) / 1e3);
        drop(client);
    }
    Ok(vec![percentile(&times, 0.5)])
}

fn memory(start: &Start, settings: &Settings) -> Result<Vec<f64>, String> {
    let mut client = start.client()?;
    settle();
    let server = tree::Server::idle()?;
    let idle = server.footprint();
    client.keep_alive(settings.live)?;
    settle();
    let live = server.footprint();
    let each = |idle: u64, live: u64| (live as f64 - idle as f64) / settings.live as f64;
    Ok(vec![
        idle.private_kib as f64,
        each(idle.private_kib, live.private_kib),
        idle.resident_kib as f64,
        each(idle.resident_kib, live.resident_kib),
    ])
}

/// Lets a server finish what it does after a start or a spawn.
pub fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(300));
}

fn succeeded(line: &[u8]) -> Result<(), String> {
    scan::find(line, b"\"exitCode\":0,")
        .or_else(|| scan::find(line, b"\"exitCode\":0}"))
        .map(|_| ())
        .ok_or_else(|| format!("a program failed: {}", excerpt(line)))
}

fn compare(text: &[u8], at: &mut usize, base64: &[u8]) -> Result<(), String> {
    let bytes = decode(base64)?;
    let end = *at + bytes.len();
    if text.get(*at..end) != Some(&bytes) {
        return Err(format!("the bytes from {at} to {end} are not as written"));
    }
    *at = end;
    Ok(())
}

fn decode(base64: &[u8]) -> Result<Vec<u8>, String> {
    base64_simd::STANDARD
        .decode_to_vec(base64)
        .map_err(|error| format!("a delta of broken base64: {error}"))
}

fn pair((a, b): (f64, f64)) -> Vec<f64> {
    vec![a, b]
}

fn percentiles(times: Vec<f64>) -> Vec<f64> {
    vec![percentile(&times, 0.5), percentile(&times, 0.99)]
}
