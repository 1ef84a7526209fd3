//! Rows of tenants and of their service accounts.

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Listed, Page, Paging, Query, first};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProjectRow {
    /// `proj_...`
    pub id: String,
    /// For people.
    pub name: String,
    /// `active`, `archived`.
    pub status: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub archived_at: Option<i64>,
    /// Counts changes.
    pub version: i64,
}

/// What keys of a program belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceAccountRow {
    /// `svc_acct_...`
    pub id: String,
    /// Its tenant.
    pub project_id: String,
    /// For people.
    pub name: String,
    /// `member`, `owner`, `none`.
    pub role: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub deleted_at: Option<i64>,
    /// Counts changes.
    pub version: i64,
}

/// Which tenants are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projects {
    /// Those that can be used.
    Active,
    /// Archived ones, too.
    All,
}

const PROJECT: &str = "SELECT id, name, status, created_at, archived_at, version FROM projects WHERE ";
const ACCOUNT: &str =
    "SELECT id, project_id, name, role, created_at, deleted_at, version FROM service_accounts WHERE deleted_at IS NULL";

fn project(row: &AnyRow) -> Result<ProjectRow, sqlx::Error> {
    Ok(ProjectRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        status: row.try_get(2)?,
        created_at: row.try_get(3)?,
        archived_at: row.try_get(4)?,
        version: row.try_get(5)?,
    })
}

fn account(row: &AnyRow) -> Result<ServiceAccountRow, sqlx::Error> {
    Ok(ServiceAccountRow {
        id: row.try_get(0)?,
        project_id: row.try_get(1)?,
        name: row.try_get(2)?,
        role: row.try_get(3)?,
        created_at: row.try_get(4)?,
        deleted_at: row.try_get(5)?,
        version: row.try_get(6)?,
    })
}

/// A tenant.
pub async fn get(connection: &mut AnyConnection, id: &str) -> Result<Option<ProjectRow>, StoreError> {
    Query::new(PROJECT).with("id = ?", id).read(connection, "read a project", project).await.map(first)
}

/// Tenants.
pub async fn list(connection: &mut AnyConnection, which: Projects, paging: &Paging) -> Result<Page<ProjectRow>, StoreError> {
    let condition = match which {
        Projects::Active => "status = 'active'",
        Projects::All => "1 = 1",
    };
    let listed = Listed { table: "projects", prefix: "", time: "created_at" };
    Query::new(PROJECT).then(condition).page(connection, &listed, paging, project).await
}

/// Adds a tenant.
pub async fn insert(connection: &mut AnyConnection, row: &ProjectRow) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO projects (id, name, status, created_at, archived_at, version) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(row.id.clone())
        .bind(row.name.clone())
        .bind(row.status.clone())
        .bind(row.created_at)
        .bind(row.archived_at)
        .bind(row.version)
        .execute(connection)
        .await
        .map_err(StoreError::sql("add a project"))?;
    Ok(())
}

/// Changes a tenant; false where its version is not the row's any more. The version is counted up.
pub async fn update(connection: &mut AnyConnection, row: &ProjectRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE projects SET name = $1, status = $2, archived_at = $3, version = version + 1 WHERE id = $4 AND version = $5",
    )
    .bind(row.name.clone())
    .bind(row.status.clone())
    .bind(row.archived_at)
    .bind(row.id.clone())
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("change a project"))?;
    Ok(done.rows_affected() == 1)
}

/// A service account of a tenant that was not deleted.
pub async fn get_account(
    connection: &mut AnyConnection,
    project_id: &str,
    id: &str,
) -> Result<Option<ServiceAccountRow>, StoreError> {
    let query = Query::new(ACCOUNT).and("project_id = ?", Some(project_id)).and("id = ?", Some(id));
    query.read(connection, "read a service account", account).await.map(first)
}

/// Service accounts of a tenant.
pub async fn list_accounts(
    connection: &mut AnyConnection,
    project_id: &str,
    paging: &Paging,
) -> Result<Page<ServiceAccountRow>, StoreError> {
    let listed = Listed { table: "service_accounts", prefix: "", time: "created_at" };
    Query::new(ACCOUNT).and("project_id = ?", Some(project_id)).page(connection, &listed, paging, account).await
}

/// Adds a service account.
pub async fn insert_account(connection: &mut AnyConnection, row: &ServiceAccountRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO service_accounts (id, project_id, name, role, created_at, deleted_at, version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(row.id.clone())
    .bind(row.project_id.clone())
    .bind(row.name.clone())
    .bind(row.role.clone())
    .bind(row.created_at)
    .bind(row.deleted_at)
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a service account"))?;
    Ok(())
}

/// Changes a service account; false where its version is not the row's any more. The version is counted up.
pub async fn update_account(connection: &mut AnyConnection, row: &ServiceAccountRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE service_accounts SET name = $1, role = $2, deleted_at = $3, version = version + 1 WHERE id = $4 AND version = $5",
    )
    .bind(row.name.clone())
    .bind(row.role.clone())
    .bind(row.deleted_at)
    .bind(row.id.clone())
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("change a service account"))?;
    Ok(done.rows_affected() == 1)
}
