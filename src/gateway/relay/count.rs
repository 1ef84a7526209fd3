//! Texts of requests and answers in OpenAI's JSON, to count their tokens where nobody says how many they are. Pure but for the
//! tokenizer.

use serde_json::Value;

use crate::gateway::types::Usage;
use crate::model::tokenizer::{Specials, Tokenizer};

/// What chat templates write around a message, tokens.
const AROUND_MESSAGE: usize = 4;
/// What an image, a sound or a file is taken for before its server says how much it is, tokens.
const MEDIUM: usize = 1_500;
/// Fields of messages with the address of a medium or the medium itself, encoded.
const ENCODED: &[&str] = &["url", "image_url", "video_url", "audio_url", "data", "file_data", "file_id"];
/// Longest of the format's own words (`image_url`, `developer`), bytes.
const LONGEST_WORD: usize = 24;
/// Parameters of OpenAI's that no model reads.
const UNREAD: &[&str] = &[
    "audio",
    "logit_bias",
    "metadata",
    "modalities",
    "moderation",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "stop",
    "encoding_format",
    "reasoning_effort",
    "user",
    "verbosity",
];
/// Longer texts are counted by their beginning where nobody may wait, bytes.
const SAMPLE: usize = 16 * 1024;

/// What a request says, and the tokens that are there beside its texts.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub text: String,
    pub tokens: usize,
}

/// All that a request says which a model may read: every text of it but addresses and what is encoded, a fixed number of tokens for
/// each image, sound or file. `borrowed`, and what is charged where nobody says how much it was, go by it.
pub(super) fn told(body: &Value) -> Told {
    let mut told = Told::default();
    for (field, value) in body.as_object().into_iter().flatten() {
        match field.as_str() {
            field if UNREAD.contains(&field) => {}
            "messages" => value.as_array().into_iter().flatten().for_each(|message| {
                told.tokens += AROUND_MESSAGE;
                told.said("", message);
            }),
            "prompt" | "input" => match value {
                Value::Array(items) => items.iter().for_each(|item| match item {
                    Value::String(text) => told.text.push_str(text),
                    Value::Array(tokens) => told.tokens += tokens.len(),
                    _ => told.tokens += 1,
                }),
                other => told.said("", other),
            },
            // Schemas are read with their names and signs.
            _ if matches!(value, Value::Object(_) | Value::Array(_)) => told.text.push_str(&value.to_string()),
            field => told.said(field, value),
        }
    }
    told
}

impl Told {
    /// Texts of a message or a part of one; `name` is what the value is called there.
    fn said(&mut self, name: &str, value: &Value) {
        match value {
            Value::String(_) if ENCODED.contains(&name) => self.tokens += MEDIUM,
            // Words of the format are what `AROUND_MESSAGE` stands for.
            Value::String(text) if matches!(name, "role" | "type") && text.len() <= LONGEST_WORD => {}
            Value::String(text) => self.text.push_str(text),
            Value::Array(items) => items.iter().for_each(|item| self.said("", item)),
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match (name.as_str(), value) {
                // An earlier spoken answer, by its id.
                ("audio", Value::Object(sound)) if sound.contains_key("id") => self.tokens += MEDIUM,
                (name, value) => self.said(name, value),
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

fn calls(calls: &Value, text: &mut String) {
    for call in calls.as_array().into_iter().flatten() {
        for part in [&call["function"]["name"], &call["function"]["arguments"]] {
            text.push_str(part.as_str().unwrap_or_default());
        }
    }
}

/// What a choice of an answer, or of a piece of one, says: all of it, and what of it is its text.
pub(super) fn answered(choice: &Value, all: &mut String) -> usize {
    let before = all.len();
    all.push_str(choice["text"].as_str().unwrap_or_default());
    for part in [&choice["message"], &choice["delta"]] {
        for field in ["content", "refusal", "reasoning_content", "reasoning"] {
            all.push_str(part[field].as_str().unwrap_or_default());
        }
        calls(&part["tool_calls"], all);
    }
    all.len() - before
}

/// `usage`, where it is there.
pub(super) fn usage(value: &Value) -> Option<Usage> {
    let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
    let usage = &value["usage"];
    Some(Usage {
        prompt_tokens: count(&usage["prompt_tokens"])?,
        // Embeddings have none.
        completion_tokens: count(&usage["completion_tokens"]).unwrap_or(0),
        cached_tokens: count(&usage["prompt_tokens_details"]["cached_tokens"]).unwrap_or(0),
        reasoning_tokens: count(&usage["completion_tokens_details"]["reasoning_tokens"]).unwrap_or(0),
    })
}

/// Tokens of a text; of a long one about, by its beginning.
pub(super) fn about(tokenizer: &Tokenizer, text: &str) -> usize {
    let sample = &text[..text.floor_char_boundary(SAMPLE)];
    let counted = exactly(tokenizer, sample);
    if sample.len() == text.len() { counted } else { counted.saturating_mul(text.len()) / sample.len().max(1) }
}

/// Tokens of a text.
pub(super) fn exactly(tokenizer: &Tokenizer, text: &str) -> usize {
    if text.is_empty() {
        return 0;
    }
    // What cannot be tokenized has at most its bytes.
    tokenizer.encode(text, Specials::Omit).map_or(text.len(), |tokens| tokens.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn every_text_of_a_request_counts() {
        let body = json!({
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "one "}]},
                {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "content": "two"},
                {"role": "user", "name": "Ann", "content": "x"},
                {"role": "assistant", "refusal": "no", "reasoning_content": "why"},
                {"role": "a role as long as somebody likes", "content": ""},
            ],
            "temperature": 1, "user": "not read", "metadata": {"not": "read"},
        });
        let chat = told(&body);
        let text = "one f{}twoAnnxnowhya role as long as somebody likes";
        assert_eq!((chat.text.as_str(), chat.tokens), (text, 24));
        assert_eq!(told(&json!({"prompt": ["ab", "c"], "suffix": "d"})).text, "abcd");
        assert_eq!(told(&json!({"prompt": [[1, 2], [3]]})).tokens, 3);
        assert_eq!(told(&json!({"input": [1, 2, 3, 4]})).tokens, 4);
        let schema = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": {"properties": {"colour": {}}}}});
        for (field, value) in [
            ("tools", json!([{"type": "function", "function": {"name": "colour"}}])),
            ("functions", json!([{"name": "colour"}])),
            ("response_format", schema),
            ("prediction", json!({"type": "content", "content": "colour"})),
            ("guided_regex", json!("colour")),
        ] {
            assert!(told(&json!({"messages": [], field: value})).text.contains("colour"), "{field}");
        }
    }

    #[test]
    fn media_count_so_much_each_and_not_by_their_bytes() {
        let encoded = "A".repeat(100_000);
        let parts = json!([
            {"type": "text", "text": "see https://example.com"},
            {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{encoded}"), "detail": "high"}},
            {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}},
            {"type": "file", "file": {"file_data": encoded, "filename": "a.pdf"}},
        ]);
        let said =
            told(&json!({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "audio": {"id": "audio_1"}}]}));
        assert_eq!(said.tokens, 4 * MEDIUM + 2 * AROUND_MESSAGE);
        assert_eq!(said.text, "see https://example.comhighwava.pdf");
    }

    #[test]
    fn answers_are_read_whole_and_in_pieces() {
        let mut all = String::new();
        assert_eq!(answered(&json!({"delta": {"content": "a", "tool_calls": [{"function": {"arguments": "b"}}]}}), &mut all), 2);
        assert_eq!(answered(&json!({"message": {"content": null, "reasoning_content": "c"}}), &mut all), 1);
        assert_eq!(answered(&json!({"text": "d", "finish_reason": "stop"}), &mut all), 1);
        assert_eq!(answered(&json!({"delta": {}, "finish_reason": "stop"}), &mut all), 0);
        assert_eq!(all, "abcd");
        let given = json!({"usage": {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3},
                                     "completion_tokens_details": {"reasoning_tokens": 2}}});
        let usage = usage(&given).unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens), (5, 7, 3, 2));
        assert_eq!(super::usage(&json!({"usage": null})), None);
    }
}
