//! The settings of a run, checked together: a contradiction is refused before anything starts.

use serde::{Deserialize, Serialize};

use super::TrainError;
use crate::model::config::LinearSite;
use crate::model::train::Compute;
use crate::training::plan::Keeping;

/// What is learnt from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Method {
    /// Answers.
    #[default]
    Supervised,
    /// Preferred answers over others: direct preference optimisation (Rafailov et al. 2023).
    Dpo {
        /// How much the adapter may leave the base: the larger, the less.
        beta: f32,
    },
}

/// How the learning rate goes after its warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// It stays.
    Constant,
    /// In a line to zero.
    Linear,
    /// In half a cosine to zero.
    #[default]
    Cosine,
}

/// Type of the products with the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    /// 8 bits over a quantized base where the processor has fast products of that kind, else f32.
    #[default]
    Auto,
    /// f32.
    F32,
    /// 8 bits.
    Int8,
}

/// All settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What is learnt from.
    pub method: Method,
    /// Rank of every pair.
    pub rank: usize,
    /// Updates are multiplied with `alpha / rank`.
    pub alpha: f32,
    /// Updates are multiplied with `alpha / sqrt(rank)` instead (Kalajdzievski 2023).
    pub rslora: bool,
    /// Share of an adapter's inputs that is left out in each step.
    pub dropout: f32,
    /// The linears that get a pair.
    pub targets: Vec<LinearSite>,
    /// Times that every row is seen.
    pub epochs: u32,
    /// Optimizer steps, instead of epochs.
    pub max_steps: Option<u64>,
    /// Rows of a micro-batch; with packing, contexts' worth of tokens.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// How it goes after its warmup.
    pub scheduler: Scheduler,
    /// Share of the steps in which it rises from zero.
    pub warmup_ratio: f64,
    /// Decoupled decay (Loshchilov and Hutter 2019).
    pub weight_decay: f64,
    /// Decay of the gradient's mean and of its square's.
    pub betas: (f64, f64),
    /// Added to the root of the square's mean.
    pub epsilon: f64,
    /// Longest gradient that is used as it is; longer ones are shortened to it. 0 is no limit.
    pub max_grad_norm: f64,
    /// Learning rate of `B` by that of `A` (LoRA+, Hayou et al. 2024).
    pub lora_plus_ratio: f64,
    /// Of the initial weights, the order of rows and dropout.
    pub seed: u64,
    /// Whether rows are taken in an order of their own in each epoch.
    pub shuffle: bool,
    /// Rows are put together up to the context length; they do not see one another.
    pub packing: bool,
    /// Longest row, tokens.
    pub context: usize,
    /// Only the layers' inputs are kept going forward, the rest is computed again: less memory, a third more time.
    pub checkpointing: bool,
    /// Type of the products with the base.
    pub compute: ComputeType,
    /// Steps between two evaluations on the held-out rows; 0 is once an epoch.
    pub eval_every: u64,
    /// Evaluations without improvement after which a run ends early; 0 is never.
    pub patience: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            method: Method::Supervised,
            rank: 16,
            alpha: 32.0,
            rslora: false,
            dropout: 0.0,
            targets: LinearSite::ALL.to_vec(),
            epochs: 3,
            max_steps: None,
            batch_size: 4,
            accumulation: 4,
            learning_rate: 2e-4,
            scheduler: Scheduler::Cosine,
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            lora_plus_ratio: 1.0,
            seed: 42,
            shuffle: true,
            packing: false,
            context: 2048,
            checkpointing: false,
            compute: ComputeType::Auto,
            eval_every: 0,
            patience: 0,
        }
    }
}

impl Settings {
    /// The same with another rank, with activations kept or computed again.
    pub fn with(&self, rank: u32, keeping: Keeping) -> Self {
        Self { rank: rank as usize, checkpointing: keeping == Keeping::Inputs, ..self.clone() }
    }

    /// Refuses what cannot be.
    pub fn check(&self) -> Result<(), TrainError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let share = |value: f64| (0.0..1.0).contains(&value);
        let at_least_zero = |value: f64| value.is_finite() && value >= 0.0;
        let wrong = |field: &'static str, value: String, want: &'static str| Err(TrainError::Setting { field, value, want });
        if !(1..=512).contains(&self.rank) {
            return wrong("rank", self.rank.to_string(), "1 to 512");
        }
        if !positive(self.alpha.into()) {
            return wrong("alpha", self.alpha.to_string(), "a number above 0");
        }
        if !share(self.dropout.into()) {
            return wrong("dropout", self.dropout.to_string(), "0 to less than 1");
        }
        if self.targets.is_empty() {
            return wrong(
                "targets",
                "[]".to_owned(),
                "at least one of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
            );
        }
        if self.epochs == 0 && self.max_steps.is_none() {
            return wrong("epochs", "0".to_owned(), "at least 1");
        }
        if self.max_steps == Some(0) {
            return wrong("max_steps", "0".to_owned(), "at least 1");
        }
        if !(1..=4096).contains(&self.batch_size) {
            return wrong("batch_size", self.batch_size.to_string(), "1 to 4096");
        }
        if !(1..=4096).contains(&self.accumulation) {
            return wrong("accumulation", self.accumulation.to_string(), "1 to 4096");
        }
        if !positive(self.learning_rate) || self.learning_rate > 1.0 {
            return wrong("learning_rate", self.learning_rate.to_string(), "above 0 and at most 1");
        }
        if !share(self.warmup_ratio) {
            return wrong("warmup_ratio", self.warmup_ratio.to_string(), "0 to less than 1");
        }
        if !at_least_zero(self.weight_decay) {
            return wrong("weight_decay", self.weight_decay.to_string(), "a number not below 0");
        }
        if !share(self.betas.0) || !share(self.betas.1) {
            return wrong("betas", format!("{:?}", self.betas), "two numbers of 0 to less than 1");
        }
        if !positive(self.epsilon) {
            return wrong("epsilon", self.epsilon.to_string(), "a number above 0");
        }
        if !at_least_zero(self.max_grad_norm) {
            return wrong("max_grad_norm", self.max_grad_norm.to_string(), "a number not below 0 (0 is no limit)");
        }
        if !positive(self.lora_plus_ratio) {
            return wrong("lora_plus_ratio", self.lora_plus_ratio.to_string(), "a number above 0 (1 is plain LoRA)");
        }
        if self.context < 2 {
            return wrong("context", self.context.to_string(), "at least 2 tokens");
        }
        match self.method {
            Method::Dpo { beta } if !positive(beta.into()) => wrong("beta", beta.to_string(), "a number above 0"),
            _ => Ok(()),
        }
    }

    /// What an update is multiplied with.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Type of the products with a base.
    pub fn compute_for(&self, base_is_quantized: bool) -> Compute {
        match self.compute {
            ComputeType::F32 => Compute::F32,
            ComputeType::Int8 => Compute::Int8,
            ComputeType::Auto if base_is_quantized && Compute::int8_is_fast() => Compute::Int8,
            ComputeType::Auto => Compute::F32,
        }
    }

    /// Learning rate by its peak in a step, counted from 0: a warmup from 0, then the scheduler's way, as `transformers` has it.
    pub fn rate_factor(&self, step: u64, steps: u64) -> f64 {
        let warmup = (self.warmup_ratio * steps as f64).ceil() as u64;
        if step < warmup {
            return step as f64 / warmup.max(1) as f64;
        }
        let progress = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
        match self.scheduler {
            Scheduler::Constant => 1.0,
            Scheduler::Linear => (1.0 - progress).max(0.0),
            Scheduler::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn wrong_settings_are_named_with_what_would_be_right() {
        Settings::default().check().unwrap();
        for (field, settings) in [
            ("rank", Settings { rank: 0, ..Settings::default() }),
            ("alpha", Settings { alpha: f32::NAN, ..Settings::default() }),
            ("dropout", Settings { dropout: 1.0, ..Settings::default() }),
            ("targets", Settings { targets: Vec::new(), ..Settings::default() }),
            ("epochs", Settings { epochs: 0, ..Settings::default() }),
            ("max_steps", Settings { max_steps: Some(0), ..Settings::default() }),
            ("batch_size", Settings { batch_size: 0, ..Settings::default() }),
            ("learning_rate", Settings { learning_rate: 0.0, ..Settings::default() }),
            ("warmup_ratio", Settings { warmup_ratio: 1.0, ..Settings::default() }),
            ("betas", Settings { betas: (0.9, 1.0), ..Settings::default() }),
            ("context", Settings { context: 1, ..Settings::default() }),
            ("beta", Settings { method: Method::Dpo { beta: 0.0 }, ..Settings::default() }),
        ] {
            let text = settings.check().unwrap_err().to_string();
            assert!(text.starts_with(field), "{text}");
        }
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let settings = Settings { warmup_ratio: 0.1, ..Settings::default() };
        let factors: Vec<f64> = (0..=100).map(|step| settings.rate_factor(step, 100)).collect();
        assert_eq!((factors[0], factors[5], factors[10], factors[100]), (0.0, 0.5, 1.0, 0.0));
        assert!((factors[55] - 0.5).abs() < 1e-9);
        let linear = Settings { scheduler: Scheduler::Linear, warmup_ratio: 0.0, ..settings };
        assert_eq!((linear.rate_factor(0, 4), linear.rate_factor(1, 4)), (1.0, 0.75));
    }
}
