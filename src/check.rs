//! `procwire check`: whether a server holds conversations as their transcripts say.
//!
//! **Thread:** main.
//! **Owns:** the report.
//! **Never:** knows what a message means; the library's `transcript` does. Leaves anything behind of a
//! server that went astray.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use procwire::guard::{self, Guarded};
use procwire::transcript;

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

struct Played {
    place: String,
    took: Duration,
    difference: Option<String>,
}

/// Plays all sessions of all files; the exit code.
pub fn check(check: &Check) -> Result<i32, Box<dyn std::error::Error>> {
    let mut sessions = Vec::new();
    for file in &check.files {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|e| format!("{name}: {e}"))?;
        sessions.extend(transcript::parse(&name, &text)?);
    }
    // What loses its parent becomes a child of ours, and can be found.
    Guarded::begin(None)?;
    let mut played = Vec::new();
    for session in sessions {
        let began = Instant::now();
        let mut server = crate::run::server(check.server.as_deref());
        let difference = session.play(&mut server, check.deadline).err();
        let difference = difference.map(|d| d.to_string());
        let took = began.elapsed();
        if difference.is_some() {
            // What one that is in order leaves running, such as the master of ssh, it means to.
            guard::sweep();
        }
        match &difference {
            None => writeln!(io::stdout(), "ok    {}", session.place)?,
            Some(text) => writeln!(io::stdout(), "DIFFERS  {}\n  {text}", session.place)?,
        }
        played.push(Played {
            place: session.place,
            took,
            difference,
        });
    }
    let failed = played.iter().filter(|p| p.difference.is_some()).count();
    writeln!(io::stdout(), "{} sessions, {failed} of them differ", played.len())?;
    if let Some(file) = &check.junit {
        std::fs::write(file, junit(&played)).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(i32::from(failed > 0))
}

/// The report as continuous integration reads it. Four elements, so there is no library for it.
fn junit(played: &[Played]) -> String {
    let failures = played.iter().filter(|p| p.difference.is_some()).count();
    let seconds = |time: Duration| format!("{:.3}", time.as_secs_f64());
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String cannot fail.
    let _ = writeln!(
        xml,
        "<testsuite name=\"procwire check\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" time=\"{}\">",
        played.len(),
        seconds(played.iter().map(|p| p.took).sum())
    );
    for Played {
        place,
        took,
        difference,
    } in played
    {
        let file = place.rsplit_once(':').map_or(place.as_str(), |(file, _)| file);
        let _ = write!(
            xml,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{}\"",
            escaped(file),
            escaped(place),
            seconds(*took)
        );
        let _ = match difference {
            None => writeln!(xml, "/>"),
            Some(text) => writeln!(
                xml,
                ">\n    <failure message=\"{}\">{}</failure>\n  </testcase>",
                escaped(text.lines().next().unwrap_or_default()),
                escaped(text)
            ),
        };
    }
    xml.push_str("</testsuite>\n");
    xml
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(character),
            // XML has no way to write these.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
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
        let played = |difference: Option<&str>| Played {
            place: "a&b.md:3".into(),
            took: Duration::from_millis(1500),
            difference: difference.map(str::to_owned),
        };
        let xml = junit(&[played(None), played(Some("<\"x\">\u{1b}[0m\nmore\u{ffff}"))]);
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <testsuite name=\"procwire check\" tests=\"2\" failures=\"1\" errors=\"0\" time=\"3.000\">\n  \
            <testcase classname=\"a&amp;b.md\" name=\"a&amp;b.md:3\" time=\"1.500\"/>\n  \
            <testcase classname=\"a&amp;b.md\" name=\"a&amp;b.md:3\" time=\"1.500\">\n    \
            <failure message=\"&lt;&quot;x&quot;&gt;\u{fffd}[0m\">&lt;&quot;x&quot;&gt;\u{fffd}[0m\nmore\u{fffd}</failure>\n  \
            </testcase>\n</testsuite>\n";
        assert_eq!(xml, expected);
    }
}
