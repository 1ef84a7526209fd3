//! What a request owes while it is answered: its ticket, until it is settled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::types::{Origin, Usage};
use super::{GatewayError, Metrics};
use crate::backends::Effort;
use crate::tenants::{CacheUse, Done, Outcome, Principal, Rate, Requested, Settled, Tenants, Ticket, Tokens};

/// Settles a request exactly once, whatever ends it.
pub(super) struct Account {
    tenants: Tenants,
    metrics: Metrics,
    caller: Arc<Principal>,
    origin: Origin,
    model: String,
    version: String,
    adapter_label: String,
    cache: CacheUse,
    rate: Rate,
    submitted: Instant,
    first_token: Option<Duration>,
    state: State,
}

enum State {
    Open(Box<Ticket>),
    /// Its row may not be on the disk yet.
    Settled {
        settled: Settled,
        waited: bool,
    },
    /// Its row could not be written, or nothing was ever owed.
    Void,
}

/// Who asked for what, and what that has borrowed.
pub(super) struct Opening {
    pub tenants: Tenants,
    pub metrics: Metrics,
    pub caller: Arc<Principal>,
    pub origin: Origin,
    pub model: String,
    pub version: String,
    /// The adapter in metrics.
    pub adapter_label: String,
    pub cache: CacheUse,
    pub ticket: Ticket,
}

impl Account {
    pub(super) fn open(opening: Opening) -> Self {
        let Opening { tenants, metrics, caller, origin, model, version, adapter_label, cache, ticket } = opening;
        let rate = ticket.rate();
        let state = State::Open(Box::new(ticket));
        Self {
            tenants,
            metrics,
            caller,
            origin,
            model,
            version,
            adapter_label,
            cache,
            rate,
            submitted: Instant::now(),
            first_token: None,
            state,
        }
    }

    /// What is left of the caller's limits.
    pub(super) const fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether the answer came from the response cache.
    pub(super) const fn cache(&self) -> CacheUse {
        self.cache
    }

    /// The first token came.
    pub(super) fn first_token(&mut self) {
        if self.first_token.is_none() {
            let after = self.submitted.elapsed();
            self.first_token = Some(after);
            self.metrics.first_token(after);
        }
    }

    /// What it cost, nano-dollars, once it is settled.
    pub(super) const fn cost_nanos(&self) -> Option<i64> {
        match &self.state {
            State::Settled { settled, .. } => Some(settled.cost_nanos),
            State::Open(_) | State::Void => None,
        }
    }

    /// Nothing is owed: the ticket gives back what it holds.
    pub(super) fn void(&mut self) {
        self.state = State::Void;
    }

    /// Writes the row and gives back what was not used; the second time nothing happens.
    pub(super) fn settle(&mut self, usage: Usage, outcome: Outcome, efforts: Effort) -> Result<(), GatewayError> {
        let State::Open(ticket) = std::mem::replace(&mut self.state, State::Void) else { return Ok(()) };
        let began = Instant::now();
        let count = |tokens: usize| tokens as u64;
        let tokens = Tokens {
            input: count(usage.prompt_tokens),
            cached: count(usage.cached_tokens),
            output: count(usage.completion_tokens),
            reasoning: 0,
        };
        let done = Done {
            tokens,
            outcome,
            cache: self.cache,
            queued: efforts.queued,
            first_token: self.first_token,
            computed: efforts.computed,
            block_micros: efforts.block_micros,
        };
        let requested = Requested {
            caller: &self.caller,
            request_id: &self.origin.request_id,
            end_user: self.caller.end_user.as_deref().or(self.origin.end_user.as_deref()),
            endpoint: self.origin.endpoint,
            model: &self.model,
            version: &self.version,
        };
        let settled = self.tenants.settle(*ticket, &requested, &done).map_err(GatewayError::Ledger)?;
        self.state = State::Settled { settled, waited: false };
        self.metrics.ended(&self.adapter_label, &done, settled.cost_nanos, self.submitted.elapsed(), began.elapsed());
        Ok(())
    }

    /// Waits until the row is as safe as the setting promises.
    pub(super) async fn synced(&mut self) {
        if let State::Settled { settled, waited: waited @ false } = &mut self.state {
            self.tenants.synced(settled).await;
            *waited = true;
        }
    }
}
