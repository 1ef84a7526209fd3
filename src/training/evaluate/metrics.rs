//! What one answer is worth beside the target, and what a set of them is. Pure; the formulae are in docs/evaluation.md.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bleu::{Counts, ShortAnswers};
use super::rouge::rouge_l;
use super::score::row_score;

/// Precision, recall and their harmonic mean, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Overlap {
    /// Share of the answer that is in the target.
    pub precision: f64,
    /// Share of the target that is in the answer.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
}

impl Overlap {
    const FULL: Self = Self { precision: 1.0, recall: 1.0, f1: 1.0 };

    /// Of this many common words; nothing in common is 0.
    pub(super) fn of(common: usize, said: usize, wanted: usize) -> Self {
        if common == 0 {
            return Self::default();
        }
        let (precision, recall) = (common as f64 / said as f64, common as f64 / wanted as f64);
        Self { precision, recall, f1: 2.0 * precision * recall / (precision + recall) }
    }
}

/// What a target is, which decides what counts in a row's score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A JSON object or array: it is right or it is not.
    Json,
    /// At most [`SHORT_WORDS`] words: a label, a name, a number.
    Short,
    /// Anything longer, which can be said in many ways.
    Text,
}

/// Most words of a short target.
pub const SHORT_WORDS: usize = 5;

/// One answer beside its target.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RowMetrics {
    /// What the target is.
    pub kind: Kind,
    /// Whether the answer is the target; see [`exact`].
    pub exact: bool,
    /// Whether the answer is JSON; `None` where the target is not.
    pub json_valid: Option<bool>,
    /// Words in common, without their order.
    pub words: Overlap,
    /// Words in common, in order.
    pub rouge_l: Overlap,
    /// BLEU of the row alone, 0 to 100.
    pub bleu: f64,
    /// The row's score, 0 to 100.
    pub score: f64,
}

/// A set of answers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Metrics {
    /// Rows.
    pub rows: u64,
    /// Share of rows whose answer is the target.
    pub exact_match: f64,
    /// Mean of the rows' words in common.
    pub words: Overlap,
    /// Mean of the rows' ROUGE-L.
    pub rouge_l: Overlap,
    /// BLEU of the whole set, 0 to 100.
    pub bleu: f64,
    /// Tokens of all answers to tokens of all targets, as BLEU counts them; `None` without a token in the targets.
    pub length_ratio: Option<f64>,
    /// Share of valid JSON among the rows whose target is JSON; `None` without such rows.
    pub json_valid: Option<f64>,
    /// Mean of the rows' scores, 0 to 100.
    pub score: f64,
    /// Standard error of that mean.
    pub score_error: f64,
}

/// Sums up rows, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    bleu: Counts,
    rows: Vec<RowMetrics>,
}

impl Tally {
    /// Judges an answer and counts it.
    pub fn add(&mut self, answer: &str, target: &str) -> RowMetrics {
        let counts = Counts::of(answer, target);
        self.bleu.add(&counts);
        let wanted = structured(target);
        let kind = match &wanted {
            Some(_) => Kind::Json,
            None if words(target).len() <= SHORT_WORDS => Kind::Short,
            None => Kind::Text,
        };
        let mut row = RowMetrics {
            kind,
            exact: exact(answer, target),
            json_valid: wanted.map(|_| serde_json::from_str::<Value>(answer).is_ok()),
            words: overlap(answer, target),
            rouge_l: rouge_l(answer, target),
            bleu: counts.score(ShortAnswers::CountShorterOrders),
            score: 0.0,
        };
        row.score = row_score(&row);
        self.rows.push(row);
        row
    }

    /// The rows, in the order of their coming.
    pub fn rows(&self) -> &[RowMetrics] {
        &self.rows
    }

    /// What all rows together are worth.
    pub fn metrics(&self) -> Metrics {
        let rows = &self.rows;
        let mean = |value: &dyn Fn(&RowMetrics) -> f64| mean(rows.iter().map(value));
        let overlap = |of: &dyn Fn(&RowMetrics) -> Overlap| Overlap {
            precision: mean(&|row| of(row).precision),
            recall: mean(&|row| of(row).recall),
            f1: mean(&|row| of(row).f1),
        };
        let json: Vec<bool> = rows.iter().filter_map(|row| row.json_valid).collect();
        let scores: Vec<f64> = rows.iter().map(|row| row.score).collect();
        Metrics {
            rows: rows.len() as u64,
            exact_match: mean(&|row| f64::from(u8::from(row.exact))),
            words: overlap(&|row| row.words),
            rouge_l: overlap(&|row| row.rouge_l),
            bleu: self.bleu.score(ShortAnswers::Fail),
            length_ratio: (self.bleu.target_tokens > 0).then(|| self.bleu.answer_tokens as f64 / self.bleu.target_tokens as f64),
            json_valid: (!json.is_empty()).then(|| json.iter().filter(|valid| **valid).count() as f64 / json.len() as f64),
            score: mean(&|row| row.score),
            score_error: standard_error(&scores),
        }
    }
}

/// The mean; 0 of nothing.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0u64), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// Standard error of the mean (sample deviation by the root of the count); 0 of fewer than two values.
pub fn standard_error(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let (count, centre) = (values.len() as f64, mean(values.iter().copied()));
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    (squares / (count - 1.0) / count).sqrt()
}

/// Whether an answer is the target. Of a JSON object or array: the same value, whatever its white space and the order of its
/// keys. Of other text: the same characters, where white space at the ends does not count and any run of it inside is one space.
pub fn exact(answer: &str, target: &str) -> bool {
    match structured(target) {
        Some(wanted) => serde_json::from_str::<Value>(answer).is_ok_and(|said| said == wanted),
        None => answer.split_whitespace().eq(target.split_whitespace()),
    }
}

/// The target's value, if it is a JSON object or array.
fn structured(target: &str) -> Option<Value> {
    target.trim_start().starts_with(['{', '[']).then(|| serde_json::from_str(target).ok()).flatten()
}

/// Words in common, whatever their order, each as often as it is in both (as SQuAD counts them).
pub fn overlap(answer: &str, target: &str) -> Overlap {
    let (said, wanted) = (words(answer), words(target));
    if said.is_empty() && wanted.is_empty() {
        return Overlap::FULL;
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    wanted.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut common = 0;
    for word in &said {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    Overlap::of(common, said.len(), wanted.len())
}

/// Runs of letters, digits and underscores in lower case, Chinese and Japanese characters each by itself; a text without any
/// (signs, emoji) is its characters.
pub fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for c in lower.chars() {
        let ideograph = is_ideograph(c);
        let inside = !ideograph && (c.is_alphanumeric() || c == '_');
        match words.last_mut() {
            Some(word) if inside && open => word.push(c),
            _ if inside || ideograph => words.push(c.to_string()),
            _ => {}
        }
        open = inside;
    }
    if words.is_empty() {
        words = text.chars().filter(|c| !c.is_whitespace()).map(String::from).collect();
    }
    words
}

/// Of the scripts that put no space between words: kana and Han (the blocks of the Basic Multilingual Plane).
fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        rows: Vec<GoldenRow>,
        sets: Vec<GoldenSet>,
    }

    #[derive(Deserialize)]
    struct GoldenRow {
        answer: String,
        target: String,
        bleu: f64,
        rouge_l: [f64; 3],
        words: [f64; 3],
    }

    #[derive(Deserialize)]
    struct GoldenSet {
        first: usize,
        last: usize,
        bleu: f64,
        answer_tokens: u64,
        target_tokens: u64,
    }

    fn golden() -> Golden {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics/expected.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn same(ours: f64, theirs: f64, what: &str, row: &GoldenRow) {
        assert!((ours - theirs).abs() < 1e-9, "{what}: {ours} and {theirs} of {:?} and {:?}", row.answer, row.target);
    }

    #[test]
    fn rows_equal_sacrebleu_and_rouge_score() {
        for row in &golden().rows {
            let ours = Tally::default().add(&row.answer, &row.target);
            same(ours.bleu, row.bleu, "BLEU", row);
            for (what, ours, theirs) in [("ROUGE-L", ours.rouge_l, row.rouge_l), ("words", ours.words, row.words)] {
                same(ours.precision, theirs[0], what, row);
                same(ours.recall, theirs[1], what, row);
                same(ours.f1, theirs[2], what, row);
            }
        }
    }

    #[test]
    fn sets_equal_sacrebleu() {
        let golden = golden();
        for set in &golden.sets {
            let mut tally = Tally::default();
            for row in &golden.rows[set.first..set.last] {
                tally.add(&row.answer, &row.target);
            }
            let ours = tally.metrics();
            assert!((ours.bleu - set.bleu).abs() < 1e-9, "{}..{}: {} and {}", set.first, set.last, ours.bleu, set.bleu);
            let ratio = (set.target_tokens > 0).then(|| set.answer_tokens as f64 / set.target_tokens as f64);
            assert_eq!(ours.length_ratio, ratio);
        }
    }

    #[test]
    fn exact_is_about_values_in_json_and_about_words_in_text() {
        assert!(exact(" the  cat\nsat ", "the cat sat"));
        assert!(!exact("The cat sat", "the cat sat"));
        assert!(exact(r#"{ "b": [1, 2], "a": null }"#, r#"{"a":null,"b":[1,2]}"#));
        assert!(!exact(r#"{"a":null,"b":[2,1]}"#, r#"{"a":null,"b":[1,2]}"#));
        assert!(!exact("[1, 2", "[1, 2]"));
        // A target that only looks like JSON is text.
        assert!(exact("{name}", "{name}"));
        assert!(exact("", ""));
    }

    #[test]
    fn what_a_set_says_is_the_mean_of_its_rows() {
        let mut tally = Tally::default();
        tally.add(r#"{"a": 1}"#, r#"{"a":1}"#);
        tally.add("sorry", r#"{"a":2}"#);
        tally.add("yes", "yes");
        let metrics = tally.metrics();
        assert_eq!((metrics.rows, metrics.json_valid), (3, Some(0.5)));
        assert!((metrics.exact_match - 2.0 / 3.0).abs() < 1e-12);
        assert!((metrics.score - 200.0 / 3.0).abs() < 1e-9);
        assert!((metrics.score_error - 100.0 / 3.0).abs() < 1e-9);
        assert_eq!(Tally::default().metrics(), Metrics::default());
    }

    proptest! {
        #[test]
        fn everything_stays_in_its_range(answer in ".{0,80}", target in ".{0,80}") {
            let mut tally = Tally::default();
            let row = tally.add(&answer, &target);
            for share in [row.words, row.rouge_l].iter().flat_map(|o| [o.precision, o.recall, o.f1]) {
                prop_assert!((0.0..=1.0).contains(&share));
            }
            prop_assert!((0.0..=100.0 + 1e-9).contains(&row.bleu));
            prop_assert!((0.0..=100.0).contains(&row.score));
            let metrics = tally.metrics();
            prop_assert!(metrics.score.is_finite() && metrics.bleu.is_finite());
        }

        #[test]
        fn the_target_itself_is_worth_everything(target in ".{0,80}") {
            let row = Tally::default().add(&target, &target);
            prop_assert!(row.exact);
            prop_assert_eq!(row.score, 100.0);
            prop_assert_eq!(row.words.f1, 1.0);
        }

        #[test]
        fn an_answer_and_its_target_share_what_they_share(a in "[a-d ]{0,30}", b in "[a-d ]{0,30}") {
            let (there, back) = (overlap(&a, &b), overlap(&b, &a));
            prop_assert_eq!((there.precision, there.recall), (back.recall, back.precision));
        }
    }
}
