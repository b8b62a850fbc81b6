//! The command line: flags to settings, and the text that teaches them.
//!
//! **Thread:** main, before there is any other.
//! **Owns:** the help, and the one table of commands and flags: parsing, help and completions follow
//! from it.
//! **Never:** prints or exits; `cli/mod.rs` does.

mod help;
mod values;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::Config;
use lexopt::Arg;

use crate::cli::check::Check;
use crate::cli::completions;
use crate::cli::quote::{escaped_line, quoted};
use crate::cli::run::{Run, Tty};
#[cfg(feature = "schema")]
use help::SCHEMA;
use help::{CHECK, COMPLETIONS, RUN, SERVE, help};
use values::{duration, milliseconds, nearest, size};

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
                    s.config.default_timeout_ms = timeout.map(milliseconds);
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
                    s.config.default_output_bytes_cap = given.or_none(|given| size(given.text()?))?;
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
            flag(
                None,
                "timeout",
                Takes::Value("DURATION", Completes::Nothing),
                "end the program after DURATION and exit with 124: 500ms, 1.5s, 2m, 1h30m or 1d; \
                 a bare number is seconds, and 0 is no timeout [default: 0]",
                |s, given| duration(given.text()?, "s").map(|timeout| s.run.timeout = Some(timeout)),
            ),
            flag(
                None,
                "grace",
                Takes::Value("DURATION", Completes::Nothing),
                "a timeout sends SIGTERM, and after DURATION SIGKILL to what is left [default: 2s]",
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
                "record what is shown, with its times, as an asciicast, which 'asciinema play' shows again; \
                 what is typed is not in it unless it is echoed",
                |s, given| given.path().map(|path| s.run.record = Some(path)),
            ),
            switch(
                None,
                "detach",
                "start the program, print its pid and leave; it has no input, and its output is discarded",
                |s| s.run.detach = true,
            ),
            flag(
                None,
                "connect-timeout",
                Takes::Value("DURATION", Completes::Nothing),
                "how long the server may take to answer at all; 0 is no limit [default: 10s; 2m where a \
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
                "write what the server sent into the files, in place of what they expect; \
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
                "write a JUnit report, as continuous integration reads it",
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
    #[cfg(feature = "schema")]
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
        operands: Completes::OneOf(&completions::SHELLS),
        about: "print a shell completion script",
        teaches: COMPLETIONS,
        flags: &[HELP, VERSION],
        finish: completions,
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
    Run(Run),
    Check(Check),
    /// Print this and succeed.
    Print(String),
}

/// How to serve.
#[derive(Debug)]
pub struct Serve {
    pub config: Config,
    /// Who guards us; only a guard sets it.
    pub guarded_by: Option<String>,
    /// Whether `serve` was asked for by name, and not by leaving out the command.
    pub named: bool,
}

/// What the flags and arguments have set so far, of whichever command.
#[derive(Debug, Default)]
struct Settings {
    config: Config,
    run: Run,
    check: Check,
    server: Option<String>,
    #[cfg(feature = "schema")]
    openrpc: bool,
    asked: Option<Asked>,
    operands: Vec<OsString>,
}

/// What is printed instead of anything else.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Help,
    Version,
}

/// The value of a flag as it was given; empty for a flag without one.
#[derive(Debug)]
struct Given(Option<OsString>);

impl Given {
    fn text(&self) -> Result<&str, String> {
        let value = self.0.as_deref().unwrap_or_default();
        value.to_str().ok_or_else(|| "not valid UTF-8".to_owned())
    }

    fn not_empty_text(&self) -> Result<String, String> {
        match self.text()? {
            "" => Err("must not be empty".to_owned()),
            text => Ok(text.to_owned()),
        }
    }

    fn path(&self) -> Result<PathBuf, String> {
        match self.0.as_deref().unwrap_or_default() {
            path if path.is_empty() => Err("must not be empty".to_owned()),
            path => Ok(path.into()),
        }
    }

    fn or_none<T>(&self, parse: impl FnOnce(&Given) -> Result<T, String>) -> Result<Option<T>, String> {
        match self.text()? {
            "none" => Ok(None),
            _ => parse(self).map(Some).map_err(|e| format!("{e}, or 'none'")),
        }
    }
}

/// Reads the command line without the program's name; an error says what is wrong with it, and where
/// to read more.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut arguments = arguments.into_iter().peekable();
    // The guard's own argument stands before all others.
    let guarded_by = arguments
        .peek()
        .and_then(|first| first.to_str()?.strip_prefix(crate::cli::guard::GUARDED_BY))
        .map(str::to_owned);
    if guarded_by.is_some() {
        arguments.next();
    }
    let first = arguments.peek().cloned().unwrap_or_default();
    let named = COMMANDS.iter().find(|c| first == c.name);
    if named.is_some() {
        arguments.next();
    } else if !first.is_empty() && !first.as_encoded_bytes().starts_with(b"-") {
        return Err(format!("{}\nTry 'procwire --help'.", unknown_command(&first)));
    }
    let subcommand = named.unwrap_or(&COMMANDS[0]);
    let command = settings(subcommand, lexopt::Parser::from_args(arguments)).and_then(|settings| {
        Ok(match settings.asked {
            Some(Asked::Help) => Command::Print(help(subcommand)),
            Some(Asked::Version) => Command::Print(format!("procwire {}\n", env!("CARGO_PKG_VERSION"))),
            None => match (subcommand.finish)(settings)? {
                Command::Serve(serve) => Command::Serve(Serve {
                    guarded_by,
                    named: named.is_some(),
                    ..serve
                }),
                command => command,
            },
        })
    });
    command.map_err(|error| {
        let of = named.map(|named| format!(" {}", named.name)).unwrap_or_default();
        format!("{error}\nTry 'procwire{of} --help'.")
    })
}

/// Goes through the arguments of a command, up to a flag that asks for its help or the version.
fn settings(subcommand: &Subcommand, mut parser: lexopt::Parser) -> Result<Settings, String> {
    let mut settings = Settings::default();
    // The argument as typed, for errors; several short flags are one word.
    let mut word = None;
    while settings.asked.is_none() {
        if let Some(next) = parser.try_raw_args() {
            word = next.peek().map(OsStr::to_owned);
        }
        let Some(argument) = parser.next().map_err(|e| not_a_value(&e))? else {
            break;
        };
        let (found, spelling, long) = match argument {
            Arg::Value(operand) => {
                settings.operands.push(operand);
                if subcommand.operands == Completes::CommandLine {
                    // From here on everything is the program's.
                    settings
                        .operands
                        .extend(parser.raw_args().map_err(|e| e.to_string())?);
                }
                continue;
            }
            Arg::Long(name) => {
                let found = subcommand.flags.iter().find(|f| f.long == name);
                (found, format!("--{name}"), true)
            }
            Arg::Short(name) => {
                let found = subcommand.flags.iter().find(|f| f.short == Some(name));
                (found, format!("-{name}"), false)
            }
        };
        let Some(flag) = found else {
            return Err(unknown_flag(subcommand, &spelling, word.as_deref()));
        };
        let value = match flag.takes {
            Takes::Nothing => None,
            Takes::Value(name, _) => {
                let value = parser.value();
                Some(value.map_err(|_| format!("{spelling} needs a value: {name}"))?)
            }
            Takes::Optional(..) if long => parser.optional_value(),
            Takes::Optional(..) => None,
        };
        let shown = value
            .as_ref()
            .map(|v| format!(" {}", quoted(&v.to_string_lossy())));
        match flag.set {
            Set::Switch(set) => set(&mut settings),
            Set::Value(set) => set(&mut settings, Given(value))
                .map_err(|error| format!("{spelling}{}: {error}", shown.unwrap_or_default()))?,
        }
    }
    Ok(settings)
}

/// The one thing the parser finds by itself: a value of a flag that takes none.
fn not_a_value(error: &lexopt::Error) -> String {
    match error {
        lexopt::Error::UnexpectedValue { option, value } => {
            format!(
                "{option} does not take a value, got {}",
                quoted(&value.to_string_lossy())
            )
        }
        error => escaped_line(&error.to_string()).into_owned(),
    }
}

// ---- one function for each command: validates its settings ----

fn serve(settings: Settings) -> Result<Command, String> {
    no_more(&settings.operands)?;
    Ok(Command::Serve(Serve {
        config: settings.config,
        guarded_by: None,
        named: false,
    }))
}

fn run(settings: Settings) -> Result<Command, String> {
    let mut run = settings.run;
    run.server = settings.server;
    for operand in settings.operands {
        run.command.push(operand.into_string().map_err(|operand| {
            format!(
                "the program's argument {} is not valid UTF-8",
                quoted(&operand.to_string_lossy())
            )
        })?);
    }
    match run.command.first() {
        None => return Err("missing PROGRAM: procwire run [OPTIONS] [--] PROGRAM [ARGUMENT...]".to_owned()),
        Some(program) if program.is_empty() => return Err("PROGRAM must not be empty".to_owned()),
        Some(_) => {}
    }
    if run.detach && (run.tty == Tty::Always || run.stats || run.timeout.is_some()) {
        return Err(
            "--detach leaves the program alone and cannot be combined with --tty, --timeout or --stats"
                .to_owned(),
        );
    }
    if run.record.is_some() && (run.json || run.detach) {
        return Err("--record records what is shown, and --json and --detach show nothing".to_owned());
    }
    if let Some(cwd) = &run.cwd {
        check_directory(cwd, run.server.is_some())
            .map_err(|e| format!("--cwd {}: {e}", quoted(&cwd.to_string_lossy())))?;
    }
    Ok(Command::Run(run))
}

fn tty(when: &str) -> Result<Tty, String> {
    match when {
        "auto" => Ok(Tty::Auto),
        "always" => Ok(Tty::Always),
        "never" => Ok(Tty::Never),
        _ => Err("expected auto, always or never".to_owned()),
    }
}

/// Another server's directories cannot be seen from here.
fn check_directory(directory: &Path, elsewhere: bool) -> Result<(), String> {
    if elsewhere {
        return match directory.is_absolute() {
            true => Ok(()),
            false => Err("must be absolute with --server".to_owned()),
        };
    }
    match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err("not a directory".to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err("the directory does not exist".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn check(settings: Settings) -> Result<Command, String> {
    if settings.operands.is_empty() {
        return Err("missing FILE: procwire check [OPTIONS] FILE...".to_owned());
    }
    Ok(Command::Check(Check {
        files: settings.operands.into_iter().map(PathBuf::from).collect(),
        server: settings.server,
        ..settings.check
    }))
}

#[cfg(feature = "schema")]
fn schema(settings: Settings) -> Result<Command, String> {
    no_more(&settings.operands)?;
    let document = match settings.openrpc {
        true => crate::wire::schema::openrpc(),
        false => crate::wire::schema::json_schema(),
    };
    Ok(Command::Print(format!("{document:#}\n")))
}

fn completions(settings: Settings) -> Result<Command, String> {
    let (shell, rest) = settings
        .operands
        .split_first()
        .ok_or("missing the name of a shell: bash, zsh or fish")?;
    no_more(rest)?;
    let script = shell.to_str().and_then(completions::script);
    script.map(Command::Print).ok_or_else(|| {
        let shell = quoted(&shell.to_string_lossy());
        format!("no completions for the shell {shell}: expected bash, zsh or fish")
    })
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

// ---- unknown commands and flags, and suggestions ----

fn unknown_command(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let meant = nearest(&word, COMMANDS.iter().map(|c| c.name));
    let hint = meant.map(|meant| format!("; did you mean '{meant}'?"));
    format!("unknown command {}{}", quoted(&word), hint.unwrap_or_default())
}

/// `word` is the argument as typed.
fn unknown_flag(subcommand: &Subcommand, spelling: &str, word: Option<&OsStr>) -> String {
    let name = spelling.trim_start_matches('-');
    let long = |subcommand: &Subcommand| subcommand.flags.iter().map(|f| f.long);
    if let Some(meant) = nearest(name, long(subcommand)) {
        return format!("unknown flag {}; did you mean '--{meant}'?", quoted(spelling));
    }
    // `-timeout` means `--timeout`.
    let typed = word.and_then(OsStr::to_str).unwrap_or_default();
    let head = typed
        .split('=')
        .next()
        .unwrap_or_default()
        .trim_start_matches('-');
    if let Some(meant) = nearest(head, long(subcommand)) {
        return format!("unknown flag {}; did you mean '--{meant}'?", quoted(typed));
    }
    let other = COMMANDS.iter().find(|c| long(c).any(|long| long == name));
    let hint = other.map(|other| format!("; 'procwire {}' has it", other.name));
    format!("unknown flag {}{}", quoted(spelling), hint.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, String> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn every_flag_of_the_table_is_understood_and_no_other() {
        for subcommand in COMMANDS {
            for flag in subcommand.flags {
                let values: &[&str] = match flag.takes {
                    Takes::Nothing => &[],
                    Takes::Optional(_, Completes::OneOf(values)) => &values[..1],
                    Takes::Value("NAME=VALUE", _) => &["a=b"],
                    Takes::Value("DIR", _) => &["/"],
                    Takes::Value(..) | Takes::Optional(..) => &["7"],
                };
                let joined = values.first().map(|value| format!("--{}={value}", flag.long));
                let short = flag.short.map(|short| format!("-{short}"));
                let spelled = short.into_iter().chain([format!("--{}", flag.long)]);
                let apart = spelled.map(|spelling| match flag.takes {
                    Takes::Value(..) => vec![spelling, values[0].to_owned()],
                    _ => vec![spelling],
                });
                for mut arguments in apart.chain(joined.map(|joined| vec![joined])) {
                    arguments.insert(0, subcommand.name.to_owned());
                    match subcommand.name {
                        "completions" => arguments.push("bash".to_owned()),
                        "run" | "check" => arguments.push("x".to_owned()),
                        _ => {}
                    }
                    if let Err(error) = parse(arguments.iter().map(OsString::from)) {
                        panic!("{arguments:?}: {error}");
                    }
                }
            }
            let error = parsed(&[subcommand.name, "--no-such-flag"]).unwrap_err();
            assert!(error.contains("--no-such-flag"), "{error}");
        }
        let Ok(Command::Serve(serve)) = parsed(&["--guarded-by=1,2", "serve", "--drain"]) else {
            panic!("what a guard starts is a server");
        };
        assert_eq!(
            (serve.guarded_by.as_deref(), serve.config.drain),
            (Some("1,2"), true)
        );
    }

    #[test]
    fn what_follows_the_program_is_its_own() {
        for separator in [&["--"][..], &[]] {
            let arguments = [&["run", "--json"], separator, &["ls", "--json", "--", "-t"]].concat();
            let Ok(Command::Run(run)) = parsed(&arguments) else {
                panic!("{arguments:?} is understood");
            };
            assert_eq!(run.command, ["ls", "--json", "--", "-t"]);
            assert!(run.json && run.tty == Tty::Auto);
        }
        assert!(parsed(&["run"]).unwrap_err().contains("PROGRAM"));
    }

    #[test]
    fn what_may_have_been_meant_is_suggested() {
        for (arguments, expected) in [
            (&["rn"][..], "unknown command 'rn'; did you mean 'run'?"),
            (&["chekc", "x"], "unknown command 'chekc'; did you mean 'check'?"),
            (&["comp"], "did you mean 'completions'?"),
            (&["help", "serv"], "did you mean 'serve'?"),
            (&["fly"], "unknown command 'fly'\n"),
            (
                &["run", "--tiemout", "5s", "x"],
                "unknown flag '--tiemout'; did you mean '--timeout'?",
            ),
            (&["run", "--time=5", "x"], "did you mean '--timeout'?"),
            (&["run", "-timeout", "5s", "x"], "did you mean '--timeout'?"),
            (
                &["run", "-json", "x"],
                "unknown flag '-json'; did you mean '--json'?",
            ),
            (&["--cwd", "/"], "unknown flag '--cwd'; 'procwire run' has it"),
            (&["run", "-x", "x"], "unknown flag '-x'\n"),
            (
                &["run", "--quite-another", "x"],
                "unknown flag '--quite-another'\n",
            ),
        ] {
            let error = parsed(arguments).unwrap_err();
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn errors_name_the_flag_its_value_and_what_was_expected() {
        for (arguments, expected) in [
            (
                &["run", "-e", "=x", "true"][..],
                "-e '=x': expected NAME=VALUE, but NAME is empty",
            ),
            (&["run", "--env", "A", "true"], "--env 'A': expected NAME=VALUE"),
            (
                &["run", "-u", "A=B", "true"],
                "-u 'A=B': expected the name of a variable",
            ),
            (&["run", "-u", "", "true"], "-u '': must not be empty"),
            (
                &["run", "--timeout", "soon", "true"],
                "--timeout 'soon': expected a duration: 500ms",
            ),
            (&["run", "--timeout"], "--timeout needs a value: DURATION"),
            (
                &["run", "-C", "/no/such", "true"],
                "--cwd '/no/such': the directory does not exist",
            ),
            (
                &["run", "-C", "/dev/null", "true"],
                "--cwd '/dev/null': not a directory",
            ),
            (&["run", "-C", "", "true"], "-C '': must not be empty"),
            (
                &["run", "-C", "a", "-s", "x", "true"],
                "--cwd 'a': must be absolute with --server",
            ),
            (&["run", "--server", "", "true"], "--server '': must not be empty"),
            (
                &["run", "--json=1", "true"],
                "--json does not take a value, got '1'",
            ),
            (&["run", ""], "PROGRAM must not be empty"),
            (&["check"], "missing FILE"),
            (
                &["check", "--deadline", "0", "x"],
                "--deadline '0': must be longer than 0",
            ),
            (
                &["--max-message-bytes", "x"],
                "--max-message-bytes 'x': expected a number of bytes",
            ),
            (
                &["--max-message-bytes", "0"],
                "--max-message-bytes '0': must be at least 1",
            ),
            (
                &["--default-timeout-ms", "x"],
                "--default-timeout-ms 'x': expected a duration",
            ),
            (
                &["--default-output-cap", "-1"],
                "--default-output-cap '-1': expected a number of bytes: 4096, 64K, 16M or 1G, or 'none'",
            ),
            (&["serve", "x"], "unexpected argument 'x'"),
            (&["completions", "csh"], "'csh': expected bash, zsh or fish"),
            (&["run", "--x\u{1b}[2J"], "'--x\\u{1b}[2J'"),
        ] {
            let error = parsed(arguments).unwrap_err();
            assert!(error.contains(expected), "{arguments:?}: {error}");
            assert!(error.contains("\nTry 'procwire"), "{error}");
        }
    }

    #[test]
    fn lines_of_help_fit_80_columns() {
        for subcommand in COMMANDS {
            for line in help(subcommand).lines() {
                assert!(line.chars().count() <= help::WIDTH, "{line}");
            }
            let asked = parsed(&["help", subcommand.name]);
            assert!(matches!(asked, Ok(Command::Print(text)) if text == help(subcommand)));
        }
    }
}
