//! What the binary does to its own process, and how it starts itself again.
//!
//! **Thread:** the main thread.
//! **Owns:** nothing.
//! **Never:** is used by an embedding program: all of it is process-wide.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::ptr;

use super::Pid;
use super::descriptors::{pipe, read, write};
use super::error::{check, may_be_refused, spawn_check};
use super::exit::reap;
use super::posix_spawn::Attributes;
use super::signals::{SignalMask, set_signal_mask};
use super::spawn::StringList;

/// Adopts the orphans below this process.
pub(crate) fn become_subreaper() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    // Of the pid, the kernel only looks whether it is 0.
    return Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::Pid::INIT,
    ))?);
    #[cfg(not(target_os = "linux"))]
    super::bsd::adopt_orphans()
}

/// Keeps this process from leaving a core, also where cores are piped to a program and its limit does not
/// hold. Where the system has no such call, the limit is all there is.
pub(crate) fn leave_no_core() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Sends this process SIGTERM when its parent dies.
pub(crate) fn die_with_parent() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::process::set_parent_process_death_signal(Some(
        rustix::process::Signal::TERM,
    ))?);
    #[cfg(not(target_os = "linux"))]
    super::bsd::signal_at_parents_death(libc::SIGTERM)
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
    Ok(rustix::process::setpgid(None, None)?)
}

/// The process group of this process; 0 where it is one of an outer PID namespace, which rustix takes to
/// be impossible.
pub(crate) fn own_group() -> Pid {
    // SAFETY: cannot fail, and no memory is involved.
    unsafe { libc::getpgrp() }
}

/// The file this program was started from, for starting it again.
#[cfg(target_os = "linux")]
pub(crate) fn own_file() -> &'static CStr {
    let own = c"/proc/self/exe";
    if rustix::fs::access(own, rustix::fs::Access::EXEC_OK).is_ok() {
        return own;
    }
    // Without `/proc` there is still the path that the kernel was given. It may be relative, so
    // it is good for as long as the directory is not changed, which this program never does.
    // SAFETY: the kernel puts the address of a string there that lasts as long as the process.
    match unsafe { libc::getauxval(libc::AT_EXECFN) } {
        0 => own,
        // SAFETY: as above.
        path => unsafe { CStr::from_ptr(path as *const libc::c_char) },
    }
}

/// The file this program was started from, for starting it again.
#[cfg(not(target_os = "linux"))]
pub(crate) fn own_file() -> &'static CStr {
    use std::os::unix::ffi::OsStrExt;
    use std::sync::LazyLock;
    static FILE: LazyLock<std::ffi::CString> = LazyLock::new(|| {
        let file = std::env::current_exe().unwrap_or_default();
        std::ffi::CString::new(file.as_os_str().as_bytes()).unwrap_or_default()
    });
    &FILE
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
    attributes.set_mask(&mask.0)?;
    attributes.set_own_group()?;
    let in_own_group = if own_group { libc::POSIX_SPAWN_SETPGROUP } else { 0 };
    attributes.set_flags(libc::c_int::from(libc::POSIX_SPAWN_SETSIGMASK | in_own_group))?;
    let mut pid = 0;
    // SAFETY: initialised attributes, both lists end in null, and all strings outlive the call.
    let spawned = spawn_check(unsafe {
        libc::posix_spawn(
            &mut pid,
            path.as_ptr(),
            ptr::null(),
            attributes.as_ptr(),
            argv.as_ptr(),
            environment.as_ptr(),
        )
    });
    match spawned {
        // A child that shares memory may be what is refused.
        Err(error) if may_be_refused(&error) => {
            let (reader, writer) = pipe()?;
            let Some(pid) = fork()? else {
                let error = become_server(path, argv, environment, mask, own_group);
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let _ = write(writer.as_fd(), &errno.to_ne_bytes());
                // SAFETY: ends the copy, and runs nothing of ours.
                unsafe { libc::_exit(127) }
            };
            drop(writer);
            let mut errno = [0; 4];
            // Closed by its exec.
            if matches!(read(reader.as_fd(), &mut errno), Ok(4)) {
                let _ = reap(pid);
                return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)));
            }
            Ok(pid)
        }
        spawned => spawned.map(|()| pid),
    }
}

/// Does so in a copy of this process; returns what it fails with.
fn become_server(
    path: &CStr,
    argv: &StringList<'_>,
    environment: &StringList<'_>,
    mask: &SignalMask,
    own_group: bool,
) -> io::Error {
    if own_group && let Err(error) = leave_group() {
        return error;
    }
    set_signal_mask(mask);
    // SAFETY: both lists end in null, and all strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr().cast(), environment.as_ptr().cast()) };
    io::Error::last_os_error()
}
