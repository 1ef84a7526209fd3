//! `/v1/organization/projects`: tenants.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, Halt, Looking, changed, found};
use super::list;
use crate::http::error::ApiError;
use crate::http::fields::Rule;
use crate::tenants::admin::{ProjectRow, Projects, projects};

const NO_RESIDENCY: Rule = Rule::Refused("Data stays where this server and its database are.");
const NO_KEYS: Rule = Rule::Refused("There are no external keys.");

/// `GET /v1/organization/projects`
pub async fn list_all(mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let paging = looking.query.paging(20, 100)?;
    let which = if looking.query.boolean("include_archived")? == Some(true) { Projects::All } else { Projects::Active };
    let server = looking.without_parameters()?;
    let page = projects::list(server.tenants().office(), which, &paging).await?;
    Ok(list(&page, render))
}

/// `POST /v1/organization/projects`
pub async fn create(changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let name = fields.required_string("name")?;
    fields.finish(&[("geography", NO_RESIDENCY), ("residency", NO_RESIDENCY), ("external_key_id", NO_KEYS)])?;
    let mut change = planned.begin().await?;
    let row = projects::create(&mut change, &name).await?;
    changed(change, &render(&row), row.version).await
}

/// `GET /v1/organization/projects/{project_id}`
pub async fn retrieve(Path(id): Path<String>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = projects::get(server.tenants().office(), &id).await?;
    Ok(found(&render(&row), row.version))
}

/// `POST /v1/organization/projects/{project_id}`
pub async fn update(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let name = fields.string("name")?;
    fields.finish(&[("geography", NO_RESIDENCY), ("external_key_id", NO_KEYS)])?;
    let mut change = planned.begin().await?;
    let row = projects::update(&mut change, &id, name.as_deref()).await?;
    changed(change, &render(&row), row.version).await
}

/// `POST /v1/organization/projects/{project_id}/archive`
pub async fn archive(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    let row = projects::archive(&mut change, &id).await?;
    changed(change, &render(&row), row.version).await
}

fn render(row: &ProjectRow) -> Value {
    json!({
        "id": row.id,
        "object": "organization.project",
        "name": row.name,
        "created_at": row.created_at,
        "archived_at": row.archived_at,
        "status": row.status,
    })
}
