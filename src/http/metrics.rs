//! `GET /metrics` in Prometheus' text format: what rooms registered, and the engine's own numbers.

use std::fmt::{Display, Write};

use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus::{IntCounterVec, Opts, Registry, TextEncoder};

use super::Server;
use super::error::ApiError;
use crate::gateway::Stats;
use crate::registry::{AdapterInfo, Viewer};

/// Counters of this room.
pub struct HttpMetrics {
    requests: IntCounterVec,
}

impl HttpMetrics {
    /// Registers the counters; each registry takes them once.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = Opts::new("switchyard_http_requests_total", "Requests answered, by route and status.");
        let requests = IntCounterVec::new(options, &["method", "route", "status"])?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self { requests })
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

/// `GET /metrics`
pub async fn render(State(server): State<Server>) -> Result<Response, ApiError> {
    let families = server.0.parts.registry.gather();
    let mut text = TextEncoder::new().encode_to_string(&families).map_err(|error| ApiError::internal(&error))?;
    text.push_str(&engine(&server.gateway().engine_stats()));
    text.push_str(&adapters(&server.catalog().list(Viewer::Operator)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
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
    counter("prefix_hit_tokens_total", "Prompt tokens found in the prefix cache.", &stats.prefix_hit_tokens);
    counter("preemptions_total", "Times that a sequence lost its blocks to an older one.", &stats.preemptions);
    counter("completed_sequences_total", "Sequences that ended with an answer.", &stats.completed);
    counter("failed_sequences_total", "Sequences that failed.", &stats.failed);
    counter("cancelled_sequences_total", "Sequences whose client left.", &stats.cancelled);
    counter("step_seconds_total", "All steps together.", &stats.total_step.as_secs_f64());
    counter("forward_seconds_total", "The part of all steps that the model took.", &stats.total_forward.as_secs_f64());
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
