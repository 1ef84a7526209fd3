//! The only room that knows HTTP: routes, wire types, statuses. Knows nothing of scheduling, files or weights.

mod adapters;
mod admin;
mod auth;
mod body;
mod convert;
mod convert_corrections;
mod error;
mod error_upstream;
mod feedback;
mod fields;
mod form;
mod health;
mod kubernetes_metrics;
mod limits;
mod linger;
mod metrics;
mod middleware;
mod openai;
mod openapi;
mod openapi_convert;
mod openapi_corrections;
mod openapi_embeddings;
mod openapi_experiments;
mod openapi_responses;
mod openapi_schemas;
mod openapi_training;
mod routes;
mod serve;
mod trace_context;
mod traced;

use std::sync::Arc;

pub use convert::is_time_zone;
pub use health::{Latch, Readiness};
pub use routes::router;
pub use serve::{Ended, serve};

use crate::experiments::rollout::Rollouts;
use crate::experiments::shadow::Shadows;
use crate::experiments::{Deployments, Results};
use crate::gateway::{Gateway, Pooling};
use crate::registry::Catalog;
use crate::tenants::Tenants;
use crate::tenants::jwt::TokenVerifier;
use crate::tenants::responses::Responses;
use crate::training::card::Hardware;
use crate::training::jobs::desk::Jobs;
use crate::training::jobs::files::Files;
use crate::training::jobs::workshop::ResidentWorkshop;

/// Settings of this room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Largest request body, bytes.
    pub body_limit: usize,
    /// Most bytes of an uploaded adapter.
    pub upload_limit: u64,
    /// Most answers to one prompt (`n`).
    pub max_choices: usize,
    /// Most prompts in one completions request.
    pub max_prompts: usize,
    /// Silence on a stream after which a comment is sent, so that proxies keep the connection.
    pub keep_alive: std::time::Duration,
    /// What this server runs on, for the cards of versions.
    pub hardware: Hardware,
    /// What `/convert` asks, and how.
    pub convert: ConvertConfig,
    /// How hidden states become an embedding where a request does not say.
    pub pooling: Pooling,
    /// How long responses are kept that are to be; zero keeps none.
    pub keep_responses: std::time::Duration,
}

/// Settings of `/convert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertConfig {
    /// What answers a request that names no model.
    pub model: String,
    /// IANA name of the time zone of requests that name none.
    pub timezone: String,
    /// Readings with less confidence are `unknown`, per cent.
    pub unknown_below: u8,
    /// How long texts are kept, so that their answers can be corrected; zero keeps none.
    pub keep_texts: std::time::Duration,
}

impl Default for ConvertConfig {
    fn default() -> Self {
        Self {
            model: "convert".to_owned(),
            timezone: "UTC".to_owned(),
            unknown_below: 20,
            keep_texts: std::time::Duration::from_secs(7 * 86_400),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_limit: 8 * 1024 * 1024,
            upload_limit: 1 << 30,
            max_choices: 128,
            max_prompts: 256,
            keep_alive: std::time::Duration::from_secs(15),
            hardware: Hardware::default(),
            convert: ConvertConfig::default(),
            pooling: Pooling::Mean,
            keep_responses: std::time::Duration::from_secs(30 * 86_400),
        }
    }
}

/// What the handlers work with.
pub struct Parts {
    /// Answers requests.
    pub gateway: Gateway,
    /// Adapters.
    pub catalog: Catalog,
    /// Names that share traffic.
    pub deployments: Deployments,
    /// What is learnt from them.
    pub results: Results,
    /// Candidates on their way.
    pub rollouts: Rollouts,
    /// What silent models would have said.
    pub shadows: Shadows,
    /// Callers.
    pub tenants: Tenants,
    /// Fine-tuning, and the files for it.
    pub jobs: Jobs,
    /// What trains, where the base can be trained.
    pub workshop: Option<ResidentWorkshop>,
    /// Callers with JSON Web Tokens, where those are accepted.
    pub tokens: Option<Arc<TokenVerifier>>,
    /// Who is not ready yet.
    pub readiness: Readiness,
    /// Where all rooms register their metrics.
    pub registry: prometheus::Registry,
    /// Settings.
    pub config: Config,
}

/// The handlers' state. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<State>);

struct State {
    responses: Responses,
    parts: Parts,
    metrics: metrics::HttpMetrics,
}

impl Server {
    /// Wires the handlers; fails only when the registry has the room's metrics already.
    pub fn new(parts: Parts) -> Result<Self, prometheus::Error> {
        let metrics = metrics::HttpMetrics::new(&parts.registry)?;
        let responses = Responses::new(parts.tenants.office().clone(), parts.config.keep_responses);
        Ok(Self(Arc::new(State { responses, parts, metrics })))
    }

    /// Responses that are kept.
    pub fn responses(&self) -> &Responses {
        &self.0.responses
    }

    fn gateway(&self) -> &Gateway {
        &self.0.parts.gateway
    }

    fn catalog(&self) -> &Catalog {
        &self.0.parts.catalog
    }

    fn deployments(&self) -> &Deployments {
        &self.0.parts.deployments
    }

    fn results(&self) -> &Results {
        &self.0.parts.results
    }

    fn rollouts(&self) -> &Rollouts {
        &self.0.parts.rollouts
    }

    fn shadows(&self) -> &Shadows {
        &self.0.parts.shadows
    }

    fn tenants(&self) -> &Tenants {
        &self.0.parts.tenants
    }

    fn files(&self) -> &Files {
        self.jobs().files()
    }

    fn jobs(&self) -> &Jobs {
        &self.0.parts.jobs
    }

    fn workshop(&self) -> Option<&ResidentWorkshop> {
        self.0.parts.workshop.as_ref()
    }

    fn tokens(&self) -> Option<&TokenVerifier> {
        self.0.parts.tokens.as_deref()
    }

    fn readiness(&self) -> &Readiness {
        &self.0.parts.readiness
    }

    fn config(&self) -> &Config {
        &self.0.parts.config
    }

    fn metrics(&self) -> &metrics::HttpMetrics {
        &self.0.metrics
    }

    fn limits(&self) -> openai::Limits {
        openai::Limits {
            vocab_size: self.gateway().vocab_size(),
            max_n: self.config().max_choices,
            max_prompts: self.config().max_prompts,
            max_sequences: self.gateway().most_sequences(),
        }
    }
}
