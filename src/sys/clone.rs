//! Starting a program by `clone`, sharing memory and descriptors until its exec.
//!
//! **Thread:** the process thread of the child, which is in the kernel until the program runs.
//! **Owns:** what the system has been found to refuse to a child.
//! **Never:** allocates, locks or panics between `clone` and `execve`.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};

use super::child::Plan;
use super::descriptors::above_stdio;
use super::error::{check, may_be_refused};
use super::exit::reap;
use super::signals::{kill_group, raw_signal_mask};
use super::spawn::{Birth, ChildStack, LEAVE_DESCRIPTORS, SpawnError};
use super::{Pid, end_of_child};

/// Set once the system has refused `close_range`: then each child begins with a copy of our table.
static NO_CLOSE_RANGE: AtomicBool = AtomicBool::new(false);
/// Set once the system has refused `clone` with `CLONE_PIDFD`, and not without.
static NO_CLONE_PIDFD: AtomicBool = AtomicBool::new(false);

/// As if the system refused `close_range`. Callgrind, under which `tests/cost` counts a spawn, does not
/// follow a `clone` that shares the table of descriptors.
#[cfg(fuzzing)]
pub(crate) fn copy_descriptor_tables() {
    NO_CLOSE_RANGE.store(true, Relaxed);
}

/// Starts a program as [`super::spawn::spawn`] says.
///
/// Like `posix_spawn` of the C library, with `CLONE_VM | CLONE_VFORK`: no page table is copied, and
/// only the calling thread waits. Unlike it, the child shares our table of descriptors until it has a
/// copy of what is numbered no higher than what it needs, instead of copying all only to close them;
/// and its pidfd comes with it, so that there is no child whose end could not be seen.
pub(super) fn spawn(mut plan: Plan<'_>, stack: &mut ChildStack) -> Result<(Pid, OwnedFd), SpawnError> {
    plan.own_table = NO_CLOSE_RANGE.load(Relaxed);
    let refused = |call, error| Err(SpawnError::new(call, error));
    loop {
        let table = if plan.own_table { 0 } else { libc::CLONE_FILES };
        let argument = ptr::from_ref(&plan).cast_mut().cast();
        // SAFETY: `run_child` takes a plan, which outlives this call with all that it points to.
        let (pid, pidfd) = match unsafe { start_child(run_child, argument, table, stack, plan.birth) } {
            Ok(started) => started,
            Err(error) => return refused("clone", error),
        };
        match plan.stopped() {
            None => {
                let seen = match pidfd {
                    Some(pidfd) => above_stdio(pidfd).map_err(|error| ("fcntl", error)),
                    // A kernel that does not know the flag ignores it.
                    None => end_of_child(pid).map_err(|error| ("pidfd_open", error)),
                };
                return seen.map(|end| (pid, end)).or_else(|(call, error)| {
                    // A child whose end we could not see is worse than none.
                    let _ = kill_group(pid, libc::SIGKILL);
                    let _ = reap(pid);
                    refused(call, error)
                });
            }
            Some(stopped) => {
                let _ = reap(pid);
                let closes = stopped.call == LEAVE_DESCRIPTORS && may_be_refused(&stopped.error);
                if plan.own_table || !closes {
                    return Err(stopped);
                }
                plan.own_table = true;
                NO_CLOSE_RANGE.store(true, Relaxed);
            }
        }
    }
}

/// Has a child call `run` with `argument`. Returns when it has executed a program or ended. `table` is
/// `CLONE_FILES` where it begins with our table of descriptors, or 0 for a copy.
///
/// # Safety
///
/// `argument` is what `run` takes, and with all it points to outlives this call. `run` does what a child
/// that shares our memory may do.
pub(super) unsafe fn start_child(
    run: extern "C" fn(*mut libc::c_void) -> libc::c_int,
    argument: *mut libc::c_void,
    table: libc::c_int,
    stack: &mut ChildStack,
    birth: &Birth,
) -> io::Result<(Pid, Option<OwnedFd>)> {
    // The child begins with our mask. As long as it shares our memory no handler of ours may run in it.
    let mask = raw_signal_mask(u64::MAX);
    let mut start = |pidfd_flag| {
        // SAFETY: the stack is used from its end down by the child alone, and it, the argument and what
        // that points to outlive the child's use, because CLONE_VFORK keeps this thread here until the
        // child has executed a program or ended. The pidfd goes where the fifth argument points.
        check(unsafe {
            libc::clone(
                run,
                stack.top(),
                libc::CLONE_VM | libc::CLONE_VFORK | pidfd_flag | table | libc::SIGCHLD,
                argument,
                birth.pidfd.as_ptr(),
            )
        })
    };
    let with_pidfd = match NO_CLONE_PIDFD.load(Relaxed) {
        false => start(libc::CLONE_PIDFD),
        true => start(0),
    };
    let started = match with_pidfd {
        // Some sandboxes look at the flags.
        Err(error) if may_be_refused(&error) => {
            let without = start(0);
            if without.is_ok() {
                NO_CLONE_PIDFD.store(true, Relaxed);
            }
            without.map_err(|_| error)
        }
        started => started,
    };
    raw_signal_mask(mask);
    let pidfd = birth.take_pidfd();
    let pid = started?;
    // SAFETY: clone succeeded, so what it has put there is open, and nothing else owns it.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok((pid, pidfd))
}

/// The child, in the memory of its parent, whose thread waits meanwhile.
/// It may only make system calls: no allocation, no lock, no panic.
extern "C" fn run_child(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes its plan, which outlives this function.
    let plan = unsafe { &*plan.cast::<Plan<'_>>() };
    // SAFETY: what it needs of the plan is as its maker has made it, and lives as long as the spawn.
    unsafe { plan.carry_out() };
    // SAFETY: ends the child alone, and runs nothing of ours.
    unsafe { libc::_exit(127) }
}

/// Whether a child can be started here in our memory, while its parent waits: an emulator that takes
/// `vfork` for `fork` lets it fail without a word.
pub(super) fn shares_memory() -> bool {
    extern "C" fn touch(touched: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `shares_memory` passes an integer that outlives the child.
        unsafe { &*touched.cast::<AtomicI32>() }.store(1, Relaxed);
        // SAFETY: ends the child alone, and runs nothing of ours.
        unsafe { libc::_exit(0) }
    }
    let touched = AtomicI32::new(0);
    let mut stack = ChildStack::new();
    let mask = raw_signal_mask(u64::MAX);
    // SAFETY: as in `start_child`. Its end is told by no signal, so that a handler of the embedding program
    // does not hear of it.
    let pid = check(unsafe {
        libc::clone(
            touch,
            stack.top(),
            libc::CLONE_VM | libc::CLONE_VFORK,
            ptr::from_ref(&touched).cast_mut().cast(),
        )
    });
    raw_signal_mask(mask);
    let Ok(pid) = pid else { return false };
    // SAFETY: a child of this thread that has ended.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    touched.load(Relaxed) == 1
}
