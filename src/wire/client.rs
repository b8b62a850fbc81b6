//! The envelope, as a client sees it: a request to JSON, and JSON of any server to a typed message.
//!
//! **Thread:** in the Rust client, the one that sends a request encodes it, and `client-read` parses.
//! **Owns:** what is taken for a message of a server, of another kind of server as well.
//! **Never:** reads, writes or waits, or trusts what came.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::wire::message::{member, request_id};
use crate::wire::methods::ParamsOf;
use crate::wire::notifications::{ExitedForm, OutputDeltaForm};
use crate::wire::protocol::{Exited, OutputDelta, Request, RequestId, RpcError, notification};

/// Appends a request as a line.
pub(crate) fn encode_request(out: &mut Vec<u8>, id: &RequestId, request: &Request) {
    out.push(b'{');
    member(out, "id", id);
    out.push(b',');
    member(out, "method", request.method());
    out.push(b',');
    member(out, "params", &ParamsOf(request));
    out.extend_from_slice(b"}\n");
}

/// Appends the notification that ends a handshake as a line. procwire ignores it.
pub(crate) fn encode_initialized(out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"method\":\"initialized\"}\n");
}

#[derive(Deserialize)]
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
    /// An answer. What its result means depends on the method of the request, which its id identifies.
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
    let line = str::from_utf8(line).map_err(|e| e.to_string())?;
    let envelope: ServerEnvelope<'_> = from_str(line)?;
    let id = envelope.id.map(RawValue::get).filter(|id| *id != "null");
    let params = envelope.params.map_or("{}", RawValue::get);
    match envelope.method {
        Some(method) if id.is_some() => Ok(FromServer::Request(method)),
        Some(method) => match &*method {
            notification::OUTPUT_DELTA => {
                let delta: OutputDeltaForm<'_> = from_str(params)?;
                Ok(FromServer::OutputDelta(delta.into()))
            }
            notification::EXITED => {
                let exited: ExitedForm<'_> = from_str(params)?;
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
                (None, Some(error)) => Err(from_str(error.get())?),
                _ => return Err("neither a notification nor an answer".to_owned()),
            };
            Ok(FromServer::Answer { id, outcome })
        }
    }
}

fn from_str<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}
