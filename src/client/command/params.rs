//! What is sent to start a command.
//!
//! **Thread:** whichever calls; pure functions.
//! **Owns:** nothing.
//! **Never:** sends; and it refuses what is not text, or has a NUL in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Command;
use crate::client::Error;
use crate::client::error::{quoted, text};
use crate::client::stdio::Stdio;
use crate::wire::protocol::{Limit, OutputKeep, Redirect, ResourceLimits, SpawnParams};

impl Command {
    /// The params of its spawn. `directory` is where it starts if the command names none; `None`: in
    /// the server's.
    pub(in crate::client) fn params(
        &self,
        handle: &str,
        directory: Option<&Path>,
    ) -> Result<SpawnParams, Error> {
        if self.program.is_empty() {
            return Err(Error::Invalid("the program is empty".to_owned()));
        }
        let mut command = vec![text("the program", &self.program)?];
        for (number, argument) in self.arguments.iter().enumerate() {
            command.push(text(format_args!("argument {}", number + 1), argument)?);
        }
        let mut env = BTreeMap::new();
        for (name, value) in &self.environment {
            let name = text("the name of a variable", name)?;
            let value = match value {
                Some(value) => Some(text(
                    format_args!("the variable {}", quoted(name.as_bytes())),
                    value,
                )?),
                None => None,
            };
            env.insert(name, value);
        }
        let directory = match (&self.directory, directory) {
            (Some(own), _) => {
                let own = text("the directory", own.as_os_str())?;
                env.entry("PWD".to_owned()).or_insert_with(|| Some(own.clone()));
                Some(own)
            }
            (None, Some(other)) => Some(text("the directory", other.as_os_str())?),
            (None, None) => None,
        };
        if self.size.is_some() {
            for name in ["COLUMNS", "LINES"] {
                env.entry(name.to_owned()).or_insert(None);
            }
        }
        let tty = self.size.is_some();
        let streamed = self.stdin.is_pipe();
        let stderr = match self.stderr_merged {
            true => Some(Redirect::Stdout),
            false => self.stderr.redirect()?,
        };
        let limited = self.limits != ResourceLimits::default();
        Ok(SpawnParams {
            command,
            process_handle: handle.to_owned(),
            cwd: directory,
            env: (!env.is_empty()).then_some(env),
            inherit_env: self.inherited.clone(),
            tty,
            size: self.size,
            terminal_modes: self.modes.clone(),
            stream_stdin: streamed,
            stream_stdout_stderr: true,
            // `/dev/null` is what it is anyway, and may be asked for with a terminal as well.
            stdin: self.stdin.redirect()?.filter(|stdin| *stdin != Redirect::Null),
            stdout: self.stdout.redirect()?,
            stderr,
            output_bytes_cap: match (self.keep, self.output_cap) {
                // It says itself how much.
                (Some(OutputKeep::HeadTail { .. }), Limit::Unlimited) => Limit::Default,
                (_, cap) => cap,
            },
            output_keep: self.keep,
            timeout_ms: self.timeout,
            timeout_grace_ms: self.timeout_grace.map(milliseconds),
            limits: limited.then(|| Box::new(self.limits.clone())),
            detach: self.detach,
        })
    }

    /// Whether its stdin is not a file.
    pub(in crate::client) fn takes_input(&self) -> bool {
        self.stdin.is_pipe() || self.stdin == Stdio::null()
    }

    pub(in crate::client) fn has_tty(&self) -> bool {
        self.size.is_some()
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
