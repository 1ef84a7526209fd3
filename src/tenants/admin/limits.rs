//! Limits and model permissions: of tenants and keys, on a model or on all together, and what holds where a tenant has none.

use serde_json::json;

use super::super::new_id;
use super::{
    AdminError, BudgetRow, Change, Done, KeysOf, LimitRow, PermissionRow, checks, invalid, keys, not_found, projects, unchanged,
};
use crate::store::budgets;
use crate::store::limits as rows;
use crate::tenants::Office;

/// Largest limit: beyond it there is none in practice, and every JSON reader keeps it exact.
pub const MOST: i64 = u32::MAX as i64;
/// Most names in model permissions.
const MAX_MODELS: usize = 1_000;

/// Whose limit on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `default`, `project`, `key`.
    pub scope: String,
    /// Id of the project or key; `*` for the default.
    pub subject: String,
    /// A model's name; `*` is over all together.
    pub model: String,
}

/// What is limited; `None` is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Requests per minute.
    pub requests_per_minute: Option<i64>,
    /// Requests at once.
    pub burst: Option<i64>,
    /// Tokens per minute.
    pub tokens_per_minute: Option<i64>,
    /// Requests that run or wait at the same time.
    pub concurrent_requests: Option<i64>,
}

/// Limits, of one scope and subject where they are given.
pub async fn list(office: &Office, scope: Option<&str>, subject: Option<&str>) -> Result<Vec<LimitRow>, AdminError> {
    let mut connection = office.database.connection().await?;
    Ok(rows::list(&mut connection, scope, subject).await?)
}

/// A limit.
pub async fn get(office: &Office, place: &Place) -> Result<LimitRow, AdminError> {
    let mut connection = office.database.connection().await?;
    let row = rows::get(&mut connection, &place.scope, &place.subject, &place.model).await?;
    row.ok_or_else(|| not_found("limit", &path(place)))
}

/// The limits in force for a tenant on these models: its own, or those for tenants without any. Version 0: not its own.
pub async fn in_force(office: &Office, project: &str, models: &[String]) -> Result<Vec<LimitRow>, AdminError> {
    projects::get(office, project).await?;
    let own = list(office, Some("project"), Some(project)).await?;
    let defaults = list(office, Some("default"), None).await?;
    Ok(models.iter().map(|model| effective(&own, &defaults, project, model)).collect())
}

fn effective(own: &[LimitRow], defaults: &[LimitRow], project: &str, model: &str) -> LimitRow {
    let on = |rows: &[LimitRow]| rows.iter().find(|row| row.model == model).cloned();
    let place = Place { scope: "project".to_owned(), subject: project.to_owned(), model: model.to_owned() };
    on(own).unwrap_or_else(|| {
        let amounts = on(defaults).map(|row| amounts(&row)).unwrap_or_default();
        row(&place, amounts, 0)
    })
}

/// Sets a limit, or replaces it.
pub async fn put(change: &mut Change, place: &Place, amounts: Amounts) -> Result<LimitRow, AdminError> {
    check(change, place, &amounts).await?;
    let before = rows::get(&mut change.transaction, &place.scope, &place.subject, &place.model).await?;
    let version = before.as_ref().map_or(0, |row| row.version);
    change.check(version)?;
    let after = row(place, amounts, version + 1);
    unchanged(rows::put(&mut change.transaction, &after).await?)?;
    let object = path(place);
    change
        .audit(Done { action: "rate_limit.updated", object: &object, project: project_of(place) }, before.as_ref(), Some(&after))
        .await?;
    Ok(after)
}

/// Changes parts of a tenant's limit on a model; what it has no own limit for yet is taken over from what is in force.
pub async fn adjust(
    change: &mut Change,
    project: &str,
    model: &str,
    adjust: impl FnOnce(&mut Amounts),
) -> Result<LimitRow, AdminError> {
    let own = rows::list(&mut change.transaction, Some("project"), Some(project)).await?;
    let defaults = rows::list(&mut change.transaction, Some("default"), None).await?;
    let now = effective(&own, &defaults, project, model);
    let mut new = amounts(&now);
    adjust(&mut new);
    put(change, &Place { scope: "project".to_owned(), subject: project.to_owned(), model: model.to_owned() }, new).await
}

/// Removes a limit.
pub async fn delete(change: &mut Change, place: &Place) -> Result<(), AdminError> {
    let object = path(place);
    let before = rows::get(&mut change.transaction, &place.scope, &place.subject, &place.model).await?;
    let before = before.ok_or_else(|| not_found("limit", &object))?;
    change.check(before.version)?;
    unchanged(rows::delete(&mut change.transaction, &before).await?)?;
    change.audit(Done { action: "rate_limit.deleted", object: &object, project: project_of(place) }, Some(&before), None).await
}

/// A rotated key is limited like the one that it replaces, in money, too; what the old one has spent stays with the old one.
pub(super) async fn copy_of_key(change: &mut Change, from: &str, to: &str) -> Result<(), AdminError> {
    for limit in rows::list(&mut change.transaction, Some("key"), Some(from)).await? {
        let copy = LimitRow { subject: to.to_owned(), version: 1, ..limit };
        unchanged(rows::put(&mut change.transaction, &copy).await?)?;
    }
    let of_key = budgets::Which { scope: Some("key"), subject: Some(from), ..budgets::Which::default() };
    for budget in budgets::find(&mut change.transaction, of_key).await? {
        let copy = BudgetRow { id: new_id("budget")?, subject: to.to_owned(), created_at: change.now, version: 1, ..budget };
        budgets::insert(&mut change.transaction, &copy).await?;
    }
    Ok(())
}

async fn check(change: &mut Change, place: &Place, amounts: &Amounts) -> Result<(), AdminError> {
    match place.scope.as_str() {
        "default" if place.subject == checks::ALL => {}
        "default" => return Err(invalid("subject", "'*' is right for the scope 'default'")),
        "project" => _ = projects::active(change, &place.subject).await?,
        "key" => _ = keys::existing(change, KeysOf::Everybody, &place.subject).await?,
        other => return Err(invalid("scope", format!("default, project or key is right, but got {other:?}"))),
    }
    checks::model("model", &place.model)?;
    for (field, value) in [
        ("requests_per_minute", amounts.requests_per_minute),
        ("burst", amounts.burst),
        ("tokens_per_minute", amounts.tokens_per_minute),
        ("concurrent_requests", amounts.concurrent_requests),
    ] {
        if value.is_some_and(|value| !(0..=MOST).contains(&value)) {
            return Err(invalid(field, format!("0 to {MOST} are right, or null for no limit")));
        }
    }
    if amounts.burst.is_some() && amounts.requests_per_minute.is_none() {
        return Err(invalid("burst", "a burst needs requests_per_minute"));
    }
    Ok(())
}

fn amounts(row: &LimitRow) -> Amounts {
    Amounts {
        requests_per_minute: row.requests_per_minute,
        burst: row.burst,
        tokens_per_minute: row.tokens_per_minute,
        concurrent_requests: row.concurrent_requests,
    }
}

fn row(place: &Place, amounts: Amounts, version: i64) -> LimitRow {
    LimitRow {
        scope: place.scope.clone(),
        subject: place.subject.clone(),
        model: place.model.clone(),
        requests_per_minute: amounts.requests_per_minute,
        burst: amounts.burst,
        tokens_per_minute: amounts.tokens_per_minute,
        concurrent_requests: amounts.concurrent_requests,
        version,
    }
}

fn path(place: &Place) -> String {
    format!("{}/{}/{}", place.scope, place.subject, place.model)
}

fn project_of(place: &Place) -> Option<&str> {
    (place.scope == "project").then_some(place.subject.as_str())
}

/// A tenant's model permissions.
pub async fn get_permission(office: &Office, project: &str) -> Result<PermissionRow, AdminError> {
    projects::get(office, project).await?;
    let mut connection = office.database.connection().await?;
    rows::get_permission(&mut connection, project).await?.ok_or_else(|| not_found("model permissions", project))
}

/// Sets a tenant's model permissions, or replaces them.
pub async fn put_permission(
    change: &mut Change,
    project: &str,
    mode: &str,
    models: &[String],
) -> Result<PermissionRow, AdminError> {
    projects::active(change, project).await?;
    if !["allow_list", "deny_list"].contains(&mode) {
        return Err(invalid("mode", format!("allow_list or deny_list is right, but got {mode:?}")));
    }
    if models.len() > MAX_MODELS {
        return Err(invalid("model_ids", format!("at most {MAX_MODELS} names are right")));
    }
    models.iter().try_for_each(|name| checks::model("model_ids", name))?;
    let before = rows::get_permission(&mut change.transaction, project).await?;
    let version = before.as_ref().map_or(0, |row| row.version);
    change.check(version)?;
    let after = PermissionRow {
        project_id: project.to_owned(),
        mode: mode.to_owned(),
        models: json!(models).to_string(),
        version: version + 1,
    };
    unchanged(rows::put_permission(&mut change.transaction, &after).await?)?;
    let done = Done { action: "model_permissions.updated", object: project, project: Some(project) };
    change.audit(done, before.as_ref(), Some(&after)).await?;
    Ok(after)
}

/// Removes a tenant's model permissions: it may use all models again.
pub async fn delete_permission(change: &mut Change, project: &str) -> Result<(), AdminError> {
    projects::active(change, project).await?;
    let before = rows::get_permission(&mut change.transaction, project).await?;
    let before = before.ok_or_else(|| not_found("model permissions", project))?;
    change.check(before.version)?;
    unchanged(rows::delete_permission(&mut change.transaction, &before).await?)?;
    let done = Done { action: "model_permissions.deleted", object: project, project: Some(project) };
    change.audit(done, Some(&before), None).await
}
