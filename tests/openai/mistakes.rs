//! Mistakes of callers: each with its field's name, none with an effect.

use axum::body::{Body, Bytes};
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::support::{Harness, KEY, Options, SeededOptions, chat_body, completion_body, merged, request};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

#[tokio::test]
async fn chat_fields_are_checked_by_name() {
    let server = Harness::new().await;
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let many_biases: serde_json::Map<String, Value> = (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    let cases: Vec<(Value, &str, &str)> = vec![
        (json!({"model": null}), "missing_required_parameter", "model"),
        (json!({"model": 3}), "invalid_type", "model"),
        (json!({"model": ""}), "empty_string", "model"),
        (json!({"messages": null}), "missing_required_parameter", "messages"),
        (json!({"messages": "hi"}), "invalid_type", "messages"),
        (json!({"messages": []}), "empty_array", "messages"),
        (json!({"messages": ["hi"]}), "invalid_type", "messages[0]"),
        (json!({"messages": [{"content": "x"}]}), "missing_required_parameter", "messages[0].role"),
        (json!({"messages": [{"role": "king", "content": "x"}]}), "invalid_value", "messages[0].role"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "missing_required_parameter", "messages[0].tool_call_id"),
        (
            json!({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}),
            "unsupported_parameter",
            "messages[0].tool_call_id",
        ),
        (json!({"messages": [{"role": "function", "content": "x", "name": "f"}]}), "unsupported_value", "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "missing_required_parameter", "messages[0].content"),
        (json!({"messages": [{"role": "assistant", "content": null}]}), "missing_required_parameter", "messages[0].content"),
        (json!({"messages": user(json!(3))}), "invalid_type", "messages[0].content"),
        (json!({"messages": user(json!([]))}), "empty_array", "messages[0].content"),
        (json!({"messages": user(json!(["x"]))}), "invalid_type", "messages[0].content[0]"),
        (
            json!({"messages": user(json!([{"type": "image_url", "image_url": {"url": "x"}}]))}),
            "unsupported_value",
            "messages[0].content[0].type",
        ),
        (json!({"messages": user(json!([{"type": "text"}]))}), "missing_required_parameter", "messages[0].content[0].text"),
        (
            json!({"messages": user(json!([{"type": "text", "text": "x", "cache": 1}]))}),
            "unknown_parameter",
            "messages[0].content[0].cache",
        ),
        (json!({"messages": [{"role": "user", "content": "x", "name": "bob"}]}), "unsupported_parameter", "messages[0].name"),
        (json!({"messages": [{"role": "user", "content": "x", "mood": 1}]}), "unknown_parameter", "messages[0].mood"),
        (json!({"temperature": -0.1}), "value_out_of_range", "temperature"),
        (json!({"temperature": 2.1}), "value_out_of_range", "temperature"),
        (json!({"temperature": "1"}), "invalid_type", "temperature"),
        (json!({"temperature": 1e300}), "value_out_of_range", "temperature"),
        (json!({"top_p": 0}), "value_out_of_range", "top_p"),
        (json!({"top_p": 1.1}), "value_out_of_range", "top_p"),
        (json!({"min_p": -1}), "value_out_of_range", "min_p"),
        (json!({"top_k": -2}), "value_out_of_range", "top_k"),
        (json!({"top_k": 1.5}), "invalid_type", "top_k"),
        (json!({"presence_penalty": 2.5}), "value_out_of_range", "presence_penalty"),
        (json!({"frequency_penalty": -2.5}), "value_out_of_range", "frequency_penalty"),
        (json!({"repetition_penalty": 0}), "value_out_of_range", "repetition_penalty"),
        (json!({"repetition_penalty": 0.005}), "value_out_of_range", "repetition_penalty"),
        (json!({"n": 0}), "value_out_of_range", "n"),
        (json!({"n": 129}), "value_out_of_range", "n"),
        (json!({"n": -1}), "value_out_of_range", "n"),
        (json!({"max_tokens": 0}), "value_out_of_range", "max_tokens"),
        (json!({"max_tokens": -5}), "value_out_of_range", "max_tokens"),
        (json!({"max_tokens": 1.5}), "invalid_type", "max_tokens"),
        (json!({"max_tokens": u64::MAX}), "value_out_of_range", "max_tokens"),
        (json!({"max_completion_tokens": 3}), "invalid_parameter_combination", "max_tokens"),
        (json!({"seed": 1.5}), "invalid_type", "seed"),
        (json!({"seed": u64::MAX}), "value_out_of_range", "seed"),
        (json!({"logprobs": 3}), "invalid_type", "logprobs"),
        (json!({"top_logprobs": 3}), "invalid_parameter_combination", "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "value_out_of_range", "top_logprobs"),
        (json!({"stop": ""}), "empty_string", "stop"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "array_above_max_length", "stop"),
        (json!({"stop": [1]}), "invalid_type", "stop[0]"),
        (json!({"stop": 1}), "invalid_type", "stop"),
        (json!({"stop_token_ids": [260]}), "value_out_of_range", "stop_token_ids[0]"),
        (json!({"stop_token_ids": [-1]}), "value_out_of_range", "stop_token_ids[0]"),
        (json!({"stop_token_ids": 5}), "invalid_type", "stop_token_ids"),
        (json!({"stop_token_ids": vec![65; 257]}), "array_above_max_length", "stop_token_ids"),
        (json!({"logit_bias": {"cat": 1}}), "invalid_value", "logit_bias"),
        (json!({"logit_bias": {"260": 1}}), "invalid_value", "logit_bias"),
        (json!({"logit_bias": {"65": 101}}), "value_out_of_range", "logit_bias.65"),
        (json!({"logit_bias": []}), "invalid_type", "logit_bias"),
        (json!({"logit_bias": many_biases}), "object_above_max_properties", "logit_bias"),
        (json!({"stream": "yes"}), "invalid_type", "stream"),
        (json!({"stream_options": {"include_usage": true}}), "invalid_value", "stream_options"),
        (json!({"stream": true, "stream_options": {"usage": true}}), "unknown_parameter", "stream_options.usage"),
        (
            json!({"stream": true, "stream_options": {"include_obfuscation": true}}),
            "unsupported_parameter",
            "stream_options.include_obfuscation",
        ),
        (json!({"ignore_eos": 1}), "invalid_type", "ignore_eos"),
        (json!({"temprature": 1}), "unknown_parameter", "temprature"),
        // Everything of the current schema that does not apply.
        (json!({"tools": [{"type": "custom", "custom": {"name": "f"}}]}), "unsupported_value", "tools[0].type"),
        (json!({"tools": [{"type": "function", "function": {"name": "f g"}}]}), "invalid_value", "tools[0].function.name"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]}),
            "invalid_schema",
            "tools[0].function.parameters",
        ),
        (json!({"tool_choice": "auto"}), "invalid_value", "tool_choice"),
        (json!({"tool_choice": {"type": "function", "function": {"name": "f"}}}), "invalid_value", "tool_choice"),
        (json!({"functions": [{"name": "f"}]}), "unsupported_parameter", "functions"),
        (json!({"function_call": "auto"}), "unsupported_parameter", "function_call"),
        (json!({"response_format": {"type": "xml"}}), "unsupported_value", "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "missing_required_parameter", "response_format.json_schema"),
        (json!({"guided_choice": []}), "array_above_max_length", "guided_choice"),
        (json!({"guided_regex": "(?=a)b"}), "invalid_schema", "guided_regex"),
        (json!({"guided_grammar": "start: nothing"}), "invalid_schema", "guided_grammar"),
        (json!({"guided_json": {"not": {}}}), "invalid_schema", "guided_json"),
        (json!({"guided_json": {}, "guided_regex": "a"}), "invalid_parameter_combination", "guided_regex"),
        (json!({"structured_outputs": {}}), "unsupported_parameter", "structured_outputs"),
        (json!({"audio": {"voice": "x"}}), "unsupported_parameter", "audio"),
        (json!({"modalities": ["text", "audio"]}), "unsupported_parameter", "modalities"),
        (json!({"moderation": {"model": "m"}}), "unsupported_parameter", "moderation"),
        (json!({"prediction": {"type": "content", "content": "x"}}), "unsupported_parameter", "prediction"),
        (json!({"prompt_cache_options": {"mode": "explicit"}}), "unsupported_parameter", "prompt_cache_options"),
        (json!({"prompt_cache_retention": "24h"}), "unsupported_parameter", "prompt_cache_retention"),
        (json!({"reasoning_effort": "high"}), "unsupported_parameter", "reasoning_effort"),
        (json!({"service_tier": "flex"}), "unsupported_parameter", "service_tier"),
        (json!({"store": true}), "unsupported_parameter", "store"),
        (json!({"verbosity": "low"}), "unsupported_parameter", "verbosity"),
        (json!({"web_search_options": {}}), "unsupported_parameter", "web_search_options"),
        (json!({"min_tokens": 3}), "unsupported_parameter", "min_tokens"),
        (json!({"prompt_logprobs": 1}), "unsupported_parameter", "prompt_logprobs"),
    ];
    for (more, code, param) in cases {
        let reply = server.post(CHAT, &merged(chat_body(), &more)).await;
        let expected = (400, "invalid_request_error".to_owned(), json!(code), json!(param));
        assert_eq!(reply.error(), expected, "{more}: {}", reply.text);
        assert!(reply.message().contains(param.rsplit('.').next().unwrap()), "{}", reply.message());
    }
    assert_eq!(server.engine.stats().steps, 0, "nothing reached the engine");
}

#[tokio::test]
async fn completions_fields_are_checked_by_name() {
    let server = Harness::new().await;
    let cases: Vec<(Value, &str, &str)> = vec![
        (json!({"prompt": null}), "missing_required_parameter", "prompt"),
        (json!({"prompt": 5}), "invalid_type", "prompt"),
        (json!({"prompt": []}), "empty_array", "prompt"),
        (json!({"prompt": ""}), "empty_prompt", "prompt"),
        (json!({"prompt": [[]]}), "empty_prompt", "prompt"),
        (json!({"prompt": [260]}), "value_out_of_range", "prompt[0]"),
        (json!({"prompt": [1, "a"]}), "invalid_type", "prompt[1]"),
        (json!({"prompt": ["a", 1]}), "invalid_type", "prompt[1]"),
        (json!({"prompt": [[1], [2, -1]]}), "value_out_of_range", "prompt[1][1]"),
        (json!({"prompt": vec!["x"; 257]}), "array_above_max_length", "prompt"),
        (json!({"prompt": ["x", "y", "z"], "n": 100}), "value_out_of_range", "n"),
        (json!({"suffix": "end"}), "unsupported_parameter", "suffix"),
        (json!({"best_of": 2}), "unsupported_parameter", "best_of"),
        (json!({"logprobs": 21}), "value_out_of_range", "logprobs"),
        (json!({"logprobs": true}), "invalid_type", "logprobs"),
        (json!({"max_tokens": 0}), "value_out_of_range", "max_tokens"),
        (json!({"echo": "yes"}), "invalid_type", "echo"),
        (json!({"messages": []}), "unknown_parameter", "messages"),
        (json!({"response_format": {"type": "json_schema"}}), "missing_required_parameter", "response_format.json_schema"),
    ];
    for (more, code, param) in cases {
        let reply = server.post(COMPLETIONS, &merged(completion_body(), &more)).await;
        let expected = (400, "invalid_request_error".to_owned(), json!(code), json!(param));
        assert_eq!(reply.error(), expected, "{more}: {}", reply.text);
    }
}

/// What the description promises is what the server takes: values at its bounds are answered, values beyond are 400 by name.
#[tokio::test]
async fn the_described_bounds_are_the_bounds() {
    let server = Harness::new().await;
    let document = server.get("/openapi.json").await.json();
    let mut checked = 0;
    for (path, schema, body) in
        [(CHAT, "ChatCompletionRequest", chat_body()), (COMPLETIONS, "CompletionRequest", completion_body())]
    {
        for (name, field) in document["components"]["schemas"][schema]["properties"].as_object().unwrap() {
            for (bound, step) in [("minimum", -1.0), ("maximum", 1.0)] {
                let Some(limit) = field[bound].as_f64() else { continue };
                let step = if field["type"] == "integer" { step } else { step / 1024.0 };
                let value = |value: f64| if field["type"] == "integer" { json!(value as i64) } else { json!(value) };
                // Some fields only go with another.
                let with = json!({"logprobs": if path == CHAT { json!(true) } else { json!(1) }, "echo": path == COMPLETIONS});
                let mut body = merged(body.clone(), &with);
                if path == CHAT {
                    body.as_object_mut().unwrap().remove("echo");
                    body.as_object_mut().unwrap().remove("max_tokens");
                }
                let at = server.post(path, &merged(body.clone(), &json!({name: value(limit)}))).await;
                assert_eq!(at.status.as_u16(), 200, "{path} {name} {bound}: {}", at.text);
                let beyond = server.post(path, &merged(body, &json!({name: value(limit + step)}))).await;
                assert_eq!((beyond.error().0, beyond.error().3), (400, json!(name)), "{bound}");
                checked += 1;
            }
        }
    }
    assert!(checked > 25, "{checked}");
}

/// A tokenizer can know tokens that the model has no row for; a text that spells one is the caller's mistake.
#[tokio::test]
async fn a_value_that_only_the_engine_can_judge_is_400_by_name() {
    let model = SeededOptions { vocab: 258, ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    let completion = server.post(COMPLETIONS, &merged(completion_body(), &json!({"prompt": "a<|endoftext|>"}))).await;
    assert_eq!(completion.error(), (400, "invalid_request_error".to_owned(), json!("invalid_value"), json!("prompt")));
    assert!(completion.message().contains("token 1 is 258"), "{}", completion.message());
    let messages = json!({"messages": [{"role": "user", "content": "<|endoftext|>"}]});
    assert_eq!(server.post(CHAT, &merged(chat_body(), &messages)).await.error().3, "messages");
}

#[tokio::test]
async fn what_does_not_fit_the_context_is_told_with_both_numbers() {
    let model = SeededOptions { context: 64, ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    for (path, body, numbers) in [
        (CHAT, merged(chat_body(), &json!({"max_tokens": 41})), ["64 tokens", "65 tokens (24 in the prompt, 41 in"]),
        (CHAT, merged(chat_body(), &json!({"max_completion_tokens": u32::MAX, "max_tokens": null})), ["64 tokens", "24 in the"]),
        (COMPLETIONS, merged(completion_body(), &json!({"prompt": "x".repeat(70)})), ["64 tokens", "70 in the prompt"]),
    ] {
        let reply = server.post(path, &body).await;
        let (status, kind, code, param) = reply.error();
        assert_eq!((status, kind.as_str(), code), (400, "invalid_request_error", json!("context_length_exceeded")));
        assert_eq!(param, if path == CHAT { "messages" } else { "prompt" });
        assert!(numbers.iter().all(|number| reply.message().contains(number)), "{}", reply.message());
    }
    let mut open = chat_body();
    open["messages"][0]["content"] = json!("x".repeat(100));
    open.as_object_mut().unwrap().remove("max_tokens");
    assert_eq!(server.post(CHAT, &open).await.error().2, "context_length_exceeded");
}

#[tokio::test]
async fn a_template_that_refuses_or_is_missing_is_the_callers_business() {
    let strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('The first message must be from the user') }}\
                  {% endif %}{{ messages[0]['content'] }}";
    let server = Harness::with(Options { chat_template: Some(strict), ..Options::default() }).await;
    let reply = server.post(CHAT, &merged(chat_body(), &json!({"messages": [{"role": "system", "content": "x"}]}))).await;
    assert_eq!(reply.error(), (400, "invalid_request_error".to_owned(), json!("invalid_messages"), json!("messages")));
    assert!(reply.message().contains("The first message must be from the user"), "{}", reply.message());
    let server = Harness::with(Options { chat_template: None, ..Options::default() }).await;
    assert_eq!(server.post(CHAT, &chat_body()).await.error().2, "no_chat_template");
}

#[tokio::test]
async fn bodies_that_are_not_json_are_told_with_their_place() {
    let server = Harness::new().await;
    for (body, text) in [
        (&b"{\"model\": \"tiny\",\n  oops}"[..], "line 2 column 3"),
        (b"", "empty"),
        (b"   ", "empty"),
        (b"{\"model\": \"\xff\"}", "offset 11"),
        (b"{\"model\": \"\\ud800\"}", "line 1"),
        (b"[1, 2]", "must be a JSON object, but got an array"),
        (b"\"text\"", "must be a JSON object, but got a string"),
        (b"{\"temperature\": NaN}", "line 1"),
        (b"{\"temperature\": 1e999}", "out of range"),
        (b"{} trailing", "line 1 column 4"),
    ] {
        let reply = server.send(request(Method::POST, CHAT, Body::from(body))).await;
        let (status, kind, _, param) = reply.error();
        assert_eq!((status, kind.as_str(), param), (400, "invalid_request_error", Value::Null));
        assert!(reply.message().contains(text), "{}", reply.message());
    }
    let deep = [b"[".repeat(200_000), b"]".repeat(200_000)].concat();
    assert_eq!(server.send(request(Method::POST, CHAT, Body::from(deep))).await.error().0, 400);
}

#[tokio::test]
async fn unknown_paths_and_methods_have_the_envelope_too() {
    let server = Harness::new().await;
    assert_eq!(server.get("/v1/moderations").await.error().0, 404);
    let reply = server.get("/v1/models/%ff").await;
    assert_eq!((reply.error().0, reply.error().1.as_str()), (400, "invalid_request_error"));
    let reply = server.get(CHAT).await;
    assert_eq!((reply.error().0, reply.error().2), (405, json!("method_not_allowed")));
    assert_eq!(reply.headers["allow"], "POST");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_without_being_kept() {
    let server = Harness::new().await;
    // 100 MB in pieces, with and without a length.
    let piece = Bytes::from(vec![b' '; 1 << 20]);
    let body = || {
        let pieces = std::iter::repeat_n(Ok::<_, std::convert::Infallible>(piece.clone()), 100);
        Body::from_stream(futures::stream::iter(pieces))
    };
    let chunked = server.send(request(Method::POST, CHAT, body())).await;
    let mut with_length = request(Method::POST, CHAT, body());
    with_length.headers_mut().insert("content-length", (100u64 << 20).into());
    for reply in [chunked, server.send(with_length).await] {
        assert_eq!((reply.error().0, reply.error().2), (413, json!("request_too_large")));
        assert!(reply.message().contains("8388608 bytes"), "{}", reply.message());
        assert_eq!(reply.headers["connection"], "close");
    }
    let unknown = Request::post(CHAT).body(body()).unwrap();
    assert_eq!(server.send(unknown).await.status.as_u16(), 401, "the key comes first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_100_mb_over_a_socket_sees_the_413() {
    let server = Harness::new().await;
    let listening = server.listen().await;
    let client = switchyard::outbound::client(std::time::Duration::from_secs(120)).unwrap();
    let post = client.post(format!("{}{CHAT}", listening.url)).bearer_auth(KEY).body(vec![b'x'; 100 << 20]);
    let response = post.send().await.unwrap();
    assert_eq!(response.status().as_u16(), 413);
    let envelope: Value = response.json().await.unwrap();
    assert_eq!(envelope["error"]["code"], "request_too_large");
    // And the server goes on.
    let response = client.post(format!("{}{CHAT}", listening.url)).bearer_auth(KEY).body(chat_body().to_string()).send().await;
    assert_eq!(response.unwrap().status().as_u16(), 200);
}
