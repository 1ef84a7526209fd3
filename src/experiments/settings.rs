//! What an experiment asks: which arm is the control, what should get better (the goal), what must not get worse (the guards).
//! Plain data with its rules; knows no numbers of any arm.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ExperimentError;

/// Most guards of an experiment.
const MAX_GUARDS: usize = 16;
/// Longest name of a metric that clients send.
const MAX_NAME: usize = 64;

/// What is measured of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Metric {
    /// Answers that failed, of all.
    Errors,
    /// Time to the first token, ms.
    FirstToken,
    /// Time between tokens, ms.
    InterToken,
    /// Tokens of an answer.
    OutputTokens,
    /// What an answer costs, dollars.
    Cost,
    /// Answers that should be JSON and are not, of those that should.
    InvalidJson,
    /// Answers that refuse, of all with a text.
    Refusals,
    /// Answers that repeat themselves, of all with a text.
    Repetition,
    /// Characters of an answer; compared as a ratio, in both directions.
    Length,
    /// Answers that did what they were for, of those where that is known.
    TaskSuccess,
    /// Thumbs up, of all thumbs.
    Thumbs,
    /// Score, 0 to 1.
    Score,
    /// Answers that somebody corrected, of all.
    Corrections,
    /// What clients send under a name of their own.
    Feedback(String),
}

/// Those with a name of ours.
const NAMED: [(&str, Metric); 13] = [
    ("errors", Metric::Errors),
    ("first_token_ms", Metric::FirstToken),
    ("inter_token_ms", Metric::InterToken),
    ("output_tokens", Metric::OutputTokens),
    ("cost", Metric::Cost),
    ("invalid_json", Metric::InvalidJson),
    ("refusals", Metric::Refusals),
    ("repetition", Metric::Repetition),
    ("length", Metric::Length),
    ("task_success", Metric::TaskSuccess),
    ("thumbs", Metric::Thumbs),
    ("score", Metric::Score),
    ("corrections", Metric::Corrections),
];
/// Begins the names of metrics that clients send.
const FEEDBACK: &str = "feedback:";

/// How the numbers of a metric are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Yes or no: the share of yes.
    Rate,
    /// Positive and heavy-tailed: means of logarithms, that is ratios of geometric means.
    Ratio,
    /// Any number: means.
    Mean,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

impl Metric {
    /// How it is compared.
    pub const fn scale(&self) -> Scale {
        match self {
            Self::Errors
            | Self::InvalidJson
            | Self::Refusals
            | Self::Repetition
            | Self::TaskSuccess
            | Self::Thumbs
            | Self::Corrections => Scale::Rate,
            Self::FirstToken | Self::InterToken | Self::OutputTokens | Self::Cost | Self::Length => Scale::Ratio,
            Self::Score | Self::Feedback(_) => Scale::Mean,
        }
    }

    /// Which way is better, unless the experiment says otherwise.
    pub const fn usual_direction(&self) -> Direction {
        match self {
            Self::TaskSuccess | Self::Thumbs | Self::Score | Self::Feedback(_) => Direction::Higher,
            _ => Direction::Lower,
        }
    }

    /// How much worse than the control's an arm's may be, as a part of it, unless the guard says otherwise.
    pub const fn usual_tolerance(&self) -> f64 {
        match self.scale() {
            Scale::Rate => 0.0,
            Scale::Mean => 0.05,
            // Twice as long, or half.
            Scale::Ratio if matches!(self, Self::Length) => 1.0,
            Scale::Ratio => 0.25,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feedback(name) => write!(f, "{FEEDBACK}{name}"),
            metric => f.write_str(NAMED.iter().find(|(_, named)| named == metric).map_or("", |(name, _)| name)),
        }
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, metric)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(metric.clone());
        }
        let right = |name: &str| {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(letter)
        };
        match text.strip_prefix(FEEDBACK) {
            Some(name) if right(name) => Ok(Self::Feedback(name.to_owned())),
            _ => {
                let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
                Err(format!(
                    "{text:?} is no metric; right are {} and {FEEDBACK}NAME, NAME of at most {MAX_NAME} letters, digits, '_', \
                     '.' and '-'",
                    names.join(", ")
                ))
            }
        }
    }
}

impl Serialize for Metric {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What should get better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// Of what.
    pub metric: Metric,
    /// Which way; usually what the metric's name says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Answers of each arm that a test with one look at its end would need (any calculator of sample sizes gives it). The verdict
    /// comes earlier where the difference is larger, and with four fifths of chance before 1.6 times as many where it is as planned.
    #[serde(default = "usual_samples")]
    pub samples: u64,
    /// With it, "not worse by more than this" is a verdict too: a part of the control's mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
}

const fn usual_samples() -> u64 {
    1_000
}

impl Goal {
    /// Which way is better.
    pub fn direction(&self) -> Direction {
        self.direction.unwrap_or_else(|| self.metric.usual_direction())
    }
}

/// What must not get worse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// Of what.
    pub metric: Metric,
    /// Which way is better; usually what the metric's name says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// How much worse than the control's it may be, as a part of it: 0.25 lets a latency grow by a quarter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
}

impl Guard {
    /// With the metric's own tolerance.
    pub const fn of(metric: Metric) -> Self {
        Self { metric, direction: None, tolerance: None }
    }

    /// Which way is better.
    pub fn direction(&self) -> Direction {
        self.direction.unwrap_or_else(|| self.metric.usual_direction())
    }

    /// How much worse it may be.
    pub fn tolerance(&self) -> f64 {
        self.tolerance.unwrap_or_else(|| self.metric.usual_tolerance())
    }
}

/// What an experiment asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The arm that the others are compared with.
    pub control: String,
    /// What should get better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// What must not get worse.
    #[serde(default = "usual_guards")]
    pub guards: Vec<Guard>,
    /// Answers of an arm before "its guards hold" is a verdict. A breach is a verdict as soon as it is certain.
    #[serde(default = "usual_min_samples")]
    pub min_samples: u64,
}

const fn usual_min_samples() -> u64 {
    100
}

fn usual_guards() -> Vec<Guard> {
    [Metric::Errors, Metric::FirstToken, Metric::InvalidJson, Metric::Refusals, Metric::Repetition].map(Guard::of).into()
}

impl Settings {
    /// The usual guards and no goal: for a deployment that says nothing about its experiment.
    pub fn usual(control: impl Into<String>) -> Self {
        Self { control: control.into(), goal: None, guards: usual_guards(), min_samples: usual_min_samples() }
    }

    /// Whether it can be judged for these arms. Fields are named from `experiment` on.
    pub fn check(&self, arms: &[&str]) -> Result<(), ExperimentError> {
        let at = |field: &str| format!("experiment.{field}");
        if !arms.contains(&self.control.as_str()) {
            let problem = format!("{:?} is no arm of this deployment; right are {}", self.control, arms.join(", "));
            return Err(ExperimentError::invalid(at("control"), problem));
        }
        if let Some(goal) = &self.goal {
            if goal.metric == Metric::Length {
                let problem = "length is no goal: neither longer nor shorter is better; it can be a guard";
                return Err(ExperimentError::invalid(at("goal.metric"), problem));
            }
            check_range(&at("goal.samples"), goal.samples as f64, 10.0, 1e9)?;
            goal.margin.map_or(Ok(()), |margin| check_range(&at("goal.margin"), margin, 1e-6, 1.0))?;
        }
        check_range(&at("min_samples"), self.min_samples as f64, 1.0, 1e9)?;
        if self.guards.len() > MAX_GUARDS {
            let problem = format!("{} guards, where at most {MAX_GUARDS} are right", self.guards.len());
            return Err(ExperimentError::invalid(at("guards"), problem));
        }
        for (index, guard) in self.guards.iter().enumerate() {
            if self.guards[..index].iter().any(|other| other.metric == guard.metric) {
                let problem = format!("{} has a guard already", guard.metric);
                return Err(ExperimentError::invalid(at(&format!("guards[{index}].metric")), problem));
            }
            check_range(&at(&format!("guards[{index}].tolerance")), guard.tolerance(), 0.0, 100.0)?;
        }
        Ok(())
    }
}

fn check_range(field: &str, value: f64, least: f64, most: f64) -> Result<(), ExperimentError> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(ExperimentError::invalid(field, format!("{value} is not between {least} and {most}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn settings_read_back_as_they_were_and_mistakes_are_named() {
        let text = r#"{"control":"stable","goal":{"metric":"feedback:solved.1"},"guards":[{"metric":"cost","tolerance":0.1}]}"#;
        let settings: Settings = serde_json::from_str(text).unwrap();
        settings.check(&["stable", "canary"]).unwrap();
        assert_eq!(settings.goal.as_ref().unwrap().samples, 1_000);
        let again: Settings = serde_json::from_str(&serde_json::to_string(&settings).unwrap()).unwrap();
        assert_eq!(again, settings);
        for (name, metric) in NAMED {
            assert_eq!((metric.to_string().as_str(), name.parse()), (name, Ok(metric)));
        }
        let problem = |text: &str| match serde_json::from_str::<Settings>(text) {
            Err(error) => error.to_string(),
            Ok(settings) => settings.check(&["stable"]).unwrap_err().to_string(),
        };
        assert!(problem(r#"{"control":"x"}"#).contains("experiment.control: \"x\" is no arm"));
        assert!(
            problem(r#"{"control":"stable","goal":{"metric":"speed"}}"#).contains("\"speed\" is no metric; right are errors")
        );
        assert!(problem(r#"{"control":"stable","goal":{"metric":"length"}}"#).contains("goal.metric"));
        assert!(
            problem(r#"{"control":"stable","guards":[{"metric":"errors"},{"metric":"errors"}]}"#).contains("guards[1].metric")
        );
        assert!(problem(r#"{"control":"stable","guards":[{"metric":"cost","tolerance":-1}]}"#).contains("guards[0].tolerance"));
        assert!(problem(r#"{"control":"stable","guard":[]}"#).contains("unknown field `guard`"));
    }
}
