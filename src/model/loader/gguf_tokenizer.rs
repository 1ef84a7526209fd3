//! A tokenizer and its chat template out of GGUF metadata, put together as the `tokenizer.json` that it came from.

use serde_json::{Map, Value, json};

use super::gguf_metadata::{Metadata, Value as GgufValue};
use crate::model::ModelError;
use crate::model::chat_template::ChatTemplate;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer::splitting::Splitting;

/// What metadata says about text.
pub(super) struct Tokens {
    pub(super) tokenizer: Tokenizer,
    pub(super) chat_template: Option<ChatTemplate>,
    /// Tokens that end an answer.
    pub(super) eos: Vec<u32>,
}

/// Tokens that end a turn in the common chat formats; a file's `eos_token_id` often names only one of its own.
const END_OF_TURN: [&str; 7] =
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<end_of_turn>"];

/// Our own key: every token that ends an answer, where the file was written here.
pub(super) const END_TOKENS: &str = "switchyard.end_token_ids";

/// Token types, as `llama.cpp` numbers them.
pub(super) mod token_type {
    pub(in super::super) const NORMAL: u64 = 1;
    pub(in super::super) const UNKNOWN: u64 = 2;
    pub(in super::super) const CONTROL: u64 = 3;
    pub(in super::super) const USER_DEFINED: u64 = 4;
    pub(in super::super) const UNUSED: u64 = 5;
    pub(in super::super) const BYTE: u64 = 6;
}

/// Reads tokenizer and template; `vocab_size` is the number of rows of the embedding.
pub(super) fn read(metadata: &Metadata, vocab_size: usize) -> Result<Tokens, ModelError> {
    let vocabulary = Vocabulary::read(metadata, vocab_size).map_err(ModelError::Invalid)?;
    // The format's own key for the original file, exact where it is there.
    let tokenizer = match metadata.text("tokenizer.huggingface.json").map_err(ModelError::Invalid)? {
        Some(text) => Tokenizer::from_json(text.as_bytes())?,
        None => {
            let document = vocabulary.document(metadata).map_err(ModelError::Invalid)?;
            let text = serde_json::to_vec(&document).map_err(|error| ModelError::Invalid(error.to_string()))?;
            Tokenizer::from_json(&text)?
        }
    };
    let eos = end_tokens(metadata, &tokenizer).map_err(ModelError::Invalid)?;
    let text_of = |key: &str| -> Result<Option<String>, ModelError> {
        let id = metadata.token_id(key).map_err(ModelError::Invalid)?;
        Ok(id.and_then(|id| vocabulary.tokens.get(id as usize)).map(|token| (*token).to_owned()))
    };
    let template = metadata.text("tokenizer.chat_template").map_err(ModelError::Invalid)?;
    let chat_template = match template {
        None => None,
        Some(source) => {
            Some(ChatTemplate::new(source, text_of("tokenizer.ggml.bos_token_id")?, text_of("tokenizer.ggml.eos_token_id")?)?)
        }
    };
    Ok(Tokens { tokenizer, chat_template, eos })
}

/// Tokens that end an answer: our own list, or what the format's keys name and the usual ends of turns.
fn end_tokens(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Vec<u32>, String> {
    if let Some(array) = metadata.array(END_TOKENS)? {
        let ids = array.scalars().into_iter().flatten().map(|value| number(&value).and_then(|id| u32::try_from(id).ok()));
        return ids.collect::<Option<_>>().ok_or_else(|| format!("{END_TOKENS} is not an array of token ids"));
    }
    let mut ids = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        ids.extend(metadata.token_id(key)?.filter(|id| !ids.contains(id)));
    }
    for token in END_OF_TURN {
        let id = tokenizer.token_id(token).filter(|id| tokenizer.is_special(*id) && !ids.contains(id));
        ids.extend(id);
    }
    Ok(ids)
}

/// A number that is not negative.
fn number(value: &GgufValue) -> Option<u64> {
    match value {
        GgufValue::Unsigned(number) => Some(*number),
        _ => None,
    }
}

/// The token table.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    types: Vec<u64>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata, vocab_size: usize) -> Result<Self, String> {
        let tokens = metadata.strings("tokenizer.ggml.tokens")?.ok_or("metadata key \"tokenizer.ggml.tokens\" is missing")?;
        if tokens.len() != vocab_size {
            return Err(format!("tokenizer.ggml.tokens has {} tokens; the embedding has {vocab_size} rows", tokens.len()));
        }
        let types: Vec<u64> = match metadata.array("tokenizer.ggml.token_type")? {
            None => Vec::new(),
            Some(array) => {
                let scalars = array.scalars().ok_or("tokenizer.ggml.token_type is not an array of numbers")?;
                scalars.map(|value| number(&value).unwrap_or(0)).collect()
            }
        };
        if !types.is_empty() && types.len() != tokens.len() {
            return Err(format!("tokenizer.ggml.token_type has {} entries for {} tokens", types.len(), tokens.len()));
        }
        Ok(Self { tokens, types })
    }

    /// The `tokenizer.json` of this table.
    fn document(&self, metadata: &Metadata) -> Result<Value, String> {
        match metadata.text("tokenizer.ggml.model")? {
            Some("gpt2") => self.byte_level(metadata),
            Some("llama") => self.sentence_piece(metadata),
            Some(other) => Err(format!("tokenizer.ggml.model is {other:?}; gpt2 and llama are supported")),
            None => Err("metadata key \"tokenizer.ggml.model\" is missing".to_owned()),
        }
    }

    /// Spelling to id; of a spelling that comes twice the first wins, as in llama.cpp.
    fn ids(&self) -> Map<String, Value> {
        let mut ids = Map::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            ids.entry(*token).or_insert_with(|| id.into());
        }
        ids
    }

    /// Control and user-defined tokens, found in text before anything else.
    fn added(&self) -> Vec<Value> {
        let listed = self.types.iter().zip(&self.tokens).enumerate();
        listed
            .filter(|(_, (kind, token))| {
                matches!(**kind, token_type::UNKNOWN | token_type::CONTROL | token_type::USER_DEFINED) && !token.is_empty()
            })
            .map(|(id, (kind, token))| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                    "special": *kind != token_type::USER_DEFINED,
                })
            })
            .collect()
    }

    /// Byte-level BPE (GPT-2's alphabet), split by the regular expressions that `tokenizer.ggml.pre` names.
    fn byte_level(&self, metadata: &Metadata) -> Result<Value, String> {
        let merges = metadata.strings("tokenizer.ggml.merges")?.ok_or("metadata key \"tokenizer.ggml.merges\" is missing")?;
        let pre = metadata.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let cutting = Cutting::named(pre)?;
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added(),
            "normalizer": if cutting.composes { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": cutting.pre_tokenizer(),
            "post_processor": self.post_processor(metadata, cutting.begins)?,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": cutting.whole_words, "vocab": self.ids(), "merges": merges,
            },
        }))
    }

    /// SentencePiece BPE: merges follow from the pieces' scores.
    fn sentence_piece(&self, metadata: &Metadata) -> Result<Value, String> {
        let scores = metadata.array("tokenizer.ggml.scores")?.ok_or("metadata key \"tokenizer.ggml.scores\" is missing")?;
        let scores: Vec<f64> = scores
            .scalars()
            .ok_or("tokenizer.ggml.scores is not an array of numbers")?
            .map(|value| if let GgufValue::Float(score) = value { score } else { 0.0 })
            .collect();
        if scores.len() != self.tokens.len() {
            return Err(format!("tokenizer.ggml.scores has {} entries for {} tokens", scores.len(), self.tokens.len()));
        }
        let ids = self.ids();
        let merges = merges_by_score(&self.tokens, &scores, &ids);
        let unknown = metadata.token_id("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
        let prefix = metadata.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let mut normalizers = vec![replace];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added(),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": self.post_processor(metadata, true)?,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": self.tokens.get(unknown as usize),
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
                "ignore_merges": false, "vocab": ids, "merges": merges,
            },
        }))
    }

    /// Adds the beginning and end of text where the file asks for them; `begins` is the vocabulary kind's own habit.
    fn post_processor(&self, metadata: &Metadata, begins: bool) -> Result<Value, String> {
        let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        let mut specials = Map::new();
        let mut special = |key: &str| -> Result<Option<Value>, String> {
            let Some(id) = metadata.token_id(key)? else { return Ok(None) };
            let token = self.tokens.get(id as usize).ok_or_else(|| format!("{key} is {id}, outside the vocabulary"))?;
            specials.insert((*token).to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
            Ok(Some(json!({"SpecialToken": {"id": token, "type_id": 0}})))
        };
        if metadata.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(begins)
            && let Some(piece) = special("tokenizer.ggml.bos_token_id")?
        {
            single.insert(0, piece);
        }
        if metadata.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false)
            && let Some(piece) = special("tokenizer.ggml.eos_token_id")?
        {
            single.push(piece);
        }
        if specials.is_empty() {
            return Ok(Value::Null);
        }
        let mut pair = single.clone();
        pair.push(json!({"Sequence": {"id": "B", "type_id": 0}}));
        Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}))
    }
}

/// Every way to join two pieces into a third, best score of the result first; among equals longer left halves first, as the
/// conversion of `transformers` orders them.
fn merges_by_score(tokens: &[&str], scores: &[f64], ids: &Map<String, Value>) -> Vec<[String; 2]> {
    let mut merges = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((*score, left, right));
            }
        }
    }
    merges.sort_by(|a, b| {
        let lengths = |merge: &(f64, &str, &str)| (merge.1.chars().count(), merge.2.chars().count());
        b.0.total_cmp(&a.0).then_with(|| lengths(b).cmp(&lengths(a)))
    });
    merges.into_iter().map(|(_, left, right)| [left.to_owned(), right.to_owned()]).collect()
}

/// How byte-level vocabularies cut text before merging.
struct Cutting {
    /// Where it is cut.
    splitting: Splitting,
    /// Text is composed (NFC) first.
    composes: bool,
    /// A word that is a token is taken whole, whatever its merges.
    whole_words: bool,
    /// The beginning of text is added unless the file says otherwise.
    begins: bool,
}

impl Cutting {
    /// The splitting of a `tokenizer.ggml.pre`.
    fn named(pre: &str) -> Result<Self, String> {
        let plain = |splitting| Self { splitting, composes: false, whole_words: false, begins: false };
        Ok(match pre {
            "llama-bpe" | "llama3" | "llama-v3" => Self { whole_words: true, begins: true, ..plain(Splitting::Llama3) },
            "qwen2" | "deepseek-r1-qwen" => Self { composes: true, ..plain(Splitting::Qwen2) },
            "gpt-2" | "phi-2" | "default" => plain(Splitting::Gpt2),
            "smollm" => plain(Splitting::Smollm),
            other => {
                return Err(format!(
                    "tokenizer.ggml.pre is {other:?}; llama-bpe, qwen2, deepseek-r1-qwen, gpt-2, phi-2, default and smollm are supported"
                ));
            }
        })
    }

    fn pre_tokenizer(&self) -> Value {
        let mut steps: Vec<Value> = Vec::new();
        for pattern in self.splitting.patterns() {
            steps.push(json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}));
        }
        steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}));
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

/// GGUF's name of a way to cut text.
pub(super) const fn splitting_name(splitting: Splitting) -> &'static str {
    match splitting {
        Splitting::Gpt2 => "gpt-2",
        Splitting::Llama3 => "llama-bpe",
        Splitting::Qwen2 => "qwen2",
        Splitting::Smollm => "smollm",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use std::path::Path;

    use super::super::gguf::GgufFile;
    use super::*;
    use crate::model::tokenizer::Specials;

    /// The metadata of a file means the same tokenizer as the `tokenizer.json` that it was made from.
    #[test]
    fn metadata_tokenizes_as_the_original() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers");
        let expected: Value = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let corpus: Vec<&str> = expected["corpus"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        for (name, cases) in expected["tokenizers"].as_object().unwrap() {
            let file = GgufFile::open(&folder.join(format!("{name}.gguf"))).unwrap();
            let count = file.metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().len();
            let tokenizer = read(&file.metadata, count).unwrap().tokenizer;
            assert_eq!(tokenizer.bos().is_some(), ["llama-bpe", "sentencepiece"].contains(&name.as_str()), "{name}");
            for (text, case) in corpus.iter().zip(cases.as_array().unwrap()) {
                let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
                assert_eq!(tokenizer.encode(text, Specials::Omit).unwrap(), ids("ids"), "{name}: {text:?}");
                assert_eq!(tokenizer.encode(text, Specials::Keep).unwrap(), ids("with_specials"), "{name}: {text:?}");
                assert_eq!(tokenizer.decode(&ids("ids"), Specials::Keep).unwrap(), case["decoded"].as_str().unwrap(), "{name}");
            }
        }
    }
}
