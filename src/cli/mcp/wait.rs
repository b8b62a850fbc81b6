//! What a call waits for, and whether it has happened.
//!
//! **Thread:** `mcp`.
//! **Owns:** how far the output has been searched.
//! **Never:** looks at what was printed before the call could see it.

use std::time::{Duration, Instant};

use super::handles::Handle;
use super::report::{From, Reason, View};
use super::text::{Search, Style};
use super::tools::Arguments;
use crate::wire::protocol::Stream;

/// New output is shown once nothing has followed it for this long, so that it is not shown in crumbs.
const SETTLE_WAIT: Duration = Duration::from_millis(40);
/// But no later than this after it was seen first.
const MAX_SETTLE_WAIT: Duration = Duration::from_millis(250);

/// What a call waits for: the first of it that holds. The end of the process always ends it.
#[derive(Debug)]
pub(super) struct Wait {
    text: Option<Text>,
    quiet: Option<Duration>,
    output: bool,
    input: Option<Input>,
    /// When it began to count.
    since: Instant,
    /// When there was first something new to show.
    seen: Option<Instant>,
}

/// Whether the process waits for input, as the system shows it.
#[derive(Debug, Default)]
struct Input {
    /// Since when that is known, with nothing printed after.
    known: Option<Instant>,
    /// It is not known.
    unknown: bool,
}

#[derive(Debug)]
struct Text {
    wanted: String,
    style: Style,
    /// One of each stream.
    searches: [Search; 2],
    found: bool,
}

impl Text {
    fn new(wanted: &str, style: Style) -> Text {
        Text {
            wanted: wanted.to_owned(),
            style,
            searches: [Search::new(wanted, style), Search::new(wanted, style)],
            found: false,
        }
    }
}

impl Wait {
    /// What a call waits for, if anything.
    pub(super) fn of(arguments: &Arguments, style: Style, now: Instant) -> Option<Wait> {
        let text = arguments.until_text.as_deref();
        let quiet = arguments.until_quiet_ms;
        let input = arguments.until_input;
        (text.is_some() || quiet.is_some() || input || arguments.until_exit).then(|| Wait {
            input: input.then(Input::default),
            text: text.map(|wanted| Text::new(wanted, style)),
            quiet: quiet.map(Duration::from_millis),
            ..Wait::for_exit(now)
        })
    }

    pub(super) fn for_exit(now: Instant) -> Wait {
        Wait {
            text: None,
            quiet: None,
            output: false,
            input: None,
            since: now,
            seen: None,
        }
    }

    /// For anything new.
    pub(super) fn for_output(now: Instant) -> Wait {
        Wait {
            output: true,
            ..Wait::for_exit(now)
        }
    }

    /// Quiet counts from now on.
    pub(super) fn begin(&mut self, now: Instant) {
        self.since = now;
    }

    /// Whether it looks for a text.
    pub(super) fn searches(&self) -> bool {
        self.text.is_some()
    }

    /// Since when it has asked whether the process waits for input; `None` if it does not ask.
    pub(super) fn asks_for_input(&self) -> Option<Instant> {
        self.input.as_ref().map(|_| self.since)
    }

    /// Takes an answer to that; `None`: it cannot be known.
    pub(super) fn told(&mut self, waits: Option<bool>, now: Instant) {
        if let Some(input) = &mut self.input {
            input.unknown = waits.is_none();
            match waits {
                Some(true) => drop(input.known.get_or_insert(now)),
                Some(false) | None => input.known = None,
            }
        }
    }

    /// Whether it waits in vain, because that cannot be known.
    pub(super) fn is_blind(&self) -> bool {
        self.input.as_ref().is_some_and(|input| input.unknown)
    }

    /// The next bytes of a stream.
    pub(super) fn printed(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(input) = &mut self.input {
            // It may have been printed before, and be on its way since; or the process goes on.
            input.known = None;
        }
        if let Some(text) = &mut self.text
            && !text.found
        {
            text.found = text.searches[index(stream)].finds(bytes);
        }
    }

    /// Bytes are missing before the next ones.
    pub(super) fn lost(&mut self, stream: Stream) {
        if let Some(text) = &mut self.text {
            text.searches[index(stream)] = Search::new(&text.wanted, text.style);
        }
    }

    /// What holds now.
    pub(super) fn holds(&mut self, handle: &Handle, view: &View, now: Instant) -> Option<Reason> {
        if handle.exited.is_some() {
            return Some(Reason::Exit);
        }
        if self.text.as_ref().is_some_and(|text| text.found) {
            return Some(Reason::Text);
        }
        if self.quiet_at(handle).is_some_and(|at| now >= at) {
            return Some(Reason::Quiet);
        }
        if self.input_at(handle).is_some_and(|at| now >= at) {
            return Some(Reason::Input);
        }
        if self.output && has_news(handle, view) {
            self.seen.get_or_insert(now);
        }
        self.settled_at(handle)
            .filter(|&at| now >= at)
            .map(|_| Reason::Output)
    }

    /// When to look again although nothing comes.
    pub(super) fn next_look(&self, handle: &Handle) -> Option<Instant> {
        let times = [
            self.quiet_at(handle),
            self.input_at(handle),
            self.settled_at(handle),
        ];
        times.into_iter().flatten().min()
    }

    fn quiet_at(&self, handle: &Handle) -> Option<Instant> {
        Some(self.since.max(handle.last_output) + self.quiet?)
    }

    /// What was printed before it waited has come by then.
    fn input_at(&self, handle: &Handle) -> Option<Instant> {
        let known = self.input.as_ref()?.known?;
        Some(known.max(handle.last_output) + SETTLE_WAIT)
    }

    fn settled_at(&self, handle: &Handle) -> Option<Instant> {
        let seen = self.seen?;
        Some((handle.last_output + SETTLE_WAIT).min(seen + MAX_SETTLE_WAIT))
    }
}

/// Whether there is something to show.
fn has_news(handle: &Handle, view: &View) -> bool {
    let is_new = |stream| {
        let output = handle.output(stream);
        let shown = match view.from {
            From::Cursor => output.seen,
            From::Nowhere | From::Offset(..) => 0,
        };
        let start = view.start(handle, stream);
        start.is_some_and(|from| output.kept.total() > from.max(shown))
    };
    [Stream::Stdout, Stream::Stderr].into_iter().any(is_new)
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}
