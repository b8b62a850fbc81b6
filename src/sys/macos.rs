//! macOS: processes and descriptors as libproc shows them.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** fails because a process is gone.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;

use super::Pid;
#[cfg(feature = "cli")]
use super::error::unsupported;
use super::signals::group_and_session;
use super::snapshot::ProcStat;

/// The state of a process that has ended and waits to be reaped, in `pbi_status`.
const ZOMBIE: u32 = 5;
/// Rounds of asking for the list: it grows meanwhile.
const ROUNDS: usize = 8;

/// All processes that may be looked at.
pub(super) fn list() -> io::Result<Vec<ProcStat>> {
    let mut pids: Vec<Pid> = Vec::new();
    for _ in 0..ROUNDS {
        // SAFETY: asks for the count only.
        let count = unsafe { libc::proc_listallpids(ptr::null_mut(), 0) };
        let room = usize::try_from(count).map_err(|_| io::Error::last_os_error())? + 64;
        pids.resize(room, 0);
        let bytes = libc::c_int::try_from(size_of_val(pids.as_slice())).map_err(io::Error::other)?;
        // SAFETY: valid for writes of that many bytes.
        let count = unsafe { libc::proc_listallpids(pids.as_mut_ptr().cast(), bytes) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        if count < room {
            pids.truncate(count);
            return Ok(pids.into_iter().filter_map(look).collect());
        }
    }
    Err(io::Error::other("the list of processes grows all the time"))
}

/// As `pbi_status` has it; `None` if there is no such process.
#[cfg(feature = "cli")]
pub(super) fn state(pid: Pid) -> Option<u32> {
    info(pid).map(|info| info.pbi_status)
}

/// There is no way to.
#[cfg(feature = "cli")]
pub(super) fn adopt_orphans() -> io::Result<()> {
    Err(unsupported())
}

/// There is no way to be sent one.
#[cfg(feature = "cli")]
pub(super) fn signal_at_parents_death(_: libc::c_int) -> io::Result<()> {
    Err(unsupported())
}

fn info(pid: Pid) -> Option<libc::proc_bsdinfo> {
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let bytes = size_of::<libc::proc_bsdinfo>();
    // The argument 1 asks for zombies as well.
    // SAFETY: `info` is valid for writes of that many bytes.
    let written = unsafe {
        libc::proc_pidinfo(
            pid,
            libc::PROC_PIDTBSDINFO,
            1,
            info.as_mut_ptr().cast(),
            libc::c_int::try_from(bytes).ok()?,
        )
    };
    if usize::try_from(written) != Ok(bytes) {
        return None;
    }
    // SAFETY: zeroed, which is valid, and filled.
    Some(unsafe { info.assume_init() })
}

/// One process, the ended included; `None` if there is none, or it may not be looked at.
pub(super) fn look(pid: Pid) -> Option<ProcStat> {
    let info = info(pid)?;
    let session = group_and_session(pid).map_or(0, |(_, session)| session);
    Some(ProcStat {
        pid,
        parent: Pid::try_from(info.pbi_ppid).unwrap_or(0),
        group: Pid::try_from(info.pbi_pgid).unwrap_or(0),
        session,
        started: Some(info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec),
        dead: info.pbi_status == ZOMBIE,
        entry: pid,
    })
}

/// Descriptors that are closed in one round.
const ROUND: usize = 512;

/// Closes every descriptor above `last` of this process, whose only thread this is; whether the system told
/// which there are. Makes system calls and nothing else, for a child of a fork.
pub(super) fn close_listed_above(last: RawFd) -> bool {
    // SAFETY: cannot fail.
    let own = unsafe { libc::getpid() };
    loop {
        let mut list = [MaybeUninit::<libc::proc_fdinfo>::uninit(); ROUND];
        let room = libc::c_int::try_from(size_of_val(&list)).unwrap_or(0);
        // SAFETY: valid for writes of that many bytes.
        let written =
            unsafe { libc::proc_pidinfo(own, libc::PROC_PIDLISTFDS, 0, list.as_mut_ptr().cast(), room) };
        let count = usize::try_from(written).unwrap_or(0) / size_of::<libc::proc_fdinfo>();
        if count == 0 {
            return false;
        }
        let mut closed = false;
        for entry in &list[..count.min(ROUND)] {
            // SAFETY: the kernel has written so many.
            let fd = unsafe { entry.assume_init_ref() }.proc_fd;
            // SAFETY: the table is this child's own.
            closed |= fd > last && unsafe { libc::close(fd) } == 0;
        }
        if count < ROUND {
            return true;
        }
        if !closed {
            // The list is full of what is to stay, and what is behind it is not told.
            return false;
        }
    }
}

/// As many descriptors as `setrlimit` takes for all, whatever the hard limit says.
#[cfg(feature = "cli")]
pub(super) const MAX_DESCRIPTORS: libc::rlim_t = 10_240;
