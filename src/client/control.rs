//! What can be done to a process, from any thread.
//!
//! **Thread:** whichever calls; any number at once.
//! **Owns:** the handle; shares the connection and what is known of the process.
//! **Never:** reads output, and never ends stdin.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Error;
use super::connection::{Call, ClientConnection};
use super::status::ExitStatus;
use super::unread::Shared;
use crate::wire::methods::{Method, method};
use crate::wire::protocol::{
    CloseOutputParams, Condition, InspectParams, Inspection, KillParams, PtySize, ResizePtyParams, RpcError,
    SignalName, Stream, WaitParams, WaitReply, code,
};

/// How long the exit of a process may take to arrive after its handle is free.
const END_WAIT: Duration = Duration::from_secs(1);

/// Waits for, kills, signals and resizes a process from any number of threads: see
/// [`Process::control`](super::Process::control). It keeps the connection open, but not the process alive:
/// that is killed when its [`Process`](super::Process) is dropped.
///
/// ```
/// # use procwire::client::{Client, Command};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = Client::in_process(procwire::Config::default())?;
/// let process = client.spawn(Command::new("sleep").arg("1000"))?;
/// let (one, other) = (process.control(), process.control());
/// let waiting = std::thread::spawn(move || one.wait());
/// other.kill()?;
/// let status = waiting.join().expect("waiting does not panic")?;
/// assert_eq!(status.signal(), Some("SIGKILL"));
/// assert_eq!(other.wait()?, status);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Control {
    connection: Arc<ClientConnection>,
    handle: Arc<str>,
    id: Option<u32>,
    has_tty: bool,
    shared: Arc<Shared>,
}

impl Control {
    pub(super) fn new(
        connection: Arc<ClientConnection>,
        handle: Arc<str>,
        id: Option<u32>,
        has_tty: bool,
        shared: Arc<Shared>,
    ) -> Control {
        Control {
            connection,
            handle,
            id,
            has_tty,
            shared,
        }
    }

    pub(super) fn has_tty(&self) -> bool {
        self.has_tty
    }

    pub(super) fn connection(&self) -> &ClientConnection {
        &self.connection
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn has_ended(&self) -> bool {
        self.shared.has_ended()
    }

    /// Its process id on the server's machine; `None` if the server did not report it, as codex
    /// app-server does not. As with [`std::process::Child::id`], another process may have it once this
    /// one has ended.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// assert_eq!(process.control().id(), process.id());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.id
    }

    /// Its handle, as [`Client::list`](super::Client::list) shows it.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// assert_eq!(process.control().handle(), process.handle());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn handle(&self) -> &str {
        &self.handle
    }

    /// Waits for its end, and leaves its stdin open.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::shell("exit 3"))?;
    /// assert_eq!(process.control().wait()?.code(), Some(3));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first.
    pub fn wait(&self) -> Result<ExitStatus, Error> {
        self.shared.wait(None)?.ok_or(Error::Ended(None))
    }

    /// As [`wait`](Self::wait), but no longer than `timeout`; `None` if it has not ended then.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// assert_eq!(process.control().wait_timeout(Duration::from_millis(1))?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>, Error> {
        self.shared.wait(Instant::now().checked_add(timeout))
    }

    /// How it ended, if it has. Does not wait.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// assert_eq!(process.control().try_wait()?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, Error> {
        self.shared.wait(Some(Instant::now()))
    }

    /// Kills it with SIGKILL, and all it has started that can be found. One that has ended is not an
    /// error.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// let control = process.control();
    /// control.kill()?;
    /// assert_eq!(control.wait()?.signal(), Some("SIGKILL"));
    /// control.kill()?; // has ended
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the server may not kill it, [`Error::Ended`] or [`Error::Io`] if there is
    /// no server any more.
    pub fn kill(&self) -> Result<(), Error> {
        self.end_with(self.kill_params(None, None))
    }

    /// Sends SIGTERM to its process group, and kills it as [`kill`](Self::kill) does if it is still
    /// there after `grace`. Does not wait. One that has ended is not an error.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// let control = process.control();
    /// control.terminate(Duration::from_secs(5))?;
    /// assert_eq!(control.wait()?.signal(), Some("SIGTERM"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill).
    pub fn terminate(&self, grace: Duration) -> Result<(), Error> {
        self.end_with(self.kill_params(Some("TERM".into()), Some(grace)))
    }

    /// Sends a signal to its process group, by name (`"INT"` or `"SIGINT"`) or number.
    ///
    /// ```
    /// # use procwire::client::{Client, Command, Error};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// let control = process.control();
    /// control.signal("INT")?; // or "SIGINT", or 2
    /// assert_eq!(control.wait()?.signal(), Some("SIGINT"));
    /// assert!(matches!(control.signal("INT"), Err(Error::Refused(_)))); // has ended
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if there is no such signal, or the process has ended; otherwise as
    /// [`kill`](Self::kill).
    pub fn signal(&self, signal: impl Into<SignalName>) -> Result<(), Error> {
        let params = self.kill_params(Some(signal.into()), None);
        self.connection.call::<method::Kill>(params).map(drop)
    }

    /// Changes the size of its terminal, in character cells.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::io::Write;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::shell("read line; stty size").tty(24, 80))?;
    /// process.control().resize(40, 120)?;
    /// process.stdin.as_mut().expect("not taken yet").write_all(b"\n")?;
    /// assert!(process.wait_with_output()?.stdout.ends_with(b"40 120\r\n"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it has none, or has ended, or one of the numbers is zero.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), Error> {
        let params = self.resize_params(rows, cols);
        self.connection.call::<method::ResizePty>(params).map(drop)
    }

    /// What the system shows of it now: its processes, its terminal, and whether it waits for input.
    ///
    /// ```
    /// # use procwire::client::{Client, Command, Condition};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::new("cat").tty(24, 80))?;
    /// process.wait_until([Condition::Input], None)?;
    /// let inspection = process.control().inspect()?;
    /// assert_eq!(inspection.waits_for_input, Some(true));
    /// assert_eq!(inspection.processes.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it has ended, or the server has no such method, as codex app-server has not;
    /// [`Error::Ended`] or [`Error::Io`] if there is no server any more.
    pub fn inspect(&self) -> Result<Inspection, Error> {
        let params = InspectParams {
            process_handle: self.handle.to_string(),
        };
        self.connection
            .call::<method::Inspect>(params)
            .map(Arc::unwrap_or_clone)
    }

    /// Sends a signal without waiting for the answer, and so without learning of an error: for a
    /// thread that must not wait while output is held back. With `grace`, the process is killed if it
    /// is still there then. Never waits for a server that does not read: while more than 1 MiB of such
    /// requests is not taken, no more are sent.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// let control = process.control();
    /// control.post_signal("TERM", Some(Duration::from_secs(5)));
    /// assert_eq!(control.wait()?.signal(), Some("SIGTERM"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn post_signal(&self, signal: impl Into<SignalName>, grace: Option<Duration>) {
        let params = self.kill_params(Some(signal.into()), grace);
        self.post::<method::Kill>(params);
    }

    /// Changes the size of its terminal as [`post_signal`](Self::post_signal) sends a signal.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::io::Write;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::shell("read line; stty size").tty(24, 80))?;
    /// process.control().post_resize(40, 120);
    /// process.stdin.as_mut().expect("not taken yet").write_all(b"\n")?;
    /// assert!(process.wait_with_output()?.stdout.ends_with(b"40 120\r\n"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn post_resize(&self, rows: u16, cols: u16) {
        self.post::<method::ResizePty>(self.resize_params(rows, cols));
    }

    fn post<M: Method>(&self, params: M::Params) {
        if self.connection.writer.takes_posts() {
            self.connection.tell::<M>(params);
        }
    }

    /// Waits until one of these conditions holds, from now on: bytes in its output, silence, the end of its
    /// output, its exit. Its output can be read before, during and after the wait, by any thread, and the
    /// output that holds a match has arrived when this returns.
    ///
    /// If the process exits first, or had exited before, or `timeout` is over, [`WaitReply::index`] is `None`,
    /// except that [`Condition::Exit`] holds after an exit. Any number of threads may wait, up to 64 at a time.
    ///
    /// ```
    /// # use procwire::client::{Client, Command, Condition};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let server = client.spawn(Command::shell("while :; do echo ready; sleep 0.1; done"))?;
    /// let until = ["ready".into(), Condition::Exit];
    /// let found = server.wait_until(until, Duration::from_secs(10))?;
    /// assert_eq!(found.index, Some(0));
    ///
    /// let none = server.wait_until(["never".into()], Duration::ZERO)?;
    /// assert_eq!((none.index, none.timed_out), (None, Some(true)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if there is no condition or one without bytes, or if the server has no such method;
    /// otherwise as [`kill`](Self::kill).
    pub fn wait_until(
        &self,
        until: impl IntoIterator<Item = Condition>,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<WaitReply, Error> {
        let until: Vec<Condition> = until.into_iter().collect();
        let exit = until.iter().position(|condition| *condition == Condition::Exit);
        let call = self.start_wait(until, timeout)?;
        self.finish_wait(call, exit)
    }

    /// Waits until one of these texts has appeared in its output, from now on; the place of the first that
    /// has. `None` if the process ends first, or had ended before.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut shell = client.spawn(Command::new("sh").arg("-i").tty(24, 80).env("PS1", "$ "))?;
    /// let control = shell.control();
    /// let answered = control.expect_after(&["file", "No such"], || {
    ///     use std::io::Write;
    ///     shell.stdin.as_mut().expect("not taken").write_all(b"ls /no/such/directory\n")
    /// })?;
    /// assert_eq!(answered, Some(1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`wait_until`](Self::wait_until).
    pub fn expect(&self, texts: &[&str]) -> Result<Option<usize>, Error> {
        let until = texts.iter().map(|&text| text.into());
        self.wait_until(until, None).map(place)
    }

    /// As [`expect`](Self::expect), but of output after the wait has begun, which is before `provoke` is
    /// called: for a write that is answered at once.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// use std::io::Write;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::new("cat"))?;
    /// let mut stdin = process.stdin.take().expect("not taken yet");
    /// let found = process.control().expect_after(&["error", "pong"], || stdin.write_all(b"pong\n"))?;
    /// assert_eq!(found, Some(1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`wait_until`](Self::wait_until), and those of `provoke`.
    pub fn expect_after(
        &self,
        texts: &[&str],
        provoke: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<Option<usize>, Error> {
        let call = self.start_wait(texts.iter().map(|&text| text.into()), None)?;
        provoke()?;
        self.finish_wait(call, None).map(place)
    }

    /// The result of a wait; `exit` is the place of the condition that it exits.
    fn finish_wait(&self, call: Call<method::Wait>, exit: Option<usize>) -> Result<WaitReply, Error> {
        match call.wait(&self.connection) {
            // Its handle was free by then, and its end is on its way.
            Err(Error::Refused(refused)) if refused.code == code::INVALID_REQUEST => {
                match self.wait_timeout(END_WAIT)? {
                    Some(_) => Ok(WaitReply {
                        index: exit.and_then(|place| u64::try_from(place).ok()),
                        timed_out: exit.is_none().then_some(false),
                        exited: exit.is_none().then_some(true),
                        ..WaitReply::default()
                    }),
                    None => Err(Error::Refused(refused)),
                }
            }
            outcome => outcome,
        }
    }

    fn start_wait(
        &self,
        until: impl IntoIterator<Item = Condition>,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<Call<method::Wait>, Error> {
        let timeout = timeout.into();
        self.connection.send::<method::Wait>(WaitParams {
            process_handle: self.handle.to_string(),
            until: until.into_iter().collect(),
            timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            ..WaitParams::default()
        })
    }

    /// Closes a stream without waiting for the answer.
    pub(super) fn post_close(&self, stream: Stream) {
        self.connection.tell::<method::CloseOutput>(CloseOutputParams {
            process_handle: self.handle.to_string(),
            stream: Some(stream),
        });
    }

    /// Kills it without waiting for the answer.
    pub(super) fn post_kill(&self) {
        self.connection.tell::<method::Kill>(self.kill_params(None, None));
    }

    fn resize_params(&self, rows: u16, cols: u16) -> ResizePtyParams {
        ResizePtyParams {
            process_handle: self.handle.to_string(),
            size: PtySize { rows, cols },
        }
    }

    fn end_with(&self, params: KillParams) -> Result<(), Error> {
        if self.has_ended() {
            return Ok(());
        }
        match self.connection.call::<method::Kill>(params) {
            // It has ended meanwhile.
            Err(Error::Refused(RpcError {
                code: code::INVALID_REQUEST,
                ..
            })) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn kill_params(&self, signal: Option<SignalName>, grace: Option<Duration>) -> KillParams {
        KillParams {
            process_handle: self.handle.to_string(),
            signal,
            grace_ms: grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

fn place(reply: WaitReply) -> Option<usize> {
    usize::try_from(reply.index?).ok()
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Control { handle, id, .. } = self;
        f.debug_struct("Control")
            .field("handle", handle)
            .field("id", id)
            .finish_non_exhaustive()
    }
}
