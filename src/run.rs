//! `procwire run`: one program, as if it had been typed here.
//!
//! **Thread:** main prints what the program prints; one thread feeds it, one hears signals, and one
//! passes them on, which may wait for the server.
//! **Owns:** the client, the process, and the terminal while the program has one.
//! **Never:** holds back output that somebody reads, and never leaves a program behind: it ends with
//! the connection, and the connection with this process, whatever ends that.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use procwire::client::{self, Client, Control, Error, Event, Process, Stdin};
use procwire::guard;
use procwire::protocol::Stage;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{
    SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::Signals;

use crate::terminal::{self, Patient, Raw};

/// Exit codes of our own, as `env` and shells have them.
const FAILED: i32 = 125;
const CANNOT_EXECUTE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Output that waits to be printed; past it the program waits.
const UNREAD: usize = 4 * 1024 * 1024;
/// How long a program may take to end when nobody reads its output any more.
const UNHEARD: Duration = Duration::from_millis(500);

/// What to run, and how.
#[derive(Debug, Default)]
pub struct Run {
    pub command: Vec<String>,
    pub tty: bool,
    pub json: bool,
    pub cwd: Option<PathBuf>,
    pub env: Vec<(String, String)>,
    pub unset: Vec<String>,
    pub timeout: Option<Duration>,
    pub server: Option<String>,
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
            let mut own = Command::new(procwire::guard::own_file());
            own.arg0("procwire").arg("serve").process_group(0);
            own
        }
    }
}

/// Runs it; the exit code to end with.
pub fn run(run: &Run) -> i32 {
    match try_run(run) {
        Ok(code) => code,
        Err(error) => {
            terminal::restore();
            let refused = match error.downcast_ref() {
                Some(Error::Refused(refused)) => Some(refused),
                _ => None,
            };
            match refused {
                Some(refused) if run.json => {
                    let _ = writeln!(Patient(io::stdout()), "{{\"error\":{}}}", refused.to_json());
                }
                _ => {
                    let _ = writeln!(io::stderr(), "procwire: {error}");
                }
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

fn try_run(run: &Run) -> Result<i32, Box<dyn std::error::Error>> {
    let spawn = spawn(run)?;
    // Before anything can change: no signal goes unheard from now on.
    let life = heed_signals(run.tty)?;
    // What is typed at our terminal is for the program, and not for its server.
    let command = run
        .server
        .as_ref()
        .map(|command| format!("trap '' INT QUIT TSTP\n{command}"));
    let connecting = {
        // A signal meanwhile waits, so that it finds the server.
        let mut life = lock(&life);
        let connecting = Client::builder().start(server(command.as_deref()))?;
        life.server = connecting.server_pid();
        connecting
    };
    let client = connecting.finish()?;
    let mut process = client.spawn(spawn)?;
    lock(&life).state = State::Running(pass_on(process.control())?);
    let raw = match run.tty {
        true => Raw::enter().map_err(|e| format!("the terminal here: {e}"))?,
        false => None,
    };
    if run.tty {
        // The terminal may have changed while the program was started.
        resize(&process.control());
    }
    if let Some(stdin) = process.stdin.take() {
        feed(stdin)?;
    }
    let (status, line) = match run.json {
        true => {
            let output = process.wait_with_output()?;
            let mut exited = output.status.details().clone();
            exited.stdout.bytes = output.stdout;
            exited.stderr.bytes = output.stderr;
            (output.status, Some(exited.to_json()))
        }
        false => {
            print(&mut process)?;
            (process.wait()?, None)
        }
    };
    lock(&life).state = State::Over(status.details().exit_code);
    drop(raw);
    if let Some(line) = line {
        writeln!(Patient(io::stdout()), "{line}").map_err(|e| format!("stdout: {e}"))?;
    }
    // What it has left running ends here; how the server ends makes no difference any more.
    let _ = client.close();
    Ok(status.details().exit_code)
}

fn spawn(run: &Run) -> Result<client::Command, String> {
    let (program, arguments) = run.command.split_first().ok_or("there is no program")?;
    let mut spawn = client::Command::new(program);
    spawn
        .args(arguments)
        .unread_limit(UNREAD)
        .wait_when_unread()
        .envs(run.env.iter().map(|(name, value)| (name, value)));
    for name in &run.unset {
        spawn.env_remove(name);
    }
    if run.tty {
        let (rows, cols) = terminal::size().unwrap_or((24, 80));
        spawn.tty(rows, cols);
        // A server elsewhere does not know what terminal this is.
        let named = run.env.iter().map(|(name, _)| name).chain(&run.unset);
        if let (Some(_), false, Ok(term)) = (
            &run.server,
            named.into_iter().any(|name| name == "TERM"),
            std::env::var("TERM"),
        ) {
            spawn.env("TERM", term);
        }
    }
    if let Some(timeout) = run.timeout {
        spawn.timeout(timeout);
    }
    if let Some(cwd) = &run.cwd {
        // Our own server is where we are.
        let absolute = match run.server {
            None => std::path::absolute(cwd).map_err(|e| format!("--cwd {}: {e}", cwd.display()))?,
            Some(_) => cwd.clone(),
        };
        spawn.current_dir(absolute);
    }
    Ok(spawn)
}

// ---- signals ----

/// What a signal is for changes as the program comes and goes.
enum State {
    /// There is no program yet. A signal ends this, and the server that has not answered.
    Starting,
    /// It is for the program.
    Running(SyncSender<Pass>),
    /// The program has ended with this code. A signal ends the wait for its server.
    Over(i32),
}

struct Life {
    server: Option<u32>,
    state: State,
}

/// Something to pass on to the program.
enum Pass {
    Signal(i32),
    /// To stop, and to say when it has been told.
    Stop(SyncSender<()>),
    Size,
}

/// What may wait to be passed on, where the way to the server is blocked. More than that is lost.
const PASSED: usize = 64;
/// How long a stop of this process waits for the program to be told.
const TELL: Duration = Duration::from_millis(500);

fn heeded(tty: bool) -> Vec<i32> {
    let mut signals = vec![SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP];
    // Whoever starts us under nohup, or in the background of a script, does not want us to hear them.
    signals.retain(|signal| !guard::is_ignored(*signal));
    if tty {
        signals.push(SIGWINCH);
    }
    signals
}

/// Starts the thread that hears signals. It never waits for the server, so that it hears the second.
fn heed_signals(tty: bool) -> io::Result<Arc<Mutex<Life>>> {
    let mut signals = Signals::new(heeded(tty))?;
    let life = Arc::new(Mutex::new(Life {
        server: None,
        state: State::Starting,
    }));
    let its_life = Arc::clone(&life);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut asked = Vec::new();
        for signal in signals.forever() {
            heed(signal, &lock(&its_life), &mut asked);
        }
    })?;
    Ok(life)
}

fn heed(signal: i32, life: &Life, asked: &mut Vec<i32>) {
    match (signal, &life.state) {
        (SIGWINCH, State::Running(program)) => drop(program.try_send(Pass::Size)),
        (SIGWINCH, _) => {}
        (SIGTSTP, State::Running(program)) => {
            let (told, telling) = sync_channel(1);
            if program.try_send(Pass::Stop(told)).is_ok() {
                let _ = telling.recv_timeout(TELL);
            }
            terminal::restored_while(stop);
            let _ = program.try_send(Pass::Signal(SIGCONT));
        }
        (SIGTSTP, _) => stop(),
        // Asked twice: the server ends the program when we are gone.
        (SIGTERM | SIGHUP, State::Running(_)) if asked.contains(&signal) => leave(128 + signal),
        (_, State::Running(program)) => {
            asked.push(signal);
            let _ = program.try_send(Pass::Signal(signal));
        }
        (_, State::Starting) => {
            end_server(life);
            leave(128 + signal)
        }
        (_, State::Over(code)) => {
            end_server(life);
            leave(*code)
        }
    }
}

/// Stops this process; returns when it goes on. By a signal that nobody hears and that the system
/// drops, as it would have dropped SIGTSTP, where no shell could let this process go on.
fn stop() {
    let _ = signal_hook::low_level::raise(SIGTTOU);
}

/// It may be an ssh that asks for a password or waits for a host, and does not look at its stdin.
fn end_server(life: &Life) {
    let pid = life.server.and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        // Fails only for one that has ended.
        let _ = kill_process(pid, Signal::TERM);
    }
}

fn leave(code: i32) {
    terminal::restore();
    std::process::exit(code);
}

/// Starts the thread that passes on what the program is to hear, and may wait for the server.
fn pass_on(control: Control) -> io::Result<SyncSender<Pass>> {
    let (sender, receiver) = sync_channel(PASSED);
    thread::Builder::new().name("pass-on".to_owned()).spawn(move || {
        for pass in receiver {
            match pass {
                Pass::Signal(signal) => control.post_signal(signal, None),
                Pass::Stop(told) => {
                    control.post_signal("STOP", None);
                    let _ = told.try_send(());
                }
                Pass::Size => resize(&control),
            }
        }
    })?;
    Ok(sender)
}

fn resize(control: &Control) {
    if let Some((rows, cols)) = terminal::size() {
        control.post_resize(rows, cols);
    }
}

fn lock(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- streams ----

/// Starts the thread that feeds the program. It ends with the input or with this program.
fn feed(mut stdin: Stdin) -> io::Result<()> {
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut input = Patient(io::stdin());
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    if stdin.write_all(&buffer[..n]).is_err() {
                        // It wants no more.
                        break;
                    }
                }
                Err(e) => {
                    log::debug!("reading stdin failed, which ends the program's: {e}");
                    break;
                }
            }
        }
    })?;
    Ok(())
}

/// Prints what the program prints, until its end.
fn print(process: &mut Process) -> Result<(), Box<dyn std::error::Error>> {
    let mut stdout = Some(Patient(io::stdout()));
    let mut failure = None;
    for event in process.events() {
        match event? {
            Event::Stdout(bytes) => {
                if let Some(Err(e)) = stdout.as_mut().map(|stdout| stdout.write_all(&bytes)) {
                    stdout = None;
                    // As it would have been told itself; and if it does not listen, it ends as well.
                    process.post_signal("PIPE", Some(UNHEARD));
                    if e.kind() != io::ErrorKind::BrokenPipe {
                        failure = Some(e);
                    }
                }
            }
            // Nobody can be told that nobody reads this.
            Event::Stderr(bytes) => drop(Patient(io::stderr()).write_all(&bytes)),
            _ => {}
        }
    }
    match failure {
        None => Ok(()),
        Some(e) => Err(format!("stdout: {e}").into()),
    }
}
