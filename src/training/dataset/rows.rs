//! The shapes of a row and how each becomes an [`Example`]: OpenAI's chat and preference rows, prompt and completion.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::digest::hash;
use super::messages::{Fault, Mended, Spelling, conversation, quoted, shortened, turns};
use super::{Body, Example, ProblemKind, Turn};

/// What the rows of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `messages`, with `tools`: OpenAI's chat rows.
    Chat,
    /// `input`, `preferred_output`, `non_preferred_output`: OpenAI's preference rows.
    Preference,
    /// `prompt` and `completion`.
    Completion,
}

impl Shape {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat (messages)",
            Self::Preference => "preference (input, preferred_output, non_preferred_output)",
            Self::Completion => "prompt and completion",
        }
    }

    /// What a row is, by its fields.
    pub(super) fn of(row: &Map<String, Value>) -> Option<Self> {
        let has = |name: &str| row.contains_key(name);
        if has("preferred_output") || has("non_preferred_output") {
            Some(Self::Preference)
        } else if has("messages") {
            Some(Self::Chat)
        } else if has("prompt") && has("completion") {
            Some(Self::Completion)
        } else {
            None
        }
    }

    /// Reads a row of this shape.
    pub(super) fn read(self, line: u64, row: &Map<String, Value>) -> Result<Mended<Example>, Fault> {
        let body = match self {
            Self::Chat => {
                let read = conversation(turns(field(row, "messages")?, "messages", Spelling::OpenAi)?, "messages")?;
                Mended { value: (Body::Supervised(read.value), tools(row, "")?), faults: read.faults }
            }
            Self::Preference => preference(row)?,
            Self::Completion => {
                let messages = vec![said("user", text(row, "prompt")?), said("assistant", text(row, "completion")?)];
                Mended { value: (Body::Supervised(messages), None), faults: Vec::new() }
            }
        };
        let (value, tools) = body.value;
        let conversation = conversation_of(row, &value);
        Ok(Mended { value: Example { line, conversation, tools, body: value }, faults: body.faults })
    }
}

/// A message of a role with its usual weight.
pub(super) fn said(role: &str, text: &str) -> Turn {
    Turn { message: json!({"role": role, "content": text}), weight: if role == "assistant" { 1.0 } else { 0.0 } }
}

fn field<'a>(row: &'a Map<String, Value>, name: &str) -> Result<&'a Value, Fault> {
    match row.get(name) {
        None | Some(Value::Null) => Err(Fault::new(ProblemKind::Missing, format!("{name} is missing"))),
        Some(value) => Ok(value),
    }
}

/// A field that must be text, and not empty.
fn text<'a>(row: &'a Map<String, Value>, name: &str) -> Result<&'a str, Fault> {
    match field(row, name)? {
        Value::String(text) if text.trim().is_empty() => Err(Fault::new(ProblemKind::Missing, format!("{name} is empty"))),
        Value::String(text) => Ok(text),
        other => Err(Fault::new(ProblemKind::Field, format!("{name} is {}; it must be text", quoted(other)))),
    }
}

fn tools(row: &Map<String, Value>, at: &str) -> Result<Option<Value>, Fault> {
    if row.get("functions").is_some_and(|functions| !functions.is_null()) {
        return Err(Fault::new(ProblemKind::Field, format!("{at}functions is not supported; use tools")));
    }
    let Some(tools) = row.get("tools").filter(|tools| !tools.is_null()) else { return Ok(None) };
    let bad = |problem: String| Fault::new(ProblemKind::Field, format!("{at}tools{problem}"));
    let Some(list) = tools.as_array() else { return Err(bad(format!(" is {}; it must be a list", quoted(tools)))) };
    for (index, tool) in list.iter().enumerate() {
        match tool["type"].as_str() {
            Some("function") if tool["function"]["name"].is_string() => {}
            Some("function") => return Err(bad(format!("[{index}].function.name is missing"))),
            Some(other) => return Err(bad(format!("[{index}].type is {:?}; function is supported", shortened(other)))),
            None => return Err(bad(format!("[{index}] is {}; it must have a type and a function", quoted(tool)))),
        }
    }
    Ok((!list.is_empty()).then(|| tools.clone()))
}

fn preference(row: &Map<String, Value>) -> Result<Mended<(Body, Option<Value>)>, Fault> {
    let Some(input) = field(row, "input")?.as_object() else {
        return Err(Fault::new(ProblemKind::Field, "input must be an object with messages"));
    };
    let prompt = turns(field(input, "messages")?, "input.messages", Spelling::OpenAi)?;
    let mut faults = prompt.faults;
    let mut prompt = prompt.value;
    match prompt.last().map(Turn::role) {
        None => return Err(Fault::new(ProblemKind::Missing, "input.messages is empty")),
        Some("assistant") => {
            return Err(Fault::new(ProblemKind::Role, "input.messages ends with the assistant: the outputs are what follows it"));
        }
        _ => {}
    }
    // What came before the two answers is not learnt.
    prompt.iter_mut().for_each(|turn| turn.weight = 0.0);
    let mut answer = |name: &str| -> Result<Vec<Turn>, Fault> {
        let read = turns(field(row, name)?, name, Spelling::OpenAi)?;
        faults.extend(read.faults);
        match read.value.as_slice() {
            [one] if one.role() == "assistant" => Ok(vec![Turn { message: one.message.clone(), weight: 1.0 }]),
            _ => Err(Fault::new(ProblemKind::Role, format!("{name} must be one message of the assistant"))),
        }
    };
    let (chosen, rejected) = (answer("preferred_output")?, answer("non_preferred_output")?);
    if chosen == rejected {
        return Err(Fault::new(ProblemKind::Field, "preferred_output and non_preferred_output are the same"));
    }
    let tools = tools(input, "input.")?;
    Ok(Mended { value: (Body::Preference { prompt, chosen, rejected }, tools), faults })
}

/// Fields that say which conversation a row is of.
const CONVERSATION_FIELDS: [&str; 4] = ["conversation_id", "conversation", "session_id", "thread_id"];

/// The group of a row: what it says itself, else how its conversation begins (the system message and the first other one), so that
/// longer and shorter cuts of one conversation, and answers to one question, are one group.
pub(super) fn conversation_of(row: &Map<String, Value>, body: &Body) -> u64 {
    let said = CONVERSATION_FIELDS.iter().filter_map(|name| row.get(*name)).find(|value| value.is_string() || value.is_number());
    if let Some(said) = said {
        return hash(said.to_string().as_bytes());
    }
    let turns = match body {
        Body::Supervised(turns) => turns,
        Body::Preference { prompt, .. } => prompt,
    };
    let mut beginning = String::new();
    for turn in turns {
        beginning.push_str(turn.text());
        beginning.push('\u{1f}');
        if turn.role() != "system" {
            break;
        }
    }
    hash(beginning.as_bytes())
}
