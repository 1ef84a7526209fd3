//! The state of a run on disk, whole or not at all: from it a run goes on and ends with the same bits as one that never stopped.
//!
//! One file: a length, a JSON header, then vectors of f32, and a checksum over all of it.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::settings::Settings;
use crate::store::rename_durably;

/// Name of the file in a run's directory.
pub const STATE_FILE: &str = "state.run";
const MAGIC: &[u8; 8] = b"switchy1";
/// Longest header, bytes.
const MAX_HEADER: u64 = 1 << 20;

/// The evaluation that was best so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Held-out loss.
    pub loss: f64,
    /// Steps done then.
    pub step: u64,
}

/// What a state says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Digest of settings, rows and base: a state goes on only with those that it began with.
    pub fingerprint: String,
    /// The settings as they were made to fit into memory then; what is free now must not change the run.
    pub settings: Settings,
    /// Steps done.
    pub step: u64,
    /// Best evaluation.
    pub best: Option<Best>,
    /// Evaluations since.
    pub since_best: u32,
    /// Length of each vector.
    pub lengths: Vec<usize>,
}

/// Writes a state; a crash leaves the one before.
pub fn write(dir: &Path, header: &Header, vectors: &[&[f32]]) -> Result<(), TrainError> {
    let path = dir.join(STATE_FILE);
    let new = dir.join(format!("{STATE_FILE}.new"));
    let failed = |source: std::io::Error| TrainError::Disk { doing: "write", path: path.clone(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let written = || -> std::io::Result<()> {
        let mut out = Checked { inner: BufWriter::with_capacity(1 << 20, File::create(&new)?), crc: crc32fast::Hasher::new() };
        let header = serde_json::to_vec(header)?;
        out.write_all(MAGIC)?;
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        let mut bytes = Vec::with_capacity(1 << 16);
        for chunk in vectors.iter().flat_map(|vector| vector.chunks(1 << 14)) {
            bytes.clear();
            bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
            out.write_all(&bytes)?;
        }
        let crc = out.crc.clone().finalize();
        out.inner.write_all(&crc.to_le_bytes())?;
        out.inner.into_inner()?.sync_all()
    };
    written().map_err(|error| {
        // What is half written would only take up room; it is written anew next time.
        drop(std::fs::remove_file(&new));
        failed(error)
    })?;
    Ok(rename_durably(&new, &path)?)
}

struct Checked<T> {
    inner: T,
    crc: crc32fast::Hasher,
}

impl<T: Write> Write for Checked<T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// A state: what it says of itself, and its vectors.
pub type Saved = (Header, Vec<Vec<f32>>);

/// Reads a state; `None` where none was ever written.
pub fn read(dir: &Path) -> Result<Option<Saved>, TrainError> {
    let path = dir.join(STATE_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TrainError::Disk { doing: "read", path, source }),
    };
    let damaged = |reason: &str| TrainError::Damaged { path: PathBuf::from(&path), reason: reason.to_owned() };
    let io = |source: std::io::Error| TrainError::Disk { doing: "read", path: path.clone(), source };
    let size = file.metadata().map_err(io)?.len();
    let mut file = std::io::BufReader::with_capacity(1 << 20, file);
    let mut crc = crc32fast::Hasher::new();
    let mut take = |len: usize| -> Result<Vec<u8>, TrainError> {
        let mut bytes = vec![0; len];
        file.read_exact(&mut bytes).map_err(|_| damaged("it ends too early"))?;
        crc.update(&bytes);
        Ok(bytes)
    };
    let start = take(16)?;
    let header_len = start[8..].try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
    if &start[..8] != MAGIC || header_len > MAX_HEADER.min(size) {
        return Err(damaged("it is no state of a run"));
    }
    let header: Header = serde_json::from_slice(&take(header_len as usize)?).map_err(|_| damaged("its header cannot be read"))?;
    let floats: u64 = header.lengths.iter().map(|len| 4 * *len as u64).sum();
    if 16 + header_len + floats + 4 != size {
        return Err(damaged("its size is not what its header says"));
    }
    let mut vectors = Vec::with_capacity(header.lengths.len());
    for len in &header.lengths {
        let mut vector = Vec::with_capacity(*len);
        for first in (0..*len).step_by(1 << 18) {
            let bytes = take(4 * (1 << 18).min(len - first))?;
            vector.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        vectors.push(vector);
    }
    let expected = crc.finalize();
    let mut stored = [0; 4];
    file.read_exact(&mut stored).map_err(|_| damaged("it ends too early"))?;
    if u32::from_le_bytes(stored) != expected {
        return Err(damaged("its checksum is wrong"));
    }
    Ok(Some((header, vectors)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_state_comes_back_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_none());
        let best = Some(Best { loss: 0.1 + 0.2, step: 3 });
        let header =
            Header { fingerprint: "x".into(), settings: Settings::default(), step: 9, best, since_best: 1, lengths: vec![3, 2] };
        write(dir.path(), &header, &[&[1.0, -0.0, f32::MIN_POSITIVE], &[4.0, 5.0]]).unwrap();
        let (back, vectors) = read(dir.path()).unwrap().unwrap();
        assert_eq!((back, vectors), (header, vec![vec![1.0, -0.0, f32::MIN_POSITIVE], vec![4.0, 5.0]]));
        let path = dir.path().join(STATE_FILE);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(read(dir.path()).is_err(), "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(read(dir.path()).is_err(), "cut at {at}");
        }
    }
}
