//! What a system does with a process that has lost its parent, for the guard of the binary.
//!
//! **Thread:** any.
//! **Owns:** the choice, which is made once.
//! **Never:** changes it.

/// Whether a guard gets the orphans below it, and its server hears of its death. Otherwise the server tells
/// its guard who leads what.
#[cfg(not(target_os = "linux"))]
pub(crate) fn adopts_orphans() -> bool {
    cfg!(target_os = "freebsd")
}

/// The same, and `PROCWIRE_GUARD=told` does without, as a system has to that cannot do this.
#[cfg(target_os = "linux")]
pub(crate) fn adopts_orphans() -> bool {
    use std::sync::OnceLock;
    static ADOPTS: OnceLock<bool> = OnceLock::new();
    *ADOPTS.get_or_init(|| std::env::var_os("PROCWIRE_GUARD").is_none_or(|choice| choice != "told"))
}

/// Whether the server gets them first. It has to tell which children are of its main thread, so elsewhere
/// only the guard does, which has no other.
pub(crate) fn server_adopts_orphans() -> bool {
    cfg!(target_os = "linux") && adopts_orphans()
}
