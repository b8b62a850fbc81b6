//! What is kept of an output stream: its first bytes, and its last ones.
//!
//! **Thread:** the process thread.
//! **Owns:** the last bytes of one stream, until they are collected or sent.
//! **Never:** takes more memory than the spawn asked for, or any before there is something to keep.

use crate::wire::protocol::OutputKeep;

/// How much the end of a stream takes at first. It doubles as it fills.
const FIRST_ROOM_BYTES: usize = 4 * 1024;

/// How much of a stream is kept, and of which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Bytes of its beginning; `None`: all.
    pub(crate) head: Option<u64>,
    /// Bytes of its end.
    pub(crate) tail: u64,
    /// The spawn had `outputKeep`, so `process/exited` says what is missing.
    pub(crate) told: bool,
}

impl Keep {
    /// What a spawn with these params keeps; `cap` is the cap in force, `None`: none.
    pub(crate) fn new(keep: Option<OutputKeep>, cap: Option<u64>) -> Keep {
        let (head, tail) = match (keep, cap) {
            (None | Some(OutputKeep::Head), cap) => (cap, 0),
            // Nothing is ever dropped, so it need not be kept for the end.
            (Some(OutputKeep::Tail), None) => (None, 0),
            (Some(OutputKeep::Tail), Some(cap)) => (Some(0), cap),
            (Some(OutputKeep::HeadTail { head, tail }), _) => (Some(head), tail),
        };
        Keep {
            head,
            tail,
            told: keep.is_some(),
        }
    }

    /// How many bytes are kept in all; `None`: all.
    pub(crate) fn cap(self) -> Option<u64> {
        self.head.map(|head| head.saturating_add(self.tail))
    }
}

/// The last bytes of a stream: a ring that grows up to its limit.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Once it is full, the oldest byte is at `at`, and the ring ends in front of it.
    ring: Vec<u8>,
    at: usize,
    limit: usize,
    /// How many of the oldest have been taken.
    taken: usize,
}

impl Tail {
    /// Keeps up to `limit` bytes. Takes no memory yet.
    pub(crate) fn new(limit: u64) -> Tail {
        Tail {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            ..Tail::default()
        }
    }

    /// How many bytes are kept and not taken.
    pub(crate) fn len(&self) -> usize {
        self.ring.len() - self.taken
    }

    /// Adds the next bytes of the stream; how many bytes were dropped for them, or of them. What memory
    /// does not allow is dropped like what is beyond the limit.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let all = self.ring.len() + bytes.len();
        self.make_room(all.min(self.limit));
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let (appended, rest) = bytes.split_at(bytes.len().min(self.limit - self.ring.len()));
        self.ring.extend_from_slice(appended);
        self.overwrite(rest);
        all - self.ring.len()
    }

    /// Makes the ring large enough for `wanted` bytes; if there is no memory for that, it stays as it is.
    fn make_room(&mut self, wanted: usize) {
        let capacity = self.ring.capacity();
        if wanted <= capacity {
            return;
        }
        let double = capacity.saturating_mul(2).max(FIRST_ROOM_BYTES).min(self.limit);
        let more = wanted.max(double) - self.ring.len();
        if self.ring.try_reserve_exact(more).is_err()
            && self.ring.try_reserve_exact(wanted - self.ring.len()).is_err()
        {
            log::warn!("there is no memory for more than {capacity} bytes of the end of a stream");
            self.limit = capacity;
        }
    }

    /// Puts bytes in place of the oldest ones; they are no more than the ring holds.
    fn overwrite(&mut self, bytes: &[u8]) {
        let (first, second) = bytes.split_at(bytes.len().min(self.ring.len() - self.at));
        self.ring[self.at..self.at + first.len()].copy_from_slice(first);
        self.ring[..second.len()].copy_from_slice(second);
        if !self.ring.is_empty() {
            self.at = (self.at + bytes.len()) % self.ring.len();
        }
    }

    /// Moves the oldest bytes to the end of `out`, `limit` at most. Nothing is added after that.
    pub(crate) fn take(&mut self, out: &mut Vec<u8>, limit: usize) {
        let n = limit.min(self.len());
        let from = self.at + self.taken;
        let from = from.checked_sub(self.ring.len()).unwrap_or(from);
        let first = n.min(self.ring.len() - from);
        out.extend_from_slice(&self.ring[from..from + first]);
        out.extend_from_slice(&self.ring[..n - first]);
        self.taken += n;
        if self.len() == 0 {
            self.clear();
        }
    }

    /// Forgets all bytes, and keeps none from now on.
    pub(crate) fn clear(&mut self) {
        *self = Tail::default();
    }

    /// All that is kept, in order.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.ring.rotate_left(self.at);
        self.ring
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_params_say_what_is_kept() {
        let keep = |keep, cap| {
            let keep = Keep::new(keep, cap);
            (keep.head, keep.tail, keep.told, keep.cap())
        };
        let both = |head, tail| Some(OutputKeep::HeadTail { head, tail });
        assert_eq!(keep(None, Some(7)), (Some(7), 0, false, Some(7)));
        assert_eq!(keep(None, None), (None, 0, false, None));
        assert_eq!(keep(Some(OutputKeep::Head), Some(7)), (Some(7), 0, true, Some(7)));
        assert_eq!(keep(Some(OutputKeep::Tail), Some(7)), (Some(0), 7, true, Some(7)));
        assert_eq!(keep(Some(OutputKeep::Tail), None), (None, 0, true, None));
        assert_eq!(keep(both(2, 3), Some(1)), (Some(2), 3, true, Some(5)));
        assert_eq!(keep(both(u64::MAX, 3), None).3, Some(u64::MAX));
    }

    proptest! {
        #[test]
        fn the_last_bytes_are_kept(
            limit in 0..40_usize,
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
            pieces in 1..17_usize,
        ) {
            let mut tail = Tail::new(limit as u64);
            let (mut all, mut dropped) = (Vec::new(), 0);
            for chunk in &chunks {
                dropped += tail.push(chunk);
                all.extend_from_slice(chunk);
                prop_assert_eq!(dropped, all.len().saturating_sub(limit));
                prop_assert!(tail.ring.capacity() <= limit);
            }
            let expected = &all[dropped..];
            let mut taken = Vec::new();
            let mut other = Tail::new(limit as u64);
            for chunk in &chunks {
                other.push(chunk);
            }
            while other.len() > 0 {
                other.take(&mut taken, pieces);
            }
            prop_assert_eq!(&taken, &expected);
            prop_assert_eq!(tail.into_bytes(), expected);
        }
    }

    #[test]
    fn memory_grows_with_what_is_there() {
        let mut tail = Tail::new(u64::MAX);
        assert_eq!(tail.push(b"little"), 0);
        assert!(tail.ring.capacity() <= FIRST_ROOM_BYTES);
        assert_eq!(tail.into_bytes(), b"little");
    }
}
