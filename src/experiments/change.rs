//! Changes of deployments: each is one revision, by compare-and-set, with its row in the audit log. Once begun, a change runs to its
//! end even if its caller goes away, so that the database and what is in force here cannot part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::deployment::{Arm, BASE, Draft, Made, Named, Revision, Spec, Target, UPSTREAM, Weight, previous};
use super::live::{self, Deployment, Deployments, REMEMBERED};
use super::{ExperimentError, restore};
use crate::registry::{Owner, RegistryError, Release, check_name};
use crate::store::deployments::{self as rows, DeploymentRow, RevisionRow};
use crate::tenants::admin::{self, Begun, Change, Done, Intent, KeptAnswer};
use crate::tenants::{Tenants, new_id, sha256_hex};

/// Longest reason, characters.
const MAX_REASON: usize = 1_000;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A new name.
    Create(Draft),
    /// All of the spec; a name that is not there is made.
    Put(Draft),
    /// All of the spec, of versions that were looked up before; only of a name that is there.
    Pinned(Box<Spec>),
    /// Other weights; arms that are not named get nothing.
    Weights(Vec<(String, Weight)>),
    /// An earlier spec.
    Rollback {
        /// Its revision; `None` is what was there before the present one.
        to: Option<i64>,
    },
    /// The name goes.
    Delete,
}

/// A change that somebody wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Whose the deployment is.
    pub owner: Owner,
    /// Its name.
    pub name: String,
    /// What is to be done.
    pub action: Action,
    /// Why.
    pub reason: Option<String>,
    /// Who, and under which conditions: `expected` is about the revision in force.
    pub intent: Intent,
}

/// A change that was made.
#[derive(Debug, Clone)]
pub struct Changed {
    /// What is in force now; after a removal, what was.
    pub deployment: Arc<Deployment>,
    /// From the wish to the moment from which new requests went by it.
    pub effective: Duration,
}

/// What came of a change with an answer.
#[derive(Debug, Clone)]
pub enum Applied {
    /// It was made.
    Done(KeptAnswer),
    /// It was made before.
    Repeated(KeptAnswer),
}

/// What the caller is told, kept for repetitions.
type Answering = Box<dyn FnOnce(&Changed) -> KeptAnswer + Send>;

/// What is ready before the transaction begins.
enum Ready {
    /// Versions were looked up and are in memory.
    Spec(Box<Spec>),
    /// It holds in this process already.
    Ahead(restore::Ahead),
    /// Nothing was to be done.
    Nothing,
}

impl Deployments {
    /// Changes something.
    pub async fn change(&self, wish: Wish) -> Result<Changed, ExperimentError> {
        let nothing = Box::new(|_: &Changed| KeptAnswer { headers: "{}".to_owned(), body: String::new() });
        match self.finish(wish, nothing).await? {
            (Some(changed), _) => Ok(changed),
            (None, _) => Err(admin::AdminError::KeyReused.into()),
        }
    }

    /// Changes something and answers; a repetition gets the answer that was given.
    pub async fn apply(
        &self,
        wish: Wish,
        answer: impl FnOnce(&Changed) -> KeptAnswer + Send + 'static,
    ) -> Result<Applied, ExperimentError> {
        Ok(match self.finish(wish, Box::new(answer)).await? {
            (Some(_), kept) => Applied::Done(kept),
            (None, kept) => Applied::Repeated(kept),
        })
    }

    async fn finish(&self, wish: Wish, answer: Answering) -> Result<(Option<Changed>, KeptAnswer), ExperimentError> {
        let deployments = self.clone();
        let made = tokio::spawn(async move { deployments.make(wish, answer).await });
        made.await.unwrap_or(Err(ExperimentError::Interrupted))
    }

    async fn make(self, wish: Wish, answer: Answering) -> Result<(Option<Changed>, KeptAnswer), ExperimentError> {
        let began = Instant::now();
        check_text(&wish.owner, &wish.name)?;
        if wish.reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON || reason.contains('\0')) {
            let problem = format!("at most {MAX_REASON} characters without NUL are right");
            return Err(ExperimentError::invalid("reason", problem));
        }
        let tenants = &self.0.tenants;
        let repeated = match &wish.intent.claim {
            Some(claim) => admin::is_repeated(tenants.office(), claim).await?,
            None => false,
        };
        let ready = if repeated { Ready::Nothing } else { self.prepare(&wish).await? };
        let mut effective = began.elapsed();
        let mut change = match Change::begin(tenants, wish.intent.clone()).await? {
            Begun::Done(kept) => return Ok((None, kept)),
            Begun::Fresh(change) => change,
        };
        let deployment = Arc::new(write(&mut change, &wish, &ready).await?);
        if !matches!(ready, Ready::Ahead(_)) {
            // It will be when it is on the disk.
            effective = began.elapsed();
        }
        let changed = Changed { deployment, effective };
        let kept = answer(&changed);
        change.commit_elsewhere(&kept).await?;
        self.put(&changed.deployment);
        drop(ready);
        Ok((Some(changed), kept))
    }

    /// What takes long, and what must not wait for the database.
    async fn prepare(&self, wish: &Wish) -> Result<Ready, ExperimentError> {
        Ok(match &wish.action {
            Action::Create(draft) | Action::Put(draft) => {
                let reserved: Vec<String> = std::iter::once(&self.0.base).chain(&self.0.upstreams).cloned().collect();
                check_name(&wish.name, &reserved).map_err(|error| ExperimentError::invalid("name", error.to_string()))?;
                let spec = self.pin(wish, draft.clone())?;
                for version in spec.versions() {
                    // Whoever is sent to it does not wait for the disk.
                    self.0.catalog.resolve_pinned(version).await.map_err(|source| at("arms".to_owned(), source))?;
                }
                self.hold(spec.versions()).await;
                Ready::Spec(Box::new(spec))
            }
            Action::Pinned(spec) => {
                spec.check()?;
                for version in spec.versions_in_use() {
                    self.0.catalog.resolve_pinned(version).await.map_err(|source| at("arms".to_owned(), source))?;
                }
                self.hold(spec.versions()).await;
                Ready::Spec(spec.clone())
            }
            Action::Rollback { to } => Ready::Ahead(restore::begin(self, wish, *to).await?),
            Action::Weights(weights) => {
                if let Some(deployment) = self.durable(&wish.owner, &wish.name) {
                    let wanted = |arm: &&Arm| weights.iter().any(|(name, weight)| *name == arm.name && !weight.is_none());
                    for arm in deployment.spec().arms.iter().filter(wanted) {
                        let Some(version) = &arm.target.version else { continue };
                        let resolved = self.0.catalog.resolve_pinned(version).await;
                        resolved.map_err(|source| at(format!("weights.{}", arm.name), source))?;
                    }
                }
                Ready::Nothing
            }
            Action::Delete => Ready::Nothing,
        })
    }

    /// Turns names into versions, where others may be sent to them.
    fn pin(&self, wish: &Wish, draft: Draft) -> Result<Spec, ExperimentError> {
        draft.check()?;
        let spec = draft.try_map(|field, named| self.pinned(field, &wish.owner, &wish.name, named))?;
        if spec.shadow.as_ref().is_some_and(|shadow| shadow.target.upstream().is_some()) {
            return Err(ExperimentError::invalid(
                "shadow.model",
                "an upstream cannot be a silent model: it would be paid for nobody",
            ));
        }
        Ok(spec)
    }

    /// Turns a name into a version, where users of this deployment may be sent to it. `field` is where the name was found.
    pub fn pinned(&self, field: String, owner: &Owner, deployment: &str, named: Named) -> Result<Target, ExperimentError> {
        let Named { model, from_tenant, release } = named;
        let tenant = match (&from_tenant, owner.tenant()) {
            (Some(from), Some(owner)) if from != owner => {
                let problem = format!("a deployment of {owner} serves its own models and shared ones, not those of {from:?}");
                return Err(ExperimentError::invalid(field.replace("model", "from_tenant"), problem));
            }
            (Some(from), _) => Some(from.as_str()),
            (None, owner) => owner,
        };
        let base = || Target { model: self.0.base.clone(), version: None, release: Release::Gate };
        if model == self.0.base {
            return Ok(base());
        }
        let upstream = model.strip_prefix(UPSTREAM).unwrap_or(&model);
        if from_tenant.is_none() && self.0.upstreams.iter().any(|name| name == upstream) {
            return Ok(Target::of_upstream(upstream));
        }
        // Nobody is asked twice about one version.
        let known = self.get(owner, deployment);
        let ground = |id| match (&release, &known) {
            (Release::Gate, Some(known)) => known.spec().release_of(id).cloned().unwrap_or(Release::Gate),
            _ => release.clone(),
        };
        match self.0.catalog.pin(tenant, &model, ground) {
            Ok((version, release)) => Ok(Target { model: version.model.clone(), version: Some(version), release }),
            Err(RegistryError::NotFound { .. }) if model == BASE => Ok(base()),
            Err(source) => Err(at(field, source)),
        }
    }

    /// The history below a revision, the newest first; also of a name that is gone.
    pub async fn history(
        &self,
        owner: &Owner,
        name: &str,
        below: i64,
        limit: i64,
    ) -> Result<Vec<Arc<Revision>>, ExperimentError> {
        check_text(owner, name)?;
        let mut connection = self.0.tenants.database().connection().await?;
        let row = rows::find(&mut connection, owner.tenant().unwrap_or_default(), name).await?;
        let row = row.ok_or_else(|| ExperimentError::NotFound { name: name.to_owned() })?;
        live::revisions(&row.id, rows::revisions(&mut connection, &row.id, below, limit).await?)
    }

    /// Who may do what.
    pub fn tenants(&self) -> &Tenants {
        &self.0.tenants
    }
}

fn at(field: String, source: RegistryError) -> ExperimentError {
    ExperimentError::Model { field, source }
}

/// There is nothing with a NUL in its name, and some databases do not even look for it.
fn check_text(owner: &Owner, name: &str) -> Result<(), ExperimentError> {
    let sound = !name.contains('\0') && !owner.tenant().unwrap_or_default().contains('\0');
    if sound { Ok(()) } else { Err(ExperimentError::NotFound { name: name.to_owned() }) }
}

/// What the audit log says of a state.
#[derive(Serialize)]
struct Audited<'a> {
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    restores: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    spec: &'a Spec,
}

impl<'a> Audited<'a> {
    fn of(revision: &'a Revision) -> Self {
        let Revision { number, restores, reason, spec, .. } = revision;
        Self { revision: *number, restores: *restores, reason: reason.as_deref(), spec }
    }
}

/// Writes the revision.
async fn write(change: &mut Change, wish: &Wish, ready: &Ready) -> Result<Deployment, ExperimentError> {
    let now = change.now();
    let actor = change.actor().to_owned();
    let owner = wish.owner.tenant().unwrap_or_default();
    let not_found = || ExperimentError::NotFound { name: wish.name.clone() };
    let transaction = change.transaction();
    // First: from here on other changes wait.
    let counter = rows::count(transaction).await?;
    let row = rows::find(transaction, owner, &wish.name).await?;
    let mut history = match &row {
        Some(row) => live::revisions(&row.id, rows::revisions(transaction, &row.id, i64::MAX, REMEMBERED - 1).await?)?,
        None => Vec::new(),
    };
    let present = row.as_ref().filter(|row| !row.deleted);
    let before = present.and(history.first().cloned());
    let (made, restores, spec) = match (&wish.action, ready) {
        (Action::Create(_), _) if present.is_some() => return Err(ExperimentError::Exists { name: wish.name.clone() }),
        (Action::Create(_) | Action::Put(_), Ready::Spec(spec)) => {
            let made = if before.is_some() { Made::Changed } else { Made::Created };
            (made, None, Spec::clone(spec))
        }
        (Action::Pinned(_), Ready::Spec(spec)) => {
            before.as_ref().ok_or_else(not_found)?;
            (Made::Changed, None, Spec::clone(spec))
        }
        (Action::Weights(weights), _) => {
            let before = before.as_ref().ok_or_else(not_found)?;
            (Made::Changed, None, before.spec.clone().weighted(weights)?)
        }
        (Action::Rollback { to }, Ready::Ahead(ahead)) => {
            let before = before.as_ref().ok_or_else(not_found)?;
            let target = match to {
                // Somebody else was a moment earlier: what was there before that is meant.
                None if before.number != ahead.instead_of => {
                    previous(&history).ok_or_else(|| ExperimentError::NothingBefore { name: wish.name.clone() })?
                }
                _ => &ahead.target,
            };
            (Made::RolledBack, Some(target.origin()), target.spec.clone())
        }
        (Action::Delete, _) => (Made::Deleted, None, before.as_ref().ok_or_else(not_found)?.spec.clone()),
        // The key was there a moment ago, and whoever had it has given up.
        (Action::Create(_) | Action::Put(_) | Action::Pinned(_) | Action::Rollback { .. }, _) => {
            return Err(admin::AdminError::Changed.into());
        }
    };
    change.check(present.map_or(0, |row| row.revision))?;
    let expected = row.as_ref().map_or(0, |row| row.revision);
    let number = expected + 1;
    let fresh = |row: &DeploymentRow| if row.deleted { now } else { row.created_at };
    let new = DeploymentRow {
        id: match &row {
            Some(row) => row.id.clone(),
            None => new_id("dep").map_err(admin::AdminError::from)?,
        },
        owner: owner.to_owned(),
        name: wish.name.clone(),
        revision: number,
        epoch: match (made, &row) {
            (Made::RolledBack, _) => number,
            (_, row) => row.as_ref().map_or(0, |row| row.epoch),
        },
        salt: match &row {
            Some(row) => row.salt.clone(),
            None => sha256_hex(new_id("salt").map_err(admin::AdminError::from)?.as_bytes())[..32].to_owned(),
        },
        deleted: made == Made::Deleted,
        counter,
        created_at: row.as_ref().map_or(now, fresh),
    };
    let revision = Revision {
        number,
        made,
        restores,
        experiment: spec.experiment_id(&new.id).into(),
        spec,
        actor,
        reason: wish.reason.clone(),
        at_micros: crate::tenants::unix_micros(),
    };
    let transaction = change.transaction();
    if row.is_none() {
        rows::insert(transaction, &new).await?;
    } else if !rows::update(transaction, &new, expected).await? {
        return Err(admin::AdminError::Changed.into());
    }
    rows::add_revision(transaction, &new.id, &row_of(&revision)).await?;
    let action = match made {
        Made::Created => "deployment.created",
        Made::Changed => "deployment.updated",
        Made::RolledBack => "deployment.rolled_back",
        Made::Deleted => "deployment.deleted",
    };
    let done = Done { action, object: &wish.name, project: wish.owner.tenant() };
    let after = (made != Made::Deleted).then(|| Audited::of(&revision));
    change.audit(done, before.as_deref().map(Audited::of).as_ref(), after.as_ref()).await?;
    history.insert(0, Arc::new(revision));
    Deployment::new(new, history)
}

fn row_of(revision: &Revision) -> RevisionRow {
    RevisionRow {
        revision: revision.number,
        action: revision.made.name().to_owned(),
        restores: revision.restores,
        spec: serde_json::json!(revision.spec).to_string(),
        experiment: revision.experiment.to_string(),
        actor: revision.actor.clone(),
        reason: revision.reason.clone(),
        at_micros: revision.at_micros,
    }
}
