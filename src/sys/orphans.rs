//! What the system does with a process whose parent has exited, for the guard of the binary.
//!
//! **Thread:** any.
//! **Owns:** the choice, which is made once.
//! **Never:** changes it.

/// Whether a guard adopts the orphans below it, and its server gets a signal when it dies. Otherwise the
/// server reports its session leaders to the guard.
#[cfg(not(target_os = "linux"))]
pub(crate) fn adopts_orphans() -> bool {
    cfg!(target_os = "freebsd")
}

/// The same. `PROCWIRE_GUARD=told` says no, so that Linux behaves as a system without subreapers.
#[cfg(target_os = "linux")]
pub(crate) fn adopts_orphans() -> bool {
    use std::sync::OnceLock;
    static ADOPTS: OnceLock<bool> = OnceLock::new();
    *ADOPTS.get_or_init(|| std::env::var_os("PROCWIRE_GUARD").is_none_or(|choice| choice != "told"))
}

/// Whether the server adopts them first. It must tell the children of its main thread from others, which only
/// Linux can; elsewhere only the guard adopts, which has no other children.
pub(crate) fn server_adopts_orphans() -> bool {
    cfg!(target_os = "linux") && adopts_orphans()
}
