//! Pidfds: a process by a descriptor, which no later process can inherit. Linux only.
//!
//! **Thread:** the caller's; and `exit`, which waits for a child where pidfds are refused.
//! **Owns:** nothing; descriptors come and go as [`OwnedFd`].
//! **Never:** signals by pid in place of a pidfd that is refused; that is for the caller.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::Pid;
use super::backend::{Backend, backend};
use super::descriptors::{above_stdio, pipe};
use super::error::{check_size, may_be_refused, unsupported};
use super::signals::block_signals_for_this_thread;
use super::threads::{SMALL_STACK, start_thread};

/// A descriptor that becomes readable when the process has ended, and that no later process can inherit.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    if backend() == Backend::Portable {
        return Err(unsupported());
    }
    // SAFETY: no memory is involved; the kernel sets close-on-exec on it.
    let fd = check_size(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) as libc::ssize_t })?;
    // SAFETY: the call returned a new descriptor that belongs to nobody else.
    above_stdio(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Signals exactly the process behind `pidfd`.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed and means what kill(2) sends.
    check_size(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        ) as libc::ssize_t
    })
    .map(drop)
}

/// What becomes readable once the child `pid` has ended, and stays so. Nobody may reap it before.
///
/// A pidfd; where the system has none, or does not allow them, a pipe that a thread lets go of when
/// the child has ended.
pub(super) fn end_of_child(pid: Pid) -> io::Result<OwnedFd> {
    match pidfd_open(pid) {
        Err(error) if may_be_refused(&error) => {}
        opened => return opened,
    }
    let (reader, writer) = pipe()?;
    let id = libc::id_t::try_from(pid).map_err(io::Error::other)?;
    start_thread("exit", SMALL_STACK, move || {
        block_signals_for_this_thread();
        let options = libc::WEXITED | libc::WNOWAIT;
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: `info` is valid for writes, and nobody is reaped. What fails for another reason than
        // a signal would fail again: whoever waits then finds out by reaping.
        while unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), options) } != 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
        drop(writer);
    })?;
    Ok(reader)
}
