//! Completions: prompts in all their shapes, echo, and the older format of log-probabilities.

use serde_json::{Value, json};

use switchyard::engine::EngineConfig;

use crate::support::{END, Harness, Options, SeededOptions, completion_body, merged};

fn text(answer: &Value, index: usize) -> &str {
    answer["choices"][index]["text"].as_str().unwrap()
}

#[tokio::test]
async fn prompts_may_be_texts_or_tokens_one_or_many() {
    let server = Harness::new().await;
    let one = server.complete(&json!({"prompt": "hello"})).await;
    assert!(one["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!((&one["object"], text(&one, 0).len()), (&json!("text_completion"), 24));
    let ids: Vec<u8> = b"hello".to_vec();
    let tokens = server.complete(&json!({"prompt": ids})).await;
    assert_eq!(text(&tokens, 0), text(&one, 0));
    let other = server.complete(&json!({"prompt": "other"})).await;
    for many in [json!(["hello", "other"]), json!([b"hello", b"other"])] {
        let many = server.complete(&json!({"prompt": many, "n": 2})).await;
        let texts: Vec<&str> = (0..4).map(|index| text(&many, index)).collect();
        assert_eq!(texts, [text(&one, 0), text(&one, 0), text(&other, 0), text(&other, 0)]);
        assert_eq!(many["usage"]["prompt_tokens"], 10);
        assert_eq!(many["usage"]["completion_tokens"], 96);
    }
    let short = server.ok("/v1/completions", &json!({"model": "tiny", "prompt": "x"})).await;
    assert_eq!(short["usage"]["completion_tokens"], 16, "OpenAI's default");
}

#[tokio::test]
async fn log_probabilities_come_in_four_parallel_lists() {
    let server = Harness::new().await;
    let answer = server.complete(&json!({"logprobs": 2, "max_tokens": 6})).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[field].as_array().unwrap().len(), 6, "{field}");
    }
    let joined: String = logprobs["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(joined, text(&answer, 0));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3, 4, 5]));
    assert_eq!(logprobs["top_logprobs"][0].as_object().unwrap().len(), 2);
    let name = logprobs["tokens"][0].as_str().unwrap();
    assert_eq!(logprobs["top_logprobs"][0][name], logprobs["token_logprobs"][0]);
    // A token that is not among the best comes in addition.
    let sampled = server.complete(&json!({"logprobs": 1, "temperature": 2, "seed": 3, "max_tokens": 24})).await;
    let tops = sampled["choices"][0]["logprobs"]["top_logprobs"].as_array().unwrap();
    assert!(tops.iter().any(|top| top.as_object().unwrap().len() == 2));
}

/// As lm-eval scores a continuation: the prompt's log-probabilities, from an echo with one token more or none.
#[tokio::test]
async fn an_echo_scores_its_prompt() {
    let server = Harness::new().await;
    let prompt = "score é this";
    let scored = server.complete(&json!({"prompt": prompt, "echo": true, "max_tokens": 0, "logprobs": 1})).await;
    let choice = &scored["choices"][0];
    assert_eq!((text(&scored, 0), &choice["finish_reason"]), (prompt, &json!("length")));
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), prompt.len());
    assert_eq!((&logprobs["token_logprobs"][0], &logprobs["top_logprobs"][0]), (&Value::Null, &Value::Null));
    assert!(logprobs["token_logprobs"].as_array().unwrap()[1..].iter().all(|logprob| logprob.as_f64().unwrap() < 0.0));
    assert_eq!(logprobs["tokens"][6], "bytes:\\xc3", "half a character");
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11]), "characters, not bytes");

    let one_more = server.complete(&json!({"prompt": prompt, "echo": true, "max_tokens": 1, "logprobs": 1})).await;
    let more = one_more["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    assert_eq!(more.len(), prompt.len() + 1);
    assert_eq!(json!(more[..prompt.len()]), logprobs["token_logprobs"]);
    assert_eq!(text(&one_more, 0).chars().count(), prompt.chars().count() + 1);
    // What was generated is scored alike when it comes back as a prompt.
    let again = json!({"prompt": text(&one_more, 0), "echo": true, "max_tokens": 0, "logprobs": 1});
    let again = server.complete(&again).await;
    assert_eq!(json!(more), again["choices"][0]["logprobs"]["token_logprobs"]);

    let ids: Vec<u8> = prompt.as_bytes().to_vec();
    let tokens = server.complete(&json!({"prompt": [ids], "echo": true, "max_tokens": 0, "logprobs": 1})).await;
    assert_eq!(tokens["choices"], scored["choices"]);
}

#[tokio::test]
async fn an_end_token_is_counted_among_the_reports_of_a_completion() {
    let model = SeededOptions { eos_bias: 30.0, ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    let answer = server.complete(&json!({"echo": true, "max_tokens": 1, "logprobs": 1})).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 6, "five of the prompt and the end");
    assert_eq!(logprobs["tokens"][5], "<|im_end|>");
    assert_eq!((text(&answer, 0), &answer["choices"][0]["finish_reason"]), ("hello", &json!("stop")));
    assert_eq!(END, 256);
}

#[tokio::test]
async fn an_echo_without_log_probabilities_is_text() {
    let server = Harness::new().await;
    let plain = server.complete(&json!({})).await;
    let echoed = server.complete(&json!({"echo": true, "n": 2})).await;
    for index in 0..2 {
        assert_eq!(text(&echoed, index), format!("hello{}", text(&plain, 0)));
        assert_eq!(echoed["choices"][index]["logprobs"], Value::Null);
    }
    // A stop string in the prompt stops nothing.
    let stopped = server.complete(&json!({"echo": true, "stop": "hell"})).await;
    assert!(text(&stopped, 0).starts_with("hello"));
}

#[tokio::test]
async fn answers_to_one_prompt_share_its_scores() {
    let engine = EngineConfig { max_sequences: 1, ..EngineConfig::default() };
    let server = Harness::with(Options { engine, ..Options::default() }).await;
    let more = json!({"prompt": ["a prompt of more than two blocks of tokens", "another"], "echo": true, "logprobs": 2});
    let sampled = |more: &Value, n: usize| merged(more.clone(), &json!({"n": n, "temperature": 1, "seed": 7}));
    let one = server.complete(&sampled(&more, 1)).await;
    let many = server.complete(&sampled(&more, 3)).await;
    for choice in 0..6 {
        let prompt = more["prompt"][choice / 3].as_str().unwrap();
        let (mine, first) = (&many["choices"][choice], &one["choices"][choice / 3]);
        assert!(mine["text"].as_str().unwrap().starts_with(prompt));
        for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let list = |choice: &Value| choice["logprobs"][field].as_array().unwrap().clone();
            assert_eq!(list(mine).len(), prompt.len() + 24, "{field} of {choice}");
            assert_eq!(list(mine)[..prompt.len()], list(first)[..prompt.len()], "{field} of {choice}");
        }
    }
    // The engine scores a prompt once; further answers to it find its blocks.
    assert_eq!(server.engine.stats().prefix_hit_tokens, 2 * 32);
    let events = server.events("/v1/completions", merged(completion_body(), &sampled(&more, 3))).await;
    for choice in 0..6 {
        let mine = events.iter().map(|event| &event["choices"][0]).filter(|event| event["index"] == choice);
        let tokens: Vec<Value> = mine.flat_map(|event| event["logprobs"]["tokens"].as_array().unwrap().clone()).collect();
        assert_eq!(json!(tokens), many["choices"][choice]["logprobs"]["tokens"]);
    }
}

#[tokio::test]
async fn more_scores_than_memory_is_given_to_are_refused_before_any_work() {
    let server = Harness::new().await;
    let body = json!({"prompt": vec![vec![65; 500]; 128], "echo": true, "max_tokens": 0, "logprobs": 20});
    let reply = server.post("/v1/completions", &merged(completion_body(), &body)).await;
    assert_eq!(reply.error(), (400, "invalid_request_error".to_owned(), json!("value_out_of_range"), json!("logprobs")));
    assert!(reply.message().contains("1344000") && reply.message().contains("1048576"), "{}", reply.message());
    assert_eq!(server.engine.stats().steps, 0);
}
