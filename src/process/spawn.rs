//! From the params of a spawn to a running child.
//!
//! **Thread:** the process thread of that child, which is the only one that waits while the kernel
//! executes the program.
//! **Owns:** the snapshot of the server's environment, shared and read only; and the [`Nursery`].
//! **Never:** forks. The child shares our memory until its exec, because a fork copies the page tables
//! of every thread there is: at a thousand threads that is 77 spawns a second instead of 1,250.
//! For the same reason it does not copy a long table of descriptors, which it would only close.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::process::pty::{FreshTerminal, Terminal};
use crate::process::tree::DEATH;
use crate::sys::{self, Birth, ChildStack, Execve, Pid, Slot, SpawnError, Stdio, StringList};
use crate::wire::protocol::{RpcError, SpawnFailure, SpawnParams, Stage, code, shortened};

/// Where programs are looked for if the child has no `PATH`; what glibc's `execvp` does.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
/// What runs an executable file that is a script without an interpreter line, as `execvp` does.
const SHELL: &CStr = c"/bin/sh";
/// How much of a file decides whether the shell is given it.
const TEXT_SAMPLE_BYTES: u64 = 256;
/// Variables that name descriptors of the server, or mean that it has such a one. No program has those
/// descriptors, and some end at once where they are told of them: node, for example.
pub(crate) const DESCRIPTOR_VARIABLES: [&str; 10] = [
    // node: the channel of child_process.fork, and a worker of its cluster, which has one.
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    // systemd, and upstart: sockets of the service.
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "UPSTART_FDS",
    // The connection to a Wayland compositor.
    "WAYLAND_SOCKET",
    // bash: where it writes its trace.
    "BASH_XTRACEFD",
];
/// How long a program that somebody still has open for writing is waited for.
const BUSY_TEXT: Duration = Duration::from_millis(500);

/// The server's environment as it was when the connection began.
pub(crate) struct Environment(Vec<Variable>);

struct Variable {
    name: OsString,
    /// `NAME=value`.
    definition: CString,
}

impl Environment {
    /// Takes every variable that programs inherit byte for byte, UTF-8 or not.
    pub(crate) fn snapshot() -> Self {
        let inherited = |name: &OsString| DESCRIPTOR_VARIABLES.iter().all(|known| name != known);
        let variables = std::env::vars_os().filter(|(name, _)| inherited(name));
        let variables = variables.filter_map(|(name, value)| {
            let definition = definition(name.as_bytes(), value.as_bytes()).ok()?;
            Some(Variable { name, definition })
        });
        Environment(variables.collect())
    }

    /// What `initialize` tells to clients of `codex app-server`, as that would.
    pub(crate) fn codex_home(&self) -> String {
        let absolute = |name| {
            let value = str::from_utf8(self.value(name)?).ok()?;
            value.starts_with('/').then_some(value)
        };
        match (absolute("CODEX_HOME"), absolute("HOME")) {
            (Some(home), _) => home.to_owned(),
            (None, Some(home)) => format!("{}/.codex", home.trim_end_matches('/')),
            (None, None) => "/".to_owned(),
        }
    }

    fn value(&self, name: &str) -> Option<&[u8]> {
        let variable = self.0.iter().find(|v| v.name == name)?;
        variable.definition.as_bytes().get(name.len() + 1..)
    }
}

fn definition(name: &[u8], value: &[u8]) -> Result<CString, std::ffi::NulError> {
    let mut bytes = Vec::with_capacity(name.len() + value.len() + 2);
    bytes.extend_from_slice(name);
    bytes.push(b'=');
    bytes.extend_from_slice(value);
    CString::new(bytes)
}

/// What children use for the moment between their birth and their exec.
#[derive(Default)]
pub(crate) struct Nursery {
    slots: Mutex<Slots>,
    stacks: Mutex<Vec<ChildStack>>,
    /// Their soft limit of descriptors, where it is not ours.
    descriptor_limit: Option<u64>,
}

/// Low numbers among the descriptors, where children find their own. A child copies our table up to
/// the highest number it is given; without this, a thousand live processes would halve the rate of
/// spawns.
#[derive(Default)]
enum Slots {
    /// Our table is short; there is nothing to win.
    #[default]
    Unneeded,
    Made {
        /// What is in them between two spawns, so that they keep nobody's pipe open.
        filler: Arc<OwnedFd>,
        free: Vec<Slot>,
    },
    /// There were no descriptors for them.
    Refused,
}

/// A slot that one spawn uses.
struct Lease<'a> {
    nursery: &'a Nursery,
    slot: Option<Slot>,
    filler: Arc<OwnedFd>,
}

/// Numbers below this are as good as a slot's.
const LOW: RawFd = 64;
/// How many spawns may use a slot at a time. One that finds none, because programs come from a disk
/// that does not answer, does without.
const SLOTS: usize = 4;
/// How many stacks are kept for the next children.
const STACKS: usize = 4;

impl Nursery {
    pub(crate) fn new(descriptor_limit: Option<u64>) -> Self {
        Nursery {
            descriptor_limit,
            ..Nursery::default()
        }
    }

    /// A slot for `fds`, if it is worth one and there is one.
    fn lease(&self, fds: [BorrowedFd<'_>; 3]) -> Option<Lease<'_>> {
        if fds.iter().all(|fd| fd.as_raw_fd() < LOW) {
            return None;
        }
        let mut slots = locked(&self.slots);
        if matches!(*slots, Slots::Unneeded) {
            *slots = Slots::make().unwrap_or(Slots::Refused);
        }
        let Slots::Made { filler, free } = &mut *slots else {
            return None;
        };
        let slot = free.pop()?;
        let filler = Arc::clone(filler);
        drop(slots);
        let lease = Lease {
            nursery: self,
            slot: Some(slot),
            filler,
        };
        lease.slot.as_ref()?.fill(fds).is_ok().then_some(lease)
    }

    /// Gives the numbers back, until they are needed again.
    pub(crate) fn clear(&self) {
        *locked(&self.slots) = Slots::Unneeded;
    }

    /// Calls `spawn` with a stack that no other child is using.
    fn with_stack<T>(&self, spawn: impl FnOnce(&mut ChildStack) -> T) -> T {
        let kept = locked(&self.stacks).pop();
        let mut stack = kept.unwrap_or_else(ChildStack::new);
        let result = spawn(&mut stack);
        let mut stacks = locked(&self.stacks);
        if stacks.len() < STACKS {
            stacks.push(stack);
        }
        result
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slots {
    fn make() -> io::Result<Slots> {
        let filler = sys::open_null()?;
        let free: Vec<Slot> = (0..SLOTS)
            .map(|_| Slot::reserve(&filler))
            .collect::<Result<_, _>>()?;
        Ok(Slots::Made {
            filler: Arc::new(filler),
            free,
        })
    }
}

impl Drop for Lease<'_> {
    /// Takes what the child was given out of the slot, and gives the slot back.
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let filler = self.filler.as_fd();
        let emptied = slot.fill([filler; 3]);
        let mut slots = locked(&self.nursery.slots);
        if let (Ok(()), Slots::Made { free, .. }) = (emptied, &mut *slots) {
            free.push(slot);
        }
    }
}

/// A child that runs. Its thread signals and reaps it.
pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// Readable once it has ended.
    pub(crate) pidfd: OwnedFd,
    pub(crate) channels: Channels,
}

/// Our ends of what the child has as descriptors 0, 1 and 2; all non-blocking.
pub(crate) enum Channels {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal {
        terminal: Terminal,
        descriptor: OwnedFd,
    },
}

impl Child {
    /// Ends one whose spawn was given up.
    pub(crate) fn end(self) {
        let _ = sys::kill_group(self.pid, libc::SIGKILL);
        let _ = sys::readable_by(&self.pidfd, Instant::now() + DEATH);
        if !matches!(sys::try_reap(self.pid), Ok(Some(_))) {
            log::warn!(
                "process {} was killed before its program ran, and has not ended",
                self.pid
            );
        }
    }
}

/// A step that failed, before it is known for which program, and the call that failed.
struct Failure(Stage, &'static str, io::Error);

impl Failure {
    fn at(stage: Stage, call: &'static str) -> impl Fn(io::Error) -> Failure {
        move |error| Failure(stage, call, error)
    }
}

impl From<SpawnError> for Failure {
    fn from(SpawnError { call, error }: SpawnError) -> Failure {
        let stage = match call {
            sys::ENTER_DIRECTORY => Stage::Cwd,
            sys::OPEN_TERMINAL => Stage::Pty,
            sys::LEAVE_DESCRIPTORS | sys::PLACE_DESCRIPTORS | sys::MAKE_PIPE => Stage::Pipe,
            sys::START_THREAD => Stage::Thread,
            _ => Stage::Exec,
        };
        Failure(stage, call, error)
    }
}

/// The answer to a spawn in which `call` failed at `stage`.
pub(crate) fn failure(params: &SpawnParams, stage: Stage, call: &str, error: &io::Error) -> RpcError {
    let program = shortened(params.command.first().map_or("", String::as_str)).into_owned();
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let about = match stage {
        Stage::Cwd => format!("cwd {:?}", shortened(params.cwd.as_deref().unwrap_or_default())),
        Stage::Lookup => format!("{program:?} on the child's PATH"),
        Stage::Exec if call == sys::EXECUTE => format!("{program:?}"),
        Stage::Exec => "no process".to_owned(),
        Stage::Pty => "no terminal".to_owned(),
        Stage::Pipe => "no descriptors".to_owned(),
        Stage::Thread => "no thread".to_owned(),
    };
    // What is wrong with a file or a directory, the error says alone; a call that is not allowed at all
    // says nothing about them.
    let of_the_file = matches!(stage, Stage::Cwd | Stage::Lookup) || call == sys::EXECUTE;
    let named = match of_the_file && !sys::is_refused(error) {
        true => String::new(),
        false => format!("{call}: "),
    };
    RpcError {
        code: code::INTERNAL_ERROR,
        message: format!("failed to spawn process: {about}: {named}{error}"),
        data: Some(SpawnFailure {
            errno,
            code: sys::errno_name(errno),
            stage,
            program,
        }),
    }
}

/// Starts the program. Params were validated; what fails here is for the machine to refuse.
pub(crate) fn spawn(
    params: &SpawnParams,
    environment: &Environment,
    nursery: &Nursery,
    birth: &Birth,
) -> Result<Child, RpcError> {
    #[cfg(fuzzing)]
    let params = &crate::wire::fuzzing::harmless(params);
    start(params, environment, nursery, birth)
        .map_err(|Failure(stage, call, error)| failure(params, stage, call, &error))
}

fn start(
    params: &SpawnParams,
    environment: &Environment,
    nursery: &Nursery,
    birth: &Birth,
) -> Result<Child, Failure> {
    let directory = match &params.cwd {
        Some(cwd) => {
            let path = c_string(cwd.as_bytes()).map_err(Failure::at(Stage::Cwd, "open"))?;
            Some(sys::open_directory(&path).map_err(Failure::at(Stage::Cwd, "open"))?)
        }
        None => None,
    };
    let program = Program::new(params, environment, nursery, birth, directory.as_ref())
        .map_err(Failure::at(Stage::Exec, sys::EXECUTE))?;

    if params.tty {
        let size = params.size.unwrap_or_default();
        let fresh = FreshTerminal::open(size, params.terminal_modes.as_ref())
            .map_err(Failure::at(Stage::Pty, "openpty"))?;
        let (pid, pidfd) = program.run(&Stdio::Terminal(&fresh.name))?;
        let (terminal, descriptor) = fresh.opened_by_child();
        return Ok(Child {
            pid,
            pidfd,
            channels: Channels::Terminal { terminal, descriptor },
        });
    }

    let pipe = || sys::pipe().map_err(Failure::at(Stage::Pipe, "pipe2"));
    let (stdin_child, stdin) = match params.stream_stdin {
        true => {
            let (reader, writer) = pipe()?;
            (reader, Some(writer))
        }
        false => (
            sys::open_null().map_err(Failure::at(Stage::Pipe, "open of /dev/null"))?,
            None,
        ),
    };
    let (stdout, stdout_child) = pipe()?;
    let (stderr, stderr_child) = pipe()?;
    for ours in stdin.iter().chain([&stdout, &stderr]) {
        sys::set_nonblocking(ours).map_err(Failure::at(Stage::Pipe, "fcntl"))?;
    }
    let given = [stdin_child.as_fd(), stdout_child.as_fd(), stderr_child.as_fd()];
    let lease = nursery.lease(given);
    let slot = lease.as_ref().and_then(|lease| lease.slot.as_ref());
    let (pid, pidfd) = program.run(&Stdio::Descriptors(slot.map_or(given, Slot::fds)))?;
    // The child has its own copies; ours would keep its pipes from ending. They go with this function.
    Ok(Child {
        pid,
        pidfd,
        channels: Channels::Pipes {
            stdin,
            stdout,
            stderr,
        },
    })
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// A program with everything `execve` wants.
struct Program<'a> {
    search: Search<'a>,
    argv: Vec<CString>,
    own_variables: Vec<CString>,
    environment: &'a Environment,
    overrides: Option<&'a BTreeMap<String, Option<String>>>,
    nursery: &'a Nursery,
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
    fn new(
        params: &'a SpawnParams,
        environment: &'a Environment,
        nursery: &'a Nursery,
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
                None => environment.value("PATH"),
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
            overrides,
            nursery,
            birth,
            directory,
        })
    }

    fn run(&self, stdio: &Stdio<'_>) -> Result<(Pid, OwnedFd), Failure> {
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
        for entry in path.split(|&b| b == b':') {
            let candidate = candidate(entry, name).map_err(&at_lookup)?;
            if let Err(error) = sys::check_executable(self.directory, &candidate) {
                if error.raw_os_error() == Some(libc::EACCES) && failure.0 == Stage::Lookup {
                    failure = at_lookup(error);
                }
                continue;
            }
            match self.run_file(&candidate, &argv, &environment, stdio) {
                Ok(started) => return Ok(started),
                // Found, but what it needs to run is missing: execvp goes on along the PATH, too.
                Err(error) if passed_over(&error) => {
                    if failure.0 == Stage::Lookup {
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
        path: &CString,
        argv: &StringList<'_>,
        environment: &StringList<'_>,
        stdio: &Stdio<'_>,
    ) -> Result<(Pid, OwnedFd), SpawnError> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let spawn = |path: &CString, argv: &StringList<'_>| {
                let execve = Execve {
                    path,
                    argv,
                    environment,
                };
                self.nursery.with_stack(|stack| {
                    sys::spawn(
                        &execve,
                        self.directory,
                        stdio,
                        self.nursery.descriptor_limit,
                        stack,
                        self.birth,
                    )
                })
            };
            match spawn(path, argv) {
                Err(error) if error.is_of_the_program(libc::ENOEXEC) && is_script(self.directory, path) => {
                    // A path such as `-e/script` is no option.
                    let end_of_options = path.as_bytes().starts_with(b"-").then_some(c"--".to_owned());
                    let shell = SHELL.to_owned();
                    let arguments = [&shell].into_iter().chain(&end_of_options).chain([path]);
                    let argv = StringList::new(arguments.chain(self.argv.iter().skip(1)));
                    return spawn(&shell, &argv);
                }
                // Somebody has the file open for writing: a child that another program has forked
                // and that has not come to its exec, as a rule. The kernel has no way to be told
                // when that ends, so it is tried again.
                Err(error) if error.is_of_the_program(libc::ETXTBSY) && started.elapsed() < BUSY_TEXT => {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                result => return result,
            }
        }
    }

    fn environment_list(&self) -> StringList<'_> {
        let overridden = |name: &OsString| {
            let overrides = self.overrides?;
            overrides.get(name.to_str()?)
        };
        let inherited = self
            .environment
            .0
            .iter()
            .filter(|v| overridden(&v.name).is_none());
        StringList::new(inherited.map(|v| &v.definition).chain(&self.own_variables))
    }
}

/// Whether a file that the kernel does not execute is for the shell. One that cannot be read is not: the
/// shell could not read it either.
fn is_script(directory: Option<&OwnedFd>, path: &CString) -> bool {
    let mut sample = Vec::new();
    let read = sys::open_program(directory, path)
        .and_then(|fd| File::from(fd).take(TEXT_SAMPLE_BYTES).read_to_end(&mut sample));
    read.is_ok() && begins_as_text(&sample)
}

/// Tells a script from a binary by its beginning, as shells do. A NUL makes a binary, unless there is a
/// line before it that a shell can run: a self-extracting archive has its payload behind such lines.
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
fn candidate(entry: &[u8], name: &CString) -> io::Result<CString> {
    let entry = if entry.is_empty() { b"." } else { entry };
    c_string(&[entry, b"/", name.as_bytes()].concat())
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
