//! From the configuration to a base on disk: which files.

use anyhow::Context;

use super::hub;
use crate::config::{Config, ModelSource};
use crate::model::loader::{self, Checkpoint};

/// A base, read but not yet packed for its device.
pub(crate) struct Base {
    pub(crate) name: String,
    pub(crate) checkpoint: Checkpoint,
}

/// Finds (and for a hub id downloads) the base's files and reads them. Blocks.
pub(crate) fn open(config: &Config) -> anyhow::Result<Base> {
    let path = match &config.model {
        ModelSource::Bundled(bundle) => bundle.model.clone(),
        ModelSource::Path(path) => path.clone(),
        ModelSource::Hub(model) => hub::fetch(&config.hub, model)?,
    };
    let mut checkpoint = loader::open(&path).with_context(|| format!("cannot load the base {}", path.display()))?;
    if let Some(limit) = config.max_context {
        checkpoint.config.context_length = checkpoint.config.context_length.min(limit);
    }
    Ok(Base { name: config.base_name(), checkpoint })
}
