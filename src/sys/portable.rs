//! Starting a program with what POSIX has: `posix_spawn`, and `fork` for what that cannot do.
//!
//! **Thread:** the process thread of the child, which waits until the program runs.
//! **Owns:** the order of forks.
//! **Never:** allocates, locks or panics in a child of a fork.
//!
//! `posix_spawn` cannot open a controlling terminal, lower a limit, or say which step has failed. A fork
//! can, and takes as long as the memory of this program is large; so it is for those plans, and for what
//! `posix_spawn` has failed with.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;

use super::child::{Plan, SAID_BYTES};
use super::descriptors::{pipe, read};
use super::error::check;
use super::exit::reap;
use super::lock::lock;
use super::signals::kill_group;
use super::spawn::{Birth, MAKE_PIPE, SpawnError};
use super::{ExitWatch, Pid};

/// Starts a program as [`super::spawn::spawn`] says.
pub(super) fn spawn(plan: Plan<'_>) -> Result<(Pid, OwnedFd), SpawnError> {
    // What it takes to hear of the exit comes first: a child whose end we could not see is worse than none.
    let watch = ExitWatch::prepare()?;
    let birth = plan.birth;
    let pid = match by_posix_spawn(&plan) {
        Some(pid) => pid,
        None => by_fork(plan)?,
    };
    watch.watch(pid).map(|end| (pid, end)).map_err(|error| {
        let _ = kill_group(pid, libc::SIGKILL);
        birth.tell_reap();
        let _ = reap(pid);
        SpawnError::new("kevent", error)
    })
}

/// One fork at a time: the C library stops its allocator for each, and the memory is copied under one lock.
/// Threads that wait here hold neither, so they do not keep the end of a connection from going on.
static TURN: Mutex<()> = Mutex::new(());

/// The child of a fork, which `birth` knows of from now on, or 0 in that child, which may only make system
/// calls. Of a birth that was given up while it waited for its turn there is none.
pub(super) fn fork_in_turn(birth: &Birth) -> Result<Pid, SpawnError> {
    let refused = |error| SpawnError::new("fork", error);
    let turn = lock(&TURN);
    if birth.is_given_up() {
        return Err(refused(io::Error::from_raw_os_error(libc::ECANCELED)));
    }
    // SAFETY: the child makes system calls and nothing else, so what other threads hold does not matter.
    let pid = check(unsafe { libc::fork() }).map_err(refused)?;
    if pid == 0 {
        // A copy: no thread waits for it, and giving it back is more than a system call.
        std::mem::forget(turn);
    } else {
        drop(turn);
        birth.is_born(pid);
    }
    Ok(pid)
}

/// Has a copy of this process carry out `plan`.
fn by_fork(mut plan: Plan<'_>) -> Result<Pid, SpawnError> {
    let (reader, writer) = pipe().map_err(|error| SpawnError::new(MAKE_PIPE, error))?;
    plan.report = writer.as_raw_fd();
    let pid = match fork_in_turn(plan.birth)? {
        0 => {
            // SAFETY: the copy has this thread alone, and the plan is in its memory as well.
            unsafe { plan.carry_out() };
            // SAFETY: ends only the child, and runs none of our code.
            unsafe { libc::_exit(127) }
        }
        pid => pid,
    };
    plan.birth.tell_birth(pid);
    drop(writer);
    let mut said = [0; SAID_BYTES];
    let n = loop {
        match read(reader.as_fd(), &mut said) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            n => break n,
        }
    };
    // From here on its pid is this thread's alone.
    plan.birth.runs();
    if matches!(n, Ok(SAID_BYTES)) {
        plan.birth.tell_reap();
        let _ = reap(pid);
        return Err(plan.said(&said));
    }
    // Closed by its exec, or by its death, which is seen as any other.
    Ok(pid)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
use with_posix_spawn::by_posix_spawn;

/// `posix_spawn` starts no session here.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn by_posix_spawn(_: &Plan<'_>) -> Option<Pid> {
    None
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
mod with_posix_spawn {
    use super::*;
    use std::ffi::CStr;
    use std::mem::MaybeUninit;

    use crate::sys::error::spawn_check;
    use crate::sys::posix_spawn::{Actions, Attributes};

    /// Not in every version of the libc package.
    #[cfg(target_vendor = "apple")]
    const SETSID: libc::c_int = 0x0400;
    #[cfg(target_vendor = "apple")]
    const FLAGS: libc::c_int = SETSID | libc::POSIX_SPAWN_CLOEXEC_DEFAULT;
    #[cfg(target_os = "linux")]
    const FLAGS: libc::c_int = libc::POSIX_SPAWN_SETSID as libc::c_int;

    /// `None` where it cannot do what the plan says, or has failed.
    pub(super) fn by_posix_spawn(plan: &Plan<'_>) -> Option<Pid> {
        // SAFETY: a NUL-terminated string that lives as long as the plan.
        let path = unsafe { CStr::from_ptr(plan.path) };
        // Some systems look for a relative path before they enter the directory.
        let is_relative = plan.directory >= 0 && !path.to_bytes().starts_with(b"/");
        if !plan.terminal.is_null()
            || plan.descriptor_limit.is_some()
            || !plan.limits.is_empty()
            || is_relative
        {
            return None;
        }
        start(plan).ok()
    }

    fn start(plan: &Plan<'_>) -> io::Result<Pid> {
        let mut actions = Actions::new()?;
        for (fd, target) in plan.stdio.into_iter().zip(0..) {
            actions.place(fd, target)?;
        }
        if plan.directory >= 0 {
            actions.enter(plan.directory)?;
        }
        actions.close_all_above(2)?;
        let mut attributes = Attributes::new()?;
        let (mut none, mut all) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both sets are initialised before they are used.
        let (none, all) = unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigfillset(all.as_mut_ptr());
            // They cannot have another action, and some systems refuse to be asked.
            libc::sigdelset(all.as_mut_ptr(), libc::SIGKILL);
            libc::sigdelset(all.as_mut_ptr(), libc::SIGSTOP);
            (none.assume_init(), all.assume_init())
        };
        attributes.set_mask(&none)?;
        attributes.set_default(&all)?;
        attributes.set_flags(
            FLAGS | libc::POSIX_SPAWN_SETSIGMASK as libc::c_int | libc::POSIX_SPAWN_SETSIGDEF as libc::c_int,
        )?;
        let mut pid = 0;
        // SAFETY: initialised objects; the plan's path and lists live as long as it does.
        spawn_check(unsafe {
            libc::posix_spawn(
                &mut pid,
                plan.path,
                actions.as_ptr(),
                attributes.as_ptr(),
                plan.argv.cast(),
                plan.environment.cast(),
            )
        })?;
        Ok(pid)
    }
}
