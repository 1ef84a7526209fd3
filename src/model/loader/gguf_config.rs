//! The shape of a base out of GGUF metadata: llama.cpp's keys, and what they leave to the architecture.

use super::gguf::GgufFile;
use super::gguf_metadata::{Metadata, Value};
use super::gguf_names::{ROPE_FACTORS, ROPE_LONG, ROPE_SHORT};
use super::huggingface_rope::attention_factor;
use crate::model::architecture::NormKind;
use crate::model::config::{Architecture, Details, ModelConfig, RopeScaling};

/// Rotary base of Gemma 3's windowed layers where a file has no key for it.
const LOCAL_THETA: f32 = 10_000.0;

/// The shape, from metadata and the embedding's own shape.
pub(super) fn read(file: &GgufFile) -> Result<ModelConfig, String> {
    let metadata = &file.metadata;
    let arch = metadata.text("general.architecture")?.ok_or("metadata key \"general.architecture\" is missing")?;
    let key = |name: &str| format!("{arch}.{name}");
    let architecture = match Architecture::of_gguf(arch) {
        Some(Architecture::Llama) if metadata.contains("llama.attention.sliding_window") => Architecture::Mistral,
        Some(architecture) => architecture,
        None => {
            let mut names: Vec<&str> = Architecture::ALL.iter().map(|known| known.anatomy().gguf).collect();
            names.dedup();
            return Err(format!("its architecture is {arch:?}; supported are {}", names.join(", ")));
        }
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
    let rotary = metadata.size(&key("rope.dimension_count"))?.filter(|width| *width != head_dim);
    let value = metadata.size(&key("attention.value_length"))?.filter(|width| *width != head_dim);
    let partial = matches!(architecture, Architecture::Phi2 | Architecture::Phi3);
    for (name, width) in [("rope.dimension_count", rotary.filter(|_| !partial)), ("attention.value_length", value)] {
        if let Some(width) = width {
            return Err(format!("{} is {width}; only the head width, {head_dim}, is supported", key(name)));
        }
    }
    let embedding = file.tensors.get("token_embd.weight").ok_or("tensor token_embd.weight is missing")?;
    let epsilon = key(match architecture.anatomy().norms.kind {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    });
    let window = metadata.size(&key("attention.sliding_window"))?;
    let layers = metadata.required_size(&key("block_count"))?;
    let context_length = metadata.required_size(&key("context_length"))?;
    let shape = Shape { arch, architecture, hidden_size, heads, head_dim, layers };
    Ok(ModelConfig {
        architecture,
        vocab_size: embedding.dims.get(1).copied().unwrap_or(0),
        hidden_size,
        intermediate_size: metadata.required_size(&key("feed_forward_length"))?,
        layers,
        heads,
        kv_heads,
        head_dim,
        rms_eps: float(metadata, &epsilon)?.ok_or_else(|| format!("metadata key {epsilon:?} is missing"))?,
        rope_theta: float(metadata, &key("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_scaling: rope_scaling(file, arch, rotary.unwrap_or(head_dim), context_length)?,
        context_length,
        sliding_window: window.filter(|window| *window > 0),
        tied_embeddings: !file.tensors.contains_key("output.weight"),
        details: Details { rotary_dim: rotary, ..details(metadata, &shape)? },
    })
}

/// What Gemma's details follow from.
struct Shape<'a> {
    arch: &'a str,
    architecture: Architecture,
    hidden_size: usize,
    heads: usize,
    head_dim: usize,
    layers: usize,
}

/// What Gemma has beside the common shape.
fn details(metadata: &Metadata, shape: &Shape<'_>) -> Result<Details, String> {
    let key = |name: &str| format!("{}.{name}", shape.arch);
    let third = shape.architecture == Architecture::Gemma3;
    if !third && shape.architecture != Architecture::Gemma2 {
        return Ok(Details::default());
    }
    // Files have no key for it. Those of 27 billion parameters, known by their depth, scale by the width of the embedding.
    let largest = shape.layers == if third { 62 } else { 46 };
    let width = if largest && shape.heads > 0 { shape.hidden_size / shape.heads } else { shape.head_dim };
    let scale = float(metadata, &key("attention.scale"))?.unwrap_or(1.0 / (width as f32).sqrt());
    let (attention, logits) = if third { (None, None) } else { (Some(50.0), Some(30.0)) };
    // Keys say 0 for none.
    let cap = |name: &str, default: Option<f32>| -> Result<Option<f32>, String> {
        Ok(float(metadata, &key(name))?.or(default).filter(|cap| *cap != 0.0))
    };
    Ok(Details {
        rotary_dim: None,
        global_every: global_every(metadata, &key("attention.sliding_window_pattern"), shape.layers)?.unwrap_or(Some(if third {
            6
        } else {
            2
        })),
        local_theta: if third { Some(float(metadata, &key("rope.freq_base_swa"))?.unwrap_or(LOCAL_THETA)) } else { None },
        attention_cap: cap("attn_logit_softcapping", attention)?,
        logit_cap: cap("final_logit_softcapping", logits)?,
        embedding_scale: Some((shape.hidden_size as f32).sqrt()),
        query_scale: Some(scale),
    })
}

/// Every how many-th layer sees everything (0 is none): a number, or a list that says of each layer whether it is windowed.
fn global_every(metadata: &Metadata, key: &str, layers: usize) -> Result<Option<Option<usize>>, String> {
    let Ok(Some(list)) = metadata.array(key) else {
        return Ok(metadata.size(key)?.map(|every| (every > 0).then_some(every)));
    };
    if list.len() != layers {
        return Err(format!("{key} has {} values for {layers} layers; one for each is right", list.len()));
    }
    let windowed = list.scalars().into_iter().flatten().map(|value| match value {
        Value::Bool(windowed) => Some(windowed),
        _ => None,
    });
    let windowed: Vec<bool> = windowed.collect::<Option<_>>().unwrap_or_default();
    if windowed.len() != layers {
        return Err(format!("{key} is a list of something else than booleans, which alone are right"));
    }
    let every = windowed.iter().position(|windowed| !windowed).map(|first| first + 1);
    let regular = |(layer, windowed): (usize, &bool)| *windowed != every.is_some_and(|every| (layer + 1).is_multiple_of(every));
    if !windowed.iter().enumerate().all(regular) {
        return Err(format!("{key} is not every so-many-th layer, which alone is supported"));
    }
    Ok(Some(every))
}

fn float(metadata: &Metadata, key: &str) -> Result<Option<f32>, String> {
    Ok(metadata.float(key)?.map(|value| value as f32))
}

fn rope_scaling(file: &GgufFile, arch: &str, rotary: usize, context: usize) -> Result<RopeScaling, String> {
    let metadata = &file.metadata;
    let kind = metadata.text(&format!("{arch}.rope.scaling.type"))?;
    let factor = float(metadata, &format!("{arch}.rope.scaling.factor"))?;
    // `scale_linear` is the spelling of files from before `rope.scaling.type`.
    let factor = factor.or(float(metadata, &format!("{arch}.rope.scale_linear"))?).unwrap_or(1.0);
    let long = file.tensors.contains_key(ROPE_LONG) || file.tensors.contains_key(ROPE_SHORT);
    let linear = match kind {
        None | Some("none") => false,
        Some("linear") => true,
        // Phi-3's files say so beside the two tensors of divisors, or say nothing.
        Some("longrope" | "yarn") if long => false,
        Some(other) => return Err(format!("{arch}.rope.scaling.type is {other:?}; none and linear are supported")),
    } || (kind.is_none() && factor != 1.0 && !long);
    if long {
        let original = metadata.size(&format!("{arch}.rope.scaling.original_context_length"))?.unwrap_or(context);
        let times = if original == 0 { 1.0 } else { context as f32 / original as f32 };
        let attention = float(metadata, &format!("{arch}.rope.scaling.attn_factor"))?;
        return Ok(RopeScaling::LongRope {
            short: divisors(file, ROPE_SHORT, rotary)?.ok_or_else(|| format!("tensor {ROPE_SHORT} is missing"))?,
            long: divisors(file, ROPE_LONG, rotary)?.ok_or_else(|| format!("tensor {ROPE_LONG} is missing"))?,
            original_context: original,
            attention_factor: attention.unwrap_or_else(|| attention_factor(times, original)),
        });
    }
    match divisors(file, ROPE_FACTORS, rotary)? {
        None if linear => Ok(RopeScaling::Linear { factor }),
        None => Ok(RopeScaling::None),
        Some(_) if linear => Err(format!("{ROPE_FACTORS} together with linear rotary scaling is not supported")),
        Some(divisors) => Ok(RopeScaling::Factors(divisors)),
    }
}

/// A tensor of rotary divisors.
fn divisors(file: &GgufFile, name: &str, rotary: usize) -> Result<Option<Vec<f32>>, String> {
    let Some(info) = file.tensors.get(name) else { return Ok(None) };
    let raw = file.raw(name, info).map_err(|error| error.to_string())?;
    if raw.rows != 1 || raw.cols != rotary / 2 {
        let shape = format!("[{}, {}]", raw.rows, raw.cols);
        return Err(format!("tensor {name} has shape {shape}; {} divisors are expected", rotary / 2));
    }
    raw.dequantize().map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use std::collections::BTreeMap;

    use super::*;
    use crate::model::loader::gguf_metadata::{ArrayValue, ValueType};

    fn every(value: Value, layers: usize) -> Result<Option<Option<usize>>, String> {
        global_every(&Metadata::new(BTreeMap::from([("pattern".to_owned(), value)])), "pattern", layers)
    }

    fn list(kind: ValueType, count: usize, bytes: &[u8]) -> Value {
        Value::Array(ArrayValue::new(kind, count, bytes.to_vec()))
    }

    #[test]
    fn a_pattern_of_windows_is_a_number_or_says_it_of_each_layer() {
        assert_eq!(every(Value::Unsigned(6), 4), Ok(Some(Some(6))));
        assert_eq!(every(Value::Unsigned(0), 4), Ok(Some(None)));
        assert_eq!(every(list(ValueType::Bool, 5, &[1, 0, 1, 0, 1]), 5), Ok(Some(Some(2))));
        assert_eq!(every(list(ValueType::Bool, 2, &[1, 1]), 2), Ok(Some(None)));
        for (value, layers, word) in [
            (list(ValueType::Bool, 5, &[1, 0, 1, 0, 1]), 6, "5 values for 6 layers"),
            (list(ValueType::Bool, 0, &[]), 2, "0 values"),
            (list(ValueType::U8, 4, &[1, 0, 1, 0]), 4, "booleans"),
            (list(ValueType::Bool, 2, &[1, 7]), 2, "booleans"),
            (list(ValueType::String, 1, &[0; 8]), 1, "booleans"),
            (list(ValueType::Bool, 3, &[1, 0, 0]), 3, "every so-many-th"),
            (Value::Bool(true), 2, "number"),
        ] {
            let error = every(value, layers).unwrap_err();
            assert!(error.contains("pattern") && error.contains(word), "{error}");
        }
    }
}
