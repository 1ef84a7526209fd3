//! Serving beside training on one base: what a running job costs a steady load, and what training gets on an idle and on a half busy
//! machine. The engine and the trainer are those of the server; there is no HTTP.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::train::{TrainOptions, random_run};
use crate::engine::request::{Event, Realm, Request, Sampling};
use crate::engine::{EngineConfig, EngineHandle, start};
use crate::model::train::TrainingBase;
use crate::model::{BLOCK_TOKENS, Model};
use crate::training::idle::{Gate, Held, Mode, Policy, yield_to_others};
use crate::training::trainer::TrainError;

/// What is measured.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BesideOptions {
    /// The job.
    pub job: TrainOptions,
    /// Rounds with the job, and as many without.
    pub rounds: usize,
    /// Length of each measurement.
    pub seconds: u64,
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Tokens of an answer.
    pub answer: usize,
    /// Streams at a time.
    pub streams: usize,
    /// Longest time that training goes on once somebody waits, milliseconds.
    pub slice_ms: u64,
}

/// Gaps and first tokens of a load.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Load {
    /// Answers.
    pub answers: usize,
    /// Time to the first token, milliseconds.
    pub first_p50: f64,
    /// The same, 95th percentile.
    pub first_p95: f64,
    /// Time between tokens, milliseconds.
    pub gap_p50: f64,
    /// The same, 99th percentile.
    pub gap_p99: f64,
}

/// The figures.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BesideReport {
    /// The base.
    pub model: String,
    /// What was measured.
    pub options: BesideOptions,
    /// A steady load with no job.
    pub alone: Load,
    /// The same with a job that waits for its turn.
    pub beside: Load,
    /// Tokens a second of a job that has the machine to itself (`exclusive`).
    pub exclusive: f64,
    /// Of a job in mode `idle` on an idle server.
    pub idle: f64,
    /// Of a job in mode `idle` under bursts.
    pub bursts: f64,
    /// Share of the time in which the bursts kept the engine busy.
    pub busy: f64,
}

#[derive(Default)]
struct Samples {
    firsts: Vec<f64>,
    gaps: Vec<f64>,
}

impl Samples {
    fn load(mut self) -> Load {
        let at = |values: &mut Vec<f64>, share: f64| {
            values.sort_by(f64::total_cmp);
            values.get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1))).map_or(0.0, |s| s * 1e3)
        };
        Load {
            answers: self.firsts.len(),
            first_p50: at(&mut self.firsts, 0.5),
            first_p95: at(&mut self.firsts, 0.95),
            gap_p50: at(&mut self.gaps, 0.5),
            gap_p99: at(&mut self.gaps, 0.99),
        }
    }
}

/// Asks for answers, one after the other in each stream, until the time is up.
fn steady(
    engine: &EngineHandle,
    options: &BesideOptions,
    time: Duration,
    number: &AtomicU64,
    into: &mut Samples,
) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    let vocabulary = engine.facts().model.vocab_size as u64;
    let stream = || -> anyhow::Result<Samples> {
        let mut samples = Samples::default();
        while Instant::now() < end {
            let seed = number.fetch_add(1, Ordering::Relaxed);
            let token = |i: usize| (crate::model::train::mix(seed << 20 | i as u64) % vocabulary) as u32;
            let request = Request {
                realm: Realm::named("bench"),
                prompt: (0..options.prompt).map(token).collect(),
                adapter: None,
                sampling: Sampling { temperature: 0.0, ..Sampling::default() },
                max_tokens: options.answer,
                stop_tokens: Arc::default(),
                logprobs: None,
                prompt_logprobs: None,
                grammar: None,
                pooling: None,
            };
            let mut last = Instant::now();
            let mut answer = engine.submit(request)?;
            let mut first = true;
            while let Some(event) = answer.blocking_next() {
                match event {
                    Event::Token { .. } => {
                        let gap = last.elapsed().as_secs_f64();
                        if first {
                            samples.firsts.push(gap)
                        } else {
                            samples.gaps.push(gap)
                        }
                        (first, last) = (false, Instant::now());
                    }
                    Event::Failed(text) => anyhow::bail!(text),
                    _ => {}
                }
            }
        }
        Ok(samples)
    };
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..options.streams).map(|_| scope.spawn(stream)).collect();
        for stream in streams {
            let samples = stream.join().map_err(|_| anyhow::anyhow!("a stream broke"))??;
            into.firsts.extend(samples.firsts);
            into.gaps.extend(samples.gaps);
        }
        Ok(())
    })
}

/// A job on a thread of its own, as the server runs it.
struct Job {
    gate: Arc<Gate>,
    tokens: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<Result<(), TrainError>>>,
}

impl Job {
    fn start(base: TrainingBase, options: &BesideOptions, engine: &EngineHandle) -> anyhow::Result<Self> {
        let policy = Policy { mode: Mode::Idle, slice: Duration::from_millis(options.slice_ms), hours: None };
        let gate = Gate::new(policy, engine.pressure().clone());
        let tokens = Arc::new(AtomicU64::new(0));
        let (of_thread, counted, options) = (Arc::clone(&gate), Arc::clone(&tokens), options.job.clone());
        let work = move || {
            yield_to_others();
            let mut run = random_run(base, &options, of_thread)?;
            loop {
                match run.step() {
                    Ok(report) => _ = counted.fetch_add(report.tokens, Ordering::AcqRel),
                    Err(TrainError::Stopped) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        let thread = std::thread::Builder::new().name("trainer".to_owned()).spawn(work).context("the trainer's thread")?;
        Ok(Self { gate, tokens, thread: Some(thread) })
    }

    /// Tokens a second between the first and the last step that end while `meanwhile` runs.
    fn speed(&self, mut meanwhile: impl FnMut(Duration) -> anyhow::Result<()>, time: Duration) -> anyhow::Result<f64> {
        let step = |since: u64| -> anyhow::Result<(u64, Instant)> {
            while self.tokens.load(Ordering::Acquire) == since {
                anyhow::ensure!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the job broke");
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok((self.tokens.load(Ordering::Acquire), Instant::now()))
        };
        let (from, began) = step(self.tokens.load(Ordering::Acquire))?;
        meanwhile(time)?;
        let (to, ended) = step(self.tokens.load(Ordering::Acquire))?;
        Ok((to - from) as f64 / (ended - began).as_secs_f64())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.gate.stop();
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

/// Measures all of it.
pub fn beside(name: &str, model: Box<dyn Model>, options: &BesideOptions) -> anyhow::Result<BesideReport> {
    if let Some(reason) = model.config().anatomy().untrainable {
        anyhow::bail!("no training: {reason}");
    }
    let base = model.training_base().context("training runs on the CPU only")?;
    let blocks = options.streams * (options.prompt + options.answer).div_ceil(BLOCK_TOKENS) * 4;
    let engine = start(model, EngineConfig { kv_blocks: blocks, ..EngineConfig::default() })?;
    let (time, number) = (Duration::from_secs(options.seconds), AtomicU64::new(1));
    steady(&engine, options, Duration::from_secs(2), &number, &mut Samples::default())?;
    let job = Job::start(base, options, &engine)?;
    let rest = |time: Duration| {
        std::thread::sleep(time);
        Ok(())
    };
    let (mut exclusive, mut idle, mut bursts, mut busy) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut alone, mut beside) = (Samples::default(), Samples::default());
    for _ in 0..options.rounds {
        let of_mode = |mode| Policy { mode, ..job.gate.policy() };
        job.gate.set(of_mode(Mode::Exclusive));
        exclusive.push(job.speed(rest, time)?);
        job.gate.set(of_mode(Mode::Idle));
        idle.push(job.speed(rest, time)?);
        steady(&engine, options, time, &number, &mut beside)?;
        job.gate.hold(Held::Yes);
        std::thread::sleep(Duration::from_millis(200));
        steady(&engine, options, time, &number, &mut alone)?;
        job.gate.hold(Held::No);
        let mut shares = (0.0, 0.0);
        let burst = |time: Duration| {
            let began = Instant::now();
            while began.elapsed() < time {
                let start = Instant::now();
                steady(&engine, options, Duration::from_millis(500), &number, &mut Samples::default())?;
                let took = start.elapsed();
                std::thread::sleep(took);
                shares = (shares.0 + took.as_secs_f64(), shares.1 + start.elapsed().as_secs_f64());
            }
            Ok(())
        };
        bursts.push(job.speed(burst, time)?);
        busy.push(shares.0 / shares.1);
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(BesideReport {
        model: name.to_owned(),
        options: options.clone(),
        alone: alone.load(),
        beside: beside.load(),
        exclusive: median(&mut exclusive),
        idle: median(&mut idle),
        bursts: median(&mut bursts),
        busy: median(&mut busy),
    })
}

impl fmt::Display for BesideReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.model)?;
        for (name, load) in [("no job", self.alone), ("a job waits", self.beside)] {
            writeln!(
                f,
                "{name:<12} first token p50 {:>7.1} ms, p95 {:>7.1} ms; gap p50 {:>6.1} ms, p99 {:>6.1} ms; {} answers",
                load.first_p50, load.first_p95, load.gap_p50, load.gap_p99, load.answers
            )?;
        }
        writeln!(
            f,
            "ratios       first token p95 {:.3}, gap p99 {:.3}",
            self.beside.first_p95 / self.alone.first_p95,
            self.beside.gap_p99 / self.alone.gap_p99
        )?;
        writeln!(
            f,
            "training     exclusive {:.1} tokens/s, idle {:.1} ({:.3}), bursts {:.1} ({:.3}) with the engine busy {:.0} % of the time",
            self.exclusive,
            self.idle,
            self.idle / self.exclusive,
            self.bursts,
            self.bursts / self.exclusive,
            100.0 * self.busy
        )
    }
}
