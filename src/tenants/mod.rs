//! Who is calling: keys and principals. Knows nothing of HTTP headers or of what callers ask for.
//!
//! A key is `sk-sy-` and 43 characters of URL-safe base 64 (256 random bits). It is shown once and kept only as
//! HMAC-SHA-256 under a random pepper that lives in a file of its own, so that neither file alone verifies guesses.

mod keys;

pub use keys::{Keys, Opened, check_given};

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Name of the key that authenticated, for logs and records; never the key itself.
    pub key_id: String,
    /// What it may do.
    pub role: Role,
}

/// What went wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// State on disk.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The operating system gave no random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(String),
    /// A key given by the operator cannot be used.
    #[error("the given admin key {0}")]
    UnusableKey(&'static str),
}
