//! Clients of another OpenAI-compatible server, with time limits, a key that is never shown, and patience with servers that are busy:
//! [`Upstream`] asks for teachers and judges, [`Remote`] passes on what callers ask for.

mod breaker;
mod cassette;
mod events;
mod form;
mod remote;
mod retry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use breaker::{Breaker, Mood, Tolerance};
pub use cassette::{CassetteError, Teacher};
pub use remote::{Asked, Endpoint, Exchange, Remote, RemoteSettings, Times, Trouble};
pub use retry::Patience;

pub use crate::outbound::OutboundError as ClientError;
use crate::outbound::{Address, Caller, Incoming, OutboundError};
use events::{Data, Events};

/// Largest answer that is read, bytes.
const MAX_ANSWER: usize = 16 << 20;
/// Longest text of a refusal that is repeated, characters.
const MAX_REFUSAL: usize = 300;

/// A key; shows itself to nobody.
#[derive(Clone)]
pub struct Key(String);

impl Key {
    /// A key from a variable or a file; white space at its ends does not belong to it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// A text without the key, which some servers repeat.
    fn hidden_in(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "(the key)") }
    }
}

/// Two keys are the same where they say the same.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Which server, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where its API begins, `https://example.com/v1`.
    pub address: Address,
    /// The model to ask.
    pub model: String,
    /// The key, where it needs one.
    pub key: Option<Key>,
    /// Longest time for one answer, its last byte included.
    pub timeout: Duration,
    /// What is done about a server that is busy or broken.
    pub patience: Patience,
}

/// What an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerForm {
    /// Anything.
    Text,
    /// A JSON object (`response_format`); servers that do not know how to hold a model to it are asked without.
    JsonObject,
}

/// A conversation to go on with.
#[derive(Debug, Clone, PartialEq)]
pub struct Chat {
    /// Messages in OpenAI's form.
    pub messages: Vec<Value>,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// Sampling temperature.
    pub temperature: f32,
    /// Seed of the sampling, for servers that take one.
    pub seed: Option<u64>,
    /// What the answer must be.
    pub form: AnswerForm,
}

/// Tokens of an exchange, as the server counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Of the messages.
    pub prompt_tokens: u64,
    /// Of the answer.
    pub completion_tokens: u64,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Its text.
    pub text: String,
    /// Why it ended, in the server's words.
    pub finish: Option<String>,
    /// What it took, where the server says.
    pub usage: Option<Usage>,
}

/// A piece of a streamed answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Piece {
    /// Its text, which may be empty.
    pub text: String,
    /// Why the answer ended, with its last piece.
    pub finish: Option<String>,
    /// What it took, in a piece of its own at the end, where the server says.
    pub usage: Option<Usage>,
}

/// Why there is no answer. No text holds the key.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection, no time left, or too much came.
    #[error("{address}: {source}")]
    Call {
        /// Who was called.
        address: Address,
        /// The cause.
        source: OutboundError,
    },
    /// The server refused.
    #[error("{address} answered with status {status}: {message}")]
    Refused {
        /// Who was called.
        address: Address,
        /// HTTP status.
        status: u16,
        /// What it said, shortened.
        message: String,
    },
    /// The answer is not what OpenAI's servers send.
    #[error("{address} sent an answer that cannot be used: {problem}")]
    Answer {
        /// Who was called.
        address: Address,
        /// What is wrong with it.
        problem: String,
    },
    /// The recording could not be used.
    #[error(transparent)]
    Cassette(#[from] CassetteError),
}

/// Another server.
#[derive(Debug)]
pub struct Upstream {
    settings: Settings,
    address: Address,
    caller: Caller,
    /// It does not know `response_format`.
    plain: AtomicBool,
    /// It wants `max_completion_tokens` and no `max_tokens`.
    renamed: AtomicBool,
}

impl Upstream {
    /// A client; nothing is called yet.
    pub fn new(settings: Settings) -> Result<Self, UpstreamError> {
        let address = settings.address.clone().at(["chat", "completions"]);
        let caller = Caller::new(address.clone(), settings.timeout)
            .map_err(|source| UpstreamError::Call { address: address.clone(), source })?;
        Ok(Self { settings, address, caller, plain: AtomicBool::new(false), renamed: AtomicBool::new(false) })
    }

    /// The model that is asked.
    pub fn model(&self) -> &str {
        &self.settings.model
    }

    /// A whole answer.
    pub async fn chat(&self, chat: &Chat) -> Result<Reply, UpstreamError> {
        let incoming = self.send(chat, false).await?;
        let body = incoming.rest(MAX_ANSWER).await.map_err(|source| self.call(source))?;
        let answer: Value = serde_json::from_slice(&body).map_err(|error| self.unusable(&error.to_string()))?;
        let choice = &answer["choices"][0];
        let text = choice["message"]["content"].as_str().ok_or_else(|| self.unusable("it has no choices[0].message.content"))?;
        Ok(Reply {
            text: text.to_owned(),
            finish: choice["finish_reason"].as_str().map(str::to_owned),
            usage: usage(&answer["usage"]),
        })
    }

    /// An answer as it is made. What fails after its beginning is not tried again.
    pub async fn stream(&self, chat: &Chat) -> Result<Pieces<'_>, UpstreamError> {
        let incoming = self.send(chat, true).await?;
        Ok(Pieces { upstream: self, incoming, events: Events::default(), ended: false })
    }

    /// Asks until there is an answer with a good status, a refusal that will not change, or no patience left.
    async fn send(&self, chat: &Chat, stream: bool) -> Result<Incoming, UpstreamError> {
        let key = self.settings.key.as_ref().map(|key| key.0.as_str());
        let mut attempt = 0;
        loop {
            let outcome = self.caller.post_json_open(key, self.body(chat, stream).to_string()).await;
            let (error, wanted) = match outcome {
                Ok(incoming) if (200..300).contains(&incoming.status()) => return Ok(incoming),
                Ok(incoming) => {
                    let (status, wanted) = (incoming.status(), incoming.retry_after());
                    let body = incoming.rest(MAX_ANSWER).await.unwrap_or_default();
                    let message = self.message(&body);
                    if status == 400 && self.learns(&message, chat) {
                        continue;
                    }
                    let error = UpstreamError::Refused { address: self.address.clone(), status, message };
                    if !retry::may_pass(status) {
                        return Err(error);
                    }
                    (error, wanted)
                }
                Err(source) => (self.call(source), None),
            };
            let Some(wait) = self.settings.patience.wait(attempt, wanted, rand::random()) else { return Err(error) };
            tracing::debug!(%error, ?wait, "asking again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    fn body(&self, chat: &Chat, stream: bool) -> Value {
        let mut body = chat.body(&self.settings.model);
        if self.renamed.load(Ordering::Relaxed)
            && let Some(most) = body.as_object_mut().and_then(|body| body.remove("max_tokens"))
        {
            body["max_completion_tokens"] = most;
        }
        if chat.form == AnswerForm::JsonObject && !self.plain.load(Ordering::Relaxed) {
            body["response_format"] = json!({"type": "json_object"});
        }
        if stream {
            body["stream"] = json!(true);
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }

    /// Whether a refusal is about a field that can be done without, or is called otherwise there.
    fn learns(&self, message: &str, chat: &Chat) -> bool {
        let first = |flag: &AtomicBool| !flag.swap(true, Ordering::Relaxed);
        (message.contains("response_format") && chat.form == AnswerForm::JsonObject && first(&self.plain))
            || (message.contains("max_completion_tokens") && first(&self.renamed))
    }

    /// What a refusal says, without the key that some servers repeat.
    fn message(&self, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(body);
        let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
        let message = parsed["error"]["message"].as_str().or_else(|| parsed["message"].as_str()).unwrap_or(&text);
        let message = self.settings.key.as_ref().map_or_else(|| message.to_owned(), |key| key.hidden_in(message));
        let short: String = message.chars().take(MAX_REFUSAL).collect();
        if short.trim().is_empty() { "it said nothing more".to_owned() } else { short }
    }

    fn call(&self, source: OutboundError) -> UpstreamError {
        UpstreamError::Call { address: self.address.clone(), source }
    }

    fn unusable(&self, problem: &str) -> UpstreamError {
        UpstreamError::Answer { address: self.address.clone(), problem: problem.to_owned() }
    }
}

impl Chat {
    /// What is asked, in the words that every server knows.
    fn body(&self, model: &str) -> Value {
        let mut body = json!({
            "model": model,
            "messages": self.messages,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        });
        if let Some(seed) = self.seed {
            body["seed"] = json!(seed);
        }
        body
    }
}

fn usage(value: &Value) -> Option<Usage> {
    let tokens = |name: &str| value[name].as_u64();
    Some(Usage { prompt_tokens: tokens("prompt_tokens")?, completion_tokens: tokens("completion_tokens")? })
}

/// A streamed answer. Dropping it ends the connection.
#[derive(Debug)]
pub struct Pieces<'a> {
    upstream: &'a Upstream,
    incoming: Incoming,
    events: Events,
    ended: bool,
}

impl Pieces<'_> {
    /// The next piece; `None` after the last one. A stream that breaks off is an error.
    pub async fn next(&mut self) -> Option<Result<Piece, UpstreamError>> {
        while !self.ended {
            match self.events.next() {
                Some(Data::End) => break,
                Some(Data::Error(data)) => {
                    self.ended = true;
                    return Some(Err(self.upstream.unusable(&self.upstream.message(data.as_bytes()))));
                }
                Some(Data::Text(data)) => {
                    let piece = self.piece(&data);
                    self.ended = piece.is_err();
                    return Some(piece);
                }
                None => {}
            }
            match self.incoming.chunk(MAX_ANSWER).await {
                Ok(Some(chunk)) => self.events.push(&chunk),
                Ok(None) => {
                    self.ended = true;
                    return Some(Err(self.upstream.unusable("the stream ended before its end")));
                }
                Err(source) => {
                    self.ended = true;
                    return Some(Err(self.upstream.call(source)));
                }
            }
        }
        self.ended = true;
        None
    }

    fn piece(&self, data: &str) -> Result<Piece, UpstreamError> {
        let chunk: Value = serde_json::from_str(data).map_err(|error| self.upstream.unusable(&error.to_string()))?;
        if let Some(message) = chunk["error"]["message"].as_str() {
            return Err(self.upstream.unusable(&self.upstream.message(json!({"message": message}).to_string().as_bytes())));
        }
        let choice = &chunk["choices"][0];
        Ok(Piece {
            text: choice["delta"]["content"].as_str().unwrap_or_default().to_owned(),
            finish: choice["finish_reason"].as_str().map(str::to_owned),
            usage: usage(&chunk["usage"]),
        })
    }
}
