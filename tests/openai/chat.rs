//! Chat: whole answers.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::support::{BASE, END, Harness, KEY, Options, SeededOptions, chat_body, merged, request};

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn an_answer_has_openais_shape() {
    let server = Harness::new().await;
    let reply = server.post("/v1/chat/completions", &chat_body()).await;
    assert_eq!(reply.headers["x-adapter-version"], "base");
    assert!(reply.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
    let answer = reply.json();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!(BASE)));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!("length"), &Value::Null));
    assert_eq!(content(&answer).len(), 24, "one byte is one token here");
    // <|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n
    let prompt = 1 + 5 + 5 + 1 + 1 + 1 + 10;
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": 24, "total_tokens": prompt + 24,
                       "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(answer["usage"], usage);
}

#[tokio::test]
async fn the_second_time_the_prompts_full_blocks_come_from_the_cache() {
    let server = Harness::new().await;
    let first = server.chat(&json!({})).await;
    let second = server.chat(&json!({})).await;
    assert_eq!(content(&first), content(&second));
    assert_eq!(second["usage"]["prompt_tokens_details"]["cached_tokens"], 16);
}

#[tokio::test]
async fn an_end_token_stops_and_is_not_part_of_the_text() {
    let model = SeededOptions { eos_bias: 30.0, ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    let answer = server.chat(&json!({"logprobs": true})).await;
    assert_eq!((content(&answer), &answer["choices"][0]["finish_reason"]), ("", &json!("stop")));
    assert_eq!(answer["choices"][0]["logprobs"]["content"], json!([]));
    assert_eq!(answer["usage"]["completion_tokens"], 1);
    let ignored = server.chat(&json!({"ignore_eos": true, "max_tokens": 5})).await;
    assert_eq!((content(&ignored), &ignored["choices"][0]["finish_reason"]), ("", &json!("length")));
    assert_eq!(ignored["usage"]["completion_tokens"], 5);
}

#[tokio::test]
async fn stop_strings_cut_the_text_wherever_tokens_end() {
    let server = Harness::new().await;
    let whole = content(&server.chat(&json!({})).await).to_owned();
    let stop = &whole[7..11];
    let cut = &whole[..whole.find(stop).unwrap()];
    let answer = server.chat(&json!({"stop": ["never there", stop]})).await;
    assert_eq!((content(&answer), &answer["choices"][0]["finish_reason"]), (cut, &json!("stop")));
    assert_eq!(answer["usage"]["completion_tokens"], cut.len() + stop.len());
    let answer = server.chat(&json!({"stop": stop, "include_stop_str_in_output": true})).await;
    assert_eq!(content(&answer), format!("{cut}{stop}"));
    let token = u32::from(whole.as_bytes()[3]);
    let before = whole.bytes().position(|byte| u32::from(byte) == token).unwrap();
    let answer = server.chat(&json!({"stop_token_ids": [token]})).await;
    assert_eq!((content(&answer), &answer["choices"][0]["finish_reason"]), (&whole[..before], &json!("stop")));
    // The reports agree with the text.
    let answer = server.chat(&json!({"stop": stop, "logprobs": true})).await;
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let joined: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(joined, cut);
    server.idle().await;
}

#[tokio::test]
async fn cached_tokens_are_told_also_when_a_stop_string_ends_the_answer() {
    let server = Harness::new().await;
    let whole = content(&server.chat(&json!({})).await).to_owned();
    let answer = server.chat(&json!({"stop": &whole[4..6]})).await;
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 16);
}

#[tokio::test]
async fn seeds_repeat_answers_and_n_counts_them_up() {
    let server = Harness::new().await;
    let three = server.chat(&json!({"temperature": 1.5, "seed": 7, "n": 3})).await;
    let texts: Vec<&str> =
        three["choices"].as_array().unwrap().iter().map(|choice| choice["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(texts.len(), 3);
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    for (index, text) in texts.iter().enumerate() {
        assert_eq!(three["choices"][index]["index"], index);
        let alone = server.chat(&json!({"temperature": 1.5, "seed": 7 + index})).await;
        assert_eq!(content(&alone), *text);
    }
    assert_eq!(three["usage"]["completion_tokens"], 72);
    assert_eq!(three["usage"]["prompt_tokens"], 24, "the prompt counts once");
    let unseeded = server.chat(&json!({"temperature": 1.5})).await;
    assert_ne!(content(&unseeded), content(&server.chat(&json!({"temperature": 1.5})).await));
}

#[tokio::test]
async fn log_probabilities_describe_every_token_of_the_text() {
    let server = Harness::new().await;
    let answer = server.chat(&json!({"logprobs": true, "top_logprobs": 3})).await;
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let joined: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(joined, content(&answer));
    for token in &tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]), "greedy takes the best");
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
        assert_eq!(token["bytes"], json!(token["token"].as_str().unwrap().as_bytes()));
    }
    let none = server.chat(&json!({"logprobs": true})).await;
    assert_eq!(none["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
}

#[tokio::test]
async fn logit_bias_and_penalties_reach_the_sampler() {
    let server = Harness::new().await;
    let answer = server.chat(&json!({"logit_bias": {"65": 100}, "max_tokens": 4})).await;
    assert_eq!(content(&answer), "AAAA");
    let answer = server.chat(&json!({"logit_bias": {"65": 60, "66": 59}, "presence_penalty": 2, "max_tokens": 3})).await;
    assert_eq!(&content(&answer)[..2], "AB");
    let answer = server.chat(&json!({"temperature": 2, "top_k": 1, "max_tokens": 24})).await;
    assert_eq!(content(&answer), content(&server.chat(&json!({})).await), "top_k 1 is greedy");
}

#[tokio::test]
async fn roles_and_text_parts_are_rendered_by_the_template() {
    let server = Harness::new().await;
    let prompt = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n";
    let messages = json!([
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]);
    let chat = server.chat(&json!({"messages": messages})).await;
    let plain = server.complete(&json!({"prompt": prompt})).await;
    assert_eq!(content(&chat), plain["choices"][0]["text"]);
    assert_eq!(chat["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"]);
    let closed = server.chat(&json!({"messages": messages, "add_generation_prompt": false})).await;
    assert_eq!(closed["usage"]["prompt_tokens"].as_u64().unwrap(), chat["usage"]["prompt_tokens"].as_u64().unwrap() - 11);
}

#[tokio::test]
async fn without_a_limit_an_answer_fills_the_context() {
    let model = SeededOptions { context: 64, ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    let mut body = chat_body();
    body.as_object_mut().unwrap().remove("max_tokens");
    let answer = server.ok("/v1/chat/completions", &body).await;
    assert_eq!(answer["usage"]["total_tokens"], 64);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn harmless_fields_are_taken() {
    let server = Harness::new().await;
    let plain = server.chat(&json!({})).await;
    let more = json!({
        "user": "u", "metadata": {"a": "b"}, "store": false, "service_tier": "auto", "safety_identifier": "s",
        "prompt_cache_key": "k", "parallel_tool_calls": true, "tools": [], "tool_choice": "none",
        "response_format": {"type": "text"}, "modalities": ["text"], "reasoning_effort": "none", "audio": null,
        "stop": null, "logit_bias": null, "top_k": -1, "min_p": 0, "repetition_penalty": 1, "min_tokens": 0, "n": 1,
    });
    assert_eq!(content(&server.chat(&more).await), content(&plain));
}

#[tokio::test]
async fn a_callers_request_id_comes_back_and_keys_are_asked_for() {
    let server = Harness::new().await;
    let mut with_id = request(Method::POST, "/v1/chat/completions", Body::from(chat_body().to_string()));
    with_id.headers_mut().insert("x-request-id", "trace-42".parse().unwrap());
    assert_eq!(server.send(with_id).await.headers["x-request-id"], "trace-42");
    for header in [None, Some("Bearer wrong-key-wrong-key"), Some("Basic abc"), Some("Bearer ")] {
        let mut request = Request::post("/v1/chat/completions");
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let reply = server.send(request.body(Body::from(chat_body().to_string())).unwrap()).await;
        let (status, kind, code, _) = reply.error();
        assert_eq!((status, kind.as_str(), code), (401, "invalid_request_error", json!("invalid_api_key")), "{header:?}");
        assert!(!reply.text.contains(KEY) && !reply.text.contains("wrong-key-wrong-key"));
    }
}

#[tokio::test]
async fn characters_are_never_torn_and_bad_bytes_become_replacements() {
    // Any byte is as likely as another: nearly every answer has broken characters.
    let model = SeededOptions { text_bias: 0.0, ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    for seed in 0..20 {
        let body = merged(chat_body(), &json!({"temperature": 1, "seed": seed, "logprobs": true, "max_tokens": 40}));
        let whole = server.ok("/v1/chat/completions", &body).await;
        let bytes: Vec<u8> = whole["choices"][0]["logprobs"]["content"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|token| token["bytes"].as_array().unwrap().len() == 1)
            .map(|token| u8::try_from(token["bytes"][0].as_u64().unwrap()).unwrap())
            .collect();
        assert_eq!(content(&whole), String::from_utf8_lossy(&bytes));
        let streamed = server.events("/v1/chat/completions", body).await;
        let joined: String = streamed.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(joined, content(&whole));
    }
    assert_eq!(END, 256);
}
