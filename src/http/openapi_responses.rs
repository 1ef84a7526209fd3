//! Responses in `/openapi.json`.

use axum::http::Method;
use serde_json::{Value, json};

use super::openapi::{BAD, Body, GENERATION_ERRORS, Operation};
use super::openapi_schemas::reference;

const NOT_THERE: (u16, &str) = (404, "The project has no such response, or not any more.");

/// What is described here.
pub(super) fn operations() -> Vec<Operation> {
    let kept = |method, id, summary, response| Operation {
        method,
        path: "/v1/responses/{response_id}",
        id,
        summary,
        request: None,
        response,
        errors: &[BAD, NOT_THERE],
    };
    vec![
        Operation {
            method: Method::POST,
            path: "/v1/responses",
            id: "createResponse",
            summary: "Answer a conversation, whole or as events; kept, so that another request can go on from it.",
            request: Some("ResponseRequest"),
            response: Body::JsonOrEvents("Response", "ResponseEvent"),
            errors: GENERATION_ERRORS,
        },
        kept(Method::GET, "retrieveResponse", "A response that was kept.", Body::Json("Response")),
        kept(Method::DELETE, "deleteResponse", "Delete a response.", Body::Object),
        Operation {
            path: "/v1/responses/{response_id}/input_items",
            ..kept(
                Method::GET,
                "listResponseInputItems",
                "What a response answered, the last first.",
                Body::Json("ResponseItemList"),
            )
        },
    ]
}

/// Its schemas.
pub(super) fn schemas() -> Value {
    let text = |kinds: Value| json!({"type": "object", "required": ["type", "text"], "properties": {"type": {"enum": kinds}, "text": {"type": "string"}}});
    let call = json!({
        "type": "object",
        "required": ["type", "call_id", "name", "arguments"],
        "properties": {
            "id": {"type": "string"},
            "type": {"const": "function_call"},
            "status": {"type": "string"},
            "call_id": {"type": "string"},
            "name": {"type": "string"},
            "arguments": {"type": "string", "description": "JSON."},
        },
    });
    let given = json!({
        "type": "object",
        "required": ["type", "call_id", "output"],
        "properties": {
            "id": {"type": "string"},
            "type": {"const": "function_call_output"},
            "call_id": {"type": "string"},
            "output": {"oneOf": [{"type": "string"}, {"type": "array", "items": text(json!(["input_text"]))}]},
        },
    });
    let message = json!({
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "id": {"type": "string"},
            "type": {"const": "message"},
            "status": {"type": "string"},
            "role": {"enum": ["user", "assistant", "system", "developer"]},
            "content": {"oneOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "items": text(json!(["input_text", "output_text"]))},
            ]},
        },
    });
    let said = json!({
        "model": {"type": "string", "description": "The base, an adapter, `adapter@version`, or a deployment."},
        "instructions": {"type": ["string", "null"], "description": "Goes before the conversation; not part of it for who goes on from this response."},
        "max_output_tokens": {"type": ["integer", "null"], "minimum": 1},
        "metadata": {"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 512}},
        "previous_response_id": {"type": ["string", "null"], "description": "A kept response whose conversation goes on."},
        "prompt_cache_key": {"type": ["string", "null"]},
        "safety_identifier": {"type": ["string", "null"]},
        "store": {"type": "boolean", "default": true, "description": "Keep it, for as long as the setting `responses_keep` says."},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 1},
        "text": {"type": "object", "properties": {"format": {"type": "object", "required": ["type"], "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "name": {"type": "string"},
            "description": {"type": "string"},
            "schema": {"type": "object"},
            "strict": {"type": "boolean"},
        }}}},
        "tools": {"type": "array", "maxItems": 128, "items": {"type": "object", "required": ["type", "name"], "properties": {
            "type": {"const": "function"},
            "name": {"type": "string"},
            "description": {"type": "string"},
            "parameters": {"type": "object"},
            "strict": {"type": "boolean"},
        }}},
        "tool_choice": {"oneOf": [
            {"enum": ["none", "auto", "required"]},
            {"type": "object", "required": ["type", "name"], "properties": {"type": {"const": "function"}, "name": {"type": "string"}}},
        ]},
        "parallel_tool_calls": {"type": "boolean", "default": true},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20, "default": 0},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 1},
        "truncation": {"enum": ["disabled", "auto"], "default": "disabled", "description": "`auto` leaves out what was said first where not all fits."},
        "user": {"type": ["string", "null"]},
    });
    let mut asked = said.clone();
    asked["input"] = json!({"oneOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": reference("ResponseItem")},
    ]});
    asked["include"] = json!({"type": "array", "items": {"enum": ["message.output_text.logprobs"]}});
    asked["stream"] = json!({"type": "boolean", "default": false});
    asked["seed"] = json!({"type": "integer", "format": "int64"});
    asked["stop"] = json!({"oneOf": [{"type": "string"}, {"type": "array", "maxItems": 4, "items": {"type": "string"}}]});
    let mut object = said;
    for (name, schema) in [
        ("id", json!({"type": "string"})),
        ("object", json!({"const": "response"})),
        ("created_at", json!({"type": "integer"})),
        ("status", json!({"enum": ["completed", "incomplete", "in_progress", "failed"]})),
        (
            "error",
            json!({"oneOf": [{"type": "null"}, {"type": "object", "properties": {"code": {"type": "string"}, "message": {"type": "string"}}}]}),
        ),
        (
            "incomplete_details",
            json!({"oneOf": [{"type": "null"}, {"type": "object", "properties": {"reason": {"const": "max_output_tokens"}}}]}),
        ),
        ("output", json!({"type": "array", "items": reference("ResponseItem")})),
        (
            "usage",
            json!({"oneOf": [{"type": "null"}, {"type": "object", "properties": {
                "input_tokens": {"type": "integer"},
                "input_tokens_details": {"type": "object", "properties": {"cached_tokens": {"type": "integer"}}},
                "output_tokens": {"type": "integer"},
                "output_tokens_details": {"type": "object", "properties": {"reasoning_tokens": {"const": 0}}},
                "total_tokens": {"type": "integer"},
            }}]}),
        ),
    ] {
        object[name] = schema;
    }
    json!({
        "ResponseRequest": {
            "type": "object",
            "required": ["model", "input"],
            "properties": asked,
            "description": "Fields of OpenAI's schema that are not listed are refused by name, unless their value changes nothing; \
                            chat's other fields of sampling are understood, too.",
        },
        "ResponseItem": {"oneOf": [message, call, given]},
        "Response": {"type": "object", "required": ["id", "object", "created_at", "status", "model", "output"], "properties": object},
        "ResponseEvent": {
            "type": "object",
            "required": ["type", "sequence_number"],
            "properties": {
                "type": {"enum": [
                    "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
                    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
                    "response.function_call_arguments.delta", "response.function_call_arguments.done",
                    "response.output_item.done", "response.completed", "response.incomplete", "response.failed",
                ]},
                "sequence_number": {"type": "integer", "minimum": 0},
                "response": reference("Response"),
                "item_id": {"type": "string"},
                "output_index": {"type": "integer"},
                "content_index": {"type": "integer"},
                "delta": {"type": "string"},
                "text": {"type": "string"},
                "name": {"type": "string"},
                "arguments": {"type": "string"},
                "item": reference("ResponseItem"),
                "part": {"type": "object"},
                "logprobs": {"type": "array"},
            },
        },
        "ResponseItemList": {
            "type": "object",
            "required": ["object", "data", "first_id", "last_id", "has_more"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": reference("ResponseItem")},
                "first_id": {"type": ["string", "null"]},
                "last_id": {"type": ["string", "null"]},
                "has_more": {"type": "boolean"},
            },
        },
    })
}
