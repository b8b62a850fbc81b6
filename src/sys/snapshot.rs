//! All processes of the machine at one moment.
//!
//! **Thread:** any; a snapshot does not change once it is taken.
//! **Owns:** the list, and which process is whose child.
//! **Never:** looks at the machine, but for the group of a child that is not shown; `take` and `unlisted`
//! are elsewhere, as each system does it.

use std::collections::{HashMap, HashSet};

use super::Pid;
#[cfg(any(target_os = "linux", feature = "cli"))]
use super::signals::group_and_session;

/// One process, as `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProcStat {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    pub(crate) group: Pid,
    pub(crate) session: Pid,
    /// In clock ticks since boot; with the pid, an identity. `None` where `/proc` hides the process.
    pub(crate) started: Option<u64>,
    /// Ended, and not yet reaped.
    pub(crate) dead: bool,
    /// Its number in `/proc`, which is another one where that belongs to an outer PID namespace.
    pub(crate) entry: Pid,
}

/// A child of `parent` that is not shown otherwise; `None` if it is gone.
#[cfg(any(target_os = "linux", feature = "cli"))]
pub(crate) fn hidden(pid: Pid, parent: Pid) -> Option<ProcStat> {
    let (group, session) = group_and_session(pid)?;
    Some(ProcStat {
        pid,
        parent,
        group,
        session,
        started: None,
        dead: false,
        entry: pid,
    })
}

/// All processes at one moment.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(super) processes: Vec<ProcStat>,
    pub(super) children: HashMap<Pid, Vec<usize>>,
    pub(super) pids: HashSet<Pid>,
    /// The numbers in `/proc` are those of this process's own PID namespace.
    #[cfg(target_os = "linux")]
    pub(super) own_numbers: bool,
}

impl Snapshot {
    pub(crate) fn of(processes: Vec<ProcStat>) -> Self {
        let mut snapshot = Snapshot::default();
        snapshot.add(processes);
        snapshot
    }

    pub(crate) fn add(&mut self, processes: Vec<ProcStat>) {
        for process in processes {
            self.children
                .entry(process.parent)
                .or_default()
                .push(self.processes.len());
            self.pids.insert(process.pid);
            self.processes.push(process);
        }
    }

    /// Everything there is, the dead included.
    #[cfg(feature = "cli")]
    pub(crate) fn processes(&self) -> &[ProcStat] {
        &self.processes
    }

    /// Everything that is below one of `roots`, the dead included and the roots left out; parents come
    /// before their children.
    pub(crate) fn below(&self, roots: impl IntoIterator<Item = Pid>) -> Vec<ProcStat> {
        let mut known = HashSet::new();
        let mut found = Vec::new();
        let mut queue: Vec<Pid> = roots.into_iter().collect();
        while let Some(parent) = queue.pop() {
            for &index in self.children.get(&parent).into_iter().flatten() {
                let process = self.processes[index];
                if known.insert(process.pid) {
                    queue.push(process.pid);
                    found.push(process);
                }
            }
        }
        found
    }

    /// Everything alive that is below one of `roots`, the roots left out.
    pub(crate) fn descendants(&self, roots: impl IntoIterator<Item = Pid>) -> Vec<ProcStat> {
        let mut found = self.below(roots);
        found.retain(|process| !process.dead);
        found
    }

    /// Everything alive in the group or session of `leader`, or below such a one.
    pub(crate) fn tree(&self, leader: Pid) -> Vec<ProcStat> {
        let own = |p: &&ProcStat| p.pid == leader || p.group == leader || p.session == leader;
        let members: Vec<ProcStat> = self.processes.iter().filter(own).copied().collect();
        let mut tree = self.descendants(members.iter().map(|p| p.pid));
        let known: HashSet<Pid> = tree.iter().map(|p| p.pid).collect();
        tree.extend(members.into_iter().filter(|p| !p.dead && !known.contains(&p.pid)));
        tree
    }

    /// Everything alive in the group `pgid`.
    pub(crate) fn group(&self, pgid: Pid) -> impl Iterator<Item = ProcStat> + '_ {
        self.processes
            .iter()
            .filter(move |p| p.group == pgid && !p.dead)
            .copied()
    }
}
