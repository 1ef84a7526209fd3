//! Names that several models share, and deployments with arms that are other servers: who answers where something cannot.

use axum::http::StatusCode;
use serde_json::{Value, json};
use switchyard::engine::EngineConfig;
use switchyard::engine::seeded::SeededModel;
use switchyard::gateway::{FailoverConfig, UpstreamConfig};

use crate::misbehaving::{Act, Misbehaving, answer, chunks, done, refusal};
use crate::support::{BASE, Gated, Harness, Options, chat_body, merged};
use crate::upstreams::{CHAT, rows, upstream};

fn shared(models: &[&str], when_waiting: Option<usize>) -> Vec<FailoverConfig> {
    let models = models.iter().map(|model| (*model).to_owned()).collect();
    vec![FailoverConfig { name: "assistant".to_owned(), models, when_waiting, capability: None }]
}

/// An upstream of another name.
fn named(name: &str, url: &str) -> UpstreamConfig {
    let mut config = upstream(url);
    config.remote.name = name.to_owned();
    config.remote.patience.retries = 0;
    config
}

fn asked(model: &str) -> Value {
    merged(chat_body(), &json!({"model": model, "max_tokens": 4}))
}

fn said(reply: &crate::support::Reply) -> String {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.headers["x-adapter-version"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_next_model_is_asked_where_one_fails_before_its_first_token() {
    let (broken, good) = (Misbehaving::new(vec![refusal(500, "", "oh")]).await, Misbehaving::new(vec![answer("hi")]).await);
    let upstreams = vec![named("one", &broken.url), named("two", &good.url)];
    let options = Options { upstreams, failovers: shared(&["one", "two", BASE], None), ..Options::default() };
    let harness = Harness::with(options).await;
    let reply = harness.post(CHAT, &asked("assistant")).await;
    assert_eq!((said(&reply).as_str(), &reply.json()["model"]), ("upstream/two", &json!("two")));
    let rows = rows(&harness, 2).await;
    let mut outcomes: Vec<(&str, &str)> = rows.iter().map(|row| (row.version.as_str(), row.outcome.as_str())).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, [("upstream/one", "failed"), ("upstream/two", "stop")], "each that was asked has its row");
    let models = harness.get("/v1/models").await.text;
    assert!(models.contains("\"assistant\""));
    // What only some of its models know is known under none of its names.
    let reply = harness.post(CHAT, &merged(asked("assistant"), &json!({"top_k": 3}))).await;
    assert_eq!((reply.error().0, reply.error().3), (400, json!("top_k")));
    let reply = harness.post(CHAT, &merged(asked("assistant"), &json!({"reasoning_effort": "high"}))).await;
    assert_eq!((reply.error().0, reply.error().3), (400, json!("reasoning_effort")));
    let reply = harness.post("/v1/responses", &json!({"model": "assistant", "input": "x"})).await;
    assert_eq!(reply.error().2, json!("model_not_supported"));
}

#[tokio::test]
async fn a_refusal_of_the_request_is_not_passed_on() {
    let (picky, good) = (Misbehaving::new(vec![refusal(400, "", "no")]).await, Misbehaving::new(vec![answer("hi")]).await);
    let upstreams = vec![named("one", &picky.url), named("two", &good.url)];
    let harness = Harness::with(Options { upstreams, failovers: shared(&["one", "two"], None), ..Options::default() }).await;
    assert_eq!(harness.post(CHAT, &asked("assistant")).await.error().2, json!("upstream_refused"));
    assert!(good.got().is_empty());
}

#[tokio::test]
async fn local_then_remote_when_the_queue_is_longer() {
    let good = Misbehaving::new(vec![Act::Events(done(chunks(&["far"])))]).await;
    let upstreams = vec![named("far", &good.url)];
    let engine = EngineConfig { max_sequences: 1, ..EngineConfig::default() };
    let options = Options { upstreams, failovers: shared(&[BASE, "far"], Some(1)), engine, ..Options::default() };
    let (model, gate) = Gated::closed(Box::new(SeededModel::new(options.model.clone())));
    let base = crate::support::base();
    let harness = Harness::of(model, base, options).await;
    let first = {
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(
                harness
                    .open(crate::support::request(
                        axum::http::Method::POST,
                        CHAT,
                        axum::body::Body::from(merged(asked(BASE), &json!({"stream": true})).to_string()),
                    ))
                    .await,
            );
        }
        waiting
    };
    while harness.engine.stats().waiting < 2 {
        tokio::task::yield_now().await;
    }
    let streamed = merged(asked("assistant"), &json!({"stream": true}));
    assert_eq!(said(&harness.post(CHAT, &streamed).await), "upstream/far");
    drop(gate);
    drop(first);
    harness.idle().await;
    assert_eq!(said(&harness.post(CHAT, &asked("assistant")).await), "base", "nobody waits any more");
    let events = harness.events(CHAT, asked("assistant")).await;
    assert_eq!(events[0]["model"], BASE);
}

#[tokio::test]
async fn an_arm_may_be_another_server_and_the_deployment_falls_back() {
    let them = Misbehaving::new(vec![answer("far"), refusal(503, "", "full")]).await;
    let harness = Harness::with(Options { upstreams: vec![named("big", &them.url)], ..Options::default() }).await;
    let spec = json!({"name": "support", "arms": [{"name": "remote", "model": "big", "weight": 100}], "fallback": ["base"]});
    let made = harness.post("/admin/deployments", &spec).await;
    assert!(made.status.is_success(), "{}", made.text);
    assert_eq!(made.json()["arms"][0]["model"], "upstream/big");
    let reply = harness.post(CHAT, &asked("support")).await;
    assert_eq!((said(&reply).as_str(), &reply.json()["model"]), ("upstream/big", &json!("support")));
    assert!(reply.headers["x-deployment"] == "support" && reply.headers["x-experiment-arm"] == "remote");
    let reply = harness.post(CHAT, &asked("support")).await;
    assert_eq!((said(&reply).as_str(), reply.headers["x-experiment-arm"].to_str().unwrap()), ("base", "base"));
    // Here other servers cannot be asked: the deployment falls back at once.
    assert_eq!(said(&harness.post("/v1/responses", &json!({"model": "support", "input": "x"})).await), "base");
    assert_eq!(them.got().len(), 2);
    let refused = async |spec: Value| harness.post("/admin/deployments", &spec).await.error().3;
    let silent =
        json!({"name": "x", "arms": [{"name": "a", "model": BASE, "weight": 100}], "shadow": {"model": "big", "percent": 5}});
    assert_eq!(refused(silent).await, json!("shadow.model"));
    assert_eq!(refused(json!({"name": "big", "arms": [{"name": "a", "model": BASE, "weight": 100}]})).await, json!("name"));
}
