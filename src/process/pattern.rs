//! Bytes that are looked for in a stream that comes in pieces.
//!
//! **Thread:** the process thread.
//! **Owns:** the bytes, and how much of them each stream may have begun with its last ones.
//! **Never:** keeps anything of the stream, or looks at any byte of it more than a few times: the time is
//! linear in the stream, however it is cut and whatever the bytes are.
//!
//! memmem finds what lies within a piece, at the speed of memory. What crosses from one piece to the next
//! is followed byte by byte with the table of Knuth, Morris and Pratt, which is only a few bytes as a rule.

use memchr::memmem::Finder;

/// Bytes that are looked for on both streams.
pub(crate) struct Pattern {
    finder: Finder<'static>,
    /// For each beginning, the length of the longest shorter one that it ends with. There are no longer
    /// patterns than its type has numbers for.
    borders: Box<[u16]>,
    /// How many of the bytes each stream ends with, of those read so far.
    begun: [usize; 2],
}

impl Pattern {
    /// What one of so many bytes takes.
    pub(crate) fn cost(bytes: usize) -> usize {
        size_of::<Pattern>() + bytes + bytes * size_of::<u16>()
    }

    /// `bytes` are not empty, and 65,536 at most.
    pub(crate) fn new(bytes: &[u8]) -> Pattern {
        let mut borders = vec![0; bytes.len()].into_boxed_slice();
        let mut length = 0;
        for at in 1..bytes.len() {
            length = next(bytes, &borders, length, bytes[at]);
            borders[at] = u16::try_from(length).unwrap_or(u16::MAX);
        }
        Pattern {
            finder: Finder::new(bytes).into_owned(),
            borders,
            begun: [0; 2],
        }
    }

    /// Looks at the next bytes of a stream; the place in them after the first match. After a match it is
    /// not asked again.
    pub(crate) fn find(&mut self, stream: usize, bytes: &[u8]) -> Option<usize> {
        let pattern = self.finder.needle();
        let mut begun = self.begun[stream];
        let mut at = 0;
        // As long as what has begun lies partly before these bytes.
        while begun > at {
            let Some(&byte) = bytes.get(at) else {
                self.begun[stream] = begun;
                return None;
            };
            begun = next(pattern, &self.borders, begun, byte);
            at += 1;
            if begun == pattern.len() {
                return Some(at);
            }
        }
        let from = at - begun;
        if let Some(found) = self.finder.find(&bytes[from..]) {
            return Some(from + found + pattern.len());
        }
        let last = bytes.len().saturating_sub(pattern.len() - 1).max(from);
        let end = bytes[last..].iter();
        self.begun[stream] = end.fold(0, |begun, &byte| next(pattern, &self.borders, begun, byte));
        None
    }
}

/// The longest beginning of `pattern` that a stream ends with once `byte` has come, which ended with
/// `begun` of its bytes before, and not with all of them.
fn next(pattern: &[u8], borders: &[u16], mut begun: usize, byte: u8) -> usize {
    while pattern[begun] != byte {
        match begun {
            0 => return 0,
            _ => begun = usize::from(borders[begun - 1]),
        }
    }
    begun + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(pattern: &[u8], stream: &[u8]) -> Option<usize> {
        let at = stream.windows(pattern.len()).position(|w| w == pattern)?;
        Some(at + pattern.len())
    }

    /// Where it is found if the stream comes in pieces of these lengths.
    fn in_pieces(pattern: &[u8], stream: &[u8], lengths: impl Iterator<Item = usize>) -> Option<usize> {
        let mut pattern = Pattern::new(pattern);
        let mut at = 0;
        for length in lengths {
            let piece = &stream[at..(at + length).min(stream.len())];
            if let Some(end) = pattern.find(1, piece) {
                return Some(at + end);
            }
            at += piece.len();
            if at == stream.len() {
                break;
            }
        }
        None
    }

    #[test]
    fn a_match_is_found_across_every_border() {
        let stream = b"..aabaabaaab.aab";
        for pattern in [
            &b"aabaaab"[..],
            b"aab",
            b"a",
            b"b.",
            b"aabaabaaab.aab",
            b"c",
            b"..",
        ] {
            let expected = position(pattern, stream);
            for first in 0..=stream.len() {
                for second in 0..=stream.len() - first {
                    let lengths = [first, second, stream.len()].into_iter();
                    assert_eq!(in_pieces(pattern, stream, lengths), expected, "{first}, {second}");
                }
            }
        }
    }

    #[test]
    fn streams_do_not_mix() {
        let mut pattern = Pattern::new(b"ab");
        assert_eq!(pattern.find(0, b"a"), None);
        assert_eq!(pattern.find(1, b"b"), None);
        assert_eq!(pattern.find(1, b"a"), None);
        assert_eq!(pattern.find(0, b"b"), Some(1));
    }

    /// With a search that begins anew with each piece, this is 2^32 steps.
    #[test]
    #[cfg_attr(miri, ignore = "200,000 steps take minutes there")]
    fn single_bytes_and_a_long_pattern_take_linear_time() {
        let mut pattern = Pattern::new(&[&[b'a'; 65_535][..], b"b"].concat());
        for _ in 0..200_000 {
            assert_eq!(pattern.find(0, b"a"), None);
        }
        assert_eq!(pattern.find(0, b"b"), Some(1));
        // All of it, and the last byte differs.
        let mut pattern = Pattern::new(&[b'a'; 65_536]);
        for _ in 0..3 {
            assert_eq!(pattern.find(0, &[b'a'; 65_535]), None);
            assert_eq!(pattern.find(0, b"b"), None);
        }
        assert_eq!(pattern.find(0, &[b'a'; 65_536]), Some(65_536));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            pattern in prop::collection::vec(0..3_u8, 1..9),
            stream in prop::collection::vec(0..3_u8, 0..200),
            lengths in prop::collection::vec(1..30_usize, 1..20),
        ) {
            let expected = position(&pattern, &stream);
            prop_assert_eq!(in_pieces(&pattern, &stream, lengths.into_iter().cycle()), expected);
        }
    }
}
