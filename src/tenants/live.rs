//! What a server keeps in memory about tenants, and how that stays true while this process and others change the database.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::identity::{self, AuthError, Identity};
use super::policy::Policy;
use super::{Principal, Secrets, TenantError};
use crate::store::{self, Database};

/// How often the database is asked whether another process has changed something.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is needed to open.
pub struct Opening<'a> {
    /// The open database.
    pub database: Database,
    /// Where the secret key is, unless one is given.
    pub data_dir: &'a Path,
    /// The secret key (64 hexadecimal digits), where the operator sets it.
    pub secret_key: Option<&'a str>,
}

/// Tenants, keys and what they may do. Cheap to clone.
#[derive(Clone)]
pub struct Tenants(Arc<Inner>);

struct Inner {
    database: Database,
    secrets: Arc<Secrets>,
    identity: Identity,
    policy: RwLock<Arc<Policy>>,
    /// The revision that the policy was read at.
    revision: AtomicI64,
}

impl Tenants {
    /// Checks that the secret key is the database's, and reads the policy.
    pub async fn open(opening: Opening<'_>) -> Result<Self, TenantError> {
        let Opening { database, data_dir, secret_key } = opening;
        let secrets = Arc::new(Secrets::open(data_dir, secret_key)?);
        if database.settle_fact("secret_check", secrets.check()).await? != secrets.check() {
            return Err(TenantError::ForeignDatabase);
        }
        let rows = store::policy::read(&database).await?;
        let revision = rows.revision;
        let inner = Inner {
            identity: Identity::new(database.clone(), Arc::clone(&secrets)),
            database,
            secrets,
            policy: RwLock::new(Arc::new(Policy::new(rows)?)),
            revision: AtomicI64::new(revision),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Makes sure that there is an admin key; a new one is returned to be shown once.
    pub async fn ensure_admin(&self, data_dir: &Path, given: Option<&str>) -> Result<Option<String>, TenantError> {
        let made = identity::ensure_admin(&self.0.database, &self.0.secrets, data_dir, given, now()).await?;
        self.refresh().await?;
        Ok(made)
    }

    /// Replaces the admin key by a new one, which is returned to be shown once. Running servers take it over within a moment.
    pub async fn reset_admin(&self) -> Result<String, TenantError> {
        identity::reset_admin(&self.0.database, &self.0.secrets, now()).await
    }

    /// Whose key this is.
    pub async fn authenticate(&self, presented: &str) -> Result<Arc<Principal>, AuthError> {
        self.0.identity.authenticate(presented, now()).await
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.0.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.0.database
    }

    /// Hashes keys and seals secrets.
    pub fn secrets(&self) -> &Secrets {
        &self.0.secrets
    }

    /// Takes changes over that are in the database; called after each change of this process, so that it holds at once.
    pub async fn refresh(&self) -> Result<(), TenantError> {
        // Keys first: what is remembered from now on is read after the change.
        self.0.identity.forget();
        let rows = store::policy::read(&self.0.database).await?;
        let revision = rows.revision;
        let policy = Arc::new(Policy::new(rows)?);
        let mut current = self.0.policy.write().unwrap_or_else(PoisonError::into_inner);
        // Two refreshes may overtake each other.
        if revision >= self.0.revision.load(Ordering::Acquire) {
            self.0.revision.store(revision, Ordering::Release);
            *current = policy;
        }
        Ok(())
    }

    /// Keeps up with other processes until it is dropped.
    pub async fn keep_up(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "what other processes changed is not known");
            }
        }
    }

    async fn look(&self) -> Result<(), TenantError> {
        self.0.identity.note_uses().await?;
        let revision = match self.0.database.revision().await {
            Ok(revision) => revision,
            Err(error) => {
                // A revocation might be missed: nobody is known until the database can be asked again.
                self.0.identity.forget();
                return Err(error.into());
            }
        };
        if revision != self.0.revision.load(Ordering::Acquire) {
            self.refresh().await?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenants").finish_non_exhaustive()
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
