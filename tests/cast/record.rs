//! The first minute: commands that are typed into a shell on a terminal, and what they really print.
//!
//! Keys come at the pace of a person who types; that is the only time that is made up.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use procwire::client::{Client, Command, Event, Events, Process};

use crate::{Cast, Event as Shown};

const COLS: u16 = 88;
const ROWS: u16 = 19;
/// How long the shell may take for one command, or one key.
const DEADLINE: Duration = Duration::from_secs(60);
const KEY_SECONDS: f64 = 0.045;
const BEFORE_ENTER_SECONDS: f64 = 0.35;
const AFTER_COMMAND_SECONDS: f64 = 1.3;
/// As the shell prints it.
const PROMPT: &str = "\u{1b}[1;34m$\u{1b}[0m ";

/// What is typed, and what shows besides the next prompt that it is done.
const COMMANDS: [(&str, &str); 7] = [
    (
        "procwire run -- sh -c 'echo hello; exit 3'; echo \"exit code $?\"",
        "",
    ),
    (
        "procwire run --stats -- sh -c 'seq 1000000 | wc -l'",
        "exit code 0",
    ),
    ("procwire check smoke.session", ""),
    (
        "procwire run -- sh -c 'sleep 4321 & setsid sleep 4321 & wait' & disown",
        "",
    ),
    (COUNT, "sleep 4321"),
    (KILL, ""),
    (COUNT, "nothing is left"),
];
const COUNT: &str = "pgrep -af '^sleep 4321' || echo nothing is left";
const KILL: &str = "kill -9 $!";

struct Recording {
    process: Process,
    events: Events,
    cast: Cast,
    /// When the next key is typed, in the time of the recording.
    clock: f64,
}

impl Recording {
    /// Reads until what has come since the call is enough.
    fn until(&mut self, enough: impl Fn(&str) -> bool) -> Result<(), Box<dyn Error>> {
        let started = Instant::now();
        let mut seen = String::new();
        while !enough(&seen) {
            let left = DEADLINE.saturating_sub(started.elapsed());
            let event = self.events.next_timeout(left);
            let event = event.ok_or_else(|| format!("the shell does nothing more after {seen:?}"))??;
            let Some(Event::Stdout(bytes)) = event else {
                return Err(format!("the shell has ended after {seen:?}").into());
            };
            let text = String::from_utf8(bytes)?;
            seen.push_str(&text);
            let time = self.clock + started.elapsed().as_secs_f64();
            self.cast.events.push((time, Shown::Output(text)));
        }
        self.clock += started.elapsed().as_secs_f64();
        Ok(())
    }

    fn press(&mut self, key: &str) -> Result<(), Box<dyn Error>> {
        let stdin = self.process.stdin.as_mut().ok_or("the shell has no stdin")?;
        Ok(stdin.write_all(key.as_bytes())?)
    }

    fn run(&mut self, command: &str, shown: &str) -> Result<(), Box<dyn Error>> {
        for key in command.chars() {
            self.clock += KEY_SECONDS;
            let clock = self.clock;
            self.press(&key.to_string())?;
            self.until(|seen| !seen.is_empty())?;
            // The echo is not worth a time of its own.
            self.clock = clock;
        }
        self.clock += BEFORE_ENTER_SECONDS;
        self.press("\r")?;
        self.until(|seen| seen.ends_with(PROMPT) && seen.contains(shown))?;
        self.clock += AFTER_COMMAND_SECONDS;
        Ok(())
    }
}

/// How many programs run that the commands have started.
fn sleeping() -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let commands = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands.filter(|command| command == b"sleep\x004321\0").count()
}

/// A person who reads and types gives what was done in the background the time it needs.
fn wait_for(what: &str, done: impl Fn() -> bool) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > DEADLINE {
            return Err(format!("{what} takes too long").into());
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// The binary that is tried: the one PROCWIRE names, or the one beside this program.
fn folder_of_binary() -> Result<PathBuf, Box<dyn Error>> {
    let binary = match std::env::var_os("PROCWIRE") {
        Some(binary) => PathBuf::from(binary),
        None => std::env::current_exe()?
            .parent()
            .and_then(Path::parent)
            .ok_or("no folder")?
            .join("procwire"),
    };
    let folder = binary.parent().filter(|folder| folder.join("procwire").exists());
    Ok(folder
        .ok_or_else(|| format!("no procwire: {}", binary.display()))?
        .to_owned())
}

pub fn first_minute() -> Result<Cast, Box<dyn Error>> {
    let path = std::env::var("PATH").unwrap_or_default();
    let client = Client::in_process(procwire::Config::default())?;
    let mut shell = Command::new("bash");
    shell
        .args(["--norc", "--noprofile"])
        .tty(ROWS, COLS)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples"))
        .env("PATH", format!("{}:{path}", folder_of_binary()?.display()))
        .env("PS1", "\\[\u{1b}[1;34m\\]$\\[\u{1b}[0m\\] ")
        .env("TERM", "xterm-256color")
        .env("LC_ALL", "C.UTF-8")
        .env("HISTFILE", "");
    let mut process = client.spawn(&shell)?;
    let events = process.events();
    let cast = Cast {
        cols: COLS.into(),
        rows: ROWS.into(),
        events: Vec::new(),
    };
    let mut recording = Recording {
        process,
        events,
        cast,
        clock: 0.0,
    };
    recording.until(|seen| seen.ends_with(PROMPT))?;
    recording.clock = 0.8;
    for (command, shown) in COMMANDS {
        recording.run(command, shown)?;
        if command.ends_with("disown") {
            wait_for("starting", || sleeping() == 2)?;
        }
        if command == KILL {
            wait_for("the end of the tree", || sleeping() == 0)?;
        }
    }
    Ok(recording.cast)
}
