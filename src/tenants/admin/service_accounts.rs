//! Service accounts: what keys of a program belong to. One that is deleted takes its keys along.

use super::keys::{self, KeySpec, ShownKey};
use super::{AdminError, Change, Done, KeysOf, Page, Paging, ServiceAccountRow, checks, invalid, not_found, projects, unchanged};
use crate::store::projects as rows;
use crate::tenants::{Office, new_id};

const WHAT: &str = "service account";

/// What a new service account comes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// A key, which expires after so many seconds where that is given.
    Key(Option<i64>),
    /// Nothing.
    Nothing,
}

/// Service accounts of a tenant.
pub async fn list(office: &Office, project: &str, paging: &Paging) -> Result<Page<ServiceAccountRow>, AdminError> {
    super::projects::get(office, project).await?;
    let mut connection = office.database.connection().await?;
    Ok(rows::list_accounts(&mut connection, project, paging).await?)
}

/// A service account.
pub async fn get(office: &Office, project: &str, id: &str) -> Result<ServiceAccountRow, AdminError> {
    let mut connection = office.database.connection().await?;
    rows::get_account(&mut connection, project, id).await?.ok_or_else(|| not_found(WHAT, id))
}

/// Makes a service account, and its first key where that is wanted.
pub async fn create(
    change: &mut Change,
    project: &str,
    name: &str,
    with: With,
) -> Result<(ServiceAccountRow, Option<ShownKey>), AdminError> {
    projects::active(change, project).await?;
    let role = if with == With::Nothing { "none" } else { "member" };
    let row = ServiceAccountRow {
        id: new_id("svc_acct")?,
        project_id: project.to_owned(),
        name: checks::name(name)?,
        role: role.to_owned(),
        created_at: change.now,
        deleted_at: None,
        version: 1,
    };
    rows::insert_account(&mut change.transaction, &row).await?;
    let done = Done { action: "service_account.created", object: &row.id, project: Some(project) };
    change.audit(done, None, Some(&row)).await?;
    let With::Key(expires_in) = with else { return Ok((row, None)) };
    let expires_at = expires_in.map(|seconds| checks::expiry(change.now, seconds)).transpose()?;
    let spec = KeySpec { service_account: Some(row.id.clone()), expires_at, ..KeySpec::of_project(project, &row.name) };
    let key = keys::create(change, spec).await?;
    Ok((row, Some(key)))
}

/// Changes name and role, where they are given.
pub async fn update(
    change: &mut Change,
    project: &str,
    id: &str,
    name: Option<&str>,
    role: Option<&str>,
) -> Result<ServiceAccountRow, AdminError> {
    let before = existing(change, project, id).await?;
    change.check(before.version)?;
    let mut after = before.clone();
    if let Some(name) = name {
        after.name = checks::name(name)?;
    }
    if let Some(role) = role {
        if !["member", "owner"].contains(&role) {
            return Err(invalid("role", format!("member or owner is right, but got {role:?}")));
        }
        after.role = role.to_owned();
    }
    if after == before {
        return Ok(before);
    }
    unchanged(rows::update_account(&mut change.transaction, &after).await?)?;
    after.version += 1;
    let done = Done { action: "service_account.updated", object: id, project: Some(project) };
    change.audit(done, Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Deletes a service account and revokes its keys.
pub async fn delete(change: &mut Change, project: &str, id: &str) -> Result<(), AdminError> {
    let before = existing(change, project, id).await?;
    change.check(before.version)?;
    let owned = crate::store::keys::list(&mut change.transaction, KeysOf::ServiceAccount(id), &Paging::ALL).await?;
    for key in owned.rows {
        keys::revoke_row(change, key).await?;
    }
    let deleted = ServiceAccountRow { deleted_at: Some(change.now), ..before.clone() };
    unchanged(rows::update_account(&mut change.transaction, &deleted).await?)?;
    let done = Done { action: "service_account.deleted", object: id, project: Some(project) };
    change.audit(done, Some(&before), None).await
}

/// A service account of a tenant that can be changed.
pub(super) async fn existing(change: &mut Change, project: &str, id: &str) -> Result<ServiceAccountRow, AdminError> {
    projects::active(change, project).await?;
    rows::get_account(&mut change.transaction, project, id).await?.ok_or_else(|| not_found(WHAT, id))
}
