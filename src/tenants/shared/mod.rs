//! Limits and budgets that several replicas keep together in Redis (or Valkey): asking it, ending loans there, and knowing whether it
//! answers. What is lent is decided by scripts, each in one piece; knows nothing of requests.
//!
//! A loan has a lease that this process renews, so that what a killed one held comes back. Ends of loans are sent one after another
//! and again until they arrive; a script ends each only once. While Redis is away nobody waits for it: it is looked for in the
//! background, and a share of every limit holds here.

pub(super) mod admit;
mod loan;
#[cfg(test)]
mod tests;
mod upkeep;
pub(super) mod wire;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::wallet::Wallet;
pub(super) use loan::Loan;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, IntoConnectionInfo, RedisError, Script};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use wire::{Borrow, Lent, Settlement};

pub use super::bound::Share;

/// Longest wait for a connection; nobody waits for it but the background.
const CONNECT: Duration = Duration::from_secs(2);

/// Where Redis is; it may hold a password and is therefore never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// `redis://`, `rediss://` (TLS) or `unix://`.
    pub fn new(text: &str) -> Option<Self> {
        let known = ["redis://", "rediss://", "unix://", "redis+unix://"].into_iter().any(|scheme| text.starts_with(scheme));
        (known && text.into_connection_info().is_ok()).then(|| Self(text.to_owned()))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisUrl(..)")
    }
}

/// How limits are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where.
    pub url: RedisUrl,
    /// Longest wait of a request for an answer.
    pub timeout: Duration,
    /// What a replica held that nobody hears of any more is free after this long.
    pub lease: Duration,
    /// What holds of every limit while Redis is away.
    pub share: Share,
}

/// Whether limits are kept together, for whoever asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sharing {
    /// Redis answers.
    pub connected: bool,
    /// What holds of every limit while it does not.
    pub share: Share,
    /// Times that it stopped answering.
    pub losses: u64,
    /// Requests that were admitted or refused by the share.
    pub alone: u64,
    /// Ends of loans that have not arrived there.
    pub unsettled: u64,
}

/// Redis does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Away;

/// A script did not do its work.
#[derive(Debug)]
struct Failure {
    reason: String,
    /// It was answered, with an error.
    refused: bool,
}

impl Failure {
    const fn silence(reason: String) -> Self {
        Self { reason, refused: false }
    }
}

/// Limits and budgets of all replicas. Cheap to clone.
#[derive(Clone)]
pub(super) struct Shared(Arc<Inner>);

struct Inner {
    client: Client,
    settings: Settings,
    /// Begins all keys: replicas of another database have others.
    prefix: String,
    node: Arc<str>,
    /// Begins the ids of this process's loans.
    boot: String,
    loans: AtomicU64,
    /// `None` while it is away.
    connection: RwLock<Option<MultiplexedConnection>>,
    /// Loans to be renewed.
    open: Mutex<HashSet<Arc<str>>>,
    ends: UnboundedSender<Settlement>,
    arriving: Mutex<Option<UnboundedReceiver<Settlement>>>,
    /// Ends that were begun, and that are done with.
    begun: AtomicU64,
    done: watch::Sender<u64>,
    lost: Notify,
    losses: AtomicU64,
    alone: AtomicU64,
    borrow: Script,
    settle: Script,
    renew: Script,
    probe: Script,
}

fn script(body: &str) -> Script {
    Script::new(&format!("{}\n{body}", include_str!("state.lua")))
}

impl Shared {
    /// Connects; where that fails it goes on without. `realm` tells replicas of one database from those of others.
    pub(super) async fn open(settings: Settings, realm: &str, node: &str) -> Result<Self, RedisError> {
        crate::outbound::install_tls();
        let client = Client::open(settings.url.0.as_str())?;
        let (ends, arriving) = unbounded_channel();
        let inner = Inner {
            client,
            prefix: format!("{{switchyard:{}}}:", realm.get(..16).unwrap_or(realm)),
            node: node.into(),
            boot: format!("{node}-{:x}", super::clock::unix_micros()),
            loans: AtomicU64::new(0),
            connection: RwLock::new(None),
            open: Mutex::default(),
            ends,
            arriving: Mutex::new(Some(arriving)),
            begun: AtomicU64::new(0),
            done: watch::Sender::new(0),
            lost: Notify::new(),
            losses: AtomicU64::new(0),
            alone: AtomicU64::new(0),
            borrow: script(include_str!("borrow.lua")),
            settle: script(include_str!("settle.lua")),
            renew: script(include_str!("renew.lua")),
            probe: script("redis.call('SET', P .. 'probe', '1', 'EX', KEEP)\nreturn 'ok'"),
            settings,
        };
        let shared = Self(Arc::new(inner));
        match shared.connect().await {
            Ok(connection) => drop(shared.set_connection(Some(connection))),
            Err(error) => {
                let share = shared.0.settings.share.part();
                tracing::warn!(%error, share, "Redis does not answer: a share of every limit holds here");
            }
        }
        Ok(shared)
    }

    /// How it stands.
    pub(super) fn sharing(&self) -> Sharing {
        Sharing {
            connected: self.connection().is_some(),
            share: self.0.settings.share,
            losses: self.0.losses.load(Ordering::Relaxed),
            alone: self.0.alone.load(Ordering::Relaxed),
            unsettled: self.0.begun.load(Ordering::Relaxed).saturating_sub(*self.0.done.borrow()),
        }
    }

    fn connection(&self) -> Option<MultiplexedConnection> {
        self.0.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_connection(&self, connection: Option<MultiplexedConnection>) -> Option<MultiplexedConnection> {
        std::mem::replace(&mut self.0.connection.write().unwrap_or_else(PoisonError::into_inner), connection)
    }

    /// A Redis that answers and takes what is written: one that is full or only a copy is of no use.
    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        // The client's own limits are far shorter; each call has its own patience.
        let longest = CONNECT.max(self.0.settings.timeout);
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(longest));
        let connecting = async {
            let connecting = self.0.client.get_multiplexed_async_connection_with_config(&config);
            let mut connection = connecting.await.map_err(|error| error.to_string())?;
            self.probe(&mut connection).await.map_err(|failure| failure.reason)?;
            Ok(connection)
        };
        match timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(format!("no answer within {} s", CONNECT.as_secs())),
        }
    }

    /// Writes something, as all scripts do.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        self.run::<String>(connection, &self.0.probe, CONNECT, &()).await.map(drop)
    }

    /// It is away until the background finds it again.
    fn note_loss(&self, reason: &str) {
        if self.set_connection(None).is_some() {
            self.0.losses.fetch_add(1, Ordering::Relaxed);
            let share = self.0.settings.share.part();
            tracing::warn!(reason, share, "Redis does not answer: a share of every limit holds here until it does");
            self.0.lost.notify_one();
        }
    }

    async fn run<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        script: &Script,
        patience: Duration,
        argument: &impl serde::Serialize,
    ) -> Result<T, Failure> {
        let argument = serde_json::to_string(argument).map_err(|error| Failure::silence(error.to_string()))?;
        let mut call = script.key(self.0.prefix.as_str());
        match timeout(patience, call.arg(argument).invoke_async(connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failure { refused: error.code().is_some(), reason: error.to_string() }),
            Err(_) => Err(Failure::silence(format!("no answer within {} ms", patience.as_millis()))),
        }
    }

    async fn borrow(&self, ask: &Borrow<'_>) -> Result<Lent, Away> {
        let mut connection = self.connection().ok_or(Away)?;
        let answer = self.run::<Vec<String>>(&mut connection, &self.0.borrow, self.0.settings.timeout, ask).await;
        let lent =
            answer.and_then(|answer| Lent::read(&answer).ok_or_else(|| Failure::silence("an answer that is none".to_owned())));
        lent.map_err(|failure| {
            self.note_loss(&failure.reason);
            Away
        })
    }

    /// Sends the end of a loan, soon.
    fn end(&self, settlement: Settlement) {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&settlement.loan);
        self.0.begun.fetch_add(1, Ordering::AcqRel);
        // The receiver lives as long as the process serves.
        let _ = self.0.ends.send(settlement);
    }

    /// How many loans were ended; for [`Shared::given_back`].
    pub(super) fn ended(&self) -> u64 {
        self.0.begun.load(Ordering::Acquire)
    }

    /// Waits until so many ends have arrived, as long as a request waits; not at all while Redis is away.
    pub(super) async fn given_back(&self, ended: u64) {
        if self.connection().is_some() {
            let mut done = self.0.done.subscribe();
            // Late is as good: it is sent again until it arrives.
            let _ = timeout(self.0.settings.timeout, done.wait_for(|done| *done >= ended)).await;
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
