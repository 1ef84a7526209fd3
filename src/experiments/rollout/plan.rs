//! What a rollout is to do: its steps, how long each bakes, what it waits for. Pure; knows neither states nor deployments.

use serde::{Deserialize, Serialize};

use super::hours::Hours;
use crate::experiments::{ExperimentError, Weight};

/// Steps that are usual, percent.
const USUAL_STEPS: [f64; 4] = [1.0, 10.0, 50.0, 100.0];
/// Most steps.
const MOST_STEPS: usize = 20;
/// How long a step bakes where nothing is said, seconds.
const USUAL_BAKE: i64 = 600;
/// Answers of the candidate that a step waits for where nothing is said.
const USUAL_SAMPLES: u64 = 50;
/// How long an inconclusive rollout waits where nothing is said, seconds.
const USUAL_DEADLINE: i64 = 86_400;
/// Longest bake and longest wait, seconds: 30 days.
const LONGEST: i64 = 30 * 86_400;
/// Most answers that a step can wait for.
const MOST_SAMPLES: u64 = 1_000_000_000;
/// Tokens of shadow traffic a day where nothing is said.
const USUAL_SHADOW_TOKENS: u64 = 1_000_000;

/// The plan of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Answers in silence before anybody sees one.
    pub shadow: Option<Shadow>,
    /// From the first canary to all traffic.
    pub steps: Vec<Step>,
    /// When it may go forward; it goes back at any time.
    pub hours: Option<Hours>,
    /// How long it may be inconclusive, seconds.
    pub deadline_seconds: i64,
    /// What happens then.
    pub on_deadline: OnDeadline,
}

/// Answers in silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow {
    /// Share of the traffic that is copied.
    pub percent: Weight,
    /// How long, seconds.
    pub bake_seconds: i64,
    /// Pairs that it waits for.
    pub min_samples: u64,
    /// Most tokens of a day.
    pub max_tokens_per_day: u64,
}

/// A share of the traffic for some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The candidate's share.
    pub weight: Weight,
    /// How long, seconds.
    pub bake_seconds: i64,
    /// Answers of the candidate in this step that it waits for.
    pub min_samples: u64,
}

/// What happens to a rollout that was inconclusive for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDeadline {
    /// It goes back.
    #[default]
    Rollback,
    /// It goes forward: no guard was breached.
    Advance,
    /// It waits for a person without end.
    Pause,
}

impl OnDeadline {
    /// The words, for those who ask.
    pub const WORDS: [(&'static str, Self); 3] =
        [("rollback", Self::Rollback), ("advance", Self::Advance), ("pause", Self::Pause)];

    /// The one of this word.
    pub fn named(word: &str) -> Option<Self> {
        Self::WORDS.into_iter().find(|(known, _)| *known == word).map(|(_, value)| value)
    }
}

/// What was asked for; what is missing becomes what is usual.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Draft {
    /// Steps.
    pub steps: Option<Vec<DraftStep>>,
    /// Of steps that do not say.
    pub bake_seconds: Option<i64>,
    /// Of steps that do not say.
    pub min_samples: Option<u64>,
    /// Answers in silence.
    pub shadow: Option<DraftShadow>,
    /// When it may go forward.
    pub hours: Option<String>,
    /// See [`Plan`].
    pub deadline_seconds: Option<i64>,
    /// See [`Plan`].
    pub on_deadline: Option<OnDeadline>,
}

/// A step as it was asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DraftStep {
    /// Percent.
    pub weight: f64,
    /// Seconds.
    pub bake_seconds: Option<i64>,
    /// Answers.
    pub min_samples: Option<u64>,
}

/// Silence as it was asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DraftShadow {
    /// Percent.
    pub percent: f64,
    /// Seconds.
    pub bake_seconds: Option<i64>,
    /// Pairs.
    pub min_samples: Option<u64>,
    /// Tokens.
    pub max_tokens_per_day: Option<u64>,
}

impl Draft {
    /// The plan, or what is wrong with it.
    pub fn plan(self) -> Result<Plan, ExperimentError> {
        let bake = bounded("bake_seconds", self.bake_seconds, USUAL_BAKE)?;
        let samples = counted("min_samples", self.min_samples, USUAL_SAMPLES)?;
        let usual = || USUAL_STEPS.map(|weight| DraftStep { weight, ..DraftStep::default() }).into();
        let drafts = self.steps.unwrap_or_else(usual);
        if drafts.is_empty() || drafts.len() > MOST_STEPS {
            return Err(ExperimentError::invalid("steps", format!("it has {} steps; 1 to {MOST_STEPS} are right", drafts.len())));
        }
        let mut steps: Vec<Step> = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.into_iter().enumerate() {
            let at = |field: &str| format!("steps[{index}].{field}");
            let weight = share(&at("weight"), draft.weight)?;
            if let Some(before) = steps.last().filter(|before| before.weight >= weight) {
                let problem = format!("{} follows {}; each step is more than the one before", draft.weight, before.weight);
                return Err(ExperimentError::invalid(at("weight"), problem));
            }
            steps.push(Step {
                weight,
                bake_seconds: bounded(&at("bake_seconds"), draft.bake_seconds, bake)?,
                min_samples: counted(&at("min_samples"), draft.min_samples, samples)?,
            });
        }
        if let Some(last) = steps.last().filter(|last| last.weight != Weight::ALL) {
            return Err(ExperimentError::invalid("steps", format!("the last step is {}%; 100 is right", last.weight)));
        }
        let shadow = |draft: DraftShadow| -> Result<Shadow, ExperimentError> {
            Ok(Shadow {
                percent: share("shadow.percent", draft.percent)?,
                bake_seconds: bounded("shadow.bake_seconds", draft.bake_seconds, bake)?,
                min_samples: counted("shadow.min_samples", draft.min_samples, samples)?,
                max_tokens_per_day: draft.max_tokens_per_day.unwrap_or(USUAL_SHADOW_TOKENS),
            })
        };
        Ok(Plan {
            shadow: self.shadow.map(shadow).transpose()?,
            steps,
            hours: self
                .hours
                .map(|text| text.parse().map_err(|error| ExperimentError::invalid("hours", format!("{error}"))))
                .transpose()?,
            deadline_seconds: bounded("deadline_seconds", self.deadline_seconds, USUAL_DEADLINE)?,
            on_deadline: self.on_deadline.unwrap_or_default(),
        })
    }
}

/// A share of the traffic that is something.
fn share(field: &str, percent: f64) -> Result<Weight, ExperimentError> {
    let weight = Weight::of_percent(percent).filter(|weight| !weight.is_none());
    let problem = || format!("it is {percent}; 0.01 to 100 with at most two decimals are right");
    weight.ok_or_else(|| ExperimentError::invalid(field, problem()))
}

fn bounded(field: &str, seconds: Option<i64>, usual: i64) -> Result<i64, ExperimentError> {
    match seconds.unwrap_or(usual) {
        seconds @ 0..=LONGEST => Ok(seconds),
        other => Err(ExperimentError::invalid(field, format!("it is {other}; 0 to {LONGEST} seconds are right"))),
    }
}

fn counted(field: &str, samples: Option<u64>, usual: u64) -> Result<u64, ExperimentError> {
    match samples.unwrap_or(usual) {
        samples @ 0..=MOST_SAMPLES => Ok(samples),
        other => Err(ExperimentError::invalid(field, format!("it is {other}; 0 to {MOST_SAMPLES} answers are right"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn steps(weights: &[f64]) -> Draft {
        let step = |weight: &f64| DraftStep { weight: *weight, ..DraftStep::default() };
        Draft { steps: Some(weights.iter().map(step).collect()), ..Draft::default() }
    }

    #[test]
    fn what_is_not_said_is_what_is_usual() {
        let plan = Draft { bake_seconds: Some(60), ..Draft::default() }.plan().unwrap();
        assert_eq!(plan.steps.iter().map(|step| step.weight.percent()).collect::<Vec<_>>(), USUAL_STEPS);
        assert!(plan.steps.iter().all(|step| step.bake_seconds == 60 && step.min_samples == 50));
        assert_eq!((plan.shadow, plan.hours, plan.on_deadline), (None, None, OnDeadline::Rollback));
        let text = serde_json::to_string(&steps(&[0.01, 33.33, 100.0]).plan().unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap().steps[1].weight.percent(), 33.33);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |draft: Draft| draft.plan().unwrap_err().to_string();
        assert!(problem(steps(&[])).contains("0 steps"));
        assert!(problem(steps(&[10.0, 50.0])).contains("the last step is 50%; 100 is right"));
        assert!(problem(steps(&[10.0, 10.0, 100.0])).contains("steps[1].weight: 10 follows 10"));
        assert!(problem(steps(&[0.001, 100.0])).contains("steps[0].weight: it is 0.001"));
        assert!(problem(steps(&[f64::NAN, 100.0])).contains("NaN"));
        assert!(problem(steps(&[101.0])).contains("101"));
        assert!(problem(Draft { bake_seconds: Some(-1), ..Draft::default() }).contains("bake_seconds: it is -1"));
        assert!(problem(Draft { hours: Some("always".to_owned()), ..Draft::default() }).contains("hours"));
        let shadow = Some(DraftShadow { percent: 0.0, ..DraftShadow::default() });
        assert!(problem(Draft { shadow, ..Draft::default() }).contains("shadow.percent"));
    }
}
