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
    ask(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PROC])
}

/// One process, the ended included; `None` if there is none, or it may not be looked at.
pub(super) fn look(pid: Pid) -> Option<ProcStat> {
    let found = ask(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid]);
    found.ok()?.into_iter().find(|process| process.pid == pid)
}

fn ask(name: &[libc::c_int]) -> io::Result<Vec<ProcStat>> {
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
        let processes = found.iter().map(|process| unsafe { process.assume_init_ref() });
        return Ok(processes.map(stat).collect());
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
