//! Rows of deployments and of their revisions. Knows nothing of what a spec says.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentRow {
    /// `dep_...`
    pub id: String,
    /// A project's id; empty is shared.
    pub owner: String,
    /// Public name.
    pub name: String,
    /// The revision in force.
    pub revision: i64,
    /// Revision of the last rollback; 0 where there was none.
    pub epoch: i64,
    /// Makes its assignment independent of others'.
    pub salt: String,
    /// Whether it is gone. Its numbering goes on where the name comes back.
    pub deleted: bool,
    /// The counter of changes of all deployments, at its last one.
    pub counter: i64,
    /// Seconds since 1970.
    pub created_at: i64,
}

/// What a deployment was from a moment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionRow {
    /// Number, from 1.
    pub revision: i64,
    /// `created`, `changed`, `rolled_back`, `deleted`.
    pub action: String,
    /// The revision whose spec this is again.
    pub restores: Option<i64>,
    /// JSON.
    pub spec: String,
    /// `exp_...`
    pub experiment: String,
    /// Key id, `cli`, or `rollout:ID`.
    pub actor: String,
    /// Why, in somebody's words.
    pub reason: Option<String>,
    /// Microseconds since 1970.
    pub at_micros: i64,
}

const DEPLOYMENT: &str = "SELECT id, owner, name, revision, epoch, salt, deleted, counter, created_at FROM deployments";
const REVISION: &str = "SELECT revision, action, restores, spec, experiment, actor, reason, at_micros FROM deployment_revisions";

fn deployment(row: &AnyRow) -> Result<DeploymentRow, sqlx::Error> {
    Ok(DeploymentRow {
        id: row.try_get(0)?,
        owner: row.try_get(1)?,
        name: row.try_get(2)?,
        revision: row.try_get(3)?,
        epoch: row.try_get(4)?,
        salt: row.try_get(5)?,
        deleted: row.try_get::<i64, _>(6)? != 0,
        counter: row.try_get(7)?,
        created_at: row.try_get(8)?,
    })
}

fn revision(row: &AnyRow) -> Result<RevisionRow, sqlx::Error> {
    Ok(RevisionRow {
        revision: row.try_get(0)?,
        action: row.try_get(1)?,
        restores: row.try_get(2)?,
        spec: row.try_get(3)?,
        experiment: row.try_get(4)?,
        actor: row.try_get(5)?,
        reason: row.try_get(6)?,
        at_micros: row.try_get(7)?,
    })
}

/// Counts a change. Whoever counts first in a transaction makes the others wait for its end: changes happen one after the other.
pub async fn count(connection: &mut AnyConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("UPDATE revisions SET value = value + 1 WHERE name = 'deployments' RETURNING value")
        .fetch_one(connection)
        .await
        .map_err(StoreError::sql("count a change of deployments"))
}

/// How many changes there were, by any process.
pub async fn counter(connection: &mut AnyConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("SELECT value FROM revisions WHERE name = 'deployments'")
        .fetch_one(connection)
        .await
        .map_err(StoreError::sql("read the count of changes of deployments"))
}

/// A deployment, also one that was deleted.
pub async fn find(connection: &mut AnyConnection, owner: &str, name: &str) -> Result<Option<DeploymentRow>, StoreError> {
    let doing = "read a deployment";
    let sql = format!("{DEPLOYMENT} WHERE owner = $1 AND name = $2");
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(owner.to_owned()).bind(name.to_owned());
    let row = query.fetch_optional(connection).await.map_err(StoreError::sql(doing))?;
    row.as_ref().map(deployment).transpose().map_err(StoreError::sql(doing))
}

/// Deployments whose last change came after a count, deleted ones too.
pub async fn changed_since(connection: &mut AnyConnection, counter: i64) -> Result<Vec<DeploymentRow>, StoreError> {
    let doing = "read deployments";
    let sql = format!("{DEPLOYMENT} WHERE counter > $1 ORDER BY counter");
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(counter);
    let rows = query.fetch_all(connection).await.map_err(StoreError::sql(doing))?;
    rows.iter().map(deployment).collect::<Result<_, _>>().map_err(StoreError::sql(doing))
}

/// Revisions of a deployment below a number, the newest first.
pub async fn revisions(
    connection: &mut AnyConnection,
    deployment_id: &str,
    below: i64,
    limit: i64,
) -> Result<Vec<RevisionRow>, StoreError> {
    let doing = "read the history of a deployment";
    let sql = format!("{REVISION} WHERE deployment_id = $1 AND revision < $2 ORDER BY revision DESC LIMIT $3");
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(deployment_id.to_owned()).bind(below).bind(limit);
    let rows = query.fetch_all(connection).await.map_err(StoreError::sql(doing))?;
    rows.iter().map(revision).collect::<Result<_, _>>().map_err(StoreError::sql(doing))
}

/// Adds a deployment.
pub async fn insert(connection: &mut AnyConnection, row: &DeploymentRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO deployments (id, owner, name, revision, epoch, salt, deleted, counter, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(row.id.clone())
    .bind(row.owner.clone())
    .bind(row.name.clone())
    .bind(row.revision)
    .bind(row.epoch)
    .bind(row.salt.clone())
    .bind(i64::from(row.deleted))
    .bind(row.counter)
    .bind(row.created_at)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a deployment"))?;
    Ok(())
}

/// Sets what changes of a deployment; false where it is not at the expected revision any more.
pub async fn update(connection: &mut AnyConnection, row: &DeploymentRow, expected: i64) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE deployments SET revision = $1, epoch = $2, deleted = $3, counter = $4, created_at = $5 \
         WHERE id = $6 AND revision = $7",
    )
    .bind(row.revision)
    .bind(row.epoch)
    .bind(i64::from(row.deleted))
    .bind(row.counter)
    .bind(row.created_at)
    .bind(row.id.clone())
    .bind(expected)
    .execute(connection)
    .await
    .map_err(StoreError::sql("change a deployment"))?;
    Ok(done.rows_affected() == 1)
}

/// Adds a revision.
pub async fn add_revision(connection: &mut AnyConnection, deployment_id: &str, row: &RevisionRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO deployment_revisions (deployment_id, revision, action, restores, spec, experiment, actor, reason, at_micros) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(deployment_id.to_owned())
    .bind(row.revision)
    .bind(row.action.clone())
    .bind(row.restores)
    .bind(row.spec.clone())
    .bind(row.experiment.clone())
    .bind(row.actor.clone())
    .bind(row.reason.clone())
    .bind(row.at_micros)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a revision of a deployment"))?;
    Ok(())
}
