//! The admin API described for machines: one line an operation. A test in `http/openapi.rs` compares it with the routes.

use axum::http::Method;
use serde_json::{Value, json};

pub use super::openapi_schemas::schemas;

/// An operation.
struct Line {
    method: Method,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    request: Option<&'static str>,
    response: &'static str,
    query: &'static [&'static str],
}

const PAGE: &[&str] = &["limit", "after"];
const BOTH_WAYS: &[&str] = &["limit", "after", "before", "order"];

#[rustfmt::skip]
fn lines() -> Vec<Line> {
    let get = |path, id, summary, response, query| Line { method: Method::GET, path, id, summary, request: None, response, query };
    let post = |path, id, summary, request, response| Line { method: Method::POST, path, id, summary, request, response, query: &[] };
    let delete = |path, id, summary| Line { method: Method::DELETE, path, id, summary, request: None, response: "Deleted", query: &[] };
    vec![
        get("/v1/organization/projects", "listProjects", "Tenants.", "ProjectList", &["limit", "after", "include_archived"]),
        post("/v1/organization/projects", "createProject", "Make a tenant.", Some("ProjectCreate"), "Project"),
        get("/v1/organization/projects/{project_id}", "retrieveProject", "A tenant.", "Project", &[]),
        post("/v1/organization/projects/{project_id}", "updateProject", "Rename a tenant.", Some("ProjectUpdate"), "Project"),
        post("/v1/organization/projects/{project_id}/archive", "archiveProject", "Archive a tenant: its keys do not work any more.", None, "Project"),

        get("/v1/organization/projects/{project_id}/service_accounts", "listServiceAccounts", "Service accounts of a tenant.", "ServiceAccountList", PAGE),
        post("/v1/organization/projects/{project_id}/service_accounts", "createServiceAccount", "Make a service account and its first key, which is shown once.", Some("ServiceAccountCreate"), "ServiceAccountCreated"),
        get("/v1/organization/projects/{project_id}/service_accounts/{service_account_id}", "retrieveServiceAccount", "A service account.", "ServiceAccount", &[]),
        post("/v1/organization/projects/{project_id}/service_accounts/{service_account_id}", "updateServiceAccount", "Change a service account.", Some("ServiceAccountUpdate"), "ServiceAccount"),
        delete("/v1/organization/projects/{project_id}/service_accounts/{service_account_id}", "deleteServiceAccount", "Delete a service account and revoke its keys."),
        post("/v1/organization/projects/{project_id}/service_accounts/{service_account_id}/api_keys", "createServiceAccountKey", "Make a key, which is shown once.", Some("ServiceAccountKeyCreate"), "ServiceAccountKey"),

        get("/v1/organization/projects/{project_id}/api_keys", "listProjectKeys", "Keys of a tenant.", "ProjectKeyList", &["limit", "after", "owner_project_access"]),
        get("/v1/organization/projects/{project_id}/api_keys/{api_key_id}", "retrieveProjectKey", "A key of a tenant.", "ProjectKey", &[]),
        post("/v1/organization/projects/{project_id}/api_keys/{api_key_id}", "updateProjectKey", "Change scopes and expiry of a key.", Some("ProjectKeyUpdate"), "ProjectKey"),
        delete("/v1/organization/projects/{project_id}/api_keys/{api_key_id}", "deleteProjectKey", "Revoke a key."),

        get("/v1/organization/admin_api_keys", "listAdminKeys", "Keys of the organization.", "AdminKeyList", &["limit", "after", "order"]),
        post("/v1/organization/admin_api_keys", "createAdminKey", "Make an admin key, which is shown once.", Some("AdminKeyCreate"), "AdminKeyCreated"),
        get("/v1/organization/admin_api_keys/{key_id}", "retrieveAdminKey", "A key of the organization.", "AdminKey", &[]),
        delete("/v1/organization/admin_api_keys/{key_id}", "deleteAdminKey", "Revoke a key of the organization; not the last admin key."),

        get("/v1/organization/projects/{project_id}/rate_limits", "listRateLimits", "Limits in force on each model, and on all together (`rl-*`).", "RateLimitList", BOTH_WAYS),
        post("/v1/organization/projects/{project_id}/rate_limits/{rate_limit_id}", "updateRateLimit", "Change a tenant's limits on a model.", Some("RateLimitUpdate"), "RateLimit"),
        get("/v1/organization/projects/{project_id}/model_permissions", "retrieveModelPermissions", "What models a tenant may use.", "ModelPermissions", &[]),
        post("/v1/organization/projects/{project_id}/model_permissions", "updateModelPermissions", "Set what models a tenant may use.", Some("ModelPermissionsUpdate"), "ModelPermissions"),
        delete("/v1/organization/projects/{project_id}/model_permissions", "deleteModelPermissions", "Let a tenant use all models again."),

        get("/v1/organization/spend_limit", "retrieveSpendLimit", "The organization's hard limit of a month.", "SpendLimit", &[]),
        post("/v1/organization/spend_limit", "updateSpendLimit", "Set the organization's hard limit of a month.", Some("SpendLimitUpdate"), "SpendLimit"),
        delete("/v1/organization/spend_limit", "deleteSpendLimit", "Remove the organization's hard limit of a month."),
        get("/v1/organization/projects/{project_id}/spend_limit", "retrieveProjectSpendLimit", "A tenant's hard limit of a month.", "SpendLimit", &[]),
        post("/v1/organization/projects/{project_id}/spend_limit", "updateProjectSpendLimit", "Set a tenant's hard limit of a month.", Some("SpendLimitUpdate"), "SpendLimit"),
        delete("/v1/organization/projects/{project_id}/spend_limit", "deleteProjectSpendLimit", "Remove a tenant's hard limit of a month."),
        get("/v1/organization/spend_alerts", "listSpendAlerts", "Monthly amounts at which webhooks are called.", "SpendAlertList", BOTH_WAYS),
        post("/v1/organization/spend_alerts", "createSpendAlert", "Have webhooks called at a monthly amount.", Some("SpendAlertUpdate"), "SpendAlert"),
        get("/v1/organization/spend_alerts/{alert_id}", "retrieveSpendAlert", "A spend alert.", "SpendAlert", &[]),
        post("/v1/organization/spend_alerts/{alert_id}", "updateSpendAlert", "Change a spend alert.", Some("SpendAlertUpdate"), "SpendAlert"),
        delete("/v1/organization/spend_alerts/{alert_id}", "deleteSpendAlert", "Remove a spend alert."),
        get("/v1/organization/projects/{project_id}/spend_alerts", "listProjectSpendAlerts", "A tenant's monthly amounts at which webhooks are called.", "SpendAlertList", BOTH_WAYS),
        post("/v1/organization/projects/{project_id}/spend_alerts", "createProjectSpendAlert", "Have webhooks called at a tenant's monthly amount.", Some("SpendAlertUpdate"), "SpendAlert"),
        get("/v1/organization/projects/{project_id}/spend_alerts/{alert_id}", "retrieveProjectSpendAlert", "A tenant's spend alert.", "SpendAlert", &[]),
        post("/v1/organization/projects/{project_id}/spend_alerts/{alert_id}", "updateProjectSpendAlert", "Change a tenant's spend alert.", Some("SpendAlertUpdate"), "SpendAlert"),
        delete("/v1/organization/projects/{project_id}/spend_alerts/{alert_id}", "deleteProjectSpendAlert", "Remove a tenant's spend alert."),

        get("/v1/organization/usage/completions", "usageCompletions", "Tokens and requests in buckets of time; a tenant's key sees its own.", "UsagePage",
            &["start_time", "end_time", "bucket_width", "group_by", "project_ids", "api_key_ids", "models", "user_ids", "batch", "buckets", "page"]),
        get("/v1/organization/costs", "costs", "Money by the day; a tenant's key sees its own.", "CostsPage",
            &["start_time", "end_time", "costs_bucket_width", "costs_group_by", "project_ids", "api_key_ids", "line_items", "buckets", "page"]),
        get("/v1/organization/audit_logs", "listAuditLogs", "Who changed what, the newest first.", "AuditLogList",
            &["limit", "after", "before", "order", "actor_ids", "event_types", "resource_ids", "project_ids", "effective_at[gt]", "effective_at[gte]", "effective_at[lt]", "effective_at[lte]"]),

        get("/admin/adapters/{name}/versions/{version}/card", "retrieveVersionCard", "What is known of a version: origin, evaluation, limits.", "VersionCard", &["tenant", "card_format"]),
        get("/admin/deployments", "listDeployments", "Names that share their traffic between versions.", "DeploymentList", &["tenant"]),
        post("/admin/deployments", "createDeployment", "Make a deployment.", Some("DeploymentCreate"), "Deployment"),
        get("/admin/deployments/{name}", "retrieveDeployment", "A deployment as it is in force.", "Deployment", &["tenant"]),
        Line { method: Method::PUT, query: &["tenant"], ..post("/admin/deployments/{name}", "putDeployment", "Set all of a deployment, which is made where it is not there; effective on the next request.", Some("DeploymentPut"), "Deployment") },
        Line { query: &["tenant"], ..delete("/admin/deployments/{name}", "deleteDeployment", "Remove a deployment; its history stays.") },
        Line { query: &["tenant"], ..post("/admin/deployments/{name}/weights", "setDeploymentWeights", "Change the weights of the arms.", Some("DeploymentWeights"), "Deployment") },
        Line { query: &["tenant"], ..post("/admin/deployments/{name}/rollback", "rollBackDeployment", "Go back to what was there before, or to any revision.", Some("DeploymentRollback"), "DeploymentRolledBack") },
        Line { query: &["tenant"], ..post("/admin/deployments/{name}/rollouts", "createRollout", "Begin to give a candidate more and more of the traffic, as long as the numbers are good.", Some("RolloutCreate"), "Rollout") },
        get("/admin/deployments/{name}/shadow", "listShadowAnswers", "What was said beside what a silent model would have said, the newest first.", "ShadowAnswerList", &["tenant", "model", "limit", "after", "before", "order"]),
        get("/admin/rollouts", "listRollouts", "Rollouts, the oldest first.", "RolloutList", &["tenant", "deployment", "rollout_state", "limit", "after"]),
        get("/admin/rollouts/{rollout_id}", "retrieveRollout", "A rollout, and what it waits for.", "Rollout", &[]),
        post("/admin/rollouts/{rollout_id}/pause", "pauseRollout", "Stay where it is; a breached guard takes it back all the same.", Some("RolloutSteer"), "Rollout"),
        post("/admin/rollouts/{rollout_id}/resume", "resumeRollout", "Go on; from inconclusive: to the next step.", Some("RolloutSteer"), "Rollout"),
        post("/admin/rollouts/{rollout_id}/promote", "promoteRollout", "Give the candidate all traffic now.", Some("RolloutSteer"), "Rollout"),
        post("/admin/rollouts/{rollout_id}/abort", "abortRollout", "Go back to what was there before, now.", Some("RolloutSteer"), "Rollout"),
        get("/admin/deployments/{name}/history", "listDeploymentRevisions", "All revisions of a deployment, the newest first; also of one that is gone.", "DeploymentHistory", &["tenant", "limit", "after"]),
        get("/admin/deployments/{name}/results", "retrieveDeploymentResults", "What an experiment has measured and what that means: of the one in force, or of an earlier one.", "DeploymentResults", &["tenant", "experiment"]),
        get("/admin/keys", "listKeys", "Keys, of one tenant (or `organization`) where it is named.", "KeyList", &["limit", "after", "project_id", "service_account_id"]),
        post("/admin/keys", "createKey", "Make a key, which is shown once.", Some("KeyCreate"), "KeyCreated"),
        get("/admin/keys/{key_id}", "retrieveKey", "A key.", "Key", &[]),
        post("/admin/keys/{key_id}", "updateKey", "Change a key.", Some("KeyUpdate"), "Key"),
        delete("/admin/keys/{key_id}", "revokeKey", "Revoke a key."),
        post("/admin/keys/{key_id}/rotate", "rotateKey", "Make a new key like this one, which goes on working for the overlap.", Some("KeyRotate"), "KeyCreated"),
        get("/admin/limits", "listLimits", "Limits that were set.", "LimitList", &["scope", "subject"]),
        get("/admin/limits/{scope}/{subject}/{model}", "retrieveLimit", "A limit that was set.", "Limit", &[]),
        Line { method: Method::PUT, ..post("/admin/limits/{scope}/{subject}/{model}", "setLimit", "Set all of a limit: `default/*`, `project/ID` or `key/ID`, and a model or `*`.", Some("LimitSet"), "Limit") },
        delete("/admin/limits/{scope}/{subject}/{model}", "removeLimit", "Remove a limit."),
        get("/admin/budgets", "listBudgets", "Budgets.", "BudgetList", &["limit", "after", "scope", "subject"]),
        post("/admin/budgets", "createBudget", "Make a budget.", Some("BudgetCreate"), "Budget"),
        get("/admin/budgets/{budget_id}", "retrieveBudget", "A budget and what is spent of it.", "Budget", &[]),
        post("/admin/budgets/{budget_id}", "updateBudget", "Change a budget.", Some("BudgetUpdate"), "Budget"),
        delete("/admin/budgets/{budget_id}", "removeBudget", "Remove a budget."),
        post("/admin/cache/purge", "purgeResponseCache", "Drop answers from the response cache of this process.", Some("CachePurge"), "CachePurged"),
        get("/admin/prices", "listPrices", "The price book.", "PriceList", &["limit", "after", "project_id", "model"]),
        post("/admin/prices", "createPrice", "Add a price.", Some("PriceCreate"), "Price"),
        get("/admin/prices/{price_id}", "retrievePrice", "A price.", "Price", &[]),
        delete("/admin/prices/{price_id}", "removePrice", "Take a price back that does not hold yet."),
        get("/admin/usage/export", "exportUsage", "Rows of the ledger, streamed; a tenant's key sees its own.", "UsageExport", &["format", "start_time", "end_time", "project_ids"]),
        get("/admin/webhooks", "listWebhooks", "Webhooks.", "WebhookList", &["limit", "after", "project_id"]),
        post("/admin/webhooks", "createWebhook", "Make a webhook; its signing secret is shown once.", Some("WebhookCreate"), "WebhookCreated"),
        get("/admin/webhooks/{webhook_id}", "retrieveWebhook", "A webhook.", "Webhook", &[]),
        post("/admin/webhooks/{webhook_id}", "updateWebhook", "Change a webhook's address.", Some("WebhookUpdate"), "Webhook"),
        delete("/admin/webhooks/{webhook_id}", "removeWebhook", "Remove a webhook."),
        get("/admin/webhooks/{webhook_id}/deliveries", "listDeliveries", "What was sent to a webhook, the newest first.", "DeliveryList", &["limit"]),
    ]
}

/// All operations: method, path, description.
pub fn operations() -> Vec<(Method, &'static str, Value)> {
    lines().into_iter().map(|line| (line.method.clone(), line.path, describe(&line))).collect()
}

fn describe(line: &Line) -> Value {
    let content = |schema: &str| json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}});
    let changes = line.method != Method::GET;
    let named = line.path.contains('{');
    let success = match line.response {
        "UsageExport" => json!({
            "text/csv": {"schema": {"type": "string"}},
            "application/jsonl": {"schema": {"type": "string"}},
        }),
        "VersionCard" => {
            let mut content = content("VersionCard");
            content["text/markdown"] = json!({"schema": {"type": "string"}});
            content
        }
        schema => content(schema),
    };
    let mut responses = json!({"200": {"description": "Success.", "content": success}});
    let errors = [
        (400, true, "The request is wrong; the error names the field and what would be right."),
        (401, true, "The key is missing or wrong (`invalid_api_key`)."),
        (403, true, "The key has not the scope for this, or belongs to a tenant (`insufficient_permissions`)."),
        (404, named, "There is no such object (`not_found`)."),
        (409, changes, "Changed by somebody else at the same time (`conflict`), or `idempotency_key_reused`."),
        (412, changes, "Not at a version that `If-Match` names (`precondition_failed`)."),
        (413, changes, "The body is larger than this server accepts."),
        (503, true, "The database cannot be reached; see `retry-after`."),
    ];
    for (status, _, description) in errors.iter().filter(|(_, applies, _)| *applies) {
        responses[status.to_string()] = json!({"description": description, "content": content("Error")});
    }
    let mut parameters: Vec<Value> = Vec::new();
    for part in line.path.split('{').skip(1) {
        let name = part.split('}').next().unwrap_or(part);
        parameters.push(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    }
    parameters.extend(line.query.iter().map(|name| query(name)));
    if changes {
        let header = |name: &str, description: &str| json!({"name": name, "in": "header", "description": description, "schema": {"type": "string"}});
        parameters.push(header(
            "Idempotency-Key",
            "A repetition with the same key and body within 24 hours gets the same answer and changes nothing.",
        ));
        parameters.push(header("If-Match", "The `ETag` that the object must have now."));
    }
    let mut value = json!({"operationId": line.id, "summary": line.summary, "responses": responses, "security": [{"key": []}]});
    if let Some(schema) = line.request {
        value["requestBody"] = json!({"required": true, "content": content(schema)});
    }
    if !parameters.is_empty() {
        value["parameters"] = json!(parameters);
    }
    value
}

/// A parameter of the query string. Some have the same name and other values elsewhere.
fn query(name: &str) -> Value {
    let text = json!({"type": "string"});
    let texts = json!({"type": "array", "items": text, "maxItems": 100});
    let words = |words: &[&str]| json!({"type": "string", "enum": words});
    let list_of = |words: &[&str]| json!({"type": "array", "items": {"type": "string", "enum": words}});
    let time = json!({"type": "integer", "minimum": 0, "maximum": 1i64 << 36});
    let (name, required, schema) = match name {
        "limit" => ("limit", false, json!({"type": "integer", "minimum": 1, "maximum": 100})),
        "buckets" => ("limit", false, json!({"type": "integer", "minimum": 1, "description": "Buckets at once."})),
        "order" => ("order", false, words(&["asc", "desc"])),
        "rollout_state" => (
            "state",
            false,
            words(&["pending", "shadow", "progressing", "paused", "inconclusive", "promoted", "rolled_back", "aborted"]),
        ),
        "include_archived" | "batch" => (name, false, json!({"type": "boolean"})),
        "owner_project_access" => (name, false, words(&["active", "inactive", "any"])),
        "start_time" => (name, true, time),
        "end_time" | "effective_at[gt]" | "effective_at[gte]" | "effective_at[lt]" | "effective_at[lte]" => (name, false, time),
        "card_format" => ("format", false, words(&["json", "markdown"])),
        "format" => (name, false, words(&["csv", "jsonl"])),
        "bucket_width" => (name, false, words(&["1m", "1h", "1d"])),
        "costs_bucket_width" => ("bucket_width", false, words(&["1d"])),
        "group_by" => (name, false, list_of(&["project_id", "api_key_id", "model", "user_id"])),
        "costs_group_by" => ("group_by", false, list_of(&["project_id", "api_key_id", "line_item", "user_id"])),
        "scope" => (name, false, words(&["default", "organization", "project", "key"])),
        "project_ids" | "api_key_ids" | "models" | "user_ids" | "line_items" | "actor_ids" | "event_types" | "resource_ids" => {
            (name, false, texts)
        }
        _ => (name, false, text),
    };
    json!({"name": name, "in": "query", "required": required, "schema": schema})
}
