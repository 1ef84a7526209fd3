//! What the numbers of an experiment say so far, and why: pure, from sums alone, deterministic. Every verdict may be read at any
//! time and as often as one likes: all that an arm can be wrongly accused or praised of has a chance of at most [`GOAL_RISK`] +
//! [`GUARD_RISK`], a twentieth, together.

use serde::Serialize;

use super::compare::{self, Comparison, GoalFinding, GoalState, GuardFinding};
use super::settings::{Guard, Metric, Scale, Settings};
use super::sums::{ArmNumbers, Sums};
use super::{ratio, sequential};

/// Chance of a false verdict on the goal, both sides together, all arms together.
pub const GOAL_RISK: f64 = 0.022;
/// Chance that any guard of any arm is said to be broken where all hold.
pub const GUARD_RISK: f64 = 0.028;
/// Part of it that the guard of errors gets beside others: errors are rare, and few requests should suffice.
const ERRORS_PART: f64 = 0.6;

/// Risk of the intervals that are shown for reading: each at 95 %, at all times together.
pub const SHOWN_RISK: f64 = 0.05;

/// What the numbers say of one arm against the control.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// Too few answers to say anything.
    Waiting {
        /// As many more answers of the arm are needed.
        needed: u64,
    },
    /// No goal was set, and all guards hold.
    Holding,
    /// All guards hold; the goal is open, and its planned sample is not used up.
    Undecided {
        /// As many more answers of the arm, about, until the planned sample is used up.
        needed: u64,
    },
    /// All guards hold, and the goal is met.
    Better,
    /// All guards hold, and the goal's metric is not worse than the margin allows.
    NotWorse,
    /// The planned sample is used up without a verdict: a person decides, or a deadline.
    Inconclusive,
    /// The goal's metric is worse than the control's.
    Worse,
    /// A guard does not hold.
    Breached {
        /// Which.
        guard: Metric,
    },
    /// The arms do not get the shares of traffic that they should: no number of this experiment can be trusted.
    Uneven,
}

impl Standing {
    /// Whether the arm may get more traffic.
    pub const fn may_go_on(&self) -> bool {
        matches!(self, Self::Holding | Self::Better | Self::NotWorse)
    }

    /// Whether the arm must be taken back.
    pub const fn must_go_back(&self) -> bool {
        matches!(self, Self::Breached { .. } | Self::Worse)
    }
}

/// What the numbers say of one arm, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmVerdict {
    /// The arm.
    pub arm: String,
    /// What.
    #[serde(flatten)]
    pub standing: Standing,
    /// A plain sentence.
    pub why: String,
    /// Answers of the arm that were counted.
    pub answers: u64,
    /// The goal's numbers.
    pub goal: Option<GoalFinding>,
    /// The guards' numbers.
    pub guards: Vec<GuardFinding>,
}

/// All that is known of an experiment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    /// Arms, in no order.
    pub arms: Vec<ArmNumbers>,
    /// Logarithms of the e-values of the split, of each process that has checked it.
    pub split: Vec<f64>,
}

/// Judges every arm but the control.
pub fn judge(settings: &Settings, evidence: &Evidence) -> Vec<ArmVerdict> {
    let none = ArmNumbers::new(settings.control.clone());
    let control = evidence.arms.iter().find(|arm| arm.arm == settings.control).unwrap_or(&none);
    let candidates = evidence.arms.iter().filter(|arm| arm.arm != settings.control);
    let arms = candidates.clone().count().max(1) as f64;
    let uneven = ratio::is_uneven(&evidence.split);
    let judged = candidates.map(|candidate| {
        let findings = look(settings, candidate, control, arms);
        let standing = stand(settings, candidate, control, &findings, uneven);
        let why = why(&standing, settings, candidate, control, &findings);
        let Findings { goal, guards } = findings;
        ArmVerdict { arm: candidate.arm.clone(), standing, why, answers: candidate.answers(), goal, guards }
    });
    judged.collect()
}

/// What the goal's and the guards' numbers say of one arm.
pub(super) struct Findings {
    goal: Option<GoalFinding>,
    guards: Vec<GuardFinding>,
}

/// The risk of one guard of one arm.
fn risk_of_guard(settings: &Settings, metric: &Metric, arms: f64) -> f64 {
    let guards = settings.guards.len() as f64;
    let has_errors = settings.guards.iter().any(|guard| guard.metric == Metric::Errors);
    let part = match (has_errors && guards > 1.0, metric) {
        (true, Metric::Errors) => ERRORS_PART,
        (true, _) => (1.0 - ERRORS_PART) / (guards - 1.0),
        (false, _) => 1.0 / guards,
    };
    GUARD_RISK * part / arms
}

/// Looks at everything of one arm; `arms` are judged together.
pub(super) fn look(settings: &Settings, candidate: &ArmNumbers, control: &ArmNumbers, arms: f64) -> Findings {
    let guard = |guard: &Guard| compare::guard(guard, candidate, control, risk_of_guard(settings, &guard.metric, arms));
    let guards = settings.guards.iter().map(guard).collect();
    let goal = settings.goal.as_ref().map(|goal| compare::goal(goal, candidate, control, GOAL_RISK / arms));
    Findings { goal, guards }
}

/// What that comes to.
pub(super) fn stand(
    settings: &Settings,
    candidate: &ArmNumbers,
    control: &ArmNumbers,
    findings: &Findings,
    uneven: bool,
) -> Standing {
    let fewest = candidate.answers().min(control.answers());
    let worst = findings.guards.iter().filter(|guard| guard.breached).max_by(|a, b| a.alarm.total_cmp(&b.alarm));
    match (worst, &findings.goal) {
        (Some(guard), _) => Standing::Breached { guard: guard.metric.clone() },
        _ if uneven => Standing::Uneven,
        (None, Some(goal)) if goal.state == GoalState::Worse => Standing::Worse,
        _ if fewest < settings.min_samples => Standing::Waiting { needed: settings.min_samples - fewest },
        (None, None) => Standing::Holding,
        (None, Some(goal)) => match goal.state {
            GoalState::Better => Standing::Better,
            GoalState::NotWorse => Standing::NotWorse,
            GoalState::UsedUp => Standing::Inconclusive,
            GoalState::Worse => Standing::Worse,
            GoalState::Open => Standing::Undecided { needed: still_needed(goal, candidate) },
        },
    }
}

/// Answers of the arm until the planned sample is used up, at the present share.
fn still_needed(goal: &GoalFinding, candidate: &ArmNumbers) -> u64 {
    let missing = (goal.planned - goal.samples).max(1.0);
    let of_arm = candidate.total(&goal.comparison.metric).n as f64;
    let rate = if goal.samples > 0.0 { of_arm / goal.samples } else { 1.0 };
    (missing * rate).ceil() as u64
}

fn why(standing: &Standing, settings: &Settings, candidate: &ArmNumbers, control: &ArmNumbers, findings: &Findings) -> String {
    let Findings { goal, guards } = findings;
    let against = |metric: &Metric| {
        let side = |arm: &ArmNumbers| told(metric, &arm.total(metric));
        format!("{metric}: {} against {} of {}", side(candidate), side(control), control.arm)
    };
    let held = |more: &str| match guards.len() {
        0 => more.to_owned(),
        _ => format!("All guards hold. {more}").trim_end().to_owned(),
    };
    let of_goal = || {
        let (Some(settings), Some(finding)) = (&settings.goal, goal) else { return String::new() };
        let seen = against(&settings.metric);
        let Comparison { low: Some(low), high: Some(high), kind, .. } = &finding.comparison else { return seen };
        format!("{seen}; the {kind} is between {} and {}", number(*low), number(*high))
    };
    match standing {
        Standing::Breached { guard } => {
            let setting = settings.guards.iter().find(|setting| setting.metric == *guard);
            let allowed = match setting.map_or(0.0, Guard::tolerance) {
                tolerance if tolerance > 0.0 => format!("more than the {} that are tolerated", percent(tolerance)),
                _ => "more than chance explains".to_owned(),
            };
            format!("The guard does not hold: {}, {allowed}.", against(guard))
        }
        Standing::Uneven => "The arms do not get the shares of traffic that they should, which chance does not explain: answers \
                             of an arm are lost, or something else decides who gets it. No number of this experiment can be \
                             trusted."
            .to_owned(),
        Standing::Waiting { needed } => {
            format!("{needed} more answers are needed of the arm and of {} each before anything is said.", control.arm)
        }
        Standing::Holding => held(&format!("{} answers were counted, and no goal is set.", candidate.answers())),
        Standing::Undecided { needed } => {
            held(&format!("The goal is open: {}. About {needed} more answers of the arm until a person is asked.", of_goal()))
        }
        Standing::Better => held(&format!("The goal is met: {}.", of_goal())),
        Standing::NotWorse => held(&format!("Not worse than the margin allows: {}.", of_goal())),
        Standing::Inconclusive => held(&format!("The planned sample is used up without a verdict: {}.", of_goal())),
        Standing::Worse => format!("Worse: {}.", of_goal()),
    }
}

/// An arm's numbers in words.
fn told(metric: &Metric, sums: &Sums) -> String {
    let Some(mean) = sums.mean() else { return "nothing".to_owned() };
    match metric.scale() {
        Scale::Rate => format!("{} of {} ({})", sums.sum, sums.n, percent(mean)),
        Scale::Ratio => format!("{} on (geometric) average of {}", number(mean.exp()), sums.n),
        Scale::Mean => format!("{} on average of {}", number(mean), sums.n),
    }
}

fn percent(part: f64) -> String {
    format!("{} %", number(part * 100.0))
}

/// Three significant digits, without an exponent.
fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return "0".to_owned();
    }
    let digits = (2 - value.abs().log10().floor() as i32).clamp(0, 12);
    let text = format!("{value:.*}", digits as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Interval of one arm's metric at 95 %, at all times together; as it is shown (ratios: of the geometric mean).
pub fn interval(metric: &Metric, sums: &Sums) -> Option<(f64, f64)> {
    let n = sums.n as f64;
    match metric.scale() {
        Scale::Rate => (sums.n > 0).then(|| sequential::rate_interval(n, sums.sum, SHOWN_RISK)),
        scale @ (Scale::Mean | Scale::Ratio) => {
            let (low, high) = sequential::mean_interval(n, sums.mean()?, sums.variance()?, SHOWN_RISK);
            Some(if scale == Scale::Ratio { (low.exp(), high.exp()) } else { (low, high) })
        }
    }
}
