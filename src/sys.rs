//! The system calls: every `unsafe` of the crate.
//!
//! **Thread:** whoever calls; nothing here keeps state.
//! **Owns:** nothing; descriptors come and go as [`OwnedFd`].
//! **Never:** decides anything. Each function is one call with its return value made a `Result`;
//! what to do about an error is for the caller.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::Child;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::protocol::Usage;

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

// ---- descriptors ----

/// A pipe, reading end first. Both ends are closed on exec and numbered above 2,
/// so that no child gets one by accident and none collides with what a child is given.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors that pipe2 writes.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: pipe2 succeeded, so both are open and belong to nobody else.
    let (reader, writer) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    Ok((above_stdio(reader)?, above_stdio(writer)?))
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

/// Whether `path`, relative to `directory`, is a file that may be executed.
pub(crate) fn check_executable(directory: Option<&OwnedFd>, path: &CStr) -> io::Result<()> {
    let at = directory.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `path` is NUL-terminated and `stat` has room for the result.
    check(unsafe { libc::fstatat(at, path.as_ptr(), stat.as_mut_ptr(), 0) })?;
    // SAFETY: fstatat succeeded and filled it.
    let stat = unsafe { stat.assume_init() };
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    can_access(directory, path, libc::X_OK)
}

fn can_access(directory: Option<&OwnedFd>, path: &CStr, mode: libc::c_int) -> io::Result<()> {
    let at = directory.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    // SAFETY: `path` is a NUL-terminated string.
    check(unsafe { libc::faccessat(at, path.as_ptr(), mode, libc::AT_EACCESS) }).map(drop)
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
    let unshare = libc::CLOSE_RANGE_UNSHARE.cast_signed();
    // SAFETY: closes only what this thread has got a copy of.
    check(unsafe { libc::close_range(3, libc::c_uint::MAX, unshare) }).map(drop)
}

/// Bytes that can be read from a pipe or terminal now.
pub(crate) fn readable_bytes(fd: &OwnedFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, and `bytes` is one.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut bytes) })?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// The settings of the terminal behind `master`.
pub(crate) fn terminal_settings(master: &OwnedFd) -> io::Result<libc::termios> {
    let mut termios = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: `termios` has room for the result.
    check(unsafe { libc::tcgetattr(master.as_raw_fd(), termios.as_mut_ptr()) })?;
    // SAFETY: tcgetattr succeeded and filled it.
    Ok(unsafe { termios.assume_init() })
}

/// Changes the settings of the terminal behind `master`.
pub(crate) fn set_terminal_settings(master: &OwnedFd, settings: &libc::termios) -> io::Result<()> {
    // SAFETY: an initialised struct.
    check(unsafe { libc::tcsetattr(master.as_raw_fd(), libc::TCSANOW, settings) }).map(drop)
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
        self.0.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }
}

/// Waits until one of `interests` is ready, `timeout` has passed, or a signal came. Never fails with `EINTR`.
pub(crate) fn poll(interests: &mut [Interest], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: Interest is a transparent pollfd, the length is the slice's, and `timeout` is null or lives here.
    let result = unsafe {
        libc::ppoll(
            interests.as_mut_ptr().cast(),
            interests.len() as libc::nfds_t,
            timeout,
            ptr::null(),
        )
    };
    match check(result) {
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
    readable_by(&pidfd_open(pid)?, deadline)
}

/// Whether the other end of `fd` is gone.
pub(crate) fn is_hung_up(fd: &OwnedFd) -> bool {
    let mut interest = [Interest::hangup(fd.as_raw_fd())];
    poll(&mut interest, Some(Duration::ZERO)).is_ok() && interest[0].hung_up()
}

/// An event counter: something another thread sets to end a `poll`.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a plain call; the result is checked before it is taken.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: eventfd returned a new descriptor that belongs to nobody else.
        Ok(EventFd(above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })?))
    }

    /// Ends the `poll` that waits for it, or the next one.
    pub(crate) fn set(&self) {
        // The only way to fail is a counter that is full, and then it is set.
        let _ = write(as_borrowed(&self.0), &1u64.to_ne_bytes());
    }

    /// Makes the next `poll` wait again.
    pub(crate) fn clear(&self) {
        let mut count = [0; 8];
        let _ = read(as_borrowed(&self.0), &mut count);
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
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

/// Reaps a child of ours, blocking until it has ended. For one that has not executed a program: it is
/// about to end.
fn reap(pid: Pid) -> io::Result<()> {
    wait4(pid, 0).map(drop)
}

/// Reaps a child of ours; `None` while it lives, or while a tracer holds it, which gets the end of a
/// process before its parent does.
pub(crate) fn try_reap(pid: Pid) -> io::Result<Option<(Status, Usage)>> {
    wait4(pid, libc::WNOHANG)
}

fn wait4(pid: Pid, options: libc::c_int) -> io::Result<Option<(Status, Usage)>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are valid for writes.
        match check(unsafe { libc::wait4(pid, &mut status, options, usage.as_mut_ptr()) }) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
    }
    // SAFETY: wait4 succeeded and filled it; it was zeroed before.
    let usage = unsafe { usage.assume_init() };
    Ok(Some((
        Status::new(status),
        Usage {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        },
    )))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
        + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

/// The symbolic name of an error number, `"ENOENT"` for one.
pub(crate) fn errno_name(errno: i32) -> String {
    unsafe extern "C" {
        /// glibc 2.32 and later; null for a number it does not know.
        fn strerrorname_np(errno: libc::c_int) -> *const libc::c_char;
    }
    // SAFETY: takes any number and returns null or a static string.
    let name = unsafe { strerrorname_np(errno) };
    if name.is_null() {
        return format!("E{errno}");
    }
    // SAFETY: not null, so a NUL-terminated string that is never freed.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

// ---- what is process-wide, for the binary's guard only ----

#[cfg(feature = "cli")]
pub(crate) use process_wide::*;

#[cfg(feature = "cli")]
mod process_wide {
    use super::*;

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
        let set = set_of(signals);
        // SAFETY: an initialised set; the result is checked before it is taken.
        let fd = check(unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
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
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WNOTHREAD) };
        (pid > 0).then(|| (pid, Status::new(status)))
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

    /// The process group of this process.
    pub(crate) fn own_group() -> Pid {
        // SAFETY: cannot fail, and no memory is involved.
        unsafe { libc::getpgrp() }
    }

    pub(crate) fn is_terminal(fd: BorrowedFd<'_>) -> bool {
        // SAFETY: takes any descriptor.
        unsafe { libc::isatty(fd.as_raw_fd()) == 1 }
    }

    pub(crate) fn set_close_on_exec(fd: &OwnedFd) -> io::Result<()> {
        // SAFETY: plain fcntl on an open descriptor.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
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
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` has room for the result.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
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
    /// What stopped the child; 0 if it runs.
    error: AtomicI32,
}

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
) -> io::Result<(Pid, OwnedFd)> {
    let (stdio, terminal) = match stdio {
        Stdio::Descriptors(fds) => (fds.map(|fd| fd.as_raw_fd()), ptr::null()),
        Stdio::Terminal(name) => ([2; 3], name.as_ptr()),
    };
    let plan = Plan {
        path: execve.path.as_ptr(),
        argv: execve.argv.as_ptr().cast(),
        environment: execve.environment.as_ptr().cast(),
        directory: directory.map_or(-1, AsRawFd::as_raw_fd),
        stdio,
        terminal,
        highest: stdio.into_iter().max().unwrap_or(2),
        descriptor_limit,
        error: AtomicI32::new(0),
    };
    // The child begins with our mask. As long as it shares our memory no handler of ours may run in it.
    let mask = raw_signal_mask(u64::MAX);
    // SAFETY: `run_child` fits; the stack is used from its end down by the child alone, and it, the
    // plan and what the plan points to outlive the child's use, because CLONE_VFORK keeps this
    // thread here until the child has executed a program or ended. The pidfd goes where the fifth
    // argument points.
    let pid = check(unsafe {
        libc::clone(
            run_child,
            stack.top(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | SHARED_TABLE | libc::SIGCHLD,
            (&raw const plan).cast_mut().cast(),
            birth.pidfd.as_ptr(),
        )
    });
    raw_signal_mask(mask);
    let pidfd = birth.take_pidfd();
    let pid = pid?;
    // SAFETY: clone succeeded, so it is open and belongs to nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match plan.error.load(Relaxed) {
        0 => match above_stdio(pidfd) {
            Ok(pidfd) => Ok((pid, pidfd)),
            Err(error) => {
                // A child whose end we could not see is worse than none.
                let _ = kill_group(pid, libc::SIGKILL);
                let _ = reap(pid);
                Err(error)
            }
        },
        error => {
            let _ = reap(pid);
            Err(io::Error::from_raw_os_error(error))
        }
    }
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
    let error = unsafe { become_program(plan) };
    plan.error.store(error, Relaxed);
    // SAFETY: ends the child alone, and runs nothing of ours.
    unsafe { libc::_exit(127) }
}

/// Returns only with the number of the error that stopped it.
///
/// # Safety
///
/// Called in the child of a `clone` that shares memory, with the pointers of the plan valid.
unsafe fn become_program(plan: &Plan) -> libc::c_int {
    fn errno() -> libc::c_int {
        // SAFETY: the parent's errno; its thread waits.
        unsafe { *libc::__errno_location() }
    }
    macro_rules! done {
        ($call:expr) => {
            // SAFETY: system calls, with pointers that the caller answers for.
            if unsafe { $call } < 0 {
                return errno();
            }
        };
    }
    done!(libc::setsid());
    if plan.directory >= 0 {
        done!(libc::fchdir(plan.directory));
    }
    // From here on the table is the child's own.
    done!(libc::close_range(
        plan.highest.cast_unsigned() + 1,
        libc::c_uint::MAX,
        libc::CLOSE_RANGE_UNSHARE.cast_signed()
    ));
    let [first, second, third] = if plan.terminal.is_null() {
        plan.stdio
    } else {
        // The first terminal a session leader opens without O_NOCTTY is its controlling terminal.
        // SAFETY: a path that the caller answers for.
        let terminal = unsafe { libc::open(plan.terminal, libc::O_RDWR) };
        if terminal < 0 {
            return errno();
        }
        [terminal; 3]
    };
    for (fd, target) in [(first, 0), (second, 1), (third, 2)] {
        // The same number only if ours had none there.
        if fd != target {
            done!(libc::dup2(fd, target));
        }
    }
    done!(libc::close_range(3, libc::c_uint::MAX, 0));
    if let Some(soft) = plan.descriptor_limit {
        match descriptor_limit() {
            Ok(mut limit) => {
                limit.rlim_cur = soft.min(limit.rlim_max);
                done!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit));
            }
            Err(error) => return error.raw_os_error().unwrap_or(libc::EINVAL),
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
    errno()
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
