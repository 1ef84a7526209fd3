//! What a model's answer says, checked against the schema and the text again: nothing leaves that is not in them.

use serde_json::Value;

use super::schema::{Kind, Schema, UNKNOWN};
use super::spans::is_made_of;

/// What was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// One of the schema's intents.
    pub intent: String,
    /// A value for each of the schema's entities, or none.
    pub values: Vec<Option<String>>,
}

impl Reading {
    /// Nothing that is known.
    pub fn unknown(schema: &Schema) -> Self {
        Self { intent: UNKNOWN.to_owned(), values: vec![None; schema.entities.len()] }
    }

    /// Whether it says that nothing known was meant.
    pub fn is_unknown(&self) -> bool {
        self.intent == UNKNOWN
    }

    /// What an answer says of a cleaned text; `None` where it is not an answer of this schema, or says what the text does not.
    pub fn of(answer: &str, text: &str, schema: &Schema) -> Option<Self> {
        let Ok(Value::Object(fields)) = serde_json::from_str(answer) else { return None };
        let intent = schema.intent(fields.get("intent")?.as_str()?)?;
        if fields.len() != schema.entities.len() + 1 {
            return None;
        }
        let mut values = Vec::with_capacity(schema.entities.len());
        for (index, entity) in schema.entities.iter().enumerate() {
            let value = match fields.get(&entity.name)? {
                Value::Null => None,
                Value::String(value) => {
                    let copied = matches!(entity.kind, Kind::Span | Kind::Time);
                    let margin = if copied { schema.margin() } else { "" };
                    Some(value.strip_prefix(margin).unwrap_or(value).to_owned())
                }
                _ => return None,
            };
            let is_allowed = value.as_ref().is_none_or(|value| {
                intent.entities.contains(&index)
                    && match &entity.kind {
                        Kind::Span => !value.is_empty() && text.contains(value.as_str()),
                        Kind::Time => !value.is_empty() && is_made_of(text, value),
                        Kind::OneOf(words) => words.contains(value),
                    }
            });
            if !is_allowed {
                return None;
            }
            values.push(value);
        }
        Some(Self { intent: intent.name.clone(), values })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_answer_says_only_what_the_text_and_the_schema_say() {
        let (schema, text) = (Schema::built_in(), "remind me to call mum tomorrow at six");
        let read = |answer: &str| Reading::of(answer, text, &schema);
        let good = read(r#"{"intent":"set_reminder","task":"call mum","when":"tomorrow at six"}"#).unwrap();
        assert_eq!((good.intent.as_str(), good.values[0].as_deref()), ("set_reminder", Some("call mum")));
        // As the bundled adapter writes it, with one space; more of them do not stand in the text.
        assert_eq!(read(r#"{"intent":"set_reminder","task":" call mum","when":" tomorrow at six"}"#), Some(good));
        assert_eq!(read(r#"{"intent":"set_reminder","task":"   call mum","when":null}"#), None);
        let own = Schema { repeats_text: false, ..(*schema).clone() };
        assert_eq!(Reading::of(r#"{"intent":"add_task","task":"  call mum","when":null}"#, text, &own), None);
        let once = Reading::of(r#"{"intent":"set_reminder","task":"call mum","when":null}"#, text, &own).unwrap();
        assert_eq!(once.values[0].as_deref(), Some("call mum"));
        for wrong in [
            "",
            "{}",
            r#"{"intent":"dance","task":null,"when":null}"#,
            r#"{"intent":"set_reminder","task":"call dad","when":null}"#,
            r#"{"intent":"set_reminder","task":"","when":null}"#,
            r#"{"intent":"list_tasks","task":"call mum","when":null}"#,
            r#"{"intent":"unknown","task":null,"when":"tomorrow"}"#,
            r#"{"intent":"set_reminder","task":"call mum"}"#,
            r#"{"intent":"set_reminder","task":"call mum","when":7}"#,
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
