//! Signals: sending them, blocking them, waiting for them.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** installs a handler.

use std::io;
use std::mem::MaybeUninit;
#[cfg(all(feature = "cli", target_os = "linux"))]
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::Pid;
use super::error::check;
#[cfg(feature = "cli")]
pub(crate) use waiting::*;

/// Blocks every signal for the calling thread, so that none of its calls is interrupted and a write
/// to a closed pipe is an error and no death, whatever the embedding program does with SIGPIPE.
pub(crate) fn block_signals_for_this_thread() {
    // SAFETY: the set is filled before it is used, and only this thread's mask changes.
    unsafe {
        let mut all = MaybeUninit::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut());
    }
}

/// Whether this program has told the kernel to throw away how its children ended.
pub(crate) fn children_are_reaped_by_the_kernel() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the present action only; `action` has room for it.
    unsafe {
        if libc::sigaction(libc::SIGCHLD, ptr::null(), action.as_mut_ptr()) != 0 {
            return false;
        }
        let action = action.assume_init();
        action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
    }
}

/// Signals one process.
pub(crate) fn kill(pid: Pid, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Signals every member of the group `pgid`; with signal 0, asks whether there is one.
pub(crate) fn kill_group(pgid: Pid, signal: libc::c_int) -> io::Result<()> {
    debug_assert!(pgid > 1, "-1 and 0 mean something else");
    kill(-pgid, signal)
}

/// The process group and the session of a process, of whatever user; `None` if there is none.
#[cfg(any(target_os = "linux", target_os = "macos", feature = "cli"))]
pub(crate) fn group_and_session(pid: Pid) -> Option<(Pid, Pid)> {
    // SAFETY: no memory is involved.
    let (group, session) = unsafe { (libc::getpgid(pid), libc::getsid(pid)) };
    (group >= 0 && session >= 0).then_some((group, session))
}

/// The highest number of a signal.
#[cfg(target_os = "linux")]
pub(crate) const LAST_SIGNAL: i32 = 64;
#[cfg(target_os = "freebsd")]
pub(crate) const LAST_SIGNAL: i32 = 128;
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
pub(crate) const LAST_SIGNAL: i32 = 31;

/// The first real-time signal as kill(1) counts them, where there are some. Each C library of Linux keeps
/// some for itself, and a static program runs beside those of another.
pub(crate) const FIRST_REALTIME_SIGNAL: Option<i32> = match LAST_SIGNAL {
    64 => Some(34),
    128 => Some(65),
    _ => None,
};

/// Gives every signal its default meaning; for a child, that may be in the memory of its parent.
#[cfg(target_os = "linux")]
pub(super) fn default_all_signals() {
    let default = [0u8; 64];
    for signal in 1..=LAST_SIGNAL {
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
}

#[cfg(not(target_os = "linux"))]
pub(super) fn default_all_signals() {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: installs no code. It is refused for the two signals that cannot have another.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Blocks no signal; for a child, that may be in the memory of its parent.
pub(super) fn unblock_all() {
    #[cfg(target_os = "linux")]
    raw_signal_mask(0);
    #[cfg(not(target_os = "linux"))]
    // SAFETY: the set is emptied before it is used.
    unsafe {
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// Blocks exactly the signals of `mask` for this thread; which were blocked before. Past the C
/// library, which leaves out two signals of its own.
#[cfg(target_os = "linux")]
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

// ---- for the binary only ----

#[cfg(feature = "cli")]
mod waiting {
    use super::super::error::spawn_check;
    #[cfg(target_os = "linux")]
    use super::super::{
        descriptors::{above_stdio, as_borrowed, read},
        error::may_be_refused,
        poll::{PollFd, poll},
    };
    use super::*;

    /// A thread's set of blocked signals.
    pub(crate) struct SignalMask(pub(in crate::sys) libc::sigset_t);

    fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the set is emptied before anything is added to it.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), *signal);
            }
            set.assume_init()
        }
    }

    /// Blocks `signals` for this thread; what was blocked before.
    pub(crate) fn block_signals(signals: &[libc::c_int]) -> io::Result<SignalMask> {
        let set = set_of(signals);
        let mut before = MaybeUninit::uninit();
        // SAFETY: an initialised set, and room for the one before.
        spawn_check(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, before.as_mut_ptr()) })?;
        // SAFETY: pthread_sigmask succeeded and filled it.
        Ok(SignalMask(unsafe { before.assume_init() }))
    }

    /// Blocks exactly what `mask` says, for this thread.
    pub(crate) fn set_signal_mask(mask: &SignalMask) {
        // SAFETY: an initialised set.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &mask.0, ptr::null_mut()) };
    }

    /// Blocks nothing, for this thread.
    pub(crate) fn unblock_all_signals() {
        set_signal_mask(&SignalMask(set_of(&[])));
    }

    /// Gives `signal` its default meaning.
    pub(crate) fn default_signal(signal: libc::c_int) {
        // SAFETY: installs no code.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }

    /// Whether `signal` is ignored, as nohup makes SIGHUP.
    pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: asks for the present action only; `action` has room for it.
        unsafe {
            libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }

    /// A descriptor that gives the blocked `signals` as they come.
    #[cfg(target_os = "linux")]
    pub(crate) fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
        signal_fd_of(&set_of(signals))
    }

    #[cfg(target_os = "linux")]
    fn signal_fd_of(set: &libc::sigset_t) -> io::Result<OwnedFd> {
        // SAFETY: an initialised set; the result is checked before it is taken.
        let fd = check(unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: signalfd returned a new descriptor that nothing else owns.
        above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The next signal of a [`signal_fd`], if there is one, and whether the kernel itself sent it, a
    /// terminal for example.
    #[cfg(target_os = "linux")]
    pub(crate) fn next_signal(fd: &OwnedFd) -> Option<(libc::c_int, bool)> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let n = read(as_borrowed(fd), &mut info).ok()?;
        let member = |offset: usize| {
            let bytes = info.get(offset..offset + 4).filter(|_| n == info.len())?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?).cast_signed())
        };
        let number = member(std::mem::offset_of!(libc::signalfd_siginfo, ssi_signo))?;
        let code = member(std::mem::offset_of!(libc::signalfd_siginfo, ssi_code))?;
        Some((number, code == libc::SI_KERNEL))
    }

    /// Signals that one thread waits for. They are blocked in it, and in every thread it starts.
    pub(crate) struct Signals {
        set: libc::sigset_t,
        /// Where the system refuses to wait for them without a descriptor.
        #[cfg(target_os = "linux")]
        fd: Option<OwnedFd>,
    }

    #[cfg(target_os = "linux")]
    impl Signals {
        pub(crate) fn hear(signals: &[libc::c_int]) -> io::Result<Signals> {
            block_signals(signals)?;
            Ok(Signals {
                set: set_of(signals),
                fd: None,
            })
        }

        /// Waits for the next one.
        pub(crate) fn next(&mut self) -> io::Result<libc::c_int> {
            loop {
                if let Some(fd) = &self.fd {
                    poll(&mut [PollFd::read(fd.as_raw_fd())], None)?;
                    match next_signal(fd) {
                        Some((signal, _)) => return Ok(signal),
                        None => continue,
                    }
                }
                // SAFETY: an initialised set; nothing is to be told about the signal.
                match check(unsafe { libc::sigwaitinfo(&self.set, ptr::null_mut()) }) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if may_be_refused(&error) => self.fd = Some(signal_fd_of(&self.set)?),
                    signal => return signal,
                }
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    impl Signals {
        pub(crate) fn hear(signals: &[libc::c_int]) -> io::Result<Signals> {
            extern "C" fn nothing(_: libc::c_int) {}
            block_signals(signals)?;
            if signals.contains(&libc::SIGCHLD) {
                let nothing: extern "C" fn(libc::c_int) = nothing;
                // A signal whose meaning is to be ignored may be thrown away though it is waited for.
                // SAFETY: the handler does nothing, and does not run while the signal is blocked.
                unsafe { libc::signal(libc::SIGCHLD, nothing as libc::sighandler_t) };
            }
            Ok(Signals { set: set_of(signals) })
        }

        /// Waits for the next one.
        pub(crate) fn next(&mut self) -> io::Result<libc::c_int> {
            let mut signal = 0;
            // SAFETY: an initialised set, and room for the signal.
            spawn_check(unsafe { libc::sigwait(&self.set, &mut signal) })?;
            Ok(signal)
        }
    }

    /// What ends a wait of the calling thread for [`Signals`] that `SIGCHLD` is one of.
    pub(crate) fn waker() -> impl Fn() + Send + 'static {
        struct Waiting(libc::pthread_t);
        // SAFETY: the name of a thread, which any thread may use.
        unsafe impl Send for Waiting {}
        impl Waiting {
            fn wake(&self) {
                // SAFETY: the main thread, which lives as long as the process.
                if unsafe { libc::pthread_kill(self.0, libc::SIGCHLD) } != 0 {
                    let _ = std::process::id().try_into().map(|pid| kill(pid, libc::SIGCHLD));
                }
            }
        }
        // SAFETY: cannot fail.
        let waiting = Waiting(unsafe { libc::pthread_self() });
        move || waiting.wake()
    }

    /// Throws `signal` away when it comes.
    pub(crate) fn ignore_signal(signal: libc::c_int) {
        // SAFETY: installs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
