//! The wire: the vocabulary, the envelope of messages, framing, signal names, modes of terminals, and the
//! schema.
//!
//! **Thread:** none of its own.
//! **Owns:** nothing; each file says what it owns.
//! **Never:** reads, writes or waits.

pub(crate) mod framing;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod inspect;
pub(crate) mod message;
pub(crate) mod modes;
pub mod protocol;
mod quick;
#[cfg(feature = "schema")]
pub mod schema;
pub(crate) mod signal;
