//! Rotary embedding in `config.json`, in the spellings of all times: `rope_scaling` and `rope_parameters`, for all layers or by
//! their kind.

use serde::Deserialize;
use serde_json::Value;

use crate::model::config::{Architecture, RopeScaling};

/// Rotary embedding of some layers, in the old spelling (`type`) or the new (`rope_type`).
#[derive(Debug, Deserialize)]
pub(super) struct Rope {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    pub(super) rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    pub(super) partial_rotary_factor: Option<f32>,
    attention_factor: Option<f32>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
}

impl Rope {
    fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.old_type.as_deref()).unwrap_or("default")
    }
}

/// Those of a configuration.
#[derive(Debug, Default)]
pub(super) struct Ropes {
    /// Of all layers that have none of their own.
    pub(super) all: Option<Rope>,
    /// Of windowed layers.
    pub(super) windowed: Option<Rope>,
}

impl Ropes {
    /// Reads `rope_parameters` or `rope_scaling`.
    pub(super) fn read(value: Option<&Value>) -> Result<Self, String> {
        let Some(value) = value else { return Ok(Self::default()) };
        let rope = |value: &Value| Rope::deserialize(value).map_err(|error| format!("rotary scaling: {error}"));
        let Some(full) = value.get("full_attention") else {
            return Ok(Self { all: Some(rope(value)?), windowed: None });
        };
        let windowed = value.get("sliding_attention").map(rope).transpose()?;
        if let Some(other) = windowed.as_ref().map(Rope::kind).filter(|kind| *kind != "default") {
            return Err(format!("rope scaling {other:?} of sliding_attention layers is not supported"));
        }
        Ok(Self { all: Some(rope(full)?), windowed })
    }
}

/// The scaling of all layers; `original` stands beside the scaling in Phi-3's configurations.
pub(super) fn rope_scaling(
    rope: Option<&Rope>,
    architecture: Architecture,
    context: usize,
    original: Option<usize>,
) -> Result<RopeScaling, String> {
    let Some(rope) = rope else { return Ok(RopeScaling::None) };
    let kind = rope.kind();
    let missing = |name: &str| format!("rope scaling {kind:?} needs {name}");
    let needed = |name: &str, value: Option<f32>| value.ok_or_else(|| missing(name));
    match (kind, architecture) {
        ("default", _) => Ok(RopeScaling::None),
        ("linear", _) => Ok(RopeScaling::Linear { factor: needed("factor", rope.factor)? }),
        ("llama3", _) => Ok(RopeScaling::Llama3 {
            factor: needed("factor", rope.factor)?,
            low_freq_factor: needed("low_freq_factor", rope.low_freq_factor)?,
            high_freq_factor: needed("high_freq_factor", rope.high_freq_factor)?,
            original_context: rope.original_max_position_embeddings.unwrap_or(context),
        }),
        // The names of one method, oldest last.
        ("longrope" | "su" | "yarn", Architecture::Phi3) => {
            let original_context = rope.original_max_position_embeddings.or(original).unwrap_or(context);
            let factor = rope.factor.unwrap_or(context as f32 / original_context as f32);
            let list = |name: &str, values: &Option<Vec<f32>>| values.clone().ok_or_else(|| missing(name));
            Ok(RopeScaling::LongRope {
                short: list("short_factor", &rope.short_factor)?,
                long: list("long_factor", &rope.long_factor)?,
                original_context,
                attention_factor: rope.attention_factor.unwrap_or_else(|| attention_factor(factor, original_context)),
            })
        }
        (other, _) => Err(format!("rope scaling {other:?} is not supported; default, linear and llama3 are")),
    }
}

/// How much longer contexts sharpen attention (Ding et al. 2024): `sqrt(1 + ln factor / ln original)`.
pub(super) fn attention_factor(factor: f32, original_context: usize) -> f32 {
    if factor <= 1.0 {
        return 1.0;
    }
    (1.0 + f64::from(factor).ln() / (original_context as f64).ln()).sqrt() as f32
}
