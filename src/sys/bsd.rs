//! macOS and FreeBSD: the exit of a child by a kqueue, and all processes at one moment.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing; descriptors come and go as [`OwnedFd`].
//! **Never:** needs a descriptor to look at processes.
//!
//! Neither system has been tried: this compiles, and follows their manuals.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::Pid;
use super::descriptors::{above_stdio, pipe, set_close_on_exec};
use super::error::{check, unsupported};
#[cfg(target_os = "freebsd")]
use super::freebsd::{list, look};
#[cfg(target_os = "macos")]
use super::macos::{list, look};
use super::snapshot::{ProcStat, Snapshot};
use super::spawn::SpawnError;

/// What becomes readable once the child `pid` has ended, and stays so. It must not be reaped before.
pub(super) fn end_of_child(pid: Pid) -> io::Result<OwnedFd> {
    let watch = ExitWatch::prepare().map_err(|SpawnError { error, .. }| error)?;
    watch.watch(pid)
}

/// Hears of the exit of a child: a kqueue, which takes a descriptor before there is a child.
pub(super) struct ExitWatch(OwnedFd);

impl ExitWatch {
    pub(super) fn prepare() -> Result<ExitWatch, SpawnError> {
        ExitWatch::new().map_err(|error| SpawnError::new("kqueue", error))
    }

    fn new() -> io::Result<ExitWatch> {
        // SAFETY: a plain call; the result is checked before it is taken.
        let queue = check(unsafe { libc::kqueue() })?;
        // SAFETY: kqueue returned a new descriptor that nothing else owns.
        let queue = above_stdio(unsafe { OwnedFd::from_raw_fd(queue) })?;
        // A fork does not inherit it, but an exec keeps it.
        set_close_on_exec(&queue)?;
        Ok(ExitWatch(queue))
    }

    /// What becomes readable once the child `pid` has ended.
    pub(super) fn watch(self, pid: Pid) -> io::Result<OwnedFd> {
        let ExitWatch(queue) = self;
        let mut change = event();
        change.ident = usize::try_from(pid).map_err(io::Error::other)?;
        change.filter = libc::EVFILT_PROC;
        change.flags = libc::EV_ADD;
        change.fflags = libc::NOTE_EXIT;
        // SAFETY: one change is read, and no event is written.
        let added =
            check(unsafe { libc::kevent(queue.as_raw_fd(), &change, 1, ptr::null_mut(), 0, ptr::null()) });
        match added {
            Ok(_) => Ok(queue),
            // It has ended: a pipe whose writing end is closed says so for ever.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => pipe().map(|(reader, _)| reader),
            Err(error) => Err(error),
        }
    }
}

/// There are none here; a process is known by its pid and start time.
pub(crate) fn pidfd_open(_: Pid) -> io::Result<OwnedFd> {
    Err(unsupported())
}

pub(crate) fn pidfd_signal(_: BorrowedFd<'_>, _: libc::c_int) -> io::Result<()> {
    Err(unsupported())
}

fn event() -> libc::kevent {
    // SAFETY: integers and a pointer, all of which may be zero.
    unsafe { std::mem::zeroed() }
}

impl Snapshot {
    /// Looks at all processes now.
    pub(crate) fn take() -> io::Result<Self> {
        list().map(Snapshot::of)
    }

    /// What the list leaves out can be found in no other way here.
    pub(crate) fn unlisted(&self, _: Vec<Pid>) -> io::Result<Vec<ProcStat>> {
        Ok(Vec::new())
    }
}

impl Snapshot {
    /// `leader`, the members of its group and session, and all that is below them, the dead included; oldest
    /// first.
    pub(crate) fn family(&self, leader: Pid) -> io::Result<Option<Vec<ProcStat>>> {
        let own = |p: &&ProcStat| p.pid == leader || p.group == leader || p.session == leader;
        let mut family: Vec<ProcStat> = self.processes.iter().filter(own).copied().collect();
        family.extend(self.below(family.iter().map(|p| p.pid)));
        let mut known = HashSet::new();
        family.retain(|p| known.insert(p.pid));
        family.sort_unstable_by_key(|p| (p.pid != leader, p.started.unwrap_or(u64::MAX), p.pid));
        Ok(Some(family))
    }
}

/// What keeps the system from showing what a program has started; `None` if it does.
pub(crate) fn blindness() -> Option<String> {
    list()
        .err()
        .map(|error| format!("processes cannot be listed ({error})"))
}

/// What the system says of one process; `None` if there is none.
pub(crate) fn look_at(pid: Pid) -> io::Result<Option<ProcStat>> {
    Ok(look(pid))
}

/// Whether one of our processes has begun to exit: here that shows only once it is a zombie.
pub(crate) fn is_exiting(pid: Pid) -> bool {
    look(pid).is_some_and(|process| process.dead)
}

pub(crate) fn children_of(pid: Pid) -> io::Result<Vec<Pid>> {
    let all = list()?;
    Ok(all
        .iter()
        .filter(|process| process.parent == pid)
        .map(|process| process.pid)
        .collect())
}

#[cfg(feature = "cli")]
pub(crate) use for_the_binary::*;

#[cfg(feature = "cli")]
mod for_the_binary {
    use super::*;

    pub(crate) fn shows_own_numbers() -> bool {
        true
    }

    pub(crate) fn shows_own_children() -> bool {
        true
    }

    /// Only a guard asks, and there is none here.
    pub(crate) fn is_stopped(_: Pid) -> bool {
        false
    }

    pub(crate) fn look_at_own_number(pid: Pid) -> io::Result<Option<ProcStat>> {
        look_at(pid)
    }

    /// What to call a process in a message.
    pub(crate) fn describe(process: &ProcStat) -> String {
        process.pid.to_string()
    }
}
