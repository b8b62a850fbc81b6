//! The waits of one process: what clients wait for, each answered once.
//!
//! **Thread:** the process thread; the dispatcher counts a wait before it hands it over.
//! **Owns:** the conditions that are waited for, and how much of each pattern the streams have begun with.
//! **Never:** keeps output, and never looks at it while there is no wait.
//!
//! A wait is answered after output, in the lane of the deltas: then it comes after the delta that holds
//! its match, and before `process/exited`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::outbox::costs::{CHUNK_BYTES, MAX_WAITS, MAX_WAITS_BYTES, WAIT_COST_BYTES};
use crate::outbox::{Account, Charge, Outbox, Ticket};
use crate::process::inspect::Look;
use crate::process::pattern::Pattern;
use crate::wire::protocol::{Condition, Reply, RequestId, RpcError, Stream, WaitParams, WaitReply, code};

/// The first pause between two looks at whether a process waits for input, and the longest.
const FIRST_INPUT_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_INPUT_PAUSE: Duration = Duration::from_millis(250);
/// In how many patterns a whole chunk of output is looked at before commands and deadlines are: that takes some
/// milliseconds. With more, less is read at a time.
const PATTERNS_A_CHUNK: usize = 64;
/// The least that is read at a time: at each border between two chunks, long patterns cost more.
const MIN_READ_BYTES: usize = 8 * 1024;
/// How soon a stream that holds output, which the client leaves no room to read, is looked at again.
const RETRY_WAIT: Duration = Duration::from_millis(50);

/// A wait on its way to its process.
pub(crate) struct Wait {
    params: WaitParams,
    counted: Counted,
}

/// A wait counts among those of its process and, by its bytes, among those of the server.
type Counted = (Charge, Charge);

impl Wait {
    /// Counts a wait among those of its process, and its bytes among those of the server; refused where
    /// that is too much. Only the dispatcher adds to either.
    pub(crate) fn new(
        ticket: &Ticket,
        params: WaitParams,
        of_process: &Arc<Account>,
        of_server: &Arc<Account>,
    ) -> Result<Wait, RpcError> {
        let patterns = params.until.iter().filter_map(Condition::pattern);
        let patterns: usize = patterns.map(|pattern| Pattern::cost(pattern.len())).sum();
        let conditions = params.until.len() * size_of::<Awaited>();
        let bytes = WAIT_COST_BYTES + ticket.id().map_or(0, RequestId::len) + conditions + patterns;
        let refused = |why| Err(RpcError::new(code::OVERLOADED, why));
        let Some(one) = of_process.charge_within(MAX_WAITS, 1) else {
            return refused(format!(
                "{MAX_WAITS} waits for this process are unanswered already: await the answers to some"
            ));
        };
        let Some(bytes) = of_server.charge_within(MAX_WAITS_BYTES, bytes) else {
            return refused(format!(
                "unanswered waits have {MAX_WAITS_BYTES} bytes already: await the answers to some"
            ));
        };
        let counted = (one, bytes);
        Ok(Wait { params, counted })
    }

    /// The only stream whose output counts.
    pub(crate) fn stream(&self) -> Option<Stream> {
        self.params.stream
    }

    /// Its answer where the process has ended before it could take effect.
    pub(crate) fn too_late(self) -> Reply {
        let ended = |condition: &Condition| matches!(condition, Condition::Exit | Condition::Eof);
        Reply::Wait(match self.params.until.iter().position(ended) {
            Some(index) => holds(index),
            None => none_holds(false, true),
        })
    }
}

/// What there is to know of a stream.
#[derive(Clone, Copy)]
pub(crate) struct StreamState {
    /// All of it was read and sent, or it was closed.
    pub(crate) ended: bool,
    /// There is output that was not read.
    pub(crate) unread: bool,
}

/// What the conditions are about, but for the bytes of output.
pub(crate) trait Watched {
    /// `None` where it is not read at all.
    fn stream(&self, stream: Stream) -> Option<StreamState>;
    /// The process has exited, and what it had printed before was read.
    fn has_exited(&self) -> bool;
    /// Begins to look whether it waits for input; `None` where that cannot be done now.
    fn look_for_input(&self) -> Option<Look>;
}

/// A wait that has taken effect.
struct Waiting {
    /// Parked once the first look was in vain: only the process ends it.
    ticket: Ticket,
    stream: Option<Stream>,
    conditions: Vec<Awaited>,
    until: Option<Instant>,
    /// Since when there was no output, as far as this wait has seen.
    quiet_since: Instant,
    found: Option<Found>,
    counted: Counted,
}

enum Awaited {
    Bytes(Box<Pattern>),
    Quiet(Duration),
    Eof,
    Exit,
    Input,
}

/// The first match of a wait.
struct Found {
    index: usize,
    stream: Stream,
    /// The position in the stream after it.
    offset: u64,
}

/// The waits of a process.
#[derive(Default)]
pub(crate) struct Waits {
    waiting: Vec<Waiting>,
    /// While anything waits for that: whether the process waits for input.
    input: Option<InputWatch>,
}

/// Looks whether a process waits for input, again and again.
struct InputWatch {
    look: Option<Look>,
    /// A wait has come since it began, about what is from then on.
    stale: bool,
    /// When to look again, and how long to pause after that.
    at: Instant,
    pause: Duration,
}

impl InputWatch {
    /// From the beginning, for one more wait. A look under way goes on: it cannot be ended.
    fn renewed(old: Option<InputWatch>, now: Instant) -> InputWatch {
        let look = old.and_then(|watch| watch.look);
        InputWatch {
            stale: look.is_some(),
            look,
            at: now,
            pause: FIRST_INPUT_PAUSE,
        }
    }

    /// Whether a look has found now that it does.
    fn found(&mut self, now: Instant, watched: &impl Watched) -> bool {
        if let Some(look) = &self.look {
            if !look.has_ended() {
                return false;
            }
            let found = look.known().waits_for_input == Some(true) && !self.stale;
            self.look = None;
            if found {
                return true;
            }
            if !self.stale {
                self.at = now + self.pause;
                self.pause = LONGEST_INPUT_PAUSE.min(self.pause * 2);
            }
        }
        if self.at <= now {
            self.stale = false;
            self.look = watched.look_for_input();
            if self.look.is_none() {
                self.at = now + LONGEST_INPUT_PAUSE;
            }
        }
        false
    }
}

impl Waits {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How much output may be read at a time.
    pub(crate) fn chunk(&self) -> usize {
        let conditions = self.waiting.iter().flat_map(|waiting| &waiting.conditions);
        let patterns = conditions.filter(|condition| matches!(condition, Awaited::Bytes(_)));
        let chunk = CHUNK_BYTES * PATTERNS_A_CHUNK / patterns.count().max(PATTERNS_A_CHUNK);
        chunk.max(MIN_READ_BYTES)
    }

    /// Takes a wait: from now on output counts.
    pub(crate) fn add(&mut self, ticket: Ticket, wait: Wait, now: Instant) {
        let Wait { params, counted } = wait;
        let conditions = params.until.iter().map(Awaited::from).collect();
        let timeout = params.timeout_ms.map(Duration::from_millis);
        if params.until.contains(&Condition::Input) {
            self.input = Some(InputWatch::renewed(self.input.take(), now));
        }
        self.waiting.push(Waiting {
            ticket,
            stream: params.stream,
            conditions,
            // A time past the end of time is none.
            until: timeout.and_then(|timeout| now.checked_add(timeout)),
            quiet_since: now,
            found: None,
            counted,
        });
    }

    /// Looks at bytes that were read; the first of them has the position `offset`. What is found is answered
    /// by [`answer_found`](Self::answer_found), once the bytes were passed on.
    pub(crate) fn read(&mut self, stream: Stream, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        for waiting in &mut self.waiting {
            if waiting.stream.is_none_or(|only| only == stream) {
                waiting.read(stream, offset, bytes);
            }
        }
    }

    pub(crate) fn answer_found(&mut self, outbox: &Outbox) {
        self.answer(outbox, |waiting| {
            let found = waiting.found.as_ref()?;
            Some(WaitReply {
                stream: Some(found.stream),
                offset: Some(found.offset),
                ..holds(found.index)
            })
        });
    }

    /// Answers those of which a condition holds, or whose time is up.
    pub(crate) fn look(&mut self, now: Instant, watched: &impl Watched, outbox: &Outbox) {
        let has_exited = watched.has_exited();
        let waits_for_input = self.look_for_input(now, watched);
        self.answer(outbox, |waiting| {
            for index in 0..waiting.conditions.len() {
                let holds_now = match &waiting.conditions[index] {
                    Awaited::Bytes(_) => false,
                    Awaited::Quiet(duration) => waiting.is_quiet(*duration, now, watched),
                    Awaited::Eof => waiting.streams(watched).all(|state| state.ended),
                    Awaited::Exit => has_exited,
                    Awaited::Input => waits_for_input,
                };
                if holds_now {
                    return Some(holds(index));
                }
            }
            let is_over = waiting.until.is_some_and(|until| until <= now);
            is_over.then(|| none_holds(true, has_exited))
        });
        for waiting in &mut self.waiting {
            waiting.ticket.park();
        }
    }

    /// Whether the process waits for input, if anything asks and it is time to look.
    fn look_for_input(&mut self, now: Instant, watched: &impl Watched) -> bool {
        let Some(watch) = &mut self.input else {
            return false;
        };
        let is_input = |condition: &Awaited| matches!(condition, Awaited::Input);
        let asks = |waiting: &Waiting| waiting.conditions.iter().any(is_input);
        if self.waiting.iter().any(asks) {
            return watch.found(now, watched);
        }
        if watch.look.as_ref().is_none_or(Look::has_ended) {
            self.input = None;
        }
        false
    }

    /// When to look again, if nothing else happens.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        let times = self.waiting.iter().flat_map(|waiting| {
            let quiet = waiting.conditions.iter().filter_map(|condition| match condition {
                Awaited::Quiet(duration) => waiting.quiet_since.checked_add(*duration),
                _ => None,
            });
            quiet.chain(waiting.until)
        });
        // The end of a look wakes the process.
        let input = self.input.iter().filter(|watch| watch.look.is_none());
        times.chain(input.map(|watch| watch.at)).min()
    }

    /// The process has ended, and nothing more is read: answers the rest.
    pub(crate) fn end(&mut self, outbox: &Outbox) {
        self.answer(outbox, |waiting| {
            let exit = |condition: &Awaited| matches!(condition, Awaited::Exit);
            Some(match waiting.conditions.iter().position(exit) {
                Some(index) => holds(index),
                None => none_holds(false, true),
            })
        });
    }

    /// Answers all with an error: the process is left to itself.
    pub(crate) fn fail(&mut self, outbox: &Outbox, why: &str) {
        for waiting in std::mem::take(&mut self.waiting) {
            waiting.answer(outbox, Err(RpcError::invalid_request(why)));
        }
    }

    fn answer(&mut self, outbox: &Outbox, mut reply: impl FnMut(&mut Waiting) -> Option<WaitReply>) {
        let mut index = 0;
        while let Some(waiting) = self.waiting.get_mut(index) {
            match reply(waiting) {
                Some(reply) => self.waiting.remove(index).answer(outbox, Ok(Reply::Wait(reply))),
                None => index += 1,
            }
        }
    }
}

impl Waiting {
    fn read(&mut self, stream: Stream, offset: u64, bytes: &[u8]) {
        // The match that is complete first counts, however the stream was cut.
        let mut bytes = bytes;
        for (index, condition) in self.conditions.iter_mut().enumerate() {
            match condition {
                Awaited::Bytes(pattern) => {
                    if let Some(end) = pattern.find(stream as usize, bytes) {
                        bytes = &bytes[..end - 1];
                        let offset = offset + end as u64;
                        self.found = Some(Found {
                            index,
                            stream,
                            offset,
                        });
                    }
                }
                Awaited::Quiet(_) => self.quiet_since = Instant::now(),
                Awaited::Eof | Awaited::Exit | Awaited::Input => {}
            }
        }
    }

    /// Those of the process's streams that it is about.
    fn streams(&self, watched: &impl Watched) -> impl Iterator<Item = StreamState> {
        let all = [Stream::Stdout, Stream::Stderr].into_iter();
        let wanted = all.filter(|&stream| self.stream.is_none_or(|only| only == stream));
        wanted.filter_map(|stream| watched.stream(stream))
    }

    fn is_quiet(&mut self, duration: Duration, now: Instant, watched: &impl Watched) -> bool {
        let long_enough = now.saturating_duration_since(self.quiet_since) >= duration;
        if long_enough && self.streams(watched).any(|state| state.unread) {
            // It has come, and waits for the client to read what came before.
            let pause = RETRY_WAIT.saturating_sub(duration);
            self.quiet_since = now + pause;
            return false;
        }
        long_enough
    }

    fn answer(self, outbox: &Outbox, outcome: Result<Reply, RpcError>) {
        // A client that has read the answer may send another.
        drop(self.counted);
        outbox.answer_after_output(self.ticket, outcome);
    }
}

impl From<&Condition> for Awaited {
    fn from(condition: &Condition) -> Self {
        match condition {
            Condition::Text(text) => Awaited::Bytes(Box::new(Pattern::new(text.as_bytes()))),
            Condition::Bytes(bytes) => Awaited::Bytes(Box::new(Pattern::new(bytes))),
            Condition::Quiet(ms) => Awaited::Quiet(Duration::from_millis(*ms)),
            Condition::Eof => Awaited::Eof,
            Condition::Exit => Awaited::Exit,
            Condition::Input => Awaited::Input,
        }
    }
}

/// The answer where a condition holds.
fn holds(index: usize) -> WaitReply {
    WaitReply {
        index: Some(index as u64),
        ..WaitReply::default()
    }
}

/// The answer where none holds any more.
fn none_holds(timed_out: bool, exited: bool) -> WaitReply {
    WaitReply {
        timed_out: Some(timed_out),
        exited: Some(exited),
        ..WaitReply::default()
    }
}
