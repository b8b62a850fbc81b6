//! The same where no `/proc` shows it: nothing of what a process is and waits for.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** concludes anything.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use super::{Facts, Wait};
use crate::sys::Pid;
use crate::sys::error::unsupported;

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
/// Always: which process holds a pipe is not known here.
pub(crate) fn pipe_input(_: &OwnedFd) -> io::Result<Input> {
    Err(unsupported())
}

/// Whether it is known what a thread waits for.
pub(crate) fn waits_are_shown() -> bool {
    false
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
