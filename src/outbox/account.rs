//! Counting what is held: an account, and a charge on it that is given back when it is dropped.
//!
//! **Thread:** any.
//! **Owns:** one number each.
//! **Never:** waits, or lets a path forget to give back what it has taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// How much is held of something: bytes, or pieces.
#[derive(Debug, Default)]
pub(crate) struct Account(AtomicUsize);

/// The share of one holder in an [`Account`].
#[derive(Debug)]
pub(crate) struct Charge {
    account: Arc<Account>,
    amount: usize,
}

impl Account {
    pub(crate) fn used(&self) -> usize {
        self.0.load(SeqCst)
    }

    pub(crate) fn charge(self: &Arc<Self>, amount: usize) -> Charge {
        self.0.fetch_add(amount, SeqCst);
        Charge {
            account: Arc::clone(self),
            amount,
        }
    }

    /// The same unless that would be more than `limit` on the account.
    pub(crate) fn charge_within(self: &Arc<Self>, limit: usize, amount: usize) -> Option<Charge> {
        let more = |used: usize| used.checked_add(amount).filter(|&used| used <= limit);
        self.0.fetch_update(SeqCst, SeqCst, more).ok()?;
        Some(Charge {
            account: Arc::clone(self),
            amount,
        })
    }
}

impl Charge {
    /// Gives a part of it back.
    pub(crate) fn give_back(&mut self, amount: usize) {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        self.account.0.fetch_sub(amount, SeqCst);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.0.fetch_sub(self.amount, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_counts_until_it_is_given_back_or_dropped() {
        let account = Arc::new(Account::default());
        let mut first = account.charge(10);
        let second = account.charge(5);
        assert_eq!(account.used(), 15);
        first.give_back(4);
        assert_eq!(account.used(), 11);
        first.give_back(100);
        assert_eq!(account.used(), 5, "no more than it had");
        drop((first, second));
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn a_limit_is_reached_and_not_passed() {
        let account = Arc::new(Account::default());
        let all = account.charge_within(2, 2);
        assert!(all.is_some());
        assert!(account.charge_within(2, 1).is_none());
        assert!(account.charge_within(usize::MAX, usize::MAX).is_none());
        drop(all);
        assert!(account.charge_within(2, 1).is_some());
    }
}
