//! The base as training sees it: a batch of tokens in, log-probabilities of its targets out, gradients of the adapter back.
//! Knows no optimizer, no data and no files.

use std::ops::Range;
use std::sync::Arc;

use super::adapter::Layout;
use super::dropout::Dropout;
use super::elementwise::{Outcome, judge, norm, norm_back};
use super::kept::KeptLayer;
use super::layer::{self, Adapter, LayerWeights, Pass, Work};
use super::panel::Way;
use super::product::{Add, Between, Compute, Workers};
use super::rows::PackedRows;
use crate::model::ModelError;
use crate::model::config::ModelConfig;
use crate::model::native::Weights;
use crate::model::ops::cpu::pool::Parts;
use crate::model::ops::cpu::{CpuOps, Isa};
use crate::model::ops::rope_frequencies;

/// Bytes of logits that exist at once, about: those of a whole batch never do.
pub const LOGIT_BYTES: usize = 64 << 20;

/// The resident base, shared with the server: nothing of it is copied.
#[derive(Clone)]
pub struct TrainingBase {
    /// Shape.
    pub config: ModelConfig,
    weights: Arc<Weights<CpuOps>>,
}

impl std::fmt::Debug for TrainingBase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrainingBase").field("config", &self.config).finish_non_exhaustive()
    }
}

impl TrainingBase {
    pub(in crate::model) const fn new(config: ModelConfig, weights: Arc<Weights<CpuOps>>) -> Self {
        Self { config, weights }
    }

    /// Bytes of every matrix, enough of them to tell bases apart: the first tile of each.
    pub fn sample(&self, each: &mut dyn FnMut(&[u8])) {
        let linears = self.weights.layers.iter().flat_map(|layer| &layer.linears).chain([&self.weights.head]);
        for linear in linears {
            each(linear.weight().tile(0));
        }
    }

    /// Whether its matrices are quantized.
    pub fn is_quantized(&self) -> bool {
        self.weights.layers.iter().flat_map(|layer| &layer.linears).any(|linear| linear.weight().format.is_quantized())
    }

    /// How most of its matrices are kept, where that is quantized: `Q8_0`.
    pub fn quantization(&self) -> Option<String> {
        let linear = &self.weights.layers.first()?.linears[0];
        let format = linear.weight().format;
        format.is_quantized().then(|| format!("{format:?}"))
    }

    fn layer(&self, index: usize) -> LayerWeights<'_> {
        let layer = &self.weights.layers[index];
        // Architectures that are trained have a second normalisation.
        let mlp_norm = layer.mlp_norm.as_ref().unwrap_or(&layer.attention_norm);
        LayerWeights {
            attention_norm: &layer.attention_norm.weight,
            linears: &layer.linears,
            mlp_norm: &mlp_norm.weight,
            head_norms: layer.head_norms.as_ref().map(|[q, k]| [q.as_slice(), k.as_slice()]),
        }
    }
}

/// Tokens that go through the base together: examples one after the other, without padding.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Token ids of all examples.
    pub tokens: Vec<u32>,
    /// Rows of each example; positions begin at zero in each.
    pub spans: Vec<Range<usize>>,
    /// Rows whose next token is asked for, ascending, and that token.
    pub targets: Vec<(usize, u32)>,
    /// Targets (by their place in `targets`, ascending) that compete with some tokens only, and those: what a grammar allows there.
    pub among: Vec<(usize, Arc<[u32]>)>,
}

impl Batch {
    fn among(&self, target: usize) -> Option<&[u32]> {
        let found = self.among.binary_search_by_key(&target, |(at, _)| *at).ok()?;
        Some(&self.among[found].1)
    }
}

/// Leaves some tokens' logits as they are and makes all others impossible.
fn keep_only(logits: &mut [f32], among: &[u32]) {
    let kept: Vec<f32> = among.iter().map(|token| logits[*token as usize]).collect();
    logits.fill(f32::NEG_INFINITY);
    among.iter().zip(kept).for_each(|(token, logit)| logits[*token as usize] = logit);
}

/// What of a forward pass is kept for the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// All that the gradients need.
    Activations,
    /// Layers' inputs alone; the rest is computed again (Chen et al. 2016).
    Inputs,
}

/// How to compute.
#[derive(Clone)]
pub struct Settings {
    /// Compute threads; the caller is one of them.
    pub threads: usize,
    /// Type of the products with the base.
    pub compute: Compute,
    /// What is kept.
    pub keep: Keep,
    /// Asked between two pieces of work.
    pub between: Between,
}

/// A base with room for activations and gradients.
pub struct Learner {
    base: TrainingBase,
    workers: Workers,
    keep: Keep,
    frequencies: Vec<f32>,
    angles: Vec<(f32, f32)>,
    work: Work,
    kept: Vec<KeptLayer>,
    /// The one layer whose activations exist while inputs alone are kept.
    again: KeptLayer,
    head: Head,
}

#[derive(Default)]
struct Head {
    rows: Vec<f32>,
    normed: Vec<f32>,
    d_normed: Vec<f32>,
    logits: Vec<f32>,
    packed: PackedRows,
}

/// How the loss depends on a target's log-probability: its derivative by it, in the order of the batch's targets.
#[derive(Debug, Clone, Copy)]
pub enum Slopes<'a> {
    /// Nothing goes back.
    None,
    /// Known before the log-probabilities are.
    Known(&'a [f32]),
}

impl Learner {
    /// For a base.
    pub fn new(base: TrainingBase, settings: Settings) -> Result<Self, ModelError> {
        let workers = Workers::new(settings.threads, Isa::detect(), settings.compute, settings.between)?;
        Ok(Self {
            frequencies: rope_frequencies(&base.config),
            kept: (0..base.config.layers).map(|_| KeptLayer::default()).collect(),
            base,
            workers,
            keep: settings.keep,
            angles: Vec::new(),
            work: Work::default(),
            again: KeptLayer::default(),
            head: Head::default(),
        })
    }

    /// Shape of the base.
    pub const fn config(&self) -> &ModelConfig {
        &self.base.config
    }

    /// Whether all that was computed so far is whole.
    pub fn goes_on(&self) -> bool {
        self.workers.goes_on()
    }

    /// Runs the batch. With `keep`, [`Learner::back`] may follow.
    pub fn forward(
        &mut self,
        batch: &Batch,
        adapter: Option<(&Layout, &[f32])>,
        dropout: Option<Dropout>,
        keep: Passing,
    ) -> Result<(), ModelError> {
        let (h, vocab) = (self.base.config.hidden_size, self.base.config.vocab_size);
        if let Some(token) = batch.tokens.iter().find(|token| **token as usize >= vocab) {
            return Err(ModelError::Invalid(format!("token id {token} is outside the vocabulary of {vocab}")));
        }
        self.work.x.resize(batch.tokens.len() * h, 0.0);
        for (token, row) in batch.tokens.iter().zip(self.work.x.chunks_exact_mut(h)) {
            self.base.weights.embedding.dequantize_row(*token as usize, row)?;
        }
        self.angles.clear();
        for position in batch.spans.iter().flat_map(|span| 0..span.len()) {
            let angle = |f: &f32| (position as f32 * f).sin_cos();
            self.angles.extend(self.frequencies.iter().map(angle).map(|(sin, cos)| (cos, sin)));
        }
        let pass = Pass {
            config: &self.base.config,
            spans: &batch.spans,
            angles: &self.angles,
            adapter: adapter.map(|(layout, values)| Adapter { layout, values }),
            dropout,
        };
        for index in 0..self.base.config.layers {
            let kept = &mut self.kept[index];
            let kept = match (keep, self.keep) {
                (Passing::Through, _) => None,
                (Passing::Kept, Keep::Activations) => Some(kept),
                (Passing::Kept, Keep::Inputs) => {
                    kept.x.clone_from(&self.work.x);
                    None
                }
            };
            layer::forward(&mut self.workers, &pass, index, self.base.layer(index), &mut self.work, kept);
        }
        Ok(())
    }

    /// Log-probabilities of the targets of the batch that was run last. With slopes, the gradient of the last layer's output is
    /// left for [`Learner::back`], and the log-probabilities are final (they do not depend on the slopes).
    pub fn targets(&mut self, batch: &Batch, slopes: Slopes<'_>) -> Vec<Outcome> {
        let Self { base, workers, work, head, .. } = self;
        let (h, vocab, eps, isa) = (base.config.hidden_size, base.config.vocab_size, base.config.rms_eps, workers.isa());
        let slopes = match slopes {
            Slopes::None => None,
            Slopes::Known(slopes) => Some(slopes),
        };
        let (weight, norm_weight) = (base.weights.head.weight(), &base.weights.norm.weight);
        let mut outcomes = vec![Outcome::default(); batch.targets.len()];
        head.rows.clear();
        for (row, _) in &batch.targets {
            head.rows.extend_from_slice(&work.x[row * h..(row + 1) * h]);
        }
        let rows = &head.rows;
        head.normed.resize(rows.len(), 0.0);
        workers.rows(&mut head.normed, h, |row, out| norm(isa, &rows[row * h..(row + 1) * h], norm_weight, eps, out));
        if slopes.is_some() {
            head.d_normed.resize(rows.len(), 0.0);
        }
        let step = (LOGIT_BYTES / 4 / vocab).max(12) / 12 * 12;
        for first in (0..batch.targets.len()).step_by(step) {
            let range = first..batch.targets.len().min(first + step);
            head.logits.resize(range.len() * vocab, 0.0);
            let left = workers.left(&head.normed[range.start * h..range.end * h], h, &mut head.packed);
            workers.with_base(weight, Way::Forward, &left, None, &mut head.logits, Add::Nothing);
            let judged = Parts::new(&mut outcomes);
            workers.rows(&mut head.logits, vocab, |row, logits| {
                let target = range.start + row;
                let slope = slopes.map(|slopes| slopes[target]);
                if let Some(among) = batch.among(target) {
                    keep_only(logits, among);
                }
                // SAFETY: pieces differ in rows.
                unsafe { judged.slice(target..target + 1)[0] = judge(isa, logits, batch.targets[target].1 as usize, slope) };
            });
            if slopes.is_some() {
                let left = workers.left(&head.logits, vocab, &mut head.packed);
                let out = &mut head.d_normed[range.start * h..range.end * h];
                workers.with_base(weight, Way::Backward, &left, None, out, Add::Nothing);
            }
        }
        if slopes.is_some() {
            work.x.fill(0.0);
            for (target, (row, _)) in batch.targets.iter().enumerate() {
                let at = target * h..(target + 1) * h;
                norm_back(isa, &head.d_normed[at.clone()], &head.rows[at], norm_weight, eps, &mut work.x[row * h..(row + 1) * h]);
            }
        }
        outcomes
    }

    /// Adds the adapter's gradients, of the batch that was run and asked last, to `grads`.
    pub fn back(&mut self, batch: &Batch, adapter: (&Layout, &[f32]), dropout: Option<Dropout>, grads: &mut [f32]) {
        let pass = Pass {
            config: &self.base.config,
            spans: &batch.spans,
            angles: &self.angles,
            adapter: Some(Adapter { layout: adapter.0, values: adapter.1 }),
            dropout,
        };
        for index in (0..self.base.config.layers).rev() {
            let weights = self.base.layer(index);
            let kept = match self.keep {
                Keep::Activations => &mut self.kept[index],
                Keep::Inputs => {
                    let gradient = std::mem::take(&mut self.work.x);
                    std::mem::swap(&mut self.work.x, &mut self.kept[index].x);
                    layer::forward(&mut self.workers, &pass, index, weights, &mut self.work, Some(&mut self.again));
                    self.kept[index].x = std::mem::replace(&mut self.work.x, gradient);
                    &mut self.again
                }
            };
            layer::backward(&mut self.workers, &pass, index, weights, &mut self.work, kept, grads);
        }
    }
}

/// Whether a forward pass is to be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// Nothing is kept.
    Through,
    /// What the way back needs is kept.
    Kept,
}
