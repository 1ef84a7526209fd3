//! Deployments: public names that share traffic between versions, and what is learnt from it. Knows no HTTP, nothing of how answers
//! are generated, and asks no request to wait for it.
//!
//! A **deployment** has **arms** (a name, a model, a weight). Its **spec** is immutable; a change makes the next **revision** by
//! compare-and-set, and the history keeps all. Requests are assigned by a pure hash of their **unit**, so that the same unit gets the
//! same arm in every process. What each request contributed is an **outcome**; outcomes of the same set of arms and models are one
//! **experiment**.

pub mod assign;
mod change;
pub mod compare;
mod conversations;
pub mod deployment;
pub mod error;
mod live;
pub mod metrics_of_text;
pub mod outcome;
pub mod ratio;
mod recorder;
mod restore;
pub mod results;
pub mod rollout;
pub mod sequential;
pub mod settings;
pub mod shadow;
#[cfg(test)]
mod simulation;
pub mod sums;
pub mod verdict;
#[cfg(test)]
mod verdict_tests;

pub use change::{Action, Applied, Changed, Wish};
pub use deployment::{Arm, Draft, Made, Named, Revision, Shadow, Spec, Target, Weight};
pub use error::ExperimentError;
pub use live::{Ask, Chosen, Deployment, Deployments, Setup};
pub use outcome::{Assigned, By, Ended, Outcome};
pub use recorder::{Opinion, Recorder, Saying};
pub use results::Results;
