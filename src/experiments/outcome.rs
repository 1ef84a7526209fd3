//! What one request contributed to the comparison of a deployment's arms: plain data.

use std::sync::Arc;
use std::time::Duration;

use crate::registry::Owner;

/// Where a request was sent, fixed before its first token.
#[derive(Debug, Clone, PartialEq)]
pub struct Assigned {
    /// The deployment's name.
    pub deployment: Arc<str>,
    /// Whose it is.
    pub owner: Owner,
    /// `exp_...`: one set of arms and models.
    pub experiment: Arc<str>,
    /// The revision in force.
    pub revision: i64,
    /// The arm's name.
    pub arm: Arc<str>,
    /// Hash of the unit.
    pub unit: u64,
    /// Probability of this arm when the unit (or its conversation) was assigned, for the check of the sample ratio.
    pub share: f64,
    /// The request named its arm: it is not counted.
    pub pinned: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Where it was sent.
    pub assigned: Arc<Assigned>,
    /// As in the response's `x-request-id`.
    pub request_id: Arc<str>,
    /// Who asked.
    pub tenant: Arc<str>,
    /// `chat.completions`, `completions`, `convert`.
    pub endpoint: &'static str,
    /// Our fault: it failed, or something else had to answer. Never a client's that left, nor a mistake in the request.
    pub failed: bool,
    /// From admission to the first token.
    pub first_token: Option<Duration>,
    /// Mean time between tokens.
    pub gap: Option<Duration>,
    /// Tokens of all its answers.
    pub output_tokens: u64,
    /// Nano-dollars.
    pub cost_nanos: i64,
    /// The first answer, at most 16 KiB of it; `None` where it did not come to its end.
    pub text: Option<String>,
    /// Whether a task with a known result was solved.
    pub task_success: Option<bool>,
}
