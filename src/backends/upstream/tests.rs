//! The client against a server of a few lines that says what the test wants.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::*;

/// Answers one connection after the other with the given texts; keeps what it was asked.
fn server(answers: Vec<String>) -> (Address, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for answer in answers {
            let (mut socket, _) = listener.accept().unwrap();
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                let read = socket.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request);
                let length = text.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                let whole = text.find("\r\n\r\n").is_some_and(|end| request.len() >= end + 4 + length.unwrap_or(0usize));
                if read == 0 || whole {
                    break;
                }
            }
            seen.lock().unwrap().push(String::from_utf8(request).unwrap());
            socket.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, asked)
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
}

fn good(text: &str) -> String {
    let body = json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    });
    http("200 OK", "", &body.to_string())
}

fn refusal(status: &str, message: &str) -> String {
    http(status, "", &json!({"error": {"message": message}}).to_string())
}

fn upstream(address: Address) -> Upstream {
    let patience = Patience { retries: 2, first_wait: Duration::from_millis(1) };
    let (model, timeout) = ("teacher".to_owned(), Duration::from_secs(10));
    Upstream::new(Settings { address, model, key: Some(Key::new("sk-secret\n")), timeout, patience }).unwrap()
}

fn chat(form: AnswerForm) -> Chat {
    let messages = vec![json!({"role": "user", "content": "hello"})];
    Chat { messages, max_tokens: 9, temperature: 0.5, seed: Some(3), form }
}

fn body(request: &str) -> Value {
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn an_answer_comes_back_with_its_usage() {
    let (address, asked) = server(vec![good("hi")]);
    let reply = upstream(address).chat(&chat(AnswerForm::Text)).await.unwrap();
    let usage = Some(Usage { prompt_tokens: 7, completion_tokens: 3 });
    assert_eq!(reply, Reply { text: "hi".to_owned(), finish: Some("stop".to_owned()), usage });
    let asked = asked.lock().unwrap();
    assert!(asked[0].starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{}", asked[0]);
    assert!(asked[0].contains("Bearer sk-secret\r\n"), "{}", asked[0]);
    let expected = json!({"model": "teacher", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9,
        "temperature": 0.5, "seed": 3});
    assert_eq!(body(&asked[0]), expected);
}

#[tokio::test]
async fn busy_and_broken_servers_are_asked_again() {
    let busy = http("429 Too Many Requests", "retry-after: 0\r\n", "{}");
    let (address, asked) = server(vec![busy, refusal("503 Service Unavailable", "later"), good("hi")]);
    assert_eq!(upstream(address).chat(&chat(AnswerForm::Text)).await.unwrap().text, "hi");
    assert_eq!(asked.lock().unwrap().len(), 3);
    let refused = vec![refusal("503 Service Unavailable", "later"); 3];
    let (address, asked) = server(refused);
    let error = upstream(address).chat(&chat(AnswerForm::Text)).await.unwrap_err();
    assert!(matches!(&error, UpstreamError::Refused { status: 503, message, .. } if message == "later"), "{error}");
    assert_eq!(asked.lock().unwrap().len(), 3, "no more often than it was told");
}

#[tokio::test]
async fn a_refusal_is_repeated_without_the_key() {
    let (address, asked) = server(vec![refusal("401 Unauthorized", "Incorrect API key provided: sk-secret.")]);
    let upstream = upstream(address);
    let error = upstream.chat(&chat(AnswerForm::Text)).await.unwrap_err().to_string();
    assert!(error.contains("401: Incorrect API key provided: (the key)."), "{error}");
    assert!(!format!("{upstream:?}").contains("secret"));
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn fields_that_a_server_does_not_know_are_left_out_from_then_on() {
    let no_format = refusal("400 Bad Request", "Unknown parameter: 'response_format'.");
    let renamed = refusal("400 Bad Request", "Use 'max_completion_tokens' instead of 'max_tokens'.");
    let (address, asked) = server(vec![no_format, renamed, good("{}"), good("{}")]);
    let upstream = upstream(address);
    for _ in 0..2 {
        upstream.chat(&chat(AnswerForm::JsonObject)).await.unwrap();
    }
    let asked: Vec<Value> = asked.lock().unwrap().iter().map(|request| body(request)).collect();
    assert_eq!(asked[0]["response_format"], json!({"type": "json_object"}));
    assert!(asked[1].get("response_format").is_none());
    assert_eq!((&asked[2]["max_completion_tokens"], asked[2].get("max_tokens")), (&json!(9), None));
    assert_eq!(asked[2], asked[3]);
}

#[tokio::test]
async fn answers_that_are_none_are_errors() {
    for answer in [http("200 OK", "", "no json"), http("200 OK", "", "{\"choices\": []}")] {
        let (address, _) = server(vec![answer]);
        let error = upstream(address).chat(&chat(AnswerForm::Text)).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Answer { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_stream_is_read_to_its_end_and_one_that_breaks_off_is_an_error() {
    let events = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"h\"}}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"i\"},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
    for (end, whole) in [("data: [DONE]\n\n", true), ("", false)] {
        let (address, asked) = server(vec![http("200 OK", "content-type: text/event-stream\r\n", &format!("{events}{end}"))]);
        let upstream = upstream(address);
        let mut pieces = upstream.stream(&chat(AnswerForm::Text)).await.unwrap();
        let (mut text, mut last, mut used) = (String::new(), None, None);
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => {
                    text.push_str(&piece.text);
                    used = used.or(piece.usage);
                }
                Err(error) => last = Some(error.to_string()),
            }
        }
        assert_eq!((text.as_str(), used), ("hi", Some(Usage { prompt_tokens: 1, completion_tokens: 2 })));
        assert_eq!(last.is_none(), whole, "{last:?}");
        assert_eq!(body(&asked.lock().unwrap()[0])["stream"], json!(true));
    }
}

#[tokio::test]
async fn a_recording_answers_without_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cassette.jsonl");
    let (address, _) = server(vec![good("one"), good("two")]);
    let teacher = Teacher::recorded(upstream(address), &path).unwrap();
    let asked = chat(AnswerForm::Text);
    for expected in ["one", "two"] {
        assert_eq!(teacher.chat(&asked).await.unwrap().text, expected);
    }
    assert!(!std::fs::read_to_string(&path).unwrap().contains("secret"));
    let played = Teacher::played("teacher", &path).unwrap();
    for expected in ["one", "two"] {
        assert_eq!(played.chat(&asked).await.unwrap().text, expected);
    }
    let error = played.chat(&asked).await.unwrap_err().to_string();
    assert!(error.contains("no answer (any more)"), "{error}");
    std::fs::write(&path, "{}\n").unwrap();
    assert!(matches!(Teacher::played("teacher", &path), Err(CassetteError::Line { line: 1, .. })));
}
