//! JSON schemas that answers can be held to: checked keyword by keyword, so that what is not implemented is refused by its name and its
//! place (a JSON pointer), and written as rules. Pure.

use serde_json::{Map, Value, json};

/// Deepest nesting of subschemas.
const DEEPEST: usize = 64;
/// Most subschemas.
const MOST: usize = 5_000;

/// Keywords that say nothing about what is valid.
const ANNOTATIONS: &[&str] = &[
    "title",
    "description",
    "default",
    "examples",
    "$comment",
    "$schema",
    "$id",
    "deprecated",
    "readOnly",
    "writeOnly",
    // Of OpenAPI: says which property tells the branches of an `anyOf` apart, which the branches say themselves.
    "discriminator",
];
/// Formats of strings that are kept to.
const FORMATS: &[&str] = &["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
/// Keywords that bring another schema to the same value.
const IN_PLACE: &[&str] = &["$ref", "anyOf", "oneOf", "allOf", "const", "enum"];
/// Largest number where a schema says nothing: 2^53 - 1, up to which all readers agree (RFC 8259, 6).
const LARGEST: i64 = 9_007_199_254_740_991;
/// The definition of any value, in rules.
const ANY: &str = "switchyard_any_value";
const TYPES: &[&str] = &["null", "boolean", "integer", "number", "string", "array", "object"];

/// Whose rules a schema has to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// JSON Schema's.
    Plain,
    /// OpenAI's of `strict`: objects have no further properties and require all that they have.
    Strict,
}

/// A schema cannot be kept to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {pointer:?}: {problem}")]
pub struct SchemaError {
    /// Where, as a JSON pointer (`#/properties/name`).
    pub pointer: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// Checks a schema of an object.
pub fn check_schema(schema: &Value, strictness: Strictness) -> Result<(), SchemaError> {
    let mut check = Check { root: schema, strictness, seen: 0 };
    if !schema.is_object() {
        return Err(check.wrong("#", "expected a schema, which is an object"));
    }
    if strictness == Strictness::Strict && schema.get("type") != Some(&json!("object")) {
        return Err(check.wrong("#", "with 'strict' the schema must have 'type': 'object'"));
    }
    check.subschema(schema, "#", 0)
}

/// Rules for what a checked schema allows: JSON with at most one space after a colon or a comma, properties in the schema's order.
/// They begin with `start: `.
pub fn json_rules(schema: &Value) -> String {
    format!("start: {}", json_value(schema))
}

/// A value of a checked schema, inside of rules.
pub(super) fn json_value(schema: &Value) -> String {
    let mut schema = schema.clone();
    bound(&mut schema, Merged::No);
    if let Value::Object(map) = &mut schema {
        let any = json!({"anyOf": [
            {"type": "null"}, {"type": "boolean"}, {"type": "string"},
            {"type": "number", "minimum": -LARGEST, "maximum": LARGEST},
            {"type": "array", "items": any()}, {"type": "object", "additionalProperties": any()},
        ]});
        if let Some(definitions) = map.entry("$defs").or_insert_with(|| json!({})).as_object_mut() {
            definitions.insert(ANY.to_owned(), any);
        }
        // What is checked is today's draft.
        map.shift_remove("$schema");
        map.shift_remove("$id");
        let form = json!({
            "whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?",
            // Names that are spelled with \u would be other names to the rules and the same to a reader.
            "json_allowed_escapes": "nrbtf\\\"",
        });
        map.insert("x-guidance".to_owned(), form);
    }
    format!("%json {schema}")
}

/// Whether a schema holds together with another: what it leaves open the other may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merged {
    Yes,
    No,
}

/// Any value at all.
fn any() -> Value {
    json!({"$ref": format!("#/$defs/{ANY}")})
}

/// Gives numbers a largest and a smallest value where a schema leaves them open: without, they may have so many digits that no reader
/// takes them.
fn bound(schema: &mut Value, merged: Merged) {
    let Value::Object(map) = schema else {
        if *schema == Value::Bool(true) && merged == Merged::No {
            *schema = any();
        }
        return;
    };
    let says = |map: &Map<String, Value>, names: &[&str]| names.iter().any(|name| map.contains_key(*name));
    let in_place = says(map, IN_PLACE);
    let alone = map.keys().filter(|name| !ANNOTATIONS.contains(&name.as_str()) && !name.starts_with("$d")).count() == 1;
    for (name, value) in map.iter_mut() {
        match (name.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(schemas)) => {
                schemas.values_mut().for_each(|schema| bound(schema, merged));
            }
            ("anyOf" | "oneOf", Value::Array(schemas)) => {
                let merged = if alone { merged } else { Merged::Yes };
                schemas.iter_mut().for_each(|schema| bound(schema, merged));
            }
            ("allOf", Value::Array(schemas)) => schemas.iter_mut().for_each(|schema| bound(schema, Merged::Yes)),
            ("prefixItems", Value::Array(schemas)) => schemas.iter_mut().for_each(|schema| bound(schema, merged)),
            ("items" | "additionalProperties", schema) => bound(schema, merged),
            _ => {}
        }
    }
    let types = map.get("type").cloned().unwrap_or_default();
    let has = |name: &str| types == name || types.as_array().is_some_and(|types| types.iter().any(|one| one == name));
    if has("integer") || has("number") {
        bound_numbers(map);
    }
    if in_place || merged == Merged::Yes {
        return;
    }
    if map.keys().all(|name| ANNOTATIONS.contains(&name.as_str()) || name == "$defs" || name == "definitions") {
        map.insert("$ref".to_owned(), any()["$ref"].clone());
        return;
    }
    if has("object") && !says(map, &["additionalProperties"]) {
        map.insert("additionalProperties".to_owned(), any());
    }
    if has("array") && !says(map, &["items"]) {
        map.insert("items".to_owned(), any());
    }
}

fn bound_numbers(map: &mut Map<String, Value>) {
    let given = |names: [&str; 2]| names.iter().find_map(|name| map.get(*name)).and_then(Value::as_f64);
    let (low, high) = (given(["minimum", "exclusiveMinimum"]), given(["maximum", "exclusiveMaximum"]));
    let largest = LARGEST as f64;
    if low.is_none() && high.is_none_or(|high| high > -largest) {
        map.insert("minimum".to_owned(), (-LARGEST).into());
    }
    if high.is_none() && low.is_none_or(|low| low < largest) {
        map.insert("maximum".to_owned(), LARGEST.into());
    }
}

struct Check<'a> {
    root: &'a Value,
    strictness: Strictness,
    seen: usize,
}

impl Check<'_> {
    fn wrong(&self, pointer: &str, problem: impl Into<String>) -> SchemaError {
        SchemaError { pointer: pointer.to_owned(), problem: problem.into() }
    }

    fn subschema(&mut self, schema: &Value, at: &str, depth: usize) -> Result<(), SchemaError> {
        self.seen += 1;
        if depth > DEEPEST || self.seen > MOST {
            return Err(self.wrong(at, format!("more than {DEEPEST} levels or {MOST} subschemas; expected a smaller schema")));
        }
        let map = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(map) => map,
            other => return Err(self.wrong(at, format!("expected a schema (an object or a boolean), but got {}", shown(other)))),
        };
        for (name, value) in map {
            self.keyword(name, value, &format!("{at}/{}", escaped(name)), depth)?;
        }
        if self.strictness == Strictness::Strict {
            self.strict_object(map, at)?;
        }
        Ok(())
    }

    fn keyword(&mut self, name: &str, value: &Value, at: &str, depth: usize) -> Result<(), SchemaError> {
        match name {
            "properties" | "patternProperties" | "$defs" | "definitions" => {
                let Value::Object(map) = value else { return Err(self.wrong(at, "expected an object of schemas")) };
                map.iter().try_for_each(|(name, schema)| self.subschema(schema, &format!("{at}/{}", escaped(name)), depth + 1))
            }
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => {
                let schemas = value.as_array().filter(|schemas| !schemas.is_empty());
                let schemas = schemas.ok_or_else(|| self.wrong(at, "expected an array of at least one schema"))?;
                schemas
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, schema)| self.subschema(schema, &format!("{at}/{index}"), depth + 1))
            }
            "items" if value.is_array() => Err(self.wrong(at, "an array of schemas is not supported here; use 'prefixItems'")),
            "items" | "additionalProperties" => self.subschema(value, at, depth + 1),
            "$ref" => self.reference(value, at),
            "type" => self.types(value, at),
            "enum" if value.as_array().is_none_or(Vec::is_empty) => {
                Err(self.wrong(at, "expected an array of at least one value"))
            }
            "const" | "enum" => Ok(()),
            "required" => {
                let names = value.as_array().is_some_and(|names| names.iter().all(Value::is_string));
                if names { Ok(()) } else { Err(self.wrong(at, "expected an array of names")) }
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                let count = value.as_u64().is_some_and(|count| count <= 1 << 20);
                if count { Ok(()) } else { Err(self.wrong(at, format!("expected an integer from 0 to {}", 1 << 20))) }
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                if value.is_number() {
                    Ok(())
                } else {
                    Err(self.wrong(at, "expected a number"))
                }
            }
            "multipleOf" => {
                let positive = value.as_f64().is_some_and(|number| number > 0.0);
                if positive { Ok(()) } else { Err(self.wrong(at, "expected a number above 0")) }
            }
            "pattern" => {
                if value.is_string() {
                    Ok(())
                } else {
                    Err(self.wrong(at, "expected a regular expression"))
                }
            }
            "format" => {
                let known = value.as_str().is_some_and(|name| FORMATS.contains(&name));
                let problem = || format!("the format {} is not supported; supported are {}", shown(value), FORMATS.join(", "));
                if known { Ok(()) } else { Err(self.wrong(at, problem())) }
            }
            "uniqueItems" if *value == Value::Bool(false) => Ok(()),
            name if ANNOTATIONS.contains(&name) => Ok(()),
            name => Err(self.wrong(at, format!("the keyword '{name}' is not supported"))),
        }
    }

    fn types(&self, value: &Value, at: &str) -> Result<(), SchemaError> {
        let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
        let right = match value {
            Value::Array(types) => !types.is_empty() && types.iter().all(known),
            one => known(one),
        };
        if right { Ok(()) } else { Err(self.wrong(at, format!("{} is no type; types are {}", shown(value), TYPES.join(", ")))) }
    }

    fn reference(&self, value: &Value, at: &str) -> Result<(), SchemaError> {
        let target = value.as_str().ok_or_else(|| self.wrong(at, "expected a text"))?;
        let inside = target == "#" || (target.starts_with("#/") && !target.contains(['~', '%']));
        if !inside {
            return Err(self.wrong(
                at,
                format!("{target:?} is not supported; expected a plain pointer into this schema like '#/$defs/name'"),
            ));
        }
        let found = self.root.pointer(target.trim_start_matches('#'));
        if found.is_none() {
            return Err(self.wrong(at, format!("there is nothing at {target:?}")));
        }
        Ok(())
    }

    fn strict_object(&self, map: &Map<String, Value>, at: &str) -> Result<(), SchemaError> {
        let types = map.get("type");
        let is_object = types == Some(&json!("object"))
            || types.and_then(Value::as_array).is_some_and(|types| types.contains(&json!("object")))
            || map.contains_key("properties");
        if !is_object {
            return Ok(());
        }
        if map.get("additionalProperties") != Some(&Value::Bool(false)) {
            return Err(self.wrong(at, "with 'strict' every object must have 'additionalProperties': false"));
        }
        let required: Vec<&str> =
            map.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = map.get("properties").and_then(Value::as_object);
        let left = properties.into_iter().flatten().map(|(name, _)| name).find(|name| !required.contains(&name.as_str()));
        match left {
            Some(name) => Err(self.wrong(
                at,
                format!("with 'strict' 'required' must name every property, and '{name}' is missing (a type of [\"...\", \"null\"] makes one optional)"),
            )),
            None => Ok(()),
        }
    }
}

/// A name inside a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    fn refused(schema: Value, strictness: Strictness) -> (String, String) {
        let error = check_schema(&schema, strictness).unwrap_err();
        (error.pointer, error.problem)
    }

    #[test]
    fn what_is_not_supported_is_named_with_its_place() {
        let cases = [
            (json!({"properties": {"a/b": {"not": {}}}}), "#/properties/a~1b/not", "'not'"),
            (json!({"type": "array", "uniqueItems": true}), "#/uniqueItems", "'uniqueItems'"),
            (json!({"anyOf": [{"type": "string"}, {"if": {}}]}), "#/anyOf/1/if", "'if'"),
            (json!({"items": [{"type": "string"}]}), "#/items", "prefixItems"),
            (json!({"$defs": {"x": {"format": "iri"}}}), "#/$defs/x/format", "iri"),
            (json!({"properties": {"x": {"$ref": "#/$defs/none"}}}), "#/properties/x/$ref", "#/$defs/none"),
            (json!({"properties": {"x": {"$ref": "http://a/b"}}}), "#/properties/x/$ref", "http://a/b"),
            (json!({"properties": {"x": {"type": "text"}}}), "#/properties/x/type", "text"),
            (json!({"properties": {"x": 3}}), "#/properties/x", "expected a schema"),
            (json!({"x-guidance": {}}), "#/x-guidance", "x-guidance"),
        ];
        for (schema, pointer, says) in cases {
            let (at, problem) = refused(schema, Strictness::Plain);
            assert_eq!(at, pointer);
            assert!(problem.contains(says), "{problem}");
        }
    }

    #[test]
    fn strict_schemas_say_everything_about_their_objects() {
        let open = json!({"type": "object", "properties": {}});
        assert_eq!(check_schema(&open, Strictness::Plain), Ok(()));
        assert!(refused(open, Strictness::Strict).1.contains("additionalProperties"));
        let inner = json!({"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": false});
        let schema = json!({"type": "object", "properties": {"a": inner}, "required": ["a"], "additionalProperties": false});
        let (at, problem) = refused(schema, Strictness::Strict);
        assert_eq!(at, "#/properties/a");
        assert!(problem.contains("'b' is missing"), "{problem}");
        assert!(refused(json!({"anyOf": [{"type": "string"}]}), Strictness::Strict).1.contains("'type': 'object'"));
    }

    #[test]
    fn a_schema_without_end_is_refused() {
        let deep = (0..100).fold(json!({"type": "string"}), |inner, _| json!({"items": inner}));
        assert!(refused(deep, Strictness::Plain).1.contains("levels"));
    }
}
