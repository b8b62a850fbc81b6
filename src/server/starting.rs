//! What a spawn goes through until its program runs: validation, the wait for room, the thread, and what
//! came for its handle meanwhile.
//!
//! **Thread:** the dispatcher.
//! **Owns:** the order in which spawns are started and what waits for them is done.
//! **Never:** starts a program itself; that is the work of the process's own thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;

use super::handles::{Backlog, Entry, Waiting};
use super::{Dispatcher, validate};
use crate::outbox::Ticket;
use crate::outbox::costs::waiting_cost;
use crate::process::keep::Keep;
use crate::process::{self, SpawnRequest, Stats, spawn};
use crate::sys::{self, Birth, EventFd};
use crate::wire::methods::Params as _;
use crate::wire::protocol::{Request, RpcError, SpawnParams, Stage, shortened};

/// A process thread's stack. It is only touched as far as it is used; measured depth is under 16 KiB.
const PROCESS_STACK_BYTES: usize = 128 * 1024;

impl Dispatcher {
    pub(super) fn spawn(&mut self, mut ticket: Ticket, params: Box<SpawnParams>) {
        let wake = match self.prepare(&params) {
            Ok(wake) => Arc::new(wake),
            Err(error) => return self.outbox.answer(ticket, Err(error)),
        };
        ticket.hold(waiting_cost(ticket.id(), params.cost()));
        let handle: Arc<str> = params.process_handle.as_str().into();
        let serial = self.handles.next_serial();
        let (inbox_sender, inbox) = unbounded();
        let params: Arc<SpawnParams> = params.into();
        let stats = Arc::new(Stats::default());
        let host = &self.config.host;
        let on_birth = match params.detach {
            true => &host.on_detach,
            false => &host.on_start,
        };
        let birth = Arc::new(Birth::new(on_birth.clone(), host.on_reap.clone()));
        let request = SpawnRequest {
            serial,
            handle: Arc::clone(&handle),
            reused: self.handles.may_be_on_its_way(&handle),
            keep: Keep::new(
                params.output_keep,
                params.output_bytes_cap.or_default(self.config.default_output_cap),
            ),
            timeout: params
                .timeout_ms
                .or_default(self.config.default_timeout_ms())
                .map(Duration::from_millis),
            grace: params.timeout_grace_ms.map(Duration::from_millis),
            params: Arc::clone(&params),
            birth: Arc::clone(&birth),
            inbox,
            wake: Arc::clone(&wake),
            stats: Arc::clone(&stats),
            context: Arc::clone(&self.context),
            outbox: self.outbox.clone(),
            permit: self.outbox.admit_process(),
            events: self.event_sender.clone(),
        };
        let entry = Entry {
            serial,
            params,
            stats,
            inbox: inbox_sender,
            wake,
            starting: Some(Backlog {
                id: ticket.id().cloned(),
                since: Instant::now(),
                birth,
                requests: VecDeque::new(),
            }),
        };
        self.handles.add(handle, entry);
        self.held_back.push_back((ticket, request));
        self.launch();
    }

    /// What wakes the process, unless it cannot be started, as far as that is known without its thread.
    fn prepare(&self, params: &SpawnParams) -> Result<EventFd, RpcError> {
        validate::spawn_params(params)?;
        if self.ending.is_some() {
            return Err(RpcError::invalid_request("the connection is ending"));
        }
        let handle = params.process_handle.as_str();
        if self.handles.get(handle).is_some() {
            return Err(RpcError::invalid_request(format!(
                "duplicate active process handle: {:?}",
                shortened(handle)
            )));
        }
        EventFd::new().map_err(|e| spawn::failure(params, Stage::Pipe, "eventfd2", e))
    }

    /// Starts the threads of what is to be spawned, as far as there is room for what it may print.
    pub(super) fn launch(&mut self) {
        while !self.held_back.is_empty() && self.outbox.has_room_for_a_process() {
            let Some((ticket, request)) = self.held_back.pop_front() else {
                return;
            };
            let serial = request.serial;
            let thread =
                sys::start_thread_unjoined(&format!("proc-{serial}"), PROCESS_STACK_BYTES, move || {
                    process::run(ticket, request)
                });
            if let Err(error) = thread {
                // The ticket went with the thread.
                if let Some(entry) = self.handles.of_serial(serial)
                    && let Some(backlog) = &entry.starting
                {
                    let ticket = self.outbox.admit(backlog.id.clone());
                    let error = spawn::failure(&entry.params, Stage::Thread, sys::START_THREAD, error);
                    self.outbox.answer(ticket, Err(error));
                }
                self.failed(serial);
            }
        }
    }

    /// Forgets a process that could not be started, and whose spawn has been answered.
    pub(super) fn failed(&mut self, serial: u64) {
        let Some(entry) = self.handles.remove(serial) else {
            // The thread of one that was given up.
            self.given_up = self.given_up.saturating_sub(1);
            return;
        };
        let handle = entry.params.process_handle.as_str();
        if let Some(backlog) = entry.starting {
            self.catch_up(backlog, handle, false);
        }
        // A spawn that waited after this one was sent before the lists that wait, too.
        if let Some(next) = self.handles.get(handle).map(|e| e.serial) {
            self.lists.follow(serial, next);
        }
        self.spawn_settled(serial);
    }

    /// Does what was asked of a handle while its process was being started. The process may have
    /// failed to start, and then the next spawn in the backlog may take the handle over.
    pub(super) fn catch_up(&mut self, backlog: Backlog, handle: &str, started: bool) {
        for (ticket, request) in backlog.requests {
            match request {
                Waiting::Write(write) if started => self.write_accepted(ticket, handle, write),
                Waiting::Write(write) => {
                    self.on_request(ticket, Request::WriteStdin(write.into_params(handle)));
                }
                Waiting::Request(request) => self.on_request(ticket, request),
            }
        }
    }

    pub(super) fn spawn_settled(&mut self, serial: u64) {
        self.lists.settled(serial);
        self.answer_lists();
    }
}
