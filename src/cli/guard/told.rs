//! What a server reports to its guard, so that the guard knows what to kill and what to spare if the server
//! is killed.
//!
//! **Thread:** each thread of the server that starts or reaps a process; `guard`, for records that there was
//! no room for; and the main thread of the guard, which reads.
//! **Owns:** the server's end of the pipe, and what has not been written to it yet.
//! **Never:** waits for the guard: what the pipe does not take is kept, one record for each process, and
//! written when there is room.
//!
//! A record is written as a whole or not at all, because a pipe takes that many bytes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;

use super::sweep::Started;
use crate::sys::{self, EventFd, Pid, PollFd};

/// What is reported of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// It is spared, with all processes below it.
    Detached = 1,
    /// It leads a group and a session, which are killed.
    Leads,
    /// Its pid may be used again from now on.
    Reaped,
}

/// The report of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) what: What,
    pub(super) pid: Pid,
    /// When it was started, or 0 where that is not known: pids are used again.
    pub(super) started: u64,
}

/// The bytes of a record.
const RECORD_BYTES: usize = 16;
/// Records of one read.
const RECORDS_PER_READ: usize = 64;

impl Record {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..4].copy_from_slice(&(self.what as u32).to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.pid.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.started.to_ne_bytes());
        bytes
    }

    /// `None` for bytes that no server writes.
    fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Option<Record> {
        let (what, rest) = bytes.split_first_chunk()?;
        let (pid, rest) = rest.split_first_chunk()?;
        let number = u32::from_ne_bytes(*what);
        let known = [What::Detached, What::Leads, What::Reaped];
        Some(Record {
            what: known.into_iter().find(|what| *what as u32 == number)?,
            pid: Pid::from_ne_bytes(*pid),
            started: u64::from_ne_bytes(*rest.first_chunk()?),
        })
    }
}

/// All that has been reported, as both sides keep it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) detached: Started,
    /// Leaders that have not been reaped, where orphans are not adopted.
    pub(super) leaders: Started,
}

impl Told {
    /// An earlier record of the same pid was about another process.
    pub(super) fn take(&mut self, record: Record) {
        let Record { what, pid, started } = record;
        self.leaders.remove(&pid);
        match what {
            What::Reaped => {}
            What::Detached => {
                self.detached.insert(pid, started);
            }
            What::Leads => {
                self.detached.remove(&pid);
                self.leaders.insert(pid, started);
            }
        }
    }

    /// Takes all that can be read now.
    pub(super) fn read_from(&mut self, reader: &OwnedFd) {
        let mut bytes = [0; RECORDS_PER_READ * RECORD_BYTES];
        while let Ok(n @ 1..) = sys::read(reader.as_fd(), &mut bytes) {
            let (records, _) = bytes[..n].as_chunks();
            records
                .iter()
                .filter_map(Record::from_bytes)
                .for_each(|record| self.take(record));
        }
    }
}

/// Records that have not been written yet.
#[derive(Debug, Default)]
struct Ledger {
    /// The latest record of each process.
    pending: BTreeMap<Pid, Record>,
    /// Processes that the guard takes for leaders.
    known: BTreeSet<Pid>,
}

impl Ledger {
    fn note(&mut self, record: Record) {
        let Record { what, pid, .. } = record;
        if what == What::Reaped && !self.known.contains(&pid) {
            // The guard has not heard of that one.
            self.pending.remove(&pid);
        } else {
            self.pending.insert(pid, record);
        }
    }

    fn next(&self) -> Option<Record> {
        self.pending.values().next().copied()
    }

    fn is_written(&mut self, record: Record) {
        self.pending.remove(&record.pid);
        match record.what {
            What::Leads => self.known.insert(record.pid),
            What::Detached | What::Reaped => self.known.remove(&record.pid),
        };
    }
}

/// The server's end.
#[derive(Debug)]
pub(super) struct Teller {
    pipe: OwnedFd,
    ledger: Mutex<Ledger>,
    /// Ends the wait of [`Teller::until_guard_ends`].
    wake: EventFd,
}

impl Teller {
    /// `pipe` is its writing end, which is made not to block.
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Teller> {
        sys::set_nonblocking(&pipe)?;
        Ok(Teller {
            pipe,
            ledger: Mutex::default(),
            wake: EventFd::new()?,
        })
    }

    /// Writes it now if the pipe has room, or else later.
    pub(super) fn tell(&self, record: Record) {
        let mut ledger = sys::lock(&self.ledger);
        ledger.note(record);
        if !self.write(&mut ledger) {
            self.wake.set();
        }
    }

    /// Writes what there is room for; whether that was all.
    fn write(&self, ledger: &mut Ledger) -> bool {
        while let Some(record) = ledger.next() {
            match sys::write(self.pipe.as_fd(), &record.to_bytes()) {
                Ok(_) => ledger.is_written(record),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // The guard has gone.
                Err(_) => ledger.pending.clear(),
            }
        }
        true
    }

    /// Waits for the end of the guard, and writes what there was no room for meanwhile. The guard ends
    /// this wait, by its end.
    pub(super) fn until_guard_ends(&self) -> io::Result<()> {
        loop {
            let all_written = self.write(&mut sys::lock(&self.ledger));
            let pipe = self.pipe.as_raw_fd();
            let pipe = match all_written {
                true => PollFd::hangup(pipe),
                false => PollFd::write(pipe),
            };
            let mut interests = [pipe, PollFd::read(self.wake.raw())];
            sys::poll(&mut interests, None)?;
            if interests[0].hung_up() {
                return Ok(());
            }
            if interests[1].readable() {
                self.wake.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests;
