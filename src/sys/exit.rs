//! The end of a child: noticing it, and reaping.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** reaps a child of another thread.

use std::io;
use std::mem::MaybeUninit;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::error::check;
#[cfg(target_os = "linux")]
use super::error::{check_size, may_be_refused};
use super::poll::{poll, readable_by};
use super::{Pid, end_of_child};

/// Only the children of the calling thread. Elsewhere no thread has children of its own.
#[cfg(target_os = "linux")]
const OWN_CHILDREN: libc::c_int = libc::__WNOTHREAD;
#[cfg(not(target_os = "linux"))]
const OWN_CHILDREN: libc::c_int = 0;

/// Waits until a child that has not been waited for has ended, but not past `deadline`; whether it has.
pub(crate) fn ends_by(child: &Child, deadline: Instant) -> io::Result<bool> {
    let pid = Pid::try_from(child.id()).map_err(io::Error::other)?;
    readable_by(&end_of_child(pid)?, deadline)
}

/// The pid of one process, as rustix takes it.
pub(super) fn pid_of(pid: Pid) -> io::Result<rustix::process::Pid> {
    // rustix panics at a negative one where debug assertions are on.
    let known = rustix::process::Pid::from_raw(pid.max(0));
    known.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// Asks for ends, without waiting or reaping.
fn only_look() -> WaitIdOptions {
    let own_children = WaitIdOptions::from_bits_retain(OWN_CHILDREN.cast_unsigned());
    WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT | own_children
}

/// Whether `pid` is a child of the calling thread that has not been reaped. Asks the kernel itself, so
/// it works without `/proc`. No other thread can reap such a child, so its pid means it until we do.
pub(crate) fn is_child(pid: Pid) -> bool {
    pid_of(pid).is_ok_and(|pid| waitid(WaitId::Pid(pid), only_look()).is_ok())
}

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

/// Reaps a child of this process, blocking until it has ended: for one that has not executed a program, or was
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

/// What a resident size is counted in.
const RSS_UNIT_BYTES: u64 = if cfg!(target_vendor = "apple") { 1 } else { 1024 };

/// Reaps a child of this process; `None` while it lives, or while a tracer holds it, which gets the end of a
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
            max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * RSS_UNIT_BYTES,
        },
    )))
}

/// Reaps a child of ours whose end has been told, but not past `deadline`; whether it is reaped. On some
/// systems the end is told a moment before it can be.
pub(crate) fn reap_by(pid: Pid, deadline: Instant) -> bool {
    while !matches!(try_reap(pid), Ok(Some(_))) {
        if Instant::now() >= deadline {
            return false;
        }
        let _ = poll(&mut [], Some(REAP_AGAIN));
    }
    true
}

/// How long that moment is taken to be.
const REAP_AGAIN: Duration = Duration::from_millis(1);

/// `wait4`; with `WNOHANG`, the pid is 0 if no child has ended. Never fails with `EINTR`.
fn wait(pid: Pid, options: libc::c_int) -> io::Result<(Pid, Status, libc::rusage)> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are valid for writes.
        let waited = check(unsafe { wait4(pid, &mut status, options, usage.as_mut_ptr()) });
        let (pid, status) = match waited {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            #[cfg(target_os = "linux")]
            Err(error) if may_be_refused(&error) => {
                wait_by_id(pid, options, &mut usage).map_err(|_| error)?
            }
            waited => (waited?, Status::new(status)),
        };
        // SAFETY: zeroed, which is valid, and maybe filled.
        return Ok((pid, status, unsafe { usage.assume_init() }));
    }
}

/// The system call itself: the function of musl leaves the usage out on machines of 32 bits.
///
/// # Safety
///
/// The pointers are valid for writes.
#[cfg(target_os = "linux")]
unsafe fn wait4(pid: Pid, status: *mut libc::c_int, options: libc::c_int, usage: *mut libc::rusage) -> Pid {
    // SAFETY: as here. It returns a pid or -1.
    unsafe { libc::syscall(libc::SYS_wait4, pid, status, options, usage) as Pid }
}

#[cfg(not(target_os = "linux"))]
use libc::wait4;

/// The same by `waitid`, whose system call returns the usage as well.
#[cfg(target_os = "linux")]
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

/// Whether a wait for any child is only about those of the calling thread, which is the main one.
#[cfg(feature = "cli")]
fn knows_own_children() -> bool {
    OWN_CHILDREN != 0 || !super::threads::has_started_one()
}

#[cfg(feature = "cli")]
/// Reaps a child of the calling thread that has ended, if there is one. Those of other threads are
/// for these to reap.
pub(crate) fn reap_any() -> Option<(Pid, Status)> {
    if !knows_own_children() {
        return None;
    }
    let (pid, status, _) = wait(-1, libc::WNOHANG | OWN_CHILDREN).ok()?;
    (pid > 0).then_some((pid, status))
}

#[cfg(feature = "cli")]
/// Whether the calling thread has children, ended ones included. To the main thread of a subreaper,
/// none means that there is nothing below it but the children of other threads and what has those
/// above it.
pub(crate) fn has_children() -> bool {
    if !knows_own_children() {
        return false;
    }
    waitid(WaitId::All, only_look()).is_ok()
}

#[cfg(feature = "cli")]
/// Whether a child of the calling thread has ended, and waits to be reaped.
pub(crate) fn has_ended(pid: Pid) -> bool {
    let seen = pid_of(pid).and_then(|pid| Ok(waitid(WaitId::Pid(pid), only_look())?));
    // Some systems tell of one that has stopped as well.
    seen.is_ok_and(|seen| seen.is_some_and(|seen| seen.exited() || seen.killed() || seen.dumped()))
}

#[cfg(feature = "cli")]
/// Whether the child has been stopped (`true`) or continued since it was asked last.
pub(crate) fn stopped_or_continued(pid: Pid) -> Option<bool> {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
    let change = waitid(WaitId::Pid(pid_of(pid).ok()?), options).ok()??;
    (change.stopped() || change.continued()).then(|| change.stopped())
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;
    use crate::sys::{PollFd, pidfd_open, poll};
    use std::os::fd::AsRawFd;

    /// Reaping it could free its pid while the thread that owns it still signals that.
    #[test]
    fn a_child_of_another_thread_is_not_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd = pidfd_open(child.id().cast_signed()).unwrap();
        poll(&mut [PollFd::read(pidfd.as_raw_fd())], None).unwrap();
        let (reaped, children) = std::thread::scope(|scope| {
            let stranger = scope.spawn(|| (reap_any(), has_children()));
            stranger.join().unwrap()
        });
        assert_eq!((reaped, children), (None, false));
        assert!(has_children());
        assert!(child.wait().unwrap().success());
    }
}
