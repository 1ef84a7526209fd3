//! How byte-level vocabularies cut text into words before merging: the expressions that models use, and for ASCII text the same
//! cuts without an engine for expressions. Pure.

use serde_json::Value;

/// Llama 3's expression; Qwen2's is the same with single digits.
pub const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2's.
pub const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-2's.
pub const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Each digit by itself.
pub const DIGITS: &str = r"\p{N}";

/// A known way to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Splitting {
    /// [`GPT2`].
    Gpt2,
    /// [`LLAMA3`].
    Llama3,
    /// [`QWEN2`].
    Qwen2,
    /// [`DIGITS`], then [`GPT2`] on what is left.
    Smollm,
}

impl Splitting {
    /// The way of a `tokenizer.json`'s pre-tokenizer; `None` where it is another.
    pub fn recognise(pre_tokenizer: &Value) -> Option<Self> {
        let steps = match pre_tokenizer["pretokenizers"].as_array() {
            Some(steps) => steps.iter().collect(),
            None => vec![pre_tokenizer],
        };
        let mut patterns = Vec::new();
        for step in steps {
            match step["type"].as_str()? {
                "Split" if step["behavior"] == "Isolated" && step["invert"] == false => {
                    patterns.push(step["pattern"]["Regex"].as_str()?);
                }
                "Digits" if step["individual_digits"] == true => patterns.push(DIGITS),
                "ByteLevel" if step["add_prefix_space"] == false => {
                    if step["use_regex"] != false {
                        patterns.push(GPT2);
                    }
                }
                _ => return None,
            }
        }
        [Self::Gpt2, Self::Llama3, Self::Qwen2, Self::Smollm].into_iter().find(|splitting| splitting.patterns() == patterns)
    }

    /// Expressions applied one after another; each cuts what the one before left.
    pub const fn patterns(self) -> &'static [&'static str] {
        match self {
            Self::Gpt2 => &[GPT2],
            Self::Llama3 => &[LLAMA3],
            Self::Qwen2 => &[QWEN2],
            Self::Smollm => &[DIGITS, GPT2],
        }
    }

    /// The words of ASCII text, in order; together they are the text.
    pub fn words<'a>(self, text: &'a str, mut each: impl FnMut(&'a str)) {
        debug_assert!(text.is_ascii());
        let mut rest = text;
        while !rest.is_empty() {
            let length = match self {
                Self::Gpt2 => gpt2(rest.as_bytes()),
                Self::Llama3 => llama3(rest.as_bytes(), 3),
                Self::Qwen2 => llama3(rest.as_bytes(), 1),
                Self::Smollm => match rest.bytes().position(|byte| byte.is_ascii_digit()) {
                    Some(0) => 1,
                    // GPT-2's expression sees the text end before the digit.
                    Some(digit) => gpt2(&rest.as_bytes()[..digit]),
                    None => gpt2(rest.as_bytes()),
                },
            };
            let (word, after) = rest.split_at(length);
            each(word);
            rest = after;
        }
    }
}

/// `\s`
const fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

/// `[^\s\p{L}\p{N}]`
const fn is_mark(byte: u8) -> bool {
    !is_space(byte) && !byte.is_ascii_alphanumeric()
}

const fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Length of the run at the beginning.
fn run(text: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    text.iter().position(|byte| !belongs(*byte)).unwrap_or(text.len())
}

/// Length of the contraction ('s, 't, 're ...) at the beginning, 0 where there is none.
fn contraction(text: &[u8], letter: impl Fn(u8) -> u8) -> usize {
    let at = |index: usize| text.get(index).copied().map_or(0, &letter);
    match (at(0), at(1), at(2)) {
        (b'\'', b's' | b't' | b'm' | b'd', _) => 2,
        (b'\'', b'r' | b'v', b'e') | (b'\'', b'l', b'l') => 3,
        _ => 0,
    }
}

/// `\s+(?!\S)|\s+` on text that begins with a space: a run before a word leaves its last space to the word.
fn spaces(text: &[u8]) -> usize {
    match run(text, is_space) {
        length if length == text.len() || length == 1 => length,
        length => length - 1,
    }
}

/// Length of the first match of [`GPT2`]; the text is not empty.
fn gpt2(text: &[u8]) -> usize {
    let contraction = contraction(text, |letter| letter);
    if contraction > 0 {
        return contraction;
    }
    let space = usize::from(text[0] == b' ');
    let after = &text[space..];
    match after.first() {
        Some(byte) if byte.is_ascii_alphabetic() => space + run(after, |byte| byte.is_ascii_alphabetic()),
        Some(byte) if byte.is_ascii_digit() => space + run(after, |byte| byte.is_ascii_digit()),
        Some(byte) if is_mark(*byte) => space + run(after, is_mark),
        _ => spaces(text),
    }
}

/// Length of the first match of [`LLAMA3`], with so many digits together; the text is not empty.
fn llama3(text: &[u8], digits: usize) -> usize {
    let contraction = contraction(text, |letter| letter.to_ascii_lowercase());
    if contraction > 0 {
        return contraction;
    }
    let first = text[0];
    if first.is_ascii_alphabetic() {
        return run(text, |byte| byte.is_ascii_alphabetic());
    }
    if first.is_ascii_digit() {
        return run(text, |byte| byte.is_ascii_digit()).min(digits);
    }
    let second = text.get(1).copied();
    if !is_newline(first) && second.is_some_and(|byte| byte.is_ascii_alphabetic()) {
        return 1 + run(&text[1..], |byte| byte.is_ascii_alphabetic());
    }
    let space = usize::from(first == b' ');
    let marks = run(&text[space..], is_mark);
    if marks > 0 {
        return space + marks + run(&text[space + marks..], is_newline);
    }
    // A run of spaces up to its last line break; without one as in GPT-2.
    let length = run(text, is_space);
    match text[..length].iter().rposition(|byte| is_newline(*byte)) {
        Some(last) => last + 1,
        None => spaces(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::sync::LazyLock;

    use fancy_regex::Regex;
    use proptest::prelude::*;

    use super::*;

    static ALL: LazyLock<Vec<(Splitting, Vec<Regex>)>> = LazyLock::new(|| {
        let all = [Splitting::Gpt2, Splitting::Llama3, Splitting::Qwen2, Splitting::Smollm];
        let compiled = |splitting: Splitting| splitting.patterns().iter().map(|pattern| Regex::new(pattern).unwrap()).collect();
        all.map(|splitting| (splitting, compiled(splitting))).into()
    });

    /// By the expressions: matches and what lies between them.
    fn by_patterns<'a>(patterns: &[Regex], text: &'a str) -> Vec<&'a str> {
        let Some((pattern, others)) = patterns.split_first() else { return vec![text] };
        let mut words = Vec::new();
        let mut end = 0;
        for found in pattern.find_iter(text) {
            let found = found.unwrap();
            if end < found.start() {
                words.extend(by_patterns(others, &text[end..found.start()]));
            }
            words.extend(by_patterns(others, found.as_str()));
            end = found.end();
        }
        if end < text.len() {
            words.extend(by_patterns(others, &text[end..]));
        }
        words
    }

    fn check(text: &str) {
        for (splitting, patterns) in &*ALL {
            let mut words = Vec::new();
            splitting.words(text, |word| words.push(word));
            assert_eq!(words, by_patterns(patterns, text), "{splitting:?} {text:?}");
        }
    }

    #[test]
    fn every_two_and_three_characters_are_cut_as_by_the_expressions() {
        let of_each_kind = ['a', 'S', 'l', 'e', '1', ' ', '\n', '\r', '\t', '\'', '.', '\x0b', '\x1c', '\0', '_', '~'];
        for a in of_each_kind {
            for b in of_each_kind {
                for c in of_each_kind {
                    check(&format!("{a}{b}{c}"));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn ascii_is_cut_as_by_the_expressions(text in "[a-cSTREVMLDstrevmld'0-9 \n\r\t.,!-]{0,24}", any in "[\\x00-\\x7f]{0,16}") {
            check(&text);
            check(&any);
        }
    }
}
