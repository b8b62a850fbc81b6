//! The table of handles: which process each stands for, what waits for one that is being started, and
//! which handles have ended and may still be on their way to the client.
//!
//! **Thread:** the dispatcher.
//! **Owns:** the table, and the order of requests for one handle.
//! **Never:** answers a request.

use std::collections::{HashMap, VecDeque, hash_map};
use std::sync::{Arc, Weak};
use std::time::Instant;

use crossbeam_channel::Sender;

use crate::outbox::Ticket;
use crate::outbox::costs::{
    FORGOTTEN_AT_BYTES, FREE_STDIN_BYTES, MAX_UNANSWERED_BYTES, UNANSWERED_COST_BYTES, unanswered_cost,
};
use crate::process::stdin::AcceptedWrite;
use crate::process::{Command, Stats};
use crate::sys::{Birth, EventFd};
use crate::wire::protocol::{Request, RequestId, RpcError, SpawnParams, WriteStdinParams, code};

/// A live handle.
pub(super) struct Entry {
    pub(super) serial: u64,
    pub(super) params: Arc<SpawnParams>,
    pub(super) stats: Arc<Stats>,
    pub(super) inbox: Sender<Command>,
    pub(super) wake: Arc<EventFd>,
    /// While the process is being started.
    pub(super) starting: Option<Backlog>,
}

/// What waits for a process to be started.
pub(super) struct Backlog {
    /// The id of its spawn, for where its thread cannot answer it.
    pub(super) id: Option<RequestId>,
    pub(super) since: Instant,
    pub(super) birth: Arc<Birth>,
    /// What came for its handle after its spawn.
    pub(super) requests: VecDeque<(Ticket, Waiting)>,
}

/// A request in a backlog.
pub(super) enum Waiting {
    /// A write, which counts as pending already.
    Write(AcceptedWrite),
    Request(Request),
}

impl Entry {
    pub(super) fn command(&self, command: Command) {
        // Fails where it could not be started, which its event will say. Otherwise the process thread
        // has ended without an event, which is a bug.
        if self.inbox.send(command).is_err() && self.starting.is_none() {
            log::error!("the thread of process {} is gone", self.serial);
        }
        self.wake.set();
    }
}

/// Counts a write as pending, or refuses it where that would leave too much so. A client that awaits
/// its answers never has more than the free amount pending, and is never refused.
pub(super) fn accept(
    stats: &Stats,
    ticket: &Ticket,
    params: WriteStdinParams,
    limit: u64,
) -> Result<AcceptedWrite, RpcError> {
    let unanswered = stats.stdin_unanswered.used();
    if unanswered > 0 && unanswered + unanswered_cost(ticket.id()) > MAX_UNANSWERED_BYTES {
        return Err(RpcError::new(
            code::OVERLOADED,
            format!(
                "too many writes to stdin wait to be answered already, the limit is {}, or \
                 {MAX_UNANSWERED_BYTES} bytes of their ids: await the answers to earlier writes",
                MAX_UNANSWERED_BYTES / UNANSWERED_COST_BYTES
            ),
        ));
    }
    let pending = stats.stdin_pending.used() as u64;
    let more = params.delta.as_ref().map_or(0, Vec::len) as u64;
    if pending > limit.min(FREE_STDIN_BYTES as u64) && pending.saturating_add(more) > limit {
        return Err(RpcError::new(
            code::OVERLOADED,
            format!(
                "{pending} bytes of stdin are pending already and the limit is {limit}: \
                 await the answers to earlier writes"
            ),
        ));
    }
    Ok(AcceptedWrite::new(ticket, params, stats))
}

/// All handles of a connection.
pub(super) struct Handles {
    live: HashMap<Arc<str>, Entry>,
    /// Which handle a process thread means by its serial number.
    names: HashMap<u64, Arc<str>>,
    next_serial: u64,
    /// Handles that have ended. As long as something holds one, its exit may not have been sent.
    ended: HashMap<String, Weak<str>>,
    /// What they hold, in bytes, and at how much those are forgotten that nothing holds any more.
    ended_bytes: usize,
    ended_bound: usize,
}

impl Handles {
    pub(super) fn new() -> Self {
        Handles {
            live: HashMap::new(),
            names: HashMap::new(),
            next_serial: 1,
            ended: HashMap::new(),
            ended_bytes: 0,
            ended_bound: FORGOTTEN_AT_BYTES,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    pub(super) fn values(&self) -> hash_map::Values<'_, Arc<str>, Entry> {
        self.live.values()
    }

    pub(super) fn get(&self, handle: &str) -> Option<&Entry> {
        self.live.get(handle)
    }

    pub(super) fn get_mut(&mut self, handle: &str) -> Option<&mut Entry> {
        self.live.get_mut(handle)
    }

    pub(super) fn of_serial(&mut self, serial: u64) -> Option<&mut Entry> {
        self.live.get_mut(self.names.get(&serial)?)
    }

    /// The number of the process that is added next.
    pub(super) fn next_serial(&self) -> u64 {
        self.next_serial
    }

    pub(super) fn add(&mut self, handle: Arc<str>, entry: Entry) {
        self.next_serial += 1;
        self.names.insert(entry.serial, Arc::clone(&handle));
        self.live.insert(handle, entry);
    }

    pub(super) fn remove(&mut self, serial: u64) -> Option<Entry> {
        self.live.remove(&self.names.remove(&serial)?)
    }

    /// Remembers a handle until its exit has been sent.
    pub(super) fn remember(&mut self, handle: &Arc<str>) {
        let bytes = |handle: &str| size_of::<(String, Weak<str>)>() + handle.len();
        if self.ended_bytes >= self.ended_bound {
            self.ended.retain(|_, h| h.strong_count() > 0);
            self.ended_bytes = self.ended.keys().map(|h| bytes(h)).sum();
            self.ended_bound = FORGOTTEN_AT_BYTES + 2 * self.ended_bytes;
        }
        self.ended_bytes += bytes(handle);
        self.ended.insert(handle.to_string(), Arc::downgrade(handle));
    }

    /// Whether an exit of this handle's last process may be on its way to the client.
    pub(super) fn may_be_on_its_way(&self, handle: &str) -> bool {
        self.ended.get(handle).is_some_and(|h| h.strong_count() > 0)
    }
}
