//! Rows of shadow answers: what was said to somebody, and what the silent candidate would have said.

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Listed, Page, Paging, Query, number};

/// Microseconds of a second.
const MICROS: i64 = 1_000_000;

/// Both answers to one prompt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ShadowRow {
    /// `shadow_...`
    pub id: String,
    /// Microseconds since 1970.
    #[serde(skip)]
    pub at_micros: i64,
    /// Owner of the deployment: a project's id; empty is shared.
    #[serde(skip)]
    pub owner: String,
    /// Name of the deployment.
    #[serde(skip)]
    pub deployment: String,
    /// The silent model, as the deployment names it.
    pub model: String,
    /// Of the request that was copied.
    pub request_id: String,
    /// The tenant that asked.
    pub project_id: String,
    /// SHA-256 of the prompt's tokens.
    pub prompt_digest: String,
    /// The arm that answered.
    pub arm: String,
    /// The version that answered.
    pub version: String,
    /// The silent one.
    pub shadow_version: String,
    /// What was said.
    pub text: String,
    /// What would have been said.
    pub shadow_text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: i64,
    /// Tokens of the answer.
    pub tokens: i64,
    /// Tokens of the silent answer.
    pub shadow_tokens: i64,
    /// Time to the answer's end.
    pub millis: i64,
    /// Time to the silent answer's end.
    pub shadow_millis: i64,
    /// Why there is no silent answer, where there is none.
    pub error: Option<String>,
}

const SHADOW: &str = "SELECT id, at_micros, owner, deployment, model, request_id, project_id, prompt_digest, arm, version, \
                      shadow_version, text, shadow_text, prompt_tokens, tokens, shadow_tokens, millis, shadow_millis, error \
                      FROM shadows WHERE 1 = 1";

fn shadow(row: &AnyRow) -> Result<ShadowRow, sqlx::Error> {
    Ok(ShadowRow {
        id: row.try_get(0)?,
        at_micros: row.try_get(1)?,
        owner: row.try_get(2)?,
        deployment: row.try_get(3)?,
        model: row.try_get(4)?,
        request_id: row.try_get(5)?,
        project_id: row.try_get(6)?,
        prompt_digest: row.try_get(7)?,
        arm: row.try_get(8)?,
        version: row.try_get(9)?,
        shadow_version: row.try_get(10)?,
        text: row.try_get(11)?,
        shadow_text: row.try_get(12)?,
        prompt_tokens: row.try_get(13)?,
        tokens: row.try_get(14)?,
        shadow_tokens: row.try_get(15)?,
        millis: row.try_get(16)?,
        shadow_millis: row.try_get(17)?,
        error: row.try_get(18)?,
    })
}

/// Adds a pair.
pub async fn insert(connection: &mut AnyConnection, row: &ShadowRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO shadows (id, at_micros, owner, deployment, model, request_id, project_id, prompt_digest, arm, version, \
         shadow_version, text, shadow_text, prompt_tokens, tokens, shadow_tokens, millis, shadow_millis, error) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
    )
    .bind(row.id.clone())
    .bind(row.at_micros)
    .bind(row.owner.clone())
    .bind(row.deployment.clone())
    .bind(row.model.clone())
    .bind(row.request_id.clone())
    .bind(row.project_id.clone())
    .bind(row.prompt_digest.clone())
    .bind(row.arm.clone())
    .bind(row.version.clone())
    .bind(row.shadow_version.clone())
    .bind(row.text.clone())
    .bind(row.shadow_text.clone())
    .bind(row.prompt_tokens)
    .bind(row.tokens)
    .bind(row.shadow_tokens)
    .bind(row.millis)
    .bind(row.shadow_millis)
    .bind(row.error.clone())
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a shadow answer"))?;
    Ok(())
}

/// Pairs of a deployment in pages, of a silent model where it is given.
pub async fn list(
    connection: &mut AnyConnection,
    place: (&str, &str),
    model: Option<&str>,
    paging: &Paging,
) -> Result<Page<ShadowRow>, StoreError> {
    let (owner, deployment) = place;
    let query = Query::new(SHADOW).and("owner = ?", Some(owner)).and("deployment = ?", Some(deployment)).and("model = ?", model);
    let listed = Listed { table: "shadows", prefix: "", time: "at_micros" };
    query.page(connection, &listed, paging, shadow).await
}

/// What a silent model has done for a deployment since a time (seconds since 1970): answers, failed ones, tokens.
pub async fn totals(
    connection: &mut AnyConnection,
    place: (&str, &str),
    model: &str,
    since: i64,
) -> Result<(i64, i64, i64), StoreError> {
    let (owner, deployment) = place;
    // Sums of BIGINT are NUMERIC in PostgreSQL.
    let sums = "SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN error IS NULL THEN 0 ELSE 1 END), 0) AS BIGINT), \
                CAST(COALESCE(SUM(prompt_tokens + shadow_tokens), 0) AS BIGINT) FROM shadows WHERE 1 = 1";
    let query = Query::new(sums)
        .and("owner = ?", Some(owner))
        .and("deployment = ?", Some(deployment))
        .and("model = ?", Some(model))
        .and("at_micros >= ?", Some(since.saturating_mul(MICROS)));
    let rows = query.read(connection, "count shadow answers", |row| Ok((number(row, 0)?, number(row, 1)?, number(row, 2)?)));
    Ok(rows.await?.into_iter().next().unwrap_or_default())
}

/// Forgets pairs from before a time (seconds since 1970); returns how many.
pub async fn forget(connection: &mut AnyConnection, before: i64) -> Result<u64, StoreError> {
    let query = sqlx::query("DELETE FROM shadows WHERE at_micros < $1").bind(before.saturating_mul(MICROS));
    let done = query.execute(connection).await.map_err(StoreError::sql("forget shadow answers"))?;
    Ok(done.rows_affected())
}
