//! What is due when in the life of a process, and when that life is over.
//!
//! **Thread:** the process thread.
//! **Owns:** how long an output that stays open, and a client that does not read, delay the end.
//! **Never:** waits; the process's loop polls until the next deadline.

use std::time::{Duration, Instant};

use super::grace::Grace;
use super::output::Output;
use super::{CONNECTION_ENDS, DELIVER_AT_END_WAIT, Process};
use crate::sys::{self, PollFd};

/// How long what keeps an output open after the exit delays `process/exited`.
pub(crate) const DRAIN_WAIT: Duration = Duration::from_millis(2_000);
/// The same once the connection is ending.
const DRAIN_AT_END_WAIT: Duration = Duration::from_millis(250);

impl Process {
    /// Does everything that is due.
    pub(super) fn keep_deadlines(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.grace.as_ref().is_some_and(|grace| grace.is_over(now)) {
            self.kill_unasked();
        }
        if self.exited.is_some() {
            return;
        }
        if due(self.timeout_at) {
            self.timeout_at = None;
            // An exit that came first counts, even if it was not noticed yet.
            if self.has_exited() {
                self.on_exit();
                return;
            }
            self.timed_out = true;
            match self.timeout_grace {
                Some(grace) => self.grace = Some(Grace::begin(self.pid, grace, &self.context.snapshots)),
                None => self.kill_unasked(),
            }
        }
        if due(self.kill_at) {
            self.kill_at = None;
            self.kill_unasked();
        }
        if due(self.answer_writes_at) {
            self.answer_writes_at = None;
            self.stdin.fail(CONNECTION_ENDS);
            self.waits.fail(&self.sink.outbox, CONNECTION_ENDS);
        }
        if self.outputs().any(|output| due(output.eof_at())) {
            if self.has_exited() {
                self.on_exit();
                return;
            }
            if sys::is_exiting(self.pid) {
                let outputs = self.outputs.iter_mut().flatten();
                outputs.for_each(|output| output.put_off_eof(now));
            }
        }
        for output in self.outputs.iter_mut().flatten() {
            output.retry(now);
        }
        self.stdin.retry(now);
    }

    /// When to look at the deadlines again, if nothing else happens. `now` must be what
    /// [`is_over`](Self::is_over) was asked with, or a deadline could fall between the two.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let grace = self.grace.as_ref().and_then(Grace::deadline);
        let waits = self.waits.retry_at();
        if let Some(exited) = self.exited {
            let drain = self.drain_from(exited) + self.drain();
            // Once the drain is over, only the delivery of what is owed is waited for: the client's
            // reading ends that, or the end of the connection.
            let end = match drain > now {
                _ if self.grace.is_some() => grace,
                true => Some(drain),
                false => self.ending.map(|ending| ending + DELIVER_AT_END_WAIT),
            };
            return [end, self.inspections.deadline(), waits]
                .into_iter()
                .flatten()
                .min();
        }
        let outputs = self.outputs();
        let outputs = outputs.flat_map(|output| [output.retry_at(), output.eof_at()]);
        let others = [
            self.answer_writes_at,
            outputs.flatten().min(),
            self.stdin.retry_at(),
            self.inspections.deadline(),
            waits,
        ];
        [self.timeout_at, self.kill_at, grace]
            .into_iter()
            .chain(others)
            .flatten()
            .min()
    }

    pub(super) fn has_exited(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        let mut interest = [PollFd::read(std::os::fd::AsRawFd::as_raw_fd(pidfd))];
        sys::poll(&mut interest, Some(Duration::ZERO)).is_ok() && interest[0].readable()
    }

    /// How long an output that is kept open delays the end.
    fn drain(&self) -> Duration {
        match self.ending {
            Some(_) => DRAIN_AT_END_WAIT,
            None => DRAIN_WAIT,
        }
    }

    /// When the drain of a process that ended at `exited` began.
    fn drain_from(&self, exited: Instant) -> Instant {
        self.grace_ended.unwrap_or(exited)
    }

    /// Whether there is nothing left to do but to reap.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        if self.released {
            return true;
        }
        let Some(exited) = self.exited else { return false };
        if let Some(grace) = &mut self.grace {
            if grace.is_anything_left(now, &self.context.snapshots) {
                return false;
            }
            self.grace = None;
        }
        if !self.outputs().any(Output::is_open) {
            return true;
        }
        // What was written before the exit is delivered, however long the client takes to read it;
        // only the end of the connection does not wait for that.
        let settled = |output: &Output| output.is_settled() || output.is_silent();
        let drained = now >= self.drain_from(exited) + self.drain();
        let delivered = drained && self.outputs().all(settled);
        let hopeless = self
            .ending
            .is_some_and(|ending| now >= ending + DELIVER_AT_END_WAIT);
        let over = drained && (delivered || hopeless);
        // A client that took its time does not keep an output open, and of a stream that has reached its
        // cap there was nothing more to wait for.
        let complete = |output: &Output| output.is_full() || output.has_run_dry();
        self.drain_timed_out |= over && !self.outputs().all(complete);
        if over {
            // What is kept of the end of a stream is owed as well.
            self.outputs.iter_mut().flatten().for_each(Output::stop);
            self.finish_outputs(now);
        }
        over && (hopeless || !self.outputs().any(Output::is_open))
    }
}
