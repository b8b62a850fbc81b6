//! What the flags of a command have set, checked as a whole.
//!
//! **Thread:** main, before there is any other.
//! **Owns:** nothing.
//! **Never:** starts what it describes.

use std::path::{Path, PathBuf};

use super::{Command, Serve, Settings, no_more};
use crate::cli::check::Check;
use crate::cli::quote::quoted;
use crate::cli::run::Tty;

pub(super) fn serve(settings: Settings) -> Result<Command, String> {
    no_more(&settings.operands)?;
    Ok(Command::Serve(Serve {
        config: settings.config,
        guarded_by: None,
        named: false,
    }))
}

pub(super) fn run(settings: Settings) -> Result<Command, String> {
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
    Ok(Command::Run(Box::new(run)))
}

pub(super) fn tty(when: &str) -> Result<Tty, String> {
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

pub(super) fn check(settings: Settings) -> Result<Command, String> {
    if settings.operands.is_empty() {
        return Err("missing FILE: procwire check [OPTIONS] FILE...".to_owned());
    }
    Ok(Command::Check(Check {
        files: settings.operands.into_iter().map(PathBuf::from).collect(),
        server: settings.server,
        ..settings.check
    }))
}

pub(super) fn mcp(settings: Settings) -> Result<Command, String> {
    no_more(&settings.operands)?;
    if let Some(cwd) = &settings.mcp.cwd {
        check_directory(cwd, false).map_err(|e| format!("--cwd {}: {e}", quoted(&cwd.to_string_lossy())))?;
    }
    Ok(Command::Mcp(settings.mcp))
}
