//! Streamed answers: shapes, pieces, and what happens when somebody leaves.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use switchyard::engine::EngineConfig;
use switchyard::engine::seeded::{Fault, SeededModel, StepGate};

use crate::support::{BASE, Harness, KEY, Options, SeededOptions, chat_body, completion_body, merged};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_chat_stream_begins_with_the_role_and_ends_with_the_reason() {
    let server = Harness::new().await;
    let whole = server.chat(&json!({})).await;
    let events = server.events(CHAT, chat_body()).await;
    let first = &events[0]["choices"][0];
    assert_eq!(first["delta"], json!({"role": "assistant", "content": ""}));
    let last = &events[events.len() - 1]["choices"][0];
    assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("length")));
    assert!(events[..events.len() - 1].iter().all(|event| event["choices"][0]["finish_reason"].is_null()));
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk" && event["id"] == events[0]["id"]));
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    let joined: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(joined, whole["choices"][0]["message"]["content"]);
    assert_eq!(events.len(), 1 + 24 + 1, "one event for each token");
}

#[tokio::test]
async fn usage_comes_last_and_only_when_asked() {
    let server = Harness::new().await;
    let whole = server.chat(&json!({})).await;
    let events = server.events(CHAT, merged(chat_body(), &json!({"stream_options": {"include_usage": true}}))).await;
    let (last, others) = events.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &whole["usage"]["total_tokens"]));
    assert!(others.iter().all(|event| event.as_object().unwrap()["usage"].is_null()));
}

#[tokio::test]
async fn answers_of_one_request_share_a_stream() {
    let server = Harness::new().await;
    let more = json!({"n": 3, "temperature": 1, "seed": 5, "logprobs": true, "top_logprobs": 1});
    let whole = server.chat(&more).await;
    let events = server.events(CHAT, merged(chat_body(), &more)).await;
    for index in 0..3 {
        let mine: Vec<&Value> =
            events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == index).collect();
        let text: String = mine.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, whole["choices"][index]["message"]["content"].as_str().unwrap());
        let tokens: Vec<Value> =
            mine.iter().filter_map(|choice| choice["logprobs"]["content"].as_array()).flatten().cloned().collect();
        assert_eq!(json!(tokens), whole["choices"][index]["logprobs"]["content"]);
        assert_eq!(mine.iter().filter(|choice| !choice["finish_reason"].is_null()).count(), 1);
    }
}

#[tokio::test]
async fn a_stop_string_is_never_sent_not_even_in_part() {
    let server = Harness::new().await;
    let whole = server.chat(&json!({})).await["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    for (from, to) in [(5, 6), (5, 9), (10, 20), (0, 3)] {
        let stop = &whole[from..to];
        let events = server.events(CHAT, merged(chat_body(), &json!({"stop": [stop]}))).await;
        let joined: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(joined, whole[..whole.find(stop).unwrap()]);
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }
    server.idle().await;
}

#[tokio::test]
async fn completions_stream_in_their_own_shape() {
    let server = Harness::new().await;
    let more = json!({"logprobs": 1, "echo": true});
    let whole = server.complete(&more).await;
    let events = server.events("/v1/completions", merged(completion_body(), &more)).await;
    let joined: String = events.iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(joined, whole["choices"][0]["text"].as_str().unwrap());
    assert!(events.iter().all(|event| event["object"] == "text_completion"));
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let parts: Vec<Value> =
            events.iter().flat_map(|event| event["choices"][0]["logprobs"][field].as_array().unwrap().clone()).collect();
        assert_eq!(json!(parts), whole["choices"][0]["logprobs"][field], "{field}");
    }
}

#[tokio::test]
async fn a_failing_engine_ends_the_stream_with_an_error() {
    let model = SeededOptions { faults: vec![Fault::ErrorAtStep(3)], ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    let events = server.events(CHAT, chat_body()).await;
    let error = &events.last().unwrap()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("internal_error")));
    assert!(!error["message"].as_str().unwrap().contains("planned failure"), "the cause is for the log");
    // The next request is answered: the engine goes on.
    server.chat(&json!({})).await;
}

#[tokio::test]
async fn a_panicking_engine_shows_in_health_and_answers_500() {
    let model = SeededOptions { faults: vec![Fault::PanicAtStep(1)], ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    assert_eq!(server.get("/health").await.json()["status"], "healthy");
    let reply = server.post(CHAT, &chat_body()).await;
    assert_eq!(reply.error().0, 500);
    let health = server.get("/health").await;
    assert_eq!((health.status.as_u16(), &health.json()["status"]), (503, &json!("unhealthy")));
    assert_eq!(server.get("/ready").await.status.as_u16(), 503);
}

/// Opens a stream and reads its first bytes over a plain socket.
fn open_stream(address: std::net::SocketAddr, body: &Value) -> std::net::TcpStream {
    let body = body.to_string();
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    write!(
        socket,
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut first = [0; 64];
    socket.read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&first));
    socket
}

/// Lets steps run one by one, and says when the next one waits at the gate.
struct Steps {
    gate: StepGate,
    begun: Arc<AtomicU64>,
    opened: u64,
}

impl Steps {
    async fn run(&mut self, steps: u64) {
        self.gate.open(usize::try_from(steps).unwrap());
        self.opened += steps;
        until(|| self.begun.load(Ordering::SeqCst) == self.opened + 1).await;
    }

    /// One step after the server has seen that the client is gone, everything is given back.
    async fn one_gives_all_back(self, server: &Harness) {
        let metrics = async || server.get("/metrics").await.text;
        let began = std::time::Instant::now();
        while !metrics().await.contains("switchyard_cancelled_requests_total 1\n") {
            assert!(began.elapsed().as_secs() < 20, "the server does not notice");
            tokio::task::yield_now().await;
        }
        let before = server.engine.stats();
        assert!(before.kv_used > 0, "the step at the gate holds its blocks: {before:?}");
        self.gate.open(1);
        until(|| server.engine.stats().running == 0).await;
        let after = server.engine.stats();
        let given_back = (after.steps, after.kv_used, after.cancelled);
        assert_eq!(given_back, (before.steps + 1, 0, before.running as u64));
    }
}

async fn until(condition: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed().as_secs() < 20, "it never happens");
        tokio::task::yield_now().await;
    }
}

async fn stepwise() -> (Harness, Steps) {
    let (model, gate) = SeededModel::gated(SeededOptions { context: 4096, ..SeededOptions::default() });
    let begun = model.step_counter();
    (Harness::over(model, Options::default()).await, Steps { gate, begun, opened: 0 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_pays_for_what_was_computed_and_for_nothing_else() {
    let (model, gate) = SeededModel::gated(SeededOptions::default());
    let begun = model.step_counter();
    let engine = EngineConfig { max_sequences: 1, ..EngineConfig::default() };
    let server = Harness::over(model, Options { engine, ..Options::default() }).await;
    let mut steps = Steps { gate, begun, opened: 0 };
    // The second prompt waits until the first is answered. Nobody reads the answer before it is whole.
    let body = json!({"model": BASE, "prompt": [[65, 66, 67], [68, 69, 70, 71, 72]], "max_tokens": 50, "ignore_eos": true});
    {
        let mut answer = Box::pin(server.post("/v1/completions", &body));
        tokio::select! {
            reply = &mut answer => panic!("{}", reply.text),
            () = steps.run(5) => {}
        }
    }
    server.tenants.ledger().flush().await;
    let sql = "SELECT outcome, input_tokens, output_tokens FROM ledger";
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(sql).fetch_all(server.tenants.database().pool()).await.unwrap();
    assert_eq!(rows, [("cancelled".to_owned(), 3, 5)]);
    steps.gate.open(10);
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_gives_its_blocks_back() {
    let (server, mut steps) = stepwise().await;
    let listening = server.listen().await;
    let address = listening.address;
    let body = merged(chat_body(), &json!({"stream": true, "max_tokens": 3000, "n": 4}));
    let socket = tokio::task::spawn_blocking(move || open_stream(address, &body)).await.unwrap();
    // The first step may be planned before the last sequence was submitted.
    while server.engine.stats().running < 4 {
        steps.run(1).await;
    }
    drop(socket);
    steps.one_gives_all_back(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_before_a_whole_answer_gives_its_blocks_back() {
    let (server, mut steps) = stepwise().await;
    let listening = server.listen().await;
    let post = switchyard::outbound::client(std::time::Duration::from_secs(120))
        .unwrap()
        .post(format!("{}{CHAT}", listening.url))
        .bearer_auth(KEY);
    let answer = tokio::spawn(post.body(merged(chat_body(), &json!({"max_tokens": 3000})).to_string()).send());
    steps.run(5).await;
    answer.abort();
    let _ = answer.await;
    steps.one_gives_all_back(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_lets_running_streams_end() {
    let (model, gate) = SeededModel::gated(SeededOptions::default());
    let server = Harness::over(model, Options::default()).await;
    let mut listening = server.listen().await;
    let address = listening.address;
    gate.open(2);
    let body = merged(chat_body(), &json!({"stream": true}));
    let mut socket = tokio::task::spawn_blocking(move || open_stream(address, &body)).await.unwrap();
    listening.stop();
    drop(gate);
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        socket.read_to_string(&mut rest).unwrap();
        rest
    })
    .await
    .unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(listening.task.await.unwrap(), switchyard::http::Ended::Drained);
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive() {
    let (model, gate) = SeededModel::gated(SeededOptions::default());
    let http = switchyard::http::Config { keep_alive: std::time::Duration::from_millis(5), ..Default::default() };
    let server = Harness::over(model, Options { http, ..Options::default() }).await;
    let body = merged(chat_body(), &json!({"stream": true}));
    let opened = async {
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        drop(gate);
    };
    let (reply, ()) = tokio::join!(server.post(CHAT, &body), opened);
    assert!(reply.text.contains(": keep-alive\n\n"), "{}", reply.text);
    assert_eq!(reply.events().len(), 26);
}
