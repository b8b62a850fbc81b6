//! Starts and controls programs: spawn them, stream what they print, feed their stdin, resize their
//! terminals, kill them, and learn how they ended, over lines of JSON-RPC or inside one program.
//!
//! A program that starts others has to get a hundred things right: output that is read before it
//! fills a pipe, a stdin that is not read, grandchildren that keep a pipe open, kills that reach
//! everything, exits that come after the last byte. This crate does that on threads, without an
//! async runtime, behind one function, [`serve`], and a [`Connection`]:
//!
//! ```
//! use procwire::protocol::{Request, ServerMessage, SpawnParams};
//! use procwire::{Config, Connection, serve};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (connection, mut client) = Connection::memory();
//! let server = std::thread::spawn(move || serve(connection, Config::default()));
//!
//! client.send(1, Request::Spawn(SpawnParams {
//!     command: vec!["echo".into(), "hi".into()],
//!     process_handle: "a".into(),
//!     ..SpawnParams::default()
//! }))?;
//! let exited = loop {
//!     if let ServerMessage::Exited(exited) = client.recv()? {
//!         break exited;
//!     }
//! };
//! assert_eq!(exited.stdout.bytes, b"hi\n");
//!
//! drop(client); // the end of the connection
//! server.join().expect("serve does not panic")?;
//! # Ok(())
//! # }
//! ```
//!
//! For a client that looks like [`std::process`], see [`client`]. Over lines, the same is
//! [`Connection::stdio`] or [`Connection::from_io`]; the wire form of every message is in
//! `docs/protocol.md`, and its vocabulary is [`protocol`].
//!
//! # Threads
//!
//! | thread | what it does | ends |
//! | --- | --- | --- |
//! | the caller of [`serve`] | takes requests, owns the table of handles | with the connection |
//! | `proc-N`, one a process | starts it, reads, feeds, signals and reaps it | with its process |
//! | `tree`, `exit`, rarely | a kill without free descriptors; an exit without pidfds | with that kill or exit |
//! | `rpc-read`, `rpc-write` | bytes to messages and back; not for a connection in memory | with the reader and the writer |
//!
//! # What it does to your program
//!
//! Nothing process-wide: no signal handler, no `waitpid` for a pid it did not start, no change to
//! the environment, the working directory or limits, nothing printed, no exit. Its threads block all
//! signals for themselves. It needs SIGCHLD not to be ignored, and says so if it is.
//!
//! # What it guarantees
//!
//! Every request is answered exactly once; every successful spawn has exactly one exit, after
//! all output that was written before it; memory is bounded whatever the client and the processes
//! do; and when [`serve`] returns, what was started is gone, as far as that can be known without
//! changing anything process-wide: see [`serve`]. The binary does more: its guard kills what is left even
//! after SIGKILL.

#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
compile_error!(
    "procwire runs on Linux; on macOS and FreeBSD it compiles; there is no code for other systems"
);

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod client;

mod outbox;
mod process;
mod server;
mod sys;
mod wire;

pub use server::connection::{ClientEnd, ClientReceiver, ClientSender, Connection, ConnectionEnded, Stopper};
pub use server::error::Error;
pub use server::{Config, End, serve};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use wire::fuzzing;
pub use wire::protocol;
#[cfg(feature = "schema")]
pub use wire::schema;

/// The example of the README, so that it is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The examples of the client's page, likewise.
#[cfg(doctest)]
#[doc = include_str!("../docs/clients/rust.md")]
struct RustPage;
