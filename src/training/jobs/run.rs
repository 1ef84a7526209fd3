//! One job from its claim to its end: rows in tokens, steps, checkpoints that can be called at once, evaluation, the result.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::desk::JobRow;
use super::driver::{Shop, method};
use super::error::is_full;
use super::files::{NewFile, Purpose};
use super::job::{Phase, Resolved, Status, checkpoint_name, is_checkpoint};
use super::record::{self, Event, Notes};
use super::runs::{MADE, VERSION};
use super::work::{Exam, Failure, HeldOut, Session, Step, Stop};
use super::{JobsError, new_id, result, unix_now};
use crate::ids::VersionId;
use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::store::jobs::{self as rows, CheckpointRow, MetricRow};
use crate::training::alerts::Alerts;
use crate::training::dataset::render::Question;

/// Events of single steps at most; of longer jobs every so many steps have one.
const STEP_EVENTS: u64 = 1_000;
/// How often the last files of a job are tried to be written on a disk that is full.
const FULL_TRIES: u32 = 8;

/// How often the last progress is written into a row that somebody else changes meanwhile.
const CHANGED_TRIES: u32 = 5;

/// How a job's work ended without success.
#[derive(Debug)]
pub(super) enum Ending {
    /// Somebody paused or cancelled it, or the process ends. What it goes on from is saved.
    Left,
    /// It cannot be done.
    Failed {
        /// For programs.
        code: &'static str,
        /// For people.
        message: String,
        /// The field at fault.
        param: Option<&'static str>,
    },
    /// What went wrong may pass: it stays as it was and is done again.
    Later(String),
}

/// A job at work.
pub(super) struct Run<'a> {
    shop: &'a Shop,
    row: &'a mut JobRow,
    stop: Arc<Stop>,
    dir: PathBuf,
    /// Not written down yet.
    pending: Notes,
    /// Of the last step.
    last: Option<MetricRow>,
    noted: Instant,
    saved: Instant,
    owner_asked: Instant,
    /// Since when training time is not counted yet.
    counted: Instant,
    /// How long the session was held, until now and until then: that is no training.
    waited: (Duration, Duration),
    alerts: Alerts,
    began: Instant,
    /// Held-out rows for the examination.
    questions: Vec<Question>,
    /// Of the held-out rows, the last time that it was measured.
    held_out_loss: Option<f64>,
    /// Shared states that the row in the database may still name.
    old: Vec<String>,
}

impl<'a> Run<'a> {
    pub(super) fn new(shop: &'a Shop, row: &'a mut JobRow, stop: Arc<Stop>) -> Self {
        let now = Instant::now();
        let dir = shop.dir_of(&row.id);
        let (noted, saved, owner_asked, counted) = (now, now, now, now);
        Self {
            shop,
            row,
            stop,
            dir,
            pending: Notes::default(),
            last: None,
            noted,
            saved,
            owner_asked,
            counted,
            waited: (Duration::ZERO, Duration::ZERO),
            alerts: Alerts::default(),
            began: now,
            questions: Vec::new(),
            held_out_loss: None,
            old: Vec::new(),
        }
    }

    pub(super) fn work_to_its_end(mut self) -> Result<(), Ending> {
        let asked = method(self.row)?;
        self.shop.check_owner(self.row)?;
        let task = self.shop.task(self.row, asked.kind)?;
        let material = self.shop.workshop.read(&task, &self.stop)?;
        // What was resolved once stays: a restart must not change it.
        let resolved = match self.row.settings.as_deref().map(serde_json::from_str::<Resolved>) {
            Some(Ok(resolved)) => resolved,
            _ => asked.resolve(material.facts(), self.shop.workshop.base_parameters()),
        };
        self.row.settings = serde_json::to_string(&resolved).ok();
        self.questions = material.questions();
        std::fs::create_dir_all(&self.dir).map_err(|error| ending_of_io(&error))?;
        let state = self.dir.join("state");
        let fetched = self.shop.runtime.block_on(self.shop.jobs.fetch_state(self.row, &state));
        fetched.map_err(|error| Ending::Later(error.to_string()))?;
        let resume = Some(state.as_path()).filter(|state| state.exists());
        let mut session = material.begin(&resolved, resume, &self.stop)?;
        self.row.steps = i64::try_from(session.steps()).ok();
        self.last = self.last_metric();
        let to_fit = session.changes().iter().map(|change| Event::warn(format!("To fit into memory: {change}.")));
        self.pending.events.extend(to_fit);
        self.phase(Phase::ModelLoaded, Event::info("Base and adapter are in memory."))?;
        let mut with = json!(resolved);
        with[MADE] = json!(session.made());
        self.phase(Phase::Training, Event::info("Training began.").with(with))?;
        (self.counted, self.waited) = (Instant::now(), (session.waited(), session.waited()));
        let ended = self.train(session.as_mut(), &resolved, &state).and_then(|()| self.finish(session.as_mut()));
        if matches!(ended, Err(Ending::Left | Ending::Later(_))) {
            self.leave(session.as_ref(), &state);
        }
        ended
    }

    fn train(&mut self, session: &mut dyn Session, with: &Resolved, state: &Path) -> Result<(), Ending> {
        let steps = session.steps();
        let begun = session.step_number();
        // It was left between the step and its checkpoint.
        if is_checkpoint(begun, steps, with.n_epochs) && begun < steps && !self.has_checkpoint(begun)? {
            self.checkpoint(session, begun)?;
        }
        while session.step_number() < steps {
            if self.stop.is_asked() {
                return Err(Ending::Left);
            }
            let step = session.step()?;
            self.waited.0 = session.waited();
            self.note_step(&step, steps);
            let number = session.step_number();
            if is_checkpoint(number, steps, with.n_epochs) && number < steps {
                self.checkpoint(session, number)?;
                self.save(session, state);
                if self.began.elapsed() >= self.shop.rhythm.turn && self.shop.others_wait(self.row) {
                    self.row.status = Status::Queued.name().to_owned();
                    self.row.estimated_finish = None;
                    self.row.holder.clear();
                    self.phase(Phase::Queued, Event::info("Another project's job has its turn; this one goes on afterwards."))?;
                    return Err(Ending::Left);
                }
            } else if self.noted.elapsed() >= self.shop.rhythm.note {
                self.note(steps)?;
            }
            if self.saved.elapsed() >= self.shop.rhythm.save {
                self.save(session, state);
            }
        }
        Ok(())
    }

    /// Evaluates, publishes, and writes down that it succeeded.
    fn finish(&mut self, session: &mut dyn Session) -> Result<(), Ending> {
        let steps = session.steps();
        self.phase(Phase::Evaluating, Event::info("Evaluating."))?;
        self.checkpoint(session, steps)?;
        let (dir, model) = (self.dir.join("export"), self.row.model.clone());
        let mut published = None;
        self.in_spite_of_a_full_disk(|run| {
            published = Some(run.publish(session, &dir, &model)?);
            Ok(())
        })?;
        self.succeed(&model, published).or_else(|ending| self.take_back(&model, ending))
    }

    /// What follows when the model is there.
    fn succeed(&mut self, model: &str, published: Option<VersionId>) -> Result<(), Ending> {
        self.examine(model)?;
        // Examining is no training.
        self.counted = Instant::now();
        self.row.result_file = self.result_file()?;
        record::end(self.row, Status::Succeeded, Phase::Completed);
        self.row.published = 1;
        let event = Event::info(format!("New fine-tuned model created: {model}"));
        self.pending.events.push(event.with(json!({VERSION: published})));
        self.pending.events.push(Event::info("The job has successfully completed"));
        self.pending.reached = Some(Phase::Completed);
        self.write_pending()
    }

    /// A job that has not succeeded has no model. One whose success was written down although it did not look so has.
    fn take_back(&self, model: &str, ending: Ending) -> Result<(), Ending> {
        let jobs = &self.shop.jobs;
        match self.shop.runtime.block_on(jobs.get(&self.row.project_id, &self.row.id)) {
            Ok(row) if row.published != 0 => Ok(()),
            // It is somebody else's model now.
            Ok(row) if jobs.is_lost(&row) => Err(ending),
            Ok(_) => {
                let gone = self.shop.runtime.block_on(self.shop.catalog.delete_trained(&self.row.project_id, model));
                if let Err(error) = gone {
                    tracing::warn!(%error, "the model of a job that has not succeeded is still there");
                }
                Err(ending)
            }
            // Nobody knows: it stays.
            Err(error) => {
                tracing::warn!(%error, "it cannot be asked whether a job has succeeded");
                Err(ending)
            }
        }
    }

    /// Writes the row and what is pending, which stays where somebody else has changed the row.
    fn write_pending(&mut self) -> Result<(), Ending> {
        if !self.shop.write(self.row, self.pending.clone())? {
            return Err(Ending::Left);
        }
        self.pending = Notes::default();
        self.shop.runtime.block_on(self.remove_old());
        Ok(())
    }

    /// Removes states that the row does not name any more.
    async fn remove_old(&mut self) {
        for state in std::mem::take(&mut self.old) {
            if self.row.state.as_ref() != Some(&state) {
                self.shop.jobs.remove_states(&self.row.id, Some(&state)).await;
            }
        }
    }

    /// Whether a step's checkpoint is written down. Where it is not, what was measured at the step is remembered for it.
    fn has_checkpoint(&mut self, step: u64) -> Result<bool, Ending> {
        let number = i64::try_from(step).unwrap_or(i64::MAX);
        let read = self.shop.runtime.block_on(async {
            let mut connection = self.shop.jobs.inner.database.connection().await?;
            let there = rows::has_checkpoint(&mut connection, &self.row.id, number).await?;
            Ok::<_, StoreError>((there, rows::metrics(&mut connection, &self.row.id).await?))
        });
        let (there, measured) = read.map_err(|error| Ending::Later(error.to_string()))?;
        self.last = measured.into_iter().find(|metric| metric.step == number).or_else(|| self.last.take());
        Ok(there)
    }

    /// Has the model judged, and keeps the verdict with it. A model that could not be judged is there all the same, for its owner.
    fn examine(&mut self, model: &str) -> Result<(), Ending> {
        let Some(examiner) = self.shop.examiner.as_ref().filter(|_| !self.questions.is_empty()) else { return Ok(()) };
        let exam = Exam {
            tenant: self.row.project_id.clone(),
            model: model.to_owned(),
            suffix: self.row.suffix.clone(),
            questions: std::mem::take(&mut self.questions),
            loss: self.held_out_loss,
        };
        let stopped = Arc::new(Notify::new());
        let hook = Arc::clone(&stopped);
        self.stop.when_asked(move || hook.notify_one());
        let examined = self.shop.runtime.block_on(async {
            tokio::select! {
                examined = examiner.examine(exam) => Some(examined),
                () = stopped.notified() => None,
            }
        });
        let examined = examined.ok_or(Ending::Left)?;
        let kept = examined.and_then(|examined| {
            let judged = self.shop.catalog.judge(&self.row.project_id, model, examined.judged);
            self.shop.runtime.block_on(judged).map(|()| examined).map_err(|error| error.to_string())
        });
        self.pending.events.push(match kept {
            Ok(examined) => Event::info(examined.sentence).with(examined.report),
            Err(reason) => Event::warn(format!("The model could not be evaluated: {reason}.")),
        });
        Ok(())
    }

    fn note_step(&mut self, step: &Step, steps: u64) {
        let number = i64::try_from(step.step).unwrap_or(i64::MAX);
        let metric = MetricRow {
            step: number,
            train_loss: step.loss,
            train_accuracy: step.accuracy,
            valid_loss: None,
            valid_accuracy: None,
        };
        self.last = Some(metric.clone());
        self.pending.metrics.push(metric);
        // Steps that are done again after a restart were counted and told before.
        if number <= self.row.steps_done {
            return;
        }
        self.shop.jobs.pulse().step(step.tokens, Instant::now());
        self.row.steps_done = number;
        self.row.trained_tokens += i64::try_from(step.tokens).unwrap_or(0);
        self.pending.events.extend(self.alerts.after_step(step.loss).map(Event::warn));
        if step.step.is_multiple_of(steps.div_ceil(STEP_EVENTS).max(1)) || step.step == steps {
            let rate = if step.seconds > 0.0 { step.tokens as f64 / step.seconds } else { 0.0 };
            let data = json!({
                "step": step.step, "total_steps": steps, "train_loss": step.loss,
                "train_mean_token_accuracy": step.accuracy, "tokens_per_second": rate,
                "cost_usd": self.cost() as f64 / 1e9,
            });
            self.pending.events.push(Event::metrics(format!("Step {}/{steps}: training loss={:.4}", step.step, step.loss), data));
        }
    }

    /// Writes down what is pending, and ends what went beyond its caps.
    fn note(&mut self, steps: u64) -> Result<(), Ending> {
        self.noted = Instant::now();
        self.count_time();
        let left = i64::try_from(steps).unwrap_or(0) - self.row.steps_done;
        self.row.estimated_finish =
            (self.row.trained_millis * left).checked_div(self.row.steps_done).map(|millis| unix_now() + millis / 1_000);
        self.write_pending()?;
        // What is done is done.
        if left <= 0 {
            return Ok(());
        }
        if self.row.trained_millis > self.row.max_seconds.saturating_mul(1_000) {
            let message = format!("The job has trained for the {} seconds that it may.", self.row.max_seconds);
            return Err(Ending::Failed { code: "time_limit_reached", message, param: None });
        }
        let cost = self.cost();
        if let Some(most) = self.row.max_nanos.filter(|most| cost > *most) {
            let message = format!("The job has cost the {:.2} dollars that it may.", most as f64 / 1e9);
            return Err(Ending::Failed { code: "cost_limit_reached", message, param: None });
        }
        if self.owner_asked.elapsed() >= self.shop.rhythm.owner {
            self.owner_asked = Instant::now();
            self.shop.check_owner(self.row)?;
        }
        Ok(())
    }

    /// Time in which it was held is not its own.
    fn count_time(&mut self) {
        let (waited, before) = self.waited;
        let spent = self.counted.elapsed().saturating_sub(waited.saturating_sub(before));
        (self.counted, self.waited.1) = (Instant::now(), waited);
        self.row.trained_millis += i64::try_from(spent.as_millis()).unwrap_or(0);
    }

    fn cost(&self) -> i64 {
        let tokens = u64::try_from(self.row.trained_tokens).unwrap_or(0);
        (self.shop.cost)(&self.row.project_id, &self.row.base, tokens)
    }

    /// Measures, publishes and writes down what was learnt up to this step.
    fn checkpoint(&mut self, session: &mut dyn Session, step: u64) -> Result<(), Ending> {
        let held_out = session.evaluate()?;
        self.waited.0 = session.waited();
        self.note_held_out(held_out);
        let model = checkpoint_name(&self.row.model, step);
        let dir = self.dir.join("export");
        match self.publish(session, &dir, &model) {
            Ok(_) => {
                self.pending.checkpoint = Some(CheckpointRow {
                    id: new_id("ftckpt_"),
                    job_id: self.row.id.clone(),
                    step: i64::try_from(step).unwrap_or(i64::MAX),
                    model: model.clone(),
                    metrics: metrics(step, self.last.as_ref(), held_out).to_string(),
                    created_at: unix_now(),
                });
                let event = Event::info(format!("Checkpoint created at step {step} with name: {model}"));
                self.pending.events.push(event.with(json!({"step": step, "fine_tuned_model_checkpoint": model})));
            }
            // The next one may fit.
            Err(Failure::DiskFull) => {
                let message = format!("The server's disk is full: the checkpoint at step {step} is left out.");
                self.pending.events.push(Event::warn(message));
            }
            Err(failure) => return Err(failure.into()),
        }
        self.note(session.steps())
    }

    /// Of an earlier session.
    fn last_metric(&self) -> Option<MetricRow> {
        let asked = self.shop.runtime.block_on(async {
            let mut connection = self.shop.jobs.inner.database.connection().await?;
            rows::metrics(&mut connection, &self.row.id).await
        });
        // Without it the last line of the table may lack the held-out rows.
        asked.ok()?.into_iter().next_back()
    }

    fn note_held_out(&mut self, held_out: Option<HeldOut>) {
        let Some(HeldOut { loss, accuracy }) = held_out else { return };
        self.held_out_loss = Some(loss);
        if let Some(metric) = &self.last {
            // It replaces the step's row, which may be written down already.
            self.pending.metrics.push(MetricRow { valid_loss: Some(loss), valid_accuracy: accuracy, ..metric.clone() });
        }
        self.pending.events.extend(self.alerts.after_evaluation(loss).map(Event::warn));
    }

    /// Writes the adapter's files and puts them behind a name of the job's owner.
    fn publish(&self, session: &dyn Session, dir: &Path, model: &str) -> Result<VersionId, Failure> {
        session.export(dir)?;
        let publishing = self.shop.catalog.publish(&self.row.id, &self.row.project_id, model, dir.to_owned());
        let published = self.shop.runtime.block_on(publishing);
        // The catalog has its own copy.
        if let Err(error) = std::fs::remove_dir_all(dir) {
            tracing::debug!(%error, "an adapter's files are not removed yet");
        }
        match published {
            Ok(loaded) => Ok(loaded.id),
            Err(RegistryError::Storage(StoreError::Io { source, .. })) if is_full(&source) => Err(Failure::DiskFull),
            Err(error @ (RegistryError::Storage(_) | RegistryError::Prepare(_) | RegistryError::Interrupted)) => {
                Err(Failure::Later(error.to_string()))
            }
            Err(error) => {
                tracing::error!(%error, job = self.row.id, "an adapter that was trained cannot be served");
                let message = "What was learnt cannot be put into service; the server's log says why.";
                Err(Failure::job("model_not_servable", message))
            }
        }
    }

    /// What has to be kept at the end is tried again for some minutes where there is no room.
    fn in_spite_of_a_full_disk(&mut self, mut work: impl FnMut(&mut Self) -> Result<(), Failure>) -> Result<(), Ending> {
        let mut pause = self.shop.rhythm.again;
        for attempt in 1.. {
            match work(self) {
                Err(Failure::DiskFull) if attempt < FULL_TRIES && !self.stop.is_asked() => {}
                Err(Failure::DiskFull) if self.stop.is_asked() => return Err(Ending::Left),
                other => return Ok(other?),
            }
            if attempt == 1 {
                self.pending.events.push(Event::warn("The server's disk is full; the model is kept as soon as there is room."));
            }
            let steps = u64::try_from(self.row.steps_done).unwrap_or(0);
            self.note(steps)?;
            self.shop.wait(pause);
            pause *= 2;
        }
        Ok(())
    }

    /// The metrics of all steps as a file of the job's owner.
    fn result_file(&mut self) -> Result<Option<String>, Ending> {
        let steps = u64::try_from(self.row.steps_done).unwrap_or(0);
        self.note(steps)?;
        let made = self.shop.runtime.block_on(async {
            let files = self.shop.jobs.files();
            let measured = {
                let mut connection = self.shop.jobs.inner.database.connection().await?;
                rows::metrics(&mut connection, &self.row.id).await?
            };
            let mut receiving = files.receive_own(files.largest()).await?;
            receiving.write(&result::csv(&measured)).await?;
            let new = NewFile {
                tenant: self.row.project_id.as_str().into(),
                purpose: Purpose::FineTuneResults,
                filename: "step_metrics.csv".to_owned(),
                seconds: None,
            };
            let content = receiving.finish().await?;
            files.add(new, content).await
        });
        match made {
            Ok(file) => Ok(Some(file.id)),
            // The model is there: the numbers are in the events, too.
            Err(
                error @ (JobsError::OutOfRoom { .. }
                | JobsError::DiskFull
                | JobsError::TooManyUploads
                | JobsError::TooLarge { .. }),
            ) => {
                self.pending.events.push(Event::warn(format!("The file with the metrics was not made: {error}")));
                Ok(None)
            }
            Err(error) => Err(Ending::Later(error.to_string())),
        }
    }

    /// Another state, told to webhooks.
    fn phase(&mut self, phase: Phase, event: Event) -> Result<(), Ending> {
        self.row.phase = phase.name().to_owned();
        self.pending.events.push(event);
        self.pending.reached = Some(phase);
        self.write_pending()
    }

    /// Keeps what a restart goes on from. Where that fails the last one that was kept is still there.
    fn save(&mut self, session: &dyn Session, state: &Path) {
        self.saved = Instant::now();
        if let Err(failure) = session.save(state) {
            tracing::warn!(?failure, job = self.row.id, "what a job goes on from was not saved");
            self.pending.events.push(Event::warn("What a restart would go on from could not be saved; it is tried again."));
            return;
        }
        match self.shop.runtime.block_on(self.shop.jobs.share_state(&self.row.id, state)) {
            Ok(None) => {}
            Ok(Some(shared)) => {
                let before = self.row.state.replace(shared);
                self.old.extend(before);
            }
            Err(error) => tracing::warn!(%error, job = self.row.id, "other replicas cannot go on with a job from here"),
        }
    }

    /// Somebody wants the job to stop, or has changed it.
    fn leave(&mut self, session: &dyn Session, state: &Path) {
        self.save(session, state);
        self.waited.0 = session.waited();
        self.count_time();
        if let Err(error) = self.shop.runtime.block_on(self.leave_behind()) {
            tracing::warn!(%error, job = self.row.id, "the last progress of a job is not written down");
        }
    }

    /// Writes down what was done, into the row as whoever has changed it wants it.
    async fn leave_behind(&mut self) -> Result<(), JobsError> {
        let jobs = &self.shop.jobs;
        for _ in 0..CHANGED_TRIES {
            let theirs = jobs.get(&self.row.project_id, &self.row.id).await?;
            if jobs.is_lost(&theirs) {
                return Ok(());
            }
            let mut row = JobRow {
                // Others may go on at once.
                holder: String::new(),
                state: self.row.state.clone(),
                settings: self.row.settings.clone(),
                steps: self.row.steps,
                steps_done: self.row.steps_done,
                trained_tokens: self.row.trained_tokens,
                trained_millis: self.row.trained_millis,
                ..theirs
            };
            let mut notes = Notes { reached: None, ..self.pending.clone() };
            if Status::is_over(&row.status) {
                // Nothing is told after the end.
                notes.events.clear();
            }
            if record::write(&jobs.inner.database, &mut row, notes).await? {
                (*self.row, self.pending) = (row, Notes::default());
                self.remove_old().await;
                break;
            }
        }
        Ok(())
    }
}

fn metrics(step: u64, last: Option<&MetricRow>, held_out: Option<HeldOut>) -> Value {
    json!({
        "step": step,
        "train_loss": last.map(|metric| metric.train_loss),
        "train_mean_token_accuracy": last.and_then(|metric| metric.train_accuracy),
        "valid_loss": held_out.map(|held_out| held_out.loss),
        "valid_mean_token_accuracy": held_out.and_then(|held_out| held_out.accuracy),
        "full_valid_loss": held_out.map(|held_out| held_out.loss),
        "full_valid_mean_token_accuracy": held_out.and_then(|held_out| held_out.accuracy),
    })
}

fn ending_of_io(error: &std::io::Error) -> Ending {
    if is_full(error) { Failure::DiskFull.into() } else { Ending::Later(error.to_string()) }
}
