//! Runs one sequence against a fresh server, and looks at what it leaves behind.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ledger::{Ask, Ledger, Sent, Verdict, ensure, id_of};
use super::plan::{Cap, End, Errors, Fault, Keep, Odd, Plan, Program, STREAMS, Shape, Step};
use crate::harness::{
    Footprint, PATIENCE, binary, children_of, encode, is_alive, kill_stray, pattern, reap_adopted, record,
};

/// How long a server may take to end: three seconds are promised, the rest is for a busy machine.
const END_WAIT: Duration = Duration::from_secs(30);
/// A server that takes longer than this may have had to give up what it still had to say.
const IN_TIME: Duration = Duration::from_secs(2);

/// What a sequence came to.
#[derive(Default, Clone, Copy)]
pub struct Count {
    pub requests: usize,
    pub processes: usize,
    pub bytes: u64,
    /// The machine was so busy that the connection could not end in time.
    pub late: usize,
}

/// Runs `plan`; an error says what the protocol does not allow.
pub fn run(plan: &Plan) -> Result<Count, String> {
    let before = Footprint::take();
    let mut run = Run::start(plan)?;
    let verdict = run.go(plan);
    let cut_off = run.late || matches!(plan.end, End::HangUp | End::Murder);
    let verdict = verdict.and_then(|()| run.ledger.judge(cut_off));
    let count = Count {
        requests: run.ledger.sent.len(),
        processes: run.ledger.slots.iter().map(Vec::len).sum(),
        bytes: run.ledger.bytes,
        late: usize::from(run.late),
    };
    let left = run.leave(plan, &before);
    verdict.and(left).map(|()| count)
}

enum Server {
    InProcess(
        JoinHandle<Result<procwire::End, procwire::Error>>,
        procwire::Stopper,
    ),
    Binary(Child),
}

/// What the reading thread is told.
#[derive(Default)]
struct Control {
    paused: AtomicBool,
    quit: AtomicBool,
}

struct Run {
    ledger: Ledger,
    /// Lines for the writing thread; `None` once the input has ended.
    input: Option<mpsc::Sender<Vec<u8>>>,
    incoming: mpsc::Receiver<Result<Value, String>>,
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
    server: Server,
    resume_at: Option<Instant>,
    output_ended: bool,
    late: bool,
    jsonrpc: bool,
}

impl Run {
    fn start(plan: &Plan) -> Result<Run, String> {
        let (reader, writer, server): (OwnedFd, Box<dyn Write + Send>, Server) = match plan.binary {
            false => {
                let (ours_in, input) = UnixStream::pair().expect("a socket pair");
                let (ours_out, output) = UnixStream::pair().expect("a socket pair");
                let connection = procwire::Connection::from_io(input, output);
                let stopper = connection.stopper();
                let thread = std::thread::Builder::new()
                    .name("dispatch".into())
                    .spawn(move || procwire::serve(connection, procwire::Config::default()))
                    .expect("a thread for the server");
                (
                    ours_out.into(),
                    Box::new(ours_in),
                    Server::InProcess(thread, stopper),
                )
            }
            true => {
                let mut command = binary();
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
                let deadline = Instant::now() + PATIENCE;
                let mut child = loop {
                    match command.spawn() {
                        Ok(child) => break child,
                        // The machine has no process left for us; it is not the server's fault.
                        Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                            std::thread::sleep(Duration::from_millis(100));
                        }
                        Err(e) => return Err(format!("the server does not start: {e}")),
                    }
                };
                let stdin = child.stdin.take().expect("stdin was piped");
                let stdout = child.stdout.take().expect("stdout was piped");
                (stdout.into(), Box::new(stdin), Server::Binary(child))
            }
        };
        let control = Arc::new(Control::default());
        // A few messages: a sequence that is slower than the server is a client that reads slowly.
        let (sender, incoming) = mpsc::sync_channel(64);
        let (input, lines) = mpsc::channel();
        let named = |name: &str| std::thread::Builder::new().name(name.into());
        let threads = vec![
            named("client-read")
                .spawn({
                    let control = Arc::clone(&control);
                    move || read(reader, &control, &sender)
                })
                .expect("a thread for the client"),
            named("client-write")
                .spawn(move || write(writer, &lines))
                .expect("a thread for the client"),
        ];
        Ok(Run {
            ledger: Ledger {
                jsonrpc: plan.jsonrpc,
                ..Ledger::default()
            },
            input: Some(input),
            incoming,
            control,
            threads,
            server,
            resume_at: None,
            output_ended: false,
            late: false,
            jsonrpc: plan.jsonrpc,
        })
    }

    // ---- sending ----

    fn send_line(&mut self, line: Vec<u8>) {
        record("-->", &line);
        if let Some(input) = &self.input {
            // A server that is gone is found out by what it does not answer.
            let _ = input.send(line);
        }
    }

    fn send(&mut self, mut message: Value) {
        if self.jsonrpc {
            message["jsonrpc"] = json!("2.0");
        }
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        self.send_line(line);
    }

    fn request(&mut self, slot: Option<usize>, ask: Ask, method: &str, mut params: Value) {
        if let Some(slot) = slot {
            params["processHandle"] = json!(format!("h{slot}"));
        }
        let id = id_of(self.ledger.sent.len());
        let at = self.ledger.tick();
        self.ledger.sent.push(Sent {
            at,
            slot,
            ask,
            answer: None,
        });
        self.send(json!({"id": id, "method": method, "params": params}));
    }

    // ---- receiving ----

    fn take(&mut self, message: Result<Value, String>) -> Verdict {
        self.ledger.receive(message?)
    }

    /// Receives what is there.
    fn catch_up(&mut self) -> Verdict {
        if self.resume_at.is_some_and(|at| at <= Instant::now()) {
            self.read_on();
        }
        // No more than was there: some programs never stop.
        for _ in 0..64 {
            match self.incoming.try_recv() {
                Ok(message) => self.take(message)?,
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => {
                    self.output_ended = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Receives until `until`.
    fn receive(&mut self, until: Instant) -> Verdict {
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            if self.resume_at.is_some_and(|at| at <= now) {
                self.read_on();
            }
            let next = self.resume_at.unwrap_or(until).min(until);
            match self.incoming.recv_timeout(next.saturating_duration_since(now)) {
                Ok(message) => self.take(message)?,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    self.output_ended = true;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn read_on(&mut self) {
        self.resume_at = None;
        self.control.paused.store(false, SeqCst);
    }

    /// Reads until `condition` holds.
    fn wait(&mut self, what: &str, condition: impl Fn(&Run) -> bool) -> Verdict {
        self.read_on();
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.catch_up()?;
            if condition(self) {
                return Ok(());
            }
            ensure!(!self.output_ended, "the server's output ended before {what}");
            ensure!(Instant::now() < deadline, "waited in vain for {what}");
            match self.incoming.recv_timeout(Duration::from_millis(50)) {
                Ok(message) => self.take(message)?,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => self.output_ended = true,
            }
        }
    }

    /// Waits until it is known which process a handle means.
    fn settle(&mut self, slot: usize) -> Verdict {
        self.wait(&format!("the answers to the spawns of h{slot}"), |run| {
            !run.ledger
                .unanswered(slot, |ask| matches!(ask, Ask::Spawn { .. }))
        })
    }

    fn await_exit(&mut self, slot: usize) -> Verdict {
        self.wait(&format!("the exit of h{slot}"), |run| {
            run.ledger.current(slot).is_none_or(|p| p.exited.is_some())
        })
    }

    // ---- the sequence ----

    fn go(&mut self, plan: &Plan) -> Verdict {
        if plan.handshake {
            let params = json!({"clientInfo": {"name": "model"}, "capabilities": null});
            self.request(None, Ask::Fine, "initialize", params);
            self.send(json!({"method": "initialized"}));
        } else if plan.jsonrpc {
            // The first message decides; it must be one that is answered.
            self.request(None, Ask::List, "process/list", json!({}));
        }
        for (number, step) in plan.steps.iter().enumerate() {
            record("   ", format!("{number}: {step}").as_bytes());
            self.catch_up()?;
            self.step(number, step)?;
        }
        record("   ", format!("end: {:?}", plan.end).as_bytes());
        self.catch_up()?;
        self.finish(plan)
    }

    fn step(&mut self, number: usize, step: &Step) -> Verdict {
        match *step {
            Step::Spawn { slot, program, shape } => self.spawn(slot, program, shape),
            Step::BadSpawn { slot, fault, tty } => {
                let (mut params, ..) = fault.params();
                if !matches!(fault, Fault::SizeWithoutTty | Fault::NoStreamFile) {
                    params["tty"] = json!(tty);
                }
                self.request(Some(slot), Ask::BadSpawn { fault }, "process/spawn", params);
            }
            Step::Write {
                slot,
                size,
                unfinished,
                close,
            } => {
                self.ready_for_input(slot)?;
                let bytes = self.content(slot, number, size, unfinished);
                self.feed(slot, bytes, close);
            }
            Step::Line { slot } => {
                self.ready_for_input(slot)?;
                self.feed(slot, format!("word{number}\n").into_bytes(), false);
            }
            Step::Close { slot } => {
                self.ready_for_input(slot)?;
                self.close(slot);
            }
            Step::Stuff { slot } => {
                self.ready_for_input(slot)?;
                for i in 0..10 {
                    let bytes = self.content(slot, number + i, 1024 * 1024, false);
                    self.feed(slot, bytes, false);
                }
            }
            Step::BadWrite { slot, base64 } => {
                let params = if base64 {
                    json!({"deltaBase64": "a-b_"})
                } else {
                    json!({})
                };
                self.request(Some(slot), Ask::BadWrite { base64 }, "process/writeStdin", params);
            }
            Step::Inspect { slot } => {
                self.request(Some(slot), Ask::Inspect, "process/inspect", json!({}));
            }
            Step::CloseOutput { slot, stream } => {
                let params = json!({"stream": stream.map(|stream| STREAMS[stream])});
                self.request(
                    Some(slot),
                    Ask::CloseOutput { stream },
                    "process/closeOutput",
                    params,
                );
            }
            Step::Wait { slot, until, timeout } => {
                let params = json!({"until": [until.condition()], "timeoutMs": timeout});
                let timed = timeout.is_some();
                self.request(Some(slot), Ask::Wait { until, timed }, "process/wait", params);
            }
            Step::Resize { slot, rows } => {
                let params = json!({"size": {"rows": rows, "cols": 80}});
                self.request(
                    Some(slot),
                    Ask::Resize { valid: rows > 0 },
                    "process/resizePty",
                    params,
                );
            }
            Step::Kill {
                slot,
                signal,
                grace,
                watch,
            } => {
                let params = json!({"signal": signal.param(), "graceMs": grace});
                let grace = grace.is_some();
                self.request(Some(slot), Ask::Kill { signal, grace }, "process/kill", params);
                if watch && (grace || signal.deadly() == Some("SIGKILL")) {
                    return self.watch(slot);
                }
            }
            Step::BadKill { slot } => {
                self.request(
                    Some(slot),
                    Ask::BadKill,
                    "process/kill",
                    json!({"signal": "SIGNONE"}),
                );
            }
            Step::List => self.request(None, Ask::List, "process/list", json!({})),
            Step::Odd(odd) => self.odd(odd),
            Step::Burst { count } => {
                for i in 0..count {
                    match i % 2 {
                        0 => self.request(None, Ask::List, "process/list", json!({})),
                        _ => self.request(
                            None,
                            Ask::Error(-32600),
                            "process/kill",
                            json!({"processHandle": ""}),
                        ),
                    }
                }
            }
            Step::Pause { ms } => {
                self.control.paused.store(true, SeqCst);
                self.resume_at = Some(Instant::now() + Duration::from_millis(ms));
            }
            Step::Idle { ms } => return self.receive(Instant::now() + Duration::from_millis(ms)),
            Step::Await { slot } => {
                self.settle(slot)?;
                self.wait(&format!("answers on h{slot}"), |run| {
                    let wanted = |ask: &Ask| matches!(ask, Ask::Kill { .. } | Ask::Write { close: true, .. });
                    run.ledger.current(slot).is_none_or(|p| p.exited.is_some())
                        || !run.ledger.unanswered(slot, wanted)
                        || run.ledger.must_end(slot)
                        || stuffed(run, slot)
                })?;
                if self.ledger.must_end(slot) {
                    return self.await_exit(slot);
                }
            }
        }
        Ok(())
    }

    fn spawn(&mut self, slot: usize, program: Program, shape: Shape) {
        let command = program.command(shape.tty);
        let mut params = json!({
            "command": command,
            "tty": shape.tty,
            "streamStdin": shape.stdin,
            "streamStdoutStderr": shape.streamed,
            "timeoutMs": shape.timeout,
        });
        match shape.cap {
            Cap::LeftOut => {}
            Cap::None => params["outputBytesCap"] = Value::Null,
            Cap::At(n) => params["outputBytesCap"] = json!(n),
        }
        if shape.keep != Keep::LeftOut {
            params["outputKeep"] = shape.keep.param();
        }
        if let Some(grace) = shape.grace {
            params["timeoutGraceMs"] = json!(grace);
        }
        if !shape.stdout {
            params["stdout"] = json!("null");
        }
        match shape.stderr {
            Errors::Pipe => {}
            Errors::Null => params["stderr"] = json!({"file": "/dev/null", "append": true}),
            Errors::Merged => params["stderr"] = json!("stdout"),
        }
        if shape.confined {
            params["inheritEnv"] = json!(["PATH", "L*"]);
            params["limits"] = json!({"openFiles": 250, "coreBytes": 0});
        }
        let ask = Ask::Spawn {
            program,
            shape,
            command,
        };
        self.request(Some(slot), ask, "process/spawn", params);
    }

    fn feed(&mut self, slot: usize, bytes: Vec<u8>, close: bool) {
        let params = json!({"deltaBase64": encode(&bytes), "closeStdin": close});
        self.request(
            Some(slot),
            Ask::Write { bytes, close },
            "process/writeStdin",
            params,
        );
    }

    fn close(&mut self, slot: usize) {
        let ask = Ask::Write {
            bytes: Vec::new(),
            close: true,
        };
        self.request(Some(slot), ask, "process/writeStdin", json!({"closeStdin": true}));
    }

    /// What is typed at a terminal before its program has set it up would be treated as the
    /// terminal was before. So that one, and only that one, is waited for.
    fn ready_for_input(&mut self, slot: usize) -> Verdict {
        let on_terminal = |ask: &Ask| {
            matches!(
                ask,
                Ask::Spawn { program: Program::Cat { .. }, shape, .. } if shape.tty
            )
        };
        let mut sent = self.ledger.sent.iter();
        if !sent.any(|s| s.slot == Some(slot) && on_terminal(&s.ask)) {
            return Ok(());
        }
        self.settle(slot)?;
        self.wait(&format!("h{slot} to be ready"), |run| {
            run.ledger.current(slot).is_none_or(|p| {
                let waits = matches!(p.program, Program::Cat { .. }) && p.shape.tty;
                !waits || p.ready.is_some() || p.exited.is_some() || run.is_stopped(slot)
            })
        })
    }

    /// A stop may keep it from ever being ready.
    fn is_stopped(&self, slot: usize) -> bool {
        let mut sent = self.ledger.sent.iter();
        sent.any(|s| {
            let stop = matches!(
                s.ask,
                Ask::Kill {
                    signal: super::plan::Signal::Stop,
                    ..
                }
            );
            s.slot == Some(slot) && stop
        })
    }

    /// Bytes to feed: any at all where they pass unchanged, and lines of letters elsewhere.
    fn content(&self, slot: usize, number: usize, size: usize, unfinished: bool) -> Vec<u8> {
        let mut spawns = self.ledger.sent.iter().filter_map(|s| match &s.ask {
            Ask::Spawn { program, shape, .. } if s.slot == Some(slot) => Some((*program, *shape)),
            _ => None,
        });
        let transparent = |(program, shape): (Program, Shape)| {
            matches!(program, Program::Cat { .. } | Program::Sleep) && !shape.tty && shape.streamed
        };
        let from = (number as u64) << 32;
        if spawns.clone().count() > 0 && spawns.clone().all(transparent) {
            return pattern(from, size);
        }
        let size = match spawns.any(|(_, shape)| shape.tty) {
            true => size.min(6_000),
            false => size,
        };
        let mut text: Vec<u8> = pattern(from, size).iter().map(|b| b'a' + b % 26).collect();
        for end in (59..size).step_by(60) {
            text[end] = b'\n';
        }
        if let (Some(last), false) = (text.last_mut(), unfinished) {
            *last = b'\n';
        }
        text
    }

    /// Waits for the death of what was sent SIGKILL, without reading a word of the server's.
    fn watch(&mut self, slot: usize) -> Verdict {
        if self
            .ledger
            .unanswered(slot, |ask| matches!(ask, Ask::Spawn { .. }))
        {
            return Ok(());
        }
        let Some(pid) = self.ledger.current(slot).map(|p| p.pid) else {
            return Ok(());
        };
        let deadline = Instant::now() + PATIENCE;
        while is_alive(pid) {
            ensure!(Instant::now() < deadline, "{pid} of h{slot} was killed and lives");
            if self.resume_at.is_some_and(|at| at <= Instant::now()) {
                self.read_on();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn odd(&mut self, odd: Odd) {
        let null = |run: &mut Run, code: i64, line: &[u8]| {
            run.ledger.nulls_owed.push(code);
            run.send_line(line.to_vec());
        };
        match odd {
            Odd::UnknownMethod => self.request(None, Ask::Error(-32601), "process/fly", json!({})),
            Odd::WrongParams => {
                self.request(
                    None,
                    Ask::Error(-32602),
                    "process/kill",
                    json!({"processHandle": 7}),
                );
            }
            Odd::LongHandle => {
                let handle = "h".repeat(4_097);
                let params = json!({"processHandle": handle, "command": ["true"]});
                self.request(None, Ask::Error(-32602), "process/spawn", params);
            }
            Odd::NotJson => null(self, -32700, b"{\"id\":1,\n"),
            Odd::NotUtf8 => null(self, -32700, b"{\"id\":1,\"method\":\"\xff\"}\n"),
            Odd::Number => null(self, -32600, b"42\n"),
            Odd::Batch => null(self, -32600, b"[{\"id\":1,\"method\":\"process/list\"}]\n"),
            Odd::ResponseShaped => {
                // Its id is one of ours, and so it is the answer to a request that was never sent.
                self.request_shaped_as_response();
            }
            Odd::Notification => self.send(json!({"method": "client/says", "params": {"x": 1}})),
            Odd::BlankLine => self.send_line(b" \r\n".to_vec()),
        }
    }

    fn request_shaped_as_response(&mut self) {
        let id = id_of(self.ledger.sent.len());
        let at = self.ledger.tick();
        self.ledger.sent.push(Sent {
            at,
            slot: None,
            ask: Ask::Error(-32600),
            answer: None,
        });
        self.send(json!({"id": id, "result": {}}));
    }

    // ---- the end ----

    fn finish(&mut self, plan: &Plan) -> Verdict {
        if plan.end == End::Settled {
            self.bring_to_an_end()?;
        }
        if plan.end == End::Stop || plan.end == End::Murder && !plan.binary {
            self.wait_for_all_read()?;
        }
        let began = Instant::now();
        let at = self.ledger.tick();
        self.ledger.ending = Some(at);
        match (plan.end, &self.server) {
            (End::Settled | End::Input, _) => self.input = None,
            (End::Stop | End::Murder, Server::InProcess(_, stopper)) => stopper.stop(),
            (End::Stop, Server::Binary(child)) => send_signal(child.id(), libc::SIGTERM),
            (End::Murder, Server::Binary(child)) => {
                let guard = child.id();
                crate::harness::wait_until("the guard has a server", || !children_of(guard).is_empty());
                for server in children_of(guard) {
                    send_signal(server.pid, libc::SIGKILL);
                }
            }
            (End::HangUp, _) => {
                self.control.quit.store(true, SeqCst);
                if !plan.binary {
                    self.input = None;
                }
            }
        }
        self.read_on();
        // All it still says; it ends with its output.
        let deadline = began + END_WAIT;
        while !self.output_ended {
            ensure!(Instant::now() < deadline, "the server's output does not end");
            match self.incoming.recv_timeout(Duration::from_millis(50)) {
                Ok(Err(why)) if plan.end == End::Murder => {
                    // Cut off in the middle of a line.
                    record("   ", why.as_bytes());
                }
                Ok(message) => self.take(message)?,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => self.output_ended = true,
            }
        }
        self.wait_for_server(plan, deadline)?;
        self.late = began.elapsed() > IN_TIME;
        Ok(())
    }

    /// Requests are answered in the end only if they were read before it, which a signal does not wait for.
    fn wait_for_all_read(&mut self) -> Verdict {
        self.request(None, Ask::Error(-32601), "last/word", json!({}));
        let last = self.ledger.sent.len() - 1;
        self.wait("the last answer", |run| run.ledger.sent[last].answer.is_some())
    }

    fn bring_to_an_end(&mut self) -> Verdict {
        for slot in 0..self.ledger.slots.len() {
            self.settle(slot)?;
            let Some(process) = self.ledger.current(slot) else {
                continue;
            };
            let (program, shape) = (process.program, process.shape);
            let closes = matches!(program, Program::Cat { .. }) && shape.has_stdin() && !shape.tty;
            if process.exited.is_some() || self.ledger.must_end(slot) {
                continue;
            }
            match closes && !self.is_stopped(slot) {
                true => self.close(slot),
                false => {
                    let ask = Ask::Kill {
                        signal: super::plan::Signal::LeftOut,
                        grace: false,
                    };
                    self.request(Some(slot), ask, "process/kill", json!({}));
                }
            }
        }
        for slot in 0..self.ledger.slots.len() {
            self.await_exit(slot)?;
        }
        self.wait("all answers", |run| {
            run.ledger.sent.iter().all(|s| s.answer.is_some())
        })
    }

    fn wait_for_server(&mut self, plan: &Plan, deadline: Instant) -> Verdict {
        loop {
            let ended = match &mut self.server {
                Server::InProcess(thread, _) => thread.is_finished().then_some(None),
                Server::Binary(child) => child.try_wait().expect("the child is ours").map(Some),
            };
            if let Some(status) = ended {
                let due = match plan.end {
                    End::Stop => 128 + libc::SIGTERM,
                    End::Murder => 128 + libc::SIGKILL,
                    End::Settled | End::Input | End::HangUp => 0,
                };
                let code = status.map(|s| s.code());
                ensure!(
                    code.is_none() || code == Some(Some(due)),
                    "exit code {due} was due: {status:?}"
                );
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets go of the server, by force if need be, and sees what is left of it.
    fn leave(mut self, plan: &Plan, before: &Footprint) -> Verdict {
        self.input = None;
        self.control.quit.store(true, SeqCst);
        drop(self.incoming);
        let known: HashSet<u32> = self.ledger.slots.iter().flatten().map(|p| p.pid).collect();
        let deadline = Instant::now() + END_WAIT;
        let verdict = loop {
            let finished = match &mut self.server {
                Server::InProcess(thread, _) => thread.is_finished(),
                Server::Binary(child) => matches!(child.try_wait(), Ok(Some(_))),
            };
            if finished {
                break Ok(());
            }
            if Instant::now() >= deadline {
                break Err("the server could not be ended".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        match self.server {
            Server::Binary(mut child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Server::InProcess(thread, stopper) => {
                drop(stopper);
                if thread.is_finished() {
                    let served = thread.join().map_err(|_| "the server has panicked".to_owned())?;
                    served.map_err(|e| format!("the server has failed: {e}"))?;
                }
            }
        }
        verdict?;
        for thread in self.threads {
            thread.join().map_err(|_| "the client has panicked".to_owned())?;
        }
        drop(self.control);
        // Only a child subreaper finds what has left group, session and parents behind: the binary, and
        // here the test.
        let sessions = run_sessions(&self.ledger) && !plan.binary;
        nothing_is_left(before, &known, sessions)
    }
}

/// More is pending for the current process of `slot` than will be answered before its end.
fn stuffed(run: &Run, slot: usize) -> bool {
    let fed = run.ledger.sent.iter().filter(|s| s.slot == Some(slot));
    let bytes: usize = fed
        .map(|s| match &s.ask {
            Ask::Write { bytes, .. } => bytes.len(),
            _ => 0,
        })
        .sum();
    bytes > 1024 * 1024
}

/// Whether there were programs that leave a session of their own.
fn run_sessions(ledger: &Ledger) -> bool {
    let leaves = |p: &Program| matches!(p, Program::KeepsSession | Program::LeavesSession { .. });
    let mut sent = ledger.sent.iter();
    sent.any(|s| matches!(&s.ask, Ask::Spawn { program, .. } if leaves(program)))
}

/// Threads, descriptors and processes are as they were. `sessions`: but for processes in sessions of
/// their own, which end here.
fn nothing_is_left(before: &Footprint, known: &HashSet<u32>, sessions: bool) -> Verdict {
    let deadline = Instant::now() + END_WAIT;
    loop {
        let now = Footprint::take();
        let children = children_of(std::process::id());
        if now == *before && children.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let ours: Vec<_> = children.iter().filter(|p| known.contains(&p.pid)).collect();
            return Err(format!(
                "something is left behind.\nbefore: {before:#?}\nnow: {now:#?}\n\
                 processes: {children:#?}\nof these, spawned: {ours:#?}"
            ));
        }
        for stray in children
            .iter()
            .filter(|p| p.session == p.pid && !known.contains(&p.pid))
        {
            if sessions && !stray.is_dead() {
                kill_stray(stray.pid);
            }
        }
        // An adopted grandchild that has died is reaped here; one that lives is a failure.
        reap_adopted();
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn send_signal(pid: u32, signal: i32) {
    // SAFETY: no memory is involved; the process is a child of this test that has not been reaped, or its child.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// The reading thread: lines to messages, as long as it may.
fn read(source: OwnedFd, control: &Control, sender: &mpsc::SyncSender<Result<Value, String>>) {
    let mut source = File::from(source);
    let mut pending = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while !control.quit.load(SeqCst) {
        if control.paused.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let mut interest = libc::pollfd {
            fd: source.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, which lives through the call.
        if unsafe { libc::poll(&mut interest, 1, 10) } <= 0 {
            continue;
        }
        let n = source.read(&mut buffer).unwrap_or(0);
        if n == 0 {
            if !pending.is_empty() {
                let _ = sender.send(Err("the output ends inside a line".to_owned()));
            }
            return;
        }
        // What was there before has no end of a line.
        let mut from = pending.len();
        pending.extend_from_slice(&buffer[..n]);
        let mut start = 0;
        while let Some(length) = pending[from..].iter().position(|b| *b == b'\n') {
            let line = &pending[start..from + length];
            record("<--", line);
            let message = serde_json::from_slice(line).map_err(|e| format!("no JSON was printed: {e}"));
            let _ = sender.send(message);
            start = from + length + 1;
            from = start;
        }
        pending.drain(..start);
    }
}

/// The writing thread: it may wait for a server that does not read; the sequence never does.
fn write(mut sink: Box<dyn Write + Send>, lines: &mpsc::Receiver<Vec<u8>>) {
    for line in lines {
        if sink.write_all(&line).and_then(|()| sink.flush()).is_err() {
            return;
        }
    }
}
