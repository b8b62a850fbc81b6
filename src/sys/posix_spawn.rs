//! The objects that `posix_spawn` is given.
//!
//! **Thread:** the caller's.
//! **Owns:** memory of the C library, for as long as an object lives.
//! **Never:** starts anything.

use std::io;
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
use std::os::fd::RawFd;

use super::error::spawn_check;

/// How the new process begins. Boxed, because POSIX does not say that the object may be moved.
pub(super) struct Attributes(Box<libc::posix_spawnattr_t>);

impl Attributes {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: all-zero bytes are valid for this C type, and init makes it an object before any use.
        let mut attributes = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: a valid pointer to an object that is not initialised yet.
        spawn_check(unsafe { libc::posix_spawnattr_init(&mut *attributes) })?;
        Ok(Attributes(attributes))
    }

    /// The blocked signals, with `POSIX_SPAWN_SETSIGMASK`.
    pub(super) fn set_mask(&mut self, mask: &libc::sigset_t) -> io::Result<()> {
        // SAFETY: an initialised object and an initialised set.
        spawn_check(unsafe { libc::posix_spawnattr_setsigmask(&mut *self.0, mask) })
    }

    /// The signals with their default meaning, with `POSIX_SPAWN_SETSIGDEF`.
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    pub(super) fn set_default(&mut self, signals: &libc::sigset_t) -> io::Result<()> {
        // SAFETY: an initialised object and an initialised set.
        spawn_check(unsafe { libc::posix_spawnattr_setsigdefault(&mut *self.0, signals) })
    }

    /// A group of its own, with `POSIX_SPAWN_SETPGROUP`.
    #[cfg(feature = "cli")]
    pub(super) fn set_own_group(&mut self) -> io::Result<()> {
        // SAFETY: an initialised object.
        spawn_check(unsafe { libc::posix_spawnattr_setpgroup(&mut *self.0, 0) })
    }

    pub(super) fn set_flags(&mut self, flags: libc::c_int) -> io::Result<()> {
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: an initialised object.
        spawn_check(unsafe { libc::posix_spawnattr_setflags(&mut *self.0, flags) })
    }

    pub(super) fn as_ptr(&self) -> *const libc::posix_spawnattr_t {
        &*self.0
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&mut *self.0) };
    }
}

/// What the new process does with its descriptors and its directory, in this order.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub(super) struct Actions(Box<libc::posix_spawn_file_actions_t>);

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
impl Actions {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: all-zero bytes are valid for this C type, and init makes it an object before any use.
        let mut actions = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: a valid pointer to an object that is not initialised yet.
        spawn_check(unsafe { libc::posix_spawn_file_actions_init(&mut *actions) })?;
        Ok(Actions(actions))
    }

    /// Puts `fd` at `target`.
    pub(super) fn place(&mut self, fd: RawFd, target: RawFd) -> io::Result<()> {
        // SAFETY: an initialised object.
        spawn_check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut *self.0, fd, target) })
    }

    /// Closes everything above `last`. On macOS that is a flag of the attributes.
    #[cfg(target_vendor = "apple")]
    pub(super) fn close_all_above(&mut self, _: RawFd) -> io::Result<()> {
        Ok(())
    }

    /// Closes everything above `last`, which the C library learned in glibc 2.34.
    #[cfg(not(target_vendor = "apple"))]
    pub(super) fn close_all_above(&mut self, last: RawFd) -> io::Result<()> {
        type CloseFrom =
            unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, libc::c_int) -> libc::c_int;
        let name = c"posix_spawn_file_actions_addclosefrom_np";
        // A static program has the functions it was linked with.
        let function = match cfg!(all(target_env = "gnu", not(target_feature = "crt-static"))) {
            // SAFETY: a NUL-terminated string.
            true => unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) },
            false => std::ptr::null_mut(),
        };
        if function.is_null() {
            return Err(super::error::unsupported());
        }
        // SAFETY: the function of that name has this type.
        let function: CloseFrom = unsafe { std::mem::transmute(function) };
        // SAFETY: an initialised object.
        spawn_check(unsafe { function(&mut *self.0, last + 1) })
    }

    /// Makes the directory behind `fd` the working directory.
    pub(super) fn enter(&mut self, fd: RawFd) -> io::Result<()> {
        // SAFETY: an initialised object.
        spawn_check(unsafe { libc::posix_spawn_file_actions_addfchdir_np(&mut *self.0, fd) })
    }

    pub(super) fn as_ptr(&self) -> *const libc::posix_spawn_file_actions_t {
        &*self.0
    }
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut *self.0) };
    }
}
