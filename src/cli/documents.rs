//! The documents that `procwire schema` prints: copies of what the types say.
//!
//! **Thread:** the main thread.
//! **Owns:** the copies; a test compares what is printed with the types.
//! **Never:** generates a document: the code that does so is several times as large as its result.

use serde_json::Value;

use crate::wire::message::from_json;

/// Every method, as OpenRPC.
static OPENRPC: [u8; dense::<0>(OPENRPC_FILE).1] = dense(OPENRPC_FILE).0;
const OPENRPC_FILE: &[u8] = include_bytes!("../../docs/schema/openrpc.json");
/// Every message, as JSON Schema, without the definitions that OpenRPC has as well.
static MESSAGES: [u8; dense::<0>(MESSAGES_FILE).1] = dense(MESSAGES_FILE).0;
const MESSAGES_FILE: &[u8] = include_bytes!("messages.schema.json");

/// The JSON Schema of every message.
pub(crate) fn json_schema() -> serde_json::Result<String> {
    let mut schema: Value = from_json(&MESSAGES)?;
    let shared = String::from_utf8_lossy(&OPENRPC).replace("#/components/schemas/", "#/$defs/");
    let mut shared: Value = serde_json::from_str(&shared)?;
    if let (Value::Object(all), Value::Object(shared)) =
        (&mut schema["$defs"], shared["components"]["schemas"].take())
    {
        all.extend(shared);
    }
    pretty(&schema)
}

/// The OpenRPC document.
pub(crate) fn openrpc() -> serde_json::Result<String> {
    let document: Value = from_json(&OPENRPC)?;
    pretty(&document)
}

fn pretty(document: &Value) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(document)? + "\n")
}

/// The first `N` bytes of a document without the space between its words, which is half of it, and
/// how many bytes there are.
const fn dense<const N: usize>(document: &[u8]) -> ([u8; N], usize) {
    let mut dense = [0; N];
    let (mut len, mut at, mut in_string, mut is_escaped) = (0, 0, false, false);
    while at < document.len() {
        let byte = document[at];
        if in_string || !byte.is_ascii_whitespace() {
            if len < N {
                dense[len] = byte;
            }
            len += 1;
        }
        if byte == b'"' && !is_escaped {
            in_string = !in_string;
        }
        is_escaped = byte == b'\\' && !is_escaped;
        at += 1;
    }
    (dense, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_within_strings_is_kept() {
        const DOCUMENT: &[u8] = b"{\n  \"a b\": [1, \"\\\" c\\\\\", \" d\"]\n}\n";
        const DENSE: &[u8] = b"{\"a b\":[1,\"\\\" c\\\\\",\" d\"]}";
        let (dense, len) = dense::<{ DENSE.len() }>(DOCUMENT);
        assert_eq!((&dense[..], len), (DENSE, DENSE.len()));
    }
}
