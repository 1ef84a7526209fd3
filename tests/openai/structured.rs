//! Answers that keep to a form, whole and streamed.

use serde_json::{Value, json};

use crate::corpus;
use crate::support::{Harness, Options, SeededOptions, chat_body, completion_body, merged};
use crate::validator::validate;

/// Whether an answer has its form.
type Holds = fn(&str) -> bool;

const CHAT: &str = "/v1/chat/completions";

fn person() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": {
        "type": "object", "additionalProperties": false, "required": ["name", "age", "tags", "kind"],
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"type": "string"}},
            "kind": {"enum": ["a", "b\"c"]},
        },
    }}})
}

fn check_person(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["name", "age", "tags", "kind"]);
    assert!(value["name"].is_string() && (0..=150).contains(&value["age"].as_i64().unwrap()), "{text}");
    assert!(value["tags"].as_array().unwrap().iter().all(Value::is_string), "{text}");
    assert!(["a", "b\"c"].contains(&value["kind"].as_str().unwrap()), "{text}");
}

#[tokio::test]
async fn a_schema_is_kept_to_whole_and_streamed_also_where_the_room_runs_out() {
    let server = Harness::new().await;
    for seed in 0..8 {
        let more = json!({"response_format": person(), "temperature": 1, "seed": seed, "max_tokens": 160, "n": 2});
        let body = merged(chat_body(), &more);
        let whole = server.ok(CHAT, &body).await;
        let texts: Vec<&str> = (0..2).map(|index| whole["choices"][index]["message"]["content"].as_str().unwrap()).collect();
        texts.iter().for_each(|text| check_person(text));
        assert_eq!(whole["choices"][0]["finish_reason"], "stop", "{whole}");
        let mut streamed = [String::new(), String::new()];
        for event in server.events(CHAT, body).await {
            let choice = &event["choices"][0];
            let index = choice["index"].as_u64().unwrap();
            streamed[usize::try_from(index).unwrap()].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        }
        assert_eq!(streamed, [texts[0], texts[1]]);
    }
}

#[tokio::test]
async fn an_answer_has_at_least_half_of_its_room_before_it_is_brought_to_its_end() {
    let server = Harness::new().await;
    let form = json!({"response_format": {"type": "json_object"}, "temperature": 1, "logprobs": true});
    for seed in 0..8 {
        let answer = server.chat(&merged(form.clone(), &json!({"seed": seed, "max_tokens": 100}))).await;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(serde_json::from_str::<Value>(text).unwrap().is_object(), "{text}");
    }
}

/// 274 schemas, sampled at temperature 1 from a random model, each answer checked by a validator that knows nothing of grammars.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_schema_of_the_corpus_is_kept_to() {
    let model = SeededOptions { context: 1024, ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    let schemas = corpus::schemas();
    assert!(schemas.len() >= 200);
    let mut cut = 0;
    for (index, schema) in schemas.iter().enumerate() {
        let form = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        let more = json!({"response_format": form, "temperature": 1, "seed": index, "max_tokens": 800});
        let answer = server.chat(&more).await;
        let choice = &answer["choices"][0];
        if choice["finish_reason"] == "length" {
            cut += 1;
            continue;
        }
        let text = choice["message"]["content"].as_str().unwrap();
        let value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {schema}: {text}"));
        validate(schema, &value).unwrap_or_else(|error| panic!("{error}: {schema}: {text}"));
    }
    assert!(cut * 20 < schemas.len(), "{cut} of {} were cut", schemas.len());
}

#[tokio::test]
async fn other_forms_are_kept_to_on_both_routes() {
    let server = Harness::new().await;
    let cases: [(Value, Holds); 4] = [
        (json!({"guided_choice": ["yes", "no", "ma\"y\nbe"]}), |text| ["yes", "no", "ma\"y\nbe"].contains(&text)),
        (json!({"guided_regex": "[a-c]{3}/[0-9]+"}), |text| {
            text.len() > 4 && text[..3].bytes().all(|byte| (b'a'..=b'c').contains(&byte)) && text[4..].parse::<f64>().is_ok()
        }),
        (json!({"guided_grammar": "start: \"<\" WORD \">\"\nWORD: /[a-z]{2,5}/"}), |text| {
            text.starts_with('<') && text.ends_with('>') && (4..=7).contains(&text.len())
        }),
        (json!({"guided_json": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}}), |text| {
            (2..=3).contains(&serde_json::from_str::<Vec<bool>>(text).unwrap().len())
        }),
    ];
    for (form, holds) in cases {
        for seed in 0..3 {
            let more = merged(form.clone(), &json!({"temperature": 1, "seed": seed, "max_tokens": 60}));
            let chat = server.chat(&more).await;
            let text = chat["choices"][0]["message"]["content"].as_str().unwrap();
            assert!(holds(text), "{form}: {text}");
            let completion = server.ok("/v1/completions", &merged(completion_body(), &more)).await;
            let text = completion["choices"][0]["text"].as_str().unwrap();
            assert!(holds(text), "{form}: {text}");
        }
    }
}

#[tokio::test]
async fn a_schema_that_cannot_be_kept_to_is_refused_with_its_place() {
    let server = Harness::new().await;
    let refused = |schema: Value, strict: bool| {
        merged(
            chat_body(),
            &json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": strict, "schema": schema}}}),
        )
    };
    let cases = [
        (json!({"type": "object", "properties": {"a": {"not": {}}}}), false, "#/properties/a/not"),
        (json!({"type": "object", "properties": {"a": {"type": "string"}}}), true, "additionalProperties"),
        (json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}}}), false, "(?=x)"),
        (
            json!({"type": "object", "properties": {"a": {"minimum": 3, "maximum": 2, "type": "integer"}}, "required": ["a"]}),
            false,
            "nsatisfiable",
        ),
    ];
    for (schema, strict, says) in cases {
        let reply = server.post(CHAT, &refused(schema, strict)).await;
        let (status, kind, code, param) = reply.error();
        assert_eq!((status, kind.as_str(), code), (400, "invalid_request_error", json!("invalid_schema")), "{}", reply.text);
        assert_eq!(param, "response_format.json_schema.schema");
        assert!(reply.message().contains(says), "{}", reply.text);
    }
}

#[tokio::test]
async fn a_hostile_grammar_is_refused_in_time_and_harms_nobody() {
    let server = Harness::new().await;
    let hostile = [
        json!({"guided_grammar": format!("start: {}\"a\"{}", "(".repeat(50_000), ")".repeat(50_000))}),
        json!({"guided_regex": "((a{1,1000}){1,1000}){1,1000}"}),
        json!({"guided_regex": "a?".repeat(1000)}),
        json!({"guided_grammar": format!("start: /{}/", "a?".repeat(32_000))}),
        json!({"guided_grammar": "start: F\nF: E E E E E E E E\nE: D D D D D D D D\nD: C C C C C C C C\nC: B B B B B B B B\nB: A A A A A A A A\nA: /a?/"}),
        json!({"guided_regex": "(a?){2000}b".repeat(20)}),
        json!({"guided_json": {"type": "array", "items": {"type": "array", "minItems": 100_000, "items": {"type": "array", "minItems": 100_000}}, "minItems": 1_000_000}}),
    ];
    for form in hostile {
        let began = std::time::Instant::now();
        let reply = server.post(CHAT, &merged(chat_body(), &form)).await;
        assert!(matches!(reply.status.as_u16(), 400 | 200), "{}", reply.text);
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }
    server.chat(&json!({})).await;
}

#[tokio::test]
async fn forms_are_compiled_only_for_those_who_may_ask() {
    let server = Harness::new().await;
    let key = server.key_of("acme").await;
    let limit = "INSERT INTO limits (scope, subject, model, requests_per_minute, burst, version) \
                 VALUES ('project', 'acme', '*', 1, 3, 1)";
    server.policy(limit).await;
    let ask = async |form: &str| {
        let body = merged(chat_body(), &json!({"guided_grammar": form}));
        let reply = server.post_as(&key, CHAT, &body, &[]).await;
        (reply.status.as_u16(), reply.message())
    };
    let (status, message) = ask("start: nothing").await;
    assert_eq!(status, 400, "{message}");
    assert_eq!(ask("start: nothing").await, (400, message), "it is refused as before");
    assert_eq!(ask("start: none").await.0, 400);
    // Each was a request; what it would have to say is not looked at any more.
    for form in ["start: nothing", "start: never"] {
        let (status, message) = ask(form).await;
        assert_eq!(status, 429, "{message}");
    }
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grammar_that_ends_nowhere_is_the_callers_mistake_and_costs_what_was_done() {
    let server = Harness::new().await;
    server
        .policy(
            "INSERT INTO prices (id, project_id, model, valid_from, input_nanos, cached_input_nanos, output_nanos, training_nanos, \
             created_at) VALUES ('price_1', '*', '*', 0, 1000000, 1000000, 2000000, 0, 0)",
        )
        .await;
    // What it can be followed through is known only on the way; a stream has given its beginning by then.
    let form = json!({"guided_regex": "a?".repeat(1000), "max_tokens": 200});
    let reply = server.post(CHAT, &merged(chat_body(), &form)).await;
    assert_eq!(reply.status, 400, "{}", reply.text);
    let (_, _, code, param) = reply.error();
    assert_eq!((code, param), (json!("invalid_schema"), json!("guided_regex")));
    server.tenants.ledger().flush().await;
    let sql = "SELECT outcome, input_tokens, output_tokens, cost_nanos FROM ledger";
    let row: (String, i64, i64, i64) = sqlx::query_as(sql).fetch_one(server.tenants.database().pool()).await.unwrap();
    let (outcome, input, output, cost) = row;
    assert_eq!((outcome.as_str(), cost), ("refused", input + 2 * output));
    assert!(output > 0);
}
