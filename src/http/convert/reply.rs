//! What `/convert` answers.

use serde_json::{Map, Value, json};

use super::Understood;
use super::request::Input;
use crate::convert::Reading;
use crate::convert::schema::{Kind, UNKNOWN};
use crate::http::openai::wire;

/// The answer to one text.
pub(super) fn body(id: &str, input: &Input, understood: &Understood) -> Value {
    let Understood { schema, model, meaning, confidence, counts } = understood;
    let unknown = Reading::unknown(schema);
    let reading = if *counts { &meaning.reading } else { &unknown };
    let mut data = Map::new();
    let intent = if reading.is_unknown() { UNKNOWN } else { &reading.intent };
    data.insert("intent".to_owned(), intent.into());
    let mut words = Vec::new();
    for (entity, value) in schema.entities.iter().zip(&reading.values) {
        words.extend(value.as_deref());
        let value = match (&entity.kind, value) {
            (_, None) => Value::Null,
            (Kind::Time, Some(text)) => json!({"text": text, "iso": null, "recurrence": null}),
            (_, Some(text)) => text.as_str().into(),
        };
        data.insert(entity.name.clone(), value);
    }
    data.insert("confidence".to_owned(), rounded(*confidence).into());
    let mut body = json!({
        "success": true,
        "id": id,
        "object": "convert",
        "structured_data": data,
        "converted": words.join(" "),
        "model": model,
        "usage": wire::usage(meaning.usage),
    });
    if input.is_partial {
        body["partial"] = true.into();
    }
    body
}

/// Four places are more than is known.
fn rounded(share: f64) -> f64 {
    (share * 10_000.0).round() / 10_000.0
}
