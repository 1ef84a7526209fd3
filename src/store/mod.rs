//! Durable state: one data directory, owned by one process, with files that are replaced whole or not at all, the database, and the
//! objects that replicas share.
//! Knows no rules about what the files and tables say.

pub mod adapters;
pub mod audit;
pub mod blobs;
pub mod budgets;
pub mod corrections;
mod database;
pub mod deployments;
mod dir;
pub mod experiments;
pub mod files;
pub mod idempotency;
pub mod jobs;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod list;
pub mod objects;
pub mod policy;
pub mod prices;
pub mod projects;
pub mod responses;
pub mod rollouts;
pub mod schemas;
pub mod shadows;
pub mod usage;
pub mod webhooks;

pub use database::{Database, FILE as DATABASE_FILE, Location, Transaction};
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
    /// The database refused or cannot be reached.
    #[error("cannot {doing}: {source}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        source: sqlx::Error,
    },
    /// The object store refused or cannot be reached.
    #[error("cannot {doing} {key}: {source}")]
    Objects {
        /// What was being done.
        doing: &'static str,
        /// The object's key, or the store's address.
        key: String,
        /// The cause.
        source: Box<object_store::Error>,
    },
    /// The objects are not this installation's.
    #[error("the objects at {url} belong to another installation of switchyard, with another database; another prefix is right")]
    Foreign {
        /// Where they are.
        url: String,
    },
    /// The database's tables are not those of this version.
    #[error("cannot bring the database up to date: {0}")]
    Migration(String),
    /// A list was to begin at a row that is not there.
    #[error("there is no row {0:?} that a list could go on from")]
    UnknownCursor(String),
    /// A row holds what this version does not write.
    #[error("the database's table {table} holds {value:?} where this version expects {expected}")]
    Row {
        /// The table.
        table: &'static str,
        /// What is there.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl StoreError {
    /// Wraps an I/O error; for use in `map_err`.
    pub fn io(doing: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// Wraps an error of the database; for use in `map_err`.
    pub fn sql(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Sql { doing, source }
    }

    /// Whether the database or the object store could not be asked, so that asking again may help: no connection, too many, locked.
    pub fn is_outage(&self) -> bool {
        if let Self::Objects { source, .. } = self {
            return matches!(**source, object_store::Error::Generic { .. });
        }
        let Self::Sql { source, .. } = self else { return false };
        match source {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
            // SQLite: BUSY in the low byte. PostgreSQL: deadlocks (40), resources (53), intervention (57), lock timeouts (55P03).
            sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                let postgres = ["40", "53", "55", "57"].iter().any(|class| code.len() == 5 && code.starts_with(class));
                postgres || code.parse::<u32>().is_ok_and(|code| code.to_string().len() < 5 && code & 0xff == 5)
            }),
            _ => false,
        }
    }

    /// Whether the database refuses what is to be written, and would again: class 22 and 23 of the SQL standard.
    pub fn is_about_data(&self) -> bool {
        let Self::Sql { source: sqlx::Error::Database(error), .. } = self else { return false };
        error.code().is_some_and(|code| code.len() == 5 && (code.starts_with("22") || code.starts_with("23")))
    }

    /// Whether a row could not be written because one like it is there.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Sql { source: sqlx::Error::Database(error), .. } if error.is_unique_violation())
    }
}
