//! Budgets: money for a day, a month or for good; of the organization, a tenant or a key; hard (refused beyond it) or soft (told).

use super::{AdminError, BudgetRow, Change, Done, KeysOf, Page, Paging, invalid, keys, not_found, projects, refused, unchanged};
use crate::store::budgets as rows;
pub use crate::store::budgets::Which;
use crate::tenants::{Enforcement, Office, Period, Subject, clock, new_id};

const WHAT: &str = "budget";
/// Per cent at which webhooks are called, where nothing else is said.
pub const THRESHOLDS: [u32; 3] = [50, 80, 100];
/// Most thresholds of a budget, and the highest one in per cent.
const MAX_THRESHOLDS: usize = 20;
const MAX_THRESHOLD: u32 = 1_000;

/// What a budget is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetSpec {
    /// Whose.
    pub subject: Subject,
    /// How long it lasts.
    pub period: Period,
    /// Nano-dollars.
    pub limit: i64,
    /// What happens at its end.
    pub enforcement: Enforcement,
    /// Per cent at which webhooks are called.
    pub thresholds: Vec<u32>,
    /// JSON that is sent along.
    pub notification: Option<String>,
}

/// What is to be different about a budget; `None` leaves it as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetChange {
    /// Nano-dollars.
    pub limit: Option<i64>,
    /// Per cent at which webhooks are called.
    pub thresholds: Option<Vec<u32>>,
    /// JSON that is sent along.
    pub notification: Option<Option<String>>,
}

/// A subject as the table has it.
pub fn columns(subject: &Subject) -> (&'static str, &str) {
    match subject {
        Subject::Organization => ("organization", "*"),
        Subject::Project(id) => ("project", id),
        Subject::Key(id) => ("key", id),
    }
}

/// Budgets.
pub async fn list(office: &Office, which: Which<'_>, paging: &Paging) -> Result<Page<BudgetRow>, AdminError> {
    let mut connection = office.database.connection().await?;
    Ok(rows::list(&mut connection, which, paging).await?)
}

/// A budget.
pub async fn get(office: &Office, id: &str) -> Result<BudgetRow, AdminError> {
    let mut connection = office.database.connection().await?;
    rows::get(&mut connection, id).await?.ok_or_else(|| not_found(WHAT, id))
}

/// The hard limit of a month (OpenAI's spend limit).
pub async fn spend_limit(office: &Office, subject: &Subject) -> Result<BudgetRow, AdminError> {
    if let Subject::Project(id) = subject {
        projects::get(office, id).await?;
    }
    let mut connection = office.database.connection().await?;
    let found = rows::find(&mut connection, hard_month(subject)).await?;
    found.into_iter().next().ok_or_else(|| not_found("spend limit", columns(subject).1))
}

/// The soft limit of a month (OpenAI's spend alert).
pub async fn spend_alert(office: &Office, subject: &Subject, id: &str) -> Result<BudgetRow, AdminError> {
    let mut connection = office.database.connection().await?;
    alert(rows::get(&mut connection, id).await?, subject, id)
}

fn alert(row: Option<BudgetRow>, subject: &Subject, id: &str) -> Result<BudgetRow, AdminError> {
    let columns = columns(subject);
    let is_alert = |row: &BudgetRow| {
        (row.scope.as_str(), row.subject.as_str()) == columns && row.period == "month" && row.enforcement == "soft"
    };
    row.filter(is_alert).ok_or_else(|| not_found("spend alert", id))
}

/// What was spent of a budget in the period that is running, nano-dollars.
pub async fn spent(office: &Office, budget: &BudgetRow) -> Result<i64, AdminError> {
    let mut connection = office.database.connection().await?;
    let first_hour = first_hour(budget, clock::unix());
    Ok(rows::spent(&mut connection, &budget.scope, &budget.subject, first_hour).await?)
}

/// The same during a change.
pub async fn spent_now(change: &mut Change, budget: &BudgetRow) -> Result<i64, AdminError> {
    let first_hour = first_hour(budget, change.now);
    Ok(rows::spent(&mut change.transaction, &budget.scope, &budget.subject, first_hour).await?)
}

fn first_hour(budget: &BudgetRow, now: i64) -> i64 {
    Period::named(&budget.period).unwrap_or(Period::Total).first_hour(now)
}

/// Makes a budget.
pub async fn create(change: &mut Change, spec: BudgetSpec) -> Result<BudgetRow, AdminError> {
    match &spec.subject {
        Subject::Organization => {}
        Subject::Project(id) => _ = projects::active(change, id).await?,
        Subject::Key(id) => _ = keys::existing(change, KeysOf::Everybody, id).await?,
    }
    check_limit(spec.limit)?;
    let (scope, subject) = columns(&spec.subject);
    if spec.enforcement == Enforcement::Hard {
        let which = Which { period: Some(spec.period.name()), ..hard_month(&spec.subject) };
        if let Some(there) = rows::find(&mut change.transaction, which).await?.first() {
            let message = format!("There is a hard budget for this {} already: '{}'.", spec.period.name(), there.id);
            return Err(refused("budget_exists", message));
        }
    }
    let row = BudgetRow {
        id: new_id("budget")?,
        scope: scope.to_owned(),
        subject: subject.to_owned(),
        period: spec.period.name().to_owned(),
        limit_nanos: spec.limit,
        enforcement: spec.enforcement.name().to_owned(),
        thresholds: thresholds(spec.thresholds)?,
        notification: spec.notification,
        created_at: change.now,
        version: 1,
    };
    match rows::insert(&mut change.transaction, &row).await {
        Ok(()) => {}
        Err(error) if error.is_duplicate() => return Err(AdminError::Changed),
        Err(error) => return Err(error.into()),
    }
    change.audit(Done { action: "budget.created", object: &row.id, project: project_of(&row) }, None, Some(&row)).await?;
    Ok(row)
}

/// Sets the hard limit of a month.
pub async fn put_spend_limit(change: &mut Change, subject: Subject, limit: i64) -> Result<BudgetRow, AdminError> {
    let found = rows::find(&mut change.transaction, hard_month(&subject)).await?;
    if let Some(row) = found.into_iter().next() {
        return update_row(change, row, BudgetChange { limit: Some(limit), ..BudgetChange::default() }).await;
    }
    change.check(0)?;
    let spec = BudgetSpec {
        subject,
        period: Period::Month,
        limit,
        enforcement: Enforcement::Hard,
        thresholds: THRESHOLDS.to_vec(),
        notification: None,
    };
    create(change, spec).await
}

/// Removes the hard limit of a month.
pub async fn delete_spend_limit(change: &mut Change, subject: &Subject) -> Result<(), AdminError> {
    let found = rows::find(&mut change.transaction, hard_month(subject)).await?;
    let row = found.into_iter().next().ok_or_else(|| not_found("spend limit", columns(subject).1))?;
    delete_row(change, row).await
}

/// Changes a budget.
pub async fn update(change: &mut Change, id: &str, to: BudgetChange) -> Result<BudgetRow, AdminError> {
    let before = rows::get(&mut change.transaction, id).await?.ok_or_else(|| not_found(WHAT, id))?;
    update_row(change, before, to).await
}

/// Changes the soft limit of a month.
pub async fn update_alert(change: &mut Change, subject: &Subject, id: &str, to: BudgetChange) -> Result<BudgetRow, AdminError> {
    let before = alert(rows::get(&mut change.transaction, id).await?, subject, id)?;
    update_row(change, before, to).await
}

async fn update_row(change: &mut Change, before: BudgetRow, to: BudgetChange) -> Result<BudgetRow, AdminError> {
    change.check(before.version)?;
    let mut after = before.clone();
    if let Some(limit) = to.limit {
        check_limit(limit)?;
        after.limit_nanos = limit;
    }
    if let Some(per_cent) = to.thresholds {
        after.thresholds = thresholds(per_cent)?;
    }
    if let Some(notification) = to.notification {
        after.notification = notification;
    }
    if after == before {
        return Ok(before);
    }
    unchanged(rows::update(&mut change.transaction, &after).await?)?;
    after.version += 1;
    let done = Done { action: "budget.updated", object: &after.id, project: project_of(&after) };
    change.audit(done, Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Removes a budget.
pub async fn delete(change: &mut Change, id: &str) -> Result<(), AdminError> {
    let before = rows::get(&mut change.transaction, id).await?.ok_or_else(|| not_found(WHAT, id))?;
    delete_row(change, before).await
}

/// Removes the soft limit of a month.
pub async fn delete_alert(change: &mut Change, subject: &Subject, id: &str) -> Result<(), AdminError> {
    let before = alert(rows::get(&mut change.transaction, id).await?, subject, id)?;
    delete_row(change, before).await
}

async fn delete_row(change: &mut Change, before: BudgetRow) -> Result<(), AdminError> {
    change.check(before.version)?;
    unchanged(rows::delete(&mut change.transaction, &before).await?)?;
    let done = Done { action: "budget.deleted", object: &before.id, project: project_of(&before) };
    change.audit(done, Some(&before), None).await
}

fn hard_month(subject: &Subject) -> Which<'_> {
    let (scope, subject) = columns(subject);
    Which { scope: Some(scope), subject: Some(subject), period: Some("month"), enforcement: Some("hard") }
}

fn project_of(row: &BudgetRow) -> Option<&str> {
    (row.scope == "project").then_some(row.subject.as_str())
}

fn check_limit(nanos: i64) -> Result<(), AdminError> {
    if nanos >= 0 { Ok(()) } else { Err(invalid("limit", "an amount of 0 or more is right")) }
}

fn thresholds(mut per_cent: Vec<u32>) -> Result<String, AdminError> {
    per_cent.sort_unstable();
    per_cent.dedup();
    if per_cent.len() > MAX_THRESHOLDS || per_cent.iter().any(|value| !(1..=MAX_THRESHOLD).contains(value)) {
        let right = format!("at most {MAX_THRESHOLDS} numbers of 1 to {MAX_THRESHOLD} per cent are right");
        return Err(invalid("thresholds", right));
    }
    let texts: Vec<String> = per_cent.iter().map(u32::to_string).collect();
    Ok(texts.join(","))
}
