//! One training run: rows in, an adapter out. Blocks the thread that calls it, and takes the processor only when its gate lets it.
//! Knows no jobs, no files but its own, and nothing of who asked.
//!
//! A run is a function of its settings, rows, base and starting adapter: the order of rows, dropout and every sum follow from the seed
//! and the number of the step. What is saved is therefore small (parameters, moments, the step), and a run that was killed ends with
//! the same bits as one that was not.

mod drive;
mod error;
mod export;
mod made;
mod memory;
mod optimizer;
mod order;
mod probe;
mod rows;
mod settings;
mod state;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

pub use drive::{Drive, Ended, Next, Progress, drive};
pub use error::TrainError;
pub use export::{LINEAGE_FILE, Lineage};
pub use made::{BaseFacts, Made, Program};
pub use memory::of_run as memory_of_run;
pub use probe::{Measured, probe, probe_behind};
pub use settings::{ComputeType, Method, Scheduler, Settings};
pub use state::{Best, STATE_FILE};

use super::dataset::render::Rendered;
use super::idle::Gate;
use crate::model::lora::LoraModule;
use crate::model::train::{self as maths, Dropout, Keep, Layout, Learner, Passing, Slopes, TrainingBase, mix};
use optimizer::{AdamW, Update};
use order::Order;
use rows::{Weighted, denominator, dpo};

/// What is learnt from, and what is only asked.
#[derive(Debug, Clone)]
pub struct Data {
    /// Rows to learn from.
    pub train: Rendered,
    /// Rows to evaluate on; may be empty.
    pub held_out: Rendered,
}

/// Where the adapter begins.
#[derive(Debug, Clone, Default)]
pub enum Origin {
    /// `A` random (Kaiming-uniform as PEFT draws it), `B` zero: at first the base answers unchanged.
    #[default]
    Fresh,
    /// The pairs of another adapter.
    Adapter(Vec<LoraModule>),
}

/// What a run starts with.
pub struct Start {
    /// The resident base.
    pub base: TrainingBase,
    /// Rows.
    pub data: Data,
    /// Settings.
    pub settings: Settings,
    /// Lets it work.
    pub gate: Arc<Gate>,
    /// Where the adapter begins.
    pub origin: Origin,
    /// Compute threads; the caller is one of them.
    pub threads: usize,
    /// Bytes that it may take beside the base; `None` is no limit.
    pub memory: Option<u64>,
}

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Weighted mean of the targets' negative log-probabilities; of pairs the mean preference loss.
    pub loss: f64,
    /// Share of targets that were the likeliest token; of pairs those in which the chosen answer gained.
    pub accuracy: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Norm of the gradient before it was shortened.
    pub gradient_norm: f64,
    /// Tokens that went through the base.
    pub tokens: u64,
    /// Time that it took, waiting included.
    pub took: Duration,
}

/// An evaluation on held-out rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOut {
    /// As [`StepReport::loss`].
    pub loss: f64,
    /// As [`StepReport::accuracy`].
    pub accuracy: f64,
    /// Targets, or pairs.
    pub counted: u64,
}

/// A run.
pub struct Run {
    settings: Settings,
    made: Made,
    data: Data,
    layout: Layout,
    learner: Learner,
    order: Order,
    optimizer: AdamW,
    values: Vec<f32>,
    grads: Vec<f32>,
    /// What preferences are compared with, where that is not the base alone.
    reference: Option<Vec<f32>>,
    fingerprint: String,
    step: u64,
    best: Option<Best>,
    since_best: u32,
    need: u64,
}

/// Sums over targets or pairs.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    loss: f64,
    weight: f64,
    correct: f64,
    counted: u64,
}

impl Run {
    /// Starts a run, or goes on from the state in `resume_from` where there is one.
    pub fn start(start: Start, resume_from: Option<&Path>) -> Result<Self, TrainError> {
        let Start { base, data, settings, gate, origin, threads, memory } = start;
        settings.check()?;
        check_data(&data, &settings)?;
        check_origin(&origin, &settings)?;
        let (config, compute) = (base.config.clone(), settings.compute_for(base.is_quantized()));
        let layout = Layout::new(&config, &settings.targets, settings.rank, settings.scale());
        let longest = rows::longest(&data.train).max(rows::longest(&data.held_out));
        let lengths = data.train.lengths();
        let held_out = data.held_out.lengths();
        let longest_held_out = held_out.iter().copied().max().unwrap_or(0);
        let needed = |settings: &Settings| {
            let rows = Order::new(&Settings { max_steps: Some(1), ..settings.clone() }, lengths.clone()).most_tokens();
            let rows = rows.max(longest_held_out);
            memory::bytes(&config, &layout, settings, compute, memory::Sizes { rows, longest, threads })
        };
        let fingerprint = fingerprint(&settings, &data, &base, &origin);
        let saved = resume_from.map(state::read).transpose()?.flatten();
        let limit = memory.unwrap_or(u64::MAX);
        let (settings, changes) = match &saved {
            Some((header, _)) if header.fingerprint != fingerprint => return Err(TrainError::OtherRun),
            // It goes on as it began, whatever is free now.
            Some((header, _)) if needed(&header.settings) <= limit => (header.settings.clone(), Vec::new()),
            Some((header, _)) => {
                let (need_mb, have_mb) = (needed(&header.settings) >> 20, limit >> 20);
                return Err(TrainError::Memory { need_mb, have_mb });
            }
            None => memory::fit(&settings, limit, needed)?,
        };
        let (order, need) = (Order::new(&settings, lengths.clone()), needed(&settings));
        let between = Arc::new(move || gate.pass());
        let made = Made::here(&base, &settings, &changes, threads, order.steps());
        let keep = if settings.checkpointing { Keep::Inputs } else { Keep::Activations };
        let learner = Learner::new(base, maths::Settings { threads, compute, keep, between })?;
        let values = initial(&layout, &settings, &origin);
        let reference = match (&settings.method, &origin) {
            (Method::Dpo { .. }, Origin::Adapter(_)) => Some(values.clone()),
            _ => None,
        };
        let mut run = Self {
            optimizer: AdamW::new(layout.len),
            grads: vec![0.0; layout.len],
            settings,
            made,
            data,
            layout,
            learner,
            order,
            values,
            reference,
            fingerprint,
            step: 0,
            best: None,
            since_best: 0,
            need,
        };
        if let Some((header, vectors)) = saved {
            let Ok([values, first, second]) = <[Vec<f32>; 3]>::try_from(vectors) else { return Err(TrainError::OtherRun) };
            let fits = [&values, &first, &second].iter().all(|vector| vector.len() == run.layout.len);
            if !fits || header.step > run.order.steps() {
                return Err(TrainError::OtherRun);
            }
            (run.values, run.optimizer) = (values, AdamW { first, second });
            (run.step, run.best, run.since_best) = (header.step, header.best, header.since_best);
        }
        Ok(run)
    }

    /// Optimizer steps in all.
    pub fn steps(&self) -> u64 {
        self.order.steps()
    }

    /// Steps done.
    pub const fn step_number(&self) -> u64 {
        self.step
    }

    /// Epochs begun, from 1.
    pub fn epoch(&self) -> u32 {
        self.order.epoch_of(self.step.saturating_sub(1)) + 1
    }

    /// The settings in use: those that were asked for, made to fit into memory.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What was changed to make it fit, in words.
    pub fn changes(&self) -> &[String] {
        &self.made.changes
    }

    /// What it is made with, but for the base's name and digest.
    pub const fn made(&self) -> &Made {
        &self.made
    }

    /// Bytes that it holds at its peak beside the base.
    pub const fn memory(&self) -> u64 {
        self.need
    }

    /// Parameters that are trained.
    pub fn parameters(&self) -> usize {
        self.layout.trained()
    }

    /// The best evaluation so far.
    pub const fn best(&self) -> Option<Best> {
        self.best
    }

    /// Whether evaluations have not improved for as long as the settings allow.
    pub const fn is_exhausted(&self) -> bool {
        self.settings.patience > 0 && self.since_best >= self.settings.patience
    }

    /// Whether there are rows to evaluate on.
    pub const fn has_held_out(&self) -> bool {
        !self.data.held_out.is_empty()
    }

    /// Whether the steps done ask for an evaluation.
    pub fn evaluation_is_due(&self) -> bool {
        let every = if self.settings.eval_every > 0 { self.settings.eval_every } else { self.order.steps_per_epoch() };
        !self.data.held_out.is_empty() && self.step > 0 && (self.step.is_multiple_of(every.max(1)) || self.step == self.steps())
    }

    /// The adapter as it is now.
    pub fn pairs(&self) -> Vec<LoraModule> {
        self.layout.pairs(&self.values)
    }

    /// One optimizer step.
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        let began = Instant::now();
        let micros = self.order.step(self.step);
        let divisor = denominator(&self.data.train, &micros);
        self.grads.fill(0.0);
        let (mut sums, mut tokens) = (Sums::default(), 0);
        for (index, micro) in micros.iter().enumerate() {
            let weighted = Weighted::of(&self.data.train, micro);
            tokens += weighted.tokens() as u64;
            let key = mix(self.settings.seed ^ mix(self.step ^ mix(index as u64)));
            let dropout = (self.settings.dropout > 0.0).then_some(Dropout { rate: self.settings.dropout, key });
            self.learn(&weighted, dropout, Some(divisor), &mut sums)?;
            if !self.learner.goes_on() {
                return Err(TrainError::Stopped);
            }
        }
        let rate = self.settings.learning_rate * self.settings.rate_factor(self.step, self.steps());
        let learner = &self.learner;
        let between = || _ = learner.goes_on();
        let gradient_norm = optimizer::norm(&self.grads, &between);
        let loss = sums.loss / sums.weight.max(f64::MIN_POSITIVE);
        for (what, value) in [("the loss is not a number", loss), ("the gradient is not a number", gradient_norm)] {
            if !value.is_finite() {
                let rate = self.settings.learning_rate;
                return Err(TrainError::Diverged { step: self.step + 1, what, rate, remedy: rate / 3.0 });
            }
        }
        let most = self.settings.max_grad_norm;
        let factor = if most > 0.0 { (most / (gradient_norm + 1e-6)).min(1.0) } else { 1.0 };
        let (settings, layout, step) = (&self.settings, &self.layout, self.step + 1);
        let how = Update { settings, layout, step, rate, factor: factor as f32, between: &between };
        self.optimizer.update(how, &self.grads, &mut self.values);
        self.step += 1;
        Ok(StepReport {
            step: self.step,
            loss,
            accuracy: sums.correct / sums.counted.max(1) as f64,
            learning_rate: rate,
            gradient_norm,
            tokens,
            took: began.elapsed(),
        })
    }

    /// Loss and accuracy on the held-out rows, noted for early stopping.
    pub fn evaluate(&mut self) -> Result<HeldOut, TrainError> {
        let held_out = self.score(Scored::Adapter)?;
        if self.best.is_none_or(|best| held_out.loss < best.loss) {
            self.best = Some(Best { loss: held_out.loss, step: self.step });
            self.since_best = 0;
        } else {
            self.since_best += 1;
        }
        Ok(held_out)
    }

    /// Loss and accuracy on the held-out rows, of the adapter or of the base alone.
    pub fn score(&mut self, what: Scored) -> Result<HeldOut, TrainError> {
        let mut sums = Sums::default();
        // As many tokens together as the reserved memory has room for.
        for micro in rows::groups(&self.data.held_out.lengths(), self.order.most_tokens(), self.settings.batch_size) {
            let weighted = Weighted::of(&self.data.held_out, &micro);
            match what {
                Scored::Adapter => self.learn(&weighted, None, None, &mut sums)?,
                Scored::Base => {
                    self.learner.forward(&weighted.batch, None, None, Passing::Through)?;
                    let outcomes = self.learner.targets(&weighted.batch, Slopes::None);
                    match self.settings.method {
                        Method::Supervised => sums.supervised(&outcomes, &weighted.weights),
                        Method::Dpo { beta } => sums.preferences(f64::from(beta), &vec![0.0; micro.len()], &mut |_, _| {}),
                    }
                }
            }
            if !self.learner.goes_on() {
                return Err(TrainError::Stopped);
            }
        }
        let (loss, accuracy) = (sums.loss / sums.weight, sums.correct / sums.counted.max(1) as f64);
        Ok(HeldOut { loss, accuracy, counted: sums.counted })
    }

    /// Runs one micro-batch; with a divisor, adds its gradients.
    fn learn(
        &mut self,
        weighted: &Weighted,
        dropout: Option<Dropout>,
        divisor: Option<f64>,
        sums: &mut Sums,
    ) -> Result<(), TrainError> {
        let Weighted { batch, weights, ends } = weighted;
        let passing = if divisor.is_some() { Passing::Kept } else { Passing::Through };
        let adapter = (&self.layout, &self.values[..]);
        match self.settings.method {
            Method::Supervised => {
                self.learner.forward(batch, Some(adapter), dropout, passing)?;
                let outcomes = if let Some(divisor) = divisor {
                    let slopes: Vec<f32> = weights.iter().map(|weight| (-f64::from(*weight) / divisor) as f32).collect();
                    let outcomes = self.learner.targets(batch, Slopes::Known(&slopes));
                    self.learner.back(batch, adapter, dropout, &mut self.grads);
                    outcomes
                } else {
                    self.learner.targets(batch, Slopes::None)
                };
                sums.supervised(&outcomes, weights);
            }
            Method::Dpo { beta } => {
                let reference = self.reference.as_deref().map(|values| (&self.layout, values));
                self.learner.forward(batch, reference, None, Passing::Through)?;
                let before = by_span(&self.learner.targets(batch, Slopes::None), ends);
                self.learner.forward(batch, Some(adapter), dropout, passing)?;
                let after = by_span(&self.learner.targets(batch, Slopes::None), ends);
                let gains: Vec<f64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
                let margins: Vec<f64> = gains.chunks_exact(2).map(|pair| pair[0] - pair[1]).collect();
                let mut slopes = vec![0f32; weights.len()];
                sums.preferences(f64::from(beta), &margins, &mut |pair, slope| {
                    let slope = slope / divisor.unwrap_or(1.0);
                    slopes[ends[2 * pair].clone()].fill(slope as f32);
                    slopes[ends[2 * pair + 1].clone()].fill(-slope as f32);
                });
                if divisor.is_some() {
                    self.learner.targets(batch, Slopes::Known(&slopes));
                    self.learner.back(batch, adapter, dropout, &mut self.grads);
                }
            }
        }
        Ok(())
    }

    /// Saves what the run needs to go on, replacing what was saved before.
    pub fn save(&self, dir: &Path) -> Result<(), TrainError> {
        let header = state::Header {
            fingerprint: self.fingerprint.clone(),
            settings: self.settings.clone(),
            step: self.step,
            best: self.best,
            since_best: self.since_best,
            lengths: vec![self.layout.len; 3],
        };
        state::write(dir, &header, &[&self.values, &self.optimizer.first, &self.optimizer.second])
    }

    /// Writes the adapter as a PEFT directory.
    pub fn export(&self, dir: &Path, lineage: &Lineage) -> Result<(), TrainError> {
        let lineage = Lineage {
            step: self.step,
            settings: self.settings.clone(),
            code: concat!("switchyard ", env!("CARGO_PKG_VERSION")).to_owned(),
            ..lineage.clone()
        };
        export::write(dir, &self.pairs(), &self.settings, &lineage)
    }
}

/// What is asked for its loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scored {
    /// The adapter as it is now.
    Adapter,
    /// The base alone.
    Base,
}

impl Sums {
    fn supervised(&mut self, outcomes: &[maths::Outcome], weights: &[f32]) {
        for (outcome, weight) in outcomes.iter().zip(weights) {
            self.loss -= f64::from(*weight) * f64::from(outcome.log_prob);
            self.weight += f64::from(*weight);
            self.correct += f64::from(u8::from(outcome.correct));
            self.counted += 1;
        }
    }

    fn preferences(&mut self, beta: f64, margins: &[f64], slope: &mut dyn FnMut(usize, f64)) {
        for (pair, margin) in margins.iter().enumerate() {
            let (loss, derivative) = dpo(beta, *margin);
            self.loss += loss;
            self.weight += 1.0;
            self.correct += f64::from(u8::from(*margin > 0.0));
            self.counted += 1;
            slope(pair, derivative);
        }
    }
}

/// Log-probability of each example.
fn by_span(outcomes: &[maths::Outcome], ends: &[std::ops::Range<usize>]) -> Vec<f64> {
    ends.iter().map(|range| outcomes[range.clone()].iter().map(|outcome| f64::from(outcome.log_prob)).sum()).collect()
}

fn check_data(data: &Data, settings: &Settings) -> Result<(), TrainError> {
    let wrong = |text: &str| Err(TrainError::Data(text.to_owned()));
    let fits = |rows: &Rendered| {
        matches!(
            (rows, settings.method),
            (Rendered::Supervised(_), Method::Supervised) | (Rendered::Preference(_), Method::Dpo { .. })
        )
    };
    if data.train.is_empty() {
        return wrong("there are no rows to learn from");
    }
    if !fits(&data.train) || !(data.held_out.is_empty() || fits(&data.held_out)) {
        return wrong(
            "the rows are not of the method's kind: supervised training takes answers, dpo takes preferred and other answers",
        );
    }
    let learns = match &data.train {
        Rendered::Supervised(samples) => samples.iter().any(|sample| sample.learnt() > 0),
        Rendered::Preference(pairs) => pairs.iter().any(|pair| pair.chosen.learnt() > 0),
    };
    if learns { Ok(()) } else { wrong("no row has anything to learn: every answer is empty, cut off or has weight 0") }
}

fn check_origin(origin: &Origin, settings: &Settings) -> Result<(), TrainError> {
    let Origin::Adapter(pairs) = origin else { return Ok(()) };
    for pair in pairs {
        if !settings.targets.contains(&pair.site) {
            let value = format!("without {}, which the adapter to go on from has", pair.site.name());
            return Err(TrainError::Setting { field: "targets", value, want: "every linear of that adapter" });
        }
        if pair.rank > settings.rank {
            let value = format!("{}, less than the {} of the adapter to go on from", settings.rank, pair.rank);
            return Err(TrainError::Setting { field: "rank", value, want: "at least that" });
        }
    }
    Ok(())
}

/// Settings, rows, base and beginning in one digest.
fn fingerprint(settings: &Settings, data: &Data, base: &TrainingBase, origin: &Origin) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("switchyard run 1\n{settings:?}\n{:?}\n", base.config));
    base.sample(&mut |bytes| hash.update(bytes));
    rows::digest(&data.train, &mut hash);
    rows::digest(&data.held_out, &mut hash);
    if let Origin::Adapter(pairs) = origin {
        for pair in pairs {
            hash.update(pair.scale.to_le_bytes());
            pair.a.iter().chain(&pair.b).for_each(|value| hash.update(value.to_le_bytes()));
        }
    }
    crate::ids::hex(&hash.finalize())
}

fn initial(layout: &Layout, settings: &Settings, origin: &Origin) -> Vec<f32> {
    let mut values = vec![0.0; layout.len];
    match origin {
        Origin::Adapter(pairs) => layout.put(pairs, &mut values),
        Origin::Fresh => {
            let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
            for module in &layout.modules {
                // Kaiming-uniform with a = sqrt(5) (He et al. 2015): the bound is 1 / sqrt(inputs).
                let bound = 1.0 / (module.k as f32).sqrt();
                let a = &mut values[module.a.clone()][..settings.rank * module.k];
                a.iter_mut().for_each(|value| *value = rng.random_range(-bound..bound));
            }
        }
    }
    values
}
