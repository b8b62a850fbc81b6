//! What the machine shows of a process: who belongs to it, what they do, and whether it waits for input.
//!
//! **Thread:** the process thread asks, and `inspect` looks: at most one for each process, because a file in
//! `/proc` may not answer while the process it is about does not let go of its memory.
//! **Owns:** the requests that wait for a look.
//! **Never:** guesses. What is not shown is null, and so is what has not been read within [`LOOK_WAIT`].

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::outbox::Ticket;
use crate::outbox::costs::{MAX_COMMAND_BYTES, MAX_INSPECTED};
use crate::process::pty::Terminal;
use crate::process::tree::SnapshotCache;
use crate::process::{Context, Process};
use crate::sys::inspect::{self as shown, Facts, Input, Wait};
use crate::sys::{self, EventFd, Pid, PollFd, ProcStat};
use crate::wire::inspect::{Foreground, Inspection, ProcessState, TerminalState};
use crate::wire::protocol::{Reply, RpcError, code};

/// How long a look may take before it is answered with what is known so far. It takes a few milliseconds.
const LOOK_WAIT: Duration = Duration::from_secs(2);
/// How many threads are looked at. With more, it is not known that none of them waits for input.
const MAX_THREADS: usize = 4_096;
/// How many descriptors a look needs at a time.
const DESCRIPTORS_PER_LOOK: usize = 3;
/// The stack of the thread that looks.
const STACK_BYTES: usize = 128 * 1024;

/// What is to be looked at, with what its terminal and its stdin say at once.
#[derive(Debug)]
pub(crate) struct Subject {
    pid: Pid,
    terminal: Option<TerminalState>,
    /// The foreground group of its terminal.
    foreground: Option<Pid>,
    source: Source,
}

/// Where its input comes from.
#[derive(Debug)]
enum Source {
    /// The client cannot send it any.
    Nothing,
    Known(Input),
    Unknown,
}

impl Subject {
    /// `terminal` is the master of its terminal, and `stdin` the writing end of its stdin, as long as that is
    /// open. Does not wait.
    pub(crate) fn new(pid: Pid, terminal: Option<BorrowedFd<'_>>, stdin: Option<&OwnedFd>) -> Subject {
        let Some(master) = terminal else {
            return Subject {
                pid,
                terminal: None,
                foreground: None,
                source: stdin.map_or(Source::Nothing, |stdin| {
                    shown::pipe_input(stdin).map_or(Source::Unknown, Source::Known)
                }),
            };
        };
        // First, so that what is seen then has had the chance to read it.
        shown::hand_over_typed(master);
        let facts = shown::terminal_facts(master).ok();
        Subject {
            pid,
            terminal: facts.map(|facts| TerminalState {
                canonical: facts.canonical,
                echo: facts.echo,
                rows: facts.rows,
                cols: facts.cols,
            }),
            foreground: shown::foreground_group(master),
            source: shown::slave(master)
                .map_or(Source::Unknown, |slave| Source::Known(Input::Terminal(slave))),
        }
    }

    /// What is known without looking at a process.
    fn inspection(&self) -> Inspection {
        Inspection {
            pid: self.pid.unsigned_abs(),
            terminal: self.terminal,
            foreground: self.foreground.map(|group| Foreground {
                pid: group.unsigned_abs(),
                command: None,
            }),
            waits_for_input: None,
            processes: vec![process_state(self.pid, None, None)],
            processes_omitted: None,
        }
    }
}

/// Whether `subject` is blocked in a read of its terminal or of its stdin; `None` where that cannot be known.
/// May wait as long as a process of it holds its memory: [`Look`] does not.
pub(crate) fn waits_for_input(subject: &Subject, snapshots: &SnapshotCache) -> Option<bool> {
    any_waits(subject, &members(subject, snapshots)?)
}

/// Everything that belongs to `subject`, oldest first; `None` where that is not shown.
fn members(subject: &Subject, snapshots: &SnapshotCache) -> Option<Vec<Member>> {
    let family = snapshots
        .snapshot()
        .and_then(|snapshot| snapshot.family(subject.pid));
    Some(family.ok()??.into_iter().map(Member::new).collect())
}

/// A process with what `/proc` says of it.
struct Member {
    stat: ProcStat,
    facts: Option<Facts>,
}

impl Member {
    fn new(stat: ProcStat) -> Member {
        Member {
            facts: shown::facts(stat.entry),
            stat,
        }
    }

    fn pid(&self) -> u32 {
        self.stat.pid.unsigned_abs()
    }

    fn command(&self) -> Option<Vec<String>> {
        let facts = self.facts.as_ref()?;
        // One byte more shows whether that is all.
        let mut bytes = shown::arguments(self.stat.entry, MAX_COMMAND_BYTES + 1);
        let cut = bytes.len() as u64 > MAX_COMMAND_BYTES;
        bytes.truncate(MAX_COMMAND_BYTES as usize);
        if bytes.is_empty() {
            return Some(vec![format!("[{}]", facts.name)]);
        }
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        let arguments = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let mut command: Vec<String> = arguments.map(|argument| argument.into_owned()).collect();
        if let (true, Some(last)) = (cut, command.last_mut()) {
            // What is left of a character.
            last.truncate(last.trim_end_matches(char::REPLACEMENT_CHARACTER).len());
            last.push('…');
        }
        Some(command)
    }
}

fn process_state(pid: Pid, parent: Option<Pid>, facts: Option<&Facts>) -> ProcessState {
    ProcessState {
        pid: pid.unsigned_abs(),
        parent_pid: parent.map(Pid::unsigned_abs).filter(|&parent| parent > 0),
        command: None,
        state: facts.map(|facts| facts.state.to_string()),
        threads: facts.map(|facts| facts.threads),
        cpu_ms: facts.map(|facts| u64::try_from(facts.cpu.as_millis()).unwrap_or(u64::MAX)),
        rss_bytes: facts.and_then(|facts| facts.rss_bytes),
    }
}

fn any_waits(subject: &Subject, members: &[Member]) -> Option<bool> {
    let input = match &subject.source {
        Source::Nothing => return Some(false),
        Source::Unknown => return None,
        Source::Known(input) => input,
    };
    let mut unknown = false;
    let mut threads_left = MAX_THREADS;
    for member in members.iter().filter(|member| !member.stat.dead) {
        let entry = member.stat.entry;
        let Some(facts) = &member.facts else {
            // One that has gone meanwhile waits for nothing.
            unknown |= member.stat.started.is_none();
            continue;
        };
        if let Input::Terminal(slave) = input
            && Some(member.stat.group) != subject.foreground
            && facts.terminal == slave.number_in_stat()
        {
            // In the background it would be stopped by a read. That is not so for what has left the
            // terminal's session with the terminal open.
            continue;
        }
        let mut threads = shown::threads(entry);
        if threads.is_empty() {
            unknown |= facts.threads > 1;
            threads.push(entry);
        }
        for thread in threads {
            if threads_left == 0 {
                return None;
            }
            threads_left -= 1;
            match waits(entry, thread, facts.terminal, input) {
                Some(false) => {}
                Some(true) => return Some(true),
                None => unknown = true,
            }
        }
    }
    (!unknown).then_some(false)
}

/// Whether one thread waits for `input` and for nothing else.
fn waits(entry: Pid, thread: Pid, terminal: u32, input: &Input) -> Option<bool> {
    let is_input = |fd| input.is(entry, thread, fd, terminal);
    match shown::wait_of(entry, thread) {
        Wait::Not => Some(false),
        Wait::Read(fd) => is_input(fd),
        // If there is something to move, it waits for where that goes to.
        Wait::Move(fd) => match (is_input(fd)?, input) {
            (false, _) => Some(false),
            (true, Input::Pipe { empty: true, .. }) => Some(true),
            (true, _) => None,
        },
        Wait::Poll { inputs, others } => {
            let found: Vec<Option<bool>> = inputs.into_iter().map(is_input).collect();
            if found.iter().all(|is_input| *is_input == Some(false)) {
                return Some(false);
            }
            let only_input = !others && found.iter().all(|is_input| *is_input == Some(true));
            only_input.then_some(true)
        }
        Wait::Unknown => None,
    }
}

// ---- the thread that looks ----

/// What a look is to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Only [`Inspection::waits_for_input`].
    Input,
    All,
}

/// A look at a process, under way on a thread of its own. Dropped, it is given up.
pub(crate) struct Look {
    shared: Arc<Shared>,
    until: Instant,
}

struct Shared {
    known: Mutex<Inspection>,
    ended: AtomicBool,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Inspection> {
        sys::lock(&self.known)
    }
}

/// Reports the end of a look, however it ends.
struct TellEnd(Arc<Shared>, Arc<EventFd>);

impl Drop for TellEnd {
    fn drop(&mut self) {
        self.0.ended.store(true, SeqCst);
        self.1.set();
    }
}

impl Look {
    /// Begins to look at `subject`; `wake` is set at the end.
    ///
    /// # Errors
    ///
    /// Where the thread cannot be started.
    pub(crate) fn begin(
        subject: Subject,
        scope: Scope,
        context: &Arc<Context>,
        wake: &Arc<EventFd>,
    ) -> io::Result<Look> {
        let shared = Arc::new(Shared {
            known: Mutex::new(subject.inspection()),
            ended: AtomicBool::new(false),
        });
        let end = TellEnd(Arc::clone(&shared), Arc::clone(wake));
        let context = Arc::clone(context);
        sys::start_thread("inspect", STACK_BYTES, move || {
            sys::block_signals_for_this_thread();
            let look = || look(&subject, scope, &context.snapshots, &end.0);
            if sys::descriptors_are_left(DESCRIPTORS_PER_LOOK) {
                look();
            } else {
                // Where there is no other thread either, nothing is known.
                let _ = sys::on_thread("inspect", STACK_BYTES, || {
                    let _ = sys::leave_table_of_descriptors();
                    look();
                });
            }
        })?;
        Ok(Look {
            shared,
            until: Instant::now() + LOOK_WAIT,
        })
    }

    /// Whether all is known that will be.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.ended.load(SeqCst)
    }

    /// When it has taken too long.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// What is known so far.
    pub(crate) fn known(&self) -> Inspection {
        self.shared.known().clone()
    }
}

fn look(subject: &Subject, scope: Scope, snapshots: &SnapshotCache, shared: &Shared) {
    if scope == Scope::Input {
        let waits_for_input = waits_for_input(subject, snapshots);
        shared.known().waits_for_input = waits_for_input;
        return;
    }
    // Where there is nothing to be seen, nothing is known.
    let Some(mut members) = members(subject, snapshots) else {
        return;
    };
    show(subject, &members, &mut shared.known());
    let waits_for_input = any_waits(subject, &members);
    shared.known().waits_for_input = waits_for_input;
    // Last, because this is what may take long.
    let foreground = shared
        .known()
        .foreground
        .as_ref()
        .map(|foreground| foreground.pid);
    if let Some(member) = members.iter().find(|m| Some(m.pid()) == foreground) {
        let command = member.command();
        if let Some(foreground) = &mut shared.known().foreground {
            foreground.command = command;
        }
    }
    members.truncate(MAX_INSPECTED);
    for (index, member) in members.iter().enumerate() {
        let command = member.command();
        if let Some(process) = shared.known().processes.get_mut(index) {
            process.command = command;
        }
    }
}

/// What is known of `members` without their commands.
fn show(subject: &Subject, members: &[Member], known: &mut Inspection) {
    let shown = members.iter().take(MAX_INSPECTED);
    known.processes = shown
        .map(|m| process_state(m.stat.pid, Some(m.stat.parent), m.facts.as_ref()))
        .collect();
    known.processes_omitted = match members.len().saturating_sub(MAX_INSPECTED) {
        0 => None,
        omitted => Some(omitted as u64),
    };
    known.foreground = subject.foreground.and_then(|group| {
        let mut alive = members.iter().filter(|m| m.stat.group == group && !m.stat.dead);
        let oldest = alive.next()?;
        let leader = std::iter::once(oldest).chain(alive).find(|m| m.stat.pid == group);
        Some(Foreground {
            pid: leader.unwrap_or(oldest).pid(),
            command: None,
        })
    });
}

// ---- the requests ----

/// The requests of one process that are not answered yet.
#[derive(Default)]
pub(crate) struct Inspections {
    look: Option<Look>,
    /// Those that are answered with what it finds.
    asked: Vec<Ticket>,
    /// Those that came meanwhile: the next look serves them all.
    waiting: Vec<Ticket>,
}

impl Inspections {
    /// When to tend to them, if nothing else happens before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let look = self.look.as_ref().filter(|_| !self.asked.is_empty());
        look.map(Look::until)
    }
}

impl Process {
    /// Takes a request to inspect it. What comes after it does not wait for the answer.
    pub(super) fn inspect(&mut self, ticket: Ticket) {
        self.inspections.waiting.push(ticket);
        self.tend_inspections(Instant::now());
    }

    /// Answers what a look has found, and begins the next one.
    pub(super) fn tend_inspections(&mut self, now: Instant) {
        if let Some(look) = &self.inspections.look {
            let ended = look.has_ended();
            if ended || look.until() <= now {
                let known = Arc::new(look.known());
                self.answer_inspections(&Ok(Reply::Inspect(known)));
            }
            if ended {
                self.inspections.look = None;
            }
        }
        if self.inspections.waiting.is_empty() {
            return;
        }
        match &self.inspections.look {
            None => {
                self.inspections.asked = std::mem::take(&mut self.inspections.waiting);
                match Look::begin(self.subject(), Scope::All, &self.context, &self.wake) {
                    Ok(look) => self.inspections.look = Some(look),
                    Err(e) => {
                        let message = format!("failed to inspect the process: {}: {e}", sys::START_THREAD);
                        self.answer_inspections(&Err(RpcError::new(code::INTERNAL_ERROR, message)));
                    }
                }
            }
            // It still waits for the machine, so nothing more is to be found out.
            Some(look) if look.until() <= now => {
                self.inspections.asked = std::mem::take(&mut self.inspections.waiting);
                let known = Arc::new(self.subject().inspection());
                self.answer_inspections(&Ok(Reply::Inspect(known)));
            }
            Some(_) => {}
        }
    }

    /// Answers those that came before the process is reaped.
    pub(super) fn finish_inspections(&mut self) {
        let mut waited = false;
        while self.ending.is_none()
            && let Some(deadline) = self.inspections.deadline()
        {
            // Ended by the look, or by the clock.
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = sys::poll(&mut [PollFd::read(self.wake.raw())], Some(left));
            self.wake.clear();
            self.tend_inspections(Instant::now());
            waited = true;
        }
        if waited {
            // It may have been set because of a command.
            self.wake.set();
        }
        self.refuse_inspections();
    }

    /// Answers those that came too late.
    pub(super) fn refuse_inspections(&mut self) {
        self.inspections.asked.append(&mut self.inspections.waiting);
        if self.inspections.asked.is_empty() {
            return;
        }
        self.answer_inspections(&Err(RpcError::invalid_request("the process has ended")));
    }

    fn answer_inspections(&mut self, outcome: &Result<Reply, RpcError>) {
        for ticket in self.inspections.asked.drain(..) {
            self.sink.outbox.answer(ticket, outcome.clone());
        }
    }

    pub(super) fn subject(&self) -> Subject {
        let terminal = self.terminal.as_ref();
        Subject::new(
            self.pid,
            terminal.and_then(Terminal::master),
            self.stdin.descriptor(),
        )
    }
}
