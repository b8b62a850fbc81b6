//! A process's stdin: the queue of bytes, and of the writes that are not answered yet.
//!
//! **Thread:** the process thread.
//! **Owns:** our end of the child's stdin, and what the child has not taken yet.
//! **Never:** waits. What the child does not take now stays queued, and `poll` reports when it will.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::outbox::costs::{BUSY_AFTER_BYTES, BUSY_PIPE_BYTES, FREE_STDIN_BYTES, unanswered_cost};
use crate::outbox::{Account, Charge, Outbox, Ticket};
use crate::process::Stats;
use crate::process::output::RETRY_WAIT;
use crate::process::typed_line::TypedLine;
use crate::sys;
use crate::wire::protocol::{Reply, RpcError, WriteStdinParams};

/// A write that was accepted. It counts as pending and unanswered, and no longer once it is dropped.
pub(crate) struct AcceptedWrite {
    delta: Option<Vec<u8>>,
    close: bool,
    pending: Charge,
    unanswered: Charge,
}

impl AcceptedWrite {
    pub(crate) fn new(ticket: &Ticket, params: WriteStdinParams, stats: &Stats) -> AcceptedWrite {
        let bytes = params.delta.as_ref().map_or(0, Vec::len);
        AcceptedWrite {
            delta: params.delta,
            close: params.close_stdin,
            pending: stats.stdin_pending.charge(bytes),
            unanswered: stats.stdin_unanswered.charge(unanswered_cost(ticket.id())),
        }
    }

    /// Whether there is anything to be done.
    pub(crate) fn says_something(&self) -> bool {
        self.delta.is_some() || self.close
    }

    /// The request it was, which counts no longer.
    pub(crate) fn into_params(self, handle: &str) -> WriteStdinParams {
        WriteStdinParams {
            process_handle: handle.to_owned(),
            delta: self.delta,
            close_stdin: self.close,
        }
    }
}

pub(crate) struct Stdin {
    /// `None` once it is closed, or if it never was open to the client.
    sink: Option<Rc<OwnedFd>>,
    terminal: bool,
    /// Bytes, and what they count as pending: only what of them has not been written.
    queue: VecDeque<(Vec<u8>, Charge)>,
    /// How much of the first in the queue has been written.
    at: usize,
    /// All queued bytes, those on their way here included.
    pending: Arc<Account>,
    /// Those that wait for the child are parked, so that a child that does not read holds up no other request.
    unanswered: VecDeque<(Ticket, Charge)>,
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
        pending: Arc<Account>,
        outbox: Outbox,
    ) -> Self {
        Stdin {
            sink,
            terminal,
            queue: VecDeque::new(),
            at: 0,
            pending,
            unanswered: VecDeque::new(),
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
    pub(crate) fn write(&mut self, ticket: Ticket, write: AcceptedWrite) {
        if self.sink.is_none() || self.closing {
            drop(write);
            let error = match self.closing {
                true => "stdin is already closed",
                false => "stdin was closed by the process",
            };
            self.outbox.answer(ticket, Err(RpcError::invalid_request(error)));
            return;
        }
        if let Some(bytes) = write.delta.filter(|bytes| !bytes.is_empty()) {
            self.queue.push_back((bytes, write.pending));
        }
        self.closing = write.close;
        self.unanswered.push_back((ticket, write.unanswered));
        self.pump();
        if let Some((ticket, _)) = self.unanswered.back_mut() {
            ticket.park();
        }
    }

    /// Writes what the child takes now.
    pub(crate) fn pump(&mut self) {
        while let (Some(sink), Some((bytes, pending))) = (&self.sink, self.queue.front_mut()) {
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
                    pending.give_back(n);
                    if self.at == bytes.len() {
                        self.queue.pop_front();
                        self.at = 0;
                    }
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
        if self.pending.used() <= FREE_STDIN_BYTES || self.queue.is_empty() {
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
            self.queue
                .push_back((left.to_vec(), self.pending.charge(left.len())));
            self.end_queued = true;
            self.sink = Some(sink);
        }
    }

    /// Gives up: nothing will be read any more.
    pub(crate) fn fail(&mut self, why: &str) {
        self.queue.clear();
        self.at = 0;
        self.sink = None;
        if !self.unanswered.is_empty() {
            self.answer_all(&Err(RpcError::invalid_request(why)));
        }
    }

    fn answer_all(&mut self, outcome: &Result<Reply, RpcError>) {
        while let Some((ticket, unanswered)) = self.unanswered.pop_front() {
            // A client that has read the answer may send another.
            drop(unanswered);
            self.outbox.answer(ticket, outcome.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::costs::UNANSWERED_COST_BYTES;

    #[test]
    fn an_accepted_write_counts_until_it_is_dropped() {
        let stats = Stats::default();
        let (outbox, _receiver) = crate::outbox::outbox(crossbeam_channel::unbounded().0);
        let counts = || (stats.stdin_pending.used(), stats.stdin_unanswered.used());
        let accept = |id: &str| {
            let params = WriteStdinParams {
                process_handle: "h".to_owned(),
                delta: Some(vec![0; 10]),
                close_stdin: true,
            };
            AcceptedWrite::new(&outbox.admit(Some(id.into())), params, &stats)
        };
        let (first, second) = (accept("a"), accept(&"x".repeat(100)));
        assert_eq!(counts(), (20, UNANSWERED_COST_BYTES + 100));
        drop(first);
        assert_eq!(counts(), (10, 100));
        let params = second.into_params("h");
        assert_eq!(counts(), (0, 0));
        assert_eq!((params.delta, params.close_stdin), (Some(vec![0; 10]), true));
    }

    /// A pipe holds some of it; the rest counts until it is read or given up.
    #[test]
    fn what_was_written_is_not_pending_and_neither_is_what_was_given_up() {
        let stats = Stats::default();
        let (outbox, mut receiver) = crate::outbox::outbox(crossbeam_channel::unbounded().0);
        let (_reader, writer) = sys::pipe().expect("a pipe");
        sys::set_nonblocking(&writer).expect("of our own");
        let pending = Arc::clone(&stats.stdin_pending);
        let mut stdin = Stdin::new(Some(Rc::new(writer)), false, pending, outbox.clone());
        let write = |stdin: &mut Stdin, id: i64, bytes: usize| {
            let ticket = outbox.admit(Some(id.into()));
            let params = WriteStdinParams {
                process_handle: "h".to_owned(),
                delta: Some(vec![0; bytes]),
                close_stdin: false,
            };
            let write = AcceptedWrite::new(&ticket, params, &stats);
            stdin.write(ticket, write);
        };
        write(&mut stdin, 1, 1_000);
        assert_eq!(stats.stdin_pending.used(), 0);
        assert_eq!(stats.stdin_unanswered.used(), 0, "it is answered");
        write(&mut stdin, 2, 2 * FREE_STDIN_BYTES);
        write(&mut stdin, 3, 0);
        let pending = stats.stdin_pending.used();
        assert!(
            (FREE_STDIN_BYTES..2 * FREE_STDIN_BYTES).contains(&pending),
            "{pending}"
        );
        assert_eq!(stats.stdin_unanswered.used(), 2 * UNANSWERED_COST_BYTES);
        stdin.fail("over");
        write(&mut stdin, 4, 10);
        assert_eq!(
            (stats.stdin_pending.used(), stats.stdin_unanswered.used()),
            (0, 0)
        );
        let answers = std::iter::from_fn(|| receiver.try_next().ok());
        assert_eq!(answers.count(), 4);
    }
}
