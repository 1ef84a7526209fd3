//! A GGUF file as a checkpoint: configuration and tensors, for the architectures `llama` (Llama, Mistral) and `qwen2`.

use std::collections::BTreeMap;
use std::path::Path;

use super::gguf::GgufFile;
use super::gguf_metadata::Metadata;
use super::gguf_names::{ROPE_FACTORS, to_huggingface};
use super::{Checkpoint, GenerationDefaults, RawTensor, check, gguf_tokenizer};
use crate::model::ModelError;
use crate::model::config::{Architecture, ModelConfig, RopeScaling};

/// Opens a GGUF file.
pub fn open_gguf(path: &Path) -> Result<Checkpoint, ModelError> {
    let file = GgufFile::open(path)?;
    let in_file = |problem: String| ModelError::Invalid(format!("{} cannot be used: {problem}", path.display()));
    let checkpoint = read(&file, path).map_err(|error| match error {
        ModelError::Invalid(problem) => in_file(problem),
        other => other,
    })?;
    check::check(&checkpoint).map_err(|error| in_file(error.to_string()))?;
    Ok(checkpoint)
}

fn read(file: &GgufFile, path: &Path) -> Result<Checkpoint, ModelError> {
    let config = config(file).map_err(ModelError::Invalid)?;
    let tensors = tensors(file, &config)?;
    let metadata = &file.metadata;
    let tokens = gguf_tokenizer::read(metadata, config.vocab_size)?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = metadata.text("general.name").map_err(ModelError::Invalid)?.map(str::to_owned);
    let generation = GenerationDefaults { eos: tokens.eos, bos: tokens.tokenizer.bos() };
    let name = name.filter(|name| !name.is_empty()).or(stem).unwrap_or_default();
    Ok(Checkpoint { config, tokenizer: tokens.tokenizer, chat_template: tokens.chat_template, generation, tensors, name })
}

/// The shape, from metadata and the embedding's own shape.
fn config(file: &GgufFile) -> Result<ModelConfig, String> {
    let metadata = &file.metadata;
    let arch = metadata.text("general.architecture")?.ok_or("metadata key \"general.architecture\" is missing")?;
    let key = |name: &str| format!("{arch}.{name}");
    let architecture = match arch {
        "llama" if metadata.contains("llama.attention.sliding_window") => Architecture::Mistral,
        "llama" => Architecture::Llama,
        "qwen2" => Architecture::Qwen2,
        other => return Err(format!("its architecture is {other:?}; llama and qwen2 are supported")),
    };
    if metadata.size(&key("expert_count"))?.unwrap_or(0) > 0 {
        return Err(format!("{} is not 0: mixtures of experts are not supported", key("expert_count")));
    }
    let hidden_size = metadata.required_size(&key("embedding_length"))?;
    let heads = metadata.required_size(&key("attention.head_count"))?;
    let kv_heads = match metadata.array(&key("attention.head_count_kv")) {
        Ok(Some(_)) => return Err(format!("{} differs by layer, which is not supported", key("attention.head_count_kv"))),
        _ => metadata.size(&key("attention.head_count_kv"))?.unwrap_or(heads),
    };
    let head_dim = match metadata.size(&key("attention.key_length"))? {
        Some(width) => width,
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => return Err(format!("{heads} heads do not divide an embedding of {hidden_size}")),
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        match metadata.size(&key(name))? {
            Some(width) if width != head_dim => {
                return Err(format!("{} is {width}; only the head width, {head_dim}, is supported", key(name)));
            }
            _ => {}
        }
    }
    let embedding = file.tensors.get("token_embd.weight").ok_or("tensor token_embd.weight is missing")?;
    let epsilon = key("attention.layer_norm_rms_epsilon");
    let window = metadata.size(&key("attention.sliding_window"))?;
    Ok(ModelConfig {
        architecture,
        vocab_size: embedding.dims.get(1).copied().unwrap_or(0),
        hidden_size,
        intermediate_size: metadata.required_size(&key("feed_forward_length"))?,
        layers: metadata.required_size(&key("block_count"))?,
        heads,
        kv_heads,
        head_dim,
        rms_eps: float(metadata, &epsilon)?.ok_or_else(|| format!("metadata key {epsilon:?} is missing"))?,
        rope_theta: float(metadata, &key("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_scaling: rope_scaling(file, arch, head_dim)?,
        context_length: metadata.required_size(&key("context_length"))?,
        sliding_window: window.filter(|window| *window > 0),
        tied_embeddings: !file.tensors.contains_key("output.weight"),
    })
}

fn float(metadata: &Metadata, key: &str) -> Result<Option<f32>, String> {
    Ok(metadata.float(key)?.map(|value| value as f32))
}

fn rope_scaling(file: &GgufFile, arch: &str, head_dim: usize) -> Result<RopeScaling, String> {
    let metadata = &file.metadata;
    let kind = metadata.text(&format!("{arch}.rope.scaling.type"))?;
    let factor = float(metadata, &format!("{arch}.rope.scaling.factor"))?;
    // `scale_linear` is the spelling of files from before `rope.scaling.type`.
    let factor = factor.or(float(metadata, &format!("{arch}.rope.scale_linear"))?).unwrap_or(1.0);
    let linear = match kind {
        None | Some("none") => false,
        Some("linear") => true,
        Some(other) => return Err(format!("{arch}.rope.scaling.type is {other:?}; none and linear are supported")),
    } || (kind.is_none() && factor != 1.0);
    let Some(info) = file.tensors.get(ROPE_FACTORS) else {
        return Ok(if linear { RopeScaling::Linear { factor } } else { RopeScaling::None });
    };
    if linear {
        return Err(format!("{ROPE_FACTORS} together with linear rotary scaling is not supported"));
    }
    let raw = file.raw(ROPE_FACTORS, info).map_err(|error| error.to_string())?;
    if raw.rows != 1 || raw.cols != head_dim / 2 {
        return Err(format!(
            "tensor {ROPE_FACTORS} has shape [{}, {}]; {} divisors are expected",
            raw.rows,
            raw.cols,
            head_dim / 2
        ));
    }
    raw.dequantize().map(RopeScaling::Factors).map_err(|error| error.to_string())
}

/// Tensors by Hugging Face's names.
fn tensors(file: &GgufFile, config: &ModelConfig) -> Result<BTreeMap<String, RawTensor>, ModelError> {
    let mut tensors = BTreeMap::new();
    for (name, info) in &file.tensors {
        if name == ROPE_FACTORS {
            continue;
        }
        let hf = to_huggingface(name).ok_or_else(|| {
            ModelError::Invalid(format!("tensor {name} of dimensions {:?} is not part of this architecture", info.dims))
        })?;
        let mut raw = file.raw(name, info)?;
        // The `llama` architecture stores queries and keys for interleaved rotary pairs; `qwen2` keeps the halves.
        let rotary = hf.contains(".self_attn.q_proj.") || hf.contains(".self_attn.k_proj.");
        if rotary && config.architecture != Architecture::Qwen2 {
            let length = if raw.rows == 1 { raw.cols } else { raw.rows };
            if config.head_dim == 0 || !length.is_multiple_of(config.head_dim) {
                return Err(ModelError::Invalid(format!("tensor {name} is not whole heads of width {}", config.head_dim)));
            }
            raw.interleaved_head_dim = Some(config.head_dim);
        }
        tensors.insert(hf, raw);
    }
    Ok(tensors)
}
