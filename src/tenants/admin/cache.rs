//! Emptying the response cache. The cache is the gateway's; what is here is the record of it.

use serde_json::json;

use super::{AdminError, Change, Done};

/// Notes that answers were dropped: of one tenant, of one model, or all.
pub async fn purged(change: &mut Change, project: Option<&str>, model: Option<&str>) -> Result<(), AdminError> {
    let what = json!({"project_id": project, "model": model});
    change.audit(Done { action: "response_cache.purged", object: "response_cache", project }, None, Some(&what)).await
}
