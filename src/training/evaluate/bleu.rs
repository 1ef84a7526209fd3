//! BLEU as sacrebleu computes it by default: tokens of mteval-v13a, orders 1 to 4, exponential smoothing, one reference.
//! Papineni et al. 2002; smoothing is method 3 of Chen and Cherry 2014.

use std::collections::HashMap;

/// Longest n-grams that count.
const ORDERS: usize = 4;

/// What BLEU is computed from; those of a set are the sums of its rows'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// N-grams of the answer that are in the target, by order.
    matched: [u64; ORDERS],
    /// N-grams of the answer.
    all: [u64; ORDERS],
    /// Tokens of the answer.
    pub answer_tokens: u64,
    /// Tokens of the target.
    pub target_tokens: u64,
}

/// What orders without any n-gram mean: the answer is shorter than they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShortAnswers {
    /// The score is 0: right for sets.
    Fail,
    /// Only the orders that the answer has count: right for single rows.
    CountShorterOrders,
}

impl Counts {
    /// Of one answer.
    pub fn of(answer: &str, target: &str) -> Self {
        let (answer, target) = (tokens(answer), tokens(target));
        let (said, wanted) = (split(&answer), split(&target));
        let mut counts = Self { answer_tokens: said.len() as u64, target_tokens: wanted.len() as u64, ..Self::default() };
        for order in 1..=ORDERS {
            let known = ngrams(&wanted, order);
            for (ngram, count) in ngrams(&said, order) {
                counts.all[order - 1] += count;
                counts.matched[order - 1] += count.min(known.get(ngram).copied().unwrap_or(0));
            }
        }
        counts
    }

    /// Adds another row's.
    pub fn add(&mut self, other: &Self) {
        for order in 0..ORDERS {
            self.matched[order] += other.matched[order];
            self.all[order] += other.all[order];
        }
        self.answer_tokens += other.answer_tokens;
        self.target_tokens += other.target_tokens;
    }

    /// 0 to 100.
    pub fn score(&self, short: ShortAnswers) -> f64 {
        if self.matched.iter().all(|count| *count == 0) {
            return 0.0;
        }
        let (mut logarithms, mut orders, mut smoothing) = (0.0, 0u32, 1.0);
        for (matched, all) in self.matched.iter().zip(self.all) {
            if all == 0 {
                break;
            }
            orders += 1;
            let precision = if *matched == 0 {
                smoothing *= 2.0;
                1.0 / (smoothing * all as f64)
            } else {
                *matched as f64 / all as f64
            };
            logarithms += (100.0 * precision).ln();
        }
        if (orders as usize) < ORDERS && short == ShortAnswers::Fail {
            return 0.0;
        }
        let (said, wanted) = (self.answer_tokens as f64, self.target_tokens as f64);
        let brevity = if said < wanted { (1.0 - wanted / said).exp() } else { 1.0 };
        brevity * (logarithms / f64::from(orders)).exp()
    }
}

fn ngrams<'a, 'b>(tokens: &'b [&'a str], order: usize) -> HashMap<&'b [&'a str], u64> {
    let mut counts = HashMap::new();
    for ngram in tokens.windows(order) {
        *counts.entry(ngram).or_insert(0) += 1;
    }
    counts
}

fn split(text: &str) -> Vec<&str> {
    text.split(is_space).filter(|token| !token.is_empty()).collect()
}

/// Python's idea of white space has four control characters more than Unicode's property.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Tokens of mteval-v13a, with any white space between them.
fn tokens(text: &str) -> String {
    let mut text = text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, character);
    }
    let mut spaced = vec![' '];
    for c in text.chars() {
        let alone = matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/');
        if alone { spaced.extend([' ', c, ' ']) } else { spaced.push(c) }
    }
    spaced.push(' ');
    let digit = |c: char| c.is_ascii_digit();
    let dot = |c: char| matches!(c, '.' | ',');
    // The points of numbers stay where they are: one rule for what is before a point, one for what is after it.
    let spaced = pairs(&spaced, |a, b| !digit(a) && dot(b), |a, b| [a, ' ', b, ' ']);
    let spaced = pairs(&spaced, |a, b| dot(a) && !digit(b), |a, b| [' ', a, ' ', b]);
    let spaced = pairs(&spaced, |a, b| digit(a) && b == '-', |a, b| [a, ' ', b, ' ']);
    spaced.into_iter().collect()
}

/// Replaces pairs from left to right, none of them overlapping.
fn pairs(text: &[char], wanted: impl Fn(char, char) -> bool, becomes: impl Fn(char, char) -> [char; 4]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = match after {
            [second, after @ ..] if wanted(*first, *second) => {
                out.extend(becomes(*first, *second));
                after
            }
            _ => {
                out.push(*first);
                after
            }
        };
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn points_inside_numbers_are_no_tokens() {
        let text = tokens("It's $3.50, x.5 and 5-10%...");
        assert_eq!(split(&text), ["It's", "$", "3.50", ",", "x", ".", "5", "and", "5", "-", "10", "%", ".", ".", "."]);
    }

    #[test]
    fn a_short_answer_scores_alone_but_not_as_a_set() {
        let counts = Counts::of("cat", "cat");
        assert!((counts.score(ShortAnswers::CountShorterOrders) - 100.0).abs() < 1e-9);
        assert_eq!(counts.score(ShortAnswers::Fail), 0.0);
    }
}
