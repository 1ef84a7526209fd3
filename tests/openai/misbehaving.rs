//! A server that answers as the test wants: slowly, by halves, with refusals, or not at all.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it does with one request.
#[derive(Debug, Clone)]
pub enum Act {
    /// A whole answer with this status and body.
    Whole(u16, &'static str, String),
    /// Events; then the stream ends as it should not, unless the last one is `[DONE]`.
    Events(Vec<String>),
    /// Events, then nothing more for ever.
    Hang(Vec<String>),
    /// Reads the request and says nothing for ever.
    Silence,
    /// Closes the connection without a word.
    Close,
    /// The first half of a whole answer.
    Half(String),
}

/// A request that it got.
#[derive(Debug, Clone)]
pub struct Got {
    pub path: String,
    pub head: String,
    pub body: Value,
}

/// Does one act after the other; the last one again and again.
pub struct Misbehaving {
    pub url: String,
    got: Arc<Mutex<Vec<Got>>>,
    left: Arc<tokio::sync::Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Misbehaving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Misbehaving {
    pub async fn new(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (got, left) = (Arc::new(Mutex::new(Vec::new())), Arc::new(tokio::sync::Notify::new()));
        let (seen, noticed) = (Arc::clone(&got), Arc::clone(&left));
        let task = tokio::spawn(async move {
            for index in 0.. {
                let act = acts[index.min(acts.len() - 1)].clone();
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, act, Arc::clone(&seen), Arc::clone(&noticed)));
            }
        });
        Self { url, got, left, task }
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Waits until somebody who was left hanging has closed the connection.
    pub async fn left(&self) {
        tokio::time::timeout(Duration::from_secs(20), self.left.notified()).await.expect("the connection is still there");
    }
}

async fn serve(mut socket: TcpStream, act: Act, seen: Arc<Mutex<Vec<Got>>>, left: Arc<tokio::sync::Notify>) {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        }
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    };
    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
    seen.lock().unwrap().push(Got { path, head, body: serde_json::from_str(&body).unwrap_or_default() });
    let stream = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    // Whoever has left reads no more.
    match act {
        Act::Whole(status, headers, body) => {
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}");
            let _ = socket.write_all(answer.as_bytes()).await;
        }
        Act::Half(body) => {
            let length = body.len();
            let half = &body[..length / 2];
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{half}");
            let _ = socket.write_all(answer.as_bytes()).await;
        }
        Act::Events(events) => {
            let _ = socket.write_all((stream.to_owned() + &frames(&events)).as_bytes()).await;
        }
        Act::Hang(events) => {
            let _ = socket.write_all((stream.to_owned() + &frames(&events)).as_bytes()).await;
            gone(&mut socket).await;
            left.notify_one();
        }
        Act::Silence => {
            gone(&mut socket).await;
            left.notify_one();
        }
        Act::Close => {}
    }
}

async fn gone(socket: &mut TcpStream) {
    let mut buffer = [0; 64];
    while matches!(socket.read(&mut buffer).await, Ok(read) if read > 0) {}
}

fn frames(events: &[String]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

/// A whole chat answer.
pub fn answer(text: &str) -> Act {
    let body = json!({
        "id": "theirs-1", "object": "chat.completion", "created": 7, "model": "their-model", "provider": "them",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
    });
    Act::Whole(200, "", body.to_string())
}

/// A refusal.
pub fn refusal(status: u16, headers: &'static str, message: &str) -> Act {
    Act::Whole(status, headers, json!({"error": {"message": message, "type": "x", "param": null, "code": null}}).to_string())
}

/// Events of a chat: the texts, then its end.
pub fn chunks(texts: &[&str]) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        json!({"id": "theirs-1", "object": "chat.completion.chunk", "created": 7, "model": "their-model", "system_fingerprint": "fp",
               "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        .to_string()
    };
    let mut all: Vec<String> = texts.iter().map(|text| chunk(json!({"content": text}), Value::Null)).collect();
    all.push(chunk(json!({}), json!("stop")));
    all
}

/// What it took.
pub fn usage() -> String {
    json!({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}}).to_string()
}

pub fn done(mut events: Vec<String>) -> Vec<String> {
    events.push("[DONE]".to_owned());
    events
}
