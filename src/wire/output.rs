//! What a client asks about the output of a process: what is kept of it, that it be closed, and waits
//! what comes.
//!
//! **Thread:** none of its own; plain data that travels between all of them.
//! **Owns:** the meaning of every field, and the forms that a derive does not give.
//! **Never:** looks at output.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::wire::members::{object, optional_base64};
use crate::wire::methods::Params;
#[cfg(feature = "schema")]
use crate::wire::protocol::MAX_HANDLE_BYTES;
use crate::wire::protocol::Stream;

/// What is kept of an output stream that outgrows its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputKeep {
    /// Its beginning (`"head"`).
    Head,
    /// Its end (`"tail"`).
    Tail,
    /// Some of both (`{"head": 5, "tail": 5}`), in bytes.
    HeadTail {
        /// Bytes of its beginning.
        head: u64,
        /// Bytes of its end.
        tail: u64,
    },
}

/// The form of [`OutputKeep::HeadTail`].
#[derive(Serialize, Deserialize)]
struct HeadTail {
    head: u64,
    tail: u64,
}

impl Serialize for OutputKeep {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            OutputKeep::Head => serializer.serialize_str("head"),
            OutputKeep::Tail => serializer.serialize_str("tail"),
            OutputKeep::HeadTail { head, tail } => HeadTail { head, tail }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for OutputKeep {
    /// By hand, because an untagged enum copies the value before it looks at it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeepVisitor;
        impl<'de> Visitor<'de> for KeepVisitor {
            type Value = OutputKeep;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#""head", "tail" or an object with both"#)
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<OutputKeep, E> {
                match name {
                    "head" => Ok(OutputKeep::Head),
                    "tail" => Ok(OutputKeep::Tail),
                    _ => Err(E::invalid_value(de::Unexpected::Str(name), &self)),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<OutputKeep, A::Error> {
                let HeadTail { head, tail } =
                    HeadTail::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(OutputKeep::HeadTail { head, tail })
            }
        }
        deserializer.deserialize_any(KeepVisitor)
    }
}

/// Params of `process/closeOutput`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CloseOutputParams {
    /// Which process: its name, at most 4,096 bytes of UTF-8, where `maxLength` counts characters.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_HANDLE_BYTES)))]
    pub process_handle: String,
    /// Which stream; both where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
}

impl Params for CloseOutputParams {
    fn handle(&self) -> Option<&str> {
        Some(&self.process_handle)
    }
}

/// Conditions that one wait may have.
pub(crate) const MAX_CONDITIONS: usize = 64;
/// Bytes that the patterns of one wait may have together.
pub(crate) const MAX_PATTERN_BYTES: usize = 64 * 1024;

/// Params of `process/wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WaitParams {
    /// Which process: its name, at most 4,096 bytes of UTF-8, where `maxLength` counts characters.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_HANDLE_BYTES)))]
    pub process_handle: String,
    /// What is waited for: the request is answered when the first of these holds. Their patterns have
    /// 65,536 bytes at most, together.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_CONDITIONS)))]
    pub until: Vec<Condition>,
    /// The only stream whose output counts; both count where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// Milliseconds after which the request is answered though no condition holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl Params for WaitParams {
    fn handle(&self) -> Option<&str> {
        Some(&self.process_handle)
    }

    fn cost(&self) -> usize {
        let patterns = self.until.iter().filter_map(Condition::pattern);
        let patterns: usize = patterns.map(<[u8]>::len).sum();
        self.process_handle.len() + patterns + self.until.len() * size_of::<Condition>()
    }
}

/// Something that may be waited for: an object with one of these members.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// This text has appeared in the output (`text`).
    Text(String),
    /// These bytes have (`bytesBase64`).
    Bytes(Vec<u8>),
    /// No output has come for so many milliseconds (`quietMs`).
    Quiet(u64),
    /// The stream has ended (`eof`), or both have.
    Eof,
    /// The process has exited (`exit`), and what it has printed before has been read.
    Exit,
    /// The process waits for input (`input`).
    Input,
}

impl From<&str> for Condition {
    fn from(text: &str) -> Self {
        Condition::Text(text.to_owned())
    }
}

impl Condition {
    /// The bytes that are looked for, if that is what it is about.
    pub(crate) fn pattern(&self) -> Option<&[u8]> {
        match self {
            Condition::Text(text) => Some(text.as_bytes()),
            Condition::Bytes(bytes) => Some(bytes),
            Condition::Quiet(_) | Condition::Eof | Condition::Exit | Condition::Input => None,
        }
    }
}

/// The members of a [`Condition`], of which it has one.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConditionMembers {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(with = "optional_base64", skip_serializing_if = "Option::is_none")]
    bytes_base64: Option<Vec<u8>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quiet_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eof: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<bool>,
}

impl Serialize for Condition {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = ConditionMembers::default();
        match self {
            Condition::Text(text) => members.text = Some(text.clone()),
            Condition::Bytes(bytes) => members.bytes_base64 = Some(bytes.clone()),
            Condition::Quiet(ms) => members.quiet_ms = Some(*ms),
            Condition::Eof => members.eof = Some(true),
            Condition::Exit => members.exit = Some(true),
            Condition::Input => members.input = Some(true),
        }
        members.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let members: ConditionMembers = object(deserializer)?;
        let flag = |name, value: Option<bool>, condition| match value {
            Some(false) => Err(de::Error::custom(format_args!("{name} must be true"))),
            value => Ok(value.map(|_| condition)),
        };
        let conditions = [
            members.text.map(Condition::Text),
            members.bytes_base64.map(Condition::Bytes),
            members.quiet_ms.map(Condition::Quiet),
            flag("eof", members.eof, Condition::Eof)?,
            flag("exit", members.exit, Condition::Exit)?,
            flag("input", members.input, Condition::Input)?,
        ];
        let mut conditions = conditions.into_iter().flatten();
        let (Some(condition), None) = (conditions.next(), conditions.next()) else {
            return Err(de::Error::custom(
                "a condition has one of text, bytesBase64, quietMs, eof, exit and input",
            ));
        };
        match condition.pattern() {
            Some([]) => Err(de::Error::custom("the text or bytes must not be empty")),
            _ => Ok(condition),
        }
    }
}

/// The answer to `process/wait`: which condition holds, or why none can any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct WaitReply {
    /// The place in `until` of the condition that holds; null if none does.
    pub index: Option<u64>,
    /// For text or bytes, the stream they have appeared in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Stream"))]
    pub stream: Option<Stream>,
    /// For text or bytes, the byte position in that stream after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    pub offset: Option<u64>,
    /// If no condition holds: whether the time was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "bool"))]
    pub timed_out: Option<bool>,
    /// If no condition holds: whether the process has exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "bool"))]
    pub exited: Option<bool>,
}

#[cfg(feature = "schema")]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde_json::{Value, json};

    use super::{Condition, OutputKeep};
    use crate::wire::schema::Base64;

    impl JsonSchema for OutputKeep {
        fn schema_name() -> Cow<'static, str> {
            "OutputKeep".into()
        }
        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            let bytes =
                |about| json!({ "description": about, "type": "integer", "minimum": 0, "maximum": u64::MAX });
            json_schema!({
                "description": "What is kept of an output stream that outgrows its cap.",
                "anyOf": [
                    { "enum": ["head", "tail"] },
                    {
                        "type": "object",
                        "properties": {
                            "head": bytes("Bytes of its beginning."),
                            "tail": bytes("Bytes of its end."),
                        },
                        "required": ["head", "tail"],
                    },
                ],
            })
        }
    }

    impl JsonSchema for Condition {
        fn schema_name() -> Cow<'static, str> {
            "Condition".into()
        }
        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            let base64 = Base64::json_schema(generator);
            let flag = |about| json!({ "description": about, "enum": [true, null] });
            let one = |name: &str| json!({ "properties": { name: { "not": { "type": "null" } } }, "required": [name] });
            let members = ["text", "bytesBase64", "quietMs", "eof", "exit", "input"];
            json_schema!({
                "description": "Something that may be waited for: an object with one of these members.",
                "type": "object",
                "properties": {
                    "text": {
                        "description": "This text has appeared in the output.",
                        "type": ["string", "null"],
                        "minLength": 1,
                    },
                    "bytesBase64": {
                        "description": "These bytes have.",
                        "type": ["string", "null"],
                        "contentEncoding": "base64",
                        "pattern": base64.get("pattern"),
                        "minLength": 1,
                    },
                    "quietMs": {
                        "description": "No output has come for so many milliseconds.",
                        "type": ["integer", "null"],
                        "minimum": 0,
                        "maximum": u64::MAX,
                    },
                    "eof": flag("The stream has ended, or both have."),
                    "exit": flag("The process has exited, and what it has printed before has been read."),
                    "input": flag("The process waits for input."),
                },
                "oneOf": members.map(one),
            })
        }
    }

    /// Some of both is the cap.
    pub(crate) fn head_and_tail_are_the_cap(schema: &mut Schema) {
        let both = json!({
            "properties": { "outputKeep": { "type": "object" } },
            "required": ["outputKeep", "outputBytesCap"],
        });
        // Beside what else must not be.
        let all: Vec<Value> = schema.remove("not").into_iter().chain([both]).collect();
        schema.insert("not".to_owned(), json!({ "anyOf": all }));
    }
}
#[cfg(feature = "schema")]
pub(crate) use schema::head_and_tail_are_the_cap;

#[cfg(test)]
mod tests {
    use crate::wire::message::{ClientMessage, parse};
    use crate::wire::protocol::code;

    #[test]
    fn a_condition_is_one_thing() {
        let parsed = |condition: &str| {
            let line = format!(
                r#"{{"id":1,"method":"process/wait","params":{{"processHandle":"h","until":[{condition}]}}}}"#
            );
            parse(line.as_bytes()).message
        };
        for good in [
            r#"{"text":"a"}"#,
            r#"{"bytesBase64":"AA==","text":null}"#,
            r#"{"quietMs":0,"more":1}"#,
            r#"{"eof":true}"#,
        ] {
            assert!(matches!(parsed(good), ClientMessage::Request { .. }), "{good}");
        }
        for bad in [
            "{}",
            r#"["a"]"#,
            r#""a""#,
            r#"{"text":""}"#,
            r#"{"bytesBase64":""}"#,
            r#"{"bytesBase64":"A"}"#,
            r#"{"text":"a","exit":true}"#,
            r#"{"exit":false}"#,
            r#"{"exit":1}"#,
            r#"{"quietMs":-1}"#,
            r#"{"text":"a","text":"b"}"#,
        ] {
            let ClientMessage::Invalid { error, .. } = parsed(bad) else {
                panic!("{bad} is a condition");
            };
            assert_eq!(error.code, code::INVALID_PARAMS, "{bad}");
            assert!(
                error.message.starts_with("process/wait: until[0]"),
                "{}",
                error.message
            );
        }
    }
}
