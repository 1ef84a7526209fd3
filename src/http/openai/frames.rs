//! Server-sent events of a streamed answer, written piece by piece without building JSON trees.

use std::io::Write;

use serde::Serialize;

use super::generation::StreamUsage;
use super::reply::EventWriter;
use super::sender::ShowCost;
use super::wire::{self, Endpoint, Logprobs};
use crate::gateway::{FinishReason, Piece, Usage};
use crate::http::error::ApiError;
use crate::http::limits;

/// Sent when nothing was sent for a while; clients ignore comments.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
/// Ends a stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// Writes the events of one answer.
pub struct Frames {
    endpoint: Endpoint,
    /// Everything up to `choices`, the same in every event.
    head: Vec<u8>,
    usage: StreamUsage,
    logprobs: Reports,
    cost: ShowCost,
}

/// Whether tokens are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reports {
    /// With log-probabilities.
    Sent,
    /// Not.
    Omitted,
}

/// What all events of an answer say.
pub struct Head<'a> {
    /// The answer's id.
    pub id: &'a str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name as the caller wrote it.
    pub model: &'a str,
}

impl Frames {
    /// A writer for one answer.
    pub fn new(endpoint: Endpoint, head: &Head<'_>, usage: StreamUsage, logprobs: Reports, cost: ShowCost) -> Self {
        let mut bytes = b"data: {\"id\":".to_vec();
        json(&mut bytes, head.id);
        bytes.extend_from_slice(b",\"object\":");
        json(&mut bytes, endpoint.chunk_object());
        bytes.extend_from_slice(b",\"created\":");
        json(&mut bytes, &head.created);
        bytes.extend_from_slice(b",\"model\":");
        json(&mut bytes, head.model);
        bytes.extend_from_slice(b",\"choices\":[");
        Self { endpoint, head: bytes, usage, logprobs, cost }
    }

    /// The events before the first piece.
    pub fn begin(&self, out: &mut Vec<u8>, choices: usize) {
        if self.endpoint == Endpoint::Chat {
            for choice in 0..choices {
                self.open(out, choice);
                out.extend_from_slice(b"\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null");
                self.close(out, None);
            }
        }
    }

    /// The events of a piece.
    pub fn piece(&self, out: &mut Vec<u8>, piece: &Piece) {
        match self.endpoint {
            Endpoint::Chat => {
                if !piece.text.is_empty() || !piece.prompt.is_empty() || !piece.tokens.is_empty() {
                    self.open(out, piece.choice);
                    out.extend_from_slice(b"\"delta\":{\"content\":");
                    json(out, &piece.text);
                    out.extend_from_slice(b"},\"logprobs\":");
                    self.write_logprobs(out, piece);
                    self.close(out, None);
                }
                for call in &piece.calls {
                    self.open(out, piece.choice);
                    out.extend_from_slice(b"\"delta\":{\"tool_calls\":[");
                    json(out, &wire::call_piece(call));
                    out.extend_from_slice(b"]},\"logprobs\":null");
                    self.close(out, None);
                }
                if piece.finish.is_some() {
                    self.open(out, piece.choice);
                    out.extend_from_slice(b"\"delta\":{},\"logprobs\":null");
                    self.close(out, piece.finish);
                }
            }
            Endpoint::Completions => {
                self.open(out, piece.choice);
                out.extend_from_slice(b"\"text\":");
                json(out, &piece.text);
                out.extend_from_slice(b",\"logprobs\":");
                self.write_logprobs(out, piece);
                self.close(out, piece.finish);
            }
        }
    }

    /// The events after the last piece; `cost` in nano-dollars.
    pub fn end(&self, out: &mut Vec<u8>, usage: Usage, cost: Option<i64>) {
        if self.usage == StreamUsage::Sent {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b"],\"usage\":");
            let mut usage = wire::usage(usage);
            if let (ShowCost::Shown, Some(nanos)) = (self.cost, cost) {
                usage["cost_usd"] = limits::usd(nanos).into();
            }
            json(out, &usage);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(DONE);
    }

    /// The events of a failure after the stream has begun: the status is sent already.
    pub fn failure(out: &mut Vec<u8>, error: &ApiError) {
        out.extend_from_slice(b"data: ");
        json(out, &error.envelope());
        out.extend_from_slice(b"\n\n");
        out.extend_from_slice(DONE);
    }

    fn open(&self, out: &mut Vec<u8>, choice: usize) {
        out.extend_from_slice(&self.head);
        // Writing to a vector does not fail.
        let _ = write!(out, "{{\"index\":{choice},");
    }

    fn close(&self, out: &mut Vec<u8>, finish: Option<FinishReason>) {
        out.extend_from_slice(b",\"finish_reason\":");
        json(out, &finish.map(wire::finish_reason));
        out.extend_from_slice(match self.usage {
            StreamUsage::Sent => b"}],\"usage\":null}\n\n",
            StreamUsage::Omitted => b"}]}\n\n",
        });
    }

    fn write_logprobs(&self, out: &mut Vec<u8>, piece: &Piece) {
        match self.logprobs {
            Reports::Sent => json(out, &Logprobs { endpoint: self.endpoint, prompt: &piece.prompt, tokens: &piece.tokens }),
            Reports::Omitted => out.extend_from_slice(b"null"),
        }
    }
}

impl EventWriter for Frames {
    fn begin(&mut self, out: &mut Vec<u8>, choices: usize) {
        Self::begin(self, out, choices);
    }

    fn piece(&mut self, out: &mut Vec<u8>, piece: &Piece) {
        Self::piece(self, out, piece);
    }

    async fn end(&mut self, out: &mut Vec<u8>, usage: Usage, cost_nanos: Option<i64>) {
        Self::end(self, out, usage, cost_nanos);
    }

    fn failure(&mut self, out: &mut Vec<u8>, error: &ApiError) {
        Self::failure(out, error);
    }
}

/// Writing strings, numbers and our own structures to a vector does not fail.
pub fn json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use serde_json::Value;

    use super::*;

    fn events(bytes: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(bytes).unwrap();
        text.split_terminator("\n\n").map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }

    #[test]
    fn a_last_piece_with_text_becomes_two_chat_events_and_one_completions_event() {
        let head = Head { id: "id-1", created: 7, model: "a\"b\n" };
        let text = "line\n\n\"é\"".to_owned();
        let piece = Piece { choice: 2, text, finish: Some(FinishReason::Length), ..Piece::default() };
        let write = |endpoint| {
            let mut out = Vec::new();
            Frames::new(endpoint, &head, StreamUsage::Sent, Reports::Omitted, ShowCost::Omitted).piece(&mut out, &piece);
            events(&out)
        };
        let chat = write(Endpoint::Chat);
        assert_eq!(chat.len(), 2);
        assert_eq!(chat[0]["model"], "a\"b\n");
        assert_eq!(chat[0]["choices"][0]["delta"]["content"], "line\n\n\"é\"");
        assert_eq!(chat[0]["choices"][0]["finish_reason"], Value::Null);
        assert_eq!((&chat[1]["choices"][0]["index"], &chat[1]["usage"]), (&Value::from(2), &Value::Null));
        assert_eq!(chat[1]["choices"][0]["finish_reason"], "length");
        let completions = write(Endpoint::Completions);
        assert_eq!(completions.len(), 1);
        assert_eq!(completions[0]["choices"][0]["text"], "line\n\n\"é\"");
        assert_eq!(completions[0]["choices"][0]["finish_reason"], "length");
    }
}
