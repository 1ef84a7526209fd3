//! Mathematics only: token ids in, logits out. Knows nothing of requests, tenants, HTTP or scheduling.

pub mod architecture;
pub mod chat_template;
pub mod config;
pub mod loader;
pub mod lora;
pub mod native;
pub mod ops;
pub mod profile;
pub mod random;
pub mod tokenizer;
pub mod train;

use std::sync::Arc;

pub use config::ModelConfig;
use lora::{LoraWeights, PreparedAdapter};

/// Tokens per KV block. A block holds keys and values of this many consecutive positions of one sequence, for all layers.
pub const BLOCK_TOKENS: usize = 16;

/// Index of a KV block in the model's block storage.
pub type BlockId = u32;

/// What went wrong inside the model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or its content cannot be used; the text says which field or tensor, what it holds and what would be right.
    #[error("{0}")]
    Invalid(String),
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The device's library failed.
    #[error("device: {0}")]
    Device(String),
}

/// What is wanted of a chunk's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None: a prefill chunk that does not end the prompt.
    None,
    /// The chunk's last row.
    Last,
    /// Every row of the chunk (prompt log-probabilities).
    All,
    /// The last row's hidden state, and no logits.
    HiddenLast,
    /// Every row's hidden state, and no logits.
    HiddenAll,
}

/// Consecutive tokens of one sequence in one step: a decode (one token) or a prefill chunk.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// Token ids, at least one.
    pub tokens: &'a [u32],
    /// Position of `tokens[0]` in its sequence; keys and values of `0..start` are already in `blocks`.
    pub start: usize,
    /// Block table of the sequence: block `i` holds positions `i*BLOCK_TOKENS..(i+1)*BLOCK_TOKENS`; covers `start+tokens.len()`.
    pub blocks: &'a [BlockId],
    /// Adapter of the sequence; `None` is the base alone.
    pub adapter: Option<&'a Arc<PreparedAdapter>>,
    /// Rows whose logits (or hidden states) are wanted.
    pub logits: LogitRows,
}

/// Logits of the wanted rows, in the order of chunks and rows: `rows x vocab`; and the hidden states of those whose hidden states
/// are wanted, in the same order: `rows x width`, after the last norm.
#[derive(Debug, Default)]
pub struct Logits {
    /// Row-major values.
    pub values: Vec<f32>,
    /// Vocabulary size.
    pub vocab: usize,
    /// Row-major hidden states.
    pub hidden: Vec<f32>,
    /// Hidden size.
    pub width: usize,
}

impl Logits {
    /// Row `index`, `vocab` values.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.vocab..(index + 1) * self.vocab]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.vocab).unwrap_or(0)
    }
}

/// Turns checked adapter weights into the form that the model computes with; called off the engine's thread.
pub trait AdapterPreparer: Send + Sync {
    /// Packs (and for a GPU uploads) the weights.
    fn prepare(&self, weights: LoraWeights) -> Result<PreparedAdapter, ModelError>;
}

/// A base model in memory with its KV block storage. One thread owns it.
///
/// A row's logits are bit-identical whatever shares its step, its chunking or its batch size (native CPU).
pub trait Model: Send {
    /// Shape and limits.
    fn config(&self) -> &ModelConfig;
    /// Bytes that one KV block takes, all layers, keys and values.
    fn kv_block_bytes(&self) -> usize;
    /// Allocates storage for `blocks` KV blocks, replacing what was there.
    fn allocate_kv(&mut self, blocks: usize) -> Result<(), ModelError>;
    /// Bytes of weights in memory: what is packed, and the embedding table, of which a mapped one comes and goes by pages.
    fn weight_bytes(&self) -> usize;
    /// Runs one step: writes keys and values of every chunk's tokens into its blocks, fills `logits`.
    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), ModelError>;
    /// What prepares adapters for this model.
    fn adapter_preparer(&self) -> Arc<dyn AdapterPreparer>;
    /// Where the time of steps went since this was asked last; asking for the first time begins the measuring.
    fn profile(&mut self) -> profile::Profile {
        profile::Profile::default()
    }
    /// The same weights for training, where it can be done on this device.
    fn training_base(&self) -> Option<train::TrainingBase> {
        None
    }
}
