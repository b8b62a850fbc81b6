//! What the binary does to its own process, and how it starts itself again.
//!
//! **Thread:** the main thread.
//! **Owns:** nothing.
//! **Never:** is used by an embedding program: all of it is process-wide.

use std::ffi::CStr;
use std::io;
use std::ptr;

use super::Pid;
use super::error::{check, spawn_check};
use super::signals::SignalMask;
use super::spawn::StringList;

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

/// The process group of this process.
pub(crate) fn own_group() -> Pid {
    // SAFETY: cannot fail, and no memory is involved.
    unsafe { libc::getpgrp() }
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
