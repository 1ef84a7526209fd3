//! `POST /admin/training/plan`: what a fine-tuning job would take, before it is asked for; `GET /admin/training/jobs/{job_id}/run`: what
//! it was made of, afterwards.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use serde_json::{Value, json};

use super::change::Looking;
use crate::http::Server;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::fields::Fields;
use crate::http::openai::fine_tuning_request::{limits, method};
use crate::tenants::{Principal, Reach, price_at, unix_now};
use crate::training::jobs::JobsError;
use crate::training::jobs::work::{Failure, Task};
use crate::training::jobs::workshop::Asked;
use crate::training::plan::Limits;
use crate::training::run_record::{FileFacts, RunRecord};

/// `POST /admin/training/plan`
pub async fn create(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::body(body)?;
    let tenant = fields.string("project_id")?.unwrap_or_else(|| caller.tenant.to_string());
    if caller.reach != Reach::Organization && *tenant != *caller.tenant {
        return Err(ApiError::organization_only());
    }
    let training_file = fields.required_string("training_file")?;
    let validation_file = fields.string("validation_file")?;
    let seed = fields.integer("seed", 0..=i64::MAX)?;
    let method = method(&mut fields)?;
    let (max_seconds, max_nanos) = fields.take("limits").map_or(Ok((None, None)), limits)?;
    fields.finish(&[])?;
    let Some(workshop) = server.workshop().cloned() else {
        return Err(not_now("base_not_trainable", "This server's base cannot be trained."));
    };
    let content = async |field: &'static str, id: &str| match server.files().content(&tenant, id).await {
        Err(JobsError::NotFound { .. }) => {
            let shown: String = id.chars().take(64).collect();
            let message = format!("Invalid '{field}': there is no file {shown:?} of the project {tenant:?}.");
            Err(ApiError::invalid(field, "invalid_value", message))
        }
        other => Ok(other?),
    };
    let (file, training) = content("training_file", &training_file).await?;
    let validation = match validation_file {
        Some(id) => Some(content("validation_file", &id).await?.1),
        None => None,
    };
    let asked = Asked {
        task: Task {
            job: String::new(),
            tenant: tenant.clone(),
            kind: method.kind,
            training,
            training_file: FileFacts { name: file.filename, ..FileFacts::default() },
            validation,
            validation_file: None,
            seed: seed.map_or(0, i64::unsigned_abs),
            created_at: unix_now(),
        },
        method,
        limits: Limits {
            hours: max_seconds.map(|seconds| seconds as f64 / 3_600.0),
            nanos: max_nanos.map(i64::unsigned_abs),
            ..Limits::default()
        },
    };
    let prices = server.tenants().policy().prices.of(&tenant, &server.gateway().base().name);
    let price = price_at(&prices, unix_now()).cloned();
    let planned = tokio::task::spawn_blocking(move || {
        workshop.plan(&asked, &|tokens| price.as_ref().map(|price| price.of_training(tokens).unsigned_abs()))
    });
    let plan = planned.await.unwrap_or(Err(Failure::Stopped)).map_err(refused)?;
    let text = plan.text();
    let mut object = json!(plan);
    object["object"] = "training.plan".into();
    object["text"] = text.into();
    Ok(Json(object))
}

/// `GET /admin/training/jobs/{job_id}/run`
pub async fn run(Path(id): Path<String>, looking: Looking) -> Result<Json<RunRecord>, ApiError> {
    let server = looking.without_parameters()?;
    Ok(Json(server.jobs().any_run(&id).await?))
}

fn refused(failure: Failure) -> ApiError {
    match failure {
        Failure::Job { code, message, param: Some(field) } => ApiError::invalid(field, code, message),
        Failure::Job { code, message, param: None } => not_now(code, message),
        Failure::Later(reason) => ApiError::internal(&reason),
        Failure::Stopped | Failure::DiskFull => not_now("not_measured", "The measurement was broken off; please try again."),
    }
}

fn not_now(code: &'static str, message: impl Into<String>) -> ApiError {
    JobsError::Refused { code, message: message.into() }.into()
}
