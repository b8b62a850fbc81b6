//! The dispatcher: `serve`, its events, and what is done for each request.
//!
//! **Thread:** the caller of [`serve`].
//! **Owns:** the table of handles, and with it all that the connection has under way.
//! **Never:** waits for anything but its next event while there is a process: not for a process, not for
//! the writer, not for the client. Only when all is over does [`serve`] wait for the writer.

mod config;
pub(crate) mod connection;
mod ending;
pub(crate) mod error;
mod handles;
mod handshake;
mod lists;
mod spin;
mod starting;
pub(crate) mod transport;
mod validate;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};

pub use self::config::{Config, End};
use self::connection::{Connection, Kind};
use self::ending::{END, PATIENCE};
use self::error::Error;
use self::handles::{Entry, Handles, Waiting, accept};
use self::lists::{LIST_WAIT, Lists, WaitingList};
use self::spin::Pace;
use self::transport::{Inbound, Transport};
use crate::outbox::{Notice, Outbox};
use crate::process::output::BUSY_PIPES;
use crate::process::spawn::{Environment, Nursery};
use crate::process::stdin::AcceptedWrite;
use crate::process::tree::Camera;
use crate::process::wait::Wait;
use crate::process::{Command, Common, ProcessEvent, Start};
use crate::sys;
use crate::wire::message::ClientMessage;
use crate::wire::protocol::{
    CloseOutputParams, InheritEnv, InspectParams, KillParams, ListReply, MAX_HANDLE_BYTES, ProcessInfo,
    Reply, Request, RequestId, ResizePtyParams, RpcError, WaitParams, WriteStdinParams, shortened,
};
use crate::wire::signal;

/// Bytes held by unfinished spawns and by the requests behind them. Above this the dispatcher takes no
/// further request. Nothing that is yet to be read ends that waiting: a spawn succeeds or fails by itself,
/// or, if it is held back, once the client has read what earlier processes have left.
const MAX_WAITING: usize = 32 * 1024 * 1024;
/// What a request that waits costs beside its bytes.
const WAITING_COST: usize = 256;

/// Serves one connection on the calling thread until it ends, and says why it did.
///
/// When it returns, every process that was started on the connection has been killed and reaped,
/// with all it had started that could be found without changing anything process-wide: its process
/// group, its session, and whatever descends from those by living parents. A daemon that has cut
/// its ancestry before that is found only by a child subreaper, which the `procwire` binary is and a
/// library must not make of its program.
///
/// ```
/// # use procwire::{Config, Connection, End, serve};
/// # use std::io::{BufRead, BufReader, Write};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (input, to_server) = std::io::pipe()?;
/// let (from_server, output) = std::io::pipe()?;
/// let server = std::thread::spawn(move || serve(Connection::from_io(input, output), Config::default()));
///
/// writeln!(&to_server, r#"{{"id":1,"method":"process/list"}}"#)?;
/// let mut answer = String::new();
/// BufReader::new(from_server).read_line(&mut answer)?;
/// assert_eq!(answer, "{\"id\":1,\"result\":{\"processes\":[]}}\n");
///
/// drop(to_server); // the end of input
/// assert_eq!(server.join().expect("serve does not panic")?, End::InputEnded);
/// # Ok(())
/// # }
/// ```
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
    let (inbox, outbox, transport, pace) = match kind {
        Kind::Memory { inbox, outbox } => (inbox, outbox, None, Pace::new(false)),
        Kind::Lines(io) => {
            let pace = Pace::new(true);
            let limit = config.max_message_bytes;
            let (inbox, outbox, transport) = Transport::start(io, notify, limit, pace.spin())?;
            (inbox, outbox, Some(transport), pace)
        }
    };
    let mut dispatcher = Dispatcher::new(config, inbox, notices, outbox, transport, pace);
    let mut end = dispatcher.run();
    let mut deadline = dispatcher.deadline.unwrap_or_else(|| Instant::now() + END);
    // A client that has its processes drained has asked for everything, and may take its time to read it.
    let patient = dispatcher.config.drain && end == End::InputEnded;
    let notices = dispatcher.notices.clone();
    let transport = dispatcher.transport.take();
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

/// Everything the dispatcher reacts to.
#[expect(
    clippy::large_enum_variant,
    reason = "a message is what it nearly always is, and is moved once"
)]
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

struct Dispatcher {
    config: Config,
    inbox: Receiver<Inbound>,
    input_open: bool,
    notices: Receiver<Notice>,
    events: Receiver<ProcessEvent>,
    event_sender: Sender<ProcessEvent>,
    outbox: Outbox,
    /// The threads of a connection that is not in memory.
    transport: Option<Transport>,
    handles: Handles,
    common: Arc<Common>,
    initialized: bool,
    pace: Pace,
    /// Spawns that wait until the client has read more of what earlier processes have left.
    held_back: VecDeque<Start>,
    lists: Lists,
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
        transport: Option<Transport>,
        pace: Pace,
    ) -> Self {
        let (event_sender, events) = unbounded();
        let on_detach = config.on_detach.clone();
        let nursery = Nursery::new(config.child_descriptor_limit);
        Dispatcher {
            config,
            inbox,
            input_open: true,
            notices,
            events,
            event_sender,
            outbox,
            transport,
            handles: Handles::new(),
            common: Arc::new(Common {
                environment: Environment::snapshot(),
                nursery,
                camera: Camera::default(),
                busy_pipes: Arc::new(AtomicUsize::new(BUSY_PIPES)),
                waits_bytes: Arc::default(),
                on_detach,
            }),
            initialized: false,
            pace,
            held_back: VecDeque::new(),
            lists: Lists::default(),
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
                && self.handles.is_empty()
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
                    let transport = self.transport.as_ref();
                    if !self.config.drain && transport.is_some_and(Transport::input_hung_up) {
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
                        let left = self.handles.len() + self.given_up;
                        log::warn!("{left} processes have not ended in time");
                        self.answer_all_lists();
                        return self.ending.unwrap_or(End::Stopped);
                    }
                }
                Event::Lost => return self.ending.unwrap_or(End::Stopped),
            }
            // With --drain, the end of input is the end once nothing lives any more.
            if !self.input_open && self.ending.is_none() && self.handles.is_empty() {
                self.begin_end(End::InputEnded);
            }
        }
    }

    fn next_event(&mut self) -> Event {
        let time = [self.deadline, self.give_up_at, self.lists.at()];
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

    /// Takes the messages that are there, as far as there is room.
    fn take_waiting_messages(&mut self) {
        for _ in 0..self.inbox.len() {
            if !self.input_open || self.waiting >= MAX_WAITING || !self.outbox.has_room() {
                return;
            }
            match self.inbox.try_recv() {
                Ok(Inbound::Message(message, _weight)) => self.on_message(message),
                Ok(Inbound::OutputGone) => return self.begin_end(End::OutputGone),
                // Its end is seen where the next event is waited for.
                Err(_) => return,
            }
        }
    }

    /// Takes one request that was admitted. Every way through here answers it, or hands it to what will.
    fn on_request(&mut self, id: RequestId, request: Request) {
        if request
            .handle()
            .is_some_and(|handle| handle.len() > MAX_HANDLE_BYTES)
        {
            let error = format!("processHandle must not be longer than {MAX_HANDLE_BYTES} bytes of UTF-8");
            self.outbox.answer(Some(id), Err(RpcError::invalid_params(error)));
            return;
        }
        if let Some(handle) = request.handle()
            && let Some(entry) = self.handles.get_mut(handle)
            && let Some(backlog) = &mut entry.starting
        {
            let bytes = WAITING_COST + id.len() + request.cost();
            let limit = self.config.max_pending_stdin_bytes;
            let request = match request {
                Request::WriteStdin(params) => match accept(&entry.vitals, &id, params, limit) {
                    Ok(write) => Waiting::Write(write),
                    Err(error) => {
                        self.outbox.answer(Some(id), Err(error));
                        return;
                    }
                },
                request => Waiting::Request(id, request),
            };
            backlog.bytes += bytes;
            self.waiting += bytes;
            backlog.requests.push_back(request);
            return;
        }
        let result = match request {
            Request::Spawn(params) => self.spawn(&id, params),
            Request::WriteStdin(params) => self.write_stdin(&id, params),
            Request::ResizePty(params) => self.resize(&id, &params),
            Request::Kill(params) => self.kill(&id, &params),
            Request::Inspect(params) => self.inspect(&id, &params),
            Request::CloseOutput(params) => self.close_output(&id, &params),
            Request::Wait(params) => self.wait(&id, params),
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

    fn entry(&self, handle: &str) -> Result<&Entry, RpcError> {
        self.handles.get(handle).ok_or_else(|| no_process(handle))
    }

    fn write_stdin(&self, id: &RequestId, params: WriteStdinParams) -> Result<(), RpcError> {
        let entry = self.writable(
            &params.process_handle,
            params.delta.is_some() || params.close_stdin,
        )?;
        let write = accept(&entry.vitals, id, params, self.config.max_pending_stdin_bytes)?;
        entry.command(Command::Write(write));
        Ok(())
    }

    /// Does a write that was accepted while its process was being started.
    fn write_accepted(&self, handle: &str, write: AcceptedWrite) {
        match self.writable(handle, write.says_something()) {
            Ok(entry) => entry.command(Command::Write(write)),
            Err(error) => self.outbox.answer(Some(write.id().clone()), Err(error)),
        }
    }

    /// The process to write to.
    fn writable(&self, handle: &str, says_something: bool) -> Result<&Entry, RpcError> {
        if !says_something {
            return Err(RpcError::invalid_params(
                "process/writeStdin requires deltaBase64 or closeStdin",
            ));
        }
        let entry = self.entry(handle)?;
        if !(entry.params.stream_stdin || entry.params.tty) {
            return Err(RpcError::invalid_request(
                "stdin streaming is not enabled for this process: spawn it with streamStdin",
            ));
        }
        Ok(entry)
    }

    fn resize(&self, id: &RequestId, params: &ResizePtyParams) -> Result<(), RpcError> {
        validate::pty_size(params.size)?;
        self.entry(&params.process_handle)?.command(Command::Resize {
            id: id.clone(),
            size: params.size,
        });
        Ok(())
    }

    fn inspect(&self, id: &RequestId, params: &InspectParams) -> Result<(), RpcError> {
        let command = Command::Inspect { id: id.clone() };
        self.entry(&params.process_handle)?.command(command);
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

    fn close_output(&self, id: &RequestId, params: &CloseOutputParams) -> Result<(), RpcError> {
        self.entry(&params.process_handle)?.command(Command::CloseOutput {
            id: id.clone(),
            stream: params.stream,
        });
        Ok(())
    }

    fn wait(&self, id: &RequestId, params: WaitParams) -> Result<(), RpcError> {
        validate::wait_params(&params)?;
        let entry = self.entry(&params.process_handle)?;
        let wait = Wait::new(id, params, &entry.vitals.waits, &self.common.waits_bytes)?;
        entry.command(Command::Wait(Box::new(wait)));
        Ok(())
    }

    /// Answers with the live processes once the spawns that were sent before have succeeded or failed, or
    /// none of them has for [`LIST_WAIT`], as from a disk that does not answer.
    fn list(&mut self, id: RequestId) {
        let now = Instant::now();
        let starting = self.handles.values().filter(|entry| {
            let backlog = entry.starting.as_ref();
            backlog.is_some_and(|backlog| backlog.since + LIST_WAIT > now)
        });
        let spawns = starting.map(|e| e.serial).collect();
        let list = WaitingList::new(id, spawns, now, WAITING_COST);
        self.waiting += list.bytes;
        self.lists.push(list);
        self.answer_lists();
    }

    /// Answers every list, at the end of the connection.
    fn answer_all_lists(&mut self) {
        for list in self.lists.take_all() {
            self.answer_list(list.id);
        }
    }

    /// Answers the lists that wait for no spawn, as far as there is room.
    fn answer_lists(&mut self) {
        while self.lists.has_ready() && self.outbox.has_room_for_an_answer() {
            let Some(list) = self.lists.next_ready() else {
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
        let live = self.handles.values().filter(|e| lives(e));
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
        let processes = processes.collect();
        self.outbox
            .answer(Some(id), Ok(Reply::List(ListReply { processes })));
    }

    // ---- processes ----

    fn on_process(&mut self, event: ProcessEvent) {
        match event {
            ProcessEvent::Started { serial } => {
                // What has come behind the spawn so far is handed over with the rest of the backlog.
                self.take_waiting_messages();
                let Some(entry) = self.handles.of_serial(serial) else {
                    return;
                };
                // Its thread has let go of the params. What is still asked for is in a list.
                if let Some(params) = Arc::get_mut(&mut entry.params) {
                    params.env = None;
                    params.inherit_env = InheritEnv::default();
                    params.limits = None;
                    (params.stdin, params.stdout, params.stderr) = (None, None, None);
                }
                let params = Arc::clone(&entry.params);
                if let Some(backlog) = entry.starting.take() {
                    self.catch_up(backlog, &params.process_handle, true);
                }
                if let Some(entry) = self.handles.of_serial(serial)
                    && entry.vitals.handover.done()
                {
                    entry.wake.set();
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
                if let Some(entry) = self.handles.remove(serial) {
                    for command in inbox.try_iter() {
                        self.too_late(&entry, command);
                    }
                }
                if self.handles.is_empty() {
                    self.common.nursery.clear();
                }
                match exited {
                    Some(exited) => {
                        self.handles.remember(&exited.process_handle);
                        self.outbox.exited(exited);
                    }
                    None => self.outbox.retract(),
                }
            }
        }
    }

    fn too_late(&self, entry: &Entry, command: Command) {
        // The handle was live when the command came, and a later spawn may have been told so: there is
        // no more to be done, but the process was there.
        let (id, outcome) = match command {
            Command::Kill { id, .. } => (id, Ok(Reply::Done)),
            Command::Resize { id, .. } if entry.params.tty => (id, Ok(Reply::Done)),
            Command::Wait(wait) => {
                let (id, reply) = wait.too_late();
                return self.outbox.answer_behind_output(id, Ok(reply));
            }
            Command::CloseOutput { id, .. } if !entry.params.tty => {
                return self.outbox.answer_behind_output(id, Ok(Reply::Done));
            }
            Command::Resize { id, .. } | Command::Inspect { id } | Command::CloseOutput { id, .. } => {
                (id, Err(no_process(&entry.params.process_handle)))
            }
            Command::Write(write) => {
                let error = no_process(&entry.params.process_handle);
                (write.id().clone(), Err(error))
            }
            Command::End => return,
        };
        self.outbox.answer(Some(id), outcome);
    }
}

fn no_process(handle: &str) -> RpcError {
    let handle = shortened(handle);
    RpcError::invalid_request(format!("no active process for process handle {handle:?}"))
}
