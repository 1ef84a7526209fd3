//! From the configuration to a base on disk: which files, which public name.

use std::path::{Path, PathBuf};

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
    let (path, name) = match &config.model {
        ModelSource::Bundled(bundle) => (bundle.model.clone(), "switchyard-base".to_owned()),
        ModelSource::Path(path) => (path.clone(), file_name(path)),
        ModelSource::Hub(model) => (hub::fetch(&config.hub, model)?, model.repository.clone()),
    };
    let checkpoint = loader::open(&path).with_context(|| format!("cannot load the base {}", path.display()))?;
    let name = config.model_name.clone().unwrap_or_else(|| public_name(&name));
    Ok(Base { name, checkpoint })
}

/// `dir/Llama.Q4.gguf` -> `Llama.Q4`; the resolved directory's name for `.` and the like.
fn file_name(path: &Path) -> String {
    let resolved: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = resolved.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.strip_suffix(".gguf").map(str::to_owned).unwrap_or(name)
}

/// A name that can stand in a request: `@` separates versions, spaces are hard to type.
fn public_name(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_ascii_graphic() && c != '@' { c } else { '-' }).take(200).collect();
    if name.is_empty() { "base".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_names_can_be_typed() {
        assert_eq!(public_name("org/My Model@2"), "org/My-Model-2");
        assert_eq!(public_name(""), "base");
        assert_eq!(file_name(Path::new("some/dir/Llama.Q4.gguf")), "Llama.Q4");
    }
}
