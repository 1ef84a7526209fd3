//! The shape of a base model, one description for every architecture. Knows no file format.

pub use super::architecture::Architecture;
use super::architecture::{Anatomy, Module};

/// Scaling of the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Plain rotary embedding.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1's frequency-dependent scaling.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f32,
        /// Low-frequency factor.
        low_freq_factor: f32,
        /// High-frequency factor.
        high_freq_factor: f32,
        /// Context length before scaling, tokens.
        original_context: usize,
    },
    /// Divisors of each frequency as given by the file (GGUF `rope_freqs.weight`), half as many as there are rotated values.
    Factors(Vec<f32>),
    /// Phi-3's divisors of each frequency (Ding et al. 2024, "LongRoPE"): one list for models that serve no more than the
    /// original context, another for those that serve more. Which one applies is a property of the served model, not of a
    /// request: keys of both kinds cannot meet, and a row must not depend on how long its sequence becomes.
    LongRope {
        /// Divisors up to the original context.
        short: Vec<f32>,
        /// Divisors beyond it.
        long: Vec<f32>,
        /// Context length before scaling, tokens.
        original_context: usize,
        /// What rotated queries and keys are multiplied with.
        attention_factor: f32,
    },
}

/// What some architectures have beside the common shape; the default is to have none of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// Leading values of a head that are rotated; `None` is all of them.
    pub rotary_dim: Option<usize>,
    /// Every so-many-th layer sees everything, whatever the window; `None` is no layer.
    pub global_every: Option<usize>,
    /// Rotary base of windowed layers, which then have no rotary scaling; `None` is that of all others.
    pub local_theta: Option<f32>,
    /// Attention scores `s` become `cap * tanh(s / cap)`.
    pub attention_cap: Option<f32>,
    /// The same for logits.
    pub logit_cap: Option<f32>,
    /// What embeddings are multiplied with.
    pub embedding_scale: Option<f32>,
    /// What attention scores are multiplied with; `None` is `1 / sqrt(head_dim)`.
    pub query_scale: Option<f32>,
}

/// Shape and constants of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Architecture.
    pub architecture: Architecture,
    /// Vocabulary size (rows of the embedding).
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Epsilon of normalisation.
    pub rms_eps: f32,
    /// Rotary base.
    pub rope_theta: f32,
    /// Rotary scaling.
    pub rope_scaling: RopeScaling,
    /// Positions that the model was made for.
    pub context_length: usize,
    /// A query sees this many positions, itself included; `None` is all.
    pub sliding_window: Option<usize>,
    /// Output projection shares the embedding.
    pub tied_embeddings: bool,
    /// What not all architectures have.
    pub details: Details,
}

impl ModelConfig {
    /// The architecture's parts.
    pub const fn anatomy(&self) -> &'static Anatomy {
        self.architecture.anatomy()
    }

    /// Leading values of a head that are rotated.
    pub fn rotary_dim(&self) -> usize {
        self.details.rotary_dim.unwrap_or(self.head_dim)
    }

    /// What attention scores are multiplied with.
    pub fn query_scale(&self) -> f32 {
        self.details.query_scale.unwrap_or_else(|| 1.0 / (self.head_dim as f32).sqrt())
    }

    /// Positions that a query of a layer sees, itself included; `None` is all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let global = self.details.global_every.is_some_and(|every| (layer + 1).is_multiple_of(every));
        self.sliding_window.filter(|_| !global)
    }

    /// `(out, in)` of a matrix as files store it.
    pub fn module_shape(&self, module: &Module) -> (usize, usize) {
        let shapes = module.sites.iter().map(|site| self.linear_shape(*site));
        shapes.fold((0, 0), |(rows, _), (out, inner)| (rows + out, inner))
    }

    /// Width of the query projection.
    pub const fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of the key (or value) projection.
    pub const fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Weights in its matrices; a table that is shared counts once.
    pub fn parameters(&self) -> u64 {
        let linear = |site: LinearSite| {
            let (out, inner) = self.linear_shape(site);
            out as u64 * inner as u64
        };
        let layer: u64 = self.anatomy().sites().map(linear).sum();
        let tables = if self.tied_embeddings { 1 } else { 2 };
        self.layers as u64 * layer + tables * self.vocab_size as u64 * self.hidden_size as u64
    }

    /// `(out, in)` of a linear layer.
    pub const fn linear_shape(&self, site: LinearSite) -> (usize, usize) {
        match site {
            LinearSite::Q => (self.q_width(), self.hidden_size),
            LinearSite::K | LinearSite::V => (self.kv_width(), self.hidden_size),
            LinearSite::O => (self.hidden_size, self.q_width()),
            LinearSite::Gate | LinearSite::Up => (self.intermediate_size, self.hidden_size),
            LinearSite::Down => (self.hidden_size, self.intermediate_size),
        }
    }
}

/// The seven linear layers of a block, in order of use, whatever files store together; names are those of most architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum LinearSite {
    /// `self_attn.q_proj`
    #[serde(rename = "q_proj")]
    Q,
    /// `self_attn.k_proj`
    #[serde(rename = "k_proj")]
    K,
    /// `self_attn.v_proj`
    #[serde(rename = "v_proj")]
    V,
    /// `self_attn.o_proj`
    #[serde(rename = "o_proj")]
    O,
    /// `mlp.gate_proj`
    #[serde(rename = "gate_proj")]
    Gate,
    /// `mlp.up_proj`
    #[serde(rename = "up_proj")]
    Up,
    /// `mlp.down_proj`
    #[serde(rename = "down_proj")]
    Down,
}

impl LinearSite {
    /// All sites.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The module's own name, as adapters' configurations target it: `q_proj`.
    pub fn name(self) -> &'static str {
        self.module().rsplit('.').next().unwrap_or_default()
    }

    /// The linear of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|site| site.name() == name)
    }

    /// Module path inside a layer, as Hugging Face names it.
    pub const fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }
}
