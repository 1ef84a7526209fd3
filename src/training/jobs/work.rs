//! The seam between a job's life and the work itself: reading files, steps, files of an adapter. Blocking; called on threads of its
//! own. Knows no database.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures::future::BoxFuture;

use super::job::{Facts, MethodKind, Resolved};
use crate::registry::Judged;
use crate::training::dataset::render::Question;
use crate::training::run_record::FileFacts;
use crate::training::trainer::Made;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Id of the job.
    pub job: String,
    /// Its tenant.
    pub tenant: String,
    /// How is learnt.
    pub kind: MethodKind,
    /// Rows to learn from.
    pub training: PathBuf,
    /// What that file is; its name says something about its format.
    pub training_file: FileFacts,
    /// Rows to judge by.
    pub validation: Option<PathBuf>,
    /// What that file is.
    pub validation_file: Option<FileFacts>,
    /// Of everything that is drawn by lot.
    pub seed: u64,
    /// When the job was created, seconds since 1970: the time that chat templates write.
    pub created_at: i64,
}

/// Why work ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It was asked to stop.
    Stopped,
    /// The disk is full.
    DiskFull,
    /// What went wrong may pass; the reason is for the operator.
    Later(String),
    /// The job cannot be done, and could not be done again.
    Job {
        /// For programs.
        code: &'static str,
        /// For people.
        message: String,
        /// The field at fault.
        param: Option<&'static str>,
    },
}

impl Failure {
    /// A job that cannot be done.
    pub fn job(code: &'static str, message: impl Into<String>) -> Self {
        Self::Job { code, message: message.into(), param: None }
    }

    /// A training file that cannot be learnt from.
    pub fn file(message: impl Into<String>) -> Self {
        Self::Job { code: "invalid_training_file", message: message.into(), param: Some("training_file") }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// From 1.
    pub step: u64,
    /// Mean loss.
    pub loss: f64,
    /// Share of the tokens that the model would have written.
    pub accuracy: Option<f64>,
    /// Tokens that were seen.
    pub tokens: u64,
    /// Time that it took.
    pub seconds: f64,
}

/// What the held-out rows say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOut {
    /// Mean loss.
    pub loss: f64,
    /// Share of the tokens that the model would have written.
    pub accuracy: Option<f64>,
}

/// Who does the work.
pub trait Workshop: Send + Sync {
    /// Reads a job's files, every row, until it is asked to stop.
    fn read(&self, task: &Task, stop: &Stop) -> Result<Box<dyn Material>, Failure>;

    /// Weights of the base.
    fn base_parameters(&self) -> u64;
}

/// A job's rows in tokens.
pub trait Material: Send {
    /// What they are.
    fn facts(&self) -> &Facts;

    /// Held-out rows as questions.
    fn questions(&self) -> Vec<Question>;

    /// Takes the base and the memory. `resume_from` holds what an earlier session has saved.
    fn begin(self: Box<Self>, with: &Resolved, resume_from: Option<&Path>, stop: &Stop) -> Result<Box<dyn Session>, Failure>;
}

/// A job at work.
pub trait Session {
    /// What was changed of what was asked, so that it fits into memory; in words.
    fn changes(&self) -> &[String];

    /// What it is made with; `None` where it learns nothing.
    fn made(&self) -> Option<Made>;

    /// Steps in all.
    fn steps(&self) -> u64;

    /// Steps done.
    fn step_number(&self) -> u64;

    /// The next step.
    fn step(&mut self) -> Result<Step, Failure>;

    /// How long it was held until now, because others had the processor or it was not the time to train.
    fn waited(&self) -> Duration;

    /// What the held-out rows say now; `None` where there are none.
    fn evaluate(&mut self) -> Result<Option<HeldOut>, Failure>;

    /// Keeps what a later session goes on from, exactly; what was kept before is replaced whole.
    fn save(&self, dir: &Path) -> Result<(), Failure>;

    /// Writes the adapter as a PEFT directory.
    fn export(&self, dir: &Path) -> Result<(), Failure>;
}

/// What is to be examined.
#[derive(Debug, Clone)]
pub struct Exam {
    /// Whose model.
    pub tenant: String,
    /// Its name.
    pub model: String,
    /// The part of it that its owner chose; may be empty. What is in service under this name is compared with it.
    pub suffix: String,
    /// Held-out rows.
    pub questions: Vec<Question>,
    /// Mean loss on them.
    pub loss: Option<f64>,
}

/// What an examination said.
#[derive(Debug, Clone, PartialEq)]
pub struct Examined {
    /// Whether it may be put into service, and how good it is.
    pub judged: Judged,
    /// For people.
    pub sentence: String,
    /// For programs: a JSON object.
    pub report: serde_json::Value,
}

/// Who judges what was learnt.
pub trait Examiner: Send + Sync {
    /// Judges a model that is published; an error says why it could not. Dropping the future ends the work.
    fn examine(&self, exam: Exam) -> BoxFuture<'_, Result<Examined, String>>;
}

type Hook = Box<dyn Fn() + Send>;

/// Asks whoever works to stop soon.
#[derive(Default)]
pub struct Stop(Mutex<(bool, Vec<Hook>)>);

impl Stop {
    /// Asks; once is enough.
    pub fn ask(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        state.1.iter().for_each(|hook| hook());
    }

    /// Whether somebody asked.
    pub fn is_asked(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Calls this when somebody asks; at once where somebody has.
    pub fn when_asked(&self, hook: impl Fn() + Send + 'static) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 {
            hook();
        }
        state.1.push(Box::new(hook));
    }
}
