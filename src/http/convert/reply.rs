//! What `/convert` answers.

use serde_json::{Map, Value, json};

use super::Understood;
use super::request::Input;
use crate::convert::Reading;
use crate::convert::schema::{Kind, UNKNOWN};
use crate::convert::when::{Context, Purpose, Resolved, converted, resolve};
use crate::http::openai::wire;

/// The answer to one text.
pub(super) fn body(id: &str, input: &Input, understood: &Understood) -> Value {
    let Understood { schema, model, meaning } = understood;
    let unknown = Reading::unknown(schema);
    let reading = if meaning.counts { &meaning.reading } else { &unknown };
    let mut spans = schema.entities.iter().zip(&reading.values).filter(|(entity, _)| matches!(entity.kind, Kind::Span));
    let purpose = spans.find_map(|(_, value)| value.as_deref()).map(Purpose::of).unwrap_or_default();
    let context = Context { now: input.now.clone(), locale: input.locale, purpose };
    let mut data = Map::new();
    data.insert("intent".to_owned(), if reading.is_unknown() { UNKNOWN } else { &reading.intent }.into());
    let (mut task, mut said, mut when): (Option<&str>, Option<&str>, Option<Resolved>) = (None, None, None);
    for (entity, value) in schema.entities.iter().zip(&reading.values) {
        let shown = match (&entity.kind, value) {
            (_, None) => Value::Null,
            (Kind::Time, Some(text)) => {
                let resolved = resolve(text, &context);
                let shown = time(text, resolved.as_ref());
                if said.is_none() {
                    (said, when) = (Some(text.as_str()), resolved);
                }
                shown
            }
            (Kind::Span, Some(text)) => {
                task = task.or(Some(text.as_str()));
                text.as_str().into()
            }
            (Kind::OneOf(_), Some(text)) => text.as_str().into(),
        };
        data.insert(entity.name.clone(), shown);
    }
    data.insert("confidence".to_owned(), rounded(meaning.confidence).into());
    let mut body = json!({
        "success": true,
        "id": id,
        "object": "convert",
        "structured_data": data,
        "converted": converted(task, said, when.as_ref(), &context),
        "model": model,
        "usage": wire::usage(meaning.usage),
    });
    if input.is_partial {
        body["partial"] = true.into();
    }
    body
}

/// The words of a time and what they mean, where that is known.
fn time(text: &str, resolved: Option<&Resolved>) -> Value {
    json!({
        "text": text,
        "iso": resolved.and_then(|when| when.iso.as_deref()),
        "recurrence": resolved.and_then(|when| when.recurrence.as_deref()),
        "end": resolved.and_then(|when| when.end.as_deref()),
        "bound": resolved.map(|when| when.bound.word()).filter(|word| !word.is_empty()),
        "ambiguous": resolved.map(|when| when.ambiguous.as_slice()).unwrap_or_default(),
    })
}

/// Four places are more than is known.
fn rounded(share: f64) -> f64 {
    (share * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use crate::convert::Schema;
    use crate::convert::when::Locale;
    use crate::gateway::{Meaning, Usage};
    use crate::tenants::Rate;

    fn answered(counts: bool) -> Value {
        let values = vec![Some("call mum".to_owned()), Some("every monday at nine".to_owned())];
        let meaning = Meaning {
            reading: Reading { intent: "set_reminder".to_owned(), values },
            probability: 0.5,
            confidence: 0.123_456,
            counts,
            served: None,
            usage: Usage::default(),
            rate: Rate::default(),
            cost_nanos: 0,
        };
        let understood = Understood { schema: Schema::built_in(), model: "m".to_owned(), meaning };
        let input = Input {
            text: String::new(),
            model: None,
            schema: None,
            now: "2026-03-28T18:30:00+00:00[Europe/London]".parse().unwrap(),
            locale: Locale::British,
            is_partial: true,
        };
        body("req_1", &input, &understood)
    }

    #[test]
    fn a_time_has_its_words_and_what_they_mean() {
        let answer = answered(true);
        let when = &answer["structured_data"]["when"];
        assert_eq!(when["text"], "every monday at nine");
        // The clocks have been put forward by then.
        assert_eq!(when["iso"], "2026-03-30T09:00:00+01:00", "{when}");
        assert!(when["recurrence"].as_str().unwrap().contains("BYDAY=MO"), "{when}");
        assert_eq!((&answer["structured_data"]["confidence"], &answer["partial"]), (&json!(0.1235), &json!(true)));
        assert!(answer["converted"].as_str().unwrap().starts_with("call mum"), "{answer}");
    }

    #[test]
    fn what_does_not_count_is_unknown() {
        let data = &answered(false)["structured_data"];
        assert_eq!((&data["intent"], &data["task"], &data["when"]), (&json!("unknown"), &json!(null), &json!(null)));
    }
}
