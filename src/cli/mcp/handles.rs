//! The processes of a session: those that run, and those that have ended and can still be read.
//!
//! **Thread:** `mcp`.
//! **Owns:** the table of handles, and what is kept of their output.
//! **Never:** keeps more ended processes than may run at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::buffer::Kept;
use crate::wire::protocol::{Exited, Stream};

/// How many names of processes are remembered whose output is not.
const DROPPED_NAMES: usize = 256;

/// How long it takes at least and at most until a process is looked at again, whether it waits for input.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
const MAX_LOOK_PAUSE: Duration = Duration::from_millis(250);

/// One process, from the request to start it until it is forgotten.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    pub(super) cwd: Option<String>,
    pub(super) tty: bool,
    /// Whether it can be written to.
    pub(super) has_stdin: bool,
    pub(super) started_at_ms: u64,
    /// Once it runs.
    pub(super) pid: Option<u32>,
    pub(super) exited: Option<Exited>,
    outputs: [Output; 2],
    pub(super) last_output: Instant,
    /// The call that has started it was cancelled: it is killed, and nothing of it is kept.
    pub(super) forgotten: bool,
    /// When it was last asked, and is not answered yet, whether it waits for input.
    pub(super) look_asked: Option<Instant>,
    /// When it may be asked again.
    pub(super) next_look: Instant,
    look_pause: Duration,
}

/// One stream of it.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) kept: Kept,
    /// Up to where it has been shown.
    pub(super) cursor: u64,
    /// How much there was then: what is not finished is not shown, and is not new either.
    pub(super) seen: u64,
}

impl Handle {
    pub(super) fn new(name: String, command: Vec<String>, now: Instant) -> Handle {
        Handle {
            name,
            command,
            cwd: None,
            tty: false,
            has_stdin: false,
            started_at_ms: 0,
            pid: None,
            exited: None,
            outputs: Default::default(),
            last_output: now,
            forgotten: false,
            look_asked: None,
            next_look: now,
            look_pause: LOOK_PAUSE,
        }
    }

    /// It prints, or is written to: what it waits for may be another thing soon.
    pub(super) fn stirs(&mut self, now: Instant) {
        self.look_pause = LOOK_PAUSE;
        self.next_look = self.next_look.min(now + LOOK_PAUSE);
    }

    /// A look is over; when it was asked for.
    pub(super) fn looked(&mut self, now: Instant) -> Option<Instant> {
        self.next_look = now + self.look_pause;
        self.look_pause = (2 * self.look_pause).min(MAX_LOOK_PAUSE);
        self.look_asked.take()
    }

    pub(super) fn output(&self, stream: Stream) -> &Output {
        &self.outputs[index(stream)]
    }

    pub(super) fn output_mut(&mut self, stream: Stream) -> &mut Output {
        &mut self.outputs[index(stream)]
    }
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

/// All of them, in the order they were started.
#[derive(Debug)]
pub(super) struct Handles {
    all: Vec<Handle>,
    /// How many may run at once, and how many ended ones are kept.
    most: usize,
    next: u64,
    /// Names of ended ones that were dropped for newer ones, the oldest first.
    dropped: VecDeque<String>,
}

impl Handles {
    pub(super) fn new(most: usize) -> Handles {
        Handles {
            all: Vec::new(),
            most,
            next: 1,
            dropped: VecDeque::new(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Handle> {
        self.all.iter()
    }

    pub(super) fn get(&mut self, name: &str) -> Option<&mut Handle> {
        self.all.iter_mut().find(|handle| handle.name == name)
    }

    /// The one an agent means, or why there is none.
    pub(super) fn find(&mut self, name: &str) -> Result<&mut Handle, String> {
        if let Some(at) = self.all.iter().position(|handle| handle.name == name) {
            return Ok(&mut self.all[at]);
        }
        if self.dropped.iter().any(|dropped| dropped == name) {
            return Err(format!(
                "{name} has ended, and its output was dropped for that of newer processes: {} are kept",
                self.most
            ));
        }
        let names: Vec<&str> = self.all.iter().map(|handle| &*handle.name).collect();
        Err(match names.is_empty() {
            true => format!("there is no process {name:?}, nor any other"),
            false => format!("there is no process {name:?}; there are {}", names.join(", ")),
        })
    }

    /// A name for a new process, which takes the place of an ended one of that name.
    pub(super) fn free_name(&mut self, wanted: &str) -> Result<String, String> {
        let running = self.all.iter().filter(|handle| handle.exited.is_none());
        if running.count() >= self.most {
            return Err(format!(
                "{} processes run already, which is the most (--max-handles): kill one of them, or wait \
                 for its end",
                self.most
            ));
        }
        if wanted.is_empty() {
            loop {
                let name = format!("p{}", self.next);
                self.next += 1;
                if self.get(&name).is_none() {
                    return Ok(name);
                }
            }
        }
        if wanted.chars().any(char::is_control) {
            return Err(format!("handle {wanted:?} has a control character in it"));
        }
        match self.get(wanted) {
            Some(Handle { exited: None, .. }) => Err(format!(
                "{wanted} is running: kill it first, or choose another handle"
            )),
            _ => Ok(wanted.to_owned()),
        }
    }

    /// Adds a process whose name was free.
    pub(super) fn add(&mut self, handle: Handle) {
        self.remove(&handle.name);
        self.all.push(handle);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.all.retain(|handle| handle.name != name);
    }

    /// Takes the end of a process; that of another may have to make room.
    pub(super) fn end(&mut self, name: &str) {
        let Some(handle) = self.get(name) else {
            return;
        };
        for output in &mut handle.outputs {
            output.kept.shrink();
        }
        if handle.forgotten {
            self.remove(name);
        }
        let ended = self.all.iter().filter(|handle| handle.exited.is_some());
        if ended.count() <= self.most {
            return;
        }
        if let Some(oldest) = self.all.iter().position(|handle| handle.exited.is_some()) {
            self.dropped.push_back(self.all.remove(oldest).name);
            if self.dropped.len() > DROPPED_NAMES {
                self.dropped.pop_front();
            }
        }
    }
}
