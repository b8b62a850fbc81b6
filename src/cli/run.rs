//! `procwire run`: one program, as if it had been typed here.
//!
//! **Thread:** main; the streams and what ends a run early have threads of their own, in `streams.rs`
//! and `life.rs`.
//! **Owns:** the client, the process, and the terminal while the program has one.
//! **Never:** holds back output that is being read, and never leaves a program running: it ends with
//! the connection, and the connection with this process, whatever ends that. The exception is a
//! program that was started with `--detach`.

mod detach;
mod life;
mod recording;
mod streams;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Component, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cli::guard::{self, Guarded};
use crate::client::{self, Client, Error, ExitStatus};
use crate::process::spawn::DESCRIPTOR_VARIABLES;
use crate::wire::protocol::{Collected, OutputKeep, ResourceLimits, Stage};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGPIPE};

use crate::cli::quote::{escaped_json, escaped_line};
use crate::cli::terminal::{self, RetryIo};
use life::{Ending, Phase, RunState, lock};

/// Exit codes of our own, as `timeout`, `env` and shells have them.
const TIMED_OUT: i32 = 124;
const FAILED: i32 = 125;
const CANNOT_EXECUTE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Output that waits to be printed; past it the program waits.
const MAX_UNREAD_BYTES: usize = 4 * 1024 * 1024;
/// Whether the program has a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tty {
    /// If stdin, stdout and stderr are one.
    #[default]
    Auto,
    Always,
    Never,
}

/// What to run, and how.
#[derive(Debug)]
pub struct Run {
    pub command: Vec<String>,
    pub tty: Tty,
    pub no_stdin: bool,
    pub json: bool,
    pub stats: bool,
    pub detach: bool,
    pub cwd: Option<PathBuf>,
    pub env: Vec<(String, String)>,
    pub unset: Vec<String>,
    pub timeout: Option<Duration>,
    pub grace: Duration,
    pub connect_timeout: Option<Duration>,
    pub server: Option<String>,
    pub record: Option<PathBuf>,
    /// stderr is one stream with stdout.
    pub merge: bool,
    pub clean_env: bool,
    /// Bytes of the beginning and of the end of each stream.
    pub keep: Option<(u64, u64)>,
    pub limits: ResourceLimits,
}

impl Default for Run {
    fn default() -> Self {
        Run {
            command: Vec::new(),
            tty: Tty::Auto,
            no_stdin: false,
            json: false,
            stats: false,
            detach: false,
            cwd: None,
            env: Vec::new(),
            unset: Vec::new(),
            timeout: None,
            grace: Duration::from_secs(2),
            connect_timeout: None,
            server: None,
            record: None,
            merge: false,
            clean_env: false,
            keep: None,
            limits: ResourceLimits::default(),
        }
    }
}

impl Run {
    fn wants_tty(&self) -> bool {
        match self.tty {
            Tty::Always => true,
            Tty::Never => false,
            Tty::Auto => {
                !(self.json || self.no_stdin || self.detach)
                    && io::stdin().is_terminal()
                    && io::stdout().is_terminal()
                    && io::stderr().is_terminal()
            }
        }
    }

    /// What the server is called in errors.
    fn server_name(&self) -> String {
        match &self.server {
            None => "the server".to_owned(),
            Some(command) => format!("the server '{}'", escaped_line(command)),
        }
    }

    fn names(&self, variable: &str) -> bool {
        let mut named = self.env.iter().map(|(name, _)| name).chain(&self.unset);
        named.any(|name| name == variable)
    }
}

/// A server to talk to: a shell command, or this program itself.
pub fn server(command: Option<&str>) -> Command {
    match command {
        Some(command) => {
            let mut shell = Command::new("sh");
            // In our process group: ssh may ask for a password.
            shell.arg("-c").arg(command);
            shell
        }
        None => {
            let mut own = guard::own_program();
            own.arg("serve").process_group(0);
            own
        }
    }
}

/// Runs it, and dies of the signal that killed the program, if one did; otherwise the exit code to
/// end with.
pub fn run(run: &Run) -> i32 {
    match try_run(run) {
        Ok(ending) => ending.code(),
        Err(error) => {
            let _last = life::last_word();
            terminal::clean_up();
            let refused = match error.downcast_ref() {
                Some(Error::Refused(refused)) => Some(refused),
                _ => None,
            };
            match refused {
                Some(refused) if run.json => {
                    let error = refused.to_json();
                    let _ = writeln!(RetryIo(io::stdout()), "{{\"error\":{}}}", escaped_json(&error));
                }
                // The codes of JSON-RPC are for programs.
                Some(refused) => life::say(&refused.message),
                None => life::say(&error.to_string()),
            }
            match refused.and_then(|refused| refused.data.as_ref()) {
                Some(why) => match why.stage {
                    Stage::Lookup | Stage::Exec if why.code == "ENOENT" => NOT_FOUND,
                    Stage::Lookup | Stage::Exec => CANNOT_EXECUTE,
                    _ => FAILED,
                },
                None => FAILED,
            }
        }
    }
}

fn try_run(run: &Run) -> Result<Ending, Box<dyn std::error::Error>> {
    let tty = run.wants_tty();
    let has_input = has_input(run)?;
    let spawn = spawn(run, tty, has_input)?;
    let mut recording = streams::record(run, tty)?;
    // Before anything can change: no signal goes unheard from now on.
    let state = life::watch_signals(tty, run.server.is_some())?;
    life::watch_clock(run, &state)?;
    if tty {
        terminal::watch_over();
    }
    let client = connect(run, &state).map_err(|error| life::unless_interrupted(&state, error))?;
    if run.detach {
        return detach::detach(run, &client, spawn);
    }
    let started = client.spawn(spawn);
    let mut process = started.map_err(|error| life::unless_interrupted(&state, error))?;
    lock(&state).phase = Phase::Running(life::forward_to(process.control())?);
    if tty {
        terminal::take(has_input).map_err(|e| format!("the terminal here: {e}"))?;
        // The terminal may have changed while the program was started.
        life::resize(&process.control());
    }
    let input_error = Arc::new(Mutex::new(None));
    if let (Some(stdin), true) = (process.stdin.take(), has_input) {
        let pid = process.id().filter(|_| run.server.is_none());
        streams::feed(stdin, pid, Arc::clone(&input_error))?;
    }
    let (status, output) = match run.json {
        true => {
            let output = process.wait_with_output()?;
            let printed = [
                (output.stdout, output.stdout_tail),
                (output.stderr, output.stderr_tail),
            ];
            (output.status, Some(printed))
        }
        false => {
            streams::print(&mut process, recording.as_mut())?;
            (process.wait()?, None)
        }
    };
    let (timed_out, forwarded) = {
        let state = lock(&state);
        (state.timed_out || status.timed_out(), state.forwarded.clone())
    };
    let input_error = input_error.lock().ok().and_then(|mut error| error.take());
    let signal = status.details().signal.as_deref().filter(|_| !timed_out);
    let number =
        signal.and_then(|name| life::signal_number(name, status.details().exit_code, run.server.is_none()));
    let record_error = recording.and_then(|recording| recording.finish().err());
    let ending = match number {
        _ if timed_out => Ending::Code(TIMED_OUT),
        Some(number) => Ending::Signal(number),
        None if status.details().exit_code == 0 && (input_error.is_some() || record_error.is_some()) => {
            Ending::Code(FAILED)
        }
        None => Ending::Code(status.details().exit_code),
    };
    lock(&state).phase = Phase::Over(ending);
    match ending == Ending::Code(status.details().exit_code) && !timed_out {
        true => terminal::release(),
        // It had no time to clean up.
        false => terminal::clean_up(),
    }
    if let Some([stdout, stderr]) = output {
        let mut exited = status.details().clone();
        fill(&mut exited.stdout, stdout);
        fill(&mut exited.stderr, stderr);
        if timed_out {
            (exited.timed_out, exited.exit_code) = (true, TIMED_OUT);
        }
        writeln!(RetryIo(io::stdout()), "{}", escaped_json(&exited.to_json()))
            .map_err(|e| format!("stdout: {e}"))?;
    }
    if let Some(error) = input_error {
        life::say(&format!("stdin: {error}"));
    }
    if let (Some(error), Some(path)) = (record_error, &run.record) {
        life::say(&format!("--record {}: {error}", path.display()));
    }
    if !run.json {
        for (stream, of) in [
            ("stdout", &status.details().stdout),
            ("stderr", &status.details().stderr),
        ] {
            if let Some(left_out @ 1..) = of.tail.as_ref().map(|tail| tail.omitted_bytes) {
                life::say(&format!("{left_out} bytes of {stream} left out"));
            }
        }
    }
    let known =
        number.is_some_and(|number| [SIGINT, SIGPIPE].contains(&number) || forwarded.contains(&number));
    if run.stats || !run.json && (timed_out || signal.is_some() && !known) {
        life::say(&last_words(run, &status, timed_out));
    }
    // What it has left running ends here; how the server ends makes no difference any more.
    let _ = client.close();
    // Its pid may be another process's from now on.
    lock(&state).server = None;
    Ok(ending)
}

/// Puts what was streamed where it stands if it is collected: the beginning, and what was kept of the end.
fn fill(stream: &mut Collected, (beginning, end): (Vec<u8>, Vec<u8>)) {
    stream.bytes = beginning;
    if let Some(tail) = &mut stream.tail {
        tail.bytes = end;
    }
}

/// Starts the server, and waits until it answers.
fn connect(run: &Run, state: &Mutex<RunState>) -> Result<Client, Error> {
    // What is typed at our terminal is for the program, and not for its server.
    let command = run
        .server
        .as_ref()
        .map(|command| format!("trap '' INT QUIT TSTP\n{command}"));
    if run.server.is_some() {
        // Orphans become children of this process, and are found if the server is given up.
        Guarded::begin(None)?;
        terminal::remember();
    }
    let connecting = {
        // A signal meanwhile waits, so that it finds the server.
        let mut state = lock(state);
        // The clock that was started before covers the handshake.
        let connecting = Client::builder()
            .handshake_timeout(Duration::MAX)
            .server_name(run.server_name())
            .start(server(command.as_deref()))?;
        state.server = connecting.server_pid();
        connecting
    };
    let client = connecting.finish()?;
    lock(state).phase = Phase::Starting;
    Ok(client)
}

/// Whether there is input for the program: a closed stdin and `/dev/null` are none.
fn has_input(run: &Run) -> Result<bool, String> {
    let stdin = io::stdin();
    if run.no_stdin || run.detach {
        return Ok(false);
    }
    let failed = |e: &dyn std::fmt::Display| format!("stdin: {e}");
    let file = std::fs::File::from(stdin.as_fd().try_clone_to_owned().map_err(|e| failed(&e))?);
    let metadata = file.metadata().map_err(|e| failed(&e))?;
    if metadata.file_type().is_char_device() {
        let null = std::fs::metadata("/dev/null").map(|null| null.rdev());
        return Ok(null.ok() != Some(metadata.rdev()));
    }
    // Told before anything is started: one that is not open for reading, and a directory.
    match rustix::io::read(&stdin, &mut [0; 0][..]) {
        Err(e @ (Errno::ISDIR | Errno::BADF)) => Err(failed(&io::Error::from(e))),
        _ => Ok(true),
    }
}

fn spawn(run: &Run, tty: bool, has_input: bool) -> Result<client::Command, String> {
    let mut argv = run.command.iter().map(String::as_str);
    let mut spawn = match run.detach {
        true => {
            // The PATH of the program may have none.
            let mut shell = client::Command::new("/bin/sh");
            shell.args(["-c", detach::START_AND_STAY]);
            shell
        }
        false => client::Command::new(argv.next().unwrap_or_default()),
    };
    if run.clean_env {
        spawn.env_clear();
        // Of what is inherited, a terminal needs this.
        if let (true, Ok(term)) = (tty, std::env::var("TERM")) {
            spawn.env("TERM", term);
        }
    }
    if run.merge && !tty {
        spawn.merge_stderr();
    }
    if let Some((head, tail)) = run.keep {
        spawn.keep(OutputKeep::HeadTail { head, tail });
    }
    if run.limits != ResourceLimits::default() {
        spawn.limits(run.limits.clone());
    }
    spawn
        .args(argv)
        .unread_limit(MAX_UNREAD_BYTES)
        .wait_when_unread()
        .envs(run.env.iter().map(|(name, value)| (name, value)));
    for name in &run.unset {
        spawn.env_remove(name);
    }
    if !has_input {
        spawn.no_stdin();
    }
    if run.detach {
        spawn.detach().kill_on_drop(false);
    }
    if tty {
        let (rows, cols) = terminal::size().unwrap_or((24, 80));
        spawn.tty(rows, cols);
        // In the background they are those of another program, such as the line editor of a shell.
        if io::stdin().is_terminal() && terminal::in_foreground() {
            spawn
                .modes_of(io::stdin())
                .map_err(|e| format!("the terminal here: {e}"))?;
        }
        // A server elsewhere does not know what terminal this is.
        if let (Some(_), false, Ok(term)) = (&run.server, run.names("TERM"), std::env::var("TERM")) {
            spawn.env("TERM", term);
        }
    }
    // They name descriptors of this process, or of a server elsewhere.
    for variable in DESCRIPTOR_VARIABLES {
        if !(run.clean_env || run.names(variable)) {
            spawn.env_remove(variable);
        }
    }
    if let Some(timeout) = life::server_timeout(run) {
        spawn.timeout(timeout);
    }
    if let Some(cwd) = &run.cwd {
        // Our own server is where we are.
        let absolute = match run.server {
            None => std::path::absolute(cwd).map_err(|e| format!("--cwd {}: {e}", cwd.display()))?,
            Some(_) => cwd.clone(),
        };
        // The client sets PWD, which a shell believes only without `..`.
        if !run.names("PWD") && absolute.components().any(|part| part == Component::ParentDir) {
            match (absolute.canonicalize(), &run.server) {
                (Ok(pwd), None) => spawn.env("PWD", pwd),
                _ => spawn.env_remove("PWD"),
            };
        }
        spawn.current_dir(absolute);
    }
    Ok(spawn)
}

/// One line about how the program ended, with `--stats` also what it has used.
fn last_words(run: &Run, status: &ExitStatus, timed_out: bool) -> String {
    let program = run.command.first().map_or("", String::as_str);
    let status = status.details();
    let mut how = match (&status.signal, timed_out) {
        (Some(signal), _) => format!("killed by {signal}"),
        (None, false) => format!("exit code {}", status.exit_code),
        (None, true) => format!("exited with code {}", status.exit_code),
    };
    if status.core_dumped {
        how.push_str(" (core dumped)");
    }
    if timed_out {
        let timeout = life::timeout(run).unwrap_or_default();
        how = format!("timed out after {timeout:?}, {how}");
    }
    if run.stats {
        let seconds = |time| format!("{} s", crate::cli::seconds(time));
        let usage = &status.usage;
        let kib = usage.max_rss_bytes / 1024;
        how.push_str(&format!(
            ", {} real, {} user, {} system, {}.{} MiB memory",
            seconds(status.duration),
            seconds(usage.user),
            seconds(usage.system),
            kib / 1024,
            kib % 1024 * 10 / 1024,
        ));
    }
    format!("{program}: {how}")
}
