//! The end of a process: it is reaped, and its exit is reported.
//!
//! **Thread:** the process thread.
//! **Owns:** the last look at the child.
//! **Never:** reaps a child before its group has been killed: until then its pid is its own.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::output::Output;
use super::{CONNECTION_ENDS, Command, DELIVER_AT_END_WAIT, LastWord, Process, tree};
use crate::sys::{self, PollFd, Status};
use crate::wire::protocol::{Collected, CollectedTail, Exited, Usage};
use crate::wire::signal;

/// The first pause between two attempts to reap a child that a tracer holds, and the longest: the kernel
/// does not tell the parent in any other way than by SIGCHLD, which is the embedder's.
const FIRST_REAP_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_REAP_PAUSE: Duration = Duration::from_millis(250);

/// The exit code of a process whose time was up.
const TIMED_OUT: i32 = 124;
/// The exit code where it cannot be known: other code in this program has reaped our child, or a tracer
/// holds it past the end of the connection.
const UNKNOWN: i32 = -1;

impl Process {
    /// Reaps the process and says how it ended; nothing is said of one that lives on.
    pub(super) fn end(mut self) -> (Option<LastWord>, Receiver<Command>) {
        self.stdin.fail("the process has ended");
        self.finish_inspections();
        if self.released {
            self.waits.fail(&self.sink.outbox, CONNECTION_ENDS);
            return (None, self.inbox);
        }
        self.end_waits();
        if !self.detach {
            let _ = sys::kill_group(self.pid, libc::SIGKILL);
            if let Some(on_reap) = &self.context.on_reap {
                on_reap(self.pid.unsigned_abs());
            }
        }
        // Until here the child was a zombie at least, so its pid could not be recycled.
        let (status, usage) = self.reap();
        self.refuse_inspections();
        if !self.detach {
            tree::wait_for_group(self.pid, &self.context.snapshots);
        }
        tree::wait_for_death(&self.killed, Instant::now() + tree::KILL_WAIT);
        let duration = self.exited.unwrap_or_else(Instant::now) - self.started;
        let unread = || Collected {
            tail: self.tells_tails.then(CollectedTail::default),
            ..Collected::default()
        };
        let [stdout, stderr] = self
            .outputs
            .map(|o| o.map_or_else(unread, Output::into_collected));
        let exited = Exited {
            process_handle: self.sink.handle,
            exit_code: if self.timed_out { TIMED_OUT } else { status.code },
            stdout,
            stderr,
            output_drain_timed_out: self.drain_timed_out,
            pid: self.pid.unsigned_abs(),
            signal: status.signal.map(signal::name),
            core_dumped: status.core_dumped,
            timed_out: self.timed_out,
            duration,
            usage: Usage {
                user: usage.user,
                system: usage.system,
                max_rss_bytes: usage.max_rss_bytes,
            },
            stdout_bytes: self.stats.stdout_bytes.load(Relaxed),
            stderr_bytes: self.stats.stderr_bytes.load(Relaxed),
        };
        (Some((Box::new(exited), self.permit)), self.inbox)
    }

    /// Reaps the child, which has ended. One that a tracer holds as a zombie is not ours to reap until
    /// that lets go: then it is asked for again and again, and commands are answered meanwhile.
    fn reap(&mut self) -> (Status, sys::Usage) {
        let mut pause = FIRST_REAP_PAUSE;
        loop {
            match sys::try_reap(self.pid) {
                Ok(Some(ended)) => return ended,
                Ok(None) => {}
                Err(e) => {
                    log::error!("other code in this program has reaped process {}: {e}", self.pid);
                    return unknown_end();
                }
            }
            if self
                .ending
                .is_some_and(|ending| ending.elapsed() >= DELIVER_AT_END_WAIT)
            {
                log::warn!(
                    "process {} has ended, and a tracer keeps it from being reaped",
                    self.pid
                );
                return unknown_end();
            }
            let mut wake = [PollFd::read(self.wake.raw())];
            if sys::poll(&mut wake, Some(pause)).is_ok() && wake[0].readable() {
                self.wake.clear();
                self.take_commands();
            } else {
                pause = (pause * 2).min(LONGEST_REAP_PAUSE);
            }
            self.tend_inspections(Instant::now());
        }
    }
}

fn unknown_end() -> (Status, sys::Usage) {
    let status = Status {
        code: UNKNOWN,
        signal: None,
        core_dumped: false,
    };
    (status, sys::Usage::default())
}
