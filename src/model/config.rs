//! The shape of a base model, one description for every architecture. Knows no file format.

/// Architectures that the decoder covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Llama 2, 3, 3.x, TinyLlama.
    Llama,
    /// Mistral (sliding window).
    Mistral,
    /// Qwen2 and Qwen2.5 (biases on q, k and v).
    Qwen2,
}

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
    /// Divisors of each frequency as given by the file (GGUF `rope_freqs.weight`), `head_dim / 2` values.
    Factors(Vec<f32>),
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
    /// Epsilon of RMS normalisation.
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
}

impl ModelConfig {
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
        let layer: u64 = LinearSite::ALL.into_iter().map(linear).sum();
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

/// The seven linear layers of a block, in order of use; adapters may target each.
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
