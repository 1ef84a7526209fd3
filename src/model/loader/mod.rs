//! Reads bases from disk: GGUF files and Hugging Face directories, both into one `Checkpoint`.
//! Knows file formats; knows nothing of how tensors are computed with.

pub mod check;
pub mod convert;
pub mod dequant;
pub mod encode;
pub mod gguf;
mod gguf_checkpoint;
mod gguf_config;
mod gguf_metadata;
mod gguf_names;
mod gguf_tokenizer;
mod gguf_tokens_out;
pub mod huggingface;
mod huggingface_config;
mod huggingface_rope;
pub mod kept_type;
pub mod quantize;
pub mod safetensors_file;
mod write;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::model::ModelError;

use crate::model::chat_template::ChatTemplate;
use crate::model::config::ModelConfig;
use crate::model::tokenizer::Tokenizer;

/// Element types of stored tensors (GGML's names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "GGML's own names say it")]
pub enum DType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6K,
    Q5K,
    Q4K,
    Q5_0,
    Q4_0,
}

impl DType {
    /// Elements of one block and the bytes that it takes (GGML's block layouts; plain types are blocks of one).
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            // f16 scale, 32 x i8
            Self::Q8_0 => (32, 34),
            // 128 low nibbles, 64 high pairs, 16 x i8 scales, f16 scale
            Self::Q6K => (256, 210),
            // f16 scale, f16 minimum, 12 bytes of 6-bit scales and minima, 32 high bits, 128 nibbles
            Self::Q5K => (256, 176),
            // the same without high bits
            Self::Q4K => (256, 144),
            // f16 scale, 4 bytes of high bits, 16 nibbles
            Self::Q5_0 => (32, 22),
            // f16 scale, 16 nibbles
            Self::Q4_0 => (32, 18),
        }
    }

    /// Bytes of a row of `cols` elements; `None` when `cols` is not whole blocks or the size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let (elements, bytes) = self.block();
        if !cols.is_multiple_of(elements) {
            return None;
        }
        (cols / elements).checked_mul(bytes)
    }

    /// Whether elements are plain floats.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// The name as people write it (`q4_k`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q5K => "q5_k",
            Self::Q4K => "q4_k",
            Self::Q5_0 => "q5_0",
            Self::Q4_0 => "q4_0",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What backs a tensor's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A mapped file, from which dropped pages come back.
    File,
    /// Memory alone.
    Memory,
}

/// A tensor as stored: bytes in a mapped file, not copied; or in memory, after a conversion.
#[derive(Clone)]
pub struct RawTensor {
    /// Element type.
    pub dtype: DType,
    /// Rows (`out`); 1 for vectors.
    pub rows: usize,
    /// Elements of a row (`in`), contiguous.
    pub cols: usize,
    /// The mapping: of a file, or of memory.
    pub file: Arc<memmap2::Mmap>,
    /// Which of the two.
    pub origin: Origin,
    /// Byte range of the tensor in `file`; checked to lie inside it.
    pub range: std::ops::Range<usize>,
    /// Head width when the rows of a query or key projection are stored interleaved for rotary embedding, as GGUF files of
    /// the `llama` architecture store them; [`RawTensor::source_row`] undoes it, so that rows come in Hugging Face's order.
    pub interleaved_head_dim: Option<usize>,
}

impl RawTensor {
    /// Stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }

    /// Lets the operating system take back the tensor's pages of a mapped file; reading them again is slow but right.
    /// What is in memory alone stays.
    pub fn release(&self) {
        #[cfg(target_os = "linux")]
        if self.origin == Origin::File {
            let (start, length) = (self.range.start, self.range.len());
            // SAFETY: the map is of a file and read-only: dropped pages come back with the same content.
            drop(unsafe { self.file.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, length) });
        }
    }

    /// Some of its rows, as a tensor of their own; nothing is copied.
    ///
    /// # Errors
    /// There are no such rows, or they are stored interleaved.
    pub fn rows(&self, first: usize, count: usize) -> Result<Self, ModelError> {
        let width = self.dtype.row_bytes(self.cols).filter(|_| self.interleaved_head_dim.is_none());
        let inside = first.checked_add(count).is_some_and(|end| end <= self.rows);
        let Some(width) = width.filter(|_| inside) else {
            let text = format!("rows {first} and {count} on cannot be taken of a [{}, {}] tensor", self.rows, self.cols);
            return Err(ModelError::Invalid(text));
        };
        let start = self.range.start + first * width;
        Ok(Self { rows: count, range: start..start + count * width, ..self.clone() })
    }

    /// Some elements of a vector, as one of their own.
    ///
    /// # Errors
    /// It is no vector of plain floats with such elements.
    pub fn elements(&self, first: usize, count: usize) -> Result<Self, ModelError> {
        if self.rows != 1 || !self.dtype.is_float() {
            return Err(ModelError::Invalid(format!("a [{}, {}] tensor of {} is no vector", self.rows, self.cols, self.dtype)));
        }
        let column = Self { rows: self.cols, cols: 1, ..self.clone() };
        Ok(Self { rows: 1, cols: count, ..column.rows(first, count)? })
    }

    /// A vector of f32 in memory.
    pub(super) fn of_values(values: &[f32]) -> Result<Self, ModelError> {
        let memory = |error: std::io::Error| ModelError::Device(format!("cannot allocate weights: {error}"));
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut map = memmap2::MmapMut::map_anon(bytes.len().max(1)).map_err(memory)?;
        map[..bytes.len()].copy_from_slice(&bytes);
        let file = Arc::new(map.make_read_only().map_err(memory)?);
        let (dtype, cols, origin) = (DType::F32, values.len(), Origin::Memory);
        Ok(Self { dtype, rows: 1, cols, file, origin, range: 0..bytes.len(), interleaved_head_dim: None })
    }

    /// Index in storage of the row that is `row` in Hugging Face's order (half-rotation layout).
    pub fn source_row(&self, row: usize) -> usize {
        match self.interleaved_head_dim {
            None => row,
            Some(dim) => {
                let (head, within) = (row / dim, row % dim);
                let half = dim / 2;
                head * dim + 2 * (within % half) + within / half
            }
        }
    }
}

/// Defaults that a model's makers give for generation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// Token that begins a prompt, when the tokenizer is configured to add it.
    pub bos: Option<u32>,
}

/// A base read from disk; tensors by Hugging Face names
/// (`model.embed_tokens.weight`, `model.layers.0.self_attn.q_proj.weight`, `.bias`, `model.norm.weight`, `lm_head.weight`),
/// weights of normalisations as they are multiplied with.
pub struct Checkpoint {
    /// Shape.
    pub config: ModelConfig,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
    /// Chat template, where the files have one.
    pub chat_template: Option<ChatTemplate>,
    /// Generation defaults.
    pub generation: GenerationDefaults,
    /// Tensors.
    pub tensors: BTreeMap<String, RawTensor>,
    /// Name for people: the GGUF's `general.name` or the directory's name.
    pub name: String,
}

/// Opens a base: a directory in Hugging Face's layout, or a GGUF file.
pub fn open(path: &Path) -> Result<Checkpoint, ModelError> {
    if path.is_dir() { huggingface::open_directory(path) } else { gguf_checkpoint::open_gguf(path) }
}

/// What a base says of itself, for whoever computes it: everything but its tensors. Of a directory the architecture may be one that is
/// not computed here.
pub fn describe(path: &Path) -> Result<Checkpoint, ModelError> {
    if path.is_dir() {
        return huggingface::describe_directory(path);
    }
    Ok(Checkpoint { tensors: BTreeMap::new(), ..gguf_checkpoint::open_gguf(path)? })
}

/// Maps a file for reading.
pub(crate) fn map_file(path: &Path) -> Result<Arc<memmap2::Mmap>, ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_dir() {
        return Err(ModelError::Invalid(format!("{} is a directory where a file is needed", path.display())));
    }
    // SAFETY: the mapping is read-only and private to this process; every access goes through slices inside its length.
    // Whoever shortens a model file under a running server breaks the server, as with every program that maps its data.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
    Ok(Arc::new(map))
}

/// Reads a whole small file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_released_tensor_reads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("values");
        let bytes: Vec<u8> = (0u16..10_000).flat_map(u16::to_le_bytes).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mut memory = memmap2::MmapMut::map_anon(bytes.len()).unwrap();
        memory.copy_from_slice(&bytes);
        let memory = Arc::new(memory.make_read_only().unwrap());
        for (origin, file) in [(Origin::File, map_file(&path).unwrap()), (Origin::Memory, memory)] {
            let range = 0..bytes.len();
            let tensor = RawTensor { dtype: DType::F16, rows: 100, cols: 100, file, origin, range, interleaved_head_dim: None };
            tensor.release();
            assert!(tensor.bytes() == bytes, "{origin:?}");
        }
    }
}
