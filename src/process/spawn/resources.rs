//! What children use for the moment between their birth and their exec: low descriptors and stacks.
//!
//! **Thread:** any process thread; the dispatcher gives the descriptors back when no process is left.
//! **Owns:** the reserved descriptors and the stacks that no child is using.
//! **Never:** keeps what a child was given: its pipes would not end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

use crate::sys::{self, ChildStack, ReservedFds};

/// What children use for the moment between their birth and their exec.
#[derive(Default)]
pub(crate) struct SpawnResources {
    slots: Mutex<Slots>,
    stacks: Mutex<Vec<ChildStack>>,
    /// Their soft limit of descriptors, where it is not ours.
    pub(super) descriptor_limit: Option<u64>,
}

/// Low numbers among the descriptors, where children find their own. A child copies our table up to
/// the highest number it is given; without this, a thousand live processes would halve the rate of
/// spawns.
#[derive(Default)]
enum Slots {
    /// Our table is short; there is nothing to win.
    #[default]
    Unneeded,
    Made {
        /// What is in them between two spawns, so that they keep no pipe open.
        filler: Arc<OwnedFd>,
        free: Vec<ReservedFds>,
    },
    /// There were no descriptors for them.
    Refused,
}

/// A slot that one spawn uses.
pub(super) struct SlotGuard<'a> {
    resources: &'a SpawnResources,
    pub(super) slot: Option<ReservedFds>,
    filler: Arc<OwnedFd>,
}

/// Numbers below this are as good as a slot's.
const LOW_FD: RawFd = 64;
/// How many spawns may use a slot at a time. One that finds none, because programs come from a disk
/// that does not answer, does without.
const MAX_SLOTS: usize = 4;
/// How many stacks are kept for the next children.
const MAX_KEPT_STACKS: usize = 4;

impl SpawnResources {
    pub(crate) fn new(descriptor_limit: Option<u64>) -> Self {
        SpawnResources {
            descriptor_limit,
            ..SpawnResources::default()
        }
    }

    /// A slot for `fds`, if it is worth one and there is one.
    pub(super) fn guard(&self, fds: [BorrowedFd<'_>; 3]) -> Option<SlotGuard<'_>> {
        if fds.iter().all(|fd| fd.as_raw_fd() < LOW_FD) {
            return None;
        }
        let mut slots = sys::lock(&self.slots);
        if matches!(*slots, Slots::Unneeded) {
            *slots = Slots::make().unwrap_or(Slots::Refused);
        }
        let Slots::Made { filler, free } = &mut *slots else {
            return None;
        };
        let slot = free.pop()?;
        let filler = Arc::clone(filler);
        drop(slots);
        let mut guard = SlotGuard {
            resources: self,
            slot: Some(slot),
            filler,
        };
        guard.slot.as_mut()?.fill(fds).is_ok().then_some(guard)
    }

    /// Gives the numbers back, until they are needed again.
    pub(crate) fn clear(&self) {
        *sys::lock(&self.slots) = Slots::Unneeded;
    }

    /// Calls `spawn` with a stack that no other child is using.
    pub(crate) fn with_stack<T>(&self, spawn: impl FnOnce(&mut ChildStack) -> T) -> T {
        let kept = sys::lock(&self.stacks).pop();
        let mut stack = kept.unwrap_or_else(ChildStack::new);
        let result = spawn(&mut stack);
        let mut stacks = sys::lock(&self.stacks);
        if stacks.len() < MAX_KEPT_STACKS {
            stacks.push(stack);
        }
        result
    }
}

impl Slots {
    fn make() -> io::Result<Slots> {
        let filler = sys::open_null()?;
        let free: Vec<ReservedFds> = (0..MAX_SLOTS)
            .map(|_| ReservedFds::reserve(&filler))
            .collect::<Result<_, _>>()?;
        Ok(Slots::Made {
            filler: Arc::new(filler),
            free,
        })
    }
}

impl Drop for SlotGuard<'_> {
    /// Takes what the child was given out of the slot, and gives the slot back.
    fn drop(&mut self) {
        let Some(mut slot) = self.slot.take() else { return };
        let filler = self.filler.as_fd();
        let emptied = slot.fill([filler; 3]);
        let mut slots = sys::lock(&self.resources.slots);
        if let (Ok(()), Slots::Made { free, .. }) = (emptied, &mut *slots) {
            free.push(slot);
        }
    }
}
