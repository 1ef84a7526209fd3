//! `/v1/fine_tuning/jobs`: what is asked of a job, and OpenAI's objects of jobs, events and checkpoints.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::stream::unfold;
use serde_json::{Map, Value, json};

use super::fine_tuning_request::parse;
use super::repeated;
use super::sender::Head;
use crate::gateway::GatewayError;
use crate::http::Server;
use crate::http::admin::list;
use crate::http::admin::query::Parameters;
use crate::http::auth::may_look_at_training;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::form::unknown;
use crate::tenants::{Ask, Principal};
use crate::training::jobs::desk::{CheckpointRow, EventRow, JobRow, Jobs};
use crate::training::jobs::job::{Method, MethodKind, Resolved, Status};
use crate::training::jobs::{Order, Page, Paging};
use crate::training::run_record::RunRecord;

/// Objects in a list unless the request says, and at most (OpenAI's).
const LISTED: (usize, usize) = (20, 100);
/// Events that a stream reads at once.
const EVENTS_AT_ONCE: usize = 100;
/// Jobs that a filter looks through.
const FILTERED: usize = 10_000;

/// `POST /v1/fine_tuning/jobs`
pub async fn create(State(server): State<Server>, Head(sender): Head, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let sender = sender?;
    let again = body.clone();
    let answer = async {
        let new = parse(body, &sender.caller)?;
        may_train(&server, &sender.caller, &new.model).await?;
        check_rollout(&server, &sender.caller, new.metadata.as_deref())?;
        Ok(Json(object(&server.jobs().create(new).await?)).into_response())
    };
    repeated::once(&server, &sender, "/v1/fine_tuning/jobs", &again, answer).await
}

/// Whoever may not use a model may not train it either, and who has spent a budget may not spend more. What it will cost is not
/// known yet: the job's own limits hold that.
pub(in crate::http) async fn may_train(server: &Server, caller: &Principal, model: &str) -> Result<(), ApiError> {
    if !server.gateway().may_use(caller, model) {
        return Err(GatewayError::UnknownModel(model.to_owned()).into());
    }
    let asked = server.tenants().admit(Ask { caller, model, input: 0, most_output: 0, prices: &[] }).await;
    asked.map(drop).map_err(|refused| GatewayError::from(refused).into())
}

/// A rollout that could not be begun at the end is refused at the beginning.
fn check_rollout(server: &Server, caller: &Principal, metadata: Option<&str>) -> Result<(), ApiError> {
    let metadata: Option<Map<String, Value>> = metadata.and_then(|text| serde_json::from_str(text).ok());
    Ok(metadata.map_or(Ok(()), |metadata| server.rollouts().check_job(caller, &metadata))?)
}

/// `GET /v1/fine_tuning/jobs`
pub async fn list_all(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    parts: Parts,
) -> Result<Json<Value>, ApiError> {
    may_look_at_training(&caller)?;
    let mut query = Parameters::of(&parts)?;
    let paging = paging(&mut query)?;
    let wanted = metadata_filter(&mut query)?;
    query.finish()?;
    let Some(wanted) = wanted else {
        return Ok(list(&server.jobs().list(&caller.tenant, &paging).await?, object));
    };
    let mut page = server.jobs().list(&caller.tenant, &Paging { limit: FILTERED, ..paging.clone() }).await?;
    page.rows.retain(|row| wanted.fits(row));
    let has_more = page.has_more || page.rows.len() > paging.limit;
    page.rows.truncate(paging.limit);
    Ok(list(&Page { rows: page.rows, has_more }, object))
}

/// `GET /v1/fine_tuning/jobs/{job_id}`
pub async fn retrieve(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    may_look_at_training(&caller)?;
    Ok(Json(object(&server.jobs().get(&caller.tenant, &id).await?)))
}

/// `POST /v1/fine_tuning/jobs/{job_id}/cancel`
pub async fn cancel(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(object(&server.jobs().cancel(&caller.tenant, &id).await?)))
}

/// `POST /v1/fine_tuning/jobs/{job_id}/pause`
pub async fn pause(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(object(&server.jobs().pause(&caller.tenant, &id).await?)))
}

/// `POST /v1/fine_tuning/jobs/{job_id}/resume`
pub async fn resume(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(object(&server.jobs().resume(&caller.tenant, &id).await?)))
}

/// `GET /v1/fine_tuning/jobs/{job_id}/events`, the newest first; with `stream=true` all of them as they come, the oldest first.
pub async fn events(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Response, ApiError> {
    may_look_at_training(&caller)?;
    let mut query = Parameters::of(&parts)?;
    let streamed = query.boolean("stream")? == Some(true);
    let paging = paging(&mut query)?;
    query.finish()?;
    if !streamed {
        return Ok(list(&server.jobs().events(&caller.tenant, &id, &paging).await?, event).into_response());
    }
    // A job that is not there is told before the stream begins.
    server.jobs().get(&caller.tenant, &id).await?;
    let following = Following {
        jobs: server.jobs().clone(),
        tenant: Arc::clone(&caller.tenant),
        id,
        paging: Paging { order: Order::Ascending, limit: EVENTS_AT_ONCE, before: None, after: paging.after },
        keep_alive: server.config().keep_alive,
    };
    let mut response = Body::from_stream(following.stream()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// `GET /v1/fine_tuning/jobs/{job_id}/checkpoints`
pub async fn checkpoints(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Json<Value>, ApiError> {
    may_look_at_training(&caller)?;
    let mut query = Parameters::of(&parts)?;
    let paging = paging(&mut query)?;
    query.finish()?;
    Ok(list(&server.jobs().checkpoints(&caller.tenant, &id, &paging).await?, checkpoint))
}

/// `GET /v1/fine_tuning/jobs/{job_id}/run` (ours): the record of the job's training, as `switchyard train --repeat` reads it.
pub async fn run(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<RunRecord>, ApiError> {
    may_look_at_training(&caller)?;
    Ok(Json(server.jobs().run(&caller.tenant, &id).await?))
}

/// The newest first.
fn paging(query: &mut Parameters) -> Result<Paging, ApiError> {
    let (usual, most) = LISTED;
    Ok(Paging { order: Order::Descending, ..query.paging(usual, most)? })
}

/// Which jobs are wanted, by their metadata.
enum Wanted {
    /// Those without.
    None,
    /// Those with all of these.
    All(Vec<(String, String)>),
}

impl Wanted {
    fn fits(&self, row: &JobRow) -> bool {
        let metadata: Option<Map<String, Value>> = row.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok());
        match (self, metadata) {
            (Self::None, metadata) => metadata.is_none(),
            (Self::All(pairs), Some(metadata)) => {
                pairs.iter().all(|(key, value)| metadata.get(key).and_then(Value::as_str) == Some(value))
            }
            (Self::All(pairs), None) => pairs.is_empty(),
        }
    }
}

fn metadata_filter(query: &mut Parameters) -> Result<Option<Wanted>, ApiError> {
    let pairs = query.pairs("metadata");
    match (query.text("metadata")?.as_deref(), pairs.is_empty()) {
        (None, true) => Ok(None),
        (None, false) => Ok(Some(Wanted::All(pairs))),
        (Some("null"), true) => Ok(Some(Wanted::None)),
        _ => Err(unknown("metadata")),
    }
}

/// Somebody who follows a job.
struct Following {
    jobs: Jobs,
    tenant: Arc<str>,
    id: String,
    paging: Paging,
    keep_alive: std::time::Duration,
}

impl Following {
    /// Events until the job is over, or the server stops.
    fn stream(self) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
        let changes = self.jobs.changes();
        unfold(Some((self, changes)), |state| async move {
            let (mut following, mut changes) = state?;
            loop {
                changes.mark_unchanged();
                // Asked before its events: what comes between the two questions is not missed.
                let over = following.jobs.get(&following.tenant, &following.id).await.map(|row| Status::is_over(&row.status));
                let page = following.jobs.events(&following.tenant, &following.id, &following.paging).await;
                let (Ok(over), Ok(page)) = (over, page) else {
                    return Some((Ok(Bytes::from_static(b": the events cannot be read at the moment\n\n")), None));
                };
                if let Some(last) = page.rows.last() {
                    following.paging.after = Some(last.id.clone());
                    let text: String = page.rows.iter().map(|row| format!("data: {}\n\n", event(row))).collect();
                    return Some((Ok(Bytes::from(text)), Some((following, changes))));
                }
                if over {
                    return Some((Ok(Bytes::from_static(b"data: [DONE]\n\n")), None));
                }
                if following.jobs.is_closing() {
                    return None;
                }
                // Changes in other processes are seen when the silence is broken.
                if tokio::time::timeout(following.keep_alive, changes.changed()).await.is_err() {
                    return Some((Ok(Bytes::from_static(b": keep-alive\n\n")), Some((following, changes))));
                }
            }
        })
    }
}

/// The job object.
pub(in crate::http) fn object(row: &JobRow) -> Value {
    let resolved = row.settings.as_deref().and_then(|text| serde_json::from_str::<Resolved>(text).ok());
    // Only this server writes the column.
    let asked = serde_json::from_str::<Method>(&row.method).unwrap_or(Method::auto(MethodKind::Supervised));
    let mut hyperparameters = match &resolved {
        Some(resolved) => json!({
            "n_epochs": resolved.n_epochs,
            "batch_size": resolved.batch_size,
            "learning_rate_multiplier": resolved.learning_rate_multiplier,
        }),
        None => json!({
            "n_epochs": asked.n_epochs,
            "batch_size": asked.batch_size,
            "learning_rate_multiplier": asked.learning_rate_multiplier,
        }),
    };
    let shared = hyperparameters.clone();
    if asked.kind == MethodKind::Dpo {
        hyperparameters["beta"] = resolved.as_ref().map_or(json!(asked.beta), |resolved| json!(resolved.beta));
    }
    let kind = asked.kind.name();
    let over = Status::is_over(&row.status);
    let error = row.error_code.as_ref().map(|code| json!({"code": code, "message": row.error_message, "param": row.error_param}));
    json!({
        "object": "fine_tuning.job",
        "id": row.id,
        "model": row.base,
        "created_at": row.created_at,
        "finished_at": row.finished_at,
        "fine_tuned_model": (row.published != 0).then_some(&row.model),
        "organization_id": row.project_id,
        "result_files": row.result_file.iter().collect::<Vec<_>>(),
        "status": row.status,
        "state": row.phase,
        "validation_file": row.validation_file,
        "training_file": row.training_file,
        "hyperparameters": shared,
        "trained_tokens": over.then_some(row.trained_tokens),
        "error": error,
        "user_provided_suffix": Some(&row.suffix).filter(|suffix| !suffix.is_empty()),
        "seed": row.seed,
        "estimated_finish": row.estimated_finish,
        "integrations": [],
        "metadata": row.metadata.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()),
        "method": {"type": kind, kind: {"hyperparameters": hyperparameters}},
    })
}

/// The event object.
fn event(row: &EventRow) -> Value {
    json!({
        "object": "fine_tuning.job.event",
        "id": row.id,
        "created_at": row.created_micros / 1_000_000,
        "level": row.level,
        "message": row.message,
        "type": row.kind,
        "data": row.data.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_else(|| json!({})),
    })
}

/// The checkpoint object.
fn checkpoint(row: &CheckpointRow) -> Value {
    json!({
        "object": "fine_tuning.job.checkpoint",
        "id": row.id,
        "created_at": row.created_at,
        "fine_tuned_model_checkpoint": row.model,
        "fine_tuning_job_id": row.job_id,
        "metrics": serde_json::from_str::<Value>(&row.metrics).unwrap_or_else(|_| json!({})),
        "step_number": row.step,
    })
}
