//! What each architecture is made of, as data: the decoder, the loaders and the adapters' reader go by this table and know no
//! architecture by name. Knows no numbers of a particular model; those are in [`ModelConfig`](super::config::ModelConfig).

use super::config::LinearSite::{self, Down, Gate, K, O, Q, Up, V};

/// Architectures that the decoder covers, and all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Llama 2, 3, 3.x, TinyLlama.
    Llama,
    /// Mistral (sliding window).
    Mistral,
    /// Qwen2 and Qwen2.5 (biases on q, k and v).
    Qwen2,
    /// Qwen3 (normalised heads).
    Qwen3,
    /// Phi-1, 1.5 and 2 (layer normalisation, attention beside the feed-forward layer).
    Phi2,
    /// Phi-3, 3.5 and Phi-4-mini (projections stored together, `longrope`).
    Phi3,
    /// Gemma 2 (soft caps, every second layer windowed).
    Gemma2,
    /// Gemma 3, text (normalised heads, windowed layers with a rotary base of their own).
    Gemma3,
    /// One that the decoder does not cover: another engine computes it, and nothing here knows its parts.
    Foreign,
}

/// A matrix as files store it: the linears whose rows it holds, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module {
    /// Path inside a layer, as Hugging Face names it.
    pub path: &'static str,
    /// GGUF's name inside a block.
    pub gguf: &'static str,
    /// Its linears, which share their input.
    pub sites: &'static [LinearSite],
    /// Whether it has to have a bias, may have one, or has none.
    pub bias: Bias,
}

/// Biases of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// None.
    Never,
    /// If the files have one.
    Optional,
    /// Always.
    Always,
}

/// How a row is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// By its root mean square (Zhang and Sennrich 2019).
    Rms,
    /// By mean and deviation, with a bias (Ba et al. 2016).
    Layer,
}

/// Where rows are normalised; names inside a layer as Hugging Face has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norms {
    /// How.
    pub kind: NormKind,
    /// Hugging Face's files have what is added to one (GGUF files have the sum).
    pub plus_one: bool,
    /// Before attention.
    pub attention: &'static str,
    /// What attention adds to the residual stream.
    pub attention_out: Option<&'static str>,
    /// Before the feed-forward layer; none where it reads what attention reads, beside it.
    pub mlp: Option<&'static str>,
    /// What the feed-forward layer adds.
    pub mlp_out: Option<&'static str>,
    /// Each head of queries and keys, before they are rotated.
    pub heads: bool,
    /// After the last layer.
    pub last: &'static str,
}

/// Of the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up`.
    Silu,
    /// `gelu(gate) * up`, the tanh form (Hendrycks and Gimpel 2016).
    GatedGelu,
    /// `gelu(up)`: no gate.
    Gelu,
}

/// An architecture's parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Anatomy {
    /// For people.
    pub name: &'static str,
    /// Class in `config.json`.
    pub class: &'static str,
    /// `general.architecture` of a GGUF file.
    pub gguf: &'static str,
    /// GGUF files have the rows of queries and keys interleaved for rotary pairs.
    pub interleaved: bool,
    /// Matrices of a layer, in order of use.
    pub modules: &'static [Module],
    /// Normalisations.
    pub norms: Norms,
    /// Feed-forward activation.
    pub activation: Activation,
    /// The output matrix has a bias.
    pub head_bias: bool,
    /// Why an adapter cannot be trained on it; none where it can.
    pub untrainable: Option<&'static str>,
}

const fn module(path: &'static str, gguf: &'static str, sites: &'static [LinearSite], bias: Bias) -> Module {
    Module { path, gguf, sites, bias }
}

const fn separate(qkv: Bias) -> [Module; 7] {
    [
        module("self_attn.q_proj", "attn_q", &[Q], qkv),
        module("self_attn.k_proj", "attn_k", &[K], qkv),
        module("self_attn.v_proj", "attn_v", &[V], qkv),
        module("self_attn.o_proj", "attn_output", &[O], Bias::Never),
        module("mlp.gate_proj", "ffn_gate", &[Gate], Bias::Never),
        module("mlp.up_proj", "ffn_up", &[Up], Bias::Never),
        module("mlp.down_proj", "ffn_down", &[Down], Bias::Never),
    ]
}

const PLAIN: Norms = Norms {
    kind: NormKind::Rms,
    plus_one: false,
    attention: "input_layernorm",
    attention_out: None,
    mlp: Some("post_attention_layernorm"),
    mlp_out: None,
    heads: false,
    last: "model.norm",
};

const SANDWICH: Norms = Norms {
    plus_one: true,
    attention_out: Some("post_attention_layernorm"),
    mlp: Some("pre_feedforward_layernorm"),
    mlp_out: Some("post_feedforward_layernorm"),
    ..PLAIN
};

const LLAMA: Anatomy = Anatomy {
    name: "Llama",
    class: "LlamaForCausalLM",
    gguf: "llama",
    interleaved: true,
    modules: &separate(Bias::Optional),
    norms: PLAIN,
    activation: Activation::Silu,
    head_bias: false,
    untrainable: None,
};

const MISTRAL: Anatomy = Anatomy { name: "Mistral", class: "MistralForCausalLM", ..LLAMA };

const QWEN2: Anatomy = Anatomy {
    name: "Qwen2",
    class: "Qwen2ForCausalLM",
    gguf: "qwen2",
    interleaved: false,
    modules: &separate(Bias::Always),
    ..LLAMA
};

const QWEN3: Anatomy = Anatomy {
    name: "Qwen3",
    class: "Qwen3ForCausalLM",
    gguf: "qwen3",
    interleaved: false,
    modules: &separate(Bias::Never),
    norms: Norms { heads: true, ..PLAIN },
    ..LLAMA
};

const PHI2: Anatomy = Anatomy {
    name: "Phi-2",
    class: "PhiForCausalLM",
    gguf: "phi2",
    interleaved: false,
    modules: &[
        module("self_attn.q_proj", "attn_q", &[Q], Bias::Always),
        module("self_attn.k_proj", "attn_k", &[K], Bias::Always),
        module("self_attn.v_proj", "attn_v", &[V], Bias::Always),
        module("self_attn.dense", "attn_output", &[O], Bias::Always),
        module("mlp.fc1", "ffn_up", &[Up], Bias::Always),
        module("mlp.fc2", "ffn_down", &[Down], Bias::Always),
    ],
    norms: Norms { kind: NormKind::Layer, mlp: None, last: "model.final_layernorm", ..PLAIN },
    activation: Activation::Gelu,
    head_bias: true,
    untrainable: Some("its base is a Phi-2, on which training is not implemented"),
};

const PHI3: Anatomy = Anatomy {
    name: "Phi-3",
    class: "Phi3ForCausalLM",
    gguf: "phi3",
    interleaved: false,
    modules: &[
        module("self_attn.qkv_proj", "attn_qkv", &[Q, K, V], Bias::Never),
        module("self_attn.o_proj", "attn_output", &[O], Bias::Never),
        module("mlp.gate_up_proj", "ffn_up", &[Gate, Up], Bias::Never),
        module("mlp.down_proj", "ffn_down", &[Down], Bias::Never),
    ],
    untrainable: Some("its base is a Phi-3, on which training is not implemented"),
    ..LLAMA
};

const GEMMA2: Anatomy = Anatomy {
    name: "Gemma 2",
    class: "Gemma2ForCausalLM",
    gguf: "gemma2",
    interleaved: false,
    modules: &separate(Bias::Never),
    norms: SANDWICH,
    activation: Activation::GatedGelu,
    untrainable: Some("its base is a Gemma 2, on which training is not implemented"),
    ..LLAMA
};

const GEMMA3: Anatomy = Anatomy {
    name: "Gemma 3",
    class: "Gemma3ForCausalLM",
    gguf: "gemma3",
    norms: Norms { heads: true, ..SANDWICH },
    untrainable: Some("its base is a Gemma 3, on which training is not implemented"),
    ..GEMMA2
};

const FOREIGN: Anatomy = Anatomy {
    name: "foreign",
    class: "",
    gguf: "",
    modules: &[],
    untrainable: Some("its base is of an architecture on which training is not implemented"),
    ..LLAMA
};

impl Architecture {
    /// All that the decoder covers.
    pub const ALL: [Self; 8] =
        [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Phi2, Self::Phi3, Self::Gemma2, Self::Gemma3];

    /// Its parts.
    pub const fn anatomy(self) -> &'static Anatomy {
        match self {
            Self::Llama => &LLAMA,
            Self::Mistral => &MISTRAL,
            Self::Qwen2 => &QWEN2,
            Self::Qwen3 => &QWEN3,
            Self::Phi2 => &PHI2,
            Self::Phi3 => &PHI3,
            Self::Gemma2 => &GEMMA2,
            Self::Gemma3 => &GEMMA3,
            Self::Foreign => &FOREIGN,
        }
    }

    /// The one of a class in `config.json`.
    pub fn of_class(class: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.anatomy().class == class)
    }

    /// The one of a GGUF file's `general.architecture`; Mistral's files are Llama's.
    pub fn of_gguf(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.anatomy().gguf == name)
    }
}

impl Anatomy {
    /// The module that holds a linear; none where the architecture lacks it.
    pub fn module(&self, site: LinearSite) -> Option<&'static Module> {
        self.modules.iter().find(|module| module.sites.contains(&site))
    }

    /// Its linears, in order of use.
    pub fn sites(&self) -> impl Iterator<Item = LinearSite> {
        self.modules.iter().flat_map(|module| module.sites.iter().copied())
    }

    /// Place of a linear among those that there are.
    pub fn slot(&self, site: LinearSite) -> usize {
        self.sites().take_while(|other| *other < site).count()
    }

    /// Normalisations of a layer: (Hugging Face's name, GGUF's name).
    pub fn layer_norms(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let Norms { attention, attention_out, mlp, mlp_out, heads, .. } = self.norms;
        let head = |name: &'static str| heads.then_some(name);
        [
            (Some(attention), "attn_norm"),
            (attention_out, "post_attention_norm"),
            (mlp, "ffn_norm"),
            (mlp_out, "post_ffw_norm"),
            (head("self_attn.q_norm"), "attn_q_norm"),
            (head("self_attn.k_norm"), "attn_k_norm"),
        ]
        .into_iter()
        .filter_map(|(path, gguf)| Some((path?, gguf)))
    }

    /// The modules' own names, as adapters' configurations target them: `q_proj`.
    pub fn targets(&self) -> impl Iterator<Item = &'static str> {
        self.modules.iter().map(|module| module.path.rsplit('.').next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_linear_is_in_one_module_and_in_order() {
        for architecture in Architecture::ALL {
            let anatomy = architecture.anatomy();
            let sites: Vec<LinearSite> = anatomy.sites().collect();
            assert!(sites.is_sorted(), "{}", anatomy.name);
            for (slot, site) in sites.iter().enumerate() {
                assert_eq!(anatomy.slot(*site), slot, "{}", anatomy.name);
            }
            let gate = sites.contains(&Gate);
            assert_eq!(gate, anatomy.activation != Activation::Gelu, "{}", anatomy.name);
            assert_eq!(sites.len(), if gate { 7 } else { 6 }, "{}", anatomy.name);
        }
    }
}
