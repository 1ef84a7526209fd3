//! The admin API: OpenAI's organization API over our tenants, and under `/admin` what that lacks. One resource a file; the rules
//! of changes are in `tenants::admin`.

mod absent;
pub(super) mod adapters;
mod admin_keys;
mod audit_logs;
mod budgets;
mod cache;
pub(super) mod cards;
pub(super) mod change;
pub(super) mod conditions;
mod deployment_spec;
mod deployments;
mod keys;
mod limits;
pub(super) mod openapi;
mod openapi_deployments;
mod openapi_rollouts;
mod openapi_schemas;
mod plans;
mod prices;
mod project_keys;
mod projects;
mod promotions;
pub(super) mod query;
mod rate_limits;
mod results;
mod rollouts;
mod service_accounts;
mod shadows;
mod spend;
mod usage;
mod webhooks;

use axum::Json;
use axum::http::Method;
use axum::routing::{delete, get, post, put};
use serde_json::{Value, json};

pub use absent::feature as absent_feature;
pub use change::idempotency_key;

use super::routes::{Access, Route};
use crate::tenants::Scope;
use crate::tenants::admin::Page;

/// The routes. Looking asks for any scope here; handlers narrow it down to the organization's keys, and usage to the caller's own.
#[rustfmt::skip]
pub fn routes() -> Vec<Route> {
    const ADMIN: Access = Access::Scope(Scope::Admin);
    const LOOK: Access = Access::Scope(Scope::ReadOnly);
    let at = |path, access, method, handler| Route::new(method, path, access, handler);
    let (g, p, u, d) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    vec![
        at("/v1/organization/projects",                                     LOOK,  g.clone(), get(projects::list_all)),
        at("/v1/organization/projects",                                     ADMIN, p.clone(), post(projects::create)),
        at("/v1/organization/projects/{project_id}",                        LOOK,  g.clone(), get(projects::retrieve)),
        at("/v1/organization/projects/{project_id}",                        ADMIN, p.clone(), post(projects::update)),
        at("/v1/organization/projects/{project_id}/archive",                ADMIN, p.clone(), post(projects::archive)),

        at("/v1/organization/projects/{project_id}/service_accounts",       LOOK,  g.clone(), get(service_accounts::list_all)),
        at("/v1/organization/projects/{project_id}/service_accounts",       ADMIN, p.clone(), post(service_accounts::create)),
        at("/v1/organization/projects/{project_id}/service_accounts/{service_account_id}", LOOK,  g.clone(), get(service_accounts::retrieve)),
        at("/v1/organization/projects/{project_id}/service_accounts/{service_account_id}", ADMIN, p.clone(), post(service_accounts::update)),
        at("/v1/organization/projects/{project_id}/service_accounts/{service_account_id}", ADMIN, d.clone(), delete(service_accounts::delete)),
        at("/v1/organization/projects/{project_id}/service_accounts/{service_account_id}/api_keys", ADMIN, p.clone(), post(service_accounts::create_key)),

        at("/v1/organization/projects/{project_id}/api_keys",               LOOK,  g.clone(), get(project_keys::list_all)),
        at("/v1/organization/projects/{project_id}/api_keys/{api_key_id}",  LOOK,  g.clone(), get(project_keys::retrieve)),
        at("/v1/organization/projects/{project_id}/api_keys/{api_key_id}",  ADMIN, p.clone(), post(project_keys::update)),
        at("/v1/organization/projects/{project_id}/api_keys/{api_key_id}",  ADMIN, d.clone(), delete(project_keys::delete)),

        at("/v1/organization/admin_api_keys",                               LOOK,  g.clone(), get(admin_keys::list_all)),
        at("/v1/organization/admin_api_keys",                               ADMIN, p.clone(), post(admin_keys::create)),
        at("/v1/organization/admin_api_keys/{key_id}",                      LOOK,  g.clone(), get(admin_keys::retrieve)),
        at("/v1/organization/admin_api_keys/{key_id}",                      ADMIN, d.clone(), delete(admin_keys::delete)),

        at("/v1/organization/projects/{project_id}/rate_limits",            LOOK,  g.clone(), get(rate_limits::list_all)),
        at("/v1/organization/projects/{project_id}/rate_limits/{rate_limit_id}", ADMIN, p.clone(), post(rate_limits::update)),
        at("/v1/organization/projects/{project_id}/model_permissions",      LOOK,  g.clone(), get(rate_limits::permissions)),
        at("/v1/organization/projects/{project_id}/model_permissions",      ADMIN, p.clone(), post(rate_limits::update_permissions)),
        at("/v1/organization/projects/{project_id}/model_permissions",      ADMIN, d.clone(), delete(rate_limits::delete_permissions)),

        at("/v1/organization/spend_limit",                                  LOOK,  g.clone(), get(spend::limit)),
        at("/v1/organization/spend_limit",                                  ADMIN, p.clone(), post(spend::set_limit)),
        at("/v1/organization/spend_limit",                                  ADMIN, d.clone(), delete(spend::delete_limit)),
        at("/v1/organization/projects/{project_id}/spend_limit",            LOOK,  g.clone(), get(spend::project_limit)),
        at("/v1/organization/projects/{project_id}/spend_limit",            ADMIN, p.clone(), post(spend::set_project_limit)),
        at("/v1/organization/projects/{project_id}/spend_limit",            ADMIN, d.clone(), delete(spend::delete_project_limit)),
        at("/v1/organization/spend_alerts",                                 LOOK,  g.clone(), get(spend::alerts)),
        at("/v1/organization/spend_alerts",                                 ADMIN, p.clone(), post(spend::create_alert)),
        at("/v1/organization/spend_alerts/{alert_id}",                      LOOK,  g.clone(), get(spend::alert)),
        at("/v1/organization/spend_alerts/{alert_id}",                      ADMIN, p.clone(), post(spend::update_alert)),
        at("/v1/organization/spend_alerts/{alert_id}",                      ADMIN, d.clone(), delete(spend::delete_alert)),
        at("/v1/organization/projects/{project_id}/spend_alerts",           LOOK,  g.clone(), get(spend::project_alerts)),
        at("/v1/organization/projects/{project_id}/spend_alerts",           ADMIN, p.clone(), post(spend::create_project_alert)),
        at("/v1/organization/projects/{project_id}/spend_alerts/{alert_id}", LOOK,  g.clone(), get(spend::project_alert)),
        at("/v1/organization/projects/{project_id}/spend_alerts/{alert_id}", ADMIN, p.clone(), post(spend::update_project_alert)),
        at("/v1/organization/projects/{project_id}/spend_alerts/{alert_id}", ADMIN, d.clone(), delete(spend::delete_project_alert)),

        at("/v1/organization/usage/completions",                            LOOK,  g.clone(), get(usage::completions)),
        at("/v1/organization/costs",                                        LOOK,  g.clone(), get(usage::costs)),
        at("/v1/organization/audit_logs",                                   LOOK,  g.clone(), get(audit_logs::list_all)),

        at("/admin/adapters",                                               LOOK,  g.clone(), get(adapters::list_all)),
        at("/admin/adapters/{name}",                                        ADMIN, d.clone(), delete(adapters::remove)),
        at("/admin/adapters/{name}/versions",                               LOOK,  g.clone(), get(adapters::versions)),
        at("/admin/adapters/{name}/versions",                               ADMIN, p.clone(), post(adapters::upload)),
        at("/admin/adapters/{name}/versions/{version}/card",                LOOK,  g.clone(), get(cards::retrieve)),

        at("/admin/adapters/{name}/promotions",                             ADMIN, p.clone(), post(promotions::create)),

        at("/admin/deployments",                                            LOOK,  g.clone(), get(deployments::list_all)),
        at("/admin/deployments",                                            ADMIN, p.clone(), post(deployments::create)),
        at("/admin/deployments/{name}",                                     LOOK,  g.clone(), get(deployments::retrieve)),
        at("/admin/deployments/{name}",                                     ADMIN, u.clone(), put(deployments::put)),
        at("/admin/deployments/{name}",                                     ADMIN, d.clone(), delete(deployments::remove)),
        at("/admin/deployments/{name}/weights",                             ADMIN, p.clone(), post(deployments::weights)),
        at("/admin/deployments/{name}/rollback",                            ADMIN, p.clone(), post(deployments::rollback)),
        at("/admin/deployments/{name}/rollouts",                            ADMIN, p.clone(), post(rollouts::create)),
        at("/admin/deployments/{name}/shadow",                              LOOK,  g.clone(), get(shadows::list_all)),
        at("/admin/rollouts",                                               LOOK,  g.clone(), get(rollouts::list_all)),
        at("/admin/rollouts/{rollout_id}",                                  LOOK,  g.clone(), get(rollouts::retrieve)),
        at("/admin/rollouts/{rollout_id}/pause",                            ADMIN, p.clone(), post(rollouts::pause)),
        at("/admin/rollouts/{rollout_id}/resume",                           ADMIN, p.clone(), post(rollouts::resume)),
        at("/admin/rollouts/{rollout_id}/promote",                          ADMIN, p.clone(), post(rollouts::promote)),
        at("/admin/rollouts/{rollout_id}/abort",                            ADMIN, p.clone(), post(rollouts::abort)),
        at("/admin/deployments/{name}/history",                             LOOK,  g.clone(), get(deployments::history)),
        at("/admin/deployments/{name}/results",                             LOOK,  g.clone(), get(results::retrieve)),

        at("/admin/training/jobs/{job_id}/run",                             LOOK,  g.clone(), get(plans::run)),
        at("/admin/training/plan",                                          ADMIN, p.clone(), post(plans::create)),

        at("/admin/keys",                                                   LOOK,  g.clone(), get(keys::list_all)),
        at("/admin/keys",                                                   ADMIN, p.clone(), post(keys::create)),
        at("/admin/keys/{key_id}",                                          LOOK,  g.clone(), get(keys::retrieve)),
        at("/admin/keys/{key_id}",                                          ADMIN, p.clone(), post(keys::update)),
        at("/admin/keys/{key_id}",                                          ADMIN, d.clone(), delete(keys::revoke)),
        at("/admin/keys/{key_id}/rotate",                                   ADMIN, p.clone(), post(keys::rotate)),
        at("/admin/limits",                                                 LOOK,  g.clone(), get(limits::list_all)),
        at("/admin/limits/{scope}/{subject}/{model}",                       LOOK,  g.clone(), get(limits::retrieve)),
        at("/admin/limits/{scope}/{subject}/{model}",                       ADMIN, u,         put(limits::set)),
        at("/admin/limits/{scope}/{subject}/{model}",                       ADMIN, d.clone(), delete(limits::remove)),
        at("/admin/budgets",                                                LOOK,  g.clone(), get(budgets::list_all)),
        at("/admin/budgets",                                                ADMIN, p.clone(), post(budgets::create)),
        at("/admin/budgets/{budget_id}",                                    LOOK,  g.clone(), get(budgets::retrieve)),
        at("/admin/budgets/{budget_id}",                                    ADMIN, p.clone(), post(budgets::update)),
        at("/admin/budgets/{budget_id}",                                    ADMIN, d.clone(), delete(budgets::remove)),
        at("/admin/cache/purge",                                            ADMIN, p.clone(), post(cache::purge)),
        at("/admin/prices",                                                 LOOK,  g.clone(), get(prices::list_all)),
        at("/admin/prices",                                                 ADMIN, p.clone(), post(prices::create)),
        at("/admin/prices/{price_id}",                                      LOOK,  g.clone(), get(prices::retrieve)),
        at("/admin/prices/{price_id}",                                      ADMIN, d.clone(), delete(prices::remove)),
        at("/admin/usage/export",                                           LOOK,  g.clone(), get(usage::export)),
        at("/admin/webhooks",                                               LOOK,  g.clone(), get(webhooks::list_all)),
        at("/admin/webhooks",                                               ADMIN, p.clone(), post(webhooks::create)),
        at("/admin/webhooks/{webhook_id}",                                  LOOK,  g.clone(), get(webhooks::retrieve)),
        at("/admin/webhooks/{webhook_id}",                                  ADMIN, p,         post(webhooks::update)),
        at("/admin/webhooks/{webhook_id}",                                  ADMIN, d,         delete(webhooks::remove)),
        at("/admin/webhooks/{webhook_id}/deliveries",                       LOOK,  g,         get(webhooks::deliveries)),
    ]
}

/// A page in OpenAI's words.
pub(super) fn list<T>(page: &Page<T>, render: impl Fn(&T) -> Value) -> Json<Value> {
    let data: Vec<Value> = page.rows.iter().map(render).collect();
    let id = |object: Option<&Value>| object.map_or(Value::Null, |object| object["id"].clone());
    Json(json!({
        "object": "list",
        "first_id": id(data.first()),
        "last_id": id(data.last()),
        "has_more": page.has_more,
        "data": data,
    }))
}

/// What is said of something that was removed.
pub(super) fn deleted(id: &str, object: &str) -> Value {
    json!({"id": id, "object": object, "deleted": true})
}
