//! Deployments over HTTP: assignment, headers, the ledger, changes under conditions, going back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use switchyard::experiments::{Ask, Deployment, Deployments, Setup};
use switchyard::registry::Owner;

use crate::support::{BASE, Harness, KEY, Reply, chat_body, merged, request};

const DEPLOYMENTS: &str = "/admin/deployments";
const SUPPORT: &str = "/admin/deployments/support";

/// A server with `support@1` and `support@2`, and a deployment `support` with both as arms.
async fn deployed(weights: [f64; 2]) -> Harness {
    let server = Harness::new().await;
    server.load("support", 1).await;
    server.load("support", 2).await;
    let made = server.call(Method::POST, DEPLOYMENTS, Some(&two_arms(weights)), KEY, &[]).await;
    assert_eq!(made.status.as_u16(), 200, "{}", made.text);
    server
}

fn two_arms([stable, canary]: [f64; 2]) -> Value {
    json!({"name": "support", "arms": [
        {"name": "stable", "model": "support@1", "weight": stable}, {"name": "canary", "model": "support@2", "weight": canary},
    ]})
}

async fn ask(server: &Harness, more: Value, headers: &[(&str, &str)]) -> Reply {
    let body = merged(chat_body(), &merged(json!({"model": "support", "max_tokens": 1}), &more));
    server.post_as(KEY, "/v1/chat/completions", &body, headers).await
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.get(name).unwrap_or_else(|| panic!("no {name}: {}", reply.text)).to_str().unwrap()
}

/// Arm and version that answered.
fn answered(reply: &Reply) -> (String, String) {
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    assert_eq!(header(reply, "x-deployment"), "support");
    let version = header(reply, "x-adapter-version").split('+').next().unwrap();
    (header(reply, "x-experiment-arm").to_owned(), version.to_owned())
}

async fn set_weights(server: &Harness, weights: Value) -> Reply {
    server.call(Method::POST, &format!("{SUPPORT}/weights"), Some(&json!({"weights": weights})), KEY, &[]).await
}

async fn roll_back(server: &Harness, body: Value) -> Reply {
    server.call(Method::POST, &format!("{SUPPORT}/rollback"), Some(&body), KEY, &[]).await
}

#[tokio::test]
async fn a_deployment_answers_under_its_name_and_says_with_what() {
    let server = deployed([0.0, 100.0]).await;
    let reply = ask(&server, json!({}), &[]).await;
    assert_eq!(answered(&reply), ("canary".to_owned(), "support@2".to_owned()));
    assert_eq!(reply.json()["model"], "support");
    // An exact version is itself, a pin is the arm that it names.
    let exact = ask(&server, json!({"model": "support@1"}), &[]).await;
    assert!(header(&exact, "x-adapter-version").starts_with("support@1+") && !exact.headers.contains_key("x-deployment"));
    let pinned = ask(&server, json!({}), &[("x-experiment-arm", "stable")]).await;
    assert_eq!(answered(&pinned), ("stable".to_owned(), "support@1".to_owned()));
    let unknown = ask(&server, json!({}), &[("x-experiment-arm", "blue")]).await;
    assert_eq!(unknown.error(), (400, "invalid_request_error".into(), json!("unknown_arm"), json!("x-experiment-arm")));
    assert!(unknown.message().contains("'blue'") && unknown.message().contains("'stable', 'canary'"), "{}", unknown.text);
    let none = ask(&server, json!({"model": BASE}), &[("x-experiment-arm", "stable")]).await;
    assert_eq!(none.error().2, "unknown_arm");
    // The ledger has the public name, the version and the arm.
    server.tenants.ledger().close(std::time::Duration::from_secs(5)).await;
    let export = server.get("/admin/usage/export?format=jsonl&start_time=0").await.text;
    let rows: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |index: usize| (rows[index]["model"].as_str().unwrap(), rows[index]["arm"].as_str());
    assert_eq!((of(0), of(1), of(2)), (("support", Some("canary")), ("support@1", None), ("support", Some("stable"))));
    let models = server.get("/v1/models").await.json();
    let names: Vec<&str> = models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, [BASE, "support", "hash-embedding-256"], "the name stands for the deployment, once");
    assert_eq!(server.get("/v1/models/support").await.json()["parent"], BASE);
}

#[tokio::test]
async fn units_keep_their_arm_and_conversations_theirs_until_a_rollback() {
    let server = deployed([50.0, 50.0]).await;
    let arm = async |more: Value, headers: &[(&str, &str)]| answered(&ask(&server, more, headers).await).0;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..12 {
        let user = json!({"user": format!("user-{user}")});
        let first = arm(user.clone(), &[]).await;
        // Other words in another conversation: the same person.
        let other = merged(user.clone(), &json!({"messages": [{"role": "user", "content": "other"}]}));
        assert_eq!(arm(other, &[]).await, first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2);
    // The header goes before the body.
    let by_header = arm(json!({"user": "user-1"}), &[("x-experiment-unit", "device-7")]).await;
    for user in 0..6 {
        assert_eq!(arm(json!({"user": format!("user-{user}")}), &[("x-experiment-unit", "device-7")]).await, by_header);
    }
    // A conversation that began in the canary stays there although new ones do not come.
    let mut index = 0;
    let begun = loop {
        let user = json!({"user": format!("talker-{index}")});
        if arm(user.clone(), &[("x-conversation-id", "c1")]).await == "canary" {
            break user;
        }
        index += 1;
    };
    assert_eq!(set_weights(&server, json!({"stable": 99.99, "canary": 0.01})).await.status.as_u16(), 200);
    assert_eq!(arm(begun.clone(), &[("x-conversation-id", "c1")]).await, "canary");
    assert_eq!(arm(begun.clone(), &[("x-conversation-id", "c2")]).await, "stable");
    // Without an id it is known by how it began.
    let back = roll_back(&server, json!({"to_revision": 2, "reason": "wrong language"})).await;
    assert_eq!((back.status.as_u16(), back.json()["revision"].as_i64()), (200, Some(3)), "{}", back.text);
    assert_eq!(arm(begun, &[("x-conversation-id", "c1")]).await, "stable", "going back is for everybody");
}

#[tokio::test]
async fn going_back_is_a_new_revision_and_the_history_keeps_all() {
    let server = deployed([100.0, 0.0]).await;
    set_weights(&server, json!({"canary": 100})).await;
    assert_eq!(answered(&ask(&server, json!({}), &[]).await).1, "support@2");
    let back = roll_back(&server, json!({"reason": "slow"})).await.json();
    assert_eq!((&back["revision"], &back["restores"], &back["reason"]), (&json!(3), &json!(1), &json!("slow")));
    assert!(back["effective_after_us"].as_u64().unwrap() < 10_000, "{back}");
    assert_eq!(answered(&ask(&server, json!({}), &[]).await).1, "support@1");
    let nothing = roll_back(&server, json!({})).await;
    assert_eq!(nothing.error(), (400, "invalid_request_error".into(), json!("nothing_before"), json!("to_revision")));
    assert_eq!(roll_back(&server, json!({"to_revision": 9})).await.error().2, "unknown_revision");
    // Forward again, by number.
    assert_eq!(roll_back(&server, json!({"to_revision": 2})).await.json()["arms"][1]["weight"], 100);
    let gone = server.call(Method::DELETE, SUPPORT, None, KEY, &[]).await;
    assert_eq!(gone.status.as_u16(), 200, "{}", gone.text);
    // The adapter of this name is what it was.
    let adapter = ask(&server, json!({}), &[]).await;
    assert!(header(&adapter, "x-adapter-version").starts_with("support@2+") && !adapter.headers.contains_key("x-deployment"));
    let history = server.get(&format!("{SUPPORT}/history?limit=3")).await.json();
    let actions = |history: &Value| -> Vec<(i64, String)> {
        let rows = history["data"].as_array().unwrap().iter();
        rows.map(|row| (row["revision"].as_i64().unwrap(), row["action"].as_str().unwrap().to_owned())).collect()
    };
    let of = |list: &[(i64, &str)]| list.iter().map(|(n, a)| (*n, (*a).to_owned())).collect::<Vec<_>>();
    assert_eq!(actions(&history), of(&[(5, "deleted"), (4, "rolled_back"), (3, "rolled_back")]));
    assert_eq!(history["has_more"], true);
    let rest = server.get(&format!("{SUPPORT}/history?after=3")).await.json();
    assert_eq!(actions(&rest), of(&[(2, "changed"), (1, "created")]));
    // A name that comes back goes on counting.
    let again = server.call(Method::POST, DEPLOYMENTS, Some(&two_arms([100.0, 0.0])), KEY, &[]).await;
    assert_eq!((again.json()["revision"].as_i64(), header(&again, "etag")), (Some(6), "\"6\""));
    let log = server.get("/v1/organization/audit_logs?event_types[]=deployment.rolled_back").await.json();
    assert_eq!(log["data"].as_array().unwrap().len(), 2, "{log}");
    let (newest, text) = (&log["data"][1], log.to_string());
    assert!(text.contains("slow") && text.contains("support@1"), "{newest}");
}

#[tokio::test]
async fn bad_states_are_refused_by_name() {
    let server = deployed([90.0, 10.0]).await;
    let arms = |arms: Value| json!({"arms": arms});
    let one = |name: &str, model: &str, weight: Value| json!({"name": name, "model": model, "weight": weight});
    for (body, field, said) in [
        (json!({}), "arms", "Missing"),
        (arms(json!([])), "arms", "1 to 16 arms"),
        (arms(json!([one("a", BASE, json!(50)), one("b", "support@1", json!(40))])), "arms", "but are 90"),
        (arms(json!([one("a", BASE, json!(33.333)), one("b", "support@1", json!(66.667))])), "arms[0].weight", "33.333"),
        (arms(json!([one("a", BASE, json!(101))])), "arms[0].weight", "101"),
        (arms(json!([one("a", BASE, json!("all"))])), "arms[0].weight", "a string"),
        (arms(json!([one("a", "nothing", json!(100))])), "arms[0].model", "'nothing'"),
        (arms(json!([one("a", "support@7", json!(100))])), "arms[0].model", "'support@7'"),
        (arms(json!([one("a a", BASE, json!(100))])), "arms[0].name", "a a"),
        (arms(json!([one("a", BASE, json!(50)), one("a", BASE, json!(50))])), "arms[1].name", "two arms 'a'"),
        (arms(json!([{"name": "a", "model": BASE, "weight": 100, "wait": 1}])), "arms[0].wait", "Unknown"),
        (arms(json!([{"name": "a", "model": BASE, "weight": 100, "waived_by": " "}])), "arms[0].waived_by", "empty"),
        (merged(arms(json!([one("a", BASE, json!(100))])), &json!({"fallback": ["b"]})), "fallback[0]", "\"b\""),
        (
            merged(arms(json!([one("a", BASE, json!(100))])), &json!({"experiment": {"control": "b"}})),
            "experiment.control",
            "\"b\"",
        ),
        (merged(arms(json!([one("a", BASE, json!(100))])), &json!({"keep_resident_seconds": -1})), "keep_resident_seconds", "-1"),
        (merged(arms(json!([one("a", BASE, json!(100))])), &json!({"salt": "x"})), "salt", "Unknown"),
    ] {
        let reply = server.call(Method::PUT, SUPPORT, Some(&body), KEY, &[]).await;
        let (status, _, _, param) = reply.error();
        assert_eq!((status, param), (400, json!(field)), "{body}: {}", reply.text);
        assert!(reply.message().contains(said), "{body}: {}", reply.text);
    }
    let unknown_arm = set_weights(&server, json!({"stable": 50, "blue": 50})).await;
    assert!(unknown_arm.message().contains("\"blue\""), "{}", unknown_arm.text);
    assert_eq!(set_weights(&server, json!({"stable": 50})).await.error().3, "arms");
    assert_eq!(set_weights(&server, json!([1])).await.error().3, "weights");
    let twice = server.call(Method::POST, DEPLOYMENTS, Some(&two_arms([100.0, 0.0])), KEY, &[]).await;
    assert_eq!(twice.error().2, "deployment_exists");
    let base = merged(two_arms([100.0, 0.0]), &json!({"name": BASE}));
    let base = server.call(Method::POST, DEPLOYMENTS, Some(&base), KEY, &[]).await;
    assert_eq!((base.status.as_u16(), base.error().3), (400, json!("name")));
    let nobody = merged(two_arms([100.0, 0.0]), &json!({"tenant": "proj_nobody"}));
    assert_eq!(server.call(Method::POST, DEPLOYMENTS, Some(&nobody), KEY, &[]).await.error().3, "tenant");
    for (method, path) in [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, "/rollback"), (Method::GET, "/history")] {
        let reply = server.call(method.clone(), &format!("{DEPLOYMENTS}/missing{path}"), None, KEY, &[]).await;
        assert_eq!((reply.status.as_u16(), reply.error().2), (404, json!("not_found")), "{method} {path}");
    }
    assert_eq!(server.get(SUPPORT).await.json()["revision"], 1, "nothing of that has changed anything");
}

#[tokio::test]
async fn changes_depend_on_the_revision_that_was_seen_and_happen_once() {
    let server = deployed([90.0, 10.0]).await;
    let seen = header(&server.get(SUPPORT).await, "etag").to_owned();
    let path = |what: &str| format!("{SUPPORT}/{what}");
    let body = json!({"weights": {"stable": 50, "canary": 50}});
    let set = async |etag: &str| server.call(Method::POST, &path("weights"), Some(&body), KEY, &[("if-match", etag)]).await;
    assert_eq!((set(&seen).await.status.as_u16(), set(&seen).await.status.as_u16()), (200, 412));
    let stale = server.call(Method::POST, &path("rollback"), None, KEY, &[("if-match", &seen)]).await;
    assert_eq!((stale.status.as_u16(), stale.error().2), (412, json!("precondition_failed")));
    assert_eq!(server.get(SUPPORT).await.json()["revision"], 2, "a stale rollback does not hold for a moment");
    let absent = [("if-match", "\"0\"")];
    let put = async |name: &str| {
        let body = json!({"arms": two_arms([100.0, 0.0])["arms"]});
        server.call(Method::PUT, &format!("{DEPLOYMENTS}/{name}"), Some(&body), KEY, &absent).await.status.as_u16()
    };
    assert_eq!((put("support").await, put("other").await), (412, 200));
    let once = [("idempotency-key", "back-1")];
    let first = server.call(Method::POST, &path("rollback"), Some(&json!({})), KEY, &once).await;
    assert_eq!(first.json()["revision"], 3, "{}", first.text);
    set_weights(&server, json!({"canary": 100})).await;
    let again = server.call(Method::POST, &path("rollback"), Some(&json!({})), KEY, &once).await;
    assert_eq!((again.text, header(&server.get(SUPPORT).await, "etag")), (first.text, "\"4\""));
    assert_eq!(answered(&ask(&server, json!({}), &[]).await).0, "canary", "a repetition changes nothing, not even in memory");
    let other = server.call(Method::POST, &path("rollback"), Some(&json!({"to_revision": 1})), KEY, &once).await;
    assert_eq!(other.error().2, "idempotency_key_reused");
}

#[tokio::test]
async fn a_tenants_deployment_is_its_own_and_hides_the_shared_one() {
    let server = deployed([100.0, 0.0]).await;
    let (a, b) = (server.key_of("proj_a").await, server.key_of("proj_b").await);
    let mine = json!({"name": "support", "tenant": "proj_a", "arms": [{"name": "own", "model": BASE, "weight": 100}]});
    assert_eq!(server.call(Method::POST, DEPLOYMENTS, Some(&mine), KEY, &[]).await.status.as_u16(), 200);
    let body = merged(chat_body(), &json!({"model": "support", "max_tokens": 1}));
    let arm = async |key: &str| answered(&server.post_as(key, "/v1/chat/completions", &body, &[]).await).0;
    assert_eq!((arm(&a).await, arm(&b).await), ("own".to_owned(), "stable".to_owned()));
    let list = server.get(&format!("{DEPLOYMENTS}?tenant=proj_a")).await.json();
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][0]["tenant"]), (1, &json!("proj_a")));
    let gone = server.call(Method::DELETE, &format!("{SUPPORT}?tenant=proj_a"), None, KEY, &[]).await;
    assert_eq!(gone.status.as_u16(), 200, "{}", gone.text);
    assert_eq!(arm(&a).await, "stable");
    let refused = server.call(Method::GET, DEPLOYMENTS, None, &a, &[]).await;
    assert_eq!(refused.status.as_u16(), 403);
}

#[tokio::test]
async fn another_arm_answers_for_one_that_cannot() {
    let server = Harness::new().await;
    server.load("support", 1).await;
    server.load("other", 3).await;
    let body = json!({"name": "front", "fallback": ["rest", "base"], "arms": [
        {"name": "main", "model": "support", "weight": 100}, {"name": "rest", "model": "other", "weight": 0},
    ]});
    let made = server.call(Method::POST, DEPLOYMENTS, Some(&body), KEY, &[]).await;
    assert_eq!(made.json()["arms"][0]["model"], "support@1", "{}", made.text);
    let arm = async || {
        let reply = ask(&server, json!({"model": "front"}), &[]).await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
        (header(&reply, "x-experiment-arm").to_owned(), header(&reply, "x-adapter-version")[..4].to_owned())
    };
    assert_eq!(arm().await, ("main".to_owned(), "supp".to_owned()));
    server.ok_text("/v1/unload_lora_adapter", &json!({"lora_name": "support"})).await;
    assert_eq!(arm().await, ("rest".to_owned(), "othe".to_owned()));
    server.ok_text("/v1/unload_lora_adapter", &json!({"lora_name": "other"})).await;
    assert_eq!(arm().await, ("base".to_owned(), "base".to_owned()));
    let body = json!({"arms": [{"name": "main", "model": BASE, "weight": 100}]});
    let path = format!("{DEPLOYMENTS}/front");
    assert_eq!(server.call(Method::PUT, &path, Some(&body), KEY, &[]).await.status.as_u16(), 200);
    let back = server.call(Method::POST, &format!("{path}/rollback"), None, KEY, &[]).await;
    assert_eq!(back.error().2, "version_gone");
    assert!(back.message().contains("support@1"), "{}", back.text);
}

#[tokio::test]
async fn what_was_left_is_in_memory_and_what_is_running_ends_as_it_began() {
    let server = deployed([0.0, 100.0]).await;
    let body = merged(chat_body(), &json!({"model": "support", "max_tokens": 24, "stream": true, "ignore_eos": true}));
    let request = || request(Method::POST, "/v1/chat/completions", axum::body::Body::from(body.to_string()));
    let running = server.open(request()).await;
    assert!(running.headers()["x-adapter-version"].to_str().unwrap().starts_with("support@2+"));
    set_weights(&server, json!({"stable": 100})).await;
    // Whoever goes back does not wait for a disk, nor does anybody need one.
    let files = server.data.path().join("versions");
    std::fs::rename(&files, server.data.path().join("elsewhere")).unwrap();
    let back = roll_back(&server, json!({})).await;
    assert_eq!(back.status.as_u16(), 200, "{}", back.text);
    assert_eq!(answered(&ask(&server, json!({}), &[]).await).1, "support@2");
    assert_eq!(answered(&ask(&server, json!({}), &[("x-experiment-arm", "stable")]).await).1, "support@1");
    let text = axum::body::to_bytes(running.into_body(), usize::MAX).await.unwrap();
    assert!(text.ends_with(b"data: [DONE]\n\n"));
    std::fs::rename(server.data.path().join("elsewhere"), &files).unwrap();
    // Newer versions of the adapter do not push out what a deployment names.
    for seed in 3..14 {
        server.load("support", seed).await;
    }
    assert_eq!(answered(&ask(&server, json!({}), &[("x-experiment-arm", "stable")]).await).1, "support@1");
    let exact = ask(&server, json!({"model": "support@4"}), &[]).await;
    assert_eq!(exact.status.as_u16(), 404, "nobody names that one");
}

#[tokio::test]
async fn a_rollback_that_cannot_be_written_down_did_not_happen() {
    let server = deployed([0.0, 100.0]).await;
    set_weights(&server, json!({"stable": 50, "canary": 50})).await;
    set_weights(&server, json!({"stable": 100})).await;
    server.policy("ALTER TABLE deployment_revisions RENAME TO lost").await;
    let failed = roll_back(&server, json!({"to_revision": 1})).await;
    assert_eq!(failed.error().2, "internal_error");
    assert_eq!(answered(&ask(&server, json!({}), &[]).await).0, "stable", "what was in force is in force again");
    server.policy("ALTER TABLE lost RENAME TO deployment_revisions").await;
    assert_eq!(server.get(SUPPORT).await.json()["revision"], 3);
    assert_eq!(roll_back(&server, json!({"to_revision": 1})).await.json()["revision"], 4);
    assert_eq!(answered(&ask(&server, json!({}), &[]).await).0, "canary");
}

#[tokio::test]
async fn what_another_process_changes_is_taken_over_and_a_restart_finds_it() {
    let server = deployed([90.0, 10.0]).await;
    let (base, upstreams) = (BASE.to_owned(), Vec::new());
    let setup = || Setup {
        tenants: server.tenants.clone(),
        catalog: server.catalog.clone(),
        base: base.clone(),
        upstreams: upstreams.clone(),
    };
    let other = Deployments::open(setup()).await.unwrap();
    let revision = |deployments: &Deployments| deployments.get(&Owner::Shared, "support").map(|found| found.current.number);
    assert_eq!(revision(&other), Some(1));
    let before = other.get(&Owner::Shared, "support").unwrap();
    set_weights(&server, json!({"canary": 100})).await;
    roll_back(&server, json!({})).await;
    other.refresh().await.unwrap();
    assert_eq!(revision(&other), Some(3));
    let restarted = Deployments::open(setup()).await.unwrap().get(&Owner::Shared, "support").unwrap();
    assert_eq!((&restarted.current, restarted.epoch), (&other.get(&Owner::Shared, "support").unwrap().current, 3));
    assert_eq!(restarted.history.len(), 3);
    assert_eq!((&restarted.current.spec, &restarted.current.experiment), (&before.current.spec, &before.current.experiment));
    // The same units get the same arms everywhere.
    for unit in 0..100 {
        let unit = unit.to_string();
        let ask = Ask { tenant: "t", unit: &unit, conversation: None, arm: None };
        let arm = |by: &Deployments, of: &Deployment| by.assign(of, &ask).unwrap().arm;
        assert_eq!(arm(&other, &before), arm(&other, &restarted));
    }
    server.call(Method::DELETE, SUPPORT, None, KEY, &[]).await;
    other.refresh().await.unwrap();
    assert_eq!(revision(&other), None);
}

/// 0: stable is in force, 1: on the way to the canary, 2: the canary is in force, 3: on the way back.
static PHASE: AtomicUsize = AtomicUsize::new(0);
static ANSWERS: AtomicUsize = AtomicUsize::new(0);

/// Waits until some requests that began after this are answered.
async fn some_answers() {
    let until = ANSWERS.load(Ordering::Acquire) + 8;
    while ANSWERS.load(Ordering::Acquire) < until {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rollbacks_under_load_fail_nobody_and_hold_from_their_answer_on() {
    let server = Arc::new(deployed([100.0, 0.0]).await);
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|client| {
            let (server, over) = (Arc::clone(&server), Arc::clone(&over));
            tokio::spawn(async move {
                let (mut counts, mut turn) = ([0u32; 3], 0);
                while !over.load(Ordering::Acquire) {
                    turn += 1;
                    let before = PHASE.load(Ordering::Acquire);
                    let arm = answered(&ask(&server, json!({"user": format!("{client}-{turn}")}), &[]).await);
                    let still = PHASE.load(Ordering::Acquire) == before;
                    match before % 4 {
                        0 if still => assert_eq!(arm, ("stable".to_owned(), "support@1".to_owned())),
                        2 if still => assert_eq!(arm, ("canary".to_owned(), "support@2".to_owned())),
                        _ => {}
                    }
                    ANSWERS.fetch_add(1, Ordering::AcqRel);
                    counts[if still { before % 4 } else { 1 }.min(2)] += 1;
                }
                counts
            })
        })
        .collect();
    let mut slowest = 0;
    for _ in 0..100 {
        PHASE.fetch_add(1, Ordering::AcqRel);
        assert_eq!(set_weights(&server, json!({"canary": 100})).await.status.as_u16(), 200);
        PHASE.fetch_add(1, Ordering::AcqRel);
        some_answers().await;
        PHASE.fetch_add(1, Ordering::AcqRel);
        let back = roll_back(&server, json!({"to_revision": 1})).await;
        assert_eq!(back.status.as_u16(), 200, "{}", back.text);
        slowest = slowest.max(back.json()["effective_after_us"].as_u64().unwrap());
        PHASE.fetch_add(1, Ordering::AcqRel);
        some_answers().await;
    }
    over.store(true, Ordering::Release);
    let mut sums = [0; 3];
    for client in clients {
        let counts = client.await.unwrap();
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    eprintln!("answers while stable, while changing, while canary: {sums:?}; slowest effect {slowest} us");
    assert!(sums[0] > 50 && sums[2] > 50, "{sums:?}");
    assert_eq!(server.get(SUPPORT).await.json()["revision"], 201);
}
