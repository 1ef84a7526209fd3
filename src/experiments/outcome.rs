//! What one request contributes to an experiment: plain data, noted when the request is settled. Decides nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::registry::Owner;

/// Which side of which experiment a request was given to.
#[derive(Debug, Clone, PartialEq)]
pub struct Assigned {
    /// The deployment's public name.
    pub deployment: Arc<str>,
    /// Whose deployment it is.
    pub owner: Owner,
    /// The comparison: another one when arms or their models change, the same when weights do.
    pub experiment: Arc<str>,
    /// The deployment's revision that assigned it. Answers of one revision are compared with each other, so that neither a change of
    /// weights nor a bad hour for everybody looks like a difference between arms.
    pub revision: i64,
    /// The side.
    pub arm: Arc<str>,
    /// Hash of what was assigned.
    pub unit: u64,
    /// All arms of the revision with their probabilities, which sum to 1: what the split is checked against.
    pub shares: Arc<[(Arc<str>, f64)]>,
    /// How it came to the arm.
    pub by: By,
}

/// How a request came to its arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By its unit's hash under the weights of this revision.
    Weight,
    /// Its conversation was there already: counts as an answer, not in the check of the split.
    Conversation,
    /// Somebody named the arm: not counted at all.
    Name,
}

/// What one request contributed.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Where it was given to.
    pub assigned: Arc<Assigned>,
    /// As in the response's `x-request-id`; feedback names it.
    pub request_id: Arc<str>,
    /// Who asked.
    pub tenant: Arc<str>,
    /// `chat.completions`, `completions`, `convert`.
    pub endpoint: &'static str,
    /// Our fault: it failed, or another arm had to answer. Never the caller's mistakes, nor a caller who left.
    pub failed: bool,
    /// From admission to the first token.
    pub first_token: Option<Duration>,
    /// Mean time between tokens.
    pub gap: Option<Duration>,
    /// Tokens of all answers.
    pub output_tokens: u64,
    /// What it cost, nano-dollars.
    pub cost_nanos: i64,
    /// The first answer's text, at most [`MAX_TEXT`] bytes of it; `None` where there is none to be judged (cut off, cancelled).
    pub text: Option<String>,
    /// Whether the text is all of the answer: what was cut off is not judged as JSON.
    pub ended: Ended,
    /// Whether it did what it was for, where that is known (`convert`).
    pub task_success: Option<bool>,
}

/// Whether an answer ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It did.
    Whole,
    /// It reached its most tokens.
    Cut,
}

/// Most of an answer that is looked at, bytes.
pub const MAX_TEXT: usize = 16 * 1024;
