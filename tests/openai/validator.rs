//! A small validator of JSON Schema that knows nothing of grammars: what answers to the corpus are checked with.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Whether a value is what a schema says; why not.
pub fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    check(schema, schema, value, 0)
}

fn check(root: &Value, schema: &Value, value: &Value, depth: usize) -> Result<(), String> {
    assert!(depth < 2_000, "a schema without end");
    let map = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Bool(false) => return Err(format!("nothing is allowed, but got {value}")),
        Value::Object(map) => map,
        other => panic!("{other} is no schema"),
    };
    let inner = |schema: &Value, value: &Value| check(root, schema, value, depth + 1);
    for (name, rule) in map {
        let holds = match (name.as_str(), value) {
            ("type", _) => match rule {
                Value::Array(types) => types.iter().any(|name| is(value, name)),
                name => is(value, name),
            },
            ("enum", _) => rule.as_array().unwrap().iter().any(|one| equal(one, value)),
            ("const", _) => equal(rule, value),
            ("$ref", _) => {
                let target = root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap();
                inner(target, value)?;
                true
            }
            ("allOf", _) => {
                rule.as_array().unwrap().iter().try_for_each(|schema| inner(schema, value))?;
                true
            }
            ("anyOf", _) => rule.as_array().unwrap().iter().any(|schema| inner(schema, value).is_ok()),
            ("oneOf", _) => rule.as_array().unwrap().iter().filter(|schema| inner(schema, value).is_ok()).count() == 1,
            ("minimum", Value::Number(number)) => number.as_f64() >= rule.as_f64(),
            ("maximum", Value::Number(number)) => number.as_f64() <= rule.as_f64(),
            ("exclusiveMinimum", Value::Number(number)) => number.as_f64() > rule.as_f64(),
            ("exclusiveMaximum", Value::Number(number)) => number.as_f64() < rule.as_f64(),
            ("multipleOf", Value::Number(number)) => {
                let ratio = number.as_f64().unwrap() / rule.as_f64().unwrap();
                (ratio - ratio.round()).abs() <= 1e-9 * ratio.abs().max(1.0)
            }
            ("minLength", Value::String(text)) => text.chars().count() as u64 >= rule.as_u64().unwrap(),
            ("maxLength", Value::String(text)) => text.chars().count() as u64 <= rule.as_u64().unwrap(),
            ("pattern", Value::String(text)) => fancy_regex::Regex::new(rule.as_str().unwrap()).unwrap().is_match(text).unwrap(),
            ("format", Value::String(text)) => has_format(rule.as_str().unwrap(), text),
            ("minItems", Value::Array(items)) => items.len() as u64 >= rule.as_u64().unwrap(),
            ("maxItems", Value::Array(items)) => items.len() as u64 <= rule.as_u64().unwrap(),
            ("prefixItems", Value::Array(items)) => {
                rule.as_array().unwrap().iter().zip(items).try_for_each(|(schema, item)| inner(schema, item))?;
                true
            }
            ("items", Value::Array(items)) => {
                let before = map.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
                items.iter().skip(before).try_for_each(|item| inner(rule, item))?;
                true
            }
            ("minProperties", Value::Object(found)) => found.len() as u64 >= rule.as_u64().unwrap(),
            ("maxProperties", Value::Object(found)) => found.len() as u64 <= rule.as_u64().unwrap(),
            ("required", Value::Object(found)) => {
                rule.as_array().unwrap().iter().all(|name| found.contains_key(name.as_str().unwrap()))
            }
            ("properties", Value::Object(found)) => {
                let ruled = rule.as_object().unwrap();
                found.iter().try_for_each(|(name, value)| ruled.get(name).map_or(Ok(()), |schema| inner(schema, value)))?;
                true
            }
            ("patternProperties", Value::Object(found)) => {
                for (pattern, schema) in rule.as_object().unwrap() {
                    let pattern = fancy_regex::Regex::new(pattern).unwrap();
                    found
                        .iter()
                        .filter(|(name, _)| pattern.is_match(name).unwrap())
                        .try_for_each(|(_, value)| inner(schema, value))?;
                }
                true
            }
            ("additionalProperties", Value::Object(found)) => {
                let known = named(map);
                let patterns: Vec<fancy_regex::Regex> = map
                    .get("patternProperties")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flat_map(|patterns| patterns.keys().map(|pattern| fancy_regex::Regex::new(pattern).unwrap()))
                    .collect();
                let further =
                    |name: &String| !known.contains(name) && !patterns.iter().any(|pattern| pattern.is_match(name).unwrap());
                found.iter().filter(|(name, _)| further(name)).try_for_each(|(_, value)| inner(rule, value))?;
                true
            }
            // Of another type, annotations, and definitions.
            _ => true,
        };
        if !holds {
            return Err(format!("'{name}': {rule} does not hold for {value}"));
        }
    }
    Ok(())
}

fn named(schema: &Map<String, Value>) -> HashSet<&String> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).collect()
}

fn is(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

fn has_format(format: &str, text: &str) -> bool {
    let date = r"(\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]))";
    let time = r"(([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([zZ]|[+-]([01]\d|2[0-3]):[0-5]\d))";
    let pattern = match format {
        "date" => format!("^{date}$"),
        "time" => format!("^{time}$"),
        "date-time" => format!("^{date}[tT]{time}$"),
        "uuid" => "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$".to_owned(),
        "email" => r"^[^@\s]+@[^@\s]+$".to_owned(),
        "ipv4" => r"^((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.|$)){4}$".to_owned(),
        "ipv6" => return text.parse::<std::net::Ipv6Addr>().is_ok(),
        "hostname" => r"^[a-zA-Z0-9-]{1,63}(\.[a-zA-Z0-9-]{1,63})*$".to_owned(),
        "duration" => r"^P(?=.)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?)$".to_owned(),
        "uri" => r"^[a-zA-Z][a-zA-Z0-9+.-]*:[^\s]*$".to_owned(),
        other => panic!("{other} is no format"),
    };
    fancy_regex::Regex::new(&pattern).unwrap().is_match(text).unwrap()
}
