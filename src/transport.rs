//! The two threads between lines and messages.
//!
//! **Thread:** `rpc-read` runs [`read_lines`], `rpc-write` runs [`write_lines`].
//! **Owns:** the client's input with its line buffer; the client's output with its encode buffer.
//! **Never:** knows what a request means. A reader that waits is ended by its end of input or, on
//! stdio, by the [`Wake`]; a writer that waits is ended by its queue or by its client.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::message::{self, ClientMessage};
use crate::outbox::{NoMessage, OutboxReceiver};
use crate::protocol::RpcError;
use crate::sys::{self, EventFd, Interest};

/// The encode buffer is written out when it holds this much, or when there is nothing to add.
const BATCH: usize = 64 * 1024;
/// How much a read of the client's input asks for.
const READ: usize = 128 * 1024;
/// The pipe to the client is asked to hold this much once it has carried [`BUSY`].
const PIPE: libc::c_int = 256 * 1024;
const BUSY: u64 = 1024 * 1024;

/// What comes from the client.
pub(crate) enum Inbound {
    Message(ClientMessage, Option<Weight>),
    /// The client has closed its end of the output.
    OutputGone,
}

/// Whether this connection's messages carry `"jsonrpc":"2.0"`: the client's first message decides.
#[derive(Default)]
pub(crate) struct Dialect(AtomicBool);

// ---- reading ----

/// Bounds the bytes of the messages that wait for the dispatcher.
pub(crate) struct Gate {
    used: Mutex<usize>,
    room: Condvar,
    limit: usize,
}

/// A message's share of a [`Gate`], given back when the dispatcher has taken the message.
pub(crate) struct Weight {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    fn new(limit: usize) -> Arc<Gate> {
        Arc::new(Gate {
            used: Mutex::new(0),
            room: Condvar::new(),
            limit,
        })
    }

    /// Waits until there is room; the dispatcher makes it. One message is always let in.
    fn enter(self: &Arc<Self>, bytes: usize) -> Weight {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > self.limit {
            used = self.room.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Weight {
            gate: Arc::clone(self),
            bytes,
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        *self.gate.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.gate.room.notify_one();
    }
}

/// Turns lines into messages for `inbox`, until the input ends or nobody takes them.
/// The end of input is told by dropping `inbox`.
pub(crate) fn read_lines(
    reader: Box<dyn Read + Send>,
    inbox: &Sender<Inbound>,
    dialect: &Dialect,
    limit: usize,
) {
    sys::block_signals_for_this_thread();
    let gate = Gate::new(limit.saturating_mul(2));
    let mut lines = Lines::new(reader, limit);
    let mut first = true;
    loop {
        let inbound = match lines.next() {
            Ok(Line::Complete(line)) => {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let parsed = message::parse(line);
                if let (true, Some(jsonrpc)) = (first, parsed.jsonrpc) {
                    first = false;
                    dialect.0.store(jsonrpc, SeqCst);
                }
                if parsed.message == ClientMessage::Notification {
                    continue;
                }
                Inbound::Message(parsed.message, Some(gate.enter(line.len())))
            }
            Ok(Line::TooLong) => Inbound::Message(
                ClientMessage::Invalid {
                    id: None,
                    error: RpcError::invalid_request(format!(
                        "a line is longer than the limit of {limit} bytes; it was skipped"
                    )),
                },
                None,
            ),
            Ok(Line::End) => return,
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Inbound::OutputGone,
            Err(e) => {
                log::warn!("reading requests failed, which ends the connection: {e}");
                return;
            }
        };
        let over = matches!(inbound, Inbound::OutputGone);
        if inbox.send(inbound).is_err() || over {
            return;
        }
    }
}

enum Line<'a> {
    /// Without its LF.
    Complete(&'a [u8]),
    /// Told once, when the limit is passed; the rest of it never shows.
    TooLong,
    End,
}

/// Splits a reader into lines of bounded length.
struct Lines<R> {
    reader: R,
    /// Initialised to its full length, so that reading costs no clearing.
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where there is known to be no LF.
    scanned: usize,
    /// Up to where there are bytes.
    end: usize,
    limit: usize,
    /// Inside a line that is too long.
    skipping: bool,
    ended: bool,
}

impl<R: Read> Lines<R> {
    fn new(reader: R, limit: usize) -> Self {
        Lines {
            reader,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            end: 0,
            limit,
            skipping: false,
            ended: false,
        }
    }

    fn next(&mut self) -> io::Result<Line<'_>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..self.end]) {
                let (start, end) = (self.start, self.scanned + at);
                self.start = end + 1;
                self.scanned = self.start;
                if std::mem::take(&mut self.skipping) {
                    continue;
                }
                if end - start > self.limit {
                    return Ok(Line::TooLong);
                }
                return Ok(Line::Complete(&self.buffer[start..end]));
            }
            self.scanned = self.end;
            if self.skipping {
                self.start = self.end;
            } else if self.end - self.start > self.limit {
                self.skipping = true;
                self.start = self.end;
                return Ok(Line::TooLong);
            }
            if self.ended {
                let start = std::mem::replace(&mut self.start, self.end);
                if start == self.end {
                    return Ok(Line::End);
                }
                return Ok(Line::Complete(&self.buffer[start..self.end]));
            }
            self.fill()?;
        }
    }

    /// Reads once, behind what is there of the next line.
    fn fill(&mut self) -> io::Result<()> {
        if self.start == self.end || self.buffer.len() - self.end < READ / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.scanned -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < READ / 2 {
            self.buffer.resize((2 * self.buffer.len()).max(READ), 0);
        } else if self.buffer.len() > 8 * READ && self.end < READ {
            // What one huge line needed is not kept for the small ones after it.
            self.buffer.truncate(2 * READ);
            self.buffer.shrink_to_fit();
        }
        let n = loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.end += n;
        self.ended = n == 0;
        Ok(())
    }
}

// ---- writing ----

/// Writes what the outbox holds as lines, until all its senders are gone.
/// Small messages share a write, which is made as soon as there is nothing to add to it.
pub(crate) fn write_lines(mut outbox: OutboxReceiver, mut writer: Box<dyn Write + Send>, dialect: &Dialect) {
    sys::block_signals_for_this_thread();
    let mut buffer = Vec::with_capacity(2 * BATCH);
    let mut gone = false;
    loop {
        let next = match outbox.try_next() {
            Err(NoMessage::NotYet) if buffer.is_empty() => outbox.next(None),
            next => next,
        };
        match next {
            Ok(taken) => {
                if !gone {
                    message::encode(&mut buffer, &taken.message, dialect.0.load(SeqCst));
                }
                taken.recycle();
                if buffer.len() < BATCH {
                    continue;
                }
            }
            Err(NoMessage::NotYet) => {}
            Err(NoMessage::Ended) => return,
        }
        // After a failure the queue is still emptied, so that credit flows and nobody waits.
        if !gone && let Err(e) = writer.write_all(&buffer).and_then(|()| writer.flush()) {
            log::debug!("writing to the client failed: {e}");
            gone = true;
            outbox.output_gone();
        }
        buffer.clear();
        if buffer.capacity() > 8 * BATCH {
            buffer.shrink_to(2 * BATCH);
        }
    }
}

// ---- stdio ----

/// Ends the waiting of a [`StdioReader`].
pub(crate) struct Wake(Arc<EventFd>);

impl Wake {
    pub(crate) fn wake(&self) {
        self.0.set();
    }
}

/// Whether nobody can write to descriptor 0 any more, whatever of it has not been read yet.
pub(crate) fn stdin_hung_up() -> bool {
    let mut interest = [Interest::hangup(io::stdin().as_raw_fd())];
    sys::poll(&mut interest, Some(Duration::ZERO)).is_ok() && interest[0].hung_up()
}

/// Descriptors 0 and 1, in whatever mode they are in. That mode is shared with whoever else has
/// them open, a terminal's shell for one, so it is never changed.
pub(crate) struct Stdio;

impl Stdio {
    pub(crate) fn open() -> io::Result<(StdioReader, StdioWriter, Wake)> {
        let wake = Arc::new(EventFd::new()?);
        let reader = StdioReader {
            input: io::stdin(),
            output: io::stdout(),
            wake: Arc::clone(&wake),
        };
        let writer = StdioWriter {
            output: io::stdout(),
            written: 0,
        };
        Ok((reader, writer, Wake(wake)))
    }
}

/// Reads descriptor 0, and watches descriptor 1 for a client that has gone away.
pub(crate) struct StdioReader {
    input: io::Stdin,
    output: io::Stdout,
    wake: Arc<EventFd>,
}

impl Read for StdioReader {
    /// `BrokenPipe` means that the client has closed its end of the output.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut interests = [
                Interest::read(self.input.as_raw_fd()),
                Interest::hangup(self.output.as_raw_fd()),
                Interest::read(self.wake.raw()),
            ];
            sys::poll(&mut interests, None)?;
            let [input, output, wake] = interests;
            if wake.readable() {
                return Ok(0);
            }
            if input.readable() {
                match sys::read(self.input.as_fd(), buffer) {
                    Err(e) if would_block(&e) => {}
                    result => return result,
                }
            } else if output.hung_up() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }
}

/// Writes descriptor 1.
pub(crate) struct StdioWriter {
    output: io::Stdout,
    written: u64,
}

impl StdioWriter {
    fn fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

impl Write for StdioWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match sys::write(self.fd(), bytes) {
                Err(e) if would_block(&e) => {
                    sys::poll(&mut [Interest::write(self.output.as_raw_fd())], None)?;
                }
                Ok(n) => {
                    let before = self.written;
                    self.written += n as u64;
                    if before < BUSY && self.written >= BUSY {
                        // Refused where the user's pipes hold too much already; then it is slower.
                        let _ = sys::set_pipe_size(self.fd(), PIPE);
                    }
                    return Ok(n);
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of every small size.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buffer.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn split(input: &[u8], piece: usize, limit: usize) -> Vec<String> {
        let mut lines = Lines::new(Pieces(input, piece), limit);
        let mut seen = Vec::new();
        loop {
            match lines.next().expect("a slice does not fail") {
                Line::Complete(line) => seen.push(String::from_utf8_lossy(line).into_owned()),
                Line::TooLong => seen.push("TOO LONG".into()),
                Line::End => return seen,
            }
        }
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        for piece in 1..40 {
            assert_eq!(
                split(b"one\n\ntwo two\r\nlast", piece, 100),
                ["one", "", "two two\r", "last"]
            );
            assert_eq!(split(b"", piece, 100), [""; 0]);
            assert_eq!(split(b"\n", piece, 100), [""]);
        }
    }

    #[test]
    fn a_line_over_the_limit_is_told_once_and_skipped() {
        for piece in 1..40 {
            assert_eq!(
                split(b"12345\n123456\n1234567890123456789\nok\n123456", piece, 5),
                ["12345", "TOO LONG", "TOO LONG", "ok", "TOO LONG"]
            );
        }
    }
}
