//! The rules behind `auto`: hyperparameters from the size of the data and of the base, each with its reason. docs/evaluation.md has
//! them as a table.

use serde::{Deserialize, Serialize};

/// Examples that a run should see in all; fewer rows are seen more often.
const EXAMPLES_SEEN: u64 = 3_000;
/// Most times that a row is seen: after that it is learned by heart.
const MOST_EPOCHS: u64 = 10;
/// Rows to one row of a batch.
const ROWS_PER_BATCH_ROW: u64 = 50;
/// Smallest and largest batch, rows.
const BATCH: (u64, u64) = (4, 32);
/// Learning rate that suits adapters of a base with a thousand million parameters and a batch of 16 rows.
const LEARNING_RATE: f64 = 2e-4;
/// Smallest and largest learning rate.
const LEARNING_RATES: (f64, f64) = (5e-5, 3e-3);
/// How much faster smaller bases learn: the power of their share of a thousand million parameters.
const SIZE_POWER: f64 = 0.4;
/// Tokens that a weight of an adapter can make use of, roughly: what asks for a higher rank.
const MANY_TOKENS: u64 = 5_000_000;

/// A value and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chosen<T> {
    /// The value.
    pub value: T,
    /// The reason, a sentence with its numbers.
    pub reason: String,
}

/// What `auto` stands for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// Times that each row is seen.
    pub epochs: Chosen<u32>,
    /// Rows behind one step of the optimizer.
    pub batch_size: Chosen<u32>,
    /// Highest learning rate. A client's `learning_rate_multiplier` multiplies this value; `auto` is 1.
    pub learning_rate: Chosen<f64>,
    /// Rank of the adapter.
    pub rank: Chosen<u32>,
    /// Scale of the adapter: twice the rank.
    pub alpha: Chosen<f64>,
    /// Share of the steps in which the learning rate rises.
    pub warmup_ratio: Chosen<f64>,
}

/// The rules, for `rows` training rows of `tokens` tokens in all and a base of `base_parameters` weights.
///
/// - epochs: so many that 3000 examples are seen, from 1 to 10.
/// - batch size: a row for every 50 rows, as a power of two from 4 to 32.
/// - learning rate: 2e-4 x (1e9 / base parameters)^0.4 x (batch size / 16)^0.5, from 5e-5 to 3e-3.
/// - rank: 16; 8 below 100 rows; 32 from 5 million tokens on. Alpha is twice the rank.
/// - warmup: a tenth of the steps below 1000 steps, 3 in 100 otherwise.
pub fn auto(rows: u64, tokens: u64, base_parameters: u64) -> Hyperparameters {
    let some_rows = rows.max(1);
    let epochs = EXAMPLES_SEEN.div_ceil(some_rows).clamp(1, MOST_EPOCHS);
    let batch = floor_power_of_two((rows / ROWS_PER_BATCH_ROW).clamp(BATCH.0, BATCH.1));
    let size = 1e9 / base_parameters.max(1) as f64;
    let rate = LEARNING_RATE * size.powf(SIZE_POWER) * (batch as f64 / 16.0).sqrt();
    // Two digits: nobody tunes a third.
    let rate = two_digits(rate.clamp(LEARNING_RATES.0, LEARNING_RATES.1));
    let (rank, rank_reason) = match (rows, tokens) {
        (_, MANY_TOKENS..) => (32, format!("{tokens} tokens are enough to fill a larger adapter")),
        (..100, _) => (8, format!("{rows} rows are few: a small adapter learns less by heart")),
        _ => (16, "enough for most tasks on all linear layers".to_owned()),
    };
    let steps = epochs.saturating_mul(some_rows).div_ceil(batch);
    let (warmup, warmup_reason) = match steps {
        ..1000 => (0.1, format!("{steps} steps are few: the optimizer's averages need some of them")),
        _ => (0.03, format!("enough of {steps} steps")),
    };
    let epochs_reason = match epochs {
        1 => format!("{rows} rows are enough to be seen once"),
        MOST_EPOCHS => format!("{rows} rows are few; more than {MOST_EPOCHS} times and they are learned by heart"),
        epochs => format!("{rows} rows seen {epochs} times are about {EXAMPLES_SEEN} examples"),
    };
    let millions = base_parameters as f64 / 1e6;
    Hyperparameters {
        // Both are small: within their clamps.
        epochs: Chosen { value: epochs as u32, reason: epochs_reason },
        batch_size: Chosen { value: batch as u32, reason: format!("a row for every {ROWS_PER_BATCH_ROW} of {rows}") },
        learning_rate: Chosen {
            value: rate,
            reason: format!(
                "a base of {millions:.1} million parameters and batches of {batch} rows; smaller bases take larger ones"
            ),
        },
        rank: Chosen { value: rank, reason: rank_reason },
        alpha: Chosen { value: f64::from(2 * rank), reason: "twice the rank".to_owned() },
        warmup_ratio: Chosen { value: warmup, reason: warmup_reason },
    }
}

fn floor_power_of_two(number: u64) -> u64 {
    1 << number.max(1).ilog2()
}

fn two_digits(number: f64) -> f64 {
    // Through text, so that it is the number that it looks like.
    format!("{number:.1e}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_rules_as_they_are_written_down() {
        let chosen = auto(500, 30_000, 5_770_496);
        assert_eq!((chosen.epochs.value, chosen.batch_size.value, chosen.rank.value), (6, 8, 16));
        assert_eq!((chosen.learning_rate.value, chosen.alpha.value, chosen.warmup_ratio.value), (1.1e-3, 32.0, 0.1));
        let chosen = auto(10_000, 8_000_000, 7_000_000_000);
        assert_eq!((chosen.epochs.value, chosen.batch_size.value, chosen.rank.value), (1, 32, 32));
        assert_eq!(chosen.learning_rate.value, 1.3e-4);
        let chosen = auto(20, 900, 494_000_000);
        assert_eq!((chosen.epochs.value, chosen.batch_size.value, chosen.rank.value), (10, 4, 8));
    }

    proptest! {
        #[test]
        fn any_size_gives_values_that_can_be_trained_with(rows: u64, tokens: u64, parameters: u64) {
            let rows = rows >> 8;
            let chosen = auto(rows, tokens, parameters);
            prop_assert!((1..=10).contains(&chosen.epochs.value));
            prop_assert!((4..=32).contains(&chosen.batch_size.value) && chosen.batch_size.value.is_power_of_two());
            prop_assert!((5e-5..=3e-3).contains(&chosen.learning_rate.value));
        }

        #[test]
        fn more_rows_are_never_seen_more_often(rows in 0..100_000u64, more in 0..100_000u64) {
            prop_assert!(auto(rows + more, 0, 1).epochs.value <= auto(rows, 0, 1).epochs.value);
        }
    }
}
