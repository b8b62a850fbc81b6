//! The way to the writer: a lane for answers, a lane for output, credit and admission.
//!
//! **Thread:** the sending side is shared by the dispatcher and every process thread; the receiving
//! side belongs to `rpc-write`, or to the client of a connection in memory.
//! **Owns:** what bounds everything on its way to the client.
//! **Never:** makes a sender wait. One that may not send yet is told so, and hears later that it may.
//!
//! Two bounds, for two kinds of traffic:
//!
//! - *Credit* bounds streamed output. A process may have [`PROCESS_CREDIT_BYTES`] bytes on their way, taken
//!   from one pool for all; a process with nothing on its way may always send one small chunk, so
//!   that a pool used up by others delays it and never starves it. Credit comes back when the
//!   message is taken off the queue, and wakes the process if it was waiting for it.
//! - *Admission* bounds answers and exits: each belongs to a request that was let in. When too many
//!   are unsent the dispatcher stops taking requests until the writer has caught up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::sys::EventFd;
use crate::wire::protocol::{
    Capabilities, Collected, Exited, OutputDelta, ProcessInfo, Reply, RequestId, RpcError, ServerMessage,
    cost_of_strings, notification,
};

/// The most bytes of output in one message.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// Output of one process that may be on its way to the client.
const PROCESS_CREDIT_BYTES: usize = 128 * 1024;
/// Output of all processes that may be on its way, but for one small chunk each.
const POOL_CREDIT_BYTES: usize = 8 * 1024 * 1024;
/// What a process may send when the pool is used up.
const SMALL_CHUNK_BYTES: usize = 4 * 1024;
/// What a message costs besides its bytes, so that many tiny ones are bounded too.
const MESSAGE_COST: usize = 256;
/// Requests and live processes, together, past which no request is let in.
pub(crate) const MAX_IN_FLIGHT: usize = 65_536;
/// Bytes of unsent answers past which no request is let in, and of unsent exits past which no
/// process is: what runs already is still killed when a client asks for it without reading.
const MAX_UNSENT: usize = 32 * 1024 * 1024;
/// Read buffers that are kept for reuse.
const KEPT_BUFFERS: usize = 16;

/// What the dispatcher hears from outside of processes and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// There is room for requests again.
    Room,
    /// The answers are not read any more.
    OutputGone,
    /// The end was asked for.
    Stop,
}

struct Queued {
    message: ServerMessage,
    permit: Option<Permit>,
    /// What it counts against [`MAX_UNSENT`]; 0 for output, which has credit.
    weight: usize,
}

/// The sending side. When the last clone is dropped, the receiving side ends.
#[derive(Clone)]
pub(crate) struct Outbox {
    answers: Sender<Queued>,
    output: Sender<Option<Queued>>,
    shared: Arc<Shared>,
}

struct Shared {
    in_flight: AtomicUsize,
    unsent: AtomicUsize,
    unsent_exits: AtomicUsize,
    /// The dispatcher waits to be told that there is room.
    wants_room: AtomicBool,
    notices: Sender<Notice>,
    pool: AtomicUsize,
    buffers: Buffers,
    no_deltas: AtomicBool,
    no_exits: AtomicBool,
}

/// The receiving side.
pub(crate) struct OutboxReceiver {
    answers: Receiver<Queued>,
    /// `None` says that there is an answer. So the receiver waits for this lane alone, which costs
    /// less than waiting for either of two.
    output: Receiver<Option<Queued>>,
    /// A message of the output lane that waits for the answers that were sent before it.
    held: Option<Queued>,
    /// How many of those there may be.
    answers_first: usize,
    shared: Arc<Shared>,
}

/// Both sides; `notices` hears of room and of a lost output.
pub(crate) fn outbox(notices: Sender<Notice>) -> (Outbox, OutboxReceiver) {
    // Unbounded as channels; bounded by credit and admission, so that a sender never waits.
    let (answers_sender, answers) = unbounded();
    let (output_sender, output) = unbounded();
    let shared = Arc::new(Shared {
        in_flight: AtomicUsize::new(0),
        unsent: AtomicUsize::new(0),
        unsent_exits: AtomicUsize::new(0),
        wants_room: AtomicBool::new(false),
        notices,
        pool: AtomicUsize::new(POOL_CREDIT_BYTES),
        buffers: Buffers::new(),
        no_deltas: AtomicBool::new(false),
        no_exits: AtomicBool::new(false),
    });
    let sender = Outbox {
        answers: answers_sender,
        output: output_sender,
        shared: Arc::clone(&shared),
    };
    let receiver = OutboxReceiver {
        answers,
        output,
        held: None,
        answers_first: 0,
        shared,
    };
    (sender, receiver)
}

impl Outbox {
    /// Answers a request. It was admitted before.
    pub(crate) fn answer(&self, id: Option<RequestId>, outcome: Result<Reply, RpcError>) {
        let answer = self.response(id, outcome);
        // A receiver that is gone has lost its client, which the dispatcher hears from elsewhere.
        let _ = self.answers.send(answer);
        let _ = self.output.send(None);
    }

    /// Answers a request after all earlier output, an exit included.
    pub(crate) fn answer_behind_output(&self, id: RequestId, outcome: Result<Reply, RpcError>) {
        let answer = self.response(Some(id), outcome);
        let _ = self.output.send(Some(answer));
    }

    fn response(&self, id: Option<RequestId>, outcome: Result<Reply, RpcError>) -> Queued {
        let weight = 64
            + id.as_ref().map_or(0, RequestId::len)
            + match &outcome {
                Ok(Reply::List(list)) => list.processes.iter().map(weight_in_list).sum(),
                Ok(Reply::Inspect(inspection)) => inspection.weight(),
                Ok(_) => 0,
                Err(error) => error.message.len() + error.data.as_ref().map_or(0, |d| d.program.len()),
            };
        self.queued(ServerMessage::Response { id, outcome }, None, weight)
    }

    /// Sends a delta after all earlier output. The permit says that there was credit for it.
    pub(crate) fn delta(&self, delta: OutputDelta, permit: Option<Permit>) {
        if self.shared.no_deltas.load(SeqCst) {
            return;
        }
        let message = self.queued(ServerMessage::OutputDelta(delta), permit, 0);
        let _ = self.output.send(Some(message));
    }

    /// Sends the last word on a process after all its output. The process was admitted before.
    pub(crate) fn exited(&self, exited: Box<Exited>) {
        if self.shared.no_exits.load(SeqCst) {
            self.retract();
            return;
        }
        // The handle is there twice: the dispatcher remembers it until the exit has been sent.
        let handle = 2 * exited.process_handle.len();
        let kept = |collected: &Collected| {
            let tail = collected.tail.as_ref().map_or(0, |tail| tail.bytes.len());
            collected.bytes.len() + tail
        };
        let weight = 512 + handle + kept(&exited.stdout) + kept(&exited.stderr);
        let message = self.queued(ServerMessage::Exited(exited), None, weight);
        let _ = self.output.send(Some(message));
    }

    fn queued(&self, message: ServerMessage, permit: Option<Permit>, weight: usize) -> Queued {
        self.shared.unsent(&message).fetch_add(weight, SeqCst);
        Queued {
            message,
            permit,
            weight,
        }
    }

    /// Lets in one request, or one process.
    pub(crate) fn admit(&self) {
        self.shared.in_flight.fetch_add(1, SeqCst);
    }

    /// Takes back one [`admit`](Self::admit) that will have no message, or a late one.
    pub(crate) fn retract(&self) {
        self.shared.in_flight.fetch_sub(1, SeqCst);
        self.shared.tell_of_room();
    }

    /// Whether another request may be let in. If not, [`Notice::Room`] comes when one may.
    pub(crate) fn has_room(&self) -> bool {
        self.wait_for(Shared::has_room)
    }

    /// Whether an answer of any length may be sent. If not, [`Notice::Room`] comes when one may.
    pub(crate) fn has_room_for_an_answer(&self) -> bool {
        self.wait_for(Shared::has_room_for_an_answer)
    }

    /// Whether another process may be started. If not, [`Notice::Room`] comes when one may.
    pub(crate) fn has_room_for_a_process(&self) -> bool {
        self.wait_for(Shared::has_room_for_a_process)
    }

    fn wait_for(&self, room: impl Fn(&Shared) -> bool) -> bool {
        if room(&self.shared) {
            return true;
        }
        self.shared.wants_room.store(true, SeqCst);
        // Once more: the receiver may have made room before it could see that it was wanted.
        room(&self.shared)
    }

    /// Leaves out the notifications the client does not want.
    pub(crate) fn opt_out(&self, capabilities: &Capabilities) {
        for method in capabilities.opt_out_notification_methods.iter().flatten() {
            match method.as_str() {
                notification::OUTPUT_DELTA => self.shared.no_deltas.store(true, SeqCst),
                notification::EXITED => self.shared.no_exits.store(true, SeqCst),
                _ => {}
            }
        }
    }

    /// The account of a new process, which `wake` wakes when it may send again.
    pub(crate) fn credit(&self, wake: Arc<EventFd>) -> Arc<Credit> {
        Arc::new(Credit {
            in_flight: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            wake,
            shared: Arc::clone(&self.shared),
        })
    }

    /// The read buffers that all processes share.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.shared.buffers
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        self.in_flight.load(SeqCst) < MAX_IN_FLIGHT && self.has_room_for_an_answer()
    }

    fn has_room_for_an_answer(&self) -> bool {
        self.unsent.load(SeqCst) < MAX_UNSENT
    }

    fn has_room_for_a_process(&self) -> bool {
        self.unsent_exits.load(SeqCst) < MAX_UNSENT
    }

    /// The account that `message` is on.
    fn unsent(&self, message: &ServerMessage) -> &AtomicUsize {
        match message {
            ServerMessage::Exited(_) => &self.unsent_exits,
            ServerMessage::Response { .. } | ServerMessage::OutputDelta(_) => &self.unsent,
        }
    }

    fn tell_of_room(&self) {
        // One kind of room is enough to tell of: what waits for the other finds out, and asks again.
        if self.wants_room.load(SeqCst)
            && (self.has_room() || self.has_room_for_a_process())
            && self.wants_room.swap(false, SeqCst)
        {
            let _ = self.notices.send(Notice::Room);
        }
    }
}

/// What one process of a list holds.
fn weight_in_list(process: &ProcessInfo) -> usize {
    256 + process.process_handle.len()
        + cost_of_strings(&process.command)
        + process.cwd.as_ref().map_or(0, String::len)
}

/// A message with what it holds, which is given back when this is dropped.
pub(crate) struct Taken {
    pub(crate) message: ServerMessage,
    permit: Option<Permit>,
}

impl Taken {
    /// Gives the buffer of a delta back for reuse, and its credit.
    pub(crate) fn recycle(self) {
        if let (ServerMessage::OutputDelta(delta), Some(permit)) = (self.message, self.permit) {
            permit.credit.shared.buffers.give_back(delta.bytes);
        }
    }

    /// The message; its credit is given back.
    pub(crate) fn into_message(self) -> ServerMessage {
        self.message
    }
}

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoMessage {
    /// There will be none any more.
    Ended,
    /// There was none in time.
    NotYet,
}

impl OutboxReceiver {
    /// The next message, if there is one now.
    pub(crate) fn try_next(&mut self) -> Result<Taken, NoMessage> {
        match self.ready() {
            Some(queued) => Ok(self.take(queued)),
            None => Err(NoMessage::NotYet),
        }
    }

    /// The next message; waits for it until `deadline`, or until all senders are gone.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<Taken, NoMessage> {
        loop {
            if let Some(queued) = self.ready() {
                return Ok(self.take(queued));
            }
            let next = match deadline {
                None => self.output.recv().map_err(|_| NoMessage::Ended),
                Some(deadline) => self.output.recv_deadline(deadline).map_err(|e| match e {
                    RecvTimeoutError::Timeout => NoMessage::NotYet,
                    RecvTimeoutError::Disconnected => NoMessage::Ended,
                }),
            };
            if let Some(output) = next? {
                self.hold(output);
            }
        }
    }

    fn ready(&mut self) -> Option<Queued> {
        while self.held.is_none() {
            if let Ok(answer) = self.answers.try_recv() {
                return Some(answer);
            }
            if let Some(output) = self.output.try_recv().ok()? {
                self.hold(output);
            }
        }
        // An answer that was sent before the held message is in its lane by now: sending one
        // happens before sending the other, which happens before taking the other.
        if self.answers_first > 0 {
            self.answers_first -= 1;
            if let Ok(answer) = self.answers.try_recv() {
                return Some(answer);
            }
        }
        self.held.take()
    }

    fn hold(&mut self, output: Queued) {
        self.answers_first = self.answers.len();
        self.held = Some(output);
    }

    fn take(&self, queued: Queued) -> Taken {
        if queued.weight > 0 {
            self.shared
                .unsent(&queued.message)
                .fetch_sub(queued.weight, SeqCst);
            self.shared.in_flight.fetch_sub(1, SeqCst);
            self.shared.tell_of_room();
        }
        Taken {
            message: queued.message,
            permit: queued.permit,
        }
    }

    /// Tells the dispatcher that what is sent is not read.
    pub(crate) fn output_gone(&self) {
        let _ = self.shared.notices.send(Notice::OutputGone);
    }
}

impl Drop for OutboxReceiver {
    /// A client in memory that drops its receiver has gone; at the end of a connection this is not received.
    fn drop(&mut self) {
        self.output_gone();
    }
}

/// The credit account of one process. Its own thread reserves, the receiving side gives back.
pub(crate) struct Credit {
    in_flight: AtomicUsize,
    waiting: AtomicBool,
    wake: Arc<EventFd>,
    shared: Arc<Shared>,
}

/// Leave to send one chunk of output. Dropping it gives the credit back.
pub(crate) struct Permit {
    credit: Arc<Credit>,
    charged: usize,
    pooled: usize,
}

impl Credit {
    /// Whether [`reserve`](Self::reserve) would succeed. If not, the process is woken when it may.
    pub(crate) fn may_reserve(&self) -> bool {
        if self.available() {
            return true;
        }
        self.waiting.store(true, SeqCst);
        // Once more: the credit may have come back before it could be seen that it was waited for.
        self.available()
    }

    fn available(&self) -> bool {
        let in_flight = self.in_flight.load(SeqCst);
        in_flight == 0 || in_flight < PROCESS_CREDIT_BYTES && self.shared.pool.load(SeqCst) >= CHUNK_BYTES
    }

    /// Leave for one chunk, and how many bytes it may have.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<(Permit, usize)> {
        let in_flight = self.in_flight.load(SeqCst);
        if in_flight >= PROCESS_CREDIT_BYTES {
            return None;
        }
        let pooled = self
            .shared
            .pool
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(CHUNK_BYTES))
            .is_ok();
        let (charged, pooled) = match pooled {
            true => (CHUNK_BYTES, CHUNK_BYTES),
            false if in_flight == 0 => (SMALL_CHUNK_BYTES, 0),
            false => return None,
        };
        self.in_flight.fetch_add(charged, SeqCst);
        let permit = Permit {
            credit: Arc::clone(self),
            charged,
            pooled,
        };
        Some((permit, charged))
    }
}

impl Permit {
    /// Gives back what a message with `bytes` does not need.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let needed = bytes + MESSAGE_COST;
        if needed < self.charged {
            self.credit.in_flight.fetch_sub(self.charged - needed, SeqCst);
            self.charged = needed;
        }
        if needed < self.pooled {
            self.credit.shared.pool.fetch_add(self.pooled - needed, SeqCst);
            self.pooled = needed;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.credit.shared.pool.fetch_add(self.pooled, SeqCst);
        self.credit.in_flight.fetch_sub(self.charged, SeqCst);
        if self.credit.waiting.load(SeqCst) && self.credit.waiting.swap(false, SeqCst) {
            self.credit.wake.set();
        }
    }
}

/// Read buffers of [`CHUNK_BYTES`] bytes, shared by all processes so that an idle one holds none.
pub(crate) struct Buffers {
    take: Receiver<Vec<u8>>,
    give: Sender<Vec<u8>>,
}

impl Buffers {
    fn new() -> Self {
        let (give, take) = bounded(KEPT_BUFFERS);
        Buffers { take, give }
    }

    /// An empty buffer with room for a chunk.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.take
            .try_recv()
            .unwrap_or_else(|_| Vec::with_capacity(CHUNK_BYTES))
    }

    /// Keeps a buffer for its next use, unless the pool is full or the capacity differs.
    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() == CHUNK_BYTES {
            buffer.clear();
            let _ = self.give.try_send(buffer);
        }
    }
}
