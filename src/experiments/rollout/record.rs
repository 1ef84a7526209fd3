//! What is written down of a rollout, in one transaction each: its row, the audit log, and what webhooks are told.

use serde_json::{Value, json};

use super::state::{Event, Move, Rollout};
use crate::experiments::ExperimentError;
use crate::store::rollouts::{self as rows, RolloutRow};
use crate::tenants::admin::{Change, Done};
use crate::tenants::webhooks;

/// The row that keeps a rollout.
fn row(rollout: &Rollout) -> RolloutRow {
    RolloutRow {
        id: rollout.id.clone(),
        owner: rollout.tenant.clone().unwrap_or_default(),
        deployment: rollout.deployment.clone(),
        state: rollout.state().to_owned(),
        open: !(rollout.phase.is_over() && rollout.applied),
        body: json!(rollout).to_string(),
        created_at: rollout.created_at,
        ended_at: rollout.ended_at,
        version: rollout.version,
    }
}

/// The rollout of a row.
pub fn read(row: RolloutRow) -> Result<Rollout, ExperimentError> {
    match serde_json::from_str::<Rollout>(&row.body) {
        Ok(rollout) => Ok(Rollout { version: row.version, ..rollout }),
        Err(error) => Err(ExperimentError::DamagedRollout { id: row.id, reason: error.to_string() }),
    }
}

/// Adds a rollout; false where one of the deployment is under way.
pub(super) async fn create(change: &mut Change, rollout: &Rollout) -> Result<bool, ExperimentError> {
    if !rows::insert(change.transaction(), &row(rollout)).await? {
        return Ok(false);
    }
    note(change, None, rollout, Event::Created).await?;
    Ok(true)
}

/// Writes a move, with what is told of it. `None` where somebody else was faster.
pub(super) async fn write(change: &mut Change, before: &Rollout, then: Move) -> Result<Option<Rollout>, ExperimentError> {
    let Move { after, event } = then;
    if !rows::update(change.transaction(), &row(&after)).await? {
        return Ok(None);
    }
    let after = Rollout { version: after.version + 1, ..after };
    if let Some(event) = event {
        note(change, Some(before), &after, event).await?;
    }
    Ok(Some(after))
}

async fn note(change: &mut Change, before: Option<&Rollout>, after: &Rollout, event: Event) -> Result<(), ExperimentError> {
    let tenant = after.tenant.as_deref();
    let done = Done { action: event.name(), object: &after.id, project: tenant };
    change.audit(done, before.map(summary).as_ref(), Some(&summary(after))).await?;
    if matches!(event, Event::Created | Event::Resumed) {
        return Ok(());
    }
    let now = change.now();
    // Each version of a rollout is reached once.
    let event_id = format!("{}:{}:{}", after.id, after.version, event.name());
    let body = json!({"id": event_id, "object": "event", "type": event.name(), "created_at": now, "data": summary(after)});
    Ok(webhooks::tell(change.transaction(), tenant, &body, now).await?)
}

/// What people are told of a rollout.
fn summary(rollout: &Rollout) -> Value {
    json!({
        "id": rollout.id,
        "deployment": rollout.deployment,
        "project_id": rollout.tenant,
        "state": rollout.state(),
        "step": rollout.step(),
        "weight": rollout.weight(),
        "control": rollout.control,
        "arm": rollout.candidate.arm,
        "model": rollout.candidate.model.model,
        "release": rollout.candidate.model.release,
        "reason": rollout.reason,
    })
}
