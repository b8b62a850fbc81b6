//! The dispatcher: `serve`, its events, the handle table, the end of a connection.
//!
//! **Thread:** the caller of [`serve`].
//! **Owns:** the table of handles, the order of requests on each, and what a connection's end waits for.
//! **Never:** waits for anything but its next event while there is a process: not for a process, not for
//! the writer, not for the client. Only when all is over does [`serve`] wait for the writer.

pub(crate) mod connection;
pub(crate) mod error;
mod spin;
mod transport;

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, never, select, unbounded,
};

use self::connection::{Connection, INBOX, Io};
use self::error::Error;
use self::spin::{Pace, Spin};
use self::transport::{Dialect, Inbound, Wake};
use crate::outbox::{CHUNK, MAX_IN_FLIGHT, Notice, Outbox, outbox, weight_of_strings};
use crate::process::output::BUSY_PIPES;
use crate::process::spawn::{self, Environment, Nursery};
use crate::process::stdin::{FREE, UNANSWERED_COST, unanswered_cost};
use crate::process::tree::Camera;
use crate::process::{self, Command, Common, DRAIN, ProcessEvent, Start, Vitals};
use crate::sys::{self, Birth, EventFd};
use crate::wire::message::ClientMessage;
use crate::wire::modes;
use crate::wire::protocol::{
    InitializeParams, InitializeReply, KillParams, Limits, MAX_HANDLE_BYTES, ProcessInfo, PtySize, Reply,
    Request, RequestId, ResizePtyParams, RpcError, ServerInfo, SignalName, SpawnParams, Stage,
    WriteStdinParams, code, shortened,
};
use crate::wire::signal;

/// How long the end of a connection may take, whatever the children or the client do. The rest of the
/// three seconds belongs to the sweeps that follow in the binary.
const END: Duration = Duration::from_millis(1_600);
/// How long requests that still come are taken once the connection is ending.
const LAST_REQUESTS: Duration = Duration::from_millis(200);
/// How long a client that has ended its input may leave us without room for the requests before that
/// end. That is part of [`END`].
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a process may still be starting once the connection is ending: then it is given up, so that a
/// program on a disk that does not answer leaves no request unanswered.
const START_AT_END: Duration = Duration::from_millis(1_000);
/// How long a list waits while none of the spawns before it succeeds or fails. Longer than a busy program
/// file is retried for, because such a spawn does succeed or fail.
const LIST_WAIT: Duration = Duration::from_millis(700);
/// Writes to one process that may wait for their answers, by what they count. Twice what can be in
/// flight, so that it takes a process that does not read, and a client that does not await, to meet it.
const MAX_UNANSWERED: usize = 2 * MAX_IN_FLIGHT * UNANSWERED_COST;
/// Bytes of spawns that have not come to something, and of what waits for them, past which no request
/// is taken. Nothing that is yet to be read ends that waiting: a spawn comes to something by itself,
/// or, if it is held back, once the client has read what earlier processes have left.
const MAX_WAITING: usize = 32 * 1024 * 1024;
/// What a request that waits costs beside its bytes.
const WAITING_COST: usize = 256;
/// Handles of ended processes that are remembered, in bytes, before the first are forgotten.
const FORGOTTEN_AT: usize = 4 * 1024;
/// A process thread's stack. It is only touched as far as it is used; measured depth is under 16 KiB.
const STACK: usize = 128 * 1024;

/// Defaults and limits of a server. All have the values the protocol names.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// The longest line a client may send, in bytes (16 MiB). A longer one is refused and skipped.
    /// Connections in memory have no lines.
    pub max_message_bytes: usize,
    /// `timeoutMs` where a spawn leaves it out, in milliseconds (10,000); `None`: no timeout.
    pub default_timeout_ms: Option<u64>,
    /// `outputBytesCap` where a spawn leaves it out (1 MiB); `None`: no cap.
    pub default_output_bytes_cap: Option<u64>,
    /// Pending stdin of a process above which a write is refused (8 MiB).
    pub max_pending_stdin_bytes: u64,
    /// End of input means "no more requests": wait until every process has exited (no).
    pub drain: bool,
    /// How many descriptors a program may have open (the soft `RLIMIT_NOFILE`); `None`: as many as this
    /// one. For a server that has raised its own limit, which its programs should not notice.
    pub child_descriptor_limit: Option<u64>,
    /// Called with the pid of each process that was spawned with `detach`, on its own thread, before
    /// its spawn is answered and before it can be reaped: for a process that sweeps up after the server
    /// and has to spare it. The pid may be recycled later; what tells the two apart is the start time in
    /// `/proc`.
    pub on_detach: Option<Arc<dyn Fn(u32) + Send + Sync>>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("max_message_bytes", &self.max_message_bytes)
            .field("default_timeout_ms", &self.default_timeout_ms)
            .field("default_output_bytes_cap", &self.default_output_bytes_cap)
            .field("max_pending_stdin_bytes", &self.max_pending_stdin_bytes)
            .field("drain", &self.drain)
            .field("child_descriptor_limit", &self.child_descriptor_limit)
            .finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_message_bytes: 16 * 1024 * 1024,
            default_timeout_ms: Some(10_000),
            default_output_bytes_cap: Some(1024 * 1024),
            max_pending_stdin_bytes: 8 * 1024 * 1024,
            drain: false,
            child_descriptor_limit: None,
            on_detach: None,
        }
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client has sent all it had.
    InputEnded,
    /// The client no longer reads answers.
    OutputGone,
    /// [`Stopper::stop`](crate::Stopper::stop) was called.
    Stopped,
}

/// Serves one connection on the calling thread until it ends, and says why it did.
///
/// When it returns, every process that was started on the connection has been killed and reaped,
/// with all it had started that could be found without changing anything process-wide: its process
/// group, its session, and whatever descends from those by living parents. A daemon that has cut
/// its ancestry before that is found only by a child subreaper, which the `procwire` binary is and a
/// library must not make of its program.
///
/// # Errors
///
/// Fails before anything is served if SIGCHLD is ignored in this program, because then the exit
/// of a child cannot be seen, or if the threads for the connection cannot be started.
pub fn serve(connection: Connection, config: Config) -> Result<End, Error> {
    if sys::children_are_reaped_by_the_kernel() {
        return Err(Error::children_ignored());
    }
    // Chosen before there is a client that waits.
    sys::backend();
    let Connection {
        kind,
        notices,
        notify,
    } = connection;
    let (inbox, outbox, transport, pace) = match kind.into_io() {
        Err((inbox, outbox)) => (inbox, outbox, None, Pace::new(false)),
        Ok(io) => {
            let pace = Pace::new(true);
            let limit = config.max_message_bytes;
            let (inbox, outbox, transport) = Transport::start(io, notify, limit, pace.spin())?;
            (inbox, outbox, Some(transport), pace)
        }
    };
    let mut dispatcher = Dispatcher::new(config, inbox, notices, outbox, pace);
    dispatcher.on_stdio = transport.as_ref().is_some_and(|t| t.wake_reader.is_some());
    let mut end = dispatcher.run();
    let mut deadline = dispatcher.deadline.unwrap_or_else(|| Instant::now() + END);
    // A client that has its processes drained has asked for everything, and may take its time to read it.
    let patient = dispatcher.config.drain && end == End::InputEnded;
    let notices = dispatcher.notices.clone();
    // The last sender of the outbox: the writer comes to its end behind what is queued.
    drop(dispatcher);
    if let Some(transport) = transport {
        if patient && transport.wait_for_reader(&notices) {
            end = End::Stopped;
            deadline = Instant::now() + END;
        }
        transport.finish(deadline);
    }
    Ok(end)
}

/// The threads of a connection that has lines.
struct Transport {
    writer_done: Receiver<()>,
    wake_reader: Option<Wake>,
}

impl Transport {
    fn start(
        io: Io,
        notify: Sender<Notice>,
        limit: usize,
        spin: Arc<Spin>,
    ) -> Result<(Receiver<Inbound>, Outbox, Transport), Error> {
        let (reader, writer, wake_reader) = io.open().map_err(Error::stdio)?;
        let dialect = Arc::new(Dialect::default());
        let (inbox_sender, inbox) = bounded(INBOX);
        let (outbox, receiver) = outbox(notify.clone());
        let (done, writer_done) = bounded(1);
        {
            let dialect = Arc::clone(&dialect);
            thread("rpc-write", move || {
                transport::write_messages(receiver, writer, &dialect, &spin);
                let _ = done.send(());
            })?;
        }
        let output = wake_reader.clone();
        thread("rpc-read", move || {
            transport::read_messages(reader, inbox_sender, &dialect, limit);
            // A client that has ended its input, and has its processes drained, may still go away.
            if output.is_some_and(|output| output.output_hangs_up()) {
                let _ = notify.send(Notice::OutputGone);
            }
        })?;
        let transport = Transport {
            writer_done,
            wake_reader,
        };
        Ok((inbox, outbox, transport))
    }

    /// Waits for what is queued to be written, however long the client takes to read it, as any program
    /// waits for the reader of its pipe. Where the client goes away, the writer comes to its end as well.
    /// Whether the wait was ended by [`Stopper::stop`](crate::Stopper::stop).
    fn wait_for_reader(&self, notices: &Receiver<Notice>) -> bool {
        loop {
            select! {
                recv(self.writer_done) -> _ => return false,
                recv(notices) -> notice => match notice {
                    Ok(Notice::Room | Notice::OutputGone) => {}
                    Ok(Notice::Stop) => return true,
                    // No sender is left, so no end can be asked for.
                    Err(_) => {
                        let _ = self.writer_done.recv();
                        return false;
                    }
                },
            }
        }
    }

    /// Waits for what is queued to be written, but not past `deadline`: a client that does not read
    /// leaves the writer where it is, and it ends with the program or with the client.
    fn finish(self, deadline: Instant) {
        if let Some(wake) = self.wake_reader {
            wake.wake();
        }
        // One that has ended before has said so, and is gone.
        if let Err(RecvTimeoutError::Timeout) = self.writer_done.recv_deadline(deadline) {
            log::debug!("the client has not read everything in time");
        }
    }
}

fn thread(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    sys::start_thread(name, sys::STACK, body)
        .map(drop)
        .map_err(|e| Error::thread(name, e))
}

/// Everything the dispatcher reacts to.
enum Event {
    Message(ClientMessage),
    InputEnded,
    /// No request could be taken for some time.
    NoRoom,
    Notice(Notice),
    Process(ProcessEvent),
    /// It is time to look at the deadlines.
    Time,
    /// A channel of our own has ended, which cannot be.
    Lost,
}

/// A live handle.
struct Entry {
    serial: u64,
    params: Arc<SpawnParams>,
    vitals: Arc<Vitals>,
    inbox: Sender<Command>,
    wake: Arc<EventFd>,
    /// While the process is being started.
    starting: Option<Backlog>,
}

/// What waits for a process to be started.
struct Backlog {
    /// The id of its spawn.
    id: RequestId,
    since: Instant,
    birth: Arc<Birth>,
    /// What came for its handle after its spawn.
    requests: VecDeque<(RequestId, Request)>,
    /// What counts against [`MAX_WAITING`]: those, and the spawn itself.
    bytes: usize,
}

/// A list that cannot be answered yet.
struct WaitingList {
    id: RequestId,
    /// The spawns that were sent before it and have not come to something.
    spawns: HashSet<u64>,
    /// It is answered without them then.
    until: Instant,
    /// What it counts against [`MAX_WAITING`].
    bytes: usize,
}

impl Entry {
    fn command(&self, command: Command) {
        // Fails where it could not be started, of which the word is on its way. Otherwise the process
        // thread has gone without one, which is a bug of ours.
        if self.inbox.send(command).is_err() && self.starting.is_none() {
            log::error!("the thread of process {} is gone", self.serial);
        }
        self.wake.set();
    }
}

struct Dispatcher {
    config: Config,
    inbox: Receiver<Inbound>,
    input_open: bool,
    /// The input is descriptor 0, whose end can be seen behind what has not been read.
    on_stdio: bool,
    notices: Receiver<Notice>,
    events: Receiver<ProcessEvent>,
    event_sender: Sender<ProcessEvent>,
    outbox: Outbox,
    table: HashMap<Arc<str>, Entry>,
    /// Which handle a process thread means by its serial number.
    handles: HashMap<u64, Arc<str>>,
    /// Handles that have ended. As long as somebody holds one, its exit may not have been sent.
    ended: HashMap<String, Weak<str>>,
    /// What they hold, in bytes, and at how much those are forgotten that nobody holds any more.
    ended_bytes: usize,
    ended_bound: usize,
    next_serial: u64,
    common: Arc<Common>,
    initialized: bool,
    pace: Pace,
    /// Spawns that wait until the client has read more of what earlier processes have left.
    held_back: VecDeque<Start>,
    /// Lists that wait for spawns sent before them to come to something.
    lists: Vec<WaitingList>,
    /// Lists that wait for room among the answers only: each is as long as all processes are many.
    ready_lists: VecDeque<WaitingList>,
    /// Not later than the earliest of `lists` is to be answered.
    lists_at: Option<Instant>,
    /// Spawns that were given up, and whose threads have not said so.
    given_up: usize,
    /// What counts against [`MAX_WAITING`].
    waiting: usize,
    ending: Option<End>,
    /// When what still starts is given up, once the connection is ending.
    give_up_at: Option<Instant>,
    deadline: Option<Instant>,
}

impl Dispatcher {
    fn new(
        config: Config,
        inbox: Receiver<Inbound>,
        notices: Receiver<Notice>,
        outbox: Outbox,
        pace: Pace,
    ) -> Self {
        let (event_sender, events) = unbounded();
        let on_detach = config.on_detach.clone();
        let nursery = Nursery::new(config.child_descriptor_limit);
        Dispatcher {
            config,
            inbox,
            input_open: true,
            on_stdio: false,
            notices,
            events,
            event_sender,
            outbox,
            table: HashMap::new(),
            handles: HashMap::new(),
            ended: HashMap::new(),
            ended_bytes: 0,
            ended_bound: FORGOTTEN_AT,
            next_serial: 1,
            common: Arc::new(Common {
                environment: Environment::snapshot(),
                nursery,
                camera: Camera::default(),
                busy_pipes: Arc::new(AtomicUsize::new(BUSY_PIPES)),
                on_detach,
            }),
            initialized: false,
            pace,
            held_back: VecDeque::new(),
            lists: Vec::new(),
            ready_lists: VecDeque::new(),
            lists_at: None,
            given_up: 0,
            waiting: 0,
            ending: None,
            give_up_at: None,
            deadline: None,
        }
    }

    fn run(&mut self) -> End {
        loop {
            if let Some(end) = self.ending
                && self.table.is_empty()
                && self.given_up == 0
            {
                self.answer_all_lists();
                return end;
            }
            match self.next_event() {
                Event::Message(message) => self.on_message(message),
                Event::InputEnded => {
                    self.input_open = false;
                    if !self.config.drain {
                        self.begin_end(End::InputEnded);
                    }
                }
                Event::NoRoom => {
                    if self.on_stdio && !self.config.drain && transport::stdin_hung_up() {
                        self.begin_end(End::InputEnded);
                        // It began when there was no room any more.
                        self.deadline = Some(Instant::now() + END - PATIENCE);
                    }
                }
                Event::Notice(Notice::Room) => {
                    self.launch();
                    self.answer_lists();
                }
                Event::Notice(Notice::OutputGone) => self.begin_end(End::OutputGone),
                Event::Notice(Notice::Stop) => self.begin_end(End::Stopped),
                Event::Process(event) => self.on_process(event),
                Event::Time => {
                    let now = Instant::now();
                    self.keep_deadlines(now);
                    if self.deadline.is_some_and(|deadline| deadline <= now) {
                        let left = self.table.len() + self.given_up;
                        log::warn!("{left} processes have not ended in time");
                        self.answer_all_lists();
                        return self.ending.unwrap_or(End::Stopped);
                    }
                }
                Event::Lost => return self.ending.unwrap_or(End::Stopped),
            }
            // With --drain, the end of input is the end once nothing lives any more.
            if !self.input_open && self.ending.is_none() && self.table.is_empty() {
                self.begin_end(End::InputEnded);
            }
        }
    }

    fn next_event(&mut self) -> Event {
        let time = [self.deadline, self.give_up_at, self.lists_at];
        let time = time.into_iter().flatten().min();
        let time = time.map_or_else(never, crossbeam_channel::at);
        let closed = never();
        let room = self.waiting < MAX_WAITING && self.outbox.has_room();
        let (inbox, no_room) = match (self.input_open, room) {
            (true, true) => (&self.inbox, never()),
            (true, false) => (&closed, crossbeam_channel::after(PATIENCE)),
            (false, _) => (&closed, never()),
        };
        let (events, notices) = (&self.events, &self.notices);
        self.pace
            .wait(|| !(inbox.is_empty() && events.is_empty() && notices.is_empty()));
        select! {
            recv(inbox) -> inbound => match inbound {
                // The weight goes with this match: from here on the message is the dispatcher's.
                Ok(Inbound::Message(message, _weight)) => {
                    self.pace.request(Instant::now());
                    Event::Message(message)
                }
                Ok(Inbound::OutputGone) => Event::Notice(Notice::OutputGone),
                Err(_) => Event::InputEnded,
            },
            recv(self.events) -> event => match event {
                Ok(event) => Event::Process(event),
                // We hold a sender ourselves.
                Err(_) => Event::Lost,
            },
            recv(self.notices) -> notice => match notice {
                Ok(notice) => Event::Notice(notice),
                Err(_) => Event::Lost,
            },
            recv(no_room) -> _ => Event::NoRoom,
            recv(time) -> _ => Event::Time,
        }
    }

    // ---- the end ----

    fn begin_end(&mut self, end: End) {
        if self.ending.is_some() {
            return;
        }
        log::debug!("the connection ends: {end:?}");
        self.ending = Some(end);
        let now = Instant::now();
        self.deadline = Some(now + END);
        self.give_up_at = Some(now + START_AT_END);
        for entry in self.table.values() {
            entry.command(Command::End);
        }
        while let Some(start) = self.held_back.pop_front() {
            let error = RpcError::invalid_request("the connection is ending");
            self.outbox.answer(Some(start.id), Err(error));
            self.failed(start.serial);
        }
        // What was read before is still answered.
        self.input_open = false;
        let enough = Instant::now() + LAST_REQUESTS;
        loop {
            match self.inbox.try_recv() {
                Ok(Inbound::Message(message, _)) => self.on_message(message),
                Ok(Inbound::OutputGone) => {}
                // A client that has dropped both of its halves has sent all it had.
                Err(TryRecvError::Disconnected) if end == End::OutputGone => {
                    self.ending = Some(End::InputEnded);
                    break;
                }
                Err(_) => break,
            }
            if Instant::now() > enough {
                break;
            }
        }
    }

    /// Does everything that is due, except the end itself.
    fn keep_deadlines(&mut self, now: Instant) {
        if self.lists_at.is_some_and(|at| at <= now) {
            self.stop_waiting_lists(|list| list.until <= now);
        }
        if self.give_up_at.is_some_and(|at| at <= now) {
            self.give_up_at = None;
            let starting = self.table.values().filter(|entry| entry.starting.is_some());
            let starting: Vec<u64> = starting.map(|entry| entry.serial).collect();
            for serial in starting {
                self.give_up(serial);
            }
        }
    }

    /// Answers a spawn that has neither succeeded nor failed in time, and what waits for it.
    fn give_up(&mut self, serial: u64) {
        let Some(entry) = self.entry_of(serial) else {
            return;
        };
        let Some(backlog) = &entry.starting else { return };
        if backlog.birth.give_up() {
            let id = backlog.id.clone();
            let error = RpcError::invalid_request("the connection is ending");
            self.outbox.answer(Some(id), Err(error));
            self.given_up += 1;
            self.failed(serial);
        }
    }

    // ---- requests ----

    fn on_message(&mut self, message: ClientMessage) {
        match message {
            ClientMessage::Request { id, request } => {
                self.outbox.admit();
                self.on_request(id, request);
            }
            ClientMessage::Invalid { id, error } => {
                self.outbox.admit();
                self.outbox.answer(id, Err(error));
            }
            ClientMessage::Notification => {}
        }
    }

    /// Takes one request that was admitted. Every way through here answers it, or hands it to
    /// somebody who will.
    fn on_request(&mut self, id: RequestId, request: Request) {
        if handle_of(&request).is_some_and(|handle| handle.len() > MAX_HANDLE_BYTES) {
            let error = format!("processHandle must not be longer than {MAX_HANDLE_BYTES} bytes of UTF-8");
            self.outbox.answer(Some(id), Err(RpcError::invalid_params(error)));
            return;
        }
        if let Some(handle) = handle_of(&request)
            && let Some(entry) = self.table.get_mut(handle)
            && let Some(backlog) = &mut entry.starting
        {
            if let Request::WriteStdin(write) = &request {
                let error = pending_error(&self.config, &entry.vitals, &id, write);
                if let Some(error) = error {
                    self.outbox.answer(Some(id), Err(error));
                    return;
                }
                let bytes = write.delta.as_ref().map_or(0, Vec::len);
                entry.vitals.count_write(&id, bytes);
            }
            let bytes = weight(&id, &request);
            backlog.bytes += bytes;
            self.waiting += bytes;
            backlog.requests.push_back((id, request));
            return;
        }
        let result = match request {
            Request::Spawn(params) => self.spawn(&id, params),
            Request::WriteStdin(params) => self.write_stdin(&id, params, false),
            Request::ResizePty(params) => self.resize(&id, &params),
            Request::Kill(params) => self.kill(&id, &params),
            Request::List => {
                self.list(id);
                return;
            }
            Request::Initialize(params) => {
                let reply = self.initialize(&params);
                self.outbox.answer(Some(id), reply);
                return;
            }
        };
        if let Err(error) = result {
            self.outbox.answer(Some(id), Err(error));
        }
    }

    fn initialize(&mut self, params: &InitializeParams) -> Result<Reply, RpcError> {
        if self.initialized {
            return Err(RpcError::invalid_request("already initialized"));
        }
        self.initialized = true;
        if let Some(capabilities) = &params.capabilities {
            self.outbox.opt_out(capabilities);
        }
        let version = env!("CARGO_PKG_VERSION");
        let os = std::env::consts::OS;
        Ok(Reply::Initialize(Box::new(InitializeReply {
            user_agent: format!(
                "procwire/{version} ({os}; {}) {}",
                std::env::consts::ARCH,
                params.client_info.name
            ),
            codex_home: self.common.environment.codex_home(),
            platform_family: std::env::consts::FAMILY.to_owned(),
            platform_os: os.to_owned(),
            server_info: ServerInfo {
                name: "procwire".to_owned(),
                version: version.to_owned(),
            },
            limits: Limits {
                max_message_bytes: self.config.max_message_bytes as u64,
                max_process_handle_bytes: MAX_HANDLE_BYTES as u64,
                default_timeout_ms: self.config.default_timeout_ms,
                default_output_bytes_cap: self.config.default_output_bytes_cap,
                free_pending_stdin_bytes: FREE,
                max_pending_stdin_bytes: self.config.max_pending_stdin_bytes,
                output_drain_ms: u64::try_from(DRAIN.as_millis()).unwrap_or(u64::MAX),
                max_delta_bytes: CHUNK as u64,
                max_in_flight: MAX_IN_FLIGHT as u64,
                default_pty_size: PtySize::default(),
            },
        })))
    }

    fn spawn(&mut self, id: &RequestId, params: SpawnParams) -> Result<(), RpcError> {
        validate(&params)?;
        let bytes = WAITING_COST + id.len() + weight_of_spawn(&params);
        if self.ending.is_some() {
            return Err(RpcError::invalid_request("the connection is ending"));
        }
        let handle: Arc<str> = params.process_handle.as_str().into();
        let Slot::Vacant(slot) = self.table.entry(Arc::clone(&handle)) else {
            return Err(RpcError::invalid_request(format!(
                "duplicate active process handle: {:?}",
                shortened(&handle)
            )));
        };
        let wake = EventFd::new().map_err(|e| spawn::failure(&params, Stage::Pipe, "eventfd2", &e))?;
        let wake = Arc::new(wake);
        let serial = self.next_serial;
        let (inbox_sender, inbox) = unbounded();
        let params = Arc::new(params);
        let vitals = Arc::new(Vitals::default());
        let birth = Arc::new(Birth::new());
        let start = Start {
            serial,
            id: id.clone(),
            handle: Arc::clone(&handle),
            reused: self.ended.get(&*handle).is_some_and(|h| h.strong_count() > 0),
            cap: params
                .output_bytes_cap
                .or_default(self.config.default_output_bytes_cap),
            timeout: params
                .timeout_ms
                .or_default(self.config.default_timeout_ms)
                .map(Duration::from_millis),
            params: Arc::clone(&params),
            birth: Arc::clone(&birth),
            inbox,
            wake: Arc::clone(&wake),
            vitals: Arc::clone(&vitals),
            common: Arc::clone(&self.common),
            outbox: self.outbox.clone(),
            events: self.event_sender.clone(),
        };
        // A process is let in beside its request: it will have one more message, its exit.
        self.outbox.admit();
        self.next_serial += 1;
        self.waiting += bytes;
        self.handles.insert(serial, handle);
        slot.insert(Entry {
            serial,
            params,
            vitals,
            inbox: inbox_sender,
            wake,
            starting: Some(Backlog {
                id: id.clone(),
                since: Instant::now(),
                birth,
                requests: VecDeque::new(),
                bytes,
            }),
        });
        self.held_back.push_back(start);
        self.launch();
        Ok(())
    }

    /// Starts the threads of what is to be spawned, as far as there is room for what it may print.
    fn launch(&mut self) {
        while !self.held_back.is_empty() && self.outbox.has_room_for_a_process() {
            let Some(start) = self.held_back.pop_front() else {
                return;
            };
            let (serial, id, params) = (start.serial, start.id.clone(), Arc::clone(&start.params));
            let thread = sys::start_thread(&format!("proc-{serial}"), STACK, move || process::run(start));
            if let Err(error) = thread {
                let error = spawn::failure(&params, Stage::Thread, sys::START_THREAD, &error);
                self.outbox.answer(Some(id), Err(error));
                self.failed(serial);
            }
        }
    }

    fn entry(&self, handle: &str) -> Result<&Entry, RpcError> {
        self.table.get(handle).ok_or_else(|| no_process(handle))
    }

    /// `counted`: its bytes were counted as pending when it was put into the backlog.
    fn write_stdin(&self, id: &RequestId, params: WriteStdinParams, counted: bool) -> Result<(), RpcError> {
        if params.delta.is_none() && !params.close_stdin {
            return Err(RpcError::invalid_params(
                "process/writeStdin requires deltaBase64 or closeStdin",
            ));
        }
        let entry = self.entry(&params.process_handle)?;
        let bytes = params.delta.as_ref().map_or(0, Vec::len);
        let refused = if !(entry.params.stream_stdin || entry.params.tty) {
            Some(RpcError::invalid_request(
                "stdin streaming is not enabled for this process: spawn it with streamStdin",
            ))
        } else if counted {
            None
        } else {
            pending_error(&self.config, &entry.vitals, id, &params)
        };
        if let Some(error) = refused {
            if counted {
                entry.vitals.uncount_write(id, bytes);
            }
            return Err(error);
        }
        if !counted {
            entry.vitals.count_write(id, bytes);
        }
        entry.command(Command::Write {
            id: id.clone(),
            bytes: params.delta.unwrap_or_default(),
            close: params.close_stdin,
        });
        Ok(())
    }

    fn resize(&self, id: &RequestId, params: &ResizePtyParams) -> Result<(), RpcError> {
        validate_size(params.size)?;
        self.entry(&params.process_handle)?.command(Command::Resize {
            id: id.clone(),
            size: params.size,
        });
        Ok(())
    }

    fn kill(&self, id: &RequestId, params: &KillParams) -> Result<(), RpcError> {
        let signal = match &params.signal {
            Some(name) => {
                signal::number(name).map_err(|e| RpcError::invalid_params(format!("process/kill: {e}")))?
            }
            None => libc::SIGKILL,
        };
        self.entry(&params.process_handle)?.command(Command::Kill {
            id: id.clone(),
            signal,
            grace: params.grace_ms.map(Duration::from_millis),
        });
        Ok(())
    }

    /// Answers with the live processes once the spawns that were sent before have succeeded or failed, or
    /// none of them has for [`LIST_WAIT`], as from a disk that does not answer.
    fn list(&mut self, id: RequestId) {
        let now = Instant::now();
        let starting = self.table.values().filter(|entry| {
            let backlog = entry.starting.as_ref();
            backlog.is_some_and(|backlog| backlog.since + LIST_WAIT > now)
        });
        let spawns: HashSet<u64> = starting.map(|e| e.serial).collect();
        let bytes = WAITING_COST + id.len() + spawns.len() * 2 * size_of::<u64>();
        self.waiting += bytes;
        let until = now + LIST_WAIT;
        let list = WaitingList {
            id,
            spawns,
            until,
            bytes,
        };
        if list.spawns.is_empty() {
            self.ready_lists.push_back(list);
            self.answer_lists();
        } else {
            self.lists.push(list);
            self.lists_at.get_or_insert(until);
        }
    }

    /// Makes those of the lists that wait for spawns, and for which `over` holds, wait for room only.
    fn stop_waiting_lists(&mut self, over: impl Fn(&WaitingList) -> bool) {
        let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.lists).into_iter().partition(over);
        self.lists = waiting;
        self.lists_at = self.lists.iter().map(|list| list.until).min();
        self.ready_lists.extend(ready);
        self.answer_lists();
    }

    /// Answers every list, at the end of the connection.
    fn answer_all_lists(&mut self) {
        for list in std::mem::take(&mut self.lists) {
            self.answer_list(list.id);
        }
        for list in std::mem::take(&mut self.ready_lists) {
            self.answer_list(list.id);
        }
    }

    /// Answers the lists that wait for no spawn, as far as there is room.
    fn answer_lists(&mut self) {
        while !self.ready_lists.is_empty() && self.outbox.has_room_for_an_answer() {
            let Some(list) = self.ready_lists.pop_front() else {
                return;
            };
            self.waiting -= list.bytes;
            self.answer_list(list.id);
        }
    }

    fn answer_list(&self, id: RequestId) {
        // A process has its pid before its spawn is answered, and its event may come after the request of
        // a client that has read that answer.
        let lives = |e: &Entry| e.starting.is_none() || e.vitals.pid.load(Acquire) != 0;
        let live = self.table.values().filter(|e| lives(e));
        let mut live: Vec<&Entry> = live.collect();
        live.sort_by_key(|e| e.serial);
        let processes = live.into_iter().map(|e| ProcessInfo {
            process_handle: e.params.process_handle.clone(),
            pid: e.vitals.pid.load(Relaxed),
            command: e.params.command.clone(),
            cwd: e.params.cwd.clone(),
            tty: e.params.tty,
            started_at_ms: e.vitals.started_at_ms.load(Relaxed),
            stdout_bytes: e.vitals.stdout_bytes.load(Relaxed),
            stderr_bytes: e.vitals.stderr_bytes.load(Relaxed),
            stdin_pending_bytes: e.vitals.stdin_pending.load(Relaxed),
        });
        self.outbox.answer(Some(id), Ok(Reply::List(processes.collect())));
    }

    // ---- processes ----

    fn on_process(&mut self, event: ProcessEvent) {
        match event {
            ProcessEvent::Started { serial } => {
                let Some(entry) = self.entry_of(serial) else {
                    return;
                };
                // Its thread has let go of the params. What is still asked for is in a list.
                if let Some(params) = Arc::get_mut(&mut entry.params) {
                    params.env = None;
                }
                if let Some(backlog) = entry.starting.take() {
                    self.catch_up(backlog, true);
                }
                self.spawn_settled(serial);
            }
            ProcessEvent::Failed { serial } => self.failed(serial),
            ProcessEvent::Ended {
                serial,
                exited,
                inbox,
            } => {
                // The handle is free before the client can read that the process has exited, and
                // commands that came too late are answered before its last word.
                if let Some(entry) = self.remove(serial) {
                    for command in inbox.try_iter() {
                        self.too_late(&entry, command);
                    }
                }
                if self.table.is_empty() {
                    self.common.nursery.clear();
                }
                match exited {
                    Some(exited) => {
                        self.remember(&exited.process_handle);
                        self.outbox.exited(exited);
                    }
                    None => self.outbox.retract(),
                }
            }
        }
    }

    /// Remembers a handle until its exit has been sent.
    fn remember(&mut self, handle: &Arc<str>) {
        let bytes = |handle: &str| size_of::<(String, Weak<str>)>() + handle.len();
        if self.ended_bytes >= self.ended_bound {
            self.ended.retain(|_, h| h.strong_count() > 0);
            self.ended_bytes = self.ended.keys().map(|h| bytes(h)).sum();
            self.ended_bound = FORGOTTEN_AT + 2 * self.ended_bytes;
        }
        self.ended_bytes += bytes(handle);
        self.ended.insert(handle.to_string(), Arc::downgrade(handle));
    }

    /// Forgets a process that could not be started, and whose spawn has been answered.
    fn failed(&mut self, serial: u64) {
        let Some(entry) = self.remove(serial) else {
            // The thread of one that was given up.
            self.given_up = self.given_up.saturating_sub(1);
            return;
        };
        self.outbox.retract();
        if let Some(backlog) = entry.starting {
            self.catch_up(backlog, false);
        }
        // A spawn that waited behind this one was sent before the lists that wait, too.
        let handle = entry.params.process_handle.as_str();
        if let Some(next) = self.table.get(handle).map(|e| e.serial) {
            for list in self.lists.iter_mut().filter(|l| l.spawns.contains(&serial)) {
                list.spawns.insert(next);
            }
        }
        self.spawn_settled(serial);
    }

    /// Does what was asked of a handle while its process was being started. The process may have
    /// failed to start, and then the next spawn in the backlog may take the handle over.
    fn catch_up(&mut self, backlog: Backlog, counted: bool) {
        self.waiting -= backlog.bytes;
        for (id, request) in backlog.requests {
            match request {
                Request::WriteStdin(params) if counted => {
                    if let Err(error) = self.write_stdin(&id, params, true) {
                        self.outbox.answer(Some(id), Err(error));
                    }
                }
                request => self.on_request(id, request),
            }
        }
    }

    fn too_late(&self, entry: &Entry, command: Command) {
        // The handle was live when the command came, and a later spawn may have been told so: there is
        // no more to be done, but the process was there.
        let (id, outcome) = match command {
            Command::Kill { id, .. } => (id, Ok(Reply::Done)),
            Command::Resize { id, .. } if entry.params.tty => (id, Ok(Reply::Done)),
            Command::Resize { id, .. } | Command::Write { id, .. } => {
                (id, Err(no_process(&entry.params.process_handle)))
            }
            Command::End => return,
        };
        self.outbox.answer(Some(id), outcome);
    }

    fn spawn_settled(&mut self, serial: u64) {
        let until = Instant::now() + LIST_WAIT;
        for list in &mut self.lists {
            if list.spawns.remove(&serial) {
                list.until = until;
            }
        }
        self.stop_waiting_lists(|list| list.spawns.is_empty());
    }

    fn entry_of(&mut self, serial: u64) -> Option<&mut Entry> {
        self.table.get_mut(self.handles.get(&serial)?)
    }

    fn remove(&mut self, serial: u64) -> Option<Entry> {
        self.table.remove(&self.handles.remove(&serial)?)
    }
}

fn handle_of(request: &Request) -> Option<&str> {
    match request {
        Request::Spawn(p) => Some(&p.process_handle),
        Request::WriteStdin(p) => Some(&p.process_handle),
        Request::ResizePty(p) => Some(&p.process_handle),
        Request::Kill(p) => Some(&p.process_handle),
        Request::Initialize(_) | Request::List => None,
    }
}

fn no_process(handle: &str) -> RpcError {
    let handle = shortened(handle);
    RpcError::invalid_request(format!("no active process for process handle {handle:?}"))
}

/// What a request in a backlog holds. The bytes for stdin are left out: they count as pending already.
fn weight(id: &RequestId, request: &Request) -> usize {
    let params = match request {
        Request::Spawn(p) => weight_of_spawn(p),
        Request::WriteStdin(p) => p.process_handle.len(),
        Request::ResizePty(p) => p.process_handle.len(),
        Request::Kill(p) => {
            let signal = match &p.signal {
                Some(SignalName::Name(name)) => name.len(),
                _ => 0,
            };
            p.process_handle.len() + signal
        }
        Request::Initialize(_) | Request::List => 0,
    };
    WAITING_COST + id.len() + params
}

fn weight_of_spawn(params: &SpawnParams) -> usize {
    let env =
        params.env.iter().flatten().map(|(name, value)| {
            2 * size_of::<String>() + name.len() + value.as_ref().map_or(0, String::len)
        });
    // The table has the handle once more.
    let handle = 2 * params.process_handle.len();
    let modes = params.terminal_modes.iter().flatten();
    handle
        + modes
            .map(|(name, _)| size_of::<String>() + name.len())
            .sum::<usize>()
        + params.cwd.as_ref().map_or(0, String::len)
        + weight_of_strings(&params.command)
        + env.sum::<usize>()
}

/// Refuses a write that would leave too much pending. A client that awaits its answers never has
/// more than the free amount pending, and is never refused.
fn pending_error(
    config: &Config,
    vitals: &Vitals,
    id: &RequestId,
    params: &WriteStdinParams,
) -> Option<RpcError> {
    let unanswered = vitals.stdin_unanswered.load(Relaxed);
    if unanswered > 0 && unanswered + unanswered_cost(id) > MAX_UNANSWERED {
        return Some(RpcError::new(
            code::OVERLOADED,
            format!(
                "too many writes to stdin wait to be answered already, the limit is {}, or {MAX_UNANSWERED} \
                 bytes of their ids: await the answers to earlier writes",
                MAX_UNANSWERED / UNANSWERED_COST
            ),
        ));
    }
    let pending = vitals.stdin_pending.load(Relaxed);
    let more = params.delta.as_ref().map_or(0, Vec::len) as u64;
    let limit = config.max_pending_stdin_bytes;
    (pending > FREE.min(limit) && pending.saturating_add(more) > limit).then(|| {
        RpcError::new(
            code::OVERLOADED,
            format!(
                "{pending} bytes of stdin are pending already and the limit is {limit}: \
                 await the answers to earlier writes"
            ),
        )
    })
}

/// What can be said about a spawn without asking the machine.
fn validate(params: &SpawnParams) -> Result<(), RpcError> {
    let SpawnParams {
        command,
        process_handle,
        cwd,
        env,
        tty,
        size,
        terminal_modes,
        ..
    } = params;
    if command.is_empty() {
        return Err(RpcError::invalid_request("command must not be empty"));
    }
    if command[0].is_empty() {
        return Err(RpcError::invalid_request(
            "command must not be empty: its first element is the program",
        ));
    }
    if process_handle.is_empty() {
        return Err(RpcError::invalid_request("processHandle must not be empty"));
    }
    let invalid = |what: String| Err(RpcError::invalid_params(format!("process/spawn: {what}")));
    if let Some(index) = command.iter().position(|argument| argument.contains('\0')) {
        return invalid(format!("command[{index}] contains a nul byte"));
    }
    if let Some(cwd) = cwd {
        if !cwd.starts_with('/') {
            return invalid(format!("cwd must be an absolute path, got {:?}", shortened(cwd)));
        }
        if cwd.contains('\0') {
            return invalid("cwd contains a nul byte".to_owned());
        }
    }
    for (name, value) in env.iter().flatten() {
        if name.is_empty() || name.contains('=') || name.contains('\0') {
            return invalid(format!(
                "env: a name must not be empty or contain '=' or a nul byte, got {:?}",
                shortened(name)
            ));
        }
        if value.as_ref().is_some_and(|value| value.contains('\0')) {
            let name = shortened(name);
            return invalid(format!("env: the value of {name:?} contains a nul byte"));
        }
    }
    if let Some(modes) = terminal_modes {
        if !tty {
            return invalid("terminalModes requires tty: true".to_owned());
        }
        if let Some(why) = modes::refusal(modes) {
            return invalid(format!("terminalModes: {why}"));
        }
    }
    match size {
        Some(_) if !tty => invalid("size requires tty: true".to_owned()),
        Some(size) => validate_size(*size),
        None => Ok(()),
    }
}

fn validate_size(size: PtySize) -> Result<(), RpcError> {
    if size.rows == 0 || size.cols == 0 {
        return Err(RpcError::invalid_params(
            "process size rows and cols must be greater than 0",
        ));
    }
    Ok(())
}
