//! One subject's limits on one model, or on all models together: requests per minute, tokens per minute, requests at a time.
//! The time is an argument.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::bound::Bound;
use super::policy::{Limit, Subject};
use super::shared::wire::MeterTerms;
use super::window::{Short, Window};

/// What is told to whoever asks for more than a share of a limit that would hold it whole.
const AGAIN: Duration = Duration::from_secs(5);

/// Which limit a request ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Requests at a time.
    Concurrency,
}

/// A limit said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverLimit {
    /// Whose limit.
    pub subject: Subject,
    /// On which model; `*` is all together.
    pub model: String,
    /// Which limit.
    pub measure: Measure,
    /// Its value.
    pub limit: u64,
    /// What was there already.
    pub used: u64,
    /// What was asked for.
    pub asked: u64,
    /// When to come back; `None`: the request is larger than the limit and never fits.
    pub retry_after: Option<Duration>,
}

/// How much of a limit is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauge {
    /// The limit.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// When all of it is there again, if nobody asks for anything.
    pub reset: Duration,
}

impl Gauge {
    /// The one with less left; limits of a key and of its tenant hold at the same time.
    pub fn tighter(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.remaining < a.remaining { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}

/// What a ticket holds of a meter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    second: u64,
    tokens: u64,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, GivenClock, StateInformationMiddleware>;

/// The time that the caller says it is.
#[derive(Debug, Clone, Default)]
struct GivenClock(Arc<AtomicU64>);

impl GivenClock {
    fn set(&self, now: Duration) {
        self.0.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for GivenClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

struct Requests {
    clock: GivenClock,
    limiter: Limiter,
}

struct State {
    limit: Limit,
    requests: Option<Requests>,
    /// The same for a share of the limit; what is asked elsewhere is counted as well.
    shared_requests: Option<Requests>,
    tokens: Window,
    running: u32,
    revision: i64,
}

/// Limits with what was taken of them.
pub(super) struct Meter {
    /// In Redis.
    name: Arc<str>,
    subject: Subject,
    model: String,
    state: Mutex<State>,
}

impl Meter {
    pub(super) fn new(subject: Subject, model: String, limit: Limit) -> Self {
        let state = State {
            limit,
            requests: requests(&limit, Duration::ZERO),
            shared_requests: None,
            tokens: Window::default(),
            running: 0,
            revision: i64::MIN,
        };
        let (kind, id) = match &subject {
            Subject::Organization => ("o", ""),
            Subject::Project(id) => ("p", id.as_str()),
            Subject::Key(id) => ("k", id.as_str()),
        };
        let name = format!("m:{kind}:{id}\u{1f}{model}").into();
        Self { name, subject, model, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the limits to those of a revision of the policy, unless a later one is in force; what was taken stays taken. Only a changed rate of requests begins anew.
    pub(super) fn set(&self, limit: Limit, revision: i64, now: Duration) {
        let mut state = self.state();
        if revision < state.revision {
            return;
        }
        state.revision = revision;
        let rate = |limit: &Limit| (limit.requests_per_minute, limit.burst);
        if rate(&state.limit) != rate(&limit) {
            state.requests = requests(&limit, now);
            state.shared_requests = None;
        }
        state.limit = limit;
    }

    /// Takes tokens and a place, or nothing.
    pub(super) fn hold(&self, now: Duration, tokens: u64, bound: Bound) -> Result<Held, OverLimit> {
        let mut state = self.state();
        let (here, whole) = (bound.of(state.limit), state.limit.tokens_per_minute);
        if let Some(limit) = here.concurrent_requests
            && state.running >= limit
        {
            let used = u64::from(state.running);
            // Nobody knows when one ends; a second is short for a person and long for a machine.
            return Err(self.over(Measure::Concurrency, (u64::from(limit), used, 1), Some(Duration::from_secs(1))));
        }
        let limit = here.tokens_per_minute.unwrap_or(u64::MAX);
        let second = match state.tokens.take(now, tokens, limit) {
            Ok(second) => second,
            Err(short) => {
                let used = state.tokens.taken(now);
                let retry_after = match short {
                    Short::For(wait) => Some(wait),
                    // More than a share, but not more than there is once all of it holds again.
                    Short::Forever if whole.is_none_or(|whole| tokens <= whole) => Some(AGAIN),
                    Short::Forever => None,
                };
                return Err(self.over(Measure::Tokens, (limit, used, tokens), retry_after));
            }
        };
        state.running += 1;
        Ok(Held { second, tokens })
    }

    /// Counts a request; what the rate limiter has counted cannot be given back.
    pub(super) fn count(&self, now: Duration, bound: Bound) -> Result<Option<Gauge>, OverLimit> {
        let mut state = self.state();
        let here = bound.of(state.limit);
        let requests = match bound {
            Bound::Whole => &state.requests,
            Bound::Elsewhere(share) | Bound::Share(share) => {
                if state.shared_requests.is_none() {
                    state.shared_requests = requests(&Bound::Share(share).of(state.limit), now);
                }
                &state.shared_requests
            }
        };
        if let Bound::Elsewhere(_) = bound {
            if let Some(requests) = requests {
                requests.clock.set(now);
                // It has been let through already.
                let _ = requests.limiter.check();
            }
            return Ok(None);
        }
        let Some(requests) = requests else {
            // A rate of nothing lets nothing through.
            return match here.requests_per_minute {
                Some(_) => Err(self.over(Measure::Requests, (0, 0, 1), None)),
                None => Ok(None),
            };
        };
        requests.clock.set(now);
        let limit = u64::from(here.requests_per_minute.unwrap_or(u32::MAX));
        match requests.limiter.check() {
            Ok(snapshot) => {
                let remaining = snapshot.remaining_burst_capacity();
                let missing = snapshot.quota().burst_size().get().saturating_sub(remaining);
                Ok(Some(Gauge { limit, remaining: remaining.into(), reset: snapshot.quota().replenish_interval() * missing }))
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(now);
                Err(self.over(Measure::Requests, (limit, limit, 1), Some(wait)))
            }
        }
    }

    /// Gives back what was held and not used; `None`: everything, and nothing has run.
    pub(super) fn release(&self, held: Held, used: u64) {
        let mut state = self.state();
        state.tokens.give_back(held.second, held.tokens.saturating_sub(used));
        state.running = state.running.saturating_sub(1);
    }

    /// What is left of the tokens.
    pub(super) fn tokens(&self, now: Duration, bound: Bound) -> Option<Gauge> {
        let mut state = self.state();
        let limit = bound.of(state.limit).tokens_per_minute?;
        let taken = state.tokens.taken(now);
        Some(Gauge { limit, remaining: limit.saturating_sub(taken), reset: state.tokens.until(now, 0) })
    }

    /// Requests that run or wait.
    #[cfg(test)]
    pub(super) fn running(&self) -> u32 {
        self.state().running
    }

    /// The limits as they are asked for elsewhere.
    pub(super) fn terms(&self) -> MeterTerms {
        let limit = self.state().limit;
        // Rounded up: never more than the rate.
        let every = limit.requests_per_minute.map(|rate| i64::from(60_000_000u32.div_ceil(rate.max(1))) * i64::from(rate.min(1)));
        let burst = limit.burst.filter(|burst| *burst > 0).or(limit.requests_per_minute).unwrap_or(1);
        MeterTerms {
            name: Arc::clone(&self.name),
            places: limit.concurrent_requests.map_or(-1, i64::from),
            tokens: limit.tokens_per_minute.map_or(-1, |tokens| i64::try_from(tokens).unwrap_or(i64::MAX)),
            every: every.unwrap_or(-1),
            slack: every.unwrap_or(0).saturating_mul(i64::from(burst.saturating_sub(1))),
            requests: limit.requests_per_minute.unwrap_or(0).into(),
        }
    }

    /// A refusal that was decided elsewhere.
    pub(super) fn refuse(&self, measure: Measure, used: u64, asked: u64, retry_after: Option<Duration>) -> OverLimit {
        let limit = self.state().limit;
        let (limit, used) = match measure {
            Measure::Concurrency => (limit.concurrent_requests.map_or(0, u64::from), used),
            Measure::Tokens => (limit.tokens_per_minute.unwrap_or(0), used),
            // As many as there may be have been.
            Measure::Requests => (limit.requests_per_minute.map_or(0, u64::from), limit.requests_per_minute.map_or(0, u64::from)),
        };
        self.over(measure, (limit, used, asked), retry_after)
    }

    fn over(&self, measure: Measure, (limit, used, asked): (u64, u64, u64), retry_after: Option<Duration>) -> OverLimit {
        OverLimit { subject: self.subject.clone(), model: self.model.clone(), measure, limit, used, asked, retry_after }
    }
}

fn requests(limit: &Limit, now: Duration) -> Option<Requests> {
    let rate = NonZeroU32::new(limit.requests_per_minute?)?;
    let burst = limit.burst.and_then(NonZeroU32::new).unwrap_or(rate);
    let clock = GivenClock::default();
    clock.set(now);
    let limiter = RateLimiter::direct_with_clock(Quota::per_minute(rate).allow_burst(burst), clock.clone());
    // The limiter counts from its own start; `wait_time_from` takes the clock's time.
    Some(Requests { limiter: limiter.with_middleware(), clock })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn meter(limit: Limit) -> Meter {
        Meter::new(Subject::Key("key_1".into()), "*".into(), limit)
    }

    #[test]
    fn requests_come_back_one_by_one() {
        let meter = meter(Limit { requests_per_minute: Some(6), burst: Some(2), ..Limit::default() });
        assert_eq!(meter.count(at(100), Bound::Whole).unwrap().unwrap(), Gauge { limit: 6, remaining: 1, reset: at(10) });
        assert_eq!(meter.count(at(100), Bound::Whole).unwrap().unwrap().remaining, 0);
        let over = meter.count(at(104), Bound::Whole).unwrap_err();
        assert_eq!((over.measure, over.retry_after), (Measure::Requests, Some(at(6))));
        assert!(meter.count(at(110), Bound::Whole).is_ok());
        assert!(meter.count(at(110), Bound::Whole).is_err());
        assert!(meter.count(at(500), Bound::Whole).is_ok());
    }

    #[test]
    fn places_and_tokens_come_back_when_a_request_ends() {
        let meter = meter(Limit { concurrent_requests: Some(1), tokens_per_minute: Some(100), ..Limit::default() });
        let held = meter.hold(at(1), 90, Bound::Whole).unwrap();
        let over = meter.hold(at(1), 1, Bound::Whole).unwrap_err();
        assert_eq!((over.measure, over.limit, over.used), (Measure::Concurrency, 1, 1));
        meter.release(held, 30);
        assert_eq!(meter.tokens(at(1), Bound::Whole).unwrap().remaining, 70);
        let over = meter.hold(at(1), 71, Bound::Whole).unwrap_err();
        assert_eq!((over.measure, over.used, over.asked, over.retry_after), (Measure::Tokens, 30, 71, Some(at(61))));
        assert_eq!(meter.running(), 0, "a refused request holds nothing");
        assert_eq!(meter.hold(at(1), 101, Bound::Whole).unwrap_err().retry_after, None, "it never fits");
        assert!(meter.hold(at(1), 70, Bound::Whole).is_ok());
    }

    #[test]
    fn a_share_counts_what_was_lent_elsewhere_and_before() {
        let share = super::super::bound::Share::new(0.5).unwrap();
        let (alone, asked) = (Bound::Share(share), Bound::Elsewhere(share));
        let meter = meter(Limit { requests_per_minute: Some(12), burst: Some(4), ..Limit::default() });
        for _ in 0..3 {
            assert_eq!(meter.count(at(100), asked), Ok(None), "what was let through elsewhere is not refused here");
        }
        assert!(meter.count(at(100), alone).is_err(), "the share of the burst was used");
        assert!(meter.count(at(110), alone).is_ok());
        // Redis is back for a moment and lost again: that does not make a new burst.
        assert_eq!(meter.count(at(110), asked), Ok(None));
        assert!(meter.count(at(110), alone).is_err());
    }

    #[test]
    fn limits_change_while_requests_run() {
        let meter = meter(Limit { tokens_per_minute: Some(100), ..Limit::default() });
        let held = meter.hold(at(1), 100, Bound::Whole).unwrap();
        meter.set(Limit { tokens_per_minute: Some(150), requests_per_minute: Some(1), ..Limit::default() }, 1, at(2));
        assert!(meter.hold(at(2), 50, Bound::Whole).is_ok());
        assert!(meter.hold(at(2), 1, Bound::Whole).is_err());
        assert!(meter.count(at(2), Bound::Whole).is_ok());
        assert!(meter.count(at(3), Bound::Whole).is_err());
        // The same rate again does not begin anew.
        meter.set(Limit { requests_per_minute: Some(1), ..Limit::default() }, 1, at(4));
        assert!(meter.count(at(4), Bound::Whole).is_err());
        assert!(meter.hold(at(4), u64::MAX / 2, Bound::Whole).is_ok(), "no limit of tokens any more");
        meter.release(held, 0);
        meter.set(Limit { requests_per_minute: Some(0), ..Limit::default() }, 1, at(5));
        assert_eq!(meter.count(at(600), Bound::Whole).unwrap_err().retry_after, None);
    }
}
