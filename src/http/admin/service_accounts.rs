//! `/v1/organization/projects/{project_id}/service_accounts`: what keys of programs belong to. Roles are kept and shown; what a key
//! may do is in its scopes.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, Halt, Looking, changed, done, found};
use super::project_keys::{expires_in, scopes};
use super::{deleted, list};
use crate::http::error::ApiError;
use crate::tenants::admin::ServiceAccountRow;
use crate::tenants::admin::keys::{self, KeySpec, ShownKey, usual};
use crate::tenants::admin::service_accounts::{self, With};

/// `GET /v1/organization/projects/{project_id}/service_accounts`
pub async fn list_all(Path(project): Path<String>, mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let paging = looking.query.paging(20, 100)?;
    let server = looking.without_parameters()?;
    let page = service_accounts::list(server.tenants().office(), &project, &paging).await?;
    Ok(list(&page, render))
}

/// `POST /v1/organization/projects/{project_id}/service_accounts`
pub async fn create(Path(project): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let name = fields.required_string("name")?;
    let bare = fields.boolean("create_service_account_only")? == Some(true);
    let expires_in = expires_in(&mut fields)?;
    fields.finish(&[])?;
    if bare && expires_in.is_some() {
        let message = "Invalid 'expires_in_seconds': with 'create_service_account_only' there is no key that could expire.";
        return Err(ApiError::invalid("expires_in_seconds", "invalid_value", message).into());
    }
    let with = if bare { With::Nothing } else { With::Key(expires_in) };
    let mut change = planned.begin().await?;
    let (row, key) = service_accounts::create(&mut change, &project, &name, with).await?;
    let mut object = render(&row);
    object["api_key"] = key.as_ref().map_or(Value::Null, render_key);
    changed(change, &object, row.version).await
}

/// `GET /v1/organization/projects/{project_id}/service_accounts/{service_account_id}`
pub async fn retrieve(Path((project, id)): Path<(String, String)>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = service_accounts::get(server.tenants().office(), &project, &id).await?;
    Ok(found(&render(&row), row.version))
}

/// `POST /v1/organization/projects/{project_id}/service_accounts/{service_account_id}`
pub async fn update(Path((project, id)): Path<(String, String)>, changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let (name, role) = (fields.string("name")?, fields.string("role")?);
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let row = service_accounts::update(&mut change, &project, &id, name.as_deref(), role.as_deref()).await?;
    changed(change, &render(&row), row.version).await
}

/// `DELETE /v1/organization/projects/{project_id}/service_accounts/{service_account_id}`
pub async fn delete(Path((project, id)): Path<(String, String)>, changing: Changing) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    service_accounts::delete(&mut change, &project, &id).await?;
    done(change, &deleted(&id, "organization.project.service_account.deleted")).await
}

/// `POST /v1/organization/projects/{project_id}/service_accounts/{service_account_id}/api_keys`
pub async fn create_key(Path((project, account)): Path<(String, String)>, changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let name = fields.string("name")?.unwrap_or_else(|| "API key".to_owned());
    let expires_in = expires_in(&mut fields)?;
    let scopes = scopes(&mut fields)?.unwrap_or_else(usual);
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let expires_at = expires_in.map(|seconds| change.now() + seconds);
    let spec = KeySpec { service_account: Some(account), scopes, expires_at, ..KeySpec::of_project(&project, &name) };
    let key = keys::create(&mut change, spec).await?;
    changed(change, &render_key(&key), key.row.version).await
}

fn render(row: &ServiceAccountRow) -> Value {
    json!({
        "id": row.id,
        "object": "organization.project.service_account",
        "name": row.name,
        "role": row.role,
        "created_at": row.created_at,
    })
}

fn render_key(key: &ShownKey) -> Value {
    json!({
        "id": key.row.id,
        "object": "organization.project.service_account.api_key",
        "name": key.row.name,
        "created_at": key.row.created_at,
        "expires_at": key.row.expires_at,
        "value": key.value,
    })
}
