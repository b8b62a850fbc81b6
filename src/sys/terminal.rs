//! The settings of a terminal.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** decides which settings a terminal has.

use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::termios::{InputModes, OptionalActions, Termios};

use super::backend::{Backend, backend};

/// Input is UTF-8.
#[cfg(not(target_os = "freebsd"))]
pub(crate) const IUTF8: InputModes = InputModes::IUTF8;
/// The same; versions that do not know it take no notice.
#[cfg(target_os = "freebsd")]
pub(crate) const IUTF8: InputModes = InputModes::from_bits_retain(0x4000);
/// Large letters of the input become small ones.
#[cfg(target_os = "linux")]
pub(crate) const IUCLC: InputModes = InputModes::IUCLC;
/// There is no such mode.
#[cfg(not(target_os = "linux"))]
pub(crate) const IUCLC: InputModes = InputModes::empty();

/// Whether what a program has written to a terminal can still be read once every slave side is closed. The
/// other systems throw it away at the last close, so where only what all systems have is used, no use is
/// made of this either.
pub(crate) fn terminal_keeps_output() -> bool {
    backend() != Backend::Portable
}

/// The path of the slave side of the PTY behind `master`, without a look at `/proc`.
#[cfg(target_os = "linux")]
pub(crate) fn name_of_slave(master: BorrowedFd<'_>) -> io::Result<CString> {
    Ok(rustix::pty::ptsname(master, Vec::new())?)
}

/// There is no other way to its name here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn name_of_slave(_: BorrowedFd<'_>) -> io::Result<CString> {
    Err(io::Error::from_raw_os_error(libc::ENOTTY))
}

/// The settings of the terminal behind `fd`, which may be either side of a PTY.
pub(crate) fn terminal_settings(fd: BorrowedFd<'_>) -> io::Result<Termios> {
    Ok(rustix::termios::tcgetattr(fd)?)
}

/// Gives the terminal behind `fd` these settings at once.
pub(crate) fn set_terminal_settings(fd: BorrowedFd<'_>, settings: &Termios) -> io::Result<()> {
    Ok(rustix::termios::tcsetattr(fd, OptionalActions::Now, settings)?)
}
