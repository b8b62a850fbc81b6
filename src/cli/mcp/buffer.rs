//! What is kept of one output stream: its beginning and its end, by their positions in the stream.
//!
//! **Thread:** `mcp`.
//! **Owns:** the bytes.
//! **Never:** holds more than [`HEAD_BYTES`] and [`TAIL_BYTES`], whatever is printed.

use std::collections::VecDeque;

/// What is kept of the beginning of a stream.
pub(super) const HEAD_BYTES: usize = 64 * 1024;
/// What is kept of its end.
pub(super) const TAIL_BYTES: usize = 192 * 1024;

/// The beginning and the end of a stream.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// From position 0 on.
    head: Vec<u8>,
    /// What comes after the head, or the last of it.
    tail: VecDeque<u8>,
    total: u64,
}

/// A part of a stream, of which the middle may be left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) head: Vec<u8>,
    /// Where the bytes that are left out begin and end; the same where there are none.
    pub(super) omitted: (u64, u64),
    /// How many of them are not kept any more.
    pub(super) lost: u64,
    pub(super) tail: Vec<u8>,
}

impl Kept {
    /// How many bytes the stream has had.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head.len()));
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(TAIL_BYTES)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// Gives back what is not used, because nothing more will come.
    pub(super) fn shrink(&mut self) {
        self.head.shrink_to_fit();
        self.tail.shrink_to_fit();
    }

    /// From `from` to the end, with `most` bytes of it: half of them from its beginning, half from its
    /// end, where there are more.
    pub(super) fn part(&self, from: u64, most: usize) -> Part {
        let from = from.min(self.total);
        let (head_len, tail_start) = (self.head.len() as u64, self.tail_start());
        let has_gap = head_len < tail_start && from < tail_start;
        // Up to where all is kept from `from` on.
        let whole = match has_gap {
            true => head_len.max(from),
            false => self.total,
        };
        let most = most as u64;
        let head_end = whole.min(from + most / 2);
        let mut tail_from = head_end.max(self.total.saturating_sub(most - most / 2));
        if has_gap {
            tail_from = tail_from.max(tail_start);
        }
        let lost = tail_from.min(tail_start).saturating_sub(head_end.max(head_len));
        Part {
            head: self.bytes(from, head_end),
            omitted: (head_end, tail_from),
            lost,
            tail: self.bytes(tail_from, self.total),
        }
    }

    fn tail_start(&self) -> u64 {
        self.total - self.tail.len() as u64
    }

    /// The bytes of a range that is kept.
    fn bytes(&self, from: u64, end: u64) -> Vec<u8> {
        let (head_len, tail_start) = (self.head.len() as u64, self.tail_start());
        let mut bytes = Vec::new();
        if from < head_len {
            bytes.extend_from_slice(&self.head[from as usize..end.min(head_len) as usize]);
        }
        if end > tail_start {
            let first = from.max(tail_start) - tail_start;
            bytes.extend(self.tail.range(first as usize..(end - tail_start) as usize));
        }
        bytes
    }
}

impl Part {
    /// Whether bytes were left out.
    pub(super) fn is_cut(&self) -> bool {
        self.omitted.0 < self.omitted.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte that is different at each position.
    fn at(position: u64) -> u8 {
        (position.wrapping_mul(2_654_435_761) >> 13) as u8
    }

    #[test]
    fn a_part_is_what_was_there_or_says_what_is_missing() {
        let limit = (HEAD_BYTES + TAIL_BYTES) as u64;
        for total in [
            0,
            1,
            10,
            65_535,
            65_536,
            65_537,
            limit - 1,
            limit,
            limit + 1,
            1_000_000,
        ] {
            let all: Vec<u8> = (0..total).map(at).collect();
            let stream = |from: u64, end: u64| &all[from as usize..end as usize];
            let lost_end = total.saturating_sub(TAIL_BYTES as u64);
            let mut kept = Kept::default();
            let mut sent = 0;
            for size in [1, 7, 4096, 65_536, 300_000].into_iter().cycle() {
                let end = (sent + size).min(total);
                kept.push(stream(sent, end));
                sent = end;
                if sent == total {
                    break;
                }
            }
            assert_eq!(kept.total(), total);
            assert!(kept.head.len() <= HEAD_BYTES && kept.tail.len() <= TAIL_BYTES);
            for from in [
                0,
                1,
                5,
                65_000,
                65_536,
                100_000,
                total.saturating_sub(5),
                total,
                total + 9,
            ] {
                for most in [0, 1, 2, 3, 10, 32_768, 1_000_000] {
                    let part = kept.part(from, most);
                    let case = format!("{from} of {total}, at most {most}");
                    let from = from.min(total);
                    let (omitted_from, omitted_end) = part.omitted;
                    assert!(part.head.len() + part.tail.len() <= most, "{case}");
                    assert_eq!(part.head, stream(from, omitted_from), "{case}");
                    assert_eq!(part.tail, stream(omitted_end, total), "{case}");
                    let lost = omitted_end.min(lost_end).saturating_sub(omitted_from.max(65_536));
                    assert_eq!(part.lost, lost, "{case}");
                    if total - from <= most as u64 {
                        assert_eq!(omitted_end - omitted_from, part.lost, "{case}");
                    }
                }
            }
        }
    }
}
