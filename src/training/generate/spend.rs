//! What calls cost, and when it is enough. Pure; money is in nano-dollars (1e-9 dollars), so that sums are exact.

use serde::{Deserialize, Serialize};

use crate::backends::upstream::{Chat, Usage};

/// What tokens cost: nano-dollars for one, which is dollars for a thousand million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prices {
    /// Of what is sent.
    pub prompt_nanos: u64,
    /// Of what is answered.
    pub completion_nanos: u64,
}

/// Calls, tokens and money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spent {
    /// Calls.
    pub calls: u64,
    /// Tokens that were sent.
    pub prompt_tokens: u64,
    /// Tokens that were answered.
    pub completion_tokens: u64,
    /// Money, nano-dollars.
    pub nanos: u64,
}

/// What must not be exceeded; `None` is no cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    /// Calls.
    pub calls: Option<u64>,
    /// Tokens, both ways together.
    pub tokens: Option<u64>,
    /// Money, nano-dollars.
    pub nanos: Option<u64>,
    /// What tokens cost.
    pub prices: Prices,
}

/// Which cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    /// Of calls.
    Calls,
    /// Of tokens.
    Tokens,
    /// Of money.
    Money,
}

impl Spent {
    /// One call with its tokens.
    pub(super) fn of(usage: Usage, prices: &Prices) -> Self {
        let Usage { prompt_tokens, completion_tokens } = usage;
        let sent = prompt_tokens.saturating_mul(prices.prompt_nanos);
        let answered = completion_tokens.saturating_mul(prices.completion_nanos);
        Self { calls: 1, prompt_tokens, completion_tokens, nanos: sent.saturating_add(answered) }
    }

    /// The most that a call can cost: a token for every byte that is sent and every token that may be answered.
    pub(super) fn most(chat: &Chat, prices: &Prices) -> Self {
        let bytes: usize = chat.messages.iter().map(|message| message.to_string().len()).sum();
        Self::of(Usage { prompt_tokens: bytes as u64, completion_tokens: u64::from(chat.max_tokens) }, prices)
    }

    /// Both together.
    pub(super) const fn and(&self, other: &Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_add(other.completion_tokens),
            nanos: self.nanos.saturating_add(other.nanos),
        }
    }
}

impl Caps {
    /// The cap that `more` could exceed, after what was spent.
    pub(super) fn reached(&self, spent: &Spent, more: &Spent) -> Option<Cap> {
        let after = spent.and(more);
        let over = |cap: Option<u64>, value: u64| cap.is_some_and(|cap| value > cap);
        if over(self.calls, after.calls) {
            Some(Cap::Calls)
        } else if over(self.tokens, after.prompt_tokens.saturating_add(after.completion_tokens)) {
            Some(Cap::Tokens)
        } else if over(self.nanos, after.nanos) {
            Some(Cap::Money)
        } else {
            None
        }
    }
}
