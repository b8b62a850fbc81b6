//! What the server sends, taken to where it is waited for.
//!
//! **Thread:** `client-read`, from the start of a client until its server has ended.
//! **Owns:** the receiving half of the connection; the server, if it is ours to wait for.
//! **Never:** sends, and never waits for anybody who reads output, unless that was asked for with
//! [`Spawn::wait_when_unread`](super::Spawn::wait_when_unread).

use std::collections::HashMap;
use std::io::Read;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::process::Shared;
use super::{Error, GOING, lock};
use crate::connection::ClientReceiver;
use crate::framing::{Frame, Frames};
use crate::message;
use crate::protocol::{Reply, RequestId, RpcError, ServerMessage, code};
use crate::sys::{self, Thread};

/// How much of a line that is no message is shown.
const SHOWN: usize = 200;

pub(super) enum Incoming {
    Memory(ClientReceiver),
    Frames(Frames<Box<dyn Read + Send>>),
}

impl Incoming {
    /// The next message; `None` at the end, an error if there is no going on.
    fn next(&mut self) -> Result<Option<ServerMessage>, String> {
        let frames = match self {
            Incoming::Memory(receiver) => return Ok(receiver.next()),
            Incoming::Frames(frames) => frames,
        };
        loop {
            let text = match frames.next() {
                Ok(Frame::Message(text)) => text,
                Ok(Frame::Headers) => continue,
                Ok(Frame::Invalid(error)) => return Err(error.message),
                Ok(Frame::End) => return Ok(None),
                Err(e) => return Err(format!("reading failed: {e}")),
            };
            match message::parse_server(text) {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(why) => {
                    let shown = String::from_utf8_lossy(&text[..text.len().min(SHOWN)]);
                    return Err(format!(
                        "it sent a line that is not a JSON-RPC message: {shown:?}: {why}"
                    ));
                }
            }
        }
    }
}

/// Who serves, as far as it is ours to wait for its end.
pub(super) enum Server {
    Thread(Thread<Result<crate::End, crate::Error>>),
    Child { child: Child, name: String },
    Elsewhere,
}

impl Server {
    /// Waits for its end, which comes with the end of its output; what was wrong with it. One that
    /// is `lost` is still there, makes no sense, and is killed; so is one that stays without output.
    fn finish(self, lost: bool) -> Option<String> {
        match self {
            Server::Thread(thread) => match thread.join() {
                Ok(Ok(_)) => None,
                Ok(Err(e)) => Some(e.to_string()),
                Err(_) => Some("the server has panicked".to_owned()),
            },
            Server::Child { mut child, name } => {
                // Where this cannot be known, it is waited for.
                let stays = !lost && !sys::ends_by(&child, Instant::now() + GOING).unwrap_or(true);
                if lost || stays {
                    // Fails only for one that has ended already.
                    let _ = child.kill();
                }
                match child.wait() {
                    Ok(_) if stays => Some(format!("{name:?} closed its output and went on")),
                    Ok(status) if status.success() || lost => None,
                    Ok(status) => Some(format!("{name:?} ended with {status}")),
                    Err(e) => Some(format!("{name:?} cannot be waited for: {e}")),
                }
            }
            Server::Elsewhere => None,
        }
    }
}

/// Takes messages where they belong until there are no more; the body of `client-read`.
pub(super) fn run(mut incoming: Incoming, server: Server, routes: &Routes) {
    sys::block_signals_for_this_thread();
    let lost = loop {
        match incoming.next() {
            Ok(Some(message)) => {
                if let Err(why) = routes.take(message) {
                    break Some(why);
                }
            }
            Ok(None) => break None,
            Err(why) => break Some(why),
        }
    };
    drop(incoming);
    let unwell = server.finish(lost.is_some());
    routes.end(lost.or(unwell));
}

/// Who waits for what.
#[derive(Default)]
pub(super) struct Routes(Mutex<Table>);

#[derive(Default)]
struct Table {
    answers: HashMap<i64, Awaited>,
    processes: HashMap<Arc<str>, Arc<Shared>>,
    ended: bool,
    reason: Option<String>,
}

/// A request whose answer somebody waits for.
struct Awaited {
    answer: Sender<Result<Reply, RpcError>>,
    /// Its length on the wire; 0 until it is about to be sent.
    bytes: usize,
}

impl Table {
    fn check(&self) -> Result<(), Error> {
        match self.ended {
            true => Err(Error::Ended(self.reason.clone())),
            false => Ok(()),
        }
    }
}

impl Routes {
    /// Announces a request; where its answer will come.
    pub(super) fn expect(&self, id: i64) -> Result<Receiver<Result<Reply, RpcError>>, Error> {
        let (answer, receiver) = bounded(1);
        let mut table = lock(&self.0);
        table.check()?;
        table.answers.insert(id, Awaited { answer, bytes: 0 });
        Ok(receiver)
    }

    /// A request of so many bytes is about to be sent.
    pub(super) fn sending(&self, id: i64, bytes: usize) {
        if let Some(awaited) = lock(&self.0).answers.get_mut(&id) {
            awaited.bytes = bytes;
        }
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

    /// Fails if the server has not understood something, so that nobody knows who is waiting in vain.
    fn take(&self, message: ServerMessage) -> Result<(), String> {
        match message {
            ServerMessage::Response {
                id: Some(RequestId::Signed(id)),
                outcome,
            } => {
                let awaited = lock(&self.0).answers.remove(&id);
                if let Some(awaited) = awaited {
                    let _ = awaited.answer.send(outcome);
                }
            }
            ServerMessage::Response {
                id: None,
                outcome: Err(error),
            } => {
                // A line that is too long is refused unread, so without its id. It can only be the
                // longest of those without an answer: a shorter one is not too long, or is as well.
                let mut table = lock(&self.0);
                let longest = table.answers.iter().max_by_key(|(_, awaited)| awaited.bytes);
                let longest = longest.map(|(id, _)| *id);
                match longest.and_then(|id| table.answers.remove(&id)) {
                    Some(awaited) if error.code == code::INVALID_REQUEST => {
                        let _ = awaited.answer.send(Err(error));
                    }
                    _ => return Err(format!("it could not read a request: {}", error.message)),
                }
            }
            ServerMessage::Response { outcome, .. } => {
                log::warn!("the server answered a request that was never sent: {outcome:?}");
            }
            ServerMessage::OutputDelta(delta) => {
                let process = lock(&self.0).processes.get(&delta.process_handle).cloned();
                if let Some(process) = process {
                    process.deliver(delta.stream, delta.bytes);
                }
            }
            ServerMessage::Exited(exited) => {
                let process = lock(&self.0).processes.remove(&exited.process_handle);
                if let Some(process) = process {
                    process.exited(*exited);
                }
            }
        }
        Ok(())
    }

    /// Nothing more will come: everybody who waits is told.
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
