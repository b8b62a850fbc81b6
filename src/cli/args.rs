//! The command line: flags to settings, and their help.
//!
//! **Thread:** main, before there is any other.
//! **Owns:** the help, and the one table of commands and flags: parsing, help, manual pages and
//! completions follow from it.
//! **Never:** prints or exits; `cli/mod.rs` does.

mod finish;
mod help;
pub mod man;
mod parse;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::Config;
use crate::cli::check::Check;
use crate::cli::documents;
use crate::cli::mcp::Mcp;
use crate::cli::quote::quoted;
use crate::cli::run::{Run, Tty};
use crate::cli::serve::Serve;
use finish::{check, mcp, run, serve, tty};
use help::{CHECK, COMPLETIONS, MAN, MCP, RUN, SCHEMA, SERVE, help};
pub use parse::parse;
use parse::{Given, unknown_command};
use values::{duration, size};

/// One command of the program.
pub struct Subcommand {
    pub name: &'static str,
    /// After the name, on the usage line.
    arguments: &'static str,
    /// What its arguments can be completed with.
    pub operands: Completes,
    /// One line, for the list of commands.
    pub about: &'static str,
    /// What its help says before the flags.
    teaches: &'static str,
    pub flags: &'static [Flag],
    /// Makes the command of what its flags have set.
    finish: fn(Settings) -> Result<Command, String>,
}

/// One flag of a command.
pub struct Flag {
    pub short: Option<char>,
    pub long: &'static str,
    pub takes: Takes,
    /// Sentences without line ends, which the help breaks.
    pub help: &'static str,
    set: Set,
}

/// How a flag changes the settings.
enum Set {
    Switch(fn(&mut Settings)),
    /// An error says what is wrong with the value.
    Value(fn(&mut Settings, Given) -> Result<(), String>),
}

/// Whether a flag has a value, what that is called, and what it can be completed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    Value(&'static str, Completes),
    /// `--flag` or `--flag=VALUE`.
    Optional(&'static str, Completes),
}

/// What a value or an argument can be completed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Completes {
    Nothing,
    Files,
    Directories,
    /// Names of environment variables.
    Variables,
    /// The same, each followed by `=`.
    Assignments,
    /// A program of this machine.
    Programs,
    /// A program, and after it whatever the shell completes for that program.
    CommandLine,
    OneOf(&'static [&'static str]),
    /// The commands of this program.
    Subcommands,
}

const fn flag(
    short: Option<char>,
    long: &'static str,
    takes: Takes,
    help: &'static str,
    set: fn(&mut Settings, Given) -> Result<(), String>,
) -> Flag {
    Flag {
        short,
        long,
        takes,
        help,
        set: Set::Value(set),
    }
}

/// A flag without a value.
const fn switch(short: Option<char>, long: &'static str, help: &'static str, set: fn(&mut Settings)) -> Flag {
    Flag {
        short,
        long,
        takes: Takes::Nothing,
        help,
        set: Set::Switch(set),
    }
}

const HELP: Flag = switch(Some('h'), "help", "print this help", |s| {
    s.asked = Some(Asked::Help)
});
const VERSION: Flag = switch(Some('V'), "version", "print the version", |s| {
    s.asked = Some(Asked::Version)
});
const SERVER: Flag = flag(
    Some('s'),
    "server",
    Takes::Value("COMMAND", Completes::Programs),
    "shell command that starts the server, e.g. 'ssh host procwire' [default: this binary]",
    |s, given| given.not_empty_text().map(|command| s.server = Some(command)),
);

/// The shells for which there are completions.
pub const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Every command with every flag: what is parsed, what the help prints and what completions know.
pub const COMMANDS: &[Subcommand] = &[
    Subcommand {
        name: "serve",
        arguments: "[OPTIONS]",
        operands: Completes::Nothing,
        about: "serve JSON-RPC on stdin and stdout (the default command)",
        teaches: SERVE,
        flags: &[
            switch(
                None,
                "drain",
                "at the end of input, wait until every process has exited, instead of killing them",
                |s| s.config.drain = true,
            ),
            flag(
                None,
                "default-timeout-ms",
                Takes::Value("N", Completes::OneOf(&["none"])),
                "timeout of a spawn that does not set one, in milliseconds, or 'none' [default: 10000]",
                |s, given| {
                    let timeout = given.or_none(|given| duration(given.text()?, "ms"))?;
                    s.config.default_timeout = timeout;
                    Ok(())
                },
            ),
            flag(
                None,
                "default-output-cap",
                Takes::Value("SIZE", Completes::OneOf(&["none"])),
                "bytes of output kept for a spawn that does not set a cap: a number, 64K, 16M, 1G, \
                 or 'none' for all of it [default: 1M]",
                |s, given| {
                    s.config.default_output_cap = given.or_none(|given| size(given.text()?))?;
                    Ok(())
                },
            ),
            flag(
                None,
                "max-message-bytes",
                Takes::Value("SIZE", Completes::Nothing),
                "longest message the server reads [default: 16M]",
                |s, given| {
                    let limit = size(given.text()?)?;
                    s.config.max_message_bytes = usize::try_from(limit).unwrap_or(usize::MAX);
                    match limit {
                        0 => Err("must be at least 1".to_owned()),
                        _ => Ok(()),
                    }
                },
            ),
            flag(
                None,
                "max-pending-stdin",
                Takes::Value("SIZE", Completes::Nothing),
                "bytes of stdin that may wait until a process reads them [default: 8M]",
                |s, given| size(given.text()?).map(|bytes| s.config.max_pending_stdin_bytes = bytes),
            ),
            HELP,
            VERSION,
        ],
        finish: serve,
    },
    Subcommand {
        name: "run",
        arguments: "[OPTIONS] [--] PROGRAM [ARGUMENT...]",
        operands: Completes::CommandLine,
        about: "run one program on a server, as if typed here",
        teaches: RUN,
        flags: &[
            flag(
                Some('t'),
                "tty",
                Takes::Optional("WHEN", Completes::OneOf(&["auto", "always", "never"])),
                "give the program a terminal; --tty=never does not, and --tty=auto does if stdin, stdout \
                 and stderr are terminals [default: auto]",
                |s, given| {
                    s.run.tty = match given.0 {
                        None => Tty::Always,
                        Some(_) => tty(given.text()?)?,
                    };
                    Ok(())
                },
            ),
            switch(
                Some('n'),
                "no-stdin",
                "read nothing; the program's stdin is /dev/null",
                |s| s.run.no_stdin = true,
            ),
            flag(
                Some('C'),
                "cwd",
                Takes::Value("DIR", Completes::Directories),
                "working directory of the program; must be absolute with --server",
                |s, given| given.not_empty_text().map(|cwd| s.run.cwd = Some(cwd.into())),
            ),
            flag(
                Some('e'),
                "env",
                Takes::Value("NAME=VALUE", Completes::Assignments),
                "set an environment variable of the program",
                |s, given| {
                    let text = given.text()?;
                    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
                    if name.is_empty() {
                        return Err("expected NAME=VALUE, but NAME is empty".to_owned());
                    }
                    s.run.env.push((name.to_owned(), value.to_owned()));
                    Ok(())
                },
            ),
            flag(
                Some('u'),
                "unset",
                Takes::Value("NAME", Completes::Variables),
                "remove a variable from the program's environment",
                |s, given| {
                    let name = given.not_empty_text()?;
                    if name.contains('=') {
                        return Err("expected the name of a variable, without '='".to_owned());
                    }
                    s.run.unset.push(name);
                    Ok(())
                },
            ),
            switch(
                None,
                "clean-env",
                "start from an empty environment, to which --env adds; TERM is kept for a program with a \
                 terminal",
                |s| s.run.clean_env = true,
            ),
            flag(
                None,
                "limit",
                Takes::Value("NAME=VALUE", Completes::OneOf(values::LIMITS)),
                "limit what the program may use; may be repeated: cpu-seconds, file-bytes, \
                 data-bytes, core-bytes, open-files, processes, stack-bytes, nice or oom-score-adj; bytes \
                 may have units, as in 'data-bytes=512M'",
                |s, given| values::limit(&mut s.run.limits, given.text()?),
            ),
            switch(
                None,
                "merge",
                "make stderr one stream with stdout, in the order in which the program prints",
                |s| s.run.merge = true,
            ),
            flag(
                None,
                "keep",
                Takes::Value("HEAD,TAIL", Completes::Nothing),
                "of each stream, print only the first HEAD and the last TAIL bytes, as in '64K,64K', and \
                 report how many were left out",
                |s, given| values::head_and_tail(given.text()?).map(|keep| s.run.keep = Some(keep)),
            ),
            flag(
                None,
                "timeout",
                Takes::Value("DURATION", Completes::Nothing),
                "kill the program after DURATION and exit with 124: 500ms, 1.5s, 2m, 1h30m or 1d; \
                 a bare number is seconds, and 0 is no timeout [default: 0]",
                |s, given| duration(given.text()?, "s").map(|timeout| s.run.timeout = Some(timeout)),
            ),
            flag(
                None,
                "grace",
                Takes::Value("DURATION", Completes::Nothing),
                "at a timeout, send SIGTERM first, and SIGKILL DURATION later [default: 2s]",
                |s, given| duration(given.text()?, "s").map(|grace| s.run.grace = grace),
            ),
            switch(
                None,
                "stats",
                "print on stderr how the program ended, how long it took and what it used",
                |s| s.run.stats = true,
            ),
            switch(
                None,
                "json",
                "print no live output; when the program exits, print one JSON object with its status, \
                 resource use and output",
                |s| s.run.json = true,
            ),
            flag(
                None,
                "record",
                Takes::Value("FILE", Completes::Files),
                "record the output with its times as an asciicast, for 'asciinema play'; keys are recorded \
                 only as far as they are echoed",
                |s, given| given.path().map(|path| s.run.record = Some(path)),
            ),
            switch(
                None,
                "detach",
                "start the program, print its pid and exit; it has no input, and its output is discarded",
                |s| s.run.detach = true,
            ),
            flag(
                None,
                "connect-timeout",
                Takes::Value("DURATION", Completes::Nothing),
                "how long to wait for the server's first answer; 0 is no limit [default: 10s; 2m where a \
                 --server may ask for a password]",
                |s, given| duration(given.text()?, "s").map(|timeout| s.run.connect_timeout = Some(timeout)),
            ),
            SERVER,
            HELP,
            VERSION,
        ],
        finish: run,
    },
    Subcommand {
        name: "check",
        arguments: "[OPTIONS] FILE...",
        operands: Completes::Files,
        about: "replay recorded sessions and report differences; record them",
        teaches: CHECK,
        flags: &[
            switch(
                None,
                "record",
                "write what the server sent into the files, replacing what they expect; \
                 for the file '-', print it",
                |s| s.check.record = true,
            ),
            SERVER,
            flag(
                None,
                "deadline",
                Takes::Value("DURATION", Completes::Nothing),
                "how long to wait for each message [default: 10s]",
                |s, given| {
                    s.check.deadline = duration(given.text()?, "s")?;
                    match s.check.deadline.is_zero() {
                        true => Err("must be longer than 0".to_owned()),
                        false => Ok(()),
                    }
                },
            ),
            flag(
                None,
                "junit",
                Takes::Value("FILE", Completes::Files),
                "write a JUnit report",
                |s, given| {
                    s.check.junit = Some(given.path()?);
                    Ok(())
                },
            ),
            HELP,
            VERSION,
        ],
        finish: check,
    },
    Subcommand {
        name: "mcp",
        arguments: "[OPTIONS]",
        operands: Completes::Nothing,
        about: "serve AI agents on stdin and stdout, as tools of MCP",
        teaches: MCP,
        flags: &[
            flag(
                None,
                "patience",
                Takes::Value("DURATION", Completes::Nothing),
                "how long a call without waitMs waits; less than the client waits for its answer \
                 [default: 45s]",
                |s, given| duration(given.text()?, "s").map(|patience| s.mcp.patience = patience),
            ),
            flag(
                None,
                "max-handles",
                Takes::Value("N", Completes::Nothing),
                "how many processes may run at once, and how many ended ones keep their output \
                 [default: 64]",
                |s, given| {
                    let number = given
                        .text()?
                        .parse()
                        .ok()
                        .filter(|number| (1..=10_000).contains(number));
                    s.mcp.max_handles = number.ok_or("expected a number from 1 to 10000")?;
                    Ok(())
                },
            ),
            flag(
                Some('C'),
                "cwd",
                Takes::Value("DIR", Completes::Directories),
                "working directory of programs whose call names none [default: this one]",
                |s, given| given.not_empty_text().map(|cwd| s.mcp.cwd = Some(cwd.into())),
            ),
            HELP,
            VERSION,
        ],
        finish: mcp,
    },
    Subcommand {
        name: "schema",
        arguments: "[OPTIONS]",
        operands: Completes::Nothing,
        about: "print the protocol as JSON Schema or OpenRPC",
        teaches: SCHEMA,
        flags: &[
            switch(
                None,
                "openrpc",
                "print the OpenRPC document: methods, params, results and errors",
                |s| s.openrpc = true,
            ),
            HELP,
            VERSION,
        ],
        finish: schema,
    },
    Subcommand {
        name: "completions",
        arguments: "bash|zsh|fish",
        operands: Completes::OneOf(&SHELLS),
        about: "print a shell completion script",
        teaches: COMPLETIONS,
        flags: &[HELP, VERSION],
        finish: completions,
    },
    Subcommand {
        name: "man",
        arguments: "[OPTIONS] [COMMAND]",
        operands: Completes::Subcommands,
        about: "print a manual page",
        teaches: MAN,
        flags: &[
            flag(
                None,
                "dir",
                Takes::Value("DIR", Completes::Directories),
                "write every page into DIR, which is created if it does not exist",
                |s, given| given.path().map(|folder| s.man_dir = Some(folder)),
            ),
            HELP,
            VERSION,
        ],
        finish: man_page,
    },
    Subcommand {
        name: "help",
        arguments: "[COMMAND]",
        operands: Completes::Subcommands,
        about: "print the help of a command",
        teaches: "Prints the help of a command, or of the whole program.\n",
        flags: &[HELP, VERSION],
        finish: help_of,
    },
];

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    Serve(Serve),
    Run(Box<Run>),
    Check(Check),
    Mcp(Mcp),
    /// Print this and succeed.
    Print(String),
    /// Print the completions for this one of [`SHELLS`].
    PrintCompletions(&'static str),
    /// Write the manual pages into this folder.
    WriteManPages(PathBuf),
}

/// What the flags and arguments have set so far, of whichever command.
#[derive(Debug, Default)]
struct Settings {
    config: Config,
    run: Run,
    check: Check,
    mcp: Mcp,
    server: Option<String>,
    openrpc: bool,
    man_dir: Option<PathBuf>,
    asked: Option<Asked>,
    operands: Vec<OsString>,
}

/// What is printed instead of anything else.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Help,
    Version,
}

// ---- one function for each command: validates its settings ----

fn schema(settings: Settings) -> Result<Command, String> {
    no_more(&settings.operands)?;
    let document = match settings.openrpc {
        true => documents::openrpc(),
        false => documents::json_schema(),
    };
    document.map(Command::Print).map_err(|e| e.to_string())
}

fn completions(settings: Settings) -> Result<Command, String> {
    let (shell, rest) = settings
        .operands
        .split_first()
        .ok_or("missing the name of a shell: bash, zsh or fish")?;
    no_more(rest)?;
    let known = SHELLS.into_iter().find(|known| shell == known);
    known.map(Command::PrintCompletions).ok_or_else(|| {
        let shell = quoted(&shell.to_string_lossy());
        format!("no completions for the shell {shell}: expected bash, zsh or fish")
    })
}

fn man_page(settings: Settings) -> Result<Command, String> {
    let Some((name, rest)) = settings.operands.split_first() else {
        return Ok(match settings.man_dir {
            Some(folder) => Command::WriteManPages(folder),
            None => Command::Print(man::page(&COMMANDS[0])),
        });
    };
    no_more(rest)?;
    if settings.man_dir.is_some() {
        return Err("--dir writes every page, and does not take the name of a command".to_owned());
    }
    let found = COMMANDS.iter().find(|c| name == c.name);
    found
        .map(|found| Command::Print(man::page(found)))
        .ok_or_else(|| unknown_command(name))
}

fn help_of(settings: Settings) -> Result<Command, String> {
    let Some((name, rest)) = settings.operands.split_first() else {
        return Ok(Command::Print(help(&COMMANDS[0])));
    };
    no_more(rest)?;
    let found = COMMANDS.iter().find(|c| name == c.name);
    found
        .map(|found| Command::Print(help(found)))
        .ok_or_else(|| unknown_command(name))
}

fn no_more(operands: &[OsString]) -> Result<(), String> {
    match operands.first() {
        None => Ok(()),
        Some(operand) => Err(format!(
            "unexpected argument {}",
            quoted(&operand.to_string_lossy())
        )),
    }
}
