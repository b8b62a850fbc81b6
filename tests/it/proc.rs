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

/// The numbers of all processes of the machine.
pub fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// All processes of the machine.
pub fn processes() -> Vec<Proc> {
    pids().filter_map(Proc::of).collect()
}
