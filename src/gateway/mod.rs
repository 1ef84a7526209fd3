//! The request journey, written once and free of HTTP: render, resolve, submit, stream. Knows neither wire formats nor how the
//! engine schedules.

mod account;
mod adapters;
mod answer;
mod assemble;
mod cache;
mod choose;
mod convert;
mod embeddings;
mod error;
mod feed;
mod hashed;
mod metrics;
mod prompt;
mod relay;
pub mod shadow;
mod size;
mod speech;
mod stop;
mod structure;
mod types;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rand::RngCore;
use tokio::sync::{Semaphore, watch};

pub use crate::backends::grammar::{Begins, Cue, CuePlace, regex_rules};
pub use crate::backends::{EngineFacts, Health, PrefixCache, Stats};
pub use crate::model::BLOCK_TOKENS;
pub use answer::Answer;
pub use assemble::ReportedToken;
pub use cache::{CacheConfig, Purge};
pub use convert::{Extent, Meaning, Question};
pub use embeddings::{EmbeddingRequest, Embeddings};
pub use error::GatewayError;
pub use hashed::{CONTEXT as HASH_CONTEXT, NAME as HASH_EMBEDDING};
pub use metrics::{Metrics, Stage};
pub use prompt::Rendered;
pub use relay::{
    Answered, Asked, CapabilityConfig, Endpoint, FailoverConfig, Key, Member, ModelFacts, Mood, Patience, RelayRequest, Relayed,
    RemoteSettings, Route, SharedFacts, Stream as RelayedStream, Times, Tolerance, Trouble, UpstreamCard, UpstreamConfig,
    UpstreamFacts, Upstreams, UpstreamsError, Whole as RelayedWhole,
};
pub use stop::StopText;
pub use structure::{
    Call, Calls, Form, Rules, SchemaError, Strictness, Tool, ToolChoice, ToolFamily, Tools, check_schema, json_rules,
};
pub use types::{
    Caching, CallPiece, Echo, EndOfText, EndToken, FinishReason, GenerationRequest, Judge, Message, Origin, Piece, Pooling,
    Prompt, Role, Sampling, Served, ServedBy, SpecialTokens, Steering, Stops, Turn, Usage,
};

use account::Account;
use cache::{Found, Giver, Recorder as AnswerRecorder, ResponseCache};
use choose::{After, Asking, Means, Serving};
use feed::{Reporter, Source};

use crate::backends::grammar::Vocabulary;
use crate::backends::{Backend, Realm, Request, SubmitError};
use crate::experiments::{Deployments, Ended, Outcome, Recorder};
use crate::model::chat_template::ChatTemplate;
use crate::model::tokenizer::{Position, Tokenizer};
use crate::registry::{Catalog, Owner, RegistryError};
use crate::tenants::{Ask, CacheUse, NotAdmitted, Principal, Priority, Tenants};

/// Longest wait for an equal request's answer.
const FOLLOW: std::time::Duration = std::time::Duration::from_secs(30);
/// Most log-probabilities of prompt tokens in one request, alternatives and all answers counted: about 100 MB on their way.
pub const MAX_PROMPT_LOGPROBS: usize = 1 << 20;

/// The base model as the gateway needs to know it.
pub struct Base {
    /// Public name.
    pub name: String,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
    /// Chat template, where the base has one.
    pub chat_template: Option<ChatTemplate>,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// When it was loaded, seconds since 1970.
    pub created: u64,
}

/// The gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    base: Base,
    backend: Backend,
    catalog: Catalog,
    deployments: Deployments,
    recorder: Recorder,
    copies: shadow::Copies,
    tenants: Tenants,
    upstreams: Upstreams,
    metrics: Metrics,
    cache: Option<ResponseCache>,
    default_max_tokens: usize,
    /// Made for the first grammar.
    vocabulary: OnceLock<Vocabulary>,
    compilers: structure::Compilers,
    /// Requests whose texts are hashed off the serving threads.
    hashing: Arc<Semaphore>,
    /// How the base calls functions.
    syntax: Option<Arc<structure::Syntax>>,
}

/// What a gateway is made of.
pub struct Parts {
    /// The base model.
    pub base: Base,
    /// What generates.
    pub backend: Backend,
    /// Adapters.
    pub catalog: Catalog,
    /// Deployments.
    pub deployments: Deployments,
    /// Where what came of their requests goes.
    pub recorder: Recorder,
    /// Where requests go besides that a silent model is to answer.
    pub copies: shadow::Copies,
    /// Who pays, and what is allowed.
    pub tenants: Tenants,
    /// Models that are other servers.
    pub upstreams: Upstreams,
    /// Counters.
    pub metrics: Metrics,
    /// The response cache.
    pub cache: CacheConfig,
    /// Most tokens of an answer whose request does not say.
    pub default_max_tokens: usize,
    /// How the base calls functions.
    pub tool_family: ToolFamily,
}

impl Gateway {
    /// Wires a gateway.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            base,
            backend,
            catalog,
            deployments,
            recorder,
            copies,
            tenants,
            upstreams,
            metrics,
            cache,
            default_max_tokens,
            tool_family,
        } = parts;
        let syntax = prompt::syntax(&base, &tool_family);
        let cache = ResponseCache::new(cache);
        let vocabulary = OnceLock::new();
        let inner = Inner {
            base,
            backend,
            catalog,
            deployments,
            recorder,
            copies,
            tenants,
            upstreams,
            metrics,
            cache,
            default_max_tokens,
            vocabulary,
            compilers: structure::Compilers::default(),
            hashing: Arc::new(Semaphore::new(embeddings::HASHED_AT_ONCE)),
            syntax,
        };
        Self(Arc::new(inner))
    }

    /// What grammars are made over.
    fn vocabulary(&self) -> &Vocabulary {
        let base = &self.0.base;
        self.0.vocabulary.get_or_init(|| Vocabulary::new(&base.tokenizer, &base.end_tokens))
    }

    /// The base model.
    pub fn base(&self) -> &Base {
        &self.0.base
    }

    /// What the gateway counts.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What metrics for routers are about.
    pub fn backend_facts(&self) -> &EngineFacts {
        self.0.backend.facts()
    }

    /// What the engine is doing.
    pub fn engine_stats(&self) -> Stats {
        self.0.backend.stats()
    }

    /// Whether the engine is well.
    pub fn health(&self) -> Health {
        self.0.backend.health().borrow().clone()
    }

    /// Tokens that are left free for an answer whose request does not say how long it may get, where a conversation is cut for it.
    pub fn usual_answer(&self) -> usize {
        self.0.default_max_tokens.min(self.context_length() / 4).max(1)
    }

    /// Tokens of prompt and answer together.
    pub fn context_length(&self) -> usize {
        self.0.backend.facts().max_context
    }

    /// Token ids are below this.
    pub fn vocab_size(&self) -> usize {
        self.0.backend.facts().model.vocab_size
    }

    /// Most sequences (answers to all prompts) of a request: more never fit into the queue's part that everybody may fill.
    pub fn most_sequences(&self) -> usize {
        let all = self.0.backend.facts().config.queue_capacity;
        all - all / 16
    }

    /// Begins to answer. The answer is cancelled when it is dropped.
    pub async fn generate(&self, request: GenerationRequest) -> Result<Answer, GatewayError> {
        self.generate_after(request, None).await
    }

    /// The same where other servers were asked before.
    async fn generate_after(&self, mut request: GenerationRequest, after: Option<&After>) -> Result<Answer, GatewayError> {
        let inner = &self.0;
        // Cheap, and before any work for somebody who has to come back with another name.
        let capability = request.origin.capability.clone();
        let means = match &capability {
            // Whoever may use the capability may use its models, there.
            Some(_) => self.means_in(&request.caller, &request.model)?,
            None => self.means(&request.caller, &request.model)?,
        };
        if matches!(means, Means::Upstream(_) | Means::Chain(_)) {
            return Err(GatewayError::RelayedOnly(request.model));
        }
        self.check_arm(&means, &request.model, &request.steering)?;
        let (model, adapter_label) = means.labels(&inner.base.name);
        let model = capability.as_deref().map_or(model, str::to_owned);
        let conversation = match &means {
            Means::Deployment(_) => choose::conversation(&request.caller, &request.prompts),
            Means::Base | Means::Adapter(..) | Means::Upstream(_) | Means::Chain(_) => None,
        };
        let position = text_position(&request.prompts);
        let reads = self.tools_into_form(&mut request)?;
        let rendering = Instant::now();
        let rendered = self.render_all(std::mem::take(&mut request.prompts), request.echo).await?;
        inner.metrics.stage(Stage::Render, rendering.elapsed());
        let mut lengths = Vec::with_capacity(rendered.len());
        for prompt in &rendered {
            let asked = request.max_tokens;
            let room = answer_length(self.context_length(), prompt.tokens.len(), asked)?;
            lengths.push(if asked.is_none() { room.min(inner.default_max_tokens) } else { room });
        }
        let prompt_logprobs = if request.echo == Echo::PromptAndAnswer { request.logprobs } else { None };
        if let Some(top) = prompt_logprobs {
            check_prompt_logprobs(rendered.iter().map(|prompt| prompt.tokens.len()).sum(), request.n, top)?;
        }
        // All places or none, and before anything is read from disk for it. What waits is asked first: a refusal here leaves the
        // caller's limits as they are.
        let share = self.queue_share(request.caller.priority);
        let reserve = || inner.backend.reserve(rendered.len().saturating_mul(request.n), share).map_err(refused);
        let mut places = reserve()?;
        let admitting = Instant::now();
        let ticket = inner.tenants.admit(Ask {
            caller: &request.caller,
            model: &model,
            input: rendered.iter().map(|prompt| prompt.tokens.len() as u64).sum(),
            most_output: lengths.iter().map(|length| (*length as u64).saturating_mul(request.n as u64)).sum(),
            prices: &[],
        });
        let ticket = ticket.await?;
        inner.metrics.stage(Stage::Admit, admitting.elapsed());
        // Only for somebody who may ask at all: a form that cannot be compiled has cost a request, and a place of those at a time.
        let grammar = match self.grammar_at_hand(&request.form).await? {
            Some(grammar) => grammar,
            None => {
                // Others need the places meanwhile.
                drop(places);
                let compiled = Box::pin(self.compile(&request.form, &request.caller.tenant)).await?;
                places = reserve()?;
                compiled
            }
        };
        let asking = Asking {
            caller: &request.caller,
            model: &request.model,
            end_user: request.caller.end_user.as_deref().or(request.origin.end_user.as_deref()),
            steering: &request.steering,
            conversation: conversation.as_deref(),
            after,
        };
        let serving = self.serve(&means, &asking).await.inspect_err(|error| self.note_unavailable(&request, error))?;
        let Serving { mut served, lease, assigned, fell_back, silent } = serving;
        if let Some(capability) = capability {
            served.model = capability.to_string();
            // What is said of an answer later finds its experiment by the deployment's name.
            if assigned.is_none() {
                request.model.clone_from(&served.model);
            }
        }
        let mut recorder = None;
        let mut stored = None;
        if let Some(cache) = inner.cache.as_ref().filter(|_| cache::allowed(&request)) {
            let prompts: Vec<&[u32]> = rendered.iter().map(|prompt| prompt.tokens.as_slice()).collect();
            let key = cache::key(&request, &served.version, &prompts, &lengths);
            loop {
                match cache.find(key) {
                    Found::Stored(found) => {
                        stored = Some(found);
                        break;
                    }
                    Found::Underway(mut underway) => {
                        // Others need the places meanwhile.
                        drop(places);
                        // It closes when the answer is there, or when whoever was at it has gone. A leader whose client reads
                        // slowly is not waited for without end.
                        let closed = tokio::time::timeout(FOLLOW, underway.changed()).await;
                        places = reserve()?;
                        if closed.is_err() {
                            break;
                        }
                    }
                    Found::Nothing(flight) => {
                        let choices = rendered.len() * request.n;
                        let owner = lease.as_ref().map_or(Owner::Shared, |lease| lease.owner.clone());
                        let giver = Giver { tenant: &request.caller.tenant, owner, version: &served.version };
                        recorder = Some(AnswerRecorder::new(flight, giver, choices));
                        break;
                    }
                }
            }
        }
        let account = Account::open(account::Opening {
            tenants: inner.tenants.clone(),
            metrics: inner.metrics.clone(),
            caller: Arc::clone(&request.caller),
            origin: request.origin,
            model: request.model,
            version: served.version.clone(),
            trial: assigned.map(|assigned| account::Trial {
                assigned,
                arm: served.by.as_ref().map(|by| Arc::clone(&by.arm)),
                fell_back,
                recorder: inner.recorder.clone(),
                judge: request.judge,
                task_success: None,
                copy: None,
                copies: inner.copies.clone(),
            }),
            adapter_label,
            cache: match (&stored, &recorder) {
                (Some(_), _) => CacheUse::Hit,
                (None, Some(_)) => CacheUse::Miss,
                (None, None) => CacheUse::Bypass,
            },
            ticket,
        });
        let adapter = lease.as_ref().map(|lease| Arc::clone(&lease.adapter));
        let seed = request.seed.unwrap_or_else(|| rand::rng().next_u64());
        let mut end_tokens = request.stops.tokens.clone();
        if request.stops.end_of_text == EndOfText::Stops {
            end_tokens.extend_from_slice(&inner.base.end_tokens);
        }
        let end_tokens: Arc<[u32]> = end_tokens.into();
        let mut answer = Answer::new(
            answer::Shape {
                served,
                lease,
                echo: request.echo,
                reports: request.logprobs.is_some(),
                end_token: request.end_token,
                form_field: request.form.field(),
                n: request.n,
                manner: speech::Manner { position, end_tokens: Arc::clone(&end_tokens), stops: request.stops, reads },
            },
            account,
            inner.base.tokenizer.clone(),
        );
        if let Some(stored) = stored {
            answer.replay(&stored)?;
            return Ok(answer);
        }
        answer.record(recorder);
        let realm = Realm::named(&request.caller.tenant);
        // Answers side by side can be read where there is one.
        let is_text = prompt_logprobs.is_none() && request.pooling.is_none();
        let mut silent = silent.filter(|_| rendered.len() == 1 && request.n == 1 && is_text);
        for (prompt, max_tokens) in rendered.into_iter().zip(lengths) {
            let Rendered { tokens, text } = prompt;
            answer.add_prompt(tokens.len(), text);
            let reporter = prompt_logprobs.map(|_| Reporter {
                tokenizer: inner.base.tokenizer.clone(),
                tokens: tokens.as_slice().into(),
                others: watch::Sender::new(None),
            });
            for (index, source) in feed::sources(reporter, request.n).into_iter().enumerate() {
                let request = Request {
                    realm,
                    prompt: tokens.clone(),
                    adapter: adapter.clone(),
                    sampling: Sampling { seed: seed.wrapping_add(index as u64), ..request.sampling.clone() },
                    max_tokens,
                    stop_tokens: Arc::clone(&end_tokens),
                    logprobs: request.logprobs,
                    prompt_logprobs: prompt_logprobs.filter(|_| matches!(source, Source::Own(_))),
                    grammar: grammar.clone(),
                    pooling: request.pooling,
                };
                let copied = silent.take().map(|silent| (silent, Request { adapter: None, logprobs: None, ..request.clone() }));
                match inner.backend.submit_at(&mut places, request) {
                    Ok(generation) => {
                        answer.add_sequence(generation, source);
                        if let Some((silent, request)) = copied {
                            answer.copy(silent, request);
                        }
                    }
                    Err(error) => {
                        answer.refuse();
                        return Err(refused(error));
                    }
                }
            }
        }
        inner.metrics.given_to(inner.backend.name());
        Ok(answer)
    }

    /// Makes what a request says about functions a part of its form; how answers are read then.
    fn tools_into_form(&self, request: &mut GenerationRequest) -> Result<Option<Arc<structure::Syntax>>, GatewayError> {
        let Some(tools) = &request.tools else { return Ok(None) };
        let unknown =
            || GatewayError::Form { field: "tools", problem: "the base's way to call functions is not known".to_owned() };
        let syntax = self.0.syntax.clone().ok_or_else(unknown)?;
        request.form = syntax.form(tools, std::mem::take(&mut request.form));
        Ok(Some(syntax))
    }

    /// Places of the queue that a class of requests may fill: some are kept free for whoever is in more of a hurry.
    fn queue_share(&self, priority: Priority) -> usize {
        let all = self.0.backend.facts().config.queue_capacity;
        match priority {
            Priority::Batch => all.div_ceil(2),
            Priority::Standard => self.most_sequences(),
            Priority::High => all,
        }
    }

    /// A deployment that cannot serve is its arm's failure, whoever's turn it was.
    fn note_unavailable(&self, request: &GenerationRequest, error: &GatewayError) {
        let GatewayError::ArmUnavailable { assigned, .. } = error else { return };
        self.0.recorder.note(Outcome {
            assigned: Arc::clone(assigned),
            request_id: Arc::clone(&request.origin.request_id),
            tenant: Arc::clone(&request.caller.tenant),
            endpoint: request.origin.endpoint,
            failed: true,
            first_token: None,
            gap: None,
            output_tokens: 0,
            cost_nanos: 0,
            text: None,
            ended: Ended::Cut,
            task_success: None,
        });
    }

    /// The deployment or adapter that a name means to this caller, `None` for the base; an error where it means nothing, or nothing
    /// that the caller may use. Reads no weights.
    pub fn check_model(&self, caller: &Principal, model: &str) -> Result<Option<(Owner, String)>, GatewayError> {
        Ok(match self.means(caller, model)? {
            Means::Base => None,
            Means::Upstream(_) | Means::Chain(_) => return Err(GatewayError::RelayedOnly(model.to_owned())),
            Means::Adapter(owner, name) => Some((owner, name)),
            Means::Deployment(deployment) => Some((deployment.owner.clone(), deployment.name.to_string())),
        })
    }

    /// Whether the caller's key and its tenant's permissions allow a model, by its name without a version.
    pub fn may_use(&self, caller: &Principal, name: &str) -> bool {
        caller.models.allows(name) && self.0.tenants.policy().may_use(&caller.tenant, name)
    }
}

fn unresolved(model: &str, error: RegistryError) -> GatewayError {
    match error {
        RegistryError::NotFound { .. } | RegistryError::InvalidName { .. } => GatewayError::UnknownModel(model.to_owned()),
        error => GatewayError::Registry(error),
    }
}

impl From<NotAdmitted> for GatewayError {
    fn from(reason: NotAdmitted) -> Self {
        match reason {
            NotAdmitted::Refused(refusal) => Self::OverLimit(refusal),
            NotAdmitted::Ledger(error) => Self::Ledger(error),
        }
    }
}

fn refused(error: SubmitError) -> GatewayError {
    match error {
        SubmitError::Overloaded { .. } => GatewayError::Overloaded,
        SubmitError::Stopping => GatewayError::Stopping,
        SubmitError::Unhealthy(reason) => GatewayError::Engine(reason),
        SubmitError::PromptTooLong { tokens, limit } => GatewayError::ContextTooLong { limit, prompt: tokens, answer: None },
        SubmitError::Unable { field, what } => GatewayError::Unable { field, what },
        SubmitError::Invalid { field, problem } => GatewayError::Invalid { field, problem },
    }
}

/// Where answers stand: a chat answer is a text of its own, a completion goes on from its prompt.
fn text_position(prompts: &[Prompt]) -> Position {
    match prompts.first() {
        Some(Prompt::Chat { .. }) => Position::Start,
        _ => Position::Middle,
    }
}

/// Whether the reports of prompts fit: every answer shows them all, each token with its alternatives.
fn check_prompt_logprobs(tokens: usize, answers: usize, top: usize) -> Result<(), GatewayError> {
    let asked = tokens.saturating_mul(answers).saturating_mul(top + 1);
    if asked > MAX_PROMPT_LOGPROBS {
        return Err(GatewayError::TooManyLogprobs { asked, limit: MAX_PROMPT_LOGPROBS });
    }
    Ok(())
}

/// How long an answer may get; an error where prompt and answer do not fit the context.
fn answer_length(context: usize, prompt: usize, asked: Option<usize>) -> Result<usize, GatewayError> {
    if prompt == 0 {
        return Err(GatewayError::EmptyPrompt);
    }
    let too_long = GatewayError::ContextTooLong { limit: context, prompt, answer: asked };
    let Some(room) = context.checked_sub(prompt) else { return Err(too_long) };
    match asked {
        None if room == 0 => Err(too_long),
        None => Ok(room),
        Some(asked) if asked > room => Err(too_long),
        Some(asked) => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_answer_gets_the_rest_of_the_context_unless_it_asks_for_less() {
        assert_eq!(answer_length(100, 40, None).unwrap(), 60);
        assert_eq!(answer_length(100, 40, Some(7)).unwrap(), 7);
        assert_eq!(answer_length(100, 40, Some(60)).unwrap(), 60);
        assert_eq!(answer_length(100, 100, Some(0)).unwrap(), 0);
        for (prompt, asked) in [(100, None), (101, None), (40, Some(61)), (200, Some(0))] {
            assert!(
                matches!(answer_length(100, prompt, asked), Err(GatewayError::ContextTooLong { limit: 100, .. })),
                "{prompt} {asked:?}"
            );
        }
        assert!(matches!(answer_length(100, 0, None), Err(GatewayError::EmptyPrompt)));
    }
}
