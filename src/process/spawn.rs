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
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::process::limits;
use crate::process::pty::{FreshTerminal, Terminal};
use crate::process::redirect::{self, Opener};
use crate::process::tree::DEATH;
use crate::sys::{self, Birth, ChildLimit, ChildStack, Execve, Pid, Slot, SpawnError, Stdio, StringList};
use crate::wire::protocol::{
    InheritEnv, LimitName, Redirect, RpcError, SpawnFailure, SpawnParams, Stage, code, shortened,
};

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
        let mut slots = sys::lock(&self.slots);
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
        *sys::lock(&self.slots) = Slots::Unneeded;
    }

    /// Calls `spawn` with a stack that no other child is using.
    pub(crate) fn with_stack<T>(&self, spawn: impl FnOnce(&mut ChildStack) -> T) -> T {
        let kept = sys::lock(&self.stacks).pop();
        let mut stack = kept.unwrap_or_else(ChildStack::new);
        let result = spawn(&mut stack);
        let mut stacks = sys::lock(&self.stacks);
        if stacks.len() < STACKS {
            stacks.push(stack);
        }
        result
    }
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
        let mut slots = sys::lock(&self.nursery.slots);
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

/// Our ends of what the child has as descriptors 0, 1 and 2; all non-blocking. Of a stream that is not a
/// pipe we have none.
pub(crate) enum Channels {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
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
pub(crate) struct Failure {
    stage: Stage,
    call: &'static str,
    error: io::Error,
    limit: Option<LimitName>,
}

impl Failure {
    pub(crate) fn at(stage: Stage, call: &'static str) -> impl Fn(io::Error) -> Failure {
        move |error| Failure {
            stage,
            call,
            error,
            limit: None,
        }
    }
}

impl From<SpawnError> for Failure {
    fn from(SpawnError { call, error, limit }: SpawnError) -> Failure {
        let limit = limit.and_then(limits::by_name);
        let stage = match call {
            _ if limit.is_some() => Stage::Limits,
            sys::ENTER_DIRECTORY => Stage::Cwd,
            sys::OPEN_TERMINAL => Stage::Pty,
            sys::LEAVE_DESCRIPTORS | sys::PLACE_DESCRIPTORS | sys::MAKE_PIPE => Stage::Pipe,
            sys::START_THREAD => Stage::Thread,
            _ => Stage::Exec,
        };
        Failure {
            stage,
            call,
            error,
            limit,
        }
    }
}

/// The answer to a spawn that could not be begun because of `call`.
pub(crate) fn failure(params: &SpawnParams, stage: Stage, call: &'static str, error: io::Error) -> RpcError {
    explained(params, &Failure::at(stage, call)(error))
}

fn explained(params: &SpawnParams, failure: &Failure) -> RpcError {
    let Failure {
        stage,
        call,
        error,
        limit,
    } = failure;
    let program = shortened(params.command.first().map_or("", String::as_str)).into_owned();
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let about = match stage {
        Stage::Cwd => format!("cwd {:?}", shortened(params.cwd.as_deref().unwrap_or_default())),
        Stage::Lookup => format!("{program:?} on the child's PATH"),
        Stage::Exec if *call == sys::EXECUTE => format!("{program:?}"),
        Stage::Exec => "no process".to_owned(),
        Stage::Pty => "no terminal".to_owned(),
        Stage::Pipe => "no descriptors".to_owned(),
        Stage::Thread => "no thread".to_owned(),
        Stage::Stdin | Stage::Stdout | Stage::Stderr => {
            let (stream, path) = redirect::named(params, *stage);
            format!("{stream} {:?}", shortened(path))
        }
        Stage::Limits => format!("limits.{}", limit.map_or("", LimitName::name)),
    };
    // What is wrong with a file or a directory, the error says alone; a call that is not allowed at all
    // says nothing about them.
    let of_the_file = match stage {
        Stage::Cwd | Stage::Lookup => true,
        Stage::Stdin | Stage::Stdout | Stage::Stderr => *call == sys::OPEN,
        _ => *call == sys::EXECUTE,
    };
    let named = match of_the_file && !sys::is_refused(error) {
        true => String::new(),
        false => format!("{call}: "),
    };
    let why = match *call == sys::OPEN_IN_TIME {
        true => "its other end was not opened before the timeout".to_owned(),
        false => format!("{named}{error}"),
    };
    RpcError {
        code: code::INTERNAL_ERROR,
        message: format!("failed to spawn process: {about}: {why}"),
        data: Some(SpawnFailure {
            errno,
            code: sys::errno_name(errno),
            stage: *stage,
            program,
            limit: *limit,
        }),
    }
}

/// Starts the program. Params were validated; what fails here is for the machine to refuse. What waits for
/// another process is given up at the deadline.
pub(crate) fn spawn(
    params: &SpawnParams,
    environment: &Environment,
    nursery: &Nursery,
    birth: &Birth,
    deadline: Option<Instant>,
) -> Result<Child, RpcError> {
    #[cfg(fuzzing)]
    let params = &crate::wire::fuzzing::harmless(params);
    start(params, environment, nursery, birth, deadline).map_err(|failure| explained(params, &failure))
}

fn start(
    params: &SpawnParams,
    environment: &Environment,
    nursery: &Nursery,
    birth: &Birth,
    deadline: Option<Instant>,
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
    // Pipes come first, so that no file is emptied for a program that there are no descriptors for.
    let (stdin_pipe, stdin) = match params.stream_stdin {
        true => {
            let (reader, writer) = pipe()?;
            (Some(reader), Some(writer))
        }
        false => (None, None),
    };
    let output = |redirect: &Option<Redirect>| match redirect {
        None | Some(Redirect::Pipe) => pipe().map(|(ours, childs)| (Some(ours), Some(childs))),
        Some(_) => Ok((None, None)),
    };
    let (stdout, stdout_pipe) = output(&params.stdout)?;
    let (stderr, stderr_pipe) = output(&params.stderr)?;
    for ours in [&stdin, &stdout, &stderr].into_iter().flatten() {
        sys::set_nonblocking(ours).map_err(Failure::at(Stage::Pipe, "fcntl"))?;
    }
    let opener = Opener {
        nursery,
        birth,
        deadline,
    };
    let childs_end = |pipe: Option<OwnedFd>, redirect: &Option<Redirect>, stage| match pipe {
        Some(pipe) => Ok(pipe),
        None => opener.open(redirect.as_ref(), stage),
    };
    let stdin_child = childs_end(stdin_pipe, &params.stdin, Stage::Stdin)?;
    let stdout_child = childs_end(stdout_pipe, &params.stdout, Stage::Stdout)?;
    let stderr_child = match &params.stderr {
        Some(Redirect::Stdout) => None,
        redirect => Some(childs_end(stderr_pipe, redirect, Stage::Stderr)?),
    };
    let given = [
        stdin_child.as_fd(),
        stdout_child.as_fd(),
        stderr_child.as_ref().unwrap_or(&stdout_child).as_fd(),
    ];
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

pub(crate) fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// A program with everything `execve` wants.
struct Program<'a> {
    search: Search<'a>,
    argv: Vec<CString>,
    own_variables: Vec<CString>,
    environment: &'a Environment,
    inherited: &'a InheritEnv,
    overrides: Option<&'a BTreeMap<String, Option<String>>>,
    limits: Vec<ChildLimit>,
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
                if error.raw_os_error() == Some(libc::EACCES) && failure.stage == Stage::Lookup {
                    failure = at_lookup(error);
                }
                continue;
            }
            match self.run_file(&candidate, &argv, &environment, stdio) {
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
                        &self.limits,
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
            .filter(|v| self.inherited.includes(v.name.as_bytes()) && overridden(&v.name).is_none());
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
