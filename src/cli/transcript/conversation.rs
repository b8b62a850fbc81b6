//! A conversation in progress: the server, what was sent to it and what it sent.
//!
//! **Thread:** the caller's.
//! **Owns:** the server, from its start to its end.
//! **Never:** waits longer than it was told to, whatever the server does, or keeps everything that
//! a server sends without end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use memchr::memmem::Finder;
use serde_json::Value;

use super::compare::{brief, brief_text, delta, encode, is_before, is_meant, label, mismatches};
use super::processes::Processes;
use crate::cli::quote::escaped_line;
use crate::sys::{self, PollFd};
use crate::wire::framing::{Frame, Frames};
use crate::wire::message;
use crate::wire::protocol::notification;

/// What is kept of messages that are not expected yet, and the longest that is taken from a server.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;
/// What a message takes beyond its text, about; most of a small one is this.
const MESSAGE_OVERHEAD_BYTES: usize = 1024;
/// How much a difference shows: of messages that came instead, and bytes of what is not a message.
const MAX_SHOWN_MESSAGES: usize = 5;
const MAX_SHOWN_BYTES: usize = 60;
/// How long a server may take to end, which the protocol bounds by 3 s.
const END_WAIT: Duration = Duration::from_secs(10);
/// How long a server may take to end after something went wrong, before it is killed.
const ASTRAY_WAIT: Duration = Duration::from_secs(1);

/// A message of the server.
pub(super) struct Message {
    pub value: Value,
    /// As it came, for the order of its members; only where a session is recorded.
    pub text: String,
    /// What it counts of what is kept.
    size: usize,
}

pub(super) struct Conversation {
    server: Child,
    input: Option<File>,
    pipe: Rc<File>,
    output: Frames<Output>,
    keeps_text: bool,
    /// How the output has ended. After something that is not a message, nothing more is read.
    end: Option<Result<(), String>>,
    /// What has come and was not expected yet, and what it takes.
    pub unseen: VecDeque<Message>,
    kept: usize,
    /// How many messages have come.
    pub heard: usize,
    /// Processes whose output was waited for: what else they print need not be shown.
    followed: Vec<Value>,
    processes: Processes,
    patience: Duration,
    /// Until when all that is late may come, once something was.
    late: Option<Instant>,
    /// Whether the server has closed its input.
    hung_up: bool,
}

/// The server's output, which never waits. Each read is put off once, so that the caller looks at
/// the clock in between, however much there is.
struct Output {
    pipe: Rc<File>,
    put_off: bool,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.put_off = !self.put_off;
        match self.put_off {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => (&*self.pipe).read(buffer),
        }
    }
}

impl Conversation {
    pub(super) fn start(
        server: &mut Command,
        patience: Duration,
        keeps_text: bool,
    ) -> io::Result<Conversation> {
        let mut server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (server.stdin.take(), server.stdout.take()) else {
            unreachable!("both were asked to be pipes");
        };
        let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
        sys::set_nonblocking(&input)?;
        sys::set_nonblocking(&output)?;
        let pipe = Rc::new(File::from(output));
        let output = Output {
            pipe: Rc::clone(&pipe),
            put_off: false,
        };
        Ok(Conversation {
            server,
            input: Some(File::from(input)),
            pipe,
            output: Frames::new(output, MAX_KEPT_BYTES),
            keeps_text,
            end: None,
            unseen: VecDeque::new(),
            kept: 0,
            heard: 0,
            followed: Vec::new(),
            processes: Processes::default(),
            patience,
            late: None,
            hung_up: false,
        })
    }

    /// Until when a message that is waited for from now on must have come. Where one was late, all that
    /// follow have as long together: a server that has gone silent does not take that long each time.
    pub(super) fn deadline(&self) -> Instant {
        self.late.unwrap_or_else(|| Instant::now() + self.patience)
    }

    pub(super) fn is_late(&mut self) {
        self.late.get_or_insert_with(|| Instant::now() + self.patience);
    }

    pub(super) fn send(&mut self, text: &str) -> Result<(), String> {
        let deadline = self.deadline();
        self.processes.sent(text);
        let line = format!("{text}\n");
        let mut unsent = line.as_bytes();
        while !unsent.is_empty() {
            self.step(&mut unsent, deadline).map_err(|e| {
                match e.kind() {
                    io::ErrorKind::TimedOut => self.is_late(),
                    _ => self.hung_up = true,
                }
                format!("the server does not read: {e}")
            })?;
        }
        Ok(())
    }

    /// Takes a message from the server, or gives it some of `unsent`; waits for either until
    /// `deadline`. What it says is taken while it does not read: it may be waiting for just that.
    pub(super) fn step(&mut self, unsent: &mut &[u8], deadline: Instant) -> io::Result<()> {
        let listening = self.end.is_none() && self.kept < MAX_KEPT_BYTES;
        if listening && self.take_message() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut interests = [PollFd::NONE; 2];
        if listening {
            interests[0] = PollFd::read(self.pipe.as_raw_fd());
        }
        if let (Some(input), false) = (&self.input, unsent.is_empty()) {
            interests[1] = PollFd::write(input.as_raw_fd());
        }
        sys::poll(&mut interests, Some(left))?;
        if let (Some(input), true) = (&mut self.input, interests[1].writable()) {
            match input.write(unsent) {
                Ok(n) => *unsent = &unsent[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether there was something to take without waiting.
    fn take_message(&mut self) -> bool {
        self.end = Some(match self.output.next() {
            Ok(Frame::Message(text)) => match message::from_json(text) {
                Ok(value) => {
                    let mut size = text.len() + MESSAGE_OVERHEAD_BYTES;
                    let text = match self.keeps_text {
                        true => String::from_utf8_lossy(text).into_owned(),
                        false => String::new(),
                    };
                    size += text.len();
                    self.processes.came(&value);
                    if self.kept + size > MAX_KEPT_BYTES {
                        self.forget_followed();
                    }
                    self.kept += size;
                    self.heard += 1;
                    self.unseen.push_back(Message { value, text, size });
                    return true;
                }
                Err(_) => {
                    let shown = String::from_utf8_lossy(&text[..text.len().min(MAX_SHOWN_BYTES)]);
                    let more = if text.len() > MAX_SHOWN_BYTES { "…" } else { "" };
                    Err(format!(
                        "the server sent a line that is not JSON: {}{more}",
                        escaped_line(&shown)
                    ))
                }
            },
            Ok(Frame::Headers) => return true,
            Ok(Frame::Invalid(error)) => Err(error.message),
            Ok(Frame::End) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            Err(e) => Err(format!("reading from the server failed: {e}")),
        });
        true
    }

    /// Forgets output that need not be shown.
    fn forget_followed(&mut self) {
        let (followed, kept) = (&self.followed, &mut self.kept);
        self.unseen.retain(|message| {
            let forget = is_of(followed, &message.value);
            if forget {
                *kept -= message.size;
            }
            !forget
        });
    }

    fn forget_unseen(&mut self) {
        self.unseen.clear();
        self.kept = 0;
    }

    /// Waits until the server itself has ended, and not just its output; whether it has in time.
    fn has_ended(&self, deadline: Instant) -> bool {
        sys::ends_by(&self.server, deadline).unwrap_or(false)
    }

    /// Waits for the message that `expected` is about; what is wrong with it, a line each.
    pub(super) fn expect(&mut self, expected: &Value) -> Result<(), String> {
        let message = self.next_like(expected)?;
        let found = mismatches(expected, &message.value);
        if found.is_empty() {
            return Ok(());
        }
        let mut text = label(expected);
        for mismatch in found {
            text.push_str("\n  ");
            text.push_str(&mismatch.describe().replace('\n', "\n  "));
        }
        Err(text)
    }

    /// The message that `expected` is about.
    pub(super) fn next_like(&mut self, expected: &Value) -> Result<Message, String> {
        let deadline = self.deadline();
        let mut found = self.find(expected, deadline)?;
        let (Some(wanted), Some(mut bytes)) = (delta(expected), delta(&found.value)) else {
            return Ok(found);
        };
        let message = &mut found.value;
        while bytes.len() < wanted.len() {
            // An end before that shows as bytes that are missing.
            let Ok(next) = self.find(expected, deadline) else {
                break;
            };
            bytes.extend(delta(&next.value).unwrap_or_default());
            message["params"]["capReached"] = next.value["params"]["capReached"].clone();
        }
        if bytes.len() > wanted.len() && !wanted.is_empty() {
            let rest = bytes.split_off(wanted.len());
            let behind = behind(message, bytes.len(), &rest)?;
            message["params"]["capReached"] = false.into();
            // What it takes was counted once, and is no more than that.
            self.unseen.push_front(Message {
                value: behind,
                text: found.text.clone(),
                size: 0,
            });
        }
        message["params"]["deltaBase64"] = encode(&bytes).into();
        Ok(found)
    }

    /// Waits for output of any process that contains `text`, and takes that stream up to its end.
    pub(super) fn wait_for(&mut self, text: &str) -> Result<(), String> {
        let deadline = self.deadline();
        let wanted = Finder::new(text);
        // What the text may have begun with, for each stream.
        let mut begun: Vec<([Value; 2], Vec<u8>)> = Vec::new();
        let mut looked_at = 0;
        loop {
            while let Some(message) = self.unseen.get(looked_at) {
                looked_at += 1;
                let Some(bytes) = delta(&message.value) else {
                    continue;
                };
                let stream = stream(&message.value);
                let at = begun.iter().position(|(of, _)| *of == stream);
                let (_, mut before) = at.map(|at| begun.swap_remove(at)).unwrap_or_default();
                let carried = before.len();
                before.extend(&bytes);
                if let Some(found) = wanted.find(&before) {
                    let taken = found + text.len() - carried;
                    return self.take_stream(&stream, looked_at - 1, &bytes, taken);
                }
                let kept = before.len().min(text.len() - 1);
                begun.push((stream, before.split_off(before.len() - kept)));
            }
            let missing = |why: &str| format!("output with \"{}\" {why}", escaped_line(text));
            if self.processes.are_over() {
                let why = missing("did not come: no process is left that could print it");
                return Err(self.with_unseen(why, true, brief_text));
            }
            looked_at = self.next_message(deadline, &missing, brief_text)?;
        }
    }

    /// Takes the output of a stream up to the byte `taken` of the message at `last`, which has `bytes`.
    fn take_stream(
        &mut self,
        of: &[Value; 2],
        last: usize,
        bytes: &[u8],
        taken: usize,
    ) -> Result<(), String> {
        let rest = &bytes[taken..];
        if !rest.is_empty() {
            let message = &mut self.unseen[last].value;
            *message = behind(message, taken, rest)?;
        }
        let end = last + usize::from(rest.is_empty());
        for index in (0..end).rev() {
            let message = &self.unseen[index].value;
            if delta(message).is_some() && stream(message) == *of {
                self.take(index);
            }
        }
        if !self.followed.contains(&of[0]) {
            self.followed.push(of[0].clone());
        }
        Ok(())
    }

    /// Whether this is output that need not be shown.
    pub(super) fn is_followed(&self, message: &Value) -> bool {
        is_of(&self.followed, message)
    }

    /// Takes one more message; up to where there is nothing new. The error is what `missing` makes of the
    /// reason why nothing comes, and shows what came instead.
    fn next_message(
        &mut self,
        deadline: Instant,
        missing: &dyn Fn(&str) -> String,
        show: fn(&Value) -> String,
    ) -> Result<usize, String> {
        let first = self.late.is_none();
        let heard = self.heard;
        let why = match &self.end {
            Some(Ok(())) => "did not come: the server's output has ended".to_owned(),
            Some(Err(why)) => format!("did not come: {why}"),
            None if self.kept >= MAX_KEPT_BYTES => {
                "did not come: the server sent too much that is not expected".to_owned()
            }
            None => match self.step(&mut &[][..], deadline) {
                // What was before it may have been forgotten meanwhile.
                Ok(()) => return Ok(self.unseen.len().saturating_sub(self.heard - heard)),
                Err(_) => {
                    self.is_late();
                    format!("did not come within {:?}", self.patience)
                }
            },
        };
        Err(self.with_unseen(missing(&why), first, show))
    }

    /// Adds to `text` what came instead, if that has not been shown.
    fn with_unseen(&self, mut text: String, first: bool, show: fn(&Value) -> String) -> String {
        if first {
            for message in self.unseen.iter().take(MAX_SHOWN_MESSAGES) {
                text.push_str(&format!("\n  instead  {}", show(&message.value)));
            }
            if let Some(more @ 1..) = self.unseen.len().checked_sub(MAX_SHOWN_MESSAGES) {
                text.push_str(&format!("\n  and {more} more"));
            }
        }
        text
    }

    fn find(&mut self, expected: &Value, deadline: Instant) -> Result<Message, String> {
        let mut looked_at = 0;
        loop {
            while let Some(message) = self.unseen.get(looked_at) {
                if is_meant(expected, &message.value) {
                    let mut before = self.unseen.iter().take(looked_at);
                    if let Some(output) =
                        before.find(|m| is_before(&message.value, &m.value) && !self.is_followed(&m.value))
                    {
                        let text = format!(
                            "{}: output that is not expected came before it\n  {}",
                            label(expected),
                            brief(&output.value)
                        );
                        // It is not met again as what the session does not show.
                        self.take(looked_at);
                        return Err(text);
                    }
                    return Ok(self.take(looked_at));
                }
                looked_at += 1;
            }
            looked_at = self.next_message(
                deadline,
                &|why| format!("{} {why}\n  expected {}", label(expected), brief(expected)),
                brief,
            )?;
        }
    }

    /// Takes out the message at this place.
    pub(super) fn take(&mut self, index: usize) -> Message {
        let message = self.unseen.remove(index).unwrap_or(Message {
            value: Value::Null,
            text: String::new(),
            size: 0,
        });
        self.kept -= message.size;
        message
    }

    /// Whether nothing can come any more, or nothing of it would be kept.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some() || self.is_flooded()
    }

    /// Whether the server says too much that is not expected.
    pub(super) fn is_flooded(&self) -> bool {
        self.kept >= MAX_KEPT_BYTES
    }

    /// Takes what comes until `is_there`, or until `deadline`; whether it is.
    pub(super) fn listen(&mut self, deadline: Instant, is_there: impl Fn(&Conversation) -> bool) -> bool {
        loop {
            if is_there(self) {
                return true;
            }
            if self.is_over() || self.step(&mut &[][..], deadline).is_err() {
                return false;
            }
        }
    }

    /// Closes the input and reads what is left. `on_message` gets every message that was not expected,
    /// except the exits of processes that were left running, and output that need not be shown. A server that is `astray`, because something
    /// was wrong before, has less time, and that it does not end is not an error.
    pub(super) fn finish(&mut self, astray: bool, mut on_message: impl FnMut(Message)) -> Result<(), String> {
        self.input = None;
        let astray = astray || self.late.is_some() || self.is_flooded();
        let deadline = Instant::now() + if astray { ASTRAY_WAIT } else { END_WAIT };
        let late = || match astray {
            true => Ok(()),
            false => Err(format!("the server did not end within {END_WAIT:?} of its input")),
        };
        loop {
            while !self.unseen.is_empty() {
                let message = self.take(0);
                if message.value["method"] != notification::EXITED && !self.is_followed(&message.value) {
                    on_message(message);
                }
            }
            let Some(end) = &self.end else {
                if self.step(&mut &[][..], deadline).is_err() {
                    return late();
                }
                continue;
            };
            return match end {
                Err(why) => Err(why.clone()),
                Ok(()) if self.has_ended(deadline) => Ok(()),
                Ok(()) => late(),
            };
        }
    }

    /// Why there has been no server to talk to, if it has never sent anything: what a server that does
    /// not start does, or a program that is not a server.
    pub(super) fn why_no_server(&mut self) -> Option<String> {
        let deadline = match self.end.is_some() || self.hung_up {
            true => Instant::now() + ASTRAY_WAIT,
            false => Instant::now(),
        };
        self.listen(deadline, |conversation| conversation.heard > 0);
        if self.heard > 0 || matches!(self.end, Some(Err(_))) {
            return None;
        }
        let has_ended = self.has_ended(deadline);
        Some(match self.server.try_wait() {
            Ok(Some(status)) if has_ended => format!("{} before it sent anything", how_it_ended(status)),
            _ if self.end.is_some() => "closed its output before it sent anything".to_owned(),
            _ => format!("sent nothing within {:?}", self.patience),
        })
    }

    /// The same after a conversation in which nothing was expected.
    pub(super) fn failed_silently(&mut self) -> Option<String> {
        let status = self.server.try_wait().ok().flatten()?;
        let silent = self.heard == 0 && !status.success();
        silent.then(|| format!("{} before it sent anything", how_it_ended(status)))
    }
}

/// Whether this is output of one of these processes.
fn is_of(processes: &[Value], message: &Value) -> bool {
    delta(message).is_some() && processes.contains(&message["params"]["processHandle"])
}

/// The process and the stream that output is of.
fn stream(message: &Value) -> [Value; 2] {
    ["processHandle", "stream"].map(|member| message["params"][member].clone())
}

/// What is left of a message of output whose first bytes, `taken` of them, are gone.
fn behind(message: &Value, taken: usize, rest: &[u8]) -> Result<Value, String> {
    let mut behind = message.clone();
    let offset = message["params"]["offset"].as_u64().unwrap_or_default();
    let Some(offset) = offset.checked_add(taken as u64) else {
        return Err(format!(
            "output goes beyond the largest offset: {}",
            brief(message)
        ));
    };
    behind["params"]["offset"] = offset.into();
    behind["params"]["deltaBase64"] = encode(rest).into();
    Ok(behind)
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.input = None;
        // It may end by itself once the rest of its output is read.
        let deadline = Instant::now() + ASTRAY_WAIT;
        self.forget_unseen();
        while self.end.is_none() && self.step(&mut &[][..], deadline).is_ok() {
            self.forget_unseen();
        }
        if !self.has_ended(deadline) {
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
    }
}
