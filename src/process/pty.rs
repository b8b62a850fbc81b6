//! Terminals: the only file that names portable-pty.
//!
//! **Thread:** the process thread whose terminal it is.
//! **Owns:** the master side, and the slave side until the child has opened it, or, where the last close
//! throws output away, until the child is dead and all it has written is read.
//! **Never:** starts a program. portable-pty would fork for that; the child is started by
//! `spawn.rs`, and opens the slave by its name.
//!
//! portable-pty says why a terminal could not be opened in words only, so the error number is taken
//! from the thread's `errno` right after the call.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use portable_pty::{MasterPty, PtySystem, SlavePty};

use crate::sys;
use crate::wire::modes;
use crate::wire::protocol::PtySize;

/// The master side of a terminal.
pub(crate) struct Terminal {
    master: Box<dyn MasterPty + Send>,
    /// The slave side, where its last close throws away what was written.
    slave: Option<Box<dyn SlavePty + Send>>,
}

/// A terminal that no child has opened yet.
pub(crate) struct FreshTerminal {
    pub(crate) terminal: Terminal,
    /// For reading and writing; non-blocking, and a descriptor of our own.
    pub(crate) descriptor: OwnedFd,
    /// The slave's path.
    pub(crate) name: CString,
    /// Keeps the slave open until the child has it; otherwise the master would read a hang-up.
    slave: Box<dyn SlavePty + Send>,
}

impl FreshTerminal {
    pub(crate) fn open(size: PtySize, modes: Option<&BTreeMap<String, u8>>) -> io::Result<Self> {
        let pair = portable_pty::unix::UnixPtySystem::default()
            .openpty(native(size))
            .map_err(|e| system_error(&e))?;
        let raw = pair
            .master
            .as_raw_fd()
            .ok_or(io::Error::from_raw_os_error(libc::EBADF))?;
        // SAFETY: the master is open for as long as `pair` lives, which is longer than this borrow.
        let descriptor = unsafe { BorrowedFd::borrow_raw(raw) }.try_clone_to_owned()?;
        // The C library may look it up in `/proc`.
        let name = match pair.master.tty_name() {
            Some(name) => CString::new(name.into_os_string().into_vec())?,
            None => sys::name_of_slave(descriptor.as_fd())?,
        };
        sys::set_nonblocking(&descriptor)?;
        // Otherwise the erase character takes one byte, and leaves half a character.
        let mut settings = sys::terminal_settings(descriptor.as_fd())?;
        settings.input_modes |= sys::IUTF8;
        sys::set_terminal_settings(descriptor.as_fd(), &settings)?;
        if let Some(modes) = modes {
            modes::set(descriptor.as_fd(), modes)?;
        }
        Ok(FreshTerminal {
            terminal: Terminal {
                master: pair.master,
                slave: None,
            },
            descriptor,
            name,
            slave: pair.slave,
        })
    }

    /// The child has opened the slave; from here on its end is the terminal's.
    pub(crate) fn opened_by_child(mut self) -> (Terminal, OwnedFd) {
        if !sys::terminal_keeps_output() {
            self.terminal.slave = Some(self.slave);
        }
        (self.terminal, self.descriptor)
    }
}

impl Terminal {
    /// Whether this side keeps the terminal from being hung up.
    pub(crate) fn is_kept_open(&self) -> bool {
        self.slave.is_some()
    }

    /// From here on it is hung up once no process has it open.
    pub(crate) fn let_go(&mut self) {
        self.slave = None;
    }

    pub(crate) fn master(&self) -> Option<BorrowedFd<'_>> {
        let raw = self.master.as_raw_fd()?;
        // SAFETY: the master is open for as long as it lives, which is longer than this borrow.
        Some(unsafe { BorrowedFd::borrow_raw(raw) })
    }

    pub(crate) fn resize(&self, size: PtySize) -> io::Result<()> {
        self.master.resize(native(size)).map_err(|e| system_error(&e))
    }
}

fn system_error(error: &impl std::fmt::Display) -> io::Error {
    let system = io::Error::last_os_error();
    log::debug!("portable-pty: {error}");
    match system.raw_os_error() {
        Some(0) | None => io::Error::from_raw_os_error(libc::EIO),
        Some(_) => system,
    }
}

fn native(size: PtySize) -> portable_pty::PtySize {
    portable_pty::PtySize {
        rows: size.rows,
        cols: size.cols,
        pixel_width: 0,
        pixel_height: 0,
    }
}
