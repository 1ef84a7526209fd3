//! Rollouts over HTTP, and shadow traffic: what is asked for, what the deployment becomes, what is told of it.

use std::time::{Duration, Instant};

use axum::http::Method;
use serde_json::{Value, json};
use switchyard::experiments::settings::Metric;
use switchyard::experiments::verdict::Standing;
use switchyard::registry::{Gate, Judged};
use switchyard::tenants::unix_now;
use switchyard::tenants::webhooks::Deliveries;

use crate::support::{Harness, KEY, Options, Reply, SeededOptions, chat_body, merged};
use crate::webhooks::Receiver;

const ROLLOUTS: &str = "/admin/deployments/support/rollouts";

/// `support@1` and `support@2`, and a deployment `support` of the first.
async fn deployed() -> Harness {
    deployed_with(Options::default()).await
}

async fn deployed_with(options: Options) -> Harness {
    let server = Harness::with(options).await;
    server.load("support", 1).await;
    server.load("support", 2).await;
    let spec = json!({"name": "support", "arms": [{"name": "stable", "model": "support@1", "weight": 100}]});
    server.ok("/admin/deployments", &spec).await;
    server
}

async fn post(server: &Harness, path: &str, body: Value) -> Reply {
    server.call(Method::POST, path, Some(&body), KEY, &[]).await
}

/// Begins a rollout of the second version without bake times, with more fields.
async fn begin(server: &Harness, more: Value) -> Value {
    let body = json!({"model": "support@2", "steps": [10, 50, 100], "bake_seconds": 0, "min_samples": 5});
    let made = post(server, ROLLOUTS, merged(body, &more)).await;
    assert_eq!(made.status.as_u16(), 200, "{}", made.text);
    assert_eq!(made.json()["state"], "pending");
    look(server, &made.json()).await
}

/// Has rollouts looked at, and shows this one.
async fn look(server: &Harness, rollout: &Value) -> Value {
    server.rollouts.look().await.unwrap();
    let shown = server.get(&format!("/admin/rollouts/{}", rollout["id"].as_str().unwrap())).await;
    assert_eq!(shown.status.as_u16(), 200, "{}", shown.text);
    shown.json()
}

async fn steer(server: &Harness, rollout: &Value, what: &str) -> Reply {
    let path = format!("/admin/rollouts/{}/{what}", rollout["id"].as_str().unwrap());
    post(server, &path, json!({"reason": "a test"})).await
}

/// Arms with their models and weights.
async fn arms(server: &Harness) -> Vec<(String, String, f64)> {
    let deployment = server.get("/admin/deployments/support").await.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let arm = |arm: &Value| (text(&arm["name"]), text(&arm["model"]), arm["weight"].as_f64().unwrap());
    deployment["arms"].as_array().unwrap().iter().map(arm).collect()
}

fn arm(name: &str, model: &str, weight: f64) -> (String, String, f64) {
    (name.to_owned(), model.to_owned(), weight)
}

#[tokio::test]
async fn a_good_candidate_takes_the_place_of_the_control() {
    let server = deployed().await;
    let (receiver, url) = Receiver::start().await;
    server.ok("/admin/webhooks", &json!({"url": url})).await;
    let rollout = begin(&server, json!({})).await;
    assert_eq!((&rollout["state"], &rollout["weight"], &rollout["arm"]), (&json!("inconclusive"), &json!(10), &json!("canary")));
    assert_eq!(rollout["reason"], "0 of 5 answers of the candidate at 10%");
    assert_eq!(rollout["waiting_for"]["until"], rollout["deadline_at"]);
    assert_eq!(arms(&server).await, [arm("stable", "support@1", 90.0), arm("canary", "support@2", 10.0)]);
    server.judge.say(Standing::Holding, 5);
    assert_eq!(look(&server, &rollout).await["weight"], 50);
    server.judge.say(Standing::Holding, 10);
    assert_eq!(look(&server, &rollout).await["weight"], 100);
    server.judge.say(Standing::Holding, 15);
    let rollout = look(&server, &rollout).await;
    assert_eq!((&rollout["state"], &rollout["in_effect"]), (&json!("promoted"), &json!(true)));
    assert_eq!(arms(&server).await, [arm("stable", "support@2", 100.0)]);
    // The whole story: history, audit log, webhooks.
    let history = server.get("/admin/deployments/support/history").await.json();
    let id = rollout["id"].as_str().unwrap();
    let reasons: Vec<&str> = history["data"].as_array().unwrap().iter().filter_map(|one| one["reason"].as_str()).collect();
    let wanted = ["promoted", "step 3", "step 2", "step 1"].map(|what| format!("rollout {id} {what}"));
    assert_eq!(reasons, wanted);
    let audit = server.get(&format!("/v1/organization/audit_logs?resource_ids[]={id}")).await.json();
    let mut told: Vec<(&str, &str)> = Vec::new();
    for row in audit["data"].as_array().unwrap().iter().rev() {
        let actor = row["actor"]["api_key"]["id"].as_str().or(row["actor"]["id"].as_str()).unwrap_or_default();
        told.push((row["type"].as_str().unwrap(), actor));
    }
    let actor = format!("rollout:{id}");
    assert_eq!(
        told.iter().map(|(event, _)| *event).collect::<Vec<_>>(),
        [
            "rollout.created",
            "rollout.started",
            "rollout.inconclusive",
            "rollout.step",
            "rollout.inconclusive",
            "rollout.step",
            "rollout.inconclusive",
            "rollout.promoted",
        ],
        "{audit}"
    );
    assert!(told[1..].iter().all(|(_, by)| *by == actor), "{told:?}");
    Deliveries::new(server.tenants.office().clone()).send_due(unix_now()).await.unwrap();
    let mut events: Vec<String> = receiver
        .got()
        .iter()
        .map(|(headers, body)| {
            assert!(headers.contains_key("webhook-signature"));
            serde_json::from_str::<Value>(body).unwrap()["type"].as_str().unwrap().to_owned()
        })
        .collect();
    events.sort();
    events.dedup();
    assert_eq!(events, ["rollout.inconclusive", "rollout.promoted", "rollout.started", "rollout.step"]);
}

#[tokio::test]
async fn a_breached_guard_takes_it_back_with_the_reason() {
    let server = deployed().await;
    let rollout = begin(&server, json!({})).await;
    assert_eq!(steer(&server, &rollout, "pause").await.json()["state"], "paused");
    server.judge.say(Standing::Breached { guard: Metric::Errors }, 3);
    let rollout = look(&server, &rollout).await;
    assert_eq!((&rollout["state"], &rollout["reason"]), (&json!("rolled_back"), &json!("compared with stable")));
    assert_eq!(arms(&server).await, [arm("stable", "support@1", 100.0)]);
    let newest = server.get("/admin/deployments/support/history?limit=1").await.json()["data"][0].clone();
    assert_eq!((&newest["action"], &newest["restores"]), (&json!("rolled_back"), &json!(1)));
    assert!(newest["reason"].as_str().unwrap().ends_with(": compared with stable"), "{newest}");
    let refused = steer(&server, &rollout, "promote").await;
    assert_eq!(refused.error().2, "invalid_state");
    assert!(refused.message().contains("is rolled_back and cannot be promoted"), "{}", refused.text);
    // Another try does not count the answers of the first.
    let again = begin(&server, json!({})).await;
    assert_eq!(again["arm"], "canary-2");
}

#[tokio::test]
async fn people_steer_under_conditions() {
    let server = deployed().await;
    let rollout = begin(&server, json!({"deadline_seconds": 1000})).await;
    let path = format!("/admin/rollouts/{}", rollout["id"].as_str().unwrap());
    let call = async |what: &str, headers: &[(&str, &str)]| {
        server.call(Method::POST, &format!("{path}/{what}"), None, KEY, headers).await
    };
    let stale = call("resume", &[("if-match", "\"1\"")]).await;
    assert_eq!(stale.error().2, "precondition_failed");
    let key = [("idempotency-key", "once")];
    let (first, second) = (call("resume", &key).await, call("resume", &key).await);
    assert_eq!((first.status.as_u16(), &first.text), (200, &second.text));
    assert_eq!(second.headers["idempotent-replayed"], "true");
    assert_eq!(look(&server, &rollout).await["weight"], 50, "once");
    assert_eq!(steer(&server, &rollout, "promote").await.json()["state"], "promoted");
    assert_eq!(look(&server, &rollout).await["in_effect"], true);
    assert_eq!(arms(&server).await, [arm("stable", "support@2", 100.0)]);
    let unknown = server.get("/admin/rollouts/rollout_x").await;
    assert_eq!((unknown.status.as_u16(), unknown.error().2), (404, json!("not_found")));
    let listed = server.get("/admin/rollouts?deployment=support&state=promoted").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/admin/rollouts?state=good").await.error().3, "state");
}

#[tokio::test]
async fn whoever_changes_the_deployment_takes_over_and_a_candidate_may_go() {
    let server = deployed().await;
    let rollout = begin(&server, json!({})).await;
    let by_hand = json!({"weights": {"stable": 70, "canary": 30}});
    server.ok("/admin/deployments/support/weights", &by_hand).await;
    let rollout = look(&server, &rollout).await;
    assert_eq!(rollout["state"], "aborted");
    assert!(rollout["reason"].as_str().unwrap().starts_with("superseded: "), "{rollout}");
    assert_eq!(arms(&server).await[1].2, 30.0, "it was left like that");

    server.load("next", 3).await;
    let single = json!({"arms": [{"name": "stable", "model": "support@1", "weight": 100}]});
    server.call(Method::PUT, "/admin/deployments/support", Some(&single), KEY, &[]).await;
    let rollout = begin(&server, json!({"model": "next"})).await;
    assert_eq!(rollout["model"], "next@1");
    server.call(Method::DELETE, "/admin/adapters/next", None, KEY, &[]).await;
    let rollout = look(&server, &rollout).await;
    assert_eq!((&rollout["state"], &rollout["in_effect"]), (&json!("rolled_back"), &json!(true)));
    assert!(rollout["reason"].as_str().unwrap().contains("next@1 cannot be served any more"), "{rollout}");
    assert_eq!(arms(&server).await, [arm("stable", "support@1", 100.0)]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let server = deployed().await;
    for (body, param, part) in [
        (json!({}), "model", "Missing"),
        (json!({"model": "support@9"}), "model", "support@9"),
        (json!({"model": "support@1"}), "model", "serves support@1 already"),
        (json!({"model": "support@2", "steps": [10, 50]}), "steps", "the last step is 50%; 100 is right"),
        (json!({"model": "support@2", "steps": [50, 10, 100]}), "steps[1].weight", "10 follows 50"),
        (json!({"model": "support@2", "steps": ["x"]}), "steps[0]", "percent or an object"),
        (json!({"model": "support@2", "hours": "9-17"}), "hours", "Europe/Berlin"),
        (json!({"model": "support@2", "bake_seconds": -1}), "bake_seconds", "-1"),
        (json!({"model": "support@2", "on_deadline": "explode"}), "on_deadline", "'rollback'"),
        (json!({"model": "support@2", "arm": "stable"}), "arm", "gets 100% already"),
        (json!({"model": "support@2", "experiment": {"control": "blue"}}), "experiment.control", "blue"),
        (json!({"model": "support@2", "shadow": {}}), "shadow.percent", "Missing"),
        (json!({"model": "support@2", "stpes": [100]}), "stpes", "Unknown"),
    ] {
        let refused = post(&server, ROLLOUTS, body.clone()).await;
        assert_eq!((refused.status.as_u16(), refused.error().3), (400, json!(param)), "{body}: {}", refused.text);
        assert!(refused.message().contains(part), "{body}: {}", refused.text);
    }
    let nowhere = post(&server, "/admin/deployments/nowhere/rollouts", json!({"model": "support@2"})).await;
    assert_eq!((nowhere.status.as_u16(), nowhere.message().contains("nowhere")), (404, true));
    begin(&server, json!({})).await;
    let second = post(&server, ROLLOUTS, json!({"model": "support@2", "arm": "other"})).await;
    assert_eq!(second.error().2, "rollout_under_way");
}

/// A version of a job of this tenant, judged.
async fn trained(server: &Harness, tenant: &str, job: &str, gate: Gate) -> String {
    let (name, path) = (format!("ft:tiny:{tenant}::{job}"), server.write_adapter(job, 7));
    server.catalog.publish(job, tenant, &name, path.into()).await.unwrap();
    server.catalog.judge(tenant, &name, Judged { gate, score: Some(9_000), compared: None }).await.unwrap();
    name
}

#[tokio::test]
async fn a_gate_that_failed_takes_an_operators_name() {
    let server = deployed().await;
    let model = trained(&server, "acme", "job1", Gate::Fail).await;
    let body = json!({"model": model, "from_tenant": "acme", "bake_seconds": 0, "min_samples": 0});
    let refused = post(&server, ROLLOUTS, body.clone()).await;
    assert_eq!((refused.error().2, refused.error().3), (json!("gate_not_passed"), json!("model")), "{}", refused.text);
    let waived = post(&server, ROLLOUTS, merged(body, &json!({"waived_by": "Ada"}))).await;
    assert_eq!((waived.status.as_u16(), &waived.json()["waived_by"]), (200, &json!("Ada")), "{}", waived.text);
    look(&server, &waived.json()).await;
    let deployment = server.get("/admin/deployments/support").await.json();
    assert_eq!(deployment["arms"][1]["waived_by"], "Ada", "{deployment}");
}

/// A job of this tenant that has succeeded, with its model.
async fn succeeded(server: &Harness, key: &str, tenant: &str, metadata: Value, gate: Gate) -> String {
    let form = "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--b\r\nContent-Disposition: form-data; \
                name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{\"prompt\": \"a\", \"completion\": \"b\"}\r\n--b--\r\n";
    let request = axum::http::Request::builder()
        .method(Method::POST)
        .uri("/v1/files")
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "multipart/form-data; boundary=b")
        .body(form.into())
        .unwrap();
    let file = server.send(request).await;
    let body = json!({"model": "tiny", "training_file": file.json()["id"], "metadata": metadata});
    let job = server.call(Method::POST, "/v1/fine_tuning/jobs", Some(&body), key, &[]).await;
    assert_eq!(job.status.as_u16(), 200, "{}", job.text);
    let id = job.json()["id"].as_str().unwrap().to_owned();
    let model = trained(server, tenant, &id, gate).await;
    let mut transaction = server.tenants.database().begin().await.unwrap();
    let sql = "UPDATE jobs SET status = 'succeeded', published = 1, finished_at = 1, model = $1 WHERE id = $2";
    sqlx::query(sql).bind(model).bind(id.clone()).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    id
}

#[tokio::test]
async fn a_job_ends_in_a_canary_by_itself_unless_its_gate_says_no() {
    let server = deployed().await;
    let (key, _) = server.key_for("acme", "fine_tuning").await;
    let metadata = json!({"rollout": "desk", "rollout_steps": "5,100", "rollout_create": "true", "rollout_bake_seconds": "60"});
    for (wrong, param) in [
        (json!({"rollout": "desk"}), "metadata.rollout"),
        (json!({"rollout": "support"}), "metadata.rollout"),
        (json!({"rollout": "desk", "rollout_steps": "100", "rollout_speed": "1"}), "metadata.rollout_speed"),
    ] {
        let body = json!({"model": "tiny", "training_file": "file-x", "metadata": wrong});
        let refused = server.call(Method::POST, "/v1/fine_tuning/jobs", Some(&body), &key, &[]).await;
        assert_eq!((refused.status.as_u16(), refused.error().3), (400, json!(param)), "{}", refused.text);
    }
    let failed = succeeded(&server, &key, "acme", metadata.clone(), Gate::Fail).await;
    let passed = succeeded(&server, &key, "acme", metadata, Gate::Pass).await;
    server.rollouts.look().await.unwrap();
    server.rollouts.look().await.unwrap();
    let listed = server.get("/admin/rollouts?tenant=acme").await.json();
    let rollouts = listed["data"].as_array().unwrap();
    assert_eq!(rollouts.len(), 1, "once: {listed}");
    assert_eq!(
        (&rollouts[0]["job"], &rollouts[0]["state"], &rollouts[0]["weight"]),
        (&json!(passed), &json!("progressing"), &json!(5))
    );
    let deployment = server.get("/admin/deployments/desk?tenant=acme").await.json();
    assert_eq!((&deployment["arms"][0]["model"], &deployment["arms"][0]["weight"]), (&json!("tiny"), &json!(95)), "{deployment}");
    let events = |id: String| {
        let path = format!("/v1/fine_tuning/jobs/{id}/events");
        let (server, key) = (&server, &key);
        async move { server.call(Method::GET, &path, None, key, &[]).await.text }
    };
    let (told, begun) = (events(failed).await, events(passed).await);
    assert!(told.contains("No rollout was begun") && told.contains("waived_by"), "{told}");
    assert!(begun.contains("Rollout rollout_"), "{begun}");
}

async fn ask(server: &Harness, key: &str, number: usize) -> Reply {
    let content = format!("remind me to call number {number}");
    let body = json!({"model": "support", "max_tokens": 6, "messages": [{"role": "user", "content": content}]});
    server.post_as(key, "/v1/chat/completions", &merged(chat_body(), &body), &[]).await
}

/// What the tenant has used, by the API.
async fn used(server: &Harness) -> Value {
    let path = format!("/v1/organization/usage/completions?start_time={}&project_ids[]=acme", unix_now() - 86_400);
    server.get(&path).await.json()["data"].clone()
}

#[tokio::test]
async fn silent_answers_cost_the_tenant_nothing_and_can_be_read_side_by_side() {
    let server = deployed().await;
    let key = server.key_of("acme").await;
    // Ten at once, one more a minute, one at a time.
    let limit = "INSERT INTO limits (scope, subject, model, requests_per_minute, burst, concurrent_requests, version) \
                 VALUES ('project', 'acme', '*', 1, 10, 1, 1)";
    server.policy(limit).await;
    let spec = |shadow: Value| json!({"arms": [{"name": "stable", "model": "support@1", "weight": 100}], "shadow": shadow});
    let put = async |shadow: Value| server.call(Method::PUT, "/admin/deployments/support", Some(&spec(shadow)), KEY, &[]).await;
    put(json!({"model": "support@2", "percent": 100})).await;
    let pairs = async || server.get("/admin/deployments/support/shadow").await.json()["data"].as_array().unwrap().clone();
    let mut texts = Vec::new();
    for number in 0..4 {
        let reply = ask(&server, &key, number).await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
        assert_eq!(reply.headers["x-ratelimit-remaining-requests"].to_str().unwrap(), (9 - number).to_string());
        texts.push(reply.json()["choices"][0]["message"]["content"].clone());
        let began = Instant::now();
        while pairs().await.len() <= number {
            assert!(began.elapsed() < Duration::from_secs(20), "no silent answer came");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // The newest first; the texts are those that were given, and others.
    let rows = pairs().await;
    for (row, text) in rows.iter().rev().zip(&texts) {
        assert_eq!((&row["text"], &row["arm"], &row["project_id"]), (text, &json!("stable"), &json!("acme")));
        assert!(row["shadow_version"].as_str().unwrap().starts_with("support@2+") && row["error"].is_null(), "{row}");
        assert!(row["shadow_tokens"].as_i64().unwrap() > 0 && row["prompt_digest"].as_str().unwrap().len() == 64);
    }
    assert!(rows.iter().any(|row| row["text"] != row["shadow_text"]), "{rows:?}");
    let export = server.get("/admin/usage/export?format=jsonl&start_time=0").await.text;
    assert_eq!(export.lines().count(), 4, "a row for each answer that was asked for, none for the others: {export}");
    let with = used(&server).await;

    // A tenant without shadow traffic gets the same answers and has used as much.
    let plain = deployed().await;
    let key = plain.key_of("acme").await;
    for (number, text) in texts.iter().enumerate() {
        assert_eq!(ask(&plain, &key, number).await.json()["choices"][0]["message"]["content"], *text);
    }
    assert_eq!(sums(&used(&plain).await), sums(&with));
}

/// Both answers are written down alike, whatever they are read from.
#[tokio::test]
async fn calls_of_functions_are_compared_as_calls() {
    let model = SeededOptions { context: 2048, ..SeededOptions::default() };
    let server = deployed_with(Options { model, ..Options::default() }).await;
    let arms = json!([{"name": "stable", "model": "support@1", "weight": 100}]);
    let spec = json!({"arms": arms, "shadow": {"model": "support@2", "percent": 100}});
    server.call(Method::PUT, "/admin/deployments/support", Some(&spec), KEY, &[]).await;
    let parameters = json!({"type": "object", "additionalProperties": false, "properties": {"a": {"type": "boolean"}}});
    let tool = json!({"type": "function", "function": {"name": "save", "parameters": parameters}});
    let asked = json!({"model": "support", "tools": [tool], "tool_choice": "required", "parallel_tool_calls": false,
                       "max_tokens": 200});
    let answer = server.chat(&asked).await;
    let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    let began = Instant::now();
    let row = loop {
        let rows = server.get("/admin/deployments/support/shadow").await.json();
        match rows["data"].as_array().unwrap().first() {
            Some(row) => break row.clone(),
            None => assert!(began.elapsed() < Duration::from_secs(20), "no silent answer came"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(row["text"], format!("[save]{}", call["arguments"].as_str().unwrap()));
    let silent = row["shadow_text"].as_str().unwrap();
    let arguments = silent.strip_prefix("[save]").unwrap_or_else(|| panic!("{row}"));
    assert!(serde_json::from_str::<Value>(arguments).unwrap().is_object(), "{row}");
}

/// The numbers of a usage page, without its times.
fn sums(page: &Value) -> Vec<Value> {
    let results = page.as_array().unwrap().iter().flat_map(|bucket| bucket["results"].as_array().unwrap());
    results.cloned().collect()
}

#[tokio::test]
async fn a_shadow_stage_comes_before_the_first_step_and_keeps_to_its_budget() {
    let server = deployed().await;
    let shadow = json!({"percent": 100, "min_samples": 1, "max_tokens_per_day": 90});
    let rollout = begin(&server, json!({"shadow": shadow})).await;
    assert_eq!((&rollout["state"], &rollout["step"]), (&json!("inconclusive"), &json!(0)));
    assert_eq!(arms(&server).await, [arm("stable", "support@1", 100.0)]);
    let pairs =
        async || server.get("/admin/deployments/support/shadow?model=support@2").await.json()["data"].as_array().unwrap().len();
    ask(&server, KEY, 1).await;
    let began = Instant::now();
    while pairs().await == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "no silent answer came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The budget has room for one answer.
    for number in 2..5 {
        ask(&server, KEY, number).await;
    }
    server.idle().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(pairs().await, 1);
    let rollout = look(&server, &rollout).await;
    assert_eq!((&rollout["step"], &rollout["weight"]), (&json!(1), &json!(10)), "{rollout}");
    assert!(server.get("/admin/deployments/support").await.json()["shadow"].is_null());
}
