//! The settings of a terminal.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** decides which settings a terminal has.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::backend::{Backend, backend};
use super::error::check;

/// Input is UTF-8.
#[cfg(not(target_os = "freebsd"))]
pub(crate) use libc::IUTF8;
/// The same; versions that do not know it take no notice.
#[cfg(target_os = "freebsd")]
pub(crate) const IUTF8: libc::tcflag_t = 0x4000;
/// Large letters of the input become small ones.
#[cfg(target_os = "linux")]
pub(crate) use libc::IUCLC;
/// There is no such mode.
#[cfg(not(target_os = "linux"))]
pub(crate) const IUCLC: libc::tcflag_t = 0;

/// Whether what a program has written to a terminal can still be read once every slave side is closed. The
/// other systems throw it away at the last close, so where only what all systems have is used, no use is
/// made of this either.
pub(crate) fn terminal_keeps_output() -> bool {
    backend() != Backend::Portable
}

/// The path of the slave side of the PTY behind `master`, without a look at `/proc`.
#[cfg(target_os = "linux")]
pub(crate) fn name_of_slave(master: BorrowedFd<'_>) -> io::Result<CString> {
    let mut number: libc::c_uint = 0;
    // SAFETY: the call writes an integer.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN as _, &raw mut number) })?;
    CString::new(format!("/dev/pts/{number}")).map_err(io::Error::other)
}

/// There is no other way to its name here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn name_of_slave(_: BorrowedFd<'_>) -> io::Result<CString> {
    Err(io::Error::from_raw_os_error(libc::ENOTTY))
}

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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// It is the one that the C library tells.
    #[test]
    fn the_slave_has_its_name_without_proc() {
        let options = std::fs::File::options().read(true).write(true).open("/dev/ptmx");
        let master = options.unwrap();
        let mut name = [0; 64];
        // SAFETY: room for so many bytes, which the call ends with a NUL.
        let told = unsafe { libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr().cast(), name.len()) };
        assert_eq!(told, 0);
        let told = std::ffi::CStr::from_bytes_until_nul(&name).unwrap();
        assert_eq!(name_of_slave(master.as_fd()).unwrap().as_c_str(), told);
    }
}
