//! Answers kept for a repeated Idempotency-Key. A row is claimed first, without an answer, and gets one later; in one transaction
//! with what it answers, or, where that takes long, in two.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Query, first};

/// What a row is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose key it is: other owners' keys are others.
    pub owner: String,
    /// As the client sent it.
    pub key: String,
    /// Digest of the request: the same key may not come with another one.
    pub request_hash: String,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// Digest of the request that it answers.
    pub request_hash: String,
    /// Status of the answer; `None` while there is none.
    pub status: Option<i64>,
    /// JSON.
    pub headers: Option<String>,
    /// The body, as its owner stores it.
    pub body: Option<String>,
    /// Seconds since 1970.
    pub created_at: i64,
}

/// Claims the key, after forgetting a claim that was made before `expired` (seconds since 1970); where somebody else has it, what
/// they left. Waits for a transaction that has claimed the same key and has not ended.
pub async fn claim(
    connection: &mut AnyConnection,
    claim: &Claim,
    now: i64,
    expired: i64,
) -> Result<Option<StoredRow>, StoreError> {
    let doing = "claim an idempotency key";
    sqlx::query("DELETE FROM idempotency WHERE owner = $1 AND idempotency_key = $2 AND created_at < $3")
        .bind(claim.owner.clone())
        .bind(claim.key.clone())
        .bind(expired)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::sql(doing))?;
    let done = sqlx::query(
        "INSERT INTO idempotency (owner, idempotency_key, request_hash, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (owner, idempotency_key) DO NOTHING",
    )
    .bind(claim.owner.clone())
    .bind(claim.key.clone())
    .bind(claim.request_hash.clone())
    .bind(now)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::sql(doing))?;
    if done.rows_affected() == 1 {
        return Ok(None);
    }
    // Where the other one has given it back meanwhile, it was underway a moment ago: whoever asks again gets it.
    let gone =
        || StoredRow { request_hash: claim.request_hash.clone(), status: None, headers: None, body: None, created_at: now };
    Ok(Some(find(connection, &claim.owner, &claim.key).await?.unwrap_or_else(gone)))
}

/// What is kept for a key.
pub async fn find(connection: &mut AnyConnection, owner: &str, key: &str) -> Result<Option<StoredRow>, StoreError> {
    let stored = |row: &AnyRow| {
        Ok(StoredRow {
            request_hash: row.try_get(0)?,
            status: row.try_get(1)?,
            headers: row.try_get(2)?,
            body: row.try_get(3)?,
            created_at: row.try_get(4)?,
        })
    };
    let query =
        Query::new("SELECT request_hash, status, headers, body, created_at FROM idempotency WHERE").with(" owner = ?", owner);
    query.and("idempotency_key = ?", Some(key)).read(connection, "read an idempotency key", stored).await.map(first)
}

/// Keeps the answer.
pub async fn finish(
    connection: &mut AnyConnection,
    claim: &Claim,
    status: i64,
    headers: &str,
    body: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE idempotency SET status = $1, headers = $2, body = $3 WHERE owner = $4 AND idempotency_key = $5")
        .bind(status)
        .bind(headers.to_owned())
        .bind(body.to_owned())
        .bind(claim.owner.clone())
        .bind(claim.key.clone())
        .execute(connection)
        .await
        .map_err(StoreError::sql("keep an answer"))?;
    Ok(())
}

/// Gives a claim back: there will be no answer.
pub async fn release(connection: &mut AnyConnection, claim: &Claim) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM idempotency WHERE owner = $1 AND idempotency_key = $2 AND status IS NULL")
        .bind(claim.owner.clone())
        .bind(claim.key.clone())
        .execute(connection)
        .await
        .map_err(StoreError::sql("release an idempotency key"))?;
    Ok(())
}

/// Forgets everything from before a time (seconds since 1970). Returns how much that was.
pub async fn forget(connection: &mut AnyConnection, before: i64) -> Result<u64, StoreError> {
    let query = sqlx::query("DELETE FROM idempotency WHERE created_at < $1").bind(before);
    let done = query.execute(connection).await.map_err(StoreError::sql("forget old answers"))?;
    Ok(done.rows_affected())
}
