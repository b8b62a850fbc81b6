//! Opening what a child reads from or prints to.
//!
//! **Thread:** the process thread of that child.
//! **Owns:** nothing.
//! **Never:** leaves its thread where no signal reaches it while it waits for another process: what is
//! not a plain file is opened by a child of its own, which shares our table of descriptors, and which a
//! timer or the end of the connection gets out of there.
//!
//! A FIFO is opened when its other end is, as by a shell, however long that takes. A thread of ours that
//! waits for it could not be woken, because it blocks every signal, and the embedding program may use all
//! of them. A disk that does not answer holds up the thread, as it does in an exec.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::time::Duration;
use std::time::Instant;

use rustix::fs::{FileType, Mode, OFlags};

use super::descriptors::above_stdio;
use super::files::status_of;
use super::opener::{open_by_child, sockets};
use super::spawn::{Birth, ChildStack, SpawnError};
#[cfg(target_os = "linux")]
use {
    super::backend::{Backend, backend},
    super::child::child_errno,
    super::clone::start_child,
    super::exit::reap,
    super::signals::raw_signal_mask,
    std::os::fd::FromRawFd,
    std::ptr,
    std::sync::atomic::{AtomicI32, Ordering::Relaxed},
};

/// The call that opens a file.
pub(crate) const OPEN: &str = "open";
/// The same, where the other end of a FIFO was not opened in time.
pub(crate) const OPEN_IN_TIME: &str = "open before the timeout";

#[cfg(target_os = "linux")]
/// How often the timer strikes once its time is up: the first may come before the child waits.
const STRIKE_AGAIN: Duration = Duration::from_millis(10);

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    /// Made if need be, and emptied.
    Replace,
    /// Made if need be; writes go after the end.
    Append,
}

impl Purpose {
    fn flags(self) -> libc::c_int {
        // A server that leads a session without a terminal must not acquire one.
        let common = libc::O_CLOEXEC | libc::O_NOCTTY;
        common
            | match self {
                Purpose::Read => libc::O_RDONLY,
                Purpose::Replace => libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
                Purpose::Append => libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND,
            }
    }
}

/// `/dev/null` for writing.
pub(crate) fn open_null_for_writing() -> io::Result<OwnedFd> {
    super::open(c"/dev/null", OFlags::WRONLY)
}

/// Opens the file at `path`, with 0666 and this process's umask where it makes one. Waits for the other
/// end of a FIFO, but not past `deadline`.
pub(crate) fn open_for_child(
    path: &CStr,
    purpose: Purpose,
    deadline: Option<Instant>,
    stack: &mut ChildStack,
    birth: &Birth,
) -> Result<OwnedFd, SpawnError> {
    let refused = |call| move |error| SpawnError::new(call, error);
    let plain = match status_of(None, path) {
        Ok(status) => matches!(
            FileType::from_raw_mode(status.st_mode),
            FileType::RegularFile | FileType::Directory
        ),
        // It is made, or the attempt says what is wrong.
        Err(_) => true,
    };
    if plain {
        // A FIFO that has been put there meanwhile is not waited for here.
        match open(path, purpose.flags() | libc::O_NONBLOCK) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENXIO | libc::EAGAIN)) => {}
            opened => {
                let fd = opened.map_err(refused(OPEN))?;
                set_blocking(&fd).map_err(refused("fcntl"))?;
                return above_stdio(fd).map_err(refused("fcntl"));
            }
        }
    }
    open_waiting(path, purpose.flags(), deadline, stack, birth)
}

/// No child shares our table of descriptors.
#[cfg(not(target_os = "linux"))]
fn open_waiting(
    path: &CStr,
    flags: libc::c_int,
    deadline: Option<Instant>,
    _: &mut ChildStack,
    birth: &Birth,
) -> Result<OwnedFd, SpawnError> {
    let sockets = sockets().map_err(|e| SpawnError::new("socketpair", e))?;
    open_by_child(path, flags, deadline, sockets, birth)
}

#[cfg(target_os = "linux")]
fn open_waiting(
    path: &CStr,
    flags: libc::c_int,
    deadline: Option<Instant>,
    stack: &mut ChildStack,
    birth: &Birth,
) -> Result<OwnedFd, SpawnError> {
    if backend() == Backend::Portable
        && let Ok(sockets) = sockets()
    {
        return open_by_child(path, flags, deadline, sockets, birth);
    }
    let refused = |call| move |error| SpawnError::new(call, error);
    let opening = Opening {
        path,
        flags,
        timer: deadline.map(timer_until),
        birth,
        fd: AtomicI32::new(-1),
        error: AtomicI32::new(libc::EINTR),
    };
    let argument = ptr::from_ref(&opening).cast_mut().cast();
    // SAFETY: `run_opening` takes an `Opening`, which outlives this call.
    let started = unsafe { start_child(run_opening, argument, libc::CLONE_FILES, stack, birth) };
    let (pid, _pidfd) = started.map_err(refused("clone"))?;
    let _ = reap(pid);
    match opening.fd.into_inner() {
        fd if fd >= 0 => {
            // SAFETY: the child has opened it in our table, where no other code knows of it.
            above_stdio(unsafe { OwnedFd::from_raw_fd(fd) }).map_err(refused("fcntl"))
        }
        _ => {
            let error = io::Error::from_raw_os_error(opening.error.into_inner());
            let call = match error.raw_os_error() {
                Some(libc::ETIMEDOUT) if deadline.is_some() => OPEN_IN_TIME,
                _ => OPEN,
            };
            Err(SpawnError::new(call, error))
        }
    }
}

fn open(path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags.cast_unsigned());
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?)
}

fn set_blocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags.difference(OFlags::NONBLOCK))?)
}

#[cfg(target_os = "linux")]
fn timer_until(deadline: Instant) -> libc::itimerval {
    let of = |duration: Duration| libc::timeval {
        // No wait takes decades, and the types have 32 bits on some systems.
        tv_sec: duration.as_secs().min(i32::MAX.unsigned_abs().into()) as _,
        tv_usec: duration.subsec_micros() as _,
    };
    // None at all would switch it off.
    let left = deadline.saturating_duration_since(Instant::now());
    libc::itimerval {
        it_interval: of(STRIKE_AGAIN),
        it_value: of(left.max(Duration::from_micros(1))),
    }
}

#[cfg(target_os = "linux")]
/// What the child does, and what came of it.
struct Opening<'a> {
    path: &'a CStr,
    flags: libc::c_int,
    timer: Option<libc::itimerval>,
    birth: &'a Birth,
    fd: AtomicI32,
    error: AtomicI32,
}

#[cfg(target_os = "linux")]
/// Interrupts what waits, and does nothing else.
extern "C" fn interrupt(_: libc::c_int) {}

#[cfg(target_os = "linux")]
/// The child, in the memory of its parent, whose thread waits meanwhile.
/// It may only make system calls: no allocation, no lock, no panic.
extern "C" fn run_opening(opening: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `open_for_child` passes its own, which outlives this function.
    let opening = unsafe { &*opening.cast::<Opening<'_>>() };
    // SAFETY: no memory is involved. So that it does not wait on where this process is killed.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if !opening.birth.is_given_up() {
        if let Some(timer) = &opening.timer {
            // SAFETY: an all-zero action is valid, and its handler takes a signal; both pointers are
            // valid. Without SA_RESTART, so that the wait ends.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = interrupt as extern "C" fn(libc::c_int) as libc::sighandler_t;
                libc::sigaction(libc::SIGALRM, &action, ptr::null_mut());
                libc::setitimer(libc::ITIMER_REAL, timer, ptr::null_mut());
            }
            raw_signal_mask(!(1 << (libc::SIGALRM - 1)));
        }
        // SAFETY: `path` is a NUL-terminated string, and a mode is given.
        let fd = unsafe { libc::open(opening.path.as_ptr(), opening.flags, 0o666 as libc::c_uint) };
        let error = match child_errno() {
            libc::EINTR => libc::ETIMEDOUT,
            error => error,
        };
        opening.error.store(error, Relaxed);
        opening.fd.store(fd, Relaxed);
    }
    // SAFETY: ends only the child, and runs none of our code.
    unsafe { libc::_exit(0) }
}
