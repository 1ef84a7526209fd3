//! Files of versions: one directory per content digest. A directory is complete or not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::RegistryError;
use super::shared::Shared;
use crate::ids::VersionId;
use crate::model::lora::peft::{AdapterFiles, CONFIG_FILE, LINEAGE_FILE, WEIGHTS_FILE};
use crate::store::objects::{touch, trim};
use crate::store::{Access, DataDir, StoreError, rename_durably, write_durably};

/// Begins the name of a directory that is being written.
const UNFINISHED: &str = "unfinished-";
/// Begins the name of a directory that is being filled from the object store.
const COMING: &str = "coming-";
/// Most bytes of what says where a version comes from.
const MAX_LINEAGE: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct VersionFiles {
    dir: PathBuf,
    /// Where replicas keep them together; `dir` holds those that were used last, then.
    shared: Option<Arc<Shared>>,
    /// Numbers directories that are being filled.
    next: AtomicU64,
}

impl VersionFiles {
    pub(super) fn open(data: &DataDir, shared: Option<Arc<Shared>>) -> Result<Self, StoreError> {
        let dir = data.path().join("versions");
        fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
        for entry in fs::read_dir(&dir).map_err(StoreError::io("read", &dir))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(COMING) {
                remove(&entry.path())?;
            }
        }
        Ok(Self { dir, shared, next: AtomicU64::new(0) })
    }

    /// Gives the files of a version to the other replicas, with where it comes from as the directory says that it was read from.
    pub(super) fn share(&self, id: VersionId, files: &AdapterFiles, from: Option<&Path>) -> Result<(), StoreError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        shared.put(id, CONFIG_FILE, files.config.to_vec())?;
        shared.put(id, WEIGHTS_FILE, files.weights.to_vec())?;
        match from.map(lineage).transpose()?.flatten() {
            Some(text) => shared.put(id, LINEAGE_FILE, text),
            None => Ok(()),
        }
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
        rename_durably(&unfinished, &place)?;
        self.trim();
        Ok(())
    }

    /// Keeps beside a version that is stored where it comes from, as the directory says that it was read from. The first word stays.
    pub(super) fn keep_lineage(&self, id: VersionId, from: &Path) -> Result<(), StoreError> {
        let to = self.place(id).join(LINEAGE_FILE);
        match lineage(from)? {
            Some(text) if !to.exists() => write_durably(&to, &text, Access::Normal),
            _ => Ok(()),
        }
    }

    /// Reads the files of a version back; bytes that changed on disk are an error. Of replicas that share them, one that has no good
    /// copy fetches one.
    pub(super) fn read(&self, id: VersionId) -> Result<AdapterFiles, RegistryError> {
        let read = self.read_here(id);
        let Some(shared) = &self.shared else { return read };
        if read.is_ok() {
            touch(&self.place(id));
            return read;
        }
        let place = self.place(id);
        if place.exists() {
            tracing::warn!(%id, "a damaged copy of an adapter's version is fetched again");
        }
        let coming = self.dir.join(format!("{COMING}{}-{id}", self.next.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&coming).map_err(StoreError::io("create", &coming))?;
        let fetched = shared.fetch(id, &coming).and_then(|()| {
            remove(&place)?;
            match rename_durably(&coming, &place) {
                // Somebody else was faster.
                Err(_) if place.is_dir() => Ok(()),
                other => other,
            }
        });
        remove(&coming)?;
        fetched?;
        self.trim();
        self.read_here(id)
    }

    /// Of replicas that share versions each keeps those that it used last.
    fn trim(&self) {
        if let Some(shared) = &self.shared {
            trim(&self.dir, shared.cache(), |name| name.parse::<VersionId>().is_ok());
        }
    }

    fn read_here(&self, id: VersionId) -> Result<AdapterFiles, RegistryError> {
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

    /// Where the files of a version are.
    pub(super) fn place(&self, id: VersionId) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

/// Where a version comes from, as the directory says that it was read from.
fn lineage(from: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let from = from.join(LINEAGE_FILE);
    match fs::read(&from) {
        Ok(text) => Ok(Some(text).filter(|text| text.len() <= MAX_LINEAGE)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", &from)(error)),
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StoreError::io("remove", path)),
    }
}
