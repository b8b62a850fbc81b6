//! The wire: the vocabulary, the envelope of messages, framing, signal names, and the schema.

pub(crate) mod framing;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod message;
pub(crate) mod modes;
pub mod protocol;
mod quick;
#[cfg(feature = "schema")]
pub mod schema;
pub(crate) mod signal;
