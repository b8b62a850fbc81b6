//! Reading a server's lines by scanning, so that the client is not what gets measured.
//!
//! A key such as `"id":` cannot occur inside a JSON string, where its quotes would be escaped.
//! That makes a plain byte search sound, as long as the server writes no space around its colons;
//! the client brings other spellings into this form first.

use std::ffi::c_void;

/// One line, as far as a benchmark cares.
#[derive(Debug)]
pub enum Event<'a> {
    /// The answer to a request.
    Response {
        /// The request's id.
        id: u64,
        /// Whether it is an error.
        failed: bool,
        /// The whole line, for a message about the error.
        line: &'a [u8],
    },
    /// A piece of a process's output.
    Delta {
        /// The number in the process's handle.
        handle: u64,
        /// The base64 as it stands in the line.
        base64: &'a [u8],
    },
    /// The end of a process.
    Exited {
        /// The number in the process's handle.
        handle: u64,
        /// The whole line, for the fields that some rows look at.
        line: &'a [u8],
    },
    /// A notification, or a request of the server's own.
    Uninvited,
}

/// Where `byte` first occurs.
pub fn find_byte(haystack: &[u8], byte: u8) -> Option<usize> {
    // SAFETY: the pointer and the length describe the borrowed slice.
    let at = unsafe {
        libc::memchr(
            haystack.as_ptr().cast::<c_void>(),
            i32::from(byte),
            haystack.len(),
        )
    };
    (!at.is_null()).then(|| at as usize - haystack.as_ptr() as usize)
}

/// Where `needle` first occurs.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    // SAFETY: the pointers and the lengths describe the borrowed slices.
    let at = unsafe {
        libc::memmem(
            haystack.as_ptr().cast::<c_void>(),
            haystack.len(),
            needle.as_ptr().cast::<c_void>(),
            needle.len(),
        )
    };
    (!at.is_null()).then(|| at as usize - haystack.as_ptr() as usize)
}

/// What a line is, or nothing where its spelling is not the compact one.
pub fn event(line: &[u8]) -> Option<Event<'_>> {
    if let Some((base64, before, after)) = payload(line) {
        let handle = handle(before).or_else(|| handle(after))?;
        return Some(Event::Delta { handle, base64 });
    }
    if let Some(method) = after(line, b"\"method\":\"") {
        return match method {
            _ if method.starts_with(b"process/exited\"") => Some(Event::Exited {
                handle: handle(line)?,
                line,
            }),
            // A delta whose payload was not found is not the compact spelling.
            _ if method.starts_with(b"process/outputDelta\"") => None,
            _ => Some(Event::Uninvited),
        };
    }
    let id = number(after(line, b"\"id\":")?)?;
    let failed = find(line, b"\"result\":").is_none();
    Some(Event::Response { id, failed, line })
}

/// How many bytes a piece of base64 stands for, or nothing where it is not whole groups of four.
pub fn decoded_length(base64: &[u8]) -> Option<u64> {
    if !base64.len().is_multiple_of(4) {
        return None;
    }
    let padding = base64.iter().rev().take(2).filter(|byte| **byte == b'=').count();
    Some((base64.len() / 4 * 3 - padding) as u64)
}

/// A delta's base64, and what stands before and after it.
fn payload(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    const KEY: &[u8] = b"\"deltaBase64\":\"";
    let key = find(line, KEY)?;
    let start = key + KEY.len();
    let end = start + find_byte(&line[start..], b'"')?;
    Some((&line[start..end], &line[..key], &line[end..]))
}

/// The number in a handle of ours, which are all spelt `b17`.
fn handle(part: &[u8]) -> Option<u64> {
    number(after(part, b"\"processHandle\":\"b")?)
}

fn after<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    Some(&line[find(line, key)? + key.len()..])
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}
