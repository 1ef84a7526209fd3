//! What a request owes while it is answered: its ticket, until it is settled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shadow::{Copies, Copy, Heard};
use super::types::{Judge, Origin, Usage};
use super::{GatewayError, Metrics};
use crate::backends::Effort;
use crate::experiments::outcome::MAX_TEXT;
use crate::experiments::{self, Assigned, Ended, Recorder};
use crate::tenants::{CacheUse, Done, Outcome, Principal, Rate, Requested, Settled, Tenants, Ticket, Tokens};

/// A request of a deployment.
pub(super) struct Trial {
    pub assigned: Arc<Assigned>,
    /// What answers, by the name of its arm.
    pub arm: Option<Arc<str>>,
    /// It is not what the request was sent to.
    pub fell_back: bool,
    pub recorder: Recorder,
    pub judge: Option<Judge>,
    /// What the judge said.
    pub task_success: Option<bool>,
    /// Where the request goes besides, once it is answered.
    pub copy: Option<Box<Copy>>,
    pub copies: Copies,
}

/// Settles a request exactly once, whatever ends it.
pub(super) struct Account {
    tenants: Tenants,
    metrics: Metrics,
    caller: Arc<Principal>,
    origin: Origin,
    model: String,
    version: String,
    trial: Option<Trial>,
    adapter_label: String,
    cache: CacheUse,
    rate: Rate,
    submitted: Instant,
    first_token: Option<Duration>,
    /// Of a trial.
    last_token: Option<Duration>,
    /// Of a trial: the first answer.
    text: String,
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
    /// Of a deployment.
    pub trial: Option<Trial>,
    /// The adapter in metrics.
    pub adapter_label: String,
    pub cache: CacheUse,
    pub ticket: Ticket,
}

impl Account {
    pub(super) fn open(opening: Opening) -> Self {
        let Opening { tenants, metrics, caller, origin, model, version, trial, adapter_label, cache, ticket } = opening;
        let rate = ticket.rate();
        let state = State::Open(Box::new(ticket));
        Self {
            tenants,
            metrics,
            caller,
            origin,
            model,
            version,
            trial,
            adapter_label,
            cache,
            rate,
            submitted: Instant::now(),
            first_token: None,
            last_token: None,
            text: String::new(),
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

    /// A token came.
    pub(super) fn token(&mut self) {
        if self.first_token.is_some() && self.trial.is_none() {
            return;
        }
        let after = self.submitted.elapsed();
        self.last_token = Some(after);
        if self.first_token.is_none() {
            self.first_token = Some(after);
            self.metrics.first_token(after);
        }
    }

    /// Has the request answered once more, unheard, when it is answered.
    pub(super) fn copy(&mut self, copy: Box<Copy>) {
        if let Some(trial) = &mut self.trial {
            trial.copy = Some(copy);
        }
    }

    /// Something else answers instead: the experiment hears of that.
    pub(super) fn leave_trial(&mut self) {
        self.trial = None;
    }

    /// More of the first answer.
    pub(super) fn text(&mut self, text: &str) {
        if self.trial.is_some() {
            let room = text.floor_char_boundary(MAX_TEXT.saturating_sub(self.text.len()));
            self.text.push_str(&text[..room]);
        }
    }

    /// The first answer is whole; its choices had this probability.
    pub(super) fn judge(&mut self, probability: f64) {
        if let Some(trial) = &mut self.trial {
            trial.task_success = trial.judge.as_ref().map(|judge| judge.says(&self.text, probability));
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
            reasoning: count(usage.reasoning_tokens),
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
            arm: self.trial.as_ref().and_then(|trial| trial.arm.as_deref()),
        };
        let settled = self.tenants.settle(*ticket, &requested, &done).map_err(GatewayError::Ledger);
        self.note(&done, settled.as_ref().map_or(0, |settled| settled.cost_nanos));
        let settled = settled?;
        self.state = State::Settled { settled, waited: false };
        self.metrics.ended(&self.adapter_label, &done, settled.cost_nanos, self.submitted.elapsed(), began.elapsed());
        Ok(())
    }

    /// Tells the experiment what came of it.
    fn note(&mut self, done: &Done, cost_nanos: i64) {
        let Some(trial) = self.trial.take() else { return };
        let Trial { assigned, arm, fell_back, recorder, task_success, copy, copies, .. } = trial;
        let steps = u32::try_from(done.tokens.output.saturating_sub(1)).unwrap_or(u32::MAX);
        let between = self.last_token.zip(self.first_token).map(|(last, first)| last.saturating_sub(first));
        let complete = matches!(done.outcome, Outcome::Stop | Outcome::Length);
        if let Some(copy) = copy.filter(|_| complete) {
            copies.heard(Heard {
                copy,
                arm: arm.unwrap_or_else(|| Arc::clone(&assigned.arm)),
                assigned: Arc::clone(&assigned),
                version: self.version.clone(),
                request_id: Arc::clone(&self.origin.request_id),
                tenant: Arc::clone(&self.caller.tenant),
                text: self.text.clone(),
                tokens: done.tokens.output,
                took: self.submitted.elapsed(),
                at: Instant::now(),
            });
        }
        recorder.note(experiments::Outcome {
            assigned,
            request_id: Arc::clone(&self.origin.request_id),
            tenant: Arc::clone(&self.caller.tenant),
            endpoint: self.origin.endpoint,
            failed: fell_back || done.outcome == Outcome::Failed,
            first_token: self.first_token,
            gap: between.filter(|_| steps > 0).map(|between| between / steps),
            output_tokens: done.tokens.output,
            cost_nanos,
            text: complete.then(|| std::mem::take(&mut self.text)),
            ended: if done.outcome == Outcome::Length { Ended::Cut } else { Ended::Whole },
            task_success,
        });
    }

    /// Waits until the row is as safe as the setting promises.
    pub(super) async fn synced(&mut self) {
        if let State::Settled { settled, waited: waited @ false } = &mut self.state {
            self.tenants.synced(settled).await;
            *waited = true;
        }
    }
}
