//! `/admin/deployments`: names that share their traffic between versions. Each change is a revision; `If-Match` names the one that
//! must be in force.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, ChangingAt, Halt, Looking, answered, found, kept};
use super::{deleted, deployment_spec};
use crate::experiments::{Action, Applied, Changed, Deployment, ExperimentError, Revision, Wish};
use crate::http::Server;
use crate::http::adapters::{new_owner, owner_of};
use crate::http::error::ApiError;
use crate::http::fields::Fields;
use crate::registry::{Owner, Viewer};
use crate::tenants::admin::{Intent, KeptAnswer};

/// `GET /admin/deployments`
pub async fn list_all(mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let tenant = looking.query.text("tenant")?;
    let server = looking.without_parameters()?;
    let list = server.deployments().list(Viewer::Operator);
    let wanted = list.iter().filter(|deployment| tenant.is_none() || deployment.owner.tenant() == tenant.as_deref());
    let data: Vec<Value> = wanted.map(|deployment| render(deployment)).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

/// `POST /admin/deployments`
pub async fn create(changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let name = fields.required_string("name")?;
    let tenant = fields.string("tenant")?;
    let draft = deployment_spec::take(&mut fields)?;
    let reason = reason(&mut fields)?;
    fields.finish(&[])?;
    let (server, intent) = planned.apart();
    let owner = new_owner(&server, tenant)?;
    apply(&server, Wish { owner, name, action: Action::Create(draft), reason, intent }, whole).await
}

/// `GET /admin/deployments/{name}`
pub async fn retrieve(Path(name): Path<String>, mut looking: Looking) -> Result<Response, ApiError> {
    let owner = owner_of(looking.query.text("tenant")?);
    let server = looking.without_parameters()?;
    let deployment = server.deployments().get(&owner, &name).ok_or(ExperimentError::NotFound { name })?;
    Ok(found(&render(&deployment), deployment.current.number))
}

/// `PUT /admin/deployments/{name}`: all of the spec; the name is made where it is not there.
pub async fn put(Path(name): Path<String>, changing: ChangingAt) -> Result<Response, Halt> {
    let (owner, mut fields, server, intent) = begin(changing)?;
    let draft = deployment_spec::take(&mut fields)?;
    let reason = reason(&mut fields)?;
    fields.finish(&[])?;
    let owner = new_owner(&server, owner.tenant().map(str::to_owned))?;
    apply(&server, Wish { owner, name, action: Action::Put(draft), reason, intent }, whole).await
}

/// `POST /admin/deployments/{name}/weights`: other weights for the same arms.
pub async fn weights(Path(name): Path<String>, changing: ChangingAt) -> Result<Response, Halt> {
    let (owner, mut fields, server, intent) = begin(changing)?;
    let value = fields.take("weights").ok_or_else(|| fields.missing("weights"))?;
    let reason = reason(&mut fields)?;
    fields.finish(&[])?;
    let names: Vec<String> = value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    let mut given = Fields::object("weights".to_owned(), value)?;
    let read = |name: String| deployment_spec::weight(&mut given, &name).map(|weight| (name, weight));
    let weights = names.into_iter().map(read).collect::<Result<_, _>>()?;
    apply(&server, Wish { owner, name, action: Action::Weights(weights), reason, intent }, whole).await
}

/// `POST /admin/deployments/{name}/rollback`
pub async fn rollback(Path(name): Path<String>, changing: ChangingAt) -> Result<Response, Halt> {
    let (owner, mut fields, server, intent) = begin(changing)?;
    let to = fields.integer("to_revision", 1..=i64::MAX)?;
    let reason = reason(&mut fields)?;
    fields.finish(&[])?;
    let wish = Wish { owner, name, action: Action::Rollback { to }, reason, intent };
    apply(&server, wish, |changed| {
        let mut object = render(&changed.deployment);
        // From the understood request to the moment from which new requests went by the old revision.
        object["effective_after_us"] = json!(u64::try_from(changed.effective.as_micros()).unwrap_or(u64::MAX));
        object
    })
    .await
}

/// `DELETE /admin/deployments/{name}`
pub async fn remove(Path(name): Path<String>, changing: ChangingAt) -> Result<Response, Halt> {
    let (owner, fields, server, intent) = begin(changing)?;
    fields.finish(&[])?;
    let wish = Wish { owner, name, action: Action::Delete, reason: None, intent };
    let applied = server.deployments().apply(wish, |changed| {
        let mut object = deleted(&changed.deployment.id, "deployment.deleted");
        object["name"] = json!(changed.deployment.name);
        kept(&object, None)
    });
    finish(applied.await)
}

/// `GET /admin/deployments/{name}/history`: the newest first; also of a name that is gone.
pub async fn history(Path(name): Path<String>, mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let owner = owner_of(looking.query.text("tenant")?);
    let limit = looking.query.integer("limit", 1..=100)?.unwrap_or(20);
    let below = looking.query.integer("after", 1..=i64::MAX)?.unwrap_or(i64::MAX);
    let server = looking.without_parameters()?;
    let mut revisions = server.deployments().history(&owner, &name, below, limit + 1).await?;
    let has_more = i64::try_from(revisions.len()).unwrap_or(i64::MAX) > limit;
    if has_more {
        revisions.pop();
    }
    let id = |revision: Option<&std::sync::Arc<Revision>>| revision.map(|revision| revision.number.to_string());
    let data: Vec<Value> = revisions.iter().map(|revision| render_revision(revision, &owner)).collect();
    Ok(Json(json!({
        "object": "list",
        "first_id": id(revisions.first()),
        "last_id": id(revisions.last()),
        "has_more": has_more,
        "data": data,
    })))
}

fn begin(changing: ChangingAt) -> Result<(Owner, Fields, Server, Intent), ApiError> {
    let ChangingAt { mut query, changing } = changing;
    let owner = owner_of(query.text("tenant")?);
    query.finish()?;
    let (fields, planned) = changing.fields()?;
    let (server, intent) = planned.apart();
    Ok((owner, fields, server, intent))
}

fn reason(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    Ok(fields.string("reason")?.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty()))
}

async fn apply(server: &Server, wish: Wish, object: impl FnOnce(&Changed) -> Value + Send + 'static) -> Result<Response, Halt> {
    let answer = move |changed: &Changed| -> KeptAnswer { kept(&object(changed), Some(changed.deployment.current.number)) };
    finish(server.deployments().apply(wish, answer).await)
}

fn finish(applied: Result<Applied, ExperimentError>) -> Result<Response, Halt> {
    match applied.map_err(ApiError::from)? {
        Applied::Done(kept) => Ok(answered(&kept)),
        Applied::Repeated(kept) => Err(Halt::Replay(kept)),
    }
}

fn whole(changed: &Changed) -> Value {
    render(&changed.deployment)
}

/// A deployment as it is in force.
fn render(deployment: &Deployment) -> Value {
    let Revision { number, restores, experiment, actor, reason, at_micros, spec, .. } = &*deployment.current;
    let mut object = deployment_spec::render(spec, &deployment.owner);
    let own = json!({
        "id": deployment.id,
        "object": "deployment",
        "name": deployment.name,
        "tenant": deployment.owner.tenant(),
        "revision": number,
        "restores": restores,
        "experiment_id": experiment,
        "created_at": deployment.created_at,
        "changed_at": at_micros.div_euclid(1_000_000),
        "changed_by": actor,
        "reason": reason,
    });
    object.extend(own.as_object().cloned().unwrap_or_default());
    Value::Object(object)
}

fn render_revision(revision: &Revision, owner: &Owner) -> Value {
    let Revision { number, made, restores, experiment, actor, reason, at_micros, spec } = revision;
    let mut object = deployment_spec::render(spec, owner);
    let own = json!({
        "object": "deployment.revision",
        "revision": number,
        "action": made.name(),
        "restores": restores,
        "experiment_id": experiment,
        "at": at_micros.div_euclid(1_000_000),
        "actor": actor,
        "reason": reason,
    });
    object.extend(own.as_object().cloned().unwrap_or_default());
    Value::Object(object)
}
