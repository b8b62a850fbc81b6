//! macOS: hang-ups, of which `poll` does not tell where nothing else is asked. A kqueue does.
//!
//! **Thread:** the caller's, which it blocks.
//! **Owns:** a kqueue for as long as a wait takes.
//! **Never:** wakes its caller because something can be read or written.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::bsd::{change, event, new_queue, take_events};
use super::poll::{PollFd, wait};

/// What is asked for in place of nothing. `poll` gives no meaning to these, and is not shown them.
pub(super) const NO_READER: libc::c_short = 0x2000;
pub(super) const NO_WRITER: libc::c_short = 0x4000;

/// Events taken at once.
const EVENTS: usize = 4;

/// [`wait`], which tells of hang-ups as well.
pub(super) fn poll_hangups(descriptors: &mut [PollFd], timeout: Option<Duration>) -> io::Result<()> {
    let asks =
        |descriptor: &PollFd| descriptor.0.fd >= 0 && descriptor.0.events & (NO_READER | NO_WRITER) != 0;
    if !descriptors.iter().any(asks) {
        return wait(descriptors, timeout);
    }
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    // Where there can be no queue, the rest is waited for all the same.
    let queue = new_queue()
        .and_then(|queue| add(&queue, descriptors).map(|()| queue))
        .ok();
    let mut others: Vec<PollFd> = descriptors
        .iter()
        .map(|descriptor| {
            if asks(descriptor) {
                PollFd::NONE
            } else {
                *descriptor
            }
        })
        .collect();
    others.push(
        queue
            .as_ref()
            .map_or(PollFd::NONE, |queue| PollFd::read(queue.as_raw_fd())),
    );
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        wait(&mut others, left)?;
        let mut ready = false;
        for (descriptor, other) in descriptors.iter_mut().zip(&others) {
            descriptor.0.revents = other.0.revents;
            ready |= other.0.revents != 0;
        }
        let mut room = [event(); EVENTS];
        let events = match &queue {
            Some(queue) => take_events(queue, &mut room)?,
            None => &[],
        };
        // The others only say that there is room, or something to read, and say it once.
        for event in events.iter().filter(|event| event.flags & libc::EV_EOF != 0) {
            if let Some(descriptor) = descriptors.get_mut(event.udata as usize) {
                descriptor.0.revents = libc::POLLHUP;
                ready = true;
            }
        }
        if ready || left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
    }
}

/// Has `queue` tell of the hang-ups that are asked for. One that cannot be told, as of `/dev/tty`, is not.
fn add(queue: &OwnedFd, descriptors: &[PollFd]) -> io::Result<()> {
    for (index, descriptor) in descriptors.iter().enumerate() {
        let filter = match descriptor.0.events {
            NO_READER => libc::EVFILT_WRITE,
            NO_WRITER => libc::EVFILT_READ,
            _ => continue,
        };
        let Ok(fd) = usize::try_from(descriptor.0.fd) else {
            continue;
        };
        let mut watch = event();
        watch.ident = fd;
        watch.filter = filter;
        // Once for each change, and only when as much can be read or written as there is room for.
        watch.flags = libc::EV_ADD | libc::EV_CLEAR;
        watch.fflags = libc::NOTE_LOWAT;
        watch.data = i32::MAX as isize;
        watch.udata = index as *mut libc::c_void;
        let _ = change(queue, &watch);
    }
    Ok(())
}
