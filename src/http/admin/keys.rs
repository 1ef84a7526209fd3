//! `/admin/keys`: keys of tenants and of the organization with all that they can have, and their rotation.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, Halt, Looking, changed, done, found};
use super::project_keys::{expires_in, scopes};
use super::{deleted, list};
use crate::http::error::ApiError;
use crate::http::fields::{self, Fields};
use crate::tenants::admin::keys::{self, KeyChange, KeySpec, MAX_OVERLAP, ShownKey};
use crate::tenants::admin::{Change, KeyRow, KeysOf};
use crate::tenants::{CacheConsent, Priority};

const PRIORITIES: [(&str, Priority); 3] =
    [("batch", Priority::Batch), ("standard", Priority::Standard), ("high", Priority::High)];
const CACHING: [(&str, CacheConsent); 2] = [("per_request", CacheConsent::PerRequest), ("always", CacheConsent::Always)];
/// Most models that a key may be restricted to.
const MAX_MODELS: usize = 1_000;

/// `GET /admin/keys`
pub async fn list_all(mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let paging = looking.query.paging(20, 100)?;
    let project = looking.query.text("project_id")?;
    let account = looking.query.text("service_account_id")?;
    let server = looking.without_parameters()?;
    let of = match (&account, project.as_deref()) {
        (Some(account), _) => KeysOf::ServiceAccount(account),
        (None, None) => KeysOf::Everybody,
        (None, Some("organization")) => KeysOf::Organization,
        (None, Some(project)) => KeysOf::Project(project),
    };
    let page = keys::list(server.tenants().office(), of, &paging).await?;
    Ok(list(&page, render))
}

/// `POST /admin/keys`
pub async fn create(changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let project = fields.string("project_id")?;
    let service_account = fields.string("service_account_id")?;
    let name = fields.required_string("name")?;
    let wanted = read(&mut fields)?;
    if project.is_none() && wanted.change.scopes.is_none() {
        // Whoever forgets the project must not get an admin key.
        let message =
            "Missing required parameter: 'scopes'. A key without a 'project_id' is the organization's and has no usual ones.";
        return Err(ApiError::invalid("scopes", "missing_required_parameter", message).into());
    }
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let usual = match &project {
        Some(project) => KeySpec::of_project(project, &name),
        None => KeySpec::of_organization(&name),
    };
    let spec = KeySpec {
        service_account,
        scopes: wanted.change.scopes.unwrap_or(usual.scopes),
        models: wanted.change.models.clone().flatten(),
        labels: wanted.change.labels.clone().unwrap_or_default(),
        priority: wanted.change.priority.unwrap_or_default(),
        caching: wanted.change.caching.unwrap_or_default(),
        expires_at: wanted.expires_at(&change).flatten(),
        ..usual
    };
    let key = keys::create(&mut change, spec).await?;
    changed(change, &render_shown(&key), key.row.version).await
}

/// `GET /admin/keys/{key_id}`
pub async fn retrieve(Path(id): Path<String>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = keys::get(server.tenants().office(), KeysOf::Everybody, &id).await?;
    Ok(found(&render(&row), row.version))
}

/// `POST /admin/keys/{key_id}`
pub async fn update(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let name = fields.string("name")?;
    let wanted = read(&mut fields)?;
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let expires_at = wanted.expires_at(&change);
    let to = KeyChange { name, expires_at, ..wanted.change };
    let row = keys::update(&mut change, KeysOf::Everybody, &id, to).await?;
    changed(change, &render(&row), row.version).await
}

/// `DELETE /admin/keys/{key_id}`
pub async fn revoke(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    keys::revoke(&mut change, KeysOf::Everybody, &id).await?;
    done(change, &deleted(&id, "key.deleted")).await
}

/// `POST /admin/keys/{key_id}/rotate`
pub async fn rotate(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let overlap = fields.integer("overlap_seconds", 0..=MAX_OVERLAP)?.unwrap_or(0);
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let (key, old) = keys::rotate(&mut change, KeysOf::Everybody, &id, overlap).await?;
    let mut object = render_shown(&key);
    object["replaced"] = render(&old);
    changed(change, &object, key.row.version).await
}

/// What of a key can be given and changed; the end of its life is counted from the change.
struct Wanted {
    change: KeyChange,
    expires_in: Option<i64>,
}

impl Wanted {
    fn expires_at(&self, change: &Change) -> Option<Option<i64>> {
        self.expires_in.map(|seconds| Some(change.now() + seconds)).or(self.change.expires_at)
    }
}

fn read(fields: &mut Fields) -> Result<Wanted, ApiError> {
    let expires_at = match fields.take_nullable("expires_at") {
        None => None,
        Some(None) => Some(None),
        Some(Some(value)) => Some(Some(fields::integer("expires_at", &value, 1..=i64::from(u32::MAX) * 4)?)),
    };
    let expires_in = expires_in(fields)?;
    if expires_in.is_some() && expires_at.is_some() {
        let message = "Invalid 'expires_at': give it or 'expires_in_seconds', not both.";
        return Err(ApiError::invalid("expires_at", "invalid_value", message));
    }
    let models = match fields.take_nullable("models") {
        None => None,
        Some(None) => Some(None),
        Some(Some(value)) => {
            let mut only = Fields::body(json!({"models": value}))?;
            Some(only.strings("models", MAX_MODELS)?)
        }
    };
    let priority = fields.string("priority")?.map(|text| fields::word("priority", &text, &PRIORITIES)).transpose()?;
    let caching = fields.string("caching")?.map(|text| fields::word("caching", &text, &CACHING)).transpose()?;
    let change =
        KeyChange { name: None, scopes: scopes(fields)?, models, labels: labels(fields)?, priority, caching, expires_at };
    Ok(Wanted { change, expires_in })
}

fn labels(fields: &mut Fields) -> Result<Option<BTreeMap<String, String>>, ApiError> {
    let map = match fields.take("labels") {
        None => return Ok(None),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(fields::wrong_type("labels", "an object of strings", &other)),
    };
    let text = |(name, value): (String, Value)| match value {
        Value::String(text) => Ok((name, text)),
        other => Err(fields::wrong_type(&format!("labels.{name}"), "a string", &other)),
    };
    map.into_iter().map(text).collect::<Result<_, _>>().map(Some)
}

fn render(row: &KeyRow) -> Value {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    json!({
        "id": row.id,
        "object": "key",
        "project_id": row.project_id,
        "service_account_id": row.service_account_id,
        "name": row.name,
        "redacted_value": row.redacted,
        "scopes": row.scopes.split(',').filter(|scope| !scope.is_empty()).collect::<Vec<_>>(),
        "models": row.models.as_deref().map(json),
        "labels": json(&row.labels),
        "priority": row.priority,
        "caching": row.caching,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
        "replaces": row.replaces,
    })
}

fn render_shown(key: &ShownKey) -> Value {
    let mut object = render(&key.row);
    object["value"] = json!(key.value);
    object
}
