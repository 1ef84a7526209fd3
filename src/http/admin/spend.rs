//! Spend limits and spend alerts of the organization and of its projects: monthly budgets in cents, hard and soft ones. Nobody is
//! sent mail here: an alert goes to the webhooks, with its recipients in the body.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, Halt, Looking, changed, done, found};
use super::{deleted, list};
use crate::http::error::ApiError;
use crate::http::fields::{self, Fields};
use crate::tenants::admin::budgets::{self, BudgetChange, BudgetSpec, Which};
use crate::tenants::admin::money::CENT;
use crate::tenants::admin::{BudgetRow, Order};
use crate::tenants::{Enforcement, Period, Subject};

/// Largest amount, cents: nano-dollars fit 64 bits.
const MAX_CENTS: i64 = i64::MAX / CENT;
/// Most recipients of an alert.
const MAX_RECIPIENTS: usize = 50;

/// `GET /v1/organization/spend_limit`
pub async fn limit(looking: Looking) -> Result<Response, ApiError> {
    show_limit(looking, Subject::Organization).await
}

/// `GET /v1/organization/projects/{project_id}/spend_limit`
pub async fn project_limit(Path(project): Path<String>, looking: Looking) -> Result<Response, ApiError> {
    show_limit(looking, Subject::Project(project)).await
}

async fn show_limit(looking: Looking, subject: Subject) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = budgets::spend_limit(server.tenants().office(), &subject).await?;
    let spent = budgets::spent(server.tenants().office(), &row).await?;
    Ok(found(&render_limit(&row, spent), row.version))
}

/// `POST /v1/organization/spend_limit`
pub async fn set_limit(changing: Changing) -> Result<Response, Halt> {
    put_limit(changing, Subject::Organization).await
}

/// `POST /v1/organization/projects/{project_id}/spend_limit`
pub async fn set_project_limit(Path(project): Path<String>, changing: Changing) -> Result<Response, Halt> {
    put_limit(changing, Subject::Project(project)).await
}

async fn put_limit(changing: Changing, subject: Subject) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let limit = amount(&mut fields)?;
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let row = budgets::put_spend_limit(&mut change, subject, limit).await?;
    let spent = budgets::spent_now(&mut change, &row).await?;
    changed(change, &render_limit(&row, spent), row.version).await
}

/// `DELETE /v1/organization/spend_limit`
pub async fn delete_limit(changing: Changing) -> Result<Response, Halt> {
    remove_limit(changing, Subject::Organization).await
}

/// `DELETE /v1/organization/projects/{project_id}/spend_limit`
pub async fn delete_project_limit(Path(project): Path<String>, changing: Changing) -> Result<Response, Halt> {
    remove_limit(changing, Subject::Project(project)).await
}

async fn remove_limit(changing: Changing, subject: Subject) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    budgets::delete_spend_limit(&mut change, &subject).await?;
    done(change, &json!({"object": format!("{}.spend_limit.deleted", kind(&subject)), "deleted": true})).await
}

/// `GET /v1/organization/spend_alerts`
pub async fn alerts(looking: Looking) -> Result<Json<Value>, ApiError> {
    list_alerts(looking, Subject::Organization).await
}

/// `GET /v1/organization/projects/{project_id}/spend_alerts`
pub async fn project_alerts(Path(project): Path<String>, looking: Looking) -> Result<Json<Value>, ApiError> {
    crate::tenants::admin::projects::get(looking.office(), &project).await?;
    list_alerts(looking, Subject::Project(project)).await
}

async fn list_alerts(mut looking: Looking, subject: Subject) -> Result<Json<Value>, ApiError> {
    let paging = looking.query.paging_both_ways(20, 100, Order::Ascending)?;
    let server = looking.without_parameters()?;
    let (scope, of) = budgets::columns(&subject);
    let which = Which { scope: Some(scope), subject: Some(of), period: Some("month"), enforcement: Some("soft") };
    let page = budgets::list(server.tenants().office(), which, &paging).await?;
    Ok(list(&page, render_alert))
}

/// `POST /v1/organization/spend_alerts`
pub async fn create_alert(changing: Changing) -> Result<Response, Halt> {
    new_alert(changing, Subject::Organization).await
}

/// `POST /v1/organization/projects/{project_id}/spend_alerts`
pub async fn create_project_alert(Path(project): Path<String>, changing: Changing) -> Result<Response, Halt> {
    new_alert(changing, Subject::Project(project)).await
}

async fn new_alert(changing: Changing, subject: Subject) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let (limit, channel) = (amount(&mut fields)?, channel(&mut fields)?);
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let spec = BudgetSpec {
        subject,
        period: Period::Month,
        limit,
        enforcement: Enforcement::Soft,
        thresholds: vec![100],
        notification: Some(channel.to_string()),
    };
    let row = budgets::create(&mut change, spec).await?;
    changed(change, &render_alert(&row), row.version).await
}

/// `GET /v1/organization/spend_alerts/{alert_id}`
pub async fn alert(Path(id): Path<String>, looking: Looking) -> Result<Response, ApiError> {
    show_alert(looking, &Subject::Organization, &id).await
}

/// `GET /v1/organization/projects/{project_id}/spend_alerts/{alert_id}`
pub async fn project_alert(Path((project, id)): Path<(String, String)>, looking: Looking) -> Result<Response, ApiError> {
    show_alert(looking, &Subject::Project(project), &id).await
}

async fn show_alert(looking: Looking, subject: &Subject, id: &str) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = budgets::spend_alert(server.tenants().office(), subject, id).await?;
    Ok(found(&render_alert(&row), row.version))
}

/// `POST /v1/organization/spend_alerts/{alert_id}`
pub async fn update_alert(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    change_alert(changing, Subject::Organization, id).await
}

/// `POST /v1/organization/projects/{project_id}/spend_alerts/{alert_id}`
pub async fn update_project_alert(Path((project, id)): Path<(String, String)>, changing: Changing) -> Result<Response, Halt> {
    change_alert(changing, Subject::Project(project), id).await
}

async fn change_alert(changing: Changing, subject: Subject, id: String) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let (limit, channel) = (amount(&mut fields)?, channel(&mut fields)?);
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let to = BudgetChange { limit: Some(limit), notification: Some(Some(channel.to_string())), thresholds: None };
    let row = budgets::update_alert(&mut change, &subject, &id, to).await?;
    changed(change, &render_alert(&row), row.version).await
}

/// `DELETE /v1/organization/spend_alerts/{alert_id}`
pub async fn delete_alert(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    remove_alert(changing, Subject::Organization, id).await
}

/// `DELETE /v1/organization/projects/{project_id}/spend_alerts/{alert_id}`
pub async fn delete_project_alert(Path((project, id)): Path<(String, String)>, changing: Changing) -> Result<Response, Halt> {
    remove_alert(changing, Subject::Project(project), id).await
}

async fn remove_alert(changing: Changing, subject: Subject, id: String) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    budgets::delete_alert(&mut change, &subject, &id).await?;
    done(change, &deleted(&id, &format!("{}.spend_alert.deleted", kind(&subject)))).await
}

/// `threshold_amount` with the only currency and interval that there are.
fn amount(fields: &mut Fields) -> Result<i64, ApiError> {
    let currency = fields.required_string("currency")?;
    fields::word("currency", &currency, &[("USD", ())])?;
    let interval = fields.required_string("interval")?;
    fields::word("interval", &interval, &[("month", ())])?;
    let cents = fields.integer("threshold_amount", 0..=MAX_CENTS)?.ok_or_else(|| fields.missing("threshold_amount"))?;
    Ok(cents * CENT)
}

fn channel(fields: &mut Fields) -> Result<Value, ApiError> {
    let name = "notification_channel";
    let value = fields.take(name).ok_or_else(|| fields.missing(name))?;
    let mut channel = Fields::object(name.to_owned(), value)?;
    let kind = channel.required_string("type")?;
    fields::word(&channel.path("type"), &kind, &[("email", ())])?;
    let recipients = channel.strings("recipients", MAX_RECIPIENTS)?.ok_or_else(|| channel.missing("recipients"))?;
    let prefix = channel.string("subject_prefix")?;
    channel.finish(&[])?;
    Ok(json!({"type": kind, "recipients": recipients, "subject_prefix": prefix}))
}

fn kind(subject: &Subject) -> &'static str {
    match subject {
        Subject::Organization => "organization",
        Subject::Project(_) | Subject::Key(_) => "project",
    }
}

fn render_limit(row: &BudgetRow, spent: i64) -> Value {
    json!({
        "object": format!("{}.spend_limit", row.scope),
        "currency": "USD",
        "interval": "month",
        "threshold_amount": row.limit_nanos / CENT,
        "enforcement": {"status": if spent >= row.limit_nanos { "enforcing" } else { "inactive" }},
    })
}

fn render_alert(row: &BudgetRow) -> Value {
    let nobody = json!({"type": "email", "recipients": [], "subject_prefix": null});
    let channel = row.notification.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(nobody);
    json!({
        "id": row.id,
        "object": format!("{}.spend_alert", row.scope),
        "currency": "USD",
        "interval": "month",
        "threshold_amount": row.limit_nanos / CENT,
        "notification_channel": channel,
    })
}
