//! What an adapter is worth: its answers to held-out rows beside the wanted ones, in numbers. Knows nothing of how it was made, nor
//! of what follows from the numbers (that is `training::gate`).

pub mod answers;
pub mod bleu;
pub mod compare;
pub mod judge;
pub mod metrics;
pub mod report;
pub mod rouge;
pub mod score;

pub use answers::{Answer, Bench, Role, Subject};
pub use compare::{Comparison, compare};
pub use metrics::{Kind, Metrics, Overlap, RowMetrics, Tally};
pub use report::{Evaluation, Heard, ModelReport};

use super::dataset::render::Question;
use crate::backends::SubmitError;

/// Why an evaluation could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A question was not accepted.
    #[error("a question was not accepted: {0}")]
    Submit(#[from] SubmitError),
    /// The engine could not go on; the text is for operators.
    #[error("the engine failed while it answered: {0}")]
    Engine(String),
    /// A target cannot be tokenized.
    #[error("a target cannot be tokenized: {0}")]
    Tokenizer(String),
    /// The judge could not be asked.
    #[error("the judge: {0}")]
    Judge(#[from] crate::backends::upstream::UpstreamError),
}
