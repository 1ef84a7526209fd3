//! LoRA adapters: weights as read from disk, and as the model computes with them. Hu et al. 2021, "LoRA".

pub mod peft;

use std::any::Any;

use crate::ids::VersionId;
use crate::model::config::LinearSite;

/// Low-rank update of one linear layer: `y += scale * B (A x)`.
#[derive(Debug, Clone)]
pub struct LoraModule {
    /// Layer index.
    pub layer: usize,
    /// Which linear of the layer.
    pub site: LinearSite,
    /// Rank `r`, at least 1.
    pub rank: usize,
    /// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub scale: f32,
    /// `A`, row-major `[rank, in]`.
    pub a: Vec<f32>,
    /// `B`, row-major `[out, rank]`.
    pub b: Vec<f32>,
}

/// A checked adapter for one base: shapes agree with the base, values are finite.
#[derive(Debug, Clone)]
pub struct LoraWeights {
    /// Content digest.
    pub id: VersionId,
    /// Every targeted linear, in order of (layer, site).
    pub modules: Vec<LoraModule>,
    /// Highest rank.
    pub max_rank: usize,
}

/// An adapter version in the form that its model computes with. Held by `Arc`: whoever holds it keeps it in memory (a lease).
pub struct PreparedAdapter {
    /// Content digest of the version.
    pub id: VersionId,
    /// Bytes that it holds in memory.
    pub bytes: usize,
    /// Highest rank.
    pub max_rank: usize,
    /// The model's own form; only the model that prepared it looks inside.
    pub inner: Box<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for PreparedAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedAdapter").field("id", &self.id).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
