//! `/convert/{id}/correction` and `/v1/convert/corrections`: what would have been right, as rows to train on, and the jobs that learn
//! from them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::Server;
use super::admin::deleted;
use super::admin::query::Parameters;
use super::auth::may_look_at_training;
use super::body::JsonBody;
use super::convert::schemas;
use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use super::openai::fine_tuning::{self, may_train};
use super::openai::sender::{Head, Sender};
use super::openai::{fine_tuning_request, repeated};
use crate::convert::correction::{Change, answer, corrected, training_row};
use crate::convert::{Reading, Schema};
use crate::experiments::settings::Metric;
use crate::experiments::{Opinion, Saying};
use crate::tenants::Principal;
use crate::training::jobs::JobsError;
use crate::training::jobs::corrections::{CorrectionRow, Policy, PolicyRow, Right, Said};
use crate::training::jobs::desk::JobRow;

/// Most new corrections that a policy waits for.
const MOST_AFTER: i64 = 1_000_000;
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// An answer that may be corrected.
pub(super) struct Answered<'a> {
    /// Its id.
    pub id: &'a str,
    /// The text as the model read it.
    pub text: &'a str,
    /// What was answered.
    pub reading: &'a Reading,
    /// In which schema.
    pub schema: &'a Schema,
    /// The tenant's own schema; empty is the built-in one.
    pub schema_name: &'a str,
    /// What gave the answer, as it was named.
    pub model: &'a str,
}

/// Keeps what was answered, as long as the operator allows it.
pub(super) fn keep(server: &Server, caller: &Principal, answered: &Answered<'_>) {
    let time = server.config().convert.keep_texts;
    if time == Duration::ZERO {
        return;
    }
    let said = Said {
        tenant: Arc::clone(&caller.tenant),
        id: answered.id.to_owned(),
        text: answered.text.to_owned(),
        answer: answer(answered.reading, answered.schema),
        model: answered.model.to_owned(),
        schema: answered.schema_name.to_owned(),
    };
    server.jobs().corrections().keep(said, time);
}

/// `POST /convert/{id}/correction`, `POST /api/convert/{id}/correction`
pub async fn correct(
    State(server): State<Server>,
    Head(sender): Head,
    Path(id): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let sender = sender?;
    let again = json!([id, body]);
    let answer = async { Ok(Json(learn(&server, &sender, &id, body).await?).into_response()) };
    repeated::once(&server, &sender, "/convert/{id}/correction", &again, answer).await
}

async fn learn(server: &Server, sender: &Sender, id: &str, body: Value) -> Result<Value, ApiError> {
    let corrections = server.jobs().corrections();
    let tenant = &sender.caller.tenant;
    let of = corrections.text(tenant, id).await.map_err(|error| unknown_answer(server, error))?;
    let schema = schema_named(server, &sender.caller, &of.schema_name)?;
    let change = change(body, &schema)?;
    let reading = Reading::of(&of.answer, &of.text, &schema).unwrap_or_else(|| Reading::unknown(&schema));
    let right = corrected(&reading, &change, &of.text, &schema).map_err(|error| {
        let field = error.field().to_owned();
        let message = format!("Invalid '{field}': {error}.");
        ApiError::invalid(field, "invalid_value", message)
    })?;
    let right = Right { tenant: Arc::clone(tenant), of, answer: answer(&right, &schema) };
    let (row, count) = corrections.add(right).await?;
    if !row.was_right {
        blame(server, &sender.caller, &row).await;
    }
    let mut reply = json!({
        "success": true,
        "id": row.id,
        "object": "convert.correction",
        "answer_id": row.answer_id,
        "was_right": row.was_right,
        "structured_data": serde_json::from_str::<Value>(&row.answer).unwrap_or_default(),
        "corrections": {"total": count.total, "new": count.new},
        "job": null,
    });
    // The correction is safe now: what goes wrong with a job is said beside it.
    match by_policy(server, &sender.caller, &row.schema_name, count.new).await {
        Ok(None) => {}
        Ok(Some(job)) => reply["job"] = job.id.into(),
        Err(error) => {
            tracing::warn!(message = %error.message, "corrections started no job");
            reply["job_refused"] = error.message.into();
        }
    }
    Ok(reply)
}

/// Tells the experiment that the answer's arm was wrong. Only answers of deployments belong to one.
async fn blame(server: &Server, caller: &Principal, row: &CorrectionRow) {
    let saying = Saying { tenant: &caller.tenant, key_id: &caller.key_id, request_id: &row.answer_id };
    let opinion = Opinion { metric: Metric::Corrections, value: 1.0, text: Some(row.answer.clone()) };
    if let Err(error) = server.results().recorder().feedback(saying, vec![opinion]).await {
        tracing::warn!(%error, answer = row.answer_id, "a correction does not count in its experiment");
    }
}

fn unknown_answer(server: &Server, error: JobsError) -> ApiError {
    let error = ApiError::from(error);
    if error.status != StatusCode::NOT_FOUND {
        return error;
    }
    let days = server.config().convert.keep_texts.as_secs() / 86_400;
    let how = if days == 0 {
        "This server keeps no texts of /convert, so that there is nothing to correct (setting 'convert_keep_texts').".to_owned()
    } else {
        format!("{} Texts are kept for {days} days; partial ones are not kept.", error.message)
    };
    ApiError { message: how, ..error }
}

/// A schema as it is now; the built-in one has no name.
fn schema_named(server: &Server, caller: &Principal, name: &str) -> Result<Arc<Schema>, ApiError> {
    match name {
        "" => Ok(Schema::built_in()),
        name => Ok(Arc::new(schemas::named(server, caller, "schema", name)?.schema)),
    }
}

/// The schema that a query names; empty is the built-in one.
fn schema_in(server: &Server, caller: &Principal, parts: &Parts) -> Result<String, ApiError> {
    let mut query = Parameters::of(parts)?;
    let schema = query.text("schema")?;
    query.finish()?;
    known(server, caller, schema)
}

fn known(server: &Server, caller: &Principal, schema: Option<String>) -> Result<String, ApiError> {
    let Some(name) = schema else { return Ok(String::new()) };
    schemas::named(server, caller, "schema", &name).map(|_| name)
}

/// `{"correct": true}`, or what would have been right: the intent, and entities by their names.
fn change(body: Value, schema: &Schema) -> Result<Change, ApiError> {
    let mut fields = Fields::body(body)?;
    let correct = fields.boolean("correct")?;
    let intent = fields.string("intent")?;
    let mut values = Vec::with_capacity(schema.entities.len());
    for entity in &schema.entities {
        values.push(match fields.take_nullable(&entity.name) {
            None => None,
            Some(None) => Some(None),
            Some(Some(Value::String(value))) => Some(Some(value)),
            Some(Some(other)) => return Err(wrong_type(&entity.name, "a string or null", &other)),
        });
    }
    fields.finish(&[])?;
    let says_more = intent.is_some() || values.iter().any(Option::is_some);
    match (correct, says_more) {
        (Some(true), true) => {
            let message = "Invalid 'correct': an answer that was right needs nothing else; send one or the other.";
            Err(ApiError::invalid("correct", "invalid_parameter_combination", message))
        }
        (Some(false) | None, false) => {
            let message = "Missing required parameter: 'intent', or what else would have been right; or 'correct': true.";
            Err(ApiError::invalid("intent", "missing_required_parameter", message))
        }
        _ => Ok(Change { intent, values }),
    }
}

/// `GET /v1/convert/corrections`: rows to train on, as JSON Lines, the oldest first.
pub async fn export(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    parts: Parts,
) -> Result<Response, ApiError> {
    may_look_at_training(&caller)?;
    let schema = schema_in(&server, &caller, &parts)?;
    let mut text = lines(&server, &caller, &schema).await?.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON_LINES);
    // Whoever opens the address in a browser must not run what somebody has said.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}

async fn lines(server: &Server, caller: &Principal, schema: &str) -> Result<Vec<String>, ApiError> {
    let rows = server.jobs().corrections().all(&caller.tenant, schema).await?;
    let schema = schema_named(server, caller, schema)?;
    Ok(rows.iter().map(|row| training_row(&row.text, &row.answer, &schema)).collect())
}

/// `DELETE /v1/convert/corrections/{correction_id}`
pub async fn remove(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    server.jobs().corrections().delete(&caller.tenant, &id).await?;
    Ok(Json(deleted(&id, "convert.correction")))
}

/// `POST /v1/convert/corrections/jobs`: a file of all corrections, after the rows of `training_file` where one is named, and a job
/// that learns from it. The rest of the body is a job's.
pub async fn start_job(State(server): State<Server>, Head(sender): Head, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let sender = sender?;
    let again = body.clone();
    let answer = async {
        let mut body = body;
        let schema = match body.as_object_mut().and_then(|fields| fields.remove("schema")) {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(name),
            Some(other) => return Err(wrong_type("schema", "a string", &other)),
        };
        let schema = known(&server, &sender.caller, schema)?;
        let order = Order::of(&server, body, &sender.caller, (schema, sender.caller.key_id.to_string()))?;
        let job = start(&server, &sender.caller, order, 0).await?;
        let job = job.ok_or_else(|| ApiError::internal(&"a claim of nothing was refused; this is a bug"))?;
        Ok(Json(fine_tuning::object(&job)).into_response())
    };
    repeated::once(&server, &sender, "/v1/convert/corrections/jobs", &again, answer).await
}

/// A job as it was asked for, without its file.
struct Order {
    body: Map<String, Value>,
    /// The file whose rows come before the corrections.
    after: Option<String>,
    /// Of answers in this schema; empty is the built-in one.
    schema: String,
    key_id: String,
}

impl Order {
    /// Checks everything that can be checked without a file.
    fn of(server: &Server, body: Value, caller: &Principal, (schema, key_id): (String, String)) -> Result<Self, ApiError> {
        let Value::Object(mut body) = body else { return Err(wrong_type("body", "an object", &body)) };
        let after = match body.remove("training_file") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id),
            Some(other) => return Err(wrong_type("training_file", "a string", &other)),
        };
        body.entry("model").or_insert_with(|| server.gateway().base().name.clone().into());
        let order = Self { body, after, schema, key_id };
        order.with_file("file-", caller)?;
        Ok(order)
    }

    fn with_file(&self, id: &str, caller: &Principal) -> Result<crate::training::jobs::desk::NewJob, ApiError> {
        let mut body = self.body.clone();
        body.insert("training_file".to_owned(), id.into());
        let new = fine_tuning_request::parse(Value::Object(body), caller)?;
        Ok(crate::training::jobs::desk::NewJob { key_id: self.key_id.clone(), ..new })
    }
}

/// Starts a job if there are at least so many new corrections.
async fn start(server: &Server, caller: &Principal, order: Order, at_least: i64) -> Result<Option<JobRow>, ApiError> {
    let corrections = server.jobs().corrections();
    let Some(claim) = corrections.claim(&caller.tenant, &order.schema, at_least).await? else { return Ok(None) };
    let made = make(server, caller, &order).await;
    // Where this fails the claim is nobody's after a while.
    corrections.settle(claim, made.as_ref().ok().map(|job| job.id.as_str())).await?;
    made.map(Some)
}

async fn make(server: &Server, caller: &Principal, order: &Order) -> Result<JobRow, ApiError> {
    let lines = lines(server, caller, &order.schema).await?;
    if lines.is_empty() {
        let message = "There are no corrections yet; POST /convert/{id}/correction adds one.";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some("no_corrections"), message));
    }
    let file = server.jobs().corrections().file(&caller.tenant, order.after.as_deref(), &lines).await?;
    let job = async {
        let new = order.with_file(&file.id, caller)?;
        may_train(server, caller, &new.model).await?;
        Ok(server.jobs().create(new).await?)
    };
    let job = job.await;
    if job.is_err()
        && let Err(error) = server.files().delete(&caller.tenant, &file.id).await
    {
        tracing::warn!(%error, file = file.id, "a file of corrections stays without its job");
    }
    job
}

/// The job that a tenant's policy asks for, where it is time.
async fn by_policy(server: &Server, caller: &Principal, schema: &str, new: i64) -> Result<Option<JobRow>, ApiError> {
    let Some(policy) = server.jobs().corrections().policy(&caller.tenant, schema).await? else { return Ok(None) };
    if new < policy.after {
        return Ok(None);
    }
    let body = serde_json::from_str(&policy.job).map_err(|error| ApiError::internal(&error))?;
    let order = Order::of(server, body, caller, (policy.schema_name, policy.key_id))?;
    start(server, caller, order, policy.after).await
}

/// `GET /v1/convert/corrections/policy`
pub async fn policy(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    parts: Parts,
) -> Result<Json<Value>, ApiError> {
    may_look_at_training(&caller)?;
    let schema = schema_in(&server, &caller, &parts)?;
    let row = server.jobs().corrections().policy(&caller.tenant, &schema).await?;
    let row = row.ok_or_else(|| ApiError::not_found("This project has no policy for corrections: no job starts by itself."))?;
    Ok(Json(shown(&row)))
}

/// `PUT /v1/convert/corrections/policy`
pub async fn set_policy(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let schema = schema_in(&server, &caller, &parts)?;
    let mut fields = Fields::body(body)?;
    let after = fields.integer("after", 1..=MOST_AFTER)?.ok_or_else(|| fields.missing("after"))?;
    let job = match fields.take("job") {
        None => json!({}),
        Some(job @ Value::Object(_)) => job,
        Some(other) => return Err(wrong_type("job", "an object", &other)),
    };
    fields.finish(&[])?;
    // What a job would refuse is refused now, and by its name.
    let key_id = caller.key_id.to_string();
    let order = Order::of(&server, job.clone(), &caller, (schema.clone(), key_id.clone())).map_err(inside_job)?;
    if let Some(file) = &order.after {
        let field = || "job.training_file".to_owned();
        server.files().get(&caller.tenant, file).await.map_err(|error| ApiError { param: Some(field()), ..error.into() })?;
    }
    let policy = Policy { tenant: Arc::clone(&caller.tenant), schema, after, job: job.to_string(), key_id };
    let row = server.jobs().corrections().set_policy(policy).await?;
    Ok(Json(shown(&row)))
}

fn inside_job(error: ApiError) -> ApiError {
    ApiError { param: error.param.map(|param| format!("job.{param}")), ..error }
}

/// `DELETE /v1/convert/corrections/policy`
pub async fn remove_policy(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    parts: Parts,
) -> Result<Json<Value>, ApiError> {
    let schema = schema_in(&server, &caller, &parts)?;
    server.jobs().corrections().remove_policy(&caller.tenant, &schema).await?;
    Ok(Json(deleted("policy", "convert.correction_policy")))
}

fn shown(row: &PolicyRow) -> Value {
    json!({
        "object": "convert.correction_policy",
        "schema": Some(&row.schema_name).filter(|name| !name.is_empty()),
        "after": row.after,
        "job": serde_json::from_str::<Value>(&row.job).unwrap_or_default(),
        "set_by": row.key_id,
        "updated_at": row.updated_at,
    })
}
