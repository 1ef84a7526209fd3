//! Gradients of an adapter over the resident base.
//!
//! The base's matrices stay as they are, quantized and packed for serving; panels of them are decoded while they are used, forward
//! and (transposed) backward. No padding: examples lie one after the other, attention knows where each begins. The order of every
//! sum is fixed, so that a run repeats bit for bit. Knows no optimizer, no data, no files and no jobs.

pub mod adapter;
mod attention;
mod dropout;
mod elementwise;
mod kept;
mod kernels;
mod layer;
mod learner;
mod panel;
mod product;
mod rows;

pub use adapter::Layout;
pub use dropout::{Dropout, mix};
pub use elementwise::Outcome;
pub use learner::{Batch, Keep, LOGIT_BYTES, Learner, Passing, Settings, Slopes, TrainingBase};
pub use product::{Between, Compute, Go, kernels};

#[cfg(test)]
mod tests;
