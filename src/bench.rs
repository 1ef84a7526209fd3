//! `switchyard bench`: how fast a base prefills and decodes here, alone and with adapters.
//!
//! It drives the model directly: no scheduler, no sampling, no HTTP. Cases are measured in turn, round after round, and the
//! median is reported, so that a machine that drifts does not favour one case. Speed of the server: `loadtests/`.

mod beside;
pub mod cost;
mod train;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use beside::{BesideOptions, BesideReport, beside};
pub use train::{TrainOptions, TrainReport, train};

use crate::ids::VersionId;
use crate::model::lora::{LoraModule, LoraWeights, PreparedAdapter};
use crate::model::profile::{Part, Profile};
use crate::model::{BLOCK_TOKENS, BlockId, Chunk, LogitRows, Logits, Model, ModelConfig, ModelError};

/// What is measured.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Options {
    /// Sequences that decode together, and prompts that share a prefill.
    pub batches: Vec<usize>,
    /// Tokens of a prefill: of one prompt, or of the batch's prompts together.
    pub prefill_tokens: usize,
    /// Tokens before each decoded one.
    pub context_tokens: usize,
    /// Decode steps of a round.
    pub decode_steps: usize,
    /// Rounds; the median is reported.
    pub rounds: usize,
    /// Most tokens of one step.
    pub step_tokens: usize,
    /// Rank of the random adapters, on all linears.
    pub rank: usize,
    /// Say where the time goes.
    pub profile: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            batches: vec![1, 4, 16, 32],
            prefill_tokens: 512,
            context_tokens: 128,
            decode_steps: 16,
            rounds: 3,
            step_tokens: 512,
            rank: 16,
            profile: false,
        }
    }
}

/// Which adapters the sequences use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Adapters {
    /// None.
    Base,
    /// All the same one.
    One,
    /// Each its own.
    Different,
}

/// One measured case.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Case {
    /// Adapters in use.
    pub adapters: Adapters,
    /// Sequences.
    pub batch: usize,
    /// Tokens per second, median of the rounds.
    pub tokens_per_second: f64,
    /// Slowest and fastest round.
    pub range: [f64; 2],
    /// Share of the time of each kind of operation, the largest first; empty unless it was asked for.
    pub parts: Vec<(&'static str, f64)>,
}

/// All figures.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// The base.
    pub model: String,
    /// What was measured.
    pub options: Options,
    /// Prefill, by number of prompts that share it.
    pub prefill: Vec<Case>,
    /// Decoding.
    pub decode: Vec<Case>,
    /// Bytes a second that this many threads read from memory, best of three; 0 unless asked with the profile.
    pub memory_bandwidth: f64,
    /// Bytes of packed weights.
    pub weight_bytes: usize,
    /// Bytes of the KV blocks used.
    pub kv_bytes: usize,
    /// Bytes of one adapter.
    pub adapter_bytes: usize,
    /// Highest resident size of the process so far, bytes; 0 where the system does not tell.
    pub peak_resident_bytes: usize,
}

/// A random adapter on all linears.
pub fn random_adapter(config: &ModelConfig, rank: usize, seed: u64) -> LoraWeights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut noise = |len: usize| (0..len).map(|_| (rng.random::<f32>() - 0.5) * 0.05).collect::<Vec<f32>>();
    let mut modules = Vec::with_capacity(7 * config.layers);
    for layer in 0..config.layers {
        for site in config.anatomy().sites() {
            let (n, k) = config.linear_shape(site);
            modules.push(LoraModule { layer, site, rank, scale: 1.0, a: noise(rank * k), b: noise(n * rank) });
        }
    }
    let mut digest = [0u8; 32];
    digest[..8].copy_from_slice(&seed.to_le_bytes());
    LoraWeights { id: VersionId::new(digest), modules, foreign: Vec::new(), max_rank: rank }
}

struct Bench<'a> {
    model: &'a mut dyn Model,
    options: &'a Options,
    adapters: Vec<Arc<PreparedAdapter>>,
    tables: Vec<Vec<BlockId>>,
    tokens: Vec<u32>,
    logits: Logits,
}

/// Measures a base.
pub fn run(name: &str, model: &mut dyn Model, options: &Options) -> Result<Report, ModelError> {
    if options.batches.contains(&0) {
        return Err(ModelError::Invalid("a batch of 0 sequences cannot be measured".to_owned()));
    }
    let config = model.config().clone();
    let most = options.batches.iter().copied().max().unwrap_or(1).max(1);
    let decode_blocks = (options.context_tokens + 1).div_ceil(BLOCK_TOKENS);
    let prefill_blocks = |batch: &usize| batch * (options.prefill_tokens / batch).max(1).div_ceil(BLOCK_TOKENS);
    let blocks = options.batches.iter().map(prefill_blocks).fold(most * decode_blocks, usize::max);
    model.allocate_kv(blocks)?;
    let preparer = model.adapter_preparer();
    let adapters = (0..most)
        .map(|i| preparer.prepare(random_adapter(&config, options.rank, i as u64)).map(Arc::new))
        .collect::<Result<Vec<_>, _>>()?;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let longest = options.prefill_tokens.max(options.context_tokens + 1);
    let tokens = (0..longest).map(|_| rng.random_range(0..config.vocab_size as u32)).collect();
    let tables = (0..most).map(|i| ((i * decode_blocks) as BlockId..((i + 1) * decode_blocks) as BlockId).collect()).collect();
    let mut bench = Bench { model, options, adapters, tables, tokens, logits: Logits::default() };

    let kinds = [Adapters::Base, Adapters::One, Adapters::Different];
    let cases: Vec<(Adapters, usize)> = options
        .batches
        .iter()
        .flat_map(|batch| kinds.map(|kind| (kind, *batch)))
        .filter(|(kind, batch)| *batch > 1 || *kind != Adapters::Different)
        .collect();
    let mut prefill = vec![Measured::default(); cases.len()];
    let mut decode = vec![Measured::default(); cases.len()];
    // One round more than is counted: the first warms caches and clocks.
    for round in 0..=options.rounds {
        for ((kind, batch), measured) in cases.iter().zip(&mut prefill) {
            let speed = bench.prefill(*kind, *batch)?;
            measured.take(speed, &mut *bench.model, options.profile, round);
        }
        for ((kind, batch), measured) in cases.iter().zip(&mut decode) {
            let speed = bench.decode(*kind, *batch)?;
            measured.take(speed, &mut *bench.model, options.profile, round);
        }
    }
    let report =
        |all: Vec<Measured>| cases.iter().zip(all).map(|((kind, batch), measured)| case(*kind, *batch, measured)).collect();
    let adapter_bytes = bench.adapters.first().map_or(0, |adapter| adapter.bytes);
    Ok(Report {
        model: name.to_owned(),
        options: options.clone(),
        prefill: report(prefill),
        decode: report(decode),
        memory_bandwidth: if options.profile { memory_bandwidth() } else { 0.0 },
        weight_bytes: model.weight_bytes(),
        kv_bytes: blocks * model.kv_block_bytes(),
        adapter_bytes,
        peak_resident_bytes: peak_resident_bytes(),
    })
}

/// What the rounds of a case gave.
#[derive(Clone, Default)]
struct Measured {
    speeds: Vec<f64>,
    profile: Profile,
}

impl Measured {
    fn take(&mut self, speed: f64, model: &mut dyn Model, profile: bool, round: usize) {
        // The first time it is asked, the measuring begins.
        let parts = if profile { model.profile() } else { Profile::default() };
        if round > 0 {
            self.speeds.push(speed);
            self.profile.merge(&parts);
        }
    }
}

fn case(adapters: Adapters, batch: usize, measured: Measured) -> Case {
    let Measured { mut speeds, profile } = measured;
    let total = profile.total().as_secs_f64();
    let mut parts: Vec<_> = Part::ALL.map(|part| (part.name(), profile.time(part).as_secs_f64() / total)).to_vec();
    parts.retain(|(_, share)| *share > 0.0);
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    speeds.sort_by(f64::total_cmp);
    let at = |i: usize| speeds.get(i).copied().unwrap_or_default();
    let range = [at(0), at(speeds.len().saturating_sub(1))];
    Case { adapters, batch, tokens_per_second: at(speeds.len() / 2), range, parts }
}

impl Bench<'_> {
    fn adapter(&self, kind: Adapters, sequence: usize) -> Option<&Arc<PreparedAdapter>> {
        match kind {
            Adapters::Base => None,
            Adapters::One => self.adapters.first(),
            Adapters::Different => self.adapters.get(sequence),
        }
    }

    /// The prefill's tokens as `batch` prompts of equal length, in steps of the token budget; tokens per second.
    fn prefill(&mut self, kind: Adapters, batch: usize) -> Result<f64, ModelError> {
        let each = (self.options.prefill_tokens / batch).max(1);
        let adapters: Vec<_> = (0..batch).map(|i| self.adapter(kind, i).cloned()).collect();
        let blocks = each.div_ceil(BLOCK_TOKENS) as BlockId;
        let tables: Vec<Vec<BlockId>> = (0..batch as BlockId).map(|i| (i * blocks..(i + 1) * blocks).collect()).collect();
        let begun = Instant::now();
        let (mut sequence, mut start) = (0, 0);
        while sequence < batch {
            let mut chunks = Vec::new();
            let mut room = self.options.step_tokens;
            while sequence < batch && room > 0 {
                let end = each.min(start + room);
                let logits = if end == each { LogitRows::Last } else { LogitRows::None };
                let (tokens, blocks) = (&self.tokens[start..end], &tables[sequence][..]);
                chunks.push(Chunk { tokens, start, blocks, adapter: adapters[sequence].as_ref(), logits });
                room -= end - start;
                (sequence, start) = if end == each { (sequence + 1, 0) } else { (sequence, end) };
            }
            self.model.forward(&chunks, &mut self.logits)?;
        }
        Ok((batch * each) as f64 / begun.elapsed().as_secs_f64())
    }

    /// Steps of one token for each sequence, all at the same position; tokens per second. What the contexts hold does not
    /// matter to the time that reading them takes.
    fn decode(&mut self, kind: Adapters, batch: usize) -> Result<f64, ModelError> {
        let start = self.options.context_tokens;
        let adapters: Vec<_> = (0..batch).map(|i| self.adapter(kind, i).cloned()).collect();
        let begun = Instant::now();
        for step in 0..self.options.decode_steps {
            let token = &self.tokens[step % self.tokens.len()..][..1];
            let chunks: Vec<Chunk<'_>> = self.tables[..batch]
                .iter()
                .zip(&adapters)
                .map(|(blocks, adapter)| Chunk {
                    tokens: token,
                    start,
                    blocks,
                    adapter: adapter.as_ref(),
                    logits: LogitRows::Last,
                })
                .collect();
            self.model.forward(&chunks, &mut self.logits)?;
        }
        Ok((batch * self.options.decode_steps) as f64 / begun.elapsed().as_secs_f64())
    }
}

/// Bytes a second that all processors together read, best of three.
fn memory_bandwidth() -> f64 {
    const WORDS: usize = 1 << 24;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let data: Vec<Vec<u64>> = (0..threads as u64).map(|fill| vec![fill + 1; WORDS]).collect();
    let mut best = 0f64;
    for _ in 0..3 {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for words in &data {
                scope.spawn(move || std::hint::black_box(words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word))));
            }
        });
        best = best.max((threads * WORDS * 8) as f64 / begun.elapsed().as_secs_f64());
    }
    best
}

/// Highest resident size of this process, bytes.
fn peak_resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()).map_or(0, |kib| kib * 1024)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &self.options;
        writeln!(f, "{}: tokens per second, median of {} rounds (slowest to fastest)", self.model, o.rounds)?;
        writeln!(f, "  prefill of {} tokens as 1 or more prompts; decoding after {} tokens", o.prefill_tokens, o.context_tokens)?;
        let row = |case: &Case| {
            let name = match case.adapters {
                Adapters::Base => "base",
                Adapters::One => "one adapter",
                Adapters::Different => "all different",
            };
            let mut line = format!("{name:<14}{:>10.1}   ({:.1} to {:.1})", case.tokens_per_second, case.range[0], case.range[1]);
            for (index, (part, share)) in case.parts.iter().enumerate() {
                let before = if index == 0 { "\n                  " } else { ", " };
                line += &format!("{before}{part} {:.0} %", 100.0 * share);
            }
            line
        };
        for case in &self.prefill {
            writeln!(f, "  prefill x{:<4}  {}", case.batch, row(case))?;
        }
        for case in &self.decode {
            writeln!(f, "  decode  x{:<4}  {}", case.batch, row(case))?;
        }
        if self.memory_bandwidth > 0.0 {
            let alone = self.decode.iter().find(|case| case.batch == 1 && case.adapters == Adapters::Base);
            write!(f, "  memory is read at {:.1} GB/s", self.memory_bandwidth / 1e9)?;
            if let Some(case) = alone {
                let read = case.tokens_per_second * self.weight_bytes as f64;
                write!(f, ", and one sequence reads weights at {:.1} GB/s of it", read / 1e9)?;
            }
            writeln!(f)?;
        }
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "  memory: weights {:.1} MiB, KV {:.1} MiB, an adapter of rank {} {:.1} MiB, highest resident size {:.1} MiB",
            mib(self.weight_bytes),
            mib(self.kv_bytes),
            o.rank,
            mib(self.adapter_bytes),
            mib(self.peak_resident_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;
    use crate::model::loader::DType;
    use crate::model::native::{Device, LoadOptions, load};
    use crate::model::ops::Quant;
    use crate::model::random::{self, Mix};

    #[test]
    fn every_case_is_reported() {
        let config = random::shape("tiny").unwrap();
        let tensors = random::tensors(&config, Mix::Uniform(DType::Q8_0), 1).unwrap();
        let options = LoadOptions { quant: Quant::Auto, threads: 2, device: Device::Cpu };
        let mut model = load(&config, &tensors, options).unwrap();
        let options = Options {
            batches: vec![1, 3],
            prefill_tokens: 40,
            context_tokens: 20,
            decode_steps: 2,
            rounds: 1,
            step_tokens: 16,
            rank: 4,
            profile: true,
        };
        let report = run("tiny", &mut *model, &options).unwrap();
        assert_eq!(report.prefill.len(), 5);
        assert_eq!(report.decode.len(), 5, "one sequence cannot have different adapters");
        assert!(report.decode.iter().all(|case| case.tokens_per_second > 0.0));
        assert!(report.to_string().contains("all different"));
        for case in report.prefill.iter().chain(&report.decode) {
            let sum: f64 = case.parts.iter().map(|(_, share)| share).sum();
            assert!((sum - 1.0).abs() < 1e-6 && case.parts.iter().any(|(part, _)| *part == "attention"), "{:?}", case.parts);
        }
    }
}
