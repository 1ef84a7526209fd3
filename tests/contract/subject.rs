//! A running server and the names under which one backend answers there.

use serde_json::{Value, json};

use crate::support::{Home, Server, adapter, client};

/// What answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Native,
    Upstream,
    #[cfg(feature = "mistralrs")]
    Mistral,
}

/// A server, and what to ask it for.
pub struct Subject {
    pub server: Server,
    pub kind: Kind,
    /// The base.
    pub model: &'static str,
    /// The base with an adapter.
    pub tuned: &'static str,
    far: Option<Server>,
    _homes: Vec<Home>,
}

/// Everything is computed in floats, so that backends can be compared.
const EXACT: [&str; 2] = ["--quant", "none"];

fn local(more: &[&str]) -> (Server, Home) {
    let home = Home::new();
    let tuned = format!("tuned={}", adapter("r8-all-rslora").display());
    let arguments = [&EXACT[..], &["--adapter", &tuned], more].concat();
    (home.serve(&arguments), home)
}

impl Subject {
    /// Our engine.
    pub fn native(more: &[&str]) -> Self {
        let (server, home) = local(more);
        Self { server, kind: Kind::Native, model: "llama3", tuned: "tuned", far: None, _homes: vec![home] }
    }

    /// mistralrs on the same base.
    #[cfg(feature = "mistralrs")]
    pub fn mistral(more: &[&str]) -> Self {
        let (server, home) = local(&[&["--backend", "mistralrs"], more].concat());
        Self { server, kind: Kind::Mistral, model: "llama3", tuned: "tuned", far: None, _homes: vec![home] }
    }

    /// Another server of ours, which has the same base and the same adapter.
    pub fn upstream(more: &[&str]) -> Self {
        let (far, far_home) = local(&[]);
        let home = Home::new();
        let table = |name: &str, model: &str| {
            let address = format!("{}/v1", far.url);
            format!("[[upstream]]\nname = \"{name}\"\naddress = \"{address}\"\nmodel = \"{model}\"\nkey_variable = \"FAR_KEY\"\n")
        };
        let config = home.path("upstreams.toml");
        std::fs::write(&config, table("far", "llama3") + &table("far-tuned", "tuned")).unwrap();
        let arguments = [&["--config", config.to_str().unwrap()], more].concat();
        let server = home.serve_with(&arguments, &[("FAR_KEY", &far.key)]);
        Self { server, kind: Kind::Upstream, model: "far", tuned: "far-tuned", far: Some(far), _homes: vec![home, far_home] }
    }

    pub fn is_local(&self) -> bool {
        self.kind != Kind::Upstream
    }

    /// Status and answer.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.server.post(path, body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn ok(&self, path: &str, body: &Value) -> Value {
        let (status, reply) = self.post(path, body).await;
        assert_eq!(status, 200, "{path} {body}: {reply}");
        reply
    }

    /// A greedy chat.
    pub fn chat_body(&self, more: &Value) -> Value {
        let messages = json!([{"role": "user", "content": "hello"}]);
        merged(json!({"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 16}), more)
    }

    pub async fn chat(&self, more: &Value) -> Value {
        self.ok("/v1/chat/completions", &self.chat_body(more)).await
    }

    /// A greedy completion.
    pub fn completion_body(&self, more: &Value) -> Value {
        merged(json!({"model": self.model, "prompt": "one two three", "temperature": 0, "max_tokens": 16}), more)
    }

    pub async fn complete(&self, more: &Value) -> Value {
        self.ok("/v1/completions", &self.completion_body(more)).await
    }

    /// The events of a stream, its end checked.
    pub async fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let body = merged(body.clone(), &json!({"stream": true, "stream_options": {"include_usage": true}}));
        let (status, text) = self.server.post(path, &body).await;
        assert_eq!(status, 200, "{text}");
        let events = text.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no [DONE]: {text}"));
        let events = events.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
        events.map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }

    /// Status, code and field of a refusal.
    pub async fn refusal(&self, path: &str, body: &Value) -> (u16, Value, Value) {
        let (status, reply) = self.post(path, body).await;
        assert!(reply["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{path} {body}: {reply}");
        (status, reply["error"]["code"].clone(), reply["error"]["param"].clone())
    }

    /// A text that is no JSON.
    pub async fn read(&self, path: &str) -> String {
        let reply = client().get(format!("{}{path}", self.server.url)).bearer_auth(&self.server.key).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200, "{path}");
        reply.text().await.unwrap()
    }

    /// A chat that may be kept: what the cache says of it, and the answer.
    pub async fn keepable(&self, body: &Value) -> (String, Value) {
        let call = client().post(format!("{}/v1/chat/completions", self.server.url)).bearer_auth(&self.server.key);
        let reply = call.header("x-response-cache", "allow").json(body).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200);
        let cache = reply.headers()["x-cache"].to_str().unwrap().to_owned();
        (cache, reply.json().await.unwrap())
    }

    /// A good end of all of them.
    pub fn stop(self) {
        self.server.stop();
        if let Some(far) = self.far {
            far.stop();
        }
    }
}

pub fn merged(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}
