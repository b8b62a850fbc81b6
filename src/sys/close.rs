//! Closing what a child or a thread must not inherit, and the ways to do so where `close_range` is refused.
//!
//! **Thread:** the caller's, or a child before its exec.
//! **Owns:** nothing.
//! **Never:** allocates in what a child calls.

use std::io;
use std::os::fd::RawFd;

#[cfg(not(target_os = "freebsd"))]
use super::descriptors::descriptor_limit;
#[cfg(target_os = "linux")]
use super::error::{check, check_size, may_be_refused};

/// Gives the calling thread a table of descriptors of its own, in which there is nothing above 2.
#[cfg(target_os = "linux")]
pub(crate) fn leave_table_of_descriptors() -> io::Result<()> {
    // SAFETY: closes only what this thread has got a copy of.
    let left = check_size(unsafe { close_range(3, libc::CLOSE_RANGE_UNSHARE) });
    match left {
        Err(error) if may_be_refused(&error) => {
            // SAFETY: no memory is involved.
            check(unsafe { libc::unshare(libc::CLONE_FILES) })?;
            close_all_above(2);
            Ok(())
        }
        left => left.map(drop),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn leave_table_of_descriptors() -> io::Result<()> {
    Err(super::error::unsupported())
}

/// Closes `first` and all above it.
///
/// # Safety
///
/// No other code may rely on what is closed.
#[cfg(target_os = "linux")]
pub(super) unsafe fn close_range(first: libc::c_uint, flags: libc::c_uint) -> libc::ssize_t {
    // SAFETY: no memory is involved; the rest is the caller's. Not every C library has a function for it.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) as libc::ssize_t }
}

/// As far as numbers are closed one by one where nothing shows which are open.
#[cfg(not(target_os = "freebsd"))]
const LAST_CLOSED: RawFd = 65_535;

/// Closes every descriptor above `last` in a table that no other thread uses: at once, or those that the
/// system lists, or else as many numbers as there may be. Makes system calls and nothing else, for a child that
/// shares our memory.
pub(super) fn close_all_above(last: RawFd) {
    #[cfg(target_os = "freebsd")]
    // SAFETY: the table is ours alone.
    unsafe {
        libc::closefrom(last.saturating_add(1))
    };
    #[cfg(target_os = "macos")]
    let done = super::macos::close_listed_above(last);
    #[cfg(target_os = "linux")]
    // SAFETY: the table is ours alone.
    let done = unsafe { close_range(last.cast_unsigned() + 1, 0) } >= 0 || close_listed_above(last);
    #[cfg(not(target_os = "freebsd"))]
    if !done {
        close_numbers_above(last);
    }
}

#[cfg(not(target_os = "freebsd"))]
fn close_numbers_above(last: RawFd) {
    let limit = descriptor_limit().map_or(LAST_CLOSED, |limit| {
        RawFd::try_from(limit.rlim_cur)
            .unwrap_or(LAST_CLOSED)
            .min(LAST_CLOSED)
    });
    for fd in last.saturating_add(1)..=limit {
        // SAFETY: the table is ours alone, and a number that is not open is refused.
        unsafe { libc::close(fd) };
    }
}

/// Closes what `/proc` lists above `last`; whether it could be read.
#[cfg(target_os = "linux")]
fn close_listed_above(last: RawFd) -> bool {
    // SAFETY: a NUL-terminated string.
    let list = unsafe {
        libc::open(
            c"/proc/self/fd".as_ptr(),
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    };
    let listed = list >= 0 && close_named_above(last, list);
    if list > last {
        // SAFETY: opened here.
        unsafe { libc::close(list) };
    }
    listed
}

/// Closes what the directory `list` names above `last`, but for itself; whether it could be read.
#[cfg(target_os = "linux")]
fn close_named_above(last: RawFd, list: RawFd) -> bool {
    // Each entry: inode, offset, its own length, type, then its name, which ends in NUL.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut entries = [0u64; 128];
    loop {
        let room = size_of_val(&entries);
        // SAFETY: valid for writes of that many bytes.
        let n = unsafe { libc::syscall(libc::SYS_getdents64, list, entries.as_mut_ptr(), room) };
        let Ok(n) = usize::try_from(n) else { return false };
        if n == 0 {
            return true;
        }
        // SAFETY: an array of integers is as many bytes, of which the kernel has written `n`.
        let bytes = unsafe { std::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), n.min(room)) };
        let mut rest = bytes;
        while let (Some(&[low, high]), Some(name)) = (rest.get(LENGTH..LENGTH + 2), rest.get(NAME..)) {
            let digits = name.iter().take_while(|byte| byte.is_ascii_digit());
            let number = digits.fold(0, |number: RawFd, digit| {
                number.wrapping_mul(10).wrapping_add(RawFd::from(digit - b'0'))
            });
            // `.` and `..` come out as 0.
            if number > last && number != list {
                // SAFETY: the table is ours alone.
                unsafe { libc::close(number) };
            }
            let length = usize::from(u16::from_ne_bytes([low, high]));
            rest = match rest.get(length..) {
                Some(rest) if length > 0 => rest,
                _ => break,
            };
        }
    }
}
