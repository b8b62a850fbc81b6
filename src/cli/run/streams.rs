//! The program's streams: its input is read here, and its output is printed here.
//!
//! **Thread:** `stdin` feeds the program; main prints.
//! **Owns:** the loops that read and write the standard streams of this process.
//! **Never:** holds back output that is being read.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::SIGWINCH;

use super::recording::{Recording, Shown};
use super::{Run, life};
use crate::cli::guard;
use crate::cli::terminal::{self, RetryIo};
use crate::client::{Event, Process, Stdin};

/// How long a program may take to end once its output has lost its reader.
const UNHEARD_WAIT: Duration = Duration::from_millis(500);
/// How often a process in the background looks whether it has come to the foreground. A shell that
/// brings back a job that was running all the time does not tell it.
const FOREGROUND_PAUSE: Duration = Duration::from_millis(200);

/// Starts the thread that feeds the program, whose pid is given if it is on this machine. It ends
/// with the input or with this program.
pub(super) fn feed(
    mut stdin: Stdin,
    pid: Option<u32>,
    failure: Arc<Mutex<Option<io::Error>>>,
) -> io::Result<()> {
    guard::start_thread("stdin", move || {
        let is_terminal = io::stdin().is_terminal();
        if is_terminal {
            // Reading from the background fails then, and does not stop us.
            guard::block_terminal_signals();
        }
        let mut input = RetryIo(io::stdin());
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if is_terminal {
                wait_to_be_typed_at();
            }
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    let stops = terminal::typed(&buffer[..n]) && pid.is_some_and(terminal::stops_at_key);
                    if stdin.write_all(&buffer[..n]).is_err() {
                        // It reads no more.
                        break;
                    }
                    if stops {
                        life::stop_all();
                    }
                }
                Err(_) if is_terminal && !terminal::in_foreground() => {}
                Err(e) => {
                    // Told at the end, when the terminal takes lines again.
                    if let Ok(mut failure) = failure.lock() {
                        *failure = Some(e);
                    }
                    break;
                }
            }
        }
    })?;
    Ok(())
}

/// Waits until something is typed that is for us: from the background, what is typed is not read.
fn wait_to_be_typed_at() {
    loop {
        if !terminal::in_foreground() {
            while !terminal::in_foreground() {
                thread::sleep(FOREGROUND_PAUSE);
            }
            terminal::enter();
            // A new size is reported to the foreground alone.
            let _ = signal_hook::low_level::raise(SIGWINCH);
        }
        // Fails only for an interruption, after which we look again.
        let _ = poll(&mut [PollFd::new(&io::stdin(), PollFlags::IN)], None);
        if terminal::in_foreground() {
            return;
        }
    }
}

/// Begins the recording, if one is wanted.
pub(super) fn record(run: &Run, tty: bool) -> Result<Option<Recording>, String> {
    let Some(path) = &run.record else {
        return Ok(None);
    };
    let size = terminal::size().unwrap_or((24, 80));
    let recording = Recording::create(path, &run.command, size, tty);
    recording
        .map(Some)
        .map_err(|e| format!("--record {}: {e}", path.display()))
}

/// Prints what the program prints, until its end, and records it.
pub(super) fn print(
    process: &mut Process,
    mut recording: Option<&mut Recording>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut stdout = Some(RetryIo(io::stdout()));
    let mut failure = None;
    let mut record = |stream, bytes: &[u8]| {
        if let Some(recording) = &mut recording {
            // A new size shows only in what is printed after it.
            recording.resized(terminal::size().unwrap_or((24, 80)));
            recording.output(stream, bytes);
        }
    };
    for event in process.events() {
        match event? {
            Event::Stdout(bytes) => {
                record(Shown::Stdout, &bytes);
                let print = || stdout.as_mut().map(|stdout| stdout.write_all(&bytes));
                let (printed, stops) = terminal::printing(&bytes, print);
                if let Some(Err(e)) = printed {
                    stdout = None;
                    // As it would have been told itself; and if it does not listen, it ends as well.
                    process.post_signal("PIPE", Some(UNHEARD_WAIT));
                    if e.kind() != io::ErrorKind::BrokenPipe {
                        failure = Some(e);
                    }
                }
                if stops {
                    life::stop_all();
                }
            }
            // Where stderr is not read, there is no place left to say so.
            Event::Stderr(bytes) => {
                record(Shown::Stderr, &bytes);
                drop(RetryIo(io::stderr()).write_all(&bytes));
            }
        }
    }
    match failure {
        None => Ok(()),
        Some(e) => Err(format!("stdout: {e}").into()),
    }
}
