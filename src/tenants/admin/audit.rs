//! Looking into the audit log.

use crate::store::audit;
pub use crate::store::audit::{AuditRow, Which};

use super::{AdminError, Page, Paging};
use crate::tenants::Tenants;

/// What was changed.
pub async fn list(tenants: &Tenants, which: &Which, paging: &Paging) -> Result<Page<AuditRow>, AdminError> {
    let mut connection = tenants.database().connection().await?;
    Ok(audit::list(&mut connection, which, paging).await?)
}
