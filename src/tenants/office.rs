//! The database with the secret key that belongs to it: what changes of tenants and keys need. Commands beside a running server
//! have only this; the server has more in [`super::Tenants`].

use std::path::Path;
use std::sync::Arc;

use super::{Secrets, TenantError, clock, identity};
use crate::store::Database;

/// Where tenants are looked up and changed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Office {
    /// The database.
    pub database: Database,
    /// Hashes keys and seals secrets.
    pub secrets: Arc<Secrets>,
}

impl Office {
    /// Checks that the secret key (64 hexadecimal digits, or the one in the data directory) is the database's.
    pub async fn open(database: Database, data_dir: &Path, secret_key: Option<&str>) -> Result<Self, TenantError> {
        let secrets = Arc::new(Secrets::open(data_dir, secret_key)?);
        if database.settle_fact("secret_check", secrets.check()).await? != secrets.check() {
            return Err(TenantError::ForeignDatabase);
        }
        Ok(Self { database, secrets })
    }

    /// Replaces the admin key by a new one, which is returned to be shown once. Running servers take it over within a moment.
    pub async fn reset_admin(&self) -> Result<String, TenantError> {
        identity::reset_admin(&self.database, &self.secrets, clock::unix()).await
    }
}
