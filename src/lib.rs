#![doc = include_str!("ARCHITECTURE.md")]

pub mod app;
pub mod backends;
pub mod bench;
pub mod cli;
pub mod config;
pub mod engine;
pub mod gateway;
pub mod http;
pub mod ids;
pub mod model;
pub mod outbound;
pub mod registry;
pub mod store;
pub mod telemetry;
pub mod tenants;
pub mod training;
