//! `/v1/organization/admin_api_keys`: keys of the organization.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, Halt, Looking, changed, done, found};
use super::project_keys::expires_in;
use super::{deleted, list};
use crate::http::error::ApiError;
use crate::tenants::admin::keys::{self, KeySpec};
use crate::tenants::admin::{KeyRow, KeysOf, Order, Paging};

/// `GET /v1/organization/admin_api_keys`
pub async fn list_all(mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let orders = [("asc", Order::Ascending), ("desc", Order::Descending)];
    let order = looking.query.word("order", &orders)?.unwrap_or_default();
    let paging = Paging { order, ..looking.query.paging(20, 100)? };
    let server = looking.without_parameters()?;
    let page = keys::list(server.tenants().office(), KeysOf::Organization, &paging).await?;
    Ok(list(&page, render))
}

/// `POST /v1/organization/admin_api_keys`
pub async fn create(changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let name = fields.required_string("name")?;
    let expires_in = expires_in(&mut fields)?;
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let expires_at = expires_in.map(|seconds| change.now() + seconds);
    let key = keys::create(&mut change, KeySpec { expires_at, ..KeySpec::of_organization(&name) }).await?;
    let mut object = render(&key.row);
    object["value"] = json!(key.value);
    changed(change, &object, key.row.version).await
}

/// `GET /v1/organization/admin_api_keys/{key_id}`
pub async fn retrieve(Path(id): Path<String>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = keys::get(server.tenants().office(), KeysOf::Organization, &id).await?;
    Ok(found(&render(&row), row.version))
}

/// `DELETE /v1/organization/admin_api_keys/{key_id}`
pub async fn delete(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    keys::revoke(&mut change, KeysOf::Organization, &id).await?;
    done(change, &deleted(&id, "organization.admin_api_key.deleted")).await
}

fn render(row: &KeyRow) -> Value {
    json!({
        "id": row.id,
        "object": "organization.admin_api_key",
        "name": row.name,
        "redacted_value": row.redacted,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
        // There are no users: a key of the organization stands for itself.
        "owner": {
            "type": "service_account",
            "object": "organization.service_account",
            "id": row.id,
            "name": row.name,
            "created_at": row.created_at,
            "role": "owner",
        },
    })
}
