//! `/v1/organization/projects/{project_id}/rate_limits` and `model_permissions`. A rate limit's id is `rl-` and the model's name;
//! `rl-*` is over all models together. A number of [`NONE`] is no limit, as OpenAI's schema has no word for it.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, Halt, Looking, changed, done, found};
use super::list;
use crate::http::Server;
use crate::http::error::ApiError;
use crate::http::fields::{Fields, Rule};
use crate::registry::Viewer;
use crate::tenants::admin::limits::{self, MOST};
use crate::tenants::admin::{LimitRow, Page, Paging, PermissionRow};

/// Stands for no limit: the largest whole number that every JSON reader keeps exact.
pub const NONE: i64 = (1 << 53) - 1;
const PREFIX: &str = "rl-";
/// Over all models together.
const ALL: &str = "*";

/// Limits of OpenAI's on what is not here.
const OTHERS: &[(&str, Rule)] = &[
    ("batch_1_day_max_input_tokens", Rule::Refused("There are no batches; see max_tokens_per_1_minute.")),
    ("max_audio_megabytes_per_1_minute", Rule::Refused("There is no audio.")),
    ("max_images_per_1_minute", Rule::Refused("There are no images.")),
    ("max_requests_per_1_day", Rule::Refused("Requests are limited per minute; a budget limits a day's money.")),
];

/// `GET /v1/organization/projects/{project_id}/rate_limits`
pub async fn list_all(Path(project): Path<String>, mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let paging = looking.query.paging_both_ways(100, 1_000, crate::tenants::admin::Order::Ascending)?;
    let server = looking.without_parameters()?;
    let rows = limits::in_force(server.tenants().office(), &project, &models(&server, &project)).await?;
    Ok(list(&cut(rows, &paging)?, render))
}

/// `POST /v1/organization/projects/{project_id}/rate_limits/{rate_limit_id}`
pub async fn update(Path((project, id)): Path<(String, String)>, changing: Changing) -> Result<Response, Halt> {
    let server = changing.server.clone();
    let (mut fields, planned) = changing.fields()?;
    let requests = amount(&mut fields, "max_requests_per_1_minute")?;
    let tokens = amount(&mut fields, "max_tokens_per_1_minute")?;
    fields.finish(OTHERS)?;
    let model = id.strip_prefix(PREFIX).filter(|model| models(&server, &project).iter().any(|known| known == model));
    let Some(model) = model else { return Err(ApiError::not_found(format!("No rate limit found with id '{id}'.")).into()) };
    let mut change = planned.begin().await?;
    let adjust = |amounts: &mut limits::Amounts| {
        if let Some(requests) = requests {
            amounts.requests_per_minute = requests;
            // A burst that was set for the old number would outlive it.
            amounts.burst = requests.and(amounts.burst);
        }
        if let Some(tokens) = tokens {
            amounts.tokens_per_minute = tokens;
        }
    };
    let row = limits::adjust(&mut change, &project, model, adjust).await?;
    changed(change, &render(&row), row.version).await
}

/// All together, the base, and the adapters that the tenant may use.
fn models(server: &Server, project: &str) -> Vec<String> {
    let adapters = server.catalog().list(Viewer::Tenant(project)).into_iter().map(|adapter| adapter.name);
    [ALL.to_owned(), server.gateway().base().name.clone()].into_iter().chain(adapters).collect()
}

/// Absent: stays as it is.
fn amount(fields: &mut Fields, name: &str) -> Result<Option<Option<i64>>, ApiError> {
    let value = fields.integer(name, 0..=NONE)?;
    Ok(value.map(|value| (value <= MOST).then_some(value)))
}

fn cut(rows: Vec<LimitRow>, paging: &Paging) -> Result<Page<LimitRow>, ApiError> {
    let place = |cursor: &Option<String>, name: &str| {
        let Some(cursor) = cursor else { return Ok(None) };
        let found = rows.iter().position(|row| cursor.strip_prefix(PREFIX) == Some(row.model.as_str()));
        let message = || format!("Invalid '{name}': there is no rate limit '{cursor}'.");
        found.map(Some).ok_or_else(|| ApiError::invalid(name, "invalid_value", message()))
    };
    let first = place(&paging.after, "after")?.map_or(0, |index| index + 1);
    let end = place(&paging.before, "before")?.unwrap_or(rows.len()).max(first);
    let wanted = end.min(first + paging.limit);
    let rows = rows.get(first..wanted).unwrap_or_default().to_vec();
    Ok(Page { rows, has_more: wanted < end })
}

fn render(row: &LimitRow) -> Value {
    json!({
        "id": format!("{PREFIX}{}", row.model),
        "object": "project.rate_limit",
        "model": row.model,
        "max_requests_per_1_minute": row.requests_per_minute.unwrap_or(NONE),
        "max_tokens_per_1_minute": row.tokens_per_minute.unwrap_or(NONE),
    })
}

/// `GET /v1/organization/projects/{project_id}/model_permissions`
pub async fn permissions(Path(project): Path<String>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = limits::get_permission(server.tenants().office(), &project).await?;
    Ok(found(&render_permissions(&row), row.version))
}

/// `POST /v1/organization/projects/{project_id}/model_permissions`
pub async fn update_permissions(Path(project): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let mode = fields.required_string("mode")?;
    let models = fields.strings("model_ids", 1_000)?.ok_or_else(|| fields.missing("model_ids"))?;
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let row = limits::put_permission(&mut change, &project, &mode, &models).await?;
    changed(change, &render_permissions(&row), row.version).await
}

/// `DELETE /v1/organization/projects/{project_id}/model_permissions`
pub async fn delete_permissions(Path(project): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    limits::delete_permission(&mut change, &project).await?;
    done(change, &json!({"object": "project.model_permissions.deleted", "deleted": true})).await
}

fn render_permissions(row: &PermissionRow) -> Value {
    let models: Vec<String> = serde_json::from_str(&row.models).unwrap_or_default();
    json!({"object": "project.model_permissions", "mode": row.mode, "model_ids": models})
}
