//! Starting a program by `clone`, sharing memory and descriptors until its exec.
//!
//! **Thread:** the process thread of the child, which is in the kernel until the program runs.
//! **Owns:** what the system has been found to refuse to a child.
//! **Never:** allocates, locks or panics between `clone` and `execve`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::Relaxed};

use super::Pid;
use super::close::{close_all_above, close_range};
use super::descriptors::{above_stdio, descriptor_limit};
use super::error::{check, may_be_refused};
use super::exit::{end_of_child, reap};
use super::limits::{self, ChildLimit};
use super::signals::kill_group;
use super::spawn::{
    Birth, ENTER_DIRECTORY, EXECUTE, Execve, LEAVE_DESCRIPTORS, OPEN_TERMINAL, PLACE_DESCRIPTORS, SpawnError,
    Stdio,
};

/// Everything a child does until its `execve`, made up beforehand, because it may not allocate.
struct Plan<'a> {
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    environment: *const *const libc::c_char,
    /// Negative for ours.
    directory: RawFd,
    /// Numbers above 2.
    stdio: [RawFd; 3],
    /// If not null, opened in place of `stdio`.
    terminal: *const libc::c_char,
    /// Descriptors above this are none of its business.
    highest: RawFd,
    /// Its soft limit of descriptors, where it is not ours.
    descriptor_limit: Option<u64>,
    /// Set in this order, behind that.
    limits: &'a [ChildLimit],
    birth: &'a Birth,
    /// The child has a table of descriptors of its own from the beginning.
    own_table: bool,
    /// What stopped the child; 0 if it runs.
    error: AtomicI32,
    /// Which [`Step`] that was.
    step: AtomicI32,
    /// Which of `limits` that was, if it was one.
    limit: AtomicUsize,
}

/// What a child does before its program runs.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Execute,
    LeadSession,
    EnterDirectory,
    LeaveDescriptors,
    OpenTerminal,
    PlaceDescriptors,
    LimitDescriptors,
    SetLimit,
    SetPriority,
    OpenOomScore,
    WriteOomScore,
}

impl Step {
    const ALL: [(Step, &'static str); 11] = [
        (Step::Execute, EXECUTE),
        (Step::LeadSession, "setsid"),
        (Step::EnterDirectory, ENTER_DIRECTORY),
        (Step::LeaveDescriptors, LEAVE_DESCRIPTORS),
        (Step::OpenTerminal, OPEN_TERMINAL),
        (Step::PlaceDescriptors, PLACE_DESCRIPTORS),
        (Step::LimitDescriptors, "prlimit64"),
        (Step::SetLimit, "prlimit64"),
        (Step::SetPriority, "setpriority"),
        (Step::OpenOomScore, "open of /proc/self/oom_score_adj"),
        (Step::WriteOomScore, "write to /proc/self/oom_score_adj"),
    ];

    fn call(number: i32) -> &'static str {
        let step = Step::ALL.iter().find(|(step, _)| *step as i32 == number);
        step.map_or(EXECUTE, |(_, call)| call)
    }
}

/// Set once the system has refused `close_range`: then each child begins with a copy of our table.
static NO_CLOSE_RANGE: AtomicBool = AtomicBool::new(false);
/// Set once the system has refused `clone` with `CLONE_PIDFD`, and not without.
static NO_CLONE_PIDFD: AtomicBool = AtomicBool::new(false);

/// What a child runs on until its exec. Not the thread's own stack: to make room there would touch
/// pages that it never needs again, in every process thread there is.
pub(crate) struct ChildStack(Box<MaybeUninit<[u128; 1024]>>);

impl ChildStack {
    pub(crate) fn new() -> Self {
        ChildStack(Box::new_uninit())
    }

    /// Just above it. 16 KiB are below, of which less than 1 KiB is used, or 4 where the C library
    /// looks its functions up at their first call.
    fn top(&mut self) -> *mut libc::c_void {
        // SAFETY: one past the end of the same allocation.
        unsafe { self.0.as_mut_ptr().add(1).cast() }
    }
}

/// The child begins with our table of descriptors, and takes a copy when it has to. Callgrind, under
/// which `tests/cost` counts a spawn, follows a `clone` only without this, and then it has a copy.
const SHARED_TABLE: libc::c_int = if cfg!(fuzzing) { 0 } else { libc::CLONE_FILES };

/// Starts a program in a session of its own, with default signals, an empty signal mask, and no
/// descriptor above 2. Returns once it runs, with its pid and what becomes readable at its end, or
/// with the error of whatever stopped it.
///
/// A relative path is relative to `directory`.
///
/// Like `posix_spawn` of the C library, with `CLONE_VM | CLONE_VFORK`: no page table is copied, and
/// only the calling thread waits. Unlike it, the child shares our table of descriptors until it has a
/// copy of what is numbered no higher than what it needs, instead of copying all only to close them;
/// and its pidfd comes with it, so that there is no child whose end could not be seen.
pub(crate) fn spawn(
    execve: &Execve<'_>,
    directory: Option<&OwnedFd>,
    stdio: &Stdio<'_>,
    descriptor_limit: Option<u64>,
    limits: &[ChildLimit],
    stack: &mut ChildStack,
    birth: &Birth,
) -> Result<(Pid, OwnedFd), SpawnError> {
    let (stdio, terminal) = match stdio {
        Stdio::Descriptors(fds) => (fds.map(|fd| fd.as_raw_fd()), ptr::null()),
        Stdio::Terminal(name) => ([2; 3], name.as_ptr()),
    };
    let mut plan = Plan {
        path: execve.path.as_ptr(),
        argv: execve.argv.as_ptr().cast(),
        environment: execve.environment.as_ptr().cast(),
        directory: directory.map_or(-1, AsRawFd::as_raw_fd),
        stdio,
        terminal,
        highest: stdio.into_iter().max().unwrap_or(2),
        descriptor_limit,
        limits,
        birth,
        own_table: NO_CLOSE_RANGE.load(Relaxed),
        error: AtomicI32::new(0),
        step: AtomicI32::new(0),
        limit: AtomicUsize::new(usize::MAX),
    };
    let refused = |call, error| Err(SpawnError::new(call, error));
    loop {
        let table = if plan.own_table { 0 } else { SHARED_TABLE };
        let argument = ptr::from_ref(&plan).cast_mut().cast();
        // SAFETY: `run_child` takes a plan, which outlives this call with all that it points to.
        let (pid, pidfd) = match unsafe { start_child(run_child, argument, table, stack, birth) } {
            Ok(started) => started,
            Err(error) => return refused("clone", error),
        };
        let stopped = match plan.error.swap(0, Relaxed) {
            0 => None,
            error => Some(io::Error::from_raw_os_error(error)),
        };
        match stopped {
            None => {
                let seen = match pidfd {
                    Some(pidfd) => above_stdio(pidfd).map_err(|error| ("fcntl", error)),
                    // A kernel that does not know the flag ignores it.
                    None => end_of_child(pid).map_err(|error| ("pidfd_open", error)),
                };
                return seen.map(|end| (pid, end)).or_else(|(call, error)| {
                    // A child whose end we could not see is worse than none.
                    let _ = kill_group(pid, libc::SIGKILL);
                    let _ = reap(pid);
                    refused(call, error)
                });
            }
            Some(error) => {
                let _ = reap(pid);
                let call = Step::call(plan.step.load(Relaxed));
                if let Some(limit) = limits.get(plan.limit.load(Relaxed)) {
                    let limit = Some(limit.name);
                    return Err(SpawnError { call, error, limit });
                }
                if call != LEAVE_DESCRIPTORS || plan.own_table || !may_be_refused(&error) {
                    return refused(call, error);
                }
                plan.own_table = true;
                NO_CLOSE_RANGE.store(true, Relaxed);
            }
        }
    }
}

/// Has a child call `run` with `argument`. Returns when it has executed a program or ended. `table` is
/// `CLONE_FILES` where it begins with our table of descriptors, or 0 for a copy.
///
/// # Safety
///
/// `argument` is what `run` takes, and with all it points to outlives this call. `run` does what a child
/// that shares our memory may do.
pub(super) unsafe fn start_child(
    run: extern "C" fn(*mut libc::c_void) -> libc::c_int,
    argument: *mut libc::c_void,
    table: libc::c_int,
    stack: &mut ChildStack,
    birth: &Birth,
) -> io::Result<(Pid, Option<OwnedFd>)> {
    // The child begins with our mask. As long as it shares our memory no handler of ours may run in it.
    let mask = raw_signal_mask(u64::MAX);
    let mut start = |pidfd_flag| {
        // SAFETY: the stack is used from its end down by the child alone, and it, the argument and what
        // that points to outlive the child's use, because CLONE_VFORK keeps this thread here until the
        // child has executed a program or ended. The pidfd goes where the fifth argument points.
        check(unsafe {
            libc::clone(
                run,
                stack.top(),
                libc::CLONE_VM | libc::CLONE_VFORK | pidfd_flag | table | libc::SIGCHLD,
                argument,
                birth.pidfd.as_ptr(),
            )
        })
    };
    let with_pidfd = match NO_CLONE_PIDFD.load(Relaxed) {
        false => start(libc::CLONE_PIDFD),
        true => start(0),
    };
    let started = match with_pidfd {
        // Some sandboxes look at the flags.
        Err(error) if may_be_refused(&error) => {
            let without = start(0);
            if without.is_ok() {
                NO_CLONE_PIDFD.store(true, Relaxed);
            }
            without.map_err(|_| error)
        }
        started => started,
    };
    raw_signal_mask(mask);
    let pidfd = birth.take_pidfd();
    let pid = started?;
    // SAFETY: clone succeeded, so what it has put there is open and belongs to nobody else.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok((pid, pidfd))
}

/// Blocks exactly the signals of `mask` for this thread; which were blocked before. Past the C
/// library, which leaves out two signals of its own.
pub(super) fn raw_signal_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: both are the eight bytes the kernel takes a set to be.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut before,
            size_of::<u64>(),
        );
    }
    before
}

/// The child, in the memory of its parent, whose thread waits meanwhile.
/// It may only make system calls: no allocation, no lock, no panic.
extern "C" fn run_child(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes its plan, which outlives this function.
    let plan = unsafe { &*plan.cast::<Plan<'_>>() };
    // SAFETY: what it needs of the plan is as `spawn` has made it.
    let (step, error) = unsafe { become_program(plan) };
    plan.step.store(step as i32, Relaxed);
    plan.error.store(error, Relaxed);
    // SAFETY: ends the child alone, and runs nothing of ours.
    unsafe { libc::_exit(127) }
}

/// The error of the last call of a child that shares our memory.
pub(super) fn child_errno() -> libc::c_int {
    // SAFETY: the parent's errno; its thread waits.
    unsafe { *libc::__errno_location() }
}

/// Returns only with the step that stopped it, and the number of the error.
///
/// # Safety
///
/// Called in the child of a `clone` that shares memory, with the pointers of the plan valid.
unsafe fn become_program(plan: &Plan<'_>) -> (Step, libc::c_int) {
    if plan.birth.is_given_up() {
        return (Step::Execute, libc::ECANCELED);
    }
    macro_rules! done {
        ($step:expr, $call:expr) => {
            // SAFETY: system calls, with pointers that the caller answers for.
            if unsafe { $call } < 0 {
                return ($step, child_errno());
            }
        };
    }
    done!(Step::LeadSession, libc::setsid());
    if plan.directory >= 0 {
        done!(Step::EnterDirectory, libc::fchdir(plan.directory));
    }
    if plan.own_table {
        close_all_above(plan.highest);
    } else {
        // From here on the table is the child's own.
        let first = plan.highest.cast_unsigned() + 1;
        done!(
            Step::LeaveDescriptors,
            close_range(first, libc::CLOSE_RANGE_UNSHARE)
        );
    }
    let [first, second, third] = if plan.terminal.is_null() {
        plan.stdio
    } else {
        // The first terminal a session leader opens without O_NOCTTY is its controlling terminal.
        // SAFETY: a path that the caller answers for.
        let terminal = unsafe { libc::open(plan.terminal, libc::O_RDWR) };
        if terminal < 0 {
            return (Step::OpenTerminal, child_errno());
        }
        [terminal; 3]
    };
    for (fd, target) in [(first, 0), (second, 1), (third, 2)] {
        // The same number only if ours had none there.
        // SAFETY: no memory is involved; the table is the child's own.
        if fd != target && unsafe { libc::dup2(fd, target) } < 0 {
            let refused = child_errno();
            // Where the older call is refused, or missing, the newer one does the same.
            // SAFETY: as above.
            if unsafe { libc::dup3(fd, target, 0) } < 0 {
                return (Step::PlaceDescriptors, refused);
            }
        }
    }
    if plan.own_table {
        close_all_above(2);
    } else {
        done!(Step::LeaveDescriptors, close_range(3, 0));
    }
    if let Some(soft) = plan.descriptor_limit {
        match descriptor_limit() {
            Ok(mut limit) => {
                limit.rlim_cur = soft.min(limit.rlim_max);
                done!(
                    Step::LimitDescriptors,
                    libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
                );
            }
            Err(error) => {
                return (
                    Step::LimitDescriptors,
                    error.raw_os_error().unwrap_or(libc::EINVAL),
                );
            }
        }
    }
    for (index, limit) in plan.limits.iter().enumerate() {
        if let Err(stopped) = limits::apply(&limit.setting) {
            plan.limit.store(index, Relaxed);
            return stopped;
        }
    }
    // What the parent ignores would stay so, and what it handles must not run here.
    let default = [0u8; 64];
    for signal in 1..=64 {
        // SAFETY: an all-zero action is the default one, whose size is no more than this. It is
        // refused for the two signals that cannot have another.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                ptr::null::<u8>(),
                size_of::<u64>(),
            )
        };
    }
    raw_signal_mask(0);
    // SAFETY: a path and two lists that end in null, which the caller answers for.
    unsafe { libc::execve(plan.path, plan.argv, plan.environment) };
    (Step::Execute, child_errno())
}
