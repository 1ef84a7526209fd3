//! `/convert` in `/openapi.json`.

use axum::http::Method;
use serde_json::{Value, json};

use super::openapi::{BAD, Body, GENERATION_ERRORS, Operation, TOO_LARGE};
use super::openapi_schemas::reference;

const NO_SCHEMA: (u16, &str) = (404, "There is no such schema.");
const OUTDATED: (u16, &str) = (412, "It has another version than 'If-Match' names.");

/// What is described here.
pub(super) fn operations() -> Vec<Operation> {
    let convert = |path, id| Operation {
        method: Method::POST,
        path,
        id,
        summary: "What a sentence means: an intent, the words of its task, and its time. One text, or up to 64.",
        request: Some("ConvertRequest"),
        response: Body::Json("Convert"),
        errors: GENERATION_ERRORS,
    };
    let schema = |method, id, summary, response| Operation {
        method,
        path: "/v1/convert/schemas/{name}",
        id,
        summary,
        request: None,
        response,
        errors: &[NO_SCHEMA],
    };
    let set = schema(Method::PUT, "setConvertSchema", "Set what the project's texts can mean.", Body::Json("ConvertSchema"));
    vec![
        convert("/convert", "convert"),
        convert("/api/convert", "convertUnderApi"),
        Operation {
            path: "/v1/convert/schemas",
            errors: &[],
            ..schema(Method::GET, "listConvertSchemas", "The project's schemas.", Body::Object)
        },
        schema(Method::GET, "retrieveConvertSchema", "A schema.", Body::Json("ConvertSchema")),
        Operation { request: Some("ConvertSchemaSet"), errors: &[BAD, OUTDATED, TOO_LARGE], ..set },
        Operation {
            errors: &[NO_SCHEMA, OUTDATED],
            ..schema(Method::DELETE, "deleteConvertSchema", "Remove a schema.", Body::Object)
        },
    ]
}

/// Its schemas.
pub(super) fn schemas() -> Value {
    let common = || {
        json!({
            "now": {"type": "string", "examples": ["2026-03-28T18:30:00+01:00"],
                "description": "When it was said; the server's clock where it is missing."},
            "timezone": {"type": "string", "examples": ["Europe/Berlin"], "description": "IANA name; a setting where it is missing."},
            "locale": {"type": "string", "examples": ["en-GB"]},
            "model": {"type": "string", "description": "Adapter, `adapter@version`, deployment or base; `convert` where it is missing."},
            "schema": {"type": "string", "description": "A schema of the project; tasks, reminders and events where it is missing."},
            "partial": {"type": "boolean", "default": false, "description": "The text is still growing."},
        })
    };
    let mut input = common();
    input["text"] = json!({"type": "string", "maxLength": 65_536, "examples": ["Add buy groceries to my todo list"]});
    let mut request = input.clone();
    request["texts"] = json!({"type": "array", "minItems": 1, "maxItems": 64, "items": {"type": "string"}});
    request["inputs"] = json!({"type": "array", "minItems": 1, "maxItems": 64, "items": {
        "type": "object", "required": ["text"], "properties": input, "additionalProperties": false,
    }});
    request["user"] = json!({"type": "string"});
    request["safety_identifier"] = json!({"type": "string"});
    let when = json!({"type": "object", "required": ["text", "iso", "recurrence", "end", "bound", "ambiguous"], "properties": {
        "text": {"type": "string", "description": "Words of the text: one run, or two."},
        "iso": {"type": ["string", "null"], "description": "ISO 8601; null where the words name no time that is known."},
        "recurrence": {"type": ["string", "null"], "description": "A rule of RFC 5545."},
        "end": {"type": ["string", "null"], "description": "The end of a stretch, ISO 8601."},
        "bound": {"enum": ["by", "before", "after", "from", "until", "between", "around", null], "description": "Null is at it."},
        "ambiguous": {"type": "array", "items": {"type": "string"}, "description": "What else could be meant, and what was assumed."},
    }});
    let one = json!({
        "success": {"type": "boolean"},
        "id": {"type": "string", "description": "As in `x-request-id`; in lists with the place after it."},
        "object": {"enum": ["convert", "list"]},
        "structured_data": {"type": "object", "required": ["intent", "confidence"], "properties": {
            "intent": {"type": "string", "examples": ["add_task", "set_reminder", "create_event", "complete_task", "delete_task", "list_tasks", "unknown"]},
            "task": {"type": ["string", "null"], "description": "A run of words of the text."},
            "when": {"oneOf": [when, {"type": "null"}]},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        }},
        "converted": {"type": "string"},
        "model": {"type": "string"},
        "partial": {"type": "boolean"},
        "usage": reference("Usage"),
        "results": {"type": "array", "items": reference("Convert"), "description": "Of several texts, in their order."},
        "error": {"type": "object", "description": "Why one of several texts was refused."},
    });
    let set = json!({
        "model": {"type": ["string", "null"], "description": "What answers where a request names no model."},
        "entities": {"type": "array", "maxItems": 8, "items": {"type": "object", "required": ["name", "type"], "properties": {
            "name": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,63}$"},
            "type": {"enum": ["span", "time", "one_of"]},
            "values": {"type": "array", "minItems": 1, "maxItems": 64, "items": {"type": "string", "minLength": 1, "maxLength": 64}},
        }}},
        "intents": {"type": "array", "minItems": 1, "maxItems": 32, "items": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,63}$"},
            "entities": {"type": "array", "items": {"type": "string"}},
        }}},
        "repeat_text": {"type": "boolean", "default": false,
            "description": "Whether the model reads the text twice and writes a space before what it copies; its training rows have that form."},
    });
    let mut kept = set.clone();
    for (name, schema) in [("object", "string"), ("name", "string"), ("created_at", "integer"), ("version", "integer")] {
        kept[name] = json!({"type": schema});
    }
    json!({
        "ConvertSchemaSet": {"type": "object", "required": ["intents"], "properties": set, "additionalProperties": false, "examples": [{
            "entities": [{"name": "drink", "type": "span"}, {"name": "size", "type": "one_of", "values": ["small", "large"]}],
            "intents": [{"name": "order", "entities": ["drink", "size"]}],
        }]},
        "ConvertSchema": {"type": "object", "properties": kept},
        "ConvertRequest": {
            "type": "object", "properties": request, "additionalProperties": false,
            "description": "One of `text`, `texts` and `inputs`.",
            "examples": [{"text": "remind me to call mum tomorrow at six", "timezone": "Europe/London"}],
        },
        "Convert": {"type": "object", "required": ["success", "object"], "properties": one, "examples": [{
            "success": true, "id": "req_0123", "object": "convert",
            "structured_data": {"intent": "set_reminder", "task": "call mum",
                "when": {"text": "tomorrow at six", "iso": "2026-03-29T18:00:00+01:00", "recurrence": null,
                    "end": null, "bound": null, "ambiguous": ["2026-03-29T06:00:00+01:00: in the morning"]}, "confidence": 0.97},
            "converted": "call mum tomorrow 18:00", "model": "convert",
            "usage": {"prompt_tokens": 20, "completion_tokens": 25, "total_tokens": 45, "prompt_tokens_details": {"cached_tokens": 0}},
        }]},
    })
}
