//! Reads JSON objects field by field, so that every mistake is answered with the field's name and what would be right.
//! Knows no endpoint.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ApiError;

/// The fields of an object that were not read yet.
#[derive(Debug)]
pub struct Fields {
    /// Path of the object in the body: empty, or `messages[2]`.
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    /// The body's fields.
    pub fn body(value: Value) -> Result<Self, ApiError> {
        Self::object(String::new(), value)
    }

    /// The fields of an object inside the body.
    pub fn object(path: String, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            other if path.is_empty() => {
                let message = format!("The request body must be a JSON object, but got {} instead.", kind(&other));
                Err(ApiError { param: None, ..ApiError::invalid("", "invalid_type", message) })
            }
            other => Err(wrong_type(&path, "an object", &other)),
        }
    }

    /// Full path of a field, as in `messages[2].content`.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Takes a field; `null` is absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a boolean.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.path(name), "a boolean", &other)),
        }
    }

    /// Takes a string.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.path(name), "a string", &other)),
        }
    }

    /// Takes a non-empty string that must be there.
    pub fn required_string(&mut self, name: &str) -> Result<String, ApiError> {
        match self.string(name)? {
            None => Err(self.missing(name)),
            Some(value) if value.is_empty() => {
                let path = self.path(name);
                Err(ApiError::invalid(path.clone(), "empty_string", format!("Invalid '{path}': empty string.")))
            }
            Some(value) => Ok(value),
        }
    }

    /// Takes a list of non-empty strings.
    pub fn strings(&mut self, name: &str, most: usize) -> Result<Option<Vec<String>>, ApiError> {
        let path = self.path(name);
        let values = match self.take(name) {
            None => return Ok(None),
            Some(Value::Array(values)) => values,
            Some(other) => return Err(wrong_type(&path, "an array of strings", &other)),
        };
        if values.len() > most {
            let message = format!("Invalid '{path}': array too long. Expected at most {most} items, but got {}.", values.len());
            return Err(ApiError::invalid(path, "array_above_max_length", message));
        }
        let string = |(index, value)| match value {
            Value::String(text) if !text.is_empty() => Ok(text),
            other => Err(wrong_type(&format!("{path}[{index}]"), "a non-empty string", &other)),
        };
        values.into_iter().enumerate().map(string).collect::<Result<_, _>>().map(Some)
    }

    /// Takes a field that `null` says something in: absent is `None`, `null` is `Some(None)`.
    pub fn take_nullable(&mut self, name: &str) -> Option<Option<Value>> {
        self.map.remove(name).map(|value| Some(value).filter(|value| !value.is_null()))
    }

    /// Takes a number within a range.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let path = self.path(name);
        self.take(name).map(|value| number(&path, &value, range)).transpose()
    }

    /// Takes an integer within a range.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let path = self.path(name);
        self.take(name).map(|value| integer(&path, &value, range)).transpose()
    }

    /// Takes a count within a range.
    pub fn count(&mut self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, ApiError> {
        let bound = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let value = self.integer(name, bound(*range.start())..=bound(*range.end()))?;
        Ok(value.and_then(|value| usize::try_from(value).ok()))
    }

    /// The error for a field that must be there.
    pub fn missing(&self, name: &str) -> ApiError {
        let path = self.path(name);
        ApiError::invalid(path.clone(), "missing_required_parameter", format!("Missing required parameter: '{path}'."))
    }

    /// Refuses what was not read: known fields that cannot be served by their reasons, others as unknown.
    pub fn finish(self, rules: &[(&str, Rule)]) -> Result<(), ApiError> {
        for (name, value) in &self.map {
            let path = self.path(name);
            match rules.iter().find(|(known, _)| known == name).map(|(_, rule)| rule) {
                Some(Rule::Harmless) => {}
                Some(_) if value.is_null() => {}
                Some(Rule::Only(allowed, _)) if allowed.iter().any(|allowed| same(allowed, value)) => {}
                Some(Rule::Only(_, reason) | Rule::Refused(reason)) => {
                    let message = format!("Unsupported parameter: '{path}'. {reason}");
                    return Err(ApiError::invalid(path, "unsupported_parameter", message));
                }
                None => {
                    return Err(ApiError::invalid(path.clone(), "unknown_parameter", format!("Unknown parameter: '{path}'.")));
                }
            }
        }
        Ok(())
    }
}

/// What to do with a field that no code reads.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// It changes no answer by its definition.
    Harmless,
    /// These values (written as JSON) ask for what happens anyway; others are refused for the reason.
    Only(&'static [&'static str], &'static str),
    /// It asks for something that is not there.
    Refused(&'static str),
}

fn same(json: &str, value: &Value) -> bool {
    serde_json::from_str::<Value>(json).is_ok_and(|allowed| match (allowed.as_f64(), value.as_f64()) {
        (Some(allowed), Some(value)) => allowed == value,
        _ => allowed == *value,
    })
}

/// A number within a range.
pub fn number(path: &str, value: &Value, range: RangeInclusive<f64>) -> Result<f64, ApiError> {
    let Some(number) = value.as_f64().filter(|number| number.is_finite()) else {
        return Err(wrong_type(path, "a number", value));
    };
    if number < *range.start() {
        return Err(outside(path, "below minimum", ">=", *range.start(), value));
    }
    if number > *range.end() {
        return Err(outside(path, "above maximum", "<=", *range.end(), value));
    }
    Ok(number)
}

/// An integer within a range.
pub fn integer(path: &str, value: &Value, range: RangeInclusive<i64>) -> Result<i64, ApiError> {
    if !value.is_number() {
        return Err(wrong_type(path, "an integer", value));
    }
    let Some(integer) = value.as_i64() else {
        if value.as_u64().is_some() {
            return Err(outside(path, "above maximum", "<=", *range.end(), value));
        }
        return Err(wrong_type(path, "an integer", value));
    };
    if integer < *range.start() {
        return Err(outside(path, "below minimum", ">=", *range.start(), value));
    }
    if integer > *range.end() {
        return Err(outside(path, "above maximum", "<=", *range.end(), value));
    }
    Ok(integer)
}

/// One of some words.
pub fn word<T: Copy>(path: &str, text: &str, words: &[(&str, T)]) -> Result<T, ApiError> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let right: Vec<String> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
        let message = format!("Invalid value: {text:?}. Supported values of '{path}' are: {}.", right.join(", "));
        ApiError::invalid(path, "invalid_value", message)
    })
}

fn outside(path: &str, how: &str, sign: &str, bound: impl std::fmt::Display, value: &Value) -> ApiError {
    let message = format!("Invalid '{path}': value {how}. Expected a value {sign} {bound}, but got {value} instead.");
    ApiError::invalid(path, "value_out_of_range", message)
}

/// The error for a value of the wrong type.
pub fn wrong_type(path: &str, expected: &str, value: &Value) -> ApiError {
    let message = format!("Invalid type for '{path}': expected {expected}, but got {} instead.", kind(value));
    ApiError::invalid(path, "invalid_type", message)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::body(value).unwrap()
    }

    #[test]
    fn mistakes_name_the_field_the_value_and_what_would_be_right() {
        let error = fields(json!({"temperature": "hot"})).number("temperature", 0.0..=2.0).unwrap_err();
        assert_eq!(error.message, "Invalid type for 'temperature': expected a number, but got a string instead.");
        assert_eq!(error.param.as_deref(), Some("temperature"));
        let error = fields(json!({"temperature": 3.5})).number("temperature", 0.0..=2.0).unwrap_err();
        assert_eq!(error.message, "Invalid 'temperature': value above maximum. Expected a value <= 2, but got 3.5 instead.");
        let error = fields(json!({"n": 1.5})).count("n", 1..=8).unwrap_err();
        assert_eq!(error.message, "Invalid type for 'n': expected an integer, but got a decimal number instead.");
        let error = fields(json!({"n": u64::MAX})).count("n", 1..=8).unwrap_err();
        assert!(error.message.contains("<= 8, but got 18446744073709551615"), "{}", error.message);
        let error = fields(json!({"n": -1})).count("n", 1..=8).unwrap_err();
        assert!(error.message.contains(">= 1, but got -1"), "{}", error.message);
    }

    #[test]
    fn what_is_left_over_is_refused_by_name() {
        let rules: &[(&str, Rule)] = &[
            ("user", Rule::Harmless),
            ("store", Rule::Only(&["false"], "Nothing is stored.")),
            ("tools", Rule::Refused("Text only.")),
        ];
        assert_eq!(fields(json!({"user": "x", "store": false, "tools": null})).finish(rules), Ok(()));
        let codes = |value: Value| fields(value).finish(rules).unwrap_err().code.unwrap();
        assert_eq!(codes(json!({"store": true})), "unsupported_parameter");
        assert_eq!(codes(json!({"tools": []})), "unsupported_parameter");
        let error = fields(json!({"temprature": 1})).finish(rules).unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), (Some("unknown_parameter"), Some("temprature")));
    }
}
