//! Tenants' schemas for `/convert`: kept by name, with versions and an audit trail. What a schema may say is decided elsewhere.

use super::{AdminError, Change, Done, invalid, not_found, projects, refused, unchanged};
use crate::store::schemas as rows;
pub use crate::store::schemas::SchemaRow;
use crate::tenants::Office;

const WHAT: &str = "schema";
/// Most schemas of a tenant: all of them are kept in memory.
const MOST: usize = 64;
/// Longest name.
const MAX_NAME: usize = 64;

/// A tenant's schemas, by name.
pub async fn list(office: &Office, project: &str) -> Result<Vec<SchemaRow>, AdminError> {
    let mut connection = office.database.connection().await?;
    Ok(rows::list(&mut connection, project).await?)
}

/// A tenant's schema.
pub async fn get(office: &Office, project: &str, name: &str) -> Result<SchemaRow, AdminError> {
    let mut connection = office.database.connection().await?;
    rows::get(&mut connection, project, name).await?.ok_or_else(|| not_found(WHAT, name))
}

/// Sets a schema, or replaces it.
pub async fn put(change: &mut Change, project: &str, name: &str, spec: String) -> Result<SchemaRow, AdminError> {
    projects::active(change, project).await?;
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !(1..=MAX_NAME).contains(&name.len()) || !is_name(name) {
        return Err(invalid("name", format!("1 to {MAX_NAME} letters, digits, '-', '_' and '.' are right, but got {name:?}")));
    }
    let before = rows::get(&mut change.transaction, project, name).await?;
    let version = before.as_ref().map_or(0, |row| row.version);
    change.check(version)?;
    if before.is_none() && rows::list(&mut change.transaction, project).await?.len() >= MOST {
        return Err(refused("too_many_schemas", format!("A project has at most {MOST} schemas; delete one first.")));
    }
    let created_at = before.as_ref().map_or(change.now, |row| row.created_at);
    let (project_id, name, updated_at) = (project.to_owned(), name.to_owned(), change.now);
    let after = SchemaRow { project_id, name, spec, created_at, updated_at, version: version + 1 };
    unchanged(rows::put(&mut change.transaction, &after).await?)?;
    let done = Done { action: "convert_schema.updated", object: &after.name, project: Some(project) };
    change.audit(done, before.as_ref(), Some(&after)).await?;
    Ok(after)
}

/// Removes a schema.
pub async fn delete(change: &mut Change, project: &str, name: &str) -> Result<(), AdminError> {
    let before = rows::get(&mut change.transaction, project, name).await?.ok_or_else(|| not_found(WHAT, name))?;
    change.check(before.version)?;
    unchanged(rows::delete(&mut change.transaction, &before).await?)?;
    let done = Done { action: "convert_schema.deleted", object: name, project: Some(project) };
    change.audit(done, Some(&before), None).await
}
