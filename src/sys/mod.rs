//! The system calls: rustix's where it has them, and otherwise nearly every `unsafe` of the crate. The few others
//! take a descriptor by its number.
//!
//! **Thread:** the caller's; and `exit`, which waits for a child where pidfds are refused.
//! **Owns:** what the system has been found to lack, and the memory that the binary keeps in reserve;
//! descriptors come and go as [`OwnedFd`](std::os::fd::OwnedFd).
//! **Never:** decides more than how a call is done: where one is refused another is tried, and what to
//! do about an error is for the caller.

mod backend;
pub(crate) mod base64;
#[cfg(any(target_os = "macos", target_os = "freebsd"))]
mod bsd;
mod child;
#[cfg(target_os = "linux")]
mod clone;
mod close;
mod descriptors;
mod error;
mod exit;
mod files;
#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "macos")]
mod hangup;
pub(crate) mod inspect;
mod limits;
pub(crate) mod lock;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(feature = "cli")]
mod memory;
mod open;
mod opener;
#[cfg(feature = "cli")]
mod orphans;
#[cfg(target_os = "linux")]
mod pidfd;
mod poll;
mod portable;
#[cfg(any(target_os = "linux", target_vendor = "apple", feature = "cli"))]
mod posix_spawn;
#[cfg(target_os = "linux")]
mod proc;
#[cfg(feature = "cli")]
mod program;
mod signals;
mod snapshot;
mod spawn;
pub(crate) mod sync;
mod terminal;
mod threads;
mod wake;

pub(crate) use backend::*;
#[cfg(any(target_os = "macos", target_os = "freebsd"))]
pub(crate) use bsd::*;
pub(crate) use close::*;
pub(crate) use descriptors::*;
pub(crate) use error::*;
pub(crate) use exit::*;
pub(crate) use files::*;
pub(crate) use limits::{ChildLimit, Resource, Setting};
pub(crate) use lock::lock;
#[cfg(feature = "cli")]
pub use memory::Allocator;
#[cfg(feature = "cli")]
pub(crate) use memory::*;
pub(crate) use open::{OPEN, OPEN_IN_TIME, Purpose, open_for_child, open_null_for_writing};
#[cfg(feature = "cli")]
pub(crate) use orphans::*;
#[cfg(target_os = "linux")]
pub(crate) use pidfd::*;
pub(crate) use poll::*;
#[cfg(target_os = "linux")]
pub(crate) use proc::*;
#[cfg(feature = "cli")]
pub(crate) use program::*;
pub(crate) use signals::*;
pub(crate) use snapshot::*;
pub(crate) use spawn::*;
pub(crate) use terminal::*;
pub(crate) use threads::*;
pub(crate) use wake::*;

/// A process id.
pub(crate) type Pid = libc::pid_t;
