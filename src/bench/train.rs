//! How fast training goes here, and what memory it takes: steps over random tokens, every one of which is learnt.

use std::fmt;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::peak_resident_bytes;
use crate::model::train::TrainingBase;
use crate::training::dataset::render::{Rendered, Sample};
use crate::training::idle::Gate;
use crate::training::trainer::{ComputeType, Data, Origin, Run, Settings, Start, TrainError};

/// What is measured.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TrainOptions {
    /// Rows of a micro-batch; a step is one micro-batch.
    pub rows: usize,
    /// Tokens of a row.
    pub tokens: usize,
    /// Rank, on all linears.
    pub rank: usize,
    /// Steps that are measured, after one that is not.
    pub steps: usize,
    /// Type of the products with the base.
    pub compute: ComputeType,
    /// Whether only the layers' inputs are kept.
    pub checkpointing: bool,
    /// Compute threads.
    pub threads: usize,
}

/// The figures.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TrainReport {
    /// The base.
    pub model: String,
    /// What was measured.
    pub options: TrainOptions,
    /// Tokens a second, the median of the steps.
    pub tokens_per_second: f64,
    /// Slowest and fastest step.
    pub range: [f64; 2],
    /// What a run reserves beside the base, bytes.
    pub reserved_bytes: u64,
    /// Highest resident size of the process so far, bytes; 0 where the system does not tell.
    pub peak_resident_bytes: usize,
}

/// A run over random tokens that never ends by itself.
pub(super) fn random_run(base: TrainingBase, options: &TrainOptions, gate: Arc<Gate>) -> Result<Run, TrainError> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let vocabulary = base.config.vocab_size as u32;
    let mut sample = || Sample {
        tokens: (0..options.tokens).map(|_| rng.random_range(0..vocabulary)).collect(),
        weights: (0..options.tokens).map(|at| if at == 0 { 0.0 } else { 1.0 }).collect(),
        among: Vec::new(),
    };
    let rows = (0..options.rows).map(|_| sample()).collect();
    let data = Data { train: Rendered::Supervised(rows), held_out: Rendered::Supervised(Vec::new()) };
    let settings = Settings {
        rank: options.rank,
        batch_size: options.rows,
        accumulation: 1,
        max_steps: Some(1 << 20),
        compute: options.compute,
        checkpointing: options.checkpointing,
        context: options.tokens,
        warmup_ratio: 0.0,
        ..Settings::default()
    };
    let (origin, threads) = (Origin::Fresh, options.threads);
    Run::start(Start { base, data, settings, gate, origin, threads, memory: None }, None)
}

/// Trains for some steps.
pub fn train(name: &str, base: TrainingBase, options: &TrainOptions) -> Result<TrainReport, TrainError> {
    let mut run = random_run(base, options, Gate::open())?;
    run.step()?;
    let mut speeds = Vec::with_capacity(options.steps);
    for _ in 0..options.steps {
        let report = run.step()?;
        speeds.push(report.tokens as f64 / report.took.as_secs_f64());
    }
    speeds.sort_by(f64::total_cmp);
    Ok(TrainReport {
        model: name.to_owned(),
        options: options.clone(),
        tokens_per_second: speeds[speeds.len() / 2],
        range: [speeds[0], speeds[speeds.len() - 1]],
        reserved_bytes: run.memory(),
        peak_resident_bytes: peak_resident_bytes(),
    })
}

impl fmt::Display for TrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &self.options;
        writeln!(f, "{}", self.model)?;
        writeln!(
            f,
            "training, rank {} on all linears, {} x {} tokens, {} threads, {:?}{}",
            o.rank,
            o.rows,
            o.tokens,
            o.threads,
            o.compute,
            if o.checkpointing { ", checkpointing" } else { "" }
        )?;
        writeln!(f, "{:>10.1} tokens/s (from {:.1} to {:.1})", self.tokens_per_second, self.range[0], self.range[1])?;
        writeln!(f, "{:>10.2} GiB reserved beside the base", self.reserved_bytes as f64 / f64::from(1 << 30))?;
        writeln!(f, "{:>10.2} GiB resident at most", self.peak_resident_bytes as f64 / f64::from(1 << 30))
    }
}
