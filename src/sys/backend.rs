//! Which way of starting programs and of hearing of their exits is used here.
//!
//! **Thread:** any.
//! **Owns:** the choice, which is made once.
//! **Never:** changes it.

use std::sync::OnceLock;

/// How programs are started, and how their exits are heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// `clone` with shared memory, pidfds, event counters.
    #[cfg(target_os = "linux")]
    Linux,
    /// `posix_spawn` or `fork`, a thread or a kqueue for each exit, pipes.
    Portable,
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_os = "linux")]
            Backend::Linux => "linux",
            Backend::Portable => "portable",
        }
    }
}

/// What chooses the portable one where there is another.
#[cfg(target_os = "linux")]
const CHOICE: &str = "PROCWIRE_BACKEND";

/// The one that is used.
pub(crate) fn backend() -> Backend {
    static BACKEND: OnceLock<Backend> = OnceLock::new();
    *BACKEND.get_or_init(|| {
        let (backend, why) = choose();
        log::info!("backend {}: {why}", backend.name());
        backend
    })
}

/// Starts programs as if the system refused `close_range`. Callgrind, under which `tests/cost` counts a spawn,
/// does not follow a `clone` that shares the table of descriptors.
#[cfg(fuzzing)]
pub(crate) fn copy_descriptor_tables() {
    #[cfg(target_os = "linux")]
    super::clone::NO_CLOSE_RANGE.store(true, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(target_os = "linux")]
fn choose() -> (Backend, &'static str) {
    if std::env::var_os(CHOICE).is_some_and(|choice| choice == Backend::Portable.name()) {
        return (Backend::Portable, "PROCWIRE_BACKEND says so");
    }
    // Callgrind, under which `tests/cost` counts what a spawn takes by this way, takes `vfork` for `fork`.
    match cfg!(fuzzing) || super::clone::shares_memory() {
        true => (Backend::Linux, "clone shares memory"),
        false => (Backend::Portable, "clone is refused or does not share memory"),
    }
}

#[cfg(not(target_os = "linux"))]
fn choose() -> (Backend, &'static str) {
    (Backend::Portable, "this system has no other")
}
