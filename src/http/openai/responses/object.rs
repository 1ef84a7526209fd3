//! The `response` object: what it says at its beginning, while it grows, and at its end.

use serde_json::{Value, json};

use super::request::Shown;
use crate::gateway::{FinishReason, Piece, ReportedToken, Usage};
use crate::http::middleware::random_hex;
use crate::http::openai::reply::now;
use crate::http::openai::wire::{self, Endpoint, Logprobs};

/// A response that is being made.
pub struct Object {
    /// What it says of its request.
    pub shown: Shown,
    /// `resp_...`
    pub id: String,
    /// Of its message, `msg_...`.
    pub message_id: String,
    created: u64,
    /// What was said so far.
    pub text: String,
    tokens: Vec<ReportedToken>,
    finish: Option<FinishReason>,
}

/// The state of a response, or of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It grows.
    InProgress,
    /// It is whole.
    Completed,
    /// Its length has cut it.
    Incomplete,
    /// There is none.
    Failed,
}

impl Status {
    /// As it is written, also at the end of an event's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

impl Object {
    /// One of which nothing is there.
    pub fn new(shown: Shown) -> Self {
        Self {
            shown,
            id: format!("resp_{}", random_hex()),
            message_id: format!("msg_{}", random_hex()),
            created: now(),
            text: String::new(),
            tokens: Vec::new(),
            finish: None,
        }
    }

    /// Takes a piece of the answer.
    pub fn take(&mut self, piece: &Piece) {
        self.text.push_str(&piece.text);
        self.tokens.extend_from_slice(&piece.tokens);
        self.finish = self.finish.or(piece.finish);
    }

    /// The state that it has ended in.
    pub fn status(&self) -> Status {
        if self.finish == Some(FinishReason::Length) { Status::Incomplete } else { Status::Completed }
    }

    /// Its beginning.
    pub fn begun(&self) -> Value {
        self.written(Status::InProgress, json!([]), Value::Null)
    }

    /// Its end.
    pub fn finished(&self, usage: Usage) -> Value {
        let usage = json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        });
        self.written(self.status(), json!([self.message(self.status())]), usage)
    }

    /// Its end where the server could not go on.
    pub fn failed(&self, code: &str, message: &str) -> Value {
        let mut object = self.written(Status::Failed, json!([]), Value::Null);
        object["error"] = json!({"code": code, "message": message});
        object
    }

    /// Its message.
    pub fn message(&self, status: Status) -> Value {
        let content = if status == Status::InProgress { json!([]) } else { json!([self.part()]) };
        json!({"id": self.message_id, "type": "message", "status": status.name(), "role": "assistant", "content": content})
    }

    /// The text of its message.
    pub fn part(&self) -> Value {
        json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs(&self.tokens)})
    }

    /// Reports of tokens.
    pub fn logprobs(&self, tokens: &[ReportedToken]) -> Value {
        if !self.shown.has_logprobs {
            return json!([]);
        }
        // What a report of chat has inside.
        let report = serde_json::to_value(Logprobs { endpoint: Endpoint::Chat, prompt: &[], tokens });
        report.ok().and_then(|mut report| report.get_mut("content").map(Value::take)).unwrap_or_else(|| json!([]))
    }

    fn written(&self, status: Status, output: Value, usage: Value) -> Value {
        let shown = &self.shown;
        let incomplete = (status == Status::Incomplete).then(|| json!({"reason": "max_output_tokens"}));
        let completed = (status == Status::Completed).then(now);
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status.name(),
            "background": false,
            "completed_at": completed,
            "error": null,
            "incomplete_details": incomplete,
            "instructions": shown.instructions,
            "max_output_tokens": shown.max_output_tokens,
            "max_tool_calls": null,
            "metadata": shown.metadata,
            "model": shown.model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": shown.previous,
            "prompt_cache_key": shown.cache_key,
            "reasoning": {"effort": null, "summary": null},
            "safety_identifier": shown.end_user,
            "service_tier": "default",
            "store": shown.is_stored,
            "temperature": wire::shortest(shown.temperature),
            "text": {"format": shown.format},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": shown.top_logprobs,
            "top_p": wire::shortest(shown.top_p),
            "truncation": shown.truncation.name(),
            "usage": usage,
            "user": shown.end_user,
        })
    }
}
