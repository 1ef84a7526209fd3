//! `config.json` and `generation_config.json` of a Hugging Face directory: what they say, and what of it is not supported.

use serde::Deserialize;
use serde_json::Value;

use crate::model::config::{Architecture, ModelConfig, RopeScaling};

/// The fields of `config.json` that matter; others (initialisation, dropout ...) do not change an answer.
#[derive(Debug, Deserialize)]
struct Raw {
    architectures: Option<Vec<String>>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: Option<f32>,
    max_position_embeddings: usize,
    rope_theta: Option<f32>,
    rope_scaling: Option<Rope>,
    /// The spelling of transformers 5, `rope_theta` inside.
    rope_parameters: Option<Rope>,
    partial_rotary_factor: Option<f32>,
    /// Absent is not `null`: Mistral's own default is 4096.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<usize>>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    hidden_act: Option<String>,
    quantization_config: Option<Value>,
    eos_token_id: Option<TokenIds>,
}

/// Rotary scaling, in the old spelling (`type`) or the new (`rope_type`).
#[derive(Debug, Deserialize)]
struct Rope {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f32>,
}

/// One id or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// Tells a `null` from an absent field.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<usize>>, D::Error> {
    Option::<usize>::deserialize(deserializer).map(Some)
}

/// Window of a Mistral configuration that does not name one (the default of `MistralConfig`).
const MISTRAL_WINDOW: usize = 4096;

/// What `config.json` says.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) model: ModelConfig,
    pub(super) eos: Vec<u32>,
}

/// Reads `config.json`.
pub(super) fn read(bytes: &[u8]) -> Result<Config, String> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let architecture = match raw.architectures.as_deref() {
        Some([name]) => match name.as_str() {
            "LlamaForCausalLM" => Architecture::Llama,
            "MistralForCausalLM" => Architecture::Mistral,
            "Qwen2ForCausalLM" => Architecture::Qwen2,
            other => return Err(unsupported("architectures", other)),
        },
        other => return Err(unsupported("architectures", &format!("{:?}", other.unwrap_or_default()))),
    };
    refuse_unsupported(&raw)?;
    let heads = raw.num_attention_heads;
    let head_dim = match raw.head_dim {
        Some(width) => width,
        None if heads > 0 && raw.hidden_size.is_multiple_of(heads) => raw.hidden_size / heads,
        None => return Err(format!("num_attention_heads {heads} does not divide hidden_size {}", raw.hidden_size)),
    };
    let kv_heads = match (raw.num_key_value_heads, architecture) {
        (Some(count), _) => count,
        (None, Architecture::Llama) => heads,
        (None, _) => return Err("num_key_value_heads is missing".to_owned()),
    };
    let sliding_window = match architecture {
        Architecture::Mistral => raw.sliding_window.unwrap_or(Some(MISTRAL_WINDOW)),
        Architecture::Llama | Architecture::Qwen2 => None,
    };
    let rope = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let model = ModelConfig {
        architecture,
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        layers: raw.num_hidden_layers,
        heads,
        kv_heads,
        head_dim,
        rms_eps: raw.rms_norm_eps.unwrap_or(1e-6),
        rope_theta: rope.and_then(|rope| rope.rope_theta).or(raw.rope_theta).unwrap_or(10_000.0),
        rope_scaling: rope.map_or(Ok(RopeScaling::None), |rope| rope_scaling(rope, raw.max_position_embeddings))?,
        context_length: raw.max_position_embeddings,
        sliding_window,
        tied_embeddings: raw.tie_word_embeddings.unwrap_or(false),
    };
    Ok(Config { model, eos: raw.eos_token_id.map(TokenIds::into_vec).unwrap_or_default() })
}

/// Values that would change the mathematics in a way that the decoder does not have.
fn refuse_unsupported(raw: &Raw) -> Result<(), String> {
    if let Some(act) = raw.hidden_act.as_deref().filter(|act| *act != "silu") {
        return Err(format!("hidden_act is {act:?}; silu is supported"));
    }
    for (name, value) in
        [("attention_bias", raw.attention_bias), ("mlp_bias", raw.mlp_bias), ("use_sliding_window", raw.use_sliding_window)]
    {
        if value == Some(true) {
            return Err(unsupported(name, "true"));
        }
    }
    if let Some(kind) = raw.layer_types.iter().flatten().find(|kind| *kind != "full_attention") {
        return Err(unsupported("layer_types", kind));
    }
    let rope = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let partial = raw.partial_rotary_factor.or(rope.and_then(|rope| rope.partial_rotary_factor));
    if let Some(factor) = partial.filter(|factor| *factor != 1.0) {
        return Err(unsupported("partial_rotary_factor", &factor.to_string()));
    }
    if let Some(config) = &raw.quantization_config {
        let method = config.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        return Err(format!(
            "quantization_config ({method}) is not supported; give the original weights and choose --quant, or a GGUF file"
        ));
    }
    Ok(())
}

fn rope_scaling(rope: &Rope, context: usize) -> Result<RopeScaling, String> {
    let kind = rope.rope_type.as_deref().or(rope.old_type.as_deref()).unwrap_or("default");
    let needed = |name: &str, value: Option<f32>| value.ok_or_else(|| format!("rope scaling {kind:?} needs {name}"));
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: needed("factor", rope.factor)? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: needed("factor", rope.factor)?,
            low_freq_factor: needed("low_freq_factor", rope.low_freq_factor)?,
            high_freq_factor: needed("high_freq_factor", rope.high_freq_factor)?,
            original_context: rope.original_max_position_embeddings.unwrap_or(context),
        }),
        other => Err(format!("rope scaling {other:?} is not supported; default, linear and llama3 are")),
    }
}

/// `eos_token_id` of a `generation_config.json`.
pub(super) fn read_generation(bytes: &[u8]) -> Result<Vec<u32>, String> {
    #[derive(Deserialize)]
    struct Generation {
        eos_token_id: Option<TokenIds>,
    }
    let generation: Generation = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(generation.eos_token_id.map(TokenIds::into_vec).unwrap_or_default())
}

fn unsupported(field: &str, value: &str) -> String {
    match field {
        "architectures" => {
            format!("architectures is {value}; LlamaForCausalLM, MistralForCausalLM and Qwen2ForCausalLM are supported")
        }
        _ => format!("{field} = {value} is not supported"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn base(extra: Value) -> Result<Config, String> {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128
        });
        let fields = config.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        read(&serde_json::to_vec(&config).unwrap())
    }

    #[test]
    fn both_spellings_of_rotary_scaling() {
        let llama3 = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        let with = |name: &str| {
            let mut rope = llama3.clone();
            rope[name] = "llama3".into();
            rope
        };
        let old = base(json!({"rope_scaling": with("type"), "rope_theta": 5000.0})).unwrap().model;
        let mut parameters = with("rope_type");
        parameters["rope_theta"] = 5000.0.into();
        let new = base(json!({"rope_parameters": parameters})).unwrap().model;
        assert_eq!(old, new);
        assert!(matches!(new.rope_scaling, RopeScaling::Llama3 { original_context: 64, .. }));
        assert_eq!(new.rope_theta, 5000.0);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (extra, word) in [
            (json!({"rope_scaling": {"type": "yarn", "factor": 2.0}}), "yarn"),
            (json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}), "dynamic"),
            (json!({"rope_scaling": {"rope_type": "longrope"}}), "longrope"),
            (json!({"hidden_act": "gelu"}), "gelu"),
            (json!({"mlp_bias": true}), "mlp_bias"),
            (json!({"attention_bias": true}), "attention_bias"),
            (json!({"use_sliding_window": true}), "use_sliding_window"),
            (json!({"architectures": ["GPT2LMHeadModel"]}), "GPT2LMHeadModel"),
            (json!({"quantization_config": {"quant_method": "awq"}}), "awq"),
            (json!({"layer_types": ["full_attention", "sliding_attention"]}), "sliding_attention"),
            (json!({"num_attention_heads": 5}), "does not divide"),
            (json!({"vocab_size": "many"}), "vocab_size"),
            (json!({"hidden_size": -1}), "-1"),
        ] {
            let error = base(extra).unwrap_err();
            assert!(error.contains(word) || word == "vocab_size", "{error}");
        }
    }

    #[test]
    fn a_window_is_mistrals() {
        let mistral = |window: Value| {
            base(json!({"architectures": ["MistralForCausalLM"], "num_key_value_heads": 2,
            "sliding_window": window}))
        };
        assert_eq!(mistral(24.into()).unwrap().model.sliding_window, Some(24));
        assert_eq!(mistral(Value::Null).unwrap().model.sliding_window, None);
        let absent = base(json!({"architectures": ["MistralForCausalLM"], "num_key_value_heads": 2}));
        assert_eq!(absent.unwrap().model.sliding_window, Some(4096));
        assert_eq!(base(json!({"sliding_window": 24})).unwrap().model.sliding_window, None);
    }
}
