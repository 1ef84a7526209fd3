//! Whether training gets anywhere: what is watched from outside. Knows no job by name.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shared by whoever trains and whoever looks.
#[derive(Debug, Default)]
pub struct Pulse {
    /// When the job that is worked on last got further, or was begun.
    last: Mutex<Option<Instant>>,
    tokens: AtomicU64,
}

impl Pulse {
    /// A job is taken up. One that is tried again goes on being silent.
    pub(super) fn begin(&self, now: Instant) {
        self.last().get_or_insert(now);
    }

    /// A step was made that was not made before.
    pub(super) fn step(&self, tokens: u64, now: Instant) {
        *self.last() = Some(now);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// No job is under way.
    pub(super) fn rest(&self) {
        *self.last() = None;
    }

    /// Since when the job that is worked on has made no step; nothing where there is none.
    pub fn silent(&self, now: Instant) -> Duration {
        self.last().map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    /// Tokens of all steps since the start.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_tried_again_and_again_stays_silent_and_a_step_ends_that() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pulse.silent(at(9)), Duration::ZERO, "nothing is worked on");
        pulse.begin(at(10));
        pulse.begin(at(40));
        assert_eq!(pulse.silent(at(70)), Duration::from_secs(60));
        pulse.step(128, at(80));
        assert_eq!((pulse.silent(at(85)), pulse.tokens()), (Duration::from_secs(5), 128));
        pulse.rest();
        assert_eq!((pulse.silent(at(99)), pulse.tokens()), (Duration::ZERO, 128));
    }
}
