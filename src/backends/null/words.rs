//! What the null backend says: ordinary words of the vocabulary, the same ones for the same request and seed.

use std::sync::Arc;

use crate::backends::Request;
use crate::model::tokenizer::Tokenizer;

/// More different words are not needed to make answers differ.
const MOST_WORDS: usize = 4096;

/// Tokens that read like words: a space and at least two small letters. A vocabulary without them (bytes) gives its letters, one
/// without letters everything that is not special.
pub fn words(tokenizer: &Tokenizer) -> Arc<[u32]> {
    let is_word = |text: &str| {
        let letters = text.strip_prefix(' ').unwrap_or("");
        letters.len() > 1 && letters.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    let is_letter = |text: &str| text.len() == 1 && text.bytes().all(|byte| byte.is_ascii_lowercase());
    let chosen = |wanted: &dyn Fn(&str) -> bool| -> Vec<u32> {
        let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let ids = ids.filter(|&id| !tokenizer.is_special(id) && tokenizer.token_text(id).is_some_and(|text| wanted(&text)));
        ids.take(MOST_WORDS).collect()
    };
    let mut ids = chosen(&is_word);
    for wanted in [&is_letter as &dyn Fn(&str) -> bool, &|_| true] {
        if ids.is_empty() {
            ids = chosen(wanted);
        }
    }
    ids.into()
}

/// A number that stands for everything that an answer depends on: prompt, adapter, and the seed unless the request is greedy.
pub fn fingerprint(request: &Request) -> u64 {
    let mut hash = Fnv::default();
    request.prompt.iter().for_each(|token| hash.add(u64::from(*token)));
    if let Some(adapter) = &request.adapter {
        let (digest, _) = adapter.id.as_bytes().as_chunks::<8>();
        digest.iter().for_each(|part| hash.add(u64::from_le_bytes(*part)));
    }
    if request.sampling.temperature > 0.0 {
        hash.add(request.sampling.seed);
    }
    hash.0
}

/// SplitMix64's step and finish (Steele, Lea, Flood 2014).
const fn mixed(fingerprint: u64, index: usize) -> u64 {
    let mut mixed = fingerprint.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Value `place` of the embedding with this fingerprint: between -1 and 1.
pub fn value(fingerprint: u64, place: usize) -> f32 {
    (mixed(fingerprint, place) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}

/// Which of `words` is token `index` of the answer with this fingerprint.
pub fn word(words: &[u32], fingerprint: u64, index: usize) -> u32 {
    let mixed = mixed(fingerprint, index);
    let count = words.len().max(1) as u64;
    #[expect(clippy::cast_possible_truncation, reason = "less than the number of words")]
    words.get((mixed % count) as usize).copied().unwrap_or(0)
}

/// Fowler, Noll and Vo's hash, 1a, over numbers instead of bytes: cheap, and good enough to tell requests apart.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    }
}
