//! What is kept of many values: their count and sums, which add up over processes and time. Verdicts are computed from nothing else.

use std::collections::BTreeMap;

use super::settings::{Metric, Scale};

/// The least and the most that a value of a heavy-tailed metric counts as, after it has left milliseconds, tokens, dollars or
/// characters: zeros have no logarithm, and a single absurd clock must not decide anything.
const RATIO_RANGE: (f64, f64) = (1e-9, 1e9);

/// Count and sums of values.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sums {
    /// Values.
    pub n: u64,
    /// Sum of the values as they are compared: of logarithms where the metric is a ratio, of 0 and 1 where it is a rate.
    pub sum: f64,
    /// Sum of their squares.
    pub squares: f64,
    /// Sum of the values as they came.
    pub plain: f64,
}

impl Sums {
    /// Adds a value.
    pub fn add(&mut self, scale: Scale, value: f64) {
        if !value.is_finite() {
            return;
        }
        let compared = match scale {
            Scale::Rate | Scale::Mean => value,
            Scale::Ratio => value.clamp(RATIO_RANGE.0, RATIO_RANGE.1).ln(),
        };
        self.n += 1;
        self.sum += compared;
        self.squares += compared * compared;
        self.plain += value;
    }

    /// Adds what somebody else has counted.
    pub fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.sum += other.sum;
        self.squares += other.squares;
        self.plain += other.plain;
    }

    /// The mean of what is compared.
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / self.n as f64)
    }

    /// The variance of what is compared, from two values on.
    pub fn variance(&self) -> Option<f64> {
        let n = self.n as f64;
        (self.n > 1).then(|| ((self.squares - self.sum * self.sum / n) / (n - 1.0)).max(0.0))
    }
}

/// The numbers of one arm: a metric's sums by revision.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ArmNumbers {
    /// The arm.
    pub arm: String,
    /// Sums by metric and revision.
    pub metrics: BTreeMap<Metric, BTreeMap<i64, Sums>>,
}

impl ArmNumbers {
    /// Nothing was counted yet.
    pub fn new(arm: impl Into<String>) -> Self {
        Self { arm: arm.into(), metrics: BTreeMap::new() }
    }

    /// Adds a value.
    pub fn add(&mut self, revision: i64, metric: Metric, value: f64) {
        let scale = metric.scale();
        self.metrics.entry(metric).or_default().entry(revision).or_default().add(scale, value);
    }

    /// Sums of all revisions.
    pub fn total(&self, metric: &Metric) -> Sums {
        let mut total = Sums::default();
        self.metrics.get(metric).into_iter().flat_map(BTreeMap::values).for_each(|sums| total.merge(sums));
        total
    }

    /// Answers that were counted.
    pub fn answers(&self) -> u64 {
        self.total(&Metric::Errors).n
    }

    /// Answers that were counted in one revision.
    pub fn answers_in(&self, revision: i64) -> u64 {
        self.metrics.get(&Metric::Errors).and_then(|revisions| revisions.get(&revision)).map_or(0, |sums| sums.n)
    }
}
