//! `/admin/adapters`: adapters and their versions for operators, with files sent over HTTP instead of named on the server.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::change::{Halt, Looking, changed, done};
use super::conditions::Conditions;
use super::query::Parameters;
use crate::http::Server;
use crate::http::adapters::{describe, loaded_by, new_owner, owner_of};
use crate::http::error::ApiError;
use crate::http::form::{self, Entry, check_length, text, too_large};
use crate::ids::VersionId;
use crate::registry::{
    AdapterFile, IfLoaded, LoadRequest, Loaded, LoadedBy, Owner, RegistryError, Source, Upload, Versions, Viewer, check_name,
};
use crate::tenants::admin::adapters::{AdapterChange, record};

/// `GET /admin/adapters`
pub async fn list_all(looking: Looking) -> Result<Json<Value>, ApiError> {
    let server = looking.without_parameters()?;
    let adapters = server.catalog().list(Viewer::Operator);
    let data: Vec<Value> = adapters.iter().map(|adapter| describe(adapter, Viewer::Operator)).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

/// `GET /admin/adapters/{name}/versions`
pub async fn versions(Path(name): Path<String>, mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let owner = owner_of(looking.query.text("tenant")?);
    let server = looking.without_parameters()?;
    let Versions { owner, name, current, versions } = server.catalog().versions(&owner, &name).map_err(named)?;
    let data: Vec<Value> = versions
        .iter()
        .map(|version| {
            json!({
                "object": "adapter.version",
                "name": name,
                "owner": owner.tenant(),
                "version": version.number,
                "digest": version.id,
                "current": version.number == current,
                "rank": version.rank,
                "file_bytes": version.file_bytes,
                "loaded_at": version.loaded_at,
                "loaded_by": loaded_by(&version.loaded_by),
            })
        })
        .collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

/// `DELETE /admin/adapters/{name}`
pub async fn remove(State(server): State<Server>, Path(name): Path<String>, request: Request) -> Result<Response, Halt> {
    let (parts, _) = request.into_parts();
    let mut query = Parameters::of(&parts)?;
    let (owner, expected) = (owner_of(query.text("tenant")?), query.text("expected_version")?);
    query.finish()?;
    let conditions = Conditions::of(&server, &parts)?;
    drop(conditions.begin("").await?);
    let before = current(&server, &owner, &name);
    let expected = conditions.expected_version(expected, before)?;
    server.gateway().unload_adapter(&owner, &name, expected.as_deref()).await.map_err(named)?;
    let mut change = conditions.begin("").await?;
    record(&mut change, &AdapterChange::unloaded(owner.tenant(), &name).instead_of(before)).await?;
    done(change, &json!({"object": "adapter.deleted", "name": name, "owner": owner.tenant(), "deleted": true})).await
}

/// `POST /admin/adapters/{name}/versions`
pub async fn upload(State(server): State<Server>, Path(name): Path<String>, request: Request) -> Result<Response, Halt> {
    // Whatever can be refused before the files come is.
    check_name(&name, std::slice::from_ref(&server.gateway().base().name)).map_err(named)?;
    let limit = server.config().upload_limit;
    check_length(request.headers(), limit)?;
    let (parts, body) = request.into_parts();
    Parameters::of(&parts)?.finish()?;
    let conditions = Conditions::of(&server, &parts)?;
    let request = Request::from_parts(parts, body);
    let form = form::Form::new(request, limit, "the files adapter_config.json and adapter_model.safetensors").await?;
    let upload = server.catalog().begin_upload().map_err(named)?;
    let Form { owner, expected_version, content } = receive(&server, form, &upload).await?;
    drop(conditions.begin(&content).await?);
    let before = current(&server, &owner, &name);
    let expected_version = conditions.expected_version(expected_version, before)?;
    let by = LoadedBy::Api { key_id: conditions.actor().to_owned() };
    let from = Source::Upload(Arc::new(upload));
    let request = LoadRequest { owner: owner.clone(), name, from, if_loaded: IfLoaded::Replace, expected_version, by };
    let loaded = server.gateway().load_adapter(request).await.map_err(named)?;
    let object = json!({
        "object": "adapter.version",
        "name": loaded.name,
        "owner": owner.tenant(),
        "version": loaded.number,
        "digest": loaded.id,
        "replaced": loaded.replaced,
    });
    let mut change = conditions.begin(&content).await?;
    record(&mut change, &put_into_service(&owner, &loaded)).await?;
    let mut response = changed(change, &object, i64::from(loaded.number)).await?;
    if let Ok(version) = HeaderValue::try_from(format!("{}@{}+{}", loaded.name, loaded.number, loaded.id.short())) {
        response.headers_mut().insert(HeaderName::from_static("x-adapter-version"), version);
    }
    Ok(response)
}

/// Number of the version in service.
pub fn current(server: &Server, owner: &Owner, name: &str) -> Option<u32> {
    server.catalog().versions(owner, name).ok().map(|versions| versions.current)
}

/// What the audit log says of a load.
pub fn put_into_service(owner: &Owner, loaded: &Loaded) -> AdapterChange {
    AdapterChange::loaded(owner.tenant(), &loaded.name, (loaded.number, loaded.id)).instead_of(loaded.replaced)
}

/// What comes beside the files.
#[derive(Default)]
struct Form {
    owner: Owner,
    expected_version: Option<String>,
    /// Stands for all of it, so that repetitions are known.
    content: String,
}

/// Writes the files into the upload's directory as they come.
async fn receive(server: &Server, mut form: form::Form, upload: &Upload) -> Result<Form, ApiError> {
    let limit = server.config().upload_limit;
    let mut room = limit;
    let mut texts = Form::default();
    let mut seen: Vec<String> = Vec::new();
    let mut digests = AdapterFile::ALL.map(|_| String::new());
    while let Some(field) = form.next().await? {
        let name = field.name().unwrap_or("").to_owned();
        if seen.contains(&name) {
            return Err(form::twice(&name));
        }
        match AdapterFile::ALL.into_iter().zip(&mut digests).find(|(file, _)| file.name() == name) {
            Some((file, digest)) => *digest = store(field, upload, file, &mut room, limit).await?,
            None if name == "tenant" => texts.owner = new_owner(server, Some(text(field, &name).await?))?,
            None if name == "expected_version" => texts.expected_version = Some(text(field, &name).await?),
            None => return Err(form::unknown(&name)),
        }
        seen.push(name);
    }
    for file in AdapterFile::ALL {
        if !seen.iter().any(|name| name == file.name()) {
            return Err(form::missing_file(file.name()));
        }
    }
    texts.content = json!([texts.owner.tenant(), texts.expected_version, digests]).to_string();
    Ok(texts)
}

/// Returns a digest of the content.
async fn store(mut field: Entry<'_>, upload: &Upload, file: AdapterFile, room: &mut u64, limit: u64) -> Result<String, ApiError> {
    let mut digest = Sha256::new();
    let mut writing = upload.file(file).await.map_err(named)?;
    while let Some(chunk) = field.chunk().await? {
        *room = room.checked_sub(chunk.len() as u64).ok_or_else(|| too_large(limit))?;
        digest.update(&chunk);
        writing.write(&chunk).await.map_err(named)?;
    }
    writing.finish().await.map_err(named)?;
    Ok(VersionId::new(digest.finalize().into()).to_string())
}

/// Errors of the registry with this API's names of fields.
fn named(error: RegistryError) -> ApiError {
    let param = match &error {
        RegistryError::InvalidName { .. } | RegistryError::NotFound { .. } => Some("name".to_owned()),
        RegistryError::Unusable(_) => None,
        _ => {
            return ApiError::from(error);
        }
    };
    let code = if matches!(error, RegistryError::NotFound { .. }) { Some("adapter_not_found") } else { None };
    let error = ApiError::from(error);
    ApiError { param, code: code.or(error.code), ..error }
}
