//! What operators and machines read: probes, metrics, the description of the API, tokenizing.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use switchyard::engine::EngineConfig;
use switchyard::engine::seeded::SeededModel;

use crate::support::{BASE, Harness, Options, SeededOptions, chat_body, merged};

async fn open(server: &Harness, path: &str) -> crate::support::Reply {
    server.send(Request::get(path).body(Body::empty()).unwrap()).await
}

fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn probes_need_no_key_and_readiness_waits_for_its_latches() {
    let server = Harness::new().await;
    assert_eq!(open(&server, "/health").await.json(), json!({"status": "healthy", "model": BASE}));
    let latch = server.readiness.latch("adapters");
    let ready = open(&server, "/ready").await;
    assert_eq!((ready.status.as_u16(), ready.json()["waiting_for"].clone()), (503, json!(["adapters"])));
    drop(latch);
    let ready = open(&server, "/ready").await;
    assert_eq!((ready.status.as_u16(), ready.json()), (200, json!({"status": "ready"})));
}

#[tokio::test]
async fn metrics_count_tokens_requests_and_steps() {
    let server = Harness::new().await;
    server.chat(&json!({"n": 3, "temperature": 1})).await;
    server.load("a", 1).await;
    server.chat(&json!({"model": "a"})).await;
    server.post("/v1/chat/completions", &json!({})).await;
    server.get("/v1/nothing-there").await;
    let reply = open(&server, "/metrics").await;
    assert!(reply.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = reply.text;
    assert_eq!(metric(&text, "switchyard_generated_tokens_total"), 96.0);
    assert_eq!(metric(&text, "switchyard_prompt_tokens_total"), 48.0);
    assert_eq!(metric(&text, "switchyard_engine_decoded_tokens_total"), 96.0);
    assert_eq!(metric(&text, "switchyard_engine_kv_blocks_used"), 0.0);
    let together = metric(&text, "switchyard_engine_sequences_per_step_max");
    assert!((1.0..=3.0).contains(&together), "{together}");
    assert_eq!(metric(&text, "switchyard_engine_adapters_per_step_max"), 1.0);
    assert_eq!(metric(&text, "switchyard_adapters"), 1.0);
    let requests = |status: u16| {
        format!("switchyard_http_requests_total{{method=\"POST\",route=\"/v1/chat/completions\",status=\"{status}\"}}")
    };
    assert_eq!((metric(&text, &requests(200)), metric(&text, &requests(400))), (2.0, 1.0));
    assert!(!text.contains("nothing-there"), "callers cannot make label values");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("switchyard_"), "{line}");
    }
}

#[tokio::test]
async fn the_description_lists_every_route() {
    let server = Harness::new().await;
    let document = open(&server, "/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let path = path.replace("{id}", BASE);
            let request = Request::builder().method(method.to_uppercase().as_str()).uri(&path);
            let reply = server.send(request.body(Body::empty()).unwrap()).await;
            let expected = if operations[method]["security"] == json!([]) { 200 } else { 401 };
            assert_eq!(reply.status.as_u16(), expected, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn texts_and_conversations_are_tokenized_and_put_together_again() {
    let server = Harness::new().await;
    let tokenized = server.ok("/tokenize", &json!({"model": BASE, "prompt": "hé", "return_token_strs": true})).await;
    let expected = json!({"count": 3, "max_model_len": 512, "tokens": [104, 195, 169], "token_strs": ["h", "Ã", "©"]});
    assert_eq!(tokenized, expected);
    let back = server.ok("/detokenize", &json!({"model": BASE, "tokens": [104, 195, 169, 256]})).await;
    assert_eq!(back, json!({"prompt": "hé<|im_end|>"}));
    let chat = server.ok("/tokenize", &json!({"messages": chat_body()["messages"]})).await;
    assert_eq!((&chat["tokens"][0], &chat["token_strs"]), (&json!(257), &Value::Null));
    assert_eq!(chat["count"], server.chat(&json!({})).await["usage"]["prompt_tokens"]);
    let closed = json!({"messages": chat_body()["messages"], "add_generation_prompt": false});
    assert!(server.ok("/tokenize", &closed).await["count"].as_u64() < chat["count"].as_u64());
    for (path, body, status) in [
        ("/tokenize", json!({"model": "nobody", "prompt": "x"}), 404),
        ("/tokenize", json!({"prompt": "x", "messages": []}), 400),
        ("/tokenize", json!({}), 400),
        ("/tokenize", json!({"prompt": 3}), 400),
        ("/detokenize", json!({"tokens": [260]}), 400),
        ("/detokenize", json!({"tokens": ["a"]}), 400),
        ("/detokenize", json!({}), 400),
    ] {
        assert_eq!(server.post(path, &body).await.error().0, status, "{path} {body}");
    }
}

#[tokio::test]
async fn a_full_queue_is_503_with_a_time_to_come_back() {
    let (model, gate) = SeededModel::gated(SeededOptions::default());
    let engine = EngineConfig { queue_capacity: 2, ..EngineConfig::default() };
    let server = Harness::over(model, Options { engine, ..Options::default() }).await;
    let reply = server.post("/v1/chat/completions", &merged(chat_body(), &json!({"n": 8}))).await;
    let (status, kind, code, _) = reply.error();
    assert_eq!((status, kind.as_str(), code), (503, "server_error", json!("overloaded")));
    assert_eq!(reply.headers["retry-after"], "1");
    drop(gate);
    server.idle().await;
    server.chat(&json!({})).await;
}
