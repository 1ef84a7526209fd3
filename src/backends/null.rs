//! A backend without a model: every request gets words of the vocabulary after a fixed delay. What is measured in front of it is
//! everything but the model. One thread keeps the time, as precisely as the system wakes it; nothing is computed per token until
//! somebody reads it. Requests are checked as the engine checks them, and the queue has the engine's bound.

mod progress;
mod schedule;
#[cfg(test)]
mod tests;
mod words;

use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{EngineFacts, Event, Finish, Health, PreparedAdapter, Request, Stats, SubmitError, TokenLogprob};
use crate::engine::{EngineConfig, PrefixCache, check_request};
use crate::model::lora::LoraWeights;
use crate::model::tokenizer::Tokenizer;
use crate::model::{AdapterPreparer, ModelConfig, ModelError};
use progress::{Progress, State};
pub use schedule::Pace;
use schedule::{Release, Schedule};

/// Settings of the null backend.
#[derive(Debug, Clone)]
pub struct NullConfig {
    /// The shape that requests and adapters are checked against.
    pub model: ModelConfig,
    /// When tokens come.
    pub pace: Pace,
    /// Tokens of an answer whose request leaves the length open.
    pub open_length: usize,
    /// Most requests whose first token is not due yet.
    pub queue_capacity: usize,
}

/// Takes adapters as they are: nothing computes with them.
#[derive(Debug)]
pub struct NoPacking;

impl AdapterPreparer for NoPacking {
    fn prepare(&self, weights: LoraWeights) -> Result<PreparedAdapter, ModelError> {
        Ok(PreparedAdapter { id: weights.id, bytes: 0, max_rank: weights.max_rank, inner: Box::new(()) })
    }
}

/// The backend, from outside. Clones are the same backend. When the last one is dropped its thread finishes what it has and ends.
#[derive(Debug, Clone)]
pub struct NullBackend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    facts: EngineFacts,
    words: Arc<[u32]>,
    open_length: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread, the handles and the generations share.
#[derive(Debug)]
struct Shared {
    clock: Mutex<Clock>,
    /// Something is due earlier than the thread knows, or it has to end.
    sooner: Condvar,
    health: watch::Sender<Health>,
    waiting: AtomicUsize,
    /// An answer may be read to its end before the thread has counted its beginning: below zero for a moment.
    running: AtomicIsize,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
}

#[derive(Debug)]
struct Clock {
    schedule: Schedule<Arc<Progress>>,
    stop: Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Go on.
    No,
    /// End when nothing is left.
    WhenIdle,
    /// The same, but not later than this.
    At(Instant),
    /// The thread has ended.
    Ended,
}

/// Reserved places in the queue; those that are not used are given back when this is dropped.
#[derive(Debug)]
pub struct Places {
    shared: Arc<Shared>,
    count: usize,
}

impl Drop for Places {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(self.count, Ordering::AcqRel);
    }
}

impl NullBackend {
    /// Starts the thread that keeps the time.
    pub fn start(config: NullConfig, tokenizer: &Tokenizer) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            clock: Mutex::new(Clock { schedule: Schedule::new(config.pace), stop: Stop::No }),
            sooner: Condvar::new(),
            health: watch::Sender::new(Health::Serving),
            waiting: AtomicUsize::new(0),
            running: AtomicIsize::new(0),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
        });
        let facts = EngineFacts {
            max_context: config.model.context_length,
            model: config.model,
            weight_bytes: 0,
            kv_block_bytes: 0,
            config: EngineConfig {
                kv_blocks: 0,
                queue_capacity: config.queue_capacity,
                prefix_cache: PrefixCache::Off,
                speculation_tokens: 0,
                ..EngineConfig::default()
            },
        };
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("null-backend".to_owned()).spawn(move || of_thread.keep_time())?;
        let words = words::words(tokenizer);
        let open_length = config.open_length;
        Ok(Self(Arc::new(Inner { shared, facts, words, open_length, thread: Mutex::new(Some(thread)) })))
    }

    /// Takes `count` places in the queue, all or none.
    pub fn reserve(&self, count: usize, within: usize) -> Result<Places, SubmitError> {
        self.refuse_unless_serving()?;
        let shared = &self.0.shared;
        let capacity = self.0.facts.config.queue_capacity.min(within);
        let more = |taken: usize| taken.checked_add(count).filter(|taken| *taken <= capacity);
        match shared.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(Places { shared: Arc::clone(shared), count }),
            Err(waiting) => Err(SubmitError::Overloaded { waiting }),
        }
    }

    /// Hands a request in at one of the reserved places; without any left, at a new one. Never blocks.
    pub fn submit_at(&self, places: &mut Places, request: Request) -> Result<Generation, SubmitError> {
        let start = Instant::now();
        self.refuse_unless_serving()?;
        let facts = &self.0.facts;
        check_request(&request, &facts.model, facts.max_context)?;
        if places.count == 0 {
            *places = self.reserve(1, usize::MAX)?;
        }
        let shared = &self.0.shared;
        let room = facts.max_context - request.prompt.len();
        // Who asks for all the room there is leaves the length open.
        let length = if request.max_tokens < room { request.max_tokens } else { self.0.open_length.min(room) };
        let given = request.grammar.as_ref().and_then(|grammar| grammar.any_answer(request.max_tokens.min(room)));
        let length = given.as_ref().map_or(length, Vec::len);
        let progress = Arc::new(Progress::default());
        {
            let mut clock = shared.clock();
            if clock.stop != Stop::No {
                return Err(SubmitError::Stopping);
            }
            let first = clock.schedule.add(Arc::clone(&progress), length, start);
            drop(clock);
            if first {
                shared.sooner.notify_one();
            }
        }
        // The place is the generation's from here on.
        places.count -= 1;
        shared.prompt_tokens.fetch_add(request.prompt.len() as u64, Ordering::Relaxed);
        let fingerprint = words::fingerprint(&request);
        Ok(Generation {
            shared: Arc::clone(shared),
            progress,
            words: Arc::clone(&self.0.words),
            given,
            fingerprint,
            length,
            taken: 0,
            prompt_report: request.prompt_logprobs.map(|_| request.prompt.len()),
            embedding: request.pooling.map(|_| facts.model.hidden_size),
            logprobs: request.logprobs,
            stop_tokens: request.stop_tokens,
            adapter: request.adapter,
            is_embedding: false,
            ended: false,
        })
    }

    fn refuse_unless_serving(&self) -> Result<(), SubmitError> {
        match &*self.0.shared.health.borrow() {
            Health::Serving => Ok(()),
            Health::Failed(why) => Err(SubmitError::Unhealthy(why.clone())),
            Health::Stopping | Health::Stopped => Err(SubmitError::Stopping),
        }
    }

    /// Numbers of this moment; there are no steps and no KV blocks.
    pub fn stats(&self) -> Stats {
        let shared = &self.0.shared;
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            running: usize::try_from(shared.running.load(Ordering::Acquire)).unwrap_or(0),
            waiting: shared.waiting.load(Ordering::Acquire),
            prompt_tokens: total(&shared.prompt_tokens),
            generated_tokens: total(&shared.generated_tokens),
            completed: total(&shared.completed),
            failed: total(&shared.failed),
            cancelled: total(&shared.cancelled),
            ..Stats::default()
        }
    }

    /// What is fixed for the backend's life.
    pub fn facts(&self) -> &EngineFacts {
        &self.0.facts
    }

    /// How the backend is, to be watched.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.shared.health.subscribe()
    }

    /// Stops taking requests, lets accepted ones finish until the deadline, cuts the rest off.
    pub async fn shutdown(&self, deadline: Duration) {
        let shared = &self.0.shared;
        shared.stop(Instant::now().checked_add(deadline).map_or(Stop::WhenIdle, Stop::At));
        let _ = self.health().wait_for(Health::is_over).await;
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has nothing left to do but to return.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop(Stop::WhenIdle);
    }
}

impl Shared {
    fn clock(&self) -> MutexGuard<'_, Clock> {
        // Nothing panics while it is held.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, stop: Stop) {
        self.health.send_if_modified(|health| {
            let serving = *health == Health::Serving;
            if serving {
                *health = Health::Stopping;
            }
            serving
        });
        let mut clock = self.clock();
        if clock.stop != Stop::Ended {
            clock.stop = stop;
        }
        drop(clock);
        self.sooner.notify_one();
    }

    /// The thread: sleeps until something is due, tells everybody whose tokens are, and so on.
    fn keep_time(&self) {
        let mut releases = Vec::new();
        loop {
            let rest = self.wait(&mut releases);
            for Release { job, tokens } in releases.drain(..) {
                if job.release(tokens) == State::Waiting {
                    self.running.fetch_add(1, Ordering::AcqRel);
                    self.waiting.fetch_sub(1, Ordering::AcqRel);
                }
                job.wake();
            }
            let Some(rest) = rest else { continue };
            for job in rest {
                match job.cut_off() {
                    State::Waiting => _ = self.waiting.fetch_sub(1, Ordering::AcqRel),
                    State::Running(_) => _ = self.running.fetch_sub(1, Ordering::AcqRel),
                    State::CutOff | State::Left => {}
                }
                job.wake();
            }
            self.health.send_replace(Health::Stopped);
            return;
        }
    }

    /// Waits until something is due. At the end: what will never be.
    fn wait(&self, releases: &mut Vec<Release<Arc<Progress>>>) -> Option<Vec<Arc<Progress>>> {
        let mut clock = self.clock();
        loop {
            let now = Instant::now();
            clock.schedule.take_due(now, releases);
            let next = clock.schedule.next();
            let over = match clock.stop {
                Stop::No => false,
                Stop::WhenIdle => next.is_none(),
                Stop::At(end) => next.is_none() || end <= now,
                Stop::Ended => true,
            };
            if over {
                clock.stop = Stop::Ended;
                return Some(clock.schedule.take_all());
            }
            if !releases.is_empty() {
                return None;
            }
            let until = match (next, clock.stop) {
                (Some(next), Stop::At(end)) => Some(next.min(end)),
                (next, _) => next,
            };
            clock = match until {
                Some(until) => {
                    let timeout = until.saturating_duration_since(now);
                    self.sooner.wait_timeout(clock, timeout).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.sooner.wait(clock).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The events of one request. Dropping it cancels the request at once.
#[derive(Debug)]
pub struct Generation {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    words: Arc<[u32]>,
    /// The answer, where a grammar says what it may be.
    given: Option<Vec<u32>>,
    fingerprint: u64,
    /// Tokens of the answer.
    length: usize,
    /// Tokens that were read.
    taken: usize,
    /// Length of a prompt whose log-probabilities are still to be sent.
    prompt_report: Option<usize>,
    /// Length of an embedding that is still to be sent.
    embedding: Option<usize>,
    logprobs: Option<usize>,
    stop_tokens: Arc<[u32]>,
    /// Keeps the version in memory, as an answer by a model would.
    adapter: Option<Arc<PreparedAdapter>>,
    /// An embedding was all that was wanted.
    is_embedding: bool,
    /// The last event was read.
    ended: bool,
}

impl Generation {
    /// The next event, if it is due; `None` after the last one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(event) = self.take() {
            return Poll::Ready(Some(event));
        }
        self.progress.register(context.waker());
        // Asked again: it may have become due before the waker was there.
        self.take().map_or(Poll::Pending, |event| Poll::Ready(Some(event)))
    }

    fn take(&mut self) -> Option<Event> {
        let due = match self.progress.state() {
            State::Running(due) => due,
            State::Waiting => return None,
            State::CutOff | State::Left => {
                self.end(|shared| &shared.failed);
                return Some(Event::CutOff);
            }
        };
        if let Some(tokens) = self.prompt_report.take() {
            // Nothing comes before the first token, and the rest is certain.
            let report = (0..tokens).map(|index| (index > 0).then(TokenLogprob::default)).collect();
            return Some(Event::Prompt(report));
        }
        if let Some(width) = self.embedding.take() {
            self.is_embedding = true;
            return Some(Event::Embedding((0..width).map(|place| words::value(self.fingerprint, place)).collect()));
        }
        let finish = if self.is_embedding || (self.taken > 0 && self.stopped()) {
            Some(Finish::Stop)
        } else {
            (self.taken == self.length).then_some(Finish::Length)
        };
        if let Some(finish) = finish {
            self.end(|shared| &shared.completed);
            return Some(Event::Done { finish, cached_tokens: 0 });
        }
        if self.taken == due {
            return None;
        }
        let id = self.word(self.taken);
        self.taken += 1;
        let logprob = self.logprobs.map(|top| TokenLogprob { logprob: 0.0, top: [(id, 0.0)].into_iter().take(top).collect() });
        let choice = self.given.as_ref().map(|_| 0.0);
        Some(Event::Token { id, logprob, choice })
    }

    fn word(&self, index: usize) -> u32 {
        let given = self.given.as_ref().and_then(|given| given.get(index));
        given.copied().unwrap_or_else(|| words::word(&self.words, self.fingerprint, index))
    }

    /// Whether the last token that was read ends the answer.
    fn stopped(&self) -> bool {
        self.stop_tokens.contains(&self.word(self.taken - 1))
    }

    /// Gives everything back.
    fn end(&mut self, counter: fn(&Shared) -> &AtomicU64) {
        self.ended = true;
        self.adapter = None;
        match self.progress.leave() {
            State::Waiting => _ = self.shared.waiting.fetch_sub(1, Ordering::AcqRel),
            State::Running(_) => _ = self.shared.running.fetch_sub(1, Ordering::AcqRel),
            State::CutOff | State::Left => {}
        }
        self.shared.generated_tokens.fetch_add(self.taken as u64, Ordering::Relaxed);
        counter(&self.shared).fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended {
            self.end(|shared| &shared.cancelled);
        }
    }
}
