//! From the configuration to a base on disk: which files.

use std::path::PathBuf;

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
    let path = find(config)?;
    let mut checkpoint = loader::open(&path).with_context(|| format!("cannot load the base {}", path.display()))?;
    if let Some(limit) = config.max_context {
        checkpoint.config.context_length = checkpoint.config.context_length.min(limit);
    }
    Ok(Base { name: config.base_name(), checkpoint })
}

/// Finds (and for a hub id downloads) the base's files.
fn find(config: &Config) -> anyhow::Result<PathBuf> {
    Ok(match &config.model {
        ModelSource::Bundled(bundle) => bundle.model.clone(),
        ModelSource::Path(path) => path.clone(),
        ModelSource::Hub(model) => hub::fetch(&config.hub, model)?,
    })
}

/// A base that another engine computes: what it says of itself, without its tensors, and where it is. Blocks.
#[cfg(feature = "mistralrs")]
pub(crate) fn describe(config: &Config) -> anyhow::Result<(Base, PathBuf)> {
    let path = find(config)?;
    let described = loader::describe(&path);
    let mut checkpoint = described.with_context(|| format!("cannot load the base {}", path.display()))?;
    if let Some(limit) = config.max_context {
        checkpoint.config.context_length = checkpoint.config.context_length.min(limit);
    }
    Ok((Base { name: config.base_name(), checkpoint }, path))
}
