//! The shapes of a row and how each becomes an [`Example`]: OpenAI's chat and preference rows, ShareGPT, BrightRun's pairs, and rows
//! whose fields are told by a [`Mapping`] (prompt and completion, Alpaca, tables).

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::columns::{Field, Mapping};
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
    /// `instruction`, `input` and `output`.
    Alpaca,
    /// `conversations` with `from` and `value`.
    ShareGpt,
    /// BrightRun's training pairs: `system_prompt`, `conversation_history`, `current_user_input`, `target_response`.
    BrightRun,
    /// Columns that were found or named.
    Columns,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Chat, Self::Preference, Self::Completion, Self::Alpaca, Self::ShareGpt, Self::BrightRun, Self::Columns];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Preference => "preference",
            Self::Completion => "completion",
            Self::Alpaca => "alpaca",
            Self::ShareGpt => "sharegpt",
            Self::BrightRun => "brightrun",
            Self::Columns => "columns",
        }
    }

    /// The fields of its rows, for people.
    pub const fn fields(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Preference => "input, preferred_output, non_preferred_output",
            Self::Completion => "prompt, completion",
            Self::Alpaca => "instruction, input, output",
            Self::ShareGpt => "conversations",
            Self::BrightRun => "system_prompt, conversation_history, current_user_input, target_response",
            Self::Columns => "the mapped columns",
        }
    }

    /// What a row is, by its fields.
    pub(super) fn of(row: &Map<String, Value>) -> Option<Self> {
        let has = |name: &str| row.contains_key(name);
        if has("preferred_output") || has("non_preferred_output") {
            Some(Self::Preference)
        } else if has("messages") {
            Some(Self::Chat)
        } else if has("current_user_input") || has("target_response") {
            Some(Self::BrightRun)
        } else if has("conversations") {
            Some(Self::ShareGpt)
        } else if has("prompt") && has("completion") {
            Some(Self::Completion)
        } else if has("instruction") && has("output") {
            Some(Self::Alpaca)
        } else {
            None
        }
    }

    /// The columns of shapes that are nothing but columns.
    pub(super) fn mapping(self) -> Option<Mapping> {
        match self {
            Self::Completion => {
                Some(Mapping::of(&[(Field::Prompt, "prompt"), (Field::Completion, "completion"), (Field::System, "system")]))
            }
            Self::Alpaca => Some(Mapping::of(&[
                (Field::Prompt, "instruction"),
                (Field::Input, "input"),
                (Field::Completion, "output"),
                (Field::System, "system"),
                (Field::History, "history"),
            ])),
            _ => None,
        }
    }

    /// Reads a row of this shape. `mapping` is for [`Shape::Columns`].
    pub(super) fn read(self, line: u64, row: &Map<String, Value>, mapping: &Mapping) -> Result<Mended<Example>, Fault> {
        let supervised = |read: Mended<Vec<Turn>>, at: &str| -> Result<Mended<(Body, Option<Value>)>, Fault> {
            let read = conversation(read, at)?;
            Ok(Mended { value: (Body::Supervised(read.value), tools(row, "")?), faults: read.faults })
        };
        let body = match self {
            Self::Chat => supervised(turns(field(row, "messages")?, "messages", Spelling::OpenAi)?, "messages")?,
            Self::ShareGpt => {
                let list = field(row, "conversations")?;
                let spelling = if list.pointer("/0/role").is_some() { Spelling::OpenAi } else { Spelling::ShareGpt };
                let mut read = turns(list, "conversations", spelling)?;
                if let Some(system) = row.get("system").and_then(Value::as_str).filter(|system| !system.trim().is_empty()) {
                    read.value.insert(0, said("system", system));
                }
                supervised(read, "conversations")?
            }
            Self::Preference => preference(row)?,
            Self::BrightRun => pair(row)?,
            Self::Completion | Self::Alpaca => mapped(row, &self.mapping().unwrap_or_default())?,
            Self::Columns => mapped(row, mapping)?,
        };
        let (value, tools) = body.value;
        let said = mapping.column(Field::Conversation).and_then(|column| row.get(column));
        let conversation = conversation_of(row, said, &value);
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

/// The text of a cell; numbers and truth values are text in tables. `None` where it is absent or empty.
fn cell(row: &Map<String, Value>, name: &str) -> Result<Option<String>, Fault> {
    Ok(match row.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.trim().is_empty() => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
        Some(other) => return Err(Fault::new(ProblemKind::Field, format!("{name} is {}; it must be text", quoted(other)))),
    })
}

/// A cell that must be there.
fn needed(row: &Map<String, Value>, name: &str) -> Result<String, Fault> {
    let problem = if row.get(name).is_some_and(Value::is_string) { "is empty" } else { "is missing" };
    cell(row, name)?.ok_or_else(|| Fault::new(ProblemKind::Missing, format!("{name} {problem}")))
}

/// A cell as turns: a list of messages, such a list as JSON text, or the text of one message.
fn spoken(row: &Map<String, Value>, name: &str, role: &str) -> Result<Mended<Vec<Turn>>, Fault> {
    let listed = match row.get(name) {
        Some(list @ Value::Array(_)) => Some(list.clone()),
        Some(Value::String(text)) if role.is_empty() => match serde_json::from_str::<Value>(text) {
            Ok(list) => Some(list),
            Err(_) => {
                return Err(Fault::new(
                    ProblemKind::Field,
                    format!("{name} is {:?}; it must be a list of messages", shortened(text)),
                ));
            }
        },
        None | Some(Value::Null) if role.is_empty() => {
            return Err(Fault::new(ProblemKind::Missing, format!("{name} is missing")));
        }
        Some(other) if role.is_empty() => Some(other.clone()),
        _ => None,
    };
    match listed {
        Some(list) => {
            let spelling = if list.pointer("/0/from").is_some() { Spelling::ShareGpt } else { Spelling::OpenAi };
            turns(&list, name, spelling)
        }
        None => Ok(Mended { value: vec![said(role, &needed(row, name)?)], faults: Vec::new() }),
    }
}

/// A row whose fields are told by a mapping.
fn mapped(row: &Map<String, Value>, mapping: &Mapping) -> Result<Mended<(Body, Option<Value>)>, Fault> {
    let mut faults = Vec::new();
    let mut take = |read: Mended<Vec<Turn>>| {
        faults.extend(read.faults);
        read.value
    };
    let mut before = Vec::new();
    if let Some(system) = mapping.column(Field::System).map(|column| cell(row, column)).transpose()?.flatten() {
        before.push(said("system", &system));
    }
    if let Some(column) = mapping.column(Field::Messages) {
        before.extend(take(spoken(row, column, "")?));
        let read = conversation(Mended { value: before, faults }, column)?;
        return Ok(Mended { value: (Body::Supervised(read.value), tools(row, "")?), faults: read.faults });
    }
    if let Some(column) = mapping.column(Field::History) {
        before.extend(history(row, column)?);
    }
    if let Some(column) = mapping.column(Field::Prompt) {
        let mut prompt = take(spoken(row, column, "user")?);
        if let (Some(column), [question]) = (mapping.column(Field::Input), prompt.as_mut_slice())
            && let Some(input) = cell(row, column)?
        {
            question.message["content"] = format!("{}\n\n{input}", question.text()).into();
        }
        before.extend(prompt);
    }
    if let (Some(chosen), Some(rejected)) = (mapping.column(Field::Chosen), mapping.column(Field::Rejected)) {
        let (mut chosen, mut rejected) = (take(spoken(row, chosen, "assistant")?), take(spoken(row, rejected, "assistant")?));
        // Whole conversations: what both begin with is the prompt.
        let shared = chosen.iter().zip(&rejected).take_while(|(one, other)| one.message == other.message).count();
        let prompt = chosen.drain(..shared).collect::<Vec<Turn>>();
        rejected.drain(..shared);
        if mapping.column(Field::Prompt).is_none() {
            before.extend(prompt);
        }
        let body = answers(before, chosen, rejected, ["the chosen answer", "the rejected answer"])?;
        return Ok(Mended { value: (body, tools(row, "")?), faults });
    }
    let column = mapping.column(Field::Completion).unwrap_or("completion");
    // What stands before the completion is not learnt.
    before.iter_mut().for_each(|turn| turn.weight = 0.0);
    before.extend(take(spoken(row, column, "assistant")?));
    let read = conversation(Mended { value: before, faults }, column)?;
    Ok(Mended { value: (Body::Supervised(read.value), tools(row, "")?), faults: read.faults })
}

/// Earlier questions and answers, as some Alpaca files have them: pairs of texts.
fn history(row: &Map<String, Value>, column: &str) -> Result<Vec<Turn>, Fault> {
    let bad = |value: &Value| {
        let problem = format!("{column} is {}; it must be a list of pairs of question and answer", quoted(value));
        Fault::new(ProblemKind::Field, problem)
    };
    let list = match row.get(column) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(value) => value.as_array().ok_or_else(|| bad(value))?,
    };
    let mut turns = Vec::new();
    for pair in list {
        let (Some(question), Some(answer), None) = (pair[0].as_str(), pair[1].as_str(), pair.get(2)) else {
            return Err(bad(pair));
        };
        turns.extend([said("user", question), said("assistant", answer)]);
    }
    Ok(turns)
}

/// A training pair of BrightRun.
fn pair(row: &Map<String, Value>) -> Result<Mended<(Body, Option<Value>)>, Fault> {
    let mut messages = Vec::new();
    if let Some(system) = cell(row, "system_prompt")? {
        messages.push(said("system", &system));
    }
    let mut faults = Vec::new();
    if let Some(history) = row.get("conversation_history").filter(|history| !history.is_null()) {
        let read = turns(history, "conversation_history", Spelling::OpenAi)?;
        faults.extend(read.faults);
        messages.extend(read.value.into_iter().filter(|turn| turn.role() != "system"));
    }
    // Earlier answers are pairs of their own.
    messages.iter_mut().for_each(|turn| turn.weight = 0.0);
    let input = needed(row, "current_user_input")?;
    // Some files have the turn that is answered in the history already.
    if messages.last().is_none_or(|last| last.role() != "user" || last.text().trim() != input.trim()) {
        messages.push(said("user", &input));
    }
    messages.push(said("assistant", &needed(row, "target_response")?));
    Ok(Mended { value: (Body::Supervised(messages), None), faults })
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
    let mut answer = |name: &str| -> Result<Vec<Turn>, Fault> {
        let read = turns(field(row, name)?, name, Spelling::OpenAi)?;
        faults.extend(read.faults);
        Ok(read.value)
    };
    let (chosen, rejected) = (answer("preferred_output")?, answer("non_preferred_output")?);
    let body = answers(prompt.value, chosen, rejected, ["preferred_output", "non_preferred_output"])?;
    Ok(Mended { value: (body, tools(input, "input.")?), faults })
}

/// Two answers to a prompt; `names` is how an error calls them.
fn answers(mut prompt: Vec<Turn>, chosen: Vec<Turn>, rejected: Vec<Turn>, names: [&str; 2]) -> Result<Body, Fault> {
    match prompt.last().map(Turn::role) {
        None => return Err(Fault::new(ProblemKind::Missing, "the prompt of the two answers is empty")),
        Some("assistant") => {
            return Err(Fault::new(ProblemKind::Role, "the prompt ends with the assistant; the outputs are what follows it"));
        }
        _ => {}
    }
    for (answer, name) in [&chosen, &rejected].into_iter().zip(names) {
        if answer.len() != 1 || answer[0].role() != "assistant" {
            return Err(Fault::new(ProblemKind::Role, format!("{name} must be one message of the assistant")));
        }
    }
    if chosen[0].message == rejected[0].message {
        return Err(Fault::new(ProblemKind::Field, format!("{} and {} are the same", names[0], names[1])));
    }
    // What came before the two answers is not learnt.
    prompt.iter_mut().for_each(|turn| turn.weight = 0.0);
    let whole = |turns: Vec<Turn>| turns.into_iter().map(|turn| Turn { weight: 1.0, ..turn }).collect();
    Ok(Body::Preference { prompt, chosen: whole(chosen), rejected: whole(rejected) })
}

/// Fields that say which conversation a row is of.
const CONVERSATION_FIELDS: [&str; 3] = ["conversation_id", "session_id", "thread_id"];

/// The group of a row: what it says itself, else how its conversation begins (the system message and the first other one), so that
/// longer and shorter cuts of one conversation, and answers to one question, are one group.
fn conversation_of(row: &Map<String, Value>, said: Option<&Value>, body: &Body) -> u64 {
    let usual = CONVERSATION_FIELDS.iter().filter_map(|name| row.get(*name));
    let said = said.into_iter().chain(usual).find(|value| value.is_string() || value.is_number());
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
