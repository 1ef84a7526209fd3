//! The one place where a configuration and the tensors beside it are held against each other, for every file format.

use std::collections::BTreeMap;

use super::{Checkpoint, RawTensor};
use crate::model::ModelError;
use crate::model::architecture::{Bias, NormKind};
use crate::model::config::{ModelConfig, RopeScaling};

/// Largest value of any single dimension: far above every model, far below what could overflow a product of two.
const MAX_DIM: usize = 1 << 28;

/// Checks everything that the decoder relies on; what passes can be computed with.
pub(super) fn check(checkpoint: &Checkpoint) -> Result<(), ModelError> {
    check_config(&checkpoint.config).map_err(ModelError::Invalid)?;
    check_tensors(&checkpoint.config, &checkpoint.tensors).map_err(ModelError::Invalid)?;
    check_tokens(checkpoint).map_err(ModelError::Invalid)
}

/// The configuration alone: sizes that make sense together.
fn check_config(config: &ModelConfig) -> Result<(), String> {
    let sizes = [
        ("vocabulary size", config.vocab_size),
        ("hidden size", config.hidden_size),
        ("intermediate size", config.intermediate_size),
        ("number of layers", config.layers),
        ("number of attention heads", config.heads),
        ("number of key/value heads", config.kv_heads),
        ("head width", config.head_dim),
        ("context length", config.context_length),
    ];
    for (name, value) in sizes {
        if value == 0 || value > MAX_DIM {
            return Err(format!("the {name} is {value}; 1 to {MAX_DIM} is possible"));
        }
    }
    if !config.heads.is_multiple_of(config.kv_heads) {
        return Err(format!("{} attention heads cannot share {} key/value heads evenly", config.heads, config.kv_heads));
    }
    if !config.head_dim.is_multiple_of(2) {
        return Err(format!("the head width is {}; rotary embedding needs an even one", config.head_dim));
    }
    let rotary = config.rotary_dim();
    if rotary == 0 || rotary > config.head_dim || !rotary.is_multiple_of(2) {
        return Err(format!("{rotary} values of a head of {} cannot be rotated; an even number of them can", config.head_dim));
    }
    if config.heads.checked_mul(config.head_dim).is_none_or(|width| width > MAX_DIM) {
        return Err(format!("{} heads of width {} are too wide", config.heads, config.head_dim));
    }
    let positive = |name: &str, value: f32| match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(format!("the {name} is {value}; it must be a positive number")),
    };
    positive("epsilon of normalisation", config.rms_eps)?;
    positive("rotary base", config.rope_theta)?;
    if config.sliding_window == Some(0) {
        return Err("the sliding window is 0; it must be positive, or absent".to_owned());
    }
    let details = &config.details;
    for (name, value) in [
        ("rotary base of windowed layers", details.local_theta),
        ("soft cap of attention scores", details.attention_cap),
        ("soft cap of logits", details.logit_cap),
        ("scale of embeddings", details.embedding_scale),
        ("scale of attention scores", details.query_scale),
    ] {
        value.map_or(Ok(()), |value| positive(name, value))?;
    }
    let divisors = |factors: &[f32]| {
        if factors.len() != rotary / 2 {
            return Err(format!("there are {} rotary divisors; {} are expected", factors.len(), rotary / 2));
        }
        factors.iter().try_for_each(|factor| positive("rotary divisor", *factor))
    };
    match &config.rope_scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => positive("factor of rotary scaling", *factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            positive("factor of rotary scaling", *factor)?;
            positive("low_freq_factor", *low_freq_factor)?;
            positive("high_freq_factor", *high_freq_factor)?;
            if high_freq_factor <= low_freq_factor || *original_context == 0 {
                return Err(format!(
                    "llama3 rotary scaling needs low_freq_factor ({low_freq_factor}) below high_freq_factor ({high_freq_factor}) \
                     and a positive original context ({original_context})"
                ));
            }
            Ok(())
        }
        RopeScaling::Factors(factors) => divisors(factors),
        RopeScaling::LongRope { short, long, original_context, attention_factor } => {
            positive("attention factor of rotary scaling", *attention_factor)?;
            if *original_context == 0 {
                return Err("the original context of rotary scaling is 0; it must be positive".to_owned());
            }
            divisors(short)?;
            divisors(long)
        }
    }
}

/// The shape (rows, columns) that a configuration asks of every tensor that must be there.
pub(super) fn required_shapes(config: &ModelConfig) -> BTreeMap<String, (usize, usize)> {
    let (hidden, anatomy) = (config.hidden_size, config.anatomy());
    let mut shapes = BTreeMap::from([("model.embed_tokens.weight".to_owned(), (config.vocab_size, hidden))]);
    if !config.tied_embeddings {
        shapes.insert("lm_head.weight".to_owned(), (config.vocab_size, hidden));
    }
    if anatomy.head_bias {
        shapes.insert("lm_head.bias".to_owned(), (1, config.vocab_size));
    }
    let mut norm = |path: &str, width: usize| {
        shapes.insert(format!("{path}.weight"), (1, width));
        if anatomy.norms.kind == NormKind::Layer {
            shapes.insert(format!("{path}.bias"), (1, width));
        }
    };
    norm(anatomy.norms.last, hidden);
    for layer in 0..config.layers {
        for (path, _) in anatomy.layer_norms() {
            norm(&format!("model.layers.{layer}.{path}"), if path.starts_with("self_attn.") { config.head_dim } else { hidden });
        }
    }
    for layer in 0..config.layers {
        for module in anatomy.modules {
            let path = format!("model.layers.{layer}.{}", module.path);
            if module.bias == Bias::Always {
                shapes.insert(format!("{path}.bias"), (1, config.module_shape(module).0));
            }
            shapes.insert(format!("{path}.weight"), config.module_shape(module));
        }
    }
    shapes
}

/// Every tensor is expected and has its shape; every expected tensor is there.
fn check_tensors(config: &ModelConfig, tensors: &BTreeMap<String, RawTensor>) -> Result<(), String> {
    // Before a table is made for as many layers as the file claims: each has at least nine tensors.
    if config.layers > tensors.len() {
        return Err(format!("the configuration has {} layers; the file has {} tensors in all", config.layers, tensors.len()));
    }
    let required = required_shapes(config);
    for (name, (rows, cols)) in &required {
        let tensor = tensors.get(name).ok_or_else(|| format!("tensor {name} is missing; [{rows}, {cols}] is expected"))?;
        check_shape(name, tensor, (*rows, *cols))?;
    }
    for (name, tensor) in tensors {
        if required.contains_key(name) {
            continue;
        }
        let shape = format!("[{}, {}]", tensor.rows, tensor.cols);
        let width = optional_bias(config, name).ok_or_else(|| match layer_of(name) {
            Some(layer) if layer >= config.layers => {
                format!("tensor {name} of shape {shape} is surplus: the configuration has {} layers", config.layers)
            }
            _ => format!("tensor {name} of shape {shape} is not part of this architecture, so it would be ignored"),
        })?;
        check_shape(name, tensor, (1, width))?;
    }
    Ok(())
}

/// One tensor's shape, and its stored size.
fn check_shape(name: &str, tensor: &RawTensor, (rows, cols): (usize, usize)) -> Result<(), String> {
    if (tensor.rows, tensor.cols) != (rows, cols) {
        return Err(format!(
            "tensor {name} has shape [{}, {}]; the configuration expects [{rows}, {cols}]",
            tensor.rows, tensor.cols
        ));
    }
    let size = tensor.dtype.row_bytes(cols).and_then(|row| row.checked_mul(rows));
    if size != Some(tensor.range.len()) || tensor.range.end > tensor.file.len() {
        return Err(format!(
            "tensor {name} has {} bytes, not what [{rows}, {cols}] of {} needs",
            tensor.range.len(),
            tensor.dtype
        ));
    }
    Ok(())
}

/// Layer number of a tensor inside a layer.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split_once('.')?.0.parse().ok()
}

/// Width of a bias that may be there, on a module of an existing layer.
fn optional_bias(config: &ModelConfig, name: &str) -> Option<usize> {
    let layer = layer_of(name).filter(|layer| *layer < config.layers)?;
    let path = name.strip_prefix(&format!("model.layers.{layer}."))?.strip_suffix(".bias")?;
    let module = config.anatomy().modules.iter().find(|module| module.path == path && module.bias == Bias::Optional)?;
    Some(config.module_shape(module).0)
}

/// The tokenizer and the special tokens stay inside the vocabulary.
fn check_tokens(checkpoint: &Checkpoint) -> Result<(), String> {
    let vocab = checkpoint.config.vocab_size;
    let tokens = checkpoint.tokenizer.vocab_size();
    if tokens > vocab {
        return Err(format!("the tokenizer has ids up to {}; the embedding has {vocab} rows", tokens - 1));
    }
    let generation = &checkpoint.generation;
    let outside = generation.eos.iter().chain(&generation.bos).find(|id| **id as usize >= vocab);
    match outside {
        Some(id) => Err(format!("special token {id} is outside the vocabulary of {vocab}")),
        None => Ok(()),
    }
}
