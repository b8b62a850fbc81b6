//! Descriptors: pipes, copies, reading and writing, limits.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing; descriptors come and go as [`OwnedFd`].
//! **Never:** opens one that a program could inherit by accident.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

#[cfg(not(target_vendor = "apple"))]
use super::error::may_be_refused;
#[cfg(feature = "cli")]
use super::error::named;
#[cfg(not(target_os = "linux"))]
use super::error::unsupported;
use super::error::{check, check_size};

/// A pipe, reading end first. Both ends are closed on exec and numbered above 2,
/// so that no child gets one by accident and none collides with what a child is given.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let without_flags = make_pipe(&mut ends)?;
    // SAFETY: the call succeeded, so both are open, and nothing else owns them.
    let (reader, writer) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    if without_flags {
        // A program that the embedding program starts at this moment may get a copy; ours do not,
        // because everything is closed for them.
        set_close_on_exec(&reader)?;
        set_close_on_exec(&writer)?;
    }
    Ok((above_stdio(reader)?, above_stdio(writer)?))
}

/// Whether they still have to be made ones that are closed on exec.
fn make_pipe(ends: &mut [RawFd; 2]) -> io::Result<bool> {
    #[cfg(not(target_vendor = "apple"))]
    // SAFETY: `ends` has room for the two descriptors that pipe2 writes.
    match check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }) {
        Err(error) if may_be_refused(&error) => pipe_without_flags(ends).map_err(|_| error)?,
        made => return made.map(|_| false),
    }
    #[cfg(target_vendor = "apple")]
    pipe_without_flags(ends)?;
    Ok(true)
}

/// The older call, where the machine has one. The C library may make the newer of it.
fn pipe_without_flags(ends: &mut [RawFd; 2]) -> io::Result<()> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: `ends` has room for the two descriptors.
    return check_size(unsafe { libc::syscall(libc::SYS_pipe, ends.as_mut_ptr()) as libc::ssize_t })
        .map(drop);
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    // SAFETY: as above.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) }).map(drop)
}

pub(crate) fn set_close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain fcntl on an open descriptor.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
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
    // SAFETY: plain fcntl on a descriptor we own; the result is checked before it is taken.
    let moved = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: fcntl returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

pub(super) fn open(path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `path` is a NUL-terminated string; no mode is needed without O_CREAT.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) })?;
    // SAFETY: open returned a new descriptor that nothing else owns.
    above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `/dev/null` for reading; where there is none, in an empty root, a pipe that has ended.
pub(crate) fn open_null() -> io::Result<OwnedFd> {
    match open(c"/dev/null", libc::O_RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => pipe().map(|(reader, _)| reader),
        opened => opened,
    }
}

/// Makes reads and writes on `fd` return `EAGAIN` instead of waiting.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain fcntl on an open descriptor.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Asks for a pipe that holds `bytes`; fails on what is not a pipe and where the user's share is used up.
pub(crate) fn set_pipe_size(fd: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    // SAFETY: plain fcntl on an open descriptor.
    return check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) }).map(drop);
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
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, and `bytes` is one.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut bytes) })?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// One read into `buffer`.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is valid for writes of its length.
    check_size(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// One read of at most `limit` bytes after what `buffer` holds, within its capacity.
pub(crate) fn read_behind(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    let room = spare.len().min(limit);
    // SAFETY: `spare` is valid for writes of its length, and `room` is no more than that.
    let n = check_size(unsafe { libc::read(fd.as_raw_fd(), spare.as_mut_ptr().cast(), room) })?;
    // SAFETY: the kernel has initialised `n` bytes after the length, within the capacity.
    unsafe { buffer.set_len(buffer.len() + n) };
    Ok(n)
}

/// One write of what `bytes` holds.
pub(crate) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is valid for reads of its length.
    check_size(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

pub(super) fn as_borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    use std::os::fd::AsFd;
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
    // SAFETY: plain fcntl on an open descriptor.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
}

#[cfg(feature = "cli")]
/// Lets this process have as many descriptors as it may; how many it could have before.
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = descriptor_limit()?;
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: an initialised struct.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(as_u64(before))
}

#[cfg(feature = "cli")]
/// Puts `/dev/null` where stdin and stdout were; nothing is written there any more.
pub(crate) fn let_go_of_stdio() -> io::Result<()> {
    let null = open_null()?;
    for fd in 0..=1 {
        // SAFETY: descriptors 0 and 1 are given up by this program from here on.
        check(unsafe { libc::dup2(null.as_raw_fd(), fd) })?;
    }
    Ok(())
}

#[cfg(feature = "cli")]
pub(crate) fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: takes any descriptor.
    unsafe { libc::isatty(fd.as_raw_fd()) == 1 }
}
