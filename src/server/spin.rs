//! Spinning: waiting awake for a moment, while requests follow each other closely.
//!
//! **Thread:** the dispatcher decides, from the pace of the requests; it and `rpc-write` spin.
//! **Owns:** that decision.
//! **Never:** spins for a client that pauses, or for output alone: a program that prints has its
//! bytes read without it.
//!
//! A request and its answer are four hops between threads. Each wakes a thread, as a rule on a core
//! that sleeps, and to wake a core takes longer than everything else there is to do: an echo of 16
//! bytes takes 110 µs with sleeping threads and 50 with these two awake, on a small virtual machine.
//!
//! A spin gives its core away at every turn. Where another thread takes it, that may be for a whole time
//! slice, so then there is no spin for some time: cores that others use are awake anyway.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::sync::{AtomicBool, Ordering::Relaxed};

/// How long a spin lasts, and how close requests have to follow each other for it.
const SPIN_TIME: Duration = Duration::from_micros(250);
/// How many requests in a row have to.
const STREAK_REQUESTS: u8 = 4;
/// How long there is no spin once another thread has had the core: the first time, and at most. It
/// doubles where it happens again within [`CALM_REQUESTS`] requests.
const FIRST_REST_TIME: Duration = Duration::from_millis(10);
const LONGEST_REST_TIME: Duration = Duration::from_secs(1);
const CALM_REQUESTS: u32 = 1_000;

/// Whether to spin, as both threads see it.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    on: AtomicBool,
    /// A spin has been longer away from its core than it may last.
    disturbed: AtomicBool,
}

impl Spin {
    /// Waits awake for what `ready` gives, for a moment, if that is worth it. The caller that gets
    /// nothing goes to sleep.
    pub(crate) fn wait<T>(&self, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        if !self.on.load(Relaxed) {
            return None;
        }
        let begun = Instant::now();
        let mut last = begun;
        loop {
            if let Some(ready) = ready() {
                return Some(ready);
            }
            thread::yield_now();
            let now = Instant::now();
            if now - last > SPIN_TIME {
                self.disturb();
            }
            if now - begun > SPIN_TIME {
                return None;
            }
            last = now;
        }
    }

    /// Another thread has had the core.
    fn disturb(&self) {
        self.on.store(false, Relaxed);
        // Swapped, as it is where it is taken: one of the two comes second.
        self.disturbed.swap(true, Relaxed);
    }
}

/// The pace of the requests; the dispatcher's.
#[derive(Debug)]
pub(crate) struct Pace {
    spin: Arc<Spin>,
    last: Option<Instant>,
    /// Requests in a row that followed their last one closely.
    streak: u8,
    rest_until: Option<Instant>,
    rest: Duration,
    /// Requests since the last rest.
    calm: u32,
    /// On a single core there is no other thread to wait for, and a connection in memory does not spin.
    allowed: bool,
}

impl Pace {
    /// Never spins unless `allowed`.
    pub(crate) fn new(allowed: bool) -> Self {
        Pace {
            spin: Arc::default(),
            last: None,
            streak: 0,
            rest_until: None,
            rest: FIRST_REST_TIME,
            calm: CALM_REQUESTS,
            allowed: allowed && thread::available_parallelism().is_ok_and(|cores| cores.get() > 1),
        }
    }

    /// What it decides, for the other thread.
    pub(crate) fn spin(&self) -> Arc<Spin> {
        Arc::clone(&self.spin)
    }

    /// A request has come.
    pub(crate) fn request(&mut self, now: Instant) {
        if !self.allowed {
            return;
        }
        let close = self.last.replace(now).is_some_and(|last| now - last <= SPIN_TIME);
        self.streak = if close { self.streak.saturating_add(1) } else { 0 };
        if self.spin.disturbed.swap(false, Relaxed) {
            self.rest = match self.calm < CALM_REQUESTS {
                true => LONGEST_REST_TIME.min(self.rest * 2),
                false => FIRST_REST_TIME,
            };
            self.rest_until = Some(now + self.rest);
            self.calm = 0;
        }
        let rested = self.rest_until.is_none_or(|until| until <= now);
        if rested {
            self.calm = self.calm.saturating_add(1);
        }
        self.spin
            .on
            .store(rested && self.streak >= STREAK_REQUESTS, Relaxed);
    }

    /// Waits awake until `ready` for a moment, if that is worth it.
    pub(crate) fn wait(&self, mut ready: impl FnMut() -> bool) {
        if self.spin.wait(|| ready().then_some(())).is_none() {
            // The client pauses.
            self.spin.on.store(false, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pace after `n` requests, each `gap` behind the last; and when the last one came.
    fn after(n: u32, gap: Duration) -> (Pace, Instant) {
        let mut pace = Pace {
            allowed: true,
            ..Pace::new(true)
        };
        let begun = Instant::now();
        for i in 0..n {
            pace.request(begun + gap * i);
        }
        (pace, begun + gap * (n - 1))
    }

    fn spins(pace: &Pace) -> bool {
        pace.spin().on.load(Relaxed)
    }

    #[test]
    fn requests_have_to_follow_each_other_closely_and_several_times() {
        assert!(!spins(&after(1, SPIN_TIME).0));
        assert!(!spins(&after(u32::from(STREAK_REQUESTS), SPIN_TIME).0));
        assert!(spins(&after(u32::from(STREAK_REQUESTS) + 1, SPIN_TIME).0));
        assert!(!spins(&after(100, SPIN_TIME * 2).0));
    }

    #[test]
    fn a_pause_ends_it() {
        let (mut pace, last) = after(100, SPIN_TIME);
        pace.request(last + SPIN_TIME * 2);
        assert!(!spins(&pace));
        let (pace, _) = after(100, SPIN_TIME);
        pace.wait(|| false);
        assert!(!spins(&pace));
    }

    #[test]
    fn what_is_not_allowed_never_spins() {
        let mut pace = Pace::new(false);
        let begun = Instant::now();
        for _ in 0..100 {
            pace.request(begun);
        }
        assert!(!spins(&pace));
        pace.wait(|| panic!("there is nothing to look at"));
    }

    #[test]
    fn a_spin_ends_with_what_it_waits_for() {
        let (pace, _) = after(100, SPIN_TIME);
        let mut turns = 0;
        let ready = pace.spin().wait(|| {
            turns += 1;
            (turns == 3).then_some("ready")
        });
        // On a busy machine the core may be gone for longer than a spin lasts.
        assert!(ready == Some("ready") || turns < 3);
    }

    #[test]
    fn a_core_that_others_want_is_left_to_them_for_longer_and_longer() {
        let (mut pace, mut now) = after(100, SPIN_TIME);
        let mut rests = Vec::new();
        for _ in 0..10 {
            assert!(spins(&pace));
            pace.spin().wait(|| {
                thread::sleep(SPIN_TIME * 2);
                None::<()>
            });
            assert!(!spins(&pace));
            let begun = now;
            while !spins(&pace) {
                now += SPIN_TIME;
                pace.request(now);
            }
            rests.push(now - begun);
        }
        assert!(rests[0] >= FIRST_REST_TIME && rests[0] <= FIRST_REST_TIME + SPIN_TIME * 2);
        assert!(
            rests.is_sorted()
                && rests[9] >= LONGEST_REST_TIME
                && rests[9] <= LONGEST_REST_TIME + SPIN_TIME * 2
        );
        // It is forgotten.
        for _ in 0..CALM_REQUESTS {
            now += SPIN_TIME;
            pace.request(now);
        }
        pace.spin.disturbed.store(true, Relaxed);
        now += SPIN_TIME;
        pace.request(now);
        assert!(!spins(&pace));
        pace.request(now + FIRST_REST_TIME);
        assert_eq!(pace.streak, 0, "a pause of its own");
        for n in 1..=u32::from(STREAK_REQUESTS) {
            pace.request(now + FIRST_REST_TIME + SPIN_TIME * n);
        }
        assert!(spins(&pace));
    }
}

#[cfg(all(loom, test))]
mod models {
    use super::*;

    /// Both flags are hints, and no order of them makes a thread sleep that should be awake. But a core that
    /// others want is left to them, by the next request at the latest.
    #[test]
    fn a_disturbance_is_not_forgotten() {
        loom::model(|| {
            let mut pace = Pace {
                allowed: true,
                streak: STREAK_REQUESTS,
                ..Pace::new(true)
            };
            let begun = Instant::now();
            pace.last = Some(begun);
            let spin = pace.spin();
            let writer = loom::thread::spawn(move || spin.disturb());
            pace.request(begun);
            writer.join().expect("no panic");
            pace.request(begun);
            assert!(!pace.spin.on.load(Relaxed));
            assert!(pace.rest_until.is_some());
        });
    }
}
