//! Requests for models that are other servers: what is passed on. OpenAI's parameters are, by their names and with their values as they
//! came; others only where the configuration says that the server knows them. What we count by is checked here.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::generation::{Delivery, Limits, delivery, end_user};
use super::sender::Sender;
use crate::gateway::{Endpoint, RelayRequest, Route, Steering};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong_type};

/// Parameters of OpenAI's `/v1/chat/completions` (openai-python 3.52, `CompletionCreateParams`).
const CHAT: &[&str] = &[
    "messages",
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "metadata",
    "modalities",
    "moderation",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];
/// Of `/v1/completions`.
const COMPLETIONS: &[&str] = &[
    "prompt",
    "best_of",
    "echo",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "n",
    "presence_penalty",
    "seed",
    "stop",
    "suffix",
    "temperature",
    "top_p",
    "user",
];
/// Of `/v1/embeddings`.
const EMBEDDINGS: &[&str] = &["input", "dimensions", "encoding_format", "user"];
/// OpenAI's limit.
const MAX_INPUTS: usize = 2048;

/// Reads a request; what is wrong with what is passed on is the other server's to say.
pub fn parse(
    body: &Value,
    sender: &Sender,
    limits: &Limits,
    (endpoint, route): (Endpoint, &Route),
) -> Result<(RelayRequest, Delivery), ApiError> {
    let Value::Object(map) = body else { return Err(Fields::body(body.clone()).err().unwrap_or_else(not_an_object)) };
    let mut ours = Map::new();
    let mut passed = Map::new();
    for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "model" | "stream" | "stream_options" => ours.insert(name.clone(), value.clone()),
            _ => passed.insert(name.clone(), value.clone()),
        };
    }
    let mut ours = Fields::body(Value::Object(ours))?;
    let model = ours.required_string("model")?;
    check_names(&passed, &model, endpoint, route)?;
    let delivery = match endpoint {
        Endpoint::Chat | Endpoint::Completions => delivery(&mut ours)?,
        Endpoint::Embeddings => Delivery::Whole,
    };
    ours.finish(&[])?;
    // Read from a copy of what is counted by.
    let counted = ["n", "max_tokens", "max_completion_tokens", "user", "safety_identifier", "prompt_cache_key", "best_of"];
    let counted = counted.iter().filter_map(|name| Some(((*name).to_owned(), passed.get(*name)?.clone())));
    let mut counted = Fields::body(Value::Object(counted.collect()))?;
    let prompts = prompts(&passed, endpoint, limits)?;
    let n = counted.count("n", 1..=limits.max_n)?.unwrap_or(1);
    let computed = counted.count("best_of", 1..=limits.max_n)?.unwrap_or(1).max(n);
    let least = usize::from(endpoint == Endpoint::Chat);
    let old = counted.count("max_tokens", least..=u32::MAX as usize)?;
    let new = counted.count("max_completion_tokens", 1..=u32::MAX as usize)?;
    if old.is_some() && new.is_some() {
        // A server may go by either: what is borrowed would not be what is made.
        let message = "'max_tokens' and 'max_completion_tokens' mean the same; send only 'max_completion_tokens'.";
        return Err(ApiError::invalid("max_tokens", "invalid_parameter_combination", message));
    }
    let end_user = end_user(&mut counted)?;
    let cache_key = counted.string("prompt_cache_key")?.filter(|key| !key.is_empty());
    // OpenAI's default for this endpoint, which others may have forgotten.
    let max_tokens = new.or(old).or((endpoint == Endpoint::Completions).then_some(16));
    if endpoint == Endpoint::Completions && new.is_none() {
        passed.entry("max_tokens").or_insert_with(|| 16.into());
    }
    let asked = match endpoint {
        Endpoint::Chat => "chat.completions",
        Endpoint::Completions => "completions",
        Endpoint::Embeddings => "embeddings",
    };
    let request = RelayRequest {
        caller: Arc::clone(&sender.caller),
        origin: sender.origin(asked, end_user),
        model,
        steering: Steering { cache_key, ..sender.steering.clone() },
        endpoint,
        body: Value::Object(passed),
        choices: if endpoint == Endpoint::Embeddings { 1 } else { prompts.saturating_mul(n) },
        computed: prompts.saturating_mul(computed),
        max_tokens,
        streamed: delivery != Delivery::Whole,
    };
    Ok((request, delivery))
}

fn not_an_object() -> ApiError {
    ApiError::internal(&"an object is none; this is a bug")
}

/// Refuses what the server does not know, by name.
fn check_names(passed: &Map<String, Value>, model: &str, endpoint: Endpoint, route: &Route) -> Result<(), ApiError> {
    let known = match endpoint {
        Endpoint::Chat => CHAT,
        Endpoint::Completions => COMPLETIONS,
        Endpoint::Embeddings => EMBEDDINGS,
    };
    let has = |list: &[String], name: &str| list.iter().any(|known| known == name);
    for name in passed.keys() {
        let reason = if has(&route.refuses, name) {
            format!("The model '{model}' is an upstream that does not know it.")
        } else if known.contains(&name.as_str()) || has(&route.parameters, name) {
            continue;
        } else {
            format!("The model '{model}' is an upstream: OpenAI's parameters are passed on to it, and this is none.")
        };
        let message = format!("Unsupported parameter: '{name}'. {reason}");
        return Err(ApiError::invalid(name.clone(), "unsupported_parameter", message));
    }
    Ok(())
}

/// How many prompts or inputs there are; an error where there are none, or too many.
fn prompts(passed: &Map<String, Value>, endpoint: Endpoint, limits: &Limits) -> Result<usize, ApiError> {
    let (field, most) = match endpoint {
        Endpoint::Chat => ("messages", usize::MAX),
        Endpoint::Completions => ("prompt", limits.max_prompts),
        Endpoint::Embeddings => ("input", MAX_INPUTS),
    };
    let count = match passed.get(field) {
        None => {
            let message = format!("Missing required parameter: '{field}'.");
            return Err(ApiError::invalid(field, "missing_required_parameter", message));
        }
        Some(Value::Array(items)) if items.is_empty() => {
            return Err(ApiError::invalid(field, "empty_array", format!("Invalid '{field}': empty array.")));
        }
        Some(Value::Array(_)) if endpoint == Endpoint::Chat => 1,
        Some(other) if endpoint == Endpoint::Chat => return Err(wrong_type(field, "an array of messages", other)),
        Some(Value::String(_)) => 1,
        // Token ids are one prompt.
        Some(Value::Array(items)) if items.iter().all(Value::is_number) => 1,
        Some(Value::Array(items)) => items.len(),
        Some(other) => return Err(wrong_type(field, "a string or an array", other)),
    };
    if count > most {
        let message = format!("Invalid '{field}': array too long. Expected at most {most} items, but got {count}.");
        return Err(ApiError::invalid(field, "array_above_max_length", message));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn names(body: Value, endpoint: Endpoint, route: &Route) -> Result<(), ApiError> {
        let Value::Object(map) = body else { panic!() };
        check_names(&map, "big", endpoint, route)
    }

    #[test]
    fn only_known_parameters_are_passed_on() {
        let plain = Route::default();
        names(json!({"messages": [], "logprobs": true, "reasoning_effort": "high"}), Endpoint::Chat, &plain).unwrap();
        let error = names(json!({"messages": [], "top_k": 3}), Endpoint::Chat, &plain).unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), (Some("unsupported_parameter"), Some("top_k")));
        assert!(names(json!({"messages": []}), Endpoint::Completions, &plain).is_err());
        let own = Route { parameters: vec!["top_k".to_owned()], refuses: vec!["logprobs".to_owned()], ..Route::default() };
        names(json!({"top_k": 3}), Endpoint::Chat, &own).unwrap();
        assert!(names(json!({"logprobs": true}), Endpoint::Chat, &own).is_err());
    }
}
