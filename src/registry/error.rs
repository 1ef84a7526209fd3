//! What can go wrong with adapters. Texts are written for the client and name no path but the one that the client gave.

use crate::ids::VersionId;
use crate::model::ModelError;
use crate::store::StoreError;

/// What went wrong in the registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name cannot be an adapter's.
    #[error("{name:?} cannot be the name of an adapter: {reason}")]
    InvalidName {
        /// As given.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// `expected_version` is not a version.
    #[error("expected_version {given:?} is not a version: a number, a digest or its first 8 or more digits, or 0 for none")]
    InvalidExpected {
        /// As given.
        given: String,
    },
    /// The name is served and the request did not ask to replace it.
    #[error(
        "The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True."
    )]
    AlreadyLoaded {
        /// The adapter.
        name: String,
        /// Number of its current version.
        number: u32,
    },
    /// No adapter or no version of that name.
    #[error("The lora adapter '{model}' cannot be found.")]
    NotFound {
        /// As given.
        model: String,
    },
    /// Compare-and-set failed.
    #[error("adapter '{name}' is at {actual}, not at the expected {expected}; nothing was changed")]
    Conflict {
        /// The adapter.
        name: String,
        /// As given.
        expected: String,
        /// `name@number (digest)`, or that it is not loaded.
        actual: String,
    },
    /// The path leaves the adapter roots.
    #[error("lora_path {path:?} is refused: {reason}")]
    PathRefused {
        /// As given.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// There is no such directory.
    #[error("lora_path {path:?} is not a directory in any adapter root (relative paths are taken from each root)")]
    PathNotFound {
        /// As given.
        path: String,
    },
    /// Its evaluation does not allow what is asked.
    #[error("{model} may not be put into service under a name of others: {reason}")]
    NotReleased {
        /// The version.
        model: String,
        /// Why, and what would be right.
        reason: &'static str,
    },
    /// As many uploads as are allowed are under way.
    #[error("too many uploads are under way")]
    TooManyUploads,
    /// The files are not an adapter for this base.
    #[error("the adapter cannot be used: {0}")]
    Unusable(ModelError),
    /// A known adapter does not fit the base that runs now.
    #[error("adapter '{name}' is not served: {reason}")]
    Unavailable {
        /// The adapter.
        name: String,
        /// Why.
        reason: String,
    },
    /// An adapter root cannot be used.
    #[error("adapter root {path} cannot be used: {source}")]
    Root {
        /// As configured.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The model could not take the adapter.
    #[error("the model could not take the adapter: {0}")]
    Prepare(ModelError),
    /// The stored files of a version cannot be read.
    #[error("the stored files of version {id} cannot be used: {source}")]
    Lost {
        /// The version.
        id: VersionId,
        /// The cause.
        source: ModelError,
    },
    /// State on disk.
    #[error(transparent)]
    Storage(#[from] StoreError),
    /// Asked of one data directory, where replicas keep adapters together.
    #[error("the adapters of this data directory are shared with other replicas (objects): ask one of them over its API")]
    KeptTogether,
    /// The work was stopped, by a fault or by the end of the process.
    #[error("the work on the adapter did not finish")]
    Interrupted,
}

impl RegistryError {
    /// Whether reading the same files again would end the same way: they are damaged, gone, or not for this base.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Unusable(_) | Self::Storage(StoreError::Damaged { .. }) => true,
            Self::Lost { source: ModelError::Io { source, .. }, .. } => source.kind() == std::io::ErrorKind::NotFound,
            Self::Lost { source, .. } => matches!(source, ModelError::Invalid(_)),
            _ => false,
        }
    }

    /// Why an adapter on record is not served, without what only the operator may read: where files are.
    pub(super) fn public_reason(&self) -> String {
        match self {
            Self::Lost { .. } | Self::Storage(_) | Self::Root { .. } | Self::Prepare(_) | Self::Interrupted => {
                "its stored files cannot be used; the server's log says why".to_owned()
            }
            other => other.to_string(),
        }
    }
}
