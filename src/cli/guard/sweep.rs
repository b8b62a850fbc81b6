//! Killing everything below a process: freeze, look, kill, until nothing is left or nothing more can be done.
//!
//! **Thread:** the main thread of the guard, and that of the server.
//! **Owns:** what is not to be swept.
//! **Never:** signals what is not below this process, or what is spared.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::process::tree::HeldProcess;
use crate::sys::{self, Pid, ProcStat, Snapshot};

/// How long a sweep waits for the death of what it has killed before it looks again.
const DEATH_WAIT: Duration = Duration::from_millis(400);

/// The processes that a sweep spares: pids and start times, or 0 where the start is not known. The latest
/// entry of a pid counts.
pub(super) type Detached = BTreeMap<Pid, u64>;

/// There are children from before, and nothing shows which: so being a child is not enough to be killed.
pub(super) static UNKNOWN_CHILDREN: AtomicBool = AtomicBool::new(false);

/// The number of this process.
pub(super) fn own_pid() -> Pid {
    Pid::try_from(std::process::id()).unwrap_or(Pid::MAX)
}

/// One process that is to be killed.
enum Target {
    HeldProcess(HeldProcess),
    /// A child of this thread, where no pidfd is to be had. Its pid means it until we reap it.
    Child(Pid),
}

impl Target {
    fn take(stat: ProcStat) -> Option<Target> {
        match HeldProcess::take(stat) {
            Ok(held) => held.map(Target::HeldProcess),
            Err(_) => sys::is_child(stat.pid).then_some(Target::Child(stat.pid)),
        }
    }

    /// Whether it could be signalled, or is gone.
    fn signal(&self, signal: libc::c_int) -> bool {
        match self {
            Target::HeldProcess(held) => held.signal(signal).is_ok(),
            Target::Child(pid) => sys::kill(*pid, signal).is_ok(),
        }
    }

    fn wait(&self, deadline: Instant) {
        match self {
            Target::HeldProcess(held) => held.wait(deadline),
            Target::Child(pid) => {
                // Only a pidfd could be waited for.
                while !sys::has_ended(*pid) && Instant::now() < deadline {
                    let _ = sys::poll(&mut [], Some(Duration::from_millis(5)));
                }
            }
        }
    }
}

/// Kills what is below this process until nothing is left, the rest cannot be killed, or it is
/// `deadline`; what is left then. In the `last` sweep each round deals with all it has found, late or not.
pub(super) fn sweep_until(deadline: Instant, spared: &Detached, last: bool) -> Vec<ProcStat> {
    let mut scan = Scan::default();
    let mut before: Option<HashSet<ProcStat>> = None;
    loop {
        let mut found = HashSet::new();
        let mut frozen_groups = HashSet::new();
        let mut targets: Vec<Target> = Vec::new();
        // Freeze until nothing new turns up, so that none of them can start another meanwhile.
        loop {
            // Where descriptors are used up, the children that are left make the sweep go on.
            let below = SweepTargets::look(spared, &mut scan, deadline);
            let known = targets.len();
            for group in below.groups {
                // One that forks and exits all the time is gone before it can be held, but its child
                // is in its group, and a group is stopped all at once.
                if frozen_groups.insert(group) {
                    let _ = sys::kill_group(group, libc::SIGSTOP);
                }
            }
            for stat in below.processes {
                // The rest is for the guard's sweep, if it is in no group that is killed here.
                if !last && Instant::now() >= deadline {
                    break;
                }
                if found.insert(stat)
                    && !stat.dead
                    && let Some(target) = Target::take(stat)
                {
                    target.signal(libc::SIGSTOP);
                    targets.push(target);
                }
            }
            if below.scanned || targets.len() == known || Instant::now() >= deadline {
                break;
            }
        }
        // One that belongs to another user is not waited for.
        let count = targets.len();
        targets.retain(|target| target.signal(libc::SIGKILL));
        let refused = count - targets.len();
        for group in frozen_groups {
            let _ = sys::kill_group(group, libc::SIGKILL);
        }
        let wait_until = deadline.min(Instant::now() + DEATH_WAIT);
        for target in &targets {
            target.wait(wait_until);
        }
        drop(targets);
        while sys::reap_any().is_some() {}
        let alive = found.iter().any(|stat| !stat.dead);
        // A snapshot may miss a process; that there are no children is certain. Those that are spared
        // are children, too, and leave only the snapshot.
        let may_have_more = spared.is_empty() && sys::has_children();
        if !alive && !may_have_more {
            return Vec::new();
        }
        // All of them have been signalled, and none has gone: a death that a tracer holds back, a
        // process of another user, one that waits for a disk.
        let stuck = before.as_ref() == Some(&found);
        if stuck || (refused > 0 && refused == found.len()) || Instant::now() >= deadline {
            if !last {
                // The guard looks for itself.
                return Vec::new();
            }
            return still_there(found, spared, &mut scan, deadline);
        }
        before = Some(found);
    }
}

/// Who of `found` is there now, other than what only waits to be reaped by its parent.
fn still_there(
    found: HashSet<ProcStat>,
    spared: &Detached,
    scan: &mut Scan,
    deadline: Instant,
) -> Vec<ProcStat> {
    let own = own_pid();
    let now = SweepTargets::look(spared, scan, deadline).processes;
    let is_left = |stat: &ProcStat| {
        let was_there = |before: &ProcStat| (before.pid, before.started) == (stat.pid, stat.started);
        found.iter().any(was_there) && (!stat.dead || stat.parent == own)
    };
    let mut left: Vec<ProcStat> = now.into_iter().filter(is_left).collect();
    left.sort_unstable_by_key(|stat| stat.pid);
    left
}

/// Finding the children of this thread without `/proc`, by asking for each number whether it is one.
/// Children have been started after us, so most are found right after our own number.
#[derive(Default)]
struct Scan {
    /// Those that were found before. Where they are still children, they could not be killed.
    tried: BTreeSet<Pid>,
}

impl Scan {
    /// The largest number of a process that Linux gives.
    const LAST: Pid = 4 * 1024 * 1024;
    /// How many are asked about before there is another look at the clock: some milliseconds.
    const SLICE: usize = 16 * 1024;

    /// Those that were found before, and those in the next slice in which there are some that are not
    /// `spared`.
    fn children(&mut self, spared: &Detached, deadline: Instant) -> Vec<ProcStat> {
        let own = own_pid();
        self.tried.retain(|&pid| sys::is_child(pid));
        let mut numbers = (own + 1..=Scan::LAST).chain(1..own).peekable();
        let mut new = Vec::new();
        while new.is_empty() && numbers.peek().is_some() {
            let slice = numbers.by_ref().take(Scan::SLICE);
            let is_new =
                |pid: &Pid| sys::is_child(*pid) && !spared.contains_key(pid) && !self.tried.contains(pid);
            new.extend(slice.filter(is_new));
            if Instant::now() >= deadline {
                break;
            }
        }
        self.tried.extend(new);
        self.tried
            .iter()
            .filter_map(|&pid| sys::hidden(pid, own))
            .collect()
    }
}

/// The processes that are swept.
struct SweepTargets {
    /// The dead included.
    processes: Vec<ProcStat>,
    /// Groups without a process that is spared.
    groups: HashSet<Pid>,
    /// Found by asking number by number, for which a second look takes too long.
    scanned: bool,
}

impl SweepTargets {
    fn look(spared: &Detached, scan: &mut Scan, deadline: Instant) -> SweepTargets {
        let own = own_pid();
        let mut snapshot = Snapshot::take().unwrap_or_default();
        let parents = snapshot.below([own]).iter().map(|p| p.pid).chain([own]).collect();
        snapshot.add(snapshot.unlisted(parents).unwrap_or_default());
        let below = SweepTargets::new(&snapshot, own, spared);
        let unseen = || sys::has_children() && !sys::shows_own_children();
        if below.processes.is_empty() && !UNKNOWN_CHILDREN.load(Relaxed) && unseen() {
            snapshot.add(scan.children(spared, deadline));
            return SweepTargets {
                scanned: true,
                ..SweepTargets::new(&snapshot, own, spared)
            };
        }
        below
    }

    fn new(snapshot: &Snapshot, own: Pid, spared: &Detached) -> SweepTargets {
        let all = snapshot.below([own]);
        let is_other = |p: &&ProcStat| {
            let known = spared.get(&p.pid).filter(|&&started| started != 0);
            known
                .zip(p.started)
                .is_some_and(|(&spared, started)| spared != started)
        };
        let reused: HashSet<Pid> = snapshot
            .processes()
            .iter()
            .filter(is_other)
            .map(|p| p.pid)
            .collect();
        let is_spared = |pid| spared.contains_key(&pid) && !reused.contains(&pid);
        let roots = all.iter().filter(|p| is_spared(p.pid) || is_spared(p.session));
        let mut kept: HashSet<Pid> = roots.map(|p| p.pid).collect();
        kept.extend(snapshot.below(kept.iter().copied()).iter().map(|p| p.pid));
        let (kept, processes): (Vec<ProcStat>, Vec<ProcStat>) =
            all.into_iter().partition(|p| kept.contains(&p.pid));
        // One that is just being started is still in ours.
        let alive = processes.iter().filter(|p| !p.dead);
        let mut groups: HashSet<Pid> = alive.map(|p| p.group).filter(|&g| g > 1).collect();
        groups.remove(&sys::own_group());
        for process in kept {
            groups.remove(&process.group);
        }
        SweepTargets {
            processes,
            groups,
            scanned: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: Pid, parent: Pid, session: Pid, started: u64) -> ProcStat {
        ProcStat {
            pid,
            parent,
            group: session,
            session,
            started: Some(started),
            dead: false,
            entry: pid,
        }
    }

    #[test]
    fn a_recycled_pid_spares_no_process() {
        let spared = Detached::from([(20, 5), (30, 5), (40, 5)]);
        let snapshot = Snapshot::of(vec![
            stat(10, 1, 10, 1),
            // Detached, with a child that has left it, and one whose parent is gone.
            stat(20, 10, 20, 5),
            stat(21, 20, 21, 6),
            stat(22, 10, 20, 7),
            // Has got the pid of a detached one that is gone.
            stat(30, 10, 30, 8),
            stat(31, 30, 30, 9),
            // Left by a detached one that is gone.
            stat(41, 10, 40, 6),
        ]);
        let below = SweepTargets::new(&snapshot, 10, &spared);
        let swept: Vec<Pid> = below.processes.iter().map(|p| p.pid).collect();
        assert_eq!(swept, [30, 31]);
        assert_eq!(below.groups, HashSet::from([30]));
    }

    #[test]
    fn a_start_that_is_not_known_spares() {
        let hidden = |process: ProcStat| ProcStat {
            started: None,
            ..process
        };
        let spared = Detached::from([(20, 5), (30, 0)]);
        let snapshot = Snapshot::of(vec![
            stat(10, 1, 10, 1),
            hidden(stat(20, 10, 20, 5)),
            stat(21, 20, 21, 6),
            stat(30, 10, 30, 7),
            hidden(stat(40, 10, 40, 8)),
        ]);
        let below = SweepTargets::new(&snapshot, 10, &spared);
        let swept: Vec<Pid> = below.processes.iter().map(|p| p.pid).collect();
        assert_eq!(swept, [40]);
    }

    #[test]
    fn group_of_the_dead_alone_is_not_signalled() {
        let dead = |process: ProcStat| ProcStat {
            dead: true,
            ..process
        };
        let snapshot = Snapshot::of(vec![dead(stat(20, 10, 20, 5)), stat(21, 20, 21, 6)]);
        let below = SweepTargets::new(&snapshot, 10, &Detached::new());
        assert_eq!(below.groups, HashSet::from([21]));
    }
}
