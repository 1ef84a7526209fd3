//! Responses that are kept: read, listed by what they answered, deleted. Another tenant's is not there.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::request::Parts;
use serde_json::{Value, json};

use crate::http::Server;
use crate::http::admin::query::Parameters;
use crate::http::error::ApiError;
use crate::tenants::responses::{KeptResponse, Responses};
use crate::tenants::{Principal, TenantError};

/// Longest list of input items, and the usual one: OpenAI's.
const MOST_ITEMS: i64 = 100;
const ITEMS: i64 = 20;

/// Keeps a response when it has ended.
pub struct Keeper {
    responses: Responses,
    tenant: Arc<str>,
    items: Vec<Value>,
}

impl Keeper {
    /// For a caller's tenant; `items` are what is answered.
    pub fn new(server: &Server, caller: &Principal, items: Vec<Value>) -> Self {
        Self { responses: server.responses().clone(), tenant: Arc::clone(&caller.tenant), items }
    }

    /// Keeps it; says whether that was done.
    pub async fn keep(self, response: &Value) -> bool {
        let Self { responses, tenant, items } = self;
        let id = response["id"].as_str().unwrap_or_default().to_owned();
        let kept = KeptResponse { response: response.clone(), items };
        let done = responses.keep(&tenant, &id, &kept).await;
        if let Err(error) = &done {
            tracing::warn!(%error, id, "a response is not kept");
        }
        done.is_ok()
    }
}

/// `GET /v1/responses/{id}`
pub async fn retrieve(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Json<Value>, ApiError> {
    let mut query = Parameters::of(&parts)?;
    if query.boolean("stream")? == Some(true) {
        let message = "Unsupported parameter: 'stream'. A kept response is read whole.";
        return Err(ApiError::invalid("stream", "unsupported_parameter", message));
    }
    no_more(&mut query)?;
    query.finish()?;
    Ok(Json(find(&server, &caller, &id).await?.response))
}

/// `DELETE /v1/responses/{id}`
pub async fn remove(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    find(&server, &caller, &id).await?;
    if !server.responses().remove(&caller.tenant, &id).await.map_err(unreadable)? {
        return Err(not_there(&id));
    }
    Ok(Json(json!({"id": id, "object": "response", "deleted": true})))
}

/// `GET /v1/responses/{id}/input_items`: what it answered, with all that was said before; the last first.
pub async fn input_items(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Json<Value>, ApiError> {
    let mut query = Parameters::of(&parts)?;
    let limit = query.integer("limit", 1..=MOST_ITEMS)?.unwrap_or(ITEMS);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let is_ascending = query.word("order", &[("asc", true), ("desc", false)])?.unwrap_or(false);
    let after = query.text("after")?;
    no_more(&mut query)?;
    query.finish()?;
    let mut items = find(&server, &caller, &id).await?.items;
    if !is_ascending {
        items.reverse();
    }
    if let Some(after) = after {
        let at = items.iter().position(|item| item["id"] == after.as_str()).ok_or_else(|| {
            ApiError::invalid("after", "invalid_value", format!("Invalid 'after': the response has no input item '{after}'."))
        })?;
        items.drain(..=at);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id_of = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    let (first, last) = (id_of(items.first()), id_of(items.last()));
    Ok(Json(json!({"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": has_more})))
}

/// Nothing can be had besides.
fn no_more(query: &mut Parameters) -> Result<(), ApiError> {
    match query.list("include")?.first() {
        // They are there where the request asked for them.
        None => Ok(()),
        Some(name) if name == "message.output_text.logprobs" => Ok(()),
        Some(name) => {
            let message = format!("Unsupported value: 'include' has '{name}'. What a response includes is said when it is made.");
            Err(ApiError::invalid("include", "unsupported_value", message))
        }
    }
}

async fn find(server: &Server, caller: &Principal, id: &str) -> Result<KeptResponse, ApiError> {
    kept(server, caller, id).await?.ok_or_else(|| not_there(id))
}

/// A response of the caller's tenant. That of a model that the caller may not use is not there; one that is not served any more may be.
pub async fn kept(server: &Server, caller: &Principal, id: &str) -> Result<Option<KeptResponse>, ApiError> {
    let gateway = server.gateway();
    let found = server.responses().get(&caller.tenant, id).await.map_err(unreadable)?;
    Ok(found.filter(|kept| {
        let model = kept.response["model"].as_str().unwrap_or_default();
        let name = if model == gateway.base().name { model } else { model.split('@').next().unwrap_or(model) };
        gateway.may_use(caller, name)
    }))
}

/// The error where a kept response cannot be read.
fn unreadable(error: TenantError) -> ApiError {
    match error {
        TenantError::Store(error) => ApiError::database_down(&error),
        error => ApiError::internal(&error),
    }
}

fn not_there(id: &str) -> ApiError {
    ApiError::not_found(format!("Response with id '{}' not found.", shortened(id)))
}

/// An id as errors say it: a huge one should not come back as a huge message.
pub fn shortened(id: &str) -> String {
    id.chars().take(128).collect()
}
