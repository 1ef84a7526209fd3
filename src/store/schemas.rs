//! Rows of the schemas that tenants have for `/convert`. `policy` reads all of them at once; what stands in them is not looked at here.

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Query, first};

/// A schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaRow {
    /// The tenant.
    pub project_id: String,
    /// Its name.
    pub name: String,
    /// JSON.
    pub spec: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub updated_at: i64,
    /// Counts changes.
    pub version: i64,
}

/// All of them, for `policy`.
pub(super) const SCHEMA: &str = "SELECT project_id, name, spec, created_at, updated_at, version FROM convert_schemas WHERE 1 = 1";

/// Columns in the order of the table.
pub(super) fn schema(row: &AnyRow) -> Result<SchemaRow, sqlx::Error> {
    Ok(SchemaRow {
        project_id: row.try_get(0)?,
        name: row.try_get(1)?,
        spec: row.try_get(2)?,
        created_at: row.try_get(3)?,
        updated_at: row.try_get(4)?,
        version: row.try_get(5)?,
    })
}

/// A tenant's schema.
pub async fn get(connection: &mut AnyConnection, project_id: &str, name: &str) -> Result<Option<SchemaRow>, StoreError> {
    let query = Query::new(SCHEMA).and("project_id = ?", Some(project_id)).and("name = ?", Some(name));
    query.read(connection, "read a schema", schema).await.map(first)
}

/// A tenant's schemas, by name.
pub async fn list(connection: &mut AnyConnection, project_id: &str) -> Result<Vec<SchemaRow>, StoreError> {
    let query = Query::new(SCHEMA).and("project_id = ?", Some(project_id)).then(" ORDER BY name");
    query.read(connection, "list schemas", schema).await
}

/// Adds a schema, or replaces the one that has the version before this row's; false where that is not so any more.
pub async fn put(connection: &mut AnyConnection, row: &SchemaRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO convert_schemas (project_id, name, spec, created_at, updated_at, version) VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (project_id, name) DO UPDATE SET spec = excluded.spec, updated_at = excluded.updated_at, \
         version = excluded.version WHERE convert_schemas.version = excluded.version - 1",
    )
    .bind(row.project_id.clone())
    .bind(row.name.clone())
    .bind(row.spec.clone())
    .bind(row.created_at)
    .bind(row.updated_at)
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("set a schema"))?;
    Ok(done.rows_affected() == 1)
}

/// Removes a schema; false where its version is not the row's any more.
pub async fn delete(connection: &mut AnyConnection, row: &SchemaRow) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM convert_schemas WHERE project_id = $1 AND name = $2 AND version = $3")
        .bind(row.project_id.clone())
        .bind(row.name.clone())
        .bind(row.version)
        .execute(connection)
        .await
        .map_err(StoreError::sql("remove a schema"))?;
    Ok(done.rows_affected() == 1)
}
