//! How a client gets its server: the command, the options, and the handshake.
//!
//! **Thread:** whichever calls; it starts `client-read`, and `dispatch` for a server in this program.
//! **Owns:** the options until the connection is made, then the connection until it has been handed over.
//! **Never:** leaves a server running whose handshake has failed.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::Client;
use super::connection::{Call, ClientConnection, Writer};
use super::error::{Error, excerpt};
use super::launched::{Server, command_line};
use super::lines::Lines;
use super::receive::{self, Incoming};
use crate::server::connection::Connection;
use crate::server::{Config, serve};
use crate::sys;
use crate::wire::framing::Frames;
use crate::wire::methods::method;
use crate::wire::protocol::{Capabilities, ClientInfo, InitializeParams, InitializeReply, RpcError, code};

/// The longest message that is taken from a server. Only a list of very many processes is long.
const MAX_MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// The default time for a server's answer to `initialize`.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// The default limit on unread output of all processes.
const MAX_UNREAD_BYTES: usize = 256 * 1024 * 1024;

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
            unread_limit: MAX_UNREAD_BYTES,
        }
    }
}

impl Builder {
    /// How long the server may take to answer `initialize` (10 s); `None`: without limit, for a command
    /// that asks a person for a password first.
    ///
    /// ```
    /// # use procwire::client::Client;
    /// # use std::time::Duration;
    /// let error = Client::builder()
    ///     .handshake_timeout(Duration::from_millis(10))
    ///     .launch(["cat"])
    ///     .expect_err("an echo is not an answer");
    /// assert!(error.to_string().contains("cat"), "{error}");
    /// ```
    pub fn handshake_timeout(&mut self, timeout: impl Into<Option<Duration>>) -> &mut Builder {
        self.handshake_timeout = timeout.into();
        self
    }

    /// The server's name in errors, instead of the command that was launched.
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
    /// if that is more. Each may have 1 MiB in any case, so that no process loses a little because others
    /// print much. Output beyond that is lost, as with
    /// [`Command::unread_limit`](super::Command::unread_limit).
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
    /// let config = procwire::Config::default().max_pending_stdin_bytes(1024 * 1024);
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
        let server = sys::start_thread("dispatch", sys::THREAD_STACK_BYTES, move || {
            serve(connection, config)
        })?;
        let (sender, receiver) = end.split();
        self.connect(
            Writer::Memory(Mutex::new(Some(sender))),
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
    /// program that may have to kill it before it has answered.
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
            Writer::Lines(Arc::new(Lines::to_child(stdin))),
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
            Writer::Lines(Arc::new(Lines::to(writer))),
            Incoming::Frames(Frames::new(Box::new(reader), MAX_MESSAGE_BYTES)),
            Server::elsewhere(),
        )?
        .finish()
    }

    /// Starts `client-read` and sends `initialize`.
    fn connect(&self, writer: Writer, incoming: Incoming, mut server: Server) -> Result<Connecting, Error> {
        if let Some(name) = &self.server_name {
            server.rename(name);
        }
        let deadline = self.handshake_timeout.and_then(|t| Instant::now().checked_add(t));
        let (ended, reading) = bounded(0);
        let connection = Arc::new(ClientConnection::new(writer, server, self.unread_limit, reading));
        let (pending, server) = (Arc::clone(&connection.pending), Arc::clone(&connection.server));
        let reader = sys::start_thread("client-read", sys::THREAD_STACK_BYTES, move || {
            receive::run(incoming, &server, &pending);
            drop(ended);
        });
        let reader = match reader {
            Ok(reader) => reader,
            Err(e) => {
                connection.server.kill();
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
        let answer = connection.send::<method::Initialize>(params);
        Ok(Connecting {
            client: Client { connection, reader },
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
    answer: Result<Call<method::Initialize>, Error>,
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
        let connection = &client.connection;
        let name = connection.server.name();
        let failed = match answer.map(|call| call.wait_until(connection, deadline)) {
            Ok(Some(Ok(initialized))) => {
                connection.begin(*initialized);
                return Ok(client);
            }
            // It serves without.
            Ok(Some(Err(Error::Refused(RpcError {
                code: code::METHOD_NOT_FOUND,
                ..
            })))) => {
                connection.begin(InitializeReply::default());
                return Ok(client);
            }
            Ok(Some(Err(Error::Ended(reason)))) | Err(Error::Ended(reason)) => {
                reason.unwrap_or_else(|| format!("{name} ended before it answered initialize"))
            }
            Ok(Some(Err(Error::Io(error)))) | Err(Error::Io(error)) => {
                let killed = connection.server.kill();
                format!("{name} cannot be written to: {error}{killed}")
            }
            Ok(Some(Err(Error::Refused(refused)))) => {
                format!("{name} refused initialize: {}", excerpt(&refused.message))
            }
            Ok(Some(Err(error))) | Err(error) => format!("{name} did not answer initialize: {error}"),
            Ok(None) => {
                let timeout = timeout.unwrap_or_default();
                let killed = connection.server.kill();
                format!("{name} has not answered initialize within {timeout:?}{killed}")
            }
        };
        connection.writer.end();
        connection.server.kill();
        Err(Error::Handshake(failed))
    }
}
