//! What the system tells of a process: its state, its command, its terminal, and what its threads wait for.
//!
//! **Thread:** the caller's, which should be one that may wait: a file in `/proc` may not answer as long as
//! the process holds its memory.
//! **Owns:** nothing.
//! **Never:** concludes anything. What cannot be known is `None`, or [`Wait::Unknown`].

#[cfg(not(target_os = "linux"))]
mod nothing;
#[cfg(target_os = "linux")]
mod proc;

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

#[cfg(not(target_os = "linux"))]
pub(crate) use self::nothing::*;
#[cfg(target_os = "linux")]
pub(crate) use self::proc::*;
use super::error::check;
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
// Where nothing shows it, all but one are never made.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
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

/// Whether the system tells the limits of a process, and so keeps them.
pub(crate) fn limits_are_kept() -> bool {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: there is room for the one result.
    check(unsafe { libc::getrlimit(libc::RLIMIT_CORE, limit.as_mut_ptr()) }).is_ok()
}

/// # Errors
///
/// Where the terminal has gone.
pub(crate) fn terminal_facts(master: BorrowedFd<'_>) -> io::Result<TerminalFacts> {
    let settings = terminal_settings(master)?;
    let size = rustix::termios::tcgetwinsize(master)?;
    Ok(TerminalFacts {
        canonical: settings.c_lflag & libc::ICANON != 0,
        echo: settings.c_lflag & libc::ECHO != 0,
        rows: size.ws_row,
        cols: size.ws_col,
    })
}

/// The foreground group of the terminal; `None` if there is none. Not asked by rustix, which takes the
/// kernel's 0 for a pid on macOS.
pub(crate) fn foreground_group(master: BorrowedFd<'_>) -> Option<Pid> {
    // SAFETY: no memory is involved.
    let group = check(unsafe { libc::tcgetpgrp(master.as_raw_fd()) }).ok()?;
    (group > 0).then_some(group)
}
