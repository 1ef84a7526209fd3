//! Emptying the response cache of this process.

use axum::response::Response;
use serde_json::json;

use super::change::{Changing, Halt, done};
use crate::gateway::Purge;
use crate::http::error::ApiError;
use crate::tenants::admin::cache;

/// `POST /admin/cache/purge`: the answers of a project, of a model (`name`, `name@number`), or all.
pub async fn purge(changing: Changing) -> Result<Response, Halt> {
    let gateway = changing.server.gateway().clone();
    let (mut fields, planned) = changing.fields()?;
    let project = fields.string("project_id")?;
    let model = fields.string("model")?;
    fields.finish(&[])?;
    if project.is_some() && model.is_some() {
        let message = "Send 'project_id' or 'model', or neither to drop all answers.";
        return Err(ApiError::invalid("model", "invalid_parameter_combination", message).into());
    }
    let mut change = planned.begin().await?;
    cache::purged(&mut change, project.as_deref(), model.as_deref()).await?;
    gateway.purge_cache(match (project, model) {
        (Some(project), _) => Purge::Tenant(project),
        (None, Some(model)) => Purge::Version(model),
        (None, None) => Purge::Everything,
    });
    done(change, &json!({"object": "response_cache.purged", "purged": true})).await
}
