//! Finding and ending everything a process has started.
//!
//! **Thread:** the process thread of the leader in question.
//! **Owns:** one recent picture of all processes of the machine, shared by those who ask at once.
//! **Never:** signals by a bare pid what is no child or group of ours; strangers are verified and
//! signalled through a pidfd.
//!
//! A process group is ended by one call. What has left it, with `setsid` or as a shell's job, is
//! found by its session or by its parents, and for that nobody may die before the picture is taken:
//! the children of the dead belong to somebody else. So the tree is frozen first, looked at until
//! nothing new turns up, and killed last.
//!
//! A picture costs some microseconds for each process of the machine. A thousand kills at once share
//! a few of them: whoever asks while one is being taken waits for the next, which serves all who wait.
//!
//! All of this takes descriptors, and a kill has to work when they are used up: then it is done on a
//! thread that has a table of its own for as long as it takes, `tree`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::{self, Pid};

/// Rounds of freezing and looking; each finds what the last one's newcomers had started meanwhile.
const ROUNDS: usize = 32;
/// How long the death of what was killed is waited for. The kernel needs microseconds.
pub(crate) const DEATH: Duration = Duration::from_secs(1);
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
    /// In clock ticks since boot; with the pid, an identity.
    pub(crate) started: u64,
    /// Ended, and not yet reaped.
    pub(crate) dead: bool,
}

/// All processes at one moment.
#[derive(Default)]
pub(crate) struct Picture {
    seen: Vec<Seen>,
    children: HashMap<Pid, Vec<usize>>,
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

impl Picture {
    /// Looks at `/proc` now. Without one there is nothing to see, and groups are all that is ended.
    ///
    /// # Errors
    ///
    /// Only where descriptors are used up: then nobody knows who is there.
    pub(crate) fn take() -> io::Result<Self> {
        let mut seen = Vec::new();
        for entry in if_there(fs::read_dir("/proc"))?.into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
                seen.extend(look_at(pid)?);
            }
        }
        Ok(Picture::of(seen))
    }

    pub(crate) fn of(seen: Vec<Seen>) -> Self {
        let mut children = HashMap::<Pid, Vec<usize>>::new();
        for (index, process) in seen.iter().enumerate() {
            children.entry(process.parent).or_default().push(index);
        }
        Picture { seen, children }
    }

    /// Everything there is, the dead included.
    #[cfg(feature = "cli")]
    pub(crate) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Everything alive that is below one of `roots`, the roots left out.
    pub(crate) fn descendants(&self, roots: impl IntoIterator<Item = Pid>) -> Vec<Seen> {
        let mut known = HashSet::new();
        let mut found = Vec::new();
        let mut queue: Vec<Pid> = roots.into_iter().collect();
        while let Some(parent) = queue.pop() {
            for &index in self.children.get(&parent).into_iter().flatten() {
                let process = self.seen[index];
                if known.insert(process.pid) {
                    queue.push(process.pid);
                    if !process.dead {
                        found.push(process);
                    }
                }
            }
        }
        found
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

/// What `/proc` says of one process; `None` if there is none.
fn look_at(pid: Pid) -> io::Result<Option<Seen>> {
    let mut text = [0; 512];
    let file = if_there(fs::File::open(format!("/proc/{pid}/stat")))?;
    let n = file.and_then(|mut file| file.read(&mut text).ok());
    Ok(n.and_then(|n| parse_stat(pid, &text[..n])))
}

/// When the process was started, with or without a descriptor left; `None` if there is none.
#[cfg(feature = "cli")]
pub(crate) fn started(pid: Pid) -> Option<u64> {
    let seen = look_at(pid).or_else(|_| on_own_table(|| look_at(pid)));
    seen.ok().flatten().map(|seen| seen.started)
}

/// What is gone is nothing, and no error; that descriptors are used up says nothing about it.
fn if_there<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Ok(there) => Ok(Some(there)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Err(e),
        Err(_) => Ok(None),
    }
}

/// Does `work` on a thread with an empty table of descriptors, where ours is full. It must neither
/// use nor return any; what it opens and leaves open goes with the thread.
fn on_own_table<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("tree".to_owned()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, || {
            sys::leave_table_of_descriptors()?;
            work()
        })?;
        thread
            .join()
            .map_err(|_| io::Error::other("its thread has panicked"))?
    })
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
    // From tty_nr, the fourth behind the state, to starttime, the nineteenth.
    let started = fields.nth(15)?.parse().ok()?;
    Some(Seen {
        pid,
        parent,
        group,
        session,
        started,
        dead: matches!(state, "Z" | "X"),
    })
}

/// A process that is held by a pidfd, so that its pid cannot come to mean another.
pub(crate) struct Held(OwnedFd);

impl Held {
    /// Takes hold of exactly the process that was seen; `None` if it is gone.
    ///
    /// # Errors
    ///
    /// Only where descriptors are used up.
    pub(crate) fn take(seen: Seen) -> io::Result<Option<Held>> {
        let Some(pidfd) = if_there(sys::pidfd_open(seen.pid))? else {
            return Ok(None);
        };
        let now = look_at(seen.pid)?;
        Ok(now
            .is_some_and(|now| now.started == seen.started)
            .then_some(Held(pidfd)))
    }

    /// Whether it got the signal: not if it is gone, or if we may not signal it.
    pub(crate) fn signal(&self, signal: libc::c_int) -> bool {
        sys::pidfd_signal(self.0.as_fd(), signal).is_ok()
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
    let _ = sys::kill_group(leader, libc::SIGSTOP);
    let mut held = Vec::new();
    let mut any_killed = false;
    if freeze(leader, camera, &mut held).is_err() {
        // What is frozen already is still below its parents, and found again.
        let _ = on_own_table(|| {
            let mut held = Vec::new();
            let frozen = freeze(leader, camera, &mut held);
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

/// Stops what is outside of `leader`'s group until nothing new turns up, and puts it into `held`.
fn freeze(leader: Pid, camera: &Camera, held: &mut Vec<Held>) -> io::Result<()> {
    let mut frozen = HashSet::new();
    for _ in 0..ROUNDS {
        if is_swept() {
            break;
        }
        let picture = camera.picture()?;
        let mut news = false;
        for process in picture.tree(leader) {
            if process.group == leader || !frozen.insert((process.pid, process.started)) {
                continue;
            }
            news = true;
            if let Some(process) = Held::take(process)? {
                process.signal(libc::SIGSTOP);
                held.push(process);
            }
        }
        if !news {
            break;
        }
    }
    Ok(())
}

/// Sends SIGKILL to all of `held`, and keeps those that got it.
fn kill_all(held: &mut Vec<Held>) {
    held.retain(|process| process.signal(libc::SIGKILL));
}

/// Waits until all of `killed` are dead, but not past `deadline`. The kernel ends the wait: each has
/// been sent SIGKILL.
pub(crate) fn wait_for_death(killed: &[Held], deadline: Instant) {
    for process in killed {
        let _ = sys::readable_by(&process.0, deadline);
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
        assert_eq!((seen.started, seen.dead), (12345, false));
    }

    #[test]
    fn this_process_is_in_the_picture_below_its_parent() {
        let own = Pid::try_from(std::process::id()).unwrap();
        let seen = look_at(own).unwrap().expect("we are alive");
        let picture = Picture::take().unwrap();
        assert!(picture.descendants([seen.parent]).contains(&seen));
    }
}
