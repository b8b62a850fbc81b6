//! The server, as far as its end is ours to wait for.
//!
//! **Thread:** `client-read` waits for its end when its output has ended; the thread that starts or
//! closes a client kills one that does not answer or does not exit.
//! **Owns:** the thread in this program, or the child that was launched.
//! **Never:** waits longer than [`SERVER_END_WAIT`] for a child that has not been killed.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::error::excerpt;
use crate::sys::{self, Thread, lock};

/// How long a server that reads no more requests, or whose output has ended, may take to end.
pub(super) const SERVER_END_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Server {
    kind: Mutex<Option<Kind>>,
    name: String,
    pid: Option<u32>,
    /// Where a launched command runs.
    directory: Option<PathBuf>,
}

enum Kind {
    Thread(Thread<Result<crate::End, crate::Error>>),
    Child(Child),
}

impl Server {
    pub(super) fn thread(thread: Thread<Result<crate::End, crate::Error>>) -> Server {
        Server {
            kind: Mutex::new(Some(Kind::Thread(thread))),
            ..Server::elsewhere()
        }
    }

    pub(super) fn child(child: Child, command: &Command) -> Server {
        Server {
            pid: Some(child.id()),
            name: command_line(command),
            directory: match command.get_current_dir() {
                Some(directory) => std::path::absolute(directory).ok(),
                None => std::env::current_dir().ok(),
            },
            kind: Mutex::new(Some(Kind::Child(child))),
        }
    }

    pub(super) fn elsewhere() -> Server {
        Server {
            kind: Mutex::new(None),
            name: "the server".to_owned(),
            pid: None,
            directory: None,
        }
    }

    pub(super) fn rename(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }

    /// What errors call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    pub(super) fn directory(&self) -> Option<&PathBuf> {
        self.directory.as_ref()
    }

    /// Waits for its end, which comes with the end of its output; what was wrong with it. One that is
    /// `lost` makes no sense and is killed if it is still there; so is one that stays without output.
    pub(super) fn finish(&self, lost: bool) -> Option<String> {
        let name = &self.name;
        let kind = lock(&self.kind).take();
        match kind? {
            Kind::Thread(thread) => match thread.join() {
                Ok(Ok(_)) => None,
                Ok(Err(e)) => Some(e.to_string()),
                Err(_) => Some("the server has panicked".to_owned()),
            },
            Kind::Child(mut child) => {
                // Where this cannot be known, it is waited for.
                let stays = !lost && !sys::ends_by(&child, Instant::now() + SERVER_END_WAIT).unwrap_or(true);
                if lost || stays {
                    // Fails only for one that has ended already.
                    let _ = child.kill();
                }
                match child.wait() {
                    Ok(_) if stays => Some(format!("{name} closed its output and went on")),
                    Ok(status) if status.success() || lost => None,
                    Ok(status) => Some(format!("{name} ended with {status}")),
                    Err(e) => Some(format!("{name} cannot be waited for: {e}")),
                }
            }
        }
    }

    /// Kills and reaps a child that is still there. Its own children may keep its output open, so the
    /// end of that is not waited for. What became of it, as the end of a sentence; nothing if it is not
    /// a child.
    pub(super) fn kill(&self) -> String {
        let mut kind = lock(&self.kind);
        let mut child = match kind.take() {
            Some(Kind::Child(child)) => child,
            other => {
                *kind = other;
                return String::new();
            }
        };
        if let Ok(Some(status)) = child.try_wait() {
            return format!(", and has ended with {status}");
        }
        // Both fail only for one that has ended.
        let _ = child.kill();
        let _ = child.wait();
        ", and was killed".to_owned()
    }
}

/// A command as errors name it.
pub(super) fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("\"{}\"", excerpt(&words.join(" ")))
}
