//! Requests as lines to a reader that may not read them.
//!
//! **Thread:** whichever calls; `client-post`, while requests that were posted wait for the server.
//! **Owns:** the writer of a connection, and the requests that were posted and are not written.
//! **Never:** keeps the thread that posts waiting, and never lets a request overtake an earlier one.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::process::ChildStdin;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use super::Error;
use crate::sys::{self, PollFd, lock};

/// A buffer is not kept beyond this.
const KEPT_BUFFER_BYTES: usize = 1024 * 1024;
/// What a pipe takes without waiting if it takes anything: POSIX's smallest `PIPE_BUF` is 512, Linux's 4096.
const PIPE_ROOM_BYTES: usize = 4096;
/// What may be posted and not written, besides what drops post: that is bounded by the processes.
const MAX_POSTED_BYTES: usize = 1024 * 1024;

/// The way of requests to a server that reads lines.
pub(super) struct Lines {
    /// `None` when the connection is closed or has failed.
    writer: Mutex<Option<LineWriter>>,
    /// Never held while something is written; taken after that of the writer.
    posted: Mutex<Posted>,
}

struct LineWriter {
    writer: Box<dyn Write + Send>,
    /// The pipe behind it, if there is one, for asking whether it takes more.
    pipe: Option<RawFd>,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Posted {
    lines: Vec<u8>,
    /// Whether `client-post` runs, and will look here once more.
    has_thread: bool,
}

impl Lines {
    pub(super) fn to_child(stdin: ChildStdin) -> Lines {
        let pipe = Some(stdin.as_raw_fd());
        Self::new(Box::new(stdin), pipe)
    }

    pub(super) fn to(writer: impl Write + Send + 'static) -> Lines {
        Self::new(Box::new(writer), None)
    }

    fn new(writer: Box<dyn Write + Send>, pipe: Option<RawFd>) -> Lines {
        Lines {
            writer: Mutex::new(Some(LineWriter {
                writer,
                pipe,
                buffer: Vec::new(),
            })),
            posted: Mutex::default(),
        }
    }

    /// Writes a line after those that were posted. Waits while the server does not read.
    pub(super) fn write(
        &self,
        max_bytes: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> &'static str,
    ) -> Result<(), Error> {
        let mut writer = lock(&self.writer);
        let line = writer.as_mut().ok_or(Error::Ended(None))?;
        line.buffer.clear();
        line.buffer.append(&mut lock(&self.posted).lines);
        let posted = line.buffer.len();
        let method = encode(&mut line.buffer);
        // Its end does not count.
        let bytes = line.buffer.len() - posted - 1;
        let too_long = bytes > max_bytes;
        if too_long {
            line.buffer.truncate(posted);
        }
        let written = line.write_buffer();
        if written.is_err() {
            // Half a line may have gone, which nothing can follow.
            *writer = None;
        }
        match too_long {
            true => Err(Error::Invalid(format!(
                "{method}: the request has {bytes} bytes, and the server takes {max_bytes}"
            ))),
            false => written.map_err(Error::Io),
        }
    }

    /// Leaves a line to be written, here if that does not wait, and by a thread otherwise. One that
    /// cannot be written has no server any more.
    pub(super) fn post(self: &Arc<Self>, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut lock(&self.posted).lines);
        match self.try_writer() {
            Some(mut writer) if self.has_room(&writer) => self.write_posted(&mut writer),
            _ => self.have_written(),
        }
    }

    /// Whether a line may be posted that need not be: a server that reads nothing gets no more of them.
    pub(super) fn takes_posts(&self) -> bool {
        lock(&self.posted).lines.len() < MAX_POSTED_BYTES
    }

    /// Ends the server's input after what was posted. Waits while the server does not read.
    pub(super) fn end(&self) {
        let mut writer = lock(&self.writer);
        self.write_posted(&mut writer);
        *writer = None;
    }

    /// As [`end`](Self::end) without waiting; whether it is done.
    pub(super) fn try_end(&self) -> bool {
        let Some(mut writer) = self.try_writer() else {
            return false;
        };
        if !lock(&self.posted).lines.is_empty() && !self.has_room(&writer) {
            return false;
        }
        self.write_posted(&mut writer);
        *writer = None;
        true
    }

    /// `None` while a line is being written.
    fn try_writer(&self) -> Option<MutexGuard<'_, Option<LineWriter>>> {
        match self.writer.try_lock() {
            Ok(writer) => Some(writer),
            Err(TryLockError::Poisoned(writer)) => Some(writer.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Whether what was posted can be written without waiting; where that cannot be known, not.
    fn has_room(&self, writer: &Option<LineWriter>) -> bool {
        let Some(line) = writer else { return true };
        let Some(pipe) = line.pipe else { return false };
        let mut interest = [PollFd::write(pipe)];
        lock(&self.posted).lines.len() <= PIPE_ROOM_BYTES
            && sys::poll(&mut interest, Some(Duration::ZERO)).is_ok()
            && interest[0].writable()
    }

    /// Has a thread write what was posted.
    fn have_written(self: &Arc<Self>) {
        let mut posted = lock(&self.posted);
        if posted.has_thread {
            return;
        }
        posted.has_thread = true;
        drop(posted);
        let lines = Arc::clone(self);
        let started = sys::start_thread("client-post", sys::THREAD_STACK_BYTES, move || {
            sys::block_signals_for_this_thread();
            lines.write_all_posted();
        });
        if started.is_err() {
            // Rather late than not at all.
            self.write_all_posted();
        }
    }

    /// The body of `client-post`.
    fn write_all_posted(&self) {
        loop {
            let mut writer = lock(&self.writer);
            let mut posted = lock(&self.posted);
            if posted.lines.is_empty() {
                posted.has_thread = false;
                return;
            }
            drop(posted);
            self.write_posted(&mut writer);
        }
    }

    fn write_posted(&self, writer: &mut Option<LineWriter>) {
        let mut posted = std::mem::take(&mut lock(&self.posted).lines);
        if let Some(line) = writer
            && !posted.is_empty()
        {
            line.buffer.clear();
            line.buffer.append(&mut posted);
            if line.write_buffer().is_err() {
                *writer = None;
            }
        }
    }
}

impl LineWriter {
    fn write_buffer(&mut self) -> io::Result<()> {
        let outcome = match self.buffer.is_empty() {
            true => Ok(()),
            false => self
                .writer
                .write_all(&self.buffer)
                .and_then(|()| self.writer.flush()),
        };
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        outcome
    }
}
