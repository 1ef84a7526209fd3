//! The events of a streamed response, with OpenAI's names and running numbers.

use serde_json::{Value, json};

use super::kept::Keeper;
use super::object::{Object, Status};
use super::{Ended, finished};
use crate::gateway::{Piece, Usage};
use crate::http::error::ApiError;
use crate::http::limits;
use crate::http::openai::reply::EventWriter;
use crate::http::openai::sender::ShowCost;

/// Writes them.
pub struct Events {
    object: Object,
    keeper: Option<Keeper>,
    cost: ShowCost,
    /// Number of the next event.
    next: u64,
}

impl Events {
    /// Of a response of which nothing is there.
    pub const fn new(object: Object, keeper: Option<Keeper>, cost: ShowCost) -> Self {
        Self { object, keeper, cost, next: 0 }
    }

    fn event(&mut self, out: &mut Vec<u8>, name: &str, fields: Value) {
        let mut data = json!({"type": name, "sequence_number": self.next});
        self.next += 1;
        for (key, value) in fields.as_object().into_iter().flatten() {
            data[key] = value.clone();
        }
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\ndata: ");
        // JSON has no line breaks of its own.
        out.extend_from_slice(data.to_string().as_bytes());
        out.extend_from_slice(b"\n\n");
    }

    /// An event about the text of the message.
    fn of_text(&mut self, out: &mut Vec<u8>, name: &str, more: Value) {
        let mut fields = json!({"item_id": self.object.message_id, "output_index": 0, "content_index": 0});
        for (key, value) in more.as_object().into_iter().flatten() {
            fields[key] = value.clone();
        }
        self.event(out, name, fields);
    }
}

impl EventWriter for Events {
    fn begin(&mut self, out: &mut Vec<u8>, _: usize) {
        for name in ["response.created", "response.in_progress"] {
            let response = self.object.begun();
            self.event(out, name, json!({"response": response}));
        }
        let item = self.object.message(Status::InProgress);
        self.event(out, "response.output_item.added", json!({"output_index": 0, "item": item}));
        let part = self.object.part();
        self.of_text(out, "response.content_part.added", json!({"part": part}));
    }

    fn piece(&mut self, out: &mut Vec<u8>, piece: &Piece) {
        self.object.take(piece);
        if !piece.text.is_empty() || !piece.tokens.is_empty() {
            let logprobs = self.object.logprobs(&piece.tokens);
            self.of_text(out, "response.output_text.delta", json!({"delta": piece.text, "logprobs": logprobs}));
        }
    }

    async fn end(&mut self, out: &mut Vec<u8>, usage: Usage, cost_nanos: Option<i64>) {
        let (part, item) = (self.object.part(), self.object.message(self.object.status()));
        let done = json!({"text": part["text"], "logprobs": part["logprobs"]});
        self.of_text(out, "response.output_text.done", done);
        self.of_text(out, "response.content_part.done", json!({"part": part}));
        self.event(out, "response.output_item.done", json!({"output_index": 0, "item": item}));
        // Who sees the last event can go on from the answer.
        let mut response = finished(&mut self.object, self.keeper.take(), &Ended { usage, cost_nanos }).await;
        if let (ShowCost::Shown, Some(nanos)) = (self.cost, cost_nanos) {
            response["usage"]["cost_usd"] = limits::usd(nanos).into();
        }
        let name = format!("response.{}", self.object.status().name());
        self.event(out, &name, json!({"response": response}));
    }

    fn failure(&mut self, out: &mut Vec<u8>, error: &ApiError) {
        let response = self.object.failed(error.code.unwrap_or("server_error"), &error.message);
        self.event(out, "response.failed", json!({"response": response}));
    }
}
