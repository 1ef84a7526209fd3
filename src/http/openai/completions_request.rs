//! `POST /v1/completions`: the request, from JSON to the gateway's words.

use std::sync::Arc;

use serde_json::Value;

use super::generation::{Delivery, Generation, Limits, MAX_LOGPROBS, SHARED_RULES, end_user, token_ids};
use super::sender::Sender;
use crate::gateway::{Echo, EndToken, GenerationRequest, Prompt, SpecialTokens};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, Rule, wrong_type};

/// OpenAI's default for this endpoint.
const DEFAULT_MAX_TOKENS: usize = 16;

const RULES: &[(&str, Rule)] = &[
    ("suffix", Rule::Only(&[r#""""#], "Inserting between a prompt and a suffix is not supported.")),
    ("best_of", Rule::Only(&["1"], "All answers are returned; use 'n'.")),
];

/// Reads a completions request.
pub fn parse(body: Value, sender: &Sender, limits: &Limits) -> Result<(GenerationRequest, Delivery), ApiError> {
    let mut fields = Fields::body(body)?;
    let shared = Generation::take(&mut fields, limits)?;
    let special = match fields.boolean("add_special_tokens")? {
        Some(false) => SpecialTokens::Omit,
        _ => SpecialTokens::Add,
    };
    let prompt = fields.take("prompt").ok_or_else(|| fields.missing("prompt"))?;
    let prompts = prompts("prompt", prompt, special, limits)?;
    let most = limits.max_prompts.max(limits.max_n).min(limits.max_sequences);
    if prompts.len().saturating_mul(shared.n) > most {
        let (param, code) = if shared.n > 1 { ("n", "value_out_of_range") } else { ("prompt", "array_above_max_length") };
        let message = format!(
            "Invalid '{param}': {} prompts with {} answers each are more than the {most} answers of one request.",
            prompts.len(),
            shared.n
        );
        return Err(ApiError::invalid(param, code, message));
    }
    let echo = match fields.boolean("echo")? {
        Some(true) => Echo::PromptAndAnswer,
        _ => Echo::Answer,
    };
    let max_tokens = fields.count("max_tokens", 0..=u32::MAX as usize)?.unwrap_or(DEFAULT_MAX_TOKENS);
    if max_tokens == 0 && echo == Echo::Answer {
        let message = "Invalid 'max_tokens': 0 is only allowed together with 'echo'. Expected a value >= 1.";
        return Err(ApiError::invalid("max_tokens", "value_out_of_range", message));
    }
    let logprobs = fields.count("logprobs", 0..=MAX_LOGPROBS)?;
    let end_user = end_user(&mut fields)?;
    let rules: Vec<(&str, Rule)> = SHARED_RULES.iter().chain(RULES).copied().collect();
    fields.finish(&rules)?;
    let request = GenerationRequest {
        caller: Arc::clone(&sender.caller),
        origin: sender.origin("completions", end_user),
        caching: sender.caching,
        model: shared.model,
        steering: sender.steering.clone(),
        prompts,
        n: shared.n,
        sampling: shared.sampling,
        seed: shared.seed,
        max_tokens: Some(max_tokens),
        stops: shared.stops,
        logprobs,
        end_token: EndToken::Reported,
        echo,
        form: shared.form,
        tools: None,
        judge: None,
        pooling: None,
    };
    Ok((request, shared.delivery))
}

/// One prompt or several, as text or as token ids, from the field of this name.
pub fn prompts(field: &str, value: Value, special: SpecialTokens, limits: &Limits) -> Result<Vec<Prompt>, ApiError> {
    let text = |text| Prompt::Text { text, special };
    let values = match value {
        Value::String(value) => return Ok(vec![text(value)]),
        Value::Array(values) => values,
        other => return Err(wrong_type(field, "a string, an array of strings, or arrays of token ids", &other)),
    };
    match values.first() {
        None => {
            let message = format!("Invalid '{field}': empty array. Expected at least one {field}.");
            Err(ApiError::invalid(field, "empty_array", message))
        }
        Some(Value::Number(_)) => Ok(vec![Prompt::Tokens(token_ids(field, Value::Array(values), limits)?)]),
        Some(_) if values.len() > limits.max_prompts => {
            let message =
                format!("Invalid '{field}': expected at most {} {field}s, but got {}.", limits.max_prompts, values.len());
            Err(ApiError::invalid(field, "array_above_max_length", message))
        }
        Some(_) => values
            .into_iter()
            .enumerate()
            .map(|(index, value)| match value {
                Value::String(value) => Ok(text(value)),
                Value::Array(_) => Ok(Prompt::Tokens(token_ids(&format!("{field}[{index}]"), value, limits)?)),
                other => Err(wrong_type(&format!("{field}[{index}]"), "a string or an array of token ids", &other)),
            })
            .collect(),
    }
}
