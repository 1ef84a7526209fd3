//! `/v1/organization/projects/{project_id}/api_keys`: keys of a tenant. `/admin/keys` shows and changes all of a key.

use std::collections::HashMap;

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, Halt, Looking, changed, done, found};
use super::{deleted, list};
use crate::http::error::ApiError;
use crate::http::fields::{self, Fields};
use crate::tenants::admin::keys::{self, KeyChange, usual};
use crate::tenants::admin::{KeyRow, KeysOf, Paging, ServiceAccountRow, service_accounts};
use crate::tenants::{Office, Scope, Scopes};

/// Longest life of a key, seconds: a hundred years.
const MAX_LIFE: i64 = 100 * 366 * 86_400;

/// `GET /v1/organization/projects/{project_id}/api_keys`
pub async fn list_all(Path(project): Path<String>, mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let paging = looking.query.paging(20, 100)?;
    // Whoever owns a key here has access to its project.
    let access = looking.query.word("owner_project_access", &[("active", true), ("any", true), ("inactive", false)])?;
    let server = looking.without_parameters()?;
    let mut page = keys::list(server.tenants().office(), KeysOf::Project(&project), &paging).await?;
    if access == Some(false) {
        page.rows.clear();
        page.has_more = false;
    }
    let owners = owners(server.tenants().office(), &project).await?;
    Ok(list(&page, |row| render(row, &owners)))
}

/// `GET /v1/organization/projects/{project_id}/api_keys/{api_key_id}`
pub async fn retrieve(Path((project, id)): Path<(String, String)>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = keys::get(server.tenants().office(), KeysOf::Project(&project), &id).await?;
    let owners = owners(server.tenants().office(), &project).await?;
    Ok(found(&render(&row, &owners), row.version))
}

/// `POST /v1/organization/projects/{project_id}/api_keys/{api_key_id}`
pub async fn update(Path((project, id)): Path<(String, String)>, changing: Changing) -> Result<Response, Halt> {
    let server = changing.server.clone();
    let (mut fields, planned) = changing.fields()?;
    let (scopes, expires_in) = (scopes(&mut fields)?, expires_in(&mut fields)?);
    fields.finish(&[])?;
    let owners = owners(server.tenants().office(), &project).await?;
    let mut change = planned.begin().await?;
    let expires_at = expires_in.map(|seconds| Some(change.now() + seconds));
    let to = KeyChange { scopes, expires_at, ..KeyChange::default() };
    let row = keys::update(&mut change, KeysOf::Project(&project), &id, to).await?;
    changed(change, &render(&row, &owners), row.version).await
}

/// `DELETE /v1/organization/projects/{project_id}/api_keys/{api_key_id}`
pub async fn delete(Path((project, id)): Path<(String, String)>, changing: Changing) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    keys::revoke(&mut change, KeysOf::Project(&project), &id).await?;
    done(change, &deleted(&id, "organization.project.api_key.deleted")).await
}

async fn owners(office: &Office, project: &str) -> Result<HashMap<String, ServiceAccountRow>, ApiError> {
    let page = service_accounts::list(office, project, &Paging::ALL).await?;
    Ok(page.rows.into_iter().map(|row| (row.id.clone(), row)).collect())
}

fn render(row: &KeyRow, owners: &HashMap<String, ServiceAccountRow>) -> Value {
    let owner =
        row.service_account_id.as_ref().and_then(|id| owners.get(id)).map(
            |account| json!({"id": account.id, "name": account.name, "role": account.role, "created_at": account.created_at}),
        );
    json!({
        "id": row.id,
        "object": "organization.project.api_key",
        "name": row.name,
        "redacted_value": row.redacted,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
        "owner": {"type": "service_account", "service_account": owner},
        "owner_project_access": "active",
    })
}

/// How long a key is to live.
pub fn expires_in(fields: &mut Fields) -> Result<Option<i64>, ApiError> {
    fields.integer("expires_in_seconds", 1..=MAX_LIFE)
}

/// Scopes, in our names or OpenAI's: an empty list lifts the restrictions, `api.all.read` is reading only.
pub fn scopes(fields: &mut Fields) -> Result<Option<Scopes>, ApiError> {
    let words = [
        ("inference", Scope::Inference),
        ("fine_tuning", Scope::FineTuning),
        ("read_only", Scope::ReadOnly),
        ("admin", Scope::Admin),
        ("api.all.read", Scope::ReadOnly),
    ];
    let Some(names) = fields.strings("scopes", 16)? else { return Ok(None) };
    if names.is_empty() {
        return Ok(Some(usual()));
    }
    let path = fields.path("scopes");
    names.iter().map(|name| fields::word(&path, name, &words)).collect::<Result<_, _>>().map(Some)
}
