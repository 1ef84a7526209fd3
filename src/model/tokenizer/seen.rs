//! Token ids of words that were seen before: small, bounded, and one for each thread, so that a look-up touches one line of memory
//! that no other processor writes to. A word that finds its place taken takes it over.

use std::cell::RefCell;

/// Places; a power of two. With 32 bytes each they take 128 KiB of a thread.
const PLACES: usize = 4096;
/// Longest word that is kept, bytes.
const MAX_WORD: usize = 15;
/// Most tokens of a word that is kept.
const MAX_IDS: usize = 4;
/// Follows the last id where there are fewer.
const NO_ID: u32 = u32::MAX;

/// A word as two numbers: its bytes, then zeros, then its length.
type Key = [u64; 2];

#[derive(Clone, Copy)]
#[repr(align(32))]
struct Place {
    key: Key,
    ids: [u32; MAX_IDS],
}

/// Its key stands for the empty word, which is never looked up.
const EMPTY: Place = Place { key: [0; 2], ids: [NO_ID; MAX_IDS] };

struct Table {
    /// The tokenizer that the words are of.
    owner: u64,
    places: Vec<Place>,
}

thread_local! {
    static TABLE: RefCell<Table> = const { RefCell::new(Table { owner: 0, places: Vec::new() }) };
}

/// Appends the ids of a word, from this thread's memory or else from `encode`, whose answer is kept. `owner` tells tokenizers apart.
pub(super) fn encode_word<E>(
    owner: u64,
    word: &str,
    ids: &mut Vec<u32>,
    encode: impl FnOnce(&str, &mut Vec<u32>) -> Result<(), E>,
) -> Result<(), E> {
    let Some(key) = key(word) else { return encode(word, ids) };
    TABLE.with_borrow_mut(|table| {
        if table.owner != owner {
            table.owner = owner;
            table.places.clear();
            table.places.resize(PLACES, EMPTY);
        }
        let place = &mut table.places[place_of(key)];
        if place.key == key {
            ids.extend(place.ids.iter().take_while(|id| **id != NO_ID));
            return Ok(());
        }
        let before = ids.len();
        encode(word, ids)?;
        let new = &ids[before..];
        if (1..=MAX_IDS).contains(&new.len()) && !new.contains(&NO_ID) {
            *place = Place { key, ..EMPTY };
            place.ids[..new.len()].copy_from_slice(new);
        }
        Ok(())
    })
}

/// `None` where the word is too long (or empty).
fn key(word: &str) -> Option<Key> {
    let mut bytes = [0u8; 16];
    bytes.get_mut(..word.len()).filter(|_| (1..=MAX_WORD).contains(&word.len()))?.copy_from_slice(word.as_bytes());
    bytes[MAX_WORD] = u8::try_from(word.len()).ok()?;
    let (parts, _) = bytes.as_chunks::<8>();
    Some([u64::from_le_bytes(parts[0]), u64::from_le_bytes(parts[1])])
}

/// Multiplicative hashing (Knuth). Words that are chosen to meet in one place only drive each other out.
#[expect(clippy::cast_possible_truncation, reason = "less than the number of places")]
const fn place_of(key: Key) -> usize {
    let mixed = (key[0] ^ key[1].rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - PLACES.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    /// Ids of a word, and whether it had to be encoded.
    fn ids(owner: u64, word: &str, of_word: &[u32]) -> (Vec<u32>, bool) {
        let (mut ids, mut encoded) = (vec![7], false);
        let result: Result<(), ()> = encode_word(owner, word, &mut ids, |_, ids| {
            encoded = true;
            ids.extend_from_slice(of_word);
            Ok(())
        });
        result.unwrap();
        assert_eq!(ids[0], 7, "what was there stays");
        (ids[1..].to_vec(), encoded)
    }

    #[test]
    fn a_word_is_encoded_once_for_each_tokenizer() {
        for word in ["a", "a\0", " the", "123456789abcdef"] {
            assert_eq!(ids(1, word, &[1, 2, 3, 4]), (vec![1, 2, 3, 4], true), "{word:?}");
            assert_eq!(ids(1, word, &[]), (vec![1, 2, 3, 4], false), "{word:?}");
        }
        assert_eq!(ids(2, " the", &[9]), (vec![9], true), "another tokenizer");
        assert_eq!(ids(2, " the", &[]), (vec![9], false));
    }

    #[test]
    fn what_does_not_fit_is_encoded_each_time() {
        for _ in 0..2 {
            assert_eq!(ids(3, "123456789abcdefg", &[1]), (vec![1], true));
            assert_eq!(ids(3, "five", &[1, 2, 3, 4, 5]), (vec![1, 2, 3, 4, 5], true));
            assert_eq!(ids(3, "none", &[]), (vec![], true));
            assert_eq!(ids(3, "", &[1]), (vec![1], true));
        }
    }

    #[test]
    fn words_that_meet_in_one_place_are_told_apart() {
        for round in 0..2 {
            for number in 0..3 * PLACES as u32 {
                let (found, _) = ids(4, &format!("w{number}"), &[number]);
                assert_eq!(found, [number], "round {round}");
            }
        }
    }
}
