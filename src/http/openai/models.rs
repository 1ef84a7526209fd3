//! `GET /v1/models`: the base and its adapters, without a path of any file.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::http::Server;
use crate::http::error::ApiError;

/// `GET /v1/models`
pub async fn list_models(State(server): State<Server>) -> Json<Value> {
    let base = &server.gateway().base().name;
    let adapters = server.catalog().list();
    let cards = std::iter::once(base_card(&server))
        .chain(adapters.iter().map(|adapter| card(&server, &adapter.name, adapter.loaded_at, Some(base))));
    Json(json!({"object": "list", "data": cards.collect::<Vec<_>>()}))
}

/// `GET /v1/models/{id}`
pub async fn get_model(State(server): State<Server>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let base = &server.gateway().base().name;
    if id == *base {
        return Ok(Json(base_card(&server)));
    }
    let name = server.gateway().check_model(&id)?;
    let loaded_at = server.catalog().list().into_iter().find(|adapter| Some(&adapter.name) == name.as_ref());
    Ok(Json(card(&server, &id, loaded_at.map_or(0, |adapter| adapter.loaded_at), Some(base))))
}

fn base_card(server: &Server) -> Value {
    let base = server.gateway().base();
    card(server, &base.name, base.created, None)
}

fn card(server: &Server, id: &str, created: u64, parent: Option<&str>) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": created,
        "owned_by": "switchyard",
        "root": parent.unwrap_or(id),
        "parent": parent,
        "max_model_len": server.gateway().context_length(),
    })
}
