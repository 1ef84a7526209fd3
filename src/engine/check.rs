//! Which requests and settings the engine takes. Pure; names the field, the value and what would be right.

use super::handle::{EngineConfig, EngineError, SubmitError};
use super::request::{Request, Sampling};
use crate::model::{BLOCK_TOKENS, ModelConfig};

/// Checks settings against each other; returns the longest history (prompt and answer, tokens) that a sequence can have.
pub(super) fn settings(config: &EngineConfig, model: &ModelConfig) -> Result<usize, EngineError> {
    let at_least_one = [
        ("kv_blocks", config.kv_blocks),
        ("max_sequences", config.max_sequences),
        ("queue_capacity", config.queue_capacity),
        ("context_length", model.context_length),
        ("vocab_size", model.vocab_size),
    ];
    if let Some((field, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
        return Err(EngineError::Config(format!("{field} is 0; it must be at least 1")));
    }
    if config.max_batch_tokens < config.max_sequences {
        return Err(EngineError::Config(format!(
            "max_batch_tokens is {}; it must be at least max_sequences, {}, so that every running answer gets its token in each step",
            config.max_batch_tokens, config.max_sequences
        )));
    }
    if u32::try_from(config.kv_blocks).is_err() {
        return Err(EngineError::Config(format!("kv_blocks is {}; at most {} can be numbered", config.kv_blocks, u32::MAX)));
    }
    Ok(model.context_length.min(config.kv_blocks.saturating_mul(BLOCK_TOKENS)))
}

/// Checks one request against the base's shape and the longest history that fits.
pub fn request(request: &Request, model: &ModelConfig, max_context: usize) -> Result<(), SubmitError> {
    let prompt = &request.prompt;
    if prompt.is_empty() {
        return Err(invalid("prompt", "is empty; at least one token is needed".to_owned()));
    }
    // One place is left for the answer, when there is to be one.
    let limit = max_context - usize::from(request.max_tokens > 0);
    if prompt.len() > limit {
        return Err(SubmitError::PromptTooLong { tokens: prompt.len(), limit });
    }
    if let Some((index, token)) = prompt.iter().enumerate().find(|(_, token)| **token as usize >= model.vocab_size) {
        return Err(invalid("prompt", format!("token {index} is {token}; the vocabulary has {} tokens", model.vocab_size)));
    }
    if request.pooling.is_some() && request.max_tokens > 0 {
        return Err(invalid("max_tokens", format!("is {}; with an embedding it must be 0", request.max_tokens)));
    }
    sampling(&request.sampling, model.vocab_size)
}

fn invalid(field: &'static str, problem: String) -> SubmitError {
    SubmitError::Invalid { field, problem }
}

fn sampling(sampling: &Sampling, vocab: usize) -> Result<(), SubmitError> {
    let within = |field, value: f32, range: std::ops::RangeInclusive<f32>| {
        if range.contains(&value) {
            Ok(())
        } else {
            Err(invalid(field, format!("is {value}; it must be between {} and {}", range.start(), range.end())))
        }
    };
    within("temperature", sampling.temperature, 0.0..=100.0)?;
    within("top_p", sampling.top_p, 0.0..=1.0)?;
    within("min_p", sampling.min_p, 0.0..=1.0)?;
    within("presence_penalty", sampling.presence_penalty, -100.0..=100.0)?;
    within("frequency_penalty", sampling.frequency_penalty, -100.0..=100.0)?;
    within("repetition_penalty", sampling.repetition_penalty, 0.01..=100.0)?;
    for &(token, bias) in &*sampling.logit_bias {
        within("logit_bias", bias, -100.0..=100.0)?;
        if token as usize >= vocab {
            return Err(invalid("logit_bias", format!("names token {token}; the vocabulary has {vocab} tokens")));
        }
    }
    Ok(())
}
