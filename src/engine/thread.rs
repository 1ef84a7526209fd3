//! The loop of the engine's thread: take commands, plan, run the model, hand tokens out. Owns the model and every sequence.

use std::any::Any;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::grammar::Masks;
use super::handle::EngineConfig;
use super::job::{ChunkRows, Cursor, Job, Submission};
use super::kv::{BlockPool, Sharing};
use super::request::Event;
use super::sampling::{SampleError, Scratch};
use super::scheduler::{Arrival, Limits, PlannedChunk, PromptRows, Scheduler, Sequence, StepPlan};
use super::stats::{Health, Shared, Stats};
use crate::model::{Chunk, Logits, Model};

/// Rows of prompt log-probabilities per step: with a vocabulary of 128,000 they take 64 MiB.
const PROMPT_ROWS_PER_STEP: usize = 128;
/// Rows of a step up to which sequences that decode may carry guesses: reading the weights costs more than so many rows of products.
const GUESSED_ROWS: usize = 16;
/// How long prefill may hold up running answers in one step.
const PREFILL_STALL: Duration = Duration::from_millis(200);
/// Prefill tokens beside decodes before a speed is known, and never fewer: smaller chunks waste the weights that a step reads.
const LEAST_PREFILL: usize = 32;
/// Prefill steps with fewer tokens say little about the speed of prefill.
const TELLING_TOKENS: usize = LEAST_PREFILL / 2;

/// What the thread is told.
pub(super) enum Command {
    /// A new request.
    Submit(Box<Submission>),
    /// End when everything is answered, or at this moment (`None` is never).
    Stop {
        /// The deadline.
        at: Option<Instant>,
    },
}

/// The thread's state.
pub(super) struct EngineThread {
    model: Box<dyn Model>,
    max_context: usize,
    inbox: Receiver<Command>,
    shared: Arc<Shared>,
    pool: BlockPool,
    scheduler: Scheduler<Job>,
    stats: Stats,
    stopping: bool,
    deadline: Option<Instant>,
    logits: Logits,
    scratch: Scratch,
    masks: Masks,
    /// Tokens per second of prefill, an average that follows the last steps; `None` before the first.
    prefill_speed: Option<f64>,
    /// Most guesses of a sequence in a step.
    guesses: usize,
    /// Rows of a step in which there may be guesses.
    guessed_rows: usize,
}

impl EngineThread {
    /// Runs until told to stop, until all handles are gone, or until a step panics.
    pub(super) fn run(
        model: Box<dyn Model>,
        config: &EngineConfig,
        max_context: usize,
        inbox: Receiver<Command>,
        shared: Arc<Shared>,
    ) {
        let pool = BlockPool::new(config.kv_blocks, config.prefix_cache);
        let limits =
            Limits { batch_tokens: config.max_batch_tokens, sequences: config.max_sequences, prompt_rows: PROMPT_ROWS_PER_STEP };
        let mut engine = Self {
            model,
            max_context,
            inbox,
            shared: Arc::clone(&shared),
            pool: pool.clone(),
            scheduler: Scheduler::new(limits, pool),
            stats: shared.stats(),
            stopping: false,
            deadline: None,
            logits: Logits::default(),
            scratch: Scratch::default(),
            masks: Masks::default(),
            prefill_speed: None,
            guesses: config.speculation_tokens,
            guessed_rows: GUESSED_ROWS.min(config.max_batch_tokens),
        };
        engine.scheduler.bound_prefill_beside_decodes(LEAST_PREFILL);
        let outcome = catch_unwind(AssertUnwindSafe(|| engine.work()));
        let (health, last) = match outcome {
            Ok(()) => (Health::Stopped, Event::CutOff),
            Err(panic) => {
                let text = format!("the engine broke: {}", panic_text(panic.as_ref()));
                tracing::error!(reason = %text, "the engine's thread ends");
                (Health::Failed(text.clone()), Event::Failed(text))
            }
        };
        // First nobody comes in any more, then everybody inside is told.
        if matches!(health, Health::Failed(_)) {
            shared.health.send_replace(health.clone());
        }
        engine.end_all(&last);
        // Requests that were sent in the last moment fail when the channel drops them with the engine.
        drop(engine);
        shared.health.send_replace(health);
    }

    fn work(&mut self) {
        while self.listen().is_continue() {
            self.drop_abandoned();
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return;
            }
            if !self.scheduler.is_idle() {
                self.step();
            }
        }
    }

    /// Takes what arrived; waits for something when there is nothing to do. Breaks when there never will be.
    fn listen(&mut self) -> ControlFlow<()> {
        loop {
            let command = match self.inbox.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) if !self.scheduler.is_idle() => return ControlFlow::Continue(()),
                Err(TryRecvError::Empty) if self.stopping => return ControlFlow::Break(()),
                Err(TryRecvError::Empty) => match self.inbox.recv() {
                    Ok(command) => command,
                    Err(_) => return ControlFlow::Break(()),
                },
                Err(TryRecvError::Disconnected) if self.scheduler.is_idle() => return ControlFlow::Break(()),
                Err(TryRecvError::Disconnected) => return ControlFlow::Continue(()),
            };
            match command {
                Command::Submit(submission) => self.accept(*submission),
                Command::Stop { at } => {
                    self.stopping = true;
                    self.deadline = match (self.deadline, at) {
                        (Some(one), Some(other)) => Some(one.min(other)),
                        (one, other) => one.or(other),
                    };
                }
            }
        }
    }

    fn accept(&mut self, submission: Submission) {
        if submission.emitter.is_abandoned() {
            self.stats.cancelled += 1;
            return;
        }
        let (tokens, prompt_len, mut job) = Job::new(submission, self.max_context);
        job.prepare(&mut self.masks);
        let sharing = Sharing { version: job.lease.as_ref().map(|adapter| adapter.id), realm: job.realm };
        let rows = if job.wants_prompt_rows() { PromptRows::All } else { PromptRows::Last };
        let account = job.account;
        self.scheduler.push(Arrival { tokens, prompt_len, sharing, account, rows }, job);
    }

    fn drop_abandoned(&mut self) {
        let gone = self.scheduler.take_out(|job| job.emitter.is_abandoned()).len();
        if gone > 0 {
            self.stats.cancelled += gone as u64;
            self.publish();
        }
    }

    fn step(&mut self) {
        let began = Instant::now();
        self.guess();
        let plan = self.scheduler.plan();
        // Before the started ones give their queue places back, so that nobody is ever counted nowhere.
        self.publish();
        self.note_plan(&plan);
        let (forward, outcome) = self.forward(&plan);
        match outcome {
            Ok(()) => {
                self.take_results(&plan);
                self.note_speed(&plan, forward);
            }
            Err(error) => {
                self.stats.failed_steps += 1;
                tracing::error!(%error, sequences = plan.chunks.len(), "a step failed");
                for chunk in &plan.chunks {
                    self.scheduler.running_mut(chunk.sequence).payload.last =
                        Some(Event::Failed(format!("a step failed: {error}")));
                }
            }
        }
        let took = began.elapsed();
        self.stats.steps += 1;
        self.stats.last_step = took;
        self.stats.max_step = self.stats.max_step.max(took);
        self.stats.total_step += took;
        self.stats.total_forward += forward;
        self.note_effort(&plan, forward, took);
        self.end_finished();
    }

    /// Has sequences that decode guess how they go on, as long as there are few rows: each that runs has a place in the step before any
    /// guess.
    fn guess(&mut self) {
        let decoding = |sequence: &Sequence<Job>| sequence.is_decoding();
        let mut left = self.scheduler.running().iter().filter(|sequence| decoding(sequence)).count();
        let mut room = self.guessed_rows.saturating_sub(self.scheduler.running().len());
        for index in 0..self.scheduler.running().len() {
            if room == 0 || self.guesses == 0 {
                return;
            }
            if decoding(&self.scheduler.running()[index]) {
                let most = self.guesses.min(room.div_ceil(left));
                self.scheduler.guess(index, |tokens, job| job.guess(tokens, most));
                left -= 1;
                room -= self.scheduler.running()[index].guessed();
            }
        }
    }

    /// Tells each sequence what the step has cost it.
    fn note_effort(&self, plan: &StepPlan, forward: Duration, took: Duration) {
        let running = self.scheduler.running();
        let rows: usize = plan.chunks.iter().map(|chunk| chunk.len).sum();
        for chunk in &plan.chunks {
            running[chunk.sequence].payload.emitter.meter.computed(forward, chunk.len, rows);
        }
        for sequence in running {
            sequence.payload.emitter.meter.held(sequence.blocks().len(), took);
        }
    }

    /// Sizes the prefill of steps with decodes by how fast this base computes here.
    fn note_speed(&mut self, plan: &StepPlan, forward: Duration) {
        let tokens: usize = plan.chunks.iter().map(|chunk| chunk.len).sum();
        let prefill: usize = plan.chunks.iter().map(|chunk| chunk.len).filter(|len| *len > 1).sum();
        if prefill < TELLING_TOKENS || forward.is_zero() {
            return;
        }
        let now = tokens as f64 / forward.as_secs_f64();
        let speed = self.prefill_speed.map_or(now, |before| 0.7 * before + 0.3 * now);
        self.prefill_speed = Some(speed);
        self.scheduler.bound_prefill_beside_decodes(LEAST_PREFILL.max((speed * PREFILL_STALL.as_secs_f64()) as usize));
    }

    fn note_plan(&mut self, plan: &StepPlan) {
        for &(index, found) in &plan.started {
            let job = &mut self.scheduler.running_mut(index).payload;
            if job.slot.take().is_some() {
                job.cached_tokens = found;
                job.emitter.meter.started(found);
                self.stats.prefix_hit_tokens += found as u64;
            }
        }
        let running = self.scheduler.running();
        let leases = plan.chunks.iter().filter_map(|chunk| running[chunk.sequence].payload.lease.as_ref());
        let adapters = leases.map(|lease| lease.id).collect::<HashSet<_>>().len();
        self.stats.preemptions += plan.preempted as u64;
        self.stats.adapters_per_step_max = self.stats.adapters_per_step_max.max(adapters);
        self.stats.sequences_per_step_max = self.stats.sequences_per_step_max.max(plan.chunks.len());
        self.stats.sequences_per_step_sum += plan.chunks.len() as u64;
    }

    fn forward(&mut self, plan: &StepPlan) -> (Duration, Result<(), crate::model::ModelError>) {
        let running = self.scheduler.running();
        let chunks: Vec<Chunk<'_>> = plan
            .chunks
            .iter()
            .map(|chunk| {
                let sequence = &running[chunk.sequence];
                Chunk {
                    tokens: &sequence.tokens[chunk.start..chunk.end()],
                    start: chunk.start,
                    blocks: sequence.blocks(),
                    adapter: sequence.payload.lease.as_ref(),
                    logits: sequence.payload.wanted(chunk.logits),
                }
            })
            .collect();
        let began = Instant::now();
        let outcome = self.model.forward(&chunks, &mut self.logits);
        (began.elapsed(), outcome)
    }

    fn take_results(&mut self, plan: &StepPlan) {
        let mut cursor = Cursor::default();
        for chunk in &plan.chunks {
            let wanted = self.scheduler.running()[chunk.sequence].payload.wanted(chunk.logits);
            let rows = ChunkRows::new(chunk, wanted, &self.logits, &mut cursor);
            let sequence = self.scheduler.running_mut(chunk.sequence);
            let guesses = sequence.take_guesses();
            let mut chunk = PlannedChunk { len: chunk.len - guesses.len(), ..*chunk };
            if sequence.tokens.len() - chunk.start > 1 {
                self.stats.prompt_tokens += chunk.len as u64;
            }
            match sequence.advance(&chunk, &guesses, &rows, &mut self.scratch) {
                Ok((generated, right)) => {
                    self.stats.guessed_tokens += guesses.len() as u64;
                    self.stats.right_guesses += right as u64;
                    chunk.len += right;
                    if generated > 0 {
                        sequence.payload.prepare(&mut self.masks);
                    }
                    sequence.payload.emitter.meter.generated(generated);
                    self.stats.generated_tokens += generated as u64;
                    self.scheduler.computed(&chunk);
                }
                // What was computed is not trusted: its blocks are not published.
                Err(SampleError::NothingAllowed) => sequence.payload.last = Some(Event::NothingAllowed),
                Err(error) => sequence.payload.last = Some(Event::Failed(error.to_string())),
            }
        }
    }

    /// Takes ended sequences out; their last event is sent when everything that they held is given back.
    fn end_finished(&mut self) {
        let ended = self.scheduler.take_out(|job| job.last.is_some());
        let mut last_words = Vec::with_capacity(ended.len());
        for sequence in ended {
            // Blocks, lease and queue slot are dropped here.
            let Job { emitter, last, .. } = sequence.into_payload();
            if let Some(last) = last {
                match last {
                    Event::Failed(_) => self.stats.failed += 1,
                    _ => self.stats.completed += 1,
                }
                last_words.push((emitter, last));
            }
        }
        self.publish();
        for (emitter, last) in last_words {
            emitter.end(last);
        }
    }

    /// Ends everybody with this event.
    fn end_all(&mut self, last: &Event) {
        while let Ok(command) = self.inbox.try_recv() {
            if let Command::Submit(submission) = command {
                self.accept(*submission);
            }
        }
        for sequence in self.scheduler.take_out(|_| true) {
            let Job { emitter, .. } = sequence.into_payload();
            self.stats.failed += 1;
            self.publish();
            emitter.end(last.clone());
        }
        self.publish();
    }

    fn publish(&mut self) {
        let counts = self.pool.counts();
        self.stats.running = self.scheduler.running().len();
        self.stats.waiting = self.scheduler.waiting_where(|job| job.slot.is_none());
        self.stats.kv_used = counts.held;
        self.stats.kv_cached = counts.cached;
        self.stats.kv_free = counts.available() - counts.cached;
        self.shared.publish(self.stats);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}
