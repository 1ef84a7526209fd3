//! A shorter way from ASCII text to token ids, for the byte-level tokenizers whose way to cut text is known: the same cuts without
//! tracking offsets, and words that were seen before from memory. A word that was not is given to the library's own model,
//! so that merging has one implementation. Every other text and tokenizer takes the library's way, which is also the reference of
//! this one's tests.

use std::sync::atomic::{AtomicU64, Ordering};

use tokenizers::models::ModelWrapper;
use tokenizers::{Model, Tokenizer};

use super::alphabet::char_of;
use super::seen;
use super::splitting::Splitting;
use crate::model::ModelError;

/// Numbers of encoders, so that what a thread remembers is of the right one. 0 is nobody's.
static NEXT: AtomicU64 = AtomicU64::new(1);

pub(super) struct FastEncoder {
    splitting: Splitting,
    added: Added,
    /// Tokens that encoding adds around a text.
    before: Vec<u32>,
    after: Vec<u32>,
    number: u64,
}

impl FastEncoder {
    /// `None` where this way is not known to be the library's.
    pub(super) fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let json = |value: Result<serde_json::Value, serde_json::Error>| value.ok();
        let splitting = Splitting::recognise(&json(serde_json::to_value(tokenizer.get_pre_tokenizer()))?)?;
        // Composing (NFC) changes no ASCII text.
        let normalizer = json(serde_json::to_value(tokenizer.get_normalizer()))?;
        let changes_nothing = normalizer.is_null() || normalizer["type"] == "NFC";
        let ModelWrapper::BPE(bpe) = tokenizer.get_model() else { return None };
        if !changes_nothing || bpe.dropout.is_some() || tokenizer.get_encode_special_tokens() {
            return None;
        }
        let ids = |specials| Some(tokenizer.encode_fast("a", specials).ok()?.get_ids().to_vec());
        let (with, without) = (ids(true)?, ids(false)?);
        let at = with.windows(without.len().max(1)).position(|window| window == without)?;
        Some(Self {
            splitting,
            added: Added::new(tokenizer)?,
            before: with[..at].to_vec(),
            after: with[at + without.len()..].to_vec(),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Token ids of a text; `None` where the text is not ASCII.
    pub(super) fn encode(&self, tokenizer: &Tokenizer, text: &str, around: bool) -> Option<Result<Vec<u32>, ModelError>> {
        text.is_ascii().then(|| {
            // A token has four characters of English text.
            let mut ids = Vec::with_capacity(self.before.len() + self.after.len() + text.len() / 3 + 8);
            if around {
                ids.extend_from_slice(&self.before);
            }
            let mut rest = text;
            while let Some((start, end, id)) = self.added.find(rest) {
                self.encode_words(tokenizer, &rest[..start], &mut ids)?;
                ids.push(id);
                rest = &rest[end..];
            }
            self.encode_words(tokenizer, rest, &mut ids)?;
            if around {
                ids.extend_from_slice(&self.after);
            }
            Ok(ids)
        })
    }

    fn encode_words(&self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) -> Result<(), ModelError> {
        let mut result = Ok(());
        self.splitting.words(text, |word| {
            if result.is_ok() {
                result = self.encode_word(tokenizer, word, ids);
            }
        });
        result
    }

    fn encode_word(&self, tokenizer: &Tokenizer, word: &str, ids: &mut Vec<u32>) -> Result<(), ModelError> {
        seen::encode_word(self.number, word, ids, |word, ids| {
            let spelled: String = word.bytes().map(char_of).collect();
            let tokens = tokenizer.get_model().tokenize(&spelled);
            let tokens = tokens.map_err(|error| ModelError::Invalid(format!("the text cannot be tokenized: {error}")))?;
            ids.extend(tokens.iter().map(|token| token.id));
            Ok(())
        })
    }
}

/// Tokens that are found in text before anything else.
struct Added {
    /// By their first byte, the longest first.
    by_first: Vec<Vec<(Box<str>, u32)>>,
}

impl Added {
    /// `None` where a token asks for more than to be found as it is.
    fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let mut by_first: Vec<Vec<(Box<str>, u32)>> = vec![Vec::new(); 256];
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if token.single_word || token.lstrip || token.rstrip || token.normalized {
                return None;
            }
            let first = *token.content.as_bytes().first()?;
            by_first[usize::from(first)].push((token.content.into(), id));
        }
        by_first.iter_mut().for_each(|tokens| tokens.sort_by_key(|(content, _)| std::cmp::Reverse(content.len())));
        Some(Self { by_first })
    }

    /// The first one in the text, the longest of those that begin there: start, end, id.
    fn find(&self, text: &str) -> Option<(usize, usize, u32)> {
        text.bytes().enumerate().find_map(|(start, byte)| {
            let (content, id) =
                self.by_first[usize::from(byte)].iter().find(|(content, _)| text[start..].starts_with(&**content))?;
            Some((start, start + content.len(), *id))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::{Specials, Tokenizer};

    static FAST: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| ["gpt-2", "llama-bpe", "qwen2", "smollm"].map(golden).into());

    fn golden(name: &str) -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers");
        Tokenizer::from_json(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap()
    }

    fn check(tokenizer: &Tokenizer, text: &str) {
        for (specials, around) in [(Specials::Keep, true), (Specials::Omit, false)] {
            let library = tokenizer.0.tokenizer.encode_fast(text, around).unwrap().get_ids().to_vec();
            let fast = tokenizer.0.fast.as_ref().unwrap().encode(&tokenizer.0.tokenizer, text, around);
            assert_eq!(fast.is_some(), text.is_ascii());
            if let Some(fast) = fast {
                // Twice: from the model, from the cache.
                assert_eq!(fast.unwrap(), library, "{text:?}");
            }
            assert_eq!(tokenizer.encode(text, specials).unwrap(), library, "{text:?}");
        }
    }

    #[test]
    fn known_tokenizers_have_the_short_way_and_others_do_not() {
        assert!(FAST.iter().all(|tokenizer| tokenizer.0.fast.is_some()));
        assert!(golden("sentencepiece").0.fast.is_none());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers");
        let read =
            || -> serde_json::Value { serde_json::from_slice(&std::fs::read(folder.join("qwen2.json")).unwrap()).unwrap() };
        for (path, value) in [
            ("/added_tokens/0/lstrip", serde_json::json!(true)),
            ("/added_tokens/0/normalized", serde_json::json!(true)),
            ("/normalizer", serde_json::json!({"type": "Lowercase"})),
            ("/model/dropout", serde_json::json!(0.5)),
            ("/pre_tokenizer/pretokenizers/1/add_prefix_space", serde_json::json!(true)),
        ] {
            let mut document = read();
            *document.pointer_mut(path).unwrap() = value;
            let tokenizer = Tokenizer::from_json(document.to_string().as_bytes()).unwrap();
            assert!(tokenizer.0.fast.is_none(), "{path}");
        }
    }

    #[test]
    fn special_tokens_are_found_wherever_they_stand() {
        for tokenizer in &*FAST {
            for text in [
                "",
                " ",
                "<|im_start|>user\nhi <|im_end|>\n<|im_start|>",
                "<|im_<|im_end|>",
                "a<|endoftext|>b",
                "naïve <|im_end|>",
            ] {
                check(tokenizer, text);
            }
        }
    }

    proptest! {
        #[test]
        fn ids_are_the_librarys(texts in prop::collection::vec("([a-eA-E]{1,6}| |'[a-z]|[0-9]{1,5}|\n|[.,<|>!]|<\\|im_end\\|>){0,12}", 1..8), any in "[\\x00-\\x7f]{0,40}") {
            for tokenizer in &*FAST {
                for text in texts.iter().chain([&any]) {
                    check(tokenizer, text);
                }
            }
        }
    }
}
