//! A program that stays when this process ends.
//!
//! **Thread:** main.
//! **Owns:** the script that starts such a program.
//! **Never:** waits for the program's end, unless it could not be started.

use std::io::{self, Write};

use super::life::{self, Ending};
use super::{CANNOT_EXECUTE, FAILED, NOT_FOUND, Run};
use crate::cli::terminal::RetryIo;
use crate::client::{self, Client, Event};

/// Starts the program with its output thrown away, and says that it is about to. The connection has
/// only pipes to give, which would end with it. So the program is looked for before that, in a shell
/// of its own, which changes no variable.
pub(super) const START_AND_STAY: &str = r#"(
    IFS=: name=$0 code=127
    set -f
    case $name in
    */*) set -- "$name" ;;
    *) set --; for directory in $PATH; do set -- "$@" "${directory:-.}/$name"; done ;;
    esac
    for file; do
        if [ -f "$file" ] && [ -x "$file" ]; then exit 0; fi
        if [ -e "$file" ]; then code=126; fi
    done
    exit $code
) || exit
echo
exec "$0" "$@" >/dev/null 2>&1"#;

/// Starts the program so that it outlives this one, and prints its pid.
pub(super) fn detach(
    run: &Run,
    client: &Client,
    spawn: client::Command,
) -> Result<Ending, Box<dyn std::error::Error>> {
    let mut process = client.spawn(spawn)?;
    let started = matches!(process.events().next().transpose()?, Some(Event::Stdout(_)));
    if !started {
        let status = process.wait()?;
        let program = run.command.first().map_or("", String::as_str);
        let code = status.details().exit_code;
        let (why, code) = match code {
            NOT_FOUND => ("there is no such program".to_owned(), NOT_FOUND),
            CANNOT_EXECUTE => ("it cannot be executed".to_owned(), CANNOT_EXECUTE),
            code => (format!("it was not started: exit code {code}"), FAILED),
        };
        life::say(&format!("{program}: {why}"));
        return Ok(Ending::Code(code));
    }
    let pid = process.id().ok_or("the server did not report a pid")?;
    let line = if run.json {
        format!("{{\"pid\":{pid}}}")
    } else {
        pid.to_string()
    };
    writeln!(RetryIo(io::stdout()), "{line}").map_err(|e| format!("stdout: {e}"))?;
    Ok(Ending::Code(0))
}
