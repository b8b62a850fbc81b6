//! `procwire check`: replays sessions and reports differences, or records them.
//!
//! **Thread:** main.
//! **Owns:** the report, and files while it records.
//! **Never:** interprets a message; `transcript` does. Leaves processes of a failed server,
//! or half a file.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::guard::{self, Guarded};
use crate::cli::quote::{self, escaped, escaped_line, quoted};
use crate::cli::seconds;
use crate::cli::transcript::{self, Failure, Session};

/// What to check, and how.
#[derive(Debug)]
pub struct Check {
    pub files: Vec<PathBuf>,
    pub server: Option<String>,
    pub junit: Option<PathBuf>,
    /// How long each message may take.
    pub deadline: Duration,
    pub record: bool,
}

impl Default for Check {
    fn default() -> Self {
        Check {
            files: Vec::new(),
            server: None,
            junit: None,
            deadline: Duration::from_secs(10),
            record: false,
        }
    }
}

/// The result of a session, or of a file that could not be played.
struct Case {
    file: String,
    /// Where the session begins; the file if there is none.
    place: String,
    title: Option<String>,
    took: Duration,
    outcome: Outcome,
}

enum Outcome {
    /// As the transcript says.
    Same,
    /// Written down, and not as it was.
    Recorded,
    Differs(String),
    /// It could not be played.
    Failed(String),
}

/// Plays or records all sessions of all files; the exit code.
pub fn check(check: &Check) -> Result<i32, Box<dyn std::error::Error>> {
    // Orphans become children of this process, and can be found.
    Guarded::begin(None)?;
    let mut report = Report {
        check,
        cases: Vec::new(),
        empty: 0,
        server_seen: false,
    };
    for file in &check.files {
        // A server that does not start for one file does not start for the others.
        if !report.file(file)? {
            break;
        }
    }
    let mut code = report.summary()?;
    if let Some(file) = &check.junit
        && let Err(e) = std::fs::write(file, junit(&report.cases))
    {
        complain(&format!("--junit {}: {e}", quoted(&file.display().to_string())));
        code = 2;
    }
    Ok(code)
}

/// Prints an error. If stderr is closed, only the exit code is left.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "procwire: {}", escaped(text));
}

struct Report<'a> {
    check: &'a Check,
    cases: Vec<Case>,
    /// Markdown files without a session.
    empty: usize,
    /// Whether a server has answered so far.
    server_seen: bool,
}

impl Report<'_> {
    /// Plays or records the sessions of a file; whether to go on with the next one. Fails only where
    /// the report cannot be printed.
    fn file(&mut self, file: &Path) -> io::Result<bool> {
        let stdin = file.as_os_str() == "-";
        let name = match stdin {
            true => "stdin".to_owned(),
            false => file.display().to_string(),
        };
        let text = match stdin {
            true => io::read_to_string(io::stdin()),
            false => std::fs::read_to_string(file),
        };
        let text = match text {
            Ok(text) => text,
            Err(e) => {
                self.failed_file(&name, &format!("{name}: {e}"));
                return Ok(true);
            }
        };
        let parsed = match stdin && self.check.record {
            true => transcript::parse_lines_to_send(&name, &text),
            false => transcript::parse(&name, &text),
        };
        let sessions = match parsed {
            Ok(sessions) => sessions,
            Err(errors) => {
                self.failed_file(&name, &errors.join("\n"));
                return Ok(true);
            }
        };
        if sessions.is_empty() {
            if name.ends_with(".md") {
                self.empty += 1;
                self.print(&format!(
                    "none      {}: no ```session block found",
                    escaped_line(&name)
                ))?;
            } else {
                self.failed_file(&name, &format!("{name}: no line is sent or expected"));
            }
            return Ok(true);
        }
        let mut recorded = Vec::new();
        for session in &sessions {
            let began = Instant::now();
            let (outcome, lines) = match self.check.record {
                true => self.record(session, stdin),
                false => (self.play(session), None),
            };
            recorded.extend(lines.map(|lines| (session, lines)));
            let no_server = matches!(outcome, Outcome::Failed(_)) && !self.server_seen;
            self.case(session, &name, began.elapsed(), outcome)?;
            if no_server {
                return Ok(false);
            }
        }
        if stdin && self.check.record {
            io::stdout().write_all(rewritten(&text, &recorded).as_bytes())?;
        } else if !recorded.is_empty()
            && let Err(e) = replace(file, &rewritten(&text, &recorded))
        {
            self.failed_file(&name, &format!("{name}: {e}"));
        }
        Ok(true)
    }

    fn play(&mut self, session: &Session) -> Outcome {
        let mut server = crate::cli::run::server(self.check.server.as_deref());
        let outcome = session.play(&mut server, self.check.deadline);
        let Err(failure) = outcome else {
            self.server_seen = true;
            return Outcome::Same;
        };
        self.fail(failure)
    }

    /// Also returns the lines to write: if they have changed, or `always`.
    fn record(&mut self, session: &Session, always: bool) -> (Outcome, Option<Vec<String>>) {
        let mut server = crate::cli::run::server(self.check.server.as_deref());
        let recorded = match session.record(&mut server, self.check.deadline) {
            Ok(recorded) => recorded,
            Err(failure) => return (self.fail(failure), None),
        };
        self.server_seen = true;
        let failures: Vec<String> = recorded.failures.iter().map(ToString::to_string).collect();
        if !failures.is_empty() {
            guard::sweep();
            return (
                Outcome::Differs(failures.join("\n")),
                always.then_some(recorded.lines),
            );
        }
        match session.is_written_as(&recorded.lines) && !always {
            true => (Outcome::Same, None),
            false => (Outcome::Recorded, Some(recorded.lines)),
        }
    }

    fn fail(&mut self, failure: Failure) -> Outcome {
        // A server that works may leave processes running on purpose, such as an ssh master.
        guard::sweep();
        match failure {
            Failure::NoServer(why) => {
                let command = self.check.server.as_deref().unwrap_or("procwire serve");
                Outcome::Failed(format!("the server {} {why}", quoted(command)))
            }
            differs => {
                self.server_seen = true;
                Outcome::Differs(differs.to_string())
            }
        }
    }

    fn case(&mut self, session: &Session, name: &str, took: Duration, outcome: Outcome) -> io::Result<()> {
        let word = match &outcome {
            Outcome::Same => "ok",
            Outcome::Recorded => "recorded",
            Outcome::Differs(_) if self.check.record => "FAILED",
            Outcome::Differs(_) => "DIFFERS",
            Outcome::Failed(_) => "ERROR",
        };
        let place = escaped_line(&session.place);
        let title = session.title.as_deref().map(escaped_line).unwrap_or_default();
        let mut text = format!("{word:<8}  {place}  {title}").trim_end().to_owned();
        if let Outcome::Differs(differences) = &outcome {
            for line in escaped(differences).lines() {
                text.push_str("\n  ");
                text.push_str(line);
            }
        }
        self.print(&text)?;
        if let Outcome::Failed(why) = &outcome {
            complain(why);
        }
        self.cases.push(Case {
            file: name.to_owned(),
            place: session.place.clone(),
            title: session.title.clone(),
            took,
            outcome,
        });
        Ok(())
    }

    fn failed_file(&mut self, name: &str, why: &str) {
        complain(why);
        self.cases.push(Case {
            file: name.to_owned(),
            place: name.to_owned(),
            title: None,
            took: Duration::ZERO,
            outcome: Outcome::Failed(why.to_owned()),
        });
    }

    /// Prints a line of the report: on stderr where stdout is for what is recorded.
    fn print(&self, text: &str) -> io::Result<()> {
        let recorded_on_stdout = self.check.record && self.check.files.iter().any(|f| f.as_os_str() == "-");
        match recorded_on_stdout {
            true => writeln!(io::stderr(), "{text}"),
            false => writeln!(io::stdout(), "{text}"),
        }
    }

    fn summary(&mut self) -> io::Result<i32> {
        if self.cases.is_empty() {
            complain("no file has a session");
            return Ok(2);
        }
        let count = |is_it: fn(&Outcome) -> bool| self.cases.iter().filter(|c| is_it(&c.outcome)).count();
        let differ = count(|outcome| matches!(outcome, Outcome::Differs(_)));
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        let recorded = count(|outcome| matches!(outcome, Outcome::Recorded));
        let mut text = format!("{} ok", count(|outcome| matches!(outcome, Outcome::Same)));
        for (number, word) in [
            (recorded, "recorded"),
            (
                differ,
                if self.check.record {
                    "not recorded"
                } else {
                    "differ"
                },
            ),
            (failed, "could not be checked"),
            (self.empty, "without a session"),
        ] {
            if number > 0 {
                // Writing to a String cannot fail.
                let _ = write!(text, ", {number} {word}");
            }
        }
        self.print(&text)?;
        Ok(match (failed, differ) {
            (0, 0) => 0,
            (0, _) => 1,
            _ => 2,
        })
    }
}

/// The text of a file with the recorded lines in place of those of their sessions. Everything else
/// stays as it is, line ends included.
fn rewritten(text: &str, recorded: &[(&Session, Vec<String>)]) -> String {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    let mut rewritten = String::with_capacity(text.len());
    for (session, new) in recorded {
        let first = session.first - 1;
        while let Some((_, line)) = lines.next_if(|(index, _)| *index < first) {
            rewritten.push_str(line);
        }
        for line in new {
            rewritten.push_str(line);
            rewritten.push_str(end);
        }
        while lines
            .next_if(|(index, _)| *index < first + session.length())
            .is_some()
        {}
    }
    rewritten.extend(lines.map(|(_, line)| line));
    rewritten
}

/// Replaces a file at once: at a full disk, or if this is killed, it is as it was.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let file = file.canonicalize()?;
    let mut beside = file.clone().into_os_string();
    beside.push(format!(".{}", std::process::id()));
    let written = std::fs::write(&beside, text)
        .and_then(|()| std::fs::set_permissions(&beside, std::fs::metadata(&file)?.permissions()))
        .and_then(|()| std::fs::rename(&beside, &file));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// The report as continuous integration reads it. Five elements, so there is no library for it.
fn junit(cases: &[Case]) -> String {
    let count = |is_it: fn(&Outcome) -> bool| cases.iter().filter(|c| is_it(&c.outcome)).count();
    let failures = count(|outcome| matches!(outcome, Outcome::Differs(_)));
    let errors = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    // A name may be that of several sessions, and then it needs the place.
    let mut names: HashMap<(&str, &str), usize> = HashMap::new();
    for case in cases {
        *names.entry((&case.file, case.name())).or_default() += 1;
    }
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "<testsuite name=\"procwire check\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{}\">",
        cases.len(),
        seconds(cases.iter().map(|case| case.took).sum())
    );
    for case in cases {
        let name = match names[&(case.file.as_str(), case.name())] {
            1 => case.name().to_owned(),
            _ => format!("{} ({})", case.name(), case.place),
        };
        let _ = write!(
            text,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{}\"",
            xml(&case.file),
            xml(&name),
            seconds(case.took)
        );
        let (element, why) = match &case.outcome {
            Outcome::Same | Outcome::Recorded => {
                text.push_str("/>\n");
                continue;
            }
            Outcome::Differs(why) => ("failure", why),
            Outcome::Failed(why) => ("error", why),
        };
        let _ = writeln!(
            text,
            ">\n    <{element} message=\"{}\">{}</{element}>\n  </testcase>",
            xml(why.lines().next().unwrap_or_default()),
            xml(why)
        );
    }
    text.push_str("</testsuite>\n");
    text
}

impl Case {
    fn name(&self) -> &str {
        self.title.as_deref().unwrap_or(&self.place)
    }
}

fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in quote::escaped(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no way to write these; control characters are escaped before.
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_well_formed_whatever_the_server_said() {
        let case = |title: Option<&str>, outcome: Outcome| Case {
            file: "a&b.md".into(),
            place: "a&b.md:3".into(),
            title: title.map(str::to_owned),
            took: Duration::from_millis(1500),
            outcome,
        };
        let report = junit(&[
            case(Some("it's <new>"), Outcome::Same),
            case(Some("twice"), Outcome::Recorded),
            case(
                Some("twice"),
                Outcome::Differs("<\"x\">\u{1b}[0m\nmore\u{ffff}".into()),
            ),
            case(None, Outcome::Failed("no".into())),
        ]);
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <testsuite name=\"procwire check\" tests=\"4\" failures=\"1\" errors=\"1\" time=\"6.000\">\n  \
            <testcase classname=\"a&amp;b.md\" name=\"it's &lt;new&gt;\" time=\"1.500\"/>\n  \
            <testcase classname=\"a&amp;b.md\" name=\"twice (a&amp;b.md:3)\" time=\"1.500\"/>\n  \
            <testcase classname=\"a&amp;b.md\" name=\"twice (a&amp;b.md:3)\" time=\"1.500\">\n    \
            <failure message=\"&lt;&quot;x&quot;&gt;\\u{1b}[0m\">&lt;&quot;x&quot;&gt;\\u{1b}[0m\nmore\u{fffd}</failure>\n  \
            </testcase>\n  \
            <testcase classname=\"a&amp;b.md\" name=\"a&amp;b.md:3\" time=\"1.500\">\n    \
            <error message=\"no\">no</error>\n  \
            </testcase>\n</testsuite>\n";
        assert_eq!(report, expected);
    }

    #[test]
    fn only_the_lines_of_a_session_are_rewritten() {
        let text = "# T\r\n```session\r\n--> {}\r\n```\r\nend";
        let sessions = transcript::parse("a.md", text).expect("it is well-formed");
        let new = vec!["--> {}".to_owned(), "<-- {}".to_owned()];
        assert_eq!(
            rewritten(text, &[(&sessions[0], new)]),
            "# T\r\n```session\r\n--> {}\r\n<-- {}\r\n```\r\nend"
        );
    }
}
