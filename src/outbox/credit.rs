//! Credit: how much streamed output may be on its way to the client, of one process and of all.
//!
//! **Thread:** the thread of a process reserves; whatever holds an [`OutputPermit`] gives its credit back by
//! dropping it.
//! **Owns:** the account of each process, the pool that all share, and the read buffers.
//! **Never:** makes a process wait, or starve: one with nothing on its way may always send a small chunk.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::costs::{
    CHUNK_BYTES, DELTA_COST_BYTES, KEPT_BUFFERS, POOL_CREDIT_BYTES, PROCESS_CREDIT_BYTES, SMALL_CHUNK_BYTES,
};
use crate::sys::EventFd;
use crate::sys::sync::{AtomicUsize, Ordering::Relaxed, WaitFlag};

/// What all processes share. Its numbers are relaxed: the flag of a process that waits orders them.
pub(crate) struct Pool {
    left: AtomicUsize,
    buffers: Buffers,
}

/// The credit account of one process. Its own thread reserves, the receiving side gives back.
pub(crate) struct Credit {
    in_flight: AtomicUsize,
    waits: WaitFlag,
    wake: Arc<EventFd>,
    pool: Arc<Pool>,
}

/// Leave to send one chunk of output. Dropping it gives the credit back.
pub(crate) struct OutputPermit {
    credit: Arc<Credit>,
    charged: usize,
    pooled: usize,
}

impl Pool {
    pub(super) fn new() -> Pool {
        Pool {
            left: AtomicUsize::new(POOL_CREDIT_BYTES),
            buffers: Buffers::new(),
        }
    }

    pub(super) fn buffers(&self) -> &Buffers {
        &self.buffers
    }
}

impl Credit {
    /// The account of a new process, which `wake` wakes when it may send again.
    pub(super) fn new(wake: Arc<EventFd>, pool: Arc<Pool>) -> Arc<Credit> {
        Arc::new(Credit {
            in_flight: AtomicUsize::new(0),
            waits: WaitFlag::default(),
            wake,
            pool,
        })
    }

    /// Whether [`reserve`](Self::reserve) would succeed. If not, the process is woken when it may.
    pub(crate) fn may_reserve(&self) -> bool {
        self.waits.unless(|| {
            let in_flight = self.in_flight.load(Relaxed);
            in_flight == 0 || in_flight < PROCESS_CREDIT_BYTES && self.pool.left.load(Relaxed) >= CHUNK_BYTES
        })
    }

    /// Leave for one chunk, and how many bytes it may have.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<(OutputPermit, usize)> {
        let in_flight = self.in_flight.load(Relaxed);
        if in_flight >= PROCESS_CREDIT_BYTES {
            return None;
        }
        let left = &self.pool.left;
        let pooled = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(CHUNK_BYTES));
        let (charged, pooled) = match pooled {
            Ok(_) => (CHUNK_BYTES, CHUNK_BYTES),
            Err(_) if in_flight == 0 => (SMALL_CHUNK_BYTES, 0),
            Err(_) => return None,
        };
        self.in_flight.fetch_add(charged, Relaxed);
        let permit = OutputPermit {
            credit: Arc::clone(self),
            charged,
            pooled,
        };
        Some((permit, charged))
    }
}

impl OutputPermit {
    /// Gives back what a message with `bytes` does not need.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let needed = bytes + DELTA_COST_BYTES;
        if needed < self.charged {
            self.credit.in_flight.fetch_sub(self.charged - needed, Relaxed);
            self.charged = needed;
        }
        if needed < self.pooled {
            self.credit.pool.left.fetch_add(self.pooled - needed, Relaxed);
            self.pooled = needed;
        }
    }

    /// Gives its buffer back for reuse, and the credit.
    pub(super) fn recycle(self, bytes: Vec<u8>) {
        self.credit.pool.buffers.give_back(bytes);
    }
}

impl Drop for OutputPermit {
    fn drop(&mut self) {
        self.credit.pool.left.fetch_add(self.pooled, Relaxed);
        self.credit.in_flight.fetch_sub(self.charged, Relaxed);
        if self.credit.waits.take() {
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

#[cfg(all(loom, test))]
mod models {
    use super::*;
    use crate::sys;
    use std::time::Duration;

    fn account(left: usize) -> Arc<Credit> {
        let wake = Arc::new(EventFd::new().expect("a descriptor"));
        let pool = Arc::new(Pool {
            left: AtomicUsize::new(left),
            buffers: Buffers::new(),
        });
        Credit::new(wake, pool)
    }

    fn is_woken(credit: &Credit) -> bool {
        let mut wake = [sys::PollFd::read(credit.wake.raw())];
        sys::poll(&mut wake, Some(Duration::ZERO)).is_ok() && wake[0].readable()
    }

    fn reserve(credit: &Arc<Credit>) -> OutputPermit {
        credit.reserve().expect("there is credit").0
    }

    /// The process that has used up its own credit.
    #[test]
    fn credit_that_comes_back_is_seen_or_wakes() {
        loom::model(|| {
            let credit = account(POOL_CREDIT_BYTES);
            let (first, second) = (reserve(&credit), reserve(&credit));
            assert!(credit.reserve().is_none());
            let writer = loom::thread::spawn(move || drop(first));
            let next = credit.may_reserve().then(|| reserve(&credit));
            writer.join().expect("no panic");
            assert!(next.is_some() || is_woken(&credit));
            drop((second, next));
            assert_eq!(credit.in_flight.load(Relaxed), 0);
            assert_eq!(credit.pool.left.load(Relaxed), POOL_CREDIT_BYTES);
        });
    }

    /// A pool that another process has used up; its own last chunk brings the process back.
    #[test]
    fn a_used_up_pool_delays_a_process_and_never_starves_it() {
        loom::model(|| {
            let credit = account(2 * CHUNK_BYTES);
            let other = Credit::new(Arc::clone(&credit.wake), Arc::clone(&credit.pool));
            let (own, others) = (reserve(&credit), reserve(&other));
            let writer = loom::thread::spawn(move || drop(own));
            let reader = loom::thread::spawn(move || drop(others));
            let awake = credit.may_reserve();
            writer.join().expect("no panic");
            reader.join().expect("no panic");
            assert!(awake || is_woken(&credit));
            assert!(credit.may_reserve());
            assert_eq!(credit.pool.left.load(Relaxed), 2 * CHUNK_BYTES);
        });
    }
}
