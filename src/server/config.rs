//! What a server is told before it serves, and what it says when it has served.
//!
//! **Thread:** the caller's; plain data.
//! **Owns:** the defaults that the protocol names.
//! **Never:** changes while a connection lasts.

use std::fmt;
use std::sync::Arc;

/// Defaults and limits of a server. All have the values the protocol names.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// The longest line a client may send, in bytes (16 MiB). A longer one is refused and skipped.
    /// Connections in memory have no lines.
    pub max_message_bytes: usize,
    /// `timeoutMs` where a spawn leaves it out, in milliseconds (10,000); `None`: no timeout.
    pub default_timeout_ms: Option<u64>,
    /// `outputBytesCap` where a spawn leaves it out (1 MiB); `None`: no cap.
    pub default_output_bytes_cap: Option<u64>,
    /// Pending stdin of a process above which a write is refused (8 MiB).
    pub max_pending_stdin_bytes: u64,
    /// End of input means "no more requests": wait until every process has exited (no).
    pub drain: bool,
    /// How many descriptors a program may have open (the soft `RLIMIT_NOFILE`); `None`: as many as this
    /// one. For a server that has raised its own limit, which its programs should not notice.
    /// A spawn's `limits.openFiles` is laid over it.
    pub child_descriptor_limit: Option<u64>,
    /// Called with the pid of each process that was spawned with `detach`, on its own thread, before
    /// its spawn is answered and before it can be reaped: for a process that sweeps up after the server
    /// and has to spare it. The pid may be recycled later; what tells the two apart is the start time in
    /// `/proc`.
    pub on_detach: Option<Arc<dyn Fn(u32) + Send + Sync>>,
    /// What the server tells in `guarantees.killsDaemonsAtEnd` (no): this program ends what is left of its
    /// descendants when [`serve`](crate::serve) has returned. It has to be a child subreaper for that.
    pub kills_daemons_at_end: bool,
    /// What the server tells in `guarantees.survivesServerKill` (no): another process ends everything if this
    /// one is killed.
    pub survives_server_kill: bool,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("max_message_bytes", &self.max_message_bytes)
            .field("default_timeout_ms", &self.default_timeout_ms)
            .field("default_output_bytes_cap", &self.default_output_bytes_cap)
            .field("max_pending_stdin_bytes", &self.max_pending_stdin_bytes)
            .field("drain", &self.drain)
            .field("child_descriptor_limit", &self.child_descriptor_limit)
            .field("kills_daemons_at_end", &self.kills_daemons_at_end)
            .field("survives_server_kill", &self.survives_server_kill)
            .finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_message_bytes: 16 * 1024 * 1024,
            default_timeout_ms: Some(10_000),
            default_output_bytes_cap: Some(1024 * 1024),
            max_pending_stdin_bytes: 8 * 1024 * 1024,
            drain: false,
            child_descriptor_limit: None,
            on_detach: None,
            kills_daemons_at_end: false,
            survives_server_kill: false,
        }
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The client has sent all it had.
    InputEnded,
    /// The client no longer reads answers.
    OutputGone,
    /// [`Stopper::stop`](crate::Stopper::stop) was called.
    Stopped,
}
