//! Versions that somebody else counts on: named exactly (whose, which, what content), so that neither a newer version, nor an adapter
//! of the same name elsewhere, nor other numbers in another process change what is meant. They are kept on disk, and in memory while
//! somebody asks for that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, Found, Inner, Selected, State};
use super::residents::Excess;
use super::trained::{Release, may_release};
use super::{Lease, LoadedBy, Owner, RegistryError};
use crate::ids::VersionId;
use crate::model::lora::PreparedAdapter;

/// One version, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pinned {
    /// Whose adapter it is; `None` is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `name@number`, as it was where it was pinned.
    pub model: String,
    /// Its content.
    pub id: VersionId,
}

impl Pinned {
    /// Whose adapter it is.
    pub fn owner(&self) -> Owner {
        self.tenant.as_deref().into()
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        self.model.split_once('@').map_or(&self.model, |(name, _)| name)
    }
}

/// A version that stays in memory without being in use.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "holding it is its use")]
pub struct Resident {
    adapter: Arc<PreparedAdapter>,
    pin: Arc<()>,
}

impl Catalog {
    /// The version that a name means now to this tenant (`None`: to everybody), where the rule lets others be sent to it on the
    /// ground that somebody has for it.
    pub fn pin(
        &self,
        tenant: Option<&str>,
        model: &str,
        ground: impl FnOnce(VersionId) -> Release,
    ) -> Result<(Pinned, Release), RegistryError> {
        let state = self.inner.state();
        let Selected { owner, name, number, id } = Inner::select(&state, tenant.unwrap_or_default(), model)?;
        let record = state.records.adapters.get(&owner, &name).and_then(|adapter| adapter.numbered(number));
        let release = ground(id);
        // What was put into service carries its reason already.
        if let Some(LoadedBy::Trained { gate, release: None, .. }) = record.map(|record| &record.loaded_by) {
            may_release(*gate, &release).map_err(|reason| RegistryError::NotReleased { model: model.to_owned(), reason })?;
        }
        Ok((Pinned { tenant: owner.tenant().map(str::to_owned), model: format!("{name}@{number}"), id }, release))
    }

    /// A lease on a pinned version; read from disk where nobody holds it.
    pub async fn resolve_pinned(&self, pinned: &Pinned) -> Result<Lease, RegistryError> {
        let found = self.find_pinned(pinned).await?;
        self.lease(found).await
    }

    async fn find_pinned(&self, pinned: &Pinned) -> Result<Found, RegistryError> {
        match self.inner.look_up_pinned(pinned) {
            Err(RegistryError::NotFound { .. }) if self.has_heard_more().await => self.inner.look_up_pinned(pinned),
            other => other,
        }
    }

    /// Brings a pinned version into memory, to stay there. Does not wait for room: nor will others wait for it to leave.
    pub async fn hold(&self, pinned: &Pinned) -> Result<Resident, RegistryError> {
        let found = self.find_pinned(pinned).await?;
        let lease = self.lease_within(found, Duration::ZERO).await?;
        let pin = self.inner.state().residents.pin(lease.id, &pinned.model);
        Ok(Resident { adapter: Arc::clone(&lease.adapter), pin })
    }

    /// The versions that are held, where they take more than the memory for adapters.
    pub fn excess(&self) -> Option<Excess> {
        self.inner.state().residents.excess()
    }

    /// Whether a pinned version is still here, in memory or on disk.
    pub fn has(&self, pinned: &Pinned) -> bool {
        select_pinned(&self.inner.state(), pinned).is_ok()
    }

    /// Versions that stay on disk from now on, however many newer ones come. Replaces what was said before.
    pub fn guard(&self, versions: BTreeSet<VersionId>) {
        self.inner.state().guarded = Arc::new(versions);
    }
}

impl Inner {
    fn look_up_pinned(&self, pinned: &Pinned) -> Result<Found, RegistryError> {
        let mut state = self.state();
        let selected = select_pinned(&state, pinned)?;
        Ok(state.take(selected))
    }
}

fn select_pinned(state: &State, pinned: &Pinned) -> Result<Selected, RegistryError> {
    let (owner, name) = (pinned.owner(), pinned.name());
    let version = state.records.adapters.get(&owner, name).and_then(|adapter| adapter.with_content(pinned.id));
    let version = version.ok_or_else(|| RegistryError::NotFound { model: pinned.model.clone() })?;
    Ok(Selected { owner, name: name.to_owned(), number: version.number, id: version.id })
}
