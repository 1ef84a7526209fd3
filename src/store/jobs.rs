//! Rows of training jobs, their events, checkpoints and metrics. A job's row is changed by compare-and-set on its version.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Listed, Page, Paging, Query, first, number};

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobRow {
    /// `ftjob-...`
    pub id: String,
    /// Its tenant.
    pub project_id: String,
    /// The key that asked for it.
    pub key_id: String,
    /// The process that runs it.
    pub node: String,
    /// In OpenAI's words.
    pub status: String,
    /// In finer words.
    pub phase: String,
    /// Public name of the base.
    pub base: String,
    /// Part of the model's name; may be empty.
    pub suffix: String,
    /// Name of the model that it makes.
    pub model: String,
    /// Of everything that is drawn by lot.
    pub seed: i64,
    /// Id of the file.
    pub training_file: String,
    /// Id of the file.
    pub validation_file: Option<String>,
    /// JSON, as asked.
    pub method: String,
    /// JSON, once `auto` is resolved.
    pub settings: Option<String>,
    /// JSON object.
    pub metadata: Option<String>,
    /// Most seconds of training.
    pub max_seconds: i64,
    /// Most nano-dollars.
    pub max_nanos: Option<i64>,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub started_at: Option<i64>,
    /// Seconds since 1970.
    pub finished_at: Option<i64>,
    /// Seconds since 1970.
    pub estimated_finish: Option<i64>,
    /// 1 when the model can be called.
    pub published: i64,
    /// Id of the file with the metrics.
    pub result_file: Option<String>,
    /// Steps in all, once that is known.
    pub steps: Option<i64>,
    /// Steps done.
    pub steps_done: i64,
    /// Tokens that were learnt from, each as often as it was seen.
    pub trained_tokens: i64,
    /// Time that training took.
    pub trained_millis: i64,
    /// Why it failed, for programs.
    pub error_code: Option<String>,
    /// Why it failed, for people.
    pub error_message: Option<String>,
    /// The field at fault.
    pub error_param: Option<String>,
    /// Counts changes.
    pub version: i64,
    /// The process that works on it; empty is none.
    pub holder: String,
    /// Counts the holder's signs of life. Not written with the row.
    pub beat: i64,
    /// Name of the object that it goes on from, where replicas share such.
    pub state: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// `ftevent-...`
    pub id: String,
    /// Its job.
    pub job_id: String,
    /// Microseconds since 1970.
    pub created_micros: i64,
    /// `info`, `warn`, `error`.
    pub level: &'static str,
    /// `message`, `metrics`.
    pub kind: &'static str,
    /// For people.
    pub message: String,
    /// JSON object.
    pub data: Option<String>,
}

/// A version of a job's model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRow {
    /// `ftckpt_...`
    pub id: String,
    /// Its job.
    pub job_id: String,
    /// Steps done when it was made.
    pub step: i64,
    /// Its name.
    pub model: String,
    /// JSON object.
    pub metrics: String,
    /// Seconds since 1970.
    pub created_at: i64,
}

/// What was measured at a step.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricRow {
    /// From 1.
    pub step: i64,
    /// Mean loss of the step's tokens.
    pub train_loss: f64,
    /// Share of them that the model would have written.
    pub train_accuracy: Option<f64>,
    /// Mean loss of the held-out rows' tokens.
    pub valid_loss: Option<f64>,
    /// Share of them that the model would have written.
    pub valid_accuracy: Option<f64>,
}

const JOB: &str = "SELECT id, project_id, key_id, node, status, phase, base, suffix, model, seed, training_file, validation_file, \
                   method, settings, metadata, max_seconds, max_nanos, created_at, started_at, finished_at, estimated_finish, \
                   published, result_file, steps, steps_done, trained_tokens, trained_millis, error_code, error_message, \
                   error_param, version, holder, beat, state FROM jobs WHERE 1 = 1";

fn job(row: &AnyRow) -> Result<JobRow, sqlx::Error> {
    Ok(JobRow {
        id: row.try_get(0)?,
        project_id: row.try_get(1)?,
        key_id: row.try_get(2)?,
        node: row.try_get(3)?,
        status: row.try_get(4)?,
        phase: row.try_get(5)?,
        base: row.try_get(6)?,
        suffix: row.try_get(7)?,
        model: row.try_get(8)?,
        seed: row.try_get(9)?,
        training_file: row.try_get(10)?,
        validation_file: row.try_get(11)?,
        method: row.try_get(12)?,
        settings: row.try_get(13)?,
        metadata: row.try_get(14)?,
        max_seconds: row.try_get(15)?,
        max_nanos: row.try_get(16)?,
        created_at: row.try_get(17)?,
        started_at: row.try_get(18)?,
        finished_at: row.try_get(19)?,
        estimated_finish: row.try_get(20)?,
        published: row.try_get(21)?,
        result_file: row.try_get(22)?,
        steps: row.try_get(23)?,
        steps_done: row.try_get(24)?,
        trained_tokens: row.try_get(25)?,
        trained_millis: row.try_get(26)?,
        error_code: row.try_get(27)?,
        error_message: row.try_get(28)?,
        error_param: row.try_get(29)?,
        version: row.try_get(30)?,
        holder: row.try_get(31)?,
        beat: row.try_get(32)?,
        state: row.try_get(33)?,
    })
}

fn event(row: &AnyRow) -> Result<EventRow, sqlx::Error> {
    let known = |text: String, words: [&'static str; 3]| words.into_iter().find(|word| *word == text).unwrap_or(words[0]);
    Ok(EventRow {
        id: row.try_get(0)?,
        job_id: row.try_get(1)?,
        created_micros: row.try_get(2)?,
        level: known(row.try_get(3)?, ["info", "warn", "error"]),
        kind: known(row.try_get(4)?, ["message", "metrics", "message"]),
        message: row.try_get(5)?,
        data: row.try_get(6)?,
    })
}

fn checkpoint(row: &AnyRow) -> Result<CheckpointRow, sqlx::Error> {
    Ok(CheckpointRow {
        id: row.try_get(0)?,
        job_id: row.try_get(1)?,
        step: row.try_get(2)?,
        model: row.try_get(3)?,
        metrics: row.try_get(4)?,
        created_at: row.try_get(5)?,
    })
}

fn metric(row: &AnyRow) -> Result<MetricRow, sqlx::Error> {
    // Only this file writes them, by `text`.
    let value = |text: Option<String>| text.and_then(|text| text.parse().ok());
    Ok(MetricRow {
        step: row.try_get(0)?,
        train_loss: value(row.try_get(1)?).unwrap_or(f64::NAN),
        train_accuracy: value(row.try_get(2)?),
        valid_loss: value(row.try_get(3)?),
        valid_accuracy: value(row.try_get(4)?),
    })
}

/// A job of a tenant.
pub async fn get(connection: &mut AnyConnection, project_id: &str, id: &str) -> Result<Option<JobRow>, StoreError> {
    let query = Query::new(JOB).and("project_id = ?", Some(project_id)).and("id = ?", Some(id));
    query.read(connection, "read a job", job).await.map(first)
}

/// Jobs of a tenant in pages. A cursor of another tenant is an unknown one.
pub async fn list(connection: &mut AnyConnection, project_id: &str, paging: &Paging) -> Result<Page<JobRow>, StoreError> {
    if let Some(after) = &paging.after
        && get(connection, project_id, after).await?.is_none()
    {
        return Err(StoreError::UnknownCursor(after.clone()));
    }
    let listed = Listed { table: "jobs", prefix: "", time: "created_at" };
    Query::new(JOB).and("project_id = ?", Some(project_id)).page(connection, &listed, paging, job).await
}

/// Jobs of a node in a state, the oldest first.
pub async fn in_status(connection: &mut AnyConnection, node: &str, status: &'static str) -> Result<Vec<JobRow>, StoreError> {
    let query = Query::new(JOB).and("node = ?", Some(node)).and("status = ?", Some(status)).then(" ORDER BY created_at, id");
    query.read(connection, "read jobs", job).await
}

/// Jobs of a node that have not ended, the oldest first: all as they were at one moment, so that none is missed on its way from one
/// state to another.
pub async fn unfinished_of(connection: &mut AnyConnection, node: &str) -> Result<Vec<JobRow>, StoreError> {
    let query = Query::new(JOB).and("node = ?", Some(node));
    query
        .then(" AND status NOT IN ('succeeded', 'failed', 'cancelled') ORDER BY created_at, id")
        .read(connection, "read jobs", job)
        .await
}

/// Training time of a node's jobs that were begun since then, by tenant, milliseconds.
pub async fn used_since(connection: &mut AnyConnection, node: &str, since: i64) -> Result<Vec<(String, i64)>, StoreError> {
    let sums = "SELECT project_id, CAST(SUM(trained_millis) AS BIGINT) FROM jobs WHERE";
    let query = Query::new(sums).with(" node = ?", node).and("started_at >= ?", Some(since)).then(" GROUP BY project_id");
    query.read(connection, "add up training time", |row| Ok((row.try_get(0)?, number(row, 1)?))).await
}

/// Jobs of a tenant that have not ended.
pub async fn unfinished(connection: &mut AnyConnection, project_id: &str) -> Result<i64, StoreError> {
    let query = Query::new("SELECT COUNT(*) FROM jobs WHERE").with(" project_id = ?", project_id);
    let query = query.then(" AND status NOT IN ('succeeded', 'failed', 'cancelled')");
    Ok(query.read(connection, "count jobs", |row| number(row, 0)).await.map(first)?.unwrap_or(0))
}

/// Adds a job.
pub async fn insert(connection: &mut AnyConnection, row: &JobRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO jobs (id, project_id, key_id, node, status, phase, base, suffix, model, seed, training_file, \
         validation_file, method, metadata, max_seconds, max_nanos, created_at, published, steps_done, trained_tokens, \
         trained_millis, version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 0, 0, 0, 0, 1)",
    )
    .bind(row.id.clone())
    .bind(row.project_id.clone())
    .bind(row.key_id.clone())
    .bind(row.node.clone())
    .bind(row.status.clone())
    .bind(row.phase.clone())
    .bind(row.base.clone())
    .bind(row.suffix.clone())
    .bind(row.model.clone())
    .bind(row.seed)
    .bind(row.training_file.clone())
    .bind(row.validation_file.clone())
    .bind(row.method.clone())
    .bind(row.metadata.clone())
    .bind(row.max_seconds)
    .bind(row.max_nanos)
    .bind(row.created_at)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a job"))?;
    Ok(())
}

/// Changes everything of a job that can change; false where somebody else has changed it meanwhile. The row's version is counted up.
pub async fn update(connection: &mut AnyConnection, row: &mut JobRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE jobs SET status = $1, phase = $2, settings = $3, started_at = $4, finished_at = $5, estimated_finish = $6, \
         published = $7, result_file = $8, steps = $9, steps_done = $10, trained_tokens = $11, trained_millis = $12, \
         error_code = $13, error_message = $14, error_param = $15, holder = $16, state = $17, version = version + 1 \
         WHERE id = $18 AND version = $19",
    )
    .bind(row.status.clone())
    .bind(row.phase.clone())
    .bind(row.settings.clone())
    .bind(row.started_at)
    .bind(row.finished_at)
    .bind(row.estimated_finish)
    .bind(row.published)
    .bind(row.result_file.clone())
    .bind(row.steps)
    .bind(row.steps_done)
    .bind(row.trained_tokens)
    .bind(row.trained_millis)
    .bind(row.error_code.clone())
    .bind(row.error_message.clone())
    .bind(row.error_param.clone())
    .bind(row.holder.clone())
    .bind(row.state.clone())
    .bind(row.id.clone())
    .bind(row.version)
    .execute(connection)
    .await
    .map_err(StoreError::sql("change a job"))?;
    let changed = done.rows_affected() == 1;
    row.version += i64::from(changed);
    Ok(changed)
}

/// Says that a process is alive that holds jobs.
pub async fn beat(connection: &mut AnyConnection, holder: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE jobs SET beat = beat + 1 WHERE holder = $1 AND status IN ('validating_files', 'running')")
        .bind(holder.to_owned())
        .execute(connection)
        .await
        .map_err(StoreError::sql("say that a job is worked on"))?;
    Ok(())
}

/// Gives a node's jobs to another name; the node holds what it was working on.
pub async fn give(connection: &mut AnyConnection, from: &str, to: &str) -> Result<(), StoreError> {
    let query = sqlx::query("UPDATE jobs SET node = $1, holder = $2 WHERE node = $2").bind(to.to_owned()).bind(from.to_owned());
    query.execute(connection).await.map_err(StoreError::sql("give jobs to all replicas"))?;
    Ok(())
}

/// Adds an event.
pub async fn insert_event(connection: &mut AnyConnection, row: &EventRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO job_events (id, job_id, created_micros, level, kind, message, data) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(row.id.clone())
    .bind(row.job_id.clone())
    .bind(row.created_micros)
    .bind(row.level)
    .bind(row.kind)
    .bind(row.message.clone())
    .bind(row.data.clone())
    .execute(connection)
    .await
    .map_err(StoreError::sql("add an event"))?;
    Ok(())
}

/// Events of a job in pages. A cursor of another job is an unknown one.
pub async fn events(connection: &mut AnyConnection, job_id: &str, paging: &Paging) -> Result<Page<EventRow>, StoreError> {
    of_job(connection, "job_events", job_id, paging).await?;
    let select = "SELECT id, job_id, created_micros, level, kind, message, data FROM job_events WHERE";
    let listed = Listed { table: "job_events", prefix: "", time: "created_micros" };
    Query::new(select).with(" job_id = ?", job_id).page(connection, &listed, paging, event).await
}

/// Data of a job's last event whose data has such a field (a name of ours, without quotation marks).
pub async fn last_data_with(connection: &mut AnyConnection, job_id: &str, field: &str) -> Result<Option<String>, StoreError> {
    let query = Query::new("SELECT data FROM job_events WHERE").with(" job_id = ?", job_id);
    let query = query.and("data LIKE ?", Some(format!("%\"{field}\":%").as_str()));
    let query = query.then(" ORDER BY created_micros DESC, id DESC LIMIT 1");
    query.read(connection, "read an event's data", |row| row.try_get(0)).await.map(first)
}

/// A job, whosever it is; for operators.
pub async fn find(connection: &mut AnyConnection, id: &str) -> Result<Option<JobRow>, StoreError> {
    Query::new(JOB).and("id = ?", Some(id)).read(connection, "read a job", job).await.map(first)
}

/// When the last event of a job was, microseconds since 1970; 0 where there is none.
pub async fn last_event_micros(connection: &mut AnyConnection, job_id: &str) -> Result<i64, StoreError> {
    let query = Query::new("SELECT COALESCE(MAX(created_micros), 0) FROM job_events WHERE").with(" job_id = ?", job_id);
    Ok(query.read(connection, "read an event's time", |row| number(row, 0)).await.map(first)?.unwrap_or(0))
}

async fn of_job(connection: &mut AnyConnection, table: &str, job_id: &str, paging: &Paging) -> Result<(), StoreError> {
    let Some(after) = &paging.after else { return Ok(()) };
    let known =
        Query::new(&format!("SELECT id FROM {table} WHERE")).with(" job_id = ?", job_id).and("id = ?", Some(after.as_str()));
    let known = known.fetch(connection, "look for a cursor").await?;
    if known.is_empty() { Err(StoreError::UnknownCursor(after.clone())) } else { Ok(()) }
}

/// Adds a checkpoint; one of the same step is replaced, and keeps its id.
pub async fn insert_checkpoint(connection: &mut AnyConnection, row: &CheckpointRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO job_checkpoints (id, job_id, step, model, metrics, created_at) VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (job_id, step) DO UPDATE SET model = excluded.model, metrics = excluded.metrics",
    )
    .bind(row.id.clone())
    .bind(row.job_id.clone())
    .bind(row.step)
    .bind(row.model.clone())
    .bind(row.metrics.clone())
    .bind(row.created_at)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a checkpoint"))?;
    Ok(())
}

/// Whether a step of a job has a checkpoint.
pub async fn has_checkpoint(connection: &mut AnyConnection, job_id: &str, step: i64) -> Result<bool, StoreError> {
    let found = sqlx::query("SELECT id FROM job_checkpoints WHERE job_id = $1 AND step = $2")
        .bind(job_id.to_owned())
        .bind(step)
        .fetch_optional(connection)
        .await
        .map_err(StoreError::sql("look for a checkpoint"))?;
    Ok(found.is_some())
}

/// Checkpoints of a job in pages.
pub async fn checkpoints(
    connection: &mut AnyConnection,
    job_id: &str,
    paging: &Paging,
) -> Result<Page<CheckpointRow>, StoreError> {
    of_job(connection, "job_checkpoints", job_id, paging).await?;
    let select = "SELECT id, job_id, step, model, metrics, created_at FROM job_checkpoints WHERE";
    let listed = Listed { table: "job_checkpoints", prefix: "", time: "step" };
    Query::new(select).with(" job_id = ?", job_id).page(connection, &listed, paging, checkpoint).await
}

/// Writes what was measured at a step; a step that is done again replaces it.
pub async fn put_metric(connection: &mut AnyConnection, job_id: &str, row: &MetricRow) -> Result<(), StoreError> {
    // The shortest text that reads back the same.
    let text = |value: Option<f64>| value.map(|value| format!("{value}"));
    sqlx::query(
        "INSERT INTO job_metrics (job_id, step, train_loss, train_accuracy, valid_loss, valid_accuracy) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (job_id, step) DO UPDATE SET train_loss = excluded.train_loss, \
         train_accuracy = excluded.train_accuracy, valid_loss = excluded.valid_loss, valid_accuracy = excluded.valid_accuracy",
    )
    .bind(job_id.to_owned())
    .bind(row.step)
    .bind(text(Some(row.train_loss)))
    .bind(text(row.train_accuracy))
    .bind(text(row.valid_loss))
    .bind(text(row.valid_accuracy))
    .execute(connection)
    .await
    .map_err(StoreError::sql("write metrics"))?;
    Ok(())
}

/// What was measured, step by step.
pub async fn metrics(connection: &mut AnyConnection, job_id: &str) -> Result<Vec<MetricRow>, StoreError> {
    let select = "SELECT step, train_loss, train_accuracy, valid_loss, valid_accuracy FROM job_metrics WHERE";
    let query = Query::new(select).with(" job_id = ?", job_id).then(" ORDER BY step");
    query.read(connection, "read metrics", metric).await
}
