//! Texts that are nearly the same: MinHash over shingles of three words, looked up in bands (Broder 1997; Leskovec et al., Mining of
//! Massive Datasets, 3.4). The memory has an upper limit, whatever is added.

use super::digest::{hash, mix};

/// Hashes of a signature: their equal share estimates the share of shingles that two texts have in common.
const HASHES: usize = 32;
/// Bands: texts with one equal band are compared.
const BANDS: usize = 8;
const BAND: usize = HASHES / BANDS;
/// Equal hashes from which on two texts are nearly the same: four fifths of their shingles are in both.
const ALIKE: usize = 26;
/// Texts that are remembered; a later one takes the place of the one that was added this many before it.
const REMEMBERED: usize = 1 << 20;
/// Places in a table of one band at the beginning.
const FEW: usize = 1 << 10;

/// Signatures of texts, and where to find one that has a band in common. At most 32 + 8 * 8 bytes for each of [`REMEMBERED`] texts.
pub(super) struct Near {
    factors: [(u64, u64); HASHES],
    /// The low byte of each hash; one that is equal by chance is one in 256.
    signatures: Vec<[u8; HASHES]>,
    /// Texts that were added.
    added: u64,
    /// For each band: hash of the band and text, at the place that the hash says. Whoever comes later to a place has it.
    tables: [Vec<(u32, u32)>; BANDS],
}

/// A text's hashes.
pub(super) struct Signature {
    bytes: [u8; HASHES],
    bands: [u64; BANDS],
}

/// Nobody.
const EMPTY: (u32, u32) = (0, u32::MAX);

impl Near {
    pub(super) fn new() -> Self {
        let mut factors = [(0, 0); HASHES];
        for (number, factor) in (1_u64..).zip(&mut factors) {
            // Odd factors, so that no bit of a shingle's hash is lost.
            *factor = (mix(number) | 1, mix(number << 32));
        }
        Self { factors, signatures: Vec::new(), added: 0, tables: std::array::from_fn(|_| vec![EMPTY; FEW]) }
    }

    pub(super) fn signature(&self, text: &str) -> Signature {
        let mut least = [u32::MAX; HASHES];
        shingles(text, |shingle| {
            for (least, (factor, term)) in least.iter_mut().zip(&self.factors) {
                // The high half.
                let hashed = (shingle.wrapping_mul(*factor).wrapping_add(*term) >> 32) as u32;
                *least = (*least).min(hashed);
            }
        });
        let bands = std::array::from_fn(|band| {
            least[band * BAND..][..BAND].iter().fold(band as u64, |folded, value| mix(folded.rotate_left(23) ^ u64::from(*value)))
        });
        Signature { bytes: least.map(|value| value.to_le_bytes()[0]), bands }
    }

    /// The number of a text that is nearly the same.
    pub(super) fn find(&self, signature: &Signature) -> Option<u64> {
        let mut best: Option<(usize, u64)> = None;
        for (table, band) in self.tables.iter().zip(signature.bands) {
            let (tag, place) = placed(band, table.len());
            let (have, number) = table[place];
            let Some(number) = self.alive(number).filter(|_| have == tag) else { continue };
            let other = &self.signatures[slot(number)];
            let equal = other.iter().zip(&signature.bytes).filter(|(a, b)| a == b).count();
            if equal >= ALIKE
                && best.is_none_or(|(most, first)| (equal, std::cmp::Reverse(number)) > (most, std::cmp::Reverse(first)))
            {
                best = Some((equal, number));
            }
        }
        best.map(|(_, number)| number)
    }

    /// Adds a text; its number is how many were added before.
    pub(super) fn add(&mut self, signature: &Signature) {
        let number = self.added;
        self.added += 1;
        if self.signatures.len() < REMEMBERED {
            self.signatures.push(signature.bytes);
        } else {
            self.signatures[slot(number)] = signature.bytes;
        }
        for (table, band) in self.tables.iter_mut().zip(signature.bands) {
            if self.signatures.len() > table.len() / 2 && table.len() < REMEMBERED {
                grow(table);
            }
            let (tag, place) = placed(band, table.len());
            table[place] = (tag, u32::try_from(number).unwrap_or(u32::MAX));
        }
    }

    /// The number, where its signature is still there.
    fn alive(&self, number: u32) -> Option<u64> {
        let number = u64::from(number);
        (number < self.added && self.added - number <= REMEMBERED as u64).then_some(number)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "less than the number of places")]
const fn slot(number: u64) -> usize {
    (number % REMEMBERED as u64) as usize
}

/// What a table keeps of a band's hash, and its place in a table of so many places.
#[expect(clippy::cast_possible_truncation, reason = "halves")]
const fn placed(band: u64, places: usize) -> (u32, usize) {
    let tag = band as u32;
    (tag, tag as usize & (places - 1))
}

/// Twice the places.
fn grow(table: &mut Vec<(u32, u32)>) {
    let mut larger = vec![EMPTY; table.len() * 2];
    for entry in table.iter().filter(|(_, number)| *number != u32::MAX) {
        let place = entry.0 as usize & (larger.len() - 1);
        larger[place] = *entry;
    }
    *table = larger;
}

/// Hashes of the shingles of a text: three words in a row, in small letters and without marks; three characters where a text has no
/// spaces to tell words by.
fn shingles(text: &str, mut each: impl FnMut(u64)) {
    let mut last = [0_u64; 3];
    let mut count = 0_usize;
    let mut add = |unit: u64| {
        last = [last[1], last[2], unit];
        count += 1;
        if count >= 3 {
            each(mix(last[0].rotate_left(42) ^ last[1].rotate_left(21) ^ last[2]));
        }
    };
    let spaces = text.bytes().filter(u8::is_ascii_whitespace).count();
    if spaces * 20 < text.chars().count() && text.len() > 60 {
        text.chars().filter(|c| c.is_alphanumeric()).for_each(|c| add(mix(u64::from(u32::from(c)))));
    } else {
        let mut word = String::new();
        for piece in text.split(|c: char| !c.is_alphanumeric()).filter(|piece| !piece.is_empty()) {
            word.clear();
            word.extend(piece.chars().flat_map(char::to_lowercase));
            add(hash(word.as_bytes()));
        }
    }
    // Of one or two words: what there is.
    if count < 3 {
        each(mix(last[1].rotate_left(21) ^ last[2]));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    const TEXT: &str = "The quick brown fox jumps over the lazy dog while the old farmer watches from his porch and thinks about the \
                        harvest that will come in autumn when the days are short and the nights are long and cold once again";

    fn alike(one: &str, other: &str) -> bool {
        let mut near = Near::new();
        let signature = near.signature(one);
        near.add(&signature);
        near.find(&near.signature(other)).is_some()
    }

    #[test]
    fn nearly_the_same_is_found_and_the_rest_is_not() {
        assert!(alike(TEXT, &TEXT.to_uppercase()));
        assert!(alike(TEXT, &TEXT.replace("brown", "red")));
        assert!(alike(TEXT, &TEXT.replace(", ", " ").replace("autumn", "Autumn!")));
        assert!(!alike(TEXT, &TEXT.split(' ').rev().collect::<Vec<_>>().join(" ")));
        assert!(!alike(TEXT, "Something else altogether, about ships and the sea and what lies beyond the horizon."));
        assert!(!alike("yes", "no"));
        assert!(alike("Yes!", "yes"));
        assert!(alike(
            &"東京は日本の首都であり世界最大の都市の一つです。".repeat(3),
            &("東京は日本の首都であり世界最大の都市の一つです。".repeat(3) + "そう")
        ));
    }

    #[test]
    fn the_first_of_them_is_named_also_among_many() {
        let mut near = Near::new();
        let text =
            |n: u64| format!("row {} speaks of {} and then of {} and ends with {}", mix(n), mix(n + 1), mix(n + 2), mix(n + 3));
        for n in 0..20_000 {
            let signature = near.signature(&text(n * 10));
            assert_eq!(near.find(&signature), None, "{n}");
            near.add(&signature);
        }
        let found = (0..20_000).filter(|n| near.find(&near.signature(&text(n * 10))) == Some(*n)).count();
        assert!(found > 19_700, "{found}");
    }
}
