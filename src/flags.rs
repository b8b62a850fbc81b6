//! The command line: flags to settings, and the text that teaches them.
//!
//! **Thread:** main, before there is any other.
//! **Owns:** the help.
//! **Never:** prints or exits; `main.rs` does.

use lexopt::prelude::{Long, Short, Value, ValueExt};
use procwire::Config;

const HELP: &str = "\
procwire: a process server. JSON-RPC lines in, programs and what they print out.

Usage: procwire [serve] [OPTIONS]

Reads one JSON-RPC request a line from stdin, and writes answers and notifications
to stdout, one a line. If the input begins with a Content-Length header, as editors send it, all
messages have headers instead. Logs go to stderr as RUST_LOG says (RUST_LOG=debug shows all).

Try it:
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

Options:
      --drain                    at end of input, wait until every process has exited
                                 (otherwise they are killed)
      --default-timeout-ms N     timeout of a spawn that names none; 'none' for none [10000]
      --default-output-cap N     bytes of output kept of a spawn that names no cap; 'none' for all [1048576]
      --max-message-bytes N      the longest message that is read [16777216]
      --max-pending-stdin N      bytes of stdin that may wait for a process to read them [8388608]
  -h, --help                     this text
  -V, --version                  the version

When stdin ends, when nobody reads stdout, or at SIGTERM, SIGINT or SIGHUP, every process and
what it has started is killed. Exit code: 0 after the end of input, 128 + n after signal n, 2 for
a wrong command line.
";

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    Serve(Serve),
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

/// Reads the command line; an error says what is wrong with it.
pub fn parse(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut config = Config::default();
    let mut guarded_by = None;
    let mut first = true;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("drain") => config.drain = true,
            Long("default-timeout-ms") => config.default_timeout_ms = number_or_none(&mut parser)?,
            Long("default-output-cap") => config.default_output_bytes_cap = number_or_none(&mut parser)?,
            Long("max-message-bytes") => config.max_message_bytes = parser.value()?.parse()?,
            Long("max-pending-stdin") => config.max_pending_stdin_bytes = parser.value()?.parse()?,
            Long("guarded-by") => guarded_by = Some(parser.value()?.string()?),
            Short('h') | Long("help") => return Ok(Command::Print(HELP.to_owned())),
            Short('V') | Long("version") => {
                return Ok(Command::Print(format!(
                    "procwire {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Value(word) if first && word == "serve" => {}
            argument => return Err(argument.unexpected()),
        }
        // The guard's own argument may stand before the command.
        first &= guarded_by.is_some();
    }
    Ok(Command::Serve(Serve { config, guarded_by }))
}

fn number_or_none(parser: &mut lexopt::Parser) -> Result<Option<u64>, lexopt::Error> {
    let value = parser.value()?;
    match value.to_str() {
        Some("none") => Ok(None),
        _ => value.parse().map(Some),
    }
}
