//! The terminal of whoever typed `procwire run`: raw mode, its size, and reading and writing that
//! leave its mode alone.
//!
//! **Thread:** main enters and leaves raw mode; any thread that ends the program leaves it.
//! **Owns:** the terminal's settings as they were, as long as they are changed.
//! **Never:** leaves a terminal raw: not at a return, not at a panic, not at a signal that is handled.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, Once, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

static AS_IT_WAS: Mutex<Option<Termios>> = Mutex::new(None);

/// A terminal that passes on every byte as it is typed, until this is dropped.
pub struct Raw(());

impl Raw {
    /// Makes the terminal on stdin raw; `None` if there is none.
    pub fn enter() -> io::Result<Option<Raw>> {
        static HOOK: Once = Once::new();
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        *AS_IT_WAS.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        HOOK.call_once(|| {
            // The binary aborts at a panic, and nothing is dropped then.
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                hook(info);
            }));
        });
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(Raw(())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal its settings back, if they were changed.
pub fn restore() {
    let before = AS_IT_WAS.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}

/// Gives the terminal its settings back while `stopped` runs, if they were changed.
pub fn restored_while(stopped: impl FnOnce()) {
    let changed = AS_IT_WAS.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    restore();
    stopped();
    if changed {
        // Whoever made it raw restores it.
        std::mem::forget(Raw::enter());
    }
}

/// Rows and columns of the terminal, if there is one and it says them.
pub fn size() -> Option<(u16, u16)> {
    fn of(fd: impl AsFd) -> Option<(u16, u16)> {
        let size = tcgetwinsize(fd).ok()?;
        (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
    }
    of(io::stdin())
        .or_else(|| of(io::stdout()))
        .or_else(|| of(io::stderr()))
}

/// A standard descriptor without a buffer, which waits also where somebody else who has it open has
/// made it non-blocking.
pub struct Patient<T>(pub T);

impl<T: AsFd> Patient<T> {
    fn again<R>(
        &self,
        flags: PollFlags,
        mut once: impl FnMut(BorrowedFd<'_>) -> Result<R, Errno>,
    ) -> io::Result<R> {
        loop {
            match once(self.0.as_fd()) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&self.0, flags)], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                },
                outcome => return Ok(outcome?),
            }
        }
    }
}

impl<T: AsFd> Read for Patient<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.again(PollFlags::IN, |fd| rustix::io::read(fd, &mut *buffer))
    }
}

impl<T: AsFd> Write for Patient<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.again(PollFlags::OUT, |fd| rustix::io::write(fd, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
