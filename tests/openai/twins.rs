//! The contract through another server of ours: the same requests to a base, and to a Switchyard whose model is an upstream that is
//! that base's server. What comes back is the same, but for ids and times.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::{BASE, Harness, KEY, Listening, Options, Reply, chat_body, completion_body, merged};
use crate::upstreams::{CHAT, upstream};

const COMPLETIONS: &str = "/v1/completions";

struct Twins {
    near: Harness,
    far: Harness,
    _listening: Listening,
}

impl Twins {
    async fn new() -> Self {
        let far = Harness::new().await;
        let listening = far.listen().await;
        let mut config = upstream(&format!("{}/v1", listening.url));
        config.remote.model = BASE.to_owned();
        config.remote.key = Some(switchyard::gateway::Key::new(KEY));
        config.parameters = ["top_k", "min_p", "stop_token_ids", "guided_json", "guided_regex", "guided_choice", "ignore_eos"]
            .map(str::to_owned)
            .to_vec();
        let near = Harness::with(Options { upstreams: vec![config], ..Options::default() }).await;
        Self { near, far, _listening: listening }
    }

    /// The same request to both: `(directly, through the other one)`.
    async fn both(&self, path: &str, body: &Value) -> (Reply, Reply) {
        let through = merged(body.clone(), &json!({"model": "big"}));
        (self.far.post(path, body).await, self.near.post(path, &through).await)
    }
}

/// Without what differs in every answer.
fn plain(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        for name in ["id", "created", "model"] {
            map.shift_remove(name);
        }
        // Who asks second finds the first one's prefix.
        if let Some(Value::Object(usage)) = map.get_mut("usage") {
            usage.shift_remove("prompt_tokens_details");
        }
    }
    value
}

fn chats() -> Vec<Value> {
    let schema =
        json!({"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": false});
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": schema}});
    [
        json!({}),
        json!({"n": 2, "seed": 7, "temperature": 0.9}),
        json!({"logprobs": true, "top_logprobs": 3}),
        json!({"stop": ["e", "a"]}),
        json!({"max_completion_tokens": 3, "max_tokens": null}),
        json!({"frequency_penalty": 0.5, "presence_penalty": 0.5, "logit_bias": {"65": 5}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": true}}}),
        json!({"tools": [tool], "tool_choice": "required"}),
        json!({"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]}),
        json!({"top_k": 3, "min_p": 0.1, "seed": 1, "temperature": 1.0}),
        json!({"guided_choice": ["yes", "no"]}),
    ]
    .iter()
    .map(|more| merged(chat_body(), more))
    .collect()
}

fn completions() -> Vec<Value> {
    [
        json!({}),
        json!({"prompt": ["one", "two"], "n": 2, "seed": 3}),
        json!({"prompt": [72, 105], "logprobs": 2}),
        json!({"echo": true, "logprobs": 1, "max_tokens": 4}),
        json!({"stop": "o", "max_tokens": 40}),
    ]
    .iter()
    .map(|more| merged(completion_body(), more))
    .collect()
}

#[tokio::test]
async fn whole_answers_are_the_same() {
    let twins = Twins::new().await;
    let all = chats().into_iter().map(|body| (CHAT, body)).chain(completions().into_iter().map(|body| (COMPLETIONS, body)));
    for (path, body) in all {
        let (direct, through) = twins.both(path, &body).await;
        assert_eq!((direct.status, through.status), (StatusCode::OK, StatusCode::OK), "{body}: {} {}", direct.text, through.text);
        let ids = |value: Value| value.to_string().contains("tool_calls");
        if ids(direct.json()) {
            // Calls have ids of their own.
            let call = |reply: &Reply| reply.json()["choices"][0]["message"]["tool_calls"][0]["function"].clone();
            assert_eq!(call(&direct), call(&through), "{body}");
            continue;
        }
        assert_eq!(plain(direct.json()), plain(through.json()), "{body}");
    }
}

#[tokio::test]
async fn streams_say_the_same() {
    let twins = Twins::new().await;
    let all = chats().into_iter().map(|body| (CHAT, body)).chain(completions().into_iter().map(|body| (COMPLETIONS, body)));
    for (path, body) in all {
        let body = merged(body, &json!({"stream": true, "stream_options": {"include_usage": true}}));
        let (direct, through) = twins.both(path, &body).await;
        let told = |reply: &Reply| {
            let (mut texts, mut ends) = (std::collections::BTreeMap::<u64, String>::new(), Vec::new());
            let events = reply.events();
            for choice in events.iter().flat_map(|event| event["choices"].as_array().unwrap()) {
                let text = texts.entry(choice["index"].as_u64().unwrap()).or_default();
                text.push_str(choice["text"].as_str().or(choice["delta"]["content"].as_str()).unwrap_or_default());
                let arguments = &choice["delta"]["tool_calls"][0]["function"]["arguments"];
                text.push_str(arguments.as_str().unwrap_or_default());
                if !choice["finish_reason"].is_null() {
                    ends.push((choice["index"].as_u64(), choice["finish_reason"].clone()));
                }
            }
            ends.sort_by_key(|(index, _)| *index);
            (texts, ends, plain(events.last().unwrap().clone()))
        };
        assert_eq!(told(&direct), told(&through), "{body}");
    }
}

#[tokio::test]
async fn mistakes_are_named_alike() {
    let twins = Twins::new().await;
    let wrong = [
        json!({"temperature": 3}),
        json!({"n": 0}),
        json!({"messages": []}),
        json!({"messages": [{"role": "nobody", "content": "x"}]}),
        json!({"max_tokens": 1_000_000}),
        json!({"response_format": {"type": "xml"}}),
        json!({"logprobs": false, "top_logprobs": 3}),
        json!({"nonsense": 1}),
    ];
    for more in wrong {
        let (direct, through) = twins.both(CHAT, &merged(chat_body(), &more)).await;
        let (direct, through) = (direct.error(), through.error());
        assert_eq!((direct.0, through.0), (400, 400), "{more}");
        // A context that is too long has a code of its own everywhere; fields are named as they were there.
        assert!(direct.3 == through.3 || direct.2 == json!("context_length_exceeded"), "{more}: {direct:?} {through:?}");
        assert_eq!(direct.2 == json!("context_length_exceeded"), through.2 == json!("context_length_exceeded"), "{more}");
    }
}

#[tokio::test]
async fn both_ledgers_count_the_same_and_leaving_ends_both() {
    let twins = Twins::new().await;
    twins.near.ok(CHAT, &merged(chat_body(), &json!({"model": "big"}))).await;
    twins.near.events(CHAT, merged(chat_body(), &json!({"model": "big"}))).await;
    let counted = async |harness: &Harness| {
        let rows = crate::upstreams::rows(harness, 2).await;
        rows.iter().map(|row| (row.input_tokens, row.output_tokens, row.outcome.clone())).collect::<Vec<_>>()
    };
    assert_eq!(counted(&twins.near).await, counted(&twins.far).await);
    let vectors = json!({"model": BASE, "input": ["one", "two"]});
    let (direct, through) = twins.both("/v1/embeddings", &vectors).await;
    assert_eq!(plain(direct.json()), plain(through.json()));
    twins.far.idle().await;
}
