//! Changes that cannot be made inside one transaction of the database, because they take long or their body is not JSON: the same
//! conditions (`Idempotency-Key`, `If-Match`) and the same record as for all others.

use axum::http::request::Parts;

use super::change::{Halt, caller, expected, idempotency_key};
use crate::http::Server;
use crate::http::error::ApiError;
use crate::http::middleware::RequestId;
use crate::tenants::admin::adapters::{AdapterChange, record};
use crate::tenants::admin::{AdminError, Begun, Change, Claim, Expected, Intent};
use crate::tenants::sha256_hex;

/// Who wants to change something, and under which conditions.
pub struct Conditions {
    server: Server,
    actor: String,
    request_id: Option<String>,
    key: Option<String>,
    /// Method and address: a key belongs to one.
    place: String,
    expected: Expected,
}

impl Conditions {
    /// Of a request.
    pub fn of(server: &Server, parts: &Parts) -> Result<Self, ApiError> {
        Ok(Self {
            server: server.clone(),
            actor: caller(parts)?.key_id.to_string(),
            request_id: parts.extensions.get::<RequestId>().map(|id| id.text().to_owned()),
            key: idempotency_key(&parts.headers)?,
            place: format!("{} {}", parts.method, parts.uri),
            expected: expected(&parts.headers),
        })
    }

    /// The same without `Idempotency-Key`, for a wire format that does not know it.
    pub fn without_key(self) -> Self {
        Self { key: None, ..self }
    }

    /// Key id of who asks.
    pub fn actor(&self) -> &str {
        &self.actor
    }

    /// Commits the record of a change in a wire format of its own.
    pub async fn note(&self, did: &AdapterChange) -> Result<(), Halt> {
        let mut change = self.begin("").await?;
        record(&mut change, did).await?;
        Ok(change.finish().await?)
    }

    /// Begins a transaction; a repetition ends here with the answer that was given. `content` stands for the body. Called before the
    /// change is made, the result is dropped; after it, the result is the place for its record.
    pub async fn begin(&self, content: &str) -> Result<Box<Change>, Halt> {
        let claim = self.key.as_ref().map(|key| Claim {
            owner: self.actor.clone(),
            key: key.clone(),
            request_hash: sha256_hex(format!("{}\n{content}", self.place).as_bytes()),
        });
        let intent = Intent {
            actor: self.actor.clone(),
            request_id: self.request_id.clone(),
            // Compared by whoever makes the change, at the moment at which it is made.
            expected: Expected::Anything,
            claim,
        };
        match Change::begin(self.server.tenants(), intent).await? {
            Begun::Fresh(change) => Ok(change),
            Begun::Done(kept) => Err(Halt::Replay(kept)),
        }
    }

    /// The version that must be in service when the change is made: what `expected_version` asks for, or what `If-Match` allows of
    /// what is there now.
    pub fn expected_version(&self, asked: Option<String>, current: Option<u32>) -> Result<Option<String>, ApiError> {
        let version = i64::from(current.unwrap_or(0));
        let met = match &self.expected {
            Expected::Anything => return Ok(asked),
            Expected::Present => current.is_some(),
            Expected::Versions(versions) => versions.contains(&version),
        };
        if asked.is_some() {
            let message = "Send either 'expected_version' or 'If-Match'.";
            return Err(ApiError::invalid("expected_version", "invalid_value", message));
        }
        if met { Ok(Some(version.to_string())) } else { Err(AdminError::Outdated { current: version }.into()) }
    }
}
