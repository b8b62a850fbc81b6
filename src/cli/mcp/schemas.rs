//! What the results of the tools look like, as JSON Schema.
//!
//! **Thread:** `mcp`.
//! **Owns:** the description of each member.
//! **Never:** describes a member that no result has.
//!
//! The schemas are text and not `json!`, which makes code for every member.

use serde_json::Value;

const PROCESS: &str = r#"{
    "handle": {"type": "string", "description": "names the process in other calls"},
    "running": {"type": "boolean", "description": "whether it goes on"},
    "reason": {
        "type": "string",
        "enum": ["started", "done", "exit", "text", "quiet", "input", "output", "time"],
        "description": "why the call has answered; time: waitMs was up"
    },
    "pid": {"type": "integer", "description": "its process id"},
    "exitCode": {
        "type": "integer",
        "description": "once it has ended: its exit code, 128 + n for signal n, 124 for timeoutMs"
    },
    "signal": {"type": "string", "description": "the signal that killed it"},
    "timedOut": {"type": "boolean", "description": "it was killed because of timeoutMs"},
    "coreDumped": {"type": "boolean", "description": "it left a core dump"},
    "durationMs": {"type": "integer", "description": "from its start to its end"},
    "outputDrainTimedOut": {
        "type": "boolean",
        "description": "something it started kept its output open, which was waited for in vain"
    },
    "usage": {
        "type": "object",
        "properties": {
            "userMs": {"type": "integer"},
            "systemMs": {"type": "integer"},
            "maxRssBytes": {"type": "integer"}
        }
    }
}"#;

/// What there is of each stream; the name of the stream stands before each of these names.
const STREAM: &str = r#"{
    "": {"type": "string", "description": "what is shown of it"},
    "Offset": {"type": "integer", "description": "the position of the first byte that is shown"},
    "Bytes": {"type": "integer", "description": "how much it has printed in all"},
    "OmittedBytes": {"type": "integer", "description": "left out between the text and its tail"},
    "LostBytes": {"type": "integer", "description": "how many of those cannot be read any more"},
    "Tail": {"type": "string", "description": "what is shown behind the gap"},
    "Lossy": {"type": "boolean", "description": "bytes that are not UTF-8 are shown as U+FFFD"}
}"#;

const INSPECTION: &str = r#"{
    "type": "object",
    "properties": {
        "handle": {"type": "string"},
        "pid": {"type": "integer"},
        "waitsForInput": {
            "type": ["boolean", "null"],
            "description": "whether it is blocked in a read of its terminal or stdin"
        },
        "terminal": {
            "type": ["object", "null"],
            "properties": {
                "canonical": {"type": "boolean", "description": "input comes by lines"},
                "echo": {"type": "boolean", "description": "what is typed is shown"},
                "rows": {"type": "integer"},
                "cols": {"type": "integer"}
            }
        },
        "foreground": {
            "type": ["object", "null"],
            "description": "who has the keyboard of the terminal",
            "properties": {"pid": {"type": "integer"}, "command": {"type": ["array", "null"]}}
        },
        "processes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pid": {"type": "integer"},
                    "parentPid": {"type": ["integer", "null"]},
                    "command": {"type": ["array", "null"]},
                    "state": {"type": ["string", "null"]},
                    "threads": {"type": ["integer", "null"]},
                    "cpuMs": {"type": ["integer", "null"]},
                    "rssBytes": {"type": ["integer", "null"]}
                },
                "required": ["pid"]
            }
        },
        "processesOmitted": {"type": "integer"}
    },
    "required": ["handle", "pid", "waitsForInput", "processes"]
}"#;

const LIST: &str = r#"{
    "type": "object",
    "properties": {
        "processes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "handle": {"type": "string"},
                    "command": {"type": "array", "items": {"type": "string"}},
                    "cwd": {"type": "string"},
                    "tty": {"type": "boolean"},
                    "running": {"type": "boolean"},
                    "pid": {"type": "integer"},
                    "startedAtMs": {"type": "integer", "description": "since 1970"},
                    "exitCode": {"type": "integer"},
                    "signal": {"type": "string"},
                    "stdoutBytes": {"type": "integer"},
                    "stderrBytes": {"type": "integer"}
                },
                "required": ["handle", "command", "running"]
            }
        }
    },
    "required": ["processes"]
}"#;

/// A text of this file. A test reads each of them.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// Of all that are about one process.
pub(super) fn process_schema() -> Value {
    let mut properties = parsed(PROCESS);
    if let Value::Object(members) = parsed(STREAM) {
        for stream in ["stdout", "stderr"] {
            for (name, member) in &members {
                properties[format!("{stream}{name}")] = member.clone();
            }
        }
    }
    let mut schema = parsed(r#"{"type": "object", "required": ["handle", "running"]}"#);
    schema["properties"] = properties;
    schema
}

/// The same without descriptions, which an agent has read with the first tool.
pub(super) fn brief_process_schema() -> Value {
    let mut schema = process_schema();
    if let Some(properties) = schema["properties"].as_object_mut() {
        for property in properties.values_mut().filter_map(Value::as_object_mut) {
            property.remove("description");
        }
    }
    schema
}

/// Of `inspect`. What cannot be known is null.
pub(super) fn inspection_schema() -> Value {
    parsed(INSPECTION)
}

/// Of `list`.
pub(super) fn list_schema() -> Value {
    parsed(LIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_json() {
        for text in [PROCESS, STREAM, INSPECTION, LIST] {
            let members: serde_json::Map<String, Value> = serde_json::from_str(text).expect(text);
            assert!(members.len() > 2, "{text}");
        }
    }
}
