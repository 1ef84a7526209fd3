//! Rows of kept answers of `/v1/responses`. What stands in them is not looked at here.

use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Query, first};

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseRow {
    /// `resp_...`
    pub id: String,
    /// The tenant.
    pub project_id: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Encrypted JSON.
    pub sealed: String,
}

/// Adds a row.
pub async fn insert(connection: &mut AnyConnection, row: &ResponseRow) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO responses (id, project_id, created_at, sealed) VALUES ($1, $2, $3, $4)")
        .bind(row.id.clone())
        .bind(row.project_id.clone())
        .bind(row.created_at)
        .bind(row.sealed.clone())
        .execute(connection)
        .await
        .map_err(StoreError::sql("keep a response"))?;
    Ok(())
}

/// A tenant's row that is not older than `since` (seconds since 1970).
pub async fn get(
    connection: &mut AnyConnection,
    project_id: &str,
    id: &str,
    since: i64,
) -> Result<Option<ResponseRow>, StoreError> {
    let query = Query::new("SELECT id, project_id, created_at, sealed FROM responses WHERE 1 = 1")
        .and("project_id = ?", Some(project_id))
        .and("id = ?", Some(id))
        .and("created_at >= ?", Some(since));
    let row = query.read(connection, "read a response", |row| {
        Ok(ResponseRow { id: row.try_get(0)?, project_id: row.try_get(1)?, created_at: row.try_get(2)?, sealed: row.try_get(3)? })
    });
    row.await.map(first)
}

/// Removes a tenant's row that is not older than `since`; false where there is none.
pub async fn remove(connection: &mut AnyConnection, project_id: &str, id: &str, since: i64) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM responses WHERE project_id = $1 AND id = $2 AND created_at >= $3")
        .bind(project_id.to_owned())
        .bind(id.to_owned())
        .bind(since);
    let done = query.execute(connection).await.map_err(StoreError::sql("delete a response"))?;
    Ok(done.rows_affected() > 0)
}

/// Forgets rows from before a time (seconds since 1970); returns how many.
pub async fn forget(connection: &mut AnyConnection, before: i64) -> Result<u64, StoreError> {
    let query = sqlx::query("DELETE FROM responses WHERE created_at < $1").bind(before);
    let done = query.execute(connection).await.map_err(StoreError::sql("forget responses"))?;
    Ok(done.rows_affected())
}
