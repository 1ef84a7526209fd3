//! What a request's head says about who sent it and how it is to be treated: the part of a request that is not in its body.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::gateway::{Caching, Origin, Steering};
use crate::http::Server;
use crate::http::admin::idempotency_key;
use crate::http::error::ApiError;
use crate::http::middleware::{Arrived, RequestId};
use crate::tenants::Principal;

/// Asks for the response cache (`allow`) or for a fresh answer (`bypass`).
const RESPONSE_CACHE: &str = "x-response-cache";
/// Asks for what the answer costs (`true`).
const SHOW_COST: &str = "x-show-cost";

/// Names the arm of a deployment, for tests.
const ARM: &str = "x-experiment-arm";
/// Names who or what keeps its arm.
const UNIT: &str = "x-experiment-unit";
/// Names the conversation that a request belongs to.
const CONVERSATION: &str = "x-conversation-id";
/// Longest of these, bytes.
const MAX_STEERING: usize = 512;

/// Whether the answer says what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShowCost {
    /// In `x-cost-usd`, or in a stream's usage.
    Shown,
    /// Nowhere.
    #[default]
    Omitted,
}

/// Who sent a request, and how.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Who.
    pub caller: Arc<Principal>,
    /// The response's `x-request-id`.
    pub request_id: Arc<str>,
    /// When the request's head was read.
    pub arrived: Instant,
    /// What the head says about the response cache.
    pub caching: Caching,
    /// Whether the answer says what it costs.
    pub show_cost: ShowCost,
    /// What the head says about arms of deployments.
    pub steering: Steering,
    /// Names the request, so that a repetition gets the same answer.
    pub idempotency_key: Option<String>,
}

impl Sender {
    /// For the ledger.
    pub fn origin(&self, endpoint: &'static str, end_user: Option<String>) -> Origin {
        Origin { request_id: Arc::clone(&self.request_id), endpoint, end_user, arrived: self.arrived, capability: None }
    }
}

/// A head that was read, or the mistake in it.
pub struct Head(pub Result<Sender, ApiError>);

impl FromRequestParts<Server> for Head {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Server) -> Result<Self, Infallible> {
        Ok(Self(sender(parts)))
    }
}

fn sender(parts: &Parts) -> Result<Sender, ApiError> {
    let missing = || ApiError::internal(&"a route without a caller generates; this is a bug");
    let caller = parts.extensions.get::<Arc<Principal>>().cloned().ok_or_else(missing)?;
    let request_id = parts.extensions.get::<RequestId>().map(RequestId::text).unwrap_or_default();
    let arrived = parts.extensions.get::<Arrived>().map_or_else(Instant::now, |arrived| arrived.0);
    let caching = match text(&parts.headers, RESPONSE_CACHE)? {
        None => Caching::AsKey,
        Some("allow") => Caching::Allowed,
        Some("bypass") => Caching::Fresh,
        Some(other) => return Err(wrong(RESPONSE_CACHE, other, "'allow' or 'bypass'")),
    };
    let show_cost = match text(&parts.headers, SHOW_COST)? {
        None | Some("false") => ShowCost::Omitted,
        Some("true") => ShowCost::Shown,
        Some(other) => return Err(wrong(SHOW_COST, other, "'true' or 'false'")),
    };
    Ok(Sender {
        caller,
        request_id: request_id.into(),
        arrived,
        caching,
        show_cost,
        steering: Steering {
            arm: steering(&parts.headers, ARM)?,
            unit: steering(&parts.headers, UNIT)?,
            cache_key: None,
            conversation: steering(&parts.headers, CONVERSATION)?,
        },
        idempotency_key: idempotency_key(&parts.headers)?,
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| wrong(name, "(not text)", "visible characters"))
}

fn steering(headers: &HeaderMap, name: &str) -> Result<Option<String>, ApiError> {
    match text(headers, name)? {
        Some(value) if value.is_empty() || value.len() > MAX_STEERING => {
            let shown: String = value.chars().take(64).collect();
            Err(wrong(name, &shown, &format!("1 to {MAX_STEERING} visible characters")))
        }
        value => Ok(value.map(str::to_owned)),
    }
}

fn wrong(name: &str, value: &str, right: &str) -> ApiError {
    ApiError::invalid(name, "invalid_value", format!("Invalid header '{name}': '{value}'. Expected {right}."))
}
