//! An object store that replicas share: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage, or a directory. Whole
//! objects under keys; what is in them is named by its content, so that it is verified by whoever reads it. Knows no rules about them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::buffered::BufWriter;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ClientOptions, Error, ObjectStore, ObjectStoreExt, ObjectStoreScheme, RetryConfig};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use super::StoreError;

/// Bytes that are read from a file at once.
const PIECE: usize = 1 << 20;
/// Longest silence of the store.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest time that one object may take.
const WHOLE: Duration = Duration::from_secs(3_600);
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(180);
/// Times that it is tried again.
const TRIES: usize = 3;
/// Above so many bytes an object is written in parts.
const LARGE: usize = 8 << 20;
/// The object that says whose the others are. To write it proves at the start that the store can be written to.
const MARK: &str = "switchyard";
/// Longest such object, bytes.
const LONGEST_MARK: u64 = 4_096;

/// Where objects are.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectsLocation {
    /// `s3://bucket/prefix`, `gs://`, `az://` or `file:///`.
    pub url: Url,
    /// What the cloud's own tools read from the environment: `AWS_ENDPOINT_URL`, `AWS_SECRET_ACCESS_KEY` ... Holds secrets.
    pub options: Vec<(String, String)>,
    /// Most bytes of objects that each kind of them may take in the data directory.
    pub cache: u64,
}

impl ObjectsLocation {
    /// Understands an address; an error says what would be right.
    ///
    /// # Errors
    ///
    /// What is right, where this is not.
    pub fn parse(text: &str) -> Result<Url, &'static str> {
        const RIGHT: &str =
            "an address like s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory is right";
        let url = Url::parse(text).map_err(|_| RIGHT)?;
        let known = match url.scheme() {
            "file" => url.host_str().is_none() && url.path().len() > 1,
            "s3" | "gs" | "az" => url.host_str().is_some(),
            _ => false,
        };
        let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        if known && bare { Ok(url) } else { Err(RIGHT) }
    }
}

impl fmt::Debug for ObjectsLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectsLocation").field("url", &self.url.as_str()).field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// An object, as a list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// When it was written, seconds since 1970, by the store's clock.
    pub written: i64,
}

/// An object store; cheap to clone.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    cache: u64,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("store", &self.store.to_string()).finish_non_exhaustive()
    }
}

/// A builder with everything that it understands of the options.
macro_rules! built {
    ($builder:ty, $location:expr) => {{
        let builder =
            $location.options.iter().fold(<$builder>::new().with_url($location.url.as_str()), |builder, (name, value)| {
                match name.to_ascii_lowercase().parse() {
                    Ok(name) => builder.with_config(name, value),
                    // Of another tool.
                    Err(_) => builder,
                }
            });
        let allow_http = $location.options.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("AWS_ALLOW_HTTP") && value == "true"
                || name.starts_with("AWS_ENDPOINT_URL") && value.starts_with("http://")
        });
        let client = ClientOptions::new().with_timeout(WHOLE).with_read_timeout(ANSWER).with_connect_timeout(CONNECT);
        let client = client.with_allow_http(allow_http);
        let retry = RetryConfig { max_retries: TRIES, retry_timeout: AGAIN, ..RetryConfig::default() };
        let builder = builder.with_client_options(client).with_retry(retry);
        Arc::new(builder.build().map_err(failed("open the object store at", $location.url.as_str()))?) as Arc<dyn ObjectStore>
    }};
}

impl Objects {
    /// Opens the store and writes into it whose it is, so that wrong credentials are found at the start. What belongs to another
    /// installation is refused: each would remove what the other one needs.
    pub async fn open(location: &ObjectsLocation, installation: &str) -> Result<Self, StoreError> {
        let opening = || failed("open the object store at", location.url.as_str());
        let (scheme, prefix) = ObjectStoreScheme::parse(&location.url).map_err(|error| opening()(error.into()))?;
        let (store, prefix): (Arc<dyn ObjectStore>, Key) = match scheme {
            ObjectStoreScheme::AmazonS3 => (built!(AmazonS3Builder, location), prefix),
            ObjectStoreScheme::GoogleCloudStorage => (built!(GoogleCloudStorageBuilder, location), prefix),
            ObjectStoreScheme::MicrosoftAzure => (built!(MicrosoftAzureBuilder, location), prefix),
            _ => {
                let path = PathBuf::from(location.url.path());
                tokio::fs::create_dir_all(&path).await.map_err(StoreError::io("create", &path))?;
                let directory = LocalFileSystem::new_with_prefix(&path).map_err(opening())?;
                (Arc::new(directory.with_fsync(true)), Key::default())
            }
        };
        let objects = Self { store, prefix, cache: location.cache };
        let mark = format!("Objects of switchyard, format 1, installation {installation}.\n");
        let is_ours = |found: Option<Vec<u8>>| found.is_none_or(|found| found == mark.as_bytes());
        let foreign = || StoreError::Foreign { url: location.url.to_string() };
        if !is_ours(objects.get(MARK, LONGEST_MARK).await?) {
            return Err(foreign());
        }
        objects.put(MARK, mark.clone().into_bytes()).await?;
        // Another installation may have begun at the same moment.
        if is_ours(objects.get(MARK, LONGEST_MARK).await?) { Ok(objects) } else { Err(foreign()) }
    }

    /// Most bytes of objects that each kind of them may take on this machine.
    pub const fn cache(&self) -> u64 {
        self.cache
    }

    fn key(&self, key: &str) -> Key {
        key.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Writes an object, in one piece: others see all of it or nothing.
    pub async fn put(&self, key: &str, content: Vec<u8>) -> Result<(), StoreError> {
        if content.len() > LARGE {
            let mut to = BufWriter::new(Arc::clone(&self.store), self.key(key));
            to.write_all(&content).await.map_err(failed_to_write(key))?;
            return to.shutdown().await.map_err(failed_to_write(key));
        }
        self.store.put(&self.key(key), content.into()).await.map_err(failed("write the object", key))?;
        Ok(())
    }

    /// Writes a file as an object; others see all of it or nothing.
    pub async fn put_file(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let mut file = tokio::fs::File::open(path).await.map_err(StoreError::io("read", path))?;
        let mut to = BufWriter::new(Arc::clone(&self.store), self.key(key));
        let mut buffer = vec![0u8; PIECE];
        loop {
            let read = file.read(&mut buffer).await.map_err(StoreError::io("read", path))?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
            to.write_all(piece).await.map_err(failed_to_write(key))?;
        }
        to.shutdown().await.map_err(failed_to_write(key))
    }

    /// Reads an object of at most so many bytes; `None` where there is none.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let doing = "read the object";
        let found = match self.store.get(&self.key(key)).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            other => other.map_err(failed(doing, key))?,
        };
        if found.meta.size > limit {
            let reason = format!("it has {} bytes, more than {limit}", found.meta.size);
            return Err(StoreError::Damaged { path: PathBuf::from(key), reason });
        }
        Ok(Some(found.bytes().await.map_err(failed(doing, key))?.to_vec()))
    }

    /// Writes an object into a new file, synced, and returns the SHA-256 of what was written; `None` where there is no such object.
    pub async fn get_file(&self, key: &str, path: &Path) -> Result<Option<String>, StoreError> {
        let doing = "read the object";
        let found = match self.store.get(&self.key(key)).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            other => other.map_err(failed(doing, key))?,
        };
        let mut file = tokio::fs::File::create(path).await.map_err(StoreError::io("create", path))?;
        let (mut digest, mut pieces) = (Sha256::new(), found.into_stream());
        while let Some(piece) = pieces.try_next().await.map_err(failed(doing, key))? {
            digest.update(&piece);
            file.write_all(&piece).await.map_err(StoreError::io("write", path))?;
        }
        file.sync_all().await.map_err(StoreError::io("write", path))?;
        Ok(Some(crate::ids::hex(&digest.finalize())))
    }

    /// Objects whose keys begin with a directory.
    pub async fn list(&self, directory: &str) -> Result<Vec<Listed>, StoreError> {
        let under = self.key(directory);
        let found: Vec<_> =
            self.store.list(Some(&under)).try_collect().await.map_err(failed("list the objects of", directory))?;
        let listed = found.into_iter().filter_map(|meta| {
            let parts: Vec<String> = meta.location.prefix_match(&self.prefix)?.map(|part| part.as_ref().to_owned()).collect();
            Some(Listed { key: parts.join("/"), written: meta.last_modified.timestamp() })
        });
        Ok(listed.collect())
    }

    /// Removes an object; one that is not there is no error.
    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        match self.store.delete(&self.key(key)).await {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other.map_err(failed("remove the object", key)),
        }
    }

    /// Removes what is under a directory that nobody needs. What was written a moment ago may be needed in a moment: objects stay for
    /// a day.
    pub async fn sweep(&self, directory: &str, now: i64, needed: impl Fn(&str) -> bool) -> Result<usize, StoreError> {
        const YOUNG: i64 = 86_400;
        let mut removed = 0;
        for object in self.list(directory).await? {
            if object.written + YOUNG > now || needed(&object.key) {
                continue;
            }
            // Somebody may have written it again since it was listed.
            let again = match self.store.head(&self.key(&object.key)).await {
                Err(Error::NotFound { .. }) => continue,
                other => other.map_err(failed("look at the object", &object.key))?,
            };
            if again.last_modified.timestamp() + YOUNG <= now {
                self.remove(&object.key).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Brings what is kept of objects in a directory under a number of bytes: what was used longest ago goes first. What is in use is
/// open, and stays readable. What cannot be removed now is removed another time.
pub fn trim(directory: &Path, budget: u64, is_object: impl Fn(&str) -> bool) {
    if let Err(error) = make_room(directory, budget, is_object) {
        tracing::warn!(%error, "copies of objects take more than objects_cache");
    }
}

fn make_room(directory: &Path, budget: u64, is_object: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    let reading = || StoreError::io("read", directory);
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(reading())? {
        let entry = entry.map_err(reading())?;
        if entry.file_name().to_str().is_some_and(&is_object) {
            let Ok(meta) = entry.metadata() else { continue };
            let bytes = if meta.is_dir() { bytes_in(&entry.path()) } else { meta.len() };
            kept.push((meta.modified().ok(), bytes, entry.path(), meta.is_dir()));
        }
    }
    kept.sort();
    let mut total: u64 = kept.iter().map(|(_, bytes, ..)| bytes).sum();
    // The last one is what somebody is about to use.
    kept.pop();
    for (_, bytes, path, is_dir) in kept {
        if total <= budget {
            break;
        }
        let removed = if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            // Somebody else makes room, too.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(StoreError::io("remove", &path))?,
        }
        total -= bytes;
    }
    Ok(())
}

/// Notes that something that [`trim`] looks at was used now.
pub fn touch(path: &Path) {
    let touched = std::fs::File::open(path).and_then(|file| file.set_modified(std::time::SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!(%error, "the time of use of an object is not noted");
    }
}

fn bytes_in(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

fn failed(doing: &'static str, key: &str) -> impl FnOnce(Error) -> StoreError {
    let key = key.to_owned();
    move |source| StoreError::Objects { doing, key, source: Box::new(source) }
}

fn failed_to_write(key: &str) -> impl FnOnce(std::io::Error) -> StoreError {
    let key = key.to_owned();
    move |source| {
        let source = Error::Generic { store: "writer", source: Box::new(source) };
        StoreError::Objects { doing: "write the object", key, source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    async fn in_directory(dir: &Path) -> Objects {
        let url = ObjectsLocation::parse(&format!("file://{}/a/b", dir.display())).unwrap();
        Objects::open(&ObjectsLocation { url, options: Vec::new(), cache: 100 }, "mine").await.unwrap()
    }

    #[tokio::test]
    async fn objects_are_read_back_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let objects = in_directory(dir.path()).await;
        objects.put("versions/1/a", b"abc".to_vec()).await.unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, vec![7u8; 3 * PIECE + 1]).unwrap();
        objects.put_file("versions/2/b", &file).await.unwrap();
        assert_eq!(objects.get("versions/1/a", 3).await.unwrap().unwrap(), b"abc");
        assert!(matches!(objects.get("versions/1/a", 2).await, Err(StoreError::Damaged { .. })));
        assert_eq!(objects.get("versions/1/b", 9).await.unwrap(), None);
        let back = dir.path().join("back");
        let digest = objects.get_file("versions/2/b", &back).await.unwrap().unwrap();
        assert_eq!(digest, crate::ids::hex(&Sha256::digest(std::fs::read(&file).unwrap())));
        assert_eq!(std::fs::read(&back).unwrap(), std::fs::read(&file).unwrap());
        assert_eq!(objects.get_file("versions/3", &back).await.unwrap(), None);
        let mut keys: Vec<_> = objects.list("versions").await.unwrap().into_iter().map(|listed| listed.key).collect();
        keys.sort();
        assert_eq!(keys, ["versions/1/a", "versions/2/b"]);
        objects.remove("versions/1/a").await.unwrap();
        objects.remove("versions/1/a").await.unwrap();
        assert_eq!(objects.list("versions").await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_belongs_to_another_installation_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        in_directory(dir.path()).await;
        in_directory(dir.path()).await;
        let url = ObjectsLocation::parse(&format!("file://{}/a/b", dir.path().display())).unwrap();
        let location = ObjectsLocation { url, options: Vec::new(), cache: 100 };
        assert!(matches!(Objects::open(&location, "theirs").await, Err(StoreError::Foreign { .. })));
    }

    #[tokio::test]
    async fn what_nobody_needs_goes_after_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let objects = in_directory(dir.path()).await;
        for key in ["files/a", "files/b"] {
            objects.put(key, vec![1]).await.unwrap();
        }
        let now = objects.list("files").await.unwrap()[0].written;
        assert_eq!(objects.sweep("files", now + 86_000, |_| false).await.unwrap(), 0, "they are young");
        assert_eq!(objects.sweep("files", now + 90_000, |key| key == "files/a").await.unwrap(), 1);
        assert_eq!(objects.list("files").await.unwrap()[0].key, "files/a");
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        for (age, name) in [(40, "a"), (30, "b"), (20, "other"), (10, "c")] {
            std::fs::create_dir(place(name)).unwrap();
            std::fs::write(place(name).join("weights"), [0; 40]).unwrap();
            let then = std::time::SystemTime::now() - Duration::from_secs(age);
            std::fs::File::open(place(name)).unwrap().set_modified(then).unwrap();
        }
        touch(&place("a"));
        trim(dir.path(), 80, |name| name != "other");
        let left = ["a", "b", "c", "other"].map(|name| place(name).exists());
        assert_eq!(left, [true, false, true, true], "b was used longest ago, and the other is not ours");
        trim(dir.path(), 1, |name| name != "other");
        assert!(place("a").exists() && !place("c").exists(), "one that is too large alone is used all the same");
    }

    #[test]
    fn addresses_are_understood_or_refused() {
        for right in ["s3://bucket", "s3://bucket/a/b", "gs://b/c", "az://c/d", "file:///srv/objects"] {
            ObjectsLocation::parse(right).unwrap();
        }
        for wrong in ["s3://", "bucket", "https://x/y", "file:///", "file://host/x", "s3://user:secret@bucket/x", "s3://b?x=1"] {
            ObjectsLocation::parse(wrong).unwrap_err();
        }
    }
}
