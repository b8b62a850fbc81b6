//! A client of one server: its start, its lines, its end.
//!
//! One thread does everything: a reader thread would add a hop between threads to every latency.
//! Writes never block, so a server that answers before it reads on cannot lock the two up.

use crate::scan::{self, Event};
use crate::tree;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may say nothing while something is due.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a server may take to end after its stdin was closed.
const FAREWELL: Duration = Duration::from_secs(5);
/// What is read at once; small enough to stay in a core's cache.
const CHUNK: usize = 256 * 1024;

/// How to start a server.
#[derive(Clone)]
pub struct Start {
    /// The command, in words.
    pub words: Vec<String>,
    /// The longest a row may take in all.
    pub limit: Duration,
    /// Whether the server's stderr is shown.
    pub stderr: bool,
}

/// What to spawn; the parameters of `process/spawn`.
#[derive(Clone, Copy, Default)]
pub struct Program<'a> {
    pub command: &'a [&'a str],
    pub tty: bool,
    pub stream_stdin: bool,
    pub stream_stdout_stderr: bool,
    /// Neither a cap on the output nor a timeout, rather than the defaults.
    pub unlimited: bool,
}

/// A connection to a running server.
pub struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    buffer: Vec<u8>,
    unread: Range<usize>,
    /// Whether the server's lines have to be brought into the compact spelling.
    respell: bool,
    respelt: Vec<u8>,
    unsent: Vec<u8>,
    sent: usize,
    next_id: u64,
    next_handle: u64,
    /// The processes that are to stay alive until the end.
    idle: BTreeSet<u64>,
    limit: Duration,
    until: Instant,
}

impl Start {
    /// Starts a server and waits for its answer to `initialize`.
    pub fn client(&self) -> Result<Client, String> {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if !self.stderr {
            command.stderr(Stdio::null());
        }
        let mut child = command
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.words[0]))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the server has no pipes".to_owned());
        };
        let mut client = Client {
            child,
            stdin: None,
            stdout,
            buffer: vec![0; CHUNK],
            unread: 0..0,
            respell: false,
            respelt: Vec::new(),
            unsent: Vec::new(),
            sent: 0,
            next_id: 0,
            next_handle: 0,
            idle: BTreeSet::new(),
            limit: self.limit,
            until: Instant::now() + self.limit,
        };
        set_nonblocking(&stdin)?;
        client.stdin = Some(stdin);
        let id = client.request(
            "initialize",
            r#"{"clientInfo":{"name":"bench","title":"bench","version":"1"},"capabilities":{"experimentalApi":true}}"#,
        )?;
        // The first line shows how the server spells the rest.
        let line = client.line()?;
        client.respell = scan::event(&client.buffer[line.clone()]).is_none();
        client.unread.start = line.start;
        client.answer(id)?;
        client.send("{\"method\":\"initialized\"}\n")?;
        Ok(client)
    }
}

impl Client {
    /// Sends a request and returns its id.
    pub fn request(&mut self, method: &str, params: &str) -> Result<u64, String> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&format!(
            "{{\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}\n"
        ))?;
        Ok(id)
    }

    /// Sends a spawn and returns the request's id and the number in the handle.
    pub fn spawn(&mut self, program: Program<'_>) -> Result<(u64, u64), String> {
        let handle = self.next_handle;
        self.next_handle += 1;
        let mut params = String::with_capacity(256);
        // Writing to a String cannot fail.
        let _ = write!(
            params,
            "{{\"command\":{},\"processHandle\":\"b{handle}\",\"cwd\":\"/\",\"tty\":{},\"streamStdin\":{},\"streamStdoutStderr\":{}",
            serde_json::json!(program.command),
            program.tty,
            program.stream_stdin,
            program.stream_stdout_stderr
        );
        if program.unlimited {
            params.push_str(",\"outputBytesCap\":null,\"timeoutMs\":null");
        }
        params.push('}');
        Ok((self.request("process/spawn", &params)?, handle))
    }

    /// Sends a spawn and waits for its answer.
    pub fn spawned(&mut self, program: Program<'_>) -> Result<u64, String> {
        let (id, handle) = self.spawn(program)?;
        self.answer(id)?;
        Ok(handle)
    }

    /// Sends bytes for a process's stdin, already in base64.
    pub fn write_stdin(&mut self, handle: u64, base64: &str, close: bool) -> Result<u64, String> {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = String::with_capacity(base64.len() + 128);
        let _ = write!(
            line,
            "{{\"id\":{id},\"method\":\"process/writeStdin\",\"params\":{{\"processHandle\":\"b{handle}\",\"deltaBase64\":\""
        );
        line.push_str(base64);
        line.push_str(if close {
            "\",\"closeStdin\":true}}\n"
        } else {
            "\"}}\n"
        });
        self.send(&line)?;
        Ok(id)
    }

    /// Waits until a request is answered, and is refused if that is an error.
    pub fn answer(&mut self, id: u64) -> Result<(), String> {
        loop {
            if let Event::Response { id: answered, .. } = self.next()?
                && answered == id
            {
                return Ok(());
            }
        }
    }

    /// Starts processes that live until the end, so many that there are `count` of them.
    pub fn keep_alive(&mut self, count: u64) -> Result<(), String> {
        const WINDOW: u64 = 16;
        let cat = Program {
            command: &["cat"],
            stream_stdin: true,
            stream_stdout_stderr: true,
            unlimited: true,
            ..Program::default()
        };
        let mut answered = self.idle.len() as u64;
        while answered < count {
            while (self.idle.len() as u64) < count.min(answered + WINDOW) {
                let (_, handle) = self.spawn(cat)?;
                self.idle.insert(handle);
            }
            if let Event::Response { .. } = self.next()? {
                answered += 1;
            }
        }
        Ok(())
    }

    /// Gives what comes now the whole limit again.
    pub fn extend(&mut self) {
        self.until = Instant::now() + self.limit;
    }

    /// The next line, whatever it is.
    ///
    /// Errors that the server answers, and an idle process that ends, are errors here:
    /// no row counts on either.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Event<'_>, String> {
        let line = loop {
            let line = self.line()?;
            if !self.buffer[line.clone()].trim_ascii().is_empty() {
                break line;
            }
        };
        let mut line = &self.buffer[line];
        if self.respell {
            self.respelt = serde_json::from_slice::<serde_json::Value>(line)
                .and_then(|value| serde_json::to_vec(&value))
                .map_err(|error| format!("not JSON: {error}: {}", excerpt(line)))?;
            line = &self.respelt;
        }
        match scan::event(line) {
            None => Err(format!("an unknown line: {}", excerpt(line))),
            Some(Event::Response {
                failed: true, line, ..
            }) => Err(format!("the server answered {}", excerpt(line))),
            Some(Event::Exited { handle, line }) if self.idle.contains(&handle) => {
                Err(format!("an idle process ended: {}", excerpt(line)))
            }
            Some(event) => Ok(event),
        }
    }

    /// Where in the buffer the next line is.
    fn line(&mut self) -> Result<Range<usize>, String> {
        // What has been searched already is not searched again.
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.unread.clone()];
            if let Some(at) = scan::find_byte(&unread[searched..], b'\n') {
                let start = self.unread.start;
                let end = start + searched + at;
                self.unread.start = end + 1;
                return Ok(start..end);
            }
            searched = unread.len();
            self.fill()?;
        }
    }

    /// Reads what there is, and writes what is left to write, waiting for either.
    fn fill(&mut self) -> Result<(), String> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.buffer.len() - self.unread.end < CHUNK / 2 {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            if self.buffer.len() - self.unread.end < CHUNK / 2 {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        loop {
            let (readable, writable) = self.wait()?;
            if writable {
                self.flush()?;
            }
            if readable {
                match self.stdout.read(&mut self.buffer[self.unread.end..]) {
                    Ok(0) => return Err(self.ended()),
                    Ok(count) => {
                        self.unread.end += count;
                        return Ok(());
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(format!("cannot read from the server: {error}")),
                }
            }
        }
    }

    /// Waits until the server has something to say, or takes what there is to send.
    fn wait(&self) -> Result<(bool, bool), String> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("not done within the limit for a row".to_owned());
        }
        let stdin = match &self.stdin {
            Some(stdin) if !self.unsent.is_empty() => stdin.as_raw_fd(),
            _ => -1,
        };
        let ready = poll(
            [(self.stdout.as_raw_fd(), libc::POLLIN), (stdin, libc::POLLOUT)],
            left.min(SILENCE),
        )
        .map_err(|error| format!("cannot wait for the server: {error}"))?;
        match ready {
            [false, false] if left > SILENCE => {
                Err(format!("no word from the server for {} s", SILENCE.as_secs()))
            }
            [readable, writable] => Ok((readable, writable)),
        }
    }

    fn send(&mut self, line: &str) -> Result<(), String> {
        self.unsent.extend_from_slice(line.as_bytes());
        self.flush()
    }

    /// Writes as much as the pipe takes now.
    fn flush(&mut self) -> Result<(), String> {
        let Some(stdin) = &mut self.stdin else {
            return Err("the server's stdin is closed".to_owned());
        };
        while self.sent < self.unsent.len() {
            match stdin.write(&self.unsent[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("cannot write to the server: {error}")),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }

    /// Why there is nothing more to read.
    fn ended(&mut self) -> String {
        // The end of the pipe is seen a moment before the end of the process.
        std::thread::sleep(Duration::from_millis(50));
        match self.child.try_wait() {
            Ok(Some(status)) => format!("the server ended: {status}"),
            _ => "the server closed its stdout".to_owned(),
        }
    }
}

impl Drop for Client {
    /// Lets the server end by itself, and makes sure of it; nothing it started stays either.
    fn drop(&mut self) {
        self.stdin = None;
        let until = Instant::now() + FAREWELL;
        let mut open = true;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            // A server may have to get rid of its last lines before it can end.
            let pause = Duration::from_millis(2);
            let stdout = self.stdout.as_raw_fd();
            if !open {
                std::thread::sleep(pause);
            } else if let Ok([true]) = poll([(stdout, libc::POLLIN)], pause) {
                open = matches!(self.stdout.read(&mut self.buffer), Ok(count) if count > 0);
            }
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            eprintln!("  the server did not end by itself");
            if let Ok(group) = libc::pid_t::try_from(self.child.id()) {
                // SAFETY: the call takes integers only; the group is the server's own, and its
                // leader has not been reaped.
                unsafe { libc::killpg(group, libc::SIGKILL) };
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let left = tree::sweep();
        if left > 0 {
            eprintln!("  the server left processes running: {left}");
        }
    }
}

/// The beginning of a line, for a message.
pub fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned()
}

/// Waits until one of the descriptors is ready, or broken, and says which; -1 stands for none.
pub fn poll<const N: usize>(wanted: [(i32, i16); N], timeout: Duration) -> std::io::Result<[bool; N]> {
    let mut fds = wanted.map(|(fd, events)| libc::pollfd {
        fd,
        events,
        revents: 0,
    });
    let milliseconds = i32::try_from(timeout.as_millis().max(1)).unwrap_or(i32::MAX);
    loop {
        // SAFETY: the pointer and the length describe the array above.
        let count = unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, milliseconds) };
        if count >= 0 {
            return Ok(fds.map(|fd| fd.revents != 0));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn set_nonblocking(stdin: &ChildStdin) -> Result<(), String> {
    let fd = stdin.as_raw_fd();
    // SAFETY: the calls take integers only, and the descriptor is open.
    let set = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if set < 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    Ok(())
}
