//! The decoder: one forward for every architecture, written against the operations of a device.
//! Knows nothing of requests or scheduling; a step is a list of chunks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::model::config::{LinearSite, ModelConfig};
use crate::model::loader::convert::convert;
use crate::model::loader::kept_type::{Fallback, Kept, kept_type, summary};
use crate::model::loader::{DType, RawTensor};
use crate::model::lora::{LoraModule, LoraWeights, PreparedAdapter};
use crate::model::ops::candle::CandleOps;
use crate::model::ops::cpu::{CpuOps, Isa};
use crate::model::ops::{Norm, Ops, Projection, Quant, Segment, Span, Step};
use crate::model::profile::{Part, Profile};
use crate::model::train::TrainingBase;
use crate::model::{AdapterPreparer, BLOCK_TOKENS, Chunk, LogitRows, Logits, Model, ModelError};

/// Where and how a base computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// How float weights are kept.
    pub quant: Quant,
    /// Compute threads; the caller of `forward` is one of them.
    pub threads: usize,
    /// Device.
    pub device: Device,
}

/// Where the base lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Our kernels.
    Cpu,
    /// candle's operations on the CPU: the slow reference.
    Reference,
    /// CUDA device by index; needs the feature `cuda`.
    Cuda(usize),
}

/// A base's tensors by Hugging Face names.
pub type Tensors = BTreeMap<String, RawTensor>;

/// Packs a base for its device.
pub fn load(config: &ModelConfig, tensors: &Tensors, options: LoadOptions) -> Result<Box<dyn Model>, ModelError> {
    let quant = match options.quant {
        // A base without any quantized tensor was not made for serving: 8 bits halve or quarter it at no visible loss.
        Quant::Auto if tensors.values().all(|tensor| tensor.dtype.is_float()) => Quant::To(DType::Q8_0),
        other => other,
    };
    let exact = quant == Quant::None;
    let source = Source { tensors, quant, tied: config.tied_embeddings, threads: options.threads };
    if let Quant::To(dtype) = quant {
        let fallbacks = source.fallbacks(dtype);
        if !fallbacks.is_empty() {
            tracing::warn!(wanted = %dtype, "rows do not fit the type: {}", summary(&fallbacks));
        }
    }
    Ok(match options.device {
        Device::Cpu => Box::new(Decoder::new(CpuOps::new(config, options.threads, exact, Isa::detect())?, &source)?),
        Device::Reference => Box::new(Decoder::new(CandleOps::cpu(config)?, &source)?),
        Device::Cuda(index) => Box::new(Decoder::new(CandleOps::cuda(config, index)?, &source)?),
    })
}

/// A base's tensors in the types that they are kept in.
struct Source<'a> {
    tensors: &'a Tensors,
    quant: Quant,
    /// As in the configuration.
    tied: bool,
    threads: usize,
}

impl<'a> Source<'a> {
    fn find(&self, name: &str) -> Option<&'a RawTensor> {
        self.tensors.get(name)
    }

    fn need(&self, name: &str) -> Result<&'a RawTensor, ModelError> {
        self.find(name).ok_or_else(|| ModelError::Invalid(format!("the base lacks tensor {name:?}")))
    }

    /// A matrix as its file has it, and in the type that it is kept in.
    fn matrix(&self, name: &str) -> Result<(&'a RawTensor, RawTensor), ModelError> {
        let stored = self.need(name)?;
        Ok((stored, self.kept(name, stored)?))
    }

    /// A tensor (or some of its rows) in the type that it is kept in.
    fn kept(&self, name: &str, stored: &RawTensor) -> Result<RawTensor, ModelError> {
        let dtype = match self.quant {
            Quant::To(dtype) if stored.dtype.is_float() => kept_type(name, stored, dtype, self.tied).used,
            _ => stored.dtype,
        };
        convert(stored, dtype, self.threads)
    }

    /// The linears of a layer, in order; those that are stored together come apart by their rows.
    fn linears<O: Ops>(&self, ops: &mut O, config: &ModelConfig, layer: usize) -> Result<Vec<O::Linear>, ModelError> {
        let mut linears = Vec::with_capacity(LinearSite::ALL.len());
        for module in config.anatomy().modules {
            let name = format!("model.layers.{layer}.{}.weight", module.path);
            let stored = self.need(&name)?;
            let bias = self.find(&format!("model.layers.{layer}.{}.bias", module.path));
            if let [_] = module.sites {
                linears.push(self.linear(ops, &self.kept(&name, stored)?, bias)?);
            } else {
                let mut row = 0;
                for site in module.sites {
                    let rows = config.linear_shape(*site).0;
                    let bias = bias.map(|bias| bias.elements(row, rows)).transpose()?;
                    linears.push(self.linear(ops, &self.kept(&name, &stored.rows(row, rows)?)?, bias.as_ref())?);
                    row += rows;
                }
            }
            stored.release();
        }
        Ok(linears)
    }

    /// A normalisation, by its path.
    fn norm<O: Ops>(&self, ops: &mut O, path: &str) -> Result<Norm<O>, ModelError> {
        let weight = ops.vector(self.need(&format!("{path}.weight"))?)?;
        let bias = self.find(&format!("{path}.bias")).map(|bias| ops.vector(bias)).transpose()?;
        Ok(Norm { weight, bias })
    }

    /// Packs a matrix; quantized ones are expanded where products have to be exact.
    fn linear<O: Ops>(&self, ops: &mut O, weight: &RawTensor, bias: Option<&RawTensor>) -> Result<O::Linear, ModelError> {
        if self.quant == Quant::None && !weight.dtype.is_float() {
            return ops.linear(&convert(weight, DType::F32, self.threads)?, bias);
        }
        ops.linear(weight, bias)
    }

    /// Tensors that cannot have the type that they should have when matrices become `dtype`.
    fn fallbacks(&self, dtype: DType) -> Vec<Fallback> {
        let float = self.tensors.iter().filter(|(_, tensor)| tensor.dtype.is_float());
        float
            .filter_map(|(name, tensor)| {
                let Kept { wanted, used } = kept_type(name, tensor, dtype, self.tied);
                (used != wanted).then(|| Fallback { tensor: name.clone(), cols: tensor.cols, used })
            })
            .collect()
    }
}

pub(super) struct Layer<O: Ops> {
    pub(super) attention_norm: Norm<O>,
    /// In the order of [`LinearSite`], those that the architecture has.
    pub(super) linears: Vec<O::Linear>,
    /// Of queries' and keys' heads.
    pub(super) head_norms: Option<[O::Vector; 2]>,
    /// Of what attention adds.
    pub(super) attention_out: Option<Norm<O>>,
    /// None where the feed-forward layer reads what attention reads.
    pub(super) mlp_norm: Option<Norm<O>>,
    /// Of what the feed-forward layer adds.
    pub(super) mlp_out: Option<Norm<O>>,
}

impl<O: Ops> Layer<O> {
    fn new(ops: &mut O, config: &ModelConfig, index: usize, source: &Source<'_>) -> Result<Self, ModelError> {
        let norms = config.anatomy().norms;
        let path = |part: &str| format!("model.layers.{index}.{part}");
        let head_norms = if norms.heads {
            let mut head = |name: &str| ops.vector(source.need(&path(&format!("self_attn.{name}.weight")))?);
            Some([head("q_norm")?, head("k_norm")?])
        } else {
            None
        };
        let mut norm = |name: Option<&str>| name.map(|name| source.norm(ops, &path(name))).transpose();
        Ok(Self {
            attention_out: norm(norms.attention_out)?,
            mlp_norm: norm(norms.mlp)?,
            mlp_out: norm(norms.mlp_out)?,
            attention_norm: source.norm(ops, &path(norms.attention))?,
            linears: source.linears(ops, config, index)?,
            head_norms,
        })
    }
}

/// A base's weights on its device; training reads the same ones.
pub struct Weights<O: Ops> {
    pub(super) embedding: O::Embedding,
    pub(super) layers: Vec<Layer<O>>,
    pub(super) norm: Norm<O>,
    pub(super) head: O::Linear,
}

/// Activations of a step, kept from step to step.
struct Workspace<O: Ops> {
    x: O::Activation,
    normed: O::Activation,
    q: O::Activation,
    k: O::Activation,
    v: O::Activation,
    attended: O::Activation,
    gate: O::Activation,
    up: O::Activation,
    update: O::Activation,
}

/// A decoder-only transformer on a device.
pub struct Decoder<O: Ops> {
    ops: O,
    config: ModelConfig,
    weights: Arc<Weights<O>>,
    work: Workspace<O>,
    /// Kept once somebody has asked.
    profile: Option<Profile>,
}

impl<O: Ops> Decoder<O> {
    /// Packs every tensor for `ops`. Pages of the files are given back as soon as their content is packed.
    fn new(mut ops: O, source: &Source<'_>) -> Result<Self, ModelError> {
        let config = ops.config().clone();
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            layers.push(Layer::new(&mut ops, &config, index, source)?);
        }
        let (stored_table, table) = source.matrix("model.embed_tokens.weight")?;
        let bias = source.find("lm_head.bias");
        let head = if config.tied_embeddings {
            source.linear(&mut ops, &table, bias)?
        } else {
            let (stored, kept) = source.matrix("lm_head.weight")?;
            let head = source.linear(&mut ops, &kept, bias)?;
            stored.release();
            head
        };
        let norm = source.norm(&mut ops, config.anatomy().norms.last)?;
        let embedding = ops.embedding(&table)?;
        // Rows of a mapped table come back as they are looked up.
        stored_table.release();
        let work = Workspace {
            x: O::Activation::default(),
            normed: O::Activation::default(),
            q: O::Activation::default(),
            k: O::Activation::default(),
            v: O::Activation::default(),
            attended: O::Activation::default(),
            gate: O::Activation::default(),
            up: O::Activation::default(),
            update: O::Activation::default(),
        };
        Ok(Self { ops, config, weights: Arc::new(Weights { embedding, layers, norm, head }), work, profile: None })
    }

    fn run(&mut self, step: &Step<'_, O::Lora>, out: &mut Logits) -> Result<(), ModelError> {
        use LinearSite::{Down, Gate, K, O as Output, Q, Up, V};
        let profiled = self.profile.is_some();
        let (ops, w, weights) = (&mut self.ops, &mut self.work, &*self.weights);
        let anatomy = self.config.anatomy();
        let gated = anatomy.module(Gate).is_some();
        let profile = &mut self.profile;
        let mut timed = |part: Part, since: Option<Instant>| {
            if let (Some(profile), Some(since)) = (profile.as_mut(), since) {
                profile.add(part, since);
            }
        };
        macro_rules! timed {
            ($part:ident, $work:expr) => {{
                let since = profiled.then(Instant::now);
                $work?;
                timed(Part::$part, since);
            }};
        }
        timed!(Embed, ops.embed(step, &weights.embedding, &mut w.x));
        for (index, layer) in weights.layers.iter().enumerate() {
            let linear = |site: LinearSite| &layer.linears[anatomy.slot(site)];
            timed!(Norms, ops.norm(&w.x, &layer.attention_norm, &mut w.normed));
            let mut parts = [
                Projection { site: Q, linear: linear(Q), out: &mut w.q },
                Projection { site: K, linear: linear(K), out: &mut w.k },
                Projection { site: V, linear: linear(V), out: &mut w.v },
            ];
            timed!(QueryKeyValue, ops.project(step, index, &w.normed, &mut parts));
            if let Some([q, k]) = &layer.head_norms {
                timed!(Norms, ops.norm_heads(&mut w.q, q));
                timed!(Norms, ops.norm_heads(&mut w.k, k));
            }
            timed!(Attention, ops.attend(step, index, [&mut w.q, &mut w.k, &mut w.v], &mut w.attended));
            let mut parts = [Projection { site: Output, linear: linear(Output), out: &mut w.update }];
            timed!(Output, ops.project(step, index, &w.attended, &mut parts));
            if let Some(norm) = &layer.attention_out {
                timed!(Norms, ops.norm(&w.update, norm, &mut w.normed));
                std::mem::swap(&mut w.update, &mut w.normed);
            }
            timed!(Sums, ops.add(&mut w.x, &w.update));

            if let Some(norm) = &layer.mlp_norm {
                timed!(Norms, ops.norm(&w.x, norm, &mut w.normed));
            }
            let up = Projection { site: Up, linear: linear(Up), out: &mut w.up };
            if gated {
                let mut parts = [Projection { site: Gate, linear: linear(Gate), out: &mut w.gate }, up];
                timed!(GateUp, ops.project(step, index, &w.normed, &mut parts));
                timed!(Activation, ops.gate(&mut w.gate, Some(&w.up)));
            } else {
                timed!(GateUp, ops.project(step, index, &w.normed, &mut [up]));
                timed!(Activation, ops.gate(&mut w.up, None));
            }
            let inner = if gated { &w.gate } else { &w.up };
            let mut parts = [Projection { site: Down, linear: linear(Down), out: &mut w.update }];
            timed!(Down, ops.project(step, index, inner, &mut parts));
            if let Some(norm) = &layer.mlp_out {
                timed!(Norms, ops.norm(&w.update, norm, &mut w.normed));
                std::mem::swap(&mut w.update, &mut w.normed);
            }
            timed!(Sums, ops.add(&mut w.x, &w.update));
        }
        if step.hidden.is_empty() {
            out.hidden.clear();
        } else {
            timed!(Norms, ops.norm(&w.x, &weights.norm, &mut w.normed));
            ops.rows(&w.normed, &step.hidden, &mut out.hidden)?;
        }
        if step.wanted.is_empty() {
            out.values.clear();
            return Ok(());
        }
        ops.select(step, &w.x, &mut w.update)?;
        timed!(Norms, ops.norm(&w.update, &weights.norm, &mut w.normed));
        timed!(Head, ops.logits(&w.normed, &weights.head, &mut out.values));
        Ok(())
    }
}

impl<O: Ops> Model for Decoder<O> {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn kv_block_bytes(&self) -> usize {
        self.ops.kv_block_bytes()
    }

    fn allocate_kv(&mut self, blocks: usize) -> Result<(), ModelError> {
        self.ops.allocate_kv(blocks)
    }

    fn weight_bytes(&self) -> usize {
        let weights = &*self.weights;
        let linears = weights.layers.iter().flat_map(|layer| &layer.linears).chain([&weights.head]);
        linears.map(O::linear_bytes).sum::<usize>() + O::embedding_bytes(&weights.embedding)
    }

    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), ModelError> {
        let step = step::<O>(chunks, self.config.vocab_size)?;
        (logits.vocab, logits.width) = (self.config.vocab_size, self.config.hidden_size);
        self.run(&step, logits)
    }

    fn profile(&mut self) -> Profile {
        self.profile.replace(Profile::default()).unwrap_or_default()
    }

    fn adapter_preparer(&self) -> Arc<dyn AdapterPreparer> {
        Arc::new(Preparer::<O>(self.ops.lora_preparer()))
    }

    fn training_base(&self) -> Option<TrainingBase> {
        O::training_base(&self.config, &self.weights)
    }
}

/// Lays the chunks' tokens out as rows.
fn step<'a, O: Ops>(chunks: &[Chunk<'a>], vocab: usize) -> Result<Step<'a, O::Lora>, ModelError> {
    let mut step = Step {
        tokens: Vec::new(),
        positions: Vec::new(),
        slots: Vec::new(),
        spans: Vec::with_capacity(chunks.len()),
        segments: Vec::new(),
        wanted: Vec::new(),
        hidden: Vec::new(),
    };
    // Segments by identity of the prepared adapter: a version is prepared once.
    let mut owners: Vec<*const PreparedAdapter> = Vec::new();
    for chunk in chunks {
        let (row, rows) = (step.tokens.len(), chunk.tokens.len());
        if let Some(token) = chunk.tokens.iter().find(|token| **token as usize >= vocab) {
            return Err(ModelError::Invalid(format!("token id {token} is outside the vocabulary of {vocab}")));
        }
        if rows == 0 || chunk.blocks.len() * BLOCK_TOKENS < chunk.start + rows {
            return Err(ModelError::Invalid("a chunk's block table does not cover its tokens: this is a bug".to_owned()));
        }
        step.tokens.extend(chunk.tokens);
        for position in chunk.start..chunk.start + rows {
            step.positions.push(position);
            step.slots.push(chunk.blocks[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS);
        }
        step.spans.push(Span { row, rows, start: chunk.start, blocks: chunk.blocks });
        match chunk.logits {
            LogitRows::None => {}
            LogitRows::Last => step.wanted.push(row + rows - 1),
            LogitRows::All => step.wanted.extend(row..row + rows),
            LogitRows::HiddenLast => step.hidden.push(row + rows - 1),
            LogitRows::HiddenAll => step.hidden.extend(row..row + rows),
        }
        if let Some(adapter) = chunk.adapter {
            let owner = Arc::as_ptr(adapter);
            let index = if let Some(index) = owners.iter().position(|known| *known == owner) {
                index
            } else {
                let Some(lora) = adapter.inner.downcast_ref::<O::Lora>() else {
                    return Err(ModelError::Invalid("an adapter was prepared for another device: this is a bug".to_owned()));
                };
                owners.push(owner);
                step.segments.push(Segment { adapter: lora, rows: Vec::new() });
                owners.len() - 1
            };
            step.segments[index].rows.extend(row..row + rows);
        }
    }
    Ok(step)
}

struct Preparer<O: Ops>(O::LoraPreparer);

impl<O: Ops> AdapterPreparer for Preparer<O> {
    fn prepare(&self, weights: LoraWeights) -> Result<PreparedAdapter, ModelError> {
        weights.modules.iter().try_for_each(LoraModule::check_scaled)?;
        let lora = (self.0)(&weights)?;
        Ok(PreparedAdapter { id: weights.id, bytes: O::lora_bytes(&lora), max_rank: weights.max_rank, inner: Box::new(lora) })
    }
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
