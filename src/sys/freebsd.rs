//! FreeBSD: processes as sysctl shows them.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** fails because a process is gone.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use super::Pid;
use super::error::check;
use super::snapshot::ProcStat;

/// The state of a process that has ended and waits to be reaped.
const ZOMBIE: libc::c_char = 5;
/// Rounds of asking for the list: it grows meanwhile.
const ROUNDS: usize = 8;

/// All processes that may be looked at.
pub(super) fn list() -> io::Result<Vec<ProcStat>> {
    let all = ask(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PROC])?;
    Ok(all.iter().map(stat).collect())
}

/// One process, the ended included; `None` if there is none, or it may not be looked at.
pub(super) fn look(pid: Pid) -> Option<ProcStat> {
    info(pid).as_ref().map(stat)
}

/// As `ki_stat` has it; `None` if there is no such process.
#[cfg(feature = "cli")]
pub(super) fn state(pid: Pid) -> Option<u32> {
    info(pid).and_then(|info| u32::try_from(info.ki_stat).ok())
}

/// Has what loses its parent below this process become its child.
#[cfg(feature = "cli")]
pub(super) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: this call takes no data.
    check(unsafe { libc::procctl(libc::P_PID, 0, libc::PROC_REAP_ACQUIRE, ptr::null_mut()) }).map(drop)
}

/// Sends this process `signal` when its parent dies. A system call and nothing else.
pub(super) fn signal_at_parents_death(mut signal: libc::c_int) -> io::Result<()> {
    let data = ptr::from_mut(&mut signal).cast();
    // SAFETY: the call reads the number of a signal, for which it is given a pointer.
    check(unsafe { libc::procctl(libc::P_PID, 0, libc::PROC_PDEATHSIG_CTL, data) }).map(drop)
}

fn info(pid: Pid) -> Option<libc::kinfo_proc> {
    let found = ask(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid]).ok()?;
    found.into_iter().find(|process| process.ki_pid == pid)
}

fn ask(name: &[libc::c_int]) -> io::Result<Vec<libc::kinfo_proc>> {
    let count = libc::c_uint::try_from(name.len()).map_err(io::Error::other)?;
    for _ in 0..ROUNDS {
        let mut bytes = 0;
        // SAFETY: asks for the size only.
        check(unsafe { libc::sysctl(name.as_ptr(), count, ptr::null_mut(), &mut bytes, ptr::null(), 0) })?;
        let room = bytes / size_of::<libc::kinfo_proc>() + 64;
        let mut found: Vec<MaybeUninit<libc::kinfo_proc>> = Vec::with_capacity(room);
        let mut bytes = room * size_of::<libc::kinfo_proc>();
        // SAFETY: valid for writes of that many bytes.
        let asked = check(unsafe {
            libc::sysctl(
                name.as_ptr(),
                count,
                found.as_mut_ptr().cast(),
                &mut bytes,
                ptr::null(),
                0,
            )
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => continue,
            asked => asked?,
        };
        let written = bytes / size_of::<libc::kinfo_proc>();
        // SAFETY: within the capacity, and the elements need not be initialised.
        unsafe { found.set_len(written.min(room)) };
        // SAFETY: the kernel has written so many, all of them whole.
        let processes = found.iter().map(|process| unsafe { process.assume_init_read() });
        return Ok(processes.collect());
    }
    Err(io::Error::other("the list of processes grows all the time"))
}

fn stat(process: &libc::kinfo_proc) -> ProcStat {
    let (seconds, micros) = (process.ki_start.tv_sec, process.ki_start.tv_usec);
    ProcStat {
        pid: process.ki_pid,
        parent: process.ki_ppid,
        group: process.ki_pgid,
        session: process.ki_sid,
        started: u64::try_from(seconds * 1_000_000 + micros).ok(),
        dead: process.ki_stat == ZOMBIE,
        entry: process.ki_pid,
    }
}
