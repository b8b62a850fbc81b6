//! The envelope, as the server sees it: JSON to a typed message, and a typed message to JSON.
//!
//! **Thread:** `rpc-read` parses, `rpc-write` encodes.
//! **Owns:** the knowledge of JSON-RPC, and what a request is refused with that is not one.
//! **Never:** reads, writes or waits; and never fails on what a client sends: a line that is not a
//! request becomes [`ClientMessage::Invalid`], which says why.
//!
//! Params are parsed by borrowing from the line, and `deltaBase64` is decoded from it directly.
//! Deltas are framed by hand, because that is ten times as fast as a serializer and they are nearly
//! all bytes there are; everything else goes through serde.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer};
use serde::ser::Serialize;
use serde_json::value::RawValue;

use crate::wire::notifications::{ExitedForm, encode_delta, reserve_for_exited};
use crate::wire::protocol::{Request, RequestId, RpcError, ServerMessage, code, notification, shortened};
use crate::wire::quick;

/// A line of the client, understood.
#[derive(Debug, PartialEq)]
pub enum ClientMessage {
    /// A request.
    Request {
        /// Its id.
        id: RequestId,
        /// Its method and params.
        request: Request,
    },
    /// Nothing to do and nothing to answer.
    Notification,
    /// To be answered with this error.
    Invalid {
        /// The id, where one can be read.
        id: Option<RequestId>,
        /// What is wrong.
        error: RpcError,
    },
}

/// What `parse` makes of a line.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) message: ClientMessage,
    /// Whether the message carried `"jsonrpc":"2.0"`; `None` where the line was not a JSON object.
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
        // No notification asks for anything: `initialized` is accepted and
        // ignored, unknown ones are ignored, and a request without an id asks for no answer.
        if method != "initialized" {
            log::debug!("ignored the notification {method:?}");
        }
        return Ok(ClientMessage::Notification);
    };
    match Request::parse(&method, envelope.params.map(RawValue::get)) {
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

/// The params of a method, which are one value of JSON.
pub(crate) fn params<'a, T: Deserialize<'a>>(method: &str, raw: Option<&'a str>) -> Result<T, RpcError> {
    let text = object(method, raw)?;
    serde_json::from_str(text).map_err(|_| {
        // Only a request that failed pays for finding out which member it was.
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let found = serde_path_to_error::deserialize::<_, T>(&mut deserializer);
        misfit(method, found.err())
    })
}

// What is the same for all methods is not in `params`, of which there is one for each of them.

fn object<'a>(method: &str, raw: Option<&'a str>) -> Result<&'a str, RpcError> {
    let text = raw.unwrap_or("{}");
    match text.starts_with('{') {
        true => Ok(text),
        false => Err(RpcError::invalid_params(format!(
            "{method}: params must be an object"
        ))),
    }
}

/// The refusal of params, by what was found in them.
#[cold]
#[inline(never)]
fn misfit(method: &str, found: Option<serde_path_to_error::Error<serde_json::Error>>) -> RpcError {
    let Some(error) = found else {
        return RpcError::invalid_params(format!("{method}: malformed params"));
    };
    let path = error.path().to_string();
    let reason = error.into_inner().to_string();
    let reason = short_reason(reason.split(" at line ").next().unwrap_or_default());
    let path = shortened(&path);
    RpcError::invalid_params(match &*path {
        "." => format!("{method}: {reason}"),
        _ => format!("{method}: {path}: {reason}"),
    })
}

/// A reason quotes what was sent, and then says what was expected, which is kept.
fn short_reason(reason: &str) -> String {
    match reason.rsplit_once(", expected ") {
        Some((quoted, expected)) => format!("{}, expected {}", shortened(quoted), shortened(expected)),
        None => shortened(reason).into_owned(),
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
                Ok(reply) => member(out, "result", reply),
                Err(error) => member(out, "error", error),
            }
        }
        ServerMessage::OutputDelta(delta) => encode_delta(out, delta),
        ServerMessage::Exited(exited) => {
            reserve_for_exited(out, exited);
            member(out, "method", &notification::EXITED);
            out.push(b',');
            member(out, "params", &ExitedForm::from(&**exited));
        }
    }
    out.extend_from_slice(b"}\n");
}

pub(crate) fn member<T: Serialize + ?Sized>(out: &mut Vec<u8>, name: &str, value: &T) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    // Writing to a Vec cannot fail, and every map in a message has strings as its keys.
    if let Err(e) = serde_json::to_writer(&mut *out, value) {
        unreachable!("internal error: produced invalid JSON: {e}");
    }
}

/// What JSON says. All that is read of it is read here or as the text of a message, so that each type is
/// compiled for one kind of input.
#[cfg(feature = "cli")]
pub(crate) fn from_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    let text = str::from_utf8(json).map_err(serde::de::Error::custom)?;
    serde_json::from_str(text)
}

/// A value as JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    // As in `member`.
    serde_json::to_string(value)
        .unwrap_or_else(|e| unreachable!("internal error: produced invalid JSON: {e}"))
}

#[cfg(test)]
mod tests;
