//! The manual pages: one for the program and one for each command, in the format of man(7).
//!
//! **Thread:** main.
//! **Owns:** the layout of a page, and what a page says beyond the help: environment and files.
//! **Never:** knows a command or a flag: all of them come from the table in `args.rs`.

use std::io;
use std::path::Path;

use super::help::{WIDTH, wrapped};
use super::{COMMANDS, Flag, Subcommand, Takes};

/// What every page says of the environment.
const RUST_LOG: (&str, &str) = (
    "RUST_LOG",
    "what is logged to stderr: \"error\", \"warn\" (the default), \"info\", \"debug\" or \"off\"",
);

/// The variables that each command reads.
fn environment(command: &str) -> Vec<(&'static str, &'static str)> {
    let mut variables = vec![RUST_LOG];
    match command {
        "serve" => variables.extend([
            (
                "PATH",
                "where programs are looked for, unless a spawn gives its own",
            ),
            (
                "PROCWIRE",
                "read by the clients in other languages: the command that starts the server",
            ),
        ]),
        "run" => variables.extend([
            ("PATH", "where PROGRAM is looked for, unless --env gives another"),
            (
                "TERM",
                "with --server, passed on to a program that gets a terminal",
            ),
        ]),
        _ => {}
    }
    variables
}

/// The files that each command uses beyond those it is given.
fn files(command: &str) -> Vec<(&'static str, &'static str)> {
    match command {
        "serve" => vec![
            ("/dev/ptmx", "opened for each program that gets a terminal"),
            ("/proc", "read to find what a program has started"),
        ],
        "run" => vec![(
            "/dev/tty",
            "opened to see whether a --server could ask for a password",
        )],
        "completions" => vec![
            (
                "~/.local/share/bash-completion/completions/procwire",
                "read by bash",
            ),
            ("~/.config/fish/completions/procwire.fish", "read by fish"),
        ],
        "man" => vec![(
            "~/.local/share/man/man1",
            "where man(1) finds the pages of one user",
        )],
        _ => Vec::new(),
    }
}

/// The name of a command's page. The program's own is that of its default command.
fn title(subcommand: &Subcommand) -> String {
    match subcommand.name {
        "serve" => "procwire".to_owned(),
        name => format!("procwire-{name}"),
    }
}

/// The page of a command; that of `serve` is the program's.
pub(super) fn page(subcommand: &Subcommand) -> String {
    let is_program = subcommand.name == "serve";
    let title = title(subcommand);
    // Neither hyphens that were not typed nor wide gaps.
    let mut page = Page(format!(
        ".TH {} 1 \"\" \"procwire {}\" \"User Commands\"\n.nh\n.ad l\n",
        escaped(&title.to_uppercase()),
        env!("CARGO_PKG_VERSION")
    ));
    let (about, teaches) = match is_program {
        true => {
            let (first, rest) = subcommand.teaches.split_once("\n\n").unwrap_or_default();
            let about = first.split_once(": ").map_or(first, |(_, about)| about);
            (about.trim_end_matches('.'), rest)
        }
        false => (subcommand.about, subcommand.teaches),
    };
    page.section("NAME");
    page.0
        .push_str(&format!("{} \\- {}\n", escaped(&title), escaped(about)));

    page.section("SYNOPSIS");
    match is_program {
        true => {
            page.0
                .push_str(".B procwire\n[serve] [OPTIONS]\n.br\n.B procwire\n");
            page.0.push_str("COMMAND [OPTIONS] [ARGUMENT...]\n");
        }
        false => {
            page.0
                .push_str(&format!(".B procwire {}\n", escaped(subcommand.name)));
            page.line(subcommand.arguments);
        }
    }

    let text = Text::of(teaches);
    page.section("DESCRIPTION");
    page.paragraphs(&text.description);
    if is_program {
        page.section("COMMANDS");
        for other in COMMANDS {
            page.term(
                &format!(".B {} {}", escaped(other.name), escaped(other.arguments)),
                other.about,
            );
        }
    }

    page.section("OPTIONS");
    for flag in subcommand.flags {
        page.term(&head(flag), flag.help);
    }

    page.section("EXIT STATUS");
    match text.exit.is_empty() {
        true => page.line("0, or 1 if stdout cannot be written, or 2 for a wrong command line."),
        false => page.text(&capitalised(&text.exit)),
    }
    page.section("ENVIRONMENT");
    for (variable, about) in environment(subcommand.name) {
        page.term(&format!(".B {}", escaped(variable)), about);
    }
    page.section("FILES");
    match files(subcommand.name).as_slice() {
        [] => page.line("None beyond those it is given."),
        files => files
            .iter()
            .for_each(|(file, about)| page.term(&format!(".I {}", escaped(file)), about)),
    }
    page.section("EXAMPLES");
    page.verbatim(match text.examples.is_empty() {
        true => vec![format!("procwire {} --help", subcommand.name)],
        false => text.examples,
    });
    page.section("SEE ALSO");
    let others = COMMANDS.iter().filter(|other| other.name != subcommand.name);
    let others: Vec<String> = others
        .map(|other| format!(".BR {} (1)", escaped(&self::title(other))))
        .collect();
    page.0.push_str(&format!("{}\n", others.join(",\n")));
    page.0
}

/// Writes every page into a folder, which is made if it is not there.
pub fn write_pages(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for subcommand in COMMANDS {
        std::fs::write(folder.join(format!("{}.1", title(subcommand))), page(subcommand))?;
    }
    Ok(())
}

/// How a flag is spelled, with its value.
fn head(flag: &Flag) -> String {
    let short = flag.short.map(|short| format!("\\fB\\-{short}\\fR, "));
    let value = match flag.takes {
        Takes::Nothing => String::new(),
        Takes::Value(name, _) => format!(" \\fI{}\\fR", escaped(name)),
        Takes::Optional(name, _) => format!("[=\\fI{}\\fR]", escaped(name)),
    };
    format!(
        "{}\\fB\\-\\-{}\\fR{value}",
        short.unwrap_or_default(),
        escaped(flag.long)
    )
}

/// The text of a help, in the parts that a page has sections for.
#[derive(Default)]
struct Text<'a> {
    description: Vec<Vec<&'a str>>,
    exit: String,
    examples: Vec<String>,
}

impl<'a> Text<'a> {
    fn of(teaches: &'a str) -> Text<'a> {
        let mut text = Text::default();
        for paragraph in teaches.split("\n\n") {
            let lines: Vec<&str> = paragraph.lines().collect();
            match lines.first().copied().unwrap_or_default() {
                "" => {}
                "Try it:" => {
                    let examples = lines[1..]
                        .iter()
                        .map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned());
                    text.examples.extend(examples);
                }
                first if first.starts_with("Exit code: ") => {
                    text.exit = paragraph["Exit code: ".len()..].trim_end().to_owned();
                }
                _ => text.description.push(lines),
            }
        }
        text
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

/// A page that is being written.
struct Page(String);

impl Page {
    fn section(&mut self, name: &str) {
        self.0.push_str(&format!(".SH {name}\n"));
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(&format!("{}\n", escaped(line)));
    }

    /// Text that is filled.
    fn text(&mut self, text: &str) {
        let words: Vec<String> = text.split_whitespace().map(escaped).collect();
        for line in wrapped(&words.join(" "), WIDTH) {
            self.0.push_str(&format!("{line}\n"));
        }
    }

    /// `head` is roff already.
    fn term(&mut self, head: &str, text: &str) {
        self.0.push_str(&format!(".TP\n{head}\n"));
        self.text(text);
    }

    /// What is indented stands as it is; a line that begins with a dash is an item of a list.
    fn paragraphs(&mut self, paragraphs: &[Vec<&str>]) {
        for (number, lines) in paragraphs.iter().enumerate() {
            if number > 0 && !lines[0].starts_with("  ") {
                self.0.push_str(".PP\n");
            }
            let mut lines = lines.iter().copied().peekable();
            while let Some(line) = lines.next() {
                if let Some(item) = line.strip_prefix("  - ") {
                    self.0.push_str(".IP \\(bu 2\n");
                    let mut item = item.to_owned();
                    while let Some(more) = lines.next_if(|line| line.starts_with("    ")) {
                        item.push_str(&more[3..]);
                    }
                    self.text(&item);
                    if lines.peek().is_some_and(|next| !next.starts_with("  ")) {
                        self.0.push_str(".PP\n");
                    }
                } else if let Some(first) = line.strip_prefix("  ") {
                    let mut block = vec![first.to_owned()];
                    while let Some(more) = lines.next_if(|line| line.starts_with("  ")) {
                        block.push(more[2..].to_owned());
                    }
                    self.0.push_str(".PP\n");
                    self.verbatim(block);
                    if lines.peek().is_some() {
                        self.0.push_str(".PP\n");
                    }
                } else {
                    let mut text = line.to_owned();
                    while let Some(more) = lines.next_if(|line| !line.starts_with("  ")) {
                        text.push_str(&format!(" {more}"));
                    }
                    self.text(&text);
                }
            }
        }
    }

    fn verbatim(&mut self, lines: Vec<String>) {
        self.0.push_str(".RS 4\n.nf\n");
        for line in lines {
            self.0.push_str(&format!("{}\n", escaped(&line)));
        }
        self.0.push_str(".fi\n.RE\n");
    }
}

/// Text for roff, in which nothing is a request, and every character is the one that is typed.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    if text.starts_with(['.', '\'']) {
        escaped.push_str("\\&");
    }
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '`' => escaped.push_str("\\(ga"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            '"' => escaped.push_str("\\(dq"),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_every_section_and_every_flag() {
        const SECTIONS: [&str; 9] = [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXIT STATUS",
            "ENVIRONMENT",
            "FILES",
            "EXAMPLES",
            "SEE ALSO",
        ];
        for subcommand in COMMANDS {
            let page = page(subcommand);
            let sections: Vec<&str> = page
                .lines()
                .filter_map(|line| line.strip_prefix(".SH "))
                .collect();
            let known = sections.iter().copied().filter(|section| *section != "COMMANDS");
            assert_eq!(known.collect::<Vec<&str>>(), SECTIONS, "{}", subcommand.name);
            for flag in subcommand.flags {
                assert!(
                    page.contains(&format!("\n{}\n", head(flag))),
                    "{} of {}",
                    flag.long,
                    subcommand.name
                );
            }
            // Only requests begin with a point.
            for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
                let request = line.split(' ').next().unwrap_or_default();
                const REQUESTS: [&str; 15] = [
                    ".TH", ".SH", ".TP", ".B", ".I", ".BR", ".br", ".nf", ".fi", ".RS", ".RE", ".PP", ".IP",
                    ".nh", ".ad",
                ];
                assert!(REQUESTS.contains(&request), "{line}");
            }
        }
    }

    #[test]
    fn what_means_something_to_roff_is_escaped() {
        assert_eq!(escaped(".x"), "\\&.x");
        assert_eq!(escaped("'x\\n'"), "\\&\\(aqx\\en\\(aq");
        assert_eq!(escaped("--a=\"~^`\""), "\\-\\-a=\\(dq\\(ti\\(ha\\(ga\\(dq");
    }
}
