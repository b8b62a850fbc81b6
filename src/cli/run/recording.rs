//! A recording of what `procwire run` showed: an asciicast of version 2, as `asciinema play` takes it.
//!
//! **Thread:** main, which prints the program's output.
//! **Owns:** the file, and the bytes of a character that has not come whole.
//! **Never:** contains what was typed, but for what the program or its terminal echoed; and never holds
//! anything back: a run that is killed leaves all that was shown.
//!
//! The format: <https://docs.asciinema.org/manual/asciicast/v2/>.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// The header, which is the first line of the file.
#[derive(Serialize)]
struct Header<'a> {
    version: u8,
    width: u16,
    height: u16,
    timestamp: u64,
    command: &'a str,
    env: Environment<'a>,
}

#[derive(Serialize)]
struct Environment<'a> {
    #[serde(rename = "TERM", skip_serializing_if = "Option::is_none")]
    term: Option<&'a str>,
}

/// A file that is being recorded to.
#[derive(Debug)]
pub struct Recording {
    file: File,
    begin: Instant,
    /// Rows and columns.
    size: (u16, u16),
    /// The program has a terminal, which has put a carriage return before every line feed.
    tty: bool,
    /// What has come of a character, for each stream.
    unfinished: [Vec<u8>; 2],
    /// Why nothing more is recorded.
    failure: Option<io::Error>,
}

/// Which of the program's streams it has written to.
#[derive(Debug, Clone, Copy)]
pub enum Shown {
    Stdout,
    Stderr,
}

impl Recording {
    /// Creates the file, or truncates it, and writes the header. `size` is in rows and columns.
    pub fn create(path: &Path, command: &[String], size: (u16, u16), tty: bool) -> io::Result<Recording> {
        let mut recording = Recording {
            file: File::create(path)?,
            begin: Instant::now(),
            size,
            tty,
            unfinished: [Vec::new(), Vec::new()],
            failure: None,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let term = std::env::var("TERM").ok();
        recording.line(&Header {
            version: 2,
            width: size.1,
            height: size.0,
            timestamp: now.as_secs(),
            command: &command.join(" "),
            env: Environment {
                term: term.as_deref(),
            },
        })?;
        // The program starts from here.
        recording.begin = Instant::now();
        Ok(recording)
    }

    /// Records a change of the terminal's size, in rows and columns, if it is one.
    pub fn resized(&mut self, size: (u16, u16)) {
        if size != self.size {
            self.size = size;
            self.event('r', &format!("{}x{}", size.1, size.0));
        }
    }

    /// Records output as it is shown.
    pub fn output(&mut self, stream: Shown, bytes: &[u8]) {
        let mut bytes = [&std::mem::take(&mut self.unfinished[stream as usize]), bytes].concat();
        let whole = bytes.len() - unfinished(&bytes);
        self.unfinished[stream as usize] = bytes.split_off(whole);
        self.text(&bytes);
    }

    /// Records what is left at the end; an error is the first that was met while recording.
    pub fn finish(mut self) -> io::Result<()> {
        for bytes in std::mem::take(&mut self.unfinished) {
            self.text(&bytes);
        }
        self.failure.map_or(Ok(()), Err)
    }

    fn text(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(bytes);
        match self.tty {
            true => self.event('o', &text),
            // A terminal that had shown it would have gone to the beginning of the line.
            false => self.event('o', &text.replace("\r\n", "\n").replace('\n', "\r\n")),
        }
    }

    fn event(&mut self, code: char, data: &str) {
        if self.failure.is_none() {
            // Microseconds are as exact as players are.
            let time = self.begin.elapsed().as_micros() as f64 / 1e6;
            self.failure = self.line(&(time, code, data)).err();
        }
    }

    /// Writes a line as a whole, so that the file ends with one whenever this process is killed.
    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

/// How many bytes at the end begin a character that is not complete.
fn unfinished(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    let tail = &bytes[start..];
    (1..=tail.len())
        .find(|n| {
            let part = &tail[tail.len() - n..];
            // The first byte of a character, and no more than those that belong to it.
            part[0] >= 0xc0 && std::str::from_utf8(part).is_err_and(|e| e.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_in_parts_is_held_back_until_it_is_whole() {
        for (text, held) in [
            (&b""[..], 0),
            (b"ab", 0),
            ("é".as_bytes(), 0),
            (&"é".as_bytes()[..1], 1),
            (&"a€".as_bytes()[..2], 1),
            (&"a€".as_bytes()[..3], 2),
            (&"😀".as_bytes()[..3], 3),
            ("😀".as_bytes(), 0),
            // Bytes that never become one.
            (b"a\xff", 0),
            (b"\x80\x80\x80", 0),
            (b"\xc0", 0),
        ] {
            assert_eq!(unfinished(text), held, "{text:?}");
        }
    }
}
