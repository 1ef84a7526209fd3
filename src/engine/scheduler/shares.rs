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
    /// A request comes of an account of which none waits: what the account has not used while it had nothing to wait for does not count.
    /// It begins where, of the accounts that wait, or else run beside it, the one stands that was served least.
    pub(super) fn arrive(&mut self, account: Realm, waiting: &[Realm], running: &[Realm]) {
        if waiting.is_empty() && running.is_empty() {
            // Nobody to be fair to.
            self.0.clear();
            return;
        }
        let others = if waiting.is_empty() { running } else { waiting };
        let others = others.iter().filter(|other| **other != account);
        let Some(least) = others.map(|other| self.of(*other)).min() else { return };
        // Of those that are gone and ahead of nobody there is nothing to remember.
        self.0.retain(|known, served| *served > least || waiting.contains(known) || running.contains(known));
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
