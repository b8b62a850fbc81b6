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
//! All processes share one connection, on which one of them cannot be paused. So everything is read
//! at once, and each process's output waits for its reader in memory. A process whose output is not read delays nothing, its own exit included, and holds at most
//! its limit, [`Command::unread_limit`] (64 MiB; for all together, [`Builder::unread_limit`]): output
//! beyond that is lost, and reading fails once, after the last byte that is kept, so that the loss is
//! noticed. The bytes read before are an unbroken beginning of the stream, as with an output cap.
//! Output whose reading end was dropped is not kept at all.
//!
//! A client with one process can choose the opposite, [`Command::wait_when_unread`]: at the limit
//! nothing more is read from the server, which then holds back the process. Nothing is lost, and
//! everything else on the connection waits, answers and exits included.
//!
//! # A server that is not trusted
//!
//! A message of a server is 32 MiB at most, and a longer one ends the connection. Output, exits and
//! answers that were not asked for are dropped. Errors show at most 200 characters of what a server
//! sent, and no control characters. Its first answer ([`Builder::handshake_timeout`]) and its end
//! ([`Client::close`]) are waited for with a timeout; any other answer is waited for without one, so a
//! server that stops answering has to be killed ([`Client::server_pid`]). Calls without an answer never
//! wait for the server, even if it does not read: dropping anything, [`Process::wait_timeout`] and
//! [`Process::post_signal`]. A server in this program is trusted, and waited for when the last thing that
//! holds its connection is dropped.

// **Thread:** whichever calls; `client-read`, one a client, takes what the server sends to where it
// is waited for; `client-post`, one a client and only while a server does not read, writes what was
// posted.
// **Owns:** the way to the server, the answers that are waited for, the processes that live.
// **Never:** signals or reaps a process; that is the server's business. Only a server that was
// launched as a command is a child of this program.

mod builder;
mod command;
mod connection;
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
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

pub use builder::{Builder, Connecting, ServerCommand};
pub use command::Command;
pub use control::Control;
pub use error::Error;
pub use process::Process;
pub use status::{ExitStatus, Output};
pub use stdio::Stdio;
pub use streams::{Events, Stderr, Stdin, Stdout};
pub use unread::{Event, OutputLost};

pub use crate::wire::protocol::{Condition, OutputKeep as Keep, WaitReply};

use crate::server::Config;
use crate::sys::{self, Thread};
use crate::wire::methods::method;
use crate::wire::protocol::{Guarantees, Limit, NoParams, ProcessInfo, SpawnParams, SpawnReply};
use connection::{CLOSE_WAIT, ClientConnection};
use process::Pipes;
use unread::Shared;

/// A client of one server.
///
/// The connection lives as long as the client or anything that came from it, and when it ends, so
/// does every process that was started on it, except those spawned with [`Command::detach`]. With a
/// server in this program, dropping the last of them waits until these have ended, for milliseconds as a
/// rule and 10 seconds at most, so that none lives on when `main` returns.
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
    connection: Arc<ClientConnection>,
    reader: Thread<()>,
}

impl Client {
    /// A server on a thread of this program, with neither JSON nor base64 in between. If this program
    /// is killed, or calls [`std::process::exit`] while the connection is open, its processes live on;
    /// where that must not be, [`launch`](Self::launch) the binary, which has a guard.
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
    /// [`Error::Io`] if a thread cannot be started, and [`Error::Handshake`] with what
    /// [`serve`](crate::serve) fails with.
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

    /// The process id of the command that was [launched](Self::launch), to kill one that does not answer. As with [`std::process::Child::id`], another process may have it once that has ended.
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
        self.connection.server.pid()
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
        let shared = Shared::new(
            command.unread_limit,
            command.wait_when_unread,
            &self.connection.unread,
        );
        self.start(command, shared, |_| ())
    }

    /// Runs a program to its end without input, drops its output, and returns how it exited. std's
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

    /// Runs a program to its end without input, and returns how it exited and its output, as
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

    /// Runs a program to its end with this input, and returns how it exited and its output. Writes while it
    /// reads, so neither has to fit into a pipe. A program that does not read all of its
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
            let error = "the command already has a stdin, and takes no input".to_owned();
            return Err(Error::Invalid(error));
        }
        let mut process = self.start(command, Shared::without_limit(), |params| {
            params.stream_stdin = true
        })?;
        let stdin = process.stdin.take();
        let input = input.as_ref().to_vec();
        let writer = sys::start_thread("client-stdin", sys::THREAD_STACK_BYTES, move || match stdin {
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
        let handle: Arc<str> = format!("p{}", self.connection.next_number()).into();
        let mut params = command.params(&handle, self.connection.default_directory())?;
        adapt(&mut params);
        let pipes = Pipes {
            stdin: params.stream_stdin || command.has_tty(),
            stdout: params.stdout.is_none(),
            stderr: params.stderr.is_none(),
        };
        let shared = Arc::new(shared);
        // Before the request: the process may have ended before its answer has been seen.
        self.connection.pending.add(&handle, &shared)?;
        match self.connection.call::<method::Spawn>(params.into()) {
            Ok(SpawnReply { pid }) => {
                // The reference does not tell it.
                let pid = (pid != 0).then_some(pid);
                let tty = command.has_tty();
                let control = Control::new(Arc::clone(&self.connection), handle, pid, tty, shared);
                Ok(Process::new(control, pipes, command.kill_on_drop))
            }
            Err(error) => {
                self.connection.pending.remove(&handle);
                if let Error::Unexpected(_) = error {
                    // It may run.
                    Control::new(
                        Arc::clone(&self.connection),
                        handle,
                        None,
                        command.has_tty(),
                        shared,
                    )
                    .post_kill();
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
        self.connection
            .call::<method::List>(NoParams {})
            .map(|list| list.processes)
    }

    /// What the server enforces where it runs, for a program that must not run without one of these. What a
    /// server does not report, as codex app-server does not, is not guaranteed.
    ///
    /// ```
    /// # use procwire::client::Client;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::in_process(procwire::Config::default())?;
    /// // This program cannot kill anything once it has been killed itself.
    /// assert!(!client.guarantees().survives_server_kill);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn guarantees(&self) -> Guarantees {
        self.connection
            .initialized
            .get()
            .map_or_else(Guarantees::default, |server| server.guarantees)
    }

    /// Ends the connection, whatever still holds on to it, and waits until the server has ended
    /// what was started and itself. Dropping everything does the same, but waits only for a server in
    /// this program.
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
        if !self.connection.writer.try_end() {
            // A request is being written, which a server that does not read holds up.
            let connection = Arc::clone(&self.connection);
            sys::start_thread("client-end", sys::THREAD_STACK_BYTES, move || {
                connection.writer.end()
            })?;
        }
        self.connection.pending.let_go();
        if !self.connection.has_ended_in_time() {
            let server = &self.connection.server;
            return Err(Error::Ended(Some(format!(
                "{} has not closed its output within {CLOSE_WAIT:?} of the end of its input{}",
                server.name(),
                server.kill()
            ))));
        }
        let _ = self.reader.join();
        match self.connection.pending.reason() {
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
