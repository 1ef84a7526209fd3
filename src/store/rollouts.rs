//! Rows of rollouts, and which jobs have led to one. A row is changed by compare-and-set on its version; what it says besides is
//! JSON that this room does not read.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Listed, Page, Paging, Query, first};

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutRow {
    /// `rollout_...`
    pub id: String,
    /// A project's id; empty is shared.
    pub owner: String,
    /// Name of the deployment.
    pub deployment: String,
    /// `pending`, `progressing` and so on.
    pub state: String,
    /// Whether something is still to be done about it.
    pub open: bool,
    /// JSON.
    pub body: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub ended_at: Option<i64>,
    /// Counts changes.
    pub version: i64,
}

/// Which rollouts; `None` is any.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// A project's id; empty is shared.
    pub owner: Option<String>,
    /// Of this deployment.
    pub deployment: Option<String>,
    /// In this state.
    pub state: Option<String>,
}

const ROLLOUT: &str = "SELECT id, owner, deployment, state, open, body, created_at, ended_at, version FROM rollouts WHERE 1 = 1";

fn rollout(row: &AnyRow) -> Result<RolloutRow, sqlx::Error> {
    Ok(RolloutRow {
        id: row.try_get(0)?,
        owner: row.try_get(1)?,
        deployment: row.try_get(2)?,
        state: row.try_get(3)?,
        open: row.try_get::<i64, _>(4)? != 0,
        body: row.try_get(5)?,
        created_at: row.try_get(6)?,
        ended_at: row.try_get(7)?,
        version: row.try_get(8)?,
    })
}

/// Adds a rollout; false where one of the deployment is under way.
pub async fn insert(connection: &mut AnyConnection, row: &RolloutRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO rollouts (id, owner, deployment, state, open, body, created_at, ended_at, version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
    )
    .bind(row.id.clone())
    .bind(row.owner.clone())
    .bind(row.deployment.clone())
    .bind(row.state.clone())
    .bind(i64::from(row.open))
    .bind(row.body.clone())
    .bind(row.created_at)
    .bind(row.ended_at)
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a rollout"))?;
    Ok(done.rows_affected() == 1)
}

/// Changes a rollout; false where its version is not the row's any more. The version is counted up.
pub async fn update(connection: &mut AnyConnection, row: &RolloutRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE rollouts SET state = $1, open = $2, body = $3, ended_at = $4, version = version + 1 \
         WHERE id = $5 AND version = $6",
    )
    .bind(row.state.clone())
    .bind(i64::from(row.open))
    .bind(row.body.clone())
    .bind(row.ended_at)
    .bind(row.id.clone())
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("change a rollout"))?;
    Ok(done.rows_affected() == 1)
}

/// A rollout.
pub async fn get(connection: &mut AnyConnection, id: &str) -> Result<Option<RolloutRow>, StoreError> {
    Query::new(ROLLOUT).and("id = ?", Some(id)).read(connection, "read a rollout", rollout).await.map(first)
}

/// Rollouts that something is still to be done about, the oldest first.
pub async fn open(connection: &mut AnyConnection) -> Result<Vec<RolloutRow>, StoreError> {
    let query = Query::new(ROLLOUT).and("open = ?", Some(1)).then(" ORDER BY created_at, id");
    query.read(connection, "read rollouts", rollout).await
}

/// Rollouts in pages.
pub async fn list(connection: &mut AnyConnection, which: &Which, paging: &Paging) -> Result<Page<RolloutRow>, StoreError> {
    let query = Query::new(ROLLOUT)
        .and("owner = ?", which.owner.as_deref())
        .and("deployment = ?", which.deployment.as_deref())
        .and("state = ?", which.state.as_deref());
    let listed = Listed { table: "rollouts", prefix: "", time: "created_at" };
    query.page(connection, &listed, paging, rollout).await
}

/// The rollout of a deployment that has not ended, or that the deployment is still to be taken back from.
pub async fn under_way(connection: &mut AnyConnection, owner: &str, deployment: &str) -> Result<Option<String>, StoreError> {
    let query = Query::new("SELECT id FROM rollouts WHERE open = 1").and("owner = ?", Some(owner));
    let query = query.and("deployment = ?", Some(deployment));
    query.read(connection, "look for a rollout under way", |row| row.try_get(0)).await.map(first)
}

/// How many rollouts a deployment has had.
pub async fn count(connection: &mut AnyConnection, owner: &str, deployment: &str) -> Result<i64, StoreError> {
    sqlx::query_scalar("SELECT COUNT(*) FROM rollouts WHERE owner = $1 AND deployment = $2")
        .bind(owner.to_owned())
        .bind(deployment.to_owned())
        .fetch_one(connection)
        .await
        .map_err(StoreError::sql("count rollouts"))
}

/// Jobs of this process that have succeeded, ask for a rollout, and were not looked at yet: ids.
pub async fn jobs_to_look_at(connection: &mut AnyConnection, node: &str) -> Result<Vec<String>, StoreError> {
    let query = Query::new("SELECT id FROM jobs WHERE status = 'succeeded' AND metadata LIKE '%\"rollout\"%'")
        .and("node = ?", Some(node))
        .then(" AND NOT EXISTS (SELECT 1 FROM job_rollouts WHERE job_rollouts.job_id = jobs.id) ORDER BY finished_at, id");
    query.read(connection, "look for jobs with a rollout", |row| row.try_get(0)).await
}

/// Writes down what came of a job's rollout; false where somebody was faster.
pub async fn note_job(
    connection: &mut AnyConnection,
    job_id: &str,
    rollout_id: Option<&str>,
    now: i64,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO job_rollouts (job_id, rollout_id, looked_at) VALUES ($1, $2, $3) ON CONFLICT (job_id) DO NOTHING",
    )
    .bind(job_id.to_owned())
    .bind(rollout_id.map(str::to_owned))
    .bind(now)
    .execute(connection)
    .await
    .map_err(StoreError::sql("note what came of a job"))?;
    Ok(done.rows_affected() == 1)
}
