//! Another server as what answers callers: their bodies are sent there, its answers come back as the JSON that it sent, whole or event
//! by event. It is asked again as long as nothing of its answer was given on; so many are asked at once; one that fails is left alone
//! for a while. Knows nothing of who asks, of prices, or of our HTTP.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{timeout, timeout_at};

use super::breaker::{Breaker, Leave, Mood, Seen, Tolerance};
use super::events::{Data, Events};
use super::form::Form;
use super::{Key, MAX_ANSWER, MAX_REFUSAL, Patience, retry};
use crate::outbound::{Address, Caller, Incoming, OutboundError};

/// Where it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `chat/completions`
    Chat,
    /// `completions`
    Completions,
    /// `embeddings`
    Embeddings,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Completions, Self::Embeddings];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
        }
    }

    const fn path(self) -> &'static [&'static str] {
        match self {
            Self::Chat => &["chat", "completions"],
            Self::Completions => &["completions"],
            Self::Embeddings => &["embeddings"],
        }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// A connection; also the wait for a place of those that ask at once.
    pub connect: Duration,
    /// From asking to the first event of a stream.
    pub first_event: Duration,
    /// From each event of a stream to the next.
    pub between_events: Duration,
    /// All of an answer, however often it was asked for.
    pub whole: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), first_event: seconds(60), between_events: seconds(60), whole: seconds(600) }
    }
}

/// Which server, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSettings {
    /// What it is called here.
    pub name: String,
    /// Where its API begins, `https://example.com/v1`.
    pub address: Address,
    /// The model to ask, in its words.
    pub model: String,
    /// The key, where it needs one.
    pub key: Option<Key>,
    /// How long things may take.
    pub times: Times,
    /// What is done about a server that is busy or broken, while nothing of its answer was given on.
    pub patience: Patience,
    /// Longest wait before asking again; whoever is told to wait longer is told so instead.
    pub longest_wait: Duration,
    /// Most requests at once.
    pub at_once: usize,
    /// When it is left alone.
    pub tolerance: Tolerance,
}

/// Why it did not answer. The texts are for the log: they may hold its address, never its key.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// As many are asking as may.
    #[error("as many requests as it may have are running")]
    Busy,
    /// It has failed often and is left alone.
    #[error("it has failed and is left alone for {} ms", .0.as_millis())]
    LeftAlone(Duration),
    /// No connection: it does not know of the request.
    #[error("{0}")]
    Unconnected(OutboundError),
    /// A connection that broke.
    #[error("{0}")]
    Unreachable(OutboundError),
    /// Something took too long.
    #[error("{0} took too long")]
    Late(&'static str),
    /// It refused.
    #[error("it answered with status {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said, shortened, without its key, address and name of the model.
        message: String,
        /// The field that it names.
        param: Option<String>,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// What it sent is not what OpenAI's servers send, or broke off.
    #[error("it sent an answer that cannot be used: {0}")]
    Broken(String),
    /// More came than is read.
    #[error("its answer, or an event of it, is larger than {0} bytes")]
    TooLarge(usize),
}

impl Trouble {
    /// Whether it may bill something for what it was asked: it had the request, and has not refused it.
    const fn may_be_billed(&self) -> bool {
        !matches!(self, Self::Busy | Self::LeftAlone(_) | Self::Unconnected(_) | Self::Refused { .. })
    }
}

impl From<OutboundError> for Trouble {
    fn from(error: OutboundError) -> Self {
        match error {
            OutboundError::TooLarge(limit) => Self::TooLarge(limit),
            OutboundError::Call(error) if error.is_connect() => Self::Unconnected(OutboundError::Call(error)),
            error => Self::Unreachable(error),
        }
    }
}

/// What is happening to it, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Requests that it is answering.
    pub running: usize,
    /// Times that it was asked again.
    pub again: u64,
    /// Whether it is asked.
    pub mood: Mood,
}

/// Another server that answers callers.
#[derive(Debug)]
pub struct Remote {
    settings: RemoteSettings,
    /// In the order of [`Endpoint::ALL`].
    callers: [Caller; 3],
    places: Arc<Semaphore>,
    running: AtomicUsize,
    again: AtomicU64,
    breaker: Mutex<Breaker>,
    began: Instant,
    /// It wants `max_completion_tokens` and no `max_tokens`.
    renamed: AtomicBool,
    /// It does not know `stream_options`.
    silent: AtomicBool,
}

impl Remote {
    /// A client; nothing is called yet.
    pub fn new(settings: RemoteSettings) -> Result<Self, OutboundError> {
        let caller = |endpoint: Endpoint| {
            let address = settings.address.clone().at(endpoint.path().iter().copied());
            // Ours comes first, and knows what was waited for.
            Caller::within(address, settings.times.connect, settings.times.whole.saturating_add(Duration::from_secs(1)))
        };
        let [chat, completions, embeddings] = Endpoint::ALL.map(caller);
        Ok(Self {
            callers: [chat?, completions?, embeddings?],
            places: Arc::new(Semaphore::new(settings.at_once.clamp(1, Semaphore::MAX_PERMITS))),
            running: AtomicUsize::new(0),
            again: AtomicU64::new(0),
            breaker: Mutex::new(Breaker::new(settings.tolerance)),
            began: Instant::now(),
            renamed: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            settings,
        })
    }

    /// Which server, and how.
    pub const fn settings(&self) -> &RemoteSettings {
        &self.settings
    }

    /// What is happening to it.
    pub fn asked(&self) -> Asked {
        Asked {
            running: self.running.load(Ordering::Relaxed),
            again: self.again.load(Ordering::Relaxed),
            mood: self.breaker().mood(),
        }
    }

    /// A whole answer. Sets `billed` from when on the server may bill something for it, whatever comes of it.
    pub async fn whole(self: &Arc<Self>, endpoint: Endpoint, body: Value, billed: &AtomicBool) -> Result<Value, Trouble> {
        let mut exchange = self.exchange(Asking { endpoint, body, delivery: Delivery::Whole, billed }).await?;
        exchange.first.take().ok_or_else(|| Trouble::Broken("there is nothing in it".to_owned()))
    }

    /// An answer as it is made, when its first event is there. Dropping it ends the connection. Sets `billed` as [`Self::whole`].
    pub async fn stream(self: &Arc<Self>, endpoint: Endpoint, body: Value, billed: &AtomicBool) -> Result<Exchange, Trouble> {
        self.exchange(Asking { endpoint, body, delivery: Delivery::Stream, billed }).await
    }

    async fn exchange(self: &Arc<Self>, asking: Asking<'_>) -> Result<Exchange, Trouble> {
        let (times, delivery) = (self.settings.times, asking.delivery);
        let deadline = Instant::now() + times.whole;
        let place = timeout(times.connect, Arc::clone(&self.places).acquire_owned()).await;
        let place = Place::new(self, place.ok().and_then(Result::ok).ok_or(Trouble::Busy)?);
        let mut attempt = 0;
        // Others may learn meanwhile how it wants to be asked: what counts is how this request was sent.
        let mut form = self.form();
        loop {
            let leave = self.breaker().ask(self.now()).map_err(Trouble::LeftAlone)?;
            let mut pass = Pass { remote: Arc::clone(self), leave, told: false };
            let within = match delivery {
                Delivery::Whole => deadline.saturating_duration_since(Instant::now()),
                Delivery::Stream => times.first_event.min(deadline.saturating_duration_since(Instant::now())),
            };
            let sent = form.body(&asking.body, &self.settings.model, delivery);
            let billed_before = asking.billed.load(Ordering::Relaxed);
            let attempted = timeout(within, self.attempt(&asking, &sent, &mut pass)).await;
            let trouble = match attempted {
                Ok(Ok((first, rest))) => {
                    self.learn(form);
                    let answered = rest.is_none();
                    pass.tell(if answered { Seen::Answered } else { Seen::Began });
                    return Ok(Exchange { first: Some(first), rest, deadline, heard: Instant::now(), answered, pass, place });
                }
                Ok(Err(trouble)) => trouble,
                Err(_) if delivery == Delivery::Stream && within == times.first_event => Trouble::Late("its first event"),
                Err(_) => Trouble::Late("its answer"),
            };
            pass.tell(seen_in(&trouble));
            if !trouble.may_be_billed() {
                asking.billed.store(billed_before, Ordering::Relaxed);
            }
            if let Trouble::Refused { status: 400 | 422, message, param, .. } = &trouble
                && let Some(other) = form.after(&sent, param.as_deref(), message)
            {
                form = other;
                continue;
            }
            let Some(wait) = self.wait(&trouble, attempt) else { return Err(trouble) };
            if Instant::now() + wait >= deadline {
                return Err(trouble);
            }
            tracing::debug!(upstream = self.settings.name, %trouble, ?wait, "asking again");
            self.again.fetch_add(1, Ordering::Relaxed);
            // Others may be let through meanwhile.
            drop(pass);
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// Asks once; a whole answer, or the first event of a stream and what is to come of it.
    async fn attempt(&self, asking: &Asking<'_>, sent: &Value, pass: &mut Pass) -> Result<(Value, Option<Rest>), Trouble> {
        let key = self.settings.key.as_ref().map(|key| key.0.as_str());
        asking.billed.store(true, Ordering::Relaxed);
        let mut call = pin!(self.callers[asking.endpoint as usize].post_json_open(key, sent.to_string()));
        let incoming = match asking.delivery {
            Delivery::Stream => call.await?,
            Delivery::Whole => match timeout(self.settings.times.first_event, &mut call).await {
                Ok(incoming) => incoming?,
                Err(_) => {
                    // A long answer. Whoever looks for all others with it lets another one look.
                    pass.tell(Seen::Left);
                    call.await?
                }
            },
        };
        let (status, retry_after) = (incoming.status(), incoming.retry_after());
        if !(200..300).contains(&status) {
            let body = incoming.rest(MAX_ANSWER).await.unwrap_or_default();
            let parsed: Value = serde_json::from_slice(&body).unwrap_or_default();
            let param = parsed["error"]["param"].as_str().filter(|param| param.len() <= 128).map(str::to_owned);
            let message = self.message(&parsed, &body);
            return Err(Trouble::Refused { status, message, param, retry_after });
        }
        match asking.delivery {
            Delivery::Whole => {
                pass.tell(Seen::Began);
                let body = incoming.rest(MAX_ANSWER).await?;
                let value: Value = serde_json::from_slice(&body).map_err(|error| Trouble::Broken(error.to_string()))?;
                if is_error(&value) {
                    return Err(Trouble::Broken(self.message(&value, &body)));
                }
                let field = if asking.endpoint == Endpoint::Embeddings { "data" } else { "choices" };
                let sound = value[field].as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_object));
                if sound { Ok((value, None)) } else { Err(Trouble::Broken(format!("it has no {field}"))) }
            }
            Delivery::Stream => {
                let mut rest = Rest { incoming, events: Events::default(), ended: false };
                let first = rest.next(self).await?.ok_or_else(|| Trouble::Broken("the stream is empty".to_owned()))?;
                Ok((first, Some(rest)))
            }
        }
    }

    /// How it wants to be asked, as far as that is known.
    fn form(&self) -> Form {
        Form { renamed: self.renamed.load(Ordering::Relaxed), silent: self.silent.load(Ordering::Relaxed) }
    }

    /// It has answered what was asked in this form.
    fn learn(&self, form: Form) {
        if form != self.form() {
            self.renamed.fetch_or(form.renamed, Ordering::Relaxed);
            self.silent.fetch_or(form.silent, Ordering::Relaxed);
        }
    }

    /// The wait before asking again; `None` where that makes no sense.
    fn wait(&self, trouble: &Trouble, attempt: u32) -> Option<Duration> {
        let wanted = match trouble {
            Trouble::Refused { status, retry_after, .. } if retry::may_pass(*status) => *retry_after,
            Trouble::Unconnected(_) | Trouble::Unreachable(_) | Trouble::Broken(_) => None,
            // Who is late once has cost the caller much time already; an answer that is too large will be so again.
            Trouble::Busy | Trouble::LeftAlone(_) | Trouble::Late(_) | Trouble::TooLarge(_) | Trouble::Refused { .. } => {
                return None;
            }
        };
        let wait = self.settings.patience.wait(attempt, wanted, rand::random())?;
        (wait.max(wanted.unwrap_or_default()) <= self.settings.longest_wait).then_some(wait)
    }

    /// What a refusal says, without what is nobody's business.
    fn message(&self, parsed: &Value, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(body);
        let message = parsed["error"]["message"].as_str().or_else(|| parsed["message"].as_str()).unwrap_or(&text);
        let message = self.settings.key.as_ref().map_or_else(|| message.to_owned(), |key| key.hidden_in(message));
        let message = message.replace(&self.settings.address.to_string(), "(the upstream)");
        let host = self.settings.address.host();
        let message = if host.is_empty() { message } else { message.replace(host, "(the upstream)") };
        let message = message.replace(&self.settings.model, &self.settings.name);
        let short: String = message.chars().filter(|c| !c.is_control()).take(MAX_REFUSAL).collect();
        if short.trim().is_empty() { "it said nothing more".to_owned() } else { short }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Nothing panics while it is held.
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a trouble is the server's.
const fn seen_in(trouble: &Trouble) -> Seen {
    match trouble {
        Trouble::Refused { status: 408 | 500..=599, .. }
        | Trouble::Unconnected(_)
        | Trouble::Unreachable(_)
        | Trouble::Late(_)
        | Trouble::Broken(_) => Seen::Failed,
        // It is there, and says no, or too much.
        Trouble::Refused { .. } | Trouble::TooLarge(_) => Seen::Began,
        Trouble::Busy | Trouble::LeftAlone(_) => Seen::Left,
    }
}

/// An error where an answer should be. An event may be anything.
fn is_error(value: &Value) -> bool {
    value.get("error").is_some_and(|error| !error.is_null()) || value.get("object").is_some_and(|object| object == "error")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Whole,
    Stream,
}

/// What is asked.
struct Asking<'a> {
    endpoint: Endpoint,
    body: Value,
    delivery: Delivery,
    /// Whether the server may bill something for it.
    billed: &'a AtomicBool,
}

/// A permission of the breaker; whoever drops it without a word has left.
#[derive(Debug)]
struct Pass {
    remote: Arc<Remote>,
    leave: Leave,
    told: bool,
}

impl Pass {
    fn tell(&mut self, seen: Seen) {
        self.told = true;
        let now = self.remote.now();
        self.remote.breaker().tell(self.leave, seen, now);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Seen::Left);
        }
    }
}

/// One of the places of those that ask at once.
#[derive(Debug)]
struct Place {
    remote: Arc<Remote>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(remote: &Arc<Remote>, permit: OwnedSemaphorePermit) -> Self {
        remote.running.fetch_add(1, Ordering::Relaxed);
        Self { remote: Arc::clone(remote), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.remote.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is still to come of a stream.
#[derive(Debug)]
struct Rest {
    incoming: Incoming,
    events: Events,
    ended: bool,
}

impl Rest {
    /// The next event; `None` after `[DONE]`. A stream that ends without it broke off.
    async fn next(&mut self, remote: &Remote) -> Result<Option<Value>, Trouble> {
        loop {
            match self.events.next() {
                Some(Data::End) => {
                    self.ended = true;
                    return Ok(None);
                }
                Some(Data::Error(data)) => {
                    let value: Value = serde_json::from_str(&data).unwrap_or_default();
                    return Err(Trouble::Broken(remote.message(&value, data.as_bytes())));
                }
                Some(Data::Text(data)) => {
                    let value: Value = serde_json::from_str(&data).map_err(|error| Trouble::Broken(error.to_string()))?;
                    if is_error(&value) {
                        return Err(Trouble::Broken(remote.message(&value, data.as_bytes())));
                    }
                    let choices = value.get("choices").filter(|choices| !choices.is_null());
                    let sound = |choices: &Value| choices.as_array().is_some_and(|list| list.iter().all(Value::is_object));
                    if !value.is_object() || !choices.is_none_or(sound) {
                        return Err(Trouble::Broken("an event of it is none of a chat or a completion".to_owned()));
                    }
                    return Ok(Some(value));
                }
                None => {}
            }
            if self.events.held() > MAX_ANSWER {
                return Err(Trouble::TooLarge(MAX_ANSWER));
            }
            // Each event is bounded; how long all of them may take is, too.
            match self.incoming.chunk(usize::MAX).await? {
                Some(chunk) => self.events.push(&chunk),
                None => return Err(Trouble::Broken("the stream ended before its end".to_owned())),
            }
        }
    }
}

/// An answer that is still coming. Dropping it ends the connection.
#[derive(Debug)]
pub struct Exchange {
    first: Option<Value>,
    rest: Option<Rest>,
    deadline: Instant,
    /// When something of it came last.
    heard: Instant,
    /// All that matters has come.
    answered: bool,
    pass: Pass,
    #[expect(dead_code, reason = "holding it is its use")]
    place: Place,
}

impl Exchange {
    /// All that was asked for has come: whatever happens to the stream after that, the server has answered.
    pub fn answered(&mut self) {
        if !std::mem::replace(&mut self.answered, true) {
            self.pass.tell(Seen::Answered);
        }
    }

    /// The next event; `None` after the last one. An error where it broke off, was too slow, or ended before all that was asked for
    /// had come ([`Exchange::answered`]). Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Value, Trouble>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let rest = self.rest.as_mut().filter(|rest| !rest.ended)?;
        // From what came last: whoever waits may give up and wait again.
        let next_by = self.heard + self.pass.remote.settings.times.between_events;
        let next = match timeout_at(next_by.min(self.deadline).into(), rest.next(&self.pass.remote)).await {
            Ok(next) => next,
            Err(_) if self.deadline <= next_by => Err(Trouble::Late("its answer")),
            Err(_) => Err(Trouble::Late("its next event")),
        };
        self.heard = Instant::now();
        match next {
            Ok(Some(event)) => Some(Ok(event)),
            Ok(None) if self.answered => None,
            ended => {
                rest.ended = true;
                let trouble = ended.err().unwrap_or_else(|| Trouble::Broken("it ended before its answers did".to_owned()));
                if !self.answered {
                    self.pass.tell(seen_in(&trouble));
                }
                Some(Err(trouble))
            }
        }
    }
}
