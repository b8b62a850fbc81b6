//! Killing everything below a process: freeze, look, kill, until nothing is left or nothing more can be done.
//!
//! **Thread:** the main thread of the guard, and that of the server.
//! **Owns:** what is not to be swept.
//! **Never:** signals what is neither below this process nor led by one that it was told of, or what is
//! spared.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::told::Told;
use crate::process::tree::HeldProcess;
use crate::sys::{self, Pid, ProcStat, Snapshot};

/// How long a sweep waits for the death of what it has killed before it looks again.
const DEATH_WAIT: Duration = Duration::from_millis(400);

/// Pids, and when what they mean was started, or 0 where that is not known. The latest of a pid counts.
pub(super) type Started = BTreeMap<Pid, u64>;

/// What a sweep is about.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// Everything below this process, which is the own one; `None` where what is below it is not its own
    /// to end.
    pub(super) below: Option<Pid>,
    /// And everything that its leaders lead, but for what is detached.
    pub(super) told: &'a Told,
}

impl Scope<'_> {
    /// All of it, the dead and the spared included.
    fn all(self, snapshot: &Snapshot) -> Vec<ProcStat> {
        let mut all = snapshot.below(self.below);
        if !self.told.leaders.is_empty() {
            let mut known: HashSet<Pid> = all.iter().map(|p| p.pid).collect();
            let led = led(snapshot, &self.told.leaders);
            all.extend(led.into_iter().filter(|p| known.insert(p.pid)));
        }
        all
    }
}

/// All that is a leader, in the group or session of one, or below such a process. A leader may be gone: no
/// other process gets its number as long as there is one in its group or session.
fn led(snapshot: &Snapshot, leaders: &Started) -> Vec<ProcStat> {
    let all = snapshot.processes().iter();
    let is_other = |p: &&ProcStat| leaders.get(&p.pid).is_some_and(|&told| p.started != Some(told));
    let recycled: HashSet<Pid> = all.clone().filter(is_other).map(|p| p.pid).collect();
    let leads = |pid: &Pid| leaders.contains_key(pid) && !recycled.contains(pid);
    let roots: Vec<ProcStat> = all
        .filter(|p| [p.pid, p.group, p.session].iter().any(leads))
        .copied()
        .collect();
    let below = snapshot.below(roots.iter().map(|p| p.pid));
    [roots, below].concat()
}

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
pub(super) fn sweep_until(deadline: Instant, scope: Scope<'_>, last: bool) -> Vec<ProcStat> {
    let mut scan = Scan::default();
    let mut before: Option<HashSet<ProcStat>> = None;
    loop {
        let mut found = HashSet::new();
        let mut frozen_groups = HashSet::new();
        let mut targets: Vec<Target> = Vec::new();
        // Freeze until nothing new turns up, so that none of them can start another meanwhile.
        loop {
            // Where descriptors are used up, the children that are left make the sweep go on.
            let below = SweepTargets::look(scope, &mut scan, deadline);
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
        // Children first, so that a guard finds the rest if this process is killed meanwhile. One that belongs
        // to another user is not waited for.
        targets.reverse();
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
        let may_have_more = scope.below.is_some() && scope.told.detached.is_empty() && sys::has_children();
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
            return still_there(found, scope, &mut scan, deadline);
        }
        before = Some(found);
    }
}

/// Who of `found` is there now, other than what only waits to be reaped by its parent.
fn still_there(
    found: HashSet<ProcStat>,
    scope: Scope<'_>,
    scan: &mut Scan,
    deadline: Instant,
) -> Vec<ProcStat> {
    let now = SweepTargets::look(scope, scan, deadline).processes;
    let is_left = |stat: &ProcStat| {
        let was_there = |before: &ProcStat| (before.pid, before.started) == (stat.pid, stat.started);
        found.iter().any(was_there) && (!stat.dead || Some(stat.parent) == scope.below)
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
    fn children(&mut self, spared: &Started, deadline: Instant) -> Vec<ProcStat> {
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
    fn look(scope: Scope<'_>, scan: &mut Scan, deadline: Instant) -> SweepTargets {
        let mut snapshot = Snapshot::take().unwrap_or_default();
        let all = scope.all(&snapshot);
        let parents = all.iter().map(|p| p.pid).chain(scope.below).collect();
        snapshot.add(snapshot.unlisted(parents).unwrap_or_default());
        let found = SweepTargets::new(&snapshot, scope);
        let unseen = || scope.below.is_some() && sys::has_children() && !sys::shows_own_children();
        if found.processes.is_empty() && !UNKNOWN_CHILDREN.load(Relaxed) && unseen() {
            snapshot.add(scan.children(&scope.told.detached, deadline));
            return SweepTargets {
                scanned: true,
                ..SweepTargets::new(&snapshot, scope)
            };
        }
        found
    }

    fn new(snapshot: &Snapshot, scope: Scope<'_>) -> SweepTargets {
        let all = scope.all(snapshot);
        let spared = &scope.told.detached;
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

    fn told(detached: &[(Pid, u64)], leaders: &[(Pid, u64)]) -> Told {
        Told {
            detached: detached.iter().copied().collect(),
            leaders: leaders.iter().copied().collect(),
        }
    }

    /// What is swept by process 10, or by one that has only been told.
    fn targets(snapshot: &Snapshot, below: Option<Pid>, told: &Told) -> (Vec<Pid>, Vec<Pid>) {
        let targets = SweepTargets::new(snapshot, Scope { below, told });
        let mut pids: Vec<Pid> = targets.processes.iter().map(|p| p.pid).collect();
        let mut groups: Vec<Pid> = targets.groups.into_iter().collect();
        pids.sort_unstable();
        groups.sort_unstable();
        (pids, groups)
    }

    #[test]
    fn what_a_leader_leads_is_swept_and_nothing_else() {
        let in_group = |process: ProcStat, group| ProcStat { group, ..process };
        let snapshot = Snapshot::of(vec![
            // The server's parent and what that has below it.
            stat(10, 1, 10, 1),
            stat(11, 10, 10, 2),
            // A leader, its child, one that has left its session, and what is below that.
            stat(20, 1, 20, 5),
            stat(21, 20, 20, 6),
            stat(22, 21, 22, 7),
            stat(23, 22, 22, 8),
            // One that has lost its parent: in the session, in a group of its own.
            in_group(stat(24, 1, 20, 9), 24),
            // A daemon of it, which nothing shows to be one.
            stat(25, 1, 25, 9),
            // The leader is gone.
            stat(31, 1, 30, 6),
            // Another was given the number of a leader.
            stat(40, 1, 40, 9),
            stat(41, 40, 40, 9),
        ]);
        let all = told(&[], &[(20, 5), (30, 5), (40, 5)]);
        assert_eq!(
            targets(&snapshot, None, &all),
            (vec![20, 21, 22, 23, 24, 31], vec![20, 22, 24, 30])
        );
        assert_eq!(
            targets(&snapshot, Some(10), &all),
            (vec![11, 20, 21, 22, 23, 24, 31], vec![10, 20, 22, 24, 30])
        );
        // One of which is not known when it was started.
        assert_eq!(targets(&snapshot, None, &told(&[], &[(20, 0)])), (vec![], vec![]));
        // A detached one below a leader.
        assert_eq!(
            targets(&snapshot, None, &told(&[(22, 7)], &[(20, 5)])),
            (vec![20, 21, 24], vec![20, 24])
        );
    }

    #[test]
    fn a_recycled_pid_spares_no_process() {
        let spared = told(&[(20, 5), (30, 5), (40, 5)], &[]);
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
        assert_eq!(targets(&snapshot, Some(10), &spared), (vec![30, 31], vec![30]));
    }

    #[test]
    fn a_start_that_is_not_known_spares() {
        let hidden = |process: ProcStat| ProcStat {
            started: None,
            ..process
        };
        let spared = told(&[(20, 5), (30, 0)], &[]);
        let snapshot = Snapshot::of(vec![
            stat(10, 1, 10, 1),
            hidden(stat(20, 10, 20, 5)),
            stat(21, 20, 21, 6),
            stat(30, 10, 30, 7),
            hidden(stat(40, 10, 40, 8)),
        ]);
        assert_eq!(targets(&snapshot, Some(10), &spared).0, [40]);
    }

    #[test]
    fn group_of_the_dead_alone_is_not_signalled() {
        let dead = |process: ProcStat| ProcStat {
            dead: true,
            ..process
        };
        let snapshot = Snapshot::of(vec![dead(stat(20, 10, 20, 5)), stat(21, 20, 21, 6)]);
        assert_eq!(targets(&snapshot, Some(10), &Told::default()).1, [21]);
    }
}
