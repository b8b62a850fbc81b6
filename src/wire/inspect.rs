//! What `process/inspect` answers, and what a server guarantees.
//!
//! **Thread:** any; there is no state here.
//! **Owns:** nothing.
//! **Never:** leaves a fact out or makes one up: what is not known is null.

use serde::{Deserialize, Serialize};

use crate::wire::methods::Params;
#[cfg(feature = "schema")]
use crate::wire::protocol::MAX_HANDLE_BYTES;

/// Params of `process/inspect`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InspectParams {
    /// Which process: its name, at most 4,096 bytes of UTF-8, where `maxLength` counts characters.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_HANDLE_BYTES)))]
    pub process_handle: String,
}

impl Params for InspectParams {
    fn handle(&self) -> Option<&str> {
        Some(&self.process_handle)
    }
}

/// What the machine shows of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "InspectReply")
)]
#[non_exhaustive]
pub struct Inspection {
    /// Its process id.
    pub pid: u32,
    /// Its terminal; null without `tty`.
    pub terminal: Option<TerminalState>,
    /// The process that reads the terminal's keyboard; null without `tty`, and where there is none.
    pub foreground: Option<Foreground>,
    /// Whether it is blocked in a read of its terminal or of its stdin; null where that cannot be known.
    pub waits_for_input: Option<bool>,
    /// The process and all below it that can be found, oldest first.
    pub processes: Vec<ProcessState>,
    /// How many more there are than `processes` can have; left out for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes_omitted: Option<u64>,
}

impl Inspection {
    /// About how many bytes it holds.
    pub(crate) fn weight(&self) -> usize {
        let of_command = |command: &Option<Vec<String>>| {
            let arguments = command.iter().flatten();
            arguments
                .map(|argument| size_of::<String>() + argument.len())
                .sum::<usize>()
        };
        let processes = self.processes.iter();
        size_of::<Inspection>()
            + self.foreground.as_ref().map_or(0, |f| of_command(&f.command))
            + processes
                .map(|process| size_of::<ProcessState>() + of_command(&process.command))
                .sum::<usize>()
    }
}

/// The modes and the size of a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TerminalState {
    /// Input comes by lines (ICANON).
    pub canonical: bool,
    /// What is typed is shown (ECHO).
    pub echo: bool,
    /// Its height in characters.
    pub rows: u16,
    /// Its width in characters.
    pub cols: u16,
}

/// The foreground of a terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Foreground {
    /// The leader of the foreground group, or the oldest member that is left.
    pub pid: u32,
    /// Its arguments, as in `processes`.
    pub command: Option<Vec<String>>,
}

/// One process, as the machine shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ProcessState {
    /// Its process id.
    pub pid: u32,
    /// The process id of its parent.
    pub parent_pid: Option<u32>,
    /// Its arguments, of which 1,024 bytes are shown; one that is cut ends in `…`. The name of its program in
    /// brackets if it has none, as when it has ended.
    pub command: Option<Vec<String>>,
    /// The letter that `ps` shows: R, S, D, T, Z and so on.
    pub state: Option<String>,
    /// How many threads it has.
    pub threads: Option<u64>,
    /// The processor time that it has used, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// What it has in memory, in bytes.
    pub rss_bytes: Option<u64>,
}

/// What a server enforces where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Guarantees {
    /// A kill reaches everything that descends from the process by living parents.
    pub kills_tree: bool,
    /// What has cut its ancestry ends with the connection, too.
    pub kills_daemons_at_end: bool,
    /// If the server is killed, everything it has started is killed all the same.
    pub survives_server_kill: bool,
    /// `process/inspect` knows what the processes do.
    pub inspect: bool,
    /// The limits of a spawn are kept.
    pub limits: bool,
}
