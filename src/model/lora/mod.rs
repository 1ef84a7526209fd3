//! LoRA adapters: weights as read from disk, and as the model computes with them. Hu et al. 2021, "LoRA".

pub mod peft;

use std::any::Any;

use crate::ids::VersionId;
use crate::model::ModelError;
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

/// `model.layers.0.self_attn.q_proj`
fn module_path(layer: usize, site: LinearSite) -> String {
    format!("model.layers.{layer}.{}", site.module())
}

impl LoraModule {
    /// Name of the linear, as the base's files write it.
    pub fn path(&self) -> String {
        module_path(self.layer, self.site)
    }

    /// That both halves stay finite under the scale, whichever of them a device multiplies with it.
    pub fn check_scaled(&self) -> Result<(), ModelError> {
        let largest = self.a.iter().chain(&self.b).fold(1f32, |largest, value| largest.max(value.abs()));
        if (self.scale * largest).is_finite() {
            return Ok(());
        }
        Err(ModelError::Invalid(format!(
            "{}: the scale {} (lora_alpha by rank) times the weight {largest} is not a finite f32",
            self.path(),
            self.scale
        )))
    }
}

/// Low-rank update of a matrix that is known by its name alone; what it is made of agrees with itself.
#[derive(Debug, Clone)]
pub struct ForeignModule {
    /// As the base's files name it, without `.weight`.
    pub path: String,
    /// Rank, at least 1.
    pub rank: usize,
    /// As of [`LoraModule`].
    pub scale: f32,
    /// Width of its input.
    pub inner: usize,
    /// Width of its output.
    pub out: usize,
    /// `A`, row-major `[rank, inner]`.
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
    /// Every targeted matrix of a base whose architecture is not known here, by name.
    pub foreign: Vec<ForeignModule>,
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
