//! The dispatcher: `serve`, and the loop that takes requests, the events of processes and the time.
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
mod requests;
mod spin;
mod starting;
pub(crate) mod transport;
mod validate;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};

pub use self::config::{Config, End};
use self::connection::{Connection, Kind};
use self::ending::{NO_ROOM_WAIT, SHUTDOWN_TIMEOUT};
use self::error::Error;
use self::handles::Handles;
use self::lists::Lists;
use self::spin::Pace;
use self::transport::{Inbound, Transport};
use crate::outbox::{Notice, Outbox, Ticket};
use crate::process::spawn::{Environment, SpawnResources};
use crate::process::tree::SnapshotCache;
use crate::process::{Context, ProcessEvent, SpawnRequest};
use crate::sys;
use crate::wire::message::ClientMessage;
use crate::wire::protocol::InheritEnv;

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
    let mut deadline = dispatcher
        .deadline
        .unwrap_or_else(|| Instant::now() + SHUTDOWN_TIMEOUT);
    // A client that has its processes drained has asked for everything, and may take its time to read it.
    let patient = dispatcher.config.drain && end == End::InputEnded;
    let notices = dispatcher.notices.clone();
    let transport = dispatcher.transport.take();
    // The last sender of the outbox: the writer ends when it has written what is queued.
    drop(dispatcher);
    if let Some(transport) = transport {
        if patient && transport.wait_for_reader(&notices) {
            end = End::Stopped;
            deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        }
        transport.finish(deadline);
    }
    Ok(end)
}

/// Everything the dispatcher reacts to.
enum Event {
    Message(ClientMessage),
    InputEnded,
    /// No request could be taken for some time.
    NoRoom,
    /// `rpc-read` has handed over all that it has read.
    ReaderIdle,
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
    context: Arc<Context>,
    initialized: bool,
    pace: Pace,
    /// Spawns that wait until the client has read more of what earlier processes have left.
    held_back: VecDeque<(Ticket, SpawnRequest)>,
    lists: Lists,
    /// Processes that run, and for which a request may be among what has been read after their spawns and
    /// not been handed over.
    unsettled: Vec<u64>,
    /// Spawns that were given up, and whose threads have not said so.
    given_up: usize,
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
        let on_reap = config.host.on_reap.clone();
        let snapshots = SnapshotCache::new(Arc::clone(&config.host.swept));
        let resources = SpawnResources::new(config.host.child_descriptor_limit);
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
            context: Arc::new(Context {
                environment: Environment::snapshot(),
                resources,
                snapshots,
                busy_pipes: Arc::default(),
                waits_bytes: Arc::default(),
                on_reap,
            }),
            initialized: false,
            pace,
            held_back: VecDeque::new(),
            lists: Lists::default(),
            unsettled: Vec::new(),
            given_up: 0,
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
            // What has been read is handed over later, or never, where nothing more is taken.
            let waits = !self.unsettled.is_empty();
            if waits && !self.takes_requests() {
                self.settle_all();
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
                        self.deadline = Some(Instant::now() + SHUTDOWN_TIMEOUT - NO_ROOM_WAIT);
                    }
                }
                Event::ReaderIdle => self.settle_all(),
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
        let room = self.outbox.has_room();
        let (inbox, no_room) = match (self.input_open, room) {
            (true, true) => (&self.inbox, never()),
            (true, false) => (&closed, crossbeam_channel::after(NO_ROOM_WAIT)),
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
                Ok(Inbound::ReaderIdle) => Event::ReaderIdle,
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
            ClientMessage::Request { id, request } => self.on_request(self.outbox.admit(Some(id)), request),
            ClientMessage::Invalid { id, error } => self.outbox.answer(self.outbox.admit(id), Err(error)),
            ClientMessage::Notification => {}
        }
    }

    /// Takes the messages that are there, as far as there is room.
    fn take_waiting_messages(&mut self) {
        for _ in 0..self.inbox.len() {
            if !self.takes_requests() {
                return;
            }
            match self.inbox.try_recv() {
                Ok(Inbound::Message(message, _weight)) => self.on_message(message),
                Ok(Inbound::OutputGone) => return self.begin_end(End::OutputGone),
                Ok(Inbound::ReaderIdle) => self.settle_all(),
                // Its end is seen where the next event is waited for.
                Err(_) => return,
            }
        }
    }

    fn takes_requests(&self) -> bool {
        self.input_open && self.outbox.has_room()
    }

    // ---- processes ----

    /// Hands over to a process that runs what has been asked of it so far; from then on it reads its output.
    fn started(&mut self, serial: u64) {
        // What has come after the spawn so far is handed over with the rest of the backlog.
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
            && entry.stats.handover.done()
        {
            entry.wake.set();
        }
        self.spawn_settled(serial);
    }

    /// The same for all processes that waited until what had been read was handed over.
    fn settle_all(&mut self) {
        for serial in std::mem::take(&mut self.unsettled) {
            self.started(serial);
        }
    }

    fn on_process(&mut self, event: ProcessEvent) {
        match event {
            ProcessEvent::Started { serial } => {
                let transport = self.transport.as_ref();
                match self.input_open && transport.is_some_and(Transport::reader_is_busy) {
                    true => self.unsettled.push(serial),
                    false => self.started(serial),
                }
            }
            ProcessEvent::Failed { serial } => self.failed(serial),
            ProcessEvent::Ended {
                serial,
                exited,
                inbox,
            } => {
                if let Some(at) = self.unsettled.iter().position(|&unsettled| unsettled == serial) {
                    self.unsettled.swap_remove(at);
                    self.started(serial);
                }
                // The handle is free before the client can read that the process has exited, and
                // commands that came too late are answered before its last word.
                if let Some(entry) = self.handles.remove(serial) {
                    for command in inbox.try_iter() {
                        self.too_late(&entry, command);
                    }
                }
                if self.handles.is_empty() {
                    self.context.resources.clear();
                }
                if let Some((exited, permit)) = exited {
                    self.handles.remember(&exited.process_handle);
                    self.outbox.exited(exited, permit);
                }
            }
        }
    }
}
