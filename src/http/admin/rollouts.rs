//! `/admin/rollouts`: a candidate's way to all traffic of a deployment: asked for, looked at, steered.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, ChangingAt, Halt, Looking, changed, found};
use super::{deployment_spec, list};
use crate::experiments::rollout::plan::{Draft, DraftShadow, DraftStep, OnDeadline, Plan};
use crate::experiments::rollout::{Command, NewRollout, Rollout, Shown, Which};
use crate::http::adapters::owner_of;
use crate::http::error::ApiError;
use crate::http::fields::{Fields, word, wrong_type};
use crate::registry::Release;

/// Largest number that is read before the plan's own rules say what is right.
const MOST: i64 = 1 << 50;
/// Most characters of a reason.
const MAX_REASON: usize = 500;
/// Most steps that are read.
const MOST_STEPS: usize = 100;

/// `POST /admin/deployments/{name}/rollouts`
pub async fn create(Path(name): Path<String>, changing: ChangingAt) -> Result<Response, Halt> {
    let ChangingAt { mut query, changing } = changing;
    let owner = owner_of(query.text("tenant")?);
    query.finish()?;
    let (mut fields, planned) = changing.fields()?;
    let model = deployment_spec::named(&mut fields)?;
    let arm = fields.string("arm")?;
    let experiment = fields.take("experiment").map(deployment_spec::experiment).transpose()?;
    let plan = plan(&mut fields)?;
    fields.finish(&[])?;
    let server = planned.server().clone();
    server.deployments().refresh().await.map_err(ApiError::from)?;
    let mut change = planned.begin().await?;
    let new = NewRollout { owner, deployment: name, model, arm, plan, experiment, job: None };
    let rollout = server.rollouts().create(&mut change, new).await.map_err(ApiError::from)?;
    let response = changed(change, &render(&rollout), rollout.version).await?;
    server.rollouts().wake();
    Ok(response)
}

/// `GET /admin/rollouts`
pub async fn list_all(mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let paging = looking.query.paging(20, 100)?;
    let tenant = looking.query.text("tenant")?;
    let which = Which {
        owner: tenant.map(|tenant| owner_of(Some(tenant))),
        deployment: looking.query.text("deployment")?,
        state: looking.query.word("state", &STATES.map(|state| (state, state)))?.map(str::to_owned),
    };
    let server = looking.without_parameters()?;
    let page = server.rollouts().list(&which, &paging).await?;
    Ok(list(&page, render))
}

/// `GET /admin/rollouts/{rollout_id}`
pub async fn retrieve(Path(id): Path<String>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let Shown { rollout, waits } = server.rollouts().show(&id).await?;
    let mut object = render(&rollout);
    object["waiting_for"] = waits.map_or(Value::Null, |wait| json!({"what": wait.what, "until": wait.until}));
    Ok(found(&object, rollout.version))
}

/// `POST /admin/rollouts/{rollout_id}/pause`
pub async fn pause(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    steer(&id, changing, Command::Pause).await
}

/// `POST /admin/rollouts/{rollout_id}/resume`
pub async fn resume(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    steer(&id, changing, Command::Resume).await
}

/// `POST /admin/rollouts/{rollout_id}/promote`
pub async fn promote(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    steer(&id, changing, Command::Promote).await
}

/// `POST /admin/rollouts/{rollout_id}/abort`
pub async fn abort(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    steer(&id, changing, Command::Abort).await
}

async fn steer(id: &str, changing: Changing, command: Command) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let reason = fields.string("reason")?.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON) {
        let message = format!("Invalid 'reason': at most {MAX_REASON} characters are right.");
        return Err(ApiError::invalid("reason", "string_above_max_length", message).into());
    }
    fields.finish(&[])?;
    let server = planned.server().clone();
    let mut change = planned.begin().await?;
    let steered = server.rollouts().steer(&mut change, id, &command, reason.as_deref()).await;
    let rollout = steered.map_err(ApiError::from)?;
    let response = changed(change, &render(&rollout), rollout.version).await?;
    server.rollouts().wake();
    Ok(response)
}

/// Takes the fields of a plan.
fn plan(fields: &mut Fields) -> Result<Draft, ApiError> {
    let steps = match fields.take("steps") {
        None => None,
        Some(Value::Array(values)) if values.len() <= MOST_STEPS => {
            Some(values.into_iter().enumerate().map(|(index, value)| step(index, value)).collect::<Result<_, _>>()?)
        }
        Some(Value::Array(values)) => {
            let message =
                format!("Invalid 'steps': array too long. Expected at most {MOST_STEPS} items, but got {}.", values.len());
            return Err(ApiError::invalid("steps", "array_above_max_length", message));
        }
        Some(other) => return Err(wrong_type("steps", "an array of percent or of objects", &other)),
    };
    let shadow = match fields.take("shadow") {
        None => None,
        Some(value) => {
            let mut fields = Fields::object("shadow".to_owned(), value)?;
            let shadow = DraftShadow {
                percent: fields.number("percent", 0.0..=100.0)?.ok_or_else(|| fields.missing("percent"))?,
                bake_seconds: fields.integer("bake_seconds", 0..=MOST)?,
                min_samples: count(&mut fields, "min_samples")?,
                max_tokens_per_day: count(&mut fields, "max_tokens_per_day")?,
            };
            fields.finish(&[])?;
            Some(shadow)
        }
    };
    let on_deadline = fields.string("on_deadline")?;
    Ok(Draft {
        steps,
        bake_seconds: fields.integer("bake_seconds", 0..=MOST)?,
        min_samples: count(fields, "min_samples")?,
        shadow,
        hours: fields.string("hours")?,
        deadline_seconds: fields.integer("deadline_seconds", 0..=MOST)?,
        on_deadline: on_deadline.map(|text| word("on_deadline", &text, &OnDeadline::WORDS)).transpose()?,
    })
}

/// A step: percent alone, or with more about it.
fn step(index: usize, value: Value) -> Result<DraftStep, ApiError> {
    let path = format!("steps[{index}]");
    if let Some(weight) = value.as_f64() {
        return Ok(DraftStep { weight, ..DraftStep::default() });
    }
    if !value.is_object() {
        return Err(wrong_type(&path, "percent or an object", &value));
    }
    let mut fields = Fields::object(path, value)?;
    let step = DraftStep {
        weight: fields.number("weight", 0.0..=100.0)?.ok_or_else(|| fields.missing("weight"))?,
        bake_seconds: fields.integer("bake_seconds", 0..=MOST)?,
        min_samples: count(&mut fields, "min_samples")?,
    };
    fields.finish(&[])?;
    Ok(step)
}

fn count(fields: &mut Fields, name: &str) -> Result<Option<u64>, ApiError> {
    Ok(fields.integer(name, 0..=MOST)?.and_then(|count| u64::try_from(count).ok()))
}

/// The states, as they are listed by.
const STATES: [&str; 8] = ["pending", "shadow", "progressing", "paused", "inconclusive", "promoted", "rolled_back", "aborted"];

fn render(rollout: &Rollout) -> Value {
    let model = &rollout.candidate.model;
    let (approved_by, waived_by) = match &model.release {
        Release::Gate => (None, None),
        Release::Approved { name } => (Some(name), None),
        Release::Waived { name } => (None, Some(name)),
    };
    let Plan { shadow, steps, hours, deadline_seconds, on_deadline } = &rollout.plan;
    json!({
        "id": rollout.id,
        "object": "rollout",
        "deployment": rollout.deployment,
        "tenant": rollout.tenant,
        "state": rollout.state(),
        "reason": Some(&rollout.reason).filter(|reason| !reason.is_empty()),
        "step": rollout.step(),
        "weight": rollout.weight(),
        "model": model.model,
        "arm": rollout.candidate.arm,
        "control": rollout.control,
        "approved_by": approved_by,
        "waived_by": waived_by,
        "shadow": shadow,
        "steps": steps,
        "hours": hours,
        "deadline_seconds": deadline_seconds,
        "on_deadline": on_deadline,
        "deadline_at": rollout.deadline_at,
        "experiment": rollout.experiment,
        "base_revision": rollout.base_revision,
        "revision": rollout.revision,
        // Whether the deployment is as the state says: a moment later than the state.
        "in_effect": rollout.applied,
        "since": rollout.since,
        "job": rollout.job,
        "created_by": rollout.created_by,
        "created_at": rollout.created_at,
        "updated_at": rollout.updated_at,
        "ended_at": rollout.ended_at,
    })
}
