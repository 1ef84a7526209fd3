//! Adapters of bases whose architecture is not known here: what they change is known by its name, and what they are made of has to agree
//! with itself. Whether the base has it is for whoever computes it to say.

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use super::config::AdapterConfig;
use super::{CONFIG_FILE, Half, Stored, WEIGHTS_FILE, invalid, values};
use crate::model::ModelError;
use crate::model::lora::ForeignModule;

/// Every matrix that the file has both halves of, by name.
pub(super) fn modules(config: &AdapterConfig, tensors: &SafeTensors<'_>) -> Result<Vec<ForeignModule>, ModelError> {
    let mut named = tensors.tensors();
    // The library's order is that of a hash map; errors should not change from run to run.
    named.sort_by(|(left, _), (right, _)| left.cmp(right));
    let mut found = BTreeMap::new();
    for (name, view) in named {
        let (path, half) =
            place(&name).ok_or_else(|| invalid(format!("{WEIGHTS_FILE} holds {name}: it is no low-rank half of a matrix")))?;
        let key = (path.to_owned(), half);
        if let Some(twice) = found.insert(key, Stored { name, view }) {
            return Err(invalid(format!("{WEIGHTS_FILE} holds {} twice, with and without adapter name", twice.name)));
        }
    }
    let paths: Vec<String> = found.keys().filter(|(_, half)| *half == Half::A).map(|(path, _)| path.clone()).collect();
    if let Some(target) = config.lacking(&paths) {
        return Err(invalid(format!("{CONFIG_FILE}: target_modules names {target:?}, of which {WEIGHTS_FILE} holds nothing")));
    }
    let mut modules = Vec::new();
    for path in paths {
        let Some((rank, scale)) = config.rank_and_scale(&path)? else {
            return Err(invalid(format!("{WEIGHTS_FILE} holds {path}, which {CONFIG_FILE} does not target (target_modules)")));
        };
        let mut take = |half: Half| {
            let stored = found.remove(&(path.clone(), half));
            stored.ok_or_else(|| {
                invalid(format!("{WEIGHTS_FILE} lacks {path}.{}.weight, which {CONFIG_FILE} asks for", half.name()))
            })
        };
        let (a, b) = (take(Half::A)?, take(Half::B)?);
        let ([_, inner], [out, _]) = (a.view.shape(), b.view.shape()) else {
            return Err(invalid(format!("{WEIGHTS_FILE} holds halves of {path} that are no matrices")));
        };
        let (inner, out) = (*inner, *out);
        let (a, b) = (values(&a, [rank, inner], Half::A)?, values(&b, [out, rank], Half::B)?);
        modules.push(ForeignModule { path, rank, scale, inner, out, a, b });
    }
    if let Some(stored) = found.values().next() {
        return Err(invalid(format!("{WEIGHTS_FILE} holds {} without its other half", stored.name)));
    }
    if modules.is_empty() {
        return Err(invalid(format!("{WEIGHTS_FILE} holds nothing")));
    }
    Ok(modules)
}

/// `base_model.model.model.layers.3.mlp.up_proj.lora_A[.default].weight` -> (`model.layers.3.mlp.up_proj`, A).
fn place(name: &str) -> Option<(&str, Half)> {
    let rest = name.strip_prefix("base_model.model.")?.strip_suffix(".weight")?;
    let rest = rest.strip_suffix(".default").unwrap_or(rest);
    match rest.strip_suffix(".lora_A") {
        Some(path) => Some((path, Half::A)),
        None => Some((rest.strip_suffix(".lora_B")?, Half::B)),
    }
}
