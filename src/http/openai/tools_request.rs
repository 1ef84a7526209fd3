//! What a chat request says about functions: `tools`, `tool_choice`, `parallel_tool_calls`, and the calls of earlier answers. From JSON
//! to the gateway's words.

use serde_json::{Value, json};

use super::form_request::{check, name, strictness};
use crate::gateway::{Call, Calls, Form, Tool, ToolChoice, Tools};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong_type};

/// OpenAI's limit.
const MAX_TOOLS: usize = 128;

/// Takes the functions on offer; `None` where none may be called.
pub fn take_tools(fields: &mut Fields, form: &Form) -> Result<Option<Tools>, ApiError> {
    let offered = offered(fields)?;
    let many = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    let choice = choice(fields, &offered)?;
    let Some(choice) = choice.filter(|_| !offered.is_empty()) else { return Ok(None) };
    if let Form::Written(rules) = form
        && !rules.text.starts_with("start: %json")
    {
        let message = format!("Invalid '{}': it cannot be combined with 'tools'; use 'response_format'.", rules.field);
        return Err(ApiError::invalid(rules.field, "invalid_parameter_combination", message));
    }
    let calls = if many { Calls::Many } else { Calls::One };
    Ok(Some(Tools { offered: offered.into(), choice, calls }))
}

fn offered(fields: &mut Fields) -> Result<Vec<Tool>, ApiError> {
    let values = match fields.take("tools") {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(wrong_type("tools", "an array of tools", &other)),
    };
    if values.len() > MAX_TOOLS {
        let message = format!("Invalid 'tools': array too long. Expected at most {MAX_TOOLS} items, but got {}.", values.len());
        return Err(ApiError::invalid("tools", "array_above_max_length", message));
    }
    let mut tools: Vec<Tool> = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        let tool = tool(&format!("tools[{index}]"), value)?;
        if tools.iter().any(|known| known.name == tool.name) {
            let message = format!("Invalid 'tools[{index}].function.name': there is another function '{}'.", tool.name);
            return Err(ApiError::invalid(format!("tools[{index}].function.name"), "invalid_value", message));
        }
        tools.push(tool);
    }
    Ok(tools)
}

fn tool(path: &str, value: Value) -> Result<Tool, ApiError> {
    let function = function(path, value)?;
    let mut fields = Fields::object(format!("{path}.function"), function)?;
    let name = name(&mut fields)?;
    let description = fields.string("description")?;
    let strictness = strictness(&mut fields)?;
    let given = fields.take("parameters");
    fields.finish(&[])?;
    let mut described = json!({"name": name});
    if let Some(description) = description {
        described["description"] = description.into();
    }
    // Without parameters there are none.
    let parameters = given.unwrap_or_else(|| json!({"type": "object", "properties": {}, "additionalProperties": false}));
    let field = format!("{path}.function.parameters");
    check(&field, &parameters, strictness)?;
    if parameters.get("type") != Some(&json!("object")) {
        let message = format!("Invalid schema in '{field}', at '#': arguments are an object; expected 'type': 'object'.");
        return Err(ApiError::invalid(field, "invalid_schema", message));
    }
    described["parameters"] = parameters.clone();
    Ok(Tool { name, parameters, described: json!({"type": "function", "function": described}) })
}

/// Takes the `function` of an object of type `function`.
fn function(path: &str, value: Value) -> Result<Value, ApiError> {
    let mut fields = Fields::object(path.to_owned(), value)?;
    let kind = fields.required_string("type")?;
    if kind != "function" {
        let path = fields.path("type");
        let message = format!("Unsupported value: '{path}' does not support '{kind}'. The supported value is 'function'.");
        return Err(ApiError::invalid(path, "unsupported_value", message));
    }
    let function = fields.take("function").ok_or_else(|| fields.missing("function"))?;
    fields.finish(&[])?;
    Ok(function)
}

/// Takes `tool_choice`; `None` is that nothing is called.
fn choice(fields: &mut Fields, offered: &[Tool]) -> Result<Option<ToolChoice>, ApiError> {
    let wrong = |message: String| ApiError::invalid("tool_choice", "invalid_value", message);
    let choice = match fields.take("tool_choice") {
        None => return Ok(Some(ToolChoice::Auto)),
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(None),
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            _ => {
                let message = format!(
                    "Invalid value: '{word}'. Supported values of 'tool_choice' are 'none', 'auto', 'required', and an object that \
                     names a function."
                );
                return Err(wrong(message));
            }
        },
        Some(value) => {
            let mut named = Fields::object("tool_choice.function".to_owned(), function("tool_choice", value)?)?;
            let name = named.required_string("name")?;
            named.finish(&[])?;
            if !offered.iter().any(|tool| tool.name == name) {
                return Err(wrong(format!("Invalid 'tool_choice': 'tools' has no function '{name}'.")));
            }
            ToolChoice::Named(name)
        }
    };
    if offered.is_empty() {
        return Err(wrong("'tool_choice' is only allowed when 'tools' are specified.".to_owned()));
    }
    Ok(Some(choice))
}

/// Takes the `tool_calls` of an earlier answer.
pub fn take_calls(fields: &mut Fields) -> Result<Vec<Call>, ApiError> {
    let path = fields.path("tool_calls");
    let values = match fields.take("tool_calls") {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(wrong_type(&path, "an array of calls", &other)),
    };
    values.into_iter().enumerate().map(|(index, value)| call(&format!("{path}[{index}]"), value)).collect()
}

fn call(path: &str, value: Value) -> Result<Call, ApiError> {
    let (id, value) = match value {
        Value::Object(mut map) => {
            // Streamed pieces that were put together have their place in the list.
            map.shift_remove("index");
            (map.shift_remove("id"), Value::Object(map))
        }
        other => (None, other),
    };
    let mut called = Fields::object(format!("{path}.function"), function(path, value)?)?;
    let Some(Value::String(id)) = id else {
        let path = format!("{path}.id");
        return Err(ApiError::invalid(
            path.clone(),
            "missing_required_parameter",
            format!("Missing required parameter: '{path}'."),
        ));
    };
    let name = name(&mut called)?;
    let text = called.string("arguments")?.ok_or_else(|| called.missing("arguments"))?;
    let path = called.path("arguments");
    called.finish(&[])?;
    let arguments = if text.trim().is_empty() { Some(json!({})) } else { serde_json::from_str(&text).ok() };
    let arguments = arguments.filter(Value::is_object).ok_or_else(|| {
        let message = format!("Invalid '{path}': expected the text of a JSON object.");
        ApiError::invalid(path.clone(), "invalid_value", message)
    })?;
    Ok(Call { id, name, arguments })
}
