//! What a result says about a process: as data and as text, from the same facts.
//!
//! **Thread:** `mcp`.
//! **Owns:** nothing.
//! **Never:** shows more of a stream than the call allows, or leaves something out without saying so.

use serde_json::{Map, Value, json};

use super::handles::Handle;
use super::text::{self, Style};
use crate::cli::seconds;
use crate::wire::message;
use crate::wire::protocol::{Exited, Inspection, Stream};

/// Why a call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It runs, and nothing else was to be waited for.
    Started,
    /// What was asked is done.
    Done,
    Exit,
    Text,
    Quiet,
    Input,
    Output,
    /// The time of the call is up.
    Time,
    /// The same, and it could not be known whether the process waits for input.
    Blind,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Reason::Started => "started",
            Reason::Done => "done",
            Reason::Exit => "exit",
            Reason::Text => "text",
            Reason::Quiet => "quiet",
            Reason::Input => "input",
            Reason::Output => "output",
            Reason::Time | Reason::Blind => "time",
        }
    }
}

/// What of a process's output is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// Which of the streams, and from where.
    pub(super) from: From,
    /// How many bytes of each stream.
    pub(super) most: usize,
    pub(super) raw: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// No output.
    Nowhere,
    /// Both streams, from where they were shown to before.
    Cursor,
    /// One of them, from this position.
    Offset(Stream, u64),
}

impl View {
    pub(super) fn style(&self, tty: bool) -> Style {
        match (self.raw, tty) {
            (true, _) => Style::Raw,
            (false, false) => Style::Plain,
            (false, true) => Style::Terminal,
        }
    }

    /// Where the part of this stream begins that is shown, if any is.
    pub(super) fn start(&self, handle: &Handle, stream: Stream) -> Option<u64> {
        match self.from {
            From::Nowhere => None,
            From::Cursor => Some(handle.output(stream).cursor),
            From::Offset(only, offset) => (only == stream).then_some(offset),
        }
    }
}

/// The result of a call on this process. What is shown counts as seen.
pub(super) fn report(handle: &mut Handle, view: View, reason: Reason) -> Value {
    let mut data = Map::new();
    data.insert("handle".to_owned(), json!(handle.name));
    data.insert("running".to_owned(), json!(handle.exited.is_none()));
    data.insert("reason".to_owned(), json!(reason.name()));
    if let Some(pid) = handle.pid {
        data.insert("pid".to_owned(), json!(pid));
    }
    if let Some(exited) = &handle.exited {
        add_end(&mut data, exited);
    }
    let mut text = format!("{}: {}\n", handle.name, sentence(handle, reason));
    for stream in [Stream::Stdout, Stream::Stderr] {
        if let Some(from) = view.start(handle, stream) {
            add_output(&mut data, &mut text, handle, stream, from, view);
        }
    }
    json!({
        "content": [{"type": "text", "text": text}],
        "structuredContent": data,
        "isError": false,
    })
}

/// How it ended, as `process/exited` reports it; what says nothing is left out.
fn add_end(data: &mut Map<String, Value>, exited: &Exited) {
    let told: Value = serde_json::from_str(&exited.to_json()).unwrap_or_default();
    for name in [
        "exitCode",
        "signal",
        "timedOut",
        "coreDumped",
        "outputDrainTimedOut",
        "durationMs",
        "usage",
    ] {
        match &told[name] {
            Value::Null | Value::Bool(false) if name != "timedOut" => {}
            value => drop(data.insert(name.to_owned(), value.clone())),
        }
    }
}

fn sentence(handle: &Handle, reason: Reason) -> String {
    let Some(exited) = &handle.exited else {
        return match (handle.pid, reason) {
            (None, _) => "has not started yet; its disk may not answer".to_owned(),
            (Some(pid), Reason::Started) => format!("started, pid {pid}"),
            (_, Reason::Done) => "done".to_owned(),
            (_, Reason::Text) => "running; the text has been printed".to_owned(),
            (_, Reason::Quiet) => "running; nothing was printed for untilQuietMs".to_owned(),
            (_, Reason::Input) => "running; it waits for input".to_owned(),
            (_, Reason::Blind) => "still running; whether it waits for input cannot be known, so wait with \
                                   untilText or untilQuietMs"
                .to_owned(),
            (_, Reason::Time) => "still running; read goes on waiting, write and kill reach it".to_owned(),
            (_, Reason::Exit | Reason::Output) => "running".to_owned(),
        };
    };
    let mut how = match (&exited.signal, exited.timed_out) {
        (_, true) => "killed because its timeoutMs was up".to_owned(),
        (Some(signal), false) => format!("killed by {signal}"),
        (None, false) => format!("exit code {}", exited.exit_code),
    };
    if exited.core_dumped {
        how.push_str(" (core dumped)");
    }
    how.push_str(&format!(" after {} s", seconds(exited.duration)));
    if exited.output_drain_timed_out {
        how.push_str("; something it started keeps its output open");
    }
    how
}

/// Adds what is shown of a stream to both forms of a result.
fn add_output(
    data: &mut Map<String, Value>,
    text: &mut String,
    handle: &mut Handle,
    stream: Stream,
    from: u64,
    view: View,
) {
    let name = stream.name();
    let style = view.style(handle.tty);
    let running = handle.exited.is_none();
    let output = handle.output_mut(stream);
    let total = output.kept.total();
    let part = output.kept.part(from, view.most);
    let (mut head, mut tail) = (part.head.as_slice(), part.tail.as_slice());
    let (mut gap_from, mut gap_end) = part.omitted;
    let joined;
    if part.is_cut() {
        let whole = text::whole_characters(head);
        gap_from -= (head.len() - whole) as u64;
        head = &head[..whole];
        let first = text::first_character(tail);
        gap_end += first as u64;
        tail = &tail[first..];
    } else {
        joined = [head, tail].concat();
        (head, tail) = (&[], &joined);
        gap_end = from;
    }
    let (end, shown) = match running {
        true => text::settled(tail, style),
        false => (text::shown(tail, style), tail.len()),
    };
    let end = end.as_slice();
    output.cursor = gap_end + shown as u64;
    output.seen = total;
    let head = text::shown(head, style);
    let lossy = str::from_utf8(&head).is_err() || str::from_utf8(end).is_err();
    let (head, end) = (String::from_utf8_lossy(&head), String::from_utf8_lossy(end));
    let mut add = |member: &str, value: Value| data.insert(format!("{name}{member}"), value);
    add("Bytes", json!(total));
    if handle.tty && stream == Stream::Stderr {
        return;
    }
    if !part.is_cut() {
        add("", json!(end));
    } else {
        add("", json!(head));
        add("OmittedBytes", json!(gap_end - gap_from));
        if part.lost > 0 {
            add("LostBytes", json!(part.lost));
        }
        add("Tail", json!(end));
    }
    add("Offset", json!(from));
    if lossy {
        add("Lossy", json!(true));
    }
    if head.is_empty() && end.is_empty() && !part.is_cut() {
        return;
    }
    // ---- the same for people, and for agents that are shown nothing else ----
    match from {
        0 => text.push_str(&format!("[{name}]\n")),
        from => text.push_str(&format!("[{name} from {from}]\n")),
    }
    if part.is_cut() {
        text.push_str(&head);
        end_line(text);
        let lost = match part.lost {
            0 => String::new(),
            lost => format!(", {lost} of which are not kept any more"),
        };
        text.push_str(&format!(
            "[{} bytes are left out here, from {gap_from} to {gap_end}{lost}; read with offset shows more]\n",
            gap_end - gap_from
        ));
    }
    text.push_str(&end);
    end_line(text);
    if lossy {
        text.push_str(&format!(
            "[some of {name} is not UTF-8, and is shown as U+FFFD]\n"
        ));
    }
}

fn end_line(text: &mut String) {
    if !text.ends_with('\n') {
        text.push('\n');
    }
}

/// A result that says what went wrong.
pub(super) fn failure(why: &str) -> Value {
    json!({"content": [{"type": "text", "text": why}], "isError": true})
}

/// The result of `inspect`.
pub(super) fn inspection(handle: &str, inspection: &Inspection) -> Value {
    let mut data = serde_json::from_str::<Value>(&message::json(inspection)).unwrap_or_default();
    data["handle"] = json!(handle);
    let waits = match inspection.waits_for_input {
        Some(true) => "waits for input",
        Some(false) => "does not wait for input",
        None => "may or may not wait for input: that cannot be known",
    };
    let mut text = format!("{handle}: {waits}\n");
    if let Some(terminal) = inspection.terminal {
        let on = |on| if on { "on" } else { "off" };
        text.push_str(&format!(
            "terminal: {} x {}, echo {}, line by line {}\n",
            terminal.rows,
            terminal.cols,
            on(terminal.echo),
            on(terminal.canonical)
        ));
    }
    for process in &inspection.processes {
        let command = process.command.as_deref().map(shell_words);
        text.push_str(&format!(
            "{} {} {}\n",
            process.pid,
            process.state.as_deref().unwrap_or("?"),
            command.unwrap_or_default()
        ));
    }
    json!({
        "content": [{"type": "text", "text": text}],
        "structuredContent": data,
        "isError": false,
    })
}

/// The result of `list`.
pub(super) fn listing<'a>(handles: impl Iterator<Item = &'a Handle>) -> Value {
    let mut processes = Vec::new();
    let mut text = String::new();
    for handle in handles {
        let mut process = Map::new();
        let mut add = |name: &str, value: Value| process.insert(name.to_owned(), value);
        add("handle", json!(handle.name));
        add("command", json!(handle.command));
        add("running", json!(handle.exited.is_none()));
        add("tty", json!(handle.tty));
        add("startedAtMs", json!(handle.started_at_ms));
        if let Some(cwd) = &handle.cwd {
            add("cwd", json!(cwd));
        }
        if let Some(pid) = handle.pid {
            add("pid", json!(pid));
        }
        let state = match &handle.exited {
            None => "running".to_owned(),
            Some(exited) => {
                add("exitCode", json!(exited.exit_code));
                if let Some(signal) = &exited.signal {
                    add("signal", json!(signal));
                }
                sentence(handle, Reason::Exit)
            }
        };
        for stream in [Stream::Stdout, Stream::Stderr] {
            let bytes = handle.output(stream).kept.total();
            add(&format!("{}Bytes", stream.name()), json!(bytes));
        }
        text.push_str(&format!(
            "{}: {state}: {}\n",
            handle.name,
            shell_words(&handle.command)
        ));
        processes.push(process);
    }
    if processes.is_empty() {
        text.push_str("there are no processes\n");
    }
    json!({
        "content": [{"type": "text", "text": text}],
        "structuredContent": {"processes": processes},
        "isError": false,
    })
}

/// A command on one line, of which the first 200 characters are shown.
fn shell_words(command: &[String]) -> String {
    const MOST: usize = 200;
    let line = match command {
        [shell, flag, line] if shell == "/bin/sh" && flag == "-c" => line.clone(),
        words => words.join(" "),
    };
    let mut shown: String = line.escape_debug().take(MOST).collect();
    if line.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}
