//! Why a run cannot go on, in words that a client may read.

use std::path::PathBuf;

use crate::model::ModelError;
use crate::store::StoreError;

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting is wrong.
    #[error("{field} is {value}: {want} is allowed")]
    Setting {
        /// Its name.
        field: &'static str,
        /// What it is.
        value: String,
        /// What would be right.
        want: &'static str,
    },
    /// There is nothing to learn.
    #[error("{0}")]
    Data(String),
    /// It cannot fit into memory.
    #[error(
        "training needs {need_mb} MB even with micro-batches of one row and checkpointing; {have_mb} MB are free. A shorter context or a smaller rank needs less"
    )]
    Memory {
        /// Megabytes that are needed.
        need_mb: u64,
        /// Megabytes that there are.
        have_mb: u64,
    },
    /// The loss or its gradient is no number.
    #[error("step {step} diverged: {what}. A learning rate of {remedy:e} instead of {rate:e} is the first thing to try")]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// What is no number.
        what: &'static str,
        /// The peak learning rate.
        rate: f64,
        /// A smaller one.
        remedy: f64,
    },
    /// It was told to end.
    #[error("training was stopped")]
    Stopped,
    /// A file cannot be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Disk {
        /// `read`, `write` or `create`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A saved state cannot be used.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A saved state is of other settings, rows or another base.
    #[error("the saved state is of a run with other settings, other rows or another base")]
    OtherRun,
    /// An adapter cannot be written.
    #[error("cannot write the adapter: {0}")]
    Export(String),
    /// The base.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The data directory.
    #[error(transparent)]
    Store(#[from] StoreError),
}
