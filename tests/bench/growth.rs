//! How a server does as more and more idle processes live in it.

use crate::client::{Client, Start};
use crate::results::{digits, list, number, text};
use crate::rows::{self, Settings};
use crate::stats::percentile;
use crate::{floor, tree};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The figures of a point, in the order of its values.
pub const FIGURES: [(&str, &str); 6] = [
    ("output", "MiB/s"),
    ("echo p50", "µs"),
    ("echo p99", "µs"),
    ("spawns", "/s"),
    ("memory", "MiB"),
    ("threads", ""),
];

/// The name of the series without a server.
const FLOOR: &str = "floor";

/// One server, or none at all, over the numbers of live processes.
pub struct Growth {
    pub name: String,
    pub points: Vec<Point>,
    /// Why numbers are missing.
    pub skipped: Vec<String>,
}

/// The figures at one number of live processes.
pub struct Point {
    pub live: u64,
    pub values: [f64; FIGURES.len()],
}

impl Growth {
    /// Measures a server; a number it cannot carry ends the series and is named.
    pub fn of_server(name: &str, start: &Start, settings: &Settings, sizes: &[u64]) -> Self {
        let mut growth = Self {
            name: name.to_owned(),
            points: Vec::new(),
            skipped: Vec::new(),
        };
        let mut client = match start.client() {
            Ok(client) => client,
            Err(error) => {
                growth.skipped.push(format!("{name}: n/a: {error}."));
                return growth;
            }
        };
        rows::settle();
        let server = match tree::Server::idle() {
            Ok(server) => server,
            Err(error) => {
                growth.skipped.push(format!("{name}: n/a: {error}."));
                return growth;
            }
        };
        for &live in sizes {
            if let Some(limit) = over_limit(live) {
                growth
                    .skipped
                    .push(format!("{name}: {live} live processes skipped: {limit}."));
                continue;
            }
            eprintln!("growth: {name} with {live} live");
            match measure(&mut client, &server, settings, live) {
                Ok(values) => growth.points.push(Point { live, values }),
                Err(error) => {
                    growth.skipped.push(format!(
                        "{name}: {live} live processes and more skipped: {error}."
                    ));
                    break;
                }
            }
        }
        growth
    }

    /// Measures the floors, which have no number of live processes; they are at 0.
    pub fn of_floor(settings: &Settings) -> Self {
        let mut growth = Self {
            name: FLOOR.to_owned(),
            points: Vec::new(),
            skipped: Vec::new(),
        };
        let measured = || -> std::io::Result<[f64; FIGURES.len()]> {
            let echo = floor::echo(settings.echoes)?;
            Ok([
                floor::stdout(1, settings.seconds)?,
                percentile(&echo, 0.5),
                percentile(&echo, 0.99),
                floor::spawn(settings.seconds)?.0,
                f64::NAN,
                f64::NAN,
            ])
        };
        match measured() {
            Ok(values) => growth.points.push(Point { live: 0, values }),
            Err(error) => growth.skipped.push(format!("floor: n/a: {error}.")),
        }
        growth
    }

    /// Whether this is the series without a server.
    pub fn is_floor(&self) -> bool {
        self.name == FLOOR
    }

    pub fn markdown(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n| {}, live processes |", self.name);
        for (name, unit) in FIGURES {
            let comma = if unit.is_empty() { "" } else { ", " };
            let _ = write!(out, " {name}{comma}{unit} |");
        }
        let _ = writeln!(out, "\n| ---: |{}", " ---: |".repeat(FIGURES.len()));
        for point in &self.points {
            let live = match point.live {
                0 => "—".to_owned(),
                live => live.to_string(),
            };
            let _ = write!(out, "| {live} |");
            for (value, (_, unit)) in point.values.iter().zip(FIGURES) {
                let shown = match value {
                    value if !value.is_finite() => "—".to_owned(),
                    // Threads are counted, not measured.
                    value if unit.is_empty() => format!("{value:.0}"),
                    value => digits(*value),
                };
                let _ = write!(out, " {shown} |");
            }
            out.push('\n');
        }
        if !self.skipped.is_empty() {
            out.push('\n');
        }
        for reason in &self.skipped {
            let _ = writeln!(out, "- {reason}");
        }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "skipped": self.skipped,
            "points": self.points.iter().map(|point| json!({
                "live": point.live,
                "values": point.values,
            })).collect::<Vec<Value>>(),
        })
    }

    pub fn from_json(value: &Value) -> Self {
        Self {
            name: text(&value["name"]),
            skipped: list(&value["skipped"], text),
            points: list(&value["points"], |point| {
                let read = list(&point["values"], number);
                let mut values = [f64::NAN; FIGURES.len()];
                for (into, from) in values.iter_mut().zip(read) {
                    *into = from;
                }
                Point {
                    live: point["live"].as_u64().unwrap_or(0),
                    values,
                }
            }),
        }
    }
}

fn measure(
    client: &mut Client,
    server: &tree::Server,
    settings: &Settings,
    live: u64,
) -> Result<[f64; FIGURES.len()], String> {
    client.extend();
    client.keep_alive(live)?;
    rows::settle();
    // Before the load, as what the load leaves allocated is not what the processes cost.
    let footprint = server.footprint();
    client.extend();
    let output = rows::output_for(client, settings.seconds, 1, false)?;
    let (p50, p99) = rows::echo_for(client, settings.echoes)?;
    let (spawns, _) = rows::spawn_for(client, settings.seconds, 1, false)?;
    Ok([
        output,
        p50,
        p99,
        spawns,
        footprint.resident_kib as f64 / 1024.0,
        footprint.threads as f64,
    ])
}

/// Which limit a number of live processes would meet, if any.
fn over_limit(live: u64) -> Option<String> {
    // Three pipes each in the server, and some for everything else.
    let files = live * 3 + 200;
    // Each process, and up to two threads that a server may have for it.
    let processes = live * 3 + 200;
    for (name, resource, needed) in [
        ("open files", libc::RLIMIT_NOFILE, files),
        ("processes", libc::RLIMIT_NPROC, processes),
    ] {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the pointer is to the local above.
        let known = unsafe { libc::getrlimit(resource, &raw mut limit) } == 0;
        if known && limit.rlim_max < needed {
            return Some(format!(
                "the limit on {name} is {}, and about {needed} are needed",
                limit.rlim_max
            ));
        }
    }
    for path in [
        "/sys/fs/cgroup/pids.max",
        "/proc/sys/kernel/pid_max",
        "/proc/sys/kernel/threads-max",
    ] {
        let limit = std::fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(limit) = limit.filter(|limit| *limit < processes) {
            return Some(format!("{path} is {limit}, and up to {processes} are needed"));
        }
    }
    None
}
