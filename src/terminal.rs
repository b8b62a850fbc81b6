//! The terminal `procwire run` was typed on: raw mode, its size, what the program has switched on in
//! it, and reading and writing that leave its mode alone.
//!
//! **Thread:** main takes the terminal and prints; the thread that reads it makes it raw again when
//! this process comes back to the foreground; any thread that ends the program restores it.
//! **Owns:** the terminal's settings as they were, as long as they are changed.
//! **Never:** leaves a terminal raw: not at a return, not at a panic, not at a signal, SIGKILL
//! included; and never touches it from the background.

mod screen;
mod watch;

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::termios::{
    OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
};
use signal_hook::consts::{SIGINT, SIGQUIT};

use screen::Screen;
use watch::Watcher;
pub use watch::{WATCH_TERMINAL, watch};

/// What has been done to the terminal.
struct Taken {
    /// It belongs to the program: it is to be raw whenever this process is in the foreground.
    wanted: bool,
    /// Its settings before it was made raw, and those that made it raw.
    changed: Option<(Termios, Termios)>,
    screen: Option<Screen>,
    watcher: Option<Watcher>,
    /// What the watcher was told last.
    told: Vec<u8>,
    /// Whether the keys for SIGINT and SIGQUIT have been typed.
    keys: [bool; 2],
}

static TAKEN: Mutex<Taken> = Mutex::new(Taken {
    wanted: false,
    changed: None,
    screen: None,
    watcher: None,
    told: Vec::new(),
    keys: [false; 2],
});

fn taken() -> MutexGuard<'static, Taken> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts what restores the terminal on stdin if this process is killed with SIGKILL. Does nothing
/// where stdin is not a terminal.
pub fn watch_over() {
    if !isatty(io::stdin()) {
        return;
    }
    match Watcher::start() {
        Ok(watcher) => taken().watcher = Some(watcher),
        Err(e) => log::debug!("a SIGKILL would leave the terminal raw: {e}"),
    }
}

/// From now on the terminal on stdin passes on every byte as it is typed, and what is printed to it
/// is followed. Without a terminal there nothing happens.
pub fn take() -> io::Result<()> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // The binary aborts at a panic, and nothing is dropped then.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // Whoever panics may have the lock.
            if let Ok(mut taken) = TAKEN.try_lock() {
                taken.restore();
            }
            hook(info);
        }));
    });
    let mut taken = taken();
    taken.wanted = isatty(io::stdin());
    taken.screen = isatty(io::stdout()).then(Screen::default);
    taken.enter()
}

/// Makes it raw if it is to be and this process has come to the foreground.
pub fn enter() {
    if let Err(e) = taken().enter() {
        log::debug!("the terminal stays as it is: {e}");
    }
}

/// Gives the terminal its settings back, and gives it up.
pub fn release() {
    let mut taken = taken();
    taken.restore();
    taken.wanted = false;
    taken.screen = None;
    if let Some(watcher) = taken.watcher.take() {
        watcher.over();
    }
}

/// As [`release`], behind a program that could not clean up: what it has switched on is switched off.
pub fn clean_up() {
    let mut own = taken();
    let reset = own.screen.take().map(|screen| screen.reset()).unwrap_or_default();
    if !reset.is_empty() && in_foreground() {
        // A terminal that takes nothing any more must not hold up the end.
        let stdout = io::stdout();
        let ready = poll(
            &mut [PollFd::new(&stdout, PollFlags::OUT)],
            Some(&rustix::event::Timespec::default()),
        );
        if ready.is_ok_and(|ready| ready > 0) {
            let _ = rustix::io::write(&stdout, &reset);
        }
    }
    drop(own);
    release();
}

/// Follows what is printed; to be called before it is.
pub fn printed(bytes: &[u8]) {
    let mut taken = taken();
    let Taken {
        screen: Some(screen),
        watcher,
        told,
        ..
    } = &mut *taken
    else {
        return;
    };
    screen.see(bytes);
    if let Some(watching) = watcher {
        let reset = screen.reset();
        if reset != *told {
            // One that is gone restores nothing.
            match watching.reset(&reset) {
                Ok(()) => *told = reset,
                Err(_) => *watcher = None,
            }
        }
    }
}

/// Gives the terminal its settings back while `stopped` runs, if they were changed.
pub fn restored_while(stopped: impl FnOnce()) {
    taken().restore();
    stopped();
    enter();
}

/// Notes what is typed, before it goes to the program.
pub fn typed(bytes: &[u8]) {
    let mut taken = taken();
    let Taken { changed, keys, .. } = &mut *taken;
    if let Some((before, _)) = changed {
        for (typed, code) in keys
            .iter_mut()
            .zip([SpecialCodeIndex::VINTR, SpecialCodeIndex::VQUIT])
        {
            let key = before.special_codes[code];
            *typed |= key != 0 && bytes.contains(&key);
        }
    }
}

/// Whether the key was typed that makes a terminal send this signal.
pub fn was_typed(signal: i32) -> bool {
    let [interrupt, quit] = taken().keys;
    match signal {
        SIGINT => interrupt,
        SIGQUIT => quit,
        _ => false,
    }
}

/// Whether this process may use the terminal on stdin. One that is no terminal may always be used.
pub fn in_foreground() -> bool {
    match tcgetpgrp(io::stdin()) {
        Ok(group) => group == getpgrp(),
        // It is no terminal, or not the one of our session, and so nobody controls jobs on it.
        Err(_) => true,
    }
}

impl Taken {
    fn enter(&mut self) -> io::Result<()> {
        if !self.wanted || !in_foreground() {
            return Ok(());
        }
        let stdin = io::stdin();
        if self.changed.is_none() {
            let before = tcgetattr(&stdin)?;
            let mut raw = before.clone();
            raw.make_raw();
            if self
                .watcher
                .as_mut()
                .is_some_and(|watcher| watcher.raw().is_err())
            {
                self.watcher = None;
            }
            self.changed = Some((before, raw));
        }
        if let Some((_, raw)) = &self.changed {
            tcsetattr(&stdin, OptionalActions::Drain, raw)?;
        }
        Ok(())
    }

    fn restore(&mut self) {
        if let Some((before, _)) = self.changed.take()
            && in_foreground()
        {
            // A terminal that is gone needs nothing back.
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
        }
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

/// Text of the other side as it may be shown on a terminal: control characters and those that
/// change the direction of what follows are escaped.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                let _ = write!(shown, "{}", character.escape_unicode());
            }
            _ if character.is_control() => {
                let _ = write!(shown, "{}", character.escape_default());
            }
            _ => shown.push(character),
        }
    }
    shown
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
