//! Who is calling: keys, tokens and principals. Knows nothing of HTTP headers or of what callers ask for.
//!
//! A key is `sk-sy-` and 43 characters of URL-safe base 64 (256 random bits). It is shown once and kept only as
//! HMAC-SHA-256 under a random pepper that lives in a file of its own, so that neither file alone verifies guesses.

pub mod jwt;
mod keys;
mod principal;

pub use keys::{Keys, Opened, check_given};
pub use principal::{CacheConsent, DEFAULT_TENANT, ModelAccess, Principal, Priority, Scope, Scopes, UnknownScope};

/// What went wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// State on disk.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The operating system gave no random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(String),
    /// The keys that verify tokens cannot be read.
    #[error("{0}")]
    TokenKeys(String),
    /// A key given by the operator cannot be used.
    #[error("the given admin key {0}")]
    UnusableKey(&'static str),
}
