//! One output stream of a process: reading, caps, deltas, collected text.
//!
//! **Thread:** the process thread.
//! **Owns:** our end of the stream, its byte count, and what was collected of it.
//! **Never:** waits. It reads what is there, and only when there is credit to send it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::outbox::{CHUNK, Credit, Outbox, Permit};
use crate::sys;
use crate::wire::notifications;
use crate::wire::protocol::{Collected, OutputDelta, Stream};

/// What a pipe is asked to hold once its stream is busy. More gains nothing: it no longer fits the cache.
const BUSY_PIPE: libc::c_int = 256 * 1024;
/// How many streams of a server may have a larger pipe: together they take a quarter of what an
/// unprivileged user may have in pipes, past which every new pipe is tiny.
pub(crate) const BUSY_PIPES: usize = 64;
/// How often a terminal that no process has open is looked at, while its process lives and may open it
/// again. The kernel reports the hang-up without end and the reopening not at all.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// More than a terminal's buffers hold.
const TERMINAL_HOLDS: u64 = 64 * 1024;

/// What all streams of a process share.
pub(crate) struct Sink {
    pub(crate) handle: Arc<str>,
    pub(crate) outbox: Outbox,
    pub(crate) credit: Arc<Credit>,
    /// How many more pipes of this server may be made larger.
    pub(crate) busy_pipes: Arc<AtomicUsize>,
}

/// An output stream that has not come to its end.
pub(crate) struct Output {
    source: Rc<OwnedFd>,
    stream: Stream,
    terminal: bool,
    /// Bytes are sent as they come; otherwise they are collected.
    streamed: bool,
    cap: Option<u64>,
    /// Everything read, for this thread and for `process/list`.
    total: Arc<AtomicU64>,
    collected: Collected,
    state: State,
    /// Reads in a row that filled a whole chunk.
    full_reads: u8,
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

/// What reading once came to.
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
        cap: Option<u64>,
        total: Arc<AtomicU64>,
    ) -> Self {
        Output {
            source,
            stream,
            terminal,
            streamed,
            cap,
            total,
            collected: Collected::default(),
            state: State::Open,
            full_reads: 0,
            after_exit: None,
            enlarged: None,
        }
    }

    /// The descriptor to wait for, if reading it is of use now. Without credit it is of none, and
    /// the process is woken when there is some.
    pub(crate) fn interest(&self, sink: &Sink) -> Option<RawFd> {
        let useful = self.state == State::Open && (!self.needs_credit() || sink.credit.may_reserve());
        useful.then(|| self.source.as_raw_fd())
    }

    fn needs_credit(&self) -> bool {
        self.streamed && !self.collected.cap_reached
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state != State::Ended
    }

    /// When a terminal that no process has open is to be looked at again.
    pub(crate) fn look_again_at(&self) -> Option<Instant> {
        match self.state {
            State::HungUp(at) => Some(at),
            State::Open | State::Ended => None,
        }
    }

    /// Looks again at a terminal that was hung up, if it is time to.
    pub(crate) fn look_again(&mut self, now: Instant) {
        if self.look_again_at().is_some_and(|at| at <= now) {
            self.state = State::Open;
        }
    }

    /// The process has exited: from now on only what it has left behind is owed.
    pub(crate) fn process_exited(&mut self) {
        let owed = match self.terminal {
            true => TERMINAL_HOLDS,
            false => sys::readable_bytes(&self.source).unwrap_or(0),
        };
        self.after_exit = Some(AfterExit {
            owed,
            settled: owed == 0,
        });
        if self.look_again_at().is_some() {
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
        let mut interest = [sys::Interest::read(self.source.as_raw_fd())];
        sys::poll(&mut interest, Some(Duration::ZERO)).is_ok() && !interest[0].readable()
    }

    /// Nothing is left to read and no writer is left, though the end was not read yet.
    pub(crate) fn has_run_dry(&self) -> bool {
        self.state == State::Ended
            || sys::is_hung_up(&self.source) && sys::readable_bytes(&self.source).is_ok_and(|n| n == 0)
    }

    /// Its cap is reached: nothing that could still come would be kept.
    pub(crate) fn is_full(&self) -> bool {
        self.cap.is_some_and(|cap| self.total.load(Relaxed) >= cap)
    }

    /// Reads a chunk and passes it on.
    pub(crate) fn pump(&mut self, sink: &Sink) {
        let (permit, limit) = match self.needs_credit() {
            true => match sink.credit.reserve() {
                Some((permit, limit)) => (Some(permit), limit),
                None => return,
            },
            false => (None, CHUNK),
        };
        let mut buffer = sink.outbox.buffers().take();
        let filled = self.fill(&mut buffer, limit);
        let n = buffer.len();
        if n > 0 {
            self.total.fetch_add(n as u64, Relaxed);
            if n == CHUNK {
                self.full_reads = self.full_reads.saturating_add(1);
                if self.full_reads == 2 && !self.terminal {
                    self.enlarge(sink);
                }
            }
            self.deliver(buffer, permit, sink);
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
                self.state = State::HungUp(Instant::now() + LOOK_AGAIN);
            }
            Filled::HungUp | Filled::Ended => self.state = State::Ended,
        }
    }

    fn fill(&self, buffer: &mut Vec<u8>, limit: usize) -> Filled {
        while buffer.len() < limit {
            let room = limit - buffer.len();
            match sys::read_behind(self.source.as_fd(), buffer, room) {
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

    fn enlarge(&mut self, sink: &Sink) {
        let allowed = sink
            .busy_pipes
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
            .is_ok();
        if allowed {
            self.enlarged = Some(Enlarged(Arc::clone(&sink.busy_pipes)));
            // Refused where the user's pipes hold too much already; then it is slower.
            let _ = sys::set_pipe_size(self.source.as_fd(), BUSY_PIPE);
        }
    }

    /// Passes on as much of `bytes`, which were just counted, as the cap allows.
    fn deliver(&mut self, mut bytes: Vec<u8>, permit: Option<Permit>, sink: &Sink) {
        if self.collected.cap_reached {
            sink.outbox.buffers().give_back(bytes);
            return;
        }
        let offset = self.total.load(Relaxed) - bytes.len() as u64;
        if let Some(cap) = self.cap {
            let allowed = usize::try_from(cap.saturating_sub(offset)).unwrap_or(usize::MAX);
            if bytes.len() > allowed {
                bytes.truncate(allowed);
                self.collected.cap_reached = true;
            }
        }
        if !self.streamed {
            self.collect(&bytes);
            sink.outbox.buffers().give_back(bytes);
            return;
        }
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
            cap_reached: self.collected.cap_reached,
            offset,
        };
        sink.outbox.delta(delta, permit);
    }

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
        self.collected.cap_reached = true;
    }

    /// What was collected; empty but for the flag if the stream was sent as it came.
    pub(crate) fn into_collected(mut self) -> Collected {
        loop {
            let kept = &self.collected.bytes;
            let is_there = |needed| Vec::<u8>::new().try_reserve_exact(needed).is_ok();
            if kept.len() <= notifications::LARGE || is_there(notifications::needed_to_encode(kept)) {
                return self.collected;
            }
            self.keep_less();
        }
    }
}
