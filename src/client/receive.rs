//! What the server sends, taken to where it is waited for.
//!
//! **Thread:** `client-read`, from the start of a client until its server has ended.
//! **Owns:** the receiving half of the connection.
//! **Never:** sends, keeps what was not asked for, or waits for a reader of output, unless that was
//! asked for with [`Command::wait_when_unread`](super::Command::wait_when_unread).

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::value::RawValue;

use super::Error;
use super::error::{excerpt, quoted};
use super::launched::Server;
use super::unread::Shared;
use crate::server::connection::ClientReceiver;
use crate::sys::{self, lock};
use crate::wire::client::{FromServer, parse_server};
use crate::wire::framing::{Frame, Frames};
use crate::wire::protocol::{Exited, OutputDelta, Reply, RequestId, RpcError, ServerMessage};

/// The result of an answer, not looked into yet.
pub(super) enum Answer {
    /// From a connection in memory.
    Typed(Reply),
    /// From any other.
    Json(Box<RawValue>),
}

pub(super) enum Incoming {
    Memory(ClientReceiver),
    Frames(Frames<Box<dyn Read + Send>>),
}

/// Takes messages where they belong until there are no more; the body of `client-read`.
pub(super) fn run(incoming: Incoming, server: &Server, pending: &Pending) {
    sys::block_signals_for_this_thread();
    let lost = match incoming {
        Incoming::Memory(receiver) => from_memory(receiver, pending),
        Incoming::Frames(frames) => from_frames(frames, pending),
    };
    let lost = lost.err().map(|why| format!("{} {why}", server.name()));
    let unwell = server.finish(lost.is_some());
    pending.end(lost.or(unwell));
}

/// Until the connection ends.
fn from_memory(receiver: ClientReceiver, pending: &Pending) -> Result<(), String> {
    for message in receiver {
        match message {
            ServerMessage::Response { id, outcome } => pending.answer(id, outcome.map(Answer::Typed))?,
            ServerMessage::OutputDelta(delta) => pending.deliver(delta),
            ServerMessage::Exited(exited) => pending.exited(*exited),
        }
    }
    Ok(())
}

/// Until the connection ends; what is wrong with what came, if that ends it.
fn from_frames(mut frames: Frames<Box<dyn Read + Send>>, pending: &Pending) -> Result<(), String> {
    loop {
        let text = match frames.next() {
            Ok(Frame::Message(text)) => text,
            Ok(Frame::Headers) => continue,
            Ok(Frame::Invalid(error)) => {
                return Err(format!(
                    "sent a message that cannot be read: {}",
                    excerpt(&error.message)
                ));
            }
            Ok(Frame::End) => return Ok(()),
            Err(e) => return Err(format!("cannot be read from: {e}")),
        };
        match parse_server(text) {
            Ok(FromServer::Answer { id, outcome }) => {
                pending.answer(
                    id,
                    outcome.map(|result: &RawValue| Answer::Json(result.to_owned())),
                )?;
            }
            Ok(FromServer::OutputDelta(delta)) => pending.deliver(delta),
            Ok(FromServer::Exited(exited)) => pending.exited(*exited),
            Ok(FromServer::Notification) => {}
            Ok(FromServer::Request(method)) => match &*method {
                "initialize" => {
                    return Err("is not a server: it echoes its input".to_owned());
                }
                _ => log::debug!("ignored a request of the server: {}", excerpt(&method)),
            },
            Err(why) => {
                return Err(format!(
                    "sent a line that is not a JSON-RPC message: {}: {}",
                    quoted(text),
                    excerpt(&why)
                ));
            }
        }
    }
}

/// Which answer and which process is waited for.
#[derive(Default)]
pub(super) struct Pending(Mutex<Table>);

#[derive(Default)]
struct Table {
    answers: HashMap<i64, Sender<Outcome>>,
    processes: HashMap<Arc<str>, Arc<Shared>>,
    ended: bool,
    reason: Option<String>,
}

pub(super) type Outcome = Result<Answer, RpcError>;

impl Table {
    fn check(&self) -> Result<(), Error> {
        match self.ended {
            true => Err(Error::Ended(self.reason.clone())),
            false => Ok(()),
        }
    }
}

impl Pending {
    /// Announces a request; where its answer will come.
    pub(super) fn expect(&self, id: i64) -> Result<Receiver<Outcome>, Error> {
        let (answer, receiver) = bounded(1);
        let mut table = lock(&self.0);
        table.check()?;
        table.answers.insert(id, answer);
        Ok(receiver)
    }

    pub(super) fn forget(&self, id: i64) {
        lock(&self.0).answers.remove(&id);
    }

    /// Announces a process.
    pub(super) fn add(&self, handle: &Arc<str>, process: &Arc<Shared>) -> Result<(), Error> {
        let mut table = lock(&self.0);
        table.check()?;
        table.processes.insert(Arc::clone(handle), Arc::clone(process));
        Ok(())
    }

    pub(super) fn remove(&self, handle: &str) {
        lock(&self.0).processes.remove(handle);
    }

    /// Why the connection ended, if it has ended and that is known.
    pub(super) fn reason(&self) -> Option<String> {
        lock(&self.0).reason.clone()
    }

    /// Waits for no reader any more.
    pub(super) fn let_go(&self) {
        for process in lock(&self.0).processes.values() {
            process.let_go();
        }
    }

    /// Fails if the server has not understood something, because then a request is waited for in vain.
    fn answer(&self, id: Option<RequestId>, outcome: Outcome) -> Result<(), String> {
        match (id, outcome) {
            (Some(RequestId::Signed(id)), outcome) => {
                // One that is not waited for was sent without waiting, or never: it is dropped.
                let awaited = lock(&self.0).answers.remove(&id);
                if let Some(awaited) = awaited {
                    let _ = awaited.send(outcome);
                }
                Ok(())
            }
            (None, Err(error)) => Err(format!(
                "could not read a request: {} (code {})",
                excerpt(&error.message),
                error.code
            )),
            // An id that this client never sends.
            (Some(RequestId::Text(_) | RequestId::Unsigned(_)) | None, _) => Ok(()),
        }
    }

    fn deliver(&self, delta: OutputDelta) {
        let process = lock(&self.0).processes.get(&delta.process_handle).cloned();
        if let Some(process) = process {
            process.deliver(delta);
        }
    }

    fn exited(&self, exited: Exited) {
        let process = lock(&self.0).processes.remove(&exited.process_handle);
        if let Some(process) = process {
            process.exited(exited);
        }
    }

    /// Nothing more will come: all waits end.
    fn end(&self, reason: Option<String>) {
        let mut table = lock(&self.0);
        table.ended = true;
        table.reason.clone_from(&reason);
        table.answers.clear();
        for process in std::mem::take(&mut table.processes).into_values() {
            process.connection_ended(reason.clone());
        }
    }
}
