//! `/v1/organization/audit_logs`: who changed what, in OpenAI's words, with the states before and after added.

use axum::Json;
use serde_json::{Map, Value, json};

use super::change::Looking;
use super::list;
use crate::http::error::ApiError;
use crate::http::fields;
use crate::tenants::admin::Order;
use crate::tenants::admin::audit::{self, AuditRow, Which};

const MICROS: i64 = 1_000_000;
/// Largest time, seconds since 1970.
const MAX_TIME: i64 = i64::MAX / MICROS - 1;

/// `GET /v1/organization/audit_logs`: the newest first.
pub async fn list_all(mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let query = &mut looking.query;
    // As OpenAI: `after` is further into the past.
    let paging = query.paging_both_ways(20, 100, Order::Descending)?;
    let mut time = |name: &str| query.integer(&format!("effective_at[{name}]"), 0..=MAX_TIME);
    let from = time("gte")?.max(time("gt")?.map(|seconds| seconds + 1));
    let to = [time("lt")?, time("lte")?.map(|seconds| seconds + 1)].into_iter().flatten().min();
    let which = Which {
        actors: query.list("actor_ids")?,
        actions: query.list("event_types")?,
        objects: query.list("resource_ids")?,
        projects: query.list("project_ids")?,
        from: from.map(|seconds| seconds * MICROS),
        to: to.map(|seconds| seconds * MICROS),
    };
    for name in ["actor_emails", "actor_emails[]"] {
        if query.text(name)?.is_some() {
            let message = "Unsupported parameter: 'actor_emails'. There are no users; 'actor_ids' takes ids of keys.";
            return Err(ApiError::invalid("actor_emails", "unsupported_parameter", message));
        }
    }
    if query.boolean("tenant_only")? == Some(true) {
        return Err(fields::word::<()>("tenant_only", "true", &[("false", ())])
            .err()
            .unwrap_or_else(ApiError::organization_only));
    }
    let server = looking.without_parameters()?;
    let page = audit::list(server.tenants().office(), &which, &paging).await?;
    Ok(list(&page, render))
}

fn render(row: &AuditRow) -> Value {
    let read = |text: &Option<String>| text.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let (before, after) = (read(&row.before), read(&row.after));
    let mut detail = json!({"id": row.object_id});
    match (&before, &after) {
        (None, Some(after)) => detail["data"] = with_lists(after.clone()),
        (Some(before), Some(after)) => detail["changes_requested"] = with_lists(difference(before, after)),
        _ => {}
    }
    let mut object = json!({
        "id": row.id,
        "type": row.action,
        "effective_at": row.at_micros.div_euclid(MICROS),
        "actor": {"type": "api_key", "api_key": {"id": row.actor, "type": "service_account"}},
        "project": row.project_id.as_ref().map(|id| json!({"id": id})),
        "request_id": row.request_id,
        "before": before,
        "after": after,
    });
    object[row.action.as_str()] = detail;
    object
}

/// Fields with other values than before.
fn difference(before: &Value, after: &Value) -> Value {
    let changed = |(name, value): (&String, &Value)| {
        (before.get(name) != Some(value) && name != "version").then(|| (name.clone(), value.clone()))
    };
    Value::Object(after.as_object().into_iter().flatten().filter_map(changed).collect::<Map<_, _>>())
}

/// Scopes are a list in the API.
fn with_lists(mut value: Value) -> Value {
    if let Some(scopes) = value.get("scopes").and_then(Value::as_str) {
        value["scopes"] = scopes.split(',').collect();
    }
    value
}
