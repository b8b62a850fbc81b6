//! A process server: spawn programs, stream what they print, feed their stdin, resize their
//! terminals, kill them, and learn how they ended, over lines of JSON-RPC or inside one program.
//!
//! wip
#[cfg(not(target_os = "linux"))]
compile_error!("procwire runs on Linux: it relies on pidfds, and has not been tried elsewhere");

#[cfg(feature = "cli")]
pub mod guard;
pub mod protocol;

mod connection;
mod error;
mod message;
mod outbox;
mod output;
mod process;
mod pty;
mod server;
mod signal;
mod spawn;
mod stdin;
mod sys;
mod transport;
mod tree;

pub use connection::{ClientEnd, ClientReceiver, ClientSender, Connection, ConnectionEnded, Stopper};
pub use error::Error;
pub use server::{Config, End, serve};
