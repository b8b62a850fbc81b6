//! What `/proc` says of a process: one reading of it for all tests, benchmarks and tables.

#![allow(
    dead_code,
    reason = "each program that includes this file needs another part of it"
)]

use std::fs;

/// One process, from its `/proc/PID/stat`.
#[derive(Debug, Clone)]
pub struct Proc {
    pub pid: u32,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    /// The group in the foreground of its terminal, if it has one.
    pub foreground: Option<u32>,
    /// Of its main thread: see [`Proc::is_dead`].
    pub state: String,
    pub name: String,
    pub threads: u32,
    /// The processor time it has used, in clock ticks.
    pub ticks: u64,
}

impl Proc {
    /// The process with this number; `None` if there is none.
    pub fn of(pid: u32) -> Option<Proc> {
        Proc::parse(&String::from_utf8_lossy(
            &fs::read(format!("/proc/{pid}/stat")).ok()?,
        ))
    }

    /// From the text of such a file. The name in parentheses may hold anything, parentheses included.
    pub fn parse(stat: &str) -> Option<Proc> {
        let (head, tail) = stat.rsplit_once(") ")?;
        let (pid, name) = head.split_once(" (")?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let id = |index: usize| u32::try_from(number(index)?).ok();
        Some(Proc {
            pid: pid.parse().ok()?,
            parent: id(1)?,
            group: id(2)?,
            session: id(3)?,
            foreground: id(5),
            state: (*fields.first()?).to_owned(),
            name: name.to_owned(),
            threads: id(17)?,
            ticks: number(11)? + number(12)?,
        })
    }

    /// Whether all of it has ended. The state is that of the main thread: where that has ended and
    /// another goes on, it says `Z`, and the process lives.
    pub fn is_dead(&self) -> bool {
        ["Z", "X"].contains(&self.state.as_str()) && self.threads <= 1
    }

    /// Its arguments, each with a NUL after it; nothing if it is dead.
    pub fn arguments(&self) -> Vec<u8> {
        let own = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        if !own.is_empty() || self.is_dead() || self.threads <= 1 {
            return own;
        }
        // The main thread may have ended. Then another still knows.
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid));
        let tasks = tasks.into_iter().flatten().flatten();
        let of_all = tasks.filter_map(|task| fs::read(task.path().join("cmdline")).ok());
        of_all.max_by_key(Vec::len).unwrap_or_default()
    }
}

/// What `/proc/PID/status` says under this name; `None` if it has no such line or there is no process.
pub fn status(pid: u32, name: &str) -> Option<String> {
    said(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, name).map(str::to_owned)
}

/// What a text of such lines says under this name.
fn said<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let rest = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    status.lines().find_map(rest).map(str::trim)
}

/// A size in `/proc/PID/status`, in bytes.
fn size(pid: u32, name: &str) -> Option<u64> {
    let kib: u64 = status(pid, name)?.strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// What the process has in memory that is of no file, in bytes.
pub fn private_bytes(pid: u32) -> Option<u64> {
    size(pid, "RssAnon")
}

/// What the process has in memory, in bytes.
pub fn resident(pid: u32) -> Option<u64> {
    size(pid, "VmRSS")
}

/// The most it has had there.
pub fn peak_resident(pid: u32) -> Option<u64> {
    size(pid, "VmHWM")
}

/// How many threads it has.
pub fn threads(pid: u32) -> Option<u64> {
    status(pid, "Threads")?.parse().ok()
}

/// Threads that all wait for something or are stopped.
#[derive(Debug, PartialEq, Eq)]
pub struct Waiting {
    pub threads: Vec<u32>,
    /// How often they have been taken off a processor, all together.
    pub switches: u64,
}

/// All threads of these processes but the calling one; `None` if one of them runs.
pub fn waiting(pids: &[u32]) -> Option<Waiting> {
    let own = fs::read_link("/proc/thread-self").ok();
    let own: Option<u32> = own.and_then(|path| path.file_name()?.to_str()?.parse().ok());
    let (mut threads, mut switches) = (Vec::new(), 0);
    for pid in pids {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter();
        for task in tasks.flatten().flatten() {
            let id = task.file_name().to_str()?.parse().ok()?;
            let Ok(text) = fs::read_to_string(task.path().join("status")) else {
                continue;
            };
            if Some(id) == own {
                continue;
            }
            if said(&text, "State")?.starts_with(['R', 'D']) {
                return None;
            }
            for kind in ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"] {
                switches += said(&text, kind)?.parse::<u64>().ok()?;
            }
            threads.push(id);
        }
    }
    Some(Waiting { threads, switches })
}

/// The numbers of all processes of the machine.
pub fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// All processes of the machine.
pub fn processes() -> Vec<Proc> {
    pids().filter_map(Proc::of).collect()
}
