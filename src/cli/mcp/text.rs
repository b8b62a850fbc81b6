//! Output as text: characters that are not finished yet, escape sequences, and text that is searched for.
//!
//! **Thread:** `mcp`.
//! **Owns:** nothing but the position of a reader.
//! **Never:** shows half a character or half an escape sequence of a program that still prints.

use memchr::{memchr2, memmem};

/// The longest escape sequence that is taken for one; what is longer is shown from there on.
const MAX_SEQUENCE_BYTES: usize = 4096;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;

/// How output is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As it was printed.
    Raw,
    /// Without escape sequences.
    Plain,
    /// The same, and with the CR LF of a terminal as LF.
    Terminal,
}

/// Takes escape sequences out of a stream, which may come in any pieces.
#[derive(Debug)]
pub(super) struct Filter {
    style: Style,
    state: State,
    /// Bytes of the sequence so far.
    length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// Behind a CR that may belong to a CR LF.
    Cr,
    /// Behind an ESC.
    Escape,
    /// In a sequence with intermediate bytes, such as that for a character set.
    Intermediate,
    /// Behind `ESC [`.
    Control,
    /// In a string, such as the title of a window, which ends with BEL or `ESC \`.
    String,
    /// Behind an ESC in there.
    StringEscape,
}

impl Filter {
    pub(super) fn new(style: Style) -> Filter {
        Filter {
            style,
            state: State::Text,
            length: 0,
        }
    }

    /// Whether what has come so far does not end within a sequence.
    fn is_settled(&self) -> bool {
        self.state == State::Text
    }

    /// The text of the next bytes.
    pub(super) fn filter(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.style == Style::Raw {
            return bytes.to_vec();
        }
        let mut text = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.state == State::Text {
                // Up to what may begin a sequence all is text.
                let plain = memchr2(ESC, b'\r', rest).unwrap_or(rest.len());
                if plain > 0 {
                    text.extend_from_slice(&rest[..plain]);
                    rest = &rest[plain..];
                    continue;
                }
            }
            self.next(byte, &mut text);
            rest = behind;
        }
        text
    }

    fn next(&mut self, byte: u8, text: &mut Vec<u8>) {
        self.length += 1;
        if self.state == State::Cr {
            self.state = State::Text;
            if byte != b'\n' {
                text.push(b'\r');
            }
        }
        self.state = match (self.state, byte) {
            (State::String, ESC) => State::StringEscape,
            (State::StringEscape, b'\\') => State::Text,
            (_, ESC) => {
                self.length = 0;
                State::Escape
            }
            (State::Text, b'\r') if self.style == Style::Terminal => State::Cr,
            (State::Text, _) => {
                text.push(byte);
                State::Text
            }
            (_, CAN | SUB) => State::Text,
            (_, b'\n') => {
                // Not part of any sequence that programs send; after a broken one, the line counts.
                text.push(byte);
                State::Text
            }
            (State::Escape | State::StringEscape, b'[') => State::Control,
            (State::Escape | State::StringEscape, b']' | b'P' | b'X' | b'^' | b'_') => State::String,
            (State::Escape | State::StringEscape | State::Intermediate, 0x20..=0x2f) => State::Intermediate,
            (State::Control, 0x40..=0x7e) | (State::String, BEL) => State::Text,
            (state @ (State::Control | State::String), _) if self.length < MAX_SEQUENCE_BYTES => state,
            _ => State::Text,
        };
    }
}

/// The text of `bytes`, and how many of them it is the text of: a character or an escape sequence that
/// is not finished at their end is left for later.
pub(super) fn settled(bytes: &[u8], style: Style) -> (Vec<u8>, usize) {
    let whole = whole_characters(bytes);
    let mut filter = Filter::new(style);
    let text = filter.filter(&bytes[..whole]);
    if filter.is_settled() {
        return (text, whole);
    }
    // Where the sequence begins that is not finished.
    let unfinished = match filter.state {
        State::Cr => 1,
        _ => filter.length + 1,
    };
    (text, whole - unfinished.min(whole))
}

/// The text of `bytes`, after which more is left out or nothing will come.
pub(super) fn shown(bytes: &[u8], style: Style) -> Vec<u8> {
    let mut filter = Filter::new(style);
    let mut text = filter.filter(bytes);
    if filter.state == State::Cr {
        text.push(b'\r');
    }
    text
}

/// How many of these bytes are whole characters: fewer than all only if the last one is unfinished.
pub(super) fn whole_characters(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(3);
    for at in (from..bytes.len()).rev() {
        if bytes[at] & 0xc0 != 0x80 {
            return match str::from_utf8(&bytes[at..]) {
                Err(e) if e.error_len().is_none() => at,
                _ => bytes.len(),
            };
        }
    }
    bytes.len()
}

/// Where the first whole character begins.
pub(super) fn first_character(bytes: &[u8]) -> usize {
    let continued = bytes.iter().take(3).take_while(|&&b| b & 0xc0 == 0x80).count();
    // Four of them are not the rest of a character.
    match bytes.get(continued) {
        Some(b) if b & 0xc0 == 0x80 => 0,
        _ => continued,
    }
}

/// A text that is waited for in a stream, as it is shown.
#[derive(Debug)]
pub(super) struct Search {
    wanted: Vec<u8>,
    filter: Filter,
    /// The last of the text so far, shorter than what is wanted.
    before: Vec<u8>,
}

impl Search {
    pub(super) fn new(wanted: &str, style: Style) -> Search {
        Search {
            wanted: wanted.as_bytes().to_vec(),
            filter: Filter::new(style),
            before: Vec::new(),
        }
    }

    /// Whether it is there with the next bytes of the stream.
    pub(super) fn finds(&mut self, bytes: &[u8]) -> bool {
        self.before.append(&mut self.filter.filter(bytes));
        if memmem::find(&self.before, &self.wanted).is_some() {
            return true;
        }
        let keep = self.wanted.len().saturating_sub(1);
        let excess = self.before.len().saturating_sub(keep);
        self.before.drain(..excess);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_taken_out_in_whatever_pieces_they_come() {
        for (printed, plain) in [
            ("plain ü\ttext\r\n", "plain ü\ttext\r\n"),
            ("\x1b[1;31mred\x1b[0m and \x1b[?25lhidden", "red and hidden"),
            ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1b]8;;\x1b\\", "ab"),
            ("\x1b(Bset\x1b=keypad\x1b7save\x1bM", "setkeypadsave"),
            ("\x1bP1$r0m\x1b\\dcs\x1b_apc\x1b\\", "dcs"),
            ("\x1b[31", ""),
            ("\x1b[3\x18cancelled", "cancelled"),
            ("\x1b[3\x1b[1mrestarted", "restarted"),
            ("\x1b]0;never ended\nthe next line", "\nthe next line"),
            ("a\x1b]0;t\x1b[1mb", "ab"),
        ] {
            for size in [1, 2, 3, 1000] {
                let mut filter = Filter::new(Style::Plain);
                let pieces = printed.as_bytes().chunks(size);
                let text: Vec<u8> = pieces.flat_map(|piece| filter.filter(piece)).collect();
                assert_eq!(String::from_utf8_lossy(&text), plain, "{printed:?} by {size}");
            }
        }
        let long = format!("\x1b]0;{}shown", "x".repeat(2 * MAX_SEQUENCE_BYTES));
        assert!(shown(long.as_bytes(), Style::Plain).ends_with(b"xshown"));
        assert_eq!(shown(b"a\r\nb\rc\r\r\nd\r", Style::Terminal), b"a\nb\rc\r\nd\r");
        assert_eq!(shown(b"\x1b[1m\r\n", Style::Raw), b"\x1b[1m\r\n");
    }

    #[test]
    fn what_is_unfinished_is_left_for_later() {
        for (printed, text, left) in [
            (&b"abc"[..], &b"abc"[..], 0),
            ("aü".as_bytes(), "aü".as_bytes(), 0),
            (&"aü".as_bytes()[..2], b"a", 1),
            (&"a😀".as_bytes()[..4], b"a", 3),
            (b"a\xff", b"a\xff", 0),
            (b"a\x80\x80\x80\x80", b"a\x80\x80\x80\x80", 0),
            (b"a\x1b", b"a", 1),
            (b"a\x1b[1;3", b"a", 5),
            (b"a\x1b]0;t\x1b", b"a", 6),
            (b"a\x1b[1mb", b"ab", 0),
            (b"a\r", b"a", 1),
        ] {
            let (found, count) = settled(printed, Style::Terminal);
            assert_eq!((&*found, printed.len() - count), (text, left), "{printed:?}");
        }
        assert_eq!(first_character("ü".as_bytes()), 0);
        assert_eq!(first_character(&"ü".as_bytes()[1..]), 1);
        assert_eq!(first_character(b"\x80\x80\x80\x80"), 0);
    }

    #[test]
    fn text_is_found_across_pieces_and_colours() {
        let printed = "starting\n\x1b[1m>\x1b[32m>> \x1b[0mready\n".as_bytes();
        for size in 1..printed.len() {
            for (wanted, style, there) in [
                (">>> ready", Style::Plain, true),
                (">>> ready", Style::Raw, false),
                ("\x1b[32m>> ", Style::Raw, true),
                ("nothing", Style::Plain, false),
            ] {
                let mut search = Search::new(wanted, style);
                let found = printed.chunks(size).any(|piece| search.finds(piece));
                assert_eq!(found, there, "{wanted:?} by {size}");
            }
        }
    }
}
