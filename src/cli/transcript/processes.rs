//! Which processes of a conversation can still print something.
//!
//! **Thread:** the caller's.
//! **Owns:** the handles of those that run, by what was sent and what has come.
//! **Never:** says that none is left while one may still be started.

use serde_json::Value;

use crate::wire::protocol::notification;

/// The request that starts a process.
pub(super) const SPAWN: &str = "process/spawn";

/// Which processes there are, as far as the session shows.
#[derive(Default)]
pub(super) struct Processes {
    /// Spawns that are not answered yet: their ids and handles.
    starting: Vec<(Value, Value)>,
    running: Vec<Value>,
    /// One has been started, and has ended or could not be started.
    any_ended: bool,
}

impl Processes {
    /// Takes a line of the client.
    pub(super) fn sent(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            return;
        };
        if let (Some(SPAWN), Some(id)) = (message["method"].as_str(), message.get("id")) {
            let handle = message["params"]["processHandle"].clone();
            self.starting.push((id.clone(), handle));
        }
    }

    /// Takes a message of the server.
    pub(super) fn came(&mut self, message: &Value) {
        if message["method"] == notification::EXITED {
            let handle = &message["params"]["processHandle"];
            if let Some(at) = self.running.iter().position(|running| running == handle) {
                self.running.remove(at);
                self.any_ended = true;
            }
        } else if let Some(id) = message.get("id")
            && let Some(at) = self.starting.iter().position(|(spawn, _)| spawn == id)
        {
            let (_, handle) = self.starting.remove(at);
            match message.get("result") {
                Some(_) => self.running.push(handle),
                None => self.any_ended = true,
            }
        }
    }

    /// Whether none is left that could print something.
    pub(super) fn are_over(&self) -> bool {
        self.any_ended && self.running.is_empty() && self.starting.is_empty()
    }
}
