//! Adapters that replicas share: what is remembered of them in the database, their files in the object store. A change is one
//! transaction that begins by counting, so that those of all replicas happen one after the other, each knowing the ones before it.
//!
//! Called on blocking threads. While a change waits for the database nothing else is held but the turn of changes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::catalog::{Catalog, Inner, State, blocking, now};
use super::owner::Owner;
use super::records::{self, Records};
use super::{RegistryError, name};
use crate::ids::VersionId;
use crate::model::lora::peft::{CONFIG_FILE, LINEAGE_FILE, WEIGHTS_FILE};
use crate::store::adapters::{self as rows, AdapterRow};
use crate::store::objects::Objects;
use crate::store::{Access, Database, StoreError, Transaction, write_durably};

/// How often the database is asked whether another replica has changed something.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often versions that nothing mentions any more are looked for in the object store.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);
/// How long an adapter waits that could not be brought into service for reasons that may pass.
const AGAIN: Duration = Duration::from_secs(5);
/// Shortest time between two questions for names that nobody here has heard of.
const BETWEEN: Duration = Duration::from_millis(50);
/// Largest file of a version, bytes: above what an adapter may have.
const LARGEST: u64 = 4 << 30;
/// Where versions are in the object store.
const VERSIONS: &str = "versions";

/// Where replicas keep their adapters together.
#[derive(Debug)]
pub struct Shared {
    database: Database,
    objects: Objects,
    runtime: Handle,
}

/// Adapters that other replicas have changed and that are not in service as they are now yet.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The counter of changes up to which the records are true.
    seen: i64,
    names: BTreeSet<(Owner, String)>,
    /// When those are tried again that could not be brought into service.
    again: Option<Instant>,
    /// When it was last asked for the sake of a name that nobody here has heard of.
    asked: Option<Instant>,
}

impl Behind {
    /// Whether another replica has changed the adapter, and it is not in service as it is now yet.
    pub(super) fn has(&self, owner: &Owner, name: &str) -> bool {
        !self.names.is_empty() && self.names.contains(&(owner.clone(), name.to_owned()))
    }
}

/// A change that is being made: the turn among those of this process and, of replicas, among all of them.
pub(super) struct Change<'a> {
    shared: Option<(&'a Shared, Transaction, i64)>,
    _turn: MutexGuard<'a, ()>,
}

impl Shared {
    /// Called on the runtime.
    pub fn new(database: Database, objects: Objects) -> Self {
        Self { database, objects, runtime: Handle::current() }
    }

    pub(super) fn cache(&self) -> u64 {
        self.objects.cache()
    }

    pub(super) fn put(&self, id: VersionId, file: &str, content: Vec<u8>) -> Result<(), StoreError> {
        self.runtime.block_on(self.objects.put(&format!("{VERSIONS}/{id}/{file}"), content))
    }

    /// Writes the files of a version into a directory. Whoever reads them checks their digest.
    pub(super) fn fetch(&self, id: VersionId, into: &Path) -> Result<(), StoreError> {
        for file in [CONFIG_FILE, WEIGHTS_FILE, LINEAGE_FILE] {
            let key = format!("{VERSIONS}/{id}/{file}");
            match self.runtime.block_on(self.objects.get(&key, LARGEST))? {
                Some(content) => write_durably(&into.join(file), &content, Access::Normal)?,
                None if file == LINEAGE_FILE => {}
                None => return Err(StoreError::Damaged { path: key.into(), reason: "it is not in the object store".to_owned() }),
            }
        }
        Ok(())
    }

    /// Nobody waits for ever for a replica that has gone in the middle of a change.
    async fn begin(&self) -> Result<(Transaction, i64), StoreError> {
        let mut transaction = self.database.begin().await?;
        rows::bound(&mut transaction).await?;
        let counter = rows::count(&mut transaction).await?;
        Ok((transaction, counter))
    }
}

impl Change<'_> {
    /// Makes what the records say of an adapter durable; once. Nothing has changed where this fails. The turn goes on, for what is in
    /// memory.
    pub(super) fn write(&mut self, inner: &Inner, records: &Records, owner: &Owner, name: &str) -> Result<(), RegistryError> {
        let Some((shared, mut transaction, counter)) = self.shared.take() else { return Ok(records.write(&inner.data)?) };
        let row = row(records, owner, name, counter)?;
        shared.runtime.block_on(async {
            rows::put(&mut transaction, &row).await?;
            transaction.commit().await
        })?;
        inner.state().behind.seen = counter;
        Ok(())
    }
}

fn row(records: &Records, owner: &Owner, name: &str, counter: i64) -> Result<AdapterRow, StoreError> {
    let (owner_id, record) = (owner.tenant().unwrap_or_default().to_owned(), records.told(owner, name)?);
    Ok(AdapterRow { owner: owner_id, name: name.to_owned(), record, counter })
}

impl Catalog {
    /// Whether it is worth while to look again for something that was not found: another replica may have taken it a moment ago.
    pub(super) async fn has_heard_more(&self) -> bool {
        if self.inner.shared.is_none() {
            return false;
        }
        {
            let mut state = self.inner.state();
            if state.behind.asked.is_some_and(|asked| asked.elapsed() < BETWEEN) {
                return false;
            }
            state.behind.asked = Some(Instant::now());
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.look()).await.unwrap_or(false)
    }

    /// Keeps up with what other replicas change, until it is dropped.
    pub async fn keep_up(self) {
        if self.inner.shared.is_none() {
            return std::future::pending().await;
        }
        // What others change is known at once, however long files take to come.
        tokio::join!(self.listen(), self.bring());
    }

    async fn bring(&self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let inner = Arc::clone(&self.inner);
            let brought = blocking(move || {
                inner.catch_up();
                Ok(())
            });
            if let Err(error) = brought.await {
                tracing::warn!(%error, "what other replicas have changed is not brought into service");
            }
        }
    }

    async fn listen(&self) {
        let mut swept = Instant::now();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = false;
        loop {
            look.tick().await;
            let inner = Arc::clone(&self.inner);
            match blocking(move || inner.look()).await {
                Ok(_) => told = false,
                Err(error) if !told => {
                    tracing::warn!(%error, "what other replicas change of adapters is not seen");
                    told = true;
                }
                Err(_) => {}
            }
            if swept.elapsed() >= SWEEP_EVERY {
                swept = Instant::now();
                let inner = Arc::clone(&self.inner);
                if let Err(error) = blocking(move || inner.sweep_objects()).await {
                    tracing::warn!(%error, "old adapter versions were not removed from the object store");
                }
            }
        }
    }
}

impl Inner {
    /// Takes a turn to change something; what others have changed before is known then.
    pub(super) fn begin_change(&self) -> Result<Change<'_>, RegistryError> {
        let turn = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shared) = self.shared.as_deref() else { return Ok(Change { shared: None, _turn: turn }) };
        let (mut transaction, counter) = shared.runtime.block_on(shared.begin())?;
        let seen = self.state().behind.seen;
        let changed = shared.runtime.block_on(rows::changed_since(&mut transaction, seen))?;
        self.hear(&changed)?;
        Ok(Change { shared: Some((shared, transaction, counter)), _turn: turn })
    }

    /// Reads what replicas remember together; what only this process remembers, of a life by itself, is added. Before anything else.
    pub(super) fn join(&self) -> Result<(), RegistryError> {
        let Some(shared) = self.shared.as_deref() else { return Ok(()) };
        let own = std::mem::take(&mut self.state().records);
        let rows = shared.runtime.block_on(async {
            let mut connection = shared.database.connection().await?;
            rows::changed_since(&mut connection, 0).await
        })?;
        self.hear(&rows)?;
        // Also names that somebody has taken out of service since.
        let known: BTreeSet<(&str, &str)> = rows.iter().map(|row| (row.owner.as_str(), row.name.as_str())).collect();
        for (owner, name, adapter) in own.adapters.iter() {
            if known.contains(&(owner.tenant().unwrap_or_default(), name)) {
                continue;
            }
            for version in &adapter.versions {
                // What cannot be read is told when it is brought into service.
                if let Ok(files) = self.files.read(version.id) {
                    self.files.share(version.id, &files, Some(&self.files.place(version.id)))?;
                }
            }
            let mut change = self.begin_change()?;
            let mut records = self.state().records.clone();
            // Another process may have added one of this name a moment ago: it stays.
            records.adapters.get_or_insert_with(owner, name, || adapter.clone());
            change.write(self, &records, owner, name)?;
            self.state().records = records;
            tracing::info!(adapter = name, "an adapter that was this process's own is shared with the others now");
        }
        records::retire(&self.data)?;
        // Everything comes into service together after this.
        self.state().behind.names.clear();
        Ok(())
    }

    /// Asks whether something has changed, and remembers it.
    fn look(&self) -> Result<bool, RegistryError> {
        let Some(shared) = self.shared.as_deref() else { return Ok(false) };
        let seen = self.state().behind.seen;
        let counter = shared.runtime.block_on(async {
            let mut connection = shared.database.connection().await?;
            rows::counter(&mut connection).await
        })?;
        if counter > seen {
            let _turn = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = self.state().behind.seen;
            let changed = shared.runtime.block_on(async {
                let mut connection = shared.database.connection().await?;
                rows::changed_since(&mut connection, seen).await
            })?;
            self.hear(&changed)?;
        }
        Ok(counter > seen)
    }

    /// Takes over what other replicas have changed. The caller has the turn of changes.
    fn hear(&self, changed: &[AdapterRow]) -> Result<(), RegistryError> {
        let Some(last) = changed.iter().map(|row| row.counter).max() else { return Ok(()) };
        let (mut records, mut names) = (self.state().records.clone(), Vec::new());
        for AdapterRow { owner, name, record, .. } in changed {
            let owner = Owner::from(Some(owner.as_str()).filter(|owner| !owner.is_empty()));
            records.hear(&owner, name, record)?;
            names.push((owner, name.clone()));
        }
        let referenced = records.referenced();
        let mut state = self.state();
        state.replace_records(records, &referenced);
        state.behind.seen = last;
        state.behind.names.extend(names);
        state.behind.again = None;
        Ok(())
    }

    /// Brings what others have changed into service, or out of it. What fails for reasons that may pass is tried again.
    pub(super) fn catch_up(&self) {
        let names = {
            let mut state = self.state();
            if state.behind.again.is_some_and(|again| again > Instant::now()) {
                return;
            }
            std::mem::take(&mut state.behind.names)
        };
        let mut names = names.into_iter();
        while let Some((owner, name)) = names.next() {
            let meant = |state: &State| {
                let current = state.records.adapters.get(&owner, &name)?.current()?;
                (!current.loaded_by.is_on_call()).then_some((current.number, current.id, current.file_bytes))
            };
            let now = meant(&self.state());
            let brought = now.map(|(_, id, bytes)| {
                name::check(&name, self.reserved(&owner))?;
                self.fits(id, bytes).then(|| self.prepared(id, || self.stored(id))).transpose()
            });
            let mut state = self.state();
            // Somebody has changed it again meanwhile: it is among the names again.
            if meant(&state) != now {
                continue;
            }
            let (Some((number, id, _)), Some(brought)) = (now, brought) else {
                state.served.remove(&owner, &name);
                state.unavailable.remove(&owner, &name);
                continue;
            };
            match brought {
                Ok(adapter) => state.serve(&owner, &name, (number, id), adapter),
                Err(error @ (RegistryError::Storage(_) | RegistryError::Prepare(_))) if !error.is_lasting() => {
                    tracing::warn!(%error, adapter = name, "an adapter that another replica has changed is not in service yet");
                    // With all that come after it: they would wait for the same.
                    state.behind.names.insert((owner, name));
                    state.behind.names.extend(names);
                    state.behind.again = Some(Instant::now() + AGAIN);
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, adapter = name, "an adapter that another replica has changed cannot be served");
                    state.served.remove(&owner, &name);
                    state.unavailable.insert(&owner, &name, error.public_reason());
                }
            }
        }
    }

    /// Brings an adapter into service later, when what it needs can be reached.
    pub(super) fn later(&self, owner: &Owner, name: &str) {
        let mut state = self.state();
        state.behind.names.insert((owner.clone(), name.to_owned()));
        state.behind.again = Some(Instant::now() + AGAIN);
    }

    fn sweep_objects(&self) -> Result<(), RegistryError> {
        let Some(shared) = self.shared.as_deref() else { return Ok(()) };
        // With what others have changed a moment ago.
        self.look()?;
        let referenced = self.state().records.referenced();
        let needed = |key: &str| {
            let id = key.split('/').nth(1).and_then(|id| id.parse::<VersionId>().ok());
            id.is_none_or(|id| referenced.contains(&id))
        };
        let now = i64::try_from(now()).unwrap_or(i64::MAX);
        let removed = shared.runtime.block_on(shared.objects.sweep(VERSIONS, now, needed))?;
        if removed > 0 {
            tracing::info!(removed, "files of adapter versions that nothing mentions were removed from the object store");
        }
        Ok(())
    }
}
