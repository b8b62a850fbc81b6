//! Descriptors: pipes, copies, reading and writing, limits.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing; descriptors come and go as [`OwnedFd`].
//! **Never:** opens one that a program could inherit by accident.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;

use super::error::check;
#[cfg(not(target_vendor = "apple"))]
use super::error::may_be_refused;
#[cfg(feature = "cli")]
use super::error::named;
#[cfg(not(target_os = "linux"))]
use super::error::unsupported;

/// A pipe, reading end first. Both ends are closed on exec and numbered above 2,
/// so that no child gets one by accident and none collides with what a child is given.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = make_pipe()?;
    Ok((above_stdio(reader)?, above_stdio(writer)?))
}

#[cfg(not(target_vendor = "apple"))]
fn make_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    match rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from) {
        Err(error) if may_be_refused(&error) => pipe_without_flags().map_err(|_| error),
        made => made,
    }
}

#[cfg(target_vendor = "apple")]
fn make_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    pipe_without_flags()
}

/// By the older call, where the machine has one.
fn pipe_without_flags() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe()?;
    // A program that the embedding program starts at this moment may get a copy; ours do not, because
    // everything is closed for them.
    set_close_on_exec(&reader)?;
    set_close_on_exec(&writer)?;
    Ok((reader, writer))
}

pub(crate) fn set_close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?)
}

/// Fails where nothing can be closed. No wait ends there: the C library may wait for ever for
/// the end of a pipe whose other end it cannot close.
#[cfg(feature = "cli")]
pub(crate) fn can_close() -> io::Result<()> {
    // SAFETY: there is no such descriptor.
    match check(unsafe { libc::close(-1) }) {
        Err(error) if error.raw_os_error() != Some(libc::EBADF) => Err(named("close")(error)),
        _ => Ok(()),
    }
}

/// The same open file under a number above 2.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

pub(super) fn open(path: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    above_stdio(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// `/dev/null` for reading; where there is none, in an empty root, a pipe that has ended.
pub(crate) fn open_null() -> io::Result<OwnedFd> {
    match open(c"/dev/null", OFlags::RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => pipe().map(|(reader, _)| reader),
        opened => opened,
    }
}

/// Makes reads and writes on `fd` return `EAGAIN` instead of waiting.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// Asks for a pipe that holds `bytes`; fails on what is not a pipe and where the user's share is used up.
pub(crate) fn set_pipe_size(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::pipe::fcntl_setpipe_size(fd, bytes).map(drop)?);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (fd, bytes);
        Err(unsupported())
    }
}

/// Whether so many descriptors can be opened now.
pub(crate) fn descriptors_are_left(count: usize) -> bool {
    let opened: io::Result<Vec<OwnedFd>> = (0..count).map(|_| open_null()).collect();
    opened.is_ok()
}

/// Bytes that can be read from a pipe or terminal now.
pub(crate) fn readable_bytes(fd: &OwnedFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(fd)?)
}

/// One read into `buffer`.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(fd, buffer)?)
}

/// One read of at most `limit` bytes after what `buffer` holds, within its capacity.
pub(crate) fn read_behind(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    let room = spare.len().min(limit);
    let n = rustix::io::read(fd, &mut spare[..room])?.0.len();
    // SAFETY: the `n` bytes after the length have been read, within the capacity.
    unsafe { buffer.set_len(buffer.len() + n) };
    Ok(n)
}

/// One write of what `bytes` holds.
pub(crate) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(fd, bytes)?)
}

pub(super) fn as_borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    fd.as_fd()
}

pub(super) fn descriptor_limit() -> io::Result<libc::rlimit> {
    limit_of(libc::RLIMIT_NOFILE as _)
}

/// A limit, whose width and sign differ between systems.
#[allow(clippy::unnecessary_cast)]
pub(super) fn as_u64(limit: libc::rlim_t) -> u64 {
    limit as u64
}

/// `soft`, and no more than `hard`.
#[allow(clippy::unnecessary_cast)]
pub(super) fn at_most(soft: u64, hard: libc::rlim_t) -> libc::rlim_t {
    as_u64(hard).min(soft) as libc::rlim_t
}

pub(super) fn limit_of(resource: libc::c_int) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` has room for the result.
    check(unsafe { libc::getrlimit(resource as _, &mut limit) })?;
    Ok(limit)
}

#[cfg(feature = "cli")]
pub(crate) fn set_inheritable(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, FdFlags::empty())?)
}

#[cfg(feature = "cli")]
/// Lets this process have as many descriptors as it may; how many it could have before.
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = descriptor_limit()?;
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    #[cfg(target_os = "macos")]
    {
        limit.rlim_cur = before.max(limit.rlim_max.min(super::macos::MAX_DESCRIPTORS));
    }
    // SAFETY: an initialised struct.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(as_u64(before))
}

#[cfg(feature = "cli")]
/// Puts `/dev/null` where stdin and stdout were; nothing is written there any more.
pub(crate) fn let_go_of_stdio() -> io::Result<()> {
    let null = open_null()?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(rustix::stdio::dup2_stdout(&null)?)
}
