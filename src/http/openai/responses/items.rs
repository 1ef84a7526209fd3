//! Items of a conversation as `/v1/responses` writes them: read, made into messages, and written down to be kept.

use serde_json::{Value, json};

use crate::gateway::{Call, Message, Role};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, Rule, word, wrong_type};
use crate::http::middleware::random_hex;

const TEXT_ONLY: &str = "Only text is supported.";
const NO_SPACES: &str = "Functions have no name spaces.";

/// What was said in one item.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// As it is kept and listed.
    pub written: Value,
    /// As the model reads it.
    pub message: Message,
}

/// `input`: a text, or items.
pub fn input(fields: &mut Fields) -> Result<Vec<Item>, ApiError> {
    let value = fields.take("input").ok_or_else(|| fields.missing("input"))?;
    match value {
        Value::String(text) if text.is_empty() => {
            Err(ApiError::invalid("input", "empty_string", "Invalid 'input': empty string. Expected text or items."))
        }
        Value::String(text) => Ok(vec![Item::new(Role::User, "user", text, None)]),
        Value::Array(items) if items.is_empty() => {
            Err(ApiError::invalid("input", "empty_array", "Invalid 'input': empty array. Expected at least one item."))
        }
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(index, value)| item(format!("input[{index}]"), value)).collect()
        }
        other => Err(wrong_type("input", "a string or an array of items", &other)),
    }
}

/// One item; `path` is where it stands.
pub fn item(path: String, value: Value) -> Result<Item, ApiError> {
    let mut fields = Fields::object(path, value)?;
    match fields.string("type")?.as_deref() {
        None | Some("message") => message(fields),
        Some("function_call") => call(fields),
        Some("function_call_output") => call_output(fields),
        Some(kind) => {
            let message = match kind {
                "reasoning" => "Reasoning is not supported.",
                "item_reference" => "Items cannot be named; send them, or use 'previous_response_id'.",
                _ => "Only items of type 'message', 'function_call' and 'function_call_output' are supported.",
            };
            let message = format!("Unsupported item: '{kind}'. {message}");
            Err(ApiError::invalid(fields.path("type"), "unsupported_value", message))
        }
    }
}

/// What is said, as messages: calls that follow each other are one message of the assistant.
pub fn messages(items: &[Item]) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::with_capacity(items.len());
    for Item { message, .. } in items {
        match messages.last_mut() {
            Some(last) if last.role == Role::Assistant && message.role == Role::Assistant && !message.calls.is_empty() => {
                last.calls.extend_from_slice(&message.calls);
            }
            _ => messages.push(message.clone()),
        }
    }
    messages
}

/// A call that an answer made.
fn call(mut fields: Fields) -> Result<Item, ApiError> {
    let (call_id, name) = (fields.required_string("call_id")?, fields.required_string("name")?);
    let path = fields.path("arguments");
    let text = fields.string("arguments")?.ok_or_else(|| fields.missing("arguments"))?;
    let id = fields.string("id")?.unwrap_or_else(|| format!("fc_{}", random_hex()));
    fields.finish(&[
        ("status", Rule::Harmless),
        ("parsed_arguments", Rule::Harmless),
        ("namespace", Rule::Only(&[], NO_SPACES)),
    ])?;
    let arguments = if text.trim().is_empty() { Some(json!({})) } else { serde_json::from_str(&text).ok() };
    let arguments = arguments.filter(Value::is_object).ok_or_else(|| {
        let message = format!("Invalid '{path}': expected the text of a JSON object.");
        ApiError::invalid(path.clone(), "invalid_value", message)
    })?;
    let written = json!({
        "id": id, "type": "function_call", "status": "completed", "call_id": call_id, "name": name, "arguments": text,
    });
    let calls = vec![Call { id: call_id, name, arguments }];
    Ok(Item { written, message: Message { calls, ..Message::new(Role::Assistant, "") } })
}

/// What a function gave.
fn call_output(mut fields: Fields) -> Result<Item, ApiError> {
    let call_id = fields.required_string("call_id")?;
    let output = text_of(&mut fields, "output")?;
    let id = fields.string("id")?.unwrap_or_else(|| format!("fco_{}", random_hex()));
    fields.finish(&[("status", Rule::Harmless)])?;
    let written = json!({"id": id, "type": "function_call_output", "status": "completed", "call_id": call_id, "output": output});
    Ok(Item { written, message: Message { answers: Some(call_id), ..Message::new(Role::Tool, output) } })
}

/// A message.
fn message(mut fields: Fields) -> Result<Item, ApiError> {
    let name = fields.required_string("role")?;
    let roles = [("user", Role::User), ("assistant", Role::Assistant), ("system", Role::System), ("developer", Role::System)];
    let role = word(&fields.path("role"), &name, &roles)?;
    let text = text_of(&mut fields, "content")?;
    let id = fields.string("id")?;
    // What the client package sends back of an answer.
    fields.finish(&[("status", Rule::Harmless), ("phase", Rule::Harmless)])?;
    Ok(Item::new(role, &name, text, id))
}

/// A text, or parts of one.
fn text_of(fields: &mut Fields, name: &str) -> Result<String, ApiError> {
    let path = fields.path(name);
    Ok(match fields.take(name).ok_or_else(|| fields.missing(name))? {
        Value::String(text) => text,
        Value::Array(parts) if parts.is_empty() => {
            let message = format!("Invalid '{path}': empty array. Expected a string or at least one text part.");
            return Err(ApiError::invalid(path, "empty_array", message));
        }
        Value::Array(parts) => {
            let parts = parts.into_iter().enumerate();
            let texts = parts.map(|(index, part)| text_part(format!("{path}[{index}]"), part)).collect::<Result<Vec<_>, _>>()?;
            texts.join("\n")
        }
        other => return Err(wrong_type(&path, "a string or an array of text parts", &other)),
    })
}

fn text_part(path: String, value: Value) -> Result<String, ApiError> {
    let mut fields = Fields::object(path, value)?;
    let kind = fields.required_string("type")?;
    if !["input_text", "output_text", "text"].contains(&kind.as_str()) {
        let message =
            format!("Unsupported content part: '{kind}'. {TEXT_ONLY} Supported values are 'input_text' and 'output_text'.");
        return Err(ApiError::invalid(fields.path("type"), "unsupported_value", message));
    }
    let text = fields.string("text")?.ok_or_else(|| fields.missing("text"))?;
    fields.finish(&[
        ("annotations", Rule::Only(&["[]"], TEXT_ONLY)),
        ("logprobs", Rule::Harmless),
        // The package's helpers put it beside the text.
        ("parsed", Rule::Harmless),
    ])?;
    Ok(text)
}

impl Item {
    fn new(role: Role, name: &str, text: String, id: Option<String>) -> Self {
        let id = id.unwrap_or_else(|| format!("msg_{}", random_hex()));
        let part = match role {
            Role::Assistant => json!({"type": "output_text", "text": text, "annotations": []}),
            _ => json!({"type": "input_text", "text": text}),
        };
        let written = json!({"id": id, "type": "message", "status": "completed", "role": name, "content": [part]});
        Self { written, message: Message::new(role, text) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn items_that_are_written_read_back_the_same() {
        let value =
            json!({"role": "assistant", "content": [{"type": "output_text", "text": "a"}, {"type": "text", "text": "b"}]});
        let read = item("input[0]".to_owned(), value).unwrap();
        assert_eq!(read.message, Message::new(Role::Assistant, "a\nb"));
        assert_eq!(item("input[0]".to_owned(), read.written.clone()).unwrap(), read);
    }

    #[test]
    fn calls_that_follow_each_other_are_one_message() {
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{\"a\":1}"});
        let output = json!({"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "7"}]});
        let values = [json!({"role": "user", "content": "x"}), call("c1"), call("c2"), output];
        let items: Vec<Item> = values.into_iter().map(|value| item("i".to_owned(), value).unwrap()).collect();
        let said = messages(&items);
        assert_eq!(said.iter().map(|message| message.role).collect::<Vec<_>>(), [Role::User, Role::Assistant, Role::Tool]);
        assert_eq!(said[1].calls.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(), ["c1", "c2"]);
        assert_eq!((said[2].answers.as_deref(), said[2].content.as_str()), (Some("c2"), "7"));
        for read in items {
            assert_eq!(item("i".to_owned(), read.written.clone()).unwrap(), read);
        }
    }

    #[test]
    fn what_is_not_text_is_refused_by_its_place() {
        let refused = |value| item("input[3]".to_owned(), value).unwrap_err().param.unwrap();
        assert_eq!(refused(json!({"type": "web_search_call"})), "input[3].type");
        assert_eq!(
            refused(json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "["})),
            "input[3].arguments"
        );
        assert_eq!(refused(json!({"role": "tool", "content": "x"})), "input[3].role");
        assert_eq!(refused(json!({"role": "user", "content": [{"type": "input_image"}]})), "input[3].content[0].type");
        assert_eq!(refused(json!({"role": "user", "content": "x", "colour": 1})), "input[3].colour");
    }
}
