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
//! the guard once the server is gone. If one of the two dies, the other sweeps:
//!
//! | what happens | who notices | what is done |
//! | --- | --- | --- |
//! | the connection ends | the server | it kills all that is below it, and exits; the guard exits with its code |
//! | the server is killed | the guard, by SIGCHLD | it kills all that is below it, and exits |
//! | the guard is killed | the server, by its parent-death signal | as at SIGTERM |
//! | the server is told to end and does not | the guard, by the clock | it kills the server, and goes on as above |
//! | the server is stopped, and the client goes away | the guard, by SIGCHLD or `/proc`, and the client's pipe | it kills the server, and goes on as above |
//! | the guard is stopped, and the connection ends | the server | it continues the guard when it has swept |
//!
//! Processes that were spawned with `detach` are spared with all that is below them. The server
//! tells the guard who they are through a pipe: pid and start time, because pids are used again.
//!
//! A process that has children already when it becomes procwire, as a shell that starts something and
//! then execs it, does not become the guard: it starts the guard as one more child and waits for it.
//! So what is below a guard has been started on its connection. docs/architecture.md has the table of
//! what a sweep may signal, and of the times.

mod sweep;
mod watch;

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use self::sweep::{Detached, UNKNOWN_CHILDREN, own_pid, sweep_until};
use self::watch::{Client, Watch};
use crate::process::tree;
use crate::sys::{self, Pid, PollFd, ProcStat, Snapshot, StringList};

/// The argument by which the guard tells the server who guards it: `--guarded-by=PID,FD`.
pub const GUARDED_BY: &str = "--guarded-by=";

/// What makes orphans stay below a process, as it is called in errors.
const SUBREAPER: &str = "prctl(PR_SET_CHILD_SUBREAPER)";

// The three seconds that an end may take: 1.6 for the dispatcher (see server/ending.rs), and these.

/// The server's sweep, if there is a guard, whose sweep follows.
const SERVER_SWEEP_TIMEOUT: Duration = Duration::from_millis(500);
/// The last sweep, behind an end that the server has brought about by itself.
const LAST_SWEEP_TIMEOUT: Duration = Duration::from_millis(700);
/// How long the server may take to end once it has been told to: what it takes at most by itself, and
/// some more. One that is stuck is killed then.
const SERVER_END_TIMEOUT: Duration = Duration::from_millis(2_300);
/// The same for a guard, where another process waits for that.
const GUARD_END_TIMEOUT: Duration = Duration::from_millis(3_500);

/// Who waits for this process: the server's guard, or the process that has started the guard.
static GUARD: OnceLock<u32> = OnceLock::new();

/// What has lost its parent becomes a child of this process.
static IS_SUBREAPER: AtomicBool = AtomicBool::new(false);

/// What this server has spawned with `detach`, and what was there before it.
static DETACHED: Mutex<Detached> = Mutex::new(BTreeMap::new());

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
/// With `drain`, the end of the input is not the end of the connection.
///
/// # Errors
///
/// Where the server cannot be started this way, it has to do without a guard.
pub fn run(drain: bool) -> io::Result<i32> {
    // With the terminal as input it must stay in the foreground; otherwise a signal to the client's
    // whole group shall not reach both of us.
    let own_group = !sys::is_terminal(io::stdin().as_fd());
    reap_adopted();
    if sys::has_children() {
        // They are not ours to end, and what they leave is not ours to adopt.
        let guard = start_guard(own_group)?;
        if let Some((guard, signals)) = guard {
            let ended = Watch::new(guard, own_group, GUARD_END_TIMEOUT, None).until_end(&signals, None);
            return Ok(ended.code());
        }
    }
    if !sys::ADOPTS_ORPHANS {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this system gives orphans to its first process",
        ));
    }
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
    let client = Client::new(drain).map_err(restore)?;
    // Last of what can fail: from here on there is a server, and this process is not another one.
    let signals = sys::signal_fd(&waited_for)
        .map_err(sys::named("signalfd4"))
        .map_err(restore)?;
    let server = start_server(writer, &mask, own_group).map_err(restore)?;
    let _ = sys::set_nonblocking(&reader);
    // The client must see the server's ends close, not ours.
    let _ = sys::let_go_of_stdio();
    // From here on the guard sleeps; it needs a tenth of the code that started it.
    forget_code_pages();

    let mut detached = Detached::new();
    let watch = Watch::new(server, own_group, SERVER_END_TIMEOUT, Some(client));
    let ended = watch.until_end(&signals, Some((&reader, &mut detached)));
    read_detached(&reader, &mut detached);
    // A server that ended by itself has swept already, and this finds what it had to leave.
    let left = sweep_until(ended.sweep_until(), &detached, true);
    // Only now: whatever a log line meets, a full disk for example, nothing is left.
    if ended.stuck {
        log::warn!("the server did not end, and was killed");
    } else if ended.status.signal.is_some() {
        log::warn!("the server was killed; what it had started has been ended");
    }
    tell(&left);
    continue_waiting_process();
    Ok(ended.code())
}

/// Makes a copy of this process that goes on as the guard: its pid and our signals, or `None` in the copy.
fn start_guard(own_group: bool) -> io::Result<Option<(Pid, OwnedFd)>> {
    let waited_for = signals_of_guard();
    let mask = sys::block_signals(&waited_for).map_err(sys::named("rt_sigprocmask"))?;
    let restore = |e| {
        sys::set_signal_mask(&mask);
        e
    };
    sys::default_signal(libc::SIGCHLD);
    let signals = sys::signal_fd(&waited_for)
        .map_err(sys::named("signalfd4"))
        .map_err(restore)?;
    let this = std::process::id();
    // Nothing has started a thread so far: serving begins behind the guard.
    if let Some(guard) = sys::fork().map_err(restore)? {
        let _ = sys::let_go_of_stdio();
        forget_code_pages();
        return Ok(Some((guard, signals)));
    }
    drop(signals);
    let _ = GUARD.set(this);
    if own_group {
        sys::leave_group()?;
    }
    sys::die_with_parent(libc::SIGTERM)?;
    sys::set_signal_mask(&mask);
    if std::os::unix::process::parent_id() != this {
        std::process::exit(128 + libc::SIGTERM);
    }
    Ok(None)
}

/// Makes this process and all it starts survive a write behind the limit of a file's size, which is an
/// error then and not a deadly signal. Spawned programs start with all signals at their defaults.
pub fn survive_file_size_limit() {
    sys::ignore_signal(libc::SIGXFSZ);
}

/// What the guard waits for.
fn signals_of_guard() -> Vec<libc::c_int> {
    [&[libc::SIGCHLD][..], &ending_signals()].concat()
}

/// The signals that end the server. SIGHUP and SIGINT stay ignored where they were: under nohup the
/// server should live on without a terminal, and a key on a terminal is not for a server that runs in
/// the background or behind another program.
#[must_use]
pub fn ending_signals() -> Vec<libc::c_int> {
    let keeps = |signal: libc::c_int| signal == libc::SIGTERM || !sys::is_ignored(signal);
    let mut signals = vec![libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
    signals.retain(|signal| keeps(*signal));
    signals
}

fn start_server(detached: OwnedFd, mask: &sys::SignalMask, own_group: bool) -> io::Result<Pid> {
    let c_string = |text: &OsString| CString::new(text.as_bytes()).map_err(io::Error::other);
    let (file, mut command) = own_command();
    // Inherited by number: the server takes it over.
    sys::set_inheritable(&detached)?;
    let guarded_by = format!("{GUARDED_BY}{},{}", std::process::id(), detached.as_raw_fd());
    command.push(guarded_by.into());
    command.extend(std::env::args_os().skip(1));
    let arguments: Vec<CString> = command.iter().map(c_string).collect::<Result<_, _>>()?;
    let environment: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| c_string(&[name, value].join(OsStr::new("="))))
        .collect::<Result<_, _>>()?;
    sys::spawn_server(
        &c_string(&file)?,
        &StringList::new(&arguments),
        &StringList::new(&environment),
        mask,
        own_group,
    )
    .map_err(sys::named("posix_spawn"))
}

/// How to start this program again: the file to execute, and what stands before its own arguments.
///
/// That is the name it was started by, or, where it was started by way of the dynamic loader, all that
/// the loader was given, because the file that is executed is the loader then.
#[must_use]
pub fn own_command() -> (OsString, Vec<OsString>) {
    let mut file = OsString::from_vec(sys::own_file().to_bytes().to_vec());
    if let Ok(named) = std::fs::read_link(&file)
        && let (Ok(executed), Ok(there)) = (std::fs::metadata(&file), std::fs::metadata(&named))
        && (executed.dev(), executed.ino()) != (there.dev(), there.ino())
    {
        // Under valgrind the file that is executed is valgrind's, and the link is made to name ours.
        file = named.into();
    }
    let own: Vec<OsString> = std::env::args_os().collect();
    let kernels = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let kernels: Vec<&[u8]> = kernels.split_inclusive(|&b| b == 0).collect();
    let command = match kernels.len().checked_sub(own.len()) {
        Some(loaders @ 1..) if !own.is_empty() => {
            // The loader's own arguments, and the program's file.
            let arguments = kernels[..=loaders]
                .iter()
                .map(|a| a.strip_suffix(b"\0").unwrap_or(a));
            arguments.map(|a| OsString::from_vec(a.to_vec())).collect()
        }
        _ => own.into_iter().take(1).collect(),
    };
    (file, command)
}

/// What a program may start here that is not found when it is to be killed, and why; `None` if all is.
#[must_use]
pub fn blindness() -> Option<String> {
    sys::blindness()
}

fn read_detached(reader: &OwnedFd, detached: &mut Detached) {
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

impl Guarded {
    /// Makes this process one that can sweep: a child subreaper that hears when its guard dies.
    ///
    /// `guarded_by` is the value of [`GUARDED_BY`]; without one there is no guard.
    ///
    /// # Errors
    ///
    /// Names what the system refused, or what was wrong with the value.
    pub fn begin(guarded_by: Option<&str>) -> io::Result<Guarded> {
        match sys::become_subreaper().map_err(sys::named(SUBREAPER)) {
            Ok(()) => IS_SUBREAPER.store(true, Relaxed),
            Err(e) if sys::ADOPTS_ORPHANS => {
                log::warn!("what has left its session and its parent outlives the connection: {e}");
            }
            // That there is no guard has been said.
            Err(_) => {}
        }
        sys::name_this_thread(c"procwire");
        sys::default_signal(libc::SIGCHLD);
        sys::unblock_all_signals();
        spare_children();
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
        // SAFETY: the guard has opened it for us and told us its number; no other code here knows it.
        let detached = unsafe { OwnedFd::from_raw_fd(fd) };
        sys::set_close_on_exec(&detached)?;
        // A guard that does not read must not stop us.
        sys::set_nonblocking(&detached)?;
        Ok(Guarded {
            detached: Some(detached),
        })
    }

    /// Whether another process ends everything if this one is killed.
    #[must_use]
    pub fn has_guard(&self) -> bool {
        self.detached.is_some()
    }

    /// What spares a detached process, here and in the guard, for
    /// the `on_detach` of a server.
    pub fn detached(self) -> impl Fn(u32) + Send + Sync + 'static {
        // It lives as long as the server, so that its closing means the server's end.
        let fd = self.detached.map(IntoRawFd::into_raw_fd);
        move |pid| {
            let pid = pid.cast_signed();
            // It has not been reaped yet.
            let started = tree::started(pid).unwrap_or(0);
            let mut detached = sys::lock(&DETACHED);
            detached.insert(pid, started);
            if let Some(fd) = fd {
                // SAFETY: given up above and never closed.
                let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
                let _ = sys::write(fd, &[&pid.to_ne_bytes()[..], &started.to_ne_bytes()].concat());
            }
        }
    }
}

/// Spares what this process has started before it became a server, or had when it was executed.
fn spare_children() {
    if sys::has_children() {
        let own = own_pid();
        let snapshot = Snapshot::take().unwrap_or_default();
        let listed = snapshot.unlisted(vec![own]).unwrap_or_default();
        let mut detached = sys::lock(&DETACHED);
        for child in snapshot
            .processes()
            .iter()
            .chain(&listed)
            .filter(|p| p.parent == own)
        {
            detached.insert(child.pid, child.started.unwrap_or(0));
        }
        if detached.is_empty() {
            UNKNOWN_CHILDREN.store(true, Relaxed);
        }
    }
}

/// Reaps the orphans that this process has adopted. Must be called by the main thread, whose children
/// they are.
pub fn reap_adopted() {
    while sys::reap_any().is_some() {}
}

/// Whether [`sweep`] ends all that is left. Not where this process adopts no orphans, or has children that
/// it did not start and cannot tell which: then it is only what `/proc` shows.
#[must_use]
pub fn ends_daemons() -> bool {
    IS_SUBREAPER.load(Relaxed) && !UNKNOWN_CHILDREN.load(Relaxed)
}

/// Kills everything below this process, but for what was detached and what is below or in the session
/// of that: freeze, look, kill, until nothing is left or nothing more can be done. Must be called by
/// the main thread.
pub fn sweep() {
    let guarded = GUARD.get() == Some(&std::os::unix::process::parent_id());
    let detached = sys::lock(&DETACHED).clone();
    let now = Instant::now();
    if guarded {
        // What is left is left to the guard, which also tells of it.
        sweep_until(now + SERVER_SWEEP_TIMEOUT, &detached, false);
    } else {
        tell(&sweep_until(
            now + SERVER_SWEEP_TIMEOUT + LAST_SWEEP_TIMEOUT,
            &detached,
            true,
        ));
    }
    continue_waiting_process();
}

/// Continues who waits for the end of this process, in case it was stopped: by one of the programs, for
/// example. Otherwise the client would wait for its end for ever.
fn continue_waiting_process() {
    let parent = std::os::unix::process::parent_id();
    if let (true, Ok(parent)) = (GUARD.get() == Some(&parent), Pid::try_from(parent)) {
        let _ = sys::kill(parent, libc::SIGCONT);
    }
}

/// Names what a sweep could not end.
fn tell(left: &[ProcStat]) {
    if !left.is_empty() {
        let names: Vec<String> = left.iter().map(sys::describe).collect();
        log::warn!(
            "these processes could not be ended and are left: {}",
            names.join(", ")
        );
    }
}

/// Whether `signal` is ignored, as nohup makes SIGHUP.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    sys::is_ignored(signal)
}

/// Keeps a terminal from stopping this thread, and so this process, where it is used from the
/// background: reading fails then, and changing it succeeds.
pub fn block_terminal_signals() {
    let _ = sys::block_signals(&[libc::SIGTTIN, libc::SIGTTOU]);
}

/// Whether a short write to stderr would not wait for its reader.
#[must_use]
pub fn stderr_has_room() -> bool {
    let mut interest = [PollFd::write(libc::STDERR_FILENO)];
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
    sys::start_thread(name, sys::THREAD_STACK_BYTES, body)
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
