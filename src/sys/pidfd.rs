//! Pidfds: a process by a descriptor, which no later process can inherit. Linux only.
//!
//! **Thread:** the caller's; and `exit`, which waits for a child where pidfds are refused.
//! **Owns:** nothing; descriptors come and go as [`OwnedFd`].
//! **Never:** signals by pid in place of a pidfd that is refused; that is for the caller.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::{Arc, mpsc};

use rustix::io::Errno;
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, waitid};

use super::Pid;
use super::backend::{Backend, backend};
use super::descriptors::{above_stdio, pipe, write};
use super::error::{check_size, may_be_refused, unsupported};
use super::exit::pid_of;
use super::signals::block_signals_for_this_thread;
use super::spawn::{MAKE_PIPE, START_THREAD, SpawnError};
use super::threads::{SMALL_STACK, start_thread};

/// A descriptor that becomes readable when the process has ended, and that no later process can inherit.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    if backend() == Backend::Portable {
        return Err(unsupported());
    }
    // The kernel sets close-on-exec on it.
    let pidfd = rustix::process::pidfd_open(pid_of(pid)?, PidfdFlags::empty())?;
    above_stdio(pidfd)
}

/// Signals exactly the process behind `pidfd`.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed and means what kill(2) sends.
    check_size(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        ) as libc::ssize_t
    })
    .map(drop)
}

/// What becomes readable once the child `pid` has ended, and stays so. It must not be reaped before.
///
/// A pidfd; where the system has none, or does not allow them, what [`ExitWatch`] has.
pub(super) fn end_of_child(pid: Pid) -> io::Result<OwnedFd> {
    match pidfd_open(pid) {
        Err(error) if may_be_refused(&error) => {
            let watch = ExitWatch::prepare().map_err(|SpawnError { error, .. }| error)?;
            watch.watch(pid)
        }
        opened => opened,
    }
}

/// Hears of the exit of a child without a pidfd: a thread waits for it, and lets go of a pipe then. All that
/// can be refused is done before there is a child.
pub(super) struct ExitWatch {
    reader: OwnedFd,
    writer: Arc<OwnedFd>,
    child: mpsc::Sender<Pid>,
}

impl ExitWatch {
    pub(super) fn prepare() -> Result<ExitWatch, SpawnError> {
        let refused = |call| move |error| SpawnError::new(call, error);
        let (reader, writer) = pipe().map_err(refused(MAKE_PIPE))?;
        let writer = Arc::new(writer);
        let its_writer = Arc::clone(&writer);
        let (child, told) = mpsc::channel();
        start_thread("exit", SMALL_STACK, move || {
            block_signals_for_this_thread();
            // None may be started.
            if let Ok(pid) = told.recv() {
                wait_without_reaping(pid, WaitIdOptions::empty());
            }
            drop(its_writer);
        })
        .map_err(refused(START_THREAD))?;
        Ok(ExitWatch {
            reader,
            writer,
            child,
        })
    }

    /// What becomes readable once the child `pid` has ended.
    pub(super) fn watch(self, pid: Pid) -> io::Result<OwnedFd> {
        if wait_without_reaping(pid, WaitIdOptions::NOHANG) {
            // The thread may need a moment to say so.
            write(self.writer.as_fd(), &[0])?;
        }
        // It waits for this.
        let _ = self.child.send(pid);
        Ok(self.reader)
    }
}

/// Whether the child has ended.
fn wait_without_reaping(pid: Pid, options: WaitIdOptions) -> bool {
    // What fails for another reason than a signal would fail again: what waits then finds out by reaping.
    let Ok(pid) = pid_of(pid) else { return true };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | options;
    loop {
        match waitid(WaitId::Pid(pid), options) {
            Ok(ended) => return ended.is_some(),
            Err(Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}
