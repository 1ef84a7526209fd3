//! One arm against the control in one metric: the difference, its error, and what a goal or a guard makes of it. Pure functions of
//! sums; revisions are strata, so that only answers of the same time and the same shares are compared.

use serde::Serialize;

use super::sequential::{self, Wrong};
use super::settings::{Direction, Goal, Guard, Metric, Scale};
use super::sums::{ArmNumbers, Sums};

/// Fewest values of each arm before means are compared: below that, errors of means are not known.
const FEWEST: u64 = 20;
/// The same for guards of means, whose limit is nearer.
const FEWEST_OF_GUARD: u64 = 30;

/// The two arms' sums of one revision.
struct Stratum {
    candidate: Sums,
    control: Sums,
}

fn strata(candidate: &ArmNumbers, control: &ArmNumbers, metric: &Metric) -> Vec<Stratum> {
    let (Some(of_candidate), Some(of_control)) = (candidate.metrics.get(metric), control.metrics.get(metric)) else {
        return Vec::new();
    };
    let both = of_candidate
        .iter()
        .filter_map(|(revision, sums)| Some(Stratum { candidate: *sums, control: *of_control.get(revision)? }));
    both.filter(|stratum| stratum.candidate.n > 0 && stratum.control.n > 0).collect()
}

/// Difference of two arms (candidate minus control, on the scale of comparison).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// The difference of means.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
    /// Answers of each arm that would say as much in an even split.
    pub samples: f64,
    /// The control's mean in the same strata.
    pub control: f64,
}

/// The difference, where both arms have enough values. Strata are weighted by their sizes (Cochran's weights), not by their
/// variances, which would favour strata that happen to look calm.
pub fn difference(candidate: &ArmNumbers, control: &ArmNumbers, metric: &Metric) -> Option<Difference> {
    difference_from(candidate, control, metric, FEWEST)
}

fn difference_from(candidate: &ArmNumbers, control: &ArmNumbers, metric: &Metric, fewest: u64) -> Option<Difference> {
    let strata = strata(candidate, control, metric);
    let count = |side: fn(&Stratum) -> u64| strata.iter().map(side).sum::<u64>();
    if count(|stratum| stratum.candidate.n) < fewest || count(|stratum| stratum.control.n) < fewest {
        return None;
    }
    let (mut weights, mut value, mut variance, mut of_control) = (0.0, 0.0, 0.0, 0.0);
    for Stratum { candidate, control } in &strata {
        let (a, b) = (candidate.n as f64, control.n as f64);
        let (mean_a, mean_b) = (candidate.sum / a, control.sum / b);
        let error = match metric.scale() {
            Scale::Rate => {
                // Half a yes and half a no keep a rate of nothing from looking certain; the pooled rate is what the hypothesis says.
                let spread = |sums: &Sums| {
                    let p = (sums.sum + 0.5) / (sums.n as f64 + 1.0);
                    p * (1.0 - p) / sums.n as f64
                };
                let p = (candidate.sum + control.sum + 0.5) / (a + b + 1.0);
                (p * (1.0 - p) * (1.0 / a + 1.0 / b)).max(spread(candidate) + spread(control))
            }
            Scale::Mean | Scale::Ratio => match (candidate.variance(), control.variance()) {
                (Some(spread_a), Some(spread_b)) => spread_a / a + spread_b / b,
                _ => continue,
            },
        };
        let weight = a * b / (a + b);
        weights += weight;
        value += weight * (mean_a - mean_b);
        of_control += weight * mean_b;
        variance += weight * weight * error;
    }
    (weights > 0.0).then(|| Difference {
        value: value / weights,
        error: variance.sqrt() / weights,
        samples: 2.0 * weights,
        control: of_control / weights,
    })
}

/// What a reader sees of a comparison: a difference of rates or means, or a ratio.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Of what.
    pub metric: Metric,
    /// `difference`: candidate minus control. `ratio`: candidate through control.
    pub kind: &'static str,
    /// What was seen; `None` while there are too few values.
    pub value: Option<f64>,
    /// Lower end of the interval, which holds at all times together.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

impl Comparison {
    /// Nothing is known yet.
    fn open(metric: &Metric) -> Self {
        let kind = if metric.scale() == Scale::Ratio { "ratio" } else { "difference" };
        Self { metric: metric.clone(), kind, value: None, low: None, high: None }
    }

    fn new(metric: &Metric, value: f64, half: f64) -> Self {
        // Differences of logarithms are ratios.
        let shown = |value: f64| Some(if metric.scale() == Scale::Ratio { value.exp() } else { value });
        Self { value: shown(value), low: shown(value - half), high: shown(value + half), ..Self::open(metric) }
    }
}

/// Any metric of two arms, for reading; `None` while there are too few values.
pub fn shown(candidate: &ArmNumbers, control: &ArmNumbers, metric: &Metric, risk: f64) -> Option<Comparison> {
    let found = difference(candidate, control, metric)?;
    let half = sequential::shown_boundary(found.samples, risk) * found.error;
    Some(Comparison::new(metric, found.value, half))
}

/// What a goal's numbers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GoalState {
    /// Nothing yet.
    Open,
    /// The planned sample is used up.
    UsedUp,
    /// The candidate is better.
    Better,
    /// It is not worse than the margin allows.
    NotWorse,
    /// It is worse.
    Worse,
}

/// A goal's numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GoalFinding {
    /// The difference.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// What it says.
    pub state: GoalState,
    /// Answers of each arm that would say as much in an even split.
    pub samples: f64,
    /// The most of them before a person is asked.
    pub planned: f64,
}

/// Looks at a goal.
pub fn goal(goal: &Goal, candidate: &ArmNumbers, control: &ArmNumbers, risk: f64) -> GoalFinding {
    let planned = goal.samples as f64;
    let found = difference(candidate, control, &goal.metric);
    let samples = found.map_or(0.0, |found| found.samples);
    let scale = goal.metric.scale();
    let mut comparison = Comparison::open(&goal.metric);
    let mut state = GoalState::Open;
    if let Some(found) = found {
        let half = sequential::goal_boundary(found.samples, planned, risk) * found.error;
        let (low, high) = (found.value - half, found.value + half);
        comparison = Comparison::new(&goal.metric, found.value, half);
        // From here on, more is better.
        let (low, high) = if goal.direction() == Direction::Higher { (low, high) } else { (-high, -low) };
        let margin = goal.margin.map(|margin| match scale {
            Scale::Ratio => margin.ln_1p(),
            Scale::Rate | Scale::Mean => margin * found.control.abs(),
        });
        state = if low > 0.0 {
            GoalState::Better
        } else if high < 0.0 {
            GoalState::Worse
        } else if margin.is_some_and(|margin| low > -margin) {
            GoalState::NotWorse
        } else if found.samples >= sequential::HORIZON * planned {
            GoalState::UsedUp
        } else {
            GoalState::Open
        };
    }
    GoalFinding { comparison, state, samples, planned: sequential::HORIZON * planned }
}

/// A guard's numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GuardFinding {
    /// Of what.
    pub metric: Metric,
    /// How much worse it may be, as a part of the control's.
    pub tolerance: f64,
    /// Whether it is broken.
    pub breached: bool,
    /// How near the limit the evidence is: from 1 on the guard is broken.
    pub alarm: f64,
    /// Candidate through control, where there is enough of both.
    pub ratio: Option<f64>,
}

/// Looks at a guard.
pub fn guard(guard: &Guard, candidate: &ArmNumbers, control: &ArmNumbers, risk: f64) -> GuardFinding {
    let tolerance = guard.tolerance();
    let (a, b) = (candidate.total(&guard.metric), control.total(&guard.metric));
    let (alarm, ratio) = match guard.metric.scale() {
        Scale::Rate => {
            let wrong = |sums: &Sums| if guard.direction() == Direction::Lower { sums.sum } else { sums.n as f64 - sums.sum };
            let strata = strata(candidate, control, &guard.metric);
            let strata: Vec<Wrong> = strata
                .iter()
                .map(|stratum| Wrong {
                    candidate: wrong(&stratum.candidate),
                    of_candidate: stratum.candidate.n as f64,
                    control: wrong(&stratum.control),
                    of_control: stratum.control.n as f64,
                })
                .collect();
            let rate = |sums: &Sums| wrong(sums) / sums.n as f64;
            let ratio = (a.n > 0 && b.n > 0 && wrong(&b) > 0.0).then(|| rate(&a) / rate(&b));
            (sequential::evidence_of_worse(&strata, tolerance) / -risk.ln(), ratio)
        }
        scale @ (Scale::Mean | Scale::Ratio) => match difference_from(candidate, control, &guard.metric, FEWEST_OF_GUARD) {
            None => (0.0, None),
            Some(found) => {
                let (allowed, ratio) = match scale {
                    Scale::Ratio => (tolerance.ln_1p(), found.value.exp()),
                    Scale::Mean | Scale::Rate => (tolerance * found.control.abs(), (found.control + found.value) / found.control),
                };
                let sides = if guard.metric == Metric::Length { 2.0 } else { 1.0 };
                let worse = match guard.direction() {
                    _ if guard.metric == Metric::Length => found.value.abs(),
                    Direction::Lower => found.value,
                    Direction::Higher => -found.value,
                };
                let limit = sequential::guard_boundary(found.samples, risk / sides) * found.error;
                // Of two arms without any spread, everything beyond the tolerance is certain.
                let alarm = if limit > 0.0 { (worse - allowed) / limit } else { f64::from(u8::from(worse > allowed)) };
                (alarm, Some(ratio).filter(|ratio| ratio.is_finite()))
            }
        },
    };
    let alarm = alarm.max(0.0);
    GuardFinding { metric: guard.metric.clone(), tolerance, breached: alarm >= 1.0, alarm, ratio }
}
