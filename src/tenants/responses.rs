//! Answers that a tenant wants kept, with what they answered: encrypted for their row, for so long, readable by their tenant only.
//! Knows nothing of what stands in them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Office, TenantError, clock};
use crate::store::responses::{self as rows, ResponseRow};

/// How often what is old is forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Where answers are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Responses {
    office: Office,
    /// Seconds.
    retention: i64,
}

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptResponse {
    /// As it was given.
    pub response: serde_json::Value,
    /// What it answered: all that was said before, in order.
    pub items: Vec<serde_json::Value>,
}

impl Responses {
    /// Keeps answers in the office's database for so long; a time of zero keeps none.
    pub fn new(office: Office, retention: Duration) -> Self {
        Self { office, retention: i64::try_from(retention.as_secs()).unwrap_or(i64::MAX) }
    }

    /// Whether answers are kept at all.
    pub const fn keeps(&self) -> bool {
        self.retention > 0
    }

    /// Keeps an answer.
    pub async fn keep(&self, tenant: &str, id: &str, kept: &KeptResponse) -> Result<(), TenantError> {
        let text = serde_json::to_string(kept).map_err(|error| TenantError::Export(error.to_string()))?;
        let row = ResponseRow {
            id: id.to_owned(),
            project_id: tenant.to_owned(),
            created_at: clock::unix(),
            sealed: self.office.secrets.seal(&sealed_for(tenant, id), &text)?,
        };
        let mut transaction = self.office.database.begin().await?;
        rows::insert(&mut transaction, &row).await?;
        Ok(transaction.commit().await?)
    }

    /// A tenant's answer; another's is not found.
    pub async fn get(&self, tenant: &str, id: &str) -> Result<Option<KeptResponse>, TenantError> {
        let mut connection = self.office.database.connection().await?;
        let Some(row) = rows::get(&mut connection, tenant, id, self.since()).await? else { return Ok(None) };
        let text = self.office.secrets.open_sealed(&sealed_for(tenant, id), &row.sealed)?;
        serde_json::from_str(&text).map(Some).map_err(|_| TenantError::Sealed)
    }

    /// Deletes a tenant's answer; false where there is none.
    pub async fn remove(&self, tenant: &str, id: &str) -> Result<bool, TenantError> {
        let mut transaction = self.office.database.begin().await?;
        let removed = rows::remove(&mut transaction, tenant, id, self.since()).await?;
        transaction.commit().await?;
        Ok(removed)
    }

    /// Forgets what is old as of a time (seconds since 1970); returns how many.
    pub async fn forget(&self, now: i64) -> Result<u64, TenantError> {
        let mut transaction = self.office.database.begin().await?;
        let forgotten = rows::forget(&mut transaction, now.saturating_sub(self.retention)).await?;
        transaction.commit().await?;
        Ok(forgotten)
    }

    /// Forgets what is old, until it is dropped.
    pub async fn keep_up(self) {
        let mut again = tokio::time::interval(FORGET_EVERY);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            again.tick().await;
            if let Err(error) = self.forget(clock::unix()).await {
                tracing::warn!(%error, "old responses are not forgotten");
            }
        }
    }

    /// What was made before has expired, forgotten or not.
    fn since(&self) -> i64 {
        clock::unix().saturating_sub(self.retention)
    }
}

/// A sealed answer opens for its tenant and id only.
fn sealed_for(tenant: &str, id: &str) -> String {
    format!("responses:{tenant}/{id}")
}
