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
//! | draining | outputs ended, or time is up and what was owed is delivered | the group is killed, the child reaped, its end told |
//! | drained | a tracer holds the zombie | it is asked for at growing intervals, and commands are answered |
//! | any | the connection ends | the tree is killed, and draining no longer waits for the client |

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

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, Release, SeqCst},
};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};

use self::grace::Grace;
use self::inspect::Inspections;
use self::keep::Keep;
use self::output::{Output, Sink};
use self::pty::Terminal;
use self::spawn::{Channels, Child, Environment, Nursery};
use self::stdin::{AcceptedWrite, Stdin};
use self::tree::{Camera, Held};
use self::wait::{Wait, Waits};
use crate::outbox::Outbox;
use crate::sys::{self, Birth, EventFd, Interest, Pid, Status};
use crate::wire::protocol::{
    Collected, CollectedTail, Exited, PtySize, Reply, RequestId, RpcError, SpawnParams, SpawnReply, Stream,
    Usage, code,
};
use crate::wire::signal;

/// How long what keeps an output open after the exit delays `process/exited`.
pub(crate) const DRAIN: Duration = Duration::from_millis(2_000);
/// The same once the connection is ending.
const DRAIN_AT_END: Duration = Duration::from_millis(250);
/// How long a client that does not read delays the end of a process once the connection is ending.
const DELIVER_AT_END: Duration = Duration::from_millis(1_200);

/// How many commands are taken before the exit, the deadlines and the streams are looked at again.
const COMMANDS_A_TURN: usize = 1_024;
/// The first pause between two attempts to reap a child that a tracer holds, and the longest: the kernel
/// does not tell the parent in any other way than by SIGCHLD, which is the embedder's.
const FIRST_REAP_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_REAP_PAUSE: Duration = Duration::from_millis(250);

/// What is answered where the process lives on.
const CONNECTION_ENDS: &str = "the connection is ending";

/// The exit code of a process whose time was up.
const TIMED_OUT: i32 = 124;
/// The exit code where it cannot be known: other code in this program has reaped our child, or a tracer
/// holds it past the end of the connection.
const UNKNOWN: i32 = -1;

/// What the dispatcher hands to a process.
pub(crate) enum Command {
    Write(AcceptedWrite),
    Resize {
        id: RequestId,
        size: PtySize,
    },
    Kill {
        id: RequestId,
        signal: i32,
        grace: Option<Duration>,
    },
    CloseOutput {
        id: RequestId,
        stream: Option<Stream>,
    },
    Wait(Box<Wait>),
    Inspect {
        id: RequestId,
    },
    /// The connection is ending.
    End,
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
        exited: Option<Box<Exited>>,
        inbox: Receiver<Command>,
    },
}

/// What `process/list` shows; written by the process's thread, read by the dispatcher.
#[derive(Default)]
pub(crate) struct Vitals {
    /// 0 until it runs.
    pub(crate) pid: AtomicU32,
    pub(crate) started_at_ms: AtomicU64,
    pub(crate) stdout_bytes: Arc<AtomicU64>,
    pub(crate) stderr_bytes: Arc<AtomicU64>,
    /// The dispatcher adds, the process's thread subtracts.
    pub(crate) stdin_pending: Arc<AtomicU64>,
    /// What the writes that are not answered yet count; the dispatcher adds, the process's thread subtracts.
    pub(crate) stdin_unanswered: Arc<AtomicUsize>,
    /// Waits that are not answered yet; the dispatcher adds.
    pub(crate) waits: Arc<AtomicUsize>,
    pub(crate) handover: Handover,
}

/// Whether the dispatcher has handed over what came behind the spawn while the process was being started.
/// Output is not read before: a wait that was sent right behind the spawn is about all of it.
#[derive(Default)]
pub(crate) struct Handover(AtomicU8);

impl Handover {
    const AWAITED: u8 = 1;
    const DONE: u8 = 2;

    /// The dispatcher has done so; whether the process is to be woken.
    pub(crate) fn done(&self) -> bool {
        self.0.swap(Self::DONE, SeqCst) == Self::AWAITED
    }

    /// Whether it has. If not, the process is woken when it has.
    fn is_done(&self) -> bool {
        self.0.compare_exchange(0, Self::AWAITED, SeqCst, SeqCst) == Err(Self::DONE)
    }
}

/// What all processes of a server share.
pub(crate) struct Common {
    pub(crate) environment: Environment,
    pub(crate) nursery: Nursery,
    pub(crate) camera: Camera,
    pub(crate) busy_pipes: Arc<AtomicUsize>,
    /// What all waits count; the dispatcher adds.
    pub(crate) waits_bytes: Arc<AtomicUsize>,
    pub(crate) on_detach: Option<Arc<dyn Fn(u32) + Send + Sync>>,
}

/// Everything a process thread begins with.
pub(crate) struct Start {
    pub(crate) serial: u64,
    pub(crate) id: RequestId,
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
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) common: Arc<Common>,
    pub(crate) outbox: Outbox,
    pub(crate) events: Sender<ProcessEvent>,
}

/// The life of one process; the body of its thread.
pub(crate) fn run(start: Start) {
    sys::block_signals_for_this_thread();
    let serial = start.serial;
    let events = start.events.clone();
    let common = &start.common;
    let deadline = start.timeout.and_then(|t| Instant::now().checked_add(t));
    let spawned = spawn::spawn(
        &start.params,
        &common.environment,
        &common.nursery,
        &start.birth,
        deadline,
    );
    if !start.birth.settle() {
        // The dispatcher has given up on it, and answered.
        if let Ok(child) = spawned {
            child.end();
        }
        let _ = events.send(ProcessEvent::Failed { serial });
        return;
    }
    let child = match spawned {
        Ok(child) => child,
        Err(error) => {
            start.outbox.answer(Some(start.id), Err(error));
            let _ = events.send(ProcessEvent::Failed { serial });
            return;
        }
    };
    let pid = child.pid.unsigned_abs();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    start
        .vitals
        .started_at_ms
        .store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
    start.vitals.pid.store(pid, Release);
    if let (true, Some(on_detach)) = (start.params.detach, &start.common.on_detach) {
        on_detach(pid);
    }
    // The answer goes out before the first delta, and by this thread, so that it does.
    let reply = Ok(Reply::Spawn(SpawnReply { pid }));
    if start.reused {
        // Nobody shall take the last process's output and exit for this one's.
        start.outbox.answer_behind_output(start.id.clone(), reply);
    } else {
        start.outbox.answer(Some(start.id.clone()), reply);
    }
    // Lets go of the params, before the dispatcher drops what is no longer needed of them.
    let mut process = Process::new(start, child);
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
    /// The end of a stream is told, also of one that is not read.
    tells_tails: bool,
    stdin: Stdin,
    inspections: Inspections,
    sink: Sink,
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
    vitals: Arc<Vitals>,
    common: Arc<Common>,
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
    /// When writes that wait are answered though the process has not ended: nothing ends one that we may
    /// not signal, or that a tracer or the kernel holds.
    answer_writes_at: Option<Instant>,
    /// What was killed outside of the group.
    killed: Vec<Held>,
    /// The tree was killed after the exit: nothing of it is left that could still be found.
    killed_after_exit: bool,
    /// Left to itself because the connection ended and the client wanted it so.
    released: bool,
}

impl Process {
    fn new(start: Start, child: Child) -> Self {
        let started = Instant::now();
        let Start {
            params,
            keep,
            vitals,
            outbox,
            ..
        } = start;
        let output = |fd, stream, total: &Arc<AtomicU64>| {
            let streamed = params.tty || params.stream_stdout_stderr;
            Output::new(fd, stream, params.tty, streamed, keep, Arc::clone(total))
        };
        let (terminal, outputs, stdin) = match child.channels {
            Channels::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                let stdout = stdout.map(|fd| output(Rc::new(fd), Stream::Stdout, &vitals.stdout_bytes));
                let stderr = stderr.map(|fd| output(Rc::new(fd), Stream::Stderr, &vitals.stderr_bytes));
                let outputs = [stdout, stderr];
                (None, outputs, stdin.map(Rc::new))
            }
            Channels::Terminal { terminal, descriptor } => {
                let descriptor = Rc::new(descriptor);
                let screen = output(Rc::clone(&descriptor), Stream::Stdout, &vitals.stdout_bytes);
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
                Arc::clone(&vitals.stdin_pending),
                Arc::clone(&vitals.stdin_unanswered),
                outbox.clone(),
            ),
            inspections: Inspections::default(),
            sink: Sink {
                handle: start.handle,
                credit: outbox.credit(Arc::clone(&start.wake)),
                outbox,
                busy_pipes: Arc::clone(&start.common.busy_pipes),
            },
            waits: Waits::default(),
            handed_over: false,
            holds_back: false,
            over: false,
            detach: params.detach,
            inbox: start.inbox,
            wake: start.wake,
            vitals,
            common: start.common,
            started,
            exited: None,
            // A timeout past the end of time is none.
            timeout_at: start.timeout.and_then(|t| started.checked_add(t)),
            timeout_grace: start.grace,
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
            self.finish_outputs(now);
            if self.is_over(now) {
                return;
            }
            self.look_at_waits(now);
            let [first, second] = self.outputs.each_ref().map(|output| {
                let output = output.as_ref().filter(|_| !self.holds_back);
                let interest = output.and_then(|o| o.interest(&self.sink));
                interest.map_or(Interest::NONE, Interest::read)
            });
            let graced = self.exited.and(self.grace.as_ref()).and_then(Grace::awaited);
            let mut interests = [
                Interest::read(self.wake.raw()),
                self.pidfd.as_ref().map_or(Interest::NONE, |fd| {
                    Interest::read(std::os::fd::AsRawFd::as_raw_fd(fd))
                }),
                self.stdin.interest().map_or(Interest::NONE, Interest::write),
                first,
                second,
                graced.map_or(Interest::NONE, Interest::read),
            ];
            let deadline = self.next_deadline(now);
            let timeout = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if let Err(e) = sys::poll(&mut interests, timeout) {
                // Cannot happen with descriptors of our own; without poll there is no way on.
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

    // ---- deadlines ----

    fn keep_deadlines(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.grace.as_ref().is_some_and(|grace| grace.is_over(now)) {
            self.kill_unasked();
        }
        if self.exited.is_some() {
            return;
        }
        if due(self.timeout_at) {
            self.timeout_at = None;
            // An exit that came first counts, even if it was not noticed yet.
            if self.has_exited() {
                self.on_exit();
                return;
            }
            self.timed_out = true;
            match self.timeout_grace {
                Some(grace) => self.grace = Some(Grace::begin(self.pid, grace, &self.common.camera)),
                None => self.kill_unasked(),
            }
        }
        if due(self.kill_at) {
            self.kill_at = None;
            self.kill_unasked();
        }
        if due(self.answer_writes_at) {
            self.answer_writes_at = None;
            self.stdin.fail(CONNECTION_ENDS);
            self.waits.fail(&self.sink.outbox, CONNECTION_ENDS);
        }
        if self.outputs().any(|output| due(output.eof_at())) {
            if self.has_exited() {
                self.on_exit();
                return;
            }
            if sys::is_exiting(self.pid) {
                let outputs = self.outputs.iter_mut().flatten();
                outputs.for_each(|output| output.put_off_eof(now));
            }
        }
        for output in self.outputs.iter_mut().flatten() {
            output.look_again(now);
        }
        self.stdin.look_again(now);
    }

    /// When to look at the deadlines again, if nothing else happens. `now` must be what
    /// [`is_over`](Self::is_over) was asked with, or a deadline could fall between the two.
    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let grace = self.grace.as_ref().and_then(Grace::deadline);
        let waits = self.waits.look_again_at();
        if let Some(exited) = self.exited {
            let drain = self.drain_from(exited) + self.drain();
            // Once the drain is over, only the delivery of what is owed is waited for: the client's
            // reading ends that, or the end of the connection.
            let end = match drain > now {
                _ if self.grace.is_some() => grace,
                true => Some(drain),
                false => self.ending.map(|ending| ending + DELIVER_AT_END),
            };
            return [end, self.inspections.deadline(), waits]
                .into_iter()
                .flatten()
                .min();
        }
        let outputs = self.outputs();
        let outputs = outputs.flat_map(|output| [output.look_again_at(), output.eof_at()]);
        let others = [
            self.answer_writes_at,
            outputs.flatten().min(),
            self.stdin.look_again_at(),
            self.inspections.deadline(),
            waits,
        ];
        [self.timeout_at, self.kill_at, grace]
            .into_iter()
            .chain(others)
            .flatten()
            .min()
    }

    fn has_exited(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        let mut interest = [Interest::read(std::os::fd::AsRawFd::as_raw_fd(pidfd))];
        sys::poll(&mut interest, Some(Duration::ZERO)).is_ok() && interest[0].readable()
    }

    /// How long an output that somebody keeps open delays the end.
    fn drain(&self) -> Duration {
        match self.ending {
            Some(_) => DRAIN_AT_END,
            None => DRAIN,
        }
    }

    /// When the drain of a process that ended at `exited` began.
    fn drain_from(&self, exited: Instant) -> Instant {
        self.grace_ended.unwrap_or(exited)
    }

    /// Whether there is nothing left to do but to reap.
    fn is_over(&mut self, now: Instant) -> bool {
        if self.released {
            return true;
        }
        let Some(exited) = self.exited else { return false };
        if let Some(grace) = &mut self.grace {
            if grace.is_anything_left(now, &self.common.camera) {
                return false;
            }
            self.grace = None;
        }
        if !self.outputs().any(Output::is_open) {
            return true;
        }
        // What was written before the exit is delivered, however long the client takes to read it;
        // only the end of the connection does not wait for that.
        let settled = |output: &Output| output.is_settled() || output.is_silent();
        let drained = now >= self.drain_from(exited) + self.drain();
        let delivered = drained && self.outputs().all(settled);
        let hopeless = self.ending.is_some_and(|ending| now >= ending + DELIVER_AT_END);
        let over = drained && (delivered || hopeless);
        // A client that took its time does not keep an output open, and of a stream that has reached its
        // cap there was nothing more to wait for.
        let complete = |output: &Output| output.is_full() || output.has_run_dry();
        self.drain_timed_out |= over && !self.outputs().all(complete);
        if over {
            // What is kept of the end of a stream is owed as well.
            self.outputs.iter_mut().flatten().for_each(Output::stop);
            self.finish_outputs(now);
        }
        over && (hopeless || !self.outputs().any(Output::is_open))
    }

    // ---- events ----

    fn on_exit(&mut self) {
        self.exited = Some(Instant::now());
        self.pidfd = None;
        self.timeout_at = None;
        self.kill_at = None;
        for output in self.outputs.iter_mut().flatten() {
            output.process_exited();
        }
    }

    /// Takes the commands that wait now. What comes meanwhile is left for the next turn, so that a flood
    /// does not keep the exit and the deadlines from being looked at.
    fn take_commands(&mut self) {
        let waiting = self.inbox.len().min(COMMANDS_A_TURN);
        // Kills that wait together share one kill of the tree, which takes a snapshot of the machine.
        let mut tree_kill = None;
        for _ in 0..waiting {
            let Ok(command) = self.inbox.try_recv() else { break };
            match command {
                Command::Write(write) => self.stdin.write(write),
                Command::Resize { id, size } => {
                    let outcome = self.resize(size);
                    self.sink.outbox.answer(Some(id), outcome);
                }
                Command::Kill { id, signal, .. } if signal == libc::SIGKILL => {
                    let outcome = tree_kill.get_or_insert_with(|| self.kill_tree()).clone();
                    self.sink.outbox.answer(Some(id), outcome);
                }
                Command::Kill { id, signal, grace } => {
                    let outcome = self.signal(signal, grace);
                    self.sink.outbox.answer(Some(id), outcome);
                }
                Command::CloseOutput { id, stream } => {
                    let outcome = self.close_output(stream);
                    // No delta of the stream comes behind it.
                    self.sink.outbox.answer_behind_output(id, outcome);
                }
                Command::Wait(wait) => self.wait(*wait),
                Command::Inspect { id } => self.inspect(id),
                Command::End => self.connection_ends(),
            }
        }
        if waiting == COMMANDS_A_TURN {
            self.wake.set();
        }
    }

    fn resize(&mut self, size: PtySize) -> Result<Reply, RpcError> {
        let Some(terminal) = &self.terminal else {
            return Err(RpcError::invalid_request(
                "failed to resize PTY: the process has none",
            ));
        };
        match terminal.resize(size) {
            Ok(()) => Ok(Reply::Done),
            Err(e) => Err(RpcError::new(
                code::INTERNAL_ERROR,
                format!("failed to resize PTY: {e}"),
            )),
        }
    }

    /// Sends any signal but SIGKILL to the group.
    fn signal(&mut self, signal: i32, grace: Option<Duration>) -> Result<Reply, RpcError> {
        if self.exited.is_none() {
            let grace = grace.and_then(|g| Instant::now().checked_add(g));
            self.kill_at = [self.kill_at, grace].into_iter().flatten().min();
        }
        let sent = sys::kill_group(self.pid, signal);
        self.signalled(signal, sent)
    }

    /// Kills the process and all it has started that can be found.
    fn kill_tree(&mut self) -> Result<Reply, RpcError> {
        if self.killed_after_exit {
            return Ok(Reply::Done);
        }
        self.killed_after_exit = self.exited.is_some();
        if let Some(grace) = self.grace.take() {
            self.grace_ended = self.exited.map(|_| Instant::now());
            self.killed.extend(grace.kill());
        }
        let killed = tree::kill(self.pid, &self.common.camera);
        self.killed.extend(killed.outside);
        self.signalled(libc::SIGKILL, killed.outcome)
    }

    /// Kills the tree where no request waits for the outcome.
    fn kill_unasked(&mut self) {
        if let Err(error) = self.kill_tree() {
            log::warn!("process {} was not killed: {}", self.pid, error.message);
        }
    }

    /// What a kill is answered once `signal` was sent.
    fn signalled(&self, signal: i32, sent: io::Result<()>) -> Result<Reply, RpcError> {
        match sent {
            Ok(()) => Ok(Reply::Done),
            // The leader is a zombie until we reap it, and alone in its group as far as we may signal it.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) && self.has_exited() => Ok(Reply::Done),
            Err(e) => Err(RpcError::new(
                code::INTERNAL_ERROR,
                format!("failed to send {}: {e}", signal::name(signal)),
            )),
        }
    }

    fn connection_ends(&mut self) {
        if self.ending.is_some() {
            return;
        }
        let now = Instant::now();
        self.ending = Some(now);
        self.answer_writes_at = Some(now + DELIVER_AT_END);
        // The time of one that has a grace was up before.
        let detached = self.detach && self.grace.is_none();
        if detached && self.exited.is_none() {
            self.released = true;
            return;
        }
        if !detached {
            self.kill_unasked();
        }
    }

    // ---- the end ----

    /// Reaps the process and says how it ended; nothing is said of one that lives on.
    fn end(mut self) -> (Option<Box<Exited>>, Receiver<Command>) {
        self.stdin.fail("the process has ended");
        self.finish_inspections();
        if self.released {
            self.waits.fail(&self.sink.outbox, CONNECTION_ENDS);
            return (None, self.inbox);
        }
        self.end_waits();
        if !self.detach {
            let _ = sys::kill_group(self.pid, libc::SIGKILL);
        }
        // Until here the pid was a zombie's at least, so that it could mean nobody else.
        let (status, usage) = self.reap();
        self.refuse_inspections();
        if !self.detach {
            tree::wait_for_group(self.pid, &self.common.camera);
        }
        tree::wait_for_death(&self.killed, Instant::now() + tree::DEATH);
        let duration = self.exited.unwrap_or_else(Instant::now) - self.started;
        let unread = || Collected {
            tail: self.tells_tails.then(CollectedTail::default),
            ..Collected::default()
        };
        let [stdout, stderr] = self
            .outputs
            .map(|o| o.map_or_else(unread, Output::into_collected));
        let exited = Exited {
            process_handle: self.sink.handle,
            exit_code: if self.timed_out { TIMED_OUT } else { status.code },
            stdout,
            stderr,
            output_drain_timed_out: self.drain_timed_out,
            pid: self.pid.unsigned_abs(),
            signal: status.signal.map(signal::name),
            core_dumped: status.core_dumped,
            timed_out: self.timed_out,
            duration,
            usage: Usage {
                user: usage.user,
                system: usage.system,
                max_rss_bytes: usage.max_rss_bytes,
            },
            stdout_bytes: self.vitals.stdout_bytes.load(Relaxed),
            stderr_bytes: self.vitals.stderr_bytes.load(Relaxed),
        };
        (Some(Box::new(exited)), self.inbox)
    }

    /// Reaps the child, which has ended. One that a tracer holds as a zombie is not ours to reap until
    /// that lets go: then it is asked for again and again, and commands are answered meanwhile.
    fn reap(&mut self) -> (Status, sys::Usage) {
        let mut pause = FIRST_REAP_PAUSE;
        loop {
            match sys::try_reap(self.pid) {
                Ok(Some(ended)) => return ended,
                Ok(None) => {}
                Err(e) => {
                    log::error!("other code in this program has reaped process {}: {e}", self.pid);
                    return unknown_end();
                }
            }
            if self
                .ending
                .is_some_and(|ending| ending.elapsed() >= DELIVER_AT_END)
            {
                log::warn!(
                    "process {} has ended, and a tracer keeps it from being reaped",
                    self.pid
                );
                return unknown_end();
            }
            let mut wake = [Interest::read(self.wake.raw())];
            if sys::poll(&mut wake, Some(pause)).is_ok() && wake[0].readable() {
                self.wake.clear();
                self.take_commands();
            } else {
                pause = (pause * 2).min(LONGEST_REAP_PAUSE);
            }
            self.tend_inspections(Instant::now());
        }
    }
}

fn unknown_end() -> (Status, sys::Usage) {
    let status = Status {
        code: UNKNOWN,
        signal: None,
        core_dumped: false,
    };
    (status, sys::Usage::default())
}
