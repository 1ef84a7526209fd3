//! Rows of limits and of model permissions: single ones, for changes. `policy` reads all of them at once.

use sqlx::AnyConnection;

use super::StoreError;
use super::list::{Query, first};
use super::policy::{LimitRow, PermissionRow, limit, permission};

const LIMIT: &str = "SELECT scope, subject, model, requests_per_minute, burst, tokens_per_minute, concurrent_requests, version \
                     FROM limits WHERE 1 = 1";
const PERMISSION: &str = "SELECT project_id, mode, models, version FROM model_permissions WHERE ";

/// A limit.
pub async fn get(
    connection: &mut AnyConnection,
    scope: &str,
    subject: &str,
    model: &str,
) -> Result<Option<LimitRow>, StoreError> {
    let query = Query::new(LIMIT).and("scope = ?", Some(scope)).and("subject = ?", Some(subject));
    query.and("model = ?", Some(model)).read(connection, "read a limit", limit).await.map(first)
}

/// Limits, of one scope and subject where they are given.
pub async fn list(
    connection: &mut AnyConnection,
    scope: Option<&str>,
    subject: Option<&str>,
) -> Result<Vec<LimitRow>, StoreError> {
    let query = Query::new(LIMIT).and("scope = ?", scope).and("subject = ?", subject);
    query.then(" ORDER BY scope, subject, model").read(connection, "list limits", limit).await
}

/// Adds a limit, or replaces the one that has the version before this row's; false where that is not so any more.
pub async fn put(connection: &mut AnyConnection, row: &LimitRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO limits (scope, subject, model, requests_per_minute, burst, tokens_per_minute, concurrent_requests, version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (scope, subject, model) DO UPDATE SET \
         requests_per_minute = excluded.requests_per_minute, burst = excluded.burst, \
         tokens_per_minute = excluded.tokens_per_minute, concurrent_requests = excluded.concurrent_requests, \
         version = excluded.version WHERE limits.version = excluded.version - 1",
    )
    .bind(row.scope.clone())
    .bind(row.subject.clone())
    .bind(row.model.clone())
    .bind(row.requests_per_minute)
    .bind(row.burst)
    .bind(row.tokens_per_minute)
    .bind(row.concurrent_requests)
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("set a limit"))?;
    Ok(done.rows_affected() == 1)
}

/// Removes a limit; false where its version is not the row's any more.
pub async fn delete(connection: &mut AnyConnection, row: &LimitRow) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM limits WHERE scope = $1 AND subject = $2 AND model = $3 AND version = $4")
        .bind(row.scope.clone())
        .bind(row.subject.clone())
        .bind(row.model.clone())
        .bind(row.version)
        .execute(connection)
        .await
        .map_err(StoreError::sql("remove a limit"))?;
    Ok(done.rows_affected() == 1)
}

/// A tenant's model permissions.
pub async fn get_permission(connection: &mut AnyConnection, project_id: &str) -> Result<Option<PermissionRow>, StoreError> {
    let query = Query::new(PERMISSION).with("project_id = ?", project_id);
    query.read(connection, "read model permissions", permission).await.map(first)
}

/// Sets a tenant's model permissions, or replaces those that have the version before this row's; false where that is not so.
pub async fn put_permission(connection: &mut AnyConnection, row: &PermissionRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO model_permissions (project_id, mode, models, version) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (project_id) DO UPDATE SET mode = excluded.mode, models = excluded.models, version = excluded.version \
         WHERE model_permissions.version = excluded.version - 1",
    )
    .bind(row.project_id.clone())
    .bind(row.mode.clone())
    .bind(row.models.clone())
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("set model permissions"))?;
    Ok(done.rows_affected() == 1)
}

/// Removes a tenant's model permissions; false where their version is not the row's any more.
pub async fn delete_permission(connection: &mut AnyConnection, row: &PermissionRow) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM model_permissions WHERE project_id = $1 AND version = $2")
        .bind(row.project_id.clone())
        .bind(row.version)
        .execute(connection)
        .await
        .map_err(StoreError::sql("remove model permissions"))?;
    Ok(done.rows_affected() == 1)
}
