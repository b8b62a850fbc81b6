//! Waiting for the end of the server, in the place of a client that cannot see it, and passing signals on.
//!
//! **Thread:** the main thread of the guard.
//! **Owns:** what is known of the client, and since when the server is to end.
//! **Never:** reads what the client sends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use super::LAST_SWEEP_TIMEOUT;
use super::told::Told;
use crate::sys::{self, Pid, PollFd};

/// All of an end that the guard has seen from its beginning.
const WHOLE_END_TIMEOUT: Duration = Duration::from_millis(2_800);
/// How long a server may be stopped while it is to end, in case it is continued.
const STOPPED_WAIT: Duration = Duration::from_millis(500);
/// How often a server that is to end is looked at, whether it is stopped: until it would have ended.
const MAX_LOOKS: u32 = 4;

/// What a guard knows of the client.
pub(super) struct Client {
    /// A duplicate of stdin. It is never read; it reports when the client has let go of the other end.
    stdin: Option<OwnedFd>,
}

impl Client {
    pub(super) fn new(drain: bool) -> io::Result<Client> {
        // With `--drain` the input ends long before the connection.
        let stdin = (!drain).then(|| io::stdin().as_fd().try_clone_to_owned());
        Ok(Client {
            stdin: stdin.transpose()?,
        })
    }
}

/// The server's output, to see when the client lets go of its other end. Held only while the server is
/// stopped: a client waits for all writing ends to close. Only a pipe can be opened a second time.
///
/// # Errors
///
/// ENXIO where the client has let go of it already.
fn output_of(server: Pid) -> io::Result<Option<File>> {
    let path = format!("/proc/{server}/fd/1");
    if !sys::shows_own_numbers() || !std::fs::metadata(&path)?.file_type().is_fifo() {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).map(Some)
}

/// Waiting for the end of a child, and passing signals on to it meanwhile.
pub(super) struct Watch {
    child: Pid,
    own_group: bool,
    patience: Duration,
    client: Option<Client>,
    /// The first signal that was to end it, and when that came.
    told: Option<(libc::c_int, Instant)>,
    /// The child is stopped; with its output, if that can be watched.
    stopped: Option<Option<File>>,
    /// Since when it is stopped while it is to end.
    stopped_at_end: Option<Instant>,
    /// When the client was seen to have let go of the input.
    client_gone: Option<Instant>,
    /// How often a child that is to end was looked at, whether it is stopped.
    looks: u32,
    stuck: bool,
}

/// How it ended.
pub(super) struct Ended {
    pub(super) status: sys::Status,
    told: Option<(libc::c_int, Instant)>,
    /// When the end began, as far as the guard can know.
    since: Instant,
    /// The child did not end by itself, and was killed.
    pub(super) stuck: bool,
}

impl Ended {
    pub(super) fn code(&self) -> i32 {
        match self.told {
            // It was going to end with this.
            Some((signal, _)) if self.status.signal == Some(libc::SIGKILL) => 128 + signal,
            _ => self.status.code,
        }
    }

    pub(super) fn sweep_until(&self) -> Instant {
        let last = Instant::now() + LAST_SWEEP_TIMEOUT;
        match self.status.signal {
            // This is the first sweep.
            Some(_) => last.max(self.since + WHOLE_END_TIMEOUT),
            None => last,
        }
    }
}

impl Watch {
    pub(super) fn new(child: Pid, own_group: bool, patience: Duration, client: Option<Client>) -> Watch {
        Watch {
            child,
            own_group,
            patience,
            client,
            told: None,
            stopped: None,
            stopped_at_end: None,
            client_gone: None,
            looks: 0,
            stuck: false,
        }
    }

    pub(super) fn until_end(mut self, signals: &OwnedFd, mut told: Option<(&OwnedFd, &mut Told)>) -> Ended {
        let status = loop {
            let pipe = told
                .as_ref()
                .map_or(PollFd::NONE, |(pipe, _)| PollFd::read(pipe.as_raw_fd()));
            let [input, output] = self.ends_of_client();
            let mut interests = [PollFd::read(signals.as_raw_fd()), pipe, input, output];
            let (kill_at, look_at) = (self.kill_at(), self.look_at());
            let next = [kill_at, look_at].into_iter().flatten().min();
            let left = next.map(|at| at.saturating_duration_since(Instant::now()));
            if let Err(e) = sys::poll(&mut interests, left) {
                // Without it an end is not noticed any more.
                self.kill();
                log::error!("the server cannot be watched, and was killed: ppoll: {e}");
                if let Ok(status) = sys::reap(self.child) {
                    break status;
                }
            }
            if left == Some(Duration::ZERO) {
                self.looks += 1;
                if kill_at == next || sys::is_stopped(self.child) {
                    self.kill();
                }
            }
            let now = Instant::now();
            if interests[2].hung_up() {
                self.client_gone.get_or_insert(now);
            }
            if self.stopped.is_some() && (interests[2].hung_up() || interests[3].hung_up()) {
                self.stopped_at_end.get_or_insert(now);
            }
            if let Some((pipe, told)) = &mut told
                && interests[1].readable()
            {
                told.read_from(pipe);
            }
            if !interests[0].readable() {
                if interests[1].hung_up() {
                    // The server is gone or going; only its SIGCHLD is still to come.
                    let _ = sys::poll(&mut [PollFd::read(signals.as_raw_fd())], left);
                }
                continue;
            }
            match sys::next_signal(signals) {
                // Where it cannot be read which signal it was, it may have been this one.
                Some((libc::SIGCHLD, _)) | None => {
                    if let Some(status) = self.reap_child() {
                        break status;
                    }
                    self.look_whether_stopped();
                }
                Some((signal, from_terminal)) => self.pass_on(signal, from_terminal),
            }
        };
        let begun = [self.is_to_end_since(), self.stopped_at_end];
        let begun = begun.into_iter().flatten().min();
        // The client's writes must fail as soon as the server is gone.
        drop(self.client);
        Ended {
            status,
            told: self.told,
            since: begun.unwrap_or_else(Instant::now),
            stuck: self.stuck,
        }
    }

    /// The status of the child, if it has ended. What it has started is reaped as well, if it ends up here.
    fn reap_child(&self) -> Option<sys::Status> {
        if sys::adopts_orphans() {
            return reap_until(self.child);
        }
        if self.own_group && sys::has_ended(self.child) {
            // A copy of it that was about to become a program, or that opens a file for one. As long as it
            // is not reaped, its number is that of its group.
            let _ = sys::kill_group(self.child, libc::SIGKILL);
        }
        let ended = sys::try_reap(self.child).ok().flatten();
        ended.map(|(status, _)| status)
    }

    fn pass_on(&mut self, signal: libc::c_int, from_terminal: bool) {
        // A terminal tells its whole group, and to be asked twice means more.
        if self.own_group || !from_terminal {
            let _ = sys::kill(self.child, signal);
        }
        let now = Instant::now();
        self.told.get_or_insert((signal, now));
        if self.stopped.is_some() {
            self.stopped_at_end.get_or_insert(now);
        }
    }

    fn look_whether_stopped(&mut self) {
        while let Some(stopped) = sys::stopped_or_continued(self.child) {
            let output = if stopped { output_of(self.child) } else { Ok(None) };
            let gone = matches!(&output, Err(e) if e.raw_os_error() == Some(libc::ENXIO));
            self.stopped = stopped.then_some(output.unwrap_or_default());
            // One that goes on ends by itself.
            let is_to_end = stopped && (gone || self.is_to_end_since().is_some());
            self.stopped_at_end = is_to_end.then(Instant::now);
        }
    }

    /// What reports that the client is gone, as long as that is not known: the input, and the output of a
    /// server that is stopped.
    fn ends_of_client(&self) -> [PollFd; 2] {
        if self.client_gone.is_some() || self.stopped_at_end.is_some() {
            return [PollFd::NONE; 2];
        }
        let input = self.client.as_ref().and_then(|client| client.stdin.as_ref());
        let output = self.stopped.as_ref().and_then(Option::as_ref);
        let other_end = |fd: Option<RawFd>| fd.map_or(PollFd::NONE, PollFd::other_end);
        [
            other_end(input.map(AsRawFd::as_raw_fd)),
            other_end(output.map(AsRawFd::as_raw_fd)),
        ]
    }

    /// Since when the child has known, or would know if it were not stopped, that it is to end.
    fn is_to_end_since(&self) -> Option<Instant> {
        let told = self.told.map(|(_, at)| at);
        [told, self.client_gone].into_iter().flatten().min()
    }

    /// When to look whether a child that is to end is stopped. As a rule SIGCHLD reports it, but only when all
    /// threads have stopped, and one that waits for a disk does not.
    fn look_at(&self) -> Option<Instant> {
        let known = self.stuck || self.stopped.is_some();
        let since = self
            .is_to_end_since()
            .filter(|_| !known && self.looks < MAX_LOOKS)?;
        Some(since + STOPPED_WAIT * (self.looks + 1))
    }

    fn kill_at(&self) -> Option<Instant> {
        if self.stuck {
            return None;
        }
        let told = self.told.map(|(_, at)| at + self.patience);
        let stopped = self.stopped_at_end.map(|at| at + STOPPED_WAIT);
        [told, stopped].into_iter().flatten().min()
    }

    fn kill(&mut self) {
        let _ = sys::kill(self.child, libc::SIGKILL);
        self.stuck = true;
    }
}

/// Reaps all that has ended; the status of `server` if it was among them.
fn reap_until(server: Pid) -> Option<sys::Status> {
    let mut found = None;
    while let Some((pid, status)) = sys::reap_any() {
        if pid == server {
            found = Some(status);
        }
    }
    found
}
