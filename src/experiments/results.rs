//! What an experiment has measured and what that means, read from what all processes have written. The numbers are `verdict`'s.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde::Serialize;

use super::compare::{self, Comparison};
use super::ratio::{self, Count, Split};
use super::recorder::{Recorder, sums_of};
use super::rollout::Judge;
use super::settings::{Metric, Scale, Settings};
use super::sums::ArmNumbers;
use super::verdict::{self, ArmVerdict, Evidence, judge};
use super::{ExperimentError, Spec};
use crate::store::Database;
use crate::store::experiments::{self as rows, SumRow};

/// Reads results. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Results {
    database: Database,
    recorder: Recorder,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measured {
    /// What is judged.
    pub evidence: Evidence,
    /// Units by arm, all processes together.
    pub units: Vec<Count>,
}

impl Results {
    /// Of the experiments in a database; what the recorder has not written yet is written before it is read.
    pub const fn new(database: Database, recorder: Recorder) -> Self {
        Self { database, recorder }
    }

    /// Where outcomes and feedback go.
    pub const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Everything that was measured. Arms without answers are there, too.
    pub async fn measured(&self, experiment: &str, arms: &[String]) -> Result<Measured, ExperimentError> {
        self.recorder.flush().await?;
        let mut connection = self.database.connection().await?;
        let mut all: BTreeMap<String, ArmNumbers> = arms.iter().map(|arm| (arm.clone(), ArmNumbers::new(arm.clone()))).collect();
        let mut rows = rows::sums(&mut connection, experiment, None).await?;
        rows.extend(rows::feedback_sums(&mut connection, experiment).await?);
        for row in rows {
            add(&mut all, &row);
        }
        all.values_mut().for_each(relate_corrections);
        let mut measured = Measured::default();
        for row in rows::splits(&mut connection, experiment).await? {
            // What another release wrote in another form is left out.
            let Ok(split) = serde_json::from_str::<Split>(&row.state) else { continue };
            measured.evidence.split.push(split.peak);
            for count in split.counts {
                match measured.units.iter_mut().find(|known| known.arm == count.arm) {
                    Some(known) => {
                        known.observed += count.observed;
                        known.expected += count.expected;
                    }
                    None => measured.units.push(count),
                }
            }
        }
        // In the order of the arms.
        let named = arms.iter().filter_map(|arm| all.remove(arm)).collect::<Vec<_>>();
        measured.evidence.arms = named.into_iter().chain(all.into_values()).collect();
        Ok(measured)
    }

    /// Verdicts on all arms but the control. What a rollout asks.
    pub async fn judge(
        &self,
        experiment: &str,
        settings: &Settings,
        arms: &[String],
    ) -> Result<Vec<ArmVerdict>, ExperimentError> {
        Ok(judge(settings, &self.measured(experiment, arms).await?.evidence))
    }

    /// The same with every number, ready for a page.
    pub async fn report(&self, experiment: &str, settings: &Settings, arms: &[String]) -> Result<Report, ExperimentError> {
        Ok(report(settings, &self.measured(experiment, arms).await?))
    }
}

impl Judge for Results {
    fn verdict<'a>(
        &'a self,
        settings: &'a Settings,
        experiment: &'a str,
        arm: &'a str,
    ) -> BoxFuture<'a, Result<Option<ArmVerdict>, ExperimentError>> {
        Box::pin(async move {
            let arms = [settings.control.clone(), arm.to_owned()];
            let verdicts = self.judge(experiment, settings, &arms).await?;
            Ok(verdicts.into_iter().find(|verdict| verdict.arm == arm && verdict.answers > 0))
        })
    }
}

fn add(arms: &mut BTreeMap<String, ArmNumbers>, row: &SumRow) {
    // What another release measures is left out.
    let Ok(metric) = row.metric.parse::<Metric>() else { return };
    let arm = arms.entry(row.arm.clone()).or_insert_with(|| ArmNumbers::new(row.arm.clone()));
    arm.metrics.entry(metric).or_default().entry(row.revision).or_default().merge(&sums_of(row));
}

/// Nobody says that an answer needed no correction: they are related to all answers.
fn relate_corrections(arm: &mut ArmNumbers) {
    let Some(answers) = arm.metrics.get(&Metric::Errors).cloned() else { return };
    let corrections = arm.metrics.entry(Metric::Corrections).or_default();
    for (revision, answers) in answers {
        let sums = corrections.entry(revision).or_default();
        sums.n = answers.n.max(sums.n);
    }
}

/// An experiment's results, as a page shows them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The arms.
    pub arms: Vec<ArmReport>,
    /// Whether the arms get their shares.
    pub split: SplitReport,
}

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmReport {
    /// Its name.
    pub name: String,
    /// `control`, `candidate`.
    pub role: &'static str,
    /// Answers that were counted.
    pub answers: u64,
    /// What the numbers say of it; nothing of the control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<ArmVerdict>,
    /// Its numbers.
    pub metrics: Vec<MetricReport>,
}

/// One number of one arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricReport {
    /// Of what.
    pub metric: Metric,
    /// `share`, `mean`, `geometric_mean`.
    pub kind: &'static str,
    /// Values.
    pub n: u64,
    /// The share, the mean, or the geometric mean of ratios.
    pub mean: f64,
    /// Interval of it at 95 %, at all times together; `null` where there is too little.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
    /// The plain mean.
    pub arithmetic_mean: f64,
    /// Against the control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against_control: Option<Comparison>,
}

/// How units came to arms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitReport {
    /// Whether that can be chance.
    pub even: bool,
    /// A plain sentence.
    pub why: String,
    /// Units by arm.
    pub arms: Vec<Count>,
}

/// Puts everything together. Pure.
pub fn report(settings: &Settings, measured: &Measured) -> Report {
    let Measured { evidence, units } = measured;
    let mut verdicts = judge(settings, evidence);
    let control = evidence.arms.iter().find(|arm| arm.arm == settings.control);
    let candidates = evidence.arms.len().saturating_sub(1).max(1) as f64;
    let arms = evidence.arms.iter().map(|arm| {
        let is_control = arm.arm == settings.control;
        let verdict = verdicts.iter().position(|verdict| verdict.arm == arm.arm).map(|at| verdicts.swap_remove(at));
        let metrics = arm.metrics.keys().filter_map(|metric| {
            let sums = arm.total(metric);
            let mean = sums.mean()?;
            let scale = metric.scale();
            let interval = verdict::interval(metric, &sums);
            let other = control.filter(|_| !is_control);
            Some(MetricReport {
                metric: metric.clone(),
                kind: match scale {
                    Scale::Rate => "share",
                    Scale::Mean => "mean",
                    Scale::Ratio => "geometric_mean",
                },
                n: sums.n,
                mean: if scale == Scale::Ratio { mean.exp() } else { mean },
                low: interval.map(|(low, _)| low),
                high: interval.map(|(_, high)| high),
                arithmetic_mean: sums.plain / sums.n as f64,
                against_control: other.and_then(|control| compare::shown(arm, control, metric, verdict::SHOWN_RISK / candidates)),
            })
        });
        ArmReport {
            name: arm.arm.clone(),
            role: if is_control { "control" } else { "candidate" },
            answers: arm.answers(),
            verdict,
            metrics: metrics.collect(),
        }
    });
    let arms = arms.collect();
    let even = !ratio::is_uneven(&evidence.split);
    let units_seen: f64 = units.iter().map(|count| count.observed).sum();
    let why = match (even, units_seen > 0.0) {
        (true, true) => format!("{units_seen} units came to the arms as the weights say, as far as chance allows."),
        (true, false) => "No unit was counted yet.".to_owned(),
        (false, _) => {
            "Units did not come to the arms as the weights say, and chance does not explain it (1 in 1,000): answers of \
                       an arm are lost, or something else decides who gets it."
                .to_owned()
        }
    };
    Report { arms, split: SplitReport { even, why, arms: units.clone() } }
}

/// What a deployment's experiment asks; where its spec says nothing, the usual guards, with its first arm as the control.
pub fn asked(spec: &Spec) -> Settings {
    spec.experiment.clone().unwrap_or_else(|| Settings::usual(spec.arms.first().map_or("", |arm| arm.name.as_str())))
}
