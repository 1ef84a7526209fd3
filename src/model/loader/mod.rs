//! Reads bases from disk: GGUF files and Hugging Face directories, both into one `Checkpoint`.
//! Knows file formats; knows nothing of how tensors are computed with.

pub mod encode;

use std::collections::BTreeMap;
use std::sync::Arc;

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

/// A tensor as stored: bytes in a mapped file, not copied.
#[derive(Clone)]
pub struct RawTensor {
    /// Element type.
    pub dtype: DType,
    /// Rows (`out`); 1 for vectors.
    pub rows: usize,
    /// Elements of a row (`in`), contiguous.
    pub cols: usize,
    /// The mapped file.
    pub file: Arc<memmap2::Mmap>,
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
/// (`model.embed_tokens.weight`, `model.layers.0.self_attn.q_proj.weight`, `.bias`, `model.norm.weight`, `lm_head.weight`).
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
