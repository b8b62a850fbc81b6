//! The modes of a terminal by name, as they travel from one terminal to another.
//!
//! **Thread:** none of its own.
//! **Owns:** the table of names, which are those of stty(1) and, in small letters, of RFC 4254.
//! **Never:** knows a process.
//!
//! Left out is what says nothing of a person's habits: line speeds, bits of a character, delays.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

use libc::tcflag_t;

use crate::sys;
use crate::wire::protocol::shortened;

/// Where a mode stands in a `termios`.
enum Place {
    /// A key: its index among the special characters.
    Key(usize),
    Input(tcflag_t),
    Output(tcflag_t),
    Local(tcflag_t),
}

use Place::{Input, Key, Local, Output};

const MODES: [(&str, Place); 44] = [
    ("intr", Key(libc::VINTR)),
    ("quit", Key(libc::VQUIT)),
    ("erase", Key(libc::VERASE)),
    ("kill", Key(libc::VKILL)),
    ("eof", Key(libc::VEOF)),
    ("eol", Key(libc::VEOL)),
    ("eol2", Key(libc::VEOL2)),
    ("start", Key(libc::VSTART)),
    ("stop", Key(libc::VSTOP)),
    ("susp", Key(libc::VSUSP)),
    ("rprnt", Key(libc::VREPRINT)),
    ("werase", Key(libc::VWERASE)),
    ("lnext", Key(libc::VLNEXT)),
    ("discard", Key(libc::VDISCARD)),
    ("ignbrk", Input(libc::IGNBRK)),
    ("brkint", Input(libc::BRKINT)),
    ("ignpar", Input(libc::IGNPAR)),
    ("parmrk", Input(libc::PARMRK)),
    ("inpck", Input(libc::INPCK)),
    ("istrip", Input(libc::ISTRIP)),
    ("inlcr", Input(libc::INLCR)),
    ("igncr", Input(libc::IGNCR)),
    ("icrnl", Input(libc::ICRNL)),
    ("ixon", Input(libc::IXON)),
    ("ixany", Input(libc::IXANY)),
    ("ixoff", Input(libc::IXOFF)),
    ("imaxbel", Input(libc::IMAXBEL)),
    ("iutf8", Input(sys::IUTF8)),
    ("opost", Output(libc::OPOST)),
    ("onlcr", Output(libc::ONLCR)),
    ("ocrnl", Output(libc::OCRNL)),
    ("onocr", Output(libc::ONOCR)),
    ("onlret", Output(libc::ONLRET)),
    ("isig", Local(libc::ISIG)),
    ("icanon", Local(libc::ICANON)),
    ("echo", Local(libc::ECHO)),
    ("echoe", Local(libc::ECHOE)),
    ("echok", Local(libc::ECHOK)),
    ("echonl", Local(libc::ECHONL)),
    ("noflsh", Local(libc::NOFLSH)),
    ("tostop", Local(libc::TOSTOP)),
    ("iexten", Local(libc::IEXTEN)),
    ("echoctl", Local(libc::ECHOCTL)),
    ("echoke", Local(libc::ECHOKE)),
];

/// Every name, with the largest value it takes: 255 for a key, 1 for a switch.
pub(crate) fn names() -> impl Iterator<Item = (&'static str, u8)> {
    MODES.iter().map(|(name, place)| match place {
        Key(_) => (*name, u8::MAX),
        _ => (*name, 1),
    })
}

/// Why these are not modes, in words.
pub(crate) fn refusal(modes: &BTreeMap<String, u8>) -> Option<String> {
    modes.iter().find_map(|(name, value)| {
        let Some((_, largest)) = names().find(|(known, _)| known == name) else {
            return Some(format!("unknown mode {:?}", shortened(name)));
        };
        (*value > largest).then(|| format!("{name} must be 0 or 1, got {value}"))
    })
}

/// The modes of the terminal behind `fd`.
pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<BTreeMap<String, u8>> {
    let settings = sys::terminal_settings(fd)?;
    let value = |place: &Place| match place {
        Key(index) => settings.c_cc[*index],
        Input(flag) => u8::from(settings.c_iflag & flag != 0),
        Output(flag) => u8::from(settings.c_oflag & flag != 0),
        Local(flag) => u8::from(settings.c_lflag & flag != 0),
    };
    // Not collected, which would bring a sort of its own into the program.
    let mut modes = BTreeMap::new();
    modes.extend(
        MODES
            .iter()
            .map(|(name, place)| ((*name).to_owned(), value(place))),
    );
    Ok(modes)
}

/// Gives the terminal behind `fd` these modes; the others stay as they are.
pub(crate) fn set(fd: BorrowedFd<'_>, modes: &BTreeMap<String, u8>) -> io::Result<()> {
    let mut settings = sys::terminal_settings(fd)?;
    for (name, place) in &MODES {
        let Some(&value) = modes.get(*name) else { continue };
        let switch = |flags: &mut tcflag_t, flag: tcflag_t| match value {
            0 => *flags &= !flag,
            _ => *flags |= flag,
        };
        match *place {
            Key(index) => settings.c_cc[index] = value,
            Input(flag) => switch(&mut settings.c_iflag, flag),
            Output(flag) => switch(&mut settings.c_oflag, flag),
            Local(flag) => switch(&mut settings.c_lflag, flag),
        }
    }
    sys::set_terminal_settings(fd, &settings)
}
