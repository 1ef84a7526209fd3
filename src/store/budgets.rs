//! Rows of budgets: single ones and lists, for changes. `policy` reads all of them at once.

use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Listed, Page, Paging, Query, first};
use super::policy::{BudgetRow, budget};

const BUDGET: &str = "SELECT id, scope, subject, period, limit_nanos, enforcement, thresholds, notification, created_at, version \
                      FROM budgets WHERE 1 = 1";

/// Which budgets; `None` is any.
#[derive(Debug, Clone, Copy, Default)]
pub struct Which<'a> {
    /// `organization`, `project`, `key`.
    pub scope: Option<&'a str>,
    /// Id of the project or key, `*` for the organization.
    pub subject: Option<&'a str>,
    /// `day`, `month`, `total`.
    pub period: Option<&'a str>,
    /// `hard`, `soft`.
    pub enforcement: Option<&'a str>,
}

impl Which<'_> {
    fn query(self) -> Query {
        let query = Query::new(BUDGET).and("scope = ?", self.scope).and("subject = ?", self.subject);
        query.and("period = ?", self.period).and("enforcement = ?", self.enforcement)
    }
}

/// A budget.
pub async fn get(connection: &mut AnyConnection, id: &str) -> Result<Option<BudgetRow>, StoreError> {
    Query::new(BUDGET).and("id = ?", Some(id)).read(connection, "read a budget", budget).await.map(first)
}

/// The budgets that are meant.
pub async fn find(connection: &mut AnyConnection, which: Which<'_>) -> Result<Vec<BudgetRow>, StoreError> {
    which.query().then(" ORDER BY created_at, id").read(connection, "read budgets", budget).await
}

/// Budgets in pages.
pub async fn list(connection: &mut AnyConnection, which: Which<'_>, paging: &Paging) -> Result<Page<BudgetRow>, StoreError> {
    let listed = Listed { table: "budgets", prefix: "", time: "created_at" };
    which.query().page(connection, &listed, paging, budget).await
}

/// Adds a budget.
pub async fn insert(connection: &mut AnyConnection, row: &BudgetRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO budgets (id, scope, subject, period, limit_nanos, enforcement, thresholds, notification, created_at, version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(row.id.clone())
    .bind(row.scope.clone())
    .bind(row.subject.clone())
    .bind(row.period.clone())
    .bind(row.limit_nanos)
    .bind(row.enforcement.clone())
    .bind(row.thresholds.clone())
    .bind(row.notification.clone())
    .bind(row.created_at)
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a budget"))?;
    Ok(())
}

/// Changes a budget; false where its version is not the row's any more. The version is counted up.
pub async fn update(connection: &mut AnyConnection, row: &BudgetRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE budgets SET period = $1, limit_nanos = $2, enforcement = $3, thresholds = $4, notification = $5, \
         version = version + 1 WHERE id = $6 AND version = $7",
    )
    .bind(row.period.clone())
    .bind(row.limit_nanos)
    .bind(row.enforcement.clone())
    .bind(row.thresholds.clone())
    .bind(row.notification.clone())
    .bind(row.id.clone())
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("change a budget"))?;
    Ok(done.rows_affected() == 1)
}

/// Removes a budget; false where its version is not the row's any more.
pub async fn delete(connection: &mut AnyConnection, row: &BudgetRow) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM budgets WHERE id = $1 AND version = $2").bind(row.id.clone()).bind(row.version);
    let done = query.execute(connection).await.map_err(StoreError::sql("remove a budget"))?;
    Ok(done.rows_affected() == 1)
}

/// What was spent from an hour (since 1970) on, nano-dollars: by a project, by a key, or by all (`organization`).
pub async fn spent(connection: &mut AnyConnection, scope: &str, subject: &str, first_hour: i64) -> Result<i64, StoreError> {
    let query =
        Query::new("SELECT CAST(COALESCE(SUM(cost_nanos), 0) AS BIGINT) FROM usage_hours WHERE").with(" hour >= ?", first_hour);
    let query = match scope {
        "project" => query.and("project_id = ?", Some(subject)),
        "key" => query.and("key_id = ?", Some(subject)),
        _ => query,
    };
    let sum = query.read(connection, "read what was spent", |row| row.try_get(0)).await?;
    Ok(first(sum).unwrap_or(0))
}
