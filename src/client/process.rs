//! One process of a client: its streams, its end, and what can be done to it.
//!
//! **Thread:** whoever calls; `client-read` delivers output and the exit.
//! **Owns:** output that was received and not yet read, within its limit.
//! **Never:** keeps `client-read` waiting, unless the spawn asked for that.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Error, Link, lock};
use crate::protocol::{
    Exited, KillParams, PtySize, Request, ResizePtyParams, RpcError, SignalName, Stream, WriteStdinParams,
    code,
};

/// What one request writes at most.
const WRITE: usize = 256 * 1024;
/// Deltas that follow each other are kept as one piece up to this.
const PIECE: usize = 64 * 1024;
/// What a piece costs beside its bytes, so that many tiny ones are bounded too.
const PIECE_COST: usize = 64;

/// What `client-read` and the readers of a process share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Output has come or was read, the process has ended, or the connection.
    changed: Condvar,
    limit: usize,
    wait: bool,
}

#[derive(Default)]
struct State {
    streams: [Unread; 2],
    /// Bytes and costs of all pieces.
    kept: usize,
    /// Counts pieces, so that those of both streams have an order.
    count: u64,
    end: Option<End>,
    /// The connection is being closed; nobody is waited for.
    let_go: bool,
}

/// Output of one stream that waits to be read.
#[derive(Default)]
struct Unread {
    pieces: VecDeque<Piece>,
    /// What comes is not wanted: the reading end was dropped.
    closed: bool,
    /// Bytes were lost behind the pieces.
    lost: bool,
    /// Somebody has been told.
    told: bool,
}

struct Piece {
    number: u64,
    bytes: Vec<u8>,
    /// How much of it has been read.
    read: usize,
}

enum End {
    Exited(ExitStatus),
    ConnectionEnded(Option<String>),
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

impl Shared {
    pub(super) fn new(limit: usize, wait: bool) -> Shared {
        Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            limit,
            wait,
        }
    }

    // ---- for `client-read` ----

    pub(super) fn deliver(&self, stream: Stream, bytes: Vec<u8>) {
        let mut state = lock(&self.state);
        let cost = bytes.len() + PIECE_COST;
        if self.wait {
            // Whoever reads, closes the stream or lets go ends this.
            let full = |state: &mut State| {
                state.kept > 0
                    && state.kept + cost > self.limit
                    && !state.streams[index(stream)].closed
                    && !state.let_go
            };
            state = self
                .changed
                .wait_while(state, full)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let state = &mut *state;
        let unread = &mut state.streams[index(stream)];
        if unread.closed || unread.lost || bytes.is_empty() {
            return;
        }
        if !self.wait && state.kept + cost > self.limit {
            unread.lost = true;
        } else if let Some(last) = unread.pieces.back_mut()
            && last.number == state.count
            && last.bytes.len() + bytes.len() <= PIECE
        {
            state.kept += bytes.len();
            last.bytes.extend_from_slice(&bytes);
        } else {
            state.kept += cost;
            state.count += 1;
            unread.pieces.push_back(Piece {
                number: state.count,
                bytes,
                read: 0,
            });
        }
        self.changed.notify_all();
    }

    pub(super) fn exited(&self, exited: Exited) {
        self.end(End::Exited(ExitStatus(Arc::new(exited))));
    }

    pub(super) fn connection_ended(&self, reason: Option<String>) {
        self.end(End::ConnectionEnded(reason));
    }

    fn end(&self, end: End) {
        lock(&self.state).end = Some(end);
        self.changed.notify_all();
    }

    // ---- for everybody else ----

    pub(super) fn let_go(&self) {
        lock(&self.state).let_go = true;
        self.changed.notify_all();
    }

    fn status(&self) -> Option<ExitStatus> {
        match &lock(&self.state).end {
            Some(End::Exited(status)) => Some(status.clone()),
            _ => None,
        }
    }

    /// Waits for what `look` finds, until `deadline`; `None` if it has not found it by then.
    fn wait_for<T>(
        &self,
        deadline: Option<Instant>,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let mut state = lock(&self.state);
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn wait(&self, deadline: Option<Instant>) -> Result<Option<ExitStatus>, Error> {
        let outcome = self.wait_for(deadline, |state| match &state.end {
            None => None,
            Some(End::Exited(status)) => Some(Ok(status.clone())),
            Some(End::ConnectionEnded(reason)) => Some(Err(Error::Ended(reason.clone()))),
        });
        outcome.transpose()
    }

    fn read(&self, stream: Stream, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = self.wait_for(None, |state| {
            let Some(piece) = state.streams[index(stream)].pieces.front_mut() else {
                return state.at_end(stream).map(|end| end.map(|()| 0));
            };
            let unread = &piece.bytes[piece.read..];
            let n = unread.len().min(buffer.len());
            buffer[..n].copy_from_slice(&unread[..n]);
            piece.read += n;
            if piece.read == piece.bytes.len() {
                state.take_front(stream);
            }
            Some(Ok(n))
        });
        self.changed.notify_all();
        n.unwrap_or(Ok(0))
    }

    /// The next piece of those of `streams`, in the order they came; `Ok(None)` at the end of all.
    fn next(&self, streams: &[Stream], deadline: Option<Instant>) -> Option<io::Result<Option<Event>>> {
        let event = self.wait_for(deadline, |state| {
            let first = streams
                .iter()
                .filter_map(|&stream| Some((state.streams[index(stream)].pieces.front()?.number, stream)))
                .min_by_key(|(number, _)| *number);
            if let Some((_, stream)) = first {
                let mut piece = state.take_front(stream)?;
                piece.bytes.drain(..piece.read);
                return Some(Ok(Some(match stream {
                    Stream::Stdout => Event::Stdout(piece.bytes),
                    Stream::Stderr => Event::Stderr(piece.bytes),
                })));
            }
            let mut all_ended = true;
            for &stream in streams {
                match state.at_end(stream) {
                    Some(Err(error)) => return Some(Err(error)),
                    Some(Ok(())) => {}
                    None => all_ended = false,
                }
            }
            all_ended.then_some(Ok(None))
        });
        self.changed.notify_all();
        event
    }

    fn close(&self, stream: Stream) {
        let mut state = lock(&self.state);
        state.streams[index(stream)].closed = true;
        while state.take_front(stream).is_some() {}
        self.changed.notify_all();
    }
}

impl State {
    fn take_front(&mut self, stream: Stream) -> Option<Piece> {
        let piece = self.streams[index(stream)].pieces.pop_front()?;
        self.kept -= piece.bytes.len() + PIECE_COST;
        Some(piece)
    }

    /// What a reader finds behind the last piece; `None` if there may be more.
    fn at_end(&mut self, stream: Stream) -> Option<io::Result<()>> {
        let unread = &mut self.streams[index(stream)];
        if unread.lost && !unread.told {
            unread.told = true;
            return Some(Err(io::Error::other(OutputLost(()))));
        }
        match &self.end {
            Some(End::Exited(_)) => Some(Ok(())),
            Some(End::ConnectionEnded(reason)) => Some(Err(Error::Ended(reason.clone()).into())),
            None => None,
        }
    }
}

/// Inside the [`io::Error`] of a read: output beyond [`Spawn::unread_limit`](super::Spawn::unread_limit)
/// was dropped because nobody had read what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLost(());

impl fmt::Display for OutputLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("output was lost here: more than the unread limit had not been read")
    }
}

impl std::error::Error for OutputLost {}

// ---- control ----

/// What can be done to a process, from any thread. Kept from [`Process::control`].
#[derive(Clone)]
pub struct Control {
    link: Arc<Link>,
    handle: Arc<str>,
    pid: u32,
    shared: Arc<Shared>,
}

impl Control {
    pub(super) fn new(link: Arc<Link>, handle: Arc<str>, pid: u32, shared: Arc<Shared>) -> Control {
        Control {
            link,
            handle,
            pid,
            shared,
        }
    }

    /// Its process id, on the server's machine.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its handle, as [`Client::list`](super::Client::list) shows it.
    #[must_use]
    pub fn handle(&self) -> &str {
        &self.handle
    }

    /// Kills it and all it has started that can be found. One that has ended is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] or [`Error::Io`] if there is no server any more.
    pub fn kill(&self) -> Result<(), Error> {
        self.end_with(self.kill_params(None, None))
    }

    /// Sends SIGTERM to its process group, and kills it as [`kill`](Self::kill) does if it is still
    /// there after `grace`. Does not wait. One that has ended is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] or [`Error::Io`] if there is no server any more.
    pub fn terminate(&self, grace: Duration) -> Result<(), Error> {
        self.end_with(self.kill_params(Some("TERM".into()), Some(grace)))
    }

    /// Sends a signal to its process group, by name (`"INT"` or `"SIGINT"`) or number.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if there is no such signal, or no such process any more.
    pub fn signal(&self, signal: impl Into<SignalName>) -> Result<(), Error> {
        let params = self.kill_params(Some(signal.into()), None);
        self.link.call(Request::Kill(params)).map(drop)
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it has none, or has ended, or one of the numbers is zero.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), Error> {
        let params = self.resize_params(rows, cols);
        self.link.call(Request::ResizePty(params)).map(drop)
    }

    /// Sends a signal without waiting for the answer, and so without learning of an error: for
    /// whoever must not wait while output is held back. With `grace`, the process is killed if it is
    /// still there then.
    pub fn post_signal(&self, signal: impl Into<SignalName>, grace: Option<Duration>) {
        let params = self.kill_params(Some(signal.into()), grace);
        self.link.tell(Request::Kill(params));
    }

    /// Changes the size of its terminal as [`post_signal`](Self::post_signal) sends a signal.
    pub fn post_resize(&self, rows: u16, cols: u16) {
        self.link.tell(Request::ResizePty(self.resize_params(rows, cols)));
    }

    fn resize_params(&self, rows: u16, cols: u16) -> ResizePtyParams {
        ResizePtyParams {
            process_handle: self.handle.to_string(),
            size: PtySize { rows, cols },
        }
    }

    fn end_with(&self, params: KillParams) -> Result<(), Error> {
        if self.shared.status().is_some() {
            return Ok(());
        }
        match self.link.call(Request::Kill(params)) {
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

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Control { handle, pid, .. } = self;
        f.debug_struct("Control")
            .field("handle", handle)
            .field("pid", pid)
            .finish_non_exhaustive()
    }
}

// ---- the process ----

/// A running program, with the shape of [`std::process::Child`].
///
/// Dropping it kills the program, unless [`Spawn::kill_on_drop`](super::Spawn::kill_on_drop) says
/// otherwise; what can be done to it is on [`Control`], to which it dereferences.
#[derive(Debug)]
pub struct Process {
    /// Its input. Dropping it is the end of input; on a terminal, end-of-file is typed. `None` if
    /// the spawn wanted none.
    pub stdin: Option<Stdin>,
    /// Its output, and on a terminal everything it prints.
    pub stdout: Option<Stdout>,
    /// Its error output; on a terminal there is never any.
    pub stderr: Option<Stderr>,
    control: Control,
    kill_on_drop: bool,
}

impl Process {
    pub(super) fn new(control: Control, has_stdin: bool, kill_on_drop: bool) -> Process {
        let reading = |stream| Reading {
            control: control.clone(),
            stream,
        };
        Process {
            stdin: has_stdin.then(|| Stdin(control.clone())),
            stdout: Some(Stdout(reading(Stream::Stdout))),
            stderr: Some(Stderr(reading(Stream::Stderr))),
            control,
            kill_on_drop,
        }
    }

    /// Something to kill, signal and resize it with, from another thread for one.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// What it prints on both streams, in the order the server read it. Takes `stdout` and `stderr`.
    pub fn events(&mut self) -> Events {
        Events {
            stdout: self.stdout.take(),
            stderr: self.stderr.take(),
            shared: Arc::clone(&self.control.shared),
            over: false,
        }
    }

    /// Closes its stdin and waits for its end. Its output can be read before and after.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first.
    pub fn wait(&mut self) -> Result<ExitStatus, Error> {
        drop(self.stdin.take());
        let status = self.control.shared.wait(None)?;
        status.ok_or(Error::Ended(None))
    }

    /// As [`wait`](Self::wait), but no longer than `timeout`; `None` if it has not ended then.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<ExitStatus>, Error> {
        drop(self.stdin.take());
        self.control.shared.wait(Instant::now().checked_add(timeout))
    }

    /// How it ended, if it has. Leaves stdin open.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.control.shared.wait(Some(Instant::now()))
    }

    /// Closes its stdin, reads all that is left of its output, and waits for its end.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the connection ended first, [`Error::Io`] if output was lost.
    pub fn wait_with_output(mut self) -> Result<Output, Error> {
        drop(self.stdin.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        for event in self.events() {
            match event? {
                Event::Stdout(mut bytes) => stdout.append(&mut bytes),
                Event::Stderr(mut bytes) => stderr.append(&mut bytes),
            }
        }
        Ok(Output {
            status: self.wait()?,
            stdout,
            stderr,
        })
    }
}

impl Deref for Process {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kill_on_drop && self.control.shared.status().is_none() {
            let params = self.control.kill_params(None, None);
            self.control.link.tell(Request::Kill(params));
        }
    }
}

/// How a process ended, with the shape of [`std::process::ExitStatus`]; everything else that is
/// known of its end is on [`Exited`], to which it dereferences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitStatus(Arc<Exited>);

impl ExitStatus {
    /// Whether it ended by itself with exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.0.exit_code == 0
    }

    /// Its exit code; `None` if it was killed by a signal or because its time was up.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        (self.0.signal.is_none() && !self.0.timed_out).then_some(self.0.exit_code)
    }

    /// The name of the signal that ended it, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<&str> {
        self.0.signal.as_deref()
    }
}

impl Deref for ExitStatus {
    type Target = Exited;

    fn deref(&self) -> &Exited {
        &self.0
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.signal, self.0.timed_out) {
            (_, true) => f.write_str("timed out"),
            (Some(signal), _) => write!(f, "killed by {signal}"),
            (None, _) => write!(f, "exit code {}", self.0.exit_code),
        }
    }
}

/// How a process ended and all it printed, with the shape of [`std::process::Output`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its output that nobody had read.
    pub stdout: Vec<u8>,
    /// All of its error output that nobody had read.
    pub stderr: Vec<u8>,
}

// ---- streams ----

/// The input of a process.
///
/// Each write is answered, and waits for its answer while more than 1 MiB is pending that the
/// process has not read, so a process that reads slowly slows whoever writes.
#[derive(Debug)]
pub struct Stdin(Control);

impl Stdin {
    fn request(&self, delta: Option<&[u8]>, close_stdin: bool) -> Request {
        Request::WriteStdin(WriteStdinParams {
            process_handle: self.0.handle.to_string(),
            delta: delta.map(<[u8]>::to_vec),
            close_stdin,
        })
    }
}

impl Write for Stdin {
    /// Fails with [`io::ErrorKind::BrokenPipe`] when the process has closed its input or has ended.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let bytes = &bytes[..bytes.len().min(WRITE)];
        match self.0.link.call(self.request(Some(bytes), false)) {
            Ok(_) => Ok(bytes.len()),
            Err(Error::Refused(e)) if e.code == code::INVALID_REQUEST => {
                Err(io::Error::new(io::ErrorKind::BrokenPipe, e))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Nothing is held back here.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        if self.0.shared.status().is_none() {
            self.0.link.tell(self.request(None, true));
        }
    }
}

/// The reading end of one stream. Dropping it throws away what still comes.
struct Reading {
    control: Control,
    stream: Stream,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.control.shared.read(self.stream, buffer)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.control.shared.close(self.stream);
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:?}", self.stream.name(), self.control.handle)
    }
}

/// The output of a process. Reading waits until there is some, and ends with the process.
///
/// Dropping it throws away what still comes; the process does not notice.
#[derive(Debug)]
pub struct Stdout(Reading);

impl Read for Stdout {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// The error output of a process, as [`Stdout`].
#[derive(Debug)]
pub struct Stderr(Reading);

impl Read for Stderr {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Output of one of the two streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next bytes of stdout.
    Stdout(Vec<u8>),
    /// The next bytes of stderr.
    Stderr(Vec<u8>),
}

/// What a process prints on both streams, in order: see [`Process::events`]. Ends with the process, or
/// behind the error that tells the end of the connection.
#[derive(Debug)]
pub struct Events {
    stdout: Option<Stdout>,
    stderr: Option<Stderr>,
    shared: Arc<Shared>,
    /// The end of the connection has been told.
    over: bool,
}

impl Events {
    /// Waits for the next event, but no longer than `timeout`; `None` if there was none.
    /// The end of the process is `Some(Ok(None))`.
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
            // Behind output that was lost there may be more.
            self.over = !error.get_ref().is_some_and(|error| error.is::<OutputLost>());
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

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}
