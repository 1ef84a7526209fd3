//! Embeddings in `/openapi.json`.

use axum::http::Method;
use serde_json::{Value, json};

use super::openapi::{Body, GENERATION_ERRORS, Operation};

/// What is described here.
pub(super) fn operations() -> Vec<Operation> {
    vec![Operation {
        method: Method::POST,
        path: "/v1/embeddings",
        id: "createEmbedding",
        summary: "Vectors of length 1: a model's hidden states, pooled, or a hash of the words.",
        request: Some("EmbeddingRequest"),
        response: Body::Json("EmbeddingList"),
        errors: GENERATION_ERRORS,
    }]
}

/// Its schemas.
pub(super) fn schemas() -> Value {
    let ids = json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}});
    json!({
        "EmbeddingRequest": {
            "type": "object",
            "required": ["model", "input"],
            "additionalProperties": false,
            "properties": {
                "model": {"type": "string", "description": "The base, an adapter, `adapter@version`, a deployment, or `hash-embedding-256`."},
                "input": {"oneOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "minItems": 1, "maxItems": 2048, "items": {"type": "string", "minLength": 1}},
                    ids,
                    {"type": "array", "minItems": 1, "maxItems": 2048, "items": ids},
                ]},
                "dimensions": {"type": "integer", "minimum": 1, "description": "The first so many values, made length 1 again; at most as many as there are."},
                "encoding_format": {"enum": ["float", "base64"], "default": "float", "description": "`base64` is of little-endian 32-bit floats."},
                "pooling": {"enum": ["mean", "last"], "description": "How the tokens' hidden states become one vector; the setting `embeddings_pooling` where it is missing."},
                "add_special_tokens": {"type": "boolean", "default": true},
                "user": {"type": "string"},
                "safety_identifier": {"type": "string"},
            },
        },
        "EmbeddingList": {
            "type": "object",
            "required": ["object", "data", "model", "usage"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"type": "object", "required": ["object", "index", "embedding"], "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {"oneOf": [
                        {"type": "array", "items": {"type": "number"}},
                        {"type": "string", "contentEncoding": "base64"},
                    ]},
                }}},
                "model": {"type": "string"},
                "usage": {"type": "object", "required": ["prompt_tokens", "total_tokens"], "properties": {
                    "prompt_tokens": {"type": "integer"},
                    "total_tokens": {"type": "integer"},
                }},
            },
        },
    })
}
