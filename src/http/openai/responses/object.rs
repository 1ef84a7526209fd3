//! The `response` object: what it says at its beginning, while it grows, and at its end.

use serde_json::{Value, json};

use super::output::{Change, Output};
use super::request::Shown;
use crate::gateway::{FinishReason, Piece, ReportedToken, Usage};
use crate::http::middleware::random_hex;
use crate::http::openai::reply::now;
use crate::http::openai::wire;

/// A response that is being made.
pub struct Object {
    /// What it says of its request.
    pub shown: Shown,
    /// `resp_...`
    id: String,
    created: u64,
    /// What was said so far.
    pub output: Vec<Output>,
    /// Text that may be nothing but the space before a call.
    held: String,
    /// Tokens whose text has not come yet.
    tokens: Vec<ReportedToken>,
    finish: Option<FinishReason>,
}

/// The state of a response, or of what it has said.
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
            created: now(),
            output: Vec::new(),
            held: String::new(),
            tokens: Vec::new(),
            finish: None,
        }
    }

    /// Takes a piece of the answer; what it has changed.
    pub fn take(&mut self, piece: &Piece) -> Vec<Change> {
        let mut changes = Vec::new();
        self.finish = self.finish.or(piece.finish);
        if self.shown.has_logprobs {
            self.tokens.extend_from_slice(&piece.tokens);
        }
        self.held.push_str(&piece.text);
        let goes_on = matches!(self.output.last(), Some(Output::Message { .. }));
        // Tokens without text wait: they may be what a call begins with.
        if !self.held.trim().is_empty() || (goes_on && !self.held.is_empty()) {
            self.say(&mut changes);
        }
        for call in &piece.calls {
            if let Some((call_id, name)) = &call.begins {
                // Spaces before a call are nobody's.
                self.held.clear();
                self.tokens.clear();
                self.open(Output::call(call_id, name), &mut changes);
            }
            if let Some(Output::Call { arguments, .. }) = self.output.last_mut() {
                arguments.push_str(&call.arguments);
                let delta = call.arguments.clone();
                if !delta.is_empty() {
                    changes.push(Change::Arguments { index: self.output.len() - 1, delta });
                }
            }
        }
        changes
    }

    /// The answer has ended; what that has changed.
    pub fn close(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let rests = !(self.held.is_empty() && self.tokens.is_empty());
        if self.output.is_empty() || (rests && matches!(self.output.last(), Some(Output::Message { .. }))) {
            self.say(&mut changes);
        }
        changes.push(Change::Closed { index: self.output.len() - 1, status: self.status() });
        changes
    }

    /// Adds what is held to the message.
    fn say(&mut self, changes: &mut Vec<Change>) {
        if !matches!(self.output.last(), Some(Output::Message { .. })) {
            self.open(Output::message(), changes);
        }
        let (delta, reported) = (std::mem::take(&mut self.held), std::mem::take(&mut self.tokens));
        if let Some(Output::Message { text, tokens, .. }) = self.output.last_mut() {
            text.push_str(&delta);
            tokens.extend_from_slice(&reported);
        }
        if !delta.is_empty() || !reported.is_empty() {
            changes.push(Change::Text { index: self.output.len() - 1, delta, tokens: reported });
        }
    }

    fn open(&mut self, output: Output, changes: &mut Vec<Change>) {
        if let Some(index) = self.output.len().checked_sub(1) {
            changes.push(Change::Closed { index, status: Status::Completed });
        }
        self.output.push(output);
        changes.push(Change::Opened { index: self.output.len() - 1 });
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
        let last = self.output.len().saturating_sub(1);
        let status = |index| if index == last { self.status() } else { Status::Completed };
        let output: Vec<Value> = self.output.iter().enumerate().map(|(index, output)| output.written(status(index))).collect();
        self.written(self.status(), output.into(), usage)
    }

    /// Its end where the server could not go on.
    pub fn failed(&self, code: &str, message: &str) -> Value {
        let mut object = self.written(Status::Failed, json!([]), Value::Null);
        object["error"] = json!({"code": code, "message": message});
        object
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
            "parallel_tool_calls": shown.written.parallel,
            "previous_response_id": shown.previous,
            "prompt_cache_key": shown.cache_key,
            "reasoning": {"effort": null, "summary": null},
            "safety_identifier": shown.end_user,
            "service_tier": "default",
            "store": shown.is_stored,
            "temperature": wire::shortest(shown.temperature),
            "text": {"format": shown.written.format},
            "tool_choice": shown.written.tool_choice,
            "tools": shown.written.tools,
            "top_logprobs": shown.top_logprobs,
            "top_p": wire::shortest(shown.top_p),
            "truncation": shown.truncation.name(),
            "usage": usage,
            "user": shown.end_user,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::super::request::{Truncation, Written};
    use super::*;
    use crate::gateway::CallPiece;

    fn object() -> Object {
        let written = Written { tools: json!([]), tool_choice: json!("auto"), parallel: json!(true), format: json!({}) };
        Object::new(Shown {
            model: "base".to_owned(),
            instructions: None,
            max_output_tokens: None,
            metadata: json!({}),
            previous: None,
            cache_key: None,
            end_user: None,
            temperature: 1.0,
            top_p: 1.0,
            top_logprobs: 0,
            has_logprobs: true,
            truncation: Truncation::Disabled,
            is_stored: false,
            written,
        })
    }

    fn piece(text: &str, token: &str) -> Piece {
        let token = ReportedToken { bytes: token.as_bytes().to_vec(), ..ReportedToken::default() };
        Piece { text: text.to_owned(), tokens: vec![token], ..Piece::default() }
    }

    fn names(object: &Object) -> Vec<String> {
        let Some(Output::Message { tokens, .. }) = object.output.first() else { panic!("no message") };
        tokens.iter().map(|token| String::from_utf8(token.bytes.clone()).unwrap()).collect()
    }

    #[test]
    fn the_tokens_of_a_calls_cue_are_not_the_messages() {
        let mut object = object();
        object.take(&piece("Well.", "Well."));
        assert!(object.take(&piece("", "<tool_")).is_empty(), "nothing is said yet");
        let begins = Some(("id".to_owned(), "f".to_owned()));
        let call = CallPiece { index: 0, begins, arguments: "{}".to_owned() };
        object.take(&Piece { calls: vec![call], ..piece("", "call>") });
        object.close();
        assert_eq!(names(&object), ["Well."]);
    }

    #[test]
    fn tokens_whose_text_comes_later_are_the_messages() {
        let mut object = object();
        for (text, token) in [("a", "a"), ("", "b1"), ("b", "b2"), ("", "c1")] {
            object.take(&piece(text, token));
        }
        assert_eq!(names(&object), ["a", "b1", "b2"]);
        let changes = object.close();
        assert_eq!((names(&object).len(), changes.len()), (4, 2), "the last one has a place, too");
    }
}
