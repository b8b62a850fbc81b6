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
use super::costs::{MAX_EXIT_BYTES, MAX_LIST_BYTES, MAX_REQUEST_BYTES, REQUEST_COST_BYTES, waiting_cost};
use crate::sys::sync::{AtomicUsize, Ordering::Relaxed, WaitFlag};
use crate::wire::protocol::RequestId;

/// The numbers are relaxed: the flag of the dispatcher that waits orders them.
pub(crate) struct Admission {
    /// The bytes of each [`Kind`].
    used: [AtomicUsize; Kind::ALL.len()],
    /// The dispatcher waits to be told that there is room.
    wants_room: WaitFlag,
    notices: Sender<Notice>,
}

/// What is held, and bounded each by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Requests, waiting or answered, and processes that live.
    Request,
    /// The processes of lists that have not been written: one list more is as long as all processes are many.
    List,
    /// Exits that have not been written.
    Exit,
}

/// The room that a request has, or a process and later its exit. It is given back by being dropped.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    /// The bytes of each [`Kind`].
    held: [u32; Kind::ALL.len()],
}

/// A request that was let in and is not answered.
pub(crate) struct Ticket {
    /// `None` where it could not be read.
    pub(super) id: Option<RequestId>,
    /// `None` while it is parked.
    permit: Option<Permit>,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Request, Kind::List, Kind::Exit];

    fn limit(self) -> usize {
        match self {
            Kind::Request => MAX_REQUEST_BYTES,
            Kind::List => MAX_LIST_BYTES,
            Kind::Exit => MAX_EXIT_BYTES,
        }
    }
}

impl Admission {
    pub(super) fn new(notices: Sender<Notice>) -> Admission {
        Admission {
            used: Kind::ALL.map(|_| AtomicUsize::new(0)),
            wants_room: WaitFlag::default(),
            notices,
        }
    }

    /// Lets in one process.
    pub(super) fn permit(self: &Arc<Self>) -> Permit {
        self.permit_of(0)
    }

    fn permit_of(self: &Arc<Self>, bytes: usize) -> Permit {
        let mut permit = Permit {
            admission: Arc::clone(self),
            held: [0; Kind::ALL.len()],
        };
        permit.hold_request(bytes);
        permit
    }

    /// Lets in one request, of which the id is held until it is answered.
    pub(super) fn ticket(self: &Arc<Self>, id: Option<RequestId>) -> Ticket {
        let bytes = waiting_cost(id.as_ref(), 0);
        Ticket {
            id,
            permit: Some(self.permit_of(bytes)),
        }
    }

    /// Whether another request may be let in. If not, [`Notice::Room`] comes when one may.
    pub(super) fn has_room(&self) -> bool {
        self.has_room_for(Kind::Request)
    }

    /// Whether another list may be made. If not, [`Notice::Room`] comes when one may.
    pub(super) fn has_room_for_a_list(&self) -> bool {
        self.has_room_for(Kind::List)
    }

    /// Whether another process may be started. If not, [`Notice::Room`] comes when one may.
    pub(super) fn has_room_for_a_process(&self) -> bool {
        self.has_room_for(Kind::Exit)
    }

    fn has_room_for(&self, kind: Kind) -> bool {
        let used = &self.used[kind as usize];
        self.wants_room.unless(|| used.load(Relaxed) < kind.limit())
    }

    fn give_back(&self, kind: Kind, bytes: usize) {
        let used = self.used[kind as usize].fetch_sub(bytes, Relaxed) - bytes;
        // One notice for all kinds: a waiter that needs another kind asks again.
        if used < kind.limit() && self.wants_room.take() {
            self.tell_of_room();
        }
    }

    #[cold]
    fn tell_of_room(&self) {
        let _ = self.notices.send(Notice::Room);
    }
}

impl Permit {
    // Nearly always there is nothing to change.
    #[inline]
    fn hold(&mut self, kind: Kind, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = std::mem::replace(&mut self.held[kind as usize], bytes);
        if bytes > before {
            let used = &self.admission.used[kind as usize];
            used.fetch_add((bytes - before) as usize, Relaxed);
        } else if bytes < before {
            self.admission.give_back(kind, (before - bytes) as usize);
        }
    }

    /// What the request holds from now on, or its answer without the processes of a list.
    fn hold_request(&mut self, bytes: usize) {
        self.hold(Kind::Request, bytes.max(REQUEST_COST_BYTES));
    }

    pub(super) fn hold_list(&mut self, bytes: usize) {
        self.hold(Kind::List, bytes);
    }

    /// The process has ended: it is its exit that counts now.
    pub(super) fn hold_exit(&mut self, bytes: usize) {
        self.hold(Kind::Exit, bytes);
        self.hold(Kind::Request, 0);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        for kind in Kind::ALL {
            self.hold(kind, 0);
        }
    }
}

impl Ticket {
    pub(crate) fn id(&self) -> Option<&RequestId> {
        self.id.as_ref()
    }

    /// What is held of the request from now on, in bytes.
    pub(crate) fn hold(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            permit.hold_request(bytes);
        }
    }

    /// Only a process ends it, so it holds up no other request: it is let in again when it is answered.
    pub(crate) fn park(&mut self) {
        self.permit = None;
    }

    /// Turns it into the permit of its answer, which holds so many bytes.
    pub(super) fn into_answer(self, admission: &Arc<Admission>, bytes: usize) -> (Option<RequestId>, Permit) {
        let permit = match self.permit {
            Some(mut permit) => {
                permit.hold_request(bytes);
                permit
            }
            None => admission.permit_of(bytes),
        };
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

    fn used(admission: &Admission, kind: Kind) -> usize {
        admission.used[kind as usize].load(Relaxed)
    }

    #[test]
    fn a_request_counts_until_it_is_dropped_and_not_while_it_is_parked() {
        let (admission, _notices) = admission();
        let used = || used(&admission, Kind::Request);
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
        let long = admission.ticket(Some("x".repeat(1_000).as_str().into()));
        assert!(used() > 1_000, "a long id counts from the beginning");
        drop(long);
        assert_eq!(used(), 0);
    }

    #[test]
    fn an_exit_counts_among_exits() {
        let (admission, _notices) = admission();
        let mut permit = admission.permit();
        permit.hold_exit(3 * MAX_EXIT_BYTES);
        assert_eq!(used(&admission, Kind::Request), 0);
        assert!(admission.has_room() && admission.has_room_for_a_list());
        assert!(!admission.has_room_for_a_process());
        drop(permit);
        assert!(admission.has_room_for_a_process());
    }

    /// Requests that wait leave room for the lists among them to be answered.
    #[test]
    fn lists_count_by_themselves() {
        let (admission, notices) = admission();
        let mut tickets: Vec<Ticket> = (0..2).map(|_| admission.ticket(None)).collect();
        tickets
            .iter_mut()
            .for_each(|ticket| ticket.hold(MAX_REQUEST_BYTES));
        assert!(!admission.has_room() && admission.has_room_for_a_list());
        let (_, mut permit) = tickets.remove(0).into_answer(&admission, 64);
        permit.hold_list(MAX_LIST_BYTES);
        assert!(!admission.has_room_for_a_list());
        drop(permit);
        assert_eq!(notices.try_recv(), Ok(Notice::Room));
        assert!(admission.has_room_for_a_list() && !admission.has_room());
        drop(tickets);
        assert!(admission.has_room());
    }

    #[test]
    fn what_is_huge_is_given_back_as_it_was_counted() {
        let (admission, _notices) = admission();
        let mut ticket = admission.ticket(None);
        ticket.hold(usize::MAX);
        drop(ticket);
        assert_eq!(used(&admission, Kind::Request), 0);
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
        admission.used[Kind::Request as usize].store(used, Relaxed);
        (Arc::new(admission), received)
    }

    fn requests(admission: &Admission) -> usize {
        admission.used[Kind::Request as usize].load(Relaxed)
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
            assert_eq!(requests(&admission), used);
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
            assert_eq!(requests(&admission), REQUEST_COST_BYTES);
            drop(answer);
            assert_eq!(requests(&admission), 0);
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
            assert_eq!(admission.used[Kind::Exit as usize].load(Relaxed), 0);
        });
    }
}
