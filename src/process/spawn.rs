//! From the params of a spawn to a running child.
//!
//! **Thread:** the process thread of that child, which is the only one that waits while the kernel
//! executes the program.
//! **Owns:** the child's descriptors until its program runs.
//! **Never:** forks where the system has a way around it. There the child shares our memory until its exec,
//! because a fork copies the page tables of every thread: at a thousand threads that is 77 spawns a second
//! instead of 1,250.
//! For the same reason it does not copy a long table of descriptors, which it would only close.

mod environment;
mod program;
mod resources;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

#[cfg(feature = "cli")]
pub(crate) use self::environment::DESCRIPTOR_VARIABLES;
pub(crate) use self::environment::Environment;
pub(crate) use self::resources::SpawnResources;

use self::program::Program;
use crate::process::limits;
use crate::process::pty::{FreshTerminal, Terminal};
use crate::process::redirect::{self, Opener};
use crate::process::tree::KILL_WAIT;
use crate::sys::{self, Birth, Pid, ReservedFds, SpawnError, Stdio};
use crate::wire::protocol::{
    LimitName, Redirect, RpcError, SpawnFailure, SpawnParams, Stage, code, shortened,
};

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
        let deadline = Instant::now() + KILL_WAIT;
        let _ = sys::readable_by(&self.pidfd, deadline);
        if !sys::reap_by(self.pid, deadline) {
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

/// Starts the program. Params were validated; what fails here, the machine refuses. What waits for
/// another process is given up at the deadline.
pub(crate) fn spawn(
    params: &SpawnParams,
    environment: &Environment,
    resources: &SpawnResources,
    birth: &Birth,
    deadline: Option<Instant>,
) -> Result<Child, RpcError> {
    #[cfg(fuzzing)]
    let params = &crate::wire::fuzzing::harmless(params);
    start(params, environment, resources, birth, deadline).map_err(|failure| explained(params, &failure))
}

fn start(
    params: &SpawnParams,
    environment: &Environment,
    resources: &SpawnResources,
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
    let program = Program::new(params, environment, resources, birth, directory.as_ref())
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
        resources,
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
    let guard = resources.guard(given);
    let slot = guard.as_ref().and_then(|guard| guard.slot.as_ref());
    let (pid, pidfd) = program.run(&Stdio::Descriptors(slot.map_or(given, ReservedFds::fds)))?;
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
