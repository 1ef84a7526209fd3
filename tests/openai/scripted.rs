//! A workshop that learns nothing: steps happen when a test lets them, and go wrong where it says so.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use switchyard::registry::{Gate, Judged};
use switchyard::training::dataset::render::Question;
use switchyard::training::jobs::desk::Jobs;
use switchyard::training::jobs::driver::{Driver, DriverSetup, Rhythm};
use switchyard::training::jobs::job::{Facts, Resolved};
use switchyard::training::jobs::work::{
    Exam, Examined, Examiner, Failure, HeldOut, Material, Session, Step, Stop, Task, Workshop,
};
use switchyard::training::trainer::Made;

use crate::support::{Harness, write_adapter};

/// What goes wrong, once each, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// At the next step.
    Step(Failure),
    /// At the next step.
    Panic,
    /// At the next evaluation.
    Evaluate(Failure),
    /// The next examination does not end.
    Examine,
    /// When an adapter is written.
    Export(Failure),
    /// When what a restart goes on from is saved.
    Save(Failure),
}

/// What tests know and decide; cheap to clone.
#[derive(Clone)]
pub struct Script(Arc<Inner>);

struct Inner {
    steps: u64,
    allowed: Mutex<u64>,
    more: Condvar,
    faults: Mutex<VecDeque<Fault>>,
    /// Epochs of each session's job, and the step from which it went on.
    began: Mutex<Vec<(u32, u64)>>,
    exports: AtomicU64,
    examinations: AtomicU64,
    /// Hours that a session is held before each step.
    held_hours: AtomicU64,
    /// What examinations say.
    verdict: Mutex<Result<Gate, String>>,
}

impl Script {
    pub fn new(steps: u64) -> Self {
        let (faults, began) = (Mutex::default(), Mutex::default());
        let (allowed, more) = (Mutex::new(u64::MAX), Condvar::new());
        Self(Arc::new(Inner {
            steps,
            allowed,
            more,
            faults,
            began,
            exports: AtomicU64::new(0),
            examinations: AtomicU64::new(0),
            held_hours: AtomicU64::new(0),
            verdict: Mutex::new(Ok(Gate::Pass)),
        }))
    }

    /// Steps beyond this number wait.
    pub fn allow(&self, steps: u64) {
        *self.0.allowed.lock().unwrap() = steps;
        self.0.more.notify_all();
    }

    pub fn fault(&self, fault: Fault) {
        self.0.faults.lock().unwrap().push_back(fault);
    }

    /// What the next examination says.
    pub fn judge(&self, verdict: Result<Gate, String>) {
        *self.0.verdict.lock().unwrap() = verdict;
    }

    /// Sessions wait so long before each step, as they say.
    pub fn hold(&self, hours: u64) {
        self.0.held_hours.store(hours, Ordering::SeqCst);
    }

    pub fn examinations(&self) -> u64 {
        self.0.examinations.load(Ordering::SeqCst)
    }

    /// The step from which each session went on.
    pub fn began_at(&self) -> Vec<u64> {
        self.0.began.lock().unwrap().iter().map(|(_, step)| *step).collect()
    }

    /// Jobs, known by their epochs, in the order in which they first began.
    pub fn order(&self) -> Vec<u32> {
        self.0.began.lock().unwrap().iter().filter(|(_, step)| *step == 0).map(|(epochs, _)| *epochs).collect()
    }

    pub fn exports(&self) -> u64 {
        self.0.exports.load(Ordering::SeqCst)
    }

    /// The next fault, where it is one of these.
    fn take(&self, wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut faults = self.0.faults.lock().unwrap();
        if faults.front().is_some_and(wanted) { faults.pop_front() } else { None }
    }
}

impl Workshop for Script {
    fn read(&self, task: &Task, stop: &Stop) -> Result<Box<dyn Material>, Failure> {
        let text = std::fs::read_to_string(&task.training).map_err(|error| Failure::file(error.to_string()))?;
        let rows = text.lines().count() as u64;
        if let Some(line) = text.lines().position(|line| serde_json::from_str::<Value>(line).is_err()) {
            return Err(Failure::file(format!("line {}: it is not JSON", line + 1)));
        }
        if stop.is_asked() {
            return Err(Failure::Stopped);
        }
        let facts = Facts { rows, held_out: 2, tokens: rows * 10, truncated: 1, lost: 0, missing: 1, digest: "d".to_owned() };
        Ok(Box::new(Rows { script: self.clone(), facts }))
    }

    fn base_parameters(&self) -> u64 {
        1_000_000
    }
}

impl Examiner for Script {
    fn examine(&self, exam: Exam) -> BoxFuture<'_, Result<Examined, String>> {
        assert!(exam.model.starts_with("ft:") && exam.questions.len() == 1);
        let gate = self.0.verdict.lock().unwrap().clone();
        let report = serde_json::json!({"loss": exam.loss});
        self.0.examinations.fetch_add(1, Ordering::SeqCst);
        if self.take(|fault| *fault == Fault::Examine).is_some() {
            return Box::pin(std::future::pending());
        }
        Box::pin(async move {
            let judged = |gate| Judged { gate, score: Some(5_000), compared: None };
            gate.map(|gate| Examined { judged: judged(gate), sentence: format!("Gate: {gate:?}."), report })
        })
    }
}

struct Rows {
    script: Script,
    facts: Facts,
}

impl Material for Rows {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn questions(&self) -> Vec<Question> {
        vec![Question { prompt: vec![104], prompt_text: "h".to_owned(), target: "i".to_owned() }]
    }

    fn begin(self: Box<Self>, with: &Resolved, resume_from: Option<&Path>, stop: &Stop) -> Result<Box<dyn Session>, Failure> {
        let saved = resume_from.map(|dir| std::fs::read_to_string(dir.join("step")).unwrap().parse().unwrap());
        let step = saved.unwrap_or(0);
        self.script.0.began.lock().unwrap().push((with.n_epochs, step));
        let stopped = Arc::new(Mutex::new(false));
        let (inner, flag) = (Arc::clone(&self.script.0), Arc::clone(&stopped));
        stop.when_asked(move || {
            *flag.lock().unwrap() = true;
            // Under the lock, so that nobody is between the question and the wait.
            let _allowed = inner.allowed.lock().unwrap();
            inner.more.notify_all();
        });
        Ok(Box::new(Scripted { script: self.script, step, stopped }))
    }
}

struct Scripted {
    script: Script,
    step: u64,
    stopped: Arc<Mutex<bool>>,
}

impl Session for Scripted {
    fn changes(&self) -> &[String] {
        &[]
    }

    fn made(&self) -> Option<Made> {
        None
    }

    fn steps(&self) -> u64 {
        self.script.0.steps
    }

    fn step_number(&self) -> u64 {
        self.step
    }

    fn step(&mut self) -> Result<Step, Failure> {
        match self.script.take(|fault| matches!(fault, Fault::Step(_) | Fault::Panic)) {
            Some(Fault::Step(failure)) => return Err(failure),
            Some(_) => panic!("as the script says"),
            None => {}
        }
        let mut allowed = self.script.0.allowed.lock().unwrap();
        while *allowed <= self.step {
            if *self.stopped.lock().unwrap() {
                return Err(Failure::Stopped);
            }
            allowed = self.script.0.more.wait_timeout(allowed, Duration::from_secs(60)).unwrap().0;
        }
        drop(allowed);
        self.step += 1;
        // So that caps on time have something to count.
        std::thread::sleep(Duration::from_millis(1));
        Ok(Step { step: self.step, loss: 1.0 / self.step as f64, accuracy: Some(0.5), tokens: 100, seconds: 0.1 })
    }

    fn waited(&self) -> Duration {
        Duration::from_secs(3_600 * self.step * self.script.0.held_hours.load(Ordering::SeqCst))
    }

    fn evaluate(&mut self) -> Result<Option<HeldOut>, Failure> {
        if let Some(Fault::Evaluate(failure)) = self.script.take(|fault| matches!(fault, Fault::Evaluate(_))) {
            return Err(failure);
        }
        Ok(Some(HeldOut { loss: 2.0 / self.step as f64, accuracy: Some(0.25) }))
    }

    fn save(&self, dir: &Path) -> Result<(), Failure> {
        if let Some(Fault::Save(failure)) = self.script.take(|fault| matches!(fault, Fault::Save(_))) {
            return Err(failure);
        }
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("step"), self.step.to_string()).unwrap();
        Ok(())
    }

    fn export(&self, dir: &Path) -> Result<(), Failure> {
        self.script.0.exports.fetch_add(1, Ordering::SeqCst);
        if let Some(Fault::Export(failure)) = self.script.take(|fault| matches!(fault, Fault::Export(_))) {
            return Err(failure);
        }
        write_adapter(dir, u32::try_from(self.step).unwrap());
        std::fs::write(dir.join("lineage.json"), "{}").unwrap();
        Ok(())
    }
}

/// Everything at once, so that tests need not wait.
pub const RHYTHM: Rhythm = Rhythm {
    note: Duration::ZERO,
    save: Duration::from_secs(3_600),
    again: Duration::from_millis(1),
    longest: Duration::from_millis(1),
    owner: Duration::ZERO,
    turn: Duration::ZERO,
};

impl Harness {
    /// Starts to work on jobs; a million tokens cost a dollar.
    pub async fn drive(&self, script: &Script) -> Driver {
        self.drive_for(self.jobs.clone(), script).await
    }

    /// Works for another desk.
    pub async fn drive_for(&self, jobs: Jobs, script: &Script) -> Driver {
        let setup = DriverSetup {
            jobs,
            workshop: Arc::new(script.clone()),
            examiner: Some(Arc::new(script.clone())),
            catalog: self.catalog.clone(),
            data_dir: self.data.path().to_owned(),
            cost: Arc::new(|_, _, tokens| i64::try_from(tokens).unwrap() * 1_000),
            rhythm: RHYTHM,
        };
        Driver::start(setup).await.unwrap()
    }

    /// A job as soon as it is as wanted.
    pub async fn job_when(&self, key: &str, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut changes = self.jobs.changes();
        let waiting = async {
            loop {
                changes.mark_unchanged();
                let job = self.call(axum::http::Method::GET, &format!("/v1/fine_tuning/jobs/{id}"), None, key, &[]).await.json();
                if wanted(&job) {
                    return job;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(30), waiting).await {
            Ok(job) => job,
            Err(_) => panic!("{}", self.get(&format!("/v1/fine_tuning/jobs/{id}")).await.text),
        }
    }

    /// A job at its end.
    pub async fn job_over(&self, key: &str, id: &str) -> Value {
        self.job_when(key, id, |job| ["succeeded", "failed", "cancelled"].iter().any(|status| job["status"] == *status)).await
    }
}
