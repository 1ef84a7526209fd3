//! Who is calling, what they may use, and what it costs: keys, tokens, principals, limits, prices, the ledger. Knows nothing of
//! HTTP headers or of what callers ask for.
//!
//! A key is `sk-sy-` and 43 characters of URL-safe base 64 (256 random bits). It is shown once and kept only as
//! HMAC-SHA-256 under a secret key that lives outside the database, so that neither alone verifies guesses.

pub mod admin;
mod admission;
mod bound;
mod budget;
mod clock;
mod identity;
mod journal;
pub mod jwt;
mod ledger;
mod live;
mod meter;
mod office;
mod policy;
mod price;
mod principal;
mod purse;
mod repeat;
pub mod responses;
mod secrets;
pub mod shared;
mod ticket;
mod wallet;
pub mod webhooks;
mod window;

pub use crate::store::ledger::UPSTREAM;
pub use admission::{CacheUse, Done, NotAdmitted, Outcome, Requested, Settled};
pub use budget::{Budget, Enforcement, Period};
pub use clock::unix as unix_now;
pub use clock::{now, unix, unix_micros};
pub use identity::{
    ADMIN_KEY_ID, AuthError, Identity, NewKey, check_given, ensure_admin, new_key, principal as principal_of, redacted,
    reset_admin,
};
pub use journal::{Sync, Written};
pub use ledger::{Ledger, LedgerError};
pub use live::{BudgetEvents, Opening, Tenants};
pub use meter::{Gauge, Measure, OverLimit};
pub use office::Office;
pub use policy::{Limit, Policy, Subject};
pub use price::{Price, PriceBook, Tokens, at as price_at};
pub use principal::{CacheConsent, DEFAULT_TENANT, ModelAccess, Principal, Priority, Reach, Scope, Scopes, UnknownScope};
pub use purse::{Bill, Cap, CapReached, Promise, Purse};
pub use repeat::{Kept, Pending, Repeated};
pub use secrets::{Secrets, new_id, sha256_hex};
pub use ticket::{Ask, Now, Rate, Refusal, Ticket};
pub use wallet::{BudgetReached, OverBudget, Spent};

/// What went wrong with tenants and keys.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// State on disk or in the database.
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
    /// The secret key given by the operator cannot be used.
    #[error("the given secret key {0}")]
    SecretKey(&'static str),
    /// The database was written under another secret key.
    #[error(
        "the database belongs to another secret key: SWITCHYARD_SECRET_KEY must be the same in all processes that share it, or \
         the file `pepper` of the data directory where it was made must be there"
    )]
    ForeignDatabase,
    /// Rows of the ledger cannot be written as text.
    #[error("rows of the ledger cannot be written as text: {0}")]
    Export(String),
    /// Limits cannot be shared.
    #[error("limits cannot be shared over Redis: {0}")]
    Sharing(#[from] redis::RedisError),
    /// An encrypted secret does not open.
    #[error("a secret in the database cannot be decrypted: it was damaged or written under another secret key")]
    Sealed,
}
