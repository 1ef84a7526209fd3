//! What was done to adapters, for the audit log. The registry's files are the truth; this is written down after it, as an adapter
//! takes longer to load than a transaction should last.

use serde_json::{Value, json};

use super::{AdminError, Change, Done};
use crate::ids::VersionId;

/// A change of an adapter that has happened.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterChange {
    action: &'static str,
    name: String,
    project: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
}

impl AdapterChange {
    /// A version of a tenant's adapter (or of a shared one) is in service.
    pub fn loaded(project: Option<&str>, name: &str, version: (u32, VersionId)) -> Self {
        let (number, digest) = version;
        let after = Some(json!({"version": number, "digest": digest}));
        Self { action: "adapter.loaded", name: name.to_owned(), project: project.map(str::to_owned), before: None, after }
    }

    /// It is out of service.
    pub fn unloaded(project: Option<&str>, name: &str) -> Self {
        let project = project.map(str::to_owned);
        Self { action: "adapter.unloaded", name: name.to_owned(), project, before: None, after: None }
    }

    /// Number of the version that was in service before.
    pub fn instead_of(self, before: Option<u32>) -> Self {
        Self { before: before.map(|version| json!({"version": version})), ..self }
    }
}

/// Writes it down.
pub async fn record(change: &mut Change, did: &AdapterChange) -> Result<(), AdminError> {
    let done = Done { action: did.action, object: &did.name, project: did.project.as_deref() };
    change.audit(done, did.before.as_ref(), did.after.as_ref()).await
}
