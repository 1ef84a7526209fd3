//! Whether the arms get the shares of units that they should: an e-value that may be looked at after every unit, for shares that
//! may change over time. Pure. (Lindon, Malek 2022 test constant shares with a Dirichlet mixture; here the alternative is a
//! predictable tilt of the shares that hold for the unit, so that each factor has mean one whatever they are.)

use serde::{Deserialize, Serialize};

/// Expected units that the tilt trusts before it believes what it sees.
const CAUTION: f64 = 20.0;
/// Chance of a false alarm, once and for all: an alarm stops an experiment, so that it should be rare.
pub const RISK: f64 = 0.001;

/// One arm's units.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Count {
    /// The arm.
    pub arm: String,
    /// Units that it got.
    pub observed: f64,
    /// Units that it should have got.
    pub expected: f64,
}

/// The test so far.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Split {
    /// Units by arm.
    pub counts: Vec<Count>,
    /// Logarithm of the e-value.
    pub evidence: f64,
    /// The most that it ever was: an alarm stays one.
    #[serde(default)]
    pub peak: f64,
}

impl Split {
    /// A unit came to an arm by these shares. Arms that are not among the shares are not counted.
    pub fn add<S: AsRef<str>>(&mut self, shares: &[(S, f64)], arm: &str) {
        if !shares.iter().any(|(name, share)| name.as_ref() == arm && *share > 0.0) {
            return;
        }
        for (name, _) in shares {
            if !self.counts.iter().any(|count| count.arm == name.as_ref()) {
                self.counts.push(Count { arm: name.as_ref().to_owned(), ..Count::default() });
            }
        }
        let tilted = |count: &Count, share: f64| {
            let trust = CAUTION * share;
            share * (count.observed + trust) / (count.expected + trust)
        };
        let (mut all, mut of_arm) = (0.0, 1.0);
        for (name, share) in shares.iter().filter(|(_, share)| *share > 0.0) {
            let Some(count) = self.counts.iter_mut().find(|count| count.arm == name.as_ref()) else { continue };
            let weight = tilted(count, *share);
            all += weight;
            count.expected += share;
            if name.as_ref() == arm {
                of_arm = weight / share;
                count.observed += 1.0;
            }
        }
        self.evidence += (of_arm / all).ln();
        self.peak = self.peak.max(self.evidence);
    }
}

/// All tests of one experiment together: processes may see the same units, so that each gets a part of the risk.
pub fn is_uneven(evidence: &[f64]) -> bool {
    let limit = (evidence.len().max(1) as f64 / RISK).ln();
    evidence.iter().any(|evidence| *evidence >= limit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::super::simulation::Random;
    use super::*;

    /// Units until the alarm, where the canary really gets this share, and the shares that it should get rise in steps.
    fn alarm(seed: u64, units: usize, lost: f64) -> Option<usize> {
        let mut random = Random::new(seed);
        let mut split = Split::default();
        (0..units).find(|unit| {
            let share = [0.01, 0.1, 0.5][unit * 3 / units];
            let canary = random.uniform() < share;
            if canary && random.uniform() < lost {
                return false;
            }
            split.add(&[("stable", 1.0 - share), ("canary", share)], if canary { "canary" } else { "stable" });
            is_uneven(&[split.peak])
        })
    }

    #[test]
    fn an_even_split_is_never_called_uneven_and_a_lossy_one_soon() {
        let alarms = (0..1_000).filter(|seed| alarm(*seed, 3_000, 0.0).is_some()).count();
        assert!(alarms <= 4, "{alarms} false alarms in 1,000");
        let seen: Vec<usize> = (0..100).filter_map(|seed| alarm(seed, 12_000, 0.2)).collect();
        assert!(seen.len() >= 95, "{} of 100 lossy splits were seen", seen.len());
    }

    #[test]
    fn arms_that_nobody_expects_change_nothing() {
        let mut split = Split::default();
        split.add(&[("a", 1.0), ("b", 0.0)], "b");
        split.add(&[("a", 1.0)], "c");
        assert_eq!(split, Split::default());
        split.add(&[("a", 1.0), ("b", 0.0)], "a");
        assert_eq!(split.evidence, 0.0);
    }
}
