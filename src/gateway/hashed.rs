//! An embedding without a model: counts of words and of their parts, hashed into a few places. Pure; the same everywhere.
//!
//! Feature hashing (Weinberger, Dasgupta, Langford, Smola, Attenberg 2009, "Feature Hashing for Large Scale Multitask Learning"):
//! each feature has a place and a sign by its hash, so that what meets in one place cancels on average. Features are words, pairs
//! of neighbouring words, and runs of 3 to 5 characters of each word between its ends (Bojanowski, Grave, Joulin, Mikolov 2017,
//! "Enriching Word Vectors with Subword Information"), so that words that share a stem are near each other. A feature counts by the
//! square root of how often it is there.

use std::collections::BTreeMap;

/// The model's name, with the length of its vectors.
pub const NAME: &str = "hash-embedding-256";
/// That length.
pub(super) const PLACES: usize = 256;

/// Words of a text, at most.
pub const CONTEXT: usize = 8192;

/// What a word weighs, beside 1 for all its parts together, and a pair of words.
const WORD: f64 = 1.0;
const PAIR: f64 = 0.5;
/// Lengths of parts, characters.
const PARTS: std::ops::RangeInclusive<usize> = 3..=5;
/// Parts of longer words are not looked at: what has no spaces for so long has no stem.
const LONGEST_WORD: usize = 64;

/// Words of a text, in small letters: runs of letters and digits, and runs of other visible characters.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last = None;
    for character in text.chars() {
        let kind = kind(character);
        if kind.is_some() {
            if kind != last {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.extend(character.to_lowercase());
            }
        }
        last = kind;
    }
    words
}

/// What a character is a part of: a word of letters and digits, one of other signs, or none.
fn kind(character: char) -> Option<bool> {
    (!character.is_whitespace() && !character.is_control()).then(|| character.is_alphanumeric())
}

/// How many words a text has, which is what it costs. Makes none of them.
pub(super) fn count(text: &str) -> usize {
    let mut last = None;
    let begins = |character: &char| {
        let kind = kind(*character);
        std::mem::replace(&mut last, kind) != kind && kind.is_some()
    };
    text.chars().filter(begins).count().max(1)
}

/// The vector of a text, of length 1.
pub(super) fn embed(text: &str, places: usize) -> Vec<f32> {
    let words = words(text);
    let mut features: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    let mut add = |kind: u8, parts: &[&str], weight: f64| {
        let entry = features.entry(hash(kind, parts)).or_insert((0.0, weight));
        entry.0 += 1.0;
        entry.1 = entry.1.max(weight);
    };
    for (index, word) in words.iter().enumerate() {
        add(b'w', &[word], WORD);
        if let Some(next) = words.get(index + 1) {
            add(b'p', &[word, next], PAIR);
        }
        let framed = format!("<{word}>");
        let starts: Vec<usize> = framed.char_indices().map(|(at, _)| at).chain([framed.len()]).collect();
        if !word.starts_with(char::is_alphanumeric) || starts.len() > LONGEST_WORD + 3 {
            continue;
        }
        let parts: Vec<&str> = PARTS
            .flat_map(|length| starts.windows(length + 1).map(|window| &framed[window[0]..window[window.len() - 1]]))
            .collect();
        let weight = (1.0 / parts.len().max(1) as f64).sqrt();
        parts.iter().for_each(|part| add(b'c', &[part], weight));
    }
    let mut sums = vec![0.0f64; places];
    let mut put = |hash: u64, value: f64| {
        // The highest bit is the sign, the others say where.
        let place = usize::try_from((hash >> 1) % places.max(1) as u64).unwrap_or(0);
        if let Some(sum) = sums.get_mut(place) {
            *sum += if hash & 1 == 0 { value } else { -value };
        }
    };
    features.iter().for_each(|(hash, (count, weight))| put(*hash, count.sqrt() * weight));
    if sums.iter().all(|sum| *sum == 0.0) {
        // A text without words, or of words that cancel each other, is somewhere, too.
        if let Some(first) = sums.first_mut() {
            *first = 1.0;
        }
    }
    super::embeddings::unit(&sums)
}

/// Fowler, Noll and Vo's hash, 1a, with SplitMix64's finish, so that low bits depend on all.
fn hash(kind: u8, parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    for byte in std::iter::once(kind).chain(bytes) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn near(a: &str, b: &str) -> f32 {
        embed(a, PLACES).iter().zip(embed(b, PLACES)).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn texts_with_common_words_and_stems_are_nearer() {
        let same = near("Remind me to call mum tomorrow", "remind me to call Mum, tomorrow!");
        let stems = near("Remind me to call mum tomorrow", "reminder: calling mum");
        let other = near("Remind me to call mum tomorrow", "The stock market fell sharply");
        assert!(same > 0.8 && same > stems && stems > other + 0.15 && other < 0.25, "{same} {stems} {other}");
        assert!(near("straße", "STRASSE") < near("straße", "Straße"), "letters are made small, not folded");
    }

    /// Vectors are kept in indexes: they never change.
    #[test]
    fn vectors_are_what_they_were() {
        let vector = embed("Call mum.", 8);
        let written: Vec<String> = vector.iter().map(|value| format!("{value:.4}")).collect();
        assert_eq!(written, ["0.3727", "-0.4189", "0.3351", "0.5026", "0.2052", "0.4565", "0.2052", "-0.1675"]);
        assert_eq!((count("Call mum."), count(" "), count("a-b")), (3, 1, 3));
    }

    proptest! {
        #[test]
        fn every_text_has_a_vector_of_length_one(text in "\\PC{0,40}", places in 1usize..300) {
            let vector = embed(&text, places);
            let norm: f32 = vector.iter().map(|value| value * value).sum();
            prop_assert!(vector.len() == places && (norm - 1.0).abs() < 1e-5, "{norm}");
            prop_assert_eq!(vector, embed(&text, places));
            prop_assert_eq!(count(&text), words(&text).len().max(1));
        }
    }
}
