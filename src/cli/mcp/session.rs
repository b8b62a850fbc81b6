//! One session: which calls wait for what, and what is answered when.
//!
//! **Thread:** `mcp`.
//! **Owns:** the calls that are not answered yet, the table of handles, the way to the engine.
//! **Never:** waits for anything: it is told what has come and what time it is, and says until when it
//! need not be told again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use base64_simd::STANDARD;
use serde_json::{Map, Value};

use super::handles::{Handle, Handles};
use super::protocol::{self, Id, Incoming, Reply, Request};
use super::report::{self, From, Reason, View};
use super::tools::{self, Arguments, Kind};
use super::wait::Wait;
use crate::server::connection::ClientSender;
use crate::wire::protocol::{
    self as wire, KillParams, Limit, PtySize, RequestId, ResizePtyParams, RpcError, ServerMessage,
    SpawnParams, Stream, WriteStdinParams, code,
};

/// How many calls may wait at once.
const MAX_CALLS: usize = 64;
/// How many answers may wait for a client that does not read; then its requests wait, too.
const MAX_UNSENT: usize = 64;
/// How long a kill is waited for, unless the call says otherwise.
const KILL_WAIT: Duration = Duration::from_secs(2);
/// What a program on a terminal finds as TERM where the server has none.
const DEFAULT_TERM: &str = "xterm-256color";

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// How a session is run.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// How long a call waits unless it says otherwise.
    pub(super) patience: Duration,
    pub(super) max_handles: usize,
    /// What a relative directory is below, and where programs run otherwise; `None`: the server's own.
    pub(super) directory: Option<PathBuf>,
}

pub(super) struct Session {
    settings: Settings,
    /// `None` once the client has said all.
    engine: Option<ClientSender>,
    /// Numbers requests to the engine, and calls.
    next: i64,
    version: &'static str,
    handles: Handles,
    calls: BTreeMap<i64, Call>,
    /// Which process a request to the engine is to start.
    spawns: HashMap<i64, String>,
    unsent: VecDeque<Vec<u8>>,
}

/// A call of a tool that is not answered yet.
struct Call {
    reply: Reply,
    kind: Kind,
    handle: String,
    view: View,
    deadline: Instant,
    /// The request to the engine whose answer it waits for first.
    asked: Option<i64>,
    /// What it waits for then; `None`: nothing.
    wait: Option<Wait>,
}

/// A call with an outcome: now, or after something has been waited for.
enum Outcome {
    Now(Value),
    Later(Call),
}

impl Session {
    pub(super) fn new(settings: Settings, engine: ClientSender) -> Session {
        Session {
            handles: Handles::new(settings.max_handles),
            settings,
            engine: Some(engine),
            next: 1,
            version: "",
            calls: BTreeMap::new(),
            spawns: HashMap::new(),
            unsent: VecDeque::new(),
        }
    }

    /// The line that is to be written next.
    pub(super) fn unsent(&mut self) -> &mut VecDeque<Vec<u8>> {
        &mut self.unsent
    }

    /// Whether a message of the client is welcome now.
    pub(super) fn takes_messages(&self) -> bool {
        self.engine.is_some() && self.unsent.len() < MAX_UNSENT
    }

    // ---- the client ----

    pub(super) fn from_client(&mut self, incoming: Incoming, now: Instant) {
        match incoming {
            Incoming::Request(request) => self.request(request, now),
            Incoming::Cancelled(id) => self.cancelled(&id),
            Incoming::Nothing => {}
            Incoming::Batch(messages) if protocol::has_batches(self.version) => {
                for message in messages {
                    self.from_client(message, now);
                }
            }
            Incoming::Batch(_) => self.unsent.push_back(protocol::no_batches()),
            Incoming::Invalid(answer) => self.unsent.push_back(answer),
        }
    }

    /// The client sends nothing more: what it has started ends.
    pub(super) fn client_is_gone(&mut self) {
        self.engine = None;
    }

    fn request(&mut self, request: Request, now: Instant) {
        let Request {
            reply,
            method,
            params,
        } = request;
        let answer = match &*method {
            "initialize" if !reply.is_stateless() => match protocol::negotiate(&params) {
                Ok(version) => {
                    self.version = version;
                    reply.result(protocol::initialized(version))
                }
                Err(why) => reply.error(code::INVALID_PARAMS, &format!("initialize: {why}")),
            },
            "server/discover" if reply.is_stateless() => reply.result(protocol::discovered()),
            "ping" => reply.result(Value::Object(Map::new())),
            "tools/list" => match params.get("cursor") {
                None | Some(Value::Null) => reply.result(protocol::cacheable(tools::list())),
                Some(_) => reply.error(
                    code::INVALID_PARAMS,
                    "tools/list: there is only one page, and no cursor",
                ),
            },
            "tools/call" => match self.call(&reply, params, now) {
                Ok(Some(result)) => reply.result(result),
                Ok(None) => return,
                Err(error) => reply.error(error.code, &error.message),
            },
            _ => reply.error(code::METHOD_NOT_FOUND, &format!("unknown method {method:?}")),
        };
        self.unsent.push_back(answer);
    }

    /// Begins a call; its result, if it has one already.
    fn call(
        &mut self,
        reply: &Reply,
        mut params: Map<String, Value>,
        now: Instant,
    ) -> Result<Option<Value>, RpcError> {
        let wrong = |why: String| RpcError::new(code::INVALID_PARAMS, why);
        let Some(Value::String(name)) = params.remove("name") else {
            return Err(wrong("tools/call: the name of a tool is missing".to_owned()));
        };
        let tool = tools::find(&name)
            .ok_or_else(|| wrong(format!("unknown tool {name:?}; there are {}", tools::names())))?;
        let given = match params.remove("arguments") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(given)) => given,
            Some(_) => return Err(wrong(format!("{name}: arguments must be an object"))),
        };
        if self.calls.values().any(|call| call.reply.id == reply.id) {
            let why = "another request with this id is not answered yet";
            return Err(RpcError::new(code::INVALID_REQUEST, why));
        }
        let outcome = tool.arguments(given).and_then(|arguments| {
            // What ends a wait is never refused for others that wait.
            let most = if tool.kind == Kind::Kill {
                2 * MAX_CALLS
            } else {
                MAX_CALLS
            };
            if self.calls.len() >= most && tool.kind != Kind::List {
                return Err(format!(
                    "{MAX_CALLS} calls wait already; cancel one, or wait for an answer"
                ));
            }
            match tool.kind {
                Kind::Run | Kind::Start => self.start(reply, tool.kind, arguments, now),
                Kind::Write => self.write(reply, arguments, now),
                Kind::Read => self.read(reply, &arguments, now),
                Kind::Kill => self.kill(reply, arguments, now),
                Kind::Resize => self.resize(reply, &arguments, now),
                Kind::List => Ok(Outcome::Now(report::listing(self.handles.iter()))),
            }
        });
        match outcome {
            Err(why) => Ok(Some(report::failure(&why))),
            Ok(Outcome::Now(result)) => Ok(Some(result)),
            Ok(Outcome::Later(call)) => {
                let number = self.number();
                self.calls.insert(number, call);
                self.look_at(number, now);
                Ok(None)
            }
        }
    }

    /// The client waits no longer: its call is not answered, and what it has started ends.
    fn cancelled(&mut self, id: &Id) {
        let found = self.calls.iter().find(|(_, call)| call.reply.id == *id);
        let Some(call) = found
            .map(|(&number, _)| number)
            .and_then(|number| self.calls.remove(&number))
        else {
            return;
        };
        if let (Kind::Run | Kind::Start, Some(handle)) = (call.kind, self.handles.get(&call.handle)) {
            handle.forgotten = true;
            let kill = KillParams {
                process_handle: call.handle,
                ..KillParams::default()
            };
            // Without an engine everything ends anyway.
            let _ = self.ask(wire::Request::Kill(kill));
        }
    }

    // ---- tools ----

    fn start(
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
        let mut spawn = self.spawn_params(arguments)?;
        spawn.process_handle.clone_from(&name);
        // Prompts are answered with write, a run only has what it is given.
        spawn.stream_stdin = kind == Kind::Start || stdin.is_some();
        handle.command.clone_from(&spawn.command);
        handle.cwd.clone_from(&spawn.cwd);
        handle.tty = spawn.tty;
        handle.has_stdin = spawn.tty || kind == Kind::Start;
        handle.started_at_ms = milliseconds_since_1970();
        let asked = self.ask(wire::Request::Spawn(spawn))?;
        self.handles.add(handle);
        self.spawns.insert(asked, name.clone());
        if let Some(stdin) = stdin {
            // It takes effect behind the spawn, if that succeeds.
            self.ask(wire::Request::WriteStdin(WriteStdinParams {
                process_handle: name,
                delta: Some(stdin.into_bytes()),
                close_stdin: true,
            }))?;
        }
        call.asked = Some(asked);
        call.wait = wait;
        Ok(Outcome::Later(call))
    }

    fn spawn_params(&self, arguments: Arguments) -> Result<SpawnParams, String> {
        let command = match (arguments.command, arguments.argv) {
            (Some(line), None) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
            (None, Some(argv)) => argv,
            (None, None) => return Err("give either command, a line for /bin/sh, or argv".to_owned()),
            (Some(_), Some(_)) => return Err("give either command or argv, not both".to_owned()),
        };
        if !arguments.tty && (arguments.rows.is_some() || arguments.cols.is_some()) {
            return Err("rows and cols are those of a terminal: give tty as well".to_owned());
        }
        for text in &command {
            no_nul("the command", text)?;
        }
        let mut env = arguments.env;
        for (name, value) in &env {
            if name.is_empty() || name.contains('=') {
                return Err(format!("env: {name:?} cannot be the name of a variable"));
            }
            no_nul("env", name)?;
            no_nul("env", value.as_deref().unwrap_or_default())?;
        }
        let cwd = match (arguments.cwd, &self.settings.directory) {
            (None, None) => None,
            (wanted, base) => {
                let base = base.as_deref().unwrap_or(Path::new(""));
                let wanted = base.join(wanted.unwrap_or_default());
                let absolute = std::path::absolute(&wanted).map_err(|e| format!("cwd: {e}"))?;
                let absolute = absolute.to_str().ok_or("the server's directory is not UTF-8")?;
                no_nul("cwd", absolute)?;
                Some(absolute.to_owned())
            }
        };
        if arguments.tty {
            // These two would contradict the size of the terminal.
            for name in ["COLUMNS", "LINES"] {
                env.entry(name.to_owned()).or_insert(None);
            }
            if std::env::var_os("TERM").is_none() {
                env.entry("TERM".to_owned())
                    .or_insert_with(|| Some(DEFAULT_TERM.to_owned()));
            }
        }
        if let Some(cwd) = &cwd {
            env.entry("PWD".to_owned()).or_insert_with(|| Some(cwd.clone()));
        }
        let default = PtySize::default();
        Ok(SpawnParams {
            command,
            cwd,
            env: (!env.is_empty()).then_some(env),
            tty: arguments.tty,
            size: arguments.tty.then_some(PtySize {
                rows: arguments.rows.unwrap_or(default.rows),
                cols: arguments.cols.unwrap_or(default.cols),
            }),
            stream_stdout_stderr: true,
            output_bytes_cap: Limit::Unlimited,
            timeout_ms: arguments.timeout_ms.map_or(Limit::Unlimited, Limit::Of),
            ..SpawnParams::default()
        })
    }

    fn write(&mut self, reply: &Reply, arguments: Arguments, now: Instant) -> Result<Outcome, String> {
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
        call.asked = Some(self.ask(wire::Request::WriteStdin(WriteStdinParams {
            process_handle: name,
            delta,
            close_stdin: arguments.eof,
        }))?);
        call.wait = wait;
        Ok(Outcome::Later(call))
    }

    fn read(&mut self, reply: &Reply, arguments: &Arguments, now: Instant) -> Result<Outcome, String> {
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
            return Err("stream says what offset means: give offset as well".to_owned());
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
        Ok(Outcome::Later(call))
    }

    fn kill(&mut self, reply: &Reply, arguments: Arguments, now: Instant) -> Result<Outcome, String> {
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
        call.asked = Some(self.ask(wire::Request::Kill(KillParams {
            process_handle: name,
            signal: arguments.signal,
            grace_ms: arguments.grace_ms,
        }))?);
        call.wait = Some(Wait::for_exit(now));
        Ok(Outcome::Later(call))
    }

    fn resize(&mut self, reply: &Reply, arguments: &Arguments, now: Instant) -> Result<Outcome, String> {
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
        call.asked = Some(self.ask(wire::Request::ResizePty(ResizePtyParams {
            process_handle: name,
            size: PtySize {
                rows: arguments.rows.unwrap_or(default.rows),
                cols: arguments.cols.unwrap_or(default.cols),
            },
        }))?);
        Ok(Outcome::Later(call))
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
            asked: None,
            wait: None,
        }
    }

    fn number(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// Sends a request to the engine; its number.
    fn ask(&mut self, request: wire::Request) -> Result<i64, String> {
        const ENDING: &str = "the connection is ending";
        let number = self.number();
        let engine = self.engine.as_ref().ok_or(ENDING)?;
        engine.send(number, request).map_err(|_| ENDING)?;
        Ok(number)
    }

    // ---- the engine ----

    pub(super) fn from_engine(&mut self, message: ServerMessage, now: Instant) {
        match message {
            ServerMessage::Response {
                id: Some(RequestId::Signed(number)),
                outcome,
            } => self.answered(number, outcome, now),
            ServerMessage::Response { .. } => {}
            ServerMessage::OutputDelta(delta) => {
                let Some(handle) = self.handles.get(&delta.process_handle) else {
                    return;
                };
                handle.last_output = now;
                handle.output_mut(delta.stream).kept.push(&delta.bytes);
                for call in self.calls.values_mut() {
                    let shows = call.handle == *delta.process_handle
                        && call.view.start(handle, delta.stream).is_some();
                    if let (true, Some(wait)) = (shows, &mut call.wait) {
                        wait.printed(delta.stream, &delta.bytes);
                    }
                }
                self.look_at_all_of(&delta.process_handle, now);
            }
            ServerMessage::Exited(exited) => {
                let name = exited.process_handle.clone();
                if let Some(handle) = self.handles.get(&name) {
                    handle.exited = Some(*exited);
                    self.look_at_all_of(&name, now);
                    self.handles.end(&name);
                }
            }
        }
    }

    fn answered(&mut self, number: i64, outcome: Result<wire::Reply, RpcError>, now: Instant) {
        if let Some(name) = self.spawns.remove(&number) {
            match (&outcome, self.handles.get(&name)) {
                (Ok(wire::Reply::Spawn { pid }), Some(handle)) => handle.pid = Some(*pid),
                (Err(error), _) => {
                    self.handles.remove(&name);
                    // Whatever else was called on it has nothing to wait for.
                    let of_name = self.calls.iter().filter(|(_, call)| call.handle == name);
                    let numbers: Vec<i64> = of_name.map(|(&number, _)| number).collect();
                    for number in numbers {
                        self.finish(number, report::failure(&error.message));
                    }
                }
                _ => {}
            }
        }
        let found = self.calls.iter_mut().find(|(_, call)| call.asked == Some(number));
        let Some((&number, call)) = found else {
            return;
        };
        call.asked = None;
        match outcome {
            Ok(_) => {
                if let Some(wait) = &mut call.wait {
                    wait.begin(now);
                }
                self.look_at(number, now);
            }
            Err(error) => {
                let result = report::failure(&error.message);
                self.finish(number, result);
            }
        }
    }

    /// The engine has ended: what is not answered yet never will be otherwise.
    pub(super) fn engine_is_gone(&mut self) {
        self.engine = None;
        for (_, call) in std::mem::take(&mut self.calls) {
            let result = report::failure("the connection has ended");
            self.unsent.push_back(call.reply.result(result));
        }
    }

    // ---- answers ----

    /// When there is something to do although nothing comes.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let mut first = None;
        for call in self.calls.values() {
            let mut at = call.deadline;
            if let (None, Some(wait), Some(handle)) = (call.asked, &call.wait, self.handles.get(&call.handle))
            {
                at = wait.next_look(handle).map_or(at, |look| look.min(at));
            }
            first = Some(first.map_or(at, |first: Instant| first.min(at)));
        }
        first
    }

    /// Answers the calls whose time has come.
    pub(super) fn time_is(&mut self, now: Instant) {
        let all: Vec<i64> = self.calls.keys().copied().collect();
        for number in all {
            self.look_at(number, now);
        }
    }

    fn look_at_all_of(&mut self, name: &str, now: Instant) {
        let of_name = self.calls.iter().filter(|(_, call)| call.handle == name);
        let numbers: Vec<i64> = of_name.map(|(&number, _)| number).collect();
        for number in numbers {
            self.look_at(number, now);
        }
    }

    /// Answers a call if what it waits for has come.
    fn look_at(&mut self, number: i64, now: Instant) {
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        let Some(handle) = self.handles.get(&call.handle) else {
            return;
        };
        let late = (now >= call.deadline).then_some(Reason::Time);
        let reason = match (call.asked, &mut call.wait) {
            (Some(_), _) => late,
            (None, Some(wait)) => wait.holds(handle, &call.view, now).or(late),
            (None, None) if call.kind == Kind::Start => Some(Reason::Started),
            (None, None) => Some(Reason::Done),
        };
        if let Some(reason) = reason {
            let result = report::report(handle, call.view, reason);
            self.finish(number, result);
        }
    }

    fn finish(&mut self, number: i64, result: Value) {
        if let Some(call) = self.calls.remove(&number) {
            self.unsent.push_back(call.reply.result(result));
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

fn no_nul(what: &str, text: &str) -> Result<(), String> {
    match text.contains('\0') {
        true => Err(format!("{what} has a NUL in it, which no program can be given")),
        false => Ok(()),
    }
}

fn milliseconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
