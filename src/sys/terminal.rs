//! The settings of a terminal.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** decides which settings a terminal has.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::error::check;

/// Input is UTF-8; nothing where the system does not know that mode.
pub(crate) const IUTF8: libc::tcflag_t = {
    #[cfg(not(target_os = "freebsd"))]
    {
        libc::IUTF8
    }
    #[cfg(target_os = "freebsd")]
    {
        0
    }
};
/// Large letters of the input become small ones; nothing where the system does not know that mode.
pub(crate) const IUCLC: libc::tcflag_t = {
    #[cfg(target_os = "linux")]
    {
        libc::IUCLC
    }
    #[cfg(not(target_os = "linux"))]
    {
        0
    }
};
/// What a program has written to a terminal can still be read once every slave side is closed. Elsewhere the
/// last close throws it away.
pub(crate) const TERMINAL_KEEPS_OUTPUT: bool = cfg!(target_os = "linux");

/// The settings of the terminal behind `fd`, which may be either side of a PTY.
pub(crate) fn terminal_settings(fd: BorrowedFd<'_>) -> io::Result<libc::termios> {
    let mut termios = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: `termios` has room for the result.
    check(unsafe { libc::tcgetattr(fd.as_raw_fd(), termios.as_mut_ptr()) })?;
    // SAFETY: tcgetattr succeeded and filled it.
    Ok(unsafe { termios.assume_init() })
}

/// Gives the terminal behind `fd` these settings at once.
pub(crate) fn set_terminal_settings(fd: BorrowedFd<'_>, settings: &libc::termios) -> io::Result<()> {
    // SAFETY: `settings` is initialised and only read.
    check(unsafe { libc::tcsetattr(fd.as_raw_fd(), libc::TCSANOW, settings) }).map(drop)
}
