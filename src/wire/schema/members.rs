//! What the types of the wire do not say: what a string may hold, and which members go together.
//!
//! **Thread:** the caller's; pure functions.
//! **Owns:** the schema of each member whose Rust type allows more than the server does.
//! **Never:** describes a whole message.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::CODES;
use crate::wire::modes;
use crate::wire::protocol::{Limit, SignalName, StreamFile};
use crate::wire::{signal, start};

/// A string of base64, as it stands for bytes.
pub(crate) struct Base64;

impl JsonSchema for Base64 {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Base64".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "contentEncoding": "base64",
            "pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
        })
    }
}

/// A string that the system cannot take contains a NUL.
const NO_NUL: &str = "^[^\\u0000]*$";

/// The argument vector.
pub(crate) struct Argv;

impl JsonSchema for Argv {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Argv".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "minItems": 1,
            "prefixItems": [{ "type": "string", "minLength": 1, "pattern": NO_NUL }],
            "items": { "type": "string", "pattern": NO_NUL },
        })
    }
}

/// The working directory.
pub(crate) struct AbsolutePath;

impl JsonSchema for AbsolutePath {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "AbsolutePath".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^/[^\\u0000]*$" })
    }
}

/// What is laid over the server's environment.
pub(crate) struct Environment;

impl JsonSchema for Environment {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Environment".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^[^=\\u0000]+$" },
            "additionalProperties": { "type": ["string", "null"], "pattern": NO_NUL },
        })
    }
}

/// A schema of one of these words, a file, or null, which is as left out.
fn redirect(generator: &mut SchemaGenerator, words: &[&str]) -> Schema {
    let file = generator.subschema_for::<StreamFile>();
    json_schema!({ "anyOf": [{ "type": "string", "enum": words }, file, { "type": "null" }] })
}

/// Where a stream comes from or goes to, and the words for it.
macro_rules! redirected {
    ($name:ident, $words:expr) => {
        pub(crate) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                redirect(generator, &$words)
            }
        }
    };
}

redirected!(StdinFrom, start::STDIN_WORDS);
redirected!(StdoutTo, start::STDOUT_WORDS);
redirected!(StderrTo, start::STDERR_WORDS);

/// What is inherited of the server's environment.
pub(crate) struct Inherited;

impl JsonSchema for Inherited {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Inherited".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let name = "^(?:[^=*\\u0000]+\\*?|\\*)$";
        json_schema!({
            "anyOf": [
                { "type": "boolean" },
                { "type": "array", "items": { "type": "string", "pattern": name } },
                { "type": "null" },
            ],
        })
    }
}

/// Modes of a terminal by name.
pub(crate) struct TerminalModes;

impl JsonSchema for TerminalModes {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "TerminalModes".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mode = |(name, largest): (&str, u8)| {
            (
                name.to_owned(),
                json!({ "type": "integer", "minimum": 0, "maximum": largest }),
            )
        };
        let modes: Map<String, Value> = modes::names().map(mode).collect();
        json_schema!({ "type": "object", "properties": modes, "additionalProperties": false })
    }
}

impl JsonSchema for Limit {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Limit".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "null"], "minimum": 0, "maximum": u64::MAX })
    }
}

impl JsonSchema for SignalName {
    fn schema_name() -> Cow<'static, str> {
        "SignalName".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A signal, by number or by name.",
            "anyOf": [
                { "type": "integer", "minimum": signal::NULL, "maximum": signal::LAST },
                { "type": "string", "pattern": format!("^(?:(?:SIG)?(?:{})|{})$", signal::bare_name_pattern(), signal::NULL_NAME) },
            ],
        })
    }
}

/// The codes of errors.
pub(crate) struct ErrorCode;

impl JsonSchema for ErrorCode {
    fn schema_name() -> Cow<'static, str> {
        "ErrorCode".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let codes = CODES.map(|(code, about)| json!({ "const": code, "description": about }));
        json_schema!({ "oneOf": codes })
    }
}

/// A size and modes are for a terminal.
pub(crate) fn terminals_want_tty(schema: &mut Schema) {
    let given = |name: &str| json!({ "properties": { name: { "type": "object" } }, "required": [name] });
    schema.insert(
        "if".to_owned(),
        json!({ "anyOf": [given("size"), given("terminalModes")] }),
    );
    schema.insert(
        "then".to_owned(),
        json!({ "properties": { "tty": { "const": true } }, "required": ["tty"] }),
    );
}

/// A terminal is all three streams, and a stream of writes is not a file.
pub(crate) fn one_origin_a_stream(schema: &mut Schema) {
    let given =
        |name: &str| json!({ "properties": { name: { "not": { "type": "null" } } }, "required": [name] });
    let flag = |name: &str| json!({ "properties": { name: { "const": true } }, "required": [name] });
    let with = |mut flag: Value, streams: &[&str]| {
        flag["anyOf"] = streams.iter().map(|stream| given(stream)).collect();
        flag
    };
    schema.insert(
        "not".to_owned(),
        json!({ "anyOf": [
            with(flag("tty"), &["stdin", "stdout", "stderr"]),
            with(flag("streamStdin"), &["stdin"]),
        ] }),
    );
}

/// A write has something to do.
pub(crate) fn delta_or_close(schema: &mut Schema) {
    schema.insert(
        "anyOf".to_owned(),
        json!([
            { "properties": { "deltaBase64": { "type": "string" } }, "required": ["deltaBase64"] },
            { "properties": { "closeStdin": { "const": true } }, "required": ["closeStdin"] },
        ]),
    );
}
