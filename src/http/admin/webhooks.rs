//! `/admin/webhooks`: where events are sent, and what became of them. The signing secret is shown once.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, Halt, Looking, changed, done, found};
use super::{deleted, list};
use crate::http::error::ApiError;
use crate::tenants::admin::webhooks;
use crate::tenants::admin::{DeliveryRow, Page, WebhookRow};

/// `GET /admin/webhooks`
pub async fn list_all(mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let paging = looking.query.paging(20, 100)?;
    let project = looking.query.text("project_id")?;
    let server = looking.without_parameters()?;
    let page = webhooks::list(server.tenants().office(), project.as_deref(), &paging).await?;
    Ok(list(&page, render))
}

/// `POST /admin/webhooks`
pub async fn create(changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let (url, project) = (fields.required_string("url")?, fields.string("project_id")?);
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let shown = webhooks::create(&mut change, project, &url).await?;
    let mut object = render(&shown.row);
    object["secret"] = json!(shown.secret);
    changed(change, &object, shown.row.version).await
}

/// `GET /admin/webhooks/{webhook_id}`
pub async fn retrieve(Path(id): Path<String>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = webhooks::get(server.tenants().office(), &id).await?;
    Ok(found(&render(&row), row.version))
}

/// `POST /admin/webhooks/{webhook_id}`
pub async fn update(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let url = fields.string("url")?;
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let row = webhooks::update(&mut change, &id, url.as_deref()).await?;
    changed(change, &render(&row), row.version).await
}

/// `DELETE /admin/webhooks/{webhook_id}`
pub async fn remove(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    webhooks::delete(&mut change, &id).await?;
    done(change, &deleted(&id, "webhook.deleted")).await
}

/// `GET /admin/webhooks/{webhook_id}/deliveries`: the newest first.
pub async fn deliveries(Path(id): Path<String>, mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let limit = looking.query.integer("limit", 1..=100)?.unwrap_or(20);
    let server = looking.without_parameters()?;
    let rows = webhooks::deliveries(server.tenants().office(), &id, limit).await?;
    Ok(list(&Page { rows, has_more: false }, render_delivery))
}

fn render(row: &WebhookRow) -> Value {
    json!({
        "id": row.id,
        "object": "webhook",
        "project_id": row.project_id,
        "url": row.url,
        "created_at": row.created_at,
    })
}

fn render_delivery(row: &DeliveryRow) -> Value {
    let event: Option<Value> = serde_json::from_str(&row.body).ok();
    json!({
        "id": row.event_id,
        "object": "webhook.delivery",
        "event": event,
        "created_at": row.created_at,
        "attempts": row.attempts,
        "next_attempt_at": row.next_attempt_at,
        "delivered_at": row.delivered_at,
        "last_error": row.last_error,
    })
}
