//! The response cache, as clients meet it.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::{BASE, Harness, Reply, chat_body, merged};

const CHAT: &str = "/v1/chat/completions";
const ALLOW: &[(&str, &str)] = &[("x-response-cache", "allow")];

fn cache(reply: &Reply) -> &str {
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    reply.headers["x-cache"].to_str().unwrap()
}

/// What does not depend on when it was answered.
fn answer(reply: &Reply) -> Value {
    reply.json()["choices"].clone()
}

#[tokio::test]
async fn an_answer_that_is_a_function_of_its_request_is_given_again() {
    let server = Harness::new().await;
    let key = server.key_of("acme").await;
    let ask =
        async |more: Value, headers: &[(&str, &str)]| server.post_as(&key, CHAT, &merged(chat_body(), &more), headers).await;
    assert_eq!(cache(&ask(json!({}), &[]).await), "bypass", "nobody asked for it");
    let first = ask(json!({}), ALLOW).await;
    assert_eq!(cache(&first), "miss");
    let again = ask(json!({}), ALLOW).await;
    assert_eq!((cache(&again), answer(&again)), ("hit", answer(&first)));
    assert_ne!(again.json()["id"], first.json()["id"], "it is another answer");
    let usage = &again.json()["usage"];
    assert_eq!(usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]);
    // As a stream, too, with the same text and reason.
    let streamed = ask(json!({"stream": true, "stream_options": {"include_usage": true}}), ALLOW).await;
    assert_eq!(cache(&streamed), "hit");
    let events = streamed.events();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, first.json()["choices"][0]["message"]["content"].as_str().unwrap());
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], first.json()["usage"]["completion_tokens"]);
    assert_eq!(cache(&ask(json!({}), &[("x-response-cache", "bypass")]).await), "bypass");
    // What is drawn anew each time is not kept; with a seed it is.
    assert_eq!(cache(&ask(json!({"temperature": 1}), ALLOW).await), "bypass");
    assert_eq!(cache(&ask(json!({"temperature": 1, "seed": 5}), ALLOW).await), "miss");
    assert_eq!(cache(&ask(json!({"temperature": 1, "seed": 5}), ALLOW).await), "hit");
    for more in [
        json!({"temperature": 1, "seed": 6}),
        json!({"max_tokens": 5}),
        json!({"stop": "zz"}),
        json!({"logprobs": true}),
        json!({"n": 2}),
        json!({"logit_bias": {"65": 1}}),
        json!({"presence_penalty": 0.5}),
        json!({"messages": [{"role": "user", "content": "else"}]}),
    ] {
        assert_eq!(cache(&ask(more.clone(), ALLOW).await), "miss", "{more}");
    }
    let wrong = ask(json!({}), &[("x-response-cache", "yes")]).await;
    assert_eq!(wrong.error().3, json!("x-response-cache"));
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_requests_at_the_same_time_share_one_generation() {
    let server = Harness::new().await;
    let key = server.key_of("acme").await;
    let body = merged(chat_body(), &json!({"max_tokens": 60, "ignore_eos": true}));
    let replies = join_all((0..12).map(|_| server.post_as(&key, CHAT, &body, ALLOW))).await;
    let misses = replies.iter().filter(|reply| cache(reply) == "miss").count();
    assert_eq!((misses, server.engine.stats().completed), (1, 1));
    assert!(replies.iter().all(|reply| answer(reply) == answer(&replies[0])));
}

#[tokio::test]
async fn nobody_gets_anothers_answer_nor_learns_that_there_is_one() {
    let server = Harness::new().await;
    let (a, b) = (server.key_of("acme").await, server.key_of("other").await);
    let colleague = server.key_of("acme").await;
    assert_eq!(cache(&server.post_as(&a, CHAT, &chat_body(), ALLOW).await), "miss");
    assert_eq!(cache(&server.post_as(&b, CHAT, &chat_body(), ALLOW).await), "miss");
    assert_eq!(server.engine.stats().completed, 2, "it was computed anew, not waited for");
    assert_eq!(cache(&server.post_as(&colleague, CHAT, &chat_body(), ALLOW).await), "hit");
}

#[tokio::test]
async fn the_cache_is_emptied_by_tenant_by_model_or_whole() {
    let server = Harness::new().await;
    let (a, b) = (server.key_of("acme").await, server.key_of("other").await);
    let ask = async |key: &str| cache(&server.post_as(key, CHAT, &chat_body(), ALLOW).await).to_owned();
    assert_eq!([ask(&a).await, ask(&b).await, ask(&a).await, ask(&b).await], ["miss", "miss", "hit", "hit"]);
    server.ok("/admin/cache/purge", &json!({"project_id": "acme"})).await;
    assert_eq!([ask(&a).await, ask(&b).await], ["miss", "hit"]);
    server.ok("/admin/cache/purge", &json!({"model": "base"})).await;
    assert_eq!([ask(&a).await, ask(&b).await], ["miss", "miss"]);
    server.ok("/admin/cache/purge", &json!({})).await;
    assert_eq!(ask(&a).await, "miss");
    let both = server.post("/admin/cache/purge", &json!({"model": "base", "project_id": "acme"})).await;
    assert_eq!(both.error().2, json!("invalid_parameter_combination"));
    assert_eq!(server.post_as(&a, "/admin/cache/purge", &json!({}), &[]).await.status.as_u16(), 403);
    let audit = server.get("/v1/organization/audit_logs").await;
    assert!(audit.text.contains("response_cache.purged"), "{}", audit.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_with_the_same_idempotency_key_is_answered_and_billed_once() {
    let server = Harness::new().await;
    let (a, b) = (server.key_of("acme").await, server.key_of("other").await);
    let body = merged(chat_body(), &json!({"temperature": 1}));
    let ask = async |key: &str, body: &Value, name: &str| server.post_as(key, CHAT, body, &[("idempotency-key", name)]).await;
    let replayed = |reply: &Reply| reply.headers.contains_key("idempotent-replayed");
    let first = ask(&a, &body, "one").await;
    assert_eq!((first.status.as_u16(), replayed(&first)), (200, false), "{}", first.text);
    let again = ask(&a, &body, "one").await;
    assert_eq!((again.text == first.text, replayed(&again)), (true, true));
    assert_eq!(again.headers["x-adapter-version"], first.headers["x-adapter-version"]);
    let other = ask(&a, &chat_body(), "one").await;
    assert_eq!((other.error().0, other.error().2), (409, json!("idempotency_key_reused")));
    assert!(!replayed(&ask(&b, &body, "one").await), "another tenant's keys are its own");
    let stream = merged(body.clone(), &json!({"stream": true}));
    let first_stream = ask(&a, &stream, "two").await;
    let again = ask(&a, &stream, "two").await;
    assert_eq!((again.text == first_stream.text, replayed(&again)), (true, true));
    assert!(again.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    // What was refused is not kept.
    let wrong = merged(chat_body(), &json!({"model": "nothing"}));
    assert_eq!(ask(&a, &wrong, "three").await.status.as_u16(), 404);
    while ask(&a, &body, "three").await.status.as_u16() == 409 {}
    assert_eq!(ask(&a, &body, "").await.error().3, json!("Idempotency-Key"));
    server.tenants.ledger().flush().await;
    let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM ledger").fetch_one(server.tenants.database().pool()).await.unwrap();
    assert_eq!(rows, 4);
    let kept: Vec<(String,)> = sqlx::query_as("SELECT body FROM idempotency WHERE body IS NOT NULL")
        .fetch_all(server.tenants.database().pool())
        .await
        .unwrap();
    assert!(kept.len() == 4 && kept.iter().all(|(body,)| !body.contains("choices")), "answers are kept encrypted");
}

#[tokio::test]
async fn a_replaced_version_takes_its_answers_along() {
    let server = Harness::new().await;
    let key = server.key_of("acme").await;
    server.load("support", 1).await;
    let body = merged(chat_body(), &json!({"model": "support"}));
    let first = server.post_as(&key, CHAT, &body, ALLOW).await;
    assert_eq!((cache(&first), cache(&server.post_as(&key, CHAT, &body, ALLOW).await)), ("miss", "hit"));
    server.load("support", 2).await;
    let second = server.post_as(&key, CHAT, &body, ALLOW).await;
    assert_eq!(cache(&second), "miss");
    assert_ne!(answer(&first), answer(&second));
    let old = merged(chat_body(), &json!({"model": "support@1"}));
    let again = server.post_as(&key, CHAT, &old, ALLOW).await;
    assert_eq!((cache(&again), answer(&again)), ("miss", answer(&first)), "dropped, not only forgotten by name");
}

#[tokio::test]
async fn a_cached_answer_costs_its_prompt_at_the_cached_price_and_takes_no_tokens_of_a_limit() {
    let server = Harness::new().await;
    let key = server.key_of("acme").await;
    server
        .policy(
            "INSERT INTO prices (id, project_id, model, valid_from, input_nanos, cached_input_nanos, output_nanos, training_nanos, \
             created_at) VALUES ('price_1', '*', '*', 0, 4000000, 1000000, 9000000, 0, 0)",
        )
        .await;
    server
        .policy("INSERT INTO limits (scope, subject, model, tokens_per_minute, version) VALUES ('project', 'acme', '*', 100, 1)")
        .await;
    let body = json!({"model": BASE, "prompt": [65, 66, 67], "max_tokens": 37, "temperature": 0, "ignore_eos": true});
    let ask =
        async || server.post_as(&key, "/v1/completions", &body, &[("x-response-cache", "allow"), ("x-show-cost", "true")]).await;
    let cost = |reply: &Reply| reply.headers["x-cost-usd"].to_str().unwrap().to_owned();
    let first = ask().await;
    assert_eq!((cache(&first), cost(&first)), ("miss", "0.000000345".to_owned()));
    for _ in 0..10 {
        let again = ask().await;
        assert_eq!((cache(&again), cost(&again)), ("hit", "0.000000003".to_owned()));
    }
}
