//! Where a message ends and the next begins.
//!
//! **Thread:** `rpc-read` cuts the input into messages, `rpc-write` puts headers before its own.
//! **Owns:** the buffer of the client's input.
//! **Never:** looks into a message, or stores one that is too long.
//!
//! There are two framings, and the first bytes of the input decide: lines, or headers as the
//! Language Server Protocol has them. Where headers cannot be understood, it is not known where
//! their message ends. Then everything is skipped up to the next line that ends in `Content-Length: N`:
//! no message contains one, because a JSON string holds no line end.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use crate::wire::protocol::{RpcError, code};

/// How much a read of the client's input asks for.
const READ_BYTES: usize = 128 * 1024;
/// What the headers of one message may take, and the blank space before the first message.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// What the input begins with if messages have headers, in any case. No JSON text begins so.
const HEADER_START: &[u8] = b"content-";
const LENGTH_NAME: &[u8] = b"content-length";
const TYPE_NAME: &[u8] = b"content-type";

/// What comes next in the input.
pub(crate) enum Frame<'a> {
    /// Told once, before all else, where messages have headers. The answers get headers, too.
    Headers,
    /// A line without its end, never a blank one; or a body.
    Message(&'a [u8]),
    /// Bytes that are not a message, and are skipped.
    Invalid(RpcError),
    End,
}

/// Splits a reader into messages of bounded length.
pub(crate) struct Frames<R> {
    reader: R,
    /// Initialised to its full length, so that reading costs no clearing.
    buffer: Vec<u8>,
    /// Where what comes next begins.
    start: usize,
    /// Up to where there is known to be no LF.
    scanned: usize,
    /// Up to where there are bytes.
    end: usize,
    limit: usize,
    expected: Expected,
    /// Those of the next message, as far as they have come.
    headers: Headers,
    ended: bool,
}

#[derive(Clone, Copy)]
enum Expected {
    /// The first bytes.
    Anything,
    Line,
    /// The rest of a line that is too long.
    RestOfLine,
    Header,
    Body(usize),
    /// So many bytes of a body that is skipped.
    RestOfBody(u64),
    /// A line that ends in a Content-Length, after headers that could not be understood.
    Length,
}

impl<R: Read> Frames<R> {
    pub(crate) fn new(reader: R, limit: usize) -> Self {
        Frames {
            reader,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            end: 0,
            limit,
            expected: Expected::Anything,
            headers: Headers::default(),
            ended: false,
        }
    }

    /// As [`new`](Self::new) where every message is a line, whatever the first one begins with.
    #[cfg(feature = "cli")]
    pub(crate) fn lines(reader: R, limit: usize) -> Self {
        Frames {
            expected: Expected::Line,
            ..Frames::new(reader, limit)
        }
    }

    pub(crate) fn next(&mut self) -> io::Result<Frame<'_>> {
        match self.expected {
            Expected::Line | Expected::RestOfLine => self.next_line(),
            Expected::Anything => self.first(),
            _ => self.next_body(),
        }
    }

    /// Decides for a framing as soon as the first bytes allow it.
    fn first(&mut self) -> io::Result<Frame<'_>> {
        loop {
            let there = &self.buffer[self.start..self.end];
            let blank = there.len() - there.trim_ascii_start().len();
            let seen = &there[blank..];
            let compared = seen.len().min(HEADER_START.len());
            let lines = !seen[..compared].eq_ignore_ascii_case(&HEADER_START[..compared]);
            if !lines && compared == HEADER_START.len() {
                self.skip(blank);
                self.expected = Expected::Header;
                return Ok(Frame::Headers);
            }
            if lines || self.ended || blank > MAX_HEADER_BYTES {
                self.expected = Expected::Line;
                return self.next_line();
            }
            self.fill()?;
        }
    }

    fn next_line(&mut self) -> io::Result<Frame<'_>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..self.end]) {
                let (start, end) = (self.start, self.scanned + at);
                self.start = end + 1;
                self.scanned = self.start;
                if matches!(self.expected, Expected::RestOfLine) {
                    self.expected = Expected::Line;
                    continue;
                }
                if end - start > self.limit {
                    return Ok(Frame::Invalid(self.too_long()));
                }
                match self.without_cr(start, end) {
                    None => continue,
                    Some(end) => return Ok(Frame::Message(&self.buffer[start..end])),
                }
            }
            self.scanned = self.end;
            if matches!(self.expected, Expected::RestOfLine) {
                self.start = self.end;
            } else if self.end - self.start > self.limit {
                self.expected = Expected::RestOfLine;
                self.start = self.end;
                return Ok(Frame::Invalid(self.too_long()));
            }
            if self.ended {
                let start = std::mem::replace(&mut self.start, self.end);
                return Ok(match self.without_cr(start, self.end) {
                    None => Frame::End,
                    Some(end) => Frame::Message(&self.buffer[start..end]),
                });
            }
            self.fill()?;
        }
    }

    /// Where this line ends without a CR; `None` if it is blank.
    fn without_cr(&self, start: usize, end: usize) -> Option<usize> {
        let line = &self.buffer[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        (!line.trim_ascii().is_empty()).then(|| start + line.len())
    }

    fn too_long(&self) -> RpcError {
        RpcError::invalid_request(format!(
            "a line is longer than the limit of {} bytes; it was skipped",
            self.limit
        ))
    }

    fn next_body(&mut self) -> io::Result<Frame<'_>> {
        loop {
            let there = self.end - self.start;
            match self.expected {
                Expected::Body(length) if there >= length => {
                    let start = self.start;
                    self.skip(length);
                    self.expected = Expected::Header;
                    return Ok(Frame::Message(&self.buffer[start..start + length]));
                }
                Expected::Body(length) if self.ended => {
                    self.skip(there);
                    self.expected = Expected::Header;
                    return Ok(invalid(format!(
                        "the input ended after {there} of the announced {length} bytes"
                    )));
                }
                Expected::Body(_) => self.fill()?,
                Expected::RestOfBody(left) => {
                    let skipped = usize::try_from(left).map_or(there, |left| left.min(there));
                    self.skip(skipped);
                    match left - skipped as u64 {
                        0 => self.expected = Expected::Header,
                        _ if self.ended => return Ok(Frame::End),
                        left => {
                            self.expected = Expected::RestOfBody(left);
                            self.fill()?;
                        }
                    }
                }
                Expected::Length => match self.take_line() {
                    Some(line) => {
                        if let Some(length) = length_at_end_of(&self.buffer[line]) {
                            self.headers.bytes = LENGTH_NAME.len();
                            self.headers.length = Some(length);
                            self.expected = Expected::Header;
                        }
                    }
                    None if self.ended => return Ok(Frame::End),
                    None => {
                        // More than a header is not kept of a line that has not ended.
                        self.start = self.start.max(self.end.saturating_sub(MAX_HEADER_BYTES));
                        self.fill()?;
                    }
                },
                _ => {
                    let Some(line) = self.take_line() else {
                        if there > MAX_HEADER_BYTES {
                            return Ok(self.lost("the headers are longer than 8 KiB"));
                        }
                        if self.ended {
                            self.skip(there);
                            return Ok(match there == 0 && self.headers.is_empty() {
                                true => Frame::End,
                                false => {
                                    self.headers = Headers::default();
                                    invalid("the input ended inside of headers")
                                }
                            });
                        }
                        self.fill()?;
                        continue;
                    };
                    if line.is_empty() {
                        // Between messages a blank line means nothing.
                        if !self.headers.is_empty()
                            && let Some(refused) = self.end_headers()
                        {
                            return Ok(refused);
                        }
                    } else if let Err(reason) = self.headers.add(&self.buffer[line.clone()]) {
                        // Looked at again: it may end in the length of the next message, after the rest
                        // of a body that was longer than announced. A length that is in doubt is not.
                        let name = line.start..line.end.min(line.start + LENGTH_NAME.len());
                        if !self.buffer[name].eq_ignore_ascii_case(LENGTH_NAME) {
                            self.start = line.start;
                            self.scanned = line.start;
                        }
                        return Ok(self.lost(reason));
                    }
                }
            }
        }
    }

    /// The headers are complete: a body follows. What is answered at once if it is skipped.
    fn end_headers(&mut self) -> Option<Frame<'static>> {
        let headers = std::mem::take(&mut self.headers);
        let Some(length) = headers.length else {
            return Some(self.lost("there is no Content-Length"));
        };
        let error = match usize::try_from(length) {
            Ok(length) if length <= self.limit && !headers.foreign => {
                self.expected = Expected::Body(length);
                return None;
            }
            Ok(length) if length <= self.limit => "Content-Type names a charset other than utf-8".to_owned(),
            _ => format!(
                "a message is longer than the limit of {} bytes; it was skipped",
                self.limit
            ),
        };
        self.expected = Expected::RestOfBody(length);
        Some(Frame::Invalid(RpcError::invalid_request(error)))
    }

    /// It is not known where the next message begins.
    fn lost(&mut self, reason: impl fmt::Display) -> Frame<'static> {
        self.headers = Headers::default();
        self.expected = Expected::Length;
        invalid(format!(
            "{reason}; skipping to the next line that ends in a Content-Length"
        ))
    }

    /// The next line, without its end, if all of it is there.
    fn take_line(&mut self) -> Option<Range<usize>> {
        let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..self.end]) else {
            self.scanned = self.end;
            return None;
        };
        let (start, end) = (self.start, self.scanned + at);
        self.skip(end + 1 - start);
        let line = &self.buffer[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Some(start..start + line.len())
    }

    fn skip(&mut self, bytes: usize) {
        self.start += bytes;
        self.scanned = self.start;
    }

    /// Reads once, after what is there of the next message.
    fn fill(&mut self) -> io::Result<()> {
        if self.start == self.end || self.buffer.len() - self.end < READ_BYTES / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.scanned -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < READ_BYTES / 2 {
            self.buffer.resize((2 * self.buffer.len()).max(READ_BYTES), 0);
        } else if self.buffer.len() > 8 * READ_BYTES && self.end < READ_BYTES {
            // What one huge message needed is not kept for the small ones after it.
            self.buffer.truncate(2 * READ_BYTES);
            self.buffer.shrink_to_fit();
        }
        let n = loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.end += n;
        self.ended = n == 0;
        Ok(())
    }
}

fn invalid(message: impl Into<String>) -> Frame<'static> {
    Frame::Invalid(RpcError::new(code::PARSE_ERROR, message))
}

/// The headers of one message.
#[derive(Default)]
struct Headers {
    /// How much they have taken so far.
    bytes: usize,
    length: Option<u64>,
    /// The body is said to be in another charset.
    foreign: bool,
}

impl Headers {
    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Takes a line; why it cannot.
    fn add(&mut self, line: &[u8]) -> Result<(), String> {
        self.bytes += line.len();
        if self.bytes > MAX_HEADER_BYTES {
            return Err("the headers are longer than 8 KiB".to_owned());
        }
        let refused = |what: &str| {
            let start = &line[..line.len().min(80)];
            Err(format!("{what}: {:?}", String::from_utf8_lossy(start)))
        };
        let Some(colon) = memchr::memchr(b':', line) else {
            return refused("a header without a colon");
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(|&b| is_token(b)) {
            return refused("not the name of a header");
        }
        if name.eq_ignore_ascii_case(LENGTH_NAME) {
            match number(value) {
                Some(length) if self.length.is_none_or(|earlier| earlier == length) => {
                    self.length = Some(length);
                }
                Some(_) => return refused("a second Content-Length that differs"),
                None => return refused("not a length"),
            }
        } else if name.eq_ignore_ascii_case(TYPE_NAME) {
            self.foreign = is_foreign(value);
        }
        Ok(())
    }
}

/// The Content-Length at the end of a line, whatever comes before it.
fn length_at_end_of(line: &[u8]) -> Option<u64> {
    let colon = memchr::memrchr(b':', line)?;
    let name = &line[colon.checked_sub(LENGTH_NAME.len())?..colon];
    let length = number(line[colon + 1..].trim_ascii())?;
    name.eq_ignore_ascii_case(LENGTH_NAME).then_some(length)
}

/// Whether a header's name may have it.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn number(text: &[u8]) -> Option<u64> {
    match text.iter().all(u8::is_ascii_digit) {
        true => str::from_utf8(text).ok()?.parse().ok(),
        false => None,
    }
}

/// Whether a Content-Type names a charset that is not UTF-8.
fn is_foreign(content_type: &[u8]) -> bool {
    content_type.split(|&b| b == b';').skip(1).any(|parameter| {
        let parameter = parameter.trim_ascii();
        let (name, value) = parameter.split_at(memchr::memchr(b'=', parameter).unwrap_or(parameter.len()));
        let value: Vec<u8> = value.iter().copied().filter(|b| !b"= \"".contains(b)).collect();
        name.trim_ascii().eq_ignore_ascii_case(b"charset")
            && !value.eq_ignore_ascii_case(b"utf-8")
            // What the protocol's first version said, and its libraries still do.
            && !value.eq_ignore_ascii_case(b"utf8")
    })
}

/// Puts a header before the message that is the end of `out` from `start` on.
pub(crate) fn put_header(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    let header = format!("Content-Length: {length}\r\n\r\n");
    out.extend_from_slice(header.as_bytes());
    out.copy_within(start..start + length, start + header.len());
    out[start..start + header.len()].copy_from_slice(header.as_bytes());
}

#[cfg(test)]
mod tests;
