//! `config.json` and `generation_config.json` of a Hugging Face directory: what they say, and what of it is not supported.

use serde::Deserialize;
use serde_json::Value;

use super::huggingface_rope::{Ropes, rope_scaling};
use crate::model::architecture::Activation;
use crate::model::config::{Architecture, Details, ModelConfig, RopeScaling};

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
    layer_norm_eps: Option<f32>,
    max_position_embeddings: usize,
    original_max_position_embeddings: Option<usize>,
    rope_theta: Option<f32>,
    rope_local_base_freq: Option<f32>,
    rope_scaling: Option<Value>,
    /// The spelling of transformers 5, `rope_theta` inside; by kind of layer where these differ.
    rope_parameters: Option<Value>,
    partial_rotary_factor: Option<f32>,
    /// Absent is not `null`: Mistral's own default is 4096.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<usize>>,
    use_sliding_window: Option<bool>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    qk_layernorm: Option<bool>,
    use_bidirectional_attention: Option<bool>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    query_pre_attn_scalar: Option<f32>,
    /// Absent is Gemma 2's own default.
    #[serde(default, deserialize_with = "present")]
    attn_logit_softcapping: Option<Option<f32>>,
    #[serde(default, deserialize_with = "present")]
    final_logit_softcapping: Option<Option<f32>>,
    quantization_config: Option<Value>,
    eos_token_id: Option<TokenIds>,
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
fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Window of a configuration of Mistral or Gemma that does not name one (the default of its class).
const DEFAULT_WINDOW: usize = 4096;

/// What `config.json` says.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) model: ModelConfig,
    pub(super) eos: Vec<u32>,
}

/// What an architecture's class takes for fields that are not there.
struct Defaults {
    head_dim: Option<usize>,
    tied: bool,
    rotary: f32,
    theta: f32,
}

impl Defaults {
    const fn of(architecture: Architecture) -> Self {
        let plain = Self { head_dim: None, tied: false, rotary: 1.0, theta: 10_000.0 };
        match architecture {
            Architecture::Llama | Architecture::Mistral | Architecture::Qwen2 | Architecture::Phi3 | Architecture::Foreign => {
                plain
            }
            Architecture::Qwen3 => Self { head_dim: Some(128), ..plain },
            Architecture::Phi2 => Self { rotary: 0.5, ..plain },
            Architecture::Gemma2 => Self { head_dim: Some(256), tied: true, ..plain },
            Architecture::Gemma3 => Self { head_dim: Some(256), tied: true, theta: 1_000_000.0, ..plain },
        }
    }
}

/// Reads `config.json`.
pub(super) fn read(bytes: &[u8]) -> Result<Config, String> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let architecture = match raw.architectures.as_deref() {
        Some([name]) => Architecture::of_class(name).ok_or_else(|| unsupported("architectures", name))?,
        other => return Err(unsupported("architectures", &format!("{:?}", other.unwrap_or_default()))),
    };
    refuse_unsupported(&raw, architecture)?;
    let defaults = Defaults::of(architecture);
    let heads = raw.num_attention_heads;
    let head_dim = match raw.head_dim.or(defaults.head_dim) {
        Some(width) => width,
        None if heads > 0 && raw.hidden_size.is_multiple_of(heads) => raw.hidden_size / heads,
        None => return Err(format!("num_attention_heads {heads} does not divide hidden_size {}", raw.hidden_size)),
    };
    let kv_heads = match (raw.num_key_value_heads, architecture) {
        (Some(count), _) => count,
        (None, Architecture::Llama | Architecture::Phi2 | Architecture::Phi3) => heads,
        (None, _) => return Err("num_key_value_heads is missing".to_owned()),
    };
    let sliding_window = match architecture {
        Architecture::Mistral | Architecture::Gemma2 | Architecture::Gemma3 => raw.sliding_window.unwrap_or(Some(DEFAULT_WINDOW)),
        Architecture::Phi3 => raw.sliding_window.flatten(),
        Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Phi2 | Architecture::Foreign => None,
    };
    let ropes = Ropes::read(raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref()))?;
    let partial = raw.partial_rotary_factor.or_else(|| ropes.all.as_ref()?.partial_rotary_factor).unwrap_or(defaults.rotary);
    let rotates = matches!(architecture, Architecture::Phi2 | Architecture::Phi3);
    if partial != 1.0 && !rotates {
        return Err(unsupported("partial_rotary_factor", &partial.to_string()));
    }
    let rotary_dim = (partial != 1.0).then_some((head_dim as f32 * partial) as usize);
    let original = raw.original_max_position_embeddings;
    let scaling = rope_scaling(ropes.all.as_ref(), architecture, raw.max_position_embeddings, original)?;
    let given_theta = ropes.all.as_ref().and_then(|rope| rope.rope_theta).or(raw.rope_theta);
    let model = ModelConfig {
        architecture,
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        layers: raw.num_hidden_layers,
        heads,
        kv_heads,
        head_dim,
        rms_eps: raw.rms_norm_eps.or(raw.layer_norm_eps).unwrap_or(if architecture == Architecture::Phi2 { 1e-5 } else { 1e-6 }),
        rope_theta: given_theta.unwrap_or(defaults.theta),
        rope_scaling: scaling,
        context_length: raw.max_position_embeddings,
        sliding_window,
        tied_embeddings: raw.tie_word_embeddings.unwrap_or(defaults.tied),
        details: Details { rotary_dim, ..details(&raw, architecture, &ropes)? },
    };
    Ok(Config { model, eos: raw.eos_token_id.map(TokenIds::into_vec).unwrap_or_default() })
}

/// What Gemma has beside the common shape.
fn details(raw: &Raw, architecture: Architecture, ropes: &Ropes) -> Result<Details, String> {
    let third = architecture == Architecture::Gemma3;
    if !third && architecture != Architecture::Gemma2 {
        return Ok(Details::default());
    }
    let (attention, logits) = if third { (None, None) } else { (Some(50.0), Some(30.0)) };
    let local = ropes.windowed.as_ref().and_then(|rope| rope.rope_theta).or(raw.rope_local_base_freq).unwrap_or(10_000.0);
    Ok(Details {
        rotary_dim: None,
        global_every: match &raw.layer_types {
            Some(types) => global_every(types)?,
            None => Some(raw.sliding_window_pattern.unwrap_or(if third { 6 } else { 2 })),
        },
        local_theta: third.then_some(local),
        attention_cap: raw.attn_logit_softcapping.unwrap_or(attention),
        logit_cap: raw.final_logit_softcapping.unwrap_or(logits),
        embedding_scale: Some((raw.hidden_size as f32).sqrt()),
        query_scale: Some(1.0 / raw.query_pre_attn_scalar.unwrap_or(256.0).sqrt()),
    })
}

/// Of a list of layers' kinds: every how many-th sees everything.
fn global_every(types: &[String]) -> Result<Option<usize>, String> {
    let every = types.iter().position(|kind| kind == "full_attention").map(|first| first + 1);
    let expected = |layer: usize| match every {
        Some(every) if (layer + 1).is_multiple_of(every) => "full_attention",
        _ => "sliding_attention",
    };
    match types.iter().enumerate().find(|(layer, kind)| *kind != expected(*layer)) {
        None => Ok(every),
        Some((layer, kind)) => Err(format!(
            "layer_types has {kind} at layer {layer}; sliding_attention with every so-many-th layer full_attention is supported"
        )),
    }
}

/// Values that would change the mathematics in a way that the decoder does not have.
fn refuse_unsupported(raw: &Raw, architecture: Architecture) -> Result<(), String> {
    let activation = architecture.anatomy().activation;
    let known: &[&str] = match activation {
        Activation::Silu => &["silu"],
        Activation::GatedGelu | Activation::Gelu => &["gelu_pytorch_tanh", "gelu_new", "gelu_fast"],
    };
    let given = if activation == Activation::GatedGelu { raw.hidden_activation.as_ref() } else { raw.hidden_act.as_ref() };
    if let Some(act) = given.filter(|act| !known.contains(&act.as_str())) {
        return Err(format!("hidden_act is {act:?}; {} is supported", known[0]));
    }
    for (name, value) in [
        ("attention_bias", raw.attention_bias),
        ("mlp_bias", raw.mlp_bias),
        ("use_sliding_window", raw.use_sliding_window),
        ("qk_layernorm", raw.qk_layernorm),
        ("use_bidirectional_attention", raw.use_bidirectional_attention),
    ] {
        if value == Some(true) {
            return Err(unsupported(name, "true"));
        }
    }
    if let Some(types) = raw.layer_types.as_ref().filter(|types| types.len() != raw.num_hidden_layers) {
        let (kinds, layers) = (types.len(), raw.num_hidden_layers);
        return Err(format!("layer_types has {kinds} entries, num_hidden_layers is {layers}; one entry for each layer is right"));
    }
    let windowed = matches!(architecture, Architecture::Gemma2 | Architecture::Gemma3);
    if let Some(kind) = raw.layer_types.iter().flatten().find(|kind| *kind != "full_attention" && !windowed) {
        return Err(unsupported("layer_types", kind));
    }
    if let Some(config) = &raw.quantization_config {
        let method = config.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        return Err(format!(
            "quantization_config ({method}) is not supported; give the original weights and choose --quant, or a GGUF file"
        ));
    }
    Ok(())
}

/// The shape of a model of an architecture that is not computed here, as far as requests are checked against it. Those that see or hear
/// say it of their text part.
pub(super) fn read_foreign(bytes: &[u8]) -> Result<Config, String> {
    let document: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let part = document.get("text_config").or_else(|| document.get("llm_config")).unwrap_or(&document);
    let number = |names: &[&str]| names.iter().find_map(|name| part.get(name)?.as_u64()).and_then(|n| usize::try_from(n).ok());
    let needed = |names: &[&str]| number(names).filter(|n| *n > 0).ok_or_else(|| format!("it has no {}", names.join(" or ")));
    let (hidden_size, heads) = (needed(&["hidden_size", "n_embd"])?, number(&["num_attention_heads", "n_head"]).unwrap_or(1));
    let eos = part.get("eos_token_id").or_else(|| document.get("eos_token_id")).cloned().unwrap_or_default();
    let eos: Option<TokenIds> = serde_json::from_value(eos).map_err(|error| format!("eos_token_id: {error}"))?;
    let model = ModelConfig {
        architecture: Architecture::Foreign,
        vocab_size: needed(&["vocab_size"])?,
        hidden_size,
        intermediate_size: number(&["intermediate_size"]).unwrap_or(0),
        layers: needed(&["num_hidden_layers", "n_layer"])?,
        heads,
        kv_heads: number(&["num_key_value_heads"]).unwrap_or(heads),
        head_dim: number(&["head_dim"]).unwrap_or(hidden_size / heads.max(1)),
        rms_eps: 0.0,
        rope_theta: 0.0,
        rope_scaling: RopeScaling::None,
        context_length: needed(&["max_position_embeddings", "n_positions"])?,
        sliding_window: number(&["sliding_window"]).filter(|_| part.get("use_sliding_window") != Some(&Value::Bool(false))),
        tied_embeddings: false,
        details: Details::default(),
    };
    Ok(Config { model, eos: eos.map(TokenIds::into_vec).unwrap_or_default() })
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
            let classes: Vec<&str> = Architecture::ALL.iter().map(|architecture| architecture.anatomy().class).collect();
            format!("architectures is {value}; supported are {}", classes.join(", "))
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
            (json!({"layer_types": ["full_attention", "full_attention", "full_attention"]}), "layer_types has 3 entries"),
            (json!({"num_attention_heads": 5}), "does not divide"),
            (json!({"vocab_size": "many"}), "vocab_size"),
            (json!({"hidden_size": -1}), "-1"),
        ] {
            let error = base(extra).unwrap_err();
            assert!(error.contains(word) || word == "vocab_size", "{error}");
        }
    }

    #[test]
    fn classes_have_defaults_of_their_own() {
        let gemma = |class: &str, extra: Value| {
            let mut fields = json!({"architectures": [class], "num_key_value_heads": 2});
            fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            base(fields).map(|config| config.model)
        };
        let second = gemma("Gemma2ForCausalLM", json!({})).unwrap();
        assert_eq!((second.head_dim, second.tied_embeddings, second.sliding_window), (256, true, Some(4096)));
        assert_eq!((second.details.attention_cap, second.details.logit_cap), (Some(50.0), Some(30.0)));
        assert_eq!([0, 1, 2, 3].map(|layer| second.window(layer)), [Some(4096), None, Some(4096), None]);
        let uncapped = gemma("Gemma2ForCausalLM", json!({"attn_logit_softcapping": null})).unwrap();
        assert_eq!(uncapped.details.attention_cap, None);
        let third =
            gemma("Gemma3ForCausalLM", json!({"sliding_window_pattern": 3, "rope_scaling": {"type": "linear", "factor": 8.0}}));
        let third = third.unwrap();
        assert_eq!([0, 1, 2, 3].map(|layer| third.window(layer).is_some()), [true, true, false, true]);
        assert_eq!((third.rope_theta, third.details.local_theta), (1e6, Some(1e4)));
        assert_eq!(third.rope_scaling, RopeScaling::Linear { factor: 8.0 });
        let mixed = json!({"layer_types": ["full_attention", "sliding_attention"]});
        assert!(gemma("Gemma3ForCausalLM", mixed).unwrap_err().contains("layer 1"));
        let short = gemma("Gemma2ForCausalLM", json!({"layer_types": ["sliding_attention"]})).unwrap_err();
        assert!(short.contains("layer_types has 1 entries, num_hidden_layers is 2"), "{short}");
        let phi = base(json!({"architectures": ["PhiForCausalLM"], "hidden_act": "gelu_new", "partial_rotary_factor": 0.25}));
        assert_eq!(phi.unwrap().model.rotary_dim(), 4);
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
