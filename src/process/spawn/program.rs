//! One program on its way to `execve`: looked up as `execvp` does, with its arguments and its variables.
//!
//! **Thread:** the process thread of that child.
//! **Owns:** the strings that `execve` is given.
//! **Never:** forks; see [`spawn`](super).

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use super::environment::{Environment, definition};
use super::resources::SpawnResources;
use super::{Failure, c_string};
use crate::process::limits;
use crate::sys::{self, Birth, ChildLimit, Execve, Pid, SpawnError, Stdio, StringList};
use crate::wire::protocol::{InheritEnv, SpawnParams, Stage};

/// Where programs are looked for if the child has no `PATH`; what glibc's `execvp` does.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
/// What runs an executable file that is a script without an interpreter line, as `execvp` does.
const SHELL: &CStr = c"/bin/sh";
/// How much of a file decides whether the shell is given it.
const TEXT_SAMPLE_BYTES: u64 = 256;
/// How long a spawn waits for a program file that is still open for writing.
const BUSY_TEXT_WAIT: Duration = Duration::from_millis(500);

/// A program with everything `execve` wants.
pub(super) struct Program<'a> {
    search: Search<'a>,
    argv: Vec<CString>,
    own_variables: Vec<CString>,
    environment: &'a Environment,
    inherited: &'a InheritEnv,
    overrides: Option<&'a BTreeMap<String, Option<String>>>,
    limits: Vec<ChildLimit>,
    resources: &'a SpawnResources,
    birth: &'a Birth,
    /// What relative paths are relative to, as the child will be there.
    directory: Option<&'a OwnedFd>,
}

/// How the program is found: as `execvp` would in the child.
enum Search<'a> {
    /// A name with a slash, as it stands.
    AsIs(CString),
    /// Any other name, along the child's own `PATH`.
    Along { name: CString, path: &'a [u8] },
}

impl<'a> Program<'a> {
    pub(super) fn new(
        params: &'a SpawnParams,
        environment: &'a Environment,
        resources: &'a SpawnResources,
        birth: &'a Birth,
        directory: Option<&'a OwnedFd>,
    ) -> io::Result<Self> {
        let argv: Vec<_> = params
            .command
            .iter()
            .map(|a| c_string(a.as_bytes()))
            .collect::<Result<_, _>>()?;
        let overrides = params.env.as_ref();
        let own_variables = overrides
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)))
            .map(|(name, value)| definition(name.as_bytes(), value.as_bytes()))
            .collect::<Result<_, _>>()?;
        let name = argv
            .first()
            .cloned()
            .ok_or(io::Error::from_raw_os_error(libc::ENOENT))?;
        let search = if name.as_bytes().contains(&b'/') {
            Search::AsIs(name)
        } else {
            let path = match overrides.and_then(|o| o.get("PATH")) {
                Some(value) => value.as_ref().map(|v| v.as_bytes()),
                None if params.inherit_env.includes(b"PATH") => environment.value("PATH"),
                None => None,
            };
            Search::Along {
                name,
                path: path.unwrap_or(DEFAULT_PATH),
            }
        };
        Ok(Program {
            search,
            argv,
            own_variables,
            environment,
            inherited: &params.inherit_env,
            overrides,
            limits: params.limits.as_deref().map(limits::settings).unwrap_or_default(),
            resources,
            birth,
            directory,
        })
    }

    pub(super) fn run(&self, stdio: &Stdio<'_>) -> Result<(Pid, OwnedFd), Failure> {
        let argv = StringList::new(&self.argv);
        let environment = self.environment_list();
        let (name, path) = match &self.search {
            Search::AsIs(path) => {
                return Ok(self.run_file(path, &argv, &environment, stdio)?);
            }
            Search::Along { name, path } => (name, path),
        };
        let at_lookup = Failure::at(Stage::Lookup, sys::EXECUTE);
        let mut failure = at_lookup(io::Error::from_raw_os_error(libc::ENOENT));
        let mut buffer = Vec::new();
        for entry in path.split(|&b| b == b':') {
            let candidate = candidate(&mut buffer, entry, name).map_err(&at_lookup)?;
            if let Err(error) = sys::check_executable(self.directory, candidate) {
                if error.raw_os_error() == Some(libc::EACCES) && failure.stage == Stage::Lookup {
                    failure = at_lookup(error);
                }
                continue;
            }
            match self.run_file(candidate, &argv, &environment, stdio) {
                Ok(started) => return Ok(started),
                // Found, but what it needs to run is missing: execvp goes on along the PATH, too.
                Err(error) if passed_over(&error) => {
                    if failure.stage == Stage::Lookup {
                        failure = error.into();
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(failure)
    }

    fn run_file(
        &self,
        path: &CStr,
        argv: &StringList<'_>,
        environment: &StringList<'_>,
        stdio: &Stdio<'_>,
    ) -> Result<(Pid, OwnedFd), SpawnError> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let spawn = |path: &CStr, argv: &StringList<'_>| {
                let execve = Execve {
                    path,
                    argv,
                    environment,
                };
                self.resources.with_stack(|stack| {
                    sys::spawn(
                        &execve,
                        self.directory,
                        stdio,
                        self.resources.descriptor_limit,
                        &self.limits,
                        stack,
                        self.birth,
                    )
                })
            };
            match spawn(path, argv) {
                Err(error) if error.is_of_the_program(libc::ENOEXEC) && is_script(self.directory, path) => {
                    // A path such as `-e/script` is not an option.
                    let end_of_options = path.to_bytes().starts_with(b"-").then_some(c"--");
                    let arguments = [SHELL].into_iter().chain(end_of_options).chain([path]);
                    let rest = self.argv.iter().skip(1).map(CString::as_c_str);
                    return spawn(SHELL, &StringList::new(arguments.chain(rest)));
                }
                // The file is open for writing: by a child that another program has forked
                // and that has not reached its exec, usually. The kernel has no way to be told
                // when that ends, so it is tried again.
                Err(error)
                    if error.is_of_the_program(libc::ETXTBSY) && started.elapsed() < BUSY_TEXT_WAIT =>
                {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                result => return result,
            }
        }
    }

    fn environment_list(&self) -> StringList<'_> {
        let all = self.environment.0.iter();
        if self.overrides.is_none() && *self.inherited == InheritEnv::All {
            return StringList::new(all.map(|v| &v.definition));
        }
        let overridden = |name: &OsString| {
            let overrides = self.overrides?;
            overrides.get(name.to_str()?)
        };
        let inherited =
            all.filter(|v| self.inherited.includes(v.name.as_bytes()) && overridden(&v.name).is_none());
        StringList::new(inherited.map(|v| &v.definition).chain(&self.own_variables))
    }
}

/// Whether a file that the kernel does not execute is for the shell. One that cannot be read is not: the
/// shell could not read it either.
fn is_script(directory: Option<&OwnedFd>, path: &CStr) -> bool {
    let mut sample = Vec::new();
    let read = sys::open_program(directory, path)
        .and_then(|fd| File::from(fd).take(TEXT_SAMPLE_BYTES).read_to_end(&mut sample));
    read.is_ok() && begins_as_text(&sample)
}

/// Tells a script from a binary by its beginning, as shells do. A NUL makes a binary, unless there is a
/// line before it that a shell can run: a self-extracting archive has its payload after such lines.
fn begins_as_text(sample: &[u8]) -> bool {
    if sample.starts_with(b"\x7fELF") {
        return false;
    }
    let Some(nul) = sample.iter().position(|&b| b == 0) else {
        return true;
    };
    let end_of_lines = sample[..nul].iter().rposition(|&b| b == b'\n').unwrap_or(0);
    let runnable = |b: &u8| b.is_ascii_lowercase() || matches!(b, b'$' | b'`');
    sample[..end_of_lines].iter().any(runnable)
}

fn passed_over(error: &SpawnError) -> bool {
    [
        libc::ENOENT,
        libc::ENOTDIR,
        libc::EACCES,
        libc::ESTALE,
        libc::ENODEV,
        libc::ETIMEDOUT,
    ]
    .into_iter()
    .any(|errno| error.is_of_the_program(errno))
}

/// The file called `name` in one entry of a `PATH`; an empty entry is the working directory.
fn candidate<'a>(buffer: &'a mut Vec<u8>, entry: &[u8], name: &CStr) -> io::Result<&'a CStr> {
    let entry = if entry.is_empty() { b"." } else { entry };
    buffer.clear();
    for part in [entry, b"/", name.to_bytes_with_nul()] {
        buffer.extend_from_slice(part);
    }
    CStr::from_bytes_with_nul(buffer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_told_from_binaries_by_their_beginning() {
        let long_line = [b'a'; 300];
        for text in [
            &b""[..],
            b"\n",
            b"echo hi",
            b"echo hi\n\0\0payload",
            b"MZqFpD='\n\0\0\x10",
            b"$0\n\0",
            b"#!\necho hi\n",
            b"echo caf\xe9\n",
            &long_line[..256],
        ] {
            assert!(begins_as_text(text), "{text:?}");
        }
        for binary in [
            &b"\x7fELF"[..],
            b"\x7fELF\x02\x01\x01\necho hi\n",
            b"\0asm\x01\0\0\0",
            b"\xcf\xfa\xed\xfe\x07\0\0\x01",
            b"\xfe\xed\xfa\xce\0\0\0\x0c",
            b"\xca\xfe\xba\xbe\0\0\0\x34",
            b"MZ\x90\0\x03\0\0\0",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            b"echo hi\0\n",
            b"\n\0",
        ] {
            assert!(!begins_as_text(binary), "{binary:?}");
        }
    }
}
