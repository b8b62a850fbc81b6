//! What a spawn is made of, and the process that is being started.
//!
//! **Thread:** the process thread of the child; the dispatcher, for giving it up.
//! **Owns:** the descriptor by which a start that takes too long is given up.
//! **Never:** knows how a child is born: that is for `clone.rs` and `portable.rs`.

use std::ffi::CStr;
use std::io;
#[cfg(target_os = "linux")]
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use super::backend::{Backend, backend};
use super::child::Plan;
use super::descriptors::as_borrowed;
#[cfg(target_vendor = "apple")]
use super::error::unsupported;
use super::limits::ChildLimit;
use super::lock;
use super::signals::kill;
use super::{Pid, pidfd_signal};

/// A list of strings as `execve` wants it: pointers, then a null.
pub(crate) struct StringList<'a> {
    pointers: Vec<*const libc::c_char>,
    _strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> StringList<'a> {
    pub(crate) fn new<S: AsRef<CStr> + ?Sized + 'a>(strings: impl IntoIterator<Item = &'a S>) -> Self {
        let pointers = strings.into_iter().map(|s| s.as_ref().as_ptr());
        let pointers = pointers.chain([ptr::null()]);
        StringList {
            pointers: pointers.collect(),
            _strings: std::marker::PhantomData,
        }
    }

    pub(super) fn as_ptr(&self) -> *const *mut libc::c_char {
        self.pointers.as_ptr().cast()
    }
}

/// The arguments of an `execve`.
pub(crate) struct Execve<'a> {
    /// Used as it stands; there is no search.
    pub(crate) path: &'a CStr,
    pub(crate) argv: &'a StringList<'a>,
    pub(crate) environment: &'a StringList<'a>,
}

/// What a child gets as descriptors 0, 1 and 2.
pub(crate) enum Stdio<'a> {
    Descriptors([BorrowedFd<'a>; 3]),
    /// The terminal of this name, which becomes the controlling terminal of the child's session.
    Terminal(&'a CStr),
}

/// Low numbers among our descriptors, reserved for what the next child is given.
#[derive(Debug)]
pub(crate) struct ReservedFds([OwnedFd; 3]);

impl ReservedFds {
    /// Reserves the three lowest numbers that are free, with `filler` in them. Only where they can be filled
    /// without a moment in which another child would inherit what is in them.
    #[cfg(not(target_vendor = "apple"))]
    pub(crate) fn reserve(filler: &OwnedFd) -> io::Result<ReservedFds> {
        let number = || filler.try_clone();
        Ok(ReservedFds([number()?, number()?, number()?]))
    }

    #[cfg(target_vendor = "apple")]
    pub(crate) fn reserve(_: &OwnedFd) -> io::Result<ReservedFds> {
        Err(unsupported())
    }

    /// Puts each of `fds` where one of the numbers is.
    #[cfg(not(target_vendor = "apple"))]
    pub(crate) fn fill(&mut self, fds: [BorrowedFd<'_>; 3]) -> io::Result<()> {
        for (fd, slot) in fds.into_iter().zip(&mut self.0) {
            rustix::io::dup3(fd, slot, rustix::io::DupFlags::CLOEXEC)?;
        }
        Ok(())
    }

    #[cfg(target_vendor = "apple")]
    pub(crate) fn fill(&mut self, _: [BorrowedFd<'_>; 3]) -> io::Result<()> {
        Err(unsupported())
    }

    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        self.0.each_ref().map(as_borrowed)
    }
}

/// Which call stopped a spawn, and why.
#[derive(Debug)]
pub(crate) struct SpawnError {
    pub(crate) call: &'static str,
    pub(crate) error: io::Error,
    /// The name of the limit that was refused.
    pub(crate) limit: Option<&'static str>,
}

impl SpawnError {
    pub(super) fn new(call: &'static str, error: io::Error) -> Self {
        let limit = None;
        SpawnError { call, error, limit }
    }

    /// Whether the kernel would not execute the program for this reason.
    pub(crate) fn is_of_the_program(&self, errno: i32) -> bool {
        self.call == EXECUTE && self.error.raw_os_error() == Some(errno)
    }
}

/// The call by which the kernel executes a program: what it refuses is the program, as a rule.
pub(crate) const EXECUTE: &str = "execve";
/// The one that enters the working directory.
pub(crate) const ENTER_DIRECTORY: &str = "fchdir";
/// The one that opens the child's terminal.
pub(crate) const OPEN_TERMINAL: &str = "open of the terminal";
/// The ones that make a child's table of descriptors.
pub(crate) const LEAVE_DESCRIPTORS: &str = "close_range";
pub(crate) const PLACE_DESCRIPTORS: &str = "dup2";
/// Making a pipe, where that is part of a start.
pub(crate) const MAKE_PIPE: &str = "pipe2";
/// Starting one of our threads.
pub(crate) const START_THREAD: &str = "pthread_create";

/// A process that is being started, as its thread and the dispatcher share it. The thread is in the kernel
/// until the program runs, which takes as long as the disk that has the program takes to answer.
pub(crate) struct Birth {
    state: Mutex<BirthState>,
    /// The pidfd of a child that has not executed its program yet; negative where there is none. The
    /// kernel writes it, before the child runs.
    pub(super) pidfd: AtomicI32,
    /// The pid of a child that has not executed its program yet, where it is started without a pidfd; or 0.
    pid: AtomicI32,
    /// For a child that begins after it was given up, and would wait for something: either its pidfd is
    /// seen and it is killed, or it sees this.
    given_up: AtomicBool,
    /// Told as soon as there is a child that a copy of this process has become, and when it has been reaped
    /// because no program runs.
    on_birth: Option<OnLife>,
    on_reap: Option<OnLife>,
    told: AtomicI32,
}

/// What is called with the pid of a child.
pub(crate) type OnLife = Arc<dyn Fn(u32) + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BirthState {
    UnderWay,
    /// Its thread has its outcome, and answers.
    Settled,
    /// The dispatcher has given up, and answers.
    GivenUp,
}

impl Birth {
    pub(crate) fn new(on_birth: Option<OnLife>, on_reap: Option<OnLife>) -> Self {
        Birth {
            on_birth,
            on_reap,
            told: AtomicI32::new(0),
            state: Mutex::new(BirthState::UnderWay),
            pidfd: AtomicI32::new(-1),
            pid: AtomicI32::new(0),
            given_up: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, BirthState> {
        lock(&self.state)
    }

    /// Whether the thread that has started it is the one to answer.
    pub(crate) fn settle(&self) -> bool {
        self.end_as(BirthState::Settled)
    }

    /// Whether the caller is the one to answer; then what has not executed its program is killed.
    pub(crate) fn give_up(&self) -> bool {
        self.end_as(BirthState::GivenUp)
    }

    fn end_as(&self, end: BirthState) -> bool {
        let mut state = self.state();
        if *state != BirthState::UnderWay {
            return false;
        }
        *state = end;
        self.given_up.store(end == BirthState::GivenUp, SeqCst);
        let pid = self.pid.load(Relaxed);
        if end == BirthState::GivenUp && pid > 0 {
            // Its thread reaps it only behind `runs`, which waits for the lock.
            let _ = kill(pid, libc::SIGKILL);
        }
        let pidfd = self.pidfd.load(SeqCst);
        if end == BirthState::GivenUp && pidfd >= 0 {
            // SAFETY: it is open, because its thread cannot take it before we let go of the lock.
            let pidfd = unsafe { BorrowedFd::borrow_raw(pidfd) };
            let _ = pidfd_signal(pidfd, libc::SIGKILL);
        }
        true
    }

    /// A child is there, and has not executed its program yet.
    pub(super) fn is_born(&self, pid: Pid) {
        let state = self.state();
        self.pid.store(pid, Relaxed);
        if *state == BirthState::GivenUp {
            let _ = kill(pid, libc::SIGKILL);
        }
    }

    /// Says that there is the child `pid`, unless that has been said.
    pub(crate) fn tell_birth(&self, pid: Pid) {
        if let Some(on_birth) = &self.on_birth
            && self.told.swap(pid, Relaxed) != pid
        {
            on_birth(pid.unsigned_abs());
        }
    }

    /// Says that the child, of which there is nothing else to tell, is reaped.
    pub(crate) fn tell_reap(&self) {
        let pid = self.told.swap(0, Relaxed);
        if let (Some(on_reap), true) = (&self.on_reap, pid > 0) {
            on_reap(pid.unsigned_abs());
        }
    }

    /// The child has executed its program, or has ended: from here on its pid is its thread's alone.
    pub(super) fn runs(&self) {
        let _state = self.state();
        self.pid.store(0, Relaxed);
    }

    /// Asked in a child, which must not lock.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(SeqCst)
    }

    /// Takes the pidfd out: from here on it is its thread's alone.
    #[cfg(target_os = "linux")]
    pub(super) fn take_pidfd(&self) -> libc::c_int {
        let _state = self.state();
        self.pidfd.swap(-1, Relaxed)
    }
}

/// What a child runs on until its exec. Not the thread's own stack: to make room there would touch
/// pages that it never needs again, in every process thread there is.
#[cfg(target_os = "linux")]
pub(crate) struct ChildStack(Box<MaybeUninit<[u128; 1024]>>);

#[cfg(target_os = "linux")]
impl ChildStack {
    pub(crate) fn new() -> Self {
        ChildStack(Box::new_uninit())
    }

    /// Just above it. 16 KiB are below, of which less than 1 KiB is used, or 4 where the C library
    /// looks its functions up at their first call.
    pub(super) fn top(&mut self) -> *mut libc::c_void {
        // SAFETY: one past the end of the same allocation.
        unsafe { self.0.as_mut_ptr().add(1).cast() }
    }
}

/// No child runs on one of our stacks here.
#[cfg(not(target_os = "linux"))]
pub(crate) struct ChildStack;

#[cfg(not(target_os = "linux"))]
impl ChildStack {
    pub(crate) fn new() -> Self {
        ChildStack
    }
}

/// Starts a program in a session of its own, with default signals, an empty signal mask, and no
/// descriptor above 2. Returns once it runs, with its pid and what becomes readable at its end, or
/// with the error of whatever stopped it.
///
/// A relative path is relative to `directory`.
pub(crate) fn spawn(
    execve: &Execve<'_>,
    directory: Option<&OwnedFd>,
    stdio: &Stdio<'_>,
    descriptor_limit: Option<u64>,
    limits: &[ChildLimit],
    stack: &mut ChildStack,
    birth: &Birth,
) -> Result<(Pid, OwnedFd), SpawnError> {
    let plan = Plan::new(execve, directory, stdio, descriptor_limit, limits, birth);
    match backend() {
        #[cfg(target_os = "linux")]
        Backend::Linux => super::clone::spawn(plan, stack),
        Backend::Portable => {
            let _ = stack;
            super::portable::spawn(plan)
        }
    }
}
