//! The wire's errors: their codes, their form, and why a program could not be started.
//!
//! **Thread:** none of its own; plain data.
//! **Owns:** the meaning of every code and stage.
//! **Never:** an error of the library, which `server/error.rs` has.

use std::fmt;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::start::LimitName;

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

/// An error. One that comes of starting a program has data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Error"))]
#[non_exhaustive]
pub struct RpcError {
    /// What kind of error it is, for programs.
    #[cfg_attr(feature = "schema", schemars(with = "crate::wire::schema::ErrorCode"))]
    pub code: i64,
    /// One sentence for people, naming what was wrong.
    pub message: String,
    /// Why a program could not be started, for programs.
    #[serde(
        default,
        deserialize_with = "known_data",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "SpawnFailure"))]
    pub data: Option<SpawnFailure>,
}

/// Data of another kind than ours says nothing to us.
fn known_data<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SpawnFailure>, D::Error> {
    let data = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(data.get()).ok())
}

impl RpcError {
    /// An error without data.
    ///
    /// ```
    /// # use procwire::protocol::{RpcError, code};
    /// let error = RpcError::new(code::INVALID_PARAMS, "command must not be empty");
    /// assert_eq!(error.to_string(), "command must not be empty (code -32602)");
    /// ```
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        RpcError {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// The error object as one line of JSON.
    ///
    /// ```
    /// # use procwire::protocol::{RpcError, code};
    /// let error = RpcError::new(code::METHOD_NOT_FOUND, "no such method");
    /// assert_eq!(error.to_json(), r#"{"code":-32601,"message":"no such method"}"#);
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        crate::wire::message::json(self)
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
#[non_exhaustive]
pub struct SpawnFailure {
    /// The system's error number.
    pub errno: i32,
    /// Its name, `"ENOENT"` for example.
    pub code: String,
    /// Where it happened.
    pub stage: Stage,
    /// The program as the client named it; of a long name the first 200 characters and `…`.
    pub program: String,
    /// Which of `limits` was refused, at that stage only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "LimitName"))]
    pub limit: Option<LimitName>,
}

/// The step of starting a program that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
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
    /// Opening what it is to read.
    Stdin,
    /// Opening what it is to print to.
    Stdout,
    /// Opening what it is to print errors to.
    Stderr,
    /// Setting what it may use.
    Limits,
}

impl Stage {
    /// The name on the wire.
    ///
    /// ```
    /// # use procwire::protocol::Stage;
    /// assert_eq!(Stage::Lookup.name(), "lookup");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Stage::Cwd => "cwd",
            Stage::Lookup => "lookup",
            Stage::Exec => "exec",
            Stage::Pty => "pty",
            Stage::Pipe => "pipe",
            Stage::Thread => "thread",
            Stage::Stdin => "stdin",
            Stage::Stdout => "stdout",
            Stage::Stderr => "stderr",
            Stage::Limits => "limits",
        }
    }
}
