//! The arguments of an agent's spawn, as params for the engine.
//!
//! **Thread:** `mcp`.
//! **Owns:** nothing.
//! **Never:** starts anything, or accepts a string that no program can be given.

use std::path::Path;

use super::parameter::quoted;
use super::tools::Arguments;
use crate::wire::protocol::{Limit, PtySize, Redirect, SpawnParams};

/// What a program on a terminal finds as TERM where the server has none.
const DEFAULT_TERM: &str = "xterm-256color";

/// The params of the spawn that a call asks for, but for what depends on the tool. A relative directory is
/// below `base`, and so is a program whose call names none.
pub(super) fn params(arguments: Arguments, base: Option<&Path>) -> Result<SpawnParams, String> {
    let command = match (arguments.command, arguments.argv) {
        (Some(line), None) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
        (None, Some(argv)) => argv,
        (None, None) => return Err("give either command, a line for /bin/sh, or argv".to_owned()),
        (Some(_), Some(_)) => return Err("give either command or argv, not both".to_owned()),
    };
    if !arguments.tty && (arguments.rows.is_some() || arguments.cols.is_some()) {
        return Err("rows and cols are those of a terminal: give tty as well".to_owned());
    }
    for text in &command {
        no_nul("the command", text)?;
    }
    let mut env = arguments.env;
    for (name, value) in &env {
        if name.is_empty() || name.contains('=') {
            return Err(format!("env: {} cannot be the name of a variable", quoted(name)));
        }
        no_nul("env", name)?;
        no_nul("env", value.as_deref().unwrap_or_default())?;
    }
    let cwd = match (arguments.cwd, base) {
        (None, None) => None,
        (wanted, base) => {
            let base = base.unwrap_or(Path::new(""));
            let wanted = base.join(wanted.unwrap_or_default());
            let absolute = std::path::absolute(&wanted).map_err(|e| format!("cwd: {e}"))?;
            let absolute = absolute.to_str().ok_or("the server's directory is not UTF-8")?;
            no_nul("cwd", absolute)?;
            Some(absolute.to_owned())
        }
    };
    if arguments.tty {
        // These two would contradict the size of the terminal.
        for name in ["COLUMNS", "LINES"] {
            env.entry(name.to_owned()).or_insert(None);
        }
        if std::env::var_os("TERM").is_none() {
            env.entry("TERM".to_owned())
                .or_insert_with(|| Some(DEFAULT_TERM.to_owned()));
        }
    }
    if let Some(cwd) = &cwd {
        env.entry("PWD".to_owned()).or_insert_with(|| Some(cwd.clone()));
    }
    let default = PtySize::default();
    Ok(SpawnParams {
        command,
        cwd,
        env: (!env.is_empty()).then_some(env),
        tty: arguments.tty,
        size: arguments.tty.then_some(PtySize {
            rows: arguments.rows.unwrap_or(default.rows),
            cols: arguments.cols.unwrap_or(default.cols),
        }),
        // A terminal is one stream anyway.
        stderr: (arguments.merge_stderr && !arguments.tty).then_some(Redirect::Stdout),
        limits: arguments.limits.map(Box::new),
        stream_stdout_stderr: true,
        output_bytes_cap: Limit::Unlimited,
        timeout_ms: arguments.timeout_ms.map_or(Limit::Unlimited, Limit::Of),
        ..SpawnParams::default()
    })
}

fn no_nul(what: &str, text: &str) -> Result<(), String> {
    match text.contains('\0') {
        true => Err(format!("{what} contains a NUL")),
        false => Ok(()),
    }
}
