//! The guard: what makes sure that nothing outlives a server, even one that is killed with SIGKILL.
//!
//! For the binary only: everything here is process-wide, which a library must not be.
//!
//! **Thread:** the main thread of the guard, and the main thread of the server below it.
//! **Owns:** the server as a child; the orphans of both.
//! **Never:** reads a request or writes an answer.
//!
//! The process the client starts becomes the guard: tiny, and a child subreaper. It starts the
//! server below itself, from the same file, with the same arguments and descriptors; the server is
//! a child subreaper, too. So every orphan of a spawned program ends up below the server, and below
//! the guard if there is no server any more. Whichever of the two dies first, the other sweeps:
//!
//! | what happens | who notices | what is done |
//! | --- | --- | --- |
//! | the connection ends | the server | it kills all that is below it, and exits; the guard exits with its code |
//! | the server is killed | the guard, by SIGCHLD | it kills all that is below it, and exits |
//! | the guard is killed | the server, by its parent-death signal | as at SIGTERM |
//! | the server is told to end and does not | the guard, by the clock | it kills the server, and goes on as above |
//!
//! Processes that were spawned with `detach` are spared with all that is below them. The server
//! tells the guard who they are through a pipe: pid and start time, because a pid comes to mean others.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::{self, Interest, Pid, StringList};
use crate::tree::{self, Held, Picture, Seen};

/// The argument by which the guard tells the server who guards it: `--guarded-by=PID,FD`.
pub const GUARDED_BY: &str = "--guarded-by=";

/// What makes orphans stay below a process, as it is called in errors.
const SUBREAPER: &str = "prctl(PR_SET_CHILD_SUBREAPER)";

/// How long a sweep goes on behind which there is another: that of the server, which comes behind the
/// end of its connection; all of it together takes less than three seconds.
const FIRST_SWEEP: Duration = Duration::from_millis(600);
/// How long a sweep goes on behind which there is none. The kernel needs milliseconds; only a fork
/// bomb on a busy machine needs more, and what is left then is left for good.
const LAST_SWEEP: Duration = Duration::from_secs(10);

/// How long the server may take to end once it has been told to: more than it takes by itself, with
/// its own sweep. One that is stopped or stuck is killed then.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whom the server has above it, if it is guarded.
static GUARD: OnceLock<u32> = OnceLock::new();

/// Who is not to be swept: pids, and when what they mean was started. The latest of a pid counts.
type Spared = BTreeMap<Pid, u64>;

/// What this server has spawned with `detach`.
static DETACHED: Mutex<Spared> = Mutex::new(BTreeMap::new());

/// What the guard is told of a detached process, in one write: pid and start time.
const DETACHED_BYTES: usize = size_of::<Pid>() + size_of::<u64>();

/// The server's side of the guard.
#[derive(Debug)]
pub struct Guarded {
    /// Where the guard reads of detached processes.
    detached: Option<OwnedFd>,
}

/// Starts the server below this process and waits for its end; the exit code to end with.
///
/// # Errors
///
/// Where the server cannot be started this way, it has to do without a guard.
pub fn run() -> io::Result<i32> {
    sys::become_subreaper().map_err(sys::named(SUBREAPER))?;
    // As it was when we were started; the server shall not see what the guard does to itself.
    let waited_for = signals_of_guard();
    let mask = sys::block_signals(&waited_for).map_err(sys::named("rt_sigprocmask"))?;
    let restore = |e| {
        sys::set_signal_mask(&mask);
        e
    };
    sys::default_signal(libc::SIGCHLD);
    let (reader, writer) = sys::pipe().map_err(sys::named("pipe2")).map_err(restore)?;
    // Last of what can fail: from here on there is a server, and this process is no other one.
    let signals = sys::signal_fd(&waited_for)
        .map_err(sys::named("signalfd4"))
        .map_err(restore)?;
    // With the terminal as input it must stay in the foreground; otherwise a signal to the client's
    // whole group shall not reach both of us.
    let own_group = !sys::is_terminal(io::stdin().as_fd());
    let server = start_server(writer, &mask, own_group).map_err(restore)?;
    let _ = sys::set_nonblocking(&reader);
    // The client must see the server's ends close, not ours.
    let _ = sys::let_go_of_stdio();
    // From here on the guard sleeps; it needs a tenth of the code that started it.
    forget_code_pages();

    let mut detached = Spared::new();
    let mut kill_at: Option<Instant> = None;
    let mut told = None;
    let status = loop {
        let mut interests = [
            Interest::read(signals.as_raw_fd()),
            Interest::read(reader.as_raw_fd()),
        ];
        let left = kill_at.map(|at| at.saturating_duration_since(Instant::now()));
        if let Err(e) = sys::poll(&mut interests, left) {
            // The server hears of this end, and ends as at SIGTERM.
            log::error!("the server cannot be watched, so it is ended: ppoll: {e}");
            return Ok(1);
        }
        if left == Some(Duration::ZERO) {
            log::warn!("the server does not end, and is killed");
            let _ = sys::kill(server, libc::SIGKILL);
            kill_at = None;
        }
        if interests[1].readable() {
            read_detached(&reader, &mut detached);
        }
        if !interests[0].readable() {
            if interests[1].hung_up() {
                // The server is gone or going; only its SIGCHLD is still to come.
                let _ = sys::poll(&mut [Interest::read(signals.as_raw_fd())], None);
            }
            continue;
        }
        match sys::next_signal(&signals) {
            // Where it cannot be read which signal it was, it may have been this one.
            Some((libc::SIGCHLD, _)) | None => {
                if let Some(status) = reap_until(server) {
                    break status;
                }
            }
            Some((signal, from_terminal)) => {
                // A terminal tells its whole group, and to be asked twice means more.
                if own_group || !from_terminal {
                    let _ = sys::kill(server, signal);
                }
                kill_at.get_or_insert_with(|| Instant::now() + PATIENCE);
                told.get_or_insert(signal);
            }
        }
    };
    read_detached(&reader, &mut detached);
    if status.signal.is_some() {
        log::warn!("the server was killed; ending what it had started");
    }
    // A server that ended by itself has swept already, and this finds nothing.
    sweep_for(LAST_SWEEP, &detached);
    Ok(match told {
        // It was going to end with this.
        Some(signal) if status.signal == Some(libc::SIGKILL) => 128 + signal,
        _ => status.code,
    })
}

/// What the guard waits for. Whoever starts us under nohup wants us to live on without a terminal,
/// so a hang-up that is ignored stays so.
fn signals_of_guard() -> Vec<libc::c_int> {
    let all = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
    let ignored = |signal: &libc::c_int| *signal == libc::SIGHUP && sys::is_ignored(libc::SIGHUP);
    all.into_iter().filter(|signal| !ignored(signal)).collect()
}

fn start_server(detached: OwnedFd, mask: &sys::SignalMask, own_group: bool) -> io::Result<Pid> {
    let c_string = |text: &OsString| CString::new(text.as_bytes()).map_err(io::Error::other);
    let mut arguments: Vec<CString> = std::env::args_os()
        .map(|a| c_string(&a))
        .collect::<Result<_, _>>()?;
    // Inherited by number: the server takes it over.
    sys::set_inheritable(&detached)?;
    let guarded_by = format!("{GUARDED_BY}{},{}", std::process::id(), detached.as_raw_fd());
    arguments.insert(1.min(arguments.len()), CString::new(guarded_by)?);
    let environment: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| c_string(&[name, value].join(OsStr::new("="))))
        .collect::<Result<_, _>>()?;
    sys::spawn_server(
        sys::own_file(),
        &StringList::new(&arguments),
        &StringList::new(&environment),
        mask,
        own_group,
    )
    .map_err(sys::named("posix_spawn"))
}

/// The file this program was started from.
#[must_use]
pub fn own_file() -> &'static Path {
    Path::new(OsStr::from_bytes(sys::own_file().to_bytes()))
}

/// Whether processes can be told apart here. Without `/proc`, what has left the group of a program
/// cannot be found when it is to end.
#[must_use]
pub fn sees_processes() -> bool {
    Path::new("/proc/self/stat").exists()
}

fn read_detached(reader: &OwnedFd, detached: &mut Spared) {
    let mut bytes = [0; DETACHED_BYTES];
    // Written as many bytes at a time, so they are read so, too.
    while let Ok(DETACHED_BYTES) = sys::read(reader.as_fd(), &mut bytes) {
        if let Some((pid, started)) = bytes.split_first_chunk()
            && let Ok(started) = started.try_into()
        {
            detached.insert(Pid::from_ne_bytes(*pid), u64::from_ne_bytes(started));
        }
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

impl Guarded {
    /// Makes this process one that can sweep: a child subreaper that hears when its guard dies.
    ///
    /// `guarded_by` is the value of [`GUARDED_BY`]; without one there is no guard.
    ///
    /// # Errors
    ///
    /// Names what the system refused, or what was wrong with the value.
    pub fn begin(guarded_by: Option<&str>) -> io::Result<Guarded> {
        sys::become_subreaper().map_err(sys::named(SUBREAPER))?;
        sys::name_this_thread(c"procwire");
        sys::default_signal(libc::SIGCHLD);
        sys::unblock_all_signals();
        let Some(value) = guarded_by else {
            return Ok(Guarded { detached: None });
        };
        let malformed = || io::Error::new(io::ErrorKind::InvalidInput, "malformed --guarded-by");
        let (guard, fd) = value.split_once(',').ok_or_else(malformed)?;
        let guard: u32 = guard.parse().map_err(|_| malformed())?;
        let fd: RawFd = fd.parse().map_err(|_| malformed())?;
        sys::die_with_parent(libc::SIGTERM).map_err(sys::named("prctl(PR_SET_PDEATHSIG)"))?;
        let parent = std::os::unix::process::parent_id();
        if parent != guard {
            // It has died already, as a rule.
            let text = format!("the parent is process {parent}, and not the guard, {guard}");
            return Err(io::Error::other(text));
        }
        let _ = GUARD.set(guard);
        // SAFETY: the guard has opened it for us and told us its number; nobody else here knows it.
        let detached = unsafe { OwnedFd::from_raw_fd(fd) };
        sys::set_close_on_exec(&detached)?;
        // A guard that does not read must not stop us.
        sys::set_nonblocking(&detached)?;
        Ok(Guarded {
            detached: Some(detached),
        })
    }

    /// What spares a detached process, here and in the guard, for
    /// [`Config::on_detach`](crate::Config::on_detach).
    pub fn detached(self) -> impl Fn(u32) + Send + Sync + 'static {
        // It lives as long as the server, so that its closing means the server's end.
        let fd = self.detached.map(IntoRawFd::into_raw_fd);
        move |pid| {
            let pid = pid.cast_signed();
            // It has not been reaped yet. Who is not to be seen now is not seen by a sweep either.
            let Some(started) = tree::started(pid) else { return };
            let mut detached = DETACHED.lock().unwrap_or_else(PoisonError::into_inner);
            detached.insert(pid, started);
            if let Some(fd) = fd {
                // SAFETY: given up above and never closed.
                let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
                let _ = sys::write(fd, &[&pid.to_ne_bytes()[..], &started.to_ne_bytes()].concat());
            }
        }
    }
}

/// Reaps the orphans that this process has adopted. Must be called by the main thread, whose children
/// they are.
pub fn reap_adopted() {
    while sys::reap_any().is_some() {}
}

/// Kills everything below this process, but for what was detached and what is below or in the session
/// of that: freeze, look, kill, until nothing is left. Must be called by the main thread.
pub fn sweep() {
    // The threads of processes that have not ended in time leave everything to this sweep.
    tree::stop_looking();
    let guarded = GUARD.get() == Some(&std::os::unix::process::parent_id());
    let detached = DETACHED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    sweep_for(if guarded { FIRST_SWEEP } else { LAST_SWEEP }, &detached);
}

fn sweep_for(patience: Duration, spared: &Spared) {
    let own = Pid::try_from(std::process::id()).unwrap_or(Pid::MAX);
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let mut frozen = HashSet::new();
        let mut frozen_groups = HashSet::new();
        let mut held: Vec<Held> = Vec::new();
        // Freeze until nobody new turns up, so that nobody can start another behind our back.
        loop {
            // Where descriptors are used up, the children that are left make the sweep go on.
            let below = Below::new(&Picture::take().unwrap_or_default(), own, spared);
            let before = held.len();
            for group in below.groups {
                // One that forks and exits all the time is gone before it can be held, but its child
                // is in its group, and a group is stopped all at once.
                if frozen_groups.insert(group) {
                    let _ = sys::kill_group(group, libc::SIGSTOP);
                }
            }
            for seen in below.processes {
                // The rest is for the guard's sweep, if it is in no group that is killed here.
                if patience < LAST_SWEEP && Instant::now() >= deadline {
                    break;
                }
                if frozen.insert(seen)
                    && let Ok(Some(process)) = Held::take(seen)
                {
                    process.signal(libc::SIGSTOP);
                    held.push(process);
                }
            }
            if held.len() == before || Instant::now() >= deadline {
                break;
            }
        }
        for process in &held {
            process.signal(libc::SIGKILL);
        }
        for group in frozen_groups {
            let _ = sys::kill_group(group, libc::SIGKILL);
        }
        crate::tree::wait_for_death(&held, deadline);
        while sys::reap_any().is_some() {}
        // A picture may miss somebody; that there are no children is certain. Those that are spared
        // are children, too, and leave only the picture.
        if held.is_empty() && !(spared.is_empty() && sys::has_children()) {
            break;
        }
    }
    while sys::reap_any().is_some() {}
}

/// Who is to be swept.
struct Below {
    processes: Vec<Seen>,
    /// Groups that have nobody in them who is spared.
    groups: HashSet<Pid>,
}

impl Below {
    fn new(picture: &Picture, own: Pid, spared: &Spared) -> Below {
        let all = picture.descendants([own]);
        let is_other = |p: &&Seen| spared.get(&p.pid).is_some_and(|&started| started != p.started);
        let reused: HashSet<Pid> = picture.seen().iter().filter(is_other).map(|p| p.pid).collect();
        let is_spared = |pid| spared.contains_key(&pid) && !reused.contains(&pid);
        let roots = all.iter().filter(|p| is_spared(p.pid) || is_spared(p.session));
        let mut kept: HashSet<Pid> = roots.map(|p| p.pid).collect();
        kept.extend(picture.descendants(kept.iter().copied()).iter().map(|p| p.pid));
        let (kept, processes): (Vec<Seen>, Vec<Seen>) = all.into_iter().partition(|p| kept.contains(&p.pid));
        // One that is just being started is still in ours.
        let mut groups: HashSet<Pid> = processes.iter().map(|p| p.group).filter(|&g| g > 1).collect();
        groups.remove(&sys::own_group());
        for process in kept {
            groups.remove(&process.group);
        }
        Below { processes, groups }
    }
}

/// Whether `signal` is ignored, as nohup makes SIGHUP.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    sys::is_ignored(signal)
}

/// Whether a short write to stderr would not wait for whoever reads it.
#[must_use]
pub fn stderr_has_room() -> bool {
    let mut interest = [Interest::write(libc::STDERR_FILENO)];
    // Where this cannot be known, what went wrong is rather said.
    sys::poll(&mut interest, Some(Duration::ZERO)).is_err() || interest[0].writable()
}

/// Lets this process have as many descriptors as its hard limit allows, because a process of the
/// server takes five; how many it could have before, which is what programs shall start with.
///
/// # Errors
///
/// Says what the system refused; then there are as many as before.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    sys::raise_descriptor_limit()
}

pub use crate::sys::Allocator;

/// Puts memory by for what cannot do without, where [`Allocator`] is this program's.
pub fn keep_reserve() {
    sys::keep_reserve();
}

/// A thread of this program's.
pub struct Thread<T>(sys::Thread<T>);

impl<T> Thread<T> {
    /// Waits until it has done its work.
    ///
    /// # Errors
    ///
    /// What it has panicked with.
    pub fn join(self) -> std::thread::Result<T> {
        self.0.join()
    }
}

/// Signals that the main thread waits for, blocked in it and in every thread it starts.
pub struct Signals(sys::Signals);

impl Signals {
    /// Begins to hear `signals`.
    ///
    /// # Errors
    ///
    /// Says what the system refused.
    pub fn hear(signals: &[i32]) -> io::Result<Signals> {
        sys::Signals::hear(signals)
            .map(Signals)
            .map_err(sys::named("rt_sigprocmask"))
    }

    /// Waits for the next one.
    ///
    /// # Errors
    ///
    /// Says what the system refused.
    pub fn next_signal(&mut self) -> io::Result<i32> {
        self.0.next().map_err(sys::named("rt_sigtimedwait"))
    }
}

/// What ends the calling thread's wait for a signal, by a `SIGCHLD`.
pub fn waker() -> impl Fn() + Send + 'static {
    sys::waker()
}

/// Starts a thread; unlike the standard library's, it does not panic where there is no memory.
///
/// # Errors
///
/// Names it, and says what the system refused.
pub fn start_thread<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    sys::start_thread(name, sys::STACK, body)
        .map(Thread)
        .map_err(|e| {
            io::Error::new(
                e.kind(),
                format!(
                    "the thread {name} could not be started: {}: {e}",
                    sys::START_THREAD
                ),
            )
        })
}

/// Gives the memory of code that has run back to the system; what runs again comes back by itself.
pub fn forget_code_pages() {
    sys::forget_code_pages();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pid: Pid, parent: Pid, session: Pid, started: u64) -> Seen {
        Seen {
            pid,
            parent,
            group: session,
            session,
            started,
            dead: false,
        }
    }

    #[test]
    fn a_pid_that_means_another_spares_nobody() {
        let spared = Spared::from([(20, 5), (30, 5), (40, 5)]);
        let picture = Picture::of(vec![
            seen(10, 1, 10, 1),
            // Detached, with a child that has left it, and one whose parent is gone.
            seen(20, 10, 20, 5),
            seen(21, 20, 21, 6),
            seen(22, 10, 20, 7),
            // Has got the pid of a detached one that is gone.
            seen(30, 10, 30, 8),
            seen(31, 30, 30, 9),
            // Left by a detached one that is gone.
            seen(41, 10, 40, 6),
        ]);
        let below = Below::new(&picture, 10, &spared);
        let swept: Vec<Pid> = below.processes.iter().map(|p| p.pid).collect();
        assert_eq!(swept, [30, 31]);
        assert_eq!(below.groups, HashSet::from([30]));
    }
}
