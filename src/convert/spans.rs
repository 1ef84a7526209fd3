//! Where words begin and end in a text: what an answer may copy. Pure.

/// A text as JSON spells it, and where runs of its words may begin and end there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spans {
    /// The text as it stands between the quotes of a JSON string.
    pub spelled: String,
    /// Where words begin, in bytes, ascending.
    pub starts: Vec<usize>,
    /// Where words end, ascending.
    pub ends: Vec<usize>,
}

/// Signs around words that are not part of them.
const EDGES: &[char] =
    &['"', '\'', '“', '”', '‘', '’', '(', '[', '{', '<', ')', ']', '}', '>', ',', '.', '!', '?', ';', ':', '…', '-'];

impl Spans {
    /// The words of a cleaned text. A word is what stands between spaces, without the signs around it; in scripts without spaces every
    /// character is one. It may be left before an `'s`. The adapter is taught with the same borders (`models/recipe/convert_grammar.py`).
    pub fn of(text: &str) -> Self {
        let mut spans = Self { spelled: String::with_capacity(text.len() + 8), starts: Vec::new(), ends: Vec::new() };
        for (index, word) in text.split(' ').enumerate() {
            if index > 0 {
                spans.spelled.push(' ');
            }
            let inner = word.trim_matches(EDGES);
            let left = word.len() - word.trim_start_matches(EDGES).len();
            spell(&word[..left.min(word.len())], &mut spans.spelled);
            if !inner.is_empty() {
                spans.word(inner);
                spell(&word[left + inner.len()..], &mut spans.spelled);
            }
        }
        spans
    }

    fn word(&mut self, word: &str) {
        let owned = word.strip_suffix("'s").or_else(|| word.strip_suffix("’s")).filter(|owner| !owner.is_empty());
        self.starts.push(self.spelled.len());
        let mut before = None;
        for (at, c) in word.char_indices() {
            let is_border = before.is_some_and(|before| (is_sign(before) || is_sign(c)) && !is_mark(c) && before != '\u{200d}');
            if is_border {
                self.ends.push(self.spelled.len());
                self.starts.push(self.spelled.len());
            } else if owned.is_some_and(|owner| owner.len() == at) {
                self.ends.push(self.spelled.len());
            }
            let mut bytes = [0; 4];
            spell(c.encode_utf8(&mut bytes), &mut self.spelled);
            before = Some(c);
        }
        self.ends.push(self.spelled.len());
    }

    /// Whether there is nothing to copy.
    pub const fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }
}

/// Whether `piece` is a run of words of `text`, or two runs with a space between them, the second after the first.
pub fn is_made_of(text: &str, piece: &str) -> bool {
    if text.contains(piece) {
        return true;
    }
    piece.match_indices(' ').any(|(space, _)| {
        let (first, second) = (&piece[..space], &piece[space + 1..]);
        text.find(first).is_some_and(|at| text[at + first.len()..].contains(second))
    })
}

/// A character of a script without spaces.
const fn is_sign(c: char) -> bool {
    matches!(
        c,
        '\u{e00}'..='\u{eff}'
            | '\u{1000}'..='\u{109f}'
            | '\u{1780}'..='\u{17ff}'
            | '\u{3040}'..='\u{30ff}'
            | '\u{3400}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{3ffff}'
    )
}

/// Accents, joiners, colours of skin: part of what they follow.
const fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}')
}

/// As inside a JSON string (RFC 8259, section 7), the shortest way; cleaned texts have no control characters.
fn spell(text: &str, out: &mut String) {
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;
    use crate::convert::clean;

    /// The text with `[` where a run may begin and `]` where it may end.
    fn marked(text: &str) -> String {
        let spans = Spans::of(text);
        let mut out = String::new();
        for (index, c) in spans.spelled.char_indices() {
            if spans.ends.contains(&index) {
                out.push(']');
            }
            if spans.starts.contains(&index) {
                out.push('[');
            }
            out.push(c);
        }
        if spans.ends.contains(&spans.spelled.len()) {
            out.push(']');
        }
        out
    }

    #[test]
    fn words_have_borders_and_signs_around_them_are_left() {
        for (text, expected) in [
            ("call mum", "[call] [mum]"),
            ("call mum, at 6:30 p.m.", "[call] [mum], [at] [6:30] [p.m]."),
            ("it's sarah's half-day", "[it]'s] [sarah]'s] [half-day]"),
            ("say \"hi\" \\o", "[say] \\\"[hi]\\\" [\\\\o]"),
            ("你好 call", "[你][好] [call]"),
            ("e\u{301}t 👩\u{200d}👧!", "[e\u{301}t] [👩\u{200d}👧]!"),
            ("1,000 at 09.15 ...", "[1,000] [at] [09.15] ..."),
            ("", ""),
        ] {
            assert_eq!(marked(text), expected, "{text}");
        }
    }

    #[test]
    fn pieces_are_of_the_text() {
        assert!(is_made_of("remind me tomorrow to call mum at six", "tomorrow at six"));
        assert!(is_made_of("remind me tomorrow", "tomorrow"));
        assert!(!is_made_of("at six remind me tomorrow", "tomorrow at six"));
    }

    proptest! {
        #[test]
        fn every_word_is_there_once_and_in_order(text in any::<String>()) {
            let text = clean(&text);
            let spans = Spans::of(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&format!("\"{}\"", spans.spelled)).unwrap(), text);
            prop_assert!(spans.starts.is_sorted_by(|a, b| a < b) && spans.ends.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(spans.starts.is_empty(), spans.ends.is_empty());
            prop_assert!(spans.starts.iter().chain(&spans.ends).all(|at| spans.spelled.is_char_boundary(*at)));
        }
    }
}
