//! One output stream of a process: reading, caps, deltas, its end, collected text.
//!
//! **Thread:** the process thread.
//! **Owns:** our end of the stream, its byte count, and what was kept of it.
//! **Never:** waits. It reads what is there, and only when there is credit to send it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::outbox::{CHUNK_BYTES, Credit, Outbox, Permit};
use crate::process::keep::{Keep, Tail};
use crate::process::wait::{StreamState, Waits};
use crate::sys;
use crate::wire::notifications;
use crate::wire::protocol::{Collected, CollectedTail, OutputDelta, Stream};

/// What a pipe is asked to hold once its stream is busy. More gains nothing: it no longer fits the cache.
const BUSY_PIPE_BYTES: usize = 256 * 1024;
/// How many streams of a server may have a larger pipe: together they take a quarter of what an
/// unprivileged user may have in pipes, past which every new pipe is tiny.
pub(crate) const MAX_BUSY_PIPES: usize = 64;
/// How often a terminal that no process has open is looked at, while its process lives and may open it
/// again. The kernel reports the hang-up without end and the reopening not at all.
pub(crate) const RETRY_WAIT: Duration = Duration::from_millis(50);
/// How long a process may live on behind the end of a stream before that is told: the end of most comes
/// with that of their process, which says it all.
const EOF_WAIT: Duration = Duration::from_millis(20);
/// For how long that is put off while the process is exiting, on a machine that has no time for it.
const EXIT_WAIT: Duration = Duration::from_secs(1);
/// More than a terminal's buffers hold.
const TERMINAL_BUFFER_BYTES: u64 = 64 * 1024;

/// What all streams of a process share.
pub(crate) struct Sink {
    pub(crate) handle: Arc<str>,
    pub(crate) outbox: Outbox,
    pub(crate) credit: Arc<Credit>,
    /// How many more pipes of this server may be made larger.
    pub(crate) busy_pipes: Arc<AtomicUsize>,
}

/// An output stream, from its beginning until its process has ended.
pub(crate) struct Output {
    /// `None` once the client has closed it.
    source: Option<Rc<OwnedFd>>,
    stream: Stream,
    terminal: bool,
    /// Bytes are sent as they come; otherwise they are collected.
    streamed: bool,
    keep: Keep,
    /// What is kept of its end.
    tail: Tail,
    /// How much of its end was sent.
    tail_sent: u64,
    /// Everything read, for this thread and for `process/list`.
    total: Arc<AtomicU64>,
    collected: Collected,
    state: State,
    /// Reads in a row that filled a whole chunk.
    full_reads: u8,
    /// When its end is to be told, if its process lives on until then.
    eof_at: Option<Instant>,
    /// Until when that may be put off.
    eof_until: Option<Instant>,
    /// It lived on, and there was no credit yet to tell.
    owes_eof: bool,
    after_exit: Option<AfterExit>,
    enlarged: Option<Enlarged>,
}

/// One of the larger pipes a server may have, which another stream may have when this is dropped.
struct Enlarged(Arc<AtomicUsize>);

impl Drop for Enlarged {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// A terminal that no process has open, to be looked at again then: a process whose controlling
    /// terminal it is may open it again.
    HungUp(Instant),
    Ended,
}

/// What is still owed once the process has exited.
struct AfterExit {
    /// Bytes that were written before the exit, at most.
    owed: u64,
    /// They have been delivered.
    settled: bool,
}

/// The outcome of one read.
enum Filled {
    /// There may be more.
    Some,
    /// There was no more.
    All,
    HungUp,
    Ended,
}

impl Output {
    pub(crate) fn new(
        source: Rc<OwnedFd>,
        stream: Stream,
        terminal: bool,
        streamed: bool,
        keep: Keep,
        total: Arc<AtomicU64>,
    ) -> Self {
        Output {
            source: Some(source),
            stream,
            terminal,
            streamed,
            keep,
            tail: Tail::new(keep.tail),
            tail_sent: 0,
            total,
            collected: Collected::default(),
            state: State::Open,
            full_reads: 0,
            eof_at: None,
            eof_until: None,
            owes_eof: false,
            after_exit: None,
            enlarged: None,
        }
    }

    /// The descriptor to wait for, if reading it is of use now. Without credit it is of none, and
    /// the process is woken when there is some.
    pub(crate) fn interest(&self, sink: &Sink) -> Option<RawFd> {
        let useful = self.state == State::Open && (!self.needs_credit() || sink.credit.may_reserve());
        let source = self.source.as_ref().filter(|_| useful)?;
        Some(source.as_raw_fd())
    }

    /// Whether what is read next is sent.
    fn needs_credit(&self) -> bool {
        self.streamed
            && match self.keep {
                // As long as the byte that tells of the cap has not come.
                Keep { tail: 0, .. } => !self.collected.cap_reached,
                Keep { head, .. } => head.is_none_or(|head| self.total.load(Relaxed) < head),
            }
    }

    /// There is more to read, or to send.
    pub(crate) fn is_open(&self) -> bool {
        self.state != State::Ended || self.owes_tail()
    }

    fn owes_tail(&self) -> bool {
        self.streamed && self.tail.len() > 0
    }

    /// What a wait may ask.
    pub(crate) fn state(&self) -> StreamState {
        StreamState {
            ended: !self.is_open(),
            unread: self.state == State::Open && !self.is_silent(),
        }
    }

    /// When a terminal that no process has open is to be looked at again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::HungUp(at) => Some(at),
            State::Open | State::Ended => None,
        }
    }

    /// Looks again at a terminal that was hung up, if it is time to.
    pub(crate) fn retry(&mut self, now: Instant) {
        if self.retry_at().is_some_and(|at| at <= now) {
            self.state = State::Open;
        }
    }

    /// The process has exited: from now on only what it has left behind is owed.
    pub(crate) fn process_exited(&mut self) {
        self.forget_eof();
        let owed = match (&self.source, self.terminal) {
            (Some(_), true) => TERMINAL_BUFFER_BYTES,
            (Some(source), false) => sys::readable_bytes(source).unwrap_or(0),
            (None, _) => 0,
        };
        self.after_exit = Some(AfterExit {
            owed,
            settled: owed == 0,
        });
        if self.retry_at().is_some() {
            self.state = State::Open;
        }
    }

    /// Everything that was written before the exit has been delivered.
    pub(crate) fn is_settled(&self) -> bool {
        self.state == State::Ended || self.after_exit.as_ref().is_some_and(|a| a.settled)
    }

    /// There is nothing to read now. A terminal does not say how much it owes at the exit, and one that
    /// another process keeps open has no end; when the drain is over, this is how it is known to owe nothing.
    pub(crate) fn is_silent(&self) -> bool {
        let Some(source) = &self.source else { return true };
        let mut interest = [sys::PollFd::read(source.as_raw_fd())];
        sys::poll(&mut interest, Some(Duration::ZERO)).is_ok() && !interest[0].readable()
    }

    /// Nothing is left to read and no writer is left, though the end was not read yet.
    pub(crate) fn has_run_dry(&self) -> bool {
        let runs_dry = |source| sys::is_hung_up(source) && sys::readable_bytes(source).is_ok_and(|n| n == 0);
        self.state == State::Ended || self.source.as_deref().is_none_or(runs_dry)
    }

    /// Its cap is reached: nothing that could still come would add to what is kept.
    pub(crate) fn is_full(&self) -> bool {
        let cap = self.keep.cap();
        cap.is_some_and(|cap| self.total.load(Relaxed) >= cap) && self.keep.tail == 0
    }

    // ---- the end ----

    /// Closes it as any reader may: what was not read is lost, and a process that writes on is told by the
    /// system. `false` if it was closed before.
    pub(crate) fn close(&mut self) -> bool {
        self.state = State::Ended;
        self.forget_eof();
        if self.streamed {
            // No delta follows.
            self.tail.clear();
        }
        self.source.take().is_some()
    }

    /// Reads no more. What is kept of its end is still to be sent.
    pub(crate) fn stop(&mut self) {
        self.state = State::Ended;
    }

    /// When its end is to be told, if its process lives on until then.
    pub(crate) fn eof_at(&self) -> Option<Instant> {
        self.eof_at
    }

    /// Its process is exiting, which says it all a little later.
    pub(crate) fn put_off_eof(&mut self, now: Instant) {
        if self.eof_at.is_some_and(|at| at <= now) && self.eof_until.is_some_and(|until| now < until) {
            self.eof_at = Some(now + EOF_WAIT);
        }
    }

    /// Sends what is kept of its end, and that it has ended, as far as that is due and there is credit.
    pub(crate) fn finish(&mut self, now: Instant, sink: &Sink) {
        if self.state != State::Ended {
            return;
        }
        while self.owes_tail() && sink.credit.may_reserve() {
            let Some((permit, limit)) = sink.credit.reserve() else {
                return;
            };
            let mut bytes = sink.outbox.buffers().take();
            let offset = self.total.load(Relaxed) - self.tail.len() as u64;
            self.tail.take(&mut bytes, limit);
            self.tail_sent += bytes.len() as u64;
            let cap_reached = self.collected.cap_reached && self.tail.len() == 0;
            self.send(bytes, offset, cap_reached, false, Some(permit), sink);
        }
        if self.eof_at.is_some_and(|at| at <= now) {
            self.eof_at = None;
            self.owes_eof = true;
        }
        if self.owes_eof && !self.owes_tail() && sink.credit.may_reserve() {
            let Some((permit, _)) = sink.credit.reserve() else {
                return;
            };
            self.owes_eof = false;
            let offset = self.total.load(Relaxed);
            let cap_reached = self.collected.cap_reached;
            self.send(Vec::new(), offset, cap_reached, true, Some(permit), sink);
        }
    }

    fn forget_eof(&mut self) {
        self.eof_at = None;
        self.owes_eof = false;
    }

    // ---- reading ----

    /// Reads a chunk, shows it to those that wait for something in it, and passes it on.
    pub(crate) fn pump(&mut self, sink: &Sink, waits: &mut Waits) {
        let Some(source) = self.source.clone() else { return };
        let (permit, limit) = match self.needs_credit() {
            true => match sink.credit.reserve() {
                Some((permit, limit)) => (Some(permit), limit),
                None => return,
            },
            false => (None, CHUNK_BYTES),
        };
        let limit = limit.min(waits.chunk());
        let mut buffer = sink.outbox.buffers().take();
        let filled = self.fill(&source, &mut buffer, limit);
        let n = buffer.len();
        if n > 0 {
            let offset = self.total.fetch_add(n as u64, Relaxed);
            if !waits.is_empty() {
                waits.read(self.stream, offset, &buffer);
            }
            if n == CHUNK_BYTES {
                self.full_reads = self.full_reads.saturating_add(1);
                if self.full_reads == 2 && !self.terminal {
                    self.enlarge(&source, sink);
                }
            }
            self.deliver(buffer, offset, permit, sink);
        } else {
            sink.outbox.buffers().give_back(buffer);
        }
        if let Some(after) = &mut self.after_exit {
            after.owed = after.owed.saturating_sub(n as u64);
            after.settled |= after.owed == 0 || matches!(filled, Filled::All);
        }
        match filled {
            Filled::Some | Filled::All => {}
            // The terminal of a process that is gone is not opened again.
            Filled::HungUp if self.after_exit.is_none() => {
                self.state = State::HungUp(Instant::now() + RETRY_WAIT);
            }
            Filled::HungUp | Filled::Ended => {
                self.state = State::Ended;
                if self.streamed && self.after_exit.is_none() {
                    let now = Instant::now();
                    self.eof_at = Some(now + EOF_WAIT);
                    self.eof_until = Some(now + EXIT_WAIT);
                }
            }
        }
    }

    fn fill(&self, source: &OwnedFd, buffer: &mut Vec<u8>, limit: usize) -> Filled {
        while buffer.len() < limit {
            let room = limit - buffer.len();
            match sys::read_behind(source.as_fd(), buffer, room) {
                Ok(0) => return Filled::Ended,
                // A pipe gives all it has; a terminal gives a line buffer at a time.
                Ok(n) if n < room && !self.terminal => return Filled::All,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Filled::All,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // How Linux says that no process has the other side of a terminal open.
                Err(e) if e.raw_os_error() == Some(libc::EIO) && self.terminal => return Filled::HungUp,
                Err(e) => {
                    log::warn!("reading {} failed: {e}", self.stream.name());
                    return Filled::Ended;
                }
            }
        }
        Filled::Some
    }

    fn enlarge(&mut self, source: &OwnedFd, sink: &Sink) {
        let allowed = sink
            .busy_pipes
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
            .is_ok();
        if allowed {
            self.enlarged = Some(Enlarged(Arc::clone(&sink.busy_pipes)));
            // Refused where the user's pipes hold too much already; then it is slower.
            let _ = sys::set_pipe_size(source.as_fd(), BUSY_PIPE_BYTES);
        }
    }

    /// Passes on as much of `bytes` as the cap allows; the first of them has the position `offset`.
    fn deliver(&mut self, mut bytes: Vec<u8>, offset: u64, permit: Option<Permit>, sink: &Sink) {
        let has_tail = self.keep.tail > 0;
        let told = self.collected.cap_reached && !has_tail;
        let allowed = self
            .keep
            .head
            .map_or(u64::MAX, |head| head.saturating_sub(offset));
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        if bytes.len() > allowed {
            let dropped = match has_tail {
                true => self.tail.push(&bytes[allowed..]),
                false => bytes.len() - allowed,
            };
            bytes.truncate(allowed);
            self.collected.cap_reached |= dropped > 0;
        }
        if told || has_tail && bytes.is_empty() {
            sink.outbox.buffers().give_back(bytes);
        } else if !self.streamed {
            self.collect(&bytes);
            sink.outbox.buffers().give_back(bytes);
        } else {
            // What was kept does not end here if its end is kept as well.
            let cap_reached = self.collected.cap_reached && !has_tail;
            self.send(bytes, offset, cap_reached, false, permit, sink);
        }
    }

    fn send(
        &self,
        mut bytes: Vec<u8>,
        offset: u64,
        cap_reached: bool,
        eof: bool,
        permit: Option<Permit>,
        sink: &Sink,
    ) {
        // A small message does not keep a large buffer.
        if bytes.len() < bytes.capacity() / 4 {
            let small = bytes.as_slice().to_vec();
            sink.outbox
                .buffers()
                .give_back(std::mem::replace(&mut bytes, small));
        }
        let permit = permit.map(|mut permit| {
            permit.shrink(bytes.capacity());
            permit
        });
        let delta = OutputDelta {
            process_handle: Arc::clone(&sink.handle),
            stream: self.stream,
            bytes,
            cap_reached,
            offset,
            eof,
        };
        sink.outbox.delta(delta, permit);
    }

    // ---- collecting ----

    /// Keeps these bytes. What memory does not allow is dropped like what is beyond the cap, because a
    /// server that aborts takes every other process with it.
    fn collect(&mut self, bytes: &[u8]) {
        match self.collected.bytes.try_reserve(bytes.len()) {
            Ok(()) => self.collected.bytes.extend_from_slice(bytes),
            Err(_) => self.keep_less(),
        }
    }

    /// There is not enough memory for what was collected, or for the message that carries it.
    fn keep_less(&mut self) {
        log::warn!("there is no memory for all of {}", self.stream.name());
        let kept = &mut self.collected.bytes;
        kept.truncate(kept.len() / 4);
        kept.shrink_to_fit();
        self.keep.head = Some(kept.len() as u64);
        self.collected.cap_reached = true;
    }

    /// What was collected; empty but for what is told of the cap if the stream was sent as it came.
    pub(crate) fn into_collected(mut self) -> Collected {
        let mut tail = match self.streamed {
            true => Vec::new(),
            false => std::mem::take(&mut self.tail).into_bytes(),
        };
        if !tail.is_empty() && !self.collected.cap_reached {
            self.join(&mut tail);
        }
        let is_there = |needed| Vec::<u8>::new().try_reserve_exact(needed).is_ok();
        let needed = |bytes: &[u8]| match bytes.len() {
            ..=notifications::LARGE => 0,
            _ => notifications::needed_to_encode(bytes),
        };
        while !is_there(needed(&self.collected.bytes) + needed(&tail)) {
            self.keep_less();
            tail.drain(..tail.len() - tail.len() / 4);
            tail.shrink_to_fit();
        }
        if self.keep.told {
            let total = self.total.load(Relaxed);
            let kept = match self.streamed {
                true => self.keep.head.unwrap_or(total).min(total) + self.tail_sent,
                false => (self.collected.bytes.len() + tail.len()) as u64,
            };
            self.collected.tail = Some(CollectedTail {
                bytes: tail,
                omitted_bytes: total - kept,
            });
        }
        self.collected
    }

    /// Makes one piece of the beginning and the end, between which nothing was dropped.
    fn join(&mut self, tail: &mut Vec<u8>) {
        let head = &mut self.collected.bytes;
        if head.is_empty() {
            std::mem::swap(head, tail);
        } else if head.try_reserve_exact(tail.len()).is_ok() {
            head.append(tail);
        } else {
            self.keep_less();
        }
    }
}
