//! Takes jobs in their turns and sees them through, on two threads of its own: one checks the files of new jobs, one trains. What
//! was running when a process ended goes on at its next start. Knows nothing of gradients.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::desk::{JobRow, Jobs};
use super::job::{Method, MethodKind, Phase, Status};
use super::queue::{self, Waiting};
use super::record::{self, Event, Notes};
use super::run::{Ending, Run};
use super::shared::Watch;
use super::work::{Examiner, Failure, Task, Workshop};
use super::{JobsError, runs, unix_now};
use crate::registry::Catalog;
use crate::store::{jobs as rows, keys};
use crate::training::run_record::FileFacts;

/// How often it is asked what is to be done, beside when this process knows of something new.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Training time since then counts in whose turn it is, seconds.
const OF_LATE: i64 = 86_400;
/// How long it is tried to write something down before the work is left for later.
const WRITE_TRIES: u32 = 6;
/// How often a job is tried again that gets no further: for more than an hour.
const LATER_TRIES: u32 = 20;

/// What `tokens` of training cost a tenant, nano-dollars.
pub type Cost = Arc<dyn Fn(&str, &str, u64) -> i64 + Send + Sync>;

/// How long things are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Progress is written down this often.
    pub note: Duration,
    /// What a restart goes on from is saved this often, beside at checkpoints.
    pub save: Duration,
    /// Before the first repetition of what failed for reasons that may pass; doubled each time.
    pub again: Duration,
    /// Before a later repetition of a job, at most.
    pub longest: Duration,
    /// How often it is looked whether the key that asked is still good.
    pub owner: Duration,
    /// How long a job trains before another tenant's may have its turn.
    pub turn: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            note: Duration::from_secs(1),
            save: Duration::from_secs(60),
            again: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            owner: Duration::from_secs(10),
            turn: Duration::from_secs(1_800),
        }
    }
}

/// What the driver works with.
pub struct DriverSetup {
    /// What is to be done.
    pub jobs: Jobs,
    /// Who does it.
    pub workshop: Arc<dyn Workshop>,
    /// Who judges what comes of it; without one nothing is judged.
    pub examiner: Option<Arc<dyn Examiner>>,
    /// Where models go.
    pub catalog: Catalog,
    /// The data directory: what jobs keep while they run is below it.
    pub data_dir: PathBuf,
    /// Prices.
    pub cost: Cost,
    /// Timing.
    pub rhythm: Rhythm,
}

/// The running driver. Dropped, it stops by itself soon.
pub struct Driver {
    shop: Arc<Shop>,
    threads: Vec<JoinHandle<()>>,
    ended: oneshot::Receiver<()>,
    beating: tokio::task::JoinHandle<()>,
}

/// What both threads share.
pub(super) struct Shop {
    pub(super) jobs: Jobs,
    pub(super) workshop: Arc<dyn Workshop>,
    pub(super) examiner: Option<Arc<dyn Examiner>>,
    pub(super) catalog: Catalog,
    pub(super) cost: Cost,
    pub(super) rhythm: Rhythm,
    pub(super) runtime: Handle,
    dir: PathBuf,
    stopping: AtomicBool,
    /// Whose files were read last.
    last_checked: Mutex<String>,
    /// Jobs that are left for later.
    later: Mutex<BTreeMap<String, Later>>,
    /// Which of other replicas that train are alive.
    pub(super) training: Mutex<Watch>,
    /// Which of those are that check files.
    pub(super) checking: Mutex<Watch>,
}

/// A job whose trouble may pass.
struct Later {
    /// How often it was tried in vain.
    tries: u32,
    /// How far it had come.
    steps_done: i64,
    /// When it is tried again.
    due: Instant,
}

impl Driver {
    /// Takes up what an earlier process left, and starts. Called on the runtime.
    pub async fn start(setup: DriverSetup) -> Result<Self, JobsError> {
        let DriverSetup { jobs, workshop, examiner, catalog, data_dir, cost, rhythm } = setup;
        let dir = data_dir.join("training");
        std::fs::create_dir_all(&dir).map_err(crate::store::StoreError::io("create", &dir))?;
        let shop = Arc::new(Shop {
            jobs,
            workshop,
            examiner,
            catalog,
            cost,
            rhythm,
            runtime: Handle::current(),
            dir,
            stopping: AtomicBool::new(false),
            last_checked: Mutex::default(),
            later: Mutex::default(),
            training: Mutex::default(),
            checking: Mutex::default(),
        });
        shop.recover().await?;
        let beating = tokio::spawn(shop.jobs.clone().beat());
        let (alive, ended) = oneshot::channel();
        // The receiver hears when the last of the threads has gone.
        let alive = Arc::new(alive);
        let mut threads = Vec::new();
        for (name, work) in [("training", Shop::train as fn(&Shop)), ("training-files", Shop::check_files)] {
            let (shop, alive) = (Arc::clone(&shop), Arc::clone(&alive));
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                work(&shop);
                drop(alive);
            });
            threads.push(thread.map_err(crate::store::StoreError::io("start a thread for", Path::new("training")))?);
        }
        Ok(Self { shop, threads, ended, beating })
    }

    /// Returns when the threads have ended by themselves.
    pub async fn ended(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.ended).await;
    }

    /// Saves what is being done and ends the threads. The next start goes on from there.
    pub async fn stop(mut self) {
        self.shop.stop();
        for thread in std::mem::take(&mut self.threads) {
            // A thread that panicked has said so.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.beating.abort();
        self.shop.stop();
    }
}

impl Shop {
    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.jobs.stop_work(None);
        self.jobs.changed();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Where a job keeps what it goes on from.
    pub(super) fn dir_of(&self, job: &str) -> PathBuf {
        self.dir.join(job)
    }

    /// Says in running jobs that they go on, and removes what jobs that are over have left.
    async fn recover(&self) -> Result<(), JobsError> {
        let (database, node) = (&self.jobs.inner.database, &self.jobs.inner.node);
        let running = {
            let mut connection = database.connection().await?;
            rows::in_status(&mut connection, node, Status::Running.name()).await?
        };
        for mut row in running.into_iter().filter(|row| !self.jobs.are_shared() || row.holder == self.jobs.own()) {
            let message = "The server was restarted; the job goes on from what it has saved.";
            // Where somebody else was faster it is not running any more.
            record::write(database, &mut row, Notes::event(Event::info(message))).await?;
        }
        self.sweep().await
    }

    /// Removes what jobs have left that are over. For when none is at work.
    async fn sweep(&self) -> Result<(), JobsError> {
        let entries = std::fs::read_dir(&self.dir).map_err(crate::store::StoreError::io("read", &self.dir))?;
        let entries: Vec<_> = entries.flatten().collect();
        if entries.is_empty() {
            return Ok(());
        }
        let unfinished = {
            let mut connection = self.jobs.inner.database.connection().await?;
            rows::unfinished_of(&mut connection, &self.jobs.inner.node).await?
        };
        for entry in entries.iter().filter(|entry| !unfinished.iter().any(|job| *job.id == *entry.file_name().to_string_lossy()))
        {
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, "what a job has left is not removed");
            }
        }
        Ok(())
    }

    fn train(&self) {
        let find = |shop: &Self| {
            let found = shop.runtime.block_on(shop.claim())?;
            if found.is_none() {
                shop.runtime.block_on(shop.sweep())?;
            }
            Ok(found)
        };
        self.take_turns(find, Self::see_through);
    }

    fn check_files(&self) {
        self.take_turns(|shop| shop.runtime.block_on(shop.oldest_unchecked()), Self::check);
    }

    /// Does what there is to do, one after another, until it is stopped.
    fn take_turns(&self, find: impl Fn(&Self) -> Result<Option<JobRow>, JobsError>, work: impl Fn(&Self, JobRow)) {
        let mut changes = self.jobs.changes();
        while !self.is_stopping() {
            changes.mark_unchanged();
            let asked = Instant::now();
            match find(self) {
                Ok(Some(row)) => {
                    work(self, row);
                    continue;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "it cannot be asked which job is next"),
            }
            // A change in another process is seen at the next look.
            let look = self.next_look(asked);
            let _ = self.runtime.block_on(async { tokio::time::timeout(look, changes.changed()).await });
        }
    }

    /// The job whose turn it is, as running.
    async fn claim(&self) -> Result<Option<JobRow>, JobsError> {
        let (database, node) = (&self.jobs.inner.database, &self.jobs.inner.node);
        let (running, mut queued, used) = {
            let mut connection = database.connection().await?;
            let running = rows::in_status(&mut connection, node, Status::Running.name()).await?;
            let queued = rows::in_status(&mut connection, node, Status::Queued.name()).await?;
            (running, queued, rows::used_since(&mut connection, node, unix_now() - OF_LATE).await?)
        };
        if running.is_empty() {
            self.jobs.pulse().rest();
        }
        let running = self.free(running, &self.training);
        if let Some(row) = running.into_iter().find(|row| self.is_due(&row.id)) {
            return self.take_up(row).await;
        }
        queued.retain(|row| self.is_due(&row.id));
        let used: BTreeMap<String, i64> = used.into_iter().collect();
        let Some(mut row) = queue::next(&waiting(&queued), &used).and_then(|id| queued.iter().find(|row| row.id == id)).cloned()
        else {
            return Ok(None);
        };
        row.status = Status::Running.name().to_owned();
        row.phase = Phase::Preprocessing.name().to_owned();
        row.started_at = row.started_at.or_else(|| Some(unix_now()));
        self.jobs.own().clone_into(&mut row.holder);
        let notes = Notes { reached: Some(Phase::Preprocessing), ..Notes::event(Event::info("Fine-tuning job started.")) };
        let claimed = record::write(database, &mut row, notes).await?;
        self.jobs.changed();
        // Where somebody has cancelled it meanwhile there may be another one.
        Ok(claimed.then_some(row))
    }

    /// Whether a job of another tenant waits that had less training time of late.
    pub(super) fn others_wait(&self, row: &JobRow) -> bool {
        let (database, node) = (&self.jobs.inner.database, &self.jobs.inner.node);
        let asked = self.runtime.block_on(async {
            let mut connection = database.connection().await?;
            let queued = rows::in_status(&mut connection, node, Status::Queued.name()).await?;
            let used = rows::used_since(&mut connection, node, unix_now() - OF_LATE).await?;
            Ok::<_, crate::store::StoreError>((queued, used.into_iter().collect::<BTreeMap<String, i64>>()))
        });
        // Where it cannot be asked nobody is known to wait.
        let Ok((mut queued, used)) = asked else { return false };
        queued.push(row.clone());
        queue::next(&waiting(&queued), &used)
            .is_some_and(|id| queued.iter().any(|job| job.id == id && job.project_id != row.project_id))
    }

    async fn oldest_unchecked(&self) -> Result<Option<JobRow>, JobsError> {
        let mut connection = self.jobs.inner.database.connection().await?;
        let found = rows::in_status(&mut connection, &self.jobs.inner.node, Status::ValidatingFiles.name()).await?;
        drop(connection);
        let found = self.free(found, &self.checking);
        let mut due = found.into_iter().filter(|row| self.is_due(&row.id)).collect::<Vec<_>>();
        let Some(next) = self.turn_to_check(&mut due) else { return Ok(None) };
        self.take_up(next).await
    }

    /// One after another of each tenant, so that many files of one do not keep the others waiting.
    fn turn_to_check(&self, due: &mut Vec<JobRow>) -> Option<JobRow> {
        let mut last = self.last_checked.lock().unwrap_or_else(PoisonError::into_inner);
        due.sort_by_cached_key(|row| (row.project_id <= *last, row.project_id.clone()));
        let next = due.drain(..).next()?;
        last.clone_from(&next.project_id);
        Some(next)
    }

    /// Checks the files of a new job.
    fn check(&self, mut row: JobRow) {
        let id = row.id.clone();
        let stop = self.jobs.begin_work(&id);
        if self.is_stopping() {
            stop.ask();
        }
        let ending = caught(|| {
            let method = method(&row)?;
            self.check_owner(&row)?;
            let task = self.task(&row, method.kind)?;
            let (resolved, facts) = {
                let material = self.workshop.read(&task, &stop)?;
                let facts = material.facts().clone();
                (method.resolve(&facts, self.workshop.base_parameters()), facts)
            };
            row.settings = serde_json::to_string(&resolved).ok();
            row.status = Status::Queued.name().to_owned();
            row.holder.clear();
            let read = serde_json::json!(runs::data(&task, &facts));
            let event = Event::info("Files validated, moving job to queued state.").with(read);
            let mut events = vec![event];
            if facts.truncated > 0 {
                let message = format!("{} rows are longer than the context and were cut.", facts.truncated);
                events.push(Event::warn(message));
            }
            if facts.missing > 0 {
                let message = format!("{} rows have no prompt or no answer and are left out.", facts.missing);
                events.push(Event::warn(message));
            }
            if !self.write(&mut row, Notes { events, ..Notes::default() })? {
                return Err(Ending::Left);
            }
            Ok(())
        });
        self.jobs.end_work(&id);
        self.conclude(&id, &mut row, ending);
    }

    /// Trains.
    fn see_through(&self, mut row: JobRow) {
        let id = row.id.clone();
        let stop = self.jobs.begin_work(&id);
        if self.is_stopping() {
            stop.ask();
        }
        self.jobs.pulse().begin(Instant::now());
        let ending = caught(|| Run::new(self, &mut row, Arc::clone(&stop)).work_to_its_end());
        self.jobs.end_work(&id);
        self.conclude(&id, &mut row, ending);
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, Later>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_due(&self, job: &str) -> bool {
        self.waiting().get(job).is_none_or(|later| later.due <= Instant::now())
    }

    /// How long until it is looked again what there is to do, when there was nothing at `asked`.
    fn next_look(&self, asked: Instant) -> Duration {
        let waiting = self.waiting();
        let due = waiting.values().map(|later| later.due).filter(|due| *due > asked).min();
        due.map_or(LOOK_EVERY, |due| due.saturating_duration_since(Instant::now()).min(LOOK_EVERY))
    }

    /// Leaves a job for later; an end where that was done often enough.
    fn put_off(&self, row: &JobRow, reason: String) -> Ending {
        let mut waiting = self.waiting();
        let before = waiting.get(&row.id).filter(|later| later.steps_done >= row.steps_done).map_or(0, |later| later.tries);
        let tries = before + 1;
        if tries >= LATER_TRIES {
            tracing::error!(job = row.id, reason, "a job is given up");
            let message = "The server could not go on with this job for a long time; its log says why.".to_owned();
            return Ending::Failed { code: "server_error", message, param: None };
        }
        let pause = self.rhythm.again.saturating_mul(1 << before.min(16)).min(self.rhythm.longest);
        tracing::warn!(job = row.id, reason, ?pause, "a job is left for later");
        waiting.insert(row.id.clone(), Later { tries, steps_done: row.steps_done, due: Instant::now() + pause });
        Ending::Later(reason)
    }

    /// Writes down how it ended, where that is not written down yet.
    fn conclude(&self, id: &str, row: &mut JobRow, ending: Result<(), Ending>) {
        let ending = ending.map_err(|ending| match ending {
            Ending::Later(reason) => self.put_off(row, reason),
            other => other,
        });
        if !matches!(ending, Err(Ending::Later(_))) {
            self.waiting().remove(id);
        }
        match ending {
            Ok(()) => {}
            // What is left for later was told.
            Err(Ending::Left | Ending::Later(_)) => {
                if let Err(error) = self.runtime.block_on(self.jobs.let_go(&row.project_id, id)) {
                    tracing::warn!(%error, job = id, "another process cannot go on with a job yet");
                }
            }
            Err(Ending::Failed { code, message, param }) => {
                tracing::info!(job = id, code, message, "a training job failed");
                record::end(row, Status::Failed, Phase::Failed);
                row.error_code = Some(code.to_owned());
                row.error_message = Some(message.clone());
                row.error_param = param.map(str::to_owned);
                let event = Event::error(message).with(serde_json::json!({"error_code": code}));
                let notes = Notes { reached: Some(Phase::Failed), ..Notes::event(event) };
                // Where it cannot be written the job stays as it was, and is done again.
                if let Err(ending) = self.write(row, notes) {
                    tracing::error!(job = id, ?ending, "the end of a job is not written down yet");
                }
            }
        }
        self.jobs.changed();
        // Jobs that were paused, or that a stop interrupted, go on from there.
        let over = self.runtime.block_on(self.jobs.get(&row.project_id, id)).is_ok_and(|row| Status::is_over(&row.status));
        if over && let Err(error) = std::fs::remove_dir_all(self.dir_of(id)) {
            tracing::debug!(%error, "a job has left nothing");
        }
        if over {
            self.runtime.block_on(self.jobs.remove_states(id, None));
        }
    }

    /// Writes a job's row; again, where that may help. False where somebody else has changed it.
    pub(super) fn write(&self, row: &mut JobRow, notes: Notes) -> Result<bool, Ending> {
        let mut pause = self.rhythm.again;
        for attempt in 1.. {
            match self.runtime.block_on(record::write(&self.jobs.inner.database, row, notes.clone())) {
                Ok(written) => {
                    self.jobs.changed();
                    return Ok(written);
                }
                Err(error) if attempt >= WRITE_TRIES || self.is_stopping() => return Err(Ending::Later(error.to_string())),
                Err(error) => tracing::warn!(%error, "progress of a job cannot be written down; trying again"),
            }
            self.wait(pause);
            pause *= 2;
        }
        Ok(false)
    }

    /// Waits, unless it is stopped.
    pub(super) fn wait(&self, time: Duration) {
        let mut changes = self.jobs.changes();
        let stopped = async { while !self.is_stopping() && changes.changed().await.is_ok() {} };
        // Either way it goes on.
        let _ = self.runtime.block_on(async { tokio::time::timeout(time, stopped).await });
    }

    /// What is to be done for a job; an error where a file is gone.
    pub(super) fn task(&self, row: &JobRow, kind: MethodKind) -> Result<Task, Ending> {
        let base = &self.jobs.inner.base;
        if row.base != *base {
            let message = format!("The job was asked for on the base {:?}; this server has {base:?} now.", row.base);
            return Err(Ending::Failed { code: "base_changed", message, param: Some("model") });
        }
        let (training, training_file) = self.file(row, "training_file", &row.training_file)?;
        let validation = row.validation_file.as_deref().map(|id| self.file(row, "validation_file", id)).transpose()?;
        let (validation, validation_file) = validation.unzip();
        Ok(Task {
            job: row.id.clone(),
            tenant: row.project_id.clone(),
            kind,
            training,
            training_file,
            validation,
            validation_file,
            seed: u64::try_from(row.seed).unwrap_or(0),
            created_at: row.created_at,
        })
    }

    fn file(&self, row: &JobRow, param: &'static str, id: &str) -> Result<(PathBuf, FileFacts), Ending> {
        let gone = || Ending::Failed {
            code: "file_not_found",
            message: format!("The file {id} was deleted before the job could read it."),
            param: Some(param),
        };
        match self.runtime.block_on(self.jobs.files().content(&row.project_id, id)) {
            Ok((file, path)) if path.exists() => Ok((path, runs::file(file))),
            Ok(_) | Err(JobsError::NotFound { .. }) => Err(gone()),
            Err(error) => Err(Ending::Later(error.to_string())),
        }
    }

    /// A key that was revoked, with none in its place, ends the jobs that it asked for; so does the end of a project.
    pub(super) fn check_owner(&self, row: &JobRow) -> Result<(), Ending> {
        let database = &self.jobs.inner.database;
        let asked = self.runtime.block_on(async {
            match keys::by_id(database, &row.key_id).await? {
                // Tokens of issuers have no rows.
                None => Ok((true, true)),
                Some(key) => {
                    let good = key.revoked_at.is_none() || keys::has_successor(database, &key.id).await?;
                    Ok::<_, crate::store::StoreError>((good, key.project_active))
                }
            }
        });
        let ended = |code, message: &str| Err(Ending::Failed { code, message: message.to_owned(), param: None });
        match asked {
            Ok((true, true)) => Ok(()),
            Ok((false, _)) => {
                ended("key_revoked", "The API key that asked for this job was revoked. What it has published stays.")
            }
            Ok((_, false)) => ended("project_archived", "The project of this job was archived."),
            // It is asked again.
            Err(error) => {
                tracing::warn!(%error, "it cannot be asked whether a job's key is still good");
                Ok(())
            }
        }
    }
}

fn waiting(queued: &[JobRow]) -> Vec<Waiting<'_>> {
    queued.iter().map(|row| Waiting { job: &row.id, tenant: &row.project_id, since: row.created_at }).collect()
}

/// What was asked for.
pub(super) fn method(row: &JobRow) -> Result<Method, Ending> {
    serde_json::from_str(&row.method).map_err(|error| Ending::Failed {
        code: "server_error",
        message: format!("The job's method cannot be read back: {error}."),
        param: None,
    })
}

/// A panic is the end of one job, not of the thread.
fn caught(work: impl FnOnce() -> Result<(), Ending>) -> Result<(), Ending> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let message = "The server made a mistake while it worked on this job; its log has the details.".to_owned();
        Err(Ending::Failed { code: "server_error", message, param: None })
    })
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Stopped => Self::Left,
            Failure::DiskFull => {
                let message = "The server's disk is full; what the job has learnt could not be kept. Please try again later.";
                Self::Failed { code: "storage_full", message: message.to_owned(), param: None }
            }
            Failure::Later(reason) => Self::Later(reason),
            Failure::Job { code, message, param } => Self::Failed { code, message, param },
        }
    }
}
