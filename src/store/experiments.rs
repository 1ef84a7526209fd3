//! Rows of what experiments have measured: sums by arm, metric, revision and process; checks of the split; feedback. Knows nothing of
//! what metrics mean.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Query, first};

/// What one process has counted of one metric of one arm under one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct SumRow {
    /// `exp_...`
    pub experiment: String,
    /// Of the deployment.
    pub revision: i64,
    /// The arm.
    pub arm: String,
    /// The metric's name.
    pub metric: String,
    /// The process's data directory.
    pub node: String,
    /// Values.
    pub n: i64,
    /// Their sum, of their squares, and of the values as they came.
    pub sums: [f64; 3],
}

/// How a process sees the split of units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitRow {
    /// `exp_...`
    pub experiment: String,
    /// The process's data directory.
    pub node: String,
    /// Counts the starts of the process: each begins a check of its own.
    pub start: i64,
    /// JSON.
    pub state: String,
}

/// What somebody said of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FeedbackRow {
    /// Tenant of the answer.
    pub project_id: String,
    /// As in the answer's `x-request-id`.
    pub request_id: String,
    /// `thumbs`, `score`, `corrections`, `feedback:NAME`.
    pub metric: String,
    /// The value; 1 of a correction.
    pub value: f64,
    /// The corrected text.
    pub text: Option<String>,
    /// Key that sent it.
    pub key_id: String,
    /// Where the answer belongs; `None` where it belongs to no experiment.
    pub experiment: Option<String>,
    /// The deployment's revision.
    pub revision: Option<i64>,
    /// The arm.
    pub arm: Option<String>,
    /// Seconds since 1970.
    pub at: i64,
}

/// What the ledger knows of an answer that feedback is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRow {
    /// As asked.
    pub model: String,
    /// The arm.
    pub arm: Option<String>,
    /// Microseconds since 1970.
    pub at_micros: i64,
}

fn real(row: &AnyRow, column: usize) -> Result<f64, sqlx::Error> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| sqlx::Error::Decode(format!("{text:?} is no number").into()))
}

fn sum(row: &AnyRow) -> Result<SumRow, sqlx::Error> {
    Ok(SumRow {
        experiment: row.try_get(0)?,
        revision: row.try_get(1)?,
        arm: row.try_get(2)?,
        metric: row.try_get(3)?,
        node: row.try_get(4)?,
        n: row.try_get(5)?,
        sums: [real(row, 6)?, real(row, 7)?, real(row, 8)?],
    })
}

const SUM: &str = "SELECT experiment, revision, arm, metric, node, n, total, squares, plain FROM experiment_sums WHERE 1 = 1";

/// What all processes, or one, have counted of an experiment.
pub async fn sums(connection: &mut AnyConnection, experiment: &str, node: Option<&str>) -> Result<Vec<SumRow>, StoreError> {
    let query = Query::new(SUM).and("experiment = ?", Some(experiment)).and("node = ?", node);
    query.read(connection, "read sums of an experiment", sum).await
}

/// Writes what a process has counted: all of it, so that writing twice changes nothing.
pub async fn put_sum(connection: &mut AnyConnection, row: &SumRow) -> Result<(), StoreError> {
    let query = sqlx::query(
        "INSERT INTO experiment_sums (experiment, revision, arm, metric, node, n, total, squares, plain) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (experiment, revision, arm, metric, node) DO UPDATE SET \
         n = excluded.n, total = excluded.total, squares = excluded.squares, plain = excluded.plain",
    );
    let query = query.bind(row.experiment.clone()).bind(row.revision).bind(row.arm.clone()).bind(row.metric.clone());
    let query = query.bind(row.node.clone()).bind(row.n);
    let query = row.sums.iter().fold(query, |query, value| query.bind(value.to_string()));
    query.execute(connection).await.map_err(StoreError::sql("write sums of an experiment"))?;
    Ok(())
}

/// Checks of an experiment's split, of all processes and all their starts.
pub async fn splits(connection: &mut AnyConnection, experiment: &str) -> Result<Vec<SplitRow>, StoreError> {
    let query = Query::new("SELECT experiment, node, start, state FROM experiment_splits WHERE 1 = 1");
    let row = |row: &AnyRow| {
        Ok(SplitRow { experiment: row.try_get(0)?, node: row.try_get(1)?, start: row.try_get(2)?, state: row.try_get(3)? })
    };
    let query = query.and("experiment = ?", Some(experiment));
    query.read(connection, "read the split of an experiment", row).await
}

/// Writes how a process sees the split since its start.
pub async fn put_split(connection: &mut AnyConnection, row: &SplitRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO experiment_splits (experiment, node, start, state) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (experiment, node, start) DO UPDATE SET state = excluded.state",
    )
    .bind(row.experiment.clone())
    .bind(row.node.clone())
    .bind(row.start)
    .bind(row.state.clone())
    .execute(connection)
    .await
    .map_err(StoreError::sql("write the split of an experiment"))?;
    Ok(())
}

/// Keeps what somebody said of an answer, in place of what was said before under the same name.
pub async fn put_feedback(connection: &mut AnyConnection, row: &FeedbackRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO feedback (project_id, request_id, metric, value, text, key_id, experiment, revision, arm, at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (project_id, request_id, metric) DO UPDATE SET \
         value = excluded.value, text = excluded.text, key_id = excluded.key_id, experiment = excluded.experiment, \
         revision = excluded.revision, arm = excluded.arm, at = excluded.at",
    )
    .bind(row.project_id.clone())
    .bind(row.request_id.clone())
    .bind(row.metric.clone())
    .bind(row.value.to_string())
    .bind(row.text.clone())
    .bind(row.key_id.clone())
    .bind(row.experiment.clone())
    .bind(row.revision)
    .bind(row.arm.clone())
    .bind(row.at)
    .execute(connection)
    .await
    .map_err(StoreError::sql("keep feedback"))?;
    Ok(())
}

/// Sums of an experiment's feedback: of the kind of [`sums`], without a node.
pub async fn feedback_sums(connection: &mut AnyConnection, experiment: &str) -> Result<Vec<SumRow>, StoreError> {
    let query = Query::new(
        "SELECT revision, arm, metric, COUNT(*), CAST(SUM(CAST(value AS DOUBLE PRECISION)) AS TEXT), \
         CAST(SUM(CAST(value AS DOUBLE PRECISION) * CAST(value AS DOUBLE PRECISION)) AS TEXT) FROM feedback \
         WHERE revision IS NOT NULL AND arm IS NOT NULL",
    );
    let row = |row: &AnyRow| {
        let (total, squares) = (real(row, 4)?, real(row, 5)?);
        Ok(SumRow {
            experiment: String::new(),
            revision: row.try_get(0)?,
            arm: row.try_get(1)?,
            metric: row.try_get(2)?,
            node: String::new(),
            n: row.try_get(3)?,
            sums: [total, squares, total],
        })
    };
    let query = query.with(" AND experiment = ?", experiment).then(" GROUP BY revision, arm, metric");
    query.read(connection, "add feedback up", row).await
}

/// What somebody said of one answer.
pub async fn feedback_of(
    connection: &mut AnyConnection,
    project_id: &str,
    request_id: &str,
) -> Result<Vec<FeedbackRow>, StoreError> {
    let query = Query::new(
        "SELECT project_id, request_id, metric, value, text, key_id, experiment, revision, arm, at FROM feedback WHERE 1 = 1",
    );
    let row = |row: &AnyRow| {
        Ok(FeedbackRow {
            project_id: row.try_get(0)?,
            request_id: row.try_get(1)?,
            metric: row.try_get(2)?,
            value: real(row, 3)?,
            text: row.try_get(4)?,
            key_id: row.try_get(5)?,
            experiment: row.try_get(6)?,
            revision: row.try_get(7)?,
            arm: row.try_get(8)?,
            at: row.try_get(9)?,
        })
    };
    let query = query.and("project_id = ?", Some(project_id)).and("request_id = ?", Some(request_id));
    query.then(" ORDER BY metric").read(connection, "read feedback", row).await
}

/// What the ledger says of an answer, the newest of that id: of a deployment's at any time, of others since a time (microseconds
/// since 1970), as they have no index.
pub async fn answer(
    connection: &mut AnyConnection,
    project_id: &str,
    request_id: &str,
    since: i64,
) -> Result<Option<AnswerRow>, StoreError> {
    let doing = "look an answer up";
    let row = |row: &AnyRow| Ok(AnswerRow { model: row.try_get(0)?, arm: row.try_get(1)?, at_micros: row.try_get(2)? });
    let select = |condition: &str| Query::new(&format!("SELECT model, arm, at_micros FROM ledger WHERE {condition}"));
    let newest = " ORDER BY at_micros DESC LIMIT 1";
    let assigned = select("arm IS NOT NULL").and("request_id = ?", Some(request_id)).and("project_id = ?", Some(project_id));
    if let Some(found) = first(assigned.then(newest).read(&mut *connection, doing, row).await?) {
        return Ok(Some(found));
    }
    let plain = select("arm IS NULL").and("project_id = ?", Some(project_id)).and("at_micros >= ?", Some(since));
    plain.and("request_id = ?", Some(request_id)).then(newest).read(connection, doing, row).await.map(first)
}

/// The experiment and revision that a deployment had at a time (microseconds since 1970), by its owner (empty: shared) and name.
pub async fn experiment_at(
    connection: &mut AnyConnection,
    owner: &str,
    deployment: &str,
    at_micros: i64,
) -> Result<Option<(String, i64)>, StoreError> {
    let query = Query::new(
        "SELECT r.experiment, r.revision FROM deployment_revisions r JOIN deployments d ON d.id = r.deployment_id WHERE 1 = 1",
    );
    let query =
        query.and("d.owner = ?", Some(owner)).and("d.name = ?", Some(deployment)).and("r.at_micros <= ?", Some(at_micros));
    let row = |row: &AnyRow| Ok((row.try_get(0)?, row.try_get(1)?));
    query.then(" ORDER BY r.revision DESC LIMIT 1").read(connection, "look an experiment up", row).await.map(first)
}
