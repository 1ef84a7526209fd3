//! What the engine tells about itself: numbers, and whether it is well. Cheap to read from any thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::handle::SubmitError;

/// A snapshot after the last step. Totals count from the start.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    /// Sequences that hold KV blocks.
    pub running: usize,
    /// Sequences that are accepted and hold nothing: not started yet, or preempted.
    pub waiting: usize,
    /// KV blocks.
    pub kv_total: usize,
    /// KV blocks held by sequences.
    pub kv_used: usize,
    /// KV blocks held by nobody whose content can be reused.
    pub kv_cached: usize,
    /// KV blocks held by nobody, without content.
    pub kv_free: usize,
    /// Steps.
    pub steps: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Tokens computed in prefill chunks (prompts, and what preempted sequences compute again).
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens that were guessed and verified.
    pub guessed_tokens: u64,
    /// Those of them that were right.
    pub right_guesses: u64,
    /// Prompt tokens found in the prefix cache when their sequence first started.
    pub prefix_hit_tokens: u64,
    /// Times that a sequence lost its blocks to an older one.
    pub preemptions: u64,
    /// Sequences that ended with an answer.
    pub completed: u64,
    /// Sequences that ended without one, other than by their client's leaving.
    pub failed: u64,
    /// Sequences whose client left.
    pub cancelled: u64,
    /// Most sequences in one step.
    pub sequences_per_step_max: usize,
    /// Sequences in all steps together; divided by `steps` it is the mean.
    pub sequences_per_step_sum: u64,
    /// Most different adapter versions in one step; the base does not count.
    pub adapters_per_step_max: usize,
    /// Duration of the last step, planning and sampling included.
    pub last_step: Duration,
    /// Longest step.
    pub max_step: Duration,
    /// All steps together.
    pub total_step: Duration,
    /// The part of `total_step` that the model took.
    pub total_forward: Duration,
}

/// Whether the engine is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It takes requests.
    Serving,
    /// It finishes what it has and takes nothing new.
    Stopping,
    /// It ended as asked.
    Stopped,
    /// It ended because a step panicked; the text is the panic's.
    Failed(String),
}

impl Health {
    /// Whether the thread has ended.
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Stopped | Self::Failed(_))
    }
}

/// What the thread and the handles share.
#[derive(Debug)]
pub(super) struct Shared {
    stats: Mutex<Stats>,
    /// Accepted requests that have not started yet.
    queued: AtomicUsize,
    pub(super) health: watch::Sender<Health>,
}

impl Shared {
    pub(super) fn new(kv_blocks: usize) -> Arc<Self> {
        let stats = Stats { kv_total: kv_blocks, kv_free: kv_blocks, ..Stats::default() };
        Arc::new(Self { stats: Mutex::new(stats), queued: AtomicUsize::new(0), health: watch::Sender::new(Health::Serving) })
    }

    pub(super) fn stats(&self) -> Stats {
        let mut stats = *self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.waiting += self.queued.load(Ordering::Acquire);
        stats
    }

    /// `waiting` counts preempted sequences only; those that never started are counted by their slots.
    pub(super) fn publish(&self, stats: Stats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// Changes numbers that nobody else publishes.
    pub(super) fn change(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether requests are taken.
    pub(super) fn refuse_unless_serving(&self) -> Result<(), SubmitError> {
        match &*self.health.borrow() {
            Health::Serving => Ok(()),
            Health::Stopping | Health::Stopped => Err(SubmitError::Stopping),
            Health::Failed(why) => Err(SubmitError::Unhealthy(why.clone())),
        }
    }

    /// No more requests are taken; whoever has failed or stopped already stays so.
    pub(super) fn begin_stopping(&self) {
        self.health.send_if_modified(|health| {
            let serving = *health == Health::Serving;
            if serving {
                *health = Health::Stopping;
            }
            serving
        });
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }
}

/// A place in the queue of requests that have not started; given back when dropped.
#[derive(Debug)]
pub(super) struct QueueSlot(Arc<Shared>);

impl QueueSlot {
    /// `count` places, when so many of `capacity` are free: all of them or none.
    pub(super) fn take(shared: &Arc<Shared>, count: usize, capacity: usize) -> Option<Vec<Self>> {
        let more = |taken: usize| taken.checked_add(count).filter(|taken| *taken <= capacity);
        shared.queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some((0..count).map(|_| Self(Arc::clone(shared))).collect())
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::AcqRel);
    }
}
