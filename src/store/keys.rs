//! Rows of keys. Knows hashes, never keys, and no rule about who may do what.

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::list::{Listed, Page, Paging, Query, first};
use super::{Database, StoreError};

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyRow {
    /// `key_...`, or `admin` for the first one.
    pub id: String,
    /// Its tenant; `None` is the organization.
    pub project_id: Option<String>,
    /// The service account that it belongs to.
    pub service_account_id: Option<String>,
    /// For people.
    pub name: String,
    /// Keyed hash, hexadecimal.
    #[serde(skip)]
    pub hash: String,
    /// What may be shown of it.
    pub redacted: String,
    /// Names between commas.
    pub scopes: String,
    /// JSON array of names; `None` is all.
    pub models: Option<String>,
    /// JSON object.
    pub labels: String,
    /// `batch`, `standard`, `high`.
    pub priority: String,
    /// `per_request`, `always`.
    pub caching: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970, from which on it is refused.
    pub expires_at: Option<i64>,
    /// Seconds since 1970.
    pub revoked_at: Option<i64>,
    /// Seconds since 1970, written now and then.
    pub last_used_at: Option<i64>,
    /// The key that it was rotated from.
    pub replaces: Option<String>,
    /// Counts changes.
    pub version: i64,
    #[serde(skip)]
    /// Whether its tenant is active; keys of the organization have none to ask.
    pub project_active: bool,
}

const COLUMNS: &str = "SELECT k.id, k.project_id, k.service_account_id, k.name, k.hash, k.redacted, k.scopes, k.models, k.labels, \
                       k.priority, k.caching, k.created_at, k.expires_at, k.revoked_at, k.last_used_at, k.replaces, k.version, \
                       p.status FROM keys k LEFT JOIN projects p ON p.id = k.project_id ";

fn row(row: &AnyRow) -> Result<KeyRow, sqlx::Error> {
    let status: Option<String> = row.try_get(17)?;
    Ok(KeyRow {
        id: row.try_get(0)?,
        project_id: row.try_get(1)?,
        service_account_id: row.try_get(2)?,
        name: row.try_get(3)?,
        hash: row.try_get(4)?,
        redacted: row.try_get(5)?,
        scopes: row.try_get(6)?,
        models: row.try_get(7)?,
        labels: row.try_get(8)?,
        priority: row.try_get(9)?,
        caching: row.try_get(10)?,
        created_at: row.try_get(11)?,
        expires_at: row.try_get(12)?,
        revoked_at: row.try_get(13)?,
        last_used_at: row.try_get(14)?,
        replaces: row.try_get(15)?,
        version: row.try_get(16)?,
        project_active: status.is_none_or(|status| status == "active"),
    })
}

/// Which keys are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysOf<'a> {
    /// All of them.
    Everybody,
    /// Of the organization.
    Organization,
    /// Of a tenant.
    Project(&'a str),
    /// Of a service account.
    ServiceAccount(&'a str),
}

/// The key with this hash.
pub async fn by_hash(database: &Database, hash: &str) -> Result<Option<KeyRow>, StoreError> {
    one(database, "k.hash = $1", hash).await
}

/// The key with this id.
pub async fn by_id(database: &Database, id: &str) -> Result<Option<KeyRow>, StoreError> {
    one(database, "k.id = $1", id).await
}

async fn one(database: &Database, condition: &'static str, value: &str) -> Result<Option<KeyRow>, StoreError> {
    let doing = StoreError::sql("read a key");
    // Put together from texts of this file only.
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE {condition}"));
    let found = match sqlx::query(sql).bind(value.to_owned()).fetch_optional(database.pool()).await {
        Ok(found) => found.as_ref().map(row).transpose(),
        Err(error) => Err(error),
    };
    found.map_err(doing)
}

/// The key with this id, as this transaction sees it.
pub async fn get(connection: &mut AnyConnection, id: &str) -> Result<Option<KeyRow>, StoreError> {
    Query::new(COLUMNS).then("WHERE").with(" k.id = ?", id).read(connection, "read a key", row).await.map(first)
}

/// Keys that are not revoked.
pub async fn list(connection: &mut AnyConnection, of: KeysOf<'_>, paging: &Paging) -> Result<Page<KeyRow>, StoreError> {
    let query = Query::new(COLUMNS).then("WHERE k.revoked_at IS NULL");
    let query = match of {
        KeysOf::Everybody => query,
        KeysOf::Organization => query.then(" AND k.project_id IS NULL"),
        KeysOf::Project(id) => query.and("k.project_id = ?", Some(id)),
        KeysOf::ServiceAccount(id) => query.and("k.service_account_id = ?", Some(id)),
    };
    query.page(connection, &Listed { table: "keys", prefix: "k.", time: "created_at" }, paging, row).await
}

/// Adds a key.
pub async fn insert(connection: &mut AnyConnection, key: &KeyRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO keys (id, project_id, service_account_id, name, hash, redacted, scopes, models, labels, priority, caching, \
         created_at, expires_at, revoked_at, last_used_at, replaces, version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    )
    .bind(key.id.clone())
    .bind(key.project_id.clone())
    .bind(key.service_account_id.clone())
    .bind(key.name.clone())
    .bind(key.hash.clone())
    .bind(key.redacted.clone())
    .bind(key.scopes.clone())
    .bind(key.models.clone())
    .bind(key.labels.clone())
    .bind(key.priority.clone())
    .bind(key.caching.clone())
    .bind(key.created_at)
    .bind(key.expires_at)
    .bind(key.revoked_at)
    .bind(key.last_used_at)
    .bind(key.replaces.clone())
    .bind(key.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a key"))?;
    Ok(())
}

/// Changes everything of a key that can change; false where it is gone or has another version than the row's (compare-and-set).
/// The row's version is counted up.
pub async fn update(connection: &mut AnyConnection, key: &KeyRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE keys SET name = $1, hash = $2, redacted = $3, scopes = $4, models = $5, labels = $6, priority = $7, \
         caching = $8, expires_at = $9, revoked_at = $10, version = version + 1 WHERE id = $11 AND version = $12",
    )
    .bind(key.name.clone())
    .bind(key.hash.clone())
    .bind(key.redacted.clone())
    .bind(key.scopes.clone())
    .bind(key.models.clone())
    .bind(key.labels.clone())
    .bind(key.priority.clone())
    .bind(key.caching.clone())
    .bind(key.expires_at)
    .bind(key.revoked_at)
    .bind(key.id.clone())
    .bind(key.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("change a key"))?;
    Ok(done.rows_affected() == 1)
}

/// Whether a key that is not revoked was made in this one's place.
pub async fn has_successor(database: &Database, id: &str) -> Result<bool, StoreError> {
    let query = sqlx::query("SELECT id FROM keys WHERE replaces = $1 AND revoked_at IS NULL").bind(id.to_owned());
    let found = query.fetch_optional(database.pool()).await.map_err(StoreError::sql("look for a key's successor"))?;
    Ok(found.is_some())
}

/// Notes when keys were used last.
pub async fn touch(connection: &mut AnyConnection, id: &str, at: i64) -> Result<(), StoreError> {
    let query = sqlx::query("UPDATE keys SET last_used_at = $1 WHERE id = $2 AND (last_used_at IS NULL OR last_used_at < $1)");
    query.bind(at).bind(id.to_owned()).execute(connection).await.map_err(StoreError::sql("note a key's use"))?;
    Ok(())
}
