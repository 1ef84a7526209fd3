//! Adapters: the first two bytes say how long the configuration is, the rest is the weights.
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz adapter`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use switchyard::model::config::{Architecture, ModelConfig, RopeScaling};
use switchyard::model::lora::peft::AdapterFiles;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (config, weights) = rest.split_at(length);
    let base = ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: 384,
        hidden_size: 64,
        intermediate_size: 128,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        rms_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        context_length: 512,
        sliding_window: None,
        tied_embeddings: false,
    };
    let files = AdapterFiles { config: config.to_vec(), weights: weights.to_vec() };
    if let Ok(adapter) = files.parse(&base) {
        assert!(adapter.modules.iter().all(|module| module.rank <= adapter.max_rank));
    }
});
