//! Loading and unloading adapters, in vLLM's wire format with our fields added, and listing them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Server;
use super::admin::adapters::{current, put_into_service};
use super::admin::change::Halt;
use super::admin::conditions::Conditions;
use super::body::JsonBody;
use super::error::ApiError;
use super::fields::{Fields, Rule};
use crate::registry::{AdapterInfo, IfLoaded, LoadRequest, LoadedBy, Owner, RegistryError, Source, Viewer};
use crate::tenants::admin::adapters::AdapterChange;
use crate::tenants::{Principal, Reach, Scope};

/// An error in vLLM's words: its types, the status as `code`.
pub struct VllmError(ApiError);

impl IntoResponse for VllmError {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl From<ApiError> for VllmError {
    fn from(error: ApiError) -> Self {
        let kind = match error.status {
            StatusCode::BAD_REQUEST => "InvalidUserInput",
            StatusCode::NOT_FOUND => "NotFoundError",
            StatusCode::CONFLICT => "ConflictError",
            _ => "InternalServerError",
        };
        Self(error.in_vllm_words(kind))
    }
}

impl From<Halt> for VllmError {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Error(error) => Self::from(error),
            // Only requests with a key have answers that are kept.
            Halt::Replay(_) => Self::from(ApiError::internal(&"an answer was kept for a request without a key")),
        }
    }
}

impl From<RegistryError> for VllmError {
    fn from(error: RegistryError) -> Self {
        // vLLM tells mistakes in the request from files that cannot be used.
        let unusable = matches!(error, RegistryError::Unusable(_));
        let error = ApiError::from(error);
        if unusable { Self(error.in_vllm_words("BadRequestError")) } else { Self::from(error) }
    }
}

/// `POST /v1/load_lora_adapter`
pub async fn load(State(server): State<Server>, parts: Parts, body: Result<JsonBody, ApiError>) -> Result<Response, VllmError> {
    let mut fields = Fields::body(body?.0)?;
    let name = fields.string("lora_name")?.filter(|name| !name.is_empty());
    let path = fields.string("lora_path")?.filter(|path| !path.is_empty());
    let if_loaded = match fields.boolean("load_inplace")? {
        Some(true) => IfLoaded::Replace,
        _ => IfLoaded::Refuse,
    };
    let expected_version = expected_version(&mut fields)?;
    let owner = new_owner(&server, fields.string("tenant")?)?;
    fields.finish(&[
        // The Gateway API inference extension's sidecar sends the base's name along. There is one base.
        ("base_model_name", Rule::Harmless),
        ("is_3d_lora_weight", Rule::Only(&["false"], "Only PEFT's two-dimensional weights are supported.")),
    ])?;
    let (Some(name), Some(path)) = (name, path) else {
        return Err(ApiError::invalid("lora_name", "missing", "Both 'lora_name' and 'lora_path' must be provided.").into());
    };
    let conditions = Conditions::of(&server, &parts)?.without_key();
    // Without the database nothing is changed, as it could not be written down.
    drop(conditions.begin("").await?);
    let by = LoadedBy::Api { key_id: conditions.actor().to_owned() };
    let loaded = server
        .gateway()
        .load_adapter(LoadRequest {
            owner: owner.clone(),
            name,
            from: Source::Directory(path.into()),
            if_loaded,
            expected_version,
            by,
        })
        .await?;
    conditions.note(&put_into_service(&owner, &loaded)).await?;
    let version = format!("{}@{}+{}", loaded.name, loaded.number, loaded.id.short());
    let mut response = success(format!("Success: LoRA adapter '{}' added successfully.", loaded.name));
    if let Ok(version) = HeaderValue::try_from(version) {
        response.headers_mut().insert(HeaderName::from_static("x-adapter-version"), version);
    }
    Ok(response)
}

/// `POST /v1/unload_lora_adapter`
pub async fn unload(State(server): State<Server>, parts: Parts, body: Result<JsonBody, ApiError>) -> Result<Response, VllmError> {
    let mut fields = Fields::body(body?.0)?;
    let name = fields.string("lora_name")?.filter(|name| !name.is_empty());
    let expected_version = expected_version(&mut fields)?;
    let owner = owner_of(fields.string("tenant")?);
    // vLLM's clients may send its internal number along; the name decides.
    fields.finish(&[("lora_int_id", Rule::Harmless)])?;
    let Some(name) = name else {
        let message = "'lora_name' needs to be provided to unload a LoRA adapter.";
        return Err(ApiError::invalid("lora_name", "missing", message).into());
    };
    let conditions = Conditions::of(&server, &parts)?.without_key();
    drop(conditions.begin("").await?);
    let before = current(&server, &owner, &name);
    server.gateway().unload_adapter(&owner, &name, expected_version.as_deref()).await?;
    conditions.note(&AdapterChange::unloaded(owner.tenant(), &name).instead_of(before)).await?;
    Ok(success(format!("Success: LoRA adapter '{name}' removed successfully.")))
}

/// `GET /v1/lora_adapters`
pub async fn list(State(server): State<Server>, Extension(caller): Extension<Arc<Principal>>) -> Json<Value> {
    let viewer = match caller.reach {
        Reach::Organization if caller.scopes.allow(Scope::ReadOnly) => Viewer::Operator,
        _ => Viewer::Tenant(&caller.tenant),
    };
    let seen = |name: &str| server.gateway().may_use(&caller, name);
    let adapters: Vec<Value> = server
        .catalog()
        .list(viewer)
        .iter()
        .filter(|adapter| seen(&adapter.name))
        .map(|adapter| describe(adapter, viewer))
        .collect();
    let unavailable: Vec<Value> = server
        .catalog()
        .unavailable(viewer)
        .iter()
        .filter(|adapter| seen(&adapter.name))
        .map(|adapter| json!({"name": adapter.name, "owner": adapter.owner.tenant(), "reason": adapter.reason}))
        .collect();
    Json(json!({"object": "list", "data": adapters, "unavailable": unavailable}))
}

/// An adapter as a viewer may see it.
pub fn describe(adapter: &AdapterInfo, viewer: Viewer<'_>) -> Value {
    let mut described = json!({
        "name": adapter.name,
        "owner": adapter.owner.tenant(),
        "version": adapter.number,
        "digest": adapter.id,
        "rank": adapter.rank,
        "bytes": adapter.bytes,
        "loaded_at": adapter.loaded_at,
        "loaded_by": loaded_by(&adapter.loaded_by),
        "gate": gate(&adapter.loaded_by),
    });
    // Who uses a shared adapter is no tenant's business.
    if viewer == Viewer::Operator || adapter.owner != Owner::Shared {
        let draining = adapter.draining.iter().map(|(version, leases)| json!({"version": version, "leases": leases}));
        described["draining"] = draining.collect();
        described["leases"] = json!(adapter.leases);
    }
    described
}

/// What the evaluation said of a version that a job made; null of others.
pub fn gate(by: &LoadedBy) -> Value {
    match by {
        LoadedBy::Trained { job, gate, score, release, .. } => {
            let score = score.map(|score| f64::from(score) / 100.0);
            json!({"job": job, "verdict": gate, "score": score, "release": release})
        }
        LoadedBy::Operator | LoadedBy::Api { .. } => Value::Null,
    }
}

/// The way in which a version came.
pub const fn loaded_by(by: &LoadedBy) -> &'static str {
    match by {
        LoadedBy::Operator => "operator",
        LoadedBy::Api { .. } => "api",
        LoadedBy::Trained { .. } => "training",
    }
}

/// `tenant`: whose adapter it is; without it a shared one. What archived tenants have can be looked at and removed.
pub fn owner_of(tenant: Option<String>) -> Owner {
    tenant.as_deref().into()
}

/// Whose a new adapter will be: nobody's who is not there.
pub fn new_owner(server: &Server, tenant: Option<String>) -> Result<Owner, ApiError> {
    match owner_of(tenant) {
        Owner::Tenant(tenant) if !server.tenants().policy().is_active(&tenant) => {
            let shown: String = tenant.chars().take(64).collect();
            let message = format!("Invalid 'tenant': there is no project {shown:?}, or it is archived.");
            Err(ApiError::invalid("tenant", "invalid_value", message))
        }
        owner => Ok(owner),
    }
}

/// A version as text or as a number.
fn expected_version(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    match fields.take("expected_version") {
        None => Ok(None),
        Some(Value::String(version)) => Ok(Some(version)),
        Some(Value::Number(version)) if version.is_u64() => Ok(Some(version.to_string())),
        Some(other) => Err(super::fields::wrong_type("expected_version", "a version's number or digest", &other)),
    }
}

fn success(text: String) -> Response {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
