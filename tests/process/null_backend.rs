//! The server without a model: everything is real but the words.

use serde_json::{Value, json};

use crate::support::{Home, Server};

async fn chat(server: &Server, more: Value) -> (u16, Value) {
    let mut body =
        json!({"messages": [{"role": "user", "content": "remind me to call mum"}], "temperature": 0, "max_tokens": 16});
    more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
    let (status, text) = server.post("/v1/chat/completions", &body).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn the_null_backend_answers_for_the_base_and_its_adapters_with_words() {
    let home = Home::new();
    let server = Server::start(home.command(&["serve", "--listen", "127.0.0.1:0", "--backend", "null", "--null-delay", "2ms"]));
    assert!(server.announced.contains("null: no model; words after 2ms"), "{}", server.announced);
    assert_eq!(server.get("/ready").await.0, 200);
    let mut answers = Vec::new();
    for model in ["switchyard-base", "convert", "switchyard-base"] {
        let (status, reply) = chat(&server, json!({"model": model})).await;
        assert_eq!(status, 200, "{reply}");
        let choice = &reply["choices"][0];
        assert_eq!((&choice["finish_reason"], &reply["usage"]["completion_tokens"]), (&json!("length"), &json!(16)), "{reply}");
        assert!(reply["usage"]["prompt_tokens"].as_u64().unwrap() > 8, "{reply}");
        let text = choice["message"]["content"].as_str().unwrap().to_owned();
        assert_eq!(text.split_whitespace().count(), 16, "{text}");
        answers.push(text);
    }
    assert_eq!(answers[0], answers[2], "a greedy answer is a function of its request");
    assert_ne!(answers[0], answers[1], "an adapter answers in other words");
    let (_, streamed) = chat(&server, json!({"model": "convert", "stream": true})).await;
    let streamed = streamed.as_str().unwrap();
    let pieces = streamed.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let text: String = pieces.filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect();
    assert_eq!(text, answers[1]);
    assert!(streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
    server.stop();
}

// More threads, so that the connection that is dropped is closed while the server stops.
#[tokio::test(flavor = "multi_thread")]
async fn the_null_backend_refuses_what_its_queue_does_not_hold() {
    let home = Home::new();
    let server = home.serve(&["--backend", "null", "--null-delay", "3600s", "--queue-capacity", "1"]);
    let body = json!({"model": "llama3", "prompt": "one", "stream": true});
    let post = || server.post_open("/v1/completions", &body);
    // Its head comes at once, its first token in an hour.
    let waiting = post().await;
    assert_eq!(waiting.status().as_u16(), 200);
    assert_eq!(post().await.status().as_u16(), 503);
    drop(waiting);
    server.stop();
}
