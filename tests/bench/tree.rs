//! The processes below this one, read from `/proc`: what a server costs, and what it left behind.
//!
//! Where there is no `/proc`, there is nothing to see, and the rows that need it say so.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::proc::{self, Proc};

/// A server's executables, taken while it has no processes to serve.
///
/// A server may be several processes, and so may be a launcher that stays in front of it.
/// What it was before the first spawn is the server; what has another executable is not.
pub struct Server {
    executables: BTreeSet<PathBuf>,
}

/// What a server costs at one moment.
pub struct Footprint {
    /// The sum of the processes' private memory, which is of no file.
    pub private_kib: u64,
    /// The sum of the processes' resident memory, with the pages of files that others may have as well.
    pub resident_kib: u64,
    /// The sum of the processes' threads.
    pub threads: u64,
}

impl Server {
    /// Looks at a server that has no processes to serve.
    pub fn idle() -> Result<Self, String> {
        let executables: BTreeSet<PathBuf> = below(own_id()).into_iter().filter_map(executable).collect();
        if executables.is_empty() {
            return Err("no /proc to see the server's processes in".to_owned());
        }
        Ok(Self { executables })
    }

    /// What the server's own processes cost now.
    pub fn footprint(&self) -> Footprint {
        let mut sum = Footprint {
            private_kib: 0,
            resident_kib: 0,
            threads: 0,
        };
        for id in below(own_id()) {
            if executable(id).is_some_and(|path| self.executables.contains(&path)) {
                let id = id.cast_unsigned();
                sum.private_kib += proc::private_bytes(id).unwrap_or(0) / 1024;
                sum.resident_kib += proc::resident(id).unwrap_or(0) / 1024;
                sum.threads += proc::threads(id).unwrap_or(0);
            }
        }
        sum
    }

    /// The names of the executables that count as the server.
    pub fn names(&self) -> String {
        let names: Vec<String> = self
            .executables
            .iter()
            .filter_map(|path| path.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.join(" and ")
    }
}

/// Makes this process the parent of what a dead server leaves, so that it can be found.
pub fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    // SAFETY: the call takes integers only.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    }
}

/// Kills and reaps every process below this one, and says how many still ran.
///
/// Only to be called while nothing of this program's own is running.
pub fn sweep() -> usize {
    let mut running = BTreeSet::new();
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let left = below(own_id());
        if left.is_empty() || Instant::now() > until {
            return running.len();
        }
        for id in left {
            if executable(id).is_some() {
                running.insert(id);
                // SAFETY: the call takes integers only, and the process is a descendant of this one.
                unsafe { libc::kill(id, libc::SIGKILL) };
            }
            // SAFETY: a null status is allowed; a process that is not a child of this one is an error
            // and nothing else.
            unsafe { libc::waitpid(id, std::ptr::null_mut(), libc::WNOHANG) };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn own_id() -> libc::pid_t {
    libc::pid_t::try_from(std::process::id()).unwrap_or(0)
}

/// Every descendant of a process, zombies included.
fn below(root: libc::pid_t) -> Vec<libc::pid_t> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut parents: Vec<(libc::pid_t, libc::pid_t)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id| Some((id, parent(id)?)))
        .collect();
    // A child mostly has a higher id than its parent, but ids wrap: repeat until nothing is added.
    parents.sort_unstable();
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        for (id, parent) in &parents {
            if found.contains(parent) {
                found.insert(*id);
            }
        }
        if found.len() == before {
            break;
        }
    }
    found.remove(&root);
    found.into_iter().collect()
}

fn parent(id: libc::pid_t) -> Option<libc::pid_t> {
    Some(Proc::of(id.cast_unsigned())?.parent.cast_signed())
}

/// What a process runs; nothing for a zombie.
fn executable(id: libc::pid_t) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{id}/exe")).ok()
}
