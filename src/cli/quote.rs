//! Text from the other side, made safe to print: a server's messages, a program's name, what a user
//! typed.
//!
//! **Thread:** any.
//! **Owns:** nothing.
//! **Never:** changes text without control characters.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` with each character that controls a terminal, or hides or reorders other characters, shown
/// as an escape such as `\u{1b}`. Line ends stay: use this where lines are shown.
pub fn escaped(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\n' && is_hidden(c))
}

/// The same for what must stay on one line: line ends are escaped as well.
pub fn escaped_line(text: &str) -> Cow<'_, str> {
    escape(text, is_hidden)
}

/// One line in quotes, as errors show what a user typed.
pub fn quoted(text: &str) -> String {
    format!("'{}'", escaped_line(text))
}

/// JSON text with the same characters as `\uXXXX`, which says the same to every reader. Outside of
/// strings JSON has none but white space, which stays.
pub fn escaped_json(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| !c.is_ascii_control() && is_hidden(c) || c == '\u{7f}') {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hidden(character) && (character as u32) >= 0x7f {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match is_escaped(character) {
            // `\n`, `\t`, `\r` by their names, everything else by its number.
            true if character.is_ascii_whitespace() => escaped.extend(character.escape_default()),
            true => escaped.extend(character.escape_unicode()),
            false => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// C0, DEL and C1; line and paragraph separators; marks of direction; what has no width.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_a_terminal_is_shown_and_everything_else_is_kept() {
        for (text, expected) in [
            ("plain, ünïcode, 日本, 👍", "plain, ünïcode, 日本, 👍"),
            ("\u{1b}]0;x\u{7}", "\\u{1b}]0;x\\u{7}"),
            ("a\r\tb\0", "a\\r\\tb\\u{0}"),
            ("\u{7f}\u{9b}31m", "\\u{7f}\\u{9b}31m"),
            (
                "\u{202e}\u{2066}\u{200b}\u{feff}",
                "\\u{202e}\\u{2066}\\u{200b}\\u{feff}",
            ),
            ("\u{e0041}\u{2028}", "\\u{e0041}\\u{2028}"),
            ("two\nlines", "two\nlines"),
        ] {
            assert_eq!(escaped(text), expected);
        }
        assert_eq!(escaped_line("two\nlines"), "two\\nlines");
        assert_eq!(quoted("a b"), "'a b'");
    }

    #[test]
    fn json_says_the_same_when_it_is_escaped() {
        let text = "{\"a\": \"\u{9b}\u{202e}\u{e0041}\u{7f}ü\\u001b\"}";
        let safe = escaped_json(text);
        assert_eq!(escaped(&safe), safe);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(value(&safe), value(text));
        assert_eq!(escaped_json("{\"a\":\"ü\"}"), "{\"a\":\"ü\"}");
    }
}
