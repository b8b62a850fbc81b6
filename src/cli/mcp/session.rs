//! One session: which calls wait for what, and what is answered when.
//!
//! **Thread:** `mcp`.
//! **Owns:** the calls that are not answered yet, the table of handles, the way to the engine.
//! **Never:** waits for anything: it is given each event and the time, and returns until when it need
//! not be called again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::handles::Handles;
use super::parameter::quoted;
use super::protocol::{self, Id, Incoming, Reply, Request};
use super::report::{self, Reason, View};
use super::tools::{self, Kind};
use super::wait::Wait;
use crate::server::connection::ClientSender;
use crate::wire::protocol::{
    self as wire, InspectParams, KillParams, RequestId, RpcError, ServerMessage, code,
};

/// How many calls may wait at once.
const MAX_CALLS: usize = 64;
/// How many answers may wait for a client that does not read; then its requests wait, too.
const MAX_UNSENT: usize = 64;
/// And how many bytes of them.
const MAX_UNSENT_BYTES: usize = 16 * 1024 * 1024;

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
    pub(super) settings: Settings,
    /// `None` once the client has said all.
    engine: Option<ClientSender>,
    /// Numbers requests to the engine, and calls.
    next: i64,
    version: &'static str,
    pub(super) handles: Handles,
    calls: BTreeMap<i64, Call>,
    /// Which process a request to the engine is to start.
    pub(super) spawns: HashMap<i64, String>,
    /// Which process a request to the engine looks at, whether it waits for input.
    looks: HashMap<i64, String>,
    unsent: VecDeque<Vec<u8>>,
    /// What is left of an array of messages.
    batch: VecDeque<Incoming>,
}

/// A call of a tool that is not answered yet.
pub(super) struct Call {
    pub(super) reply: Reply,
    pub(super) kind: Kind,
    pub(super) handle: String,
    pub(super) view: View,
    pub(super) deadline: Instant,
    /// The request to the engine whose answer it waits for first.
    pub(super) asked: Option<i64>,
    /// Until when it waits for that answer.
    pub(super) answer_deadline: Instant,
    /// What it waits for then; `None`: nothing.
    pub(super) wait: Option<Wait>,
}

/// A call with an outcome: now, or after something has been waited for.
pub(super) enum Outcome {
    Now(Value),
    Later(Box<Call>),
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
            looks: HashMap::new(),
            unsent: VecDeque::new(),
            batch: VecDeque::new(),
        }
    }

    /// The line that is to be written next.
    pub(super) fn unsent(&mut self) -> &mut VecDeque<Vec<u8>> {
        &mut self.unsent
    }

    /// Whether a message of the client is welcome now.
    pub(super) fn takes_messages(&self) -> bool {
        self.batch.is_empty() && self.may_go_on()
    }

    fn may_go_on(&self) -> bool {
        let is_short = self.unsent.len() < MAX_UNSENT;
        is_short
            && self.engine.is_some()
            && self.unsent.iter().map(Vec::len).sum::<usize>() < MAX_UNSENT_BYTES
    }

    /// Whether there is more of an array of messages that can be served now.
    pub(super) fn is_behind(&self) -> bool {
        !self.batch.is_empty() && self.may_go_on()
    }

    /// Serves the next message of an array. The others wait, so that its length delays nothing else and
    /// its answers do not pile up.
    pub(super) fn catch_up(&mut self, now: Instant) {
        if self.is_behind()
            && let Some(message) = self.batch.pop_front()
        {
            self.client_says(message, now);
        }
    }

    // ---- the client ----

    pub(super) fn client_says(&mut self, incoming: Incoming, now: Instant) {
        match incoming {
            Incoming::Request(request) => self.request(request, now),
            Incoming::Cancelled(id) => self.cancelled(&id),
            Incoming::Nothing => {}
            Incoming::Batch(messages) if protocol::has_batches(self.version) => self.batch.extend(messages),
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
            _ => {
                let why = format!("unknown method {}", quoted(&method));
                reply.error(code::METHOD_NOT_FOUND, &why)
            }
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
        let tool = tools::find(&name).ok_or_else(|| {
            wrong(format!(
                "unknown tool {}; there are {}",
                quoted(&name),
                tools::names()
            ))
        })?;
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
                Kind::Inspect => self.inspect(reply, &arguments, now),
                Kind::List => Ok(Outcome::Now(report::listing(self.handles.iter()))),
            }
        });
        match outcome {
            Err(why) => Ok(Some(report::failure(&why))),
            Ok(Outcome::Now(result)) => Ok(Some(result)),
            Ok(Outcome::Later(call)) => {
                let number = self.number();
                self.calls.insert(number, *call);
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

    fn number(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// Sends a request to the engine; its number.
    pub(super) fn ask(&mut self, request: wire::Request) -> Result<i64, String> {
        const ENDING: &str = "the connection is ending";
        let number = self.number();
        let engine = self.engine.as_ref().ok_or(ENDING)?;
        engine.send(number, request).map_err(|_| ENDING)?;
        Ok(number)
    }

    // ---- the engine ----

    pub(super) fn engine_says(&mut self, message: ServerMessage, now: Instant) {
        match message {
            ServerMessage::Response {
                id: Some(RequestId::Signed(number)),
                outcome,
            } => self.answered(number, outcome, now),
            ServerMessage::Response { .. } => {}
            // The end of a stream may come without bytes.
            ServerMessage::OutputDelta(delta) if delta.bytes.is_empty() => {}
            ServerMessage::OutputDelta(delta) => {
                let Some(handle) = self.handles.get(&delta.process_handle) else {
                    return;
                };
                handle.last_output = now;
                handle.stirs(now);
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
                (Ok(wire::Reply::Spawn(spawned)), Some(handle)) => handle.pid = Some(spawned.pid),
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
        if let Some(name) = self.looks.remove(&number) {
            self.looked(&name, &outcome, now);
        }
        let found = self.calls.iter_mut().find(|(_, call)| call.asked == Some(number));
        let Some((&number, call)) = found else {
            return;
        };
        call.asked = None;
        match outcome {
            Ok(wire::Reply::Inspect(inspection)) => {
                let result = report::inspection(&call.handle, &inspection);
                self.finish(number, result);
            }
            Ok(_) => {
                if let Some(wait) = &mut call.wait {
                    wait.begin(now);
                }
                if let Some(handle) = self.handles.get(&call.handle) {
                    handle.stirs(now);
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
            let mut at = match call.asked {
                Some(_) => call.answer_deadline,
                None => call.deadline,
            };
            if let (None, Some(wait), Some(handle)) = (call.asked, &call.wait, self.handles.get(&call.handle))
            {
                at = wait.next_look(handle).map_or(at, |look| look.min(at));
                if wait.asks_for_input().is_some() && handle.look_asked.is_none() {
                    at = at.min(handle.next_look);
                }
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
        let unanswered = (now >= call.answer_deadline).then_some(Reason::Time);
        if call.kind == Kind::Inspect && unanswered.is_some() {
            let why = format!("{} cannot be inspected: the system does not answer", call.handle);
            return self.finish(number, report::failure(&why));
        }
        let reason = match (call.asked, &mut call.wait) {
            (Some(_), _) => unanswered,
            (None, Some(wait)) => wait.holds(handle, &call.view, now).or(late),
            (None, None) if call.kind == Kind::Start => Some(Reason::Started),
            (None, None) => Some(Reason::Done),
        };
        if let Some(reason) = reason {
            let is_blind = call.wait.as_ref().is_some_and(Wait::is_blind);
            let reason = match reason {
                Reason::Time if is_blind => Reason::Blind,
                reason => reason,
            };
            let result = report::report(handle, call.view, reason);
            return self.finish(number, result);
        }
        let asks = call.asked.is_none() && call.wait.as_ref().is_some_and(|w| w.asks_for_input().is_some());
        if asks && handle.look_asked.is_none() && now >= handle.next_look {
            handle.look_asked = Some(now);
            let name = handle.name.clone();
            let params = InspectParams {
                process_handle: name.clone(),
            };
            // Without an engine everything ends anyway.
            if let Ok(asked) = self.ask(wire::Request::Inspect(params)) {
                self.looks.insert(asked, name);
            }
        }
    }

    /// Tells the calls that wait for it whether a process waits for input.
    fn looked(&mut self, name: &str, outcome: &Result<wire::Reply, RpcError>, now: Instant) {
        let Some(handle) = self.handles.get(name) else {
            return;
        };
        let Some(asked_at) = handle.looked(now) else {
            return;
        };
        let waits = match outcome {
            Ok(wire::Reply::Inspect(inspection)) => inspection.waits_for_input,
            _ => None,
        };
        for call in self.calls.values_mut().filter(|call| call.handle == name) {
            if let Some(wait) = &mut call.wait
                && wait.asks_for_input().is_some_and(|since| since <= asked_at)
            {
                wait.told(waits, now);
            }
        }
        self.look_at_all_of(name, now);
    }

    fn finish(&mut self, number: i64, result: Value) {
        if let Some(call) = self.calls.remove(&number) {
            self.unsent.push_back(call.reply.result(result));
        }
    }
}
