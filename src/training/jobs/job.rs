//! What a job is: its states, what was asked for, what `auto` becomes, the names that it makes. Pure; knows no database.

use serde::{Deserialize, Serialize};

use super::{JobsError, new_id};
use crate::training::plan;

/// Longest suffix (OpenAI's).
const MAX_SUFFIX: usize = 64;
/// Longest part of a model's name that the base's name takes.
const MAX_BASE: usize = 64;
/// Published versions of a job at most, the last one not counted.
const MOST_CHECKPOINTS: u64 = 16;
/// Preferences are learnt with a tenth of the learning rate that answers are: the loss pushes two ways at once.
const DPO_RATE: f64 = 0.1;
/// Beta of DPO (Rafailov et al. 2023) where nothing is said.
const BETA: f64 = 0.1;

/// Where a job stands, in OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its files are being checked.
    ValidatingFiles,
    /// It waits for its turn.
    Queued,
    /// It is being worked on.
    Running,
    /// It waits for its owner.
    Paused,
    /// Its model is there.
    Succeeded,
    /// It ended without one.
    Failed,
    /// Its owner ended it.
    Cancelled,
}

impl Status {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ValidatingFiles => "validating_files",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen, by the word.
    pub fn is_over(name: &str) -> bool {
        [Self::Succeeded, Self::Failed, Self::Cancelled].iter().any(|status| status.name() == name)
    }
}

/// Where a job stands, for webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for its turn.
    Queued,
    /// Its files become tokens.
    Preprocessing,
    /// Base, adapter and memory are there.
    ModelLoaded,
    /// Steps are made.
    Training,
    /// What was learnt is measured.
    Evaluating,
    /// Its model is there.
    Completed,
    /// It ended without one.
    Failed,
    /// Its owner ended it.
    Cancelled,
}

impl Phase {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preprocessing => "preprocessing",
            Self::ModelLoaded => "model_loaded",
            Self::Training => "training",
            Self::Evaluating => "evaluating",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A value, or the server's choice.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Auto<T> {
    /// The server chooses.
    #[default]
    Auto,
    /// As given.
    Given(T),
}

impl<T: Copy> Auto<T> {
    /// The value, or what the server chooses.
    pub const fn or(self, chosen: T) -> T {
        match self {
            Self::Auto => chosen,
            Self::Given(value) => value,
        }
    }
}

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Given(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Auto<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<T> {
            Given(T),
            Word(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Given(value) => Ok(Self::Given(value)),
            Either::Word(word) if word == "auto" => Ok(Self::Auto),
            Either::Word(word) => Err(serde::de::Error::custom(format!("{word:?} is neither a value nor \"auto\""))),
        }
    }
}

/// How is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodKind {
    /// From answers.
    Supervised,
    /// From preferences.
    Dpo,
}

impl MethodKind {
    /// The word in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Supervised => "supervised",
            Self::Dpo => "dpo",
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// How is learnt.
    pub kind: MethodKind,
    /// Times that each row is seen.
    pub n_epochs: Auto<u32>,
    /// Rows behind one step.
    pub batch_size: Auto<u32>,
    /// Multiplies the learning rate that the server would choose.
    pub learning_rate_multiplier: Auto<f64>,
    /// Of DPO.
    pub beta: Auto<f64>,
}

impl Method {
    /// Everything is the server's choice.
    pub const fn auto(kind: MethodKind) -> Self {
        Self { kind, n_epochs: Auto::Auto, batch_size: Auto::Auto, learning_rate_multiplier: Auto::Auto, beta: Auto::Auto }
    }

    /// What is trained with: given values as they are, others by the rules of [`plan::auto`].
    pub fn resolve(&self, facts: &Facts, base_parameters: u64) -> Resolved {
        let auto = plan::auto(facts.rows, facts.tokens, base_parameters);
        let batch_size = self.batch_size.or(auto.batch_size.value);
        let multiplier = self.learning_rate_multiplier.or(1.0);
        let kind_rate = match self.kind {
            MethodKind::Supervised => 1.0,
            MethodKind::Dpo => DPO_RATE,
        };
        Resolved {
            kind: self.kind,
            n_epochs: self.n_epochs.or(auto.epochs.value),
            batch_size,
            learning_rate_multiplier: multiplier,
            beta: (self.kind == MethodKind::Dpo).then(|| self.beta.or(BETA)),
            learning_rate: auto.learning_rate.value * multiplier * kind_rate,
            warmup_ratio: auto.warmup_ratio.value,
            rank: auto.rank.value,
            alpha: auto.alpha.value,
        }
    }
}

/// What is trained with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// How is learnt.
    pub kind: MethodKind,
    /// Times that each row is seen.
    pub n_epochs: u32,
    /// Rows behind one step.
    pub batch_size: u32,
    /// As asked, or 1.
    pub learning_rate_multiplier: f64,
    /// Of DPO.
    pub beta: Option<f64>,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Share of the steps in which it rises.
    pub warmup_ratio: f64,
    /// Of the adapter.
    pub rank: u32,
    /// Scale of the adapter.
    pub alpha: f64,
}

/// What is known of a job's rows once they were read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// To learn from.
    pub rows: u64,
    /// To judge by.
    pub held_out: u64,
    /// Of the rows to learn from.
    pub tokens: u64,
    /// Rows that are longer than the context.
    pub truncated: u64,
    /// Rows of which nothing is left to learn.
    pub lost: u64,
    /// Rows without a prompt or without an answer, which are left out.
    pub missing: u64,
    /// Digest of the dataset.
    pub digest: String,
}

/// Checks the part of a model's name that its owner chooses.
pub fn check_suffix(suffix: &str) -> Result<(), JobsError> {
    let sound = suffix.len() <= MAX_SUFFIX && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let right = format!("at most {MAX_SUFFIX} letters, digits, '.', '_' and '-' are right");
    if sound { Ok(()) } else { Err(JobsError::invalid("suffix", right)) }
}

/// A new name: `ft:base:tenant:suffix:id`.
pub fn model_name(base: &str, tenant: &str, suffix: &str) -> String {
    let plain = |text: &str| -> String {
        let plain = text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' });
        plain.take(MAX_BASE).collect()
    };
    // 8 of 62 letters and digits: enough for one tenant, base and suffix.
    let id: String = new_id("").chars().take(8).collect();
    format!("ft:{}:{}:{suffix}:{id}", plain(base), plain(tenant))
}

/// Name of a checkpoint.
pub fn checkpoint_name(model: &str, step: u64) -> String {
    format!("{model}:ckpt-step-{step}")
}

/// Whether what was learnt is published after this step: at the end of each pass over the rows, at least four times in a job, and
/// not much more often than 16 times.
pub fn is_checkpoint(step: u64, steps: u64, epochs: u32) -> bool {
    let pass = steps.div_ceil(u64::from(epochs.max(1))).max(1);
    let every = pass.min(steps.div_ceil(4)).max(steps.div_ceil(MOST_CHECKPOINTS)).max(1);
    step == steps || (step > 0 && step.is_multiple_of(every))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn given_values_stay_and_the_rest_follows_the_rules() {
        let facts = Facts { rows: 500, tokens: 30_000, ..Facts::default() };
        let auto = Method::auto(MethodKind::Supervised).resolve(&facts, 5_770_496);
        assert_eq!((auto.n_epochs, auto.batch_size, auto.learning_rate, auto.beta), (6, 8, 1.1e-3, None));
        let asked =
            Method { n_epochs: Auto::Given(2), learning_rate_multiplier: Auto::Given(0.5), ..Method::auto(MethodKind::Dpo) };
        let given = asked.resolve(&facts, 5_770_496);
        assert_eq!((given.n_epochs, given.beta), (2, Some(0.1)));
        assert!((given.learning_rate - 1.1e-3 * 0.5 * 0.1).abs() < 1e-12);
        let text = serde_json::to_string(&asked).unwrap();
        assert!(text.contains("\"n_epochs\":2") && text.contains("\"batch_size\":\"auto\""), "{text}");
        assert_eq!(serde_json::from_str::<Method>(&text).unwrap(), asked);
    }

    #[test]
    fn names_hold_what_they_are_made_of() {
        let name = model_name("org/base:x", "proj_1", "mine");
        assert!(name.starts_with("ft:org-base-x:proj_1:mine:"), "{name}");
        assert_eq!(name.split(':').count(), 5);
        check_suffix("my-model.v1").unwrap();
        check_suffix("a:b").unwrap_err();
        check_suffix(&"x".repeat(65)).unwrap_err();
    }

    proptest! {
        #[test]
        fn checkpoints_are_neither_rare_nor_many(steps in 1..5_000u64, epochs in 1..20u32) {
            let count = (1..=steps).filter(|step| is_checkpoint(*step, steps, epochs)).count() as u64;
            prop_assert!(is_checkpoint(steps, steps, epochs));
            prop_assert!(count <= MOST_CHECKPOINTS + 1);
            prop_assert!(count >= steps.min(3), "{count}");
        }
    }
}
