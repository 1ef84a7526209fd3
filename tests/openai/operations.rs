//! What operators and machines read: probes, metrics, the description of the API, tokenizing.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use switchyard::engine::EngineConfig;
use switchyard::engine::seeded::{Fault, SeededModel};

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
        assert!(line.starts_with("switchyard_") || line.starts_with("vllm:"), "{line}");
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
async fn a_full_queue_is_503_with_a_time_to_come_back_and_counts_nothing() {
    let (model, gate) = SeededModel::gated(SeededOptions::default());
    let engine = EngineConfig { queue_capacity: 4, max_sequences: 1, ..EngineConfig::default() };
    let server = Harness::over(model, Options { engine, ..Options::default() }).await;
    let body = chat_body();
    let running = server.post("/v1/chat/completions", &body);
    let refused = async {
        while server.engine.stats().running + server.engine.stats().waiting == 0 {
            tokio::task::yield_now().await;
        }
        let waits = server.engine.reserve(1, usize::MAX).unwrap();
        let reply = server.post("/v1/chat/completions", &merged(chat_body(), &json!({"n": 4}))).await;
        let (status, kind, code, _) = reply.error();
        assert_eq!((status, kind.as_str(), code), (503, "server_error", json!("overloaded")));
        assert_eq!(reply.headers["retry-after"], "1");
        let text = open(&server, "/metrics").await.text;
        for name in ["prompt_tokens_total", "generation_seconds_count", "cancelled_requests_total"] {
            assert_eq!(metric(&text, &format!("switchyard_{name}")), 0.0, "{name}");
        }
        drop((waits, gate));
    };
    let (reply, ()) = tokio::join!(running, refused);
    assert_eq!(reply.status.as_u16(), 200);
    server.idle().await;
    assert_eq!(server.engine.stats().cancelled, 0, "nothing of the refused request was submitted");
}

#[tokio::test]
async fn what_never_fits_the_queue_is_the_callers_mistake_and_what_just_fits_is_answered() {
    let engine = EngineConfig { queue_capacity: 4, ..EngineConfig::default() };
    let server = Harness::with(Options { engine, ..Options::default() }).await;
    let (chat, completions) = ("/v1/chat/completions", "/v1/completions");
    for _ in 0..3 {
        server.chat(&json!({"n": 4})).await;
        server.complete(&json!({"prompt": ["a", "b"], "n": 2})).await;
    }
    let post = async |path: &str, more: Value| {
        let body = if path == chat { chat_body() } else { crate::support::completion_body() };
        let (status, _, _, param) = server.post(path, &merged(body, &more)).await.error();
        (status, param)
    };
    assert_eq!(post(chat, json!({"n": 5})).await, (400, json!("n")));
    assert_eq!(post(completions, json!({"prompt": ["a", "b", "c"], "n": 2})).await, (400, json!("n")));
    assert_eq!(post(completions, json!({"prompt": ["a", "b", "c", "d", "e"]})).await, (400, json!("prompt")));
}

/// Whether a request does its work on the thread that polls it: the only other one is kept busy meanwhile.
async fn works_here(server: &Harness, path: &str, body: &Value) -> bool {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let busy = tokio::task::spawn_blocking(move || held.recv().is_err());
    let mut request = Box::pin(server.post(path, body));
    // A generation goes on in the engine when its prompt is rendered.
    let first = futures::poll!(&mut request);
    let stats = server.engine.stats();
    let here = first.is_ready() || stats.waiting + stats.running > 0;
    drop(release);
    assert!(busy.await.unwrap());
    let reply = match first {
        std::task::Poll::Ready(reply) => reply,
        std::task::Poll::Pending => request.await,
    };
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    here
}

#[test]
fn much_text_is_worked_on_elsewhere_however_it_is_cut() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(much_text());
}

async fn much_text() {
    let model = SeededOptions { context: 1 << 16, ..SeededOptions::default() };
    let engine = EngineConfig { kv_blocks: 1 << 13, ..EngineConfig::default() };
    let server = Harness::with(Options { model, engine, ..Options::default() }).await;
    // From now on the key is known without asking the database.
    assert_eq!(server.get("/v1/models").await.status.as_u16(), 200);
    let message = |text: &str| json!({"role": "user", "content": text});
    let small = json!({"messages": [message("hello")]});
    assert!(works_here(&server, "/tokenize", &small).await);
    for messages in [vec![message(&"x".repeat(20_000))], vec![message(""); 1000]] {
        assert!(!works_here(&server, "/tokenize", &json!({"messages": messages})).await);
    }
    assert!(works_here(&server, "/detokenize", &json!({"tokens": [65, 66]})).await);
    assert!(!works_here(&server, "/detokenize", &json!({"tokens": vec![65; 5000]})).await);
    let complete = |prompt: Value| json!({"model": BASE, "prompt": prompt, "max_tokens": 1});
    assert!(!works_here(&server, "/v1/completions", &complete(json!(vec!["x".repeat(1000); 20]))).await);
    let echo = merged(complete(json!(vec![vec![65; 500]; 20])), &json!({"echo": true}));
    assert!(!works_here(&server, "/v1/completions", &echo).await);
}

/// Collects what is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_the_details_of_a_failure_under_its_request_id() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let faults = vec![Fault::ErrorAtStep(0), Fault::ErrorAtStep(1)];
    let model = SeededOptions { faults, ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    let whole = server.post("/v1/chat/completions", &chat_body()).await;
    assert_eq!(whole.status.as_u16(), 500);
    let stream = server.post("/v1/chat/completions", &merged(chat_body(), &json!({"stream": true}))).await;
    assert!(stream.text.contains("internal_error"), "{}", stream.text);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for (reply, step) in [(whole, 0), (stream, 1)] {
        let id = reply.headers["x-request-id"].to_str().unwrap();
        let line = text.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("no {id} in:\n{text}"));
        assert!(line.contains(&format!("planned failure of step {step}")), "{line}");
    }
}

#[tokio::test]
async fn an_answer_that_a_shutdown_cuts_off_is_503() {
    let (model, gate) = SeededModel::gated(SeededOptions::default());
    let server = Harness::over(model, Options::default()).await;
    let body = chat_body();
    let cut = server.post("/v1/chat/completions", &body);
    let stop = async {
        while server.engine.stats().running + server.engine.stats().waiting == 0 {
            tokio::task::yield_now().await;
        }
        let open = async { gate.open(1) };
        tokio::join!(server.engine.shutdown(std::time::Duration::ZERO), open);
    };
    let (reply, ()) = tokio::join!(cut, stop);
    let (status, kind, code, _) = reply.error();
    assert_eq!((status, kind.as_str(), code), (503, "server_error", json!("shutting_down")), "{}", reply.text);
    assert!(reply.headers.contains_key("retry-after"));
}
