//! `procwire serve`: one connection over stdin and stdout, and everything that is process-wide about it,
//! for `procwire mcp` as well.
//!
//! **Thread:** main reads signals and reaps adopted orphans, while `dispatch` serves.
//! **Owns:** the signals of the process, its limit of descriptors, and the sweep at its end.
//! **Never:** writes to stdout while it serves, which is the protocol's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};

use signal_hook::consts::SIGCHLD;

use crate::cli::guard::{self, Guarded, Signals};
use crate::sys;
use crate::{Config, Connection, End, Stopper};

/// How to serve.
#[derive(Debug)]
pub struct Serve {
    pub config: Config,
    /// Who guards us; only a guard sets it.
    pub guarded_by: Option<String>,
    /// Whether `serve` was asked for by name, and not by leaving out the command.
    pub named: bool,
}

/// Serves stdio until the connection ends or a signal says so; the exit code.
pub(super) fn serve_stdio(serve: Serve) -> Result<i32, Box<dyn std::error::Error>> {
    under_guard("dispatch", serve.guarded_by.as_deref(), serve.config, |config| {
        let connection = Connection::stdio();
        (connection.stopper(), move || crate::serve(connection, config))
    })
}

/// Makes this process one that leaves nothing behind, and serves until the connection ends or a signal
/// says so; the exit code. `begin` is given the settings with what is process-wide about them, and says
/// what ends the connection and what serves it, on a thread of this name.
pub(super) fn under_guard<Body, Error>(
    thread: &str,
    guarded_by: Option<&str>,
    mut config: Config,
    begin: impl FnOnce(Config) -> (Stopper, Body),
) -> Result<i32, Box<dyn std::error::Error>>
where
    Body: FnOnce() -> Result<End, Error> + Send + 'static,
    Error: std::error::Error + Send + 'static,
{
    let guarded = Guarded::begin(guarded_by)?;
    if let Some(why) = guard::blindness() {
        log::warn!(
            "{why}: processes that leave the group of their program may outlive a kill, until the connection ends"
        );
    }
    let mut signals = Signals::hear(&[&[SIGCHLD][..], &guard::ending_signals()].concat())?;

    // A soft limit of 1,024, as is usual, would be two hundred processes.
    match guard::raise_descriptor_limit() {
        Ok(before) => config.host.child_descriptor_limit = Some(before),
        Err(e) => log::debug!("the limit of descriptors stays as it is: {e}"),
    }

    config.host.kills_daemons_at_end = guarded.ends_daemons();
    config.host.survives_server_kill = guarded.ends_all();
    config.host.on_detach = Some(Arc::new(guarded.on_detach()));
    if let Some((on_start, on_reap)) = guarded.on_start_and_reap() {
        config.host.on_start = Some(Arc::new(on_start));
        config.host.on_reap = Some(Arc::new(on_reap));
    }

    let swept = Arc::clone(&config.host.swept);
    let (stopper, body) = begin(config);
    let served = Arc::new(AtomicBool::new(false));
    let its_served = Arc::clone(&served);
    let wake = guard::waker();
    let serving = guard::start_thread(thread, move || {
        let result = body();
        its_served.store(true, SeqCst);
        wake();
        result
    })?;

    let mut first = None;
    while !served.load(SeqCst) {
        let signal = match signals.next_signal() {
            Ok(signal) => signal,
            Err(e) => {
                log::error!("cannot wait for signals: {e}");
                break;
            }
        };
        if signal == SIGCHLD {
            guard::reap_adopted();
            continue;
        }
        stopper.stop();
        if first.is_some() {
            // Asked twice: do not wait any longer.
            break;
        }
        first = Some(signal);
    }
    let end = match first {
        Some(_) if !served.load(SeqCst) => Ok(End::Stopped),
        _ => serving
            .join()
            .map_err(|_| format!("the thread {thread} has panicked"))?,
    };
    // The threads of processes that have not ended in time leave everything to this sweep, if it finds what
    // has lost its parent meanwhile.
    swept.store(sys::adopts_orphans(), Relaxed);
    guard::sweep();
    match (end?, first) {
        (End::Stopped, Some(signal)) => Ok(128 + signal),
        _ => Ok(0),
    }
}
