//! What the results of the tools look like, as JSON Schema.
//!
//! **Thread:** `mcp`.
//! **Owns:** what an agent reads of each member.
//! **Never:** describes what no result has.

use serde_json::{Value, json};

/// Of all that are about one process.
pub(super) fn process_schema() -> Value {
    let integer = |about: &str| json!({"type": "integer", "description": about});
    let text = |about: &str| json!({"type": "string", "description": about});
    let flag = |about: &str| json!({"type": "boolean", "description": about});
    let mut properties = json!({
        "handle": text("names the process in other calls"),
        "running": flag("whether it goes on"),
        "reason": {
            "type": "string",
            "enum": ["started", "done", "exit", "text", "quiet", "input", "output", "time"],
            "description": "why the call has answered; time: waitMs was up",
        },
        "pid": integer("its process id"),
        "exitCode": integer("once it has ended: its exit code, 128 + n for signal n, 124 for timeoutMs"),
        "signal": text("the signal that ended it"),
        "timedOut": flag("it was killed because of timeoutMs"),
        "coreDumped": flag("it left a core dump"),
        "durationMs": integer("from its start to its end"),
        "outputDrainTimedOut": flag("something it started kept its output open, which was waited for in vain"),
        "usage": {
            "type": "object",
            "properties": {
                "userMs": {"type": "integer"},
                "systemMs": {"type": "integer"},
                "maxRssBytes": {"type": "integer"},
            },
        },
    });
    for stream in ["stdout", "stderr"] {
        properties[stream] = text("what is shown of it");
        properties[format!("{stream}Offset")] = integer("the position of the first byte that is shown");
        properties[format!("{stream}Bytes")] = integer("how much it has printed in all");
        properties[format!("{stream}OmittedBytes")] = integer("left out between the text and its tail");
        properties[format!("{stream}LostBytes")] = integer("how many of those cannot be read any more");
        properties[format!("{stream}Tail")] = text("what is shown behind the gap");
        properties[format!("{stream}Lossy")] = flag("bytes that are not UTF-8 are shown as U+FFFD");
    }
    json!({"type": "object", "properties": properties, "required": ["handle", "running"]})
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
    let or_null = |kind: &str| json!({"type": [kind, "null"]});
    json!({
        "type": "object",
        "properties": {
            "handle": {"type": "string"},
            "pid": {"type": "integer"},
            "waitsForInput": {
                "type": ["boolean", "null"],
                "description": "whether it is blocked in a read of its terminal or stdin",
            },
            "terminal": {
                "type": ["object", "null"],
                "properties": {
                    "canonical": {"type": "boolean", "description": "input comes by lines"},
                    "echo": {"type": "boolean", "description": "what is typed is shown"},
                    "rows": {"type": "integer"},
                    "cols": {"type": "integer"},
                },
            },
            "foreground": {
                "type": ["object", "null"],
                "description": "who has the keyboard of the terminal",
                "properties": {"pid": {"type": "integer"}, "command": or_null("array")},
            },
            "processes": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "pid": {"type": "integer"},
                        "parentPid": or_null("integer"),
                        "command": or_null("array"),
                        "state": or_null("string"),
                        "threads": or_null("integer"),
                        "cpuMs": or_null("integer"),
                        "rssBytes": or_null("integer"),
                    },
                    "required": ["pid"],
                },
            },
            "processesOmitted": {"type": "integer"},
        },
        "required": ["handle", "pid", "waitsForInput", "processes"],
    })
}

/// Of `list`.
pub(super) fn list_schema() -> Value {
    json!({
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
                        "stderrBytes": {"type": "integer"},
                    },
                    "required": ["handle", "command", "running"],
                },
            },
        },
        "required": ["processes"],
    })
}
