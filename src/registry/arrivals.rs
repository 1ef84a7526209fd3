//! How a version that is not in memory comes there: of those who ask for it one reads it, when there is room beside those in use. Whoever
//! waits for room keeps nobody else from reading. Knows no names; what leaves memory is [`Residents`](super::residents::Residents)' business.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::catalog::{Catalog, Found, Inner, Selected, State, blocking};
use super::residents::Residency;
use super::{Lease, RegistryError};
use crate::ids::VersionId;

/// How long an adapter waits for those in use to leave it room. After that it comes in all the same: a budget that is too small for
/// what is asked at once must not end answers.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked whether there is room: leases end in the engine, which tells nobody.
const LOOK_EVERY: Duration = Duration::from_millis(2);

impl Catalog {
    /// A lease on what was found; read from disk where it is not in memory, when there is room. Of those who ask for the same version
    /// one reads it.
    pub(super) async fn lease(&self, found: Found) -> Result<Lease, RegistryError> {
        self.lease_within(found, LONGEST_WAIT).await
    }

    /// The same, with so much patience for room.
    pub(super) async fn lease_within(&self, found: Found, patience: Duration) -> Result<Lease, RegistryError> {
        let mut selected = match found {
            Found::InMemory(lease) => return Ok(lease),
            Found::OnDisk(selected) => selected,
        };
        let arrival = self.inner.arrival(selected.id);
        let _arriving = arrival.lock().await;
        let since = Instant::now();
        let mut leave = None;
        loop {
            // Asked again after every wait: somebody may have brought it, even one who went away before it was here.
            selected = match self.inner.state().take(selected) {
                Found::InMemory(lease) => return Ok(lease),
                Found::OnDisk(selected) => selected,
            };
            match leave.take() {
                None => leave = Some(self.inner.preparation().await?),
                Some(permit) if self.inner.has_room(&selected, since.elapsed() >= patience) => {
                    let inner = Arc::clone(&self.inner);
                    return blocking(move || {
                        let _permit = permit;
                        inner.bring_back(selected)
                    })
                    .await;
                }
                Some(permit) => {
                    // Others may have something to read that fits.
                    drop(permit);
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    /// What adapters take in memory.
    pub fn residency(&self) -> Residency {
        self.inner.state().residents.residency()
    }
}

impl Inner {
    /// The place of whoever brings a version into memory.
    fn arrival(&self, id: VersionId) -> Arc<tokio::sync::Mutex<()>> {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(arrival) = arrivals.get(&id).and_then(Weak::upgrade) {
            return arrival;
        }
        arrivals.retain(|_, arrival| arrival.strong_count() > 0);
        let arrival = Arc::default();
        arrivals.insert(id, Arc::downgrade(&arrival));
        arrival
    }

    /// Whether a version may come in now: it fits beside those in use, or it has waited long enough.
    fn has_room(&self, selected: &Selected, waited: bool) -> bool {
        let state = self.state();
        let fits = state.residents.has_room(state.size(selected));
        if !fits && waited {
            let adapter = &selected.name;
            tracing::warn!(adapter, "adapters in use take more memory than adapter_memory; one more comes in");
        }
        fits || waited
    }

    /// A lease on a version that nobody holds any more. Those that nobody uses leave for it when it is known that it can be read.
    fn bring_back(&self, selected: Selected) -> Result<Lease, RegistryError> {
        let (version, id) = (format!("{}@{}", selected.name, selected.number), selected.id);
        let read = || {
            let weights = self.stored(id)?;
            let mut state = self.state();
            let bytes = state.size(&selected);
            state.residents.make_room(bytes);
            Ok(weights)
        };
        let adapter = self.prepared(id, read).map_err(|error| {
            let mut state = self.state();
            // Between the look-up and the reading the version may have been forgotten.
            let gone = !state.records.referenced().contains(&id);
            if !gone && error.is_lasting() {
                state.give_up(&selected, &error);
            }
            match error {
                _ if gone => RegistryError::NotFound { model: version },
                // It was taken in once; who names it now has made no mistake.
                RegistryError::Unusable(error) => RegistryError::Unavailable { name: version, reason: error.to_string() },
                error => error,
            }
        })?;
        let mut state = self.state();
        if state.records.referenced().contains(&id) {
            state.residents.keep(&adapter);
        }
        Ok(state.lease(selected, adapter))
    }
}

impl State {
    /// Bytes that a version takes in memory, or about as many.
    fn size(&self, selected: &Selected) -> usize {
        let adapter = self.records.adapters.get(&selected.owner, &selected.name);
        let file_bytes = adapter.and_then(|adapter| adapter.numbered(selected.number)).map_or(0, |version| version.file_bytes);
        self.residents.size(&selected.id, file_bytes)
    }

    /// A version cannot be used. Where it is what its name means, the name is not served until it is loaded again: nobody reads it anew
    /// for each request.
    fn give_up(&mut self, selected: &Selected, error: &RegistryError) {
        let Selected { owner, name, number, id } = selected;
        let current = self.records.adapters.get(owner, name).and_then(|adapter| adapter.current());
        let is_current = current.is_some_and(|current| current.number == *number && current.id == *id);
        if is_current && self.residents.get(id).is_none() {
            tracing::error!(%error, adapter = name, "an adapter goes out of service");
            self.served.remove(owner, name);
            self.unavailable.insert(owner, name, error.public_reason());
        }
    }
}
