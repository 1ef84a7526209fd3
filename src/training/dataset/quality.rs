//! The score of a row: 100 less what is wrong with it. The table here is the formula; `docs/datasets.md` repeats it.

use super::digest::hash;

/// What a row can lose points for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Duplicate,
    NearDuplicate,
    Characters,
    Truncated,
    Lost,
    Repetitive,
    Placeholder,
    Echo,
    SpecialTokens,
    ShortInput,
    LongOutput,
    Ratio,
}

impl Fault {
    /// Points, and in words.
    pub(super) const fn costs(self) -> (u8, &'static str) {
        match self {
            Self::Lost => (100, "nothing to learn within the context: -100"),
            Self::Duplicate => (40, "was there before: -40"),
            Self::NearDuplicate => (20, "was nearly there before: -20"),
            Self::Characters => (20, "damaged characters: -20"),
            Self::Truncated => (20, "longer than the context: -20"),
            Self::Repetitive => (20, "the answer repeats itself: -20"),
            Self::Placeholder => (20, "the answer holds a placeholder: -20"),
            Self::Echo => (20, "the answer is the input: -20"),
            Self::SpecialTokens => (15, "text of special tokens: -15"),
            Self::ShortInput => (10, "short input: -10"),
            Self::LongOutput => (10, "long answer: -10"),
            Self::Ratio => (5, "input and answer of very different length: -5"),
        }
    }
}

/// 100 less the points of each fault, and not under 0.
pub(super) fn score(faults: &[Fault]) -> u8 {
    faults.iter().fold(100, |score: u8, fault| score.saturating_sub(fault.costs().0))
}

/// What is wrong with an answer as a text.
pub(super) fn answer_fault(input: &str, answer: &str) -> Option<Fault> {
    let (input, answer) = (input.trim(), answer.trim());
    if answer.len() > 20 && input == answer {
        return Some(Fault::Echo);
    }
    if has_placeholder(answer) {
        return Some(Fault::Placeholder);
    }
    is_repetitive(answer).then_some(Fault::Repetitive)
}

/// Texts that stand where an answer should have been written.
fn has_placeholder(answer: &str) -> bool {
    const PLACEHOLDERS: [&str; 7] = ["lorem ipsum", "[insert", "<insert", "your answer here", "todo:", "xxxxx", "[your "];
    let small = answer.to_lowercase();
    PLACEHOLDERS.iter().any(|placeholder| small.contains(placeholder))
        || matches!(small.as_str(), "n/a" | "tbd" | "todo" | "null" | "nan" | "...")
}

/// Whether fewer than six tenths of the runs of three words are different ones; for answers of 30 words and more.
fn is_repetitive(answer: &str) -> bool {
    let words: Vec<u64> = answer.split_whitespace().map(|word| hash(word.as_bytes())).collect();
    if words.len() < 30 {
        return false;
    }
    let runs: std::collections::HashSet<&[u64]> = words.windows(3).collect();
    runs.len() * 10 < (words.len() - 2) * 6
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn answers_that_teach_nothing_are_told() {
        assert_eq!(answer_fault("q", &"so it goes on and on ".repeat(20)), Some(Fault::Repetitive));
        assert_eq!(answer_fault("q", "TODO: write this"), Some(Fault::Placeholder));
        assert_eq!(answer_fault("q", "N/A"), Some(Fault::Placeholder));
        assert_eq!(answer_fault("the same long text twice", "the same long text twice "), Some(Fault::Echo));
        assert_eq!(answer_fault("5", "5"), None);
        let poem: Vec<String> = (0..200).map(|n| format!("word{n}")).collect();
        assert_eq!(answer_fault("q", &poem.join(" ")), None);
    }

    #[test]
    fn a_score_is_never_under_nothing() {
        assert_eq!(score(&[]), 100);
        assert_eq!(score(&[Fault::Duplicate, Fault::ShortInput]), 50);
        assert_eq!(score(&[Fault::Lost, Fault::Duplicate]), 0);
    }
}
