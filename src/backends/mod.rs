//! What generates: the seam between the gateway and the engine. Knows neither prompts as text nor adapters' names.
//!
//! The native engine; mistralrs for families of models that it does not cover (feature `mistralrs`); one without a model ([`null`]) for
//! measuring everything around it. [`upstream`] is a client of another server, for teachers and judges.

#[cfg(feature = "mistralrs")]
pub mod mistralrs;
pub mod null;
pub mod upstream;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;

pub use crate::engine::grammar;
pub use crate::engine::request::{Event, Finish, Pooling, Realm, Request, Sampling, TokenLogprob};
pub use crate::engine::{Effort, EffortReader, EngineFacts, EngineHandle, Health, PrefixCache, Stats, SubmitError};
pub use crate::model::lora::PreparedAdapter;
#[cfg(feature = "mistralrs")]
pub use mistralrs::{MistralBackend, MistralConfig};
pub use null::NullBackend;

use crate::engine;
use crate::model::AdapterPreparer;

/// What generates. Clones are the same backend.
#[derive(Debug, Clone)]
pub enum Backend {
    /// The engine, with a model.
    Native(EngineHandle),
    /// Another engine's models, in this process.
    #[cfg(feature = "mistralrs")]
    Mistralrs(MistralBackend),
    /// No model: words after a fixed delay.
    Null(NullBackend),
}

impl Backend {
    /// Takes `count` places in the queue, all or none, for requests that belong together.
    pub fn reserve(&self, count: usize, within: usize) -> Result<Places, SubmitError> {
        match self {
            Self::Native(engine) => engine.reserve(count, within).map(Places::Native),
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(mistral) => mistral.reserve(count, within).map(Places::Native),
            Self::Null(null) => null.reserve(count, within).map(Places::Null),
        }
    }

    /// Hands a request in at one of the reserved places; without any left, at a new one. Never blocks.
    pub fn submit_at(&self, places: &mut Places, request: Request) -> Result<Generation, SubmitError> {
        match (self, places) {
            (Self::Native(engine), Places::Native(places)) => engine.submit_at(places, request).map(Generation::Native),
            #[cfg(feature = "mistralrs")]
            (Self::Mistralrs(mistral), Places::Native(places)) => mistral.submit_at(places, request).map(Generation::Native),
            (Self::Null(null), Places::Null(places)) => null.submit_at(places, request).map(Generation::Null),
            // Places of another backend are worth nothing here.
            (backend, places) => {
                *places = backend.reserve(1, usize::MAX)?;
                backend.submit_at(places, request)
            }
        }
    }

    /// What it is called in metrics and in the configuration.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Native(_) => "native",
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(_) => "mistralrs",
            Self::Null(_) => "null",
        }
    }

    /// Numbers of this moment.
    pub fn stats(&self) -> Stats {
        match self {
            Self::Native(engine) => engine.stats(),
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(mistral) => mistral.stats(),
            Self::Null(null) => null.stats(),
        }
    }

    /// Whether nobody is kept from anything by one more sequence, `own` sequences aside. The engine's share what they compute
    /// with; those of the null backend share nothing but its queue.
    pub fn is_quiet_but_for(&self, own: usize) -> bool {
        match self {
            Self::Native(engine) => engine.pressure().sequences() <= own,
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(mistral) => mistral.pressure().sequences() <= own,
            Self::Null(null) => {
                let stats = null.stats();
                stats.waiting + stats.running <= own + null.facts().config.queue_capacity / 4
            }
        }
    }

    /// What is fixed for the backend's life.
    pub fn facts(&self) -> &EngineFacts {
        match self {
            Self::Native(engine) => engine.facts(),
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(mistral) => mistral.facts(),
            Self::Null(null) => null.facts(),
        }
    }

    /// What prepares adapters; to be called where blocking is allowed.
    pub fn adapter_preparer(&self) -> Arc<dyn AdapterPreparer> {
        match self {
            Self::Native(engine) => engine.adapter_preparer(),
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(mistral) => mistral.adapter_preparer(),
            Self::Null(_) => Arc::new(null::NoPacking),
        }
    }

    /// How the backend is, to be watched.
    pub fn health(&self) -> watch::Receiver<Health> {
        match self {
            Self::Native(engine) => engine.health(),
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(mistral) => mistral.health(),
            Self::Null(null) => null.health(),
        }
    }

    /// Stops taking requests, lets accepted ones finish until the deadline, fails the rest, waits for the end.
    pub async fn shutdown(&self, deadline: Duration) {
        match self {
            Self::Native(engine) => engine.shutdown(deadline).await,
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(mistral) => mistral.shutdown(deadline).await,
            Self::Null(null) => null.shutdown(deadline).await,
        }
    }
}

impl From<EngineHandle> for Backend {
    fn from(engine: EngineHandle) -> Self {
        Self::Native(engine)
    }
}

/// Reserved places in the queue; those that are not used are given back when this is dropped.
#[derive(Debug)]
pub enum Places {
    /// Of the engine, also where its logits are computed outside of it.
    Native(engine::Places),
    /// Of the null backend.
    Null(null::Places),
}

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub enum Generation {
    /// The engine's, also where its logits are computed outside of it.
    Native(engine::Generation),
    /// The null backend's.
    Null(null::Generation),
}

impl Generation {
    /// The next event; `None` after the last one. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next event, if it is there; `None` after the last one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        match self {
            Self::Native(generation) => generation.poll_next(context),
            Self::Null(generation) => generation.poll_next(context),
        }
    }

    /// Reads the same, also when this is gone; `None` where nothing is computed.
    pub fn effort_reader(&self) -> Option<EffortReader> {
        match self {
            Self::Native(generation) => Some(generation.effort_reader()),
            Self::Null(_) => None,
        }
    }

    /// What the request has cost so far; its cached tokens are known from the first event on.
    pub fn effort(&self) -> Effort {
        match self {
            Self::Native(generation) => generation.effort(),
            // Nothing is computed, nothing is held.
            Self::Null(_) => Effort::default(),
        }
    }
}
