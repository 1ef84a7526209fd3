//! What can go wrong with deployments, experiments and rollouts. No status codes.

use crate::store::StoreError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was asked for cannot be.
    #[error("{field}: {problem}")]
    Invalid {
        /// Path of the field, as in `experiment.guards[0].metric`.
        field: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
}

impl ExperimentError {
    /// What was asked for cannot be.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}
