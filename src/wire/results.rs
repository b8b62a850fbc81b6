//! What the methods are answered with: the result of each, with serde's form of it.
//!
//! **Thread:** none of its own; plain data.
//! **Owns:** the meaning of every member of a result.
//! **Never:** knows which method a result belongs to, which `methods.rs` says.
//!
//! A client takes results of other servers of the protocol, too, so what these leave out is zero or empty.

use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::wire::inspect::Guarantees;
use crate::wire::protocol::PtySize;

/// The answer to `initialize`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct InitializeReply {
    /// `procwire/<version> (<os>; <architecture>) <client>`.
    #[serde(deserialize_with = "or_default")]
    pub user_agent: String,
    /// Where codex would keep its files: `$CODEX_HOME` if that is absolute, else `$HOME/.codex`, else
    /// `/`. For clients of `codex app-server`, which expect it; nothing is read or made there.
    #[serde(deserialize_with = "or_default")]
    pub codex_home: String,
    /// `unix`.
    #[serde(deserialize_with = "or_default")]
    pub platform_family: String,
    /// `linux`.
    #[serde(deserialize_with = "or_default")]
    pub platform_os: String,
    /// Name and version of the server.
    #[serde(deserialize_with = "or_default")]
    pub server_info: ServerInfo,
    /// Every default and limit in force.
    #[serde(deserialize_with = "or_default")]
    pub limits: Limits,
    /// What the server enforces where it runs.
    #[serde(deserialize_with = "or_default")]
    pub guarantees: Guarantees,
}

/// Name and version of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ServerInfo {
    /// `procwire`.
    pub name: String,
    /// The crate's version.
    pub version: String,
}

/// Every default and limit in force, as `initialize` reports them. Bytes and milliseconds;
/// what has no value has no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Limits {
    /// The longest line a client may send.
    pub max_message_bytes: u64,
    /// The longest `processHandle`, in bytes of UTF-8.
    pub max_process_handle_bytes: u64,
    /// `timeoutMs` where a spawn leaves it out.
    pub default_timeout_ms: Option<u64>,
    /// `outputBytesCap` where a spawn leaves it out.
    pub default_output_bytes_cap: Option<u64>,
    /// Pending stdin up to which a write is answered at once.
    pub free_pending_stdin_bytes: u64,
    /// Pending stdin above which a write is refused.
    pub max_pending_stdin_bytes: u64,
    /// How long what keeps a pipe open delays `process/exited`.
    pub output_drain_ms: u64,
    /// The most bytes in one `process/outputDelta`.
    pub max_delta_bytes: u64,
    /// Requests in flight and live processes, together, past which the server reads no further request.
    pub max_in_flight: u64,
    /// The terminal's size where a spawn leaves it out.
    pub default_pty_size: PtySize,
}

/// One live process, as `process/list` reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ProcessInfo {
    /// The client's name for it.
    pub process_handle: String,
    /// Its process id.
    pub pid: u32,
    /// The argument vector as sent.
    pub command: Vec<String>,
    /// Its working directory at the start; no value if it was left to the server.
    pub cwd: Option<String>,
    /// Whether it has a PTY.
    pub tty: bool,
    /// When it was started, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// Bytes it has written to stdout so far.
    pub stdout_bytes: u64,
    /// Bytes it has written to stderr so far.
    pub stderr_bytes: u64,
    /// Bytes of its stdin that it has not taken yet.
    pub stdin_pending_bytes: u64,
}

/// The answer to `process/spawn`: the program runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SpawnReply {
    /// Its process id in the server's pid namespace.
    #[serde(default, deserialize_with = "or_default")]
    pub pid: u32,
}

/// The answer to `process/list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ListReply {
    /// The live processes, oldest first.
    pub processes: Vec<ProcessInfo>,
}

/// Done, and nothing to tell.
#[derive(Serialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("maxProperties" = 0))
)]
pub(crate) struct Done {}

impl<'de> Deserialize<'de> for Done {
    /// Whatever another server adds to it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Done {})
    }
}

/// A `null` is as good as a member that is left out.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
