//! `procwire mcp`: the engine for agents, as tools of the Model Context Protocol on stdio.
//!
//! **Thread:** `mcp` owns the session; `mcp-read` and `mcp-write` have stdin and stdout; `mcp-engine`
//! receives what the engine sends, which is served on `dispatch` over a connection in memory.
//! **Owns:** the channels between them.
//! **Never:** lets one call wait for another, and never leaves a program running: it runs under the same
//! guard as `procwire serve`.

mod buffer;
mod calls;
mod handles;
mod parameter;
mod protocol;
mod report;
mod schemas;
mod session;
mod spawn;
mod text;
mod tools;
mod wait;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, bounded};

use self::protocol::Incoming;
use self::session::{Session, Settings};
use crate::cli::guard;
use crate::cli::serve::under_guard;
use crate::server::transport::{self, Stdio, StdioReader, StdioWriter};
use crate::wire::framing::{Frame, Frames};
use crate::wire::protocol::ServerMessage;
use crate::{Config, Connection};

/// The longest line that is read.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;
/// Messages of the engine that may wait.
const ENGINE_QUEUE: usize = 64;
/// How often it is looked whether a client that does not read is gone.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// How long answers are written on for when the connection has ended: a part of the three seconds.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What the command line says.
#[derive(Debug)]
pub struct Mcp {
    pub patience: Duration,
    pub max_handles: usize,
    pub cwd: Option<PathBuf>,
    /// Who guards us; only a guard sets it.
    pub guarded_by: Option<String>,
}

impl Default for Mcp {
    fn default() -> Self {
        Mcp {
            patience: Duration::from_secs(45),
            max_handles: 64,
            cwd: None,
            guarded_by: None,
        }
    }
}

/// Serves stdio until the connection ends or a signal says so; the exit code.
pub(super) fn serve_stdio(mcp: Mcp) -> Result<i32, Box<dyn std::error::Error>> {
    let settings = Settings {
        patience: mcp.patience,
        max_handles: mcp.max_handles,
        directory: mcp.cwd,
    };
    let config = Config {
        // Any input that can be read at all can be given at once.
        max_pending_stdin_bytes: 2 * MAX_LINE_BYTES as u64,
        ..Config::default()
    };
    under_guard("mcp", mcp.guarded_by.as_deref(), config, |config| {
        let (connection, client) = Connection::memory();
        let stopper = connection.stopper();
        let body = move || {
            let engine = guard::start_thread("dispatch", move || crate::serve(connection, config))?;
            let (sender, mut receiver) = client.split();
            let (messages, from_engine) = bounded(ENGINE_QUEUE);
            guard::start_thread("mcp-engine", move || {
                while let Ok(message) = receiver.recv() {
                    if messages.send(message).is_err() {
                        return;
                    }
                }
            })?;
            let (reader, writer, wake) = Stdio::open()?;
            // One line is understood while another waits.
            let (lines, from_client) = bounded(1);
            guard::start_thread("mcp-read", move || read(reader, &lines))?;
            let (to_client, answers) = bounded(1);
            let (written, all_written) = bounded::<()>(0);
            guard::start_thread("mcp-write", move || {
                write(writer, &answers);
                drop(written);
            })?;
            run(
                Session::new(settings, sender),
                &from_client,
                &from_engine,
                to_client,
            );
            wake.wake();
            // A client that does not read is not waited for.
            let _ = all_written.recv_timeout(LAST_ANSWERS);
            match engine.join() {
                Ok(end) => end.map_err(io::Error::other),
                Err(_) => Err(io::Error::other("the engine has panicked")),
            }
        };
        (stopper, body)
    })
}

/// Tells the session what comes, and sends what it answers, until the engine has ended.
fn run(
    mut session: Session,
    from_client: &Receiver<Incoming>,
    from_engine: &Receiver<ServerMessage>,
    to_client: Sender<Vec<u8>>,
) {
    loop {
        let takes_messages = session.takes_messages();
        // A client that does not read may be gone, which the reader of its lines does not see then.
        let look = (!takes_messages).then(|| Instant::now() + LOOK_PAUSE);
        let at_once = session.is_behind().then(Instant::now);
        let deadline = [session.deadline(), look, at_once].into_iter().flatten().min();
        let mut select = Select::new();
        let engine = select.recv(from_engine);
        let client = takes_messages.then(|| select.recv(from_client));
        let writer = (!session.unsent().is_empty()).then(|| select.send(&to_client));
        let ready = match deadline {
            None => Some(select.select()),
            Some(deadline) => select.select_deadline(deadline).ok(),
        };
        let now = Instant::now();
        let Some(ready) = ready else {
            if look.is_some() && transport::stdin_hung_up() {
                session.client_is_gone();
            }
            session.time_is(now);
            session.catch_up(now);
            continue;
        };
        match ready.index() {
            index if index == engine => match ready.recv(from_engine) {
                Ok(message) => session.engine_says(message, now),
                Err(_) => break,
            },
            index if Some(index) == client => match ready.recv(from_client) {
                Ok(incoming) => session.client_says(incoming, now),
                Err(_) => session.client_is_gone(),
            },
            index if Some(index) == writer => {
                let line = session.unsent().pop_front().unwrap_or_default();
                // The writer takes everything until the end.
                let _ = ready.send(&to_client, line);
            }
            _ => unreachable!("an operation that was not asked for"),
        }
        if deadline.is_some_and(|deadline| now >= deadline) {
            session.time_is(now);
        }
        session.catch_up(now);
    }
    session.engine_is_gone();
    let until = Instant::now() + LAST_ANSWERS;
    for line in session.unsent().drain(..) {
        if to_client.send_deadline(line, until).is_err() {
            return;
        }
    }
}

/// Reads lines until there are no more, or nothing is left to take them; the body of `mcp-read`.
fn read(reader: StdioReader, lines: &Sender<Incoming>) {
    let mut frames = Frames::lines(reader, MAX_LINE_BYTES);
    loop {
        let incoming = match frames.next() {
            Ok(Frame::Message(line)) => protocol::parse(line),
            Ok(Frame::Invalid(error)) => protocol::refused(&error),
            Ok(Frame::Headers) => continue,
            Ok(Frame::End) => return,
            // The client has closed its end of the output.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return,
            Err(e) => {
                log::warn!("reading requests failed, which ends the connection: {e}");
                return;
            }
        };
        if lines.send(incoming).is_err() {
            return;
        }
    }
}

/// Writes lines until there are no more; the body of `mcp-write`.
fn write(mut writer: StdioWriter, answers: &Receiver<Vec<u8>>) {
    let mut gone = false;
    for line in answers {
        if !gone && let Err(e) = writer.write_all(&line) {
            log::debug!("writing to the client failed: {e}");
            // The reader notices it too, and ends the connection.
            gone = true;
        }
    }
}
