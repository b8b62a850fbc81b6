//! The configuration of a server, and why a connection ended.
//!
//! **Thread:** the caller's; plain data.
//! **Owns:** the defaults that the protocol names; those in bytes are in `outbox/costs.rs`.
//! **Never:** changes while a connection lasts.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::outbox::costs::{DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_STDIN_BYTES, DEFAULT_OUTPUT_CAP_BYTES};
use crate::sys::OnLife;

/// Defaults and limits of a server. All have the values the protocol names.
///
/// ```
/// # use procwire::Config;
/// # use std::time::Duration;
/// let config = Config::default().default_timeout(Duration::from_secs(60)).drain(true);
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) max_message_bytes: usize,
    pub(crate) default_timeout: Option<Duration>,
    pub(crate) default_output_cap: Option<u64>,
    pub(crate) max_pending_stdin_bytes: u64,
    pub(crate) drain: bool,
    pub(crate) host: Host,
}

impl Config {
    /// The longest line a client may send, in bytes (16 MiB). A longer one is refused and skipped.
    /// Connections in memory have no lines.
    ///
    /// ```
    /// # use procwire::Config;
    /// let config = Config::default().max_message_bytes(1024 * 1024);
    /// ```
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Config {
        self.max_message_bytes = bytes;
        self
    }

    /// `timeoutMs` where a spawn leaves it out, in whole milliseconds (10 s); `None`: no timeout.
    ///
    /// ```
    /// # use procwire::Config;
    /// # use std::time::Duration;
    /// let config = Config::default().default_timeout(Duration::from_secs(60));
    /// let config = config.default_timeout(None);
    /// ```
    #[must_use]
    pub fn default_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Config {
        self.default_timeout = timeout.into();
        self
    }

    /// `outputBytesCap` where a spawn leaves it out, in bytes of each stream (1 MiB); `None`: no cap.
    ///
    /// ```
    /// # use procwire::Config;
    /// let config = Config::default().default_output_cap(64 * 1024);
    /// let config = config.default_output_cap(None);
    /// ```
    #[must_use]
    pub fn default_output_cap(mut self, bytes: impl Into<Option<u64>>) -> Config {
        self.default_output_cap = bytes.into();
        self
    }

    /// Bytes of pending stdin of a process above which a write is refused (8 MiB).
    ///
    /// ```
    /// # use procwire::Config;
    /// let config = Config::default().max_pending_stdin_bytes(1024 * 1024);
    /// ```
    #[must_use]
    pub fn max_pending_stdin_bytes(mut self, bytes: u64) -> Config {
        self.max_pending_stdin_bytes = bytes;
        self
    }

    /// Whether the end of input means "no more requests": the server then waits until every process has
    /// exited (no).
    ///
    /// ```
    /// # use procwire::Config;
    /// let config = Config::default().drain(true);
    /// ```
    #[must_use]
    pub fn drain(mut self, drain: bool) -> Config {
        self.drain = drain;
        self
    }

    /// The default timeout as the protocol has it.
    pub(crate) fn default_timeout_ms(&self) -> Option<u64> {
        let milliseconds = |timeout: Duration| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.default_timeout.map(milliseconds)
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            default_timeout: Some(Duration::from_secs(10)),
            default_output_cap: Some(DEFAULT_OUTPUT_CAP_BYTES),
            max_pending_stdin_bytes: DEFAULT_MAX_STDIN_BYTES,
            drain: false,
            host: Host::default(),
        }
    }
}

/// What the binary, which owns its whole process, arranges around a server. A library's server has none
/// of it.
#[derive(Clone, Default)]
pub(crate) struct Host {
    /// How many descriptors a program may have open (the soft `RLIMIT_NOFILE`); `None`: as many as this
    /// one. For a server that has raised its own limit, which its programs should not notice.
    /// A spawn's `limits.openFiles` is laid over it.
    pub(crate) child_descriptor_limit: Option<u64>,
    /// Called with the pid of each process that was spawned with `detach`, on its own thread, before
    /// its spawn is answered and before it can be reaped, also where its program cannot be executed: for a process that sweeps up after the server
    /// and has to spare it. The pid may be recycled later; what tells the two apart is the start time in
    /// `/proc`.
    pub(crate) on_detach: Option<OnLife>,
    /// Called with the pid of each other process, in the same way: for a process that could not find it
    /// otherwise, after the server was killed.
    pub(crate) on_start: Option<OnLife>,
    /// Called with that pid before the process is reaped, so that it may be recycled.
    pub(crate) on_reap: Option<OnLife>,
    /// What the server reports in `guarantees.killsDaemonsAtEnd`: this process kills what is left of its
    /// descendants when [`serve`](crate::serve) has returned.
    pub(crate) kills_daemons_at_end: bool,
    /// What the server reports in `guarantees.survivesServerKill`: another process kills everything if this
    /// one is killed.
    pub(crate) survives_server_kill: bool,
    /// Set once everything below this process is being killed: processes that have not ended leave it to
    /// that.
    pub(crate) swept: Arc<AtomicBool>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
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
