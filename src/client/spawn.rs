//! What to start, and how: the client's counterpart of [`std::process::Command`].
//!
//! **Thread:** whoever calls; plain data.
//! **Owns:** the params of a spawn, and what the client itself does with the process.
//! **Never:** starts anything; [`Client::spawn`](super::Client::spawn) does.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::modes;
use crate::protocol::{Limit, PtySize, SpawnParams};

/// Unread output of a process that is kept, unless the spawn says otherwise.
const UNREAD: usize = 64 * 1024 * 1024;

/// A program to start, with the names of [`std::process::Command`] where it has them.
///
/// Unless told otherwise, a process has stdin, stdout and stderr of its own, connected to
/// [`Process`](super::Process); the server's environment and working directory; no timeout, and no
/// cap on its output. Text is UTF-8, as on the wire.
#[derive(Debug, Clone)]
pub struct Spawn {
    pub(super) params: SpawnParams,
    pub(super) unread_limit: usize,
    pub(super) wait_when_unread: bool,
    pub(super) kill_on_drop: bool,
}

impl Spawn {
    /// This argument vector, the program first. There is no shell.
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Spawn {
        Spawn {
            params: SpawnParams {
                command: command.into_iter().map(Into::into).collect(),
                stream_stdin: true,
                stream_stdout_stderr: true,
                output_bytes_cap: Limit::Unlimited,
                timeout_ms: Limit::Unlimited,
                ..SpawnParams::default()
            },
            unread_limit: UNREAD,
            wait_when_unread: false,
            kill_on_drop: true,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Spawn {
        self.params.command.push(argument.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Spawn {
        self.params.command.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Spawn {
        let env = self.params.env.get_or_insert_default();
        env.insert(name.into(), Some(value.into()));
        self
    }

    /// Sets variables of its environment.
    #[must_use]
    pub fn envs<N: Into<String>, V: Into<String>>(
        self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Spawn {
        variables
            .into_iter()
            .fold(self, |spawn, (name, value)| spawn.env(name, value))
    }

    /// Takes a variable out of its environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<String>) -> Spawn {
        self.params.env.get_or_insert_default().insert(name.into(), None);
        self
    }

    /// Its working directory: an absolute path, on the server's machine.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<String>) -> Spawn {
        self.params.cwd = Some(directory.into());
        self
    }

    /// Gives it a terminal of this size. Everything it prints there is stdout.
    #[must_use]
    pub fn tty(mut self, rows: u16, cols: u16) -> Spawn {
        self.params.tty = true;
        self.params.size = Some(PtySize { rows, cols });
        self
    }

    /// Gives its terminal the modes of another one, as ssh does: keys, echo, line ends and so on. Only
    /// with [`tty`](Self::tty).
    ///
    /// # Errors
    ///
    /// What the system says if `terminal` is not one.
    pub fn modes_of(mut self, terminal: impl AsFd) -> io::Result<Spawn> {
        self.params.terminal_modes = Some(modes::of(terminal.as_fd())?);
        Ok(self)
    }

    /// Its stdin is `/dev/null`. A terminal can be typed at all the same.
    #[must_use]
    pub fn no_stdin(mut self) -> Spawn {
        self.params.stream_stdin = false;
        self
    }

    /// Kills it after this long, in whole milliseconds; its exit code is then 124.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Spawn {
        self.params.timeout_ms = Limit::Of(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Bytes of each stream past which the server drops what it prints.
    #[must_use]
    pub fn output_cap(mut self, bytes: u64) -> Spawn {
        self.params.output_bytes_cap = Limit::Of(bytes);
        self
    }

    /// It and what it starts may outlive the connection. Its pipes and its terminal do not.
    #[must_use]
    pub fn detach(mut self) -> Spawn {
        self.params.detach = true;
        self
    }

    /// Whether it is killed when its [`Process`](super::Process) is dropped before it has ended
    /// (yes). If not it runs on until the connection ends.
    #[must_use]
    pub fn kill_on_drop(mut self, kill: bool) -> Spawn {
        self.kill_on_drop = kill;
        self
    }

    /// Bytes of its output, both streams together, that may wait here to be read (64 MiB). What it
    /// prints beyond that is lost, which reading tells.
    #[must_use]
    pub fn unread_limit(mut self, bytes: usize) -> Spawn {
        self.unread_limit = bytes;
        self
    }

    /// Loses nothing at that limit, and reads nothing more from the server until somebody has read
    /// here: every other process and every answer of this client waits as well. For a client with
    /// one process. [`Process::wait`](super::Process::wait) reads nothing.
    #[must_use]
    pub fn wait_when_unread(mut self) -> Spawn {
        self.wait_when_unread = true;
        self
    }
}
