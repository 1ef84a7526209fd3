//! Answers of the model kept for a repeated `Idempotency-Key`: the same request gets the same answer, unbilled. Knows nothing of
//! HTTP.

use super::{Office, TenantError, clock};
use crate::store::idempotency::{self, Claim};

/// How long an answer is kept, seconds.
const KEPT: i64 = 24 * 3600;
/// A request that has had no answer for so long will have none: its process has ended. Seconds.
const ABANDONED: i64 = 3_600;

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// JSON object.
    pub headers: String,
    /// The body.
    pub body: String,
}

/// What is known of a key.
#[derive(Debug)]
pub enum Repeated {
    /// Nothing: answer, and keep what was answered.
    No(Box<Pending>),
    /// It was answered.
    Answered(Kept),
    /// It is being answered.
    Underway,
    /// It came with another request.
    AnotherRequest,
}

/// A claim on a key. Dropped without an answer the key is free again.
#[derive(Debug)]
pub struct Pending {
    office: Office,
    claim: Option<Claim>,
}

impl Office {
    /// Looks up what a tenant has asked with this key before, or claims the key.
    pub async fn repeated(&self, tenant: &str, key: &str, request_hash: String) -> Result<Repeated, TenantError> {
        let claim = Claim { owner: format!("answers:{tenant}"), key: key.to_owned(), request_hash };
        let now = clock::unix();
        let mut transaction = self.database.begin().await?;
        let mut found = idempotency::claim(&mut transaction, &claim, now, now - KEPT).await?;
        if found.as_ref().is_some_and(|row| row.status.is_none() && row.created_at < now - ABANDONED) {
            idempotency::release(&mut transaction, &claim).await?;
            found = idempotency::claim(&mut transaction, &claim, now, now - KEPT).await?;
        }
        transaction.commit().await?;
        Ok(match found {
            None => Repeated::No(Box::new(Pending { office: self.clone(), claim: Some(claim) })),
            Some(row) if row.request_hash != claim.request_hash => Repeated::AnotherRequest,
            Some(row) => match (row.headers, row.body) {
                (Some(headers), Some(body)) => {
                    Repeated::Answered(Kept { headers, body: self.secrets.open_sealed(&sealed_for(&claim), &body)? })
                }
                _ => Repeated::Underway,
            },
        })
    }
}

impl Pending {
    /// Keeps the answer. Where that fails the key is free again, and the answer can be given all the same.
    pub async fn keep(mut self, kept: &Kept) -> Result<(), TenantError> {
        let Some(claim) = &self.claim else { return Ok(()) };
        let body = self.office.secrets.seal(&sealed_for(claim), &kept.body)?;
        let mut transaction = self.office.database.begin().await?;
        idempotency::finish(&mut transaction, claim, 200, &kept.headers, &body).await?;
        transaction.commit().await?;
        self.claim = None;
        Ok(())
    }
}

/// A sealed answer opens for its owner and key only.
fn sealed_for(claim: &Claim) -> String {
    format!("{}/{}", claim.owner, claim.key)
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        let office = self.office.clone();
        // Outside of a runtime the claim is given up by its age.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let released = async {
                let mut transaction = office.database.begin().await?;
                idempotency::release(&mut transaction, &claim).await?;
                transaction.commit().await
            };
            if let Err(error) = released.await {
                tracing::warn!(%error, "an idempotency key stays claimed for an hour");
            }
        });
    }
}
