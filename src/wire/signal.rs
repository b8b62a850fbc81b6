//! Signal names and numbers.
//!
//! **Thread:** none of its own; pure functions.
//! **Owns:** the table of names.
//! **Never:** sends a signal.

use std::ops::RangeInclusive;

use crate::sys::{FIRST_REALTIME_SIGNAL, LAST_SIGNAL};
use crate::wire::protocol::{SignalName, shortened};

const NAMES: &[(i32, &str)] = &[
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    #[cfg(target_os = "linux")]
    (libc::SIGSTKFLT, "SIGSTKFLT"),
    (libc::SIGCHLD, "SIGCHLD"),
    (libc::SIGCONT, "SIGCONT"),
    (libc::SIGSTOP, "SIGSTOP"),
    (libc::SIGTSTP, "SIGTSTP"),
    (libc::SIGTTIN, "SIGTTIN"),
    (libc::SIGTTOU, "SIGTTOU"),
    (libc::SIGURG, "SIGURG"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGWINCH, "SIGWINCH"),
    (libc::SIGIO, "SIGIO"),
    #[cfg(target_os = "linux")]
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSYS, "SIGSYS"),
    #[cfg(not(target_os = "linux"))]
    (libc::SIGEMT, "SIGEMT"),
    #[cfg(not(target_os = "linux"))]
    (libc::SIGINFO, "SIGINFO"),
];

/// The null signal: nothing is sent, and what would refuse a signal refuses it.
pub(crate) const NULL: i32 = 0;
/// The name of [`NULL`], as kill(1) of POSIX has it.
pub(crate) const NULL_NAME: &str = "0";
/// The highest number the kernel knows.
pub(crate) const LAST: i32 = LAST_SIGNAL;
/// The real-time signals, where there are some.
const REALTIME: Option<RangeInclusive<i32>> = match FIRST_REALTIME_SIGNAL {
    Some(first) => Some(first..=LAST),
    None => None,
};

/// A regular expression for the names without `SIG`.
#[cfg(feature = "schema")]
pub(crate) fn bare_name_pattern() -> String {
    let names = NAMES.iter().filter_map(|(_, name)| name.strip_prefix("SIG"));
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    if let Some(first) = FIRST_REALTIME_SIGNAL {
        let counts: Vec<_> = (1..=LAST - first).map(|n| n.to_string()).collect();
        let counts = counts.join("|");
        names.push(format!("RTMIN(?:\\+(?:{counts}))?|RTMAX(?:-(?:{counts}))?"));
    }
    names.join("|")
}

/// The number a client means, or a sentence that says why it means none.
pub(crate) fn number(signal: &SignalName) -> Result<i32, String> {
    match signal {
        SignalName::Number(n) if (NULL..=LAST).contains(n) => Ok(*n),
        SignalName::Number(n) => Err(format!("signal must be {NULL}..{LAST} or a name, got {n}")),
        SignalName::Name(name) if name == NULL_NAME => Ok(NULL),
        SignalName::Name(name) => {
            let bare = name.strip_prefix("SIG").unwrap_or(name);
            let is_meant = |full: &str| full.strip_prefix("SIG") == Some(bare);
            NAMES
                .iter()
                .find(|(_, known)| is_meant(known))
                .map(|(n, _)| *n)
                .or_else(|| REALTIME?.find(|&n| is_meant(&after_first(n)) || is_meant(&before_last(n))))
                .ok_or_else(|| {
                    let name = shortened(name);
                    format!(
                        "unknown signal {name:?}: use a name such as \"SIGTERM\" or \"TERM\", or a number"
                    )
                })
        }
    }
}

/// The name of signal `n`; real-time signals count from SIGRTMIN.
pub(crate) fn name(n: i32) -> String {
    match NAMES.iter().find(|(known, _)| *known == n) {
        Some((_, name)) => (*name).to_owned(),
        None if n == NULL => "signal 0".to_owned(),
        None if REALTIME.is_some_and(|realtime| realtime.contains(&n)) => after_first(n),
        None => format!("SIG{n}"),
    }
}

/// The name of a real-time signal, counted from the first.
fn after_first(n: i32) -> String {
    match FIRST_REALTIME_SIGNAL.map_or(0, |first| n - first) {
        0 => "SIGRTMIN".to_owned(),
        more => format!("SIGRTMIN+{more}"),
    }
}

/// The same, counted from the last.
fn before_last(n: i32) -> String {
    match LAST - n {
        0 => "SIGRTMAX".to_owned(),
        less => format!("SIGRTMAX-{less}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_prefix_and_numbers_agree() {
        for &(n, full) in NAMES {
            let bare = full.strip_prefix("SIG").unwrap();
            assert_eq!(number(&SignalName::Name(full.into())), Ok(n));
            assert_eq!(number(&SignalName::Name(bare.into())), Ok(n));
            assert_eq!(number(&SignalName::Number(n)), Ok(n));
            assert_eq!(name(n), full);
        }
    }

    #[test]
    fn every_name_that_is_reported_is_understood() {
        for n in 1..=LAST {
            let full = name(n);
            // The C library keeps those between the ordinary and the real-time signals for itself.
            if full != format!("SIG{n}") {
                assert_eq!(number(&SignalName::Name(full)), Ok(n));
            }
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn realtime_signals_count_from_either_end() {
        let number = |name: &str| number(&SignalName::Name(name.into()));
        assert_eq!((number("RTMIN"), number("SIGRTMIN+1")), (Ok(34), Ok(35)));
        assert_eq!((number("RTMIN+30"), number("SIGRTMAX")), (Ok(64), Ok(64)));
        assert_eq!((number("RTMAX-1"), number("SIGRTMAX-30")), (Ok(63), Ok(34)));
        for bad in [
            "RTMIN+0", "RTMIN+31", "RTMIN+01", "RTMIN-1", "RTMIN+", "RTMAX-31", "RTMAX+1", "RT",
        ] {
            assert!(number(bad).unwrap_err().contains(&format!("{bad:?}")));
        }
    }

    #[test]
    fn the_null_signal_has_a_number_and_a_name() {
        assert_eq!(number(&SignalName::Number(0)), Ok(NULL));
        assert_eq!(number(&SignalName::Name("0".into())), Ok(NULL));
    }

    #[test]
    fn what_is_not_a_signal_is_refused_by_name() {
        for bad in [
            SignalName::Number(-1),
            SignalName::Number(LAST + 1),
            SignalName::Number(-9),
        ] {
            assert!(number(&bad).unwrap_err().contains(&format!("0..{LAST}")));
        }
        for bad in ["", "SIG", "sigterm", "SIGSIGTERM", "9", "SIG0", "00"] {
            assert!(
                number(&SignalName::Name(bad.into()))
                    .unwrap_err()
                    .contains(&format!("{bad:?}"))
            );
        }
    }
}
