//! `GET /metrics` in Prometheus' text format: what rooms registered, and the engine's own numbers.

use std::fmt::{Display, Write};
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus::{IntCounterVec, Opts, Registry, TextEncoder};

use super::Server;
use super::error::ApiError;
use super::kubernetes_metrics::{Facts, PrefixCaching};
use super::{auth, kubernetes_metrics};
use crate::gateway::{Asked, BLOCK_TOKENS, Mood, PrefixCache, Stats};
use crate::registry::{AdapterInfo, Owner, Residency, Viewer};
use crate::tenants::shared::Sharing;

/// Counters of this room.
pub struct HttpMetrics {
    requests: IntCounterVec,
    refused: IntCounterVec,
}

impl HttpMetrics {
    /// Registers the counters; each registry takes them once.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = Opts::new("switchyard_http_requests_total", "Requests answered, by route and status.");
        let requests = IntCounterVec::new(options, &["method", "route", "status"])?;
        registry.register(Box::new(requests.clone()))?;
        let options =
            Opts::new("switchyard_refused_requests_total", "Requests refused by a limit or a budget, by the error's code.");
        let refused = IntCounterVec::new(options, &["code"])?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { requests, refused })
    }

    /// A limit or a budget refused a request.
    pub fn refused(&self, code: &str) {
        self.refused.with_label_values(&[code]).inc();
    }

    /// A request was answered. Routes are patterns, so that callers cannot make up label values.
    pub fn answered(&self, method: &Method, route: &str, status: StatusCode) {
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            _ => "other",
        };
        self.requests.with_label_values(&[method, route, status.as_str()]).inc();
    }
}

/// `GET /metrics`: without a key, everything but what tells tenants apart (their own adapters, other servers), and money. A key of
/// the organization shows all.
pub async fn render(State(server): State<Server>, headers: HeaderMap) -> Result<Response, ApiError> {
    let knows = auth::looks_at_everything(&server, &headers).await?;
    let mut families = server.0.parts.registry.gather();
    let mut listed = server.catalog().list(Viewer::Operator);
    let sums = adapters(&listed);
    if !knows {
        families.retain_mut(|family| {
            let mut metrics = family.take_metric();
            metrics.retain(|metric| {
                !metric.get_label().iter().any(|label| label.value().contains('/') && label.name() == "adapter")
            });
            let upstream = family.name().starts_with("switchyard_upstream");
            let shown = !metrics.is_empty() && !family.name().contains("cost") && !upstream;
            family.set_metric(metrics);
            shown
        });
        listed.retain(|adapter| adapter.owner == Owner::Shared);
    }
    let gateway = server.gateway();
    let mut text = TextEncoder::new().encode_to_string(&families).map_err(|error| ApiError::internal(&error))?;
    let stats = gateway.engine_stats();
    text.push_str(&engine(&stats));
    text.push_str(&sums);
    text.push_str(&residency(&server.catalog().residency()));
    text.push_str(&ledger(&server));
    text.push_str(&training(&server));
    if knows {
        text.push_str(&upstreams(&gateway.asked_upstreams()));
    }
    text.push_str(&server.tenants().sharing().map(sharing).unwrap_or_default());
    text.push_str(&kubernetes_metrics::render(&router_facts(&server), &stats, &listed));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn router_facts(server: &Server) -> Facts<'_> {
    let config = &server.gateway().backend_facts().config;
    let prefix_cache = if config.prefix_cache == PrefixCache::On { PrefixCaching::On } else { PrefixCaching::Off };
    Facts { base: &server.gateway().base().name, block_tokens: BLOCK_TOKENS, max_sequences: config.max_sequences, prefix_cache }
}

/// Models that are other servers.
fn upstreams(asked: &[(String, Asked)]) -> String {
    if asked.is_empty() {
        return String::new();
    }
    let mood = |asked: &Asked| match asked.mood {
        Mood::Closed => 0,
        Mood::HalfOpen => 1,
        Mood::Open => 2,
    };
    let mut out = String::new();
    let mut family = |kind: &str, name: &str, help: &str, value: &dyn Fn(&Asked) -> u64| {
        // Writing to a string does not fail.
        let _ = write!(out, "# HELP switchyard_upstream_{name} {help}\n# TYPE switchyard_upstream_{name} {kind}\n");
        for (upstream, asked) in asked {
            let _ = writeln!(out, "switchyard_upstream_{name}{{upstream=\"{upstream}\"}} {}", value(asked));
        }
    };
    family("gauge", "running_requests", "Requests that the upstream is answering.", &|asked| asked.running as u64);
    family("counter", "retries_total", "Times that the upstream was asked again.", &|asked| asked.again);
    family(
        "gauge",
        "breaker",
        "Whether the upstream is asked: 0 closed (yes), 1 half open (one request looks), 2 open (no).",
        &mood,
    );
    out
}

fn ledger(server: &Server) -> String {
    let (rows, oldest) = server.tenants().ledger().lag();
    let (answers, bytes) = server.gateway().cache_size();
    let mut out = String::new();
    for (kind, name, help, value) in [
        ("gauge", "ledger_waiting_rows", "Rows in the journal that are not in the database yet.", rows as f64),
        ("gauge", "ledger_lag_seconds", "Age of the oldest of them.", oldest.as_secs_f64()),
        (
            "counter",
            "ledger_failures_total",
            "Batches that the database did not take.",
            server.tenants().ledger().failures() as f64,
        ),
        ("gauge", "response_cache_answers", "Answers in the response cache.", answers as f64),
        ("gauge", "response_cache_bytes", "Their bytes.", bytes as f64),
    ] {
        // Writing to a string does not fail.
        let _ = write!(out, "# HELP switchyard_{name} {help}\n# TYPE switchyard_{name} {kind}\nswitchyard_{name} {value}\n");
    }
    out
}

fn training(server: &Server) -> String {
    let pulse = server.jobs().pulse();
    let mut out = String::new();
    for (kind, name, help, value) in [
        ("gauge", "training_jobs_active", "Jobs that train or whose files are checked.", server.jobs().active() as f64),
        (
            "gauge",
            "training_silent_seconds",
            "How long the job that trains has made no step; 0 without one.",
            pulse.silent(Instant::now()).as_secs_f64(),
        ),
        ("counter", "training_tokens_total", "Tokens of training steps.", pulse.tokens() as f64),
    ] {
        // Writing to a string does not fail.
        let _ = write!(out, "# HELP switchyard_{name} {help}\n# TYPE switchyard_{name} {kind}\nswitchyard_{name} {value}\n");
    }
    out
}

/// Only where limits are kept for all replicas together.
fn sharing(now: Sharing) -> String {
    let mut out = String::new();
    for (kind, name, help, value) in [
        (
            "gauge",
            "connected",
            "Whether Redis answers: 1, or 0 while a share of every limit holds here.",
            u64::from(now.connected),
        ),
        ("counter", "losses_total", "Times that Redis stopped answering.", now.losses),
        ("counter", "alone_total", "Requests that were admitted or refused by the share.", now.alone),
        ("gauge", "unsettled", "Ends of requests that Redis has not heard of yet.", now.unsettled),
    ] {
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "# HELP switchyard_shared_limits_{name} {help}\n# TYPE switchyard_shared_limits_{name} {kind}\n\
             switchyard_shared_limits_{name} {value}\n"
        );
    }
    out
}

fn engine(stats: &Stats) -> String {
    let mut out = String::new();
    let mut write = |kind: &str, name: &str, help: &str, value: &dyn Display| {
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "# HELP switchyard_engine_{name} {help}\n# TYPE switchyard_engine_{name} {kind}\nswitchyard_engine_{name} {value}\n"
        );
    };
    let mut gauge = |name: &str, help: &str, value: &dyn Display| write("gauge", name, help, value);
    gauge("running_sequences", "Sequences that hold KV blocks.", &stats.running);
    gauge("waiting_sequences", "Sequences accepted that hold nothing.", &stats.waiting);
    gauge("kv_blocks", "KV blocks.", &stats.kv_total);
    gauge("kv_blocks_used", "KV blocks held by sequences.", &stats.kv_used);
    gauge("kv_blocks_cached", "KV blocks held by nobody whose content can be reused.", &stats.kv_cached);
    gauge("kv_blocks_free", "KV blocks held by nobody, without content.", &stats.kv_free);
    gauge("sequences_per_step_max", "Most sequences in one step.", &stats.sequences_per_step_max);
    gauge("adapters_per_step_max", "Most different adapter versions in one step.", &stats.adapters_per_step_max);
    gauge("last_step_seconds", "Duration of the last step.", &stats.last_step.as_secs_f64());
    gauge("max_step_seconds", "Longest step.", &stats.max_step.as_secs_f64());
    let mut counter = |name: &str, help: &str, value: &dyn Display| write("counter", name, help, value);
    counter("steps_total", "Steps.", &stats.steps);
    counter("failed_steps_total", "Steps that failed.", &stats.failed_steps);
    counter("step_sequences_total", "Sequences of all steps together.", &stats.sequences_per_step_sum);
    counter("prefill_tokens_total", "Tokens computed in prefill chunks.", &stats.prompt_tokens);
    counter("decoded_tokens_total", "Tokens generated.", &stats.generated_tokens);
    counter("speculated_tokens_total", "Tokens that were guessed and verified.", &stats.guessed_tokens);
    counter("speculated_tokens_accepted_total", "Guessed tokens that were right.", &stats.right_guesses);
    counter("prefix_hit_tokens_total", "Prompt tokens found in the prefix cache.", &stats.prefix_hit_tokens);
    counter("preemptions_total", "Times that a sequence lost its blocks to an older one.", &stats.preemptions);
    counter("completed_sequences_total", "Sequences that ended with an answer.", &stats.completed);
    counter("failed_sequences_total", "Sequences that failed.", &stats.failed);
    counter("cancelled_sequences_total", "Sequences whose client left.", &stats.cancelled);
    counter("step_seconds_total", "All steps together.", &stats.total_step.as_secs_f64());
    counter("forward_seconds_total", "The part of all steps that the model took.", &stats.total_forward.as_secs_f64());
    out
}

fn residency(now: &Residency) -> String {
    let mut out = String::new();
    for (kind, name, help, value) in [
        ("gauge", "adapter_memory_bytes", "Bytes of all adapter versions in memory.", now.bytes as u64),
        ("gauge", "adapter_memory_versions", "Adapter versions in memory.", now.versions as u64),
        ("gauge", "adapter_memory_limit_bytes", "Most bytes (adapter_memory); 0 is no bound.", now.budget.unwrap_or(0) as u64),
        ("counter", "adapter_arrivals_total", "Adapter versions that were brought into memory.", now.counts.loaded),
        ("counter", "adapter_evictions_total", "Adapter versions that left memory for others.", now.counts.evicted),
    ] {
        // Writing to a string does not fail.
        let _ = write!(out, "# HELP switchyard_{name} {help}\n# TYPE switchyard_{name} {kind}\nswitchyard_{name} {value}\n");
    }
    out
}

fn adapters(adapters: &[AdapterInfo]) -> String {
    let bytes: usize = adapters.iter().map(|adapter| adapter.bytes).sum();
    let leases: usize =
        adapters.iter().map(|adapter| adapter.leases + adapter.draining.iter().map(|(_, leases)| leases).sum::<usize>()).sum();
    let draining: usize = adapters.iter().map(|adapter| adapter.draining.len()).sum();
    let mut out = String::new();
    for (name, help, value) in [
        ("adapters", "Adapters in service.", adapters.len()),
        ("adapter_bytes", "Bytes of the current versions of all adapters.", bytes),
        ("adapter_leases", "Leases held by running requests.", leases),
        ("adapter_versions_draining", "Replaced versions that running requests still hold.", draining),
    ] {
        // Writing to a string does not fail.
        let _ = write!(out, "# HELP switchyard_{name} {help}\n# TYPE switchyard_{name} gauge\nswitchyard_{name} {value}\n");
    }
    out
}
