//! One request to a model that is another server: admitted, sent there, given on, and settled exactly once, whatever that server does.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Endpoint, Trouble, Upstream, count};
use crate::backends::Effort;
use crate::backends::upstream::Exchange;
use crate::gateway::account::{Account, Opening, Trial};
use crate::gateway::size::by_size;
use crate::gateway::types::{Origin, Served, ServedBy, Steering, Usage};
use crate::gateway::{Gateway, GatewayError, Means, Metrics};
use crate::model::tokenizer::Tokenizer;
use crate::tenants::{Ask, CacheUse, Outcome, Price, Principal, Promise, Purse, Rate, Ticket, Tokens};

/// When all answers have ended, the server has this long to say what they took.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A request in OpenAI's JSON.
#[derive(Debug, Clone)]
pub struct RelayRequest {
    /// Who asks.
    pub caller: Arc<Principal>,
    /// Where the request came in.
    pub origin: Origin,
    /// The model, as the caller wrote it.
    pub model: String,
    /// Which arm, of a deployment.
    pub steering: Steering,
    /// What is asked for.
    pub endpoint: Endpoint,
    /// The body, without what is ours to decide (`stream`, `stream_options`).
    pub body: Value,
    /// Answers to all prompts.
    pub choices: usize,
    /// Answers that are made, of which the best are given (`best_of`).
    pub computed: usize,
    /// Most tokens of an answer, where the body says so.
    pub max_tokens: Option<usize>,
    /// Whether the answer is wanted as it is made.
    pub streamed: bool,
}

/// What answers, and what it takes with it.
struct Start {
    pub upstream: Arc<Upstream>,
    pub ticket: Ticket,
    /// Of a deployment.
    pub trial: Option<Trial>,
    pub by: Option<ServedBy>,
    /// The model in metrics.
    pub label: String,
    /// Tokens of the prompts, as we count them.
    pub input: usize,
    /// What may be spent, beside what may be spent on the server.
    pub purse: Option<Arc<Purse>>,
    pub instead: Instead,
}

/// What happens where a server does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Instead {
    /// Something else is asked.
    Another,
    /// The request has failed.
    Nothing,
}

/// What a request to another server is, beside what it says.
pub(in crate::gateway) struct Naming {
    /// The name that limits and prices go by.
    pub model: String,
    /// The model in metrics.
    pub label: String,
    /// Of a deployment.
    pub trial: Option<Trial>,
    pub by: Option<ServedBy>,
    /// What may be spent, beside what may be spent on the server.
    pub purse: Option<Arc<Purse>>,
    pub instead: Instead,
}

/// An answer that comes from another server.
pub enum Relayed {
    /// All of it.
    Whole(Box<Whole>),
    /// As it is made.
    Stream(Box<Stream>),
}

/// A whole answer, settled.
pub struct Whole {
    /// Its JSON, as it came.
    pub body: Value,
    /// What answered.
    pub served: Served,
    /// What it took.
    pub usage: Usage,
    /// What is left of the caller's limits.
    pub rate: Rate,
    /// What it cost, nano-dollars.
    pub cost_nanos: Option<i64>,
    /// When the other server was asked.
    pub asked: Instant,
    /// When the other server had nothing more to do for it.
    pub ended: Instant,
}

/// What is owed for an answer, until it is settled.
struct Owing {
    account: Account,
    metrics: Metrics,
    upstream: Arc<Upstream>,
    promises: Vec<Promise>,
    tokenizer: Tokenizer,
    /// Tokens of the prompts, as we count them.
    input: usize,
    /// The server may bill something for it.
    billed: AtomicBool,
    /// All that was answered.
    text: String,
    /// What it says that was used.
    given: Option<Usage>,
    settled: bool,
}

impl Gateway {
    /// Has another server answer.
    pub async fn relay(&self, request: RelayRequest) -> Result<Relayed, GatewayError> {
        match self.means(&request.caller, &request.model)? {
            Means::Upstream(upstream) if request.steering.arm.is_none() => {
                self.relay_alone(upstream, request, Instead::Nothing).await
            }
            Means::Upstream(_) => Err(GatewayError::NoDeployment(request.model)),
            _ => Err(GatewayError::UnknownModel(request.model)),
        }
    }

    /// Has this server answer under its own name.
    pub(in crate::gateway) async fn relay_alone(
        &self,
        upstream: Arc<Upstream>,
        request: RelayRequest,
        instead: Instead,
    ) -> Result<Relayed, GatewayError> {
        let (model, label) = (upstream.name().to_owned(), upstream.version());
        Box::pin(self.relay_as(upstream, Naming { model, label, trial: None, by: None, purse: None, instead }, request)).await
    }

    /// Has this server answer, admitted under a name.
    pub(in crate::gateway) async fn relay_as(
        &self,
        upstream: Arc<Upstream>,
        naming: Naming,
        request: RelayRequest,
    ) -> Result<Relayed, GatewayError> {
        let Naming { model, label, trial, by, purse, instead } = naming;
        let input = self.count_told(&request.body).await?;
        let ask = Ask {
            caller: &request.caller,
            model: &model,
            input: borrowed(input),
            most_output: most_output(&request, self.0.default_max_tokens),
            prices: upstream.config.price.as_slice(),
        };
        let ticket = self.0.tenants.admit(ask).await?;
        self.relay_to(Start { upstream, ticket, trial, by, label, input, purse, instead }, request).await
    }

    /// Tokens of a request's texts.
    async fn count_told(&self, body: &Value) -> Result<usize, GatewayError> {
        let told = count::told(body);
        let tokenizer = self.0.base.tokenizer.clone();
        Ok(told.tokens + by_size(told.text.len(), move || count::exactly(&tokenizer, &told.text)).await?)
    }

    /// Has this server answer a request that is admitted. Whatever happens, the request is settled.
    async fn relay_to(&self, start: Start, request: RelayRequest) -> Result<Relayed, GatewayError> {
        let Start { upstream, mut ticket, trial, by, label, input, purse, instead } = start;
        ticket.charge(upstream.config.price.as_ref());
        let most = most_output(&request, self.0.default_max_tokens);
        let mut promises = Vec::new();
        if let Some(price) = &upstream.config.price {
            for purse in upstream.purse.iter().chain(&purse) {
                let promise = self.0.tenants.promise(purse, price.most(borrowed(input), most)).await;
                let model = request.origin.capability.as_deref().unwrap_or(&request.model);
                promises.push(promise.map_err(|reached| GatewayError::UpstreamSpent { model: model.to_owned(), reached })?);
            }
        }
        let RelayRequest { caller, origin, model, endpoint, mut body, choices, max_tokens, streamed, .. } = request;
        let model = origin.capability.as_deref().map_or(model, str::to_owned);
        if max_tokens.is_none() && endpoint == Endpoint::Chat {
            // No answer is longer than what was borrowed for it.
            body["max_tokens"] = self.0.default_max_tokens.into();
        }
        let served = Served { model: model.clone(), version: upstream.version(), by };
        let account = Account::open(Opening {
            tenants: self.0.tenants.clone(),
            metrics: self.0.metrics.clone(),
            caller,
            origin,
            model: model.clone(),
            version: served.version.clone(),
            trial,
            adapter_label: label,
            cache: CacheUse::Bypass,
            ticket,
        });
        let mut owing = Owing {
            account,
            metrics: self.0.metrics.clone(),
            upstream: Arc::clone(&upstream),
            promises,
            tokenizer: self.0.base.tokenizer.clone(),
            input,
            billed: AtomicBool::new(false),
            text: String::new(),
            given: None,
            settled: false,
        };
        let asked = Instant::now();
        let failed = |owing: &mut Owing, trouble: Trouble| {
            let error = GatewayError::Upstream { model: model.clone(), trouble };
            if instead == Instead::Another && error.passes_on() {
                owing.account.leave_trial();
            }
            // The error that matters is the first one; the other one is logged where it happens.
            let _ = owing.settle(owing.usage_now(), Outcome::Failed);
            error
        };
        if streamed {
            let exchange = match Box::pin(upstream.remote.stream(endpoint, body, &owing.billed)).await {
                Ok(exchange) => exchange,
                Err(trouble) => return Err(failed(&mut owing, trouble)),
            };
            let (finished, held) = (BTreeSet::new(), VecDeque::new());
            let stream =
                Stream { owing, exchange: Some(exchange), asked, served, choices, finished, cut: false, held, over: false };
            return Ok(Relayed::Stream(Box::new(stream)));
        }
        let answer = Box::pin(upstream.remote.whole(endpoint, body, &owing.billed)).await;
        let ended = Instant::now();
        let answer = match answer {
            Ok(answer) => answer,
            Err(trouble) => return Err(failed(&mut owing, trouble)),
        };
        owing.given = count::usage(&answer);
        let mut cut = false;
        for choice in answer["choices"].as_array().into_iter().flatten() {
            cut |= owing.take(choice);
        }
        owing.account.token();
        owing.account.judge(1.0);
        let usage = owing.usage().await?;
        owing.settle(usage, if cut { Outcome::Length } else { Outcome::Stop })?;
        owing.account.synced().await;
        let (rate, cost_nanos) = (owing.account.rate(), owing.account.cost_nanos());
        Ok(Relayed::Whole(Box::new(Whole { body: answer, served, usage, rate, cost_nanos, asked, ended })))
    }
}

/// What is borrowed for a prompt: another server may count a little more than we do.
const fn borrowed(input: usize) -> u64 {
    (input as u64).saturating_add(input as u64 / 4).saturating_add(16)
}

/// Most tokens of all answers to a request.
fn most_output(request: &RelayRequest, usual: usize) -> u64 {
    let each = match request.endpoint {
        Endpoint::Embeddings => 0,
        Endpoint::Chat | Endpoint::Completions => request.max_tokens.unwrap_or(usual),
    };
    (each as u64).saturating_mul(request.computed as u64)
}

impl Owing {
    /// Takes what a choice says; whether it was cut by its length.
    fn take(&mut self, choice: &Value) -> bool {
        let before = self.text.len();
        let said = count::answered(choice, &mut self.text);
        if said > 0 && choice["index"].as_u64().unwrap_or(0) == 0 {
            self.account.text(&self.text[before..]);
        }
        choice["finish_reason"] == "length"
    }

    /// What was used: as the server says, else as we count.
    async fn usage(&self) -> Result<Usage, GatewayError> {
        if let Some(given) = self.given {
            return Ok(given);
        }
        let (tokenizer, text) = (self.tokenizer.clone(), self.text.clone());
        let completion_tokens = by_size(text.len(), move || count::exactly(&tokenizer, &text)).await?;
        Ok(Usage { prompt_tokens: self.input, completion_tokens, ..Usage::default() })
    }

    /// What was used so far, where nobody may wait. Once the server has the request that is its prompt at least.
    fn usage_now(&self) -> Usage {
        if !self.billed.load(Ordering::Relaxed) {
            return Usage::default();
        }
        let counted = || Usage {
            prompt_tokens: self.input,
            completion_tokens: count::about(&self.tokenizer, &self.text),
            ..Usage::default()
        };
        self.given.unwrap_or_else(counted)
    }

    /// Writes the request's row; the second time nothing happens.
    fn settle(&mut self, usage: Usage, outcome: Outcome) -> Result<(), GatewayError> {
        if std::mem::replace(&mut self.settled, true) {
            return Ok(());
        }
        let tokens = Tokens {
            input: usage.prompt_tokens as u64,
            cached: usage.cached_tokens as u64,
            output: usage.completion_tokens as u64,
            reasoning: 0,
        };
        if let Some(price) = &self.upstream.config.price {
            for promise in self.promises.drain(..) {
                promise.settle(Price::cost(price, &tokens));
            }
        }
        self.metrics.relayed(self.upstream.name(), outcome);
        self.account.settle(usage, outcome, Effort::default())
    }
}

impl Drop for Owing {
    fn drop(&mut self) {
        if !self.settled {
            // Settled already, unless the client has left: what the server may bill is charged.
            let _ = self.settle(self.usage_now(), Outcome::Cancelled);
        }
    }
}

/// An answer as it is made. Dropping it ends it.
pub struct Stream {
    owing: Owing,
    /// Until it has ended.
    exchange: Option<Exchange>,
    asked: Instant,
    served: Served,
    choices: usize,
    /// Answers that have ended, by their index.
    finished: BTreeSet<u64>,
    /// One of them was as long as it may be.
    cut: bool,
    /// The ends of answers, which are given on when the request is settled.
    held: VecDeque<Value>,
    over: bool,
}

impl Stream {
    /// What answers.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// What is left of the caller's limits.
    pub fn rate(&self) -> Rate {
        self.owing.account.rate()
    }

    /// What it took; known after the last event.
    pub fn usage(&self) -> Usage {
        self.owing.given.unwrap_or_default()
    }

    /// What it cost, nano-dollars; known after the last event.
    pub fn cost_nanos(&self) -> Option<i64> {
        self.owing.account.cost_nanos()
    }

    /// When the other server was asked.
    pub fn asked_at(&self) -> Instant {
        self.asked
    }

    /// The choices of the next event; `None` after the last one. The ends of answers come when the request's row is in the ledger.
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Value, GatewayError>> {
        loop {
            if self.over {
                self.owing.account.synced().await;
                return self.held.pop_front().map(Ok);
            }
            let Some(exchange) = &mut self.exchange else { return None };
            let is_whole = self.finished.len() >= self.choices;
            let event = if is_whole {
                // Nothing that matters is still to come.
                tokio::time::timeout(LAST_WORDS, exchange.next()).await.unwrap_or(None)
            } else {
                exchange.next().await
            };
            match event {
                Some(Ok(event)) => {
                    if let Some(choices) = self.take(event) {
                        return Some(Ok(choices));
                    }
                }
                Some(Err(trouble)) if !is_whole => {
                    self.end();
                    self.held.clear();
                    // The error that matters is this one.
                    let _ = self.owing.settle(self.owing.usage_now(), Outcome::Failed);
                    return Some(Err(GatewayError::Upstream { model: self.served.model.clone(), trouble }));
                }
                None | Some(Err(_)) => {
                    let usage = match self.owing.usage().await {
                        Ok(usage) => usage,
                        Err(_) => self.owing.usage_now(),
                    };
                    self.end();
                    self.owing.given = Some(usage);
                    self.owing.account.judge(1.0);
                    let outcome = if self.cut { Outcome::Length } else { Outcome::Stop };
                    if let Err(error) = self.owing.settle(usage, outcome) {
                        self.held.clear();
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    fn end(&mut self) {
        self.exchange = None;
        self.over = true;
    }

    /// Takes an event in; its choices where they are given on at once.
    fn take(&mut self, mut event: Value) -> Option<Value> {
        if let Some(usage) = count::usage(&event) {
            self.owing.given = Some(usage);
        }
        let choices = event.get_mut("choices").map(Value::take)?;
        let list = choices.as_array().filter(|list| !list.is_empty())?;
        let before = self.owing.text.len();
        for choice in list {
            self.cut |= self.owing.take(choice);
            if !choice["finish_reason"].is_null() {
                self.finished.insert(choice["index"].as_u64().unwrap_or(0));
            }
        }
        if self.owing.text.len() > before {
            self.owing.account.token();
        }
        if self.finished.len() < self.choices {
            return Some(choices);
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.answered();
        }
        self.held.push_back(choices);
        None
    }
}
