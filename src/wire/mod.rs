//! The wire: the vocabulary, the envelope of messages, framing, signal names, modes of terminals, and the
//! schema.
//!
//! **Thread:** none of its own.
//! **Owns:** nothing; each file says what it owns.
//! **Never:** reads, writes or waits.

pub(crate) mod client;
mod error;
pub(crate) mod framing;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod inspect;
mod members;
pub(crate) mod message;
pub(crate) mod methods;
pub(crate) mod modes;
pub(crate) mod notifications;
pub(crate) mod output;
pub mod protocol;
mod quick;
mod results;
#[cfg(feature = "schema")]
pub mod schema;
pub(crate) mod signal;
pub(crate) mod start;
