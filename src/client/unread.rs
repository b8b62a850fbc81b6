//! Output that waits for its reader, and how its process ended.
//!
//! **Thread:** `client-read` delivers; readers and those that wait take.
//! **Owns:** what was received of one process and not yet read, within its limit.
//! **Never:** keeps `client-read` waiting, unless the command asked for that.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::Error;
use super::status::ExitStatus;
use crate::sys::{self, lock};
use crate::wire::protocol::{Exited, OutputDelta, Stream};

/// Deltas that follow each other are kept as one chunk up to this.
const CHUNK_BYTES: usize = 64 * 1024;
/// What a chunk costs besides its bytes, so that many tiny ones are bounded too.
const CHUNK_COST_BYTES: usize = 64;
/// What every process may keep, however much the others keep.
const FREE_BYTES: usize = 1024 * 1024;

/// What all processes of a client keep together.
#[derive(Debug)]
pub(super) struct Total {
    kept: AtomicUsize,
    limit: usize,
}

impl Total {
    pub(super) fn new(limit: usize) -> Arc<Total> {
        Arc::new(Total {
            kept: AtomicUsize::new(0),
            limit,
        })
    }
}

/// What `client-read` and the readers of a process share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Output has come or was read, the process has ended, or the connection.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How much may be kept.
    limit: usize,
    /// What does not fit waits, and everything on the connection with it, instead of being lost.
    wait: bool,
    streams: [Unread; 2],
    /// Bytes and costs of all chunks.
    kept: usize,
    /// In which they are counted, too, unless they are read into memory anyway.
    total: Option<Arc<Total>>,
    /// Counts chunks, so that those of both streams have an order.
    count: u64,
    end: Option<End>,
    /// The connection is being closed; no reader is waited for.
    let_go: bool,
}

/// Output of one stream that waits to be read.
#[derive(Default)]
struct Unread {
    chunks: VecDeque<Chunk>,
    /// What comes is not wanted: the reading end was dropped.
    closed: bool,
    /// The server has said that it has ended, and its process lives on.
    ended: bool,
    /// The position after what has come.
    position: u64,
    /// What the server has dropped in the middle.
    gap: Option<Gap>,
    /// Bytes were lost after the chunks.
    lost: bool,
    /// That has been reported.
    told: bool,
}

/// Between the beginning of a stream and its end, of which the server kept some of both.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gap {
    pub(super) omitted_bytes: u64,
    /// Bytes that came after it.
    pub(super) tail_bytes: usize,
}

struct Chunk {
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
    pub(super) fn new(limit: usize, wait: bool, total: &Arc<Total>) -> Shared {
        let shared = Shared::without_limit();
        let mut state = lock(&shared.state);
        state.limit = limit;
        state.wait = wait;
        state.total = Some(Arc::clone(total));
        drop(state);
        shared
    }

    /// For output that is read into memory anyway.
    pub(super) fn without_limit() -> Shared {
        let shared = Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        shared.keep_all();
        shared
    }

    // ---- for `client-read` ----

    pub(super) fn deliver(&self, delta: OutputDelta) {
        let OutputDelta {
            stream,
            bytes,
            offset,
            eof,
            ..
        } = delta;
        let mut state = lock(&self.state);
        let cost = bytes.len() + CHUNK_COST_BYTES;
        if state.wait {
            // Reading, closing the stream or letting go ends this.
            let full = |state: &mut State| {
                state.kept > 0
                    && state.kept + cost > state.limit
                    && !state.streams[index(stream)].closed
                    && !state.let_go
            };
            state = sys::lock::wait_while(&self.changed, state, full);
        }
        let state = &mut *state;
        let too_much = !state.wait && state.is_too_much(cost);
        let unread = &mut state.streams[index(stream)];
        if !bytes.is_empty() {
            unread.note(offset, bytes.len());
        }
        if eof {
            unread.ended = true;
            self.changed.notify_all();
        }
        if unread.closed || unread.lost || bytes.is_empty() {
            return;
        }
        if too_much {
            unread.lost = true;
        } else if let Some(last) = unread.chunks.back_mut()
            && last.number == state.count
            && last.bytes.len() + bytes.len() <= CHUNK_BYTES
        {
            last.bytes.extend_from_slice(&bytes);
            state.grow(bytes.len());
        } else {
            state.count += 1;
            unread.chunks.push_back(Chunk {
                number: state.count,
                bytes,
                read: 0,
            });
            state.grow(cost);
        }
        self.changed.notify_all();
    }

    pub(super) fn exited(&self, exited: Exited) {
        self.end(End::Exited(ExitStatus::new(exited)));
    }

    pub(super) fn connection_ended(&self, reason: Option<String>) {
        self.end(End::ConnectionEnded(reason));
    }

    fn end(&self, end: End) {
        lock(&self.state).end = Some(end);
        self.changed.notify_all();
    }

    // ---- for all others ----

    pub(super) fn let_go(&self) {
        lock(&self.state).let_go = true;
        self.changed.notify_all();
    }

    /// Keeps all output from now on: everything is being read into memory anyway.
    pub(super) fn keep_all(&self) {
        let mut state = lock(&self.state);
        state.limit = usize::MAX;
        state.wait = false;
        state.leave_total();
        self.changed.notify_all();
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(lock(&self.state).end, Some(End::Exited(_)))
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
                None => sys::lock::wait(&self.changed, state),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    sys::lock::wait_timeout(&self.changed, state, left)
                }
            };
        }
    }

    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<Option<ExitStatus>, Error> {
        let outcome = self.wait_for(deadline, |state| match &state.end {
            None => None,
            Some(End::Exited(status)) => Some(Ok(status.clone())),
            Some(End::ConnectionEnded(reason)) => Some(Err(Error::Ended(reason.clone()))),
        });
        outcome.transpose()
    }

    pub(super) fn read(&self, stream: Stream, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = self.wait_for(None, |state| {
            let Some(chunk) = state.streams[index(stream)].chunks.front_mut() else {
                return state.at_end(stream).map(|end| end.map(|()| 0));
            };
            let unread = &chunk.bytes[chunk.read..];
            let n = unread.len().min(buffer.len());
            buffer[..n].copy_from_slice(&unread[..n]);
            chunk.read += n;
            if chunk.read == chunk.bytes.len() {
                state.take_front(stream);
            }
            Some(Ok(n))
        });
        self.changed.notify_all();
        n.unwrap_or(Ok(0))
    }

    /// The next chunk of those of `streams`, in the order they came; `Ok(None)` at the end of all.
    pub(super) fn next(
        &self,
        streams: &[Stream],
        deadline: Option<Instant>,
    ) -> Option<io::Result<Option<Event>>> {
        let event = self.wait_for(deadline, |state| {
            let first = streams
                .iter()
                .filter_map(|&stream| Some((state.streams[index(stream)].chunks.front()?.number, stream)))
                .min_by_key(|(number, _)| *number);
            if let Some((_, stream)) = first {
                let mut chunk = state.take_front(stream)?;
                chunk.bytes.drain(..chunk.read);
                return Some(Ok(Some(match stream {
                    Stream::Stdout => Event::Stdout(chunk.bytes),
                    Stream::Stderr => Event::Stderr(chunk.bytes),
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

    /// What the server has dropped in the middle of a stream.
    pub(super) fn gap(&self, stream: Stream) -> Gap {
        lock(&self.state).streams[index(stream)].gap.unwrap_or_default()
    }

    /// Whether more may come of a stream.
    pub(super) fn is_open(&self, stream: Stream) -> bool {
        let state = lock(&self.state);
        state.end.is_none() && !state.streams[index(stream)].ended
    }

    pub(super) fn close(&self, stream: Stream) {
        let mut state = lock(&self.state);
        state.streams[index(stream)].closed = true;
        while state.take_front(stream).is_some() {}
        self.changed.notify_all();
    }
}

impl Unread {
    /// Notes where the next bytes are. A server that does not tell has them all at the beginning.
    fn note(&mut self, offset: u64, bytes: usize) {
        if offset > self.position {
            self.gap.get_or_insert_default().omitted_bytes += offset - self.position;
        }
        if let Some(gap) = &mut self.gap {
            gap.tail_bytes += bytes;
        }
        self.position = offset.max(self.position) + bytes as u64;
    }
}

impl State {
    fn take_front(&mut self, stream: Stream) -> Option<Chunk> {
        let chunk = self.streams[index(stream)].chunks.pop_front()?;
        let cost = chunk.bytes.len() + CHUNK_COST_BYTES;
        self.kept -= cost;
        if let Some(total) = &self.total {
            total.kept.fetch_sub(cost, Relaxed);
        }
        Some(chunk)
    }

    /// Whether so much more is not kept: because of its own limit, or of that of all.
    fn is_too_much(&self, cost: usize) -> bool {
        let kept = self.kept + cost;
        kept > self.limit
            || self.total.as_ref().is_some_and(|total| {
                kept > FREE_BYTES && total.kept.load(Relaxed) + cost > total.limit.max(self.limit)
            })
    }

    fn grow(&mut self, bytes: usize) {
        self.kept += bytes;
        if let Some(total) = &self.total {
            total.kept.fetch_add(bytes, Relaxed);
        }
    }

    fn leave_total(&mut self) {
        if let Some(total) = self.total.take() {
            total.kept.fetch_sub(self.kept, Relaxed);
        }
    }

    /// What a reader finds after the last chunk; `None` if there may be more.
    fn at_end(&mut self, stream: Stream) -> Option<io::Result<()>> {
        let unread = &mut self.streams[index(stream)];
        if unread.lost && !unread.told {
            unread.told = true;
            return Some(Err(io::Error::other(OutputLost(()))));
        }
        match &self.end {
            Some(End::Exited(_)) => Some(Ok(())),
            Some(End::ConnectionEnded(reason)) => Some(Err(Error::Ended(reason.clone()).into())),
            None => unread.ended.then_some(Ok(())),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.leave_total();
    }
}

/// Output of one of the two streams.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The next bytes of stdout; never empty.
    Stdout(Vec<u8>),
    /// The next bytes of stderr; never empty.
    Stderr(Vec<u8>),
}

/// Inside the [`io::Error`] of a read: output beyond
/// [`Command::unread_limit`](super::Command::unread_limit) or
/// [`Builder::unread_limit`](super::Builder::unread_limit) was dropped because what came before it had
/// not been read. Reading goes on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLost(());

impl OutputLost {
    /// Whether that is what an error of a read says.
    ///
    /// ```
    /// # use procwire::client::{Client, Command, OutputLost};
    /// # use std::io::Read;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::new("seq").arg("100000").unread_limit(1000))?;
    /// process.wait()?;
    /// let error = process.stdout.take().expect("not taken").read_to_end(&mut Vec::new());
    /// assert!(OutputLost::is(&error.expect_err("more was printed than is kept")));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<OutputLost>())
    }
}

impl fmt::Display for OutputLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("output was lost here: more than the unread limit had not been read")
    }
}

impl std::error::Error for OutputLost {}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}
