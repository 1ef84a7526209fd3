//! What one sequence has cost the engine so far, readable by its listener at any time: also by one who leaves before the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The engine's side counts, the listener's side reads.
#[derive(Debug)]
pub(super) struct Meter {
    submitted: Instant,
    cached_tokens: AtomicU64,
    queue_micros: AtomicU64,
    step_nanos: AtomicU64,
    generated: AtomicU64,
    block_micros: AtomicU64,
}

/// What a sequence, or several together, have cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effort {
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated, also those that nobody has read.
    pub generated: usize,
    /// From submission to the first step that it took part in.
    pub queued: Duration,
    /// Its shares of the steps' time, by rows.
    pub computed: Duration,
    /// KV blocks times the time that they were held, microseconds.
    pub block_micros: u64,
}

impl Effort {
    /// Both together; the time in the queue is the longer one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            cached_tokens: self.cached_tokens + other.cached_tokens,
            generated: self.generated + other.generated,
            queued: self.queued.max(other.queued),
            computed: self.computed + other.computed,
            block_micros: self.block_micros.saturating_add(other.block_micros),
        }
    }
}

/// Reads what a sequence has cost, also after its listener has gone.
#[derive(Debug, Clone)]
pub struct EffortReader(pub(super) Arc<Meter>);

impl EffortReader {
    /// What it has cost so far.
    pub fn read(&self) -> Effort {
        self.0.read()
    }
}

impl Meter {
    pub(super) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            submitted: Instant::now(),
            cached_tokens: zero(),
            queue_micros: zero(),
            step_nanos: zero(),
            generated: zero(),
            block_micros: zero(),
        }
    }

    /// The sequence starts for the first time.
    pub(super) fn started(&self, cached_tokens: usize) {
        self.cached_tokens.store(cached_tokens as u64, Ordering::Release);
        self.queue_micros.store(micros(self.submitted.elapsed()), Ordering::Release);
    }

    /// A step gave `rows` of its `all` rows to the sequence.
    pub(super) fn computed(&self, step: Duration, rows: usize, all: usize) {
        let nanos = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
        self.step_nanos.fetch_add(nanos.saturating_mul(rows as u64) / all.max(1) as u64, Ordering::AcqRel);
    }

    /// So many tokens were generated.
    pub(super) fn generated(&self, tokens: usize) {
        self.generated.fetch_add(tokens as u64, Ordering::AcqRel);
    }

    /// The sequence held so many KV blocks for this long.
    pub(super) fn held(&self, blocks: usize, time: Duration) {
        self.block_micros.fetch_add(micros(time).saturating_mul(blocks as u64), Ordering::AcqRel);
    }

    pub(super) fn read(&self) -> Effort {
        Effort {
            cached_tokens: usize::try_from(self.cached_tokens.load(Ordering::Acquire)).unwrap_or(usize::MAX),
            generated: usize::try_from(self.generated.load(Ordering::Acquire)).unwrap_or(usize::MAX),
            queued: Duration::from_micros(self.queue_micros.load(Ordering::Acquire)),
            computed: Duration::from_nanos(self.step_nanos.load(Ordering::Acquire)),
            block_micros: self.block_micros.load(Ordering::Acquire),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
