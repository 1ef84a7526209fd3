//! Adapters with random weights, for any base.

use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use switchyard::model::ModelConfig;
use switchyard::model::config::LinearSite;

/// A random PEFT adapter for any base: `rank` on the given linears of every layer, large enough to change answers.
pub fn write_random_adapter(path: &Path, config: &ModelConfig, sites: &[LinearSite], rank: usize, seed: u64) {
    std::fs::create_dir_all(path).unwrap();
    let targets: Vec<&str> = sites.iter().map(|site| site.module().rsplit('.').next().unwrap()).collect();
    let about = json!({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets, "bias": "none",
                       "base_model_name_or_path": "any", "task_type": "CAUSAL_LM"});
    std::fs::write(path.join("adapter_config.json"), about.to_string()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = |count: usize, peak: f32| -> Vec<u8> {
        (0..count).flat_map(|_| (peak * (rng.random::<f32>() * 2.0 - 1.0)).to_le_bytes()).collect()
    };
    let mut parts = Vec::new();
    for layer in 0..config.layers {
        for site in sites {
            let (out, inputs) = config.linear_shape(*site);
            let name = format!("base_model.model.model.layers.{layer}.{}.lora_", site.module());
            parts.push((format!("{name}A.weight"), vec![rank, inputs], values(rank * inputs, (3.0 / inputs as f32).sqrt())));
            parts.push((format!("{name}B.weight"), vec![out, rank], values(out * rank, (0.5 / rank as f32).sqrt())));
        }
    }
    let tensors = parts.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(tensors, None, &path.join("adapter_model.safetensors")).unwrap();
}
