//! Files of versions: one directory per content digest. A directory is complete or not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::RegistryError;
use crate::ids::VersionId;
use crate::model::lora::peft::{AdapterFiles, CONFIG_FILE, LINEAGE_FILE, WEIGHTS_FILE};
use crate::store::{Access, DataDir, StoreError, rename_durably, write_durably};

/// Begins the name of a directory that is being written.
const UNFINISHED: &str = "unfinished-";
/// Most bytes of what says where a version comes from.
const MAX_LINEAGE: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct VersionFiles {
    dir: PathBuf,
}

impl VersionFiles {
    pub(super) fn open(data: &DataDir) -> Result<Self, StoreError> {
        let dir = data.path().join("versions");
        fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
        Ok(Self { dir })
    }

    /// Keeps the files of a version. The caller serializes changes.
    pub(super) fn store(&self, id: VersionId, files: &AdapterFiles) -> Result<(), StoreError> {
        let place = self.place(id);
        if place.is_dir() {
            // Loading again repairs a copy that was damaged on disk.
            if self.read(id).is_ok() {
                return Ok(());
            }
            remove(&place)?;
        }
        let unfinished = self.dir.join(format!("{UNFINISHED}{id}"));
        remove(&unfinished)?;
        fs::create_dir(&unfinished).map_err(StoreError::io("create", &unfinished))?;
        write_durably(&unfinished.join(CONFIG_FILE), &files.config, Access::Normal)?;
        write_durably(&unfinished.join(WEIGHTS_FILE), &files.weights, Access::Normal)?;
        rename_durably(&unfinished, &place)
    }

    /// Keeps beside a version that is stored where it comes from, as the directory says that it was read from. The first word stays.
    pub(super) fn keep_lineage(&self, id: VersionId, from: &Path) -> Result<(), StoreError> {
        let (from, to) = (from.join(LINEAGE_FILE), self.place(id).join(LINEAGE_FILE));
        match fs::read(&from) {
            Ok(text) if text.len() <= MAX_LINEAGE && !to.exists() => write_durably(&to, &text, Access::Normal),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::io("read", &from)(error)),
        }
    }

    /// Reads the files of a version back; bytes that changed on disk are an error.
    pub(super) fn read(&self, id: VersionId) -> Result<AdapterFiles, RegistryError> {
        let place = self.place(id);
        let files = AdapterFiles::read(&place).map_err(RegistryError::Unusable)?;
        if files.digest().map_err(RegistryError::Unusable)? != id {
            let reason = "the stored files no longer have the version's digest".to_owned();
            return Err(StoreError::Damaged { path: place, reason }.into());
        }
        Ok(files)
    }

    /// Removes what no record mentions: versions that are too old, and leftovers of a crash.
    pub(super) fn sweep(&self, referenced: &BTreeSet<VersionId>) -> Result<(), StoreError> {
        let entries = fs::read_dir(&self.dir).map_err(StoreError::io("read", &self.dir))?;
        for entry in entries {
            let entry = entry.map_err(StoreError::io("read", &self.dir))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            // Files that are not ours stay.
            let ours = name.starts_with(UNFINISHED) || name.parse::<VersionId>().is_ok();
            let wanted = name.parse().is_ok_and(|id| referenced.contains(&id));
            if ours && !wanted {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn place(&self, id: VersionId) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StoreError::io("remove", path)),
    }
}
