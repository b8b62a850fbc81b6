//! Transcripts of conversations with a server, and replaying them.
//!
//! For the binary's `check` and for this project's tests. [`Session::play`] compares, and
//! [`Session::record`] writes down what the server sends.
//!
//! ```text
//! # A line that begins with '#' is a remark. The first one above a session's lines is its title.
//! --> {"id":1,"method":"process/spawn","params":{"command":["echo","hi"],"processHandle":"a"}}
//! <-- {"id":1,"result":{"pid":"{...}"}}
//! ```
//!
//! `-->` is sent as it stands, `<--` is expected, and `<~` waits for output that contains its text.
//! `"{...}"` stands for any value and `[..]` for any text inside a string. An answer is found by its id; a notification is the next of its method,
//! handle and stream. That is all the order the protocol promises, and all that is asked for.
//! Output may be cut into deltas anywhere: it is joined, or cut, to the length that is expected. Integers
//! beyond 64 bits are compared as floating-point numbers. What the server says beyond the transcript
//! is a difference, but for the end of processes that are left running, and for the output of a
//! process for which a `<~` has waited: what comes before the text and after it need not be shown.
//!
//! **Thread:** the caller's.
//! **Owns:** the notation; the server, while a session is played or recorded.
//! **Never:** waits longer than it was told to, whatever the server does, or keeps everything that
//! a server sends without end.

mod compare;
mod conversation;
mod processes;
mod record;

use std::fmt;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use compare::{brief, label};
use conversation::Conversation;

/// Stands for any value.
const ANY: &str = "{...}";
/// Stands for any text.
const SOME: &str = "[..]";
/// How many differences of a session are reported.
const MAX_DIFFERENCES: usize = 20;

/// How many messages are reported that a session does not show.
const MAX_UNSHOWN: usize = 5;

/// One conversation, from the start of a server to its end.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Session {
    /// The file's name, and the line of it at which the session begins.
    pub place: String,
    /// What the session is about: the first remark at its beginning, or in Markdown the heading above.
    pub title: Option<String>,
    /// The line at which it begins, counted from 1.
    pub first: usize,
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq)]
enum Line {
    /// A remark or a blank line, as it stands.
    Remark(String),
    Send(String),
    Expect {
        value: Value,
        text: String,
    },
    /// Waits for output that contains this.
    Wait(String),
}

/// Reads the sessions of a file that send or expect something: of Markdown (`name` ends in `.md`)
/// every fenced block in the language `session`, of any other file the whole. There may be none.
///
/// # Errors
///
/// What is malformed: a place and a sentence for each line.
pub fn parse(name: &str, text: &str) -> Result<Vec<Session>, Vec<String>> {
    parse_with(name, text, false)
}

/// The same for the lines a client sends: one that begins with `{` needs no `-->`.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_lines_to_send(name: &str, text: &str) -> Result<Vec<Session>, Vec<String>> {
    parse_with(name, text, true)
}

fn parse_with(name: &str, text: &str, bare: bool) -> Result<Vec<Session>, Vec<String>> {
    let lines = (1..).zip(text.lines()).collect();
    let blocks = match name.ends_with(".md") {
        true => blocks(lines),
        false => vec![(None, 1, lines)],
    };
    let mut sessions = Vec::new();
    let mut errors = Vec::new();
    for (heading, first, lines) in blocks {
        let mut session = Session {
            place: format!("{name}:{first}"),
            title: None,
            first,
            lines: Vec::new(),
        };
        for (number, text) in lines {
            match line(text, bare) {
                Ok(line) => session.lines.push(line),
                Err(error) => errors.push(format!("{name}:{number}:{error}")),
            }
        }
        let mut remarks = session.lines.iter().map_while(|line| match line {
            Line::Remark(text) => Some(text.trim_start_matches('#').trim()),
            _ => None,
        });
        let title = remarks.find(|text| !text.is_empty()).or(heading);
        session.title = title.map(str::to_owned);
        if session.lines.iter().any(|line| !matches!(line, Line::Remark(_))) {
            sessions.push(session);
        }
    }
    match errors.is_empty() {
        true => Ok(sessions),
        false => Err(errors),
    }
}

/// A heading, the number of the first line, and the lines with their numbers.
type Lines<'a> = (Option<&'a str>, usize, Vec<(usize, &'a str)>);

/// The blocks of a Markdown file that are sessions. One that is not closed ends with the file, as in
/// `CommonMark`.
fn blocks(lines: Vec<(usize, &str)>) -> Vec<Lines<'_>> {
    let mut blocks = Vec::new();
    let mut heading = None;
    let mut open: Option<Block<'_>> = None;
    for (number, line) in lines {
        match (Fence::of(line), &mut open) {
            (Some(fence), None) if fence.opens() => {
                open = Some(Block {
                    fence,
                    heading,
                    first: number + 1,
                    lines: Vec::new(),
                });
            }
            (Some(fence), Some(block)) if fence.closes(&block.fence) => blocks.extend(open.take()),
            (_, Some(block)) => block.lines.push((number, line)),
            (_, None) => {
                let text = line.trim_start_matches('#');
                if text.len() < line.len() && text.starts_with(' ') {
                    heading = Some(text.trim());
                }
            }
        }
    }
    blocks.extend(open);
    let sessions = blocks.into_iter().filter(Block::is_session);
    sessions
        .map(|block| (block.heading, block.first, block.lines))
        .collect()
}

struct Block<'a> {
    fence: Fence<'a>,
    /// The heading above it.
    heading: Option<&'a str>,
    first: usize,
    lines: Vec<(usize, &'a str)>,
}

impl Block<'_> {
    fn is_session(&self) -> bool {
        self.fence.info.split_whitespace().next() == Some("session")
    }
}

/// A line of Markdown that may begin or end a block: three or more of one character.
struct Fence<'a> {
    character: char,
    length: usize,
    info: &'a str,
}

impl Fence<'_> {
    fn of(line: &str) -> Option<Fence<'_>> {
        let text = line.trim_start_matches(' ');
        let character = text.chars().next().filter(|c| matches!(c, '`' | '~'))?;
        let info = text.trim_start_matches(character);
        let length = text.len() - info.len();
        (length >= 3 && line.len() - text.len() <= 3).then_some(Fence {
            character,
            length,
            info: info.trim(),
        })
    }

    /// What has backticks after it is code inside of a line.
    fn opens(&self) -> bool {
        self.character == '~' || !self.info.contains('`')
    }

    fn closes(&self, opened: &Fence<'_>) -> bool {
        self.info.is_empty() && self.character == opened.character && self.length >= opened.length
    }
}

/// An error begins with the column, if there is one.
fn line(text: &str, bare: bool) -> Result<Line, String> {
    if let Some(sent) = text.strip_prefix("-->") {
        Ok(Line::Send(sent.strip_prefix(' ').unwrap_or(sent).to_owned()))
    } else if let Some(expected) = text.strip_prefix("<--") {
        match serde_json::from_str(expected) {
            Ok(value) => Ok(Line::Expect {
                value,
                text: text.to_owned(),
            }),
            Err(e) => {
                // Its place is in this line, and ours is in the file.
                let column = e.column() + "<--".len();
                let why = e.to_string();
                let why = why.split(" at line ").next().unwrap_or_default();
                Err(format!("{column}: the expected message is not JSON: {why}"))
            }
        }
    } else if let Some(wanted) = text.strip_prefix("<~") {
        match wanted.strip_prefix(' ').unwrap_or(wanted) {
            "" => Err("3: '<~' needs the text that it waits for".to_owned()),
            wanted => Ok(Line::Wait(wanted.to_owned())),
        }
    } else if text.trim().is_empty() || text.starts_with('#') {
        Ok(Line::Remark(text.to_owned()))
    } else if bare && text.starts_with('{') {
        Ok(Line::Send(text.to_owned()))
    } else {
        let shown: String = text.chars().take(40).collect();
        let more = if shown.len() < text.len() { "…" } else { "" };
        Err(format!(
            " expected a line starting with '-->', '<--', '<~' or '#', got {shown}{more}"
        ))
    }
}

/// Where a conversation was otherwise than its transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The line of the file; `None` at the end of the session.
    pub line: Option<usize>,
    /// What differs, on one line and more.
    pub text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.text),
            None => write!(f, "at the end: {}", self.text),
        }
    }
}

/// Why a session was not held as its transcript says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// There was no server: it could not be started, or has never sent anything. Says what it did.
    NoServer(String),
    /// What differs, in the order of the transcript, and how many differences more there are.
    Differs(Vec<Difference>, usize),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoServer(why) => write!(f, "the server {why}"),
            Failure::Differs(differences, more) => {
                for (index, difference) in differences.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{difference}")?;
                }
                match more {
                    0 => Ok(()),
                    more => write!(f, "\nand {more} more"),
                }
            }
        }
    }
}

impl std::error::Error for Failure {}

/// Differences as they are found; only the first are kept.
#[derive(Default)]
struct Differences {
    found: Vec<Difference>,
    more: usize,
}

impl Differences {
    fn push(&mut self, line: Option<usize>, text: impl FnOnce() -> String) {
        match self.found.len() < MAX_DIFFERENCES {
            true => self.found.push(Difference { line, text: text() }),
            false => self.more += 1,
        }
    }
}

impl Session {
    /// How many lines it has.
    #[must_use]
    pub fn length(&self) -> usize {
        self.lines.len()
    }

    /// Whether these are its lines.
    #[must_use]
    pub fn is_written_as(&self, lines: &[String]) -> bool {
        let own = self.lines.iter().map(|line| match line {
            Line::Remark(text) | Line::Expect { text, .. } => text.clone(),
            Line::Send(text) => format!("--> {text}"),
            Line::Wait(text) => wait_line(text),
        });
        own.eq(lines.iter().cloned())
    }

    /// Starts `server`, which serves its stdin and stdout, holds the conversation, and ends it.
    /// Each expected message must come within `patience`.
    ///
    /// # Errors
    ///
    /// All that differs, or that there was no server to compare with.
    pub fn play(&self, server: &mut Command, patience: Duration) -> Result<(), Failure> {
        let mut conversation = start(server, patience, false)?;
        let mut differences = Differences::default();
        for (number, line) in (self.first..).zip(&self.lines) {
            let over = conversation.is_over();
            let outcome = match line {
                Line::Remark(_) => continue,
                _ if conversation.is_flooded() && !differences.found.is_empty() => {
                    differences.more += 1;
                    continue;
                }
                Line::Send(text) => conversation.send(text),
                Line::Expect { value, .. } => conversation.expect(value),
                Line::Wait(text) => conversation.wait_for(text),
            };
            let Err(text) = outcome else { continue };
            if let Some(why) = conversation.why_no_server() {
                return Err(Failure::NoServer(why));
            }
            match over && !differences.found.is_empty() {
                // An earlier difference says why nothing comes any more.
                true => differences.more += 1,
                false => differences.push(Some(number), || text),
            }
        }
        let mut unshown = 0;
        let astray = !differences.found.is_empty();
        let ended = conversation.finish(astray, |message| {
            unshown += 1;
            if unshown > MAX_UNSHOWN {
                differences.more += 1;
                return;
            }
            let text = || {
                format!(
                    "the session does not show {}\n  {}",
                    label(&message.value),
                    brief(&message.value)
                )
            };
            differences.push(None, text);
        });
        if let Err(why) = ended
            && differences.found.iter().all(|found| !found.text.contains(&why))
        {
            differences.push(None, || why);
        }
        if let Some(why) = conversation.failed_silently() {
            return Err(Failure::NoServer(why));
        }
        match differences.found.is_empty() {
            true => Ok(()),
            false => Err(Failure::Differs(differences.found, differences.more)),
        }
    }
}

fn wait_line(text: &str) -> String {
    format!("<~ {text}")
}

fn start(server: &mut Command, patience: Duration, keeps_text: bool) -> Result<Conversation, Failure> {
    Conversation::start(server, patience, keeps_text)
        .map_err(|e| Failure::NoServer(format!("could not be started: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_found_in_markdown() {
        let text = "# x\n```sh\n--> no\n```\n```session\n--> {}\n\n<-- {\"id\":1}\n```\n--> no\n```session\n# y\n```\n";
        let found = |text: &str| -> Vec<(String, usize)> {
            let sessions = parse("a.md", text).unwrap();
            sessions.into_iter().map(|s| (s.place, s.lines.len())).collect()
        };
        let at = |line: usize, lines: usize| (format!("a.md:{line}"), lines);
        assert_eq!(found(text), [at(6, 3)]);
        for (text, expected) in [
            // Not closed.
            ("```session\n--> {}", at(2, 1)),
            // A block that shows one.
            (
                "````md\n```session\n--> no\n````\n```session\n--> {}\n```\n",
                at(6, 1),
            ),
            ("~~~\n```session\n~~~\n```session\n--> {}\n```\n", at(5, 1)),
            // Closed by more, of the same, and by nothing else.
            ("~~~~ session x\n--> {}\n~~~~~\nno", at(2, 1)),
            ("   ```session\n--> {}\n  ```  \nno", at(2, 1)),
            // No fence.
            ("```a``` b\n```session\n--> {}\n```", at(3, 1)),
        ] {
            assert_eq!(found(text), [expected], "{text}");
        }
        for (name, text) in [
            ("a.md", "# x\n"),
            ("a.md", "```sh\n--> {}\n```"),
            ("a.md", "```session\n# x\n```"),
            ("a.txt", ""),
            ("a.txt", "# x\n"),
        ] {
            assert_eq!(parse(name, text), Ok(vec![]), "{name}: {text}");
        }
    }

    #[test]
    fn a_session_has_a_title() {
        for (name, text, title) in [
            ("a.md", "# A\n## B c \n```session\n--> {}\n```\n# C", Some("B c")),
            (
                "a.md",
                "# A\n```session\n# It is\n# so\n--> {}\n```",
                Some("It is"),
            ),
            (
                "a.md",
                "#no heading\n```sh\n# no\n```\n```session\n--> {}\n```",
                None,
            ),
            ("a.txt", "#\n## title\n--> {}", Some("title")),
            ("a.txt", "--> {}\n# no title\n", None),
        ] {
            let sessions = parse(name, text).expect("it is well-formed");
            assert_eq!(sessions[0].title.as_deref(), title, "{text}");
        }
    }

    #[test]
    fn everything_malformed_has_a_place() {
        let text = "--> {}\n<-- {\nwhat is this line about, after all, I wonder?\n<--  {\"a\":}\n";
        assert_eq!(
            parse("a.txt", text).unwrap_err(),
            [
                "a.txt:2:5: the expected message is not JSON: EOF while parsing an object",
                "a.txt:3: expected a line starting with '-->', '<--', '<~' or '#', got what is this line about, after all, I wo…",
                "a.txt:4:11: the expected message is not JSON: expected value",
            ]
        );
        let closed_wrongly = parse("a.md", "```session\n--> {}\n~~~\n```").unwrap_err();
        assert!(closed_wrongly[0].starts_with("a.md:3: "), "{closed_wrongly:?}");
        assert!(parse("a.txt", "{}").is_err());
        assert_eq!(parse_lines_to_send("-", "{}").map(|s| s.len()), Ok(1));
    }
}
