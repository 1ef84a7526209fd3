//! What is learnt from deployments: outcomes, feedback, results.

use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{Harness, KEY, Reply, chat_body, merged};

const RESULTS: &str = "/admin/deployments/support/results";

async fn deployed(experiment: Value) -> Harness {
    let server = Harness::new().await;
    server.load("support", 1).await;
    server.load("support", 2).await;
    let arms = json!([
        {"name": "stable", "model": "support@1", "weight": 50}, {"name": "canary", "model": "support@2", "weight": 50},
    ]);
    let body = json!({"name": "support", "arms": arms, "experiment": experiment});
    let made = server.call(Method::POST, "/admin/deployments", Some(&body), KEY, &[]).await;
    assert_eq!(made.status.as_u16(), 200, "{}", made.text);
    server
}

/// Asks as somebody; the arm that answered and the request's id.
async fn ask(server: &Harness, unit: &str, headers: &[(&str, &str)]) -> (String, String) {
    let body = merged(chat_body(), &json!({"model": "support", "max_tokens": 2}));
    let headers: Vec<_> = headers.iter().copied().chain([("x-experiment-unit", unit)]).collect();
    let reply = server.post_as(KEY, "/v1/chat/completions", &body, &headers).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    let header = |name: &str| reply.headers[name].to_str().unwrap().to_owned();
    (header("x-experiment-arm"), header("x-request-id"))
}

async fn say(server: &Harness, key: &str, body: Value) -> Reply {
    server.post_as(key, "/v1/feedback", &body, &[]).await
}

async fn results(server: &Harness, query: &str) -> Value {
    let reply = server.call(Method::GET, &format!("{RESULTS}{query}"), None, KEY, &[]).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    reply.json()
}

fn metric<'a>(results: &'a Value, arm: &str, metric: &str) -> &'a Value {
    let by = |list: &'a Value, field: &str, name: &str| list.as_array().unwrap().iter().find(|item| item[field] == name);
    by(&by(&results["arms"], "name", arm).unwrap()["metrics"], "metric", metric).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn answers_and_what_is_said_of_them_are_found_in_the_results() {
    let goal = json!({"control": "stable", "goal": {"metric": "thumbs", "samples": 50}, "min_samples": 3});
    let server = deployed(goal).await;
    let mut counted = [0, 0];
    for unit in 0..24 {
        let (arm, request) = ask(&server, &unit.to_string(), &[]).await;
        counted[usize::from(arm == "canary")] += 1;
        let thumbs = if arm == "canary" { "up" } else { "down" };
        // What is said twice is counted once, what is said last is kept.
        for thumbs in ["down", thumbs, thumbs] {
            let said =
                say(&server, KEY, json!({"request_id": request, "thumbs": thumbs, "metric": "resolved", "value": 3})).await;
            assert_eq!(said.status.as_u16(), 200, "{}", said.text);
            assert_eq!(said.json()["kept"], json!(["thumbs", "feedback:resolved"]));
        }
        if unit == 0 {
            say(&server, KEY, json!({"request_id": request, "correction": "better"})).await;
        }
    }
    // A pinned request is not part of the experiment.
    let (arm, _) = ask(&server, "x", &[("x-experiment-arm", "canary")]).await;
    assert_eq!(arm, "canary");
    let results = results(&server, "").await;
    for (arm, (count, mean)) in ["stable", "canary"].iter().zip(counted.into_iter().zip([0.0, 1.0])) {
        assert!(count > 2, "{counted:?}");
        assert_eq!(metric(&results, arm, "errors")["n"], count, "{results}");
        assert_eq!(metric(&results, arm, "thumbs")["n"], count);
        assert_eq!(metric(&results, arm, "thumbs")["mean"], mean);
        assert_eq!(metric(&results, arm, "feedback:resolved")["mean"], 3.0);
        assert_eq!(metric(&results, arm, "output_tokens")["arithmetic_mean"], 2.0);
        assert!(metric(&results, arm, "first_token_ms")["mean"].as_f64().unwrap() > 0.0);
        assert_eq!(metric(&results, arm, "corrections")["n"], count);
    }
    let corrected = ["stable", "canary"].map(|arm| metric(&results, arm, "corrections")["arithmetic_mean"].as_f64().unwrap());
    assert!(corrected[0] + corrected[1] > 0.0);
    assert_eq!(results["current"], true);
    assert_eq!(results["arms"][1]["model"], "support@2");
    assert_eq!(results["arms"][1]["verdict"]["standing"], "undecided", "{results}");
    assert!(results["arms"][1]["verdict"]["why"].as_str().unwrap().contains("thumbs"), "{results}");
    assert_eq!(results["split"]["even"], true);
    let units: f64 = results["split"]["arms"].as_array().unwrap().iter().map(|arm| arm["observed"].as_f64().unwrap()).sum();
    assert_eq!(units, 24.0);
    // The same comparison goes on under other weights, another one begins with other models, and the old one stays readable.
    let experiment = results["experiment_id"].as_str().unwrap().to_owned();
    let weights = json!({"weights": {"stable": 100, "canary": 0}});
    server.call(Method::POST, "/admin/deployments/support/weights", Some(&weights), KEY, &[]).await;
    ask(&server, "y", &[]).await;
    let later = self::results(&server, "").await;
    assert_eq!((later["experiment_id"].as_str(), later["revision"].as_i64()), (Some(experiment.as_str()), Some(2)));
    assert_eq!(metric(&later, "stable", "errors")["n"], counted[0] + 1);
    let single = json!({"arms": [{"name": "stable", "model": "support@2", "weight": 100}]});
    server.call(Method::PUT, "/admin/deployments/support", Some(&single), KEY, &[]).await;
    let now = self::results(&server, "").await;
    assert_ne!(now["experiment_id"], later["experiment_id"]);
    assert_eq!(now["arms"].as_array().unwrap().len(), 1);
    let then = self::results(&server, &format!("?experiment={experiment}")).await;
    assert_eq!((then["current"].as_bool(), metric(&then, "canary", "errors")["n"].as_i64()), (Some(false), Some(counted[1])));
    let reply = server.call(Method::GET, &format!("{RESULTS}?experiment=exp_x"), None, KEY, &[]).await;
    assert_eq!((reply.status.as_u16(), reply.json()["error"]["code"].as_str()), (404, Some("experiment_not_found")));
}

#[tokio::test]
async fn feedback_is_taken_for_ones_own_answers_only() {
    let server = deployed(Value::Null).await;
    let (_, request) = ask(&server, "a", &[]).await;
    let stranger = server.key_of("stranger").await;
    for (key, id) in [(stranger.as_str(), request.as_str()), (KEY, "req_0")] {
        let reply = say(&server, key, json!({"request_id": id, "thumbs": "up"})).await;
        assert_eq!(reply.status.as_u16(), 404, "{}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!((&error["code"], &error["param"]), (&json!("request_not_found"), &json!("request_id")));
    }
    let reply = say(&server, KEY, json!({"request_id": request, "thumb": "up"})).await;
    assert_eq!(reply.status.as_u16(), 400, "{}", reply.text);
    // Answers outside deployments can be spoken of, too.
    let plain = server.post_as(KEY, "/v1/chat/completions", &chat_body(), &[("x-request-id", "mine-1")]).await;
    assert_eq!(plain.status.as_u16(), 200);
    server.tenants.ledger().flush().await;
    assert_eq!(say(&server, KEY, json!({"request_id": "mine-1", "score": 0.5})).await.status.as_u16(), 200);
    assert_eq!(say(&server, &stranger, json!({"request_id": "mine-1", "score": 0.5})).await.status.as_u16(), 404);
}
