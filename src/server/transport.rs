//! The two threads between bytes and messages.
//!
//! **Thread:** `rpc-read` runs [`read_messages`], `rpc-write` runs [`write_messages`].
//! **Owns:** the client's input; the client's output with its encode buffer.
//! **Never:** knows what a request means. A reader that waits is ended by its end of input or, on
//! stdio, by the [`Wake`]; a writer that waits is ended by its queue or by its client.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};

use crate::outbox::costs::{
    BATCH_BYTES, BUSY_AFTER_BYTES, BUSY_PIPE_BYTES, INBOX_LONGEST_MESSAGES, INBOX_MESSAGES,
};
use crate::outbox::{NoMessage, Notice, Outbox, OutboxReceiver, outbox};
use crate::server::error::Error;
use crate::server::spin::Spin;
use crate::sys::sync::{self, WaitFlag};
use crate::sys::{self, EventFd, PollFd};
use crate::wire::framing::{self, Frame, Frames};
use crate::wire::message::{self, ClientMessage};

/// Where bytes come from and go to.
pub(crate) enum Io {
    Any {
        reader: Box<dyn Read + Send>,
        writer: Box<dyn Write + Send>,
    },
    Stdio,
}

impl Io {
    /// Its reader and its writer, and what ends the reader's waiting where anything can.
    #[allow(clippy::type_complexity)]
    pub(crate) fn open(self) -> io::Result<(Box<dyn Read + Send>, Box<dyn Write + Send>, Option<Wake>)> {
        match self {
            Io::Any { reader, writer } => Ok((reader, writer, None)),
            Io::Stdio => {
                let (reader, writer, wake) = Stdio::open()?;
                Ok((Box::new(reader), Box::new(writer), Some(wake)))
            }
        }
    }
}

/// What comes from the client.
pub(crate) enum Inbound {
    Message(ClientMessage, Option<Weight>),
    /// The client has closed its end of the output.
    OutputGone,
    /// All that has been read has been handed over. Comes where it was asked for: see [`Transport::reader_is_busy`].
    ReaderIdle,
}

/// Whether `rpc-read` has read what it has not handed over yet.
#[derive(Default)]
struct ReaderState {
    /// Relaxed: the flag orders it.
    busy: sync::AtomicBool,
    /// The dispatcher wants to be told when it is not.
    asked: WaitFlag,
}

impl ReaderState {
    /// All that was read has been handed over; whether that is to be told.
    fn idle(&self) -> bool {
        self.busy.store(false, Relaxed);
        self.asked.take()
    }

    fn busy(&self) {
        self.busy.store(true, Relaxed);
    }

    /// Whether there may be more. If so, [`idle`](Self::idle) tells when there is not.
    fn is_busy(&self) -> bool {
        !self.asked.unless(|| !self.busy.load(Relaxed))
    }
}

/// The client's input, of which is known whether all that has been read has been handed over.
struct Input {
    reader: Box<dyn Read + Send>,
    state: Arc<ReaderState>,
    inbox: Sender<Inbound>,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.state.idle() {
            let _ = self.inbox.send(Inbound::ReaderIdle);
        }
        let read = self.reader.read(buffer);
        self.state.busy();
        read
    }
}

/// How this connection's messages look, which the client's first one decides.
#[derive(Default)]
pub(crate) struct Dialect {
    /// Whether they carry `"jsonrpc":"2.0"`.
    jsonrpc: AtomicBool,
    /// Whether they have headers instead of being lines.
    headers: AtomicBool,
}

// ---- the threads ----

/// The two threads of a connection that is not in memory.
pub(crate) struct Transport {
    writer_done: Receiver<()>,
    wake_reader: Option<Wake>,
    reader: Arc<ReaderState>,
}

impl Transport {
    pub(crate) fn start(
        io: Io,
        notify: Sender<Notice>,
        limit: usize,
        spin: Arc<Spin>,
    ) -> Result<(Receiver<Inbound>, Outbox, Transport), Error> {
        let (reader, writer, wake_reader) = io.open().map_err(Error::stdio)?;
        let dialect = Arc::new(Dialect::default());
        let (inbox_sender, inbox) = bounded(INBOX_MESSAGES);
        let (outbox, receiver) = outbox(notify.clone());
        let (done, writer_done) = bounded(1);
        {
            let dialect = Arc::clone(&dialect);
            thread("rpc-write", move || {
                write_messages(receiver, writer, &dialect, &spin);
                let _ = done.send(());
            })?;
        }
        let state = Arc::new(ReaderState::default());
        let input = Input {
            reader,
            state: Arc::clone(&state),
            inbox: inbox_sender.clone(),
        };
        let output = wake_reader.clone();
        thread("rpc-read", move || {
            read_messages(input, inbox_sender, &dialect, limit);
            // A client that has ended its input, and has its processes drained, may still go away.
            if output.is_some_and(|output| output.output_hangs_up()) {
                let _ = notify.send(Notice::OutputGone);
            }
        })?;
        let transport = Transport {
            writer_done,
            wake_reader,
            reader: state,
        };
        Ok((inbox, outbox, transport))
    }

    /// Waits for what is queued to be written, however long the client takes to read it, as any program
    /// waits for the reader of its pipe. Where the client goes away, the writer ends as well.
    /// Whether the wait was ended by [`Stopper::stop`](crate::Stopper::stop).
    pub(crate) fn wait_for_reader(&self, notices: &Receiver<Notice>) -> bool {
        loop {
            select! {
                recv(self.writer_done) -> _ => return false,
                recv(notices) -> notice => match notice {
                    Ok(Notice::Room | Notice::OutputGone) => {}
                    Ok(Notice::Stop) => return true,
                    // No sender is left, so no end can be asked for.
                    Err(_) => {
                        let _ = self.writer_done.recv();
                        return false;
                    }
                },
            }
        }
    }

    /// Whether there may be messages that have been read and not handed over. If so,
    /// [`Inbound::ReaderIdle`] comes after them.
    pub(crate) fn reader_is_busy(&self) -> bool {
        self.reader.is_busy()
    }

    /// Whether the client has ended its input, even if some of that has not been read yet. Only of stdio
    /// can that be known.
    pub(crate) fn input_hung_up(&self) -> bool {
        self.wake_reader.is_some() && stdin_hung_up()
    }

    /// Waits for what is queued to be written, but not past `deadline`: a client that does not read
    /// leaves the writer where it is, and it ends with the program or with the client.
    pub(crate) fn finish(self, deadline: Instant) {
        if let Some(wake) = self.wake_reader {
            wake.wake();
        }
        // One that has ended before has said so, and is gone.
        if let Err(RecvTimeoutError::Timeout) = self.writer_done.recv_deadline(deadline) {
            log::debug!("the client has not read everything in time");
        }
    }
}

fn thread(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    sys::start_thread(name, sys::THREAD_STACK_BYTES, body)
        .map(drop)
        .map_err(|e| Error::thread(name, e))
}

// ---- reading ----

/// Bounds the bytes of the messages that wait for the dispatcher.
pub(crate) struct Gate {
    load: Mutex<Load>,
    room: Condvar,
    limit: usize,
}

#[derive(Default)]
struct Load {
    bytes: usize,
    /// The reader waits for room. Only then is it woken: that takes a system call, whether it waits or not.
    is_awaited: bool,
}

/// A message's share of a [`Gate`], given back when the dispatcher has taken the message.
pub(crate) struct Weight {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    fn new(limit: usize) -> Arc<Gate> {
        Arc::new(Gate {
            load: Mutex::default(),
            room: Condvar::new(),
            limit,
        })
    }

    /// Waits until there is room; the dispatcher makes it. One message is always let in.
    fn enter(self: &Arc<Self>, bytes: usize) -> Weight {
        let mut load = sys::lock(&self.load);
        while load.bytes > 0 && load.bytes + bytes > self.limit {
            load.is_awaited = true;
            load = sys::lock::wait(&self.room, load);
        }
        load.bytes += bytes;
        Weight {
            gate: Arc::clone(self),
            bytes,
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let mut load = sys::lock(&self.gate.load);
        load.bytes -= self.bytes;
        if std::mem::take(&mut load.is_awaited) {
            self.gate.room.notify_one();
        }
    }
}

/// Reads messages for `inbox`, until the input ends or the inbox is gone.
/// The end of input is signalled by dropping `inbox`.
fn read_messages(input: Input, inbox: Sender<Inbound>, dialect: &Dialect, limit: usize) {
    sys::block_signals_for_this_thread();
    let gate = Gate::new(limit.saturating_mul(INBOX_LONGEST_MESSAGES));
    let mut frames = Frames::new(input, limit);
    let mut first = true;
    loop {
        let inbound = match frames.next() {
            Ok(Frame::Message(text)) => {
                let parsed = message::parse(text);
                if let (true, Some(jsonrpc)) = (first, parsed.jsonrpc) {
                    first = false;
                    dialect.jsonrpc.store(jsonrpc, Relaxed);
                }
                if parsed.message == ClientMessage::Notification {
                    continue;
                }
                Inbound::Message(parsed.message, Some(gate.enter(text.len())))
            }
            Ok(Frame::Invalid(error)) => Inbound::Message(ClientMessage::Invalid { id: None, error }, None),
            Ok(Frame::Headers) => {
                dialect.headers.store(true, Relaxed);
                continue;
            }
            Ok(Frame::End) => return,
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

// ---- writing ----

/// Writes what the outbox holds, until all its senders are gone.
/// Small messages share a write, which is made as soon as there is nothing to add to it.
fn write_messages(
    mut outbox: OutboxReceiver,
    mut writer: Box<dyn Write + Send>,
    dialect: &Dialect,
    spin: &Spin,
) {
    sys::block_signals_for_this_thread();
    let mut buffer = Vec::with_capacity(2 * BATCH_BYTES);
    let mut gone = false;
    loop {
        let next = match outbox.try_next() {
            Err(NoMessage::NotYet) if buffer.is_empty() => match spin.wait(|| outbox.try_next().ok()) {
                Some(outgoing) => Ok(outgoing),
                None => outbox.next(None),
            },
            next => next,
        };
        match next {
            Ok(outgoing) => {
                if !gone {
                    let start = buffer.len();
                    message::encode(&mut buffer, &outgoing.message, dialect.jsonrpc.load(Relaxed));
                    if dialect.headers.load(Relaxed) {
                        // Its length says where it ends, and not a line end.
                        buffer.pop();
                        framing::put_header(&mut buffer, start);
                    }
                }
                outgoing.recycle();
                if buffer.len() < BATCH_BYTES {
                    continue;
                }
            }
            Err(NoMessage::NotYet) => {}
            Err(NoMessage::Ended) => return,
        }
        // After a failure the queue is still emptied, so that credit flows and no thread waits.
        if !gone && let Err(e) = writer.write_all(&buffer).and_then(|()| writer.flush()) {
            log::debug!("writing to the client failed: {e}");
            gone = true;
            outbox.output_gone();
        }
        buffer.clear();
        if buffer.capacity() > 8 * BATCH_BYTES {
            buffer.shrink_to(2 * BATCH_BYTES);
        }
    }
}

// ---- stdio ----

/// Ends the waiting of a [`StdioReader`], for good.
#[derive(Clone)]
pub(crate) struct Wake(Arc<EventFd>);

impl Wake {
    pub(crate) fn wake(&self) {
        self.0.set();
    }

    /// Waits until descriptor 1 has lost its reader; false if it was woken before.
    pub(crate) fn output_hangs_up(&self) -> bool {
        loop {
            let mut interests = [
                PollFd::hangup(io::stdout().as_raw_fd()),
                PollFd::read(self.0.raw()),
            ];
            if sys::poll(&mut interests, None).is_err() || interests[1].readable() {
                return false;
            }
            if interests[0].hung_up() {
                return true;
            }
        }
    }
}

/// Whether descriptor 0 has lost its last writer, even if some of its input has not been read yet.
pub(crate) fn stdin_hung_up() -> bool {
    let mut interest = [PollFd::no_writer(io::stdin().as_raw_fd())];
    sys::poll(&mut interest, Some(Duration::ZERO)).is_ok() && interest[0].hung_up()
}

/// Descriptors 0 and 1, in whatever mode they are in. That mode is shared with all that have
/// them open, a terminal's shell for example, so it is never changed.
pub(crate) struct Stdio;

impl Stdio {
    pub(crate) fn open() -> io::Result<(StdioReader, StdioWriter, Wake)> {
        let wake = Arc::new(EventFd::new().map_err(sys::named("eventfd2"))?);
        let reader = StdioReader {
            input: io::stdin(),
            output: io::stdout(),
            wake: Arc::clone(&wake),
            traffic: Traffic::default(),
        };
        let writer = StdioWriter {
            output: io::stdout(),
            traffic: Traffic::default(),
        };
        Ok((reader, writer, Wake(wake)))
    }
}

/// What has gone through descriptor 0 or 1.
#[derive(Default)]
struct Traffic(u64);

impl Traffic {
    /// Counts `n` bytes more, and has the pipe hold more once it is busy.
    fn carried(&mut self, n: usize, fd: BorrowedFd<'_>) {
        let before = self.0;
        self.0 += n as u64;
        if before < BUSY_AFTER_BYTES && self.0 >= BUSY_AFTER_BYTES {
            // Refused where the user's pipes hold too much already; then it is slower.
            let _ = sys::set_pipe_size(fd, BUSY_PIPE_BYTES);
        }
    }
}

/// Reads descriptor 0, and watches descriptor 1 for a client that has gone away.
pub(crate) struct StdioReader {
    input: io::Stdin,
    output: io::Stdout,
    wake: Arc<EventFd>,
    traffic: Traffic,
}

impl Read for StdioReader {
    /// `BrokenPipe` means that the client has closed its end of the output.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut interests = [
                PollFd::read(self.input.as_raw_fd()),
                PollFd::hangup(self.output.as_raw_fd()),
                PollFd::read(self.wake.raw()),
            ];
            sys::poll(&mut interests, None)?;
            let [input, output, wake] = interests;
            if wake.readable() {
                return Ok(0);
            }
            if input.readable() {
                match sys::read(self.input.as_fd(), buffer) {
                    Err(e) if would_block(&e) => {}
                    Err(e) => return Err(e),
                    Ok(n) => {
                        self.traffic.carried(n, self.input.as_fd());
                        return Ok(n);
                    }
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
    traffic: Traffic,
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
                    sys::poll(&mut [PollFd::write(self.output.as_raw_fd())], None)?;
                }
                Ok(n) => {
                    self.traffic.carried(n, self.output.as_fd());
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

#[cfg(all(loom, test))]
mod models {
    use super::*;

    /// Where the dispatcher is told to wait, it is told that the reader is idle.
    #[test]
    fn an_idle_reader_is_told_of() {
        loom::model(|| {
            let state = Arc::new(ReaderState::default());
            state.busy();
            let reader = Arc::clone(&state);
            let reader = loom::thread::spawn(move || reader.idle());
            let waits = state.is_busy();
            let told = reader.join().expect("no panic");
            assert!(!waits || told);
        });
    }
}
