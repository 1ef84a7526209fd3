//! What an adapter is worth: its answers to held-out rows beside the wanted ones, in numbers. Knows nothing of how it was made, nor
//! of what follows from the numbers (that is `training::gate`).

pub mod bleu;
pub mod metrics;
pub mod rouge;
pub mod score;

pub use metrics::{Kind, Metrics, Overlap, RowMetrics, Tally};
