//! What a response says: messages and calls of functions, as they grow and as they are written.

use serde_json::{Value, json};

use super::object::Status;
use crate::gateway::ReportedToken;
use crate::http::middleware::random_hex;
use crate::http::openai::wire::{Endpoint, Logprobs};

/// One of the things that an answer consists of.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Text.
    Message {
        /// `msg_...`
        id: String,
        /// So far.
        text: String,
        /// Its tokens, where they are reported.
        tokens: Vec<ReportedToken>,
    },
    /// A call of a function.
    Call {
        /// `fc_...`
        id: String,
        /// What its output is to name.
        call_id: String,
        /// The function.
        name: String,
        /// JSON, so far.
        arguments: String,
    },
}

/// What a piece has changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// There is one more.
    Opened {
        /// Which.
        index: usize,
    },
    /// More text.
    Text {
        /// Of which.
        index: usize,
        /// The text.
        delta: String,
        /// Its tokens, where they are reported.
        tokens: Vec<ReportedToken>,
    },
    /// More arguments.
    Arguments {
        /// Of which.
        index: usize,
        /// Of the JSON.
        delta: String,
    },
    /// It is whole.
    Closed {
        /// Which.
        index: usize,
        /// How it has ended.
        status: Status,
    },
}

impl Output {
    /// A message without text.
    pub fn message() -> Self {
        Self::Message { id: format!("msg_{}", random_hex()), text: String::new(), tokens: Vec::new() }
    }

    /// A call without arguments.
    pub fn call(call_id: &str, name: &str) -> Self {
        let (call_id, name) = (call_id.to_owned(), name.to_owned());
        Self::Call { id: format!("fc_{}", random_hex()), call_id, name, arguments: String::new() }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        match self {
            Self::Message { id, .. } | Self::Call { id, .. } => id,
        }
    }

    /// As it is written.
    pub fn written(&self, status: Status) -> Value {
        match self {
            Self::Message { id, .. } => {
                let content = if status == Status::InProgress { json!([]) } else { json!([self.part()]) };
                json!({"id": id, "type": "message", "status": status.name(), "role": "assistant", "content": content})
            }
            Self::Call { id, call_id, name, arguments } => json!({
                "id": id, "type": "function_call", "status": status.name(), "call_id": call_id, "name": name,
                "arguments": arguments,
            }),
        }
    }

    /// The text of a message.
    pub fn part(&self) -> Value {
        let (text, tokens) = match self {
            Self::Message { text, tokens, .. } => (text.as_str(), tokens.as_slice()),
            Self::Call { .. } => ("", &[][..]),
        };
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs(tokens)})
    }
}

/// Reports of tokens.
pub fn logprobs(tokens: &[ReportedToken]) -> Value {
    // What a report of chat has inside.
    let report = serde_json::to_value(Logprobs { endpoint: Endpoint::Chat, prompt: &[], tokens });
    report.ok().and_then(|mut report| report.get_mut("content").map(Value::take)).unwrap_or_else(|| json!([]))
}
