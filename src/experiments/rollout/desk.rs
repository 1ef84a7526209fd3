//! The desk where rollouts are asked for, looked at and steered. What is asked is written down; the driver does it.

use super::plan::Draft;
use super::state::{Act, Candidate, Command, NotNow, Phase, Rollout, Stage, Wait};
use super::{Rollouts, record};
use crate::experiments::settings::Settings;
use crate::experiments::{ExperimentError, Named, Spec};
use crate::registry::Owner;
use crate::store::rollouts as rows;
use crate::tenants::admin::{AdminError, Change, Page, Paging};
use crate::tenants::{new_id, unix_now};

/// What an arm is called where nobody says.
const CANARY: &str = "canary";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct NewRollout {
    /// Whose the deployment is.
    pub owner: Owner,
    /// Its name.
    pub deployment: String,
    /// What is rolled out.
    pub model: Named,
    /// Name of its arm while it is compared.
    pub arm: Option<String>,
    /// How.
    pub plan: Draft,
    /// What is compared, and with which arm; where nothing is said, what the deployment says, or the usual guards.
    pub experiment: Option<Settings>,
    /// The job that it comes from.
    pub job: Option<String>,
}

/// Which rollouts; `None` is any.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Whose.
    pub owner: Option<Owner>,
    /// Of this deployment.
    pub deployment: Option<String>,
    /// In this state.
    pub state: Option<String>,
}

/// A rollout and what it waits for.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The rollout.
    pub rollout: Rollout,
    /// What it waits for; `None`: nothing any more, or nothing for long.
    pub waits: Option<Wait>,
}

impl From<NotNow> for ExperimentError {
    fn from(error: NotNow) -> Self {
        AdminError::Refused { code: "invalid_state", message: error.to_string() }.into()
    }
}

fn under_way(deployment: &str, id: &str) -> ExperimentError {
    let message = format!("The deployment '{deployment}' has the rollout {id} under way, which can be promoted or aborted.");
    AdminError::Refused { code: "rollout_under_way", message }.into()
}

fn not_found(id: &str) -> ExperimentError {
    AdminError::NotFound { what: "rollout", id: id.chars().take(64).collect() }.into()
}

impl Rollouts {
    /// Asks for a rollout. It begins when the change is committed. What is in memory of deployments must be fresh: see
    /// [`super::super::Deployments::refresh`], which is not for the inside of a transaction.
    pub async fn create(&self, change: &mut Change, new: NewRollout) -> Result<Rollout, ExperimentError> {
        let plan = new.plan.plan()?;
        let not_found = || ExperimentError::NotFound { name: new.deployment.clone() };
        let deployment = self.0.deployments.get(&new.owner, &new.deployment).ok_or_else(not_found)?;
        let spec = deployment.spec();
        let owner = new.owner.tenant().unwrap_or_default();
        if let Some(id) = rows::under_way(change.transaction(), owner, &new.deployment).await? {
            return Err(under_way(&new.deployment, &id));
        }
        let model = self.0.deployments.pinned("model".to_owned(), &new.owner, &new.deployment, new.model)?;
        let control = control(&new.experiment, spec)?;
        if let Some(arm) = spec.arms.iter().find(|arm| !arm.weight.is_none() && arm.target.is_same(&model)) {
            let problem = format!("the arm '{}' serves {} already, with {}%", arm.name, model.model, arm.weight);
            return Err(ExperimentError::invalid("model", problem));
        }
        let earlier = rows::count(change.transaction(), owner, &new.deployment).await?;
        let arm = arm_name(new.arm, spec, earlier)?;
        let experiment = new.experiment.or_else(|| spec.experiment.clone());
        let fewest = plan.steps.iter().map(|step| step.min_samples).min().unwrap_or_default().max(1);
        let usual = || Settings { min_samples: fewest, ..Settings::usual(control.clone()) };
        let experiment = Settings { control: control.clone(), ..experiment.unwrap_or_else(usual) };
        let mut arms: Vec<&str> = spec.arms.iter().map(|arm| arm.name.as_str()).collect();
        arms.push(&arm);
        experiment.check(&arms)?;
        let now = change.now();
        let rollout = Rollout {
            id: new_id("rollout").map_err(AdminError::from)?,
            tenant: new.owner.tenant().map(str::to_owned),
            deployment: new.deployment,
            control,
            candidate: Candidate { arm, model },
            plan,
            experiment,
            stage: Stage::Pending,
            phase: Phase::Running,
            base_revision: deployment.current.number,
            revision: deployment.current.number,
            applied: true,
            since: now,
            baked: 0,
            samples_before: 0,
            deadline_at: None,
            reason: String::new(),
            created_by: change.actor().to_owned(),
            job: new.job,
            node: self.tenants().node().to_owned(),
            created_at: now,
            updated_at: now,
            ended_at: None,
            version: 1,
        };
        if record::create(change, &rollout).await? {
            return Ok(rollout);
        }
        // At this moment, by another process.
        Err(AdminError::Changed.into())
    }

    /// A rollout.
    pub async fn get(&self, id: &str) -> Result<Rollout, ExperimentError> {
        let mut connection = self.database().connection().await?;
        record::read(rows::get(&mut connection, id).await?.ok_or_else(|| not_found(id))?)
    }

    /// A rollout with what it waits for.
    pub async fn show(&self, id: &str) -> Result<Shown, ExperimentError> {
        let rollout = self.get(id).await?;
        let seen = self.see(&rollout).await?;
        let waits = match rollout.decide(&seen, unix_now()) {
            Act::Wait(wait) => Some(wait),
            Act::Move(_) | Act::Apply | Act::Rest => None,
        };
        Ok(Shown { rollout, waits })
    }

    /// Rollouts in pages.
    pub async fn list(&self, which: &Which, paging: &Paging) -> Result<Page<Rollout>, ExperimentError> {
        let which = rows::Which {
            owner: which.owner.as_ref().map(|owner| owner.tenant().unwrap_or_default().to_owned()),
            deployment: which.deployment.clone(),
            state: which.state.clone(),
        };
        let mut connection = self.database().connection().await?;
        let Page { rows, has_more } = rows::list(&mut connection, &which, paging).await?;
        let rows = rows.into_iter().map(record::read).collect::<Result<_, _>>()?;
        Ok(Page { rows, has_more })
    }

    /// Steers a rollout. It takes effect when the change is committed.
    pub async fn steer(
        &self,
        change: &mut Change,
        id: &str,
        command: &Command,
        reason: Option<&str>,
    ) -> Result<Rollout, ExperimentError> {
        let row = rows::get(change.transaction(), id).await?.ok_or_else(|| not_found(id))?;
        let before = record::read(row)?;
        change.check(before.version)?;
        let who = change.actor();
        let done = match command {
            Command::Pause => "paused",
            Command::Resume => "resumed",
            Command::Promote => "promoted",
            Command::Abort => "aborted",
        };
        let reason = match reason {
            Some(reason) => format!("{done} by {who}: {reason}"),
            None => format!("{done} by {who}"),
        };
        let then = before.command(command, &reason, change.now())?;
        record::write(change, &before, then).await?.ok_or_else(|| AdminError::Changed.into())
    }
}

/// The arm that the candidate is compared with and takes the place of.
fn control(experiment: &Option<Settings>, spec: &Spec) -> Result<String, ExperimentError> {
    let named = experiment.as_ref().or(spec.experiment.as_ref()).map(|experiment| experiment.control.clone());
    if let Some(name) = named {
        let arm = spec.arm(&name).filter(|arm| !arm.weight.is_none());
        let problem = || format!("the arm {name:?} gets no traffic that a candidate could be compared with");
        return Ok(arm.ok_or_else(|| ExperimentError::invalid("experiment.control", problem()))?.name.clone());
    }
    // The first of the largest.
    let largest = spec.arms.iter().rev().max_by_key(|arm| arm.weight);
    largest.map(|arm| arm.name.clone()).ok_or_else(|| ExperimentError::invalid("deployment", "it has no arms"))
}

/// Answers of an earlier candidate of the same name and model would be counted with this one's: a new name begins anew.
fn arm_name(asked: Option<String>, spec: &Spec, earlier: i64) -> Result<String, ExperimentError> {
    let Some(name) = asked else {
        let mut names = (earlier + 1..).map(|number| if number == 1 { CANARY.to_owned() } else { format!("{CANARY}-{number}") });
        let free = names.find(|name| spec.arm(name).is_none());
        return Ok(free.unwrap_or_else(|| CANARY.to_owned()));
    };
    match spec.arm(&name) {
        Some(arm) if !arm.weight.is_none() => {
            let problem = format!("the arm {name:?} gets {}% already; a free name is right", arm.weight);
            Err(ExperimentError::invalid("arm", problem))
        }
        _ => Ok(name),
    }
}
