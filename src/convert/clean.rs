//! Takes out of a text what says nothing: hesitations, invisible characters, wide spaces. What is left is what spans are spans of.

/// Sounds of hesitation, their repeated letters written once.
const HESITATIONS: [&str; 8] = ["um", "uh", "uhm", "er", "erm", "hm", "m", "ah"];
/// Most words that are read of a text.
const MOST_WORDS: usize = 200;
/// Most bytes that are read of a text.
const MOST_BYTES: usize = 1600;

/// The text with single spaces, without control characters, marks of direction and hesitations. A comma goes with its hesitation; the
/// one before it, too, where it stands between two.
pub fn clean(text: &str) -> String {
    let visible: String = text.chars().filter_map(shown).collect();
    let mut words: Vec<&str> = Vec::new();
    for word in visible.split(' ').filter(|word| !word.is_empty()) {
        let after_number = words.last().is_some_and(|before| before.ends_with(|c: char| c.is_ascii_digit()));
        if !is_hesitation(word, after_number) {
            words.push(word);
        } else if word.ends_with(',')
            && let Some(before) = words.last_mut()
        {
            *before = before.strip_suffix(',').filter(|word| !word.is_empty()).unwrap_or(before);
        }
    }
    words.join(" ")
}

/// The part of a cleaned text that is read: all of it, or as many whole sentences, words or characters from its beginning as fit.
pub fn leading(text: &str) -> &str {
    let mut end = text.len();
    if let Some((after, _)) = text.match_indices(' ').nth(MOST_WORDS - 1) {
        end = end.min(after);
    }
    if end > MOST_BYTES {
        end = text.floor_char_boundary(MOST_BYTES);
        // Not in the middle of a word, where there are words.
        end = text[..end].rfind(' ').unwrap_or(end);
    }
    if end == text.len() {
        return text;
    }
    let cut = &text[..end];
    let sentence = cut.rmatch_indices(['.', '!', '?']).find(|(at, _)| cut[at + 1..].starts_with(' '));
    sentence.map_or(cut, |(at, _)| &cut[..=at])
}

/// The character that stands for this one; none for what is not seen.
fn shown(c: char) -> Option<char> {
    match c {
        // Marks of direction and order, byte order marks, soft hyphens and the like. Joiners stay: they make one picture of several.
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => None,
        c if c.is_whitespace() || c.is_control() => Some(' '),
        c => Some(c),
    }
}

fn is_hesitation(word: &str, after_number: bool) -> bool {
    let sound = word.trim_matches([',', '.', '-', '…']);
    // Five mm are millimetres; the ER is a place.
    if (after_number && sound.eq_ignore_ascii_case("mm")) || sound == "ER" || sound.len() < 2 {
        return false;
    }
    let mut once = String::with_capacity(sound.len());
    for c in sound.chars() {
        let c = c.to_ascii_lowercase();
        if !once.ends_with(c) {
            once.push(c);
        }
    }
    HESITATIONS.contains(&once.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hesitations_go_with_their_commas() {
        for (said, left) in [
            ("remind me to um call uh mum", "remind me to call mum"),
            ("Um, remind me to, erm, call mum", "remind me to call mum"),
            ("buy milk, um eggs", "buy milk, eggs"),
            ("ummm hmmm, ahh... set an alarm", "set an alarm"),
            ("buy 5 mm screws mm", "buy 5 mm screws"),
            ("take dad to the ER", "take dad to the ER"),
            ("i am at the museum", "i am at the museum"),
            ("um uh", ""),
            (", ,", ", ,"),
            (", um,", ","),
        ] {
            assert_eq!(clean(said), left, "{said}");
        }
    }

    #[test]
    fn what_is_not_seen_is_not_there() {
        assert_eq!(clean("  call\u{a0}\u{202e}mum\u{0}\n at\tsix \u{feff}"), "call mum at six");
        assert_eq!(clean("👩\u{200d}👧 call"), "👩\u{200d}👧 call");
    }

    #[test]
    fn long_texts_are_read_from_their_beginning() {
        let long = "call mum. ".repeat(300);
        let read = leading(clean(&long).as_str()).to_owned();
        assert!(read.ends_with("mum.") && read.split(' ').count() <= 200, "{read}");
        let word = "x".repeat(9000);
        assert_eq!(leading(&word).len(), 1600);
        assert_eq!(leading("call mum"), "call mum");
    }

    proptest! {
        #[test]
        fn cleaning_is_done_once_and_what_is_read_is_a_beginning(text in any::<String>()) {
            let cleaned = clean(&text);
            prop_assert!(!cleaned.contains("  ") && !cleaned.chars().any(char::is_control));
            prop_assert_eq!(cleaned.trim(), &cleaned);
            prop_assert!(cleaned.starts_with(leading(&cleaned)));
            prop_assert!(leading(&cleaned).len() <= 1600);
        }
    }
}
