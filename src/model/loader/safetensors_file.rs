//! Reads the header of a safetensors file and finds its tensors in the mapping. Knows no model.
//!
//! The header is parsed here and not by the `safetensors` crate because that one adds the offsets of a lying header unchecked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::{DType, Origin, RawTensor, map_file};
use crate::model::ModelError;

/// Largest header accepted, bytes: the format's own limit.
const MAX_HEADER: usize = 100_000_000;

/// One entry of the header.
#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// A tensor of the file: what the header says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Element type as the file spells it (`F32`, `BF16` ...).
    pub dtype: String,
    /// Dimensions, slowest first.
    pub shape: Vec<usize>,
    /// Byte range in the file; inside it, and as long as type and shape say.
    pub range: Range<usize>,
}

/// Checks the header of a file in memory and returns its tensors by name.
pub fn read_header(bytes: &[u8]) -> Result<BTreeMap<String, TensorEntry>, String> {
    let length: [u8; 8] =
        bytes.get(..8).and_then(|prefix| prefix.try_into().ok()).ok_or("shorter than the 8 bytes of its header's length")?;
    let length = u64::from_le_bytes(length);
    let header_end = usize::try_from(length).ok().filter(|n| *n <= MAX_HEADER).and_then(|n| n.checked_add(8));
    let header = header_end
        .and_then(|end| bytes.get(8..end))
        .ok_or_else(|| format!("its header claims {length} bytes, the file has {}", bytes.len()))?;
    let header: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|error| format!("its header is not JSON of the expected form: {error}"))?;
    let data_start = header_end.unwrap_or(8);
    let mut tensors = BTreeMap::new();
    for (name, value) in header {
        if name == "__metadata__" {
            continue;
        }
        let entry: Entry =
            serde_json::from_value(value).map_err(|error| format!("its header's entry for {name:?} is malformed: {error}"))?;
        let (start, end) = entry.data_offsets;
        let range = data_start
            .checked_add(start)
            .zip(data_start.checked_add(end))
            .filter(|(start, end)| start <= end && *end <= bytes.len())
            .map(|(start, end)| start..end)
            .ok_or_else(|| format!("tensor {name:?} claims bytes {start}..{end}, the file holds {}", bytes.len() - data_start))?;
        if let Some(width) = element_bytes(&entry.dtype) {
            let size = entry.shape.iter().try_fold(width, |size, dim| size.checked_mul(*dim));
            if size != Some(range.len()) {
                return Err(format!(
                    "tensor {name:?} of shape {:?} and type {} has {} bytes, not what its shape needs",
                    entry.shape,
                    entry.dtype,
                    range.len()
                ));
            }
        }
        tensors.insert(name, TensorEntry { dtype: entry.dtype, shape: entry.shape, range });
    }
    Ok(tensors)
}

/// Bytes of an element of the types that are read; others are refused where a tensor of theirs is needed.
fn element_bytes(dtype: &str) -> Option<usize> {
    match dtype {
        "F32" => Some(4),
        "F16" | "BF16" => Some(2),
        _ => None,
    }
}

/// A mapped safetensors file.
pub struct SafetensorsFile {
    /// The mapping.
    pub file: Arc<memmap2::Mmap>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorEntry>,
}

impl SafetensorsFile {
    /// Maps and checks a file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = map_file(path)?;
        let tensors =
            read_header(&file).map_err(|problem| ModelError::Invalid(format!("{} cannot be used: {problem}", path.display())))?;
        Ok(Self { file, tensors })
    }

    /// A tensor of one or two dimensions, of type F32, F16 or BF16.
    pub fn raw(&self, name: &str) -> Result<RawTensor, ModelError> {
        let entry = self.tensors.get(name).ok_or_else(|| ModelError::Invalid(format!("tensor {name} is missing")))?;
        let dtype = match entry.dtype.as_str() {
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            other => {
                return Err(ModelError::Invalid(format!("tensor {name} has type {other}; F32, F16 and BF16 are read")));
            }
        };
        let (rows, cols) = match entry.shape[..] {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => {
                return Err(ModelError::Invalid(format!(
                    "tensor {name} has shape {:?}; one or two dimensions are expected",
                    entry.shape
                )));
            }
        };
        Ok(RawTensor {
            dtype,
            rows,
            cols,
            file: Arc::clone(&self.file),
            origin: Origin::File,
            range: entry.range.clone(),
            interleaved_head_dim: None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn finds_tensors() {
        let bytes = file(r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"__metadata__":{"format":"pt"}}"#, 16);
        let tensors = read_header(&bytes).unwrap();
        assert_eq!(tensors.len(), 1);
        assert_eq!(tensors["a"].range.len(), 16);
    }

    #[test]
    fn lies_are_named() {
        let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
        assert!(read_header(&file(header, 15)).unwrap_err().contains("\"a\" claims bytes 0..16"));
        let huge = header.replace("[2,2]", "[4294967296,4294967297]");
        assert!(read_header(&file(&huge, 16)).unwrap_err().contains("not what its shape needs"));
        let wrap = header.replace("[0,16]", "[18446744073709551615,16]");
        assert!(read_header(&file(&wrap, 16)).unwrap_err().contains("claims"));
        let mut long = file(header, 16);
        long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(read_header(&long).unwrap_err().contains("header claims"));
        assert!(read_header(&[1, 2]).is_err());
    }
}
