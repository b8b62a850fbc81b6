//! Pidfds: a process by a descriptor, which no later process can inherit.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing; descriptors come and go as [`OwnedFd`].
//! **Never:** replaces one that is refused; the caller has another way.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::Pid;
use super::descriptors::above_stdio;
use super::error::check_size;

/// A descriptor that becomes readable when the process has ended, and that no later process can inherit.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
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
