//! Lists of messages as OpenAI's files have them: what is checked, what can be repaired, what a chat template is given.

use serde_json::{Map, Value};

use super::encoding;
use super::{ProblemKind, Turn};

/// Something wrong in a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    pub(super) kind: ProblemKind,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// What was read, and what had to be repaired for that.
pub(super) struct Mended<T> {
    pub(super) value: T,
    pub(super) faults: Vec<Fault>,
}

/// Longest piece of a value that is quoted in a message, characters.
const QUOTED: usize = 60;

/// A value as an error quotes it.
pub(super) fn quoted(value: &Value) -> String {
    shortened(&value.to_string())
}

/// The beginning of a text.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The role that a name stands for, and whether it is its usual name.
fn role(name: &str) -> Option<(&'static str, Usual)> {
    Some(match name {
        "system" => ("system", Usual::Yes),
        // OpenAI's newer name; templates know the older one.
        "developer" => ("system", Usual::Yes),
        "user" => ("user", Usual::Yes),
        "assistant" => ("assistant", Usual::Yes),
        "tool" => ("tool", Usual::Yes),
        _ => {
            let known = match name.trim().to_ascii_lowercase().as_str() {
                "system" | "developer" => "system",
                "user" | "human" | "prompter" | "customer" => "user",
                "assistant" | "gpt" | "bot" | "ai" | "model" | "chatgpt" | "agent" => "assistant",
                "tool" | "observation" | "function_response" => "tool",
                _ => return None,
            };
            (known, Usual::No)
        }
    })
}

#[derive(PartialEq, Eq)]
enum Usual {
    Yes,
    No,
}

/// How the fields of a message are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// `role` and `content`.
    OpenAi,
    /// `from` and `value`, with `human` and `gpt`.
    ShareGpt,
}

impl Spelling {
    const fn fields(self) -> (&'static str, &'static str) {
        match self {
            Self::OpenAi => ("role", "content"),
            Self::ShareGpt => ("from", "value"),
        }
    }
}

/// Reads a list of messages. `at` is the field that it was in, for messages.
pub(super) fn turns(list: &Value, at: &str, spelling: Spelling) -> Result<Mended<Vec<Turn>>, Fault> {
    let Some(list) = list.as_array() else {
        return Err(Fault::new(ProblemKind::Field, format!("{at} is {}; it must be a list of messages", quoted(list))));
    };
    let mut faults = Vec::new();
    let mut turns = Vec::with_capacity(list.len());
    for (index, message) in list.iter().enumerate() {
        turns.push(turn(message, &format!("{at}[{index}]"), spelling, &mut faults)?);
    }
    Ok(Mended { value: turns, faults })
}

fn turn(message: &Value, at: &str, spelling: Spelling, faults: &mut Vec<Fault>) -> Result<Turn, Fault> {
    let field = |name: &str, problem: String| Fault::new(ProblemKind::Field, format!("{at}.{name} {problem}"));
    let Some(fields) = message.as_object() else {
        return Err(Fault::new(ProblemKind::Field, format!("{at} is {}; it must be a message object", quoted(message))));
    };
    let (role_field, content_field) = spelling.fields();
    let named = match fields.get(role_field) {
        Some(Value::String(name)) => name,
        None | Some(Value::Null) => return Err(Fault::new(ProblemKind::Role, format!("{at}.{role_field} is missing"))),
        Some(other) => return Err(Fault::new(ProblemKind::Role, format!("{at}.{role_field} is {}", quoted(other)))),
    };
    let Some((role, usual)) = role(named) else {
        let known = "system, user, assistant and tool are known";
        return Err(Fault::new(ProblemKind::Role, format!("{at}.{role_field} is {:?}; {known}", shortened(named))));
    };
    if usual == Usual::No && spelling == Spelling::OpenAi {
        faults.push(Fault::new(ProblemKind::Role, format!("{at}.role is {:?}; it must be {role:?}", shortened(named))));
    }
    let mut out = Map::new();
    out.insert("role".into(), role.into());
    let calls = fields.get("tool_calls").filter(|calls| !calls.is_null());
    if calls.is_some() && role != "assistant" {
        return Err(field("tool_calls", format!("is in a message of role {role:?}; only the assistant calls tools")));
    }
    let text = match fields.get(content_field) {
        None | Some(Value::Null) if calls.is_some() => None,
        None | Some(Value::Null) => {
            return Err(Fault::new(ProblemKind::Missing, format!("{at}.{content_field} is missing")));
        }
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(parts)) => Some(joined(parts, &format!("{at}.{content_field}"))?),
        Some(other) => return Err(field(content_field, format!("is {}; it must be text", quoted(other)))),
    };
    if calls.is_none() && role != "system" && text.as_ref().is_some_and(|text| text.trim().is_empty()) {
        return Err(Fault::new(ProblemKind::Missing, format!("{at}.{content_field} is empty")));
    }
    if let Some(mut text) = text {
        if text.contains('\0') {
            faults.push(Fault::new(ProblemKind::Encoding, format!("{at}.{content_field} holds NUL characters")));
            text = encoding::clean(&text).into_owned();
        }
        out.insert("content".into(), text.into());
    }
    if let Some(calls) = calls {
        out.insert("tool_calls".into(), tool_calls(calls, at)?);
    }
    for (name, value) in fields {
        match name.as_str() {
            "weight" | "tool_calls" => {}
            "function_call" if value.is_null() => {}
            "function_call" => return Err(field(name, "is not supported; use tool_calls".to_owned())),
            _ if name == role_field || name == content_field || value.is_null() => {}
            "name" | "tool_call_id" | "reasoning_content" => {
                out.insert(name.clone(), value.clone());
            }
            // What a data set notes about a message is not for the template.
            _ => {}
        }
    }
    let weight = weight(fields.get("weight"), role, at, faults)?;
    Ok(Turn { message: out.into(), weight })
}

/// The text of content in parts.
fn joined(parts: &[Value], at: &str) -> Result<String, Fault> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(piece)) => text.push_str(piece),
            (Some(kind), _) => {
                let problem = format!("{at}[{index}].type is {kind:?}; only text can be learnt here");
                return Err(Fault::new(ProblemKind::Field, problem));
            }
            (None, _) => return Err(Fault::new(ProblemKind::Field, format!("{at}[{index}] is {}", quoted(part)))),
        }
    }
    Ok(text)
}

/// Calls with their arguments as objects, which is what templates write out.
fn tool_calls(calls: &Value, at: &str) -> Result<Value, Fault> {
    let bad = |problem: String| Fault::new(ProblemKind::Field, format!("{at}.tool_calls{problem}"));
    let Some(list) = calls.as_array().filter(|list| !list.is_empty()) else {
        return Err(bad(format!(" is {}; it must be a list of calls", quoted(calls))));
    };
    let mut out = list.clone();
    for (index, call) in out.iter_mut().enumerate() {
        let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
            return Err(bad(format!("[{index}].function is missing")));
        };
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(bad(format!("[{index}].function.name is missing")));
        }
        let arguments = function.entry("arguments").or_insert_with(|| Map::new().into());
        if let Value::String(text) = arguments {
            match serde_json::from_str::<Value>(text) {
                Ok(object @ Value::Object(_)) => *arguments = object,
                _ => {
                    let problem =
                        format!("[{index}].function.arguments is {:?}; it must be a JSON object as text", shortened(text));
                    return Err(bad(problem));
                }
            }
        } else if !arguments.is_object() {
            return Err(bad(format!("[{index}].function.arguments is {}; it must be a JSON object as text", quoted(arguments))));
        }
    }
    Ok(out.into())
}

#[expect(clippy::cast_possible_truncation, reason = "a weight between 0 and 1")]
fn weight(given: Option<&Value>, role: &str, at: &str, faults: &mut Vec<Fault>) -> Result<f32, Fault> {
    let usual = if role == "assistant" { 1.0 } else { 0.0 };
    let Some(given) = given.filter(|given| !given.is_null()) else { return Ok(usual) };
    let Some(weight) = given.as_f64().filter(|weight| (0.0..=1.0).contains(weight)) else {
        return Err(Fault::new(ProblemKind::Field, format!("{at}.weight is {}; it must be a number from 0 to 1", quoted(given))));
    };
    if role != "assistant" && weight > 0.0 {
        let problem = format!("{at}.weight is {weight} in a message of role {role:?}; only the assistant's messages are learnt");
        faults.push(Fault::new(ProblemKind::Field, problem));
        return Ok(0.0);
    }
    Ok(weight as f32)
}

/// A conversation that is learnt: it ends with an assistant message, and at least one of those has a weight.
pub(super) fn conversation(mut read: Mended<Vec<Turn>>, at: &str) -> Result<Mended<Vec<Turn>>, Fault> {
    let missing = |problem: &str| Fault::new(ProblemKind::Missing, format!("{at} {problem}"));
    let Some(last) = read.value.iter().rposition(|turn| turn.role() == "assistant") else {
        return Err(missing(if read.value.is_empty() { "is empty" } else { "has no assistant message to learn" }));
    };
    if last + 1 < read.value.len() {
        read.faults.push(missing("ends without an answer: the last message must be the assistant's"));
        read.value.truncate(last + 1);
    }
    if !read.value.iter().any(|turn| turn.weight > 0.0) {
        return Err(missing("has no assistant message with a weight over 0"));
    }
    if read.value.iter().all(|turn| turn.role() != "user" && turn.role() != "tool") && read.value.len() == 1 {
        return Err(missing("has an answer to nothing: no message stands before it"));
    }
    Ok(read)
}
