//! Which arm a unit gets: a pure hash, the same in every process and after every restart.
//!
//! Weighted rendezvous hashing: each arm draws a number from the unit's hash and the one with the highest score wins, where the score
//! of an arm of weight w and draw u in (0, 1) is -w / ln u. The chance to win is the arm's part of the weights (-ln(u) / w is
//! exponential with rate w, and the least of exponentials falls on each in proportion to its rate). Scores depend on an arm's own
//! name and weight only: an arm whose weight grows while no other's does wins units from the others and loses none.

use sha2::{Digest, Sha256};

use super::deployment::Weight;

/// Who or what keeps its arm, hashed for one deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unit([u8; 32]);

impl Unit {
    /// A unit of a tenant, in a deployment that is known by its salt: the same unit is another one in another deployment.
    pub fn new(deployment_id: &str, salt: &str, tenant: &str, unit: &str) -> Self {
        Self(hash(&[deployment_id, salt, tenant, unit]))
    }

    /// 64 bits of it, for records.
    pub fn bits(&self) -> u64 {
        first_bits(&self.0)
    }

    /// A conversation of this unit: 128 bits.
    pub fn conversation(&self, conversation: &str) -> u128 {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(conversation);
        let digest: [u8; 32] = hasher.finalize().into();
        u128::from_le_bytes(std::array::from_fn(|index| digest[index]))
    }

    /// The arm's draw, in (0, 1).
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    fn draw(&self, arm: &str) -> f64 {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(arm);
        let bits = first_bits(&hasher.finalize().into()) >> 11;
        (bits as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Index of the arm that it gets; `None` where no arm has any weight.
    pub fn choose<'a>(&self, arms: impl IntoIterator<Item = (&'a str, Weight)>) -> Option<usize> {
        let scored = arms.into_iter().enumerate().filter(|(_, (_, weight))| !weight.is_none());
        let score = |(index, (name, weight)): (usize, (&str, Weight))| (-weight.share() / self.draw(name).ln(), index);
        scored.map(score).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, index)| index)
    }
}

/// SHA-256 of texts, each with its length before it, so that no two lists are one text.
pub fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn first_bits(digest: &[u8; 32]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| digest[index]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn weight(percent: f64) -> Weight {
        Weight::of_percent(percent).unwrap()
    }

    fn choose(salt: &str, unit: &str, arms: &[(String, Weight)]) -> usize {
        Unit::new("dep", salt, "t", unit).choose(arms.iter().map(|(name, weight)| (name.as_str(), *weight))).unwrap()
    }

    /// Weights in hundredths that are 100 percent together.
    fn shares(parts: &[u32]) -> Vec<Weight> {
        let all: u32 = parts.iter().sum();
        let mut hundredths: Vec<u32> = parts.iter().map(|part| part * 10_000 / all).collect();
        let rest = 10_000 - hundredths.iter().sum::<u32>();
        hundredths[0] += rest;
        hundredths.into_iter().map(|hundredths| weight(f64::from(hundredths) / 100.0)).collect()
    }

    proptest! {
        #[test]
        fn a_unit_keeps_its_arm_whatever_the_order_of_the_arms(
            salt in "[a-z]{1,8}", unit in ".{0,40}", parts in prop::collection::vec(1u32..1_000, 1..6),
        ) {
            let arms: Vec<_> = shares(&parts).into_iter().enumerate().map(|(i, w)| (format!("arm-{i}"), w)).collect();
            let first = arms[choose(&salt, &unit, &arms)].0.clone();
            let mut turned = arms.clone();
            turned.reverse();
            prop_assert_eq!(&turned[choose(&salt, &unit, &turned)].0, &first);
            prop_assert_eq!(&arms[choose(&salt, &unit, &arms)].0, &first);
        }

        #[test]
        fn an_arm_that_grows_loses_nobody(
            unit in ".{0,40}", parts in prop::collection::vec(1u32..1_000, 2..6), more in 1u32..2_000,
        ) {
            // All others get less, or as much, relative to it.
            let mut grown = parts.clone();
            grown[1] += more;
            let with = |parts: &[u32]| -> Vec<(String, Weight)> {
                shares(parts).into_iter().enumerate().map(|(i, w)| (format!("arm-{i}"), w)).collect()
            };
            let (before, after) = (with(&parts), with(&grown));
            // The rounding to hundredths may give the first arm a little more than its part: the rule is about what is written.
            let others_shrink = before.iter().zip(&after).enumerate().all(|(i, (b, a))| i == 1 || a.1 <= b.1);
            prop_assume!(others_shrink && after[1].1 >= before[1].1);
            if choose("s", &unit, &before) == 1 {
                prop_assert_eq!(choose("s", &unit, &after), 1);
            }
        }

        #[test]
        fn five_to_ten_percent_moves_units_to_the_canary_only(unit in ".{0,40}", salt in "[a-z]{4}") {
            let arms = |canary: f64| vec![("stable".to_owned(), weight(100.0 - canary)), ("canary".to_owned(), weight(canary))];
            let order = [1.0, 5.0, 10.0, 50.0, 100.0].map(|percent| choose(&salt, &unit, &arms(percent)));
            prop_assert!(order.is_sorted(), "{order:?}");
        }
    }

    #[test]
    fn shares_are_within_the_bounds_of_chance() {
        // 5 standard deviations of the binomial distribution: a true assignment fails this once in 1.7 million.
        const UNITS: u32 = 40_000;
        for (salt, percents) in
            [("a", vec![90.0, 10.0]), ("b", vec![99.0, 1.0]), ("c", vec![50.0, 30.0, 15.5, 4.5]), ("d", vec![0.0, 100.0])]
        {
            let arms: Vec<_> = percents.iter().enumerate().map(|(i, percent)| (format!("arm-{i}"), weight(*percent))).collect();
            let mut counts = vec![0u32; arms.len()];
            (0..UNITS).for_each(|unit| counts[choose(salt, &format!("user-{unit}"), &arms)] += 1);
            for (count, percent) in counts.iter().zip(&percents) {
                let (n, p) = (f64::from(UNITS), percent / 100.0);
                let off = (f64::from(*count) - n * p).abs();
                assert!(off <= 5.0 * (n * p * (1.0 - p)).sqrt(), "{salt}: {count} of {UNITS} for {percent}%");
            }
        }
    }

    #[test]
    fn deployments_are_independent_of_each_other() {
        // Of those in the canary of one, as many are in the canary of the other as of all.
        const UNITS: u32 = 40_000;
        let arms = vec![("stable".to_owned(), weight(70.0)), ("canary".to_owned(), weight(30.0))];
        let (mut first, mut both) = (0u32, 0u32);
        for unit in 0..UNITS {
            let unit = format!("user-{unit}");
            if choose("one", &unit, &arms) == 1 {
                first += 1;
                both += u32::from(choose("two", &unit, &arms) == 1);
            }
        }
        let (n, p) = (f64::from(first), 0.3);
        assert!((f64::from(both) - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt(), "{both} of {first}");
    }

    #[test]
    fn texts_do_not_run_into_each_other() {
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        let unit = |tenant, unit| Unit::new("d", "s", tenant, unit).bits();
        assert_ne!(unit("a", "1"), unit("b", "1"), "a user of one tenant is not the other's of the same name");
        let one = Unit::new("d", "s", "t", "u");
        assert_ne!(one.conversation("x"), one.conversation("y"));
    }

    #[test]
    fn nothing_is_assigned_where_nothing_has_weight() {
        assert_eq!(Unit::new("d", "s", "t", "u").choose([("a", Weight::NONE)]), None);
    }
}
