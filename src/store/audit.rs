//! Rows of the audit log: who changed what, from what, to what. Nothing here is ever changed or removed.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Listed, Page, Paging, Query};

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// `audit_...`
    pub id: String,
    /// Microseconds since 1970.
    pub at_micros: i64,
    /// Key id, or `cli`.
    pub actor: String,
    /// `project.created` and the like.
    pub action: String,
    /// What was changed.
    pub object_id: String,
    /// The tenant that it belongs to.
    pub project_id: Option<String>,
    /// JSON, without secrets.
    pub before: Option<String>,
    /// JSON, without secrets.
    pub after: Option<String>,
    /// Of the request.
    pub request_id: Option<String>,
}

/// Which changes; empty and `None` are any.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Who.
    pub actors: Vec<String>,
    /// What was done.
    pub actions: Vec<String>,
    /// To what.
    pub objects: Vec<String>,
    /// Of which tenants.
    pub projects: Vec<String>,
    /// From this time on, microseconds since 1970.
    pub from: Option<i64>,
    /// Before this time, microseconds since 1970.
    pub to: Option<i64>,
}

const AUDIT: &str =
    "SELECT id, at_micros, actor, action, object_id, project_id, before, after, request_id FROM audit WHERE 1 = 1";

fn audit(row: &AnyRow) -> Result<AuditRow, sqlx::Error> {
    Ok(AuditRow {
        id: row.try_get(0)?,
        at_micros: row.try_get(1)?,
        actor: row.try_get(2)?,
        action: row.try_get(3)?,
        object_id: row.try_get(4)?,
        project_id: row.try_get(5)?,
        before: row.try_get(6)?,
        after: row.try_get(7)?,
        request_id: row.try_get(8)?,
    })
}

/// Writes a change down.
pub async fn insert(connection: &mut AnyConnection, row: &AuditRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit (id, at_micros, actor, action, object_id, project_id, before, after, request_id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(row.id.clone())
    .bind(row.at_micros)
    .bind(row.actor.clone())
    .bind(row.action.clone())
    .bind(row.object_id.clone())
    .bind(row.project_id.clone())
    .bind(row.before.clone())
    .bind(row.after.clone())
    .bind(row.request_id.clone())
    .execute(connection)
    .await
    .map_err(StoreError::sql("write the audit log"))?;
    Ok(())
}

/// Changes in pages.
pub async fn list(connection: &mut AnyConnection, which: &Which, paging: &Paging) -> Result<Page<AuditRow>, StoreError> {
    let query = Query::new(AUDIT)
        .and_any("actor", &which.actors)
        .and_any("action", &which.actions)
        .and_any("object_id", &which.objects)
        .and_any("project_id", &which.projects)
        .and("at_micros >= ?", which.from)
        .and("at_micros < ?", which.to);
    let listed = Listed { table: "audit", prefix: "", time: "at_micros" };
    query.page(connection, &listed, paging, audit).await
}
