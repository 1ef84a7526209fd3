//! The desk where jobs are asked for, looked at and stopped. What is asked is written down; the driver does it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::corrections::Corrections;
use super::files::{Files, Purpose};
use super::job::{Method, Phase, Status, check_suffix, model_name};
use super::pulse::Pulse;
use super::record::{self, Event, Notes};
use super::runs::{MADE, VERSION};
use super::work::Stop;
use super::{JobsError, Page, Paging, new_id, unix_now};
pub use crate::store::jobs::{CheckpointRow, EventRow, JobRow};
use crate::store::{Database, jobs as rows};

/// Jobs of a tenant that have not ended, at most.
const MOST_UNFINISHED: i64 = 100;
/// How often a change is tried again that somebody else was faster with.
const TRIES: usize = 8;

/// What ends a job that takes more than its owner or the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Most seconds of training; a job can ask for less.
    pub seconds: u64,
}

/// What jobs are made of.
pub struct DeskSetup {
    /// Files of clients.
    pub files: Files,
    /// Public name of the base.
    pub base: String,
    /// Caps of every job.
    pub caps: Caps,
    /// Why nothing can be trained here, where that is so.
    pub untrainable: Option<&'static str>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Who pays.
    pub tenant: Arc<str>,
    /// The key that asks.
    pub key_id: String,
    /// The base.
    pub model: String,
    /// Id of the file to learn from.
    pub training_file: String,
    /// Id of the file to judge by.
    pub validation_file: Option<String>,
    /// How.
    pub method: Method,
    /// Part of the model's name.
    pub suffix: Option<String>,
    /// Of everything that is drawn by lot.
    pub seed: Option<i64>,
    /// JSON object, for its owner.
    pub metadata: Option<String>,
    /// Most seconds of training.
    pub max_seconds: Option<u64>,
    /// Most nano-dollars.
    pub max_nanos: Option<i64>,
}

/// How a version came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The job.
    pub row: JobRow,
    /// What was found in its files: rows, tokens, digest.
    pub read: Option<Value>,
    /// What its last session was made with.
    pub(super) began: Option<Value>,
    /// The version that it has made.
    pub(super) version: Option<Value>,
    /// The gate's decision and the evaluation behind it.
    pub examined: Option<Value>,
}

/// The desk; cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) files: Files,
    corrections: Corrections,
    pub(super) database: Database,
    pub(super) node: String,
    pub(super) base: String,
    caps: Caps,
    untrainable: Option<&'static str>,
    /// Counts changes of jobs, for those who follow one.
    changes: watch::Sender<u64>,
    /// The process ends: whoever follows a job is let go.
    closing: AtomicBool,
    /// The jobs that are worked on, and how to stop that.
    current: Mutex<BTreeMap<String, Arc<Stop>>>,
    pub(super) pulse: Pulse,
}

impl Jobs {
    /// Opens the desk.
    pub fn new(setup: DeskSetup) -> Self {
        let DeskSetup { files, base, caps, untrainable } = setup;
        let (database, node) = (files.inner.database.clone(), files.inner.node.clone());
        let (changes, closing, current) = (watch::Sender::new(0), AtomicBool::new(false), Mutex::default());
        let pulse = Pulse::default();
        let corrections = Corrections::new(files.clone());
        let inner = Inner { files, corrections, database, node, base, caps, untrainable, changes, closing, current, pulse };
        Self { inner: Arc::new(inner) }
    }

    /// Files of clients.
    pub fn files(&self) -> &Files {
        &self.inner.files
    }

    /// Answers of /convert, and what would have been right.
    pub fn corrections(&self) -> &Corrections {
        &self.inner.corrections
    }

    /// Whether training gets anywhere.
    pub fn pulse(&self) -> &Pulse {
        &self.inner.pulse
    }

    /// Jobs that are worked on in this process: those that train, and those whose files are checked.
    pub fn active(&self) -> usize {
        self.current().len()
    }

    /// Wakes whenever a job has changed in this process.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    pub(super) fn changed(&self) {
        self.inner.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Lets those go who follow a job: the process ends.
    pub fn close(&self) {
        self.inner.closing.store(true, Ordering::SeqCst);
        self.changed();
    }

    /// Whether the process ends.
    pub fn is_closing(&self) -> bool {
        self.inner.closing.load(Ordering::SeqCst)
    }

    fn current(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Stop>>> {
        self.inner.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work on a job begins; the answer is asked to stop where that is wanted.
    pub(super) fn begin_work(&self, job: &str) -> Arc<Stop> {
        let stop = Arc::new(Stop::default());
        self.current().insert(job.to_owned(), Arc::clone(&stop));
        stop
    }

    /// Work on a job has ended.
    pub(super) fn end_work(&self, job: &str) {
        self.current().remove(job);
    }

    /// Stops the work on a job, or on all.
    pub(super) fn stop_work(&self, job: Option<&str>) {
        let wanted = |(id, _): &(&String, &Arc<Stop>)| job.is_none_or(|job| job == *id);
        self.current().iter().filter(wanted).for_each(|(_, stop)| stop.ask());
    }

    /// Asks for a job.
    pub async fn create(&self, new: NewJob) -> Result<JobRow, JobsError> {
        let inner = &self.inner;
        if let Some(reason) = inner.untrainable {
            return Err(unavailable(reason));
        }
        if new.model != inner.base {
            let shown: String = new.model.chars().take(64).collect();
            let problem = format!("{shown:?} cannot be fine-tuned here; the base {:?} can", inner.base);
            return Err(JobsError::invalid("model", problem));
        }
        let suffix = new.suffix.unwrap_or_default();
        check_suffix(&suffix)?;
        let node = self.check_file(&new.tenant, "training_file", &new.training_file).await?;
        if let Some(validation) = &new.validation_file
            && self.check_file(&new.tenant, "validation_file", validation).await? != node
        {
            return Err(JobsError::invalid("validation_file", "it lies with another server than the training file"));
        }
        let seconds = new.max_seconds.unwrap_or(inner.caps.seconds).min(inner.caps.seconds);
        let row = JobRow {
            id: new_id("ftjob-"),
            project_id: new.tenant.to_string(),
            key_id: new.key_id,
            node,
            status: Status::ValidatingFiles.name().to_owned(),
            phase: Phase::Queued.name().to_owned(),
            base: new.model,
            model: model_name(&inner.base, &new.tenant, &suffix),
            suffix,
            seed: new.seed.unwrap_or_else(|| i64::from(rand::random::<u32>() >> 1)),
            training_file: new.training_file,
            validation_file: new.validation_file,
            method: serde_json::to_string(&new.method).map_err(|error| JobsError::invalid("method", error.to_string()))?,
            settings: None,
            metadata: new.metadata,
            max_seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            max_nanos: new.max_nanos,
            created_at: unix_now(),
            started_at: None,
            finished_at: None,
            estimated_finish: None,
            published: 0,
            result_file: None,
            steps: None,
            steps_done: 0,
            trained_tokens: 0,
            trained_millis: 0,
            error_code: None,
            error_message: None,
            error_param: None,
            version: 1,
            holder: String::new(),
            beat: 0,
            state: None,
        };
        {
            let mut connection = inner.database.connection().await?;
            if rows::unfinished(&mut connection, &row.project_id).await? >= MOST_UNFINISHED {
                let message =
                    format!("This project has {MOST_UNFINISHED} fine-tuning jobs that have not ended; no more are taken.");
                return Err(JobsError::refused("too_many_jobs", message));
            }
        }
        record::create(&inner.database, &row).await?;
        self.changed();
        Ok(row)
    }

    /// The node of a file that can be trained on.
    async fn check_file(&self, tenant: &str, field: &'static str, id: &str) -> Result<String, JobsError> {
        let shown: String = id.chars().take(64).collect();
        let row = self.inner.files.get(tenant, id).await.map_err(|error| match error {
            JobsError::NotFound { .. } => JobsError::invalid(field, format!("there is no file {shown:?}")),
            other => other,
        })?;
        if row.purpose != Purpose::FineTune.name() {
            let problem = format!("{shown:?} has the purpose '{}'; 'fine-tune' is right", row.purpose);
            return Err(JobsError::invalid(field, problem));
        }
        Ok(row.node)
    }

    /// A tenant's job.
    pub async fn get(&self, tenant: &str, id: &str) -> Result<JobRow, JobsError> {
        let mut connection = self.inner.database.connection().await?;
        rows::get(&mut connection, tenant, id).await?.ok_or_else(|| JobsError::not_found("fine-tuning job", id))
    }

    /// A tenant's jobs.
    pub async fn list(&self, tenant: &str, paging: &Paging) -> Result<Page<JobRow>, JobsError> {
        let mut connection = self.inner.database.connection().await?;
        Ok(rows::list(&mut connection, tenant, paging).await?)
    }

    /// Events of a tenant's job.
    pub async fn events(&self, tenant: &str, id: &str, paging: &Paging) -> Result<Page<EventRow>, JobsError> {
        let job = self.get(tenant, id).await?;
        let mut connection = self.inner.database.connection().await?;
        Ok(rows::events(&mut connection, &job.id, paging).await?)
    }

    /// What is known of how a version came about, whosever it is; for operators.
    pub async fn origin(&self, job: &str) -> Result<Option<Origin>, JobsError> {
        let mut connection = self.inner.database.connection().await?;
        let Some(row) = rows::find(&mut connection, job).await? else { return Ok(None) };
        let mut parsed = [const { None }; 4];
        for (parsed, field) in parsed.iter_mut().zip(["dataset_digest", "evaluation", MADE, VERSION]) {
            let text = rows::last_data_with(&mut connection, job, field).await?;
            *parsed = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        }
        let [read, examined, began, version] = parsed;
        Ok(Some(Origin { row, read, began, version, examined }))
    }

    /// Checkpoints of a tenant's job.
    pub async fn checkpoints(&self, tenant: &str, id: &str, paging: &Paging) -> Result<Page<CheckpointRow>, JobsError> {
        let job = self.get(tenant, id).await?;
        let mut connection = self.inner.database.connection().await?;
        Ok(rows::checkpoints(&mut connection, &job.id, paging).await?)
    }

    /// Ends a job.
    pub async fn cancel(&self, tenant: &str, id: &str) -> Result<JobRow, JobsError> {
        let row = self
            .change(tenant, id, |row| {
                if Status::is_over(&row.status) {
                    return Err(not_now("cancelled", row));
                }
                record::end(row, Status::Cancelled, Phase::Cancelled);
                let event = Event::info("Fine-tuning job was cancelled.");
                Ok(Notes { reached: Some(Phase::Cancelled), ..Notes::event(event) })
            })
            .await?;
        self.stop_work(Some(&row.id));
        Ok(row)
    }

    /// Lets a job wait for [`Jobs::resume`]. What it has done is kept.
    pub async fn pause(&self, tenant: &str, id: &str) -> Result<JobRow, JobsError> {
        let row = self
            .change(tenant, id, |row| {
                if row.status != Status::Running.name() && row.status != Status::Queued.name() {
                    return Err(not_now("paused", row));
                }
                row.status = Status::Paused.name().to_owned();
                row.estimated_finish = None;
                Ok(Notes::event(Event::info("Fine-tuning job was paused.")))
            })
            .await?;
        self.stop_work(Some(&row.id));
        Ok(row)
    }

    /// Lets a paused job wait for its turn again.
    pub async fn resume(&self, tenant: &str, id: &str) -> Result<JobRow, JobsError> {
        self.change(tenant, id, |row| {
            if row.status != Status::Paused.name() {
                return Err(not_now("resumed", row));
            }
            row.status = Status::Queued.name().to_owned();
            Ok(Notes::event(Event::info("Fine-tuning job was resumed.")))
        })
        .await
    }

    /// Ends the jobs of this node that have not ended: its base cannot be trained.
    pub async fn end_unfinished(&self, reason: &str) -> Result<(), JobsError> {
        let found = {
            let mut connection = self.inner.database.connection().await?;
            rows::unfinished_of(&mut connection, &self.inner.node).await?
        };
        for mut row in found {
            record::end(&mut row, Status::Failed, Phase::Failed);
            let message = format!("This server cannot fine-tune any more: {reason}.");
            row.error_code = Some("training_unavailable".to_owned());
            row.error_message = Some(message.clone());
            let notes = Notes { reached: Some(Phase::Failed), ..Notes::event(Event::error(message)) };
            // Where somebody else was faster it is for the next start.
            record::write(&self.inner.database, &mut row, notes).await?;
        }
        self.changed();
        Ok(())
    }

    /// Changes a job's row, again where somebody else was faster.
    async fn change(
        &self,
        tenant: &str,
        id: &str,
        decide: impl Fn(&mut JobRow) -> Result<Notes, JobsError>,
    ) -> Result<JobRow, JobsError> {
        for _ in 0..TRIES {
            let mut row = self.get(tenant, id).await?;
            let notes = decide(&mut row)?;
            if record::write(&self.inner.database, &mut row, notes).await? {
                self.changed();
                return Ok(row);
            }
        }
        Err(JobsError::refused("conflict", "The job changes too fast; please try again."))
    }
}

fn unavailable(reason: &str) -> JobsError {
    JobsError::refused("training_unavailable", format!("This server cannot fine-tune: {reason}."))
}

fn not_now(what: &str, row: &JobRow) -> JobsError {
    JobsError::refused("invalid_status", format!("Fine-tuning job {} is {} and cannot be {what}.", row.id, row.status))
}
