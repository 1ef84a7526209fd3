//! What the gateway counts. Knows no text and no caller.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use super::shadow::Fate;
use crate::tenants::{CacheUse, Done, Outcome};

/// Seconds; a token takes milliseconds on a small model and seconds on a slow machine.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Seconds; stages take microseconds, the queue may take seconds.
const STAGE_SECONDS: &[f64] =
    &[0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];
/// Adapters that have counters of their own; those that come later share one.
const MOST_ADAPTERS: usize = 200;

/// What a request goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the header to the caller.
    Auth,
    /// Template and tokenizer.
    Render,
    /// Limits and budgets.
    Admit,
    /// Waiting for the first step.
    Queue,
    /// From the first step to the first token.
    Prefill,
    /// From the first token to the last.
    Decode,
    /// Ledger and giving back.
    Settle,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Render => "render",
            Self::Admit => "admit",
            Self::Queue => "queue",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Settle => "settle",
        }
    }

    const ALL: [Self; 7] = [Self::Auth, Self::Render, Self::Admit, Self::Queue, Self::Prefill, Self::Decode, Self::Settle];
}

/// Counters of the gateway. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    prompt_tokens: IntCounter,
    cached_tokens: IntCounter,
    generated_tokens: IntCounter,
    cancelled: IntCounter,
    first_token: Histogram,
    duration: Histogram,
    overhead: Histogram,
    /// In the order of [`Stage::ALL`].
    stages: Vec<Histogram>,
    cache: IntCounterVec,
    adapter_tokens: IntCounterVec,
    adapter_cost: IntCounterVec,
    shadows: IntCounterVec,
    upstreams: IntCounterVec,
    backends: IntCounterVec,
    adapters: Mutex<HashSet<String>>,
}

impl Metrics {
    /// Registers the counters; each registry takes them once.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let stages =
            HistogramOpts::new("switchyard_stage_seconds", "Time of each stage of a request.").buckets(STAGE_SECONDS.to_vec());
        let stages = HistogramVec::new(stages, &["stage"])?;
        registry.register(Box::new(stages.clone()))?;
        Ok(Self(Arc::new(Inner {
            prompt_tokens: counter("switchyard_prompt_tokens_total", "Tokens of prompts.")?,
            cached_tokens: counter("switchyard_cached_prompt_tokens_total", "Tokens of prompts whose computation was reused.")?,
            generated_tokens: counter("switchyard_generated_tokens_total", "Tokens of answers.")?,
            cancelled: counter("switchyard_cancelled_requests_total", "Requests whose client left before the end.")?,
            first_token: histogram("switchyard_time_to_first_token_seconds", "From submission to the first token.", SECONDS)?,
            duration: histogram(
                "switchyard_generation_seconds",
                "From submission to the end of all answers of a request.",
                SECONDS,
            )?,
            overhead: histogram(
                "switchyard_gateway_overhead_seconds",
                "What a request took besides waiting for the backend: to its submission, and from the last token to its row in the ledger.",
                STAGE_SECONDS,
            )?,
            stages: Stage::ALL.iter().map(|stage| stages.with_label_values(&[stage.name()])).collect(),
            cache: counters("switchyard_response_cache_requests_total", "Requests by what the response cache did.", &["result"])?,
            adapter_tokens: counters(
                "switchyard_adapter_tokens_total",
                "Tokens by adapter: the base is `base`, a tenant's own is `tenant/name`.",
                &["adapter", "kind"],
            )?,
            adapter_cost: counters("switchyard_adapter_cost_nanodollars_total", "What was charged, by adapter.", &["adapter"])?,
            shadows: counters(
                "switchyard_shadow_answers_total",
                "Copies of requests to silent models, by what became of them.",
                &["fate"],
            )?,
            upstreams: counters(
                "switchyard_upstream_requests_total",
                "Requests for models that are other servers, by how they ended.",
                &["upstream", "outcome"],
            )?,
            backends: counters(
                "switchyard_backend_requests_total",
                "Requests by what they were given to: native, mistralrs, null, upstream. What the response cache answered is nobody's.",
                &["backend"],
            )?,
            adapters: Mutex::default(),
        })))
    }

    /// A stage of a request took this long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.0.stages[stage as usize].observe(took.as_secs_f64());
    }

    /// What a request took besides waiting for the backend.
    pub fn overhead(&self, took: Duration) {
        self.0.overhead.observe(took.as_secs_f64());
    }

    /// A copy of a request has come to its end.
    pub(super) fn shadow(&self, fate: Fate) {
        self.0.shadows.with_label_values(&[fate.name()]).inc();
    }

    /// A request to another server has ended.
    pub(super) fn relayed(&self, upstream: &str, outcome: Outcome) {
        self.0.upstreams.with_label_values(&[upstream, outcome.name()]).inc();
        self.given_to("upstream");
    }

    /// A request was given to this backend.
    pub(super) fn given_to(&self, backend: &str) {
        self.0.backends.with_label_values(&[backend]).inc();
    }

    pub(super) fn first_token(&self, after: Duration) {
        self.0.first_token.observe(after.as_secs_f64());
    }

    /// A request was settled after `total`, which took `settling`.
    pub(super) fn ended(&self, adapter: &str, done: &Done, cost_nanos: i64, total: Duration, settling: Duration) {
        let inner = &self.0;
        let tokens = &done.tokens;
        inner.cache.with_label_values(&[done.cache.name()]).inc();
        inner.prompt_tokens.inc_by(tokens.input);
        inner.duration.observe(total.as_secs_f64());
        if done.cache != CacheUse::Hit {
            inner.cached_tokens.inc_by(tokens.cached);
            inner.generated_tokens.inc_by(tokens.output);
            self.stage(Stage::Queue, done.queued);
            if let Some(first) = done.first_token {
                self.stage(Stage::Prefill, first.saturating_sub(done.queued));
                self.stage(Stage::Decode, total.saturating_sub(first));
            }
        }
        self.stage(Stage::Settle, settling);
        if done.outcome == Outcome::Cancelled {
            inner.cancelled.inc();
        }
        let adapter = self.label(adapter);
        inner.adapter_tokens.with_label_values(&[&adapter, "input"]).inc_by(tokens.input);
        inner.adapter_tokens.with_label_values(&[&adapter, "output"]).inc_by(tokens.output);
        inner.adapter_cost.with_label_values(&[&adapter]).inc_by(u64::try_from(cost_nanos).unwrap_or(0));
    }

    /// Whoever makes up names makes no labels without end.
    fn label(&self, adapter: &str) -> String {
        let mut known = self.0.adapters.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(adapter) || (known.len() < MOST_ADAPTERS && known.insert(adapter.to_owned())) {
            return adapter.to_owned();
        }
        "other".to_owned()
    }
}
