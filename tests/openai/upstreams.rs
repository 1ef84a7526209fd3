//! Models that are other servers: what is passed on, what is counted, and what becomes of requests when the server misbehaves.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use futures::StreamExt;
use serde_json::{Value, json};
use switchyard::gateway::{Endpoint, Key, Patience, RemoteSettings, Times, Tolerance, UpstreamConfig};
use switchyard::outbound::Address;
use switchyard::store::ledger::LedgerRow;
use switchyard::tenants::{Cap, Period, Price};

use crate::misbehaving::{Act, Misbehaving, answer, chunks, done, refusal, usage};
use crate::support::{BASE, Harness, KEY, Options, merged, request};

pub const CHAT: &str = "/v1/chat/completions";
const SECRET: &str = "sk-their-secret";

/// An upstream `big` that loses no time.
pub fn upstream(url: &str) -> UpstreamConfig {
    let millis = Duration::from_millis;
    let seconds = Duration::from_secs;
    UpstreamConfig {
        remote: RemoteSettings {
            name: "big".to_owned(),
            address: url.parse::<Address>().unwrap(),
            model: "their-model".to_owned(),
            key: Some(Key::new(SECRET)),
            times: Times { connect: seconds(5), first_event: seconds(20), between_events: seconds(20), whole: seconds(30) },
            patience: Patience { retries: 2, first_wait: millis(1) },
            longest_wait: seconds(1),
            at_once: 4,
            tolerance: Tolerance { failures: 100, pause: seconds(60) },
        },
        price: Some(Price {
            id: "upstream/big".into(),
            valid_from: 0,
            input: 1_000_000_000,
            cached_input: 100_000_000,
            output: 2_000_000_000,
            training: 0,
        }),
        cap: None,
        tenants: None,
        endpoints: Endpoint::ALL.to_vec(),
        parameters: Vec::new(),
        refuses: Vec::new(),
        context: Some(8_192),
    }
}

pub async fn harness(upstreams: Vec<UpstreamConfig>) -> Harness {
    Harness::with(Options { upstreams, ..Options::default() }).await
}

pub fn body() -> Value {
    json!({"model": "big", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 24})
}

/// The rows of the ledger, once there are so many.
pub async fn rows(harness: &Harness, count: usize) -> Vec<LedgerRow> {
    for _ in 0..2_000 {
        let sql =
            "SELECT model, version, input_tokens, output_tokens, cost_nanos, outcome, endpoint, price_id FROM ledger ORDER BY id";
        let rows = sqlx::query_as::<_, (String, String, i64, i64, i64, String, String, Option<String>)>(sql);
        let rows = rows.fetch_all(harness.tenants.database().pool()).await.unwrap();
        if rows.len() >= count {
            let row = |(model, version, input_tokens, output_tokens, cost_nanos, outcome, endpoint, price_id)| LedgerRow {
                model,
                version,
                input_tokens,
                output_tokens,
                cost_nanos,
                outcome,
                endpoint,
                price_id,
                ..LedgerRow::default()
            };
            return rows.into_iter().map(row).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("there are no {count} rows");
}

/// Nothing is left of what was borrowed: a tenant with one place can ask again.
async fn outcomes(harness: &Harness, count: usize) -> Vec<String> {
    let rows = rows(harness, count).await;
    assert_eq!(rows.len(), count, "each request once: {rows:?}");
    rows.into_iter().map(|row| row.outcome).collect()
}

#[tokio::test]
async fn a_whole_answer_is_passed_on_counted_and_charged() {
    let them = Misbehaving::new(vec![answer("hello there")]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    let more = json!({"logprobs": true, "reasoning_effort": "low", "user": "u1", "stream": false});
    let reply = harness.call(Method::POST, CHAT, Some(&merged(body(), &more)), KEY, &[("x-show-cost", "true")]).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.headers["x-adapter-version"], "upstream/big");
    assert_eq!(reply.headers["x-cost-usd"], "0.000040000", "20 at 1 dollar and 10 at 2 dollars for a million");
    let said = reply.json();
    assert_eq!((&said["model"], &said["choices"][0]["message"]["content"]), (&json!("big"), &json!("hello there")));
    assert_eq!((&said["usage"]["total_tokens"], &said["object"]), (&json!(30), &json!("chat.completion")));
    assert!(!reply.text.contains("their") && !reply.text.contains("them"), "nothing about them: {}", reply.text);
    let got = them.got().remove(0);
    assert_eq!((got.path.as_str(), &got.body["model"]), ("/v1/chat/completions", &json!("their-model")));
    assert_eq!((&got.body["reasoning_effort"], &got.body["logprobs"]), (&json!("low"), &json!(true)), "OpenAI's are passed on");
    assert!(got.head.contains(&format!("authorization: Bearer {SECRET}")) && got.body.get("stream").is_none());
    let row = rows(&harness, 1).await.remove(0);
    assert_eq!((row.model.as_str(), row.version.as_str(), row.endpoint.as_str()), ("big", "upstream/big", "chat.completions"));
    assert_eq!((row.input_tokens, row.output_tokens, row.cost_nanos), (20, 10, 40_000));
    assert_eq!((row.outcome.as_str(), row.price_id.as_deref()), ("stop", Some("upstream/big")));
    let models = harness.get("/v1/models").await.json();
    let card = models["data"].as_array().unwrap().iter().find(|card| card["id"] == "big").unwrap().clone();
    assert_eq!((&card["max_model_len"], &card["owned_by"]), (&json!(8_192), &json!("switchyard")));
    let metrics = harness.get("/metrics").await.text;
    assert!(metrics.contains("switchyard_upstream_requests_total{outcome=\"stop\",upstream=\"big\"} 1"), "{metrics}");
    assert!(metrics.contains("switchyard_upstream_breaker{upstream=\"big\"} 0"));
}

#[tokio::test]
async fn a_stream_is_passed_on_and_its_usage_is_for_those_who_asked() {
    let mut told = chunks(&["hel", "lo"]);
    told.push(usage());
    let them = Misbehaving::new(vec![Act::Events(done(told))]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    let events = harness.events(CHAT, body()).await;
    let text: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!((text.as_str(), &events[0]["model"]), ("hello", &json!("big")));
    assert!(events.iter().all(|event| event.get("usage").is_none() && event.get("system_fingerprint").is_none()), "{events:?}");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert_eq!(them.got()[0].body["stream_options"], json!({"include_usage": true}), "its own count is asked for");
    let with = harness.events(CHAT, merged(body(), &json!({"stream_options": {"include_usage": true}}))).await;
    assert_eq!(with.last().unwrap()["usage"]["completion_tokens"], 10);
    assert!(with[0]["usage"].is_null() && with.last().unwrap()["choices"] == json!([]));
    let rows = rows(&harness, 2).await;
    assert!(rows.iter().all(|row| (row.input_tokens, row.output_tokens, row.cost_nanos) == (20, 10, 40_000)), "{rows:?}");
}

#[tokio::test]
async fn where_nothing_is_said_about_the_usage_we_count() {
    let without = json!({"choices": [{"index": 0, "message": {"content": "abcdef"}, "finish_reason": "length"}]}).to_string();
    let them = Misbehaving::new(vec![Act::Whole(200, "", without), Act::Events(done(chunks(&["abc", "def"])))]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    let said = harness.ok(CHAT, &body()).await;
    // A token is a byte here; a message is counted with four for what stands around it.
    assert_eq!((&said["usage"]["prompt_tokens"], &said["usage"]["completion_tokens"]), (&json!(9), &json!(6)));
    harness.events(CHAT, body()).await;
    let rows = rows(&harness, 2).await;
    assert!(rows.iter().all(|row| (row.input_tokens, row.output_tokens) == (9, 6)), "{rows:?}");
    let mut outcomes: Vec<&str> = rows.iter().map(|row| row.outcome.as_str()).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["length", "stop"]);
}

#[tokio::test]
async fn completions_and_embeddings_are_passed_on_too() {
    let text = json!({"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}});
    let vector = json!({"data": [{"index": 0, "embedding": [1.0], "object": "embedding"}], "usage": {"prompt_tokens": 5, "total_tokens": 5}});
    let acts = vec![Act::Whole(200, "", text.to_string()), Act::Whole(200, "", vector.to_string())];
    let them = Misbehaving::new(acts).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    let said = harness.ok("/v1/completions", &json!({"model": "big", "prompt": "hello", "suffix": "!"})).await;
    assert_eq!((&said["choices"][0]["text"], &said["object"]), (&json!("x"), &json!("text_completion")));
    let said = harness.ok("/v1/embeddings", &json!({"model": "big", "input": ["hello"]})).await;
    assert_eq!((&said["data"][0]["embedding"], &said["usage"]["prompt_tokens"]), (&json!([1.0]), &json!(5)));
    let got = them.got();
    assert_eq!((got[0].path.as_str(), got[1].path.as_str()), ("/v1/completions", "/v1/embeddings"));
    assert_eq!(got[0].body["max_tokens"], 16, "OpenAI's default");
    assert_eq!(outcomes(&harness, 2).await, ["stop", "stop"]);
}

#[tokio::test]
async fn what_it_cannot_do_is_refused_by_name() {
    let them = Misbehaving::new(vec![Act::Close]).await;
    let config = UpstreamConfig { endpoints: vec![Endpoint::Chat], refuses: vec!["logprobs".to_owned()], ..upstream(&them.url) };
    let harness = harness(vec![config]).await;
    let refused = async |path: &str, body: Value| {
        let reply = harness.post(path, &body).await;
        let (status, _, code, param) = reply.error();
        assert_eq!(status, 400, "{}", reply.text);
        (code.as_str().unwrap_or_default().to_owned(), param.as_str().unwrap_or_default().to_owned())
    };
    let pair = |code: &str, param: &str| (code.to_owned(), param.to_owned());
    for name in ["top_k", "guided_json", "logprobs", "nonsense"] {
        assert_eq!(refused(CHAT, merged(body(), &json!({name: 1}))).await, pair("unsupported_parameter", name));
    }
    assert_eq!(refused("/v1/completions", json!({"model": "big", "prompt": "x"})).await, pair("model_not_supported", "model"));
    assert_eq!(refused("/v1/responses", json!({"model": "big", "input": "x"})).await, pair("model_not_supported", "model"));
    assert_eq!(refused("/tokenize", json!({"model": "big", "prompt": "x"})).await, pair("model_not_supported", "model"));
    assert_eq!(refused(CHAT, merged(body(), &json!({"n": 0}))).await, pair("value_out_of_range", "n"));
    assert_eq!(refused(CHAT, merged(body(), &json!({"max_tokens": "x"}))).await, pair("invalid_type", "max_tokens"));
    assert!(them.got().is_empty(), "nobody was asked");
    let path = harness.write_adapter("a", 1);
    let reply = harness.post("/v1/load_lora_adapter", &json!({"lora_name": "big", "lora_path": path})).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "the name is the upstream's: {}", reply.text);
}

#[tokio::test]
async fn only_those_who_may_can_see_it() {
    let them = Misbehaving::new(vec![answer("x")]).await;
    let harness = harness(vec![UpstreamConfig { tenants: Some(vec!["acme".to_owned()]), ..upstream(&them.url) }]).await;
    let (acme, other) = (harness.key_of("acme").await, harness.key_of("other").await);
    assert_eq!(harness.post_as(&acme, CHAT, &body(), &[]).await.status, StatusCode::OK);
    let reply = harness.post_as(&other, CHAT, &body(), &[]).await;
    assert_eq!((reply.status, reply.error().2), (StatusCode::NOT_FOUND, json!("model_not_found")));
    let listed = async |key: &str| harness.call(Method::GET, "/v1/models", None, key, &[]).await.text.contains("\"big\"");
    assert!(listed(&acme).await && !listed(&other).await);
    assert_eq!(harness.call(Method::GET, "/v1/models/big", None, &other, &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_server_that_is_busy_or_broken_is_asked_again_before_anything_was_given_on() {
    let half = Act::Half(json!({"choices": [{"index": 0, "message": {"content": "half"}}]}).to_string());
    let them = Misbehaving::new(vec![refusal(500, "", "oh"), half, answer("at last")]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    assert_eq!(harness.ok(CHAT, &body()).await["choices"][0]["message"]["content"], "at last");
    assert_eq!(them.got().len(), 3);
    // A stream too, as long as there was no event.
    let acts = vec![Act::Close, Act::Events(Vec::new()), Act::Events(done(chunks(&["ok"])))];
    let them = Misbehaving::new(acts).await;
    let harness = self::harness(vec![upstream(&them.url)]).await;
    assert_eq!(harness.events(CHAT, body()).await.len(), 2);
    assert_eq!(them.got().len(), 3);
    assert_eq!(outcomes(&harness, 1).await, ["stop"]);
}

#[tokio::test]
async fn faults_are_told_without_what_is_nobodys_business_and_nothing_is_charged() {
    let secrets = format!("wrong key {SECRET} for their-model");
    let cases = [
        (refusal(401, "", &secrets), 502, "upstream_failed"),
        (refusal(500, "", &secrets), 502, "upstream_failed"),
        (refusal(429, "retry-after: 7\r\n", &secrets), 503, "upstream_busy"),
        (refusal(400, "", &secrets), 400, "upstream_refused"),
        (refusal(400, "", "the maximum context length is 8 tokens"), 400, "context_length_exceeded"),
        (Act::Whole(200, "", "not json".to_owned()), 502, "upstream_failed"),
        (Act::Whole(200, "", "{}".to_owned()), 502, "upstream_failed"),
        (Act::Close, 502, "upstream_failed"),
    ];
    for (act, status, code) in cases {
        let them = Misbehaving::new(vec![act.clone()]).await;
        let harness = harness(vec![upstream(&them.url)]).await;
        for stream in [false, true] {
            let reply = harness.post(CHAT, &merged(body(), &json!({"stream": stream}))).await;
            let error = reply.error();
            assert_eq!((error.0, &error.2), (status, &json!(code)), "{act:?}: {}", reply.text);
            let port = them.url.rsplit(':').next().unwrap();
            assert!(!reply.text.contains(SECRET) && !reply.text.contains("their-model") && !reply.text.contains(port));
            if code == "upstream_busy" {
                assert_eq!(reply.headers["retry-after"], "7", "as it was told");
            }
        }
        let rows = rows(&harness, 2).await;
        assert!(rows.len() == 2 && rows.iter().all(|row| row.outcome == "failed" && row.cost_nanos == 0), "{rows:?}");
    }
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/v1", listener.local_addr().unwrap())
    };
    let harness = harness(vec![upstream(&gone)]).await;
    assert_eq!(harness.post(CHAT, &body()).await.error().2, json!("upstream_failed"));
    assert_eq!(outcomes(&harness, 1).await, ["failed"]);
}

#[tokio::test]
async fn half_a_stream_ends_with_an_error_and_is_settled_once() {
    let mut broken = chunks(&["hel", "lo"]);
    broken.pop();
    let mut odd = broken.clone();
    odd.push("{not json".to_owned());
    let mut told = broken.clone();
    told.push(json!({"error": {"message": "we fell over"}}).to_string());
    let them = Misbehaving::new(vec![Act::Events(broken), Act::Events(odd), Act::Events(told)]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    for _ in 0..3 {
        let events = harness.events(CHAT, body()).await;
        assert_eq!(events[1]["choices"][0]["delta"]["content"], "lo");
        assert_eq!(events.last().unwrap()["error"]["code"], "upstream_failed");
        assert!(!events.last().unwrap().to_string().contains("fell over"));
    }
    assert_eq!(them.got().len(), 3, "what was given on is not asked for again");
    let rows = rows(&harness, 3).await;
    assert!(rows.iter().all(|row| row.outcome == "failed" && row.cost_nanos == 0 && row.output_tokens == 5), "{rows:?}");
}

#[tokio::test]
async fn an_answer_whose_last_event_is_missing_is_whole() {
    let them = Misbehaving::new(vec![Act::Events(chunks(&["hello"])), Act::Hang(chunks(&["hello"]))]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    for _ in 0..2 {
        let events = harness.events(CHAT, body()).await;
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }
    assert_eq!(outcomes(&harness, 2).await, ["stop", "stop"]);
}

#[tokio::test]
async fn hanging_servers_are_given_up() {
    let short = Duration::from_millis(200);
    let mut config = upstream("http://127.0.0.1:1/v1");
    config.remote.times = Times { first_event: short, between_events: short, whole: short * 2, ..config.remote.times };
    for (act, stream) in [(Act::Silence, false), (Act::Silence, true), (Act::Hang(chunks(&["a"])[..1].to_vec()), true)] {
        let them = Misbehaving::new(vec![act.clone()]).await;
        let mut config = config.clone();
        config.remote.address = them.url.parse().unwrap();
        let harness = harness(vec![config]).await;
        let reply = harness.post(CHAT, &merged(body(), &json!({"stream": stream}))).await;
        assert!(reply.text.contains("upstream_timeout"), "{act:?}: {}", reply.text);
        them.left().await;
        assert_eq!(outcomes(&harness, 1).await, ["failed"]);
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_connection_and_pays_for_what_came() {
    let them = Misbehaving::new(vec![Act::Hang(chunks(&["abc", "def"])[..2].to_vec())]).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    let asked = merged(body(), &json!({"stream": true}));
    let response = harness.open(request(Method::POST, CHAT, Body::from(asked.to_string()))).await;
    let mut events = response.into_body().into_data_stream();
    events.next().await.unwrap().unwrap();
    events.next().await.unwrap().unwrap();
    drop(events);
    them.left().await;
    let row = rows(&harness, 1).await.remove(0);
    assert_eq!((row.outcome.as_str(), row.input_tokens, row.output_tokens), ("cancelled", 9, 6));
    assert_eq!(row.cost_nanos, 9_000 + 12_000);
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone() {
    let them = Misbehaving::new(vec![refusal(500, "", "oh")]).await;
    let mut config = upstream(&them.url);
    config.remote.patience.retries = 0;
    config.remote.tolerance = Tolerance { failures: 2, pause: Duration::from_secs(60) };
    let harness = harness(vec![config]).await;
    for _ in 0..2 {
        assert_eq!(harness.post(CHAT, &body()).await.error().2, json!("upstream_failed"));
    }
    let reply = harness.post(CHAT, &body()).await;
    assert_eq!((reply.error().0, reply.error().2), (503, json!("upstream_unavailable")));
    assert!(reply.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 59);
    assert_eq!(them.got().len(), 2);
    assert!(harness.get("/metrics").await.text.contains("switchyard_upstream_breaker{upstream=\"big\"} 2"));
}

#[tokio::test]
async fn a_spending_cap_and_a_budget_hold() {
    let them = Misbehaving::new(vec![answer("x")]).await;
    // An answer costs 40,000; what is borrowed for one is 27 * 1,000 + 24 * 2,000.
    let cap = Some(Cap { period: Period::Day, nanos: 150_000 });
    let first = harness(vec![UpstreamConfig { cap, ..upstream(&them.url) }]).await;
    assert_eq!(first.post(CHAT, &body()).await.status, StatusCode::OK);
    assert_eq!(first.post(CHAT, &body()).await.status, StatusCode::OK);
    let reply = first.post(CHAT, &body()).await;
    assert_eq!((reply.error().0, reply.error().2), (503, json!("upstream_spent")));
    assert_eq!(them.got().len(), 2);
    assert!(first.chat(&json!({"model": BASE})).await["choices"].is_array(), "the base is not theirs");

    let second = harness(vec![upstream(&them.url)]).await;
    second
        .policy(
            "INSERT INTO budgets (id, scope, subject, period, limit_nanos, enforcement, thresholds, created_at, version) \
             VALUES ('b1', 'project', 'proj_default', 'day', 100000, 'hard', '', 1, 1)",
        )
        .await;
    assert_eq!(second.post(CHAT, &body()).await.status, StatusCode::OK, "75,000 are borrowed");
    let reply = second.post(CHAT, &body()).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS, "the upstream's price counts: {}", reply.text);
}

#[tokio::test]
async fn older_servers_are_asked_in_their_words() {
    let acts = vec![
        refusal(400, "", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        refusal(400, "", "unknown field stream_options"),
        Act::Events(done(chunks(&["ok"]))),
    ];
    let them = Misbehaving::new(acts).await;
    let harness = harness(vec![upstream(&them.url)]).await;
    harness.events(CHAT, body()).await;
    let last = them.got().remove(2).body;
    assert_eq!((&last["max_completion_tokens"], last.get("max_tokens"), last.get("stream_options")), (&json!(24), None, None));
}
