//! Trouble with characters: bytes that are no UTF-8, NUL, text that was decoded wrongly once. Finds it, names it, undoes it.

use std::borrow::Cow;

/// What Windows-1252 has from 0x80 to 0x9F; 0 where it has nothing.
const WINDOWS_1252: [u32; 32] = [
    0x20ac, 0, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0, 0x017d, 0, 0, 0x2018,
    0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0, 0x017e, 0x0178,
];

/// The bytes as text, from Windows-1252: what a file that is no UTF-8 most often is.
pub(super) fn from_windows_1252(bytes: &[u8]) -> String {
    let character = |byte: u8| match byte {
        0x80..=0x9f => char::from_u32(WINDOWS_1252[usize::from(byte - 0x80)]).filter(|c| *c != '\0').unwrap_or('\u{fffd}'),
        _ => char::from(byte),
    };
    bytes.iter().map(|byte| character(*byte)).collect()
}

/// The byte of a character in Windows-1252.
fn windows_1252(c: char) -> Option<u8> {
    let code = u32::from(c);
    if let Some(place) = WINDOWS_1252.iter().position(|have| *have == code && code != 0) {
        return u8::try_from(0x80 + place).ok();
    }
    // What has no place in the code page stands for itself, as browsers have it.
    u8::try_from(code).ok()
}

/// What is wrong with the characters of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Control characters other than tabs and line breaks.
    Control,
    /// U+FFFD: a character was lost before.
    Replacement,
    /// UTF-8 that was read as Windows-1252 (`Ã©` for `é`).
    Mojibake,
}

impl Trouble {
    /// In words.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Control => "control characters",
            Self::Replacement => "replacement characters (U+FFFD): text that was lost in an earlier conversion",
            Self::Mojibake => "UTF-8 that was read as Windows-1252 once (like \"Ã©\" for \"é\")",
        }
    }
}

const fn is_stray_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}')
}

/// The first trouble of a text.
pub(super) fn trouble(text: &str) -> Option<Trouble> {
    if text.contains(is_stray_control) {
        return Some(Trouble::Control);
    }
    if text.is_ascii() {
        return None;
    }
    if text.contains('\u{fffd}') {
        return Some(Trouble::Replacement);
    }
    matches!(undo(text), Cow::Owned(_)).then_some(Trouble::Mojibake)
}

/// The text without control characters and with wrong decoding undone.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    let undone = undo(text);
    if undone.contains(is_stray_control) {
        return Cow::Owned(undone.chars().filter(|c| !is_stray_control(*c)).collect());
    }
    undone
}

/// Each run of characters that is well-formed UTF-8 when written in Windows-1252 becomes what it was.
fn undo(text: &str) -> Cow<'_, str> {
    // The first byte of a character of several is one of these in Windows-1252.
    if !text.contains(['Â', 'Ã', 'â', 'ð']) {
        return Cow::Borrowed(text);
    }
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let mut changed = false;
    while at < characters.len() {
        if let Some((c, used)) = sequence(&characters[at..]) {
            out.push(c);
            at += used;
            changed = true;
        } else {
            out.push(characters[at]);
            at += 1;
        }
    }
    if changed { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

/// A character of two to four bytes, each of which was read as a character of its own.
fn sequence(characters: &[char]) -> Option<(char, usize)> {
    // Only the beginnings of Latin-1's letters, of punctuation and of emoji: the others are letters that stand before quotation
    // marks and hard spaces in sound text ("CAFÉ »").
    let length = match windows_1252(*characters.first()?)? {
        0xc2 | 0xc3 => 2,
        0xe2 => 3,
        0xf0 => 4,
        _ => return None,
    };
    let bytes: Vec<u8> = characters.get(..length)?.iter().map(|c| windows_1252(*c)).collect::<Option<_>>()?;
    if length > 2 && !(0x80..=0x9f).contains(&bytes[1]) {
        return None;
    }
    let c = std::str::from_utf8(&bytes).ok()?.chars().next()?;
    // The C1 controls are nobody's text.
    (!c.is_control()).then_some((c, length))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wrong_decoding_is_found_and_undone() {
        for (wrong, right) in [("cafÃ©", "café"), ("itâ€™s", "it’s"), ("GrÃ¶ÃŸe", "Größe"), ("ðŸ˜€", "😀")]
        {
            assert_eq!(trouble(wrong), Some(Trouble::Mojibake), "{wrong}");
            assert_eq!(clean(wrong), right);
        }
        for right in
            ["café", "it’s", "Größe", "naïve Ünïcödé", "日本語", "Ã", "CAFÉ\u{a0}»", "café\u{a0}».", "100 €", "plain\ttext\n"]
        {
            assert_eq!(trouble(right), None, "{right}");
            assert_eq!(clean(right), right);
        }
    }

    #[test]
    fn control_characters_are_found_and_left_out() {
        assert_eq!(trouble("a\0b"), Some(Trouble::Control));
        assert_eq!(clean("a\0b\u{7f}c\td"), "abc\td");
        assert_eq!(trouble("a\u{fffd}"), Some(Trouble::Replacement));
    }

    proptest! {
        #[test]
        fn what_was_read_wrongly_once_comes_back(text in "[a-zà-öø-ÿ–“”😀-😎 ]{0,20}") {
            prop_assume!(trouble(&text).is_none());
            let wrong = from_windows_1252(text.as_bytes());
            // Bytes without a character in the code page are lost.
            prop_assume!(!wrong.contains('\u{fffd}'));
            prop_assert_eq!(clean(&wrong).into_owned(), text);
        }
    }
}
