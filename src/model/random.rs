//! Seeded random bases of any shape, without files: what tests and `bench --shape` run on. Noise as language, real as work.

use std::collections::BTreeMap;
use std::sync::Arc;

use half::f16;
use memmap2::MmapMut;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::ModelError;
use crate::model::architecture::{Bias, NormKind};
use crate::model::config::{Architecture, LinearSite, ModelConfig, RopeScaling};
use crate::model::loader::{DType, Origin, RawTensor};

/// Storage types of a random base's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// One type for all.
    Uniform(DType),
    /// llama.cpp's `Q4_K_M`: Q4_K, with Q6_K for the head and for the value and down projections of half of the layers.
    Q4KM,
}

impl Mix {
    fn of(self, config: &ModelConfig, layer: Option<usize>, site: Option<LinearSite>) -> DType {
        match self {
            Self::Uniform(dtype) => dtype,
            Self::Q4KM => {
                let eighth = config.layers / 8;
                let better = layer.is_none_or(|i| i < eighth || i >= 7 * config.layers / 8 || (i - eighth) % 3 == 2);
                let sensitive = matches!(site, None | Some(LinearSite::V | LinearSite::Down));
                let dtype = if better && sensitive { DType::Q6K } else { DType::Q4K };
                let cols = site.map_or(config.hidden_size, |site| config.linear_shape(site).1);
                // llama.cpp falls back to formats of 32 where rows are not whole super-blocks.
                match dtype {
                    _ if cols.is_multiple_of(256) => dtype,
                    DType::Q6K => DType::Q8_0,
                    _ => DType::Q5_0,
                }
            }
        }
    }
}

/// Names that [`shape`] knows.
pub const SHAPES: [&str; 3] = ["llama-1b", "qwen2-0.5b", "tiny"];

/// Shape of a well-known base, by name: `llama-1b` and `qwen2-0.5b` as the peers are measured with, `tiny` for tests.
pub fn shape(name: &str) -> Option<ModelConfig> {
    let (architecture, hidden_size, layers, heads, kv_heads, intermediate_size, rope_theta, vocab_size) = match name {
        "llama-1b" => (Architecture::Llama, 2048, 16, 32, 8, 8192, 5e5, 32000),
        "qwen2-0.5b" => (Architecture::Qwen2, 896, 24, 14, 2, 4864, 1e6, 32000),
        "tiny" => (Architecture::Llama, 256, 3, 4, 2, 512, 1e4, 288),
        _ => return None,
    };
    Some(ModelConfig {
        architecture,
        vocab_size,
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads,
        head_dim: hidden_size / heads,
        rms_eps: 1e-5,
        rope_theta,
        rope_scaling: RopeScaling::None,
        context_length: 4096,
        sliding_window: None,
        tied_embeddings: true,
        details: crate::model::config::Details::default(),
    })
}

/// Random weights for a shape, about as large as trained ones.
pub fn tensors(config: &ModelConfig, mix: Mix, seed: u64) -> Result<BTreeMap<String, RawTensor>, ModelError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut out = BTreeMap::new();
    let mut put = |name: String, tensor: Result<RawTensor, ModelError>| tensor.map(|tensor| out.insert(name, tensor));
    let hidden = config.hidden_size;
    let head = mix.of(config, None, None);
    put("model.embed_tokens.weight".to_owned(), matrix(head, config.vocab_size, hidden, &mut rng))?;
    let anatomy = config.anatomy();
    let layered = anatomy.norms.kind == NormKind::Layer;
    put(format!("{}.weight", anatomy.norms.last), vector(hidden, 1.0, 0.1, &mut rng))?;
    if layered {
        put(format!("{}.bias", anatomy.norms.last), vector(hidden, 0.0, 0.1, &mut rng))?;
    }
    if !config.tied_embeddings {
        put("lm_head.weight".to_owned(), matrix(head, config.vocab_size, hidden, &mut rng))?;
    }
    if anatomy.head_bias {
        put("lm_head.bias".to_owned(), vector(config.vocab_size, 0.0, 0.1, &mut rng))?;
    }
    for layer in 0..config.layers {
        let prefix = format!("model.layers.{layer}");
        for (path, _) in anatomy.layer_norms() {
            let width = if path.starts_with("self_attn.") { config.head_dim } else { hidden };
            put(format!("{prefix}.{path}.weight"), vector(width, 1.0, 0.1, &mut rng))?;
            if layered {
                put(format!("{prefix}.{path}.bias"), vector(width, 0.0, 0.1, &mut rng))?;
            }
        }
        for module in anatomy.modules {
            let (n, k) = config.module_shape(module);
            let name = format!("{prefix}.{}", module.path);
            let dtype = mix.of(config, Some(layer), Some(module.sites[0]));
            put(format!("{name}.weight"), matrix(dtype, n, k, &mut rng))?;
            if module.bias == Bias::Always {
                put(format!("{name}.bias"), vector(n, 0.0, 0.1, &mut rng))?;
            }
        }
    }
    Ok(out)
}

fn stored(dtype: DType, rows: usize, cols: usize, fill: impl FnOnce(&mut [u8])) -> Result<RawTensor, ModelError> {
    let memory = |e: std::io::Error| ModelError::Device(format!("cannot allocate a random tensor: {e}"));
    let bytes = dtype.row_bytes(cols).map(|row| row * rows);
    let bytes = bytes.ok_or_else(|| ModelError::Invalid(format!("{dtype:?} does not fit rows of {cols} values")))?;
    let mut map = MmapMut::map_anon(bytes).map_err(memory)?;
    fill(&mut map);
    let file = Arc::new(map.make_read_only().map_err(memory)?);
    Ok(RawTensor { dtype, rows, cols, file, origin: Origin::Memory, range: 0..bytes, interleaved_head_dim: None })
}

fn vector(len: usize, mean: f32, spread: f32, rng: &mut ChaCha8Rng) -> Result<RawTensor, ModelError> {
    stored(DType::F32, 1, len, |bytes| {
        for value in bytes.as_chunks_mut::<4>().0 {
            *value = (mean + spread * (rng.random::<f32>() * 2.0 - 1.0)).to_le_bytes();
        }
    })
}

/// Random quants under constant scales: no encoder runs, so a billion weights take seconds.
fn matrix(dtype: DType, rows: usize, cols: usize, rng: &mut ChaCha8Rng) -> Result<RawTensor, ModelError> {
    // Keeps the variance of an input: uniform on +-a has variance a^2 / 3.
    let peak = (3.0 / cols as f32).sqrt();
    let half = |value: f32| f16::from_f32(value).to_le_bytes();
    stored(dtype, rows, cols, |bytes| {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            rng.fill_bytes(bytes);
        }
        let (_, size) = dtype.block();
        for block in bytes.chunks_exact_mut(size) {
            match dtype {
                DType::F32 => block.copy_from_slice(&(peak * (rng.random::<f32>() * 2.0 - 1.0)).to_le_bytes()),
                DType::F16 => block.copy_from_slice(&half(peak * (rng.random::<f32>() * 2.0 - 1.0))),
                DType::BF16 => {
                    let value = half::bf16::from_f32(peak * (rng.random::<f32>() * 2.0 - 1.0));
                    block.copy_from_slice(&value.to_le_bytes());
                }
                DType::Q8_0 => block[..2].copy_from_slice(&half(peak / 127.0)),
                DType::Q5_0 => block[..2].copy_from_slice(&half(peak / 16.0)),
                DType::Q4_0 => block[..2].copy_from_slice(&half(peak / 8.0)),
                DType::Q6K => {
                    block[192..208].fill(32);
                    block[208..].copy_from_slice(&half(peak / (32.0 * 32.0)));
                }
                DType::Q4K | DType::Q5K => {
                    // Scales and minima of 32 in their 6-bit packing; the minimum centres the values.
                    let levels = if dtype == DType::Q4K { 7.5 } else { 15.5 };
                    block[..2].copy_from_slice(&half(peak / (32.0 * levels)));
                    block[2..4].copy_from_slice(&half(peak / 32.0));
                    block[4..12].fill(32 | 2 << 6);
                    block[12..16].fill(0);
                }
            }
        }
    })
}
