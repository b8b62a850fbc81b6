//! What the server sends, and the wire forms of what it sends without being asked: `process/outputDelta`
//! and `process/exited`.
//!
//! **Thread:** `rpc-write` and `client-read` use the forms; what they hold comes from any.
//! **Owns:** how collected output is written as text, and what memory that takes.
//! **Never:** has a second form of a message: what the server writes is what a client reads.

use std::borrow::Cow;
use std::io::Write as _;
use std::slice::SliceIndex;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire::members::{Base64, milliseconds, optional_base64};
use crate::wire::message::member;
use crate::wire::protocol::{Reply, RequestId, RpcError};

/// Above so many collected bytes, the memory for their message is asked for before it is written.
pub(crate) const LARGE: usize = 256 * 1024;
/// More than all the rest of such a message takes, its handle included.
const BESIDE_OUTPUT: usize = 64 * 1024;
/// What such a message with little output takes, and usually more than that.
const USUAL_BYTES: usize = 1024;

/// What a server sends.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ServerMessage {
    /// The one answer to a request.
    Response {
        /// The request's id; `None` where none could be read.
        id: Option<RequestId>,
        /// What came of it.
        outcome: Result<Reply, RpcError>,
    },
    /// `process/outputDelta`.
    OutputDelta(OutputDelta),
    /// `process/exited`.
    Exited(Box<Exited>),
}

/// The method names of notifications, as `optOutNotificationMethods` has them.
pub mod notification {
    /// The next bytes of a stream.
    pub const OUTPUT_DELTA: &str = "process/outputDelta";
    /// The end of a process.
    pub const EXITED: &str = "process/exited";
}

/// Which output a delta belongs to. Everything a PTY prints is stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum Stream {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The name on the wire.
    ///
    /// ```
    /// # use procwire::protocol::Stream;
    /// assert_eq!(Stream::Stderr.name(), "stderr");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// `process/outputDelta`: the next bytes of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputDelta {
    /// Which process.
    pub process_handle: Arc<str>,
    /// Which stream.
    pub stream: Stream,
    /// The bytes; base64 on the wire.
    pub bytes: Vec<u8>,
    /// Bytes were dropped because of the cap, and what was kept of the stream ends with these.
    pub cap_reached: bool,
    /// The stream's byte position of the first byte.
    pub offset: u64,
    /// The stream has ended with these bytes, of which there may be none, and its process lives on.
    pub eof: bool,
}

/// `process/exited`: the last word on a handle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exited {
    /// Which process.
    pub process_handle: Arc<str>,
    /// The exit code; 128 + n for death by signal n; 124 on timeout.
    pub exit_code: i32,
    /// What was collected of stdout; empty when streamed.
    pub stdout: Collected,
    /// What was collected of stderr; empty when streamed.
    pub stderr: Collected,
    /// Something kept an output open after the exit, and waiting for it was given up.
    pub output_drain_timed_out: bool,
    /// The process id it had.
    pub pid: u32,
    /// The name of the signal that killed it.
    pub signal: Option<String>,
    /// Whether it left a core dump.
    pub core_dumped: bool,
    /// Whether it was killed because its time was up.
    pub timed_out: bool,
    /// From start to exit.
    pub duration: Duration,
    /// What it used, with those of its children that it waited for.
    pub usage: Usage,
    /// Bytes it wrote to stdout, the capped part included.
    pub stdout_bytes: u64,
    /// Bytes it wrote to stderr, the capped part included.
    pub stderr_bytes: u64,
}

impl Exited {
    /// The params of `process/exited` as one line of JSON.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let status = client.status(Command::shell("exit 3"))?;
    /// assert!(status.details().to_json().contains("\"exitCode\":3"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        crate::wire::message::json(&ExitedForm::from(self))
    }
}

/// Output that was collected instead of streamed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// The first bytes of the stream, up to the cap.
    pub bytes: Vec<u8>,
    /// Bytes were dropped because of the cap.
    pub cap_reached: bool,
    /// What was kept of its end; `None` where the spawn had no `outputKeep`.
    pub tail: Option<CollectedTail>,
}

/// What was kept of the end of a stream, and what is missing before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectedTail {
    /// The last bytes of the stream. Where nothing was dropped there are none: all is in
    /// [`Collected::bytes`].
    pub bytes: Vec<u8>,
    /// How many bytes are missing between the two.
    pub omitted_bytes: u64,
}

/// Processor time and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Usage {
    /// Milliseconds of processor time in user mode.
    #[serde(rename = "userMs", with = "milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    pub user: Duration,
    /// Milliseconds of processor time in the kernel.
    #[serde(rename = "systemMs", with = "milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    pub system: Duration,
    /// The largest resident set, in bytes.
    pub max_rss_bytes: u64,
}

// ---- the forms ----

/// The next bytes of a stream.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "OutputDelta")
)]
pub(crate) struct OutputDeltaForm<'a> {
    /// Which process.
    #[serde(borrow)]
    process_handle: Cow<'a, str>,
    /// Which stream.
    stream: Stream,
    /// The bytes, 65,536 at most. Each delta decodes alone.
    #[serde(with = "optional_base64")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::Base64"))]
    delta_base64: Option<Vec<u8>>,
    /// Bytes were dropped because of the cap, and what was kept of the stream ends with these.
    #[serde(default)]
    cap_reached: bool,
    /// The stream's byte position of the first byte.
    #[serde(default)]
    offset: u64,
    /// The stream has ended with these bytes, of which there may be none, and its process lives on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    eof: bool,
}

impl From<OutputDeltaForm<'_>> for OutputDelta {
    fn from(form: OutputDeltaForm<'_>) -> Self {
        OutputDelta {
            process_handle: form.process_handle.into(),
            stream: form.stream,
            bytes: form.delta_base64.unwrap_or_default(),
            cap_reached: form.cap_reached,
            offset: form.offset,
            eof: form.eof,
        }
    }
}

/// Appends the members of a delta.
pub(crate) fn encode_delta(out: &mut Vec<u8>, delta: &OutputDelta) {
    out.reserve(delta.bytes.len() / 3 * 4 + 256 + delta.process_handle.len());
    out.extend_from_slice(b"\"method\":\"process/outputDelta\",\"params\":{");
    member(out, "processHandle", &*delta.process_handle);
    out.extend_from_slice(b",\"stream\":\"");
    out.extend_from_slice(delta.stream.name().as_bytes());
    out.extend_from_slice(b"\",\"deltaBase64\":\"");
    base64_simd::STANDARD.encode_append(&delta.bytes, out);
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "\",\"capReached\":{},\"offset\":{}",
        delta.cap_reached, delta.offset
    );
    out.extend_from_slice(if delta.eof { b",\"eof\":true}" } else { b"}" });
}

/// The last message on a handle: how its process exited.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Exited"))]
pub(crate) struct ExitedForm<'a> {
    /// Which process.
    #[serde(borrow)]
    process_handle: Cow<'a, str>,
    /// The exit code; 128 + n for death by signal n; 124 on timeout.
    exit_code: i32,
    /// What was collected of stdout, as text; empty when streamed.
    #[serde(borrow, default)]
    stdout: Cow<'a, str>,
    /// Bytes of stdout were dropped because of the cap.
    #[serde(default)]
    stdout_cap_reached: bool,
    /// What was collected of stderr, as text; empty when streamed.
    #[serde(borrow, default)]
    stderr: Cow<'a, str>,
    /// Bytes of stderr were dropped because of the cap.
    #[serde(default)]
    stderr_cap_reached: bool,
    /// The exact bytes of stdout, only where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::Base64"))]
    stdout_base64: Option<Base64<'a>>,
    /// The exact bytes of stderr, only where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::Base64"))]
    stderr_base64: Option<Base64<'a>>,
    /// What was kept of the end of stdout, as text. This and the next are there exactly if the spawn had
    /// `outputKeep`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    stdout_tail: Option<Cow<'a, str>>,
    /// Bytes of stdout that are missing between the two; 0 where all of it is in `stdout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    stdout_omitted_bytes: Option<u64>,
    /// The exact bytes of the end of stdout, only where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::Base64"))]
    stdout_tail_base64: Option<Base64<'a>>,
    /// What was kept of the end of stderr, as text.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    stderr_tail: Option<Cow<'a, str>>,
    /// Bytes of stderr that are missing between the two; 0 where all of it is in `stderr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    stderr_omitted_bytes: Option<u64>,
    /// The exact bytes of the end of stderr, only where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::Base64"))]
    stderr_tail_base64: Option<Base64<'a>>,
    /// Something kept an output open after the exit, and waiting for it was given up.
    #[serde(default)]
    output_drain_timed_out: bool,
    /// The process id it had.
    #[serde(default)]
    pid: u32,
    /// The name of the signal that killed it, or null.
    #[serde(default)]
    signal: Option<Cow<'a, str>>,
    /// Whether it left a core dump.
    #[serde(default)]
    core_dumped: bool,
    /// Whether it was killed because its time was up.
    #[serde(default)]
    timed_out: bool,
    /// From start to exit, in milliseconds.
    #[serde(default, rename = "durationMs", with = "milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    duration: Duration,
    /// What it used, with those of its children that it waited for.
    #[serde(default)]
    usage: Usage,
    /// Bytes it wrote to stdout, those beyond the cap included.
    #[serde(default)]
    stdout_bytes: u64,
    /// Bytes it wrote to stderr, those beyond the cap included.
    #[serde(default)]
    stderr_bytes: u64,
}

impl<'a> From<&'a Exited> for ExitedForm<'a> {
    fn from(e: &'a Exited) -> Self {
        let (stdout, stderr) = (CollectedForm::from(&e.stdout), CollectedForm::from(&e.stderr));
        ExitedForm {
            process_handle: Cow::Borrowed(&e.process_handle),
            exit_code: e.exit_code,
            stdout: stdout.head,
            stdout_cap_reached: e.stdout.cap_reached,
            stderr: stderr.head,
            stderr_cap_reached: e.stderr.cap_reached,
            stdout_base64: stdout.exact_head,
            stderr_base64: stderr.exact_head,
            stdout_tail: stdout.tail,
            stdout_omitted_bytes: stdout.omitted_bytes,
            stdout_tail_base64: stdout.exact_tail,
            stderr_tail: stderr.tail,
            stderr_omitted_bytes: stderr.omitted_bytes,
            stderr_tail_base64: stderr.exact_tail,
            output_drain_timed_out: e.output_drain_timed_out,
            pid: e.pid,
            signal: e.signal.as_deref().map(Cow::Borrowed),
            core_dumped: e.core_dumped,
            timed_out: e.timed_out,
            duration: e.duration,
            usage: e.usage,
            stdout_bytes: e.stdout_bytes,
            stderr_bytes: e.stderr_bytes,
        }
    }
}

impl From<ExitedForm<'_>> for Exited {
    fn from(form: ExitedForm<'_>) -> Self {
        let stdout = CollectedForm {
            head: form.stdout,
            exact_head: form.stdout_base64,
            tail: form.stdout_tail,
            exact_tail: form.stdout_tail_base64,
            omitted_bytes: form.stdout_omitted_bytes,
        };
        let stderr = CollectedForm {
            head: form.stderr,
            exact_head: form.stderr_base64,
            tail: form.stderr_tail,
            exact_tail: form.stderr_tail_base64,
            omitted_bytes: form.stderr_omitted_bytes,
        };
        Exited {
            process_handle: form.process_handle.into(),
            exit_code: form.exit_code,
            stdout: stdout.into_collected(form.stdout_cap_reached),
            stderr: stderr.into_collected(form.stderr_cap_reached),
            output_drain_timed_out: form.output_drain_timed_out,
            pid: form.pid,
            signal: form.signal.map(Cow::into_owned),
            core_dumped: form.core_dumped,
            timed_out: form.timed_out,
            duration: form.duration,
            usage: form.usage,
            stdout_bytes: form.stdout_bytes,
            stderr_bytes: form.stderr_bytes,
        }
    }
}

/// What was collected of a stream, as text, and in base64 as well where the text cannot say it all.
struct CollectedForm<'a> {
    head: Cow<'a, str>,
    exact_head: Option<Base64<'a>>,
    tail: Option<Cow<'a, str>>,
    exact_tail: Option<Base64<'a>>,
    omitted_bytes: Option<u64>,
}

impl<'a> From<&'a Collected> for CollectedForm<'a> {
    fn from(collected: &'a Collected) -> Self {
        // A cap that would split a character cuts before it, and after it at the other end of the gap:
        // what is left of it is not the program's fault.
        let bytes = collected.bytes.as_slice();
        let cut = match collected.cap_reached {
            true => split_character(bytes),
            false => 0,
        };
        let (head, exact_head) = text(bytes, ..bytes.len() - cut);
        let mut form = CollectedForm {
            head,
            exact_head,
            tail: None,
            exact_tail: None,
            omitted_bytes: None,
        };
        if let Some(CollectedTail { bytes, omitted_bytes }) = &collected.tail {
            let rest = match omitted_bytes {
                0 => 0,
                _ => rest_of_split_character(bytes),
            };
            let (tail, exact_tail) = text(bytes, rest..);
            let missing = |exact: &Option<Base64<'_>>, bytes| if exact.is_some() { 0 } else { bytes as u64 };
            let missing = missing(&form.exact_head, cut) + missing(&exact_tail, rest);
            form.omitted_bytes = Some(omitted_bytes.saturating_add(missing));
            form.tail = Some(tail);
            form.exact_tail = exact_tail;
        }
        form
    }
}

impl CollectedForm<'_> {
    fn into_collected(self, cap_reached: bool) -> Collected {
        let bytes = |text: Cow<'_, str>, exact: Option<Base64<'_>>| match exact {
            Some(Base64(bytes)) => bytes.into_owned(),
            None => text.into_owned().into_bytes(),
        };
        Collected {
            bytes: bytes(self.head, self.exact_head),
            cap_reached,
            tail: self.tail.map(|tail| CollectedTail {
                bytes: bytes(tail, self.exact_tail),
                omitted_bytes: self.omitted_bytes.unwrap_or_default(),
            }),
        }
    }
}

/// This part of the bytes as text; if it is not UTF-8, all of them in base64 as well.
fn text(bytes: &[u8], part: impl SliceIndex<[u8], Output = [u8]>) -> (Cow<'_, str>, Option<Base64<'_>>) {
    let part = &bytes[part];
    match str::from_utf8(part) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(_) => (String::from_utf8_lossy(part), Some(Base64(Cow::Borrowed(bytes)))),
    }
}

/// Makes room for a message, because growing takes several steps, and with much output more than what is
/// needed in the end.
pub(crate) fn reserve_for_exited(out: &mut Vec<u8>, exited: &Exited) {
    let parts = [&exited.stdout, &exited.stderr]
        .into_iter()
        .flat_map(|collected| {
            let tail = collected.tail.as_ref().map(|tail| &tail.bytes);
            std::iter::once(&collected.bytes).chain(tail)
        });
    match parts.clone().any(|bytes| bytes.len() > LARGE) {
        true => out.reserve_exact(parts.map(|bytes| encoded_length(bytes)).sum()),
        false => out.reserve(USUAL_BYTES),
    }
}

/// How many bytes a message with this output takes, at most.
fn encoded_length(collected: &[u8]) -> usize {
    let in_json = |byte: &u8| match byte {
        b'\n' | b'\r' | b'\t' | b'"' | b'\\' => 2,
        0..b' ' => 6,
        b' '..0x80 => 1,
        // U+FFFD, if it is not part of a character.
        0x80.. => 3,
    };
    let text = collected.iter().map(in_json).sum::<usize>();
    let exact = match str::from_utf8(collected) {
        Ok(_) => 0,
        Err(_) => base64_simd::STANDARD.encoded_length(collected.len()),
    };
    text + exact + BESIDE_OUTPUT
}

/// How many bytes of memory it takes to write such a message, at most.
pub(crate) fn needed_to_encode(collected: &[u8]) -> usize {
    let length = encoded_length(collected);
    match str::from_utf8(collected) {
        Ok(_) => length,
        // The text with its U+FFFD, which grows by doubling, and the exact bytes as base64.
        Err(_) => length + 6 * collected.len(),
    }
}

/// How many bytes at the end of `bytes` begin a character that is not complete.
fn split_character(bytes: &[u8]) -> usize {
    (1..=3.min(bytes.len()))
        .find(|&n| match str::from_utf8(&bytes[bytes.len() - n..]) {
            Ok(_) => false,
            Err(e) => e.valid_up_to() == 0 && e.error_len().is_none(),
        })
        .unwrap_or(0)
}

/// How many bytes at the beginning of `bytes` may be the rest of a character that begins before them.
fn rest_of_split_character(bytes: &[u8]) -> usize {
    let is_rest = |byte: &&u8| matches!(byte, 0x80..=0xbf);
    match bytes.iter().take_while(is_rest).count() {
        n @ 0..=3 => n,
        // No character has so many.
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_character_is_cut_only_by_a_cap() {
        let bytes = "añ€𝄞".as_bytes();
        for end in 0..=bytes.len() {
            let collected = |cap_reached| Collected {
                bytes: bytes[..end].to_vec(),
                cap_reached,
                tail: None,
            };
            let whole = str::from_utf8(&bytes[..end]).is_ok();
            let capped = collected(true);
            let form = CollectedForm::from(&capped);
            assert!("añ€𝄞".starts_with(&*form.head), "{:?} at {end}", form.head);
            assert_eq!(form.exact_head, None);
            assert_eq!((form.tail, form.omitted_bytes), (None, None));
            let uncapped = collected(false);
            let form = CollectedForm::from(&uncapped);
            assert_eq!(form.head.contains('\u{fffd}'), !whole);
            assert_eq!(form.exact_head.is_some(), !whole);
        }
    }

    #[test]
    fn both_ends_of_a_gap_respect_characters() {
        let text = "añ€𝄞b€";
        let bytes = text.as_bytes();
        for from in 0..=bytes.len() {
            for to in from..=bytes.len() {
                let omitted_bytes = (to - from) as u64;
                let collected = Collected {
                    bytes: bytes[..from].to_vec(),
                    cap_reached: omitted_bytes > 0,
                    tail: Some(CollectedTail {
                        bytes: bytes[to..].to_vec(),
                        omitted_bytes,
                    }),
                };
                if omitted_bytes == 0 && !text.is_char_boundary(from) {
                    // All would be in the beginning.
                    continue;
                }
                let form = CollectedForm::from(&collected);
                let tail = form.tail.expect("it was kept");
                assert!(
                    text.starts_with(&*form.head) && text.ends_with(&*tail),
                    "{from} to {to}"
                );
                assert_eq!((form.exact_head, form.exact_tail), (None, None), "{from} to {to}");
                let omitted = form.omitted_bytes.expect("it is told") as usize;
                assert_eq!(form.head.len() + omitted + tail.len(), text.len());
                assert!(from - form.head.len() <= 3 && bytes.len() - to - tail.len() <= 3);
            }
        }
        // What is not text stays whole.
        let collected = Collected {
            bytes: vec![b'a', 0xe2],
            cap_reached: true,
            tail: Some(CollectedTail {
                bytes: vec![0x80, 0xff],
                omitted_bytes: 7,
            }),
        };
        let form = CollectedForm::from(&collected);
        assert_eq!((&*form.head, form.exact_head), ("a", None));
        assert_eq!(form.tail.as_deref(), Some("\u{fffd}"));
        assert_eq!(form.exact_tail, Some(Base64(Cow::Borrowed(&[0x80, 0xff]))));
        assert_eq!(form.omitted_bytes, Some(8));
    }
}
