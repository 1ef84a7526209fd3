//! What a request says about the form of its answers: `response_format`, and vLLM's `guided_*`. From JSON to the gateway's words.

use serde_json::{Value, json};

use crate::gateway::{Begins, Form, Rules, Strictness, check_schema, json_rules, regex_rules};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, Rule, wrong_type};

/// Longest name of a schema or a function (OpenAI's).
const MAX_NAME: usize = 64;
/// Longest regular expression, bytes.
const MAX_REGEX: usize = 2 * 1024;
/// Most alternatives of `guided_choice`.
const MAX_CHOICES: usize = 1024;
/// Fields of which a request may have one.
const FORMS: [&str; 4] = ["guided_json", "guided_regex", "guided_choice", "guided_grammar"];

/// Takes `response_format` and `guided_*`.
pub fn take_form(fields: &mut Fields) -> Result<Form, ApiError> {
    let mut form = response_format(fields)?;
    for name in FORMS {
        let Some(value) = fields.take(name) else { continue };
        if form != Form::Free {
            let message = format!("Invalid '{name}': a request may have one of 'response_format', {}.", quoted(&FORMS));
            return Err(ApiError::invalid(name, "invalid_parameter_combination", message));
        }
        form = guided(name, value)?;
    }
    Ok(form)
}

/// Rules of a schema, checked.
pub fn schema_rules(field: &'static str, schema: &Value, strictness: Strictness) -> Result<Form, ApiError> {
    check(field, schema, strictness)?;
    Ok(written(field, json_rules(schema)))
}

/// A schema that can be kept to.
pub fn check(field: &str, schema: &Value, strictness: Strictness) -> Result<(), ApiError> {
    check_schema(schema, strictness).map_err(|error| {
        let message = format!("Invalid schema in '{field}', at '{}': {}.", error.pointer, error.problem);
        ApiError::invalid(field, "invalid_schema", message)
    })
}

/// A name of a schema or a function.
pub fn name(fields: &mut Fields) -> Result<String, ApiError> {
    let name = fields.required_string("name")?;
    let right = name.len() <= MAX_NAME && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if right {
        return Ok(name);
    }
    let path = fields.path("name");
    let message = format!("Invalid '{path}': '{name}'. Expected at most {MAX_NAME} letters, digits, underscores and dashes.");
    Err(ApiError::invalid(path, "invalid_value", message))
}

fn written(field: &'static str, text: String) -> Form {
    Form::Written(Rules { text: text.into(), begins: Begins::AtOnce, field })
}

fn response_format(fields: &mut Fields) -> Result<Form, ApiError> {
    let Some(value) = fields.take("response_format") else { return Ok(Form::Free) };
    let mut format = Fields::object("response_format".to_owned(), value)?;
    let kind = format.required_string("type")?;
    let form = match kind.as_str() {
        "text" => Form::Free,
        "json_object" => written("response_format", json_rules(&json!({"type": "object"}))),
        "json_schema" => {
            let schema = format.take("json_schema").ok_or_else(|| format.missing("json_schema"))?;
            let mut schema = Fields::object("response_format.json_schema".to_owned(), schema)?;
            let form = named_schema("response_format.json_schema.schema", &mut schema)?;
            schema.finish(&[])?;
            form
        }
        _ => {
            let message = format!(
                "Unsupported value: 'response_format.type' does not support '{kind}'. Supported values are 'text', 'json_object' and \
                 'json_schema'."
            );
            return Err(ApiError::invalid("response_format.type", "unsupported_value", message));
        }
    };
    format.finish(&[("json_schema", Rule::Refused("It belongs to the type 'json_schema'."))])?;
    Ok(form)
}

/// Takes `name`, `description`, `strict` and `schema`, which is `field`.
pub fn named_schema(field: &'static str, fields: &mut Fields) -> Result<Form, ApiError> {
    name(fields)?;
    fields.string("description")?;
    let strictness = strictness(fields)?;
    let value = fields.take("schema").ok_or_else(|| fields.missing("schema"))?;
    schema_rules(field, &value, strictness)
}

/// Takes `strict`.
pub fn strictness(fields: &mut Fields) -> Result<Strictness, ApiError> {
    Ok(if fields.boolean("strict")?.unwrap_or(false) { Strictness::Strict } else { Strictness::Plain })
}

fn guided(field: &'static str, value: Value) -> Result<Form, ApiError> {
    if field == "guided_json" {
        // vLLM takes the schema's text as well.
        let schema = match value {
            Value::String(text) => serde_json::from_str(&text).map_err(|error| {
                ApiError::invalid(field, "invalid_value", format!("Invalid '{field}': the text is not JSON: {error}."))
            })?,
            value => value,
        };
        return schema_rules(field, &schema, Strictness::Plain);
    }
    if field == "guided_choice" {
        return choice(field, value);
    }
    let Value::String(text) = value else { return Err(wrong_type(field, "a string", &value)) };
    if text.trim().is_empty() {
        return Err(ApiError::invalid(field, "empty_string", format!("Invalid '{field}': empty string.")));
    }
    if field == "guided_grammar" {
        return Ok(written(field, text));
    }
    if text.len() > MAX_REGEX {
        let message = format!("Invalid '{field}': expected at most {MAX_REGEX} bytes, but got {}.", text.len());
        return Err(ApiError::invalid(field, "string_above_max_length", message));
    }
    Ok(written(field, regex_rules(&text)))
}

fn choice(field: &'static str, value: Value) -> Result<Form, ApiError> {
    let Value::Array(values) = value else { return Err(wrong_type(field, "an array of strings", &value)) };
    if values.is_empty() || values.len() > MAX_CHOICES {
        let message = format!("Invalid '{field}': expected 1 to {MAX_CHOICES} texts, but got {}.", values.len());
        return Err(ApiError::invalid(field, "array_above_max_length", message));
    }
    let option = |(index, value): (usize, &Value)| match value {
        Value::String(text) if !text.is_empty() => Ok(Value::from(text.as_str()).to_string()),
        other => Err(wrong_type(&format!("{field}[{index}]"), "a non-empty string", other)),
    };
    let options: Vec<String> = values.iter().enumerate().map(option).collect::<Result<_, _>>()?;
    Ok(written(field, format!("start: {}", options.join(" | "))))
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}
