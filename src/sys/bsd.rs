//! macOS and FreeBSD: exits and signals by a kqueue, and all processes at one moment.
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
        new_queue()
            .map(ExitWatch)
            .map_err(|error| SpawnError::new("kqueue", error))
    }

    /// What becomes readable once the child `pid` has ended.
    pub(super) fn watch(self, pid: Pid) -> io::Result<OwnedFd> {
        let ExitWatch(queue) = self;
        let mut exit = event();
        exit.ident = usize::try_from(pid).map_err(io::Error::other)?;
        exit.filter = libc::EVFILT_PROC;
        exit.flags = libc::EV_ADD;
        exit.fflags = libc::NOTE_EXIT;
        match change(&queue, &exit) {
            Ok(()) => Ok(queue),
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

/// A kqueue, in which nothing is waited for yet.
pub(super) fn new_queue() -> io::Result<OwnedFd> {
    // SAFETY: a plain call; the result is checked before it is taken.
    let queue = check(unsafe { libc::kqueue() })?;
    // SAFETY: kqueue returned a new descriptor that nothing else owns.
    let queue = above_stdio(unsafe { OwnedFd::from_raw_fd(queue) })?;
    // A fork does not inherit it, but an exec keeps it.
    set_close_on_exec(&queue)?;
    Ok(queue)
}

/// Has `queue` wait for `event`, or no longer.
pub(super) fn change(queue: &OwnedFd, event: &libc::kevent) -> io::Result<()> {
    // SAFETY: one change is read, and no event is written.
    check(unsafe { libc::kevent(queue.as_raw_fd(), event, 1, ptr::null_mut(), 0, ptr::null()) }).map(drop)
}

#[cfg(any(target_os = "macos", feature = "cli"))]
/// What has happened by now of what `queue` waits for.
pub(super) fn take_events<'a>(
    queue: &OwnedFd,
    room: &'a mut [libc::kevent],
) -> io::Result<&'a [libc::kevent]> {
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let count = libc::c_int::try_from(room.len()).map_err(io::Error::other)?;
    // SAFETY: as many events are written as there is room for, and no change is read.
    let taken =
        check(unsafe { libc::kevent(queue.as_raw_fd(), ptr::null(), 0, room.as_mut_ptr(), count, &now) })?;
    Ok(&room[..usize::try_from(taken).unwrap_or(0)])
}

pub(super) fn event() -> libc::kevent {
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

#[cfg(all(feature = "cli", target_os = "freebsd"))]
pub(super) use super::freebsd::{adopt_orphans, signal_at_parents_death};
#[cfg(all(feature = "cli", target_os = "macos"))]
pub(super) use super::macos::{adopt_orphans, signal_at_parents_death};
#[cfg(feature = "cli")]
pub(crate) use for_the_binary::*;

#[cfg(feature = "cli")]
mod for_the_binary {
    use std::mem::MaybeUninit;

    use super::*;
    #[cfg(target_os = "freebsd")]
    use crate::sys::freebsd::state;
    #[cfg(target_os = "macos")]
    use crate::sys::macos::state;
    use crate::sys::signals::kill;

    pub(crate) fn shows_own_numbers() -> bool {
        true
    }

    pub(crate) fn shows_own_children() -> bool {
        true
    }

    /// Whether a signal has stopped the process.
    pub(crate) fn is_stopped(pid: Pid) -> bool {
        state(pid) == Some(STOPPED)
    }

    /// The state of a process that a signal has stopped.
    const STOPPED: u32 = 4;

    /// A descriptor that tells of the blocked `signals` as they come.
    pub(crate) fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
        let queue = new_queue()?;
        let mut pending = MaybeUninit::uninit();
        for signal in signals {
            let mut watch = event();
            watch.ident = usize::try_from(*signal).map_err(io::Error::other)?;
            watch.filter = libc::EVFILT_SIGNAL;
            watch.flags = libc::EV_ADD | libc::EV_CLEAR;
            change(&queue, &watch)?;
        }
        // SAFETY: there is room for the set, and it is filled where the call succeeds.
        let pending = unsafe {
            check(libc::sigpending(pending.as_mut_ptr()))?;
            pending.assume_init()
        };
        for signal in signals {
            // SAFETY: an initialised set.
            if unsafe { libc::sigismember(&pending, *signal) } == 1 {
                // It came before: only what comes from now on is told, blocked or not.
                kill(rustix::process::getpid().as_raw_pid(), *signal)?;
            }
        }
        Ok(queue)
    }

    /// The next signal of a [`signal_fd`], if there is one, and whether a terminal may have sent it: the
    /// system does not say who has.
    pub(crate) fn next_signal(queue: &OwnedFd) -> Option<(libc::c_int, bool)> {
        let mut room = [event()];
        let taken = take_events(queue, &mut room).ok()?.first()?;
        let signal = libc::c_int::try_from(taken.ident).ok()?;
        Some((signal, matches!(signal, libc::SIGINT | libc::SIGHUP)))
    }

    pub(crate) fn look_at_own_number(pid: Pid) -> io::Result<Option<ProcStat>> {
        look_at(pid)
    }

    /// What to call a process in a message.
    pub(crate) fn describe(process: &ProcStat) -> String {
        process.pid.to_string()
    }
}
