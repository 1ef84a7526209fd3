//! Whether a version may be put into service: a pure function of what its evaluation measured. Knows neither how the numbers came
//! about nor what is done with the verdict (invariant 7 of the design: nothing that users are sent to points at less than Pass,
//! unless somebody takes the responsibility by name).

use serde::{Deserialize, Serialize};

/// Where the lines are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Overall scores above this pass.
    pub pass_above: f64,
    /// Overall scores below this fail; what is between is reviewed.
    pub fail_below: f64,
    /// Fewer held-out rows than this are reviewed, whatever their score: a few rows say little.
    pub least_rows: u64,
    /// Standard errors of the difference by which a candidate may be worse than the incumbent and be reviewed instead of failed.
    pub noise: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pass_above: 70.0, fail_below: 50.0, least_rows: 10, noise: 2.0 }
    }
}

/// A model that the candidate is compared with, on the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rival {
    /// Its overall score, 0 to 100.
    pub overall: f64,
    /// Standard error of the mean difference, row by row, between the candidate's scores and its own.
    pub difference_error: f64,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// The candidate's overall score, 0 to 100.
    pub overall: f64,
    /// Held-out rows behind it.
    pub rows: u64,
    /// Mean loss on the held-out rows, nats a token, where it was computed.
    pub loss: Option<f64>,
    /// The version in service under the same name, if there is one.
    pub incumbent: Option<Rival>,
    /// The base without an adapter.
    pub base: Option<Rival>,
}

/// What follows. Ordered: the worst reason decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// May be put into service.
    Pass,
    /// May be put into service by somebody who gives their name.
    Review,
    /// May not, unless an operator waives it by name.
    Fail,
}

/// The verdict and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// A sentence for everything that was looked at, worst first.
    pub reasons: Vec<Reason>,
    /// The lines that were drawn.
    pub limits: Limits,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// What it alone would mean.
    pub verdict: Verdict,
    /// The sentence, with its numbers.
    pub text: String,
}

/// Decides.
pub fn decide(numbers: &Numbers, limits: &Limits) -> Decision {
    let mut reasons = vec![by_score(numbers.overall, limits), by_rows(numbers.rows, limits)];
    if let Some(incumbent) = &numbers.incumbent {
        reasons.push(beside(numbers.overall, incumbent, "the version in service", limits, Verdict::Fail));
    }
    if let Some(base) = &numbers.base {
        // Worse than nothing at all is odd rather than forbidden: an adapter may be there to say less.
        reasons.push(beside(numbers.overall, base, "the base", limits, Verdict::Review));
    }
    if let Some(loss) = numbers.loss.filter(|loss| !loss.is_finite()) {
        reasons.push(Reason { verdict: Verdict::Fail, text: format!("the held-out loss is {loss}, which is no number") });
    }
    // Stable: what is equally bad stays in the order above.
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.verdict));
    let verdict = reasons.iter().map(|reason| reason.verdict).max().unwrap_or(Verdict::Fail);
    Decision { verdict, reasons, limits: *limits }
}

fn by_score(overall: f64, limits: &Limits) -> Reason {
    let Limits { pass_above, fail_below, .. } = limits;
    // Written so that what is no number fails.
    if overall > *pass_above {
        let text = format!("the overall score is {overall:.1}, above {pass_above}");
        Reason { verdict: Verdict::Pass, text }
    } else if overall >= *fail_below {
        let text = format!("the overall score is {overall:.1}, not above {pass_above}");
        Reason { verdict: Verdict::Review, text }
    } else {
        let text = format!("the overall score is {overall:.1}, not at least {fail_below}");
        Reason { verdict: Verdict::Fail, text }
    }
}

fn by_rows(rows: u64, limits: &Limits) -> Reason {
    let least = limits.least_rows;
    match rows {
        0 => Reason { verdict: Verdict::Fail, text: "there is no held-out row to judge by".to_owned() },
        rows if rows < least => {
            let text = format!("it was judged by {rows} held-out rows, fewer than {least}");
            Reason { verdict: Verdict::Review, text }
        }
        rows => Reason { verdict: Verdict::Pass, text: format!("it was judged by {rows} held-out rows") },
    }
}

/// `worse` is what clearly worse means; within the noise it is reviewed.
fn beside(overall: f64, rival: &Rival, name: &str, limits: &Limits, worse: Verdict) -> Reason {
    let by = rival.overall - overall;
    let noise = limits.noise * rival.difference_error;
    if by <= 0.0 {
        let text = format!("it is not worse than {name} ({:.1}, {:+.1})", rival.overall, -by);
        return Reason { verdict: Verdict::Pass, text };
    }
    if by <= noise {
        let text = format!("it is worse than {name} ({:.1}) by {by:.1}, which may be chance (up to {noise:.1})", rival.overall);
        return Reason { verdict: Verdict::Review, text };
    }
    Reason { verdict: worse, text: format!("it is worse than {name} ({:.1}) by {by:.1}", rival.overall) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn numbers(overall: f64) -> Numbers {
        Numbers { overall, rows: 100, loss: Some(0.5), incumbent: None, base: None }
    }

    fn rival(overall: f64) -> Option<Rival> {
        Some(Rival { overall, difference_error: 1.0 })
    }

    #[track_caller]
    fn expect(numbers: &Numbers, verdict: Verdict, first: &str) {
        let decision = decide(numbers, &Limits::default());
        assert_eq!(decision.verdict, verdict, "{decision:?}");
        assert!(decision.reasons[0].text.contains(first), "{decision:?}");
    }

    #[test]
    fn the_lines_are_at_fifty_and_seventy() {
        expect(&numbers(70.1), Verdict::Pass, "above 70");
        expect(&numbers(70.0), Verdict::Review, "not above 70");
        expect(&numbers(50.0), Verdict::Review, "not above 70");
        expect(&numbers(49.9), Verdict::Fail, "not at least 50");
    }

    #[test]
    fn a_candidate_that_is_worse_than_the_incumbent_does_not_pass() {
        expect(&Numbers { incumbent: rival(90.0), ..numbers(90.0) }, Verdict::Pass, "above 70");
        expect(&Numbers { incumbent: rival(90.0), ..numbers(89.0) }, Verdict::Review, "may be chance");
        expect(&Numbers { incumbent: rival(90.0), ..numbers(87.0) }, Verdict::Fail, "worse than the version in service");
        expect(&Numbers { base: rival(90.0), ..numbers(80.0) }, Verdict::Review, "worse than the base");
    }

    #[test]
    fn what_says_nothing_does_not_pass() {
        expect(&Numbers { rows: 0, ..numbers(100.0) }, Verdict::Fail, "no held-out row");
        expect(&Numbers { rows: 9, ..numbers(100.0) }, Verdict::Review, "9 held-out rows, fewer than 10");
        expect(&Numbers { loss: Some(f64::NAN), ..numbers(100.0) }, Verdict::Fail, "NaN");
        expect(&numbers(f64::NAN), Verdict::Fail, "NaN");
        expect(&Numbers { incumbent: rival(f64::NAN), ..numbers(100.0) }, Verdict::Fail, "worse than the version");
    }

    fn any_rival() -> impl Strategy<Value = Option<Rival>> {
        proptest::option::of((0.0..=100.0, 0.0..=5.0).prop_map(|(overall, difference_error)| Rival { overall, difference_error }))
    }

    fn any_numbers() -> impl Strategy<Value = Numbers> {
        (0.0..=100.0, 0..200u64, proptest::option::of(0.0..=9.0), any_rival(), any_rival())
            .prop_map(|(overall, rows, loss, incumbent, base)| Numbers { overall, rows, loss, incumbent, base })
    }

    proptest! {
        #[test]
        fn a_better_score_is_never_judged_worse(numbers in any_numbers(), more in 0.0..=50.0) {
            let limits = Limits::default();
            let better = Numbers { overall: numbers.overall + more, ..numbers };
            prop_assert!(decide(&better, &limits).verdict <= decide(&numbers, &limits).verdict);
        }

        #[test]
        fn a_pass_is_above_the_line_and_above_the_incumbent(numbers in any_numbers()) {
            let limits = Limits::default();
            let decision = decide(&numbers, &limits);
            if decision.verdict == Verdict::Pass {
                prop_assert!(numbers.overall > limits.pass_above && numbers.rows >= limits.least_rows);
                prop_assert!(numbers.incumbent.is_none_or(|incumbent| numbers.overall >= incumbent.overall));
            }
            prop_assert_eq!(decision.verdict, decision.reasons[0].verdict);
        }
    }
}
