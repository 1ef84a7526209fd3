//! A GGUF file as a checkpoint: its tensors by Hugging Face's names, its tokens, and the configuration that `gguf_config` reads.

use std::collections::BTreeMap;
use std::path::Path;

use super::gguf::GgufFile;
use super::gguf_names::{ROPE_FACTORS, ROPE_LONG, ROPE_SHORT, to_huggingface};
use super::{Checkpoint, GenerationDefaults, RawTensor, check, gguf_config, gguf_tokenizer};
use crate::model::ModelError;
use crate::model::config::{Architecture, LinearSite, ModelConfig};

/// Opens a GGUF file.
pub fn open_gguf(path: &Path) -> Result<Checkpoint, ModelError> {
    let file = GgufFile::open(path)?;
    let in_file = |problem: String| ModelError::Invalid(format!("{} cannot be used: {problem}", path.display()));
    let checkpoint = read(&file, path).map_err(|error| match error {
        ModelError::Invalid(problem) => in_file(problem),
        other => other,
    })?;
    check::check(&checkpoint).map_err(|error| in_file(error.to_string()))?;
    Ok(checkpoint)
}

fn read(file: &GgufFile, path: &Path) -> Result<Checkpoint, ModelError> {
    let config = gguf_config::read(file).map_err(ModelError::Invalid)?;
    let tensors = tensors(file, &config)?;
    let metadata = &file.metadata;
    let tokens = gguf_tokenizer::read(metadata, config.vocab_size)?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = metadata.text("general.name").map_err(ModelError::Invalid)?.map(str::to_owned);
    let generation = GenerationDefaults { eos: tokens.eos, bos: tokens.tokenizer.bos() };
    let name = name.filter(|name| !name.is_empty()).or(stem).unwrap_or_default();
    Ok(Checkpoint { config, tokenizer: tokens.tokenizer, chat_template: tokens.chat_template, generation, tensors, name })
}

/// Tensors by Hugging Face's names.
fn tensors(file: &GgufFile, config: &ModelConfig) -> Result<BTreeMap<String, RawTensor>, ModelError> {
    let anatomy = config.anatomy();
    let mut tensors = BTreeMap::new();
    for (name, info) in &file.tensors {
        if [ROPE_FACTORS, ROPE_SHORT, ROPE_LONG].contains(&name.as_str()) {
            continue;
        }
        let mut raw = file.raw(name, info)?;
        let Some(hf) = to_huggingface(anatomy, name) else {
            let parts = together(config, name, &raw).unwrap_or_else(|| {
                Err(ModelError::Invalid(format!("tensor {name} of dimensions {:?} is not part of this architecture", info.dims)))
            });
            tensors.extend(parts?);
            continue;
        };
        // The `llama` architecture stores queries and keys for interleaved rotary pairs; all others keep the halves.
        let rotary = hf.contains(".self_attn.q_proj.") || hf.contains(".self_attn.k_proj.");
        if rotary && anatomy.interleaved {
            let length = if raw.rows == 1 { raw.cols } else { raw.rows };
            if config.head_dim == 0 || !length.is_multiple_of(config.head_dim) {
                return Err(ModelError::Invalid(format!("tensor {name} is not whole heads of width {}", config.head_dim)));
            }
            raw.interleaved_head_dim = Some(config.head_dim);
        }
        tensors.insert(hf, raw);
    }
    Ok(tensors)
}

type Parts = Result<Vec<(String, RawTensor)>, ModelError>;

/// Queries, keys and values of a file that has them in one tensor, for an architecture that has three: early files of Phi-2.
fn together(config: &ModelConfig, name: &str, raw: &RawTensor) -> Option<Parts> {
    let (layer, kind) = name.strip_prefix("blk.")?.split_once(".attn_qkv.")?;
    let separate = to_huggingface(config.anatomy(), &format!("blk.{layer}.attn_q.{kind}")).is_some();
    if !separate || config.architecture != Architecture::Phi2 {
        return None;
    }
    let mut first = 0;
    let mut part = |site: LinearSite| {
        let (count, _) = config.linear_shape(site);
        let taken = if raw.rows == 1 { raw.elements(first, count) } else { raw.rows(first, count) };
        first += count;
        Ok((format!("model.layers.{layer}.{}.{kind}", site.module()), taken?))
    };
    Some([LinearSite::Q, LinearSite::K, LinearSite::V].into_iter().map(&mut part).collect())
}
