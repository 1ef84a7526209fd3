//! What can go wrong with files and jobs. Texts are for the client and name no path.

use crate::store::StoreError;

/// Why something about files or jobs is not done.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// There is no such thing, or it is another tenant's: nobody learns which.
    #[error("No such {what}: {id}")]
    NotFound {
        /// What was looked for, in OpenAI's words.
        what: &'static str,
        /// As given, shortened.
        id: String,
    },
    /// A value cannot be.
    #[error("Invalid '{field}': {problem}.")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The state of things forbids it.
    #[error("{message}")]
    Refused {
        /// For programs.
        code: &'static str,
        /// For people.
        message: String,
    },
    /// More bytes than one file may have.
    #[error("larger than the {limit} bytes that this server accepts")]
    TooLarge {
        /// Most bytes.
        limit: u64,
    },
    /// The tenant has used its room up.
    #[error("The files of this project would take more than the {limit} bytes that it may keep; delete some first.")]
    OutOfRoom {
        /// Most bytes.
        limit: u64,
    },
    /// The disk is full.
    #[error("The server has no room for more files.")]
    DiskFull,
    /// As many files as are allowed are on the way.
    #[error("too many uploads are under way")]
    TooManyUploads,
    /// Another process that shares the database has the content.
    #[error("The content of {id} lies with another server of this service.")]
    Elsewhere {
        /// Of the file or upload.
        id: String,
    },
    /// Durable state failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for JobsError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::UnknownCursor(id) => {
                let id: String = id.chars().take(64).collect();
                Self::invalid("after", format!("there is no object {id:?} that a list could go on from"))
            }
            StoreError::Io { source, .. } if is_full(&source) => Self::DiskFull,
            other => Self::Store(other),
        }
    }
}

/// Whether the disk, or the part of it that this process may use, is full.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl JobsError {
    pub(super) fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid { field, problem: problem.into() }
    }

    pub(super) fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    pub(super) fn not_found(what: &'static str, id: &str) -> Self {
        Self::NotFound { what, id: id.chars().take(64).collect() }
    }
}
