//! One process as an actor on its own thread.
//!
//! **Thread:** `proc-N`, from before the spawn until the process has been reaped.
//! **Owns:** the child, its streams, every signal that is sent to it, and its deadlines. One thread
//! spawns, signals and reaps, so a signal never hits a recycled pid, and no
//! lock is needed.
//! **Never:** blocks in anything but a `poll`, once the program runs, which the child, the clock, the
//! dispatcher and the writer can all end. Until then it is in the kernel; see [`Birth`].
//!
//! | state | event | what happens |
//! | --- | --- | --- |
//! | running | a command | it is done and answered |
//! | running | time is up | the tree is killed, the exit will be 124; with a grace, SIGTERM comes first |
//! | graced | nothing of the tree is left, or the grace has passed | what is left is killed; it is drained |
//! | running | the pidfd is readable | draining begins: 2 s at most for what keeps an output open |
//! | draining | outputs ended, or time is up and what was owed is delivered | the group is killed, the child reaped, its exit reported |
//! | drained | a tracer holds the zombie | it is asked for at growing intervals, and commands are answered |
//! | any | the connection ends | the tree is killed, and draining no longer waits for the client |

mod commands;
mod deadlines;
mod ending;
mod grace;
pub(crate) mod inspect;
pub(crate) mod keep;
mod limits;
pub(crate) mod output;
mod output_requests;
mod pattern;
mod pty;
mod redirect;
pub(crate) mod spawn;
pub(crate) mod stdin;
pub(crate) mod tree;
mod typed_line;
pub(crate) mod wait;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};

pub(crate) use self::deadlines::DRAIN_WAIT;
use self::grace::Grace;
use self::inspect::Inspections;
use self::keep::Keep;
use self::output::{Output, Sink};
use self::pty::Terminal;
use self::spawn::{Channels, Child, Environment, SpawnResources};
use self::stdin::{AcceptedWrite, Stdin};
use self::tree::{HeldProcess, SnapshotCache};
use self::wait::{Wait, Waits};
use crate::outbox::{Account, Outbox, Permit, Ticket};
use crate::sys::sync::AtomicUsize;
use crate::sys::{self, Birth, EventFd, Pid, PollFd};
use crate::wire::protocol::{Exited, PtySize, Reply, SpawnParams, SpawnReply, Stream};

/// How long a client that does not read delays the end of a process once the connection is ending.
const DELIVER_AT_END_WAIT: Duration = Duration::from_millis(1_200);

/// What is answered where the process lives on.
const CONNECTION_ENDS: &str = "the connection is ending";

/// What the dispatcher hands to a process.
pub(crate) enum Command {
    /// A request, which the process answers.
    Request(Ticket, Action),
    /// The connection is ending.
    End,
}

/// What is asked of a process.
pub(crate) enum Action {
    Write(AcceptedWrite),
    Resize(PtySize),
    Kill { signal: i32, grace: Option<Duration> },
    CloseOutput(Option<Stream>),
    Wait(Box<Wait>),
    Inspect,
}

/// What a process tells the dispatcher.
pub(crate) enum ProcessEvent {
    /// It runs, and its spawn has been answered.
    Started { serial: u64 },
    /// It could not be started, or was given up meanwhile, and its spawn has been answered.
    Failed { serial: u64 },
    /// It has ended: the last word, and the commands that came too late.
    Ended {
        serial: u64,
        exited: Option<LastWord>,
        inbox: Receiver<Command>,
    },
}

/// How a process has ended, with the room for telling it.
pub(crate) type LastWord = (Box<Exited>, Permit);

/// What `process/list` shows; written by the process's thread, read by the dispatcher.
#[derive(Default)]
pub(crate) struct Stats {
    /// 0 until it runs.
    pub(crate) pid: AtomicU32,
    pub(crate) started_at_ms: AtomicU64,
    pub(crate) stdout_bytes: AtomicU64,
    pub(crate) stderr_bytes: AtomicU64,
    /// Bytes that the process has not taken yet; the dispatcher charges.
    pub(crate) stdin_pending: Arc<Account>,
    /// What the writes that are not answered yet count; the dispatcher charges.
    pub(crate) stdin_unanswered: Arc<Account>,
    /// Waits that are not answered yet; the dispatcher charges.
    pub(crate) waits: Arc<Account>,
    pub(crate) handover: Handover,
}

/// Whether the dispatcher has handed over what came after the spawn while the process was being started.
/// Output is not read before: a wait that was sent right after the spawn is about all of it.
#[derive(Default)]
pub(crate) struct Handover(AtomicUsize);

impl Handover {
    const AWAITED: usize = 1;
    const DONE: usize = 2;

    /// The dispatcher has done so; whether the process is to be woken.
    pub(crate) fn done(&self) -> bool {
        self.0.swap(Self::DONE, AcqRel) == Self::AWAITED
    }

    /// Whether it has. If not, the process is woken when it has.
    fn is_done(&self) -> bool {
        self.0.compare_exchange(0, Self::AWAITED, AcqRel, Acquire) == Err(Self::DONE)
    }
}

/// What all processes of a server share.
pub(crate) struct Context {
    pub(crate) environment: Environment,
    pub(crate) resources: SpawnResources,
    pub(crate) snapshots: SnapshotCache,
    /// Pipes that were made larger.
    pub(crate) busy_pipes: Arc<Account>,
    /// What all waits count; the dispatcher charges.
    pub(crate) waits_bytes: Arc<Account>,
    pub(crate) on_reap: Option<sys::OnLife>,
}

/// Everything a process thread begins with.
pub(crate) struct SpawnRequest {
    pub(crate) serial: u64,
    pub(crate) handle: Arc<str>,
    /// An exit of the handle's last process may be on its way to the client.
    pub(crate) reused: bool,
    pub(crate) params: Arc<SpawnParams>,
    pub(crate) birth: Arc<Birth>,
    pub(crate) keep: Keep,
    pub(crate) timeout: Option<Duration>,
    /// How long after SIGTERM a timeout kills; `None`: at once, and without one.
    pub(crate) grace: Option<Duration>,
    pub(crate) inbox: Receiver<Command>,
    pub(crate) wake: Arc<EventFd>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) context: Arc<Context>,
    pub(crate) outbox: Outbox,
    /// The room for its exit.
    pub(crate) permit: Permit,
    pub(crate) events: Sender<ProcessEvent>,
}

/// The life of one process, whose spawn `ticket` answers; the body of its thread.
pub(crate) fn run(ticket: Ticket, request: SpawnRequest) {
    sys::block_signals_for_this_thread();
    let serial = request.serial;
    let events = request.events.clone();
    let context = &request.context;
    let deadline = request.timeout.and_then(|t| Instant::now().checked_add(t));
    let spawned = spawn::spawn(
        &request.params,
        &context.environment,
        &context.resources,
        &request.birth,
        deadline,
    );
    if !request.birth.settle() {
        // The dispatcher has given up on it, and answered.
        if let Ok(child) = spawned {
            request.birth.tell_reap();
            child.end();
        }
        let _ = events.send(ProcessEvent::Failed { serial });
        return;
    }
    let child = match spawned {
        Ok(child) => child,
        Err(error) => {
            request.outbox.answer(ticket, Err(error));
            let _ = events.send(ProcessEvent::Failed { serial });
            return;
        }
    };
    let pid = child.pid.unsigned_abs();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    request
        .stats
        .started_at_ms
        .store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
    request.stats.pid.store(pid, Release);
    request.birth.tell_birth(child.pid);
    // The answer goes out before the first delta, and by this thread, so that it does.
    let reply = Ok(Reply::Spawn(SpawnReply { pid }));
    if request.reused {
        // Otherwise a client takes the last process's output and exit for this one's.
        request.outbox.answer_after_output(ticket, reply);
    } else {
        request.outbox.answer(ticket, reply);
    }
    // Lets go of the params, before the dispatcher drops what is no longer needed of them.
    let mut process = Process::new(request, child);
    let _ = events.send(ProcessEvent::Started { serial });
    process.live();
    let (exited, inbox) = process.end();
    let _ = events.send(ProcessEvent::Ended {
        serial,
        exited,
        inbox,
    });
}

struct Process {
    pid: Pid,
    /// `None` once it has exited.
    pidfd: Option<std::os::fd::OwnedFd>,
    terminal: Option<Terminal>,
    outputs: [Option<Output>; 2],
    /// The end of a stream is reported, also of one that is not read.
    tells_tails: bool,
    stdin: Stdin,
    inspections: Inspections,
    sink: Sink,
    /// The room for its exit.
    permit: Permit,
    waits: Waits,
    /// See [`Handover`].
    handed_over: bool,
    /// Output is there, and not read before that.
    holds_back: bool,
    /// Nothing more is read.
    over: bool,
    /// What it leaves running is spared, and so is it at the end of the connection.
    detach: bool,
    inbox: Receiver<Command>,
    wake: Arc<EventFd>,
    stats: Arc<Stats>,
    context: Arc<Context>,
    started: Instant,
    exited: Option<Instant>,
    timeout_at: Option<Instant>,
    timeout_grace: Option<Duration>,
    kill_at: Option<Instant>,
    timed_out: bool,
    /// Its time was up, and what has not ended since is killed later.
    grace: Option<Grace>,
    /// When what the grace had left was killed, if the process had ended before.
    grace_ended: Option<Instant>,
    drain_timed_out: bool,
    /// When the connection began to end.
    ending: Option<Instant>,
    /// When writes that wait are answered though the process has not ended: nothing kills one that we may
    /// not signal, or that a tracer or the kernel holds.
    answer_writes_at: Option<Instant>,
    /// What was killed outside of the group.
    killed: Vec<HeldProcess>,
    /// The tree was killed after the exit: nothing of it is left that could still be found.
    killed_after_exit: bool,
    /// Left to itself because the connection ended and the client wanted it so.
    released: bool,
}

impl Process {
    fn new(request: SpawnRequest, child: Child) -> Self {
        let started = Instant::now();
        let SpawnRequest {
            params,
            keep,
            stats,
            outbox,
            ..
        } = request;
        let output = |fd, stream| {
            let streamed = params.tty || params.stream_stdout_stderr;
            Output::new(fd, stream, params.tty, streamed, keep, Arc::clone(&stats))
        };
        let (terminal, outputs, stdin) = match child.channels {
            Channels::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                let stdout = stdout.map(|fd| output(Rc::new(fd), Stream::Stdout));
                let stderr = stderr.map(|fd| output(Rc::new(fd), Stream::Stderr));
                let outputs = [stdout, stderr];
                (None, outputs, stdin.map(Rc::new))
            }
            Channels::Terminal { terminal, descriptor } => {
                let descriptor = Rc::new(descriptor);
                let screen = output(Rc::clone(&descriptor), Stream::Stdout);
                (Some(terminal), [Some(screen), None], Some(descriptor))
            }
        };
        Process {
            pid: child.pid,
            pidfd: Some(child.pidfd),
            terminal,
            outputs,
            tells_tails: keep.told,
            stdin: Stdin::new(
                stdin,
                params.tty,
                Arc::clone(&stats.stdin_pending),
                outbox.clone(),
            ),
            inspections: Inspections::default(),
            sink: Sink {
                handle: request.handle,
                credit: outbox.credit(Arc::clone(&request.wake)),
                outbox,
                busy_pipes: Arc::clone(&request.context.busy_pipes),
            },
            permit: request.permit,
            waits: Waits::default(),
            handed_over: false,
            holds_back: false,
            over: false,
            detach: params.detach,
            inbox: request.inbox,
            wake: request.wake,
            stats,
            context: request.context,
            started,
            exited: None,
            // A timeout past the end of time is none.
            timeout_at: request.timeout.and_then(|t| started.checked_add(t)),
            timeout_grace: request.grace,
            kill_at: None,
            timed_out: false,
            grace: None,
            grace_ended: None,
            drain_timed_out: false,
            ending: None,
            answer_writes_at: None,
            killed: Vec::new(),
            killed_after_exit: false,
            released: false,
        }
    }

    /// Serves the process until nothing of it is left to serve.
    fn live(&mut self) {
        loop {
            let now = Instant::now();
            self.keep_deadlines(now);
            self.let_go_of_terminal();
            self.finish_outputs(now);
            if self.is_over(now) {
                return;
            }
            self.look_at_waits(now);
            let [first, second] = self.outputs.each_ref().map(|output| {
                let output = output.as_ref().filter(|_| !self.holds_back);
                let interest = output.and_then(|o| o.interest(&self.sink));
                interest.map_or(PollFd::NONE, PollFd::read)
            });
            let graced = self.exited.and(self.grace.as_ref()).and_then(Grace::awaited);
            let mut interests = [
                PollFd::read(self.wake.raw()),
                self.pidfd.as_ref().map_or(PollFd::NONE, |fd| {
                    PollFd::read(std::os::fd::AsRawFd::as_raw_fd(fd))
                }),
                self.stdin.interest().map_or(PollFd::NONE, PollFd::write),
                first,
                second,
                graced.map_or(PollFd::NONE, PollFd::read),
            ];
            let deadline = self.next_deadline(now);
            let timeout = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if let Err(e) = sys::poll(&mut interests, timeout) {
                // Cannot happen with our own descriptors; without poll the thread cannot go on.
                log::error!("poll failed, killing process {}: {e}", self.pid);
                self.kill_unasked();
                return;
            }
            self.stdin.observe();
            let [wake, exit, stdin, first, second, _] = interests;
            if wake.readable() {
                self.wake.clear();
                self.holds_back = false;
                self.take_commands();
            }
            self.tend_inspections(Instant::now());
            if exit.readable() {
                self.on_exit();
            }
            if stdin.writable() {
                self.stdin.pump();
            }
            if first.readable() || second.readable() {
                self.hold_back_or_not();
            }
            for (index, interest) in [first, second].into_iter().enumerate() {
                if interest.readable()
                    && !self.holds_back
                    && let Some(output) = &mut self.outputs[index]
                {
                    output.pump(&self.sink, &mut self.waits);
                    self.waits.answer_found(&self.sink.outbox);
                }
            }
        }
    }

    fn outputs(&self) -> impl Iterator<Item = &Output> {
        self.outputs.iter().flatten()
    }

    fn on_exit(&mut self) {
        self.exited = Some(Instant::now());
        self.pidfd = None;
        self.timeout_at = None;
        self.kill_at = None;
        for output in self.outputs.iter_mut().flatten() {
            output.process_exited();
        }
    }

    /// What the child has written is read, so nothing is lost when its terminal is hung up.
    fn let_go_of_terminal(&mut self) {
        if self.exited.is_some()
            && let Some(terminal) = &mut self.terminal
            && terminal.is_kept_open()
            && self.outputs.iter().flatten().all(Output::is_silent)
        {
            terminal.let_go();
        }
    }
}

#[cfg(all(loom, test))]
mod models {
    use super::*;

    /// A process that is not read before its handover sees all of it, or is woken by it.
    #[test]
    fn a_handover_is_seen_or_wakes() {
        loom::model(|| {
            let handover = Arc::new(Handover::default());
            let commands = Arc::new(AtomicUsize::new(0));
            let dispatcher = {
                let (handover, commands) = (Arc::clone(&handover), Arc::clone(&commands));
                loom::thread::spawn(move || {
                    commands.store(1, Relaxed);
                    handover.done()
                })
            };
            let seen = handover.is_done();
            if seen {
                assert_eq!(commands.load(Relaxed), 1, "what was handed over is there");
            }
            let woken = dispatcher.join().expect("no panic");
            assert_ne!(seen, woken);
        });
    }
}
