//! The line that is being typed at a terminal and that its program has not been given yet.
//!
//! **Thread:** the process thread whose terminal it is.
//! **Owns:** a copy of that line, kept as the kernel's line discipline (`n_tty.c`) keeps it.
//! **Never:** asks the kernel for the line: no call returns it. `FIONREAD` counts finished lines only, and
//! what a first end-of-file hands over may be read before it can be counted.
//!
//! End-of-file is a character. Behind an unfinished line it hands that line over, and only the next one
//! ends the input, so whether there is such a line decides how often it is typed.

use rustix::termios::{InputModes, LocalModes, SpecialCodeIndex, Termios};

use crate::sys;

/// A terminal keeps this much of a line; each further byte takes the place of the last.
const MAX_LINE_BYTES: usize = 4_095;

/// The unfinished line of one terminal.
#[derive(Default)]
pub(crate) struct TypedLine {
    bytes: Vec<u8>,
    /// The next byte is taken as it is, because VLNEXT was typed.
    quoting: bool,
}

/// Whether input is edited and handed over by lines.
fn is_canonical(settings: &Termios) -> bool {
    let modes = settings.local_modes;
    modes.contains(LocalModes::ICANON) && !modes.contains(LocalModes::EXTPROC)
}

/// Whether `byte` is the character at `index`; NUL there switches it off.
fn is(settings: &Termios, index: SpecialCodeIndex, byte: u8) -> bool {
    byte != 0 && settings.special_codes[index] == byte
}

impl TypedLine {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.quoting
    }

    /// Takes in the settings of this moment: a switch to raw mode hands over what was typed.
    pub(crate) fn observe(&mut self, settings: &Termios) {
        if !is_canonical(settings) {
            self.bytes.clear();
            self.quoting = false;
        }
    }

    /// Takes what was typed while these settings were in force.
    pub(crate) fn typed(&mut self, bytes: &[u8], settings: &Termios) {
        self.observe(settings);
        if is_canonical(settings) {
            for byte in bytes {
                self.take(*byte, settings);
            }
        }
    }

    /// What ends the input of a program that reads lines. In raw mode, end-of-file is data like any other.
    pub(crate) fn end_of_file(&self, settings: &Termios) -> Vec<u8> {
        let character = settings.special_codes[SpecialCodeIndex::VEOF];
        let count = match (character, is_canonical(settings)) {
            // Switched off: nothing that could be typed means the end.
            (0, _) => 0,
            (_, false) => 1,
            // The first is quoted, and so part of the line.
            (_, true) if self.quoting => 3,
            (_, true) if !self.bytes.is_empty() => 2,
            (_, true) => 1,
        };
        vec![character; count]
    }

    fn take(&mut self, byte: u8, settings: &Termios) {
        let input = |mode| settings.input_modes.intersects(mode);
        let local = |mode| settings.local_modes.intersects(mode);
        let mut byte = byte;
        if input(InputModes::ISTRIP) {
            byte &= 0x7f;
        }
        if input(sys::IUCLC) && local(LocalModes::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if std::mem::take(&mut self.quoting) {
            return self.put(byte, settings);
        }
        if input(InputModes::IXON)
            && (is(settings, SpecialCodeIndex::VSTART, byte) || is(settings, SpecialCodeIndex::VSTOP, byte))
        {
            return;
        }
        let signals = [
            SpecialCodeIndex::VINTR,
            SpecialCodeIndex::VQUIT,
            SpecialCodeIndex::VSUSP,
        ];
        if local(LocalModes::ISIG) && signals.iter().any(|&index| is(settings, index, byte)) {
            if !local(LocalModes::NOFLSH) {
                self.bytes.clear();
            }
            return;
        }
        match byte {
            b'\r' if input(InputModes::IGNCR) => return,
            b'\r' if input(InputModes::ICRNL) => byte = b'\n',
            b'\n' if input(InputModes::INLCR) => byte = b'\r',
            _ => {}
        }
        let extended = |index| local(LocalModes::IEXTEN) && is(settings, index, byte);
        if is(settings, SpecialCodeIndex::VERASE, byte) {
            self.erase_character(settings);
        } else if is(settings, SpecialCodeIndex::VKILL, byte) {
            self.erase_line(settings);
        } else if extended(SpecialCodeIndex::VWERASE) {
            self.erase_word(settings);
        } else if extended(SpecialCodeIndex::VLNEXT) {
            self.quoting = true;
        } else if extended(SpecialCodeIndex::VREPRINT) && local(LocalModes::ECHO) {
            // The line is shown again.
        } else if byte == b'\n'
            || is(settings, SpecialCodeIndex::VEOF, byte)
            || is(settings, SpecialCodeIndex::VEOL, byte)
            || extended(SpecialCodeIndex::VEOL2)
        {
            self.bytes.clear();
        } else {
            self.put(byte, settings);
        }
    }

    fn put(&mut self, byte: u8, settings: &Termios) {
        let doubled = byte == 0xff && settings.input_modes.contains(InputModes::PARMRK);
        for _ in 0..=usize::from(doubled) {
            if self.bytes.len() == MAX_LINE_BYTES {
                self.bytes.pop();
            }
            self.bytes.push(byte);
        }
    }

    /// Where the last character begins, and its first byte.
    fn last_character(&self, settings: &Termios) -> Option<(usize, u8)> {
        let continues = |byte: u8| settings.input_modes.contains(sys::IUTF8) && byte & 0xc0 == 0x80;
        let start = self.bytes.iter().rposition(|&byte| !continues(byte))?;
        Some((start, self.bytes[start]))
    }

    fn erase_character(&mut self, settings: &Termios) {
        if let Some((start, _)) = self.last_character(settings) {
            self.bytes.truncate(start);
        }
    }

    /// Where each character is rubbed out on the screen, they are erased one by one, and bytes that
    /// continue a character without a beginning stay.
    fn erase_line(&mut self, settings: &Termios) {
        let rubbed_out = LocalModes::ECHO | LocalModes::ECHOE | LocalModes::ECHOK | LocalModes::ECHOKE;
        if !settings.local_modes.contains(rubbed_out) {
            self.bytes.clear();
        }
        while let Some((start, _)) = self.last_character(settings) {
            self.bytes.truncate(start);
        }
    }

    /// Erases what is not a letter, and then letters.
    fn erase_word(&mut self, settings: &Termios) {
        let mut inside_word = false;
        while let Some((start, first)) = self.last_character(settings) {
            // The kernel's letters are those of Latin-1.
            let latin = first >= 0xc0 && first != 0xd7 && first != 0xf7;
            if first.is_ascii_alphanumeric() || first == b'_' || latin {
                inside_word = true;
            } else if inside_word {
                break;
            }
            self.bytes.truncate(start);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Read;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::fs::OpenOptionsExt;
    use std::time::Duration;

    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::process::pty::FreshTerminal;
    use crate::sys::{self, PollFd};
    use crate::wire::protocol::PtySize;

    const LAST_LINE: &[u8] = b"END\n";

    /// What ends a line, edits it or means a signal, and what does not; no end-of-file.
    const KEYS: &[&[u8]] = &[
        b"a",
        b"bc_",
        b" ",
        b".",
        b"\xc3\xa9",
        b"\xe2\x82\xac",
        b"\xa9",
        b"\xff",
        b"A",
        b"\x08",
        b"\x7f",
        b"\x15",
        b"\x17",
        b"\x16",
        b"\x12",
        b"\x03",
        b"\x1c",
        b"\x1a",
        b"\x11",
        b"\x13",
        b"\r",
        b"\n",
        b"\0",
        b"!",
        b"@",
        b"\x85",
    ];

    /// Flags that change what becomes of a byte, each on or off.
    const INPUT: [InputModes; 8] = [
        sys::IUTF8,
        InputModes::ICRNL,
        InputModes::IGNCR,
        InputModes::INLCR,
        InputModes::ISTRIP,
        sys::IUCLC,
        InputModes::IXON,
        InputModes::PARMRK,
    ];
    const LOCAL: [LocalModes; 7] = [
        LocalModes::ISIG,
        LocalModes::IEXTEN,
        LocalModes::NOFLSH,
        LocalModes::ECHO,
        LocalModes::ECHOE,
        LocalModes::ECHOK,
        LocalModes::ECHOKE,
    ];

    /// Whether the flag at `index` is on.
    fn is_on(flags: u8, index: usize) -> bool {
        flags >> index & 1 == 1
    }

    #[test]
    fn half_a_character_is_rubbed_out_only_with_its_beginning() {
        let terminal = FreshTerminal::open(PtySize::default(), None).unwrap();
        let usual = sys::terminal_settings(terminal.descriptor.as_fd()).unwrap();
        for (typed, echo, ends) in [
            (&b"\x85\x15"[..], true, 2),
            (b"\x85\x15", false, 1),
            (b"a\x85\x15", true, 1),
            (b"\x85\x7f", true, 2),
            (b"\x85\x17", false, 2),
        ] {
            let mut settings = usual.clone();
            if !echo {
                settings.local_modes.remove(LocalModes::ECHO);
            }
            let mut line = TypedLine::default();
            line.typed(typed, &settings);
            assert_eq!(line.end_of_file(&settings).len(), ends, "{typed:?} {echo}");
        }
    }

    /// Whatever is typed under whatever settings, the program's input ends exactly once.
    #[test]
    fn the_kernel_sees_one_end_of_file() {
        let terminal = FreshTerminal::open(PtySize::default(), None).unwrap();
        let master = &terminal.descriptor;
        let slave = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(terminal.name.to_str().unwrap())
            .unwrap();
        let usual = sys::terminal_settings(master.as_fd()).unwrap();
        let keys = prop::collection::vec(0..KEYS.len(), 0..24);
        let characters = prop::collection::vec(0..6usize, 3);
        let cases = (keys, any::<u8>(), any::<u8>(), characters);
        // A failure waits for what does not come, so it is made smaller only a few times.
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 2_000,
            max_shrink_iters: 20,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let result = runner.run(&cases, |(keys, input, local, characters)| {
            let mut settings = usual.clone();
            for (index, mode) in INPUT.into_iter().enumerate() {
                settings.input_modes.set(mode, is_on(input, index));
            }
            for (index, mode) in LOCAL.into_iter().enumerate() {
                settings.local_modes.set(mode, is_on(local, index));
            }
            let [eol, eol2, kill] = [characters[0], characters[1], characters[2]];
            settings.special_codes[SpecialCodeIndex::VEOL] = if eol == 0 { b'!' } else { 0 };
            settings.special_codes[SpecialCodeIndex::VEOL2] = if eol2 == 0 { b'@' } else { 0 };
            settings.special_codes[SpecialCodeIndex::VKILL] = if kill == 0 {
                0
            } else {
                usual.special_codes[SpecialCodeIndex::VKILL]
            };
            sys::set_terminal_settings(master.as_fd(), &settings).unwrap();

            let mut typed: Vec<u8> = keys.iter().flat_map(|&key| KEYS[key]).copied().collect();
            let mut line = TypedLine::default();
            line.typed(&typed, &settings);
            typed.extend(line.end_of_file(&settings));
            prop_assert_eq!(sys::write(master.as_fd(), &typed).unwrap(), typed.len());
            let mut ends = 0;
            let mut buffer = [0; 4_096];
            while ends == 0 {
                let mut wait = [PollFd::read(slave.as_raw_fd())];
                sys::poll(&mut wait, Some(Duration::from_secs(20))).unwrap();
                prop_assert!(wait[0].readable(), "no end of {:?}", typed);
                let n = (&slave).read(&mut buffer).unwrap();
                ends += usize::from(n == 0);
            }
            // With other settings, such as INLCR, the last line would not end.
            sys::set_terminal_settings(master.as_fd(), &usual).unwrap();
            prop_assert_eq!(sys::write(master.as_fd(), LAST_LINE).unwrap(), LAST_LINE.len());
            let mut wait = [PollFd::read(slave.as_raw_fd())];
            sys::poll(&mut wait, Some(Duration::from_secs(20))).unwrap();
            let n = (&slave).read(&mut buffer).unwrap();
            prop_assert_eq!(&buffer[..n], LAST_LINE, "two ends of {:?}", typed);
            // What was echoed, so that the terminal does not fill up.
            while sys::read(master.as_fd(), &mut buffer).is_ok() {}
            Ok(())
        });
        result.unwrap();
    }

    #[test]
    fn raw_mode_takes_over_what_was_typed() {
        let terminal = FreshTerminal::open(PtySize::default(), None).unwrap();
        let lines = sys::terminal_settings(terminal.descriptor.as_fd()).unwrap();
        let mut raw = lines.clone();
        raw.local_modes.remove(LocalModes::ICANON);
        let mut line = TypedLine::default();
        line.typed(b"abc", &lines);
        assert_eq!(line.end_of_file(&lines), [4, 4]);
        line.typed(b"def", &raw);
        assert_eq!(line.end_of_file(&raw), [4]);
        assert_eq!(line.end_of_file(&lines), [4]);

        let mut without = lines;
        without.special_codes[SpecialCodeIndex::VEOF] = 0;
        assert!(line.end_of_file(&without).is_empty());
    }

    #[test]
    fn line_is_no_longer_than_the_terminals() {
        let terminal = FreshTerminal::open(PtySize::default(), None).unwrap();
        let settings = sys::terminal_settings(terminal.descriptor.as_fd()).unwrap();
        let mut line = TypedLine::default();
        line.typed(&vec![b'x'; 10_000], &settings);
        assert_eq!(line.bytes.len(), MAX_LINE_BYTES);
        line.typed(&vec![0x7f; MAX_LINE_BYTES], &settings);
        assert!(line.is_empty());
    }
}
