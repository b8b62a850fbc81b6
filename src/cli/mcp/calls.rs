//! What each tool starts: the requests to the engine, and what the call waits for.
//!
//! **Thread:** `mcp`.
//! **Owns:** nothing; the session has what these start.
//! **Never:** waits, or sends a request before all arguments are checked.

use std::time::{Duration, Instant, SystemTime};

use base64_simd::STANDARD;

use super::handles::Handle;
use super::protocol::Reply;
use super::report::{self, From, Reason, View};
use super::session::{Call, Outcome, Session};
use super::spawn;
use super::tools::{Arguments, Kind};
use super::wait::Wait;
use crate::wire::protocol::{
    InspectParams, KillParams, PtySize, Request, ResizePtyParams, Stream, WriteStdinParams,
};

/// How long a kill is waited for, unless the call says otherwise.
const KILL_WAIT: Duration = Duration::from_secs(2);
/// How long the engine is waited for at least, whatever the call says: that a program cannot be started,
/// for example, should not be told by the next call.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// How long an inspection is waited for, which the engine answers within 2 s.
const INSPECT_WAIT: Duration = Duration::from_secs(10);

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

impl Session {
    pub(super) fn start(
        &mut self,
        reply: &Reply,
        kind: Kind,
        arguments: Arguments,
        now: Instant,
    ) -> Result<Outcome, String> {
        let name = self.handles.free_name(&arguments.handle)?;
        let wait = match kind {
            Kind::Run => Some(Wait::for_exit(now)),
            _ => Wait::of(&arguments, view(&arguments).style(arguments.tty), now),
        };
        let mut handle = Handle::new(name.clone(), Vec::new(), now);
        let mut call = self.new_call(reply, kind, &name, &arguments, now);
        let stdin = arguments.stdin.clone();
        let mut spawn = spawn::params(arguments, self.settings.directory.as_deref())?;
        spawn.process_handle.clone_from(&name);
        // Prompts are answered with write, a run only has what it is given.
        spawn.stream_stdin = kind == Kind::Start || stdin.is_some();
        handle.command.clone_from(&spawn.command);
        handle.cwd.clone_from(&spawn.cwd);
        handle.tty = spawn.tty;
        handle.has_stdin = spawn.tty || kind == Kind::Start;
        handle.started_at_ms = milliseconds_since_1970();
        let asked = self.ask(Request::Spawn(spawn.into()))?;
        self.handles.add(handle);
        self.spawns.insert(asked, name.clone());
        if let Some(stdin) = stdin {
            // It takes effect after the spawn, if that succeeds.
            self.ask(Request::WriteStdin(WriteStdinParams {
                process_handle: name,
                delta: Some(stdin.into_bytes()),
                close_stdin: true,
            }))?;
        }
        call.asked = Some(asked);
        call.wait = wait;
        Ok(Outcome::Later(Box::new(call)))
    }

    pub(super) fn write(
        &mut self,
        reply: &Reply,
        arguments: Arguments,
        now: Instant,
    ) -> Result<Outcome, String> {
        let handle = self.handles.find(&arguments.handle)?;
        let name = handle.name.clone();
        if handle.exited.is_some() {
            return Err(format!("{name} has ended: there is nothing to write to"));
        }
        if !handle.has_stdin {
            return Err(format!(
                "{name} has no input to write to: use start for a program that is written to"
            ));
        }
        let style = view(&arguments).style(handle.tty);
        let mut wait = Wait::of(&arguments, style, now);
        if let Some(wait) = &mut wait {
            // What has been printed so far is not the reaction, but half a character may belong to it.
            for stream in STREAMS {
                let output = handle.output(stream);
                if output.seen == output.kept.total() {
                    let held_back = output.kept.part(output.cursor, usize::MAX);
                    wait.printed(stream, &held_back.head);
                }
            }
        }
        let mut call = self.new_call(reply, Kind::Write, &name, &arguments, now);
        if wait.is_none() {
            // What it prints is for the next call that waits for it.
            call.view.from = From::Nowhere;
        }
        let delta = match (arguments.text, arguments.base64) {
            (Some(_), Some(_)) => return Err("give either text or base64, not both".to_owned()),
            (Some(text), None) => Some(text.into_bytes()),
            (None, Some(base64)) => Some(
                STANDARD
                    .decode_to_vec(base64)
                    .map_err(|_| "base64 is not in the standard alphabet with padding")?,
            ),
            (None, None) if arguments.eof => None,
            (None, None) => return Err("give text, base64 or eof".to_owned()),
        };
        call.asked = Some(self.ask(Request::WriteStdin(WriteStdinParams {
            process_handle: name,
            delta,
            close_stdin: arguments.eof,
        }))?);
        call.wait = wait;
        Ok(Outcome::Later(Box::new(call)))
    }

    pub(super) fn read(
        &mut self,
        reply: &Reply,
        arguments: &Arguments,
        now: Instant,
    ) -> Result<Outcome, String> {
        let handle = self.handles.find(&arguments.handle)?;
        let mut view = view(arguments);
        if let Some(offset) = arguments.offset {
            let stream = arguments.stream.unwrap_or(Stream::Stdout);
            let total = handle.output(stream).kept.total();
            let from = match u64::try_from(offset) {
                Ok(from) if from > total => {
                    return Err(format!(
                        "offset {from} is beyond the end of {} of {}, which has {total} bytes so far",
                        stream.name(),
                        handle.name
                    ));
                }
                Ok(from) => from,
                Err(_) => total.saturating_sub(offset.unsigned_abs()),
            };
            view.from = From::Offset(stream, from);
        } else if arguments.stream.is_some() {
            return Err("stream requires offset".to_owned());
        }
        let style = view.style(handle.tty);
        let mut wait = Wait::of(arguments, style, now).unwrap_or_else(|| Wait::for_output(now));
        for stream in STREAMS {
            if let (Some(from), true) = (view.start(handle, stream), wait.searches()) {
                let part = handle.output(stream).kept.part(from, usize::MAX);
                wait.printed(stream, &part.head);
                if part.is_cut() {
                    wait.lost(stream);
                }
                wait.printed(stream, &part.tail);
            }
        }
        let name = handle.name.clone();
        let mut call = self.new_call(reply, Kind::Read, &name, arguments, now);
        call.view = view;
        call.wait = Some(wait);
        Ok(Outcome::Later(Box::new(call)))
    }

    pub(super) fn kill(
        &mut self,
        reply: &Reply,
        arguments: Arguments,
        now: Instant,
    ) -> Result<Outcome, String> {
        let handle = self.handles.find(&arguments.handle)?;
        let name = handle.name.clone();
        if handle.exited.is_some() {
            return Ok(Outcome::Now(report::report(
                handle,
                view(&arguments),
                Reason::Exit,
            )));
        }
        let mut call = self.new_call(reply, Kind::Kill, &name, &arguments, now);
        if arguments.wait_ms.is_none() {
            let grace = Duration::from_millis(arguments.grace_ms.unwrap_or(0));
            call.deadline = now + (KILL_WAIT + grace).min(self.settings.patience);
        }
        call.asked = Some(self.ask(Request::Kill(KillParams {
            process_handle: name,
            signal: arguments.signal,
            grace_ms: arguments.grace_ms,
        }))?);
        call.wait = Some(Wait::for_exit(now));
        Ok(Outcome::Later(Box::new(call)))
    }

    pub(super) fn resize(
        &mut self,
        reply: &Reply,
        arguments: &Arguments,
        now: Instant,
    ) -> Result<Outcome, String> {
        let handle = self.handles.find(&arguments.handle)?;
        let name = handle.name.clone();
        if handle.exited.is_some() {
            return Err(format!("{name} has ended: it has no terminal any more"));
        }
        if !handle.tty {
            return Err(format!("{name} has no terminal: it was started without tty"));
        }
        let default = PtySize::default();
        let mut call = self.new_call(reply, Kind::Resize, &name, arguments, now);
        call.view.from = From::Nowhere;
        call.asked = Some(self.ask(Request::ResizePty(ResizePtyParams {
            process_handle: name,
            size: PtySize {
                rows: arguments.rows.unwrap_or(default.rows),
                cols: arguments.cols.unwrap_or(default.cols),
            },
        }))?);
        Ok(Outcome::Later(Box::new(call)))
    }

    pub(super) fn inspect(
        &mut self,
        reply: &Reply,
        arguments: &Arguments,
        now: Instant,
    ) -> Result<Outcome, String> {
        let handle = self.handles.find(&arguments.handle)?;
        let name = handle.name.clone();
        if handle.exited.is_some() {
            return Err(format!("{name} has ended: there is nothing to inspect"));
        }
        let mut call = self.new_call(reply, Kind::Inspect, &name, arguments, now);
        call.answer_deadline = now + INSPECT_WAIT;
        call.view.from = From::Nowhere;
        call.asked = Some(self.ask(Request::Inspect(InspectParams { process_handle: name }))?);
        Ok(Outcome::Later(Box::new(call)))
    }

    fn new_call(&self, reply: &Reply, kind: Kind, handle: &str, arguments: &Arguments, now: Instant) -> Call {
        let patience = arguments
            .wait_ms
            .map_or(self.settings.patience, Duration::from_millis);
        Call {
            reply: reply.clone(),
            kind,
            handle: handle.to_owned(),
            view: view(arguments),
            deadline: now + patience,
            answer_deadline: now + patience.max(ANSWER_WAIT),
            asked: None,
            wait: None,
        }
    }
}

fn view(arguments: &Arguments) -> View {
    View {
        from: From::Cursor,
        most: arguments.result_bytes(),
        raw: arguments.raw,
    }
}

fn milliseconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
