//! What is done for each request: it is answered, or handed to what answers it.
//!
//! **Thread:** the dispatcher.
//! **Owns:** the way from a request to a command for its process.
//! **Never:** waits, and never leaves a request without an answer.

use std::time::Duration;

use super::handles::{Entry, Waiting, accept};
use super::{Dispatcher, validate};
use crate::outbox::Ticket;
use crate::outbox::costs::waiting_cost;
use crate::process::stdin::AcceptedWrite;
use crate::process::wait::Wait;
use crate::process::{Action, Command};
use crate::wire::protocol::{
    CloseOutputParams, InspectParams, KillParams, MAX_HANDLE_BYTES, Reply, Request, ResizePtyParams,
    RpcError, WaitParams, WriteStdinParams, shortened,
};
use crate::wire::signal;

impl Dispatcher {
    /// Takes one request that was let in. Every way through here answers it, or hands it to what will.
    pub(super) fn on_request(&mut self, mut ticket: Ticket, request: Request) {
        if request
            .handle()
            .is_some_and(|handle| handle.len() > MAX_HANDLE_BYTES)
        {
            let error = format!("processHandle must not be longer than {MAX_HANDLE_BYTES} bytes of UTF-8");
            self.outbox.answer(ticket, Err(RpcError::invalid_params(error)));
            return;
        }
        if let Some(handle) = request.handle()
            && let Some(entry) = self.handles.get_mut(handle)
            && let Some(backlog) = &mut entry.starting
        {
            ticket.hold(waiting_cost(ticket.id(), request.cost()));
            let limit = self.config.max_pending_stdin_bytes;
            let request = match request {
                Request::WriteStdin(params) => match accept(&entry.stats, &ticket, params, limit) {
                    Ok(write) => Waiting::Write(write),
                    Err(error) => return self.outbox.answer(ticket, Err(error)),
                },
                request => Waiting::Request(request),
            };
            backlog.requests.push_back((ticket, request));
            return;
        }
        let asked = match request {
            Request::Spawn(params) => return self.spawn(ticket, params),
            Request::List => return self.list(ticket),
            Request::Initialize(params) => {
                let reply = self.initialize(&params);
                return self.outbox.answer(ticket, reply);
            }
            Request::WriteStdin(params) => self.write_stdin(&ticket, params),
            Request::ResizePty(params) => self.resize(&params),
            Request::Kill(params) => self.kill(&params),
            Request::Inspect(params) => self.inspect(&params),
            Request::CloseOutput(params) => self.close_output(&params),
            Request::Wait(params) => self.wait(&ticket, params),
        };
        self.hand_over(ticket, asked);
    }

    /// Hands a request to its process, or refuses it.
    fn hand_over(&self, ticket: Ticket, asked: Result<(&Entry, Action), RpcError>) {
        match asked {
            Ok((entry, action)) => entry.command(Command::Request(ticket, action)),
            Err(error) => self.outbox.answer(ticket, Err(error)),
        }
    }

    fn entry(&self, handle: &str) -> Result<&Entry, RpcError> {
        self.handles.get(handle).ok_or_else(|| no_process(handle))
    }

    fn write_stdin(&self, ticket: &Ticket, params: WriteStdinParams) -> Result<(&Entry, Action), RpcError> {
        let says_something = params.delta.is_some() || params.close_stdin;
        let entry = self.writable(&params.process_handle, says_something)?;
        let write = accept(&entry.stats, ticket, params, self.config.max_pending_stdin_bytes)?;
        Ok((entry, Action::Write(write)))
    }

    /// Does a write that was accepted while its process was being started.
    pub(super) fn write_accepted(&self, ticket: Ticket, handle: &str, write: AcceptedWrite) {
        let entry = self.writable(handle, write.says_something());
        self.hand_over(ticket, entry.map(|entry| (entry, Action::Write(write))));
    }

    /// The process to write to.
    fn writable(&self, handle: &str, says_something: bool) -> Result<&Entry, RpcError> {
        if !says_something {
            return Err(RpcError::invalid_params(
                "process/writeStdin requires deltaBase64 or closeStdin",
            ));
        }
        let entry = self.entry(handle)?;
        if !(entry.params.stream_stdin || entry.params.tty) {
            return Err(RpcError::invalid_request(
                "stdin streaming is not enabled for this process: spawn it with streamStdin",
            ));
        }
        Ok(entry)
    }

    fn resize(&self, params: &ResizePtyParams) -> Result<(&Entry, Action), RpcError> {
        validate::pty_size(params.size)?;
        Ok((self.entry(&params.process_handle)?, Action::Resize(params.size)))
    }

    fn inspect(&self, params: &InspectParams) -> Result<(&Entry, Action), RpcError> {
        Ok((self.entry(&params.process_handle)?, Action::Inspect))
    }

    fn kill(&self, params: &KillParams) -> Result<(&Entry, Action), RpcError> {
        let signal = match &params.signal {
            Some(name) => {
                signal::number(name).map_err(|e| RpcError::invalid_params(format!("process/kill: {e}")))?
            }
            None => libc::SIGKILL,
        };
        let grace = params.grace_ms.map(Duration::from_millis);
        Ok((
            self.entry(&params.process_handle)?,
            Action::Kill { signal, grace },
        ))
    }

    fn close_output(&self, params: &CloseOutputParams) -> Result<(&Entry, Action), RpcError> {
        let entry = self.entry(&params.process_handle)?;
        Ok((entry, Action::CloseOutput(params.stream)))
    }

    fn wait(&self, ticket: &Ticket, params: WaitParams) -> Result<(&Entry, Action), RpcError> {
        validate::wait_params(&params)?;
        let entry = self.entry(&params.process_handle)?;
        let wait = Wait::new(ticket, params, &entry.stats.waits, &self.context.waits_bytes)?;
        Ok((entry, Action::Wait(Box::new(wait))))
    }

    /// Answers a command that came when its process had ended.
    pub(super) fn too_late(&self, entry: &Entry, command: Command) {
        let Command::Request(ticket, action) = command else {
            return;
        };
        // The handle was live when the command came, and a later spawn may have been told so: there is
        // no more to be done, but the process was there.
        let outcome = match action {
            Action::Wait(wait) => {
                let reply = wait.too_late();
                return self.outbox.answer_after_output(ticket, Ok(reply));
            }
            Action::CloseOutput(_) if !entry.params.tty => {
                return self.outbox.answer_after_output(ticket, Ok(Reply::Done));
            }
            Action::Kill { .. } => Ok(Reply::Done),
            Action::Resize(_) if entry.params.tty => Ok(Reply::Done),
            Action::Resize(_) | Action::Inspect | Action::CloseOutput(_) | Action::Write(_) => {
                Err(no_process(&entry.params.process_handle))
            }
        };
        self.outbox.answer(ticket, outcome);
    }
}

fn no_process(handle: &str) -> RpcError {
    let handle = shortened(handle);
    RpcError::invalid_request(format!("no active process for process handle {handle:?}"))
}
