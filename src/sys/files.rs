//! A program's file and directory: opening them, and whether they may be executed and entered.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing; descriptors come and go as [`OwnedFd`].
//! **Never:** executes anything.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::process::{getegid, geteuid};

use super::descriptors::{above_stdio, as_borrowed, open};
use super::error::{is_refused, may_be_refused};

/// A program's file for reading, `path` relative to `directory`.
pub(crate) fn open_program(directory: Option<&OwnedFd>, path: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    above_stdio(rustix::fs::openat(at(directory), path, flags, Mode::empty())?)
}

/// Where a relative path begins.
fn at(directory: Option<&OwnedFd>) -> BorrowedFd<'_> {
    directory.map_or(rustix::fs::CWD, as_borrowed)
}

/// A directory that can be entered.
pub(crate) fn open_directory(path: &CStr) -> io::Result<OwnedFd> {
    #[cfg(not(target_vendor = "apple"))]
    let way = OFlags::PATH;
    // It has no way to open a directory that cannot be read.
    #[cfg(target_vendor = "apple")]
    let way = OFlags::RDONLY;
    let directory = open(path, way | OFlags::DIRECTORY)?;
    // O_PATH asks for no permission on the directory itself, and fchdir does; ask now, while the
    // error can still be told apart from the program's own.
    can_access(Some(&directory), c".")?;
    Ok(directory)
}

/// Whether `path`, relative to `directory`, is a file that may be executed. Where the system does not
/// tell, the attempt to execute it will.
pub(crate) fn check_executable(directory: Option<&OwnedFd>, path: &CStr) -> io::Result<()> {
    match status_of(directory, path) {
        Ok(status) if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile => {
            Err(io::Error::from_raw_os_error(libc::EACCES))
        }
        Ok(_) => can_access(directory, path),
        Err(error) if is_refused(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn status_of(directory: Option<&OwnedFd>, path: &CStr) -> io::Result<Stat> {
    Ok(rustix::fs::statat(at(directory), path, AtFlags::empty())?)
}

/// Whether this process, with its effective ids, may execute `path`, or enter it.
fn can_access(directory: Option<&OwnedFd>, path: &CStr) -> io::Result<()> {
    let ask =
        |flags| -> io::Result<()> { Ok(rustix::fs::accessat(at(directory), path, Access::EXEC_OK, flags)?) };
    let refused = match ask(AtFlags::EACCESS) {
        Err(error) if may_be_refused(&error) => error,
        asked => return asked,
    };
    #[cfg(target_os = "linux")]
    if rustix::process::getuid() == geteuid() && rustix::process::getgid() == getegid() {
        // The call without flags is older, and asks by the real ids.
        match ask(AtFlags::empty()) {
            Err(error) if is_refused(&error) => {}
            asked => return asked,
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
fn may_execute(status: &Stat) -> bool {
    let user = geteuid();
    let in_group = || {
        let others = rustix::process::getgroups().unwrap_or_default();
        let mut groups = others.into_iter().chain([getegid()]);
        groups.any(|group| group.as_raw() == status.st_gid)
    };
    let bits = if user.is_root() {
        if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
            return true;
        }
        Mode::XUSR | Mode::XGRP | Mode::XOTH
    } else if user.as_raw() == status.st_uid {
        Mode::XUSR
    } else if in_group() {
        Mode::XGRP
    } else {
        Mode::XOTH
    };
    Mode::from_raw_mode(status.st_mode).intersects(bits)
}
