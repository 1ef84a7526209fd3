//! `/v1/convert/schemas`: what a tenant's own texts can mean. A schema is checked when it is set, and read by the same code when it is
//! used.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use serde_json::{Value, json};

use crate::convert::schema::{Entity, Intent, Kind, Schema, UNKNOWN};
use crate::http::Server;
use crate::http::admin::change::{Changing, Halt, changed, done, found};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong_type};
use crate::tenants::Principal;
use crate::tenants::admin::schemas::{self as rows, SchemaRow};

/// More would make patterns large: each combination of entities has the text once more.
const MOST_ENTITIES: usize = 8;
const MOST_INTENTS: usize = 32;
const MOST_VALUES: usize = 64;
/// Longest name and value, bytes.
const MOST_BYTES: usize = 64;
/// Names in answers that are taken.
const TAKEN: [&str; 2] = ["intent", "confidence"];

/// A schema as a tenant has set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// What answers where a request names no model.
    pub model: Option<String>,
    /// What can be meant.
    pub schema: Schema,
}

/// `GET /v1/convert/schemas`
pub async fn list(State(server): State<Server>, Extension(caller): Extension<Arc<Principal>>) -> Result<Json<Value>, ApiError> {
    let rows = rows::list(server.tenants().office(), &caller.tenant).await?;
    let data: Vec<Value> = rows.iter().map(render).collect();
    Ok(Json(json!({"object": "list", "data": data, "has_more": false})))
}

/// `GET /v1/convert/schemas/{name}`
pub async fn retrieve(
    State(server): State<Server>,
    Path(name): Path<String>,
    Extension(caller): Extension<Arc<Principal>>,
) -> Result<Response, ApiError> {
    let row = rows::get(server.tenants().office(), &caller.tenant, &name).await?;
    Ok(found(&render(&row), row.version))
}

/// `PUT /v1/convert/schemas/{name}`
pub async fn put(
    Path(name): Path<String>,
    Extension(caller): Extension<Arc<Principal>>,
    changing: Changing,
) -> Result<Response, Halt> {
    let server = changing.server.clone();
    let (fields, planned) = changing.fields()?;
    let spec = read(fields)?;
    if let Some(model) = &spec.model {
        server.gateway().check_model(&caller, model).map_err(ApiError::from)?;
    }
    let mut change = planned.begin().await?;
    let row = rows::put(&mut change, &caller.tenant, &name, write(&spec).to_string()).await?;
    changed(change, &render(&row), row.version).await
}

/// `DELETE /v1/convert/schemas/{name}`
pub async fn remove(
    Path(name): Path<String>,
    Extension(caller): Extension<Arc<Principal>>,
    changing: Changing,
) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    rows::delete(&mut change, &caller.tenant, &name).await?;
    done(change, &json!({"name": name, "object": "convert.schema.deleted", "deleted": true})).await
}

/// The schema of this name that a caller's tenant has.
pub fn named(server: &Server, caller: &Principal, path: &str, name: &str) -> Result<Spec, ApiError> {
    let policy = server.tenants().policy();
    let text = policy.convert_schema(&caller.tenant, name).ok_or_else(|| {
        let message = format!("Invalid '{path}': there is no schema {name:?}. PUT /v1/convert/schemas/{{name}} makes one.");
        ApiError::invalid(path, "schema_not_found", message)
    })?;
    let value = serde_json::from_str(text).map_err(|error| ApiError::internal(&error))?;
    read(Fields::body(value)?)
}

fn render(row: &SchemaRow) -> Value {
    let mut object = json!({"object": "convert.schema", "name": row.name});
    let spec: Value = serde_json::from_str(&row.spec).unwrap_or_default();
    for (name, value) in spec.as_object().into_iter().flatten() {
        object[name] = value.clone();
    }
    for (name, value) in [("created_at", row.created_at), ("updated_at", row.updated_at), ("version", row.version)] {
        object[name] = value.into();
    }
    object
}

fn write(spec: &Spec) -> Value {
    let entity = |entity: &Entity| match &entity.kind {
        Kind::Span => json!({"name": entity.name, "type": "span"}),
        Kind::Time => json!({"name": entity.name, "type": "time"}),
        Kind::OneOf(values) => json!({"name": entity.name, "type": "one_of", "values": values}),
    };
    let Schema { entities, intents, repeats_text } = &spec.schema;
    let intent = |intent: &Intent| {
        let names: Vec<&str> = intent.entities.iter().filter_map(|index| Some(entities.get(*index)?.name.as_str())).collect();
        json!({"name": intent.name, "entities": names})
    };
    json!({
        "model": spec.model,
        "entities": entities.iter().map(entity).collect::<Vec<_>>(),
        "intents": intents.iter().map(intent).collect::<Vec<_>>(),
        "repeat_text": repeats_text,
    })
}

/// Reads a schema.
fn read(mut fields: Fields) -> Result<Spec, ApiError> {
    let model = fields.string("model")?;
    let repeats_text = fields.boolean("repeat_text")?.unwrap_or(false);
    let entities = list_of(&mut fields, "entities", 0..=MOST_ENTITIES)?;
    let entities = entities.into_iter().enumerate();
    let entities = entities.map(|(index, value)| entity(format!("entities[{index}]"), value)).collect::<Result<Vec<_>, _>>()?;
    twice("entities", entities.iter().map(|entity| entity.name.as_str()))?;
    let intents = list_of(&mut fields, "intents", 1..=MOST_INTENTS)?.into_iter().enumerate();
    let intents = intents.map(|(index, value)| intent(format!("intents[{index}]"), value, &entities));
    let mut intents = intents.collect::<Result<Vec<_>, _>>()?;
    twice("intents", intents.iter().map(|intent| intent.name.as_str()))?;
    fields.finish(&[])?;
    if intents.iter().all(|intent| intent.name != UNKNOWN) {
        intents.push(Intent { name: UNKNOWN.to_owned(), entities: Vec::new() });
    }
    Ok(Spec { model, schema: Schema { entities, intents, repeats_text } })
}

fn list_of(fields: &mut Fields, name: &str, range: std::ops::RangeInclusive<usize>) -> Result<Vec<Value>, ApiError> {
    let path = fields.path(name);
    let values = match fields.take(name) {
        None if *range.start() == 0 => return Ok(Vec::new()),
        None => return Err(fields.missing(name)),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(wrong_type(&path, "an array", &other)),
    };
    if range.contains(&values.len()) {
        return Ok(values);
    }
    let (least, most, count) = (range.start(), range.end(), values.len());
    let message = format!("Invalid '{path}': expected {least} to {most} items, but got {count}.");
    Err(ApiError::invalid(path, "invalid_array_length", message))
}

fn entity(path: String, value: Value) -> Result<Entity, ApiError> {
    let mut fields = Fields::object(path.clone(), value)?;
    let name = name(&mut fields)?;
    let kind = match fields.required_string("type")?.as_str() {
        "span" => Kind::Span,
        "time" => Kind::Time,
        "one_of" => {
            let values = fields.strings("values", MOST_VALUES)?.filter(|values| !values.is_empty());
            let values = values.ok_or_else(|| fields.missing("values"))?;
            let path = fields.path("values");
            if let Some(wrong) = values.iter().find(|value| value.len() > MOST_BYTES || value.chars().any(char::is_control)) {
                let message =
                    format!("Invalid '{path}': {wrong:?}. At most {MOST_BYTES} bytes without control characters are right.");
                return Err(ApiError::invalid(path, "invalid_value", message));
            }
            twice(&path, values.iter().map(String::as_str))?;
            Kind::OneOf(values)
        }
        other => {
            let path = fields.path("type");
            let message = format!("Invalid '{path}': {other:?}. 'span', 'time' and 'one_of' are right.");
            return Err(ApiError::invalid(path, "invalid_value", message));
        }
    };
    fields.finish(&[])?;
    if TAKEN.contains(&name.as_str()) {
        let path = format!("{path}.name");
        let message = format!("Invalid '{path}': {name:?} is in every answer already; choose another name.");
        return Err(ApiError::invalid(path, "invalid_value", message));
    }
    Ok(Entity { name, kind })
}

fn intent(path: String, value: Value, entities: &[Entity]) -> Result<Intent, ApiError> {
    let mut fields = Fields::object(path.clone(), value)?;
    let name = name(&mut fields)?;
    let names = fields.strings("entities", MOST_ENTITIES)?.unwrap_or_default();
    fields.finish(&[])?;
    let path = format!("{path}.entities");
    twice(&path, names.iter().map(String::as_str))?;
    let place = |name: &String| {
        entities.iter().position(|entity| entity.name == *name).ok_or_else(|| {
            let message = format!("Invalid '{path}': {name:?} is not one of the schema's entities.");
            ApiError::invalid(path.clone(), "invalid_value", message)
        })
    };
    let mut places = names.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    places.sort_unstable();
    if name == UNKNOWN && !places.is_empty() {
        let message = format!("Invalid '{path}': '{UNKNOWN}' has no entities.");
        return Err(ApiError::invalid(path, "invalid_value", message));
    }
    Ok(Intent { name, entities: places })
}

fn name(fields: &mut Fields) -> Result<String, ApiError> {
    let name = fields.required_string("name")?;
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.len() <= MOST_BYTES && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(letters) {
        return Ok(name);
    }
    let path = fields.path("name");
    let message =
        format!("Invalid '{path}': {name:?}. At most {MOST_BYTES} small letters, digits and '_', a letter first, are right.");
    Err(ApiError::invalid(path, "invalid_value", message))
}

fn twice<'a>(path: &str, names: impl Iterator<Item = &'a str>) -> Result<(), ApiError> {
    let mut seen = std::collections::HashSet::new();
    let mut names = names;
    names.find(|name| !seen.insert(*name)).map_or(Ok(()), |name| {
        Err(ApiError::invalid(path, "invalid_value", format!("Invalid '{path}': {name:?} is there twice.")))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    fn coffee() -> Value {
        json!({
            "model": "baristas",
            "entities": [{"name": "drink", "type": "span"}, {"name": "size", "type": "one_of", "values": ["small", "large"]}, {"name": "when", "type": "time"}],
            "intents": [{"name": "order", "entities": ["when", "drink", "size"]}, {"name": "cancel", "entities": []}],
        })
    }

    #[test]
    fn a_schema_is_read_as_it_was_written() {
        let spec = read(Fields::body(coffee()).unwrap()).unwrap();
        assert_eq!((spec.schema.intents[0].entities.as_slice(), spec.schema.repeats_text), (&[0, 1, 2][..], false));
        assert_eq!(spec.schema.intents.last().unwrap().name, UNKNOWN);
        assert_eq!(read(Fields::body(write(&spec)).unwrap()).unwrap(), spec);
        let mut twice = coffee();
        twice["repeat_text"] = true.into();
        let spec = read(Fields::body(twice).unwrap()).unwrap();
        assert!(spec.schema.repeats_text && read(Fields::body(write(&spec)).unwrap()).unwrap() == spec);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |pointer: &str, value: Value| {
            let mut schema = coffee();
            *schema.pointer_mut(pointer).unwrap() = value;
            read(Fields::body(schema).unwrap()).unwrap_err().param.unwrap()
        };
        assert_eq!(refused("/entities/0/name", json!("Drink")), "entities[0].name");
        assert_eq!(refused("/entities/0/name", json!("intent")), "entities[0].name");
        assert_eq!(refused("/entities/0/name", json!("size")), "entities");
        assert_eq!(refused("/entities/0/type", json!("number")), "entities[0].type");
        assert_eq!(refused("/entities/1/values", json!([])), "entities[1].values");
        assert_eq!(refused("/entities/1/values", json!(["a", "a"])), "entities[1].values");
        assert_eq!(refused("/intents/0/entities", json!(["colour"])), "intents[0].entities");
        assert_eq!(refused("/intents", json!([])), "intents");
        assert_eq!(refused("/intents/1", json!({"name": "unknown", "entities": ["drink"]})), "intents[1].entities");
        assert_eq!(refused("/intents/1", json!({"name": "order"})), "intents");
    }
}
