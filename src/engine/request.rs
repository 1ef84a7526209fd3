//! What goes into the engine and what comes out. Plain data.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::grammar::Grammar;
use crate::model::lora::PreparedAdapter;

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus: smallest set of tokens with at least this probability; 1 is off.
    pub top_p: f32,
    /// Most likely tokens kept; 0 is off.
    pub top_k: usize,
    /// Tokens below this share of the best one's probability are dropped; 0 is off.
    pub min_p: f32,
    /// Subtracted from logits of tokens that were generated already, once (OpenAI).
    pub presence_penalty: f32,
    /// Subtracted from logits of tokens that were generated already, times their count (OpenAI).
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer (CTRL); 1 is off.
    pub repetition_penalty: f32,
    /// Added to logits of these tokens, -100 to 100. Looked through for each token: whoever fills it keeps it short.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// Same seed, same request, same answer.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Arc::default(),
            seed: 0,
        }
    }
}

/// Whose computed prefixes a sequence may find, and who may find its own: those of the same realm. Otherwise the time of an
/// answer, and the count of reused tokens, would tell what others have asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Realm(u128);

impl Realm {
    /// Of sequences that share nothing, not even with each other.
    pub const NOBODY: Self = Self(u128::MAX);

    /// The realm of this name: half of its SHA-256, so that two names do not meet.
    pub fn named(name: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(name).into();
        let (half, _) = digest.split_at(16);
        Self(half.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }
}

/// How the hidden states of a prompt become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The last token's.
    Last,
}

impl Pooling {
    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Last => "last",
        }
    }
}

/// One sequence to generate.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who shares computed prefixes.
    pub realm: Realm,
    /// Prompt token ids, at least one; leaves room for one more token in the context, unless `max_tokens` is 0.
    pub prompt: Vec<u32>,
    /// Lease on the adapter version that answers; `None` is the base. Kept until the sequence ends.
    pub adapter: Option<Arc<PreparedAdapter>>,
    /// Sampling.
    pub sampling: Sampling,
    /// Most tokens to generate; more than the context has room for means as many as fit. 0 computes only the prompt (its
    /// log-probabilities, when asked).
    pub max_tokens: usize,
    /// Tokens that end the answer (the model's end-of-text tokens unless ignored, and the request's own). Looked through for
    /// each token: whoever fills it keeps it short.
    pub stop_tokens: Arc<[u32]>,
    /// Most likely tokens reported beside each generated one; `None` reports no log-probabilities.
    pub logprobs: Option<usize>,
    /// The same for the prompt's tokens.
    pub prompt_logprobs: Option<usize>,
    /// What the answer has to be; it ends where the grammar does. `None` allows everything.
    pub grammar: Option<Arc<Grammar>>,
    /// The prompt's hidden states are wanted, as one vector; `max_tokens` is 0 then.
    pub pooling: Option<Pooling>,
}

/// Log-probability of a token under the model (temperature 1, before penalties and truncation), and the most likely alternatives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenLogprob {
    /// Natural logarithm of the token's probability.
    pub logprob: f32,
    /// The most likely tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// One of the stop tokens was generated (it is sent as the last token event before this), or nothing was to be generated but
    /// an embedding.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
}

/// What the engine sends for a request, in order: `Prompt?`, `Embedding?`, `Token*`, then `Done`, `NothingAllowed`, `Failed` or `CutOff`.
/// A closed channel without one of them is a bug.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Log-probabilities of prompt tokens; the first has none.
    Prompt(Vec<Option<TokenLogprob>>),
    /// The prompt's hidden states after the last norm, pooled; not normalised.
    Embedding(Vec<f32>),
    /// One generated token.
    Token {
        /// Its id.
        id: u32,
        /// Its log-probability, when asked; none of a token that had to come.
        logprob: Option<TokenLogprob>,
        /// Natural logarithm of its probability among the tokens that the request's grammar allowed (temperature 1, before penalties);
        /// `None` without a grammar, and where there was no choice.
        choice: Option<f32>,
    },
    /// The end.
    Done {
        /// Why.
        finish: Finish,
        /// Prompt tokens whose keys and values were found in the prefix cache.
        cached_tokens: usize,
    },
    /// The request's grammar allows no token here, or has become too large to follow: no fault of the engine's.
    NothingAllowed,
    /// The engine could not go on; the text is for operators.
    Failed(String),
    /// The engine was told to end before the answer was complete.
    CutOff,
}
