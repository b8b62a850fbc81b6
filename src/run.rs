//! `procwire run`: one program, as if it had been typed here.
//!
//! **Thread:** main prints what the program prints; one thread feeds it, one passes signals on.
//! **Owns:** the client, the process, and the terminal while the program has one.
//! **Never:** holds back output that somebody reads, and never leaves a program behind: it ends with
//! the connection, and the connection with this process, whatever ends that.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use procwire::client::{Client, Control, Error, Event, Process, Spawn, Stdin};
use procwire::guard;
use procwire::protocol::{RpcError, Stage};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
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
            // What is typed at our terminal is for the program; ssh may still ask for a password.
            shell.arg("-c").arg(format!("trap '' INT QUIT\n{command}"));
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
            if let (true, Error::Refused(refused)) = (run.json, &error) {
                let _ = writeln!(Patient(io::stdout()), "{{\"error\":{}}}", refused.to_json());
            } else {
                let _ = writeln!(io::stderr(), "procwire: {error}");
            }
            match error {
                Error::Refused(RpcError { data: Some(why), .. }) => match why.stage {
                    Stage::Lookup | Stage::Exec if why.code == "ENOENT" => NOT_FOUND,
                    Stage::Lookup | Stage::Exec => CANNOT_EXECUTE,
                    _ => FAILED,
                },
                _ => FAILED,
            }
        }
    }
}

fn try_run(run: &Run) -> Result<i32, Error> {
    // Before anything can change: what comes from now on is passed on.
    let signals = Signals::new(passed_on(run.tty))?;
    let client = Client::launch(server(run.server.as_deref()))?;
    let mut process = client.spawn(spawn(run)?)?;
    let raw = match run.tty {
        true => Raw::enter()?,
        false => None,
    };
    pass_signals_on(signals, process.control())?;
    if let Some(stdin) = process.stdin.take() {
        feed(stdin)?;
    }
    let status = match run.json {
        true => {
            let output = process.wait_with_output()?;
            let mut exited = (*output.status).clone();
            exited.stdout.bytes = output.stdout;
            exited.stderr.bytes = output.stderr;
            drop(raw);
            writeln!(Patient(io::stdout()), "{}", exited.to_json())?;
            output.status
        }
        false => {
            print(&mut process)?;
            let status = process.wait()?;
            drop(raw);
            status
        }
    };
    // What it has left running ends here; how the server ends makes no difference any more.
    let _ = client.close();
    Ok(status.exit_code)
}

fn spawn(run: &Run) -> Result<Spawn, Error> {
    let mut spawn = Spawn::new(run.command.iter().cloned())
        .unread_limit(UNREAD)
        .wait_when_unread()
        .envs(run.env.iter().cloned());
    spawn = run.unset.iter().fold(spawn, Spawn::env_remove);
    if run.tty {
        let (rows, cols) = terminal::size().unwrap_or((24, 80));
        spawn = spawn.tty(rows, cols);
        // A server elsewhere does not know what terminal this is.
        let named = run.env.iter().map(|(name, _)| name).chain(&run.unset);
        if let (Some(_), false, Ok(term)) = (
            &run.server,
            named.into_iter().any(|name| name == "TERM"),
            std::env::var("TERM"),
        ) {
            spawn = spawn.env("TERM", term);
        }
    }
    if let Some(timeout) = run.timeout {
        spawn = spawn.timeout(timeout);
    }
    if let Some(cwd) = &run.cwd {
        // Our own server is where we are.
        let cwd = match run.server {
            None => std::path::absolute(cwd)?,
            Some(_) => cwd.clone(),
        };
        spawn = spawn.current_dir(cwd.to_string_lossy());
    }
    Ok(spawn)
}

fn passed_on(tty: bool) -> Vec<i32> {
    let mut signals = vec![SIGINT, SIGTERM, SIGHUP, SIGQUIT];
    // Whoever starts us under nohup, or in the background of a script, does not want us to hear them.
    signals.retain(|signal| !guard::is_ignored(*signal));
    if tty {
        signals.push(SIGWINCH);
    }
    signals
}

/// Starts the thread that passes signals on. It ends with the program.
fn pass_signals_on(mut signals: Signals, control: Control) -> io::Result<()> {
    let size = terminal::size();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        // The terminal may have changed while the program was started.
        if size.is_some() {
            resize(&control);
        }
        let mut asked = Vec::new();
        for signal in signals.forever() {
            match signal {
                SIGWINCH => resize(&control),
                SIGTERM | SIGHUP if asked.contains(&signal) => {
                    // Asked twice: the server ends the program when we are gone.
                    terminal::restore();
                    std::process::exit(128 + signal);
                }
                signal => {
                    asked.push(signal);
                    control.post_signal(signal, None);
                }
            }
        }
    })?;
    Ok(())
}

fn resize(control: &Control) {
    if let Some((rows, cols)) = terminal::size() {
        control.post_resize(rows, cols);
    }
}

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
fn print(process: &mut Process) -> Result<(), Error> {
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
        }
    }
    match failure {
        None => Ok(()),
        Some(e) => Err(Error::Io(e)),
    }
}
