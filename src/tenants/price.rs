//! What tokens cost. Pure; money is whole nano-dollars (10^-9 USD), prices are nano-dollars per million tokens.

use crate::store::policy::PriceRow;

/// Tokens of a request by what they cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Of all prompts, each counted once.
    pub input: u64,
    /// The part of `input` whose computation was reused.
    pub cached: u64,
    /// Of all answers.
    pub output: u64,
    /// The part of `output` that was reasoning.
    pub reasoning: u64,
}

impl Tokens {
    /// Input and output.
    pub const fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// A line of the price book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// Id of its row.
    pub id: Box<str>,
    /// Seconds since 1970 from which on it holds.
    pub valid_from: i64,
    /// Per million prompt tokens.
    pub input: i64,
    /// Per million prompt tokens that were reused.
    pub cached_input: i64,
    /// Per million generated tokens.
    pub output: i64,
    /// Per million tokens that are learnt from.
    pub training: i64,
}

impl Price {
    /// What the tokens cost, rounded up once; at most [`i64::MAX`].
    pub fn cost(&self, tokens: &Tokens) -> i64 {
        let cached = tokens.cached.min(tokens.input);
        let times = |count: u64, price: i64| i128::from(count).saturating_mul(i128::from(price.max(0)));
        let input = times(tokens.input - cached, self.input).saturating_add(times(cached, self.cached_input));
        up(input.saturating_add(times(tokens.output, self.output)))
    }

    /// What learning from so many tokens costs, rounded up; at most [`i64::MAX`].
    pub fn of_training(&self, tokens: u64) -> i64 {
        up(i128::from(tokens).saturating_mul(i128::from(self.training.max(0))))
    }

    /// The most that so many tokens can cost, whatever is reused.
    pub fn most(&self, input: u64, output: u64) -> i64 {
        let dearest = Self { input: self.input.max(self.cached_input), ..self.clone() };
        dearest.cost(&Tokens { input, output, ..Tokens::default() })
    }
}

/// Millionths to whole ones, upwards.
fn up(millionths: i128) -> i64 {
    i64::try_from(millionths.saturating_add(999_999) / 1_000_000).unwrap_or(i64::MAX)
}

/// All prices.
#[derive(Debug, Default)]
pub struct PriceBook {
    rows: Vec<PriceRow>,
}

impl PriceBook {
    /// From the table.
    pub const fn new(rows: Vec<PriceRow>) -> Self {
        Self { rows }
    }

    /// The prices of a model for a tenant, by the time from which they hold, the latest first. At each time the most specific
    /// row counts: tenant and model, then tenant, then model, then neither; `base` (the base's own name) prices the base only.
    pub fn of(&self, tenant: &str, model: &str) -> Vec<Price> {
        for (project_id, name) in [(tenant, model), (tenant, "*"), ("*", model), ("*", "*")] {
            let found: Vec<&PriceRow> =
                self.rows.iter().filter(|row| row.project_id == project_id && row.model == name).collect();
            if found.is_empty() {
                continue;
            }
            let mut prices: Vec<Price> = found.into_iter().map(price).collect();
            prices.sort_by_key(|price| std::cmp::Reverse(price.valid_from));
            // Before its first day a specific price leaves the word to the less specific ones.
            let first = prices.last().map_or(i64::MIN, |price| price.valid_from);
            let before = self.less_specific(tenant, model, (project_id, name));
            prices.extend(before.into_iter().filter(|price| price.valid_from < first));
            return prices;
        }
        Vec::new()
    }

    /// The second (since 1970) from which on a row names the model.
    pub fn names_from(&self, tenant: &str, model: &str) -> Option<i64> {
        let names = |row: &&PriceRow| row.model == model && (row.project_id == tenant || row.project_id == "*");
        self.rows.iter().filter(names).map(|row| row.valid_from).min()
    }

    fn less_specific(&self, tenant: &str, model: &str, than: (&str, &str)) -> Vec<Price> {
        if than == (tenant, model) && (tenant, model) != (tenant, "*") {
            self.of(tenant, "*")
        } else if than == (tenant, "*") && tenant != "*" {
            self.of("*", model)
        } else if than == ("*", model) && model != "*" {
            self.of("*", "*")
        } else {
            Vec::new()
        }
    }
}

/// The price that holds at a time, of prices with the latest first.
pub fn at(prices: &[Price], now: i64) -> Option<&Price> {
    prices.iter().find(|price| price.valid_from <= now)
}

fn price(row: &PriceRow) -> Price {
    Price {
        id: row.id.as_str().into(),
        valid_from: row.valid_from,
        input: row.input_nanos,
        cached_input: row.cached_input_nanos,
        output: row.output_nanos,
        training: row.training_nanos,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn row(id: &str, project: &str, model: &str, valid_from: i64, input: i64) -> PriceRow {
        PriceRow {
            id: id.into(),
            project_id: project.into(),
            model: model.into(),
            valid_from,
            input_nanos: input,
            cached_input_nanos: input / 10,
            output_nanos: 4 * input,
            training_nanos: 0,
            created_at: 0,
        }
    }

    #[test]
    fn a_request_is_rounded_up_once() {
        let price = Price {
            id: "p".into(),
            valid_from: 0,
            input: 150_000_000,
            cached_input: 75_000_000,
            output: 600_000_000,
            training: 3_000_000_000,
        };
        assert_eq!((price.of_training(1_000_000), price.of_training(1), price.of_training(0)), (3_000_000_000, 3_000, 0));
        // 0.15 and 0.60 dollars a million: 10 prompt tokens, 4 of them cached, 3 generated: 900 + 300 + 1800 nano-dollars.
        assert_eq!(price.cost(&Tokens { input: 10, cached: 4, output: 3, reasoning: 0 }), 3_000);
        let tiny = Price { input: 1, cached_input: 1, output: 1, ..price.clone() };
        assert_eq!(tiny.cost(&Tokens { input: 1, cached: 0, output: 1, reasoning: 0 }), 1, "not one for each part");
        assert_eq!(tiny.cost(&Tokens::default()), 0);
        let dear = Price { input: i64::MAX, output: i64::MAX, ..price };
        assert_eq!(dear.cost(&Tokens { input: u64::MAX, cached: 0, output: u64::MAX, reasoning: 0 }), i64::MAX);
    }

    #[test]
    fn the_most_specific_price_that_holds_counts() {
        let book = PriceBook::new(vec![
            row("all", "*", "*", 0, 1),
            row("all2", "*", "*", 200, 2),
            row("convert", "*", "convert", 100, 3),
            row("acme", "acme", "*", 150, 4),
        ]);
        let id = |tenant: &str, model: &str, now: i64| at(&book.of(tenant, model), now).map(|price| price.id.to_string());
        assert_eq!(id("other", "base", 50).as_deref(), Some("all"));
        assert_eq!(id("other", "base", 200).as_deref(), Some("all2"));
        assert_eq!(id("other", "convert", 99).as_deref(), Some("all"));
        assert_eq!(id("other", "convert", 100).as_deref(), Some("convert"));
        assert_eq!(id("acme", "convert", 149).as_deref(), Some("convert"));
        assert_eq!(id("acme", "convert", 150).as_deref(), Some("acme"), "a tenant's own prices go first");
        assert_eq!(id("acme", "base", 20).as_deref(), Some("all"));
        assert_eq!(id("acme", "base", -1), None);
        assert!(PriceBook::default().of("acme", "base").is_empty());
        assert_eq!((book.names_from("acme", "convert"), book.names_from("acme", "base")), (Some(100), None));
    }

    proptest! {
        #[test]
        fn no_answer_costs_more_than_was_reserved(
            input in 0u64..1 << 40, cached in 0u64..1 << 40, output in 0u64..1 << 40, unused in 0u64..1 << 40,
            prices in prop::array::uniform3(0i64..1 << 40),
        ) {
            let price = Price { id: "p".into(), valid_from: 0, input: prices[0], cached_input: prices[1], output: prices[2], training: 0 };
            let actual = price.cost(&Tokens { input, cached, output, reasoning: 0 });
            prop_assert!(actual <= price.most(input, output + unused));
        }
    }
}
