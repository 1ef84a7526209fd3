//! Where public keys come from, and how fresh they are: a file that is read again when it changes, or an address that is asked
//! again now and then and when a token names a key that is not known. Knows nothing of tokens.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::keys::KeySet;
use crate::outbound::{Address, Caller};
use crate::store;

/// Largest key set, bytes. Sets of large issuers have some ten keys of 1 to 2 KB with their certificates.
const MAX_BYTES: usize = 512 * 1024;
/// Time that an issuer has to send its keys.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An unknown key id makes an address be asked again at most this often: ids are free to invent.
const LEAST_GAP: Duration = Duration::from_secs(10);
/// A file is looked at this often, and at an unknown key id at most this often.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// Keys that could not be read again for this long (beside the interval) are not trusted any more.
const STALE_AFTER: Duration = Duration::from_secs(3600);

/// Where public keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysFrom {
    /// A file with a JSON Web Key Set.
    File(PathBuf),
    /// An address that answers with one.
    Url(Address),
}

impl fmt::Display for KeysFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(address) => address.fmt(f),
        }
    }
}

enum Place {
    File(PathBuf),
    Url(Caller),
}

pub(super) struct KeySource {
    place: Place,
    name: String,
    /// Time between two readings that nobody asks for.
    interval: Duration,
    current: RwLock<Current>,
    /// When an unknown key id last caused a reading.
    asked: Mutex<Option<Instant>>,
    /// Held while the keys are read.
    reading: Arc<tokio::sync::Mutex<Outcome>>,
    /// Readings that have ended, well or not.
    rounds: AtomicU64,
}

#[derive(Default)]
struct Current {
    set: Arc<KeySet>,
    digest: Option<[u8; 32]>,
    generation: u64,
    /// When the set was last seen to be the issuer's.
    seen: Option<Instant>,
}

/// How the last reading ended, so that a lasting failure is logged once.
#[derive(Default)]
struct Outcome {
    failure: Option<String>,
}

impl KeySource {
    /// Reads the keys for the first time and keeps them fresh until the value is dropped. The text of an error is for operators.
    /// An address that does not answer is no error: it may be there later.
    pub(super) async fn start(from: &KeysFrom, refresh: Duration) -> Result<Arc<Self>, String> {
        let (place, interval) = match from {
            KeysFrom::File(path) => (Place::File(path.clone()), FILE_INTERVAL),
            KeysFrom::Url(address) => {
                let caller = Caller::new(address.clone(), TIMEOUT).map_err(|error| error.to_string())?;
                (Place::Url(caller), refresh)
            }
        };
        let source = Arc::new(Self {
            place,
            name: from.to_string(),
            interval,
            current: RwLock::default(),
            asked: Mutex::default(),
            reading: Arc::default(),
            rounds: AtomicU64::new(0),
        });
        let failure = source.read_now(Instant::now()).await;
        match (failure, from) {
            (Some(reason), KeysFrom::File(_)) => return Err(reason),
            _ => tokio::spawn(upkeep(Arc::downgrade(&source), interval)),
        };
        Ok(source)
    }

    /// The keys and which change of them this is; `None` where there are none that can be trusted.
    pub(super) fn keys(&self, now: Instant) -> Option<(Arc<KeySet>, u64)> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_duration_since(current.seen?);
        (age <= STALE_AFTER + self.interval).then(|| (Arc::clone(&current.set), current.generation))
    }

    /// Reads the keys again because one is missing, if that was not done for the same reason just before. Waits for a reading
    /// that is under way.
    pub(super) async fn ask_again(self: &Arc<Self>, now: Instant) {
        let before = self.rounds.load(Ordering::Acquire);
        let turn = Arc::clone(&self.reading).lock_owned().await;
        if self.rounds.load(Ordering::Acquire) != before || !self.may_ask(now) {
            return;
        }
        let source = Arc::clone(self);
        // A task of its own: callers that leave must not end a reading that others wait for.
        let reading = tokio::spawn(async move { source.read(now, turn).await });
        // It only fails with the runtime.
        let _ = reading.await;
    }

    fn may_ask(&self, now: Instant) -> bool {
        let gap = self.interval.min(LEAST_GAP);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = asked.is_none_or(|asked| now.saturating_duration_since(asked) >= gap);
        if allowed {
            *asked = Some(now);
        }
        allowed
    }

    /// Reads the keys; the text of a failure.
    pub(super) async fn read_now(&self, now: Instant) -> Option<String> {
        let turn = Arc::clone(&self.reading).lock_owned().await;
        self.read(now, turn).await
    }

    async fn read(&self, now: Instant, mut last: tokio::sync::OwnedMutexGuard<Outcome>) -> Option<String> {
        let failure = match self.fetch().await.and_then(|bytes| self.take_over(&bytes, now)) {
            Ok(()) => None,
            Err(reason) => Some(format!("the keys of token issuers cannot be read from {}: {reason}", self.name)),
        };
        if failure != last.failure {
            match &failure {
                Some(reason) => tracing::warn!("{reason}"),
                None => tracing::info!(from = self.name, "the keys of token issuers can be read again"),
            }
            last.failure.clone_from(&failure);
        }
        self.rounds.fetch_add(1, Ordering::AcqRel);
        failure
    }

    async fn fetch(&self) -> Result<Vec<u8>, String> {
        match &self.place {
            Place::Url(caller) => caller.get(MAX_BYTES).await.map_err(|error| error.to_string()),
            Place::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || store::read_limited(&path, MAX_BYTES as u64));
                read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            }
        }
    }

    fn take_over(&self, bytes: &[u8], now: Instant) -> Result<(), String> {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let known = self.current.read().unwrap_or_else(PoisonError::into_inner).digest == Some(digest);
        let set = if known { None } else { Some(KeySet::parse(bytes)?) };
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.seen = Some(now);
        if let Some(set) = set {
            for skipped in &set.skipped {
                tracing::warn!(from = self.name, "left out: {skipped}");
            }
            current.set = Arc::new(set);
            current.digest = Some(digest);
            current.generation += 1;
        }
        Ok(())
    }
}

/// Ends with the source.
async fn upkeep(source: Weak<KeySource>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(source) = source.upgrade() else { return };
        source.read_now(Instant::now()).await;
    }
}
