//! The door for the fuzzers in `tests/fuzz` and the counting in `tests/cost`; compiled for them alone
//! (`--cfg fuzzing`).
//!
//! **Thread:** none of its own.
//! **Owns:** what a fuzzed server may start, whatever it is asked to start: `cat`, without arguments.
//! **Never:** part of any other build.

use std::collections::BTreeMap;

use crate::wire::framing::{Frame, Frames};
use crate::wire::message;
pub use crate::wire::message::ClientMessage;
use crate::wire::protocol::{Redirect, ServerMessage, SpawnParams};

/// Understands one line, without its end; also whether it carries `"jsonrpc":"2.0"`.
pub fn parse(line: &[u8]) -> (ClientMessage, Option<bool>) {
    let parsed = message::parse(line);
    (parsed.message, parsed.jsonrpc)
}

/// The messages of an input that has headers, and `None` for each piece that is none; or nothing if
/// the input has lines.
pub fn bodies(input: &[u8], limit: usize) -> Option<Vec<Option<Vec<u8>>>> {
    let mut frames = Frames::new(input, limit);
    let Ok(Frame::Headers) = frames.next() else {
        return None;
    };
    let mut bodies = Vec::new();
    loop {
        bodies.push(match frames.next() {
            Ok(Frame::Message(body)) => Some(body.to_vec()),
            Ok(Frame::Invalid(_)) => None,
            Ok(Frame::Headers) => unreachable!("told once"),
            Ok(Frame::End) | Err(_) => return Some(bodies),
        });
    }
}

/// Starts programs as where the system refuses `close_range`, which callgrind can follow.
#[cfg(target_os = "linux")]
pub fn copy_descriptor_tables() {
    crate::sys::copy_descriptor_tables();
}

/// A message as a line, its end included.
pub fn encode(message: &ServerMessage, jsonrpc: bool) -> Vec<u8> {
    let mut line = Vec::new();
    message::encode(&mut line, message, jsonrpc);
    line
}

/// The same spawn with `cat` as its program, found in the same way, no variable that would mean
/// anything to it, and no file.
pub(crate) fn harmless(params: &SpawnParams) -> SpawnParams {
    let found_by_path = params
        .command
        .first()
        .is_some_and(|program| program.contains('/'));
    let program = if found_by_path { "/bin/cat" } else { "cat" };
    let renamed = |env: &BTreeMap<String, Option<String>>| {
        let rename = |(name, value): (&String, &Option<String>)| (format!("FUZZED_{name}"), value.clone());
        env.iter().map(rename).collect()
    };
    let fileless = |redirect: &Option<Redirect>| match redirect {
        Some(Redirect::File(_)) => Some(Redirect::Null),
        other => other.clone(),
    };
    SpawnParams {
        command: vec![program.to_owned()],
        env: params.env.as_ref().map(renamed),
        stdin: fileless(&params.stdin),
        stdout: fileless(&params.stdout),
        stderr: fileless(&params.stderr),
        ..params.clone()
    }
}
