//! OpenAI's endpoints: from JSON to the gateway's words and back.

mod chat_request;
mod completions_request;
mod frames;
mod generation;
mod models;
mod reply;
mod tokenize;
mod wire;

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;

pub use generation::{Limits, MAX_BIASES, MAX_STOP_TOKENS, REPETITION_PENALTY};
pub use models::{get_model, list_models};
pub use tokenize::{detokenize, tokenize};

use super::Server;
use super::body::JsonBody;
use super::error::ApiError;
use crate::tenants::Principal;

/// `POST /v1/chat/completions`
pub async fn chat(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let (request, delivery) = chat_request::parse(body, caller, &server.limits())?;
    reply::reply(&server, wire::Endpoint::Chat, request, delivery).await
}

/// `POST /v1/completions`
pub async fn completions(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let (request, delivery) = completions_request::parse(body, caller, &server.limits())?;
    reply::reply(&server, wire::Endpoint::Completions, request, delivery).await
}
