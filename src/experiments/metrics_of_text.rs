//! What can be seen of an answer by looking at its text: is it the JSON that it should be, does it refuse, does it repeat itself.
//! Pure and quick; knows no arm. These are signs, not judgements: they are compared between arms, and both are read the same way.

use std::collections::HashMap;

use super::outcome::Ended;

/// Words of a phrase whose repetition counts, and how often it must be there.
const PHRASE: usize = 6;
const TIMES: usize = 4;
/// The same for texts without spaces: characters.
const RUN: usize = 24;
/// Only the beginning of an answer is looked at for a refusal, characters.
const OPENING: usize = 240;

/// How refusals begin, in lower case and with plain apostrophes. (English; other languages are not looked at.)
const REFUSALS: [&str; 26] = [
    "i can't help with",
    "i can't assist",
    "i can't do that",
    "i can't provide",
    "i can't comply",
    "i can't answer",
    "i cannot help with",
    "i cannot assist",
    "i cannot provide",
    "i cannot comply",
    "i cannot answer",
    "i cannot fulfill",
    "i can't fulfill",
    "i am unable to",
    "i'm unable to",
    "i am not able to",
    "i'm not able to",
    "i won't be able to",
    "i will not be able to",
    "i must decline",
    "i have to decline",
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "sorry, i can't",
    "as an ai language model, i",
    "it would not be appropriate for me",
];

/// Whether an answer that should be JSON is; `None` where it should not, or was cut off. One that begins like an object or a list
/// (also in a fence) should.
pub fn is_valid_json(text: &str, ended: Ended) -> Option<bool> {
    let text = text.trim();
    let fenced = text.strip_prefix("```json").or_else(|| text.strip_prefix("```JSON"));
    let inner = match fenced {
        Some(rest) => rest.trim_end().strip_suffix("```").unwrap_or(rest).trim(),
        None => text,
    };
    let mut characters = inner.chars().filter(|character| !character.is_whitespace());
    let looks = match (characters.next(), characters.next()) {
        (Some('{'), second) => matches!(second, None | Some('"' | '}' | '\'')),
        (Some('['), second) => matches!(second, None | Some('"' | ']' | '{' | '[' | '-' | '0'..='9')),
        _ => fenced.is_some(),
    };
    let reached_limit = ended == Ended::Cut || text.len() >= super::outcome::MAX_TEXT - 4;
    (looks && !reached_limit).then(|| serde_json::from_str::<serde::de::IgnoredAny>(inner).is_ok())
}

/// Whether it refuses in its first sentences.
pub fn is_refusal(text: &str) -> bool {
    let plain = |character: char| if matches!(character, '\u{2019}' | '\u{2bc}' | '\u{ff07}') { '\'' } else { character };
    let opening: String = text.trim_start().chars().take(OPENING).map(plain).flat_map(char::to_lowercase).collect();
    REFUSALS.iter().any(|phrase| opening.contains(phrase))
}

/// Whether it goes round in circles: a phrase of six words four times, or, without spaces, a run of characters.
pub fn is_repetitive(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    // Languages that are written without spaces have very long words.
    let spaced = text.len() <= 24 * words.len();
    if spaced { comes_often(&words, PHRASE) } else { comes_often(&text.chars().collect::<Vec<_>>(), RUN) }
}

/// Whether any `length` things in a row come [`TIMES`] times, not counting those that overlap.
fn comes_often<T: std::hash::Hash + Eq>(things: &[T], length: usize) -> bool {
    let mut seen: HashMap<&[T], (usize, usize)> = HashMap::new();
    for (at, phrase) in things.windows(length).enumerate() {
        let (times, free_from) = seen.entry(phrase).or_insert((0, 0));
        if at >= *free_from {
            *times += 1;
            *free_from = at + length;
            if *times >= TIMES {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn json_is_judged_where_an_answer_looks_like_it() {
        let whole = |text| is_valid_json(text, Ended::Whole);
        assert_eq!(whole(r#" {"a": [1, 2]} "#), Some(true));
        assert_eq!(whole("```json\n{\"a\": 1}\n```"), Some(true));
        assert_eq!(whole("[1, 2,]"), Some(false));
        assert_eq!(whole("{\"a\": 1"), Some(false));
        assert_eq!(whole("{\"a\": 1} and more"), Some(false));
        assert_eq!(whole("```json\nnothing"), Some(false));
        for text in ["", "Hello {name}", "{name}, hello", "[citation needed]", "42", "\"text\""] {
            assert_eq!(whole(text), None, "{text}");
        }
        assert_eq!(is_valid_json("{\"a\": 1", Ended::Cut), None);
    }

    #[test]
    fn refusals_are_seen_at_the_beginning_only() {
        assert!(is_refusal("I\u{2019}m sorry, but I can\u{2019}t help with that request."));
        assert!(is_refusal("Unfortunately, I am unable to open the file."));
        assert!(!is_refusal("You can't assist the engine while it is cold."));
        assert!(!is_refusal(&format!("{} I can't help with", "word ".repeat(100))));
    }

    #[test]
    fn circles_are_seen_and_lists_are_not() {
        assert!(is_repetitive(&"the cat sat on the mat and ".repeat(4)));
        assert!(!is_repetitive("the cat sat on the mat, and then the dog did, and then the bird did"));
        assert!(!is_repetitive("1 2 3 1 2 3 1 2 3"));
        assert!(is_repetitive(&"今日はとても良い天気ですねそうですねはいその通りです".repeat(5)));
        assert!(is_repetitive(&"a".repeat(400)));
        assert!(!is_repetitive(""));
    }
}
