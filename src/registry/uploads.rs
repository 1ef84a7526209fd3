//! Files that clients send: kept aside in a directory of their own until they are whole and checked, and gone with it otherwise,
//! also after a crash.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::RegistryError;
use crate::model::lora::peft::{CONFIG_FILE, WEIGHTS_FILE};
use crate::store::{DataDir, StoreError};

/// Uploads at the same time: each may take as much disk as one upload is allowed.
const TOGETHER: usize = 4;
/// Bytes that are collected before they are handed to the disk.
const WRITE_BYTES: usize = 1 << 20;

pub(super) struct Uploads {
    dir: PathBuf,
    next: AtomicU64,
    places: Arc<Semaphore>,
}

impl Uploads {
    /// Removes what broken uploads of earlier processes left.
    pub(super) fn open(data: &DataDir) -> Result<Self, StoreError> {
        let dir = data.path().join("uploads");
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(StoreError::io("remove", &dir)(error)),
            _ => {}
        }
        fs::create_dir(&dir).map_err(StoreError::io("create", &dir))?;
        Ok(Self { dir, next: AtomicU64::new(0), places: Arc::new(Semaphore::new(TOGETHER)) })
    }

    pub(super) fn begin(&self) -> Result<Upload, RegistryError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| RegistryError::TooManyUploads)?;
        let dir = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&dir).map_err(StoreError::io("create", &dir))?;
        Ok(Upload { dir, _place: place })
    }
}

/// One upload. Its files leave the disk with it.
#[derive(Debug)]
pub struct Upload {
    dir: PathBuf,
    _place: OwnedSemaphorePermit,
}

/// The files of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterFile {
    /// `adapter_config.json`.
    Config,
    /// `adapter_model.safetensors`.
    Weights,
}

impl AdapterFile {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Config, Self::Weights];

    /// Name of the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => CONFIG_FILE,
            Self::Weights => WEIGHTS_FILE,
        }
    }
}

impl Upload {
    /// Begins to write a file.
    pub async fn file(&self, file: AdapterFile) -> Result<Writing, RegistryError> {
        let path = self.dir.join(file.name());
        let opened = tokio::fs::File::create(&path).await.map_err(StoreError::io("create", &path))?;
        Ok(Writing { path, file: tokio::io::BufWriter::with_capacity(WRITE_BYTES, opened) })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(%error, "an upload's files were not removed; the next start does it");
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct Writing {
    path: PathBuf,
    file: tokio::io::BufWriter<tokio::fs::File>,
}

impl Writing {
    /// Appends.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        Ok(self.file.write_all(bytes).await.map_err(StoreError::io("write", &self.path))?)
    }

    /// Everything that was written can be read when this returns.
    pub async fn finish(mut self) -> Result<(), RegistryError> {
        Ok(self.file.flush().await.map_err(StoreError::io("write", &self.path))?)
    }
}
