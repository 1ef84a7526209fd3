//! What is remembered of adapters, and how it may change: pure functions on plain data, written to disk as one file.
//! Names and numbers are each owner's: two tenants may use the same name without knowing of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::name::{Expected, Selector};
use super::owner::{Owner, PerOwner};
use super::{LoadedBy, RegistryError};
use crate::ids::VersionId;
use crate::store::{self, Access, DataDir, StoreError};

/// Name of the state file in the data directory.
const FILE: &str = "registry.json";
/// The same, of a process that shares its adapters with other replicas now.
const RETIRED: &str = "registry.json.before-sharing";
/// Shared adapters only. Written wherever it suffices, so that older versions read it.
const FORMAT_SHARED: u32 = 1;
/// Adapters of tenants, too.
const FORMAT_OWNED: u32 = 2;
/// Versions that jobs made, too.
const FORMAT_TRAINED: u32 = 3;
/// Versions kept on disk per adapter, the current one included.
pub(super) const KEPT_VERSIONS: usize = 8;

/// What is remembered of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRecord {
    /// Number within its adapter, from 1.
    pub number: u32,
    /// Content digest.
    pub id: VersionId,
    /// Highest rank.
    pub rank: usize,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// When it was first loaded, seconds since 1970.
    pub loaded_at: u64,
    /// Who loaded it: its waiver.
    pub loaded_by: LoadedBy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Adapter {
    /// Number of the next version. Never goes back, so that `support@3` never means two contents.
    next: u32,
    /// `None` after an unload.
    pub(super) current: Option<u32>,
    pub(super) versions: Vec<VersionRecord>,
}

impl Adapter {
    pub(super) fn current(&self) -> Option<&VersionRecord> {
        let number = self.current?;
        self.versions.iter().find(|version| version.number == number)
    }

    pub(super) fn numbered(&self, number: u32) -> Option<&VersionRecord> {
        self.versions.iter().find(|version| version.number == number)
    }

    pub(super) fn with_content(&self, id: VersionId) -> Option<&VersionRecord> {
        self.versions.iter().find(|version| version.id == id)
    }

    /// The version that a selector names; a digest prefix that fits two versions names none.
    pub(super) fn select(&self, selector: &Selector) -> Option<&VersionRecord> {
        let mut matching = self.versions.iter().filter(|version| selector.selects(version.number, &version.id));
        let first = matching.next()?;
        matching.next().is_none().then_some(first)
    }
}

/// The content of the state file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    /// Shared ones.
    adapters: BTreeMap<String, Adapter>,
    /// Those of tenants, by tenant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    owned: BTreeMap<String, BTreeMap<String, Adapter>>,
}

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Records {
    pub(super) adapters: PerOwner<Adapter>,
    /// Versions that are not forgotten; not written down.
    pub(super) guarded: Arc<BTreeSet<VersionId>>,
}

/// Facts about a version that is being put into service.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) id: VersionId,
    pub(super) rank: usize,
    pub(super) file_bytes: u64,
    pub(super) now: u64,
    pub(super) by: LoadedBy,
}

impl Records {
    /// Reads the records of a data directory; none are no error.
    pub(super) fn read(directory: &Path) -> Result<Self, StoreError> {
        let Some(file) = store::read_json::<File>(directory, FILE)? else { return Ok(Self::default()) };
        if !(FORMAT_SHARED..=FORMAT_TRAINED).contains(&file.format) {
            let reason = format!("format {} is none of {FORMAT_SHARED} to {FORMAT_TRAINED}", file.format);
            return Err(StoreError::Damaged { path: directory.join(FILE), reason });
        }
        let mut adapters = PerOwner::default();
        for (name, adapter) in file.adapters {
            adapters.insert(&Owner::Shared, &name, adapter);
        }
        for (tenant, names) in file.owned {
            let owner = Owner::Tenant(tenant.into());
            names.into_iter().for_each(|(name, adapter)| adapters.insert(&owner, &name, adapter));
        }
        Ok(Self { adapters, guarded: Arc::default() })
    }

    pub(super) fn write(&self, data: &DataDir) -> Result<(), StoreError> {
        self.write_as(data, FILE)
    }

    fn write_as(&self, data: &DataDir, file: &str) -> Result<(), StoreError> {
        let (mut adapters, mut owned) = (BTreeMap::new(), BTreeMap::<String, BTreeMap<String, Adapter>>::new());
        for (owner, name, adapter) in self.adapters.iter() {
            let names = match owner.tenant() {
                None => &mut adapters,
                Some(tenant) => owned.entry(tenant.to_owned()).or_default(),
            };
            names.insert(name.to_owned(), adapter.clone());
        }
        let mut versions = self.adapters.iter().flat_map(|(_, _, adapter)| &adapter.versions);
        let trained = versions.any(|version| matches!(version.loaded_by, LoadedBy::Trained { .. }));
        let format = match (trained, owned.is_empty()) {
            (true, _) => FORMAT_TRAINED,
            (false, true) => FORMAT_SHARED,
            (false, false) => FORMAT_OWNED,
        };
        data.write_json(file, &File { format, adapters, owned }, Access::Normal)
    }

    /// What is remembered of one adapter, as replicas tell each other; empty where nothing is.
    pub(super) fn told(&self, owner: &Owner, name: &str) -> Result<String, StoreError> {
        let told = self.adapters.get(owner, name).map(serde_json::to_string).transpose();
        told.map(Option::unwrap_or_default).map_err(|error| damaged(name, error))
    }

    /// Takes over what another replica tells.
    pub(super) fn hear(&mut self, owner: &Owner, name: &str, told: &str) -> Result<(), StoreError> {
        match told {
            "" => self.adapters.remove(owner, name),
            told => self.adapters.insert(owner, name, serde_json::from_str(told).map_err(|error| damaged(name, error))?),
        }
        Ok(())
    }

    /// The compare of compare-and-set.
    pub(super) fn compare(&self, owner: &Owner, name: &str, expected: Option<&str>) -> Result<(), RegistryError> {
        let Some(given) = expected else { return Ok(()) };
        let current = self.adapters.get(owner, name).and_then(Adapter::current);
        let agrees = match (Expected::parse(given)?, current) {
            (Expected::NotLoaded, current) => current.is_none(),
            (Expected::Version(selector), Some(current)) => selector.selects(current.number, &current.id),
            (Expected::Version(_), None) => false,
        };
        if agrees {
            return Ok(());
        }
        let actual = match current {
            Some(current) => format!("{name}@{} ({})", current.number, current.id.short()),
            None => "no version (it is not loaded)".to_owned(),
        };
        Err(RegistryError::Conflict { name: name.to_owned(), expected: given.to_owned(), actual })
    }

    /// The set of compare-and-set: points the name at a content and forgets versions that are too old. Content that is a
    /// version of this adapter already keeps its number. Returns that number.
    pub(super) fn install(&mut self, owner: &Owner, name: &str, facts: Facts) -> u32 {
        let adapter = self.adapters.get_or_insert_with(owner, name, || Adapter { next: 1, current: None, versions: Vec::new() });
        let number = match adapter.versions.iter_mut().find(|version| version.id == facts.id) {
            Some(version) => {
                // A job that is done again may have another verdict; who loaded the same content before stays on record.
                if matches!((&version.loaded_by, &facts.by), (LoadedBy::Trained { .. }, LoadedBy::Trained { .. })) {
                    version.loaded_by = facts.by;
                }
                version.number
            }
            None => {
                let number = adapter.next;
                adapter.next = number.saturating_add(1);
                adapter.versions.push(VersionRecord {
                    number,
                    id: facts.id,
                    rank: facts.rank,
                    file_bytes: facts.file_bytes,
                    loaded_at: facts.now,
                    loaded_by: facts.by,
                });
                number
            }
        };
        adapter.current = Some(number);
        let surplus = adapter.versions.len().saturating_sub(KEPT_VERSIONS);
        let may_go = |version: &&VersionRecord| version.number != number && !self.guarded.contains(&version.id);
        let oldest: Vec<u32> = adapter.versions.iter().filter(may_go).map(|version| version.number).take(surplus).collect();
        adapter.versions.retain(|version| !oldest.contains(&version.number));
        number
    }

    /// Takes a name out of service. Its versions are forgotten, its numbering is not. False where it was not in service.
    pub(super) fn remove(&mut self, owner: &Owner, name: &str) -> bool {
        let Some(adapter) = self.adapters.get_mut(owner, name) else { return false };
        adapter.versions.clear();
        let was_there = adapter.current.take().is_some();
        // A job's id is in its name: it never comes again, and its numbering need not be remembered.
        if name.starts_with(super::name::TRAINED) {
            self.adapters.remove(owner, name);
        }
        was_there
    }

    /// True where the name was in service once and was taken out.
    pub(super) fn was_unloaded(&self, owner: &Owner, name: &str) -> bool {
        self.adapters.get(owner, name).is_some_and(|adapter| adapter.current.is_none())
    }

    /// Versions whose files must stay.
    pub(super) fn referenced(&self) -> BTreeSet<VersionId> {
        self.adapters.iter().flat_map(|(_, _, adapter)| adapter.versions.iter().map(|version| version.id)).collect()
    }
}

/// Takes the records of a data directory out of use: replicas keep them together from now on.
pub(super) fn retire(data: &DataDir) -> Result<(), StoreError> {
    let (from, to) = (data.path().join(FILE), data.path().join(RETIRED));
    match store::rename_durably(&from, &to) {
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && !to.exists() => {
            Records::default().write_as(data, RETIRED)
        }
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Refuses to speak for adapters that replicas keep together.
fn check_own(directory: &Path) -> Result<(), RegistryError> {
    let retired = directory.join(RETIRED).exists() && !directory.join(FILE).exists();
    if retired { Err(RegistryError::KeptTogether) } else { Ok(()) }
}

fn damaged(name: &str, error: serde_json::Error) -> StoreError {
    StoreError::Damaged { path: format!("adapters/{name}").into(), reason: error.to_string() }
}

/// An adapter in service according to a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InService {
    /// Whose it is.
    pub owner: Owner,
    /// Its name.
    pub name: String,
    /// The version that the name means.
    pub current: VersionRecord,
    /// Numbers of the versions that are kept, the current one included.
    pub kept: Vec<u32>,
}

/// What is in service according to a data directory. A server may own the directory: nothing is locked and nothing is written.
pub fn in_service(directory: &Path) -> Result<Vec<InService>, RegistryError> {
    check_own(directory)?;
    let records = Records::read(directory)?;
    let listed = records.adapters.iter().filter_map(|(owner, name, adapter)| {
        let kept = adapter.versions.iter().map(|version| version.number).collect();
        Some(InService { owner: owner.clone(), name: name.to_owned(), current: adapter.current()?.clone(), kept })
    });
    Ok(listed.collect())
}

/// Changes of the records without a running server, for `switchyard adapters`.
pub struct Offline<'data> {
    data: &'data DataDir,
    records: Records,
}

impl<'data> Offline<'data> {
    /// Reads the records of a data directory.
    pub fn open(data: &'data DataDir) -> Result<Self, RegistryError> {
        check_own(data.path())?;
        Ok(Self { data, records: Records::read(data.path())? })
    }

    /// Takes a name out of service; its files are removed at the next start.
    pub fn remove(&mut self, owner: &Owner, name: &str) -> Result<(), RegistryError> {
        if !self.records.remove(owner, name) {
            return Err(RegistryError::NotFound { model: name.to_owned() });
        }
        Ok(self.records.write(self.data)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn facts(content: u8) -> Facts {
        Facts { id: VersionId::new([content; 32]), rank: 4, file_bytes: 10, now: 5, by: LoadedBy::Operator }
    }

    #[test]
    fn numbers_follow_content_and_never_repeat() {
        let mut records = Records::default();
        assert_eq!(records.install(&Owner::Shared, "a", facts(1)), 1);
        assert_eq!(records.install(&Owner::Shared, "a", facts(2)), 2);
        assert_eq!(records.install(&Owner::Shared, "a", facts(1)), 1, "known content keeps its number");
        assert!(records.remove(&Owner::Shared, "a"));
        assert!(!records.remove(&Owner::Shared, "a"));
        assert_eq!(records.install(&Owner::Shared, "a", facts(1)), 3, "numbers are not used twice");
        assert_eq!(records.install(&Owner::Shared, "b", facts(1)), 1, "numbers belong to one adapter");
    }

    #[test]
    fn names_and_numbers_are_each_owners() {
        let (a, b) = (Owner::from(Some("a")), Owner::from(Some("b")));
        let mut records = Records::default();
        assert_eq!(records.install(&a, "x", facts(1)), 1);
        assert_eq!(records.install(&a, "x", facts(2)), 2);
        assert_eq!(records.install(&b, "x", facts(2)), 1);
        records.compare(&b, "x", Some("1")).unwrap();
        records.compare(&Owner::Shared, "x", Some("0")).unwrap();
        assert!(!records.remove(&Owner::Shared, "x") && records.remove(&a, "x"));
        assert!(records.was_unloaded(&a, "x") && !records.was_unloaded(&b, "x"));
        assert_eq!(records.referenced().len(), 1, "the other tenant's version is still wanted");
    }

    #[test]
    fn files_of_the_first_format_are_read_and_written_while_they_suffice() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let id = VersionId::new([1; 32]);
        let version = serde_json::json!({"number": 1, "id": id, "rank": 4, "file_bytes": 10, "loaded_at": 5,
                                         "loaded_by": {"via": "operator"}});
        let old = serde_json::json!({"format": 1, "adapters": {"a": {"next": 2, "current": 1, "versions": [version]}}});
        let path = dir.path().join(FILE);
        std::fs::write(&path, old.to_string()).unwrap();
        let mut records = Records::read(dir.path()).unwrap();
        assert_eq!(records.adapters.get(&Owner::Shared, "a").unwrap().current().unwrap().id, id);
        let written = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap();
        records.write(&data).unwrap();
        assert_eq!(written(), old);
        records.install(&Owner::from(Some("proj_x")), "a", facts(9));
        records.write(&data).unwrap();
        assert_eq!((&written()["format"], &written()["owned"]["proj_x"]["a"]["next"]), (&2.into(), &2.into()));
        assert_eq!(Records::read(dir.path()).unwrap(), records);
        std::fs::write(&path, r#"{"format": 4, "adapters": {}}"#).unwrap();
        assert!(Records::read(dir.path()).unwrap_err().to_string().contains("format 4"));
    }

    #[test]
    fn old_versions_are_forgotten_but_never_the_current_one() {
        let mut records = Records::default();
        (0..8).for_each(|content| _ = records.install(&Owner::Shared, "a", facts(content)));
        records.install(&Owner::Shared, "a", facts(0));
        records.install(&Owner::Shared, "a", facts(8));
        records.install(&Owner::Shared, "a", facts(1));
        let adapter = &records.adapters.get(&Owner::Shared, "a").unwrap();
        assert_eq!(adapter.versions.len(), KEPT_VERSIONS);
        assert!(adapter.current().is_some());
        let mut others = records.clone();
        (20..40).for_each(|content| _ = others.install(&Owner::Shared, "b", facts(content)));
        assert_eq!(others.referenced().len(), 16);
    }

    #[test]
    fn compare_names_both_versions() {
        let mut records = Records::default();
        records.compare(&Owner::Shared, "a", Some("0")).unwrap();
        records.install(&Owner::Shared, "a", facts(0xab));
        records.compare(&Owner::Shared, "a", None).unwrap();
        records.compare(&Owner::Shared, "a", Some("1")).unwrap();
        records.compare(&Owner::Shared, "a", Some("abababab")).unwrap();
        let error = records.compare(&Owner::Shared, "a", Some("7")).unwrap_err().to_string();
        assert!(error.contains("a@1 (abababababab)") && error.contains("expected 7"), "{error}");
        assert!(matches!(records.compare(&Owner::Shared, "a", Some("0")), Err(RegistryError::Conflict { .. })));
        assert!(matches!(records.compare(&Owner::Shared, "b", Some("1")), Err(RegistryError::Conflict { .. })));
        assert!(matches!(records.compare(&Owner::Shared, "a", Some("new")), Err(RegistryError::InvalidExpected { .. })));
    }

    #[test]
    fn an_ambiguous_digest_names_nothing() {
        let mut records = Records::default();
        let mut twin = [7; 32];
        twin[31] = 8;
        records.install(&Owner::Shared, "a", facts(7));
        records.install(&Owner::Shared, "a", Facts { id: VersionId::new(twin), ..facts(7) });
        let select = |text: &str| {
            records.adapters.get(&Owner::Shared, "a").unwrap().select(&Selector::parse(text).unwrap()).map(|v| v.number)
        };
        assert_eq!(select("07070707"), None);
        assert_eq!(select(&VersionId::new(twin).to_string()), Some(2));
        assert_eq!(select("1"), Some(1));
    }
}
