//! What a caller asks for, already checked, and what comes back: the gateway's words, free of HTTP and of wire formats.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

pub use crate::backends::{Pooling, Sampling};

use super::assemble::ReportedToken;
use super::stop::StopText;
use super::structure::{Call, Form, Tools};
use crate::tenants::Principal;

/// Who says something in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions (`system`, `developer`).
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A function that the model has called.
    Tool,
}

impl Role {
    /// The name that chat templates use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What.
    pub content: String,
    /// Functions that the model calls with it.
    pub calls: Vec<Call>,
    /// Of a function: the id of the call that it answers.
    pub answers: Option<String>,
}

impl Message {
    /// A message of text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), calls: Vec::new(), answers: None }
    }
}

/// Where generation begins in a rendered conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Turn {
    /// The template's opening of the model's turn is appended.
    #[default]
    Open,
    /// Nothing is appended.
    AsIs,
}

/// Whether the tokenizer adds its beginning-of-text tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// As the tokenizer is configured.
    Add,
    /// None: the text has them already.
    Omit,
}

/// What to generate from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, for the chat template.
    Chat {
        /// Messages, at least one.
        messages: Vec<Message>,
        /// Functions on offer, as templates describe them.
        tools: Vec<Value>,
        /// Where generation begins.
        turn: Turn,
        /// Chat templates write their own; the default is to add none.
        special: SpecialTokens,
    },
    /// Plain text.
    Text {
        /// The text.
        text: String,
        /// Usually added.
        special: SpecialTokens,
    },
    /// Token ids.
    Tokens(Vec<u32>),
}

/// What ends an answer besides its length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stops {
    /// Strings.
    pub strings: Vec<String>,
    /// Whether a stop string belongs to the answer.
    pub text: StopText,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Whether the model's own end-of-text tokens end it.
    pub end_of_text: EndOfText,
}

/// Whether the model's end-of-text tokens end an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndOfText {
    /// They do.
    #[default]
    Stops,
    /// They are tokens like any other (`ignore_eos`).
    Ignored,
}

/// Whether the prompt comes back before the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Echo {
    /// Only the answer.
    #[default]
    Answer,
    /// The prompt, then the answer.
    PromptAndAnswer,
}

/// What to do with the token that ends an answer, in reports of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndToken {
    /// Chat: reports are of the content's tokens.
    Unreported,
    /// Completions: every generated token is reported.
    Reported,
}

/// Where a request came in: facts for its row in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// As in the response's `x-request-id`.
    pub request_id: Arc<str>,
    /// `chat.completions`, `completions`, `embeddings`.
    pub endpoint: &'static str,
    /// On whose behalf (`user`, `safety_identifier`).
    pub end_user: Option<String>,
    /// When it arrived.
    pub arrived: Instant,
    /// The capability that was asked: limits, prices and the ledger go by its name, whichever of its models answers.
    pub capability: Option<Arc<str>>,
}

/// What a request says about the response cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Caching {
    /// Nothing: the key's setting decides.
    #[default]
    AsKey,
    /// The answer may be one that was given before.
    Allowed,
    /// The answer is to be a fresh one.
    Fresh,
}

/// What a request says about which arm of a deployment it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steering {
    /// The arm that it wants, for tests.
    pub arm: Option<String>,
    /// Who or what keeps its arm.
    pub unit: Option<String>,
    /// `prompt_cache_key`: the same for requests that belong together.
    pub cache_key: Option<String>,
    /// The conversation that it belongs to.
    pub conversation: Option<String>,
}

/// Says of an answer whether it did what it was for.
#[derive(Clone)]
pub struct Judge(Arc<Judging>);

type Judging = dyn Fn(&str, f64) -> bool + Send + Sync;

impl Judge {
    /// Asked with the whole text, and the probability of its choices among those that its grammar allowed.
    pub fn new(judge: impl Fn(&str, f64) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    pub(super) fn says(&self, text: &str, probability: f64) -> bool {
        (self.0)(text, probability)
    }
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").finish_non_exhaustive()
    }
}

impl PartialEq for Judge {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A checked request for one or more answers.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationRequest {
    /// Who asks: whose adapters are seen, whose limits are used, who pays.
    pub caller: Arc<Principal>,
    /// Where the request came in.
    pub origin: Origin,
    /// Whether the answer may come from the response cache.
    pub caching: Caching,
    /// Base, deployment, adapter, or `adapter@version`, as the caller wrote it.
    pub model: String,
    /// Which arm, of a deployment.
    pub steering: Steering,
    /// Prompts, at least one.
    pub prompts: Vec<Prompt>,
    /// Answers to each prompt, at least 1.
    pub n: usize,
    /// How tokens are chosen, the seed aside.
    pub sampling: Sampling,
    /// The first answer's seed, the next ones count up; `None` draws one.
    pub seed: Option<u64>,
    /// Most tokens of an answer; `None` is the rest of the context.
    pub max_tokens: Option<usize>,
    /// What ends an answer.
    pub stops: Stops,
    /// Report tokens with this many alternatives; `None` reports none.
    pub logprobs: Option<usize>,
    /// Whether an ending token is reported.
    pub end_token: EndToken,
    /// Whether prompts come back.
    pub echo: Echo,
    /// What answers have to be.
    pub form: Form,
    /// Functions that answers may call.
    pub tools: Option<Tools>,
    /// Whether an answer did what it was for, where that can be said: what experiments count.
    pub judge: Option<Judge>,
    /// Each prompt's hidden states are wanted, as one vector, and no text: `max_tokens` is 0.
    pub pooling: Option<Pooling>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// End of text, a stop string or a stop token.
    Stop,
    /// The most tokens allowed.
    Length,
    /// Functions are called.
    ToolCalls,
}

/// A piece of a call of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPiece {
    /// Which call of the answer.
    pub index: usize,
    /// Its id and the function's name, where it begins.
    pub begins: Option<(String, String)>,
    /// More of the arguments.
    pub arguments: String,
}

/// A piece of one answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Piece {
    /// Which answer: `prompt * n + answer`.
    pub choice: usize,
    /// New text.
    pub text: String,
    /// New pieces of calls.
    pub calls: Vec<CallPiece>,
    /// The tokens of the echoed prompt, when asked; they come before all others. All answers to a prompt share them.
    pub prompt: Arc<[ReportedToken]>,
    /// The generated tokens it came from, when asked.
    pub tokens: Vec<ReportedToken>,
    /// The prompt's vector, when asked; not normalised.
    pub embedding: Option<Arc<[f32]>>,
    /// Set on the answer's last piece.
    pub finish: Option<FinishReason>,
}

impl Piece {
    /// What it says, for those who compare answers: its text, and each call as `[name]` with its arguments. That of an answer's pieces,
    /// one after another, is that of the whole answer.
    pub(super) fn said(&self) -> String {
        let mut said = self.text.clone();
        for call in &self.calls {
            if let Some((_, name)) = &call.begins {
                said.extend(["[", name, "]"]);
            }
            said.push_str(&call.arguments);
        }
        said
    }
}

/// Tokens that a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Of all prompts, each counted once.
    pub prompt_tokens: usize,
    /// Of all answers.
    pub completion_tokens: usize,
    /// Prompt tokens whose computation was reused.
    pub cached_tokens: usize,
    /// The part of the answers' tokens that was reasoning, where what answers says so.
    pub reasoning_tokens: usize,
}

/// What answers a request, fixed before its first token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The name as the caller wrote it.
    pub model: String,
    /// `base`, or `name@number+digest`.
    pub version: String,
    /// Which arm of a deployment it is.
    pub by: Option<ServedBy>,
}

/// An arm of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedBy {
    /// The deployment's name.
    pub deployment: Arc<str>,
    /// The arm's name, or `base` as a fallback.
    pub arm: Arc<str>,
}
