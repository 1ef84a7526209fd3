//! Traffic split between versions, and what is learnt from it: who gets which arm, what each request contributed, what the numbers
//! say. Knows no HTTP, nothing of how answers are generated, and asks no request to wait for it.

pub mod error;
pub mod outcome;
pub mod rollout;
pub mod settings;
pub mod verdict;

pub use error::ExperimentError;
pub use outcome::{Assigned, Outcome};
