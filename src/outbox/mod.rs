//! The way to the writer: a lane for answers, a lane for output, credit and admission.
//!
//! **Thread:** the sending side is shared by the dispatcher and every process thread; the receiving
//! side belongs to `rpc-write`, or to the client of a connection in memory.
//! **Owns:** what bounds everything on its way to the client.
//! **Never:** makes a sender wait. One that may not send yet is told so, and hears later that it may.
//!
//! Two bounds, for two kinds of traffic:
//!
//! - *Credit* bounds streamed output: `credit.rs`.
//! - *Admission* bounds answers and exits, each of which belongs to a request that was let in: `admission.rs`.
//!
//! What each message costs, and how much there may be, is in `costs.rs`. Whatever counts is given back by
//! being dropped.

mod account;
mod admission;
pub(crate) mod costs;
mod credit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

pub(crate) use self::account::{Account, Charge};
use self::admission::Admission;
pub(crate) use self::admission::{Permit, Ticket};
use self::costs::{answer_cost, exit_cost, list_cost};
use self::credit::Pool;
pub(crate) use self::credit::{Buffers, Credit, OutputPermit};
use crate::sys::EventFd;
use crate::wire::protocol::{
    Capabilities, Exited, OutputDelta, Reply, RequestId, RpcError, ServerMessage, notification,
};

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

/// A message with what it holds, which is given back when this is dropped.
pub(crate) struct Outgoing {
    pub(crate) message: ServerMessage,
    held: Held,
}

/// What a message holds on its way.
enum Held {
    Nothing,
    Output(OutputPermit),
    /// An answer or an exit.
    Room {
        _permit: Permit,
    },
}

/// The sending side. When the last clone is dropped, the receiving side ends.
#[derive(Clone)]
pub(crate) struct Outbox {
    /// Of the same type as the other lane, so that there is one kind of channel for both.
    answers: Sender<Option<Outgoing>>,
    output: Sender<Option<Outgoing>>,
    shared: Arc<Shared>,
}

struct Shared {
    admission: Arc<Admission>,
    pool: Arc<Pool>,
    no_deltas: AtomicBool,
    no_exits: AtomicBool,
}

/// The receiving side.
pub(crate) struct OutboxReceiver {
    answers: Receiver<Option<Outgoing>>,
    /// `None` says that there is an answer. So the receiver waits for this lane alone, which costs
    /// less than waiting for either of two.
    output: Receiver<Option<Outgoing>>,
    /// A message of the output lane that waits for the answers that were sent before it.
    held: Option<Outgoing>,
    /// How many of those there may be.
    answers_first: usize,
    notices: Sender<Notice>,
}

/// Both sides; `notices` hears of room and of a lost output.
pub(crate) fn outbox(notices: Sender<Notice>) -> (Outbox, OutboxReceiver) {
    // Unbounded as channels; bounded by credit and admission, so that a sender never waits.
    let (answers_sender, answers) = unbounded();
    let (output_sender, output) = unbounded();
    let sender = Outbox {
        answers: answers_sender,
        output: output_sender,
        shared: Arc::new(Shared {
            admission: Arc::new(Admission::new(notices.clone())),
            pool: Arc::new(Pool::new()),
            no_deltas: AtomicBool::new(false),
            no_exits: AtomicBool::new(false),
        }),
    };
    let receiver = OutboxReceiver {
        answers,
        output,
        held: None,
        answers_first: 0,
        notices,
    };
    (sender, receiver)
}

impl Outbox {
    /// Lets in one request, of which there may be no id. It is given up for the answer.
    pub(crate) fn admit(&self, id: Option<RequestId>) -> Ticket {
        self.shared.admission.ticket(id)
    }

    /// Lets in one process. It will have one more message than its spawn, its exit.
    pub(crate) fn admit_process(&self) -> Permit {
        self.shared.admission.permit()
    }

    /// Answers a request.
    pub(crate) fn answer(&self, ticket: Ticket, outcome: Result<Reply, RpcError>) {
        let answer = self.response(ticket, outcome);
        // A receiver that is gone has lost its client, which the dispatcher hears from elsewhere.
        let _ = self.answers.send(Some(answer));
        let _ = self.output.send(None);
    }

    /// Answers a request after all earlier output, an exit included.
    pub(crate) fn answer_after_output(&self, ticket: Ticket, outcome: Result<Reply, RpcError>) {
        let answer = self.response(ticket, outcome);
        let _ = self.output.send(Some(answer));
    }

    fn response(&self, ticket: Ticket, outcome: Result<Reply, RpcError>) -> Outgoing {
        let cost = answer_cost(ticket.id(), &outcome);
        let (id, mut permit) = ticket.into_answer(&self.shared.admission, cost);
        permit.hold_list(list_cost(&outcome));
        Outgoing {
            message: ServerMessage::Response { id, outcome },
            held: Held::Room { _permit: permit },
        }
    }

    /// Sends a delta after all earlier output. The permit says that there was credit for it.
    pub(crate) fn delta(&self, delta: OutputDelta, permit: Option<OutputPermit>) {
        if self.shared.no_deltas.load(Relaxed) {
            return;
        }
        let _ = self.output.send(Some(Outgoing {
            message: ServerMessage::OutputDelta(delta),
            held: permit.map_or(Held::Nothing, Held::Output),
        }));
    }

    /// Sends the last word on a process after all its output.
    pub(crate) fn exited(&self, exited: Box<Exited>, mut permit: Permit) {
        if self.shared.no_exits.load(Relaxed) {
            return;
        }
        permit.hold_exit(exit_cost(&exited));
        let _ = self.output.send(Some(Outgoing {
            message: ServerMessage::Exited(exited),
            held: Held::Room { _permit: permit },
        }));
    }

    /// Whether another request may be let in. If not, [`Notice::Room`] comes when one may.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.admission.has_room()
    }

    /// Whether another list may be made. If not, [`Notice::Room`] comes when one may.
    pub(crate) fn has_room_for_a_list(&self) -> bool {
        self.shared.admission.has_room_for_a_list()
    }

    /// Whether another process may be started. If not, [`Notice::Room`] comes when one may.
    pub(crate) fn has_room_for_a_process(&self) -> bool {
        self.shared.admission.has_room_for_a_process()
    }

    /// Leaves out the notifications the client does not want.
    pub(crate) fn opt_out(&self, capabilities: &Capabilities) {
        for method in capabilities.opt_out_notification_methods.iter().flatten() {
            match method.as_str() {
                notification::OUTPUT_DELTA => self.shared.no_deltas.store(true, Relaxed),
                notification::EXITED => self.shared.no_exits.store(true, Relaxed),
                _ => {}
            }
        }
    }

    /// The account of a new process, which `wake` wakes when it may send again.
    pub(crate) fn credit(&self, wake: Arc<EventFd>) -> Arc<Credit> {
        Credit::new(wake, Arc::clone(&self.shared.pool))
    }

    /// The read buffers that all processes share.
    pub(crate) fn buffers(&self) -> &Buffers {
        self.shared.pool.buffers()
    }
}

impl Outgoing {
    /// Gives back what it holds, and the buffer of a delta for reuse.
    pub(crate) fn recycle(self) {
        if let (ServerMessage::OutputDelta(delta), Held::Output(permit)) = (self.message, self.held) {
            permit.recycle(delta.bytes);
        }
    }

    /// The message; what it held is given back.
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
    pub(crate) fn try_next(&mut self) -> Result<Outgoing, NoMessage> {
        match self.ready() {
            Some(outgoing) => Ok(outgoing),
            None => Err(NoMessage::NotYet),
        }
    }

    /// The next message; waits for it until `deadline`, or until all senders are gone.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<Outgoing, NoMessage> {
        loop {
            if let Some(outgoing) = self.ready() {
                return Ok(outgoing);
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

    fn ready(&mut self) -> Option<Outgoing> {
        while self.held.is_none() {
            if let Ok(Some(answer)) = self.answers.try_recv() {
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
            if let Ok(Some(answer)) = self.answers.try_recv() {
                return Some(answer);
            }
        }
        self.held.take()
    }

    fn hold(&mut self, output: Outgoing) {
        self.answers_first = self.answers.len();
        self.held = Some(output);
    }

    /// Tells the dispatcher that what is sent is not read.
    pub(crate) fn output_gone(&self) {
        let _ = self.notices.send(Notice::OutputGone);
    }
}

impl Drop for OutboxReceiver {
    /// A client in memory that drops its receiver has gone; at the end of a connection this is not received.
    fn drop(&mut self) {
        self.output_gone();
    }
}
