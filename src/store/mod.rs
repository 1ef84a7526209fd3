//! Durable state on disk: one data directory, owned by one process, with files that are replaced whole or not at all.
//! Knows no rules about what the files say.

mod dir;

pub use dir::{Access, DataDir, read_json, read_limited, rename_durably, write_durably};

/// What went wrong with durable state.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the data directory.
    #[error("the data directory {path} is in use by another switchyard process")]
    InUse {
        /// The data directory.
        path: std::path::PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was being done: `read`, `write`, `create` ...
        doing: &'static str,
        /// The file or directory.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A state file does not hold what this version writes.
    #[error("{path} is not readable as state of this version: {reason}")]
    Damaged {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl StoreError {
    /// Wraps an I/O error; for use in `map_err`.
    pub fn io(doing: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}
