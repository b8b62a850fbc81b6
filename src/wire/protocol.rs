//! The vocabulary of the protocol: methods, params, results, notifications and error codes.
//!
//! **Thread:** none of its own; plain data that travels between all of them.
//! **Owns:** the meaning of every field; docs/protocol.md says the same in prose.
//! **Never:** knows how a message looks on a line, which `message.rs` does; bytes are bytes here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// The id of a request: a string or an integer of the whole `i64`/`u64` range, given back as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum RequestId {
    /// An integer that fits in `i64`.
    Signed(i64),
    /// An integer above `i64::MAX`.
    Unsigned(u64),
    /// A string.
    Text(String),
}

impl RequestId {
    /// How many bytes it holds beside itself.
    pub(crate) fn len(&self) -> usize {
        match self {
            RequestId::Signed(_) | RequestId::Unsigned(_) => 0,
            RequestId::Text(text) => text.len(),
        }
    }
}

impl From<i64> for RequestId {
    fn from(id: i64) -> Self {
        RequestId::Signed(id)
    }
}

impl From<&str> for RequestId {
    fn from(id: &str) -> Self {
        RequestId::Text(id.to_owned())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestId::Signed(id) => id.fmt(f),
            RequestId::Unsigned(id) => id.fmt(f),
            RequestId::Text(id) => write!(f, "{id:?}"),
        }
    }
}

/// The longest handle, in bytes of UTF-8. It comes back in every notification, and is held several times.
pub(crate) const MAX_HANDLE_BYTES: usize = 4_096;
/// How much of what a client sent an error quotes.
const MAX_QUOTED_CHARS: usize = 200;

/// What a client sent, for an error about it: cut where it is long, and then it ends in `…`.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// A request of the client, one variant for each method.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// `initialize`: optional handshake.
    Initialize(InitializeParams),
    /// `process/spawn`: start a program.
    Spawn(SpawnParams),
    /// `process/writeStdin`: feed a program, or end its input.
    WriteStdin(WriteStdinParams),
    /// `process/resizePty`: change the size of a terminal.
    ResizePty(ResizePtyParams),
    /// `process/kill`: signal a process.
    Kill(KillParams),
    /// `process/list`: the live processes.
    List,
}

/// Params of `initialize`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InitializeParams {
    /// Who is calling.
    #[serde(deserialize_with = "crate::wire::message::object")]
    pub client_info: ClientInfo,
    /// What the client can do and does not want.
    #[serde(
        default,
        deserialize_with = "crate::wire::message::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub capabilities: Option<Capabilities>,
}

/// Who is calling: part of `initialize`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClientInfo {
    /// The program's name.
    pub name: String,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The program's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What a client can do and does not want: part of `initialize`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Capabilities {
    /// Accepted for compatibility; nothing depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experimental_api: Option<bool>,
    /// Notification methods that shall not be sent on this connection: exact names, unknown ones are ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opt_out_notification_methods: Option<Vec<String>>,
}

/// A number that may be left to the server, switched off, or given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Limit {
    /// The server's default (the member is left out).
    #[default]
    Default,
    /// No limit (the member is `null`).
    Unlimited,
    /// This many (bytes or milliseconds, as the field says).
    Of(u64),
}

impl Limit {
    /// The limit in force, where `default` is the server's own (`None`: none).
    ///
    /// ```
    /// # use procwire::protocol::Limit;
    /// assert_eq!(Limit::Default.or_default(Some(10)), Some(10));
    /// assert_eq!(Limit::Unlimited.or_default(Some(10)), None);
    /// assert_eq!(Limit::Of(5).or_default(Some(10)), Some(5));
    /// ```
    pub fn or_default(self, default: Option<u64>) -> Option<u64> {
        match self {
            Limit::Default => default,
            Limit::Unlimited => None,
            Limit::Of(n) => Some(n),
        }
    }

    fn is_default(&self) -> bool {
        matches!(self, Limit::Default)
    }
}

impl Serialize for Limit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Limit::Of(n) => serializer.serialize_u64(*n),
            Limit::Default | Limit::Unlimited => serializer.serialize_none(),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LimitVisitor;
        impl Visitor<'_> for LimitVisitor {
            type Value = Limit;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a non-negative integer or null")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Limit, E> {
                Ok(Limit::Unlimited)
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Limit, E> {
                Ok(Limit::Of(n))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Limit, E> {
                Err(E::custom(format_args!("must be non-negative, got {n}")))
            }
        }
        deserializer.deserialize_any(LimitVisitor)
    }
}

/// Params of `process/spawn`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(transform = crate::wire::schema::terminals_want_tty)
)]
pub struct SpawnParams {
    /// The argument vector: program first, no shell.
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::Argv"))]
    pub command: Vec<String>,
    /// The client's name for the process, unique among the connection's live processes: at most 4,096
    /// bytes of UTF-8, where `maxLength` counts characters.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_HANDLE_BYTES)))]
    pub process_handle: String,
    /// Absolute working directory; the server's own where it is left out.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<crate::wire::schema::AbsolutePath>")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Laid over the server's environment; a variable without a value is unset.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<crate::wire::schema::Environment>")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, Option<String>>>,
    /// Give the process a PTY of its own; implies both stream flags.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tty: bool,
    /// The terminal's size, with `tty` only; 24 x 80 where it is left out.
    #[serde(
        default,
        deserialize_with = "crate::wire::message::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub size: Option<PtySize>,
    /// Modes of the terminal by their names in stty(1), with `tty` only: the byte of a key, where 0 is
    /// no key, and 0 or 1 for a switch. Those that are left out are the system's.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<crate::wire::schema::TerminalModes>")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_modes: Option<BTreeMap<String, u8>>,
    /// Keep stdin open for `process/writeStdin`; otherwise it is `/dev/null`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stream_stdin: bool,
    /// Send output as it comes; otherwise it is collected into `process/exited`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stream_stdout_stderr: bool,
    /// Bytes of output kept of each stream.
    #[serde(default, skip_serializing_if = "Limit::is_default")]
    pub output_bytes_cap: Limit,
    /// Milliseconds after which the process is killed.
    #[serde(default, skip_serializing_if = "Limit::is_default")]
    pub timeout_ms: Limit,
    /// The process and what it starts may outlive the connection.
    #[serde(default, skip_serializing_if = "is_false")]
    pub detach: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A terminal's size in character cells; both numbers are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PtySize {
    /// Lines.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub rows: u16,
    /// Columns.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub cols: u16,
}

impl Default for PtySize {
    fn default() -> Self {
        PtySize { rows: 24, cols: 80 }
    }
}

/// Params of `process/writeStdin`: bytes, or the end of the input, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(transform = crate::wire::schema::delta_or_close)
)]
pub struct WriteStdinParams {
    /// Which process: its name, at most 4,096 bytes of UTF-8, where `maxLength` counts characters.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_HANDLE_BYTES)))]
    pub process_handle: String,
    /// The bytes; base64 on the wire.
    #[serde(
        default,
        rename = "deltaBase64",
        with = "crate::wire::message::optional_base64",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::wire::schema::Base64>"))]
    pub delta: Option<Vec<u8>>,
    /// End the input behind these and all earlier bytes; on a PTY, type end-of-file.
    #[serde(default, skip_serializing_if = "is_false")]
    pub close_stdin: bool,
}

/// Params of `process/resizePty`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResizePtyParams {
    /// Which process: its name, at most 4,096 bytes of UTF-8, where `maxLength` counts characters.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_HANDLE_BYTES)))]
    pub process_handle: String,
    /// The new size.
    #[serde(deserialize_with = "crate::wire::message::object")]
    pub size: PtySize,
}

/// Params of `process/kill`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KillParams {
    /// Which process: its name, at most 4,096 bytes of UTF-8, where `maxLength` counts characters.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_HANDLE_BYTES)))]
    pub process_handle: String,
    /// The signal, SIGKILL where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalName>,
    /// Milliseconds after which SIGKILL follows if the process is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// A signal as a client names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SignalName {
    /// `2`
    Number(i32),
    /// `"SIGINT"` or `"INT"`
    Name(String),
}

impl<'de> Deserialize<'de> for SignalName {
    /// By hand, because an untagged enum copies the value before it looks at it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SignalVisitor;
        impl Visitor<'_> for SignalVisitor {
            type Value = SignalName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a signal's name or number")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<SignalName, E> {
                let number = i32::try_from(n).map(SignalName::Number);
                number.map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<SignalName, E> {
                let number = i32::try_from(n).map(SignalName::Number);
                number.map_err(|_| E::invalid_value(de::Unexpected::Unsigned(n), &self))
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<SignalName, E> {
                Ok(SignalName::Name(name.to_owned()))
            }
        }
        deserializer.deserialize_any(SignalVisitor)
    }
}

impl From<i32> for SignalName {
    fn from(number: i32) -> Self {
        SignalName::Number(number)
    }
}

impl From<&str> for SignalName {
    fn from(name: &str) -> Self {
        SignalName::Name(name.to_owned())
    }
}

/// What a request that succeeded is answered with.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To `initialize`.
    Initialize(Box<InitializeReply>),
    /// To `process/spawn`: the program runs.
    Spawn {
        /// The process's id in the server's pid namespace.
        pid: u32,
    },
    /// To `process/writeStdin`, `process/resizePty` and `process/kill`: done.
    Done,
    /// To `process/list`.
    List(Vec<ProcessInfo>),
}

/// The answer to `initialize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InitializeReply {
    /// `procwire/<version> (<os>; <architecture>) <client>`.
    pub user_agent: String,
    /// Where codex would keep its files: `$CODEX_HOME` if that is absolute, else `$HOME/.codex`, else
    /// `/`. For clients of `codex app-server`, which expect it; nothing is read or made there.
    #[serde(default)]
    pub codex_home: String,
    /// `unix`.
    pub platform_family: String,
    /// `linux`.
    pub platform_os: String,
    /// Name and version of the server.
    pub server_info: ServerInfo,
    /// Every default and limit in force.
    pub limits: Limits,
}

/// Name and version of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServerInfo {
    /// `procwire`.
    pub name: String,
    /// The crate's version.
    pub version: String,
}

/// Every default and limit in force, as `initialize` tells them. Bytes and milliseconds;
/// what has no value has no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// One live process, as `process/list` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// Which output a delta belongs to. Everything a PTY prints is stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// `process/outputDelta`: the next bytes of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputDelta {
    /// Which process.
    pub process_handle: Arc<str>,
    /// Which stream.
    pub stream: Stream,
    /// The bytes; base64 on the wire.
    pub bytes: Vec<u8>,
    /// Bytes were dropped after these because of the cap; this is the stream's last delta.
    pub cap_reached: bool,
    /// The stream's byte position of the first byte.
    pub offset: u64,
}

/// `process/exited`: the last word on a handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exited {
    /// Which process.
    pub process_handle: Arc<str>,
    /// The exit code; 128 + n for death by signal n; 124 on timeout.
    pub exit_code: i32,
    /// What was collected of stdout; empty when streamed.
    pub stdout: Collected,
    /// What was collected of stderr; empty when streamed.
    pub stderr: Collected,
    /// Something kept an output open after the exit, and waiting for it was given up.
    pub output_drain_timed_out: bool,
    /// The process id it had.
    pub pid: u32,
    /// The name of the signal that ended it.
    pub signal: Option<String>,
    /// Whether it left a core dump.
    pub core_dumped: bool,
    /// Whether it was killed because its time was up.
    pub timed_out: bool,
    /// From start to exit.
    pub duration: Duration,
    /// What it used, with those of its children that it waited for.
    pub usage: Usage,
    /// Bytes it wrote to stdout, the capped part included.
    pub stdout_bytes: u64,
    /// Bytes it wrote to stderr, the capped part included.
    pub stderr_bytes: u64,
}

impl Exited {
    /// The params of `process/exited` as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        crate::wire::message::exited_json(self)
    }
}

/// Output that was collected instead of streamed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// The first bytes of the stream, up to the cap.
    pub bytes: Vec<u8>,
    /// Bytes were dropped because of the cap.
    pub cap_reached: bool,
}

/// Processor time and memory of a process that has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The largest resident set, in bytes.
    pub max_rss_bytes: u64,
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerMessage {
    /// The one answer to a request.
    Response {
        /// The request's id; `None` where none could be read.
        id: Option<RequestId>,
        /// What came of it.
        outcome: Result<Reply, RpcError>,
    },
    /// `process/outputDelta`.
    OutputDelta(OutputDelta),
    /// `process/exited`.
    Exited(Box<Exited>),
}

/// The method names of notifications, as `optOutNotificationMethods` has them.
pub mod notification {
    /// The next bytes of a stream.
    pub const OUTPUT_DELTA: &str = "process/outputDelta";
    /// The end of a process.
    pub const EXITED: &str = "process/exited";
}

/// Error codes of JSON-RPC and of the protocol.
pub mod code {
    /// Not JSON, or not UTF-8.
    pub const PARSE_ERROR: i64 = -32700;
    /// No request, or one that cannot be carried out in the present state.
    pub const INVALID_REQUEST: i64 = -32600;
    /// No such method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The params do not fit.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The machine refused.
    pub const INTERNAL_ERROR: i64 = -32603;
    /// Too much is pending already.
    pub const OVERLOADED: i64 = -32001;
}

/// An error as the wire has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    /// One of [`code`].
    pub code: i64,
    /// One sentence for people, naming what was wrong.
    pub message: String,
    /// For programs: why a program could not be started.
    pub data: Option<SpawnFailure>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        RpcError {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// The error object as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        crate::wire::message::error_json(self)
    }

    pub(crate) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_REQUEST, message)
    }

    pub(crate) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_PARAMS, message)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl std::error::Error for RpcError {}

/// Why a program could not be started: `data` of error -32603.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SpawnFailure {
    /// The system's error number.
    pub errno: i32,
    /// Its name, `"ENOENT"` for example.
    pub code: String,
    /// Where it happened.
    pub stage: Stage,
    /// The program as the client named it; of a long name the first 200 characters and `…`.
    pub program: String,
}

/// The step of starting a program that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Stage {
    /// Entering the working directory.
    Cwd,
    /// Finding the program on the child's `PATH`.
    Lookup,
    /// Executing it.
    Exec,
    /// Opening the terminal.
    Pty,
    /// Making pipes or other descriptors.
    Pipe,
    /// Starting the server's thread for it.
    Thread,
}

impl Stage {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Cwd => "cwd",
            Stage::Lookup => "lookup",
            Stage::Exec => "exec",
            Stage::Pty => "pty",
            Stage::Pipe => "pipe",
            Stage::Thread => "thread",
        }
    }
}
