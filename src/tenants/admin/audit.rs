//! Looking into the audit log.

use crate::store::audit;
pub use crate::store::audit::{AuditRow, Which};

use super::{AdminError, Page, Paging};
use crate::tenants::Office;

/// What was changed.
pub async fn list(office: &Office, which: &Which, paging: &Paging) -> Result<Page<AuditRow>, AdminError> {
    let mut connection = office.database.connection().await?;
    Ok(audit::list(&mut connection, which, paging).await?)
}
