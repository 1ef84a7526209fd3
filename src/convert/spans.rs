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

/// What a character is to its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    /// Sticks together with others of its kind.
    Letter,
    Digit,
    /// A word of its own: scripts without spaces.
    Sign,
    /// Accents, joiners: part of what they follow.
    Mark,
    Other,
}

impl Spans {
    /// The words of a cleaned text. A word is letters and digits, with apostrophes inside it, and points, colons and the like
    /// between digits; signs beside it may be taken along or left.
    pub fn of(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut spans = Self { spelled: String::with_capacity(text.len() + 8), starts: Vec::new(), ends: Vec::new() };
        for index in 0..chars.len() {
            let is_border = index == 0 || border(&chars, index);
            let class = class(chars[index]);
            if is_border && class != Class::Space {
                spans.starts.push(spans.spelled.len());
            }
            spell(chars[index], &mut spans.spelled);
            let ends = index + 1 == chars.len() || border(&chars, index + 1);
            if ends && class != Class::Space {
                spans.ends.push(spans.spelled.len());
            }
        }
        spans
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

/// Whether a word may end before the character at `index` and another begin there.
fn border(chars: &[char], index: usize) -> bool {
    let (before, here) = (class(chars[index - 1]), class(chars[index]));
    let next = chars.get(index + 1).map_or(Class::Space, |c| class(*c));
    let earlier = index.checked_sub(2).map_or(Class::Space, |index| class(chars[index]));
    let is_word = |class| matches!(class, Class::Letter | Class::Digit);
    match (before, here) {
        (_, Class::Mark) => false,
        // What joins takes the next one along.
        (Class::Mark, _) if chars[index - 1] == '\u{200d}' => false,
        (Class::Mark, _) => here != Class::Letter && here != Class::Digit,
        (Class::Letter | Class::Digit, Class::Letter | Class::Digit) => false,
        (_, Class::Other) if joins(chars[index], before, next) && is_word(before) && is_word(next) => false,
        (Class::Other, _) if is_word(here) && joins(chars[index - 1], earlier, here) && is_word(earlier) => false,
        _ => true,
    }
}

/// Whether a sign between these two is inside a word.
fn joins(sign: char, before: Class, after: Class) -> bool {
    match sign {
        '\'' | '’' => true,
        '.' | ':' | ',' | '/' => before == Class::Digit && after == Class::Digit,
        _ => false,
    }
}

fn class(c: char) -> Class {
    match c {
        ' ' => Class::Space,
        c if c.is_ascii_digit() => Class::Digit,
        '\u{300}'..='\u{36f}' | '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}' => Class::Mark,
        '\u{e00}'..='\u{eff}'
        | '\u{1000}'..='\u{109f}'
        | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}' => Class::Sign,
        c if c.is_alphanumeric() => Class::Letter,
        c if c.is_whitespace() => Class::Space,
        _ => Class::Other,
    }
}

/// A character inside a JSON string (RFC 8259, section 7), the shortest way; cleaned texts have no control characters.
fn spell(c: char, out: &mut String) {
    if matches!(c, '"' | '\\') {
        out.push('\\');
    }
    out.push(c);
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
    fn words_have_borders_and_signs_may_be_left() {
        for (text, expected) in [
            ("call mum", "[call] [mum]"),
            ("call mum, at 6:30 p.m.", "[call] [mum][,] [at] [6:30] [p][.][m][.]"),
            ("it's sarah's half-day", "[it's] [sarah's] [half][-][day]"),
            ("say \"hi\" \\o", "[say] [\\\"][hi][\\\"] [\\\\][o]"),
            ("你好 call", "[你][好] [call]"),
            ("e\u{301}t 👩\u{200d}👧!", "[e\u{301}t] [👩\u{200d}👧][!]"),
            ("1,000 at 09.15", "[1,000] [at] [09.15]"),
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
