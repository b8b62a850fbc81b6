//! A program's file and directory: opening them, and whether they may be executed and entered.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing; descriptors come and go as [`OwnedFd`].
//! **Never:** executes anything.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::descriptors::{above_stdio, open};
use super::error::{check, is_refused, may_be_refused};

/// A program's file for reading, `path` relative to `directory`.
pub(crate) fn open_program(directory: Option<&OwnedFd>, path: &CStr) -> io::Result<OwnedFd> {
    let at = directory.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: `path` is a NUL-terminated string; no mode is needed without O_CREAT.
    let fd = check(unsafe { libc::openat(at, path.as_ptr(), flags) })?;
    // SAFETY: openat returned a new descriptor that nothing else owns.
    above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A directory that can be entered.
pub(crate) fn open_directory(path: &CStr) -> io::Result<OwnedFd> {
    #[cfg(not(target_vendor = "apple"))]
    let way = libc::O_PATH;
    // It has no way to open a directory that cannot be read.
    #[cfg(target_vendor = "apple")]
    let way = libc::O_RDONLY;
    let directory = open(path, way | libc::O_DIRECTORY)?;
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

pub(super) fn status_of(directory: Option<&OwnedFd>, path: &CStr) -> io::Result<libc::stat> {
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
    #[cfg(target_os = "linux")]
    // SAFETY: these cannot fail.
    let ids_are_one = unsafe { libc::getuid() == libc::geteuid() && libc::getgid() == libc::getegid() };
    #[cfg(target_os = "linux")]
    if ids_are_one {
        // The call without flags is older, and asks by the real ids.
        // SAFETY: `path` is a NUL-terminated string.
        let asked =
            super::error::check_size(
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
