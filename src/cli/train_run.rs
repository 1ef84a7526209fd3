//! A run of `switchyard train` from its first step to its adapter: what is said on the way, and the record beside it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::repeat::{Repeat, adapter_digest};
use crate::app::announce::say;
use crate::store::{Access, write_durably};
use crate::training::run_record::{Data, Kept, MAX_RECORD, Measure, Outcome, RECORD_FILE, RunRecord, SCHEMA};
use crate::training::trainer::{Drive, Ended, HeldOut, Next, Progress, Run, Scored, Start, StepReport, drive};

/// Time between two lines on the way.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// What is to be done with a run.
pub(super) struct Task {
    pub(super) drive: Drive,
    /// What was typed.
    pub(super) asked: Value,
    /// What is learnt from.
    pub(super) read: Data,
    /// Digest of the adapter that it goes on from.
    pub(super) from: Option<String>,
    /// What it repeats.
    pub(super) repeat: Option<Repeat>,
    pub(super) json: bool,
}

/// Trains, and keeps the record.
pub(super) fn go(start: Start, task: Task) -> anyhow::Result<()> {
    let Task { drive: how, asked, read, from, repeat, json } = task;
    let (out, threads) = (how.dir.clone(), start.threads);
    let mut run = Run::start(start, Some(&out)).with_context(|| format!("{} (--out)", out.display()))?;
    let mut made = run.made().clone().of(&how.lineage.base, &how.lineage.base_digest);
    (made.from, made.threads) = (from, threads);
    let teller = Teller { json };
    if let Some(repeat) = &repeat {
        if let Some(change) = run.changes().first() {
            bail!("there is less memory than the record's training had, and this would change it: {change}");
        }
        for text in repeat.differences(&made) {
            teller.tell(&format!("note: {text}"), json!({"event": "alert", "text": text}));
        }
    }
    for change in run.changes() {
        teller.tell(change, json!({"event": "changed", "text": change}));
    }
    let from = run.step_number();
    let earlier = (from > 0).then(|| earlier(&out)).flatten();
    if from > 0 {
        teller.tell(&format!("going on after step {from}"), json!({"event": "resumed", "step": from}));
    }
    let mut record = Record {
        record: RunRecord {
            schema: SCHEMA,
            job: None,
            outcome: "running".to_owned(),
            error: None,
            started_at: Some(earlier.as_ref().and_then(|earlier| earlier.started_at).unwrap_or_else(now)),
            finished_at: None,
            asked,
            data: Some(read),
            made: Some(made),
            steps_done: from,
            trained_tokens: earlier.as_ref().map_or(0, |earlier| earlier.trained_tokens),
            measured: earlier.map(|earlier| earlier.measured).unwrap_or_default(),
            evaluation: None,
            gate: None,
            result: None,
        },
        last: None,
    };
    std::fs::create_dir_all(&out).with_context(|| format!("{} (--out)", out.display()))?;
    record.write(&out)?;
    let trained = train(&mut run, &how, &teller, &mut record);
    record.record.finished_at = Some(now());
    record.record.measured.extend(record.last.take().filter(|_| trained.is_ok()));
    let kept = match &trained {
        Ok(kept) => *kept,
        Err(error) => {
            record.record.outcome = "failed".to_owned();
            record.record.error = Some(format!("{error:#}"));
            // The error that matters is the first one.
            let _ = record.write(&out);
            return trained.map(|_| ());
        }
    };
    let version = adapter_digest(&out.join(kept.name()))?;
    record.record.outcome = "succeeded".to_owned();
    record.record.result = Some(Outcome { version, kept, model: None });
    record.write(&out)?;
    match repeat {
        Some(repeat) => compare(&repeat, &out, &teller),
        None => Ok(()),
    }
}

/// Whether the same adapter came of it; an error where not.
fn compare(repeat: &Repeat, out: &Path, teller: &Teller) -> anyhow::Result<()> {
    let Outcome { version: then, kept, .. } = &repeat.result;
    let now = adapter_digest(&out.join(kept.name()))?;
    let equal = now == *then;
    let event = json!({"event": "repeated", "kept": kept, "version": now, "recorded": then, "equal": equal});
    if !equal {
        if teller.json {
            teller.tell("", event);
        }
        bail!("another adapter came of it: {}/ has the digest {now}, in the record it is {then}", kept.name());
    }
    teller.tell(&format!("the same adapter came of it: {}/ has the digest {now}, as in the record", kept.name()), event);
    Ok(())
}

/// Says things in words or as JSON, a line each.
struct Teller {
    json: bool,
}

impl Teller {
    fn tell(&self, text: &str, event: Value) {
        say(&if self.json { format!("{event}\n") } else { format!("{text}\n") });
    }
}

/// The record as it grows.
struct Record {
    record: RunRecord,
    /// The last step, where held-out rows were not asked after it.
    last: Option<Measure>,
}

impl Record {
    fn write(&self, out: &Path) -> anyhow::Result<()> {
        let path = out.join(RECORD_FILE);
        let text = serde_json::to_string_pretty(&self.record)? + "\n";
        write_durably(&path, text.as_bytes(), Access::Normal).with_context(|| path.display().to_string())
    }

    fn step(&mut self, step: &StepReport) {
        self.record.steps_done = step.step;
        self.record.trained_tokens += step.tokens;
        self.last = Some(Measure { step: step.step, train_loss: Some(step.loss), held_out_loss: None, held_out_accuracy: None });
    }

    fn held_out(&mut self, step: u64, held_out: HeldOut) {
        let train_loss = self.last.take().and_then(|last| last.train_loss);
        let (loss, accuracy) = (Some(held_out.loss), Some(held_out.accuracy));
        self.record.measured.push(Measure { step, train_loss, held_out_loss: loss, held_out_accuracy: accuracy });
    }
}

/// What a run that was killed has written of itself.
fn earlier(out: &Path) -> Option<RunRecord> {
    let bytes = crate::store::read_limited(&out.join(RECORD_FILE), MAX_RECORD).ok()?;
    RunRecord::parse(&bytes).ok().filter(|record| record.outcome == "running")
}

/// Seconds since 1970.
fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

fn train(run: &mut Run, how: &Drive, teller: &Teller, record: &mut Record) -> anyhow::Result<Kept> {
    let (out, from, steps) = (how.dir.as_path(), run.step_number(), run.steps());
    let before = if run.has_held_out() { Some(run.score(Scored::Base)?) } else { None };
    if let Some(base) = before {
        let text = format!("base: held-out loss {:.4}, accuracy {:.1} %", base.loss, 100.0 * base.accuracy);
        teller.tell(&text, json!({"event": "base", "loss": base.loss, "accuracy": base.accuracy}));
        if from == 0 {
            record.held_out(0, base);
        }
    }
    let began = Instant::now();
    let mut line: Option<Instant> = None;
    let mut unwritten = None;
    let ended = drive(run, how, &mut |run, progress| {
        match progress {
            Progress::Step(step) => {
                record.step(&step);
                let event = json!({
                    "event": "step", "step": step.step, "steps": steps, "loss": step.loss, "accuracy": step.accuracy,
                    "learning_rate": step.learning_rate, "gradient_norm": step.gradient_norm,
                    "tokens_per_second": step.tokens as f64 / step.took.as_secs_f64(),
                });
                if teller.json {
                    teller.tell("", event);
                } else if step.step == steps || line.is_none_or(|line| line.elapsed() >= LINE_EVERY) {
                    line = Some(Instant::now());
                    let left = began.elapsed().as_secs_f64() / (step.step - from) as f64 * (steps - step.step) as f64;
                    let speed = step.tokens as f64 / step.took.as_secs_f64();
                    let (step, epoch, loss) = (step.step, run.epoch(), step.loss);
                    let text =
                        format!("step {step}/{steps}, epoch {epoch}: loss {loss:.4}, {speed:.0} tokens/s, {left:.0} s left");
                    teller.tell(&text, event);
                }
            }
            Progress::Evaluated { step, held_out, is_best } => {
                record.held_out(step, held_out);
                teller.tell(
                    &format!(
                        "step {step}: held-out loss {:.4}, accuracy {:.1} %{}",
                        held_out.loss,
                        100.0 * held_out.accuracy,
                        if is_best { ", the best so far" } else { "" }
                    ),
                    json!({"event": "evaluated", "step": step, "loss": held_out.loss, "accuracy": held_out.accuracy, "best": is_best}),
                );
            }
            Progress::Alert(text) => teller.tell(&format!("note: {text}"), json!({"event": "alert", "text": text})),
            // The record of a run that goes on from here must know what came before.
            Progress::Saved(_) => unwritten = record.write(out).err(),
        }
        Next::On
    })?;
    if let Some(error) = unwritten {
        return Err(error);
    }
    let kept = if run.best().is_some() { Kept::Best } else { Kept::Last };
    let best = out.join(kept.name());
    let why = match ended {
        Ended::Early => "ended early, as evaluations did not improve any more",
        _ => "done",
    };
    let seconds = began.elapsed().as_secs_f64();
    let text = format!(
        "{why} after {} steps in {seconds:.0} s; the adapter is in {}\n  switchyard serve --adapter NAME={}",
        run.step_number(),
        best.display(),
        best.display()
    );
    teller.tell(&text, json!({"event": "done", "step": run.step_number(), "seconds": seconds, "adapter": best}));
    Ok(kept)
}
