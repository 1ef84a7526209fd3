//! What a job would take: its rows are counted and a few steps are measured here and now, when nobody waits for the engine.

use std::sync::Arc;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{ResidentWorkshop, Stop, aside, broken, failure, settings};
use crate::training::idle::{Gate, Policy, yield_to_others};
use crate::training::jobs::job::{Auto, Facts, Method, MethodKind};
use crate::training::jobs::work::{Failure, Task};
use crate::training::plan::{self, Cost, Limits, Plan, Rows, Speed, Wishes};
use crate::training::trainer::{Settings, memory_of_run, probe_behind};

/// How long a measurement may wait for a moment in which nobody needs the machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it holds.
const FRESH: Duration = Duration::from_secs(600);

/// What is asked of a plan.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The job as it would be.
    pub task: Task,
    /// How is learnt.
    pub method: Method,
    /// What may be spent; the memory is found out here.
    pub limits: Limits,
}

/// A measurement, when it was made, and for which rank.
pub(super) struct Measured {
    at: Instant,
    rank: usize,
    speed: Speed,
}

impl ResidentWorkshop {
    /// Reads the files and measures; blocks for seconds.
    pub fn plan(&self, asked: &Asked, cost: Cost<'_>) -> Result<Plan, Failure> {
        let Asked { task, method, limits } = asked;
        let resident = &self.0.resident;
        let loaded = aside(|| self.load(task, &Stop::default()))?;
        let (train, held_out) = (loaded.train.lengths(), loaded.held_out.lengths());
        let sum = |lengths: &[usize]| lengths.iter().map(|length| *length as u64).sum();
        let longest = train.iter().chain(&held_out).copied().max().unwrap_or(0);
        let rows = Rows {
            train: train.len() as u64,
            held_out: held_out.len() as u64,
            train_tokens: sum(&train),
            held_out_tokens: sum(&held_out),
            longest: longest as u64,
            truncated: loaded.truncated,
            preferences: method.kind == MethodKind::Dpo,
        };
        // Tokens are all that the measurement needs of the rows, and it makes its own.
        drop(loaded);
        let facts = Facts { rows: rows.train, tokens: rows.train_tokens, ..Facts::default() };
        let resolved = method.resolve(&facts, self.0.parameters);
        let settings = settings(&resolved, task.seed, resident.context);
        let speed = self.speed(&settings)?;
        let limits = Limits { memory_bytes: limits.memory_bytes.or_else(|| (resident.memory)()), ..*limits };
        let given = |auto: Auto<u32>| match auto {
            Auto::Auto => None,
            Auto::Given(value) => Some(value),
        };
        Ok(plan::plan(&plan::Facts {
            rows,
            base: plan::Base {
                name: resident.name.clone(),
                parameters: self.0.parameters,
                quantization: resident.base.quantization(),
                context: resident.context as u64,
            },
            speed,
            limits,
            wishes: Wishes {
                epochs: given(method.n_epochs),
                batch_size: given(method.batch_size),
                learning_rate_multiplier: match method.learning_rate_multiplier {
                    Auto::Auto => None,
                    Auto::Given(value) => Some(value),
                },
                rank: None,
            },
            memory: &|rank, keeping| memory_of_run(&resident.base, &settings.with(rank, keeping), longest, resident.threads),
            cost,
        }))
    }

    /// Tokens a second of a training step, measured lately.
    fn speed(&self, settings: &Settings) -> Result<Speed, Failure> {
        // Held while it is measured: two measurements at once would measure each other.
        let mut kept = self.0.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(measured) = kept.as_ref().filter(|kept| kept.rank == settings.rank && kept.at.elapsed() < FRESH) {
            return Ok(measured.speed);
        }
        let resident = &self.0.resident;
        // Whatever the hours of training are, the question is answered now; but serving goes first.
        let policy = Policy { hours: None, ..Policy::default() };
        let gate = Gate::new(policy, resident.pressure.clone());
        let measured = std::thread::scope(|scope| {
            let (done, waiting) = std::sync::mpsc::channel::<()>();
            let stopping = Arc::clone(&gate);
            scope.spawn(move || {
                if waiting.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    stopping.stop();
                }
            });
            let measuring = scope.spawn(|| {
                yield_to_others();
                probe_behind(Arc::clone(&gate), resident.base.clone(), settings, resident.threads)
            });
            let measured = measuring.join();
            drop(done);
            measured.map_err(|_| broken())?.map_err(failure)
        });
        let measured = measured.map_err(|failure| match failure {
            Failure::Stopped => {
                let seconds = PATIENCE.as_secs();
                let message = format!("In {seconds} seconds there was not enough time in which nobody waited for an answer to measure how fast training is; please try again later.");
                Failure::Job { code: "server_busy", message, param: None }
            }
            other => other,
        })?;
        let speed =
            Speed { train_tokens_per_second: measured.tokens_per_second, answer_tokens_per_second: None, steps: measured.steps };
        *kept = Some(Measured { at: Instant::now(), rank: settings.rank, speed });
        Ok(speed)
    }
}
