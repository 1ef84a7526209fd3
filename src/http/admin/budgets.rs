//! `/admin/budgets`: money for a day, a month or for good, of the organization, a project or a key. Amounts are dollars as text,
//! exact to the nano-dollar.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::change::{Changing, Halt, Looking, changed, done, found};
use super::{deleted, list};
use crate::http::error::ApiError;
use crate::http::fields::{self, Fields};
use crate::tenants::admin::BudgetRow;
use crate::tenants::admin::budgets::{self, BudgetChange, BudgetSpec, THRESHOLDS, Which};
use crate::tenants::admin::money;
use crate::tenants::{Enforcement, Period, Subject};

const SCOPES: [(&str, &str); 3] = [("organization", "organization"), ("project", "project"), ("key", "key")];
const PERIODS: [(&str, Period); 3] = [("day", Period::Day), ("month", Period::Month), ("total", Period::Total)];
const ENFORCEMENTS: [(&str, Enforcement); 2] = [("hard", Enforcement::Hard), ("soft", Enforcement::Soft)];

/// `GET /admin/budgets`
pub async fn list_all(mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let paging = looking.query.paging(20, 100)?;
    let scope = looking.query.word("scope", &SCOPES)?;
    let subject = looking.query.text("subject")?;
    let server = looking.without_parameters()?;
    let which = Which { scope, subject: subject.as_deref(), ..Which::default() };
    let page = budgets::list(server.tenants().office(), which, &paging).await?;
    Ok(list(&page, render))
}

/// `POST /admin/budgets`
pub async fn create(changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let scope = fields.required_string("scope")?;
    let subject = match fields::word("scope", &scope, &SCOPES)? {
        "organization" => Subject::Organization,
        "project" => Subject::Project(fields.required_string("subject")?),
        _ => Subject::Key(fields.required_string("subject")?),
    };
    let period = fields.required_string("period")?;
    let period = fields::word("period", &period, &PERIODS)?;
    let enforcement = fields.required_string("enforcement")?;
    let enforcement = fields::word("enforcement", &enforcement, &ENFORCEMENTS)?;
    let limit = dollars(&mut fields, "limit_usd")?.ok_or_else(|| fields.missing("limit_usd"))?;
    let thresholds = thresholds(&mut fields)?.unwrap_or_else(|| THRESHOLDS.to_vec());
    let notification = notification(&mut fields)?.flatten();
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let spec = BudgetSpec { subject, period, limit, enforcement, thresholds, notification };
    let row = budgets::create(&mut change, spec).await?;
    changed(change, &render(&row), row.version).await
}

/// `GET /admin/budgets/{budget_id}`
pub async fn retrieve(Path(id): Path<String>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    let row = budgets::get(server.tenants().office(), &id).await?;
    let spent = budgets::spent(server.tenants().office(), &row).await?;
    let mut object = render(&row);
    object["spent_usd"] = json!(money::format(spent));
    Ok(found(&object, row.version))
}

/// `POST /admin/budgets/{budget_id}`
pub async fn update(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let to = BudgetChange {
        limit: dollars(&mut fields, "limit_usd")?,
        thresholds: thresholds(&mut fields)?,
        notification: notification(&mut fields)?,
    };
    fields.finish(&[])?;
    let mut change = planned.begin().await?;
    let row = budgets::update(&mut change, &id, to).await?;
    changed(change, &render(&row), row.version).await
}

/// `DELETE /admin/budgets/{budget_id}`
pub async fn remove(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    budgets::delete(&mut change, &id).await?;
    done(change, &deleted(&id, "budget.deleted")).await
}

/// Takes an amount of dollars: text, or a number whose digits are taken as they were written.
pub fn dollars(fields: &mut Fields, name: &str) -> Result<Option<i64>, ApiError> {
    let path = fields.path(name);
    let text = match fields.take(name) {
        None => return Ok(None),
        Some(Value::String(text)) => text,
        Some(Value::Number(number)) => number.to_string(),
        Some(other) => return Err(fields::wrong_type(&path, "an amount of dollars", &other)),
    };
    let message = || {
        format!(
            "Invalid '{path}': dollars like \"12.50\" are right, 0 to 9223372036, not finer than a nano-dollar; but got {text:?}."
        )
    };
    money::parse(&text).map(Some).ok_or_else(|| ApiError::invalid(path.clone(), "invalid_value", message()))
}

fn thresholds(fields: &mut Fields) -> Result<Option<Vec<u32>>, ApiError> {
    let values = match fields.take("thresholds") {
        None => return Ok(None),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(fields::wrong_type("thresholds", "an array of integers", &other)),
    };
    let number = |(index, value): (usize, Value)| {
        let number = fields::integer(&format!("thresholds[{index}]"), &value, 1..=1_000)?;
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    };
    values.into_iter().enumerate().map(number).collect::<Result<_, _>>().map(Some)
}

fn notification(fields: &mut Fields) -> Result<Option<Option<String>>, ApiError> {
    match fields.take_nullable("notification") {
        None => Ok(None),
        Some(None) => Ok(Some(None)),
        Some(Some(value @ Value::Object(_))) => Ok(Some(Some(value.to_string()))),
        Some(Some(other)) => Err(fields::wrong_type("notification", "an object", &other)),
    }
}

fn render(row: &BudgetRow) -> Value {
    let thresholds: Vec<i64> = row.thresholds.split(',').filter_map(|text| text.parse().ok()).collect();
    let notification: Option<Value> = row.notification.as_deref().and_then(|text| serde_json::from_str(text).ok());
    json!({
        "id": row.id,
        "object": "budget",
        "scope": row.scope,
        "subject": row.subject,
        "period": row.period,
        "limit_usd": money::format(row.limit_nanos),
        "enforcement": row.enforcement,
        "thresholds": thresholds,
        "notification": notification,
        "created_at": row.created_at,
    })
}
