//! The quick way to understand a request: one pass over the shape that nearly all requests have.
//!
//! **Thread:** `rpc-read`.
//! **Owns:** nothing.
//! **Never:** says that something is wrong. Whatever it does not expect, an escape in a name for
//! example, it leaves to the long way in `message.rs`, which takes every request and explains every
//! error. What it does take, the long way takes for the same request.
//!
//! A serde envelope with raw params reads those twice, byte by byte. Here a string ends where memchr
//! finds its quote, and the base64 of a write is decoded where it stands in the line.

use memchr::{memchr, memchr2};

use crate::sys::base64;
use crate::wire::message::{ClientMessage, Parsed, request_id};
use crate::wire::methods::{Method, method};
use crate::wire::protocol::{Request, WriteStdinParams};

/// The request on `line`; `None` leaves the line to the long way.
pub(crate) fn parse(line: &[u8]) -> Option<Parsed> {
    let mut scanner = Scanner { line, at: 0 };
    let (mut jsonrpc, mut id, mut method) = (None, None, None);
    let (mut params, mut write) = (None, None);
    scanner.byte(b'{')?;
    loop {
        let name = scanner.string()?;
        scanner.byte(b':')?;
        match name {
            b"jsonrpc" if jsonrpc.is_none() => jsonrpc = Some(scanner.string()?),
            b"id" if id.is_none() => id = Some(scanner.value()?),
            b"method" if method.is_none() => method = Some(scanner.string()?),
            b"params" if params.is_none() && write.is_none() => match method {
                Some(name) if name == method::WriteStdin::NAME.as_bytes() => {
                    write = Some(scanner.write_stdin()?)
                }
                _ => params = Some(scanner.value()?),
            },
            _ => return None,
        }
        if !scanner.has(b',') {
            break;
        }
    }
    scanner.byte(b'}')?;
    scanner.end()?;
    if jsonrpc.is_some_and(|version| version != b"2.0") {
        return None;
    }
    let request = match (write, params) {
        (Some(params), _) => Request::WriteStdin(params),
        (None, params) => {
            let params = params.map(str::from_utf8).transpose().ok()?;
            // An error here is found again, and told, the long way.
            Request::parse(str::from_utf8(method?).ok()?, params).ok()?
        }
    };
    Some(Parsed {
        message: ClientMessage::Request {
            id: request_id(str::from_utf8(id?).ok()?)?,
            request,
        },
        jsonrpc: Some(jsonrpc.is_some()),
    })
}

struct Scanner<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.line.get(self.at) {
            self.at += 1;
        }
    }

    /// Takes `byte`, if it comes next.
    fn has(&mut self, byte: u8) -> bool {
        self.skip_space();
        let has = self.line.get(self.at) == Some(&byte);
        self.at += usize::from(has);
        has
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        self.has(byte).then_some(())
    }

    fn end(&mut self) -> Option<()> {
        self.skip_space();
        (self.at == self.line.len()).then_some(())
    }

    /// What stands between two quotes, if nothing in it is escaped. The caller checks the bytes.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.byte(b'"')?;
        let rest = &self.line[self.at..];
        let length = memchr2(b'"', b'\\', rest)?;
        self.at += length + 1;
        (rest[length] == b'"').then(|| &rest[..length])
    }

    /// One value, whatever it is. The caller checks that it is JSON; a malformed one that is cut in
    /// the wrong place is refused by that check.
    fn value(&mut self) -> Option<&'a [u8]> {
        self.skip_space();
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(&byte) = self.line.get(self.at) {
            match byte {
                b'"' => self.skip_string()?,
                b'{' | b'[' => depth += 1,
                b'}' | b']' | b',' if depth == 0 => break,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
        let mut value = &self.line[start..self.at];
        while let [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = value {
            value = rest;
        }
        Some(value)
    }

    /// Goes from an opening quote to its closing one.
    fn skip_string(&mut self) -> Option<()> {
        loop {
            self.at += 1;
            self.at += memchr2(b'"', b'\\', self.line.get(self.at..)?)?;
            if self.line[self.at] == b'"' {
                return Some(());
            }
            // The byte after a backslash is never the end.
            self.at += 1;
        }
    }

    /// The params of a write.
    fn write_stdin(&mut self) -> Option<WriteStdinParams> {
        let (mut handle, mut delta, mut close) = (None, None, None);
        self.byte(b'{')?;
        loop {
            let name = self.string()?;
            self.byte(b':')?;
            match name {
                b"processHandle" if handle.is_none() => handle = Some(plain_text(self.string()?)?),
                b"deltaBase64" if delta.is_none() => {
                    delta = Some(self.base64()?);
                }
                b"closeStdin" if close.is_none() => {
                    close = Some(match self.value()? {
                        b"true" => true,
                        b"false" => false,
                        _ => return None,
                    });
                }
                _ => return None,
            }
            if !self.has(b',') {
                break;
            }
        }
        self.byte(b'}')?;
        Some(WriteStdinParams {
            process_handle: handle?.to_owned(),
            delta,
            close_stdin: close.unwrap_or_default(),
        })
    }

    /// The bytes of a string of base64. An escape is not in its alphabet, so only the quote is looked for.
    fn base64(&mut self) -> Option<Vec<u8>> {
        self.byte(b'"')?;
        let rest = &self.line[self.at..];
        let length = memchr(b'"', rest)?;
        self.at += length + 1;
        base64::decode(&rest[..length])
    }
}

/// Text that stands in JSON as it is.
fn plain_text(bytes: &[u8]) -> Option<&str> {
    let printable = bytes.iter().all(|&byte| byte >= b' ');
    printable.then(|| str::from_utf8(bytes).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::parse_any;

    const LINES: [&str; 13] = [
        r#"{"id":1,"method":"process/kill","params":{"processHandle":"h","signal":"INT","graceMs":5}}"#,
        r#"{"jsonrpc":"2.0","id":"a b","method":"process/list"}"#,
        r#"{"method":"process/list","id":-7,"params":{}}"#,
        r#"{"id":1,"method":"process/writeStdin","params":{"processHandle":"h","deltaBase64":"aGk="}}"#,
        r#" { "id" : 18446744073709551615 , "method" : "process/writeStdin" , "params" : { "closeStdin" : true , "processHandle" : "\u00fc" } } "#,
        r#"{"id":1,"params":{"processHandle":"h","deltaBase64":""},"method":"process/writeStdin"}"#,
        r#"{"id":1,"method":"process/writeStdin","params":{"processHandle":"h","closeStdin":false}}"#,
        r#"{"id":1,"method":"process/writeStdin","params":{"processHandle":"ü","deltaBase64":null}}"#,
        r#"{"id":1,"method":"process/spawn","params":{"command":["a","\"}]"],"processHandle":"h","env":{"A":null},"x":[{"y":1}]}}"#,
        r#"{"id":1,"method":"process/spawn","params":{"command":["a"],"processHandle":"h","stdin":"null","stdout":{"file":"/a","append":true},"stderr":"stdout","inheritEnv":["A*"],"limits":{"nice":-3},"timeoutGraceMs":1}}"#,
        r#"{"id":1,"method":"process/resizePty","params":{"processHandle":"h","size":{"rows":3,"cols":4}}}"#,
        r#"{"id":1,"method":"initialize","params":{"clientInfo":{"name":"c"}}}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"process/list"}"#,
    ];

    fn check(line: &[u8]) -> bool {
        let Some(quick) = parse(line) else { return false };
        let long = parse_any(line);
        let shown = String::from_utf8_lossy(line);
        assert_eq!(
            (quick.message, quick.jsonrpc),
            (long.message, long.jsonrpc),
            "{shown}"
        );
        true
    }

    #[test]
    fn takes_what_clients_send() {
        for line in LINES.into_iter().take(4) {
            assert!(check(line.as_bytes()), "{line}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of lines take minutes there")]
    fn agrees_with_the_long_way_wherever_a_byte_is_changed() {
        let mut taken = 0;
        for line in LINES.map(str::as_bytes) {
            for at in 0..line.len() {
                for put in [
                    &b""[..],
                    b" ",
                    b"\"",
                    b"\\",
                    b"{",
                    b"}",
                    b"[",
                    b"]",
                    b",",
                    b":",
                    b"0",
                    b"\x01",
                    // White space elsewhere, but not in JSON.
                    b"\x0c",
                    b"\xff",
                    b"null",
                ] {
                    let changed = [&line[..at], put, &line[at + 1..]].concat();
                    let longer = [&line[..at], put, &line[at..]].concat();
                    taken += usize::from(check(&changed)) + usize::from(check(&longer));
                }
            }
            for at in 0..line.len() {
                check(&line[..at]);
                check(&[line, &line[at..]].concat());
            }
        }
        assert!(taken > 1_000, "{taken} changed lines were taken");
    }
}
