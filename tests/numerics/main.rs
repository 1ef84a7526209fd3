//! Numbers against transformers and peft in float32: every architecture, with and without adapters, within 1e-3.
//! Prompts are longer than the sliding window and the original context. The golden files are made by `make_goldens.py`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

mod direct;
mod golden;
mod http;
mod training;
