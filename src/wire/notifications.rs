//! What the server sends, and the wire forms of what it sends without being asked: `process/outputDelta`
//! and `process/exited`.
//!
//! **Thread:** `rpc-write` and `client-read` use the forms; what they hold comes from any.
//! **Owns:** how collected output is told as text, and what memory that takes.
//! **Never:** has a second form of a message: what the server writes is what a client reads.

use std::borrow::Cow;
use std::io::Write as _;
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
    /// Bytes were dropped after these because of the cap; this is the stream's last delta.
    pub cap_reached: bool,
    /// The stream's byte position of the first byte.
    pub offset: u64,
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
    /// The name of the signal that ended it.
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
    /// Bytes were dropped after these because of the cap; this is the stream's last delta.
    #[serde(default)]
    cap_reached: bool,
    /// The stream's byte position of the first byte.
    #[serde(default)]
    offset: u64,
}

impl From<OutputDeltaForm<'_>> for OutputDelta {
    fn from(form: OutputDeltaForm<'_>) -> Self {
        OutputDelta {
            process_handle: form.process_handle.into(),
            stream: form.stream,
            bytes: form.delta_base64.unwrap_or_default(),
            cap_reached: form.cap_reached,
            offset: form.offset,
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
        "\",\"capReached\":{},\"offset\":{}}}",
        delta.cap_reached, delta.offset
    );
}

/// The last word on a handle: how its process ended.
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
    /// Something kept an output open after the exit, and waiting for it was given up.
    #[serde(default)]
    output_drain_timed_out: bool,
    /// The process id it had.
    #[serde(default)]
    pid: u32,
    /// The name of the signal that ended it, or null.
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
        let (stdout, stdout_base64) = text(&e.stdout);
        let (stderr, stderr_base64) = text(&e.stderr);
        ExitedForm {
            process_handle: Cow::Borrowed(&e.process_handle),
            exit_code: e.exit_code,
            stdout,
            stdout_cap_reached: e.stdout.cap_reached,
            stderr,
            stderr_cap_reached: e.stderr.cap_reached,
            stdout_base64,
            stderr_base64,
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
        let collected = |text: Cow<'_, str>, exact: Option<Base64<'_>>, cap_reached| Collected {
            bytes: match exact {
                Some(Base64(bytes)) => bytes.into_owned(),
                None => text.into_owned().into_bytes(),
            },
            cap_reached,
        };
        Exited {
            process_handle: form.process_handle.into(),
            exit_code: form.exit_code,
            stdout: collected(form.stdout, form.stdout_base64, form.stdout_cap_reached),
            stderr: collected(form.stderr, form.stderr_base64, form.stderr_cap_reached),
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

/// Collected bytes as text, and in base64 as well where the text cannot say them all.
fn text(collected: &Collected) -> (Cow<'_, str>, Option<Base64<'_>>) {
    let bytes = collected.bytes.as_slice();
    // A cap that would split a character cuts before it: what is left of it is no fault of the program.
    let whole = match collected.cap_reached {
        true => &bytes[..bytes.len() - split_character(bytes)],
        false => bytes,
    };
    match str::from_utf8(whole) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(_) => (String::from_utf8_lossy(whole), Some(Base64(Cow::Borrowed(bytes)))),
    }
}

/// Makes room for a message with much output, because growing takes more than what is needed in the end.
pub(crate) fn reserve_for_exited(out: &mut Vec<u8>, exited: &Exited) {
    for collected in [&exited.stdout, &exited.stderr] {
        if collected.bytes.len() > LARGE {
            out.reserve_exact(encoded_length(&collected.bytes));
        }
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
            };
            let whole = str::from_utf8(&bytes[..end]).is_ok();
            let capped = collected(true);
            let (cut, base64) = text(&capped);
            assert!("añ€𝄞".starts_with(&*cut), "{cut:?} at {end}");
            assert_eq!(base64, None);
            let uncapped = collected(false);
            let (kept, base64) = text(&uncapped);
            assert_eq!(kept.contains('\u{fffd}'), !whole);
            assert_eq!(base64.is_some(), !whole);
        }
    }
}
