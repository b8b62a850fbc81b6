//! The table of ends: what each way to end a process or a connection leaves alive.
//!
//! ```text
//! cargo build --release
//! cargo run --release --example ends -- --server target/release/procwire --markdown ends.md
//! CODEX_HOME=/some/dir cargo run --release --example ends -- --server 'codex app-server'
//! ```
//!
//! For every trick by which a program outlives its end, every end, pipes and a PTY, a fresh server
//! spawns the trick, the session is ended, and whatever of the trick is alive then is counted. A
//! trick's processes are known by a number that is an argument of each, so that they are found
//! whatever they have done to their parents, sessions and environments. This program is a child
//! subreaper and ends what a server leaves.
//!
//! `--server` is split at white space and run with this program's environment; left out, it is the
//! `procwire` of the same build. `--only TEXT` takes the combinations whose names contain the text,
//! `--jobs N` runs so many at once (2).
//!
//! Two of the rows start the server as another user, and one of these with a `/proc` that hides
//! processes. That takes root; without it they are left out, and it is said so.
//!
//! The exit code is 0 if nothing was left that is not allowed and every end came in time, 1 if not, 2
//! if something could not be tried.

#[path = "../it/proc.rs"]
mod proc;

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use proc::Proc;
use serde_json::{Value, json};

/// After the end of a connection nothing may be alive for longer.
const ALIVE: Duration = Duration::from_secs(2);
/// Nor the server itself: three seconds, and what it takes to see that.
const SERVER: Duration = Duration::from_millis(3_200);
/// How long anything may take that a server is asked to do; a first start from a cold disk is slow.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);
/// The timeout of a process that should time out: long enough for its trick to be done by then.
const TIMEOUT_MS: u64 = 1_500;
/// The argument that makes this program the one of a trick.
const PLAY: &str = "--play-without-main-thread";
/// By this variable the server's own processes are known.
const VARIABLE: &str = "PROCWIRE_ENDS";

// ---- what is tried ----

/// In whose name and in what surroundings a trick's server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Here,
    /// As a user without privileges.
    Unprivileged,
    /// The same, with a `/proc` that hides what that user may not look at.
    HidePid,
}

/// A program that tries to live on. In `script`, `%` is the number by which its processes are known,
/// `SELF` is this program, and `DIRECTORY` one with a `sudo` in it.
struct Trick {
    name: &'static str,
    script: &'static str,
    /// How many `sleep`s show that it is done.
    sleeps: usize,
    /// One of them must be stopped.
    stopped: bool,
    /// The main threads of so many have ended.
    without_main_thread: usize,
    /// So many are no `sleep`s, and show that it is done.
    others: usize,
    place: Place,
    /// So many belong to another user, and cannot be killed by any means that the server has.
    protected: usize,
    /// How many of its processes have cut their ancestry before the end.
    daemons: usize,
    /// The program itself ends at once.
    leader_ends: bool,
    /// How often to look before it is taken for empty.
    looks: usize,
}

const TRICK: Trick = Trick {
    name: "",
    script: "",
    sleeps: 1,
    stopped: false,
    without_main_thread: 0,
    others: 0,
    place: Place::Here,
    protected: 0,
    daemons: 0,
    leader_ends: false,
    looks: 1,
};

const TRICKS: &[Trick] = &[
    Trick {
        name: "background child",
        script: "sleep 99999.% & echo ready; wait",
        ..TRICK
    },
    Trick {
        name: "child and parent ignore TERM, HUP and INT",
        script: "trap '' TERM HUP INT; sleep 99999.% & echo ready; wait",
        ..TRICK
    },
    Trick {
        name: "`nohup` child",
        script: "nohup sleep 99999.% >/dev/null 2>&1 & echo ready; wait",
        ..TRICK
    },
    Trick {
        name: "`setsid` child, parent alive",
        script: "setsid sleep 99999.% & echo ready; wait",
        ..TRICK
    },
    Trick {
        name: "daemon: double fork, `setsid`",
        script: "setsid sh -c 'sleep 99999.% </dev/null >/dev/null 2>&1 &'; echo ready; sleep 99998.%",
        sleeps: 2,
        daemons: 1,
        ..TRICK
    },
    Trick {
        name: "daemon with `env -i`",
        script: "env -i setsid sh -c 'sleep 99999.% </dev/null >/dev/null 2>&1 &'; \
                 echo ready; sleep 99998.%",
        sleeps: 2,
        daemons: 1,
        ..TRICK
    },
    Trick {
        name: "stopped child",
        script: "sleep 99999.% & kill -STOP $!; echo ready; wait",
        // Most of the time it is stopped before it is a `sleep`.
        sleeps: 0,
        stopped: true,
        ..TRICK
    },
    Trick {
        name: "daemon left by a leader that exited 0",
        script: "setsid sh -c 'sleep 99999.% </dev/null >/dev/null 2>&1 &'; exit 0",
        daemons: 1,
        leader_ends: true,
        ..TRICK
    },
    Trick {
        name: "fork loop",
        script: "i=0; while [ $i -lt 2000 ]; do sleep 99999.% & sleep 0.00%; i=$((i+1)); \
                 [ $i = 3 ] && echo ready; done; wait",
        sleeps: 3,
        ..TRICK
    },
    Trick {
        // Another process every millisecond: a look at one is a look at a dead one.
        name: "daemon that only forks and exits",
        script: "export C='sh -c \"$C\" % & exit'; setsid sh -c \"$C\" % </dev/null >/dev/null 2>&1 & \
                 echo ready; sleep 99998.%",
        daemons: 2,
        looks: 20,
        ..TRICK
    },
    Trick {
        name: "fork loop in a session of its own",
        script: "setsid sh -c 'i=0; while [ $i -lt 2000 ]; do sleep 99999.% & sleep 0.00%; \
                 i=$((i+1)); done; wait' & echo ready; wait",
        sleeps: 3,
        ..TRICK
    },
    Trick {
        // Its state is then Z, as that of a dead one.
        name: "process whose main thread has ended",
        script: "setsid SELF % & echo ready; wait",
        sleeps: 0,
        without_main_thread: 1,
        ..TRICK
    },
    Trick {
        // It may not be looked at by its own user.
        name: "`ssh-agent` under `hidepid=2`",
        script: "ssh-agent -a DIRECTORY/agent.% >/dev/null; \
                 setsid ssh-agent -D -a DIRECTORY/other.% & echo ready; wait",
        sleeps: 0,
        others: 3,
        daemons: 1,
        place: Place::HidePid,
        ..TRICK
    },
    Trick {
        name: "child of another user, as of `sudo`",
        script: "setsid DIRECTORY/sudo --reuid=0 --regid=0 --clear-groups sleep 99999.% & echo ready; wait",
        place: Place::Unprivileged,
        protected: 1,
        ..TRICK
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    Timeout,
    InputEnds,
    OutputGone,
    /// A signal to the process the client has started.
    Signal(i32),
    /// SIGKILL to the server below that process.
    KillBelow,
    /// SIGKILL to the group of the process the client has started.
    KillGroup,
}

const ENDS: &[(End, &str)] = &[
    (End::Kill, "`process/kill`"),
    (End::Timeout, "timeout"),
    (End::InputEnds, "stdin EOF"),
    (End::OutputGone, "stdout gone"),
    (End::Signal(libc::SIGTERM), "SIGTERM"),
    (End::Signal(libc::SIGINT), "SIGINT"),
    (End::Signal(libc::SIGHUP), "SIGHUP"),
    (End::Signal(libc::SIGKILL), "SIGKILL"),
    (End::KillBelow, "SIGKILL, the server below"),
    (End::KillGroup, "SIGKILL, whole group"),
];

impl End {
    /// Whether it ends a process and not the connection.
    fn is_of_process(self) -> bool {
        matches!(self, End::Kill | End::Timeout)
    }
}

/// One combination.
struct Case {
    trick: &'static Trick,
    tty: bool,
    end: End,
    /// By which its processes are known.
    marker: String,
}

/// What came of it.
#[derive(Debug)]
enum Outcome {
    Left(Left),
    /// This server has nothing that could be ended so.
    Inapplicable,
    Failed(String),
}

#[derive(Debug)]
struct Left {
    /// Alive after the end.
    now: usize,
    /// Alive after the end of the connection, where that is another one.
    later: usize,
    /// The server itself is still there.
    server: bool,
    /// How long the last process lived after the end of the connection, if it has died.
    took: Option<Duration>,
    /// How long the server itself lived, if it has ended.
    ended: Option<Duration>,
}

impl Left {
    fn is_allowed(&self, case: &Case) -> bool {
        let may_live = if case.end.is_of_process() {
            case.trick.daemons
        } else {
            0
        };
        let protected = case.trick.protected;
        self.now <= may_live + protected && self.later <= protected && !self.server
    }
}

// ---- the program ----

struct Options {
    server: Vec<String>,
    markdown: Option<String>,
    only: String,
    jobs: usize,
}

fn options() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::{Long, ValueExt};
    let mut options = Options {
        server: Vec::new(),
        markdown: None,
        only: String::new(),
        jobs: 2,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("server") => {
                let command = parser.value()?.string()?;
                options.server = command.split_whitespace().map(str::to_owned).collect();
            }
            Long("markdown") => options.markdown = Some(parser.value()?.string()?),
            Long("only") => options.only = parser.value()?.string()?,
            Long("jobs") => options.jobs = parser.value()?.parse()?,
            argument => return Err(argument.unexpected()),
        }
    }
    if options.server.is_empty() {
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let directory = own.parent().and_then(|examples| examples.parent());
        let server = directory.ok_or("no --server")?.join("procwire");
        options.server.push(server.to_string_lossy().into_owned());
    }
    Ok(options)
}

/// The program of the trick without a main thread.
fn play() -> ! {
    thread::spawn(|| {
        loop {
            thread::park();
        }
    });
    // SAFETY: ends this thread alone, which holds nothing that the other one needs.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("this thread has ended");
}

/// What the rows in other places need: a directory that every user may write to, with a `sudo` in it,
/// and whether servers can be started in them.
struct Stage {
    directory: String,
    places: Vec<Place>,
}

impl Stage {
    fn set(server: &[String]) -> std::io::Result<Stage> {
        let directory = std::env::temp_dir().join(format!("procwire-ends-{}", std::process::id()));
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o1777))?;
        let mut stage = Stage {
            directory: directory.to_string_lossy().into_owned(),
            places: vec![Place::Here],
        };
        // A program that becomes root and stays it, as sudo does.
        let sudo = directory.join("sudo");
        let made = fs::copy("/usr/bin/setpriv", &sudo)
            .and_then(|_| fs::set_permissions(&sudo, fs::Permissions::from_mode(0o4755)));
        let sudo = [
            &*sudo.to_string_lossy(),
            "--reuid=0",
            "--regid=0",
            "--clear-groups",
        ]
        .map(str::to_owned);
        let reached = |place| {
            let mut command = in_place(place, server);
            let sudo = if place == Place::Unprivileged {
                &sudo[..]
            } else {
                &[]
            };
            // In front of the server's own command, which is not started here.
            let rest = command.len() - server.len();
            command.truncate(rest);
            command.extend(sudo.iter().cloned());
            command.push("true".to_owned());
            let mut started = Command::new(&command[0]);
            started.args(&command[1..]).stderr(Stdio::null());
            started.status().is_ok_and(|status| status.success())
        };
        for (place, what) in [
            (
                Place::Unprivileged,
                "a server of another user, and programs that become root",
            ),
            (Place::HidePid, "a /proc that hides processes"),
        ] {
            if made.is_ok() && reached(place) {
                stage.places.push(place);
            } else {
                eprintln!("ends: left out, because it takes root and setpriv: {what}");
            }
        }
        Ok(stage)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The command that starts the server in its place. Each of these programs becomes the next one.
fn in_place(place: Place, server: &[String]) -> Vec<String> {
    const MOUNT: &str = "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"";
    let hide: &[&str] = &["unshare", "-m", "sh", "-c", MOUNT, "sh"];
    let drop: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let front = match place {
        Place::Here => vec![],
        Place::Unprivileged => drop.to_vec(),
        Place::HidePid => [hide, drop].concat(),
    };
    front
        .into_iter()
        .map(str::to_owned)
        .chain(server.iter().cloned())
        .collect()
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(PLAY) {
        play();
    }
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("ends: {error}");
            return ExitCode::from(2);
        }
    };
    // SAFETY: no memory is involved; what servers leave behind becomes ours.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // Under nohup the servers would inherit an ignored SIGHUP.
        // SAFETY: no handler is involved.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }

    let stage = match Stage::set(&options.server) {
        Ok(stage) => stage,
        Err(error) => {
            eprintln!("ends: a directory for the tricks: {error}");
            return ExitCode::from(2);
        }
    };
    let mut cases = VecDeque::new();
    for trick in TRICKS.iter().filter(|trick| stage.places.contains(&trick.place)) {
        for tty in [false, true] {
            for &(end, name) in ENDS {
                let full_name = format!("{} / {} / {name}", trick.name, mode(tty));
                if full_name.contains(&options.only) {
                    let marker = format!("31415{:07}{:04}", std::process::id(), cases.len());
                    cases.push_back(Case {
                        trick,
                        tty,
                        end,
                        marker,
                    });
                }
            }
        }
    }
    let count = cases.len();
    let cases = Mutex::new(cases);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(case) = pop(&cases) {
                    let outcome = try_case(&options.server, &stage.directory, &case);
                    let (text, _) = cell(&case, &outcome);
                    let name = ENDS
                        .iter()
                        .find(|(end, _)| *end == case.end)
                        .map_or("", |(_, n)| n);
                    let ended = match &outcome {
                        Outcome::Left(Left {
                            ended: Some(ended), ..
                        }) => format!(", {} ms", ended.as_millis()),
                        _ => String::new(),
                    };
                    eprintln!("{} / {} / {name}: {text}{ended}", case.trick.name, mode(case.tty));
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((case, outcome));
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let table = table(&done);
    print!("{table}");
    if let Some(file) = &options.markdown
        && let Err(error) = fs::write(file, &table)
    {
        eprintln!("ends: {file}: {error}");
        return ExitCode::from(2);
    }
    let failed = done
        .iter()
        .any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    let left = done.iter().any(|(case, outcome)| match outcome {
        Outcome::Left(left) => !left.is_allowed(case),
        Outcome::Inapplicable | Outcome::Failed(_) => false,
    });
    match (failed || count == 0, left) {
        (true, _) => ExitCode::from(2),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    }
}

fn pop(cases: &Mutex<VecDeque<Case>>) -> Option<Case> {
    cases.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

fn mode(tty: bool) -> &'static str {
    if tty { "PTY" } else { "pipe" }
}

// ---- the table ----

/// A cell, and whether what it says is allowed only because of a rule.
fn cell(case: &Case, outcome: &Outcome) -> (String, bool) {
    let left = match outcome {
        Outcome::Left(left) => left,
        Outcome::Inapplicable => return ("–".to_owned(), false),
        Outcome::Failed(why) => return (format!("? ({why})"), false),
    };
    let mut text = left.now.to_string();
    if left.later > 0 {
        let _ = write!(text, " → {}", left.later);
    }
    if left.server {
        text.push_str(" + server");
    }
    match (left.is_allowed(case), left.now) {
        (false, _) => (format!("**{text}**"), false),
        (true, 0) => (text, false),
        (true, now) if now <= case.trick.protected => (format!("{text} ᵇ"), false),
        (true, _) => (format!("{text} ᵃ"), true),
    }
}

fn table(done: &[(Case, Outcome)]) -> String {
    let ends: Vec<_> = ENDS
        .iter()
        .filter(|(end, _)| done.iter().any(|(case, _)| case.end == *end))
        .collect();
    let mut text = String::from("| what the program does | |");
    for (_, name) in &ends {
        let _ = write!(text, " {name} |");
    }
    text.push_str("\n| --- | --- |");
    text.push_str(&" --- |".repeat(ends.len()));
    text.push('\n');
    let mut excused = false;
    for trick in TRICKS {
        for tty in [false, true] {
            let find = |end: End| {
                done.iter()
                    .find(|(c, _)| std::ptr::eq(c.trick, trick) && c.tty == tty && c.end == end)
            };
            if !ends.iter().any(|(end, _)| find(*end).is_some()) {
                continue;
            }
            let _ = write!(text, "| {} | {} |", trick.name, mode(tty));
            for (end, _) in &ends {
                let (cell, by_rule) = find(*end).map_or_else(Default::default, |(c, o)| cell(c, o));
                excused |= by_rule;
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
    }
    text.push_str(
        "\nA number counts what is alive: when `process/exited` is read after a kill or a timeout, \
         2 seconds after any other end. \
         Bold is what should not be; `a → b` are alive after a kill and 2 seconds after the end of the \
         connection that followed; `+ server` is a server that is still there after 3.2 seconds; \
         `–` does not apply.\n",
    );
    if excused {
        text.push_str(
            "\nᵃ A daemon that had left its group and session and cut its ancestry before the end of \
             its process: it may live until the connection ends, and died then.\n",
        );
    }
    if done.iter().any(|(case, _)| case.trick.protected > 0) {
        text.push_str(
            "\nᵇ A process of another user, which the server may not signal: it is named on stderr.\n",
        );
    }
    let slowest = done.iter().filter_map(|(_, outcome)| match outcome {
        Outcome::Left(left) => left.took,
        Outcome::Inapplicable | Outcome::Failed(_) => None,
    });
    if let Some(slowest) = slowest.max() {
        let _ = writeln!(
            text,
            "\nWhere all died at the end of the connection, the last took {} ms.",
            slowest.as_millis()
        );
    }
    let ends = |protected: bool| {
        let of_kind = done
            .iter()
            .filter(move |(case, _)| (case.trick.protected > 0) == protected);
        let ended = of_kind.filter_map(|(_, outcome)| match outcome {
            Outcome::Left(left) => left.ended,
            Outcome::Inapplicable | Outcome::Failed(_) => None,
        });
        ended.max().map(|longest| longest.as_millis())
    };
    if let Some(longest) = ends(false) {
        let _ = writeln!(
            text,
            "The end took at most {longest} ms until guard and server were gone."
        );
    }
    if let Some(longest) = ends(true) {
        let _ = writeln!(
            text,
            "With a process that cannot be killed it took at most {longest} ms."
        );
    }
    text
}

// ---- one combination ----

fn try_case(command: &[String], directory: &str, case: &Case) -> Outcome {
    let command = in_place(case.trick.place, command);
    let mut server = match Server::start(&command, &case.marker) {
        Ok(server) => server,
        Err(error) => return Outcome::Failed(format!("the server does not start: {error}")),
    };
    let outcome = server.play(directory, case).unwrap_or_else(Outcome::Failed);
    server.clean_up(&case.marker);
    outcome
}

/// The servers that were started: they are waited for by the code that has started them.
static SERVERS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    unread: Vec<u8>,
    /// What was printed by the trick.
    printed: Vec<u8>,
    exited: bool,
    answered: HashSet<u64>,
}

impl Server {
    fn start(command: &[String], marker: &str) -> std::io::Result<Server> {
        let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .env(VARIABLE, marker)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        servers.push(child.id());
        Ok(Server {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            child,
            unread: Vec::new(),
            printed: Vec::new(),
            exited: false,
            answered: HashSet::new(),
        })
    }

    fn play(&mut self, directory: &str, case: &Case) -> Result<Outcome, String> {
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let script = case
            .trick
            .script
            .replace("SELF", &format!("'{}' {PLAY}", own.display()));
        let script = script.replace("DIRECTORY", directory).replace('%', &case.marker);
        self.send(&json!({"id": 1, "method": "initialize", "params": {
            "clientInfo": {"name": "ends", "version": "1"}, "capabilities": {"experimentalApi": true}}}))?;
        self.read_until("the handshake", |s| s.answered.contains(&1))?;
        self.send(&json!({"method": "initialized"}))?;
        self.send(&json!({"id": 2, "method": "process/spawn", "params": {
            "command": ["sh", "-c", script],
            "processHandle": "trick",
            "cwd": "/",
            "tty": case.tty,
            "streamStdoutStderr": true,
            "outputBytesCap": null,
            "timeoutMs": if case.end == End::Timeout { json!(TIMEOUT_MS) } else { Value::Null },
        }}))?;
        self.read_until("the spawn", |s| s.answered.contains(&2))?;
        let trick = case.trick;
        self.read_until("the trick", |s| {
            s.exited || (!trick.leader_ends && s.printed.windows(5).any(|w| w == b"ready"))
        })?;
        if self.exited != trick.leader_ends {
            return Err("the trick has ended too early".to_owned());
        }
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            let seen = Seen::take(&case.marker);
            let count = |is: fn(&TrickProcess) -> bool| seen.tricks.iter().filter(|p| is(p)).count();
            if count(|p| p.is_sleep) >= trick.sleeps
                && count(|p| p.is_stopped) >= usize::from(trick.stopped)
                && count(|p| p.is_without_main_thread) >= trick.without_main_thread
                && count(|p| !p.is_sleep) >= trick.others
            {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("the trick does not start: {:?}", seen.tricks));
            }
            thread::sleep(Duration::from_millis(2));
        }

        let mut servers = Seen::take(&case.marker).servers;
        let now = match case.end {
            End::Kill | End::Timeout => {
                if case.end == End::Kill && !trick.leader_ends {
                    self.send(
                        &json!({"id": 3, "method": "process/kill", "params": {"processHandle": "trick"}}),
                    )?;
                }
                self.read_until("process/exited", |s| s.exited)?;
                let now = Seen::take(&case.marker).tricks.len();
                self.stdin = None;
                Some(now)
            }
            End::InputEnds => {
                self.stdin = None;
                None
            }
            End::OutputGone => {
                self.stdout = None;
                None
            }
            End::Signal(signal) => {
                self.signal(self.pid(), signal);
                None
            }
            End::KillGroup => {
                self.signal(-self.pid(), libc::SIGKILL);
                None
            }
            End::KillBelow => {
                let same_file = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
                let own = same_file(self.pid());
                let below = servers
                    .iter()
                    .copied()
                    .find(|&p| p != self.pid() && same_file(p) == own);
                let Some(below) = below else {
                    return Ok(Outcome::Inapplicable);
                };
                self.signal(below, libc::SIGKILL);
                None
            }
        };
        let began = Instant::now();
        let mut took = None;
        let mut ended = None;
        let mut alive = None;
        let server = loop {
            // A client goes on reading until the end; a signal's is its own affair.
            if self.stdout.is_some() {
                let _ = self.read(Duration::from_millis(2));
            } else {
                thread::sleep(Duration::from_millis(2));
            }
            let _ = self.child.try_wait();
            servers.retain(|&pid| {
                let server = u32::try_from(pid).ok().and_then(Proc::of);
                server.is_some_and(|server| !server.is_dead())
            });
            let ended_by = began.elapsed();
            let mut tricks = Seen::tricks(&case.marker);
            for _ in 1..trick.looks {
                if tricks.is_empty() {
                    tricks = Seen::tricks(&case.marker);
                }
            }
            let elapsed = began.elapsed();
            if servers.is_empty() {
                ended.get_or_insert(ended_by);
            }
            if tricks.is_empty() {
                took.get_or_insert(elapsed);
                if servers.is_empty() {
                    break false;
                }
            }
            if elapsed > ALIVE {
                alive.get_or_insert(tricks.len());
            }
            if ended_by > SERVER && alive.is_some() {
                break !servers.is_empty();
            }
        };
        let alive = alive.unwrap_or_default();
        Ok(Outcome::Left(Left {
            now: now.unwrap_or(alive),
            later: if now.is_some() { alive } else { 0 },
            server,
            took: took.filter(|_| alive == 0),
            ended: ended.filter(|_| !server),
        }))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is small")
    }

    /// To the process the client has started, its group or what is below it.
    fn signal(&self, pid: i32, signal: i32) {
        // SAFETY: no memory is involved; the server is not waited for before its end.
        unsafe { libc::kill(pid, signal) };
    }

    fn send(&mut self, message: &Value) -> Result<(), String> {
        let stdin = self.stdin.as_mut().ok_or("stdin is closed")?;
        stdin
            .write_all(format!("{message}\n").as_bytes())
            .map_err(|e| format!("sending failed: {e}"))
    }

    fn read_until(&mut self, what: &str, condition: impl Fn(&Server) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        while !condition(self) {
            if Instant::now() > deadline {
                return Err(format!("waited in vain for {what}"));
            }
            if !self.read(Duration::from_millis(100))? {
                return Err(format!("the server ended before {what}"));
            }
        }
        Ok(())
    }

    /// Reads what comes within `patience`; `false` at the end.
    fn read(&mut self, patience: Duration) -> Result<bool, String> {
        let Some(stdout) = &mut self.stdout else {
            return Ok(false);
        };
        let mut interest = libc::pollfd {
            fd: stdout.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, which lives here.
        if unsafe { libc::poll(&mut interest, 1, patience) } <= 0 {
            return Ok(true);
        }
        let mut buffer = [0; 65_536];
        let n = stdout.read(&mut buffer).map_err(|e| e.to_string())?;
        if n == 0 {
            self.stdout = None;
            return Ok(false);
        }
        self.unread.extend_from_slice(&buffer[..n]);
        while let Some(at) = self.unread.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=at).collect();
            let message: Value = serde_json::from_slice(&line).map_err(|e| e.to_string())?;
            self.take(&message)?;
        }
        Ok(true)
    }

    fn take(&mut self, message: &Value) -> Result<(), String> {
        let method = message["method"].as_str().unwrap_or_default();
        let params = &message["params"];
        match (method, message["id"].as_u64()) {
            ("", Some(id)) => {
                if !message["error"].is_null() {
                    return Err(format!("request {id} failed: {}", message["error"]));
                }
                self.answered.insert(id);
            }
            ("process/outputDelta", _) => {
                let bytes = params["deltaBase64"].as_str().unwrap_or_default();
                self.printed
                    .extend(base64_simd::STANDARD.decode_to_vec(bytes).unwrap_or_default());
            }
            ("process/exited", _) => self.exited = true,
            _ => {}
        }
        Ok(())
    }

    /// Ends whatever is left, and waits for it.
    fn clean_up(mut self, marker: &str) {
        let mut looks = 0;
        while looks < 3 {
            let seen = Seen::take(marker);
            let mut all: Vec<i32> = seen.tricks.iter().map(|p| p.pid).chain(seen.servers).collect();
            // Groups as well, for those who are gone when they are reached.
            let groups: HashSet<i32> = seen.tricks.iter().map(|p| p.group).collect();
            all.extend(groups.iter().filter(|&&g| g > 1).map(|g| -g));
            for &pid in &all {
                // SAFETY: no memory is involved; the process carries our number.
                unsafe { libc::kill(pid, libc::SIGSTOP) };
            }
            for &pid in &all {
                // SAFETY: as above.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            looks = if all.is_empty() { looks + 1 } else { 0 };
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.wait();
        let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|&pid| pid != self.child.id());
        for process in proc::processes() {
            let is_orphan = process.parent == std::process::id() && !servers.contains(&process.pid);
            if is_orphan && process.is_dead() {
                let pid = i32::try_from(process.pid).expect("a pid is small");
                // SAFETY: no status is asked for; an orphan that we have adopted.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
            }
        }
    }
}

// ---- who is alive ----

/// What is alive of a case.
struct Seen {
    tricks: Vec<TrickProcess>,
    servers: Vec<i32>,
}

#[derive(Debug)]
struct TrickProcess {
    pid: i32,
    group: i32,
    is_sleep: bool,
    is_stopped: bool,
    is_without_main_thread: bool,
}

impl Seen {
    fn take(marker: &str) -> Seen {
        let mut seen = Seen {
            tricks: Vec::new(),
            servers: Vec::new(),
        };
        let variable = format!("{VARIABLE}={marker}");
        for process in proc::processes() {
            let pid = i32::try_from(process.pid).expect("a pid is small");
            if let Some(trick) = TrickProcess::of(&process, marker) {
                seen.tricks.push(trick);
            } else if fs::read(format!("/proc/{pid}/environ")).is_ok_and(|e| contains(&e, &variable)) {
                seen.servers.push(pid);
            }
        }
        seen
    }

    /// The tricks alone, which takes half the time.
    fn tricks(marker: &str) -> Vec<TrickProcess> {
        let all = proc::processes();
        all.iter().filter_map(|p| TrickProcess::of(p, marker)).collect()
    }
}

impl TrickProcess {
    /// If it is one of the tricks with this number, and alive.
    fn of(process: &Proc, marker: &str) -> Option<TrickProcess> {
        // Those of the dead are empty.
        let arguments = process.arguments();
        if !contains(&arguments, marker) {
            return None;
        }
        // One that ends while it is looked at cannot be told: it is dead then.
        let now = Proc::of(process.pid).filter(|now| !now.is_dead())?;
        Some(TrickProcess {
            pid: i32::try_from(now.pid).expect("a pid is small"),
            group: i32::try_from(now.group).expect("a group is small"),
            is_sleep: arguments.starts_with(b"sleep\0"),
            is_stopped: now.state == "T",
            is_without_main_thread: now.state == "Z",
        })
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}
