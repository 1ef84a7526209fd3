//! `GET /admin/deployments/{name}/shadow`: what was said, beside what a silent model would have said.

use axum::Json;
use axum::extract::Path;
use serde_json::{Value, json};

use super::change::Looking;
use super::list;
use crate::experiments::ExperimentError;
use crate::http::adapters::owner_of;
use crate::http::error::ApiError;
use crate::tenants::admin::Order;

/// `GET /admin/deployments/{name}/shadow`: the newest first.
pub async fn list_all(Path(name): Path<String>, mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let owner = owner_of(looking.query.text("tenant")?);
    let model = looking.query.text("model")?;
    let paging = looking.query.paging_both_ways(20, 100, Order::Descending)?;
    let server = looking.without_parameters()?;
    if server.deployments().get(&owner, &name).is_none() {
        return Err(ExperimentError::NotFound { name }.into());
    }
    let page = server.shadows().list(&owner, &name, model.as_deref(), &paging).await?;
    Ok(list(&page, |row| {
        let mut object = json!({"id": row.id, "object": "shadow.answer", "created_at": row.at_micros.div_euclid(1_000_000)});
        // Its columns are what there is to be seen.
        if let (Some(object), Ok(Value::Object(columns))) = (object.as_object_mut(), serde_json::to_value(row)) {
            object.extend(columns);
        }
        object
    }))
}
