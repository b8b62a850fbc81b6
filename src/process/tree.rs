//! Finding and ending everything a process has started.
//!
//! **Thread:** the process thread of the leader in question.
//! **Owns:** one recent snapshot of all processes of the machine, shared by callers at the same time.
//! **Never:** signals by a bare pid what is not a child or group of the server; any other process is
//! verified and signalled through a pidfd, or by its pid and start time where pidfds are refused.
//!
//! A process group is killed by one call. What has left it, with `setsid` or as a shell's job, is
//! found by its session or by its parents, and for that no process may die before the snapshot is taken:
//! the children of the dead get another parent. So the tree is frozen first, looked at until
//! nothing new turns up, and killed last.
//!
//! A snapshot costs some microseconds for each process of the machine. A thousand kills at once share
//! a few of them: a caller that comes while one is being taken waits for the next, which serves all that
//! wait.
//!
//! All of this takes descriptors, and a kill has to work when they are used up: then it is done on a
//! thread that has a table of its own for as long as it takes, `tree`.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::sys::{self, Pid, ProcStat, Snapshot};

/// Rounds of freezing and looking; each finds what the last one's newcomers had started meanwhile.
const MAX_FREEZE_ROUNDS: usize = 32;
/// How long the death of what was killed is waited for. The kernel needs microseconds.
pub(crate) const KILL_WAIT: Duration = Duration::from_secs(1);
/// How often a death is looked for where nothing reports it.
const RETRY_WAIT: Duration = Duration::from_millis(1);
/// The stack of the thread that does what there are no descriptors for.
const TREE_STACK_BYTES: usize = 128 * 1024;

/// Takes snapshots, one for all threads that ask at the same time.
#[derive(Default)]
pub(crate) struct SnapshotCache {
    state: Mutex<CacheState>,
    /// Wakes all threads that wait at once. One after the other, as a lock lets them in, a thousand would take
    /// seconds on a busy machine.
    taken: Condvar,
    /// Set once everything below this process is killed at once, which finds all that a kill of one tree
    /// would. From then on [`kill`] ends groups only, and does not wait for a death, so that a thousand
    /// threads that have not ended in time do not keep the processors from it.
    swept: Arc<AtomicBool>,
}

#[derive(Default)]
struct CacheState {
    /// A thread is taking a snapshot.
    taking: bool,
    last: Option<(Instant, Arc<Snapshot>)>,
}

impl SnapshotCache {
    pub(crate) fn new(swept: Arc<AtomicBool>) -> SnapshotCache {
        SnapshotCache {
            swept,
            ..SnapshotCache::default()
        }
    }

    fn is_swept(&self) -> bool {
        self.swept.load(Relaxed)
    }

    /// A snapshot that was begun after this call. Waits for one being taken; that ends by itself.
    pub(crate) fn snapshot(&self) -> io::Result<Arc<Snapshot>> {
        let asked = Instant::now();
        let locked = || sys::lock(&self.state);
        let mut state = locked();
        loop {
            match &state.last {
                Some((begun, snapshot)) if *begun > asked => return Ok(Arc::clone(snapshot)),
                _ if !state.taking => break,
                _ => state = sys::lock::wait(&self.taken, state),
            }
        }
        state.taking = true;
        drop(state);
        let begun = Instant::now();
        let snapshot = Snapshot::take().map(Arc::new);
        let mut state = locked();
        state.taking = false;
        if let Ok(snapshot) = &snapshot {
            state.last = Some((begun, Arc::clone(snapshot)));
        }
        drop(state);
        self.taken.notify_all();
        snapshot
    }
}

/// When the process was started, with or without a descriptor left; `None` where that is not shown.
#[cfg(feature = "cli")]
pub(crate) fn started(pid: Pid) -> Option<u64> {
    let look = || sys::look_at_own_number(pid);
    let stat = look().or_else(|_| on_own_table(look));
    stat.ok().flatten().and_then(|stat| stat.started)
}

/// Does `work` on a thread with an empty table of descriptors, where ours is full. It must neither
/// use nor return any; what it opens and leaves open goes with the thread.
fn on_own_table<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let done = sys::on_thread("tree", TREE_STACK_BYTES, || {
        sys::leave_table_of_descriptors()?;
        work()
    });
    done.and_then(|done| done.map_err(|_| io::Error::other("its thread has panicked"))?)
        .inspect_err(|e| log::warn!("processes that left their group cannot be found: {e}"))
}

/// A process that is held by a pidfd, so that a signal never hits a recycled pid. Where the system has
/// no pidfds, or does not allow them, it is looked at again before each signal.
pub(crate) struct HeldProcess {
    stat: ProcStat,
    pidfd: Option<OwnedFd>,
}

impl HeldProcess {
    /// Takes hold of exactly the process that was seen; `None` if it is gone.
    ///
    /// # Errors
    ///
    /// Where descriptors are used up.
    pub(crate) fn take(stat: ProcStat) -> io::Result<Option<HeldProcess>> {
        let pidfd = match sys::pidfd_open(stat.pid) {
            Ok(pidfd) => Some(pidfd),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => return Ok(None),
            Err(e) if sys::may_be_refused(&e) => None,
            Err(e) => return Err(e),
        };
        // What is there now was there when the pidfd was opened. Otherwise the pidfd is of one that is
        // gone, and a signal reaches no process.
        let held = HeldProcess { stat, pidfd };
        Ok(held.is_there()?.then_some(held))
    }

    /// Whether there is a process with the same number and start, or a child of the same parent.
    fn is_there(&self) -> io::Result<bool> {
        let stat = self.stat;
        Ok(match stat.started {
            Some(_) => sys::look_at(stat.entry)?.is_some_and(|now| now.started == stat.started),
            None => sys::is_child(stat.pid) || sys::children_of(stat.parent)?.contains(&stat.pid),
        })
    }

    /// # Errors
    ///
    /// Where the process is gone, or is another user's.
    pub(crate) fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        let sent = match &self.pidfd {
            Some(pidfd) => sys::pidfd_signal(pidfd.as_fd(), signal),
            None => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        };
        match sent {
            Err(e) if sys::may_be_refused(&e) && self.is_there()? => sys::kill(self.stat.pid, signal),
            sent => sent,
        }
    }

    /// What becomes readable at its end, where the system has that.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Whether it has ended, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        match &self.pidfd {
            Some(pidfd) => sys::readable_by(pidfd, Instant::now()).unwrap_or(true),
            None => !self.is_alive(),
        }
    }

    fn is_alive(&self) -> bool {
        let now = sys::look_at(self.stat.entry).ok().flatten();
        now.is_some_and(|now| now.started == self.stat.started && !now.dead)
    }

    /// Waits for its end, but not past `deadline`. The kernel ends the wait of what was killed.
    pub(crate) fn wait(&self, deadline: Instant) {
        if let Some(pidfd) = &self.pidfd {
            let _ = sys::readable_by(pidfd, deadline);
            return;
        }
        // The end is not signalled; usually the kernel takes no longer than this.
        while self.is_alive() && Instant::now() < deadline {
            let _ = sys::poll(&mut [], Some(RETRY_WAIT));
        }
    }
}

/// What a [`kill`] did.
pub(crate) struct Killed {
    /// What was killed outside of the group, for [`wait_for_death`].
    pub(crate) outside: Vec<HeldProcess>,
    /// Fails where nothing could be signalled, as `kill(2)` of a group does.
    pub(crate) outcome: io::Result<()>,
}

/// Kills `leader`'s group, its session, and all that came from them by an unbroken line of parents.
///
/// The leader must not have been reaped, so that its number means it.
pub(crate) fn kill(leader: Pid, snapshots: &SnapshotCache) -> Killed {
    // Only what SIGKILL is refused for counts.
    let stopped = sys::kill_group(leader, libc::SIGSTOP);
    // Where no group may be signalled, its members are, one by one.
    let one_by_one = stopped.is_err_and(|error| sys::may_be_refused(&error));
    let mut held = Vec::new();
    let mut any_killed = false;
    if freeze(leader, one_by_one, snapshots, &mut held).is_err() {
        // What is frozen already is still below its parents, and found again.
        let _ = on_own_table(|| {
            let mut held = Vec::new();
            let frozen = freeze(leader, one_by_one, snapshots, &mut held);
            kill_all(&mut held);
            any_killed = !held.is_empty();
            wait_for_death(&held, Instant::now() + KILL_WAIT);
            frozen
        });
    }
    kill_all(&mut held);
    any_killed |= !held.is_empty();
    let group = sys::kill_group(leader, libc::SIGKILL);
    Killed {
        outside: held,
        outcome: if any_killed { Ok(()) } else { group },
    }
}

/// Takes hold of all that is alive in the tree of `leader`, but of the leader itself.
///
/// # Errors
///
/// Where descriptors are used up.
pub(crate) fn hold(leader: Pid, snapshots: &SnapshotCache) -> io::Result<Vec<HeldProcess>> {
    let snapshot = snapshots.snapshot()?;
    let mut tree = snapshot.tree(leader);
    let parents = tree.iter().map(|p| p.pid).chain([leader]).collect();
    tree.extend(snapshot.unlisted(parents)?.into_iter().filter(|p| !p.dead));
    let others = tree.into_iter().filter(|p| p.pid != leader);
    others
        .map(HeldProcess::take)
        .filter_map(Result::transpose)
        .collect()
}

/// Stops what is outside of `leader`'s group, or in it as well, until nothing new turns up, and puts
/// it into `held`.
fn freeze(
    leader: Pid,
    with_group: bool,
    snapshots: &SnapshotCache,
    held: &mut Vec<HeldProcess>,
) -> io::Result<()> {
    let mut frozen = HashSet::new();
    for _ in 0..MAX_FREEZE_ROUNDS {
        if snapshots.is_swept() {
            break;
        }
        let snapshot = snapshots.snapshot()?;
        let mut news = false;
        let mut tree = snapshot.tree(leader);
        let parents = tree.iter().map(|p| p.pid).chain([leader]).collect();
        tree.extend(snapshot.unlisted(parents)?.into_iter().filter(|p| !p.dead));
        for process in tree {
            if process.group == leader && !with_group || !frozen.insert((process.pid, process.started)) {
                continue;
            }
            news = true;
            if let Some(process) = HeldProcess::take(process)? {
                let _ = process.signal(libc::SIGSTOP);
                held.push(process);
            }
        }
        if !news {
            break;
        }
    }
    Ok(())
}

/// Sends SIGKILL to all of `held`, and keeps those that got it. The death of another user's process is
/// not waited for: it was not signalled.
///
/// Children die before their parents, which are frozen: if this process is killed meanwhile, a guard still
/// finds the rest below them.
pub(crate) fn kill_all(held: &mut Vec<HeldProcess>) {
    held.reverse();
    held.retain(|process| process.signal(libc::SIGKILL).is_ok());
}

/// Waits until all of `killed` are dead, but not past `deadline`. The kernel ends the wait: each has
/// been sent SIGKILL.
pub(crate) fn wait_for_death(killed: &[HeldProcess], deadline: Instant) {
    for process in killed {
        process.wait(deadline);
    }
}

/// Waits until no process is left alive in the group `pgid`, whose leader has been reaped and whose
/// members have been sent SIGKILL. Gives up after a while.
pub(crate) fn wait_for_group(pgid: Pid, snapshots: &SnapshotCache) {
    let deadline = Instant::now() + KILL_WAIT;
    let wait = || {
        let snapshot = snapshots.snapshot()?;
        let held = snapshot.group(pgid).map(HeldProcess::take);
        let held: Vec<HeldProcess> = held.filter_map(Result::transpose).collect::<io::Result<_>>()?;
        wait_for_death(&held, deadline);
        // If none is: zombies that their parent has not reaped; they are dead.
        Ok(!held.is_empty())
    };
    while sys::kill_group(pgid, 0).is_ok() && Instant::now() < deadline && !snapshots.is_swept() {
        if !wait().or_else(|_: io::Error| on_own_table(wait)).unwrap_or(false) {
            return;
        }
    }
}
