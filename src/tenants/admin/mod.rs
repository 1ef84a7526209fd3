//! Changes to tenants, keys and rules: one transaction each, with its row in the audit log and, where the caller sent a key for
//! that, the answer that a repetition gets. What may be changed into what is decided here, for the API and the command line alike.

pub mod adapters;
pub mod audit;
pub mod budgets;
pub mod cache;
mod checks;
pub mod keys;
pub mod limits;
pub mod money;
pub mod prices;
pub mod projects;
pub mod schemas;
pub mod service_accounts;
pub mod usage;
pub mod webhooks;

use serde::Serialize;
use serde_json::json;

pub use crate::store::idempotency::Claim;
pub use crate::store::keys::{KeyRow, KeysOf};
pub use crate::store::list::{Order, Page, Paging};
pub use crate::store::policy::{BudgetRow, LimitRow, PermissionRow, PriceRow};
pub use crate::store::projects::{ProjectRow, Projects, ServiceAccountRow};
pub use crate::store::webhooks::{DeliveryRow, WebhookRow};

use super::{Office, TenantError, Tenants, clock, new_id};
use crate::store::audit::AuditRow;
use crate::store::{StoreError, Transaction, idempotency};

/// How long answers are kept for repetitions, seconds.
const KEPT: i64 = 24 * 3_600;

/// Why something is not changed or not found.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no such thing.
    #[error("No {what} found with id '{id}'.")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// Its id.
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
    /// Somebody else changed it at the same time.
    #[error("It was changed by somebody else at the same time; nothing was done. Please try again.")]
    Changed,
    /// It has another version than the caller thinks.
    #[error("It is at version {current}, which is not one of those in 'If-Match'; nothing was done.")]
    Outdated {
        /// Its version; 0 where there is none.
        current: i64,
    },
    /// An Idempotency-Key came with another request before.
    #[error("This 'Idempotency-Key' was used for another request before.")]
    KeyReused,
    /// The database, randomness or encryption failed.
    #[error(transparent)]
    Tenant(#[from] TenantError),
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::UnknownCursor(id) => invalid("after", format!("there is no object {id:?} that a list could go on from")),
            other => Self::Tenant(other.into()),
        }
    }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> AdminError {
    AdminError::Invalid { field, problem: problem.into() }
}

fn refused(code: &'static str, message: impl Into<String>) -> AdminError {
    AdminError::Refused { code, message: message.into() }
}

fn not_found(what: &'static str, id: &str) -> AdminError {
    AdminError::NotFound { what, id: id.to_owned() }
}

/// What the caller expects to be there (`If-Match`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expected {
    /// Nothing in particular.
    #[default]
    Anything,
    /// Anything but nothing.
    Present,
    /// One of these versions.
    Versions(Vec<i64>),
}

impl Expected {
    /// Refuses what has another version; 0 is something that is not there.
    pub fn check(&self, version: i64) -> Result<(), AdminError> {
        let met = match self {
            Self::Anything => true,
            Self::Present => version > 0,
            Self::Versions(versions) => versions.contains(&version),
        };
        if met { Ok(()) } else { Err(AdminError::Outdated { current: version }) }
    }
}

/// Who wants to change something, and under which conditions.
#[derive(Debug, Clone, Default)]
pub struct Intent {
    /// Key id, or `cli`.
    pub actor: String,
    /// Of the request.
    pub request_id: Option<String>,
    /// `If-Match`.
    pub expected: Expected,
    /// `Idempotency-Key`.
    pub claim: Option<Claim>,
}

impl Intent {
    /// Of somebody at the command line.
    pub fn of_operator() -> Self {
        Self { actor: "cli".to_owned(), ..Self::default() }
    }
}

/// An answer as it was given, kept for repetitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// JSON object of strings.
    pub headers: String,
    /// The body.
    pub body: String,
}

/// What comes of the beginning of a change.
pub enum Begun {
    /// The change can be made.
    Fresh(Box<Change>),
    /// It was made before.
    Done(KeptAnswer),
}

/// A change that is being made. Dropped without a commit, nothing has happened.
pub struct Change {
    transaction: Transaction,
    office: Office,
    /// What keeps in memory what is changed; a command beside the server has nothing of that.
    live: Option<Tenants>,
    intent: Intent,
    now: i64,
}

impl Change {
    /// Begins a change. A repetition of one that is being made waits for its end.
    pub async fn begin(tenants: &Tenants, intent: Intent) -> Result<Begun, AdminError> {
        Self::begin_in(tenants.office(), Some(tenants.clone()), intent).await
    }

    async fn begin_in(office: &Office, live: Option<Tenants>, intent: Intent) -> Result<Begun, AdminError> {
        let now = clock::unix();
        let mut transaction = office.database.begin().await?;
        if let Some(claim) = &intent.claim
            && let Some(kept) = idempotency::claim(&mut transaction, claim, now, now - KEPT).await?
        {
            if kept.request_hash != claim.request_hash {
                return Err(AdminError::KeyReused);
            }
            let (Some(headers), Some(body)) = (kept.headers, kept.body) else { return Err(AdminError::Changed) };
            // It may show a new key, and is therefore kept encrypted.
            let body = office.secrets.open_sealed(&sealed_for(claim), &body)?;
            return Ok(Begun::Done(KeptAnswer { headers, body }));
        }
        Ok(Begun::Fresh(Box::new(Self { transaction, office: office.clone(), live, intent, now })))
    }

    /// Begins a change at the command line; running servers take it over within a moment.
    pub async fn by_operator(office: &Office) -> Result<Box<Self>, AdminError> {
        match Self::begin_in(office, None, Intent::of_operator()).await? {
            Begun::Fresh(change) => Ok(change),
            Begun::Done(_) => Err(AdminError::KeyReused),
        }
    }

    /// Makes the change durable and puts it into force, here at once and in other processes within a moment.
    pub async fn commit(mut self, answer: &KeptAnswer) -> Result<(), AdminError> {
        self.keep(answer).await?;
        self.transaction.commit_policy().await?;
        if let Some(tenants) = &self.live
            && let Err(error) = tenants.refresh().await
        {
            // It is done; this process takes it over at its next look.
            tracing::warn!(%error, "a change is not in force here yet");
        }
        Ok(())
    }

    /// Makes a change durable of what this room keeps nothing of in memory: keys and rules stay as they are.
    pub async fn commit_elsewhere(mut self, answer: &KeptAnswer) -> Result<(), AdminError> {
        self.keep(answer).await?;
        Ok(self.transaction.commit().await?)
    }

    /// The answer for a repetition.
    async fn keep(&mut self, answer: &KeptAnswer) -> Result<(), AdminError> {
        let Some(claim) = &self.intent.claim else { return Ok(()) };
        let body = self.office.secrets.seal(&sealed_for(claim), &answer.body)?;
        Ok(idempotency::finish(&mut self.transaction, claim, 200, &answer.headers, &body).await?)
    }

    /// For what other rooms have in the database.
    pub fn transaction(&mut self) -> &mut Transaction {
        &mut self.transaction
    }

    /// Who makes it.
    pub fn actor(&self) -> &str {
        &self.intent.actor
    }

    /// Makes the change of an operator durable.
    pub async fn finish(self) -> Result<(), AdminError> {
        self.commit(&KeptAnswer { headers: "{}".to_owned(), body: String::new() }).await
    }

    /// Seconds since 1970, the same for everything in this change.
    pub const fn now(&self) -> i64 {
        self.now
    }

    /// Refuses what has another version than the caller expects; 0 is something that is not there.
    pub fn check(&self, version: i64) -> Result<(), AdminError> {
        self.intent.expected.check(version)
    }

    /// Writes down what was done.
    pub async fn audit<T: Serialize>(&mut self, done: Done<'_>, before: Option<&T>, after: Option<&T>) -> Result<(), AdminError> {
        let json = |value: Option<&T>| value.map(|value| json!(value).to_string());
        let row = AuditRow {
            id: new_id("audit_log")?,
            at_micros: clock::unix_micros(),
            actor: self.intent.actor.clone(),
            action: done.action.to_owned(),
            object_id: done.object.to_owned(),
            project_id: done.project.map(str::to_owned),
            before: json(before),
            after: json(after),
            request_id: self.intent.request_id.clone(),
        };
        Ok(crate::store::audit::insert(&mut self.transaction, &row).await?)
    }
}

/// What was done to what.
#[derive(Debug, Clone, Copy)]
pub struct Done<'a> {
    /// `price.created` and the like.
    pub action: &'static str,
    /// Its id, or its name.
    pub object: &'a str,
    /// The tenant that it belongs to.
    pub project: Option<&'a str>,
}

/// A sealed answer opens for its owner and key only.
fn sealed_for(claim: &Claim) -> String {
    format!("idempotency {} {}", claim.owner, claim.key)
}

/// False is somebody else's change in between.
fn unchanged(updated: bool) -> Result<(), AdminError> {
    if updated { Ok(()) } else { Err(AdminError::Changed) }
}

/// Whether a change with this key was made before, or is being made. Waits for nobody.
pub async fn is_repeated(office: &Office, claim: &Claim) -> Result<bool, AdminError> {
    let mut connection = office.database.connection().await?;
    let kept = idempotency::find(&mut connection, &claim.owner, &claim.key).await?;
    // What is older is forgotten when it is claimed again.
    Ok(kept.is_some_and(|kept| kept.created_at >= clock::unix() - KEPT))
}

/// Forgets answers that are too old to be repeated.
pub async fn forget_answers(office: &Office) -> Result<(), AdminError> {
    let mut transaction = office.database.begin().await?;
    idempotency::forget(&mut transaction, clock::unix() - KEPT).await?;
    Ok(transaction.commit().await?)
}
