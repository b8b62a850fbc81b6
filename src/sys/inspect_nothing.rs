//! The same where no `/proc` tells it: what a terminal tells, and nothing of what a process waits for.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** concludes anything.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use super::error::{check, unsupported};
use super::{Pid, terminal_settings};

/// One process or one thread, from its `stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The first fifteen bytes of the name of its program.
    pub(crate) name: String,
    /// As `ps` has it: R, S, D, T, t, Z, X or I.
    pub(crate) state: char,
    /// The device of its controlling terminal; 0 for none.
    pub(crate) terminal: u32,
    pub(crate) threads: u64,
    /// In user mode and in the kernel, of all its threads.
    pub(crate) cpu: Duration,
    /// `None` where it has no memory any more.
    pub(crate) rss_bytes: Option<u64>,
}

/// What a thread is blocked in, as far as it is about input.
// Callers take all that the other file tells.
#[allow(dead_code)]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It runs, is stopped, or waits for something that is not input.
    Not,
    /// A read of this descriptor.
    Read(RawFd),
    /// A call that moves bytes from this descriptor to another; it may wait for either.
    Move(RawFd),
    /// It waits until one of `inputs` can be read or, if `others`, for something else to happen.
    Poll {
        inputs: BTreeSet<RawFd>,
        others: bool,
    },
    Unknown,
}

/// A terminal, seen from its master.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TerminalFacts {
    pub(crate) canonical: bool,
    pub(crate) echo: bool,
    pub(crate) rows: u16,
    pub(crate) cols: u16,
}

/// The slave of a terminal.
#[derive(Debug, Clone)]
pub(crate) struct Slave;

impl Slave {
    pub(crate) fn number_in_stat(&self) -> u32 {
        0
    }
}

/// What bytes for a program go to.
#[allow(dead_code)]
#[derive(Debug, Clone)]
pub(crate) enum Input {
    Pipe { empty: bool },
    Terminal(Slave),
}

impl Input {
    /// Whether a descriptor of a process is the other end; not known here.
    pub(crate) fn is(&self, _: Pid, _: Pid, _: RawFd, _: u32) -> Option<bool> {
        None
    }
}

/// # Errors
///
/// Always: which process holds a pipe is not told here.
pub(crate) fn pipe_input(_: &OwnedFd) -> io::Result<Input> {
    Err(unsupported())
}

/// Whether the system tells the limits of a process, and so keeps them.
pub(crate) fn limits_are_kept() -> bool {
    super::descriptors::descriptor_limit().is_ok()
}

/// Whether it is told what a thread waits for.
pub(crate) fn waits_are_shown() -> bool {
    false
}

/// # Errors
///
/// Where the terminal has gone.
pub(crate) fn terminal_facts(master: BorrowedFd<'_>) -> io::Result<TerminalFacts> {
    let settings = terminal_settings(master)?;
    // SAFETY: all-zero is a valid winsize, which is four numbers.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes one winsize, for which there is room.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGWINSZ, &mut size) })?;
    Ok(TerminalFacts {
        canonical: settings.c_lflag & libc::ICANON != 0,
        echo: settings.c_lflag & libc::ECHO != 0,
        rows: size.ws_row,
        cols: size.ws_col,
    })
}

/// The foreground group of the terminal; `None` if there is none.
pub(crate) fn foreground_group(master: BorrowedFd<'_>) -> Option<Pid> {
    // SAFETY: no memory is involved.
    let group = check(unsafe { libc::tcgetpgrp(master.as_raw_fd()) }).ok()?;
    (group > 0).then_some(group)
}

pub(crate) fn slave(_: BorrowedFd<'_>) -> Option<Slave> {
    None
}

pub(crate) fn hand_over_typed(_: BorrowedFd<'_>) {}

pub(crate) fn facts(_: Pid) -> Option<Facts> {
    None
}

pub(crate) fn threads(_: Pid) -> Vec<Pid> {
    Vec::new()
}

pub(crate) fn arguments(_: Pid, _: u64) -> Vec<u8> {
    Vec::new()
}

pub(crate) fn wait_of(_: Pid, _: Pid) -> Wait {
    Wait::Unknown
}
