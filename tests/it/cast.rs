//! The recording that the README shows: it is drawn from its cast, and what it shows happens.

use std::path::{Path, PathBuf};

use avt::Terminal;
use serde_json::Value;

use crate::harness::{Scratch, apply, example, test};

/// What a README may weigh beside its text.
const MAX_SVG_BYTES: usize = 60_000;

/// What a test of this file would need and has not; `None` for all other tests.
pub fn missing(test: &str) -> Option<&'static str> {
    let needs = test.strip_prefix("cast::")? == "the_first_minute_is_true";
    let required = std::env::var_os("PROCWIRE_REQUIRE_SHELLS").is_some();
    let is_there = ["bash", "pgrep"].iter().all(|program| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(program).exists())
    });
    (needs && !required && !is_there).then_some("needs bash and pgrep")
}

fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// Runs the tool; what it prints, or its error.
fn cast(arguments: &[&str]) -> Result<String, String> {
    let output = example("cast").args(arguments).output().expect("it starts");
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).expect("it prints UTF-8")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What the terminal shows at the end of a cast.
fn last_screen(text: &str) -> Vec<String> {
    let mut lines = text.lines();
    let header: Value = serde_json::from_str(lines.next().expect("a header")).expect("JSON");
    let size = |name: &str| usize::try_from(header[name].as_u64().expect("a size")).expect("it is small");
    let mut terminal = Terminal::new(size("width"), size("height")).expect("a size");
    for line in lines {
        let (_, kind, data): (f64, String, String) = serde_json::from_str(line).expect("an event");
        assert_eq!(kind, "o");
        terminal.feed(data.as_str());
    }
    let screen = terminal.screen();
    let lines = screen.visible_lines();
    lines.map(|line| line.text().trim_end().to_owned()).collect()
}

#[apply(test)]
fn the_drawing_is_that_of_the_cast() {
    let drawn =
        cast(&["draw", document("first-minute.cast").to_str().expect("UTF-8")]).expect("it is a cast");
    let shown = std::fs::read_to_string(document("first-minute.svg")).expect("it is there");
    assert!(
        drawn == shown,
        "docs/first-minute.svg is not what `cast draw` prints"
    );
    assert!(shown.len() < MAX_SVG_BYTES, "{} bytes", shown.len());
    // Of its last screen everything is in it, key by key where it was typed.
    let recorded = std::fs::read_to_string(document("first-minute.cast")).expect("it is there");
    for line in last_screen(&recorded) {
        let printed = line.starts_with(|c: char| c != '$');
        let escaped = line
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        for piece in escaped.split("  ").filter(|piece| printed && !piece.is_empty()) {
            assert!(shown.contains(&format!(">{}<", piece.trim())), "no {piece:?}");
        }
    }
}

/// Plays the commands once more: they still print what the recording shows, but for numbers.
#[apply(test)]
fn the_first_minute_is_true() {
    let scratch = Scratch::new();
    let file = scratch.path("again.cast");
    cast(&["record", &file]).expect("the commands do what they did");
    let recorded = std::fs::read_to_string(document("first-minute.cast")).expect("it is there");
    let again = std::fs::read_to_string(file).expect("it was written");
    let without_numbers = |text: &str| -> Vec<String> {
        let lines = last_screen(text).into_iter().map(|line| {
            let parts = line.split(|c: char| c.is_ascii_digit() || c == '.');
            parts
                .filter(|part| !part.is_empty())
                .collect::<Vec<&str>>()
                .join("#")
        });
        lines.collect()
    };
    assert_eq!(without_numbers(&again), without_numbers(&recorded));
}

#[apply(test)]
fn colours_sizes_and_pauses_of_other_casts_are_drawn() {
    let scratch = Scratch::new();
    let events = [
        r#"{"version":2,"width":14,"height":2,"idle_time_limit":1}"#,
        r#"[0.1,"o","\u001b[31mred\u001b[0m <&> \u001b[1;4mbold"]"#,
        r#"[0.2,"i","not shown"]"#,
        r#"[100.0,"r","20x4"]"#,
        r#"[100.1,"o","\u001b[2J\u001b[H\u001b[0;7mback\u001b[0m \u001b[38;5;196mx\u001b[38;2;1;2;3m\u00fc\u4e16!"]"#,
    ];
    let svg = cast(&["draw", &scratch.file("other.cast", 0o644, events.join("\n"))]).expect("it is a cast");
    for part in [
        ">red</text>",
        ">&lt;&amp;&gt;</text>",
        "class=\"b u\" x=\"81.2\" y=\"29\" textLength=\"33.6\">bold<",
        ">back</text>",
        // A wide character takes two columns.
        "textLength=\"33.6\">ü世!</text>",
        "{fill:#ff0000}",
        "{fill:#010203}",
        // Twenty columns and four rows with their margins, and the pause cut to a second.
        "viewBox=\"0 0 196 108\"",
        "animation:6.3s ",
    ] {
        assert!(svg.contains(part), "no {part}: {svg}");
    }
    assert!(!svg.contains("not shown"), "{svg}");
}

#[apply(test)]
fn what_is_not_a_cast_is_named() {
    let scratch = Scratch::new();
    for (text, error) in [
        ("", "it is empty"),
        (
            "{\"version\":1,\"width\":80,\"height\":24}",
            "not an asciicast of version 2",
        ),
        ("{\"version\":2,\"width\":80}", "it has no size"),
        ("{\"version\":2,\"width\":0,\"height\":24}", "must be positive"),
        (
            "{\"version\":2,\"width\":80,\"height\":24}\n[0]",
            "invalid length",
        ),
    ] {
        let file = scratch.file("bad.cast", 0o644, text);
        let said = cast(&["draw", &file]).expect_err("it is not one");
        assert!(said.contains(error), "{text}: {said}");
    }
}
