//! What a program's streams are if they are not pipes: files, `/dev/null`, one another.
//!
//! **Thread:** the process thread, before its program starts.
//! **Owns:** nothing; what it opens goes to the program.
//! **Never:** keeps a descriptor of what the client gets nothing of.

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::process::spawn::{Failure, SpawnResources, c_string};
use crate::sys::{self, Birth, Purpose};
use crate::wire::protocol::{Redirect, SpawnParams, Stage, StreamFile};

/// What a spawn needs to open something.
pub(crate) struct Opener<'a> {
    pub(crate) resources: &'a SpawnResources,
    pub(crate) birth: &'a Birth,
    /// What is not open then is given up.
    pub(crate) deadline: Option<Instant>,
}

impl Opener<'_> {
    /// What a stream is that is not a pipe. Stdin for which the spawn names nothing is `/dev/null`.
    pub(crate) fn open(&self, redirect: Option<&Redirect>, stage: Stage) -> Result<OwnedFd, Failure> {
        match (redirect, stage) {
            (Some(Redirect::File(file)), _) => self.open_file(file, stage),
            (None, _) => sys::open_null().map_err(Failure::at(Stage::Pipe, "open of /dev/null")),
            (_, Stage::Stdin) => sys::open_null().map_err(Failure::at(stage, sys::OPEN)),
            (_, _) => sys::open_null_for_writing().map_err(Failure::at(stage, sys::OPEN)),
        }
    }

    fn open_file(&self, file: &StreamFile, stage: Stage) -> Result<OwnedFd, Failure> {
        let path = c_string(file.path.as_bytes()).map_err(Failure::at(stage, sys::OPEN))?;
        let purpose = match (stage, file.append) {
            (Stage::Stdin, _) => Purpose::Read,
            (_, false) => Purpose::Replace,
            (_, true) => Purpose::Append,
        };
        let opened = self
            .resources
            .with_stack(|stack| sys::open_for_child(&path, purpose, self.deadline, stack, self.birth));
        opened.map_err(|error| Failure::at(stage, error.call)(error.error))
    }
}

/// What an error about a stream calls it.
pub(crate) fn named(params: &SpawnParams, stage: Stage) -> (&'static str, &str) {
    let redirect = match stage {
        Stage::Stdin => &params.stdin,
        Stage::Stdout => &params.stdout,
        _ => &params.stderr,
    };
    let path = match redirect {
        Some(Redirect::File(file)) => file.path.as_str(),
        _ => "/dev/null",
    };
    (stage.name(), path)
}
