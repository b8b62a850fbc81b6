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

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr,
};
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTSTP};

use crate::sys;

use screen::Screen;
use watch::Watcher;
pub use watch::{WATCH_TERMINAL, watch};

/// Within this time a full-screen program that wants to stop leaves its screen.
const STOP_KEY_TIME: Duration = Duration::from_secs(1);

/// How long a stop waits for what is just being printed.
const PRINT_WAIT: Duration = Duration::from_millis(200);

/// What has been done to the terminal.
struct Taken {
    /// It belongs to the program: it is to be raw whenever this process is in the foreground.
    wanted: bool,
    /// Its settings before it was made raw, and those that made it raw.
    changed: Option<(Termios, Termios)>,
    /// Its settings before a command could ask for a password.
    remembered: Option<Termios>,
    screen: Option<Screen>,
    watcher: Option<Watcher>,
    /// What the watcher was told last.
    told: Vec<u8>,
    /// Whether the keys for SIGINT and SIGQUIT have been typed.
    keys: [bool; 2],
    /// When the key was typed that a program may take for a request to stop itself.
    stop_key: Option<Instant>,
    /// The terminal is given back while this process is stopped: nothing is printed.
    paused: bool,
    /// Something is being printed.
    printing: bool,
}

static TAKEN: Mutex<Taken> = Mutex::new(Taken {
    wanted: false,
    changed: None,
    remembered: None,
    screen: None,
    watcher: None,
    told: Vec::new(),
    keys: [false; 2],
    stop_key: None,
    paused: false,
    printing: false,
});

/// `paused` or `printing` has changed.
static GATE: Condvar = Condvar::new();

fn taken() -> MutexGuard<'static, Taken> {
    sys::lock(&TAKEN)
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

/// Remembers the terminal on stdin as it is, for the case that a command that has changed it is
/// killed. Forgotten when the terminal is taken.
pub fn remember() {
    if isatty(io::stdin()) && in_foreground() {
        taken().remembered = tcgetattr(io::stdin()).ok();
    }
}

/// From now on the terminal on stdin passes on every byte as it is typed, if it `is_read`, and what
/// is printed is followed. Without a terminal there nothing happens.
pub fn take(is_read: bool) -> io::Result<()> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // The binary aborts at a panic, and nothing is dropped then.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // The thread that panics may have the lock.
            if let Ok(mut taken) = TAKEN.try_lock() {
                taken.restore();
            }
            hook(info);
        }));
    });
    let mut taken = taken();
    taken.remembered = None;
    taken.wanted = is_read && isatty(io::stdin());
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
    if in_foreground() {
        print(&reset);
        if let Some(before) = own.remembered.take() {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
        }
    }
    drop(own);
    release();
}

/// Writes to the terminal, unless that would wait: one that takes nothing any more must not hold up
/// a stop or an end.
fn print(text: &[u8]) {
    let stdout = io::stdout();
    let ready = poll(
        &mut [PollFd::new(&stdout, PollFlags::OUT)],
        Some(&Timespec::default()),
    );
    if !text.is_empty() && ready.is_ok_and(|ready| ready > 0) {
        let _ = rustix::io::write(&stdout, text);
    }
}

/// Prints what the program has printed, by `print`, and follows it; whether the program has tried to
/// stop itself.
pub fn printing<T>(bytes: &[u8], print: impl FnOnce() -> T) -> (T, bool) {
    let stops = {
        let mut taken = sys::lock::wait_while(&GATE, taken(), |taken| taken.paused);
        taken.follow(bytes)
    };
    let printed = print();
    taken().printing = false;
    GATE.notify_all();
    (printed, stops)
}

/// Gives the terminal back as it was while `stopped` runs, if it was changed.
pub fn restored_while(stopped: impl FnOnce()) {
    {
        let mut taken = taken();
        taken.paused = true;
        // A terminal that takes nothing keeps what is printed for later.
        drop(GATE.wait_timeout_while(taken, PRINT_WAIT, |taken| taken.printing));
    }
    let screen = |text: fn(&Screen) -> Vec<u8>| {
        let text = taken().screen.as_ref().map(text).unwrap_or_default();
        if in_foreground() {
            print(&text);
        }
    };
    screen(Screen::reset);
    taken().restore();
    taken().tell(Vec::new());
    stopped();
    enter();
    screen(Screen::set);
    let mut taken = taken();
    let reset = taken.screen.as_ref().map(Screen::reset).unwrap_or_default();
    taken.tell(reset);
    taken.paused = false;
    GATE.notify_all();
}

/// Notes what is typed, before it goes to the program; whether the key to stop is in it.
pub fn typed(bytes: &[u8]) -> bool {
    let mut taken = taken();
    let Taken { changed, keys, .. } = &mut *taken;
    let Some((before, _)) = changed else {
        return false;
    };
    let has = |code| {
        let key = before.special_codes[code];
        key != 0 && bytes.contains(&key)
    };
    keys[0] |= has(SpecialCodeIndex::VINTR);
    keys[1] |= has(SpecialCodeIndex::VQUIT);
    has(SpecialCodeIndex::VSUSP)
}

/// Whether a program that is about to get the key to stop is to be stopped. A full-screen program may still
/// say so, by leaving the alternate screen.
///
/// It has no parent in its session, so the system throws away SIGTSTP where the default action is to
/// stop: a program cannot stop itself, and `run` has to do it. Where that cannot be known,
/// the key is the program's alone.
pub fn stops_at_key(pid: u32) -> bool {
    let Some((terminal, foreground, group)) = job(pid) else {
        return false;
    };
    // A shell in there, and the job it has started: between the two of them all is as ever.
    if foreground != group || ignores_stop(pid) {
        return false;
    }
    // It is the program's controlling terminal, so it cannot become ours.
    let is_signal = std::fs::File::open(format!("/dev/pts/{terminal}"))
        .and_then(|terminal| Ok(tcgetattr(terminal)?))
        .is_ok_and(|modes| modes.local_modes.contains(LocalModes::ISIG));
    if !is_signal {
        taken().stop_key = Some(Instant::now());
    }
    is_signal
}

/// The number of a process's PTY, the foreground group there, and its own group.
fn job(pid: u32) -> Option<(u32, i32, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name: state, parent, group, session, terminal, its foreground group.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(2);
    let group = fields.next()?.parse().ok()?;
    let device: u32 = fields.nth(1)?.parse().ok()?;
    let foreground = fields.next()?.parse().ok()?;
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    // PTYs have eight majors, the first of which takes all numbers today.
    let number = (major.checked_sub(136)? << 8) + minor;
    Some((number, foreground, group))
}

fn ignores_stop(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut lines = status.lines();
    let ignored = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (SIGTSTP - 1) & 1 == 1)
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

/// Whether this process may use the terminal on stdin. One that is not a terminal may always be used.
pub fn in_foreground() -> bool {
    // Where there is none, it is not a terminal, or not the one of our session: no job control on it.
    sys::inspect::foreground_group(io::stdin().as_fd()).is_none_or(|group| group == sys::own_group())
}

impl Taken {
    /// Follows what is about to be printed; whether the program has tried to stop itself.
    fn follow(&mut self, bytes: &[u8]) -> bool {
        let Some(screen) = &mut self.screen else {
            return false;
        };
        self.printing = true;
        screen.see(bytes);
        let is_recent = |typed: Instant| typed.elapsed() < STOP_KEY_TIME;
        let stops = screen.has_left() && self.stop_key.take().is_some_and(is_recent);
        let reset = screen.reset();
        self.tell(reset);
        stops
    }

    /// Tells the watcher what would have to be printed.
    fn tell(&mut self, reset: Vec<u8>) {
        if reset == self.told {
            return;
        }
        if let Some(watcher) = &mut self.watcher {
            // One that is gone restores nothing.
            match watcher.reset(&reset) {
                Ok(()) => self.told = reset,
                Err(_) => self.watcher = None,
            }
        }
    }

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

/// A standard descriptor without a buffer, which waits even where another process that has it
/// open has made it non-blocking.
pub struct RetryIo<T>(pub T);

impl<T: AsFd> RetryIo<T> {
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

impl<T: AsFd> Read for RetryIo<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.again(PollFlags::IN, |fd| rustix::io::read(fd, &mut *buffer))
    }
}

impl<T: AsFd> Write for RetryIo<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.again(PollFlags::OUT, |fd| rustix::io::write(fd, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
