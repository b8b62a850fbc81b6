//! The end of a connection: every process is told to end, what was read before is still answered, and what
//! does not start in time is given up.
//!
//! **Thread:** the dispatcher.
//! **Owns:** how long each step of an end may take.
//! **Never:** waits; the dispatcher's loop goes on until the table is empty or the time is up.

use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;

use super::transport::Inbound;
use super::{Dispatcher, End};
use crate::process::Command;
use crate::wire::protocol::RpcError;

/// How long the end of a connection may take, whatever the children or the client do. The rest of the
/// three seconds belongs to the sweeps that follow in the binary.
pub(super) const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(1_600);
/// How long requests that still come are taken once the connection is ending.
const LAST_REQUESTS_WAIT: Duration = Duration::from_millis(200);
/// How long a client that has ended its input may leave us without room for the requests before that
/// end. That is part of [`SHUTDOWN_TIMEOUT`].
pub(super) const NO_ROOM_WAIT: Duration = Duration::from_millis(300);
/// How long a process may still be starting once the connection is ending: then it is given up, so that a
/// program on a disk that does not answer leaves no request unanswered.
const START_AT_END_WAIT: Duration = Duration::from_millis(1_000);

impl Dispatcher {
    pub(super) fn begin_end(&mut self, end: End) {
        if self.ending.is_some() {
            return;
        }
        log::debug!("the connection ends: {end:?}");
        self.ending = Some(end);
        let now = Instant::now();
        self.deadline = Some(now + SHUTDOWN_TIMEOUT);
        self.give_up_at = Some(now + START_AT_END_WAIT);
        for entry in self.handles.values() {
            entry.command(Command::End);
        }
        while let Some((ticket, request)) = self.held_back.pop_front() {
            let error = RpcError::invalid_request("the connection is ending");
            self.outbox.answer(ticket, Err(error));
            self.failed(request.serial);
        }
        // What was read before is still answered.
        self.input_open = false;
        let enough = Instant::now() + LAST_REQUESTS_WAIT;
        loop {
            match self.inbox.try_recv() {
                Ok(Inbound::Message(message, _)) => self.on_message(message),
                Ok(Inbound::OutputGone | Inbound::ReaderIdle) => {}
                // A client that has dropped both of its halves has sent all it had.
                Err(TryRecvError::Disconnected) if end == End::OutputGone => {
                    self.ending = Some(End::InputEnded);
                    break;
                }
                Err(_) => break,
            }
            if Instant::now() > enough {
                break;
            }
        }
    }

    /// Does everything that is due, except the end itself.
    pub(super) fn keep_deadlines(&mut self, now: Instant) {
        self.lists.expire(now);
        self.answer_lists();
        if self.give_up_at.is_some_and(|at| at <= now) {
            self.give_up_at = None;
            let starting = self.handles.values().filter(|entry| entry.starting.is_some());
            let starting: Vec<u64> = starting.map(|entry| entry.serial).collect();
            for serial in starting {
                self.give_up(serial);
            }
        }
    }

    /// Answers a spawn that has neither succeeded nor failed in time, and what waits for it.
    fn give_up(&mut self, serial: u64) {
        let Some(entry) = self.handles.of_serial(serial) else {
            return;
        };
        let Some(backlog) = &entry.starting else { return };
        if backlog.birth.give_up() {
            let ticket = self.outbox.admit(backlog.id.clone());
            let error = RpcError::invalid_request("the connection is ending");
            self.outbox.answer(ticket, Err(error));
            self.given_up += 1;
            self.failed(serial);
        }
    }
}
