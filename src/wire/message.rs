//! The envelope: JSON to a typed message, and a typed message to JSON.
//!
//! **Thread:** `rpc-read` parses, `rpc-write` encodes; in the Rust client, the thread that sends a request
//! encodes it, and `client-read` parses.
//! **Owns:** the knowledge of JSON-RPC, JSON and base64, which the server has here and in `quick.rs` only.
//! **Never:** reads, writes or waits; and never fails on what a client sends: a line that is not a
//! request becomes [`ClientMessage::Invalid`], which says why.
//!
//! Params are parsed by borrowing from the line, and `deltaBase64` is decoded from it directly.
//! Deltas are framed by hand, because that is ten times as fast as a serializer and they are nearly
//! all bytes there are; everything else goes through serde.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::wire::protocol::{
    Collected, Exited, OutputDelta, ProcessInfo, Reply, Request, RequestId, RpcError, ServerMessage,
    SpawnFailure, Stream, Usage, code, notification, shortened,
};
use crate::wire::quick;

/// Above so many collected bytes, the memory for their message is asked for before it is written.
pub(crate) const LARGE: usize = 256 * 1024;
/// More than all the rest of such a message takes, its handle included.
const BESIDE_OUTPUT: usize = 64 * 1024;
pub(crate) const WRITE_STDIN: &str = "process/writeStdin";

/// A line of the client, understood.
#[derive(Debug, PartialEq)]
pub(crate) enum ClientMessage {
    Request {
        id: RequestId,
        request: Request,
    },
    /// Nothing to do and nothing to answer.
    Notification,
    /// To be answered with this error.
    Invalid {
        id: Option<RequestId>,
        error: RpcError,
    },
}

/// What `parse` makes of a line.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) message: ClientMessage,
    /// Whether the message carried `"jsonrpc":"2.0"`; `None` where the line was no JSON object.
    pub(crate) jsonrpc: Option<bool>,
}

#[derive(serde::Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// Keeps a `null` apart from a member that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Understands one line, without its end.
pub(crate) fn parse(line: &[u8]) -> Parsed {
    quick::parse(line).unwrap_or_else(|| parse_any(line))
}

/// The long way: every line there can be.
pub(crate) fn parse_any(line: &[u8]) -> Parsed {
    let text = match str::from_utf8(line) {
        Ok(text) => text,
        Err(e) => {
            let error = RpcError::new(
                code::PARSE_ERROR,
                format!(
                    "the message is not UTF-8: invalid byte at position {}",
                    e.valid_up_to()
                ),
            );
            return Parsed {
                message: ClientMessage::Invalid { id: None, error },
                jsonrpc: None,
            };
        }
    };
    let (jsonrpc, result) = match envelope(text) {
        Ok(envelope) => (Some(is_2_0(envelope.jsonrpc)), message(&envelope)),
        // What cannot be read says nothing about what is to come.
        Err(error) if error.code == code::PARSE_ERROR => (None, Err((None, error))),
        Err(error) => match head(text) {
            Some(head) => {
                let id = head.id.and_then(|id| request_id(id.get()));
                (Some(is_2_0(head.jsonrpc)), Err((id, error)))
            }
            None => (None, Err((None, error))),
        },
    };
    Parsed {
        message: result.unwrap_or_else(|(id, error)| ClientMessage::Invalid { id, error }),
        jsonrpc,
    }
}

fn is_2_0(jsonrpc: Option<&RawValue>) -> bool {
    jsonrpc.is_some_and(|v| {
        v.get() == "\"2.0\"" || serde_json::from_str(v.get()).is_ok_and(|v: Cow<'_, str>| v == "2.0")
    })
}

/// The only version there is, or none.
fn is_no_version(jsonrpc: Option<&RawValue>) -> bool {
    jsonrpc.is_some() && !is_2_0(jsonrpc)
}

fn envelope(text: &str) -> Result<Envelope<'_>, RpcError> {
    // A derived struct would take an array for its members in order; only an object is a message.
    if text.trim_start().starts_with('{') {
        match serde_json::from_str(text) {
            Ok(envelope) => return Ok(envelope),
            Err(e) if e.is_data() && is_json(text) => {
                return Err(RpcError::invalid_request(format!("not a JSON-RPC request: {e}")));
            }
            Err(e) if e.is_data() => {}
            Err(e) => {
                return Err(RpcError::new(
                    code::PARSE_ERROR,
                    format!("the message is not JSON: {e}"),
                ));
            }
        }
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Err(e) => Err(RpcError::new(
            code::PARSE_ERROR,
            format!("the message is not JSON: {e}"),
        )),
        Ok(_) if text.trim_start().starts_with('[') => Err(RpcError::invalid_request(
            "batches are not supported: send each request as a message of its own",
        )),
        Ok(_) => Err(RpcError::invalid_request("a request must be a JSON object")),
    }
}

/// What can still be read of a message with a member that is there twice, unless it is one of these.
#[derive(serde::Deserialize)]
struct Head<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
}

fn head(text: &str) -> Option<Head<'_>> {
    let is_object = text.trim_start().starts_with('{');
    is_object.then(|| serde_json::from_str(text).ok()).flatten()
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

type Refusal = (Option<RequestId>, RpcError);

fn message(envelope: &Envelope<'_>) -> Result<ClientMessage, Refusal> {
    let id = match envelope.id {
        None => None,
        Some(raw) => match request_id(raw.get()) {
            Some(id) => Some(id),
            None => {
                return Err((
                    None,
                    RpcError::invalid_request("id must be a string or an integer of 64 bits"),
                ));
            }
        },
    };
    if is_no_version(envelope.jsonrpc) {
        let error = RpcError::invalid_request("jsonrpc must be \"2.0\", or left out");
        return Err((id, error));
    }
    let Some(method) = envelope.method else {
        let error = if envelope.result.is_some() || envelope.error.is_some() {
            "a response, but this server sends no requests"
        } else {
            "the message has no method"
        };
        return Err((id, RpcError::invalid_request(error)));
    };
    let Ok(method) = serde_json::from_str::<Cow<'_, str>>(method.get()) else {
        return Err((id, RpcError::invalid_request("method must be a string")));
    };
    let Some(id) = id else {
        // No method of ours is a notification that asks for anything: `initialized` is accepted and
        // ignored, unknown ones are ignored, and a request without an id asks for no answer.
        if method != "initialized" {
            log::debug!("ignored the notification {method:?}");
        }
        return Ok(ClientMessage::Notification);
    };
    match request(&method, envelope.params.map(RawValue::get)) {
        Ok(request) => Ok(ClientMessage::Request { id, request }),
        Err(error) => Err((Some(id), error)),
    }
}

pub(crate) fn request_id(text: &str) -> Option<RequestId> {
    if text.starts_with('"') {
        return serde_json::from_str(text).ok().map(RequestId::Text);
    }
    if let Ok(n) = serde_json::from_str(text) {
        return Some(RequestId::Signed(n));
    }
    serde_json::from_str(text).ok().map(RequestId::Unsigned)
}

/// The request of a method with these params, which are one value of JSON.
pub(crate) fn request(method: &str, raw: Option<&str>) -> Result<Request, RpcError> {
    Ok(match method {
        WRITE_STDIN => Request::WriteStdin(params(method, raw)?),
        "process/spawn" => Request::Spawn(params(method, raw)?),
        "process/kill" => Request::Kill(params(method, raw)?),
        "process/resizePty" => Request::ResizePty(params(method, raw)?),
        "process/list" => {
            params::<NoParams>(method, raw)?;
            Request::List
        }
        "process/inspect" => Request::Inspect(params(method, raw)?),
        "initialize" => Request::Initialize(params(method, raw)?),
        _ => {
            return Err(RpcError::new(
                code::METHOD_NOT_FOUND,
                format!("unknown method {:?}", shortened(method)),
            ));
        }
    })
}

/// Params of a method that has none.
#[derive(serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct NoParams {}

fn params<'a, T: Deserialize<'a>>(method: &str, raw: Option<&'a str>) -> Result<T, RpcError> {
    let text = raw.unwrap_or("{}");
    if !text.starts_with('{') {
        return Err(RpcError::invalid_params(format!(
            "{method}: params must be an object"
        )));
    }
    serde_json::from_str(text).map_err(|_| {
        // Only a request that failed pays for finding out which member it was.
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let error = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
            Ok(_) => return RpcError::invalid_params(format!("{method}: malformed params")),
            Err(error) => error,
        };
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let reason = short_reason(reason.split(" at line ").next().unwrap_or_default());
        let path = shortened(&path);
        RpcError::invalid_params(match &*path {
            "." => format!("{method}: {reason}"),
            _ => format!("{method}: {path}: {reason}"),
        })
    })
}

/// A reason quotes what was sent, and then says what was expected, which is kept.
fn short_reason(reason: &str) -> String {
    match reason.rsplit_once(", expected ") {
        Some((quoted, expected)) => format!("{}, expected {}", shortened(quoted), shortened(expected)),
        None => shortened(reason).into_owned(),
    }
}

/// Refuses an array where an object is meant; a derived `Deserialize` would take its elements in order.
pub(crate) fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct ObjectVisitor<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for ObjectVisitor<T> {
        type Value = T;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(serde::de::value::MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(ObjectVisitor(std::marker::PhantomData))
}

/// [`object`] for a member that may be null or left out.
pub(crate) fn optional_object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(serde::Deserialize)]
    #[serde(bound = "T: Deserialize<'de>")]
    struct Wrapper<T>(#[serde(deserialize_with = "object")] T);
    Ok(Option::<Wrapper<T>>::deserialize(deserializer)?.map(|w| w.0))
}

/// Bytes as base64, for a member that may be left out.
pub(crate) mod optional_base64 {
    use super::{Deserializer, Serializer};
    use std::fmt;

    /// Decodes straight from the line, with no string in between.
    struct Bytes(Vec<u8>);

    impl<'de> serde::Deserialize<'de> for Bytes {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Base64Visitor;
            impl serde::de::Visitor<'_> for Base64Visitor {
                type Value = Bytes;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a string of base64")
                }
                fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                    base64_simd::STANDARD.decode_to_vec(text).map(Bytes).map_err(|_| {
                        E::custom(
                            "invalid base64: the standard alphabet with padding and no white space is wanted",
                        )
                    })
                }
            }
            deserializer.deserialize_str(Base64Visitor)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        use serde::Deserialize;
        Ok(Option::<Bytes>::deserialize(deserializer)?.map(|b| b.0))
    }

    pub(crate) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_str(&base64_simd::STANDARD.encode_to_string(bytes)),
            None => serializer.serialize_none(),
        }
    }
}

// ---- the way out ----

/// Appends `message` as a line. With `jsonrpc` it carries `"jsonrpc":"2.0"`.
pub(crate) fn encode(out: &mut Vec<u8>, message: &ServerMessage, jsonrpc: bool) {
    out.extend_from_slice(if jsonrpc { b"{\"jsonrpc\":\"2.0\"," } else { b"{" });
    match message {
        ServerMessage::Response { id, outcome } => {
            member(out, "id", id);
            out.push(b',');
            match outcome {
                Ok(reply) => member(out, "result", &ReplyForm(reply)),
                Err(error) => member(out, "error", &ErrorForm::from(error)),
            }
        }
        ServerMessage::OutputDelta(delta) => encode_delta(out, delta),
        ServerMessage::Exited(exited) => {
            // At once where it is much, because growing takes more than what is needed in the end.
            for collected in [&exited.stdout, &exited.stderr] {
                if collected.bytes.len() > LARGE {
                    out.reserve_exact(encoded_length(&collected.bytes));
                }
            }
            member(out, "method", &notification::EXITED);
            out.push(b',');
            member(out, "params", &ExitedForm::from(&**exited));
        }
    }
    out.extend_from_slice(b"}\n");
}

fn encode_delta(out: &mut Vec<u8>, delta: &OutputDelta) {
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

fn member<T: Serialize + ?Sized>(out: &mut Vec<u8>, name: &str, value: &T) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    // A Vec takes everything, and none of our forms has a map whose keys are no strings.
    if let Err(e) = serde_json::to_writer(&mut *out, value) {
        unreachable!("a message of ours that is no JSON: {e}");
    }
}

struct ReplyForm<'a>(&'a Reply);

impl Serialize for ReplyForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Reply::Initialize(reply) => reply.serialize(serializer),
            Reply::Spawn { pid } => SpawnReply { pid: *pid }.serialize(serializer),
            Reply::Done => Done {}.serialize(serializer),
            Reply::List(processes) => ListReply { processes }.serialize(serializer),
            Reply::Inspect(inspection) => inspection.serialize(serializer),
        }
    }
}

/// The answer to `process/spawn`: the program runs.
#[derive(serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct SpawnReply {
    /// Its process id in the server's pid namespace.
    pid: u32,
}

/// The answer to `process/list`.
#[derive(serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct ListReply<'a> {
    /// The live processes, oldest first.
    processes: &'a [ProcessInfo],
}

/// Done, and nothing to tell.
#[derive(serde::Serialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("maxProperties" = 0))
)]
pub(crate) struct Done {}

/// An error. One that comes of starting a program has data.
#[derive(serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Error"))]
pub(crate) struct ErrorForm<'a> {
    /// What kind of error it is, for programs.
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::ErrorCode"))]
    code: i64,
    /// One sentence for people, naming what was wrong.
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "SpawnFailure"))]
    data: Option<&'a SpawnFailure>,
}

impl<'a> From<&'a RpcError> for ErrorForm<'a> {
    fn from(error: &'a RpcError) -> Self {
        ErrorForm {
            code: error.code,
            message: &error.message,
            data: error.data.as_ref(),
        }
    }
}

/// The last word on a handle: how its process ended.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Exited"))]
pub(crate) struct ExitedForm<'a> {
    /// Which process.
    process_handle: &'a str,
    /// The exit code; 128 + n for death by signal n; 124 on timeout.
    exit_code: i32,
    /// What was collected of stdout, as text; empty when streamed.
    stdout: Cow<'a, str>,
    /// Bytes of stdout were dropped because of the cap.
    stdout_cap_reached: bool,
    /// What was collected of stderr, as text; empty when streamed.
    stderr: Cow<'a, str>,
    /// Bytes of stderr were dropped because of the cap.
    stderr_cap_reached: bool,
    /// The exact bytes of stdout, only where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::Base64"))]
    stdout_base64: Option<String>,
    /// The exact bytes of stderr, only where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::Base64"))]
    stderr_base64: Option<String>,
    /// Something kept an output open after the exit, and waiting for it was given up.
    output_drain_timed_out: bool,
    /// The process id it had.
    pid: u32,
    /// The name of the signal that ended it, or null.
    signal: Option<&'a str>,
    /// Whether it left a core dump.
    core_dumped: bool,
    /// Whether it was killed because its time was up.
    timed_out: bool,
    /// From start to exit, in milliseconds.
    duration_ms: u64,
    /// What it used, with those of its children that it waited for.
    usage: UsageForm,
    /// Bytes it wrote to stdout, those beyond the cap included.
    stdout_bytes: u64,
    /// Bytes it wrote to stderr, those beyond the cap included.
    stderr_bytes: u64,
}

/// Processor time and memory.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Usage"))]
struct UsageForm {
    /// Milliseconds of processor time in user mode.
    user_ms: u64,
    /// Milliseconds of processor time in the kernel.
    system_ms: u64,
    /// The largest resident set, in bytes.
    max_rss_bytes: u64,
}

impl<'a> From<&'a Exited> for ExitedForm<'a> {
    fn from(e: &'a Exited) -> Self {
        let (stdout, stdout_base64) = text(&e.stdout);
        let (stderr, stderr_base64) = text(&e.stderr);
        ExitedForm {
            process_handle: &e.process_handle,
            exit_code: e.exit_code,
            stdout,
            stdout_cap_reached: e.stdout.cap_reached,
            stderr,
            stderr_cap_reached: e.stderr.cap_reached,
            stdout_base64,
            stderr_base64,
            output_drain_timed_out: e.output_drain_timed_out,
            pid: e.pid,
            signal: e.signal.as_deref(),
            core_dumped: e.core_dumped,
            timed_out: e.timed_out,
            duration_ms: milliseconds(e.duration),
            usage: UsageForm {
                user_ms: milliseconds(e.usage.user),
                system_ms: milliseconds(e.usage.system),
                max_rss_bytes: e.usage.max_rss_bytes,
            },
            stdout_bytes: e.stdout_bytes,
            stderr_bytes: e.stderr_bytes,
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Collected bytes as text, and in base64 as well where the text cannot say them all.
fn text(collected: &Collected) -> (Cow<'_, str>, Option<String>) {
    let bytes = collected.bytes.as_slice();
    // A cap that would split a character cuts before it: what is left of it is no fault of the program.
    let whole = match collected.cap_reached {
        true => &bytes[..bytes.len() - split_character(bytes)],
        false => bytes,
    };
    match str::from_utf8(whole) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(_) => (
            String::from_utf8_lossy(whole),
            Some(base64_simd::STANDARD.encode_to_string(bytes)),
        ),
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

// ---- the client's side ----

/// The method of a request.
pub(crate) fn method(request: &Request) -> &'static str {
    match request {
        Request::Initialize(_) => "initialize",
        Request::Spawn(_) => "process/spawn",
        Request::WriteStdin(_) => WRITE_STDIN,
        Request::ResizePty(_) => "process/resizePty",
        Request::Kill(_) => "process/kill",
        Request::List => "process/list",
        Request::Inspect(_) => "process/inspect",
    }
}

/// Appends a request as a line.
pub(crate) fn encode_request(out: &mut Vec<u8>, id: &RequestId, request: &Request) {
    out.push(b'{');
    member(out, "id", id);
    out.push(b',');
    member(out, "method", method(request));
    out.push(b',');
    match request {
        Request::Initialize(params) => member(out, "params", params),
        Request::Spawn(params) => member(out, "params", params),
        Request::WriteStdin(params) => member(out, "params", params),
        Request::ResizePty(params) => member(out, "params", params),
        Request::Kill(params) => member(out, "params", params),
        Request::List => member(out, "params", &NoParams {}),
        Request::Inspect(params) => member(out, "params", params),
    }
    out.extend_from_slice(b"}\n");
}

/// Appends the notification that ends a handshake as a line. A server of ours ignores it.
pub(crate) fn encode_initialized(out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"method\":\"initialized\"}\n");
}

/// The params of `process/exited` as JSON.
pub(crate) fn exited_json(exited: &Exited) -> String {
    json(&ExitedForm::from(exited))
}

/// An error as JSON.
pub(crate) fn error_json(error: &RpcError) -> String {
    json(&ErrorForm::from(error))
}

fn json(value: &impl Serialize) -> String {
    // As in `member`: our forms have no map whose keys are no strings.
    serde_json::to_string(value).unwrap_or_else(|e| unreachable!("a form of ours that is no JSON: {e}"))
}

#[derive(serde::Deserialize)]
struct ServerEnvelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// A line of a server, understood as far as that goes without knowing what was asked.
#[derive(Debug)]
pub(crate) enum FromServer<'a> {
    /// An answer. What its result means depends on the method of the request, which its id tells.
    Answer {
        /// `None` where the server could not read one.
        id: Option<RequestId>,
        outcome: Result<&'a RawValue, RpcError>,
    },
    OutputDelta(OutputDelta),
    Exited(Box<Exited>),
    /// A notification that this client does not know.
    Notification,
    /// A request. This client serves none.
    Request(Cow<'a, str>),
}

/// Understands one line of a server, without its end. Members that are not known are passed over, and
/// those of our own that a server of the same protocol may not have are zero. An error says why the
/// line is not a message at all.
pub(crate) fn parse_server(line: &[u8]) -> Result<FromServer<'_>, String> {
    let envelope: ServerEnvelope<'_> = from_slice(line)?;
    let id = envelope.id.map(RawValue::get).filter(|id| *id != "null");
    let params = envelope.params.map_or("{}", RawValue::get);
    match envelope.method {
        Some(method) if id.is_some() => Ok(FromServer::Request(method)),
        Some(method) => match &*method {
            notification::OUTPUT_DELTA => {
                let delta: DeltaMembers<'_> = from_slice(params.as_bytes())?;
                Ok(FromServer::OutputDelta(delta.into()))
            }
            notification::EXITED => {
                let exited: ExitedMembers = from_slice(params.as_bytes())?;
                Ok(FromServer::Exited(Box::new(exited.into())))
            }
            _ => Ok(FromServer::Notification),
        },
        None => {
            let id = match id {
                None => None,
                Some(id) => Some(request_id(id).ok_or("an answer to an id that is not one")?),
            };
            let outcome = match (envelope.result, envelope.error) {
                (Some(result), None) => Ok(result),
                (None, Some(error)) => Err(from_slice::<ErrorMembers<'_>>(error.get().as_bytes())?.into()),
                _ => return Err("neither a notification nor an answer".to_owned()),
            };
            Ok(FromServer::Answer { id, outcome })
        }
    }
}

fn from_slice<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|e| e.to_string())
}

#[derive(serde::Deserialize)]
struct ErrorMembers<'a> {
    code: i64,
    message: String,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl From<ErrorMembers<'_>> for RpcError {
    fn from(members: ErrorMembers<'_>) -> Self {
        RpcError {
            code: members.code,
            message: members.message,
            // Data of another kind than ours says nothing to us.
            data: members
                .data
                .and_then(|data| serde_json::from_str(data.get()).ok()),
        }
    }
}

/// The next bytes of a stream.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "OutputDelta")
)]
pub(crate) struct DeltaMembers<'a> {
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

impl From<DeltaMembers<'_>> for OutputDelta {
    fn from(members: DeltaMembers<'_>) -> Self {
        OutputDelta {
            process_handle: members.process_handle.into(),
            stream: members.stream,
            bytes: members.delta_base64.unwrap_or_default(),
            cap_reached: members.cap_reached,
            offset: members.offset,
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExitedMembers {
    process_handle: String,
    exit_code: i32,
    #[serde(default)]
    stdout: String,
    #[serde(default)]
    stdout_cap_reached: bool,
    #[serde(default, with = "optional_base64")]
    stdout_base64: Option<Vec<u8>>,
    #[serde(default)]
    stderr: String,
    #[serde(default)]
    stderr_cap_reached: bool,
    #[serde(default, with = "optional_base64")]
    stderr_base64: Option<Vec<u8>>,
    #[serde(default)]
    output_drain_timed_out: bool,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    signal: Option<String>,
    #[serde(default)]
    core_dumped: bool,
    #[serde(default)]
    timed_out: bool,
    #[serde(default)]
    duration_ms: u64,
    #[serde(default)]
    usage: UsageMembers,
    #[serde(default)]
    stdout_bytes: u64,
    #[serde(default)]
    stderr_bytes: u64,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UsageMembers {
    user_ms: u64,
    system_ms: u64,
    max_rss_bytes: u64,
}

impl From<ExitedMembers> for Exited {
    fn from(members: ExitedMembers) -> Self {
        let collected = |text: String, exact: Option<Vec<u8>>, cap_reached| Collected {
            bytes: exact.unwrap_or_else(|| text.into_bytes()),
            cap_reached,
        };
        Exited {
            process_handle: members.process_handle.into(),
            exit_code: members.exit_code,
            stdout: collected(members.stdout, members.stdout_base64, members.stdout_cap_reached),
            stderr: collected(members.stderr, members.stderr_base64, members.stderr_cap_reached),
            output_drain_timed_out: members.output_drain_timed_out,
            pid: members.pid,
            signal: members.signal,
            core_dumped: members.core_dumped,
            timed_out: members.timed_out,
            duration: Duration::from_millis(members.duration_ms),
            usage: Usage {
                user: Duration::from_millis(members.usage.user_ms),
                system: Duration::from_millis(members.usage.system_ms),
                max_rss_bytes: members.usage.max_rss_bytes,
            },
            stdout_bytes: members.stdout_bytes,
            stderr_bytes: members.stderr_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protocol::{
        Capabilities, ClientInfo, Guarantees, InitializeParams, InitializeReply, KillParams, Limit, Limits,
        PtySize, ResizePtyParams, ServerInfo, SignalName, SpawnParams, Stage, WriteStdinParams,
    };

    #[test]
    fn what_a_client_encodes_the_server_understands() {
        let spawn = SpawnParams {
            command: vec!["a".into(), "ü \"b\"\n".into()],
            process_handle: "h".into(),
            cwd: Some("/".into()),
            env: Some([("A".into(), Some("1".into())), ("B".into(), None)].into()),
            tty: true,
            size: Some(PtySize { rows: 3, cols: 4 }),
            terminal_modes: Some([("erase".into(), 8), ("ixon".into(), 0)].into()),
            stream_stdin: true,
            stream_stdout_stderr: true,
            output_bytes_cap: Limit::Unlimited,
            timeout_ms: Limit::Of(7),
            detach: true,
        };
        let kill = KillParams {
            process_handle: "h".into(),
            signal: Some(SignalName::Name("TERM".into())),
            grace_ms: Some(5),
        };
        let requests = [
            Request::Initialize(InitializeParams {
                client_info: ClientInfo {
                    name: "c".into(),
                    ..ClientInfo::default()
                },
                capabilities: Some(Capabilities::default()),
            }),
            Request::Spawn(spawn),
            Request::Spawn(SpawnParams::default()),
            Request::WriteStdin(WriteStdinParams {
                process_handle: "h".into(),
                delta: Some(vec![0, 255, 10]),
                close_stdin: true,
            }),
            Request::ResizePty(ResizePtyParams {
                process_handle: "h".into(),
                size: PtySize::default(),
            }),
            Request::Kill(kill),
            Request::List,
        ];
        for request in requests {
            let mut line = Vec::new();
            encode_request(&mut line, &RequestId::Signed(9), &request);
            assert_eq!(line.pop(), Some(b'\n'));
            let id = RequestId::Signed(9);
            assert_eq!(parse(&line).message, ClientMessage::Request { id, request });
        }
    }

    #[test]
    fn what_the_server_encodes_a_client_understands() {
        let answer = |outcome| ServerMessage::Response {
            id: Some(RequestId::Text("x".into())),
            outcome,
        };
        let mut exited = Exited {
            process_handle: "h".into(),
            exit_code: 137,
            stdout: Collected::default(),
            stderr: Collected::default(),
            output_drain_timed_out: true,
            pid: 42,
            signal: Some("SIGKILL".into()),
            core_dumped: true,
            timed_out: true,
            duration: Duration::from_millis(12),
            usage: Usage {
                user: Duration::from_millis(3),
                system: Duration::from_millis(4),
                max_rss_bytes: 5,
            },
            stdout_bytes: 6,
            stderr_bytes: 7,
        };
        let plain = exited.clone();
        exited.stdout.bytes = b"caf\xc3\xa9\n".to_vec();
        exited.stderr.bytes = vec![0xff, 0, b'x'];
        exited.stderr.cap_reached = true;
        let error = RpcError {
            code: code::INTERNAL_ERROR,
            message: "no".into(),
            data: Some(SpawnFailure {
                errno: 2,
                code: "ENOENT".into(),
                stage: Stage::Lookup,
                program: "p".into(),
            }),
        };
        let initialize = InitializeReply {
            user_agent: "u".into(),
            codex_home: "/c".into(),
            platform_family: "unix".into(),
            platform_os: "linux".into(),
            server_info: ServerInfo {
                name: "n".into(),
                version: "v".into(),
            },
            limits: Limits {
                max_message_bytes: 1,
                max_process_handle_bytes: 8,
                default_timeout_ms: None,
                default_output_bytes_cap: Some(2),
                free_pending_stdin_bytes: 3,
                max_pending_stdin_bytes: 4,
                output_drain_ms: 5,
                max_delta_bytes: 6,
                max_in_flight: 7,
                default_pty_size: PtySize::default(),
            },
            guarantees: Guarantees::default(),
        };
        for message in [
            answer(Ok(Reply::Spawn { pid: 7 })),
            answer(Ok(Reply::Done)),
            answer(Ok(Reply::List(Vec::new()))),
            answer(Ok(Reply::Initialize(Box::new(initialize)))),
            answer(Err(error)),
            answer(Err(RpcError::invalid_request("why"))),
            ServerMessage::Response {
                id: None,
                outcome: Err(RpcError::invalid_params("what")),
            },
            ServerMessage::OutputDelta(OutputDelta {
                process_handle: "\u{1}\"".into(),
                stream: Stream::Stderr,
                bytes: vec![0, 255],
                cap_reached: true,
                offset: u64::MAX,
            }),
            ServerMessage::Exited(Box::new(plain)),
            ServerMessage::Exited(Box::new(exited)),
        ] {
            for jsonrpc in [false, true] {
                let mut line = Vec::new();
                encode(&mut line, &message, jsonrpc);
                assert_understood(line.trim_ascii_end(), &message);
            }
        }
    }

    fn assert_understood(line: &[u8], message: &ServerMessage) {
        match (parse_server(line).expect("it is a message"), message) {
            (
                FromServer::Answer { id, outcome },
                ServerMessage::Response {
                    id: sent,
                    outcome: reply,
                },
            ) => {
                assert_eq!(&id, sent);
                match (outcome, reply) {
                    (Err(error), Err(sent)) => assert_eq!(&error, sent),
                    // What a result means is for the one who asked.
                    (Ok(result), Ok(reply)) => {
                        assert_eq!(result.get(), serde_json::to_string(&ReplyForm(reply)).unwrap());
                    }
                    (outcome, reply) => panic!("{reply:?} was taken for {outcome:?}"),
                }
            }
            (FromServer::OutputDelta(delta), ServerMessage::OutputDelta(sent)) => assert_eq!(&delta, sent),
            (FromServer::Exited(exited), ServerMessage::Exited(sent)) => assert_eq!(&exited, sent),
            (understood, message) => panic!("{message:?} was taken for {understood:?}"),
        }
    }

    #[test]
    fn a_client_passes_over_what_it_does_not_know() {
        let unknown = br#"{"method":"process/new","params":[1]}"#;
        assert!(matches!(parse_server(unknown), Ok(FromServer::Notification)));
        let request = br#"{"id":7,"method":"process/exited","params":{}}"#;
        assert!(
            matches!(parse_server(request), Ok(FromServer::Request(method)) if method == "process/exited")
        );
        let minimal =
            br#"{"method":"process/exited","params":{"processHandle":"h","exitCode":1,"stdout":"","more":{}}}"#;
        let Ok(FromServer::Exited(exited)) = parse_server(minimal) else {
            panic!("an exit with the least members is one");
        };
        assert_eq!((exited.exit_code, exited.pid), (1, 0));
        for bad in ["Welcome!", "[]", "{}", r#"{"id":1}"#, r#"{"id":{},"result":{}}"#] {
            assert!(parse_server(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    fn invalid(line: &[u8]) -> (Option<RequestId>, i64, String) {
        match parse(line).message {
            ClientMessage::Invalid { id, error } => (id, error.code, error.message),
            other => panic!("{:?} was taken for {other:?}", String::from_utf8_lossy(line)),
        }
    }

    #[test]
    fn ids_come_back_as_they_were_sent() {
        for id in [
            "0",
            "-1",
            "9007199254740993",
            "18446744073709551615",
            "-9223372036854775808",
            "\"a b\"",
            "\"\"",
        ] {
            let line = format!(r#"{{"id":{id},"method":"process/list"}}"#);
            let ClientMessage::Request { id: parsed, .. } = parse(line.as_bytes()).message else {
                panic!("{line} is a request");
            };
            assert_eq!(serde_json::to_string(&parsed).unwrap(), id);
        }
        for id in ["null", "1.0", "1e3", "{}", "[1]", "true", "18446744073709551616"] {
            let line = format!(r#"{{"id":{id},"method":"process/list"}}"#);
            let (id, code, message) = invalid(line.as_bytes());
            assert_eq!((id, code), (None, code::INVALID_REQUEST));
            assert!(message.contains("id"));
        }
    }

    #[test]
    fn what_is_no_request_says_why() {
        for (line, expected) in [
            (&b"nonsense"[..], code::PARSE_ERROR),
            (b"{\"id\":1", code::PARSE_ERROR),
            (b"{\"id\":1} x", code::PARSE_ERROR),
            (b"\xef\xbb\xbf{}", code::PARSE_ERROR),
            (b"{\"id\":\"\xff\"}", code::PARSE_ERROR),
            (b"12", code::INVALID_REQUEST),
            (b"\"x\"", code::INVALID_REQUEST),
            (b"null", code::INVALID_REQUEST),
            (b"[]", code::INVALID_REQUEST),
            (b"[\"2.0\",1,\"process/list\"]", code::INVALID_REQUEST),
            (b"{}", code::INVALID_REQUEST),
            (b"{\"id\":1,\"method\":3}", code::INVALID_REQUEST),
            (b"{\"id\":1,\"result\":{}}", code::INVALID_REQUEST),
            (
                b"{\"id\":1,\"id\":2,\"method\":\"process/list\"}",
                code::INVALID_REQUEST,
            ),
            (b"{\"id\":1,\"method\":\"no/such\"}", code::METHOD_NOT_FOUND),
            (
                b"{\"id\":1,\"method\":\"process/list\",\"params\":[]}",
                code::INVALID_PARAMS,
            ),
            (b"{\"id\":1,\"method\":\"process/spawn\"}", code::INVALID_PARAMS),
        ] {
            assert_eq!(invalid(line).1, expected, "{}", String::from_utf8_lossy(line));
        }
        assert_eq!(invalid(b"{\"id\":7,\"method\":3}").0, Some(RequestId::Signed(7)));
    }

    #[test]
    fn nesting_costs_no_stack() {
        let mut line = vec![b'['; 1_000_000];
        assert_eq!(invalid(&line).1, code::PARSE_ERROR);
        line.extend(vec![b']'; 1_000_000]);
        assert_eq!(invalid(&line).1, code::INVALID_REQUEST);
        let mut line = br#"{"id":1,"method":"process/list","params":"#.to_vec();
        line.extend(vec![b'['; 1_000_000]);
        line.extend(vec![b']'; 1_000_000]);
        line.push(b'}');
        assert_eq!(invalid(&line).1, code::INVALID_PARAMS);
    }

    #[test]
    fn params_that_do_not_fit_are_named() {
        for (params, member) in [
            (r#"{"command":["a",3],"processHandle":"h"}"#, "command[1]"),
            (
                r#"{"command":["a"],"processHandle":"h","timeoutMs":-1}"#,
                "timeoutMs",
            ),
            (
                r#"{"command":["a"],"processHandle":"h","timeoutMs":"5"}"#,
                "timeoutMs",
            ),
            (
                r#"{"command":["a"],"processHandle":"h","timeoutMs":1e30}"#,
                "timeoutMs",
            ),
            (
                r#"{"command":["a"],"processHandle":"h","size":{"rows":65536,"cols":1}}"#,
                "size.rows",
            ),
            (
                r#"{"command":["a"],"processHandle":"h","size":{"rows":1,"cols":1.5}}"#,
                "size.cols",
            ),
            (r#"{"command":["a"],"processHandle":"h","size":[1,2]}"#, "size"),
            (r#"{"command":["a"],"processHandle":"h","env":{"A":1}}"#, "env.A"),
            (r#"{"command":["a"]}"#, "processHandle"),
        ] {
            let line = format!(r#"{{"id":1,"method":"process/spawn","params":{params}}}"#);
            let (_, code, message) = invalid(line.as_bytes());
            assert_eq!(code, code::INVALID_PARAMS);
            assert!(message.contains(member), "{message:?} names {member}");
        }
    }

    #[test]
    fn base64_is_strict() {
        for bad in ["YQ", "YQ=", "-_-_", "Y Q=", "YR==", "YQ==\\n"] {
            let line = format!(
                r#"{{"id":1,"method":"process/writeStdin","params":{{"processHandle":"h","deltaBase64":"{bad}"}}}}"#
            );
            let (_, code, message) = invalid(line.as_bytes());
            assert_eq!(code, code::INVALID_PARAMS, "{bad}");
            assert!(message.contains("deltaBase64: invalid base64"), "{message}");
        }
    }

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
