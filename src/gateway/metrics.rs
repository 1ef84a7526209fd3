//! What the gateway counts. Knows no text and no caller.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};

use super::Usage;

/// Seconds; a token takes milliseconds on a small model and seconds on a slow machine.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Counters of the gateway. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    prompt_tokens: IntCounter,
    cached_tokens: IntCounter,
    generated_tokens: IntCounter,
    cancelled: IntCounter,
    first_token: Histogram,
    duration: Histogram,
}

impl Metrics {
    /// Registers the counters; each registry takes them once.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let histogram = |name: &str, help: &str| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        Ok(Self {
            prompt_tokens: counter("switchyard_prompt_tokens_total", "Tokens of prompts.")?,
            cached_tokens: counter("switchyard_cached_prompt_tokens_total", "Tokens of prompts whose computation was reused.")?,
            generated_tokens: counter("switchyard_generated_tokens_total", "Tokens of answers.")?,
            cancelled: counter("switchyard_cancelled_requests_total", "Requests whose client left before the end.")?,
            first_token: histogram("switchyard_time_to_first_token_seconds", "From submission to the first token.")?,
            duration: histogram("switchyard_generation_seconds", "From submission to the end of all answers of a request.")?,
        })
    }

    pub(super) fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    pub(super) fn ended(&self, usage: Usage, after: Duration, cancelled: bool) {
        self.prompt_tokens.inc_by(usage.prompt_tokens as u64);
        self.cached_tokens.inc_by(usage.cached_tokens as u64);
        self.generated_tokens.inc_by(usage.completion_tokens as u64);
        self.duration.observe(after.as_secs_f64());
        if cancelled {
            self.cancelled.inc();
        }
    }
}
