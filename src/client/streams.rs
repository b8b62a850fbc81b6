//! The three streams of a process, and the two outputs as one sequence of events.
//!
//! **Thread:** whichever calls.
//! **Owns:** nothing but the right to read or write one stream.
//! **Never:** holds bytes back: what is written is sent, and what has come is read.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Error;
use super::control::Control;
use super::unread::{Event, OutputLost, Shared};
use crate::wire::methods::method;
use crate::wire::protocol::{Stream, WriteStdinParams, code};

/// The input of a process, with the shape of [`std::process::ChildStdin`]. Dropping it ends the input;
/// on a terminal, end-of-file is typed.
///
/// Each write is answered by the server, and waits for its answer while more than 1 MiB is pending that
/// the process has not read. So a process that reads slowly slows the thread that writes.
#[derive(Debug)]
pub struct Stdin(Control);

impl Stdin {
    pub(super) fn new(control: Control) -> Stdin {
        Stdin(control)
    }

    fn params(&self, delta: Option<&[u8]>, close_stdin: bool) -> WriteStdinParams {
        WriteStdinParams {
            process_handle: self.0.handle().to_owned(),
            delta: delta.map(<[u8]>::to_vec),
            close_stdin,
        }
    }
}

impl Write for Stdin {
    /// Fails with [`io::ErrorKind::BrokenPipe`] when the process has closed its input or has ended, and
    /// with [`io::ErrorKind::ConnectionAborted`] when the connection has ended.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let bytes = &bytes[..bytes.len().min(self.0.connection().write_bytes())];
        match self
            .0
            .connection()
            .call::<method::WriteStdin>(self.params(Some(bytes), false))
        {
            Ok(_) => Ok(bytes.len()),
            Err(Error::Refused(e)) if e.code == code::INVALID_REQUEST => {
                Err(io::Error::new(io::ErrorKind::BrokenPipe, Error::Refused(e)))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Does nothing: nothing is held back.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        if !self.0.has_ended() {
            self.0
                .connection()
                .tell::<method::WriteStdin>(self.params(None, true));
        }
    }
}

/// The reading end of one stream.
struct Reading {
    control: Control,
    stream: Stream,
    /// Dropping it closes the stream, which its process can notice.
    closes: bool,
}

impl Reading {
    fn new(control: Control, stream: Stream) -> Reading {
        let closes = !control.has_tty();
        Reading {
            control,
            stream,
            closes,
        }
    }
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.control.shared().read(self.stream, buffer)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let (control, stream) = (&self.control, self.stream);
        if self.closes && control.shared().is_open(stream) {
            control.post_close(stream);
        }
        control.shared().close(stream);
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:?}", self.stream.name(), self.control.handle())
    }
}

/// The output of a process, with the shape of [`std::process::ChildStdout`]. Reading waits until there
/// is some, and ends when the stream or the process has ended.
///
/// Dropping it throws away what is there and what still comes, and closes the stream: at its next write
/// the process gets SIGPIPE, or an error, as with std's. The output of a terminal is not closed, nor is that
/// of a server without `process/closeOutput`, such as codex app-server. There a program that prints without
/// end goes on until it is [killed](super::Process::kill), and so does one whose
/// [`Process`](super::Process) was dropped without killing it.
///
/// Reading fails with [`OutputLost`] where output was dropped, and with
/// [`io::ErrorKind::ConnectionAborted`] when the connection has ended.
#[derive(Debug)]
pub struct Stdout(Reading);

impl Stdout {
    pub(super) fn new(control: Control) -> Stdout {
        Stdout(Reading::new(control, Stream::Stdout))
    }

    /// Dropping it does not close the stream.
    pub(super) fn leave_open(&mut self) {
        self.0.closes = false;
    }
}

impl Read for Stdout {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// The error output of a process; as [`Stdout`], with the shape of [`std::process::ChildStderr`].
#[derive(Debug)]
pub struct Stderr(Reading);

impl Stderr {
    pub(super) fn new(control: Control) -> Stderr {
        Stderr(Reading::new(control, Stream::Stderr))
    }

    /// Dropping it does not close the stream.
    pub(super) fn leave_open(&mut self) {
        self.0.closes = false;
    }
}

impl Read for Stderr {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// What a process prints on both streams, in order: see [`Process::events`](super::Process::events).
/// Ends when both streams or the process have ended, or after the error that reports the end of the
/// connection. Dropping it closes both, as dropping [`Stdout`] does.
#[derive(Debug)]
pub struct Events {
    stdout: Option<Stdout>,
    stderr: Option<Stderr>,
    shared: Arc<Shared>,
    /// The end of the connection has been reported.
    over: bool,
}

impl Events {
    pub(super) fn new(stdout: Option<Stdout>, stderr: Option<Stderr>, shared: Arc<Shared>) -> Events {
        Events {
            stdout,
            stderr,
            shared,
            over: false,
        }
    }

    /// Waits for the next event, but no longer than `timeout`; `None` if there was none.
    /// The end of the process is `Some(Ok(None))`.
    ///
    /// ```
    /// # use procwire::client::{Client, Command, Event};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut quiet = client.spawn(Command::new("cat"))?;
    /// let mut events = quiet.events();
    /// assert!(events.next_timeout(Duration::from_millis(10)).is_none());
    /// drop(quiet.stdin.take()); // the end of its input
    /// assert!(matches!(events.next_timeout(Duration::from_secs(10)), Some(Ok(None))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<io::Result<Option<Event>>> {
        self.take(Instant::now().checked_add(timeout))
    }

    fn take(&mut self, deadline: Option<Instant>) -> Option<io::Result<Option<Event>>> {
        if self.over {
            return Some(Ok(None));
        }
        let stdout = self.stdout.as_ref().map(|_| Stream::Stdout);
        let stderr = self.stderr.as_ref().map(|_| Stream::Stderr);
        let streams: Vec<Stream> = stdout.into_iter().chain(stderr).collect();
        let event = self.shared.next(&streams, deadline);
        if let Some(Err(error)) = &event {
            // After output that was lost there may be more.
            self.over = !OutputLost::is(error);
        }
        event
    }
}

impl Iterator for Events {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<io::Result<Event>> {
        self.take(None)?.transpose()
    }
}
