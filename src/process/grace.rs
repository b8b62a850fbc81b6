//! The time between the SIGTERM of a timeout and its kill.
//!
//! **Thread:** the process thread of the leader.
//! **Owns:** a hold on what the leader had started when its time was up: once the leader has ended, a part
//! of that may no longer be found by its parents.
//! **Never:** waits. The process polls what it says to poll.

use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use crate::process::tree::{self, HeldProcess, SnapshotCache};
use crate::sys::{self, Pid};

/// How often it is looked whether anything is left, where nothing reports the end of what was found.
const RETRY_WAIT: Duration = Duration::from_millis(50);

/// A grace that has begun.
pub(crate) struct Grace {
    leader: Pid,
    /// When what is left is killed; `None`: past the end of time.
    until: Option<Instant>,
    /// What was found below the leader, and has not been seen to end.
    held: Vec<HeldProcess>,
    retry_at: Option<Instant>,
}

impl Grace {
    /// Sends SIGTERM to the group of `leader`, whose time is up.
    pub(crate) fn begin(leader: Pid, grace: Duration, snapshots: &SnapshotCache) -> Grace {
        // Before the signal, because the children of the dead get another parent.
        let held = tree::hold(leader, snapshots);
        if let Err(e) = sys::kill_group(leader, libc::SIGTERM) {
            log::warn!("process {leader} was not sent SIGTERM when its time was up: {e}");
        }
        Grace {
            leader,
            until: Instant::now().checked_add(grace),
            held: held.unwrap_or_default(),
            retry_at: None,
        }
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// When to look at it again though nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.until, self.retry_at].into_iter().flatten().min()
    }

    /// What reports that another of those that are left has ended.
    pub(crate) fn awaited(&self) -> Option<RawFd> {
        let pidfd = self.held.first()?.pidfd()?;
        Some(pidfd.as_raw_fd())
    }

    /// Whether anything but the leader, which has ended, is left.
    pub(crate) fn is_anything_left(&mut self, now: Instant, snapshots: &SnapshotCache) -> bool {
        if self.retry_at.is_some_and(|at| at > now) {
            return true;
        }
        self.retry_at = None;
        loop {
            self.held.retain(|process| !process.has_ended());
            if let Some(first) = self.held.first() {
                if first.pidfd().is_none() {
                    self.retry_at = Some(now + RETRY_WAIT);
                }
                return true;
            }
            // What was started since.
            match tree::hold(self.leader, snapshots) {
                Ok(held) if held.is_empty() => return false,
                Ok(held) => self.held = held,
                // There is no descriptor to look with.
                Err(_) => {
                    self.retry_at = Some(now + RETRY_WAIT);
                    return true;
                }
            }
        }
    }

    /// Kills what is held; those that got the signal.
    pub(crate) fn kill(self) -> Vec<HeldProcess> {
        let mut held = self.held;
        tree::kill_all(&mut held);
        held
    }
}
