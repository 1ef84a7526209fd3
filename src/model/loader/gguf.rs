//! The GGUF container (versions 2 and 3): metadata and tensor directory, every number checked against the file. Knows no model.
//!
//! Specification: `docs/gguf.md` of the ggml repository. Nothing here allocates more than the file's own size in proportion:
//! arrays stay in the mapping and are decoded when asked for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::gguf_metadata::{ArrayValue, Metadata, Value, ValueType};
use super::{DType, Origin, RawTensor, map_file};
use crate::model::ModelError;

/// Alignment of tensor data when the file does not give one.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Most dimensions of a tensor that the format knows.
const MAX_DIMS: u32 = 4;

/// A tensor as the directory describes it, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, fastest first, as GGUF stores them; at least one.
    pub dims: Vec<usize>,
    /// Byte range in the file; inside it, and as long as type and dimensions say.
    pub range: Range<usize>,
}

/// What a file holds.
#[derive(Debug)]
pub struct Contents {
    /// Metadata by key.
    pub metadata: Metadata,
    /// Tensors by GGUF's names.
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// A mapped GGUF file.
pub struct GgufFile {
    /// The mapping.
    pub file: Arc<memmap2::Mmap>,
    /// Metadata by key.
    pub metadata: Metadata,
    /// Tensors by GGUF's names.
    pub tensors: BTreeMap<String, TensorInfo>,
}

impl GgufFile {
    /// Maps and checks a file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = map_file(path)?;
        let contents =
            parse(&file).map_err(|problem| ModelError::Invalid(format!("{} cannot be used: {problem}", path.display())))?;
        Ok(Self { file, metadata: contents.metadata, tensors: contents.tensors })
    }

    /// A tensor of one or two dimensions.
    pub fn raw(&self, name: &str, info: &TensorInfo) -> Result<RawTensor, ModelError> {
        let (rows, cols) = match info.dims[..] {
            [cols] => (1, cols),
            [cols, rows] => (rows, cols),
            _ => {
                return Err(ModelError::Invalid(format!(
                    "tensor {name} has dimensions {:?}; one or two are expected",
                    info.dims
                )));
            }
        };
        let file = Arc::clone(&self.file);
        let (dtype, range) = (info.dtype, info.range.clone());
        Ok(RawTensor { dtype, rows, cols, file, origin: Origin::File, range, interleaved_head_dim: None })
    }
}

/// Checks a file in memory: header, metadata, tensor directory and the place of every tensor.
pub fn parse(bytes: &[u8]) -> Result<Contents, String> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.take(4, "magic")? != b"GGUF" {
        return Err("it does not begin with GGUF".to_owned());
    }
    let version = reader.u32("version")?;
    if version != 2 && version != 3 {
        return Err(format!("its GGUF version is {version}; 2 and 3 are read (little-endian)"));
    }
    let tensor_count = reader.u64("tensor count")?;
    let key_count = reader.u64("metadata count")?;
    let mut metadata = BTreeMap::new();
    for _ in 0..key_count {
        let key = reader.string("a metadata key")?;
        let kind = reader.value_type(&key)?;
        let value = reader.value(kind, &key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("metadata key {key:?} appears twice"));
        }
    }
    let metadata = Metadata::new(metadata);
    let mut directory = Vec::new();
    for _ in 0..tensor_count {
        directory.push(reader.tensor()?);
    }
    let alignment = match metadata.unsigned("general.alignment")? {
        None => DEFAULT_ALIGNMENT,
        Some(value) if value.is_power_of_two() => value,
        Some(value) => return Err(format!("general.alignment is {value}, not a power of two")),
    };
    let data_start = (reader.at as u64).checked_next_multiple_of(alignment).ok_or("general.alignment is too large")?;
    let mut tensors = BTreeMap::new();
    for entry in directory {
        let name = entry.name.clone();
        let info = place(entry, bytes.len(), data_start, alignment)?;
        if tensors.insert(name.clone(), info).is_some() {
            return Err(format!("tensor {name:?} appears twice"));
        }
    }
    Ok(Contents { metadata, tensors })
}

/// A tensor's directory entry before its place is checked.
struct Entry {
    name: String,
    dims: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// Turns a directory entry into a range that lies in the file.
fn place(entry: Entry, file_len: usize, data_start: u64, alignment: u64) -> Result<TensorInfo, String> {
    let Entry { name, dims, kind, offset } = entry;
    let dtype = dtype_of(kind)
        .map_err(|kind| format!("tensor {name:?} has type {kind}; F32 F16 BF16 Q8_0 Q6_K Q5_K Q4_K Q5_0 and Q4_0 are read"))?;
    let cols = dims.first().copied().unwrap_or(0);
    let row = dtype
        .row_bytes(cols)
        .ok_or_else(|| format!("tensor {name:?} has rows of {cols} elements, not whole blocks of {}", dtype.block().0))?;
    let size = dims.iter().skip(1).try_fold(row, |size, dim| size.checked_mul(*dim));
    let size = size.ok_or_else(|| format!("tensor {name:?} has dimensions {dims:?}, larger than any file"))?;
    if !offset.is_multiple_of(alignment) {
        return Err(format!("tensor {name:?} begins at {offset}, not a multiple of the alignment {alignment}"));
    }
    let range = data_start
        .checked_add(offset)
        .and_then(|start| usize::try_from(start).ok())
        .and_then(|start| Some(start..start.checked_add(size)?))
        .filter(|range| range.end <= file_len)
        .ok_or_else(|| format!("tensor {name:?} needs {size} bytes at {offset} of the data; the file has {file_len} bytes"))?;
    Ok(TensorInfo { dtype, dims, range })
}

/// GGML's type numbers; the error is the type's name where it is a known one that is not read.
fn dtype_of(kind: u32) -> Result<DType, String> {
    Ok(match kind {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        6 => DType::Q5_0,
        8 => DType::Q8_0,
        12 => DType::Q4K,
        13 => DType::Q5K,
        14 => DType::Q6K,
        30 => DType::BF16,
        other => {
            let name = match other {
                3 => "Q4_1",
                7 => "Q5_1",
                9 => "Q8_1",
                10 => "Q2_K",
                11 => "Q3_K",
                15 => "Q8_K",
                16 => "IQ2_XXS",
                17 => "IQ2_XS",
                18 => "IQ3_XXS",
                19 => "IQ1_S",
                20 => "IQ4_NL",
                21 => "IQ3_S",
                22 => "IQ2_S",
                23 => "IQ4_XS",
                24 => "I8",
                25 => "I16",
                26 => "I32",
                27 => "I64",
                28 => "F64",
                29 => "IQ1_M",
                34 => "TQ1_0",
                35 => "TQ2_0",
                39 => "MXFP4",
                _ => return Err(format!("number {other}")),
            };
            return Err(name.to_owned());
        }
    })
}

/// GGML's number of a type that is read (and written).
pub(super) const fn dtype_number(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q5_0 => 6,
        DType::Q8_0 => 8,
        DType::Q4K => 12,
        DType::Q5K => 13,
        DType::Q6K => 14,
        DType::BF16 => 30,
    }
}

/// A cursor that never leaves the file.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], String> {
        let left = self.bytes.len() - self.at;
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            format!("it is truncated or its sizes lie: {what} needs {count} bytes at {}, {left} are left", self.at)
        })?;
        self.at += count;
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.take(4, what).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.take(8, what).map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    fn size(&mut self, what: &str) -> Result<usize, String> {
        let value = self.u64(what)?;
        usize::try_from(value).map_err(|_| format!("{what} is {value}"))
    }

    fn string_bytes(&mut self, what: &str) -> Result<&'a [u8], String> {
        let length = self.size(what)?;
        self.take(length, what)
    }

    fn string(&mut self, what: &str) -> Result<String, String> {
        let bytes = self.string_bytes(what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| format!("{what} is not UTF-8"))
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType, String> {
        let kind = self.u32(key)?;
        ValueType::from_number(kind).ok_or_else(|| format!("metadata key {key:?} has the unknown value type {kind}"))
    }

    fn value(&mut self, kind: ValueType, key: &str) -> Result<Value, String> {
        match kind {
            ValueType::String => self.string(key).map(Value::String),
            ValueType::Array => self.array(key).map(Value::Array),
            scalar => {
                let width = scalar.width().unwrap_or(1);
                let bytes = self.take(width, key)?;
                Value::scalar(scalar, bytes).ok_or_else(|| format!("metadata key {key:?} is a boolean that is neither 0 nor 1"))
            }
        }
    }

    /// Walks over an array so that its bytes are known to be whole; the elements stay where they are.
    fn array(&mut self, key: &str) -> Result<ArrayValue, String> {
        let kind = self.value_type(key)?;
        let count = self.size(key)?;
        let start = self.at;
        match (kind, kind.width()) {
            (ValueType::Array, _) => return Err(format!("metadata key {key:?} is an array of arrays, which is not read")),
            (_, Some(width)) => {
                let size = count.checked_mul(width).ok_or_else(|| format!("metadata key {key:?} claims {count} elements"))?;
                self.take(size, key)?;
            }
            (_, None) => {
                for _ in 0..count {
                    let text = self.string_bytes(key)?;
                    std::str::from_utf8(text).map_err(|_| format!("a string in metadata key {key:?} is not UTF-8"))?;
                }
            }
        }
        // A copy of bytes that the file really has: metadata outlives the borrow, and its arrays are the tokenizer's tables.
        Ok(ArrayValue::new(kind, count, self.bytes[start..self.at].to_vec()))
    }

    fn tensor(&mut self) -> Result<Entry, String> {
        let name = self.string("a tensor's name")?;
        let count = self.u32(&name)?;
        if count == 0 || count > MAX_DIMS {
            return Err(format!("tensor {name:?} has {count} dimensions; 1 to {MAX_DIMS} are possible"));
        }
        let mut dims = Vec::new();
        for _ in 0..count {
            let dim = self.size(&name)?;
            if dim == 0 {
                return Err(format!("tensor {name:?} has a dimension of 0"));
            }
            dims.push(dim);
        }
        let kind = self.u32(&name)?;
        let offset = self.u64(&name)?;
        Ok(Entry { name, dims, kind, offset })
    }
}
