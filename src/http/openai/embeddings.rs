//! `POST /v1/embeddings`: texts or token ids to vectors of length 1.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use super::completions_request::prompts;
use super::generation::{Limits, end_user};
use super::reply::{Facts, refused, write_cost, write_facts};
use super::sender::{Head, Sender};
use super::{relay, repeated};
use crate::gateway::{EmbeddingRequest, Endpoint, Pooling, Prompt, SpecialTokens};
use crate::http::Server;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::fields::{Fields, Rule, word};

/// OpenAI's limit.
const MAX_INPUTS: usize = 2048;

/// Fields of vLLM's schema that no code reads.
const RULES: &[(&str, Rule)] = &[
    ("truncate_prompt_tokens", Rule::Refused("Inputs are never shortened silently; send a shorter one.")),
    ("normalize", Rule::Only(&["true"], "Vectors have length 1.")),
    ("priority", Rule::Only(&["0"], "The priority is the key's.")),
];

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// Arrays of numbers.
    Float,
    /// Base 64 of little-endian `f32`.
    Base64,
}

/// `POST /v1/embeddings`
pub async fn embeddings(
    State(server): State<Server>,
    Head(sender): Head,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let sender = sender?;
    let (server, sender) = (&server, &sender);
    let answer = |body| async move {
        if let Some(route) = relay::route(server, sender, &body, Endpoint::Embeddings)? {
            return Box::pin(relay::reply(server, sender, &body, (Endpoint::Embeddings, &route), None)).await;
        }
        let (request, encoding) = parse(body, sender, server)?;
        reply(server, sender, request, encoding).await
    };
    repeated::body_once(server, sender, "/v1/embeddings", body, answer).await
}

fn parse(body: Value, sender: &Sender, server: &Server) -> Result<(EmbeddingRequest, Encoding), ApiError> {
    let mut fields = Fields::body(body)?;
    let model = fields.required_string("model")?;
    if server.gateway().hashes_for(&sender.caller, &model) {
        for (name, what) in [("pooling", "hidden states"), ("add_special_tokens", "special tokens")] {
            if fields.take(name).is_some() {
                let message = format!("Unsupported parameter: '{name}'. The model '{model}' has no {what}.");
                return Err(ApiError::invalid(name, "unsupported_parameter", message));
            }
        }
    }
    let special = match fields.boolean("add_special_tokens")? {
        Some(false) => SpecialTokens::Omit,
        _ => SpecialTokens::Add,
    };
    let input = fields.take("input").ok_or_else(|| fields.missing("input"))?;
    let own = server.limits();
    let limits = Limits { max_prompts: MAX_INPUTS.min(own.max_sequences), ..own };
    let inputs = prompts("input", input, special, &limits)?;
    if let Some(index) = inputs.iter().position(is_empty) {
        let field = if inputs.len() > 1 { format!("input[{index}]") } else { "input".to_owned() };
        let message = format!("Invalid '{field}': it is empty. Expected at least one character or token.");
        return Err(ApiError::invalid(field, "empty_string", message));
    }
    let dimensions = fields.count("dimensions", 1..=1 << 20)?;
    let encoding = fields.string("encoding_format")?.unwrap_or_else(|| "float".to_owned());
    let encoding = word("encoding_format", &encoding, &[("float", Encoding::Float), ("base64", Encoding::Base64)])?;
    let pooling = match fields.string("pooling")? {
        None => server.config().pooling,
        Some(pooling) => word("pooling", &pooling, &[Pooling::Mean, Pooling::Last].map(|pooling| (pooling.name(), pooling)))?,
    };
    let end_user = end_user(&mut fields)?;
    fields.finish(RULES)?;
    let request = EmbeddingRequest {
        caller: Arc::clone(&sender.caller),
        origin: sender.origin("embeddings", end_user),
        caching: sender.caching,
        model,
        steering: sender.steering.clone(),
        inputs,
        pooling,
        dimensions,
    };
    Ok((request, encoding))
}

fn is_empty(input: &Prompt) -> bool {
    match input {
        Prompt::Text { text, .. } => text.is_empty(),
        Prompt::Tokens(tokens) => tokens.is_empty(),
        Prompt::Chat { .. } => false,
    }
}

async fn reply(server: &Server, sender: &Sender, request: EmbeddingRequest, encoding: Encoding) -> Result<Response, ApiError> {
    let arrived = request.origin.arrived;
    let made = server.gateway().embed(request).await.map_err(|error| refused(server, error, "input"))?;
    let data = made.vectors.iter().enumerate();
    let data = data.map(|(index, vector)| Item { object: "embedding", index, embedding: Vector::new(vector, encoding) });
    let body = Whole {
        object: "list",
        data: data.collect(),
        model: &made.served.model,
        usage: json!({"prompt_tokens": made.usage.prompt_tokens, "total_tokens": made.usage.prompt_tokens}),
    };
    let mut response = Json(body).into_response();
    let headers = response.headers_mut();
    let overhead = made.submitted.duration_since(arrived) + made.ended.elapsed();
    write_facts(server, headers, &Facts { served: &made.served, rate: made.rate, cache: made.cache, overhead })?;
    write_cost(headers, sender.show_cost, made.cost_nanos);
    Ok(response)
}

#[derive(Serialize)]
struct Whole<'a> {
    object: &'static str,
    data: Vec<Item<'a>>,
    model: &'a str,
    usage: Value,
}

#[derive(Serialize)]
struct Item<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Numbers(&'a [f32]),
    Bytes(String),
}

impl<'a> Vector<'a> {
    fn new(vector: &'a [f32], encoding: Encoding) -> Self {
        match encoding {
            Encoding::Float => Self::Numbers(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                Self::Bytes(STANDARD.encode(bytes))
            }
        }
    }
}
