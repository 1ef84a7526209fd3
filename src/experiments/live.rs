//! The deployments in force, in memory: found by name and assigned from without asking the database. Keeps up with what other
//! processes change, and keeps the versions in memory that traffic goes to, or may have to go back to.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::assign::Unit;
use super::conversations::{Conversations, Kept};
use super::deployment::{self, Made, Revision, Spec, USUAL_RESIDENT};
use super::{Assigned, By, ExperimentError};
use crate::ids::VersionId;
use crate::registry::{Catalog, Excess, Owner, Pinned, Resident, Viewer};
use crate::store::deployments::{self as rows, DeploymentRow, RevisionRow};
use crate::tenants::{Tenants, unix};

/// How often the database is asked whether another process has changed something.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Revisions of each deployment in memory: what a rollback can go back to without asking anybody.
pub(super) const REMEMBERED: i64 = 16;

/// What deployments are made of.
pub struct Setup {
    /// The database, and who may do what.
    pub tenants: Tenants,
    /// Adapters.
    pub catalog: Catalog,
    /// Public name of the base.
    pub base: String,
    /// Names of models that are other servers.
    pub upstreams: Vec<String>,
}

/// A deployment as it is in force.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// `dep_...`
    pub id: Arc<str>,
    /// Whose it is.
    pub owner: Owner,
    /// Public name.
    pub name: Arc<str>,
    /// Revision of the last rollback; 0 where there was none.
    pub epoch: i64,
    /// Seconds since 1970.
    pub created_at: i64,
    /// What is in force.
    pub current: Arc<Revision>,
    /// The newest first, `current` included; as far as it is in memory.
    pub history: Vec<Arc<Revision>>,
    salt: String,
    /// Names of the arms in their order, each with its part of the traffic.
    shares: Arc<[(Arc<str>, f64)]>,
}

impl Deployment {
    /// What it does.
    pub fn spec(&self) -> &Spec {
        &self.current.spec
    }

    pub(super) fn new(row: DeploymentRow, history: Vec<Arc<Revision>>) -> Result<Self, ExperimentError> {
        let Some(current) = history.first().cloned() else {
            let reason = "it is missing".to_owned();
            return Err(ExperimentError::Damaged { id: row.id, revision: row.revision, reason });
        };
        let DeploymentRow { id, owner, name, epoch, salt, created_at, .. } = row;
        let owner = Some(owner.as_str()).filter(|owner| !owner.is_empty()).into();
        let shares = shares(&current.spec);
        Ok(Self { id: id.into(), owner, name: name.into(), epoch, created_at, current, history, salt, shares })
    }

    /// The same with another revision in force, before the database knows of it.
    pub(super) fn restored(&self, revision: Arc<Revision>) -> Self {
        let shares = shares(&revision.spec);
        let history = std::iter::once(Arc::clone(&revision)).chain(self.history.iter().cloned()).collect();
        Self { epoch: revision.number, current: revision, history, shares, ..self.clone() }
    }
}

/// What is in force under a name.
struct Entry {
    /// As the database has it.
    durable: Arc<Deployment>,
    /// Of a rollback that is being written down: it holds already.
    ahead: Option<Arc<Deployment>>,
}

#[derive(Default)]
struct Table(HashMap<Owner, HashMap<Arc<str>, Entry>>);

/// Deployments. Cheap to clone.
#[derive(Clone)]
pub struct Deployments(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) tenants: Tenants,
    pub(super) catalog: Catalog,
    pub(super) base: String,
    pub(super) upstreams: Vec<String>,
    table: RwLock<Table>,
    /// Count of changes up to which the table is true.
    seen: AtomicI64,
    conversations: Conversations,
    /// When it was last said that an arm cannot serve, seconds since 1970.
    warned: AtomicI64,
    /// Versions in memory, and until when where no traffic goes to them any more.
    residents: Mutex<HashMap<VersionId, (Resident, Option<Instant>)>>,
}

/// What a request says about who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask<'a> {
    /// Who pays.
    pub tenant: &'a str,
    /// Who or what keeps its arm.
    pub unit: &'a str,
    /// The conversation that it belongs to.
    pub conversation: Option<&'a str>,
    /// The arm that it wants.
    pub arm: Option<&'a str>,
}

/// An arm for a request.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Its place in the spec.
    pub arm: usize,
    /// For records.
    pub assigned: Arc<Assigned>,
}

impl Deployments {
    /// Reads what is in force.
    pub async fn open(setup: Setup) -> Result<Self, ExperimentError> {
        let Setup { tenants, catalog, base, upstreams } = setup;
        let inner = Inner {
            tenants,
            catalog,
            base,
            upstreams,
            table: RwLock::default(),
            seen: AtomicI64::new(0),
            conversations: Conversations::default(),
            warned: AtomicI64::new(0),
            residents: Mutex::default(),
        };
        let deployments = Self(Arc::new(inner));
        deployments.refresh().await?;
        // What they may have to go back to was in memory before the restart.
        for deployment in deployments.list(Viewer::Operator) {
            if let Some(previous) = deployment::previous(&deployment.history) {
                deployments.hold(previous.spec.versions()).await;
            }
        }
        Ok(deployments)
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn residents(&self) -> MutexGuard<'_, HashMap<VersionId, (Resident, Option<Instant>)>> {
        self.0.residents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An owner's deployment.
    pub fn get(&self, owner: &Owner, name: &str) -> Option<Arc<Deployment>> {
        let table = self.table();
        let entry = table.0.get(owner)?.get(name)?;
        Some(Arc::clone(entry.ahead.as_ref().unwrap_or(&entry.durable)))
    }

    /// The one that a name means to a tenant: its own, else the shared one.
    pub fn find(&self, tenant: &str, name: &str) -> Option<Arc<Deployment>> {
        self.get(&Owner::Tenant(tenant.into()), name).or_else(|| self.get(&Owner::Shared, name))
    }

    /// What the database is known to say, where a rollback is ahead of it.
    pub(super) fn durable(&self, owner: &Owner, name: &str) -> Option<Arc<Deployment>> {
        self.table().0.get(owner)?.get(name).map(|entry| Arc::clone(&entry.durable))
    }

    /// Deployments that somebody sees, by owner and name.
    pub fn list(&self, viewer: Viewer<'_>) -> Vec<Arc<Deployment>> {
        let table = self.table();
        let seen = table.0.iter().filter(|(owner, _)| viewer.sees(owner)).flat_map(|(_, names)| names.values());
        let mut list: Vec<_> = seen.map(|entry| Arc::clone(entry.ahead.as_ref().unwrap_or(&entry.durable))).collect();
        list.sort_by(|a, b| (&a.owner, &a.name).cmp(&(&b.owner, &b.name)));
        list
    }

    /// The arm for a request: the one that it names, the one that its conversation has, or the one that its unit gets.
    pub fn assign(&self, deployment: &Deployment, ask: &Ask<'_>) -> Result<Chosen, ExperimentError> {
        let spec = deployment.spec();
        let unit = Unit::new(&deployment.id, &deployment.salt, ask.tenant, ask.unit);
        let assigned = |arm: usize, by: By| Chosen {
            arm,
            assigned: Arc::new(Assigned {
                deployment: Arc::clone(&deployment.name),
                owner: deployment.owner.clone(),
                experiment: Arc::clone(&deployment.current.experiment),
                revision: deployment.current.number,
                arm: Arc::clone(&deployment.shares[arm].0),
                unit: unit.bits(),
                shares: Arc::clone(&deployment.shares),
                by,
            }),
        };
        let place = |name: &str| spec.arms.iter().position(|arm| arm.name == name);
        if let Some(wanted) = ask.arm {
            let unknown = || ExperimentError::UnknownArm {
                deployment: deployment.name.to_string(),
                arm: wanted.chars().take(64).collect(),
                known: spec.arm_names(),
            };
            return Ok(assigned(place(wanted).ok_or_else(unknown)?, By::Name));
        }
        let conversation = ask.conversation.map(|conversation| unit.conversation(conversation));
        if let Some(kept) = conversation.and_then(|id| self.0.conversations.get(id))
            && kept.epoch == deployment.epoch
            && let Some(arm) = place(&kept.arm)
            && !spec.arms[arm].weight.is_none()
        {
            return Ok(assigned(arm, By::Conversation));
        }
        // Weights are 100 together, so that there is one.
        let arm = unit.choose(spec.arms.iter().map(|arm| (arm.name.as_str(), arm.weight))).unwrap_or_default();
        if let Some(id) = conversation {
            let arm = Arc::clone(&deployment.shares[arm].0);
            self.0.conversations.keep(id, Kept { arm, epoch: deployment.epoch });
        }
        Ok(assigned(arm, By::Weight))
    }

    /// Tells the operator that an arm cannot serve, once a second at most: it may be true of every request.
    pub fn cannot_serve(&self, deployment: &Deployment, arm: &str, error: &dyn std::fmt::Display) {
        let now = unix();
        if self.0.warned.swap(now, Ordering::AcqRel) != now {
            tracing::warn!(%error, deployment = &*deployment.name, arm, "an arm cannot serve");
        }
    }

    /// Takes over what was changed, by any process.
    pub async fn refresh(&self) -> Result<(), ExperimentError> {
        let mut connection = self.0.tenants.database().connection().await?;
        let seen = self.0.seen.load(Ordering::Acquire);
        let counter = rows::counter(&mut connection).await?;
        if counter <= seen {
            return Ok(());
        }
        for row in rows::changed_since(&mut connection, seen).await? {
            let history = rows::revisions(&mut connection, &row.id, row.revision + 1, REMEMBERED).await?;
            let (id, gone) = (row.id.clone(), row.deleted);
            match revisions(&row.id, history).and_then(|history| Deployment::new(row, history)) {
                Ok(deployment) => {
                    if !gone {
                        self.hold(deployment.spec().versions()).await;
                    }
                    self.put(&Arc::new(deployment));
                }
                // The others are none the worse for it.
                Err(error) => tracing::error!(%error, id, "a deployment cannot be read"),
            }
        }
        self.0.seen.fetch_max(counter, Ordering::AcqRel);
        Ok(())
    }

    /// Keeps up with other processes until it is dropped.
    pub async fn keep_up(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.0.tenants.database().is_shared()
                && let Err(error) = self.refresh().await
            {
                tracing::warn!(%error, "what other processes changed of deployments is not known");
            }
            self.let_go(Instant::now());
        }
    }

    /// Puts a state that the database has into force.
    pub(super) fn put(&self, deployment: &Arc<Deployment>) {
        let replaced = {
            let mut table = self.table_mut();
            let names = table.0.entry(deployment.owner.clone()).or_default();
            // Two of them may overtake each other.
            let known = names.get(&deployment.name).map(|entry| Arc::clone(&entry.durable));
            if known.as_ref().is_some_and(|known| known.current.number >= deployment.current.number) {
                return;
            }
            match (deployment.current.made, names.get_mut(&deployment.name)) {
                (Made::Deleted, _) => drop(names.remove(&deployment.name)),
                (_, Some(entry)) => entry.durable = Arc::clone(deployment),
                (_, None) => {
                    let entry = Entry { durable: Arc::clone(deployment), ahead: None };
                    names.insert(Arc::clone(&deployment.name), entry);
                }
            }
            known
        };
        let keep = Duration::from_secs(deployment.spec().keep_resident_seconds);
        let until = Instant::now().checked_add(keep);
        if let Some(replaced) = replaced {
            let mut residents = self.residents();
            for version in replaced.spec().versions() {
                if let Some((_, last)) = residents.get_mut(&version.id) {
                    *last = until;
                }
            }
        }
        let guarded = self.list(Viewer::Operator).into_iter().flat_map(|deployment| deployment.history.clone());
        self.0.catalog.guard(guarded.flat_map(|revision| versions_of(&revision.spec)).collect());
    }

    /// Puts a state into force that the database does not have yet; false where the name is gone.
    pub(super) fn set_ahead(&self, deployment: &Arc<Deployment>) -> bool {
        let mut table = self.table_mut();
        let entry = table.0.get_mut(&deployment.owner).and_then(|names| names.get_mut(&deployment.name));
        let found = entry.is_some();
        if let Some(entry) = entry {
            entry.ahead = Some(Arc::clone(deployment));
        }
        found
    }

    /// Takes it back, unless another one has come.
    pub(super) fn clear_ahead(&self, deployment: &Arc<Deployment>) {
        let mut table = self.table_mut();
        let entry = table.0.get_mut(&deployment.owner).and_then(|names| names.get_mut(&deployment.name));
        if let Some(entry) = entry
            && entry.ahead.as_ref().is_some_and(|ahead| Arc::ptr_eq(ahead, deployment))
        {
            entry.ahead = None;
        }
    }

    /// Has versions in memory. One that cannot be read is left to the fallbacks of those who name it.
    pub(super) async fn hold(&self, versions: impl Iterator<Item = &Pinned> + Send) {
        let mut more = false;
        for version in versions {
            if self.residents().contains_key(&version.id) {
                continue;
            }
            match self.0.catalog.hold(version).await {
                Ok(resident) => {
                    self.residents().insert(version.id, (resident, None));
                    more = true;
                }
                Err(error) => tracing::warn!(%error, model = version.model, "a version of a deployment cannot be read"),
            }
        }
        if let Some(Excess { models, bytes, budget }) = self.0.catalog.excess().filter(|_| more) {
            let versions = models.join(", ");
            tracing::warn!(
                bytes,
                adapter_memory = budget,
                versions,
                "versions of deployments take more than adapter_memory; they stay"
            );
        }
    }

    /// Lets versions go that no traffic goes to, when their time is over.
    fn let_go(&self, now: Instant) {
        let wanted: BTreeSet<VersionId> =
            self.list(Viewer::Operator).iter().flat_map(|deployment| versions_of(deployment.spec())).collect();
        self.residents().retain(|id, (_, until)| {
            if wanted.contains(id) {
                *until = None;
                return true;
            }
            now < *until.get_or_insert(now + Duration::from_secs(USUAL_RESIDENT))
        });
    }
}

impl std::fmt::Debug for Deployments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deployments").finish_non_exhaustive()
    }
}

fn shares(spec: &Spec) -> Arc<[(Arc<str>, f64)]> {
    spec.arms.iter().map(|arm| (arm.name.as_str().into(), arm.weight.share())).collect()
}

fn versions_of(spec: &Spec) -> Vec<VersionId> {
    spec.versions().map(|version| version.id).collect()
}

/// Understands the rows of a history.
pub(super) fn revisions(id: &str, rows: Vec<RevisionRow>) -> Result<Vec<Arc<Revision>>, ExperimentError> {
    rows.into_iter().map(|row| revision(id, row).map(Arc::new)).collect()
}

fn revision(id: &str, row: RevisionRow) -> Result<Revision, ExperimentError> {
    let damaged = |reason: String| ExperimentError::Damaged { id: id.to_owned(), revision: row.revision, reason };
    Ok(Revision {
        number: row.revision,
        made: Made::named(&row.action).ok_or_else(|| damaged(format!("unknown action {:?}", row.action)))?,
        restores: row.restores,
        spec: serde_json::from_str(&row.spec).map_err(|error| damaged(error.to_string()))?,
        experiment: row.experiment.into(),
        actor: row.actor,
        reason: row.reason,
        at_micros: row.at_micros,
    })
}
