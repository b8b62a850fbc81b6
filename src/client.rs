//! A blocking client: processes of a server with the shape of [`std::process`].
//!
//! ```
//! use procwire::client::{Client, Spawn};
//! use std::io::{Read, Write};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::in_process(procwire::Config::default())?;
//! let mut process = client.spawn(Spawn::new(["tr", "a-z", "A-Z"]))?;
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
//! ([`Client::over`]).
//!
//! # Output that nobody reads
//!
//! All processes share one connection, on which one of them cannot be paused: what is there is read,
//! or nothing is. So everything is read at once, and each process's output waits for its reader in
//! memory. A process nobody reads from delays nothing, its own exit included, and holds at most its
//! limit, [`Spawn::unread_limit`] (64 MiB): what it prints beyond that is lost, and reading fails
//! behind the last byte that is kept, once, so that the loss cannot be overlooked. What was read
//! before is an unbroken beginning of the stream, as with an output cap.
//!
//! A client with one process can have the other bargain, [`Spawn::wait_when_unread`]: at the limit
//! nothing more is read from the server, which then holds back the process. Nothing is lost, and
//! everything else on the connection waits, answers and exits included.
//!
//! **Thread:** whoever calls; `client-read`, one a client, takes what the server sends to where it
//! is waited for.
//! **Owns:** the way to the server, the answers that are waited for, the processes that live.
//! **Never:** signals or reaps a process; that is the server's business. Only a server that was
//! launched as a command is a child of this program.

mod process;
mod receive;
mod spawn;

use std::fmt;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use process::{Control, Event, Events, ExitStatus, Output, OutputLost, Process, Stderr, Stdin, Stdout};
pub use spawn::Spawn;

use crate::connection::{ClientSender, Connection};
use crate::framing::Frames;
use crate::message;
use crate::protocol::{ProcessInfo, Reply, Request, RequestId, RpcError};
use crate::server::{Config, serve};
use crate::sys::{self, Thread};
use process::Shared;
use receive::{Incoming, Routes, Server};

/// The longest message that is taken from a server. Only a list of very many processes, or collected
/// output without a cap, is long.
const LONGEST: usize = 1 << 30;

/// How long a server that reads no more requests, or whose output has ended, may take to end.
const GOING: Duration = Duration::from_secs(5);

/// A client of one server.
///
/// The connection lives as long as the client or anything that came from it, and when it ends, so
/// does every process that was started on it, but for those spawned with [`Spawn::detach`].
pub struct Client {
    link: Arc<Link>,
    server_pid: Option<u32>,
}

impl Client {
    /// A server on a thread of this program, with neither JSON nor base64 in between. If this program
    /// is killed, its processes live on; where nothing may be left even then, [`launch`](Self::launch)
    /// the binary, which has a guard.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a thread cannot be started. What [`serve`] fails with shows as
    /// [`Error::Ended`] of the first request.
    pub fn in_process(config: Config) -> Result<Client, Error> {
        let (connection, end) = Connection::memory();
        let server = sys::start_thread("dispatch", sys::STACK, move || serve(connection, config))?;
        let (sender, receiver) = end.split();
        Self::start(
            Out::Memory(Mutex::new(Some(sender))),
            Incoming::Memory(receiver),
            Server::Thread(server),
        )
    }

    /// Starts a command that serves its stdin and stdout; its stderr is as the command says, this
    /// program's unless it was told otherwise. It is waited for when the connection has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the command cannot be started.
    pub fn launch(mut command: Command) -> Result<Client, Error> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let server_pid = child.id();
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked to be pipes");
        };
        let client = Self::start(
            Out::lines(stdin),
            Incoming::Frames(Frames::new(Box::new(stdout), LONGEST)),
            Server::Child { child, name },
        )?;
        Ok(Client {
            server_pid: Some(server_pid),
            ..client
        })
    }

    /// A server behind any reader and writer. The server must see the end of its input when the
    /// writer is dropped, and the reader must end when the server has gone; so for a socket, give a
    /// writer that shuts it down when it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a thread cannot be started.
    pub fn over(
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<Client, Error> {
        Self::start(
            Out::lines(writer),
            Incoming::Frames(Frames::new(Box::new(reader), LONGEST)),
            Server::Elsewhere,
        )
    }

    fn start(out: Out, incoming: Incoming, server: Server) -> Result<Client, Error> {
        let routes = Arc::new(Routes::default());
        let its_routes = Arc::clone(&routes);
        let reader = sys::start_thread("client-read", sys::STACK, move || {
            receive::run(incoming, server, &its_routes);
        })?;
        Ok(Client {
            link: Arc::new(Link {
                out,
                routes,
                next: AtomicI64::new(1),
                reader: Mutex::new(Some(reader)),
            }),
            server_pid: None,
        })
    }

    /// The process id of the command that was [launched](Self::launch), for whoever wants to end one
    /// that does not answer. As with [`std::process::Child::id`], somebody else may have it once that
    /// has ended.
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        self.server_pid
    }

    /// Starts a program, and returns once it runs.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it cannot be started; its `data` says what the system refused at which
    /// step.
    pub fn spawn(&self, spawn: Spawn) -> Result<Process, Error> {
        let Spawn {
            mut params,
            unread_limit,
            wait_when_unread,
            kill_on_drop,
        } = spawn;
        let handle: Arc<str> = format!("p{}", self.link.next_number()).into();
        handle.as_ref().clone_into(&mut params.process_handle);
        let has_stdin = params.stream_stdin || params.tty;
        let shared = Arc::new(Shared::new(unread_limit, wait_when_unread));
        // Before the request: the process may have ended before its answer has been seen.
        self.link.routes.add(&handle, &shared)?;
        match self.link.call(Request::Spawn(params)) {
            Ok(Reply::Spawn { pid }) => {
                let control = Control::new(Arc::clone(&self.link), handle, pid, shared);
                Ok(Process::new(control, has_stdin, kill_on_drop))
            }
            outcome => {
                self.link.routes.remove(&handle);
                Err(unexpected(outcome))
            }
        }
    }

    /// Runs a program to its end with no input, and gives how it ended and all it printed, as
    /// [`std::process::Command::output`] does.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn) and [`Process::wait_with_output`].
    pub fn output(&self, spawn: Spawn) -> Result<Output, Error> {
        self.spawn(spawn.no_stdin())?.wait_with_output()
    }

    /// The processes that live on this connection, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] or [`Error::Io`] if there is no server any more.
    pub fn list(&self) -> Result<Vec<ProcessInfo>, Error> {
        match self.link.call(Request::List) {
            Ok(Reply::List(processes)) => Ok(processes),
            outcome => Err(unexpected(outcome)),
        }
    }

    /// Ends the connection, whatever still holds on to it, and waits until the server has ended
    /// what was started and itself. Dropping everything does the same without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the server ended otherwise than well.
    pub fn close(self) -> Result<(), Error> {
        self.link.out.end();
        self.link.routes.let_go();
        let reader = lock(&self.link.reader).take();
        if let Some(reader) = reader {
            // It ends with the server, which ends with its input, in 3 s at most.
            let _ = reader.join();
        }
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

/// The sending half of the connection. Its end is the end of the server's input.
struct Link {
    out: Out,
    routes: Arc<Routes>,
    next: AtomicI64,
    reader: Mutex<Option<Thread<()>>>,
}

impl Link {
    fn next_number(&self) -> i64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Sends a request and waits for its answer, which the server owes.
    fn call(&self, request: Request) -> Result<Reply, Error> {
        let id = self.next_number();
        let answer = self.routes.expect(id)?;
        if let Err(error) = self.out.send(id, request, &self.routes) {
            // A server that reads no more is going, and `client-read` is about to hear why.
            let _ = answer.recv_timeout(GOING);
            self.routes.forget(id);
            return Err(match self.routes.reason() {
                None => error,
                reason => Error::Ended(reason),
            });
        }
        // Its sender is dropped when the connection ends.
        match answer.recv() {
            Ok(outcome) => outcome.map_err(Error::Refused),
            Err(_) => Err(Error::Ended(self.routes.reason())),
        }
    }

    /// Sends a request whose answer nobody waits for. One that cannot be sent has no server any
    /// more, and so no process either.
    fn tell(&self, request: Request) {
        let _ = self.out.send(self.next_number(), request, &self.routes);
    }
}

/// Where requests go. Emptied when the connection is closed.
enum Out {
    Memory(Mutex<Option<ClientSender>>),
    Lines(Mutex<Option<LineWriter>>),
}

struct LineWriter {
    writer: Box<dyn Write + Send>,
    buffer: Vec<u8>,
}

impl Out {
    fn lines(writer: impl Write + Send + 'static) -> Out {
        Out::Lines(Mutex::new(Some(LineWriter {
            writer: Box::new(writer),
            buffer: Vec::new(),
        })))
    }

    /// Waits while the server is busy; it takes requests as long as `client-read` takes answers.
    fn send(&self, id: i64, request: Request, routes: &Routes) -> Result<(), Error> {
        match self {
            Out::Memory(sender) => {
                let sender = lock(sender).clone().ok_or(Error::Ended(None))?;
                sender.send(id, request).map_err(|_| Error::Ended(None))
            }
            Out::Lines(lines) => {
                let mut lines = lock(lines);
                let LineWriter { writer, buffer } = lines.as_mut().ok_or(Error::Ended(None))?;
                buffer.clear();
                message::encode_request(buffer, &RequestId::Signed(id), &request);
                routes.sending(id, buffer.len());
                let sent = writer.write_all(buffer).and_then(|()| writer.flush());
                if sent.is_err() {
                    // Half a line may have gone, which nothing can follow.
                    *lines = None;
                }
                Ok(sent?)
            }
        }
    }

    fn end(&self) {
        match self {
            Out::Memory(sender) => drop(lock(sender).take()),
            Out::Lines(lines) => drop(lock(lines).take()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of an answer that is none, or not the one that was asked for.
fn unexpected(outcome: Result<Reply, Error>) -> Error {
    match outcome {
        Err(error) => error,
        Ok(reply) => Error::Ended(Some(format!(
            "it answered with {reply:?}, which was not asked for"
        ))),
    }
}

/// Why something was not done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server refused: the wire's code, message and data.
    Refused(RpcError),
    /// The connection has ended, and why if that is known.
    Ended(Option<String>),
    /// A request could not be sent, or the server not be started.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(error) => error.fmt(f),
            Error::Ended(None) => f.write_str("the connection to the server has ended"),
            Error::Ended(Some(reason)) => write!(f, "the connection to the server has ended: {reason}"),
            Error::Io(error) => write!(f, "no way to the server: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Refused(error) => Some(error),
            Error::Ended(_) => None,
            Error::Io(error) => Some(error),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}

/// Keeps the whole error inside; the kind is the system's where a program could not be started.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io(io) => io.kind(),
            Error::Ended(_) => io::ErrorKind::BrokenPipe,
            Error::Refused(RpcError { data: Some(data), .. }) => {
                io::Error::from_raw_os_error(data.errno).kind()
            }
            Error::Refused(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
