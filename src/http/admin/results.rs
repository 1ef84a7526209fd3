//! `GET /admin/deployments/{name}/results`: what an experiment has measured and what that means, ready for a page.

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::change::Looking;
use crate::experiments::{ExperimentError, Revision, results};
use crate::http::Server;
use crate::http::adapters::owner_of;
use crate::http::error::ApiError;
use crate::registry::Owner;
use crate::tenants::unix_now;

/// Revisions that are read at a time while an earlier experiment is looked for.
const AT_ONCE: i64 = 100;

/// `GET /admin/deployments/{name}/results`: of the experiment in force, or of an earlier one (`experiment`).
pub async fn retrieve(Path(name): Path<String>, mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let owner = owner_of(looking.query.text("tenant")?);
    let wanted = looking.query.text("experiment")?;
    let server = looking.without_parameters()?;
    let (revision, is_current) = revision(&server, &owner, &name, wanted.as_deref()).await?;
    let settings = results::asked(&revision.spec);
    let arms = revision.spec.arm_names();
    let report = server.results().report(&revision.experiment, &settings, &arms).await?;
    let mut rendered = json!(report);
    for arm in rendered["arms"].as_array_mut().into_iter().flatten() {
        if let Some(known) = arm["name"].as_str().and_then(|name| revision.spec.arm(name)) {
            arm["model"] = json!(known.target.model);
            arm["weight"] = json!(known.weight);
        }
    }
    Ok(Json(json!({
        "object": "deployment.results",
        "deployment": name,
        "tenant": owner.tenant(),
        "experiment_id": &*revision.experiment,
        "current": is_current,
        "revision": revision.number,
        "settings": settings,
        "arms": rendered["arms"],
        "split": rendered["split"],
        "as_of": unix_now(),
    })))
}

/// The newest revision of the experiment that is asked for, and whether it is the one in force.
async fn revision(
    server: &Server,
    owner: &Owner,
    name: &str,
    wanted: Option<&str>,
) -> Result<(std::sync::Arc<Revision>, bool), ApiError> {
    let Some(wanted) = wanted else {
        let deployment = server.deployments().get(owner, name).ok_or(ExperimentError::NotFound { name: name.to_owned() })?;
        return Ok((std::sync::Arc::clone(&deployment.current), true));
    };
    let current = server.deployments().get(owner, name).map(|deployment| deployment.current.experiment.to_string());
    let mut below = i64::MAX;
    loop {
        let page = server.deployments().history(owner, name, below, AT_ONCE).await?;
        if let Some(found) = page.iter().find(|revision| &*revision.experiment == wanted) {
            return Ok((std::sync::Arc::clone(found), current.as_deref() == Some(wanted)));
        }
        match page.last() {
            Some(last) => below = last.number,
            None => break,
        }
    }
    let shown: String = wanted.chars().take(64).collect();
    let message = format!("The deployment '{name}' never had an experiment '{shown}'; its history names those that it had.");
    let error = ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("experiment_not_found"), message);
    Err(ApiError { param: Some("experiment".to_owned()), ..error })
}
