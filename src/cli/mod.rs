//! The program `procwire`: its commands, logger, guard and exit codes.
//!
//! **Thread:** main.
//! **Owns:** everything that changes the whole process, which the rest of the library does not do.
//! **Never:** used by the layers below it.

mod args;
mod check;
mod completions;
mod documents;
pub(crate) mod guard;
mod mcp;
mod quote;
mod run;
mod serve;
mod terminal;
pub mod transcript;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use signal_hook::consts::SIGPIPE;

use self::args::Command;
use crate::sys;

pub use self::guard::Allocator;

/// A time as seconds and their thousandths. In whole numbers: to format a fraction takes 10 KB of code.
pub(crate) fn seconds(time: Duration) -> String {
    let milliseconds = time.saturating_add(Duration::from_micros(500)).as_millis();
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// Runs the `procwire` program with the arguments of this process, and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    guard::keep_reserve();
    start_logging();
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == terminal::WATCH_TERMINAL)
    {
        return exit_code(terminal::watch());
    }
    match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Serve(serve)) => {
            let hint = (!serve.named).then_some("JSON-RPC lines on stdin; try 'procwire --help'");
            guarded(serve.guarded_by.is_some(), serve.config.drain, hint, || {
                serve::serve_stdio(serve)
            })
        }
        Ok(Command::Mcp(mcp)) => {
            let hint = "an agent's messages on stdin; try 'procwire mcp --help'";
            guarded(mcp.guarded_by.is_some(), false, Some(hint), || {
                mcp::serve_stdio(mcp)
            })
        }
        Ok(Command::Run(run)) => exit_code(run::run(&run)),
        Ok(Command::Check(check)) => exit(check::check(&check), 2),
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::PrintCompletions(shell)) => print(&completions::script(shell)),
        Ok(Command::WriteManPages(folder)) => {
            let written = args::man::write_pages(&folder).map(|()| 0);
            let failed = |e| format!("--dir {}: {e}", quote::quoted(&folder.to_string_lossy())).into();
            exit(written.map_err(failed), 1)
        }
        Err(error) => exit(Err(error.into()), 2),
    }
}

fn print(text: &str) -> ExitCode {
    let printed = io::stdout().write_all(text.as_bytes());
    exit(printed.map(|()| 0).map_err(Into::into), 1)
}

/// Serves below a guard, which this process becomes; with one, or where there can be none, serves here.
/// `hint` says what is waited for, where a person may have typed this.
fn guarded(
    has_guard: bool,
    drain: bool,
    hint: Option<&str>,
    serve: impl FnOnce() -> Result<i32, Box<dyn std::error::Error>>,
) -> ExitCode {
    if let Err(error) = sys::can_close() {
        return exit(Err(error.into()), 1);
    }
    guard::survive_file_size_limit();
    if !has_guard {
        if let (Some(hint), true, true) = (hint, io::stdin().is_terminal(), io::stderr().is_terminal()) {
            let _ = writeln!(io::stderr(), "procwire: waiting for {hint}");
        }
        match guard::run(drain) {
            Ok(code) => return exit_code(code),
            Err(e) => log::warn!("serving without a guard, so a SIGKILL would leave processes: {e}"),
        }
    }
    exit(serve(), 1)
}

/// The exit code, or `failure` after printing the error. If stdout is closed, as in
/// `procwire --help | head -1`, this process dies of SIGPIPE without a message, as others do.
fn exit(outcome: Result<i32, Box<dyn std::error::Error>>, failure: i32) -> ExitCode {
    exit_code(outcome.unwrap_or_else(|error| {
        if is_broken_pipe(&*error) {
            let _ = signal_hook::low_level::emulate_default_handler(SIGPIPE);
            return 128 + SIGPIPE;
        }
        // If stderr is closed too, only the exit code is left.
        let _ = writeln!(
            io::stderr(),
            "procwire: {}",
            quote::escaped(&format!("{error}{}", reasons(&*error)))
        );
        failure
    }))
}

/// The causes of an error, the nearest first.
fn reasons(error: &dyn std::error::Error) -> String {
    let reasons = std::iter::successors(error.source(), |error| error.source());
    reasons.map(|reason| format!(": {reason}")).collect()
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// What is written of one log message.
const LONGEST_LOG: usize = 4_000;

/// Logs go to stderr, as `RUST_LOG` says, and are dropped where they are not read.
fn start_logging() {
    struct StderrIfRead;
    impl Write for StderrIfRead {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Room means one page of a pipe; more than that could wait after all.
            if guard::stderr_has_room() {
                let cut = &bytes[..bytes.len().min(LONGEST_LOG)];
                let text = String::from_utf8_lossy(cut);
                let text = quote::escaped(&text);
                io::stderr().write_all(&text.as_bytes()[..text.len().min(LONGEST_LOG)])?;
                if bytes.len().max(text.len()) > LONGEST_LOG {
                    io::stderr().write_all(b"\n")?;
                }
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .target(env_logger::Target::Pipe(Box::new(StderrIfRead)))
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_to_thousandths() {
        let seconds = |microseconds| seconds(Duration::from_micros(microseconds));
        assert_eq!(seconds(0), "0.000");
        assert_eq!(seconds(1_499), "0.001");
        assert_eq!(seconds(1_500), "0.002");
        assert_eq!(seconds(61_999_500), "62.000");
        assert_eq!(super::seconds(Duration::MAX), format!("{}.999", u64::MAX));
    }
}
