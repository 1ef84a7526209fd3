//! Rows of texts that /convert has answered, of what would have been right, and of when a job learns from that. Knows nothing of
//! what answers say.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Query, first};

/// A text that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRow {
    /// Whose.
    pub project_id: String,
    /// Of the answer.
    pub id: String,
    /// As the model read it.
    pub text: String,
    /// JSON.
    pub answer: String,
    /// As it was named.
    pub model: String,
    /// The tenant's own schema; empty is the built-in one.
    pub schema_name: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub expires_at: i64,
}

/// What would have been right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorrectionRow {
    /// `corr_...`
    pub id: String,
    /// Whose.
    pub project_id: String,
    /// Of the answer that is corrected.
    pub answer_id: String,
    /// What gave that answer.
    pub model: String,
    /// The tenant's own schema; empty is the built-in one.
    pub schema_name: String,
    /// The text.
    pub text: String,
    /// JSON.
    pub answer: String,
    /// Whether the answer was right.
    pub was_right: bool,
    /// Seconds since 1970.
    pub created_at: i64,
    /// The first job that learns from it.
    pub job_id: Option<String>,
}

/// When a job starts by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRow {
    /// Whose.
    pub project_id: String,
    /// For answers in this schema; empty is the built-in one.
    pub schema_name: String,
    /// After so many new corrections.
    pub after: i64,
    /// JSON, as in a request for a job.
    pub job: String,
    /// Who asked.
    pub key_id: String,
    /// Seconds since 1970.
    pub updated_at: i64,
}

const TEXT: &str =
    "SELECT project_id, id, text, answer, model, schema_name, created_at, expires_at FROM convert_texts WHERE 1 = 1";
const CORRECTION: &str = "SELECT id, project_id, answer_id, model, schema_name, text, answer, was_right, created_at, job_id \
                          FROM convert_corrections WHERE 1 = 1";
/// Of no job, and not about to be.
const IS_NEW: &str = "job_id IS NULL AND (claimed_at IS NULL OR claimed_at < ?)";

fn text(row: &AnyRow) -> Result<TextRow, sqlx::Error> {
    Ok(TextRow {
        project_id: row.try_get(0)?,
        id: row.try_get(1)?,
        text: row.try_get(2)?,
        answer: row.try_get(3)?,
        model: row.try_get(4)?,
        schema_name: row.try_get(5)?,
        created_at: row.try_get(6)?,
        expires_at: row.try_get(7)?,
    })
}

fn correction(row: &AnyRow) -> Result<CorrectionRow, sqlx::Error> {
    Ok(CorrectionRow {
        id: row.try_get(0)?,
        project_id: row.try_get(1)?,
        answer_id: row.try_get(2)?,
        model: row.try_get(3)?,
        schema_name: row.try_get(4)?,
        text: row.try_get(5)?,
        answer: row.try_get(6)?,
        was_right: row.try_get::<i64, _>(7)? != 0,
        created_at: row.try_get(8)?,
        job_id: row.try_get(9)?,
    })
}

/// Keeps a text. A later one with the same id takes its place.
pub async fn keep(connection: &mut AnyConnection, row: &TextRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO convert_texts (project_id, id, text, answer, model, schema_name, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (project_id, id) DO UPDATE SET text = excluded.text, \
         answer = excluded.answer, model = excluded.model, schema_name = excluded.schema_name, \
         created_at = excluded.created_at, expires_at = excluded.expires_at",
    )
    .bind(row.project_id.clone())
    .bind(row.id.clone())
    .bind(row.text.clone())
    .bind(row.answer.clone())
    .bind(row.model.clone())
    .bind(row.schema_name.clone())
    .bind(row.created_at)
    .bind(row.expires_at)
    .execute(connection)
    .await
    .map_err(StoreError::sql("keep a text"))?;
    Ok(())
}

/// A tenant's text that is still kept at `now`.
pub async fn find(connection: &mut AnyConnection, project_id: &str, id: &str, now: i64) -> Result<Option<TextRow>, StoreError> {
    let query = Query::new(TEXT).and("project_id = ?", Some(project_id)).and("id = ?", Some(id));
    query.and("expires_at > ?", Some(now)).read(connection, "read a text", text).await.map(first)
}

/// Removes the texts whose time is over at `now`.
pub async fn expire(connection: &mut AnyConnection, now: i64) -> Result<u64, StoreError> {
    let done = sqlx::query("DELETE FROM convert_texts WHERE expires_at <= $1").bind(now).execute(connection).await;
    Ok(done.map_err(StoreError::sql("remove texts"))?.rows_affected())
}

/// Adds a correction; one of the same answer takes its place and counts as new. The row as it stands then.
pub async fn put(connection: &mut AnyConnection, row: &CorrectionRow) -> Result<CorrectionRow, StoreError> {
    let doing = "add a correction";
    sqlx::query(
        "INSERT INTO convert_corrections (id, project_id, answer_id, model, schema_name, text, answer, was_right, created_at, \
         claimed_at, job_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL, NULL) \
         ON CONFLICT (project_id, answer_id) DO UPDATE SET \
         model = excluded.model, schema_name = excluded.schema_name, text = excluded.text, answer = excluded.answer, was_right = excluded.was_right, \
         created_at = excluded.created_at, claimed_at = NULL, job_id = NULL",
    )
    .bind(row.id.clone())
    .bind(row.project_id.clone())
    .bind(row.answer_id.clone())
    .bind(row.model.clone())
    .bind(row.schema_name.clone())
    .bind(row.text.clone())
    .bind(row.answer.clone())
    .bind(i64::from(row.was_right))
    .bind(row.created_at)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::sql(doing))?;
    let query = Query::new(CORRECTION).and("project_id = ?", Some(row.project_id.as_str()));
    let found = query.and("answer_id = ?", Some(row.answer_id.as_str())).read(connection, doing, correction).await?;
    Ok(first(found).unwrap_or_else(|| row.clone()))
}

/// A tenant's corrections of answers in a schema, the oldest first.
pub async fn all(connection: &mut AnyConnection, project_id: &str, schema: &str) -> Result<Vec<CorrectionRow>, StoreError> {
    let query = Query::new(CORRECTION).and("project_id = ?", Some(project_id)).and("schema_name = ?", Some(schema));
    query.then(" ORDER BY created_at, id").read(connection, "read corrections", correction).await
}

/// Removes a tenant's correction; false where there is none.
pub async fn delete(connection: &mut AnyConnection, project_id: &str, id: &str) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM convert_corrections WHERE project_id = $1 AND id = $2");
    let done = query.bind(project_id.to_owned()).bind(id.to_owned()).execute(connection).await;
    Ok(done.map_err(StoreError::sql("remove a correction"))?.rows_affected() == 1)
}

/// How many a tenant has in a schema, and how many of them no job has learnt from. Claims older than `stale` (micros) count for
/// nothing.
pub async fn count(connection: &mut AnyConnection, project_id: &str, schema: &str, stale: i64) -> Result<(i64, i64), StoreError> {
    let one = |row: &AnyRow| row.try_get::<i64, _>(0);
    let doing = "count corrections";
    let query = |text: &str| Query::new(text).and("project_id = ?", Some(project_id)).and("schema_name = ?", Some(schema));
    let total = query("SELECT COUNT(*) FROM convert_corrections WHERE 1 = 1").read(connection, doing, one).await?;
    let new = query("SELECT COUNT(*) FROM convert_corrections WHERE 1 = 1").and(IS_NEW, Some(stale));
    let new = new.read(connection, doing, one).await?;
    Ok((first(total).unwrap_or(0), first(new).unwrap_or(0)))
}

/// Claims all new corrections of a tenant in a schema at `now` (micros): how many.
pub async fn claim(
    connection: &mut AnyConnection,
    project_id: &str,
    schema: &str,
    (now, stale): (i64, i64),
) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "UPDATE convert_corrections SET claimed_at = $1 WHERE project_id = $2 AND job_id IS NULL \
         AND (claimed_at IS NULL OR claimed_at < $3) AND schema_name = $4",
    )
    .bind(now)
    .bind(project_id.to_owned())
    .bind(stale)
    .bind(schema.to_owned())
    .execute(connection)
    .await;
    Ok(done.map_err(StoreError::sql("claim corrections"))?.rows_affected())
}

/// What was claimed at `claimed_at` belongs to a job now, or is new again.
pub async fn settle(
    connection: &mut AnyConnection,
    project_id: &str,
    claimed_at: i64,
    job_id: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE convert_corrections SET job_id = $1, claimed_at = NULL WHERE project_id = $2 AND job_id IS NULL AND claimed_at = $3",
    )
    .bind(job_id.map(str::to_owned))
    .bind(project_id.to_owned())
    .bind(claimed_at)
    .execute(connection)
    .await
    .map_err(StoreError::sql("mark corrections"))?;
    Ok(())
}

/// When a tenant's jobs start by themselves.
pub async fn policy(connection: &mut AnyConnection, project_id: &str, schema: &str) -> Result<Option<PolicyRow>, StoreError> {
    let select = "SELECT project_id, schema_name, after, job, key_id, updated_at FROM convert_correction_policies WHERE 1 = 1";
    let read = |row: &AnyRow| {
        Ok(PolicyRow {
            project_id: row.try_get(0)?,
            schema_name: row.try_get(1)?,
            after: row.try_get(2)?,
            job: row.try_get(3)?,
            key_id: row.try_get(4)?,
            updated_at: row.try_get(5)?,
        })
    };
    let query = Query::new(select).and("project_id = ?", Some(project_id)).and("schema_name = ?", Some(schema));
    query.read(connection, "read a policy", read).await.map(first)
}

/// Sets it.
pub async fn set_policy(connection: &mut AnyConnection, row: &PolicyRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO convert_correction_policies (project_id, schema_name, after, job, key_id, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (project_id, schema_name) DO UPDATE SET after = excluded.after, \
         job = excluded.job, key_id = excluded.key_id, updated_at = excluded.updated_at",
    )
    .bind(row.project_id.clone())
    .bind(row.schema_name.clone())
    .bind(row.after)
    .bind(row.job.clone())
    .bind(row.key_id.clone())
    .bind(row.updated_at)
    .execute(connection)
    .await
    .map_err(StoreError::sql("set a policy"))?;
    Ok(())
}

/// Removes it; false where there is none.
pub async fn remove_policy(connection: &mut AnyConnection, project_id: &str, schema: &str) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM convert_correction_policies WHERE project_id = $1 AND schema_name = $2");
    let done = query.bind(project_id.to_owned()).bind(schema.to_owned()).execute(connection).await;
    Ok(done.map_err(StoreError::sql("remove a policy"))?.rows_affected() == 1)
}
