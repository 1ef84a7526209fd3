//! Which column is what: by what the user says, or by the columns' names and what is in them.

use std::collections::HashSet;
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Map, Value};

use super::DatasetError;

/// What a column can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// What is asked.
    Prompt,
    /// What is asked about; follows the prompt in the same message.
    Input,
    /// The answer.
    Completion,
    /// The system message.
    System,
    /// A whole conversation.
    Messages,
    /// Earlier turns, before the prompt.
    History,
    /// The preferred answer.
    Chosen,
    /// The other answer.
    Rejected,
    /// Which conversation the row is of.
    Conversation,
}

impl Field {
    const ALL: [Self; 9] = [
        Self::Messages,
        Self::Chosen,
        Self::Rejected,
        Self::Prompt,
        Self::Completion,
        Self::System,
        Self::Input,
        Self::History,
        Self::Conversation,
    ];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Input => "input",
            Self::Completion => "completion",
            Self::System => "system",
            Self::Messages => "messages",
            Self::History => "history",
            Self::Chosen => "chosen",
            Self::Rejected => "rejected",
            Self::Conversation => "conversation",
        }
    }

    /// Names that columns of this kind have, the usual one first.
    const fn usual_names(self) -> &'static [&'static str] {
        match self {
            Self::Prompt => &[
                "prompt",
                "question",
                "instruction",
                "query",
                "input",
                "user",
                "request",
                "text",
                "sentence",
                "problem",
                "source",
                "user_input",
                "human",
                "utterance",
                "task",
                "q",
            ],
            Self::Completion => &[
                "completion",
                "answer",
                "output",
                "response",
                "target",
                "reply",
                "assistant",
                "label",
                "solution",
                "summary",
                "translation",
                "result",
                "expected",
                "gpt",
                "a",
            ],
            Self::System => &["system", "system_prompt", "system_message"],
            Self::Messages => &["messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns"],
            Self::Chosen => &["chosen", "preferred", "accepted", "preferred_output"],
            Self::Rejected => &["rejected", "dispreferred", "non_preferred", "non_preferred_output"],
            Self::Conversation => &["conversation_id", "session_id", "thread_id", "dialog_id", "dialogue_id"],
            // Only where somebody says so: "input" beside "question" may be anything.
            Self::Input | Self::History => &[],
        }
    }
}

/// Columns by what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping(Vec<(Field, String)>);

impl Mapping {
    /// Of pairs.
    pub(super) fn of(pairs: &[(Field, &str)]) -> Self {
        Self(pairs.iter().map(|(field, column)| (*field, (*column).to_owned())).collect())
    }

    /// The column of a field.
    pub fn column(&self, field: Field) -> Option<&str> {
        self.0.iter().find(|(have, _)| *have == field).map(|(_, column)| column.as_str())
    }

    /// Whether rows of it can be learnt from.
    fn is_enough(&self) -> bool {
        let has = |field| self.column(field).is_some();
        has(Field::Messages) || (has(Field::Prompt) && has(Field::Completion)) || (has(Field::Chosen) && has(Field::Rejected))
    }

    /// Checks that columns are there.
    pub(super) fn check(&self, columns: &[String]) -> Result<(), DatasetError> {
        for (field, column) in &self.0 {
            if !columns.contains(column) {
                let message =
                    format!("--map {}={column}: there is no such column; there are {}", field.name(), columns.join(", "));
                return Err(DatasetError::Unusable(message));
            }
        }
        Ok(())
    }
}

impl FromStr for Mapping {
    type Err = DatasetError;

    /// `prompt=question,completion=answer`.
    fn from_str(text: &str) -> Result<Self, DatasetError> {
        let bad = |problem: String| DatasetError::Unusable(format!("the mapping {text:?}: {problem}"));
        let mut pairs: Vec<(Field, String)> = Vec::new();
        for pair in text.split(',') {
            let Some((name, column)) = pair.split_once('=') else {
                return Err(bad(format!("{pair:?} is not FIELD=COLUMN, such as prompt=question")));
            };
            let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name.trim()) else {
                return Err(bad(format!("{name:?} is no field; there are {}", Field::ALL.map(Field::name).join(", "))));
            };
            if pairs.iter().any(|(have, _)| *have == field) {
                return Err(bad(format!("{name} is there twice")));
            }
            pairs.push((field, column.trim().to_owned()));
        }
        let mapping = Self(pairs);
        if !mapping.is_enough() {
            return Err(bad("it needs messages, or prompt and completion, or chosen and rejected".to_owned()));
        }
        Ok(mapping)
    }
}

/// A column that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    /// What it is taken for.
    pub field: Field,
    /// Its name.
    pub column: String,
    /// How sure that is, from 0 to 1.
    pub confidence: f64,
}

/// Under this nothing is taken for anything.
const LEAST: f64 = 0.4;

/// Looks for the columns in the first rows of a file.
pub(super) fn find(rows: &[Map<String, Value>]) -> Result<(Mapping, Vec<Column>), DatasetError> {
    let mut names: Vec<String> = Vec::new();
    for name in rows.iter().flat_map(Map::keys) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let contents: Vec<(String, Content)> = names.iter().map(|name| (name.clone(), Content::of(rows, name))).collect();
    let mut found: Vec<Column> = Vec::new();
    for field in Field::ALL {
        let free = contents.iter().filter(|(name, _)| found.iter().all(|column| column.column != *name));
        let scored = free.map(|(name, content)| (score(field, name, content), name));
        let best = scored.max_by(|(a, left), (b, right)| {
            // The first of equals, in the file's order.
            let place = |name: &String| names.iter().position(|have| have == name);
            a.total_cmp(b).then_with(|| place(right).cmp(&place(left)))
        });
        if let Some((confidence, name)) = best.filter(|(confidence, _)| *confidence >= LEAST) {
            found.push(Column { field, column: name.clone(), confidence: (confidence * 100.0).round() / 100.0 });
        }
    }
    let has = |found: &[Column], field| found.iter().any(|column| column.field == field);
    if has(&found, Field::Messages) {
        found.retain(|column| !matches!(column.field, Field::Prompt | Field::Completion | Field::System));
    }
    // Names that say nothing: two columns of text, the first is what is asked.
    if !has(&found, Field::Messages) && !has(&found, Field::Chosen) {
        let free: Vec<&String> = contents
            .iter()
            .filter(|(name, content)| content.is_text() && found.iter().all(|column| column.column != *name))
            .map(|(name, _)| name)
            .collect();
        let (prompt, completion) = (has(&found, Field::Prompt), has(&found, Field::Completion));
        let guess = |field, name: &str| Column { field, column: name.to_owned(), confidence: LEAST };
        match (prompt, completion, free.as_slice()) {
            (false, false, [first, second]) => found.extend([guess(Field::Prompt, first), guess(Field::Completion, second)]),
            (true, false, [one]) => found.push(guess(Field::Completion, one)),
            (false, true, [one]) => found.push(guess(Field::Prompt, one)),
            _ => {}
        }
    }
    if !(has(&found, Field::Chosen) && has(&found, Field::Rejected)) {
        found.retain(|column| !matches!(column.field, Field::Chosen | Field::Rejected));
    } else {
        found.retain(|column| column.field != Field::Completion);
    }
    let mapping = Mapping(found.iter().map(|column| (column.field, column.column.clone())).collect());
    if !mapping.is_enough() {
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(DatasetError::Unusable(format!(
            "it cannot be told which columns are the prompt and the answer (there are {names}); say it with \
             --map prompt=COLUMN,completion=COLUMN"
        )));
    }
    found.sort_by_key(|column| column.field);
    Ok((mapping, found))
}

/// How sure it is that a column is a field: six tenths by its name, four by what is in it.
fn score(field: Field, name: &str, content: &Content) -> f64 {
    let spelled: String = name.trim().to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    let usual = field.usual_names();
    let by_name = match usual.iter().position(|have| *have == spelled) {
        // The later ones stand for other things as well.
        #[expect(clippy::cast_precision_loss, reason = "a short list")]
        Some(place) => 1.0 - 0.3 * place as f64 / usual.len() as f64,
        None if spelled.split('_').any(|word| word.len() > 1 && usual.contains(&word)) && !spelled.ends_with("_id") => 0.5,
        None => return 0.0,
    };
    let by_content = match field {
        Field::Messages => content.messages,
        Field::Conversation => f64::from(u8::from(content.filled > 0.5)),
        Field::Prompt => content.filled.min(1.0) * if content.distinct < 0.05 { 0.5 } else { 1.0 },
        Field::Chosen | Field::Rejected => content.filled.max(content.messages),
        Field::System | Field::Completion | Field::Input | Field::History => content.filled,
    };
    if by_content <= 0.0 { 0.0 } else { 0.6 * by_name + 0.4 * by_content }
}

/// What is in a column.
struct Content {
    /// Share of rows with a text or a number.
    filled: f64,
    /// Share of rows with a list of messages, or a text that is one.
    messages: f64,
    /// Distinct values for each filled row.
    distinct: f64,
    /// Share of rows with a text of letters.
    words: f64,
}

impl Content {
    #[expect(clippy::cast_precision_loss, reason = "some hundred rows")]
    fn of(rows: &[Map<String, Value>], name: &str) -> Self {
        let values: Vec<&Value> = rows.iter().filter_map(|row| row.get(name)).collect();
        let share = |count: usize| count as f64 / rows.len().max(1) as f64;
        let filled: Vec<String> = values
            .iter()
            .filter_map(|value| match value {
                Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                Value::Bool(value) => Some(value.to_string()),
                _ => None,
            })
            .collect();
        let distinct: HashSet<&String> = filled.iter().collect();
        Self {
            filled: share(filled.len()),
            messages: share(values.iter().filter(|value| is_messages(value)).count()),
            distinct: distinct.len() as f64 / filled.len().max(1) as f64,
            words: share(filled.iter().filter(|text| text.chars().any(char::is_alphabetic)).count()),
        }
    }

    fn is_text(&self) -> bool {
        self.words > 0.5 && self.messages < 0.5
    }
}

/// Whether a value is a list of messages, or JSON text of one.
fn is_messages(value: &Value) -> bool {
    match value {
        Value::Array(list) => {
            !list.is_empty() && list.iter().all(|message| message.get("role").is_some() || message.get("from").is_some())
        }
        Value::String(text) if text.trim_start().starts_with('[') => {
            serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_array() && is_messages(&value))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn found(rows: &[Value]) -> Result<Vec<(Field, String)>, String> {
        let rows: Vec<Map<String, Value>> = rows.iter().map(|row| row.as_object().unwrap().clone()).collect();
        match find(&rows) {
            Ok((_, columns)) => Ok(columns.into_iter().map(|column| (column.field, column.column)).collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn columns_are_found_by_name_and_content() {
        let rows = [
            json!({"id": 1, "question": "Why?", "answer": "So.", "topic": "x"}),
            json!({"id": 2, "question": "How?", "answer": "Thus.", "topic": "x"}),
        ];
        assert_eq!(found(&rows).unwrap(), [(Field::Prompt, "question".to_owned()), (Field::Completion, "answer".to_owned())]);
        let rows = [json!({"Text": "a b c", "Label": "good"}), json!({"Text": "d e f", "Label": "bad"})];
        assert_eq!(found(&rows).unwrap(), [(Field::Prompt, "Text".to_owned()), (Field::Completion, "Label".to_owned())]);
        // An empty column of the right name is not it.
        let rows = [json!({"prompt": "", "question": "Why?", "response": "x"})];
        assert_eq!(found(&rows).unwrap()[0], (Field::Prompt, "question".to_owned()));
        let rows = [json!({"dialog": "[{\"role\": \"user\", \"content\": \"x\"}]", "output": "x"})];
        assert_eq!(found(&rows).unwrap(), [(Field::Messages, "dialog".to_owned())]);
        let rows = [json!({"prompt": "p", "chosen": "a", "rejected": "b"})];
        assert_eq!(found(&rows).unwrap().len(), 3);
        let rows = [json!({"foo": "some words", "bar": "other words", "n": 3})];
        assert_eq!(found(&rows).unwrap(), [(Field::Prompt, "foo".to_owned()), (Field::Completion, "bar".to_owned())]);
    }

    #[test]
    fn what_cannot_be_told_is_asked_for() {
        let error = found(&[json!({"a1": "x", "b1": "y", "c1": "z"})]).unwrap_err();
        assert!(error.contains("a1, b1, c1") && error.contains("--map prompt="), "{error}");
    }

    #[test]
    fn a_mapping_is_read_as_typed() {
        let mapping: Mapping = "prompt=question, completion=answer".parse().unwrap();
        assert_eq!((mapping.column(Field::Prompt), mapping.column(Field::Completion)), (Some("question"), Some("answer")));
        for (text, says) in
            [("prompt", "FIELD=COLUMN"), ("x=y", "no field"), ("prompt=a", "needs"), ("prompt=a,prompt=b", "twice")]
        {
            let error = text.parse::<Mapping>().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let error = mapping.check(&["question".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("completion=answer") && error.contains("there are question"), "{error}");
    }
}
