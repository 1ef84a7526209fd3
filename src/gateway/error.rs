//! What can go wrong between a checked request and its answer.

use std::sync::Arc;

use crate::backends::upstream::Trouble;
use crate::experiments::{Assigned, ExperimentError};
use crate::registry::RegistryError;
use crate::tenants::{CapReached, LedgerError, Refusal};

/// Why a request was not answered, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The model's name means nothing here.
    #[error("the model {0:?} does not exist")]
    UnknownModel(String),
    /// The model makes embeddings and nothing else.
    #[error("the model {0:?} makes embeddings only")]
    EmbeddingsOnly(String),
    /// The model is another server, and is asked for other things.
    #[error("the model {0:?} is an upstream and is asked for chat, completions and embeddings only")]
    RelayedOnly(String),
    /// The model is another server that is not asked for this.
    #[error("the model {model:?} is not asked for {endpoint}")]
    NotAsked {
        /// The model.
        model: String,
        /// `chat`, `completions`, `embeddings`.
        endpoint: &'static str,
    },
    /// The model is another server, which does not answer, or not to its end.
    #[error("the upstream {model:?}: {trouble}")]
    Upstream {
        /// The model, as the caller wrote it.
        model: String,
        /// What happened. For the log.
        trouble: Trouble,
    },
    /// What may be spent on the model is spent.
    #[error("the upstream {model:?}: {reached}")]
    UpstreamSpent {
        /// The model, as the caller wrote it.
        model: String,
        /// Which cap.
        reached: CapReached,
    },
    /// An embedding cannot be as long as was asked.
    #[error("embeddings of the model have at most {most} dimensions, {asked} were asked")]
    Dimensions {
        /// As asked.
        asked: usize,
        /// As long as they are.
        most: usize,
    },
    /// Token ids mean nothing to the model.
    #[error("the model {0:?} has no vocabulary")]
    NoVocabulary(String),
    /// The adapter exists but cannot be used now.
    #[error(transparent)]
    Registry(RegistryError),
    /// An arm was named of something that has none.
    #[error("the model {0:?} is not a deployment")]
    NoDeployment(String),
    /// The deployment refused.
    #[error(transparent)]
    Deployment(#[from] ExperimentError),
    /// Neither the arm nor any fallback can answer.
    #[error("no arm of the deployment {deployment:?} can serve")]
    ArmUnavailable {
        /// The deployment.
        deployment: String,
        /// Where the request was sent.
        assigned: Arc<Assigned>,
    },
    /// The prompt, with the answer's length where one was asked, does not fit.
    #[error("the context holds {limit} tokens, {prompt} of prompt and {answer:?} of answer were asked")]
    ContextTooLong {
        /// Tokens that the model's context holds.
        limit: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for the answer.
        answer: Option<usize>,
    },
    /// More log-probabilities of prompt tokens than are kept for one request.
    #[error("{asked} log-probabilities of prompt tokens were asked, at most {limit} are kept")]
    TooManyLogprobs {
        /// Tokens of all prompts, times answers, times alternatives and the token itself.
        asked: usize,
        /// Most of them.
        limit: usize,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The base has no chat template.
    #[error("the base model has no chat template")]
    NoChatTemplate,
    /// The template refused the conversation; the text is for the client.
    #[error("{0}")]
    Template(String),
    /// The tokenizer failed.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// The engine has as many requests as it takes.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Stopping,
    /// The backend cannot do what is asked.
    #[error("{what} cannot be had of this backend")]
    Unable {
        /// The field that asks for it.
        field: &'static str,
        /// What is asked.
        what: &'static str,
    },
    /// The engine refused a value of the request.
    #[error("{field} {problem}")]
    Invalid {
        /// The field; `prompt` is the rendered one.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The form that answers have to have cannot be used.
    #[error("{field} {problem}")]
    Form {
        /// The field that asks for it.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A limit or a budget of the caller.
    #[error("the request is over a limit: {0:?}")]
    OverLimit(Refusal),
    /// The ledger cannot be written: what cannot be billed is not answered.
    #[error(transparent)]
    Ledger(LedgerError),
    /// The engine failed while answering, or is gone.
    #[error("the engine failed: {0}")]
    Engine(String),
}

impl GatewayError {
    /// Whether something else may be asked instead: it is no fault of the request, and no limit of who asks.
    pub(super) fn passes_on(&self) -> bool {
        match self {
            Self::Upstream { trouble: Trouble::Refused { status, .. }, .. } => !matches!(status, 400 | 409 | 413 | 422),
            Self::Upstream { .. }
            | Self::UpstreamSpent { .. }
            | Self::ArmUnavailable { .. }
            | Self::Overloaded
            | Self::Engine(_)
            | Self::Registry(_)
            | Self::UnknownModel(_) => true,
            _ => false,
        }
    }
}
