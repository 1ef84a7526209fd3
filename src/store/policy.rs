//! Everything that servers keep in memory to decide without asking the database: limits, permissions, budgets, prices, tenants.

use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::schemas::{SCHEMA, SchemaRow, schema};
use super::{Database, StoreError};

/// A row of `limits`; `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitRow {
    /// `default`, `project`, `key`.
    pub scope: String,
    /// Id of the project or key; `*` for the default.
    pub subject: String,
    /// A model's name; `*` is over all together.
    pub model: String,
    /// Requests per minute.
    pub requests_per_minute: Option<i64>,
    /// Requests at once.
    pub burst: Option<i64>,
    /// Tokens per minute.
    pub tokens_per_minute: Option<i64>,
    /// Requests that run or wait at the same time.
    pub concurrent_requests: Option<i64>,
    /// Counts changes.
    pub version: i64,
}

/// A row of `model_permissions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PermissionRow {
    /// The tenant.
    pub project_id: String,
    /// `allow_list`, `deny_list`.
    pub mode: String,
    /// JSON array of names.
    pub models: String,
    /// Counts changes.
    pub version: i64,
}

/// A row of `budgets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BudgetRow {
    /// `budget_...`
    pub id: String,
    /// `organization`, `project`, `key`.
    pub scope: String,
    /// Id of the project or key; `*` for the organization.
    pub subject: String,
    /// `day`, `month`, `total`.
    pub period: String,
    /// Nano-dollars.
    pub limit_nanos: i64,
    /// `hard`, `soft`.
    pub enforcement: String,
    /// Per cent between commas.
    pub thresholds: String,
    /// JSON, sent along with webhooks.
    pub notification: Option<String>,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Counts changes.
    pub version: i64,
}

/// A row of `prices`: nano-dollars per million tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PriceRow {
    /// `price_...`
    pub id: String,
    /// Id of a tenant; `*` is all.
    pub project_id: String,
    /// A model's name; `*` is all.
    pub model: String,
    /// Seconds since 1970.
    pub valid_from: i64,
    /// Of prompt tokens.
    pub input_nanos: i64,
    /// Of prompt tokens whose computation was reused.
    pub cached_input_nanos: i64,
    /// Of generated tokens.
    pub output_nanos: i64,
    /// Of tokens trained on.
    pub training_nanos: i64,
    /// Seconds since 1970.
    pub created_at: i64,
}

/// All of it, as of one revision or later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRows {
    /// The revision that was there before the rest was read.
    pub revision: i64,
    /// Tenants that may not do anything any more.
    pub archived: Vec<String>,
    /// Tenants that exist and are active.
    pub active: Vec<String>,
    /// Limits.
    pub limits: Vec<LimitRow>,
    /// Model permissions.
    pub permissions: Vec<PermissionRow>,
    /// Budgets.
    pub budgets: Vec<BudgetRow>,
    /// Prices.
    pub prices: Vec<PriceRow>,
    /// Schemas for `/convert`.
    pub schemas: Vec<SchemaRow>,
}

/// Reads it. The revision comes first: a change in between is seen as a newer revision at the next look.
pub async fn read(database: &Database) -> Result<PolicyRows, StoreError> {
    let revision = database.revision().await?;
    let pool = database.pool();
    let doing = "read the policy";
    let projects = sqlx::query("SELECT id, status FROM projects").fetch_all(pool).await.map_err(StoreError::sql(doing))?;
    let mut rows = PolicyRows { revision, ..PolicyRows::default() };
    for row in &projects {
        let (id, status) = (text(row, 0)?, text(row, 1)?);
        if status == "active" { rows.active.push(id) } else { rows.archived.push(id) }
    }
    let limits =
        "SELECT scope, subject, model, requests_per_minute, burst, tokens_per_minute, concurrent_requests, version FROM limits";
    for row in sqlx::query(limits).fetch_all(pool).await.map_err(StoreError::sql(doing))? {
        rows.limits.push(limit(&row).map_err(StoreError::sql(doing))?);
    }
    let permissions = "SELECT project_id, mode, models, version FROM model_permissions";
    for row in sqlx::query(permissions).fetch_all(pool).await.map_err(StoreError::sql(doing))? {
        rows.permissions.push(permission(&row).map_err(StoreError::sql(doing))?);
    }
    let budgets = "SELECT id, scope, subject, period, limit_nanos, enforcement, thresholds, notification, created_at, version \
                   FROM budgets ORDER BY created_at, id";
    for row in sqlx::query(budgets).fetch_all(pool).await.map_err(StoreError::sql(doing))? {
        rows.budgets.push(budget(&row).map_err(StoreError::sql(doing))?);
    }
    let prices = "SELECT id, project_id, model, valid_from, input_nanos, cached_input_nanos, output_nanos, training_nanos, \
                  created_at FROM prices ORDER BY valid_from, id";
    for row in sqlx::query(prices).fetch_all(pool).await.map_err(StoreError::sql(doing))? {
        rows.prices.push(price(&row).map_err(StoreError::sql(doing))?);
    }
    for row in sqlx::query(SCHEMA).fetch_all(pool).await.map_err(StoreError::sql(doing))? {
        rows.schemas.push(schema(&row).map_err(StoreError::sql(doing))?);
    }
    Ok(rows)
}

fn text(row: &AnyRow, column: usize) -> Result<String, StoreError> {
    row.try_get(column).map_err(StoreError::sql("read the policy"))
}

/// Columns in the order of the table.
pub(super) fn limit(row: &AnyRow) -> Result<LimitRow, sqlx::Error> {
    Ok(LimitRow {
        scope: row.try_get(0)?,
        subject: row.try_get(1)?,
        model: row.try_get(2)?,
        requests_per_minute: row.try_get(3)?,
        burst: row.try_get(4)?,
        tokens_per_minute: row.try_get(5)?,
        concurrent_requests: row.try_get(6)?,
        version: row.try_get(7)?,
    })
}

/// Columns in the order of the table.
pub(super) fn permission(row: &AnyRow) -> Result<PermissionRow, sqlx::Error> {
    Ok(PermissionRow { project_id: row.try_get(0)?, mode: row.try_get(1)?, models: row.try_get(2)?, version: row.try_get(3)? })
}

/// Columns in the order of the table.
pub(super) fn budget(row: &AnyRow) -> Result<BudgetRow, sqlx::Error> {
    Ok(BudgetRow {
        id: row.try_get(0)?,
        scope: row.try_get(1)?,
        subject: row.try_get(2)?,
        period: row.try_get(3)?,
        limit_nanos: row.try_get(4)?,
        enforcement: row.try_get(5)?,
        thresholds: row.try_get(6)?,
        notification: row.try_get(7)?,
        created_at: row.try_get(8)?,
        version: row.try_get(9)?,
    })
}

/// Columns in the order of the table.
pub(super) fn price(row: &AnyRow) -> Result<PriceRow, sqlx::Error> {
    Ok(PriceRow {
        id: row.try_get(0)?,
        project_id: row.try_get(1)?,
        model: row.try_get(2)?,
        valid_from: row.try_get(3)?,
        input_nanos: row.try_get(4)?,
        cached_input_nanos: row.try_get(5)?,
        output_nanos: row.try_get(6)?,
        training_nanos: row.try_get(7)?,
        created_at: row.try_get(8)?,
    })
}
