//! The Model Context Protocol's envelope: lines to messages, and answers to lines.
//!
//! **Thread:** `mcp-read` parses, `mcp` encodes.
//! **Owns:** what is known of the protocol's versions.
//! **Never:** knows a tool.
//!
//! There are two eras. Up to 2025-11-25 a connection begins with `initialize`, which agrees on a version.
//! From 2026-07-28 on each request carries its version in `_meta`, and there is no handshake. Both are
//! served on one connection: what a request carries decides.

use serde_json::{Map, Value, json};

use crate::wire::message::{self, from_json};
use crate::wire::protocol::{RpcError, code};

/// Versions that `initialize` agrees on, the newest last.
const HANDSHAKE_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
const NEWEST_HANDSHAKE: &str = HANDSHAKE_VERSIONS[HANDSHAKE_VERSIONS.len() - 1];
/// The only one in which messages may come as an array.
const WITH_BATCHES: &str = "2025-03-26";
/// Versions that requests carry.
const STATELESS_VERSIONS: [&str; 1] = ["2026-07-28"];

const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
/// The protocol's own code for a version in `_meta` that is not served.
const UNSUPPORTED_VERSION: i64 = -32022;
/// How long a client may keep what it has listed: the tools of one binary never change.
const TTL_MS: u64 = 3_600_000;

/// What an agent should know before it uses the tools; not what each of them says of itself.
const INSTRUCTIONS: &str = "\
Runs programs. `run` is for commands that end; `start` is for servers, REPLs and whatever is to go on, \
followed by `read`, `write` and `kill` with the handle it gives. Wait for what you need (untilText, \
untilInput, untilQuietMs, untilExit) instead of sleeping. A `run` that takes too long is not killed: it answers \
\"still running\", and `read` goes on from there. Everything that was started ends with this connection.";

/// The id of a request: a string or an integer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Id(Value);

/// A message of the client.
#[derive(Debug)]
pub(super) enum Incoming {
    Request(Request),
    /// The client waits no longer for the answer to this request.
    Cancelled(Id),
    /// Nothing to do: another notification, or an answer to what was not asked.
    Nothing,
    /// An array of messages.
    Batch(Vec<Incoming>),
    /// To be answered with this line.
    Invalid(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) reply: Reply,
    pub(super) method: String,
    pub(super) params: Map<String, Value>,
}

/// The request to be answered, and the era of its protocol.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) id: Id,
    stateless: bool,
}

/// Understands one line.
pub(super) fn parse(line: &[u8]) -> Incoming {
    match from_json(line) {
        Ok(Value::Array(messages)) if messages.is_empty() => {
            invalid(None, code::INVALID_REQUEST, "an empty array of messages")
        }
        Ok(Value::Array(messages)) => Incoming::Batch(messages.into_iter().map(message).collect()),
        Ok(value) => message(value),
        Err(e) => invalid(None, code::PARSE_ERROR, &format!("the line is not JSON: {e}")),
    }
}

/// A line that could not be taken.
pub(super) fn refused(error: &RpcError) -> Incoming {
    invalid(None, error.code, &error.message)
}

/// What to answer to an array of messages where the version has none.
pub(super) fn no_batches() -> Vec<u8> {
    let why = format!("messages in an array are served in version {WITH_BATCHES} only");
    error_line(None, code::INVALID_REQUEST, &why, None)
}

fn message(value: Value) -> Incoming {
    let Value::Object(mut members) = value else {
        return invalid(None, code::INVALID_REQUEST, "a message must be an object");
    };
    let id = match members.remove("id") {
        None => None,
        Some(id @ Value::String(_)) => Some(Id(id)),
        Some(Value::Number(n)) if n.is_i64() || n.is_u64() => Some(Id(Value::Number(n))),
        Some(_) => {
            return invalid(
                None,
                code::INVALID_REQUEST,
                "an id must be a string or an integer",
            );
        }
    };
    if members.get("jsonrpc").is_some_and(|version| version != "2.0") {
        return invalid(id.as_ref(), code::INVALID_REQUEST, "jsonrpc must be \"2.0\"");
    }
    let method = match members.remove("method") {
        Some(Value::String(method)) => method,
        None if members.contains_key("result") || members.contains_key("error") => return Incoming::Nothing,
        _ => {
            return invalid(
                id.as_ref(),
                code::INVALID_REQUEST,
                "a request needs a method, which must be a string",
            );
        }
    };
    let params = match members.remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) if id.is_none() => return Incoming::Nothing,
        Some(_) => {
            let why = format!("{method}: params must be an object");
            return invalid(id.as_ref(), code::INVALID_PARAMS, &why);
        }
    };
    match id {
        Some(id) => request(id, method, params),
        None => notification(&method, &params),
    }
}

fn request(id: Id, method: String, params: Map<String, Value>) -> Incoming {
    let meta = params.get("_meta");
    let version = meta.and_then(|meta| meta.get(META_VERSION));
    if let Some(version) = version {
        let known = version
            .as_str()
            .is_some_and(|version| STATELESS_VERSIONS.contains(&version));
        if !known {
            let supported: Vec<&str> = [&STATELESS_VERSIONS[..], &HANDSHAKE_VERSIONS[..]].concat();
            let data = json!({"supported": supported, "requested": version});
            let why = "unsupported protocol version";
            return Incoming::Invalid(error_line(Some(&id), UNSUPPORTED_VERSION, why, Some(data)));
        }
        if !meta
            .and_then(|meta| meta.get(META_CAPABILITIES))
            .is_some_and(Value::is_object)
        {
            let why = format!("{method}: _meta: {META_CAPABILITIES} must be an object");
            return invalid(Some(&id), code::INVALID_PARAMS, &why);
        }
    }
    let stateless = version.is_some();
    Incoming::Request(Request {
        reply: Reply { id, stateless },
        method,
        params,
    })
}

fn notification(method: &str, params: &Map<String, Value>) -> Incoming {
    match (method, params.get("requestId")) {
        ("notifications/cancelled", Some(id)) => Incoming::Cancelled(Id(id.clone())),
        _ => Incoming::Nothing,
    }
}

fn invalid(id: Option<&Id>, code: i64, why: &str) -> Incoming {
    Incoming::Invalid(error_line(id, code, why, None))
}

/// The version that `initialize` is answered with.
pub(super) fn negotiate(params: &Map<String, Value>) -> Result<&'static str, String> {
    match params.get("protocolVersion") {
        Some(Value::String(wanted)) => {
            let known = HANDSHAKE_VERSIONS.into_iter().find(|known| known == wanted);
            Ok(known.unwrap_or(NEWEST_HANDSHAKE))
        }
        Some(_) => Err("protocolVersion must be a string".to_owned()),
        None => Err("protocolVersion is missing".to_owned()),
    }
}

/// Whether messages may come as an array in this version.
pub(super) fn has_batches(version: &str) -> bool {
    version == WITH_BATCHES
}

pub(super) fn initialized(version: &str) -> Value {
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {}},
        "serverInfo": server_info(),
        "instructions": INSTRUCTIONS,
    })
}

pub(super) fn discovered() -> Value {
    cacheable(json!({
        "supportedVersions": STATELESS_VERSIONS,
        "capabilities": {"tools": {}},
        "instructions": INSTRUCTIONS,
    }))
}

/// Adds how long a client may keep this result. Versions that do not know these members ignore them.
pub(super) fn cacheable(mut result: Value) -> Value {
    result["ttlMs"] = json!(TTL_MS);
    result["cacheScope"] = json!("public");
    result
}

fn server_info() -> Value {
    json!({"name": "procwire", "title": "procwire", "version": env!("CARGO_PKG_VERSION")})
}

impl Reply {
    /// Whether this request came in the era without a handshake.
    pub(super) fn is_stateless(&self) -> bool {
        self.stateless
    }

    /// The line of an answer.
    pub(super) fn result(&self, mut result: Value) -> Vec<u8> {
        if self.stateless {
            result["resultType"] = json!("complete");
            result["_meta"] = json!({META_SERVER: server_info()});
        }
        line(json!({"jsonrpc": "2.0", "id": self.id.0, "result": result}))
    }

    /// The line of an error.
    pub(super) fn error(&self, code: i64, message: &str) -> Vec<u8> {
        error_line(Some(&self.id), code, message, None)
    }
}

fn error_line(id: Option<&Id>, code: i64, message: &str, data: Option<Value>) -> Vec<u8> {
    let mut error = json!({"code": code, "message": message});
    if let Some(data) = data {
        error["data"] = data;
    }
    let id = id.map_or(&Value::Null, |id| &id.0);
    line(json!({"jsonrpc": "2.0", "id": id, "error": error}))
}

fn line(message: Value) -> Vec<u8> {
    let mut line = message::json(&message).into_bytes();
    line.push(b'\n');
    line
}
