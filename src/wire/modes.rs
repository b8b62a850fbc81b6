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

use rustix::termios::{InputModes, LocalModes, OutputModes, SpecialCodeIndex};

use crate::sys;
use crate::wire::protocol::shortened;

/// Where a mode stands in a `termios`.
enum Place {
    /// A key: its index among the special characters.
    Key(SpecialCodeIndex),
    Input(InputModes),
    Output(OutputModes),
    Local(LocalModes),
}

use Place::{Input, Key, Local, Output};

const MODES: [(&str, Place); 44] = [
    ("intr", Key(SpecialCodeIndex::VINTR)),
    ("quit", Key(SpecialCodeIndex::VQUIT)),
    ("erase", Key(SpecialCodeIndex::VERASE)),
    ("kill", Key(SpecialCodeIndex::VKILL)),
    ("eof", Key(SpecialCodeIndex::VEOF)),
    ("eol", Key(SpecialCodeIndex::VEOL)),
    ("eol2", Key(SpecialCodeIndex::VEOL2)),
    ("start", Key(SpecialCodeIndex::VSTART)),
    ("stop", Key(SpecialCodeIndex::VSTOP)),
    ("susp", Key(SpecialCodeIndex::VSUSP)),
    ("rprnt", Key(SpecialCodeIndex::VREPRINT)),
    ("werase", Key(SpecialCodeIndex::VWERASE)),
    ("lnext", Key(SpecialCodeIndex::VLNEXT)),
    ("discard", Key(SpecialCodeIndex::VDISCARD)),
    ("ignbrk", Input(InputModes::IGNBRK)),
    ("brkint", Input(InputModes::BRKINT)),
    ("ignpar", Input(InputModes::IGNPAR)),
    ("parmrk", Input(InputModes::PARMRK)),
    ("inpck", Input(InputModes::INPCK)),
    ("istrip", Input(InputModes::ISTRIP)),
    ("inlcr", Input(InputModes::INLCR)),
    ("igncr", Input(InputModes::IGNCR)),
    ("icrnl", Input(InputModes::ICRNL)),
    ("ixon", Input(InputModes::IXON)),
    ("ixany", Input(InputModes::IXANY)),
    ("ixoff", Input(InputModes::IXOFF)),
    ("imaxbel", Input(InputModes::IMAXBEL)),
    ("iutf8", Input(sys::IUTF8)),
    ("opost", Output(OutputModes::OPOST)),
    ("onlcr", Output(OutputModes::ONLCR)),
    ("ocrnl", Output(OutputModes::OCRNL)),
    ("onocr", Output(OutputModes::ONOCR)),
    ("onlret", Output(OutputModes::ONLRET)),
    ("isig", Local(LocalModes::ISIG)),
    ("icanon", Local(LocalModes::ICANON)),
    ("echo", Local(LocalModes::ECHO)),
    ("echoe", Local(LocalModes::ECHOE)),
    ("echok", Local(LocalModes::ECHOK)),
    ("echonl", Local(LocalModes::ECHONL)),
    ("noflsh", Local(LocalModes::NOFLSH)),
    ("tostop", Local(LocalModes::TOSTOP)),
    ("iexten", Local(LocalModes::IEXTEN)),
    ("echoctl", Local(LocalModes::ECHOCTL)),
    ("echoke", Local(LocalModes::ECHOKE)),
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
        Key(index) => settings.special_codes[*index],
        Input(mode) => u8::from(settings.input_modes.intersects(*mode)),
        Output(mode) => u8::from(settings.output_modes.intersects(*mode)),
        Local(mode) => u8::from(settings.local_modes.intersects(*mode)),
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
        match *place {
            Key(index) => settings.special_codes[index] = value,
            Input(mode) => settings.input_modes.set(mode, value != 0),
            Output(mode) => settings.output_modes.set(mode, value != 0),
            Local(mode) => settings.local_modes.set(mode, value != 0),
        }
    }
    sys::set_terminal_settings(fd, &settings)
}
