//! The requests for a list that wait: for spawns sent before them, then for room among the answers.
//!
//! **Thread:** the dispatcher.
//! **Owns:** these requests, in their order.
//! **Never:** knows what is in a list.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::wire::protocol::RequestId;

/// How long a list waits while none of the spawns before it succeeds or fails. Longer than a busy program
/// file is retried for, because such a spawn does succeed or fail.
pub(super) const LIST_WAIT: Duration = Duration::from_millis(700);

/// A list that cannot be answered yet.
pub(super) struct WaitingList {
    pub(super) id: RequestId,
    /// The spawns that were sent before it and have neither succeeded nor failed.
    spawns: HashSet<u64>,
    /// It is answered without them then.
    until: Instant,
    /// What it counts among the bytes that wait.
    pub(super) bytes: usize,
}

impl WaitingList {
    pub(super) fn new(id: RequestId, spawns: HashSet<u64>, now: Instant, cost: usize) -> WaitingList {
        let bytes = cost + id.len() + spawns.len() * 2 * size_of::<u64>();
        let until = now + LIST_WAIT;
        WaitingList {
            id,
            spawns,
            until,
            bytes,
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
        let until = Instant::now() + LIST_WAIT;
        for list in &mut self.waiting {
            if list.spawns.remove(&serial) {
                list.until = until;
            }
        }
        self.stop_waiting(|list| list.spawns.is_empty());
    }

    /// Those that wait for one spawn wait for another as well, which was behind it.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn list(id: i64, spawns: &[u64], now: Instant) -> WaitingList {
        WaitingList::new(id.into(), spawns.iter().copied().collect(), now, 0)
    }

    fn ready(lists: &mut Lists) -> Vec<RequestId> {
        std::iter::from_fn(|| lists.next_ready())
            .map(|list| list.id)
            .collect()
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
        let left: Vec<RequestId> = lists.take_all().map(|list| list.id).collect();
        assert_eq!((left, lists.at()), (vec![2.into()], None));
    }
}
