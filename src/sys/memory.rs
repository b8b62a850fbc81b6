//! Memory of the binary: the reserve for what cannot do without.
//!
//! **Thread:** any.
//! **Owns:** the reserve.
//! **Never:** is used by an embedding program, which has its own allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicPtr,
    Ordering::{AcqRel, Acquire, Relaxed},
};

#[cfg(target_env = "gnu")]
use super::descriptors::limit_of;

/// Memory in reserve for what must not fail: answers, kills, the end of a connection.
const RESERVE: usize = 4 * 1024 * 1024;
/// Where it is; null while it is used up, or not wanted.
static RESERVED: AtomicPtr<libc::c_void> = AtomicPtr::new(ptr::null_mut());
static RESERVE_WANTED: AtomicBool = AtomicBool::new(false);

/// The allocator of the system, which is given the reserve when it has no more memory to give.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: all is passed on to the allocator of the system as it came.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        let memory = unsafe { System.alloc(layout) };
        match memory.is_null() && give_reserve() {
            // SAFETY: the caller's.
            true => unsafe { System.alloc(layout) },
            false => memory,
        }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        let memory = unsafe { System.alloc_zeroed(layout) };
        match memory.is_null() && give_reserve() {
            // SAFETY: the caller's.
            true => unsafe { System.alloc_zeroed(layout) },
            false => memory,
        }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        let grown = unsafe { System.realloc(memory, layout, size) };
        match grown.is_null() && give_reserve() {
            // SAFETY: the caller's; a block that could not be grown is as it was.
            true => unsafe { System.realloc(memory, layout, size) },
            false => grown,
        }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) };
    }
}

/// Whether it is worth trying again: the reserve is the system's, given by us or another thread.
fn give_reserve() -> bool {
    let reserve = RESERVED.swap(ptr::null_mut(), AcqRel);
    if !reserve.is_null() {
        // SAFETY: mapped by `map_reserve`, of that size, and not used.
        unsafe { libc::munmap(reserve, RESERVE) };
    }
    RESERVE_WANTED.load(Relaxed)
}

fn map_reserve() -> io::Result<()> {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping, to which there is no reference yet. It is not touched, so it takes no page.
    let reserve = unsafe { libc::mmap(ptr::null_mut(), RESERVE, protection, flags, -1, 0) };
    if reserve == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if RESERVED
        .compare_exchange(ptr::null_mut(), reserve, AcqRel, Relaxed)
        .is_err()
    {
        // SAFETY: as above; another thread was first.
        unsafe { libc::munmap(reserve, RESERVE) };
    }
    Ok(())
}

/// Puts memory by from now on. As long as there is none, no thread is started.
pub(crate) fn keep_reserve() {
    #[cfg(target_env = "gnu")]
    if [libc::RLIMIT_AS, libc::RLIMIT_DATA]
        .into_iter()
        .any(|limit| limit_of(limit as _).is_ok_and(|limit| limit.rlim_cur != libc::RLIM_INFINITY))
    {
        // SAFETY: no memory is involved.
        unsafe {
            // Each thread would have an arena of its own, of which little is used and all counts.
            libc::mallopt(libc::M_ARENA_MAX, 1);
            // What is large is mapped by itself, and goes back when it is freed. Otherwise the C
            // library learns from the first large block to keep blocks of that size.
            libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
        }
    }
    RESERVE_WANTED.store(true, Relaxed);
    let _ = map_reserve();
}

/// Whether there is memory for one more thread: not if the reserve is used up and cannot be mapped
/// again.
pub(super) fn spare_memory() -> io::Result<()> {
    if RESERVE_WANTED.load(Relaxed) && RESERVED.load(Acquire).is_null() {
        return map_reserve();
    }
    Ok(())
}
