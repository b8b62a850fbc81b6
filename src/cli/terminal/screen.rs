//! What a program has switched on in a terminal, followed through what it prints, so that it can be
//! switched off if the program cannot do that itself any more, and on again when it goes on.
//!
//! **Thread:** the one that prints the program's output.
//! **Owns:** the modes that differ from what a terminal starts with.
//! **Never:** changes what is printed.

use std::collections::BTreeSet;

/// Private modes (`CSI ? n h`) that are off in an unchanged terminal: application cursor
/// keys, reverse video, origin, mouse reports of every kind, keypad, margins, alternate screens,
/// bracketed paste, synchronized output, colour and size reports.
const OFF_AT_FIRST: [u16; 22] = [
    1, 5, 6, 9, 66, 69, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 2026, 2031, 2048, 47,
    1047, 1049,
];
/// Private modes that are on: automatic wrap, the cursor.
const ON_AT_FIRST: [u16; 2] = [7, 25];
const ALTERNATE_SCREENS: [u16; 3] = [47, 1047, 1049];

/// The longest control sequence that is looked at; those that matter are shorter.
const MAX_SEQUENCE_BYTES: usize = 64;
/// As many entries as terminals keep on a stack of the kitty keyboard protocol.
const MAX_KEYBOARDS: usize = 16;

#[derive(Debug, Default)]
enum Parser {
    #[default]
    Ground,
    Escape,
    /// Behind `ESC (`.
    Charset,
    /// Behind `CSI`, with the bytes so far.
    Control(Vec<u8>),
    /// In a title, a colour, an image: up to BEL or ST.
    Text,
    /// An `ESC` in such a text, which `\` makes its end.
    TextEscape,
}

/// Follows the output of one program.
#[derive(Debug, Default)]
pub struct Screen {
    parser: Parser,
    /// Private modes that are not as at first.
    changed: BTreeSet<u16>,
    /// The stacks of flags of the kitty keyboard protocol, of the main and the alternate screen.
    keyboards: [Vec<u16>; 2],
    /// What `CSI = n u` has set.
    keyboard_flags: u16,
    modify_other_keys: u16,
    keypad: bool,
    insert: bool,
    /// The lines that scroll, as they were given; empty for all.
    region: String,
    attributes: bool,
    cursor_shape: u16,
    charset: bool,
    /// An alternate screen was left since this was asked for last.
    left: bool,
}

impl Screen {
    /// Takes the next bytes that go to the terminal.
    pub fn see(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.parser = match (std::mem::take(&mut self.parser), byte) {
                (Parser::Text, 0x07) | (Parser::TextEscape, b'\\') => Parser::Ground,
                (Parser::Text | Parser::TextEscape, 0x1b) => Parser::TextEscape,
                // CAN and SUB end every sequence.
                (_, 0x18 | 0x1a) => Parser::Ground,
                (Parser::Text, _) => Parser::Text,
                (_, 0x1b) => Parser::Escape,
                // An ESC that does not begin ST ends the text and begins a sequence of its own.
                (Parser::Escape | Parser::TextEscape, byte) => self.escape(byte),
                (Parser::Charset, byte) => {
                    self.charset = byte != b'B';
                    Parser::Ground
                }
                (Parser::Control(sequence), 0x40..=0x7e) => {
                    self.control(&sequence, byte);
                    Parser::Ground
                }
                (Parser::Control(mut sequence), byte) => {
                    if sequence.len() < MAX_SEQUENCE_BYTES && byte >= 0x20 {
                        sequence.push(byte);
                    }
                    Parser::Control(sequence)
                }
                (Parser::Ground, byte) => {
                    match byte {
                        0x0e => self.charset = true,
                        0x0f => self.charset = false,
                        _ => {}
                    }
                    Parser::Ground
                }
            };
        }
    }

    fn escape(&mut self, byte: u8) -> Parser {
        match byte {
            b'[' => return Parser::Control(Vec::new()),
            b']' | b'P' | b'_' | b'^' | b'X' => return Parser::Text,
            b'(' => return Parser::Charset,
            b'=' => self.keypad = true,
            b'>' => self.keypad = false,
            // A full reset.
            b'c' => *self = Screen::default(),
            _ => {}
        }
        Parser::Ground
    }

    fn control(&mut self, sequence: &[u8], last: u8) {
        let (prefix, rest) = match sequence.first() {
            Some(&first @ (b'?' | b'>' | b'<' | b'=')) => (first, &sequence[1..]),
            _ => (0, sequence),
        };
        let end = rest.iter().position(|b| (0x20..0x30).contains(b));
        let (parameters, intermediate) = rest.split_at(end.unwrap_or(rest.len()));
        let mut numbers = parameters.split(|b| *b == b';').map(|digits| {
            let number = std::str::from_utf8(digits)
                .ok()
                .and_then(|d| d.parse::<u16>().ok());
            number.unwrap_or(0)
        });
        match (prefix, intermediate, last) {
            (b'?', b"", b'h' | b'l') => numbers.for_each(|mode| self.mode(mode, last == b'h')),
            (0, b"", b'h' | b'l') if numbers.any(|mode| mode == 4) => self.insert = last == b'h',
            (0, b"", b'm') => self.attributes = numbers.next_back() != Some(0),
            (0, b"", b'r') => self.region = String::from_utf8_lossy(parameters).into_owned(),
            (0, b" ", b'q') => self.cursor_shape = numbers.next().unwrap_or(0),
            (b'>', b"", b'm') if numbers.next() == Some(4) => {
                self.modify_other_keys = numbers.next().unwrap_or(0);
            }
            (b'>', b"", b'u') => {
                let flags = numbers.next().unwrap_or(0);
                let stack = self.keyboard();
                if stack.len() < MAX_KEYBOARDS {
                    stack.push(flags);
                }
            }
            (b'<', b"", b'u') => {
                let popped = usize::from(numbers.next().unwrap_or(1).max(1));
                let stack = self.keyboard();
                stack.truncate(stack.len().saturating_sub(popped));
            }
            (b'=', b"", b'u') => self.keyboard_flags = numbers.next().unwrap_or(0),
            // A soft reset, which leaves screens, mouse and keyboard as they are.
            (0, b"!", b'p') => {
                for mode in [1, 5, 6, 7, 25, 66, 69] {
                    self.changed.remove(&mode);
                }
                (self.keypad, self.insert) = (false, false);
                (self.attributes, self.charset) = (false, false);
                self.region.clear();
            }
            _ => {}
        }
    }

    fn mode(&mut self, mode: u16, on: bool) {
        let at_first = ON_AT_FIRST.contains(&mode);
        if !at_first && !OFF_AT_FIRST.contains(&mode) {
            return;
        }
        if on == at_first {
            self.left |= self.changed.remove(&mode) && ALTERNATE_SCREENS.contains(&mode);
        } else {
            self.changed.insert(mode);
        }
    }

    fn alternate(&self) -> bool {
        ALTERNATE_SCREENS.iter().any(|mode| self.changed.contains(mode))
    }

    fn keyboard(&mut self) -> &mut Vec<u16> {
        &mut self.keyboards[usize::from(self.alternate())]
    }

    /// Whether an alternate screen was left since the last question.
    pub fn has_left(&mut self) -> bool {
        std::mem::take(&mut self.left)
    }

    /// What switches off all that is on; empty if nothing is.
    pub fn reset(&self) -> Vec<u8> {
        let mut text = String::new();
        let pop = |text: &mut String, stack: &[u16]| {
            if !stack.is_empty() {
                text.push_str(&format!("\x1b[<{}u", stack.len()));
            }
        };
        if self.keyboard_flags != 0 {
            text.push_str("\x1b[=0u");
        }
        if self.alternate() {
            // Each screen has a stack of its own.
            pop(&mut text, &self.keyboards[1]);
        }
        for mode in &self.changed {
            let letter = if ON_AT_FIRST.contains(mode) { 'h' } else { 'l' };
            text.push_str(&format!("\x1b[?{mode}{letter}"));
        }
        pop(&mut text, &self.keyboards[0]);
        for (on, off) in [
            (self.modify_other_keys != 0, "\x1b[>4m"),
            (self.keypad, "\x1b>"),
            (self.insert, "\x1b[4l"),
            // It moves the cursor as well.
            (!self.region.is_empty(), "\x1b7\x1b[r\x1b8"),
            (self.attributes, "\x1b[m"),
            (self.cursor_shape != 0, "\x1b[0 q"),
            (self.charset, "\x1b(B\x0f"),
        ] {
            if on {
                text.push_str(off);
            }
        }
        text.into_bytes()
    }

    /// What switches on again what [`reset`](Self::reset) switches off, but for colours and
    /// character sets, which the program that paints the screen again chooses anew.
    pub fn set(&self) -> Vec<u8> {
        let mut text = String::new();
        let push = |text: &mut String, stack: &[u16]| {
            for flags in stack {
                text.push_str(&format!("\x1b[>{flags}u"));
            }
        };
        push(&mut text, &self.keyboards[0]);
        // Screens last in the order of numbers, first in that of what is set on them.
        for mode in self.changed.iter().rev() {
            let letter = if ON_AT_FIRST.contains(mode) { 'l' } else { 'h' };
            text.push_str(&format!("\x1b[?{mode}{letter}"));
        }
        if self.alternate() {
            push(&mut text, &self.keyboards[1]);
        }
        if self.keyboard_flags != 0 {
            text.push_str(&format!("\x1b[={}u", self.keyboard_flags));
        }
        if self.modify_other_keys != 0 {
            text.push_str(&format!("\x1b[>4;{}m", self.modify_other_keys));
        }
        if self.keypad {
            text.push_str("\x1b=");
        }
        if self.insert {
            text.push_str("\x1b[4h");
        }
        if !self.region.is_empty() {
            text.push_str(&format!("\x1b[{}r", self.region));
        }
        if self.cursor_shape != 0 {
            text.push_str(&format!("\x1b[{} q", self.cursor_shape));
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset(output: &str) -> String {
        let mut whole = Screen::default();
        whole.see(output.as_bytes());
        // However it is cut.
        let mut cut = Screen::default();
        for byte in output.as_bytes() {
            cut.see(std::slice::from_ref(byte));
        }
        assert_eq!(whole.reset(), cut.reset(), "{output:?}");
        String::from_utf8(whole.reset()).unwrap()
    }

    #[test]
    fn what_was_switched_on_is_switched_off() {
        for (output, expected) in [
            ("plain text\r\n\x1b[1;31mred\x1b[0m\x1b[K", ""),
            ("\x1b[?1049h\x1b[22;0;0t\x1b[?1h\x1b=", "\x1b[?1l\x1b[?1049l\x1b>"),
            ("\x1b[?1049h\x1b[?1049l", ""),
            ("\x1b[?1000;1006h", "\x1b[?1000l\x1b[?1006l"),
            ("\x1b[?25l", "\x1b[?25h"),
            ("\x1b[?25l\x1b[?25h\x1b[?7l", "\x1b[?7h"),
            ("\x1b[?2004h\x1b[?9999h", "\x1b[?2004l"),
            ("\x1b[1m", "\x1b[m"),
            ("\x1b[1m\x1b[m", ""),
            ("\x1b[3;10r", "\x1b7\x1b[r\x1b8"),
            ("\x1b[3;10r\x1b[r", ""),
            ("\x1b[4 q", "\x1b[0 q"),
            ("\x1b[4 q\x1b[ q", ""),
            ("\x1b(0", "\x1b(B\x0f"),
            ("\x1b(0\x1b(B", ""),
            ("\x0e", "\x1b(B\x0f"),
            ("\x1b[>4;2m", "\x1b[>4m"),
            ("\x1b[>4;2m\x1b[>4m", ""),
            ("\x1b[4h", "\x1b[4l"),
            ("\x1b[>1u\x1b[>5u\x1b[<u", "\x1b[<1u"),
            ("\x1b[?1049h\x1b[>1u", "\x1b[<1u\x1b[?1049l"),
            ("\x1b[>1u\x1b[?1049h", "\x1b[?1049l\x1b[<1u"),
            ("\x1b[?1049h\x1b[?1000h\x1b[1m\x1bc", ""),
            ("\x1b[?25l\x1b[1m\x1b[!p", ""),
        ] {
            assert_eq!(reset(output), expected, "{output:?}");
        }
    }

    #[test]
    fn what_was_switched_off_can_be_switched_on_again() {
        let program =
            "\x1b[>1u\x1b[?1049h\x1b[>5u\x1b[=3u\x1b[?25l\x1b[?1002;1006h\x1b=\x1b[2;9r\x1b[4 q\x1b[>4;2m";
        let mut screen = Screen::default();
        screen.see(program.as_bytes());
        let mut again = Screen::default();
        again.see(&screen.set());
        assert_eq!(
            (again.reset(), again.set()),
            (screen.reset(), screen.set()),
            "{screen:?}"
        );
        assert!(!screen.has_left());
        screen.see(&screen.reset());
        assert_eq!(
            (screen.reset(), screen.has_left(), screen.has_left()),
            (vec![], true, false)
        );
    }

    #[test]
    fn what_only_looks_like_it_is_not_taken_for_it() {
        for output in [
            "\x1b]0;[?1049h\x07",
            "\x1b]0;title[?25l\x1b\\",
            "\x1bP[?1049h\x1b\\",
            "[?1049h",
            "\x1b[?1049",
            "\x1b[?10\x1849h",
            "\x1b[?1049$p",
            "\x1b[?1049s",
        ] {
            assert_eq!(reset(output), "", "{output:?}");
        }
        // Endless parameters take no memory.
        let mut screen = Screen::default();
        screen.see(b"\x1b[");
        screen.see(&vec![b'1'; 1 << 20]);
        screen.see(b"h\x1b[?25l");
        assert_eq!(screen.reset(), b"\x1b[?25h");
    }
}
