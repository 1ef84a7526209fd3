//! Versions that training jobs make. Under the job's own name (`ft:...`) only its owner calls one, whatever its evaluation said. To
//! put one behind a name that others are sent to takes a passed gate, or somebody's name.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, Inner, Installing, Selected, blocking, now};
use super::name::{self, TRAINED};
use super::records::{Facts, VersionRecord};
use super::{IfLoaded, LoadRequest, Loaded, LoadedBy, Owner, RegistryError, Source};
use crate::ids::VersionId;

/// What the evaluation of a version said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// It was not evaluated: a checkpoint, or a job whose evaluation is not done.
    Pending,
    /// May be put into service.
    Pass,
    /// May be put into service by somebody who gives their name.
    Review,
    /// May not, unless an operator waives it by name.
    Fail,
}

/// The evaluation of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// What it said.
    pub gate: Gate,
    /// The overall score, hundredths of 0 to 100.
    pub score: Option<u32>,
    /// The version in service that it was compared with.
    pub compared: Option<VersionId>,
}

/// Why a version is served under a name that others are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Release {
    /// Its gate passed.
    Gate,
    /// Somebody looked at it.
    Approved {
        /// Their name.
        name: String,
    },
    /// An operator took the responsibility.
    Waived {
        /// Their name.
        name: String,
    },
}

/// Puts a version of a job behind a name.
#[derive(Debug, Clone)]
pub struct Promotion {
    /// Whose the job was.
    pub tenant: String,
    /// The job's name for it: `ft:...`.
    pub model: String,
    /// Whose the name is.
    pub owner: Owner,
    /// The name.
    pub name: String,
    /// Compare-and-set, as in [`LoadRequest`].
    pub expected_version: Option<String>,
    /// On what ground.
    pub release: Release,
}

/// The rule of the design's invariant 7.
pub(super) fn may_release(gate: Gate, release: &Release) -> Result<(), &'static str> {
    match (gate, release) {
        (Gate::Pass, _) | (Gate::Review, Release::Approved { .. }) | (_, Release::Waived { .. }) => Ok(()),
        (Gate::Review, Release::Gate) => Err("its evaluation asks for a review; name who approves it"),
        (Gate::Pending, _) => Err("it was not evaluated; an operator can waive that by name"),
        (Gate::Fail, _) => Err("it failed its evaluation; an operator can waive that by name"),
    }
}

/// A gate alone puts nothing in the place of something better.
fn may_replace(current: &VersionRecord, id: VersionId, judged: Judged) -> Result<(), &'static str> {
    let theirs = match current.loaded_by {
        LoadedBy::Trained { score, .. } => score,
        LoadedBy::Operator | LoadedBy::Api { .. } => None,
    };
    match (judged.score, theirs) {
        _ if judged.compared == Some(current.id) || id == current.id => Ok(()),
        (Some(own), Some(theirs)) if own >= theirs => Ok(()),
        (Some(_), Some(_)) => Err("the version in service has a better score; name who approves it"),
        _ => Err("it was not compared with the version in service; \
                  train it with this name as the job's suffix, or name who approves it"),
    }
}

impl Catalog {
    /// Puts what a job has made into service under the job's name, for its owner. A job that is done again replaces it.
    pub async fn publish(&self, job: &str, tenant: &str, name: &str, dir: PathBuf) -> Result<Loaded, RegistryError> {
        self.load(LoadRequest {
            owner: Owner::Tenant(tenant.into()),
            name: name.to_owned(),
            from: Source::Directory(dir),
            if_loaded: IfLoaded::Replace,
            expected_version: None,
            by: LoadedBy::Trained { job: job.to_owned(), gate: Gate::Pending, score: None, compared: None, release: None },
        })
        .await
    }

    /// Keeps what the evaluation of a job's version said.
    pub async fn judge(&self, tenant: &str, name: &str, verdict: Judged) -> Result<(), RegistryError> {
        let inner = std::sync::Arc::clone(&self.inner);
        let (owner, name) = (Owner::Tenant(tenant.into()), name.to_owned());
        blocking(move || inner.judge(&owner, &name, verdict)).await
    }

    /// Puts a version of a job behind a name, where the rule allows it.
    pub async fn promote(&self, promotion: Promotion) -> Result<Loaded, RegistryError> {
        let inner = std::sync::Arc::clone(&self.inner);
        let permit = self.inner.preparation().await?;
        blocking(move || {
            let _permit = permit;
            inner.promote(promotion)
        })
        .await
    }

    /// Forgets a version that a job of this tenant made. What is served under other names, even of the same tenant, is not found.
    pub async fn delete_trained(&self, tenant: &str, name: &str) -> Result<(), RegistryError> {
        if !name.starts_with(TRAINED) {
            return Err(RegistryError::NotFound { model: name.chars().take(256).collect() });
        }
        self.unload(&Owner::Tenant(tenant.into()), name, None).await
    }
}

impl Inner {
    fn judge(&self, owner: &Owner, name: &str, verdict: Judged) -> Result<(), RegistryError> {
        let mut change = self.begin_change()?;
        let mut records = self.state().records.clone();
        let adapter = records.adapters.get_mut(owner, name);
        let version = adapter.and_then(|adapter| {
            let current = adapter.current?;
            adapter.versions.iter_mut().find(|version| version.number == current)
        });
        let Some(LoadedBy::Trained { gate, score, compared, .. }) = version.map(|version| &mut version.loaded_by) else {
            return Err(RegistryError::NotFound { model: name.to_owned() });
        };
        (*gate, *score, *compared) = (verdict.gate, verdict.score, verdict.compared);
        change.write(self, &records, owner, name)?;
        let referenced = records.referenced();
        self.state().replace_records(records, &referenced);
        Ok(())
    }

    fn promote(&self, promotion: Promotion) -> Result<Loaded, RegistryError> {
        let Promotion { tenant, model, owner, name, expected_version, release } = promotion;
        name::check(&name, &self.reserved_names)?;
        let not_found = || RegistryError::NotFound { model: model.chars().take(256).collect() };
        let (Selected { id, .. }, record) = {
            let state = self.state();
            let selected = Self::select(&state, &tenant, &model)?;
            let adapter = state.records.adapters.get(&selected.owner, &selected.name).ok_or_else(not_found)?;
            let record = adapter.versions.iter().find(|version| version.number == selected.number).cloned();
            (selected, record.ok_or_else(not_found)?)
        };
        let LoadedBy::Trained { job, gate, score, compared, release: None } = record.loaded_by else { return Err(not_found()) };
        let allowed = may_release(gate, &release).and_then(|()| {
            let state = self.state();
            let current = state.records.adapters.get(&owner, &name).and_then(|adapter| adapter.current());
            match current.filter(|_| release == Release::Gate) {
                Some(current) => may_replace(current, id, Judged { gate, score, compared }),
                None => Ok(()),
            }
        });
        allowed.map_err(|reason| RegistryError::NotReleased { model, reason })?;
        let adapter = self.prepared(id, || self.stored(id))?;
        let by = LoadedBy::Trained { job, gate, score, compared, release: Some(release) };
        let facts = Facts { id, rank: record.rank, file_bytes: record.file_bytes, now: now(), by };
        let expected = expected_version.as_deref();
        self.install(Installing { owner, name, if_loaded: IfLoaded::Replace, expected, facts, adapter, files: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passed_is_released_without_a_name() {
        let (approved, waived) = (Release::Approved { name: "a".to_owned() }, Release::Waived { name: "a".to_owned() });
        let allowed = |gate| [&Release::Gate, &approved, &waived].map(|release| may_release(gate, release).is_ok());
        assert_eq!(allowed(Gate::Pass), [true, true, true]);
        assert_eq!(allowed(Gate::Review), [false, true, true]);
        assert_eq!(allowed(Gate::Fail), [false, false, true]);
        assert_eq!(allowed(Gate::Pending), [false, false, true]);
    }

    #[test]
    fn a_gate_puts_nothing_in_the_place_of_something_better() {
        let id = |digit: u8| VersionId::new([digit; 32]);
        let served = |by| VersionRecord { number: 1, id: id(1), rank: 1, file_bytes: 1, loaded_at: 0, loaded_by: by };
        let scored = |score| {
            let (job, release) = ("j".to_owned(), Some(Release::Gate));
            served(LoadedBy::Trained { job, gate: Gate::Pass, score, compared: None, release })
        };
        let judged = |score, compared| Judged { gate: Gate::Pass, score, compared };
        let may = |current: &VersionRecord, judged| may_replace(current, id(2), judged).is_ok();
        assert!(may(&scored(Some(7_000)), judged(Some(7_000), None)));
        assert!(!may(&scored(Some(7_001)), judged(Some(7_000), None)));
        assert!(may(&scored(Some(7_001)), judged(Some(7_000), Some(id(1)))), "compared on the same rows");
        assert!(!may(&scored(Some(7_001)), judged(Some(7_000), Some(id(3)))), "compared with an earlier one");
        assert!(!may(&scored(None), judged(Some(7_000), None)) && !may(&scored(Some(1)), judged(None, None)));
        assert!(!may(&served(LoadedBy::Operator), judged(Some(10_000), None)));
        assert!(may_replace(&scored(None), id(1), judged(None, None)).is_ok(), "it is in service already");
    }
}
