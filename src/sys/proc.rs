//! What `/proc` says, checked before it is believed.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** fails because a process is gone; only where descriptors are used up.
//!
//! It may belong to an outer PID namespace, and its numbers then mean others: they are translated, or not
//! used. It may hide processes (`hidepid`) or refuse to be listed: what it leaves out is found among the
//! children of what it shows. The state `Z` is that of the main thread, and the process is alive as long
//! as another thread is left.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};

use super::Pid;
use super::snapshot::{ProcStat, Snapshot, hidden};

/// Whose processes `/proc` shows, and by which numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Ours,
    /// Those of an outer PID namespace: its number for this process, and how many levels it is above us.
    Outer {
        own: Pid,
        level: usize,
    },
    /// There is none, or it does not show this process.
    Unusable,
}

impl View {
    /// # Errors
    ///
    /// Only where descriptors are used up.
    fn look() -> io::Result<View> {
        let Some(status) = read_if_there("/proc/self/status")? else {
            return Ok(View::Unusable);
        };
        let own = numbers(&status, "Pid:").first().copied();
        // One number for each PID namespace, from that of `/proc` to that of the process.
        let mut levels = numbers(&status, "NSpid:");
        if levels.is_empty() {
            levels.extend(own);
        }
        Ok(match (own, levels.as_slice()) {
            (Some(_), [here]) if is_own(*here) => View::Ours,
            (Some(own), [.., here]) if is_own(*here) => View::Outer {
                own,
                level: levels.len() - 1,
            },
            _ => View::Unusable,
        })
    }
}

fn is_own(pid: Pid) -> bool {
    u32::try_from(pid) == Ok(std::process::id())
}

/// The numbers behind `name` in a `/proc/PID/status`.
fn numbers(status: &str, name: &str) -> Vec<Pid> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let numbers = line.unwrap_or_default().split_ascii_whitespace();
    numbers.map_while(|number| number.parse().ok()).collect()
}

fn read_if_there(path: &str) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    let file = if_there(fs::File::open(path))?;
    let read = file.and_then(|mut file| file.read_to_end(&mut text).ok());
    // A name in it may be anything.
    Ok(read.map(|_| String::from_utf8_lossy(&text).into_owned()))
}

/// What keeps `/proc` from showing what a program has started; `None` if it does.
pub(crate) fn blindness() -> Option<String> {
    match View::look() {
        Ok(View::Unusable) => Some(match fs::File::open("/proc/self/status") {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => format!("/proc cannot be read ({e})"),
            _ if fs::exists("/proc/version").unwrap_or(false) => {
                "/proc belongs to another PID namespace".to_owned()
            }
            _ => "there is no /proc".to_owned(),
        }),
        // Cheaper to list than all processes, and refused alike.
        Ok(_) => match fs::read_dir("/proc/self/task").and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(_) => None,
            // Much of it is found among the children of what is known, but not those of threads that
            // are not listed either.
            Err(e) => Some(format!("/proc cannot be listed ({e})")),
        },
        Err(e) => Some(format!("/proc cannot be read ({e})")),
    }
}

/// Whether the numbers in `/proc` are those of this process's own PID namespace.
pub(crate) fn shows_own_numbers() -> bool {
    View::look().is_ok_and(|view| view == View::Ours)
}

/// Whether `/proc` shows that the main thread of `pid` is stopped, be it alone.
#[cfg(feature = "cli")]
pub(crate) fn is_stopped(pid: Pid) -> bool {
    let stat = shows_own_numbers().then(|| read_if_there(&format!("/proc/{pid}/stat")));
    let stat = stat.and_then(|read| read.ok().flatten()).unwrap_or_default();
    // Behind the name, which may hold anything.
    stat.rsplit_once(')')
        .is_some_and(|(_, fields)| fields.trim_start().starts_with('T'))
}

/// Whether one of our processes has begun to exit: it has closed its files, and may not be a zombie yet.
pub(crate) fn is_exiting(pid: Pid) -> bool {
    /// `PF_EXITING` of the kernel.
    const EXITING: u64 = 0x4;
    let stat = shows_own_numbers().then(|| read_if_there(&format!("/proc/{pid}/stat")));
    let stat = stat.and_then(|read| read.ok().flatten()).unwrap_or_default();
    let flags = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(6));
    flags.is_some_and(|flags| flags.parse::<u64>().is_ok_and(|flags| flags & EXITING != 0))
}

/// Whether `/proc` lists this thread's children, also those that it hides elsewhere.
#[cfg(feature = "cli")]
pub(crate) fn shows_own_children() -> bool {
    shows_own_numbers() && has_children_files()
}

/// Whether the kernel lists the children of a thread, which needs CONFIG_PROC_CHILDREN.
#[cfg(feature = "cli")]
fn has_children_files() -> bool {
    fs::exists(format!("/proc/self/task/{}/children", std::process::id())).unwrap_or(false)
}

impl Snapshot {
    /// Looks at `/proc` now. Without one there is nothing to see, and groups are all that is killed.
    ///
    /// # Errors
    ///
    /// Only where descriptors are used up: then it is not known which processes there are.
    pub(crate) fn take() -> io::Result<Self> {
        let view = View::look()?;
        if view == View::Unusable {
            return Ok(Snapshot::default());
        }
        let mut seen = Vec::new();
        for entry in if_there(fs::read_dir("/proc"))?.into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
                seen.extend(look_at(pid)?);
            }
        }
        let snapshot = Snapshot::of(seen);
        match view {
            View::Outer { own, level } => snapshot.translated(own, level),
            View::Ours | View::Unusable => Ok(Snapshot {
                own_numbers: true,
                ..snapshot
            }),
        }
    }

    /// The same for a `/proc` that has the numbers of an outer namespace: this process, `own` there,
    /// and what is below it. All of that is in our namespace or below it, so it has a number here.
    fn translated(self, own: Pid, level: usize) -> io::Result<Self> {
        let below = self.below([own]);
        let mut translated = Vec::new();
        let mut here = HashMap::new();
        for process in self.processes.iter().filter(|p| p.pid == own).chain(&below) {
            let Some(status) = read_if_there(&format!("/proc/{}/status", process.entry))? else {
                continue;
            };
            let number = |name| numbers(&status, name).get(level).copied();
            // None if it has gone meanwhile.
            let Some(pid) = number("NSpid:") else { continue };
            here.insert(process.pid, pid);
            translated.push(ProcStat {
                pid,
                // Parents come before their children.
                parent: here.get(&process.parent).copied().unwrap_or(0),
                group: number("NSpgid:").unwrap_or(0),
                session: number("NSsid:").unwrap_or(0),
                ..*process
            });
        }
        Ok(Snapshot::of(translated))
    }

    /// What is below `parents` and not in this snapshot, the dead included: what has been started since,
    /// and what `/proc` hides or does not list. The kernel shows the children of every thread that may
    /// be looked at, whatever may be seen of these children themselves.
    pub(crate) fn unlisted(&self, mut parents: Vec<Pid>) -> io::Result<Vec<ProcStat>> {
        let mut found = Vec::new();
        let mut new = HashSet::new();
        while self.own_numbers
            && let Some(parent) = parents.pop()
        {
            for pid in children_of(parent)? {
                if self.pids.contains(&pid) || !new.insert(pid) {
                    continue;
                }
                let Some(seen) = look_at(pid)?.or_else(|| hidden(pid, parent)) else {
                    continue;
                };
                found.push(seen);
                let below = self.below([pid]);
                parents.push(pid);
                parents.extend(below.iter().map(|p| p.pid));
                found.extend(below);
            }
        }
        Ok(found)
    }
}

impl Snapshot {
    /// `leader`, the members of its group and session, and all that is below them, the dead included; oldest
    /// first. `None` where `/proc` does not show them. The leader must not have been reaped.
    ///
    /// # Errors
    ///
    /// Only where descriptors are used up.
    pub(crate) fn family(&self, leader: Pid) -> io::Result<Option<Vec<ProcStat>>> {
        if self.processes.is_empty() && !self.own_numbers {
            return Ok(None);
        }
        let own = |p: &&ProcStat| p.pid == leader || p.group == leader || p.session == leader;
        let mut family: Vec<ProcStat> = self.processes.iter().filter(own).copied().collect();
        family.extend(self.below(family.iter().map(|p| p.pid)));
        if !family.iter().any(|p| p.pid == leader) && self.own_numbers {
            let parent = Pid::try_from(std::process::id()).unwrap_or(0);
            family.extend(look_at(leader)?.or_else(|| hidden(leader, parent)));
        }
        family.extend(self.unlisted(family.iter().map(|p| p.pid).collect())?);
        let mut known = HashSet::new();
        family.retain(|p| known.insert(p.pid));
        family.sort_unstable_by_key(|p| (p.pid != leader, p.started.unwrap_or(u64::MAX), p.pid));
        Ok(Some(family))
    }
}

/// The children of all threads of `pid`, as far as the kernel shows; of this process, those of the main
/// thread, to which orphans come.
pub(crate) fn children_of(pid: Pid) -> io::Result<Vec<Pid>> {
    let mut threads: Vec<Pid> = Vec::new();
    if !is_own(pid) {
        for entry in if_there(fs::read_dir(format!("/proc/{pid}/task")))?
            .into_iter()
            .flatten()
            .flatten()
        {
            threads.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<Pid>().ok()),
            );
        }
    }
    if threads.is_empty() {
        // What is not listed can still be opened, and the main thread has the number of its process.
        threads.push(pid);
    }
    let mut children = Vec::new();
    for thread in threads {
        let text = read_if_there(&format!("/proc/{pid}/task/{thread}/children"))?.unwrap_or_default();
        children.extend(
            text.split_ascii_whitespace()
                .filter_map(|child| child.parse::<Pid>().ok()),
        );
    }
    Ok(children)
}

/// What `/proc` says of one process; `None` if there is none.
pub(crate) fn look_at(pid: Pid) -> io::Result<Option<ProcStat>> {
    let mut text = [0; 512];
    let file = if_there(fs::File::open(format!("/proc/{pid}/stat")))?;
    let n = file.and_then(|mut file| file.read(&mut text).ok());
    Ok(n.and_then(|n| parse_stat(pid, &text[..n])))
}

/// The same, `None` as well where the numbers of `/proc` are not ours.
#[cfg(feature = "cli")]
pub(crate) fn look_at_own_number(pid: Pid) -> io::Result<Option<ProcStat>> {
    match View::look()? {
        View::Ours => look_at(pid),
        View::Outer { .. } | View::Unusable => Ok(None),
    }
}

/// What to call a process in a message: its pid, and what else is known of it.
#[cfg(feature = "cli")]
pub(crate) fn describe(seen: &ProcStat) -> String {
    let pid = seen.pid;
    if seen.started.is_none() {
        return pid.to_string();
    }
    let status = read_if_there(&format!("/proc/{}/status", seen.entry));
    let status = status.ok().flatten().unwrap_or_default();
    let name = status.lines().find_map(|line| line.strip_prefix("Name:"));
    let name = name.unwrap_or("gone").trim();
    match numbers(&status, "TracerPid:").first() {
        Some(tracer @ 1..) if seen.dead => format!("{pid} ({name}, has ended; its tracer {tracer} holds it)"),
        Some(tracer @ 1..) => format!("{pid} ({name}, traced by {tracer})"),
        _ => format!("{pid} ({name})"),
    }
}

/// What is gone is nothing, and no error; that descriptors are used up says nothing about it.
fn if_there<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Ok(there) => Ok(Some(there)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Err(e),
        Err(_) => Ok(None),
    }
}

/// The line is `pid (name) state ppid pgrp session …`, and the name may hold anything, `)` included.
fn parse_stat(pid: Pid, line: &[u8]) -> Option<ProcStat> {
    let after_name = line.iter().rposition(|&b| b == b')')? + 1;
    let mut fields = str::from_utf8(&line[after_name..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse::<i64>().ok();
    let mut id = || Pid::try_from(number()?).ok();
    let (parent, group, session) = (id()?, id()?, id()?);
    // From tty_nr, the fourth after the state, to num_threads, the seventeenth, and starttime, the nineteenth.
    let threads: u64 = fields.nth(13)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    Some(ProcStat {
        pid,
        parent,
        group,
        session,
        started: Some(started),
        // The state is that of the main thread, which counts until it is reaped.
        dead: matches!(state, "Z" | "X") && threads <= 1,
        entry: pid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_confuse_the_fields() {
        let line = b"42 (a) Z 1 (b)) S 7 8 9 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        let seen = parse_stat(42, line).expect("well-formed");
        assert_eq!((seen.parent, seen.group, seen.session), (7, 8, 9));
        assert_eq!((seen.started, seen.dead), (Some(12345), false));
    }

    #[test]
    fn process_is_dead_only_if_no_thread_is_left() {
        let dead = |state, threads| {
            let line =
                format!("42 (a) {state} 7 8 9 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 {threads} 0 12345 0 0");
            parse_stat(42, line.as_bytes()).expect("well-formed").dead
        };
        assert_eq!(
            [dead('Z', 1), dead('X', 0), dead('Z', 2), dead('S', 1)],
            [true, true, false, false]
        );
    }

    #[test]
    fn numbers_of_a_status_are_those_of_its_line() {
        let status = "Name:\tNSpid: 7\nPid:\t40\nPPid:\t1\nNSpid:\t40\t7\t2\nNSpgid:\t0\t7\t2\n";
        assert_eq!(numbers(status, "NSpid:"), [40, 7, 2]);
        assert_eq!(numbers(status, "Pid:"), [40]);
        assert!(numbers(status, "NSsid:").is_empty());
    }

    #[test]
    fn this_process_is_in_the_snapshot_below_its_parent() {
        let own = Pid::try_from(std::process::id()).unwrap();
        let seen = look_at(own).unwrap().expect("we are alive");
        let snapshot = Snapshot::take().unwrap();
        assert!(snapshot.descendants([seen.parent]).contains(&seen));
    }
}
