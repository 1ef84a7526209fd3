//! Rows of webhooks, and of what is to be sent to them.

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Listed, Page, Paging, Query, first};

/// Where events are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WebhookRow {
    /// `wh_...`
    pub id: String,
    /// The tenant whose events it gets; `None` is everything.
    pub project_id: Option<String>,
    /// Address.
    pub url: String,
    /// The signing secret, encrypted.
    #[serde(skip)]
    pub sealed_secret: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Counts changes.
    pub version: i64,
}

/// An event on its way to a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Of the event.
    pub event_id: String,
    /// Of the webhook.
    pub webhook_id: String,
    /// JSON.
    pub body: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// How often it was tried.
    pub attempts: i64,
    /// Seconds since 1970; `None`: delivered or given up.
    pub next_attempt_at: Option<i64>,
    /// Seconds since 1970.
    pub delivered_at: Option<i64>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

const WEBHOOK: &str = "SELECT id, project_id, url, sealed_secret, created_at, version FROM webhooks WHERE 1 = 1";
const DELIVERY: &str = "SELECT event_id, webhook_id, body, created_at, attempts, next_attempt_at, delivered_at, last_error \
                        FROM deliveries WHERE 1 = 1";

fn webhook(row: &AnyRow) -> Result<WebhookRow, sqlx::Error> {
    Ok(WebhookRow {
        id: row.try_get(0)?,
        project_id: row.try_get(1)?,
        url: row.try_get(2)?,
        sealed_secret: row.try_get(3)?,
        created_at: row.try_get(4)?,
        version: row.try_get(5)?,
    })
}

fn delivery(row: &AnyRow) -> Result<DeliveryRow, sqlx::Error> {
    Ok(DeliveryRow {
        event_id: row.try_get(0)?,
        webhook_id: row.try_get(1)?,
        body: row.try_get(2)?,
        created_at: row.try_get(3)?,
        attempts: row.try_get(4)?,
        next_attempt_at: row.try_get(5)?,
        delivered_at: row.try_get(6)?,
        last_error: row.try_get(7)?,
    })
}

/// A webhook.
pub async fn get(connection: &mut AnyConnection, id: &str) -> Result<Option<WebhookRow>, StoreError> {
    Query::new(WEBHOOK).and("id = ?", Some(id)).read(connection, "read a webhook", webhook).await.map(first)
}

/// Webhooks in pages, of a project where it is given.
pub async fn list(
    connection: &mut AnyConnection,
    project_id: Option<&str>,
    paging: &Paging,
) -> Result<Page<WebhookRow>, StoreError> {
    let listed = Listed { table: "webhooks", prefix: "", time: "created_at" };
    Query::new(WEBHOOK).and("project_id = ?", project_id).page(connection, &listed, paging, webhook).await
}

/// Ids of the webhooks that get events of a project, or of the organization as a whole (`None`).
pub async fn listening(connection: &mut AnyConnection, project_id: Option<&str>) -> Result<Vec<String>, StoreError> {
    let query = match project_id {
        Some(project) => Query::new("SELECT id FROM webhooks WHERE project_id IS NULL").with(" OR project_id = ?", project),
        None => Query::new("SELECT id FROM webhooks WHERE project_id IS NULL"),
    };
    query.read(connection, "read webhooks", |row| row.try_get(0)).await
}

/// Adds a webhook.
pub async fn insert(connection: &mut AnyConnection, row: &WebhookRow) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO webhooks (id, project_id, url, sealed_secret, created_at, version) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(row.id.clone())
        .bind(row.project_id.clone())
        .bind(row.url.clone())
        .bind(row.sealed_secret.clone())
        .bind(row.created_at)
        .bind(row.version)
        .execute(connection)
        .await
        .map_err(StoreError::sql("add a webhook"))?;
    Ok(())
}

/// Changes address and secret of a webhook; false where its version is not the row's any more. The version is counted up.
pub async fn update(connection: &mut AnyConnection, row: &WebhookRow) -> Result<bool, StoreError> {
    let done =
        sqlx::query("UPDATE webhooks SET url = $1, sealed_secret = $2, version = version + 1 WHERE id = $3 AND version = $4")
            .bind(row.url.clone())
            .bind(row.sealed_secret.clone())
            .bind(row.id.clone())
            .bind(row.version)
            .execute(connection)
            .await
            .map_err(StoreError::sql("change a webhook"))?;
    Ok(done.rows_affected() == 1)
}

/// Removes a webhook and what was to be sent to it; false where its version is not the row's any more.
pub async fn delete(connection: &mut AnyConnection, row: &WebhookRow) -> Result<bool, StoreError> {
    let doing = "remove a webhook";
    let query = sqlx::query("DELETE FROM webhooks WHERE id = $1 AND version = $2").bind(row.id.clone()).bind(row.version);
    let done = query.execute(&mut *connection).await.map_err(StoreError::sql(doing))?;
    if done.rows_affected() != 1 {
        return Ok(false);
    }
    let query = sqlx::query("DELETE FROM deliveries WHERE webhook_id = $1").bind(row.id.clone());
    query.execute(connection).await.map_err(StoreError::sql(doing))?;
    Ok(true)
}

/// Plans to send an event; false where that is planned or done already.
pub async fn plan(connection: &mut AnyConnection, row: &DeliveryRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO deliveries (event_id, webhook_id, body, created_at, attempts, next_attempt_at, delivered_at, last_error) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (event_id, webhook_id) DO NOTHING",
    )
    .bind(row.event_id.clone())
    .bind(row.webhook_id.clone())
    .bind(row.body.clone())
    .bind(row.created_at)
    .bind(row.attempts)
    .bind(row.next_attempt_at)
    .bind(row.delivered_at)
    .bind(row.last_error.clone())
    .execute(connection)
    .await
    .map_err(StoreError::sql("plan a delivery"))?;
    Ok(done.rows_affected() == 1)
}

/// What is to be sent by now, the longest due first.
pub async fn due(connection: &mut AnyConnection, now: i64, limit: i64) -> Result<Vec<DeliveryRow>, StoreError> {
    let query = Query::new(DELIVERY).and("next_attempt_at <= ?", Some(now));
    query.with(" ORDER BY next_attempt_at LIMIT ?", limit).read(connection, "read deliveries", delivery).await
}

/// Deliveries to a webhook, the newest first.
pub async fn deliveries(connection: &mut AnyConnection, webhook_id: &str, limit: i64) -> Result<Vec<DeliveryRow>, StoreError> {
    let query = Query::new(DELIVERY).and("webhook_id = ?", Some(webhook_id));
    query.with(" ORDER BY created_at DESC, event_id DESC LIMIT ?", limit).read(connection, "read deliveries", delivery).await
}

/// Writes down how an attempt went, or that one is being made; false where another process was faster.
pub async fn note(connection: &mut AnyConnection, row: &DeliveryRow, attempts_before: i64) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE deliveries SET attempts = $1, next_attempt_at = $2, delivered_at = $3, last_error = $4 \
         WHERE event_id = $5 AND webhook_id = $6 AND attempts = $7 AND delivered_at IS NULL",
    )
    .bind(row.attempts)
    .bind(row.next_attempt_at)
    .bind(row.delivered_at)
    .bind(row.last_error.clone())
    .bind(row.event_id.clone())
    .bind(row.webhook_id.clone())
    .bind(attempts_before)
    .execute(connection)
    .await
    .map_err(StoreError::sql("note a delivery"))?;
    Ok(done.rows_affected() == 1)
}

/// Forgets deliveries that are done and were planned before this time, except those of budgets without an end, whose period begins
/// at 0: they could be reported again. Returns how many.
pub async fn forget(connection: &mut AnyConnection, before: i64) -> Result<u64, StoreError> {
    let query =
        sqlx::query("DELETE FROM deliveries WHERE next_attempt_at IS NULL AND created_at < $1 AND event_id NOT LIKE '%:0:%'");
    let done = query.bind(before).execute(connection).await.map_err(StoreError::sql("forget deliveries"))?;
    Ok(done.rows_affected())
}
