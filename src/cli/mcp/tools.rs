//! The one table of tools, from which their schemas and the checks of arguments follow.
//!
//! **Thread:** `mcp`.
//! **Owns:** the description of each tool.
//! **Never:** does what a tool does.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::parameter::{MAX_MS, Parameter, Takes, optional, quoted, required};
use super::schemas::{brief_process_schema, inspection_schema, list_schema, process_schema};
use crate::wire::message;
use crate::wire::protocol::{ResourceLimits, SignalName, Stream};

/// The most output of a stream that one result shows.
pub(super) const MAX_RESULT_BYTES: i64 = 256 * 1024;
/// What it shows by default: half from the beginning, half from the end.
const RESULT_BYTES: i64 = 32 * 1024;
/// The longest text that is waited for, and the longest handle.
const MAX_TEXT_CHARS: usize = 1024;
const MAX_HANDLE_CHARS: usize = 200;
/// One tool.
pub(super) struct Tool {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    title: &'static str,
    about: &'static str,
    parameters: &'static [Parameter],
    output: fn() -> Value,
    hints: Hints,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Run,
    Start,
    Write,
    Read,
    Resize,
    Kill,
    Inspect,
    List,
}

/// What a client may show of a tool, or ask its user about.
struct Hints {
    read_only: bool,
    destructive: bool,
    idempotent: bool,
    open_world: bool,
}

/// Of a tool by which programs do whatever they do.
const RUNS_PROGRAMS: Hints = Hints {
    read_only: false,
    destructive: true,
    idempotent: false,
    open_world: true,
};
/// Of one that shows what is there, and changes nothing.
const LOOKS: Hints = Hints {
    read_only: true,
    destructive: false,
    idempotent: true,
    open_world: false,
};

const ANY_TEXT: Takes = Takes::Text(0, usize::MAX);
const DURATION: Takes = Takes::Integer(0, MAX_MS);
const CELLS: Takes = Takes::Integer(1, 65_535);

const COMMAND: Parameter = optional(
    "command",
    Takes::Text(1, usize::MAX),
    "a line for /bin/sh; give this or argv",
);
const ARGV: Parameter = optional(
    "argv",
    Takes::Texts,
    "the program and its arguments, without a shell",
);
const CWD: Parameter = optional(
    "cwd",
    Takes::Text(1, usize::MAX),
    "working directory; a relative one is below the server's",
);
const ENV: Parameter = optional(
    "env",
    Takes::Environment,
    "variables laid over the server's environment; null unsets one",
);
const TTY: Parameter = optional(
    "tty",
    Takes::Flag,
    "give it a terminal: for REPLs, prompts and full-screen programs. All output is stdout then",
);
const ROWS: Parameter = optional("rows", CELLS, "lines of the terminal [24]");
const COLS: Parameter = optional("cols", CELLS, "columns of the terminal [80]");
const MERGE: Parameter = optional(
    "mergeStderr",
    Takes::Flag,
    "make stderr one stream with stdout, in the order in which it is written",
);
const LIMITS: Parameter = optional(
    "limits",
    Takes::Limits,
    "what each of its processes may use; a limit that cannot be set is an error",
);
const TIMEOUT: Parameter = optional(
    "timeoutMs",
    Takes::Integer(1, MAX_MS),
    "kill it, with everything it has started, after this many milliseconds [never]",
);
const NAME: Parameter = optional(
    "handle",
    Takes::Text(1, MAX_HANDLE_CHARS),
    "a name of your choice for it [p1, p2, ...]",
);
const HANDLE: Parameter = required("handle", Takes::Text(1, MAX_HANDLE_CHARS), "which process");
const UNTIL_TEXT: Parameter = optional(
    "untilText",
    Takes::Text(1, MAX_TEXT_CHARS),
    "answer once this text has been printed; literal, case-sensitive",
);
const UNTIL_QUIET: Parameter = optional(
    "untilQuietMs",
    DURATION,
    "answer once nothing has been printed for this many milliseconds",
);
const UNTIL_INPUT: Parameter = optional(
    "untilInput",
    Takes::Flag,
    "answer once it waits for input: at a prompt, whatever its text. Read from its system calls",
);
const UNTIL_EXIT: Parameter = optional("untilExit", Takes::Flag, "answer once it has ended");
const WAIT: Parameter = optional(
    "waitMs",
    DURATION,
    "how long this call waits at most; then it answers with what there is, and nothing is killed",
);
const MAX_BYTES: Parameter = optional(
    "maxBytes",
    Takes::Integer(0, MAX_RESULT_BYTES),
    "how much of each stream is shown: the first and the last half of it [32768]",
);
const RAW: Parameter = optional(
    "raw",
    Takes::Flag,
    "show escape sequences and the CR LF of a terminal as they were printed",
);

/// Every tool, in the order in which they are listed.
pub(super) const TOOLS: &[Tool] = &[
    Tool {
        kind: Kind::Run,
        name: "run",
        title: "Run a program",
        about: "Runs a program to its end and answers with its exit code and output. It has no input but \
                `stdin`. If it takes longer than waitMs it runs on: the answer has running=true and a \
                handle for read, write and kill.",
        parameters: &[
            COMMAND,
            ARGV,
            CWD,
            ENV,
            optional("stdin", ANY_TEXT, "its input [none]"),
            TTY,
            ROWS,
            COLS,
            MERGE,
            LIMITS,
            TIMEOUT,
            NAME,
            WAIT,
            MAX_BYTES,
            RAW,
        ],
        output: process_schema,
        hints: RUNS_PROGRAMS,
    },
    Tool {
        kind: Kind::Start,
        name: "start",
        title: "Start a program that goes on",
        about: "Starts a server, a watcher, a REPL or a shell, and answers with its handle once it runs. \
                With untilText or untilQuietMs it also waits until it is ready. It can be written to.",
        parameters: &[
            COMMAND,
            ARGV,
            CWD,
            ENV,
            TTY,
            ROWS,
            COLS,
            MERGE,
            LIMITS,
            TIMEOUT,
            NAME,
            UNTIL_TEXT,
            UNTIL_QUIET,
            UNTIL_INPUT,
            UNTIL_EXIT,
            WAIT,
            MAX_BYTES,
            RAW,
        ],
        output: brief_process_schema,
        hints: RUNS_PROGRAMS,
    },
    Tool {
        kind: Kind::Write,
        name: "write",
        title: "Write to a program",
        about: "Writes to a program's stdin, as if typed where it has a terminal. End a line with \\n; keys \
                are their characters, such as \\u0003 for Ctrl-C. With until... it waits for the reaction \
                and shows what was printed.",
        parameters: &[
            HANDLE,
            optional("text", ANY_TEXT, "what to write"),
            optional("base64", ANY_TEXT, "bytes to write, in place of text"),
            optional(
                "eof",
                Takes::Flag,
                "then close its stdin; on a terminal, type end-of-file",
            ),
            UNTIL_TEXT,
            UNTIL_QUIET,
            UNTIL_INPUT,
            UNTIL_EXIT,
            WAIT,
            MAX_BYTES,
            RAW,
        ],
        output: brief_process_schema,
        hints: RUNS_PROGRAMS,
    },
    Tool {
        kind: Kind::Read,
        name: "read",
        title: "Read what a program prints",
        about: "Shows what a process has printed since the last result, and how it ended if it has. Without \
                until... it waits until there is something; with them, until one of them holds. untilText \
                also finds what was printed since the last result. Ended processes can be read, too.",
        parameters: &[
            HANDLE,
            optional(
                "offset",
                Takes::Integer(-i64::MAX, i64::MAX),
                "show `stream` from this position instead; a negative one counts from the end",
            ),
            optional(
                "stream",
                Takes::OneOf(&["stdout", "stderr"]),
                "what offset means [stdout]",
            ),
            UNTIL_TEXT,
            UNTIL_QUIET,
            UNTIL_INPUT,
            UNTIL_EXIT,
            WAIT,
            MAX_BYTES,
            RAW,
        ],
        output: brief_process_schema,
        hints: Hints {
            read_only: true,
            destructive: false,
            idempotent: false,
            open_world: false,
        },
    },
    Tool {
        kind: Kind::Kill,
        name: "kill",
        title: "Kill a program",
        about: "Kills a process and everything it has started, and waits for its end. With `signal`, sends \
                only that to its process group; with graceMs as well, kills what is left after so long.",
        parameters: &[
            HANDLE,
            optional("signal", Takes::Signal, "such as \"TERM\", \"INT\" or 15 [KILL]"),
            optional("graceMs", DURATION, "how long it may take to end by itself"),
            WAIT,
            MAX_BYTES,
            RAW,
        ],
        output: brief_process_schema,
        hints: Hints {
            read_only: false,
            destructive: true,
            idempotent: true,
            open_world: false,
        },
    },
    Tool {
        kind: Kind::Resize,
        name: "resize",
        title: "Resize a terminal",
        about: "Changes the size of the terminal of a process that was started with tty.",
        parameters: &[
            HANDLE,
            required("rows", CELLS, "lines"),
            required("cols", CELLS, "columns"),
        ],
        output: brief_process_schema,
        hints: Hints {
            read_only: false,
            destructive: false,
            idempotent: true,
            open_world: false,
        },
    },
    Tool {
        kind: Kind::Inspect,
        name: "inspect",
        title: "Inspect a program",
        about: "Tells what a running process does now: whether it waits for input, the modes of its terminal, \
                and the processes below it with their state, processor time and memory.",
        parameters: &[HANDLE],
        output: inspection_schema,
        hints: LOOKS,
    },
    Tool {
        kind: Kind::List,
        name: "list",
        title: "List programs",
        about: "Lists the processes of this connection, oldest first: those that run, and those that have \
                ended and can still be read.",
        parameters: &[],
        output: list_schema,
        hints: LOOKS,
    },
];

/// What a call was given.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Arguments {
    pub(super) command: Option<String>,
    pub(super) argv: Option<Vec<String>>,
    pub(super) cwd: Option<String>,
    pub(super) env: BTreeMap<String, Option<String>>,
    pub(super) stdin: Option<String>,
    pub(super) tty: bool,
    pub(super) rows: Option<u16>,
    pub(super) cols: Option<u16>,
    pub(super) merge_stderr: bool,
    pub(super) limits: Option<ResourceLimits>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) handle: String,
    pub(super) text: Option<String>,
    pub(super) base64: Option<String>,
    pub(super) eof: bool,
    pub(super) offset: Option<i64>,
    pub(super) stream: Option<Stream>,
    pub(super) signal: Option<SignalName>,
    pub(super) grace_ms: Option<u64>,
    pub(super) until_text: Option<String>,
    pub(super) until_quiet_ms: Option<u64>,
    pub(super) until_input: bool,
    pub(super) until_exit: bool,
    pub(super) wait_ms: Option<u64>,
    pub(super) max_bytes: Option<u64>,
    pub(super) raw: bool,
}

impl Arguments {
    /// How much of each stream is shown.
    pub(super) fn result_bytes(&self) -> usize {
        let bytes = self.max_bytes.unwrap_or(RESULT_BYTES.unsigned_abs());
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// The tool of this name.
pub(super) fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.name == name)
}

/// The names of all tools, for an error.
pub(super) fn names() -> String {
    let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
    names.join(", ")
}

/// The result of `tools/list`.
pub(super) fn list() -> Value {
    json!({"tools": TOOLS.iter().map(Tool::describe).collect::<Vec<_>>()})
}

/// As `json!`, which makes code for every member.
fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let mut object = Map::new();
    for (name, value) in members {
        object.insert(name.to_owned(), value);
    }
    object.into()
}

impl Tool {
    fn describe(&self) -> Value {
        let mut properties = Map::new();
        for parameter in self.parameters {
            properties.insert(parameter.name.to_owned(), parameter.schema());
        }
        let mut input = object([
            ("type", "object".into()),
            ("properties", properties.into()),
            ("additionalProperties", false.into()),
        ]);
        let required = self.parameters.iter().filter(|parameter| parameter.required);
        let required: Vec<Value> = required.map(|parameter| parameter.name.into()).collect();
        if !required.is_empty() {
            input["required"] = required.into();
        }
        let annotations = object([
            ("title", self.title.into()),
            ("readOnlyHint", self.hints.read_only.into()),
            ("destructiveHint", self.hints.destructive.into()),
            ("idempotentHint", self.hints.idempotent.into()),
            ("openWorldHint", self.hints.open_world.into()),
        ]);
        object([
            ("name", self.name.into()),
            ("title", self.title.into()),
            ("description", self.about.into()),
            ("inputSchema", input),
            ("outputSchema", (self.output)()),
            ("annotations", annotations),
        ])
    }

    /// The arguments, or what is wrong with them, for the agent to do better.
    pub(super) fn arguments(&self, mut given: Map<String, Value>) -> Result<Arguments, String> {
        // Left out, as many clients write it.
        given.retain(|_, value| !value.is_null());
        for (name, value) in &mut given {
            let parameter = self
                .parameters
                .iter()
                .find(|parameter| parameter.name == name)
                .ok_or_else(|| self.unknown(name))?;
            parameter.normalize(value);
            parameter
                .check(value)
                .map_err(|expected| format!("{}: {name} must be {expected}", self.name))?;
        }
        let missing = self
            .parameters
            .iter()
            .find(|parameter| parameter.required && !given.contains_key(parameter.name));
        if let Some(missing) = missing {
            return Err(format!(
                "{}: {} is missing: {}",
                self.name, missing.name, missing.about
            ));
        }
        // As text, because that is what everything else is read from.
        serde_json::from_str(&message::json(&given)).map_err(|e| format!("{}: {e}", self.name))
    }

    fn unknown(&self, name: &str) -> String {
        let known: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name).collect();
        match known.is_empty() {
            true => format!("{}: takes no arguments, got {}", self.name, quoted(name)),
            false => format!(
                "{}: unknown argument {}; there are {}",
                self.name,
                quoted(name),
                known.join(", ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_of_the_table_is_an_argument() {
        for tool in TOOLS {
            let mut given = Map::new();
            for parameter in tool.parameters {
                let value = match parameter.takes {
                    Takes::Text(..) => json!("x"),
                    Takes::Texts => json!(["x"]),
                    Takes::Flag => json!(true),
                    Takes::Integer(..) => json!(7),
                    Takes::Environment => json!({"a": "b", "c": null}),
                    Takes::OneOf(words) => json!(words[0]),
                    Takes::Limits => json!({"openFiles": 64.0, "nice": 19}),
                    Takes::Signal => json!("INT"),
                };
                given.insert(parameter.name.to_owned(), value);
            }
            let count = given.len();
            let arguments = tool.arguments(given).expect("all of them are accepted");
            // Each of them is found in what the arguments show that differs from none.
            let (shown, none) = (format!("{arguments:#?}"), format!("{:#?}", Arguments::default()));
            let names = |text: &str| -> Vec<String> {
                let lines = text
                    .lines()
                    .filter(|line| line.starts_with("    ") && !line.starts_with("     "));
                lines.map(str::to_owned).collect()
            };
            let (shown, none) = (names(&shown), names(&none));
            let differ = shown
                .iter()
                .filter(|line| !none.contains(line) && line.contains(": "));
            assert_eq!(differ.count(), count, "{}: {shown:#?}", tool.name);
        }
    }
}
