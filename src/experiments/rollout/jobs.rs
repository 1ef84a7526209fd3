//! Rollouts that training jobs have asked for: begun when the job has succeeded and its gate passed. What was not begun is said in
//! the job's events, once.

use serde_json::{Map, Value, json};

use super::Rollouts;
use super::desk::NewRollout;
use super::metadata::{self, Asked, IfMissing};
use crate::experiments::{Action, Draft, ExperimentError, Named, Wish};
use crate::registry::{Owner, Release};
use crate::store::jobs::{self, EventRow, JobRow};
use crate::store::rollouts as rows;
use crate::store::{Transaction, keys};
use crate::tenants::admin::{AdminError, Begun, Change, Expected, Intent};
use crate::tenants::{Principal, Reach, Scope, Scopes, new_id, unix_micros, unix_now};

/// Name of the arm of a deployment that a job has made.
const STABLE: &str = "stable";

impl Rollouts {
    /// Refuses metadata of a job whose rollout could not be begun.
    pub fn check_job(&self, caller: &Principal, metadata: &Map<String, Value>) -> Result<(), ExperimentError> {
        let Some(asked) = metadata::parse(metadata)? else { return Ok(()) };
        let organization = caller.reach == Reach::Organization && caller.scopes.allow(Scope::Admin);
        self.place(&caller.tenant, &asked, organization).map(drop)
    }

    /// Whose deployment is meant; `None` where it is to be made.
    fn place(&self, tenant: &str, asked: &Asked, organization: bool) -> Result<Option<Owner>, ExperimentError> {
        let name = &asked.deployment;
        let invalid = |problem: String| Err(ExperimentError::invalid("metadata.rollout", problem));
        match self.0.deployments.find(tenant, name).map(|deployment| deployment.owner.clone()) {
            Some(Owner::Shared) if !organization => {
                // As it is for everybody, only those who answer for everybody may change it.
                invalid(format!(
                    "the deployment {name:?} is shared; only a key of the organization with the scope 'admin' changes it"
                ))
            }
            Some(owner) => Ok(Some(owner)),
            None if asked.if_missing == IfMissing::Refuse => {
                invalid(format!("there is no deployment {name:?}; with \"rollout_create\": \"true\" it is made"))
            }
            None => {
                crate::registry::check_name(name, std::slice::from_ref(&self.0.base))
                    .map_err(|error| ExperimentError::invalid("metadata.rollout", error.to_string()))?;
                Ok(None)
            }
        }
    }

    /// Begins what jobs of this process have asked for.
    pub(super) async fn look_at_jobs(&self) -> Result<(), ExperimentError> {
        let ids = {
            let mut connection = self.database().connection().await?;
            rows::jobs_to_look_at(&mut connection, self.tenants().node()).await?
        };
        for id in ids {
            if let Err(error) = self.look_at_job(&id).await {
                tracing::warn!(%error, job = id, "the rollout of a job cannot be begun at the moment");
            }
        }
        Ok(())
    }

    async fn look_at_job(&self, id: &str) -> Result<(), ExperimentError> {
        let (job, organization) = {
            let mut connection = self.database().connection().await?;
            let Some(job) = jobs::find(&mut connection, id).await? else { return Ok(()) };
            let key = keys::get(&mut connection, &job.key_id).await?;
            let admin = |scopes: &str| Scopes::parse(scopes).is_ok_and(|scopes| scopes.allow(Scope::Admin));
            let organization = key.is_some_and(|key| key.project_id.is_none() && key.revoked_at.is_none() && admin(&key.scopes));
            (job, organization)
        };
        match self.begin(&job, organization).await {
            Ok(()) => Ok(()),
            Err(error) if is_refusal(&error) => {
                let text = format!(
                    "No rollout was begun: {error} It can be asked for by hand: POST /admin/deployments/NAME/rollouts with \
                     \"model\": \"{}\", and \"approved_by\" or \"waived_by\" where its gate did not pass.",
                    job.model
                );
                let mut transaction = self.database().begin().await?;
                if rows::note_job(&mut transaction, &job.id, None, unix_now()).await? {
                    tell(&mut transaction, &job, ("warn", text), None).await?;
                    transaction.commit().await?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn begin(&self, job: &JobRow, organization: bool) -> Result<(), ExperimentError> {
        let metadata: Option<Value> = job.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let asked = metadata::parse(metadata.as_ref().and_then(Value::as_object).unwrap_or(&Map::new()))?;
        let Some(asked) = asked else {
            let mut transaction = self.database().begin().await?;
            rows::note_job(&mut transaction, &job.id, None, unix_now()).await?;
            return Ok(transaction.commit().await?);
        };
        self.0.deployments.refresh().await?;
        let candidate = Named { model: job.model.clone(), from_tenant: Some(job.project_id.clone()), release: Release::Gate };
        let owner = match self.place(&job.project_id, &asked, organization)? {
            Some(owner) => owner,
            None => self.make(job, &asked, &candidate).await?,
        };
        let intent = Intent { actor: job.key_id.clone(), ..Intent::default() };
        let Begun::Fresh(mut change) = Change::begin(self.tenants(), intent).await? else { return Ok(()) };
        let new = NewRollout {
            owner,
            deployment: asked.deployment,
            model: candidate,
            arm: asked.arm,
            plan: asked.plan,
            experiment: None,
            job: Some(job.id.clone()),
        };
        let rollout = self.create(&mut change, new).await?;
        if !rows::note_job(change.transaction(), &job.id, Some(&rollout.id), unix_now()).await? {
            return Ok(());
        }
        let text = format!("Rollout {} of the deployment {} begins.", rollout.id, rollout.deployment);
        tell(change.transaction(), job, ("info", text), Some(json!({"rollout": rollout.id}))).await?;
        Ok(change.commit_elsewhere(&super::NO_ANSWER).await?)
    }

    /// Makes the deployment, with the base as its only arm; not for a candidate that may not be rolled out.
    async fn make(&self, job: &JobRow, asked: &Asked, candidate: &Named) -> Result<Owner, ExperimentError> {
        let owner = Owner::Tenant(job.project_id.as_str().into());
        self.0.deployments.pinned("model".to_owned(), &owner, &asked.deployment, candidate.clone())?;
        let base = Named { model: self.0.base.clone(), from_tenant: None, release: Release::Gate };
        let wish = Wish {
            owner: owner.clone(),
            name: asked.deployment.clone(),
            action: Action::Create(Draft::single(STABLE, base)),
            reason: Some(format!("asked for by {}", job.id)),
            intent: Intent { actor: job.key_id.clone(), expected: Expected::Anything, ..Intent::default() },
        };
        match self.0.deployments.change(wish).await {
            // By this job in an earlier life, or by somebody who was faster.
            Ok(_) | Err(ExperimentError::Exists { .. }) => Ok(owner),
            Err(error) => Err(error),
        }
    }
}

/// Whether asking again would not help.
fn is_refusal(error: &ExperimentError) -> bool {
    !matches!(
        error,
        ExperimentError::Admin(AdminError::Tenant(_) | AdminError::Changed | AdminError::Outdated { .. })
            | ExperimentError::Interrupted
            | ExperimentError::Store(_)
    )
}

/// An event of the job.
async fn tell(
    transaction: &mut Transaction,
    job: &JobRow,
    (level, message): (&'static str, String),
    data: Option<Value>,
) -> Result<(), ExperimentError> {
    let event = EventRow {
        id: new_id("ftevent").map_err(AdminError::from)?.replacen('_', "-", 1),
        job_id: job.id.clone(),
        created_micros: unix_micros().max(jobs::last_event_micros(transaction, &job.id).await? + 1),
        level,
        kind: "message",
        message,
        data: data.map(|data| data.to_string()),
    };
    Ok(jobs::insert_event(transaction, &event).await?)
}
