//! The record of a job's training, gathered from its row and its events.

use serde_json::Value;

use super::JobsError;
use super::desk::{JobRow, Jobs, Origin};
use super::job::{Facts, Status};
use super::work::Task;
use crate::store::files::FileRow;
use crate::store::jobs::{self as rows, MetricRow};
use crate::training::dataset::split::USUAL_SHARE;
use crate::training::run_record::{Data, FileFacts, Kept, Measure, Outcome, RunRecord, SCHEMA};

/// Field of an event's data: what a session is made with.
pub(super) const MADE: &str = "made";
/// Field of an event's data: the digest of the version that came of it.
pub(super) const VERSION: &str = "version_digest";

/// What a file of a client is.
pub(super) fn file(row: FileRow) -> FileFacts {
    FileFacts { name: row.filename, bytes: u64::try_from(row.bytes).unwrap_or(0), sha256: row.sha256, path: None }
}

/// What a job learns from, when its files have been read.
pub(super) fn data(task: &Task, facts: &Facts) -> Data {
    Data {
        training: task.training_file.clone(),
        validation: task.validation_file.clone(),
        held_out_share: task.validation.is_none().then_some(USUAL_SHARE),
        template_time: task.created_at,
        rows: facts.rows,
        held_out_rows: facts.held_out,
        tokens: facts.tokens,
        truncated_rows: facts.truncated,
        lost_rows: facts.lost,
        missing_rows: facts.missing,
        dataset_digest: facts.digest.clone(),
    }
}

impl Jobs {
    /// The record of a tenant's job.
    pub async fn run(&self, tenant: &str, id: &str) -> Result<RunRecord, JobsError> {
        let row = self.get(tenant, id).await?;
        self.any_run(&row.id).await
    }

    /// The record of a job, whosever it is; for operators.
    pub async fn any_run(&self, id: &str) -> Result<RunRecord, JobsError> {
        let origin = self.origin(id).await?.ok_or_else(|| JobsError::not_found("fine-tuning job", id))?;
        let measured = {
            let mut connection = self.inner.database.connection().await?;
            rows::metrics(&mut connection, id).await?
        };
        Ok(record(origin, &measured))
    }
}

fn record(origin: Origin, measured: &[MetricRow]) -> RunRecord {
    let Origin { row, read, began, version, examined } = origin;
    // What another release wrote in another form is left out.
    let field = |value: Option<Value>, name: &str| value.and_then(|mut value| value.get_mut(name).map(Value::take));
    let made = field(began, MADE).and_then(|made| serde_json::from_value(made).ok());
    let version = field(version, VERSION).and_then(|version| version.as_str().map(str::to_owned));
    let result = version.map(|version| Outcome { version, kept: Kept::Last, model: Some(row.model.clone()) });
    let (gate, mut evaluation) = (field(examined.clone(), "decision"), field(examined, "evaluation"));
    // Answers are in the job's events; a record has the numbers.
    if let Some(evaluation) = evaluation.as_mut().and_then(Value::as_object_mut) {
        evaluation.remove("samples");
    }
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    RunRecord {
        schema: SCHEMA,
        outcome: row.status.clone(),
        error: row.error_message.clone(),
        started_at: row.started_at,
        finished_at: row.finished_at,
        asked: asked(&row),
        data: read.and_then(|read| serde_json::from_value(read).ok()),
        made,
        steps_done: count(row.steps_done),
        trained_tokens: count(row.trained_tokens),
        measured: measures(measured),
        evaluation,
        gate,
        result: result.filter(|_| row.status == Status::Succeeded.name()),
        job: Some(row.id),
    }
}

fn asked(row: &JobRow) -> Value {
    let method = serde_json::from_str(&row.method).unwrap_or(Value::Null);
    serde_json::json!({"method": method, "seed": row.seed, "suffix": row.suffix})
}

/// Steps after which held-out rows were asked, and the last one.
fn measures(measured: &[MetricRow]) -> Vec<Measure> {
    let last = measured.last().map(|row| row.step);
    let wanted = measured.iter().filter(|row| row.valid_loss.is_some() || Some(row.step) == last);
    let measure = |row: &MetricRow| Measure {
        step: u64::try_from(row.step).unwrap_or(0),
        train_loss: Some(row.train_loss),
        held_out_loss: row.valid_loss,
        held_out_accuracy: row.valid_accuracy,
    };
    wanted.map(measure).collect()
}
