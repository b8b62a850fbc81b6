//! A small process next to `procwire run` that restores the terminal's modes if `run` is killed with
//! SIGKILL, and only then.
//!
//! **Thread:** main, of the process that watches; in `run`, the thread that changes the terminal.
//! **Owns:** the terminal's modes as they were, and what switches off what the program switched on.
//! **Never:** touches a terminal whose modes another process has set since, as a shell does that
//! shows its prompt.
//!
//! `run` and the watcher share a socket. `run` says each change, and at last that all is in order; if
//! the socket ends without that, `run` has been killed.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use crate::cli::guard;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The argument that makes this program the watcher.
pub const WATCH_TERMINAL: &str = "--watch-terminal";

/// The terminal is about to be made raw; answered when its modes have been read.
const RAW: u8 = b'm';
/// What would have to be printed now: two bytes of length, and the text.
const RESET: u8 = b's';
/// Nothing is to be done any more.
const OVER: u8 = b'e';

/// The watcher, as `run` has it.
pub struct Watcher {
    child: Child,
    socket: UnixStream,
}

impl Watcher {
    /// Starts it for the terminal on stdin.
    pub fn start() -> io::Result<Watcher> {
        let (socket, its) = UnixStream::pair()?;
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        let stdout = io::stdout();
        let screen = match rustix::termios::isatty(&stdout) {
            true => stdout.as_fd().try_clone_to_owned()?,
            false => stdin.try_clone()?,
        };
        let child = guard::own_program()
            .arg(WATCH_TERMINAL)
            // A signal to the whole group must not reach both of us.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::from(screen))
            .stderr(Stdio::from(stdin))
            .spawn()?;
        Ok(Watcher { child, socket })
    }

    /// Lets it read the modes that are to be restored; returns once it has.
    pub fn raw(&mut self) -> io::Result<()> {
        self.socket.write_all(&[RAW])?;
        self.socket.read_exact(&mut [0])
    }

    /// Tells it what switches off what is switched on now.
    pub fn reset(&mut self, text: &[u8]) -> io::Result<()> {
        let length = u16::try_from(text.len()).map_err(io::Error::other)?;
        self.socket
            .write_all(&[&[RESET], &length.to_be_bytes()[..], text].concat())
    }

    /// Ends it.
    pub fn over(mut self) {
        // One that has gone needs no word.
        let _ = self.socket.write_all(&[OVER]);
        let _ = self.child.wait();
    }
}

/// The watcher's main.
pub fn watch() -> i32 {
    // From the background a terminal may be changed by those who do not hear that they may not.
    guard::block_terminal_signals();
    let mut before = None;
    let mut reset = Vec::new();
    match follow(&mut before, &mut reset) {
        Ok(()) => 0,
        Err(e) => {
            log::debug!("restoring the terminal: {e}");
            if let Some(before) = before {
                restore(&before);
            }
            let _ = io::stdout().write_all(&reset).and_then(|()| io::stdout().flush());
            0
        }
    }
}

/// Reads what `run` says, to its last word; an error if that does not come.
fn follow(before: &mut Option<Termios>, reset: &mut Vec<u8>) -> io::Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    loop {
        let mut tag = [0];
        socket.read_exact(&mut tag)?;
        match tag[0] {
            RAW => {
                *before = tcgetattr(io::stderr()).ok();
                socket.write_all(&[0])?;
            }
            RESET => {
                let mut length = [0; 2];
                socket.read_exact(&mut length)?;
                let mut text = vec![0; u16::from_be_bytes(length).into()];
                socket.read_exact(&mut text)?;
                *reset = text;
            }
            _ => return Ok(()),
        }
    }
}

/// Restores the modes if they still are those that `run` has set.
fn restore(before: &Termios) {
    let mut raw = before.clone();
    raw.make_raw();
    let same = |now: &Termios| {
        (now.input_modes, now.output_modes, now.local_modes)
            == (raw.input_modes, raw.output_modes, raw.local_modes)
    };
    if tcgetattr(io::stderr()).is_ok_and(|now| same(&now)) {
        let _ = tcsetattr(io::stderr(), OptionalActions::Now, before);
    }
}
