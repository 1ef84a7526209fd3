//! `/admin/limits`: limits of projects, of keys, and of projects without one of their own (`default/*`). `null` is no limit.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, Halt, Looking, changed, done, found};
use super::list;
use crate::http::error::ApiError;
use crate::tenants::admin::limits::{self, Amounts, MOST, Place};
use crate::tenants::admin::{LimitRow, Page};

type Parts = (String, String, String);

/// `GET /admin/limits`
pub async fn list_all(mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let scopes = [("default", "default"), ("project", "project"), ("key", "key")];
    let scope = looking.query.word("scope", &scopes)?;
    let subject = looking.query.text("subject")?;
    let server = looking.without_parameters()?;
    let rows = limits::list(server.tenants().office(), scope, subject.as_deref()).await?;
    Ok(list(&Page { rows, has_more: false }, render))
}

/// `GET /admin/limits/{scope}/{subject}/{model}`
pub async fn retrieve(Path(parts): Path<Parts>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = limits::get(server.tenants().office(), &place(parts)).await?;
    Ok(found(&render(&row), row.version))
}

/// `PUT /admin/limits/{scope}/{subject}/{model}`: all of the limit; what is left out is not limited.
pub async fn set(Path(parts): Path<Parts>, changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let mut amount = |name| fields.integer(name, 0..=MOST);
    let amounts = Amounts {
        requests_per_minute: amount("requests_per_minute")?,
        burst: amount("burst")?,
        tokens_per_minute: amount("tokens_per_minute")?,
        concurrent_requests: amount("concurrent_requests")?,
    };
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let row = limits::put(&mut change, &place(parts), amounts).await?;
    changed(change, &render(&row), row.version).await
}

/// `DELETE /admin/limits/{scope}/{subject}/{model}`
pub async fn remove(Path(parts): Path<Parts>, changing: Changing) -> Result<Response, Halt> {
    let place = place(parts);
    let mut change = changing.without_fields()?.begin().await?;
    limits::delete(&mut change, &place).await?;
    let object = json!({
        "object": "limit.deleted", "scope": place.scope, "subject": place.subject, "model": place.model, "deleted": true,
    });
    done(change, &object).await
}

fn place((scope, subject, model): Parts) -> Place {
    Place { scope, subject, model }
}

fn render(row: &LimitRow) -> Value {
    json!({
        "id": format!("{}/{}/{}", row.scope, row.subject, row.model),
        "object": "limit",
        "scope": row.scope,
        "subject": row.subject,
        "model": row.model,
        "requests_per_minute": row.requests_per_minute,
        "burst": row.burst,
        "tokens_per_minute": row.tokens_per_minute,
        "concurrent_requests": row.concurrent_requests,
    })
}
