//! OpenAI's response objects, as they are written.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::gateway::{CallPiece, FinishReason, ReportedToken, Usage};

/// What OpenAI sends where a probability is 0; JSON has no infinity.
const LOWEST_LOGPROB: f32 = -9999.0;

/// Which endpoint's objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

impl Endpoint {
    /// Begins the ids of answers.
    pub const fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl-",
            Self::Completions => "cmpl-",
        }
    }

    /// The field that holds the prompt.
    pub const fn prompt_field(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completions => "prompt",
        }
    }

    /// `object` of a whole answer.
    pub const fn object(self) -> &'static str {
        match self {
            Self::Chat => "chat.completion",
            Self::Completions => "text_completion",
        }
    }

    /// `object` of a streamed piece.
    pub const fn chunk_object(self) -> &'static str {
        match self {
            Self::Chat => "chat.completion.chunk",
            Self::Completions => "text_completion",
        }
    }
}

/// `usage`
pub fn usage(usage: Usage) -> Value {
    let mut json = json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    });
    if usage.reasoning_tokens > 0 {
        json["completion_tokens_details"] = json!({"reasoning_tokens": usage.reasoning_tokens});
    }
    json
}

/// A number as it was typed: the shortest decimal that reads back the same.
pub fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// A piece of a call, as streams have it.
pub fn call_piece(call: &CallPiece) -> Value {
    match &call.begins {
        Some((id, name)) => json!({
            "index": call.index, "id": id, "type": "function", "function": {"name": name, "arguments": call.arguments},
        }),
        None => json!({"index": call.index, "function": {"arguments": call.arguments}}),
    }
}

/// `finish_reason`
pub const fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

/// `logprobs` of a choice, in the endpoint's own shape.
pub struct Logprobs<'a> {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The tokens of an echoed prompt.
    pub prompt: &'a [ReportedToken],
    /// The generated tokens.
    pub tokens: &'a [ReportedToken],
}

impl<'a> Logprobs<'a> {
    fn all(&self) -> impl Iterator<Item = &'a ReportedToken> + Clone {
        self.prompt.iter().chain(self.tokens)
    }
}

impl Serialize for Logprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.endpoint {
            Endpoint::Chat => {
                #[derive(Serialize)]
                struct Content<'a> {
                    content: Vec<ChatToken<'a>>,
                    refusal: (),
                }
                Content { content: self.all().map(ChatToken::new).collect(), refusal: () }.serialize(serializer)
            }
            Endpoint::Completions => CompletionLogprobs::new(self.all()).serialize(serializer),
        }
    }
}

#[derive(Serialize)]
struct ChatToken<'a> {
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
    top_logprobs: Vec<TopToken<'a>>,
}

#[derive(Serialize)]
struct TopToken<'a> {
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
}

impl<'a> ChatToken<'a> {
    fn new(token: &'a ReportedToken) -> Self {
        let top = |(bytes, logprob): &'a (Vec<u8>, f32)| TopToken {
            token: String::from_utf8_lossy(bytes),
            logprob: finite(*logprob),
            bytes,
        };
        Self {
            token: String::from_utf8_lossy(&token.bytes),
            logprob: finite(token.logprob.unwrap_or(LOWEST_LOGPROB)),
            bytes: &token.bytes,
            top_logprobs: token.top.iter().map(top).collect(),
        }
    }
}

#[derive(Serialize)]
struct CompletionLogprobs<'a> {
    tokens: Vec<Cow<'a, str>>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<TopMap<'a>>>,
    text_offset: Vec<usize>,
}

impl<'a> CompletionLogprobs<'a> {
    fn new(tokens: impl Iterator<Item = &'a ReportedToken> + Clone) -> Self {
        Self {
            tokens: tokens.clone().map(|token| name(&token.bytes)).collect(),
            token_logprobs: tokens.clone().map(|token| token.logprob.map(finite)).collect(),
            top_logprobs: tokens.clone().map(top_map).collect(),
            text_offset: tokens.map(|token| token.offset).collect(),
        }
    }
}

/// The most likely tokens and the token itself, which may make one more than was asked (OpenAI's rule).
struct TopMap<'a>(Vec<(Cow<'a, str>, f32)>);

impl Serialize for TopMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, logprob)| (name, logprob)))
    }
}

fn top_map(token: &ReportedToken) -> Option<TopMap<'_>> {
    let own = (name(&token.bytes), finite(token.logprob?));
    let mut top: Vec<_> = token.top.iter().map(|(bytes, logprob)| (name(bytes), finite(*logprob))).collect();
    // Different tokens may spell the same bytes: the more likely one stays.
    let mut seen = std::collections::HashSet::new();
    top.retain(|(name, _)| seen.insert(name.clone()));
    if !seen.contains(&own.0) {
        top.push(own);
    }
    Some(TopMap(top))
}

/// A token's text; parts of characters are written as OpenAI writes them here, so that different tokens have different names.
fn name(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(
        |_| {
            let hex = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
            Cow::Owned(format!("bytes:{hex}"))
        },
        Cow::Borrowed,
    )
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LOWEST_LOGPROB }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    fn token() -> ReportedToken {
        ReportedToken {
            bytes: vec![0xc3],
            logprob: Some(f32::NEG_INFINITY),
            top: vec![(b"a".to_vec(), -0.5), (vec![0xa9], -1.5)],
            offset: 3,
        }
    }

    #[test]
    fn parts_of_characters_have_bytes_and_zero_probability_is_a_number() {
        let value = serde_json::to_value(Logprobs { endpoint: Endpoint::Chat, prompt: &[], tokens: &[token()] }).unwrap();
        assert_eq!(
            value,
            json!({"content": [{
                "token": "\u{fffd}", "logprob": -9999.0, "bytes": [0xc3],
                "top_logprobs": [
                    {"token": "a", "logprob": -0.5, "bytes": [0x61]},
                    {"token": "\u{fffd}", "logprob": -1.5, "bytes": [0xa9]},
                ],
            }], "refusal": null})
        );
    }

    #[test]
    fn the_older_shape_names_every_token_apart_and_includes_the_chosen_one() {
        let first = ReportedToken { bytes: b"x".to_vec(), ..ReportedToken::default() };
        let value =
            serde_json::to_value(Logprobs { endpoint: Endpoint::Completions, prompt: &[first], tokens: &[token()] }).unwrap();
        assert_eq!(
            value,
            json!({
                "tokens": ["x", "bytes:\\xc3"],
                "token_logprobs": [null, -9999.0],
                "top_logprobs": [null, {"a": -0.5, "bytes:\\xa9": -1.5, "bytes:\\xc3": -9999.0}],
                "text_offset": [0, 3],
            })
        );
    }
}
