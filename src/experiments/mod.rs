//! Traffic split between versions, and what is learnt from it: who gets which arm, what each request contributed, what the numbers
//! say. Knows no HTTP, nothing of how answers are generated, and asks no request to wait for it.

pub mod compare;
pub mod error;
pub mod outcome;
pub mod ratio;
pub mod rollout;
pub mod sequential;
pub mod settings;
#[cfg(test)]
mod simulation;
pub mod sums;
pub mod verdict;
#[cfg(test)]
mod verdict_tests;

pub use error::ExperimentError;
pub use outcome::{Assigned, Outcome};
