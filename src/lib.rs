//! Starts and controls programs: runs them, streams their output, writes to their stdin, resizes their
//! terminals, kills them with everything they started, and reports how they exited. It uses threads, and
//! no async runtime.
//!
//! # Run programs
//!
//! [`client`] has the shape of [`std::process`]. Here the server runs in this program;
//! [`Client::launch`](client::Client::launch) starts one elsewhere, such as `ssh host procwire`.
//!
//! ```
//! use procwire::client::{Client, Command};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::in_process(procwire::Config::default())?;
//! let output = client.output(Command::new("echo").arg("hi"))?;
//! assert_eq!(output.stdout, b"hi\n");
//! assert_eq!(client.status(Command::shell("exit 3"))?.code(), Some(3));
//! # Ok(())
//! # }
//! ```
//!
//! # Serve a client
//!
//! [`serve`] serves one [`Connection`]: over stdin and stdout ([`Connection::stdio`]), over any reader and
//! writer ([`Connection::from_io`]), or in memory with typed messages, as here. `docs/protocol.md` has the
//! wire form of every message, and [`protocol`] its types.
//!
//! ```
//! use procwire::protocol::{Request, ServerMessage, SpawnParams};
//! use procwire::{Config, Connection, serve};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (connection, mut client) = Connection::memory();
//! let server = std::thread::spawn(move || serve(connection, Config::default()));
//!
//! client.send(1, Request::Spawn(Box::new(SpawnParams {
//!     command: vec!["echo".into(), "hi".into()],
//!     process_handle: "a".into(),
//!     ..SpawnParams::default()
//! })))?;
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
//! # What it guarantees
//!
//! Every request is answered exactly once. Every successful spawn has exactly one exit, after all output
//! that was written before it. Memory is bounded whatever the client and the processes do. When [`serve`]
//! returns, the processes that were started are gone, as far as they can be found without changing
//! anything process-wide: see [`serve`]. The binary does more: its guard kills what is left even after
//! SIGKILL.
//!
//! # What it does to your program
//!
//! It changes nothing process-wide: it installs no signal handler, waits for no pid it did not start,
//! leaves the environment, the working directory and limits alone, never prints and never exits. Its
//! threads block all signals for themselves. SIGCHLD must not be ignored: [`serve`] returns an error then.
//!
//! # Threads
//!
//! | thread | what it does | ends |
//! | --- | --- | --- |
//! | the caller of [`serve`] | takes requests, owns the table of handles | with the connection |
//! | `proc-N`, one for each process | starts it, reads, writes, signals and reaps it | with its process |
//! | `tree`, `exit`, rarely | a kill without free descriptors; an exit without pidfds | with that kill or exit |
//! | `inspect`, one for each process that is inspected | reads what the system shows of it | with that look |
//! | `rpc-read`, `rpc-write` | bytes to messages and back; not for a connection in memory | with the reader and the writer |
//!
//! # Features
//!
//! `cli` is the binary, and `schema` the module of that name, which describes the protocol as JSON Schema
//! and OpenRPC. Both are on by default; a library needs neither: `default-features = false`.

#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
compile_error!(
    "procwire runs on Linux, and compiles on macOS and FreeBSD; it does not support other systems"
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

/// The examples of the README, so that they are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The examples of the client's page, likewise.
#[cfg(doctest)]
#[doc = include_str!("../docs/clients/rust.md")]
struct RustPage;
