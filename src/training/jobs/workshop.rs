//! The real workshop: rows by `dataset`, steps by `trainer`, over the base that the server answers with. Reading and training happen
//! on threads that let everything else on the machine go first; whoever calls waits for them.

mod plan;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

pub use plan::Asked;
use time::OffsetDateTime;

use super::error::is_full;
use super::job::{Facts, MethodKind, Resolved};
use super::work::{Failure, HeldOut, Material, Session, Step, Stop, Task, Workshop};
use crate::engine::pressure::Pressure;
use crate::model::chat_template::ChatTemplate;
use crate::model::tokenizer::Tokenizer;
use crate::model::train::TrainingBase;
use crate::store::StoreError;
use crate::training::dataset::render::{Parts, Question, Rendered, Renderer};
use crate::training::dataset::split::USUAL_SHARE;
use crate::training::dataset::{DatasetError, Loaded, Loading, Options, load};
use crate::training::idle::{Gate, Mode, Policy, yield_to_others};
use crate::training::trainer::{self, Data, Lineage, Made, Method, Origin, Run, Settings, Start, TrainError};

/// Rows of a micro-batch at most; larger batches are several of them.
const MICRO_BATCH: u32 = 8;
/// Held-out rows whose loss is measured at each checkpoint, at most: more would cost time and say little more.
const MEASURED: usize = 256;
/// Held-out rows that are asked at the end, at most.
const ASKED: usize = 64;

/// Says something that takes long to find out; asked once.
pub type Slowly<T> = Box<dyn Fn() -> T + Send + Sync>;

/// What the workshop is made of.
pub struct Resident {
    /// The base in memory.
    pub base: TrainingBase,
    /// Its public name.
    pub name: String,
    /// Digest of its weights.
    pub digest: Slowly<String>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template, where it has one.
    pub chat_template: Option<ChatTemplate>,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// Most tokens of a row.
    pub context: usize,
    /// When training may run.
    pub policy: Policy,
    /// Whether anybody waits for the engine.
    pub pressure: Pressure,
    /// Compute threads.
    pub threads: usize,
    /// Bytes that a job may take beside the base; `None` is no limit.
    pub memory: Slowly<Option<u64>>,
}

/// The workshop; clones share everything.
#[derive(Clone)]
pub struct ResidentWorkshop(Arc<Shared>);

struct Shared {
    resident: Resident,
    digest: OnceLock<String>,
    parameters: u64,
    /// How fast training was, lately.
    measured: Mutex<Option<plan::Measured>>,
}

impl ResidentWorkshop {
    /// Over a base.
    pub fn new(resident: Resident) -> Self {
        let parameters = resident.base.config.parameters();
        Self(Arc::new(Shared { resident, digest: OnceLock::new(), parameters, measured: Mutex::default() }))
    }

    /// `now` is what chat templates write, seconds since 1970.
    fn renderer(&self, now: i64) -> Result<Renderer, Failure> {
        let resident = &self.0.resident;
        let renderer = Renderer::new(Parts {
            tokenizer: resident.tokenizer.clone(),
            chat_template: resident.chat_template.clone(),
            ends: resident.end_tokens.clone(),
            context: resident.context,
            now: OffsetDateTime::from_unix_timestamp(now).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        });
        renderer.map_err(|error| Failure::job("base_not_trainable", error.to_string()))
    }

    fn load(&self, task: &Task, stop: &Stop) -> Result<Loaded, Failure> {
        let renderer = self.renderer(task.created_at)?;
        let mut options = Options::default();
        options.hint(&task.training_file.name);
        let loading = Loading {
            renderer: &renderer,
            validation: task.validation.as_deref(),
            held_out: USUAL_SHARE,
            seed: task.seed,
            questions: ASKED,
            is_stopped: &|| stop.is_asked(),
        };
        let loaded = load(&task.training, &options, &loading).map_err(unreadable)?;
        let (kind, right) = match &loaded.train {
            Rendered::Supervised(_) => (MethodKind::Supervised, "the method 'supervised' learns from such rows"),
            Rendered::Preference(_) => (MethodKind::Dpo, "the method 'dpo' learns from such rows"),
        };
        if kind != task.kind {
            let found = if kind == MethodKind::Dpo { "preferred and other answers" } else { "answers without preferences" };
            return Err(Failure::file(format!("The rows have {found}; {right}.")));
        }
        Ok(loaded)
    }
}

impl Workshop for ResidentWorkshop {
    fn read(&self, task: &Task, stop: &Stop) -> Result<Box<dyn Material>, Failure> {
        let loaded = aside(|| {
            self.0.digest.get_or_init(|| (self.0.resident.digest)());
            self.load(task, stop)
        })?;
        let facts = Facts {
            rows: loaded.train.len() as u64,
            held_out: loaded.held_out.len() as u64,
            tokens: loaded.train_tokens,
            truncated: loaded.truncated,
            lost: loaded.lost,
            missing: loaded.missing,
            digest: loaded.digest.clone(),
        };
        Ok(Box::new(Rows { shop: self.clone(), loaded, facts, job: task.job.clone(), seed: task.seed }))
    }

    fn base_parameters(&self) -> u64 {
        self.0.parameters
    }
}

/// Has something done on a thread that lets everything else go first, and waits for it: what the caller does next has its usual
/// priority again.
fn aside<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            yield_to_others();
            work()
        });
        working.join().unwrap_or_else(|_| Err(broken()))
    })
}

struct Rows {
    shop: ResidentWorkshop,
    loaded: Loaded,
    facts: Facts,
    job: String,
    seed: u64,
}

impl Material for Rows {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn questions(&self) -> Vec<Question> {
        self.loaded.questions.clone()
    }

    fn begin(self: Box<Self>, with: &Resolved, resume_from: Option<&Path>, stop: &Stop) -> Result<Box<dyn Session>, Failure> {
        let Self { shop, loaded, facts, job, seed } = *self;
        let resident = &shop.0.resident;
        let gate = Gate::new(resident.policy, resident.pressure.clone());
        let stopped = Arc::clone(&gate);
        stop.when_asked(move || stopped.stop());
        let Loaded { train, mut held_out, .. } = loaded;
        match &mut held_out {
            Rendered::Supervised(rows) => rows.truncate(MEASURED),
            Rendered::Preference(rows) => rows.truncate(MEASURED),
        }
        let lineage = Lineage {
            base: resident.name.clone(),
            base_digest: shop.0.digest.get().cloned().unwrap_or_default(),
            dataset_digest: facts.digest.clone(),
            job: Some(job),
            ..Lineage::default()
        };
        let start = Start {
            base: resident.base.clone(),
            data: Data { train, held_out },
            settings: settings(with, seed, resident.context),
            gate,
            origin: Origin::Fresh,
            threads: resident.threads,
            memory: (resident.memory)(),
        };
        Bench::start(start, resume_from, lineage).map(|bench| Box::new(bench) as Box<dyn Session>)
    }
}

/// What is trained with, in the trainer's words.
fn settings(with: &Resolved, seed: u64, context: usize) -> Settings {
    let micro = (1..=MICRO_BATCH.min(with.batch_size)).rev().find(|micro| with.batch_size.is_multiple_of(*micro)).unwrap_or(1);
    let method = match with.kind {
        MethodKind::Supervised => Method::Supervised,
        MethodKind::Dpo => Method::Dpo { beta: with.beta.unwrap_or(0.1) as f32 },
    };
    Settings {
        method,
        rank: with.rank as usize,
        alpha: with.alpha as f32,
        epochs: with.n_epochs,
        batch_size: micro as usize,
        accumulation: (with.batch_size / micro) as usize,
        learning_rate: with.learning_rate,
        warmup_ratio: with.warmup_ratio,
        seed,
        context,
        ..Settings::default()
    }
}

type Order = Box<dyn FnOnce(&mut Run) + Send>;

/// A run on its own thread.
struct Bench {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    gate: Arc<Gate>,
    lineage: Lineage,
    has_held_out: bool,
    made: Made,
    steps: u64,
    step: u64,
}

/// What is known of a run when it has begun.
struct Begun {
    steps: u64,
    step: u64,
    made: Made,
}

impl Bench {
    fn start(start: Start, resume_from: Option<&Path>, lineage: Lineage) -> Result<Self, Failure> {
        let has_held_out = !start.data.held_out.is_empty();
        let (resume_from, gate) = (resume_from.map(Path::to_owned), Arc::clone(&start.gate));
        let (orders, taken): (Sender<Order>, Receiver<Order>) = channel();
        let (begun, begins) = sync_channel(1);
        let gives_way = start.gate.policy().mode == Mode::Idle;
        let thread = std::thread::Builder::new().name("trainer".to_owned()).spawn(move || {
            // A share of the machine that the system gives to everybody else first would be none.
            if gives_way {
                yield_to_others();
            }
            let mut run = match begin(start, resume_from.as_deref()) {
                Ok(run) => run,
                // Whoever asked is gone only with the process.
                Err(error) => return drop(begun.send(Err(not_begun(error, resume_from.is_some())))),
            };
            let (steps, step, made) = (run.steps(), run.step_number(), run.made().clone());
            drop(begun.send(Ok(Begun { steps, step, made })));
            for order in taken {
                order(&mut run);
            }
        });
        let thread = thread.map_err(|error| Failure::job("server_error", format!("No thread to train on: {error}.")))?;
        let Begun { steps, step, made } = begins.recv().unwrap_or_else(|_| Err(broken()))?;
        let made = made.of(&lineage.base, &lineage.base_digest);
        Ok(Self { orders: Some(orders), thread: Some(thread), gate, lineage, has_held_out, made, steps, step })
    }

    /// Has something done on the run's thread.
    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Run) -> Result<T, TrainError> + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, answered) = sync_channel(1);
        let order: Order = Box::new(move |run| drop(answer.send(work(run))));
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        match answered.recv() {
            Ok(done) if sent => done.map_err(failure),
            // A panic has ended the thread; its message is in the log.
            _ => Err(broken()),
        }
    }
}

/// Starts a run. A state that cannot be gone on from (of another program version, or damaged) costs its steps, not the job.
fn begin(start: Start, resume_from: Option<&Path>) -> Result<Run, TrainError> {
    let Some(saved) = resume_from else { return Run::start(start, None) };
    let Start { base, data, settings, gate, origin, threads, memory } = start;
    let fresh = || Start {
        base: base.clone(),
        data: data.clone(),
        settings: settings.clone(),
        gate: Arc::clone(&gate),
        origin: origin.clone(),
        threads,
        memory,
    };
    match Run::start(fresh(), Some(saved)) {
        Err(error @ (TrainError::OtherRun | TrainError::Damaged { .. })) => {
            tracing::warn!(%error, "a training job begins again");
            Run::start(fresh(), None)
        }
        other => other,
    }
}

impl Session for Bench {
    fn changes(&self) -> &[String] {
        &self.made.changes
    }

    fn made(&self) -> Option<Made> {
        Some(self.made.clone())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn step_number(&self) -> u64 {
        self.step
    }

    fn step(&mut self) -> Result<Step, Failure> {
        let report = self.ask(Run::step)?;
        self.step = report.step;
        Ok(Step {
            step: report.step,
            loss: report.loss,
            accuracy: Some(report.accuracy),
            tokens: report.tokens,
            seconds: report.took.as_secs_f64(),
        })
    }

    fn waited(&self) -> Duration {
        self.gate.waited()
    }

    fn evaluate(&mut self) -> Result<Option<HeldOut>, Failure> {
        if !self.has_held_out {
            return Ok(None);
        }
        let trainer::HeldOut { loss, accuracy, .. } = self.ask(Run::evaluate)?;
        Ok(Some(HeldOut { loss, accuracy: Some(accuracy) }))
    }

    fn save(&self, dir: &Path) -> Result<(), Failure> {
        let dir = dir.to_owned();
        self.ask(move |run| run.save(&dir))
    }

    fn export(&self, dir: &Path) -> Result<(), Failure> {
        let (dir, lineage) = (dir.to_owned(), self.lineage.clone());
        self.ask(move |run| run.export(&dir, &lineage))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.orders.take());
        // Its memory is free when the next job begins. A panic was told already.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn broken() -> Failure {
    Failure::job("server_error", "The server made a mistake while it worked on this job; its log has the details.")
}

/// What was begun before had its memory then: it may have it again.
fn not_begun(error: TrainError, was_begun: bool) -> Failure {
    match error {
        TrainError::Memory { .. } if was_begun => Failure::Later(error.to_string()),
        other => failure(other),
    }
}

fn failure(error: TrainError) -> Failure {
    match &error {
        TrainError::Stopped => Failure::Stopped,
        TrainError::Disk { source, .. } | TrainError::Store(StoreError::Io { source, .. }) if is_full(source) => {
            Failure::DiskFull
        }
        TrainError::Disk { .. } | TrainError::Store(StoreError::Io { .. }) => Failure::Later(error.to_string()),
        TrainError::Diverged { .. } => Failure::job("training_diverged", error.to_string()),
        TrainError::Memory { .. } => Failure::job("not_enough_memory", error.to_string()),
        TrainError::Data(_) => Failure::file(error.to_string()),
        TrainError::Setting { .. } => Failure::job("invalid_hyperparameters", error.to_string()),
        // Paths are the operator's.
        _ => {
            tracing::error!(%error, "a training job cannot go on");
            broken()
        }
    }
}

fn unreadable(error: DatasetError) -> Failure {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match &error {
        DatasetError::Stopped => Failure::Stopped,
        DatasetError::Io { source, .. } if !matches!(source.kind(), InvalidData | UnexpectedEof | InvalidInput | Other) => {
            Failure::Later(error.to_string())
        }
        DatasetError::Io { .. } => {
            tracing::error!(%error, "a file to train on cannot be read");
            Failure::file("The file cannot be read.")
        }
        _ => Failure::file(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;
    use crate::training::jobs::job::Method;

    #[test]
    fn a_batch_is_as_many_rows_as_was_asked_in_micro_batches_that_divide_it() {
        let facts = Facts { rows: 500, tokens: 9_000, ..Facts::default() };
        for (batch, micro, accumulation) in [(1, 1, 1), (8, 8, 1), (12, 6, 2), (22, 2, 11), (23, 1, 23), (256, 8, 32)] {
            let resolved = Method::auto(MethodKind::Supervised).resolve(&facts, 1_000_000);
            let settings = settings(&Resolved { batch_size: batch, ..resolved }, 7, 128);
            assert_eq!((settings.batch_size, settings.accumulation), (micro, accumulation), "{batch}");
            settings.check().unwrap();
        }
        let dpo = settings(&Method::auto(MethodKind::Dpo).resolve(&facts, 1_000_000), 7, 128);
        assert_eq!(dpo.method, trainer::Method::Dpo { beta: 0.1 });
    }
}
