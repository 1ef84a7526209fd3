//! Budgets that reach a threshold, as a receiver of webhooks sees them.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::{Value, json};
use switchyard::tenants::webhooks::Deliveries;
use switchyard::tenants::{BudgetReached, unix_now};

use crate::support::Harness;

type Delivered = Vec<(HeaderMap, String)>;

/// What a receiver got, and what it answers next.
#[derive(Clone, Default)]
pub struct Receiver(Arc<Mutex<(Delivered, Vec<u16>)>>);

impl Receiver {
    pub async fn start() -> (Self, String) {
        let receiver = Self::default();
        let take = async |State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes| {
            let mut state = receiver.0.lock().unwrap();
            state.0.push((headers, String::from_utf8(body.to_vec()).unwrap()));
            StatusCode::from_u16(state.1.pop().unwrap_or(204)).unwrap()
        };
        let router = Router::new().fallback(take).with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, url)
    }

    pub fn got(&self) -> Vec<(HeaderMap, String)> {
        std::mem::take(&mut self.0.lock().unwrap().0)
    }

    fn answer_next(&self, statuses: &[u16]) {
        self.0.lock().unwrap().1 = statuses.iter().rev().copied().collect();
    }
}

fn is_signed(secret: &str, (headers, body): &(HeaderMap, String)) -> bool {
    let text = |name: &str| headers[name].to_str().unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap());
    let signature = STANDARD.decode(text("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    let signed = format!("{}.{}.{body}", text("webhook-id"), text("webhook-timestamp"));
    hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
}

fn reached(server: &Harness, subject: &str) -> BudgetReached {
    let policy = server.tenants.policy();
    let budget = policy.budgets.iter().find(|budget| format!("{:?}", budget.subject).contains(subject)).unwrap().clone();
    BudgetReached { budget, period_start: 497_000, threshold: 80, spent: 8_000_000_000 }
}

#[tokio::test]
async fn an_event_is_signed_and_sent_once_until_it_is_taken() {
    let server = Harness::new().await;
    let (project, _, key, _) = server.tenant("Acme").await;
    let (other, ..) = server.tenant("Other").await;
    let (receiver, url) = Receiver::start().await;
    let hook =
        async |project: Value| server.done(Method::POST, "/admin/webhooks", json!({"url": url, "project_id": project})).await;
    let (everything, own, _others) = (hook(Value::Null).await, hook(json!(project)).await, hook(json!(other)).await);
    let alert = json!({
        "currency": "USD", "interval": "month", "threshold_amount": 1000,
        "notification_channel": {"type": "email", "recipients": ["a@example.com"]},
    });
    server.done(Method::POST, &format!("/v1/organization/projects/{project}/spend_alerts"), alert).await;
    let budget = json!({"scope": "key", "subject": key, "period": "day", "enforcement": "hard", "limit_usd": "10"});
    server.done(Method::POST, "/admin/budgets", budget).await;

    let deliveries = Deliveries::new(server.tenants.office().clone());
    let event = reached(&server, &project);
    for _ in 0..3 {
        deliveries.announce(&event).await.unwrap();
    }
    let now = unix_now() + 1;
    receiver.answer_next(&[204, 500]);
    assert_eq!(deliveries.send_due(now).await.unwrap(), 2);
    let got = receiver.got();
    assert_eq!(got.len(), 2);
    let secrets = [&everything, &own].map(|hook| hook["secret"].as_str().unwrap());
    for message in &got {
        assert_eq!(secrets.iter().filter(|secret| is_signed(secret, message)).count(), 1);
        assert_eq!(message.0["content-type"], "application/json");
    }
    let body: Value = serde_json::from_str(&got[0].1).unwrap();
    assert_eq!(
        (&body["type"], &body["id"]),
        (&json!("budget.threshold_reached"), &json!(got[0].0["webhook-id"].to_str().unwrap()))
    );
    let data = &body["data"];
    assert_eq!((&data["threshold_percent"], &data["limit_usd"], &data["spent_usd"]), (&json!(80), &json!("10"), &json!("8")));
    assert_eq!((&data["project_id"], &data["notification"]["recipients"][0]), (&json!(project), &json!("a@example.com")));

    // The one that failed comes again, after a pause, with the same id.
    assert_eq!(deliveries.send_due(now + 4).await.unwrap(), 0);
    assert_eq!(deliveries.send_due(now + 5).await.unwrap(), 1);
    let again = receiver.got();
    assert_eq!((again.len(), &again[0].0["webhook-id"], &again[0].1), (1, &got[0].0["webhook-id"], &got[0].1));
    assert_eq!(deliveries.send_due(now + 1_000_000).await.unwrap(), 0, "all is delivered");
    let shown = async |hook: &Value| {
        let path = format!("/admin/webhooks/{}/deliveries", hook["id"].as_str().unwrap());
        server.done(Method::GET, &path, Value::Null).await["data"].as_array().unwrap().clone()
    };
    let both = [shown(&everything).await.remove(0), shown(&own).await.remove(0)];
    assert_eq!(both.iter().map(|delivery| delivery["attempts"].as_i64().unwrap()).sum::<i64>(), 3);
    assert!(both.iter().all(|delivery| delivery["delivered_at"].is_i64()));

    // A key's event is its tenant's, too; and whoever never answers is given up.
    deliveries.announce(&reached(&server, &key)).await.unwrap();
    let mut at = now;
    for attempt in 0.. {
        receiver.answer_next(&[500; 2]);
        let made = deliveries.send_due(at).await.unwrap();
        if made == 0 {
            assert_eq!(attempt, 9);
            break;
        }
        assert_eq!(made, 2);
        at += 100_000;
    }
    let deliveries = shown(&own).await;
    let given_up = deliveries.iter().find(|delivery| delivery["delivered_at"].is_null()).unwrap();
    assert_eq!((&given_up["next_attempt_at"], &given_up["last_error"]), (&Value::Null, &json!("it answered with status 500")));
}

#[tokio::test]
async fn two_processes_do_not_send_twice() {
    let server = Harness::new().await;
    let (receiver, url) = Receiver::start().await;
    server.done(Method::POST, "/admin/webhooks", json!({"url": url})).await;
    let budget = json!({"scope": "organization", "period": "total", "enforcement": "soft", "limit_usd": "10"});
    server.done(Method::POST, "/admin/budgets", budget).await;
    let (a, b) = (Deliveries::new(server.tenants.office().clone()), Deliveries::new(server.tenants.office().clone()));
    let event = reached(&server, "Organization");
    let (first, second) = tokio::join!(a.announce(&event), b.announce(&event));
    first.and(second).unwrap();
    let now = unix_now() + 1;
    let (first, second) = tokio::join!(a.send_due(now), b.send_due(now));
    assert_eq!(first.unwrap() + second.unwrap(), 1);
    assert_eq!(receiver.got().len(), 1);
}
