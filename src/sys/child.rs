//! What a child does from its birth to its exec, however it was born.
//!
//! **Thread:** the child's only one, which may be in the memory of its parent.
//! **Owns:** the child's table of descriptors.
//! **Never:** allocates, locks or panics: it makes system calls and nothing else.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use super::close::close_all_above;
#[cfg(target_os = "linux")]
use super::close::close_range;
use super::descriptors::{at_most, descriptor_limit};
use super::limits::{self, ChildLimit};
use super::signals::{default_all_signals, unblock_all};
use super::spawn::{
    Birth, ENTER_DIRECTORY, EXECUTE, Execve, LEAVE_DESCRIPTORS, OPEN_TERMINAL, PLACE_DESCRIPTORS, SpawnError,
    Stdio,
};

/// Everything a child does until its `execve`, made up beforehand, because it may not allocate.
pub(super) struct Plan<'a> {
    pub(super) path: *const libc::c_char,
    pub(super) argv: *const *const libc::c_char,
    pub(super) environment: *const *const libc::c_char,
    /// Negative for ours.
    pub(super) directory: RawFd,
    /// Numbers above 2.
    pub(super) stdio: [RawFd; 3],
    /// If not null, opened in place of `stdio`.
    pub(super) terminal: *const libc::c_char,
    /// Its soft limit of descriptors, where it is not ours.
    pub(super) descriptor_limit: Option<u64>,
    /// Set in this order, after that.
    pub(super) limits: &'a [ChildLimit],
    pub(super) birth: &'a Birth,
    /// The child has a table of descriptors of its own from the beginning.
    pub(super) own_table: bool,
    /// Where a child with memory of its own writes what stopped it; negative for one that shares ours. Its
    /// exec closes it.
    pub(super) report: RawFd,
    /// What stopped the child; 0 if it runs.
    error: AtomicI32,
    /// Which [`Step`] that was.
    step: AtomicI32,
    /// Which of `limits` that was, if it was one.
    limit: AtomicI32,
}

/// What a child with memory of its own says where it was stopped: step, error, limit.
type Said = [i32; 3];
/// The bytes of that.
pub(super) const SAID_BYTES: usize = size_of::<Said>();

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

impl<'a> Plan<'a> {
    pub(super) fn new(
        execve: &Execve<'_>,
        directory: Option<&OwnedFd>,
        stdio: &Stdio<'_>,
        descriptor_limit: Option<u64>,
        limits: &'a [ChildLimit],
        birth: &'a Birth,
    ) -> Self {
        let (stdio, terminal) = match stdio {
            Stdio::Descriptors(fds) => (fds.map(|fd| fd.as_raw_fd()), ptr::null()),
            Stdio::Terminal(name) => ([2; 3], name.as_ptr()),
        };
        Plan {
            path: execve.path.as_ptr(),
            argv: execve.argv.as_ptr().cast(),
            environment: execve.environment.as_ptr().cast(),
            directory: directory.map_or(-1, AsRawFd::as_raw_fd),
            stdio,
            terminal,
            descriptor_limit,
            limits,
            birth,
            own_table: true,
            report: -1,
            error: AtomicI32::new(0),
            step: AtomicI32::new(0),
            limit: AtomicI32::new(-1),
        }
    }

    /// Descriptors above this are none of the child's business.
    fn highest(&self) -> RawFd {
        let [first, second, third] = self.stdio;
        first.max(second).max(third).max(self.report).max(2)
    }

    /// Carries it out, in the child. Returns only where it was stopped, and says so to the parent.
    ///
    /// # Safety
    ///
    /// Called in a child that has this thread alone, with the pointers valid.
    pub(super) unsafe fn carry_out(&self) {
        let mut report = self.report;
        // SAFETY: the caller's.
        let (step, error) = unsafe { become_program(self, &mut report) };
        if report < 0 {
            self.step.store(step as i32, Relaxed);
            self.error.store(error, Relaxed);
        } else {
            let said: Said = [step as i32, error, self.limit.load(Relaxed)];
            // SAFETY: valid for reads of that many bytes. A pipe takes them at once.
            unsafe { libc::write(report, said.as_ptr().cast(), size_of_val(&said)) };
        }
    }

    /// What stopped a child that shared our memory, and has ended or runs its program by now.
    #[cfg(target_os = "linux")]
    pub(super) fn stopped(&self) -> Option<SpawnError> {
        let error = self.error.swap(0, Relaxed);
        let limit = self.limit.swap(-1, Relaxed);
        (error != 0).then(|| self.error_of([self.step.load(Relaxed), error, limit]))
    }

    /// The same from what the child has written.
    pub(super) fn said(&self, bytes: &[u8; SAID_BYTES]) -> SpawnError {
        let mut said: Said = [0; 3];
        for (number, bytes) in said.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *number = i32::from_ne_bytes(*bytes);
        }
        self.error_of(said)
    }

    fn error_of(&self, [step, error, limit]: Said) -> SpawnError {
        let limit = usize::try_from(limit)
            .ok()
            .and_then(|index| self.limits.get(index));
        SpawnError {
            limit: limit.map(|limit| limit.name),
            ..SpawnError::new(Step::call(step), io::Error::from_raw_os_error(error))
        }
    }
}

/// The error of the last call of a child. Where memory is shared, it is the parent's, whose thread waits.
pub(super) fn child_errno() -> libc::c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Returns only with the step that stopped it, and the number of the error.
///
/// # Safety
///
/// That of [`Plan::carry_out`].
unsafe fn become_program(plan: &Plan<'_>, report: &mut RawFd) -> (Step, libc::c_int) {
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
        close_all_above(plan.highest());
    } else {
        // From here on the table is the child's own.
        #[cfg(target_os = "linux")]
        done!(
            Step::LeaveDescriptors,
            close_range(plan.highest().cast_unsigned() + 1, libc::CLOSE_RANGE_UNSHARE)
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
        // Elsewhere it has to be asked for.
        #[cfg(not(target_os = "linux"))]
        done!(Step::OpenTerminal, libc::ioctl(terminal, libc::TIOCSCTTY as _, 0));
        [terminal; 3]
    };
    for (fd, target) in [(first, 0), (second, 1), (third, 2)] {
        // The same number only if ours had none there.
        if fd != target && !place(fd, target) {
            return (Step::PlaceDescriptors, child_errno());
        }
    }
    let mut last = 2;
    if *report >= 0 {
        last = 3;
        if *report != last {
            if !place(*report, last) {
                return (Step::PlaceDescriptors, child_errno());
            }
            *report = last;
            done!(
                Step::PlaceDescriptors,
                libc::fcntl(last, libc::F_SETFD, libc::FD_CLOEXEC)
            );
        }
    }
    if plan.own_table {
        close_all_above(last);
    } else {
        #[cfg(target_os = "linux")]
        done!(Step::LeaveDescriptors, close_range(3, 0));
    }
    if let Some(soft) = plan.descriptor_limit {
        match descriptor_limit() {
            Ok(mut limit) => {
                limit.rlim_cur = at_most(soft, limit.rlim_max);
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
            plan.limit.store(i32::try_from(index).unwrap_or(-1), Relaxed);
            return stopped;
        }
    }
    // What the parent ignores would stay so, and what it handles must not run here.
    default_all_signals();
    unblock_all();
    // SAFETY: a path and two lists that end in null, which the caller answers for.
    unsafe { libc::execve(plan.path, plan.argv, plan.environment) };
    (Step::Execute, child_errno())
}

/// Puts `fd` at `target`; whether that could be done.
fn place(fd: RawFd, target: RawFd) -> bool {
    // SAFETY: no memory is involved; the table is the child's own.
    if unsafe { libc::dup2(fd, target) } >= 0 {
        return true;
    }
    // Where the older call is refused, or missing, the newer one does the same. Not every C library calls it
    // for its function of that name.
    #[cfg(target_os = "linux")]
    {
        let refused = child_errno();
        // SAFETY: as above.
        if unsafe { libc::syscall(libc::SYS_dup3, fd, target, 0) } >= 0 {
            return true;
        }
        // SAFETY: the thread's own.
        unsafe { *libc::__errno_location() = refused };
    }
    false
}
