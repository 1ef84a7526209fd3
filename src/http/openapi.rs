//! `GET /openapi.json`: the API described for machines. Security comes from the list of routes; a test holds the two together.

use axum::Json;
use axum::http::Method;
use serde_json::{Map, Value, json};

use super::admin;
use super::openapi_convert;
use super::openapi_corrections;
use super::openapi_embeddings;
use super::openapi_experiments;
use super::openapi_responses;
use super::openapi_schemas::schemas;
use super::openapi_training;
use super::routes::{Access, Route, routes};

/// What a response or a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Json(&'static str),
    /// JSON, or server-sent events of the second schema when `stream` is true.
    JsonOrEvents(&'static str, &'static str),
    Text,
    /// A form with files.
    Form(&'static str),
    /// Any JSON object.
    Object,
    /// The bytes of a file.
    Bytes,
}

/// What a reader wants to know about a route.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) request: Option<&'static str>,
    pub(super) response: Body,
    /// Statuses of errors beside 401, 404 of unknown paths and 500.
    pub(super) errors: &'static [(u16, &'static str)],
}

pub(super) const BAD: (u16, &str) = (400, "The request is wrong; the error names the field and what would be right.");
const NO_MODEL: (u16, &str) = (404, "The model does not exist (`model_not_found`).");
pub(super) const TOO_LARGE: (u16, &str) = (413, "The body is larger than this server accepts.");
const BUSY: (u16, &str) = (503, "Too many requests are waiting, or the server is shutting down; see `retry-after`.");
const NO_ADAPTER: (u16, &str) = (404, "There is no such adapter.");
const NOT_EXPECTED: (u16, &str) = (409, "The adapter is not at `expected_version`; nothing was changed.");
pub(super) const GENERATION_ERRORS: &[(u16, &str)] = &[BAD, NO_MODEL, TOO_LARGE, BUSY];

fn operations() -> Vec<Operation> {
    let mut operations = own_operations();
    operations.extend(openapi_training::operations());
    operations.extend(openapi_convert::operations());
    operations.extend(openapi_corrections::operations());
    operations.extend(openapi_embeddings::operations());
    operations.extend(openapi_responses::operations());
    operations.extend(openapi_experiments::operations());
    operations
}

fn own_operations() -> Vec<Operation> {
    vec![
        Operation {
            method: Method::POST,
            path: "/v1/chat/completions",
            id: "createChatCompletion",
            summary: "Answer a conversation.",
            request: Some("ChatCompletionRequest"),
            response: Body::JsonOrEvents("ChatCompletion", "ChatCompletionChunk"),
            errors: GENERATION_ERRORS,
        },
        Operation {
            method: Method::POST,
            path: "/v1/completions",
            id: "createCompletion",
            summary: "Continue a text.",
            request: Some("CompletionRequest"),
            response: Body::JsonOrEvents("Completion", "Completion"),
            errors: GENERATION_ERRORS,
        },
        Operation {
            method: Method::GET,
            path: "/v1/models",
            id: "listModels",
            summary: "The base and its adapters.",
            request: None,
            response: Body::Json("ModelList"),
            errors: &[],
        },
        Operation {
            method: Method::GET,
            path: "/v1/models/{id}",
            id: "retrieveModel",
            summary: "The base, an adapter, or one of its versions (`adapter@version`).",
            request: None,
            response: Body::Json("Model"),
            errors: &[NO_MODEL],
        },
        Operation {
            method: Method::GET,
            path: "/v1/model_cards",
            id: "listModelCards",
            summary: "Of every model that you may name: what it is made of, what it can do, what it costs.",
            request: None,
            response: Body::Json("ModelCardList"),
            errors: &[],
        },
        Operation {
            method: Method::GET,
            path: "/v1/model_cards/{id}",
            id: "retrieveModelCard",
            summary: "The card of the base, an adapter, a deployment, an upstream, a failover or a capability.",
            request: None,
            response: Body::Json("ModelCard"),
            errors: &[NO_MODEL],
        },
        Operation {
            method: Method::POST,
            path: "/tokenize",
            id: "tokenize",
            summary: "Token ids of a text or of a rendered conversation.",
            request: Some("TokenizeRequest"),
            response: Body::Json("TokenizeResponse"),
            errors: &[BAD, NO_MODEL, TOO_LARGE],
        },
        Operation {
            method: Method::POST,
            path: "/detokenize",
            id: "detokenize",
            summary: "Text of token ids.",
            request: Some("DetokenizeRequest"),
            response: Body::Json("DetokenizeResponse"),
            errors: &[BAD, NO_MODEL, TOO_LARGE],
        },
        Operation {
            method: Method::POST,
            path: "/v1/load_lora_adapter",
            id: "loadLoraAdapter",
            summary: "Put an adapter into service, or replace the version that is served. Needs an admin key.",
            request: Some("LoadLoraAdapterRequest"),
            response: Body::Text,
            errors: &[
                (400, "The name is taken, the path is refused, or the files are not an adapter for this base."),
                (404, "There is no such directory."),
                (409, "The adapter is not at `expected_version`; nothing was changed."),
                TOO_LARGE,
            ],
        },
        Operation {
            method: Method::POST,
            path: "/v1/unload_lora_adapter",
            id: "unloadLoraAdapter",
            summary: "Take an adapter out of service; running answers keep it to their end. Needs an admin key.",
            request: Some("UnloadLoraAdapterRequest"),
            response: Body::Text,
            errors: &[
                BAD,
                (404, "The adapter cannot be found."),
                (409, "The adapter is not at `expected_version`; nothing was changed."),
                TOO_LARGE,
            ],
        },
        Operation {
            method: Method::GET,
            path: "/v1/lora_adapters",
            id: "listLoraAdapters",
            summary: "Adapters in service, with versions and leases.",
            request: None,
            response: Body::Json("LoraAdapterList"),
            errors: &[],
        },
        Operation {
            method: Method::GET,
            path: "/admin/adapters",
            id: "listAdapters",
            summary: "Adapters of all tenants in service.",
            request: None,
            response: Body::Json("LoraAdapterList"),
            errors: &[],
        },
        Operation {
            method: Method::DELETE,
            path: "/admin/adapters/{name}",
            id: "deleteAdapter",
            summary: "Take an adapter out of service; running answers keep it to their end.",
            request: None,
            response: Body::Object,
            errors: &[BAD, NO_ADAPTER, NOT_EXPECTED],
        },
        Operation {
            method: Method::GET,
            path: "/admin/adapters/{name}/versions",
            id: "listAdapterVersions",
            summary: "The versions of an adapter that can be named.",
            request: None,
            response: Body::Json("AdapterVersionList"),
            errors: &[BAD, NO_ADAPTER],
        },
        Operation {
            method: Method::POST,
            path: "/admin/adapters/{name}/versions",
            id: "uploadAdapterVersion",
            summary: "Send an adapter's files and put them into service. They are checked against the base before they count.",
            request: Some("AdapterUpload"),
            response: Body::Json("AdapterVersion"),
            errors: &[BAD, NOT_EXPECTED, TOO_LARGE, (503, "Too many uploads are under way.")],
        },
        Operation {
            method: Method::GET,
            path: "/health",
            id: "health",
            summary: "Whether the process can do its work.",
            request: None,
            response: Body::Json("Health"),
            errors: &[(503, "The engine failed; the process wants a restart.")],
        },
        Operation {
            method: Method::GET,
            path: "/ready",
            id: "ready",
            summary: "Whether requests sent now will be served.",
            request: None,
            response: Body::Json("Ready"),
            errors: &[(503, "Not yet, or not any more; `waiting_for` says what is missing.")],
        },
        Operation {
            method: Method::GET,
            path: "/metrics",
            id: "metrics",
            summary: "Metrics in Prometheus' text format.",
            request: None,
            response: Body::Text,
            errors: &[],
        },
        Operation {
            method: Method::GET,
            path: "/openapi.json",
            id: "openapi",
            summary: "This document.",
            request: None,
            response: Body::Object,
            errors: &[],
        },
    ]
}

/// `GET /openapi.json`
pub async fn document() -> Json<Value> {
    Json(build())
}

fn build() -> Value {
    let operations = operations();
    let mut paths = Map::new();
    for route in routes() {
        let path = described_path(&route);
        let Some(operation) = operations.iter().find(|operation| operation.method == route.method && operation.path == path)
        else {
            continue;
        };
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[route.method.as_str().to_ascii_lowercase()] = describe(operation, route.access);
    }
    for (method, path, description) in admin::openapi::operations() {
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[method.as_str().to_ascii_lowercase()] = description;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Switchyard",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One base model, many hot-swapped LoRA adapters, behind an OpenAI-compatible API.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas(),
        },
    })
}

/// OpenAPI has no parameters that span slashes.
fn described_path(route: &Route) -> String {
    route.path.replace("{*", "{")
}

fn describe(operation: &Operation, access: Access) -> Value {
    let mut responses = Map::new();
    responses.insert("200".to_owned(), json!({"description": "Success.", "content": content(operation.response)}));
    let unauthorized = (401, "The key is missing or wrong (`invalid_api_key`).");
    let needs_key = (access != Access::Open).then_some(&unauthorized);
    for (status, description) in operation.errors.iter().chain(needs_key) {
        let body = match operation.response {
            // Probes answer in their own shape.
            Body::Json(schema) if access == Access::Open => Body::Json(schema),
            _ => Body::Json("Error"),
        };
        responses.insert(status.to_string(), json!({"description": description, "content": content(body)}));
    }
    let mut value = json!({"operationId": operation.id, "summary": operation.summary, "responses": responses});
    if let Some(schema) = operation.request {
        // Files are sent as forms.
        let kind = if schema.ends_with("Upload") || schema.ends_with("Form") { Body::Form(schema) } else { Body::Json(schema) };
        value["requestBody"] = json!({"required": true, "content": content(kind)});
    }
    let parameters = parameters(operation);
    if !parameters.is_empty() {
        value["parameters"] = Value::Array(parameters);
    }
    value["security"] = if access == Access::Open { json!([]) } else { json!([{"key": []}]) };
    value
}

/// What stands in the path, and what may stand after it.
fn parameters(operation: &Operation) -> Vec<Value> {
    let parameter =
        |name: &str, place: &str| json!({"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}});
    let in_path = operation.path.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
    let in_query: &[&str] = match operation.id {
        "exportCorrections" | "retrieveCorrectionPolicy" | "setCorrectionPolicy" | "deleteCorrectionPolicy" => &["schema"],
        "deleteAdapter" => &["tenant", "expected_version"],
        "listAdapterVersions" => &["tenant"],
        "listResponseInputItems" => &["limit", "order", "after"],
        other => openapi_training::query(other),
    };
    in_path.map(|name| parameter(name, "path")).chain(in_query.iter().map(|name| parameter(name, "query"))).collect()
}

fn content(body: Body) -> Value {
    let schema = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    match body {
        Body::Json(name) => json!({"application/json": {"schema": schema(name)}}),
        Body::JsonOrEvents(whole, event) => json!({
            "application/json": {"schema": schema(whole)},
            "text/event-stream": {"schema": schema(event)},
        }),
        Body::Form(name) => json!({"multipart/form-data": {"schema": schema(name)}}),
        Body::Bytes => json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}),
        Body::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
        Body::Object => json!({"application/json": {"schema": {"type": "object"}}}),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_every_description_has_a_route() {
        let routes: BTreeSet<String> =
            routes().iter().map(|route| format!("{} {}", route.method, described_path(route))).collect();
        let own = operations().into_iter().map(|operation| (operation.method, operation.path));
        let of_admin = admin::openapi::operations().into_iter().map(|(method, path, _)| (method, path));
        let described: BTreeSet<String> = own.chain(of_admin).map(|(method, path)| format!("{method} {path}")).collect();
        assert_eq!(routes, described);
        let document = build();
        let written: usize = document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(written, routes.len());
    }

    #[test]
    fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
        let document = build();
        let text = document.to_string();
        let named: BTreeSet<&str> =
            text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        let known: BTreeSet<&str> = document["components"]["schemas"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(named, known);
    }

    #[test]
    fn open_routes_are_the_probes() {
        let document = build();
        let open: Vec<&String> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, path)| path.as_object().unwrap().values().any(|operation| operation["security"] == json!([])))
            .map(|(path, _)| path)
            .collect();
        assert_eq!(open, ["/health", "/ready", "/metrics", "/openapi.json"]);
    }
}
