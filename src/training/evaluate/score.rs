//! One number, 0 to 100, for a row and for a set, with a judge's opinion or without. Pure; the reasons are in docs/evaluation.md.

use super::metrics::{Kind, RowMetrics};

/// What a row is worth, 0 to 100: everything if the answer is the target; else less, by what the target is.
///
/// | target | score of an answer that is not exact |
/// | --- | --- |
/// | JSON | 30 x F1 of words, + 10 if it is JSON |
/// | short | 30 x F1 of words |
/// | text | 40 x ROUGE-L + 40 x F1 of words + 20 x BLEU / 100 |
pub fn row_score(row: &RowMetrics) -> f64 {
    if row.exact {
        return 100.0;
    }
    let score = match row.kind {
        Kind::Json => 30.0 * row.words.f1 + if row.json_valid == Some(true) { 10.0 } else { 0.0 },
        Kind::Short => 30.0 * row.words.f1,
        Kind::Text => 40.0 * row.rouge_l.f1 + 40.0 * row.words.f1 + 0.2 * row.bleu,
    };
    score.clamp(0.0, 100.0)
}

/// The overall score of a set: the mean of its rows' scores and, where a judge was asked, of that and the judge's mean (both 0 to
/// 100), half each.
pub fn overall(rows: f64, judge: Option<f64>) -> f64 {
    judge.map_or(rows, |judge| f64::midpoint(rows, judge)).clamp(0.0, 100.0)
}
