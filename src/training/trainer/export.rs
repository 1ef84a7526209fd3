//! An adapter as a PEFT directory, with where it comes from.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::TrainError;
use super::settings::Settings;
use crate::model::lora::LoraModule;
pub use crate::model::lora::peft::LINEAGE_FILE;
use crate::model::lora::peft::{CONFIG_FILE, WEIGHTS_FILE};
use crate::store::{Access, write_durably};

/// Where an adapter comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Lineage {
    /// Name of the base.
    pub base: String,
    /// Digest of the base's weights.
    pub base_digest: String,
    /// Digest of the rows that were learnt from.
    pub dataset_digest: String,
    /// The job, where there was one.
    pub job: Option<String>,
    /// Steps done.
    pub step: u64,
    /// All settings.
    pub settings: Settings,
    /// Version of this program.
    pub code: String,
}

/// Writes the directory's files, each whole or not at all; the configuration comes last.
pub fn write(dir: &Path, pairs: &[LoraModule], settings: &Settings, lineage: &Lineage) -> Result<(), TrainError> {
    std::fs::create_dir_all(dir).map_err(|source| TrainError::Disk { doing: "create", path: dir.to_owned(), source })?;
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut stored = BTreeMap::new();
    for pair in pairs {
        let (k, n) = (pair.a.len() / pair.rank, pair.b.len() / pair.rank);
        let name = |half: &str| format!("base_model.model.{}.lora_{half}.weight", pair.path());
        stored.insert(name("A"), (vec![pair.rank, k], bytes(&pair.a)));
        stored.insert(name("B"), (vec![n, pair.rank], bytes(&pair.b)));
    }
    let view = |(shape, bytes)| TensorView::new(Dtype::F32, shape, bytes);
    let tensors: Result<BTreeMap<&String, TensorView<'_>>, _> =
        stored.iter().map(|(name, (shape, bytes))| Ok((name, view((shape.clone(), &bytes[..]))?))).collect();
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let weights = tensors.and_then(|tensors| safetensors::serialize(tensors, metadata));
    let weights = weights.map_err(|error: safetensors::SafeTensorError| TrainError::Export(error.to_string()))?;
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": lineage.base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "use_dora": false,
        "target_modules": settings.targets.iter().map(|site| site.name()).collect::<Vec<_>>(),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
        "layers_to_transform": null,
        "layers_pattern": null,
        "rank_pattern": {},
        "alpha_pattern": {},
    });
    let text = |value: &serde_json::Value| format!("{value:#}\n").into_bytes();
    write_durably(&dir.join(WEIGHTS_FILE), &weights, Access::Normal)?;
    let origin = serde_json::to_value(lineage).map_err(|error| TrainError::Export(error.to_string()))?;
    write_durably(&dir.join(LINEAGE_FILE), &text(&origin), Access::Normal)?;
    Ok(write_durably(&dir.join(CONFIG_FILE), &text(&config), Access::Normal)?)
}
