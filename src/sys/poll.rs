//! Waiting for descriptors.
//!
//! **Thread:** the caller's, which it blocks.
//! **Owns:** nothing.
//! **Never:** fails because a signal came.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
#[cfg(not(target_vendor = "apple"))]
use std::ptr;
use std::time::{Duration, Instant};

use super::error::check;
#[cfg(not(target_vendor = "apple"))]
use super::error::may_be_refused;

#[cfg(target_vendor = "apple")]
use super::hangup::{NO_READER, NO_WRITER, NO_WRITER as POLLRDHUP, poll_hangups};
#[cfg(not(target_vendor = "apple"))]
use libc::POLLRDHUP;

/// What is asked where only a hang-up is waited for: nothing, because that is told unasked.
#[cfg(not(target_vendor = "apple"))]
const NO_READER: libc::c_short = 0;
#[cfg(not(target_vendor = "apple"))]
const NO_WRITER: libc::c_short = 0;

/// One descriptor to wait for.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct PollFd(pub(super) libc::pollfd);

impl PollFd {
    /// Waits for nothing; keeps a place.
    pub(crate) const NONE: PollFd = PollFd(libc::pollfd {
        fd: -1,
        events: 0,
        revents: 0,
    });

    /// Waits until `fd` can be read, has ended, or has failed.
    pub(crate) fn read(fd: RawFd) -> Self {
        Self::new(fd, libc::POLLIN)
    }

    /// Waits until `fd` can be written or has failed.
    pub(crate) fn write(fd: RawFd) -> Self {
        Self::new(fd, libc::POLLOUT)
    }

    /// Waits until what reads the other end of `fd` is gone.
    pub(crate) fn hangup(fd: RawFd) -> Self {
        Self::new(fd, NO_READER)
    }

    /// Waits until what writes to the other end of `fd` is gone, even if not all of it has been read.
    pub(crate) fn no_writer(fd: RawFd) -> Self {
        Self::new(fd, NO_WRITER)
    }

    /// Waits until the other end of `fd` writes no more or is gone: of a socket, that can be half of it.
    #[cfg(feature = "cli")]
    pub(crate) fn other_end(fd: RawFd) -> Self {
        Self::new(fd, POLLRDHUP)
    }

    fn new(fd: RawFd, events: libc::c_short) -> Self {
        PollFd(libc::pollfd {
            fd,
            events,
            revents: 0,
        })
    }

    /// Reading would not wait: data, the end, or an error.
    pub(crate) fn readable(self) -> bool {
        self.0.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// Writing would not wait: room, or an error.
    pub(crate) fn writable(self) -> bool {
        self.0.revents & (libc::POLLOUT | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// The other end is gone.
    pub(crate) fn hung_up(self) -> bool {
        self.0.revents & (POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }
}

/// Waits until one of `descriptors` is ready, `timeout` has passed, or a signal came. Never fails with `EINTR`.
pub(crate) fn poll(descriptors: &mut [PollFd], timeout: Option<Duration>) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    let waited = poll_hangups(descriptors, timeout);
    #[cfg(not(target_vendor = "apple"))]
    let waited = wait(descriptors, timeout);
    match waited {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            for interest in descriptors {
                interest.0.revents = 0;
            }
            Ok(())
        }
        Err(e) => Err(e),
    }
}

pub(super) fn wait(descriptors: &mut [PollFd], timeout: Option<Duration>) -> io::Result<()> {
    let (first, count) = (descriptors.as_mut_ptr().cast(), descriptors.len() as libc::nfds_t);
    #[cfg(not(target_vendor = "apple"))]
    {
        let exact = timeout.map(|t| libc::timespec {
            // No wait takes decades, and the type has 32 bits on some systems.
            tv_sec: t.as_secs().min(i32::MAX.unsigned_abs().into()) as _,
            tv_nsec: t.subsec_nanos() as _,
        });
        let exact = exact.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: PollFd is a transparent pollfd, the length is the slice's, and `exact` is null or lives here.
        match check(unsafe { libc::ppoll(first, count, exact, ptr::null()) }) {
            Err(error) if may_be_refused(&error) => {}
            polled => return polled.map(drop),
        }
    }
    // Whole milliseconds, and never less than was asked for.
    let whole = timeout.map_or(-1, |t| {
        libc::c_int::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
    });
    // SAFETY: PollFd is a transparent pollfd, and the length is the slice's.
    check(unsafe { libc::poll(first, count, whole) }).map(drop)
}

/// Waits until `fd` can be read, but not past `deadline`; whether it can.
pub(crate) fn readable_by(fd: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut interest = [PollFd::read(fd.as_raw_fd())];
        poll(&mut interest, Some(left))?;
        if interest[0].readable() || left.is_zero() {
            return Ok(interest[0].readable());
        }
    }
}

/// Whether the other end of `fd`, which we read from, is gone.
pub(crate) fn is_hung_up(fd: &OwnedFd) -> bool {
    let mut interest = [PollFd::no_writer(fd.as_raw_fd())];
    poll(&mut interest, Some(Duration::ZERO)).is_ok() && interest[0].hung_up()
}
