//! The command line: flags to settings, and the text that teaches them.
//!
//! **Thread:** main, before there is any other.
//! **Owns:** the help, and the one table of commands and flags.
//! **Never:** prints or exits; `main.rs` does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value, ValueExt};
use procwire::Config;

use crate::check::Check;
use crate::completions;
use crate::run::{Run, Tty};

/// How long `check` waits for a message.
const PATIENCE: Duration = Duration::from_secs(10);

/// One command of the program.
pub struct Subcommand {
    pub name: &'static str,
    /// Behind the name, on the usage line.
    arguments: &'static str,
    /// One line, for the list of commands.
    pub about: &'static str,
    /// What its help says before the flags.
    teaches: &'static str,
    pub flags: &'static [Flag],
}

/// One flag of a command.
pub struct Flag {
    pub short: Option<char>,
    pub long: &'static str,
    /// What its value is called; empty if it takes none.
    pub value: &'static str,
    pub completes: Completes,
    pub help: &'static str,
}

/// What the value of a flag can be completed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Completes {
    Nothing,
    Files,
    Directories,
}

const fn flag(short: Option<char>, long: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag {
        short,
        long,
        value,
        completes: Completes::Nothing,
        help,
    }
}

const HELP: Flag = flag(Some('h'), "help", "", "this text");
const VERSION: Flag = flag(Some('V'), "version", "", "the version");
const SERVER: Flag = flag(
    Some('s'),
    "server",
    "COMMAND",
    "the shell command that starts the server, such as\n'ssh host procwire' [this program]",
);

/// Every command with every flag: what the help prints and what completions know.
pub const COMMANDS: &[Subcommand] = &[
    Subcommand {
        name: "serve",
        arguments: "[OPTIONS]",
        about: "serve JSON-RPC on stdin and stdout (also without a command)",
        teaches: SERVE,
        flags: &[
            flag(
                None,
                "drain",
                "",
                "at end of input, wait until every process has exited\n(otherwise they are killed)",
            ),
            flag(
                None,
                "default-timeout-ms",
                "N",
                "timeout of a spawn that names none; 'none' for none [10000]",
            ),
            flag(
                None,
                "default-output-cap",
                "N",
                "bytes of output kept of a spawn that names no cap;\n'none' for all [1048576]",
            ),
            flag(
                None,
                "max-message-bytes",
                "N",
                "the longest message that is read [16777216]",
            ),
            flag(
                None,
                "max-pending-stdin",
                "N",
                "bytes of stdin that may wait for a process to read them\n[8388608]",
            ),
            HELP,
            VERSION,
        ],
    },
    Subcommand {
        name: "run",
        arguments: "[OPTIONS] [--] PROGRAM [ARGUMENT...]",
        about: "run one program on a server, as if it had been typed here",
        teaches: RUN,
        flags: &[
            flag(
                Some('t'),
                "tty",
                "",
                "give the program a terminal; --tty=never does\nnot, and --tty=auto does if stdin, stdout and\nstderr are terminals [auto]",
            ),
            flag(
                Some('n'),
                "no-stdin",
                "",
                "read nothing; the program's stdin is /dev/null",
            ),
            Flag {
                completes: Completes::Directories,
                ..flag(
                    Some('C'),
                    "cwd",
                    "DIR",
                    "the program's working directory; absolute with\n--server",
                )
            },
            flag(
                Some('e'),
                "env",
                "NAME=VALUE",
                "set a variable of its environment",
            ),
            flag(
                Some('u'),
                "unset",
                "NAME",
                "take a variable out of its environment",
            ),
            flag(
                None,
                "timeout",
                "DURATION",
                "end it that long after the start, with exit code\n124: 500ms, 10s, 2m, 1h; a bare number is\nseconds, and 0 is no timeout [0]",
            ),
            flag(
                None,
                "grace",
                "DURATION",
                "a timeout sends SIGTERM, and that much later\nSIGKILL to what is left [2s]",
            ),
            flag(
                None,
                "stats",
                "",
                "say on stderr how it ended, how long it took, and\nwhat it used",
            ),
            flag(
                None,
                "json",
                "",
                "print nothing but one line at its end: how it\nended, what it used and all it printed, as in\nprocess/exited",
            ),
            flag(
                None,
                "detach",
                "",
                "start it, print its pid and leave; it has no\ninput, and what it prints is thrown away",
            ),
            flag(
                None,
                "connect-timeout",
                "DURATION",
                "\nhow long the server may take to answer at all\n[10s; 2m where a --server may ask for a password]",
            ),
            SERVER,
            HELP,
        ],
    },
    Subcommand {
        name: "check",
        arguments: "[OPTIONS] FILE...",
        about: "replay transcripts against a server and tell where it differs",
        teaches: CHECK,
        flags: &[
            SERVER,
            flag(
                None,
                "deadline",
                "DURATION",
                "how long each message may take [10s]",
            ),
            Flag {
                completes: Completes::Files,
                ..flag(
                    None,
                    "junit",
                    "FILE",
                    "write a report that continuous integration reads",
                )
            },
            HELP,
        ],
    },
    #[cfg(feature = "schema")]
    Subcommand {
        name: "schema",
        arguments: "[OPTIONS]",
        about: "print the protocol as JSON Schema, or as OpenRPC",
        teaches: SCHEMA,
        flags: &[
            flag(
                None,
                "openrpc",
                "",
                "the OpenRPC document: methods, params, results and errors",
            ),
            HELP,
        ],
    },
    Subcommand {
        name: "completions",
        arguments: "bash|zsh|fish",
        about: "print what makes a shell complete all this",
        teaches: COMPLETIONS,
        flags: &[HELP],
    },
];

const SERVE: &str = "\
procwire: a process server. JSON-RPC lines in, programs and what they print out.

Reads one JSON-RPC request a line from stdin, and writes answers and notifications
to stdout, one a line. If the input begins with a Content-Length header, as editors send it, all
messages have headers instead. Logs go to stderr as RUST_LOG says (RUST_LOG=debug shows all).

Try it:
  procwire run -- echo hi
  printf '%s\\n' '{\"id\":1,\"method\":\"process/spawn\",\"params\":{\"command\":[\"echo\",\"hi\"],\"processHandle\":\"a\"}}' \\
    | procwire --drain

Methods:
  process/spawn        start a program: command, processHandle, cwd, env, tty, size, streamStdin,
                       streamStdoutStderr, outputBytesCap, timeoutMs, detach
  process/writeStdin   feed it: processHandle, deltaBase64, closeStdin
  process/resizePty    resize its terminal: processHandle, size
  process/kill         signal it: processHandle, signal, graceMs
  process/list         what is running
  initialize           optional handshake; tells every limit

When stdin ends, when nobody reads stdout, or at SIGTERM, SIGINT or SIGHUP, every process and
what it has started is killed. Exit code: 0 after the end of input, 128 + n after signal n, 2 for
a wrong command line.
";

const RUN: &str = "\
Runs one program on a server, as if it had been typed here. Its output comes
live and on the right stream, and stdin goes to it. Signals sent to this process
are passed on (INT, TERM, HUP, QUIT, USR1, USR2; TSTP and CONT stop both and let
them go on); a second TERM or HUP ends this process at once. Whatever ends this
process, SIGKILL included, ends the program and all it has started. There is no
timeout and no limit on output unless a flag says so; on the wire, process/spawn
has defaults for both.

Typed at a terminal, the program gets a terminal of its own, with the size,
keys and modes of this one. What is different from a program that was typed:
  - Ctrl-Z stops the program and this process only if the server is on this
    machine. With --server the key goes to the program, which cannot stop by
    itself; 'kill -TSTP' of this process stops both.
  - Its stdout and stderr are one stream. --tty=never keeps them apart.
  - It does not share job control, and $PPID is the server.
In the background the terminal is neither read nor changed.

stdin is read ahead of the program, so in 'while read' loops add -n. A stdin
that is closed or /dev/null is /dev/null for the program; any other is a pipe.

Try it:
  procwire run -- sh -c 'echo out; echo err >&2; exit 3'
  procwire run -- vi notes.txt
  procwire run --server 'ssh build.example procwire' --timeout 10m -- make -j8
  procwire run --json -- uname -r | jq .usage

Exit code: the program's. If a signal killed the program, this process says so
and dies of the same one, which a shell shows as 128 + n. 124 if the time was
up; 127 if there is no such program, 126 if it cannot be executed; 125 if the
server failed or refused, or stdin could not be read; 2 for a wrong command
line.
";

const CHECK: &str = "\
Replays transcripts against a server, each against a fresh one, and tells where it differs. In a
transcript '--> ' is sent and '<-- ' is expected; '#' begins a remark:

  --> {\"id\":1,\"method\":\"process/spawn\",\"params\":{\"command\":[\"echo\",\"hi\"],\"processHandle\":\"a\"}}
  <-- {\"id\":1,\"result\":{\"pid\":\"{...}\"}}

\"{...}\" stands for any value, [..] for any text inside a string. Answers are found by id,
notifications by method, handle and stream; output is joined or cut to the length that is expected.
Of Markdown files (.md), every block in the language 'session' is replayed.

Try it:
  procwire check docs/protocol.md --junit report.xml
  procwire check --server 'my-server --stdio' conversation.txt

Exit code: 0 if nothing differs, 1 if something does, 2 if a file cannot be read or has
no session.
";

#[cfg(feature = "schema")]
const SCHEMA: &str = "\
Prints the protocol for programs: by default one document of JSON Schema, draft 2020-12, with
'ClientMessage' for every line a client sends and 'ServerMessage' for every line it gets. From it
come types for languages that have none here, and validators for tests.

Try it:
  procwire schema | jq '.\"$defs\".SpawnParams.properties'
  procwire schema --openrpc | jq -r '.methods[] | .name + \": \" + .summary'
";

const COMPLETIONS: &str = "\
Prints what makes a shell complete commands and flags:

  bash:  procwire completions bash > ~/.local/share/bash-completion/completions/procwire
  zsh:   procwire completions zsh > \"${fpath[1]}/_procwire\"
  fish:  procwire completions fish > ~/.config/fish/completions/procwire.fish
";

/// The help of a command; that of `serve` is the program's and lists the others.
fn help(subcommand: &Subcommand) -> String {
    let mut text = String::new();
    let program = subcommand.name == "serve";
    if program {
        let (first, rest) = subcommand.teaches.split_once("\n\n").unwrap_or_default();
        text.push_str(&format!(
            "{first}\n\nUsage: procwire [serve] [OPTIONS]\n       procwire COMMAND --help\n\nCommands:\n"
        ));
        for other in COMMANDS {
            text.push_str(&format!("  {:<13}{}\n", other.name, other.about));
        }
        text.push_str(&format!("\n{rest}"));
    } else {
        text.push_str(&format!(
            "Usage: procwire {} {}\n\n{}",
            subcommand.name, subcommand.arguments, subcommand.teaches
        ));
    }
    text.push_str("\nOptions:\n");
    for flag in subcommand.flags {
        let short = flag
            .short
            .map_or("    ".to_owned(), |short| format!("-{short}, "));
        let head = format!("  {short}--{} {}", flag.long, flag.value);
        for (index, line) in flag.help.lines().enumerate() {
            let head = if index == 0 { head.as_str() } else { "" };
            text.push_str(&format!("{head:<31}{line}\n"));
        }
    }
    text
}

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
}

/// Reads the command line without the program's name; an error says what is wrong with it, and where
/// to read more.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut arguments = arguments.into_iter().peekable();
    // The guard's own argument stands before all others.
    let guarded_by = arguments
        .peek()
        .and_then(|first| first.to_str()?.strip_prefix(procwire::guard::GUARDED_BY))
        .map(str::to_owned);
    if guarded_by.is_some() {
        arguments.next();
    }
    let named = arguments
        .peek()
        .and_then(|first| COMMANDS.iter().find(|c| first.to_str() == Some(c.name)));
    if named.is_some() {
        arguments.next();
    }
    let subcommand = named.unwrap_or(&COMMANDS[0]);
    let parser = lexopt::Parser::from_args(arguments);
    let command = match subcommand.name {
        "run" => run(parser),
        "check" => check(parser),
        #[cfg(feature = "schema")]
        "schema" => schema(parser),
        "completions" => completions(parser),
        _ => serve(parser, guarded_by),
    };
    match command {
        Ok(command) => Ok(command.unwrap_or_else(|| Command::Print(help(subcommand)))),
        Err(error) => {
            let of = named.map(|named| format!(" {}", named.name)).unwrap_or_default();
            Err(format!("{error}\nTry 'procwire{of} --help'."))
        }
    }
}

/// `None`: print the help.
type Parsed = Result<Option<Command>, lexopt::Error>;

fn serve(mut parser: lexopt::Parser, guarded_by: Option<String>) -> Parsed {
    let mut config = Config::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("drain") => config.drain = true,
            Long("default-timeout-ms") => config.default_timeout_ms = number_or_none(&mut parser)?,
            Long("default-output-cap") => config.default_output_bytes_cap = number_or_none(&mut parser)?,
            Long("max-message-bytes") => config.max_message_bytes = parser.value()?.parse()?,
            Long("max-pending-stdin") => config.max_pending_stdin_bytes = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            Short('V') | Long("version") => {
                let version = format!("procwire {}\n", env!("CARGO_PKG_VERSION"));
                return Ok(Some(Command::Print(version)));
            }
            argument => return Err(argument.unexpected()),
        }
    }
    Ok(Some(Command::Serve(Serve { config, guarded_by })))
}

fn run(mut parser: lexopt::Parser) -> Parsed {
    let mut run = Run::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('t') => run.tty = Tty::Always,
            Long("tty") => {
                run.tty = match parser.optional_value() {
                    None => Tty::Always,
                    Some(when) => when.parse_with(tty)?,
                }
            }
            Short('n') | Long("no-stdin") => run.no_stdin = true,
            Short('C') | Long("cwd") => run.cwd = Some(parser.value()?.string()?.into()),
            Short('e') | Long("env") => {
                let pair = parser.value()?.string()?;
                let (name, value) = pair
                    .split_once('=')
                    .ok_or_else(|| format!("--env wants NAME=VALUE, got {pair:?}"))?;
                run.env.push((name.to_owned(), value.to_owned()));
            }
            Short('u') | Long("unset") => run.unset.push(parser.value()?.string()?),
            Long("timeout") => run.timeout = Some(parser.value()?.parse_with(duration)?),
            Long("grace") => run.grace = parser.value()?.parse_with(duration)?,
            Long("connect-timeout") => {
                run.connect_timeout = Some(parser.value()?.parse_with(duration)?);
            }
            Long("stats") => run.stats = true,
            Long("detach") => run.detach = true,
            Long("json") => run.json = true,
            Short('s') | Long("server") => run.server = Some(parser.value()?.string()?),
            Short('h') | Long("help") => return Ok(None),
            Value(program) => {
                // From here on everything is the program's.
                run.command.push(program.string()?);
                for argument in parser.raw_args()? {
                    run.command.push(argument.string()?);
                }
            }
            argument => return Err(argument.unexpected()),
        }
    }
    if run.command.is_empty() {
        return Err("run wants a program".into());
    }
    if run.detach && (run.tty == Tty::Always || run.stats || run.timeout.is_some()) {
        return Err("--detach leaves the program alone, so there is no --tty, --timeout or --stats".into());
    }
    Ok(Some(Command::Run(run)))
}

fn check(mut parser: lexopt::Parser) -> Parsed {
    let mut check = Check {
        files: Vec::new(),
        server: None,
        junit: None,
        deadline: PATIENCE,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Short('s') | Long("server") => check.server = Some(parser.value()?.string()?),
            Long("deadline") => check.deadline = parser.value()?.parse_with(duration)?,
            Long("junit") => check.junit = Some(parser.value()?.into()),
            Short('h') | Long("help") => return Ok(None),
            Value(file) => check.files.push(PathBuf::from(file)),
            argument => return Err(argument.unexpected()),
        }
    }
    if check.files.is_empty() {
        return Err("check wants a file".into());
    }
    Ok(Some(Command::Check(check)))
}

#[cfg(feature = "schema")]
fn schema(mut parser: lexopt::Parser) -> Parsed {
    let mut document: fn() -> serde_json::Value = procwire::schema::json_schema;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("openrpc") => document = procwire::schema::openrpc,
            Short('h') | Long("help") => return Ok(None),
            argument => return Err(argument.unexpected()),
        }
    }
    Ok(Some(Command::Print(format!("{:#}\n", document()))))
}

fn completions(mut parser: lexopt::Parser) -> Parsed {
    let mut text = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Value(shell) if text.is_none() => {
                let shell = shell.string()?;
                let script = completions::script(&shell)
                    .ok_or_else(|| format!("no completions for {shell:?}: bash, zsh or fish"))?;
                text = Some(script);
            }
            argument => return Err(argument.unexpected()),
        }
    }
    let text = text.ok_or("completions wants a shell: bash, zsh or fish")?;
    Ok(Some(Command::Print(text)))
}

fn tty(when: &str) -> Result<Tty, String> {
    match when {
        "auto" => Ok(Tty::Auto),
        "always" => Ok(Tty::Always),
        "never" => Ok(Tty::Never),
        _ => Err("--tty is auto, always or never".to_owned()),
    }
}

/// A number with a unit: `500ms`, `10s`, `2m`, `1h`. Without one it is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let milliseconds = match &text[digits.len()..] {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a duration is a number with a unit: 500ms, 10s, 2m or 1h".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a duration begins with a whole number: 500ms, 10s, 2m or 1h".to_owned())?;
    let total = number.checked_mul(milliseconds);
    total
        .map(Duration::from_millis)
        .ok_or_else(|| "that is too long".to_owned())
}

fn number_or_none(parser: &mut lexopt::Parser) -> Result<Option<u64>, lexopt::Error> {
    let value = parser.value()?;
    match value.to_str() {
        Some("none") => Ok(None),
        _ => value.parse().map(Some),
    }
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
                let value = match flag.value {
                    "" => None,
                    "NAME=VALUE" => Some("a=b"),
                    "DURATION" => Some("5s"),
                    _ => Some("7"),
                };
                let short = flag.short.map(|short| format!("-{short}"));
                for spelling in short.into_iter().chain([format!("--{}", flag.long)]) {
                    let mut arguments = vec![subcommand.name, &spelling];
                    arguments.extend(value);
                    match subcommand.name {
                        "completions" => arguments.push("bash"),
                        "serve" | "schema" => {}
                        _ => arguments.push("x"),
                    }
                    if let Err(error) = parsed(&arguments) {
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
        assert!(parsed(&["run"]).unwrap_err().contains("program"));
    }

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("3", 3_000),
            ("2m", 120_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in [
            "",
            "s",
            "-1s",
            "1.5s",
            "10 s",
            "1d",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines_of_help_fit_a_screen() {
        for subcommand in COMMANDS {
            for line in help(subcommand).lines().filter(|l| !l.contains('{')) {
                assert!(line.chars().count() <= 100, "{line}");
            }
        }
    }
}
