//! Contents of files, each once, named by its SHA-256: written beside, synced, then renamed. Of replicas that share an object store
//! each keeps copies of those that it used last. Knows no file's name and no owner.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::objects::{Objects, touch, trim};
use super::{DataDir, StoreError, rename_durably};

/// Begins the name of a content that is being written.
const UNFINISHED: &str = "unfinished-";
/// Their directory in the data directory.
const DIRECTORY: &str = "files";
/// Bytes that are collected before they are handed to the disk.
const WRITE_BYTES: usize = 1 << 20;
/// Where contents are in the object store.
pub const SHARED: &str = "files";

/// Where a content is in a data directory, whoever owns it; for commands that read it beside a server.
pub fn place(data_dir: &Path, sha256: &str) -> PathBuf {
    data_dir.join(DIRECTORY).join(sha256)
}

/// The contents of one data directory.
#[derive(Debug)]
pub struct Blobs {
    dir: PathBuf,
    next: AtomicU64,
    /// Where replicas keep them together.
    objects: Option<Objects>,
}

impl Blobs {
    /// Removes what earlier processes left half written.
    pub fn open(data: &DataDir, objects: Option<Objects>) -> Result<Self, StoreError> {
        let dir = data.path().join(DIRECTORY);
        std::fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
        let blobs = Self { dir, next: AtomicU64::new(0), objects };
        for name in blobs.names()?.into_iter().filter(|name| name.starts_with(UNFINISHED)) {
            blobs.remove(&name)?;
        }
        Ok(blobs)
    }

    /// Where replicas keep contents together.
    pub const fn objects(&self) -> Option<&Objects> {
        self.objects.as_ref()
    }

    fn unfinished(&self) -> PathBuf {
        self.dir.join(format!("{UNFINISHED}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Begins to write.
    pub async fn begin(&self) -> Result<BlobWriter, StoreError> {
        let path = self.unfinished();
        let file = tokio::fs::File::create(&path).await.map_err(StoreError::io("create", &path))?;
        let unfinished = Unfinished(path);
        Ok(BlobWriter { unfinished, file: BufWriter::with_capacity(WRITE_BYTES, file), digest: Sha256::new(), bytes: 0 })
    }

    /// Gives a content to the other replicas. Before it is kept: whoever reads in another replica that it is there finds it.
    pub async fn share(&self, whole: &Whole) -> Result<(), StoreError> {
        self.share_file(&whole.sha256, &whole.unfinished.0).await
    }

    /// Gives a content to the other replicas that is in its place here.
    pub async fn share_kept(&self, sha256: &str) -> Result<(), StoreError> {
        self.share_file(sha256, &self.place(sha256)).await
    }

    async fn share_file(&self, sha256: &str, path: &Path) -> Result<(), StoreError> {
        match &self.objects {
            Some(objects) => objects.put_file(&format!("{SHARED}/{sha256}"), path).await,
            None => Ok(()),
        }
    }

    /// Where a content is, which is fetched where only other replicas have it. Nothing is there where nobody has it.
    pub async fn fetch(&self, sha256: &str) -> Result<PathBuf, StoreError> {
        let place = self.place(sha256);
        let Some(objects) = &self.objects else { return Ok(place) };
        if place.exists() {
            touch(&place);
            return Ok(place);
        }
        let coming = Unfinished(self.unfinished());
        match objects.get_file(&format!("{SHARED}/{sha256}"), &coming.0).await? {
            None => {}
            Some(digest) if digest == sha256 => {
                rename_durably(&coming.0, &place)?;
                trim(&self.dir, objects.cache(), |name| !name.starts_with(UNFINISHED));
            }
            Some(digest) => {
                let reason = format!("the object {SHARED}/{sha256} has the digest {digest}");
                return Err(StoreError::Damaged { path: place, reason });
            }
        }
        Ok(place)
    }

    /// Puts a content in its place, durably. The caller sees to it that nobody removes the same content meanwhile.
    pub async fn keep(&self, whole: Whole) -> Result<(), StoreError> {
        let to = self.place(&whole.sha256);
        let (dir, cache) = (self.dir.clone(), self.objects.as_ref().map(Objects::cache));
        let renamed = tokio::task::spawn_blocking(move || {
            let done = rename_durably(&whole.unfinished.0, &to);
            drop(whole);
            // Others have it, too.
            if let Some(cache) = cache {
                trim(&dir, cache, |name| !name.starts_with(UNFINISHED));
            }
            done
        });
        renamed.await.unwrap_or_else(|error| {
            Err(StoreError::Io { doing: "replace", path: self.dir.clone(), source: std::io::Error::other(error) })
        })
    }

    /// Where a content is.
    pub fn place(&self, sha256: &str) -> PathBuf {
        self.dir.join(sha256)
    }

    /// Removes a content; one that is not there is no error.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        remove(&self.dir.join(name))
    }

    /// Names of the contents that are there.
    pub fn contents(&self) -> Result<Vec<String>, StoreError> {
        let mut names = self.names()?;
        names.retain(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        Ok(names)
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let entries = std::fs::read_dir(&self.dir).map_err(StoreError::io("read", &self.dir))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<Result<_, std::io::Error>>().map_err(StoreError::io("read", &self.dir))
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StoreError::io("remove", path)),
    }
}

/// A file that goes away with this value, unless it was renamed.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(%error, "a file that nobody wants was not removed; the next start does it");
        }
    }
}

/// A content that is being written. Dropped, it is gone.
#[derive(Debug)]
pub struct BlobWriter {
    unfinished: Unfinished,
    file: BufWriter<tokio::fs::File>,
    digest: Sha256,
    bytes: u64,
}

impl BlobWriter {
    /// Appends.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        self.digest.update(chunk);
        self.bytes += chunk.len() as u64;
        self.file.write_all(chunk).await.map_err(StoreError::io("write", &self.unfinished.0))
    }

    /// Bytes so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Everything is on the disk when this returns, but not in its place yet.
    pub async fn finish(mut self) -> Result<Whole, StoreError> {
        let synced = async {
            self.file.flush().await?;
            self.file.get_ref().sync_all().await
        };
        synced.await.map_err(StoreError::io("write", &self.unfinished.0))?;
        let sha256 = crate::ids::hex(&self.digest.finalize());
        Ok(Whole { unfinished: self.unfinished, sha256, bytes: self.bytes })
    }
}

/// A content that was written, and is not in its place yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Whole {
    unfinished: Unfinished,
    /// Its name.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_content_has_its_digests_name_and_half_a_content_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let blobs = Blobs::open(&data, None).unwrap();
        for _ in 0..2 {
            let mut writer = blobs.begin().await.unwrap();
            writer.write(b"ab").await.unwrap();
            writer.write(b"c").await.unwrap();
            let whole = writer.finish().await.unwrap();
            assert_eq!(whole.bytes, 3);
            // Of FIPS 180-2.
            assert_eq!(whole.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
            blobs.keep(whole).await.unwrap();
        }
        let mut dropped = blobs.begin().await.unwrap();
        dropped.write(b"gone").await.unwrap();
        drop(dropped);
        assert_eq!(blobs.names().unwrap(), blobs.contents().unwrap());
        assert_eq!(std::fs::read(blobs.place(&blobs.contents().unwrap()[0])).unwrap(), b"abc");
        std::fs::write(dir.path().join("files/unfinished-9"), b"of a crash").unwrap();
        let again = Blobs::open(&data, None).unwrap();
        assert_eq!(again.names().unwrap().len(), 1);
        again.remove(&again.contents().unwrap()[0]).unwrap();
        assert!(again.names().unwrap().is_empty());
    }
}
