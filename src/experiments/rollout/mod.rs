//! A candidate's way from nobody to everybody: steps with bake times, judged by the experiment, taken back by itself.

pub mod hours;
pub mod plan;
pub mod state;
