//! Words to settings, by the table in `args.rs`.
//!
//! **Thread:** main, before there is any other.
//! **Owns:** nothing.
//! **Never:** knows a flag by itself.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use lexopt::Arg;

use super::help::help;
use super::values::nearest;
use super::{Asked, COMMANDS, Command, Completes, Serve, Set, Settings, Subcommand, Takes};
use crate::cli::mcp::Mcp;
use crate::cli::quote::{escaped_line, quoted};

/// The value of a flag as it was given; empty for a flag without one.
#[derive(Debug)]
pub(super) struct Given(pub(super) Option<OsString>);

impl Given {
    pub(super) fn text(&self) -> Result<&str, String> {
        let value = self.0.as_deref().unwrap_or_default();
        value.to_str().ok_or_else(|| "not valid UTF-8".to_owned())
    }

    pub(super) fn not_empty_text(&self) -> Result<String, String> {
        match self.text()? {
            "" => Err("must not be empty".to_owned()),
            text => Ok(text.to_owned()),
        }
    }

    pub(super) fn path(&self) -> Result<PathBuf, String> {
        match self.0.as_deref().unwrap_or_default() {
            path if path.is_empty() => Err("must not be empty".to_owned()),
            path => Ok(path.into()),
        }
    }

    pub(super) fn or_none<T>(
        &self,
        parse: impl FnOnce(&Given) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
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
                Command::Mcp(mcp) => Command::Mcp(Mcp { guarded_by, ..mcp }),
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

// ---- unknown commands and flags, and suggestions ----

pub(super) fn unknown_command(word: &OsStr) -> String {
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
