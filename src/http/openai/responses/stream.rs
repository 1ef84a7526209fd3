//! The events of a streamed response, with OpenAI's names and running numbers.

use serde_json::{Value, json};

use super::kept::Keeper;
use super::object::{Object, Status};
use super::output::{Change, Output, logprobs};
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
        if let (Some(data), Value::Object(fields)) = (data.as_object_mut(), fields) {
            data.extend(fields);
        }
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\ndata: ");
        // JSON has no line breaks of its own.
        out.extend_from_slice(data.to_string().as_bytes());
        out.extend_from_slice(b"\n\n");
    }

    fn changed(&mut self, out: &mut Vec<u8>, changes: Vec<Change>) {
        for change in changes {
            self.change(out, change);
        }
    }

    fn change(&mut self, out: &mut Vec<u8>, change: Change) {
        let (Change::Opened { index }
        | Change::Text { index, .. }
        | Change::Arguments { index, .. }
        | Change::Closed { index, .. }) = change;
        let Some(output) = self.object.output.get(index).cloned() else { return };
        let is_message = matches!(output, Output::Message { .. });
        let of_text = |more: Value| {
            let mut fields = json!({"item_id": output.id(), "output_index": index, "content_index": 0});
            if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
                fields.extend(more);
            }
            fields
        };
        match change {
            Change::Opened { .. } => {
                // As it was before the piece that opened it.
                let empty = match &output {
                    Output::Message { id, .. } => Output::Message { id: id.clone(), text: String::new(), tokens: Vec::new() },
                    Output::Call { id, call_id, name, .. } => {
                        let (id, call_id, name) = (id.clone(), call_id.clone(), name.clone());
                        Output::Call { id, call_id, name, arguments: String::new() }
                    }
                };
                let item = json!({"output_index": index, "item": empty.written(Status::InProgress)});
                self.event(out, "response.output_item.added", item);
                if is_message {
                    self.event(out, "response.content_part.added", of_text(json!({"part": empty.part()})));
                }
            }
            Change::Text { delta, tokens, .. } => {
                let more = json!({"delta": delta, "logprobs": logprobs(&tokens)});
                self.event(out, "response.output_text.delta", of_text(more));
            }
            Change::Arguments { delta, .. } => {
                let fields = json!({"item_id": output.id(), "output_index": index, "delta": delta});
                self.event(out, "response.function_call_arguments.delta", fields);
            }
            Change::Closed { status, .. } => {
                match &output {
                    Output::Message { text, tokens, .. } => {
                        let done = json!({"text": text, "logprobs": logprobs(tokens)});
                        self.event(out, "response.output_text.done", of_text(done));
                        self.event(out, "response.content_part.done", of_text(json!({"part": output.part()})));
                    }
                    Output::Call { id, name, arguments, .. } => {
                        let fields = json!({"item_id": id, "output_index": index, "name": name, "arguments": arguments});
                        self.event(out, "response.function_call_arguments.done", fields);
                    }
                }
                let item = json!({"output_index": index, "item": output.written(status)});
                self.event(out, "response.output_item.done", item);
            }
        }
    }
}

impl EventWriter for Events {
    fn begin(&mut self, out: &mut Vec<u8>, _: usize) {
        for name in ["response.created", "response.in_progress"] {
            let response = self.object.begun();
            self.event(out, name, json!({"response": response}));
        }
    }

    fn piece(&mut self, out: &mut Vec<u8>, piece: &Piece) {
        let changes = self.object.take(piece);
        self.changed(out, changes);
    }

    async fn end(&mut self, out: &mut Vec<u8>, usage: Usage, cost_nanos: Option<i64>) {
        let changes = self.object.close();
        self.changed(out, changes);
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
