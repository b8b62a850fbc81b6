//! What threads tell each other without a lock; the models in `loom.rs` beside each user try every order.
//!
//! **Thread:** any.
//! **Owns:** the choice of the primitives: those of std, or loom's in a build for its models (`--cfg loom`).
//! **Never:** waits.

#[cfg(not(all(loom, test)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[cfg(all(loom, test))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Raised by the one that goes to sleep without what it needs, and taken by the one that has brought it.
///
/// Both only ever swap it, so one of the two comes second, and sees all that the other did before. If that is
/// the sleeper, it finds what it needs when it looks once more; if not, the other finds the flag raised, and
/// wakes it. A plain load in place of a swap could miss both.
#[derive(Debug, Default)]
pub(crate) struct WaitFlag(AtomicBool);

impl WaitFlag {
    /// Whether `there` holds. If not, the flag is raised, and [`take`](Self::take) tells of it behind the change.
    pub(crate) fn unless(&self, there: impl Fn() -> bool) -> bool {
        if there() {
            return true;
        }
        self.0.swap(true, Ordering::AcqRel);
        there()
    }

    /// Something has changed; whether that was waited for.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

#[cfg(all(loom, test))]
mod models {
    use super::*;
    use std::sync::Arc;

    /// However many bring what is needed, a sleeper is woken behind the one that it needed.
    #[test]
    fn a_sleeper_is_woken() {
        loom::model(|| {
            let shared = Arc::new((WaitFlag::default(), AtomicUsize::new(0)));
            let bring = || {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    let (flag, brought) = &*shared;
                    // As with room: the one that completes it tells.
                    brought.fetch_add(1, Ordering::Relaxed) == 1 && flag.take()
                })
            };
            let others = [bring(), bring()];
            let (flag, brought) = &*shared;
            let awake = flag.unless(|| brought.load(Ordering::Relaxed) == 2);
            let told = others.map(|other| other.join().expect("no panic"));
            assert!(awake || told.contains(&true));
        });
    }
}
