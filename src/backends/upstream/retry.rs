//! When a server is asked again, and after how long. Pure; the caller brings the chance and does the waiting.

use std::time::Duration;

/// Longest wait that a server may ask for.
const LONGEST: Duration = Duration::from_secs(60);

/// How patiently a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Most times that it is asked again.
    pub retries: u32,
    /// Wait before the first of them; each further one is twice as long.
    pub first_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { retries: 5, first_wait: Duration::from_millis(500) }
    }
}

impl Patience {
    /// The wait before asking again, after `attempt` times that it was; `None` where enough is enough. `wanted` is what the server
    /// asked for. `chance` spreads callers that were refused together: half of the wait is drawn with it.
    pub fn wait(&self, attempt: u32, wanted: Option<Duration>, chance: u32) -> Option<Duration> {
        if attempt >= self.retries {
            return None;
        }
        let wait = self.first_wait.saturating_mul(1 << attempt.min(16)).min(LONGEST);
        let share = 0.5 + 0.5 * f64::from(chance) / f64::from(u32::MAX);
        Some(wanted.unwrap_or_default().min(LONGEST).max(wait.mul_f64(share)))
    }
}

/// Whether a refusal with this status may end by itself: too many requests, no time, or a fault of the server.
pub(super) const fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn waits_double_are_spread_and_end() {
        let patience = Patience { retries: 3, first_wait: Duration::from_secs(2) };
        let seconds = |attempt, wanted, chance| patience.wait(attempt, wanted, chance).map(|wait| wait.as_secs_f64());
        assert_eq!(seconds(0, None, u32::MAX), Some(2.0));
        assert_eq!(seconds(0, None, 0), Some(1.0));
        assert_eq!(seconds(2, None, u32::MAX), Some(8.0));
        assert_eq!(seconds(3, None, 0), None);
        // The server's own wish goes before, within reason.
        assert_eq!(seconds(0, Some(Duration::from_secs(7)), 0), Some(7.0));
        assert_eq!(seconds(0, Some(Duration::from_secs(7000)), 0), Some(60.0));
        assert_eq!(Patience { retries: u32::MAX, ..patience }.wait(999, None, u32::MAX), Some(LONGEST));
    }

    #[test]
    fn refusals_that_will_not_change_are_not_repeated() {
        assert!([408, 429, 500, 503].into_iter().all(may_pass));
        assert!(![400, 401, 403, 404, 422].into_iter().any(may_pass));
    }
}
