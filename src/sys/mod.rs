//! The system calls, and nearly every `unsafe` of the crate: the few others wrap a descriptor by its number.
//!
//! **Thread:** the caller's; and `exit`, which waits for a child where pidfds are refused.
//! **Owns:** what the system has been found to lack, and the memory that the binary keeps in reserve;
//! descriptors come and go as [`OwnedFd`].
//! **Never:** decides more than how a call is done: where one is refused another is tried, and what to
//! do about an error is for the caller.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::AssertUnwindSafe;
use std::process::Child;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) mod inspect;

/// A process id.
pub(crate) type Pid = libc::pid_t;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether the system does not have a call, or a sandbox does not allow it, whatever its arguments:
/// only then another way of doing the same is taken.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS))
}

/// [`is_refused`], and also where a sandbox answers with an error that it chose itself. Only for calls
/// that the kernel answers so to nothing that is asked here, or where to ask in another way is harmless.
pub(crate) fn may_be_refused(error: &io::Error) -> bool {
    is_refused(error)
        || matches!(
            error.raw_os_error(),
            Some(libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP)
        )
}

/// An error that says which call it is of. It no longer has its number.
pub(crate) fn named(call: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{call}: {error}"))
}

// ---- descriptors ----

/// A pipe, reading end first. Both ends are closed on exec and numbered above 2,
/// so that no child gets one by accident and none collides with what a child is given.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors that pipe2 writes.
    let made = check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) });
    let without_flags = match made {
        Err(error) if may_be_refused(&error) => {
            pipe_without_flags(&mut ends).map_err(|_| error)?;
            true
        }
        made => made.map(|_| false)?,
    };
    // SAFETY: the call succeeded, so both are open and belong to nobody else.
    let (reader, writer) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    if without_flags {
        // A program that the embedding program starts at this moment may get a copy; ours do not,
        // because everything is closed for them.
        set_close_on_exec(&reader)?;
        set_close_on_exec(&writer)?;
    }
    Ok((above_stdio(reader)?, above_stdio(writer)?))
}

/// The older call, where the machine has one. The C library may make the newer of it.
fn pipe_without_flags(ends: &mut [RawFd; 2]) -> io::Result<()> {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `ends` has room for the two descriptors.
    return check_size(unsafe { libc::syscall(libc::SYS_pipe, ends.as_mut_ptr()) as libc::ssize_t })
        .map(drop);
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: as above.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) }).map(drop)
}

pub(crate) fn set_close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain fcntl on an open descriptor.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// The same open file under a number above 2.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: plain fcntl on a descriptor we own; the result is checked before it is taken.
    let moved = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: fcntl returned a new descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

fn open(path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `path` is a NUL-terminated string; no mode is needed without O_CREAT.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) })?;
    // SAFETY: open returned a new descriptor that belongs to nobody else.
    above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `/dev/null` for reading; where there is none, in an empty root, a pipe that has ended.
pub(crate) fn open_null() -> io::Result<OwnedFd> {
    match open(c"/dev/null", libc::O_RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => pipe().map(|(reader, _)| reader),
        opened => opened,
    }
}

/// A program's file for reading, `path` relative to `directory`.
pub(crate) fn open_program(directory: Option<&OwnedFd>, path: &CStr) -> io::Result<OwnedFd> {
    let at = directory.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: `path` is a NUL-terminated string; no mode is needed without O_CREAT.
    let fd = check(unsafe { libc::openat(at, path.as_ptr(), flags) })?;
    // SAFETY: openat returned a new descriptor that belongs to nobody else.
    above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A directory that can be entered.
pub(crate) fn open_directory(path: &CStr) -> io::Result<OwnedFd> {
    let directory = open(path, libc::O_PATH | libc::O_DIRECTORY)?;
    // O_PATH asks for no permission on the directory itself, and fchdir does; ask now, while the
    // error can still be told apart from the program's own.
    can_access(Some(&directory), c".", libc::X_OK)?;
    Ok(directory)
}

/// Whether `path`, relative to `directory`, is a file that may be executed. Where the system does not
/// tell, the attempt to execute it will.
pub(crate) fn check_executable(directory: Option<&OwnedFd>, path: &CStr) -> io::Result<()> {
    match status_of(directory, path) {
        Ok(status) if status.st_mode & libc::S_IFMT != libc::S_IFREG => {
            Err(io::Error::from_raw_os_error(libc::EACCES))
        }
        Ok(_) => can_access(directory, path, libc::X_OK),
        Err(error) if is_refused(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn status_of(directory: Option<&OwnedFd>, path: &CStr) -> io::Result<libc::stat> {
    let at = directory.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `path` is NUL-terminated and `status` has room for the result.
    check(unsafe { libc::fstatat(at, path.as_ptr(), status.as_mut_ptr(), 0) })?;
    // SAFETY: fstatat succeeded and filled it.
    Ok(unsafe { status.assume_init() })
}

/// Whether this process, with its effective ids, may execute `path`, or enter it.
fn can_access(directory: Option<&OwnedFd>, path: &CStr, mode: libc::c_int) -> io::Result<()> {
    let at = directory.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    // SAFETY: `path` is a NUL-terminated string.
    let asked = check(unsafe { libc::faccessat(at, path.as_ptr(), mode, libc::AT_EACCESS) }).map(drop);
    let refused = match asked {
        Err(error) if may_be_refused(&error) => error,
        asked => return asked,
    };
    // SAFETY: these cannot fail.
    let ids_are_one = unsafe { libc::getuid() == libc::geteuid() && libc::getgid() == libc::getegid() };
    if ids_are_one {
        // The call without flags is older, and asks by the real ids.
        // SAFETY: `path` is a NUL-terminated string.
        let asked = check_size(
            unsafe { libc::syscall(libc::SYS_faccessat, at, path.as_ptr(), mode) } as libc::ssize_t,
        );
        match asked {
            Err(error) if is_refused(&error) => {}
            asked => return asked.map(drop),
        }
    }
    match status_of(directory, path) {
        Ok(status) if may_execute(&status) => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EACCES)),
        // What comes next, the exec or the change of directory, asks again.
        Err(error) if is_refused(&error) => {
            log::debug!("faccessat2: {refused}");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// What the permission bits say to the effective ids of this process.
fn may_execute(status: &libc::stat) -> bool {
    // SAFETY: these cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let in_group = || {
        let mut groups = vec![0; 65_536];
        // SAFETY: the count is the room there is.
        let n = unsafe { libc::getgroups(65_536, groups.as_mut_ptr()) };
        groups.truncate(usize::try_from(n).unwrap_or(0));
        group == status.st_gid || groups.contains(&status.st_gid)
    };
    let directory = status.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let bits = match user {
        0 if directory => return true,
        0 => libc::S_IXUSR | libc::S_IXGRP | libc::S_IXOTH,
        _ if user == status.st_uid => libc::S_IXUSR,
        _ if in_group() => libc::S_IXGRP,
        _ => libc::S_IXOTH,
    };
    status.st_mode & bits != 0
}

/// Makes reads and writes on `fd` return `EAGAIN` instead of waiting.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain fcntl on an open descriptor.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Asks for a pipe that holds `bytes`; fails on what is no pipe and where the user's share is used up.
pub(crate) fn set_pipe_size(fd: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: plain fcntl on an open descriptor.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) }).map(drop)
}

/// Gives the calling thread a table of descriptors of its own, in which there is nothing above 2.
pub(crate) fn leave_table_of_descriptors() -> io::Result<()> {
    // SAFETY: closes only what this thread has got a copy of.
    let left = check_size(unsafe { close_range(3, libc::CLOSE_RANGE_UNSHARE) });
    match left {
        Err(error) if may_be_refused(&error) => {
            // SAFETY: no memory is involved.
            check(unsafe { libc::unshare(libc::CLONE_FILES) })?;
            close_all_above(2);
            Ok(())
        }
        left => left.map(drop),
    }
}

/// Closes `first` and all above it.
///
/// # Safety
///
/// Nobody relies on what is closed.
unsafe fn close_range(first: libc::c_uint, flags: libc::c_uint) -> libc::ssize_t {
    // SAFETY: no memory is involved; the rest is the caller's. Not every C library has a function for it.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) as libc::ssize_t }
}

/// As far as numbers are closed one by one where nothing tells which are open.
const LAST_CLOSED: RawFd = 65_535;

/// Closes every descriptor above `last` in a table that nobody else uses: those that `/proc` lists, or
/// else as many numbers as there may be. Makes system calls and nothing else, for a child that
/// shares our memory.
fn close_all_above(last: RawFd) {
    // SAFETY: a NUL-terminated string.
    let list = unsafe {
        libc::open(
            c"/proc/self/fd".as_ptr(),
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    };
    let listed = list >= 0 && close_listed_above(last, list);
    if list > last {
        // SAFETY: opened here.
        unsafe { libc::close(list) };
    }
    if listed {
        return;
    }
    let limit = descriptor_limit().map_or(LAST_CLOSED, |limit| {
        RawFd::try_from(limit.rlim_cur)
            .unwrap_or(LAST_CLOSED)
            .min(LAST_CLOSED)
    });
    for fd in last.saturating_add(1)..=limit {
        // SAFETY: the table is ours alone, and a number that is not open is refused.
        unsafe { libc::close(fd) };
    }
}

/// Closes what the directory `list` names above `last`, but for itself; whether it could be read.
fn close_listed_above(last: RawFd, list: RawFd) -> bool {
    // Each entry: inode, offset, its own length, type, then its name, which ends in NUL.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut entries = [0u64; 128];
    loop {
        let room = size_of_val(&entries);
        // SAFETY: valid for writes of that many bytes.
        let n = unsafe { libc::syscall(libc::SYS_getdents64, list, entries.as_mut_ptr(), room) };
        let Ok(n) = usize::try_from(n) else { return false };
        if n == 0 {
            return true;
        }
        // SAFETY: an array of integers is as many bytes, of which the kernel has written `n`.
        let bytes = unsafe { std::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), n.min(room)) };
        let mut rest = bytes;
        while let (Some(&[low, high]), Some(name)) = (rest.get(LENGTH..LENGTH + 2), rest.get(NAME..)) {
            let digits = name.iter().take_while(|byte| byte.is_ascii_digit());
            let number = digits.fold(0, |number: RawFd, digit| {
                number.wrapping_mul(10).wrapping_add(RawFd::from(digit - b'0'))
            });
            // `.` and `..` come out as 0.
            if number > last && number != list {
                // SAFETY: the table is ours alone.
                unsafe { libc::close(number) };
            }
            let length = usize::from(u16::from_ne_bytes([low, high]));
            rest = match rest.get(length..) {
                Some(rest) if length > 0 => rest,
                _ => break,
            };
        }
    }
}

/// Whether the system tells the limits of a process, and so keeps them.
pub(crate) fn limits_are_kept() -> bool {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: there is room for the one result.
    check(unsafe { libc::getrlimit(libc::RLIMIT_CORE, limit.as_mut_ptr()) }).is_ok()
}

/// Bytes that can be read from a pipe or terminal now.
pub(crate) fn readable_bytes(fd: &OwnedFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, and `bytes` is one.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut bytes) })?;
    Ok(u64::try_from(bytes).unwrap_or(0))
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

/// One read into `buffer`.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is valid for writes of its length.
    check_size(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// One read of at most `limit` bytes behind what `buffer` holds, within its capacity.
pub(crate) fn read_behind(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    let room = spare.len().min(limit);
    // SAFETY: `spare` is valid for writes of its length, and `room` is no more than that.
    let n = check_size(unsafe { libc::read(fd.as_raw_fd(), spare.as_mut_ptr().cast(), room) })?;
    // SAFETY: the kernel has initialised `n` bytes behind the length, within the capacity.
    unsafe { buffer.set_len(buffer.len() + n) };
    Ok(n)
}

/// One write of what `bytes` holds.
pub(crate) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is valid for reads of its length.
    check_size(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

// ---- waiting ----

/// One descriptor to wait for.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Interest(libc::pollfd);

impl Interest {
    /// Waits for nothing; keeps a place.
    pub(crate) const NONE: Interest = Interest(libc::pollfd {
        fd: -1,
        events: 0,
        revents: 0,
    });

    /// Waits until `fd` can be read, has ended, or has failed.
    pub(crate) fn read(fd: RawFd) -> Self {
        Self::new(fd, libc::POLLIN)
    }

    /// Waits until `fd` can be written or has failed.
    pub(crate) fn write(fd: RawFd) -> Self {
        Self::new(fd, libc::POLLOUT)
    }

    /// Waits until the other end of `fd` is gone.
    pub(crate) fn hangup(fd: RawFd) -> Self {
        Self::new(fd, 0)
    }

    /// Waits until the other end of `fd` writes no more or is gone: of a socket, that can be half of it.
    #[cfg(feature = "cli")]
    pub(crate) fn other_end(fd: RawFd) -> Self {
        Self::new(fd, libc::POLLRDHUP)
    }

    fn new(fd: RawFd, events: libc::c_short) -> Self {
        Interest(libc::pollfd {
            fd,
            events,
            revents: 0,
        })
    }

    /// Reading would not wait: data, the end, or an error.
    pub(crate) fn readable(self) -> bool {
        self.0.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// Writing would not wait: room, or an error.
    pub(crate) fn writable(self) -> bool {
        self.0.revents & (libc::POLLOUT | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// The other end is gone.
    pub(crate) fn hung_up(self) -> bool {
        self.0.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }
}

/// Waits until one of `interests` is ready, `timeout` has passed, or a signal came. Never fails with `EINTR`.
pub(crate) fn poll(interests: &mut [Interest], timeout: Option<Duration>) -> io::Result<()> {
    let exact = timeout.map(|t| libc::timespec {
        // Nobody waits for decades, and the type has 32 bits here and there.
        tv_sec: t.as_secs().min(i32::MAX.unsigned_abs().into()) as _,
        tv_nsec: t.subsec_nanos() as _,
    });
    let exact = exact.as_ref().map_or(ptr::null(), ptr::from_ref);
    let (first, count) = (interests.as_mut_ptr().cast(), interests.len() as libc::nfds_t);
    // SAFETY: Interest is a transparent pollfd, the length is the slice's, and `exact` is null or lives here.
    let polled = check(unsafe { libc::ppoll(first, count, exact, ptr::null()) });
    let polled = match polled {
        Err(error) if may_be_refused(&error) => {
            // Whole milliseconds, and never less than was asked for.
            let whole = timeout.map_or(-1, |t| {
                libc::c_int::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
            });
            // SAFETY: as above.
            check(unsafe { libc::poll(first, count, whole) })
        }
        polled => polled,
    };
    match polled {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            for interest in interests {
                interest.0.revents = 0;
            }
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Waits until `fd` can be read, but not past `deadline`; whether it can.
pub(crate) fn readable_by(fd: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut interest = [Interest::read(fd.as_raw_fd())];
        poll(&mut interest, Some(left))?;
        if interest[0].readable() || left.is_zero() {
            return Ok(interest[0].readable());
        }
    }
}

/// Waits until a child that nobody has waited for has ended, but not past `deadline`; whether it has.
pub(crate) fn ends_by(child: &Child, deadline: Instant) -> io::Result<bool> {
    let pid = Pid::try_from(child.id()).map_err(io::Error::other)?;
    readable_by(&end_of_child(pid)?, deadline)
}

/// What becomes readable once the child `pid` has ended, and stays so. Nobody may reap it before.
///
/// A pidfd; where the system has none, or does not allow them, a pipe that a thread lets go of when
/// the child has ended.
fn end_of_child(pid: Pid) -> io::Result<OwnedFd> {
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

/// Whether the other end of `fd` is gone.
pub(crate) fn is_hung_up(fd: &OwnedFd) -> bool {
    let mut interest = [Interest::hangup(fd.as_raw_fd())];
    poll(&mut interest, Some(Duration::ZERO)).is_ok() && interest[0].hung_up()
}

/// An event counter: something another thread sets to end a `poll`. Where the system refuses those,
/// a pipe.
#[derive(Debug)]
pub(crate) struct EventFd {
    fd: OwnedFd,
    /// The other end, if it is a pipe.
    writer: Option<OwnedFd>,
}

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a plain call; the result is checked before it is taken.
        let fd = match check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }) {
            Err(error) if may_be_refused(&error) => {
                let (fd, writer) = pipe()?;
                set_nonblocking(&fd)?;
                set_nonblocking(&writer)?;
                return Ok(EventFd {
                    fd,
                    writer: Some(writer),
                });
            }
            fd => fd?,
        };
        // SAFETY: eventfd returned a new descriptor that belongs to nobody else.
        let fd = above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })?;
        Ok(EventFd { fd, writer: None })
    }

    /// Ends the `poll` that waits for it, or the next one.
    pub(crate) fn set(&self) {
        // The only way to fail is a counter or a pipe that is full, and then it is set.
        let _ = write(
            as_borrowed(self.writer.as_ref().unwrap_or(&self.fd)),
            &1u64.to_ne_bytes(),
        );
    }

    /// Makes the next `poll` wait again.
    pub(crate) fn clear(&self) {
        let mut count = [0; 8];
        // One read empties a counter.
        while read(as_borrowed(&self.fd), &mut count).is_ok() && self.writer.is_some() {}
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn as_borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    use std::os::fd::AsFd;
    fd.as_fd()
}

// ---- signals ----

/// Blocks every signal for the calling thread, so that none of its calls is interrupted and a write
/// to a closed pipe is an error and no death, whatever the embedding program does with SIGPIPE.
pub(crate) fn block_signals_for_this_thread() {
    // SAFETY: the set is filled before it is used, and only this thread's mask changes.
    unsafe {
        let mut all = MaybeUninit::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut());
    }
}

/// Whether this program has told the kernel to throw away how its children ended.
pub(crate) fn children_are_reaped_by_the_kernel() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the present action only; `action` has room for it.
    unsafe {
        if libc::sigaction(libc::SIGCHLD, ptr::null(), action.as_mut_ptr()) != 0 {
            return false;
        }
        let action = action.assume_init();
        action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
    }
}

/// Signals one process.
pub(crate) fn kill(pid: Pid, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Signals every member of the group `pgid`; with signal 0, asks whether there is one.
pub(crate) fn kill_group(pgid: Pid, signal: libc::c_int) -> io::Result<()> {
    debug_assert!(pgid > 1, "-1 and 0 mean something else");
    kill(-pgid, signal)
}

/// The process group and the session of a process, of whatever user; `None` if there is none.
pub(crate) fn group_and_session(pid: Pid) -> Option<(Pid, Pid)> {
    // SAFETY: no memory is involved.
    let (group, session) = unsafe { (libc::getpgid(pid), libc::getsid(pid)) };
    (group >= 0 && session >= 0).then_some((group, session))
}

/// Whether `pid` is a child of the calling thread that has not been reaped. Asks the kernel itself, so
/// it works without `/proc`. No other thread can reap such a child, so its pid means it until we do.
pub(crate) fn is_child(pid: Pid) -> bool {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WNOTHREAD;
    // SAFETY: `info` is valid for writes, and nobody is reaped.
    unsafe { libc::waitid(libc::P_PID, pid.unsigned_abs(), info.as_mut_ptr(), options) == 0 }
}

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

// ---- threads ----

/// The stack of a thread of which there are few: what the standard library gives one.
pub(crate) const STACK: usize = 2 * 1024 * 1024;
/// A stack for a thread that makes a system call or two.
const SMALL_STACK: usize = 64 * 1024;

/// A thread of ours. Dropped, it goes on by itself.
///
/// Not one of the standard library's: those map a stack for signals when they begin, and panic where
/// there is no memory for it. Of these, whatever is refused is an error of the start.
pub(crate) struct Thread<T>(Arc<Outcome<T>>);

/// What a thread leaves.
struct Outcome<T> {
    value: Mutex<Option<std::thread::Result<T>>>,
    left: Condvar,
}

/// What the thread has; boxed once more, because a pointer to it has to fit into one word.
type Body = Box<dyn FnOnce() + Send>;

/// Starts a thread with a stack of so many bytes.
///
/// # Errors
///
/// Those of `pthread_create`, and `ENOMEM` where it would take the memory that is kept for what
/// cannot do without.
pub(crate) fn start_thread<T: Send + 'static>(
    name: &str,
    stack: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    // SAFETY: what it borrows lives for ever.
    unsafe { start_borrowing_thread(name, stack, body) }
}

/// Runs `body` on a thread of its own, and waits for it; the outer error is that of the start, the
/// inner one a panic.
pub(crate) fn on_thread<T: Send>(
    name: &str,
    stack: usize,
    body: impl FnOnce() -> T + Send,
) -> io::Result<std::thread::Result<T>> {
    // SAFETY: it is joined before anything it borrows can end.
    unsafe { start_borrowing_thread(name, stack, body) }.map(Thread::join)
}

/// # Safety
///
/// What `body` borrows, and what it returns, lives until the thread has ended.
unsafe fn start_borrowing_thread<'a, T: Send + 'a>(
    name: &str,
    stack: usize,
    body: impl FnOnce() -> T + Send + 'a,
) -> io::Result<Thread<T>> {
    spare_memory()?;
    // The kernel keeps fifteen bytes of it.
    let name = CString::new(&name[..name.len().min(15)])?;
    let outcome = Arc::new(Outcome {
        value: Mutex::new(None),
        left: Condvar::new(),
    });
    let its_outcome = Arc::clone(&outcome);
    let body: Box<dyn FnOnce() + Send + 'a> = Box::new(move || {
        // SAFETY: the calling thread's own name, a NUL-terminated string.
        unsafe { libc::pthread_setname_np(libc::pthread_self(), name.as_ptr()) };
        let result = std::panic::catch_unwind(AssertUnwindSafe(body));
        *its_outcome.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        its_outcome.left.notify_all();
    });
    // SAFETY: only the lifetime changes, for which the caller answers.
    let body: Body = unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + 'a>, Body>(body) };
    let body: *mut Body = Box::into_raw(Box::new(body));
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut id = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: the attributes are made before they are used and destroyed once; `run_thread` takes the
    // body over if it is called, which it is exactly if the call succeeds.
    let error = unsafe {
        let mut error = libc::pthread_attr_init(attributes.as_mut_ptr());
        if error == 0 {
            libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
            error =
                libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack.max(libc::PTHREAD_STACK_MIN));
            if error == 0 {
                error = libc::pthread_create(id.as_mut_ptr(), attributes.as_ptr(), run_thread, body.cast());
            }
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
        }
        error
    };
    if error != 0 {
        // SAFETY: from `into_raw` above, and nobody has taken it.
        drop(unsafe { Box::from_raw(body) });
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok(Thread(outcome))
}

extern "C" fn run_thread(body: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `start_borrowing_thread` has made it for this call alone.
    let body = unsafe { Box::from_raw(body.cast::<Body>()) };
    // It catches its panics. What the end of the thread's own values does may not unwind from here.
    body();
    ptr::null_mut()
}

impl<T> Thread<T> {
    /// Waits until it has done its work; an error is a panic. What the system still does to end it is
    /// not waited for, which may be refused.
    pub(crate) fn join(self) -> std::thread::Result<T> {
        let mut value = self.0.value.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match value.take() {
                Some(outcome) => return outcome,
                None => value = self.0.left.wait(value).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(not(feature = "cli"))]
fn spare_memory() -> io::Result<()> {
    Ok(())
}

// ---- the end of a child ----

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) core_dumped: bool,
}

impl Status {
    /// From what the wait functions give.
    fn new(status: libc::c_int) -> Self {
        let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
        Status {
            code: match signal {
                Some(n) => 128 + n,
                None => libc::WEXITSTATUS(status),
            },
            signal,
            core_dumped: signal.is_some() && libc::WCOREDUMP(status),
        }
    }
}

/// Reaps a child of ours, blocking until it has ended: for one that has not executed a program, or was
/// killed.
pub(crate) fn reap(pid: Pid) -> io::Result<Status> {
    wait(pid, 0).map(|(_, status, _)| status)
}

/// What a child has used, with those of its children that it has waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    pub(crate) max_rss_bytes: u64,
}

/// Reaps a child of ours; `None` while it lives, or while a tracer holds it, which gets the end of a
/// process before its parent does.
pub(crate) fn try_reap(pid: Pid) -> io::Result<Option<(Status, Usage)>> {
    let (reaped, status, usage) = wait(pid, libc::WNOHANG)?;
    if reaped == 0 {
        return Ok(None);
    }
    Ok(Some((
        status,
        Usage {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        },
    )))
}

/// `wait4`; with `WNOHANG`, the pid is 0 if nobody has ended. Never fails with `EINTR`.
fn wait(pid: Pid, options: libc::c_int) -> io::Result<(Pid, Status, libc::rusage)> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are valid for writes.
        let waited = check(unsafe { libc::wait4(pid, &mut status, options, usage.as_mut_ptr()) });
        let (pid, status) = match waited {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if may_be_refused(&error) => {
                wait_by_id(pid, options, &mut usage).map_err(|_| error)?
            }
            waited => (waited?, Status::new(status)),
        };
        // SAFETY: zeroed, which is valid, and maybe filled.
        return Ok((pid, status, unsafe { usage.assume_init() }));
    }
}

/// The same by `waitid`, whose system call tells the usage as well.
fn wait_by_id(
    pid: Pid,
    options: libc::c_int,
    usage: &mut MaybeUninit<libc::rusage>,
) -> io::Result<(Pid, Status)> {
    let (kind, id) = match libc::id_t::try_from(pid) {
        Ok(id) => (libc::P_PID, id),
        Err(_) => (libc::P_ALL, 0),
    };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = options | libc::WEXITED;
    // SAFETY: both pointers are valid for writes.
    check_size(unsafe {
        libc::syscall(
            libc::SYS_waitid,
            kind,
            id,
            info.as_mut_ptr(),
            options,
            usage.as_mut_ptr(),
        ) as libc::ssize_t
    })?;
    // SAFETY: zeroed, which is valid, and filled as for SIGCHLD if it was filled.
    let (code, pid, status) = unsafe {
        let info = info.assume_init();
        (info.si_code, info.si_pid(), info.si_status())
    };
    let signal = matches!(code, libc::CLD_KILLED | libc::CLD_DUMPED).then_some(status);
    let status = Status {
        code: signal.map_or(status, |signal| 128 + signal),
        signal,
        core_dumped: code == libc::CLD_DUMPED,
    };
    Ok((pid, status))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
        + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

macro_rules! names {
    ($($name:ident)*) => {
        [$((libc::$name, stringify!($name))),*]
    };
}

/// The symbolic name of an error number, such as `"ENOENT"`. Not every C library has them.
pub(crate) fn errno_name(errno: i32) -> String {
    let names = names! {
        EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
        ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
        ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP
        ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL
        ENOANO EBADRQC EBADSLT EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV
        ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD
        ELIBSCN ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE
        EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT
        EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN
        ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY
        EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE
        ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL
        EHWPOISON
    };
    let name = names.into_iter().find(|(number, _)| *number == errno);
    name.map_or_else(|| format!("E{errno}"), |(_, name)| name.to_owned())
}

// ---- what is process-wide, for the binary's guard only ----

#[cfg(feature = "cli")]
pub use process_wide::Allocator;
#[cfg(feature = "cli")]
pub(crate) use process_wide::*;

#[cfg(feature = "cli")]
mod process_wide {
    use super::*;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{
        AtomicPtr,
        Ordering::{AcqRel, Acquire},
    };

    /// What is put by for what cannot do without memory: answers, kills, the end of a connection.
    const RESERVE: usize = 4 * 1024 * 1024;
    /// Where it is; null while it is used up, or not wanted.
    static RESERVED: AtomicPtr<libc::c_void> = AtomicPtr::new(ptr::null_mut());
    static RESERVE_WANTED: AtomicBool = AtomicBool::new(false);

    /// The allocator of the system, which is given the reserve when it has no more memory to give.
    #[derive(Debug)]
    pub struct Allocator;

    // SAFETY: all is passed on to the allocator of the system as it came.
    unsafe impl GlobalAlloc for Allocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's.
            let memory = unsafe { System.alloc(layout) };
            match memory.is_null() && give_reserve() {
                // SAFETY: the caller's.
                true => unsafe { System.alloc(layout) },
                false => memory,
            }
        }
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's.
            let memory = unsafe { System.alloc_zeroed(layout) };
            match memory.is_null() && give_reserve() {
                // SAFETY: the caller's.
                true => unsafe { System.alloc_zeroed(layout) },
                false => memory,
            }
        }
        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: the caller's.
            let grown = unsafe { System.realloc(memory, layout, size) };
            match grown.is_null() && give_reserve() {
                // SAFETY: the caller's; a block that could not be grown is as it was.
                true => unsafe { System.realloc(memory, layout, size) },
                false => grown,
            }
        }
        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            // SAFETY: the caller's.
            unsafe { System.dealloc(memory, layout) };
        }
    }

    /// Whether it is worth trying again: the reserve is the system's, given by us or another thread.
    fn give_reserve() -> bool {
        let reserve = RESERVED.swap(ptr::null_mut(), AcqRel);
        if !reserve.is_null() {
            // SAFETY: mapped by `map_reserve`, of that size, and used by nobody.
            unsafe { libc::munmap(reserve, RESERVE) };
        }
        RESERVE_WANTED.load(Relaxed)
    }

    fn map_reserve() -> io::Result<()> {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping, that nobody knows yet. It is not touched, so it takes no page.
        let reserve = unsafe { libc::mmap(ptr::null_mut(), RESERVE, protection, flags, -1, 0) };
        if reserve == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if RESERVED
            .compare_exchange(ptr::null_mut(), reserve, AcqRel, Relaxed)
            .is_err()
        {
            // SAFETY: as above; another thread was first.
            unsafe { libc::munmap(reserve, RESERVE) };
        }
        Ok(())
    }

    /// Puts memory by from now on. As long as there is none, no thread is started.
    pub(crate) fn keep_reserve() {
        #[cfg(target_env = "gnu")]
        if limit_of(libc::RLIMIT_AS as _).is_ok_and(|limit| limit.rlim_cur != libc::RLIM_INFINITY) {
            // SAFETY: no memory is involved.
            unsafe {
                // Each thread would have an arena of 64 MiB of its own, as addresses; that is what is
                // limited.
                libc::mallopt(libc::M_ARENA_MAX, 1);
                // What is large is mapped by itself, and goes back when it is freed. Otherwise the C
                // library learns from the first large block to keep blocks of that size.
                libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
            }
        }
        RESERVE_WANTED.store(true, Relaxed);
        let _ = map_reserve();
    }

    /// Whether there is memory for one thread more: not if that which was put by is used up, and there
    /// is none to take its place.
    pub(super) fn spare_memory() -> io::Result<()> {
        if RESERVE_WANTED.load(Relaxed) && RESERVED.load(Acquire).is_null() {
            return map_reserve();
        }
        Ok(())
    }

    /// A thread's set of blocked signals.
    pub(crate) struct SignalMask(libc::sigset_t);

    fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the set is emptied before anything is added to it.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), *signal);
            }
            set.assume_init()
        }
    }

    /// Blocks `signals` for this thread; what was blocked before.
    pub(crate) fn block_signals(signals: &[libc::c_int]) -> io::Result<SignalMask> {
        let set = set_of(signals);
        let mut before = MaybeUninit::uninit();
        // SAFETY: an initialised set, and room for the one before.
        spawn_check(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, before.as_mut_ptr()) })?;
        // SAFETY: pthread_sigmask succeeded and filled it.
        Ok(SignalMask(unsafe { before.assume_init() }))
    }

    /// Blocks exactly what `mask` says, for this thread.
    pub(crate) fn set_signal_mask(mask: &SignalMask) {
        // SAFETY: an initialised set.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &mask.0, ptr::null_mut()) };
    }

    /// Blocks nothing, for this thread.
    pub(crate) fn unblock_all_signals() {
        set_signal_mask(&SignalMask(set_of(&[])));
    }

    /// Gives `signal` its default meaning.
    pub(crate) fn default_signal(signal: libc::c_int) {
        // SAFETY: installs no code.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }

    /// Whether `signal` is ignored, as nohup makes SIGHUP.
    pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: asks for the present action only; `action` has room for it.
        unsafe {
            libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }

    /// A descriptor that gives the blocked `signals` as they come.
    pub(crate) fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
        signal_fd_of(&set_of(signals))
    }

    fn signal_fd_of(set: &libc::sigset_t) -> io::Result<OwnedFd> {
        // SAFETY: an initialised set; the result is checked before it is taken.
        let fd = check(unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: signalfd returned a new descriptor that belongs to nobody else.
        above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The next signal of a [`signal_fd`], if there is one, and whether the kernel itself sent it, a
    /// terminal for one.
    pub(crate) fn next_signal(fd: &OwnedFd) -> Option<(libc::c_int, bool)> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let n = read(as_borrowed(fd), &mut info).ok()?;
        let member = |offset: usize| {
            let bytes = info.get(offset..offset + 4).filter(|_| n == info.len())?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?).cast_signed())
        };
        let number = member(std::mem::offset_of!(libc::signalfd_siginfo, ssi_signo))?;
        let code = member(std::mem::offset_of!(libc::signalfd_siginfo, ssi_code))?;
        Some((number, code == libc::SI_KERNEL))
    }

    /// Signals that one thread waits for. They are blocked in it, and in every thread it starts.
    pub(crate) struct Signals {
        set: libc::sigset_t,
        /// Where the system refuses to wait for them without a descriptor.
        fd: Option<OwnedFd>,
    }

    impl Signals {
        pub(crate) fn hear(signals: &[libc::c_int]) -> io::Result<Signals> {
            block_signals(signals)?;
            Ok(Signals {
                set: set_of(signals),
                fd: None,
            })
        }

        /// Waits for the next one.
        pub(crate) fn next(&mut self) -> io::Result<libc::c_int> {
            loop {
                if let Some(fd) = &self.fd {
                    poll(&mut [Interest::read(fd.as_raw_fd())], None)?;
                    match next_signal(fd) {
                        Some((signal, _)) => return Ok(signal),
                        None => continue,
                    }
                }
                // SAFETY: an initialised set; nothing is to be told about the signal.
                match check(unsafe { libc::sigwaitinfo(&self.set, ptr::null_mut()) }) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if may_be_refused(&error) => self.fd = Some(signal_fd_of(&self.set)?),
                    signal => return signal,
                }
            }
        }
    }

    /// What ends a wait of the calling thread for [`Signals`] that `SIGCHLD` is one of.
    pub(crate) fn waker() -> impl Fn() + Send + 'static {
        struct Waiting(libc::pthread_t);
        // SAFETY: the name of a thread, which any thread may use.
        unsafe impl Send for Waiting {}
        impl Waiting {
            fn wake(&self) {
                // SAFETY: the main thread, which lives as long as the process.
                if unsafe { libc::pthread_kill(self.0, libc::SIGCHLD) } != 0 {
                    let _ = std::process::id().try_into().map(|pid| kill(pid, libc::SIGCHLD));
                }
            }
        }
        // SAFETY: cannot fail.
        let waiting = Waiting(unsafe { libc::pthread_self() });
        move || waiting.wake()
    }

    /// Adopts the orphans below this process.
    pub(crate) fn become_subreaper() -> io::Result<()> {
        // SAFETY: no memory is involved.
        check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
    }

    /// The name that `ps` shows; of the main thread, it is the process's. Started by way of `/proc`,
    /// it would be `exe`.
    pub(crate) fn name_this_thread(name: &CStr) {
        // SAFETY: a NUL-terminated string, of which the kernel copies fifteen bytes.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    }

    /// Sends this process `signal` when its parent dies.
    pub(crate) fn die_with_parent(signal: libc::c_int) -> io::Result<()> {
        // SAFETY: no memory is involved.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) }).map(drop)
    }

    /// Reaps a child of the calling thread that has ended, if there is one. Those of other threads are
    /// for these to reap.
    pub(crate) fn reap_any() -> Option<(Pid, Status)> {
        let (pid, status, _) = wait(-1, libc::WNOHANG | libc::__WNOTHREAD).ok()?;
        (pid > 0).then_some((pid, status))
    }

    /// Whether the calling thread has children, ended ones included. To the main thread of a subreaper,
    /// none means that there is nobody below it but the children of other threads and what has those
    /// above it.
    pub(crate) fn has_children() -> bool {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WNOTHREAD;
        // SAFETY: `info` is valid for writes, and nobody is reaped.
        unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) == 0 }
    }

    /// Whether a child of the calling thread has ended, and waits to be reaped.
    pub(crate) fn has_ended(pid: Pid) -> bool {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WNOTHREAD;
        // SAFETY: `info` is valid for writes, and nobody is reaped. It stays zero if nothing has ended.
        unsafe {
            libc::waitid(libc::P_PID, pid.unsigned_abs(), info.as_mut_ptr(), options) == 0
                && info.assume_init().si_pid() == pid
        }
    }

    /// Whether the child has been stopped (`true`) or continued since it was asked last.
    pub(crate) fn stopped_or_continued(pid: Pid) -> Option<bool> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG;
        // SAFETY: `info` is valid for writes. It stays zero if nothing has happened.
        let info = unsafe {
            (libc::waitid(libc::P_PID, pid.unsigned_abs(), info.as_mut_ptr(), options) == 0)
                .then(|| info.assume_init())?
        };
        match info.si_code {
            libc::CLD_STOPPED => Some(true),
            libc::CLD_CONTINUED => Some(false),
            _ => None,
        }
    }

    /// Makes a copy of this process, which goes on as its child: its pid, or `None` in the child.
    /// There must be no other thread: what one holds, a lock of the allocator for example, the copy
    /// would wait for in vain.
    pub(crate) fn fork() -> io::Result<Option<Pid>> {
        // SAFETY: the caller is the only thread, so the copy is as consistent as this process.
        let pid = check(unsafe { libc::fork() })?;
        Ok((pid != 0).then_some(pid))
    }

    /// Gives this process a group of its own.
    pub(crate) fn leave_group() -> io::Result<()> {
        // SAFETY: no memory is involved.
        check(unsafe { libc::setpgid(0, 0) }).map(drop)
    }

    /// Throws `signal` away when it comes.
    pub(crate) fn ignore_signal(signal: libc::c_int) {
        // SAFETY: installs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }

    /// The process group of this process.
    pub(crate) fn own_group() -> Pid {
        // SAFETY: cannot fail, and no memory is involved.
        unsafe { libc::getpgrp() }
    }

    pub(crate) fn is_terminal(fd: BorrowedFd<'_>) -> bool {
        // SAFETY: takes any descriptor.
        unsafe { libc::isatty(fd.as_raw_fd()) == 1 }
    }

    pub(crate) fn set_inheritable(fd: &OwnedFd) -> io::Result<()> {
        // SAFETY: plain fcntl on an open descriptor.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
    }

    /// Lets this process have as many descriptors as it may; how many it could have before.
    pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
        let mut limit = descriptor_limit()?;
        let before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: an initialised struct.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
        Ok(before)
    }

    /// Gives the memory of code that has run back to the system. It is file pages that nobody has
    /// changed; what runs again is mapped again from the page cache.
    pub(crate) fn forget_code_pages() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        for line in maps.lines() {
            // `start-end perms offset device inode path`
            let Some((range, rest)) = line.split_once(' ') else {
                continue;
            };
            // Code, and the headers and tables a file begins with. Other read-only parts may have
            // been written by the loader before they became so.
            let unchanged = rest.starts_with("r-xp ") || rest.starts_with("r--p 00000000 ");
            if !unchanged || !rest.contains(" /") {
                continue;
            }
            let Some((start, end)) = range.split_once('-') else {
                continue;
            };
            let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
            else {
                continue;
            };
            // SAFETY: a private mapping of a file that is not writable has no content of its own,
            // so what is dropped here comes back from the file unchanged.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }

    /// Puts `/dev/null` where stdin and stdout were; nothing is written there any more.
    pub(crate) fn let_go_of_stdio() -> io::Result<()> {
        let null = open_null()?;
        for fd in 0..=1 {
            // SAFETY: descriptors 0 and 1 are given up by this program from here on.
            check(unsafe { libc::dup2(null.as_raw_fd(), fd) })?;
        }
        Ok(())
    }

    /// The file this program was started from, for starting it again.
    pub(crate) fn own_file() -> &'static CStr {
        let own = c"/proc/self/exe";
        // SAFETY: a NUL-terminated string.
        if unsafe { libc::access(own.as_ptr(), libc::X_OK) } == 0 {
            return own;
        }
        // Without `/proc` there is still the path that the kernel was given. It may be relative, so
        // it is good for as long as nobody changes the directory, which this program never does.
        // SAFETY: the kernel puts the address of a string there that lasts as long as the process.
        match unsafe { libc::getauxval(libc::AT_EXECFN) } {
            0 => own,
            // SAFETY: as above.
            path => unsafe { CStr::from_ptr(path as *const libc::c_char) },
        }
    }

    /// Starts this program again as its own child: descriptors and signal actions as they are,
    /// the signal mask as given, in a group of its own if so wished.
    pub(crate) fn spawn_server(
        path: &CStr,
        argv: &StringList<'_>,
        environment: &StringList<'_>,
        mask: &SignalMask,
        own_group: bool,
    ) -> io::Result<Pid> {
        let mut attributes = Attributes::new()?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK | if own_group { libc::POSIX_SPAWN_SETPGROUP } else { 0 };
        // SAFETY: an initialised object and an initialised set.
        unsafe {
            spawn_check(libc::posix_spawnattr_setsigmask(&mut *attributes.0, &mask.0))?;
            spawn_check(libc::posix_spawnattr_setpgroup(&mut *attributes.0, 0))?;
            spawn_check(libc::posix_spawnattr_setflags(
                &mut *attributes.0,
                flags as libc::c_short,
            ))?;
        }
        let mut pid = 0;
        // SAFETY: initialised attributes, both lists end in null, and all strings outlive the call.
        spawn_check(unsafe {
            libc::posix_spawn(
                &mut pid,
                path.as_ptr(),
                ptr::null(),
                &*attributes.0,
                argv.as_ptr(),
                environment.as_ptr(),
            )
        })?;
        Ok(pid)
    }

    /// The spawn functions return the error instead of setting errno.
    fn spawn_check(error: libc::c_int) -> io::Result<()> {
        if error == 0 {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(error))
        }
    }

    /// Boxed, because POSIX does not say that the object may be moved.
    struct Attributes(Box<libc::posix_spawnattr_t>);

    impl Attributes {
        fn new() -> io::Result<Self> {
            // SAFETY: all-zero bytes are valid for this C struct, and init makes it an object before any use.
            let mut attributes = Box::new(unsafe { std::mem::zeroed() });
            // SAFETY: a valid pointer to an object that is not initialised yet.
            spawn_check(unsafe { libc::posix_spawnattr_init(&mut *attributes) })?;
            Ok(Attributes(attributes))
        }
    }

    impl Drop for Attributes {
        fn drop(&mut self) {
            // SAFETY: initialised in `new`, destroyed once.
            unsafe { libc::posix_spawnattr_destroy(&mut *self.0) };
        }
    }
}

// ---- spawning ----

fn descriptor_limit() -> io::Result<libc::rlimit> {
    limit_of(libc::RLIMIT_NOFILE as _)
}

fn limit_of(resource: libc::c_int) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` has room for the result.
    check(unsafe { libc::getrlimit(resource as _, &mut limit) })?;
    Ok(limit)
}

/// A list of strings as `execve` wants it: pointers, then a null.
pub(crate) struct StringList<'a> {
    pointers: Vec<*const libc::c_char>,
    _strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> StringList<'a> {
    pub(crate) fn new(strings: impl IntoIterator<Item = &'a CString>) -> Self {
        let mut pointers: Vec<_> = strings.into_iter().map(|s| s.as_ptr()).collect();
        pointers.push(ptr::null());
        StringList {
            pointers,
            _strings: std::marker::PhantomData,
        }
    }

    fn as_ptr(&self) -> *const *mut libc::c_char {
        self.pointers.as_ptr().cast()
    }
}

/// The arguments of an `execve`.
pub(crate) struct Execve<'a> {
    /// Used as it stands; there is no search.
    pub(crate) path: &'a CStr,
    pub(crate) argv: &'a StringList<'a>,
    pub(crate) environment: &'a StringList<'a>,
}

/// What a child gets as descriptors 0, 1 and 2.
pub(crate) enum Stdio<'a> {
    Descriptors([BorrowedFd<'a>; 3]),
    /// The terminal of this name, which becomes the controlling terminal of the child's session.
    Terminal(&'a CStr),
}

/// Low numbers among our descriptors, reserved for what the next child is given.
#[derive(Debug)]
pub(crate) struct Slot([OwnedFd; 3]);

impl Slot {
    /// Reserves the three lowest numbers that are free, with `filler` in them.
    pub(crate) fn reserve(filler: &OwnedFd) -> io::Result<Slot> {
        let number = || filler.try_clone();
        Ok(Slot([number()?, number()?, number()?]))
    }

    /// Puts each of `fds` where one of the numbers is.
    pub(crate) fn fill(&self, fds: [BorrowedFd<'_>; 3]) -> io::Result<()> {
        for (fd, slot) in fds.into_iter().zip(&self.0) {
            // SAFETY: the number is open and ours, so nothing that anybody else relies on is closed.
            check(unsafe { libc::dup3(fd.as_raw_fd(), slot.as_raw_fd(), libc::O_CLOEXEC) })?;
        }
        Ok(())
    }

    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        self.0.each_ref().map(as_borrowed)
    }
}

/// Everything a child does until its `execve`, made up beforehand, because it may not allocate.
struct Plan {
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    environment: *const *const libc::c_char,
    /// Negative for ours.
    directory: RawFd,
    /// Numbers above 2.
    stdio: [RawFd; 3],
    /// If not null, opened in place of `stdio`.
    terminal: *const libc::c_char,
    /// Descriptors above this are none of its business.
    highest: RawFd,
    /// Its soft limit of descriptors, where it is not ours.
    descriptor_limit: Option<u64>,
    /// The child has a table of descriptors of its own from the beginning.
    own_table: bool,
    /// What stopped the child; 0 if it runs.
    error: AtomicI32,
    /// Which [`Step`] that was.
    step: AtomicI32,
}

/// What a child does before its program runs.
#[derive(Clone, Copy)]
enum Step {
    Execute,
    LeadSession,
    EnterDirectory,
    LeaveDescriptors,
    OpenTerminal,
    PlaceDescriptors,
    LimitDescriptors,
}

/// Which call stopped a spawn, and why.
#[derive(Debug)]
pub(crate) struct SpawnError {
    pub(crate) call: &'static str,
    pub(crate) error: io::Error,
}

impl SpawnError {
    /// Whether the kernel would not execute the program for this reason.
    pub(crate) fn is_of_the_program(&self, errno: i32) -> bool {
        self.call == EXECUTE && self.error.raw_os_error() == Some(errno)
    }
}

/// The call by which the kernel executes a program: what it refuses is the program, as a rule.
pub(crate) const EXECUTE: &str = "execve";
/// The one that enters the working directory.
pub(crate) const ENTER_DIRECTORY: &str = "fchdir";
/// The one that opens the child's terminal.
pub(crate) const OPEN_TERMINAL: &str = "open of the terminal";
/// The ones that make a child's table of descriptors.
pub(crate) const LEAVE_DESCRIPTORS: &str = "close_range";
pub(crate) const PLACE_DESCRIPTORS: &str = "dup2";
/// Starting a thread of ours.
pub(crate) const START_THREAD: &str = "pthread_create";

impl Step {
    const ALL: [(Step, &'static str); 7] = [
        (Step::Execute, EXECUTE),
        (Step::LeadSession, "setsid"),
        (Step::EnterDirectory, ENTER_DIRECTORY),
        (Step::LeaveDescriptors, LEAVE_DESCRIPTORS),
        (Step::OpenTerminal, OPEN_TERMINAL),
        (Step::PlaceDescriptors, PLACE_DESCRIPTORS),
        (Step::LimitDescriptors, "prlimit64"),
    ];

    fn call(number: i32) -> &'static str {
        let step = Step::ALL.iter().find(|(step, _)| *step as i32 == number);
        step.map_or(EXECUTE, |(_, call)| call)
    }
}

/// Set once the system has refused `close_range`: then each child begins with a copy of our table.
static NO_CLOSE_RANGE: AtomicBool = AtomicBool::new(false);
/// Set once the system has refused `clone` with `CLONE_PIDFD`, and not without.
static NO_CLONE_PIDFD: AtomicBool = AtomicBool::new(false);

/// What a child runs on until its exec. Not the thread's own stack: to make room there would touch
/// pages that it never needs again, in every process thread there is.
pub(crate) struct ChildStack(Box<MaybeUninit<[u128; 1024]>>);

impl ChildStack {
    pub(crate) fn new() -> Self {
        ChildStack(Box::new_uninit())
    }

    /// Just above it. 16 KiB are below, of which less than 1 KiB is used, or 4 where the C library
    /// looks its functions up at their first call.
    fn top(&mut self) -> *mut libc::c_void {
        // SAFETY: one past the end of the same allocation.
        unsafe { self.0.as_mut_ptr().add(1).cast() }
    }
}

/// A process that is being started, as its thread and the dispatcher share it. The thread is in the kernel
/// until the program runs, which takes as long as the disk that has the program takes to answer.
#[derive(Debug)]
pub(crate) struct Birth {
    state: Mutex<BirthState>,
    /// The pidfd of a child that has not executed its program yet; negative where there is none. The
    /// kernel writes it, before the child runs.
    pidfd: AtomicI32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BirthState {
    UnderWay,
    /// Its thread has its outcome, and answers.
    Settled,
    /// The dispatcher has given up, and answers.
    GivenUp,
}

impl Birth {
    pub(crate) fn new() -> Self {
        Birth {
            state: Mutex::new(BirthState::UnderWay),
            pidfd: AtomicI32::new(-1),
        }
    }

    fn state(&self) -> MutexGuard<'_, BirthState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the thread that has started it is the one to answer.
    pub(crate) fn settle(&self) -> bool {
        self.end_as(BirthState::Settled)
    }

    /// Whether the caller is the one to answer; then what has not executed its program is killed.
    pub(crate) fn give_up(&self) -> bool {
        self.end_as(BirthState::GivenUp)
    }

    fn end_as(&self, end: BirthState) -> bool {
        let mut state = self.state();
        if *state != BirthState::UnderWay {
            return false;
        }
        *state = end;
        let pidfd = self.pidfd.load(Relaxed);
        if end == BirthState::GivenUp && pidfd >= 0 {
            // SAFETY: it is open, because its thread cannot take it before we let go of the lock.
            let pidfd = unsafe { BorrowedFd::borrow_raw(pidfd) };
            let _ = pidfd_signal(pidfd, libc::SIGKILL);
        }
        true
    }

    /// Takes the pidfd out: from here on it is its thread's alone.
    fn take_pidfd(&self) -> libc::c_int {
        let _state = self.state();
        self.pidfd.swap(-1, Relaxed)
    }
}

/// The child begins with our table of descriptors, and takes a copy when it has to. Callgrind, under
/// which `tests/cost` counts a spawn, follows a `clone` only without this, and then it has a copy.
const SHARED_TABLE: libc::c_int = if cfg!(fuzzing) { 0 } else { libc::CLONE_FILES };

/// Starts a program in a session of its own, with default signals, an empty signal mask, and no
/// descriptor above 2. Returns once it runs, with its pid and what becomes readable at its end, or
/// with the error of whatever stopped it.
///
/// A relative path is relative to `directory`.
///
/// Like `posix_spawn` of the C library, with `CLONE_VM | CLONE_VFORK`: no page table is copied, and
/// only the calling thread waits. Unlike it, the child shares our table of descriptors until it has a
/// copy of what is numbered no higher than what it needs, instead of copying all only to close them;
/// and its pidfd comes with it, so that there is no child whose end could not be seen.
pub(crate) fn spawn(
    execve: &Execve<'_>,
    directory: Option<&OwnedFd>,
    stdio: &Stdio<'_>,
    descriptor_limit: Option<u64>,
    stack: &mut ChildStack,
    birth: &Birth,
) -> Result<(Pid, OwnedFd), SpawnError> {
    let (stdio, terminal) = match stdio {
        Stdio::Descriptors(fds) => (fds.map(|fd| fd.as_raw_fd()), ptr::null()),
        Stdio::Terminal(name) => ([2; 3], name.as_ptr()),
    };
    let mut plan = Plan {
        path: execve.path.as_ptr(),
        argv: execve.argv.as_ptr().cast(),
        environment: execve.environment.as_ptr().cast(),
        directory: directory.map_or(-1, AsRawFd::as_raw_fd),
        stdio,
        terminal,
        highest: stdio.into_iter().max().unwrap_or(2),
        descriptor_limit,
        own_table: NO_CLOSE_RANGE.load(Relaxed),
        error: AtomicI32::new(0),
        step: AtomicI32::new(0),
    };
    let refused = |call, error| Err(SpawnError { call, error });
    loop {
        let (pid, pidfd) = match start_child(&plan, stack, birth) {
            Ok(started) => started,
            Err(error) => return refused("clone", error),
        };
        let stopped = match plan.error.swap(0, Relaxed) {
            0 => None,
            error => Some(io::Error::from_raw_os_error(error)),
        };
        match stopped {
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
            Some(error) => {
                let _ = reap(pid);
                let call = Step::call(plan.step.load(Relaxed));
                if call != LEAVE_DESCRIPTORS || plan.own_table || !may_be_refused(&error) {
                    return refused(call, error);
                }
                plan.own_table = true;
                NO_CLOSE_RANGE.store(true, Relaxed);
            }
        }
    }
}

/// Has a child carry out `plan`. Returns when it has executed a program or ended.
fn start_child(plan: &Plan, stack: &mut ChildStack, birth: &Birth) -> io::Result<(Pid, Option<OwnedFd>)> {
    let table = if plan.own_table { 0 } else { SHARED_TABLE };
    // The child begins with our mask. As long as it shares our memory no handler of ours may run in it.
    let mask = raw_signal_mask(u64::MAX);
    let mut start = |pidfd_flag| {
        // SAFETY: `run_child` fits; the stack is used from its end down by the child alone, and it, the
        // plan and what the plan points to outlive the child's use, because CLONE_VFORK keeps this
        // thread here until the child has executed a program or ended. The pidfd goes where the fifth
        // argument points.
        check(unsafe {
            libc::clone(
                run_child,
                stack.top(),
                libc::CLONE_VM | libc::CLONE_VFORK | pidfd_flag | table | libc::SIGCHLD,
                ptr::from_ref(plan).cast_mut().cast(),
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
    // SAFETY: clone succeeded, so what it has put there is open and belongs to nobody else.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok((pid, pidfd))
}

/// Blocks exactly the signals of `mask` for this thread; which were blocked before. Past the C
/// library, which leaves out two signals of its own.
fn raw_signal_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: both are the eight bytes the kernel takes a set to be.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut before,
            size_of::<u64>(),
        );
    }
    before
}

/// The child, in the memory of its parent, whose thread waits meanwhile.
/// It may only make system calls: no allocation, no lock, no panic.
extern "C" fn run_child(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes its plan, which outlives this function.
    let plan = unsafe { &*plan.cast::<Plan>() };
    // SAFETY: what it needs of the plan is as `spawn` has made it.
    let (step, error) = unsafe { become_program(plan) };
    plan.step.store(step as i32, Relaxed);
    plan.error.store(error, Relaxed);
    // SAFETY: ends the child alone, and runs nothing of ours.
    unsafe { libc::_exit(127) }
}

/// Returns only with the step that stopped it, and the number of the error.
///
/// # Safety
///
/// Called in the child of a `clone` that shares memory, with the pointers of the plan valid.
unsafe fn become_program(plan: &Plan) -> (Step, libc::c_int) {
    fn errno() -> libc::c_int {
        // SAFETY: the parent's errno; its thread waits.
        unsafe { *libc::__errno_location() }
    }
    macro_rules! done {
        ($step:expr, $call:expr) => {
            // SAFETY: system calls, with pointers that the caller answers for.
            if unsafe { $call } < 0 {
                return ($step, errno());
            }
        };
    }
    done!(Step::LeadSession, libc::setsid());
    if plan.directory >= 0 {
        done!(Step::EnterDirectory, libc::fchdir(plan.directory));
    }
    if plan.own_table {
        close_all_above(plan.highest);
    } else {
        // From here on the table is the child's own.
        let first = plan.highest.cast_unsigned() + 1;
        done!(
            Step::LeaveDescriptors,
            close_range(first, libc::CLOSE_RANGE_UNSHARE)
        );
    }
    let [first, second, third] = if plan.terminal.is_null() {
        plan.stdio
    } else {
        // The first terminal a session leader opens without O_NOCTTY is its controlling terminal.
        // SAFETY: a path that the caller answers for.
        let terminal = unsafe { libc::open(plan.terminal, libc::O_RDWR) };
        if terminal < 0 {
            return (Step::OpenTerminal, errno());
        }
        [terminal; 3]
    };
    for (fd, target) in [(first, 0), (second, 1), (third, 2)] {
        // The same number only if ours had none there.
        // SAFETY: no memory is involved; the table is the child's own.
        if fd != target && unsafe { libc::dup2(fd, target) } < 0 {
            let refused = errno();
            // Where the older call is refused, or missing, the newer one does the same.
            // SAFETY: as above.
            if unsafe { libc::dup3(fd, target, 0) } < 0 {
                return (Step::PlaceDescriptors, refused);
            }
        }
    }
    if plan.own_table {
        close_all_above(2);
    } else {
        done!(Step::LeaveDescriptors, close_range(3, 0));
    }
    if let Some(soft) = plan.descriptor_limit {
        match descriptor_limit() {
            Ok(mut limit) => {
                limit.rlim_cur = soft.min(limit.rlim_max);
                done!(
                    Step::LimitDescriptors,
                    libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
                );
            }
            Err(error) => {
                return (
                    Step::LimitDescriptors,
                    error.raw_os_error().unwrap_or(libc::EINVAL),
                );
            }
        }
    }
    // What the parent ignores would stay so, and what it handles must not run here.
    let default = [0u8; 64];
    for signal in 1..=64 {
        // SAFETY: an all-zero action is the default one, whose size is no more than this. It is
        // refused for the two signals that cannot have another.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                ptr::null::<u8>(),
                size_of::<u64>(),
            )
        };
    }
    raw_signal_mask(0);
    // SAFETY: a path and two lists that end in null, which the caller answers for.
    unsafe { libc::execve(plan.path, plan.argv, plan.environment) };
    (Step::Execute, errno())
}

#[cfg(test)]
mod names {
    #[test]
    fn every_error_of_linux_has_a_name() {
        let names: std::collections::HashSet<String> = (1..=133).map(super::errno_name).collect();
        // Two numbers mean nothing.
        assert_eq!(names.len(), 133);
        let unnamed = names.iter().filter(|name| name[1..].parse::<i32>().is_ok());
        assert_eq!(unnamed.count(), 2);
        assert_eq!(
            (super::errno_name(2), super::errno_name(41)),
            ("ENOENT".into(), "E41".into())
        );
    }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;

    /// Whoever reaps it could free its pid while the thread that owns it still signals that.
    #[test]
    fn nobody_reaps_the_child_of_another_thread() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd = pidfd_open(child.id().cast_signed()).unwrap();
        poll(&mut [Interest::read(pidfd.as_raw_fd())], None).unwrap();
        let (reaped, children) = std::thread::scope(|scope| {
            let stranger = scope.spawn(|| (reap_any(), has_children()));
            stranger.join().unwrap()
        });
        assert_eq!((reaped, children), (None, false));
        assert!(has_children());
        assert!(child.wait().unwrap().success());
    }
}
