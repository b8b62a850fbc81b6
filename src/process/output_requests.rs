//! What is asked about the output of a process: closing it, and waits.
//!
//! **Thread:** the process thread.
//! **Owns:** nothing.
//! **Never:** waits; a wait that cannot be answered now is kept in [`Waits`](super::wait::Waits).

use std::time::Instant;

use super::Process;
use super::inspect::{Look, Scope};
use super::output::Output;
use super::wait::{StreamState, Wait, Watched};
use crate::outbox::Ticket;
use crate::wire::protocol::{Reply, RpcError, Stream};

impl Process {
    fn output(&self, stream: Stream) -> Option<&Output> {
        self.outputs[stream as usize].as_ref()
    }

    /// Closes the reading end of a stream, or of all.
    pub(super) fn close_output(&mut self, stream: Option<Stream>) -> Result<Reply, RpcError> {
        let refused = |why: &str| {
            Err(RpcError::invalid_request(format!(
                "failed to close output: {why}"
            )))
        };
        if self.terminal.is_some() {
            return refused("the process has a PTY, which is closed with its end");
        }
        let all = self.outputs.iter_mut().enumerate();
        let wanted = all.filter(|(index, _)| stream.is_none_or(|only| only as usize == *index));
        let pipes: Vec<&mut Output> = wanted.filter_map(|(_, output)| output.as_mut()).collect();
        if pipes.is_empty() {
            return refused("it is not a pipe");
        }
        let mut closed = false;
        for output in pipes {
            closed |= output.close();
        }
        match closed {
            true => Ok(Reply::Done),
            false => refused("it is closed already"),
        }
    }

    /// Takes a wait; it is answered when one of its conditions holds.
    pub(super) fn wait(&mut self, ticket: Ticket, wait: Wait) {
        if let Some(stream) = wait.stream()
            && self.output(stream).is_none()
        {
            let error = format!(
                "process/wait: stream: {} is not read: it is not a pipe",
                stream.name()
            );
            drop(wait);
            return self
                .sink
                .outbox
                .answer(ticket, Err(RpcError::invalid_params(error)));
        }
        let now = Instant::now();
        self.waits.add(ticket, wait, now);
        if self.over {
            self.waits.end(&self.sink.outbox);
        } else {
            self.look_at_waits(now);
        }
    }

    /// Answers the waits that can be answered now.
    pub(super) fn look_at_waits(&mut self, now: Instant) {
        if self.waits.is_empty() {
            return;
        }
        let mut waits = std::mem::take(&mut self.waits);
        waits.look(now, self, &self.sink.outbox);
        self.waits = waits;
    }

    /// Nothing more is read: answers all waits, and those that still come at once.
    pub(super) fn end_waits(&mut self) {
        self.look_at_waits(Instant::now());
        self.over = true;
        self.waits.end(&self.sink.outbox);
    }

    /// Sends what is owed at the end of each stream that has ended.
    pub(super) fn finish_outputs(&mut self, now: Instant) {
        for output in self.outputs.iter_mut().flatten() {
            output.finish(now, &self.sink);
        }
    }

    /// There is output: reads none before all that came after the spawn was taken.
    pub(super) fn hold_back_or_not(&mut self) {
        if !self.handed_over {
            self.handed_over = self.stats.handover.is_done();
            self.holds_back = !self.handed_over;
            if self.handed_over {
                self.take_commands();
            }
        }
    }
}

impl Watched for Process {
    fn stream(&self, stream: Stream) -> Option<StreamState> {
        self.output(stream).map(Output::state)
    }

    fn has_exited(&self) -> bool {
        let settled = |output: &Output| output.is_settled() || output.is_silent();
        self.exited.is_some() && self.outputs().all(settled)
    }

    fn look_for_input(&self) -> Option<Look> {
        let (context, wake) = (&self.context, &self.wake);
        let look = || Look::begin(self.subject(), Scope::Input, context, wake).ok();
        self.exited.is_none().then(look).flatten()
    }
}
