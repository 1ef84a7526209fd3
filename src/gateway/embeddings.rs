//! Texts to vectors: by a model's hidden states, which is an answer without text like any other, or by hashing. Knows no HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::account::{Account, Opening};
use super::hashed;
use super::size::{by_size, is_much};
use super::structure::Form;
use super::types::{
    Caching, Echo, EndToken, GenerationRequest, Origin, Pooling, Prompt, Sampling, Served, Steering, Stops, Usage,
};
use super::{Gateway, GatewayError};
use crate::backends::Effort;
use crate::tenants::{Ask, CacheUse, Outcome, Principal, Rate};

/// Requests that are hashed off the serving threads at the same time, and the longest that others wait.
pub(super) const HASHED_AT_ONCE: usize = 2;
const PATIENCE: Duration = Duration::from_secs(30);
/// What a byte of text costs to hash, in bytes of text that take as long to tokenize.
const HASHING: usize = 4;

/// A checked request for embeddings.
#[derive(Debug, Clone)]
pub struct EmbeddingRequest {
    /// Who asks.
    pub caller: Arc<Principal>,
    /// Where the request came in.
    pub origin: Origin,
    /// Whether the vectors may come from the response cache.
    pub caching: Caching,
    /// Base, deployment, adapter, `adapter@version`, or the model that hashes.
    pub model: String,
    /// Which arm, of a deployment.
    pub steering: Steering,
    /// Texts or token ids, at least one.
    pub inputs: Vec<Prompt>,
    /// How hidden states become one vector.
    pub pooling: Pooling,
    /// How many values a vector has; `None` is as many as the model gives.
    pub dimensions: Option<usize>,
}

/// Vectors of length 1, in the order of the inputs.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// The vectors.
    pub vectors: Vec<Vec<f32>>,
    /// What made them.
    pub served: Served,
    /// Tokens that they took.
    pub usage: Usage,
    /// What is left of the caller's limits.
    pub rate: Rate,
    /// Whether they came from the response cache.
    pub cache: CacheUse,
    /// What they cost, nano-dollars.
    pub cost_nanos: Option<i64>,
    /// When they were submitted.
    pub submitted: Instant,
    /// When the backend had nothing more to do for them.
    pub ended: Instant,
}

impl Gateway {
    /// Makes a vector of each input.
    pub async fn embed(&self, request: EmbeddingRequest) -> Result<Embeddings, GatewayError> {
        match self.means(&request.caller, &request.model) {
            Ok(_) => self.embed_by_model(request).await,
            Err(GatewayError::EmbeddingsOnly(_)) => self.embed_by_hash(request).await,
            Err(error) => Err(error),
        }
    }

    async fn embed_by_model(&self, request: EmbeddingRequest) -> Result<Embeddings, GatewayError> {
        let EmbeddingRequest { caller, origin, caching, model, steering, inputs, pooling, dimensions } = request;
        let width = self.0.backend.facts().model.hidden_size;
        let dimensions = within(dimensions, width)?;
        let request = GenerationRequest {
            caller,
            origin,
            caching,
            model,
            steering,
            prompts: inputs,
            n: 1,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            seed: None,
            max_tokens: Some(0),
            stops: Stops::default(),
            logprobs: None,
            end_token: EndToken::Unreported,
            echo: Echo::Answer,
            form: Form::Free,
            tools: None,
            judge: None,
            pooling: Some(pooling),
        };
        let mut answer = self.generate(request).await?;
        let submitted = Instant::now();
        let mut vectors = vec![Vec::new(); answer.choices()];
        while let Some(piece) = answer.next().await {
            let piece = piece?;
            if let (Some(vector), Some(states)) = (vectors.get_mut(piece.choice), piece.embedding) {
                let states: Vec<f64> = states.iter().take(dimensions).copied().map(f64::from).collect();
                *vector = unit(&states);
            }
        }
        Ok(Embeddings {
            vectors,
            served: answer.served().clone(),
            usage: answer.usage(),
            rate: answer.rate(),
            cache: answer.cache(),
            cost_nanos: answer.cost_nanos(),
            submitted,
            ended: answer.ended_at(),
        })
    }

    async fn embed_by_hash(&self, request: EmbeddingRequest) -> Result<Embeddings, GatewayError> {
        let EmbeddingRequest { caller, origin, model, steering, inputs, dimensions, .. } = request;
        if steering.arm.is_some() {
            return Err(GatewayError::NoDeployment(model));
        }
        let places = within(dimensions, hashed::PLACES)?;
        let text = |input| match input {
            Prompt::Text { text, .. } => Ok(text),
            Prompt::Tokens(_) | Prompt::Chat { .. } => Err(GatewayError::NoVocabulary(model.clone())),
        };
        let texts: Vec<String> = inputs.into_iter().map(text).collect::<Result<_, _>>()?;
        let size: usize = texts.iter().map(String::len).sum();
        let (texts, counts) = by_size(size, move || {
            let counts: Vec<usize> = texts.iter().map(|text| hashed::count(text)).collect();
            (texts, counts)
        })
        .await?;
        if let Some(words) = counts.iter().find(|words| **words > hashed::CONTEXT) {
            return Err(GatewayError::ContextTooLong { limit: hashed::CONTEXT, prompt: *words, answer: Some(0) });
        }
        let words: usize = counts.iter().sum();
        let ticket = self
            .0
            .tenants
            .admit(Ask { caller: &caller, model: &model, input: words as u64, most_output: 0, prices: &[] })
            .await?;
        let mut account = Account::open(Opening {
            tenants: self.0.tenants.clone(),
            metrics: self.0.metrics.clone(),
            caller,
            origin,
            model: model.clone(),
            version: model.clone(),
            trial: None,
            adapter_label: model.clone(),
            cache: CacheUse::Bypass,
            ticket,
        });
        let submitted = Instant::now();
        let bytes = size.saturating_mul(HASHING);
        // Held by the work itself, which goes on when its client has left.
        let turn = if is_much(bytes) { Some(self.hashing_turn().await?) } else { None };
        let work = move || {
            let vectors = texts.iter().map(|text| hashed::embed(text, places)).collect();
            drop(turn);
            vectors
        };
        let vectors = by_size(bytes, work).await?;
        let ended = Instant::now();
        let usage = Usage { prompt_tokens: words, ..Usage::default() };
        account.settle(usage, Outcome::Stop, Effort::default())?;
        account.synced().await;
        Ok(Embeddings {
            vectors,
            served: Served { model: model.clone(), version: model, by: None },
            usage,
            rate: account.rate(),
            cache: account.cache(),
            cost_nanos: account.cost_nanos(),
            submitted,
            ended,
        })
    }
}

impl Gateway {
    /// Whether a name means the model that hashes to this caller.
    pub fn hashes_for(&self, caller: &Principal, model: &str) -> bool {
        matches!(self.means(caller, model), Err(GatewayError::EmbeddingsOnly(_)))
    }

    async fn hashing_turn(&self) -> Result<OwnedSemaphorePermit, GatewayError> {
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.0.hashing).acquire_owned()).await;
        turn.map_err(|_| GatewayError::Overloaded)?.map_err(|_| GatewayError::Stopping)
    }
}

fn within(asked: Option<usize>, most: usize) -> Result<usize, GatewayError> {
    match asked {
        Some(asked) if asked > most => Err(GatewayError::Dimensions { asked, most }),
        asked => Ok(asked.unwrap_or(most)),
    }
}

/// The same direction with length 1; nothing but zeros has none and stays.
pub(super) fn unit(values: &[f64]) -> Vec<f32> {
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let scale = if norm > 0.0 { norm.recip() } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, reason = "vectors are f32")]
    values.iter().map(|value| (value * scale) as f32).collect()
}
