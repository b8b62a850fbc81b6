//! A process's stdin: the queue of bytes, and of the writes that are not answered yet.
//!
//! **Thread:** the process thread.
//! **Owns:** our end of the child's stdin, and what the child has not taken yet.
//! **Never:** waits. What the child does not take now stays queued, and `poll` tells when it will.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crate::outbox::Outbox;
use crate::process::Stats;
use crate::process::output::RETRY_WAIT;
use crate::process::typed_line::TypedLine;
use crate::sys;
use crate::wire::protocol::{Reply, RequestId, RpcError, WriteStdinParams};

/// Up to this many pending bytes a write is answered at once.
pub(crate) const FREE_STDIN_BYTES: u64 = 1024 * 1024;
/// The pipe is asked to hold this much once it has carried [`BUSY_AFTER_BYTES`].
const BUSY_PIPE_BYTES: usize = 256 * 1024;
const BUSY_AFTER_BYTES: u64 = 1024 * 1024;

/// What a write counts at least while it is not answered, which is more than most ids are long.
pub(crate) const UNANSWERED_COST_BYTES: usize = 64;

/// What a write counts while it is not answered: by its id, which is all that is kept of one without bytes.
pub(crate) fn unanswered_cost(id: &RequestId) -> usize {
    id.len().max(UNANSWERED_COST_BYTES)
}

/// A write that was accepted. It counts as pending and unanswered, and no longer once it is dropped.
pub(crate) struct AcceptedWrite {
    id: RequestId,
    delta: Option<Vec<u8>>,
    close: bool,
    /// `None` once it no longer counts by itself.
    counted_in: Option<Arc<Stats>>,
}

impl AcceptedWrite {
    pub(crate) fn new(id: &RequestId, params: WriteStdinParams, stats: &Arc<Stats>) -> AcceptedWrite {
        let write = AcceptedWrite {
            id: id.clone(),
            delta: params.delta,
            close: params.close_stdin,
            counted_in: Some(Arc::clone(stats)),
        };
        stats.stdin_pending.fetch_add(write.len(), Relaxed);
        stats.stdin_unanswered.fetch_add(unanswered_cost(id), Relaxed);
        write
    }

    pub(crate) fn id(&self) -> &RequestId {
        &self.id
    }

    /// Whether there is anything to be done.
    pub(crate) fn says_something(&self) -> bool {
        self.delta.is_some() || self.close
    }

    /// The request it was, which counts no longer.
    pub(crate) fn into_params(mut self, handle: &str) -> (RequestId, WriteStdinParams) {
        self.uncount();
        let (id, delta, close_stdin) = self.take();
        let params = WriteStdinParams {
            process_handle: handle.to_owned(),
            delta,
            close_stdin,
        };
        (id, params)
    }

    /// What it holds; the counts are the caller's now.
    fn take(mut self) -> (RequestId, Option<Vec<u8>>, bool) {
        self.counted_in = None;
        let id = std::mem::replace(&mut self.id, RequestId::Signed(0));
        (id, self.delta.take(), self.close)
    }

    fn uncount(&mut self) {
        if let Some(stats) = self.counted_in.take() {
            stats.stdin_pending.fetch_sub(self.len(), Relaxed);
            stats
                .stdin_unanswered
                .fetch_sub(unanswered_cost(&self.id), Relaxed);
        }
    }

    fn len(&self) -> u64 {
        self.delta.as_ref().map_or(0, Vec::len) as u64
    }
}

impl Drop for AcceptedWrite {
    fn drop(&mut self) {
        self.uncount();
    }
}

pub(crate) struct Stdin {
    /// `None` once it is closed, or if it never was open to the client.
    sink: Option<Rc<OwnedFd>>,
    terminal: bool,
    queue: VecDeque<Vec<u8>>,
    /// How much of the first in the queue has been written.
    at: usize,
    /// Queued bytes; the dispatcher adds, this thread subtracts.
    pending: Arc<AtomicU64>,
    unanswered: VecDeque<RequestId>,
    /// How many of those, the oldest, wait for the child: they no longer count as in flight, so
    /// that a child that does not read holds up no other request.
    parked: usize,
    /// What the writes that are not answered yet count, those on their way here included.
    all_unanswered: Arc<AtomicUsize>,
    /// The client has closed it; the queue is still written.
    closing: bool,
    /// What was typed at a terminal and is not the end of a line.
    line: TypedLine,
    /// End-of-file waits in the queue of a terminal whose input is full.
    end_queued: bool,
    written: u64,
    /// A terminal that no process has open takes nothing; it is tried again then.
    retry_at: Option<Instant>,
    outbox: Outbox,
}

impl Stdin {
    pub(crate) fn new(
        sink: Option<Rc<OwnedFd>>,
        terminal: bool,
        pending: Arc<AtomicU64>,
        all_unanswered: Arc<AtomicUsize>,
        outbox: Outbox,
    ) -> Self {
        Stdin {
            sink,
            terminal,
            queue: VecDeque::new(),
            at: 0,
            pending,
            unanswered: VecDeque::new(),
            parked: 0,
            all_unanswered,
            closing: false,
            line: TypedLine::default(),
            end_queued: false,
            written: 0,
            retry_at: None,
            outbox,
        }
    }

    /// Our end of it, as long as that is open.
    pub(crate) fn descriptor(&self) -> Option<&OwnedFd> {
        self.sink.as_deref()
    }

    /// The descriptor to wait for until it can be written, if there is anything to write.
    pub(crate) fn interest(&self) -> Option<RawFd> {
        match &self.sink {
            Some(sink) if !self.queue.is_empty() && self.retry_at.is_none() => Some(sink.as_raw_fd()),
            _ => None,
        }
    }

    /// When a terminal that no process had open is to be tried again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Tries a terminal again that no process had open, if it is time to.
    pub(crate) fn retry(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
    }

    /// Looks whether the program has switched its terminal to raw mode, which hands over what was typed.
    pub(crate) fn observe(&mut self) {
        if let (false, Some(sink)) = (self.line.is_empty(), &self.sink)
            && let Ok(settings) = sys::terminal_settings(sink.as_fd())
        {
            self.line.observe(&settings);
        }
    }

    /// Queues the bytes of a write, and answers when it is time to.
    pub(crate) fn write(&mut self, write: AcceptedWrite) {
        let (id, delta, close) = write.take();
        let bytes = delta.unwrap_or_default();
        if self.sink.is_none() || self.closing {
            self.taken(bytes.len());
            let error = match self.closing {
                true => "stdin is already closed",
                false => "stdin was closed by the process",
            };
            self.answer(id, Err(RpcError::invalid_request(error)));
            return;
        }
        if !bytes.is_empty() {
            self.queue.push_back(bytes);
        }
        self.closing = close;
        self.unanswered.push_back(id);
        self.pump();
        while self.parked < self.unanswered.len() {
            self.outbox.retract();
            self.parked += 1;
        }
    }

    /// Writes what the child takes now.
    pub(crate) fn pump(&mut self) {
        while let (Some(sink), Some(bytes)) = (&self.sink, self.queue.front()) {
            // As they are now, because the kernel takes them into account when it takes the bytes.
            let settings = self.terminal.then(|| sys::terminal_settings(sink.as_fd()));
            match sys::write(sink.as_fd(), &bytes[self.at..]) {
                Ok(n) => {
                    if let Some(Ok(settings)) = settings {
                        self.line.typed(&bytes[self.at..self.at + n], &settings);
                    }
                    self.at += n;
                    let before = self.written;
                    self.written += n as u64;
                    if before < BUSY_AFTER_BYTES && self.written >= BUSY_AFTER_BYTES && !self.terminal {
                        // Refused where the user's pipes hold too much already; then it is slower.
                        let _ = sys::set_pipe_size(sink.as_fd(), BUSY_PIPE_BYTES);
                    }
                    if self.at == bytes.len() {
                        self.queue.pop_front();
                        self.at = 0;
                    }
                    self.taken(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if self.is_full(&e) => {
                    // A terminal that no process has open may be opened again; its process decides.
                    // Until then poll reports the hang-up without end.
                    if self.terminal && sys::is_hung_up(sink) {
                        self.retry_at = Some(Instant::now() + RETRY_WAIT);
                    }
                    break;
                }
                Err(_) => {
                    self.fail("stdin was closed by the process");
                    return;
                }
            }
        }
        if self.closing && self.queue.is_empty() {
            self.close();
        }
        if self.pending.load(Relaxed) <= FREE_STDIN_BYTES || self.queue.is_empty() {
            self.answer_all(&Ok(Reply::Done));
        }
    }

    /// Whether a write that failed may succeed later.
    fn is_full(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::WouldBlock || self.terminal && error.raw_os_error() == Some(libc::EIO)
    }

    /// Everything before the end has been written: ends a pipe, types end-of-file at a terminal.
    fn close(&mut self) {
        let Some(sink) = self.sink.take() else { return };
        if !self.terminal || self.end_queued {
            return;
        }
        let typed = sys::terminal_settings(sink.as_fd()).map(|settings| {
            self.line.observe(&settings);
            self.line.end_of_file(&settings)
        });
        // A terminal whose settings cannot be read takes no input either.
        let typed = &typed.unwrap_or_default()[..];
        let left = match sys::write(sink.as_fd(), typed) {
            Ok(n) => &typed[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => typed,
            Err(_) => &[],
        };
        if !left.is_empty() {
            // The terminal's input is full: type it when there is room.
            self.pending.fetch_add(left.len() as u64, Relaxed);
            self.queue.push_back(left.to_vec());
            self.end_queued = true;
            self.sink = Some(sink);
        }
    }

    /// Gives up: nothing will be read any more.
    pub(crate) fn fail(&mut self, why: &str) {
        let left: usize = self.queue.iter().map(Vec::len).sum();
        self.taken(left - self.at);
        self.queue.clear();
        self.at = 0;
        self.sink = None;
        self.answer_all(&Err(RpcError::invalid_request(why)));
    }

    fn answer_all(&mut self, outcome: &Result<Reply, RpcError>) {
        while let Some(id) = self.unanswered.pop_front() {
            if self.parked > 0 {
                self.parked -= 1;
                self.outbox.admit();
            }
            self.answer(id, outcome.clone());
        }
    }

    fn answer(&self, id: RequestId, outcome: Result<Reply, RpcError>) {
        self.all_unanswered.fetch_sub(unanswered_cost(&id), Relaxed);
        self.outbox.answer(Some(id), outcome);
    }

    fn taken(&self, n: usize) {
        self.pending.fetch_sub(n as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_write_counts_until_it_is_dropped_or_taken_over() {
        let stats = Arc::new(Stats::default());
        let counts = || {
            let pending = stats.stdin_pending.load(Relaxed);
            (pending, stats.stdin_unanswered.load(Relaxed))
        };
        let accept = |id: &str| {
            let params = WriteStdinParams {
                process_handle: "h".to_owned(),
                delta: Some(vec![0; 10]),
                close_stdin: true,
            };
            AcceptedWrite::new(&id.into(), params, &stats)
        };
        let long = "x".repeat(100);
        let (first, second) = (accept("a"), accept(&long));
        assert_eq!(counts(), (20, UNANSWERED_COST_BYTES + 100));
        drop(first);
        assert_eq!(counts(), (10, 100));
        let (id, params) = second.into_params("h");
        assert_eq!(counts(), (0, 0));
        assert_eq!(id, RequestId::from(long.as_str()));
        assert_eq!((params.delta, params.close_stdin), (Some(vec![0; 10]), true));
        accept("c").take();
        assert_eq!(counts(), (10, UNANSWERED_COST_BYTES), "they are the taker's now");
    }
}
