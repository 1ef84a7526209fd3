//! Fine-tuning: from a file to an adapter that is served. Knows no HTTP, no keys and no money: a tenant is an id here.

mod alerts;
pub mod card;
pub mod corrupt;
pub mod dataset;
pub mod evaluate;
pub mod gate;
pub mod generate;
pub mod idle;
pub mod jobs;
pub mod plan;
pub mod run_record;
pub mod trainer;
