//! The vocabulary of the protocol: methods, params, results, notifications and error codes.
//!
//! `docs/protocol.md` says what each means. Times are in milliseconds and sizes in bytes, as the names of
//! the members say; bytes are bytes here, and base64 only on a line.
//!
//! Params have [`Default`], and a literal ends in `..Default::default()`, so that it compiles when the
//! protocol has grown:
//!
//! ```
//! use procwire::protocol::{
//!     Condition, InheritEnv, KillParams, Limit, OutputKeep, PtySize, Redirect, Request, ResourceLimits,
//!     SpawnParams, WaitParams, WriteStdinParams,
//! };
//!
//! let build = Request::Spawn(Box::new(SpawnParams {
//!     command: vec!["make".into(), "-j8".into()],
//!     process_handle: "build".into(),
//!     inherit_env: InheritEnv::Only(vec!["PATH".into(), "LC_*".into()]),
//!     stderr: Some(Redirect::Stdout),
//!     output_keep: Some(OutputKeep::HeadTail { head: 64 * 1024, tail: 64 * 1024 }),
//!     timeout_ms: Limit::Of(600_000),
//!     limits: Some(Box::new(ResourceLimits {
//!         open_files: Some(1024),
//!         ..ResourceLimits::default()
//!     })),
//!     ..SpawnParams::default()
//! }));
//! let shell = Request::Spawn(Box::new(SpawnParams {
//!     command: vec!["sh".into()],
//!     process_handle: "shell".into(),
//!     tty: true,
//!     size: Some(PtySize { rows: 30, cols: 100 }),
//!     timeout_ms: Limit::Unlimited,
//!     ..SpawnParams::default()
//! }));
//! let prompt = Request::Wait(WaitParams {
//!     process_handle: "shell".into(),
//!     until: vec![Condition::Input, Condition::Exit],
//!     ..WaitParams::default()
//! });
//! let line = Request::WriteStdin(WriteStdinParams {
//!     process_handle: "shell".into(),
//!     delta: Some(b"stty size\n".to_vec()),
//!     ..WriteStdinParams::default()
//! });
//! let interrupt = Request::Kill(KillParams {
//!     process_handle: "build".into(),
//!     signal: Some("INT".into()),
//!     grace_ms: Some(2_000),
//! });
//! # for request in [build, shell, prompt, line, interrupt] { assert!(request.method().starts_with("process/")); }
//! ```

// **Thread:** none of its own; plain data that travels between all of them.
// **Owns:** the meaning of every member of the params; what a client sends is here, the rest in the files
// that this one names.
// **Never:** knows which method they belong to, which `methods.rs` says, or how a message looks on a line,
// which `message.rs` does.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

pub use crate::wire::error::{RpcError, SpawnFailure, Stage, code};
pub use crate::wire::inspect::{
    Foreground, Guarantees, InspectParams, Inspection, ProcessState, TerminalState,
};
use crate::wire::methods::Params;
pub use crate::wire::methods::{Reply, Request};
pub use crate::wire::notifications::{
    Collected, CollectedTail, Exited, OutputDelta, ServerMessage, Stream, Usage, notification,
};
pub use crate::wire::output::{CloseOutputParams, Condition, OutputKeep, WaitParams, WaitReply};
pub use crate::wire::results::*;
pub use crate::wire::start::{InheritEnv, LimitName, Redirect, ResourceLimits, StreamFile};

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
    /// How many bytes it holds besides itself.
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

/// Params of `initialize`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InitializeParams {
    /// The calling program.
    #[serde(deserialize_with = "crate::wire::members::object")]
    pub client_info: ClientInfo,
    /// What the client can do and does not want.
    #[serde(
        default,
        deserialize_with = "crate::wire::members::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub capabilities: Option<Capabilities>,
}

impl Params for InitializeParams {}

/// The calling program: part of `initialize`.
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
    /// Notification methods that are not sent on this connection: exact names, unknown ones are ignored.
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
    schemars(
        transform = crate::wire::schema::terminals_want_tty,
        transform = crate::wire::schema::one_origin_a_stream,
        transform = crate::wire::output::head_and_tail_are_the_cap
    )
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
    /// Laid over what is inherited of the server's environment; a variable without a value is unset.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<crate::wire::schema::Environment>")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, Option<String>>>,
    /// What is inherited of the server's environment: all, nothing, or the variables with these names,
    /// of which one that ends in `*` stands for all that begin so.
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::Inherited"))]
    #[serde(default, skip_serializing_if = "InheritEnv::is_default")]
    pub inherit_env: InheritEnv,
    /// Give the process a PTY of its own; implies both stream flags.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tty: bool,
    /// The terminal's size, with `tty` only; 24 x 80 where it is left out.
    #[serde(
        default,
        deserialize_with = "crate::wire::members::optional_object",
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
    /// Where stdin comes from if it is not streamed: `/dev/null`, which is the default, or a file. Not
    /// with `tty`.
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::StdinFrom"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Redirect>,
    /// Where stdout goes: through a pipe to the client, which is the default, to `/dev/null` or into a
    /// file. Not with `tty`.
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::StdoutTo"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Redirect>,
    /// Where stderr goes: as stdout, or to where that goes. Not with `tty`.
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::StderrTo"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Redirect>,
    /// Bytes of output kept of each stream.
    #[serde(default, skip_serializing_if = "Limit::is_default")]
    pub output_bytes_cap: Limit,
    /// What is kept of a stream that outgrows its cap: its beginning, its end, or some of both, and then
    /// the cap is the sum and `outputBytesCap` is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_keep: Option<OutputKeep>,
    /// Milliseconds after which the process is killed.
    #[serde(default, skip_serializing_if = "Limit::is_default")]
    pub timeout_ms: Limit,
    /// When the time is up, SIGTERM comes first, and the kill follows after so many milliseconds if
    /// anything is left. Without a timeout it has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_grace_ms: Option<u64>,
    /// What the process may use.
    #[serde(
        default,
        deserialize_with = "crate::wire::members::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<ResourceLimits>"))]
    pub limits: Option<Box<ResourceLimits>>,
    /// The process and what it starts may outlive the connection.
    #[serde(default, skip_serializing_if = "is_false")]
    pub detach: bool,
}

impl Params for SpawnParams {
    fn handle(&self) -> Option<&str> {
        Some(&self.process_handle)
    }

    fn cost(&self) -> usize {
        let env = self.env.iter().flatten().map(|(name, value)| {
            2 * size_of::<String>() + name.len() + value.as_ref().map_or(0, String::len)
        });
        let modes = self.terminal_modes.iter().flatten();
        let modes = modes.map(|(name, _)| size_of::<String>() + name.len());
        let streams = [&self.stdin, &self.stdout, &self.stderr];
        let files = streams.into_iter().flatten().map(Redirect::len);
        // The table of handles has the handle once more.
        2 * self.process_handle.len()
            + modes.sum::<usize>()
            + files.sum::<usize>()
            + cost_of_strings(self.inherit_env.names())
            + self.cwd.as_ref().map_or(0, String::len)
            + cost_of_strings(&self.command)
            + env.sum::<usize>()
    }
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
        with = "crate::wire::members::optional_base64",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::wire::schema::Base64>"))]
    pub delta: Option<Vec<u8>>,
    /// End the input after these and all earlier bytes; on a PTY, type end-of-file.
    #[serde(default, skip_serializing_if = "is_false")]
    pub close_stdin: bool,
}

impl Params for WriteStdinParams {
    fn handle(&self) -> Option<&str> {
        Some(&self.process_handle)
    }
}

/// Params of `process/resizePty`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResizePtyParams {
    /// Which process: its name, at most 4,096 bytes of UTF-8, where `maxLength` counts characters.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_HANDLE_BYTES)))]
    pub process_handle: String,
    /// The new size.
    #[serde(deserialize_with = "crate::wire::members::object")]
    pub size: PtySize,
}

impl Params for ResizePtyParams {
    fn handle(&self) -> Option<&str> {
        Some(&self.process_handle)
    }
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

impl Params for KillParams {
    fn handle(&self) -> Option<&str> {
        Some(&self.process_handle)
    }

    fn cost(&self) -> usize {
        let signal = match &self.signal {
            Some(SignalName::Name(name)) => name.len(),
            Some(SignalName::Number(_)) | None => 0,
        };
        self.process_handle.len() + signal
    }
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

/// Params of a method that has none.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct NoParams {}

impl Params for NoParams {}

/// What strings hold, themselves included.
pub(crate) fn cost_of_strings(strings: &[String]) -> usize {
    strings.iter().map(|s| size_of::<String>() + s.len()).sum()
}
