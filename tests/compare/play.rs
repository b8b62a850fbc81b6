//! The player: one server, one scenario, a transcript.
//!
//! Part of the comparison program; see `compare.rs` for how to run it.
//! Everything that could block has a thread of its own (the server's stdin, its
//! stdout), so that the player only ever waits on a channel, with a deadline.

use crate::script::{Action, Fixture, Scenario};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to end once its stdin is closed. More than the
/// protocol allows, since that limit is for other tests to hold it to.
const END_WAIT: Duration = Duration::from_secs(10);

/// How long a server may take to answer the handshake: a first start from a
/// cold disk is slow.
const START: Duration = Duration::from_secs(30);

/// A line of a conversation.
pub enum Line {
    /// From the client.
    Sent(Vec<u8>),
    /// From the server.
    Got(Vec<u8>),
    /// The client closed the server's stdin. What the server does to processes
    /// after that is a race with its own end.
    Closed,
}

/// A conversation that is over.
pub struct Played {
    /// All lines, with the time since the start.
    pub lines: Vec<(Duration, Line)>,
    /// The step that never came true, if the client had to give up.
    pub gave_up: Option<String>,
    /// How the server ended.
    pub end: String,
    /// The directory that stood for `%DIR%`.
    pub dir: PathBuf,
}

/// Makes a scenario's directory and what is in it. For all servers before the
/// first is started: a process that is forked while a file is open for writing
/// holds it open, and a program held open so cannot be run.
pub fn prepare(scenario: &Scenario, dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let here = dir.to_string_lossy();
    for fixture in &scenario.fixtures {
        match fixture {
            Fixture::File(name, mode, text) => {
                let path = dir.join(name);
                fs::write(&path, text.replace("%DIR%", &here))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
            }
            Fixture::Dir(name) => fs::create_dir_all(dir.join(name))?,
            Fixture::Link(name, target) => {
                symlink(target.replace("%DIR%", &here), dir.join(name))?;
            }
        }
    }
    Ok(())
}

/// Plays a scenario against a server started for it alone.
pub fn play(
    argv: &[String],
    scenario: &Scenario,
    dir: &Path,
    deadline: Duration,
    show_stderr: bool,
) -> Result<Played, String> {
    let (program, args) = argv.split_first().ok_or("an empty command")?;
    let mut child = Command::new(program)
        .args(args)
        // A group of its own, so that the end can be sure to reach what a
        // wrapper script started.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(if show_stderr {
            Stdio::inherit()
        } else {
            Stdio::null()
        })
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    let mut player = Player {
        started: Instant::now(),
        dir,
        input: feed(&mut child),
        output: listen(&mut child),
        lines: Vec::new(),
        unsent: Vec::new(),
        requests: 0,
        seen: Seen::default(),
    };
    let gave_up = player.run(scenario, deadline).err();
    let end = player.end(&mut child);
    Ok(Played {
        lines: player.lines,
        gave_up,
        end,
        dir: dir.to_owned(),
    })
}

/// Writes to the server's stdin what is sent to the channel, and closes it with
/// the channel.
fn feed(child: &mut Child) -> Option<Sender<Vec<u8>>> {
    let mut stdin = child.stdin.take()?;
    let (sender, receiver) = channel::<Vec<u8>>();
    thread::spawn(move || {
        for bytes in receiver {
            // A server that is gone is noticed by the reader.
            if stdin.write_all(&bytes).is_err() {
                break;
            }
        }
    });
    Some(sender)
}

/// Reads the server's stdout by lines; the channel ends with it.
fn listen(child: &mut Child) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            loop {
                let mut line = Vec::new();
                match reader.read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {
                        if sender.send(line).is_err() {
                            break;
                        }
                    }
                }
            }
        });
    }
    receiver
}

/// What the steps wait for, kept up to date line by line.
#[derive(Default)]
struct Seen {
    /// Requests on their way, by id; for a spawn with its handle.
    asked: HashMap<String, Option<String>>,
    /// Ids of the responses.
    answered: Vec<String>,
    /// For each handle: spawns on their way, spawned, exited.
    lives: HashMap<String, (usize, usize, usize)>,
    /// What each handle's streams brought since its last spawn.
    output: HashMap<(String, String), Vec<u8>>,
}

impl Seen {
    fn sent(&mut self, line: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        let Some(id) = message.get("id") else {
            return;
        };
        let mut handle = None;
        if message["method"] == "process/spawn"
            && let Some(name) = message["params"]["processHandle"].as_str()
        {
            self.lives.entry(name.to_owned()).or_default().0 += 1;
            handle = Some(name.to_owned());
        }
        self.asked.insert(id.to_string(), handle);
    }

    fn got(&mut self, line: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        let params = &message["params"];
        let handle = params["processHandle"].as_str().unwrap_or("").to_owned();
        match message["method"].as_str() {
            Some("process/outputDelta") => {
                let stream = params["stream"].as_str().unwrap_or("").to_owned();
                let delta = params["deltaBase64"].as_str().unwrap_or("");
                if let Ok(bytes) = base64_simd::STANDARD.decode_to_vec(delta) {
                    let output = self.output.entry((handle, stream)).or_default();
                    output.extend(bytes);
                }
            }
            Some("process/exited") => self.lives.entry(handle).or_default().2 += 1,
            Some(_) => {}
            None => {
                let id = message["id"].to_string();
                if let Some(Some(handle)) = self.asked.remove(&id) {
                    let life = self.lives.entry(handle.clone()).or_default();
                    life.0 = life.0.saturating_sub(1);
                    if message.get("result").is_some() {
                        life.1 += 1;
                        self.output.retain(|(name, _), _| *name != handle);
                    }
                }
                self.answered.push(id);
            }
        }
    }

    fn gone(&self, handle: &str) -> bool {
        self.lives
            .get(handle)
            .is_none_or(|(asked, spawned, exited)| *asked == 0 && exited >= spawned)
    }

    fn brought(&self, handle: &str, stream: &str, text: &str) -> bool {
        self.output
            .get(&(handle.to_owned(), stream.to_owned()))
            .is_some_and(|bytes| {
                bytes
                    .windows(text.len().max(1))
                    .any(|window| window == text.as_bytes())
            })
    }
}

struct Player<'a> {
    started: Instant,
    dir: &'a Path,
    input: Option<Sender<Vec<u8>>>,
    output: Receiver<Vec<u8>>,
    lines: Vec<(Duration, Line)>,
    /// Lines that go out together.
    unsent: Vec<u8>,
    /// The number of the last request.
    requests: u64,
    seen: Seen,
}

impl Player<'_> {
    /// Plays all steps; the error is the step that never came true.
    fn run(&mut self, scenario: &Scenario, deadline: Duration) -> Result<(), String> {
        let deadline = scenario.deadline.unwrap_or(deadline);
        if scenario.handshake {
            let mut capabilities = json!({"experimentalApi": true});
            if !scenario.opt_out.is_empty() {
                capabilities["optOutNotificationMethods"] = json!(scenario.opt_out);
            }
            self.send_json(&json!({"id": "hello", "method": "initialize", "params": {
                "clientInfo": {"name": "compare", "version": "1"},
                "capabilities": capabilities,
            }}));
            let hello = json!("hello").to_string();
            self.wait("the handshake", START, |seen| seen.answered.contains(&hello))?;
            self.send_json(&json!({"method": "initialized"}));
            self.flush();
        }
        for step in &scenario.steps {
            let text = &step.text;
            match &step.action {
                Action::Request(method, params, wait) => {
                    self.requests += 1;
                    let id = self.requests;
                    let mut message = json!({"id": id, "method": method});
                    if let Some(params) = params {
                        message["params"] = params.clone();
                    }
                    self.send_json(&message);
                    if *wait {
                        let id = id.to_string();
                        self.wait(text, deadline, |seen| seen.answered.contains(&id))?;
                    }
                }
                Action::Line(line) => {
                    self.send(line);
                    self.flush();
                }
                Action::Answers => {
                    // Only the numbered ones: a raw line may well get nothing.
                    self.wait(text, deadline, |seen| {
                        seen.asked
                            .keys()
                            .all(|id| !id.bytes().all(|byte| byte.is_ascii_digit()))
                    })?;
                }
                Action::Answer(id) => {
                    let id = id.to_string();
                    self.wait(text, deadline, |seen| seen.answered.contains(&id))?;
                }
                Action::Output(handle, stream, wanted) => {
                    self.wait(text, deadline, |seen| seen.brought(handle, stream, wanted))?;
                }
                Action::Exited(handle) => {
                    self.wait(text, deadline, |seen| seen.gone(handle))?;
                }
                Action::Pause(time) => {
                    self.flush();
                    let until = Instant::now() + *time;
                    while self.take(until).is_ok() {}
                }
            }
        }
        self.flush();
        Ok(())
    }

    fn send_json(&mut self, message: &Value) {
        self.send(&message.to_string());
    }

    /// Puts a line with what goes out next.
    fn send(&mut self, line: &str) {
        let line = line.replace("%DIR%", &self.dir.to_string_lossy());
        self.seen.sent(line.as_bytes());
        self.unsent.extend_from_slice(line.as_bytes());
        self.unsent.push(b'\n');
        let at = self.started.elapsed();
        self.lines.push((at, Line::Sent(line.into_bytes())));
    }

    fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.unsent);
        if let (false, Some(input)) = (bytes.is_empty(), &self.input) {
            // Fails only where the server is gone, which the reader notices.
            let _ = input.send(bytes);
        }
    }

    /// Takes one line from the server.
    fn take(&mut self, until: Instant) -> Result<(), RecvTimeoutError> {
        let left = until.saturating_duration_since(Instant::now());
        let line = self.output.recv_timeout(left)?;
        self.seen.got(&line);
        self.lines.push((self.started.elapsed(), Line::Got(line)));
        Ok(())
    }

    fn wait(&mut self, what: &str, deadline: Duration, done: impl Fn(&Seen) -> bool) -> Result<(), String> {
        self.flush();
        let until = Instant::now() + deadline;
        while !done(&self.seen) {
            match self.take(until) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = deadline.as_secs();
                    return Err(format!("{what} (not within {seconds} s)"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("{what} (the server closed its stdout)"));
                }
            }
        }
        Ok(())
    }

    /// Closes the server's stdin, waits for its end, makes sure of it.
    fn end(&mut self, child: &mut Child) -> String {
        self.input = None;
        self.lines.push((self.started.elapsed(), Line::Closed));
        let until = Instant::now() + END_WAIT;
        while let Ok(()) = self.take(until) {}
        let ended = loop {
            match child.try_wait() {
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(2)),
                ended => break ended,
            }
        };
        // What a wrapper left behind, or all of a server that does not end. No
        // new process has taken the group's number in the meantime: the system
        // hands out all others first.
        let group = format!("kill -s KILL -- -{}", child.id());
        let _ = Command::new("sh")
            .args(["-c", &group])
            .stderr(Stdio::null())
            .status();
        let _ = child.wait();
        match ended {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => format!("not within {} s of its stdin's end", END_WAIT.as_secs()),
            Err(error) => error.to_string(),
        }
    }
}
