//! What the dispatcher asks of a process.
//!
//! **Thread:** the process thread.
//! **Owns:** every signal that is sent to the process.
//! **Never:** leaves a command without its answer.

use std::io;
use std::time::{Duration, Instant};

use super::{Action, Command, DELIVER_AT_END_WAIT, Process, tree};
use crate::sys;
use crate::wire::protocol::{PtySize, Reply, RpcError, code};
use crate::wire::signal;

/// How many commands are taken before the exit, the deadlines and the streams are looked at again.
const COMMANDS_A_TURN: usize = 1_024;

impl Process {
    /// Takes the commands that wait now. What comes meanwhile is left for the next turn, so that a flood
    /// does not keep the exit and the deadlines from being looked at.
    pub(super) fn take_commands(&mut self) {
        let waiting = self.inbox.len().min(COMMANDS_A_TURN);
        // Kills that wait together share one kill of the tree, which takes a snapshot of the machine.
        let mut tree_kill = None;
        for _ in 0..waiting {
            let Ok(command) = self.inbox.try_recv() else { break };
            let (ticket, action) = match command {
                Command::Request(ticket, action) => (ticket, action),
                Command::End => {
                    self.connection_ends();
                    continue;
                }
            };
            let outcome = match action {
                Action::Write(write) => {
                    self.stdin.write(ticket, write);
                    continue;
                }
                Action::Wait(wait) => {
                    self.wait(ticket, *wait);
                    continue;
                }
                Action::Inspect => {
                    self.inspect(ticket);
                    continue;
                }
                Action::CloseOutput(stream) => {
                    let outcome = self.close_output(stream);
                    // No delta of the stream comes after it.
                    self.sink.outbox.answer_after_output(ticket, outcome);
                    continue;
                }
                Action::Resize(size) => self.resize(size),
                Action::Kill { signal, .. } if signal == libc::SIGKILL => {
                    tree_kill.get_or_insert_with(|| self.kill_tree()).clone()
                }
                Action::Kill { signal, grace } => self.signal(signal, grace),
            };
            self.sink.outbox.answer(ticket, outcome);
        }
        if waiting == COMMANDS_A_TURN {
            self.wake.set();
        }
    }

    fn resize(&mut self, size: PtySize) -> Result<Reply, RpcError> {
        let Some(terminal) = &self.terminal else {
            return Err(RpcError::invalid_request(
                "failed to resize PTY: the process has none",
            ));
        };
        match terminal.resize(size) {
            Ok(()) => Ok(Reply::Done),
            Err(e) => Err(RpcError::new(
                code::INTERNAL_ERROR,
                format!("failed to resize PTY: {e}"),
            )),
        }
    }

    /// Sends any signal but SIGKILL to the group.
    fn signal(&mut self, signal: i32, grace: Option<Duration>) -> Result<Reply, RpcError> {
        if self.exited.is_none() {
            let grace = grace.and_then(|g| Instant::now().checked_add(g));
            self.kill_at = [self.kill_at, grace].into_iter().flatten().min();
        }
        let sent = sys::kill_group(self.pid, signal);
        self.signalled(signal, sent)
    }

    /// Kills the process and all it has started that can be found.
    fn kill_tree(&mut self) -> Result<Reply, RpcError> {
        if self.killed_after_exit {
            return Ok(Reply::Done);
        }
        self.killed_after_exit = self.exited.is_some();
        if let Some(grace) = self.grace.take() {
            self.grace_ended = self.exited.map(|_| Instant::now());
            self.killed.extend(grace.kill());
        }
        let killed = tree::kill(self.pid, &self.context.snapshots);
        self.killed.extend(killed.outside);
        self.signalled(libc::SIGKILL, killed.outcome)
    }

    /// Kills the tree where no request waits for the outcome.
    pub(super) fn kill_unasked(&mut self) {
        if let Err(error) = self.kill_tree() {
            log::warn!("process {} was not killed: {}", self.pid, error.message);
        }
    }

    /// What a kill is answered once `signal` was sent.
    fn signalled(&self, signal: i32, sent: io::Result<()>) -> Result<Reply, RpcError> {
        match sent {
            Ok(()) => Ok(Reply::Done),
            // The leader is a zombie until we reap it, and alone in its group as far as we may signal it.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) && self.has_exited() => Ok(Reply::Done),
            Err(e) => Err(RpcError::new(
                code::INTERNAL_ERROR,
                format!("failed to send {}: {e}", signal::name(signal)),
            )),
        }
    }

    fn connection_ends(&mut self) {
        if self.ending.is_some() {
            return;
        }
        let now = Instant::now();
        self.ending = Some(now);
        self.answer_writes_at = Some(now + DELIVER_AT_END_WAIT);
        // The time of one that has a grace was up before.
        let detached = self.detach && self.grace.is_none();
        if detached && self.exited.is_none() {
            self.released = true;
            return;
        }
        if !detached {
            self.kill_unasked();
        }
    }
}
