//! OpenAI's endpoints: from JSON to the gateway's words and back.

mod chat_request;
mod completions_request;
mod embeddings;
pub(super) mod file_reports;
pub(super) mod files;
pub(super) mod fine_tuning;
pub(super) mod fine_tuning_request;
mod form_request;
mod frames;
pub(super) mod generation;
mod model_cards;
mod models;
mod relay;
mod relay_request;
pub(super) mod repeated;
pub(super) mod reply;
pub(super) mod responses;
pub(super) mod sender;
mod tokenize;
mod tools_request;
pub(super) mod uploads;
pub(super) mod wire;

use axum::extract::State;
use axum::response::Response;

pub use embeddings::embeddings;
pub use generation::{Limits, MAX_BIASES, MAX_STOP_TOKENS, REPETITION_PENALTY};
pub use model_cards::{list as list_model_cards, retrieve as get_model_card};
pub use models::{delete_model, get_model, list_models};
pub use tokenize::{detokenize, tokenize};

use self::sender::Head;
use super::Server;
use super::body::JsonBody;
use super::error::ApiError;
use crate::gateway::Endpoint;

/// `POST /v1/chat/completions`
pub async fn chat(State(server): State<Server>, Head(sender): Head, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let sender = sender?;
    let (server, sender) = (&server, &sender);
    let answer = |body| async move {
        if let Some(route) = relay::route(server, sender, &body, Endpoint::Chat)? {
            let here = if route.here { Some(chat_request::parse(body.clone(), sender, &server.limits())?.0) } else { None };
            return Box::pin(relay::reply(server, sender, &body, (Endpoint::Chat, &route), here)).await;
        }
        let (request, delivery) = chat_request::parse(body, sender, &server.limits())?;
        let wanted = reply::Wanted { endpoint: wire::Endpoint::Chat, delivery, cost: sender.show_cost };
        reply::reply(server, wanted, request).await
    };
    repeated::body_once(server, sender, "/v1/chat/completions", body, answer).await
}

/// `POST /v1/completions`
pub async fn completions(
    State(server): State<Server>,
    Head(sender): Head,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let sender = sender?;
    let (server, sender) = (&server, &sender);
    let answer = |body| async move {
        if let Some(route) = relay::route(server, sender, &body, Endpoint::Completions)? {
            let here =
                if route.here { Some(completions_request::parse(body.clone(), sender, &server.limits())?.0) } else { None };
            return Box::pin(relay::reply(server, sender, &body, (Endpoint::Completions, &route), here)).await;
        }
        let (request, delivery) = completions_request::parse(body, sender, &server.limits())?;
        let wanted = reply::Wanted { endpoint: wire::Endpoint::Completions, delivery, cost: sender.show_cost };
        reply::reply(server, wanted, request).await
    };
    repeated::body_once(server, sender, "/v1/completions", body, answer).await
}
