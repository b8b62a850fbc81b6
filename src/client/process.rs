//! One running program as its client sees it.
//!
//! **Thread:** whichever calls.
//! **Owns:** the three streams until they are taken, and the program's life unless it was told not to.
//! **Never:** waits when it is dropped, unless nothing else holds its connection and the server is in this
//! program.

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::control::Control;
use super::status::{ExitStatus, Output};
use super::streams::{Events, Stderr, Stdin, Stdout};
use super::unread::Event;
use super::unread::Gap;
use crate::wire::protocol::{Condition, Inspection, SignalName, Stream, WaitReply};

/// A running program, with the shape of [`std::process::Child`].
///
/// Dropping it kills the program and all it has started, unless
/// [`Command::kill_on_drop`](super::Command::kill_on_drop) says otherwise. For other threads there is
/// [`control`](Self::control).
///
/// ```
/// # use procwire::client::{Client, Command};
/// # use std::io::{Read, Write};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = Client::in_process(procwire::Config::default())?;
/// let mut cat = client.spawn(Command::new("cat"))?;
/// cat.stdin.take().expect("not taken yet").write_all(b"hello")?; // dropped: the end of input
/// let mut text = String::new();
/// cat.stdout.take().expect("not taken yet").read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// assert!(cat.wait()?.success());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Process {
    /// Its input. `None` if the command redirects it, or it was taken.
    pub stdin: Option<Stdin>,
    /// Its output, and on a terminal everything it prints. `None` if the command redirects it, or it was
    /// taken.
    ///
    /// Dropping it closes it, so that a program that prints on gets SIGPIPE. To discard output without
    /// killing its program, use [`output_cap(0)`](super::Command::output_cap), with which it is not sent.
    pub stdout: Option<Stdout>,
    /// Its error output; always empty on a terminal. `None` as with `stdout`.
    pub stderr: Option<Stderr>,
    control: Control,
    kill_on_drop: bool,
}

/// Which streams of a process its client has the other end of.
pub(super) struct Pipes {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

impl Process {
    pub(super) fn new(control: Control, pipes: Pipes, kill_on_drop: bool) -> Process {
        Process {
            stdin: pipes.stdin.then(|| Stdin::new(control.clone())),
            stdout: pipes.stdout.then(|| Stdout::new(control.clone())),
            stderr: pipes.stderr.then(|| Stderr::new(control.clone())),
            control,
            kill_on_drop,
        }
    }

    /// A handle that waits for, kills, signals and resizes it from other threads.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// let control = process.control();
    /// std::thread::spawn(move || control.kill());
    /// assert_eq!(process.wait()?.signal(), Some("SIGKILL"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// What it prints on both streams, in the order the server read it. Takes `stdout` and `stderr`;
    /// of a stream that was taken before there are no events.
    ///
    /// ```
    /// # use procwire::client::{Client, Command, Event};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::shell("echo out; echo err >&2"))?;
    /// let (mut out, mut err) = (Vec::new(), Vec::new());
    /// for event in process.events() {
    ///     match event? {
    ///         Event::Stdout(bytes) => out.extend(bytes),
    ///         Event::Stderr(bytes) => err.extend(bytes),
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!((out, err), (b"out\n".to_vec(), b"err\n".to_vec()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&mut self) -> Events {
        let shared = Arc::clone(self.control.shared());
        Events::new(self.stdout.take(), self.stderr.take(), shared)
    }

    /// Closes its stdin and waits for its end. Its output can be read before and after, and need not be
    /// read, except with [`Command::wait_when_unread`](super::Command::wait_when_unread). A program that
    /// prints without end does not exit, unless its output was dropped.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut yes = client.spawn(Command::new("yes"))?;
    /// drop(yes.stdout.take()); // its next write fails
    /// assert_eq!(yes.wait()?.signal(), Some("SIGPIPE"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first.
    pub fn wait(&mut self) -> Result<ExitStatus, Error> {
        drop(self.stdin.take());
        self.control.wait()
    }

    /// As [`wait`](Self::wait), but no longer than `timeout`; `None` if it has not ended then. Closes
    /// its stdin first, too.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut sleep = client.spawn(Command::new("sleep").arg("1000"))?;
    /// if sleep.wait_timeout(Duration::from_millis(10))?.is_none() {
    ///     sleep.terminate(Duration::from_secs(2))?;
    /// }
    /// assert_eq!(sleep.wait()?.signal(), Some("SIGTERM"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<ExitStatus>, Error> {
        drop(self.stdin.take());
        self.control.wait_timeout(timeout)
    }

    /// How it ended, if it has. Does not wait, and leaves stdin open.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut cat = client.spawn(Command::new("cat"))?;
    /// assert_eq!(cat.try_wait()?, None);
    /// let status = cat.wait()?;
    /// assert_eq!(cat.try_wait()?, Some(status));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.control.try_wait()
    }

    /// Closes its stdin, reads all that is left of its output, and waits for its end. The output is
    /// kept whole, regardless of [`Command::unread_limit`](super::Command::unread_limit); only
    /// [`Command::output_cap`](super::Command::output_cap) bounds it.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::io::Write;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut sort = client.spawn(Command::new("sort"))?;
    /// sort.stdin.as_mut().expect("not taken").write_all(b"b\na\n")?;
    /// assert_eq!(sort.wait_with_output()?.stdout, b"a\nb\n");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first, [`Error::Io`] if output was lost before.
    pub fn wait_with_output(mut self) -> Result<Output, Error> {
        drop(self.stdin.take());
        self.read_to_end()
    }

    /// Reads all that is left of its output and waits for its end. Leaves stdin to the thread that
    /// writes it.
    pub(super) fn read_to_end(&mut self) -> Result<Output, Error> {
        self.control.shared().keep_all();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        for event in self.events() {
            let (all, bytes) = match event {
                Ok(Event::Stdout(bytes)) => (&mut stdout, bytes),
                Ok(Event::Stderr(bytes)) => (&mut stderr, bytes),
                Err(error) => return Err(Error::from_read(error)),
            };
            match all.is_empty() {
                true => *all = bytes,
                false => all.extend_from_slice(&bytes),
            }
        }
        let status = self.control.wait()?;
        let shared = self.control.shared();
        let (out, err) = (shared.gap(Stream::Stdout), shared.gap(Stream::Stderr));
        let tail = |all: &mut Vec<u8>, gap: Gap| all.split_off(all.len().saturating_sub(gap.tail_bytes));
        Ok(Output {
            status,
            stdout_tail: tail(&mut stdout, out),
            stderr_tail: tail(&mut stderr, err),
            stdout,
            stderr,
            stdout_omitted_bytes: out.omitted_bytes,
            stderr_omitted_bytes: err.omitted_bytes,
        })
    }

    /// As [`Control::wait_until`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command, Condition};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(&Command::new("cat"))?;
    /// let reply = process.wait_until([Condition::Input, Condition::Exit], Duration::from_secs(10))?;
    /// assert_eq!(reply.index, Some(0), "it waits for input");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As there.
    pub fn wait_until(
        &self,
        until: impl IntoIterator<Item = Condition>,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<WaitReply, Error> {
        self.control.wait_until(until, timeout)
    }

    /// As [`Control::expect`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(&Command::shell("while :; do echo listening on port 80; sleep 0.1; done"))?;
    /// assert_eq!(process.expect(&["port"])?, Some(0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As there.
    pub fn expect(&self, texts: &[&str]) -> Result<Option<usize>, Error> {
        self.control.expect(texts)
    }

    /// As [`Control::id`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::shell("echo $$"))?;
    /// let id = process.id().expect("this server reports it");
    /// assert_eq!(process.wait_with_output()?.stdout, format!("{id}\n").into_bytes());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.control.id()
    }

    /// As [`Control::handle`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// assert_eq!(client.list()?[0].process_handle, process.handle());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn handle(&self) -> &str {
        self.control.handle()
    }

    /// As [`Control::kill`]: kills it with all it has started that can be found, where std's kills one
    /// process.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::shell("trap '' TERM; sleep 1000 & wait"))?;
    /// process.kill()?; // the sleep as well
    /// assert_eq!(process.wait()?.signal(), Some("SIGKILL"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Control::kill`].
    pub fn kill(&self) -> Result<(), Error> {
        self.control.kill()
    }

    /// As [`Control::terminate`]: SIGTERM, and what `kill` does if it is still there after `grace`.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// process.terminate(Duration::from_secs(5))?;
    /// assert_eq!(process.wait()?.signal(), Some("SIGTERM"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Control::terminate`].
    pub fn terminate(&self, grace: Duration) -> Result<(), Error> {
        self.control.terminate(grace)
    }

    /// As [`Control::signal`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::io::Read;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done";
    /// let mut shell = client.spawn(Command::shell(script))?;
    /// shell.stdout.as_mut().expect("not taken").read_exact(&mut [0; 6])?; // "ready\n"
    /// shell.signal("INT")?;
    /// assert_eq!(shell.wait()?.code(), Some(9));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Control::signal`].
    pub fn signal(&self, signal: impl Into<SignalName>) -> Result<(), Error> {
        self.control.signal(signal)
    }

    /// As [`Control::inspect`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let cat = client.spawn(Command::new("cat"))?;
    /// # while cat.inspect()?.waits_for_input == Some(false) {}
    /// let inspection = cat.inspect()?;
    /// assert_eq!(inspection.waits_for_input, Some(true));
    /// assert_eq!(inspection.processes[0].command.as_deref(), Some(&["cat".to_owned()][..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Control::inspect`].
    pub fn inspect(&self) -> Result<Inspection, Error> {
        self.control.inspect()
    }

    /// As [`Control::resize`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::io::Write;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut shell = client.spawn(Command::shell("read line; stty size").tty(24, 80))?;
    /// shell.resize(50, 132)?;
    /// shell.stdin.as_mut().expect("not taken").write_all(b"\n")?;
    /// assert!(shell.wait_with_output()?.stdout.ends_with(b"50 132\r\n"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Control::resize`].
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), Error> {
        self.control.resize(rows, cols)
    }

    /// As [`Control::post_signal`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// process.post_signal("HUP", None);
    /// assert_eq!(process.wait()?.signal(), Some("SIGHUP"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn post_signal(&self, signal: impl Into<SignalName>, grace: Option<Duration>) {
        self.control.post_signal(signal, grace);
    }

    /// As [`Control::post_resize`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::io::Write;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::shell("read line; stty size").tty(24, 80))?;
    /// process.post_resize(40, 120);
    /// process.stdin.as_mut().expect("not taken yet").write_all(b"\n")?;
    /// assert!(process.wait_with_output()?.stdout.ends_with(b"40 120\r\n"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn post_resize(&self, rows: u16, cols: u16) {
        self.control.post_resize(rows, cols);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is killed, or it goes on; neither shows in its streams.
        if let Some(stdout) = &mut self.stdout {
            stdout.leave_open();
        }
        if let Some(stderr) = &mut self.stderr {
            stderr.leave_open();
        }
        if self.kill_on_drop && !self.control.has_ended() {
            self.control.post_kill();
        }
    }
}
