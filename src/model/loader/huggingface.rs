//! A Hugging Face directory as a checkpoint: configuration, tokenizer, chat template and (sharded) safetensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::safetensors_file::SafetensorsFile;
use super::{Checkpoint, GenerationDefaults, RawTensor, check, huggingface_config, read_file};
use crate::model::ModelError;
use crate::model::chat_template::ChatTemplate;
use crate::model::tokenizer::Tokenizer;

/// Opens a directory.
pub fn open_directory(directory: &Path) -> Result<Checkpoint, ModelError> {
    let read = huggingface_config::read(&required(directory, "config.json")?);
    let config = read.map_err(|problem| in_file(directory, "config.json", &problem))?;
    let mut checkpoint = without_tensors(directory, config)?;
    let mut tensors = tensors(directory)?;
    if checkpoint.config.tied_embeddings {
        // Some files store the shared matrix twice; the embedding is the one that counts.
        tensors.remove("lm_head.weight");
    }
    // A buffer that old checkpoints carry; it follows from the configuration.
    tensors.retain(|name, _| !name.ends_with(".rotary_emb.inv_freq"));
    if checkpoint.config.anatomy().norms.plus_one {
        add_one_to_norms(&mut tensors)?;
    }
    checkpoint.tensors = tensors;
    check::check(&checkpoint).map_err(|error| {
        ModelError::Invalid(format!("{}: config.json and the weights disagree: {error}", directory.display()))
    })?;
    Ok(checkpoint)
}

/// What a directory says of its base, whatever its architecture is.
pub fn describe_directory(directory: &Path) -> Result<Checkpoint, ModelError> {
    let document = required(directory, "config.json")?;
    let config = huggingface_config::read(&document).or_else(|_| huggingface_config::read_foreign(&document));
    without_tensors(directory, config.map_err(|problem| in_file(directory, "config.json", &problem))?)
}

/// Everything but the tensors.
fn without_tensors(directory: &Path, config: huggingface_config::Config) -> Result<Checkpoint, ModelError> {
    let document = required(directory, "tokenizer.json")?;
    let in_tokenizer = |problem: &str| in_file(directory, "tokenizer.json", problem);
    let read = |bytes: &[u8]| Tokenizer::from_json(bytes).map_err(|error| in_tokenizer(&error.to_string()));
    let mut tokenizer = read(&document)?;
    if tokenizer.vocab_size() > config.model.vocab_size {
        let kept = without_rowless(&document, config.model.vocab_size).map_err(|error| in_tokenizer(&error.to_string()))?;
        tokenizer = read(&kept)?;
    }
    let settings = TokenizerSettings::read(directory)?;
    let mut eos = match optional(directory, "generation_config.json")? {
        None => Vec::new(),
        Some(bytes) => huggingface_config::read_generation(&bytes)
            .map_err(|problem| in_file(directory, "generation_config.json", &problem))?,
    };
    if eos.is_empty() {
        eos = config.eos;
    }
    if eos.is_empty() {
        eos.extend(settings.eos.as_deref().and_then(|token| tokenizer.token_id(token)));
    }
    let chat_template = settings.template.map(|source| ChatTemplate::new(&source, settings.bos, settings.eos)).transpose()?;
    let generation = GenerationDefaults { eos, bos: tokenizer.bos() };
    let name = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let name = name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Checkpoint { config: config.model, tokenizer, chat_template, generation, tensors: BTreeMap::new(), name })
}

/// A tokenizer without its added tokens that have no row of the embedding, as Gemma 3's for images: they then are text as any other.
fn without_rowless(document: &[u8], vocab_size: usize) -> Result<Vec<u8>, serde_json::Error> {
    let mut document: Value = serde_json::from_slice(document)?;
    if let Some(added) = document.get_mut("added_tokens").and_then(Value::as_array_mut) {
        added.retain(|token| token.get("id").and_then(Value::as_u64).is_none_or(|id| id < vocab_size as u64));
    }
    serde_json::to_vec(&document)
}

/// Weights of normalisations as they are multiplied with, where the files have what is added to one.
fn add_one_to_norms(tensors: &mut BTreeMap<String, RawTensor>) -> Result<(), ModelError> {
    for (name, tensor) in tensors.iter_mut() {
        if tensor.rows == 1 && name.ends_with("norm.weight") {
            let values: Vec<f32> = tensor.dequantize()?.into_iter().map(|value| 1.0 + value).collect();
            *tensor = RawTensor::of_values(&values)?;
        }
    }
    Ok(())
}

fn in_file(directory: &Path, name: &str, problem: &str) -> ModelError {
    ModelError::Invalid(format!("{} cannot be used: {problem}", directory.join(name).display()))
}

fn required(directory: &Path, name: &str) -> Result<Vec<u8>, ModelError> {
    read_file(&directory.join(name))
}

fn optional(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
    match required(directory, name) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ModelError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn json(directory: &Path, name: &str) -> Result<Option<Value>, ModelError> {
    let Some(bytes) = optional(directory, name)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| in_file(directory, name, &error.to_string()))
}

/// What surrounds the tokenizer: the chat template and the texts of its special tokens.
struct TokenizerSettings {
    template: Option<String>,
    bos: Option<String>,
    eos: Option<String>,
}

impl TokenizerSettings {
    fn read(directory: &Path) -> Result<Self, ModelError> {
        let config = json(directory, "tokenizer_config.json")?.unwrap_or_default();
        let map = json(directory, "special_tokens_map.json")?.unwrap_or_default();
        let token = |name: &str| special_token(config.get(name)).or_else(|| special_token(map.get(name)));
        // Newest place first, as transformers looks: a file of its own, then the older places.
        let file = optional(directory, "chat_template.jinja")?
            .map(|bytes| String::from_utf8(bytes).map_err(|_| in_file(directory, "chat_template.jinja", "it is not UTF-8")))
            .transpose()?;
        let document = json(directory, "chat_template.json")?;
        let template = match file {
            Some(source) => Some(source),
            None => template_text(config.get("chat_template"))
                .or_else(|| template_text(document.as_ref().and_then(|document| document.get("chat_template")))),
        };
        Ok(Self { template, bos: token("bos_token"), eos: token("eos_token") })
    }
}

/// A special token: text, or an object with its `content`.
fn special_token(value: Option<&Value>) -> Option<String> {
    let value = value?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// A template: text, or a list of named ones, of which `default` is used.
fn template_text(value: Option<&Value>) -> Option<String> {
    let value = value?;
    if let Some(list) = value.as_array() {
        let named = list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?;
        return named.get("template")?.as_str().map(str::to_owned);
    }
    value.as_str().map(str::to_owned)
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Every tensor of the directory's weights.
fn tensors(directory: &Path) -> Result<BTreeMap<String, RawTensor>, ModelError> {
    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    let single = directory.join(SINGLE);
    if single.exists() {
        return file_tensors(&single);
    }
    let bytes = optional(directory, INDEX)?
        .ok_or_else(|| ModelError::Invalid(format!("{} holds neither {SINGLE} nor {INDEX}", directory.display())))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| in_file(directory, INDEX, &error.to_string()))?;
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    let mut tensors = BTreeMap::new();
    for shard in shards {
        let path = shard_path(directory, shard).map_err(|problem| in_file(directory, INDEX, &problem))?;
        for (name, tensor) in file_tensors(&path)? {
            if index.weight_map.get(&name) != Some(shard) {
                return Err(in_file(directory, INDEX, &format!("tensor {name} is in {shard}, which the index does not say")));
            }
            tensors.insert(name, tensor);
        }
    }
    match index.weight_map.iter().find(|(name, _)| !tensors.contains_key(*name)) {
        Some((name, shard)) => Err(in_file(directory, INDEX, &format!("tensor {name} is not in {shard}"))),
        None => Ok(tensors),
    }
}

/// A shard lies in the directory itself.
fn shard_path(directory: &Path, shard: &str) -> Result<PathBuf, String> {
    let plain = Path::new(shard).file_name().is_some_and(|name| name == shard);
    if plain { Ok(directory.join(shard)) } else { Err(format!("shard {shard:?} is not a plain file name")) }
}

fn file_tensors(path: &Path) -> Result<BTreeMap<String, RawTensor>, ModelError> {
    let file = SafetensorsFile::open(path)?;
    file.tensors
        .keys()
        .map(|name| Ok((name.clone(), file.raw(name)?)))
        .collect::<Result<_, ModelError>>()
        .map_err(|error| ModelError::Invalid(format!("{} cannot be used: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use serde_json::json;

    use super::*;
    use crate::model::tokenizer::Specials;

    #[test]
    fn added_tokens_without_a_row_are_text() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/gemma3");
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&golden).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let mut document: Value = serde_json::from_slice(&read_file(&golden.join("tokenizer.json")).unwrap()).unwrap();
        let image = json!({"id": 384, "content": "<image>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true});
        document["added_tokens"].as_array_mut().unwrap().push(image);
        std::fs::write(folder.path().join("tokenizer.json"), document.to_string()).unwrap();
        let tokens = open_directory(folder.path()).unwrap().tokenizer.encode("an <image> here", Specials::Keep).unwrap();
        assert_eq!(tokens, open_directory(&golden).unwrap().tokenizer.encode("an <image> here", Specials::Keep).unwrap());
        assert!(tokens.iter().all(|id| *id < 384));
    }
}
