//! `GET /v1/models`: the base, the deployments and the adapters that the caller may name, without a path of any file.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::experiments::Deployment;
use crate::gateway::{GatewayError, HASH_CONTEXT, HASH_EMBEDDING, UpstreamCard};
use crate::http::Server;
use crate::http::error::ApiError;
use crate::registry::{Owner, RegistryError};
use crate::tenants::Principal;

/// Owner of the base and of shared adapters.
const HOUSE: &str = "switchyard";

/// `GET /v1/models`
pub async fn list_models(State(server): State<Server>, Extension(caller): Extension<Arc<Principal>>) -> Json<Value> {
    let base = &server.gateway().base().name;
    let adapters = server.gateway().adapters(&caller);
    let base_card = server.gateway().may_use(&caller, base).then(|| base_card(&server));
    let deployments = server.gateway().deployments(&caller);
    let named = deployments.iter().map(|deployment| Card::of(&deployment.name, &deployment.owner, since(deployment)));
    let adapters = adapters.iter().map(|adapter| Card::of(&adapter.name, &adapter.owner, adapter.loaded_at));
    let cards = named.chain(adapters).map(|one| card(&server, &one, Some(base)));
    let hash = server.gateway().hashes_for(&caller, HASH_EMBEDDING).then(|| hash_card(&server));
    let upstreams = server.gateway().upstreams(&caller);
    let upstreams = upstreams.iter().map(|upstream| upstream_card(&server, upstream));
    Json(json!({"object": "list", "data": base_card.into_iter().chain(upstreams).chain(cards).chain(hash).collect::<Vec<_>>()}))
}

/// `GET /v1/models/{id}`
pub async fn get_model(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let (owner, name) = match server.gateway().check_model(&caller, &id) {
        Ok(Some(named)) => named,
        Ok(None) => return Ok(Json(base_card(&server))),
        Err(GatewayError::EmbeddingsOnly(_)) => return Ok(Json(hash_card(&server))),
        Err(GatewayError::RelayedOnly(name)) => {
            let upstreams = server.gateway().upstreams(&caller);
            let upstream = upstreams.iter().find(|upstream| upstream.name == name);
            return upstream.map(|upstream| Json(upstream_card(&server, upstream))).ok_or_else(|| ApiError::model_not_found(&id));
        }
        Err(error) => return Err(error.into()),
    };
    let deployment = if name == id { server.deployments().get(&owner, &name) } else { None };
    let served = || server.gateway().adapters(&caller).into_iter().find(|adapter| adapter.owner == owner && adapter.name == name);
    let created = match deployment {
        Some(deployment) => since(&deployment),
        None => served().map_or(0, |adapter| adapter.loaded_at),
    };
    Ok(Json(card(&server, &Card::of(&id, &owner, created), Some(&server.gateway().base().name))))
}

/// `DELETE /v1/models/{id}`: a model that a fine-tuning job of the caller's project has made. Running answers keep it to their end.
pub async fn delete_model(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let refused = |message: &str| {
        let error = ApiError::new(StatusCode::FORBIDDEN, "invalid_request_error", Some("model_not_deletable"), message);
        ApiError { param: Some("model".to_owned()), ..error }
    };
    let Some((owner, name)) = server.gateway().check_model(&caller, &id)? else {
        return Err(refused("The base cannot be deleted."));
    };
    if owner == Owner::Shared || !name.starts_with("ft:") {
        return Err(refused(
            "Only models of fine-tuning jobs can be deleted here; operators remove adapters at /admin/adapters.",
        ));
    }
    if name != id {
        return Err(refused("A model is deleted by its name without a version."));
    }
    server.gateway().unload_adapter(&owner, &name, None).await.map_err(|error| match error {
        RegistryError::NotFound { .. } => ApiError::model_not_found(&id),
        error => error.into(),
    })?;
    Ok(Json(json!({"id": id, "object": "model", "deleted": true})))
}

struct Card<'a> {
    id: &'a str,
    owner: &'a str,
    created: u64,
}

impl<'a> Card<'a> {
    fn of(id: &'a str, owner: &'a Owner, created: u64) -> Self {
        Self { id, owner: owner.tenant().unwrap_or(HOUSE), created }
    }
}

/// When it was made, seconds since 1970.
fn since(deployment: &Deployment) -> u64 {
    u64::try_from(deployment.created_at).unwrap_or(0)
}

fn base_card(server: &Server) -> Value {
    let base = server.gateway().base();
    card(server, &Card { id: &base.name, owner: HOUSE, created: base.created }, None)
}

/// The model that makes embeddings without a base.
fn hash_card(server: &Server) -> Value {
    let created = server.gateway().base().created;
    let mut card = card(server, &Card { id: HASH_EMBEDDING, owner: HOUSE, created }, None);
    card["max_model_len"] = HASH_CONTEXT.into();
    card
}

/// A model that is another server; whose it is and where is nobody's business.
fn upstream_card(server: &Server, upstream: &UpstreamCard) -> Value {
    let created = server.gateway().base().created;
    let mut card = card(server, &Card { id: &upstream.name, owner: HOUSE, created }, None);
    card["max_model_len"] = json!(upstream.context);
    card
}

fn card(server: &Server, card: &Card<'_>, parent: Option<&str>) -> Value {
    json!({
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": card.owner,
        "root": parent.unwrap_or(card.id),
        "parent": parent,
        "max_model_len": server.gateway().context_length(),
    })
}
