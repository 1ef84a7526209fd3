//! A tokenizer and its chat template as GGUF metadata: the tables that other programs read, and the original document itself.

use serde_json::Value;

use super::Checkpoint;
use super::gguf_tokenizer::{END_TOKENS, splitting_name, token_type};
use super::write::MetadataWriter;
use crate::model::ModelError;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer::splitting::Splitting;

/// Writes everything about text.
pub(super) fn write(checkpoint: &Checkpoint, metadata: &mut MetadataWriter, notes: &mut Vec<String>) -> Result<(), ModelError> {
    let tokenizer = &checkpoint.tokenizer;
    let text = tokenizer.to_json()?;
    let document: Value = serde_json::from_str(&text).map_err(|error| ModelError::Invalid(error.to_string()))?;
    let merges = merges(&document["model"]);
    let pieces = document["model"]["byte_fallback"] == true;
    if pieces {
        metadata.text("tokenizer.ggml.model", "llama");
    } else {
        metadata.text("tokenizer.ggml.model", "gpt2");
        match Splitting::recognise(&document["pre_tokenizer"]) {
            Some(splitting) => metadata.text("tokenizer.ggml.pre", splitting_name(splitting)),
            None => notes.push(
                "the tokenizer cuts text in a way that GGUF has no name for; it is exact here (tokenizer.huggingface.json), \
                 other programs may cut differently"
                    .to_owned(),
            ),
        }
        metadata.texts("tokenizer.ggml.merges", &merges);
    }
    let (tokens, types) = table(tokenizer, &document, checkpoint.config.vocab_size, pieces);
    if pieces {
        metadata.floats("tokenizer.ggml.scores", &scores(&tokens, &merges));
        let unknown = document["model"]["unk_token"].as_str().and_then(|token| tokenizer.token_id(token));
        if let Some(id) = unknown {
            metadata.number("tokenizer.ggml.unknown_token_id", id as usize)?;
        }
        let prefixes = document["normalizer"].to_string().contains("\"Prepend\"")
            || document["pre_tokenizer"]["prepend_scheme"].as_str().is_some_and(|scheme| scheme != "never");
        metadata.boolean("tokenizer.ggml.add_space_prefix", prefixes);
    }
    metadata.texts("tokenizer.ggml.tokens", &tokens);
    metadata.integers("tokenizer.ggml.token_type", &types);
    special_ids(checkpoint, metadata)?;
    if let Some(template) = &checkpoint.chat_template {
        metadata.text("tokenizer.chat_template", template.source());
    }
    metadata.text("tokenizer.huggingface.json", &text);
    Ok(())
}

/// Merges as `left right`; the document has pairs or, in older files, the joined form.
fn merges(model: &Value) -> Vec<String> {
    let joined = |merge: &Value| match merge {
        Value::String(text) => Some(text.clone()),
        pair => Some(format!("{} {}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)),
    };
    model["merges"].as_array().into_iter().flatten().filter_map(joined).collect()
}

/// Spelling and type of every row of the embedding; rows without a token are named and marked unused.
fn table(tokenizer: &Tokenizer, document: &Value, vocab_size: usize, pieces: bool) -> (Vec<String>, Vec<i32>) {
    let unknown = document["model"]["unk_token"].as_str();
    let added: Vec<u64> =
        document["added_tokens"].as_array().into_iter().flatten().filter_map(|token| token["id"].as_u64()).collect();
    let entry = |id: usize| {
        let narrow = u32::try_from(id).unwrap_or(u32::MAX);
        let Some(token) = tokenizer.token(narrow) else { return (format!("[PAD{id}]"), token_type::UNUSED) };
        let byte = pieces && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        let kind = match () {
            () if unknown == Some(token.as_str()) => token_type::UNKNOWN,
            () if tokenizer.is_special(narrow) => token_type::CONTROL,
            () if added.contains(&(id as u64)) => token_type::USER_DEFINED,
            () if byte => token_type::BYTE,
            () => token_type::NORMAL,
        };
        (token, kind)
    };
    (0..vocab_size).map(entry).map(|(token, kind)| (token, i32::try_from(kind).unwrap_or_default())).unzip()
}

/// Scores that order the merges as the document does: minus the rank of the first merge that makes a piece.
fn scores(tokens: &[String], merges: &[String]) -> Vec<f32> {
    let mut ranks = std::collections::HashMap::new();
    for (rank, merge) in merges.iter().enumerate() {
        ranks.entry(merge.replacen(' ', "", 1)).or_insert(rank);
    }
    tokens.iter().map(|token| ranks.get(token).map_or(0.0, |rank| -(*rank as f32))).collect()
}

/// Beginning and end of text.
fn special_ids(checkpoint: &Checkpoint, metadata: &mut MetadataWriter) -> Result<(), ModelError> {
    let tokenizer = &checkpoint.tokenizer;
    let of_template = |token: Option<&str>| token.and_then(|token| tokenizer.token_id(token));
    let template = checkpoint.chat_template.as_ref();
    let bos = checkpoint.generation.bos.or_else(|| of_template(template.and_then(|template| template.bos_token())));
    if let Some(id) = bos {
        metadata.number("tokenizer.ggml.bos_token_id", id as usize)?;
    }
    metadata.boolean("tokenizer.ggml.add_bos_token", checkpoint.generation.bos.is_some());
    // The template's own end comes first, for it is what `eos_token` becomes in templates read from this file.
    let first = of_template(template.and_then(|template| template.eos_token()));
    let mut eos = checkpoint.generation.eos.clone();
    eos.sort_by_key(|id| Some(*id) != first);
    let keys = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
    for (key, id) in keys.into_iter().zip(&eos) {
        metadata.number(key, *id as usize)?;
    }
    // The whole list, for reading back: the format's keys name three at most.
    let all: Vec<i32> = checkpoint.generation.eos.iter().filter_map(|id| i32::try_from(*id).ok()).collect();
    metadata.integers(END_TOKENS, &all);
    Ok(())
}
