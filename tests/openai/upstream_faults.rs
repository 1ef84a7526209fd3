//! Other servers that answer oddly, or are asked oddly: what counts, what is charged, and whether they are asked again.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use switchyard::gateway::{Times, Tolerance, UpstreamConfig};
use switchyard::tenants::{Cap, Period};

use crate::misbehaving::{Act, Misbehaving, answer, chunks, done, refusal, usage};
use crate::support::{merged, request};
use crate::upstreams::{CHAT, body, harness, rows, upstream};

/// Left alone after one failure.
fn touchy(url: &str) -> UpstreamConfig {
    let mut config = upstream(url);
    config.remote.patience.retries = 0;
    config.remote.tolerance = Tolerance { failures: 1, pause: Duration::from_secs(60) };
    config
}

fn streamed() -> Value {
    merged(body(), &json!({"stream": true}))
}

#[tokio::test]
async fn two_caps_for_one_answer_are_refused() {
    let them = Misbehaving::new(vec![answer("x")]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    let reply = harness.post(CHAT, &merged(body(), &json!({"max_completion_tokens": 1, "max_tokens": 32_000}))).await;
    let (status, _, code, param) = reply.error();
    assert_eq!((status, code, param), (400, json!("invalid_parameter_combination"), json!("max_tokens")));
    assert!(them.got().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn events_that_are_none_end_a_stream_with_an_error() {
    let first = chunks(&["hel"]).remove(0);
    let odd = ["[]", "1", "{\"choices\": [1]}", "{\"choices\": {}}", "{\"object\": \"error\", \"message\": \"we fell over\"}"];
    let kind = "{\"choices\": []}\n\nevent: error\ndata: {\"message\": \"we fell over\"}";
    for odd in odd.into_iter().chain([kind]) {
        let them = Misbehaving::new(vec![Act::Events(done(vec![first.clone(), odd.to_owned()]))]).await;
        let harness = harness(vec![upstream(&them.url)]).await;
        let events = harness.events(CHAT, body()).await;
        assert_eq!(events[0]["choices"][0]["delta"]["content"], "hel");
        assert_eq!(events.last().unwrap()["error"]["code"], "upstream_failed", "{odd}: {events:?}");
        assert_eq!(rows(&harness, 1).await[0].outcome, "failed");
    }
}

#[tokio::test]
async fn a_stream_that_ends_before_its_answers_is_broken_off() {
    let mut half = chunks(&["hel", "lo"]);
    half.pop();
    let them = Misbehaving::new(vec![Act::Events(done(half)), Act::Events(done(chunks(&["one of two"])))]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    for n in [1, 2] {
        let events = harness.events(CHAT, merged(body(), &json!({"n": n}))).await;
        assert_eq!(events.last().unwrap()["error"]["code"], "upstream_failed", "{events:?}");
    }
    let rows = rows(&harness, 2).await;
    assert!(rows.iter().all(|row| row.outcome == "failed" && row.cost_nanos == 0), "{rows:?}");
}

#[tokio::test]
async fn whole_streams_without_their_last_event_are_no_failures() {
    let them = Misbehaving::new(vec![Act::Events(chunks(&["hello"]))]).await;
    let harness = harness(vec![touchy(&them.url)]).await;
    for _ in 0..2 {
        let events = harness.events(CHAT, body()).await;
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop", "{events:?}");
    }
    assert!(harness.get("/metrics").await.text.contains("switchyard_upstream_breaker{upstream=\"big\"} 0"));
}

#[tokio::test]
async fn what_is_too_large_is_asked_for_once_and_no_failure() {
    const MIB: usize = 1 << 20;
    let whole = json!({"choices": [{"index": 0, "message": {"content": "x".repeat(17 * MIB)}}]}).to_string();
    // A stream may come to as much, not an event of it.
    let mut long = chunks(&vec!["x".repeat(2 * MIB); 9].iter().map(String::as_str).collect::<Vec<_>>());
    long.push(usage());
    let event = chunks(&["x".repeat(17 * MIB).as_str()]);
    let them = Misbehaving::new(vec![Act::Whole(200, "", whole), Act::Events(done(long)), Act::Events(event)]).await;
    let mut config = touchy(&them.url);
    config.remote.patience.retries = 2;
    let harness = harness(vec![config]).await;
    assert_eq!(harness.post(CHAT, &body()).await.error().2, json!("upstream_failed"));
    assert_eq!(harness.events(CHAT, body()).await.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert_eq!(harness.post(CHAT, &streamed()).await.error().2, json!("upstream_failed"));
    assert_eq!(them.got().len(), 3, "not asked again, and not left alone");
}

#[tokio::test]
async fn refusals_that_repeat_a_callers_text_teach_nothing() {
    let echo = "bad tool 'stream_options max_completion_tokens'";
    let acts = vec![refusal(400, "", echo), refusal(400, "", echo), refusal(400, "", echo), Act::Events(done(chunks(&["ok"])))];
    let them = Misbehaving::new(acts).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    assert_eq!(harness.post(CHAT, &streamed()).await.error().2, json!("upstream_refused"));
    harness.events(CHAT, body()).await;
    let last = them.got().remove(3).body;
    assert_eq!((&last["stream_options"]["include_usage"], &last["max_tokens"]), (&json!(true), &json!(24)), "asked as ever");
}

#[tokio::test]
async fn what_a_server_may_bill_counts_against_its_cap() {
    let them = Misbehaving::new(vec![Act::Silence]).await;
    let short = Duration::from_millis(200);
    // The prompt is 9,000; the most that a request can cost 75,000.
    let mut config = UpstreamConfig { cap: Some(Cap { period: Period::Day, nanos: 80_000 }), ..upstream(&them.url) };
    config.remote.times = Times { first_event: short, whole: short, ..config.remote.times };
    let first = harness(vec![config]).await;
    assert_eq!(first.post(CHAT, &body()).await.error().2, json!("upstream_timeout"));
    assert_eq!(first.post(CHAT, &body()).await.error().2, json!("upstream_spent"), "it may have made an answer");
    let row = rows(&first, 1).await.remove(0);
    assert_eq!((row.outcome.as_str(), row.input_tokens, row.output_tokens, row.cost_nanos), ("failed", 9, 0, 0));

    // Whoever leaves before anything came, but after it was asked.
    let them = Misbehaving::new(vec![Act::Silence]).await;
    let second = harness(vec![upstream(&them.url)]).await;
    let asked = async {
        while them.got().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = second.open(request(Method::POST, CHAT, Body::from(body().to_string()))) => panic!("it said something"),
        () = asked => {}
    }
    let row = rows(&second, 1).await.remove(0);
    assert_eq!((row.outcome.as_str(), row.input_tokens, row.cost_nanos), ("cancelled", 9, 9_000));
}

#[tokio::test]
async fn what_it_took_is_charged_even_where_less_was_borrowed() {
    let them = Misbehaving::new(vec![answer("x")]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    // 27 tokens of prompt and one of answer are borrowed; it took 20 and 10.
    harness.ok(CHAT, &merged(body(), &json!({"max_tokens": 1}))).await;
    assert_eq!(rows(&harness, 1).await[0].cost_nanos, 40_000);
}

#[tokio::test]
async fn a_price_of_the_book_counts_from_its_first_day() {
    let them = Misbehaving::new(vec![answer("x")]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    let row = async |sql| {
        harness.policy(sql).await;
        harness.ok(CHAT, &body()).await;
    };
    row("INSERT INTO prices (id, project_id, model, valid_from, input_nanos, cached_input_nanos, output_nanos, training_nanos, \
         created_at) VALUES ('later', '*', 'big', 9000000000, 1, 1, 1, 0, 1)")
    .await;
    row("INSERT INTO prices (id, project_id, model, valid_from, input_nanos, cached_input_nanos, output_nanos, training_nanos, \
         created_at) VALUES ('now', '*', 'big', 1, 100000000, 100000000, 100000000, 0, 1)")
    .await;
    let charged: Vec<_> = rows(&harness, 2).await.into_iter().map(|row| (row.price_id.unwrap(), row.cost_nanos)).collect();
    assert_eq!(charged, [("upstream/big".to_owned(), 40_000), ("now".to_owned(), 3_000)]);
}

#[tokio::test]
async fn good_statuses_without_an_answer_are_asked_again_and_failures() {
    let error = json!({"error": {"message": "busy"}, "choices": [{"index": 0}]}).to_string();
    let acts = vec![Act::Whole(200, "", "{}".to_owned()), Act::Whole(200, "", error), answer("at last")];
    let them = Misbehaving::new(acts.clone()).await;
    let first = harness(vec![upstream(&them.url)]).await;
    assert_eq!(first.ok(CHAT, &body()).await["choices"][0]["message"]["content"], "at last");
    let them = Misbehaving::new(acts).await;
    let second = harness(vec![touchy(&them.url)]).await;
    assert_eq!(second.post(CHAT, &body()).await.error().2, json!("upstream_failed"));
    assert_eq!(second.post(CHAT, &body()).await.error().2, json!("upstream_unavailable"));
}

#[tokio::test]
async fn nobody_waits_for_a_long_answer_of_one_that_looks() {
    let them = Misbehaving::new(vec![refusal(500, "", "oh"), Act::Silence, answer("x")]).await;
    let mut config = touchy(&them.url);
    config.remote.tolerance.pause = Duration::from_millis(1);
    config.remote.times.first_event = Duration::from_millis(50);
    let harness = harness(vec![config]).await;
    assert_eq!(harness.post(CHAT, &body()).await.status, StatusCode::BAD_GATEWAY);
    let rest = async {
        while them.got().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Soon the next one may look.
        while harness.post(CHAT, &body()).await.status != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // As long as the answer that does not come may take.
    let looking = async { while harness.post(CHAT, &body()).await.error().2 == json!("upstream_unavailable") {} };
    tokio::select! {
        () = looking => panic!("the others have waited for it"),
        () = rest => {}
    }
}
