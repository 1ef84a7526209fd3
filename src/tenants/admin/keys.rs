//! Keys: made, changed, rotated, revoked. A key is shown once, by the change that makes it.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    AdminError, Change, Done, KeyRow, KeysOf, Page, Paging, checks, invalid, limits, not_found, projects, refused,
    service_accounts, unchanged,
};
use crate::store::keys as rows;
use crate::tenants::{CacheConsent, Office, Priority, Scope, Scopes, new_id, new_key};

const WHAT: &str = "API key";
/// Most models that a key may be restricted to.
const MAX_MODELS: usize = 1_000;
/// Labels of a key: how many, and how long their names and values may be. As OpenAI's metadata.
const MAX_LABELS: usize = 16;
const MAX_LABEL_NAME: usize = 64;
const MAX_LABEL: usize = 512;
/// Longest overlap of a rotation, seconds: 90 days.
pub const MAX_OVERLAP: i64 = 90 * 86_400;

/// What a new key is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    /// Its tenant; `None` is the organization.
    pub project: Option<String>,
    /// Whom it belongs to.
    pub service_account: Option<String>,
    /// For people.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// What it may use; `None` is all.
    pub models: Option<Vec<String>>,
    /// For programs of its owner.
    pub labels: BTreeMap<String, String>,
    /// Its class in the queue.
    pub priority: Priority,
    /// Whether its deterministic answers may come from the cache unasked.
    pub caching: CacheConsent,
    /// Seconds since 1970.
    pub expires_at: Option<i64>,
}

impl KeySpec {
    /// A tenant's usual key: generates and fine-tunes.
    pub fn of_project(project: &str, name: &str) -> Self {
        Self {
            project: Some(project.to_owned()),
            service_account: None,
            name: name.to_owned(),
            scopes: usual(),
            models: None,
            labels: BTreeMap::new(),
            priority: Priority::Standard,
            caching: CacheConsent::PerRequest,
            expires_at: None,
        }
    }

    /// An admin key.
    pub fn of_organization(name: &str) -> Self {
        Self { project: None, scopes: Scopes::from_iter([Scope::Admin]), ..Self::of_project("", name) }
    }
}

/// What is to be different about a key; `None` leaves it as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// For people.
    pub name: Option<String>,
    /// What it may do.
    pub scopes: Option<Scopes>,
    /// What it may use; `Some(None)` is all.
    pub models: Option<Option<Vec<String>>>,
    /// All labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its class in the queue.
    pub priority: Option<Priority>,
    /// Whether its deterministic answers may come from the cache unasked.
    pub caching: Option<CacheConsent>,
    /// Seconds since 1970; `Some(None)` is never.
    pub expires_at: Option<Option<i64>>,
}

/// A key in clear, to be shown once.
#[derive(Clone, PartialEq, Eq)]
pub struct ShownKey {
    /// Its row.
    pub row: KeyRow,
    /// The key.
    pub value: String,
}

/// The scopes of a tenant's usual key.
pub fn usual() -> Scopes {
    Scopes::from_iter([Scope::Inference, Scope::FineTuning])
}

/// Keys that are not revoked.
pub async fn list(office: &Office, of: KeysOf<'_>, paging: &Paging) -> Result<Page<KeyRow>, AdminError> {
    if let KeysOf::Project(id) = of {
        projects::get(office, id).await?;
    }
    let mut connection = office.database.connection().await?;
    Ok(rows::list(&mut connection, of, paging).await?)
}

/// A key that is not revoked.
pub async fn get(office: &Office, of: KeysOf<'_>, id: &str) -> Result<KeyRow, AdminError> {
    let mut connection = office.database.connection().await?;
    rows::get(&mut connection, id).await?.filter(|row| belongs(row, of)).ok_or_else(|| not_found(WHAT, id))
}

/// Makes a key.
pub async fn create(change: &mut Change, spec: KeySpec) -> Result<ShownKey, AdminError> {
    if let Some(project) = &spec.project {
        projects::active(change, project).await?;
        if let Some(account) = &spec.service_account {
            service_accounts::existing(change, project, account).await?;
        }
    } else if spec.service_account.is_some() {
        return Err(invalid("service_account_id", "service accounts belong to projects; name the project, too"));
    }
    check_scopes(spec.scopes, spec.project.as_deref())?;
    check_expiry(spec.expires_at, change.now)?;
    let new = new_key(&change.office.secrets)?;
    let row = KeyRow {
        id: new_id("key")?,
        project_id: spec.project,
        service_account_id: spec.service_account,
        name: checks::name(&spec.name)?,
        hash: new.hash,
        redacted: new.redacted,
        scopes: spec.scopes.to_string(),
        models: spec.models.map(models).transpose()?,
        labels: labels(&spec.labels)?,
        priority: spec.priority.name().to_owned(),
        caching: spec.caching.name().to_owned(),
        created_at: change.now,
        expires_at: spec.expires_at,
        revoked_at: None,
        last_used_at: None,
        replaces: None,
        version: 1,
        project_active: true,
    };
    add(change, "api_key.created", row, new.key).await
}

async fn add(change: &mut Change, action: &'static str, row: KeyRow, value: String) -> Result<ShownKey, AdminError> {
    rows::insert(&mut change.transaction, &row).await?;
    change.audit(Done { action, object: &row.id, project: row.project_id.as_deref() }, None, Some(&row)).await?;
    Ok(ShownKey { row, value })
}

/// Changes a key.
pub async fn update(change: &mut Change, of: KeysOf<'_>, id: &str, to: KeyChange) -> Result<KeyRow, AdminError> {
    let before = existing(change, of, id).await?;
    change.check(before.version)?;
    let mut after = before.clone();
    if let Some(name) = &to.name {
        after.name = checks::name(name)?;
    }
    if let Some(scopes) = to.scopes {
        check_scopes(scopes, before.project_id.as_deref())?;
        after.scopes = scopes.to_string();
    }
    if let Some(names) = to.models {
        after.models = names.map(models).transpose()?;
    }
    if let Some(names) = &to.labels {
        after.labels = labels(names)?;
    }
    if let Some(priority) = to.priority {
        after.priority = priority.name().to_owned();
    }
    if let Some(caching) = to.caching {
        after.caching = caching.name().to_owned();
    }
    if let Some(expires_at) = to.expires_at {
        if before.expires_at.is_some_and(|at| at <= change.now) {
            return Err(refused("expired_api_key", format!("The key '{id}' has expired; make a new one.")));
        }
        check_expiry(expires_at, change.now)?;
        after.expires_at = expires_at;
    }
    if after == before {
        return Ok(before);
    }
    if is_admin(&before) && !is_admin(&after) {
        another_admin(change, id).await?;
    }
    replace(change, "api_key.updated", before, after).await
}

/// Makes a new key like an old one, which goes on working for `overlap` seconds. Limits of the old key are copied.
pub async fn rotate(change: &mut Change, of: KeysOf<'_>, id: &str, overlap: i64) -> Result<(ShownKey, KeyRow), AdminError> {
    let before = existing(change, of, id).await?;
    change.check(before.version)?;
    if !(0..=MAX_OVERLAP).contains(&overlap) {
        return Err(invalid("overlap_seconds", format!("0 to {MAX_OVERLAP} are right, but got {overlap}")));
    }
    if before.expires_at.is_some_and(|at| at <= change.now) {
        return Err(refused("expired_api_key", format!("The key '{id}' has expired; make a new one.")));
    }
    let ends = change.now + overlap;
    let old = KeyRow { expires_at: Some(before.expires_at.map_or(ends, |at| at.min(ends))), ..before.clone() };
    let new = new_key(&change.office.secrets)?;
    let row = KeyRow {
        id: new_id("key")?,
        hash: new.hash,
        redacted: new.redacted,
        created_at: change.now,
        last_used_at: None,
        replaces: Some(id.to_owned()),
        version: 1,
        ..before.clone()
    };
    let shown = add(change, "api_key.rotated", row, new.key).await?;
    limits::copy_of_key(change, id, &shown.row.id).await?;
    let old = replace(change, "api_key.updated", before, old).await?;
    Ok((shown, old))
}

/// Revokes a key: no process accepts it any more within a moment.
pub async fn revoke(change: &mut Change, of: KeysOf<'_>, id: &str) -> Result<(), AdminError> {
    let before = existing(change, of, id).await?;
    change.check(before.version)?;
    if is_admin(&before) {
        another_admin(change, id).await?;
    }
    revoke_row(change, before).await
}

pub(super) async fn revoke_row(change: &mut Change, before: KeyRow) -> Result<(), AdminError> {
    let after = KeyRow { revoked_at: Some(change.now), ..before.clone() };
    unchanged(rows::update(&mut change.transaction, &after).await?)?;
    let done = Done { action: "api_key.deleted", object: &before.id, project: before.project_id.as_deref() };
    change.audit(done, Some(&before), None).await
}

async fn replace(change: &mut Change, action: &'static str, before: KeyRow, after: KeyRow) -> Result<KeyRow, AdminError> {
    unchanged(rows::update(&mut change.transaction, &after).await?)?;
    let after = KeyRow { version: after.version + 1, ..after };
    let done = Done { action, object: &after.id, project: after.project_id.as_deref() };
    change.audit(done, Some(&before), Some(&after)).await?;
    Ok(after)
}

pub(super) async fn existing(change: &mut Change, of: KeysOf<'_>, id: &str) -> Result<KeyRow, AdminError> {
    rows::get(&mut change.transaction, id).await?.filter(|row| belongs(row, of)).ok_or_else(|| not_found(WHAT, id))
}

fn belongs(row: &KeyRow, of: KeysOf<'_>) -> bool {
    let to = match of {
        KeysOf::Everybody => true,
        KeysOf::Organization => row.project_id.is_none(),
        KeysOf::Project(id) => row.project_id.as_deref() == Some(id),
        KeysOf::ServiceAccount(id) => row.service_account_id.as_deref() == Some(id),
    };
    to && row.revoked_at.is_none()
}

fn is_admin(row: &KeyRow) -> bool {
    row.project_id.is_none() && Scopes::parse(&row.scopes).is_ok_and(|scopes| scopes.allow(Scope::Admin))
}

/// Somebody must be left who can make keys.
async fn another_admin(change: &mut Change, except: &str) -> Result<(), AdminError> {
    let now = change.now;
    let all = rows::list(&mut change.transaction, KeysOf::Organization, &Paging::ALL).await?;
    let works = |row: &KeyRow| row.expires_at.is_none_or(|at| at > now);
    if all.rows.iter().any(|row| row.id != except && is_admin(row) && works(row)) {
        return Ok(());
    }
    Err(refused("last_admin_key", "This is the last admin key that works; make another one first."))
}

fn check_scopes(scopes: Scopes, project: Option<&str>) -> Result<(), AdminError> {
    if scopes.is_empty() {
        return Err(invalid(
            "scopes",
            "at least one is needed: inference, fine_tuning, read_only, or admin for the organization",
        ));
    }
    if project.is_some() && scopes.allow(Scope::Admin) {
        return Err(invalid("scopes", "only keys of the organization may have 'admin'"));
    }
    Ok(())
}

fn check_expiry(expires_at: Option<i64>, now: i64) -> Result<(), AdminError> {
    match expires_at {
        Some(at) if at <= now => Err(invalid("expires_at", format!("a time in the future is right, but got {at}"))),
        _ => Ok(()),
    }
}

fn models(names: Vec<String>) -> Result<String, AdminError> {
    if names.is_empty() || names.len() > MAX_MODELS {
        return Err(invalid("models", format!("1 to {MAX_MODELS} names are right, or null for all models")));
    }
    names.iter().try_for_each(|name| checks::model("models", name))?;
    Ok(json!(names).to_string())
}

fn labels(labels: &BTreeMap<String, String>) -> Result<String, AdminError> {
    let fits = |(name, value): (&String, &String)| {
        (1..=MAX_LABEL_NAME).contains(&name.chars().count()) && value.chars().count() <= MAX_LABEL
    };
    if labels.len() > MAX_LABELS || !labels.iter().all(fits) {
        let right =
            format!("at most {MAX_LABELS}, with names of 1 to {MAX_LABEL_NAME} and values of at most {MAX_LABEL} characters");
        return Err(invalid("labels", format!("{right}, are right")));
    }
    Ok(json!(labels).to_string())
}
