//! An adapter as mistralrs reads it: every module with one rank and the scale 1, by its whole name. What adapters may say beside that
//! (ranks and scales of some modules, rsLoRA, layers that are left out) mistralrs does not know; here it has been worked out before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::load::Shelf;
use crate::model::config::LinearSite;
use crate::model::lora::{ForeignModule, LoraModule, LoraWeights, PreparedAdapter};
use crate::model::{AdapterPreparer, ModelConfig, ModelError};

/// Prepares adapters by loading models that have them.
pub(super) struct Merger(pub(super) Arc<Shelf>);

impl AdapterPreparer for Merger {
    fn prepare(&self, weights: LoraWeights) -> Result<PreparedAdapter, ModelError> {
        if self.0.path.is_file() {
            return Err(ModelError::Invalid(
                "the backend mistralrs merges adapters into weights in safetensors files; this base is a GGUF file".to_owned(),
            ));
        }
        let mut updates = merged(&weights, &self.0.model)?;
        updates.extend(foreign(&weights, &self.0.matrices()?)?);
        let (id, max_rank) = (weights.id, weights.max_rank);
        drop(weights);
        let instance = self.0.load(Some(&Adapter { updates, rank: max_rank }))?;
        Ok(PreparedAdapter { id, bytes: instance.bytes, max_rank, inner: Box::new(Arc::new(instance)) })
    }
}

/// What is merged into a base.
pub(super) struct Adapter {
    updates: Vec<Update>,
    /// Of all updates.
    rank: usize,
}

/// The low-rank update of one matrix of the base's files, its scale in `b`.
#[derive(Debug, PartialEq)]
struct Update {
    path: String,
    rank: usize,
    inner: usize,
    out: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

/// One update for each matrix: those of linears that files store together are together again.
fn merged(weights: &LoraWeights, model: &ModelConfig) -> Result<Vec<Update>, ModelError> {
    let by_place: BTreeMap<(usize, LinearSite), &LoraModule> =
        weights.modules.iter().map(|module| ((module.layer, module.site), module)).collect();
    let mut updates = Vec::new();
    for layer in 0..model.layers {
        for matrix in model.anatomy().modules {
            let parts: Vec<&LoraModule> = matrix.sites.iter().filter_map(|site| by_place.get(&(layer, *site)).copied()).collect();
            let Some(first) = parts.first() else { continue };
            if parts.len() != matrix.sites.len() || parts.iter().any(|part| part.a != first.a) {
                let text =
                    format!("the adapter changes a part of model.layers.{layer}.{} alone, which mistralrs cannot", matrix.path);
                return Err(ModelError::Invalid(text));
            }
            let (out, inner) = model.module_shape(matrix);
            let scaled = |part: &&LoraModule| part.b.iter().map(|value| value * part.scale).collect::<Vec<f32>>();
            updates.push(Update {
                path: format!("model.layers.{layer}.{}", matrix.path),
                rank: first.rank,
                inner,
                out,
                a: first.a.clone(),
                b: parts.iter().flat_map(scaled).collect(),
            });
        }
    }
    Ok(updates)
}

/// Ends of the names of what mistralrs merges into, whatever the architecture: others it would pass over in silence.
const MERGED: [&str; 14] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "qkv_proj",
    "out_proj",
    "dense",
    "gate_proj",
    "up_proj",
    "down_proj",
    "gate_up_proj",
    "fc1",
    "fc2",
    "c_fc",
];

/// Updates of a base whose architecture is not known here: what they change has to be a matrix of its files that mistralrs merges into.
fn foreign(weights: &LoraWeights, matrices: &BTreeMap<String, [usize; 2]>) -> Result<Vec<Update>, ModelError> {
    let update = |module: &ForeignModule| {
        let ForeignModule { path, rank, scale, inner, out, a, b } = module;
        let wrong = |problem: String| Err(ModelError::Invalid(format!("the adapter changes {path}{problem}")));
        match matrices.get(path) {
            None => return wrong(", which this base does not have".to_owned()),
            Some(shape) if *shape != [*out, *inner] => {
                return wrong(format!(" as if it were {:?}; in this base it is {shape:?}", [out, inner]));
            }
            Some(_) => {}
        }
        let known = path.rsplit('.').next().is_some_and(|name| MERGED.contains(&name));
        if !known || path.contains("expert") || !path.starts_with("model.layers.") {
            return wrong(", into which mistralrs merges nothing: attention and dense feed-forward layers are right".to_owned());
        }
        let b = b.iter().map(|value| value * scale).collect();
        Ok(Update { path: path.clone(), rank: *rank, inner: *inner, out: *out, a: a.clone(), b })
    };
    weights.foreign.iter().map(update).collect()
}

impl Update {
    /// `A` and `B` with more rank, which changes nothing: the rows and columns that are added are 0.
    fn padded(&self, rank: usize) -> (Vec<f32>, Vec<f32>) {
        let mut a = self.a.clone();
        a.resize(rank * self.inner, 0.0);
        let mut b = Vec::with_capacity(self.out * rank);
        for row in self.b.chunks(self.rank.max(1)) {
            b.extend_from_slice(row);
            b.resize(b.len() + rank - row.len(), 0.0);
        }
        (a, b)
    }
}

impl Adapter {
    /// Writes its weights; its settings, and where the weights are.
    pub(super) fn write(&self, folder: &Path) -> Result<(Value, PathBuf), String> {
        let rank = self.rank;
        let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let halves = self.updates.iter().flat_map(|update| {
            let (a, b) = update.padded(rank);
            let name = |half: &str| format!("base_model.model.{}.{half}.weight", update.path);
            [(name("lora_A"), vec![rank, update.inner], bytes(a)), (name("lora_B"), vec![update.out, rank], bytes(b))]
        });
        let halves: Vec<(String, Vec<usize>, Vec<u8>)> = halves.collect();
        let views = halves.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
        let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
        let path = folder.join("adapter_model.safetensors");
        let written = views.and_then(|views| safetensors::serialize_to_file(views, None, &path));
        written.map_err(|error| format!("an adapter cannot be written for it: {error}"))?;
        let targets: Vec<String> = self.updates.iter().map(|update| format!("^{}$", update.path.replace('.', "\\."))).collect();
        Ok((json!({"r": rank, "lora_alpha": rank, "target_modules": targets}), path))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn more_rank_changes_nothing() {
        let update = Update { path: "m".to_owned(), rank: 1, inner: 2, out: 3, a: vec![1.0, 2.0], b: vec![3.0, 4.0, 5.0] };
        let (a, b) = update.padded(2);
        assert_eq!(a, [1.0, 2.0, 0.0, 0.0]);
        assert_eq!(b, [3.0, 0.0, 4.0, 0.0, 5.0, 0.0]);
        assert_eq!(update.padded(1), (update.a.clone(), update.b.clone()));
    }
}
