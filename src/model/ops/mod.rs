//! The small set of operations that the forward is written against. A device is an implementation of [`Ops`].
//!
//! `cpu` is ours: packed quantized kernels, paged attention, segment LoRA. `candle` is the slow reference beside it on the
//! CPU, and the CUDA side behind the feature `cuda`.

pub mod candle;
pub mod cpu;

use std::sync::Arc;

use crate::model::config::{LinearSite, ModelConfig, RopeScaling};
use crate::model::loader::{DType, RawTensor};
use crate::model::lora::LoraWeights;
use crate::model::native::Weights;
use crate::model::train::TrainingBase;
use crate::model::{BlockId, ModelError};

/// How float weights are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quant {
    /// As stored where any tensor is quantized; a base of floats alone, in whatever kind of file, becomes Q8_0.
    Auto,
    /// In the float type of the file, computed in f32 with an f32 KV cache; quantized tensors are expanded.
    None,
    /// Float weights become this type while loading, as [`crate::model::loader::kept_type`] says; quantized ones stay.
    To(DType),
}

/// One sequence's rows in a step.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// First row.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row.
    pub start: usize,
    /// Block table.
    pub blocks: &'a [BlockId],
}

/// Rows of a step that use one adapter.
pub struct Segment<'a, L> {
    /// The adapter.
    pub adapter: &'a L,
    /// Its rows, ascending.
    pub rows: Vec<usize>,
}

/// Everything about a step but its activations. Rows are the tokens of all chunks, one after the other.
pub struct Step<'a, L> {
    /// Token id of each row.
    pub tokens: Vec<u32>,
    /// Position of each row.
    pub positions: Vec<usize>,
    /// Where each row's key and value go: `block * BLOCK_TOKENS + offset`.
    pub slots: Vec<usize>,
    /// Sequences.
    pub spans: Vec<Span<'a>>,
    /// Adapters in use; rows of none are the base's alone.
    pub segments: Vec<Segment<'a, L>>,
    /// Rows whose logits are wanted, ascending.
    pub wanted: Vec<usize>,
    /// Rows whose hidden states are wanted, ascending.
    pub hidden: Vec<usize>,
}

/// One linear of a group that shares its input.
pub struct Projection<'a, O: Ops> {
    /// Which linear of the layer.
    pub site: LinearSite,
    /// Its weights.
    pub linear: &'a O::Linear,
    /// Receives `rows x out`.
    pub out: &'a mut O::Activation,
}

/// Weights of a normalisation.
pub struct Norm<O: Ops> {
    /// What normalised values are multiplied with.
    pub weight: O::Vector,
    /// With a bias it is layer normalisation (Ba et al. 2016), else RMS normalisation (Zhang and Sennrich 2019).
    pub bias: Option<O::Vector>,
}

/// What a device must do for the decoder. All activations are f32, row-major `[rows, width]`.
pub trait Ops: Send + Sized + 'static {
    /// Activations on the device.
    type Activation: Default + Send;
    /// A linear layer's weights, `[out, in]`, with its bias.
    type Linear: Send + Sync;
    /// A vector of weights.
    type Vector: Send + Sync;
    /// The embedding table, `[vocab, hidden]`.
    type Embedding: Send + Sync;
    /// An adapter in the device's form.
    type Lora: Send + Sync + 'static;
    /// What prepares adapters, off the engine's thread.
    type LoraPreparer: Fn(&LoraWeights) -> Result<Self::Lora, ModelError> + Send + Sync + 'static;

    /// The model's shape, as given to the device.
    fn config(&self) -> &ModelConfig;
    /// Packs a linear layer in the type that its weight has.
    fn linear(&mut self, weight: &RawTensor, bias: Option<&RawTensor>) -> Result<Self::Linear, ModelError>;
    /// Loads a vector.
    fn vector(&mut self, tensor: &RawTensor) -> Result<Self::Vector, ModelError>;
    /// Loads the embedding table.
    fn embedding(&mut self, tensor: &RawTensor) -> Result<Self::Embedding, ModelError>;
    /// Bytes that a linear holds.
    fn linear_bytes(linear: &Self::Linear) -> usize;
    /// Bytes that the embedding table holds, those mapped from a file among them.
    fn embedding_bytes(embedding: &Self::Embedding) -> usize;
    /// Bytes that an adapter holds.
    fn lora_bytes(lora: &Self::Lora) -> usize;
    /// What prepares adapters for this device.
    fn lora_preparer(&self) -> Self::LoraPreparer;
    /// The base for training, where this device can.
    fn training_base(_config: &ModelConfig, _weights: &Arc<Weights<Self>>) -> Option<TrainingBase> {
        None
    }
    /// Bytes of one KV block over all layers.
    fn kv_block_bytes(&self) -> usize;
    /// Allocates `blocks` KV blocks.
    fn allocate_kv(&mut self, blocks: usize) -> Result<(), ModelError>;

    /// `out[row] = table[token of row]`, scaled where the base does that.
    fn embed(
        &mut self,
        step: &Step<'_, Self::Lora>,
        table: &Self::Embedding,
        out: &mut Self::Activation,
    ) -> Result<(), ModelError>;
    /// Normalises each row.
    fn norm(&mut self, x: &Self::Activation, norm: &Norm<Self>, out: &mut Self::Activation) -> Result<(), ModelError>;
    /// RMS normalisation of each head of each row, in place, times `weight` (one head's width).
    fn norm_heads(&mut self, x: &mut Self::Activation, weight: &Self::Vector) -> Result<(), ModelError>;
    /// `out = W x + b`, plus each segment's `scale * B (A x)` where its adapter targets the site; all on one input.
    fn project(
        &mut self,
        step: &Step<'_, Self::Lora>,
        layer: usize,
        x: &Self::Activation,
        parts: &mut [Projection<'_, Self>],
    ) -> Result<(), ModelError>;
    /// Rotates queries and keys (Su et al. 2021), writes keys and values to their slots, then attends over each row's own
    /// sequence up to its own position (and no further back than the layer's window): `out` is `rows x q_width`.
    fn attend(
        &mut self,
        step: &Step<'_, Self::Lora>,
        layer: usize,
        qkv: [&mut Self::Activation; 3],
        out: &mut Self::Activation,
    ) -> Result<(), ModelError>;
    /// `gate = f(gate) * up` (Shazeer 2020), or `f(gate)` alone, by the base's activation.
    fn gate(&mut self, gate: &mut Self::Activation, up: Option<&Self::Activation>) -> Result<(), ModelError>;
    /// `x += y`.
    fn add(&mut self, x: &mut Self::Activation, y: &Self::Activation) -> Result<(), ModelError>;
    /// Keeps the wanted rows: what follows the last layer runs over these alone.
    fn select(&mut self, step: &Step<'_, Self::Lora>, x: &Self::Activation, out: &mut Self::Activation)
    -> Result<(), ModelError>;
    /// These rows of `x` to host memory, `rows x width`.
    fn rows(&mut self, x: &Self::Activation, rows: &[usize], out: &mut Vec<f32>) -> Result<(), ModelError>;
    /// `head x` of every row of `x` to host memory, `rows x vocab`, capped where the base does that.
    fn logits(&mut self, x: &Self::Activation, head: &Self::Linear, out: &mut Vec<f32>) -> Result<(), ModelError>;
}

/// Rotary embedding of some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Angular frequency of each pair, radians per position, after scaling; `rotary_dim / 2` values.
    pub frequencies: Vec<f32>,
    /// What rotated values are multiplied with.
    pub factor: f32,
}

impl Rotary {
    /// Those of a base: of its layers, and of its windowed layers where these have their own.
    pub fn all(config: &ModelConfig) -> Vec<Self> {
        let factor = match &config.rope_scaling {
            RopeScaling::LongRope { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        };
        let mut all = vec![Self { frequencies: rope_frequencies(config), factor }];
        all.extend(config.details.local_theta.map(|theta| Self { frequencies: plain(theta, config.rotary_dim()), factor: 1.0 }));
        all
    }

    /// Which of them a layer has.
    pub fn of_layer(config: &ModelConfig, layer: usize) -> usize {
        usize::from(config.details.local_theta.is_some() && config.window(layer).is_some())
    }

    /// Cosine and sine of each pair at a position.
    pub fn angles(&self, position: usize) -> impl Iterator<Item = (f32, f32)> {
        self.frequencies.iter().map(move |f| {
            let angle = position as f32 * f;
            (angle.cos() * self.factor, angle.sin() * self.factor)
        })
    }
}

fn plain(theta: f32, width: usize) -> Vec<f32> {
    (0..width / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / width as f32)).collect()
}

/// Angular frequency of each pair of a head, radians per position, after scaling; `rotary_dim / 2` values.
///
/// Llama 3.1's scaling divides low frequencies by `factor`, keeps high ones, and blends between.
pub fn rope_frequencies(config: &ModelConfig) -> Vec<f32> {
    let plain = plain(config.rope_theta, config.rotary_dim()).into_iter();
    match &config.rope_scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
        RopeScaling::Factors(factors) => plain.zip(factors).map(|(f, factor)| f / factor).collect(),
        RopeScaling::LongRope { short, long, original_context, .. } => {
            let factors = if config.context_length > *original_context { long } else { short };
            plain.zip(factors).map(|(f, factor)| f / factor).collect()
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => plain
            .map(|f| {
                let wavelength = 2.0 * std::f32::consts::PI / f;
                let original = *original_context as f32;
                if wavelength < original / high_freq_factor {
                    f
                } else if wavelength > original / low_freq_factor {
                    f / factor
                } else {
                    let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            })
            .collect(),
    }
}
