//! What a server keeps in memory about tenants, and how that stays true while this process and others change the database.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::budget::Period;
use super::identity::{self, AuthError, Identity};
use super::journal::Sync;
use super::ledger::Ledger;
use super::office::Office;
use super::policy::{Policy, Subject};
use super::purse::Purse;
use super::shared::{self, Shared, Sharing};
use super::ticket::{Books, subjects};
use super::wallet::{BudgetReached, Spent};
use super::{Principal, Secrets, TenantError, clock, secrets};
use crate::store::ledger::{Nodes, SpentRow, spent};
use crate::store::{self, Access, Database, StoreError};

/// How often the database is asked whether another process has changed something.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Without its database a server answers those whom it knows for this long. A revocation that it cannot hear of takes as long.
const GRACE: Duration = Duration::from_secs(60);
/// Every so many looks it is also asked what other processes have spent.
const ASK_OTHERS_EVERY: u64 = 4;
/// Names the data directory in the ledger.
const NODE_FILE: &str = "node";

/// What is needed to open.
pub struct Opening<'a> {
    /// The database and its secret key.
    pub office: Office,
    /// The journal and the node's name live here.
    pub data_dir: &'a Path,
    /// When rows of the ledger are put on the disk.
    pub sync: Sync,
    /// Where limits and budgets are kept for all replicas together.
    pub shared: Option<shared::Settings>,
}

/// Tenants, keys and what they may do. Cheap to clone.
#[derive(Clone)]
pub struct Tenants(Arc<Inner>);

struct Inner {
    office: Office,
    identity: Identity,
    policy: RwLock<Arc<Policy>>,
    /// The revision that the policy was read at.
    revision: AtomicI64,
    /// When the database was last asked with success, seconds since the process's start.
    asked: AtomicU64,
    node: String,
    books: Books,
    ledger: Ledger,
    shared: Option<Shared>,
    purses: Mutex<Vec<Weak<Purse>>>,
    reached: UnboundedSender<BudgetReached>,
}

/// Budgets that reach a threshold, as they do.
pub type BudgetEvents = UnboundedReceiver<BudgetReached>;

impl Tenants {
    /// Name of this process's data directory among those that share a database.
    pub fn node(&self) -> &str {
        &self.0.node
    }

    /// Takes the journal of an earlier life over, and reads the policy and what was spent. Only one process may do this for a data directory at a time.
    pub async fn open(opening: Opening<'_>) -> Result<(Self, BudgetEvents), TenantError> {
        let Opening { office, data_dir, sync, shared } = opening;
        let (database, secrets) = (office.database.clone(), Arc::clone(&office.secrets));
        let node = node(data_dir)?;
        let ledger = Ledger::open(database.clone(), data_dir, &node, sync).await?;
        let now = clock::unix();
        let spent = spent(&database, Nodes::Only(&node), Period::Day.first_hour(now), Period::Month.first_hour(now)).await?;
        let (reached, events) = unbounded_channel();
        let rows = store::policy::read(&database).await?;
        let revision = rows.revision;
        let shared = match shared {
            Some(settings) => Some(Shared::open(settings, secrets.check(), &node).await?),
            None => None,
        };
        let inner = Inner {
            identity: Identity::new(database, secrets),
            office,
            policy: RwLock::new(Arc::new(Policy::new(rows)?)),
            revision: AtomicI64::new(revision),
            asked: AtomicU64::new(clock::now().elapsed.as_secs()),
            node,
            books: Books::new(by_subject(&spent), now),
            ledger,
            shared,
            purses: Mutex::default(),
            reached,
        };
        let tenants = Self(Arc::new(inner));
        tenants.ask_others().await?;
        Ok((tenants, events))
    }

    /// Makes sure that there is an admin key; a new one is returned to be shown once.
    pub async fn ensure_admin(&self, data_dir: &Path, given: Option<&str>) -> Result<Option<String>, TenantError> {
        let made =
            identity::ensure_admin(&self.0.office.database, &self.0.office.secrets, data_dir, given, clock::unix()).await?;
        self.refresh().await?;
        Ok(made)
    }

    /// Whose key this is.
    pub async fn authenticate(&self, presented: &str) -> Result<Arc<Principal>, AuthError> {
        self.0.identity.authenticate(presented, clock::unix()).await
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    pub(super) fn books(&self) -> &Books {
        &self.0.books
    }

    /// Where limits are kept for all replicas together.
    pub(super) fn shared(&self) -> Option<&Shared> {
        self.0.shared.as_ref()
    }

    /// How it stands with limits that are kept for all replicas together, where they are.
    pub fn sharing(&self) -> Option<Sharing> {
        self.shared().map(Shared::sharing)
    }

    pub(super) fn reached(&self) -> &UnboundedSender<BudgetReached> {
        &self.0.reached
    }

    /// Takes over what other processes have spent.
    async fn ask_others(&self) -> Result<(), TenantError> {
        let now = clock::unix();
        let (day, month) = (Period::Day.first_hour(now), Period::Month.first_hour(now));
        let others = spent(&self.0.office.database, Nodes::Except(&self.0.node), day, month).await?;
        self.0.books.set_others(by_subject(&others), now);
        let purses: Vec<Arc<Purse>> = {
            let mut purses = self.0.purses.lock().unwrap_or_else(PoisonError::into_inner);
            purses.retain(|purse| purse.strong_count() > 0);
            purses.iter().filter_map(Weak::upgrade).collect()
        };
        for purse in purses {
            purse.ask_others(&self.0.office.database, &self.0.node).await?;
        }
        Ok(())
    }

    /// From now on it is told what other processes spend, for as long as somebody has it.
    pub(super) fn keep(&self, purse: &Arc<Purse>) {
        self.0.purses.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(purse));
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.0.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where tenants are changed; [`Tenants::refresh`] afterwards makes a change hold at once.
    pub fn office(&self) -> &Office {
        &self.0.office
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.0.office.database
    }

    /// Hashes keys and seals secrets.
    pub fn secrets(&self) -> &Secrets {
        &self.0.office.secrets
    }

    /// Takes changes over that are in the database; called after each change of this process, so that it holds at once.
    pub async fn refresh(&self) -> Result<(), TenantError> {
        // Keys first: what is remembered from now on is read after the change.
        self.0.identity.forget();
        let rows = store::policy::read(&self.0.office.database).await?;
        let revision = rows.revision;
        let policy = Arc::new(Policy::new(rows)?);
        let mut current = self.0.policy.write().unwrap_or_else(PoisonError::into_inner);
        // Two refreshes may overtake each other.
        if revision >= self.0.revision.load(Ordering::Acquire) {
            self.0.revision.store(revision, Ordering::Release);
            *current = policy;
        }
        Ok(())
    }

    /// Keeps up with other processes until it is dropped.
    pub async fn keep_up(self) {
        match self.0.shared.clone() {
            None => self.look_around().await,
            Some(shared) => {
                tokio::join!(self.look_around(), shared.keep_up());
            }
        }
    }

    async fn look_around(self) {
        for look in 1u64.. {
            tokio::time::sleep(LOOK_EVERY).await;
            // Who was revoked is more urgent than what was spent.
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "what other processes changed is not known");
            }
            if self.0.office.database.is_shared()
                && look.is_multiple_of(ASK_OTHERS_EVERY)
                && let Err(error) = self.ask_others().await
            {
                tracing::warn!(%error, "what other processes have spent is not known");
            }
        }
    }

    async fn look(&self) -> Result<(), TenantError> {
        let now = clock::now().elapsed.as_secs();
        let revision = match self.0.office.database.revision().await {
            Ok(revision) => revision,
            Err(error) => {
                if now.saturating_sub(self.0.asked.load(Ordering::Acquire)) > GRACE.as_secs() {
                    self.0.identity.forget();
                }
                return Err(error.into());
            }
        };
        self.0.asked.store(now, Ordering::Release);
        if revision != self.0.revision.load(Ordering::Acquire) {
            self.refresh().await?;
        }
        Ok(self.0.identity.note_uses().await?)
    }
}

impl std::fmt::Debug for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenants").finish_non_exhaustive()
    }
}

/// A key's spending is its own, its tenant's and everybody's.
fn by_subject(rows: &[SpentRow]) -> HashMap<Subject, Spent> {
    let mut sums: HashMap<Subject, Spent> = HashMap::new();
    for row in rows {
        for subject in subjects(&row.project_id, &row.key_id) {
            let sum = sums.entry(subject).or_default();
            sum.total = sum.total.saturating_add(row.total);
            sum.month = sum.month.saturating_add(row.month);
            sum.day = sum.day.saturating_add(row.day);
        }
    }
    sums
}

/// The data directory's name in the ledger, made once.
fn node(data_dir: &Path) -> Result<String, TenantError> {
    let path = data_dir.join(NODE_FILE);
    if path.exists() {
        let bytes = store::read_limited(&path, 256).map_err(StoreError::io("read", &path))?;
        return Ok(String::from_utf8_lossy(&bytes).trim().to_owned());
    }
    let node = secrets::new_id("n")?;
    store::write_durably(&path, node.as_bytes(), Access::Normal)?;
    Ok(node)
}
