//! Office: made, renamed, archived. An archived one stays for its history; its keys do not work any more.

use super::{AdminError, Change, Done, Page, Paging, ProjectRow, Projects, checks, not_found, refused, unchanged};
use crate::store::projects as rows;
use crate::tenants::{DEFAULT_TENANT, Office, new_id};

const ACTIVE: &str = "active";

/// Office.
pub async fn list(office: &Office, which: Projects, paging: &Paging) -> Result<Page<ProjectRow>, AdminError> {
    let mut connection = office.database.connection().await?;
    Ok(rows::list(&mut connection, which, paging).await?)
}

/// A tenant, archived or not.
pub async fn get(office: &Office, id: &str) -> Result<ProjectRow, AdminError> {
    let mut connection = office.database.connection().await?;
    rows::get(&mut connection, id).await?.ok_or_else(|| not_found("project", id))
}

/// Makes a tenant.
pub async fn create(change: &mut Change, name: &str) -> Result<ProjectRow, AdminError> {
    let row = ProjectRow {
        id: new_id("proj")?,
        name: checks::name(name)?,
        status: ACTIVE.to_owned(),
        created_at: change.now,
        archived_at: None,
        version: 1,
    };
    rows::insert(&mut change.transaction, &row).await?;
    let done = Done { action: "project.created", object: &row.id, project: Some(&row.id) };
    change.audit(done, None, Some(&row)).await?;
    Ok(row)
}

/// Renames a tenant, where a name is given.
pub async fn update(change: &mut Change, id: &str, name: Option<&str>) -> Result<ProjectRow, AdminError> {
    let before = active(change, id).await?;
    change.check(before.version)?;
    let Some(name) = name else { return Ok(before) };
    let after = ProjectRow { name: checks::name(name)?, ..before.clone() };
    replace(change, "project.updated", before, after).await
}

/// Archives a tenant; one that is archived stays as it is.
pub async fn archive(change: &mut Change, id: &str) -> Result<ProjectRow, AdminError> {
    let before = rows::get(&mut change.transaction, id).await?.ok_or_else(|| not_found("project", id))?;
    change.check(before.version)?;
    if id == DEFAULT_TENANT {
        return Err(refused("default_project", "The default project cannot be archived: keys of the organization use it."));
    }
    if before.status != ACTIVE {
        return Ok(before);
    }
    let after = ProjectRow { status: "archived".to_owned(), archived_at: Some(change.now), ..before.clone() };
    replace(change, "project.archived", before, after).await
}

async fn replace(
    change: &mut Change,
    action: &'static str,
    before: ProjectRow,
    after: ProjectRow,
) -> Result<ProjectRow, AdminError> {
    unchanged(rows::update(&mut change.transaction, &after).await?)?;
    let after = ProjectRow { version: after.version + 1, ..after };
    change.audit(Done { action, object: &after.id, project: Some(&after.id) }, Some(&before), Some(&after)).await?;
    Ok(after)
}

/// A tenant that may be given something.
pub(super) async fn active(change: &mut Change, id: &str) -> Result<ProjectRow, AdminError> {
    let row = rows::get(&mut change.transaction, id).await?.ok_or_else(|| not_found("project", id))?;
    if row.status != ACTIVE {
        return Err(refused("project_archived", format!("The project '{id}' is archived and cannot be changed any more.")));
    }
    Ok(row)
}
