//! The manual pages: what a reader sees, and what the formatters say of them.
//!
//! Each needs mandoc or groff. Where neither is there the tests are ignored, unless
//! `PROCWIRE_REQUIRE_MAN` says that both must be.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Scratch, apply, binary, test};

const REQUIRE_MAN: &str = "PROCWIRE_REQUIRE_MAN";
/// Each formats a page from stdin as plain text.
const FORMATTERS: [&[&str]; 2] = [
    &["mandoc", "-man", "-T", "utf8", "-O", "width=78"],
    &["groff", "-man", "-k", "-T", "utf8", "-P-cbou"],
];

/// What a test of this file would need and has not; `None` for all other tests.
pub fn missing(test: &str) -> Option<&'static str> {
    let needs = matches!(
        test.strip_prefix("man::")?,
        "every_command_has_a_page_with_all_of_its_help" | "formatters_find_nothing_wrong"
    );
    let required = std::env::var_os(REQUIRE_MAN).is_some();
    (needs && !required && formatters().is_empty()).then_some("needs mandoc or groff")
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Those that are installed, or all that must be.
fn formatters() -> Vec<&'static [&'static str]> {
    let required = std::env::var_os(REQUIRE_MAN).is_some();
    let known = FORMATTERS.into_iter();
    known.filter(|f| required || is_installed(f[0])).collect()
}

fn printed(arguments: &[&str]) -> String {
    let output = binary().args(arguments).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// The commands that the help lists.
fn commands() -> Vec<String> {
    let help = printed(&["--help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = listed.take_while(|line| !line.is_empty());
    commands
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// What a formatter prints to stdout and stderr.
fn formatted(formatter: &[&str], page: &str) -> (String, String) {
    let mut child = Command::new(formatter[0])
        .args(&formatter[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{formatter:?}: {e}"));
    // A page is smaller than a pipe.
    let mut stdin = child.stdin.take().expect("stdin was piped");
    stdin.write_all(page.as_bytes()).expect("the formatter reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the formatter ends");
    let text = |bytes| String::from_utf8(bytes).expect("a formatter prints UTF-8");
    (text(output.stdout), text(output.stderr))
}

/// Text for a printer is without what is struck over.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for character in text.chars() {
        match character {
            '\u{8}' => drop(plain.pop()),
            character => plain.push(character),
        }
    }
    plain
}

/// Words with single spaces, so that breaks do not matter.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<&str>>().join(" ")
}

#[apply(test)]
fn every_command_has_a_page_with_all_of_its_help() {
    let commands = commands();
    assert!(commands.contains(&"run".to_owned()) && commands.contains(&"man".to_owned()));
    for command in &commands {
        let help = printed(&["help", command]);
        let page = printed(&["man", command]);
        for formatter in formatters() {
            let seen = plain(&formatted(formatter, &page).0);
            for section in [
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "OPTIONS",
                "EXIT STATUS",
                "ENVIRONMENT",
                "FILES",
                "EXAMPLES",
                "SEE ALSO",
            ] {
                assert!(
                    seen.lines().any(|line| line == section),
                    "{command}: no {section}"
                );
            }
            let seen = words(&seen);
            let (text, options) = help.split_once("\nOptions:\n").expect("each has options");
            assert!(options.contains("--help"), "{options}");
            // Flags with what is said of them are one text, up to the next flag.
            let mut flag = String::new();
            for line in options.lines().chain(["  -"]) {
                if line.trim_start().starts_with('-')
                    && line.starts_with("  ")
                    && !line.starts_with("         ")
                {
                    let wanted = words(&flag);
                    assert!(
                        seen.contains(&wanted),
                        "{command}, {}: no {wanted:?} in {seen}",
                        formatter[0]
                    );
                    flag.clear();
                }
                flag.push_str(&format!("{line}\n"));
            }
            // Everything else is in the page as well, paragraph by paragraph.
            for paragraph in text.split("\n\n").skip(1) {
                let lines = paragraph
                    .lines()
                    .map(str::trim)
                    .map(|line| line.trim_start_matches("- "));
                for line in lines {
                    let line = line
                        .trim_start_matches("Exit code: the ")
                        .trim_start_matches("Exit code: ");
                    let is_title = ["Usage:", "Try it:", "Commands:"]
                        .iter()
                        .any(|t| line.starts_with(t));
                    let wanted = words(line);
                    let is_list = commands.iter().any(|c| line.starts_with(&format!("{c} ")));
                    if !is_title && !is_list && !line.starts_with("procwire COMMAND") {
                        assert!(
                            seen.contains(&wanted),
                            "{command}, {}: no {wanted:?} in {seen}",
                            formatter[0]
                        );
                    }
                }
            }
        }
    }
}

#[apply(test)]
fn formatters_find_nothing_wrong() {
    for command in commands() {
        let page = printed(&["man", &command]);
        for formatter in formatters() {
            let (complaints, errors) = match formatter[0] {
                "mandoc" => formatted(&["mandoc", "-man", "-T", "lint"], &page),
                _ => formatted(&["groff", "-man", "-ww", "-z", "-T", "utf8"], &page),
            };
            let complaints = complaints + &errors;
            // A page does not depend on the day it was printed.
            let mut lines = complaints.lines().filter(|line| !line.contains("missing date"));
            assert_eq!(lines.next(), None, "{command}, {}: {complaints}", formatter[0]);
        }
    }
}

#[apply(test)]
fn one_page_is_printed_and_all_are_written() {
    let scratch = Scratch::new();
    let folder = scratch.path("share/man1");
    assert_eq!(printed(&["man", "--dir", &folder]), "");
    let written: HashSet<String> = std::fs::read_dir(&folder)
        .expect("the folder was made")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("ASCII"))
        .collect();
    let mut wanted = HashSet::new();
    for command in commands() {
        let (name, arguments) = match command.as_str() {
            "serve" => ("procwire.1".to_owned(), vec!["man"]),
            name => (format!("procwire-{name}.1"), vec!["man", name]),
        };
        let page = std::fs::read_to_string(Path::new(&folder).join(&name)).expect("it was written");
        assert_eq!(page, printed(&arguments), "{name}");
        wanted.insert(name);
    }
    assert_eq!(written, wanted);

    for (arguments, code, error) in [
        (&["man", "--dir", "/dev/null/x"][..], 1, "--dir '/dev/null/x': "),
        (
            &["man", "--dir", "/", "run"],
            2,
            "does not take the name of a command",
        ),
        (&["man", "rnu"], 2, "did you mean 'run'?"),
        (&["man", "run", "check"], 2, "unexpected argument 'check'"),
    ] {
        let output = binary().args(arguments).output().expect("the binary starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(error), "{arguments:?}: {stderr}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    }
}
