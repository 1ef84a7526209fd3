//! Writes a GGUF container: metadata, then tensors one after another without holding more than a piece of one. Knows no model.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::DType;
use super::gguf::dtype_number;
use super::gguf_metadata::ValueType;
use crate::model::ModelError;

/// Alignment of tensor data, bytes: the format's default.
const ALIGNMENT: u64 = 32;
/// Version of the container.
const VERSION: u32 = 3;

/// Metadata in the order in which it was added.
#[derive(Default)]
pub(super) struct MetadataWriter {
    count: u64,
    bytes: Vec<u8>,
}

impl MetadataWriter {
    fn key(&mut self, key: &str, kind: ValueType) {
        self.count += 1;
        push_string(&mut self.bytes, key);
        self.bytes.extend_from_slice(&kind.number().to_le_bytes());
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key, ValueType::String);
        push_string(&mut self.bytes, value);
    }

    /// A size or an id; the format's own keys for these are 32 bits wide.
    pub(super) fn number(&mut self, key: &str, value: usize) -> Result<(), ModelError> {
        let narrow = u32::try_from(value).map_err(|_| ModelError::Invalid(format!("{key} = {value} is too large for GGUF")))?;
        self.key(key, ValueType::U32);
        self.bytes.extend_from_slice(&narrow.to_le_bytes());
        Ok(())
    }

    pub(super) fn float(&mut self, key: &str, value: f32) {
        self.key(key, ValueType::F32);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn boolean(&mut self, key: &str, value: bool) {
        self.key(key, ValueType::Bool);
        self.bytes.push(value.into());
    }

    fn array(&mut self, key: &str, kind: ValueType, count: usize) {
        self.key(key, ValueType::Array);
        self.bytes.extend_from_slice(&kind.number().to_le_bytes());
        self.bytes.extend_from_slice(&(count as u64).to_le_bytes());
    }

    pub(super) fn texts(&mut self, key: &str, values: &[String]) {
        self.array(key, ValueType::String, values.len());
        values.iter().for_each(|value| push_string(&mut self.bytes, value));
    }

    pub(super) fn floats(&mut self, key: &str, values: &[f32]) {
        self.array(key, ValueType::F32, values.len());
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    pub(super) fn integers(&mut self, key: &str, values: &[i32]) {
        self.array(key, ValueType::I32, values.len());
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
}

fn push_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// A tensor that will be written.
pub(super) struct PlannedTensor {
    /// GGUF's name.
    pub(super) name: String,
    /// Dimensions, fastest first.
    pub(super) dims: Vec<usize>,
    /// Element type.
    pub(super) dtype: DType,
    /// Bytes.
    pub(super) size: u64,
}

/// Writes a file beside its final name and moves it there when it is whole; `fill` writes the bytes of the tensor at an index.
/// Returns the file's size in bytes.
pub(super) fn write_file(
    path: &Path,
    metadata: &MetadataWriter,
    plan: &[PlannedTensor],
    mut fill: impl FnMut(usize, &mut dyn Write) -> Result<(), WriteError>,
) -> Result<u64, ModelError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Io { path, source }
    };
    let mut write = || -> Result<u64, WriteError> {
        let mut out = Counted { inner: BufWriter::new(File::create(partial)?), written: 0 };
        out.write_all(&header(metadata, plan))?;
        for (index, tensor) in plan.iter().enumerate() {
            out.align()?;
            let start = out.written;
            fill(index, &mut out)?;
            if out.written - start != tensor.size {
                return Err(ModelError::Invalid(format!("tensor {} came out with a wrong size", tensor.name)).into());
            }
        }
        out.align()?;
        let file = out.inner.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(out.written)
    };
    let written = write().map_err(|error| {
        // The half-written file is of no use; that it cannot be removed changes nothing about the error.
        let _ = std::fs::remove_file(partial);
        match error {
            WriteError::Io(source) => io(partial)(source),
            WriteError::Model(error) => error,
        }
    })?;
    std::fs::rename(partial, path).map_err(io(path))?;
    Ok(written)
}

/// Why writing stopped.
pub(super) enum WriteError {
    /// The file.
    Io(std::io::Error),
    /// The tensors.
    Model(ModelError),
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ModelError> for WriteError {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

/// Everything before the tensors' data.
fn header(metadata: &MetadataWriter, plan: &[PlannedTensor]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(plan.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&metadata.count.to_le_bytes());
    bytes.extend_from_slice(&metadata.bytes);
    let mut offset = 0u64;
    for tensor in plan {
        push_string(&mut bytes, &tensor.name);
        bytes.extend_from_slice(&(tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|dim| bytes.extend_from_slice(&(*dim as u64).to_le_bytes()));
        bytes.extend_from_slice(&dtype_number(tensor.dtype).to_le_bytes());
        bytes.extend_from_slice(&offset.to_le_bytes());
        offset = (offset + tensor.size).next_multiple_of(ALIGNMENT);
    }
    bytes
}

/// A file that knows how much was written.
struct Counted {
    inner: BufWriter<File>,
    written: u64,
}

impl Counted {
    fn align(&mut self) -> std::io::Result<()> {
        let gap = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.write_all(&[0; ALIGNMENT as usize][..gap as usize])
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
