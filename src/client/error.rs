//! What a call of the client can fail with, how text of the other side is quoted, and what is text.
//!
//! **Thread:** whichever calls.
//! **Owns:** nothing.
//! **Never:** shows a control character that a server sent, or more than 200 characters of its text.

use std::ffi::OsStr;
use std::fmt;
use std::io;

use crate::wire::protocol::{RpcError, code};

/// How many characters of a text of the other side are shown.
const QUOTED_CHARS: usize = 200;
/// How many of them come from its end, where it is longer: that is where most messages say why.
const QUOTED_TAIL_CHARS: usize = 80;

/// Why something was not done.
///
/// Its text never has a control character or more than 200 characters of what a server sent, so it can
/// be printed to a terminal; the members have what the server sent unchanged.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server refused the request: code, message and data as they came.
    Refused(RpcError),
    /// The request cannot be sent to this server, and why: text that is not UTF-8, or a request that
    /// is longer than the server takes. Nothing was sent.
    Invalid(String),
    /// The connection has ended, and why if that is known.
    Ended(Option<String>),
    /// The server answered with something that is not an answer to this request, and what.
    Unexpected(String),
    /// What was launched or connected to does not serve, and why: it ended, it said something else, or
    /// it did not answer in time. Names the command, and how it ended.
    Handshake(String),
    /// The command that is to serve cannot be started.
    #[non_exhaustive]
    Launch {
        /// The program and its arguments.
        command: String,
        /// What the system says.
        source: io::Error,
    },
    /// A thread could not be started, a request could not be written, or output was lost
    /// ([`OutputLost`](super::OutputLost)).
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(error) => write!(f, "{} (code {})", excerpt(&error.message), error.code),
            Error::Ended(None) => f.write_str("the connection to the server has ended"),
            Error::Ended(Some(reason)) => write!(f, "the connection to the server has ended: {reason}"),
            Error::Invalid(reason) | Error::Unexpected(reason) | Error::Handshake(reason) => {
                f.write_str(reason)
            }
            Error::Launch { command, source } => write!(f, "cannot start the server {command}: {source}"),
            Error::Io(error) => error.fmt(f),
        }
    }
}

// No source: the text has that of the inner error already.
impl std::error::Error for Error {}

impl Error {
    /// The error inside the error of a read.
    pub(super) fn from_read(error: io::Error) -> Error {
        error.downcast::<Error>().unwrap_or_else(Error::Io)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}

/// The error [`std::process`] gives in the same place.
///
/// | what failed | `kind` | inside |
/// | --- | --- | --- |
/// | the system refused to start the program | as the system's: `NotFound`, `PermissionDenied`, … | only [`raw_os_error`](io::Error::raw_os_error) |
/// | the launched command cannot be started, or [`Error::Io`] | as it was | the [`io::Error`] itself |
/// | an argument that cannot be | `InvalidInput` | the whole [`Error`] |
/// | the server has no such method | `Unsupported` | the whole [`Error`] |
/// | the server answered with something else | `InvalidData` | the whole [`Error`] |
/// | the connection ended | `ConnectionAborted` | the whole [`Error`] |
/// | what was launched is not a server | `ConnectionRefused` | the whole [`Error`] |
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Launch { source, .. } | Error::Io(source) => return source,
            Error::Refused(ref refused) => match (os_error(refused), refused.code) {
                (Some(errno), _) => return io::Error::from_raw_os_error(errno),
                (None, code::INVALID_PARAMS | code::INVALID_REQUEST) => io::ErrorKind::InvalidInput,
                (None, code::METHOD_NOT_FOUND) => io::ErrorKind::Unsupported,
                (None, code::OVERLOADED) => io::ErrorKind::ResourceBusy,
                (None, _) => io::ErrorKind::Other,
            },
            Error::Invalid(_) => io::ErrorKind::InvalidInput,
            Error::Unexpected(_) => io::ErrorKind::InvalidData,
            Error::Ended(_) => io::ErrorKind::ConnectionAborted,
            Error::Handshake(_) => io::ErrorKind::ConnectionRefused,
        };
        io::Error::new(kind, error)
    }
}

/// The system's error number. A server without `data`, such as codex app-server, has it in its text.
fn os_error(error: &RpcError) -> Option<i32> {
    if let Some(data) = &error.data {
        return Some(data.errno);
    }
    if error.code != code::INTERNAL_ERROR {
        return None;
    }
    let (_, number) = error.message.rsplit_once("(os error ")?;
    number.strip_suffix(')')?.parse().ok()
}

/// A text of the other side as it can be shown: control characters and those that change the
/// direction of what follows are escaped, and of a long one the middle is left out.
pub(super) fn excerpt(text: &str) -> String {
    let mut whole = String::new();
    if take(text.chars(), QUOTED_CHARS, |piece| whole.push_str(piece)) {
        return whole;
    }
    let mut shown = String::new();
    take(text.chars(), QUOTED_CHARS - QUOTED_TAIL_CHARS - 1, |piece| {
        shown.push_str(piece);
    });
    shown.push('…');
    let mut tail = Vec::new();
    take(text.chars().rev(), QUOTED_TAIL_CHARS, |piece| {
        tail.push(piece.to_owned());
    });
    shown.extend(tail.into_iter().rev());
    shown
}

/// [`excerpt`] of bytes, in quotation marks.
pub(super) fn quoted(bytes: &[u8]) -> String {
    // Enough for an excerpt: as much from the beginning as from the end.
    let most = 4 * QUOTED_CHARS;
    let text = match bytes.len() <= 2 * most {
        true => String::from_utf8_lossy(bytes).into_owned(),
        false => {
            let (head, tail) = (&bytes[..most], &bytes[bytes.len() - most..]);
            String::from_utf8_lossy(head).into_owned() + &String::from_utf8_lossy(tail)
        }
    };
    format!("\"{}\"", excerpt(&text))
}

/// Gives escaped characters to `add` until there are `most`; whether that was all of them.
fn take(chars: impl Iterator<Item = char>, most: usize, mut add: impl FnMut(&str)) -> bool {
    let mut left = most;
    for c in chars {
        let mut buffer = [0; 4];
        let escaped;
        let piece: &str = match changes_more_than_itself(c) {
            true => {
                escaped = c.escape_default().to_string();
                &escaped
            }
            false => c.encode_utf8(&mut buffer),
        };
        let length = piece.chars().count();
        if length > left {
            return false;
        }
        left -= length;
        add(piece);
    }
    true
}

/// Control characters (C0, DEL, C1), line separators, and marks of writing direction.
fn changes_more_than_itself(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// What of a command is text on the wire, and can be given to a program.
pub(super) fn text(what: impl fmt::Display, value: &OsStr) -> Result<String, Error> {
    let wrong = match value.to_str() {
        Some(text) if !text.contains('\0') => return Ok(text.to_owned()),
        Some(_) => "has a NUL in it",
        None => "is not UTF-8",
    };
    Err(Error::Invalid(format!(
        "{what} {wrong}: {}",
        quoted(value.as_encoded_bytes())
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_short_and_has_no_control_characters() {
        assert_eq!(excerpt("plain \"text\" é"), "plain \"text\" é");
        let hostile = "\x1b]0;x\x07\u{9b}2J\u{202e}\u{2066}\r\n\x7f";
        let shown = excerpt(hostile);
        assert_eq!(
            shown, r"\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\u{2066}\r\n\u{7f}",
            "{shown}"
        );
        let exact = "x".repeat(QUOTED_CHARS);
        assert_eq!(excerpt(&exact), exact);
        for long in ["y".repeat(QUOTED_CHARS + 1), "\x1b".repeat(1_000_000)] {
            let shown = excerpt(&format!("{long} the reason"));
            assert!(shown.chars().count() <= QUOTED_CHARS, "{shown}");
            assert!(shown.contains('…') && shown.ends_with(" the reason"), "{shown}");
        }
        let shown = quoted(&[b"head ".as_slice(), &[0xff; 100_000], b" tail"].concat());
        assert!(
            shown.starts_with("\"head ") && shown.ends_with(" tail\""),
            "{shown}"
        );
        assert!(shown.chars().count() <= QUOTED_CHARS + 2);
    }

    #[test]
    fn an_error_number_is_found_in_data_or_in_text() {
        let text = |code, message: &str| RpcError::new(code, message);
        let said = "failed to spawn process: No such file or directory (os error 2)";
        assert_eq!(os_error(&text(code::INTERNAL_ERROR, said)), Some(2));
        assert_eq!(os_error(&text(code::INVALID_PARAMS, said)), None);
        assert_eq!(os_error(&text(code::INTERNAL_ERROR, "no (os error x)")), None);
    }
}
