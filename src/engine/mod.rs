//! One thread, many sequences: scheduling, KV blocks, sampling. Knows token ids and adapter versions, never tenants, HTTP or disk.
//!
//! # The loop
//!
//! [`start`] gives the model to a thread. [`EngineHandle::submit`] checks a request, takes a place in the bounded queue and sends
//! it to the thread; it never blocks. The thread (`thread`) repeats: take what arrived (parking on the channel when there is
//! nothing to do), drop sequences whose [`Generation`] is gone, let the [`scheduler`] plan a step, run the model once over all its
//! chunks, choose tokens ([`sampling`]) and send them over unbounded channels, end what has ended. A step is ragged: one token of
//! every running answer first, then chunks of prompts, oldest first, until the token budget is used. A long prompt therefore takes
//! several steps and never stalls a running answer for longer than one step.
//!
//! # What is always true
//!
//! - An answer depends on its request alone: not on its neighbours, chunking, preemption, or prefix hits. The draw of token `i` is
//!   a function of (seed, `i`); the rest is the model's promise that a row is bit-identical in every company.
//! - KV blocks ([`kv`]) are shared only under the same adapter version and the same tokens from the first one on; the index compares
//!   tokens, not hashes of them. Only full blocks are shared, and only after the step that filled them succeeded.
//! - When blocks run out the youngest running sequence loses its own, goes back to the head of the queue and computes its tokens
//!   again; it keeps its sampler, and its stream goes on. The oldest always proceeds, so every sequence ends.
//! - Blocks, lease and queue place are given back in `Drop`, before the last event is sent: who has received it finds
//!   nothing held. A client that left is noticed at the next step boundary.
//! - The last event is `Done`, `Failed` or (at the end of a shutdown) `CutOff`, whatever happens. An error of the model
//!   fails the sequences of its step and the engine goes on; a panic fails everything and shows in [`EngineHandle::health`].
//! - No lock is held while the model runs; the thread does no input or output.
//!
//! # What is absent
//!
//! No reading of adapters (they come prepared, by `Arc`, and stay as long as a sequence holds them), no stop strings (the caller
//! decodes text and drops the [`Generation`]), no `n` (submit several requests at places reserved
//! together: the prefix is shared once the first has computed
//! it), no priorities, no swapping of blocks to other memory, no speculation. Blocks that slid out of a sliding window
//! are kept until their sequence ends.

mod check;
mod effort;
pub mod grammar;
mod handle;
mod job;
pub mod kv;
mod leak;
pub mod outside;
mod pool;
pub mod pressure;
pub mod request;
pub mod sampling;
pub mod scheduler;
pub mod seeded;
mod speculation;
mod stats;
#[cfg(test)]
mod tests;
mod thread;

pub use check::request as check_request;
pub use effort::{Effort, EffortReader};
pub use handle::{EngineConfig, EngineError, EngineFacts, EngineHandle, Generation, Places, SubmitError, start};
pub use kv::PrefixCache;
pub use leak::LeakCheck;
pub use stats::{Health, Stats};
