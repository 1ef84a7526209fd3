//! Models of families that our engine does not cover, computed by the engine of the crate `mistralrs` in this process. It computes
//! logits, and nothing else: prompts go in as token ids, and each token is chosen by our own sampler from a row of plain numbers
//! (`chooser`), so that temperatures, seeds, grammars, log-probabilities and the ends of answers mean what they mean on our engine. Its
//! tensors, and its own version of candle, stay in here.
//!
//! It merges an adapter into the weights while it loads them. An adapter is therefore a whole model beside the base (`load`): it takes
//! as many bytes, which the registry counts, and is read again when it is asked for after it had to go. Its cache of prefixes is off: it
//! does not know who may share one. Of each model one sequence runs at a time (`lane`), and not every base is taken (`covered`): what it
//! computes has to be right.

mod chooser;
mod covered;
mod lane;
mod load;
mod merge;
mod spelling;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mistralrs::core::{NormalRequest, RequestMessage};
use mistralrs::{Constraint, CustomLogitsProcessor, SamplingParams};
use tokio::sync::{mpsc, watch};

use super::{EngineFacts, Health, Request, Stats, SubmitError};
use crate::engine::outside::Outside;
use crate::engine::pressure::Pressure;
use crate::engine::{self, EngineConfig, PrefixCache};
use crate::model::loader::DType;
use crate::model::{AdapterPreparer, ModelConfig, ModelError};
use chooser::Chooser;
use lane::Waiting;
use load::{Instance, Shelf};
use merge::Merger;

/// What it sends of an answer before somebody looks: a piece for each token, and each token is looked at.
const PIECES: usize = 64;

/// Settings of the backend.
#[derive(Debug, Clone)]
pub struct MistralConfig {
    /// A directory in Hugging Face's layout, or a GGUF file.
    pub path: PathBuf,
    /// What linear layers are quantized to while they are loaded; `None` leaves them in f32.
    pub quant: Option<DType>,
    /// The shape that requests and adapters are checked against.
    pub model: ModelConfig,
    /// Most requests accepted and not started.
    pub queue_capacity: usize,
    /// A directory for files that live while a model is loaded.
    pub scratch: PathBuf,
}

/// The backend. Clones are the same.
#[derive(Debug, Clone)]
pub struct MistralBackend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    outside: Outside,
    base: Arc<Instance>,
    shelf: Arc<Shelf>,
}

impl MistralBackend {
    /// Loads the base. Blocks for as long as that takes.
    pub fn start(config: MistralConfig) -> Result<Self, ModelError> {
        let MistralConfig { path, quant, model, queue_capacity, scratch } = config;
        let model = covered::served(model)?;
        let shelf = Arc::new(Shelf { path, quant, scratch, model: model.clone(), turn: std::sync::Mutex::default() });
        let base = Arc::new(shelf.load(None)?);
        let facts = EngineFacts {
            max_context: model.context_length.min(base.context),
            model,
            weight_bytes: base.bytes,
            kv_block_bytes: 0,
            config: EngineConfig {
                kv_blocks: 0,
                // Of each model.
                max_sequences: 1,
                queue_capacity,
                prefix_cache: PrefixCache::Off,
                speculation_tokens: 0,
                ..EngineConfig::default()
            },
        };
        Ok(Self(Arc::new(Inner { outside: Outside::new(facts), base, shelf })))
    }

    /// Takes `count` places in the queue, all or none.
    pub fn reserve(&self, count: usize, within: usize) -> Result<engine::Places, SubmitError> {
        self.0.outside.reserve(count, within)
    }

    /// Hands a request in at one of the reserved places; without any left, at a new one. Never blocks.
    pub fn submit_at(&self, places: &mut engine::Places, request: Request) -> Result<engine::Generation, SubmitError> {
        let instance = match &request.adapter {
            None => Arc::clone(&self.0.base),
            Some(adapter) => {
                let instance = adapter.inner.downcast_ref::<Arc<Instance>>();
                Arc::clone(
                    instance.ok_or_else(|| SubmitError::Unhealthy("an adapter of another backend; this is a bug".to_owned()))?,
                )
            }
        };
        let (writer, task, generation) = self.0.outside.open(places, request)?;
        let (pieces, arriving) = mpsc::channel(PIECES);
        let chooser = Arc::new(Chooser::new(writer, arriving));
        let sampling = SamplingParams { temperature: Some(0.0), max_len: Some(task.most), ..SamplingParams::neutral() };
        let asked = NormalRequest {
            messages: RequestMessage::CompletionTokens(task.prompt),
            sampling_params: sampling,
            response: pieces,
            return_logprobs: false,
            // As a stream it notices at each token whether the answer is over.
            is_streaming: true,
            id: instance.lane.runner.next_request_id(),
            constraint: Constraint::None,
            suffix: None,
            tools: None,
            tool_choice: None,
            logits_processors: Some(vec![Arc::clone(&chooser) as Arc<dyn CustomLogitsProcessor>]),
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        };
        instance.lane.join(Waiting { request: Box::new(asked), chooser });
        Ok(generation)
    }

    /// Numbers of this moment.
    pub fn stats(&self) -> Stats {
        self.0.outside.stats()
    }

    /// Whether anybody waits for an answer.
    pub fn pressure(&self) -> &Pressure {
        self.0.outside.pressure()
    }

    /// What is fixed for the backend's life.
    pub fn facts(&self) -> &EngineFacts {
        self.0.outside.facts()
    }

    /// What prepares adapters; to be called where blocking is allowed.
    pub fn adapter_preparer(&self) -> Arc<dyn AdapterPreparer> {
        Arc::new(Merger(Arc::clone(&self.0.shelf)))
    }

    /// How the backend is, to be watched.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.outside.health()
    }

    /// Stops taking requests, lets accepted ones finish until the deadline, cuts the rest off.
    pub async fn shutdown(&self, deadline: Duration) {
        self.0.outside.shutdown(deadline).await;
    }
}
