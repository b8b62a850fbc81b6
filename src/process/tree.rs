//! Finding and ending everything a process has started.
//!
//! **Thread:** the process thread of the leader in question.
//! **Owns:** one recent snapshot of all processes of the machine, shared by callers at the same time.
//! **Never:** signals by a bare pid what is not a child or group of the server; any other process is
//! verified and signalled through a pidfd, or by its pid and start time where pidfds are refused.
//!
//! A process group is ended by one call. What has left it, with `setsid` or as a shell's job, is
//! found by its session or by its parents, and for that no process may die before the snapshot is taken:
//! the children of the dead get another parent. So the tree is frozen first, looked at until
//! nothing new turns up, and killed last.
//!
//! What `/proc` says is checked before it is believed. It may belong to an outer PID namespace, and its
//! numbers then mean others: they are translated, or not used. It may hide processes (`hidepid`) or
//! refuse to be listed: what it leaves out is found among the children of what it shows. The state `Z`
//! is that of the main thread, and the process is alive as long as another thread is left.
//!
//! A snapshot costs some microseconds for each process of the machine. A thousand kills at once share
//! a few of them: a caller that comes while one is being taken waits for the next, which serves all that
//! wait.
//!
//! All of this takes descriptors, and a kill has to work when they are used up: then it is done on a
//! thread that has a table of its own for as long as it takes, `tree`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::{self, Pid};

/// Rounds of freezing and looking; each finds what the last one's newcomers had started meanwhile.
const ROUNDS: usize = 32;
/// How long the death of what was killed is waited for. The kernel needs microseconds.
pub(crate) const DEATH: Duration = Duration::from_secs(1);
/// How often a death is looked for where nothing tells it.
const GLANCE: Duration = Duration::from_millis(1);
/// The stack of the thread that does what there are no descriptors for.
const STACK: usize = 128 * 1024;

/// Set once the whole process is swept, which finds all that a kill of one tree would.
static SWEPT: AtomicBool = AtomicBool::new(false);

/// From now on [`kill`] ends groups only, and nobody waits for a death: for whoever sweeps, so that a
/// thousand threads that have not come to an end in time do not keep the processors from it.
#[cfg(feature = "cli")]
pub(crate) fn stop_looking() {
    SWEPT.store(true, Relaxed);
}

fn is_swept() -> bool {
    SWEPT.load(Relaxed)
}

/// One process, as `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
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

/// All processes at one moment.
#[derive(Default)]
pub(crate) struct Picture {
    seen: Vec<Seen>,
    children: HashMap<Pid, Vec<usize>>,
    pids: HashSet<Pid>,
    /// The numbers in `/proc` are those of this process's own PID namespace.
    own_numbers: bool,
}

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
#[cfg(feature = "cli")]
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

/// Whether `/proc` tells this thread's children, also those that it does not show otherwise.
#[cfg(feature = "cli")]
pub(crate) fn shows_own_children() -> bool {
    shows_own_numbers() && has_children_files()
}

/// Whether the kernel tells the children of a thread, which needs CONFIG_PROC_CHILDREN.
#[cfg(feature = "cli")]
fn has_children_files() -> bool {
    fs::exists(format!("/proc/self/task/{}/children", std::process::id())).unwrap_or(false)
}

/// Takes pictures, one for all who ask at the same time.
#[derive(Default)]
pub(crate) struct Camera {
    film: Mutex<Film>,
    /// Wakes all who wait at once. One after the other, as a lock lets them in, a thousand would take
    /// seconds on a busy machine.
    taken: Condvar,
}

#[derive(Default)]
struct Film {
    /// Somebody takes a picture now.
    taking: bool,
    last: Option<(Instant, Arc<Picture>)>,
}

impl Camera {
    /// A picture that was begun after this call. Waits for one being taken; that ends by itself.
    fn picture(&self) -> io::Result<Arc<Picture>> {
        let asked = Instant::now();
        let locked = || self.film.lock().unwrap_or_else(PoisonError::into_inner);
        let mut film = locked();
        loop {
            match &film.last {
                Some((begun, picture)) if *begun > asked => return Ok(Arc::clone(picture)),
                _ if !film.taking => break,
                _ => film = self.taken.wait(film).unwrap_or_else(PoisonError::into_inner),
            }
        }
        film.taking = true;
        drop(film);
        let begun = Instant::now();
        let picture = Picture::take().map(Arc::new);
        let mut film = locked();
        film.taking = false;
        if let Ok(picture) = &picture {
            film.last = Some((begun, Arc::clone(picture)));
        }
        drop(film);
        self.taken.notify_all();
        picture
    }
}

impl Camera {
    /// `leader`, the members of its group and session, and all that is below them, the dead included; oldest
    /// first. `None` where `/proc` does not show them. The leader must not have been reaped.
    ///
    /// # Errors
    ///
    /// Only where descriptors are used up.
    pub(crate) fn family(&self, leader: Pid) -> io::Result<Option<Vec<Seen>>> {
        let picture = self.picture()?;
        if picture.seen.is_empty() && !picture.own_numbers {
            return Ok(None);
        }
        let own = |p: &&Seen| p.pid == leader || p.group == leader || p.session == leader;
        let mut family: Vec<Seen> = picture.seen.iter().filter(own).copied().collect();
        family.extend(picture.below(family.iter().map(|p| p.pid)));
        if !family.iter().any(|p| p.pid == leader) && picture.own_numbers {
            let parent = Pid::try_from(std::process::id()).unwrap_or(0);
            family.extend(look_at(leader)?.or_else(|| hidden(leader, parent)));
        }
        let parents = family.iter().map(|p| p.pid).collect();
        family.extend(picture.unlisted(parents)?);
        let mut known = HashSet::new();
        family.retain(|p| known.insert(p.pid));
        family.sort_by_key(|p| (p.pid != leader, p.started.unwrap_or(u64::MAX), p.pid));
        Ok(Some(family))
    }
}

impl Picture {
    /// Looks at `/proc` now. Without one there is nothing to see, and groups are all that is ended.
    ///
    /// # Errors
    ///
    /// Only where descriptors are used up: then nobody knows who is there.
    pub(crate) fn take() -> io::Result<Self> {
        let view = View::look()?;
        if view == View::Unusable {
            return Ok(Picture::default());
        }
        let mut seen = Vec::new();
        for entry in if_there(fs::read_dir("/proc"))?.into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
                seen.extend(look_at(pid)?);
            }
        }
        let picture = Picture::of(seen);
        match view {
            View::Outer { own, level } => picture.translated(own, level),
            View::Ours | View::Unusable => Ok(Picture {
                own_numbers: true,
                ..picture
            }),
        }
    }

    pub(crate) fn of(seen: Vec<Seen>) -> Self {
        let mut picture = Picture::default();
        picture.add(seen);
        picture
    }

    pub(crate) fn add(&mut self, seen: Vec<Seen>) {
        for process in seen {
            self.children
                .entry(process.parent)
                .or_default()
                .push(self.seen.len());
            self.pids.insert(process.pid);
            self.seen.push(process);
        }
    }

    /// The same for a `/proc` that has the numbers of an outer namespace: this process, `own` there,
    /// and what is below it. All of that is in our namespace or below it, so it has a number here.
    fn translated(self, own: Pid, level: usize) -> io::Result<Self> {
        let below = self.below([own]);
        let mut translated = Vec::new();
        let mut here = HashMap::new();
        for process in self.seen.iter().filter(|p| p.pid == own).chain(&below) {
            let Some(status) = read_if_there(&format!("/proc/{}/status", process.entry))? else {
                continue;
            };
            let number = |name| numbers(&status, name).get(level).copied();
            // None if it has gone meanwhile.
            let Some(pid) = number("NSpid:") else { continue };
            here.insert(process.pid, pid);
            translated.push(Seen {
                pid,
                // Parents come before their children.
                parent: here.get(&process.parent).copied().unwrap_or(0),
                group: number("NSpgid:").unwrap_or(0),
                session: number("NSsid:").unwrap_or(0),
                ..*process
            });
        }
        Ok(Picture::of(translated))
    }

    /// Everything there is, the dead included.
    #[cfg(feature = "cli")]
    pub(crate) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Everything that is below one of `roots`, the dead included and the roots left out; parents come
    /// before their children.
    pub(crate) fn below(&self, roots: impl IntoIterator<Item = Pid>) -> Vec<Seen> {
        let mut known = HashSet::new();
        let mut found = Vec::new();
        let mut queue: Vec<Pid> = roots.into_iter().collect();
        while let Some(parent) = queue.pop() {
            for &index in self.children.get(&parent).into_iter().flatten() {
                let process = self.seen[index];
                if known.insert(process.pid) {
                    queue.push(process.pid);
                    found.push(process);
                }
            }
        }
        found
    }

    /// Everything alive that is below one of `roots`, the roots left out.
    pub(crate) fn descendants(&self, roots: impl IntoIterator<Item = Pid>) -> Vec<Seen> {
        let mut found = self.below(roots);
        found.retain(|process| !process.dead);
        found
    }

    /// What is below `parents` and not in this picture, the dead included: what has been started since,
    /// and what `/proc` hides or does not list. The kernel tells the children of every thread that may
    /// be looked at, whatever may be seen of these children themselves.
    pub(crate) fn unlisted(&self, mut parents: Vec<Pid>) -> io::Result<Vec<Seen>> {
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

    /// Everything alive in the group or session of `leader`, or below such a one.
    fn tree(&self, leader: Pid) -> Vec<Seen> {
        let own = |p: &&Seen| p.pid == leader || p.group == leader || p.session == leader;
        let members: Vec<Seen> = self.seen.iter().filter(own).copied().collect();
        let mut tree = self.descendants(members.iter().map(|p| p.pid));
        let known: HashSet<Pid> = tree.iter().map(|p| p.pid).collect();
        tree.extend(members.into_iter().filter(|p| !p.dead && !known.contains(&p.pid)));
        tree
    }

    /// Everything alive in the group `pgid`.
    fn group(&self, pgid: Pid) -> impl Iterator<Item = Seen> + '_ {
        self.seen
            .iter()
            .filter(move |p| p.group == pgid && !p.dead)
            .copied()
    }
}

/// The children of all threads of `pid`, as far as the kernel tells; of this process, those of the main
/// thread, to which orphans come.
fn children_of(pid: Pid) -> io::Result<Vec<Pid>> {
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

/// A child of `parent` of which `/proc` shows nothing; `None` if it is gone.
pub(crate) fn hidden(pid: Pid, parent: Pid) -> Option<Seen> {
    let (group, session) = sys::group_and_session(pid)?;
    Some(Seen {
        pid,
        parent,
        group,
        session,
        started: None,
        dead: false,
        entry: pid,
    })
}

/// What `/proc` says of one process; `None` if there is none.
fn look_at(pid: Pid) -> io::Result<Option<Seen>> {
    let mut text = [0; 512];
    let file = if_there(fs::File::open(format!("/proc/{pid}/stat")))?;
    let n = file.and_then(|mut file| file.read(&mut text).ok());
    Ok(n.and_then(|n| parse_stat(pid, &text[..n])))
}

/// When the process was started, with or without a descriptor left; `None` where that is not shown.
#[cfg(feature = "cli")]
pub(crate) fn started(pid: Pid) -> Option<u64> {
    let look = || match View::look()? {
        View::Ours => look_at(pid),
        View::Outer { .. } | View::Unusable => Ok(None),
    };
    let seen = look().or_else(|_| on_own_table(look));
    seen.ok().flatten().and_then(|seen| seen.started)
}

/// What to call a process in a message: its pid, and what else is known of it.
#[cfg(feature = "cli")]
pub(crate) fn describe(seen: &Seen) -> String {
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

/// Whether so many descriptors can be opened now.
pub(crate) fn descriptors_are_left(count: usize) -> bool {
    let opened: io::Result<Vec<OwnedFd>> = (0..count).map(|_| sys::open_null()).collect();
    opened.is_ok()
}

/// Does `work` on a thread with an empty table of descriptors, where ours is full. It must neither
/// use nor return any; what it opens and leaves open goes with the thread.
pub(crate) fn on_own_table<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let done = sys::on_thread("tree", STACK, || {
        sys::leave_table_of_descriptors()?;
        work()
    });
    done.and_then(|done| done.map_err(|_| io::Error::other("its thread has panicked"))?)
        .inspect_err(|e| log::warn!("what has left its process group is not found: {e}"))
}

/// The line is `pid (name) state ppid pgrp session …`, and the name may hold anything, `)` included.
fn parse_stat(pid: Pid, line: &[u8]) -> Option<Seen> {
    let after_name = line.iter().rposition(|&b| b == b')')? + 1;
    let mut fields = str::from_utf8(&line[after_name..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse::<i64>().ok();
    let mut id = || Pid::try_from(number()?).ok();
    let (parent, group, session) = (id()?, id()?, id()?);
    // From tty_nr, the fourth behind the state, to num_threads, the seventeenth, and starttime, the nineteenth.
    let threads: u64 = fields.nth(13)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    Some(Seen {
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

/// A process that is held by a pidfd, so that its pid cannot come to mean another. Where the system has
/// no pidfds, or does not allow them, it is looked at again before each signal.
pub(crate) struct Held {
    seen: Seen,
    pidfd: Option<OwnedFd>,
}

impl Held {
    /// Takes hold of exactly the process that was seen; `None` if it is gone.
    ///
    /// # Errors
    ///
    /// Where descriptors are used up.
    pub(crate) fn take(seen: Seen) -> io::Result<Option<Held>> {
        let pidfd = match sys::pidfd_open(seen.pid) {
            Ok(pidfd) => Some(pidfd),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => return Ok(None),
            Err(e) if sys::may_be_refused(&e) => None,
            Err(e) => return Err(e),
        };
        // What is there now was there when the pidfd was opened. Otherwise the pidfd is of one that is
        // gone, and a signal reaches no process.
        let held = Held { seen, pidfd };
        Ok(held.is_there()?.then_some(held))
    }

    /// Whether there is a process with the same number and start, or a child of the same parent.
    fn is_there(&self) -> io::Result<bool> {
        let seen = self.seen;
        Ok(match seen.started {
            Some(_) => look_at(seen.entry)?.is_some_and(|now| now.started == seen.started),
            None => sys::is_child(seen.pid) || children_of(seen.parent)?.contains(&seen.pid),
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
            Err(e) if sys::may_be_refused(&e) && self.is_there()? => sys::kill(self.seen.pid, signal),
            sent => sent,
        }
    }

    /// Waits for its end, but not past `deadline`. The kernel ends the wait of what was killed.
    pub(crate) fn wait(&self, deadline: Instant) {
        if let Some(pidfd) = &self.pidfd {
            let _ = sys::readable_by(pidfd, deadline);
            return;
        }
        let alive = || {
            let now = look_at(self.seen.entry).ok().flatten();
            now.is_some_and(|now| now.started == self.seen.started && !now.dead)
        };
        // Nothing tells; but the kernel takes no longer than this, as a rule.
        while alive() && Instant::now() < deadline {
            let _ = sys::poll(&mut [], Some(GLANCE));
        }
    }
}

/// What a [`kill`] did.
pub(crate) struct Killed {
    /// What was killed outside of the group, for [`wait_for_death`].
    pub(crate) outside: Vec<Held>,
    /// Fails where nothing could be signalled, as `kill(2)` of a group does.
    pub(crate) outcome: io::Result<()>,
}

/// Kills `leader`'s group, its session, and all that came from them by an unbroken line of parents.
///
/// The leader must not have been reaped, so that its number means it.
pub(crate) fn kill(leader: Pid, camera: &Camera) -> Killed {
    // Only what SIGKILL is refused for counts.
    let stopped = sys::kill_group(leader, libc::SIGSTOP);
    // Where no group may be signalled, its members are, one by one.
    let one_by_one = stopped.is_err_and(|error| sys::may_be_refused(&error));
    let mut held = Vec::new();
    let mut any_killed = false;
    if freeze(leader, one_by_one, camera, &mut held).is_err() {
        // What is frozen already is still below its parents, and found again.
        let _ = on_own_table(|| {
            let mut held = Vec::new();
            let frozen = freeze(leader, one_by_one, camera, &mut held);
            kill_all(&mut held);
            any_killed = !held.is_empty();
            wait_for_death(&held, Instant::now() + DEATH);
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

/// Stops what is outside of `leader`'s group, or in it as well, until nothing new turns up, and puts
/// it into `held`.
fn freeze(leader: Pid, with_group: bool, camera: &Camera, held: &mut Vec<Held>) -> io::Result<()> {
    let mut frozen = HashSet::new();
    for _ in 0..ROUNDS {
        if is_swept() {
            break;
        }
        let picture = camera.picture()?;
        let mut news = false;
        let mut tree = picture.tree(leader);
        let parents = tree.iter().map(|p| p.pid).chain([leader]).collect();
        tree.extend(picture.unlisted(parents)?.into_iter().filter(|p| !p.dead));
        for process in tree {
            if process.group == leader && !with_group || !frozen.insert((process.pid, process.started)) {
                continue;
            }
            news = true;
            if let Some(process) = Held::take(process)? {
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
/// not waited for: it has not been brought about.
fn kill_all(held: &mut Vec<Held>) {
    held.retain(|process| process.signal(libc::SIGKILL).is_ok());
}

/// Waits until all of `killed` are dead, but not past `deadline`. The kernel ends the wait: each has
/// been sent SIGKILL.
pub(crate) fn wait_for_death(killed: &[Held], deadline: Instant) {
    for process in killed {
        process.wait(deadline);
    }
}

/// Waits until nobody is left alive in the group `pgid`, whose leader has been reaped and whose
/// members have been sent SIGKILL. Gives up after a while.
pub(crate) fn wait_for_group(pgid: Pid, camera: &Camera) {
    let deadline = Instant::now() + DEATH;
    let wait = || {
        let picture = camera.picture()?;
        let held = picture.group(pgid).map(Held::take);
        let held: Vec<Held> = held.filter_map(Result::transpose).collect::<io::Result<_>>()?;
        wait_for_death(&held, deadline);
        // If nobody: zombies that their parent has not reaped; they are dead.
        Ok(!held.is_empty())
    };
    while sys::kill_group(pgid, 0).is_ok() && Instant::now() < deadline && !is_swept() {
        if !wait().or_else(|_: io::Error| on_own_table(wait)).unwrap_or(false) {
            return;
        }
    }
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
    fn this_process_is_in_the_picture_below_its_parent() {
        let own = Pid::try_from(std::process::id()).unwrap();
        let seen = look_at(own).unwrap().expect("we are alive");
        let picture = Picture::take().unwrap();
        assert!(picture.descendants([seen.parent]).contains(&seen));
    }
}
