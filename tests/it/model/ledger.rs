//! What was sent and what came, and whether the protocol allows it.
//!
//! Everything has its place on one clock: a request when it is handed to the connection, a message
//! when it has been read from it. So "the exit had been read when the request was sent" is certain,
//! while an exit that is read later may have happened at any time before. What the order leaves open
//! the model leaves open, too.

use std::collections::BTreeMap;

use serde_json::Value;

use super::plan::{Fault, Keep, Program, SLOTS, STREAMS, Shape, Signal, Until};
use crate::harness::{decoded, is_alive};

/// What a client may have pending and still be answered at once.
const FREE_STDIN_BYTES: u64 = 1024 * 1024;
/// More pending than this is refused.
const PENDING: u64 = 8 * 1024 * 1024;
/// More than the kernel takes of what a program does not read.
const KERNEL: u64 = 128 * 1024;
/// The most bytes in one delta.
const CHUNK: usize = 64 * 1024;
/// How late a deadline may be kept on a busy machine, in milliseconds.
const LATE: u64 = 8_000;

pub type Verdict = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}
pub(super) use ensure;

/// One request.
pub struct Sent {
    pub at: u64,
    pub slot: Option<usize>,
    pub ask: Ask,
    pub answer: Option<Answer>,
}

pub enum Ask {
    Spawn {
        program: Program,
        shape: Shape,
        command: Vec<String>,
    },
    BadSpawn {
        fault: Fault,
    },
    Write {
        bytes: Vec<u8>,
        close: bool,
    },
    BadWrite {
        base64: bool,
    },
    Resize {
        valid: bool,
    },
    Inspect,
    CloseOutput {
        /// Both, where it is left out.
        stream: Option<usize>,
    },
    Wait {
        until: Until,
        /// It has a timeout.
        timed: bool,
    },
    Kill {
        signal: Signal,
        grace: bool,
    },
    BadKill,
    List,
    /// Anything that is answered with a result.
    Fine,
    /// Anything that is answered with this error's code.
    Error(i64),
}

pub struct Answer {
    pub at: u64,
    pub outcome: Result<Value, i64>,
    pub whole: Value,
}

impl Sent {
    fn ok(&self) -> bool {
        self.answer.as_ref().is_some_and(|a| a.outcome.is_ok())
    }

    fn error(&self) -> Option<i64> {
        self.answer
            .as_ref()
            .and_then(|a| a.outcome.as_ref().err().copied())
    }

    /// Whether it may have closed this stream.
    fn may_close(&self, index: usize) -> bool {
        let wanted = |stream: &Option<usize>| stream.is_none_or(|only| only == index);
        self.error().is_none() && matches!(&self.ask, Ask::CloseOutput { stream } if wanted(stream))
    }
}

/// One process that was answered for.
pub struct Process {
    /// Its spawn, as an index into what was sent.
    pub spawn: usize,
    pub program: Program,
    pub shape: Shape,
    pub pid: u32,
    /// Standard output and standard error as they came in deltas.
    streams: [Stream; 2],
    /// When `ready` was read.
    pub ready: Option<u64>,
    pub exited: Option<(u64, Value)>,
    /// The exit was read before the connection began to end.
    in_peace: bool,
}

#[derive(Default)]
struct Stream {
    /// Its beginning, and what came after a gap, with the place of that.
    bytes: Vec<u8>,
    tail: Vec<u8>,
    tail_at: Option<u64>,
    capped: bool,
    /// An answer has said that it was closed.
    closed: bool,
}

impl Stream {
    fn takes(&mut self, offset: u64, bytes: &[u8], kept: (u64, u64)) -> Verdict {
        let begun = self.bytes.len() as u64;
        if self.tail_at.is_none() && offset != begun {
            ensure!(
                offset > begun && kept.1 > 0 && begun == kept.0,
                "{begun} bytes had come before"
            );
            self.tail_at = Some(offset);
        }
        match self.tail_at {
            None => self.bytes.extend_from_slice(bytes),
            Some(at) => {
                ensure!(
                    offset == at + self.tail.len() as u64,
                    "{} bytes had come of the end, from {at}",
                    self.tail.len()
                );
                self.tail.extend_from_slice(bytes);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Ledger {
    pub clock: u64,
    pub sent: Vec<Sent>,
    pub slots: [Vec<Process>; SLOTS],
    /// Codes of errors without id: owed, and seen.
    pub nulls_owed: Vec<i64>,
    pub nulls_seen: Vec<i64>,
    pub jsonrpc: bool,
    /// When the connection began to end.
    pub ending: Option<u64>,
    /// Bytes of output.
    pub bytes: u64,
}

/// The id of request number `n`: some are strings.
pub fn id_of(n: usize) -> Value {
    match n % 5 {
        4 => Value::from(format!("s{n}")),
        _ => Value::from(n),
    }
}

fn number_of(id: &Value) -> Option<usize> {
    match id {
        Value::String(text) => text.strip_prefix('s')?.parse().ok(),
        _ => usize::try_from(id.as_u64()?).ok(),
    }
}

impl Ledger {
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The process that the last answered spawn on `slot` has started.
    pub fn current(&self, slot: usize) -> Option<&Process> {
        self.slots[slot].last()
    }

    /// Requests on `slot` without an answer that `of_interest`.
    pub fn unanswered(&self, slot: usize, of_interest: impl Fn(&Ask) -> bool) -> bool {
        let mut sent = self.sent.iter();
        sent.any(|s| s.slot == Some(slot) && s.answer.is_none() && of_interest(&s.ask))
    }

    // ---- what comes ----

    /// Takes one message, and checks what must hold at once.
    pub fn receive(&mut self, message: Value) -> Verdict {
        let at = self.tick();
        ensure!(
            message.get("jsonrpc").is_some() == self.jsonrpc,
            "`jsonrpc` is written exactly if the client writes it: {message}"
        );
        let Some(method) = message.get("method").and_then(Value::as_str) else {
            return self.response(at, message);
        };
        let params = &message["params"];
        let handle = params["processHandle"].as_str().unwrap_or_default();
        let slot = handle.strip_prefix('h').and_then(|n| n.parse::<usize>().ok());
        let slot = slot.filter(|s| *s < SLOTS);
        let slot = slot.ok_or_else(|| format!("a notification of an unknown handle: {message}"))?;
        let peace = self.ending.is_none();
        let process = self.slots[slot].iter_mut().find(|p| p.exited.is_none());
        let process =
            process.ok_or_else(|| format!("h{slot} has ended or was never answered for: {message}"))?;
        match method {
            "process/outputDelta" => {
                self.bytes += process.delta(at, params)?;
                Ok(())
            }
            "process/exited" => {
                ensure!(
                    params["pid"] == process.pid,
                    "h{slot} was {}, and this is the exit of another: {message}",
                    process.pid
                );
                process.exited = Some((at, params.clone()));
                process.in_peace = peace;
                process.relatives(peace)
            }
            _ => Err(format!("a notification that does not exist: {message}")),
        }
    }

    fn response(&mut self, at: u64, message: Value) -> Verdict {
        let outcome = match (message.get("result"), message["error"]["code"].as_i64()) {
            (Some(result), None) => Ok(result.clone()),
            (None, Some(code)) => Err(code),
            _ => return Err(format!("neither result nor error: {message}")),
        };
        if message["id"].is_null() {
            let code = outcome
                .err()
                .ok_or_else(|| format!("a result without a request: {message}"))?;
            self.nulls_seen.push(code);
            return Ok(());
        }
        let number = number_of(&message["id"]).filter(|n| *n < self.sent.len() && message["id"] == id_of(*n));
        let number = number.ok_or_else(|| format!("an answer to nothing that was asked: {message}"))?;
        let sent = &mut self.sent[number];
        ensure!(sent.answer.is_none(), "a second answer: {message}");
        sent.answer = Some(Answer {
            at,
            outcome: outcome.clone(),
            whole: message.clone(),
        });
        if let (Ok(result), Ask::Spawn { program, shape, .. }, Some(slot)) = (&outcome, &sent.ask, sent.slot)
        {
            let pid = result["pid"].as_u64().and_then(|p| u32::try_from(p).ok());
            let pid = pid.ok_or_else(|| format!("a spawn is answered with a pid: {message}"))?;
            let before = self.slots[slot].last().map(|p| p.spawn);
            ensure!(
                before < Some(number),
                "spawns of h{slot} took effect out of order: {message}"
            );
            self.slots[slot].push(Process {
                spawn: number,
                program: *program,
                shape: *shape,
                pid,
                streams: Default::default(),
                ready: None,
                exited: None,
                in_peace: false,
            });
        }
        if let (Ok(_), Ask::CloseOutput { stream }, Some(slot)) = (&outcome, &sent.ask, sent.slot)
            && let Some(process) = self.slots[slot].iter_mut().rfind(|p| p.spawn < number)
        {
            for (index, closed) in process.streams.iter_mut().enumerate() {
                closed.closed |= stream.is_none_or(|only| only == index);
            }
        }
        Ok(())
    }

    // ---- what may be ----

    /// The requests on `slot` that came after the spawn of its `index`th process and before that of the next.
    fn requests(&self, slot: usize, index: usize) -> impl Iterator<Item = (usize, &Sent)> {
        let from = self.slots[slot][index].spawn;
        let to = self.slots[slot].get(index + 1).map_or(usize::MAX, |p| p.spawn);
        let all = self.sent.iter().enumerate();
        all.filter(move |(i, s)| *i > from && *i < to && s.slot == Some(slot))
    }

    /// Whether the process is certain to have been alive until request `until` took effect: it does not
    /// end by itself, and nothing was sent before that may end it.
    fn lives_until(&self, slot: usize, index: usize, until: usize) -> bool {
        let process = &self.slots[slot][index];
        !process.ends_alone()
            && self
                .requests(slot, index)
                .take_while(|(i, _)| *i < until)
                .all(|(_, s)| !process.may_end_by(s))
    }

    /// Whether the current process of `slot` ends without anything more being done.
    pub fn must_end(&self, slot: usize) -> bool {
        let Some(index) = self.slots[slot].len().checked_sub(1) else {
            return false;
        };
        let process = &self.slots[slot][index];
        let shape = &process.shape;
        let asked: Vec<&Sent> = self.requests(slot, index).map(|(_, s)| s).collect();
        let killed = asked.iter().any(|s| {
            let sure = |signal: &Signal, grace: &bool| *grace || signal.deadly() == Some("SIGKILL");
            s.ok() && matches!(&s.ask, Ask::Kill { signal, grace } if sure(signal, grace))
        });
        if killed || shape.timeout.is_some() || process.exited.is_some() {
            return true;
        }
        let stopped = |s: &&Sent| {
            matches!(
                &s.ask,
                Ask::Kill {
                    signal: Signal::Stop,
                    ..
                }
            )
        };
        if asked.iter().any(stopped) {
            return false;
        }
        let deadly = |s: &&Sent| {
            let signal = match &s.ask {
                Ask::Kill { signal, .. } if s.ok() => signal.deadly(),
                _ => return false,
            };
            let ignored = process.program == Program::IgnoresTerm && signal != Some("SIGUSR1");
            signal.is_some() && !ignored
        };
        if asked.iter().any(deadly) {
            return true;
        }
        let closed = asked
            .iter()
            .any(|s| s.ok() && matches!(s.ask, Ask::Write { close: true, .. }));
        let line = asked
            .iter()
            .any(|s| s.ok() && matches!(&s.ask, Ask::Write { bytes, .. } if bytes.contains(&b'\n')));
        match process.program {
            Program::Cat { raw } => !shape.has_stdin() || closed && !(shape.tty && raw),
            Program::Liner { .. } => !shape.has_stdin() || closed || line,
            Program::Seq { .. }
            | Program::Zeros { .. }
            | Program::LeavesChild { .. }
            | Program::LeavesSession { .. }
            | Program::Exit { .. }
            | Program::KillsItself { .. } => true,
            Program::Yes
            | Program::Sleep
            | Program::IgnoresTerm
            | Program::TrapsTerm { .. }
            | Program::KeepsSession
            | Program::ClosesStdin => false,
        }
    }

    // ---- the verdict ----

    /// Everything that can only be said once nothing more comes. `cut_off`: not all that was owed could come.
    pub fn judge(&self, cut_off: bool) -> Verdict {
        if !cut_off {
            for (number, sent) in self.sent.iter().enumerate() {
                ensure!(
                    sent.answer.is_some(),
                    "request {} was never answered",
                    id_of(number)
                );
            }
            let mut owed = self.nulls_owed.clone();
            let mut seen = self.nulls_seen.clone();
            owed.sort_unstable();
            seen.sort_unstable();
            ensure!(
                owed == seen,
                "errors without id: {seen:?} came, {owed:?} were owed"
            );
        }
        for slot in 0..SLOTS {
            self.judge_requests(slot)?;
            for index in 0..self.slots[slot].len() {
                let process = &self.slots[slot][index];
                match &process.exited {
                    Some((_, exited)) => self
                        .judge_process(slot, index, exited)
                        .map_err(|e| format!("h{slot}, process {}: {e}", process.pid))?,
                    None if cut_off => {}
                    None => {
                        return Err(format!(
                            "h{slot}, process {} was answered for and has no exit",
                            process.pid
                        ));
                    }
                }
            }
        }
        for sent in &self.sent {
            match (&sent.ask, &sent.answer) {
                (Ask::List, Some(answer)) => self.judge_list(sent, answer)?,
                (Ask::Fine, Some(answer)) => {
                    ensure!(answer.outcome.is_ok(), "refused: {}", answer.whole);
                }
                (Ask::Error(code), Some(answer)) => {
                    ensure!(answer.outcome == Err(*code), "{code} was due: {}", answer.whole);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The answers to the requests on one handle, in the order they took effect.
    fn judge_requests(&self, slot: usize) -> Verdict {
        // The process that was answered for last, and whether an answer has told that it was gone.
        let mut current: Option<usize> = None;
        let mut known_gone = false;
        let mut closed = false;
        let mut output_closed = [false; 2];
        let mut written = 0;
        for (number, sent) in self.sent.iter().enumerate() {
            if sent.slot != Some(slot) {
                continue;
            }
            let Some(answer) = &sent.answer else {
                // Cut off; it may have taken effect.
                if let Ask::Spawn { .. } = &sent.ask {
                    return Ok(());
                }
                if let Ask::Write { bytes, .. } = &sent.ask {
                    written += bytes.len() as u64;
                }
                continue;
            };
            let process = current.map(|index| &self.slots[slot][index]);
            let gone = known_gone
                || process.is_none_or(|p| p.exited.as_ref().is_some_and(|(exited, _)| *exited < sent.at));
            // A connection that ends ends the processes, whatever is still being asked.
            let ending = self.ending.is_some_and(|ending| answer.at > ending);
            let live = !gone && !ending && current.is_some_and(|index| self.lives_until(slot, index, number));
            let refused = answer.outcome == Err(-32600);
            let why = |what: &str| {
                Err(format!(
                    "request {} on h{slot}: {what}: {}",
                    id_of(number),
                    answer.whole
                ))
            };
            match &sent.ask {
                Ask::Spawn { .. } => match answer.outcome {
                    Ok(_) if live => return why("started beside a live process of that handle"),
                    Ok(_) => {
                        current = Some(current.map_or(0, |index| index + 1));
                        (known_gone, closed, written) = (false, false, 0);
                        output_closed = [false; 2];
                    }
                    Err(-32600) if gone && !ending => return why("the handle was free"),
                    Err(-32600) => {}
                    Err(_) => return why("nothing is wrong with it"),
                },
                Ask::BadSpawn { fault } => {
                    let (_, code, machine) = fault.params();
                    let Some((errno, stage)) = machine else {
                        ensure!(answer.outcome == Err(code), "{code} was due: {}", answer.whole);
                        continue;
                    };
                    if answer.outcome == Err(code) {
                        if live {
                            return why("tried beside a live process of that handle");
                        }
                        let data = &answer.whole["error"]["data"];
                        if data["errno"] != errno || data["stage"] != stage {
                            return why(&format!("errno {errno} at {stage} was due"));
                        }
                        known_gone = true;
                    } else if !refused || gone && !ending {
                        return why("the handle was free, and the spawn is at fault");
                    }
                }
                Ask::Kill { .. } => match answer.outcome {
                    Ok(_) if gone => return why("a result for a process that is gone"),
                    Ok(_) => {}
                    Err(-32600) if live => return why("the process was alive"),
                    Err(-32600) => known_gone = true,
                    Err(_) => return why("a kill succeeds or comes too late"),
                },
                Ask::Inspect => match answer.outcome {
                    Ok(_) if gone => return why("a result for a process that is gone"),
                    Ok(_) => {}
                    Err(-32600) if live => return why("the process was alive"),
                    Err(-32600) => {}
                    Err(_) => return why("nothing is wrong with it"),
                },
                Ask::CloseOutput { stream } => {
                    let wanted = |index: &usize| stream.is_none_or(|only| only == *index);
                    let is_open = |index: usize| {
                        process.is_some_and(|p| !p.shape.tty && p.shape.has_pipe(index))
                            && !output_closed[index]
                    };
                    let open = (0..2).filter(wanted).any(is_open);
                    match answer.outcome {
                        Ok(_) if gone => return why("a result for a process that is gone"),
                        Ok(_) if process.is_some_and(|p| p.shape.tty) => return why("it has a terminal"),
                        Ok(_) if live && !open => return why("there was nothing to close"),
                        Ok(_) => (0..2)
                            .filter(wanted)
                            .for_each(|index| output_closed[index] = true),
                        Err(-32600) if live && open => return why("it was open"),
                        Err(-32600) => {}
                        Err(_) => return why("nothing is wrong with it"),
                    }
                }
                Ask::Wait { until, timed } => match &answer.outcome {
                    Ok(_) if gone => return why("a result for a process that is gone"),
                    Ok(_)
                        if process
                            .is_some_and(|p| p.exited.as_ref().is_some_and(|(at, _)| *at < answer.at)) =>
                    {
                        return why("a result behind the exit");
                    }
                    Ok(result) => {
                        let (timed_out, exited) = (&result["timedOut"], &result["exited"]);
                        let text = matches!(until, Until::Text(_));
                        let fits = match result["index"].as_u64() {
                            Some(0) => {
                                text == result["offset"].is_u64() && text == result["stream"].is_string()
                            }
                            Some(_) => false,
                            None if *timed_out == true => *timed && exited.is_boolean(),
                            None => *timed_out == false && *exited == true && *until != Until::Exit,
                        };
                        if !fits {
                            return why("not what was waited for");
                        }
                    }
                    Err(-32600) if live => return why("the process was alive"),
                    Err(-32600) => {}
                    Err(_) => return why("nothing is wrong with it"),
                },
                Ask::BadKill => {
                    if answer.outcome != Err(-32602) && (live || !refused) {
                        return why("-32602 was due");
                    }
                }
                Ask::Resize { valid } => {
                    let tty = process.is_some_and(|p| p.shape.tty);
                    match answer.outcome {
                        Ok(_) if gone || !*valid || !tty => {
                            return why("a result for what cannot be resized");
                        }
                        Ok(_) => {}
                        Err(-32602) if !*valid => {}
                        Err(-32600) if *valid && live && tty => return why("its terminal was there"),
                        Err(-32600) if *valid || !live => {}
                        Err(_) => return why("not the error that was due"),
                    }
                }
                Ask::BadWrite { base64 } => {
                    let due = answer.outcome == Err(-32602) || refused && !base64 && !live;
                    if !due {
                        return why("-32602 was due");
                    }
                }
                Ask::Write { bytes, close } => {
                    let length = bytes.len() as u64;
                    let Some(process) = process else {
                        if !refused {
                            return why("-32600 was due, there is no process");
                        }
                        continue;
                    };
                    if gone || closed || !process.shape.has_stdin() {
                        if !refused {
                            return why("-32600 was due");
                        }
                        continue;
                    }
                    let deaf = process.program == Program::ClosesStdin && !process.shape.tty;
                    let told = process.ready.is_some_and(|ready| ready < sent.at);
                    match answer.outcome {
                        Ok(_) if deaf && told && length > 0 => {
                            return why("the program has closed its stdin");
                        }
                        Ok(_) => {
                            let starved = process.program == Program::Sleep
                                && written + length > FREE_STDIN_BYTES + KERNEL;
                            if starved {
                                return why("too much is pending for an answer");
                            }
                        }
                        Err(-32001) if written + length > PENDING => {}
                        Err(-32600) if deaf => {}
                        // It may close its stdin, or end, with some of these bytes still on their way.
                        Err(-32600) if process.may_end_by(sent) => {}
                        Err(-32600) if live && written + length <= FREE_STDIN_BYTES => {
                            return why("there was room, and the process was alive");
                        }
                        Err(-32600) => {}
                        Err(_) => return why("nothing is wrong with it"),
                    }
                    if answer.outcome != Err(-32001) {
                        closed |= *close;
                        written += length;
                    }
                }
                Ask::List | Ask::Fine | Ask::Error(_) => {}
            }
        }
        Ok(())
    }

    /// How one process ended, and what it printed.
    fn judge_process(&self, slot: usize, index: usize, exited: &Value) -> Verdict {
        let process = &self.slots[slot][index];
        let asked: Vec<&Sent> = self.requests(slot, index).map(|(_, s)| s).collect();
        let code = exited["exitCode"].as_i64();
        let signal = exited["signal"].as_str();
        let timed_out = exited["timedOut"] == true;
        let duration = exited["durationMs"].as_u64();
        let (Some(code), Some(duration)) = (code, duration) else {
            return Err(format!("malformed: {exited}"));
        };

        // How it may have ended.
        let mut deadly: Vec<&str> = Vec::new();
        for sent in asked.iter().filter(|s| s.error().is_none()) {
            if let Ask::Kill { signal, grace } = &sent.ask {
                let told = process.ready.is_some_and(|ready| ready < sent.at);
                deadly.extend(signal.deadly().filter(|s| !process.resists(s, told)));
                deadly.extend(grace.then_some("SIGKILL"));
            }
        }
        if !process.in_peace {
            deadly.push("SIGKILL");
        }
        let closed = asked.iter().any(|s| s.may_close(0) || s.may_close(1));
        if closed && !process.shape.tty {
            deadly.push("SIGPIPE");
        }
        let natural = match process.program {
            // It waits for a child that dies of what it prints.
            Program::KeepsSession if closed && !process.shape.tty => Some((0, None)),
            _ => self.natural_end(process, &asked),
        };
        let naturally = !timed_out && natural == Some((code, signal));
        match (timed_out, signal) {
            (true, _) => {
                let timeout = process.shape.timeout;
                let grace = process.shape.grace.unwrap_or(0);
                ensure!(code == 124, "124 was due: {exited}");
                ensure!(
                    timeout.is_some_and(|t| t <= duration && duration <= t + grace + LATE),
                    "the timeout was {timeout:?}: {exited}"
                );
            }
            (false, _) if naturally => {}
            (false, Some(name)) => {
                ensure!(
                    deadly.contains(&name),
                    "{deadly:?} were sent, it ends by itself as {natural:?}: {exited}"
                );
                ensure!(code == 128 + number(name), "128 + the signal was due: {exited}");
            }
            (false, None) => {
                return Err(format!("by itself it ends as {natural:?}: {exited}"));
            }
        }
        if let (Some(timeout), false) = (process.shape.timeout, timed_out) {
            ensure!(
                duration <= timeout + LATE,
                "it should have timed out after {timeout} ms: {exited}"
            );
        }
        let holds = matches!(process.program, Program::LeavesChild { holds: true, .. })
            && (process.shape.has_pipe(0) || process.shape.has_pipe(1));
        if process.in_peace {
            let late = exited["outputDrainTimedOut"] == true;
            let undisturbed = naturally && deadly.is_empty() && !process.shape.tty;
            ensure!(!late || holds, "nothing holds its output open: {exited}");
            ensure!(
                late || !(holds && undisturbed),
                "its child holds its output open: {exited}"
            );
        }
        self.judge_output(process, &asked, exited, naturally)
    }

    /// The exit code and the signal of a process that is left alone.
    fn natural_end(&self, process: &Process, asked: &[&Sent]) -> Option<(i64, Option<&'static str>)> {
        let shape = &process.shape;
        let taken = |s: &&&Sent| s.error().is_none();
        let closed = asked
            .iter()
            .filter(taken)
            .any(|s| matches!(s.ask, Ask::Write { close: true, .. }));
        // The rest of a write whose beginning was read may have been refused.
        let fed = asked
            .iter()
            .filter(|s| s.error().is_none_or(|code| code == -32600))
            .any(|s| matches!(&s.ask, Ask::Write { bytes, .. } if bytes.contains(&b'\n')));
        let code = |code: i32| Some((i64::from(code), None));
        match process.program {
            Program::Cat { raw } => {
                let keeps_raw = shape.tty && raw && !process.was_fed_early(asked);
                (!shape.has_stdin() || closed && !keeps_raw).then_some((0, None))
            }
            Program::Seq { code: n, .. } => code(n),
            Program::Zeros { .. } => code(0),
            Program::TrapsTerm { code: n } => {
                let term = |s: &&Sent| {
                    matches!(
                        s.ask,
                        Ask::Kill {
                            signal: Signal::Term,
                            ..
                        }
                    )
                };
                asked.iter().any(term).then_some((i64::from(n), None))
            }
            Program::Liner { code: n } => {
                (!shape.has_stdin() || closed || fed).then_some((i64::from(n), None))
            }
            Program::LeavesChild { code: n, .. } | Program::LeavesSession { code: n } => code(n),
            Program::Exit { code: n } => code(n),
            Program::KillsItself { signal } => {
                let name = match signal {
                    "TERM" => "SIGTERM",
                    "KILL" => "SIGKILL",
                    "USR1" => "SIGUSR1",
                    _ => "SIGSEGV",
                };
                Some((128 + number(name), Some(name)))
            }
            Program::Yes
            | Program::Sleep
            | Program::IgnoresTerm
            | Program::KeepsSession
            | Program::ClosesStdin => None,
        }
    }

    fn judge_output(&self, process: &Process, asked: &[&Sent], exited: &Value, naturally: bool) -> Verdict {
        let (head, tail) = process.shape.kept();
        // A terminal that echoes shows what was typed as well.
        let echoes = process.shape.tty
            && (!matches!(process.program, Program::Cat { .. }) || process.was_fed_early(asked));
        let typed = asked.iter().any(|s| matches!(s.ask, Ask::Write { .. }));
        for (index, name) in STREAMS.into_iter().enumerate() {
            let stream = &process.streams[index];
            let written = exited[format!("{name}Bytes")].as_u64();
            let written = written.ok_or_else(|| format!("{name}Bytes is missing: {exited}"))?;
            let text = exited[name].as_str().unwrap_or("nothing");
            let reported = exited[format!("{name}CapReached")] == true;
            let end = exited[format!("{name}Tail")].as_str();
            let omitted = exited[format!("{name}OmittedBytes")].as_u64();
            let told = process.shape.keep != Keep::LeftOut;
            ensure!(
                end.is_some() == told && omitted.is_some() == told,
                "what is missing of {name} is told exactly if it was asked for: {exited}"
            );
            let end = end.unwrap_or_default();
            let (kept, end) = match process.shape.is_streamed() {
                true => {
                    ensure!(text.is_empty(), "{name} was streamed: {exited}");
                    ensure!(
                        !stream.capped || reported,
                        "a delta of {name} said that the cap was reached: {exited}"
                    );
                    ensure!(end.is_empty(), "the end of {name} was streamed: {exited}");
                    (stream.bytes.as_slice(), stream.tail.as_slice())
                }
                // Only ASCII is fed to what is collected.
                false => (text.as_bytes(), end.as_bytes()),
            };
            let came = (kept.len() + end.len()) as u64;
            let overflows = written > head.saturating_add(tail);
            // What is to be sent at the end is dropped where it was closed, or the client does not read.
            let closed = asked.iter().any(|s| s.may_close(index));
            let cut_short = process.shape.is_streamed() && tail > 0 && (closed || !process.in_peace);
            ensure!(
                kept.len() as u64 >= written.min(head),
                "{} bytes of the beginning of {name} have come: {exited}",
                kept.len()
            );
            ensure!(
                came == written.min(head.saturating_add(tail)) || cut_short && came < written,
                "{came} bytes of {name} have come: {exited}"
            );
            ensure!(
                omitted.is_none_or(|omitted| came + omitted == written),
                "{came} bytes of {name} have come: {exited}"
            );
            ensure!(
                reported == overflows,
                "{head} and {tail} bytes of {name} are kept, {written} bytes were written: {exited}"
            );
            ensure!(
                !process.shape.is_streamed() || stream.capped == reported || cut_short,
                "the last delta of {name} reports the cap: {exited}"
            );
            let end_at = match process.shape.is_streamed() {
                true => stream.tail_at.unwrap_or(written),
                false => written - end.len() as u64,
            };
            ensure!(
                end.is_empty() || end_at == written - tail,
                "the end of {name} begins at {end_at}: {exited}"
            );
            if echoes && typed {
                continue;
            }
            let Some(expected) = process.prints(asked, index, kept) else {
                continue;
            };
            let differs = kept.iter().zip(&expected).position(|(a, b)| a != b);
            if let Some(at) = differs.or((kept.len() > expected.len()).then_some(expected.len())) {
                let near = |bytes: &[u8]| {
                    String::from_utf8_lossy(&bytes[at.saturating_sub(20)..bytes.len().min(at + 20)])
                        .into_owned()
                };
                return Err(format!(
                    "{name} is wrong at byte {at}: {:?} instead of {:?}",
                    near(kept),
                    near(&expected)
                ));
            }
            let prints_on = process.program == Program::Yes && process.shape.has_pipe(index);
            let from = usize::try_from(end_at).unwrap_or(usize::MAX);
            let due = match prints_on {
                true => expected_of_yes(process.shape.tty, from, end.len()),
                false => expected.get(from..).unwrap_or_default().to_vec(),
            };
            ensure!(due.starts_with(end), "the end of {name} is wrong: {exited}");
            if naturally && !prints_on && !closed {
                ensure!(
                    written == expected.len() as u64,
                    "{name}: {} bytes were written before the exit: {exited}",
                    expected.len()
                );
            }
        }
        Ok(())
    }

    fn judge_list(&self, sent: &Sent, answer: &Answer) -> Verdict {
        let whole = &answer.whole;
        let Ok(result) = &answer.outcome else {
            return Err(format!("a list cannot fail: {whole}"));
        };
        let listed = result["processes"]
            .as_array()
            .ok_or_else(|| format!("no list: {whole}"))?;
        let mut pids = BTreeMap::new();
        for entry in listed {
            let handle = entry["processHandle"].as_str().unwrap_or_default();
            let known = self.slots.iter().enumerate().find_map(|(slot, processes)| {
                let found = processes
                    .iter()
                    .find(|p| entry["pid"] == p.pid && handle == format!("h{slot}"))?;
                Some((slot, found))
            });
            let Some((_, process)) = known else {
                // The answer to its spawn may come later, and was cut off.
                let unanswered = self.sent.iter().any(|s| {
                    let spawn = matches!(s.ask, Ask::Spawn { .. });
                    spawn && s.answer.is_none() && s.slot.is_some_and(|slot| handle == format!("h{slot}"))
                });
                ensure!(unanswered, "a stranger in the list: {entry}");
                continue;
            };
            let spawn = &self.sent[process.spawn];
            let Ask::Spawn { command, shape, .. } = &spawn.ask else {
                return Err("no spawn".to_owned());
            };
            ensure!(
                entry["command"] == serde_json::json!(command) && entry["tty"] == shape.tty,
                "not what was spawned: {entry}"
            );
            ensure!(
                spawn.at < answer.at && process.exited.as_ref().is_none_or(|(at, _)| *at > sent.at),
                "listed though its exit had been read: {entry}"
            );
            let earlier = pids.insert(handle, process.pid);
            ensure!(earlier.is_none(), "a handle twice in a list: {whole}");
        }
        for (slot, processes) in self.slots.iter().enumerate() {
            for (index, process) in processes.iter().enumerate() {
                let spawned = self.sent[process.spawn].at < sent.at;
                // Certain to be alive: nothing that was sent until the list came may have ended it.
                let until = self
                    .sent
                    .iter()
                    .position(|s| s.at > answer.at)
                    .unwrap_or(self.sent.len());
                let ending = self.ending.is_some_and(|ending| answer.at > ending);
                let live = spawned && !ending && self.lives_until(slot, index, until);
                ensure!(
                    !live || pids.get(format!("h{slot}").as_str()) == Some(&process.pid),
                    "h{slot}, process {} is missing in a list: {whole}",
                    process.pid
                );
            }
        }
        Ok(())
    }
}

impl Process {
    fn delta(&mut self, at: u64, params: &Value) -> Result<u64, String> {
        let index = match params["stream"].as_str() {
            Some("stdout") => 0,
            Some("stderr") if !self.shape.tty => 1,
            Some(_) | None => return Err(format!("a stream it has not: {params}")),
        };
        ensure!(self.shape.has_pipe(index), "its output goes elsewhere: {params}");
        ensure!(
            self.shape.is_streamed(),
            "its output was to be collected: {params}"
        );
        let bytes = decoded(params);
        let capped = params["capReached"] == true;
        let stream = &mut self.streams[index];
        if params["eof"] == true {
            // On a busy machine a process ends late after its streams.
            ensure!(
                bytes.is_empty() && !stream.closed && capped == stream.capped && !self.shape.tty,
                "not the end of a stream: {params}"
            );
            return Ok(0);
        }
        ensure!(
            !stream.capped,
            "behind the delta that said the cap was reached: {params}"
        );
        ensure!(!stream.closed, "of a stream that was closed: {params}");
        ensure!(bytes.len() <= CHUNK, "too large: {} bytes", bytes.len());
        ensure!(!bytes.is_empty() || capped, "an empty delta: {params}");
        let offset = params["offset"].as_u64().unwrap_or(u64::MAX);
        let taken = stream.takes(offset, &bytes, self.shape.kept());
        taken.map_err(|why| format!("{why}: {params}"))?;
        stream.capped = capped;
        if self.ready.is_none() && index == 0 && stream.bytes.starts_with(b"ready") {
            self.ready = Some(at);
        }
        Ok(bytes.len() as u64)
    }

    /// At the exit: what was left in its group is dead, what has left it is not.
    fn relatives(&self, peace: bool) -> Verdict {
        let exited = self.exited.as_ref().map_or(&Value::Null, |(_, exited)| exited);
        let text = match self.shape.is_streamed() {
            true => String::from_utf8_lossy(&self.streams[0].bytes).into_owned(),
            false => exited["stdout"].as_str().unwrap_or_default().to_owned(),
        };
        for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
            let Some((word, pid)) = line.trim_end().split_once(' ') else {
                continue;
            };
            let Ok(pid) = pid.parse() else { continue };
            let undisturbed = exited["signal"].is_null() && exited["timedOut"] == false;
            match (self.program, word) {
                (Program::LeavesChild { .. }, "child") => {
                    ensure!(
                        !is_alive(pid),
                        "{pid} of its group is alive behind the exit: {exited}"
                    );
                }
                (Program::LeavesSession { .. }, "session") => {
                    ensure!(
                        is_alive(pid) || !undisturbed || !peace,
                        "{pid} had left the group and was to live on: {exited}"
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether it ends without being asked to.
    fn ends_alone(&self) -> bool {
        self.shape.timeout.is_some()
            || match self.program {
                Program::Cat { .. } | Program::Liner { .. } => !self.shape.has_stdin(),
                Program::Seq { .. }
                | Program::Zeros { .. }
                | Program::LeavesChild { .. }
                | Program::LeavesSession { .. }
                | Program::Exit { .. }
                | Program::KillsItself { .. } => true,
                Program::Yes
                | Program::Sleep
                | Program::IgnoresTerm
                | Program::TrapsTerm { .. }
                | Program::KeepsSession
                | Program::ClosesStdin => false,
            }
    }

    /// Something was typed before it had said that its terminal was set up: it was stopped before.
    fn was_fed_early(&self, asked: &[&Sent]) -> bool {
        self.shape.tty
            && asked
                .iter()
                .any(|s| matches!(s.ask, Ask::Write { .. }) && self.ready.is_none_or(|ready| ready > s.at))
    }

    /// Whether it lives on at a signal that kills others. `told`: it had said `ready` before.
    fn resists(&self, signal: &str, told: bool) -> bool {
        told && match self.program {
            Program::IgnoresTerm => matches!(signal, "SIGTERM" | "SIGINT" | "SIGHUP"),
            // It exits instead.
            Program::TrapsTerm { .. } => signal == "SIGTERM",
            _ => false,
        }
    }

    /// Whether what was sent may be the end of it.
    fn may_end_by(&self, sent: &Sent) -> bool {
        match &sent.ask {
            Ask::Kill { signal, grace } => {
                let told = self.ready.is_some_and(|ready| ready < sent.at);
                let traps = matches!(self.program, Program::TrapsTerm { .. });
                *grace || signal.deadly().is_some_and(|s| traps || !self.resists(s, told))
            }
            Ask::Write { bytes, close } => match self.program {
                Program::Cat { raw } => *close && !(self.shape.tty && raw),
                Program::Liner { .. } => *close || bytes.contains(&b'\n'),
                _ => false,
            },
            Ask::CloseOutput { .. } => !self.shape.tty,
            _ => false,
        }
    }

    /// Everything it may print to a stream. `kept` is what has come of it, for what only the program
    /// knows; `None` where that was cut off.
    fn prints(&self, asked: &[&Sent], stream: usize, kept: &[u8]) -> Option<Vec<u8>> {
        let fed = || -> Vec<u8> {
            let mut fed = Vec::new();
            let mut closed = false;
            for sent in asked {
                if let Ask::Write { bytes, close } = &sent.ask
                    && sent.error().is_none_or(|code| code == -32600)
                    && !closed
                {
                    fed.extend_from_slice(bytes);
                    closed = *close;
                    if closed && self.shape.tty && self.program == (Program::Cat { raw: true }) {
                        fed.push(4);
                    }
                }
            }
            fed
        };
        let numbers = |count: usize| (1..=count).map(|n| format!("{n}\n")).collect::<String>();
        let printed = |text: &str| match self.shape.tty {
            true => text.replace('\n', "\r\n").into_bytes(),
            false => text.as_bytes().to_vec(),
        };
        if !self.shape.has_pipe(stream) {
            return Some(Vec::new());
        }
        Some(match (self.program, stream) {
            (Program::Seq { lines, errors, .. }, 0) if self.shape.tty => {
                printed(&(numbers(lines) + &numbers(errors)))
            }
            (Program::Seq { errors, .. }, 1) if !self.shape.tty => printed(&numbers(errors)),
            (_, 1) => Vec::new(),
            (Program::Cat { .. }, _) if self.shape.tty => [b"ready\n".to_vec(), fed()].concat(),
            (Program::Cat { .. }, _) if self.shape.has_stdin() => fed(),
            (Program::Seq { lines, .. }, _) => printed(&numbers(lines)),
            (Program::Zeros { bytes }, _) => vec![0; bytes],
            (Program::Yes, _) => {
                let period = printed("y\n");
                period.iter().copied().cycle().take(kept.len()).collect()
            }
            (Program::IgnoresTerm | Program::TrapsTerm { .. } | Program::ClosesStdin, _) => {
                printed("ready\n")
            }
            (Program::Liner { .. }, _) => {
                let fed = if self.shape.has_stdin() { fed() } else { Vec::new() };
                let line = fed.split(|b| *b == b'\n').next().unwrap_or_default();
                printed(&format!("got:{}\n", String::from_utf8_lossy(line)))
            }
            (Program::LeavesChild { .. }, _) => printed(&format!("child {}\n", number_in(kept)?)),
            (Program::LeavesSession { .. } | Program::KeepsSession, _) => {
                printed(&format!("session {}\n", number_in(kept)?))
            }
            (
                Program::Cat { .. } | Program::Sleep | Program::Exit { .. } | Program::KillsItself { .. },
                _,
            ) => Vec::new(),
        })
    }
}

/// The digits in `kept`, if it is whole.
fn number_in(kept: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(kept);
    text.ends_with('\n')
        .then(|| text.chars().filter(char::is_ascii_digit).collect())
}

/// What `yes` prints from this place on.
fn expected_of_yes(tty: bool, from: usize, length: usize) -> Vec<u8> {
    let period: &[u8] = if tty { b"y\r\n" } else { b"y\n" };
    let period = period.iter().copied().cycle();
    period.skip(from % if tty { 3 } else { 2 }).take(length).collect()
}

fn number(signal: &str) -> i64 {
    i64::from(match signal {
        "SIGPIPE" => libc::SIGPIPE,
        "SIGHUP" => libc::SIGHUP,
        "SIGINT" => libc::SIGINT,
        "SIGKILL" => libc::SIGKILL,
        "SIGUSR1" => libc::SIGUSR1,
        "SIGSEGV" => libc::SIGSEGV,
        _ => libc::SIGTERM,
    })
}
