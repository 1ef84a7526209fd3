//! The real binary: start, refusals to start, restart, signals, and the commands beside `serve`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

mod administration;
mod commands;
mod cost;
mod datasets;
mod documents;
mod evaluation;
mod killed;
mod kubernetes;
mod lifecycle;
mod null_backend;
#[path = "../store/objects.rs"]
mod objects;
#[path = "../store/postgres.rs"]
mod postgres;
#[path = "../store/redis.rs"]
mod redis;
mod refusals;
mod repeat;
mod replicas;
mod rollouts;
mod security;
mod shared_database;
mod sharing;
mod support;
mod tools;
#[cfg(feature = "otlp")]
mod traces;
mod training;
