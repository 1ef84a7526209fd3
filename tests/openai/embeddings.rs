//! `/v1/embeddings`: shapes, equality, metering, mistakes, and the model that hashes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use switchyard::engine::EngineConfig;

use crate::support::{BASE, Harness, KEY, Options, chat_body, merged};

const EMBEDDINGS: &str = "/v1/embeddings";
const HASH: &str = "hash-embedding-256";

fn body(input: Value) -> Value {
    json!({"model": BASE, "input": input})
}

fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    let data = answer["data"].as_array().unwrap();
    for (index, item) in data.iter().enumerate() {
        assert_eq!((&item["object"], &item["index"]), (&json!("embedding"), &json!(index)));
    }
    data.iter().map(|item| serde_json::from_value(item["embedding"].clone()).unwrap()).collect()
}

async fn one(server: &Harness, more: Value) -> Vec<f32> {
    vectors(&server.ok(EMBEDDINGS, &merged(body(json!("hello there")), &more)).await).remove(0)
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[tokio::test]
async fn embeddings_have_openais_shape_and_length_one() {
    let server = Harness::new().await;
    let reply = server.post(EMBEDDINGS, &body(json!(["hello", "you"]))).await;
    assert_eq!((reply.status.as_u16(), &reply.headers["x-adapter-version"]), (200, &"base".parse().unwrap()));
    let answer = reply.json();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!(BASE)));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 8, "total_tokens": 8}));
    let floats = vectors(&answer);
    assert_eq!(floats.len(), 2);
    for vector in &floats {
        assert!(vector.len() == 16 && (length(vector) - 1.0).abs() < 1e-5, "{vector:?}");
    }
    let encoded = server.ok(EMBEDDINGS, &merged(body(json!(["hello", "you"])), &json!({"encoding_format": "base64"}))).await;
    for (item, vector) in encoded["data"].as_array().unwrap().iter().zip(&floats) {
        let bytes = STANDARD.decode(item["embedding"].as_str().unwrap()).unwrap();
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(values, *vector);
    }
    server.idle().await;
}

#[tokio::test]
async fn a_vector_depends_on_its_text_alone() {
    // Small steps: texts are read in pieces, several in one step, beside running answers.
    let engine = EngineConfig { max_batch_tokens: 24, max_sequences: 6, kv_blocks: 24, ..EngineConfig::default() };
    let server = Harness::with(Options { engine, ..Options::default() }).await;
    let texts: Vec<String> = (0..20).map(|index| format!("{} number {index}", "some words ".repeat(index % 5))).collect();
    for pooling in ["mean", "last"] {
        let mut alone = Vec::new();
        for text in &texts {
            alone.push(vectors(&server.ok(EMBEDDINGS, &merged(body(json!(text)), &json!({"pooling": pooling}))).await).remove(0));
        }
        let chat = merged(chat_body(), &json!({"max_tokens": 60, "ignore_eos": true}));
        let asked = merged(body(json!(texts)), &json!({"pooling": pooling}));
        let (together, ..) = tokio::join!(
            server.ok(EMBEDDINGS, &asked),
            server.ok("/v1/chat/completions", &chat),
            server.ok("/v1/chat/completions", &chat)
        );
        assert_eq!(vectors(&together), alone);
    }
    server.idle().await;
}

#[tokio::test]
async fn ids_adapters_pooling_and_dimensions_mean_what_they_say() {
    let server = Harness::new().await;
    let whole = one(&server, json!({})).await;
    let ids: Vec<u32> = "hello there".bytes().map(u32::from).collect();
    assert_eq!(whole, one(&server, json!({"input": ids})).await);
    assert_eq!(whole, one(&server, json!({"input": [ids]})).await);
    assert_ne!(whole, one(&server, json!({"pooling": "last"})).await);
    server.load("support", 1).await;
    let adapted = one(&server, json!({"model": "support"})).await;
    assert_ne!(whole, adapted);
    assert_eq!(adapted, one(&server, json!({"model": "support@1"})).await);
    let cut = one(&server, json!({"dimensions": 4})).await;
    let scale = length(&whole[..4]);
    assert!((length(&cut) - 1.0).abs() < 1e-5);
    assert!(cut.iter().zip(&whole).all(|(cut, whole)| (cut - whole / scale).abs() < 1e-6), "{cut:?} {whole:?}");
    // The server's setting, where a request does not say.
    let mut options = Options::default();
    options.http.pooling = switchyard::gateway::Pooling::Last;
    let last = Harness::with(options).await;
    assert_eq!(one(&last, json!({})).await, one(&server, json!({"pooling": "last"})).await);
}

#[tokio::test]
async fn embeddings_are_metered_cached_and_limited_like_answers() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("acme", "inference").await;
    server
        .policy(
            "INSERT INTO prices (id, project_id, model, valid_from, input_nanos, cached_input_nanos, output_nanos, training_nanos, \
             created_at) VALUES ('p', '*', '*', 0, 2000000, 1000000, 9000000, 0, 1)",
        )
        .await;
    let allow = [("x-response-cache", "allow"), ("x-show-cost", "true")];
    let first = server.post_as(&key, EMBEDDINGS, &body(json!(["hello", "you"])), &allow).await;
    assert_eq!(
        (&first.headers["x-cache"], &first.headers["x-cost-usd"]),
        (&"miss".parse().unwrap(), &"0.000000016".parse().unwrap())
    );
    let again = server.post_as(&key, EMBEDDINGS, &body(json!(["hello", "you"])), &allow).await;
    assert_eq!(
        (&again.headers["x-cache"], &again.headers["x-cost-usd"]),
        (&"hit".parse().unwrap(), &"0.000000008".parse().unwrap())
    );
    assert_eq!(first.json(), again.json());
    let other = merged(body(json!(["hello", "you"])), &json!({"pooling": "last"}));
    assert_ne!(first.json(), server.post_as(&key, EMBEDDINGS, &other, &allow).await.json());
    let hashed = server.post_as(&key, EMBEDDINGS, &json!({"model": HASH, "input": "three small words"}), &allow).await;
    assert_eq!(hashed.headers["x-cost-usd"], "0.000000006");
    server.tenants.ledger().close(std::time::Duration::from_secs(5)).await;
    let export = server.get("/admin/usage/export?format=jsonl&start_time=0").await.text;
    let rows: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 4, "{export}");
    for (row, (model, input)) in rows.iter().zip([(BASE, 8), (BASE, 8), (BASE, 8), (HASH, 3)]) {
        let tokens = (&row["input_tokens"], &row["output_tokens"]);
        assert_eq!(
            (&row["endpoint"], &row["model"], tokens),
            (&json!("embeddings"), &json!(model), (&json!(input), &json!(0))),
            "{row}"
        );
        assert_eq!((&row["project_id"], &row["outcome"]), (&json!("acme"), &json!("stop")), "{row}");
    }
}

#[tokio::test]
async fn limits_count_the_tokens_of_texts() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("acme", "inference").await;
    server
        .policy("INSERT INTO limits (scope, subject, model, tokens_per_minute, version) VALUES ('project', 'acme', '*', 10, 1)")
        .await;
    for (model, large) in [(BASE, "a text of more than ten bytes"), (HASH, "a b c d e f g h i j k l")] {
        let refused = server.post_as(&key, EMBEDDINGS, &json!({"model": model, "input": large}), &[]).await;
        assert_eq!(refused.status.as_u16(), 429, "{model}: {}", refused.text);
    }
    let passed = server.post_as(&key, EMBEDDINGS, &json!({"model": HASH, "input": "a b c"}), &[]).await;
    assert_eq!(passed.headers["x-ratelimit-remaining-tokens"], "7");
}

#[tokio::test]
async fn mistakes_name_the_field() {
    let server = Harness::new().await;
    let refused = async |more: Value| {
        let reply = server.post(EMBEDDINGS, &merged(body(json!("hello")), &more)).await;
        let (status, _, code, param) = reply.error();
        (status, code.as_str().unwrap_or_default().to_owned(), param.as_str().unwrap_or_default().to_owned())
    };
    let expected = |status: u16, code: &str, param: &str| (status, code.to_owned(), param.to_owned());
    assert_eq!(refused(json!({"input": null})).await, expected(400, "missing_required_parameter", "input"));
    assert_eq!(refused(json!({"input": ""})).await, expected(400, "empty_string", "input"));
    assert_eq!(refused(json!({"input": ["a", ""]})).await, expected(400, "empty_string", "input[1]"));
    assert_eq!(refused(json!({"input": [[1], []]})).await, expected(400, "empty_string", "input[1]"));
    assert_eq!(refused(json!({"input": []})).await, expected(400, "empty_array", "input"));
    assert_eq!(refused(json!({"input": [1, 999]})).await, expected(400, "value_out_of_range", "input[1]"));
    assert_eq!(refused(json!({"input": "x".repeat(600)})).await, expected(400, "context_length_exceeded", "input"));
    assert_eq!(refused(json!({"dimensions": 17})).await, expected(400, "value_out_of_range", "dimensions"));
    assert_eq!(refused(json!({"dimensions": 0})).await, expected(400, "value_out_of_range", "dimensions"));
    assert_eq!(refused(json!({"encoding_format": "int8"})).await, expected(400, "invalid_value", "encoding_format"));
    assert_eq!(refused(json!({"pooling": "max"})).await, expected(400, "invalid_value", "pooling"));
    assert_eq!(
        refused(json!({"truncate_prompt_tokens": 5})).await,
        expected(400, "unsupported_parameter", "truncate_prompt_tokens")
    );
    assert_eq!(refused(json!({"colour": "red"})).await, expected(400, "unknown_parameter", "colour"));
    assert_eq!(refused(json!({"model": "nobody"})).await, expected(404, "model_not_found", "model"));
    assert_eq!(refused(json!({"model": HASH, "input": [1, 2]})).await, expected(400, "invalid_type", "input"));
    for (field, value) in [("pooling", json!("mean")), ("add_special_tokens", json!(false))] {
        assert_eq!(refused(json!({"model": HASH, field: value})).await, expected(400, "unsupported_parameter", field));
    }
    let long = "a ".repeat(8193);
    assert_eq!(refused(json!({"model": HASH, "input": ["a", long]})).await, expected(400, "context_length_exceeded", "input"));
    assert_eq!(refused(json!({"model": HASH, "dimensions": 257})).await, expected(400, "value_out_of_range", "dimensions"));
    let chat = server.post("/v1/chat/completions", &merged(chat_body(), &json!({"model": HASH}))).await;
    assert_eq!(chat.error().2, json!("model_not_supported"));
    assert!(chat.message().contains("/v1/embeddings"));
    server.idle().await;
}

#[tokio::test]
async fn the_hash_is_a_model_of_its_own() {
    let server = Harness::new().await;
    let asked = json!({"model": HASH, "input": ["Remind me to call mum", "remind me to call Mum!", "the market fell"]});
    let answer = server.ok(EMBEDDINGS, &asked).await;
    assert_eq!((&answer["model"], &answer["usage"]["prompt_tokens"]), (&json!(HASH), &json!(5 + 6 + 3)));
    let [one, same, other] = &vectors(&answer)[..] else { panic!("{answer}") };
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    assert!(one.len() == 256 && near(one, same) > 0.8 && near(one, other) < 0.3, "{} {}", near(one, same), near(one, other));
    let short = server.ok(EMBEDDINGS, &merged(asked, &json!({"dimensions": 32}))).await;
    assert!(vectors(&short).iter().all(|vector| vector.len() == 32 && (length(vector) - 1.0).abs() < 1e-5));
    let models = server.get("/v1/models").await.json();
    assert_eq!(models["data"].as_array().unwrap().last().unwrap()["id"], HASH);
    let card = server.get(&format!("/v1/models/{HASH}")).await.json();
    assert_eq!((&card["owned_by"], &card["max_model_len"]), (&json!("switchyard"), &json!(8192)));
    // Long texts take turns.
    let long = json!({"model": HASH, "input": "word ".repeat(8192)});
    let answers = futures::future::join_all((0..5).map(|_| server.ok(EMBEDDINGS, &long))).await;
    assert!(answers.iter().all(|answer| answer["data"] == answers[0]["data"]));
    // A request is repeated like any other.
    let again = [("idempotency-key", "one")];
    let small = json!({"model": HASH, "input": "x"});
    let first = server.post_as(KEY, EMBEDDINGS, &small, &again).await;
    let second = server.post_as(KEY, EMBEDDINGS, &small, &again).await;
    assert_eq!((first.status.as_u16(), &first.text), (200, &second.text), "{}", first.text);
    assert_eq!(second.headers["idempotent-replayed"], "true");
    let chat = server.post_as(KEY, "/v1/chat/completions", &merged(chat_body(), &json!({"model": HASH})), &again).await;
    assert_eq!(chat.error().2, json!("idempotency_key_reused"));
    // A key for another model does not see it.
    let (key, id) = server.key_for("acme", "inference").await;
    let mut transaction = server.tenants.database().begin().await.unwrap();
    sqlx::query("UPDATE keys SET models = $1 WHERE id = $2")
        .bind(format!("[{BASE:?}]"))
        .bind(id)
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit_policy().await.unwrap();
    server.tenants.refresh().await.unwrap();
    let refused = server.post_as(&key, EMBEDDINGS, &json!({"model": HASH, "input": "x"}), &[]).await;
    assert_eq!(refused.status.as_u16(), 404, "{}", refused.text);
    assert_eq!(
        server.call(axum::http::Method::GET, "/v1/models", None, &key, &[]).await.json()["data"].as_array().unwrap().len(),
        1
    );
    // Whoever puts an adapter of that name into service means it.
    server.load(HASH, 3).await;
    let adapter = server.post_as(KEY, EMBEDDINGS, &json!({"model": HASH, "input": "x"}), &[]).await;
    assert_eq!(vectors(&adapter.json())[0].len(), 16);
}
