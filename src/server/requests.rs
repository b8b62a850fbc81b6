//! What is done for each request: it is answered, or handed to what answers it.
//!
//! **Thread:** the dispatcher.
//! **Owns:** the way from a request to a command for its process.
//! **Never:** waits, and never leaves a request without an answer.

use std::time::Duration;

use super::handles::{Entry, Waiting, accept};
use super::{Dispatcher, WAITING_COST_BYTES, validate};
use crate::process::Command;
use crate::process::stdin::AcceptedWrite;
use crate::process::wait::Wait;
use crate::wire::protocol::{
    CloseOutputParams, InspectParams, KillParams, MAX_HANDLE_BYTES, Reply, Request, RequestId,
    ResizePtyParams, RpcError, WaitParams, WriteStdinParams, shortened,
};
use crate::wire::signal;

impl Dispatcher {
    /// Takes one request that was admitted. Every way through here answers it, or hands it to what will.
    pub(super) fn on_request(&mut self, id: RequestId, request: Request) {
        if request
            .handle()
            .is_some_and(|handle| handle.len() > MAX_HANDLE_BYTES)
        {
            let error = format!("processHandle must not be longer than {MAX_HANDLE_BYTES} bytes of UTF-8");
            self.outbox.answer(Some(id), Err(RpcError::invalid_params(error)));
            return;
        }
        if let Some(handle) = request.handle()
            && let Some(entry) = self.handles.get_mut(handle)
            && let Some(backlog) = &mut entry.starting
        {
            let bytes = WAITING_COST_BYTES + id.len() + request.cost();
            let limit = self.config.max_pending_stdin_bytes;
            let request = match request {
                Request::WriteStdin(params) => match accept(&entry.stats, &id, params, limit) {
                    Ok(write) => Waiting::Write(write),
                    Err(error) => {
                        self.outbox.answer(Some(id), Err(error));
                        return;
                    }
                },
                request => Waiting::Request(id, request),
            };
            backlog.bytes += bytes;
            self.waiting += bytes;
            backlog.requests.push_back(request);
            return;
        }
        let result = match request {
            Request::Spawn(params) => self.spawn(&id, params),
            Request::WriteStdin(params) => self.write_stdin(&id, params),
            Request::ResizePty(params) => self.resize(&id, &params),
            Request::Kill(params) => self.kill(&id, &params),
            Request::Inspect(params) => self.inspect(&id, &params),
            Request::CloseOutput(params) => self.close_output(&id, &params),
            Request::Wait(params) => self.wait(&id, params),
            Request::List => {
                self.list(id);
                return;
            }
            Request::Initialize(params) => {
                let reply = self.initialize(&params);
                self.outbox.answer(Some(id), reply);
                return;
            }
        };
        if let Err(error) = result {
            self.outbox.answer(Some(id), Err(error));
        }
    }

    fn entry(&self, handle: &str) -> Result<&Entry, RpcError> {
        self.handles.get(handle).ok_or_else(|| no_process(handle))
    }

    fn write_stdin(&self, id: &RequestId, params: WriteStdinParams) -> Result<(), RpcError> {
        let entry = self.writable(
            &params.process_handle,
            params.delta.is_some() || params.close_stdin,
        )?;
        let write = accept(&entry.stats, id, params, self.config.max_pending_stdin_bytes)?;
        entry.command(Command::Write(write));
        Ok(())
    }

    /// Does a write that was accepted while its process was being started.
    pub(super) fn write_accepted(&self, handle: &str, write: AcceptedWrite) {
        match self.writable(handle, write.says_something()) {
            Ok(entry) => entry.command(Command::Write(write)),
            Err(error) => self.outbox.answer(Some(write.id().clone()), Err(error)),
        }
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

    fn resize(&self, id: &RequestId, params: &ResizePtyParams) -> Result<(), RpcError> {
        validate::pty_size(params.size)?;
        self.entry(&params.process_handle)?.command(Command::Resize {
            id: id.clone(),
            size: params.size,
        });
        Ok(())
    }

    fn inspect(&self, id: &RequestId, params: &InspectParams) -> Result<(), RpcError> {
        let command = Command::Inspect { id: id.clone() };
        self.entry(&params.process_handle)?.command(command);
        Ok(())
    }

    fn kill(&self, id: &RequestId, params: &KillParams) -> Result<(), RpcError> {
        let signal = match &params.signal {
            Some(name) => {
                signal::number(name).map_err(|e| RpcError::invalid_params(format!("process/kill: {e}")))?
            }
            None => libc::SIGKILL,
        };
        self.entry(&params.process_handle)?.command(Command::Kill {
            id: id.clone(),
            signal,
            grace: params.grace_ms.map(Duration::from_millis),
        });
        Ok(())
    }

    fn close_output(&self, id: &RequestId, params: &CloseOutputParams) -> Result<(), RpcError> {
        self.entry(&params.process_handle)?.command(Command::CloseOutput {
            id: id.clone(),
            stream: params.stream,
        });
        Ok(())
    }

    fn wait(&self, id: &RequestId, params: WaitParams) -> Result<(), RpcError> {
        validate::wait_params(&params)?;
        let entry = self.entry(&params.process_handle)?;
        let wait = Wait::new(id, params, &entry.stats.waits, &self.context.waits_bytes)?;
        entry.command(Command::Wait(Box::new(wait)));
        Ok(())
    }

    /// Answers a command that came when its process had ended.
    pub(super) fn too_late(&self, entry: &Entry, command: Command) {
        // The handle was live when the command came, and a later spawn may have been told so: there is
        // no more to be done, but the process was there.
        let (id, outcome) = match command {
            Command::Kill { id, .. } => (id, Ok(Reply::Done)),
            Command::Resize { id, .. } if entry.params.tty => (id, Ok(Reply::Done)),
            Command::Wait(wait) => {
                let (id, reply) = wait.too_late();
                return self.outbox.answer_behind_output(id, Ok(reply));
            }
            Command::CloseOutput { id, .. } if !entry.params.tty => {
                return self.outbox.answer_behind_output(id, Ok(Reply::Done));
            }
            Command::Resize { id, .. } | Command::Inspect { id } | Command::CloseOutput { id, .. } => {
                (id, Err(no_process(&entry.params.process_handle)))
            }
            Command::Write(write) => {
                let error = no_process(&entry.params.process_handle);
                (write.id().clone(), Err(error))
            }
            Command::End => return,
        };
        self.outbox.answer(Some(id), outcome);
    }
}

fn no_process(handle: &str) -> RpcError {
    let handle = shortened(handle);
    RpcError::invalid_request(format!("no active process for process handle {handle:?}"))
}
