//! Whose turn it is: tokens served to each account, as virtual token counters ("Fairness in Serving Large Language Models", OSDI'24).
//! Whoever was served least comes first. Knows no sequences.

use std::collections::HashMap;

use crate::engine::request::Realm;

/// A generated token takes a step of its own; a prompt's tokens share one.
const GENERATED: u64 = 2;

/// What a token of a prompt and a generated one count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// So many tokens of a prompt (or of what was computed before).
    Prompt(usize),
    /// One token.
    Generated,
}

/// Counters of the accounts that are there, and of those that were served ahead of them.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<Realm, u64>);

impl Shares {
    /// An account comes that nothing was there of: what it has not used while it was away does not count. `present` are the others.
    pub(super) fn arrive(&mut self, account: Realm, present: &[Realm]) {
        let Some(least) = present.iter().map(|other| self.of(*other)).min() else {
            // Nobody to be fair to.
            self.0.clear();
            return;
        };
        // Of those that are gone and ahead of nobody there is nothing to remember.
        self.0.retain(|known, served| *served > least || present.contains(known));
        let own = self.of(account);
        self.0.insert(account, own.max(least));
    }

    /// Notes work that was done for an account.
    pub(super) fn served(&mut self, account: Realm, work: Work) {
        let tokens = match work {
            Work::Prompt(tokens) => tokens as u64,
            Work::Generated => GENERATED,
        };
        *self.0.entry(account).or_default() += tokens;
    }

    /// How much an account was served.
    pub(super) fn of(&self, account: Realm) -> u64 {
        self.0.get(&account).copied().unwrap_or(0)
    }
}
