//! Admission: how many requests are under way, and how much is held for them.
//!
//! **Thread:** the dispatcher lets in; whatever holds a [`Permit`] gives its room back by dropping it.
//! **Owns:** what all requests hold, waiting or answered, and what exits hold.
//! **Never:** makes a sender wait. The dispatcher is told that there is no room, and hears of it later.
//!
//! A request is let in once, and its [`Ticket`] travels with it: behind a spawn, to a process, with its
//! answer into the queue of the writer. The answer takes the ticket, so that there is exactly one.

use std::sync::Arc;

use crossbeam_channel::Sender;

use super::Notice;
use super::costs::{MAX_EXIT_BYTES, MAX_REQUEST_BYTES, REQUEST_COST_BYTES};
use crate::sys::sync::{AtomicUsize, Ordering::Relaxed, WaitFlag};
use crate::wire::protocol::RequestId;

/// The numbers are relaxed: the flag of the dispatcher that waits orders them.
pub(crate) struct Admission {
    /// Bytes of requests, of answers that have not been taken, and of processes that live.
    requests: AtomicUsize,
    /// Bytes of exits that have not been taken.
    exits: AtomicUsize,
    /// The dispatcher waits to be told that there is room.
    wants_room: WaitFlag,
    notices: Sender<Notice>,
}

/// The room that a request has, or a process and later its exit. Dropped, it is another's.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    bytes: usize,
    of: Of,
}

/// What a permit counts among.
#[derive(Clone, Copy)]
enum Of {
    Requests,
    Exits,
}

/// A request that was let in and is not answered.
pub(crate) struct Ticket {
    /// `None` where it could not be read.
    pub(super) id: Option<RequestId>,
    /// `None` while it is parked.
    permit: Option<Permit>,
}

impl Admission {
    pub(super) fn new(notices: Sender<Notice>) -> Admission {
        Admission {
            requests: AtomicUsize::new(0),
            exits: AtomicUsize::new(0),
            wants_room: WaitFlag::default(),
            notices,
        }
    }

    /// Lets in one request, or one process.
    pub(super) fn permit(self: &Arc<Self>) -> Permit {
        self.requests.fetch_add(REQUEST_COST_BYTES, Relaxed);
        Permit {
            admission: Arc::clone(self),
            bytes: REQUEST_COST_BYTES,
            of: Of::Requests,
        }
    }

    pub(super) fn ticket(self: &Arc<Self>, id: Option<RequestId>) -> Ticket {
        Ticket {
            id,
            permit: Some(self.permit()),
        }
    }

    /// Whether another request may be let in, and an answer of any length be made. If not,
    /// [`Notice::Room`] comes when one may.
    pub(super) fn has_room(&self) -> bool {
        self.has_room_among(Of::Requests)
    }

    /// Whether another process may be started. If not, [`Notice::Room`] comes when one may.
    pub(super) fn has_room_for_a_process(&self) -> bool {
        self.has_room_among(Of::Exits)
    }

    fn has_room_among(&self, of: Of) -> bool {
        let (used, limit) = self.account(of);
        self.wants_room.unless(|| used.load(Relaxed) < limit)
    }

    fn give_back(&self, of: Of, bytes: usize) {
        let (used, limit) = self.account(of);
        let before = used.fetch_sub(bytes, Relaxed);
        // One kind of room is enough to tell of: what waits for the other finds out, and asks again.
        if before - bytes < limit && self.wants_room.take() {
            let _ = self.notices.send(Notice::Room);
        }
    }

    fn account(&self, of: Of) -> (&AtomicUsize, usize) {
        match of {
            Of::Requests => (&self.requests, MAX_REQUEST_BYTES),
            Of::Exits => (&self.exits, MAX_EXIT_BYTES),
        }
    }
}

impl Permit {
    /// What the request holds from now on, or its answer.
    fn hold(&mut self, bytes: usize) {
        let bytes = bytes.max(REQUEST_COST_BYTES);
        if bytes > self.bytes {
            let (used, _) = self.admission.account(self.of);
            used.fetch_add(bytes - self.bytes, Relaxed);
        } else if bytes < self.bytes {
            self.admission.give_back(self.of, self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// The process has ended: it is its exit that counts now.
    pub(super) fn hold_exit(&mut self, bytes: usize) {
        self.admission.exits.fetch_add(bytes, Relaxed);
        self.admission.give_back(self.of, self.bytes);
        (self.of, self.bytes) = (Of::Exits, bytes);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.give_back(self.of, self.bytes);
    }
}

impl Ticket {
    pub(crate) fn id(&self) -> Option<&RequestId> {
        self.id.as_ref()
    }

    /// What is held of the request from now on, in bytes.
    pub(crate) fn hold(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            permit.hold(bytes);
        }
    }

    /// Only a process ends it, so it holds up no other request: it is let in again when it is answered.
    pub(crate) fn park(&mut self) {
        self.permit = None;
    }

    /// Gives it up for its answer, which holds so many bytes.
    pub(super) fn into_answer(self, admission: &Arc<Admission>, bytes: usize) -> (Option<RequestId>, Permit) {
        let mut permit = self.permit.unwrap_or_else(|| admission.permit());
        permit.hold(bytes);
        (self.id, permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::costs::MAX_IN_FLIGHT;
    use crossbeam_channel::{Receiver, unbounded};

    fn admission() -> (Arc<Admission>, Receiver<Notice>) {
        let (notices, received) = unbounded();
        (Arc::new(Admission::new(notices)), received)
    }

    #[test]
    fn a_request_counts_until_it_is_dropped_and_not_while_it_is_parked() {
        let (admission, _notices) = admission();
        let used = || admission.requests.load(Relaxed);
        let mut ticket = admission.ticket(Some(1.into()));
        assert_eq!(used(), REQUEST_COST_BYTES);
        ticket.hold(10_000);
        assert_eq!(used(), 10_000);
        ticket.hold(1);
        assert_eq!(used(), REQUEST_COST_BYTES, "it is never less");
        ticket.park();
        assert_eq!(used(), 0);
        ticket.hold(10_000);
        assert_eq!(used(), 0);
        let (id, permit) = ticket.into_answer(&admission, 700);
        assert_eq!((id, used()), (Some(1.into()), 700));
        drop(permit);
        assert_eq!(used(), 0);
    }

    #[test]
    fn an_exit_counts_among_exits() {
        let (admission, _notices) = admission();
        let mut permit = admission.permit();
        permit.hold_exit(3 * MAX_EXIT_BYTES);
        assert_eq!(admission.requests.load(Relaxed), 0);
        assert!(admission.has_room());
        assert!(!admission.has_room_for_a_process());
        drop(permit);
        assert!(admission.has_room_for_a_process());
    }

    #[test]
    fn room_is_told_once_to_the_one_that_waits_for_it() {
        let (admission, notices) = admission();
        let small: Vec<Permit> = (1..MAX_IN_FLIGHT).map(|_| admission.permit()).collect();
        assert!(admission.has_room());
        drop(admission.permit());
        assert!(notices.try_recv().is_err(), "it was not waited for");
        let (last, second) = (admission.permit(), admission.permit());
        assert!(!admission.has_room());
        drop(second);
        assert!(notices.try_recv().is_err(), "there is none yet");
        drop(last);
        assert_eq!(notices.try_recv(), Ok(Notice::Room));
        drop(small);
        assert!(notices.try_recv().is_err());
    }
}

#[cfg(all(loom, test))]
mod models {
    use super::*;
    use crossbeam_channel::{Receiver, unbounded};

    /// With so many bytes of requests beside.
    fn admission(used: usize) -> (Arc<Admission>, Receiver<Notice>) {
        let (notices, received) = unbounded();
        let admission = Admission::new(notices);
        admission.requests.store(used, Relaxed);
        (Arc::new(admission), received)
    }

    /// Only the second of two that make room makes enough.
    #[test]
    fn room_for_a_request_is_seen_or_told() {
        loom::model(|| {
            let used = MAX_REQUEST_BYTES - REQUEST_COST_BYTES;
            let (admission, notices) = admission(used);
            let answers = [admission.permit(), admission.permit()];
            let writers = answers.map(|permit| loom::thread::spawn(move || drop(permit)));
            let room = admission.has_room();
            for writer in writers {
                writer.join().expect("no panic");
            }
            assert!(room || notices.try_recv() == Ok(Notice::Room));
            assert_eq!(admission.requests.load(Relaxed), used);
        });
    }

    /// A request that held much is answered with little, or parked, while another is let in.
    #[test]
    fn what_a_request_no_longer_holds_is_seen_or_told() {
        loom::model(|| {
            let (admission, notices) = admission(0);
            let mut ticket = admission.ticket(None);
            ticket.hold(MAX_REQUEST_BYTES);
            let process = {
                let admission = Arc::clone(&admission);
                loom::thread::spawn(move || ticket.into_answer(&admission, 1).1)
            };
            let room = admission.has_room();
            let answer = process.join().expect("no panic");
            assert!(room || notices.try_recv() == Ok(Notice::Room));
            assert_eq!(admission.requests.load(Relaxed), REQUEST_COST_BYTES);
            drop(answer);
            assert_eq!(admission.requests.load(Relaxed), 0);
        });
    }

    /// The dispatcher has a spawn that it holds back, and asks for both kinds of room in turn.
    #[test]
    fn room_for_a_process_is_seen_or_told() {
        loom::model(|| {
            let (admission, notices) = admission(MAX_REQUEST_BYTES);
            let answer = admission.permit();
            let mut exit = admission.permit();
            exit.hold_exit(MAX_EXIT_BYTES);
            let writer = loom::thread::spawn(move || {
                drop(answer);
                drop(exit);
            });
            let mut room = admission.has_room_for_a_process();
            let _ = admission.has_room();
            if !room && notices.try_recv().is_ok() {
                // It looks again, because it was told of one of the two.
                room = admission.has_room_for_a_process();
            }
            writer.join().expect("no panic");
            assert!(room || notices.try_recv().is_ok());
            assert_eq!(admission.exits.load(Relaxed), 0);
        });
    }
}
