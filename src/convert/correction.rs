//! What would have been right: a reading changed by whoever knows better, and the row of a training file that teaches it. Pure.

use serde_json::{Map, Value, json};

use super::reading::Reading;
use super::schema::{Intent, Kind, Schema};
use super::spans::is_made_of;

/// What is to be different. What is absent stays, as far as the intent allows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Another intent.
    pub intent: Option<String>,
    /// For each of the schema's entities: left alone, or another value, or none.
    pub values: Vec<Option<Option<String>>>,
}

/// Why a correction cannot be learnt from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CorrectionError {
    /// The schema has no such intent.
    #[error("there is no intent {given:?}; one of {known} is right")]
    Intent {
        /// As given, shortened.
        given: String,
        /// All there are.
        known: String,
    },
    /// The intent does not come with this.
    #[error("the intent '{intent}' comes without it; null is right")]
    NotOfIntent {
        /// Name of the entity.
        entity: String,
        /// The intent.
        intent: String,
    },
    /// A model copies what it says from the text.
    #[error("its words are not in the text as it was read, {text:?}; a run of its words is right")]
    NotInText {
        /// Name of the entity.
        entity: String,
        /// The text.
        text: String,
    },
    /// Not one of the values that the schema lists.
    #[error("one of {known} is right")]
    NotListed {
        /// Name of the entity.
        entity: String,
        /// All there are.
        known: String,
    },
}

impl CorrectionError {
    /// The field at fault.
    pub fn field(&self) -> &str {
        match self {
            Self::Intent { .. } => "intent",
            Self::NotOfIntent { entity, .. } | Self::NotInText { entity, .. } | Self::NotListed { entity, .. } => entity,
        }
    }
}

/// The reading with the change. Checked like a model's answer: only what a model could say of the text can be taught.
pub fn corrected(reading: &Reading, change: &Change, text: &str, schema: &Schema) -> Result<Reading, CorrectionError> {
    let name = change.intent.as_ref().unwrap_or(&reading.intent);
    let intent = schema.intent(name).ok_or_else(|| CorrectionError::Intent {
        given: name.chars().take(64).collect(),
        known: listed(schema.intents.iter().map(|intent| &intent.name)),
    })?;
    let mut values = Vec::with_capacity(schema.entities.len());
    for (index, entity) in schema.entities.iter().enumerate() {
        let given = change.values.get(index).cloned().flatten();
        let old = || reading.values.get(index).cloned().flatten().filter(|_| intent.entities.contains(&index));
        let value = given.unwrap_or_else(old);
        if let Some(value) = &value {
            check(value, &entity.name, &entity.kind, (intent, index), text)?;
        }
        values.push(value);
    }
    Ok(Reading { intent: intent.name.clone(), values })
}

fn check(value: &str, entity: &str, kind: &Kind, (intent, index): (&Intent, usize), text: &str) -> Result<(), CorrectionError> {
    let entity = || entity.to_owned();
    if !intent.entities.contains(&index) {
        return Err(CorrectionError::NotOfIntent { entity: entity(), intent: intent.name.clone() });
    }
    let is_said = match kind {
        Kind::Span => !value.is_empty() && text.contains(value),
        Kind::Time => !value.is_empty() && is_made_of(text, value),
        Kind::OneOf(words) if words.iter().any(|word| word == value) => true,
        Kind::OneOf(words) => return Err(CorrectionError::NotListed { entity: entity(), known: listed(words.iter()) }),
    };
    if is_said { Ok(()) } else { Err(CorrectionError::NotInText { entity: entity(), text: text.chars().take(200).collect() }) }
}

fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

/// The answer that says it, as a model has to write it: every entity in the schema's order, without spaces.
pub fn answer(reading: &Reading, schema: &Schema) -> String {
    let mut fields = Map::new();
    fields.insert("intent".to_owned(), reading.intent.as_str().into());
    for (entity, value) in schema.entities.iter().zip(&reading.values) {
        fields.insert(entity.name.clone(), value.as_deref().into());
    }
    Value::Object(fields).to_string()
}

/// A row of a training file: the text as the model reads it, and the answer as it writes it. One line.
pub fn training_row(text: &str, answer: &str, schema: &Schema) -> String {
    let answer = match serde_json::from_str(answer) {
        Ok(Value::Object(mut fields)) if schema.repeats_text => {
            for entity in schema.entities.iter().filter(|entity| matches!(entity.kind, Kind::Span | Kind::Time)) {
                if let Some(Value::String(value)) = fields.get_mut(&entity.name) {
                    value.insert_str(0, schema.margin());
                }
            }
            Value::Object(fields).to_string()
        }
        _ => answer.to_owned(),
    };
    json!({"messages": [{"role": "user", "content": schema.asked(text)}, {"role": "assistant", "content": answer}]}).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    const TEXT: &str = "remind me to call mum tomorrow at six";

    fn reading() -> Reading {
        Reading { intent: "add_task".to_owned(), values: vec![Some("call".to_owned()), Some("tomorrow".to_owned())] }
    }

    fn change(intent: Option<&str>, task: Option<Option<&str>>, when: Option<Option<&str>>) -> Change {
        let value = |value: Option<Option<&str>>| value.map(|value| value.map(str::to_owned));
        Change { intent: intent.map(str::to_owned), values: vec![value(task), value(when)] }
    }

    #[test]
    fn what_is_corrected_is_what_the_model_has_to_say() {
        let schema = Schema::built_in();
        let right = |change: &Change| corrected(&reading(), change, TEXT, &schema).map(|reading| answer(&reading, &schema));
        let all = change(Some("set_reminder"), Some(Some("call mum")), Some(Some("tomorrow at six")));
        assert_eq!(right(&all).unwrap(), r#"{"intent":"set_reminder","task":"call mum","when":"tomorrow at six"}"#);
        assert_eq!(right(&Change::default()).unwrap(), r#"{"intent":"add_task","task":"call","when":"tomorrow"}"#);
        assert_eq!(right(&change(None, Some(None), None)).unwrap(), r#"{"intent":"add_task","task":null,"when":"tomorrow"}"#);
        // what an intent does not come with goes by itself
        assert_eq!(right(&change(Some("unknown"), None, None)).unwrap(), r#"{"intent":"unknown","task":null,"when":null}"#);
        assert_eq!(
            Reading::of(&right(&all).unwrap(), TEXT, &schema).unwrap(),
            corrected(&reading(), &all, TEXT, &schema).unwrap(),
            "what is taught would not be taken as an answer"
        );
    }

    #[test]
    fn what_no_model_could_say_is_refused_by_its_field() {
        let schema = Schema::built_in();
        for (change, field) in [
            (change(Some("dance"), None, None), "intent"),
            (change(None, Some(Some("call dad")), None), "task"),
            (change(None, Some(Some("")), None), "task"),
            (change(None, None, Some(Some("at seven"))), "when"),
            (change(Some("list_tasks"), Some(Some("call mum")), None), "task"),
        ] {
            assert_eq!(corrected(&reading(), &change, TEXT, &schema).unwrap_err().field(), field);
        }
    }

    #[test]
    fn a_row_is_a_conversation_on_one_line() {
        let row = |schema: &Schema| {
            let row = training_row("say \"hi\" now", r#"{"intent":"add_task","task":"say \"hi\"","when":null}"#, schema);
            assert!(!row.contains('\n'));
            serde_json::from_str::<Value>(&row).unwrap()["messages"].clone()
        };
        let built_in = Schema::built_in();
        let once = Schema { repeats_text: false, ..(*built_in).clone() };
        let messages =
            |asked: &str, answer: &str| json!([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]);
        assert_eq!(row(&once), messages("say \"hi\" now", r#"{"intent":"add_task","task":"say \"hi\"","when":null}"#));
        let twice = messages("say \"hi\" now\n say \"hi\" now", r#"{"intent":"add_task","task":" say \"hi\"","when":null}"#);
        assert_eq!(row(&built_in), twice);
    }
}
