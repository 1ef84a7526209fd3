//! Rows of adapters that replicas share: what is remembered of each, as its room writes it, and the counter of changes.

use sqlx::{AnyConnection, Row};

use super::StoreError;

/// An adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterRow {
    /// A project's id; empty is shared.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// JSON; empty where nothing is remembered any more.
    pub record: String,
    /// The counter of changes of all adapters, at its last one.
    pub counter: i64,
}

/// Bounds the waits of a change: for others who change something, and of the others for this one. Of PostgreSQL alone.
pub async fn bound(connection: &mut AnyConnection) -> Result<(), StoreError> {
    for bound in ["SET LOCAL lock_timeout = '15s'", "SET LOCAL idle_in_transaction_session_timeout = '60s'"] {
        sqlx::query(bound).execute(&mut *connection).await.map_err(StoreError::sql("bound a change of adapters"))?;
    }
    Ok(())
}

/// Counts a change. Whoever counts first in a transaction makes the others wait for its end: changes happen one after the other.
pub async fn count(connection: &mut AnyConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("UPDATE revisions SET value = value + 1 WHERE name = 'adapters' RETURNING value")
        .fetch_one(connection)
        .await
        .map_err(StoreError::sql("count a change of adapters"))
}

/// How many changes there were, by any process.
pub async fn counter(connection: &mut AnyConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("SELECT value FROM revisions WHERE name = 'adapters'")
        .fetch_one(connection)
        .await
        .map_err(StoreError::sql("read the count of changes of adapters"))
}

/// Adapters whose last change came after a count.
pub async fn changed_since(connection: &mut AnyConnection, counter: i64) -> Result<Vec<AdapterRow>, StoreError> {
    let doing = "read adapters";
    let query =
        sqlx::query("SELECT owner, name, record, counter FROM adapters WHERE counter > $1 ORDER BY counter").bind(counter);
    let rows = query.fetch_all(connection).await.map_err(StoreError::sql(doing))?;
    let row = |row: &sqlx::any::AnyRow| {
        Ok(AdapterRow { owner: row.try_get(0)?, name: row.try_get(1)?, record: row.try_get(2)?, counter: row.try_get(3)? })
    };
    rows.iter().map(row).collect::<Result<_, sqlx::Error>>().map_err(StoreError::sql(doing))
}

/// Writes an adapter's row, new or not.
pub async fn put(connection: &mut AnyConnection, row: &AdapterRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO adapters (owner, name, record, counter) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (owner, name) DO UPDATE SET record = excluded.record, counter = excluded.counter",
    )
    .bind(row.owner.clone())
    .bind(row.name.clone())
    .bind(row.record.clone())
    .bind(row.counter)
    .execute(connection)
    .await
    .map_err(StoreError::sql("write an adapter"))?;
    Ok(())
}
