//! The sending half of a client's connection: requests, and the answers that are waited for.
//!
//! **Thread:** whichever calls.
//! **Owns:** the way to the server, the numbers of the requests, and what the server has said of itself. When
//! it is dropped, it waits for the end of a server in this program.
//! **Never:** reads what the server sends; `client-read` does.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::error::{Error, excerpt};
use super::launched::{SERVER_END_WAIT, Server};
use super::lines::Lines;
use super::receive::{self, Answer, Pending};
use super::unread::Total;
use crate::server::connection::ClientSender;
use crate::sys::lock;
use crate::wire::client;
use crate::wire::methods::Method;
use crate::wire::protocol::{InitializeReply, Request, RequestId};

/// How long a server may take to end after its input has. It promises 3 s; this is for a machine that
/// has much else to do.
pub(super) const CLOSE_WAIT: Duration = Duration::from_secs(10);
/// What one request writes at most.
const MAX_WRITE_BYTES: usize = 256 * 1024;
/// What the line of a write has besides its bytes: braces, names, an id, a handle.
const WRITE_OVERHEAD_BYTES: usize = 256;

/// The sending half of the connection. Its end is the end of the server's input.
pub(super) struct ClientConnection {
    pub(super) writer: Writer,
    pub(super) pending: Arc<Pending>,
    pub(super) server: Arc<Server>,
    next: AtomicI64,
    /// The longest line the server takes.
    max_message_bytes: AtomicUsize,
    pub(super) initialized: OnceLock<InitializeReply>,
    pub(super) unread: Arc<Total>,
    /// Disconnected when `client-read` is about to end, and so after its server has.
    reading: Receiver<()>,
}

/// An answer that is waited for.
#[derive(Debug)]
pub(super) struct Call<M> {
    id: i64,
    answer: Receiver<receive::Outcome>,
    method: PhantomData<M>,
}

impl<M: Method> Call<M> {
    pub(super) fn wait(self, connection: &ClientConnection) -> Result<M::Result, Error> {
        // Its sender is dropped when the connection ends.
        match self.answer.recv() {
            Ok(outcome) => Self::decode(outcome),
            Err(_) => Err(Error::Ended(connection.pending.reason())),
        }
    }

    /// `None` if it has not come until then.
    pub(super) fn wait_until(
        self,
        connection: &ClientConnection,
        deadline: Option<Instant>,
    ) -> Option<Result<M::Result, Error>> {
        let Some(deadline) = deadline else {
            return Some(self.wait(connection));
        };
        match self.answer.recv_deadline(deadline) {
            Ok(outcome) => Some(Self::decode(outcome)),
            Err(RecvTimeoutError::Disconnected) => Some(Err(Error::Ended(connection.pending.reason()))),
            Err(RecvTimeoutError::Timeout) => {
                connection.pending.forget(self.id);
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

impl ClientConnection {
    pub(super) fn new(writer: Writer, server: Server, unread_limit: usize, reading: Receiver<()>) -> Self {
        ClientConnection {
            writer,
            pending: Arc::default(),
            server: Arc::new(server),
            next: AtomicI64::new(1),
            max_message_bytes: AtomicUsize::new(usize::MAX),
            initialized: OnceLock::new(),
            unread: Total::new(unread_limit),
            reading,
        }
    }

    /// Waits until the server has ended, for [`CLOSE_WAIT`] at most; whether it has.
    pub(super) fn has_ended_in_time(&self) -> bool {
        self.reading.recv_timeout(CLOSE_WAIT) == Err(RecvTimeoutError::Disconnected)
    }

    pub(super) fn next_number(&self) -> i64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Keeps what the server has said of itself, and ends the handshake.
    pub(super) fn begin(&self, server: InitializeReply) {
        if tells_limits(&server) {
            let bytes = usize::try_from(server.limits.max_message_bytes);
            self.max_message_bytes.store(bytes.unwrap_or(usize::MAX), Relaxed);
        }
        self.writer.initialized();
        // Set once: a client has one handshake.
        let _ = self.initialized.set(server);
    }

    /// How many bytes a write may have, so that its line is not too long.
    pub(super) fn write_bytes(&self) -> usize {
        let line = self.max_message_bytes.load(Relaxed);
        let bytes = line.saturating_sub(WRITE_OVERHEAD_BYTES) / 4 * 3;
        bytes.clamp(1, MAX_WRITE_BYTES)
    }

    /// The directory of a spawn whose command names none. The reference requires one; where it
    /// was launched here, it is the one it has.
    pub(super) fn default_directory(&self) -> Option<&Path> {
        match self.initialized.get() {
            Some(server) if !tells_limits(server) => {
                self.server.directory().map(|directory| directory.as_path())
            }
            _ => None,
        }
    }

    /// Sends a request.
    pub(super) fn send<M: Method>(&self, params: M::Params) -> Result<Call<M>, Error> {
        let id = self.next_number();
        let answer = self.pending.expect(id)?;
        let max_bytes = self.max_message_bytes.load(Relaxed);
        match self.writer.send(id, M::request(params), max_bytes) {
            Ok(()) => Ok(Call {
                id,
                answer,
                method: PhantomData,
            }),
            Err(error @ Error::Invalid(_)) => {
                self.pending.forget(id);
                Err(error)
            }
            Err(error) => {
                // A server that reads no more is about to end, and `client-read` will know why. One
                // that ends well gives no reason.
                let ended = answer.recv_timeout(SERVER_END_WAIT);
                self.pending.forget(id);
                Err(match (self.pending.reason(), ended) {
                    (None, Ok(_) | Err(RecvTimeoutError::Timeout)) => error,
                    (reason, _) => Error::Ended(reason),
                })
            }
        }
    }

    /// Sends a request and waits for its answer, which the server owes.
    pub(super) fn call<M: Method>(&self, params: M::Params) -> Result<M::Result, Error> {
        self.send::<M>(params)?.wait(self)
    }

    /// Sends a request whose answer is not waited for, and does not wait for the server to take it. One
    /// that cannot be sent has no server any more, and so no process either.
    pub(super) fn tell<M: Method>(&self, params: M::Params) {
        self.writer.post(self.next_number(), M::request(params));
    }
}

impl Drop for ClientConnection {
    /// A server in this program is waited for: what it has not killed when the program ends would live on.
    /// Any other outlives this program, and does that by itself.
    fn drop(&mut self) {
        if let Writer::Memory(_) = self.writer {
            self.writer.end();
            if !self.has_ended_in_time() {
                log::warn!("the server has not ended within {CLOSE_WAIT:?} of the end of its connection");
            }
        }
    }
}

/// Where requests go. Emptied when the connection is closed.
pub(super) enum Writer {
    Memory(Mutex<Option<ClientSender>>),
    Lines(Arc<Lines>),
}

impl Writer {
    /// Waits while the server is busy; it takes requests as long as `client-read` takes answers.
    fn send(&self, id: i64, request: Request, max_bytes: usize) -> Result<(), Error> {
        match self {
            Writer::Memory(sender) => {
                let sender = lock(sender).clone().ok_or(Error::Ended(None))?;
                sender.send(id, request).map_err(|_| Error::Ended(None))
            }
            Writer::Lines(lines) => {
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
            Writer::Memory(_) => drop(self.send(id, request, usize::MAX)),
            Writer::Lines(lines) => {
                lines.post(|buffer| client::encode_request(buffer, &RequestId::Signed(id), &request));
            }
        }
    }

    /// Whether a request may be posted that need not be.
    pub(super) fn takes_posts(&self) -> bool {
        match self {
            Writer::Memory(_) => true,
            Writer::Lines(lines) => lines.takes_posts(),
        }
    }

    /// Ends the handshake. In memory there is no such message.
    fn initialized(&self) {
        if let Writer::Lines(lines) = self {
            // A failure shows at the next request.
            let _ = lines.write(usize::MAX, |buffer| {
                client::encode_initialized(buffer);
                "initialized"
            });
        }
    }

    /// Waits while a request is being written.
    pub(super) fn end(&self) {
        match self {
            Writer::Memory(sender) => drop(lock(sender).take()),
            Writer::Lines(lines) => lines.end(),
        }
    }

    /// As [`end`](Self::end) without waiting; whether it is done.
    pub(super) fn try_end(&self) -> bool {
        match self {
            Writer::Memory(_) => {
                self.end();
                true
            }
            Writer::Lines(lines) => lines.try_end(),
        }
    }
}

/// The reference reports no limits.
fn tells_limits(server: &InitializeReply) -> bool {
    server.limits.max_message_bytes > 0
}
