//! The catalog: which version each name means now, who holds what, and the changes of both.
//!
//! Reading and checking adapters happens on blocking threads. Once begun, a change runs to its end even if its caller goes away,
//! so that what is on disk and what is in memory cannot part. Two locks, never taken in the other order: `changes` (one durable
//! change at a time, held over disk writes), then `state` (held for moments only).

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::files::VersionFiles;
use super::name::{self, Selector};
use super::owner::PerOwner;
use super::records::{Facts, Records};
use super::residents::{Residency, Residents};
use super::roots::Roots;
use super::shared::{Behind, Shared};
use super::uploads::{Upload, Uploads};
use super::{AdapterInfo, IfLoaded, Lease, LoadRequest, Loaded, LoadedBy, Owner, RegistryError, Source, Versions, Viewer};
use crate::ids::VersionId;
use crate::model::lora::peft::AdapterFiles;
use crate::model::lora::{LoraWeights, PreparedAdapter};
use crate::model::{AdapterPreparer, ModelConfig, ModelError};
use crate::store::DataDir;

/// Adapters that are read and packed at the same time: each takes a processor and, for a moment, its size in memory twice.
const PREPARED_TOGETHER: usize = 2;
/// With a budget: one, so that what comes in is counted before the next, and other processors go on answering.
const PREPARED_TOGETHER_IN_BUDGET: usize = 1;

/// What a catalog is made of.
pub struct Setup {
    /// Where durable truth lives.
    pub data: Arc<DataDir>,
    /// Directories that the API may load from.
    pub roots: Vec<PathBuf>,
    /// The base's name, then those of other models: no new adapter may have them. A tenant's that is stored already keeps one of the
    /// latter, and means it.
    pub reserved_names: Vec<String>,
    /// Shape of the base.
    pub base: ModelConfig,
    /// Packs adapters for the base.
    pub preparer: Arc<dyn AdapterPreparer>,
    /// Most bytes of adapters in memory; `None` keeps all that are in service.
    pub memory: Option<usize>,
    /// Where replicas keep adapters together; `None` keeps them in `data`.
    pub shared: Option<Shared>,
}

/// An adapter that was in service before the restart and is not now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Whose it is.
    pub owner: Owner,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Durable truth about adapters; cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) data: Arc<DataDir>,
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) files: VersionFiles,
    roots: Roots,
    uploads: Uploads,
    pub(super) reserved_names: Vec<String>,
    base: ModelConfig,
    preparer: Arc<dyn AdapterPreparer>,
    preparations: Arc<Semaphore>,
    /// Held by whoever brings a version into memory; others who want it wait without taking anybody's place.
    pub(super) arrivals: Mutex<HashMap<VersionId, Weak<tokio::sync::Mutex<()>>>>,
    pub(super) changes: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) records: Records,
    /// The current version of each name in service; this keeps it in memory.
    pub(super) served: PerOwner<Served>,
    /// Names on record that cannot be served, with the reason as clients may read it.
    pub(super) unavailable: PerOwner<String>,
    /// What is in memory.
    pub(super) residents: Residents,
    /// Held by whoever prepares the version, so that others wait instead of doing the work again.
    preparing: HashMap<VersionId, Arc<Mutex<()>>>,
    /// Lease counters by owner, name and number.
    tokens: HashMap<(Owner, String, u32), Weak<()>>,
    /// Versions that stay on disk.
    pub(super) guarded: Arc<BTreeSet<VersionId>>,
    /// What other replicas have changed.
    pub(super) behind: Behind,
}

pub(super) struct Served {
    number: u32,
    id: VersionId,
    /// Stays in memory, where there is no budget.
    #[expect(dead_code, reason = "holding it is its use")]
    adapter: Option<Arc<PreparedAdapter>>,
    #[expect(dead_code, reason = "the catalog's own hold, which its counts of leases leave out")]
    token: Arc<()>,
}

impl Catalog {
    /// Reads the records and brings every name that was in service back. Adapters that cannot be used on this base any more are
    /// left out and reported; they stay on record.
    pub async fn open(setup: Setup) -> Result<(Self, Vec<Skipped>), RegistryError> {
        blocking(move || {
            let shared = setup.shared.map(Arc::new);
            let inner = Inner {
                files: VersionFiles::open(&setup.data, shared.clone())?,
                shared,
                roots: Roots::new(setup.roots)?,
                uploads: Uploads::open(&setup.data)?,
                state: Mutex::new(State {
                    records: Records::read(setup.data.path())?,
                    residents: Residents::new(setup.memory),
                    ..State::default()
                }),
                data: setup.data,
                reserved_names: setup.reserved_names,
                base: setup.base,
                preparer: setup.preparer,
                preparations: Arc::new(Semaphore::new(match setup.memory {
                    Some(_) => PREPARED_TOGETHER_IN_BUDGET,
                    None => PREPARED_TOGETHER,
                })),
                arrivals: Mutex::default(),
                changes: Mutex::new(()),
            };
            inner.join()?;
            let skipped = inner.restore()?;
            Ok((Self { inner: Arc::new(inner) }, skipped))
        })
        .await
    }

    /// Makes room for files that a client sends.
    pub fn begin_upload(&self) -> Result<Upload, RegistryError> {
        self.inner.uploads.begin()
    }

    /// The versions of an adapter in service.
    pub fn versions(&self, owner: &Owner, name: &str) -> Result<Versions, RegistryError> {
        let state = self.inner.state();
        let record = state.records.adapters.get(owner, name);
        let current = record.and_then(|adapter| adapter.current);
        let (Some(record), Some(current)) = (record, current) else {
            return Err(RegistryError::NotFound { model: name.chars().take(256).collect() });
        };
        Ok(Versions { owner: owner.clone(), name: name.to_owned(), current, versions: record.versions.clone() })
    }

    /// Puts files into service under a name.
    pub async fn load(&self, request: LoadRequest) -> Result<Loaded, RegistryError> {
        let inner = Arc::clone(&self.inner);
        let permit = self.inner.preparation().await?;
        blocking(move || {
            let _permit = permit;
            inner.load(request)
        })
        .await
    }

    /// Leases in flight, on versions in service and on those that are not any more.
    pub fn leases(&self) -> usize {
        let state = self.inner.state();
        let tokens: usize = state.tokens.values().map(Weak::strong_count).sum();
        // Each name in service holds one itself.
        tokens.saturating_sub(state.served.len())
    }

    /// True where the name was in service once and was taken out.
    pub fn was_unloaded(&self, owner: &Owner, name: &str) -> bool {
        self.inner.state().records.was_unloaded(owner, name)
    }

    /// Takes a name out of service. Running requests keep their leases.
    pub async fn unload(&self, owner: &Owner, name: &str, expected_version: Option<&str>) -> Result<(), RegistryError> {
        let inner = Arc::clone(&self.inner);
        let (owner, name, expected) = (owner.clone(), name.to_owned(), expected_version.map(str::to_owned));
        blocking(move || inner.unload(&owner, &name, expected.as_deref())).await
    }

    /// A lease on the version that `name`, `name@number` or `name@digest` means now to this tenant: its own adapter of that name,
    /// else the shared one.
    pub async fn resolve(&self, tenant: &str, model: &str) -> Result<Lease, RegistryError> {
        let found = match self.inner.look_up(tenant, model) {
            Err(RegistryError::NotFound { .. }) if self.has_heard_more().await => self.inner.look_up(tenant, model)?,
            other => other?,
        };
        self.lease(found).await
    }

    /// The adapter that `model` means a version of to this tenant: whose it is, and its name. Reads nothing from disk.
    pub fn find(&self, tenant: &str, model: &str) -> Result<(Owner, String), RegistryError> {
        Inner::select(&self.inner.state(), tenant, model).map(|selected| (selected.owner, selected.name))
    }

    /// Adapters in service, the shared ones first, by name. A tenant's own hides the shared one of its name, as it does in requests.
    pub fn list(&self, viewer: Viewer<'_>) -> Vec<AdapterInfo> {
        self.inner.list(viewer)
    }

    /// Adapters on record that the base cannot serve, by name, with the reason.
    pub fn unavailable(&self, viewer: Viewer<'_>) -> Vec<Skipped> {
        let state = self.inner.state();
        let seen = state.unavailable.iter().filter(|(owner, _, _)| viewer.sees(owner));
        seen.map(|(owner, name, reason)| Skipped { owner: owner.clone(), name: name.to_owned(), reason: reason.clone() })
            .collect()
    }
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").finish_non_exhaustive()
    }
}

/// A version that is about to be installed.
pub(super) struct Installing<'a> {
    pub(super) owner: Owner,
    pub(super) name: String,
    pub(super) if_loaded: IfLoaded,
    pub(super) expected: Option<&'a str>,
    pub(super) facts: Facts,
    pub(super) adapter: Arc<PreparedAdapter>,
    /// Its files; `None` where they are on the disk.
    pub(super) files: Option<&'a AdapterFiles>,
}

pub(super) enum Found {
    InMemory(Lease),
    OnDisk(Selected),
}

/// The version that a model's name means.
pub(super) struct Selected {
    pub(super) owner: Owner,
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) id: VersionId,
}

impl State {
    fn token(&mut self, owner: &Owner, name: &str, number: u32) -> Arc<()> {
        let key = (owner.clone(), name.to_owned(), number);
        if let Some(token) = self.tokens.get(&key).and_then(Weak::upgrade) {
            return token;
        }
        self.tokens.retain(|_, token| token.strong_count() > 0);
        let token = Arc::new(());
        self.tokens.insert(key, Arc::downgrade(&token));
        token
    }

    pub(super) fn lease(&mut self, selected: Selected, adapter: Arc<PreparedAdapter>) -> Lease {
        let Selected { owner, name, number, id } = selected;
        let token = self.token(&owner, &name, number);
        Lease { owner, name, number, id, adapter, token }
    }

    /// A lease on what is in memory.
    pub(super) fn take(&mut self, selected: Selected) -> Found {
        match self.residents.take(&selected.id) {
            Some(adapter) => Found::InMemory(self.lease(selected, adapter)),
            None => Found::OnDisk(selected),
        }
    }

    /// Takes changed records over; versions that nothing mentions any more leave memory with their leases.
    pub(super) fn replace_records(&mut self, records: Records, referenced: &BTreeSet<VersionId>) {
        self.residents.forget_all_but(referenced);
        self.records = records;
    }

    /// Puts a version into service. With a budget it may be on the disk only.
    pub(super) fn serve(
        &mut self,
        owner: &Owner,
        name: &str,
        (number, id): (u32, VersionId),
        adapter: Option<Arc<PreparedAdapter>>,
    ) {
        let token = self.token(owner, name, number);
        self.unavailable.remove(owner, name);
        if self.residents.has_budget()
            && let Some(adapter) = &adapter
        {
            self.residents.keep(adapter);
        }
        let adapter = adapter.filter(|_| !self.residents.has_budget());
        self.served.insert(owner, name, Served { number, id, adapter, token });
    }
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the state half changed: every change below is one assignment after its checks.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn restore(&self) -> Result<Vec<Skipped>, RegistryError> {
        let records = self.state().records.clone();
        self.files.sweep(&records.referenced())?;
        let mut skipped = Vec::new();
        for (owner, name, adapter) in records.adapters.iter() {
            let Some(current) = adapter.current().filter(|current| !current.loaded_by.is_on_call()) else { continue };
            let restored = name::check(name, self.reserved(owner)).and_then(|()| {
                let fits = self.fits(current.id, current.file_bytes);
                fits.then(|| self.prepared(current.id, || self.stored(current.id))).transpose()
            });
            match restored {
                Ok(adapter) => self.state().serve(owner, name, (current.number, current.id), adapter),
                Err(error @ (RegistryError::Storage(_) | RegistryError::Prepare(_)))
                    if self.shared.is_some() && !error.is_lasting() =>
                {
                    tracing::warn!(%error, adapter = name, "an adapter cannot be fetched yet; it is tried again");
                    self.later(owner, name);
                }
                Err(error) => {
                    self.state().unavailable.insert(owner, name, error.public_reason());
                    skipped.push(Skipped { owner: owner.clone(), name: name.to_owned(), reason: error.to_string() });
                }
            }
        }
        Ok(skipped)
    }

    /// Names that no new adapter of this owner may have.
    pub(super) fn reserved(&self, owner: &Owner) -> &[String] {
        match owner {
            Owner::Shared => &self.reserved_names,
            Owner::Tenant(_) => self.reserved_names.get(..1).unwrap_or_default(),
        }
    }

    /// With a budget as many are in memory as fit; the others are read when they are asked for.
    pub(super) fn fits(&self, id: VersionId, file_bytes: u64) -> bool {
        let state = self.state();
        let Residency { budget, bytes, .. } = state.residents.residency();
        budget.is_none_or(|most| bytes + state.residents.size(&id, file_bytes) <= most)
    }

    fn load(&self, request: LoadRequest) -> Result<Loaded, RegistryError> {
        let LoadRequest { owner, name, from, if_loaded, expected_version, by } = request;
        match by.is_on_call() {
            true => name::check_trained(&name)?,
            false => name::check(&name, &self.reserved_names)?,
        }
        let expected = expected_version.as_deref();
        may_load(&self.state(), &owner, &name, if_loaded, expected)?;
        let dir = match (&from, &by) {
            (Source::Upload(upload), _) => upload.dir().to_owned(),
            (Source::Directory(path), LoadedBy::Operator | LoadedBy::Trained { .. }) => path.clone(),
            (Source::Directory(path), LoadedBy::Api { .. }) => self.roots.resolve(path)?,
        };
        let files = AdapterFiles::read(&dir).map_err(RegistryError::Unusable)?;
        let id = files.digest().map_err(RegistryError::Unusable)?;
        if if_loaded == IfLoaded::ReplaceIfNew
            && let Some(kept) = self.already_known(&owner, &name, id)
        {
            return Ok(kept);
        }
        let adapter = self.prepared(id, || self.checked(&files))?;
        let facts = Facts { id, rank: adapter.max_rank, file_bytes: files.len() as u64, now: now(), by };
        let is_trained = matches!(facts.by, LoadedBy::Trained { .. });
        // Whoever reads in another replica what is remembered finds its files.
        self.files.share(id, &files, Some(dir.as_path()).filter(|_| is_trained))?;
        let loaded = self.install(Installing { owner, name, if_loaded, expected, facts, adapter, files: Some(&files) })?;
        if is_trained {
            self.files.keep_lineage(id, &dir)?;
        }
        Ok(loaded)
    }

    /// The durable part of a change: what was checked becomes the version that the name means.
    pub(super) fn install(&self, what: Installing<'_>) -> Result<Loaded, RegistryError> {
        let Installing { owner, name, if_loaded, expected, facts, adapter, files } = what;
        let (id, on_call) = (facts.id, facts.by.is_on_call());
        let mut change = self.begin_change()?;
        let (mut records, replaced) = {
            let state = self.state();
            // Asked again: the name may have moved while the files were read.
            may_load(&state, &owner, &name, if_loaded, expected)?;
            let current = state.records.adapters.get(&owner, &name).and_then(|adapter| adapter.current());
            let records = Records { guarded: Arc::clone(&state.guarded), ..state.records.clone() };
            (records, current.map(|current| current.number))
        };
        let number = records.install(&owner, &name, facts);
        match files {
            Some(files) => self.files.store(id, files)?,
            // Of a version that is on the disk; it may have been removed meanwhile.
            None => drop(self.files.read(id)?),
        }
        change.write(self, &records, &owner, &name)?;
        let referenced = records.referenced();
        {
            let mut state = self.state();
            state.replace_records(records, &referenced);
            match on_call {
                true => {
                    state.unavailable.remove(&owner, &name);
                    state.residents.keep(&adapter);
                }
                false => state.serve(&owner, &name, (number, id), Some(adapter)),
            }
        }
        self.sweep(&referenced);
        Ok(Loaded { name, number, id, replaced })
    }

    /// The version in service, if this content is one of the adapter's versions.
    fn already_known(&self, owner: &Owner, name: &str, id: VersionId) -> Option<Loaded> {
        let state = self.state();
        let served = state.served.get(owner, name)?;
        let known = state.records.adapters.get(owner, name)?.versions.iter().any(|version| version.id == id);
        known.then(|| Loaded { name: name.to_owned(), number: served.number, id: served.id, replaced: Some(served.number) })
    }

    fn unload(&self, owner: &Owner, name: &str, expected: Option<&str>) -> Result<(), RegistryError> {
        let mut change = self.begin_change()?;
        let mut records = self.state().records.clone();
        if records.adapters.get(owner, name).is_none_or(|adapter| adapter.current.is_none()) {
            return Err(RegistryError::NotFound { model: name.chars().take(256).collect() });
        }
        records.compare(owner, name, expected)?;
        records.remove(owner, name);
        change.write(self, &records, owner, name)?;
        let referenced = records.referenced();
        {
            let mut state = self.state();
            state.replace_records(records, &referenced);
            state.served.remove(owner, name);
            state.unavailable.remove(owner, name);
        }
        self.sweep(&referenced);
        Ok(())
    }

    /// Leave to read and pack an adapter.
    pub(super) async fn preparation(&self) -> Result<OwnedSemaphorePermit, RegistryError> {
        // It is never closed.
        Arc::clone(&self.preparations).acquire_owned().await.map_err(|_| RegistryError::Interrupted)
    }

    fn look_up(&self, tenant: &str, model: &str) -> Result<Found, RegistryError> {
        let mut state = self.state();
        let selected = Self::select(&state, tenant, model)?;
        Ok(state.take(selected))
    }

    /// Looks at the tenant's own names and the shared ones, and nowhere else.
    pub(super) fn select(state: &State, tenant: &str, model: &str) -> Result<Selected, RegistryError> {
        let not_found = || RegistryError::NotFound { model: model.chars().take(256).collect() };
        let (name, selector) = name::split(model).ok_or_else(not_found)?;
        for owner in [Owner::Tenant(tenant.into()), Owner::Shared] {
            if let Some(reason) = state.unavailable.get(&owner, name) {
                return Err(RegistryError::Unavailable { name: name.to_owned(), reason: reason.clone() });
            }
            let Some(adapter) = state.records.adapters.get(&owner, name) else { continue };
            let Some(current) = adapter.current() else { continue };
            // The tenant's own name hides the shared one with all its versions.
            let selector = selector.unwrap_or(Selector::Number(current.number));
            let version = adapter.select(&selector).ok_or_else(not_found)?;
            return Ok(Selected { owner, name: name.to_owned(), number: version.number, id: version.id });
        }
        Err(not_found())
    }

    /// The stored files of a version, checked against the base.
    pub(super) fn stored(&self, id: VersionId) -> Result<LoraWeights, RegistryError> {
        let files = self.files.read(id).map_err(|error| match error {
            RegistryError::Unusable(source) => RegistryError::Lost { id, source },
            error => error,
        })?;
        files.parse_accepted(&self.base).map_err(RegistryError::Unusable)
    }

    fn checked(&self, files: &AdapterFiles) -> Result<LoraWeights, RegistryError> {
        files.parse(&self.base).map_err(RegistryError::Unusable)
    }

    /// The version in the form that the model computes with; whoever asks first does the work, others wait for it.
    pub(super) fn prepared(
        &self,
        id: VersionId,
        read: impl FnOnce() -> Result<LoraWeights, RegistryError>,
    ) -> Result<Arc<PreparedAdapter>, RegistryError> {
        let turn = {
            let mut state = self.state();
            if let Some(adapter) = state.residents.get(&id) {
                return Ok(adapter);
            }
            Arc::clone(state.preparing.entry(id).or_default())
        };
        let _my_turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(adapter) = self.state().residents.get(&id) {
            return Ok(adapter);
        }
        let made = read().and_then(|weights| {
            self.preparer.prepare(weights).map_err(|error| match error {
                error @ ModelError::Invalid(_) => RegistryError::Unusable(error),
                error => RegistryError::Prepare(error),
            })
        });
        let mut state = self.state();
        state.preparing.remove(&id);
        let adapter = Arc::new(made?);
        state.residents.came(&adapter);
        Ok(adapter)
    }

    /// Files that stay too long do no harm, so that a failure here does not fail the change that was made.
    fn sweep(&self, referenced: &BTreeSet<VersionId>) {
        if let Err(error) = self.files.sweep(referenced) {
            tracing::warn!(%error, "old adapter versions were not removed");
        }
    }

    fn list(&self, viewer: Viewer<'_>) -> Vec<AdapterInfo> {
        let state = self.state();
        let mut list = Vec::with_capacity(state.served.len());
        let hidden = |owner: &Owner, name: &str| match (viewer, owner) {
            (Viewer::Tenant(tenant), Owner::Shared) => {
                let own = Owner::Tenant(tenant.into());
                state.served.get(&own, name).is_some() || state.unavailable.get(&own, name).is_some()
            }
            _ => false,
        };
        for (owner, name, adapter) in state.records.adapters.iter() {
            if !viewer.sees(owner) || hidden(owner, name) {
                continue;
            }
            let Some(record) = adapter.current() else { continue };
            let served = state.served.get(owner, name);
            if served.is_none() && !record.loaded_by.is_on_call() {
                continue;
            }
            let held = |number: &u32| {
                let key = (owner.clone(), name.to_owned(), *number);
                state.tokens.get(&key).map_or(0, Weak::strong_count)
            };
            let mut draining: Vec<(u32, usize)> = state
                .tokens
                .iter()
                .filter(|((of, named, number), token)| {
                    of == owner && named == name && *number != record.number && token.strong_count() > 0
                })
                .map(|((_, _, number), token)| (*number, token.strong_count()))
                .collect();
            draining.sort_unstable();
            list.push(AdapterInfo {
                owner: owner.clone(),
                name: name.to_owned(),
                number: record.number,
                id: record.id,
                rank: record.rank,
                bytes: state.residents.get(&record.id).map_or(0, |adapter| adapter.bytes),
                loaded_at: record.loaded_at,
                loaded_by: record.loaded_by.clone(),
                // The catalog itself holds one of what is served.
                leases: held(&record.number).saturating_sub(usize::from(served.is_some())),
                draining,
            });
        }
        list
    }
}

fn may_load(state: &State, owner: &Owner, name: &str, if_loaded: IfLoaded, expected: Option<&str>) -> Result<(), RegistryError> {
    let served = state.served.get(owner, name).map(|served| served.number);
    let soon = || state.records.adapters.get(owner, name)?.current.filter(|_| state.behind.has(owner, name));
    if let (IfLoaded::Refuse, Some(number)) = (if_loaded, served.or_else(soon)) {
        return Err(RegistryError::AlreadyLoaded { name: name.to_owned(), number });
    }
    state.records.compare(owner, name, expected)
}

/// Seconds since 1970; a clock before that counts as 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(RegistryError::Interrupted))
}
