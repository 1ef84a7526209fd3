//! The two ends of a request: admission, which borrows what it may need, and settlement, which writes its row and gives the rest
//! back.

use std::time::Duration;

use super::bound::Bound;
use super::clock;
use super::journal::Written;
use super::live::Tenants;
use super::price::Tokens;
use super::shared::Shared;
use super::ticket::{Ask, Refusal, Ticket};
use super::{BudgetReached, LedgerError, Principal, Subject};
use crate::store::ledger::LedgerRow;

/// Why a request is not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdmitted {
    /// A limit or a budget.
    Refused(Refusal),
    /// Nothing is answered that cannot be billed.
    Ledger(LedgerError),
}

/// How an answer came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheUse {
    /// It was there.
    Hit,
    /// It was not.
    Miss,
    /// It was not looked for.
    #[default]
    Bypass,
}

impl CacheUse {
    /// The name in the ledger and in `x-cache`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All answers ended by themselves.
    Stop,
    /// At least one was as long as it may be.
    Length,
    /// The client left.
    Cancelled,
    /// What was asked for turned out to be impossible on the way; what was done until then is charged.
    Refused,
    /// We could not go on; nothing is charged.
    Failed,
}

impl Outcome {
    /// The name in the ledger.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Who asked for what.
#[derive(Debug, Clone)]
pub struct Requested<'a> {
    /// Who.
    pub caller: &'a Principal,
    /// As in the response's `x-request-id`.
    pub request_id: &'a str,
    /// On whose behalf.
    pub end_user: Option<&'a str>,
    /// `chat.completions`, `completions`.
    pub endpoint: &'static str,
    /// The model as asked.
    pub model: &'a str,
    /// As served.
    pub version: &'a str,
    /// The side of an experiment that answered.
    pub arm: Option<&'a str>,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Tokens that were computed or sent.
    pub tokens: Tokens,
    /// How it ended.
    pub outcome: Outcome,
    /// Where it came from.
    pub cache: CacheUse,
    /// From admission to the first step.
    pub queued: Duration,
    /// From admission to the first token.
    pub first_token: Option<Duration>,
    /// Shares of the model's steps.
    pub computed: Duration,
    /// KV blocks times the time that they were held, microseconds.
    pub block_micros: u64,
}

/// A settled request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// What it cost, nano-dollars.
    pub cost_nanos: i64,
    /// Where its row is.
    pub written: Written,
    /// So many loans of this process had ended; 0 where it had none and there is nothing to wait for.
    ended: u64,
}

impl Tenants {
    /// Borrows what the request may need at most from all limits and budgets that it counts against.
    pub async fn admit(&self, ask: Ask<'_>) -> Result<Ticket, NotAdmitted> {
        self.ledger().ready().map_err(NotAdmitted::Ledger)?;
        let now = clock::now();
        let ticket = match self.shared() {
            None => self.books().admit(&self.policy(), ask, now, Bound::Whole),
            Some(shared) => Box::pin(self.admit_together(shared, ask, now)).await,
        };
        ticket.map_err(NotAdmitted::Refused)
    }

    /// Writes the request's row and settles its ticket. When this returns, the row survives the end of the process; an answer's
    /// last byte must not leave before. Where the row cannot be written nothing is charged, and the answer must not be given.
    pub fn settle(&self, ticket: Ticket, requested: &Requested<'_>, done: &Done) -> Result<Settled, LedgerError> {
        let cost_nanos = match (done.outcome, done.cache) {
            (Outcome::Failed, _) => 0,
            // A cached answer costs its prompt at the cached price; nothing was generated.
            (_, CacheUse::Hit) => ticket.cost(&Tokens { cached: done.tokens.input, output: 0, reasoning: 0, ..done.tokens }),
            _ => ticket.cost(&done.tokens),
        };
        let used = if done.cache == CacheUse::Hit { 0 } else { done.tokens.total() };
        let row = row(&ticket, requested, done, cost_nanos);
        let lender = self.shared().filter(|_| ticket.is_lent());
        match self.ledger().append(row) {
            Ok(written) => {
                for reached in ticket.settle(clock::unix(), used, cost_nanos) {
                    self.announce(reached);
                }
                Ok(Settled { cost_nanos, written, ended: lender.map_or(0, Shared::ended) })
            }
            Err(error) => {
                ticket.settle(clock::unix(), used, 0);
                Err(error)
            }
        }
    }

    /// Waits until a settled request's row is as safe as the setting promises, and until other replicas may have what it did not
    /// use.
    pub async fn synced(&self, settled: &Settled) {
        self.ledger().synced(settled.written).await;
        if let Some(shared) = self.shared() {
            shared.given_back(settled.ended).await;
        }
    }

    /// Waits for a moment until other replicas may have what this one held; for its end.
    pub async fn given_back(&self) {
        if let Some(shared) = self.shared() {
            shared.given_back(shared.ended()).await;
        }
    }

    /// What a subject has spent, this moment.
    pub fn spent(&self, subject: &Subject) -> super::Spent {
        self.books().spent(subject, clock::unix())
    }

    fn announce(&self, reached: BudgetReached) {
        // The receiver lives as long as the server.
        let _ = self.reached().send(reached);
    }
}

fn row(ticket: &Ticket, requested: &Requested<'_>, done: &Done, cost_nanos: i64) -> LedgerRow {
    let admitted = ticket.admitted();
    let since = clock::now().elapsed.saturating_sub(admitted.elapsed);
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    LedgerRow {
        at_micros: admitted.unix_micros,
        request_id: requested.request_id.to_owned(),
        project_id: requested.caller.tenant.to_string(),
        key_id: requested.caller.key_id.to_string(),
        end_user: requested.end_user.map(str::to_owned),
        endpoint: requested.endpoint.to_owned(),
        model: requested.model.to_owned(),
        version: requested.version.to_owned(),
        arm: requested.arm.map(str::to_owned),
        input_tokens: count(done.tokens.input),
        cached_tokens: count(done.tokens.cached),
        output_tokens: count(done.tokens.output),
        reasoning_tokens: count(done.tokens.reasoning),
        queue_micros: micros(done.queued),
        first_token_micros: done.first_token.map_or(0, micros),
        total_micros: micros(since),
        engine_micros: micros(done.computed),
        kv_block_micros: count(done.block_micros),
        price_id: ticket.price_id().map(str::to_owned),
        cost_nanos,
        cache: done.cache.name().to_owned(),
        outcome: done.outcome.name().to_owned(),
        // The ledger sets its id and node.
        ..LedgerRow::default()
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
