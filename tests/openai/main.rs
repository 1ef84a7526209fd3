//! The HTTP contract, in process: the real router, gateway, catalog and engine, mostly over a seeded model without files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

mod adapters;
mod admin;
mod admin_changes;
mod admin_usage;
mod bundled;
mod caching;
mod cards;
mod chat;
mod completions;
mod convert;
mod corpus;
mod corrections;
mod deployments;
mod embeddings;
mod experiments;
mod file_reports;
mod files;
mod fine_tuning;
mod job_faults;
mod judged;
mod limits;
mod masks;
mod mistakes;
mod official_client;
mod operations;
#[path = "../store/postgres.rs"]
mod postgres;
mod responses;
mod rollouts;
mod scripted;
mod strangers;
mod streams;
mod structured;
mod support;
mod together;
mod tokens;
mod tools;
mod uploads;
mod validator;
mod webhooks;
