//! An adapter's parameters as training holds them: one vector, so that the optimizer, checkpoints and norms need know no layers.
//!
//! Ranks are padded with zero rows to a multiple of sixteen. Both halves of a padded row are zero, hence their gradients, and so
//! they stay.

use crate::model::config::{LinearSite, ModelConfig};
use crate::model::lora::LoraModule;

/// Where one low-rank pair lies in the parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Layer index.
    pub layer: usize,
    /// Which linear of the layer.
    pub site: LinearSite,
    /// Outputs of the linear.
    pub n: usize,
    /// Inputs of the linear.
    pub k: usize,
    /// `A`, `[padded rank][k]`.
    pub a: std::ops::Range<usize>,
    /// `Bᵀ`, `[padded rank][n]`.
    pub b: std::ops::Range<usize>,
}

/// The layout of an adapter's parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Rank.
    pub rank: usize,
    /// Rank with its padding.
    pub padded: usize,
    /// What an update is multiplied with: `alpha / r`, or `alpha / sqrt(r)` (rsLoRA, Kalajdzievski 2023).
    pub scale: f32,
    /// Targeted linears in order of (layer, site).
    pub modules: Vec<Module>,
    /// Parameters in all, padding included.
    pub len: usize,
    at: Vec<Option<usize>>,
}

impl Layout {
    /// For a base, with the same rank at every target.
    pub fn new(config: &ModelConfig, targets: &[LinearSite], rank: usize, scale: f32) -> Self {
        let padded = rank.next_multiple_of(16);
        let (mut modules, mut len, mut at) = (Vec::new(), 0, vec![None; config.layers * 7]);
        for layer in 0..config.layers {
            for site in LinearSite::ALL.into_iter().filter(|site| targets.contains(site)) {
                let (n, k) = config.linear_shape(site);
                at[layer * 7 + site as usize] = Some(modules.len());
                let (a, b) = (len..len + padded * k, len + padded * k..len + padded * (k + n));
                len = b.end;
                modules.push(Module { layer, site, n, k, a, b });
            }
        }
        Self { rank, padded, scale, modules, len, at }
    }

    /// The pair of a linear, where it is targeted.
    pub fn module(&self, layer: usize, site: LinearSite) -> Option<&Module> {
        self.modules.get(self.at[layer * 7 + site as usize]?)
    }

    /// Parameters that are trained.
    pub fn trained(&self) -> usize {
        self.modules.iter().map(|module| self.rank * (module.n + module.k)).sum()
    }

    /// Puts pairs as they are stored into the parameters; where their scale is another one, `B` makes up for it.
    pub fn put(&self, stored: &[LoraModule], values: &mut [f32]) {
        for pair in stored {
            let Some(module) = self.module(pair.layer, pair.site) else { continue };
            let rank = pair.rank.min(self.rank);
            let factor = pair.scale / self.scale;
            values[module.a.clone()][..rank * module.k].copy_from_slice(&pair.a[..rank * module.k]);
            let transposed = &mut values[module.b.clone()];
            for (output, row) in pair.b.chunks_exact(pair.rank).enumerate() {
                row.iter().take(rank).enumerate().for_each(|(r, v)| transposed[r * module.n + output] = *v * factor);
            }
        }
    }

    /// The pairs as they are stored.
    pub fn pairs(&self, values: &[f32]) -> Vec<LoraModule> {
        let pair = |module: &Module| {
            let transposed = &values[module.b.clone()];
            let b = (0..module.n).flat_map(|output| (0..self.rank).map(move |r| transposed[r * module.n + output])).collect();
            let a = values[module.a.clone()][..self.rank * module.k].to_vec();
            LoraModule { layer: module.layer, site: module.site, rank: self.rank, scale: self.scale, a, b }
        };
        self.modules.iter().map(pair).collect()
    }
}
