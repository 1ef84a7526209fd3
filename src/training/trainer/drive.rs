//! The loop around a run's steps: evaluations, saved states, the best adapter, early ends, and what to tell. Knows nothing of jobs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{HeldOut, Lineage, Run, StepReport, TrainError};
use crate::training::alerts::Alerts;

/// How a run is driven.
#[derive(Debug, Clone)]
pub struct Drive {
    /// Directory of the run: its state, `best/` and `last/`.
    pub dir: PathBuf,
    /// Time between two saved states, at least.
    pub save_every: Duration,
    /// Where the adapter comes from.
    pub lineage: Lineage,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// A step.
    Step(StepReport),
    /// An evaluation; it is the best one, and `best/` holds the adapter, where that is said.
    Evaluated {
        /// Steps done.
        step: u64,
        /// What it gave.
        held_out: HeldOut,
        /// Whether none was better.
        is_best: bool,
    },
    /// The state was saved at this step.
    Saved(u64),
    /// Something that a person may want to act on.
    Alert(String),
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// With the next step.
    On,
    /// The state is saved and the loop returns: the run can be resumed.
    Leave,
    /// No more steps: the run ends with what it has.
    Finish,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done.
    Done,
    /// Evaluations did not improve any more.
    Early,
    /// It was told to finish.
    Told,
    /// It was told to leave; its state is saved.
    Left,
}

/// Drives a run to its end. The adapter is then in `last/`, and the best one, where there were evaluations, in `best/`.
pub fn drive(run: &mut Run, how: &Drive, tell: &mut dyn FnMut(&Run, Progress) -> Next) -> Result<Ended, TrainError> {
    let mut saved = Instant::now();
    let mut alerts = Alerts::default();
    let mut ended = Ended::Done;
    while run.step_number() < run.steps() {
        if run.is_exhausted() {
            ended = Ended::Early;
            break;
        }
        let report = run.step()?;
        let loss = report.loss;
        let mut next = tell(run, Progress::Step(report));
        if let Some(alert) = alerts.after_step(loss) {
            next = worse(next, tell(run, Progress::Alert(alert)));
        }
        if run.evaluation_is_due() {
            let before = run.best();
            let held_out = run.evaluate()?;
            let is_best = run.best() != before;
            if is_best {
                run.export(&how.dir.join("best"), &how.lineage)?;
            }
            let step = run.step_number();
            next = worse(next, tell(run, Progress::Evaluated { step, held_out, is_best }));
            if let Some(alert) = alerts.after_evaluation(held_out.loss) {
                next = worse(next, tell(run, Progress::Alert(alert)));
            }
        }
        if next == Next::Leave || saved.elapsed() >= how.save_every {
            run.save(&how.dir)?;
            saved = Instant::now();
            next = worse(next, tell(run, Progress::Saved(run.step_number())));
        }
        match next {
            Next::On => {}
            Next::Leave => return Ok(Ended::Left),
            Next::Finish => {
                ended = Ended::Told;
                break;
            }
        }
    }
    run.save(&how.dir)?;
    run.export(&how.dir.join("last"), &how.lineage)?;
    Ok(ended)
}

/// The answer that ends more.
const fn worse(one: Next, other: Next) -> Next {
    match (one, other) {
        (Next::Leave, _) | (_, Next::Leave) => Next::Leave,
        (Next::Finish, _) | (_, Next::Finish) => Next::Finish,
        _ => Next::On,
    }
}
