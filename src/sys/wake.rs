//! What one thread sets to end the `poll` of another.
//!
//! **Thread:** any may set it; the one that waits clears it.
//! **Owns:** an event counter, or a pipe where those are refused.
//! **Never:** blocks.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

#[cfg(target_os = "linux")]
use rustix::event::{EventfdFlags, eventfd};

use super::descriptors::{as_borrowed, pipe, read, set_nonblocking, write};
#[cfg(target_os = "linux")]
use {
    super::backend::{Backend, backend},
    super::descriptors::above_stdio,
    super::error::may_be_refused,
};

/// An event counter: something another thread sets to end a `poll`. Where the system refuses those,
/// a pipe.
#[derive(Debug)]
pub(crate) struct EventFd {
    fd: OwnedFd,
    /// The other end, if it is a pipe.
    writer: Option<OwnedFd>,
}

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if backend() == Backend::Linux {
            match counter() {
                Err(error) if may_be_refused(&error) => {}
                counter => return counter.map(|fd| EventFd { fd, writer: None }),
            }
        }
        let (fd, writer) = pipe()?;
        set_nonblocking(&fd)?;
        set_nonblocking(&writer)?;
        Ok(EventFd {
            fd,
            writer: Some(writer),
        })
    }

    /// Ends the `poll` that waits for it, or the next one.
    pub(crate) fn set(&self) {
        // The only way to fail is a counter or a pipe that is full, and then it is set.
        let _ = write(
            as_borrowed(self.writer.as_ref().unwrap_or(&self.fd)),
            &1u64.to_ne_bytes(),
        );
    }

    /// Makes the next `poll` wait again.
    pub(crate) fn clear(&self) {
        let mut count = [0; 8];
        // One read empties a counter.
        while read(as_borrowed(&self.fd), &mut count).is_ok() && self.writer.is_some() {}
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(target_os = "linux")]
fn counter() -> io::Result<OwnedFd> {
    above_stdio(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}
