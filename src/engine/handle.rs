//! The engine's door: starting it, handing requests in, receiving tokens, shutting down. Knows nothing of how steps are made.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use super::check;
use super::effort::{Effort, EffortReader, Meter};
use super::job::{Emitter, Submission};
use super::kv::PrefixCache;
use super::pressure::Pressure;
use super::request::{Event, Request};
use super::stats::{Health, QueueSlot, Shared, Stats};
use super::thread::{Command, EngineThread};
use crate::model::train::TrainingBase;
use crate::model::{AdapterPreparer, Model, ModelConfig, ModelError};

/// Settings of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// KV blocks to allocate, [`crate::model::BLOCK_TOKENS`] tokens each.
    pub kv_blocks: usize,
    /// Most tokens in one step; at least `max_sequences`.
    pub max_batch_tokens: usize,
    /// Most sequences running at the same time.
    pub max_sequences: usize,
    /// Most requests accepted and not started.
    pub queue_capacity: usize,
    /// Whether computed prefixes are shared.
    pub prefix_cache: PrefixCache,
    /// Most tokens that are guessed for a sequence in a step; 0 guesses none.
    pub speculation_tokens: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            kv_blocks: 256,
            max_batch_tokens: 512,
            max_sequences: 64,
            queue_capacity: 1024,
            prefix_cache: PrefixCache::On,
            speculation_tokens: 8,
        }
    }
}

/// The engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A setting is wrong; the text names it, its value and what would be right.
    #[error("{0}")]
    Config(String),
    /// The model cannot allocate its KV storage.
    #[error("cannot allocate {blocks} KV blocks: {source}")]
    Kv {
        /// Blocks asked for.
        blocks: usize,
        /// The cause.
        source: ModelError,
    },
    /// The system gives no thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(std::io::Error),
}

/// A request was not accepted; nothing is held for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too many requests wait already.
    #[error("{waiting} requests are waiting already")]
    Overloaded {
        /// How many.
        waiting: usize,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Stopping,
    /// The engine broke.
    #[error("the engine failed: {0}")]
    Unhealthy(String),
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens; at most {limit} fit")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Most tokens that a prompt can have here.
        limit: usize,
    },
    /// What computes here cannot do this.
    #[error("{what} cannot be had of this backend")]
    Unable {
        /// The client's field that asks for it.
        field: &'static str,
        /// What is asked.
        what: &'static str,
    },
    /// A field of the request is wrong.
    #[error("{field} {problem}")]
    Invalid {
        /// The field of [`Request`] or of its sampling.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// What is fixed for the engine's life.
#[derive(Debug, Clone)]
pub struct EngineFacts {
    /// The model's shape.
    pub model: ModelConfig,
    /// Most tokens of a sequence, prompt and answer: the model's context, or all KV blocks when they are fewer.
    pub max_context: usize,
    /// Bytes of weights in memory.
    pub weight_bytes: usize,
    /// Bytes of one KV block.
    pub kv_block_bytes: usize,
    /// Settings.
    pub config: EngineConfig,
}

struct Inner {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    facts: EngineFacts,
    preparer: Arc<dyn AdapterPreparer>,
    training_base: Option<TrainingBase>,
    pressure: Pressure,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The engine, from outside. Clones are the same engine. When the last one is dropped the thread finishes what it has and ends;
/// [`EngineHandle::shutdown`] ends it in bounded time.
#[derive(Clone)]
pub struct EngineHandle(Arc<Inner>);

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineHandle").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Allocates the KV storage and starts the engine's thread.
pub fn start(mut model: Box<dyn Model>, config: EngineConfig) -> Result<EngineHandle, EngineError> {
    let max_context = check::settings(&config, model.config())?;
    let blocks = config.kv_blocks;
    model.allocate_kv(blocks).map_err(|source| EngineError::Kv { blocks, source })?;
    let facts = EngineFacts {
        model: model.config().clone(),
        max_context,
        weight_bytes: model.weight_bytes(),
        kv_block_bytes: model.kv_block_bytes(),
        config: config.clone(),
    };
    let preparer = model.adapter_preparer();
    let (training_base, pressure) = (model.training_base(), Pressure::default());
    let shared = Shared::new(blocks);
    let (commands, inbox) = mpsc::channel();
    let of_thread = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || EngineThread::run(model, &config, max_context, inbox, of_thread))
        .map_err(EngineError::Thread)?;
    Ok(EngineHandle(Arc::new(Inner {
        commands,
        shared,
        facts,
        preparer,
        training_base,
        pressure,
        thread: Mutex::new(Some(thread)),
    })))
}

impl EngineHandle {
    /// Hands a request in; never blocks. `max_tokens` beyond the context means as many as fit.
    pub fn submit(&self, request: Request) -> Result<Generation, SubmitError> {
        self.submit_at(&mut Places(Vec::new()), request)
    }

    /// Takes `count` places in the queue, all or none, for requests that belong together, if no more than `within` are taken then.
    pub fn reserve(&self, count: usize, within: usize) -> Result<Places, SubmitError> {
        self.0.shared.refuse_unless_serving()?;
        let slots = QueueSlot::take(&self.0.shared, count, self.0.facts.config.queue_capacity.min(within));
        slots.map(Places).ok_or_else(|| SubmitError::Overloaded { waiting: self.0.shared.queued() })
    }

    /// [`EngineHandle::submit`] at one of the reserved places; without any left, at a new one.
    pub fn submit_at(&self, places: &mut Places, request: Request) -> Result<Generation, SubmitError> {
        self.0.shared.refuse_unless_serving()?;
        check::request(&request, &self.0.facts.model, self.0.facts.max_context)?;
        if places.0.is_empty() {
            *places = self.reserve(1, usize::MAX)?;
        }
        let slot = places.0.pop().ok_or_else(|| SubmitError::Overloaded { waiting: self.0.shared.queued() })?;
        let (sender, events) = unbounded_channel();
        let meter = Arc::new(Meter::new());
        let submission = Submission { request, emitter: Emitter::new(sender, Arc::clone(&meter), self.0.pressure.enter()), slot };
        if self.0.commands.send(Command::Submit(Box::new(submission))).is_err() {
            self.0.shared.refuse_unless_serving()?;
            return Err(SubmitError::Stopping);
        }
        Ok(Generation { events, meter })
    }

    /// Numbers after the last step.
    pub fn stats(&self) -> Stats {
        self.0.shared.stats()
    }

    /// What is fixed for the engine's life.
    pub fn facts(&self) -> &EngineFacts {
        &self.0.facts
    }

    /// What prepares adapters for the engine's model; to be called off the engine's thread.
    pub fn adapter_preparer(&self) -> Arc<dyn AdapterPreparer> {
        Arc::clone(&self.0.preparer)
    }

    /// The resident base for training, where the device can train.
    pub fn training_base(&self) -> Option<&TrainingBase> {
        self.0.training_base.as_ref()
    }

    /// Whether anybody waits for the engine.
    pub fn pressure(&self) -> &Pressure {
        &self.0.pressure
    }

    /// How the engine is, to be watched.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.shared.health.subscribe()
    }

    /// Stops taking requests, lets accepted ones finish until the deadline, fails the rest, waits for the thread's end.
    pub async fn shutdown(&self, deadline: Duration) {
        self.0.shared.begin_stopping();
        // Without a thread there is nothing to stop; a deadline beyond the clock is none.
        let _ = self.0.commands.send(Command::Stop { at: Instant::now().checked_add(deadline) });
        let _ = self.health().wait_for(Health::is_over).await;
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Its panic, if any, is in `health`.
            let _ = thread.join();
        }
    }
}

/// Reserved places in the queue; those that are not used are given back when this is dropped.
#[derive(Debug)]
pub struct Places(pub(super) Vec<QueueSlot>);

/// The events of one request. Dropping it cancels the request at the next step.
#[derive(Debug)]
pub struct Generation {
    pub(super) events: UnboundedReceiver<Event>,
    pub(super) meter: Arc<Meter>,
}

impl Generation {
    /// The next event; `None` after the last one. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event, if it is there; `None` after the last one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context)
    }

    /// Reads the same, also when this is gone.
    pub fn effort_reader(&self) -> EffortReader {
        EffortReader(Arc::clone(&self.meter))
    }

    /// What the request has cost so far; its cached tokens are known from the first event on.
    pub fn effort(&self) -> Effort {
        self.meter.read()
    }

    /// The next event, for threads without a runtime.
    pub fn blocking_next(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }
}
