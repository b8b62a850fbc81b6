//! What can end `procwire run` early, and how it ends: signals, the clock, and dying as the program
//! died.
//!
//! **Thread:** `signals` hears signals and never waits for the server; `clock` waits for deadlines;
//! `pass-on` tells the server, and may wait for it.
//! **Owns:** what state the run is in.
//! **Never:** signals a process of the program; the server does.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use crate::cli::guard;
use crate::client::{Control, Error};
use crate::sys;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_current_process_group, kill_process, setrlimit};
use signal_hook::consts::{
    SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGUSR1,
    SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::Signals;

use super::{FAILED, Run, TIMED_OUT};
use crate::cli::quote::escaped_line;
use crate::cli::terminal;

/// How `run` ends: as the program did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Code(i32),
    /// By this signal, which has killed the program.
    Signal(i32),
}

impl Ending {
    /// Dies of the signal; the exit code to end with where that is not how to end.
    pub fn code(self) -> i32 {
        match self {
            Ending::Code(code) => code,
            Ending::Signal(signal) => {
                die_of(signal);
                128 + signal
            }
        }
    }
}

/// Whether a process can die of it by default.
fn is_deadly(signal: i32) -> bool {
    ![
        SIGCHLD, SIGCONT, SIGURG, SIGWINCH, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU,
    ]
    .contains(&signal)
}

/// Ends this process by `signal`, as its default action does, but for a core: what there is to see
/// was in the program.
fn die_of(signal: i32) {
    // The first process of a container has no default actions.
    if !is_deadly(signal) || std::process::id() == 1 {
        return;
    }
    // The limit does not hold where cores are piped to a program.
    sys::leave_no_core();
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    if let (true, Some(named)) = (terminal::was_typed(signal), Signal::from_named_raw(signal)) {
        // Typed at our terminal for the program alone. Without that terminal the whole foreground
        // would have heard it, such as the script whose loop it is to end.
        let _ = kill_current_process_group(named);
    }
    if signal_hook::low_level::emulate_default_handler(signal).is_err() {
        // None that is handled here.
        let _ = signal_hook::low_level::raise(signal);
    }
}

/// The number of the signal that ended a program. Numbers differ between machines and names do not,
/// so one that has no name here is known only where the server is on this machine.
pub fn signal_number(name: &str, exit_code: i32, here: bool) -> Option<i32> {
    let known = (1..=64).find(|number| signal_hook::low_level::signal_name(*number) == Some(name));
    known.or_else(|| Some(exit_code - 128).filter(|number| here && (1..=64).contains(number)))
}

/// What a signal is for changes as the program comes and goes.
pub enum Phase {
    /// The server has not answered yet. A signal ends this, and the server.
    Connecting,
    /// It has, and there is no program yet. A signal does the same.
    Starting,
    /// It is for the program.
    Running(SyncSender<Forward>),
    /// The program has ended so. A signal ends the wait for its server.
    Over(Ending),
}

pub struct RunState {
    pub server: Option<u32>,
    /// The server is a command of the user's.
    pub is_command: bool,
    pub phase: Phase,
    /// The program's time is up.
    pub timed_out: bool,
    /// Signals that were passed on.
    pub forwarded: Vec<i32>,
    /// A signal has come that ends this process as long as there is no program. Set by the handler,
    /// when the thread that waits for signals may not have got it yet.
    interrupted: Arc<AtomicBool>,
}

/// Something to pass on to the program.
pub enum Forward {
    Signal(i32),
    /// To stop, and to say when it has been told.
    Stop(Sender<()>),
    /// To end, and to be killed if it has not ended that much later.
    Terminate(Duration),
    Size,
}

/// What may wait to be passed on, where the way to the server is blocked. More than that is lost.
const MAX_FORWARDED: usize = 64;
/// How long a stop of this process waits for the program to be told.
const STOP_WAIT: Duration = Duration::from_millis(500);
/// How long the server may take to tell of an end that it was asked for.
const END_WAIT: Duration = Duration::from_secs(3);

/// How long the server may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same where a person may have to type a password first. sshd waits as long.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(120);

pub fn lock(state: &Mutex<RunState>) -> MutexGuard<'_, RunState> {
    sys::lock(state)
}

// ---- signals ----

fn watched_signals(tty: bool) -> Vec<i32> {
    let mut signals = vec![SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP];
    // Under nohup, or in the background of a script, they are ignored on purpose.
    signals.retain(|signal| !guard::is_ignored(*signal));
    signals.push(SIGCONT);
    if tty {
        signals.push(SIGWINCH);
    }
    signals
}

/// Starts the thread that waits for signals. It never waits for the server, so that it hears the second.
pub fn watch_signals(tty: bool, is_command: bool) -> io::Result<Arc<Mutex<RunState>>> {
    let watched_signals = watched_signals(tty);
    let mut signals = Signals::new(&watched_signals)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    // Behind that, so that none is noted here alone.
    for signal in watched_signals.into_iter().filter(|signal| ends_a_start(*signal)) {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let state = Arc::new(Mutex::new(RunState {
        server: None,
        is_command,
        phase: Phase::Connecting,
        timed_out: false,
        forwarded: Vec::new(),
        interrupted,
    }));
    let its_state = Arc::clone(&state);
    guard::start_thread("signals", move || {
        for signal in signals.forever() {
            on_signal(signal, &mut lock(&its_state));
        }
    })?;
    Ok(state)
}

fn ends_a_start(signal: i32) -> bool {
    ![SIGWINCH, SIGCONT, SIGTSTP].contains(&signal)
}

/// What went wrong before there was a program. A signal to the whole process group ends the server as
/// well, and is the reason then: its thread is left to end this process.
pub fn unless_interrupted(state: &Mutex<RunState>, error: Error) -> Error {
    let interrupted = lock(state).interrupted.load(SeqCst);
    if interrupted {
        loop {
            thread::park();
        }
    }
    error
}

fn on_signal(signal: i32, state: &mut RunState) {
    match (signal, &state.phase) {
        (SIGWINCH, Phase::Running(program)) => drop(program.try_send(Forward::Size)),
        (SIGCONT, Phase::Running(program)) => {
            // A shell has had the terminal meanwhile, and the program may have been stopped, too.
            terminal::enter();
            let _ = program.try_send(Forward::Signal(SIGCONT));
            let _ = program.try_send(Forward::Size);
        }
        (SIGWINCH | SIGCONT, _) => {}
        (SIGTSTP, Phase::Running(program)) => {
            let (told, telling) = bounded(1);
            if program.try_send(Forward::Stop(told)).is_ok() {
                let _ = telling.recv_timeout(STOP_WAIT);
            }
            terminal::restored_while(stop);
            let _ = program.try_send(Forward::Signal(SIGCONT));
            // Another has had the screen.
            let _ = program.try_send(Forward::Signal(SIGWINCH));
        }
        (SIGTSTP, _) => stop(),
        // Asked twice: the server ends the program when we are gone.
        (SIGTERM | SIGHUP, Phase::Running(_)) if state.forwarded.contains(&signal) => {
            leave(Ending::Signal(signal));
        }
        (_, Phase::Running(program)) => {
            let _ = program.try_send(Forward::Signal(signal));
            if !state.forwarded.contains(&signal) {
                state.forwarded.push(signal);
            }
        }
        (_, Phase::Connecting | Phase::Starting) => {
            let _last = last_word();
            give_up(state);
            leave(Ending::Signal(signal))
        }
        (_, Phase::Over(ending)) => {
            end_server(state);
            leave(*ending)
        }
    }
}

/// Stops this process, its program and all others of its job, as the key on a terminal does.
pub fn stop_all() {
    let _ = kill_current_process_group(Signal::TSTP);
}

/// Stops this process; returns when it goes on. By a signal that has no handler and that the system
/// drops, as it would have dropped SIGTSTP, where no shell could let this process go on.
fn stop() {
    let _ = signal_hook::low_level::raise(SIGTTOU);
}

/// It may be an ssh that asks for a password or waits for a host, and does not look at its stdin.
fn end_server(state: &RunState) {
    let pid = state.server.and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        // Fails only for one that has ended.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Ends a server that has not answered, with all that its command has started.
fn give_up(state: &RunState) {
    end_server(state);
    if state.is_command {
        guard::sweep();
    }
}

/// The thread that has this ends the process, and no other prints anything after it.
pub fn last_word() -> MutexGuard<'static, ()> {
    static LAST_WORD: Mutex<()> = Mutex::new(());
    sys::lock(&LAST_WORD)
}

/// Ends this process at once, from any thread.
fn leave(ending: Ending) {
    terminal::clean_up();
    std::process::exit(ending.code());
}

/// Starts the thread that passes on what the program is to hear, and may wait for the server.
pub fn forward_to(control: Control) -> io::Result<SyncSender<Forward>> {
    let (sender, receiver) = sync_channel(MAX_FORWARDED);
    guard::start_thread("pass-on", move || {
        for forward in receiver {
            match forward {
                Forward::Signal(signal) => control.post_signal(signal, None),
                Forward::Stop(told) => {
                    control.post_signal("STOP", None);
                    let _ = told.send(());
                }
                Forward::Terminate(grace) => {
                    control.post_signal("TERM", Some(grace));
                    // One that is stopped hears nothing before it goes on.
                    control.post_signal("CONT", None);
                }
                Forward::Size => resize(&control),
            }
        }
    })?;
    Ok(sender)
}

pub fn resize(control: &Control) {
    if let Some((rows, cols)) = terminal::size() {
        control.post_resize(rows, cols);
    }
}

// ---- the clock ----

/// The timeout, if there is one.
pub fn timeout(run: &Run) -> Option<Duration> {
    run.timeout.filter(|timeout| !timeout.is_zero())
}

/// The timeout that the server itself keeps, in case that nothing reaches it any more.
pub fn server_timeout(run: &Run) -> Option<Duration> {
    Some(timeout(run)?.saturating_add(run.grace).saturating_add(END_WAIT))
}

fn connect_timeout(run: &Run) -> Duration {
    let given = run.connect_timeout.map(|timeout| match timeout.is_zero() {
        true => Duration::MAX,
        false => timeout,
    });
    given.unwrap_or_else(|| {
        let terminal = || std::fs::File::open("/dev/tty").is_ok();
        match run.server.is_some() && terminal() {
            true => LOGIN_TIMEOUT,
            false => CONNECT_TIMEOUT,
        }
    })
}

/// Starts the thread that waits for the deadlines: of the server's first answer, and of everything.
/// Time runs from here on.
pub fn watch_clock(run: &Run, state: &Arc<Mutex<RunState>>) -> io::Result<()> {
    let started = Instant::now();
    let connect = connect_timeout(run);
    let (timeout, grace) = (timeout(run), run.grace);
    let server = run.server_name();
    let state = Arc::clone(state);
    guard::start_thread("clock", move || {
        let fail = |state: &RunState, text: String, code| {
            let _last = last_word();
            let _ = writeln!(io::stderr(), "procwire: {text}");
            give_up(state);
            leave(Ending::Code(code));
        };
        if timeout.is_none_or(|timeout| connect < timeout) {
            sleep_until(started, connect);
            let state = lock(&state);
            if let Phase::Connecting = state.phase {
                let text = format!("{server} has not answered within {connect:?} (see --connect-timeout)");
                fail(&state, text, FAILED);
            }
        }
        let Some(timeout) = timeout else { return };
        sleep_until(started, timeout);
        {
            let mut state = lock(&state);
            match &state.phase {
                Phase::Connecting => fail(
                    &state,
                    format!("timed out after {timeout:?}: {server} has not answered"),
                    TIMED_OUT,
                ),
                Phase::Starting => fail(
                    &state,
                    format!("timed out after {timeout:?}: {server} has not started the program"),
                    TIMED_OUT,
                ),
                Phase::Running(program) => {
                    let _ = program.try_send(Forward::Terminate(grace));
                    state.timed_out = true;
                }
                Phase::Over(_) => {}
            }
        }
        sleep_until(started, timeout.saturating_add(grace).saturating_add(END_WAIT));
        let state = lock(&state);
        match state.phase {
            // It is waited for no longer.
            Phase::Over(ending) => leave(ending),
            _ => fail(
                &state,
                format!(
                    "timed out after {timeout:?}: waited in vain for {server} or for its output to be read"
                ),
                TIMED_OUT,
            ),
        }
    })?;
    Ok(())
}

/// Sleeps until `after` has passed since `started`, however often this process is stopped meanwhile.
fn sleep_until(started: Instant, after: Duration) {
    while let Some(left) = after
        .checked_sub(started.elapsed())
        .filter(|left| !left.is_zero())
    {
        thread::sleep(left);
    }
}

/// What `text` says of the other side, on stderr.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "procwire: {}", escaped_line(text));
}
