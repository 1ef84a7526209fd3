//! A fake base model for tests: no files, no matrices, but it remembers like a real one and notices when it is used wrongly.
//!
//! Its "keys and values" are rolling hashes: the cell of a position mixes the token, the position, the adapter and the cell of
//! the position before, which is read through the block table. The logits of a row are a function of its cell. A wrong block
//! table, a block freed too early, a foreign adapter's prefix or a wrong start therefore either changes the answer or, where the
//! cells do not form one unbroken history, fails the step. Knows nothing of the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::ids::VersionId;
use crate::model::config::{Architecture, ModelConfig, RopeScaling};
use crate::model::lora::{LoraWeights, PreparedAdapter};
use crate::model::{AdapterPreparer, BLOCK_TOKENS, Chunk, LogitRows, Logits, Model, ModelError};

/// What goes wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The step with this number (from 0) returns an error.
    ErrorAtStep(u64),
    /// The step with this number panics.
    PanicAtStep(u64),
    /// Rows of this token have logits that are not numbers.
    NanOn(u32),
}

/// How a [`SeededModel`] behaves.
#[derive(Debug, Clone)]
pub struct SeededOptions {
    /// Vocabulary size; the default has the 256 bytes and four special tokens.
    pub vocab: usize,
    /// Context length, tokens.
    pub context: usize,
    /// The end-of-text token.
    pub eos: u32,
    /// Added to the logit of `eos`; logits are spread evenly over -4 to 4 otherwise.
    pub eos_bias: f32,
    /// Added to the logits of printable ASCII bytes, so that answers can be read; 0 makes answers of any bytes.
    pub text_bias: f32,
    /// Two models with different seeds answer differently.
    pub seed: u64,
    /// Failures to play.
    pub faults: Vec<Fault>,
}

impl Default for SeededOptions {
    fn default() -> Self {
        Self { vocab: 260, context: 512, eos: 256, eos_bias: 0.0, text_bias: 8.0, seed: 1, faults: Vec::new() }
    }
}

/// What the model remembers of one position.
#[derive(Debug, Clone, Copy)]
struct Cell {
    token: u32,
    position: usize,
    adapter: u64,
    hash: u64,
}

/// Lets a test decide when steps happen; dropping it lets all steps run.
#[derive(Debug)]
pub struct StepGate(mpsc::Sender<()>);

impl StepGate {
    /// Lets `steps` more steps run.
    pub fn open(&self, steps: usize) {
        for _ in 0..steps {
            // The model may be gone already; then nobody waits.
            let _ = self.0.send(());
        }
    }
}

/// The fake model.
pub struct SeededModel {
    options: SeededOptions,
    config: ModelConfig,
    cells: Vec<Option<Cell>>,
    gate: Option<mpsc::Receiver<()>>,
    steps: Arc<AtomicU64>,
}

impl SeededModel {
    /// A model with these habits.
    pub fn new(options: SeededOptions) -> Self {
        let config = ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: options.vocab,
            hidden_size: 16,
            intermediate_size: 32,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            rms_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            context_length: options.context,
            sliding_window: None,
            tied_embeddings: true,
            details: crate::model::config::Details::default(),
        };
        Self { options, config, cells: Vec::new(), gate: None, steps: Arc::default() }
    }

    /// The same, waiting at the gate before each step.
    pub fn gated(options: SeededOptions) -> (Self, StepGate) {
        let (open, gate) = mpsc::channel();
        (Self { gate: Some(gate), ..Self::new(options) }, StepGate(open))
    }

    /// Counts the steps begun; stays readable when the model has moved to its thread.
    pub fn step_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.steps)
    }

    fn slot(chunk: &Chunk<'_>, position: usize) -> Result<usize, ModelError> {
        let block = chunk.blocks.get(position / BLOCK_TOKENS).ok_or_else(|| {
            ModelError::Invalid(format!("block table of {} blocks does not cover position {position}", chunk.blocks.len()))
        })?;
        Ok(*block as usize * BLOCK_TOKENS + position % BLOCK_TOKENS)
    }

    fn cell(&self, chunk: &Chunk<'_>, position: usize) -> Result<Cell, ModelError> {
        let slot = Self::slot(chunk, position)?;
        self.cells
            .get(slot)
            .copied()
            .flatten()
            .ok_or_else(|| ModelError::Invalid(format!("slot {slot} is read for position {position} but was never written")))
    }

    fn next_hash(&self, before: u64, token: u32, position: usize, adapter: u64) -> u64 {
        mix(before ^ mix(u64::from(token) ^ mix(position as u64 ^ mix(adapter ^ self.options.seed))))
    }

    /// Follows the history `0..chunk.start` cell by cell and returns the hash of its last one.
    fn follow(&self, chunk: &Chunk<'_>, adapter: u64) -> Result<u64, ModelError> {
        let mut hash = 0;
        for position in 0..chunk.start {
            let cell = self.cell(chunk, position)?;
            let expected = self.next_hash(hash, cell.token, position, adapter);
            if (cell.position, cell.adapter, cell.hash) != (position, adapter, expected) {
                return Err(ModelError::Invalid(format!(
                    "position {position} reads a cell of another history: it was written for position {} (adapter {:x}, token {})",
                    cell.position, cell.adapter, cell.token
                )));
            }
            hash = expected;
        }
        Ok(hash)
    }

    fn push_row(&self, hash: u64, token: u32, out: &mut Vec<f32>) {
        let broken = self.options.faults.contains(&Fault::NanOn(token));
        out.extend((0..self.options.vocab).map(|id| {
            if broken {
                return f32::NAN;
            }
            // 24 random bits, spread over -4 to 4.
            let mut logit = (mix(hash ^ mix(id as u64 + 1)) >> 40) as f32 / (1u32 << 21) as f32 - 4.0;
            if (0x20..0x7f).contains(&id) {
                logit += self.options.text_bias;
            }
            if id == self.options.eos as usize {
                logit += self.options.eos_bias;
            }
            logit
        }));
    }

    /// A hidden state: numbers between -1 and 1.
    fn push_hidden(&self, hash: u64, token: u32, out: &mut Vec<f32>) {
        let broken = self.options.faults.contains(&Fault::NanOn(token));
        let value = |place: usize| (mix(hash ^ mix(u64::MAX - place as u64)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
        out.extend((0..self.config.hidden_size).map(|place| if broken { f32::NAN } else { value(place) }));
    }

    fn run_chunk(&mut self, chunk: &Chunk<'_>, logits: &mut Logits) -> Result<(), ModelError> {
        let end = chunk.start + chunk.tokens.len();
        if chunk.tokens.is_empty() || end > self.options.context {
            return Err(ModelError::Invalid(format!("chunk of positions {}..{end} is empty or beyond the context", chunk.start)));
        }
        let adapter = match chunk.adapter {
            None => 0,
            Some(adapter) => *adapter
                .inner
                .downcast_ref::<u64>()
                .ok_or_else(|| ModelError::Invalid(format!("adapter {} was prepared by another model", adapter.id.short())))?,
        };
        let mut hash = self.follow(chunk, adapter)?;
        for (row, &token) in chunk.tokens.iter().enumerate() {
            if token as usize >= self.options.vocab {
                return Err(ModelError::Invalid(format!("token {token} is outside the vocabulary of {}", self.options.vocab)));
            }
            let position = chunk.start + row;
            hash = self.next_hash(hash, token, position, adapter);
            let slot = Self::slot(chunk, position)?;
            let known = self.cells.len();
            let cell = self
                .cells
                .get_mut(slot)
                .ok_or_else(|| ModelError::Invalid(format!("slot {slot} is outside the storage of {known} positions")))?;
            *cell = Some(Cell { token, position, adapter, hash });
            match chunk.logits {
                LogitRows::Last if position + 1 == end => self.push_row(hash, token, &mut logits.values),
                LogitRows::All => self.push_row(hash, token, &mut logits.values),
                LogitRows::HiddenLast if position + 1 == end => self.push_hidden(hash, token, &mut logits.hidden),
                LogitRows::HiddenAll => self.push_hidden(hash, token, &mut logits.hidden),
                LogitRows::None | LogitRows::Last | LogitRows::HiddenLast => {}
            }
        }
        Ok(())
    }
}

impl Model for SeededModel {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn kv_block_bytes(&self) -> usize {
        BLOCK_TOKENS * size_of::<Option<Cell>>()
    }

    fn allocate_kv(&mut self, blocks: usize) -> Result<(), ModelError> {
        self.cells = vec![None; blocks * BLOCK_TOKENS];
        Ok(())
    }

    fn weight_bytes(&self) -> usize {
        0
    }

    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), ModelError> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate
            && gate.recv().is_err()
        {
            self.gate = None;
        }
        if self.options.faults.contains(&Fault::ErrorAtStep(step)) {
            return Err(ModelError::Device(format!("planned failure of step {step}")));
        }
        assert!(!self.options.faults.contains(&Fault::PanicAtStep(step)), "planned panic in step {step}");
        logits.values.clear();
        logits.hidden.clear();
        (logits.vocab, logits.width) = (self.options.vocab, self.config.hidden_size);
        chunks.iter().try_for_each(|chunk| self.run_chunk(chunk, logits))
    }

    fn adapter_preparer(&self) -> Arc<dyn AdapterPreparer> {
        Arc::new(SeededPreparer)
    }
}

/// Prepares adapters for [`SeededModel`]: what it keeps is a number made from the version's digest.
#[derive(Debug, Clone, Copy)]
pub struct SeededPreparer;

impl AdapterPreparer for SeededPreparer {
    fn prepare(&self, weights: LoraWeights) -> Result<PreparedAdapter, ModelError> {
        let bytes = weights.modules.iter().map(|module| (module.a.len() + module.b.len()) * size_of::<f32>()).sum();
        Ok(PreparedAdapter { bytes, max_rank: weights.max_rank, ..prepared(weights.id) })
    }
}

/// An adapter for a [`SeededModel`] without any weights, told apart by `number`.
pub fn seeded_adapter(number: u64) -> Arc<PreparedAdapter> {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    Arc::new(prepared(VersionId::new(digest)))
}

fn prepared(id: VersionId) -> PreparedAdapter {
    // Never 0, which is the base.
    let seed = id.as_bytes().iter().fold(1, |seed, &byte| mix(seed ^ u64::from(byte))) | 1;
    PreparedAdapter { id, bytes: 0, max_rank: 1, inner: Box::new(seed) }
}

/// The finalizer of SplitMix64 (Steele et al. 2014): every output bit depends on every input bit.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn model() -> SeededModel {
        let mut model = SeededModel::new(SeededOptions::default());
        model.allocate_kv(4).unwrap();
        model
    }

    fn chunk<'a>(tokens: &'a [u32], start: usize, blocks: &'a [u32]) -> Chunk<'a> {
        Chunk { tokens, start, blocks, adapter: None, logits: LogitRows::Last }
    }

    fn last_row(model: &mut SeededModel, chunks: &[Chunk<'_>]) -> Vec<f32> {
        let mut logits = Logits::default();
        model.forward(chunks, &mut logits).unwrap();
        logits.row(logits.rows() - 1).to_vec()
    }

    #[test]
    fn chunking_and_placement_do_not_change_a_row() {
        let tokens: Vec<u32> = (0..20).collect();
        let whole = last_row(&mut model(), &[chunk(&tokens, 0, &[0, 1])]);
        let mut split = model();
        last_row(&mut split, &[chunk(&tokens[..7], 0, &[3, 1])]);
        assert_eq!(whole, last_row(&mut split, &[chunk(&tokens[7..], 7, &[3, 1])]));
    }

    #[test]
    fn adapters_and_histories_change_a_row() {
        let base = last_row(&mut model(), &[chunk(&[1, 2, 3], 0, &[0])]);
        let other = last_row(&mut model(), &[chunk(&[2, 1, 3], 0, &[0])]);
        let adapter = seeded_adapter(1);
        let adapted = last_row(&mut model(), &[Chunk { adapter: Some(&adapter), ..chunk(&[1, 2, 3], 0, &[0]) }]);
        assert!(base != other && base != adapted);
    }

    #[test]
    fn reading_what_was_not_written_by_this_history_fails() {
        let mut model = model();
        let mut logits = Logits::default();
        let unwritten = model.forward(&[chunk(&[9], 3, &[0])], &mut logits).unwrap_err();
        assert!(unwritten.to_string().contains("never written"), "{unwritten}");
        last_row(&mut model, &[chunk(&[1, 2, 3], 0, &[0])]);
        let adapter = seeded_adapter(1);
        let foreign = [Chunk { adapter: Some(&adapter), ..chunk(&[9], 3, &[0]) }];
        let foreign = model.forward(&foreign, &mut logits).unwrap_err();
        assert!(foreign.to_string().contains("another history"), "{foreign}");
    }
}
