//! Sends events to webhooks: plans a delivery once for an event and a webhook, signs it, and tries again with growing pauses until
//! it is taken or given up. The signature is that of the Standard Webhooks scheme, which OpenAI's clients verify.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use ring::hmac;
use serde_json::{Value, json};

use super::admin::webhooks::SECRET_PREFIX;
use super::admin::{self, budgets, money};
use super::{BudgetEvents, BudgetReached, Office, Subject, TenantError, clock};
use crate::outbound::Caller;
use crate::store::webhooks::{self as rows, DeliveryRow, WebhookRow};
use crate::store::{StoreError, Transaction, keys};

/// How often it is asked what is to be sent.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often what is old is forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);
/// A receiver must have answered by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// Somebody who began to send has this long, seconds; then another process may. Longer than a whole batch takes: [`BATCH`] /
/// [`AT_ONCE`] times [`PATIENCE`].
const LEASE: i64 = 60;
/// Pauses after failed attempts, seconds; after as many it is given up, a day and a half after the event.
const PAUSES: [i64; 8] = [5, 60, 300, 1_800, 7_200, 18_000, 36_000, 57_600];
/// Deliveries that are read at once, and how many of them are on the way at the same time.
const BATCH: i64 = 32;
const AT_ONCE: usize = 8;
/// Most of a receiver's answer that is read, bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest text of an error that is kept, characters.
const MAX_ERROR: usize = 300;
/// Deliveries that are done are kept this long, seconds: 40 days, longer than a month's budget could be reported again.
const KEPT: i64 = 40 * 86_400;

/// Plans and sends.
pub struct Deliveries {
    office: Office,
    /// Connections by address.
    callers: Mutex<HashMap<String, Caller>>,
}

impl Deliveries {
    /// Nothing is on the way yet.
    pub fn new(office: Office) -> Self {
        Self { office, callers: Mutex::default() }
    }

    /// Plans and sends until it is dropped; receivers that do not answer hold no planning up.
    pub async fn run(self, events: BudgetEvents) {
        tokio::join!(self.plan(events), self.deliver());
    }

    async fn plan(&self, mut events: BudgetEvents) {
        let mut again = tokio::time::interval(LOOK_EVERY);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut open = true;
        // What could not be written down is tried again: it is reported once only.
        let mut waiting: VecDeque<BudgetReached> = VecDeque::new();
        loop {
            tokio::select! {
                event = events.recv(), if open => {
                    open = event.is_some();
                    waiting.extend(event);
                }
                _ = again.tick() => {}
            }
            self.announce_all(&mut waiting).await;
        }
    }

    async fn deliver(&self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut forget = tokio::time::interval(FORGET_EVERY);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    if let Err(error) = self.send_due(clock::unix()).await {
                        tracing::warn!(%error, "webhooks cannot be called");
                    }
                }
                _ = forget.tick() => {
                    if let Err(error) = self.forget(clock::unix()).await {
                        tracing::warn!(%error, "old deliveries are not forgotten");
                    }
                }
            }
        }
    }

    async fn announce_all(&self, waiting: &mut VecDeque<BudgetReached>) {
        while let Some(event) = waiting.front() {
            if let Err(error) = self.announce(event).await {
                tracing::error!(%error, budget = event.budget.id, threshold = event.threshold, "webhooks are not told of a budget yet");
                return;
            }
            waiting.pop_front();
        }
    }

    /// Plans to tell the webhooks of the budget's tenant, and those of the organization; once for each period and threshold.
    pub async fn announce(&self, reached: &BudgetReached) -> Result<(), TenantError> {
        let budget = &reached.budget;
        let mut transaction = self.office.database.begin().await?;
        let project = match &budget.subject {
            Subject::Organization => None,
            Subject::Project(id) => Some(id.clone()),
            Subject::Key(id) => keys::get(&mut transaction, id).await?.and_then(|key| key.project_id),
        };
        let now = clock::unix();
        let event_id = format!("{}:{}:{}", budget.id, reached.period_start, reached.threshold);
        let body = event(reached, &event_id, project.as_deref(), now);
        tell(&mut transaction, project.as_deref(), &body, now).await?;
        Ok(transaction.commit().await?)
    }

    /// Sends what is due at `now` (seconds since 1970) and returns how many attempts were made.
    pub async fn send_due(&self, now: i64) -> Result<usize, TenantError> {
        let due = {
            let mut connection = self.office.database.connection().await?;
            rows::due(&mut connection, now, BATCH).await?
        };
        let attempts = futures::stream::iter(due).map(|row| self.attempt(row, now)).buffer_unordered(AT_ONCE);
        let mut made = 0;
        for outcome in attempts.collect::<Vec<_>>().await {
            made += usize::from(outcome?);
        }
        Ok(made)
    }

    /// One attempt, unless another process makes it.
    async fn attempt(&self, row: DeliveryRow, now: i64) -> Result<bool, TenantError> {
        let before = row.attempts;
        let begun = DeliveryRow { attempts: before + 1, next_attempt_at: Some(now + LEASE), ..row };
        if !self.note(&begun, before).await? {
            return Ok(false);
        }
        let sent = self.send(&begun, now).await;
        let done = match &sent {
            Ok(()) => DeliveryRow { next_attempt_at: None, delivered_at: Some(now), last_error: None, ..begun },
            Err(error) => {
                tracing::warn!(
                    error,
                    webhook = begun.webhook_id,
                    event = begun.event_id,
                    attempt = begun.attempts,
                    "a webhook did not take an event"
                );
                let next_attempt_at = next_attempt(begun.attempts, now);
                DeliveryRow { next_attempt_at, last_error: Some(error.chars().take(MAX_ERROR).collect()), ..begun }
            }
        };
        self.note(&done, done.attempts).await?;
        Ok(true)
    }

    async fn note(&self, row: &DeliveryRow, before: i64) -> Result<bool, StoreError> {
        let mut transaction = self.office.database.begin().await?;
        let noted = rows::note(&mut transaction, row, before).await?;
        transaction.commit().await?;
        Ok(noted)
    }

    async fn send(&self, row: &DeliveryRow, now: i64) -> Result<(), String> {
        let webhook = self.webhook(&row.webhook_id).await.map_err(|error| error.to_string())?;
        let webhook = webhook.ok_or("the webhook was removed")?;
        let secret = self.office.secrets.open_sealed(&webhook.id, &webhook.sealed_secret).map_err(|error| error.to_string())?;
        let signature = sign(&secret, &row.event_id, now, &row.body).ok_or("the webhook's secret is damaged")?;
        let headers = [
            ("webhook-id", row.event_id.clone()),
            ("webhook-timestamp", now.to_string()),
            ("webhook-signature", signature),
            // For receivers that verify the body alone.
            ("x-webhook-signature", sign_body(&secret, &row.body)),
            ("x-webhook-timestamp", now.to_string()),
        ];
        let caller = self.caller(&webhook.url)?;
        match caller.post_json(&headers, row.body.clone(), MAX_ANSWER).await {
            Ok(status) if (200..300).contains(&status) => Ok(()),
            Ok(status) => Err(format!("it answered with status {status}")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn webhook(&self, id: &str) -> Result<Option<WebhookRow>, StoreError> {
        let mut connection = self.office.database.connection().await?;
        rows::get(&mut connection, id).await
    }

    fn caller(&self, url: &str) -> Result<Caller, String> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = callers.get(url) {
            return Ok(caller.clone());
        }
        let address = url.parse().map_err(|error: crate::outbound::NoAddress| error.to_string())?;
        let caller = Caller::new(address, PATIENCE).map_err(|error| error.to_string())?;
        callers.insert(url.to_owned(), caller.clone());
        Ok(caller)
    }

    async fn forget(&self, now: i64) -> Result<(), TenantError> {
        let mut transaction = self.office.database.begin().await?;
        rows::forget(&mut transaction, now - KEPT).await?;
        transaction.commit().await?;
        // Connections of webhooks that may be gone.
        self.callers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        match admin::forget_answers(&self.office).await {
            Err(admin::AdminError::Tenant(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Plans to tell the webhooks of a tenant, and those of the organization, of an event (a JSON object with its `id`): each of them
/// once, however often this is called.
pub async fn tell(transaction: &mut Transaction, project: Option<&str>, event: &Value, now: i64) -> Result<(), StoreError> {
    let event_id = event["id"].as_str().unwrap_or_default();
    for webhook_id in rows::listening(transaction, project).await? {
        let row = DeliveryRow {
            event_id: event_id.to_owned(),
            webhook_id,
            body: event.to_string(),
            created_at: now,
            attempts: 0,
            next_attempt_at: Some(now),
            delivered_at: None,
            last_error: None,
        };
        rows::plan(transaction, &row).await?;
    }
    Ok(())
}

/// When to try again after so many attempts; `None` is never.
fn next_attempt(attempts: i64, now: i64) -> Option<i64> {
    let index = usize::try_from(attempts - 1).ok()?;
    PAUSES.get(index).map(|pause| now + pause)
}

/// `webhook-signature`: HMAC-SHA-256 over id, time and body, under the secret's bytes
/// (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
fn sign(secret: &str, id: &str, timestamp: i64, body: &str) -> Option<String> {
    let key = STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let signature = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    Some(format!("v1,{}", STANDARD.encode(signature.as_ref())))
}

/// `X-Webhook-Signature`: HMAC-SHA-256 over the body as hexadecimal digits; the key is the secret as it was shown.
fn sign_body(secret: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("sha256={}", super::secrets::hex(hmac::sign(&key, body.as_bytes()).as_ref()))
}

fn event(reached: &BudgetReached, id: &str, project: Option<&str>, now: i64) -> Value {
    let budget = &reached.budget;
    let (scope, subject) = budgets::columns(&budget.subject);
    let notification: Option<Value> = budget.notification.as_deref().and_then(|text| serde_json::from_str(text).ok());
    json!({
        "id": id,
        "object": "event",
        "type": "budget.threshold_reached",
        "created_at": now,
        "data": {
            "id": budget.id,
            "scope": scope,
            "subject": subject,
            "project_id": project,
            "period": budget.period.name(),
            "period_start": reached.period_start.saturating_mul(3_600),
            "enforcement": budget.enforcement.name(),
            "threshold_percent": reached.threshold,
            "limit_usd": money::format(budget.limit),
            "spent_usd": money::format(reached.spent),
            "notification": notification,
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    // Of the scheme's own documentation.
    #[test]
    fn signatures_are_those_of_the_scheme() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signature.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert_eq!(sign("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "a", 1, "b"), None);
    }

    // Of RFC 4231, test case 2.
    #[test]
    fn a_body_is_signed_with_the_secret_as_it_is_shown() {
        let signature = sign_body("Jefe", "what do ya want for nothing?");
        assert_eq!(signature, "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut now = 0;
        let mut last = 0;
        for attempts in 1.. {
            let Some(next) = next_attempt(attempts, now) else { break };
            assert!(next - now > last, "{attempts}");
            last = next - now;
            now = next;
        }
        assert!((86_400..2 * 86_400).contains(&now), "{now} seconds after the first attempt it is given up");
    }
}
