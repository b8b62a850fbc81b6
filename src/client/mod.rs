//! A blocking client: processes of a server with the shape of [`std::process`].
//!
//! ```
//! use procwire::client::{Client, Command};
//! use std::io::{Read, Write};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::in_process(procwire::Config::default())?;
//! let mut process = client.spawn(Command::new("tr").args(["a-z", "A-Z"]))?;
//! process.stdin.take().expect("not taken yet").write_all(b"hello\n")?; // dropped: the end of input
//! let mut shout = String::new();
//! process.stdout.take().expect("not taken yet").read_to_string(&mut shout)?;
//! assert_eq!(shout, "HELLO\n");
//! assert!(process.wait()?.success());
//! # Ok(())
//! # }
//! ```
//!
//! The server is in this program ([`Client::in_process`]), a command that speaks the protocol on its
//! stdin and stdout, on this machine or another ([`Client::launch`] with `procwire`,
//! `ssh host procwire`, `docker exec -i c procwire`), or anything behind a reader and a writer
//! ([`Client::over`]). OpenAI's `codex app-server` is such a server, too.
//!
//! # What differs from std
//!
//! - A [`Command`] is started by a client: `client.spawn(&command)`, and likewise
//!   [`status`](Client::status), [`output`](Client::output).
//! - [`Client::spawn`] connects all three streams, and [`Client::status`] none.
//! - [`Process::kill`] reaches everything the process has started, and dropping a [`Process`] kills it.
//! - A signal has a name: [`ExitStatus::signal`].
//! - [`Error`] has what the server said; `?` in a function that returns [`std::io::Result`] turns it
//!   into the error that std gives.
//!
//! # Output that is not read
//!
//! All processes share one connection, on which one of them cannot be paused: what is there is read,
//! or nothing is. So everything is read at once, and each process's output waits for its reader in
//! memory. A process whose output is not read delays nothing, its own exit included, and holds at most
//! its limit, [`Command::unread_limit`] (64 MiB; for all together, [`Builder::unread_limit`]): what it
//! prints beyond that is lost, and reading fails after the last byte that is kept, once, so that the
//! loss cannot be overlooked. What was read before is an unbroken beginning of the stream, as with an
//! output cap. Output whose reading end was dropped is not kept at all.
//!
//! A client with one process can have the other bargain, [`Command::wait_when_unread`]: at the limit
//! nothing more is read from the server, which then holds back the process. Nothing is lost, and
//! everything else on the connection waits, answers and exits included.
//!
//! # A server that is not trusted
//!
//! A message of a server is 32 MiB at most, and a longer one ends the connection. Output, exits and
//! answers that were not asked for are dropped. Errors show at most 200 characters of what a server
//! sent, and no control characters. Its first answer ([`Builder::handshake_timeout`]) and its end
//! ([`Client::close`]) are waited for no longer than a time; any other answer is, so a server that stops
//! answering has to be ended ([`Client::server_pid`]). What has no answer to wait for never waits for the
//! server, also if that does not read: dropping anything, [`Process::wait_timeout`] and
//! [`Process::post_signal`]. A server in this program is trusted.

// **Thread:** whichever calls; `client-read`, one a client, takes what the server sends to where it
// is waited for; `client-post`, one a client and only while a server does not read, writes what was
// posted.
// **Owns:** the way to the server, the answers that are waited for, the processes that live.
// **Never:** signals or reaps a process; that is the server's business. Only a server that was
// launched as a command is a child of this program.

mod command;
mod control;
mod error;
mod launched;
mod lines;
mod process;
mod receive;
mod status;
mod stdio;
mod streams;
mod unread;

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

pub use command::Command;
pub use control::Control;
pub use error::Error;
pub use process::Process;
pub use status::{ExitStatus, Output};
pub use stdio::Stdio;
pub use streams::{Event, Events, Stderr, Stdin, Stdout};
pub use unread::OutputLost;

pub use crate::wire::protocol::{Condition, OutputKeep as Keep, WaitReply};

use crate::server::connection::{ClientSender, Connection};
use crate::server::{Config, serve};
use crate::sys::{self, Thread, lock};
use crate::wire::client;
use crate::wire::framing::Frames;
use crate::wire::methods::{Method, method};
use crate::wire::protocol::{
    Capabilities, ClientInfo, Guarantees, InitializeParams, InitializeReply, Limit, NoParams, ProcessInfo,
    Request, RequestId, RpcError, SpawnParams, SpawnReply, code,
};
use error::excerpt;
use launched::{Server, command_line};
use lines::Lines;
use process::Pipes;
use receive::{Answer, Incoming, Routes};
use unread::{Shared, Total};

/// The longest message that is taken from a server. Only a list of very many processes is long.
const MAX_MESSAGE_BYTES: usize = 32 * 1024 * 1024;

/// How long a server may take to answer `initialize`, unless the client says otherwise.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// How long a server that reads no more requests, or whose output has ended, may take to end.
const SERVER_END_WAIT: Duration = Duration::from_secs(5);
/// How long a server may take to end after its input has. It promises 3 s; this is for a machine that
/// has much else to do.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// Unread output of all processes that is kept, unless the client says otherwise.
const UNREAD_BYTES: usize = 256 * 1024 * 1024;

/// What one request writes at most.
const MAX_WRITE_BYTES: usize = 256 * 1024;
/// What the line of a write has beside its bytes: braces, names, an id, a handle of ours.
const WRITE_OVERHEAD_BYTES: usize = 256;

/// A client of one server.
///
/// The connection lives as long as the client or anything that came from it, and when it ends, so
/// does every process that was started on it, except those spawned with [`Command::detach`].
///
/// ```
/// # use procwire::client::{Client, Command};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::in_process(procwire::Config::default())?;
/// let output = client.output(Command::new("echo").arg("hi"))?;
/// assert!(output.status.success());
/// assert_eq!(output.stdout, b"hi\n");
/// # Ok(())
/// # }
/// ```
pub struct Client {
    link: Arc<Link>,
    reader: Thread<()>,
    /// Disconnected when `client-read` is about to end.
    reading: Receiver<()>,
}

impl Client {
    /// A server on a thread of this program, with neither JSON nor base64 in between. If this program
    /// is killed, its processes live on; where that must not be, [`launch`](Self::launch) the binary,
    /// which has a guard.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::in_process(procwire::Config::default())?;
    /// assert!(client.status(Command::new("true"))?.success());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a thread cannot be started, and [`Error::Handshake`] with what [`serve`] fails
    /// with.
    pub fn in_process(config: Config) -> Result<Client, Error> {
        Builder::default().in_process(config)
    }

    /// Starts a command that serves its stdin and stdout, and waits until it has answered. Its stderr is
    /// as the command says: this program's, unless it was redirected.
    ///
    /// ```no_run
    /// # use procwire::client::Client;
    /// # fn main() -> Result<(), procwire::client::Error> {
    /// let local = Client::launch(["procwire"])?;
    /// let remote = Client::launch(["ssh", "build.example", "procwire"])?;
    ///
    /// let mut quiet = std::process::Command::new("procwire");
    /// quiet.stderr(std::process::Stdio::null());
    /// let quiet = Client::launch(quiet)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Launch`] if the command cannot be started. [`Error::Handshake`] if it is not a server:
    /// if it ends, says something else, or has not answered after 10 seconds, which
    /// [`Builder::handshake_timeout`] changes. Both name the command. What was started is killed then.
    pub fn launch(server: impl Into<ServerCommand>) -> Result<Client, Error> {
        Builder::default().launch(server)
    }

    /// A server behind any reader and writer. The server must see the end of its input when the
    /// writer is dropped, and the reader must end when the server has gone; so for a socket, give a
    /// writer that shuts it down when it is dropped.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use procwire::{Config, Connection, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (input, to_server) = std::io::pipe()?;
    /// let (from_server, output) = std::io::pipe()?;
    /// std::thread::spawn(move || serve(Connection::from_io(input, output), Config::default()));
    ///
    /// let client = Client::over(from_server, to_server)?;
    /// assert!(client.status(Command::new("true"))?.success());
    /// client.close()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a thread cannot be started, and [`Error::Handshake`] if there is not a server.
    pub fn over(
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<Client, Error> {
        Builder::default().over(reader, writer)
    }

    /// The same three with options.
    ///
    /// ```
    /// # use procwire::client::{Client, Error};
    /// # use std::time::Duration;
    /// let error = Client::builder()
    ///     .handshake_timeout(Duration::from_millis(10))
    ///     .launch(["sleep", "1000"])
    ///     .expect_err("that is not a server");
    /// assert!(error.to_string().contains("\"sleep 1000\" has not answered"));
    /// ```
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The process id of the command that was [launched](Self::launch), for ending one that does not
    /// answer. As with [`std::process::Child::id`], another process may have it once that has ended.
    ///
    /// ```
    /// # use procwire::client::Client;
    /// # fn main() -> Result<(), procwire::client::Error> {
    /// let client = Client::in_process(procwire::Config::default())?;
    /// assert_eq!(client.server_pid(), None); // it is this program
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        self.link.server.pid()
    }

    /// Starts a program with its three streams connected, and returns once it runs.
    ///
    /// Takes a [`Command`], or a reference to one.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::new("sleep").arg("1000"))?;
    /// process.kill()?;
    /// assert_eq!(process.wait()?.signal(), Some("SIGKILL"));
    ///
    /// let error = client.spawn(Command::new("no-such-program")).expect_err("there is none");
    /// let error = std::io::Error::from(error);
    /// assert_eq!((error.kind(), error.raw_os_error()), (std::io::ErrorKind::NotFound, Some(2)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it cannot be started; its `data` says what the system refused at which
    /// step. [`Error::Invalid`] if the command cannot be sent.
    pub fn spawn(&self, command: impl Borrow<Command>) -> Result<Process, Error> {
        let command = command.borrow();
        let shared = Shared::new(command.unread_limit, command.wait_when_unread, &self.link.unread);
        self.start(command, shared, |_| ())
    }

    /// Runs a program to its end without input, drops all it prints, and says how it ended. std's
    /// [`status`](std::process::Command::status) passes its own streams on; a server's streams are not
    /// those of this program.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// assert!(client.status(Command::new("true"))?.success());
    /// assert_eq!(client.status(Command::shell("exit 3"))?.code(), Some(3));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn) and [`Process::wait`].
    pub fn status(&self, command: impl Borrow<Command>) -> Result<ExitStatus, Error> {
        let mut process = self.start(command.borrow(), Shared::without_limit(), |params| {
            params.stream_stdin = false;
            // The server drops it, so that it is not even sent.
            params.stream_stdout_stderr = false;
            params.output_bytes_cap = Limit::Of(0);
            params.output_keep = None;
        })?;
        process.wait()
    }

    /// Runs a program to its end with no input, and gives how it ended and all it printed, as
    /// [`std::process::Command::output`] does.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let output = client.output(Command::shell("echo out; echo err >&2; exit 3"))?;
    /// assert_eq!(output.status.code(), Some(3));
    /// assert_eq!((&*output.stdout, &*output.stderr), (&b"out\n"[..], &b"err\n"[..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn) and [`Process::wait_with_output`].
    pub fn output(&self, command: impl Borrow<Command>) -> Result<Output, Error> {
        let process = self.start(command.borrow(), Shared::without_limit(), |params| {
            params.stream_stdin = false
        })?;
        process.wait_with_output()
    }

    /// Runs a program to its end with this input, and gives how it ended and all it printed. Writes
    /// while it reads, so neither side has to fit anywhere. A program that does not read all of its
    /// input is not an error.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let output = client.output_with_input(Command::new("wc").arg("-c"), b"five!")?;
    /// assert_eq!(output.stdout, b"5\n");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn) and [`Process::wait_with_output`]; [`Error::Io`] if a thread cannot be
    /// started.
    pub fn output_with_input(
        &self,
        command: impl Borrow<Command>,
        input: impl AsRef<[u8]>,
    ) -> Result<Output, Error> {
        let command = command.borrow();
        if !command.takes_input() {
            let error = "a command with a stdin of its own takes no input".to_owned();
            return Err(Error::Invalid(error));
        }
        let mut process = self.start(command, Shared::without_limit(), |params| {
            params.stream_stdin = true
        })?;
        let stdin = process.stdin.take();
        let input = input.as_ref().to_vec();
        let writer = sys::start_thread("client-stdin", sys::STACK, move || match stdin {
            Some(mut stdin) => stdin.write_all(&input),
            None => Ok(()),
        })?;
        let output = match process.read_to_end() {
            Ok(output) => output,
            Err(error) => {
                // So that the writer ends as well.
                process.control().post_kill();
                return Err(error);
            }
        };
        match writer.join() {
            Ok(Err(e)) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::from_read(e)),
            Ok(_) => Ok(output),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn start(
        &self,
        command: &Command,
        shared: Shared,
        adapt: impl FnOnce(&mut SpawnParams),
    ) -> Result<Process, Error> {
        let handle: Arc<str> = format!("p{}", self.link.next_number()).into();
        let mut params = command.params(&handle, self.link.default_directory())?;
        adapt(&mut params);
        let pipes = Pipes {
            stdin: params.stream_stdin || command.has_tty(),
            stdout: params.stdout.is_none(),
            stderr: params.stderr.is_none(),
        };
        let shared = Arc::new(shared);
        // Before the request: the process may have ended before its answer has been seen.
        self.link.routes.add(&handle, &shared)?;
        match self.link.call::<method::Spawn>(params) {
            Ok(SpawnReply { pid }) => {
                // The reference does not tell it.
                let pid = (pid != 0).then_some(pid);
                let tty = command.has_tty();
                let control = Control::new(Arc::clone(&self.link), handle, pid, tty, shared);
                Ok(Process::new(control, pipes, command.kill_on_drop))
            }
            Err(error) => {
                self.link.routes.remove(&handle);
                if let Error::Unexpected(_) = error {
                    // It may run.
                    Control::new(Arc::clone(&self.link), handle, None, command.has_tty(), shared).post_kill();
                }
                Err(error)
            }
        }
    }

    /// The processes that live on this connection, oldest first.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let cat = client.spawn(Command::new("cat"))?;
    /// let list = client.list()?;
    /// assert_eq!((list.len(), Some(list[0].pid)), (1, cat.id()));
    /// assert_eq!(list[0].command, ["cat"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] or [`Error::Io`] if there is no server any more, [`Error::Refused`] if it has
    /// no such method, as codex app-server has not.
    pub fn list(&self) -> Result<Vec<ProcessInfo>, Error> {
        self.link
            .call::<method::List>(NoParams {})
            .map(|list| list.processes)
    }

    /// What the server enforces where it runs, for a program that shall not run without one of these. What a
    /// server does not tell, as codex app-server does not, is not guaranteed.
    ///
    /// ```
    /// # use procwire::client::Client;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::in_process(procwire::Config::default())?;
    /// // This program cannot end anything once it has been killed itself.
    /// assert!(!client.guarantees().survives_server_kill);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn guarantees(&self) -> Guarantees {
        self.link
            .initialized
            .get()
            .map_or_else(Guarantees::default, |server| server.guarantees)
    }

    /// Ends the connection, whatever still holds on to it, and waits until the server has ended
    /// what was started and itself. Dropping everything does the same without waiting.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let sleep = client.spawn(Command::new("sleep").arg("1000"))?;
    /// client.close()?; // it does not run any more
    /// assert!(sleep.resize(24, 80).is_err(), "there is no server any more");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the server ended otherwise than well, or has not ended after 10 seconds; one
    /// that was launched is killed then.
    pub fn close(self) -> Result<(), Error> {
        if !self.link.out.try_end() {
            // A request is being written, which a server that does not read holds up.
            let link = Arc::clone(&self.link);
            sys::start_thread("client-end", sys::STACK, move || link.out.end())?;
        }
        self.link.routes.let_go();
        if let Err(RecvTimeoutError::Timeout) = self.reading.recv_timeout(CLOSE_WAIT) {
            let server = &self.link.server;
            return Err(Error::Ended(Some(format!(
                "{} has not closed its output within {CLOSE_WAIT:?} of the end of its input{}",
                server.name(),
                server.kill()
            ))));
        }
        let _ = self.reader.join();
        match self.link.routes.reason() {
            None => Ok(()),
            Some(reason) => Err(Error::Ended(Some(reason))),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

// ---- the start ----

/// A command that serves its stdin and stdout: an array, a `Vec` or a slice of the program and its
/// arguments, or a [`std::process::Command`].
#[derive(Debug)]
pub struct ServerCommand(std::process::Command);

impl From<std::process::Command> for ServerCommand {
    fn from(command: std::process::Command) -> Self {
        ServerCommand(command)
    }
}

impl<S: AsRef<OsStr>> From<&[S]> for ServerCommand {
    fn from(words: &[S]) -> Self {
        let program = words.first().map_or(OsStr::new(""), AsRef::as_ref);
        let mut command = std::process::Command::new(program);
        command.args(words.iter().skip(1));
        ServerCommand(command)
    }
}

impl<S: AsRef<OsStr>, const N: usize> From<[S; N]> for ServerCommand {
    fn from(words: [S; N]) -> Self {
        ServerCommand::from(words.as_slice())
    }
}

impl<S: AsRef<OsStr>, const N: usize> From<&[S; N]> for ServerCommand {
    fn from(words: &[S; N]) -> Self {
        ServerCommand::from(words.as_slice())
    }
}

impl<S: AsRef<OsStr>> From<Vec<S>> for ServerCommand {
    fn from(words: Vec<S>) -> Self {
        ServerCommand::from(words.as_slice())
    }
}

/// How a client is connected: see [`Client::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    handshake_timeout: Option<Duration>,
    unread_limit: usize,
    server_name: Option<String>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            handshake_timeout: Some(HANDSHAKE_WAIT),
            server_name: None,
            unread_limit: UNREAD_BYTES,
        }
    }
}

impl Builder {
    /// How long the server may take until it has answered `initialize` (10 s); `None`: as long as it
    /// likes, for a command that asks a person for a password before it serves.
    ///
    /// ```
    /// # use procwire::client::Client;
    /// # use std::time::Duration;
    /// let error = Client::builder()
    ///     .handshake_timeout(Duration::from_millis(10))
    ///     .launch(["cat"])
    ///     .expect_err("it says what was said to it, which is not an answer");
    /// assert!(error.to_string().contains("cat"), "{error}");
    /// ```
    pub fn handshake_timeout(&mut self, timeout: impl Into<Option<Duration>>) -> &mut Builder {
        self.handshake_timeout = timeout.into();
        self
    }

    /// What errors call the server, in place of the command that was launched.
    ///
    /// ```
    /// # use procwire::client::Client;
    /// let error = Client::builder()
    ///     .server_name("the build machine")
    ///     .launch(["sh", "-c", "exit 7"])
    ///     .expect_err("it ends");
    /// assert!(error.to_string().contains("the build machine ended with exit status: 7"), "{error}");
    /// ```
    pub fn server_name(&mut self, name: impl Into<String>) -> &mut Builder {
        self.server_name = Some(name.into());
        self
    }

    /// Bytes of unread output of all processes together (256 MiB), or as many as one of them may have
    /// if that is more. Each may have 1 MiB all the same, so that no process loses a little because
    /// others print much. What is beyond is lost, as with
    /// [`Command::unread_limit`](Command::unread_limit).
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut builder = Client::builder();
    /// let client = builder.unread_limit(16 * 1024 * 1024).in_process(procwire::Config::default())?;
    /// assert!(client.status(Command::new("true"))?.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn unread_limit(&mut self, bytes: usize) -> &mut Builder {
        self.unread_limit = bytes;
        self
    }

    /// As [`Client::in_process`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut config = procwire::Config::default();
    /// config.max_pending_stdin_bytes = 1024 * 1024;
    /// let client = Client::builder().unread_limit(1024 * 1024).in_process(config)?;
    /// assert!(client.status(Command::new("true"))?.success());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As there.
    pub fn in_process(&self, config: Config) -> Result<Client, Error> {
        let (connection, end) = Connection::memory();
        let server = sys::start_thread("dispatch", sys::STACK, move || serve(connection, config))?;
        let (sender, receiver) = end.split();
        self.connect(
            Out::Memory(Mutex::new(Some(sender))),
            Incoming::Memory(receiver),
            Server::thread(server),
        )?
        .finish()
    }

    /// As [`Client::launch`].
    ///
    /// ```no_run
    /// # use procwire::client::Client;
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), procwire::client::Error> {
    /// // A person types a password first.
    /// let minutes = Duration::from_secs(120);
    /// let client = Client::builder().handshake_timeout(minutes).launch(["ssh", "build.example", "procwire"])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As there.
    pub fn launch(&self, server: impl Into<ServerCommand>) -> Result<Client, Error> {
        self.start(server)?.finish()
    }

    /// Starts the command as [`launch`](Self::launch) does, and does not wait for its answer: for a
    /// program that may have to end it before it has answered.
    ///
    /// ```
    /// # use procwire::client::Client;
    /// # fn main() -> Result<(), procwire::client::Error> {
    /// let connecting = Client::builder().start(["sh", "-c", "exit 7"])?;
    /// assert!(connecting.server_pid().is_some());
    /// let error = connecting.finish().expect_err("it ends").to_string();
    /// assert!(error.contains("\"sh -c exit 7\" ended with exit status: 7"), "{error}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Launch`] if the command cannot be started, and [`Error::Io`] if a thread cannot.
    pub fn start(&self, server: impl Into<ServerCommand>) -> Result<Connecting, Error> {
        let ServerCommand(mut command) = server.into();
        let child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut child = child.map_err(|source| Error::Launch {
            command: command_line(&command),
            source,
        })?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked to be pipes");
        };
        self.connect(
            Out::Lines(Arc::new(Lines::to_child(stdin))),
            Incoming::Frames(Frames::new(Box::new(stdout), MAX_MESSAGE_BYTES)),
            Server::child(child, &command),
        )
    }

    /// As [`Client::over`].
    ///
    /// ```
    /// # use procwire::client::Client;
    /// # use procwire::{Config, Connection, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (input, to_server) = std::io::pipe()?;
    /// let (from_server, output) = std::io::pipe()?;
    /// std::thread::spawn(move || serve(Connection::from_io(input, output), Config::default()));
    /// let client = Client::builder().server_name("the one behind pipes").over(from_server, to_server)?;
    /// assert!(client.list()?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As there.
    pub fn over(
        &self,
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<Client, Error> {
        self.connect(
            Out::Lines(Arc::new(Lines::to(writer))),
            Incoming::Frames(Frames::new(Box::new(reader), MAX_MESSAGE_BYTES)),
            Server::elsewhere(),
        )?
        .finish()
    }

    /// Starts `client-read` and sends `initialize`.
    fn connect(&self, out: Out, incoming: Incoming, mut server: Server) -> Result<Connecting, Error> {
        if let Some(name) = &self.server_name {
            server.rename(name);
        }
        let deadline = self.handshake_timeout.and_then(|t| Instant::now().checked_add(t));
        let link = Arc::new(Link {
            out,
            routes: Arc::default(),
            server: Arc::new(server),
            next: AtomicI64::new(1),
            max_message_bytes: AtomicUsize::new(usize::MAX),
            initialized: OnceLock::new(),
            unread: Total::new(self.unread_limit),
        });
        let (ended, reading) = bounded(0);
        let (routes, server) = (Arc::clone(&link.routes), Arc::clone(&link.server));
        let reader = sys::start_thread("client-read", sys::STACK, move || {
            receive::run(incoming, &server, &routes);
            drop(ended);
        });
        let reader = match reader {
            Ok(reader) => reader,
            Err(e) => {
                link.server.kill();
                return Err(e.into());
            }
        };
        let params = InitializeParams {
            client_info: ClientInfo {
                name: "procwire-rust".to_owned(),
                title: None,
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            },
            // The reference has process/* among the experimental methods.
            capabilities: Some(Capabilities {
                experimental_api: Some(true),
                opt_out_notification_methods: None,
            }),
        };
        let answer = link.send::<method::Initialize>(params);
        Ok(Connecting {
            client: Client {
                link,
                reader,
                reading,
            },
            answer,
            deadline,
            timeout: self.handshake_timeout,
        })
    }
}

/// A connection whose server has not answered yet: see [`Builder::start`]. Dropping it ends the input of
/// what was started.
#[derive(Debug)]
pub struct Connecting {
    client: Client,
    answer: Result<Pending<method::Initialize>, Error>,
    deadline: Option<Instant>,
    timeout: Option<Duration>,
}

impl Connecting {
    /// The process id of the command that was started.
    ///
    /// ```
    /// # use procwire::client::Client;
    /// # fn main() -> Result<(), procwire::client::Error> {
    /// let connecting = Client::builder().start(["sleep", "1000"])?;
    /// let pid = connecting.server_pid().expect("it is a command that was started").to_string();
    /// assert!(std::process::Command::new("kill").arg(pid).status()?.success());
    /// assert!(connecting.finish().is_err());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        self.client.server_pid()
    }

    /// Waits for the server's answer, no longer than the [timeout](Builder::handshake_timeout), which
    /// has begun with the start.
    ///
    /// ```no_run
    /// # use procwire::client::Client;
    /// # fn main() -> Result<(), procwire::client::Error> {
    /// let connecting = Client::builder().start(["procwire"])?;
    /// // Here this program does what does not need the server.
    /// let client = connecting.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Handshake`]; what was started is killed then.
    pub fn finish(self) -> Result<Client, Error> {
        let Connecting {
            client,
            answer,
            deadline,
            timeout,
        } = self;
        let link = &client.link;
        let name = link.server.name();
        let failed = match answer.map(|pending| pending.wait_until(link, deadline)) {
            Ok(Some(Ok(initialized))) => {
                link.begin(*initialized);
                return Ok(client);
            }
            // It serves without.
            Ok(Some(Err(Error::Refused(RpcError {
                code: code::METHOD_NOT_FOUND,
                ..
            })))) => {
                link.begin(InitializeReply::default());
                return Ok(client);
            }
            Ok(Some(Err(Error::Ended(reason)))) | Err(Error::Ended(reason)) => {
                reason.unwrap_or_else(|| format!("{name} ended before it answered initialize"))
            }
            Ok(Some(Err(Error::Io(error)))) | Err(Error::Io(error)) => {
                let killed = link.server.kill();
                format!("{name} cannot be written to: {error}{killed}")
            }
            Ok(Some(Err(Error::Refused(refused)))) => {
                format!("{name} refused initialize: {}", excerpt(&refused.message))
            }
            Ok(Some(Err(error))) | Err(error) => format!("{name} did not answer initialize: {error}"),
            Ok(None) => {
                let timeout = timeout.unwrap_or_default();
                let killed = link.server.kill();
                format!("{name} has not answered initialize within {timeout:?}{killed}")
            }
        };
        link.out.end();
        link.server.kill();
        Err(Error::Handshake(failed))
    }
}

// ---- the connection ----

/// The sending half of the connection. Its end is the end of the server's input.
struct Link {
    out: Out,
    routes: Arc<Routes>,
    server: Arc<Server>,
    next: AtomicI64,
    /// The longest line the server takes.
    max_message_bytes: AtomicUsize,
    initialized: OnceLock<InitializeReply>,
    unread: Arc<Total>,
}

/// An answer that is waited for.
#[derive(Debug)]
struct Pending<M> {
    id: i64,
    answer: Receiver<receive::Outcome>,
    method: PhantomData<M>,
}

impl<M: Method> Pending<M> {
    fn wait(self, link: &Link) -> Result<M::Result, Error> {
        // Its sender is dropped when the connection ends.
        match self.answer.recv() {
            Ok(outcome) => Self::decode(outcome),
            Err(_) => Err(Error::Ended(link.routes.reason())),
        }
    }

    /// `None` if it has not come until then.
    fn wait_until(self, link: &Link, deadline: Option<Instant>) -> Option<Result<M::Result, Error>> {
        let Some(deadline) = deadline else {
            return Some(self.wait(link));
        };
        match self.answer.recv_deadline(deadline) {
            Ok(outcome) => Some(Self::decode(outcome)),
            Err(RecvTimeoutError::Disconnected) => Some(Err(Error::Ended(link.routes.reason()))),
            Err(RecvTimeoutError::Timeout) => {
                link.routes.forget(self.id);
                None
            }
        }
    }

    fn decode(outcome: receive::Outcome) -> Result<M::Result, Error> {
        let result = match outcome.map_err(Error::Refused)? {
            Answer::Typed(reply) => M::result(reply).ok_or_else(|| "it is for another method".to_owned()),
            Answer::Json(json) => serde_json::from_str(json.get()).map_err(|e| e.to_string()),
        };
        let name = M::NAME;
        result.map_err(|why| Error::Unexpected(format!("the answer to {name} is not one: {}", excerpt(&why))))
    }
}

impl Link {
    fn next_number(&self) -> i64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Keeps what the server has said of itself, and ends the handshake.
    fn begin(&self, server: InitializeReply) {
        if tells_limits(&server) {
            let bytes = usize::try_from(server.limits.max_message_bytes);
            self.max_message_bytes.store(bytes.unwrap_or(usize::MAX), Relaxed);
        }
        self.out.initialized();
        // Set once: a client has one handshake.
        let _ = self.initialized.set(server);
    }

    /// How many bytes a write may have, so that its line is not too long.
    fn write_bytes(&self) -> usize {
        let line = self.max_message_bytes.load(Relaxed);
        let bytes = line.saturating_sub(WRITE_OVERHEAD_BYTES) / 4 * 3;
        bytes.clamp(1, MAX_WRITE_BYTES)
    }

    /// What a spawn says of a directory that its command leaves out. The reference wants one; where it
    /// was launched here, it is the one it has.
    fn default_directory(&self) -> Option<&Path> {
        match self.initialized.get() {
            Some(server) if !tells_limits(server) => {
                self.server.directory().map(|directory| directory.as_path())
            }
            _ => None,
        }
    }

    /// Sends a request.
    fn send<M: Method>(&self, params: M::Params) -> Result<Pending<M>, Error> {
        let id = self.next_number();
        let answer = self.routes.expect(id)?;
        let max_bytes = self.max_message_bytes.load(Relaxed);
        match self.out.send(id, M::request(params), max_bytes) {
            Ok(()) => Ok(Pending {
                id,
                answer,
                method: PhantomData,
            }),
            Err(error @ Error::Invalid(_)) => {
                self.routes.forget(id);
                Err(error)
            }
            Err(error) => {
                // A server that reads no more is going, and `client-read` is about to hear why. One
                // that ends well gives no reason.
                let ended = answer.recv_timeout(SERVER_END_WAIT);
                self.routes.forget(id);
                Err(match (self.routes.reason(), ended) {
                    (None, Ok(_) | Err(RecvTimeoutError::Timeout)) => error,
                    (reason, _) => Error::Ended(reason),
                })
            }
        }
    }

    /// Sends a request and waits for its answer, which the server owes.
    fn call<M: Method>(&self, params: M::Params) -> Result<M::Result, Error> {
        self.send::<M>(params)?.wait(self)
    }

    /// Sends a request whose answer is not waited for, and does not wait for the server to take it. One
    /// that cannot be sent has no server any more, and so no process either.
    fn tell<M: Method>(&self, params: M::Params) {
        self.out.post(self.next_number(), M::request(params));
    }
}

/// Where requests go. Emptied when the connection is closed.
enum Out {
    Memory(Mutex<Option<ClientSender>>),
    Lines(Arc<Lines>),
}

impl Out {
    /// Waits while the server is busy; it takes requests as long as `client-read` takes answers.
    fn send(&self, id: i64, request: Request, max_bytes: usize) -> Result<(), Error> {
        match self {
            Out::Memory(sender) => {
                let sender = lock(sender).clone().ok_or(Error::Ended(None))?;
                sender.send(id, request).map_err(|_| Error::Ended(None))
            }
            Out::Lines(lines) => {
                let method = request.method();
                lines.write(max_bytes, |buffer| {
                    client::encode_request(buffer, &RequestId::Signed(id), &request);
                    method
                })
            }
        }
    }

    /// Sends without waiting for a server that does not read. One in memory always takes requests.
    fn post(&self, id: i64, request: Request) {
        match self {
            Out::Memory(_) => drop(self.send(id, request, usize::MAX)),
            Out::Lines(lines) => {
                lines.post(|buffer| client::encode_request(buffer, &RequestId::Signed(id), &request));
            }
        }
    }

    /// Whether a request may be posted that need not be.
    fn takes_posts(&self) -> bool {
        match self {
            Out::Memory(_) => true,
            Out::Lines(lines) => lines.takes_posts(),
        }
    }

    /// Ends the handshake. In memory there is no such message.
    fn initialized(&self) {
        if let Out::Lines(lines) = self {
            // A failure shows at the next request.
            let _ = lines.write(usize::MAX, |buffer| {
                client::encode_initialized(buffer);
                "initialized"
            });
        }
    }

    /// Waits while a request is being written.
    fn end(&self) {
        match self {
            Out::Memory(sender) => drop(lock(sender).take()),
            Out::Lines(lines) => lines.end(),
        }
    }

    /// As [`end`](Self::end) without waiting; whether it is done.
    fn try_end(&self) -> bool {
        match self {
            Out::Memory(_) => {
                self.end();
                true
            }
            Out::Lines(lines) => lines.try_end(),
        }
    }
}

/// The reference tells no limits.
fn tells_limits(server: &InitializeReply) -> bool {
    server.limits.max_message_bytes > 0
}
