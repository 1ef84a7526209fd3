//! What can go wrong with deployments, experiments and rollouts. No status codes. Texts are written for the client.

use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::tenants::admin::AdminError;

/// Why a deployment is not changed, not found, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// There is no such deployment.
    #[error("There is no deployment '{name}'.")]
    NotFound {
        /// As given.
        name: String,
    },
    /// The name is taken.
    #[error("There is a deployment '{name}' already; PUT /admin/deployments/{name} changes it.")]
    Exists {
        /// The name.
        name: String,
    },
    /// A value cannot be.
    #[error("{field}: {problem}")]
    Invalid {
        /// Path of the field, as in `experiment.guards[0].metric`.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A model cannot be served under this name.
    #[error("{field}: {source}")]
    Model {
        /// The field, as in `arms[1].model`.
        field: String,
        /// Why.
        source: RegistryError,
    },
    /// There is no arm of this name.
    #[error("The deployment '{deployment}' has no arm '{arm}'; it has {}.", list(.known))]
    UnknownArm {
        /// The deployment.
        deployment: String,
        /// As given.
        arm: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// There is nothing to go back to.
    #[error("The deployment '{name}' has no revision before the one in force; name one in 'to_revision'.")]
    NothingBefore {
        /// The deployment.
        name: String,
    },
    /// There is no such revision, or it ended the deployment.
    #[error("The deployment '{name}' has no revision {revision} to go back to.")]
    NoRevision {
        /// The deployment.
        name: String,
        /// As given.
        revision: i64,
    },
    /// A version of the revision is gone.
    #[error("The deployment '{name}' cannot go back to revision {revision}: {model} is not here any more.")]
    VersionGone {
        /// The deployment.
        name: String,
        /// The revision.
        revision: i64,
        /// The version.
        model: String,
    },
    /// A stored spec cannot be read.
    #[error("revision {revision} of the deployment {id} is not readable: {reason}")]
    Damaged {
        /// The deployment.
        id: String,
        /// The revision.
        revision: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// A stored rollout cannot be read.
    #[error("the rollout {id} is not readable: {reason}")]
    DamagedRollout {
        /// The rollout.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Conditions of the change, or the database.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The work was stopped, by a fault or by the end of the process.
    #[error("the work on the deployment did not finish")]
    Interrupted,
}

impl ExperimentError {
    /// What was asked for cannot be.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}
