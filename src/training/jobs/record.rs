//! What is written down of a job, in one transaction each: its row, its events, and what webhooks are told, once for each state.

use serde_json::{Value, json};

use super::job::{Phase, Status};
use super::{JobsError, new_id, unix_now};
use crate::store::jobs::{self as rows, CheckpointRow, EventRow, JobRow, MetricRow};
use crate::store::webhooks::{self, DeliveryRow};
use crate::store::{Database, Transaction};

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All is well.
    Info,
    /// Somebody should look.
    Warn,
    /// It went wrong.
    Error,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    level: Level,
    kind: &'static str,
    message: String,
    data: Option<Value>,
}

impl Event {
    /// A sentence.
    pub fn info(message: impl Into<String>) -> Self {
        Self { level: Level::Info, kind: "message", message: message.into(), data: None }
    }

    /// A sentence that somebody should read.
    pub fn warn(message: impl Into<String>) -> Self {
        Self { level: Level::Warn, ..Self::info(message) }
    }

    /// A sentence about what went wrong.
    pub fn error(message: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::info(message) }
    }

    /// Numbers of a step.
    pub fn metrics(message: impl Into<String>, data: Value) -> Self {
        Self { kind: "metrics", data: Some(data), ..Self::info(message) }
    }

    /// The same with data for programs.
    pub fn with(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }
}

/// What is written together with a job's row.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// In order.
    pub events: Vec<Event>,
    /// Of steps.
    pub metrics: Vec<MetricRow>,
    /// A version that was published.
    pub checkpoint: Option<CheckpointRow>,
    /// A state that webhooks are told of.
    pub reached: Option<Phase>,
}

impl Notes {
    /// One event.
    pub fn event(event: Event) -> Self {
        Self { events: vec![event], ..Self::default() }
    }
}

/// Adds a job.
pub async fn create(database: &Database, row: &JobRow) -> Result<(), JobsError> {
    let mut transaction = database.begin().await?;
    rows::insert(&mut transaction, row).await?;
    let notes =
        Notes { reached: Some(Phase::Queued), ..Notes::event(Event::info(format!("Created fine-tuning job: {}", row.id))) };
    note(&mut transaction, row, notes).await?;
    Ok(transaction.commit().await?)
}

/// Writes a job's row with what belongs to it. False where somebody else has changed the row meanwhile: nothing is written then.
pub async fn write(database: &Database, row: &mut JobRow, notes: Notes) -> Result<bool, JobsError> {
    let mut transaction = database.begin().await?;
    let mut changed = row.clone();
    if !rows::update(&mut transaction, &mut changed).await? {
        return Ok(false);
    }
    note(&mut transaction, &changed, notes).await?;
    transaction.commit().await?;
    *row = changed;
    Ok(true)
}

async fn note(transaction: &mut Transaction, row: &JobRow, notes: Notes) -> Result<(), JobsError> {
    let Notes { events, metrics, checkpoint, reached } = notes;
    if !events.is_empty() {
        // No two events of a job have the same time, and none is before another that is there.
        let mut at = unix_micros().max(rows::last_event_micros(transaction, &row.id).await? + 1);
        for Event { level, kind, message, data } in events {
            let event = EventRow {
                id: new_id("ftevent-"),
                job_id: row.id.clone(),
                created_micros: at,
                level: level.name(),
                kind,
                message,
                data: data.map(|data| data.to_string()),
            };
            rows::insert_event(transaction, &event).await?;
            at += 1;
        }
    }
    for metric in &metrics {
        rows::put_metric(transaction, &row.id, metric).await?;
    }
    if let Some(checkpoint) = &checkpoint {
        rows::insert_checkpoint(transaction, checkpoint).await?;
    }
    if let Some(phase) = reached {
        tell(transaction, row, phase).await?;
    }
    Ok(())
}

/// Plans to tell the webhooks of the tenant, and those of the organization; once for each state of a job.
async fn tell(transaction: &mut Transaction, row: &JobRow, phase: Phase) -> Result<(), JobsError> {
    let now = unix_now();
    let event_id = format!("{}:{}", row.id, phase.name());
    let body = hook_body(row, phase, &event_id, now).to_string();
    for webhook_id in webhooks::listening(transaction, Some(&row.project_id)).await? {
        let delivery = DeliveryRow {
            event_id: event_id.clone(),
            webhook_id,
            body: body.clone(),
            created_at: now,
            attempts: 0,
            next_attempt_at: Some(now),
            delivered_at: None,
            last_error: None,
        };
        webhooks::plan(transaction, &delivery).await?;
    }
    Ok(())
}

fn hook_body(row: &JobRow, phase: Phase, event_id: &str, now: i64) -> Value {
    // OpenAI's clients know the last three by these names.
    let kind = match phase {
        Phase::Completed => "succeeded",
        other => other.name(),
    };
    let error = row.error_code.as_ref().map(|code| json!({"code": code, "message": row.error_message, "param": row.error_param}));
    json!({
        "id": event_id,
        "object": "event",
        "type": format!("fine_tuning.job.{kind}"),
        "created_at": now,
        "data": {
            "id": row.id,
            "state": phase.name(),
            "status": row.status,
            "project_id": row.project_id,
            "model": row.base,
            "fine_tuned_model": (row.published != 0).then_some(&row.model),
            "error": error,
        },
    })
}

/// Ends a job in its row.
pub fn end(row: &mut JobRow, status: Status, phase: Phase) {
    row.status = status.name().to_owned();
    row.phase = phase.name().to_owned();
    row.finished_at = Some(unix_now());
    row.estimated_finish = None;
    row.holder.clear();
}

fn unix_micros() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
