//! The names that Kubernetes' inference routers read: vLLM's metrics, and the adapter metric that is proposed for it
//! (gateway-api-inference-extension, "Model Server Protocol").

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::gateway::Stats;
use crate::registry::AdapterInfo;

/// What the metrics are about.
pub struct Facts<'a> {
    /// The base's public name.
    pub base: &'a str,
    /// Tokens of a KV block.
    pub block_tokens: usize,
    /// Most sequences that run together, and with them most adapters.
    pub max_sequences: usize,
    /// Whether prefixes are reused.
    pub prefix_cache: PrefixCaching,
}

/// Whether prefixes are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixCaching {
    /// They are.
    On,
    /// They are not.
    Off,
}

/// The metrics; `adapters` are those whose names the reader may know.
pub fn render(facts: &Facts<'_>, stats: &Stats, adapters: &[AdapterInfo]) -> String {
    let mut out = String::new();
    let base = label(facts.base);
    let mut gauge = |name: &str, help: &str, labels: &str, value: String| {
        // Writing to a string does not fail.
        let _ = write!(out, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} gauge\nvllm:{name}{{{labels}}} {value}\n");
    };
    let model = format!("model_name=\"{base}\"");
    gauge("num_requests_running", "Sequences that run.", &model, stats.running.to_string());
    gauge("num_requests_waiting", "Sequences that wait.", &model, stats.waiting.to_string());
    let used = if stats.kv_total == 0 { 0.0 } else { stats.kv_used as f64 / stats.kv_total as f64 };
    gauge("kv_cache_usage_perc", "Share of the KV blocks that are in use; 1 is all.", &model, format!("{used:.6}"));
    let reuse = if facts.prefix_cache == PrefixCaching::On { "True" } else { "False" };
    let labels =
        format!("block_size=\"{}\",num_gpu_blocks=\"{}\",enable_prefix_caching=\"{reuse}\"", facts.block_tokens, stats.kv_total);
    gauge("cache_config_info", "Sizes of the KV cache.", &labels, "1.0".to_owned());
    let running: Vec<String> = adapters.iter().filter(|adapter| adapter.leases > 0).map(|adapter| label(&adapter.name)).collect();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let labels = format!(
        "max_lora=\"{}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"\"",
        facts.max_sequences,
        running.join(",")
    );
    gauge("lora_requests_info", "Adapters of running requests; the value is the time.", &labels, format!("{since:.3}"));
    if !adapters.is_empty() {
        let name = "vllm:lora_adapter_loaded";
        let _ = write!(out, "# HELP {name} Adapters in memory.\n# TYPE {name} gauge\n");
        for adapter in adapters {
            let adapter_name = label(&adapter.name);
            // Every adapter in service is in memory, and stays there.
            let _ = writeln!(
                out,
                "{name}{{adapter_name=\"{adapter_name}\",level=\"cpu\",pinned=\"true\",rank=\"{}\"}} 1",
                adapter.rank
            );
        }
    }
    out
}

/// A label's value, escaped as the text format asks.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_and_labels_are_those_that_routers_read() {
        let stats = Stats { running: 3, waiting: 2, kv_total: 8, kv_used: 2, ..Stats::default() };
        let facts = Facts { base: "a\"b", block_tokens: 16, max_sequences: 64, prefix_cache: PrefixCaching::On };
        let text = render(&facts, &stats, &[]);
        for line in [
            "vllm:num_requests_running{model_name=\"a\\\"b\"} 3",
            "vllm:num_requests_waiting{model_name=\"a\\\"b\"} 2",
            "vllm:kv_cache_usage_perc{model_name=\"a\\\"b\"} 0.250000",
            "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"8\",enable_prefix_caching=\"True\"} 1.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("vllm:lora_requests_info{max_lora=\"64\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"} "));
    }
}
