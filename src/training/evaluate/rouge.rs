//! ROUGE-L as the package rouge-score computes it without stemming: words of a-z and 0-9 in lower case, longest common subsequence.
//! Lin 2004, section 3.1. Letters of other scripts are no words there, and so none here.

use super::metrics::Overlap;

/// Precision, recall and F1 of the longest common subsequence of words.
pub fn rouge_l(answer: &str, target: &str) -> Overlap {
    let (answer, target) = (answer.to_lowercase(), target.to_lowercase());
    let (said, wanted) = (words(&answer), words(&target));
    Overlap::of(longest_common_subsequence(&said, &wanted), said.len(), wanted.len())
}

fn words(text: &str) -> Vec<&str> {
    let apart = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit());
    text.split(apart).filter(|word| !word.is_empty()).collect()
}

/// Its length, in the memory of one row of the table.
fn longest_common_subsequence(a: &[&str], b: &[&str]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for left in a {
        let mut diagonal = 0;
        for (at, right) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if left == right { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}
