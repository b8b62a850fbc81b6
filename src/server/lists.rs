//! The requests for a list that wait: for spawns sent before them, then for room among the answers.
//!
//! **Thread:** the dispatcher.
//! **Owns:** these requests, in their order.
//! **Never:** answers one before the spawns that were sent before it, unless these take too long.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

use super::Dispatcher;
use super::handles::Entry;
use crate::outbox::Ticket;
use crate::outbox::costs::waiting_cost;
use crate::wire::protocol::{ListReply, ProcessInfo, Reply};

/// How long a list waits while none of the spawns before it succeeds or fails. Longer than a busy program
/// file is retried for, because such a spawn does succeed or fail.
pub(super) const LIST_WAIT: Duration = Duration::from_millis(700);

/// A list that cannot be answered yet.
pub(super) struct WaitingList {
    ticket: Ticket,
    /// The spawns that were sent before it and have neither succeeded nor failed.
    spawns: HashSet<u64>,
    /// It is answered without them then.
    until: Instant,
}

impl WaitingList {
    pub(super) fn new(mut ticket: Ticket, spawns: HashSet<u64>, now: Instant) -> WaitingList {
        let bytes = waiting_cost(ticket.id(), spawns.len() * 2 * size_of::<u64>());
        ticket.hold(bytes);
        let until = now + LIST_WAIT;
        WaitingList {
            ticket,
            spawns,
            until,
        }
    }
}

#[derive(Default)]
pub(super) struct Lists {
    /// Those that wait for spawns.
    waiting: Vec<WaitingList>,
    /// Those that wait for room among the answers only: each is as long as all processes are many.
    ready: VecDeque<WaitingList>,
    /// Not later than the earliest of `waiting` is to be answered.
    at: Option<Instant>,
}

impl Lists {
    pub(super) fn push(&mut self, list: WaitingList) {
        if list.spawns.is_empty() {
            self.ready.push_back(list);
        } else {
            self.at.get_or_insert(list.until);
            self.waiting.push(list);
        }
    }

    /// When to call [`expire`](Self::expire).
    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// A spawn has succeeded or failed.
    pub(super) fn settled(&mut self, serial: u64) {
        if self.waiting.is_empty() {
            return;
        }
        let until = Instant::now() + LIST_WAIT;
        for list in &mut self.waiting {
            if list.spawns.remove(&serial) {
                list.until = until;
            }
        }
        self.stop_waiting(|list| list.spawns.is_empty());
    }

    /// Those that wait for one spawn wait for another as well, which was after it.
    pub(super) fn follow(&mut self, serial: u64, next: u64) {
        for list in self.waiting.iter_mut().filter(|l| l.spawns.contains(&serial)) {
            list.spawns.insert(next);
        }
    }

    /// Those that have waited for spawns long enough do so no longer.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.at.is_some_and(|at| at <= now) {
            self.stop_waiting(|list| list.until <= now);
        }
    }

    fn stop_waiting(&mut self, over: impl Fn(&WaitingList) -> bool) {
        let (ready, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(over);
        self.waiting = waiting;
        self.at = self.waiting.iter().map(|list| list.until).min();
        self.ready.extend(ready);
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next that waits for no spawn.
    pub(super) fn next_ready(&mut self) -> Option<WaitingList> {
        self.ready.pop_front()
    }

    /// All of them, at the end of the connection.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = WaitingList> + use<> {
        self.at = None;
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().chain(std::mem::take(&mut self.ready))
    }
}

impl Dispatcher {
    /// Answers with the live processes once the spawns that were sent before have succeeded or failed, or
    /// none of them has for [`LIST_WAIT`], as from a disk that does not answer.
    pub(super) fn list(&mut self, ticket: Ticket) {
        let now = Instant::now();
        let starting = self.handles.values().filter(|entry| {
            let backlog = entry.starting.as_ref();
            backlog.is_some_and(|backlog| backlog.since + LIST_WAIT > now)
        });
        let spawns = starting.map(|e| e.serial).collect();
        self.lists.push(WaitingList::new(ticket, spawns, now));
        self.answer_lists();
    }

    /// Answers every list, at the end of the connection.
    pub(super) fn answer_all_lists(&mut self) {
        for list in self.lists.take_all() {
            self.answer_list(list.ticket);
        }
    }

    /// Answers the lists that wait for no spawn, as far as there is room.
    pub(super) fn answer_lists(&mut self) {
        while self.lists.has_ready() && self.outbox.has_room_for_a_list() {
            let Some(list) = self.lists.next_ready() else {
                return;
            };
            self.answer_list(list.ticket);
        }
    }

    fn answer_list(&self, ticket: Ticket) {
        // A process has its pid before its spawn is answered, and its event may come after the request of
        // a client that has read that answer.
        let lives = |e: &Entry| e.starting.is_none() || e.stats.pid.load(Acquire) != 0;
        let live = self.handles.values().filter(|e| lives(e));
        let mut live: Vec<&Entry> = live.collect();
        live.sort_unstable_by_key(|e| e.serial);
        let processes = live.into_iter().map(|e| ProcessInfo {
            process_handle: e.params.process_handle.clone(),
            pid: e.stats.pid.load(Relaxed),
            command: e.params.command.clone(),
            cwd: e.params.cwd.clone(),
            tty: e.params.tty,
            started_at_ms: e.stats.started_at_ms.load(Relaxed),
            stdout_bytes: e.stats.stdout_bytes.load(Relaxed),
            stderr_bytes: e.stats.stderr_bytes.load(Relaxed),
            stdin_pending_bytes: e.stats.stdin_pending.used() as u64,
        });
        let processes = processes.collect();
        self.outbox
            .answer(ticket, Ok(Reply::List(ListReply { processes })));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protocol::RequestId;

    fn list(id: i64, spawns: &[u64], now: Instant) -> WaitingList {
        let (outbox, _receiver) = crate::outbox::outbox(crossbeam_channel::unbounded().0);
        let ticket = outbox.admit(Some(id.into()));
        WaitingList::new(ticket, spawns.iter().copied().collect(), now)
    }

    fn id(list: WaitingList) -> RequestId {
        list.ticket.id().expect("it has one").clone()
    }

    fn ready(lists: &mut Lists) -> Vec<RequestId> {
        std::iter::from_fn(|| lists.next_ready()).map(id).collect()
    }

    #[test]
    fn a_list_waits_for_the_spawns_before_it_and_for_what_is_behind_these() {
        let (mut lists, now) = (Lists::default(), Instant::now());
        lists.push(list(1, &[], now));
        lists.push(list(2, &[7], now));
        lists.push(list(3, &[7, 8], now));
        assert_eq!(ready(&mut lists), [1.into()]);
        lists.follow(7, 9);
        lists.settled(7);
        assert_eq!(ready(&mut lists), []);
        lists.settled(9);
        assert_eq!(ready(&mut lists), [2.into()]);
        lists.settled(8);
        assert_eq!(ready(&mut lists), [3.into()]);
        assert_eq!(lists.at(), None);
    }

    #[test]
    fn a_list_waits_no_longer_than_its_time() {
        let (mut lists, now) = (Lists::default(), Instant::now());
        lists.push(list(1, &[7], now));
        lists.push(list(2, &[7], now + LIST_WAIT));
        assert_eq!(lists.at(), Some(now + LIST_WAIT));
        lists.expire(now);
        assert!(!lists.has_ready());
        lists.expire(now + LIST_WAIT);
        assert_eq!(ready(&mut lists), [1.into()]);
        assert_eq!(lists.at(), Some(now + 2 * LIST_WAIT));
        let left: Vec<RequestId> = lists.take_all().map(id).collect();
        assert_eq!((left, lists.at()), (vec![2.into()], None));
    }
}
