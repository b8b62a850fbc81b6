//! How a process ended.
//!
//! **Thread:** whichever calls; plain data.
//! **Owns:** what the server said about the end of one process.
//! **Never:** changes.

use std::fmt;
use std::sync::Arc;

use super::error::excerpt;
use crate::wire::protocol::Exited;

/// How a process ended, with the shape of [`std::process::ExitStatus`].
///
/// ```
/// # use procwire::client::{Client, Command};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = Client::in_process(procwire::Config::default())?;
/// let status = client.status(Command::shell("exit 3"))?;
/// assert_eq!((status.success(), status.code(), status.signal()), (false, Some(3), None));
///
/// let status = client.status(Command::shell("kill -TERM $$"))?;
/// assert_eq!((status.code(), status.signal()), (None, Some("SIGTERM")));
/// assert_eq!(status.details().exit_code, 143);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitStatus(Arc<Exited>);

impl ExitStatus {
    pub(super) fn new(mut exited: Exited) -> ExitStatus {
        // All output is streamed. What a server sends here all the same would be kept for long.
        for collected in [&mut exited.stdout, &mut exited.stderr] {
            collected.bytes = Vec::new();
            if let Some(tail) = &mut collected.tail {
                tail.bytes = Vec::new();
            }
        }
        ExitStatus(Arc::new(exited))
    }

    /// Whether it ended by itself with exit code 0.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// assert!(client.status(Command::new("true"))?.success());
    /// assert!(!client.status(Command::new("false"))?.success());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn success(&self) -> bool {
        self.0.exit_code == 0 && self.0.signal.is_none() && !self.0.timed_out
    }

    /// Its exit code; `None` if it was killed by a signal or because its time was up.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// assert_eq!(client.status(Command::shell("exit 3"))?.code(), Some(3));
    /// assert_eq!(client.status(Command::shell("kill $$"))?.code(), None);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        (self.0.signal.is_none() && !self.0.timed_out).then_some(self.0.exit_code)
    }

    /// The name of the signal that killed it, such as `"SIGKILL"`, if one did. (In std it is the number.)
    /// A server that does not name signals, such as codex app-server, gives an exit code of 128 and
    /// the number instead.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// assert_eq!(client.status(Command::shell("kill $$"))?.signal(), Some("SIGTERM"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn signal(&self) -> Option<&str> {
        self.0.signal.as_deref()
    }

    /// Whether it was killed because its [`timeout`](super::Command::timeout) was up.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut sleep = Command::new("sleep");
    /// sleep.arg("1000").timeout(Duration::from_millis(1));
    /// assert!(client.status(&sleep)?.timed_out());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0.timed_out
    }

    /// Whether it left a core dump.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let status = client.status(Command::shell("kill -TERM $$"))?;
    /// assert!(!status.core_dumped()); // SIGSEGV leaves one where the system keeps them
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn core_dumped(&self) -> bool {
        self.0.core_dumped
    }

    /// All that the server said of its end: the exit code as a shell has it, duration, processor time,
    /// memory, the bytes it wrote, whether a stream was capped. The output itself is not in there,
    /// because it was streamed: the `bytes` of `stdout` and `stderr` are empty. Where
    /// [`Command::keep`](super::Command::keep) was called, their `tail` says how many bytes were dropped.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let status = client.status(Command::shell("echo hello; exit 3"))?;
    /// let details = status.details();
    /// assert_eq!((details.exit_code, details.stdout_bytes), (3, 6));
    /// assert!(details.usage.max_rss_bytes > 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn details(&self) -> &Exited {
        &self.0
    }
}

/// What is on the wire is one call away, so that it cannot be taken for what is here.
///
/// ```compile_fail
/// fn output(status: &procwire::client::ExitStatus) -> &[u8] { &status.stdout.bytes }
/// ```
/// ```
/// fn collected(status: &procwire::client::ExitStatus) -> &[u8] { &status.details().stdout.bytes }
/// ```
/// ```compile_fail
/// fn control(process: &procwire::client::Process) -> &procwire::client::Control { process }
/// ```
/// ```
/// fn control(process: &procwire::client::Process) -> procwire::client::Control { process.control() }
/// ```
#[cfg(doctest)]
struct NoDeref;

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.signal, self.0.timed_out) {
            (_, true) => f.write_str("timed out"),
            (Some(signal), _) => write!(f, "killed by {}", excerpt(signal)),
            (None, _) => write!(f, "exit code {}", self.0.exit_code),
        }
    }
}

/// How a process ended and all it printed, with the shape of [`std::process::Output`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its output, from where it had been read to before; on a terminal everything it printed. With
    /// [`Command::keep`](super::Command::keep), what was kept of its beginning, and all if nothing was
    /// dropped.
    pub stdout: Vec<u8>,
    /// Its error output, likewise.
    pub stderr: Vec<u8>,
    /// What was kept of the end of its output; empty if nothing was dropped before it.
    pub stdout_tail: Vec<u8>,
    /// What was kept of the end of its error output.
    pub stderr_tail: Vec<u8>,
    /// Bytes of its output that were dropped between the two.
    pub stdout_omitted_bytes: u64,
    /// Bytes of its error output that were dropped between the two.
    pub stderr_omitted_bytes: u64,
}
