//! Texts, lengths, draws, reports, limits, adapters and deployments.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::subject::{Kind, Subject};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const UNABLE: &str = "unsupported_by_backend";

fn text(reply: &Value) -> &str {
    let choice = &reply["choices"][0];
    choice["message"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_else(|| panic!("no text: {reply}"))
}

fn tokens(reply: &Value, name: &str) -> u64 {
    reply["usage"][name].as_u64().unwrap_or_else(|| panic!("no usage.{name}: {reply}"))
}

pub async fn a_chat_has_a_text_an_end_and_a_usage(subject: &Subject) {
    let reply = subject.chat(&json!({})).await;
    assert_eq!((&reply["object"], &reply["model"]), (&json!("chat.completion"), &json!(subject.model)));
    assert!(!text(&reply).is_empty() && reply["choices"][0]["message"]["role"] == "assistant", "{reply}");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!(tokens(&reply, "completion_tokens"), 16);
    assert_eq!(tokens(&reply, "total_tokens"), tokens(&reply, "prompt_tokens") + 16);
    let longer = json!({"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]});
    let longer = subject.chat(&longer).await;
    assert!(tokens(&longer, "prompt_tokens") > tokens(&reply, "prompt_tokens"), "all messages are read");
    assert_eq!(text(&subject.chat(&json!({})).await), text(&reply), "a greedy answer is a function of its request");
}

pub async fn completions_take_texts_and_tokens(subject: &Subject) {
    let one = subject.complete(&json!({})).await;
    let both = subject.complete(&json!({"prompt": ["one two three", "four"]})).await;
    assert_eq!(both["choices"].as_array().unwrap().len(), 2);
    assert_eq!((&both["choices"][0]["text"], &both["choices"][1]["index"]), (&one["choices"][0]["text"], &json!(1)));
    let (ids, echoed) = (json!([40, 41, 42]), json!({"prompt": [40, 41, 42], "echo": true}));
    let answer = subject.complete(&json!({"prompt": ids})).await;
    assert_eq!(tokens(&answer, "prompt_tokens"), 3);
    let whole = subject.complete(&echoed).await;
    assert!(text(&whole).ends_with(text(&answer)) && text(&whole) != text(&answer), "{whole}");
}

pub async fn a_stream_says_what_the_whole_answer_says(subject: &Subject) {
    for (path, body) in [
        (CHAT, subject.chat_body(&json!({}))),
        (CHAT, subject.chat_body(&json!({"n": 2, "temperature": 1, "seed": 3}))),
        (COMPLETIONS, subject.completion_body(&json!({}))),
    ] {
        let whole = subject.ok(path, &body).await;
        let events = subject.events(path, &body).await;
        for choice in whole["choices"].as_array().unwrap() {
            let of = events.iter().flat_map(|event| event["choices"].as_array().unwrap());
            let of: Vec<&Value> = of.filter(|piece| piece["index"] == choice["index"]).collect();
            let said = |piece: &&Value| piece["delta"]["content"].as_str().or(piece["text"].as_str()).map(str::to_owned);
            let all: String = of.iter().filter_map(said).collect();
            assert_eq!(Some(all.as_str()), choice["message"]["content"].as_str().or(choice["text"].as_str()), "{body}");
            let ends: Vec<&Value> = of.iter().map(|piece| &piece["finish_reason"]).filter(|end| !end.is_null()).collect();
            assert_eq!(ends, [&choice["finish_reason"]], "{body}");
        }
        let usage = &events.last().unwrap()["usage"];
        assert_eq!(usage["completion_tokens"], whole["usage"]["completion_tokens"]);
        assert_eq!(usage["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    }
}

pub async fn usage_is_what_the_ledger_has(subject: &Subject) {
    let replies = [subject.chat(&json!({})).await, subject.complete(&json!({"n": 2, "temperature": 1, "seed": 1})).await];
    subject.events(CHAT, &subject.chat_body(&json!({}))).await;
    // Rows reach the database a little later than their answers the client.
    let (mut export, began) = (String::new(), Instant::now());
    while export.lines().count() < 3 && began.elapsed() < Duration::from_secs(20) {
        export = subject.read("/admin/usage/export?format=jsonl&start_time=0").await;
        tokio::task::yield_now().await;
    }
    let rows: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let counted: Vec<(u64, u64)> =
        rows.iter().map(|row| (row["input_tokens"].as_u64().unwrap(), row["output_tokens"].as_u64().unwrap())).collect();
    let mut expected: Vec<(u64, u64)> =
        replies.iter().map(|reply| (tokens(reply, "prompt_tokens"), tokens(reply, "completion_tokens"))).collect();
    expected.push(expected[0]);
    assert_eq!(counted, expected, "{export}");
    assert!(rows.iter().all(|row| row["model"] == subject.model), "{export}");
}

pub async fn an_answer_ends_before_its_stop_string(subject: &Subject) {
    let free = subject.complete(&json!({"max_tokens": 40})).await;
    let free = text(&free).to_owned();
    let characters: Vec<char> = free.chars().collect();
    let stop: String = characters[characters.len() / 2..characters.len() / 2 + 2].iter().collect();
    let before = &free[..free.find(&stop).unwrap()];
    for stops in [json!(stop), json!(["never said, ever", stop])] {
        let body = subject.completion_body(&json!({"max_tokens": 40, "stop": stops}));
        let whole = subject.ok(COMPLETIONS, &body).await;
        assert_eq!((text(&whole), &whole["choices"][0]["finish_reason"]), (before, &json!("stop")));
        let pieces = subject.events(COMPLETIONS, &body).await;
        let said: String = pieces.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        assert_eq!(said, before, "nothing of it gets out");
    }
}

pub async fn lengths_are_kept(subject: &Subject) {
    for (name, value) in [("max_tokens", 1), ("max_completion_tokens", 3)] {
        let reply = subject.chat(&json!({"max_tokens": null, name: value})).await;
        assert_eq!((tokens(&reply, "completion_tokens"), &reply["choices"][0]["finish_reason"]), (value, &json!("length")));
    }
    let default = subject.ok(COMPLETIONS, &json!({"model": subject.model, "prompt": "one", "temperature": 0})).await;
    assert!(tokens(&default, "completion_tokens") <= 16, "OpenAI's default");
    let long = subject.refusal(COMPLETIONS, &subject.completion_body(&json!({"prompt": "word ".repeat(2_000)}))).await;
    assert_eq!((long.0, long.1), (400, json!("context_length_exceeded")));
    let long = subject.refusal(CHAT, &subject.chat_body(&json!({"max_tokens": 100_000}))).await;
    assert_eq!((long.0, long.1), (400, json!("context_length_exceeded")));
}

pub async fn several_answers_and_seeds(subject: &Subject) {
    let drawn = async |seed: u64, n: u64| {
        let reply = subject.chat(&json!({"temperature": 1, "seed": seed, "n": n, "top_p": 0.95})).await;
        let choices = reply["choices"].as_array().unwrap().clone();
        assert_eq!(choices.len() as u64, n);
        assert_eq!(tokens(&reply, "completion_tokens"), 16 * n);
        choices.into_iter().map(|choice| choice["message"]["content"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let three = drawn(11, 3).await;
    assert!(three[0] != three[1] && three[1] != three[2], "answers to one request are drawn apart");
    assert_eq!(drawn(11, 3).await, three, "a seed names its answers");
    assert_ne!(drawn(12, 1).await[0], three[0]);
}

pub async fn penalties_and_biases_change_answers(subject: &Subject) {
    let plain = subject.complete(&json!({})).await;
    let biased = subject.complete(&json!({"logit_bias": {"40": 100}, "max_tokens": 4})).await;
    let forced = subject.complete(&json!({"prompt": [40, 40, 40, 40], "echo": true, "max_tokens": 0})).await;
    assert_eq!(text(&biased), text(&forced), "four times the token that was favoured");
    let penalized = subject
        .complete(&json!({"logit_bias": {"40": 4}, "frequency_penalty": 2, "presence_penalty": 2, "max_tokens": 12}))
        .await;
    assert_ne!(text(&penalized), text(&subject.complete(&json!({"logit_bias": {"40": 4}, "max_tokens": 12})).await));
    assert_ne!(text(&plain), text(&biased));
}

pub async fn log_probabilities_are_natural_and_ranked(subject: &Subject) {
    let reply = subject.chat(&json!({"logprobs": true, "top_logprobs": 5})).await;
    let entries = reply["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(entries.len(), 16);
    for entry in entries {
        let top: Vec<f64> =
            entry["top_logprobs"].as_array().unwrap().iter().map(|one| one["logprob"].as_f64().unwrap()).collect();
        assert!(top.len() == 5 && top.is_sorted_by(|a, b| a >= b), "{entry}");
        assert_eq!(entry["logprob"].as_f64().unwrap(), top[0], "a greedy token is the best one");
        let sum: f64 = top.iter().map(|value| value.exp()).sum();
        // Five of 384 tokens of a random model have a part of the whole, and no more than all of it.
        assert!(sum > 5.0 / 384.0 && sum <= 1.0 + 1e-4, "{sum}");
    }
    let old = subject.complete(&json!({"logprobs": 2, "max_tokens": 3})).await;
    assert_eq!(old["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().len(), 3);
}

pub async fn log_probabilities_of_the_prompt(subject: &Subject) {
    let body = subject.completion_body(&json!({"prompt": [40, 41, 42], "echo": true, "logprobs": 1, "max_tokens": 2}));
    if subject.is_local() && subject.kind != Kind::Native {
        assert_eq!(subject.refusal(COMPLETIONS, &body).await, (400, json!(UNABLE), json!("echo")));
        return;
    }
    let reply = subject.ok(COMPLETIONS, &body).await;
    let reported = reply["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    assert!(reported.len() == 5 && reported[0].is_null() && reported[1].is_number(), "{reply}");
}

pub async fn embeddings_or_a_refusal(subject: &Subject) {
    let body = json!({"model": subject.model, "input": ["one", "two"]});
    if subject.is_local() && subject.kind != Kind::Native {
        assert_eq!(subject.refusal("/v1/embeddings", &body).await, (400, json!(UNABLE), json!("model")));
        return;
    }
    let reply = subject.ok("/v1/embeddings", &body).await;
    let vectors = reply["data"].as_array().unwrap();
    assert!(vectors.len() == 2 && vectors[0]["embedding"] != vectors[1]["embedding"]);
}

pub async fn what_nobody_knows_is_refused_by_name(subject: &Subject) {
    let (status, code, param) = subject.refusal(CHAT, &subject.chat_body(&json!({"nonsense": 1}))).await;
    assert_eq!((status, param), (400, json!("nonsense")), "{code}");
    let unknown = subject.refusal(CHAT, &subject.chat_body(&json!({"model": "nobody"}))).await;
    assert_eq!(unknown, (404, json!("model_not_found"), json!("model")));
    for (wrong, field) in [
        (json!({"temperature": 3}), "temperature"),
        (json!({"n": 0}), "n"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
    ] {
        let (status, _, param) = subject.refusal(CHAT, &subject.chat_body(&wrong)).await;
        assert_eq!((status, param), (400, json!(field)), "{wrong}");
    }
}

pub async fn limits_of_a_key_hold(subject: &Subject) {
    let limit = json!({"max_requests_per_1_minute": 2});
    subject.ok("/v1/organization/projects/proj_default/rate_limits/rl-*", &limit).await;
    let asked = subject.chat_body(&json!({"max_tokens": 1}));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(subject.post(CHAT, &asked).await.0);
    }
    assert_eq!(statuses, [200, 200, 429]);
}

pub async fn an_adapter_answers_in_its_own_words(subject: &Subject) {
    let base = subject.complete(&json!({})).await;
    let tuned = subject.complete(&json!({"model": subject.tuned})).await;
    assert_ne!(text(&base), text(&tuned));
    assert_eq!(text(&subject.complete(&json!({})).await), text(&base), "the base is as it was");
    assert_eq!(text(&subject.complete(&json!({"model": subject.tuned})).await), text(&tuned));
    let (_, models) = subject.server.get("/v1/models").await;
    let listed: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert!(listed.contains(&&json!(subject.tuned)) && listed.contains(&&json!(subject.model)), "{models}");
}

pub async fn metrics_say_who_answered(subject: &Subject) {
    subject.chat(&json!({})).await;
    let name = match subject.kind {
        Kind::Native => "native",
        Kind::Upstream => "upstream",
        #[cfg(feature = "mistralrs")]
        Kind::Mistral => "mistralrs",
    };
    let metrics = subject.read("/metrics").await;
    let lines: Vec<&str> = metrics.lines().filter(|line| line.starts_with("switchyard_backend_requests_total{")).collect();
    assert_eq!(lines, [format!("switchyard_backend_requests_total{{backend=\"{name}\"}} 1")]);
}

pub async fn answers_are_kept_where_that_is_promised(subject: &Subject) {
    let asked = subject.chat_body(&json!({}));
    let (first, second) = (subject.keepable(&asked).await, subject.keepable(&asked).await);
    let expected = if subject.is_local() { ["miss", "hit"] } else { ["bypass", "bypass"] };
    assert_eq!([first.0.as_str(), second.0.as_str()], expected);
    assert_eq!(text(&first.1), text(&second.1));
}

pub async fn a_deployment_has_arms(subject: &Subject) {
    let arms =
        json!([{"name": "old", "model": subject.model, "weight": 0}, {"name": "new", "model": subject.tuned, "weight": 100}]);
    subject.ok("/admin/deployments", &json!({"name": "shop", "arms": arms})).await;
    let tuned = subject.complete(&json!({"model": subject.tuned})).await;
    let answer = subject.complete(&json!({"model": "shop"})).await;
    assert_eq!((text(&answer), &answer["model"]), (text(&tuned), &json!("shop")));
    subject.ok("/admin/deployments/shop/weights", &json!({"weights": {"old": 100, "new": 0}})).await;
    let base = subject.complete(&json!({})).await;
    assert_eq!(text(&subject.complete(&json!({"model": "shop"})).await), text(&base), "traffic has moved");
    subject.ok("/admin/deployments/shop/rollback", &json!({})).await;
    assert_eq!(text(&subject.complete(&json!({"model": "shop"})).await), text(&tuned), "and back");
}
