//! Tests and intervals that stay right however often one looks: pure functions of counts. Knows no arms and no metrics.
//!
//! - **Goal**: a confidence sequence for a difference of means, in two parts that share the risk. Until the planned sample is used up,
//!   a horizontal boundary for the sum, whose crossing probability is known exactly from the reflection principle (as in group
//!   sequential designs with continuous looks: Lan, DeMets 1983); before and after it, the boundary of a normal mixture (Robbins 1970;
//!   Howard, Ramdas, McAuliffe, Sekhon 2021; mSPRT of Johari, Pekelis, Walsh 2017), asymptotic in the sense of Waudby-Smith, Arbour,
//!   Sinha, Kennedy, Ramdas 2024: variances are estimated, and nothing is said of a handful of values.
//! - **Guards of rates**: an e-value for "no more often than the control", exact for counts and usable from the first answer. Given
//!   that something went wrong, it went wrong in the candidate with the probability of its share of the answers, unless it is worse;
//!   the likelihood ratio is mixed over how much worse (two-sample e-values: Turner, Ly, Grünwald 2024; Wald 1945). The rate of the
//!   control cancels out, and so does a bad hour that is everybody's.
//! - **Guards of means**: the one-sided normal mixture of Waudby-Smith et al. 2024, proposition B.1.
//! - **Rates of one arm**: Robbins' 1970 sequence for a binomial probability, with a uniform prior; exact.

/// Ratios of rates that the test of guards listens for, with their weights: a doubling and a disaster first of all, and patience for
/// a creeping fourth more.
const WORSE: [(f64, f64); 3] = [(1.25, 0.1), (2.0, 0.25), (6.0, 0.65)];
/// Prior weight of the one-sided mixture in answers: it is tightest at about ten times as many.
const GUARD_PRIOR: f64 = 20.0;
/// The same of intervals of one arm.
const ARM_PRIOR: f64 = 50.0;
/// Part of a goal's risk that the planned sample gets.
const PLANNED_PART: f64 = 0.75;
/// The planned part ends at so many times the sample that a test with one look needs.
pub const HORIZON: f64 = 1.6;

/// What is counted of something that goes wrong, in one stratum.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Wrong {
    /// Wrong ones of the candidate.
    pub candidate: f64,
    /// All of the candidate.
    pub of_candidate: f64,
    /// Wrong ones of the control.
    pub control: f64,
    /// All of the control.
    pub of_control: f64,
}

/// Logarithm of the evidence (an e-value) that things go wrong in the candidate more often than `1 + tolerance` times as often as in
/// the control. Where they do not, it exceeds `ln(1 / risk)` at any time with at most that risk.
pub fn evidence_of_worse(strata: &[Wrong], tolerance: f64) -> f64 {
    let logs = WORSE.map(|(times, weight)| {
        let of_stratum = |wrong: &Wrong| {
            if wrong.of_candidate <= 0.0 || wrong.of_control <= 0.0 {
                return 0.0;
            }
            let odds = wrong.of_candidate / wrong.of_control * (1.0 + tolerance);
            let (null, alternative) = (odds / (1.0 + odds), odds * times / (1.0 + odds * times));
            wrong.candidate * (alternative / null).ln() + wrong.control * ((1.0 - alternative) / (1.0 - null)).ln()
        };
        weight.ln() + strata.iter().map(of_stratum).sum::<f64>()
    });
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + logs.iter().map(|log| (log - most).exp()).sum::<f64>().ln()
}

/// How many standard errors a difference must have, on either side, to be a verdict on a goal; after `samples` answers of each arm
/// (or as much information), where `planned` were planned. Infinite where nothing can be said yet.
pub fn goal_boundary(samples: f64, planned: f64, risk: f64) -> f64 {
    if samples <= 0.0 {
        return f64::INFINITY;
    }
    let end = HORIZON * planned;
    // Both sides of a Brownian motion: each is reached with twice the tail.
    let line =
        if samples <= end { normal_tail_inverse(PLANNED_PART * risk / 4.0) * (end / samples).sqrt() } else { f64::INFINITY };
    line.min(mixture_boundary(samples, 0.15 * end, (1.0 - PLANNED_PART) * risk))
}

/// Standard errors on both sides of a mean or a difference: the normal mixture with this prior weight.
fn mixture_boundary(samples: f64, prior: f64, risk: f64) -> f64 {
    ((1.0 + prior / samples) * ((1.0 + samples / prior).ln() - 2.0 * risk.ln())).sqrt()
}

/// How many standard errors beyond its tolerance a mean must be to breach a guard.
pub fn guard_boundary(samples: f64, risk: f64) -> f64 {
    if samples <= 0.0 {
        return f64::INFINITY;
    }
    let inner = (1.0 + samples / GUARD_PRIOR).sqrt() / (2.0 * risk);
    (2.0 * (1.0 + GUARD_PRIOR / samples) * inner.ln_1p()).sqrt()
}

/// How many standard errors belong on both sides of a difference that is shown without being a goal.
pub fn shown_boundary(samples: f64, risk: f64) -> f64 {
    mixture_boundary(samples, ARM_PRIOR, risk)
}

/// Interval of one arm's mean.
pub fn mean_interval(n: f64, mean: f64, variance: f64, risk: f64) -> (f64, f64) {
    let half = mixture_boundary(n, ARM_PRIOR, risk) * (variance / n).sqrt();
    (mean - half, mean + half)
}

/// Interval of one arm's rate: all rates that a uniform mixture does not beat by `1 / risk`.
pub fn rate_interval(n: f64, yes: f64, risk: f64) -> (f64, f64) {
    let no = n - yes;
    let mixture = ln_gamma(yes + 1.0) + ln_gamma(no + 1.0) - ln_gamma(n + 2.0);
    let term = |count: f64, p: f64| if count > 0.0 { count * p.ln() } else { 0.0 };
    let outside = |p: f64| mixture - term(yes, p) - term(no, 1.0 - p) >= -risk.ln();
    let peak = if n > 0.0 { yes / n } else { 0.5 };
    let edge = |mut out: f64, mut inside: f64| {
        for _ in 0..60 {
            let middle = f64::midpoint(out, inside);
            if outside(middle) { out = middle } else { inside = middle }
        }
        out
    };
    let low = if yes > 0.0 { edge(0.0, peak) } else { 0.0 };
    let high = if no > 0.0 { edge(1.0, peak) } else { 1.0 };
    (low, high)
}

/// Where the standard normal distribution's upper tail is this small; for tails below 0.1. Newton's method, from above.
fn normal_tail_inverse(tail: f64) -> f64 {
    (0..8).fold((-2.0 * tail.ln()).sqrt(), |x, _| x + (normal_tail(x) - tail) / normal_density(x))
}

/// Upper tail of the standard normal distribution from 1 on: Laplace's continued fraction.
fn normal_tail(x: f64) -> f64 {
    let fraction = (1..=48).rev().fold(0.0, |rest, k| f64::from(k) / (x + rest));
    normal_density(x) / (x + fraction)
}

fn normal_density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// Logarithm of the gamma function for arguments from 1 on: Stirling's series after shifting the argument up.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0);
    while x < 10.0 {
        product *= x;
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0)));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - f64::ln(product)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6 * b.abs().max(1.0)
    }

    #[test]
    fn special_functions_agree_with_tables() {
        assert!(close(normal_tail(1.959_963_985), 0.025) && close(normal_tail(3.0), 0.001_349_898));
        assert!(close(normal_tail_inverse(0.005), 2.575_829_304));
        assert!(
            close(ln_gamma(1.0), 0.0) && close(ln_gamma(5.0), 24f64.ln()) && close(ln_gamma(0.5 + 1.0), 0.886_226_925f64.ln())
        );
        assert!(close(ln_gamma(101.0), 363.739_375_556));
    }

    #[test]
    fn evidence_needs_both_arms_and_grows_with_what_goes_wrong() {
        let wrong = |candidate, control| Wrong { candidate, of_candidate: 60.0, control, of_control: 540.0 };
        assert!(close(evidence_of_worse(&[], 0.0), 0.0));
        let alone = Wrong { candidate: 5.0, of_candidate: 5.0, control: 0.0, of_control: 0.0 };
        assert!(close(evidence_of_worse(&[alone], 0.0), 0.0));
        let e: Vec<f64> = (0..20).map(|count| evidence_of_worse(&[wrong(f64::from(count), 11.0)], 0.0)).collect();
        assert!(e.is_sorted() && e[0] < 0.0 && e[7] > 4.0, "{e:?}");
        assert!(evidence_of_worse(&[wrong(7.0, 11.0)], 1.0) < e[7] - 1.0, "a tolerance forgives");
        let halves = [wrong(3.0, 5.0), wrong(4.0, 6.0)];
        assert!((evidence_of_worse(&halves, 0.0) - e[7]).abs() < 1e-9, "strata add up");
    }

    #[test]
    fn intervals_contain_what_was_seen_and_shrink() {
        let (low, high) = rate_interval(0.0, 0.0, 0.05);
        assert_eq!((low, high), (0.0, 1.0));
        let width = |n: f64, yes: f64| {
            let (low, high) = rate_interval(n, yes, 0.05);
            assert!((0.0..=1.0).contains(&low) && low <= yes / n && yes / n <= high && high <= 1.0);
            high - low
        };
        assert!(width(10.0, 0.0) > width(100.0, 0.0) && width(100.0, 50.0) > width(10_000.0, 5_000.0));
        assert!(width(10_000.0, 200.0) < 0.02);
        assert!(goal_boundary(0.0, 100.0, 0.02).is_infinite());
        let z: Vec<f64> = (1..=160).map(|n| goal_boundary(f64::from(n), 100.0, 0.022)).collect();
        assert!(z.is_sorted_by(|a, b| a >= b) && (2.6..2.7).contains(&z[159]), "{}", z[159]);
        assert!(goal_boundary(161.0, 100.0, 0.022) > 3.0);
    }
}
