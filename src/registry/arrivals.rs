//! How a version that is not in memory comes there: of those who ask for it one reads it, when there is room beside those in use. Knows
//! no names; what leaves memory is [`Residents`](super::residents::Residents)' business.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::catalog::{Catalog, Found, Inner, Selected, blocking};
use super::residents::Residency;
use super::{Lease, RegistryError};
use crate::ids::VersionId;

/// How long an adapter waits for those in use to leave it room. After that it comes in all the same: a budget that is too small for
/// what is asked at once must not end answers.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked whether there is room: leases end in the engine, which tells nobody.
const LOOK_EVERY: Duration = Duration::from_millis(2);

impl Catalog {
    /// A lease on what was found; read from disk where it is not in memory. Of those who ask for the same version one reads it.
    pub(super) async fn lease(&self, found: Found) -> Result<Lease, RegistryError> {
        let selected = match found {
            Found::InMemory(lease) => return Ok(lease),
            Found::OnDisk(selected) => selected,
        };
        let arrival = self.inner.arrival(selected.id);
        let _arriving = arrival.lock().await;
        let selected = match self.inner.state().take(selected) {
            Found::InMemory(lease) => return Ok(lease),
            Found::OnDisk(selected) => selected,
        };
        let permit = self.inner.preparation().await?;
        self.inner.wait_for_room(&selected).await;
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let _permit = permit;
            inner.bring_back(selected)
        })
        .await
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

    /// Waits until a version fits beside those in use.
    async fn wait_for_room(&self, selected: &Selected) {
        let file_bytes = {
            let state = self.state();
            let adapter = state.records.adapters.get(&selected.owner, &selected.name);
            adapter.and_then(|adapter| adapter.numbered(selected.number)).map_or(0, |version| version.file_bytes)
        };
        let since = Instant::now();
        loop {
            {
                let mut state = self.state();
                let bytes = state.residents.size(&selected.id, file_bytes);
                if state.residents.make_room(bytes) {
                    return;
                }
            }
            if since.elapsed() > LONGEST_WAIT {
                tracing::warn!(
                    adapter = selected.name,
                    "adapters in use take more memory than adapter_memory; one more comes in"
                );
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
