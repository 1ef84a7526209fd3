//! Webhooks: addresses that events are sent to, signed with a secret that is shown once and kept encrypted.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{AdminError, Change, DeliveryRow, Done, Page, Paging, WebhookRow, invalid, not_found, projects, unchanged};
use crate::outbound::{Address, NoAddress};
use crate::store::webhooks as rows;
use crate::tenants::{Office, new_id, secrets};

const WHAT: &str = "webhook";
/// Begins every signing secret, as the Standard Webhooks scheme has it; base 64 follows.
pub const SECRET_PREFIX: &str = "whsec_";
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Longest address, bytes.
const MAX_URL: usize = 2_000;

/// A webhook whose secret is shown, once.
#[derive(Clone, PartialEq, Eq)]
pub struct ShownWebhook {
    /// Its row.
    pub row: WebhookRow,
    /// The signing secret.
    pub secret: String,
}

/// Webhooks, of a tenant where it is given.
pub async fn list(office: &Office, project: Option<&str>, paging: &Paging) -> Result<Page<WebhookRow>, AdminError> {
    let mut connection = office.database.connection().await?;
    Ok(rows::list(&mut connection, project, paging).await?)
}

/// A webhook.
pub async fn get(office: &Office, id: &str) -> Result<WebhookRow, AdminError> {
    let mut connection = office.database.connection().await?;
    rows::get(&mut connection, id).await?.ok_or_else(|| not_found(WHAT, id))
}

/// What was sent to a webhook, or is to be, the newest first.
pub async fn deliveries(office: &Office, id: &str, limit: i64) -> Result<Vec<DeliveryRow>, AdminError> {
    get(office, id).await?;
    let mut connection = office.database.connection().await?;
    Ok(rows::deliveries(&mut connection, id, limit).await?)
}

/// Makes a webhook for the events of a tenant, or of everybody.
pub async fn create(change: &mut Change, project: Option<String>, url: &str) -> Result<ShownWebhook, AdminError> {
    if let Some(project) = &project {
        projects::active(change, project).await?;
    }
    check_url(url)?;
    let id = new_id("wh")?;
    let secret = new_secret()?;
    let sealed_secret = change.office.secrets.seal(&id, &secret)?;
    let row = WebhookRow { id, project_id: project, url: url.to_owned(), sealed_secret, created_at: change.now, version: 1 };
    rows::insert(&mut change.transaction, &row).await?;
    let done = Done { action: "webhook.created", object: &row.id, project: row.project_id.as_deref() };
    change.audit(done, None, Some(&row)).await?;
    Ok(ShownWebhook { row, secret })
}

/// Changes the address of a webhook.
pub async fn update(change: &mut Change, id: &str, url: Option<&str>) -> Result<WebhookRow, AdminError> {
    let before = rows::get(&mut change.transaction, id).await?.ok_or_else(|| not_found(WHAT, id))?;
    change.check(before.version)?;
    let Some(url) = url.filter(|url| *url != before.url) else { return Ok(before) };
    check_url(url)?;
    let after = WebhookRow { url: url.to_owned(), ..before.clone() };
    unchanged(rows::update(&mut change.transaction, &after).await?)?;
    let after = WebhookRow { version: after.version + 1, ..after };
    let done = Done { action: "webhook.updated", object: id, project: after.project_id.as_deref() };
    change.audit(done, Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Removes a webhook and what was to be sent to it.
pub async fn delete(change: &mut Change, id: &str) -> Result<(), AdminError> {
    let before = rows::get(&mut change.transaction, id).await?.ok_or_else(|| not_found(WHAT, id))?;
    change.check(before.version)?;
    unchanged(rows::delete(&mut change.transaction, &before).await?)?;
    let done = Done { action: "webhook.deleted", object: id, project: before.project_id.as_deref() };
    change.audit(done, Some(&before), None).await
}

fn new_secret() -> Result<String, AdminError> {
    let mut bytes = [0u8; SECRET_BYTES];
    secrets::fill(&mut bytes)?;
    Ok(format!("{SECRET_PREFIX}{}", STANDARD.encode(bytes)))
}

/// Encrypted connections, or none that leaves the machine. Link-local addresses are where clouds keep their machines' credentials.
fn check_url(text: &str) -> Result<(), AdminError> {
    if text.len() > MAX_URL {
        return Err(invalid("url", format!("at most {MAX_URL} bytes are right")));
    }
    let address: Address = text.parse().map_err(|error: NoAddress| invalid("url", error.to_string()))?;
    let refused = address.ip().is_some_and(|ip| {
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        link_local || ip.is_unspecified() || ip.is_multicast()
    });
    if refused { Err(invalid("url", "link-local, unspecified and multicast addresses are not called")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn addresses_are_encrypted_or_local() {
        for good in [
            "https://example.com/hook",
            "https://10.0.0.8:8443/x?y=z",
            "http://127.0.0.1:9000/",
            "http://[::1]:1/",
            "http://localhost/",
        ] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "http://example.com/",
            "http://127.0.0.1.example.com/",
            "ftp://localhost/",
            "file:///etc/passwd",
            "https://user:pass@example.com/",
            "https://169.254.169.254/latest/meta-data",
            "https://[fe80::1]/",
            "https://[::ffff:169.254.169.254]/",
            "https://0.0.0.0/",
            "http://2852039166/",
            "https://2852039166/",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
