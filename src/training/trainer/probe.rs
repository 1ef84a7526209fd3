//! How fast this machine trains this base, measured by doing it: what plans are made of.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Data, Origin, Run, Settings, Start, TrainError};
use crate::model::train::TrainingBase;
use crate::training::dataset::render::{Rendered, Sample};
use crate::training::idle::Gate;

/// Longest row of a probe, tokens: the products' speed no longer grows much with the rows.
const TOKENS: usize = 256;
/// Steps that count, after one that does not.
const STEPS: u32 = 2;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Tokens a second that a step goes through.
    pub tokens_per_second: f64,
    /// Steps that count.
    pub steps: u32,
}

/// Trains for a few steps on random tokens, with the machine to itself. Blocks.
pub fn probe(base: TrainingBase, settings: &Settings, threads: usize) -> Result<Measured, TrainError> {
    probe_behind(Gate::open(), base, settings, threads)
}

/// The same whenever the gate lets it; waiting for that counts.
pub fn probe_behind(gate: Arc<Gate>, base: TrainingBase, settings: &Settings, threads: usize) -> Result<Measured, TrainError> {
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let (vocabulary, tokens) = (base.config.vocab_size as u32, TOKENS.min(settings.context));
    let sample = Sample {
        tokens: (0..tokens).map(|_| rng.random_range(0..vocabulary)).collect(),
        weights: (0..tokens).map(|at| if at == 0 { 0.0 } else { 1.0 }).collect(),
        among: Vec::new(),
    };
    let data = Data { train: Rendered::Supervised(vec![sample]), held_out: Rendered::Supervised(Vec::new()) };
    let settings = Settings {
        method: super::Method::Supervised,
        batch_size: 1,
        accumulation: 1,
        max_steps: Some(u64::from(STEPS) + 1),
        ..settings.clone()
    };
    let mut run = Run::start(Start { base, data, settings, gate, origin: Origin::Fresh, threads, memory: None }, None)?;
    run.step()?;
    let mut seconds = 0.0;
    for _ in 0..STEPS {
        seconds += run.step()?.took.as_secs_f64();
    }
    Ok(Measured { tokens_per_second: tokens as f64 * f64::from(STEPS) / seconds, steps: STEPS })
}
