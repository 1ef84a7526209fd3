//! The data directory: its lock, and files written by write, fsync, rename, fsync of the directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// Largest state file that is read, bytes. Far above what any room writes.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// As the process's umask says.
    Normal,
    /// The owner only (mode 0600).
    Private,
}

/// A directory that this process owns until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the advisory lock; the kernel releases it when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Creates the directory where it is missing and takes its lock.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private_dir(path)?;
        let path = fs::canonicalize(path).map_err(StoreError::io("open", path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(StoreError::io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path }),
            Err(TryLockError::Error(source)) => Err(StoreError::Io { doing: "lock", path: lock_path, source }),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a JSON state file; `None` where there is none.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        read_json(&self.path, name)
    }

    /// Replaces a JSON state file, durably: after this returns it survives a power cut; before, the old content does.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T, access: Access) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let mut bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
        bytes.push(b'\n');
        write_durably(&path, &bytes, access)
    }

    /// Reads a file; `None` where there is none.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read_state(&self.path.join(name))
    }

    /// Replaces a file durably.
    pub fn write(&self, name: &str, bytes: &[u8], access: Access) -> Result<(), StoreError> {
        write_durably(&self.path.join(name), bytes, access)
    }
}

/// Reads a JSON state file of a data directory that another process may own; `None` where there is none. As files are replaced
/// whole, what comes back was true at one moment.
pub fn read_json<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Option<T>, StoreError> {
    let path = directory.join(name);
    let Some(bytes) = read_state(&path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| StoreError::Damaged { path, reason: error.to_string() })
}

fn read_state(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match read_limited(path, MAX_STATE_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { doing: "read", path: path.to_owned(), source }),
    }
}

/// Reads a regular file of at most `limit` bytes. Directories, devices and pipes are refused, so that a path cannot make the
/// reader wait for ever or fill the memory.
pub fn read_limited(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Error, ErrorKind};

    // The kind is asked before opening: opening a pipe would wait for its writer.
    let before = fs::metadata(path)?;
    if !before.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let too_large = || Error::new(ErrorKind::FileTooLarge, format!("larger than the limit of {limit} bytes"));
    if before.len() > limit {
        return Err(too_large());
    }
    let capacity = usize::try_from(before.len()).unwrap_or(0);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(capacity).map_err(|_| Error::from(ErrorKind::OutOfMemory))?;
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Writes beside `path`, syncs, renames over it and syncs the directory.
pub fn write_durably(path: &Path, bytes: &[u8], access: Access) -> Result<(), StoreError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // Removed first: a leftover of a crash could have another mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::Io { doing: "replace", path: temporary, source: error });
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if access == Access::Private {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(&temporary).map_err(StoreError::io("create", &temporary))?;
    file.write_all(bytes).map_err(StoreError::io("write", &temporary))?;
    file.sync_all().map_err(StoreError::io("sync", &temporary))?;
    drop(file);
    rename_durably(&temporary, path)
}

/// Renames a finished file or directory to its final name, durably.
pub fn rename_durably(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("replace", to))?;
    sync_parent(to)
}

/// Makes a rename durable. Directories cannot be opened for that everywhere, hence only on Unix.
fn sync_parent(path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    if let Some(parent) = path.parent() {
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", parent))?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Creates an empty file that only its owner may read, unless it is there.
pub(super) fn create_private_file(path: &Path) -> Result<(), StoreError> {
    if let Some(parent) = path.parent() {
        create_private_dir(parent)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path).map(drop).map_err(StoreError::io("create", path))
}

/// Creates a directory and its parents; the last one readable by its owner only, as it will hold keys.
fn create_private_dir(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path).map_err(StoreError::io("create", path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn one_process_owns_a_directory_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(&dir.path().join("data")).unwrap();
        let second = DataDir::open(&dir.path().join("data")).unwrap_err();
        assert!(matches!(second, StoreError::InUse { .. }), "{second}");
        drop(first);
        DataDir::open(&dir.path().join("data")).unwrap();
    }

    #[test]
    fn a_replaced_file_is_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        fs::write(dir.path().join("state.json.new"), b"half a wri").unwrap();
        data.write_json("state.json", &vec![1, 2], Access::Normal).unwrap();
        data.write_json("state.json", &vec![3], Access::Normal).unwrap();
        assert_eq!(data.read_json::<Vec<u32>>("state.json").unwrap(), Some(vec![3]));
        assert!(!dir.path().join("state.json.new").exists());
        assert_eq!(data.read_json::<Vec<u32>>("absent.json").unwrap(), None);
    }

    #[test]
    fn damaged_state_is_reported_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        fs::write(dir.path().join("state.json"), b"[1, 2").unwrap();
        let error = data.read_json::<Vec<u32>>("state.json").unwrap_err().to_string();
        assert!(error.contains("state.json"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn private_files_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data")).unwrap();
        data.write("secret", b"x", Access::Private).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("data/secret")), 0o600);
        assert_eq!(mode(&dir.path().join("data")), 0o700);
    }

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, [0u8; 11]).unwrap();
        assert!(read_limited(&file, 10).is_err());
        assert_eq!(read_limited(&file, 11).unwrap().len(), 11);
        assert!(read_limited(dir.path(), 10).is_err());
    }
}
